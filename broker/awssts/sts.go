// Package awssts holds the [broker.Minter]s that call the AWS Security Token
// Service, and what is known about its answers: which to believe, and what its
// errors mean.
//
// Clients are built explicitly: nothing is read from the environment or from
// the AWS shared files, and the SDK's own retries are off, because the broker's
// policy decides when to try again. The one retry made here is of a call that
// was signed by a wrong clock.
//
// Reading order: sts.go (endpoints, clients, one call), region.go (which region
// is asked, and what happens when one does not answer), mint.go (what all mints
// have in common), kinds.go (each kind), input.go and assertion.go (identity
// tokens, codes and assertions), answer.go (when an answer is believed, and the
// issuer's clock), table.go and errors.go (from STS's codes to the domain's
// kinds), query.go (the calls that mint nothing), transport.go (the wire),
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
	smithyendpoints "github.com/aws/smithy-go/endpoints"

	"github.com/stsbroker/stsbroker/broker"
)

// DefaultTimeout is how long one call may take unless [Options] says otherwise.
const DefaultTimeout = 4 * time.Second

// Options say how STS is reached. The zero value is AWS's own regional
// endpoints, the system's roots, no proxy and no fallback.
type Options struct {
	Endpoints map[string]Endpoint // by region; others are AWS's own
	Override  *Endpoint           // for all regions, before Endpoints (AWS_ENDPOINT_URL_STS)

	// Fallback are regions to ask, in order, when the one that is meant does not
	// answer. Those of another partition than that one are passed over. None with
	// Override, which is one endpoint for all.
	Fallback []string

	Timeout time.Duration // of one call to one region; 0 is [DefaultTimeout]

	RootCAs *x509.CertPool                        // AWS_CA_BUNDLE; nil for the system's
	Proxy   func(*http.Request) (*url.URL, error) // toward https endpoints only; nil for none

	// Dial opens connections; nil is the net package's way.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	// Changed is told when a region stops to answer and when it answers again.
	// It must not block; nil for nobody.
	Changed func(Health)
}

// Endpoint is where calls for a region go.
type Endpoint struct {
	URL string // https, or http to loopback only
	// Compatible marks a store that speaks STS but leaves fields of its answers
	// empty. It also allows a web identity mint without a duration.
	Compatible bool
}

// Site is which of a region's endpoints is meant. The zero value of each field
// is what SDKs do by default.
type Site struct {
	Region    string // "" is the one of the ARN's partition, see [PartitionRegion]
	FIPS      bool   // AWS_USE_FIPS_ENDPOINT
	DualStack bool   // AWS_USE_DUALSTACK_ENDPOINT
	// Legacy is the global endpoint for those regions that AWS lists for it, as
	// AWS_STS_REGIONAL_ENDPOINTS=legacy means it.
	Legacy bool
	// URL is an endpoint of its own, as endpoint_url in the AWS files names one: see
	// [CheckURL]. No other region stands in for it. "" for none.
	URL string
}

// STS makes minters. It is safe for concurrent use.
type STS struct {
	o    Options
	http *transport
	lame lame

	mu sync.Mutex
	// One client a site: the SDK keeps the offset to the issuer's clock in it.
	clients map[Site]*sts.Client
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
	for _, r := range o.Fallback {
		if !validRegion(r) {
			return nil, fmt.Errorf("sts fallback region %q is not the name of a region", clean(r))
		}
	}
	return &STS{o: o, http: newTransport(o), clients: map[Site]*sts.Client{}, lame: newLame(o.Changed)}, nil
}

// CloseIdle closes connections that no call uses. They also close by
// themselves after some seconds.
func (s *STS) CloseIdle() { s.http.client.CloseIdleConnections() }

// CheckURL says what is wrong with the URL of an STS endpoint, nil when nothing is.
func CheckURL(endpoint string) error { return Endpoint{URL: endpoint}.validate() }

