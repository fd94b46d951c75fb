package listen

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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

	"golang.org/x/sys/unix"

	"github.com/stsbroker/stsbroker/internal/ownnet"
)

// fileOf is a descriptor of a socket, as systemd has it: the socket stays when l is closed.
func fileOf(t *testing.T, l any) *os.File {
	t.Helper()
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// systemds is a listening socket of systemd's, and the address it is at.
func systemds(t *testing.T, network, address string) (*os.File, string) {
	t.Helper()
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	defer l.Close()
	return fileOf(t, l), l.Addr().String()
}

// rawSocket is a bound socket of a kind that package net does not make.
func rawSocket(t *testing.T, domain, protocol int, at unix.Sockaddr, listening bool, set func(fd int) error) *os.File {
	t.Helper()
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		t.Skipf("not run: no such socket here: %v", err)
	}
	f := os.NewFile(uintptr(fd), "raw")
	t.Cleanup(func() { _ = f.Close() })
	if set != nil {
		err = set(fd)
	}
	if err == nil {
		err = unix.Bind(fd, at)
	}
	if err == nil && listening {
		err = unix.Listen(fd, 8)
	}
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Skipf("not run: no such address here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	return f
}

// inherit is what Inherit makes of the sockets, without the process.
func inherit(t *testing.T, files ...*os.File) *Inherited {
	t.Helper()
	h := new(Inherited)
	for _, f := range files {
		s, err := judged(t, f)
		if err != nil {
			t.Fatal(err)
		}
		h.sockets = append(h.sockets, s)
	}
	return h
}

func judged(t *testing.T, f *os.File) (*handed, error) {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	s, err := judge(fd, "test.socket")
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	t.Cleanup(func() { _ = s.file.Close() })
	return s, nil
}

func says(t *testing.T, err error, all ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one that says %q", all)
		return
	}
	for _, want := range all {
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("said %q, which lacks %q", err, want)
		}
	}
}

// A socket that we would not have made is refused, with the setting that made it so.
func TestInheritedKindsRefused(t *testing.T) {
	local4 := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	reuse := func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }
	both := func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0) }
	mapped := netip.MustParseAddr("::ffff:127.0.0.1").As16()
	for name, c := range map[string]struct {
		file func(t *testing.T) *os.File
		want []string
	}{
		"all of IPv4": {func(t *testing.T) *os.File { f, _ := systemds(t, "tcp4", "0.0.0.0:0"); return f }, []string{"ListenStream=0.0.0.0:", "only 127.0.0.1"}},
		"all of both": {func(t *testing.T) *os.File { return rawSocket(t, unix.AF_INET6, 0, &unix.SockaddrInet6{}, true, both) }, []string{"ListenStream=[::]:", "only 127.0.0.1"}},
		"mapped": {func(t *testing.T) *os.File {
			return rawSocket(t, unix.AF_INET6, 0, &unix.SockaddrInet6{Addr: mapped}, true, both)
		}, []string{"ListenStream=[::ffff:127.0.0.1]:", "only 127.0.0.1"}},
		"another loopback": {func(t *testing.T) *os.File { f, _ := systemds(t, "tcp4", "127.0.0.2:0"); return f }, []string{"ListenStream=127.0.0.2:", "only 127.0.0.1"}},
		"MPTCP":            {func(t *testing.T) *os.File { return rawSocket(t, unix.AF_INET, unix.IPPROTO_MPTCP, local4, true, nil) }, []string{"ListenStream=127.0.0.1:", "SocketProtocol="}},
		"shared port":      {func(t *testing.T) *os.File { return rawSocket(t, unix.AF_INET, 0, local4, true, reuse) }, []string{"ListenStream=127.0.0.1:", "ReusePort="}},
		"not listening":    {func(t *testing.T) *os.File { return rawSocket(t, unix.AF_INET, 0, local4, false, nil) }, []string{"Accept=no"}},
		"abstract": {func(t *testing.T) *os.File {
			f, _ := systemds(t, "unix", fmt.Sprintf("@listen-test-%d", os.Getpid()))
			return f
		}, []string{"ListenStream=@listen-test-", "to a path"}},
		"UDP": {func(t *testing.T) *os.File {
			c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			return fileOf(t, c)
		}, []string{"test.socket", "ListenStream= alone"}},
		"datagrams": {func(t *testing.T) *os.File {
			c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(shortDir(t), "s"), Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			return fileOf(t, c)
		}, []string{"ListenStream= alone"}},
		"no socket": {func(t *testing.T) *os.File {
			f, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = f.Close() })
			return f
		}, []string{"ListenStream= alone"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := judged(t, c.file(t))
			says(t, err, c.want...)
		})
	}
}

