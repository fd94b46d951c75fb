package broker

import (
	"fmt"
	"slices"
	"time"
)

// How the broker knows of itself that it works: whoever does something that has an end
// says before when that will be, and [Broker.Alive] looks for those who are late.

const (
	hangSlack = 5 * time.Second // late beyond what was promised, on a busy host
	hangTicks = 4               // of the clock watcher that may be missed
)

// works promises that the lease's loop moves on within d and some slack.
func (l *lease) works(d time.Duration) {
	l.due.Store(int64(time.Since(l.b.start)+d+hangSlack) + 1)
}

// idles says that the loop waits for something that may take any time, and is woken up.
func (l *lease) idles() { l.due.Store(0) }

// Alive is nil while [Broker.Run] watches the clocks and every lease's loop moves on as
// it said it would. The error names what hangs. An outage of STS is none: a call
// that is not answered ends at its deadline. Whoever holds the broker's locks for good
// makes it wait for good, so call it with a time limit.
func (b *Broker) Alive() error {
	now := int64(time.Since(b.start))
	if last := b.ticked.Load(); last != 0 && now-last > int64(hangTicks*tick) {
		return fmt.Errorf("the clocks were not looked at for %s", time.Duration(now-last).Round(time.Second))
	}
	for _, l := range b.all() {
		if due := l.due.Load(); due != 0 && now > due {
			s := l.spec.Load()
			return (&Error{Kind: KindUnavailable, Public: fmt.Sprintf("its renewal hangs, %s longer than it may take (%s)", time.Duration(now-due).Round(time.Second), s.Action)}).forProfile(s.Name)
		}
	}
	return nil
}

// prefetched are the profiles that are to be ready without being asked for.
func (b *Broker) prefetched() (all []*entry) {
	for _, e := range *b.profiles.Load() {
		if e.Prefetch && e.Unservable == nil && !e.Hidden {
			all = append(all, e)
		}
	}
	return all
}

// Ready returns the prefetched profiles that hold nothing to hand out, by name; none
// when all do, or none is prefetched.
func (b *Broker) Ready() (waiting []string) {
	now := time.Now()
	for _, e := range b.prefetched() {
		if !b.lease(e).set.Load().usable(now) {
			waiting = append(waiting, e.Name)
		}
	}
	slices.Sort(waiting)
	return waiting
}

// Tried reports whether every prefetched profile has been tried for: it holds something,
// or failed, or waits for a person.
func (b *Broker) Tried() bool {
	now := time.Now()
	for _, e := range b.prefetched() {
		l := b.lease(e)
		l.mu.Lock()
		done := l.set.Load().usable(now) || l.last != nil || e.MFA != ""
		l.mu.Unlock()
		if !done {
			return false
		}
	}
	return true
}
