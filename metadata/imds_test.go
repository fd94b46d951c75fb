package metadata

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/access"
)

// The lines of the wire contract that are about IMDS, by number.

const (
	roleList = "/latest/meta-data/iam/security-credentials/"
	roleLeaf = roleList + "dev"
)

// metadataService is an IMDS door for profile "dev" on a loopback listener.
type metadataService struct {
	running
	standing broker.Status // of dev; State "" for none of that name
}

// startIMDS serves the user who runs the test; change may alter what the door is made from.
func startIMDS(t testing.TB, at string, change func(*IMDS)) *metadataService {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skipf("not run: the kernel does not tell who connects on %s, and IMDS is not served there", runtime.GOOS)
	}
	m := &metadataService{
		running:  *newRunning(t),
		standing: broker.Status{Profile: "dev", State: broker.StateIdle, Region: "eu-central-1"},
	}
	c := IMDS{
		Profile: "dev", Source: m.source, Access: access.Memory(), Keys: keysOf(strings.Repeat("k", 32)), Requests: m.sink, Observer: m.sink,
		Standing: func(profile string) (broker.Status, bool) {
			return m.standing, profile == m.standing.Profile && m.standing.State != ""
		},
	}
	if change != nil {
		change(&c)
	}
	m.serveAt(t, at, NewIMDS(c))
	return m
}

const freePort = "127.0.0.1:0"

var listenerAt = netip.MustParseAddrPort("127.0.0.1:1")

func put(ttl string) string {
	return "PUT /latest/api/token HTTP/1.1\n" + host + "X-aws-ec2-metadata-token-ttl-seconds: " + ttl + "\n\n"
}

// token asks for one of so many seconds.
func (m *metadataService) token(t testing.TB, ttl string) string {
	t.Helper()
	a := m.once(t, put(ttl))
	if a.status != http.StatusOK {
		t.Fatalf("PUT: %d %s", a.status, a.body)
	}
	return a.body
}

// read is a GET with a token.
func (m *metadataService) read(t testing.TB, path, token string) answer {
	t.Helper()
	return m.once(t, "GET "+path+" HTTP/1.1\n"+host+"X-aws-ec2-metadata-token: "+token+"\n\n")
}

// bare reports whether an answer is a status and nothing else.
func (a answer) bare(status int) bool { return a.status == status && a.body == "" }

func TestWire02_IMDSFraming(t *testing.T) {
	m := startIMDS(t, freePort, nil)
	c, token := dial(t, m.addr), m.token(t, "60")
	for _, path := range []string{roleList, strings.TrimSuffix(roleList, "/"), roleLeaf, roleLeaf + "/", "/" + roleLeaf, "//" + roleList, roleLeaf + "?x=y", "/latest/meta-data/nothing", "/x"} {
		a := c.do("GET " + path + " HTTP/1.1\n" + host + "X-aws-ec2-metadata-token: " + token + "\n\n") // one connection
		want := http.StatusOK
		if strings.HasSuffix(path, "nothing") || path == "/x" {
			want = http.StatusNotFound
		}
		if a.status != want || a.closed || a.proto != "HTTP/1.1" || a.header.Get("Content-Length") != strconv.Itoa(len(a.body)) {
			t.Errorf("%s: %d, closed %v, Content-Length %s of %d", path, a.status, a.closed, a.header.Get("Content-Length"), len(a.body))
		}
		for _, name := range []string{"Transfer-Encoding", "Content-Encoding", "Location"} {
			if v, ok := a.header[name]; ok {
				t.Errorf("%s: %s: %v", path, name, v)
			}
		}
	}
	// Java and C++ append to the endpoint, whose slash would then be doubled.
	if a := m.once(t, strings.Replace(put("60"), "/latest", "//latest", 1)); a.status != http.StatusOK {
		t.Errorf("PUT //latest/api/token: %d", a.status)
	}
}

