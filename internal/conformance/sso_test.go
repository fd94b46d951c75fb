//go:build conformance && linux

package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/login"
	"github.com/stsbroker/stsbroker/broker/vault"
	"github.com/stsbroker/stsbroker/internal/seal"
	"github.com/stsbroker/stsbroker/internal/ssofake"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

const ssoRole = "admin"

func ssoSession() login.Session {
	return login.Session{Name: "corp", StartURL: ssofake.StartURL, Region: "eu-central-1"}
}

// ssoCenter is a stand-in for IAM Identity Center on loopback.
type ssoCenter struct {
	*ssofake.Server
	url string
}

func newSSO(t *testing.T, l ssofake.Lives) ssoCenter {
	t.Helper()
	fake := ssofake.New()
	fake.SetLives(l)
	fake.Assign(account, ssoRole)
	running, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = running.Close() })
	return ssoCenter{fake, running.URL}
}

// manager is one that knows the stand-in alone.
func (c ssoCenter) manager(o login.Options) *login.Manager {
	o.Endpoint = func(string, string) string { return c.url }
	return login.New(o)
}

// ssoModel runs a job of model.py. Its findings are errors of the test.
func (in installer) ssoModel(t *testing.T, job string, input, out any) {
	t.Helper()
	for _, f := range in.ssoFindings(t, job, input, out) {
		t.Error(f)
	}
}

func (in installer) ssoFindings(t *testing.T, job string, input, out any) []string {
	t.Helper()
	python := in.boto3(nil)
	need(t, python)
	b, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	dir := tempDir(t)
	cmd := in.command(dir, python.path, absolute("sso/model.py"), job)
	cmd.Env, cmd.Stdin = cleanEnv(dir, "AWS_EC2_METADATA_DISABLED=true", "AWS_DEFAULT_REGION=eu-central-1", "PYTHONDONTWRITEBYTECODE=1"), bytes.NewReader(b)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	got, err := cmd.Output()
	var found struct{ Findings []string }
	if err == nil {
		err = json.Unmarshal(got, &found)
	}
	if err == nil && out != nil {
		err = json.Unmarshal(got, out)
	}
	if err != nil {
		t.Fatalf("model.py %s: %v\n%s%s", job, err, got, stderr.String())
	}
	return found.Findings
}

// TestSSOModel holds the stand-in against botocore's models of sso-oidc and sso: every
// operation that it has, the shape of every answer, and every error.
func TestSSOModel(t *testing.T) {
	in := newInstaller(t)
	good, late := newSSO(t, ssofake.Lives{}), newSSO(t, ssofake.Lives{Device: -time.Minute})
	failing, busy := newSSO(t, ssofake.Lives{}), newSSO(t, ssofake.Lives{})
	failing.SetFault(ssofake.Fault{Status: 500, Code: "InternalServerException"})
	busy.SetFault(ssofake.Fault{Status: 429, Code: "TooManyRequestsException"})
	job := map[string]string{"url": good.url, "expired": late.url, "failing": failing.url, "busy": busy.url, "start_url": ssofake.StartURL, "account": account, "role": ssoRole}
	var got struct {
		Operations []string
		Pairs      int
	}
	in.ssoModel(t, "answers", job, &got)
	if want := []string{"CreateToken", "GetRoleCredentials", "Logout", "RegisterClient", "StartDeviceAuthorization"}; !slices.Equal(got.Operations, want) {
		t.Errorf("called %v", got.Operations)
	}
	t.Logf("%d different outcomes of %d operations", got.Pairs, len(got.Operations))
	if got.Pairs < 30 {
		t.Error("too few")
	}

	t.Run("drift is found", func(t *testing.T) {
		for _, drift := range []struct{ old, new, want string }{
			{`"clientIdIssuedAt"`, `"issuedAt"`, "the model knows no issuedAt"},
			{`"tokenType":"Bearer"`, `"tokenType":3`, "3 is no string"},
			{`,"tokenType":"Bearer"`, ``, "without ['tokenType']"},
			{`"error":"invalid_grant",`, ``, "only ['error_description']"},
			{`"error":"slow_down"`, `"error":""`, "SlowDownException.error: is empty"},
		} {
			running := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				answer := httptest.NewRecorder()
				good.ServeHTTP(answer, r)
				maps.Copy(w.Header(), answer.Header())
				w.WriteHeader(answer.Code)
				_, _ = io.WriteString(w, strings.ReplaceAll(answer.Body.String(), drift.old, drift.new))
			}))
			other := maps.Clone(job)
			other["url"] = running.URL
			found := in.ssoFindings(t, "answers", other, nil)
			running.Close()
			if !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, drift.want) }) {
				t.Errorf("%q is not among %q", drift.want, found)
			}
		}
	})
}

