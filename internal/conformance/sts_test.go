//go:build conformance && linux

package conformance

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// asking is a mint as a server is asked for it directly: the action, but for
// its duration, and who signs.
type asking struct {
	signer aws.Credentials // none for what an identity provider signed
	params url.Values
}

func ask(signer aws.Credentials, action string, params ...string) asking {
	a := asking{signer, url.Values{"Action": {action}}}
	for i := 0; i < len(params); i += 2 {
		a.params.Set(params[i], params[i+1])
	}
	return a
}

func (a asking) action() string { return a.params.Get("Action") }

// with is a with other parameters.
func (a asking) with(params ...string) asking {
	a.params = maps.Clone(a.params)
	for i := 0; i < len(params); i += 2 {
		a.params.Set(params[i], params[i+1])
	}
	return a
}

// lasting is a with a duration.
func (a asking) lasting(seconds int) asking { return a.with("DurationSeconds", fmt.Sprint(seconds)) }

// forged is a with another secret.
func (a asking) forged() asking {
	a.signer.SecretAccessKey = newSecret()
	return a
}

func (s server) ask(t *testing.T, a asking) answer {
	t.Helper()
	return s.query(t, a.signer, "sts", maps.Clone(a.params))
}

// wantLife fails the test unless what the door serves is told to end when a set
// of so many seconds does: a tenth of its life, and a minute at most, before the
// end, give or take what the run took.
func wantLife(t *testing.T, creds aws.Credentials, seconds int) {
	t.Helper()
	life := time.Duration(seconds) * time.Second
	latest := time.Now().Add(life)
	if earliest := latest.Add(-min(time.Minute, life/10) - 30*time.Second); creds.Expires.Before(earliest) || creds.Expires.After(latest) {
		t.Errorf("told to end in %v, want about %v", time.Until(creds.Expires).Round(time.Second), life)
	}
}

// bounds holds the durations of one action against a server: the shortest and
// the longest are granted to the broker, and what lies just outside the server
// refuses when it is asked directly.
type bounds struct {
	asking
	shortest, longest int    // seconds
	short, long       string // profiles that ask for them
	tooShort, tooLong string // what the server says to a second less, and a second more
	use               func(t *testing.T, set aws.Credentials)
}

func (b bounds) play(t *testing.T, h home, s server) {
	t.Helper()
	for _, grant := range []struct {
		profile string
		seconds int
	}{{b.short, b.shortest}, {b.long, b.longest}} {
		creds := served(t, h.door(t, grant.profile))
		wantLife(t, creds, grant.seconds)
		b.use(t, creds)
		// By the server's own word, not what the broker makes of it.
		direct := minted(t, s.ask(t, b.lasting(grant.seconds)))
		if left := time.Until(direct.Expires).Round(time.Minute); left != time.Duration(grant.seconds)*time.Second {
			t.Errorf("asked directly for %d s: %v", grant.seconds, left)
		}
	}
	s.ask(t, b.lasting(b.shortest-1)).wantRefused(t, b.tooShort)
	s.ask(t, b.lasting(b.longest+1)).wantRefused(t, b.tooLong)
}

// wantRefused fails the test unless the answer is a refusal that holds the words.
func (a answer) wantRefused(t *testing.T, words string) {
	t.Helper()
	if a.status < 400 || a.status >= 500 || !strings.Contains(a.body, words) {
		t.Fatalf("status %d, want a refusal with %q: %s", a.status, words, a.body)
	}
}

