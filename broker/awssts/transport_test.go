package awssts

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

func TestEndpointsAreValidated(t *testing.T) {
	for u, want := range map[string]string{
		"https://sts.example.com":          "",
		"https://sts.example.com:8443/sts": "",
		"http://127.0.0.1:9000":            "",
		"http://127.8.8.8":                 "",
		"http://[::1]:9000":                "",
		"http://[::ffff:127.0.0.1]:1":      "",
		"http://localhost:9000":            "",
		"http://sts.example.com":           "plain http is for loopback only; use https",
		"http://192.0.2.1":                 "plain http is for loopback only",
		"http://127.0.0.1.example.com":     "plain http is for loopback only",
		"http://localhost.example.com":     "plain http is for loopback only",
		"http://0.0.0.0:9000":              "plain http is for loopback only",
		"ftp://127.0.0.1":                  "use https, or http to loopback",
		"sts.example.com":                  "names no host",
		"https://":                         "names no host",
		"https://:443":                     "names no host",
		"":                                 "names no host",
		"https://me:hunter22@example.com":  "remove them",
		"https://me:hunter22@exa mple.com": "not a URL",
		"https://sts.example.com/?a=b":     "query or fragment",
		"https://sts.example.com?":         "query or fragment",
		"https://sts.example.com/#a":       "query or fragment",
	} {
		for _, o := range []Options{{Override: &Endpoint{URL: u}}, {Endpoints: map[string]Endpoint{"eu-west-1": {URL: u}}}} {
			_, err := New(o)
			switch {
			case want == "" && err != nil:
				t.Errorf("%q: %v", u, err)
			case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
				t.Errorf("%q: got %v, want %q", u, err, want)
			case err != nil && strings.Contains(err.Error(), "hunter22"):
				t.Errorf("a password is told: %v", err)
			case err != nil && o.Override == nil && !strings.Contains(err.Error(), "eu-west-1"):
				t.Errorf("no region in %v", err)
			}
		}
	}
}

// Where calls go when no endpoint is configured, and which of those configured counts.
func TestWhereCallsGo(t *testing.T) {
	other := Endpoint{URL: "https://other.example.com:8443"}
	for name, c := range map[string]struct {
		o           Options
		region, arn string
		want        string
	}{
		"regional":              {Options{}, "eu-central-1", deploy, "sts.eu-central-1.amazonaws.com:443"},
		"us-east-1":             {Options{}, "us-east-1", deploy, "sts.us-east-1.amazonaws.com:443"},
		"from the ARN":          {Options{}, "", deploy, "sts.us-east-1.amazonaws.com:443"},
		"from the ARN, China":   {Options{}, "", "arn:aws-cn:iam::123456789012:role/x", "sts.cn-north-1.amazonaws.com.cn:443"},
		"from the ARN, GovUS":   {Options{}, "", "arn:aws-us-gov:iam::123456789012:role/x", "sts.us-gov-west-1.amazonaws.com:443"},
		"the region's endpoint": {Options{Endpoints: map[string]Endpoint{"eu-central-1": other}}, "eu-central-1", deploy, "other.example.com:8443"},
		"another region's":      {Options{Endpoints: map[string]Endpoint{"eu-west-1": other}}, "eu-central-1", deploy, "sts.eu-central-1.amazonaws.com:443"},
		"the override":          {Options{Override: &other, Endpoints: map[string]Endpoint{"eu-central-1": {URL: "https://never.example.com"}}}, "eu-central-1", deploy, "other.example.com:8443"},
		"a region of no sense":  {Options{}, "evil.example.com/", deploy, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dialed := ""
			c.o.Dial = func(_ context.Context, _, addr string) (net.Conn, error) {
				dialed = addr
				return nil, errors.New("not in a test")
			}
			got, err := newSTS(t, c.o).Role(Role{Site: Site{Region: c.region}, ARN: c.arn, SessionName: "tester"}).Mint(t.Context(), broker.MintInput{Parent: longTerm})
			e := wantError(t, got, err)
			if dialed != c.want {
				t.Errorf("dialed %q, want %q: %v", dialed, c.want, e)
			}
			if want := broker.KindUnavailable; c.want != "" && (e.Kind != want || !strings.Contains(e.Public, "it cannot be reached (not in a test)")) {
				t.Errorf("got %v: %s", e.Kind, e.Public)
			}
			if c.want == "" && e.Kind != broker.KindConfig {
				t.Errorf("got %v: %s", e.Kind, e.Public)
			}
		})
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	var hits atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer elsewhere.Close()
	fake := world()
	fake.SetFault(stsfake.Fault{Kind: stsfake.FaultRedirect, Message: elsewhere.URL})
	got, err := listen(t, fake).Session(Session{}).Mint(t.Context(), broker.MintInput{Parent: longTerm})
	if e := wantError(t, got, err); hits.Load() != 0 || !strings.Contains(e.Public, "redirect") {
		t.Errorf("%d requests went elsewhere: %v", hits.Load(), e)
	}
}

