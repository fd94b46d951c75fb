package main

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stsbroker/stsbroker/internal/seal"
	"github.com/stsbroker/stsbroker/internal/ssofake"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// Commands of the scripts about people who sign in; see TestScripts.

// newCenter is an IAM Identity Center that gives the roles Admin and Reader of the
// scripts' account, with credentials that the STS stand-in takes.
func newCenter(sts *stsfake.Server, stsURL string) *ssofake.Server {
	center := ssofake.New()
	center.SetLives(ssofake.Lives{Interval: time.Second})
	for _, role := range []string{"Admin", "Reader"} {
		center.Assign(stsfake.Account, role)
	}
	center.SetIssuer(func(account, role string, life time.Duration) (ssofake.Credentials, error) {
		arn := "arn:aws:iam::" + account + ":role/aws-reserved/sso.amazonaws.com/AWSReservedSSO_" + role + "_0123456789abcdef"
		sts.AddRole(stsfake.Role{ARN: arn, Subjects: []string{"somebody"}})
		resp, err := http.PostForm(stsURL, url.Values{ //nolint:noctx // loopback
			"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {arn}, "RoleSessionName": {"somebody"},
			"WebIdentityToken": {sts.IdentityToken("somebody", time.Minute)}, "DurationSeconds": {strconv.Itoa(int(life / time.Second))},
		})
		if err != nil {
			return ssofake.Credentials{}, err
		}
		defer resp.Body.Close()
		var out struct {
			ID      string    `xml:"AssumeRoleWithWebIdentityResult>Credentials>AccessKeyId"`
			Secret  string    `xml:"AssumeRoleWithWebIdentityResult>Credentials>SecretAccessKey"`
			Token   string    `xml:"AssumeRoleWithWebIdentityResult>Credentials>SessionToken"`
			Expires time.Time `xml:"AssumeRoleWithWebIdentityResult>Credentials>Expiration"`
		}
		if err := xml.NewDecoder(resp.Body).Decode(&out); err != nil {
			return ssofake.Credentials{}, err
		}
		return ssofake.Credentials{AccessKeyID: out.ID, SecretAccessKey: out.Secret, SessionToken: out.Token, Expires: out.Expires}, nil
	})
	return center
}

// allowCmd is a person with a browser: it waits for an address in FILE, opens it,
// clicks, and goes where that leads. stdout is STATUS and the last page.
func allowCmd(ts *testscript.TestScript, neg bool, args []string) {
	decision := "allow"
	if neg {
		decision = "deny"
	}
	status, page, err := visit(awaitAddress(ts, ts.MkAbs(args[0])), decision)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d %s\n", status, page)
}

func awaitAddress(ts *testscript.TestScript, path string) string {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		said, err := os.ReadFile(path)
		if at := addressIn(string(said)); at != "" {
			return at
		}
		if time.Now().After(end) {
			ts.Fatalf("no address in %s: %s, %v", path, said, err)
		}
	}
}

// addressIn is the address of a sign-in in a text, "" for none yet.
func addressIn(text string) string {
	m := regexp.MustCompile(`(http://127\.0\.0\.1:\d+/[^\s,]+)[\s,]`).FindStringSubmatch(text) // with what ends it: it is there whole
	if m == nil {
		return ""
	}
	return m[1]
}

// awaitCmd waits until a file has a match.
func awaitCmd(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		said, err := os.ReadFile(ts.MkAbs(args[0]))
		if regexp.MustCompile(args[1]).Match(said) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("no match of %q in %s: %s, %v", args[1], args[0], said, err)
		}
	}
}

// visit opens the page of a sign-in and clicks on one of its buttons.
func visit(address, decision string) (status int, page string, err error) {
	read := func(resp *http.Response, err error) (int, string, error) {
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b), err
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	status, page, err = read(client.Get(address)) //nolint:noctx // it has its time
	if err != nil || status != http.StatusOK {
		return status, page, err
	}
	action := regexp.MustCompile(`action="([^"]*)"`).FindStringSubmatch(page)
	field := regexp.MustCompile(`name="(ticket|user_code)" value="([^"]*)"`).FindStringSubmatch(page)
	if action == nil || field == nil {
		return status, page, errors.New("no form is on the page: " + page)
	}
	at, err := url.Parse(address)
	if err != nil {
		return 0, "", err
	}
	at.Path, at.RawQuery = action[1], ""
	return read(client.PostForm(at.String(), url.Values{field[1]: {field[2]}, "decision": {decision}})) //nolint:noctx // it has its time
}