// Sockets are found by their address, and can be taken again once they are closed. Who
// connects in between is served by the next.
func TestInheritedTCP(t *testing.T) {
	four, at := systemds(t, "tcp4", "127.0.0.1:0")
	other, elsewhere := systemds(t, "tcp4", "127.0.0.1:0")
	h := inherit(t, four, other)
	if got := h.Left(); !h.Any() || h.Has(at) || h.Has("") || !slices.Equal(got, []string{at, elsewhere}) {
		t.Errorf("%v, left %q", h.Any(), got)
	}
	o := Opener{Doors: 1, Inherited: h}
	for range 3 {
		client, err := net.Dial("tcp4", at) // nobody listens: it waits
		if err != nil {
			t.Fatal(err)
		}
		l, skipped, err := o.TCP(t.Context(), at, "127.0.0.1:0") // and one of our own beside it
		if err != nil || len(l) != 2 || len(skipped) != 0 || l[0].Addr().String() != at {
			t.Fatal(l, skipped, err)
		}
		if got := h.Left(); !slices.Equal(got, []string{elsewhere}) {
			t.Errorf("left %q", got)
		}
		again, _, err := o.TCP(t.Context(), "127.0.0.1:0", at)
		if says(t, err, at, "taken already"); again != nil {
			t.Errorf("twice at once: %v", again)
		}
		server, err := l[0].Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := optionOf(t, server, unix.SOL_SOCKET, unix.SO_KEEPALIVE); got != 0 {
			t.Error("it is probed for")
		}
		c := FromContext(ConnContext(t.Context(), server))
		p, err := c.Peer()
		if uid, known := p.UID(); err != nil || !known || int(uid) != os.Geteuid() || c.Local.String() != at {
			t.Errorf("uid %d, %v, %+v", uid, err, c)
		}
		_, _ = server.Close(), client.Close()
		_, _, _ = l[0].Close(), l[0].Close(), l[1].Close()
		if got := h.Left(); !slices.Equal(got, []string{at, elsewhere}) {
			t.Errorf("closed: left %q", got)
		}
	}

	// A port that systemd holds with an address that is not asked for is a taken one.
	if _, _, err := (Opener{Doors: 1}).TCP(t.Context(), at); err == nil {
		t.Error("systemd does not hold it")
	}
}

func optionOf(t *testing.T, c net.Conn, level, option int) (v int) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got error
	if err := raw.Control(func(fd uintptr) { v, got = unix.GetsockoptInt(int(fd), level, option) }); err != nil || got != nil {
		t.Fatal(err, got)
	}
	return v
}

// systemd's sockets of [::1] are of both families unless the unit says otherwise; on a
// literal address that makes no difference.
func TestInheritedIPv6Alone(t *testing.T) {
	f := rawSocket(t, unix.AF_INET6, 0, &unix.SockaddrInet6{Addr: loopback6.As16()}, true, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	})
	h := inherit(t, f)
	l, _, err := Opener{Doors: 1, Inherited: h}.TCP(t.Context(), h.Left()...)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, l)
	greeted(t, dial(t, l[0].Addr()))
	if c, err := net.Dial("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(l[0].Addr().(*net.TCPAddr).Port))); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("IPv4: %v, %v", c, err)
	}
}

