package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// TestMain makes the test binary play the credential process where its first
// argument names a part, so that the tests need no program but themselves.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if play, ok := parts[os.Args[1]]; ok {
			play()
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

const (
	canarySecret = "CANARYsecretCANARYsecretCANARYsecret0000"
	canaryToken  = "CANARYtokenCANARYtoken"
)

func good(expires time.Time) string {
	return fmt.Sprintf(`{"Version": 1, "AccessKeyId": "ASIA1", "SecretAccessKey": %q, "SessionToken": %q, "Expiration": %q, "AccountId": "123456789012"}`,
		canarySecret, canaryToken, expires.UTC().Format(time.RFC3339))
}

var parts = map[string]func(){
	"part:good":  func() { fmt.Println(good(time.Now().Add(time.Hour))) },
	"part:print": func() { fmt.Print(os.Args[2]) },
	"part:fail": func() {
		fmt.Print(canarySecret)
		fmt.Fprint(os.Stderr, "\n\x1b[31mlogin first\x07\r\nsecond line\n"+strings.Repeat("x", 1<<20))
		os.Exit(3)
	},
	"part:silent": func() { os.Exit(1) },
	"part:long-line": func() {
		fmt.Fprint(os.Stderr, strings.Repeat("é", 1<<20))
		os.Exit(1)
	},
	"part:hang": func() {
		signal.Ignore(os.Interrupt)
		fmt.Fprintln(os.Stderr, "waiting for a human")
		time.Sleep(time.Hour)
	},
	"part:flood": func() {
		for {
			if _, err := fmt.Print(strings.Repeat(canarySecret, 1000)); err != nil {
				time.Sleep(time.Hour) // SIGPIPE off or not: hang
			}
		}
	},
	"part:environ": func() {
		fmt.Fprintln(os.Stderr, strings.Join(os.Environ(), " "))
		os.Exit(1)
	},
	"part:stdin": func() {
		data, err := io.ReadAll(os.Stdin)
		fmt.Fprintf(os.Stderr, "stdin: %q %v\n", data, err)
		os.Exit(1)
	},
}