// centerCmd changes what IAM Identity Center knows.
func centerCmd(ts *testscript.TestScript, _ bool, args []string) {
	center := of(ts).center
	switch args[0] {
	case "revoked":
		center.RevokeSessions()
	case "expired":
		center.RevokeAccess()
	case "up":
		center.SetFault(ssofake.Fault{})
	case "down":
		center.SetFault(ssofake.Fault{Status: http.StatusServiceUnavailable})
	default:
		ts.Fatalf("center is revoked, expired, down or up")
	}
}

// callsCmd wants so many calls of an operation, or of CreateToken with a grant.
func callsCmd(ts *testscript.TestScript, _ bool, args []string) {
	op, grant, _ := strings.Cut(args[0], "/")
	if got := fmt.Sprint(of(ts).center.Count(op, grant)); got != args[1] {
		ts.Fatalf("%s calls of %s, want %s", got, args[0], args[1])
	}
}

// cliCmd has the AWS CLI signed in to a session: its cache holds an access token and
// a refresh token.
func cliCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := of(ts)
	ask := func(path string, in map[string]any) map[string]any {
		body, err := json.Marshal(in)
		ts.Check(err)
		resp, err := http.Post(ts.Getenv("AWS_ENDPOINT_URL_SSO_OIDC")+path, "application/json", bytes.NewReader(body)) //nolint:noctx // loopback
		ts.Check(err)
		defer resp.Body.Close()
		out := map[string]any{}
		ts.Check(json.NewDecoder(resp.Body).Decode(&out))
		if resp.StatusCode != http.StatusOK {
			ts.Fatalf("%s: %d %v", path, resp.StatusCode, out)
		}
		return out
	}
	client := ask("/client/register", map[string]any{"clientName": "cli", "clientType": "public", "grantTypes": []string{ssofake.GrantDevice, ssofake.GrantRefresh}, "scopes": []string{"sso:account:access"}})
	who := map[string]any{"clientId": client["clientId"], "clientSecret": client["clientSecret"]}
	with := func(more ...string) map[string]any {
		out := map[string]any{}
		for k, v := range who {
			out[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			out[more[i]] = more[i+1]
		}
		return out
	}
	device := ask("/device_authorization", with("startUrl", ssofake.StartURL))
	_, err := w.center.Visit(device["verificationUriComplete"].(string), true)
	ts.Check(err)
	token := ask("/token", with("grantType", ssofake.GrantDevice, "deviceCode", device["deviceCode"].(string)))
	text, err := json.Marshal(map[string]any{
		"startUrl": ssofake.StartURL, "region": "eu-central-1", "accessToken": token["accessToken"], "refreshToken": token["refreshToken"],
		"expiresAt": time.Now().Add(time.Hour).UTC().Format(time.RFC3339), "clientId": client["clientId"], "clientSecret": client["clientSecret"],
		"registrationExpiresAt": time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339),
	})
	ts.Check(err)
	folder := filepath.Join(ts.Getenv("HOME"), ".aws", "sso", "cache")
	ts.Check(os.MkdirAll(folder, 0o700))
	sum := sha1.Sum([]byte(args[0]))
	ts.Check(os.WriteFile(filepath.Join(folder, hex.EncodeToString(sum[:])+".json"), text, 0o600))
}

// sealfileCmd seals a file for an identity, as age -e -i does.
func sealfileCmd(ts *testscript.TestScript, _ bool, args []string) {
	raw, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	id, err := seal.ParseIdentity(raw)
	ts.Check(err)
	plain, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	sealed, err := id.Seal(bytes.TrimRight(plain, "\n"))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), sealed, 0o600))
}

// wrapCmd seals an identity with a passphrase, as age -p does.
func wrapCmd(ts *testscript.TestScript, _ bool, args []string) {
	text, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	phrase, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	wrapped, err := seal.Wrap(text, bytes.TrimRight(phrase, "\n"))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), wrapped, 0o600))
}

// identityCmd makes an identity, as age-keygen does.
func identityCmd(ts *testscript.TestScript, _ bool, args []string) {
	text, err := seal.MakeIdentity()
	ts.Check(err)
	ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(args[0])), 0o700))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), text, 0o600))
}

// pluginCmd builds age-plugin-batchpass into a folder, or ends the script as not run.
func pluginCmd(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.CommandContext(context.Background(), "go", "build", "-o", filepath.Join(ts.MkAbs(args[0]), "age-plugin-batchpass"), "filippo.io/age/cmd/age-plugin-batchpass")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(ts.Stdout(), "not run: the plugin cannot be built: %v: %s\n", err, out)
		return
	}
	fmt.Fprintln(ts.Stdout(), "built")
}

