package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// supervisor tells systemd how the broker is, as sd_notify(3) has it. A nil one, where
// nobody wants to know, does nothing. Its functions are set before run is called.
type supervisor struct {
	alive  func() error                // whether the renewal loop works
	door   func(context.Context) error // whether a request is answered
	tried  func() bool                 // whether all that is prefetched has been tried for
	words  func() string               // how things stand, in one line
	failed func(error)                 // told what keeps the watchdog from being fed, and what could not be sent

	send     func(message string) error
	watchdog time.Duration // without a sign of life for so long, systemd ends us; 0: never
	nudge    chan struct{} // capacity 1

	asking  chan error  // an answer of alive that is still to come
	telling chan string // of words
	trying  chan bool   // of tried

	mu   sync.Mutex // of what was sent; messages go out in its order
	up   bool       // READY was
	down bool       // STOPPING was
	said string     // the last STATUS
}

const (
	readyAtLast  = 10 * time.Second // after it, waiting for STS does not keep dependent units from starting
	readyLook    = 50 * time.Millisecond
	wellLimit    = 2 * time.Second  // for alive and door together
	wordsEvery   = 30 * time.Second // where no watchdog sets the pace
	wordsGather  = time.Second
	longestWords = 300 // bytes of a STATUS
)

// newSupervisor is nil where nobody wants to be told. What says so leaves the
// environment: commands that the broker runs are not to speak for it.
func newSupervisor() *supervisor {
	socket, usec, pid := os.Getenv("NOTIFY_SOCKET"), os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID")
	for _, v := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		_ = os.Unsetenv(v) // fails for no such name
	}
	if !strings.HasPrefix(socket, "/") && !strings.HasPrefix(socket, "@") {
		return nil
	}
	s := &supervisor{nudge: make(chan struct{}, 1), send: func(m string) error { return notifySocket(socket, m) }}
	if n, err := strconv.ParseInt(usec, 10, 64); err == nil && n > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		s.watchdog = time.Duration(n) * time.Microsecond
	}
	return s
}

// notifySocket sends one message. A path that begins with @ is an abstract one.
func notifySocket(path, message string) error {
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	err = c.SetWriteDeadline(time.Now().Add(time.Second))
	if err == nil {
		_, err = c.Write([]byte(message))
	}
	return errors.Join(err, c.Close())
}

// run says READY when the first attempts are done, at most 10 s after it was called, and
// from then on how things stand. It feeds the watchdog as long as renewals and requests
// work. It returns when ctx ends.
func (s *supervisor) run(ctx context.Context) error {
	if s == nil {
		<-ctx.Done()
		return nil
	}
	defer s.stopping()
	if !s.attempts(ctx) {
		return nil
	}
	s.mu.Lock()
	s.up = true
	s.mu.Unlock()
	s.tell("READY=1", s.status(ctx))

	every, ill := wordsEvery, ""
	if s.watchdog > 0 {
		every = s.watchdog / 2
	}
	beat, say := time.NewTimer(0), time.NewTimer(0)
	say.Stop()
	defer beat.Stop()
	defer say.Stop()
	waits := false // for more to say
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.nudge:
			if !waits {
				waits = true
				say.Reset(wordsGather)
			}
			continue
		case <-say.C:
			waits = false
			if ill == "" {
				s.tell(s.status(ctx))
			}
			continue
		case <-beat.C:
		}
		began, pause := time.Now(), every
		err := s.well(ctx, min(wellLimit, every))
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if s.tell(s.statusOf("not well: " + err.Error())); ill != err.Error() {
				ill = err.Error()
				s.failed(fmt.Errorf("the watchdog is not fed: %w", err))
			}
			pause = every / 4 // there is time for another look
		default:
			ill = ""
			status := s.status(ctx)
			if s.watchdog > 0 {
				s.tell("WATCHDOG=1", status)
			} else {
				s.tell(status)
			}
		}
		beat.Reset(max(0, pause-time.Since(began)))
	}
}

// attempts waits until the first ones are done, and reports whether ctx let it.
func (s *supervisor) attempts(ctx context.Context) bool {
	inTime, cancel := context.WithTimeout(ctx, readyAtLast)
	defer cancel()
	look := time.NewTicker(readyLook)
	defer look.Stop()
	for {
		if done, _ := answered(inTime, readyLook, &s.trying, s.tried); done {
			return true
		}
		select {
		case <-inTime.Done():
			return ctx.Err() == nil
		case <-look.C:
		}
	}
}

// well is nil when renewals and requests work.
func (s *supervisor) well(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err, ok := answered(ctx, limit, &s.asking, s.alive)
	if !ok {
		return errors.New("the broker cannot say whether its renewals work")
	}
	if err != nil {
		return err
	}
	return s.door(ctx)
}

