//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// consoleWorld is a home with profiles of every kind, an STS stand-in, and a
// federation endpoint that trades the last set of credentials for a token.
type consoleWorld struct {
	home string
	fake *stsfake.Server
	sts  string // the stand-in's address
	fed  *httptest.Server

	mu    sync.Mutex
	forms []url.Values
	token string
}

const consoleConfig = `listen: { container: ["127.0.0.1:0"] }
sts: { region: eu-central-1, endpoints: { eu-central-1: "STS" } }
keys: { dev: { custody: file } }
profiles:
  app: { role: { arn: "arn:aws:iam::123456789012:role/app", key: dev, duration: 2h } }
  chained: { role: { arn: "arn:aws:iam::123456789012:role/app", source: app } }
  guest: { federation: { key: dev, name: guest, policy_arns: ["arn:aws:iam::aws:policy/ReadOnlyAccess"] } }
  base: { session: { key: dev } }
`

func newConsoleWorld(t *testing.T) *consoleWorld {
	t.Helper()
	w := &consoleWorld{home: t.TempDir(), fake: stsfake.New(), token: rand.Text()}
	w.fake.AddUser("dev", "AKIASCRIPTSCRIPTSCRI", "canary/secret/key/of/the/user/0123456789")
	w.fake.AddRole(stsfake.Role{ARN: "arn:aws:iam::123456789012:role/app", Trust: []string{"*"}, MaxSession: 12 * time.Hour})
	run, err := w.fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.sts = run.URL
	t.Cleanup(func() { _ = run.Close() })
	w.fed = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		form, err := url.ParseQuery(string(body))
		if err != nil || r.Method != http.MethodPost || r.RequestURI != "/federation" {
			t.Errorf("%s %s %v", r.Method, r.RequestURI, err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.forms = append(w.forms, form)
		fmt.Fprintf(rw, `{"SigninToken":%q}`, w.token)
	}))
	t.Cleanup(w.fed.Close)
	for file, text := range map[string]string{
		".aws/credentials":                      "[dev]\naws_access_key_id = AKIASCRIPTSCRIPTSCRI\naws_secret_access_key = canary/secret/key/of/the/user/0123456789\n",
		".config/stsbroker/stsbroker.yaml":      strings.Replace(consoleConfig, "STS", run.URL, 1),
		"run/stsbroker/console/left/by a crash": "https://signin.aws.amazon.com/federation?SigninToken=old",
	} {
		path := filepath.Join(w.home, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range append([]string{"AWS_PROFILE", "AWS_DEFAULT_REGION", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "STSBROKER_DEPTH", varToken, varTokenFile}, overrides...) {
		t.Setenv(name, "")
	}
	t.Setenv("HOME", w.home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(w.home, ".config"))
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(w.home, "run"))
	return w
}

func (w *consoleWorld) options(out io.Writer) consoleOptions {
	return consoleOptions{out: out, endpoint: w.fed.URL + "/federation", reading: time.Millisecond}
}

