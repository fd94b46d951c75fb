package metadata

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

// The lines of the wire contract, by number: what AWS SDKs expect of a server.

// wireLines is how many lines the contract has. Those that are about what commands
// print and set are tested beside the commands.
const wireLines = 24

func TestEveryLineOfTheContractHasATest(t *testing.T) {
	tests := map[int]int{}
	for _, folder := range []string{".", "../cmd/stsbroker"} {
		files, err := filepath.Glob(folder + "/*_test.go")
		if err != nil || len(files) == 0 {
			t.Fatal(folder, files, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)^func TestWire(\d\d)_\w+\(t \*testing\.T\)`).FindAllSubmatch(text, -1) {
				n, err := strconv.Atoi(string(m[1]))
				if err != nil || n < 1 || n > wireLines {
					t.Errorf("%s: %s is of no line", file, m[0])
				}
				tests[n]++
			}
		}
	}
	for n := 1; n <= wireLines; n++ {
		if tests[n] == 0 {
			t.Errorf("line %d has no test: want one named TestWire%02d_...", n, n)
		}
	}
}

// Link-local addresses are in linklocal_linux_test.go.
func TestWire01_BothLoopbacksOnOnePort(t *testing.T) {
	r := start(t, nil)
	if a := r.get(t, "/credentials/dev"); a.status != http.StatusOK {
		t.Errorf("127.0.0.1: %d", a.status)
	}
	if r.addr6 == "" {
		t.Skip("not run for [::1]: this host has no IPv6")
	}
	if a := dial(t, r.addr6).do(line + "Host: [::1]:PORT\n" + auth + "\n"); a.status != http.StatusOK {
		t.Errorf("[::1]: %d", a.status)
	}
}

func TestWire02_Framing(t *testing.T) {
	r := start(t, nil)
	c := dial(t, r.addr)
	for i := range 3 { // one connection
		a := c.do(line + host + auth + "Accept-Encoding: gzip, deflate, br\n\n")
		if a.status != http.StatusOK || a.closed || a.proto != "HTTP/1.1" {
			t.Fatalf("request %d: %s %d, closed %v", i, a.proto, a.status, a.closed)
		}
		if n := a.header.Get("Content-Length"); n != strconv.Itoa(len(a.body)) {
			t.Errorf("Content-Length %q, body of %d", n, len(a.body))
		}
		for _, name := range []string{"Transfer-Encoding", "Content-Encoding", "Location"} {
			if v, ok := a.header[name]; ok {
				t.Errorf("%s: %v", name, v)
			}
		}
		if !json.Valid([]byte(a.body)) {
			t.Errorf("not plain JSON: %s", a.body)
		}
	}
	// A served caller keeps its connection after an error too.
	if a := c.do("GET /credentials/nobody HTTP/1.1\n" + host + auth + "\n"); a.status != http.StatusForbidden || a.closed {
		t.Errorf("an error: %d, closed %v", a.status, a.closed)
	}
	r.roles[appRole] = []string{"dev"}
	for _, path := range []string{
		"//credentials/dev", "///credentials/dev/", "/credentials/dev/", "/credentials/", "//credentials", "/credentials/dev?x=y", "/credentials/dev/?",
		"/v1/credentials", "/v1/credentials/", "//v1/credentials/", "/v1/credentials?", "/role-arn/" + appRole, "//role-arn/" + appRole + "/", "/role-arn/" + appRole + "/?",
	} {
		if a := r.get(t, path); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	// No path is cleaned, and nothing is redirected, whatever the path.
	for _, path := range []string{"/credentials//dev", "/credentials/./dev", "/credentials/x/../dev", "/./credentials/dev", "/x/../credentials", "/", "//", "/.", "/credentials/%2e/dev", "/v1//credentials", "/v1/./credentials"} {
		if a := r.get(t, path); a.status != http.StatusForbidden || a.header.Get("Location") != "" || a.closed {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

func TestWire03_LenientWhereSDKsAreSparse(t *testing.T) {
	r := start(t, nil)
	for _, h := range []string{"127.0.0.1", "localhost", "[::1]"} { // the CRT leaves the port out
		if a := r.once(t, line+"Host: "+h+"\n"+auth+"\n"); a.status != http.StatusOK {
			t.Errorf("Host %s, no Accept, no User-Agent: %d %s", h, a.status, a.body)
		}
	}
	if a := r.once(t, "PUT /credentials/dev HTTP/1.1\n"+host+auth+"\n"); a.status == http.StatusLengthRequired {
		t.Error("a PUT without a length is asked for one")
	}
}

func TestWire04_RoleByPathAndToken(t *testing.T) {
	r := start(t, grants{"second": {ID: "second", Profiles: []string{"other"}}, "none": {ID: "none"}})
	other := *r.source.m["dev"]
	other.AccessKeyID = "ASIAOTHER"
	r.source.m["other"] = &other
	for _, c := range []struct{ token, path, key string }{
		{goodToken, "/credentials", "ASIATESTTESTTESTTEST"}, // the token's first
		{goodToken, "/credentials/other", "ASIAOTHER"},
		{"second", "/credentials", "ASIAOTHER"},
		{"none", "/credentials", ""},
	} {
		a := r.once(t, "GET "+c.path+" HTTP/1.1\n"+host+"Authorization: "+c.token+"\n\n")
		if c.key != "" && !strings.Contains(a.body, `"`+c.key+`"`) || c.key == "" && a.status != http.StatusForbidden {
			t.Errorf("%s with %s: %d %s", c.path, c.token, a.status, a.body)
		}
	}
	// Queries end in logs: a token there counts for nothing.
	for _, q := range []string{"?token=TOKEN", "?Authorization=TOKEN", "?authorization_token=TOKEN"} {
		if a := r.once(t, "GET /credentials/dev"+q+" HTTP/1.1\n"+host+"\n"); a.status != http.StatusUnauthorized || a.leaks() {
			t.Errorf("%s: %d", q, a.status)
		}
	}
	// Any name that AWS config takes.
	for _, name := range []string{"with space", "a/b", "/a", "a/", "a//b", "Köln", "日本", "100%", "a%2Fb", "a+b", "a?b", "a#b", ".", "..", "../dev", "a;b", `a"b`, "credentials"} {
		r.source.m[name] = r.source.m["dev"]
		if a := r.get(t, "/credentials/"+url.PathEscape(name)); a.status != http.StatusOK {
			t.Errorf("%q: %d %s", name, a.status, a.body)
		}
		if got := r.source.lastAsk().Profile; got != name {
			t.Errorf("%q became %q", name, got)
		}
	}
}

func TestWire05_TokenByteForByte(t *testing.T) {
	r := start(t, grants{"Bearer x ": {ID: "space", Profiles: []string{"dev"}}})
	for _, v := range []string{
		"", "x", "token", "Bearer TOKEN", "Basic TOKEN", "TOKENx", "xTOKEN", "TOKEN TOKEN", "TOKEN,", `"TOKEN"`, strings.ToUpper(goodToken),
		goodToken[:len(goodToken)-1], "TOKEN\x7f", "TOKEN\n\tfolded", strings.Repeat("x", 4000), "Bearer x",
	} {
		if a := r.once(t, line+host+"Authorization: "+v+"\n\n"); a.status != http.StatusUnauthorized && a.status != http.StatusBadRequest || a.leaks() {
			t.Errorf("Authorization %q: %d", v, a.status)
		}
	}
	for name, h := range map[string]string{
		"two, the good one first": auth + "Authorization: x\n", "two, the good one last": "Authorization: x\n" + auth, "the same twice": auth + auth,
		"another header": "Proxy-Authorization: TOKEN\n", "none": "", "X-Aws-Ec2-Metadata-Token": "X-Aws-Ec2-Metadata-Token: TOKEN\n",
	} {
		if a := r.once(t, line+host+h+"\n"); a.status != http.StatusUnauthorized || a.leaks() || !a.closed {
			t.Errorf("%s: %d", name, a.status)
		}
	}
	// JavaScript's older retry comes without the token: no lock-out.
	for range 200 {
		r.once(t, line+host+"\n")
	}
	if a := r.get(t, "/credentials/dev"); a.status != http.StatusOK {
		t.Errorf("after failures: %d", a.status)
	}
	if e := r.sink.lastRefused(t); e.Err.Kind != broker.KindUnauthorized || e.Caller.Token != "" {
		t.Errorf("observed: %+v", e)
	}
}

func TestWire06_Body(t *testing.T) {
	r := start(t, grants{"of dev": {ID: "dev", Profiles: []string{"dev"}}, "of bare": {ID: "bare", Profiles: []string{"bare"}}})
	r.roles["dev"], r.roles["bare"] = []string{"dev"}, []string{"bare"}
	bare := *r.source.m["dev"]
	bare.AccountID, bare.RoleARN = "", ""
	r.source.m["bare"] = &bare
	want := map[string]any{
		"AccessKeyId": creds.AccessKeyID, "SecretAccessKey": secretCanary, "Token": tokenCanary,
		"Expiration": r.source.m["dev"].Advertised.UTC().Format("2006-01-02T15:04:05Z"),
		"AccountId":  creds.AccountID, "RoleArn": creds.RoleARN,
	}
	for _, profile := range []string{"dev", "bare"} {
		a := r.get(t, "/credentials/"+profile)
		var got map[string]any
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != http.StatusOK {
			t.Fatalf("%d %s: %v", a.status, a.body, err)
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", profile, got, want)
		}
		for _, path := range []string{"/credentials", "/v1/credentials", "/role-arn/" + profile} { // the same, whatever the path
			if same := r.once(t, "GET "+path+" HTTP/1.1\n"+host+"Authorization: of "+profile+"\n\n"); same.status != http.StatusOK || same.body != a.body {
				t.Errorf("%s: %s: %d %s", profile, path, same.status, same.body)
			}
		}
		// s3fs looks for the key's name anywhere, and undoes no escapes.
		if strings.Count(a.body, "Token\"") != 1 || strings.Count(a.body, "Expiration") != 1 || !strings.Contains(a.body, tokenCanary) {
			t.Errorf("%s: s3fs would misread %s", profile, a.body)
		}
		delete(want, "AccountId")
		delete(want, "RoleArn")
	}
}

func TestWire07_ContentType(t *testing.T) {
	r := start(t, nil)
	r.source.errs["down"] = &broker.Error{Kind: broker.KindUnavailable, Public: "down"}
	for _, request := range []string{
		line + host + auth, line + host, "GET /x HTTP/1.1\n" + host + auth, "POST /x HTTP/1.1\n" + host + auth,
		line + "Host: evil\n" + auth, "GET /credentials/down HTTP/1.1\n" + host + auth,
	} {
		a := r.once(t, request+"Accept: text/html\n\n")
		if got := a.header["Content-Type"]; !slices.Equal(got, []string{"application/json"}) {
			t.Errorf("%d: Content-Type %q", a.status, got)
		}
		if got := a.header["Cache-Control"]; !slices.Equal(got, []string{"no-store"}) {
			t.Errorf("%d: Cache-Control %q", a.status, got)
		}
	}
}

func TestWire08_Errors(t *testing.T) {
	r := start(t, nil)
	r.source.m["nothing"] = nil
	cause := errors.New("arn:aws:iam::123456789012:role/cause")
	for kind, want := range map[broker.Kind]int{
		broker.KindUnavailable: 503, broker.KindThrottled: 503, broker.KindTimeout: 503,
		broker.KindDenied: 403, broker.KindConfig: 403, broker.KindLoginNeeded: 403, broker.KindForbidden: 403,
		broker.KindUnauthorized: 401,
	} {
		for _, code := range []string{"", "AccessDenied"} {
			r.source.errs["p"] = &broker.Error{Kind: kind, Code: code, Public: "what <happened> & \"what\" to do\nnext: \x1b[31mé", Cause: cause}
			a := r.get(t, "/credentials/p")
			if a.status != want || strings.ContainsAny(a.body, "\n\r\x1b") || strings.Contains(a.body, "cause") {
				t.Errorf("%v: %d %q", kind, a.status, a.body)
			}
			var got map[string]string
			if err := json.Unmarshal([]byte(a.body), &got); err != nil {
				t.Fatalf("%s: %v", a.body, err)
			}
			if code == "" {
				code = kind.String()
			}
			const message = `what <happened> & "what" to do next:  [31mé`
			if w := map[string]string{"code": code, "message": message, "Code": code, "Message": message}; !maps.Equal(got, w) {
				t.Errorf("%v: got %q, want %q", kind, got, w)
			}
		}
	}
	r.source.errs["p"] = errors.New("not the domain's")
	if a := r.get(t, "/credentials/p"); a.status != 503 || strings.Contains(a.body, "not the domain's") {
		t.Errorf("a foreign error: %d %s", a.status, a.body)
	}
}

// What the door refuses by itself is said in the same way.
func TestWire08_Refusals(t *testing.T) {
	r := start(t, grants{"none": {ID: "none"}, "theirs": {ID: "theirs", Profiles: []string{"dev"}, BoundUID: true, UID: 1 << 30}})
	r.roles[appRole] = []string{"dev", "other"}
	for request, want := range map[string]int{
		line + host + "\n":                                               401,
		line + host + "Authorization: x\n\n":                             401,
		line + host + auth + auth + "\n":                                 401,
		"GET /credentials HTTP/1.1\n" + host + "Authorization: none\n\n": 403,
		"GET /nowhere HTTP/1.1\n" + host + auth + "\n":                   403,
		"GET /role-arn/x HTTP/1.1\n" + host + auth + "\n":                403,
		"GET /role-arn/" + appRole + " HTTP/1.1\n" + host + auth + "\n":  403,
		line + "Host: evil.example\n" + auth + "\n":                      403,
		line + host + auth + "Cookie: a=b\n\n":                           403,
		"POST /credentials HTTP/1.1\n" + host + auth + "\n":              405,
	} {
		a := r.once(t, request)
		var got map[string]string
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != want || len(got) != 4 || strings.ContainsAny(a.body, "\n\r") ||
			got["code"] == "" || got["message"] == "" || got["Code"] != got["code"] || got["Message"] != got["message"] || a.leaks() {
			t.Errorf("%q: %d %s", request, a.status, a.body)
		}
	}
}

// Never a 200 without keys, or with keys that are of no use.
func TestWire08_Never200WithoutUsableKeys(t *testing.T) {
	r := start(t, nil)
	good := r.source.m["dev"]
	for name, spoil := range map[string]func(s *broker.Set){
		"no id":             func(s *broker.Set) { s.AccessKeyID = "" },
		"no secret":         func(s *broker.Set) { s.SecretAccessKey = broker.Secret{} },
		"no token":          func(s *broker.Set) { s.SessionToken = broker.Secret{} },
		"no expiry to tell": func(s *broker.Set) { s.Advertised = time.Time{} },
		"nothing":           func(s *broker.Set) { *s = broker.Set{} },
		"expired":           func(s *broker.Set) { s.Expires = s.Issued },
		"expired long ago":  func(s *broker.Set) { s.Expires = s.Issued.Add(-time.Hour) },
		"expired to clients": func(s *broker.Set) {
			s.Advertised = time.Now().Add(-time.Nanosecond)
		},
	} {
		s := *good
		spoil(&s)
		r.source.m["dev"] = &s
		for range 2 { // the second time out of what was rendered
			if a := r.get(t, "/credentials/dev"); a.status != http.StatusServiceUnavailable || a.leaks() {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
		}
		if e := r.sink.lastRefused(t); e.Profile != "dev" || e.Err.Cause == nil {
			t.Errorf("%s: observed %+v", name, e)
		}
	}
	r.source.m["dev"] = good
	if a := r.get(t, "/credentials/dev"); a.status != http.StatusOK {
		t.Errorf("good again: %d", a.status)
	}
}

// A thousand cold callers while the issuer takes 2 s: all are answered at the
// end of the door's patience, and all are served later.
func TestWire17_Patience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, "dev", minter{life: time.Hour, delay: 2 * time.Second})
		counts := &sink{}
		door := NewContainer(Container{Source: b, Tokens: grants{goodToken: {ID: "good", Profiles: []string{"dev"}}}, Requests: counts, Observer: counts})
		round := func(want int, within time.Duration) {
			t.Helper()
			began := time.Now()
			var wg sync.WaitGroup
			for range 1000 {
				wg.Go(func() {
					w := httptest.NewRecorder()
					door.ServeHTTP(w, offline(t, "/credentials/dev"))
					if w.Code != want || time.Since(began) > within {
						t.Errorf("%d after %v, want %d within %v", w.Code, time.Since(began), want, within)
					}
				})
			}
			wg.Wait()
		}
		round(http.StatusServiceUnavailable, ContainerPatience)
		time.Sleep(1700 * time.Millisecond)
		round(http.StatusOK, 0)
	})
}