func TestWire03_IMDSHost(t *testing.T) {
	m := startIMDS(t, freePort, nil)
	token := m.token(t, "60")
	// Some send no length with PUT, some say that there is none; some no Accept.
	for _, more := range []string{"", "Content-Length: 0\n", "Content-Length: 0\nContent-Type: text/plain\nAccept: */*\nUser-Agent: x\n", "Accept:\n"} {
		if a := m.once(t, strings.TrimSuffix(put("60"), "\n")+more+"\n"); a.status != http.StatusOK {
			t.Errorf("PUT with %q: %d %s", more, a.status, a.body)
		}
	}
	if a := m.once(t, strings.TrimSuffix(put("60"), "\n")+"Transfer-Encoding: chunked\n\n0\n\n"); a.status != http.StatusOK { // s3fs
		t.Errorf("PUT in no chunks: %d %s", a.status, a.body)
	}
	for _, h := range []string{"127.0.0.1", "localhost", "[::1]"} {
		if a := m.once(t, strings.Replace(put("60"), "127.0.0.1:PORT", h, 1)); a.status != http.StatusOK {
			t.Errorf("PUT to Host %s: %d", h, a.status)
		}
	}
	for _, h := range []string{"127.0.0.1", "127.0.0.1:PORT", "localhost", "[::1]"} {
		if a := m.once(t, "GET "+roleList+" HTTP/1.1\nHost: "+h+"\nX-aws-ec2-metadata-token: "+token+"\n\n"); a.status != http.StatusOK {
			t.Errorf("Host %s: %d", h, a.status)
		}
	}
	for _, h := range []string{"", "evil.example", "127.0.0.1:1", "169.254.169.254", "127.0.0.1.evil.example:PORT", "0.0.0.0:PORT", "LOCALHOST"} {
		for _, request := range []string{put("60"), "GET " + roleLeaf + " HTTP/1.1\n" + host + "X-aws-ec2-metadata-token: " + token + "\n\n"} {
			a := m.once(t, strings.Replace(request, host, "Host: "+h+"\n", 1))
			if !a.bare(http.StatusForbidden) || !a.closed {
				t.Errorf("Host %q: %d %s", h, a.status, a.body)
			}
		}
	}
}

// One listener a profile: what a client adds to the endpoint's address, or drops of
// it, chooses nothing.
func TestWire04_IMDSListenerIsTheProfile(t *testing.T) {
	all := map[string]*metadataService{}
	for _, profile := range []string{"dev", "prod"} {
		m := startIMDS(t, freePort, func(c *IMDS) {
			c.Profile = profile
			c.Standing = func(string) (broker.Status, bool) { return broker.Status{State: broker.StateIdle}, true }
		})
		m.withKey("dev", "ASIADEV")
		m.withKey("prod", "ASIAPROD")
		all[profile] = m
	}
	other := map[string]string{"dev": "prod", "prod": "dev"}
	for profile, m := range all {
		token := m.token(t, "60")
		if a := m.read(t, roleList, token); a.body != profile {
			t.Errorf("%s: the list is %q", profile, a.body)
		}
		if a := m.read(t, roleList+profile, token); !a.has("ASIA" + strings.ToUpper(profile)) {
			t.Errorf("%s: %d %s", profile, a.status, a.body)
		}
		for _, path := range []string{roleList + other[profile], roleList + other[profile] + "/", roleList + profile + "," + other[profile]} {
			if a := m.read(t, path, token); !a.bare(http.StatusNotFound) {
				t.Errorf("%s: %s: %d %s", profile, path, a.status, a.body)
			}
		}
		if a := all[other[profile]].read(t, roleList+other[profile], token); !a.bare(http.StatusUnauthorized) {
			t.Errorf("the token of %s at %s: %d %s", profile, other[profile], a.status, a.body)
		}
		// Queries end in logs: a token there counts for nothing, nor does a name.
		for _, q := range []string{"?token=" + token, "?X-aws-ec2-metadata-token=" + token} {
			if a := m.once(t, "GET "+roleList+profile+q+" HTTP/1.1\n"+host+"\n"); !a.bare(http.StatusUnauthorized) {
				t.Errorf("%s: %d", q, a.status)
			}
		}
		if a := m.read(t, roleList+profile+"?profile="+other[profile], token); !a.has("ASIA" + strings.ToUpper(profile)) {
			t.Errorf("%s with a query: %d %s", profile, a.status, a.body)
		}
		if a := m.once(t, "PUT /latest/api/token?X-aws-ec2-metadata-token-ttl-seconds=60 HTTP/1.1\n"+host+"\n"); !a.bare(http.StatusBadRequest) {
			t.Errorf("a TTL in the query: %d %s", a.status, a.body)
		}
	}
}