// opener puts a program on the PATH in the place of the one that opens a browser.
// It notes its arguments, its environment, and what it finds at the last argument,
// and then does what then says.
func (w *consoleWorld) opener(t *testing.T, then string) {
	t.Helper()
	name := browserCommand()[0]
	bin := filepath.Join(w.home, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\nprintf '%s\\n' \"$@\" >'" + w.home + "/argv'\nenv >'" + w.home + "/env'\ncp -p \"$1\" '" + w.home + "/page'\nls -ld \"${1%/*}\" | cut -c1-10 >'" + w.home + "/folder'\n" + then + "\n"
	if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
}

func (w *consoleWorld) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(w.home, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// pages are what is left in the folder of the pages.
func (w *consoleWorld) pages(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(w.home, "run", "stsbroker", "console"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// What each kind of credentials is signed in with, through an embedded broker and
// through a daemon's control socket; stdout is the address and nothing else.
func TestConsolePrints(t *testing.T) {
	w := newConsoleWorld(t)
	t.Run("embedded", func(t *testing.T) { w.prints(t) })
	t.Run("daemon", func(t *testing.T) {
		p, err := findPlace(&globals{}, false)
		if err != nil {
			t.Fatal(err)
		}
		a, findings, err := newApp(settings{place: p, log: zap.NewNop()})
		if err != nil {
			t.Fatal(firstError(findings), err)
		}
		release, err := a.listenControl()
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		if err := a.listen(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.run(ctx) }()
		w.prints(t)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (w *consoleWorld) prints(t *testing.T) {
	for _, tc := range []struct {
		profile   string
		most      int // of SessionDuration; 0 for none
		service   string
		wantsPage string
	}{
		{"app", 7200, "", "https://eu-central-1.console.aws.amazon.com/console/home?region=eu-central-1"},
		{"app", 7200, "ec2", "https://eu-central-1.console.aws.amazon.com/ec2/home?region=eu-central-1"},
		{"chained", 0, "", "https://eu-central-1.console.aws.amazon.com/console/home?region=eu-central-1"},
		{"guest", 0, "s3", "https://eu-central-1.console.aws.amazon.com/s3/home?region=eu-central-1"},
	} {
		var out bytes.Buffer
		o := w.options(&out)
		o.print, o.service = true, tc.service
		w.forms = nil
		if err := console(t.Context(), &globals{}, tc.profile, o); err != nil {
			t.Fatalf("%s: %v", tc.profile, err)
		}
		text, ok := strings.CutSuffix(out.String(), "\n")
		u, err := url.Parse(text)
		if err != nil || !ok {
			t.Fatalf("%s: stdout is %q", tc.profile, out.String())
		}
		q := u.Query()
		if q.Get("Destination") != tc.wantsPage || q.Get("SigninToken") != w.token || q.Get("Action") != "login" || !strings.HasPrefix(text, w.fed.URL+"/federation?") {
			t.Errorf("%s: %s", tc.profile, text)
		}
		if len(w.forms) != 1 {
			t.Fatalf("%s: %d calls", tc.profile, len(w.forms))
		}
		var session struct{ SessionID, SessionKey, SessionToken string }
		if err := json.Unmarshal([]byte(w.forms[0].Get("Session")), &session); err != nil || !strings.HasPrefix(session.SessionID, "ASIA") || session.SessionKey == "" || session.SessionToken == "" {
			t.Errorf("%s: the session is not one: %v", tc.profile, err)
		}
		asked, _ := strconv.Atoi(w.forms[0].Get("SessionDuration")) // 0 for none
		if w.forms[0].Has("SessionDuration") != (tc.most > 0) || asked > tc.most || asked < tc.most-60 {
			t.Errorf("%s: SessionDuration %q, want up to %d", tc.profile, w.forms[0].Get("SessionDuration"), tc.most)
		}
	}
}

// Security: the browser's command line, which everybody on the machine can read,
// has the path of a page that only this user can, and the page does not stay. Nor
// does the browser inherit what is in the environment for AWS's programs.
func TestConsoleOpens(t *testing.T) {
	w := newConsoleWorld(t)
	for _, name := range []string{"AWS_SECRET_ACCESS_KEY", varToken, "STSBROKER_X"} {
		t.Setenv(name, "of the environment")
	}
	w.opener(t, "")
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(w.home, "run", "stsbroker", "console", "left"), old, old); err != nil {
		t.Fatal(err)
	}
	umask := syscall.Umask(0)
	defer syscall.Umask(umask)
	var out bytes.Buffer
	if err := console(t.Context(), &globals{}, "app", w.options(&out)); err != nil {
		t.Fatal(err)
	}
	if out.Len() > 0 {
		t.Errorf("stdout is %q", out.String())
	}
	argv := w.read(t, "argv")
	if path := strings.TrimSpace(argv); !strings.HasPrefix(path, filepath.Join(w.home, "run", "stsbroker", "console")+"/") || strings.ContainsAny(path, "\n?") {
		t.Errorf("the opener's arguments: %q", argv)
	}
	session := w.forms[0].Get("Session")
	for name, text := range map[string]string{"argv": argv, "env": w.read(t, "env")} {
		if strings.Contains(text, w.token) || strings.Contains(text, session) {
			t.Errorf("%s holds a secret", name)
		}
	}
	environ := "\n" + w.read(t, "env")
	if strings.Contains(environ, "\nAWS_") || strings.Contains(environ, "\nSTSBROKER_") || !strings.Contains(environ, "\nHOME="+w.home+"\n") {
		t.Errorf("the opener's environment:%s", environ)
	}
	page := w.read(t, "page")
	if !strings.Contains(page, `http-equiv="refresh" content="0; url=`+w.fed.URL+`/federation?Action=login&amp;Destination=`) || !strings.Contains(page, "SigninToken="+w.token+`"`) {
		t.Errorf("the page:\n%s", page)
	}
	for _, secret := range []string{"AKIASCRIPTSCRIPTSCRI", "canary", "ASIA"} {
		if strings.Contains(page, secret) {
			t.Errorf("the page holds %s", secret)
		}
	}
	info, err := os.Stat(filepath.Join(w.home, "page"))
	if err != nil {
		t.Fatal(err)
	}
	if folder := strings.TrimSpace(w.read(t, "folder")); info.Mode().Perm() != 0o600 || folder != "drwx------" {
		t.Errorf("the page is %v in %s", info.Mode(), folder)
	}
	if left := w.pages(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A page goes at once when nobody will read it.
func TestConsolePageGoes(t *testing.T) {
	w := newConsoleWorld(t)
	leaves := w.pages(t) // it is too new to be a crash's
	o := w.options(io.Discard)
	o.reading = time.Hour
	t.Run("no browser", func(t *testing.T) {
		w.opener(t, "exit 3")
		err := console(t.Context(), &globals{}, "app", o)
		if err == nil || !strings.HasPrefix(err.Error(), "profile app: no browser opened the page (") || !strings.HasSuffix(err.Error(), "exit status 3): run it with --print and open the address yourself") || strings.Contains(err.Error(), w.token) {
			t.Errorf("%v", err)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		w.opener(t, "kill -USR1 $PPID")
		ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGUSR1)
		defer stop()
		if err := console(ctx, &globals{}, "app", o); err != nil {
			t.Errorf("%v", err)
		}
	})
	t.Run("interrupted while it opens", func(t *testing.T) {
		w.opener(t, "echo $$ >'"+w.home+"/pid'; kill -USR1 $PPID; exec sleep 20")
		ctx, stop := signal.NotifyContext(t.Context(), syscall.SIGUSR1)
		defer stop()
		if err := console(ctx, &globals{}, "app", o); err != nil {
			t.Errorf("%v", err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(w.read(t, "pid")))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Errorf("the browser did not outlive the command: %v", err)
		}
	})
	if got := w.pages(t); fmt.Sprint(got) != fmt.Sprint(leaves) {
		t.Errorf("left behind: %v, want %v", got, leaves)
	}
}

// What is ignored stays so, as nohup has it. Ignoring is for a process and its
// children, and cannot be undone: this test runs itself in one.
func TestConsoleUnderNohup(t *testing.T) {
	if !signal.Ignored(syscall.SIGHUP) {
		out, err := exec.Command("/bin/sh", "-c", `trap "" HUP; exec "$0" -test.run='^TestConsoleUnderNohup$' -test.v`, os.Args[0]).CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: TestConsoleUnderNohup")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	w := newConsoleWorld(t)
	w.opener(t, "kill -HUP $PPID")
	if err := console(t.Context(), &globals{}, "app", w.options(io.Discard)); err != nil {
		t.Error(err)
	}
	if !signal.Ignored(syscall.SIGHUP) {
		t.Error("it is not ignored any more")
	}
}

// What is refused is refused before anything is minted or sent.
func TestConsoleSendsNothing(t *testing.T) {
	w := newConsoleWorld(t)
	o := w.options(io.Discard)
	t.Setenv("PATH", w.home)
	if err := console(t.Context(), &globals{}, "app", o); err == nil || !strings.Contains(err.Error(), "no browser can be opened here") || !strings.Contains(err.Error(), "--print") {
		t.Errorf("%v", err)
	}
	o.print = true
	if err := console(t.Context(), &globals{}, "base", o); err == nil || !strings.HasPrefix(err.Error(), "profile base is a session of GetSessionToken") {
		t.Errorf("%v", err)
	}
	t.Run("another STS", func(t *testing.T) {
		t.Setenv("AWS_ENDPOINT_URL_STS", w.sts)
		if err := console(t.Context(), &globals{}, "app", o); err == nil || !strings.HasPrefix(err.Error(), "profile app has credentials of an STS that is not AWS's") {
			t.Errorf("%v", err)
		}
	})
	if n := w.fake.Mints(); n != 0 || len(w.forms) != 0 {
		t.Errorf("%d mints, %d calls", n, len(w.forms))
	}
}

// Whatever ends the command while the browser reads, a closed terminal too, the page
// goes, and the status tells the signal. Ctrl-C is no failure: it ends the wait.
func TestConsoleIsEnded(t *testing.T) {
	w := newConsoleWorld(t)
	leaves := w.pages(t)
	o := w.options(io.Discard)
	o.reading = time.Hour
	for name, want := range map[string]error{"HUP": exitStatus(129), "QUIT": exitStatus(131), "TERM": exitStatus(143), "INT": nil} {
		t.Run(name, func(t *testing.T) {
			w.opener(t, "kill -"+name+" $PPID")
			ctx, stop := endedBy(t.Context(), os.Interrupt, syscall.SIGTERM) // as main has it
			defer stop()
			if err := console(ctx, &globals{}, "app", o); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		})
	}
	t.Run("before the page", func(t *testing.T) {
		fed := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // only then is a client's leaving noticed
			if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
				t.Error(err)
			}
			<-r.Context().Done()
		}))
		defer fed.Close()
		o := o
		o.print, o.endpoint = true, fed.URL
		if err := console(t.Context(), &globals{}, "app", o); !errors.Is(err, exitStatus(129)) {
			t.Errorf("%v", err)
		}
	})
	if got := w.pages(t); fmt.Sprint(got) != fmt.Sprint(leaves) {
		t.Errorf("left behind: %v, want %v", got, leaves)
	}
}

func TestConsoleDuration(t *testing.T) {
	for _, tc := range []struct {
		action, source string
		sent           bool
	}{
		{"AssumeRole", "key dev", true}, {"AssumeRole", "profile app", false}, {"AssumeRole", "", false},
		{"AssumeRoleWithSAML", "", true}, {"AssumeRoleWithWebIdentity", "", true},
		{"GetFederationToken", "key dev", false}, {"GetDelegatedAccessToken", "profile app", false},
		{"credential_process", "", false}, {"environment", "", false}, {"Ec2InstanceMetadata", "", false},
	} {
		got := consoleDuration(control.Profile{Action: tc.action, Source: tc.source, Left: 3000})
		if (got == 3000*time.Second) != tc.sent || !tc.sent && got != 0 {
			t.Errorf("%s of %q: %v", tc.action, tc.source, got)
		}
	}
}