// offline is a request with the good token that needs no socket.
func offline(t testing.TB, path string) *http.Request {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = "127.0.0.1"
	r.Header.Set("Authorization", goodToken)
	return r.WithContext(listen.ConnContext(context.Background(), a))
}

func TestWire18_WholeSeconds(t *testing.T) {
	good := newSet(t, time.Hour)
	zone := time.FixedZone("", 2*60*60)
	for at, want := range map[time.Time]string{
		time.Date(2026, 11, 22, 15, 4, 5, 999_999_999, time.UTC): "2026-11-22T15:04:05Z", // down, never up
		time.Date(2026, 11, 22, 15, 4, 5, 0, time.UTC):           "2026-11-22T15:04:05Z",
		time.Date(2026, 11, 22, 1, 4, 5, 1, zone):                "2026-11-21T23:04:05Z",
	} {
		s := *good
		s.Advertised = at
		r, err := render(&s, containerBody)
		if err != nil {
			t.Fatal(err)
		}
		if m := regexp.MustCompile(`"Expiration":"([^"]*)"`).FindSubmatch(r.body); m == nil || string(m[1]) != want {
			t.Errorf("%v: %s", at, r.body)
		}
	}
}

// Below 15 minutes left, botocore and .NET ask on every API call.
func TestWire20_NoThrottle(t *testing.T) {
	everyFront(t, func(t *testing.T, f *front) {
		if f.source != nil {
			f.source.m["dev"] = newSet(t, 5*time.Minute)
		}
		c := f.dial(t, f.addr)
		for i := range 2000 {
			if a := c.do(f.request(f.host(), "")); a.status != http.StatusOK || a.closed {
				t.Fatalf("request %d: %d, closed %v", i, a.status, a.closed)
			}
		}
	})
}

