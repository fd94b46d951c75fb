//go:build conformance && linux

package conformance

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

var eveningTo = flag.String("evening", "", "write the recording of a new user's evening to this file, if all passed")

// eveningFile is what -evening writes.
const eveningFile = "../../docs/evening.md"

const (
	eveningRoles  = 30
	eveningPhrase = "correct horse battery staple"
	eveningDevice = "arn:aws:iam::" + account + ":mfa/me"
)

// TestEvening is a new user at a terminal, once with a passphrase and once with an
// identity in a file: keys are imported, the broker is started, one code is given, and
// thirty roles are used with boto3 and the AWS CLI; then the broker is killed and
// started again, and all of it goes on with no code and no mint. What the terminals
// showed is docs/evening.md.
func TestEvening(t *testing.T) {
	in := newInstaller(t)
	tools := eveningTools{tmux: in.tmux(), boto3: in.boto3(nil)}
	tools.aws = in.eitherCLI()
	need(t, tools.tmux, tools.boto3, tools.aws)
	tools.stsbroker = filepath.Join(tempDir(t), "stsbroker")
	build := in.command(in.repo, "go", "build", "-ldflags=-X main.version=VERSION", "-o", tools.stsbroker, "./cmd/stsbroker")
	build.Env = append(build.Env, "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build ./cmd/stsbroker: %v\n%s", err, out)
	}
	recorded := map[string]*evening{}
	t.Run("evening", func(t *testing.T) {
		for name, play := range map[string]func(*testing.T, *evening){"passphrase": byPassphrase, "identity file": byIdentityFile} {
			e := &evening{eveningTools: tools}
			recorded[name] = e
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				e.begin(t, name == "identity file")
				play(t, e)
			})
		}
	})
	if t.Failed() || strings.Contains(flag.Lookup("test.run").Value.String(), "/") {
		return
	}
	document := eveningHead + recorded["passphrase"].doc.String() + recorded["identity file"].doc.String()
	if *eveningTo != "" {
		if err := os.WriteFile(*eveningTo, []byte(document), 0o644); err != nil {
			t.Error(err)
		}
		return
	}
	committed, err := os.ReadFile(eveningFile)
	if err != nil {
		t.Fatal(err)
	}
	if where := firstDifference(string(committed), document); where != "" {
		t.Errorf("docs/evening.md: %s; if that is meant, run go test -tags conformance -run TestEvening ./internal/conformance -evening=\"$PWD/docs/evening.md\"", where)
	}
}

func firstDifference(committed, now string) string {
	if committed == now {
		return ""
	}
	a, b := strings.Split(committed, "\n"), strings.Split(now, "\n")
	for i := range max(len(a), len(b)) {
		was, is := "the end", "the end"
		if i < len(a) {
			was = fmt.Sprintf("%q", a[i])
		}
		if i < len(b) {
			is = fmt.Sprintf("%q", b[i])
		}
		if was != is {
			return fmt.Sprintf("line %d is %s, and this run shows %s", i+1, was, is)
		}
	}
	return ""
}

const eveningHead = `# An evening with stsbroker

Recorded on two terminals by ` + "`internal/conformance/evening_test.go`" + `, which types what stands behind ` + "`$`" + ` and looks at what STS was asked; not edited by hand.
` + "`make conformance`" + ` holds it against a run of its own.

STS is a stand-in on this machine, hence ` + "`AWS_ENDPOINT_URL_STS`" + `. Paths, key ids, times and the code are replaced by ones that stay the same, and rows that
say the same thirty times are cut to three. ` + "`~/.aws/config`" + ` has thirty roles, all with ` + "`source_profile = work`" + ` and the same ` + "`mfa_serial`" + `;
` + "`~/.aws/credentials`" + ` has the keys of ` + "`[work]`" + `. [` + "`roles.py`" + `](../internal/conformance/evening/roles.py) asks STS who each role is, with boto3 alone.
`

func (in installer) tmux() piece {
	var aptErr error
	if missing([]string{"tmux"}) != nil {
		aptErr = in.apt([]string{"tmux"})
	}
	path, err := exec.LookPath("tmux")
	if err != nil {
		return piece{err: because(errors.New("tmux is missing"), aptErr)}
	}
	return piece{path: path}
}

