// Command list is the first Go SDK as a client of the broker.
//
//	list ENDPOINT BUCKET [SECONDS]
//
// It prints the names of the bucket's objects, one a line. With SECONDS it
// lists ten times a second with one client for so long, without retries, and
// prints {"calls": N, "key_ids": N, "failures": ["...", ...]}.
//
// It is a module of its own so that the SDK is no dependency of stsbroker.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go/aws"
	"github.com/aws/aws-sdk-go/aws/session"
	"github.com/aws/aws-sdk-go/service/s3"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "list:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: list ENDPOINT BUCKET [SECONDS]")
	}
	// Without the shared config this SDK sees the credentials file only, and no
	// credential_process of a config file.
	sess, err := session.NewSessionWithOptions(session.Options{SharedConfigState: session.SharedConfigEnable})
	if err != nil {
		return err
	}
	client := s3.New(sess, &aws.Config{Endpoint: &args[0], S3ForcePathStyle: aws.Bool(true), MaxRetries: aws.Int(0)})
	keyIDs := map[string]bool{}
	names := func() ([]string, error) {
		req, out := client.ListObjectsV2Request(&s3.ListObjectsV2Input{Bucket: &args[1]})
		if err := req.Send(); err != nil {
			return nil, err
		}
		// "… Credential=KEY/20261122/us-east-1/s3/aws4_request, …"
		_, after, _ := strings.Cut(req.HTTPRequest.Header.Get("Authorization"), "Credential=")
		id, _, _ := strings.Cut(after, "/")
		keyIDs[id] = true
		var names []string
		for _, o := range out.Contents {
			names = append(names, aws.StringValue(o.Key))
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
