package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// supervised is the shipped program under a notify socket, as systemd has one.
type supervised struct {
	*rig
	cmd   *exec.Cmd
	began time.Time
	log   syncBuilder
	pipe  *os.File // the end of its log that it writes to
	deaf  chan struct{}

	mu       sync.Mutex
	messages []message
}

type message struct {
	at   time.Duration // since the start
	text string
}

// underSystemd starts it with profiles p0 and ci, both prefetched.
func underSystemd(t *testing.T, binary string, fake *stsfake.Server, watchdog time.Duration) *supervised {
	t.Helper()
	sts, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sts.Close() })
	s := &supervised{rig: newRig(t, binary, sts.URL, "", fake, 1), deaf: make(chan struct{})}
	ci := "arn:aws:iam::123456789012:role/ci"
	fake.AddRole(stsfake.Role{ARN: ci, Subjects: []string{"pod"}})
	s.put(t, "token/web", fake.IdentityToken("pod", time.Hour))
	s.put(t, ".config/stsbroker/stsbroker.yaml", fmt.Sprintf(`listen: { container: ["127.0.0.1:%s"] }
profiles:
  p0: { role: { arn: "arn:aws:iam::123456789012:role/p0", source: dev }, region: eu-central-1, prefetch: true }
  ci: { web_identity: { arn: %q, token_file: %q }, region: eu-central-1, prefetch: true }
`, s.port, ci, filepath.Join(s.home, "token", "web")))

	address := filepath.Join(s.home, "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	s.pipe = w
	s.cmd = exec.Command(binary, "serve")
	run, err := os.MkdirTemp("", "") // a test's own folder has too long a name for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	s.env = append(s.env, "XDG_RUNTIME_DIR="+run)
	s.cmd.Env = append(slices.Clone(s.env), "NOTIFY_SOCKET="+address, fmt.Sprintf("WATCHDOG_USEC=%d", watchdog.Microseconds()))
	s.cmd.Stderr = w
	s.began = time.Now()
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := l.Read(buf)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.messages = append(s.messages, message{time.Since(s.began), string(buf[:n])})
			s.mu.Unlock()
		}
	}()
	go func() { _, _ = io.Copy(&s.log, listener{r, s.deaf}) }()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		r.Close()
		w.Close()
		if t.Failed() {
			t.Logf("it said %v\nlog:\n%s", s.heard(), s.log.String())
		}
	})
	return s
}

// listener reads until nobody listens any more.
type listener struct {
	io.Reader
	deaf chan struct{}
}

func (l listener) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	select {
	case <-l.deaf:
		return 0, io.EOF
	default:
		return n, err
	}
}

func (s *supervised) put(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(s.home, name)
	noError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	noError(t, os.WriteFile(path, []byte(text), 0o600))
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *supervised) heard() []message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// await returns the first message after some time that has the line.
func (s *supervised) await(t *testing.T, line string, after, patience time.Duration) message {
	t.Helper()
	for until := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		for _, m := range s.heard() {
			if m.at > after && slices.ContainsFunc(strings.Split(m.text, "\n"), func(l string) bool { return strings.HasPrefix(l, line) }) {
				return m
			}
		}
		if time.Now().After(until) {
			t.Fatalf("%s does not come within %v", line, patience)
		}
	}
}

func (s *supervised) now() time.Duration { return time.Since(s.began) }

// refresh asks for a mint, and reports whether there was one.
func (s *supervised) refresh(profile string, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.binary, "refresh", profile)
	cmd.Env = s.env
	return cmd.Run() == nil
}

