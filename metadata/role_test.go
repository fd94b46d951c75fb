package metadata

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"github.com/stsbroker/stsbroker/broker"
)

const appRole = "arn:aws:iam::123456789012:role/app"

// withKey is profile dev's set with a key of its own, to tell profiles apart.
func (r *running) withKey(profile, key string) {
	set := *r.source.m["dev"]
	set.AccessKeyID = key
	r.source.m[profile] = &set
}

func (a answer) has(key string) bool {
	return a.status == http.StatusOK && strings.Contains(a.body, `"AccessKeyId":"`+key+`"`)
}

const noRole = "is configured for exactly this role"

func TestRoleARN(t *testing.T) {
	const (
		pathRole = "arn:aws:iam::123456789012:role/team/a+b=c,d.e@f_g-h/app"
		govRole  = "arn:aws-us-gov:iam::123456789012:role/app"
		foreign  = "arn:aws:iam::123456789012:role/foreign"
		shared   = "arn:aws:iam::123456789012:role/shared"
		half     = "arn:aws:iam::123456789012:role/half"
		space    = "arn:aws:iam::123456789012:role/with space" // of an AWS file: a name that IAM would not take
	)
	r := start(t, grants{
		"wide":    {ID: "wide", Profiles: []string{"dev", "path", "gov", "space", "one", "two"}},
		"foreign": {ID: "foreign", Profiles: []string{"secret"}},
		"none":    {ID: "none"},
	})
	for profile, arn := range map[string]string{"dev": appRole, "path": pathRole, "gov": govRole, "space": space, "secret": foreign} {
		r.roles[arn] = []string{profile}
		r.withKey(profile, "ASIA"+strings.ToUpper(profile))
	}
	r.roles[shared] = []string{"one", "secret", "two", "other"}
	r.roles[half] = []string{"one", "secret"}
	r.withKey("one", "ASIAONE")
	r.withKey("two", "ASIATWO")
	get := func(token, path string) answer {
		t.Helper()
		return r.once(t, "GET "+path+" HTTP/1.1\n"+host+"Authorization: "+token+"\n\n")
	}

	for path, key := range map[string]string{
		"/role-arn/" + appRole:                               "ASIADEV",
		"/role-arn/" + appRole + "/":                         "ASIADEV",
		"//role-arn/" + appRole:                              "ASIADEV",
		"/role-arn/" + appRole + "?profile=secret":           "ASIADEV",
		"/role-arn/" + url.PathEscape(appRole):               "ASIADEV",
		"/role-arn/" + url.QueryEscape(appRole):              "ASIADEV", // colons too
		"/role-arn/" + url.QueryEscape(appRole) + "/":        "ASIADEV",
		"/role-arn/" + pathRole:                              "ASIAPATH",
		"/role-arn/" + url.PathEscape(pathRole):              "ASIAPATH", // every slash escaped
		"/role-arn/" + "%61" + pathRole[1:]:                  "ASIAPATH",
		"/role-arn/" + govRole:                               "ASIAGOV",
		"/role-arn/" + strings.ReplaceAll(space, " ", "%20"): "ASIASPACE",
		"/role-arn/" + half:                                  "ASIAONE", // the other is not the caller's
	} {
		if a := get("wide", path); !a.has(key) {
			t.Errorf("%s: %d %s, want %s", path, a.status, a.body, key)
		}
	}
	if ask := r.source.lastAsk(); ask.Caller.Token != "wide" || ask.Caller.Door != broker.DoorContainer || ask.Patience != ContainerPatience {
		t.Errorf("asked: %+v", ask)
	}

	before := r.source.gets.Load()
	unknown := get("wide", "/role-arn/arn:aws:iam::123456789012:role/unknown")
	if unknown.status != http.StatusForbidden || !strings.Contains(unknown.body, noRole) {
		t.Errorf("unknown: %d %s", unknown.status, unknown.body)
	}
	// Exactly: not a part of it, nor what only looks like it.
	for _, arn := range []string{
		appRole[:len(appRole)-1], appRole + "x", appRole + "/x", strings.ToUpper(appRole), "arn:aws:iam::123456789012:role/App", "app", "role/app", "123456789012:role/app",
		"arn:aws:sts::123456789012:assumed-role/app", "arn:aws-cn:iam::123456789012:role/app", "arn:aws:iam::210987654321:role/app", "arn:aws:iam:eu-central-1:123456789012:role/app",
		"arn:aws:iam::123456789012:user/app", "*", "arn:aws:iam::123456789012:role/*", appRole + "%00", appRole + "%20", "%20" + appRole, appRole + "%0A", appRole + "//", "/" + appRole,
		"%25" + appRole, strings.ReplaceAll(appRole, ":", "%253A"), "arn:aws:iam::123456789012:role/team/../app", "arn:aws:iam::123456789012:role/./app", "arn:aws:iam::123456789012:role//app",
		appRole + ",", appRole + "%2F", "dev", foreign, foreign + "/",
	} {
		a := get("wide", "/role-arn/"+arn)
		if a.status != http.StatusForbidden || a.leaks() || a.body != unknown.body || a.closed {
			t.Errorf("%s: %d %s", arn, a.status, a.body)
		}
	}
	for _, path := range []string{"/role-arn", "/role-arn/", "//role-arn/", "/role-arn//", "/Role-Arn/" + appRole, "/role-arn" + appRole, "/x/role-arn/" + appRole, "/v1/role-arn/" + appRole} {
		if a := get("wide", path); a.status != http.StatusForbidden || a.leaks() {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}

	// Several: the caller's own are named, and no other.
	a := get("wide", "/role-arn/"+shared)
	if a.status != http.StatusForbidden || a.leaks() || !strings.Contains(a.body, "(one, two)") || strings.Contains(a.body, "secret") || strings.Contains(a.body, "other") {
		t.Errorf("several: %d %s", a.status, a.body)
	}
	if e := r.sink.lastRefused(t); e.Caller.Token != "wide" || e.Err.Kind != broker.KindForbidden {
		t.Errorf("observed: %+v", e)
	}
	// Whose role it is not learns nothing: the answer is the one to an ARN that nobody has.
	for _, token := range []string{"foreign", "none"} {
		for _, arn := range []string{appRole, shared, pathRole} {
			if token == "foreign" && arn == shared {
				continue
			}
			if a := get(token, "/role-arn/"+arn); a.status != http.StatusForbidden || a.body != unknown.body {
				t.Errorf("%s with %s: %d %s", arn, token, a.status, a.body)
			}
		}
	}
	// Nor does who has no token, whatever the ARN.
	strangers := map[string]bool{}
	for _, arn := range []string{appRole, shared, "arn:aws:iam::123456789012:role/unknown", "x", ""} {
		for _, h := range []string{"", "Authorization: wrong\n", "Authorization: \n"} {
			a := r.once(t, "GET /role-arn/"+arn+" HTTP/1.1\n"+host+h+"\n")
			if a.status != http.StatusUnauthorized || a.leaks() || !a.closed {
				t.Errorf("%s with %q: %d %s", arn, h, a.status, a.body)
			}
			strangers[h+a.body] = true
		}
	}
	if len(strangers) != 3 {
		t.Errorf("strangers are told of the ARN: %v", strangers)
	}
	if got := r.source.gets.Load() - before; got != 0 {
		t.Errorf("the broker was asked %d times", got)
	}
	if a := get("foreign", "/role-arn/"+shared); !a.has("ASIASECRET") {
		t.Errorf("the only one that is the caller's: %d %s", a.status, a.body)
	}
}

// Security row 15: no number of other ARNs costs a mint, or memory.
func TestTenThousandRoles(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 1000
	}
	r := start(t, nil)
	r.roles[appRole] = []string{"dev"}
	random := rand.New(rand.NewPCG(1, 2))
	c := dial(t, r.addr)
	ask := func(n int) {
		for range n {
			arn := fmt.Sprintf("arn:aws:iam::%012d:role/%x/%0*x", random.Int64N(1e12), random.Uint64(), 1+random.IntN(400), random.Uint64())
			if a := c.do("GET /role-arn/" + arn + " HTTP/1.1\n" + host + auth + "\n"); a.status != http.StatusForbidden || a.leaks() || a.closed {
				t.Fatalf("%s: %d, closed %v: %s", arn, a.status, a.closed, a.body)
			}
		}
	}
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	ask(1000) // all that refusals need, and what the test keeps of them
	before := heap()
	ask(n)
	if grew := heap() - before; grew > 1<<20 {
		t.Errorf("%d ARNs cost %d bytes", n, grew)
	}
	if got := r.source.gets.Load(); got != 0 {
		t.Errorf("the broker was asked %d times", got)
	}
	if a := c.do("GET /role-arn/" + appRole + " HTTP/1.1\n" + host + auth + "\n"); !a.has(creds.AccessKeyID) {
		t.Errorf("the one that is configured: %d %s", a.status, a.body)
	}
}

