//go:build conformance && linux

package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// linkLocal are the addresses that SDKs know without being told.
var linkLocal = []string{ecsAddress, eksAddress, imdsAddress}

const (
	ecsAddress  = "169.254.170.2"
	eksAddress  = "169.254.170.23"
	imdsAddress = "169.254.169.254"
)

// namespace is a network of its own: a loopback device with the link-local
// addresses, and no way out. So a client that looks elsewhere than it is told
// finds nobody, not even on a host that is an EC2 instance.
type namespace struct {
	pid int // of a process that lives in it, and ends with the test
}

// newNamespace makes one. It has no name that could outlive a test that was
// killed. The error says why there can be none.
func newNamespace(t *testing.T) (namespace, error) {
	t.Helper()
	if os.Getuid() != 0 {
		return namespace{}, errors.New("only root can make a network namespace")
	}
	if missing([]string{"ip", "unshare", "nsenter"}) != nil {
		if err := newInstaller(t).apt([]string{"iproute2", "util-linux"}); err != nil {
			return namespace{}, err
		}
	}
	dir := tempDir(t)
	script := "ip link set lo up"
	for _, a := range linkLocal {
		script += " && ip addr add " + a + "/32 dev lo"
	}
	ready, pid := filepath.Join(dir, "ready"), filepath.Join(dir, "pid")
	script += " && echo $$ >" + pid + " && : >" + ready + " && exec sleep infinity"
	if r := run(t.Context(), dir, cleanEnv(dir), "unshare", "--net", "true"); r.err != nil {
		return namespace{}, fmt.Errorf("no network namespace can be made: %s", strings.TrimSpace(r.stderr))
	}
	start(t, dir, cleanEnv(dir), "namespace", "unshare", "--net", "sh", "-c", script).
		await(t, 10*time.Second, func() error { _, err := os.Stat(ready); return err })
	b, err := os.ReadFile(pid)
	if err != nil {
		return namespace{}, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return namespace{}, err
	}
	ns := namespace{n}
	if r := run(t.Context(), dir, cleanEnv(dir), append(ns.prefix(), "ip", "route", "get", "192.0.2.1")...); r.err == nil {
		t.Fatalf("the namespace has a way out: %s", r.stdout)
	}
	return ns, nil
}

// prefix of a command line that runs in the namespace.
func (ns namespace) prefix() []string {
	return []string{"nsenter", "--net", "--target", strconv.Itoa(ns.pid), "--"}
}

// reach lets what runs in the namespace reach a server of the host's loopback at
// the same address.
func (ns namespace) reach(t *testing.T, address string) {
	t.Helper()
	l, err := ns.listen(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return // closed
			}
			go join(near, address)
		}
	}()
}

// join copies in both directions until both are at their ends.
func join(near net.Conn, address string) {
	defer near.Close()
	far, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer far.Close()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		_, _ = io.Copy(near, far) // who reads it sees that it was cut short
		_ = near.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(far, near)
	_ = far.(*net.TCPConn).CloseWrite()
	<-answered
}

// listen opens a listener in the namespace: a socket stays in the network that
// its thread was in when it was made.
func (ns namespace) listen(ctx context.Context, address string) (net.Listener, error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", ns.pid))
	if err != nil {
		return nil, err
	}
	defer there.Close()
	// The thread has to come back: it may have started processes, which end with it.
	runtime.LockOSThread()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		panic(back) // nothing on this thread could be trusted any more
	}
	runtime.UnlockOSThread()
	return l, err
}
