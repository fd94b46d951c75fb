package listen

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stsbroker/stsbroker/internal/ownnet"
)

// usable are the addresses of families that there are.
func usable(addresses ...string) []string {
	six := ownnet.IPv6()
	return slices.DeleteFunc(addresses, func(a string) bool { return !six && strings.Count(a, ":") > 1 })
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

// ip runs a command such as "ip addr add ...", in the network of the thread.
func ip(t *testing.T, command string) {
	t.Helper()
	f := strings.Fields(command)
	if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", command, err, out)
	}
}

func needIP(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("not run: no ip command here")
	}
}

// sysctl sets a value in the network of the thread.
func sysctl(t *testing.T, name, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0); err != nil {
		t.Error(err)
	}
}

// onThread runs f on a thread that is thrown away afterwards, with what f did to it.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		f()
	}()
	<-done
}

// neighbour is another host: a thread with a network of its own.
type neighbour struct {
	id string // of the thread, for "ip link add ... netns"
	do chan func()
}

func newNeighbour(t *testing.T) *neighbour {
	t.Helper()
	n := &neighbour{do: make(chan func())}
	ready := make(chan error)
	go onThread(func() {
		n.id = strconv.Itoa(unix.Gettid())
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range n.do {
			f()
		}
	})
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(n.do) })
	return n
}

// run runs f over there. It must not end its goroutine, as t.Fatal does.
func (n *neighbour) run(f func()) {
	done := make(chan struct{})
	n.do <- func() { defer close(done); f() }
	<-done
}

func TestWithoutIPv6(t *testing.T) {
	if !ownnet.Inside(t) {
		return
	}
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("1"), 0); err != nil {
		t.Logf("no IPv6 to switch off: %v", err)
	}
	l, skipped, err := Opener{Doors: 1}.TCP(t.Context(), "127.0.0.1:9170", "[::1]:9170")
	if err != nil || len(l) != 1 || len(skipped) != 1 {
		t.Fatalf("%v, %q, %v", l, skipped, err)
	}
	_ = l[0].Close()
	if !strings.Contains(skipped[0], "[::1]:9170") || !strings.Contains(skipped[0], "IPv6") {
		t.Errorf("said %q", skipped[0])
	}
	if _, _, err := (Opener{Doors: 1}).TCP(t.Context(), "[::1]:9170"); err == nil {
		t.Error("listening on nothing is no error")
	}
	if l, skipped, err := (Opener{Doors: 1}).TCP(t.Context(), "127.0.0.1:9170", "[fd00:ec2::23]:9170"); err == nil || l != nil || skipped != nil {
		t.Errorf("a link-local address was left out: %v, %q, %v", l, skipped, err)
	}
}

// Security row 7: should a packet from elsewhere come to a loopback listener,
// as with route_localnet=1, its connection ends without a word.
func TestOtherAddressesAreRefused(t *testing.T) {
	if !ownnet.Inside(t) {
		return
	}
	for name, address := range map[string]string{"lo:1": "10.99.0.1", "lo:2": "169.254.170.2", "lo:3": "169.254.170.23"} {
		if err := setLo(name, func(r *unix.Ifreq) (uint, error) {
			return unix.SIOCSIFADDR, r.SetInet4Addr(net.ParseIP(address).To4())
		}); err != nil {
			t.Fatal(err)
		}
	}
	inner, err := net.Listen("tcp4", "0.0.0.0:0") // what bind never does
	if err != nil {
		t.Fatal(err)
	}
	echo(t, []net.Listener{newListener(inner, newShared(1))})
	_, port, _ := net.SplitHostPort(inner.Addr().String())
	served := map[[2]string]bool{
		{"127.0.0.1", "127.0.0.1"}: true, {"169.254.170.2", "169.254.170.2"}: true, {"169.254.170.23", "169.254.170.23"}: true,
	}
	addresses := []string{"127.0.0.1", "10.99.0.1", "169.254.170.2", "169.254.170.23"}
	for _, from := range addresses {
		for _, to := range addresses {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
			c, err := d.Dial("tcp4", net.JoinHostPort(to, port))
			if err != nil {
				t.Errorf("%s to %s: %v", from, to, err)
				continue
			}
			_ = c.(*net.TCPConn).CloseWrite()
			got, _ := io.ReadAll(c)
			_ = c.Close()
			if (string(got) == "hello") != served[[2]string{from, to}] {
				t.Errorf("%s to %s: %q", from, to, got)
			}
		}
	}
}

