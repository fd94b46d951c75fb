package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stsbroker/stsbroker/broker"
)

// systemd is what a supervised broker sends, and when; it has mutable answers.
type systemd struct {
	*supervisor
	mu       sync.Mutex
	began    time.Time
	messages []string // "1.5s READY=1|STATUS=…"
	failures []string
	err      error // of send

	sick, shut error
	hang       chan struct{} // not nil: alive waits for it
	isTried    bool
	say        string
}

func newSystemd(watchdog time.Duration) *systemd {
	h := &systemd{began: time.Now(), say: "fine", isTried: true}
	locked := func(f func()) {
		h.mu.Lock()
		defer h.mu.Unlock()
		f()
	}
	h.supervisor = &supervisor{
		watchdog: watchdog, nudge: make(chan struct{}, 1),
		alive: func() (err error) {
			var hang chan struct{}
			locked(func() { err, hang = h.sick, h.hang })
			if hang != nil {
				<-hang
			}
			return err
		},
		door:   func(context.Context) (err error) { locked(func() { err = h.shut }); return err },
		tried:  func() (ok bool) { locked(func() { ok = h.isTried }); return ok },
		words:  func() (text string) { locked(func() { text = h.say }); return text },
		failed: func(err error) { locked(func() { h.failures = append(h.failures, err.Error()) }) },
		send: func(m string) (err error) {
			locked(func() {
				h.messages = append(h.messages, time.Since(h.began).String()+" "+strings.ReplaceAll(m, "\n", "|"))
				err = h.err
			})
			return err
		},
	}
	return h
}

func (h *systemd) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

// take returns what was sent since the last call.
func (h *systemd) take() []string {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.messages
	h.messages = nil
	return all
}

func (h *systemd) start(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// TestReadyAfterAttempts: READY comes when all was tried, and after ten seconds anyway.
func TestReadyAfterAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newSystemd(0)
		h.isTried = false
		h.start(t)
		time.Sleep(3*time.Second + readyLook/2) // between two looks
		expect(t, h.take())
		h.reloading() // is not one before
		h.ready()
		h.set(func() { h.isTried = true })
		time.Sleep(time.Second)
		expect(t, h.take(), "3.05s READY=1|STATUS=fine")
	})
	synctest.Test(t, func(t *testing.T) {
		h := newSystemd(0)
		h.isTried = false
		h.start(t)
		time.Sleep(time.Minute)
		expect(t, h.take(), "10s READY=1|STATUS=fine")
	})
	synctest.Test(t, func(t *testing.T) { // the one that is asked does not answer
		h := newSystemd(0)
		hang := make(chan struct{})
		h.supervisor.tried = func() bool { <-hang; return true }
		h.start(t)
		time.Sleep(time.Minute)
		close(hang)
		expect(t, h.take(), "10s READY=1|STATUS=fine")
	})
	synctest.Test(t, func(t *testing.T) { // stopped before it was ready
		h := newSystemd(0)
		h.isTried = false
		stop := h.start(t)
		time.Sleep(time.Second)
		stop()
		expect(t, h.take(), "1s STOPPING=1|STATUS=stopping")
	})
}