// TestOneTab: twenty logins at once, for as many profiles of one session. One browser
// is opened, once, and all are signed in by what happens there. The page that leads
// there is gone afterwards, and no argument list had the address.
func TestOneTab(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not run: the browser of the test is opened as Linux opens it")
	}
	const profiles = 20
	fake := stsfake.New()
	run, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer run.Close()
	center := newCenter(fake, run.URL)
	at, err := center.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()

	binary, err := exec.LookPath("stsbroker")
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, binary, run.URL, "", fake, 0)
	var config strings.Builder
	config.WriteString("[sso-session corp]\nsso_start_url = " + ssofake.StartURL + "\nsso_region = eu-central-1\n")
	for i := range profiles {
		fmt.Fprintf(&config, "[profile s%d]\nsso_session = corp\nsso_account_id = %s\nsso_role_name = Role%d\n", i, stsfake.Account, i)
		center.Assign(stsfake.Account, fmt.Sprintf("Role%d", i))
	}
	desk := t.TempDir()
	for name, file := range map[string]struct {
		text string
		mode os.FileMode
	}{
		filepath.Join(r.home, ".aws", "config"): {config.String(), 0o600},
		filepath.Join(desk, "xdg-open"):         {"#!/bin/sh\necho \"$1\" >>\"" + desk + "/opened\"\ncat \"$1\" >>\"" + desk + "/pages\"\n", 0o700},
	} {
		if err := os.WriteFile(name, []byte(file.text), file.mode); err != nil {
			t.Fatal(err)
		}
	}
	r.env = append(r.env, varEndpointSSO+"="+at.URL, varEndpointOIDC+"="+at.URL, "DISPLAY=:0", "PATH="+desk+":"+os.Getenv("PATH"), "XDG_RUNTIME_DIR="+t.TempDir())
	_, stop := r.serve(t)
	defer stop()
	r.wait(t)

	var said [profiles]syncBuilder
	var gone sync.WaitGroup
	for i := range profiles {
		cmd := exec.CommandContext(t.Context(), binary, "login", fmt.Sprintf("s%d", i))
		cmd.Env, cmd.Stdout, cmd.Stderr = r.env, &said[i], &said[i]
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		gone.Go(func() {
			if err := cmd.Wait(); err != nil {
				t.Errorf("s%d: %v\n%s", i, err, said[i].String())
			}
		})
	}
	// all are there before the person is
	joined := func() (n int) {
		for i := range said {
			n += strings.Count(said[i].String(), "\n")
		}
		return n
	}
	pages := func() string {
		text, _ := os.ReadFile(filepath.Join(desk, "pages"))
		return string(text)
	}
	for end := time.Now().Add(30 * time.Second); joined() < profiles || !strings.Contains(pages(), "</html>"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d logins have said something; the page: %s", joined(), pages())
		}
	}
	opened, err := os.ReadFile(filepath.Join(desk, "opened"))
	if n := strings.Count(string(opened), "\n"); err != nil || n != 1 || strings.Contains(string(opened), "http") {
		t.Fatalf("opened %d times: %s, %v", n, opened, err)
	}
	to := regexp.MustCompile(`<a href="([^"]*)"`).FindStringSubmatch(pages())
	if to == nil {
		t.Fatalf("no address is on the page: %s", pages())
	}
	began := time.Now()
	if status, page, err := visit(html.UnescapeString(to[1]), "allow"); err != nil || status != http.StatusOK || !strings.Contains(page, "You are signed in.") {
		t.Fatalf("%d %s, %v", status, page, err)
	}
	gone.Wait()
	t.Logf("signed in within %v", time.Since(began).Round(time.Millisecond))
	if took := time.Since(began); took > pageReading/2 { // the browser has been there: nobody waits for it to read its page
		t.Errorf("the logins ended %v after the sign-in", took)
	}

	first := 0
	for i := range said {
		words := said[i].String()
		name := fmt.Sprintf("s%d", i)
		switch {
		case strings.HasPrefix(words, "stsbroker: profile "+name+": sign in to corp in the browser\n"+name+": ASIA"):
			first++
		case !strings.HasPrefix(words, "stsbroker: profile "+name+": a sign-in to corp is under way already; it is at "+at.URL+"/authorize?"), !strings.Contains(words, "\n"+name+": ASIA"):
			t.Errorf("%s: %s", name, words)
		}
	}
	if first != 1 {
		t.Errorf("%d logins opened a browser", first)
	}
	for op, want := range map[string]int{ssofake.RegisterClient: 1, ssofake.CreateToken: 1, ssofake.GetRoleCredentials: profiles} {
		if got := center.Count(op, ""); got != want {
			t.Errorf("%d calls of %s, want %d", got, op, want)
		}
	}
	if _, err := os.Stat(strings.TrimSpace(string(opened))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the page is there still: %v", err)
	}
}