func linkLocals() []string {
	return []string{"169.254.170.2", "169.254.170.23", "169.254.169.254", "fd00:ec2::23", "fd00:ec2::254"}
}

// hops returns the TTL or hop limit of what a connection sends.
func hops(t *testing.T, c net.Conn) (hops int) {
	t.Helper()
	level, option := unix.IPPROTO_IP, unix.IP_TTL
	if addrPort(c.LocalAddr()).Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	}
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got error
	if err := raw.Control(func(fd uintptr) { hops, got = unix.GetsockoptInt(int(fd), level, option) }); err != nil || got != nil {
		t.Fatal(err, got)
	}
	return hops
}

// A link-local address that is missing is an error with the command that adds it;
// once it is there, processes of this host are served, with the kernel's word who they are.
func TestLinkLocalAddresses(t *testing.T) {
	if !ownnet.Inside(t) {
		return
	}
	needIP(t)
	loopback, _, err := Opener{Doors: 1}.TCP(t.Context(), usable("127.0.0.1:9170", "[::1]:9170")...)
	if err != nil || len(loopback) == 0 {
		t.Fatal(loopback, err)
	}
	for _, l := range loopback {
		dial(t, l.Addr())
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := hops(t, server); got < 2 {
			t.Errorf("%v sends with TTL %d", l.Addr(), got)
		}
	}
	for _, s := range usable(linkLocals()...) {
		addr := netip.MustParseAddr(s)
		at := netip.AddrPortFrom(addr, 80)
		first, _, err := Opener{Doors: 1}.TCP(t.Context(), "127.0.0.1:80", at.String())
		if err == nil || first != nil {
			t.Fatalf("%v: %v, %v", at, first, err)
		}
		_, command, ok := strings.Cut(err.Error(), s+" is no address of this host; add it as root: ")
		if !ok {
			t.Fatalf("%v: said %q", at, err)
		}
		ip(t, command)
		l, skipped, err := Opener{Doors: 1}.TCP(t.Context(), at.String(), "127.0.0.1:80")
		if err != nil || len(l) != 2 || len(skipped) != 0 {
			t.Fatalf("%v, after %s: %v, %q, %v", at, command, l, skipped, err)
		}
		if _, _, err := (Opener{Doors: 1}).TCP(t.Context(), at.String()); err == nil || !strings.Contains(err.Error(), "port 80 is taken") {
			t.Errorf("%v, twice: %v", at, err)
		}

		known := func(uid int) {
			client, err := net.Dial("tcp", at.String())
			if err != nil {
				t.Error(err)
				return
			}
			defer client.Close()
			server, err := l[0].Accept()
			if err != nil {
				t.Error(err)
				return
			}
			defer server.Close()
			c := FromContext(ConnContext(context.Background(), server))
			peer, err := c.Peer()
			got, ok := peer.UID()
			if err != nil || !ok || int(got) != uid || c.Host != hostOf(addr) || c.LocalPort != "80" || c.Local != at || c.Remote.String() != client.LocalAddr().String() {
				t.Errorf("%v: uid %d, %v, %v, %+v", at, got, ok, err, c)
			}
			if got := hops(t, server); got != 1 {
				t.Errorf("%v sends with TTL %d", at, got)
			}
		}
		known(os.Geteuid())
		if ownnet.OfRoot() {
			onThread(func() {
				if err := unix.Setfsuid(12345); err != nil {
					t.Error(err)
					return
				}
				known(12345)
			})
		}

		// From another address of this host: closed, and the next in the queue is served.
		from := "127.0.0.1"
		if addr.Is6() {
			from = "::1"
		}
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		other, err := d.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		known(os.Geteuid())
		if got, err := io.ReadAll(other); len(got) != 0 || err != nil {
			t.Errorf("%s to %v: %q, %v", from, at, got, err)
		}
		_ = other.Close()
		_, _ = l[0].Close(), l[1].Close()
	}
}

