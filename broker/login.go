package broker

import (
	"cmp"
	"context"
	"math"
	"time"
)

// Login mints with a code of an MFA device: for the profile, or for the source of
// it that waits for one. It then returns what the profile holds; of one that is
// minted once for each exec, what its source holds. Roles that waited for the
// same login try again by themselves.
func (b *Broker) Login(ctx context.Context, a Ask, code Secret) (*Set, error) {
	e, err := b.entry(ctx, a)
	if err != nil {
		return nil, b.refuse(a, err)
	}
	t := b.loginOf(e)
	if t == nil {
		return nil, b.refuse(a, (&Error{Kind: KindConfig, Public: "it needs no login: nothing on its way asks a person for a code"}).forProfile(a.Profile))
	}
	l := b.lease(t)
	l.load()
	before := l.set.Load()
	set, err := l.insist(ctx, a.Patience, &force{code: code})
	if now := l.set.Load(); err != nil && now.usable(time.Now()) && (before == nil || now.Generation != before.Generation) {
		set, err = now, nil // somebody else's login came first, perhaps with the same code
	}
	if err != nil {
		return nil, b.refuse(a, AsError(err).forProfile(a.Profile))
	}
	b.mend(func(e *entry) bool { return e.isOver(t) }) // whatever it was refused, it may have for the new session
	if e.Once {
		return set, nil // the next exec mints
	}
	return b.Get(ctx, a)
}

// loginOf is the profile, or the source of it, that a login is for: the first
// from the source on that holds nothing fresh, else the first that ever needs
// one; nil when none does.
func (b *Broker) loginOf(e *entry) *entry {
	var first, stale *entry
	now := time.Now()
	for p := e; p != nil; p = p.parent {
		if p.MFA == "" {
			continue
		}
		first = p
		if b.waits(p, now) {
			stale = p
		}
	}
	return cmp.Or(stale, first)
}

// waits reports whether what the profile holds is about to end, or worthless.
func (b *Broker) waits(e *entry, now time.Time) bool {
	b.mu.Lock()
	l := b.leases[e.key]
	b.mu.Unlock()
	if l == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	set := l.set.Load()
	return !set.usable(now) || set.Left(now) <= set.renewAt || set.AccessKeyID == l.rejected
}

// remind tells, once for each set that a person's login minted, that it is about to end
// while it is in use: itself, or a profile that it feeds. It does not leave that to the
// set's own lease, which lapses between two renewals of those over it.
func (b *Broker) remind(now time.Time) {
	for _, p := range *b.profiles.Load() {
		if p.MFA == "" || p.Unservable != nil {
			continue
		}
		if l := p.lease.Load(); l != nil && !l.gone.Load() && !l.endsSoon(now) {
			continue
		}
		user := b.userOf(p, now)
		if user == nil {
			continue
		}
		l := b.lease(p)
		l.load() // since a restart, perhaps, nobody asked for it itself
		if left, soon := l.remind(now); soon {
			b.obs.Observe(Event{Kind: EventLoginSoon, Profile: user.Name, Left: left})
		}
	}
}

// userOf is the profile that a person would log in to so that the session goes on: itself
// where it is served, else of those over it the one that was asked for last. It is nil
// when nobody asked for any of them lately.
func (b *Broker) userOf(session *entry, now time.Time) (user *entry) {
	asked := map[Digest]int64{}
	for _, l := range b.all() {
		d := l.key.Digest
		if last, ok := asked[d]; !ok || last < l.asked.Load() {
			asked[d] = l.asked.Load()
		}
	}
	inUse := false
	var userAsked int64
	for _, e := range *b.profiles.Load() {
		own := e.key == session.key
		if e.Hidden || e.Unservable != nil || !own && !e.isOver(session) {
			continue
		}
		at, ok := asked[e.key.Digest]
		lately := ok && b.since(at, now) < demandLeast
		inUse = inUse || lately
		switch {
		case own: // whenever it was asked for itself
			at = math.MaxInt64
		case !lately:
			continue
		}
		if user == nil || at > userAsked || at == userAsked && e.Name < user.Name {
			user, userAsked = e, at
		}
	}
	if !inUse {
		return nil
	}
	return user
}

// endsSoon reports whether what the lease holds is about to end and nobody was told; or
// may be, where the store was not asked yet.
func (l *lease) endsSoon(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, soon := l.endsSoonLocked(now)
	return soon || l.set.Load() == nil && !l.loaded
}

func (l *lease) endsSoonLocked(now time.Time) (left time.Duration, soon bool) {
	set := l.set.Load()
	if set == nil || l.reminded == set.Generation {
		return 0, false
	}
	left = set.Left(now)
	return left, loginSoon(set.Lifetime(), left)
}

// remind reports, once for each set, that it is about to end.
func (l *lease) remind(now time.Time) (left time.Duration, soon bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if left, soon = l.endsSoonLocked(now); soon {
		l.reminded = l.set.Load().Generation
	}
	return left, soon
}