// TestWatchdogFed: twice in its time, and only while renewals and requests work; one
// mishap is no reason to be ended.
func TestWatchdogFed(t *testing.T) {
	for name, c := range map[string]struct {
		ail, mend func(h *systemd)
		status    string
		least     time.Duration // until it is noticed
	}{
		"renewals hang": {func(h *systemd) { h.sick = errors.New("dev hangs\nbadly") }, func(h *systemd) { h.sick = nil }, "not well: dev hangs badly", 0},
		"door is shut":  {func(h *systemd) { h.shut = errors.New("nobody opens") }, func(h *systemd) { h.shut = nil }, "not well: nobody opens", 0},
		"nobody answers": {func(h *systemd) { h.hang = make(chan struct{}) }, func(h *systemd) { close(h.hang); h.hang = nil },
			"not well: the broker cannot say whether its renewals work", 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newSystemd(20 * time.Second)
				stop := h.start(t)
				time.Sleep(35 * time.Second)
				expect(t, h.take(), "0s READY=1|STATUS=fine", "0s WATCHDOG=1", "10s WATCHDOG=1", "20s WATCHDOG=1", "30s WATCHDOG=1")
				h.set(func() { c.ail(h) })
				time.Sleep(11 * time.Second) // 46 s
				h.set(func() { c.mend(h) })
				time.Sleep(3 * time.Second) // 49 s
				got := h.take()
				if at := (40*time.Second + c.least).String(); len(got) != 2 || got[0] != at+" STATUS="+c.status || !strings.HasSuffix(got[1], "s WATCHDOG=1|STATUS=fine") {
					t.Errorf("%q, noticed at %s", got, at)
				}
				if len(h.failures) != 1 || !strings.Contains(h.failures[0], "watchdog is not fed") {
					t.Errorf("%q", h.failures)
				}
				h.set(func() { c.ail(h) })
				time.Sleep(10 * time.Minute)
				got = h.take()
				for _, m := range got[min(1, len(got)):] { // one may have been under way
					if strings.Contains(m, "WATCHDOG") {
						t.Errorf("fed: %s", m)
					}
				}
				h.set(func() { c.mend(h) })
				stop()
			})
		})
	}
}

// TestStatusWords: only when they change, gathered, on one line, and bounded.
func TestStatusWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newSystemd(0)
		h.start(t)
		time.Sleep(5 * time.Second)
		h.take()
		for i := range 10 {
			h.set(func() { h.say = fmt.Sprint("event ", i) })
			h.look()
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		expect(t, h.take(), "6s STATUS=event 9")
		h.look()
		time.Sleep(10 * time.Minute)
		expect(t, h.take())
		h.set(func() { h.say = "as time goes by" })
		time.Sleep(wordsEvery)
		if got := h.take(); len(got) != 1 || !strings.HasSuffix(got[0], " STATUS=as time goes by") {
			t.Errorf("%q", got)
		}
		h.set(func() { h.say = "two\nREADY=1\x1b" + strings.Repeat("ü", 1000) })
		h.look()
		time.Sleep(2 * time.Second)
		got := h.take()
		if len(got) != 1 || strings.ContainsAny(got[0], "|\x1b") || !utf8.ValidString(got[0]) || len(got[0]) > longestWords+30 || !strings.HasSuffix(got[0], "…") {
			t.Errorf("%q", got)
		}
		h.set(func() { h.say, h.err = "unheard", errors.New("no such file") })
		h.look()
		time.Sleep(2 * time.Second)
		h.set(func() { h.err = nil })
		h.look()
		time.Sleep(2 * time.Second)
		if got := h.take(); len(got) != 2 || len(h.failures) != 1 {
			t.Errorf("%q, %q", got, h.failures)
		}
	})
}

// TestReloadingAndStopping: in the form that systemd wants, and nothing after the end.
func TestReloadingAndStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newSystemd(20 * time.Second)
		stop := h.start(t)
		time.Sleep(time.Second)
		h.take()
		h.reloading()
		h.ready()
		got := h.take()
		if len(got) != 2 || got[1] != "1s READY=1" {
			t.Fatalf("%q", got)
		}
		usec, found := strings.CutPrefix(got[0], "1s RELOADING=1|MONOTONIC_USEC=")
		n, err := strconv.ParseInt(usec, 10, 64)
		if now := monotonic().Microseconds(); !found || err != nil || n > now || runtime.GOOS == "linux" && now-n > 60e6 {
			t.Errorf("%q, now %d", got, now)
		}
		h.stopping()
		time.Sleep(time.Minute)
		stop()
		h.reloading()
		h.ready()
		expect(t, h.take(), "1s STOPPING=1|STATUS=stopping")
	})
}