// Security row 7 with link-local listeners: a neighbour reaches the address as it
// would any other of this host, and is not answered; who is one hop further does not
// even see a handshake, and who borrows the address does not finish one.
func TestNeighboursAreRefused(t *testing.T) {
	if !ownnet.Inside(t) {
		return
	}
	needIP(t)
	near, far := newNeighbour(t), newNeighbour(t)
	if out, err := exec.Command("ip", "link", "add", "a0", "type", "veth", "peer", "name", "n0", "netns", near.id).CombinedOutput(); err != nil {
		t.Skipf("not run: no veth here: %s", out)
	}
	up := func(dev string, addresses ...string) {
		ip(t, "ip link set lo up")
		for _, a := range usable(addresses...) {
			nodad := ""
			if strings.Contains(a, ":") {
				nodad = " nodad"
			}
			ip(t, "ip addr add "+a+" dev "+dev+nodad)
		}
		ip(t, "ip link set "+dev+" up")
	}
	for _, dev := range []string{"all", "a0"} { // as lenient as a host can be
		sysctl(t, "ipv4/conf/"+dev+"/rp_filter", "0")
		sysctl(t, "ipv4/conf/"+dev+"/accept_local", "1")
	}
	near.run(func() {
		ip(t, "ip link add n1 type veth peer name f0 netns "+far.id)
		up("n0", "10.99.0.2/24", "fd99::2/64")
		up("n1", "10.98.0.1/24", "fd98::1/64")
		sysctl(t, "ipv4/ip_forward", "1")
		ip(t, "ip route add 169.254.0.0/16 via 10.99.0.1")
		if ownnet.IPv6() {
			sysctl(t, "ipv6/conf/all/forwarding", "1")
			ip(t, "ip route add fd00:ec2::/32 via fd99::1")
		}
	})
	far.run(func() {
		up("f0", "10.98.0.2/24", "fd98::2/64")
		ip(t, "ip route add default via 10.98.0.1")
		if ownnet.IPv6() {
			ip(t, "ip route add default via fd98::1")
		}
	})
	up("a0", "10.99.0.1/24", "fd99::1/64")
	ip(t, "ip route add 10.98.0.0/24 via 10.99.0.2")
	if ownnet.IPv6() {
		ip(t, "ip route add fd98::/64 via fd99::2")
	}
	if t.Failed() {
		return
	}

	// hear connects and returns what it is told.
	hear := func(patience time.Duration, addr, port string, d net.Dialer) (string, error) {
		d.Timeout = patience
		c, err := d.Dial("tcp", net.JoinHostPort(addr, port))
		if err != nil {
			return "", err
		}
		defer c.Close()
		_ = c.SetReadDeadline(time.Now().Add(patience))
		got, err := io.ReadAll(io.LimitReader(c, 5))
		if errors.Is(err, syscall.ECONNRESET) {
			err = nil
		}
		return string(got), err
	}
	const long, short = 10 * time.Second, 250 * time.Millisecond // for what comes, and for what does not
	for _, dev := range []string{"lo", "a0"} {
		for _, s := range usable(linkLocals()...) {
			t.Run(dev+" "+s, func(t *testing.T) {
				alone, nodad := s+"/32", ""
				if strings.Contains(s, ":") {
					alone, nodad = s+"/128", " nodad"
				}
				ip(t, "ip addr add "+alone+" dev "+dev+nodad)
				defer ip(t, "ip addr del "+alone+" dev "+dev)
				l, _, err := Opener{Doors: 1}.TCP(t.Context(), net.JoinHostPort(s, "80"))
				if err != nil {
					t.Fatal(err)
				}
				plain, err := net.Listen("tcp", net.JoinHostPort(s, "81")) // shows that the way is open
				if err != nil {
					t.Fatal(err)
				}
				echo(t, []net.Listener{l[0], plain})

				near.run(func() {
					if got, err := hear(long, s, "81", net.Dialer{}); got != "hello" {
						t.Errorf("a neighbour at a plain listener: %q, %v", got, err)
					}
					if got, err := hear(long, s, "80", net.Dialer{}); got != "" || err != nil {
						t.Errorf("a neighbour: %q, %v", got, err)
					}
				})
				far.run(func() {
					if got, err := hear(long, s, "81", net.Dialer{}); got != "hello" {
						t.Errorf("one hop further at a plain listener: %q, %v", got, err)
					}
					var late net.Error
					if got, err := hear(short, s, "80", net.Dialer{}); got != "" || !errors.As(err, &late) || !late.Timeout() {
						t.Errorf("one hop further: %q, %v", got, err)
					}
				})
				arrived := received(t, "a0")
				near.run(func() {
					borrow := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(s)}, Control: transparent}
					var late net.Error
					if got, err := hear(short, s, "80", borrow); got != "" || !errors.As(err, &late) || !late.Timeout() {
						t.Errorf("under the address itself: %q, %v", got, err)
					}
				})
				if received(t, "a0") == arrived {
					t.Error("under the address itself: nothing was sent")
				}
				if got, err := hear(long, s, "80", net.Dialer{}); got != "hello" {
					t.Errorf("this host: %q, %v", got, err)
				}
			})
		}
	}
}

