package broker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// lease is the live record for one set of mint parameters: what is held, and
// the loop that keeps it fresh. Readers take one atomic load; everything that
// changes does so under mu, in the loop, and no I/O happens under mu.
//
// The loop runs while the lease is in demand and ends when nobody asked for it
// lately; the next caller starts it again.
type lease struct {
	b    *Broker
	key  Key
	spec atomic.Pointer[spec]

	set     atomic.Pointer[Set]
	awake   atomic.Bool  // the loop runs
	minting atomic.Bool  // a mint runs, or waits for its source or a place
	stale   atomic.Bool  // the last mint failed
	gone    atomic.Bool  // evicted, forgotten or no longer defined: never starts again
	asked   atomic.Int64 // when a caller last asked, in seconds that the host was awake
	fed     atomic.Int64 // when a lease that it feeds last asked, likewise
	due     atomic.Int64 // when the loop will have moved on, since the broker's start; 0 while it waits
	waiters atomic.Int32

	nudge  chan struct{} // capacity 1: look again
	ctx    context.Context
	cancel context.CancelCauseFunc

	// disk is held while the store is asked or given something of this lease. Nothing
	// is, once the lease is gone: what was deleted then stays so. Taken before mu.
	disk sync.Mutex

	mu       sync.Mutex
	next     *flight // whose result callers wait for; nil when nobody does and no mint runs
	forced   bool
	strict   bool   // and a set that was there before will not do
	login    *force // whose code the next mint takes; nil for none
	mended   bool   // while a mint ran: what it fails of, may be mended by now
	loaded   bool   // the store was asked
	locked   bool   // and may have what nobody can read before a person unlocks it
	counted  uint64 // generations, of the lease that this one took the place of too
	reminded uint64 // the generation that [EventLoginSoon] was told of
	// rejected is the key id of a set that STS no longer accepts as a signature,
	// whatever its expiry.
	rejected string
	tries
}

// spec is what a reload may change without the lease being another one.
type spec struct {
	Profile
	parent *entry // nil: none, or a key
	budget *budget
}

// local reports whether what is minted means nothing to another process.
func (s *spec) local() bool {
	local := s.Bucket == ""
	for p := s.parent; p != nil && !local; p = p.parent {
		local = p.Bucket == ""
	}
	return local
}

// byPerson reports whether only a person's asking may start a mint, and then
// what is said to everybody else.
func (s *spec) byPerson() *Error {
	switch {
	case s.Once:
		return &Error{Kind: KindConfig, Public: s.Action + " is called for each exec, and what it issued is never renewed: run stsbroker exec again"}
	case s.MFA != "":
		return &Error{Kind: KindLoginNeeded, Public: "a code of the MFA device " + s.MFA + " is needed"}
	}
	return nil
}

// tries is what went wrong lately; zero when nothing did.
type tries struct {
	failures int
	last     *Error
	retryAt  time.Time
	began    time.Time // of the last try; kept on success
}

// flight is one awaited result. done is closed after set and err are written.
type flight struct {
	done chan struct{}
	set  *Set
	err  *Error
}

func newLease(b *Broker, key Key, s *spec) *lease {
	l := &lease{b: b, key: key, nudge: make(chan struct{}, 1)}
	l.spec.Store(s)
	l.ctx, l.cancel = context.WithCancelCause(b.ctx)
	l.asked.Store(never)
	l.touch(&l.fed, time.Now())
	return l
}

// look wakes the loop up to decide again.
func (l *lease) look() {
	select {
	case l.nudge <- struct{}{}:
	default:
	}
}

// start sets the loop going if it does not run.
func (l *lease) start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.startLocked()
}

func (l *lease) startLocked() (started bool) {
	if l.gone.Load() || l.awake.Load() {
		return false
	}
	l.b.life.RLock()
	defer l.b.life.RUnlock()
	if l.b.ended {
		return false
	}
	l.awake.Store(true)
	l.b.wg.Go(l.loop)
	return true
}

func (l *lease) flightLocked() *flight {
	if l.next == nil {
		l.next = &flight{done: make(chan struct{})}
	}
	return l.next
}

func (l *lease) loop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer l.idles()
	for {
		l.works(mintDeadline)
		l.load()
		l.mu.Lock()
		act, wait := decide(l.viewLocked(time.Now()))
		switch act {
		case actLapse:
			// Asleep first, then look once more: a caller either sees that the loop
			// sleeps, or has been seen.
			l.awake.Store(false)
			if again, _ := decide(l.viewLocked(time.Now())); again != actLapse {
				l.awake.Store(true)
				l.mu.Unlock()
				continue
			}
			l.mu.Unlock()
			l.b.obs.Observe(Event{Kind: EventLapsed, Profile: l.spec.Load().Name})
			return
		case actMint:
			l.minting.Store(true)
			var code Secret
			if l.login != nil {
				code = l.login.code
			}
			strict := l.strict
			l.forced, l.strict, l.login, l.mended, l.began = false, false, nil, false, time.Now()
			l.flightLocked()
			l.mu.Unlock()
			set, err := l.mint(code, strict)
			l.land(set, err)
			continue
		case actWait:
			l.mu.Unlock()
		}
		timer.Reset(wait)
		l.idles()
		select {
		case <-timer.C:
		case <-l.nudge:
		case <-l.ctx.Done():
			l.end()
			return
		}
	}
}

