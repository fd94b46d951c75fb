// Command list is minio-go as a client of the broker.
//
//	list ENDPOINT BUCKET [SECONDS]
//
// It prints the names of the bucket's objects, one a line. With SECONDS it
// lists ten times a second with one client for so long, without retries, and
// prints {"calls": N, "key_ids": N, "failures": ["...", ...]}.
//
// It is a module of its own so that minio-go is no dependency of stsbroker.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
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
	endpoint, err := url.Parse(args[0])
	if err != nil {
		return err
	}
	keyIDs := keyIDSet{}
	client, err := minio.New(endpoint.Host, &minio.Options{
		// This library has no chain of its own; programs make about this one.
		Creds:        credentials.NewChainCredentials([]credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{}}),
		Region:       os.Getenv("AWS_REGION"), // nor does it read the region
		BucketLookup: minio.BucketLookupPath,
		MaxRetries:   1,
		Transport:    keyIDs,
	})
	if err != nil {
		return err
	}
	names := func() ([]string, error) {
		var names []string
		for o := range client.ListObjects(ctx, args[1], minio.ListObjectsOptions{}) {
			if o.Err != nil {
				return nil, o.Err
			}
			names = append(names, o.Key)
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

// keyIDSet is a transport that remembers which keys signed its requests:
// "… Credential=KEY/20261122/us-east-1/s3/aws4_request, …".
type keyIDSet map[string]bool

func (s keyIDSet) RoundTrip(r *http.Request) (*http.Response, error) {
	if _, after, ok := strings.Cut(r.Header.Get("Authorization"), "Credential="); ok {
		id, _, _ := strings.Cut(after, "/")
		s[id] = true
	}
	return http.DefaultTransport.RoundTrip(r)
}
