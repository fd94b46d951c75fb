package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/internal/control"
)

const unsignedAnswer = `<ErrorResponse><Error><Code>MissingAuthenticationToken</Code></Error></ErrorResponse>`

// certificate is one that signs itself.
func certificate(t *testing.T, name string, from, to time.Time) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA"}, NotBefore: from, NotAfter: to, DNSNames: []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, pool
}

func secure(t *testing.T, c tls.Certificate, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{c}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// accepting is a listener that hands its connections to f, each in a goroutine of its own.
func accepting(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c)
			}()
		}
	}()
	return l.Addr().String()
}

// refusing is an address that nobody listens at.
func refusing(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// tunnel is a proxy that answers CONNECT so and, with 200, connects to the address.
func tunnel(t *testing.T, answer, to string) *url.URL {
	return &url.URL{Scheme: "http", User: url.UserPassword("me", "canary"), Host: accepting(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		if _, err := http.ReadRequest(in); err != nil {
			return
		}
		fmt.Fprintf(c, "HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n", answer)
		if to == "" {
			return
		}
		out, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer out.Close()
		go func() { _, _ = io.Copy(out, in) }()
		_, _ = io.Copy(c, out)
	})}
}

func TestProbeSTS(t *testing.T) {
	now := time.Now()
	good, pool := certificate(t, "sts.eu-central-1.amazonaws.com", now.Add(-time.Hour), now.Add(time.Hour))
	old, oldPool := certificate(t, "sts.example", now.Add(-2*time.Hour), now.Add(-time.Hour))
	early, earlyPool := certificate(t, "sts.example", now.Add(time.Hour), now.Add(2*time.Hour))
	answer := func(status int, body string, ahead time.Duration) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" || r.Method != http.MethodPost {
				t.Errorf("%s with %q", r.Method, r.Header)
			}
			w.Header().Set("Date", now.Add(ahead).UTC().Format(http.TimeFormat))
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	sts := secure(t, good, answer(403, unsignedAnswer, 0))
	at := sts.Listener.Addr().String()
	silent := accepting(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	_, port, _ := net.SplitHostPort(at)
	const aws = "https://sts.eu-central-1.amazonaws.com"
	for name, c := range map[string]struct {
		url   string
		roots *x509.CertPool
		proxy *url.URL
		kind  string
		part  string // of the detail
		skew  time.Duration
	}{
		"answers":            {url: sts.URL, roots: pool, kind: stsAnswers},
		"clock behind":       {url: secure(t, good, answer(403, unsignedAnswer, 20*time.Minute)).URL, roots: pool, kind: stsAnswers, skew: -20 * time.Minute},
		"clock ahead":        {url: secure(t, good, answer(403, unsignedAnswer, -20*time.Minute)).URL, roots: pool, kind: stsAnswers, skew: 20 * time.Minute},
		"fails":              {url: secure(t, good, answer(503, "", 0)).URL, roots: pool, kind: stsFailing, part: "503"},
		"refuses":            {url: "https://" + refusing(t), kind: stsRefused},
		"no TLS answer":      {url: "https://" + silent, kind: stsMute},
		"no HTTP answer":     {url: "http://" + silent, kind: stsMute},
		"unknown authority":  {url: sts.URL, roots: x509.NewCertPool(), kind: stsAuthority, part: "Test CA"},
		"expired":            {url: secure(t, old, answer(403, unsignedAnswer, 0)).URL, roots: oldPool, kind: stsExpired, part: "20"},
		"not yet":            {url: secure(t, early, answer(403, unsignedAnswer, 0)).URL, roots: earlyPool, kind: stsNotYet, part: "20"},
		"another name":       {url: "https://localhost:" + port, roots: pool, kind: stsName},
		"plain HTTP":         {url: "https://" + accepting(t, func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }), kind: stsTLS, part: "does not speak TLS"},
		"hangs up":           {url: "https://" + accepting(t, func(net.Conn) {}), kind: stsTLS, part: "handshake"},
		"through a proxy":    {url: aws, roots: pool, proxy: tunnel(t, "200 OK", at), kind: stsAnswers},
		"a page of the net":  {url: aws, roots: pool, proxy: tunnel(t, "200 OK", secure(t, good, answer(200, "<html>sign in", time.Hour)).Listener.Addr().String()), kind: stsForeign, part: "200"},
		"proxy reads TLS":    {url: aws, roots: x509.NewCertPool(), proxy: tunnel(t, "200 OK", at), kind: stsAuthority, part: "Test CA"},
		"proxy wants login":  {url: aws, proxy: tunnel(t, "407 Proxy Authentication Required", ""), kind: stsProxyLogin},
		"proxy says no":      {url: aws, proxy: tunnel(t, "403 Forbidden", ""), kind: stsProxyNo, part: "Forbidden"},
		"proxy refuses":      {url: aws, proxy: &url.URL{Scheme: "http", Host: refusing(t)}, kind: stsProxyDown, part: "refused"},
		"proxy says nothing": {url: aws, proxy: &url.URL{Scheme: "http", Host: silent}, kind: stsProxyDown, part: "not answer"},
		"http goes round it": {url: "http://" + refusing(t), proxy: &url.URL{Scheme: "http", Host: silent}, kind: stsRefused},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			if c.kind == stsMute || name == "proxy says nothing" { // what never comes
				ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
			}
			defer cancel()
			got := probeSTS(ctx, c.url, c.roots, http.ProxyURL(c.proxy))
			if got.Kind != c.kind || !strings.Contains(got.Detail, c.part) || strings.Contains(fmt.Sprint(got), "canary") {
				t.Errorf("%+v, want %s, %q", got, c.kind, c.part)
			}
			if timed := c.kind == stsAnswers || c.kind == stsFailing; got.Timed != timed || timed && (got.Skew-c.skew).Abs() > 10*time.Second {
				t.Errorf("%+v, want a skew of %v: %v", got, c.skew, timed)
			}
		})
	}
	if got := probeSTS(t.Context(), aws, nil, func(*http.Request) (*url.URL, error) { return nil, errors.New("canary") }); got.Kind != stsProxyURL || strings.Contains(fmt.Sprint(got), "canary") {
		t.Errorf("%+v", got)
	}
}

