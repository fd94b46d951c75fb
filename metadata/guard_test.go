package metadata

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

const (
	line = "GET /credentials/dev HTTP/1.1\n"
	auth = "Authorization: TOKEN\n"
	host = "Host: 127.0.0.1:PORT\n"
)

// Security row 1. PORT is the listener's.
func TestHostAllowList(t *testing.T) {
	r := start(t, nil)
	allowed := []string{"127.0.0.1:PORT", "127.0.0.1", "localhost:PORT", "localhost", "[::1]:PORT", "[::1]"}
	for _, h := range allowed {
		for _, addr := range []string{r.addr, r.addr6} {
			if addr == "" {
				t.Log("not run on [::1]: this host has no IPv6")
				continue
			}
			if a := dial(t, addr).do(line + "Host: " + h + "\n" + auth + "\n"); a.status != http.StatusOK {
				t.Errorf("Host %s at %s: %d %s", h, addr, a.status, a.body)
			}
		}
	}

	refused := map[string]string{}
	for _, h := range []string{
		"", " ", "evil.example", "evil.example:PORT", "127.0.0.1.evil.example:PORT", "localhost.evil.example", "evil.localhost:PORT",
		"127.0.0.1.:PORT", "localhost.:PORT", "localhost.", "LOCALHOST:PORT", "Localhost",
		"127.0.0.1:", "127.0.0.1:80", "127.0.0.1:0PORT", "127.0.0.1:+PORT", "127.0.0.1:PORT:PORT", "127.0.0.1:PORT0", "localhost:http",
		"user@127.0.0.1:PORT", "127.0.0.1@evil.example", "127.0.0.1:PORT@evil.example", "127.0.0.1:PORT,evil.example", "127.0.0.1:PORT evil.example",
		"127.0.0.1/", "127.0.0.1:PORT/credentials", "127.0.0.1#", "127.0.0.1%00",
		"0.0.0.0:PORT", "0:PORT", "127.1:PORT", "127.0.0.2:PORT", "2130706433:PORT", "0x7f.0.0.1:PORT", "0177.0.0.1", "127.000.000.001",
		"::1", "::1:PORT", "[::]:PORT", "[0:0:0:0:0:0:0:1]:PORT", "[::1%25lo]:PORT", "[::ffff:127.0.0.1]:PORT", "[::1].evil.example",
		"169.254.170.2", "host.docker.internal:PORT", "\t127.0.0.1\t.example", "127.0.0.1\x00",
	} {
		refused["Host "+h] = line + "Host: " + h + "\n" + auth + "\n"
	}
	for name, request := range map[string]string{
		"absolute form":                 "GET http://127.0.0.1:PORT/credentials/dev HTTP/1.1\n" + host + auth + "\n",
		"absolute form over a bad Host": "GET http://127.0.0.1:PORT/credentials/dev HTTP/1.1\nHost: evil.example\n" + auth + "\n",
		"absolute form, evil":           "GET http://evil.example/credentials/dev HTTP/1.1\n" + host + auth + "\n",
		"absolute form, upper case":     "GET HTTP://127.0.0.1:PORT/credentials/dev HTTP/1.1\n" + host + auth + "\n",
		"absolute form, no slashes":     "GET x:/credentials/dev HTTP/1.1\n" + host + auth + "\n",
		"authority form":                "CONNECT 127.0.0.1:PORT HTTP/1.1\n" + host + auth + "\n",
		"asterisk form":                 "OPTIONS * HTTP/1.1\n" + host + auth + "\n",
		"no Host":                       line + auth + "\n",
		"HTTP/1.0 without Host":         "GET /credentials/dev HTTP/1.0\n" + auth + "\n",
		"HTTP/1.0 with another Host":    "GET /credentials/dev HTTP/1.0\nHost: evil.example\n" + auth + "\n",
		"two Hosts":                     line + host + "Host: evil.example\n" + auth + "\n",
		"two Hosts, the good one last":  line + "Host: evil.example\n" + host + auth + "\n",
		"folded Host":                   line + "Host: evil.example\n " + "127.0.0.1:PORT\n" + auth + "\n",
		"Host with a space before it":   line + " " + host + auth + "\n",
		"Host with a space behind it":   line + "Host : 127.0.0.1:PORT\n" + auth + "\n",
		"X-Forwarded-Host":              line + host + "X-Forwarded-Host: 127.0.0.1\n" + auth + "\n",
		"HTTP/2 preface":                "PRI * HTTP/2.0\n\nSM\n\n",
		"HTTP/0.9":                      "GET /credentials/dev\n\n",
	} {
		refused[name] = request
	}
	if len(refused) < 40 {
		t.Fatalf("only %d forms", len(refused))
	}
	for name, request := range refused {
		a := r.once(t, request)
		if a.leaks() || a.status < 400 || a.status >= 500 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		if !a.closed {
			t.Errorf("%s: the connection stays", name)
		}
	}
	if got := r.source.gets.Load(); got > int64(2*len(allowed)) {
		t.Errorf("the broker was asked %d times", got)
	}
}

