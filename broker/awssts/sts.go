// Package awssts holds the [broker.Minter]s that call the AWS Security Token
// Service, and what is known about its answers: which to believe, and what its
// errors mean.
//
// Clients are built explicitly: nothing is read from the environment or from
// the AWS shared files, and the SDK's own retries are off, because the broker's
// policy decides when to try again. The one retry made here is of a call that
// was signed by a wrong clock.
//
// Reading order: sts.go (endpoints and clients), mint.go (the mints),
// answer.go (when an answer is believed, and the issuer's clock), errors.go
// (the table from STS's codes to the domain's kinds), transport.go (the wire),
// digest.go, names.go.
package awssts

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/stsbroker/stsbroker/broker"
)

// DefaultTimeout is how long one call may take unless [Options] says otherwise.
const DefaultTimeout = 4 * time.Second

// Options say how STS is reached. The zero value is AWS's own regional
// endpoints, the system's roots and no proxy.
type Options struct {
	Endpoints map[string]Endpoint // by region; others are AWS's own
	Override  *Endpoint           // for all regions, before Endpoints (AWS_ENDPOINT_URL_STS)

	Timeout time.Duration // of one call; 0 is [DefaultTimeout]

	RootCAs *x509.CertPool                        // AWS_CA_BUNDLE; nil for the system's
	Proxy   func(*http.Request) (*url.URL, error) // toward https endpoints only; nil for none

	// Dial opens connections; nil is the net package's way.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Endpoint is where calls for a region go.
type Endpoint struct {
	URL string // https, or http to loopback only
	// Compatible marks a store that speaks STS but leaves fields of its answers
	// empty. It also allows a web identity mint without a duration.
	Compatible bool
}

// STS makes minters. It is safe for concurrent use.
type STS struct {
	o    Options
	http *transport

	mu sync.Mutex
	// One client a region: the SDK keeps the offset to the issuer's clock in it.
	clients map[string]*sts.Client
}

// New returns an STS, or an error that names the endpoint that cannot be used.
func New(o Options) (*STS, error) {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	for region, e := range o.Endpoints {
		if err := e.validate(); err != nil {
			return nil, fmt.Errorf("sts endpoint of region %s: %w", region, err)
		}
	}
	if o.Override != nil {
		if err := o.Override.validate(); err != nil {
			return nil, fmt.Errorf("sts endpoint: %w", err)
		}
	}
	return &STS{o: o, http: newTransport(o), clients: map[string]*sts.Client{}}, nil
}

// CloseIdle closes connections that no call uses. They also close by
// themselves after some seconds.
func (s *STS) CloseIdle() { s.http.client.CloseIdleConnections() }

func (e Endpoint) validate() error {
	u, err := url.Parse(e.URL)
	switch {
	case err != nil:
		return errors.New("not a URL: want https://HOST[:PORT]") // err would repeat what may hold a password
	case u.User != nil:
		return errors.New("a URL with a user or password in it; remove them")
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%q has a query or fragment; remove it", e.URL)
	case u.Host == "" || u.Hostname() == "":
		return fmt.Errorf("%q names no host: want https://HOST[:PORT]", e.URL)
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	case u.Scheme == "http":
		return fmt.Errorf("%q: plain http is for loopback only; use https", e.URL)
	}
	return fmt.Errorf("%q: use https, or http to loopback", e.URL)
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// endpoint is the zero Endpoint where AWS's own is meant.
func (s *STS) endpoint(region string) Endpoint {
	if s.o.Override != nil {
		return *s.o.Override
	}
	return s.o.Endpoints[region]
}

func (s *STS) client(region string) *sts.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[region]; c != nil {
		return c
	}
	o := sts.Options{Region: region, AppID: "stsbroker", Retryer: aws.NopRetryer{}, HTTPClient: s.http, HTTPSignerV4: freshSigner{}}
	if e := s.endpoint(region); e.URL != "" {
		o.BaseEndpoint = aws.String(e.URL)
	}
	c := sts.New(o)
	s.clients[region] = c
	return c
}

// freshSigner derives its key at every call. The SDK's signer keeps derived keys
// for a day by key id and not by secret: one that was mended would go on being
// refused, and a secret would stay in memory longer than its use.
type freshSigner struct{}

// SignHTTP implements sts.HTTPSignerV4.
func (freshSigner) SignHTTP(ctx context.Context, c aws.Credentials, r *http.Request, payloadHash, service, region string, at time.Time, options ...func(*v4.SignerOptions)) error {
	return v4.NewSigner().SignHTTP(ctx, c, r, payloadHash, service, region, at, options...)
}

// Identity is who STS takes a caller for.
type Identity struct {
	Account string `json:"account"`
	ARN     string `json:"arn"`
	UserID  string `json:"user_id"`
}

// WhoAmI asks GetCallerIdentity, which needs no permission. The region "" is
// the one of the aws partition's own. Errors are [*broker.Error].
func (s *STS) WhoAmI(ctx context.Context, region string, m broker.Material) (Identity, error) {
	region = regionOr(region, "")
	c := Call{Action: "GetCallerIdentity", Region: region, Endpoint: s.endpoint(region).URL}
	var id Identity
	_, err := s.do(ctx, c, m, func(ctx context.Context, api *sts.Client, sign func(*sts.Options), _ *exchange) error {
		out, err := api.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{}, sign)
		if err != nil {
			return err
		}
		id = Identity{aws.ToString(out.Account), aws.ToString(out.Arn), aws.ToString(out.UserId)}
		return nil
	})
	if err != nil {
		return Identity{}, err
	}
	if id.ARN == "" {
		return Identity{}, refuse(c, "it names no ARN")
	}
	return id, nil
}

// send is one call of the SDK's client.
type send func(ctx context.Context, api *sts.Client, sign func(*sts.Options), x *exchange) error

// The region becomes part of a host name.
var regionPattern = regexp.MustCompile(`^[A-Za-z0-9-]+$`)

// do makes one call and, when it was refused because this host's clock is
// wrong, one more: by then the client has taken its offset from the answer's
// Date header. Errors are classified.
func (s *STS) do(ctx context.Context, c Call, m broker.Material, call send) (*exchange, error) {
	if len(c.Region) > 63 || !regionPattern.MatchString(c.Region) {
		return &exchange{}, &broker.Error{Kind: broker.KindConfig, Public: fmt.Sprintf("%q is not the name of a region; mend the profile", clean(c.Region))}
	}
	sign := func(o *sts.Options) {
		o.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: m.AccessKeyID, SecretAccessKey: m.SecretAccessKey.Reveal(), SessionToken: m.SessionToken.Reveal()}, nil
		})
	}
	api := s.client(c.Region)
	for try := 0; ; try++ {
		x := &exchange{secrets: []broker.Secret{m.SecretAccessKey, m.SessionToken}}
		limited, cancel := context.WithTimeout(context.WithValue(ctx, exchangeKey{}, x), s.o.Timeout)
		err := call(limited, api, sign, x)
		cancel()
		if err == nil {
			return x, nil
		}
		err = x.explain(err)
		if try == 0 && x.skewed() {
			continue
		}
		c.Secrets = x.secrets
		return x, Classify(err, c)
	}
}
