//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/custody"
	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/seal"
	"github.com/stsbroker/stsbroker/internal/ssofake"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// Security row 10: secrets are in no sink. Every secret of these tests is one that is
// found nowhere else, a canary; what the program says, writes and leaves behind is
// searched for all of them, in every spelling that something on the way might give them.

// spelling is one way in which a secret may stand somewhere.
type spelling struct{ how, text string }

// spellings are plain, URL (path and query, either case of hex, every byte), base64 (both
// alphabets, at all three offsets in what is encoded), hex, JSON (as Go's encoder, as
// others that escape the slash, every mark as \u), Go's quotes, XML, and a []byte as
// fmt prints it. Of a long secret, 20 bytes of its head, middle and tail are looked for
// too, since what is cut short is no less secret; but not of a readable one, a token that
// says in base64 whose it is, as others do: only what it is signed with is secret there.
func spellings(s string, readable bool) []spelling {
	var all []spelling
	add := func(how, text string) {
		known := func(o spelling) bool { return o.text == text }
		if len(text) >= window && !slices.ContainsFunc(all, known) {
			all = append(all, spelling{how, text})
		}
	}
	each := func(form string, which func(r rune) bool) string {
		var b strings.Builder
		for _, c := range []byte(s) {
			if which(rune(c)) {
				fmt.Fprintf(&b, form, c)
			} else {
				b.WriteByte(c)
			}
		}
		return b.String()
	}
	mark := func(r rune) bool { return !strings.ContainsRune(alphanumeric, r) }
	lower := regexp.MustCompile(`%[0-9A-F]{2}`)
	inner := func(quoted string) string { return quoted[1 : len(quoted)-1] }

	add("plain", s)
	for how, text := range map[string]string{"URL query": url.QueryEscape(s), "URL path": url.PathEscape(s), "URL": each("%%%02X", mark)} {
		add(how, text)
		add(how+", lower case", lower.ReplaceAllStringFunc(text, strings.ToLower))
	}
	add("URL, all", each("%%%02X", func(rune) bool { return true }))
	for how, e := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
		for offset := range 3 {
			text := e.EncodeToString(append(make([]byte, offset), s...))
			// Without the letters that the neighbours have a part in.
			add(fmt.Sprintf("%s, offset %d", how, offset), text[(offset*8+5)/6:(offset+len(s))*8/6])
		}
	}
	add("hex", hex.EncodeToString([]byte(s)))
	add("hex, upper case", strings.ToUpper(hex.EncodeToString([]byte(s))))
	asJSON, _ := json.Marshal(s) // a string always marshals
	add("JSON", inner(string(asJSON)))
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s)
	add("JSON, HTML as it is", inner(strings.TrimSpace(b.String())))
	add(`JSON, \/`, strings.ReplaceAll(inner(string(asJSON)), "/", `\/`))
	add(`JSON, \u`, each(`\u%04x`, mark))
	add(`JSON, \U`, each(`\u%04X`, mark))
	add("Go", inner(strconv.Quote(s)))
	add("Go, ASCII", inner(strconv.QuoteToASCII(s)))
	b.Reset()
	_ = xml.EscapeText(&b, []byte(s))
	add("XML", b.String())
	add("bytes", strings.Trim(fmt.Sprint([]byte(s)), "[]"))
	if n := len(s); n >= 40 && !readable {
		add("its head", s[:20])
		add("its middle", s[n/2-10:n/2+10])
		add("its tail", s[n-20:])
	}
	return all
}

const (
	alphanumeric = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	window       = 8 // bytes, by which spellings are found; no spelling is shorter
)

// needle is a spelling of a canary.
type needle struct {
	canary string
	spelling
}

// aviary is what is searched for. It is safe for concurrent use.
type aviary struct {
	mu      sync.Mutex
	names   map[string]string // by value
	needles map[uint64][]needle
	likely  [1 << 16]bool // by hash of a window: most of a text is passed over by it
	codes   []string      // of MFA devices: six digits are too few to be looked for in other spellings
	count   int
}

func newAviary() *aviary { return &aviary{names: map[string]string{}, needles: map[uint64][]needle{}} }

// add makes the value a canary. The first name that it was given stays.
func (a *aviary) add(name, value string) { a.put(name, value, false) }

// addToken does so of a token of which the part that signs is secret.
func (a *aviary) addToken(name, value, signs string) {
	a.put(name, value, true)
	a.put(name+", signature", signs, false)
}

func (a *aviary) put(name, value string, readable bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.names[value]; known || value == "" {
		return
	}
	a.names[value] = name
	for _, s := range spellings(value, readable) {
		w := binary.LittleEndian.Uint64([]byte(s.text))
		a.needles[w] = append(a.needles[w], needle{name, s})
		a.likely[hashOf(w)] = true
		a.count++
	}
}

func (a *aviary) addCode(code string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if code != "" && !slices.Contains(a.codes, code) {
		a.codes = append(a.codes, code)
	}
}

func hashOf(w uint64) uint16 { return uint16(w * 0x9e3779b97f4a7c15 >> 48) }

// find returns what of the aviary is in data.
func (a *aviary) find(data []byte) (found []needle) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := 0; i+window <= len(data); i++ {
		w := binary.LittleEndian.Uint64(data[i:])
		if !a.likely[hashOf(w)] {
			continue
		}
		for _, n := range a.needles[w] {
			if strings.HasPrefix(string(data[i:min(len(data), i+len(n.text))]), n.text) && !slices.Contains(found, n) {
				found = append(found, n)
			}
		}
	}
	if len(a.codes) == 0 {
		return found
	}
	// Not within a number or a name: a fraction of a second is none.
	for _, m := range regexp.MustCompile(`(?:^|[^0-9A-Za-z.])(`+strings.Join(a.codes, "|")+`)(?:$|[^0-9A-Za-z])`).FindAllSubmatch(data, -1) {
		found = append(found, needle{"MFA code", spelling{"plain", string(m[1])}})
	}
	return found
}

// sink is something that a secret could have got into.
type sink struct {
	kind, name string
	data       []byte
	may        []string // patterns of the canaries that belong there
}

func kindsOfSinks() []string {
	return []string{"stdout", "stderr", "log", "metrics", "door", "file", "file name", "program", "crash", "panic"}
}

// leaks are the canaries in the sink that do not belong there, one line each. The
// values are not quoted: this is a log too.
func (a *aviary) leaks(s sink) (lines []string) {
	for _, n := range a.find(s.data) {
		if !slices.ContainsFunc(s.may, func(p string) bool { ok, err := path.Match(p, n.canary); return ok && err == nil }) {
			lines = append(lines, fmt.Sprintf("%s %s: %s (%s)", s.kind, s.name, n.canary, n.how))
		}
	}
	return lines
}

// nest is a home with secrets in it, a broker, and all that it says.
type nest struct {
	*aviary
	dir, home, binary, metrics string
	env                        []string
	fake                       *stsfake.Server
	sso                        *ssofake.Server
	moment                     string // names what is looked at next

	sinksMu sync.Mutex
	sinks   []sink

	daemon *exec.Cmd
	log    *syncBuilder
	door   string
	tokens map[string]string // by profile, of env
}

func (n *nest) keep(kind, name string, data []byte, may ...string) {
	n.sinksMu.Lock()
	defer n.sinksMu.Unlock()
	n.sinks = append(n.sinks, sink{kind, n.moment + ": " + name, data, may})
}

// marks are characters that every encoding treats in its own way.
const marks = `/+="<&'\%é `

