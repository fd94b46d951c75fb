package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/access"
	"github.com/stsbroker/stsbroker/broker/awssts"
	"github.com/stsbroker/stsbroker/broker/observe"
	"github.com/stsbroker/stsbroker/cache"
	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/stsfake"
	"github.com/stsbroker/stsbroker/metadata"
)

// The lines of the wire contract, by number, that are about commands, and about
// time. Those about what is on the wire are in the metadata package.

// wired is a home whose broker has a door of each kind for profile p0.
type wired struct {
	*rig
	imds string // port of the IMDS door
}

func newWired(t *testing.T) *wired {
	t.Helper()
	for _, name := range []string{"NO_PROXY", "no_proxy"} { // of functions that are called directly
		t.Setenv(name, "")
	}
	binary, err := exec.LookPath("stsbroker") // this test binary, as testscript set it up
	if err != nil {
		t.Fatal(err)
	}
	fake := stsfake.New()
	run, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = run.Close() })
	w := &wired{rig: newRig(t, binary, run.URL, "", fake, 2), imds: freePort(t)}
	short, err := os.MkdirTemp("", "w") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(short) })
	w.env = append(w.env, "XDG_RUNTIME_DIR="+short)
	imds := ""
	if runtime.GOOS == "linux" {
		imds = fmt.Sprintf(", imds: [{ address: \"127.0.0.1:%s\", profile: p0 }]", w.imds)
	}
	w.write(t, ".config/stsbroker/stsbroker.yaml", fmt.Sprintf("listen: { container: [\"127.0.0.1:%s\", \"[::1]:%s\"]%s }\ntoken_files: { pod: { profiles: [p0] } }\n", w.port, w.port, imds))
	return w
}