func TestWire09_Token(t *testing.T) {
	m := startIMDS(t, freePort, nil)
	visible := regexp.MustCompile(`^[!-~]+$`)
	for _, ttl := range []int{1, 60, 300, 21600} {
		before := time.Now()
		a := m.once(t, put(strconv.Itoa(ttl)))
		if a.status != http.StatusOK || !visible.MatchString(a.body) {
			t.Fatalf("%d: %d %q", ttl, a.status, a.body)
		}
		if got := a.header[ttlHeader]; !slices.Equal(got, []string{strconv.Itoa(ttl)}) {
			t.Errorf("%d: the header says %q", ttl, got)
		}
		raw, err := strictBase64.DecodeString(a.body)
		if err != nil {
			t.Fatal(err)
		}
		ends, whole := time.Unix(0, int64(binary.BigEndian.Uint64(raw))), time.Duration(ttl)*time.Second
		if ends.Before(before.Add(whole)) || ends.After(time.Now().Add(whole)) {
			t.Errorf("%d: ends %v after it was asked for", ttl, ends.Sub(before))
		}
		if a := m.read(t, roleList, a.body); a.status != http.StatusOK {
			t.Errorf("%d: GET: %d", ttl, a.status)
		}
	}
	for _, ttl := range []string{"", "0", "-1", "+60", "21601", "65536", "65597", "99999999999999999999", "60s", "60.0", "6e1", "0x3c", "1 2", "60,60", "٦٠"} {
		if a := m.once(t, put(ttl)); !a.bare(http.StatusBadRequest) {
			t.Errorf("TTL %q: %d %s", ttl, a.status, a.body)
		}
	}
	for name, headers := range map[string]string{
		"no TTL":   "",
		"two TTLs": "X-aws-ec2-metadata-token-ttl-seconds: 60\nX-aws-ec2-metadata-token-ttl-seconds: 60\n",
	} {
		if a := m.once(t, "PUT /latest/api/token HTTP/1.1\n"+host+headers+"\n"); !a.bare(http.StatusBadRequest) {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}

// To the nanosecond, for one user at one listener of one profile and key.
func TestWire09_TokenIsGoodForAllOfItsTime(t *testing.T) {
	key := broker.NewSecret("key")
	s := session{uid: 1000, at: listenerAt, profile: "dev"}
	now := time.Now()
	ends := now.Add(time.Second)
	token := s.seal(key, ends)
	for at, want := range map[time.Duration]bool{0: true, time.Second - 1: true, time.Second: false, time.Hour: false, -time.Hour: true} {
		if got := s.admits(key, token, now.Add(at)); got != want {
			t.Errorf("after %v: %v", at, got)
		}
	}
	other := s
	other.uid++
	if other.admits(key, token, now) {
		t.Error("another user's")
	}
	other = s
	other.profile = "prod"
	if other.admits(key, token, now) {
		t.Error("another profile's")
	}
	if s.admits(broker.NewSecret("another"), token, now) {
		t.Error("another key's")
	}
}

func TestWire10_TokensSurviveARestart(t *testing.T) {
	first := startIMDS(t, freePort, nil)
	token := first.token(t, "21600")
	if err := first.server.Close(); err != nil {
		t.Fatal(err)
	}
	second := startIMDS(t, first.addr, nil)
	if a := second.read(t, roleLeaf, token); a.status != http.StatusOK {
		t.Errorf("after a restart: %d", a.status)
	}
	if err := second.server.Close(); err != nil {
		t.Fatal(err)
	}
	if a := startIMDS(t, first.addr, func(c *IMDS) { c.Keys = keysOf("another broker's") }).read(t, roleLeaf, token); !a.bare(http.StatusUnauthorized) {
		t.Errorf("at another broker: %d", a.status)
	}
}

// Security rows 5 and 13: nothing of a browser or a proxy, and no body.
func TestWire11_Refused(t *testing.T) {
	m := startIMDS(t, freePort, nil)
	token := m.token(t, "60")
	for _, h := range []string{
		"X-Forwarded-For: 127.0.0.1", "x-forwarded-host: x", "Forwarded: for=127.0.0.1", "Via: 1.1 proxy",
		"Origin: http://127.0.0.1:PORT", "Referer: http://x/", "Sec-Fetch-Site: none", "Cookie: a=b", "Access-Control-Request-Method: PUT",
		"Content-Length: 1", "Transfer-Encoding: chunked",
	} {
		for _, request := range []string{put("60"), "GET " + roleLeaf + " HTTP/1.1\n" + host + "X-aws-ec2-metadata-token: " + token + "\n\n", "GET /x HTTP/1.1\n" + host + "\n"} {
			a := m.once(t, strings.Replace(request, host, host+h+"\n", 1))
			if !a.bare(http.StatusForbidden) || !a.closed {
				t.Errorf("%s: %d %s", h, a.status, a.body)
			}
			for name := range a.header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s: answered with %s", h, name)
				}
			}
		}
	}
	if got := m.source.gets.Load(); got != 0 {
		t.Errorf("the broker was asked %d times", got)
	}
}