// hatch makes a canary of so many random letters and digits, with all the marks
// between them.
func (n *nest) hatch(name, marks string, length int) string {
	raw := make([]byte, length)
	rand.Read(raw)
	for i := range raw {
		raw[i] = alphanumeric[int(raw[i])%len(alphanumeric)]
	}
	value := string(raw[:3])
	for i, m := range []rune(marks) { // each between two letters
		value += string(m) + string(raw[3+i])
	}
	value += string(raw[3+len([]rune(marks)):])
	n.add(name, value)
	return value
}

// secretKey is one of 40 characters as AWS's are.
func (n *nest) secretKey(name string) string { return n.hatch(name, "/+/+", 36) }

func (n *nest) write(t *testing.T, mode fs.FileMode, name string, lines ...string) string {
	t.Helper()
	file := filepath.Join(n.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), mode); err != nil {
		t.Fatal(err)
	}
	return file
}

// program writes a script that tells what it was given, by its arguments, its
// environment and its input, and then does what the lines say.
func (n *nest) program(t *testing.T, name string, lines ...string) string {
	t.Helper()
	seen := filepath.Join(n.dir, "seen", name)
	head := []string{
		"#!/bin/sh", `{ echo "$0 $*"; env; cat /proc/$$/cmdline /proc/$$/environ /proc/$PPID/cmdline; cat; } >>` + seen + ` 2>/dev/null`,
	}
	return n.write(t, 0o700, "bin/"+name, append(head, lines...)...)
}

// belongs says which file of the nest is meant to hold which canaries, and why. All
// others hold none.
var belongs = []struct{ file, canary, why string }{
	{"home/.aws/credentials", "secret of plain", "a key that the person leaves in the file of the AWS CLI"},
	{"home/.aws/credentials", "secret of dev", "the same, until keys import takes it out"},
	{"home/.aws/credentials.*", "secret of *", "the file as it was, which import keeps for the person to delete"},
	{"bin/*", "of a program: *", "the test's own programs, which print secrets"},
	{"in/*", "given: *", "what the person or a platform put there: a web identity token, an assertion, a systemd credential"},
	{"bad/*", "misplaced *", "secrets that the person put in a wrong place"},
	{"stick/identity", "seed identity*", "the person's other identity"},
	{"keys/identity", "state identity*", "the file of STSBROKER_IDENTITY_FILE"},
	{"home/.local/state/stsbroker/token-secret", "token secret", "what tokens derive from, while there is no identity to seal it for"},
	{"run/stsbroker/token-files/pod", "token of pod", "the file of a token that stsbroker.yaml asks for"},
	{"run/stsbroker/tokens/*", "token of env app", "the file of a token that env --token-file was asked for"},
	{"in/code", "MFA code", "what the MFA device shows"},
}

// look keeps every file beneath the nest, and its name.
func (n *nest) look(t *testing.T) {
	t.Helper()
	if err := filepath.WalkDir(n.dir, func(file string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(n.dir, file)
		if err != nil {
			return err
		}
		n.keep("file name", name, []byte(name))
		if !e.Type().IsRegular() {
			return nil
		}
		raw, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) { // one that was on its way to another name
			return nil
		}
		var may []string
		for _, b := range belongs {
			if ok, err := path.Match(b.file, filepath.ToSlash(name)); err == nil && ok {
				may = append(may, b.canary)
			}
		}
		kind := "file"
		if strings.HasPrefix(name, "seen/") {
			kind = "program"
		}
		n.keep(kind, name, raw, may...)
		return err
	}); err != nil {
		t.Error(err)
	}
}

// ended is how a command did.
type ended struct {
	stdout, stderr string
	status         int
}

// do runs a command of the command line. may are canaries that it is asked for, and
// that its standard output is meant to give.
func (n *nest) do(t *testing.T, stdin string, may []string, args ...string) ended {
	t.Helper()
	return n.start(t, nil, stdin, may, n.binary, args...)
}

func (n *nest) start(t *testing.T, env []string, stdin string, may []string, program string, args ...string) ended {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = append(n.env[:len(n.env):len(n.env)], env...), filepath.Join(n.dir, "cwd"), strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%v: %v %v", args, err, ctx.Err())
	}
	name := filepath.Base(program) + " " + strings.Join(args, " ")
	n.keep("stdout", name, bytes.Clone(stdout.Bytes()), may...)
	n.keep("stderr", name, bytes.Clone(stderr.Bytes()))
	return ended{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// must is do of what has to succeed.
func (n *nest) must(t *testing.T, stdin string, may []string, args ...string) string {
	t.Helper()
	got := n.do(t, stdin, may, args...)
	if got.status != 0 {
		t.Fatalf("%s: %v: status %d\n%s%s\n%s", n.moment, args, got.status, got.stdout, got.stderr, tail(n.log.String()))
	}
	return got.stdout
}

func tail(s string) string { return s[max(0, len(s)-3000):] }

// refused is do of what has to fail.
func (n *nest) refused(t *testing.T, stdin string, args ...string) {
	t.Helper()
	if got := n.do(t, stdin, nil, args...); got.status == 0 || got.stderr == "" && got.stdout == "" {
		t.Errorf("%s: %v: status %d\n%s%s", n.moment, args, got.status, got.stdout, got.stderr)
	}
}

// typed runs a command with a secret among its arguments, in the place of %s. What a
// person types at a prompt the program may quote at that prompt: it stands there
// already, in the shell's history and in ps. It must not go further.
func (n *nest) typed(t *testing.T, args ...string) {
	t.Helper()
	name := "typed: " + strings.Join(args, " ")
	value := n.hatch(name, `/+="<&`, 40)
	argv := slices.Clone(args)
	for i, a := range argv {
		argv[i] = strings.ReplaceAll(a, "%s", value)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, n.binary, argv...)
	cmd.Env, cmd.Dir = n.env, filepath.Join(n.dir, "cwd")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Errorf("%v is taken", args)
	}
	n.keep("stderr", name, out, regexp.MustCompile(`[*?\[\\]`).ReplaceAllString(name, "?"))
}

// serve starts the daemon where core files could be written, and where a crash tells
// all it can.
func (n *nest) serve(t *testing.T, env ...string) {
	t.Helper()
	n.daemon = exec.Command("/bin/sh", "-c", `ulimit -c unlimited 2>/dev/null; exec "$0" serve --log-level debug`, n.binary)
	n.daemon.Env, n.daemon.Dir = append(append(n.env[:len(n.env):len(n.env)], "GOTRACEBACK=crash"), env...), filepath.Join(n.dir, "cwd")
	n.log = &syncBuilder{}
	n.daemon.Stdout, n.daemon.Stderr = n.log, n.log
	if err := n.daemon.Start(); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); !strings.Contains(n.log.String(), `"serving"`); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			t.Fatalf("it does not serve:\n%s", n.log.String())
		}
	}
	var st control.Status
	if err := json.Unmarshal([]byte(n.must(t, "", nil, "status", "--json")), &st); err != nil || len(st.Container) == 0 {
		t.Fatal(err)
	}
	n.door = st.Container[0]
}

// end ends the daemon with a signal, and keeps all that it said.
func (n *nest) end(t *testing.T, with syscall.Signal, want string) {
	t.Helper()
	if n.daemon == nil {
		return
	}
	if err := n.daemon.Process.Signal(with); err != nil {
		t.Error(err)
	}
	err := n.daemon.Wait()
	n.daemon = nil
	said := n.log.String()
	if !strings.Contains(said, want) || (err == nil) != (with == syscall.SIGTERM) {
		t.Errorf("ended by %v: %v, and it does not say %q:\n%.2000s", with, err, want, said)
	}
	kind := "log"
	if with != syscall.SIGTERM {
		kind = "crash"
	}
	n.keep(kind, with.String(), []byte(said))
}