func (w *wired) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.home, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// read returns what a file of the home says.
func (w *wired) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(w.home, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// poison gives the default profile keys of its own, which most SDKs would prefer.
func (w *wired) poison(t *testing.T) {
	t.Helper()
	w.write(t, ".aws/credentials", w.read(t, ".aws/credentials")+"[default]\naws_access_key_id = AKIAPOISONPOISONPOIS\naws_secret_access_key = poison\n")
	w.write(t, ".aws/config", w.read(t, ".aws/config")+"[default]\nregion = us-east-2\n")
}

// start serves until the test ends.
func (w *wired) start(t *testing.T) {
	t.Helper()
	_, stop := w.serve(t)
	t.Cleanup(stop)
	w.wait(t)
}

// outcome is what a command did.
type outcome struct {
	stdout, stderr string
	status         int
}

// try runs the command with more in its environment.
func (w *wired) try(t *testing.T, more []string, args ...string) outcome {
	t.Helper()
	cmd := exec.Command(w.binary, args...)
	cmd.Env = slices.Concat(w.env, more)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(args, err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// variables are those that env prints.
func (w *wired) variables(t *testing.T, more []string, args ...string) variables {
	t.Helper()
	o := w.try(t, more, append([]string{"env", "p0", "--shell", "json"}, args...)...)
	var v variables
	if err := json.Unmarshal([]byte(o.stdout), &v); err != nil || o.status != 0 || o.stderr != "" {
		t.Fatalf("env %v: %+v: %v", args, o, err)
	}
	return v
}

const (
	dontCare = "\x00" // for a value that the test looks at elsewhere
	region   = "eu-central-1"
)

// must compares variables with all that are meant.
func (v variables) must(t *testing.T, what string, set map[string]string, unset ...string) {
	t.Helper()
	for name, value := range v.Set {
		if want, ok := set[name]; !ok || want != dontCare && value != want {
			t.Errorf("%s: %s=%s, want %q", what, name, value, want)
		}
	}
	for name := range set {
		if _, ok := v.Set[name]; !ok {
			t.Errorf("%s: %s is not set", what, name)
		}
	}
	if got, want := slices.Sorted(slices.Values(v.Unset)), slices.Sorted(slices.Values(unset)); !slices.Equal(got, want) {
		t.Errorf("%s: unset are %q, want %q", what, got, want)
	}
}

// elsewhere are the variables that would lead away from any door.
func elsewhere(more ...string) []string {
	return append(more, "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN")
}

const (
	fullURI     = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
	relativeURI = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
	tokenValue  = "AWS_CONTAINER_AUTHORIZATION_TOKEN"
	tokenPath   = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
	imdsURL     = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
	noIMDS      = "AWS_EC2_METADATA_DISABLED"
)

// poisoned is an environment in which every variable leads elsewhere.
func poisoned() (env []string) {
	for _, name := range elsewhere(fullURI, relativeURI, tokenValue, tokenPath, imdsURL, noIMDS, "AWS_REGION", "AWS_DEFAULT_REGION") {
		env = append(env, name+"=poison")
	}
	return env
}

func TestWire01_WhereIsPublished(t *testing.T) {
	w := newWired(t)
	w.start(t)
	loopback := "http://127.0.0.1:" + w.port
	if got := w.variables(t, nil).Set[fullURI]; got != loopback+"/credentials/p0" {
		t.Errorf("published is %s", got)
	}
	if got := w.variables(t, nil, "--door", "eks").Set[fullURI]; got != loopback+"/v1/credentials" {
		t.Errorf("published for EKS is %s", got)
	}
	for _, at := range []string{"127.0.0.1", "[::1]"} { // on the same port
		c, err := net.Dial("tcp", at+":"+w.port)
		if err != nil {
			if at == "[::1]" {
				t.Log("not run on [::1]: ", err)
				continue
			}
			t.Fatal(err)
		}
		status, err := (&target{addr: at + ":" + w.port, token: w.variables(t, nil).Set[tokenValue]}).status(c)
		_ = c.Close()
		if err != nil || status != http.StatusOK {
			t.Errorf("%s: %d, %v", at, status, err)
		}
	}
	// Where no SDK goes without TLS, no broker listens.
	for _, address := range []string{"0.0.0.0:9170", "[::]:9170", "10.0.0.1:80", "169.254.170.3:80", "169.254.169.254:80", "[fd00:ec2::24]:80", "host.docker.internal:9170", "localhost:9170"} {
		w.write(t, "other.yaml", "listen: { container: [\""+address+"\"] }\n")
		if o := w.try(t, nil, "check", "--config", filepath.Join(w.home, "other.yaml")); o.status == 0 {
			t.Errorf("%s may be listened on: %+v", address, o)
		}
	}
	for _, address := range []string{"127.0.0.1:9170", "[::1]:9170", "169.254.170.2:80", "169.254.170.23:80", "[fd00:ec2::23]:80"} {
		w.write(t, "other.yaml", "listen: { container: [\""+address+"\"] }\n")
		if o := w.try(t, nil, "check", "--config", filepath.Join(w.home, "other.yaml")); o.status != 0 {
			t.Errorf("%s may not be listened on: %+v", address, o)
		}
	}
}

// Go and JavaScript drop the endpoint's path, Java and C++ append to it: there is
// none, nor a slash at its end. And nothing secret is in any address.
func TestWire04_Addresses(t *testing.T) {
	w := newWired(t)
	w.start(t)
	doors := []string{"container", "eks"}
	if runtime.GOOS == "linux" {
		doors = append(doors, "imds")
		if got := w.variables(t, nil, "--door", "imds").Set[imdsURL]; got != "http://127.0.0.1:"+w.imds {
			t.Errorf("the IMDS endpoint is %s", got)
		}
	}
	for _, door := range doors {
		for name, value := range w.variables(t, nil, "--door", door).Set {
			if strings.HasPrefix(value, "http:") && (strings.ContainsAny(value, "?#@") || access.IsToken(value[strings.LastIndexByte(value, '/')+1:])) {
				t.Errorf("%s: %s=%s", door, name, value)
			}
		}
	}
}

func TestWire05_TokensAsHandedOut(t *testing.T) {
	w := newWired(t)
	w.start(t)
	visible := regexp.MustCompile(`\A[!-~]+\z`)
	tokens := map[string]string{"env": w.variables(t, nil).Set[tokenValue]}
	for name, args := range map[string][]string{"env's file": {"--token-file"}, "the file for EKS": {"--door", "eks"}} {
		v := w.variables(t, nil, args...)
		if _, both := v.Set[tokenValue]; both { // SDKs differ on which wins
			t.Errorf("%s: the token is printed too", name)
		}
		text, err := os.ReadFile(v.Set[tokenPath])
		if err != nil {
			t.Fatal(err)
		}
		tokens[name] = string(text)
	}
	tokens["token create"], _ = strings.CutSuffix(w.try(t, nil, "token", "create", "x", "--profile", "p0").stdout, "\n") // the line's
	tokens["exec"], _ = strings.CutSuffix(w.try(t, nil, "exec", "p0", "--", "sh", "-c", "echo $"+tokenValue).stdout, "\n")
	for name, token := range tokens {
		if !visible.MatchString(token) {
			t.Errorf("%s: %q", name, token)
		}
		if name == "exec" {
			continue // its token ended with it
		}
		c, err := net.Dial("tcp", "127.0.0.1:"+w.port)
		if err != nil {
			t.Fatal(err)
		}
		status, err := (&target{addr: "127.0.0.1:" + w.port, token: token}).status(c)
		_ = c.Close()
		if err != nil || status != http.StatusOK {
			t.Errorf("%s: %d, %v", name, status, err)
		}
	}
}

func TestWire22_Env(t *testing.T) {
	w := newWired(t)
	w.start(t)
	container := map[string]string{
		fullURI: "http://127.0.0.1:" + w.port + "/credentials/p0", tokenValue: dontCare, noIMDS: "true", "AWS_REGION": region, "AWS_DEFAULT_REGION": region,
	}
	file := maps.Clone(container)
	delete(file, tokenValue)
	file[tokenPath] = dontCare
	eks := maps.Clone(file)
	eks[fullURI] = "http://127.0.0.1:" + w.port + "/v1/credentials"
	for _, env := range [][]string{nil, poisoned()} {
		w.variables(t, env).must(t, "container", container, elsewhere(relativeURI, tokenPath)...)
		w.variables(t, env, "--token-file").must(t, "token file", file, elsewhere(relativeURI, tokenValue)...)
		w.variables(t, env, "--door", "eks").must(t, "EKS", eks, elsewhere(relativeURI, tokenValue)...)
	}

	// ECS's address, which this host need not have. No proxy is to be asked for it.
	p := place{home: t.TempDir(), getenv: func(string) string { return "" }}
	e := control.Endpoint{URI: "http://127.0.0.1:1/credentials/p0", Path: "/credentials/p0", Token: "t", Region: region}
	v, err := p.endpointVariables(doorECS, control.Status{Container: []string{"http://127.0.0.1:1", "http://169.254.170.2"}}, e)
	if err != nil {
		t.Fatal(err)
	}
	v.must(t, "ECS", map[string]string{
		relativeURI: "/credentials/p0", tokenValue: "t", noIMDS: "true", "AWS_REGION": region, "AWS_DEFAULT_REGION": region, "NO_PROXY": "169.254.170.2",
	}, elsewhere(fullURI, tokenPath)...)
	v, err = p.eksVariables(control.Status{
		Profiles: []control.Profile{{Name: "p0", Region: region}}, TokenFiles: []control.File{{Path: "/token", Profiles: []string{"p0"}}},
		Container: []string{"http://127.0.0.1:1", "http://[fd00:ec2::23]"},
	})
	if err != nil {
		t.Fatal(err)
	}
	v.must(t, "EKS at its own address", map[string]string{
		fullURI: "http://[fd00:ec2::23]/v1/credentials", tokenPath: "/token", noIMDS: "true", "AWS_REGION": region, "AWS_DEFAULT_REGION": region, "NO_PROXY": dontCare,
	}, elsewhere(relativeURI, tokenValue)...)
	if !strings.Contains(v.Set["NO_PROXY"], "fd00:ec2::23") {
		t.Errorf("a proxy is asked for fd00:ec2::23: %q", v.Set["NO_PROXY"])
	}
}

// A normal home: the default profile has keys, and what is printed leads past them.
func TestWire22_PoisonedHome(t *testing.T) {
	w := newWired(t)
	w.poison(t)
	w.start(t)
	v := w.variables(t, nil)
	v.must(t, "container", map[string]string{
		fullURI: dontCare, tokenValue: dontCare, noIMDS: "true", "AWS_REGION": region, "AWS_DEFAULT_REGION": region, "AWS_CONFIG_FILE": dontCare, "AWS_SHARED_CREDENTIALS_FILE": dontCare,
	}, elsewhere(relativeURI, tokenPath)...)
	config, err := os.ReadFile(v.Set["AWS_CONFIG_FILE"])
	credentials, err2 := os.ReadFile(v.Set["AWS_SHARED_CREDENTIALS_FILE"])
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(config)+string(credentials), "POISON") || !strings.Contains(string(config), "us-east-2") {
		t.Errorf("the copies have %s and %s", config, credentials)
	}
}

// exec's child has just those variables, whatever was there before, with a daemon and without.
func TestWire22_Exec(t *testing.T) {
	w := newWired(t)
	w.poison(t)
	child := func(what string) {
		t.Helper()
		o := w.try(t, append(poisoned(), relativeURI+"="), "exec", "p0", "--", "env")
		if o.status != 0 || o.stderr != "" {
			t.Fatalf("%s: %+v", what, o)
		}
		v := variables{Set: map[string]string{}}
		for line := range strings.Lines(o.stdout) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			if strings.HasPrefix(name, "AWS_") && !strings.HasPrefix(name, "AWS_ENDPOINT_URL") && name != "AWS_CA_BUNDLE" && name != imdsURL { // of the rig, and switched off
				v.Set[name] = value
			}
		}
		v.must(t, what, map[string]string{
			fullURI: dontCare, tokenValue: dontCare, noIMDS: "true", "AWS_REGION": region, "AWS_DEFAULT_REGION": region, "AWS_CONFIG_FILE": dontCare, "AWS_SHARED_CREDENTIALS_FILE": dontCare,
		})
		if !regexp.MustCompile(`^http://127\.0\.0\.1:\d+/credentials/p0$`).MatchString(v.Set[fullURI]) || v.Set[tokenValue] == "poison" {
			t.Errorf("%s: %s=%s, %s=%s", what, fullURI, v.Set[fullURI], tokenValue, v.Set[tokenValue])
		}
	}
	child("without a daemon")
	w.start(t)
	child("with a daemon")
}

func TestWire23_Env(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not run: IMDS is served on Linux only")
	}
	w := newWired(t)
	w.start(t)
	want := map[string]string{imdsURL: "http://127.0.0.1:" + w.imds, "AWS_REGION": region, "AWS_DEFAULT_REGION": region, "NO_PROXY": "127.0.0.1,localhost,169.254.169.254"}
	unset := elsewhere(noIMDS, fullURI, relativeURI, tokenValue, tokenPath)
	for _, env := range [][]string{nil, poisoned()} {
		w.variables(t, env, "--door", "imds").must(t, "IMDS", want, unset...)
	}
	// Added to what is there, in both spellings.
	want["NO_PROXY"], want["no_proxy"] = ".corp,localhost,127.0.0.1,169.254.169.254", "x,127.0.0.1,localhost,169.254.169.254"
	w.variables(t, []string{"NO_PROXY=.corp, localhost", "no_proxy=x"}, "--door", "imds").must(t, "IMDS with proxies", want, unset...)

	o := w.try(t, append(poisoned(), "HTTP_PROXY=http://proxy.example"), "exec", "--door", "imds", "p0", "--", "env")
	if o.status != 0 || o.stderr != "" {
		t.Fatalf("%+v", o)
	}
	environ := map[string]string{}
	for line := range strings.Lines(o.stdout) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		environ[name] = value
	}
	if environ[imdsURL] != "http://127.0.0.1:"+w.imds || environ["AWS_REGION"] != region || environ["NO_PROXY"] != "127.0.0.1,localhost,169.254.169.254" {
		t.Errorf("exec: %v", environ)
	}
	for _, name := range unset {
		if value, set := environ[name]; set {
			t.Errorf("exec: %s=%s", name, value)
		}
	}
}