func TestWire12_Unauthorized(t *testing.T) {
	m, v1 := startIMDS(t, freePort, nil), startIMDS(t, freePort, func(c *IMDS) { c.AllowV1 = true })
	token, elsewhere := m.token(t, "60"), v1.token(t, "60")
	bad := []string{
		"", "x", elsewhere, token + "x", token[1:], token[:len(token)-1], token + "=", strings.ToUpper(token), strings.ToLower(token), `"` + token + `"`, "A" + token[1:], "Bearer " + token,
		session{uid: uint32(os.Geteuid()), at: listenerAt, profile: "dev"}.seal(broker.NewSecret(strings.Repeat("k", 32)), time.Now().Add(time.Hour)),
	}
	for i := range len(token) { // every character counts
		c := byte('A')
		if token[i] == c {
			c = 'B'
		}
		bad = append(bad, token[:i]+string(c)+token[i+1:])
	}
	// The last character has four bits to spare: its neighbour in the alphabet means the same bytes.
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := len(token) - 1
	bad = append(bad, token[:last]+alphabet[strings.IndexByte(alphabet, token[last])+1:][:1])
	for _, path := range []string{roleList, roleLeaf, "/latest/meta-data/placement/region", "/latest/", "/x"} {
		for _, value := range bad {
			if a := m.read(t, path, value); !a.bare(http.StatusUnauthorized) {
				t.Fatalf("%s with %q: %d %s", path, value, a.status, a.body)
			}
		}
		for name, headers := range map[string]string{
			"no token": "", "the same twice": "X-aws-ec2-metadata-token: " + token + "\nX-aws-ec2-metadata-token: " + token + "\n", "Authorization": "Authorization: " + token + "\n",
		} {
			if a := m.once(t, "GET "+path+" HTTP/1.1\n"+host+headers+"\n"); !a.bare(http.StatusUnauthorized) {
				t.Errorf("%s, %s: %d %s", path, name, a.status, a.body)
			}
		}
	}
	if got := m.source.gets.Load(); got != 0 {
		t.Errorf("the broker was asked %d times", got)
	}
	if e := m.sink.lastRefused(t); e.Err.Kind != broker.KindUnauthorized || e.Caller.Door != broker.DoorIMDS {
		t.Errorf("observed: %+v", e)
	}

	// Version 1 is no token at all, and only where it is allowed.
	if a := v1.once(t, "GET "+roleLeaf+" HTTP/1.1\n"+host+"\n"); a.status != http.StatusOK {
		t.Errorf("version 1: %d", a.status)
	}
	for _, value := range []string{"", "x", token} {
		if a := v1.read(t, roleLeaf, value); !a.bare(http.StatusUnauthorized) {
			t.Errorf("version 1 with %q: %d", value, a.status)
		}
	}
	if a := v1.read(t, roleLeaf, elsewhere); a.status != http.StatusOK {
		t.Errorf("version 2 where 1 is allowed: %d", a.status)
	}
}

// crawl reads what the listings lead to: leaves by path.
func (m *metadataService) crawl(t *testing.T, folder, token string, found map[string]string) {
	t.Helper()
	a, slashless := m.read(t, folder, token), m.read(t, strings.TrimSuffix(folder, "/"), token)
	if a.status != http.StatusOK || a.body == "" || slashless.body != a.body || strings.HasSuffix(a.body, "\n") {
		t.Fatalf("%s: %d %q, and %d %q without its slash", folder, a.status, a.body, slashless.status, slashless.body)
	}
	names := strings.Split(a.body, "\n")
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("%s: %q", folder, names)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "/") {
			m.crawl(t, folder+name, token, found)
			continue
		}
		leaf, slash := m.read(t, folder+name, token), m.read(t, folder+name+"/", token)
		if leaf.status != http.StatusOK || leaf.body == "" || slash.body != leaf.body || leaf.header.Get("Content-Type") != "text/plain" {
			t.Errorf("%s%s: %d %q, and %d %q with a slash", folder, name, leaf.status, leaf.body, slash.status, slash.body)
		}
		found[strings.TrimPrefix(folder+name, "/latest/")] = leaf.body
	}
}

func TestWire13_Paths(t *testing.T) {
	m := startIMDS(t, freePort, nil)
	token := m.token(t, "60")
	always := []string{"dynamic/instance-identity/document", "meta-data/instance-id"}
	iam := []string{"meta-data/iam/info", "meta-data/iam/security-credentials-extended/dev", "meta-data/iam/security-credentials/dev"}
	placement := []string{"meta-data/placement/availability-zone", "meta-data/placement/region"}
	ids := map[string]bool{}
	for name, c := range map[string]struct {
		standing broker.Status
		want     []string
	}{
		"all":        {broker.Status{Profile: "dev", State: broker.StateFresh, Region: "eu-central-1", AccountID: creds.AccountID}, slices.Concat(always, iam, placement)},
		"no region":  {broker.Status{Profile: "dev", State: broker.StateError}, slices.Concat(always, iam)},
		"unservable": {broker.Status{Profile: "dev", State: broker.StateUnservable, Region: "us-gov-west-1"}, slices.Concat(always, placement)},
		"no profile": {broker.Status{}, always},
	} {
		m.standing = c.standing
		found := map[string]string{}
		m.crawl(t, "/latest/", token, found)
		if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, slices.Sorted(slices.Values(c.want))) {
			t.Errorf("%s: %q", name, got)
		}
		for _, path := range slices.Concat(always, iam, placement) {
			if _, there := found[path]; !there {
				if a := m.read(t, "/latest/"+path, token); !a.bare(http.StatusNotFound) {
					t.Errorf("%s: %s is not listed, and answers %d %q", name, path, a.status, a.body)
				}
			}
		}
		if r := c.standing.Region; r != "" && (found["meta-data/placement/region"] != r || found["meta-data/placement/availability-zone"] != r+"a") {
			t.Errorf("%s: %q", name, found)
		}
		ids[found["meta-data/instance-id"]] = true
		var document struct{ AccountID, AvailabilityZone, InstanceID, Region, Version string }
		if err := json.Unmarshal([]byte(found["dynamic/instance-identity/document"]), &document); err != nil {
			t.Fatal(err)
		}
		if document.Region != c.standing.Region || document.AvailabilityZone != found["meta-data/placement/availability-zone"] ||
			document.InstanceID != found["meta-data/instance-id"] || document.AccountID != c.standing.AccountID {
			t.Errorf("%s: %+v", name, document)
		}
	}
	for id := range ids {
		if len(ids) != 1 || !regexp.MustCompile(`^i-[0-9a-f]{17}$`).MatchString(id) {
			t.Errorf("instance ids %v", ids)
		}
	}
	m.standing = broker.Status{Profile: "dev", State: broker.StateIdle, Region: "eu-central-1"}
	for _, path := range []string{
		"/", "//", "/latest2", "/1.0/meta-data/", "/latest/api", "/latest/api/", "/latest/user-data", "/latest/meta-data/ami-id", "/latest/meta-data/iam/security-credentials/prod",
		roleLeaf + "/x", roleList + "DEV", "/latest/meta-data/instance-id/x", "/latest/meta-data//instance-id", "/latest/../latest/meta-data/", "/latest/./meta-data/",
		"/credentials/dev", "/v1/credentials", "/metrics", "/latest/meta-data/placement/region%00",
	} {
		if a := m.read(t, path, token); !a.bare(http.StatusNotFound) {
			t.Errorf("%s: %d %q", path, a.status, a.body)
		}
	}
}

