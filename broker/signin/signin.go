// Package signin makes the address that signs a browser in to the AWS console
// with session credentials, as the IAM user guide has it ("Enable custom identity
// broker access to the AWS console"): the credentials are exchanged for a sign-in
// token, and the token is part of the address.
//
// The credentials travel in the body of a POST and in no address; the address
// that comes out is as good as a password for the 15 minutes that AWS takes it.
package signin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

const (
	defaultTimeout = 15 * time.Second
	maxAnswer      = 64 << 10
	// issuer is where the console sends people whose session has ended.
	issuer = "https://github.com/stsbroker/stsbroker"
)

// What SessionDuration may be: IAM user guide.
const (
	minDuration = 15 * time.Minute
	maxDuration = 12 * time.Hour
)

// Options are how to reach AWS. The zero value is the system's roots and no proxy.
type Options struct {
	RootCAs *x509.CertPool
	Proxy   func(*http.Request) (*url.URL, error) // toward https endpoints only; nil for none
	Timeout time.Duration                         // of the whole exchange; 0 is 15 s
}

// Request is what to sign in with, and where to.
type Request struct {
	Endpoint        string // see [Site]
	AccessKeyID     string
	SecretAccessKey broker.Secret
	SessionToken    broker.Secret
	Destination     string // the page to show
	// Duration is how long the console's session may last, cut to the 12 hours that
	// AWS takes. Zero, and less than the 15 minutes that it takes at least, leaves it
	// to AWS: the session then ends with the credentials. It must be zero for
	// GetFederationToken's, with which AWS refuses any duration.
	Duration time.Duration
}

// Client asks for sign-in tokens.
type Client struct {
	http    http.Client
	timeout time.Duration
}

// New returns a client. It speaks TLS 1.2 or later and follows no redirect.
func New(o Options) *Client {
	timeout := o.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	return &Client{timeout: timeout, http: http.Client{
		Transport: &http.Transport{
			Proxy: func(r *http.Request) (*url.URL, error) {
				if o.Proxy == nil || r.URL.Scheme != "https" { // loopback: never hand it to a proxy in the clear
					return nil, nil
				}
				proxy, err := o.Proxy(r)
				if err != nil { // it quotes the whole variable, and so a password in it
					return nil, failure("HTTPS_PROXY is not the address of a proxy; mend or unset it")
				}
				return proxy, nil
			},
			OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, r *http.Response) error {
				if r.StatusCode != http.StatusOK {
					return failure(fmt.Sprintf("the proxy of HTTPS_PROXY refuses the connection (HTTP %d)", r.StatusCode))
				}
				return nil
			},
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs},
			DisableCompression:     true,
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: maxAnswer,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// failure is an error in our own words alone. What the other end sent is in no
// error: it has had the credentials and might give them back.
type failure string

func (f failure) Error() string { return string(f) }

// refused is how AWS answers credentials, or a duration, that it does not take.
type refused struct{ failure }

// URL exchanges the credentials for a sign-in token and returns the address that
// opens the console. The error is one line that names the host and what to do, and
// holds no secret; it is the context's own where that was cancelled.
//
// AWS takes a duration only with credentials of a role that long-term keys, an
// assertion or a web identity gave, and does not tell which it takes them for: where
// it refuses, it is asked again without.
func (c *Client) URL(ctx context.Context, r Request) (broker.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if r.Duration < minDuration {
		r.Duration = 0
	}
	token, err := c.token(ctx, r)
	if r.Duration > 0 && errors.As(err, new(refused)) {
		r.Duration = 0
		token, err = c.token(ctx, r)
	}
	switch {
	case err == nil:
		return broker.NewSecret(r.Endpoint + "?" + url.Values{
			"Action": {"login"}, "Issuer": {issuer}, "Destination": {r.Destination}, "SigninToken": {token},
		}.Encode()), nil
	case errors.Is(ctx.Err(), context.Canceled):
		return broker.Secret{}, context.Cause(ctx)
	}
	host := r.Endpoint
	if u, bad := url.Parse(r.Endpoint); bad == nil {
		host = u.Host
	}
	return broker.Secret{}, fmt.Errorf("AWS's sign-in (%s) gave no token for the console: %w", host, c.explain(err))
}

// token is the exchange itself. The answer is not signed by anything but TLS, and
// the token is opaque: it is taken if it could be one.
func (c *Client) token(ctx context.Context, r Request) (string, error) {
	session, err := json.Marshal(map[string]string{
		"sessionId": r.AccessKeyID, "sessionKey": r.SecretAccessKey.Reveal(), "sessionToken": r.SessionToken.Reveal(),
	})
	if err != nil {
		return "", err
	}
	form := url.Values{"Action": {"getSigninToken"}, "Session": {string(session)}}
	if r.Duration > 0 {
		form.Set("SessionDuration", strconv.Itoa(int(min(r.Duration, maxDuration)/time.Second)))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.Endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return "", failure("its address is not one")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := c.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
	case code >= 300 && code < 400:
		return "", failure(fmt.Sprintf("it answered with a redirect (HTTP %d), which is never followed", code))
	case code == http.StatusTooManyRequests, code >= 500:
		return "", failure(fmt.Sprintf("it is not able to answer now (HTTP %d); try again", code))
	case code == http.StatusBadRequest, code == http.StatusUnauthorized, code == http.StatusForbidden:
		return "", refused{failure(fmt.Sprintf("it refuses the credentials (HTTP %d): AWS takes those of roles and of federated users, while they are good", code))}
	default:
		return "", failure(fmt.Sprintf("it answered with HTTP %d; check for a proxy or a portal that answers in its place", code))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return "", err
	}
	if len(body) > maxAnswer {
		return "", failure(fmt.Sprintf("its answer is longer than %d KB", maxAnswer>>10))
	}
	var answer struct{ SigninToken string }
	if json.Unmarshal(body, &answer) != nil || answer.SigninToken == "" {
		return "", failure("there is none in its answer; try again, and check for a proxy or a portal that answers in its place")
	}
	return answer.SigninToken, nil
}

// explain says why there was no answer, without a word of the other end's.
func (c *Client) explain(err error) error {
	var own failure
	var no refused
	var certificate *tls.CertificateVerificationError
	var network *net.OpError
	var timeout net.Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &no):
		return no
	case errors.As(err, &certificate):
		return failure("its certificate is not trusted: " + certificate.Err.Error() + "; AWS_CA_BUNDLE names a file of authorities to trust")
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return failure(fmt.Sprintf("no answer within %s; check the network, and HTTPS_PROXY where one is needed", c.timeout))
	case errors.As(err, &network):
		return failure("it cannot be reached: " + network.Error() + "; check the network, and HTTPS_PROXY where one is needed")
	}
	return failure("what answers there does not speak HTTPS as AWS does; check for a proxy or a portal that answers in its place")
}