// Security row 5: 403 whatever else is right, on every route, and no CORS header.
func TestBrowserAndProxyHeaders(t *testing.T) {
	r := start(t, nil)
	for _, h := range []string{
		"Origin: http://127.0.0.1:PORT", "Origin: null", "Origin:", "origin: http://evil.example",
		"Referer: http://evil.example/", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none", "Cookie: a=b",
		"Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization", "Access-Control-Request-Private-Network: true",
		"X-Forwarded-For: 127.0.0.1", "x-forwarded-proto: http", "X-Forwarded-Anything: x", "Forwarded: for=127.0.0.1", "Via: 1.1 proxy",
	} {
		for _, path := range []string{"/credentials/dev", "/credentials", "/nowhere"} {
			a := r.once(t, "GET "+path+" HTTP/1.1\n"+host+auth+h+"\n\n")
			if a.status != http.StatusForbidden || a.leaks() || !a.closed {
				t.Errorf("%s with %s: %d %s", path, h, a.status, a.body)
			}
			for name := range a.header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s: answered with %s", h, name)
				}
			}
		}
	}
	for _, h := range []string{"Sec-Fetch-Mode: cors", "Accept: */*", "User-Agent: x", "Accept-Encoding: gzip", "Connection: keep-alive", "Expect:"} {
		if a := r.once(t, line+host+auth+h+"\n\n"); a.status != http.StatusOK {
			t.Errorf("%s: %d %s; SDKs send it", h, a.status, a.body)
		}
	}
	if e := r.sink.lastRefused(t); e.Err.Cause == nil || e.Caller.Door != broker.DoorContainer || !e.Caller.Remote.IsValid() {
		t.Errorf("the log learns nothing: %+v", e)
	}
}

