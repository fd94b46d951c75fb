package ambient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

const (
	canarySecret = "CANARYsecretCANARYsecretCANARYsecret0000"
	canaryToken  = "CANARYtoken"
	showToken    = "CANARYauthorization"
)

// env is a getenv that knows these pairs only.
func env(pairs ...string) func(string) string {
	m := map[string]string{}
	for i := 0; i+1 < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(name string) string { return m[name] }
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func container(t *testing.T, s *httptest.Server, more ...string) *Minter {
	t.Helper()
	return must(t, ECS, Options{Getenv: env(append(more, "AWS_CONTAINER_CREDENTIALS_FULL_URI", s.URL+"/creds?x=1")...)})
}

func instance(t *testing.T, s *httptest.Server) *Minter {
	t.Helper()
	return must(t, EC2, Options{Getenv: env("AWS_EC2_METADATA_SERVICE_ENDPOINT", s.URL+"/")})
}

func must(t *testing.T, source string, o Options) *Minter {
	t.Helper()
	m, err := New(source, o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func asError(t *testing.T, err error) *broker.Error {
	t.Helper()
	var e *broker.Error
	if !errors.As(err, &e) {
		t.Fatalf("not an error of the domain: %v", err)
	}
	if s := fmt.Sprintf("%v %+v %q %#v %v", err, err, err, e.Cause, e.Code); strings.Contains(s, "CANARY") || strings.ContainsAny(e.Error(), "\n\x1b") || len(e.Error()) > 800 {
		t.Errorf("shows what it must not: %s", s)
	}
	return e
}

func expectError(t *testing.T, name string, err error, kind broker.Kind, text string) {
	t.Helper()
	if e := asError(t, err); e.Kind != kind || !strings.Contains(e.Error(), text) {
		t.Errorf("%s: %v: %v; want %v: …%s…", name, e.Kind, err, kind, text)
	}
}

func body(expires time.Time, more string) string {
	return fmt.Sprintf(`{"AccessKeyId": "ASIA1", "SecretAccessKey": %q, "Token": %q, "Expiration": %q%s}`,
		canarySecret, canaryToken, expires.UTC().Format(time.RFC3339), more)
}

func expectCredentials(t *testing.T, c broker.Credentials, err error, account string, life time.Duration) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if c.AccessKeyID != "ASIA1" || c.SecretAccessKey.Reveal() != canarySecret || c.SessionToken.Reveal() != canaryToken || c.AccountID != account {
		t.Errorf("%+v", c)
	}
	if d := c.Lifetime() - life; d > 2*time.Second || d < -time.Minute {
		t.Errorf("lives %v, want %v", c.Lifetime(), life)
	}
}

func TestContainer(t *testing.T) {
	t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "from the process")
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	var asked []string
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.String()+" "+r.Header.Get("Authorization"))
		fmt.Fprint(w, body(time.Now().Add(6*time.Hour), `, "AccountId": "123456789012", "RoleArn": "x"`))
	})
	c, err := container(t, s).Mint(t.Context(), broker.MintInput{})
	expectCredentials(t, c, err, "123456789012", 6*time.Hour)

	c, err = container(t, s, "AWS_CONTAINER_AUTHORIZATION_TOKEN", showToken).Mint(t.Context(), broker.MintInput{})
	expectCredentials(t, c, err, "123456789012", 6*time.Hour)

	file := filepath.Join(t.TempDir(), "token")
	m := container(t, s, "AWS_CONTAINER_AUTHORIZATION_TOKEN", "old", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file)
	_, err = m.Mint(t.Context(), broker.MintInput{})
	expectError(t, "no file", err, broker.KindConfig, "token file cannot be read")
	for _, token := range []string{"one", "two"} { // it is read each time
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err = m.Mint(t.Context(), broker.MintInput{})
		expectCredentials(t, c, err, "123456789012", 6*time.Hour)
	}
	if err := os.WriteFile(file, []byte(showToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = m.Mint(t.Context(), broker.MintInput{})
	expectError(t, "newline", err, broker.KindConfig, "has a newline")

	want := []string{"/creds?x=1 ", "/creds?x=1 " + showToken, "/creds?x=1 one", "/creds?x=1 two"}
	if strings.Join(asked, "|") != strings.Join(want, "|") {
		t.Errorf("%q", asked)
	}
}

// metadata plays an instance metadata service that insists on version 2.
func metadata(t *testing.T, list, leaf string) *httptest.Server {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		const roles = "/latest/meta-data/iam/security-credentials/"
		switch {
		case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token":
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds"))
			fmt.Fprint(w, showToken)
		case r.Method != http.MethodGet || r.Header.Get("X-Aws-Ec2-Metadata-Token") != showToken:
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == roles && list != "":
			fmt.Fprint(w, list)
		case r.URL.Path == roles+"my-role":
			fmt.Fprint(w, leaf)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
}

func TestInstance(t *testing.T) {
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
	success := body(time.Now().Add(6*time.Hour), `, "Code": "Success"`)
	for _, list := range []string{"my-role", "my-role\n", "my-role\r\nother"} {
		c, err := instance(t, metadata(t, list, success)).Mint(t.Context(), broker.MintInput{})
		expectCredentials(t, c, err, "", 6*time.Hour)
	}
	for name, c := range map[string]struct {
		list, leaf string
		kind       broker.Kind
		want       string
	}{
		"no role":     {"", "", broker.KindConfig, "no role"},
		"path":        {"../../user-data", success, broker.KindUnavailable, "list of roles"},
		"dots":        {"..", success, broker.KindUnavailable, "list of roles"},
		"page":        {"<html>", success, broker.KindUnavailable, "list of roles"},
		"blank":       {"\n", success, broker.KindUnavailable, "list of roles"},
		"other role":  {"other", success, broker.KindDenied, "404 Not Found"},
		"code":        {"my-role", `{"Code": "AssumeRoleUnauthorizedAccess", "Message": "EC2 cannot \u001b assume"}`, broker.KindDenied, "AssumeRoleUnauthorizedAccess (it said: EC2 cannot  assume)"},
		"null":        {"my-role", "null", broker.KindUnavailable, "lacks a key"},
		"number":      {"my-role", "1", broker.KindUnavailable, "not JSON"},
		"garbage":     {"my-role", canarySecret, broker.KindUnavailable, "not JSON"},
		"wrong type":  {"my-role", `{"Code": "Success", "SecretAccessKey": {"` + canarySecret + `": 1}}`, broker.KindUnavailable, "not JSON"},
		"empty":       {"my-role", `{"Code": "Success"}`, broker.KindUnavailable, "lacks a key"},
		"no expiry":   {"my-role", strings.Replace(success, "Expiration", "X", 1), broker.KindConfig, "no Expiration"},
		"bad expiry":  {"my-role", `{"AccessKeyId": "a", "SecretAccessKey": "b", "Token": "c", "Expiration": "` + canarySecret + `"}`, broker.KindUnavailable, "not RFC 3339"},
		"expired":     {"my-role", body(time.Now().Add(-time.Minute), `, "Code": "Success"`), broker.KindUnavailable, "had expired 1m"},
		"much":        {"my-role", strings.Repeat(" ", maxBody+1) + success, broker.KindUnavailable, "larger than 64 KB"},
		"much listed": {strings.Repeat("x", maxBody+1), success, broker.KindUnavailable, "larger than 64 KB"},
	} {
		_, err := instance(t, metadata(t, c.list, c.leaf)).Mint(t.Context(), broker.MintInput{})
		expectError(t, name, err, c.kind, c.want)
	}
}

func TestInstanceNeverFallsBackToVersion1(t *testing.T) {
	for _, status := range []int{400, 403, 404, 405, 500, 503} {
		gets := 0
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				gets++
			}
			w.WriteHeader(status)
		})
		_, err := instance(t, s).Mint(t.Context(), broker.MintInput{})
		want := broker.KindDenied
		if status >= 500 {
			want = broker.KindUnavailable
		}
		if e := asError(t, err); gets != 0 || e.Kind != want {
			t.Errorf("%d: %d requests without a token, %v", status, gets, err)
		}
	}
}