// transparent lets a socket send under an address that is not its host's.
func transparent(network, _ string, c syscall.RawConn) (err error) {
	level, option := unix.SOL_IP, unix.IP_TRANSPARENT
	if network == "tcp6" {
		level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	if closed := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }); closed != nil {
		return closed
	}
	return err
}

// received is how many packets the interface took in.
func received(t *testing.T, dev string) string {
	t.Helper()
	all, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(all)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == dev+":" {
			return f[2]
		}
	}
	t.Fatalf("no %s in %s", dev, all)
	return ""
}

// An address of which it is not known yet whether a neighbour has it too is waited
// for, and is no missing one.
func TestTentativeAddress(t *testing.T) {
	if !ownnet.Inside(t) {
		return
	}
	needIP(t)
	if !ownnet.IPv6() {
		t.Skip("not run: no IPv6 here")
	}
	other := newNeighbour(t)
	if out, err := exec.Command("ip", "link", "add", "a0", "type", "veth", "peer", "name", "n0", "netns", other.id).CombinedOutput(); err != nil {
		t.Skipf("not run: no veth here: %s", out)
	}
	ip(t, "ip link set a0 up") // the other end is down, so that nobody can be asked
	ip(t, "ip addr add fd00:ec2::23/128 dev a0")
	ctx, cancel := context.WithTimeout(t.Context(), 10*settleGrain)
	defer cancel()
	l, _, err := Opener{Doors: 1}.TCP(ctx, "[fd00:ec2::23]:80")
	if err == nil || l != nil || ctx.Err() == nil {
		t.Fatal(l, err)
	}
	_, command, ok := strings.Cut(err.Error(), "fd00:ec2::23 cannot be used yet")
	_, command, ok2 := strings.Cut(command, "add it there, as root: ")
	if !ok || !ok2 {
		t.Fatalf("said %q", err)
	}

	other.run(func() { ip(t, "ip link set n0 up") }) // from here on the system asks, and nobody objects
	l, _, err = Opener{Doors: 1}.TCP(t.Context(), "[fd00:ec2::23]:80")
	if err != nil || len(l) != 1 {
		t.Fatal(l, err)
	}
	_ = l[0].Close()
	ip(t, "ip addr del fd00:ec2::23/128 dev a0")
	ip(t, command) // even here it takes a moment
	l, _, err = Opener{Doors: 1}.TCP(t.Context(), "[fd00:ec2::23]:80")
	if err != nil || len(l) != 1 {
		t.Fatal(l, err)
	}
}

func TestPortWithoutPrivilege(t *testing.T) {
	if !ownnet.Inside(t) {
		return
	}
	needIP(t)
	refused := func(at string, want ...string) {
		t.Helper()
		l, _, err := Opener{Doors: 1}.TCP(t.Context(), at)
		if err == nil || l != nil {
			t.Errorf("%s: %v, %v", at, l, err)
			return
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: said %q, which lacks %q", at, err, w)
			}
		}
	}
	addresses := usable("127.0.0.1:80", "169.254.170.2:80", "[::1]:80", "[fd00:ec2::23]:80")
	onThread(func() {
		ordinary(t)
		// What is missing first: IPv6 looks at the privilege before the address.
		for _, s := range addresses {
			if at := netip.MustParseAddrPort(s); LinkLocal(at.Addr()) {
				refused(s, "as root: "+AddAddress("linux", at.Addr()))
			}
		}
	})
	for _, s := range addresses {
		if at := netip.MustParseAddrPort(s); LinkLocal(at.Addr()) {
			ip(t, AddAddress("linux", at.Addr()))
		}
	}
	onThread(func() {
		ordinary(t)
		for _, s := range addresses {
			refused(s, "port 80 needs a privilege", "CAP_NET_BIND_SERVICE", "sysctl net.ipv4.ip_unprivileged_port_start=80")
		}
	})
	sysctl(t, "ipv4/ip_unprivileged_port_start", "80") // as the error says
	onThread(func() {
		ordinary(t)
		if l, _, err := (Opener{Doors: 1}).TCP(t.Context(), addresses...); err != nil || len(l) != len(addresses) {
			t.Errorf("%v, %v", l, err)
		}
	})
}

