package sessionbus

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// listening makes a socket as another user would: the credentials of a thread are those
// of the socket that it listens on (unix(7), SO_PEERCRED).
func listening(t *testing.T, path string, uid int) net.Listener {
	t.Helper()
	type made struct {
		l   net.Listener
		err error
	}
	done := make(chan made)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		var m made
		if uid != os.Geteuid() {
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); e != 0 {
				done <- made{nil, e}
				return
			}
		}
		m.l, m.err = net.Listen("unix", path)
		done <- m
	}()
	m := <-done
	if m.err != nil {
		t.Fatal(m.err)
	}
	t.Cleanup(func() { _ = m.l.Close() })
	return m.l
}

// heard is what a client begins with to whoever serves the socket.
func heard(l net.Listener) <-chan string {
	out := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			out <- err.Error()
			return
		}
		defer c.Close()
		b := make([]byte, 100)
		n, _ := io.ReadAtLeast(c, b, len("\x00AUTH")) // it comes in two writes
		out <- string(b[:n])
	}()
	return out
}

// Nothing is said to a bus that somebody else serves.
func TestServedBySomebodyElse(t *testing.T) {
	dir, err := os.MkdirTemp("", "bus") // a short path, for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // as /tmp is
		t.Fatal(err)
	}
	getenv := func(path string) func(string) string {
		return func(name string) string {
			return map[string]string{"DBUS_SESSION_BUS_ADDRESS": "unix:path=" + path}[name]
		}
	}
	path := filepath.Join(dir, "own")
	said := heard(listening(t, path, os.Geteuid()))
	if _, err := Connect(t.Context(), getenv(path)); err == nil {
		t.Error("connected to what is no bus")
	}
	if got := <-said; !strings.HasPrefix(got, "\x00AUTH") {
		t.Errorf("our own was told %q", got)
	}
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can make a socket as another user")
	}
	path = filepath.Join(dir, "other")
	said = heard(listening(t, path, 12345))
	if _, err := Connect(t.Context(), getenv(path)); err == nil || !strings.Contains(err.Error(), "user 12345 serves it, not user 0; check DBUS_SESSION_BUS_ADDRESS") {
		t.Errorf("%v", err)
	}
	if got := <-said; got != "" {
		t.Errorf("it was told %q", got)
	}
}
