package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options are what a [Broker] is made from. Keys may be nil when no profile
// names one; every other field must be set, except Rand.
type Options struct {
	Keys     Keys
	Store    LeaseStore
	Access   Authorizer
	Observer Observer
	Rand     func() float64 // jitter, in [0, 1); nil for math/rand/v2

	// Gate is asked before a set is handed out, with the event that tells of it; nil
	// for none. Its error refuses the caller, who may ask again.
	Gate func(Event) error
}

// Broker keeps the leases of all profiles. Its methods may be called from any
// goroutine.
type Broker struct {
	keys  Keys
	store LeaseStore
	auth  Authorizer
	obs   Observer
	rand  func() float64
	gate  func(Event) error

	start   time.Time
	ticked  atomic.Int64 // when Run last looked at the clocks, since start; 0: it does not run
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	life    sync.RWMutex // of ended: no loop starts once Run has begun to wait for them
	ended   bool
	waiters atomic.Int32

	profiles atomic.Pointer[map[string]*entry]
	era      atomic.Uint64 // odd while profiles, and the rules about them, change

	mu      sync.Mutex
	leases  map[Key]*lease
	budgets map[string]*budget
}

// entry is a profile as configured, and its lease once somebody asked.
type entry struct {
	Profile
	key    Key
	parent *entry
	lease  atomic.Pointer[lease]
}

// New returns a broker that has no profiles yet; see [Broker.Reload]. Whoever
// makes one must let [Broker.Run] return, which ends what the broker started.
func New(o Options) *Broker {
	b := &Broker{
		keys: o.Keys, store: o.Store, auth: o.Access, obs: o.Observer, rand: o.Rand, gate: o.Gate,
		start: time.Now(), leases: map[Key]*lease{}, budgets: map[string]*budget{},
	}
	if b.rand == nil {
		b.rand = rand.Float64
	}
	b.profiles.Store(&map[string]*entry{})
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

// Run watches the clocks until ctx ends, then ends every lease and waits for
// their loops. Get works before and during Run, and fails after it.
func (b *Broker) Run(ctx context.Context) error {
	defer func() {
		b.life.Lock()
		b.ended = true
		b.life.Unlock()
		b.ticked.Store(0)
		b.cancel()
		b.wg.Wait()
	}()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	last := time.Now()
	for {
		b.ticked.Store(int64(time.Since(b.start)) + 1)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := time.Now()
		if jump := wallSince(now, last) - now.Sub(last); jump.Abs() > stepTolerance {
			b.clockStepped(now)
		}
		last = now
		b.remind(now)
	}
}

// Get returns the profile's current credentials. When nothing usable is held it
// waits for the mint that runs, or starts it, for at most a.Patience; it never
// waits otherwise. The error is always an [*Error] that names the profile.
func (b *Broker) Get(ctx context.Context, a Ask) (*Set, error) {
	var l *lease
	var set *Set
	until := time.Now().Add(a.Patience)
	now := time.Now()
	for {
		e, err := b.entry(ctx, a)
		if err != nil {
			return nil, b.refuse(a, err)
		}
		l = b.leaseFor(e, a.Caller)
		if set, err = l.get(ctx, now, time.Until(until)); err == nil {
			break
		}
		if errors.Is(err, errStopping) && l.gone.Load() && b.ctx.Err() == nil && ctx.Err() == nil && time.Until(until) > 0 {
			now = time.Now()
			continue // a reload made another profile of it: that one is waited for
		}
		return nil, b.refuse(a, AsError(err).forProfile(a.Profile))
	}
	if set.received.After(now) { // it came while the caller waited
		now = set.received
	}
	served := Event{
		Kind: EventServed, Profile: a.Profile, Caller: a.Caller, Generation: set.Generation,
		KeyID: set.AccessKeyID, AccountID: set.AccountID, RoleARN: set.RoleARN, Expires: set.Expires,
		Left: set.Left(now), Stale: l.stale.Load(),
	}
	if b.gate != nil {
		if err := b.gate(served); err != nil {
			return nil, b.refuse(a, &Error{Kind: KindUnavailable, Profile: a.Profile, Cause: err, Own: true,
				Public: "profile " + a.Profile + ": credentials are held, and not handed out: " + err.Error()})
		}
	}
	b.obs.Observe(served)
	return set, nil
}

// Refresh mints now, whatever is held, and forgets earlier failures. While it
// fails, what is held goes on being served.
func (b *Broker) Refresh(ctx context.Context, a Ask) (*Set, error) {
	e, err := b.entry(ctx, a)
	if err != nil {
		return nil, b.refuse(a, err)
	}
	for p := e.parent; p != nil; p = p.parent {
		b.lease(p).retry()
	}
	set, err := b.leaseFor(e, a.Caller).insist(ctx, a.Patience, &force{})
	if err != nil {
		return nil, b.refuse(a, AsError(err).forProfile(a.Profile))
	}
	return set, nil
}

func (b *Broker) all() []*lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Values(b.leases))
}

