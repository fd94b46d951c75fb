//go:build conformance && linux

package conformance

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

func TestConformance(t *testing.T) {
	began := time.Now()
	k := install(t)
	t.Logf("everything is installed after %.0f s", time.Since(began).Seconds())
	tb, m, doors := newTable(k.clients()), newMatrix(), newDoorTable()
	t.Cleanup(func() { fmt.Printf("\n%s\n%s\n", tb, doors) })

	onServer := func(name string, test func(t *testing.T, k kit, tb *table, m *matrix), pieces ...piece) {
		m.version(name, pieces[0].version)
		t.Run(name, func(t *testing.T) {
			if i := slices.IndexFunc(pieces, func(p piece) bool { return p.err != nil }); i >= 0 {
				if name == rgwServer || name == minioServer { // the others hold no bucket
					tb.row(name) // of cells that say "not run"
				}
				m.skip(name, strings.ReplaceAll(pieces[i].err.Error(), newInstaller(t).cache, ".cache"))
			}
			need(t, pieces...)
			test(t, k, tb, m)
		})
	}
	onServer(rgwServer, testRGW, k.ceph, k.node, k.issuer)
	onServer(minioServer, testMinIO, k.minio, k.node, k.issuer)
	onServer(versityServer, testVersity, k.versity)
	m.version(standIn, "of this repository")
	if k.boto3.err != nil {
		m.skip(standIn, "boto3 is not there")
	}
	t.Run("model", func(t *testing.T) { testModel(t, k, m) })
	if *everything {
		onServer(motoServer, testMoto, k.moto, k.node, k.issuer, k.saml, k.xmlsec1)
		onServer(fakecloudServer, testFakecloud, k.fakecloud, k.node, k.issuer, k.saml, k.xmlsec1, k.boto3)
		t.Run("SAML", func(t *testing.T) { testSAML(t, k, m) })
	}
	t.Run("doors", func(t *testing.T) {
		need(t, k.minio, k.node, k.issuer)
		testDoors(t, k, startMinIO(t, k, startIssuer(t, k)), doors)
	})
	t.Run("demo", func(t *testing.T) { testDemo(t, k) })
	settle(t, m, doors)
}

// poison is what a [default] profile may hold that SDKs prefer to the
// container endpoint. None of it leads off this machine.
const (
	poisonKeys    = "[default]\naws_access_key_id = AKIAPOISONPOISONPOIS\naws_secret_access_key = poisonpoisonpoisonpoisonpoisonpoisonpois\n"
	poisonProcess = "[default]\ncredential_process = /bin/sh $HOME/poison.sh\n"
	poisonRole    = "[default]\nrole_arn = arn:aws:iam::999999999999:role/poison\nweb_identity_token_file = $HOME/gone\n"
	poisonScript  = `echo called >> "$HOME/poison.called"` + "\n" +
		`echo '{"Version": 1, "AccessKeyId": "AKIAPOISONPOISONPOIS", "SecretAccessKey": "poison", "SessionToken": "poison", "Expiration": "2099-01-01T00:00:00Z"}'` + "\n"
)

// scene is a home, and the profiles that every client has to work with in it.
type scene struct {
	name     string
	home     household
	profiles []string
	poisoned bool
}

// play runs every client in the scene: by exec with each profile, by env with
// the last, and where the home is poisoned without our isolation, which must fail.
func (sc scene) play(t *testing.T, k kit, tb *table, s server, prepare func(t *testing.T, h home)) {
	byExec, byEnv, bare := sc.name+", exec", sc.name+", env", sc.name+", not isolated"
	tb.row(byExec)
	tb.row(byEnv)
	if sc.poisoned {
		tb.row(bare)
	}
	t.Run(sc.name, func(t *testing.T) {
		h := live(t, k, sc.home)
		if prepare != nil {
			prepare(t, h)
		}
		last := sc.profiles[len(sc.profiles)-1]
		t.Run("clients", func(t *testing.T) {
			for _, c := range k.clients() {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					need(t, c.piece)
					try := func(how string, way []string, profile string) {
						t.Helper()
						if err := c.list(t, h, way, s); err != nil {
							tb.set(how, c, "no")
							t.Errorf("%s, profile %s: %v", how, profile, err)
							return
						}
						tb.set(how, c, "yes")
					}
					for _, profile := range sc.profiles {
						try(byExec, h.exec(profile), profile)
					}
					try(byEnv, h.env(last), last)
				})
			}
		})
		if _, err := os.Stat(filepath.Join(h.dir, "poison.called")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("somebody ran the default profile's credential_process: %v", err)
		}
		if !sc.poisoned {
			return
		}
		t.Run("not isolated", func(t *testing.T) {
			for _, c := range k.clients() {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					need(t, c.piece)
					if err := c.list(t, h, h.bare(last), s); err == nil {
						tb.set(bare, c, "yes")
						t.Error("the poison does not work, so the scene proves nothing")
					} else {
						tb.set(bare, c, "no (expected)")
					}
				})
			}
		})
	})
}