// testCheckRefuses holds that check finds durations that STS does not grant,
// without a call: its endpoint is a port where nobody listens.
func testCheckRefuses(t *testing.T, k kit, s server) {
	for _, c := range []struct{ name, kind, most string }{
		{"session", "session: { key: dev, duration: %s }", "129601s"},
		{"role", fmt.Sprintf("role: { arn: %q, key: dev, duration: %%s }", s.role), "43201s"},
		{"web identity", fmt.Sprintf("web_identity: { arn: %q, token_file: /gone, duration: %%s }", s.webRole), "43201s"},
	} {
		for _, d := range []string{"899s", c.most} {
			t.Run(c.name+" "+d, func(t *testing.T) {
				dir := tempDir(t)
				nobody := server{endpoint: fmt.Sprintf("http://127.0.0.1:%d", freePorts(t, 1)[0]), region: s.region}
				file := filepath.Join(dir, "stsbroker.yaml")
				config := func(d string) {
					writeFile(t, file, endpoints(nobody)+"aws_profiles: { include: [] }\nkeys: { dev: { custody: env } }\nprofiles:\n  p: { region: "+s.region+", "+fmt.Sprintf(c.kind, d)+" }")
				}
				check := func() result { return run(t.Context(), dir, cleanEnv(dir), k.stsbroker, "check", "--config", file) }
				config(d)
				if r := check(); r.err == nil || !strings.Contains(r.stdout, "duration") || !strings.Contains(r.stdout, file+":5:") {
					t.Errorf("check takes %s: %s", d, r)
				}
				config("1h")
				if r := check(); r.err != nil {
					t.Errorf("check refuses an hour: %s", r)
				}
			})
		}
	}
}

// testRGWMints holds of each of RGW's three mints what it verifies: signatures,
// trust, durations and identity tokens.
func testRGWMints(t *testing.T, k kit, m *matrix, c cluster, idp issuer) {
	s := c.server
	token, err := webIdentityToken(t.Context(), idp, 4*hour)
	if err != nil {
		t.Fatal(err)
	}
	h := live(t, k, household{
		secret: []string{s.key.secret, token},
		env:    []string{"AWS_ACCESS_KEY_ID=" + s.key.id, "AWS_SECRET_ACCESS_KEY=" + s.key.secret},
		files:  map[string]string{"token": token},
		config: endpoints(s) + fmt.Sprintf(`
aws_profiles: { include: [] }
keys: { dev: { custody: env } }
profiles:
  session-short: { region: %[1]s, session: { key: dev, duration: 15m } }
  session-long: { region: %[1]s, session: { key: dev, duration: 12h } }
  role-short: { region: %[1]s, role: { arn: %[2]q, key: dev, session_name: conformance, duration: 15m } }
  role-long: { region: %[1]s, role: { arn: %[2]q, key: dev, session_name: conformance, duration: 12h } }
  role-closed: { region: %[1]s, role: { arn: %[3]q, key: dev, session_name: conformance } }
  web-short: { region: %[1]s, web_identity: { arn: %[4]q, token_file: $HOME/token, session_name: conformance, duration: 15m } }
  web-long: { region: %[1]s, web_identity: { arn: %[4]q, token_file: $HOME/token, session_name: conformance, duration: 12h } }
  web-closed: { region: %[1]s, web_identity: { arn: %[5]q, token_file: $HOME/token, session_name: conformance } }
`, s.region, s.longRole, s.closed, s.webRole, s.webClosed),
	})
	session := ask(s.key.credentials(), "GetSessionToken")
	role := ask(s.key.credentials(), "AssumeRole", "RoleArn", s.longRole, "RoleSessionName", "conformance")
	web := ask(aws.Credentials{}, "AssumeRoleWithWebIdentity", "RoleArn", s.webRole, "RoleSessionName", "conformance", "WebIdentityToken", token)

	list := func(t *testing.T, set aws.Credentials) { s.list(t, set).want(t, 200, objectName) }
	for _, b := range []bounds{
		{session, 900, 12 * hour, "session-short", "session-long", "InvalidArgument", "InvalidArgument", list},
		{role, 900, 12 * hour, "role-short", "role-long", "InvalidArgument", "InvalidArgument", list},
		{web, 900, 12 * hour, "web-short", "web-long", "InvalidArgument", "InvalidArgument", list},
	} {
		t.Run(b.action()+", durations", func(t *testing.T) {
			b.play(t, h, s)
			m.saw(t, rgwServer, b.action(), throughBroker, duration)
		})
	}
	for _, a := range []asking{session, role} {
		t.Run(a.action()+", signature", func(t *testing.T) {
			minted(t, s.ask(t, a))
			s.ask(t, a.forged()).wantRefused(t, "AccessDenied")
			m.saw(t, rgwServer, a.action(), signature)
		})
	}
	for _, r := range []struct {
		asking
		closed, profile string
	}{{role, s.closed, "role-closed"}, {web, s.webClosed, "web-closed"}} {
		t.Run(r.action()+", trust", func(t *testing.T) {
			minted(t, s.ask(t, r.asking))
			s.ask(t, r.with("RoleArn", r.closed)).wantRefused(t, "AccessDenied")
			h.door(t, r.profile).want(t, 403, "AccessDenied", r.closed, r.profile)
			m.saw(t, rgwServer, r.action(), trust)
		})
	}
	t.Run("AssumeRoleWithWebIdentity, identity", func(t *testing.T) {
		minted(t, s.ask(t, web))
		brief, err := webIdentityToken(t.Context(), idp, 1)
		if err != nil {
			t.Fatal(err)
		}
		foreign := startIssuer(t, k)
		other, err := webIdentityToken(t.Context(), foreign, hour)
		if err != nil {
			t.Fatal(err)
		}
		s.ask(t, web.with("WebIdentityToken", spoilt(t, token))).wantRefused(t, "AccessDenied")
		s.ask(t, web.with("WebIdentityToken", other)).wantRefused(t, "AccessDenied")
		until(t, 10*time.Second, func() error {
			if a := s.ask(t, web.with("WebIdentityToken", brief)); a.status == 200 {
				return fmt.Errorf("a token of one second is still taken")
			}
			return nil
		})
		m.saw(t, rgwServer, web.action(), identity)
	})
}

