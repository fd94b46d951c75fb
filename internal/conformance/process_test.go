//go:build conformance && linux

package conformance

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is a server that was started and will be ended with its test.
type process struct {
	name string
	log  string // path of its stdout and stderr
	done chan struct{}
}

// start runs a server in a process group of its own, with nothing in its
// environment but env. It ends with the test, and with the test binary
// should that be killed.
func start(t *testing.T, dir string, env []string, name string, argv ...string) *process {
	t.Helper()
	p := &process{name: name, log: filepath.Join(dir, name+".out"), done: make(chan struct{})}
	out, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		defer close(p.done)
		_ = cmd.Wait() // how it ended is in its log
	}()
	t.Cleanup(func() {
		group := -cmd.Process.Pid
		_ = syscall.Kill(group, syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(5 * time.Second):
		}
		_ = syscall.Kill(group, syscall.SIGKILL) // and what it left behind
		<-p.done
		if t.Failed() {
			t.Logf("%s said at last:\n%s", name, p.tail())
		}
	})
	return p
}

// tail returns the end of what the process printed.
func (p *process) tail() string {
	b, _ := os.ReadFile(p.log)
	return string(b[max(0, len(b)-4096):])
}

// await polls until ready returns nil, and fails the test after bound or when
// the process ends first.
func (p *process) await(t *testing.T, bound time.Duration, ready func() error) {
	t.Helper()
	began := time.Now()
	for {
		err := ready()
		if err == nil {
			t.Logf("%s is ready after %.1f s", p.name, time.Since(began).Seconds())
			return
		}
		select {
		case <-p.done:
			t.Fatalf("%s ended before it was ready:\n%s", p.name, p.tail())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Since(began) > bound {
			t.Fatalf("%s is not ready after %v: %v\n%s", p.name, bound, err, p.tail())
		}
	}
}

// answers returns a check that url answers an HTTP request at all.
func answers(url string) func() error {
	return func() error {
		r, err := loopback.Get(url)
		if err != nil {
			return err
		}
		return r.Body.Close()
	}
}

// loopback knows no proxy and follows no redirect.
var loopback = &http.Client{
	Transport:     &http.Transport{},
	Timeout:       10 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// result is how a short-lived command ended.
type result struct {
	stdout, stderr string
	err            error // nil for exit status 0
}

// String shows what a failed assertion needs.
func (r result) String() string {
	return fmt.Sprintf("%v\nstdout: %s\nstderr: %s", r.err, r.stdout, r.stderr)
}

// run runs a command to its end, with nothing in its environment but env.
func run(ctx context.Context, dir string, env []string, argv ...string) result {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	return result{stdout.String(), stderr.String(), err}
}

// cleanEnv is the whole environment of a child whose home is given: nothing of
// the caller's own credentials, proxies or certificates reaches it.
func cleanEnv(home string, more ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + home,
		"TMPDIR=" + os.TempDir(),
		"LANG=C.UTF-8",
		"XDG_CONFIG_HOME=" + filepath.Join(home, ".config"),
		"XDG_STATE_HOME=" + filepath.Join(home, ".local", "state"),
		"XDG_RUNTIME_DIR=" + filepath.Join(home, "run"),
	}, more...)
}

// freePorts returns n different ports that were free on 127.0.0.1 just now.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // all are held until all are known
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports
}

// tempDir is t.TempDir with a path short enough for Unix sockets in it.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "conf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// writeFile writes a file of mode 0600, its folders too.
func writeFile(t *testing.T, path string, lines ...string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}