// ordinary takes all privileges from the thread.
func ordinary(t *testing.T) {
	var none [2]unix.CapUserData
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
		t.Error(err)
	}
}

// The socket appears with its mode and listening: it is moved to its path, not made there.
func TestUnixAppearsWhole(t *testing.T) {
	folder := shortDir(t)
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Skipf("not run: %v", err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, folder, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ATTRIB|unix.IN_DELETE); err != nil {
		t.Fatal(err)
	}
	l, err := Opener{Doors: 1}.Unix(filepath.Join(folder, "s"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	buf := make([]byte, 64<<10)
	n, err := unix.Read(watch, buf)
	if err != nil {
		t.Fatal(err)
	}
	var seen []uint32
	for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		mask, length := binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[12:])
		if name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:][:length]), "\x00"); name == "s" {
			seen = append(seen, mask)
		}
		b = b[unix.SizeofInotifyEvent+int(length):]
	}
	if len(seen) != 1 || seen[0] != unix.IN_MOVED_TO {
		t.Errorf("at its path were %#x, want one move", seen)
	}
}

// Security, exhaustion: another user, who may connect as well as anybody, takes no
// more than half of the connections, and the user whom the doors are for is served.
func TestStrangersLeaveRoom(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can make another user's socket")
	}
	const most = 16
	l, _, err := Opener{}.tcp(t.Context(), most, []string{"127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	echo(t, l)
	var flood []net.Conn
	onThread(func() {
		if err := unix.Setfsuid(12345); err != nil {
			t.Error(err)
			return
		}
		for range 10 * most {
			c, err := net.Dial("tcp", l[0].Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { _ = c.Close() })
			flood = append(flood, c)
		}
	})
	for range most / 4 {
		greeted(t, dial(t, l[0].Addr()))
	}
	held := 0
	for _, c := range flood {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if got, err := io.ReadAll(io.LimitReader(c, 5)); err == nil && string(got) == "hello" { // the others were closed without a word
			held++
		} else if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("neither served nor closed")
		}
	}
	if held == 0 || held > most/2+1 {
		t.Errorf("another user holds %d of %d connections", held, most)
	}
}

// as runs f on a thread whose sockets, TCP and Unix, are another user's.
func as(t *testing.T, uid uintptr, f func()) {
	onThread(func() {
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 { // of this thread alone
			t.Error(e)
			return
		}
		f()
	})
}

const eve, alice = 12345, 12346

