package broker

import (
	"context"
	"fmt"
	"runtime/debug"
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
	gone    atomic.Bool  // evicted, or no longer defined: never starts again
	asked   atomic.Int64 // when somebody last asked, in seconds that the host was awake
	waiters atomic.Int32

	nudge  chan struct{} // capacity 1: look again
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	next   *flight // whose result callers wait for; nil when nobody does and no mint runs
	forced bool
	login  *force // whose code the next mint takes; nil for none
	loaded bool   // the store was asked
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

// over reports whether the profile is a source of the lease's, near or far.
func (s *spec) over(source *entry) bool {
	for p := s.parent; p != nil; p = p.parent {
		if p.key == source.key {
			return true
		}
	}
	return false
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
	l.touch(time.Now())
	return l
}

// get is the way of a request. On the fast path it takes no lock.
func (l *lease) get(ctx context.Context, now time.Time, patience time.Duration) (*Set, error) {
	l.touch(now)
	set := l.set.Load()
	if set.usable(now) && l.awake.Load() && !stepped(set, now) && !l.overdue(set, now) {
		return set, nil
	}
	return l.await(ctx, patience, nil)
}

// overdue reports whether renewal should have begun some while ago, has not
// failed, and yet nobody works on it: the host slept through the moment.
func (l *lease) overdue(set *Set, now time.Time) bool {
	return set.Left(now) < set.renewAt-set.margin && !l.minting.Load() && !l.stale.Load() && l.spec.Load().byPerson() == nil
}

// force is a wish that a mint be made now, of a person or of a lease that it feeds.
type force struct {
	code Secret // of an MFA device, zero for none
	past string // key id of the set that is no good; another one will do. "" for a mint whatever is held
}

// insist waits for a mint that began after it was called: one that began earlier
// may fail of what is mended now. What is left of a code is forgotten.
func (l *lease) insist(ctx context.Context, patience time.Duration, f *force) (*Set, error) {
	l.touch(time.Now())
	joined := l.minting.Load()
	until := time.Now().Add(patience)
	set, err := l.await(ctx, patience, f)
	if left := time.Until(until); err != nil && joined && left > 0 && ctx.Err() == nil {
		set, err = l.await(ctx, left, f)
	}
	l.mu.Lock()
	if l.login == f {
		l.login = nil
	}
	l.mu.Unlock()
	return set, err
}

// await makes sure that somebody works on the lease, and waits for that only
// if there is nothing to hand out, or if renewal should long have begun and has
// not (a lapsed lease, a host that slept). must is nil where nobody insists.
func (l *lease) await(ctx context.Context, patience time.Duration, must *force) (*Set, error) {
	if l.spec.Load().byPerson() != nil {
		l.load() // before anybody is asked for what may rest in the store
	}
	now := time.Now()
	if set := l.set.Load(); set != nil && stepped(set, now) {
		l.b.clockStepped(now)
	}
	l.mu.Lock()
	if l.gone.Load() || l.b.ctx.Err() != nil {
		l.mu.Unlock()
		return nil, errStopping
	}
	set := l.set.Load()
	if must != nil && must.past != "" && set != nil && set.AccessKeyID != must.past {
		l.mu.Unlock()
		return set, nil
	}
	usable := set.usable(now)
	if !usable && must == nil && l.last != nil && !l.last.Kind.Passes() && now.Before(l.retryAt) {
		err := l.last
		l.mu.Unlock()
		return nil, err
	}
	person := l.spec.Load().byPerson()
	if !usable && must == nil && person != nil && !l.minting.Load() {
		l.mu.Unlock()
		return nil, person
	}
	wait := must != nil || !usable || l.overdue(set, now)
	if l.startLocked() && person == nil {
		wait = wait || set.Left(now) <= set.renewAt // it lapsed
	}
	if !wait {
		l.mu.Unlock()
		return set, nil
	}
	if must != nil {
		l.forced = l.forced || !l.minting.Load()
		if !must.code.IsZero() {
			l.login = must
		}
	}
	f := l.flightLocked()
	l.waiters.Add(1)
	l.mu.Unlock()
	l.b.waiters.Add(1)
	l.look()

	timer := time.NewTimer(patience)
	var err *Error
	select {
	case <-f.done:
		set, err = f.set, f.err
	case <-timer.C:
		err = l.impatient(patience, nil)
	case <-ctx.Done():
		err = l.impatient(patience, context.Cause(ctx))
	}
	timer.Stop()
	l.waiters.Add(-1)
	l.b.waiters.Add(-1)
	if err == nil {
		return set, nil
	}
	if held := l.set.Load(); held.usable(time.Now()) && must == nil {
		return held, nil
	}
	return nil, err
}

// impatient is what a caller is told whose wait ended before the mint did.
func (l *lease) impatient(patience time.Duration, cause error) *Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &Error{Kind: KindTimeout, Cause: cause}
	if l.last != nil {
		e.Code, e.Public = l.last.Code, "no credentials yet, still trying; the last try failed: "+l.last.Public
		if cause == nil {
			e.Cause = l.last
		}
		return e
	}
	e.Public = fmt.Sprintf("no credentials yet: %s, or what it needs first, has not answered within %v; ask again, the broker goes on waiting for it",
		l.spec.Load().Action, patience)
	return e
}