// eitherCLI is the AWS CLI v2 where it is there, else v1.
func (in installer) eitherCLI() piece {
	if path, version, err := findAWSCLI(in.t.Context()); err == nil {
		return piece{path, version, nil}
	}
	p := in.python("client-awscli1", "clients/awscli1/requirements.txt", "awscli", nil)
	p.path = filepath.Join(filepath.Dir(p.path), "aws")
	return p
}

type eveningTools struct {
	stsbroker        string
	tmux, boto3, aws piece
}

// evening is a home, an STS, and a tmux of its own with two windows.
type evening struct {
	eveningTools
	dir, home, secret string
	env               []string
	fake              *stsfake.Server
	windows           map[string]int // how many commands were typed
	doc               strings.Builder
	inBlock           bool
	left              string // the window of the block before, if nothing was said since
}

const (
	myWindow  = "mine"
	itsWindow = "broker"
)

func (e *evening) begin(t *testing.T, identityFile bool) {
	e.dir, e.windows, e.fake = tempDir(t), map[string]int{}, stsfake.New()
	e.home = filepath.Join(e.dir, "home")
	e.secret = newSecret()
	e.fake.AddUser("me", "AKIAEVENINGEVENINGEV", e.secret)
	e.fake.AddMFA("me", eveningDevice, []byte("evening"))
	running, err := e.fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = running.Close() })
	config := "[profile work]\nregion = eu-central-1\n"
	for i := range eveningRoles {
		name := fmt.Sprintf("role-%02d", i+1)
		arn := "arn:aws:iam::" + account + ":role/" + name
		e.fake.AddRole(stsfake.Role{ARN: arn, Trust: []string{"*"}, MFA: true})
		config += fmt.Sprintf("[profile %s]\nrole_arn = %s\nsource_profile = work\nmfa_serial = %s\nregion = eu-central-1\n", name, arn, eveningDevice)
	}
	writeFile(t, filepath.Join(e.home, ".aws/config"), config)
	writeFile(t, filepath.Join(e.home, ".aws/credentials"), section("work", keyPair{"AKIAEVENINGEVENINGEV", e.secret}))
	// Only because another program may have the usual port.
	port := freePorts(t, 1)[0]
	writeFile(t, filepath.Join(e.home, ".config/stsbroker/stsbroker.yaml"), fmt.Sprintf(`listen: { container: ["127.0.0.1:%d"] }`, port))
	roles, err := os.ReadFile("evening/roles.py")
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(e.home, "roles.py"), string(roles))
	for name, line := range map[string]string{
		"stsbroker": e.stsbroker, "python3": e.boto3.path,
		"aws": e.aws.path + ` --endpoint-url "$AWS_ENDPOINT_URL_STS"`, // not all versions read the variable
	} {
		writeFile(t, filepath.Join(e.dir, "bin", name), "#!/bin/sh", "exec "+line+` "$@"`)
		if err := os.Chmod(filepath.Join(e.dir, "bin", name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(e.dir, "bin/stsbroker")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(e.stsbroker, filepath.Join(e.dir, "bin/stsbroker")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(e.home, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	e.env = append(cleanEnv(e.home), "AWS_ENDPOINT_URL_STS="+running.URL, "NO_COLOR=1", "PYTHONDONTWRITEBYTECODE=1")
	e.env[0] = "PATH=" + filepath.Join(e.dir, "bin") + ":/usr/local/bin:/usr/bin:/bin"
	if identityFile {
		e.env = append(e.env, "STSBROKER_IDENTITY_FILE="+filepath.Join(e.home, ".config/stsbroker/identity"))
	}

	// The shells have nothing else in their environment, and no startup file.
	shell := "cd; exec env -i TERM=\"$TERM\" PS1='$ '"
	for _, v := range e.env {
		shell += " '" + v + "'"
	}
	shell += " sh -i"
	writeFile(t, filepath.Join(e.dir, "tmux.conf"), "set -g history-limit 50000", "set -g status off", "set -g default-shell /bin/sh")
	t.Cleanup(func() { _, _ = e.ask("kill-server") }) // with all that runs in it
	e.do(t, "new-session", "-d", "-x", "160", "-y", "50", "-s", "evening", "-n", myWindow, shell)
	e.do(t, "new-window", "-d", "-t", "evening:", "-n", itsWindow, shell)
	for _, w := range []string{myWindow, itsWindow} {
		e.await(t, w, func(lines []string) bool { return lines[len(lines)-1] == "$" })
	}
}

// ask calls this evening's own tmux, which is found by a socket in its folder.
func (e *evening) ask(args ...string) (string, error) {
	cmd := exec.Command(e.tmux.path, append([]string{"-S", filepath.Join(e.dir, "tmux"), "-f", filepath.Join(e.dir, "tmux.conf")}, args...)...)
	cmd.Dir, cmd.Env = e.home, cleanEnv(e.home)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("tmux %s: %w: %s", args[0], err, out)
	}
	return string(out), err
}

func (e *evening) do(t *testing.T, args ...string) string {
	t.Helper()
	out, err := e.ask(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// screen is all that a window has shown, without blanks at the ends. There is at least
// one line.
func (e *evening) screen(t *testing.T, window string) []string {
	t.Helper()
	text := strings.TrimRight(e.do(t, "capture-pane", "-p", "-J", "-S", "-", "-t", "evening:"+window), " \n")
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	return lines
}

// await waits until the window looks as it should.
func (e *evening) await(t *testing.T, window string, good func(lines []string) bool) []string {
	t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		lines := e.screen(t, window)
		if good(lines) {
			return lines
		}
		if time.Since(began) > 50*time.Second {
			t.Fatalf("this stands there for long:\n%s", strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
	}
}

func prompts(lines []string) (at []int) {
	for i, l := range lines {
		if l == "$" || strings.HasPrefix(l, "$ ") {
			at = append(at, i)
		}
	}
	return at
}

func (e *evening) keys(t *testing.T, window, text string) {
	t.Helper()
	e.do(t, "send-keys", "-t", "evening:"+window, "-l", text)
	e.do(t, "send-keys", "-t", "evening:"+window, "Enter")
}

// given is what is typed when a line ends with that.
type given struct{ prompt, text string }

// types types a command, and the answers to what it asks, and waits for the shell's
// prompt, or for a line that contains until. It records and returns what was shown.
func (e *evening) types(t *testing.T, window, command, until string, answers ...given) string {
	t.Helper()
	e.keys(t, window, command)
	e.windows[window]++
	n := e.windows[window]
	for _, a := range answers {
		e.await(t, window, func(lines []string) bool {
			at := prompts(lines)
			return len(at) == n && strings.HasSuffix(lines[len(lines)-1], strings.TrimRight(a.prompt, " "))
		})
		e.keys(t, window, a.text)
		// The next prompt may end as this one did.
		e.await(t, window, func(lines []string) bool {
			return !strings.HasSuffix(lines[len(lines)-1], strings.TrimRight(a.prompt, " "))
		})
	}
	lines := e.await(t, window, func(lines []string) bool {
		at := prompts(lines)
		if until != "" {
			return len(at) == n && slices.ContainsFunc(lines[at[n-1]:], func(l string) bool { return strings.Contains(l, until) })
		}
		return len(at) == n+1 && lines[len(lines)-1] == "$"
	})
	at := prompts(lines)
	end := len(lines)
	if len(at) > n {
		end = at[n]
	}
	shown := strings.Join(lines[at[n-1]:end], "\n")
	e.record(window, shown)
	return shown
}

// heading, say and record write the document.
func (e *evening) heading(text string) { e.say("## " + text) }

func (e *evening) say(text string) {
	e.close()
	e.doc.WriteString("\n" + text + "\n")
	e.left = ""
}

func (e *evening) close() {
	if e.inBlock {
		e.doc.WriteString("```\n")
	}
	e.inBlock = false
}

func (e *evening) record(window, shown string) {
	if window == itsWindow {
		e.say("On the other terminal:")
	} else if e.left == itsWindow {
		e.say("On the first one again:")
	}
	if !e.inBlock {
		e.doc.WriteString("\n```console\n")
		e.inBlock = true
	}
	e.doc.WriteString(e.cleaned(shown) + "\n")
	if e.left = window; window == itsWindow {
		e.close()
	}
}

// cleaned is what was shown with what changes from run to run replaced, and rows of
// thirty roles cut to three.
func (e *evening) cleaned(shown string) string {
	shown = strings.ReplaceAll(shown, e.home, "/home/me")
	for _, c := range []struct{ pattern, by string }{
		{`\b(AKIA|ASIA)[A-Z0-9]{16}\b`, "$1…"},
		{`http://127\.0\.0\.1:\d+`, "http://127.0.0.1:9170"},
		{`(assumed-role/role-\d\d)/\S+`, "$1/me"},
		{`(code of \S+:) \d{6}`, "$1 123456"},
		{`, (\d+h\d\dm|\d+m|\d+s) left`, ", 59m left"},
		{`(credentials)(\.[\w.-]*?)\d{8}T?\d{6}Z?[\w.-]*`, "$1${2}TIME"},
		{`(?m)^\d\d:\d\d:\d\d( +[A-Z]+ )`, "20:15:00$1"},
		{`(?m)^\s*stsbroker: waiting for .*$\n?`, ""},
	} {
		shown = regexp.MustCompile(c.pattern).ReplaceAllString(shown, c.by)
	}
	role := regexp.MustCompile(`^(\S*\s*)?\S*\brole-\d\d\b`)
	var out, rows []string
	flush := func() {
		if len(rows) > 5 {
			rows = []string{rows[0], rows[1], fmt.Sprintf("… %d more", len(rows)-3), rows[len(rows)-1]}
		}
		out = append(out, rows...)
		rows = nil
	}
	for line := range strings.SplitSeq(shown, "\n") {
		if role.MatchString(line) && !strings.HasPrefix(line, "$") {
			rows = append(rows, line)
			continue
		}
		flush()
		out = append(out, line)
	}
	flush()
	return strings.Join(out, "\n")
}

// status is what the broker says of itself, asked behind the terminals.
func (e *evening) status(t *testing.T) control.Status {
	t.Helper()
	r := run(t.Context(), e.home, e.env, e.stsbroker, "status", "--json")
	var st control.Status
	if err := json.Unmarshal([]byte(r.stdout), &st); err != nil || r.err != nil {
		t.Fatalf("status: %v %s", err, r)
	}
	return st
}

// everyRole wants the answer of each of the thirty, and nothing else.
func everyRole(t *testing.T, what, shown string) {
	t.Helper()
	lines := strings.Split(shown, "\n")[1:]
	for i := range eveningRoles {
		want := fmt.Sprintf("arn:aws:sts::%s:assumed-role/role-%02d/", account, i+1)
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Fatalf("%s: no %s…:\n%s", what, want, shown)
		}
	}
	if len(lines) != eveningRoles {
		t.Errorf("%s: more than the roles' answers:\n%s", what, shown)
	}
}

const byCLI = `for n in $(seq -w 1 30); do stsbroker exec role-$n -- aws sts get-caller-identity --query Arn --output text; done`

// boto3Roles and cliRoles use all thirty. A round of the CLI is thirty programs, and
// takes its time: each evening has one.
func (e *evening) boto3Roles(t *testing.T) {
	t.Helper()
	everyRole(t, "boto3", e.types(t, myWindow, "python3 roles.py", ""))
}

func (e *evening) cliRoles(t *testing.T) {
	t.Helper()
	everyRole(t, "AWS CLI", e.types(t, myWindow, byCLI, ""))
}

// minted wants one session for the one code, and one mint a role.
func (e *evening) minted(t *testing.T, when string) {
	t.Helper()
	if sessions, roles, all := e.fake.Mints("GetSessionToken"), e.fake.Mints("AssumeRole"), e.fake.Mints(); sessions != 1 || roles != eveningRoles || all != 1+eveningRoles {
		t.Errorf("%s: %d sessions with a code, %d mints of roles, %d in all; want 1, %d and %d", when, sessions, roles, all, eveningRoles, 1+eveningRoles)
	}
}

// restart kills the broker where all is saved, and starts it again.
func (e *evening) restart(t *testing.T) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if s := e.status(t).Sealed; s != nil && s.Error == "" && !s.Unsaved {
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal("leases are not saved")
		}
	}
	before := e.status(t).PID
	e.types(t, myWindow, `kill -9 $(stsbroker status --json | sed -n 's/^  "pid": \([0-9]*\),$/\1/p')`, "")
	e.windows[itsWindow]++ // the shell's prompt is back
	e.await(t, itsWindow, func(lines []string) bool { return lines[len(lines)-1] == "$" })
	e.windows[itsWindow]--
	if err := syscall.Kill(before, 0); !errors.Is(err, syscall.ESRCH) {
		t.Fatalf("process %d is there: %v", before, err)
	}
	e.types(t, itsWindow, "stsbroker serve", "next, in another shell")
}

func (e *evening) login(t *testing.T) {
	t.Helper()
	code := stsfake.TOTP([]byte("evening"), e.fake.Now())
	e.types(t, myWindow, "stsbroker login role-01", "", given{"code of " + eveningDevice + ":", code})
}

// quiet wants no secret on any terminal, and no more questions than were answered.
func (e *evening) quiet(t *testing.T, passphrases int) {
	t.Helper()
	e.close()
	shown := strings.Join(append(e.screen(t, myWindow), e.screen(t, itsWindow)...), "\n")
	for _, secret := range []string{e.secret, eveningPhrase, "AGE-SECRET-KEY"} {
		if strings.Contains(shown, secret) {
			t.Error("a secret was shown")
		}
	}
	if n := strings.Count(shown, "code of "+eveningDevice+":"); n != 1 {
		t.Errorf("a code was asked for %d times", n)
	}
	if n := strings.Count(shown, "passphrase of "); n != passphrases {
		t.Errorf("the passphrase was asked for %d times, want %d", n, passphrases)
	}
	if !strings.Contains(shown, "role-30") || strings.Contains(shown, "panic") {
		t.Errorf("the terminals show:\n%s", shown)
	}
}

func byPassphrase(t *testing.T, e *evening) {
	e.heading("With a passphrase")
	e.say("The broker runs.")
	e.types(t, itsWindow, "stsbroker serve", "next, in another shell")
	e.say("The identity that seals everything is made once. The passphrase is not shown.")
	shown := e.types(t, myWindow, "stsbroker unlock", "", given{"new passphrase:", eveningPhrase}, given{"the same again:", eveningPhrase})
	if !strings.Contains(shown, "custody is open") {
		t.Fatal(shown)
	}
	e.say("The keys move from the AWS file into custody; the profiles over them go on as before.")
	e.importKeys(t)
	e.say("One code, for all thirty roles.")
	e.login(t)
	e.boto3Roles(t)
	e.cliRoles(t)
	e.minted(t, "after the first round")
	e.say("The broker is killed, and started again. It needs the passphrase once more, and no code; STS is not asked for credentials.")
	calls := e.fake.Mints()
	e.restart(t)
	e.types(t, myWindow, "stsbroker unlock", "", given{"identity:", eveningPhrase})
	e.boto3Roles(t)
	e.minted(t, "after the restart")
	if e.fake.Mints() != calls {
		t.Errorf("%d mints after the restart", e.fake.Mints()-calls)
	}
	e.quiet(t, 1) // after the restart
}

// importKeys takes the keys out of the AWS file.
func (e *evening) importKeys(t *testing.T) {
	t.Helper()
	shown := e.types(t, myWindow, "stsbroker keys import work", "", given{"[y/N]", "y"})
	if !strings.Contains(shown, "rests in custody: sealed") {
		t.Fatal(shown)
	}
	shown = e.types(t, myWindow, "cat ~/.aws/credentials", "")
	if strings.Contains(shown, e.secret) {
		t.Error("the keys are still in the file")
	}
	if shown = e.types(t, myWindow, "stsbroker keys list", ""); !strings.Contains(shown, "sealed") {
		t.Error(shown)
	}
	// The whole state folder has no key in it.
	if err := filepath.WalkDir(filepath.Join(e.home, ".local"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		if strings.Contains(string(raw), e.secret) {
			t.Errorf("%s holds the key", path)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func byIdentityFile(t *testing.T, e *evening) {
	e.heading("With an identity in a file")
	e.say("The same with `STSBROKER_IDENTITY_FILE=~/.config/stsbroker/identity` in the environment: a file on an encrypted disk or a stick,\n" +
		"which is made where it is missing. Nothing is to be unlocked then.")
	e.importKeys(t)
	e.types(t, itsWindow, "stsbroker serve", "next, in another shell")
	e.login(t)
	e.boto3Roles(t)
	e.minted(t, "after the first round")
	e.say("The broker is killed, and started again: no prompt, and STS is not asked for credentials.")
	e.restart(t)
	e.boto3Roles(t)
	e.cliRoles(t)
	e.minted(t, "after the restart")
	e.quiet(t, 0)
}
