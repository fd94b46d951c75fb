package metadata

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

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
	r.roles[appRole] = []string{"dev"}
	served := []string{
		"/credentials", "/credentials/", "/credentials/dev", "/credentials/dev/", "//credentials/dev",
		"/v1/credentials", "/v1/credentials/", "//v1/credentials", "/role-arn/" + appRole,
	}
	others := []string{
		"/", "//", "/Credentials/dev", "/credentialsdev", "/credential", "/x/../credentials/dev", "/./credentials/dev",
		"/credentials/../credentials/dev", "/credentials/nobody", "/credentials/DEV", "/credentials/dev%00", "/credentials//dev",
		"/role-arn", "/role-arn/", "/role-arn/x", "/v1", "/v1/", "/v1/credentials/dev", "/v2/credentials",
		"/latest/api/token", "/latest/meta-data/", "/metrics", "/stop", "/debug/pprof/",
	}
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "X"} {
		for _, path := range slices.Concat(served, others) {
			request := method + " " + path + " HTTP/1.1\n" + host
			want := http.StatusMethodNotAllowed
			switch {
			case method == "GET" && slices.Contains(served, path):
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

// A listener with a link-local address goes by that alone.
func TestHostOfLinkLocal(t *testing.T) {
	literals := []string{"169.254.170.2", "169.254.170.23", "169.254.169.254", "[fd00:ec2::23]", "[fd00:ec2::254]"}
	for _, own := range literals {
		caller := &listen.Caller{Host: own, LocalPort: "80"}
		for _, h := range slices.Concat(literals, []string{"127.0.0.1", "localhost", "[::1]", "evil.example", "", own + ".", own + ".evil.example", "x" + own, "user@" + own}) {
			for port, fits := range map[string]bool{"": true, ":80": true, ":": false, ":81": false, ":080": false, ":80:80": false} {
				r := httptest.NewRequest(http.MethodGet, "/credentials", nil)
				r.Host = h + port
				why := objection(r, caller)
				if want := h == own && fits; (why == "") != want {
					t.Errorf("Host %s at %s: passes: %v; said %q", r.Host, own, why == "", why)
				}
				if why != "" && !strings.Contains(why, own) {
					t.Errorf("Host %s at %s: %q does not say what is right", r.Host, own, why)
				}
			}
		}
	}
}

func FuzzHost(f *testing.F) {
	for _, s := range []string{"127.0.0.1:9170", "localhost", "[::1]:9170", "evil.example", "127.0.0.1:9170\r\nHost: x", "127.0.0.1:9170\r\n", "\t[::1]", "localhost:", "[fd00:ec2::23]", "[fd00:ec2::23]:80", "[fd00:ec2::23]:80.", "169.254.170.2"} {
		f.Add(s)
	}
	good := map[string]bool{"127.0.0.1": true, "localhost": true, "[::1]": true, "127.0.0.1:9170": true, "localhost:9170": true, "[::1]:9170": true}
	f.Fuzz(func(t *testing.T, s string) {
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET / HTTP/1.1\r\nHost: " + s + "\r\n\r\n")))
		if err != nil {
			return
		}
		first, _, _ := strings.Cut(s, "\n")
		first = strings.Trim(first, " \t\r")
		if objection(req, &listen.Caller{LocalPort: "9170"}) == "" && !good[first] {
			t.Fatalf("%q passed as %q", s, req.Host)
		}
		if objection(req, &listen.Caller{Host: "[fd00:ec2::23]", LocalPort: "80"}) == "" && first != "[fd00:ec2::23]" && first != "[fd00:ec2::23]:80" {
			t.Fatalf("%q passed at a link-local address as %q", s, req.Host)
		}
	})
}
