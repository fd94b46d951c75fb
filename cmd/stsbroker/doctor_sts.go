package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/stsbroker/stsbroker/broker/awssts"
)

// How a call of STS ends before STS answers.
const (
	stsAnswers    = "answers"
	stsDNS        = "dns"
	stsRefused    = "refused"
	stsSilent     = "silent" // no connection, and no word why not
	stsNoRoute    = "no-route"
	stsAuthority  = "tls-authority"
	stsExpired    = "tls-expired"
	stsNotYet     = "tls-not-yet"
	stsName       = "tls-name"
	stsTLS        = "tls"
	stsProxyDown  = "proxy-down"
	stsProxyLogin = "proxy-login"
	stsProxyNo    = "proxy-refuses"
	stsProxyURL   = "proxy-url"
	stsMute       = "mute"    // connected, and no answer
	stsFailing    = "failing" // HTTP 5xx
	stsForeign    = "foreign" // something else answers under the name of AWS's
	stsFailed     = "failed"
)

// stsSeen is how STS was reached, as the broker would.
type stsSeen struct {
	Asked  bool
	Scheme string // http or https
	Host   string // and port, where the URL has one
	Kind   string
	Detail string // in the words of the system; holds no secret
	Proxy  string // host and port, "" for none
	Skew   time.Duration
	Timed  bool // the answer had a date; Skew is this host's clock less it
}

// askSTS sends the request that nobody signed, which every STS refuses. why says that
// it was not sent.
func (s *surroundings) askSTS(ctx context.Context, p place) (seen stsSeen, why string) {
	if s.broker.Status == nil && s.door.Kind != "" && s.door.URL != nil && s.container != "" {
		return stsSeen{}, "the broker asks it, from a container of its own"
	}
	cfg := s.settings
	switch {
	case cfg == nil && hasErrors(s.findings):
		return stsSeen{}, s.config.Path + " has errors"
	case cfg == nil && s.config.Path != "":
		return stsSeen{}, s.config.Path + ", which says which one the broker asks, cannot be read"
	case cfg == nil:
		return stsSeen{}, "which one the broker asks, only who administers it can tell"
	}
	if s.broker.System { // which takes nothing from this environment
		p.getenv = func(string) string { return "" }
	}
	roots, err := p.roots()
	if err != nil {
		return stsSeen{}, "AWS_CA_BUNDLE cannot be read"
	}
	region := cmp.Or(cfg.STS.Region, p.getenv("AWS_REGION"))
	if !s.broker.System {
		region = cmp.Or(region, s.aws.DefaultRegion)
	}
	if st := s.broker.Status; st != nil {
		for _, profile := range st.Profiles {
			if profile.Name == s.meant() {
				region = cmp.Or(profile.Region, region)
			}
		}
	}
	region = cmp.Or(region, awssts.PartitionRegion(""))
	endpoint := cmp.Or(p.getenv(varEndpointURL), cfg.STS.Endpoints[region].URL)
	if at := s.standing(); endpoint == "" && at != nil && at.Compatible {
		return stsSeen{}, "profile " + at.Name + " is minted by a store, whose address its definition has"
	}
	if endpoint == "" {
		to, err := sts.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, sts.EndpointParameters{
			Region: &region, UseFIPS: aws.Bool(cfg.STS.FIPS), UseDualStack: aws.Bool(cfg.STS.DualStack), UseGlobalEndpoint: aws.Bool(cfg.STS.Legacy),
		})
		if err != nil {
			return stsSeen{}, "there is no endpoint for region " + region
		}
		endpoint = to.URI.String()
	}
	if err := awssts.CheckURL(endpoint); err != nil {
		return stsSeen{Asked: true, Kind: stsFailed, Detail: err.Error()}, ""
	}
	proxy := http.ProxyFromEnvironment
	if s.broker.System {
		proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	}
	return probeSTS(ctx, endpoint, roots, proxy), ""
}

