//go:build v1

package main

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/aws/aws-sdk-go/aws/session"
)

// counting makes requests as everybody else does, and counts them. Those for the
// container endpoint do not carry the caller's context.
type counting struct {
	http.RoundTripper
	requests *atomic.Int64
}

func (c counting) RoundTrip(r *http.Request) (*http.Response, error) {
	c.requests.Add(1)
	return c.RoundTripper.RoundTrip(r)
}

// keys returns a function that asks the default chain for credentials.
func keys(_ context.Context, how string, requests *atomic.Int64) (func(context.Context) (string, error), error) {
	if how != "chain" {
		return nil, fmt.Errorf("no way %q to credentials", how)
	}
	http.DefaultTransport = counting{http.DefaultTransport, requests}
	s, err := session.NewSession()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (string, error) {
		c, err := s.Config.Credentials.GetWithContext(ctx)
		return c.AccessKeyID, err
	}, nil
}