func (b *Broker) refuse(a Ask, err error) error {
	e := AsError(err)
	b.obs.Observe(Event{Kind: EventRefused, Profile: cmp.Or(e.Profile, a.Profile), Caller: a.Caller, Err: e})
	return e
}

// entry authorizes and finds the profile. What the caller reads does not tell
// whether a profile exists that it may not have.
func (b *Broker) entry(ctx context.Context, a Ask) (*entry, error) {
	e, err := b.allowed(ctx, a)
	switch {
	case err != nil:
		return nil, err
	case e == nil || e.Hidden:
		why := errors.New("no profile of that name is configured")
		if e != nil {
			why = fmt.Errorf("excluded by aws_profiles, used only as a source (%s)", e.Origin)
		}
		return nil, &Error{Kind: KindForbidden, Profile: a.Profile, Public: "this caller may not have that profile, or there is none of that name; stsbroker status lists the profiles", Cause: why}
	case e.Unservable != nil:
		return nil, &Error{Kind: KindConfig, Profile: a.Profile, Public: "profile " + a.Profile + " is unservable: " + e.Unservable.Error()}
	}
	if e.Once && !a.Caller.Exec {
		return nil, &Error{Kind: KindForbidden, Profile: a.Profile, Public: "profile " + a.Profile + " is for exec alone (" + e.Action + "): run stsbroker exec " + a.Profile + " -- COMMAND"}
	}
	return e, nil
}

// allowed authorizes, and finds the profile as it was defined when that was allowed: a
// reload may give a profile to somebody and make another one of it at once.
func (b *Broker) allowed(ctx context.Context, a Ask) (*entry, error) {
	for {
		era := b.era.Load()
		if era%2 != 0 { // for a few instructions
			runtime.Gosched()
			continue
		}
		err := b.auth.Authorize(ctx, a.Caller, a.Profile)
		e := (*b.profiles.Load())[a.Profile]
		if b.era.Load() == era {
			return e, err
		}
	}
}

