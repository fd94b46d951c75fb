package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/ssofake"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(bareEnv); file != "" {
		if err := serveBare(file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	testscript.Main(m, map[string]func(){"stsbroker": main})
}

// TestScripts is the specification of the command line: testdata/script/*.txt.
//
// Each script has a home of its own and an STS stand-in at $STS that knows the
// user of the key AKIASCRIPTSCRIPTSCRI; $METRICS is a free address on loopback. Beside testscript's own commands:
//
//	status N CMD…     runs CMD and wants that exit status; stdout and stderr are for the matchers
//	serve [ARGS]      starts the daemon and waits until its control socket answers
//	halt              ends it with SIGTERM and wants status 0
//	crash             ends it with SIGKILL
//	fault KIND [TEXT] makes the stand-in fail: none, denied, unavailable, throttle, hang, garbage
//	mints N           wants so many mints since the script began
//	get PROFILE       asks the container door as the last `token` says; stdout is STATUS and body
//	token VALUE|env   what get shows: the value, or that of the env last printed
//	code DEVICE N     stdout is what an MFA device of user dev (phone or token) shows in N half minutes
//	encoded           stdout is an encoded message: dev was denied ec2:StartInstances on i-0123, explicitly
//	imds [METHOD PATH] asks the IMDS door that env last printed, with the token of the last PUT
//	                  if there was one; a PUT asks for 60 s. stdout is STATUS and body
//	fetch PATH        asks the container door for a path, as get does for a profile
//	socket PATH       the same of the socket that gives credentials, without a token
//	log REGEXP        wants a match in the daemon's stderr
//	allow FILE        waits for a sign-in's address in FILE and allows it, in a browser; ! allow denies it. stdout is
//	                  STATUS and the page at the end
//	await FILE REGEXP waits until FILE has a match
//	center STATE      IAM Identity Center ends all sessions (revoked), all access tokens (expired), or is down or up
//	calls OP[/GRANT] N wants so many calls of it since the script began
//	cli NAME          the AWS CLI signs in to the session NAME (or a start URL), into its own cache
//	identity FILE     makes an identity, as age-keygen does
//	sealfile ID IN OUT seals a file for an identity, as age does
//	wrap ID PHRASE OUT seals an identity with the passphrase in a file
//	plugin FOLDER     builds age-plugin-batchpass there; stdout is built, or not run: and why
//	talk FILE N CMD…  runs CMD on a terminal and talks to it as FILE says; see talkCmd. stdout is what the terminal showed
//
// $CENTER is the address of an IAM Identity Center that gives the roles Admin and Reader.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			w := &world{fake: stsfake.New()}
			w.fake.AddUser("dev", "AKIASCRIPTSCRIPTSCRI", "canary/secret/key/of/the/user/0123456789")
			w.fake.AddRole(stsfake.Role{ARN: "arn:aws:iam::123456789012:role/app", Trust: []string{"*"}})
			w.fake.AddRole(stsfake.Role{ARN: "arn:aws:iam::123456789012:role/closed", Trust: []string{"arn:aws:iam::123456789012:user/nobody"}})
			w.fake.AddMFA("dev", "arn:aws:iam::123456789012:mfa/phone", []byte("phone"))
			w.fake.AddMFA("dev", "GAHT12345678", []byte("token"))
			w.fake.AddMFA("dev", "arn:aws:iam::123456789012:mfa/stick", []byte("twenty bytes of seed")) // OR3WK3TUPEQGE6LUMVZSA33GEBZWKZLE
			for _, name := range []string{"one", "two", "three"} {
				w.fake.AddRole(stsfake.Role{ARN: "arn:aws:iam::123456789012:role/" + name, Trust: []string{"*"}, MFA: true})
			}
			w.fake.AddMember("210987654321")
			run, err := w.fake.Start("127.0.0.1:0")
			if err != nil {
				return err
			}
			e.Defer(func() { _ = run.Close() })
			w.center = newCenter(w.fake, run.URL)
			center, err := w.center.Start("127.0.0.1:0")
			if err != nil {
				return err
			}
			e.Defer(func() { _ = center.Close() })
			e.Defer(w.kill)
			home := filepath.Join(e.WorkDir, "home")
			for _, dir := range []string{home, filepath.Join(home, ".aws"), filepath.Join(e.WorkDir, "run")} {
				if err := os.MkdirAll(dir, 0o700); err != nil {
					return err
				}
			}
			e.Vars = []string{
				"HOME=" + home, "PATH=" + os.Getenv("PATH"), "WORK=" + e.WorkDir, "XDG_RUNTIME_DIR=" + filepath.Join(e.WorkDir, "run"),
				"STS=" + run.URL, "AWS_ENDPOINT_URL_STS=" + run.URL, "TMPDIR=" + e.WorkDir, "$=$", promptRace,
				"CENTER=" + center.URL, varEndpointSSO + "=" + center.URL, varEndpointOIDC + "=" + center.URL,
			}
			free, err := net.Listen("tcp", "127.0.0.1:0") // for a script that needs a port by number
			if err != nil {
				return err
			}
			e.Setenv("METRICS", free.Addr().String())
			memory := filepath.Join(e.WorkDir, "memory") // a folder for files of credentials
			if runtime.GOOS == "linux" {
				if memory, err = os.MkdirTemp("/dev/shm", "stsbroker-test-"); err != nil {
					return err
				}
				e.Defer(func() { _ = os.RemoveAll(memory) })
			}
			e.Setenv("MEMORY", memory)
			e.Values[worldKey{}] = w
			if err := free.Close(); err != nil {
				return err
			}
			return nil
		},
		Cmds: scriptCommands(),
	})
}