func TestWire13_Info(t *testing.T) {
	m := startIMDS(t, freePort, nil)
	token := m.token(t, "60")
	read := func() map[string]string {
		t.Helper()
		var got map[string]string
		if err := json.Unmarshal([]byte(m.read(t, "/latest/meta-data/iam/info", token).body), &got); err != nil {
			t.Fatal(err)
		}
		return got
	}
	got := read()
	if got["Code"] != "Success" || got["InstanceProfileArn"] != "arn:aws:iam::123456789012:instance-profile/dev" || !regexp.MustCompile(`^AIPA[A-Z2-7]{17}$`).MatchString(got["InstanceProfileId"]) {
		t.Errorf("%v", got)
	}
	plain := *m.source.m["dev"]
	plain.RoleARN = ""
	m.source.m["dev"] = &plain
	if arn, there := read()["InstanceProfileArn"]; there {
		t.Errorf("a session without a role has the instance profile %q", arn)
	}
	m.source.errs["dev"] = &broker.Error{Kind: broker.KindLoginNeeded, Public: "log in"}
	if got := read(); !maps.Equal(got, map[string]string{"Code": "login-needed", "Message": "log in"}) {
		t.Errorf("%v", got)
	}
}

func TestWire14_RoleList(t *testing.T) {
	for _, name := range []string{"dev", "a+b=c,d.e@f_g-h", "Z9"} {
		m := startIMDS(t, freePort, func(c *IMDS) {
			c.Profile = name
			c.Standing = func(string) (broker.Status, bool) { return broker.Status{State: broker.StateIdle}, true }
		})
		m.source.m[name] = m.source.m["dev"]
		token := m.token(t, "60")
		for _, list := range []string{roleList, "/latest/meta-data/iam/security-credentials-extended", "/latest/meta-data/iam/security-credentials"} {
			a := m.read(t, list, token)
			if a.status != http.StatusOK || a.body != name {
				t.Errorf("%s: %d %q", list, a.status, a.body)
			}
			if a := m.read(t, strings.TrimSuffix(list, "/")+"/"+name, token); a.status != http.StatusOK {
				t.Errorf("%s: %d", name, a.status)
			}
		}
		if escaped := strings.NewReplacer("+", "%2B", "=", "%3D", ",", "%2C", "@", "%40").Replace(name); m.read(t, roleList+escaped, token).status != http.StatusOK {
			t.Errorf("%s is not found", escaped)
		}
	}
}

// The CRT takes a body for the role's name.
func TestWire14_ErrorsOfTheListAreEmpty(t *testing.T) {
	m := startIMDS(t, freePort, nil)
	token := m.token(t, "60")
	get := "GET " + roleList + " HTTP/1.1\n" + host
	shown := "X-aws-ec2-metadata-token: " + token + "\n"
	for request, want := range map[string]int{
		get + "\n":                              401,
		get + "X-aws-ec2-metadata-token: x\n\n": 401,
		get + shown + "Origin: x\n\n":           403,
		strings.Replace(get, "127.0.0.1", "127.0.0.2", 1) + shown + "\n": 403,
		"PUT" + get[3:] + shown + "\n":                                   405,
		"POST" + get[3:] + shown + "\n":                                  405,
	} {
		if a := m.once(t, request); !a.bare(want) {
			t.Errorf("%q: %d %q", request, a.status, a.body)
		}
	}
	for name, standing := range map[string]broker.Status{"unservable": {Profile: "dev", State: broker.StateUnservable}, "gone": {}} {
		m.standing = standing
		for _, path := range []string{roleList, strings.TrimSuffix(roleList, "/"), roleLeaf} {
			if a := m.read(t, path, token); !a.bare(http.StatusNotFound) {
				t.Errorf("%s: %s: %d %q", name, path, a.status, a.body)
			}
		}
	}
}

