package login

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/ssofake"
)

// over is the stand-in on loopback, and a manager that calls it.
func overLoopback(t *testing.T) (*ssofake.Server, *Manager) {
	t.Helper()
	fake := newFake()
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	m := New(Options{Endpoint: func(string, string) string { return server.URL }})
	t.Cleanup(m.api.http.CloseIdleConnections)
	return fake, m
}

func begin(t *testing.T, m *Manager) Attempt {
	t.Helper()
	a, err := m.Begin(t.Context(), corp(), false)
	if err != nil {
		t.Fatal(err)
	}
	if !a.First || a.Code != "" {
		t.Errorf("%+v", a)
	}
	return a
}

// get is a browser that is sent to an address.
func get(t *testing.T, at string) (int, http.Header, string) {
	t.Helper()
	r, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(at)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, r.Header, string(b)
}

// The whole way by a browser, and what is in the address it is sent to.
func TestBrowser(t *testing.T) {
	fake, m := overLoopback(t)
	a := begin(t, m)
	u, err := url.Parse(a.URL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if u.Path != "/authorize" || q.Get("scopes") != "sso:account:access" || q.Get("response_type") != "code" || len(q.Get("state")) != 43 || len(q.Get("code_challenge")) != 43 {
		t.Errorf("%s", a.URL)
	}
	back, err := fake.Visit(a.URL, true)
	if err != nil {
		t.Fatal(err)
	}
	status, header, body := get(t, back)
	if status != 200 || !strings.Contains(body, "You are signed in. You may close this tab.") {
		t.Errorf("%d %s", status, body)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
		"Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	} {
		if got := header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if err := a.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustMint(t, m)
	if s := standingOf(m, corp()); !s.refreshable {
		t.Errorf("%+v", s)
	}
	if c, err := net.Dial("tcp", host(t, back)); err == nil {
		c.Close()
		t.Error("the port is open after the attempt")
	}
	// The next one uses the same registration, and another port, state and challenge.
	b := begin(t, m)
	if v, _ := url.Parse(b.URL); v.Query().Get("state") == q.Get("state") || v.Query().Get("code_challenge") == q.Get("code_challenge") || v.Query().Get("client_id") != q.Get("client_id") {
		t.Errorf("%s after %s", b.URL, a.URL)
	}
	if n := fake.Count(ssofake.RegisterClient, ""); n != 1 {
		t.Errorf("%d registrations", n)
	}
}

func host(t *testing.T, at string) string {
	t.Helper()
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// Whoever finds the port learns and ends nothing. Over a raw connection: a client's
// library would mend some of it.
func TestBrowserStrangers(t *testing.T) {
	fake, m := overLoopback(t)
	a := begin(t, m)
	back, err := fake.Visit(a.URL, true)
	if err != nil {
		t.Fatal(err)
	}
	at, query, _ := strings.Cut(back, "?")
	addr := host(t, at)
	_, port, _ := net.SplitHostPort(addr)
	good := "/oauth/callback?" + query
	for name, tc := range map[string]struct {
		request string
		status  int
	}{
		"another name":       {"GET " + good + " HTTP/1.1\r\nHost: evil.example:" + port, 403},
		"localhost":          {"GET " + good + " HTTP/1.1\r\nHost: localhost:" + port, 403},
		"no port":            {"GET " + good + " HTTP/1.1\r\nHost: 127.0.0.1", 403},
		"another port":       {"GET " + good + " HTTP/1.1\r\nHost: 127.0.0.1:1", 403},
		"a dot":              {"GET " + good + " HTTP/1.1\r\nHost: 127.0.0.1.:" + port, 403},
		"no host":            {"GET " + good + " HTTP/1.0", 403},
		"absolute":           {"GET http://evil.example:" + port + good + " HTTP/1.1\r\nHost: " + addr, 403},
		"two hosts":          {"GET " + good + " HTTP/1.1\r\nHost: " + addr + "\r\nHost: " + addr, 400},
		"another path":       {"GET /?" + query + " HTTP/1.1\r\nHost: " + addr, 404},
		"a slash more":       {"GET /oauth/callback/?" + query + " HTTP/1.1\r\nHost: " + addr, 404},
		"favicon":            {"GET /favicon.ico HTTP/1.1\r\nHost: " + addr, 404},
		"POST":               {"POST " + good + " HTTP/1.1\r\nContent-Length: 0\r\nHost: " + addr, 405},
		"HEAD":               {"HEAD " + good + " HTTP/1.1\r\nHost: " + addr, 405},
		"no state":           {"GET /oauth/callback?code=x HTTP/1.1\r\nHost: " + addr, 403},
		"another state":      {"GET /oauth/callback?code=x&state=" + strings.Repeat("x", 43) + " HTTP/1.1\r\nHost: " + addr, 403},
		"two states":         {"GET " + good + "&state=x HTTP/1.1\r\nHost: " + addr, 403},
		"an error, no state": {"GET /oauth/callback?error=access_denied HTTP/1.1\r\nHost: " + addr, 403},
		"a bad query":        {"GET " + good + "&%zz HTTP/1.1\r\nHost: " + addr, 403},
	} {
		if got := raw(t, addr, tc.request); got != tc.status {
			t.Errorf("%s: %d, want %d", name, got, tc.status)
		}
	}
	if n := fake.Count(ssofake.CreateToken, ""); n != 0 {
		t.Errorf("%d codes were taken", n)
	}
	if status, _, body := get(t, back); status != 200 {
		t.Errorf("the browser itself: %d %s", status, body)
	}
	if err := a.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

func raw(t *testing.T, addr, request string) int {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request+"\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	return r.StatusCode
}

// The ways in which the browser comes back with nothing.
func TestBrowserFails(t *testing.T) {
	for name, tc := range map[string]struct {
		fault ssofake.Fault
		query func(url.Values)
		page  string
		err   string
	}{
		"denied": {query: func(q url.Values) { q.Del("code"); q.Set("error", "access_denied") }, page: "it was refused in the browser", err: "no sign-in to corp: it was refused in the browser"},
		"another error": {query: func(q url.Values) {
			q.Set("error", "server_error")
			q.Set("error_description", "<b>sorry</b>\x1b[2J\nbye")
		}, page: "server_error: &lt;b&gt;sorry&lt;/b&gt;[2Jbye.", err: "came back with server_error: <b>sorry</b>[2Jbye"},
		"no code":           {query: func(q url.Values) { q.Del("code") }, page: "without a code", err: "without a code"},
		"two codes":         {query: func(q url.Values) { q.Add("code", "x") }, page: "without a code", err: "without a code"},
		"a forged code":     {query: func(q url.Values) { q.Set("code", "code-of-somebody-else") }, page: "InvalidGrantException", err: "InvalidGrantException: Invalid grant provided; check sso_start_url"},
		"the service fails": {fault: ssofake.Fault{Status: 500, Code: "InternalServerException"}, query: func(url.Values) {}, page: "InternalServerException", err: "InternalServerException"},
		"a long error":      {query: func(q url.Values) { q.Set("error", strings.Repeat("x", 5000)) }, page: strings.Repeat("x", 64) + ".", err: "came back with xxx"},
	} {
		t.Run(name, func(t *testing.T) {
			fake, m := overLoopback(t)
			a := begin(t, m)
			back, err := fake.Visit(a.URL, true)
			if err != nil {
				t.Fatal(err)
			}
			fake.SetFault(tc.fault)
			u, _ := url.Parse(back)
			q := u.Query()
			code := q.Get("code")
			tc.query(q)
			u.RawQuery = q.Encode()
			status, _, body := get(t, u.String())
			if status != 400 || !strings.Contains(body, "You are not signed in: ") || !strings.Contains(body, tc.page) || strings.Contains(body, code) {
				t.Errorf("%d %s", status, body)
			}
			err = a.Wait(t.Context())
			if err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), code) {
				t.Errorf("%v", err)
			}
			if standingOf(m, corp()).signedIn {
				t.Error("signed in")
			}
		})
	}
}

// A second comeback while the first is on its way: one of them counts.
func TestBrowserTwice(t *testing.T) {
	fake, m := overLoopback(t)
	a := begin(t, m)
	back, err := fake.Visit(a.URL, true)
	if err != nil {
		t.Fatal(err)
	}
	fake.SetFault(ssofake.Fault{Op: ssofake.CreateToken, Delay: 300 * time.Millisecond})
	statuses := make(chan int, 2)
	for range 2 {
		go func() { s, _, _ := get(t, back); statuses <- s }()
	}
	if one, two := <-statuses, <-statuses; one+two != 200+403 {
		t.Errorf("%d and %d", one, two)
	}
	if err := a.Wait(t.Context()); err != nil || fake.Count(ssofake.CreateToken, "") != 1 {
		t.Errorf("%v", err)
	}
}

// Nobody waits any more: the port closes, and the registration, which the page may
// have refused, is made anew next time.
func TestBrowserNobodyWaits(t *testing.T) {
	fake, m := overLoopback(t)
	a := begin(t, m)
	back, err := fake.Visit(a.URL, true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := a.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "nobody waits") {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", host(t, back)); err == nil {
		c.Close()
		t.Error("the port is still open")
	}
	b := begin(t, m)
	back, err = fake.Visit(b.URL, true)
	if err != nil {
		t.Fatal(err)
	}
	get(t, back)
	if err := b.Wait(t.Context()); err != nil || fake.Count(ssofake.RegisterClient, "") != 2 {
		t.Errorf("%v after %d registrations", err, fake.Count(ssofake.RegisterClient, ""))
	}
}

// TLS as everywhere: an authority that is not trusted, and a proxy for https alone.
func TestTransport(t *testing.T) {
	fake := newFake()
	server := httptest.NewUnstartedServer(fake)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	at := func(string, string) string { return server.URL }
	_, err := New(Options{Endpoint: at}).Begin(t.Context(), corp(), true)
	if e := broker.AsError(err); e.Kind != broker.KindUnavailable || !strings.Contains(e.Public, "its certificate is not trusted") || !strings.Contains(e.Public, "AWS_CA_BUNDLE") {
		t.Errorf("%v", err)
	}
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.Host)
		http.Error(w, "canary", http.StatusProxyAuthRequired)
	}))
	defer proxy.Close()
	to, _ := url.Parse(proxy.URL)
	_, err = New(Options{Endpoint: at, Proxy: http.ProxyURL(to)}).Begin(t.Context(), corp(), true)
	if e := broker.AsError(err); !strings.Contains(e.Public, "the proxy of HTTPS_PROXY refuses the connection (HTTP 407)") || strings.Contains(e.Error(), "canary") {
		t.Errorf("%v", err)
	}
	if want := "CONNECT " + server.Listener.Addr().String(); fmt.Sprint(asked) != "["+want+"]" {
		t.Errorf("the proxy was asked %v", asked)
	}
	plain := httptest.NewServer(fake)
	defer plain.Close()
	bad := func(*http.Request) (*url.URL, error) { return nil, errors.New("me:canary@proxy") }
	m := New(Options{Endpoint: func(string, string) string { return plain.URL }, Proxy: bad})
	a, err := m.Begin(t.Context(), corp(), true)
	if err != nil {
		t.Errorf("loopback through a proxy: %v", err)
	} else {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = a.Wait(ctx)
	}
	if _, err := New(Options{Endpoint: at, Proxy: bad}).Begin(t.Context(), corp(), true); err == nil || !strings.Contains(err.Error(), "HTTPS_PROXY is not the address") || strings.Contains(err.Error(), "canary") {
		t.Errorf("%v", err)
	}
}

// Everybody on the host can reach the port: they cannot have more than a few of the
// daemon's descriptors, nor keep the browser out.
func TestCallbackCrowded(t *testing.T) {
	fake := newFake()
	m := newManager(fake, Options{})
	a, err := m.Begin(t.Context(), corp(), false)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(a.URL)
	if err != nil {
		t.Fatal(err)
	}
	redirect := u.Query().Get("redirect_uri")
	back, err := url.Parse(redirect)
	if err != nil {
		t.Fatal(err)
	}
	ended, began := make(chan struct{}, 100), time.Now()
	for range cap(ended) {
		c, err := net.Dial("tcp", back.Host)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go func() {
			_, _ = io.Copy(io.Discard, c)
			ended <- struct{}{}
		}()
	}
	for range cap(ended) - mostConns { // at once
		<-ended
	}
	if took := time.Since(began); took >= headerTimeout {
		t.Errorf("after %v", took)
	}
	r, err := http.Get(redirect + "?error=access_denied&state=" + url.QueryEscape(u.Query().Get("state")))
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	if err := a.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), errRefusedThere.Error()) {
		t.Errorf("the browser was not heard: %v", err)
	}
	for range mostConns {
		<-ended
	}
}