func TestBodies(t *testing.T) {
	r := start(t, nil)
	for name, rest := range map[string]string{
		"length":                "Content-Length: 4\n\nabcd",
		"length, not sent":      "Content-Length: 4\n\n",
		"long, not sent":        "Content-Length: 1000000\n\n",
		"chunked":               "Transfer-Encoding: chunked\n\n4\nabcd\n0\n\n",
		"chunked, empty":        "Transfer-Encoding: chunked\n\n0\n\n",
		"chunked, not sent":     "Transfer-Encoding: chunked\n\n",
		"both":                  "Transfer-Encoding: chunked\nContent-Length: 4\n\n0\n\n",
		"two lengths":           "Content-Length: 4\nContent-Length: 0\n\nabcd",
		"another coding":        "Transfer-Encoding: gzip\n\nabcd",
		"expect":                "Content-Length: 4\nExpect: 100-continue\n\n",
		"a request in the body": "Content-Length: 100\n\n" + line + host + auth + "\n",
	} {
		c := dial(t, r.addr)
		a := c.do(line + host + auth + rest)
		if a.leaks() || a.status < 400 || !a.closed {
			t.Errorf("%s: %d, closed %v: %s", name, a.status, a.closed, a.body)
		}
		if err := c.gone(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// net/http overlooks Transfer-Encoding in HTTP/1.0; what follows must not become a request.
	c := dial(t, r.addr)
	a := c.do("GET /credentials/dev HTTP/1.0\n" + host + auth + "Connection: keep-alive\nTransfer-Encoding: chunked\n\n" + line + host + auth + "\n")
	if !a.closed {
		t.Error("HTTP/1.0: the connection stays")
	}
	if err := c.gone(); err != nil {
		t.Errorf("HTTP/1.0: %v", err)
	}
	if a := r.once(t, line+host+auth+"Content-Length: 0\n\n"); a.status != http.StatusOK {
		t.Errorf("no body, and said so: %d", a.status)
	}
}

// Security row 6, and row 3: without the token nothing but 401 and 403.
func TestRoutesAndMethods(t *testing.T) {
	r := start(t, nil)
	served := map[string]bool{"/credentials": true, "/credentials/": true, "/credentials/dev": true, "/credentials/dev/": true, "//credentials/dev": true}
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "X"} {
		for _, path := range []string{
			"/credentials", "/credentials/", "/credentials/dev", "/credentials/dev/", "//credentials/dev",
			"/", "//", "/Credentials/dev", "/credentialsdev", "/credential", "/x/../credentials/dev", "/./credentials/dev",
			"/credentials/../credentials/dev", "/credentials/nobody", "/credentials/DEV", "/credentials/dev%00", "/credentials//dev",
			"/role-arn/x", "/v1/credentials", "/latest/api/token", "/latest/meta-data/", "/metrics", "/stop", "/debug/pprof/",
		} {
			request := method + " " + path + " HTTP/1.1\n" + host
			want := http.StatusMethodNotAllowed
			switch {
			case method == "GET" && served[path]:
				want = http.StatusOK
			case method == "GET":
				want = http.StatusForbidden
			}
			a := r.once(t, request+auth+"\n")
			if a.status != want || want != http.StatusOK && a.leaks() {
				t.Errorf("%s %s: %d, want %d: %s", method, path, a.status, want, a.body)
			}
			if want == http.StatusMethodNotAllowed && a.header.Get("Allow") != "GET" {
				t.Errorf("%s %s: Allow %q", method, path, a.header.Get("Allow"))
			}
			if method == "GET" {
				want = http.StatusUnauthorized
			}
			if a := r.once(t, request+"\n"); a.status != want || a.leaks() {
				t.Errorf("%s %s without a token: %d, want %d", method, path, a.status, want)
			}
		}
	}
}

// The guard is for other handlers too, and without a recorded caller it is shut.
func TestGuardAlone(t *testing.T) {
	r := &running{sink: &sink{}}
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) })
	g := Guard("metrics", hello, r.sink, r.sink)
	r.serve(t, g)
	if a := r.once(t, "GET /metrics HTTP/1.1\n"+host+"\n"); a.status != http.StatusOK || a.body != "hello" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := r.once(t, "GET /metrics HTTP/1.1\nHost: evil.example\n\n"); a.status != http.StatusForbidden {
		t.Errorf("another host: %d", a.status)
	}
	if got := r.sink.lastRefused(t).Caller.Door; got != "metrics" {
		t.Errorf("refused at the door %q", got)
	}

	w := httptest.NewRecorder()
	g.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil)) // not through NewServer
	if w.Code != http.StatusForbidden {
		t.Errorf("without a caller: %d", w.Code)
	}
}

func FuzzHost(f *testing.F) {
	for _, s := range []string{"127.0.0.1:9170", "localhost", "[::1]:9170", "evil.example", "127.0.0.1:9170\r\nHost: x", "127.0.0.1:9170\r\n", "\t[::1]", "localhost:"} {
		f.Add(s)
	}
	good := map[string]bool{"127.0.0.1": true, "localhost": true, "[::1]": true, "127.0.0.1:9170": true, "localhost:9170": true, "[::1]:9170": true}
	f.Fuzz(func(t *testing.T, s string) {
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET / HTTP/1.1\r\nHost: " + s + "\r\n\r\n")))
		if err != nil {
			return
		}
		if objection(req, &listen.Caller{LocalPort: "9170"}) != "" {
			return
		}
		first, _, _ := strings.Cut(s, "\n")
		if !good[strings.Trim(first, " \t\r")] {
			t.Fatalf("%q passed as %q", s, req.Host)
		}
	})
}