func TestWire15_Leaf(t *testing.T) {
	m := startIMDS(t, freePort, nil)
	token, set := m.token(t, "60"), m.source.m["dev"]
	want := map[string]string{
		"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": set.Issued.UTC().Format("2006-01-02T15:04:05Z"), "Expiration": set.Advertised.UTC().Format("2006-01-02T15:04:05Z"),
		"AccessKeyId": creds.AccessKeyID, "SecretAccessKey": secretCanary, "Token": tokenCanary,
	}
	read := func(path string) map[string]string {
		t.Helper()
		a := m.read(t, path, token)
		var got map[string]string // strings only: no null, no number
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != http.StatusOK || len(a.body) >= 8<<10 || !strings.Contains(a.body, tokenCanary) {
			t.Fatalf("%d %s: %v", a.status, a.body, err)
		}
		return got
	}
	if got := read(roleLeaf); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	want["AccountId"] = creds.AccountID
	const extended = "/latest/meta-data/iam/security-credentials-extended/dev"
	if got := read(extended); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	unknown := *set
	unknown.AccountID, unknown.RoleARN = "", ""
	m.source.m["dev"] = &unknown
	delete(want, "AccountId")
	if got := read(extended); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	ask := m.source.lastAsk()
	if uid, known := ask.Caller.Peer.UID(); ask.Profile != "dev" || ask.Caller.Door != broker.DoorIMDS || !known || int(uid) != os.Geteuid() {
		t.Errorf("asked: %+v", ask)
	}
}

func TestWire16_LeafErrors(t *testing.T) {
	m := startIMDS(t, freePort, nil)
	token := m.token(t, "60")
	for kind, want := range map[broker.Kind]int{
		broker.KindUnavailable: 503, broker.KindThrottled: 503, broker.KindTimeout: 503, broker.KindForbidden: 404,
		broker.KindDenied: 200, broker.KindConfig: 200, broker.KindLoginNeeded: 200,
	} {
		for _, code := range []string{"", "AccessDenied", "Success", "success"} {
			m.source.errs["dev"] = &broker.Error{Kind: kind, Code: code, Public: "what happened,\nwhat to do", Cause: errors.New("the cause")}
			a := m.read(t, roleLeaf, token)
			if want != http.StatusOK {
				if !a.bare(want) {
					t.Errorf("%v: %d %s", kind, a.status, a.body)
				}
				continue
			}
			told := kind.String()
			if code == "AccessDenied" {
				told = code
			}
			var got map[string]string
			if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != want || !maps.Equal(got, map[string]string{"Code": told, "Message": "what happened, what to do"}) {
				t.Errorf("%v %q: %d %s", kind, code, a.status, a.body)
			}
		}
		if a := m.read(t, roleList, token); a.status != http.StatusOK || a.body != "dev" {
			t.Errorf("%v: the list: %d %q", kind, a.status, a.body)
		}
	}
	m.standing.State = broker.StateUnservable // no role: the list has none
	if a := m.read(t, roleList, token); !a.bare(http.StatusNotFound) {
		t.Errorf("no role: the list: %d %q", a.status, a.body)
	}
	m.standing.State = broker.StateIdle
	m.source.errs["dev"] = errors.New("not the domain's")
	if a := m.read(t, roleLeaf, token); !a.bare(http.StatusServiceUnavailable) {
		t.Errorf("a foreign error: %d %s", a.status, a.body)
	}
	m.source.errs["dev"] = &broker.Error{Kind: broker.KindDenied, Code: strings.Repeat("\x00", 9000), Public: strings.Repeat(`"`, 9000)}
	if a := m.read(t, roleLeaf, token); len(a.body) >= 8<<10 || !json.Valid([]byte(a.body)) {
		t.Errorf("a long error: %d bytes", len(a.body))
	}
	delete(m.source.errs, "dev")
	// Never a 200 without usable keys.
	for name, spoil := range map[string]func(s *broker.Set){
		"no secret":          func(s *broker.Set) { s.SecretAccessKey = broker.Secret{} },
		"no token":           func(s *broker.Set) { s.SessionToken = broker.Secret{} },
		"expired":            func(s *broker.Set) { s.Expires = s.Issued },
		"expired to clients": func(s *broker.Set) { s.Advertised = time.Now().Add(-time.Nanosecond) },
	} {
		good := m.source.m["dev"]
		s := *good
		spoil(&s)
		m.source.m["dev"] = &s
		for range 2 {
			if a := m.read(t, roleLeaf, token); !a.bare(http.StatusServiceUnavailable) {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
		}
		m.source.m["dev"] = good
	}
}

// With an issuer that takes 2 s: what needs no credentials does not wait, a leaf
// waits less than Go v2's half second, and the client's own retry succeeds.
func TestWire17_IMDSPatience(t *testing.T) {
	b := newBroker(t, "dev", minter{life: time.Hour, delay: 2 * time.Second})
	m := startIMDS(t, freePort, func(c *IMDS) { c.Source, c.Standing = b, b.StatusOf })
	token := m.token(t, "60")
	timed := func(request func() answer, want int, least, most time.Duration) {
		t.Helper()
		began := time.Now()
		if a, took := request(), time.Since(began); a.status != want || took < least || took > most {
			t.Errorf("%d after %v, want %d after %v to %v", a.status, took, want, least, most)
		}
	}
	leaf := func() answer { return m.read(t, roleLeaf, token) }
	timed(leaf, http.StatusServiceUnavailable, IMDSPatience, 500*time.Millisecond)
	const atOnce = IMDSPatience - 1 // nothing of a wait for the mint
	timed(func() answer { return m.once(t, put("60")) }, http.StatusOK, 0, atOnce)
	timed(func() answer { return m.read(t, roleList, token) }, http.StatusOK, 0, atOnce)
	timed(func() answer { return m.read(t, "/latest/dynamic/instance-identity/document", token) }, http.StatusOK, 0, atOnce)
	if _, err := b.Get(t.Context(), broker.Ask{Profile: "dev", Patience: time.Minute}); err != nil {
		t.Fatal(err)
	}
	timed(leaf, http.StatusOK, 0, atOnce)
}

func TestWire18_IMDSWholeSeconds(t *testing.T) {
	set := *newSet(t, time.Hour)
	set.Issued = time.Date(2026, 11, 22, 1, 4, 5, 999_999_999, time.FixedZone("", 2*60*60))
	set.Advertised = time.Date(2026, 11, 22, 15, 4, 5, 999_999_999, time.UTC)
	for name, in := range map[string]dialect{"leaf": roleBody, "extended": extendedBody, "info": infoBody("dev", "id")} {
		r, err := render(&set, in)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]string
		if err := json.Unmarshal(r.body, &got); err != nil {
			t.Fatal(err)
		}
		if got["LastUpdated"] != "2026-11-21T23:04:05Z" || name != "info" && got["Expiration"] != "2026-11-22T15:04:05Z" {
			t.Errorf("%s: %s", name, r.body)
		}
	}
}