// endpoints is the sts section of stsbroker.yaml that leads to a server.
func endpoints(s server) string {
	return fmt.Sprintf("sts: { endpoints: { %s: { url: %q, compatible: true } } }\n", s.region, s.endpoint)
}

// section is a profile with keys, for an AWS credentials file.
func section(name string, k keyPair) string {
	return fmt.Sprintf("[%s]\naws_access_key_id = %s\naws_secret_access_key = %s\n", name, k.id, k.secret)
}

func testRGW(t *testing.T, k kit, tb *table, m *matrix) {
	idp := startIssuer(t, k)
	c := startRGW(t, idp)
	s := c.server
	// The AWS files of somebody who has a key and a role over it.
	keyFile := section("dev", s.key)
	configFile := fmt.Sprintf("[profile dev]\nregion = %s\n[profile deploy]\nrole_arn = %s\nsource_profile = dev\nregion = %[1]s\n", s.region, s.role)
	sts := []string{"AWS_ENDPOINT_URL_STS=" + s.endpoint}

	for _, sc := range []scene{
		{
			name:     "RGW, no other credential",
			profiles: []string{"session", "chain", "web", "role"},
			home: household{
				env: []string{"AWS_ACCESS_KEY_ID=" + s.key.id, "AWS_SECRET_ACCESS_KEY=" + s.key.secret},
				config: endpoints(s) + fmt.Sprintf(`
keys: { dev: { custody: env } }
profiles:
  session: { region: %[1]s, session: { key: dev, duration: 1h } }
  role: { region: %[1]s, role: { arn: %[2]q, key: dev, session_name: conformance } }
  chain: { region: %[1]s, role: { arn: %[2]q, source: session, duration: 15m } }
  web: { region: %[1]s, web_identity: { arn: %[3]q, token_file: $HOME/token } }
`, s.region, s.role, s.webRole),
			},
		},
		{
			name:     "RGW, [default] keys",
			profiles: []string{"dev", "deploy"},
			poisoned: true,
			home: household{
				config: endpoints(s),
				files:  map[string]string{".aws/credentials": poisonKeys + keyFile, ".aws/config": configFile},
			},
		},
		{
			name:     "RGW, [default] credential_process",
			profiles: []string{"dev", "deploy"},
			poisoned: true,
			home: household{
				env: sts,
				files: map[string]string{".aws/credentials": keyFile, ".aws/config": poisonProcess + configFile,
					"poison.sh": poisonScript},
			},
		},
		{
			name:     "RGW, [default] role_arn",
			profiles: []string{"deploy"},
			poisoned: true,
			home: household{
				env:   sts,
				files: map[string]string{".aws/credentials": keyFile, ".aws/config": poisonRole + configFile},
			},
		},
	} {
		sc.home.secret = []string{s.key.secret}
		sc.play(t, k, tb, s, func(t *testing.T, h home) { keepToken(t, idp, filepath.Join(h.dir, "token"), hour, time.Minute) })
	}

	t.Run("mints", func(t *testing.T) { testRGWMints(t, k, m, c, idp) })
	t.Run("check", func(t *testing.T) { testCheckRefuses(t, k, s) })
	t.Run("session policy", func(t *testing.T) {
		token, err := webIdentityToken(t.Context(), idp, hour)
		if err != nil {
			t.Fatal(err)
		}
		testNarrow(t, k, m, rgwServer, s, token, s.role)
	})
	t.Run("16 minutes ahead", func(t *testing.T) {
		need(t, k.faketime)
		testRGWAhead(t, k, m, c, idp)
	})
	t.Run("unknown actions", func(t *testing.T) { testAbsent(t, m, rgwServer, s, "sts", "MethodNotAllowed", "") })

	t.Run("refusals", func(t *testing.T) {
		wrong := keyPair{s.key.id, newSecret()}
		h := live(t, k, household{
			secret: []string{s.key.secret, wrong.secret},
			files:  map[string]string{".aws/credentials": keyFile + section("wrong", wrong)},
			config: endpoints(s) + fmt.Sprintf(`
aws_profiles: { include: [] }
keys: { dev: { custody: file }, wrong: { custody: file } }
profiles:
  wrong-key: { region: %[1]s, session: { key: wrong } }
  closed: { region: %[1]s, role: { arn: %[2]q, key: dev, session_name: conformance } }
  no-such-role: { region: %[1]s, role: { arn: "arn:aws:iam:::role/missing", key: dev, session_name: conformance } }
  session-too-long: { region: %[1]s, session: { key: dev, duration: 36h } }
  role-too-long: { region: %[1]s, role: { arn: %[3]q, key: dev, session_name: conformance, duration: 12h } }
`, s.region, s.closed, s.role),
		})
		role := func(arn, seconds string) url.Values {
			return url.Values{"Action": {"AssumeRole"}, "RoleArn": {arn}, "RoleSessionName": {"conformance"}, "DurationSeconds": {seconds}}
		}
		session := func(seconds string) url.Values {
			return url.Values{"Action": {"GetSessionToken"}, "DurationSeconds": {seconds}}
		}
		// RGW gives a code and no message.
		for _, r := range []refusal{
			{profile: "wrong-key", signer: wrong, call: session("3600"), status: 403, words: "AccessDenied"},
			{profile: "closed", signer: s.key, call: role(s.closed, "3600"), status: 403, words: "AccessDenied"},
			{profile: "no-such-role", signer: s.key, call: role("arn:aws:iam:::role/missing", "3600"), status: 404, words: "NoSuchEntity"},
			{profile: "session-too-long", signer: s.key, call: session("129600"), status: 400, words: "InvalidArgument"},
			{profile: "role-too-long", signer: s.key, call: role(s.role, "43200"), status: 400, words: "InvalidArgument"},
		} {
			r.play(t, h, s)
		}
		t.Run("mended", func(t *testing.T) {
			// The same key id with another secret, as after a slip in pasting: no
			// signing key that was derived from the wrong one may live on.
			writeFile(t, filepath.Join(h.dir, ".aws/credentials"), keyFile+section("wrong", s.key))
			if r := h.run(t, h.stsbroker, "refresh", "wrong-key"); r.err != nil {
				t.Errorf("stsbroker refresh: %s", r)
			}
			s.list(t, served(t, h.door(t, "wrong-key"))).want(t, 200, objectName)
		})
		// What is not refused at all would make the rest worthless.
		s.list(t, minted(t, s.query(t, s.key.credentials(), "sts", role(s.role, "3600")))).want(t, 200, objectName)
	})
}

