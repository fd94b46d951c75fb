package metadata

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/access"
)

// tokens for doors where some come without: for a profile that is not on the list.
func laterGrants() grants {
	return grants{"third": {ID: "third", Profiles: []string{"third", "dev"}}, "theirs": {ID: "theirs", Profiles: []string{"dev"}, BoundUID: true, UID: uint32(os.Geteuid()) + 1}}
}

func threeProfiles(r *running) {
	for _, profile := range []string{"dev", "second", "third"} {
		r.withKey(profile, "ASIA"+strings.ToUpper(profile))
		r.roles["arn:aws:iam::123456789012:role/"+profile] = []string{profile}
	}
	r.roles[appRole] = []string{"dev", "third", "second"}
}

// Who shows no token gets what the list says, and is known by the kernel's word.
func TestTokenless(t *testing.T) {
	r := startTokenless(t, laterGrants(), "dev", "second")
	threeProfiles(r)
	const role = "/role-arn/arn:aws:iam::123456789012:role/"
	for path, key := range map[string]string{
		"/credentials": "ASIADEV", "/credentials/": "ASIADEV", "/v1/credentials": "ASIADEV", "/credentials/dev": "ASIADEV", "//credentials/dev/": "ASIADEV",
		"/credentials/second": "ASIASECOND", role + "second": "ASIASECOND", role + "dev": "ASIADEV",
	} {
		if a := r.once(t, "GET "+path+" HTTP/1.1\n"+host+"\n"); !a.has(key) || a.closed {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
		ask := r.source.lastAsk()
		if uid, known := ask.Caller.Peer.UID(); ask.Caller.Door != broker.DoorPeer || ask.Caller.Token != "" || !known || int(uid) != os.Geteuid() || !ask.Caller.Remote.IsValid() || ask.Patience != ContainerPatience {
			t.Errorf("%s: asked %+v", path, ask)
		}
	}

	// What is not on the list is not there.
	before := r.source.gets.Load()
	unknown := r.once(t, "GET /credentials/unknown HTTP/1.1\n"+host+"\n")
	for _, path := range []string{"/credentials/unknown", "/credentials/third", "/credentials/third/", "/credentials/DEV", "/credentials/dev%00"} {
		if a := r.once(t, "GET "+path+" HTTP/1.1\n"+host+"\n"); a.status != http.StatusForbidden || a.leaks() || a.body != unknown.body {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	for _, path := range []string{role + "third", role + "unknown"} {
		if a := r.once(t, "GET "+path+" HTTP/1.1\n"+host+"\n"); a.status != http.StatusForbidden || !strings.Contains(a.body, noRole) {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := r.once(t, "GET /role-arn/"+appRole+" HTTP/1.1\n"+host+"\n"); a.status != http.StatusForbidden || !strings.Contains(a.body, "(dev, second)") || strings.Contains(a.body, "third") {
		t.Errorf("several: %d %s", a.status, a.body)
	}
	if e := r.sink.lastRefused(t); e.Caller.Door != broker.DoorPeer || e.Err.Kind != broker.KindForbidden || e.Caller.Token != "" {
		t.Errorf("observed: %+v", e)
	}

	// A token that is shown counts alone: a bad one is not made good by the kernel's word.
	for _, h := range []string{"Authorization: wrong\n", "Authorization:\n", "Authorization: \n", auth + auth, "Authorization: wrong\n" + auth, "authorization: x\n"} {
		for _, path := range []string{"/credentials/dev", "/credentials", role + "dev", "/v1/credentials"} {
			if a := r.once(t, "GET "+path+" HTTP/1.1\n"+host+h+"\n"); a.status != http.StatusUnauthorized || a.leaks() || !a.closed {
				t.Errorf("%s with %q: %d %s", path, h, a.status, a.body)
			}
		}
	}
	if e := r.sink.lastRefused(t); e.Caller.Door != broker.DoorContainer || e.Err.Kind != broker.KindUnauthorized {
		t.Errorf("observed: %+v", e)
	}
	if a := r.once(t, "GET /credentials/dev HTTP/1.1\n"+host+"Authorization: theirs\n\n"); os.Geteuid() != 0 && (a.status != http.StatusForbidden || a.leaks()) {
		t.Errorf("another user's token: %d %s", a.status, a.body)
	}
	if got := r.source.gets.Load() - before; got != 0 && os.Geteuid() != 0 {
		t.Errorf("the broker was asked %d times", got)
	}
	for path, key := range map[string]string{"/credentials/third": "ASIATHIRD", "/credentials": "ASIATHIRD", "/credentials/dev": "ASIADEV"} {
		if a := r.once(t, "GET "+path+" HTTP/1.1\n"+host+"Authorization: third\n\n"); !a.has(key) {
			t.Errorf("%s with a token for it: %d %s", path, a.status, a.body)
		}
		if c := r.source.lastAsk().Caller; c.Door != broker.DoorContainer || c.Token != "third" {
			t.Errorf("%s: asked as %+v", path, c)
		}
	}
	// A query or another header is no token, and no way around one.
	for _, h := range []string{"Proxy-Authorization: TOKEN\n", "X-Aws-Ec2-Metadata-Token: third\n"} {
		if a := r.once(t, "GET /credentials/third?Authorization=third HTTP/1.1\n"+host+h+"\n"); a.status != http.StatusForbidden || a.leaks() {
			t.Errorf("%q: %d %s", h, a.status, a.body)
		}
	}
}

// On the socket, all that Access admits its callers to, and no default.
func TestSocket(t *testing.T) {
	r := startSocket(t, laterGrants())
	threeProfiles(r)
	curl := func(path, more string) answer {
		return r.once(t, "GET "+path+" HTTP/1.1\nHost: localhost\nUser-Agent: curl/8.14.1\nAccept: */*\n"+more+"\n")
	}
	for path, key := range map[string]string{
		"/credentials/dev": "ASIADEV", "/credentials/third/": "ASIATHIRD", "//credentials/second": "ASIASECOND", "/role-arn/arn:aws:iam::123456789012:role/third": "ASIATHIRD",
	} {
		a := curl(path, "")
		if !a.has(key) || a.closed || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
		c := r.source.lastAsk().Caller
		if uid, known := c.Peer.UID(); c.Door != broker.DoorSocket || c.Token != "" || !known || int(uid) != os.Geteuid() || c.Remote.IsValid() {
			t.Errorf("%s: asked as %+v", path, c)
		}
	}
	for _, path := range []string{"/credentials", "/credentials/", "/v1/credentials", "/", "/metrics", "/latest/api/token", "/role-arn/"} {
		if a := curl(path, ""); a.status != http.StatusForbidden || a.leaks() || !strings.Contains(a.body, "/credentials/PROFILE") {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := curl("/credentials/nobody", ""); a.status != http.StatusForbidden || a.leaks() { // as Source has it
		t.Errorf("no such profile: %d %s", a.status, a.body)
	}
	if a := curl("/role-arn/"+appRole, ""); a.status != http.StatusForbidden || !strings.Contains(a.body, "(dev, third, second)") {
		t.Errorf("several: %d %s", a.status, a.body)
	}
	if e := r.sink.lastRefused(t); e.Caller.Door != broker.DoorSocket {
		t.Errorf("observed: %+v", e)
	}
	if a := curl("/credentials/dev", "Authorization: wrong\n"); a.status != http.StatusUnauthorized || a.leaks() {
		t.Errorf("a bad token: %d %s", a.status, a.body)
	}
	if a := curl("/credentials", "Authorization: third\n"); !a.has("ASIATHIRD") || r.source.lastAsk().Caller.Door != broker.DoorContainer {
		t.Errorf("a good token: %d %s", a.status, a.body)
	}
	if a := curl("/credentials/dev", "Origin: http://localhost\n"); a.status != http.StatusForbidden || r.sink.lastRefused(t).Caller.Door != broker.DoorSocket {
		t.Errorf("a browser: %d %s, observed %+v", a.status, a.body, r.sink.lastRefused(t))
	}
	// One connection for all, an error in between.
	c := dial(t, r.addr)
	for i, path := range []string{"/credentials/dev", "/credentials/nobody", "/credentials/dev"} {
		if a := c.do("GET " + path + " HTTP/1.1\nHost: localhost\n\n"); a.closed || a.has("ASIADEV") != (i != 1) {
			t.Errorf("request %d: %d, closed %v", i, a.status, a.closed)
		}
	}
}

// Whom the kernel does not tell is nobody, whatever else is right.
func TestTokenlessUnknown(t *testing.T) {
	for _, door := range []string{broker.DoorPeer, broker.DoorSocket} {
		for _, profiles := range [][]string{nil, {"dev"}} {
			r := newRunning(t)
			h := r.container(nil, &Tokenless{Door: door, Access: access.Memory(), Profiles: profiles})
			for _, path := range []string{"/credentials/dev", "/credentials", "/role-arn/" + appRole, "/x"} {
				req := offline(t, path) // a connection that is no socket
				req.Header.Del("Authorization")
				w := httptest.NewRecorder()
				h.ServeHTTP(w, req)
				if w.Code != http.StatusForbidden || strings.Contains(w.Body.String(), "canary") || w.Header().Get("Connection") != "close" {
					t.Errorf("%s: %s: %d %s", door, path, w.Code, w.Body)
				}
				if e := r.sink.lastRefused(t); e.Caller.Door != door || e.Err.Kind != broker.KindForbidden || e.Err.Cause == nil {
					t.Errorf("%s: observed %+v", door, e)
				}
			}
			if r.source.gets.Load() != 0 {
				t.Errorf("%s: the broker was asked", door)
			}
		}
	}
}

// What answers take, they take as at any container door.
func TestTokenlessErrors(t *testing.T) {
	r := startTokenless(t, nil, "dev")
	for kind, want := range map[broker.Kind]int{broker.KindUnavailable: 503, broker.KindThrottled: 503, broker.KindLoginNeeded: 403, broker.KindDenied: 403} {
		r.source.errs["dev"] = &broker.Error{Kind: kind, Public: "what to do", Cause: errors.New("the cause")}
		if a := r.once(t, "GET /credentials HTTP/1.1\n"+host+"\n"); a.status != want || !strings.Contains(a.body, `"Message":"what to do"`) || strings.Contains(a.body, "cause") {
			t.Errorf("%v: %d %s", kind, a.status, a.body)
		}
	}
	delete(r.source.errs, "dev")
	old := *r.source.m["dev"]
	old.Advertised = time.Now().Add(-time.Second)
	r.source.m["dev"] = &old
	if a := r.once(t, "GET /credentials HTTP/1.1\n"+host+"\n"); a.status != http.StatusServiceUnavailable || a.leaks() {
		t.Errorf("expired: %d %s", a.status, a.body)
	}
}