// ask asks a door. What a 200 gives are credentials; nothing else is.
func (n *nest) ask(t *testing.T, name string, req *http.Request, headers ...string) (int, []byte) {
	t.Helper()
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var may []string
	if resp.StatusCode == http.StatusOK {
		may = []string{"session *", "of a program: *"}
	}
	head := &bytes.Buffer{}
	_ = resp.Header.Write(head) // a buffer takes everything
	n.keep("door", fmt.Sprintf("%s: %d", name, resp.StatusCode), append(head.Bytes(), body...), may...)
	return resp.StatusCode, body
}

func get(t *testing.T, address string) *http.Request {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// overheard is a server's answers, and what was sent to it, as a canary each.
func (n *nest) overheard(h http.Handler) http.Handler {
	issued := regexp.MustCompile(`<(SecretAccessKey|SessionToken|WebIdentityToken)>([^<]+)<`)
	signature := regexp.MustCompile(`Signature=([0-9a-f]{64})`)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if form, err := url.ParseQuery(string(body)); err == nil {
			n.addCode(form.Get("TokenCode"))
		}
		if m := signature.FindStringSubmatch(r.Header.Get("Authorization")); m != nil {
			n.add("signature of a request", m[1])
		}
		tee := &teeWriter{ResponseWriter: w}
		defer func() {
			for _, m := range issued.FindAllStringSubmatch(tee.said.String(), -1) {
				name := map[string]string{"SecretAccessKey": "session secret", "SessionToken": "session token", "WebIdentityToken": "identity token"}[m[1]]
				switch value := html.UnescapeString(m[2]); m[1] {
				case "SessionToken":
					n.addToken(name, value, value[:min(len(value), 40)]) // see stsfake: of the rest, others have the same
				case "WebIdentityToken":
					n.addToken(name, value, value[strings.LastIndexByte(value, '.')+1:])
				default:
					n.add(name, value)
				}
			}
			var answer any
			if json.Unmarshal([]byte(tee.said.String()), &answer) == nil {
				n.addFields(answer)
			}
		}()
		h.ServeHTTP(tee, r)
	})
}

func firstGroup(pattern, s string) string {
	if m := regexp.MustCompile(pattern).FindStringSubmatch(s); m != nil {
		return m[1]
	}
	return ""
}

// addFields makes canaries of what IAM Identity Center gives.
func (n *nest) addFields(v any) {
	fields, ok := v.(map[string]any)
	if !ok {
		return
	}
	for key, v := range fields {
		switch s, _ := v.(string); key {
		case "secretAccessKey":
			n.add("session secret", s)
		case "sessionToken":
			n.add("session token", s)
		case "accessToken", "refreshToken", "idToken", "clientSecret", "deviceCode":
			n.add("sign-in: "+key, s)
		}
		n.addFields(v)
	}
}

type teeWriter struct {
	http.ResponseWriter
	said strings.Builder
}

func (t *teeWriter) Write(p []byte) (int, error) {
	t.said.Write(p)
	return t.ResponseWriter.Write(p)
}

const (
	phoneOfDev    = "arn:aws:iam::123456789012:mfa/phone"
	phoneOfWork   = "arn:aws:iam::123456789012:mfa/work"
	virtualOfWork = "arn:aws:iam::123456789012:mfa/virtual"
	samlProvider  = "arn:aws:iam::123456789012:saml-provider/corp"
)

