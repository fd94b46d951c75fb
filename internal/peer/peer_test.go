package peer

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestOtherHostsAreUnknown(t *testing.T) {
	for _, c := range [][2]string{
		{"127.0.0.1:9170", "10.0.0.7:40000"},
		{"10.0.0.7:9170", "127.0.0.1:40000"},
		{"127.0.0.1:9170", "[::1]:40000"},
		{"[::1]:9170", "[fe80::1]:40000"},
		{"169.254.170.2:80", "169.254.170.3:40000"},
		{"169.254.170.2:80", "169.254.170.23:40000"},
		{"169.254.170.2:80", "127.0.0.1:40000"},
		{"127.0.0.1:80", "169.254.170.2:40000"},
		{"[fd00:ec2::23]:80", "[fd00:ec2::254]:40000"},
		{"[fd00:ec2::23]:80", "[fd00:ec2::23%lo]:40000"},
		{"0.0.0.0:80", "0.0.0.0:40000"},
		{"[::]:80", "[::]:40000"},
		{"[::ffff:0.0.0.0]:80", "0.0.0.0:40000"},
	} {
		got, err := OfTCP(netip.MustParseAddrPort(c[0]), netip.MustParseAddrPort(c[1]))
		if !errors.Is(err, ErrUnknown) || got != (Cred{}) {
			t.Errorf("OfTCP(%v) = %+v, %v; want unknown", c, got, err)
		}
		if !strings.Contains(err.Error(), "within this host") && !strings.Contains(err.Error(), "two families") {
			t.Errorf("OfTCP(%v): the kernel was asked: %v", c, err)
		}
	}
	// It is asked about an address to itself, and knows no such connection here.
	for _, at := range []string{"192.0.2.1", "169.254.170.2", "2001:db8::1"} {
		a := netip.MustParseAddr(at)
		got, err := OfTCP(netip.AddrPortFrom(a, 80), netip.AddrPortFrom(a, 40000))
		if !errors.Is(err, ErrUnknown) || got != (Cred{}) {
			t.Errorf("OfTCP of %s to itself = %+v, %v; want unknown", at, got, err)
		}
	}
	if got, err := OfTCP(netip.AddrPort{}, netip.AddrPort{}); !errors.Is(err, ErrUnknown) {
		t.Errorf("OfTCP of nothing = %+v, %v; want unknown", got, err)
	}
}

func TestWorks(t *testing.T) {
	err := Works()
	switch {
	case runtime.GOOS == "linux" && err != nil:
		t.Fatal(err)
	case runtime.GOOS != "linux" && !errors.Is(err, ErrUnknown):
		t.Fatalf("Works() = %v; nothing tells TCP peers on %s", err, runtime.GOOS)
	}
}

func TestOfUnix(t *testing.T) {
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skipf("not run: %s does not tell", runtime.GOOS)
	}
	dir, err := os.MkdirTemp("", "peer") // short: socket paths hold about 100 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	_ = client.Close() // the answer is as of connect, so a peer that left is still known
	got, err := OfUnix(server.(*net.UnixConn))
	if want := (Cred{UID: uint32(os.Geteuid()), PID: int32(os.Getpid())}); err != nil || got != want {
		t.Fatalf("OfUnix = %+v, %v; want %+v", got, err, want)
	}
}