// leaseFor returns the lease that serves the caller: where each exec has
// credentials of its own, that of its token.
func (b *Broker) leaseFor(e *entry, who Caller) *lease {
	if !e.Once {
		return b.lease(e)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.leaseLocked(e, Key{e.key.Digest, who.Token})
}

// Release forgets what was minted for the token of one exec.
func (b *Broker) Release(token string) {
	b.mu.Lock()
	var gone []*lease
	for k, l := range b.leases {
		if k.Subject != "" && k.Subject == token {
			gone = append(gone, l)
			delete(b.leases, k)
		}
	}
	b.mu.Unlock()
	for _, l := range gone {
		l.drop(errStopping)
	}
}

// lease returns the entry's lease, made on first use. Of an entry that a reload
// has replaced it returns one that is gone.
func (b *Broker) lease(e *entry) *lease {
	if l := e.lease.Load(); l != nil && !l.gone.Load() {
		return l
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.leaseLocked(e, e.key)
	if !l.gone.Load() {
		e.lease.Store(l)
	}
	return l
}

func (b *Broker) leaseLocked(e *entry, k Key) *lease {
	if (*b.profiles.Load())[e.Name] != e {
		l := newLease(b, k, &spec{Profile: e.Profile})
		l.drop(errStopping)
		return l
	}
	l := b.leases[k]
	if l == nil {
		if len(b.leases) >= mostLeases {
			b.evictLocked()
		}
		l = newLease(b, k, b.specLocked(e))
		b.leases[k] = l
	}
	return l
}

// evictLocked drops the lease that nobody asked for the longest, sparing those
// that nobody has to ask for. What it held rests in the store.
func (b *Broker) evictLocked() {
	var oldest *lease
	for _, l := range b.leases {
		if !l.spec.Load().Prefetch && (oldest == nil || l.wanted() < oldest.wanted()) {
			oldest = l
		}
	}
	if oldest == nil {
		return
	}
	delete(b.leases, oldest.key)
	oldest.drop(errStopping)
}

func (b *Broker) specLocked(e *entry) *spec {
	s := &spec{Profile: e.Profile, parent: e.parent}
	if e.Bucket != "" {
		if b.budgets[e.Bucket] == nil {
			b.budgets[e.Bucket] = newBudget()
		}
		s.budget = b.budgets[e.Bucket]
	}
	return s
}

// Reload replaces the profiles. A lease whose mint parameters are unchanged, in
// its parents too, goes on with what it holds; earlier failures are forgotten.
// Profiles whose sources are missing, unservable or go round in a circle become
// unservable, with that reason.
func (b *Broker) Reload(profiles []Profile) { b.ReloadWith(profiles, func() {}) }

// ReloadWith is [Broker.Reload], together with what says who may have what: rules puts that in place,
// and does nothing else. Nobody is served by the old rules what a profile newly is, or by
// the new ones what it was.
func (b *Broker) ReloadWith(profiles []Profile, rules func()) {
	entries := resolve(profiles)
	b.mu.Lock()
	wanted := map[Key]*entry{}
	for _, p := range profiles { // in the order given: of those that share a lease, the first names it
		if e := entries[p.Name]; e.Unservable == nil && wanted[e.key] == nil {
			wanted[e.key] = e
		}
	}
	var gone, kept []*lease
	for k, l := range b.leases {
		e := wanted[Key{Digest: k.Digest}]
		if e == nil {
			gone = append(gone, l)
			delete(b.leases, k)
			continue
		}
		l.spec.Store(b.specLocked(e))
		kept = append(kept, l)
	}
	b.era.Add(1)
	rules()
	b.profiles.Store(&entries)
	b.era.Add(1)
	b.mu.Unlock()

	for _, l := range gone {
		l.drop(errStopping)
		_ = l.wipe(context.WithoutCancel(b.ctx), b.store.Delete) // it could not be loaded again: its key names parameters that are gone
	}
	for _, l := range kept {
		l.retry()
	}
	for _, e := range entries {
		if e.Prefetch && e.Unservable == nil {
			b.lease(e).start()
		}
	}
}

// resolve links profiles to their parents and computes lease keys.
func resolve(profiles []Profile) map[string]*entry {
	entries := make(map[string]*entry, len(profiles))
	for _, p := range profiles {
		entries[p.Name] = &entry{Profile: p}
	}
	done := map[*entry]bool{}
	var visit func(e *entry, path []string)
	visit = func(e *entry, path []string) {
		if done[e] {
			return
		}
		if i := slices.Index(path, e.Name); i >= 0 {
			e.Unservable = fmt.Errorf("%s: its sources go round in a circle: %s", e.Origin, strings.Join(append(path[i:], e.Name), " -> "))
			done[e] = true
			return
		}
		if e.Unservable == nil && e.Parent.Profile != "" {
			p := entries[e.Parent.Profile]
			if p == nil {
				e.Unservable = fmt.Errorf("%s: its source %q is not a profile", e.Origin, e.Parent.Profile)
			} else {
				visit(p, append(path, e.Name))
				if p.Once && e.Unservable == nil {
					e.Unservable = fmt.Errorf("%s: its source %s is for exec alone, and cannot feed another profile", e.Origin, p.Name)
				}
				if p.Unservable != nil && e.Unservable == nil {
					e.Unservable = fmt.Errorf("%s: its source %s is unservable: %w", e.Origin, p.Name, p.Unservable)
				}
				e.parent = p
			}
		}
		done[e] = true
		if e.Unservable != nil {
			return
		}
		parent := Digest{}
		if e.parent != nil {
			parent = e.parent.key.Digest
		}
		e.key = Key{Digest: DigestOf("lease", e.Minter.Digest().String(), e.Parent.Key, e.Signer, parent.String())}
	}
	prefetched := map[Key]bool{}
	for _, p := range profiles {
		e := entries[p.Name]
		visit(e, nil)
		prefetched[e.key] = prefetched[e.key] || e.Prefetch
	}
	for _, e := range entries { // those that share a lease share this too
		e.Prefetch = e.Unservable == nil && prefetched[e.key] && !e.Once
	}
	return entries
}

// stepped reports whether the wall clock jumped since the set was anchored.
func stepped(s *Set, now time.Time) bool { return s.stepped(now).Abs() > stepTolerance }

// clockStepped puts every set on the clock as it now is, and lets every lease
// decide anew; the budget keeps them from calling all at once.
func (b *Broker) clockStepped(now time.Time) {
	var far time.Duration
	for _, l := range b.all() {
		l.mu.Lock()
		if set := l.set.Load(); set != nil && stepped(set, now) {
			if step := set.stepped(now); step.Abs() > far.Abs() {
				far = step
			}
			l.set.Store(set.reanchored(now))
		}
		l.mu.Unlock()
		l.look()
	}
	if far != 0 { // else somebody else saw it first
		b.obs.Observe(Event{Kind: EventClockStep, Left: far})
	}
}

var errStopping = &Error{Kind: KindUnavailable, Public: "the broker is stopping or was reloaded; ask again"}