// TestSupervised: the shipped program under a supervisor.
func TestSupervised(t *testing.T) {
	if testing.Short() {
		t.Skip("not run: it takes half a minute")
	}
	binary := shipped(t)

	t.Run("READY waits for the first attempts", func(t *testing.T) {
		t.Parallel()
		fake := stsfake.New()
		fake.SetFault(stsfake.Fault{Delay: 2 * time.Second})
		s := underSystemd(t, binary, fake, 0)
		m := s.await(t, "READY=1", 0, 30*time.Second)
		if m.at < 2*time.Second || fake.Mints() < 2 || !strings.Contains(m.text, "STATUS=serving 3 profiles, 2 held") {
			t.Errorf("%+v after %d mints", m, fake.Mints())
		}
		if !s.refresh("p0", 10*time.Second) {
			t.Error("nothing is served when it is ready")
		}
		noError(t, s.cmd.Process.Signal(syscall.SIGTERM))
		s.await(t, "STOPPING=1", m.at, 10*time.Second)
	})

	t.Run("READY comes without STS", func(t *testing.T) {
		t.Parallel()
		fake := stsfake.New()
		fake.SetFault(stsfake.Fault{Kind: stsfake.FaultHang})
		s := underSystemd(t, binary, fake, 0)
		if m := s.await(t, "READY=1", 0, 30*time.Second); m.at < time.Second || m.at > readyAtLast+3*time.Second || fake.Mints() > 0 {
			t.Errorf("%+v after %d mints", m, fake.Mints())
		}
	})

	t.Run("an outage of STS is no reason to be ended", func(t *testing.T) {
		t.Parallel()
		fake := stsfake.New()
		s := underSystemd(t, binary, fake, time.Second)
		s.await(t, "WATCHDOG=1", s.await(t, "READY=1", 0, 30*time.Second).at, 10*time.Second)
		fake.SetFault(stsfake.Fault{Kind: stsfake.FaultHang})
		began, calls := s.now(), fake.Total()
		for s.now()-began < 8*time.Second {
			if s.refresh("p0", 25*time.Second) {
				t.Fatal("there is no outage")
			}
		}
		ended, last := s.now(), began
		for _, m := range s.heard() {
			if m.at > began && strings.Contains(m.text, "WATCHDOG=1") {
				if m.at-last > 3*time.Second { // of one second, on a busy host
					t.Errorf("not fed from %v to %v", last, m.at)
				}
				last = m.at
			}
		}
		if ended-last > 3*time.Second {
			t.Errorf("last fed at %v of %v", last, ended)
		}
		if fake.Total() == calls {
			t.Error("nobody asked STS")
		}
		s.await(t, "STATUS=serving 3 profiles, 2 held; p0 fails", began, 10*time.Second)
	})

	// The unit's WatchdogSec. A mint may take ten seconds, and a busy host five more.
	const within = 30 * time.Second
	hangs := func(t *testing.T, s *supervised, profile, say string) {
		t.Helper()
		began := s.now()
		if s.refresh(profile, 3*time.Second) {
			t.Fatal("nothing hangs")
		}
		time.Sleep(within - (s.now() - began)) // for what must not come: the time is the assertion
		var last time.Duration
		for _, m := range s.heard() {
			if strings.Contains(m.text, "WATCHDOG=1") {
				last = m.at
			}
		}
		if last == 0 || s.now()-last < 3*time.Second {
			t.Errorf("it hangs since %v, is fed at %v, and it is %v", began, last, s.now())
		}
		s.await(t, "STATUS=not well: "+say, began, time.Second)
	}

	t.Run("a file system that does not answer", func(t *testing.T) {
		t.Parallel()
		fake := stsfake.New()
		s := underSystemd(t, binary, fake, 2*time.Second)
		s.await(t, "WATCHDOG=1", s.await(t, "READY=1", 0, 30*time.Second).at, 10*time.Second)
		deadMount(t, filepath.Join(s.home, "token"))
		hangs(t, s, "ci", "profile ci")
	})

	t.Run("a log that nobody reads", func(t *testing.T) {
		t.Parallel()
		fake := stsfake.New()
		s := underSystemd(t, binary, fake, 2*time.Second)
		s.await(t, "WATCHDOG=1", s.await(t, "READY=1", 0, 30*time.Second).at, 10*time.Second)
		close(s.deaf)
		other, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", s.pipe.Fd()), os.O_WRONLY|syscall.O_NONBLOCK, 0)
		noError(t, err)
		defer other.Close()
		noError(t, other.SetWriteDeadline(time.Now().Add(time.Second)))
		for {
			if _, err := other.Write([]byte{'x'}); errors.Is(err, os.ErrDeadlineExceeded) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		hangs(t, s, "p0", "")
	})
}

// deadMount puts a file system over the folder whose server never answers, as one of a
// network may. It ends with the test.
func deadMount(t *testing.T, folder string) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("not run: /dev/fuse: %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) }) // whoever waits for it is told that it is gone
	if err := unix.Mount("stsbroker-test", folder, "fuse", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40700,user_id=%d,group_id=%d", fd, os.Getuid(), os.Getgid())); err != nil {
		t.Skipf("not run: a file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(folder, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}
