package listen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestAddressesRefused(t *testing.T) {
	for _, s := range []string{
		"", "9170", ":9170", "localhost:9170", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:70000", "0.0.0.0:9170", "10.0.0.1:9170",
		"127.0.0.2:9170", "127.1:9170", "[::]:9170", "::1:9170", "[::1%lo]:9170", "[::ffff:127.0.0.1]:9170", "[fe80::1]:9170",
		"169.254.170.3:80", "169.254.169.253:80", "[::ffff:169.254.170.2]:80", "[fd00:ec2::23%lo]:80", "[fd00:ec2::2]:80", "[fe80::a9fe:a9fe]:80",
		"169.254.170.2", "[fd00:ec2::23]", "2852039166:80",
	} {
		l, _, err := Opener{Doors: 1}.TCP(t.Context(), "127.0.0.1:0", s)
		if err == nil || len(l) != 0 || !strings.Contains(err.Error(), fmt.Sprintf("%q", s)) {
			t.Errorf("%q: %v, %v", s, l, err)
		}
	}
	if _, _, err := (Opener{Doors: 1}).TCP(t.Context()); err == nil {
		t.Error("nothing to listen on is no error")
	}
}

func TestLinkLocal(t *testing.T) {
	for s, want := range map[string]string{
		"169.254.170.2": "169.254.170.2", "169.254.170.23": "169.254.170.23", "169.254.169.254": "169.254.169.254",
		"fd00:ec2::23": "[fd00:ec2::23]", "fd00:ec2::254": "[fd00:ec2::254]", "fd00:0ec2:0:0::0023": "[fd00:ec2::23]",
		"127.0.0.1": "", "::1": "", "0.0.0.0": "", "::": "", "169.254.170.3": "", "169.254.169.253": "", "169.254.2.170": "", "10.254.170.2": "",
		"::ffff:169.254.170.2": "", "fd00:ec2::23%lo": "", "fd00:ec2::2": "", "fd00:ec2::2354": "", "fd00:ec2:1::23": "", "fd00:c2e::23": "", "fe80::23": "",
	} {
		a := netip.MustParseAddr(s)
		if got := hostOf(a); got != want || LinkLocal(a) != (want != "") {
			t.Errorf("%s: %q, %v; want %q", s, got, LinkLocal(a), want)
		}
	}
	if LinkLocal(netip.Addr{}) {
		t.Error("nothing is an address")
	}
}

func TestAddAddress(t *testing.T) {
	for _, c := range [][3]string{
		{"linux", "169.254.170.2", "ip addr add 169.254.170.2/32 dev lo"},
		{"linux", "fd00:ec2::23", "ip addr add fd00:ec2::23/128 dev lo"},
		{"darwin", "169.254.170.2", "ifconfig lo0 alias 169.254.170.2/32"},
		{"darwin", "fd00:ec2::23", "ifconfig lo0 inet6 fd00:ec2::23/128 alias"},
		{"windows", "169.254.170.2", `netsh interface ipv4 add address "Loopback Pseudo-Interface 1" 169.254.170.2/32`},
		{"windows", "fd00:ec2::23", `netsh interface ipv6 add address "Loopback Pseudo-Interface 1" fd00:ec2::23/128`},
	} {
		if got := AddAddress(c[0], netip.MustParseAddr(c[1])); got != c[2] {
			t.Errorf("%s: %s, want %s", c[0], got, c[2])
		}
	}
}

// A taken port is fatal, names its port and how to find who has it, and leaves
// nothing half open.
func TestPortTaken(t *testing.T) {
	l, _, err := Opener{Doors: 1}.TCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := l[0].Addr().String()
	_ = l[0].Close()
	taken, _, err := Opener{Doors: 1}.TCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken[0].Close()
	_, port, _ := net.SplitHostPort(taken[0].Addr().String())

	l, _, err = Opener{Doors: 1}.TCP(t.Context(), free, taken[0].Addr().String())
	if err == nil || l != nil {
		t.Fatalf("%v, %v", l, err)
	}
	for _, want := range []string{"port " + port, findOwner(runtime.GOOS, taken[0].Addr().(*net.TCPAddr).AddrPort().Port())} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	again, _, err := Opener{Doors: 1}.TCP(t.Context(), free)
	if err != nil {
		t.Fatalf("the first listener was left open: %v", err)
	}
	_ = again[0].Close()
}