func TestContainerFailures(t *testing.T) {
	whole := body(time.Now().Add(time.Hour), "")
	for name, c := range map[string]struct {
		status int
		typ    string
		body   string
		kind   broker.Kind
		want   string
	}{
		"denied":       {403, "application/json", `{"code": "AccessDenied", "message": "not \u001b yours"}`, broker.KindDenied, "with AccessDenied (it said: not  yours)"},
		"plain denied": {400, "text/plain", "no\x1b[31m\nrole", broker.KindDenied, "it said: no[31mrole"},
		"throttled":    {429, "application/json", `{"code": "Slow"}`, broker.KindThrottled, "Slow"},
		"down":         {503, "text/html", strings.Repeat("x", 10000), broker.KindUnavailable, "it said: xxx"},
		"bad error":    {500, "application/json", "{", broker.KindUnavailable, "500 Internal Server Error (it said: {)"},
		"garbage":      {200, "application/json", canarySecret, broker.KindUnavailable, "not JSON"},
		"wrong type":   {200, "application/json", strings.Replace(whole, `"`+canaryToken+`"`, "42", 1), broker.KindUnavailable, "not JSON"},
		"null":         {200, "application/json", "null", broker.KindUnavailable, "lacks a key"},
		"empty":        {200, "application/json", "{}", broker.KindUnavailable, "lacks a key"},
		"no token":     {200, "application/json", strings.Replace(whole, "Token", "X", 1), broker.KindUnavailable, "lacks a key"},
		"no expiry":    {200, "application/json", strings.Replace(whole, "Expiration", "X", 1), broker.KindConfig, "no Expiration"},
		"expired":      {200, "application/json", body(time.Now().Add(-time.Hour), ""), broker.KindUnavailable, "had expired"},
		"much":         {200, "application/json", strings.Repeat(" ", maxBody) + whole, broker.KindUnavailable, "larger than 64 KB"},
		"redirect":     {302, "text/plain", "", broker.KindUnavailable, "302 Found"},
	} {
		asked := 0
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			asked++
			w.Header().Set("Location", "/elsewhere")
			w.Header().Set("Content-Type", c.typ)
			w.WriteHeader(c.status)
			fmt.Fprint(w, c.body)
		})
		_, err := container(t, s, "AWS_CONTAINER_AUTHORIZATION_TOKEN", showToken).Mint(t.Context(), broker.MintInput{})
		expectError(t, name, err, c.kind, c.want)
		if asked != 1 {
			t.Errorf("%s: asked %d times", name, asked)
		}
	}
}

