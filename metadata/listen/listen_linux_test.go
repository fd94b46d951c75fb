package listen

import (
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inNetwork runs f on a thread in a network namespace of its own, whose
// loopback interface is up.
func inNetwork(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can make a network namespace")
	}
	var notRun error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		if notRun = unix.Unshare(unix.CLONE_NEWNET); notRun != nil {
			return
		}
		if err := setLo("lo", func(r *unix.Ifreq) (uint, error) {
			r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
			return unix.SIOCSIFFLAGS, nil
		}); err != nil {
			t.Error(err)
			return
		}
		f(t)
	}()
	<-done
	if notRun != nil {
		t.Skipf("not run: %v", notRun)
	}
}

func setLo(name string, set func(*unix.Ifreq) (uint, error)) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	what, err := set(r)
	if err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, what, r)
}

func TestWithoutIPv6(t *testing.T) {
	inNetwork(t, func(t *testing.T) {
		// The file is the namespace's of the thread that opens it.
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("1"), 0); err != nil {
			t.Logf("no IPv6 to switch off: %v", err)
		}
		l, skipped, err := TCP(t.Context(), 1, "127.0.0.1:9170", "[::1]:9170")
		if err != nil || len(l) != 1 || len(skipped) != 1 {
			t.Errorf("%v, %q, %v", l, skipped, err)
			return
		}
		_ = l[0].Close()
		if !strings.Contains(skipped[0], "[::1]:9170") || !strings.Contains(skipped[0], "IPv6") {
			t.Errorf("said %q", skipped[0])
		}
		if _, _, err := TCP(t.Context(), 1, "[::1]:9170"); err == nil {
			t.Error("listening on nothing is no error")
		}
	})
}

// Security row 7: should a packet from elsewhere come to a loopback listener,
// as with route_localnet=1, its connection ends without a word.
func TestOtherAddressesAreRefused(t *testing.T) {
	inNetwork(t, func(t *testing.T) {
		if err := setLo("lo:1", func(r *unix.Ifreq) (uint, error) {
			return unix.SIOCSIFADDR, r.SetInet4Addr(net.IPv4(10, 99, 0, 1).To4())
		}); err != nil {
			t.Error(err)
			return
		}
		inner, err := net.Listen("tcp4", "0.0.0.0:0") // what bind never does
		if err != nil {
			t.Error(err)
			return
		}
		l := &listener{TCPListener: inner.(*net.TCPListener), shared: &shared{slots: make(chan struct{}, 1), deadlines: deadlines{conns: map[*conn]struct{}{}}}, closed: make(chan struct{})}
		echo(t, []net.Listener{l})
		_, port, _ := net.SplitHostPort(inner.Addr().String())
		for local, want := range map[string]string{"127.0.0.1": "hello", "10.99.0.1": ""} {
			for remote, want := range map[string]string{"127.0.0.1": want, "10.99.0.1": ""} {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
				c, err := d.Dial("tcp4", net.JoinHostPort(remote, port))
				if err != nil {
					t.Errorf("%s to %s: %v", local, remote, err)
					continue
				}
				_ = c.(*net.TCPConn).CloseWrite()
				got, _ := io.ReadAll(c)
				_ = c.Close()
				if string(got) != want {
					t.Errorf("%s to %s: %q, want %q", local, remote, got, want)
				}
			}
		}
	})
}