// refusal is a mint that a server refuses: the call itself, and the profile
// that leads to it.
type refusal struct {
	profile string
	signer  keyPair
	call    url.Values
	status  int    // of the server
	words   string // of the server, which the client of the door has to read
	passes  bool   // nobody has to act: the door says 503, and the broker goes on trying
}

func (r refusal) play(t *testing.T, h home, s server) {
	t.Run(r.profile, func(t *testing.T) {
		s.query(t, r.signer.credentials(), "sts", r.call).want(t, r.status, r.words)
		door := 403
		if r.passes {
			door = 503
		}
		h.door(t, r.profile).want(t, door, r.words, r.profile)

		if r.passes {
			return // exec would wait for it
		}
		child := h.run(t, append(h.exec(r.profile), "touch", "started")...)
		if child.err == nil || child.stdout != "" || !strings.HasPrefix(child.stderr, "stsbroker: ") ||
			strings.Count(child.stderr, "\n") != 1 || !strings.Contains(child.stderr, r.words) {
			t.Errorf("exec: want one line of error with %q: %s", r.words, child)
		}
		if _, err := os.Stat(filepath.Join(h.dir, "started")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("exec started its command without credentials: %v", err)
		}
	})
}

func testMinIO(t *testing.T, k kit, tb *table, m *matrix) {
	idp := startIssuer(t, k)
	s := startMinIO(t, k, idp)
	profiles := []string{"role", "web"}
	// An hour's token, and one of 15 seconds that is written anew each second, so
	// that credentials live 14 to 15 seconds.
	anHour := func(t *testing.T, h home) { keepToken(t, idp, filepath.Join(h.dir, "token"), hour, time.Minute) }
	brief := func(t *testing.T, h home) { keepToken(t, idp, filepath.Join(h.dir, "token"), 15, time.Second) }
	yaml := household{
		secret: []string{s.key.secret},
		env:    []string{"AWS_SHARED_CREDENTIALS_FILE=$HOME/elsewhere/keys"},
		files:  map[string]string{"elsewhere/keys": section("root", s.key)},
		config: endpoints(s) + fmt.Sprintf(`
aws_profiles: { include: [] }
keys: { root: { custody: file } }
profiles:
  role: { region: %[1]s, role: { arn: %[2]q, key: root } }
  web: { region: %[1]s, web_identity: { arn: %[3]q, token_file: $HOME/token } }
`, s.region, s.role, s.webRole),
	}
	for _, sc := range []scene{
		{name: "MinIO, no other credential", profiles: profiles, home: yaml},
		{
			name:     "MinIO, [default] keys",
			profiles: profiles,
			poisoned: true,
			home: household{
				secret: []string{s.key.secret},
				config: endpoints(s),
				files: map[string]string{
					".aws/credentials": section("root", s.key) + poisonKeys,
					".aws/config": fmt.Sprintf("[profile role]\nrole_arn = %[2]s\nsource_profile = root\nregion = %[1]s\n"+
						"[profile web]\nrole_arn = %[3]s\nweb_identity_token_file = $HOME/token\nregion = %[1]s\n", s.region, s.role, s.webRole),
				},
			},
		},
	} {
		sc.play(t, k, tb, s, anHour)
	}

	const renewals = "MinIO, 15-second credentials for a minute"
	tb.row(renewals)
	t.Run(renewals, func(t *testing.T) {
		h := live(t, k, yaml)
		brief(t, h)
		// All clients loop at the same time, however few tests may run in parallel.
		looped := map[string]<-chan loopEnd{}
		for _, c := range k.clients() {
			if c.err == nil {
				end := make(chan loopEnd, 1)
				looped[c.name] = end
				go func() {
					sum, err := c.loop(t, h, h.exec("web"), s, time.Minute)
					end <- loopEnd{sum, err}
				}()
			}
		}
		t.Run("really expire", func(t *testing.T) { testReallyExpire(t, h, s) })
		for _, c := range k.clients() {
			t.Run(c.name, func(t *testing.T) {
				need(t, c.piece)
				end := <-looped[c.name]
				if end.err != nil {
					tb.set(renewals, c, "no")
					t.Fatal(end.err)
				}
				tb.set(renewals, c, end.tally.judge(t, c))
			})
		}
		m.saw(t, minioServer, "AssumeRoleWithWebIdentity", expiry, renewal)
	})

	t.Run("refusals", func(t *testing.T) {
		wrong, nobody := keyPair{s.key.id, newSecret()}, keyPair{"conformance_nobody", newSecret()}
		h := live(t, k, household{
			secret: []string{wrong.secret, nobody.secret},
			files:  map[string]string{".aws/credentials": section("wrong", wrong) + section("nobody", nobody)},
			config: endpoints(s) + fmt.Sprintf(`
aws_profiles: { include: [] }
keys: { wrong: { custody: file }, nobody: { custody: file } }
profiles:
  wrong-key: { region: %[1]s, role: { arn: %[2]q, key: wrong } }
  unknown-key: { region: %[1]s, role: { arn: %[2]q, key: nobody } }
  foreign-role: { region: %[1]s, web_identity: { arn: %[2]q, token_file: $HOME/token } }
  expired-token: { region: %[1]s, web_identity: { arn: %[3]q, token_file: $HOME/expired } }
`, s.region, s.role, s.webRole),
		})
		anHour(t, h)
		expired, err := webIdentityToken(t.Context(), idp, 1)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(h.dir, "expired"), expired)
		valid, err := webIdentityToken(t.Context(), idp, hour)
		if err != nil {
			t.Fatal(err)
		}
		role := url.Values{"Action": {"AssumeRole"}, "RoleArn": {s.role}, "RoleSessionName": {"conformance"}}
		web := func(arn, token string) url.Values {
			return url.Values{"Action": {"AssumeRoleWithWebIdentity"}, "RoleArn": {arn}, "RoleSessionName": {"conformance"}, "WebIdentityToken": {token}}
		}
		until(t, 10*time.Second, func() error {
			if a := s.query(t, aws.Credentials{}, "sts", web(s.webRole, expired)); a.status == 200 {
				return errors.New("a token of one second is still taken")
			}
			return nil
		})
		for _, r := range []refusal{
			{profile: "wrong-key", signer: wrong, call: role, status: 403, words: "The request signature we calculated does not match the signature you provided."},
			{profile: "unknown-key", signer: nobody, call: role, status: 403, words: "The Access Key Id you provided does not exist in our records."},
			{profile: "foreign-role", call: web(s.role, valid), status: 400, words: "bad partition field"},
			{profile: "expired-token", call: web(s.webRole, expired), status: 400, words: "Token is expired", passes: true},
		} {
			r.play(t, h, s)
		}
		s.query(t, aws.Credentials{}, "sts", web(s.webRole, spoilt(t, valid))).wantRefused(t, "InvalidParameterValue")
		s.list(t, minted(t, s.query(t, aws.Credentials{}, "sts", web(s.webRole, valid)))).want(t, 200, objectName)
		s.list(t, minted(t, s.query(t, s.key.credentials(), "sts", role))).want(t, 200, objectName)
		m.saw(t, minioServer, "AssumeRole", throughBroker, signature)
		m.saw(t, minioServer, "AssumeRoleWithWebIdentity", throughBroker, identity)
	})
	t.Run("session policy", func(t *testing.T) {
		token, err := webIdentityToken(t.Context(), idp, hour)
		if err != nil {
			t.Fatal(err)
		}
		testNarrow(t, k, m, minioServer, s, token, s.role)
	})
	t.Run("unknown actions", func(t *testing.T) {
		testAbsent(t, m, minioServer, s, "sts", "InvalidParameterValue", "Unsupported action")
	})
}

