package awssts

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	awsxml "github.com/aws/aws-sdk-go-v2/aws/protocol/xml"
	"github.com/aws/smithy-go"
)

const (
	maxAnswer   = 64 << 10
	idleTimeout = 5 * time.Second // a call an hour: a kept connection only costs memory
	// connectTimeout is how long a region may take to connect to when there are
	// others to ask.
	connectTimeout = time.Second
)

// transport is the SDK's HTTP client: bounded answers, no redirects, TLS 1.2
// or later, HTTP/1.1 (the buffers of HTTP/2 cost more than they save here).
type transport struct{ client http.Client }

func newTransport(o Options) *transport {
	proxy := o.Proxy
	if proxy != nil {
		proxy = func(r *http.Request) (*url.URL, error) {
			if r.URL.Scheme != "https" { // loopback: never hand it to a proxy in the clear
				return nil, nil
			}
			return o.Proxy(r)
		}
	}
	return &transport{http.Client{
		Transport: &http.Transport{
			Proxy:                  proxy,
			DialContext:            dialer(o),
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs},
			DisableCompression:     true,
			MaxIdleConns:           4,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        idleTimeout,
			MaxResponseHeaderBytes: maxAnswer,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func dialer(o Options) func(ctx context.Context, network, addr string) (net.Conn, error) {
	if len(o.Fallback) == 0 {
		return o.Dial
	}
	dial := o.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		return dial(ctx, network, addr)
	}
}

// exchange is what one call learns beside its result. It travels in the
// call's context, and one goroutine at a time uses it.
type exchange struct {
	sent, received time.Time // this host's clock
	date           time.Time // the answer's Date; zero when there was none
	signed         time.Time // X-Amz-Date of the request; zero for unsigned calls
	status         int
	body           []byte // of an answer that is an error
	code, words    string // of the issuer's error; "" when there is none
	site           Site
}

type exchangeKey struct{}

// refusal says why an answer was not read.
type refusal string

func (r refusal) Error() string { return string(r) }

// Do implements the SDK's HTTPClient.
func (t *transport) Do(r *http.Request) (*http.Response, error) {
	x, _ := r.Context().Value(exchangeKey{}).(*exchange)
	if x == nil {
		x = &exchange{}
	}
	x.signed, _ = time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	x.sent = time.Now()
	resp, err := t.client.Do(r)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the caller names the endpoint itself
		}
		return nil, err
	}
	defer resp.Body.Close()
	x.received, x.status = time.Now(), resp.StatusCode
	x.date, _ = http.ParseTime(resp.Header.Get("Date"))
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return nil, refusal(fmt.Sprintf("it answered with a redirect (HTTP %d), which is never followed", resp.StatusCode))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		x.status = 0 // an answer that breaks off is none
		return nil, err
	}
	if len(body) > maxAnswer {
		return nil, refusal(fmt.Sprintf("its answer is longer than %d KB", maxAnswer>>10))
	}
	if resp.StatusCode >= 400 {
		x.body = body
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return resp, nil
}

// maxDrift is how far a signing clock may be off before a signature error is
// blamed on it. STS allows 15 minutes, other services and stores 5.
const maxDrift = 4 * time.Minute

// skewed reports whether the call failed for the clock that signed it. The SDK
// has stored the answer's offset in its client by now, as it does for every
// answer, but with its retries off it leaves the second try to us.
func (x *exchange) skewed() bool {
	switch x.code {
	case "SignatureDoesNotMatch", "RequestTimeTooSkewed", "InvalidSignatureException", "RequestExpired", "AuthFailure":
		return !x.signed.IsZero() && !x.date.IsZero() && x.signed.Sub(x.date).Abs() > maxDrift
	}
	return false
}

// durationRefused reports whether the issuer found the duration too long. It
// says so in words alone: the code is that of any validation error.
func (x *exchange) durationRefused() bool {
	switch x.code {
	case "ValidationError", "ValidationException", "InvalidParameterValue":
		words := strings.ToLower(x.words)
		return strings.Contains(words, "durationseconds") || strings.Contains(words, "maxsessionduration")
	}
	return false
}

// explain notes the issuer's code, and finds it in an error that is not
// wrapped as STS's are: S3-compatible stores answer in their S3 shape, and some
// stand-ins of AWS in EC2's.
func (x *exchange) explain(err error) error {
	var e smithy.APIError
	if !errors.As(err, &e) {
		return err
	}
	if e.ErrorCode() == "UnknownError" {
		got, bad := awsxml.GetErrorResponseComponents(bytes.NewReader(x.body), true)
		if bad != nil || got.Code == "" {
			var listed struct {
				Code      string `xml:"Errors>Error>Code"`
				Message   string `xml:"Errors>Error>Message"`
				RequestID string
			}
			if xml.Unmarshal(x.body, &listed) != nil || listed.Code == "" {
				return err
			}
			got = awsxml.ErrorComponents(listed)
		}
		store := &storeError{smithy.GenericAPIError{Code: got.Code, Message: got.Message}, got.RequestID, x.status}
		e, err = store, store
	}
	x.code, x.words = e.ErrorCode(), e.ErrorMessage()
	return err
}

// storeError is an error in the shape of S3's or EC2's.
type storeError struct {
	smithy.GenericAPIError
	requestID string
	status    int
}

// now is the time on the issuer's clock, never earlier than it really is, so
// that a lifetime computed from it is never too long.
//
// While the answer's Date lies between sending and receiving, give or take
// what truncation and slewing cost, this host's clock is right and more exact.
// Otherwise the Date, which is cut to whole seconds and was written at some
// time after the request went out, gives the latest time it can be.
func (x *exchange) now() time.Time {
	const tolerance = 1500 * time.Millisecond
	host := time.Now()
	if x.date.IsZero() || (!x.date.Before(x.sent.Add(-tolerance)) && !x.date.After(x.received.Add(tolerance))) {
		return host
	}
	return x.date.Add(time.Second + host.Sub(x.sent))
}