// EKS Pod Identity: one path, and the token says which profile is meant.
func TestTokenAloneChooses(t *testing.T) {
	r := start(t, grants{
		"second": {ID: "second", Profiles: []string{"other", "dev"}},
		"none":   {ID: "none"},
	})
	r.withKey("dev", "ASIADEV")
	r.withKey("other", "ASIAOTHER")
	for token, key := range map[string]string{goodToken: "ASIADEV", "second": "ASIAOTHER"} {
		for _, path := range []string{"/v1/credentials", "/v1/credentials/", "//v1/credentials", "/v1/credentials?profile=other&x=dev"} {
			if a := r.once(t, "GET "+path+" HTTP/1.1\n"+host+"Authorization: "+token+"\n\n"); !a.has(key) {
				t.Errorf("%s with %s: %d %s", path, token, a.status, a.body)
			}
		}
	}
	for _, path := range []string{"/v1/credentials", "/v1/credentials/"} {
		for _, h := range []string{"", "Authorization: x\n", "Authorization: \n", auth + auth} {
			if a := r.once(t, "GET "+path+" HTTP/1.1\n"+host+h+"\n"); a.status != http.StatusUnauthorized || a.leaks() || !a.closed {
				t.Errorf("%s with %q: %d %s", path, h, a.status, a.body)
			}
		}
		if a := r.once(t, "GET "+path+" HTTP/1.1\n"+host+"Authorization: none\n\n"); a.status != http.StatusForbidden || a.leaks() {
			t.Errorf("%s with a token for nothing: %d %s", path, a.status, a.body)
		}
	}
	for _, path := range []string{"/v1", "/v1/", "/v1/credentials/dev", "/v1/credentials//", "/v1//credentials", "/V1/credentials", "/v1/Credentials", "/v1/credentials%2F", "/v1%2Fcredentials/x", "/v11/credentials", "/x/v1/credentials"} {
		if a := r.get(t, path); a.status != http.StatusForbidden || a.leaks() {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}