func TestWire24_CredentialProcess(t *testing.T) {
	w := newWired(t)
	// A helper that prints as much as a credential process may, and a profile that only warns.
	w.write(t, "helper", "#!/bin/sh\nt=$(head -c 50000 /dev/zero | tr '\\0' T)\necho '{\"Version\":1,\"AccessKeyId\":\"ASIATOOLTOOLTOOLTOOL\",\"SecretAccessKey\":\"s\",\"SessionToken\":\"'$t'\",\"Expiration\":\"2999-01-01T00:00:00Z\"}'\n")
	if err := os.Chmod(filepath.Join(w.home, "helper"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.write(t, ".aws/config", w.read(t, ".aws/config")+"[profile sso]\nsso_session = x\nsso_account_id = 123456789012\nsso_role_name = x\n"+
		"[profile tool]\ncredential_process = "+filepath.Join(w.home, "helper")+"\n"+
		"[profile closed]\nrole_arn = arn:aws:iam::123456789012:role/closed\nsource_profile = dev\n")
	w.fake.AddRole(stsfake.Role{ARN: "arn:aws:iam::123456789012:role/closed", Trust: []string{"arn:aws:iam::123456789012:user/nobody"}})
	all := func(what string) {
		t.Helper()
		for profile, account := range map[string]bool{"p0": true, "tool": false} {
			o := w.try(t, poisoned(), "credential-process", profile)
			if o.status != 0 || o.stderr != "" || len(o.stdout) >= 60<<10 { // C++ merges the streams
				t.Errorf("%s, %s: status %d, %d bytes, stderr %q", what, profile, o.status, len(o.stdout), o.stderr)
				continue
			}
			d := json.NewDecoder(strings.NewReader(o.stdout))
			d.UseNumber()
			var got map[string]any
			if err := d.Decode(&got); err != nil {
				t.Fatalf("%s, %s: %.200s: %v", what, profile, o.stdout, err)
			}
			if d.More() || strings.Count(o.stdout, "\n") != 1 || !strings.HasSuffix(o.stdout, "\n") {
				t.Errorf("%s, %s: more than one line of one object", what, profile)
			}
			if got["Version"] != json.Number("1") {
				t.Errorf("%s, %s: Version is %#v", what, profile, got["Version"])
			}
			keys := []string{"AccessKeyId", "Expiration", "SecretAccessKey", "SessionToken", "Version"}
			if account {
				keys = append([]string{"AccessKeyId", "AccountId"}, keys[1:]...)
			}
			if have := slices.Sorted(maps.Keys(got)); !slices.Equal(have, keys) {
				t.Errorf("%s, %s: keys %q", what, profile, have)
			}
			for _, key := range keys[:len(keys)-1] {
				if s, ok := got[key].(string); !ok || s == "" {
					t.Errorf("%s, %s: %s is %#v", what, profile, key, got[key])
				}
			}
			if account && got["AccountId"] != "123456789012" {
				t.Errorf("%s, %s: account %v", what, profile, got["AccountId"])
			}
			if e, err := time.Parse("2006-01-02T15:04:05Z", fmt.Sprint(got["Expiration"])); err != nil || !e.After(time.Now()) {
				t.Errorf("%s, %s: Expiration %v", what, profile, got["Expiration"])
			}
		}
		for profile, says := range map[string]string{"nobody": "there is no profile nobody", "closed": "AccessDenied", "sso": "unservable"} {
			o := w.try(t, nil, "credential-process", profile)
			if o.status == 0 || o.stdout != "" || strings.Count(o.stderr, "\n") != 1 || !strings.HasSuffix(o.stderr, "\n") || !strings.Contains(o.stderr, says) {
				t.Errorf("%s, %s: %+v", what, profile, o)
			}
		}
		for _, args := range [][]string{{"credential-process"}, {"credential-process", "p0", "p1"}, {"credential-process", "p0", "--nonsense"}} {
			if o := w.try(t, nil, args...); o.status == 0 || o.stdout != "" || strings.Count(o.stderr, "\n") != 1 {
				t.Errorf("%s, %q: %+v", what, args, o)
			}
		}
	}
	all("without a daemon")
	w.start(t)
	all("with a daemon")
	w.write(t, "bad.yaml", "listen: [\n")
	if o := w.try(t, nil, "--socket", filepath.Join(w.home, "none.sock"), "--config", filepath.Join(w.home, "bad.yaml"), "credential-process", "p0"); o.status == 0 || o.stdout != "" || strings.Count(o.stderr, "\n") != 1 {
		t.Errorf("with a bad document: %+v", o)
	}
	if commandPatience > 55*time.Second { // SDKs end it after a minute
		t.Errorf("it may wait for %v", commandPatience)
	}
}

// Two days of a profile that is asked for every half minute, with the lives that STS grants.
func TestWire19_HalfAnHourIsLeft(t *testing.T) {
	for _, life := range []time.Duration{45 * time.Minute, time.Hour, 90 * time.Minute, 2 * time.Hour, 12 * time.Hour} {
		for name, delay := range map[string]time.Duration{"": 0, " and STS in 2 s": 2 * time.Second} {
			t.Run(life.String()+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := buildWhole(t, zap.NewNop(), 0, nil, func(sts *awssts.STS) []broker.Profile { return []broker.Profile{lasting(sts, life)} })
					w.fake.AddRole(stsfake.Role{ARN: "arn:aws:iam::123456789012:role/app", Trust: []string{"*"}, MaxSession: 12 * time.Hour})
					w.fake.SetFault(stsfake.Fault{Delay: delay})
					c := w.client(t)
					least := life
					for began := time.Now(); time.Since(began) < 48*time.Hour; time.Sleep(30 * time.Second) {
						a, err := c.get("app")
						if err == nil && a.status == http.StatusOK {
							err = a.good(time.Now())
						}
						if err != nil || a.status != http.StatusOK && time.Since(began) > time.Minute {
							t.Fatalf("after %v: %v, %v", time.Since(began), a, err)
						}
						if a.status == http.StatusOK {
							least = min(least, left(t, a.body))
						}
					}
					if least < 30*time.Minute {
						t.Errorf("handed out with %v left", least)
					}
					_ = c.conn.Close()
					w.stop()
				})
			})
		}
	}
}

