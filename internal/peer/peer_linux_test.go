package peer

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stsbroker/stsbroker/internal/ownnet"
)

// pair returns both ends of a TCP connection to address.
func pair(t testing.TB, network, address string) (server, client *net.TCPConn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Skipf("not run: %v", err)
	}
	defer l.Close()
	c, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(); _ = c.Close() })
	return s.(*net.TCPConn), c.(*net.TCPConn)
}

func of(c *net.TCPConn) (Cred, error) {
	return OfTCP(c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort())
}

func wantUID(t *testing.T, server *net.TCPConn, uid int) {
	t.Helper()
	if got, err := of(server); err != nil || got != (Cred{UID: uint32(uid)}) {
		t.Errorf("%v: %+v, %v; want uid %d", server.RemoteAddr(), got, err, uid)
	}
}

func wantUnknown(t *testing.T, server *net.TCPConn) {
	t.Helper()
	if got, err := of(server); !errors.Is(err, ErrUnknown) || got != (Cred{}) {
		t.Errorf("%v: %+v, %v; want unknown", server.RemoteAddr(), got, err)
	}
}

func TestOwnUID(t *testing.T) {
	for _, l := range [][2]string{{"tcp4", "127.0.0.1:0"}, {"tcp6", "[::1]:0"}} {
		t.Run(l[0], func(t *testing.T) {
			server, client := pair(t, l[0], l[1])
			wantUID(t, server, os.Geteuid())
			wantUID(t, client, os.Geteuid()) // the other way round too
		})
	}
}