// promptRace is for programs under the race detector: they sleep a second at their end
// otherwise, in case another thread has a race to report.
const promptRace = "GORACE=atexit_sleep_ms=0"

func scriptCommands() map[string]func(ts *testscript.TestScript, neg bool, args []string) {
	return map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"status": statusCmd, "serve": serveCmd, "halt": haltCmd, "crash": crashCmd, "fault": faultCmd, "mints": mintsCmd,
		"get": getCmd, "token": tokenCmd, "log": logCmd, "code": codeCmd, "encoded": encodedCmd, "imds": imdsCmd,
		"fetch": fetchCmd, "socket": socketCmd, "allow": allowCmd, "await": awaitCmd, "center": centerCmd, "calls": callsCmd, "cli": cliCmd,
		"identity": identityCmd, "sealfile": sealfileCmd, "wrap": wrapCmd, "plugin": pluginCmd, "talk": talkCmd,
	}
}

// testscript's own commands win over ours, without a word. Its stop, for one, ends
// a script as passed, whatever stands behind it.
func TestScriptCommandsAreOurs(t *testing.T) {
	for name := range scriptCommands() {
		t.Run(name, func(t *testing.T) {
			script := filepath.Join(t.TempDir(), name+".txt")
			if err := os.WriteFile(script, []byte(name+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			ran := false
			t.Cleanup(func() { // scripts are parallel subtests
				if !ran {
					t.Errorf("%s is testscript's", name)
				}
			})
			testscript.Run(t, testscript.Params{Files: []string{script}, Cmds: map[string]func(*testscript.TestScript, bool, []string){
				name: func(*testscript.TestScript, bool, []string) { ran = true },
			}})
		})
	}
	scripts, err := filepath.Glob("testdata/script/*.txt")
	if err != nil || len(scripts) == 0 {
		t.Fatal(scripts, err)
	}
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		if commands, _, _ := strings.Cut(string(text), "\n-- "); regexp.MustCompile(`(?m)^stop\b`).MatchString(commands) {
			t.Errorf("%s: what stands behind stop is never run; halt ends the daemon", script)
		}
	}
}

type worldKey struct{}

// world is what one script plays in.
type world struct {
	fake   *stsfake.Server
	center *ssofake.Server
	daemon *exec.Cmd
	stderr bytes.Buffer
	done   chan error
	url    string
	token  string
	imds   struct{ url, token string }
}

func of(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

func (w *world) kill() {
	if w.daemon != nil {
		_ = w.daemon.Process.Kill()
		if err := <-w.done; err == nil {
			fmt.Fprintln(&w.stderr, "ended by itself, with status 0")
		}
		w.daemon = nil
	}
}

func statusCmd(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if (got == want) == neg {
		ts.Fatalf("status %d, want %d", got, want)
	}
}

func serveCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := of(ts)
	w.kill()
	path, err := exec.LookPath("stsbroker")
	ts.Check(err)
	w.daemon = exec.Command(path, append([]string{"serve", "--log-level", "debug"}, args...)...)
	w.daemon.Dir = ts.MkAbs(".")
	w.daemon.Env = environ(ts)
	logs, err := w.daemon.StderrPipe()
	ts.Check(err)
	ts.Check(w.daemon.Start())
	w.done = make(chan error, 1)
	up := make(chan bool)
	go func() {
		serving := false
		lines := bufio.NewScanner(logs)
		for lines.Scan() {
			fmt.Fprintln(&w.stderr, lines.Text())
			if !serving && strings.Contains(lines.Text(), `"serving"`) {
				serving = true
				up <- true
			}
		}
		if !serving {
			close(up)
		}
		w.done <- w.daemon.Wait()
	}()
	if !<-up {
		err := <-w.done
		w.daemon = nil
		ts.Fatalf("the daemon ended: %v\n%s", err, w.stderr.String())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := control.Dial(ctx, filepath.Join(ts.Getenv("XDG_RUNTIME_DIR"), "stsbroker", "control.sock"))
	ts.Check(err)
	st, err := c.Status(ctx, "")
	ts.Check(err)
	w.url = st.Container[0]
}

// environ is what a script has set, for a program that testscript does not run.
func environ(ts *testscript.TestScript) (env []string) {
	for _, name := range []string{
		"HOME", "PATH", "XDG_RUNTIME_DIR", varEndpointURL, varEndpointSSO, varEndpointOIDC, "GORACE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
		"STSBROKER_CONFIG", "AWS_SHARED_CREDENTIALS_FILE", varIdentityFile, varCredentials,
	} {
		if v := ts.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func haltCmd(ts *testscript.TestScript, _ bool, _ []string) {
	w := of(ts)
	ts.Check(w.daemon.Process.Signal(syscall.SIGTERM))
	err := <-w.done
	w.daemon = nil
	if err != nil {
		ts.Fatalf("the daemon ended with %v\n%s", err, w.stderr.String())
	}
}

func crashCmd(ts *testscript.TestScript, _ bool, _ []string) { of(ts).kill() }

func faultCmd(ts *testscript.TestScript, _ bool, args []string) {
	kinds := map[string]stsfake.FaultKind{
		"none": stsfake.FaultNone, "denied": stsfake.FaultDenied, "unavailable": stsfake.FaultUnavailable, "throttle": stsfake.FaultThrottle,
		"hang": stsfake.FaultHang, "garbage": stsfake.FaultGarbage, "echo": stsfake.FaultEchoSecrets,
	}
	kind, ok := kinds[args[0]]
	if !ok {
		ts.Fatalf("no such fault")
	}
	of(ts).fake.SetFault(stsfake.Fault{Kind: kind, Message: strings.Join(args[1:], " ")})
}

func mintsCmd(ts *testscript.TestScript, _ bool, args []string) {
	if got := fmt.Sprint(of(ts).fake.Mints()); got != args[0] {
		ts.Fatalf("%s mints, want %s", got, args[0])
	}
}

func tokenCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := of(ts)
	if w.token = args[0]; w.token == "env" {
		m := regexp.MustCompile(`AWS_CONTAINER_AUTHORIZATION_TOKEN=(\S+)`).FindStringSubmatch(ts.ReadFile("stdout"))
		if m == nil {
			ts.Fatalf("no token was printed")
		}
		w.token = m[1]
	}
	if w.token == "stdout" {
		w.token = strings.TrimSpace(ts.ReadFile("stdout"))
	}
}

// getCmd asks the container door for a profile.
func getCmd(ts *testscript.TestScript, neg bool, args []string) {
	fetchCmd(ts, neg, []string{"/credentials/" + pathEscape(args[0])})
}

// fetchCmd asks it for a path.
func fetchCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := of(ts)
	ask(ts, http.DefaultTransport, w.url+args[0], w.token)
}

// socketCmd asks the socket that gives credentials.
func socketCmd(ts *testscript.TestScript, _ bool, args []string) {
	path := filepath.Join(ts.Getenv("XDG_RUNTIME_DIR"), "stsbroker", "creds.sock")
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}
	defer transport.CloseIdleConnections()
	ask(ts, transport, "http://localhost"+args[0], "")
}

func ask(ts *testscript.TestScript, way http.RoundTripper, url, token string) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	ts.Check(err)
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	resp, err := way.RoundTrip(req)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if !json.Valid(body) {
		ts.Fatalf("not JSON: %s", body)
	}
	fmt.Fprintf(ts.Stdout(), "%d %s\n", resp.StatusCode, body)
}