// TestLifetimeIsTheEndpoints has an endpoint whose clock is not the host's.
func TestLifetimeIsTheEndpoints(t *testing.T) {
	for _, off := range []time.Duration{-3 * time.Hour, 3 * time.Hour} {
		now := time.Now().Add(off)
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
			fmt.Fprint(w, body(now.Add(time.Hour), ""))
		})
		c, err := container(t, s).Mint(t.Context(), broker.MintInput{})
		expectCredentials(t, c, err, "", time.Hour)
	}
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil
		fmt.Fprint(w, body(time.Now().Add(time.Hour), ""))
	})
	c, err := container(t, s).Mint(t.Context(), broker.MintInput{})
	expectCredentials(t, c, err, "", time.Hour)
}

func TestHangs(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for _, m := range []*Minter{container(t, s), instance(t, s)} {
		ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := m.Mint(ctx, broker.MintInput{})
		stop()
		expectError(t, m.source, err, broker.KindUnavailable, "cannot be reached")
	}
	s.Close()
	_, err := instance(t, s).Mint(t.Context(), broker.MintInput{})
	expectError(t, "nobody listens", err, broker.KindUnavailable, "hop limit")
}

func TestNeverAsksItself(t *testing.T) {
	asked := 0
	s := serve(t, func(http.ResponseWriter, *http.Request) { asked++ })
	us := netip.MustParseAddrPort(s.Listener.Addr().String())
	everywhere := netip.AddrPortFrom(netip.IPv4Unspecified(), us.Port())
	mapped := netip.AddrPortFrom(netip.AddrFrom16(us.Addr().As16()), us.Port())
	for _, l := range []netip.AddrPort{us, everywhere, mapped} {
		for _, host := range []string{"127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0"} {
			u := "http://" + net.JoinHostPort(host, strconv.Itoa(int(us.Port()))) + "/credentials/dev"
			_, err := New(ECS, Options{Getenv: env("AWS_CONTAINER_CREDENTIALS_FULL_URI", u), Listeners: []netip.AddrPort{l}})
			expectError(t, u, err, broker.KindConfig, "is this broker itself")
			_, err = New(EC2, Options{Getenv: env("AWS_EC2_METADATA_SERVICE_ENDPOINT", u), Listeners: []netip.AddrPort{l}})
			expectError(t, u, err, broker.KindConfig, "is this broker itself")
		}
		// A name shows what it stands for only when it is used. (It may stand
		// for ::1 too, where nobody listens.)
		for source, variable := range map[string]string{ECS: "AWS_CONTAINER_CREDENTIALS_FULL_URI", EC2: "AWS_EC2_METADATA_SERVICE_ENDPOINT"} {
			u := fmt.Sprintf("http://localhost:%d/credentials/dev", us.Port())
			m := must(t, source, Options{Getenv: env(variable, u), Listeners: []netip.AddrPort{l, netip.AddrPortFrom(netip.IPv6Loopback(), us.Port())}})
			_, err := m.Mint(t.Context(), broker.MintInput{})
			expectError(t, u, err, broker.KindConfig, "is this broker itself")
		}
	}
	if asked != 0 {
		t.Errorf("asked itself %d times", asked)
	}
	// A neighbour on the same address is not us.
	other := netip.AddrPortFrom(us.Addr(), us.Port()^1)
	must(t, ECS, Options{Getenv: env("AWS_CONTAINER_CREDENTIALS_FULL_URI", s.URL), Listeners: []netip.AddrPort{other}})
	expectError(t, "port 80", errOf(New(ECS, Options{Getenv: env("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1/"), Listeners: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:80")}})),
		broker.KindConfig, "is this broker itself")
}

func errOf(_ *Minter, err error) error { return err }

func TestWhereTheEndpointIs(t *testing.T) {
	for _, c := range []struct {
		source string
		env    []string
		want   string // endpoint, or part of an error that begins with "!"
	}{
		{EC2, nil, "http://169.254.169.254"},
		{EC2, []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ipv6"}, "http://[fd00:ec2::254]"},
		{EC2, []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ipv4"}, "http://169.254.169.254"},
		{EC2, []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ipv5"}, "!neither IPv4 nor IPv6"},
		{EC2, []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://[::1]:80/"}, "http://[::1]:80"},
		{EC2, []string{"AWS_EC2_METADATA_DISABLED", "TRUE"}, "!AWS_EC2_METADATA_DISABLED"},
		{EC2, []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://10.0.0.1"}, "!not on this machine"},
		{ECS, nil, "!neither AWS_CONTAINER_CREDENTIALS_RELATIVE_URI nor"},
		{ECS, []string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1/"}, "http://169.254.170.2/v2/x"},
		{ECS, []string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "@10.0.0.1/"}, "!slash"},
		{ECS, []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials"}, "http://169.254.170.23/v1/credentials"},
		{ECS, []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://[fd00:ec2::23]/v1"}, "http://[fd00:ec2::23]/v1"},
		{ECS, []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "https://10.0.0.1/v1"}, "https://10.0.0.1/v1"},
		{ECS, []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://10.0.0.1/v1"}, "!not on this machine"},
		{ECS, []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://0.0.0.0/v1"}, "!not on this machine"},
		{ECS, []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:99999/"}, "!port"},
		{ECS, []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "ftp://127.0.0.1/"}, "!URL"},
		{ECS, []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http:///x"}, "!URL"},
		{ECS, []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://me:" + canarySecret + "@127.0.0.1/"}, "!URL"},
		{ECS, []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI", canarySecret + "\n"}, "!URL"},
		{"Environment", nil, "!is not Ec2InstanceMetadata or EcsContainer"},
	} {
		m, err := New(c.source, Options{Getenv: env(c.env...)})
		if text, ok := strings.CutPrefix(c.want, "!"); ok {
			expectError(t, fmt.Sprint(c.env), err, broker.KindConfig, text)
			continue
		}
		if err != nil || m.endpoint != c.want {
			t.Errorf("%s %v: %+v, %v", c.source, c.env, m, err)
		}
	}
}

func TestDigest(t *testing.T) {
	const uri, token, file, imds = "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_EC2_METADATA_SERVICE_ENDPOINT"
	seen := map[broker.Digest]string{}
	for _, c := range []struct {
		source string
		env    []string
	}{
		{EC2, nil}, {EC2, []string{imds, "http://127.0.0.1"}}, {ECS, []string{uri, "http://127.0.0.1"}}, {ECS, []string{uri, "http://127.0.0.1/x"}},
		{ECS, []string{uri, "http://127.0.0.1", token, "a"}}, {ECS, []string{uri, "http://127.0.0.1", token, "b"}}, {ECS, []string{uri, "http://127.0.0.1", file, "a"}},
	} {
		d := must(t, c.source, Options{Getenv: env(c.env...)}).Digest()
		if d != must(t, c.source, Options{Getenv: env(c.env...)}).Digest() {
			t.Errorf("%v: two digests", c)
		}
		if other, ok := seen[d]; ok {
			t.Errorf("%v and %s share a digest", c, other)
		}
		seen[d] = fmt.Sprint(c)
	}
}
