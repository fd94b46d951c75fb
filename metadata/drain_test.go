package metadata

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/metadata/listen"
)

// ending is a server that can be told to end.
type ending struct {
	addr string
	end  context.CancelFunc
	done chan error // what Serve returns

	entered, leave chan struct{} // of a request for /slow
	cut            atomic.Bool   // its context ended before it was answered
}

func startEnding(t *testing.T, drain time.Duration) *ending {
	t.Helper()
	l, _, err := listen.Opener{Doors: 1}.TCP(t.Context(), freePort)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	e := &ending{addr: l[0].Addr().String(), end: cancel, done: make(chan error, 1), entered: make(chan struct{}), leave: make(chan struct{})}
	s := NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			e.entered <- struct{}{}
			select {
			case <-e.leave:
			case <-r.Context().Done():
				e.cut.Store(true)
			}
		}
		_, _ = io.WriteString(w, "good")
	}), func(line string) { t.Log("net/http: " + line) })
	go func() { e.done <- Serve(ctx, s, l[0], drain) }()
	t.Cleanup(cancel)
	return e
}

const anyRequest = "GET / HTTP/1.1\nHost: x\n\n"

func good(t *testing.T, name string, a answer, closes bool) {
	t.Helper()
	if a.status != http.StatusOK || a.body != "good" || a.closed != closes {
		t.Errorf("%s: %d %q, closed %v", name, a.status, a.body, a.closed)
	}
}

// ended waits for the end of a connection, which must be an orderly one.
func ended(t *testing.T, name string, c *client) {
	t.Helper()
	if n, err := c.r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%s: %d, %v", name, n, err)
	}
}

func TestServeDrains(t *testing.T) {
	const drain = 300 * time.Millisecond
	e := startEnding(t, drain)
	kept, silent, slow, half := dial(t, e.addr), dial(t, e.addr), dial(t, e.addr), dial(t, e.addr)
	for range 2 {
		good(t, "before", kept.do(anyRequest), false)
		good(t, "before", silent.do(anyRequest), false)
	}
	unheard := dial(t, e.addr)
	if _, err := io.WriteString(slow, onWire("GET /slow HTTP/1.1\nHost: x\n\n", "")); err != nil {
		t.Fatal(err)
	}
	<-e.entered
	if _, err := io.WriteString(half, "GET / HT"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	e.end()

	// New connections are answered, once.
	for told := false; !told; {
		a := dial(t, e.addr).do(anyRequest)
		told = a.closed
		good(t, "new", a, told)
	}
	good(t, "kept", kept.do(anyRequest), true)
	ended(t, "kept", kept)
	ended(t, "silent", silent)
	ended(t, "never heard of", unheard)
	if past := time.Since(began); past < drain {
		t.Errorf("silent connections were ended after %v", past)
	}
	for {
		c, err := net.Dial("tcp", e.addr)
		if err != nil {
			break // nothing is accepted any more
		}
		_ = c.Close()
	}
	// What was under way by then is answered.
	good(t, "half", half.do("TP/1.1\nHost: x\n\n"), true)
	select {
	case err := <-e.done:
		t.Fatalf("it ended while a request was under way: %v", err)
	default:
	}
	close(e.leave)
	if a := slow.do(""); a.status != http.StatusOK || a.body != "good" || e.cut.Load() {
		t.Errorf("slow: %+v, cut off %v", a, e.cut.Load())
	}
	// Its answer did not say that it is the last, and so one more is had for the asking.
	good(t, "after slow", slow.do(anyRequest), true)
	if err := <-e.done; err != nil {
		t.Error(err)
	}
}

// A client that is answered late and says nothing more is not waited for, nor is one that
// says nothing at all.
func TestServeDrainsSilent(t *testing.T) {
	e := startEnding(t, firstWord/2)
	slow := dial(t, e.addr)
	if _, err := io.WriteString(slow, onWire("GET /slow HTTP/1.1\nHost: x\n\n", "")); err != nil {
		t.Fatal(err)
	}
	<-e.entered
	e.end()
	for {
		c, err := net.Dial("tcp", e.addr)
		if err != nil {
			break
		}
		defer c.Close()
	}
	began := time.Now()
	close(e.leave)
	good(t, "slow", slow.do(""), false)
	ended(t, "slow", slow)
	if past := time.Since(began); past < firstWord || past > lastAnswers/2 {
		t.Errorf("the client had %v for one more request", past)
	}
	if err := <-e.done; err != nil {
		t.Error(err)
	}
}

// Who does not let go is cut off.
func TestServeCutsOff(t *testing.T) {
	for _, drain := range []time.Duration{0, time.Millisecond} {
		e := startEnding(t, drain)
		slow := dial(t, e.addr)
		if _, err := io.WriteString(slow, onWire("GET /slow HTTP/1.1\nHost: x\n\n", "")); err != nil {
			t.Fatal(err)
		}
		<-e.entered
		began := time.Now()
		e.end()
		if drain == 0 { // the request's context tells it
			if a := slow.do(""); a.status != http.StatusOK || !e.cut.Load() {
				t.Errorf("slow: %+v, told %v", a, e.cut.Load())
			}
		} else {
			_, err := bufio.NewReader(slow).ReadByte()
			if past := time.Since(began); err == nil || past < lastAnswers {
				t.Errorf("slow: %v after %v", err, past)
			}
		}
		if err := <-e.done; err != nil {
			t.Error(err)
		}
	}
}

// Without a successor nothing is waited for.
func TestServeEndsAtOnce(t *testing.T) {
	e := startEnding(t, 0)
	kept := dial(t, e.addr)
	for range 2 {
		good(t, "before", kept.do(anyRequest), false)
	}
	began := time.Now()
	e.end()
	ended(t, "kept", kept)
	if err := <-e.done; err != nil {
		t.Error(err)
	}
	if past := time.Since(began); past > lastAnswers/2 {
		t.Errorf("it took %v", past)
	}
}

func TestServeFails(t *testing.T) {
	l, _, err := listen.Opener{Doors: 1}.TCP(t.Context(), freePort)
	if err != nil {
		t.Fatal(err)
	}
	_ = l[0].Close()
	for _, drain := range []time.Duration{0, time.Second} {
		err := Serve(t.Context(), NewServer(http.NotFoundHandler(), func(string) {}), l[0], drain)
		if !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), l[0].Addr().String()) {
			t.Errorf("%v", err)
		}
	}
}

// That a server can be drained costs a request nothing until it is.
func TestFarewellIsFree(t *testing.T) {
	var now atomic.Bool
	h := &farewell{next: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), ending: &now}
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
	if n := testing.AllocsPerRun(1000, func() { h.ServeHTTP(w, r) }); n != 0 || len(w.Header()) != 0 {
		t.Errorf("%v allocations, %v", n, w.Header())
	}
	now.Store(true)
	h.ServeHTTP(w, r)
	if got := w.Header().Get("Connection"); got != "close" {
		t.Errorf("Connection: %q", got)
	}
}