func (e Endpoint) validate() error {
	u, err := url.Parse(e.URL)
	switch {
	case err != nil:
		return errors.New("not a URL: want https://HOST[:PORT]") // err would repeat what may hold a password
	case u.User != nil:
		return errors.New("a URL with a user or password in it; remove them")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
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
func (s *STS) endpoint(at Site) Endpoint {
	switch {
	case s.o.Override != nil:
		return *s.o.Override
	case at.URL != "":
		return Endpoint{URL: at.URL}
	}
	return s.o.Endpoints[at.Region]
}

// Foreign reports whether somebody else's STS answers at the site, so that what it
// issues is none of AWS's business: one that the configuration calls compatible, or
// one that AWS_ENDPOINT_URL_STS or endpoint_url names, where nothing can say so,
// under a name that is not AWS's.
func (s *STS) Foreign(at Site) bool {
	e := s.endpoint(at)
	if e.Compatible || s.o.Override == nil && at.URL == "" {
		return e.Compatible // one of Endpoints that is not called so is AWS's, reached by another way
	}
	u, err := url.Parse(e.URL)
	return err != nil || !hostOfAWS(u.Hostname())
}

// site settles the region, and drops the choice among AWS's endpoints where
// another one is configured: it is taken as it is.
func (s *STS) site(at Site, arn string) Site {
	at.Region = regionOr(at.Region, arn)
	if e := s.endpoint(at); e.URL != "" && e.URL == at.URL {
		return Site{Region: at.Region, URL: at.URL}
	} else if e.URL != "" {
		return Site{Region: at.Region}
	}
	return at
}

func (s *STS) client(at Site) *sts.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[at]; c != nil {
		return c
	}
	o := sts.Options{
		Region: at.Region, AppID: "stsbroker", Retryer: aws.NopRetryer{}, HTTPClient: s.http, HTTPSignerV4: freshSigner{},
		EndpointResolverV2: resolver{at.Legacy, sts.NewDefaultEndpointResolverV2()},
	}
	if at.FIPS {
		o.EndpointOptions.UseFIPSEndpoint = aws.FIPSEndpointStateEnabled
	}
	if at.DualStack {
		o.EndpointOptions.UseDualStackEndpoint = aws.DualStackEndpointStateEnabled
	}
	if e := s.endpoint(at); e.URL != "" {
		o.BaseEndpoint = aws.String(e.URL)
	}
	c := sts.New(o)
	s.clients[at] = c
	return c
}

// resolver is the SDK's, which knows every partition. It has the rules for
// legacy endpoints too, but no option that asks for them.
type resolver struct {
	legacy bool
	sts.EndpointResolverV2
}

// ResolveEndpoint implements sts.EndpointResolverV2.
func (r resolver) ResolveEndpoint(ctx context.Context, p sts.EndpointParameters) (smithyendpoints.Endpoint, error) {
	p.UseGlobalEndpoint = aws.Bool(r.legacy)
	return r.EndpointResolverV2.ResolveEndpoint(ctx, p)
}

// freshSigner derives its key at every call. The SDK's signer keeps derived keys
// for a day by key id and not by secret: one that was mended would go on being
// refused, and a secret would stay in memory longer than its use.
type freshSigner struct{}

// SignHTTP implements sts.HTTPSignerV4.
func (freshSigner) SignHTTP(ctx context.Context, c aws.Credentials, r *http.Request, payloadHash, service, region string, at time.Time, options ...func(*v4.SignerOptions)) error {
	return v4.NewSigner().SignHTTP(ctx, c, r, payloadHash, service, region, at, options...)
}

// send is one call of the SDK's client, to one region. It may be made again, to
// the same region or another.
type send func(ctx context.Context, api *sts.Client, sign func(*sts.Options)) error

func validRegion(region string) bool { return len(region) <= 63 && regionPattern.MatchString(region) }

// The region becomes part of a host name.
var regionPattern = regexp.MustCompile(`^[A-Za-z0-9-]+$`)

// call makes one call to one region and, when it was refused because this
// host's clock is wrong, one more: by then the client has taken its offset from
// the answer's Date header. Errors are classified.
func (s *STS) call(ctx context.Context, c Call, at Site, m broker.Material, call send) (*exchange, error) {
	c.Region, c.Endpoint = at.Region, s.endpoint(at).URL
	c.Secrets = append([]broker.Secret{m.SecretAccessKey, m.SessionToken}, c.Secrets...)
	if !validRegion(at.Region) {
		return &exchange{}, &broker.Error{Kind: broker.KindConfig, Public: fmt.Sprintf("%q is not the name of a region; mend the profile", clean(at.Region))}
	}
	sign := func(o *sts.Options) {
		o.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: m.AccessKeyID, SecretAccessKey: m.SecretAccessKey.Reveal(), SessionToken: m.SessionToken.Reveal()}, nil
		})
	}
	api := s.client(at)
	for try := 0; ; try++ {
		x := &exchange{site: at}
		limited, cancel := context.WithTimeout(context.WithValue(ctx, exchangeKey{}, x), s.o.Timeout)
		err := call(limited, api, sign)
		cancel()
		if err == nil {
			return x, nil
		}
		err = x.explain(err)
		if try == 0 && x.skewed() {
			continue
		}
		return x, Classify(err, c)
	}
}