// spoilt is a JWT whose signature was changed by one character.
func spoilt(t *testing.T, token string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatal("not a JWT")
	}
	at := len(parts[2]) / 2
	other := "A"
	if parts[2][at] == 'A' {
		other = "B"
	}
	parts[2] = parts[2][:at] + other + parts[2][at+1:]
	return strings.Join(parts, ".")
}

// until polls until ready returns nil, and fails the test after bound.
func until(t *testing.T, bound time.Duration, ready func() error) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		err := ready()
		if err == nil {
			return
		}
		if time.Since(began) > bound {
			t.Fatalf("after %v: %v", bound, err)
		}
	}
}

// testAbsent asks a server for the actions that nothing was shown of, signed for
// the service as which it takes them. It has to say that it does not know them,
// by this code and with these words.
func testAbsent(t *testing.T, m *matrix, name string, s server, service, code, words string) {
	for _, action := range actions {
		if m.has(name, action) {
			continue
		}
		t.Run(action, func(t *testing.T) {
			a := s.query(t, s.key.credentials(), service, url.Values{"Action": {action}})
			if a.status < 400 || !strings.Contains(a.body, code) || !strings.Contains(a.body, words) {
				t.Fatalf("want %s with %q, got %d: %s", code, words, a.status, a.body)
			}
			m.lacks(t, name, action, code)
		})
	}
}

// states returns what status tells of each profile.
func (h home) states(t *testing.T) map[string]state {
	t.Helper()
	r := h.run(t, h.stsbroker, "status", "--json")
	var all struct {
		Profiles []state `json:"profiles"`
	}
	if r.err != nil {
		t.Fatalf("status: %s", r)
	}
	if err := json.Unmarshal([]byte(r.stdout), &all); err != nil {
		t.Fatalf("status: %v", err)
	}
	byName := map[string]state{}
	for _, p := range all.Profiles {
		byName[p.Profile] = p
	}
	return byName
}

// state is a profile as status shows it.
type state struct {
	Profile   string `json:"profile"`
	KeyID     string `json:"access_key_id"`
	LastError string `json:"last_error"`
}