func TestTLS(t *testing.T) {
	fake := world()
	serve := func(max uint16) (*httptest.Server, *x509.CertPool) {
		srv := httptest.NewUnstartedServer(fake)
		srv.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: max}
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		srv.StartTLS()
		t.Cleanup(srv.Close)
		pool := x509.NewCertPool()
		pool.AddCert(srv.Certificate())
		return srv, pool
	}
	modern, pool := serve(tls.VersionTLS13)
	old, oldPool := serve(tls.VersionTLS11)
	mint := func(o Options) (broker.Credentials, error) {
		return newSTS(t, o).Session(Session{}).Mint(t.Context(), broker.MintInput{Parent: longTerm})
	}
	if _, err := mint(Options{Override: &Endpoint{URL: modern.URL}, RootCAs: pool}); err != nil {
		t.Error(err)
	}
	named := Options{Override: &Endpoint{URL: "https://sts.example.org"}, RootCAs: pool, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, modern.Listener.Addr().String())
	}}
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"old TLS":      {Options{Override: &Endpoint{URL: old.URL}, RootCAs: oldPool}, "protocol version"},
		"other roots":  {Options{Override: &Endpoint{URL: modern.URL}, RootCAs: x509.NewCertPool()}, "which a CA bundle (AWS_CA_BUNDLE) may mend"},
		"another name": {named, "its certificate is not trusted (x509: certificate is valid for"},
	} {
		before := fake.Total()
		got, err := mint(c.o)
		if e := wantError(t, got, err); e.Kind != broker.KindUnavailable || !strings.Contains(e.Public, c.want) || fake.Total() != before {
			t.Errorf("%s: want %q, got %s", name, c.want, e.Public)
		}
	}
}

// The proxy is used for https alone, and no proxy comes from the environment.
func TestProxy(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	fake := world()
	var asked []string
	proxy := func(r *http.Request) (*url.URL, error) {
		asked = append(asked, r.URL.Host)
		return url.Parse("http://proxy.example.com:3128")
	}
	if _, err := listen(t, fake, func(o *Options) { o.Proxy = proxy }).WhoAmI(t.Context(), at, longTerm); err != nil || asked != nil {
		t.Errorf("loopback was proxied: %v, %v", asked, err)
	}
	var dialed []string
	o := Options{Proxy: proxy, Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
		dialed = append(dialed, addr)
		return nil, errors.New("not in a test")
	}}
	for range 2 {
		_, err := newSTS(t, o).WhoAmI(t.Context(), at, longTerm)
		_ = wantError(t, broker.Credentials{}, err)
		o.Proxy = nil
	}
	if want := "proxy.example.com:3128 sts.eu-central-1.amazonaws.com:443"; strings.Join(dialed, " ") != want {
		t.Errorf("dialed %v, want %s", dialed, want)
	}
}

func TestWhoAmI(t *testing.T) {
	fake := world()
	s := listen(t, fake)
	fake.SetFault(stsfake.Fault{Kind: stsfake.FaultDenied, Message: "no"})
	_, err := s.WhoAmI(t.Context(), at, longTerm)
	if e := wantError(t, broker.Credentials{}, err); e.Kind != broker.KindDenied || !strings.Contains(e.Public, "GetCallerIdentity") {
		t.Error(e)
	}
	s = listen(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("<GetCallerIdentityResponse><GetCallerIdentityResult/></GetCallerIdentityResponse>"))
	}))
	_, err = s.WhoAmI(t.Context(), at, longTerm)
	if e := wantError(t, broker.Credentials{}, err); e.Kind != broker.KindUnavailable || !strings.Contains(e.Public, "names no ARN") {
		t.Error(e)
	}
}

// Warm or idle, a minter keeps few connections, and none for long.
func BenchmarkRoleMint(b *testing.B) {
	fake := world()
	r, err := fake.Start("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	s := newSTS(b, Options{Override: &Endpoint{URL: r.URL}, Timeout: time.Minute})
	m := s.Role(Role{Site: at, ARN: deploy, SessionName: "tester"})
	for b.Loop() {
		if _, err := m.Mint(b.Context(), broker.MintInput{Parent: longTerm}); err != nil {
			b.Fatal(err)
		}
	}
}
