package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// TestUpgrade: the binary is replaced 20 times while 1,500 requests a second come in, on new
// and on kept connections, of clients that never try again. The door's socket is held
// by somebody else, as systemd does. None fails, and STS is asked once.
func TestUpgrade(t *testing.T) {
	if testing.Short() {
		t.Skip("not run: -short")
	}
	const restarts, answersEach = 20, 400
	fake := stsfake.New()
	run, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer run.Close()
	r := newRig(t, shipped(t), run.URL, "", fake, 1)
	r.env = append(r.env, varIdentityFile+"="+filepath.Join(r.home, "keys", "identity"))

	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:"+r.port)
	if err != nil {
		t.Fatal(err)
	}
	held, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	_ = l.Close()

	var log syncBuilder
	serve := func() *exec.Cmd {
		cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=stsbroker.socket exec "$0" serve`, r.binary)
		cmd.Env, cmd.Stderr, cmd.ExtraFiles = r.env, &log, []*os.File{held}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	cmd := serve()
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	r.wait(t)
	u := &upgraded{addr: "127.0.0.1:" + r.port}
	u.request = "GET /credentials/p0 HTTP/1.1\r\nHost: " + u.addr + "\r\nAuthorization: " + r.token(t, 1) + "\r\n\r\n"
	if _, err := u.once(); err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	mints := fake.Total()

	stop := make(chan struct{})
	var clients sync.WaitGroup
	for n, c := range map[int]struct {
		every time.Duration
		keep  bool
	}{40: {40 * time.Millisecond, true}, 10: {800 * time.Millisecond, true}, 20: {40 * time.Millisecond, false}} {
		for range n {
			clients.Go(func() { u.client(stop, c.every, c.keep) })
		}
	}
	began := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	served := func(n int64) {
		for until := u.answers.Load() + n; u.answers.Load() < until && u.failed.Load() == 0; {
			<-tick.C
		}
	}
	for range restarts {
		served(answersEach)
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v\n%s", err, log.String())
		}
		cmd = serve()
	}
	served(answersEach)
	took := time.Since(began)
	close(stop)
	clients.Wait()

	slices.Sort(u.times)
	n := len(u.times)
	t.Logf("%d requests in %v, %.0f a second, %d kept connections ended between requests: %d failed; median %v, p99 %v, slowest %v",
		n, took.Round(time.Millisecond), float64(n)/took.Seconds(), u.stale.Load(), u.failed.Load(), u.times[n/2], u.times[n*99/100], u.times[n-1])
	if u.failed.Load() != 0 {
		t.Errorf("the first failure: %v\n%s", *u.first.Load(), log.String())
	}
	if got := fake.Total() - mints; got != 0 {
		t.Errorf("%d more calls of STS", got)
	}
}

// upgraded is what clients see of it.
type upgraded struct {
	addr, request          string
	answers, failed, stale atomic.Int64
	first                  atomic.Pointer[error]

	mu    sync.Mutex
	times []time.Duration
}

func (u *upgraded) once() (last bool, err error) {
	c, err := net.Dial("tcp4", u.addr)
	if err != nil {
		return false, err
	}
	defer c.Close()
	return u.ask(c, bufio.NewReader(c))
}

func (u *upgraded) ask(c net.Conn, r *bufio.Reader) (last bool, err error) {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second)) // not a figure: only so that a fault ends the test
	if _, err := io.WriteString(c, u.request); err != nil {
		return false, err
	}
	a, err := http.ReadResponse(r, nil)
	if err != nil {
		return false, err
	}
	body, err := io.ReadAll(a.Body)
	if err == nil && (a.StatusCode != http.StatusOK || !strings.Contains(string(body), `"AccessKeyId"`)) {
		err = fmt.Errorf("answered %d %s", a.StatusCode, body)
	}
	return a.Close, err
}

// client asks every so often, on one connection for as long as the broker keeps it, or on a new one
// each time. As clients do, it looks whether a kept connection has ended before it asks.
func (u *upgraded) client(stop chan struct{}, every time.Duration, keep bool) {
	var c net.Conn
	var r *bufio.Reader
	done := func() {
		if c != nil {
			_ = c.Close()
		}
		c = nil
	}
	defer done()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		began := time.Now()
		if c != nil && overBy(c) {
			u.stale.Add(1)
			done()
		}
		var err error
		if c == nil {
			if c, err = net.Dial("tcp4", u.addr); err == nil {
				r = bufio.NewReader(c)
			}
		}
		last := false
		if err == nil {
			last, err = u.ask(c, r)
		}
		if err != nil {
			u.failed.Add(1)
			u.first.CompareAndSwap(nil, &err)
		}
		if err != nil || last || !keep {
			done()
		}
		u.answers.Add(1)
		u.mu.Lock()
		u.times = append(u.times, time.Since(began))
		u.mu.Unlock()
	}
}

// overBy reports whether the broker has ended a connection on which nothing is to come.
func overBy(c net.Conn) (over bool) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return true
	}
	_ = raw.Control(func(fd uintptr) {
		var one [1]byte
		_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		over = !errors.Is(err, unix.EAGAIN)
	})
	return over
}