// answered is what f returns, if it does so within the limit. Of one that hangs no second
// is started: the answer goes to the next who asks.
func answered[T any](ctx context.Context, limit time.Duration, pending *chan T, f func() T) (answer T, ok bool) {
	if *pending == nil {
		c := make(chan T, 1)
		*pending = c
		go func() { c <- f() }()
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case answer = <-*pending:
		*pending = nil
		return answer, true
	case <-timer.C:
	case <-ctx.Done():
	}
	return answer, false
}

// status is a STATUS of how things stand; "" where that is not known.
func (s *supervisor) status(ctx context.Context) string {
	words, ok := answered(ctx, wellLimit, &s.telling, s.words)
	if !ok {
		return ""
	}
	return s.statusOf(words)
}

func (s *supervisor) statusOf(words string) string {
	words = oneLine(words)
	if len(words) > longestWords {
		words = strings.ToValidUTF8(words[:longestWords-len("…")], "") + "…"
	}
	return "STATUS=" + words
}

// tell sends the lines as one message, without a STATUS that would repeat the last one,
// and nothing once we are stopping.
func (s *supervisor) tell(lines ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var message []string
	for _, l := range lines {
		if strings.HasPrefix(l, "STATUS=") {
			if l == s.said {
				continue
			}
			s.said = l
		}
		if l != "" {
			message = append(message, l)
		}
	}
	if len(message) == 0 || s.down {
		return
	}
	if err := s.send(strings.Join(message, "\n")); err != nil {
		s.said = "" // it may be heard the next time
		s.failed(fmt.Errorf("systemd cannot be told how things stand: %w", err))
	}
}

// look says that words may have changed. It waits for nothing.
func (s *supervisor) look() {
	if s == nil {
		return
	}
	select {
	case s.nudge <- struct{}{}:
	default:
	}
}

// started reports whether READY was said: before, systemd takes a reload for the start.
func (s *supervisor) started() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.up
}

// reloading says that a reload begins; ready must follow, whatever comes of it.
func (s *supervisor) reloading() {
	if s != nil && s.started() {
		s.tell("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(monotonic().Microseconds(), 10))
	}
}

// ready says that a reload is over.
func (s *supervisor) ready() {
	if s != nil && s.started() {
		s.tell("READY=1")
		s.look()
	}
}

// stopping says that the end begins. Nothing is said after it.
func (s *supervisor) stopping() {
	if s == nil {
		return
	}
	s.tell("STOPPING=1", "STATUS=stopping")
	s.mu.Lock()
	s.down = true
	s.mu.Unlock()
}

// askDoor returns a function that sends a request over TCP to one of our own addresses,
// without the token that it needs, and is content to be told so (401).
func askDoor(url string) func(context.Context) error {
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // no proxy; and a new connection each time, as a client's first
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		answer, err := client.Do(r)
		if err != nil {
			return fmt.Errorf("a request through our own door is not answered: %w", err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusUnauthorized {
			return fmt.Errorf("a request without a token through our own door is answered %s", answer.Status)
		}
		return nil
	}
}

// mostNamed is how many profiles are named for one trouble.
const mostNamed = 3

// standing is how things stand, in one line: what is served, who must log in, what fails,
// the regions where STS does not answer, and other troubles.
func standing(profiles []broker.Status, lame []string, troubles ...string) string {
	served, held := 0, 0
	var login, failing []string
	for _, p := range profiles {
		if p.State == broker.StateUnservable {
			continue
		}
		served++
		if p.Left > 0 {
			held++
		}
		switch p.State {
		case broker.StateLogin:
			login = append(login, oneLine(p.Profile))
		case broker.StateFailing, broker.StateError:
			failing = append(failing, oneLine(p.Profile))
		}
	}
	all := []string{fmt.Sprintf("serving %s, %d held", count(served, "profile"), held)}
	if n := len(profiles) - served; n > 0 {
		all[0] += fmt.Sprintf(", %d unservable", n)
	}
	for _, group := range []struct {
		names     []string
		one, many string
	}{{login, "needs login", "need login"}, {failing, "fails", "fail"}} {
		switch n := len(group.names); {
		case n == 1:
			all = append(all, group.names[0]+" "+group.one)
		case n > mostNamed:
			all = append(all, fmt.Sprintf("%s and %d more %s", strings.Join(group.names[:mostNamed], ", "), n-mostNamed, group.many))
		case n > 0:
			all = append(all, strings.Join(group.names, ", ")+" "+group.many)
		}
	}
	if len(lame) > 0 {
		all = append(all, "STS does not answer in "+strings.Join(lame, ", "))
	}
	return strings.Join(append(all, troubles...), "; ")
}
