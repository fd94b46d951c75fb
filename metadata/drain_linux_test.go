package metadata

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stsbroker/stsbroker/metadata/listen"
)

const (
	generationAt = "METADATA_TEST_GENERATION" // number, address and path of the server that this process is to be, with commas between
	answersEach  = 400                        // after that many answers of a generation comes the next
	generations  = 20                         // that follow the first
)

// TestGenerations replaces a server 20 times under load, as a service manager that holds its
// sockets does: end one, wait, start the next. Its clients, on new and on kept connections,
// never try again: no request may fail.
func TestGenerations(t *testing.T) {
	if where, ok := os.LookupEnv(generationAt); ok {
		beGeneration(t, where)
		os.Exit(0)
	}
	if testing.Short() {
		t.Skip("not run: -short")
	}
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)
	tcp, err := plain.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	sock, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(folder, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	sock.SetUnlinkOnClose(false)
	if err := os.Chmod(sock.Addr().String(), 0o600); err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	for _, l := range []interface {
		net.Listener
		File() (*os.File, error)
	}{tcp.(*net.TCPListener), sock} {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		_ = l.Close() // f holds the socket
		files = append(files, f)
	}

	load := &load{t: t, answers: make([]atomic.Int64, generations+1)}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	run := func(n int, every time.Duration, keep bool) {
		for i := range n {
			addr := []net.Addr{tcp.Addr(), sock.Addr()}[i%2]
			clients.Go(func() { load.client(stop, addr, every, keep) })
		}
	}
	first := startGeneration(t, files, 0, tcp.Addr(), sock.Addr())
	run(40, 40*time.Millisecond, true)  // they speak while a server drains
	run(10, 800*time.Millisecond, true) // they do not, for the most part
	run(20, 40*time.Millisecond, false)
	began := time.Now()
	current := first
	for g := 1; g <= generations; g++ {
		load.wait(g - 1)
		current.stop()
		current = startGeneration(t, files, g, tcp.Addr(), sock.Addr())
	}
	load.wait(generations)
	took := time.Since(began)
	close(stop)
	clients.Wait()
	current.stop()

	slices.Sort(load.times)
	n := len(load.times)
	if n == 0 {
		t.Fatal("no answers")
	}
	t.Logf("%d requests in %v, %.0f a second, %d on new connections, %d kept ones ended between requests: %d failed; median %v, p99 %v, slowest %v",
		n, took.Round(time.Millisecond), float64(n)/took.Seconds(), load.fresh, load.stale, load.failed,
		load.times[n/2], load.times[n*99/100], load.times[n-1])
	if load.failed != 0 {
		t.Errorf("%d requests failed, the first: %v", load.failed, load.first)
	}
	if rate := float64(n) / took.Seconds(); rate < 1000 { // the clients try 1,500; a busy machine, or the race detector, does less
		t.Logf("not shown: 1000 requests a second, as only %.0f could be asked", rate)
	}
	if load.stale == 0 {
		t.Error("no kept connection was ended while it was silent")
	}
}

// generation is one server process.
type generation struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.Closer
}