func newNest(t *testing.T) *nest {
	t.Helper()
	dir, err := os.MkdirTemp("", "canary") // t.TempDir's path is too long for a socket on some systems
	if err != nil {
		t.Fatal(err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	n := &nest{aviary: newAviary(), dir: dir, home: filepath.Join(dir, "home"), fake: stsfake.New(), sso: ssofake.New(), log: &syncBuilder{}, tokens: map[string]string{}}
	for _, d := range []string{"home/.aws", "home/.config/stsbroker", "run", "tmp", "cwd", "seen"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n.binary = filepath.Join(t.TempDir(), "stsbroker") // see TestMain
	if err := os.Symlink(self, n.binary); err != nil {
		t.Fatal(err)
	}
	sts, sso := httptest.NewServer(n.overheard(n.fake)), httptest.NewServer(n.overheard(n.sso))
	t.Cleanup(sts.Close)
	t.Cleanup(sso.Close)
	n.env = []string{
		"HOME=" + n.home, "PATH=" + os.Getenv("PATH"), "XDG_RUNTIME_DIR=" + filepath.Join(dir, "run"), "TMPDIR=" + filepath.Join(dir, "tmp"), promptRace,
		varEndpointURL + "=" + sts.URL, varEndpointSSO + "=" + sso.URL, varEndpointOIDC + "=" + sso.URL,
	}
	n.furnish(t)
	return n
}

// furnish gives the nest a secret of every kind that there is, and a profile for each.
func (n *nest) furnish(t *testing.T) {
	t.Helper()
	role := func(name string, r stsfake.Role) string {
		r.ARN = "arn:aws:iam::123456789012:role/" + name
		n.fake.AddRole(r)
		return r.ARN
	}
	anybody := stsfake.Role{Trust: []string{"*"}}
	user := func(name, id string) string {
		secret := n.secretKey("secret of " + name)
		n.fake.AddUser(name, id, secret)
		return "aws_access_key_id = " + id + "\naws_secret_access_key = " + secret + "\n"
	}
	n.write(t, 0o600, "home/.aws/credentials", "[dev]", user("dev", "AKIADEVDEVDEVDEVDEVD"), "[plain]", user("plain", "AKIAPLAINPLAINPLAINP"))
	toolSecret, toolToken := n.hatch("of a program: secret", "/+=", 37), n.hatch("of a program: token", `/+="<&'%`, 60)
	answer, err := json.Marshal(map[string]any{"Version": 1, "AccessKeyId": "ASIATOOLTOOLTOOLTOOL", "SecretAccessKey": toolSecret, "SessionToken": toolToken, "Expiration": "2999-01-01T00:00:00Z"})
	if err != nil {
		t.Fatal(err)
	}
	print := func(text string) string { return "cat <<'END'\n" + text + "\nEND" }
	n.write(t, 0o600, "home/.aws/config",
		"[profile app]", "role_arn = "+role("app", anybody), "source_profile = dev", "region = eu-central-1",
		"[profile one]", "role_arn = "+role("one", stsfake.Role{Trust: []string{"*"}, MFA: true}), "source_profile = dev", "mfa_serial = "+phoneOfDev,
		"[profile tool]", "credential_process = "+n.program(t, "tool", print(string(answer))),
		"[profile broken]", "credential_process = "+n.program(t, "broken", print(`{"Version": 1, "SecretAccessKey": "`+n.hatch("of a program: broken JSON", "/+", 40)+`", `)),
		"[profile failing]", "credential_process = "+n.program(t, "failing", print(n.hatch("of a program: before it fails", "/+", 40)), "exit 3"),
		"[profile corp]", "sso_session = corp", "sso_account_id = 123456789012", "sso_role_name = Developer", "region = eu-central-1",
		"[sso-session corp]", "sso_start_url = "+ssofake.StartURL, "sso_region = eu-central-1", "sso_registration_scopes = sso:account:access", "")
	n.sso.Assign("123456789012", "Developer")
	n.sso.SetLives(ssofake.Lives{Interval: time.Second})

	// Seeds and codes.
	seed := make([]byte, 20)
	rand.Read(seed)
	n.add("seed of the MFA device", base32.StdEncoding.EncodeToString(seed))
	n.add("seed of the MFA device, as bytes", string(seed))
	n.fake.AddMFA("dev", phoneOfDev, []byte("phone"))
	n.fake.AddMFA("work", phoneOfWork, []byte("work"))
	n.fake.AddMFA("work", virtualOfWork, seed)
	text, err := seal.MakeIdentity()
	if err != nil {
		t.Fatal(err)
	}
	n.addIdentity("seed identity", text)
	id, err := seal.ParseIdentity(text)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := id.Seal([]byte(base32.StdEncoding.EncodeToString(seed)))
	if err != nil {
		t.Fatal(err)
	}
	n.write(t, 0o600, "stick/identity", string(text))
	n.write(t, 0o600, "stick/seed.age", string(sealed))

	// What platforms and identity providers give.
	web := n.fake.IdentityToken("pod", time.Hour)
	n.addToken("given: web identity token", web, web[strings.LastIndexByte(web, '.')+1:])
	n.write(t, 0o600, "in/web-token", web)
	n.write(t, 0o600, "in/bad-token", n.hatch("given: a web identity token that is none", marks, 60))
	n.fake.AddSAMLProvider(samlProvider, nil)
	saml := role("saml", stsfake.Role{SAML: []string{samlProvider}})
	assertion := n.fake.Assertion(stsfake.SAMLAssertion{Provider: samlProvider, Roles: []string{saml}, SessionName: "me"})
	said, err := base64.StdEncoding.DecodeString(assertion)
	if err != nil {
		t.Fatal(err)
	}
	n.addToken("given: assertion", assertion, firstGroup(`SignatureValue>([^<]{40,})<`, string(said)))
	n.write(t, 0o600, "in/assertion", assertion)
	trade := n.fake.TradeInToken("arn:aws:iam::123456789012:role/app", time.Hour)
	n.addToken("given: trade-in token", trade, trade[:40])
	n.write(t, 0o600, "in/trade", trade)
	unit := n.secretKey("given: secret of unit")
	n.fake.AddUser("unit", "AKIAUNITUNITUNITUNIT", unit)
	n.write(t, 0o400, "in/unit", "AKIAUNITUNITUNITUNIT", unit)
	n.fake.AddUser("around", "AKIAAROUNDAROUNDAROU", n.secretKey("secret of the environment"))

	n.metrics = "127.0.0.1:" + freePort(t)
	q := strconv.Quote
	n.write(t, 0o600, "home/.config/stsbroker/stsbroker.yaml",
		`listen: { container: ["127.0.0.1:0"], metrics: `+q(n.metrics)+`, imds: [{ address: "127.0.0.1:0", profile: app }, { address: "127.0.0.1:0", profile: sealed }] }`,
		`notify: false`,
		`token_files: { pod: { profiles: [app] } }`,
		`keys: { work: { custody: sealed }, unit: { custody: systemd }, around: { custody: env } }`,
		`profiles:`,
		`  sealed: { session: { key: work } }`,
		`  unit: { session: { key: unit } }`,
		`  around: { session: { key: around } }`,
		`  coded: { session: { key: work, mfa_serial: `+q(phoneOfWork)+`, mfa_process: [`+q(n.program(t, "code", "cat "+filepath.Join(n.dir, "in/code")))+`] } }`,
		`  seeded: { session: { key: work, mfa_serial: `+q(virtualOfWork)+`, mfa_seed: { file: `+q(filepath.Join(n.dir, "stick/seed.age"))+`, identity_file: `+q(filepath.Join(n.dir, "stick/identity"))+` } } }`,
		`  nocode: { session: { key: work, mfa_serial: `+q(phoneOfWork)+`, mfa_process: [`+q(n.program(t, "nocode", print(n.hatch("of a program: instead of a code", "/+", 40))))+`] } }`,
		`  web: { web_identity: { arn: `+q(role("web", stsfake.Role{Subjects: []string{"pod"}}))+`, token_file: `+q(filepath.Join(n.dir, "in/web-token"))+` } }`,
		`  badweb: { web_identity: { arn: "arn:aws:iam::123456789012:role/web", token_file: `+q(filepath.Join(n.dir, "in/bad-token"))+` } }`,
		`  saml: { saml: { arn: `+q(saml)+`, principal_arn: `+q(samlProvider)+`, assertion_command: [`+q(n.program(t, "assert", "cat "+filepath.Join(n.dir, "in/assertion")))+`] } }`,
		`  delegated: { delegated: { key: unit, token_file: `+q(filepath.Join(n.dir, "in/trade"))+` } }`,
		"")
}

// newCode has the device of work show the code of half minutes from now: none is good
// twice.
func (n *nest) newCode(t *testing.T, halfMinutes int) {
	t.Helper()
	c := stsfake.TOTP([]byte("work"), n.fake.Now().Add(time.Duration(halfMinutes)*30*time.Second))
	if err := os.WriteFile(filepath.Join(n.dir, "in", "code"), []byte(c+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (n *nest) addIdentity(name string, text []byte) {
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "AGE-SECRET-KEY-") {
			_, key, _ := strings.Cut(strings.TrimSpace(line), "1") // bech32's mark between what it is and what it says
			n.addToken(name, strings.TrimSpace(line), key)
		}
	}
}

// servable are the profiles that come to credentials, without a person or after login.
func servable() []string {
	return []string{"dev", "plain", "app", "one", "tool", "corp", "sealed", "unit", "around", "coded", "seeded", "web", "saml", "delegated"}
}

// TestCanaries leads the program through all that it does with every kind of secret,
// and through all that people do wrong with them; then it searches. The log is at the
// level debug, which has what the others have.
func TestCanaries(t *testing.T) {
	t.Parallel()
	for _, with := range []string{"passphrase", "identity file"} {
		t.Run(with, func(t *testing.T) {
			t.Parallel()
			n := newNest(t)
			phrase := n.hatch("passphrase", marks, 40)
			identityFile := filepath.Join(n.dir, "keys", "identity")
			if with == "identity file" {
				n.env = append(n.env, varIdentityFile+"="+identityFile)
			}
			around := []string{"AWS_ACCESS_KEY_ID=AKIAAROUNDAROUNDAROU", "AWS_SECRET_ACCESS_KEY=" + n.value("secret of the environment"), varCredentials + "=" + filepath.Join(n.dir, "in")}
			t.Cleanup(func() {
				if n.daemon != nil {
					_ = n.daemon.Process.Kill()
					_ = n.daemon.Wait()
				}
			})

			n.moment = "before"
			n.do(t, "", nil, "check")
			n.do(t, "", nil, "check", "--json")
			n.refused(t, "AKIAWORKWORKWORKWORK\n"+n.value("secret of dev")+"\n", "keys", "add", "other")
			n.serve(t, around...)
			if with == "passphrase" {
				secret, err := os.ReadFile(filepath.Join(n.home, ".local", "state", "stsbroker", "token-secret"))
				if err != nil {
					t.Fatal(err)
				}
				n.add("token secret", strings.TrimSpace(string(secret)))
			}
			n.look(t)

			n.moment = "unlock"
			n.refused(t, n.hatch("too short a passphrase", "", 9)+"\n", map[bool][]string{true: {"unlock"}, false: {"unlock", "--keyring"}}[with == "passphrase"]...)
			n.must(t, phrase+"\n", nil, "unlock")
			n.learnIdentity(t, with, identityFile, phrase)
			n.look(t)

			n.moment = "keys"
			work := n.secretKey("secret of work")
			n.fake.AddUser("work", "AKIAWORKWORKWORKWORK", work)
			n.wrongKeys(t)
			n.must(t, "AKIAWORKWORKWORKWORK\n"+work+"\n", nil, "keys", "add", "work")
			n.must(t, `{"AccessKey": {"AccessKeyId": "AKIAWORKWORKWORKWORK", "Status": "Active", "SecretAccessKey": "`+work+`"}}`, nil, "keys", "add", "work", "--replace", "--json")
			n.must(t, "", nil, "keys", "import", "dev", "--comment-out")
			n.refused(t, "", "keys", "rotate", "work", "--dry-run")
			n.look(t)

			n.moment = "served"
			n.newCode(t, 0)
			n.must(t, stsfake.TOTP([]byte("phone"), n.fake.Now())+"\n", nil, "login", "one")
			n.signIn(t)
			for _, p := range servable() {
				n.must(t, "", []string{"session *", "of a program: *"}, "credential-process", p)
			}
			n.fetch(t)
			n.commands(t)
			n.look(t)

			n.moment = "wrong"
			n.misuse(t)
			n.refused(t, n.value("secret of work")+"\n", "login", "one")
			n.refused(t, n.hatch("a passphrase that is not the one", marks, 40)+"\n", "login", "one")
			for _, p := range []string{"broken", "nocode"} {
				n.refused(t, "", "credential-process", p)
			}
			for _, p := range []string{"broken", "failing", "nocode", "badweb"} {
				n.refused(t, "", "refresh", p)
			}
			n.commands(t)
			n.misplaced(t)

			n.moment = "faults"
			n.newCode(t, 1)
			for _, f := range faults() {
				if f.Kind == stsfake.FaultHang || f.Delay > 0 {
					continue // they tell nothing, and take their time
				}
				n.fake.SetFault(f)
				profiles := []string{"app", "sealed"}
				if f.Kind == stsfake.FaultEchoSecrets || f.Kind == stsfake.FaultGarbage {
					profiles = []string{"app", "one", "sealed", "unit", "around", "coded", "web", "saml", "delegated"}
				}
				for _, p := range profiles {
					n.do(t, "", nil, "refresh", p)
				}
				if f.Kind == stsfake.FaultEchoSecrets {
					n.do(t, "", nil, "whoami", "app")
					n.do(t, stsfake.TOTP([]byte("phone"), n.fake.Now().Add(30*time.Second))+"\n", nil, "login", "one")
					n.do(t, "AKIAWORKWORKWORKWORK\n"+work+"\n", nil, "keys", "add", "echoed")
					n.do(t, "", nil, "identity-token", "app", "--audience", "a")
				}
			}
			n.fake.SetFault(stsfake.Fault{})
			for _, quoted := range []string{"{request}", `{"error": "{quoted}", "error_description": "{quoted}", "message": "{quoted}"}`} {
				for _, status := range []int{400, 403, 500} {
					n.sso.SetFault(ssofake.Fault{Status: status, Body: quoted})
					n.do(t, "", nil, "refresh", "corp")
				}
			}
			n.sso.SetFault(ssofake.Fault{})
			n.commands(t)
			n.look(t)

			n.moment = "lock"
			if with == "passphrase" {
				n.must(t, "", nil, "lock")
				n.look(t)
				n.commands(t)
				n.refused(t, n.hatch("a wrong passphrase", marks, 40)+"\n", "unlock")
				n.must(t, phrase+"\n", nil, "unlock")
			}
			n.must(t, "", nil, "logout", "one")
			n.must(t, "", nil, "logout", "corp")

			n.moment = "crash"
			core := n.couldDump(t)
			n.end(t, syscall.SIGQUIT, "goroutine ")
			n.look(t)
			n.serve(t, around...)
			if with == "passphrase" {
				n.must(t, phrase+"\n", nil, "unlock")
			}
			n.must(t, "", []string{"session *"}, "credential-process", "sealed")
			n.end(t, syscall.SIGABRT, "SIGABRT")
			n.crashedCommand(t, with, "AKIAWORKWORKWORKWORK\n"+work)
			n.panics(t)
			n.look(t)
			if left, err := filepath.Glob(filepath.Join(n.dir, "cwd", "*core*")); err != nil || len(left) > 0 {
				t.Errorf("a crash leaves %v, %v", left, err)
			} else if core != "" {
				t.Log("core files: not run: " + core)
			}

			n.moment = "no daemon"
			n.commands(t)
			if with == "identity file" {
				n.must(t, "", []string{"session *"}, "credential-process", "sealed")
			}
			n.must(t, "", nil, "exec", "plain", "--", "sh", "-c", "exit 0")
			n.serve(t, around...)
			n.do(t, "", nil, "keys", "remove", "work")
			n.do(t, "", nil, "keys", "remove", "work", "--yes")
			n.commands(t)
			n.end(t, syscall.SIGTERM, "AssumeRole")
			n.look(t)

			n.search(t)
		})
	}
}

// value is a canary's, by its name.
func (n *nest) value(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	for value, is := range n.names {
		if is == name {
			return value
		}
	}
	return ""
}

// learnIdentity makes a canary of the identity that seals the state.
func (n *nest) learnIdentity(t *testing.T, with, file, phrase string) {
	t.Helper()
	if with == "passphrase" {
		wrapped, err := os.ReadFile(filepath.Join(n.home, ".local", "state", "stsbroker", "identity"))
		if err != nil {
			t.Fatal(err)
		}
		text, err := seal.OpenPassphrase(wrapped, []byte(phrase))
		if err != nil {
			t.Fatal(err)
		}
		n.addIdentity("state identity", text)
	} else {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		n.addIdentity("state identity", text)
	}
	if n.value("state identity") == "" {
		t.Fatal("no identity was made")
	}
}

// wrongKeys are the ways in which people paste a key wrongly.
func (n *nest) wrongKeys(t *testing.T) {
	t.Helper()
	id := "AKIAWORKWORKWORKWORK"
	fresh := func(what string) string { return n.hatch("wrong: "+what, "/+", 38) }
	quoted := strconv.Quote(n.hatch("wrong: with marks", `/+=<&`, 40))
	for _, text := range []string{
		fresh("as the id") + "\n" + id + "\n",
		fresh("as the id, alone") + "\n",
		id + "\n" + fresh("with a line more") + "\nmore\n",
		id + "\n" + fresh("not the user's") + "\n",
		id + "\n" + strings.Repeat(fresh("too long"), 20),
		id + "\n" + strings.Repeat(fresh("far too long"), 1000),
		id + "\n" + fresh("with a blank") + " x\n",
		id + "\n" + fresh("with a control character") + "\x01\n",
		id + " " + fresh("in one line") + "\n",
		"aws_access_key_id = " + id + "\naws_secret_access_key = " + fresh("as in the file") + "\n",
		`{"AccessKey": {"AccessKeyId": "` + id + `", "SecretAccessKey": ` + quoted + `, `,
		`{"AccessKey": {"AccessKeyId": ` + quoted + `, "SecretAccessKey": 7}}`,
		`{"AccessKey": {"AccessKeyId": "` + fresh("as the id in JSON") + `", "SecretAccessKey": "` + fresh("in JSON") + `"}}`,
		`{"Credentials": {"SecretAccessKey": "` + fresh("in other JSON") + `"}}`,
	} {
		n.refused(t, text, "keys", "add", "wrong")
		n.do(t, text, nil, "keys", "add", "wrong", "--unverified", "--replace")
	}
	n.do(t, "", nil, "keys", "list")
	n.do(t, "", nil, "keys", "list", "--json")
	n.do(t, "", nil, "keys", "remove", "wrong", "--yes")
	for _, argv := range [][]string{
		{"keys", "add", "%s"}, {"keys", "add", "work", "%s"}, {"keys", "add", "work", "--custody", "%s"}, {"keys", "add", "work", "--secret=%s"},
		{"keys", "show", "%s"}, {"keys", "remove", "%s", "--yes"}, {"keys", "import", "%s", "--name", "x"}, {"keys", "rotate", "%s"},
		{"status", "%s"}, {"login", "%s"}, {"login", "one", "%s"}, {"logout", "%s"}, {"whoami", "%s"}, {"refresh", "%s"}, {"env", "%s"}, {"env", "app", "--shell", "%s"},
		{"credential-process", "%s"}, {"exec", "%s", "--", "true"}, {"unlock", "%s"}, {"lock", "%s"}, {"token", "create", "x", "--profile", "%s"},
		{"token", "create", "x", "--profile", "app", "--uid", "%s"}, {"token", "revoke", "%s"}, {"identity-token", "app", "--audience", "a", "--algorithm", "%s"}, {"%s"}, {"serve", "--log-level", "%s"},
	} {
		n.typed(t, argv...)
	}
}

// signIn signs in to IAM Identity Center, with a browser elsewhere.
func (n *nest) signIn(t *testing.T) {
	t.Helper()
	cmd := exec.Command(n.binary, "login", "corp", "--device-code")
	var said syncBuilder
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = n.env, filepath.Join(n.dir, "cwd"), &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	at := regexp.MustCompile(`open (http\S*?/device[^ ,]*)`)
	for allowed := false; ; {
		select {
		case err := <-ended:
			n.keep("stderr", "stsbroker login corp --device-code", []byte(said.String()))
			if err != nil || !allowed {
				t.Fatalf("login corp: %v\n%s", err, said.String())
			}
			return
		case <-time.After(10 * time.Millisecond):
		}
		if m := at.FindStringSubmatch(said.String()); m != nil && !allowed {
			if _, err := n.sso.Visit(m[1], true); err != nil {
				t.Fatalf("%v\n%s", err, said.String())
			}
			allowed = true
		}
	}
}

// fetch goes through every door that gives credentials.
func (n *nest) fetch(t *testing.T) {
	t.Helper()
	for _, p := range servable() {
		name := "token of env " + p
		var v variables
		if err := json.Unmarshal([]byte(n.must(t, "", []string{"token of *"}, "env", p, "--shell", "json")), &v); err != nil || v.Set[varToken] == "" {
			t.Fatal(err)
		}
		n.add(name, v.Set[varToken])
		n.tokens[p] = v.Set[varToken]
		if status, body := n.ask(t, p, get(t, v.Set[varFullURI]), "Authorization", v.Set[varToken]); status != http.StatusOK {
			t.Errorf("%s: %d %s", p, status, body)
		}
	}
	for _, shell := range []string{"sh", "fish", "powershell", "dotenv"} {
		n.must(t, "", []string{"token of *"}, "env", "app", "--shell", shell)
	}
	var v variables
	if err := json.Unmarshal([]byte(n.must(t, "", nil, "env", "app", "--token-file", "--shell", "json")), &v); err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(v.Set[varTokenFile])
	if err != nil || string(token) != n.tokens["app"] {
		t.Errorf("the token file of env: %v", err)
	}
	if token, err = os.ReadFile(filepath.Join(n.dir, "run/stsbroker/token-files/pod")); err != nil {
		t.Fatal(err)
	}
	n.add("token of pod", string(token))
	n.add("token of ci", strings.TrimSpace(n.must(t, "", []string{"token of *"}, "token", "create", "ci", "--profile", "app")))
	n.must(t, "", []string{"identity token*"}, "identity-token", "app", "--audience", "https://example.com")
	n.add("token of exec", strings.TrimSpace(n.must(t, "", []string{"token of *"}, "exec", "app", "--", "sh", "-c", `echo "$`+varToken+`"`)))
	n.must(t, "", nil, "env", "app", "--door", "eks")
	n.must(t, "", nil, "env", "app", "--door", "process")

	var st control.Status
	if err := json.Unmarshal([]byte(n.must(t, "", nil, "status", "--json")), &st); err != nil {
		t.Fatal(err)
	}
	for _, d := range st.IMDS {
		req, err := http.NewRequest(http.MethodPut, d.URL+"/latest/api/token", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-aws-ec2-metadata-token-ttl-seconds", "60")
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		token, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%d %v", resp.StatusCode, err)
		}
		n.add("token of IMDS "+d.Profile, string(token))
		n.tokens["imds"] = string(token)
		for _, at := range []string{"/latest/meta-data/iam/security-credentials/" + d.Profile, "/latest/meta-data/", "/latest/meta-data/" + url.PathEscape(string(token)), "/latest/dynamic/instance-identity/document"} {
			n.ask(t, "IMDS "+at, get(t, d.URL+at), "X-aws-ec2-metadata-token", string(token))
			n.ask(t, "IMDS without a token "+at, get(t, d.URL+at))
		}
	}
}

// commands are those that tell how things stand. None of them gives a secret.
func (n *nest) commands(t *testing.T) {
	t.Helper()
	for _, argv := range [][]string{
		{"status"}, {"status", "--json"}, {"status", "one"}, {"status", "corp"}, {"status", "tool", "--json"}, {"keys", "list"}, {"keys", "list", "--json"}, {"keys", "show", "work"},
		{"keys", "show", "dev", "--json"}, {"check"}, {"check", "--json"}, {"whoami", "app"}, {"whoami", "sealed", "--json"}, {"refresh", "app"}, {"refresh", "plain", "--json"}, {"token", "list"}, {"token", "list", "--json"},
	} {
		n.do(t, "", nil, argv...)
	}
	if n.daemon == nil {
		return
	}
	n.scrape(t)
	n.keep("log", "so far", []byte(n.log.String()))
	if runtime.GOOS == "linux" {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n.daemon.Process.Pid))
		if err != nil {
			t.Error(err)
		}
		n.keep("program", "/proc/PID/cmdline of the daemon", line)
	}
}

func (n *nest) scrape(t *testing.T) {
	t.Helper()
	_, body := n.ask(t, "metrics", get(t, "http://"+n.metrics+"/metrics"))
	if !strings.Contains(string(body), "stsbroker_") {
		t.Errorf("no metrics: %.200s", body)
	}
	n.keep("metrics", "/metrics", body)
}

// misuse is what clients do wrong with a token.
func (n *nest) misuse(t *testing.T) {
	t.Helper()
	token := strings.TrimSpace(n.must(t, "", []string{"token of *"}, "token", "create", "misused", "--profile", "app"))
	n.add("token of a client that asks for it", token)
	for name, req := range map[string]*http.Request{
		"token in the path": get(t, n.door+"/credentials/"+token), "token in the query": get(t, n.door+"/credentials/app?token="+token),
		"token as a path": get(t, n.door+"/"+token), "token as a role": get(t, n.door+"/role-arn/"+token),
	} {
		n.ask(t, name, req)
		n.ask(t, name+", with a token", req, "Authorization", n.tokens["dev"])
	}
	token = n.tokens["app"]
	for name, h := range map[string][]string{
		"a token of another profile": {"Authorization", n.tokens["dev"]}, "Bearer": {"Authorization", "Bearer " + token}, "a token and more": {"Authorization", token + "x"},
		"with a comma": {"Authorization", token + ", " + token}, "another header": {"X-Aws-Ec2-Metadata-Token", token}, "a cookie": {"Authorization", token, "Cookie", "t=" + token},
		"an origin": {"Authorization", token, "Origin", "https://" + token + ".example"}, "a referer": {"Authorization", token, "Referer", "https://example/?" + token},
		"a secret": {"Authorization", n.value("secret of work")}, "forwarded": {"Authorization", token, "X-Forwarded-For", token},
	} {
		n.ask(t, name, get(t, n.door+"/credentials/app"), h...)
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.door, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "GET /credentials/app HTTP/1.1\r\nHost: %s\r\nAuthorization: %s\r\n%s\r\n\r\n", token, token, token)
	said, _ := io.ReadAll(conn)
	n.keep("door", "no HTTP", said)
}

// misplaced are files in which somebody put a secret where none is to be. A word that
// stands for a name may be told, as the person has to find it; a secret's value in its
// own place, or a line that is none, may not.
func (n *nest) misplaced(t *testing.T) {
	t.Helper()
	fresh := func(what string) string { return n.hatch("misplaced "+what, "/+", 38) }
	credentials := n.write(t, 0o600, "bad/credentials",
		"[nosign]", "aws_access_key_id = AKIANOSIGNNOSIGNNOSI", "aws_secret_access_key "+fresh("without a sign"),
		"[swapped]", "aws_access_key_id = "+fresh("as the id"), "aws_secret_access_key = AKIASWAPPEDSWAPPEDSW",
		"[half]", "aws_secret_access_key = "+fresh("without an id"),
		"[alone]", fresh("on a line of its own"),
		"[misspelt]", "aws_access_key_id = AKIAMISSPELTMISSPELT", "aws_secret_acces_key = "+fresh("under a misspelt name"),
		"[continued]", "aws_access_key_id = AKIACONTINUEDCONTINU", "aws_secret_access_key =", "  "+fresh("on the next line"), "")
	config := n.write(t, 0o600, "bad/config",
		"[profile token]", "aws_session_token = "+fresh("token without a key"),
		"[profile swapped-role]", "role_arn = arn:aws:iam::123456789012:role/app", "source_profile = swapped", "")
	n.write(t, 0o600, "bad/stsbroker.yaml",
		`keys: { work: { custody: sealed, secret: `+strconv.Quote(fresh("under an unknown key"))+` } }`,
		`profiles:`,
		`  p: { session: { key: work, secret_access_key: `+strconv.Quote(fresh("in a profile"))+` } }`, "")
	env := []string{"AWS_CONFIG_FILE=" + config, "AWS_SHARED_CREDENTIALS_FILE=" + credentials, "XDG_RUNTIME_DIR=" + filepath.Join(n.dir, "none")}
	for _, argv := range [][]string{
		{"check"}, {"check", "--json"}, {"check", "--config", filepath.Join(n.dir, "bad/stsbroker.yaml")}, {"serve", "--config", filepath.Join(n.dir, "bad/stsbroker.yaml")},
		{"keys", "list"}, {"keys", "list", "--json"}, {"keys", "show", "swapped"}, {"keys", "show", "swapped", "--json"}, {"keys", "import", "swapped", "--keep"}, {"keys", "import", "nosign", "--keep"},
		{"keys", "import", "half", "--keep"}, {"keys", "import", "alone", "--keep"}, {"keys", "import", "continued", "--keep"},
		{"credential-process", "swapped"}, {"credential-process", "swapped-role"}, {"credential-process", "nosign"}, {"credential-process", "half"}, {"credential-process", "token"},
		{"exec", "swapped", "--", "true"},
	} {
		if got := n.start(t, env, "", nil, n.binary, argv...); strings.Contains(got.stderr, "panic") {
			t.Errorf("%v: %s", argv, got.stderr)
		}
	}
}

// couldDump says why no core file could come about here whatever the program does, ""
// where one could: a program that does nothing about it leaves one.
func (n *nest) couldDump(t *testing.T) string {
	t.Helper()
	if runtime.GOOS != "linux" {
		return "core files are looked for on Linux"
	}
	dir := t.TempDir()
	cmd := exec.Command("/bin/sh", "-c", "ulimit -c unlimited && kill -ABRT $$")
	cmd.Dir = dir
	err := cmd.Run()
	if left, globErr := filepath.Glob(filepath.Join(dir, "*core*")); globErr != nil || len(left) == 0 {
		return fmt.Sprintf("nothing leaves one in its folder here (%v)", err)
	}
	return ""
}

// crashedCommand ends commands that have just read a secret.
func (n *nest) crashedCommand(t *testing.T, with, key string) {
	t.Helper()
	commands := [][]string{{"keys", "add", "crashed"}, {"login", "one"}}
	if with == "passphrase" { // else it reads nothing
		commands = append(commands, []string{"unlock"})
	}
	for _, argv := range commands {
		for _, sig := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGABRT} {
			cmd := exec.Command("/bin/sh", append([]string{"-c", `ulimit -c unlimited 2>/dev/null; exec "$0" "$@"`, n.binary}, argv...)...)
			var said syncBuilder
			cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = append(n.env[:len(n.env):len(n.env)], "GOTRACEBACK=crash"), filepath.Join(n.dir, "cwd"), &said, &said
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(in, key); err != nil { // and no end of it: it waits for more
				t.Log(err)
			}
			// Whether it has read that is in no file; it reads within a moment, or the
			// scan of its dump proves a little less.
			time.Sleep(200 * time.Millisecond)
			_ = cmd.Process.Signal(sig)
			if cmd.Wait() == nil {
				t.Errorf("%v ends well by %v", argv, sig)
			}
			_ = in.Close()
			n.keep("crash", fmt.Sprintf("stsbroker %v, %v", argv, sig), []byte(said.String()))
		}
	}
}

// panicEnv tells a child of the test what to panic with; see TestCanaryPanic.
const panicEnv = "STSBROKER_TEST_PANIC"

// planted is the name of a canary that is to be found.
const planted = "planted"

// printed is a value as all of fmt's verbs print it.
func printed(v any) string {
	var b strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
		fmt.Fprintf(&b, verb+"\n", v)
	}
	return b.String()
}