// An IPv6 socket that speaks IPv4 is reported with mapped addresses.
func TestMapped(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Skipf("not run: %v", err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrInet6{Port: l.Addr().(*net.TCPAddr).Port, Addr: netip.MustParseAddr("::ffff:127.0.0.1").As16()}
	if err := unix.Connect(fd, to); err != nil {
		t.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	wantUID(t, server.(*net.TCPConn), os.Geteuid())
}

// Connecting to an address of one's own host is a connection from it to itself,
// whatever address it is. From another one of the same host it is not.
func TestAddressToItself(t *testing.T) {
	if !ownnet.Inside(t) {
		return
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("not run: no ip command here")
	}
	ip := func(command string) {
		t.Helper()
		if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", command, err, out)
		}
	}
	ip("addr add 169.254.170.2/32 dev lo")
	ip("addr add 192.0.2.1/32 dev lo")
	own := [][2]string{{"tcp4", "169.254.170.2:80"}, {"tcp4", "192.0.2.1:80"}}
	if ownnet.IPv6() {
		ip("addr add fd00:ec2::23/128 dev lo nodad")
		own = append(own, [2]string{"tcp6", "[fd00:ec2::23]:80"})
	}
	for _, l := range own {
		server, client := pair(t, l[0], l[1])
		wantUID(t, server, os.Geteuid())
		wantUID(t, client, os.Geteuid())
		if ownnet.OfRoot() {
			asUser(t, 12345, func() {
				server, _ := pair(t, l[0], l[1])
				wantUID(t, server, 12345)
			})
		}
		_ = client.Close()
		wantUnknown(t, server)
	}

	l, err := net.Listen("tcp4", "169.254.170.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}}
	client, err := d.Dial("tcp4", "169.254.170.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	wantUnknown(t, server.(*net.TCPConn))
}

// asUser runs f on a thread whose sockets are another user's.
func asUser(t *testing.T, uid int, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with its changed uid
		if err := unix.Setfsuid(uid); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

// A socket belongs to the user of the thread that made it.
func TestOtherUID(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can make another user's socket")
	}
	for uid, known := range map[int]bool{12345: true, overflowUID: false} {
		asUser(t, uid, func() {
			server, _ := pair(t, "tcp4", "127.0.0.1:0")
			if known {
				wantUID(t, server, uid)
			} else {
				wantUnknown(t, server)
			}
		})
	}
}

func TestGoneIsUnknown(t *testing.T) {
	t.Run("closed", func(t *testing.T) {
		server, client := pair(t, "tcp4", "127.0.0.1:0")
		_ = client.Close()
		wantUnknown(t, server)
	})
	t.Run("reset", func(t *testing.T) {
		server, client := pair(t, "tcp4", "127.0.0.1:0")
		_ = client.SetLinger(0)
		_ = client.Close()
		wantUnknown(t, server)
	})
	t.Run("half closed is still there", func(t *testing.T) {
		server, client := pair(t, "tcp4", "127.0.0.1:0")
		_ = client.CloseWrite()
		wantUID(t, server, os.Geteuid())
	})
}

// Where no connection is, an exact lookup falls back to a listener on the
// source port. That listener is nobody's peer.
func TestListenerIsNoPeer(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	if got, err := OfTCP(netip.MustParseAddrPort("127.0.0.1:1"), at); !errors.Is(err, ErrUnknown) {
		t.Fatalf("a listener passed for a peer: %+v, %v", got, err)
	}
}

// fake returns an answer as the kernel gives it for an established socket of uid 7.
func fake(local, remote netip.AddrPort) []byte {
	b := make([]byte, sizeAnswer)
	ne := binary.NativeEndian
	ne.PutUint32(b, sizeAnswer)
	ne.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	ne.PutUint32(b[8:], sequence)
	b[sizeHeader], b[sizeHeader+1] = family(remote.Addr()), stateEstablished
	id := b[offAnswer:]
	binary.BigEndian.PutUint16(id[idSport:], remote.Port())
	binary.BigEndian.PutUint16(id[idDport:], local.Port())
	copy(id[idSrc:], remote.Addr().AsSlice())
	copy(id[idDst:], local.Addr().AsSlice())
	ne.PutUint32(b[offUID:], 7)
	ne.PutUint32(b[offInode:], 4711)
	return b
}

func TestAnswer(t *testing.T) {
	local, remote := netip.MustParseAddrPort("127.0.0.1:9170"), netip.MustParseAddrPort("127.0.0.1:40000")
	if got, err := answer(fake(local, remote), local, remote); err != nil || got.UID != 7 {
		t.Fatalf("a good answer: %+v, %v", got, err)
	}
	for name, spoil := range map[string]func(b []byte) []byte{
		"empty":         func(b []byte) []byte { return nil },
		"cut":           func(b []byte) []byte { return b[:sizeAnswer-1] },
		"cut honestly":  func(b []byte) []byte { binary.NativeEndian.PutUint32(b, 40); return b[:40] },
		"sequence":      func(b []byte) []byte { b[8]++; return b },
		"type":          func(b []byte) []byte { b[4]++; return b },
		"family":        func(b []byte) []byte { b[sizeHeader] = unix.AF_UNIX; return b },
		"SYN_SENT":      func(b []byte) []byte { b[sizeHeader+1] = 2; return b },
		"TIME_WAIT":     func(b []byte) []byte { b[sizeHeader+1] = 6; return b },
		"LISTEN":        func(b []byte) []byte { b[sizeHeader+1] = 10; return b },
		"source port":   func(b []byte) []byte { b[offAnswer+idSport]++; return b },
		"our port":      func(b []byte) []byte { b[offAnswer+idDport]++; return b },
		"source":        func(b []byte) []byte { b[offAnswer+idSrc+3]++; return b },
		"our address":   func(b []byte) []byte { b[offAnswer+idDst+3]++; return b },
		"inode 0":       func(b []byte) []byte { copy(b[offInode:], []byte{0, 0, 0, 0}); return b },
		"overflow uid":  func(b []byte) []byte { binary.NativeEndian.PutUint32(b[offUID:], 65534); return b },
		"uid 0 inode 0": func(b []byte) []byte { clear(b[offUID : offInode+4]); return b },
	} {
		if got, err := answer(spoil(fake(local, remote)), local, remote); !errors.Is(err, ErrUnknown) || got != (Cred{}) {
			t.Errorf("%s: %+v, %v; want unknown", name, got, err)
		}
	}
	refused := make([]byte, sizeHeader+4+sizeHeader)
	ne := binary.NativeEndian
	ne.PutUint32(refused, uint32(len(refused)))
	ne.PutUint16(refused[4:], unix.NLMSG_ERROR)
	ne.PutUint32(refused[8:], sequence)
	ne.PutUint32(refused[sizeHeader:], ^uint32(unix.ENOENT)+1) // -ENOENT
	if _, err := answer(refused, local, remote); !errors.Is(err, syscall.ENOENT) || !errors.Is(err, ErrUnknown) {
		t.Errorf("ENOENT became %v", err)
	}
}

func FuzzAnswer(f *testing.F) {
	local, remote := netip.MustParseAddrPort("[::1]:9170"), netip.MustParseAddrPort("[::1]:40000")
	f.Add(fake(local, remote))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := answer(b, local, remote); err != nil && !errors.Is(err, ErrUnknown) {
			t.Fatal(err)
		}
	})
}

func BenchmarkOfTCP(b *testing.B) {
	server, _ := pair(b, "tcp4", "127.0.0.1:0")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := of(server); err != nil {
			b.Fatal(err)
		}
	}
}
