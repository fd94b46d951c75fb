package broker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

// isOver reports whether source feeds the profile, near or far.
func (e *entry) isOver(source *entry) bool {
	for p := e.parent; p != nil; p = p.parent {
		if p.key == source.key {
			return true
		}
	}
	return false
}

// of returns the servable profiles that match, or that have a source that does, by the
// key of their lease, and every one that shares it. Of those the first by name stands
// for all.
func (b *Broker) of(match func(*entry) bool) map[Key]*entry {
	entries := *b.profiles.Load()
	matching := map[Key]bool{}
	for _, e := range entries {
		if e.Unservable == nil && match(e) {
			matching[e.key] = true
		}
	}
	all := map[Key]*entry{}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		for e, p := entries[name], entries[name]; p != nil && e.Unservable == nil; p = p.parent {
			if matching[p.key] && all[e.key] == nil {
				all[e.key] = e
			}
		}
	}
	return all
}

// Mended forgets what went wrong with every profile that matches, and with those that
// have such a source: somebody signed in, or unlocked custody, or added a key. They try
// again when next asked; those that are prefetched try now. Those that hold nothing
// look into the store again first, since more may be readable there.
func (b *Broker) Mended(match func(Profile) bool) {
	b.mend(func(e *entry) bool { return match(e.Profile) })
}

func (b *Broker) mend(match func(*entry) bool) {
	all := b.of(match)
	for _, l := range b.all() {
		if all[Key{Digest: l.key.Digest}] != nil {
			l.forgive()
		}
	}
	for _, e := range all {
		if e.Prefetch {
			b.lease(e).start()
		}
	}
}

var errForgotten = &Error{Kind: KindUnavailable, Public: "its session was forgotten while it was waited for; ask again"}

// Forget is a logout. It drops what is held for every profile that matches, and for
// those that have such a source, in memory and in the store, and ends the mints that run
// for them: nothing that comes late brings a set back. It returns how many sets it
// forgot.
//
// The next request finds nothing, and mints or reads that a person must log in. Until
// then a prefetched profile is not minted either. What clients already hold is good
// until it expires. Profiles whose mint parameters are all equal share a set, and so
// lose it together.
//
// When it returns, the store has written that too, as a [Flusher]. The error, an [*Error],
// says that it could not: then sets may come back after a restart.
func (b *Broker) Forget(ctx context.Context, match func(Profile) bool) (n int, err error) {
	if n, err = b.forget(ctx, match); n > 0 {
		b.obs.Observe(Event{Kind: EventForgotten})
	}
	if store, ok := b.store.(Flusher); ok && err == nil {
		err = store.Flush(ctx)
	}
	if err == nil {
		return n, nil
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Kind == KindLocked {
		return n, &Error{Kind: KindLocked, Own: true, Public: "what rests sealed is forgotten only once custody is unlocked: run stsbroker unlock, then log out again", Cause: err}
	}
	return n, &Error{Kind: KindUnavailable, Own: true, Public: "what was forgotten may come back after a restart, since it could not be removed from the file; log out again: " + err.Error(), Cause: err}
}

func (b *Broker) forget(ctx context.Context, match func(Profile) bool) (n int, err error) {
	if s, ok := b.store.(Locker); ok { // so that it is done in the file too when this returns
		if unlock, err := s.Lock(ctx, Key{}); err == nil {
			defer unlock()
		}
	}
	del := b.store.Delete
	if s, ok := b.store.(Forgetter); ok {
		del = s.Forget
	}
	all := b.of(func(e *entry) bool { return match(e.Profile) })
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, l := range b.leases {
		e := all[Key{Digest: k.Digest}]
		if e == nil {
			continue
		}
		l.drop(errForgotten)
		if set := l.disown(); set != nil && set.Left(now) > 0 {
			n++
		} else if k.Subject == "" && b.stored(ctx, k) != nil {
			n++
		}
		delete(b.leases, k)
		if k.Subject != "" {
			continue // an exec's own: not stored, and not to be had again
		}
		if fault := l.wipe(ctx, del); err == nil {
			err = fault
		}
		delete(all, k)
		// Another takes its place and counts on, so that no generation comes twice.
		next := newLease(b, k, l.spec.Load())
		next.loaded, next.counted = true, l.counted
		next.asked.Store(l.asked.Load())
		next.fed.Store(l.fed.Load())
		b.leases[k] = next
	}
	for k := range all { // no lease can come to be meanwhile, and load it
		if b.stored(ctx, k) != nil {
			n++
		}
		if fault := del(ctx, k); err == nil {
			err = fault
		}
	}
	return n, err
}

// disown takes away what a lease that is gone holds: whoever found it before it went
// gets nothing of it any more.
func (l *lease) disown() *Set {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.set.Swap(nil)
}

// Resume goes on with what was in use before a restart, as far as the store has it:
// what came within the last hour is renewed as if it had been asked for then, and so
// lapses when it would have. Nothing is minted that is not due. Call it after
// [Broker.Reload], and again when the store has become readable.
func (b *Broker) Resume() {
	now := time.Now()
	for _, e := range *b.profiles.Load() {
		if e.Unservable != nil || e.Once || e.MFA != "" {
			continue
		}
		if set := b.stored(b.ctx, e.key); set != nil && now.Sub(set.received) < demandLeast {
			b.resume(e, b.second(set.received))
		}
	}
}

func (b *Broker) resume(e *entry, asked int64) {
	b.mu.Lock()
	known := b.leases[e.key] != nil
	l := b.leaseLocked(e, e.key)
	b.mu.Unlock()
	if !known {
		l.fed.Store(never)
	} else if l.awake.Load() || l.set.Load() != nil {
		return
	}
	l.asked.Store(max(asked, l.asked.Load()))
	l.start()
}