// panicking are values that hold a secret, as they could stand in a panic.
func panicking(secret string) map[string]any {
	s := broker.NewSecret(secret)
	m := broker.Material{AccessKeyID: "AKIAPANICPANICPANICP", SecretAccessKey: s, SessionToken: s}
	asJSON, _ := json.Marshal(m)
	id, err := seal.ParseIdentity([]byte(secret))
	values := []any{s, &s, m, &m, []broker.Secret{s}, map[string]broker.Material{"a": m}, custody.Pair{KeyID: "AKIAPANICPANICPANICP", Secret: s}, &custody.Pair{Secret: s}, id, &id, id.Sealer(), err, string(asJSON)}
	all := ""
	for _, v := range values {
		all += printed(v)
	}
	return map[string]any{
		"secret": s, "pointer": &s, "material": m, "wrapped": fmt.Errorf("%w %v", errors.New("x"), m), "printed": all,
		"error": &broker.Error{Kind: broker.KindConfig, Public: "public", Cause: fmt.Errorf("cause: %v", s)},
	}
}

// TestCanaryPanic is a child of TestCanaries that ends by a panic.
func TestCanaryPanic(t *testing.T) {
	what, secret, ok := strings.Cut(os.Getenv(panicEnv), " ")
	if !ok {
		t.Skip("not run: this is a child of TestCanaries")
	}
	var v any = secret
	if what != planted {
		v = panicking(secret)[what]
	}
	go panic(v) // not in the test's own goroutine, whose panics package testing tells in its way
	select {}
}

