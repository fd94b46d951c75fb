package awsiam

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/stsbroker/stsbroker/broker"
)

const (
	maxAnswer   = 64 << 10
	idleTimeout = 5 * time.Second

	// maxDrift is how far a signing clock may be off before a signature error is
	// blamed on it. AWS's services allow 5 minutes or 15.
	maxDrift = 4 * time.Minute
)

func newHTTP(o Options) http.Client {
	proxy := o.Proxy
	if proxy != nil {
		proxy = func(r *http.Request) (*url.URL, error) {
			if r.URL.Scheme != "https" { // loopback: never hand it to a proxy in the clear
				return nil, nil
			}
			return o.Proxy(r)
		}
	}
	return http.Client{
		Transport: &http.Transport{
			Proxy:                  proxy,
			DialContext:            o.Dial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs},
			DisableCompression:     true,
			MaxIdleConns:           2,
			IdleConnTimeout:        idleTimeout,
			MaxResponseHeaderBytes: maxAnswer,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// call makes one call and, when it was refused because this host's clock is wrong,
// one more, by the clock of the answer. into may be nil.
func (s service) call(ctx context.Context, c *Client, action string, m broker.Material, params url.Values, into any) error {
	params.Set("Action", action)
	params.Set("Version", s.version)
	body := params.Encode()
	var ahead time.Duration
	for try := 0; ; try++ {
		a, err := s.send(ctx, c, m, body, time.Now().Add(ahead))
		if err == nil && a.status == http.StatusOK {
			if into != nil && xml.Unmarshal(a.body, into) != nil { // its error would quote the body, which may hold a secret
				err = refusal("it cannot be read")
			}
			clear(a.body)
			if err == nil {
				return nil
			}
		}
		if err != nil {
			return s.unanswered(action, err, m)
		}
		e := a.error()
		if drift, is := a.skewed(e.Code); try == 0 && is {
			ahead = drift
			continue
		}
		return s.refused(action, a.status, e, m)
	}
}

type answer struct {
	status       int
	body         []byte
	signed, date time.Time // date is the answer's; zero when there was none
}

// refusal says why an answer was not read.
type refusal string

func (r refusal) Error() string { return string(r) }

func (s service) send(ctx context.Context, c *Client, m broker.Material, body string, at time.Time) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if r.URL.Path == "" {
		r.URL.Path = "/"
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("User-Agent", "stsbroker")
	hash := sha256.Sum256([]byte(body))
	creds := aws.Credentials{AccessKeyID: m.AccessKeyID, SecretAccessKey: m.SecretAccessKey.Reveal(), SessionToken: m.SessionToken.Reveal()}
	// A signer of its own for each call: it keeps derived keys by key id.
	if err := v4.NewSigner().SignHTTP(ctx, creds, r, hex.EncodeToString(hash[:]), s.name, s.region, at.UTC()); err != nil {
		return answer{}, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the caller names the endpoint itself
		}
		return answer{}, err
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, signed: at}
	a.date, _ = http.ParseTime(resp.Header.Get("Date"))
	if s.name == c.iam.name && !a.date.IsZero() {
		c.ahead.Store(int64(time.Until(a.date)))
	}
	if a.status >= 300 && a.status < 400 {
		return answer{}, refusal(fmt.Sprintf("it answered with a redirect (HTTP %d), which is never followed", a.status))
	}
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return answer{}, err
	}
	if len(a.body) > maxAnswer {
		return answer{}, refusal(fmt.Sprintf("its answer is longer than %d KB", maxAnswer>>10))
	}
	return a, nil
}

// issue is an error as the Query protocol has it.
type issue struct{ Code, Message, RequestID string }

// error reads the body of an error; one without a code is not AWS's. Most stand-ins
// answer as AWS does, some leave the wrapper out.
func (a answer) error() issue {
	var e struct {
		Code, Message string
		Wrapped       struct{ Code, Message string } `xml:"Error"`
		RequestID     string                         `xml:"RequestId"`
	}
	if xml.Unmarshal(bytes.TrimSpace(a.body), &e) != nil {
		return issue{}
	}
	if e.Wrapped.Code != "" {
		e.Code, e.Message = e.Wrapped.Code, e.Wrapped.Message
	}
	return issue{e.Code, e.Message, e.RequestID}
}

// skewed reports whether a call failed for the clock that signed it, and how far that
// is behind.
func (a answer) skewed(code string) (drift time.Duration, is bool) {
	switch code {
	case "SignatureDoesNotMatch", "RequestTimeTooSkewed", "InvalidSignatureException", "RequestExpired", "AuthFailure":
		drift = a.date.Sub(a.signed)
		return drift, !a.date.IsZero() && drift.Abs() > maxDrift
	}
	return 0, false
}