func lasting(sts *awssts.STS, life time.Duration) broker.Profile {
	return broker.Profile{
		Name: "app", Region: "eu-central-1", Origin: "test:1", Action: "AssumeRole", Bucket: "123456789012/eu-central-1", Parent: broker.Ref{Key: "work"},
		Minter: sts.Role(awssts.Role{Site: awssts.Site{Region: "eu-central-1"}, ARN: "arn:aws:iam::123456789012:role/app", SessionName: "me", Duration: life}),
	}
}

// left is how long a client believes in what it got.
func left(t *testing.T, body map[string]string) time.Duration {
	t.Helper()
	e, err := time.Parse(time.RFC3339, body["Expiration"])
	if err != nil {
		t.Fatal(err)
	}
	return time.Until(e)
}

// STS is down, and less than 15 minutes are left: botocore and .NET ask on every
// call, and each is answered at once.
func TestWire20_EveryCallIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWhole(t, zap.NewNop(), time.Hour)
		first := w.client(t)
		a, err := first.get("app")
		if err != nil || a.status != http.StatusOK {
			t.Fatal(a, err)
		}
		w.fake.SetFault(stsfake.Fault{Kind: stsfake.FaultUnavailable})
		_ = first.conn.Close()
		time.Sleep(left(t, a.body) - 15*time.Minute)
		c := w.client(t)
		key := a.body["AccessKeyId"]
		for n := 0; ; n++ {
			a, err := c.get("app")
			if err != nil || a.status != http.StatusOK || a.took != 0 || a.body["AccessKeyId"] != key {
				t.Fatalf("call %d: %v, %v", n, a, err)
			}
			if left(t, a.body) <= 2*time.Second {
				if n < 8000 {
					t.Errorf("only %d calls", n)
				}
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		_ = c.conn.Close()
		w.stop()
	})
}

