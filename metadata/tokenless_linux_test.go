package metadata

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stsbroker/stsbroker/broker"
)

// Security row 4: without a token nobody else gets anything, and keeps nothing open.
func TestTokenlessOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can make another user's socket")
	}
	r := startTokenless(t, laterGrants(), "dev")
	threeProfiles(r)
	bodies := map[string]bool{}
	for _, uid := range []int{12345, 65534} { // 65534 may be anybody
		as(t, uid, func() {
			for _, path := range []string{"/credentials", "/credentials/dev", "/credentials/third", "/v1/credentials", "/role-arn/" + appRole, "/role-arn/x", "/x"} {
				a := r.once(t, "GET "+path+" HTTP/1.1\n"+host+"\n")
				if a.status != http.StatusForbidden || a.leaks() || strings.Contains(a.body, "12345") {
					t.Errorf("uid %d: %s: %d %s", uid, path, a.status, a.body)
				}
				if !a.closed {
					t.Errorf("uid %d: %s: the connection stays", uid, path)
				}
				bodies[a.body] = true
			}
		})
		e := r.sink.lastRefused(t)
		if who, known := e.Caller.Peer.UID(); e.Caller.Door != broker.DoorPeer || e.Err.Cause == nil || known != (uid == 12345) || known && who != 12345 {
			t.Errorf("uid %d: observed %+v", uid, e)
		}
	}
	if got := r.source.gets.Load(); got != 0 || len(bodies) != 1 {
		t.Errorf("the broker was asked %d times; told were %v", got, bodies)
	}
	as(t, 12345, func() { // a token is as good there as anywhere
		if a := r.once(t, "GET /credentials HTTP/1.1\n"+host+"Authorization: third\n\n"); !a.has("ASIATHIRD") {
			t.Errorf("with a token: %d %s", a.status, a.body)
		}
	})
	if a := r.once(t, "GET /credentials HTTP/1.1\n"+host+"\n"); !a.has("ASIADEV") {
		t.Errorf("who it is for: %d %s", a.status, a.body)
	}
}

// The socket's mode keeps others out; the kernel's word does when it does not.
func TestSocketOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can be another user")
	}
	r := startSocket(t, laterGrants())
	threeProfiles(r)
	elsewise := func(f func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()                                                                               // never unlocked: the thread ends with its changed uid
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 12345, ^uintptr(0)); errno != 0 { // of this thread alone
				t.Error(errno)
				return
			}
			f()
		}()
		<-done
	}
	folder := filepath.Dir(r.addr)
	if err := os.Chmod(folder, 0o711); err != nil {
		t.Fatal(err)
	}
	connect := func() (err error) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Connect(fd, &unix.SockaddrUnix{Name: r.addr})
	}
	elsewise(func() {
		if err := connect(); !errors.Is(err, unix.EACCES) {
			t.Errorf("another user connects: %v", err)
		}
	})
	if err := os.Chmod(r.addr, 0o666); err != nil {
		t.Fatal(err)
	}
	elsewise(func() {
		for _, path := range []string{"/credentials/dev", "/role-arn/" + appRole, "/x"} {
			if a := r.once(t, "GET "+path+" HTTP/1.1\nHost: localhost\n\n"); a.status != http.StatusForbidden || a.leaks() || !a.closed {
				t.Errorf("%s: %d, closed %v: %s", path, a.status, a.closed, a.body)
			}
		}
	})
	e := r.sink.lastRefused(t)
	if uid, known := e.Caller.Peer.UID(); e.Caller.Door != broker.DoorSocket || !known || uid != 12345 || r.source.gets.Load() != 0 {
		t.Errorf("observed: %+v", e)
	}
}