func startGeneration(t *testing.T, files []*os.File, n int, addrs ...net.Addr) *generation {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=2 exec "$0" "$@"`, self, "-test.run=^TestGenerations$")
	c.Env = append(os.Environ(), fmt.Sprintf("%s=%d,%v,%v", generationAt, n, addrs[0], addrs[1]))
	c.ExtraFiles, c.Stderr = files, os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close() }) // then it ends by itself
	said := bufio.NewReader(out)
	if line, err := said.ReadString('\n'); line != "ready\n" {
		rest, _ := io.ReadAll(said)
		t.Fatalf("generation %d: %s%s%v", n, line, rest, err)
	}
	return &generation{t, c, in}
}

func (g *generation) stop() {
	g.t.Helper()
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		g.t.Fatal(err)
	}
	if err := g.cmd.Wait(); err != nil {
		g.t.Fatal(err)
	}
}

func beGeneration(t *testing.T, where string) {
	part := strings.Split(where, ",")
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	h, err := listen.Inherit()
	if err != nil {
		t.Fatal(err)
	}
	o := listen.Opener{Doors: 2, Inherited: h}
	all, _, err := o.TCP(ctx, part[1])
	if err != nil {
		t.Fatal(err)
	}
	sock, err := o.Unix(part[2], 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if left := h.Left(); len(left) != 0 {
		t.Fatalf("left %q", left)
	}
	var servers sync.WaitGroup
	for _, l := range append(all, sock) {
		s := NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = []string{"text/plain"}
			_, _ = io.WriteString(w, part[0])
		}), func(line string) { t.Log("net/http: " + line) })
		servers.Go(func() {
			if err := Serve(ctx, s, l, 300*time.Millisecond); err != nil {
				t.Error(err)
			}
		})
	}
	_, _ = io.WriteString(os.Stdout, "ready\n")
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test is over
		cancel()
	}()
	servers.Wait()
	if t.Failed() {
		os.Exit(1)
	}
}

// load is many clients.
type load struct {
	t       *testing.T
	answers []atomic.Int64 // by generation

	mu     sync.Mutex
	times  []time.Duration
	fresh  int // connections
	stale  int // kept connections that were found ended before a request
	failed int
	first  error
}

// wait waits until a generation has answered often enough.
func (l *load) wait(generation int) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for l.answers[generation].Load() < answersEach {
		select {
		case <-tick.C:
		case <-l.t.Context().Done():
			return
		}
	}
}

// client asks every so often, on one connection for as long as the server keeps it, or on a
// new one each time. As clients do, it looks whether a kept connection has ended before it asks.
func (l *load) client(stop chan struct{}, addr net.Addr, every time.Duration, keep bool) {
	var c net.Conn
	var r *bufio.Reader
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			if c != nil {
				_ = c.Close()
			}
			return
		case <-tick.C:
		}
		began := time.Now()
		stale := c != nil && hasEnded(c)
		if stale {
			_ = c.Close()
			c = nil
		}
		fresh := c == nil
		var err error
		if fresh {
			if c, err = net.Dial(addr.Network(), addr.String()); err == nil {
				r = bufio.NewReader(c)
			}
		}
		var last bool
		if err == nil {
			last, err = l.ask(c, r)
		}
		took := time.Since(began)
		if c != nil && (err != nil || last || !keep) {
			_ = c.Close()
			c = nil
		}
		l.mu.Lock()
		l.times = append(l.times, took)
		if fresh {
			l.fresh++
		}
		if stale {
			l.stale++
		}
		if err != nil {
			if l.failed++; l.first == nil {
				l.first = fmt.Errorf("%s, asked every %v, on a new connection %v: %w", addr, every, fresh, err)
			}
		}
		l.mu.Unlock()
	}
}

func (l *load) ask(c net.Conn, r *bufio.Reader) (last bool, err error) {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second)) // not a figure: only so that a fault ends the test
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return false, err
	}
	a, err := http.ReadResponse(r, nil)
	if err != nil {
		return false, err
	}
	body, err := io.ReadAll(a.Body)
	if err != nil {
		return false, err
	}
	var by int
	if _, err := fmt.Sscan(string(body), &by); err != nil || a.StatusCode != http.StatusOK || by >= len(l.answers) {
		return false, fmt.Errorf("answered %d %q", a.StatusCode, body)
	}
	l.answers[by].Add(1)
	return a.Close, nil
}

// hasEnded reports whether the other side has closed a connection on which nothing is to come.
func hasEnded(c net.Conn) (ended bool) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return true
	}
	_ = raw.Control(func(fd uintptr) {
		var one [1]byte
		_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		ended = !errors.Is(err, unix.EAGAIN)
	})
	return ended
}