// instance is an IMDS door over pipes, in a synctest bubble, for one profile of a
// broker of its own.
type instance struct {
	*pipe
	real net.Conn // whose addresses the pipes' connections have: the kernel knows its two ends
}

// newInstance serves until the function that it returns is called.
func newInstance(t *testing.T, w *whole, real net.Conn) (*instance, func()) {
	t.Helper()
	i := &instance{newPipe(), real}
	log := zap.NewNop()
	var b *broker.Broker
	obs := observe.New(log, func() broker.Stats { return b.Stats() })
	tokens := access.Memory()
	b = broker.New(broker.Options{Keys: oneKey{}, Store: cache.NewMemory(), Access: tokens, Observer: obs})
	b.Reload([]broker.Profile{lasting(w.sts, time.Hour)})
	server := metadata.NewServer(metadata.NewIMDS(metadata.IMDS{
		Profile: "app", Source: b, Standing: b.StatusOf, Access: tokens, Keys: func() []broker.Secret { key, _ := tokens.Key("imds"); return []broker.Secret{key} }, Requests: obs, Observer: obs,
	}), func(string) {})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Run(ctx) })
	wg.Go(func() { _ = server.Serve(i) })
	return i, func() {
		cancel()
		_ = server.Close()
		wg.Wait()
	}
}