func TestFindOwner(t *testing.T) {
	for goos, want := range map[string]string{
		"linux": "ss -ltnp 'sport = :9170'", "darwin": "lsof -nP -iTCP:9170 -sTCP:LISTEN", "windows": "netstat -ano -p tcp | findstr :9170",
	} {
		if got := findOwner(goos, 9170); got != want {
			t.Errorf("%s: %s", goos, got)
		}
	}
}

// echo serves listeners: it greets, then holds each connection until its client leaves.
func echo(t *testing.T, listeners []net.Listener) {
	t.Helper()
	var wg sync.WaitGroup
	for _, l := range listeners {
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
					return
				}
				wg.Go(func() {
					_, _ = io.WriteString(c, "hello")
					_, _ = io.Copy(io.Discard, c)
					_, _ = c.Close(), c.Close() // net/http closes more than once
				})
			}
		})
	}
	t.Cleanup(func() {
		for _, l := range listeners {
			_, _ = l.Close(), l.Close()
		}
		wg.Wait()
	})
}

func dial(t *testing.T, addr net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func greeted(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if got, err := io.ReadAll(io.LimitReader(c, 5)); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
}

// everyKind runs f with listeners of each kind that hold at most conns connections.
func everyKind(t *testing.T, conns int, f func(t *testing.T, l []net.Listener, all *shared)) {
	t.Run("TCP", func(t *testing.T) {
		l, _, err := Opener{}.tcp(t.Context(), conns, []string{"127.0.0.1:0", "127.0.0.1:0"})
		if err != nil {
			t.Fatal(err)
		}
		defer l[0].Close()
		defer l[1].Close()
		f(t, l, l[0].(*listener).shared)
	})
	t.Run("Unix", func(t *testing.T) {
		if runtime.GOOS == "windows" {
			t.Skip("not run: Windows has no such listener")
		}
		l, err := onPath(conns, filepath.Join(shortDir(t), "s"), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f(t, []net.Listener{l}, l.shared)
	})
}

// Callers beyond the cap wait until one leaves; a flood passes.
func TestCap(t *testing.T) {
	const most = 8
	everyKind(t, most, func(t *testing.T, l []net.Listener, all *shared) { testCap(t, most, l, all.slots) })
}

func testCap(t *testing.T, most int, l []net.Listener, slots chan struct{}) {
	echo(t, l)
	var flood []net.Conn
	for i := range 10 * most {
		flood = append(flood, dial(t, l[i%len(l)].Addr()))
	}
	late := dial(t, l[0].Addr())
	for len(slots) < most {
		runtime.Gosched()
	}
	_ = late.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := late.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("beyond the cap: %d, %v", n, err)
	}
	for _, c := range flood {
		_ = c.Close()
	}
	greeted(t, late)
	greeted(t, dial(t, l[len(l)-1].Addr()))
}

// Close ends an Accept that waits for a slot.
func TestCloseWhileFull(t *testing.T) {
	l, _, err := Opener{}.tcp(t.Context(), 1, []string{"127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	dial(t, l[0].Addr())
	held, err := l[0].Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	done := make(chan error)
	go func() { _, err := l[0].Accept(); done <- err }()
	_ = l[0].Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
}

// All doors together leave the spare descriptors, whatever the limit; a small limit
// gives each door less, and never nothing.
func TestDoorsShareTheDescriptors(t *testing.T) {
	for _, tc := range []struct{ files, doors, each int }{
		{manyFiles, 1, maxConns}, {manyFiles, 20, maxConns}, {maxConns + spareFiles, 1, maxConns}, {maxConns + spareFiles, 2, maxConns / 2},
		{1024, 1, 768}, {1024, 3, 256}, {1024, 5, 153}, {512, 2, 128}, {64, 1, 256}, {64, 1000, 1},
	} {
		if got := share(tc.files, tc.doors); got != tc.each {
			t.Errorf("%d doors, %d descriptors: %d for each, want %d", tc.doors, tc.files, got, tc.each)
		}
	}
	one, _, err := Opener{Doors: 1}.TCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer one[0].Close()
	of1000, _, err := Opener{Doors: 1000}.TCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer of1000[0].Close()
	files := mostFiles()
	if files < 1 || files > manyFiles {
		t.Errorf("%d descriptors", files)
	}
	for doors, l := range map[int]net.Listener{1: one[0], 1000: of1000[0]} {
		if got := cap(l.(*listener).shared.slots); got != share(files, doors) {
			t.Errorf("one of %d doors holds %d connections, want %d", doors, got, share(files, doors))
		}
	}
}

func TestCaller(t *testing.T) {
	l, _, err := Opener{Doors: 1}.TCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l[0].Close()
	client := dial(t, l[0].Addr())
	server, err := l[0].Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	c := FromContext(ConnContext(context.Background(), server))
	if c.Local.String() != l[0].Addr().String() || c.Remote.String() != client.LocalAddr().String() || fmt.Sprint(c.Local.Port()) != c.LocalPort || c.Host != "" {
		t.Errorf("%+v", c)
	}
	peer, err := c.Peer()
	uid, known := peer.UID()
	if runtime.GOOS == "linux" {
		if err != nil || !known || int(uid) != os.Geteuid() {
			t.Errorf("uid %d, %v, %v", uid, known, err)
		}
		_ = client.Close()
		if again, err := c.Peer(); err != nil || again != peer {
			t.Errorf("asked again: %v, %v", again, err)
		}
	} else if err == nil || known {
		t.Errorf("uid %d, %v, %v", uid, known, err)
	}
	if FromContext(context.Background()) != nil {
		t.Error("a caller out of nothing")
	}
}

func TestUnknownCallers(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	c := FromContext(ConnContext(context.Background(), a))
	peer, err := c.Peer()
	if uid, known := peer.UID(); err == nil || known || uid != 0 || c.LocalPort != "" {
		t.Errorf("a pipe: %d, %v, %v", uid, known, err)
	}
	if _, err := new(Caller).Peer(); err == nil {
		t.Error("nothing is a known caller")
	}
}

func TestUnixCaller(t *testing.T) {
	if runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		t.Skipf("not run: %s does not tell", runtime.GOOS)
	}
	plain, err := net.Listen("unix", filepath.Join(shortDir(t), "s")) // as the control socket is
	if err != nil {
		t.Fatal(err)
	}
	ours, err := Opener{Doors: 1}.Unix(filepath.Join(shortDir(t), "s"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []net.Listener{plain, ours} {
		testUnixCaller(t, l)
	}
}

// shortDir is a folder with a short name: socket paths hold about 100 bytes.
func shortDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "listen")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func testUnixCaller(t *testing.T, l net.Listener) {
	defer l.Close()
	client, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	c := FromContext(ConnContext(context.Background(), server))
	peer, err := c.Peer()
	uid, _ := peer.UID()
	pid, _ := peer.PID()
	if err != nil || int(uid) != os.Geteuid() || int(pid) != os.Getpid() || c.Remote != (netip.AddrPort{}) || c.LocalPort != "" || c.Host != "" {
		t.Errorf("uid %d, pid %d, %v, %+v", uid, pid, err, c)
	}
}

// Deadlines are late by the grain at most, and moving one takes back that it fired.
func TestDeadlines(t *testing.T) { everyKind(t, 8, testDeadlines) }

func testDeadlines(t *testing.T, l []net.Listener, all *shared) {
	client := dial(t, l[0].Addr())
	server, err := l[0].Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	one := make([]byte, 1)
	timesOut := func(name string, do func([]byte) (int, error)) {
		t.Helper()
		if _, err := do(one); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	works := func() {
		t.Helper()
		if _, err := client.Write(one); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Read(one); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
	for name, set := range map[string]func(){
		"to come":         func() { _ = server.SetReadDeadline(time.Now().Add(time.Millisecond)) },
		"both to come":    func() { _ = server.SetDeadline(time.Now().Add(time.Millisecond)) },
		"past":            func() { _ = server.SetReadDeadline(time.Unix(1, 0)) },
		"during the read": func() { time.AfterFunc(time.Millisecond, func() { _ = server.SetReadDeadline(time.Unix(1, 0)) }) },
	} {
		set()
		timesOut(name, server.Read)
		timesOut(name+", again", server.Read)
		_ = server.SetDeadline(time.Time{})
		works()
		_ = server.SetDeadline(time.Now().Add(time.Hour))
		works()
	}

	// A client that does not read holds a writer no longer than that.
	_ = server.SetWriteDeadline(time.Now().Add(time.Millisecond))
	much := make([]byte, 64<<20)
	timesOut("write", func([]byte) (int, error) { return server.Write(much) })

	// Without connections nothing runs.
	_, _ = server.Close(), client.Close()
	d := &all.deadlines
	d.timer.Stop()
	d.sweep()
	if d.timer.Stop() {
		t.Error("the sweep goes on without connections")
	}
}