func TestInheritedUnix(t *testing.T) {
	folder := shortDir(t)
	made := func(name string, mode fs.FileMode) *os.File {
		f, path := systemds(t, "unix", filepath.Join(folder, name))
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return f
	}
	at := func(name string) string { return filepath.Join(folder, name) }
	h := inherit(t, made("own", 0o600), made("all", 0o666), made("group", 0o660), made("gone", 0o600), made("replaced", 0o600))
	o := Opener{Doors: 1, Inherited: h}
	if err := errors.Join(os.Remove(at("gone")), os.Remove(at("replaced")), os.WriteFile(at("replaced"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]string{
		"all":      {"ListenStream=" + at("all"), "0666", "SocketMode=0600"},
		"group":    {"0660", "SocketMode=0600"},
		"gone":     {"ListenStream=" + at("gone"), "RuntimeDirectoryPreserve=yes"},
		"replaced": {"ListenStream=" + at("replaced"), "another file"},
	} {
		l, err := o.Unix(at(name), 0o600)
		if says(t, err, want...); l != nil {
			t.Errorf("%s: %v", name, l)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(at("own"), 12345, 0); err != nil {
			t.Fatal(err)
		}
		_, err := o.Unix(at("own"), 0o600)
		says(t, err, "uid 12345", "SocketUser=")
		if err := os.Chown(at("own"), 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	before := names(t, folder)
	for name, mode := range map[string]fs.FileMode{"own": 0o600, "all": 0o666, "group": 0o666} {
		for range 2 {
			l, err := o.Unix(filepath.Dir(at(name))+"//"+name, mode)
			if err != nil {
				t.Fatal(err)
			}
			again, ok, err := h.TakeUnix(at(name), mode)
			if says(t, err, "taken already"); again != nil || !ok {
				t.Errorf("twice at once: %v, %v", again, ok)
			}
			testUnixCaller(t, l) // it closes l
		}
	}
	if after := names(t, folder); !slices.Equal(before, after) {
		t.Errorf("%q became %q", before, after)
	}
	l, ok, err := h.TakeUnix(at("own"), 0o600)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	testUnixCaller(t, l)
	for _, none := range []*Inherited{nil, {}, h} {
		if l, ok, err := none.TakeUnix(at("other"), 0o600); l != nil || ok || err != nil {
			t.Errorf("%v, %v, %v", l, ok, err)
		}
	}
	for path, want := range map[string]bool{
		at("own"): true, at("gone"): true, folder + "//own": true, folder: false, at("other"): false, "own": false, "": false, ".": false,
	} {
		if h.Has(path) != want || (*Inherited)(nil).Has(path) {
			t.Errorf("it has %q: %v, want %v", path, h.Has(path), want)
		}
	}
	if none := (*Inherited)(nil); none.Any() || none.Left() != nil {
		t.Error("nothing is something")
	}

	// One that is not systemd's is made with the mode that is asked for.
	defer syscall.Umask(syscall.Umask(0o077))
	ours, err := o.Unix(at("ours"), 0o666)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	if info, err := os.Lstat(at("ours")); err != nil || info.Mode() != fs.ModeSocket|0o666 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// What leaves an inherited link-local socket has TTL 1, for those too who had connected
// before we came.
func TestInheritedLinkLocal(t *testing.T) {
	if !ownnet.Inside(t) {
		return
	}
	needIP(t)
	for _, s := range usable(linkLocals()...) {
		addr := netip.MustParseAddr(s)
		ip(t, AddAddress("linux", addr))
		at := netip.AddrPortFrom(addr, 80).String()
		own, _, err := Opener{Doors: 1}.TCP(t.Context(), at) // waits until the address can be used
		if err != nil {
			t.Fatal(err)
		}
		_ = own[0].Close()
		f, _ := systemds(t, "tcp", at)
		early, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		h := inherit(t, f)
		level, option := hopOption(network(addr))
		if got, err := unix.GetsockoptInt(int(h.sockets[0].file.Fd()), level, option); err != nil || got != 1 {
			t.Errorf("%s listens with TTL %d, %v", at, got, err)
		}
		l, _, err := Opener{Doors: 1, Inherited: h}.TCP(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		late, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			server, err := l[0].Accept()
			if err != nil {
				t.Fatal(err)
			}
			if got := hops(t, server); got != 1 {
				t.Errorf("%s sends with TTL %d", at, got)
			}
			_ = server.Close()
		}
		_, _, _ = early.Close(), late.Close(), l[0].Close()
	}
}

// inherited is what a process finds that sockets are handed to.
type inherited struct {
	Err       string
	Left      []string
	TCP, Unix string   // why they cannot be had
	Variables []string // LISTEN_… of a command that it runs
	Files     []string // of the sockets, those that it has open
}

const inheritHere = "LISTEN_TEST_INHERIT" // the address and the path to listen on, with a comma between

// TestInherit is both processes: the one that hands over and, with the variable set, the one
// that is handed something. That one reports, then greets who connects until it is killed.
func TestInherit(t *testing.T) {
	if where, ok := os.LookupEnv(inheritHere); ok {
		_ = os.Unsetenv(inheritHere)
		reportInherited(t, where)
		os.Exit(0)
	}
	tcp, at := systemds(t, "tcp4", "127.0.0.1:0")
	sock, path := systemds(t, "unix", filepath.Join(shortDir(t), "s"))
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	both := []*os.File{tcp, sock}
	clean := func(t *testing.T, r inherited) {
		t.Helper()
		if len(r.Variables) != 0 || len(r.Files) != 0 {
			t.Errorf("a command that it runs has %q and %q", r.Variables, r.Files)
		}
	}

	t.Run("handed over", func(t *testing.T) {
		r := handOver(t, at+","+path, both, `LISTEN_PID=$$`, "LISTEN_FDS=2", "LISTEN_FDNAMES=a.socket:", "LISTEN_PIDFDID=1")
		if r.Err != "" || r.TCP != "" || r.Unix != "" || len(r.Left) != 0 {
			t.Errorf("%+v", r)
		}
		clean(t, r)
		for _, f := range both {
			l, err := net.FileListener(f)
			if err != nil {
				t.Fatal(err)
			}
			greeted(t, dial(t, l.Addr()))
			_ = l.Close()
		}
	})
	t.Run("another address", func(t *testing.T) {
		r := handOver(t, "127.0.0.1:0,"+path+"2", both, `LISTEN_PID=$$`, "LISTEN_FDS=2")
		if r.Err != "" || r.TCP != "" || r.Unix != "" || !slices.Equal(r.Left, []string{at, path}) {
			t.Errorf("%+v", r)
		}
		clean(t, r)
	})
	for name, pid := range map[string]string{"another process": "LISTEN_PID=1", "no process": "LISTEN_PID="} {
		t.Run(name, func(t *testing.T) {
			r := handOver(t, at+","+path, both, pid, "LISTEN_FDS=2", "LISTEN_FDNAMES=a:b", "LISTEN_PIDFDID=1")
			if r.Err != "" || len(r.Left) != 0 || !strings.Contains(r.TCP, "is taken by another program") || !strings.Contains(r.Unix, "socket "+path) {
				t.Errorf("%+v", r)
			}
			if len(r.Variables) != 0 {
				t.Errorf("a command that it runs has %q", r.Variables)
			}
			if len(r.Files) != 2 { // they are not ours to close, and so this test can tell
				t.Errorf("a command that it runs has %q", r.Files)
			}
		})
	}
	for count, want := range map[string]string{"": "LISTEN_FDS", "two": "LISTEN_FDS", "-1": "LISTEN_FDS", "99999999999": "LISTEN_FDS", "1000": "descriptor"} {
		t.Run("count "+count, func(t *testing.T) {
			r := handOver(t, at+","+path, both, `LISTEN_PID=$$`, "LISTEN_FDS="+count)
			if !strings.Contains(r.Err, want) || strings.Contains(r.Err, "\n") {
				t.Errorf("%+v, want %q", r, want)
			}
			if len(r.Variables) != 0 {
				t.Errorf("a command that it runs has %q", r.Variables)
			}
		})
	}
	t.Run("a wrong one", func(t *testing.T) {
		wide, _ := systemds(t, "tcp4", "0.0.0.0:0")
		r := handOver(t, at+","+path, []*os.File{tcp, wide}, `LISTEN_PID=$$`, "LISTEN_FDS=2", "LISTEN_FDNAMES=a:wide.socket")
		if !strings.Contains(r.Err, `"wide.socket"`) || !strings.Contains(r.Err, "ListenStream=0.0.0.0:") {
			t.Errorf("%+v", r)
		}
		clean(t, r)
	})
	t.Run("systemd-socket-activate", func(t *testing.T) {
		tool, err := exec.LookPath("systemd-socket-activate")
		if err != nil {
			t.Skip("not run: no systemd-socket-activate here")
		}
		free, at := systemds(t, "tcp4", "127.0.0.1:0")
		_ = free.Close()
		path := filepath.Join(shortDir(t), "s")
		r := start(t, exec.CommandContext(t.Context(), tool,
			"--listen="+at, "--listen="+path, "--setenv="+inheritHere+"="+at+","+path, self(t), "-test.run=^TestInherit$"), func() {
			for os.Chmod(path, 0o600) != nil { // it makes them 0644
				runtime.Gosched()
			}
			for { // it runs the program when somebody connects
				if c, err := net.Dial("tcp4", at); err == nil {
					greeted(t, c)
					_ = c.Close()
					return
				}
			}
		})
		if r.Err != "" || r.TCP != "" || r.Unix != "" || len(r.Left) != 0 {
			t.Errorf("%+v", r)
		}
		clean(t, r)
		greeted(t, dial(t, &net.UnixAddr{Name: path, Net: "unix"}))
	})
}

func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// handOver runs the test's binary with the files from descriptor 3 on, and with variables
// as a shell reads them: $$ is that process.
func handOver(t *testing.T, where string, files []*os.File, variables ...string) inherited {
	t.Helper()
	c := exec.CommandContext(t.Context(), "/bin/sh", "-c", strings.Join(variables, " ")+` exec "$0" "$@"`, self(t), "-test.run=^TestInherit$")
	c.ExtraFiles = files
	c.Env = append(os.Environ(), inheritHere+"="+where)
	return start(t, c, func() {})
}

// start runs a process until the test ends, and returns what it reports.
func start(t *testing.T, c *exec.Cmd, meanwhile func()) (r inherited) {
	t.Helper()
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = c.Wait() })
	meanwhile()
	if err := json.NewDecoder(out).Decode(&r); err != nil {
		t.Fatal(err)
	}
	return r
}

func reportInherited(t *testing.T, where string) {
	var r inherited
	h, err := Inherit()
	if err != nil {
		r.Err = err.Error()
	}
	at, path, _ := strings.Cut(where, ",")
	o := Opener{Doors: 2, Inherited: h}
	var all []net.Listener
	if err == nil {
		l, _, err := o.TCP(t.Context(), at)
		if err != nil {
			r.TCP = err.Error()
		}
		all = l
		if u, err := o.Unix(path, 0o600); err != nil {
			r.Unix = err.Error()
		} else {
			all = append(all, u)
		}
		r.Left = h.Left()
	}
	echo(t, all)
	var sockets []string
	for fd := range 2 {
		if link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(firstHanded+fd)); err == nil && strings.HasPrefix(link, "socket:") {
			sockets = append(sockets, link)
		}
	}
	out, err := exec.Command("/bin/sh", "-c", "env | grep ^LISTEN_; readlink /proc/$$/fd/*; exit 0").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "LISTEN_"):
			r.Variables = append(r.Variables, line)
		case slices.Contains(sockets, line):
			r.Files = append(r.Files, line)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent is done, or gone
}