func (n *nest) panics(t *testing.T) {
	t.Helper()
	for _, secret := range []string{n.value("secret of work"), n.value("state identity")} {
		for what := range panicking(secret) {
			n.panicWith(t, what, secret)
		}
	}
}

func (n *nest) panicWith(t *testing.T, what, secret string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestCanaryPanic$")
	cmd.Env = append(n.env[:len(n.env):len(n.env)], panicEnv+"="+what+" "+secret, "TMPDIR="+t.TempDir())
	said, err := cmd.CombinedOutput()
	if err == nil || !bytes.Contains(said, []byte("panic: ")) {
		t.Errorf("no panic with %s: %v\n%s", what, err, said)
	}
	n.keep("panic", what, said)
}

// knownLeaks are leaks that there are. One that is mended has to go from here.
var knownLeaks []struct{ canary, at, why string }

// search looks for all canaries in all sinks.
func (n *nest) search(t *testing.T) {
	t.Helper()
	kinds, total := map[string]int{}, 0
	for _, s := range n.sinks {
		kinds[s.kind]++
		total += len(s.data)
	}
	for _, kind := range kindsOfSinks() {
		if kinds[kind] == 0 {
			t.Errorf("no %s was looked at", kind)
		}
	}
	// Most sinks are looked at more than once, such as a file that does not change.
	seen := map[string]bool{}
	var lines []string
	for _, s := range n.sinks {
		key := s.kind + strings.Join(s.may, "\x00") + "\x00" + string(s.data)
		if !seen[key] {
			seen[key] = true
			lines = append(lines, n.leaks(s)...)
		}
	}
	slices.Sort(lines)
	hit := map[string]bool{}
	for _, l := range slices.Compact(lines) {
		excused := false
		for _, k := range knownLeaks {
			if strings.Contains(l, ": "+k.canary+" (") && regexp.MustCompile(k.at).MatchString(l) {
				hit[k.canary], excused = true, true
			}
		}
		if !excused {
			t.Error(l)
		}
	}
	for _, k := range knownLeaks {
		if !hit[k.canary] {
			t.Errorf("%s is told nowhere any more: take it from knownLeaks", k.canary)
			continue
		}
		t.Logf("known: %s: %s", k.canary, k.why)
	}
	t.Logf("%d canaries in %d spellings, and %d codes; %d sinks (%d different), %d bytes: %v", len(n.names), n.count, len(n.codes), len(n.sinks), len(seen), total, kinds)
	if names := slices.Sorted(maps.Values(n.names)); len(names) < 80 {
		t.Errorf("only %d canaries: %q", len(names), names)
	}
	for _, name := range []string{
		"secret of dev", "secret of plain", "secret of work", "secret of the environment", "given: secret of unit", "passphrase", "state identity, signature", "seed identity, signature", "seed of the MFA device",
		"given: web identity token, signature", "given: assertion, signature", "given: trade-in token, signature", "of a program: token", "session secret", "session token, signature", "identity token, signature", "token of env app",
		"token of pod", "token of ci", "token of exec", "token of IMDS app", "signature of a request", "sign-in: accessToken", "sign-in: refreshToken", "sign-in: clientSecret",
	} {
		if n.value(name) == "" {
			t.Errorf("there is no canary %q", name)
		}
	}
	if len(n.codes) < 3 {
		t.Errorf("%d codes of MFA devices were seen", len(n.codes))
	}
}