// testNarrow holds that a set does no more than the policy that the broker
// passed along.
func testNarrow(t *testing.T, k kit, m *matrix, name string, s server, token, role string) {
	// Compact JSON: one of the servers cannot read other.
	const may = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*"],"Resource":["arn:aws:s3:::*"]}]}`
	const mayNot = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetBucketLocation"],"Resource":["arn:aws:s3:::*"]}]}`
	h := live(t, k, household{
		secret: []string{s.key.secret, token},
		files:  map[string]string{".aws/credentials": section("dev", s.key), "token": token},
		config: endpoints(s) + fmt.Sprintf(`
aws_profiles: { include: [] }
keys: { dev: { custody: file } }
profiles:
  role-wide: { region: %[1]s, role: { arn: %[2]q, key: dev, session_name: conformance, policy: %[4]q } }
  role-narrow: { region: %[1]s, role: { arn: %[2]q, key: dev, session_name: conformance, policy: %[5]q } }
  web-wide: { region: %[1]s, web_identity: { arn: %[3]q, token_file: $HOME/token, session_name: conformance, policy: %[4]q } }
  web-narrow: { region: %[1]s, web_identity: { arn: %[3]q, token_file: $HOME/token, session_name: conformance, policy: %[5]q } }
`, s.region, role, s.webRole, may, mayNot),
	})
	for _, c := range []struct{ action, wide, narrow string }{
		{"AssumeRole", "role-wide", "role-narrow"}, {"AssumeRoleWithWebIdentity", "web-wide", "web-narrow"},
	} {
		t.Run(c.action, func(t *testing.T) {
			s.list(t, served(t, h.door(t, c.wide))).want(t, 200, objectName)
			s.list(t, served(t, h.door(t, c.narrow))).want(t, 403, "AccessDenied")
			m.saw(t, name, c.action, sessionPolicy)
		})
	}
}