// largest has everything at the length that AWS allows, or is known to give: an ARN
// of 2,048 characters, a session token of 4 KB.
func largest(set *broker.Set) *broker.Set {
	long := *set
	long.AccessKeyID = strings.Repeat("A", 128)
	long.RoleARN = "arn:aws-us-gov:iam::123456789012:role/"
	long.RoleARN += strings.Repeat("r", 2048-len(long.RoleARN))
	long.SessionToken = broker.NewSecret(strings.Repeat("T", 4096))
	return &long
}

func TestWire21_BodiesUnder8KB(t *testing.T) {
	r := start(t, nil)
	r.source.m["dev"] = largest(r.source.m["dev"])
	r.roles[r.source.m["dev"].RoleARN] = []string{"dev"}
	for _, path := range []string{"/credentials/dev", "/v1/credentials", "/role-arn/" + r.source.m["dev"].RoleARN} {
		if a := r.get(t, path); a.status != http.StatusOK || len(a.body) >= 8<<10 || len(a.body) < 6<<10 {
			t.Errorf("%.20s: %d, %d bytes", path, a.status, len(a.body))
		}
	}
	for _, unit := range []string{"x", `"`, `\`, "\x00", "\xff", "é", "\u2028", "<", "\U0001f600"} {
		r.source.errs["p"] = &broker.Error{Kind: broker.KindDenied, Code: strings.Repeat(unit, 9000), Public: strings.Repeat(unit, 9000)}
		a := r.get(t, "/credentials/p")
		if len(a.body) >= 8<<10 || !json.Valid([]byte(a.body)) || bytes.ContainsRune([]byte(a.body), '\n') {
			t.Errorf("an error of %q: %d bytes", unit, len(a.body))
		}
	}
	var many []string // profiles of one role, with names as long as they may be
	for i := range 200 {
		many = append(many, fmt.Sprintf("%0*d", broker.MaxName, i))
	}
	wide := start(t, grants{"wide": {ID: "wide", Profiles: many}})
	wide.roles[appRole] = many
	if a := wide.once(t, "GET /role-arn/"+appRole+" HTTP/1.1\n"+host+"Authorization: wide\n\n"); a.status != http.StatusForbidden || len(a.body) >= 8<<10 || !json.Valid([]byte(a.body)) {
		t.Errorf("a role of many profiles: %d, %d bytes", a.status, len(a.body))
	}
	if a := r.get(t, fmt.Sprintf("/role-arn/%s", strings.Repeat("x", 6000))); a.status != http.StatusForbidden || len(a.body) >= 8<<10 {
		t.Errorf("a long ARN: %d, %d bytes", a.status, len(a.body))
	}
	if a := r.get(t, fmt.Sprintf("/credentials/%s", strings.Repeat("x", 6000))); a.status != http.StatusForbidden || len(a.body) >= 8<<10 {
		t.Errorf("a long name: %d, %d bytes", a.status, len(a.body))
	}
}