// probeSTS tells what stands between this host and STS. endpoint is one that
// [awssts.CheckURL] takes; proxy is asked for https alone, as the broker does.
func probeSTS(ctx context.Context, endpoint string, roots *x509.CertPool, proxy func(*http.Request) (*url.URL, error)) stsSeen {
	out := stsSeen{Asked: true}
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	var connected, secured atomic.Bool // the transport's goroutines tell, and may outlive the call
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		ConnectDone:      func(_, _ string, err error) { connected.CompareAndSwap(false, err == nil) },
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) { secured.CompareAndSwap(false, err == nil) },
	}), http.MethodPost, strings.TrimSuffix(endpoint, "/")+"/", strings.NewReader("Action=GetCallerIdentity&Version=2011-06-15"))
	if err != nil {
		out.Kind, out.Detail = stsFailed, "not a URL"
		return out
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	out.Scheme, out.Host = r.URL.Scheme, r.URL.Host
	var proxyStatus atomic.Int32
	way := &http.Transport{
		DialContext:       (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		DisableKeepAlives: true,
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
			proxyStatus.Store(int32(resp.StatusCode))
			return nil
		},
	}
	if r.URL.Scheme == "https" {
		through, err := proxy(r)
		if err != nil {
			out.Kind = stsProxyURL // err may repeat a password
			return out
		}
		if through != nil {
			out.Proxy, way.Proxy = through.Host, http.ProxyURL(through)
		}
	}
	sent := time.Now()
	resp, err := way.RoundTrip(r)
	if err != nil {
		out.Kind, out.Detail = reached(err, out.Proxy != "", int(proxyStatus.Load()), connected.Load(), secured.Load() || r.URL.Scheme == "http")
		return out
	}
	defer resp.Body.Close()
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		out.Skew, out.Timed = sent.Add(time.Since(sent)/2).Sub(date), true
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	switch host := r.URL.Hostname(); {
	case resp.StatusCode >= 500:
		out.Kind, out.Detail = stsFailing, resp.Status
	case (strings.HasSuffix(host, ".amazonaws.com") || strings.HasSuffix(host, ".api.aws") || strings.HasSuffix(host, ".amazonaws.com.cn")) &&
		!strings.Contains(string(body), "<Code>"):
		out.Kind, out.Detail, out.Timed = stsForeign, resp.Status, false
	default:
		out.Kind = stsAnswers
	}
	return out
}

// reached words how far a call came. proxied: by way of a proxy, which answered with
// proxyStatus, or 0.
func reached(err error, proxied bool, proxyStatus int, connected, secured bool) (kind, detail string) {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "proxyconnect" {
		_, detail = reached(op.Err, false, 0, connected, secured)
		return stsProxyDown, detail
	}
	switch {
	case proxyStatus == http.StatusProxyAuthRequired:
		return stsProxyLogin, ""
	case proxyStatus != 0 && proxyStatus != http.StatusOK:
		return stsProxyNo, http.StatusText(proxyStatus)
	case proxied && proxyStatus == 0:
		return stsProxyDown, "it does not answer"
	}
	var name *net.DNSError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &name):
		if name.IsNotFound {
			return stsDNS, "no such host"
		}
		return stsDNS, "the name server does not answer"
	case errors.As(err, &host):
		return stsName, ""
	case errors.As(err, &authority):
		if c := authority.Cert; c != nil {
			return stsAuthority, c.Issuer.CommonName
		}
		return stsAuthority, ""
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil && time.Now().Before(invalid.Cert.NotBefore):
		return stsNotYet, invalid.Cert.NotBefore.UTC().Format(time.DateTime)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if invalid.Cert != nil {
			return stsExpired, invalid.Cert.NotAfter.UTC().Format(time.DateTime)
		}
		return stsExpired, ""
	case errors.As(err, &record):
		return stsTLS, "what answers there does not speak TLS"
	case errors.Is(err, syscall.ECONNREFUSED):
		return stsRefused, "connection refused"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return stsNoRoute, "no route"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), timedOut(err):
		if connected {
			return stsMute, ""
		}
		return stsSilent, "no answer"
	case connected && !secured:
		return stsTLS, "the handshake fails: " + err.Error()
	}
	return stsFailed, err.Error()
}

func timedOut(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