// loopEnd is how the loop of one client ended.
type loopEnd struct {
	tally
	err error
}

// judge asserts that renewals happened and that no call saw one. It returns
// the cell for the table.
func (sum tally) judge(t *testing.T, c client) string {
	t.Helper()
	if sum.Calls < 10 || c.loops && (sum.Calls < 100 || sum.KeyIDs < 4) {
		t.Errorf("%d calls with %d different keys are too few to show renewals", sum.Calls, sum.KeyIDs)
	}
	switch {
	case len(sum.Failures) > 0:
		t.Errorf("%d of %d calls failed, the first with %s", len(sum.Failures), sum.Calls, sum.Failures[0])
		return "no"
	case c.loops:
		return fmt.Sprintf("yes, %d calls, %d keys", sum.Calls, sum.KeyIDs)
	}
	return fmt.Sprintf("yes, %d calls", sum.Calls)
}

// testReallyExpire proves that the lives are as short as they claim to be, by
// using a set that was served once more after its end.
func testReallyExpire(t *testing.T, h home, s server) {
	creds := served(t, h.door(t, "web"))
	s.list(t, creds).want(t, 200, objectName)
	// At most a tenth of the life is kept back from the expiry that is told.
	until(t, time.Until(creds.Expires.Add(3500*time.Millisecond)), func() error {
		if a := s.list(t, creds); a.status == 200 {
			return errors.New("the set is still good")
		}
		return nil
	})
	s.list(t, creds).want(t, 403, "InvalidAccessKeyId")
	if early := time.Until(creds.Expires); early > 0 {
		t.Errorf("the set ended %v before the expiry that was told", early)
	}
	if next := served(t, h.door(t, "web")); next.AccessKeyID == creds.AccessKeyID {
		t.Error("the expired set is still served")
	}
}