// sent is a request as it was on the wire.
type sent struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Query   string            `json:"query"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

// TestSSORequests holds what stsbroker sends, in all its ways to sign in, to refresh and
// to sign out, against what botocore makes of the same parameters; and where it sends
// it in every region against botocore's endpoint rules.
func TestSSORequests(t *testing.T) {
	in := newInstaller(t)
	center := newSSO(t, ssofake.Lives{Interval: time.Second, Access: time.Minute}) // an access token to refresh at once
	var mu sync.Mutex
	var all []sent
	record := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		s := sent{r.Method, r.URL.Path, r.URL.RawQuery, map[string]string{}, string(b)}
		for name, values := range r.Header {
			s.Headers[name] = strings.Join(values, ", ")
		}
		mu.Lock()
		all = append(all, s)
		mu.Unlock()
		r.Body = io.NopCloser(bytes.NewReader(b))
		center.ServeHTTP(w, r)
	}))
	defer record.Close()
	m := login.New(login.Options{Endpoint: func(string, string) string { return record.URL }})
	session := ssoSession()
	for _, device := range []bool{false, true} {
		a, err := m.Begin(t.Context(), session, device)
		if err != nil {
			t.Fatal(err)
		}
		back, err := center.Visit(a.URL, true)
		if err != nil {
			t.Fatal(err)
		}
		if !device {
			if err := answers(back)(); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Role(session, account, ssoRole).Mint(t.Context(), broker.MintInput{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.SignOut(t.Context(), session); err != nil {
		t.Fatal(err)
	}
	var got struct{ Operations []string }
	in.ssoModel(t, "requests", all, &got)
	counts := map[string]int{}
	for _, o := range got.Operations {
		counts[o]++
	}
	if counts["RegisterClient"] != 2 || counts["StartDeviceAuthorization"] != 1 || counts["CreateToken"] < 4 || counts["GetRoleCredentials"] != 2 || counts["Logout"] != 1 {
		t.Errorf("sent %v", counts)
	}

	t.Run("drift is found", func(t *testing.T) {
		for want, spoil := range map[string]func(*sent){
			"the required clientSecret is missing": func(s *sent) { s.Body = strings.Replace(s.Body, `"clientSecret"`, `"secret"`, 1) },
			"the model knows no secret":            func(s *sent) { s.Body = strings.Replace(s.Body, `"clientSecret"`, `"secret"`, 1) },
			"query {":                              func(s *sent) { s.Query = strings.Replace(s.Query, "role_name", "roleName", 1) },
			"the required accessToken is missing":  func(s *sent) { delete(s.Headers, "X-Amz-Sso_bearer_token") },
			"header x-more":                        func(s *sent) { s.Headers["X-More"] = "1" },
			"is no operation":                      func(s *sent) { s.Path += "/" },
		} {
			var spoilt []sent
			for _, s := range all {
				s.Headers = maps.Clone(s.Headers)
				spoil(&s)
				spoilt = append(spoilt, s)
			}
			if found := in.ssoFindings(t, "requests", spoilt, nil); !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, want) }) {
				t.Errorf("%q is not among %q", want, found)
			}
		}
	})

	t.Run("endpoints", func(t *testing.T) {
		var known struct{ Regions []string }
		in.ssoModel(t, "regions", nil, &known)
		var want struct{ Endpoints map[string][]string }
		in.ssoModel(t, "endpoints", known.Regions, &want)
		if len(want.Endpoints) < 30 {
			t.Fatalf("%d regions", len(want.Endpoints))
		}
		for region, urls := range want.Endpoints {
			if got := dialled(t, region); !slices.Equal(got, []string{hostPort(t, urls[0]), hostPort(t, urls[1])}) {
				t.Errorf("%s: %v, botocore's %v", region, got, urls)
			}
		}
		t.Logf("%d regions", len(want.Endpoints))
	})
}

func hostPort(t *testing.T, at string) string {
	t.Helper()
	u, err := url.Parse(at)
	if err != nil || u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
		t.Fatalf("%s %v", at, err)
	}
	return u.Host + ":443"
}

// dialled are the hosts that a sign-in and a mint in a region try to reach.
func dialled(t *testing.T, region string) []string {
	t.Helper()
	var to []string
	cache := tempDir(t)
	session := ssoSession()
	session.Region = region
	writeCLIToken(t, cache, session, "a-token")
	m := login.New(login.Options{CLICache: cache, Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
		to = append(to, addr)
		return nil, errors.New("not in a test")
	}})
	if _, err := m.Begin(t.Context(), session, true); err == nil {
		t.Error("signed in with no network")
	}
	if _, err := m.Role(session, account, ssoRole).Mint(t.Context(), broker.MintInput{}); err == nil {
		t.Error("minted with no network")
	}
	return to
}

// cliPython is the interpreter of Debian's AWS CLI v2, whose library it can import.
func (in installer) cliPython() piece {
	const path = "/usr/bin/python3"
	_, version, err := findAWSCLI(in.t.Context())
	if err != nil {
		if err = in.apt([]string{"awscli"}); err == nil {
			_, version, err = findAWSCLI(in.t.Context())
		}
	}
	if err == nil {
		err = do(in.command("/", path, "-c", "import awscli.botocore"))
	}
	return piece{path, version, err}
}

// TestSSOCLICache signs in with the AWS CLI's own code, and has the broker use the
// access token that this leaves behind, and nothing else of it.
func TestSSOCLICache(t *testing.T) {
	python := newInstaller(t).cliPython()
	need(t, python)
	center := newSSO(t, ssofake.Lives{Interval: time.Second})
	for _, name := range []string{"corp", ""} { // a section [sso-session corp], and a legacy profile
		home := tempDir(t)
		session := ssoSession()
		session.Name = name
		argv := []string{python.path, absolute("sso/cli.py"), center.url, home, session.StartURL, session.Region}
		if name != "" {
			argv = append(argv, name)
		}
		if r := run(t.Context(), home, cleanEnv(home, "AWS_DEFAULT_REGION="+session.Region, "PYTHONDONTWRITEBYTECODE=1"), argv...); r.err != nil {
			t.Fatalf("cli.py: %s", r)
		}
		before := folder(t, home)
		calls := center.Count("", "")
		m := center.manager(login.Options{CLICache: filepath.Join(home, ".aws", "sso", "cache")})
		if _, err := m.Role(session, account, ssoRole).Mint(t.Context(), broker.MintInput{}); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if n := center.Count("", "") - calls; n != 1 {
			t.Errorf("%q: %d calls", name, n)
		}
		// Revoked: the CLI's refresh token would mend that, and is not ours.
		center.RevokeAccess()
		_, err := m.Role(session, account, ssoRole).Mint(t.Context(), broker.MintInput{})
		if e, ok := errors.AsType[*broker.Error](err); !ok || e.Kind != broker.KindLoginNeeded || center.Count("", "")-calls != 2 {
			t.Errorf("%q: %v after %d calls", name, err, center.Count("", "")-calls)
		}
		if after := folder(t, home); after != before {
			t.Errorf("%q: the CLI's cache was changed", name)
		}
	}
}

// folder is all that is in a folder, with the times of change.
func folder(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		fmt.Fprintf(&out, "%s %v %x\n", path, info.ModTime(), b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// writeCLIToken writes a token as the AWS CLI does, for a session that has a name.
func writeCLIToken(t *testing.T, cache string, s login.Session, token string) {
	t.Helper()
	b, err := json.Marshal(map[string]string{
		"startUrl": s.StartURL, "region": s.Region, "accessToken": token, "expiresAt": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
	})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(cache, sha1Hex(s.Name)+".json"), string(b))
}

// TestSSOCredentials: what the portal's stand-in gives, STS's takes.
func TestSSOCredentials(t *testing.T) {
	center := newSSO(t, ssofake.Lives{Interval: time.Second})
	fake := stsfake.New()
	running, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = running.Close() })
	s := server{endpoint: running.URL, region: "eu-central-1"}
	center.SetIssuer(func(of, role string, life time.Duration) (ssofake.Credentials, error) {
		arn := "arn:aws:iam::" + of + ":role/aws-reserved/sso.amazonaws.com/AWSReservedSSO_" + role + "_0123456789abcdef"
		fake.AddRole(stsfake.Role{ARN: arn, Subjects: []string{"somebody"}})
		c := minted(t, s.ask(t, ask(aws.Credentials{}, "AssumeRoleWithWebIdentity", "RoleArn", arn, "RoleSessionName", "somebody",
			"WebIdentityToken", fake.IdentityToken("somebody", time.Minute)).lasting(int(life/time.Second))))
		return ssofake.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken, Expires: c.Expires}, nil
	})
	m := center.manager(login.Options{})
	a, err := m.Begin(t.Context(), ssoSession(), true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := center.Visit(a.URL, true); err != nil {
		t.Fatal(err)
	}
	if err := a.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := m.Role(ssoSession(), account, ssoRole).Mint(t.Context(), broker.MintInput{})
	if err != nil {
		t.Fatal(err)
	}
	got := s.ask(t, ask(aws.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey.Reveal(), SessionToken: c.SessionToken.Reveal()}, "GetCallerIdentity"))
	if !strings.Contains(got.body, "assumed-role/AWSReservedSSO_"+ssoRole) {
		t.Errorf("%+v", got)
	}
	if left := c.Lifetime().Round(time.Minute); left != time.Hour {
		t.Errorf("lives for %v", left)
	}
}

// TestSSOVault: sign-ins rest in a real vault, sealed, are shared by processes, and no
// part of them is to be read in the state folder.
func TestSSOVault(t *testing.T) {
	center := newSSO(t, ssofake.Lives{Interval: time.Second, Access: time.Minute}) // refreshed at every mint
	text, err := seal.MakeIdentity()
	if err != nil {
		t.Fatal(err)
	}
	identity, err := seal.ParseIdentity(text)
	if err != nil {
		t.Fatal(err)
	}
	state := tempDir(t)
	var mu sync.Mutex
	var secrets []string // every secret that any process was given
	record := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		center.ServeHTTP(answer, r)
		var got map[string]any
		if json.Unmarshal(answer.Body.Bytes(), &got) == nil {
			mu.Lock()
			for _, name := range []string{"clientSecret", "accessToken", "refreshToken", "deviceCode"} {
				if s, ok := got[name].(string); ok {
					secrets = append(secrets, s)
				}
			}
			mu.Unlock()
		}
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	}))
	defer record.Close()
	process := func() *login.Manager {
		v := vault.New(state)
		v.Open(identity)
		return login.New(login.Options{Vault: v, Endpoint: func(string, string) string { return record.URL }, Report: func(err error) { t.Error(err) }})
	}
	one := process()
	a, err := one.Begin(t.Context(), ssoSession(), true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := center.Visit(a.URL, true); err != nil {
		t.Fatal(err)
	}
	if err := a.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	processes := []*login.Manager{one, process(), process()}
	for range 5 {
		var wg sync.WaitGroup
		for _, m := range processes {
			for range 3 {
				wg.Go(func() {
					if _, err := m.Role(ssoSession(), account, ssoRole).Mint(t.Context(), broker.MintInput{}); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
	}
	if len(secrets) < 10 {
		t.Errorf("%d secrets", len(secrets))
	}
	if err := processes[1].SignOut(t.Context(), ssoSession()); err != nil {
		t.Error(err)
	}
	_, err = process().Role(ssoSession(), account, ssoRole).Mint(t.Context(), broker.MintInput{})
	if e, ok := errors.AsType[*broker.Error](err); !ok || e.Kind != broker.KindLoginNeeded {
		t.Errorf("after a sign-out: %v", err)
	}
	files := 0
	err = filepath.Walk(state, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		for _, s := range append(secrets, ssofake.StartURL) {
			if bytes.Contains(b, []byte(s)) {
				t.Errorf("%s holds %.12s...", path, s)
			}
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d files: %v", files, err)
	}
}