func (i *instance) Accept() (net.Conn, error) {
	c, err := i.pipe.Accept()
	if err != nil {
		return nil, err
	}
	return known{c, i.real}, nil
}

// known is a pipe's end that looks like one of a TCP connection.
type known struct {
	net.Conn
	real net.Conn
}

func (c known) LocalAddr() net.Addr  { return c.real.LocalAddr() }
func (c known) RemoteAddr() net.Addr { return c.real.RemoteAddr() }

// loopbackConn is the accepted end of a TCP connection to ourselves.
func loopbackConn(t *testing.T) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.Close(), s.Close() })
	return s
}

// metadataClient asks as SDKs do, on one connection.
type metadataClient struct {
	conn  net.Conn
	r     *bufio.Reader
	token string
}

func (i *instance) client(t *testing.T) *metadataClient {
	conn, err := i.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	return &metadataClient{conn: conn, r: bufio.NewReader(conn)}
}

// ask returns the status and the body, and how long that took.
func (c *metadataClient) ask(method, path string) (status int, body string, took time.Duration, err error) {
	began := time.Now()
	header := "X-aws-ec2-metadata-token: " + c.token
	if method == http.MethodPut {
		header = "X-aws-ec2-metadata-token-ttl-seconds: 300"
	}
	if _, err := fmt.Fprintf(c.conn, "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n\r\n", method, path, header); err != nil {
		return 0, "", 0, err
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return 0, "", 0, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	took = time.Since(began)
	if method == http.MethodPut && resp.StatusCode == http.StatusOK {
		c.token = string(data)
	}
	return resp.StatusCode, string(data), took, err
}

// Cold, whatever STS takes: the token and the list come at once; the leaf when STS
// has answered, or with 503 when 350 ms are over. The client's own retry succeeds.
func TestWire17_IMDSToTheMillisecond(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not run: IMDS is served on Linux only")
	}
	const (
		list     = "/latest/meta-data/iam/security-credentials/"
		patience = 350 * time.Millisecond
	)
	real := loopbackConn(t)
	for _, tc := range []struct {
		sts     time.Duration
		callers int
	}{{0, 50}, {349 * time.Millisecond, 50}, {351 * time.Millisecond, 50}, {2 * time.Second, 50}, {2 * time.Second, 1000}} {
		t.Run(fmt.Sprintf("STS in %v, %d callers", tc.sts, tc.callers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWhole(t, zap.NewNop(), 0)
				w.fake.SetFault(stsfake.Fault{Delay: tc.sts})
				i, stop := newInstance(t, w, real)
				began := time.Now()
				var wg sync.WaitGroup
				for range tc.callers {
					wg.Go(func() {
						c := i.client(t)
						defer c.conn.Close()
						if status, _, took, err := c.ask(http.MethodPut, "/latest/api/token"); err != nil || status != http.StatusOK || took != 0 {
							t.Errorf("PUT: %d after %v, %v", status, took, err)
						}
						if status, body, took, err := c.ask(http.MethodGet, list); err != nil || status != http.StatusOK || body != "app" || took != 0 {
							t.Errorf("the list: %d %q after %v, %v", status, body, took, err)
						}
						status, body, took, err := c.ask(http.MethodGet, list+"app")
						switch {
						case err != nil:
							t.Error(err)
						case tc.sts < patience && (status != http.StatusOK || took != tc.sts || !strings.HasPrefix(body, `{"Code":"Success"`)):
							t.Errorf("the leaf: %d %q after %v", status, body, took)
						case tc.sts > patience && (status != http.StatusServiceUnavailable || body != "" || took != patience):
							t.Errorf("the leaf: %d %q after %v", status, body, took)
						}
						time.Sleep(time.Until(began.Add(max(tc.sts, took) + time.Millisecond))) // when STS has answered
						if status, body, took, err := c.ask(http.MethodGet, list+"app"); err != nil || status != http.StatusOK || took != 0 || !strings.HasPrefix(body, `{"Code":"Success"`) {
							t.Errorf("the retry: %d %q after %v, %v", status, body, took, err)
						}
					})
				}
				wg.Wait()
				if n := w.fake.Mints(); n != 1 {
					t.Errorf("%d mints", n)
				}
				stop()
				w.stop()
			})
		})
	}
}
