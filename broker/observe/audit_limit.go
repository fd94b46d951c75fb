package observe

import (
	"time"
)

// limiter decides which denials get a line at once. A stranger chooses how many there
// are and what is in them, and shall neither fill the disk nor push out others' lines:
//
//   - The same denial again (caller, kind, profile, reason) is counted, and the count
//     is told in a line a second after the first, then after two seconds, four, up to
//     a minute. It is forgotten when such a time passes without one.
//   - Different denials of one caller get [allowance] lines at once and one each
//     [refill] from then on. The others are counted together, and told likewise.
//
// A caller is a door, a user and a token, as far as they are known: those of whom
// nothing is known are one caller, because nothing that they say tells them apart.
// With that, one caller causes some 5 MB a day, whatever it does.
type limiter struct {
	same map[denial]*repeats
	from map[denier]*allowed
}

const (
	allowance   = 50
	refill      = 10 * time.Second
	firstWindow = time.Second
	lastWindow  = time.Minute
	mostSame    = 1024 // denials that repeats are looked for of
	mostDeniers = 256  // beyond, all others count as one
)

type denier struct {
	door, token string
	uid         int64
}

type denial struct {
	denier
	kind, call, subject, profile, reason string
}

type repeats struct {
	count  int
	last   *record
	window time.Duration
	until  time.Time
}

type allowed struct {
	left float64
	at   time.Time
}

func newLimiter() limiter {
	return limiter{same: map[denial]*repeats{}, from: map[denier]*allowed{}}
}

// admit reports whether the denial gets a line now, and whether there is now something
// more to look after.
func (l *limiter) admit(r *record, now time.Time) (first, watch bool) {
	d := denial{
		denier: denier{door: r.Door, token: r.TokenID, uid: unknownUID},
		kind:   r.Kind, call: r.Call, subject: r.Subject, profile: r.Profile, reason: r.Reason,
	}
	if r.Peer.UID != nil {
		d.uid = int64(*r.Peer.UID)
	}
	if l.again(d, r) {
		return false, false
	}
	if len(l.same) < mostSame && l.pay(d.denier, now) {
		l.same[d] = &repeats{window: firstWindow, until: now.Add(firstWindow)}
		return true, true
	}
	// Counted with all the others of this caller.
	if l.from[d.denier] == nil {
		d.denier = denier{uid: unknownUID}
	}
	rest := denial{denier: d.denier}
	r = r.ofMany()
	if l.again(rest, r) {
		return false, false
	}
	l.same[rest] = &repeats{window: firstWindow, until: now.Add(firstWindow), count: 1, last: r}
	return false, true
}

// again counts a denial that was told before.
func (l *limiter) again(d denial, r *record) bool {
	s := l.same[d]
	if s == nil {
		return false
	}
	s.count++
	s.last = r
	return true
}

// pay takes one line from the caller's allowance.
func (l *limiter) pay(d denier, now time.Time) bool {
	a := l.from[d]
	if a == nil {
		if len(l.from) >= mostDeniers {
			return false
		}
		a = &allowed{left: allowance, at: now}
		l.from[d] = a
	}
	a.fill(now)
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}

func (a *allowed) fill(now time.Time) {
	a.left = min(allowance, a.left+max(0, now.Sub(a.at).Seconds()/refill.Seconds()))
	a.at = now
}

// due returns the lines of repeats whose time is over, or all, and forgets what is
// quiet.
func (l *limiter) due(now time.Time, all bool) (lines []*record) {
	for d, s := range l.same {
		switch {
		case now.Before(s.until) && !all:
			continue
		case s.count == 0:
			delete(l.same, d)
			continue
		}
		r := *s.last
		r.Count = s.count
		lines = append(lines, &r)
		s.count, s.last = 0, nil
		s.window = min(2*s.window, lastWindow)
		s.until = now.Add(s.window)
	}
	for d, a := range l.from {
		if a.fill(now); a.left >= allowance {
			delete(l.from, d)
		}
	}
	return lines
}

// next is when there may be something due; zero for never.
func (l *limiter) next() (at time.Time) {
	for _, s := range l.same {
		if at.IsZero() || s.until.Before(at) {
			at = s.until
		}
	}
	return at
}