func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// playing returns a minter whose command plays a part of the test binary.
func playing(t *testing.T, part string, args ...string) *Minter {
	t.Helper()
	m, err := New(Options{Argv: append([]string{self(t), part}, args...), Environ: []string{"PATH=" + os.Getenv("PATH")}})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func asError(t *testing.T, err error) *broker.Error {
	t.Helper()
	var e *broker.Error
	if !errors.As(err, &e) {
		t.Fatalf("not an error of the domain: %v", err)
	}
	for _, canary := range []string{canarySecret, canaryToken, "CANARY"} {
		if strings.Contains(fmt.Sprintf("%v %+v %q", err, err, err), canary) {
			t.Errorf("shows what the command printed: %v", err)
		}
	}
	if strings.ContainsFunc(e.Error(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
		t.Errorf("control characters: %q", e.Error())
	}
	return e
}

func TestMint(t *testing.T) {
	before := time.Now().Add(-time.Second)
	c, err := playing(t, "part:good").Mint(t.Context(), broker.MintInput{})
	if err != nil {
		t.Fatal(err)
	}
	if c.AccessKeyID != "ASIA1" || c.SecretAccessKey.Reveal() != canarySecret || c.SessionToken.Reveal() != canaryToken || c.AccountID != "123456789012" || c.RoleARN != "" {
		t.Errorf("%+v", c)
	}
	if c.Issued.Before(before) || c.Issued.After(time.Now()) || c.Lifetime() > time.Hour || c.Lifetime() < time.Hour-time.Minute {
		t.Errorf("issued %v, expires %v", c.Issued, c.Expires)
	}
}

func TestFailures(t *testing.T) {
	for _, c := range []struct {
		part   string
		kind   broker.Kind
		public string
		cause  string
	}{
		{"part:fail", broker.KindUnavailable, "failed: exit status 3", "it said: [31mlogin first"},
		{"part:silent", broker.KindUnavailable, "failed: exit status 1", "it said nothing"},
		{"part:long-line", broker.KindUnavailable, "exit status 1", "it said: " + strings.Repeat("é", maxLine/2)},
		{"part:stdin", broker.KindUnavailable, "exit status 1", `it said: stdin: "" <nil>`},
		{"part:flood", broker.KindUnavailable, "more than 64 KB", ""},
	} {
		_, err := playing(t, c.part).Mint(t.Context(), broker.MintInput{})
		e := asError(t, err)
		if e.Kind != c.kind || !strings.Contains(e.Public, c.public) || !strings.Contains(fmt.Sprint(e.Cause), c.cause) || len(e.Error()) > 600 {
			t.Errorf("%s: %v: %v", c.part, e.Kind, err)
		}
		if strings.Contains(e.Public, "login first") {
			t.Errorf("%s: clients read what the command wrote: %s", c.part, e.Public)
		}
	}
}

func TestKilled(t *testing.T) {
	m := playing(t, "part:hang")
	m.limit = 300 * time.Millisecond
	_, err := m.Mint(t.Context(), broker.MintInput{})
	if e := asError(t, err); e.Kind != broker.KindUnavailable || !strings.Contains(e.Public, "did not end within 300ms and was killed") {
		t.Error(err)
	}

	ctx, stop := context.WithCancel(t.Context())
	context.AfterFunc(t.Context(), stop)
	go stop()
	_, err = playing(t, "part:hang").Mint(ctx, broker.MintInput{})
	if e := asError(t, err); e.Kind != broker.KindUnavailable || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestDeadlineLeavesTimeForTheCommand(t *testing.T) {
	if d := playing(t, "part:good").Deadline(); d < limit+lingerOn || d > 70*time.Second {
		t.Error(d)
	}
}

func TestNotThere(t *testing.T) {
	for _, o := range []Options{
		{Argv: []string{"no-such-program-anywhere", "--password", canarySecret}},
		{Argv: []string{filepath.Join(t.TempDir(), "none")}},
		{Line: "no-such-program-anywhere --password " + canarySecret},
	} {
		o.Environ = os.Environ()
		m, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		_, err = m.Mint(t.Context(), broker.MintInput{})
		if e := asError(t, err); e.Kind != broker.KindConfig && o.Line == "" || !strings.Contains(e.Public, m.name()) {
			t.Errorf("%+v: %v: %v", o, e.Kind, err)
		}
	}
	for _, o := range []Options{{}, {Argv: []string{""}}, {Line: "  "}, {Argv: []string{"a"}, Line: "a"}} {
		_, err := New(o)
		if e := asError(t, err); e.Kind != broker.KindConfig {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestAnswers(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	whole := good(now.Add(time.Hour))
	without := func(field string) string { return strings.Replace(whole, `"`+field+`"`, `"x`+field+`"`, 1) }
	for _, c := range []struct {
		name, out, want string
		kind            broker.Kind
	}{
		{"whole", whole, "", 0},
		{"spaces", "\n  " + whole + "\n\n", "", 0},
		{"more fields", strings.Replace(whole, "{", `{"Note": [1], `, 1), "", 0},
		{"fraction and zone", strings.Replace(whole, "13:00:00Z", "14:00:00.250+01:00", 1), "", 0},
		{"no account", without("AccountId"), "", 0},
		{"nothing", "", "one JSON object", broker.KindConfig},
		{"text", canarySecret, "one JSON object", broker.KindConfig},
		{"array", "[" + whole + "]", "one JSON object", broker.KindConfig},
		{"string", `"` + canarySecret + `"`, "one JSON object", broker.KindConfig},
		{"two", whole + whole, "one JSON object", broker.KindConfig},
		{"cut", whole[:len(whole)-5], "one JSON object", broker.KindConfig},
		{"null", "null", "Version", broker.KindConfig},
		{"number for a secret", strings.Replace(whole, `"`+canarySecret+`"`, "4242424242", 1), "SecretAccessKey has the wrong type", broker.KindConfig},
		{"no version", without("Version"), "Version", broker.KindConfig},
		{"version 2", strings.Replace(whole, "1", "2", 1), "Version", broker.KindConfig},
		{"version 1.0", strings.Replace(whole, "1", "1.0", 1), "Version", broker.KindConfig},
		{"no key id", without("AccessKeyId"), "AccessKeyId", broker.KindConfig},
		{"no secret", without("SecretAccessKey"), "SecretAccessKey", broker.KindConfig},
		{"long-term", without("SessionToken"), "long-term keys", broker.KindConfig},
		{"empty token", strings.Replace(whole, canaryToken, "", 1), "long-term keys", broker.KindConfig},
		{"no expiry", without("Expiration"), "nobody could tell when to renew", broker.KindConfig},
		{"date", strings.Replace(whole, "T13:00:00Z", "", 1), "RFC 3339", broker.KindConfig},
		{"expired", good(now.Add(-time.Minute)), "had expired 1m0s ago", broker.KindUnavailable},
		{"expires now", good(now), "had expired", broker.KindUnavailable},
	} {
		got, bad := parse([]byte(c.out), now)
		switch {
		case c.want == "" && (bad != nil || got.AccessKeyID != "ASIA1" || got.Lifetime() < time.Hour-time.Second || got.Lifetime() > time.Hour+time.Second):
			t.Errorf("%s: %+v, %+v", c.name, got, bad)
		case c.want != "" && (bad == nil || bad.kind != c.kind || !strings.Contains(bad.text, c.want)):
			t.Errorf("%s: %+v, %+v", c.name, got, bad)
		case bad != nil && (strings.Contains(bad.text, "CANARY") || strings.Contains(bad.text, "4242") || got != (broker.Credentials{})):
			t.Errorf("%s: shows the answer: %+v", c.name, bad)
		}
	}
	_, err := playing(t, "part:print", without("SessionToken")).Mint(t.Context(), broker.MintInput{})
	if e := asError(t, err); e.Kind != broker.KindConfig || !strings.Contains(e.Public, "long-term keys") {
		t.Error(err)
	}
}

func TestEnvironment(t *testing.T) {
	secret := []string{
		"AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=x", "AWS_SESSION_TOKEN=x", "AWS_PROFILE=x", "AWS_DEFAULT_PROFILE=x",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI=x", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=x", "AWS_CONTAINER_AUTHORIZATION_TOKEN=x",
		"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=x", "AWS_EC2_METADATA_SERVICE_ENDPOINT=x", "AWS_WEB_IDENTITY_TOKEN_FILE=x", "AWS_ROLE_ARN=x",
		"AWS_ENDPOINT_URL_STS=x", "GITHUB_TOKEN=x", "STSBROKER_CONFIG=x", "STSBROKER_IDENTITY_FILE=x", "LD_PRELOAD=x", "NOTIFY_SOCKET=x",
		"CREDENTIALS_DIRECTORY=x", "LISTEN_FDS=x", "PATHOLOGY=x", "home=x", "=x", "junk",
	}
	wanted := []string{"PATH=/bin", "HOME=/h", "USER=u", "LANG=C", "LC_ALL=C", "TERM=dumb", "AWS_CONFIG_FILE=c", "AWS_SHARED_CREDENTIALS_FILE=s", "HTTPS_PROXY=p"}
	if got, want := environmentOn("linux", append(secret, wanted...)), append(wanted, "STSBROKER_DEPTH=1"); !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if got := environmentOn("windows", []string{"Path=p", "SystemRoot=r", "ProgramFiles(x86)=f", "aws_session_token=x"}); !slices.Equal(got, []string{"Path=p", "SystemRoot=r", "ProgramFiles(x86)=f", "STSBROKER_DEPTH=1"}) {
		t.Error(got)
	}

	t.Setenv("AWS_SESSION_TOKEN", canaryToken)
	t.Setenv("SOMETHING_ELSE", canarySecret)
	m, err := New(Options{Argv: []string{self(t), "part:environ"}, Environ: []string{"LANG=C", "AWS_SESSION_TOKEN=" + canaryToken}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Mint(t.Context(), broker.MintInput{})
	// Windows adds SYSTEMROOT to every environment.
	if e := asError(t, err); !strings.Contains(fmt.Sprint(e.Cause), "LANG=C STSBROKER_DEPTH=1") {
		t.Error(err)
	}
}

func TestDepth(t *testing.T) {
	for env, want := range map[string]int{"": 0, "=": 0, "=0": 0, "=1": 1, "=7": 7, "=x": 1, "=-1": 1, "=99999999999999999999": 1} {
		environ := []string{"A=b"}
		if env != "" {
			environ = append(environ, DepthVariable+env)
		}
		if got := depth(environ); got != want || Nested(environ) != (want > 0) {
			t.Errorf("%s: %d", env, got)
		}
	}
	m, err := New(Options{Argv: []string{self(t), "part:good"}, Environ: Environment(nil)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Mint(t.Context(), broker.MintInput{})
	if e := asError(t, err); e.Kind != broker.KindConfig || !strings.Contains(e.Public, DepthVariable) {
		t.Error(err)
	}
}

func TestDigest(t *testing.T) {
	seen := map[broker.Digest]string{}
	for _, o := range []Options{
		{Argv: []string{"a", "b"}}, {Argv: []string{"a b"}}, {Argv: []string{"ab"}}, {Argv: []string{"a", "b", ""}}, {Argv: []string{"a"}},
		{Line: "a b"}, {Line: "a"}, {Line: "a  b"},
	} {
		a, errA := New(o)
		b, errB := New(o)
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		if a.Digest() != b.Digest() {
			t.Errorf("%+v: two digests", o)
		}
		if other, ok := seen[a.Digest()]; ok {
			t.Errorf("%+v and %s share a digest", o, other)
		}
		seen[a.Digest()] = fmt.Sprintf("%+v", o)
	}
}