func imdsCmd(ts *testscript.TestScript, _ bool, args []string) {
	w := of(ts)
	if len(args) == 0 {
		m := regexp.MustCompile(`AWS_EC2_METADATA_SERVICE_ENDPOINT=(\S+)`).FindStringSubmatch(ts.ReadFile("stdout"))
		if m == nil {
			ts.Fatalf("no endpoint was printed")
		}
		w.imds.url, w.imds.token = m[1], ""
		return
	}
	req, err := http.NewRequest(args[0], w.imds.url+args[1], nil)
	ts.Check(err)
	if req.Method == http.MethodPut {
		req.Header.Set("X-aws-ec2-metadata-token-ttl-seconds", "60")
	} else if w.imds.token != "" {
		req.Header.Set("X-aws-ec2-metadata-token", w.imds.token)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	if req.Method == http.MethodPut && resp.StatusCode == http.StatusOK {
		w.imds.token = string(body)
	}
	fmt.Fprintf(ts.Stdout(), "%d %s\n", resp.StatusCode, body)
}

func logCmd(ts *testscript.TestScript, neg bool, args []string) {
	w := of(ts)
	if w.daemon != nil {
		ts.Fatalf("halt the daemon first: its log is read to the end")
	}
	if regexp.MustCompile(args[0]).Match(w.stderr.Bytes()) == neg {
		ts.Fatalf("the log (want a match of %q: %v):\n%s", args[0], !neg, w.stderr.String())
	}
}

// codeCmd: a code is good once, and half a minute before and after its time.
func codeCmd(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	fmt.Fprintln(ts.Stdout(), stsfake.TOTP([]byte(args[0]), of(ts).fake.Now().Add(time.Duration(n)*30*time.Second)))
}

func encodedCmd(ts *testscript.TestScript, _ bool, _ []string) {
	fmt.Fprintln(ts.Stdout(), of(ts).fake.Encoded(stsfake.Denial{
		Principal: "arn:aws:iam::123456789012:user/dev", Action: "ec2:StartInstances", Resource: "arn:aws:ec2:eu-central-1:123456789012:instance/i-0123", Explicit: true,
	}))
}