func (l *lease) viewLocked(now time.Time) view {
	v := view{
		idle: l.idle(now), prefetch: l.spec.Load().Prefetch, waiting: l.waiters.Load() > 0, forced: l.forced,
		person:   l.spec.Load().byPerson() != nil,
		failures: l.failures, permanent: l.last != nil && !l.last.Kind.Passes(),
		retryIn: l.retryAt.Sub(now), tried: now.Sub(l.began),
	}
	if set := l.set.Load(); set != nil && set.Left(now) > 0 {
		v.held, v.lifetime, v.left, v.renewAt = true, set.Lifetime(), set.Left(now), set.renewAt
	}
	return v
}

// land publishes the result of a mint.
func (l *lease) land(set *Set, err *Error) {
	now := time.Now()
	probing := l.spec.Load().budget.probing()
	l.mu.Lock()
	l.minting.Store(false)
	f := l.next
	l.next = nil
	if l.gone.Load() { // what came is nobody's any more
		set, err = nil, l.ended()
	}
	if err == nil {
		l.holdLocked(set)
	} else if l.mended {
		l.tries = tries{began: l.began} // the next try may find it otherwise
	} else if held := l.set.Load(); held != nil && held.Left(now) > held.renewAt && held.AccessKeyID != l.rejected && l.spec.Load().byPerson() != nil {
		// A person's attempt that nothing depended on, and that nothing will repeat:
		// only the person has to know.
	} else {
		l.stale.Store(true)
		l.failures++
		l.last = err
		wait := negative(l.failures)
		if err.Kind.Passes() {
			var left time.Duration
			if held := l.set.Load(); held != nil {
				left = max(0, held.Left(now))
			}
			wait = backoff(l.failures, left, l.b.rand())
			if probing {
				wait = min(wait, probeEvery) // the bucket says when
			}
		}
		l.retryAt = now.Add(wait)
	}
	l.mu.Unlock()
	if f != nil {
		f.set, f.err = set, err
		close(f.done)
	}
}

// adopt publishes a set that nobody had to mint now: what the store had. To whom
// insists on a mint, it is no answer.
func (l *lease) adopt(set *Set) {
	l.mu.Lock()
	if l.gone.Load() || l.minting.Load() {
		l.mu.Unlock()
		return
	}
	set.Generation = l.counted + 1
	l.holdLocked(set)
	var f *flight
	if !l.forced {
		f, l.next = l.next, nil
	}
	l.mu.Unlock()
	if f != nil {
		f.set = set
		close(f.done)
	}
}

// nextGeneration is that of a set which takes the place of what is held, or was last.
func (l *lease) nextGeneration() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counted + 1
}

func (l *lease) holdLocked(set *Set) {
	l.counted = set.Generation
	l.set.Store(set)
	l.stale.Store(false)
	l.tries = tries{began: l.began}
}

// end tells whoever waits that nothing will come.
func (l *lease) end() {
	l.mu.Lock()
	l.gone.Store(true)
	f := l.next
	l.next = nil
	l.awake.Store(false)
	l.mu.Unlock()
	if f != nil {
		f.err = l.ended()
		close(f.done)
	}
}

// drop ends the lease for good. why is what those read who wait for it.
func (l *lease) drop(why *Error) {
	l.cancel(why)
	l.mu.Lock()
	l.gone.Store(true)
	running := l.awake.Load()
	l.mu.Unlock()
	if !running {
		l.end()
	}
	l.spec.Load().budget.forget(l)
}

// ended is why the lease is gone.
func (l *lease) ended() *Error {
	if e, ok := errors.AsType[*Error](context.Cause(l.ctx)); ok {
		return e
	}
	return errStopping
}

// forgive forgets what went wrong: what it was refused for is mended. If it holds
// nothing, it may be in the store now.
func (l *lease) forgive() {
	l.mu.Lock()
	l.tries = tries{began: l.began}
	l.mended, l.locked = true, false
	if !l.set.Load().usable(time.Now()) {
		l.loaded = false
	}
	l.mu.Unlock()
	l.stale.Store(false)
	l.look()
}

// retry lets the next look try at once.
func (l *lease) retry() {
	l.mu.Lock()
	l.retryAt = time.Time{}
	l.mu.Unlock()
	l.look()
}

func (l *lease) urgency() urgency {
	set, now := l.set.Load(), time.Now()
	u := urgency{class: 1}
	l.mu.Lock()
	u.tried = now.Sub(l.began)
	l.mu.Unlock()
	switch {
	case !set.usable(now) && l.waiters.Load() > 0:
		u.class = 0
	case set == nil:
		u.class = 2
	}
	if set != nil {
		u.left = set.Left(now)
	}
	return u
}