func TestWire21_IMDSBodiesUnder8KB(t *testing.T) {
	profile := strings.Repeat("x", broker.MaxName)
	m := startIMDS(t, freePort, func(c *IMDS) {
		c.Profile = profile
		c.Standing = func(string) (broker.Status, bool) {
			return broker.Status{State: broker.StateIdle, Region: "us-gov-west-1"}, true
		}
	})
	m.source.m[profile] = largest(m.source.m["dev"])
	token := m.token(t, "21600")
	for path, least := range map[string]int{
		roleList + profile: 4 << 10, "/latest/meta-data/iam/security-credentials-extended/" + profile: 4 << 10, "/latest/meta-data/iam/info": 1, roleList: 1,
		"/latest/dynamic/instance-identity/document": 1, "/latest/": 1, "/latest/meta-data/": 1,
	} {
		if a := m.read(t, path, token); a.status != http.StatusOK || len(a.body) >= 8<<10 || len(a.body) < least {
			t.Errorf("%.40s: %d, %d bytes", path, a.status, len(a.body))
		}
	}
	for _, unit := range []string{"x", `"`, `\`, "\x00", "\xff", "é", "\u2028", "<", "\U0001f600"} {
		m.source.errs[profile] = &broker.Error{Kind: broker.KindDenied, Code: strings.Repeat(unit, 9000), Public: strings.Repeat(unit, 9000)}
		for _, path := range []string{roleList + profile, "/latest/meta-data/iam/info"} {
			if a := m.read(t, path, token); a.status != http.StatusOK || len(a.body) >= 8<<10 || !json.Valid([]byte(a.body)) || strings.Contains(a.body, "\n") {
				t.Errorf("%s: an error of %q: %d, %d bytes", path, unit, a.status, len(a.body))
			}
		}
	}
}

// Security row 6: all routes and methods. What answers is listed; the rest says so.
func TestIMDSRoutesAndMethods(t *testing.T) {
	m := startIMDS(t, freePort, nil)
	token := m.token(t, "60")
	const tokenPath = "/latest/api/token"
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "X"} {
		for path, served := range map[string]bool{
			tokenPath: false, "/latest/": true, roleList: true, roleLeaf: true, "/latest/meta-data/placement/region": true, "/stop": false, "/": false, "/latest/api/token/x": false,
		} {
			want, allow := http.StatusMethodNotAllowed, "GET, PUT"
			switch {
			case method == "PUT" && path == tokenPath, method == "GET" && served:
				want, allow = http.StatusOK, ""
			case method == "PUT":
				allow = "GET"
			case method == "GET" && path == tokenPath:
				allow = "PUT"
			case method == "GET":
				want, allow = http.StatusNotFound, ""
			}
			a := m.once(t, method+" "+path+" HTTP/1.1\n"+host+"X-aws-ec2-metadata-token: "+token+"\nX-aws-ec2-metadata-token-ttl-seconds: 5\n\n")
			if a.status != want || a.header.Get("Allow") != allow || want != http.StatusOK && a.body != "" {
				t.Errorf("%s %s: %d, Allow %q, %q; want %d, %q", method, path, a.status, a.header.Get("Allow"), a.body, want, allow)
			}
		}
	}
}

// Security row 14: no number of tokens ends another one.
func TestTenThousandTokens(t *testing.T) {
	m := startIMDS(t, freePort, nil)
	token, c := m.token(t, "21600"), dial(t, m.addr)
	for i := range 10_000 {
		if a := c.do(put("21600")); a.status != http.StatusOK {
			t.Fatalf("PUT %d: %d", i, a.status)
		}
	}
	if a := m.read(t, roleLeaf, token); a.status != http.StatusOK {
		t.Errorf("the first token: %d", a.status)
	}
}

// Security row 4: who closed its end looks like root to the kernel.
func TestIMDSEarlyCloseIsNeverServed(t *testing.T) {
	n := 1000
	m := startIMDS(t, freePort, func(c *IMDS) { c.AllowV1 = true })
	door := m.server.Handler
	gone := make([]chan struct{}, n)
	for i := range gone {
		gone[i] = make(chan struct{})
	}
	var seen atomic.Int64
	var all sync.WaitGroup
	all.Add(n)
	held := &running{sink: m.sink}
	held.serveAt(t, freePort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer all.Done()
		var i int
		if _, err := fmt.Sscan(r.Header.Get("X-Number"), &i); err != nil {
			t.Error(err)
			return
		}
		<-gone[i]
		seen.Add(1)
		door.ServeHTTP(w, r)
	}))
	next := atomic.Int64{}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				c, err := net.Dial("tcp", held.addr)
				if err != nil {
					panic(err) // else we would wait for its request
				}
				_, _ = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\nX-Number: %d\r\n\r\n", roleLeaf, i)
				_ = c.Close()
				close(gone[i])
			}
		})
	}
	wg.Wait()
	all.Wait()
	if got := m.source.gets.Load(); got != 0 || m.sink.counts[http.StatusOK].Load() != 0 || seen.Load() != int64(n) {
		t.Errorf("%d of %d requests came to the broker", got, seen.Load())
	}
	if e := m.sink.lastRefused(t); e.Err.Kind != broker.KindForbidden || e.Err.Cause == nil {
		t.Errorf("observed: %+v", e)
	}
}

// The Go SDK, with what env prints.
func TestGoSDKOverIMDS(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "AWS_EC2_METADATA_DISABLED"} {
		t.Setenv(name, "")
	}
	m := startIMDS(t, freePort, nil)
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://"+m.addr)
	got, err := ec2rolecreds.New().Retrieve(t.Context())
	if err != nil || got.AccessKeyID != creds.AccessKeyID || got.SessionToken != tokenCanary || !got.CanExpire {
		t.Errorf("%+v, %v", got, err)
	}
	if n := m.sink.counts[http.StatusUnauthorized].Load(); n != 0 {
		t.Errorf("%d answers of 401: it fell to version 1", n)
	}
	m.source.errs["dev"] = &broker.Error{Kind: broker.KindLoginNeeded, Public: "run stsbroker login dev"}
	if _, err := ec2rolecreds.New().Retrieve(t.Context()); err == nil || !strings.Contains(err.Error(), "run stsbroker login dev") {
		t.Errorf("the SDK says %v", err)
	}
}

// A grant of the door's own rules is not enough: somebody has to be known.
func TestIMDSUnknownPeer(t *testing.T) {
	source := &sets{m: map[string]*broker.Set{"dev": newSet(t, time.Hour)}}
	counts := &sink{}
	door := NewIMDS(IMDS{
		Profile: "dev", AllowV1: true, Source: source, Access: everybody{}, Keys: keysOf("k"), Requests: counts, Observer: counts,
		Standing: func(string) (broker.Status, bool) { return broker.Status{State: broker.StateIdle}, true },
	})
	for _, method := range []string{http.MethodGet, http.MethodPut} {
		w := httptest.NewRecorder()
		r := offline(t, roleLeaf) // a connection that is no socket
		r.Method = method
		door.ServeHTTP(w, r)
		if w.Code != http.StatusForbidden || w.Body.Len() != 0 || source.gets.Load() != 0 {
			t.Errorf("%s: %d %s", method, w.Code, w.Body)
		}
	}
}
