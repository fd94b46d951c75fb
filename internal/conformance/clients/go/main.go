// Command list is the Go SDK as a client of the broker.
//
//	list ENDPOINT BUCKET [SECONDS]
//
// It prints the names of the bucket's objects, one a line. With SECONDS it
// lists ten times a second with one client for so long, without retries, and
// prints {"calls": N, "key_ids": N, "failures": ["...", ...]}.
//
// It is a module of its own so that the S3 client is no dependency of stsbroker.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "list:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: list ENDPOINT BUCKET [SECONDS]")
	}
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return err
	}
	keyIDs := keyIDSet{}
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.BaseEndpoint = &args[0]
		o.UsePathStyle = true
		o.Retryer = aws.NopRetryer{}
		o.HTTPClient = keyIDs
	})
	names := func() ([]string, error) {
		out, err := client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &args[1]})
		if err != nil {
			return nil, err
		}
		var names []string
		for _, o := range out.Contents {
			names = append(names, aws.ToString(o.Key))
		}
		return names, nil
	}
	if len(args) == 2 {
		all, err := names()
		if err != nil {
			return err
		}
		fmt.Println(strings.Join(all, "\n"))
		return nil
	}
	life, err := time.ParseDuration(args[2] + "s")
	if err != nil {
		return err
	}
	calls, failures := 0, []string{}
	for end := time.Now().Add(life); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		calls++
		if _, err := names(); err != nil {
			failures = append(failures, err.Error())
		}
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"calls": calls, "key_ids": len(keyIDs), "failures": failures})
}

// keyIDSet is an HTTP client that remembers which keys signed its requests:
// "… Credential=KEY/20261122/us-east-1/s3/aws4_request, …".
type keyIDSet map[string]bool

func (s keyIDSet) Do(r *http.Request) (*http.Response, error) {
	if _, after, ok := strings.Cut(r.Header.Get("Authorization"), "Credential="); ok {
		id, _, _ := strings.Cut(after, "/")
		s[id] = true
	}
	return http.DefaultClient.Do(r)
}
