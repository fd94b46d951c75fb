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

// Security row 6, and row 3: without the token nothing but 401 and 403.
func TestRoutesAndMethods(t *testing.T) {
	r := start(t, nil)
	served := map[string]bool{
		"/v1/credentials": true, "/v1/credentials/": true, "//v1/credentials": true, "/role-arn/" + appRole: true, "/credentials": true, "/credentials/": true, "/credentials/dev": true, "/credentials/dev/": true, "//credentials/dev": true,
	}
	r.roles[appRole] = []string{"dev"}
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "X"} {
		for _, path := range []string{
			"/credentials", "/credentials/", "/credentials/dev", "/credentials/dev/", "//credentials/dev",
			"/v1/credentials", "/v1/credentials/", "//v1/credentials", "/role-arn/" + appRole,
			"/", "//", "/Credentials/dev", "/credentialsdev", "/credential", "/x/../credentials/dev", "/./credentials/dev",
			"/credentials/../credentials/dev", "/credentials/nobody", "/credentials/DEV", "/credentials/dev%00", "/credentials//dev",
			"/role-arn", "/role-arn/", "/role-arn/x", "/v1", "/v1/", "/v1/credentials/dev", "/v2/credentials", "/latest/api/token", "/latest/meta-data/", "/metrics", "/stop", "/debug/pprof/",
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
