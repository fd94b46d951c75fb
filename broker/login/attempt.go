package login

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

const (
	// attemptLife is how long a person has, as with the AWS CLI.
	attemptLife = 10 * time.Minute
	// clientLeft is how much of a registration's life must be left for a sign-in to use
	// it: what it gets is refreshed with it, and nobody wants to be asked again sooner.
	// AWS's last 90 days.
	clientLeft = 7 * 24 * time.Hour
	// keepTimeout is what writing a new sign-in may wait for its turn.
	keepTimeout = 2 * flightTimeout
)

// Attempt is a sign-in that waits for a person.
type Attempt struct {
	URL     string    // to open in a browser
	Code    string    // what the page at URL shows, for a person to compare; "" when the browser comes back by itself
	First   bool      // whoever has this opens the browser; nobody else does
	Expires time.Time // nobody waits longer than that

	// Wait returns when the attempt is over: nil when somebody is signed in and what
	// came of it was kept, else why not, in one line without a secret. It gives up when
	// ctx is done. It must be called: an attempt ends when nobody waits any more.
	Wait func(ctx context.Context) error
}

// attempt is the one attempt of a session.
type attempt struct {
	ready  chan struct{} // closed when there is something to open
	done   chan struct{} // closed when it is over
	cancel context.CancelCauseFunc

	url, code string // set before ready
	expires   time.Time
	err       error // set before done

	waiting int  // under Manager.mu
	claimed bool // likewise: somebody was told to open the browser
}

var (
	errNobodyWaits = errors.New("nobody waits for the sign-in any more")
	errSignedOut   = errors.New("somebody logged out of it meanwhile")
)

// Begin starts an attempt to sign in to a session, in a browser on this machine or,
// for device, wherever the person likes; while one runs, whichever it is, it joins
// that. It returns when there is something to open. It is for what a person does, and
// never for a mint or a renewal.
//
// The error is one line without a secret: the session's definition, or AWS, does not
// allow a sign-in.
func (m *Manager) Begin(ctx context.Context, s Session, device bool) (Attempt, error) {
	if err := s.check(); err != nil {
		return Attempt{}, err
	}
	a := m.join(s, device)
	select {
	case <-a.ready:
	case <-a.done:
		m.leave(s, a)
		return Attempt{}, a.err
	case <-ctx.Done():
		m.leave(s, a)
		return Attempt{}, context.Cause(ctx)
	}
	m.mu.Lock()
	first := !a.claimed
	a.claimed = true
	m.mu.Unlock()
	var once sync.Once
	return Attempt{URL: a.url, Code: a.code, First: first, Expires: a.expires, Wait: func(ctx context.Context) error {
		defer once.Do(func() { m.leave(s, a) })
		select {
		case <-a.done:
			return a.err
		default:
		}
		select {
		case <-a.done:
			return a.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}}, nil
}

func (m *Manager) join(s Session, device bool) *attempt {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entryLocked(s.key())
	if e.attempt == nil {
		a := &attempt{ready: make(chan struct{}), done: make(chan struct{}), expires: time.Now().Add(attemptLife)}
		ctx, cancel := context.WithCancelCause(context.Background())
		a.cancel = cancel
		e.attempt = a
		go m.run(ctx, s, device, a)
	}
	e.attempt.waiting++
	return e.attempt
}

// leave ends an attempt that nobody waits for. It is nobody's to join from then on.
func (m *Manager) leave(s Session, a *attempt) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.waiting--; a.waiting > 0 {
		return
	}
	a.cancel(errNobodyWaits)
	if e := m.entryLocked(s.key()); e.attempt == a {
		e.attempt = nil
	}
}

// run is the attempt from its start to its end.
func (m *Manager) run(ctx context.Context, s Session, device bool, a *attempt) {
	defer a.cancel(nil)
	ctx, cancel := context.WithDeadlineCause(ctx, a.expires, fmt.Errorf("nobody signed in within %d minutes; run the command again", attemptLife/time.Minute))
	defer cancel()
	var err error
	if device {
		err = m.byDevice(ctx, s, a)
	} else {
		err = m.byBrowser(ctx, s, a)
	}
	if err != nil {
		err = m.attemptFailed(ctx, s, err)
	}
	m.mu.Lock()
	a.err = err
	if e := m.entryLocked(s.key()); e.attempt == a {
		e.attempt = nil
	}
	m.mu.Unlock()
	close(a.done)
}

// attemptFailed words why nobody is signed in.
func (m *Manager) attemptFailed(ctx context.Context, s Session, err error) error {
	if e, ok := errors.AsType[*broker.Error](err); ok {
		return e
	}
	f := asFault(err)
	if cause := context.Cause(ctx); cause != nil && (f == nil || f.is != nil) { // the call was ended with the attempt
		return &broker.Error{Kind: broker.KindLoginNeeded, Own: true, Public: "no sign-in to " + s.String() + ": " + cause.Error()}
	}
	out := &broker.Error{Kind: broker.KindLoginNeeded, Own: true}
	next := ""
	if f != nil {
		out.Kind, out.Own, out.Code = f.kind(), false, f.code
		if f.code != "" && !out.Kind.Passes() {
			next = "; check sso_start_url and sso_region, and run the command again"
		}
	}
	out.Public = fmt.Sprintf("no sign-in to %s: %v%s", s, err, next)
	return out
}

// client is a registration to sign in with: the one kept or, anew, a new one.
func (m *Manager) client(ctx context.Context, s Session, device, anew bool) (client, error) {
	k := s.key().client(device)
	if !anew {
		if err := m.lockDisk(ctx); err != nil {
			return client{}, err
		}
		var c client
		_ = m.transact(func(next *state) { c = next.clients[k] }) // a vault that fails is said of the sign-in
		m.unlockDisk()
		if left(c.expires, time.Now()) > clientLeft {
			return c, nil
		}
	}
	c, err := m.api.register(ctx, s, device)
	if err != nil {
		return client{}, err
	}
	if err := m.lockDisk(ctx); err != nil {
		return client{}, err
	}
	defer m.unlockDisk()
	_ = m.transact(func(next *state) { next.clients[k] = c }) // made again after a restart, where it could not be written
	return c, nil
}

// dropClient forgets a registration that AWS may not know any more.
func (m *Manager) dropClient(s Session, device bool, c client) {
	ctx, cancel := context.WithTimeout(context.Background(), keepTimeout)
	defer cancel()
	if m.lockDisk(ctx) != nil {
		return
	}
	defer m.unlockDisk()
	k := s.key().client(device)
	_ = m.transact(func(next *state) {
		if next.clients[k].id == c.id {
			delete(next.clients, k)
		}
	})
}

// signedIn keeps what a sign-in gave: written first, used then. One that could not be
// written is used all the same, and reported.
func (m *Manager) signedIn(s Session, t tokens) error {
	ctx, cancel := context.WithTimeout(context.Background(), keepTimeout) // the attempt may be over meanwhile, and the tokens are here
	defer cancel()
	if err := m.lockDisk(ctx); err != nil {
		return err
	}
	k := s.key()
	err := m.transact(func(next *state) { next.put(k, t) })
	m.mu.Lock()
	e := m.entryLocked(k)
	e.ownNo, e.cliNo = broker.Secret{}, broker.Secret{}
	m.mu.Unlock()
	m.takeMended() // told here, so that it is before anybody's Wait returns
	m.unlockDisk()
	m.report(s, err)
	m.o.Changed(s)
	return nil
}
