package broker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// STS allows about 600 calls/s per account and region, shared with everything
// else in the account; the broker takes a small part.
const (
	budgetRate    = 10.0 // calls per second
	budgetBurst   = 20.0
	budgetLeast   = 0.5              // the rate is never halved below this
	budgetRecover = 10 * time.Second // and gains 1/s every so often
	probeEvery    = 2 * time.Second  // while a whole bucket fails
)

// budget says when a mint may call STS, for one account and region. Whoever is
// most urgent goes first, looked at when a place is free rather than when it
// was asked for: a caller may have come meanwhile.
//
// While several leases fail for reasons that pass, and none succeeds, only one
// call is let through every two seconds, by turns; the first success opens the
// gate for all.
type budget struct {
	mu      sync.Mutex
	rate    float64
	level   float64
	filled  time.Time // when level was right
	raised  time.Time // when rate last changed
	lowered time.Time // when it was last halved
	queue   []*place
	failing map[candidate]struct{} // since the last success
	probe   time.Time              // no call before this, in an outage
	timer   *time.Timer
}

// candidate is who waits for a place in the budget.
type candidate interface{ urgency() urgency }

type urgency struct {
	class int           // 0: nothing usable and callers waiting; 1: holds something; 2: prefetch
	left  time.Duration // until what it holds expires
	tried time.Duration // since it last tried
}

func (u urgency) before(o urgency, outage bool) bool {
	switch {
	case outage: // by turns, so that one that is broken by itself blocks no other
		return u.tried > o.tried
	case u.class != o.class:
		return u.class < o.class
	}
	return u.left < o.left
}

type place struct {
	who   candidate
	ready chan struct{}
}

func newBudget() *budget {
	now := time.Now()
	return &budget{rate: budgetRate, level: budgetBurst, filled: now, raised: now, failing: map[candidate]struct{}{}}
}

// acquire waits for a place. A nil budget has room always.
func (b *budget) acquire(ctx context.Context, who candidate) error {
	if b == nil {
		return nil
	}
	p := &place{who: who, ready: make(chan struct{})}
	b.mu.Lock()
	b.queue = append(b.queue, p)
	b.dispense(time.Now())
	b.mu.Unlock()
	select {
	case <-p.ready:
		return nil
	case <-ctx.Done():
		b.mu.Lock()
		b.remove(p)
		b.mu.Unlock()
		return context.Cause(ctx)
	}
}

// report tells how a call went: err is nil, or how it failed. It returns those
// that failed before and have a better chance now.
func (b *budget) report(who candidate, err *Error) (released []candidate) {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if err != nil && (err.Own || !err.Kind.Passes() && err.Code == "") { // it says nothing of STS
		b.forgetLocked(who, now)
		return nil
	}
	if err == nil || !err.Kind.Passes() { // an answer is an answer: STS is there
		delete(b.failing, who)
		released = slices.Collect(maps.Keys(b.failing))
		clear(b.failing)
		b.probe = time.Time{}
		b.dispense(now)
		return released
	}
	// One halving answers all throttles of one moment, and none is due while calls
	// are probes anyway: else the rate would be at its least when STS is well again.
	if err.Kind == KindThrottled && !b.outage() && now.Sub(b.lowered) >= time.Second {
		b.refill(now)
		b.rate = max(b.rate/2, budgetLeast)
		b.level = min(b.level, b.rate)
		b.raised, b.lowered = now, now
	}
	b.failing[who] = struct{}{}
	if b.outage() && b.probe.IsZero() {
		b.probe = now.Add(probeEvery)
	}
	return nil
}

// probing reports whether the whole bucket fails, and calls are probes by turns.
func (b *budget) probing() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.outage()
}

// forget drops a lease that is gone.
func (b *budget) forget(who candidate) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forgetLocked(who, time.Now())
}

func (b *budget) forgetLocked(who candidate, now time.Time) {
	delete(b.failing, who)
	if !b.outage() {
		b.probe = time.Time{}
	}
	b.dispense(now)
}

// available is the number of calls that could start now.
func (b *budget) available() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill(time.Now())
	return b.level
}

func (b *budget) outage() bool { return len(b.failing) >= 2 }

func (b *budget) refill(now time.Time) {
	for b.rate < budgetRate && now.Sub(b.raised) >= budgetRecover {
		b.rate = min(b.rate+1, budgetRate)
		b.raised = b.raised.Add(budgetRecover)
	}
	b.level = min(budgetBurst, b.level+b.rate*now.Sub(b.filled).Seconds())
	b.filled = now
}

// dispense hands out what places there are, and arms the timer for the next.
func (b *budget) dispense(now time.Time) {
	b.refill(now)
	for len(b.queue) > 0 {
		if in := b.opensIn(now); in > 0 {
			b.arm(in)
			return
		}
		p := b.pop()
		b.level--
		if b.outage() {
			b.probe = now.Add(probeEvery)
		}
		close(p.ready)
	}
}

func (b *budget) opensIn(now time.Time) time.Duration {
	var in time.Duration
	if b.level < 1 {
		// A nanosecond more, so that rounding never finds the level just short of 1.
		in = time.Duration((1-b.level)/b.rate*float64(time.Second)) + 1
	}
	return max(in, b.probe.Sub(now))
}

func (b *budget) arm(in time.Duration) {
	if b.timer == nil {
		b.timer = time.AfterFunc(in, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.dispense(time.Now())
		})
		return
	}
	b.timer.Reset(in)
}

func (b *budget) pop() *place {
	best, bestU := 0, b.queue[0].who.urgency()
	for i, p := range b.queue[1:] {
		if u := p.who.urgency(); u.before(bestU, b.outage()) {
			best, bestU = i+1, u
		}
	}
	p := b.queue[best]
	b.remove(p)
	return p
}

func (b *budget) remove(p *place) {
	for i, q := range b.queue {
		if q == p {
			b.queue = append(b.queue[:i], b.queue[i+1:]...)
			return
		}
	}
}