// What needs another network than loopback to be provoked.
func TestReached(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for name, c := range map[string]struct {
		err     error
		proxied bool
		kind    string
	}{
		"no such host":     {dial(&net.DNSError{Err: "no such host", Name: "x", IsNotFound: true}), false, stsDNS},
		"no name server":   {dial(&net.DNSError{Err: "timeout", Name: "x", IsTimeout: true}), false, stsDNS},
		"dropped":          {dial(os.ErrDeadlineExceeded), false, stsSilent},
		"network is away":  {dial(syscall.ENETUNREACH), false, stsNoRoute},
		"host is away":     {dial(syscall.EHOSTUNREACH), false, stsNoRoute},
		"proxy has no DNS": {&net.OpError{Op: "proxyconnect", Err: dial(&net.DNSError{Name: "proxy", IsNotFound: true})}, true, stsProxyDown},
		"else":             {io.ErrUnexpectedEOF, false, stsFailed},
	} {
		if kind, detail := reached(c.err, c.proxied, 0, false, false); kind != c.kind || detail == "" {
			t.Errorf("%s: %s, %q", name, kind, detail)
		}
	}
}

func TestAskEndpoint(t *testing.T) {
	answer := func(status int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/latest/api/token" && r.Method != http.MethodPut || r.URL.Path != "/latest/api/token" && r.URL.Path != "/doctor" {
				t.Errorf("%s %s", r.Method, r.URL)
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, strings.ReplaceAll(body, "TOKEN", r.Header.Get("Authorization")))
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	for name, c := range map[string]struct {
		variable, value, token string
		want                   doorSeen
	}{
		"knows it":      {varFullURI, answer(403, `{"code":"forbidden","message":"nothing is here","Code":"forbidden","Message":"nothing is here"}`) + "/credentials/app", healthyToken, doorSeen{Asked: true, Status: 403, Code: "forbidden", Message: "nothing is here", Shown: true, Ours: true}},
		"does not":      {varFullURI, answer(401, `{"Code":"unauthorized","Message":"no"}`), "x", doorSeen{Asked: true, Status: 401, Code: "unauthorized", Message: "no", Shown: true, Ours: true}},
		"repeats it":    {varFullURI, answer(403, `{"Code":"forbidden","Message":"TOKEN"}`), healthyToken, doorSeen{Asked: true, Status: 403, Code: "forbidden", Shown: true, Ours: true}},
		"not JSON":      {varFullURI, answer(200, `<html>`), healthyToken, doorSeen{Asked: true, Status: 200}},
		"other JSON":    {varFullURI, answer(404, `{"error":"x"}`), healthyToken, doorSeen{Asked: true, Status: 404}},
		"IMDS":          {varIMDS, answer(200, "token"), "", doorSeen{Asked: true, Status: 200, Ours: true}},
		"IMDS refuses":  {varIMDS, answer(403, ""), "", doorSeen{Asked: true, Status: 403, Ours: true}},
		"another host":  {varFullURI, "http://192.0.2.1/credentials/app", healthyToken, doorSeen{}},
		"AWS's own":     {varFullURI, "http://169.254.170.23/v1/credentials", healthyToken, doorSeen{}},
		"a name":        {varFullURI, "http://broker.example/credentials/app", healthyToken, doorSeen{}},
		"https":         {varFullURI, "https://127.0.0.1/credentials/app", healthyToken, doorSeen{}},
		"not a URL":     {varFullURI, "http://::1:9170/", healthyToken, doorSeen{}},
		"broken header": {varFullURI, answer(401, `{"Code":"unauthorized","Message":"no"}`), "a\nb", doorSeen{Asked: true, Status: 401, Code: "unauthorized", Message: "no", Ours: true}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &surroundings{env: map[string]string{c.variable: c.value, varToken: c.token}}
			s.door = wayOf(s.lookup)
			if got := s.askEndpoint(t.Context()); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
	s := &surroundings{env: map[string]string{varFullURI: "http://" + refusing(t)}}
	s.door = wayOf(s.lookup)
	if got := s.askEndpoint(t.Context()); !got.Asked || !errors.Is(got.Err, syscall.ECONNREFUSED) {
		t.Errorf("%+v", got)
	}
}

// Anybody can have the port that the environment names. Who is not known to be the
// broker is not shown the token.
func TestAskEndpointShowsTheTokenToABroker(t *testing.T) {
	const ours = `{"Code":"unauthorized","Message":"no"}`
	for name, c := range map[string]struct {
		answer string
		known  string // the address of the broker that is known, "here" for this one, "" for none
		path   string
		token  string
		want   []string
	}{
		"the broker that is known":         {ours, "here", "/credentials/app", healthyToken, []string{"", healthyToken}},
		"a broker, and none is known":      {ours, "", "/v1/credentials", healthyToken, []string{"", healthyToken}},
		"the known broker is elsewhere":    {ours, "http://127.0.0.1:1", "/credentials/app", healthyToken, []string{""}},
		"somebody at the broker's address": {`<html>`, "here", "/credentials/app", healthyToken, []string{""}},
		"somebody, and no broker is known": {`{"error":"no"}`, "", "/credentials/app", healthyToken, []string{""}},
		"a token that no header may have":  {ours, "here", "/credentials/app", "a b", []string{""}},
		"no token is there to be shown":    {ours, "here", "/credentials/app", "", []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			var shown []string // one request after the other
			here := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				shown = append(shown, r.Header.Get("Authorization"))
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = io.WriteString(w, c.answer)
			}))
			defer here.Close()
			s := &surroundings{env: map[string]string{varFullURI: here.URL + c.path, varToken: c.token}}
			s.door = wayOf(s.lookup)
			if c.known != "" {
				s.broker.Status = &control.Status{Container: []string{strings.Replace(c.known, "here", here.URL, 1)}}
			}
			if got := s.askEndpoint(t.Context()); !slices.Equal(shown, c.want) || got.Shown != (len(c.want) == 2) || got.Status != 401 {
				t.Errorf("shown %q, want %q; %+v", shown, c.want, got)
			}
		})
	}

	// SDKs send nothing over plain http to another address, be it this host's.
	s := healthy()
	s.with(varFullURI + "=http://192.0.2.7:9170/credentials/app")
	s.broker.Status.Container = []string{"http://192.0.2.7:9170"}
	if s.mayShow(true) {
		t.Error("to 192.0.2.7")
	}
	if s.with(varFullURI + "=http://127.0.0.1:9170/credentials/app"); s.mayShow(true) {
		t.Error("to 127.0.0.1, where the broker is not")
	}
	if s = healthy(); !s.mayShow(true) || s.mayShow(false) {
		t.Error("to the broker")
	}
}