// testRGWAhead moves time 16 minutes ahead: that of a gateway, whose clock
// faketime sets, and that of the broker, whose wall clock is patched. What was
// minted for 15 minutes has ended then.
func testRGWAhead(t *testing.T, k kit, m *matrix, c cluster, idp issuer) {
	const moved = 16 * time.Minute
	clock := filepath.Join(c.dir, "clock") // of the gateway: an offset, as faketime reads it
	writeFile(t, clock, "+0")
	s := c.server
	s.endpoint = c.gateway(t, "radosgw-ahead", "LD_PRELOAD="+k.faketime.path, "FAKETIME_TIMESTAMP_FILE="+clock,
		"FAKETIME_CACHE_DURATION=1", "FAKETIME_DONT_FAKE_MONOTONIC=1")
	token, err := webIdentityToken(t.Context(), idp, 4*hour)
	if err != nil {
		t.Fatal(err)
	}
	profiles := map[string]string{"session": "GetSessionToken", "role": "AssumeRole", "web": "AssumeRoleWithWebIdentity"}
	household := household{
		secret: []string{s.key.secret, token},
		env:    []string{"AWS_ACCESS_KEY_ID=" + s.key.id, "AWS_SECRET_ACCESS_KEY=" + s.key.secret, "TEST_WALL_CLOCK=$HOME/clock"},
		files:  map[string]string{"token": token, "clock": "0"},
		config: endpoints(s) + fmt.Sprintf(`
aws_profiles: { include: [] }
keys: { dev: { custody: env } }
profiles:
  session: { region: %[1]s, session: { key: dev, duration: 15m } }
  role: { region: %[1]s, role: { arn: %[2]q, key: dev, session_name: conformance, duration: 15m } }
  web: { region: %[1]s, web_identity: { arn: %[3]q, token_file: $HOME/token, session_name: conformance, duration: 15m } }
`, s.region, s.role, s.webRole),
	}
	patched := k
	patched.stsbroker = patchedBinary(t)
	h := live(t, patched, household)

	old := map[string]aws.Credentials{}
	for profile := range profiles {
		old[profile] = served(t, h.door(t, profile))
		s.list(t, old[profile]).want(t, 200, objectName)
	}
	// Sixteen minutes pass.
	writeFile(t, clock, fmt.Sprintf("+%d", int(moved/time.Second)))
	passed := time.Now()
	s.ahead = moved
	until(t, 20*time.Second, func() error {
		resp, err := loopback.Head(s.endpoint)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		date, err := time.Parse(time.RFC1123, resp.Header.Get("Date"))
		if off := time.Until(date) - moved; err != nil || off.Abs() > 10*time.Second {
			return fmt.Errorf("the gateway's clock is %v off: %w", off, err)
		}
		return nil
	})
	t.Logf("the gateway's clock is moved %v after its file", time.Since(passed).Round(100*time.Millisecond))
	// The broker's only now: it may renew at once, and is to find the gateway where it will be.
	replace(t, filepath.Join(h.dir, "clock"), fmt.Sprint(int(moved/time.Second)))
	passed = time.Now()

	// Nobody asks: status is no client.
	until(t, 20*time.Second-time.Since(passed), func() error {
		states := h.states(t)
		for profile := range profiles {
			if states[profile].KeyID == old[profile].AccessKeyID {
				return fmt.Errorf("%s was not renewed: %s", profile, states[profile].LastError)
			}
		}
		return nil
	})
	t.Logf("all profiles were renewed %v after", time.Since(passed).Round(100*time.Millisecond))
	for profile, action := range profiles {
		t.Run(action, func(t *testing.T) {
			s.list(t, old[profile]).wantRefused(t, "AccessDenied")
			next := served(t, h.door(t, profile))
			next.Expires = next.Expires.Add(-moved) // told on the broker's clock
			wantLife(t, next, 900)
			s.list(t, next).want(t, 200, objectName)
			m.saw(t, rgwServer, action, expiry, renewal)
		})
	}

	// A host whose own clock did not move with the server's mints all the same.
	behind := live(t, k, household)
	for profile, action := range profiles {
		t.Run(action+", host behind", func(t *testing.T) {
			creds := served(t, behind.door(t, profile))
			wantLife(t, creds, 900) // told on the host's clock
			s.list(t, creds).want(t, 200, objectName)
			m.saw(t, rgwServer, action, clockOffset)
		})
	}
}

// replace puts new content in the place of a file at once.
func replace(t *testing.T, path, content string) {
	t.Helper()
	writeFile(t, path+".new", content)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}