// keepToken keeps a fresh web identity token in a file, as a kubelet does.
func keepToken(t *testing.T, idp issuer, path string, life int, every time.Duration) {
	t.Helper()
	write := func() error {
		token, err := webIdentityToken(t.Context(), idp, life)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path+".new", []byte(token), 0o600); err != nil {
			return err
		}
		return os.Rename(path+".new", path)
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(every):
			}
			if err := write(); err != nil && t.Context().Err() == nil {
				t.Errorf("the token file was not renewed: %v", err)
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-stopped })
}

// testDemo pastes what stsbroker demo prints into another shell.
func testDemo(t *testing.T, k kit) {
	need(t, k.awscli)
	dir := tempDir(t)
	p := start(t, dir, cleanEnv(dir), "demo", k.stsbroker, "demo")
	shellLine := regexp.MustCompile(`(?m)^\s*(?:\$ )?((?:export|unset|eval|aws) .*)$`)
	var pasted []string
	p.await(t, 30*time.Second, func() error {
		b, err := os.ReadFile(p.log)
		if err != nil {
			return err
		}
		pasted = nil
		for _, m := range shellLine.FindAllStringSubmatch(string(b), -1) {
			pasted = append(pasted, m[1])
			if strings.HasPrefix(m[1], "aws ") && strings.Contains(m[1], "sts get-caller-identity") {
				return nil
			}
		}
		return errors.New("no line with aws sts get-caller-identity")
	})
	// Another terminal: another home, and the AWS CLI that was found as aws.
	other := tempDir(t)
	if err := os.Symlink(k.awscli.path, filepath.Join(other, "aws")); err != nil {
		t.Fatal(err)
	}
	env := cleanEnv(other)
	env[0] = "PATH=" + other + ":" + os.Getenv("PATH")
	r := run(t.Context(), other, env, "sh", "-c", strings.Join(pasted, "\n"))
	if r.err != nil || !strings.Contains(r.stdout, "assumed-role") {
		t.Fatalf("pasted:\n%s\n%s", strings.Join(pasted, "\n"), r)
	}
	t.Logf("AWS CLI %s: %s", k.awscli.version, r.stdout)
}