// TestNobodySupervises: without a socket there is nothing to do, and that works.
func TestNobodySupervises(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "1000")
	s := newSupervisor()
	if s != nil || os.Getenv("WATCHDOG_USEC") != "" {
		t.Fatalf("%v, %q", s, os.Getenv("WATCHDOG_USEC"))
	}
	s.look()
	s.reloading()
	s.ready()
	s.stopping()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.run(ctx) }()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestNotifySocket: messages arrive as datagrams at a path and at an abstract address,
// and the environment does not tell others of it.
func TestNotifySocket(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("not run: no such sockets there")
	}
	dir, err := os.MkdirTemp("", "n") // t.TempDir is too long for a socket on some systems
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	addresses := []string{filepath.Join(dir, "s")}
	if runtime.GOOS == "linux" {
		addresses = append(addresses, "@stsbroker-test-"+strconv.Itoa(os.Getpid()))
	}
	for _, address := range addresses {
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		t.Setenv("NOTIFY_SOCKET", address)
		t.Setenv("WATCHDOG_USEC", "3000000")
		t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
		s := newSupervisor()
		if s == nil || s.watchdog != 3*time.Second {
			t.Fatalf("%s: %+v", address, s)
		}
		for _, v := range os.Environ() {
			if strings.HasPrefix(v, "NOTIFY_SOCKET") || strings.HasPrefix(v, "WATCHDOG_") {
				t.Errorf("%s is left", v)
			}
		}
		s.failed = func(err error) { t.Error(err) }
		s.tell("READY=1", "STATUS=so it is")
		buf := make([]byte, 1000)
		n, err := l.Read(buf)
		if string(buf[:n]) != "READY=1\nSTATUS=so it is" || err != nil {
			t.Errorf("%q, %v", buf[:n], err)
		}
	}
	t.Setenv("NOTIFY_SOCKET", addresses[0])
	t.Setenv("WATCHDOG_USEC", "3000000")
	t.Setenv("WATCHDOG_PID", "1")
	if s := newSupervisor(); s == nil || s.watchdog != 0 {
		t.Errorf("another's watchdog is fed: %+v", s)
	}
}

// TestAskDoor: what counts as an answer.
func TestAskDoor(t *testing.T) {
	status := http.StatusUnauthorized
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || !r.Close {
			t.Errorf("%v, close %v", r.Header, r.Close)
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
	}))
	defer server.Close()
	ask := askDoor(server.URL + "/x")
	if err := ask(t.Context()); err != nil {
		t.Error(err)
	}
	for _, status = range []int{200, 302, 403, 500} {
		if err := ask(t.Context()); err == nil || !strings.Contains(err.Error(), strconv.Itoa(status)) {
			t.Errorf("%d: %v", status, err)
		}
	}
	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := askDoor("http://" + deaf.Addr().String())(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one that nobody accepts at: %v", err)
	}
}

// TestStanding: the words.
func TestStanding(t *testing.T) {
	p := func(name string, state broker.State, left time.Duration) broker.Status {
		return broker.Status{Profile: name, State: state, Left: left}
	}
	for _, c := range []struct {
		want     string
		profiles []broker.Status
		lame     []string
		troubles []string
	}{
		{"serving 0 profiles, 0 held", nil, nil, nil},
		{"serving 1 profile, 1 held", []broker.Status{p("a", broker.StateFresh, time.Hour)}, nil, nil},
		{"serving 3 profiles, 1 held, 1 unservable; dev needs login; x fails; STS does not answer in eu-central-1; custody is locked",
			[]broker.Status{p("a", broker.StateFresh, 1), p("dev", broker.StateLogin, 0), p("x", broker.StateError, 0), p("u", broker.StateUnservable, 0)},
			[]string{"eu-central-1"}, []string{"custody is locked"}},
		{"serving 5 profiles, 1 held; a, b, c and 1 more need login; \uFFFD[2J fails",
			[]broker.Status{p("a", broker.StateLogin, 0), p("b", broker.StateLogin, 0), p("c", broker.StateLogin, 0), p("d", broker.StateLogin, 0), p("\x1b[2J", broker.StateFailing, 1)}, nil, nil},
	} {
		if got := standing(c.profiles, c.lame, c.troubles...); got != c.want {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
	}
}
