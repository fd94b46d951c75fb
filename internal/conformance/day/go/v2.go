//go:build !v1

package main

import (
	"context"
	"fmt"
	"net/http/httptrace"
	"os"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
)

// keys returns a function that asks the SDK for credentials: of its default
// chain, or of the provider for containers with a cache that nobody gave a window.
// It counts the HTTP requests of either.
func keys(ctx context.Context, how string, requests *atomic.Int64) (func(context.Context) (string, error), error) {
	var provider aws.CredentialsProvider
	switch how {
	case "chain":
		cfg, err := config.LoadDefaultConfig(ctx)
		if err != nil {
			return nil, err
		}
		provider = cfg.Credentials
	case "container":
		provider = aws.NewCredentialsCache(endpointcreds.New(os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI"), func(o *endpointcreds.Options) {
			o.AuthorizationToken = os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN")
		}))
	default:
		return nil, fmt.Errorf("no way %q to credentials", how)
	}
	trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { requests.Add(1) }}
	return func(ctx context.Context) (string, error) {
		c, err := provider.Retrieve(httptrace.WithClientTrace(ctx, trace))
		return c.AccessKeyID, err
	}, nil
}