// The search finds a canary in every spelling, wherever in a text it stands, and in
// every kind of sink by the way that TestCanaries takes to it.
func TestCanariesAreFound(t *testing.T) {
	n := newNest(t)
	secret := n.hatch("", marks, 40) + "???>>>???" + n.hatch("", "", 20) // of which base64 makes + and /
	n.add(planted, secret)
	hows := map[string]bool{}
	for _, s := range spellings(secret, false) {
		hows[strings.TrimRight(strings.Split(s.how, ",")[0], " 012")] = true
		for _, around := range []string{"%s", `{"msg":"x %s y"}` + "\n", strings.Repeat("filler ", 999) + "%s", "%s" + strings.Repeat("\x00\xff", 99)} {
			text := strings.Replace(around, "%s", s.text, 1)
			found := func(f needle) bool { return f.canary == planted && f.text == s.text }
			if !slices.ContainsFunc(n.find([]byte(text)), found) {
				t.Errorf("%s is not found in %.40q", s.how, text)
			}
			if one := strings.Replace(text, s.text, s.text[:len(s.text)-1]+"\x00", 1); slices.ContainsFunc(n.find([]byte(one)), found) {
				t.Errorf("%s is found where its last letter is another", s.how)
			}
		}
	}
	for _, how := range []string{"plain", "URL query", "URL path", "URL", "base64", "base64url", "hex", "JSON", "Go", "XML", "bytes", "its head"} {
		if !hows[how] {
			t.Errorf("no spelling %q of %v", how, slices.Sorted(maps.Keys(hows)))
		}
	}
	// As encoders spell it that know nothing of this.
	asJSON, err := json.Marshal(map[string]any{"k": []byte("ab" + secret + "c"), "l": []byte("a" + secret), "m": secret})
	if err != nil {
		t.Fatal(err)
	}
	for how, text := range map[string]string{
		"JSON": string(asJSON), "query": url.Values{"a": {secret}}.Encode(), "path": (&url.URL{Path: "/" + secret}).String(), "%x": fmt.Sprintf("%x", secret), "%X": fmt.Sprintf("%X", []byte("x"+secret)),
		"%q": fmt.Sprintf("%q", "x"+secret), "%v": fmt.Sprint([]byte("x" + secret)), "basic": "Basic " + base64.StdEncoding.EncodeToString([]byte("user:"+secret)),
		"cut short": secret[:len(secret)-5], "slashes": strings.ReplaceAll(secret, "/", `\/`),
	} {
		if len(n.find([]byte(text))) == 0 {
			t.Errorf("not found as %s spells it", how)
		}
	}
	n.addCode("012345")
	for text, want := range map[string]int{"code 012345.": 1, `"012345"`: 1, "TokenCode=012345&x": 1, "20260101T012345Z": 0, ".012345Z": 0, "70123456": 0, "a012345": 0} {
		if got := len(n.find([]byte(text))); got != want {
			t.Errorf("%q: %d codes, want %d", text, got, want)
		}
	}

	// The sinks, each by its own way.
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics" {
			fmt.Fprintf(w, "stsbroker_x{profile=%q} 1\n", secret)
			return
		}
		http.Error(w, r.URL.Query().Get("say"), http.StatusForbidden)
	}))
	defer server.Close()
	n.metrics = strings.TrimPrefix(server.URL, "http://")
	n.scrape(t)
	n.ask(t, planted, get(t, server.URL+"?say="+url.QueryEscape(secret)))
	n.start(t, nil, "", nil, "/bin/sh", "-c", `echo "x`+shellSafe(secret)+`"; echo "`+shellSafe(secret)+`" >&2`)
	n.write(t, 0o600, "home/.local/state/stsbroker/x", hex.EncodeToString([]byte(secret)))
	n.write(t, 0o600, "run/"+base64.RawURLEncoding.EncodeToString([]byte(secret)), "")
	n.start(t, []string{"X=" + secret}, "", nil, n.program(t, "x", "exit 0"), "argument")
	n.look(t)
	for _, with := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		n.daemon, n.log = exec.Command("/bin/sh", "-c", `trap "exit 0" TERM; echo "$X"; while :; do sleep 0.05; done`), &syncBuilder{}
		n.daemon.Env, n.daemon.Stdout = []string{"PATH=" + os.Getenv("PATH"), "X=" + secret}, n.log
		if err := n.daemon.Start(); err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); n.log.String() == "" && time.Since(began) < 10*time.Second; time.Sleep(time.Millisecond) {
		}
		n.end(t, with, "")
	}
	n.panicWith(t, planted, secret)
	found := map[string]bool{}
	for _, s := range n.sinks {
		for _, l := range n.leaks(s) {
			if strings.Contains(l, ": "+planted+" (") {
				found[s.kind] = true
			}
		}
	}
	for _, kind := range kindsOfSinks() {
		if !found[kind] {
			t.Errorf("what is planted in %s is not found: %v", kind, found)
		}
	}
	// What belongs somewhere belongs there alone.
	of := func(name string) (leaks int) {
		n.sinks = nil
		n.write(t, 0o600, name, n.value("secret of dev"))
		n.look(t)
		for _, s := range n.sinks {
			for _, l := range n.leaks(s) {
				if strings.Contains(l, name+":") {
					leaks++
				}
			}
		}
		return leaks
	}
	if of("home/.aws/credentials") != 0 || of("home/.aws/config") == 0 || of("tmp/x") == 0 {
		t.Error("the list of where secrets belong is not what decides")
	}
}

// shellSafe writes a text within double quotes of a shell.
func shellSafe(s string) string { return regexp.MustCompile("[\"$`\\\\]").ReplaceAllString(s, `\$0`) }