// touch notes that somebody asked. It counts seconds that the host was awake: a
// night asleep is not a night without demand.
func (l *lease) touch(now time.Time) {
	if s := int64(now.Sub(l.b.start) / time.Second); l.asked.Load() != s {
		l.asked.Store(s)
	}
}

func (l *lease) idle(now time.Time) time.Duration {
	return now.Sub(l.b.start) - time.Duration(l.asked.Load())*time.Second
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
	l.load()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
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
			l.forced, l.login, l.began = false, nil, time.Now()
			l.flightLocked()
			l.mu.Unlock()
			set, err := l.mint(code)
			l.land(set, err)
			continue
		case actWait:
			l.mu.Unlock()
		}
		timer.Reset(wait)
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

// land publishes the result of a mint, or of a load from the store.
func (l *lease) land(set *Set, err *Error) {
	now := time.Now()
	probing := l.spec.Load().budget.probing()
	l.mu.Lock()
	l.minting.Store(false)
	f := l.next
	l.next = nil
	if err == nil {
		l.set.Store(set)
		l.stale.Store(false)
		l.tries = tries{began: l.began}
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

// end tells whoever waits that nothing will come.
func (l *lease) end() {
	l.mu.Lock()
	l.gone.Store(true)
	f := l.next
	l.next = nil
	l.awake.Store(false)
	l.mu.Unlock()
	if f != nil {
		f.err = errStopping
		close(f.done)
	}
}

// drop ends the lease for good.
func (l *lease) drop() {
	l.cancel(errStopping)
	l.mu.Lock()
	l.gone.Store(true)
	running := l.awake.Load()
	l.mu.Unlock()
	if !running {
		l.end()
	}
	l.spec.Load().budget.forget(l)
}

// forgive forgets what went wrong: what it was refused for is mended.
func (l *lease) forgive() {
	l.mu.Lock()
	l.tries = tries{began: l.began}
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

// load asks the store, once, for what an earlier lease of the same parameters held.
func (l *lease) load() {
	l.mu.Lock()
	asked := l.loaded
	l.loaded = true
	l.mu.Unlock()
	if asked || l.set.Load() != nil {
		return
	}
	st, err := l.b.store.Load(l.ctx, l.key)
	if err != nil {
		return // ErrNotFound, or a store that fails: a mint mends both
	}
	// A store that outlives the process knows the wall clock alone; from here on the
	// monotonic one counts too, or a clock set back would lengthen the set's life.
	now := time.Now()
	past := max(now.Sub(st.Received), wallSince(now, st.Received))
	if past < -stepTolerance {
		return // it is of a later time than now: nobody knows what is left of it
	}
	if set := newSet(st.Credentials, now.Add(-max(0, past)), 1, l.b.rand()); set.usable(now) {
		l.land(set, nil)
	}
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

// mint makes one call, from the parent's credentials to the checked answer. If
// STS no longer accepts those, they are renewed first, and it makes one more.
func (l *lease) mint(code Secret) (*Set, *Error) {
	s := l.spec.Load()
	note := ""
	for {
		in, signer, err := l.input(s)
		if l.ctx.Err() != nil {
			return nil, errStopping
		}
		if err != nil {
			return nil, l.failed(s, 0, err)
		}
		in.Code = code
		began := time.Now()
		c, err := l.call(s, in)
		took := time.Since(began)
		if l.ctx.Err() != nil {
			return nil, errStopping // dropped meanwhile: the outcome is nobody's
		}
		if err == nil {
			err = complete(c)
		}
		var e *Error
		if err != nil {
			e = AsError(err)
		}
		for _, other := range s.budget.report(l, e) {
			other.(*lease).retry()
		}
		switch {
		case e == nil:
			c.Note = joinNote(c.Note, note)
			return l.issued(s, c, took)
		case !e.Signer || signer == nil || note != "":
			return nil, l.failed(s, took, e)
		}
		note = "STS no longer accepted the credentials of its source, so those were renewed first"
		switch renewed, err := l.b.lease(s.parent).renewPast(l.ctx, signer, s.parent.deadline()); {
		case err != nil:
			return nil, l.failed(s, took, ofSource(s, err))
		case !renewed:
			return nil, l.failed(s, took, e)
		}
	}
}

// renewPast makes sure that the set is not the current one any more, and reports
// whether that is so. One that just came is not renewed: another would be no better.
func (l *lease) renewPast(ctx context.Context, set *Set, patience time.Duration) (renewed bool, err error) {
	now := time.Now()
	l.mu.Lock()
	held, last := l.set.Load(), l.last
	if held == nil || held.AccessKeyID != set.AccessKeyID {
		l.mu.Unlock()
		return true, nil
	}
	l.rejected = set.AccessKeyID
	if last == nil || !now.Before(l.retryAt) {
		last = nil
	}
	l.mu.Unlock()
	switch {
	case last != nil: // a renewal failed just now
		return false, last
	case now.Sub(held.received) < renewGap:
		return false, nil
	}
	if st, err := l.b.store.Load(ctx, l.key); err == nil && st.AccessKeyID == set.AccessKeyID {
		_ = l.b.store.Delete(ctx, l.key) // else a restart would hand it out again; a mint stores the next
	}
	_, err = l.await(ctx, patience, &force{past: set.AccessKeyID})
	return err == nil, err
}

// issued turns the answer into the lease's next set.
func (l *lease) issued(s *spec, c Credentials, took time.Duration) (*Set, *Error) {
	now := time.Now()
	generation := uint64(1)
	if held := l.set.Load(); held != nil {
		generation = held.Generation + 1
	}
	set := newSet(c, now, generation, l.b.rand())
	if !set.usable(now) {
		return nil, l.failed(s, took, &Error{Kind: KindUnavailable, Public: s.Action + " answered credentials that are as good as expired"})
	}
	if s.Once {
		set.renewAt = 0
	} else {
		if generation > 1 { // a store keeps what ends later, and this one takes the other's place
			_ = l.b.store.Delete(l.ctx, l.key)
		}
		if err := l.b.store.PutIfNewer(l.ctx, l.key, Stored{c, now, s.local()}); err != nil {
			c.Note = joinNote(c.Note, "not stored: "+err.Error())
		}
	}
	l.b.obs.Observe(Event{
		Kind: EventMinted, Profile: s.Name, Action: s.Action, Region: regionOf(c, s), KeyID: c.AccessKeyID, Generation: generation,
		Took: took, Left: set.Left(now), Renewal: max(0, set.Left(now)-set.renewAt), Note: c.Note,
	})
	return set, nil
}

// regionOf is where the set was minted, which may be another region than the profile's.
func regionOf(c Credentials, s *spec) string {
	if c.Region != "" {
		return c.Region
	}
	return s.Region
}

func joinNote(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

// input waits for what signs the call, and for a place in the budget. signer is
// the set that does, nil where a key does, or nothing.
func (l *lease) input(s *spec) (in MintInput, signer *Set, err error) {
	for {
		if s.parent != nil {
			set, err := l.b.lease(s.parent).get(l.ctx, time.Now(), s.parent.deadline())
			if err != nil {
				return in, nil, ofSource(s, err)
			}
			signer, in.Parent = set, set.Material()
		}
		if err := s.budget.acquire(l.ctx, l); err != nil {
			return in, nil, err
		}
		if signer == nil || signer.usable(time.Now()) {
			break // a place may take long in an outage: a source that ran out meanwhile is asked for again
		}
	}
	if s.Parent.Key != "" {
		m, err := l.b.keys.Key(l.ctx, s.Parent.Key)
		if err != nil {
			return in, nil, err
		}
		in.Parent = m
	}
	return in, signer, nil
}

// ofSource is an error of the profile's source. A login is asked for by the name
// of the profile itself, and so passed on as it is.
func ofSource(s *spec, err error) *Error {
	e := AsError(err)
	if e.Kind == KindLoginNeeded {
		return e
	}
	e = e.forProfile(s.parent.Name)
	e.Profile, e.Public = "", "its source, "+e.Public
	return e
}

// call runs the minter on a context of its own: no caller's leaving ends it, and
// its panic is an error like any other.
func (l *lease) call(s *spec, in MintInput) (c Credentials, err error) {
	ctx, cancel := context.WithTimeout(l.ctx, deadline(s.Minter))
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			// The value may hold what was being worked on; where it happened is enough.
			err = &Error{Kind: KindUnavailable, Public: s.Action + " failed inside the broker; please report this", Cause: fmt.Errorf("panic (%T) in mint: %s", r, debug.Stack())}
		}
	}()
	return s.Minter.Mint(ctx, in)
}

// deadline is how long one mint may take.
func deadline(m Minter) time.Duration {
	if m, ok := m.(interface{ Deadline() time.Duration }); ok {
		return m.Deadline()
	}
	return mintDeadline
}

// deadline is how long credentials of the profile may take, with those of all
// its sources.
func (e *entry) deadline() (d time.Duration) {
	for p := e; p != nil; p = p.parent {
		d += deadline(p.Minter)
	}
	return d
}

func (l *lease) failed(s *spec, took time.Duration, err error) *Error {
	e := AsError(err)
	l.b.obs.Observe(Event{Kind: EventMintFailed, Profile: s.Name, Action: s.Action, Region: s.Region, Took: took, Err: e})
	return e
}

// complete refuses an answer that no client could use, whoever minted it.
func complete(c Credentials) error {
	var what string
	switch {
	case !ValidKeyID(c.AccessKeyID):
		what = "without a well-formed access key id"
	case c.SecretAccessKey.IsZero():
		what = "without a secret access key"
	case c.SessionToken.IsZero():
		what = "without a session token"
	case !c.Expires.After(c.Issued):
		what = "that are expired, or without an expiry"
	default:
		return nil
	}
	return &Error{Kind: KindUnavailable, Public: "the answer held credentials " + what + "; refused"}
}