func TestWayOf(t *testing.T) {
	for in, want := range map[[2]string][4]string{ // kind, shown, profile, address
		{varFullURI, "http://127.0.0.1:9170/credentials/a%2Fb"}:            {doorContainer, "http://127.0.0.1:9170/credentials/a%2Fb", "a/b", "127.0.0.1:9170"},
		{varFullURI, "http://me:canary@127.0.0.1:9170/v1/credentials?x=y"}: {doorEKS, "http://127.0.0.1:9170/v1/credentials", "", "127.0.0.1:9170"},
		{varFullURI, "http://[fd00:ec2::23]/v1/credentials"}:               {doorEKS, "http://[fd00:ec2::23]/v1/credentials", "", "[fd00:ec2::23]:80"},
		{varFullURI, "http://localhost:9170/credentials"}:                  {doorContainer, "http://localhost:9170/credentials", "", "127.0.0.1:9170"},
		{varRelativeURI, "/credentials/app"}:                               {doorECS, "http://169.254.170.2/credentials/app", "app", "169.254.170.2:80"},
		{varRelativeURI, ""}:                                               {"", "its value", "", "invalid AddrPort"},
		{varIMDS, "http://127.0.0.1:9169"}:                                 {doorIMDS, "http://127.0.0.1:9169", "", "127.0.0.1:9169"},
		{varFullURI, "http://[::1"}:                                        {doorContainer, "its value", "", "invalid AddrPort"},
		{"OTHER", "http://127.0.0.1"}:                                      {"", "its value", "", "invalid AddrPort"},
	} {
		w := wayOf(func(name string) (string, bool) { return map[string]string{in[0]: in[1]}[name], name == in[0] })
		if got := [4]string{w.Kind, w.shown(), w.Profile, w.addr().String()}; got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestCovers(t *testing.T) {
	for in, want := range map[[2]string]bool{
		{"127.0.0.1", "127.0.0.1"}: true, {"*", "127.0.0.1"}: true, {".corp, 127.0.0.1:80", "127.0.0.1"}: true, {"[::1]", "::1"}: true, {"LOCALHOST", "localhost"}: true,
		{"", "127.0.0.1"}: false, {"127.0.0.1.corp", "127.0.0.1"}: false, {"*.corp", "127.0.0.1"}: false, {"127.0.0.0/8", "127.0.0.1"}: false,
	} {
		if got := covers(in[0], in[1], false); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
	if !covers("169.254.0.0/16", "169.254.170.23", true) {
		t.Error("a range")
	}
}

func TestInstalledSDKs(t *testing.T) {
	root := t.TempDir()
	put := func(path, text string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, path string) {
		t.Helper()
		put(path+".d/x", "")
		if err := os.Symlink(filepath.Join(root, to), filepath.Join(root, path)); err != nil {
			t.Skip("not run: no symbolic links here: ", err)
		}
	}
	if runtime.GOOS == "windows" {
		t.Skip("not run: programs have other names and places here")
	}
	put("aws-cli/v2/2.13.5/dist/aws", "")
	link("aws-cli/v2/2.13.5/dist/aws", "one/aws")
	put("venv/bin/python3", "")
	put("venv/lib/python3.11/site-packages/botocore-1.29.7.dist-info/METADATA", "")
	put("venv/lib/python3.11/site-packages/botocore_stubs-1.0.0.dist-info/METADATA", "")
	put("usr/bin/aws", "")
	put("usr/lib/python3/dist-packages/awscli-2.9.19.dist-info/METADATA", "")
	put("old/bin/aws", "")
	put("old/lib/python3.9/site-packages/awscli-1.22.34-py3.9.egg-info/PKG-INFO", "")
	put("project/node_modules/aws-sdk/package.json", `{"version":"2.1000.0"}`)
	put("project/node_modules/@aws-sdk/credential-provider-node/package.json", `{"version":"3.500.0"}`)
	put("project/go.mod", "module x\n\nrequire github.com/aws/aws-sdk-go v1.44.0\nrequire (\n\tgithub.com/aws/aws-sdk-go-v2/config v1.25.0 // indirect\n\tgithub.com/aws/aws-sdk-go-v2 v1.0.0\n)\n")
	none := func(string) (string, bool) { return "", false }
	for path, want := range map[string][]string{
		"one":      {"AWS CLI 2.13.5 old"},
		"venv/bin": {"botocore 1.29.7 old"},
		"usr/bin":  {"AWS CLI 2.9.19 old"},
		"old/bin":  {"AWS CLI 1.22.34 old"},
		"nowhere":  nil,
	} {
		t.Setenv("PATH", filepath.Join(root, path))
		if got := sdkNames(installedSDKs(none, root)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	t.Setenv("PATH", filepath.Join(root, "nowhere"))
	want := []string{"aws-sdk 2.1000.0 old", "@aws-sdk/credential-provider-node 3.500.0", "github.com/aws/aws-sdk-go 1.44.0 old", "github.com/aws/aws-sdk-go-v2/config 1.25.0"}
	if got := sdkNames(installedSDKs(none, filepath.Join(root, "project"))); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func sdkNames(found []sdkSeen) (out []string) {
	for _, k := range found {
		name := k.Name + " " + k.Version
		if k.old() {
			name += " old"
		}
		out = append(out, name)
	}
	return out
}

func TestBefore(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{{"1.34.40", "1.34.41", true}, {"1.34.41", "1.34.41", false}, {"1.9.0", "1.10.0", true}, {"2.0.0rc1", "2.0.0", false}, {"10.0.0", "9.9.9", false}} {
		if before(c.a, c.b) != c.want {
			t.Errorf("%+v", c)
		}
	}
	for _, s := range []string{"", "1.2", "a.b.c", "1..3", "v1.2.3"} {
		if isVersion(s) {
			t.Errorf("%q", s)
		}
	}
}

func TestContainerOf(t *testing.T) {
	root := t.TempDir()
	env := func(set ...string) func(string) (string, bool) {
		return func(name string) (string, bool) { return "x", slices.Contains(set, name) }
	}
	if got := containerOf(root, func(string) (string, bool) { return "", false }); got != "" {
		t.Errorf("a host is %q", got)
	}
	if got := containerOf(root, env("KUBERNETES_SERVICE_HOST")); got != "a Kubernetes pod" {
		t.Errorf("%q", got)
	}
	none := func(string) (string, bool) { return "", false }
	for path, text := range map[string]string{"proc/self/cgroup": "0::/kubepods/besteffort/pod1", "run/.containerenv": "", ".dockerenv": ""} {
		folder := t.TempDir()
		path = filepath.Join(folder, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		if got := containerOf(folder, none); !strings.Contains(got, "container") {
			t.Errorf("%s: %q", path, got)
		}
	}
}

func TestRoutedInterfaces(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{"all": "0\n", "eth0": "1\n", "lo": "0\n"} {
		if err := errors.Join(os.Mkdir(filepath.Join(root, name), 0o700), os.WriteFile(filepath.Join(root, name, "route_localnet"), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if got := routedInterfaces(root); !slices.Equal(got, []string{"eth0"}) {
		t.Errorf("%q", got)
	}
}

func TestTakenPorts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it says nothing
	at := l.Addr().(*net.TCPAddr).AddrPort()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	got := takenPorts(ctx, []string{at.String(), refusing(t), "169.254.170.2:80", "127.0.0.1:0", "nonsense"})
	if len(got) != 1 || got[0].Address != at {
		t.Fatalf("%+v", got)
	}
	want := ""
	if runtime.GOOS == "linux" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		want = fmt.Sprintf("process %d (%s)", os.Getpid(), self)
	}
	if got[0].Holder != want || got[0].Broker {
		t.Errorf("%+v, want %q", got[0], want)
	}
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"Code":"unauthorized","Message":"no token"}`)
	}))
	defer door.Close()
	if got := takenPorts(t.Context(), []string{door.Listener.Addr().String()}); len(got) != 1 || !got[0].Broker {
		t.Errorf("%+v", got)
	}
}

// Another user's process cannot be named without rights; its user can.
func TestListenerOf(t *testing.T) {
	proc := t.TempDir()
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	put := func(name, text string) {
		if err := errors.Join(os.MkdirAll(filepath.Join(proc, "net"), 0o700), os.WriteFile(filepath.Join(proc, "net", name), []byte(head+text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	put("tcp", "   0: 0100007F:23D2 00000000:0000 0A 00000000:00000000 00:00000000 00000000   998        0 4711 1 0 100 0 0 10 0\n"+
		"   1: 0100007F:23D3 0100007F:9999 01 00000000:00000000 00:00000000 00000000   997        0 4712 1 0 100 0 0 10 0\n")
	put("tcp6", "   0: 00000000000000000000000001000000:23D4 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000   996        0 4713 1 0\n"+
		"   1: 00000000000000000000000000000000:23D5 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000   995        0 4714 1 0\n")
	for at, want := range map[string]string{
		"127.0.0.1:9170": "a process of uid 998", "127.0.0.1:9171": "", "[::1]:9172": "a process of uid 996", "127.0.0.1:9173": "a process of uid 995", "127.0.0.1:1": "",
	} {
		if got := listenerOf(proc, netip.MustParseAddrPort(at)); got != want {
			t.Errorf("%s: %q, want %q", at, got, want)
		}
	}
}

func TestSee(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, []byte("text"), 0o640); err != nil {
		t.Fatal(err)
	}
	if f := see(path, 2); f.Err != nil || string(f.Data) != "te" || !f.there() {
		t.Errorf("%+v", f)
	}
	if f := see(filepath.Join(dir, "g"), 2); !errors.Is(f.Err, os.ErrNotExist) || f.there() {
		t.Errorf("%+v", f)
	}
	if f := see(dir, 2); f.Err == nil {
		t.Errorf("%+v", f)
	}
	if runtime.GOOS != "windows" && os.Geteuid() != 0 { // root reads every file
		if err := os.Chmod(path, 0); err != nil {
			t.Fatal(err)
		}
		if f := see(path, 2); !errors.Is(f.Err, os.ErrPermission) || !f.there() {
			t.Errorf("%+v", f)
		}
	}
	if f := see("", 2); f.Err != nil || f.there() {
		t.Errorf("%+v", f)
	}
}

// A broker that hangs is found as such, and leaves time for the rest.
func TestDoctorOfAHungBroker(t *testing.T) {
	home, err := os.MkdirTemp("", "d") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	cleared(t, home)
	path := filepath.Join(home, "stsbroker", "control.sock")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it takes connections, and says nothing
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), doctorTime)
	defer cancel()
	s, err := lookAround(ctx, &globals{}, "", true)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > doctorTime-time.Second {
		t.Errorf("it took %v", took)
	}
	if s.broker.Status != nil || !s.broker.Silent || s.broker.Path != path || s.sts.Kind != stsRefused {
		t.Errorf("%+v, %+v", s.broker, s.sts)
	}
	if !slices.ContainsFunc(judge(s), func(c complaint) bool { return c.ID == "daemon-silent" && c.Severity == severityStops }) {
		t.Errorf("%+v", judge(s))
	}
}

// What is at a control socket.
func TestLookAtSocket(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("not run: what is in a socket's way is told from it by its mode, which Windows does not have")
	}
	dir, err := os.MkdirTemp("", "d") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	at := func(name string) string { return filepath.Join(dir, name) }
	serve := func(name string, h http.HandlerFunc) {
		l, err := net.Listen("unix", at(name))
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: h, ReadHeaderTimeout: time.Second}
		t.Cleanup(func() { _ = s.Close() })
		go func() { _ = s.Serve(l) }()
	}
	serve("foreign", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"kind":"forbidden","message":"it gives you nothing"}`)
	})
	serve("broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	serve("ours", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"version":"1.0.0","pid":77}`) })
	mute, err := net.Listen("unix", at("silent"))
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: at("stale"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	if err := errors.Join(stale.Close(), os.Mkdir(at("folder"), 0o700), os.WriteFile(at("file"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		b       brokerSeen
		listens bool
	}{
		"foreign": {brokerSeen{Foreign: true}, true},
		"ours":    {brokerSeen{Status: &control.Status{}}, true},
		"broken":  {brokerSeen{Err: errors.New("")}, true},
		"silent":  {brokerSeen{Silent: true}, true},
		"stale":   {brokerSeen{Stale: true}, false},
		"folder":  {brokerSeen{InWay: true}, false},
		"file":    {brokerSeen{InWay: true}, false},
		"nothing": {brokerSeen{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			if name == "silent" { // what never comes
				ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
			}
			defer cancel()
			got, listens := lookAtSocket(ctx, at(name))
			if listens != want.listens || got.Path != at(name) || got.Foreign != want.b.Foreign || got.Silent != want.b.Silent || got.Stale != want.b.Stale || got.InWay != want.b.InWay ||
				(got.Status == nil) != (want.b.Status == nil) || (got.Err == nil) != (want.b.Err == nil) {
				t.Errorf("%+v, %v", got, listens)
			}
		})
	}

	// The next socket is looked at where nobody listens, and is the one that is told of.
	for paths, want := range map[[2]string]string{
		{"nothing", "foreign"}: "foreign", {"nothing", "silent"}: "silent", {"stale", "nothing"}: "stale", {"file", "nothing"}: "file", {"ours", "foreign"}: "ours", {"nothing", "stale"}: "nothing",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		s := &surroundings{unit: "sudo systemctl "}
		s.lookAtBroker(ctx, []string{at(paths[0]), at(paths[1])})
		cancel()
		if s.broker.Path != at(want) || s.broker.System || (s.unit == "") != (want == "ours") {
			t.Errorf("%v: %+v, unit %q", paths, s.broker, s.unit)
		}
	}
}

// The file and the STS of the broker that runs count, and not those of whoever asks.
func TestDoctorOfTheBrokersConfiguration(t *testing.T) {
	home := t.TempDir()
	cleared(t, home)
	t.Setenv(varEndpointURL, "")
	t.Setenv("AWS_REGION", "us-west-2")
	own, theirs := filepath.Join(home, "own.yaml"), filepath.Join(home, "theirs.yaml")
	sts := func(region, at string) []byte {
		return []byte("sts: { region: " + region + ", endpoints: { " + region + ": \"http://" + at + "\" } }\n")
	}
	there := refusing(t)
	if err := errors.Join(os.WriteFile(own, sts("eu-west-1", refusing(t)), 0o600), os.WriteFile(theirs, sts("eu-central-1", there), 0o600)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("STSBROKER_CONFIG", own)
	p, err := findPlace(&globals{}, false)
	if err != nil {
		t.Fatal(err)
	}
	look := func(b brokerSeen) *surroundings {
		t.Helper()
		s := &surroundings{self: "stsbroker", broker: b, aws: loadAWS(""), env: map[string]string{}}
		if err := s.lookAtConfig(&globals{}, p); err != nil {
			t.Fatal(err)
		}
		return s
	}
	ask := func(s *surroundings) (stsSeen, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		return s.askSTS(ctx, p)
	}
	s := look(brokerSeen{Status: &control.Status{Config: theirs}})
	if seen, why := ask(s); seen.Host != there || seen.Kind != stsRefused || seen.Scheme != "http" || why != "" {
		t.Errorf("%+v, %q", seen, why)
	}
	if got := s.check(); got != "stsbroker check --config "+theirs {
		t.Error(got)
	}
	s = look(brokerSeen{Status: &control.Status{Config: theirs, Profiles: []control.Profile{{Name: "store", Region: "eu-north-1", Compatible: true}}}})
	s.profile = "store"
	if seen, why := ask(s); seen.Asked || !strings.Contains(why, "profile store is minted by a store") {
		t.Errorf("of a store: %+v, %q", seen, why)
	}
	if s = look(brokerSeen{}); s.config.Path != own || s.check() != "stsbroker check" {
		t.Errorf("%+v, %s", s.config, s.check())
	}
	s = look(brokerSeen{Path: systemControl, System: true, Status: &control.Status{}})
	if seen, why := ask(s); seen.Asked || !strings.Contains(why, "only who administers it") {
		t.Errorf("as a guest: %+v, %q", seen, why)
	}
	s = look(brokerSeen{Status: &control.Status{Config: filepath.Join(home, "gone.yaml")}})
	if seen, why := ask(s); seen.Asked || !strings.Contains(why, "gone.yaml, which says which one the broker asks, cannot be read") {
		t.Errorf("of a file that cannot be read: %+v, %q", seen, why)
	}
}

// cleared is an environment of nothing but a home, and an STS that refuses connections.
func cleared(t *testing.T, home string) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "AWS_") || strings.HasPrefix(name, "STSBROKER_") || strings.HasSuffix(strings.ToUpper(name), "_PROXY") || strings.HasPrefix(name, "XDG_") {
			t.Setenv(name, "")
			if err := os.Unsetenv(name); err != nil { // t.Setenv puts it back
				t.Fatal(err)
			}
		}
	}
	t.Setenv("HOME", home)
	t.Setenv("USERPROFILE", home)
	t.Setenv("XDG_RUNTIME_DIR", home)
	t.Setenv(varEndpointURL, "http://"+refusing(t))
}

// No secret of the environment is in what is printed.
func TestDoctorPrintsNoSecret(t *testing.T) {
	home := t.TempDir()
	cleared(t, home)
	const canary = "canary-of-the-doctor"
	file := filepath.Join(home, "token")
	for path, text := range map[string]string{
		file:                                     canary + "\n" + canary,
		filepath.Join(home, ".aws", "config"):    "[default]\naws_secret_access_key = " + canary + "\n" + canary + "\n",
		filepath.Join(home, ".aws/credentials"):  "[default]\naws_access_key_id = " + canary + "\naws_secret_access_key = " + canary + "\n",
		filepath.Join(home, "stsbroker.yaml"):    "listen: {}\n",
		filepath.Join(home, "not-a-certificate"): canary,
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	with := "http://me:" + canary + "@127.0.0.1:1/credentials/app?" + canary + "#" + canary
	for _, set := range []map[string]string{
		{varFullURI: with, varToken: canary + " " + canary, varTokenFile: file, "AWS_CA_BUNDLE": filepath.Join(home, "not-a-certificate")},
		{varFullURI: "http://me:" + canary + "@host/", varToken: canary},
		{varFullURI: "http://me:" + canary + "@::1:1/" + canary},
		{varIMDS: "http://me:" + canary + "@127.0.0.1:1/?" + canary, varRelativeURI: ""},
		{varIMDS: with, "STSBROKER_CONFIG": filepath.Join(home, "stsbroker.yaml")},
	} {
		t.Run("", func(t *testing.T) {
			for k, v := range set {
				t.Setenv(k, v)
			}
			for _, k := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "OTHER_TOKEN"} {
				t.Setenv(k, canary)
			}
			for _, k := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
				t.Setenv(k, "http://me:"+canary+"@127.0.0.1:1")
			}
			s, err := lookAround(t.Context(), &globals{}, "", true)
			if err != nil {
				t.Fatal(err)
			}
			found := judge(s)
			var out strings.Builder
			showComplaints(&out, paint{}, s, found)
			asJSON, err := json.Marshal(found)
			if err != nil {
				t.Fatal(err)
			}
			if len(found) < 3 {
				t.Errorf("only %+v", found)
			}
			if text := out.String() + string(asJSON); strings.Contains(text, canary) {
				t.Error(text)
			}
		})
	}
}
