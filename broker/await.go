package broker

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// get is the way of a request. On the fast path it takes no lock.
func (l *lease) get(ctx context.Context, now time.Time, patience time.Duration) (*Set, error) {
	l.touch(&l.asked, now)
	return l.current(ctx, now, patience)
}

// feed is get for a lease that this one is a source of.
func (l *lease) feed(ctx context.Context, patience time.Duration) (*Set, error) {
	now := time.Now()
	l.touch(&l.fed, now)
	return l.current(ctx, now, patience)
}

func (l *lease) current(ctx context.Context, now time.Time, patience time.Duration) (*Set, error) {
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
	l.touch(&l.asked, time.Now())
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
		return nil, l.ended()
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
		if l.locked && person.Kind == KindLoginNeeded { // nobody is asked for a code that was given already
			person = Locked()
		}
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
		if !l.minting.Load() {
			l.forced, l.strict = true, l.strict || must.past == ""
		}
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

// never is when somebody asked who did not, far enough back for any window.
const never = -100 * 365 * 24 * 3600

// touch notes in at that somebody asked. It counts seconds that the host was awake: a
// night asleep is not a night without demand.
func (l *lease) touch(at *atomic.Int64, now time.Time) {
	if s := l.b.second(now); at.Load() != s {
		at.Store(s)
	}
}

// second is now as a lease notes it.
func (b *Broker) second(now time.Time) int64 { return int64(now.Sub(b.start) / time.Second) }

// wanted is when somebody last asked, a caller or a lease that this one feeds.
func (l *lease) wanted() int64 { return max(l.asked.Load(), l.fed.Load()) }

func (b *Broker) since(second int64, now time.Time) time.Duration {
	return now.Sub(b.start) - time.Duration(second)*time.Second
}

func (l *lease) idle(now time.Time) time.Duration { return l.b.since(l.wanted(), now) }