// forAll runs f with a listener of each kind that is open to all users, and holds at most conns connections.
func forAll(t *testing.T, conns int, f func(t *testing.T, l net.Listener, all *shared)) {
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can make another user's socket")
	}
	t.Run("TCP", func(t *testing.T) {
		l, _, err := Opener{}.tcp(t.Context(), conns, []string{"127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		defer l[0].Close()
		f(t, l[0], l[0].(*listener).shared)
	})
	t.Run("Unix", func(t *testing.T) {
		folder := shortDir(t)
		if err := os.Chmod(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		l, err := onPath(conns, filepath.Join(folder, "s"), 0o666)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f(t, l, l.shared)
	})
}

// dials makes n connections of a user.
func dials(t *testing.T, uid uintptr, l net.Listener, n int, first string) (all []net.Conn) {
	t.Helper()
	as(t, uid, func() {
		for range n {
			c, err := net.Dial(l.Addr().Network(), l.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { _ = c.Close() })
			if first != "" { // an empty write fails too where the server has closed already
				if _, err := io.WriteString(c, first); err != nil {
					t.Error(err)
				}
			}
			all = append(all, c)
		}
	})
	return all
}

// served is how many of them were greeted; the others were closed without a word.
func served(t *testing.T, all []net.Conn) (n int) {
	t.Helper()
	for _, c := range all {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		got, err := io.ReadAll(io.LimitReader(c, 5))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("neither served nor closed")
		} else if err == nil && string(got) == "hello" {
			n++
		}
		_ = c.SetReadDeadline(time.Time{})
	}
	return n
}

// Security, exhaustion: where a service is for several users, one who takes all connections that she can
// leaves an equal part to each other one, and many such together some to the user of the service.
func TestHogLeavesRoom(t *testing.T) {
	const most, each = 16, 16 / 8
	forAll(t, most, func(t *testing.T, l net.Listener, _ *shared) {
		echo(t, []net.Listener{l})
		if n := served(t, dials(t, eve, l, 10*most, "")); n == 0 || n > most/2 {
			t.Errorf("Eve holds %d of %d connections", n, most)
		}
		hers := dials(t, alice, l, 10*most, "")
		if n := served(t, hers); n != each {
			t.Errorf("Alice has %d, want %d", n, each)
		}
		greeted(t, dial(t, l.Addr()))
		for _, c := range hers {
			_ = c.Close()
		}
		began := time.Now()
		for range most { // she is answered again and again
			for done := false; !done && !t.Failed(); { // the server may still hold what she has closed
				if time.Since(began) > 10*time.Second {
					t.Fatal("Alice is not answered")
				}
				c := dials(t, alice, l, 1, "")
				done = served(t, c) == 1
				_ = c[0].Close()
			}
			if n := served(t, dials(t, eve, l, 1, "")); n != 0 {
				t.Fatal("Eve has got one more")
			}
		}
		for uid := range uintptr(10) {
			served(t, dials(t, alice+1+uid, l, each, ""))
		}
		if n := served(t, dials(t, alice+100, l, 1, "")); n != 0 {
			t.Error("others have taken what is kept for the service's own user")
		}
		for range most/4 - 1 {
			greeted(t, dial(t, l.Addr()))
		}
	})
}

// What a hog holds beyond her part ends where it is silent, and nothing of others does.
func TestHogIsTrimmed(t *testing.T) {
	const most, each = 16, 16 / 8
	forAll(t, most, func(t *testing.T, l net.Listener, all *shared) {
		patient := &patientListener{Listener: l}
		echo(t, []net.Listener{patient})
		own := []net.Conn{dial(t, l.Addr()), dial(t, l.Addr())}
		hers := dials(t, alice, l, each, "")
		busy := dials(t, eve, l, each+1, "GET")
		idle := dials(t, eve, l, most/2-len(own)-len(hers)-len(busy), "")
		rest := slices.Concat(own, hers, busy)
		if n := served(t, slices.Concat(rest, idle)); n != most/2 {
			t.Fatalf("%d of %d connections were served", n, most/2)
		}
		for _, c := range idle {
			_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
			if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("an idle one of Eve's: %d, %v", n, err)
			}
		}
		for _, c := range rest {
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("another: %d, %v", n, err)
			}
		}
		// Of what is open is counted what is known, and nothing stays counted.
		_ = l.Close()
		for _, c := range rest {
			_ = c.Close()
		}
		for len(all.slots) > 0 {
			runtime.Gosched()
		}
		all.deadlines.mu.Lock()
		defer all.deadlines.mu.Unlock()
		if len(all.held) != 0 {
			t.Errorf("nothing is open, and counted are %v", all.held)
		}
	})
}

// patientListener waits for requests as net/http does.
type patientListener struct{ net.Listener }

func (l *patientListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		err = c.SetReadDeadline(time.Now().Add(time.Hour))
	}
	return c, err
}

// Those of whom the kernel does not tell count as one user.
func TestUnknownLeaveRoom(t *testing.T) {
	const most, each = 16, 16 / 8
	l, _, err := Opener{}.tcp(t.Context(), most, []string{"127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer l[0].Close()
	accepted := func() (remote string) {
		c, err := l[0].Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c.RemoteAddr().String()
	}
	for range most / 2 {
		dial(t, l[0].Addr())
		accepted()
	}
	for range 2 * each { // the kernel forgets whose a socket was when its process has closed it
		_ = dial(t, l[0].Addr()).Close()
	}
	last := dial(t, l[0].Addr()).LocalAddr().String()
	unknown := 0
	for accepted() != last {
		unknown++
	}
	if unknown != each {
		t.Errorf("%d of nobody's, want %d", unknown, each)
	}
}
