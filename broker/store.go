package broker

import (
	"context"
	"errors"
	"time"
)

// Locker is a [LeaseStore] that processes share. Before a mint, a lease locks it and
// looks into it again: of many that begin at once, one asks STS.
//
// A process may have it locked for several leases at a time; the lock is against other
// processes. Lock waits until ctx ends, and what unlock does is done when it returns:
// others then find what was put. Who is given an error mints all the same.
type Locker interface {
	Lock(ctx context.Context, k Key) (unlock func(), err error)
}

// Flusher is a [LeaseStore] that writes later what it is told. Flush writes it now, and
// says why it could not: an [*Error] of [KindLocked] where what rests cannot be changed.
// Of what is under way when ctx ends, nobody knows.
type Flusher interface {
	Flush(ctx context.Context) error
}

// Forgetter is a [LeaseStore] that outlives the process, beside others that may hold in
// memory what one of them forgets.
type Forgetter interface {
	// Forget is Delete, and is remembered: what was received until now is not stored
	// under the key again, by anybody.
	Forget(ctx context.Context, k Key) error
	// Forgotten reports whether what was received at that time has been forgotten since.
	Forgotten(ctx context.Context, k Key, received time.Time) bool
}

// forgotten reports whether another process has forgotten the set of the profile.
func (b *Broker) forgotten(e *entry, set *Set) bool {
	store, ok := b.store.(Forgetter)
	return ok && set != nil && store.Forgotten(b.ctx, e.key, set.received)
}

// dropForgotten takes from the sources of a lease what another process has forgotten: its
// logout meant this one too.
func (l *lease) dropForgotten(s *spec) {
	for p := s.parent; p != nil; p = p.parent {
		source := l.b.lease(p)
		set := source.set.Load()
		if !l.b.forgotten(p, set) {
			continue
		}
		source.mu.Lock()
		if source.set.CompareAndSwap(set, nil) {
			source.loaded = false // somebody may have logged in since
		}
		source.mu.Unlock()
	}
}

// stored is what the store has for the key and may still be handed out, nil for nothing.
func (b *Broker) stored(ctx context.Context, k Key) *Set {
	set, _ := b.atRest(ctx, k)
	return set
}

// atRest is stored, and reports whether there may be a set that only a person can make
// readable.
func (b *Broker) atRest(ctx context.Context, k Key) (set *Set, locked bool) {
	st, err := b.store.Load(ctx, k)
	if err != nil { // ErrNotFound, or a store that fails: a mint mends both
		e, ok := errors.AsType[*Error](err)
		return nil, ok && e.Kind == KindLocked
	}
	// A store that outlives the process knows the wall clock alone; from here on the
	// monotonic one counts too, or a clock set back would lengthen the set's life.
	now := time.Now()
	past := max(now.Sub(st.Received), wallSince(now, st.Received))
	if past < -stepTolerance {
		return nil, false // it is of a later time than now: nobody knows what is left of it
	}
	set = newSet(st.Credentials, now.Add(-max(0, past)), 1, b.rand())
	if was := st.Received.Round(0).Add(st.Lifetime() - set.margin); was.Sub(set.Advertised).Abs() < time.Second {
		set.Advertised = was // the two clocks never agree to the nanosecond; clients are told what they were told before
	}
	if !set.usable(now) {
		return nil, false
	}
	return set, false
}

// load asks the store for what an earlier lease of the same parameters held: once, and
// again when something was mended, or while the store is locked.
func (l *lease) load() {
	l.disk.Lock()
	defer l.disk.Unlock()
	l.mu.Lock()
	asked := l.loaded || l.set.Load().usable(time.Now())
	l.loaded = true
	l.mu.Unlock()
	if asked || l.gone.Load() {
		return
	}
	set, locked := l.b.atRest(l.ctx, l.key)
	l.mu.Lock()
	if l.locked = locked; locked {
		l.loaded = false
	}
	l.mu.Unlock()
	if set != nil {
		l.adopt(set)
	}
}

// put stores what was minted, in place of all that was there.
func (l *lease) put(set *Set, local bool) error {
	l.disk.Lock()
	defer l.disk.Unlock()
	if l.gone.Load() {
		return nil
	}
	if set.Generation > 1 { // a store keeps what ends later, and this one takes the other's place
		_ = l.b.store.Delete(l.ctx, l.key)
	}
	return l.b.store.PutIfNewer(l.ctx, l.key, Stored{set.Credentials, set.received, local})
}

// unstore deletes the set, if that is what the store has.
func (l *lease) unstore(ctx context.Context, set *Set) {
	l.disk.Lock()
	defer l.disk.Unlock()
	if st, err := l.b.store.Load(ctx, l.key); err == nil && st.AccessKeyID == set.AccessKeyID {
		_ = l.b.store.Delete(ctx, l.key)
	}
}

// wipe has del delete what the store has for a lease that is gone. Nothing that it still
// mints comes after.
func (l *lease) wipe(ctx context.Context, del func(context.Context, Key) error) error {
	l.disk.Lock()
	defer l.disk.Unlock()
	return del(ctx, l.key)
}

// lockStore locks a store that processes share, for the time of one mint of the lease
// and of what its sources need first. What this process alone has a use for needs none.
func (l *lease) lockStore(s *spec) (unlock func()) {
	store, ok := l.b.store.(Locker)
	if !ok || s.Once || s.local() {
		return func() {}
	}
	patience := deadline(s.Minter)
	if s.parent != nil {
		patience += s.parent.deadline()
	}
	ctx, cancel := context.WithTimeout(l.ctx, patience)
	defer cancel()
	unlock, err := store.Lock(ctx, l.key)
	if err != nil {
		return func() {}
	}
	return unlock
}

// mintedElsewhere is what another process has put into a store that is shared, if it
// makes a mint needless: newer than what is held, fresh, and, if strict, received since
// this try began.
func (l *lease) mintedElsewhere(s *spec, strict bool) *Set {
	if _, shared := l.b.store.(Locker); !shared || s.Once {
		return nil
	}
	l.disk.Lock()
	set := l.b.stored(l.ctx, l.key)
	l.disk.Unlock()
	if set == nil {
		return nil
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.set.Load()
	switch {
	case set.Left(now) <= set.renewAt, set.AccessKeyID == l.rejected, strict && set.received.Before(l.began):
		return nil
	case held != nil && (set.AccessKeyID == held.AccessKeyID || set.Left(now) <= held.Left(now)):
		return nil
	}
	set.Generation = l.counted + 1
	return set
}
