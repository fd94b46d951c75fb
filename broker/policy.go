package broker

import "time"

// Every number of the renewal policy. Where a number answers what a client
// does, the client is named; sources are those SDKs' own code (November 2026).
const (
	jitterPart = 0.10 // of the lifetime, only ever earlier, drawn once a generation

	backoffFirst   = time.Second
	backoffMost    = time.Minute
	backoffUrgent  = 15 * time.Second // the most once little is left
	backoffWaiting = 2 * time.Second  // the most while nothing is held and somebody waits
	urgentLeft     = 15 * time.Minute

	negativeFirst = 2 * time.Second // after an answer that repeating cannot mend
	negativeMost  = 30 * time.Second

	mintDeadline = 10 * time.Second // of one call, unless the minter asks for more
	mintGap      = time.Second      // at least, between two mints of a lease that no one forces
	renewGap     = time.Minute      // at least, between two because STS rejects what a lease issued

	demandLeast = time.Hour // a lease asked for within this, or its lifetime if longer, is renewed

	stepTolerance = 30 * time.Second // more is a suspend, or a clock that was set
	tick          = 15 * time.Second // at most this long until a suspend is noticed

	loginSoonLeft = 15 * time.Minute // a login's session in use is said to end, or at a quarter of a short one

	mostLeases = 4096
)

// SoftMark is the time left at which renewal of a set starts, jitter aside.
//
// SDKs since mid-2026 ask again at 60 minutes left for lives of 90 minutes and
// more, and at 15 for shorter ones; botocore over IMDS asks at up to 25. The
// broker holds something newer before any of them asks. Clients are told a minute
// less ([Margin]) and a mint takes its time: 32 minutes here are 30 there.
func SoftMark(lifetime time.Duration) time.Duration {
	switch {
	case lifetime >= 90*time.Minute:
		return max(lifetime/2, 65*time.Minute)
	case lifetime > 44*time.Minute: // 45 and more, as counted from STS's whole seconds
		return max(lifetime/2, 32*time.Minute)
	default:
		return lifetime * 6 / 10
	}
}

// RenewLeft is the time left at which this generation is renewed: the soft mark
// and the jitter r, drawn once from [0, 1). Drawing again at every look would
// bias renewals early and bunch them.
func RenewLeft(lifetime time.Duration, r float64) time.Duration {
	return SoftMark(lifetime) + time.Duration(r*jitterPart*float64(lifetime))
}

// Margin is how much earlier than the real expiry the advertised one is, and
// the time left under which a set is no longer handed out without trying for a
// newer one.
func Margin(lifetime time.Duration) time.Duration { return min(time.Minute, lifetime/10) }

// demandWindow is how long after the last ask a lease is still renewed.
func demandWindow(lifetime time.Duration) time.Duration { return max(lifetime, demandLeast) }

// loginSoon reports whether what a person's login minted ends so soon that the person
// should be told, if it is in use.
func loginSoon(lifetime, left time.Duration) bool {
	return left > 0 && left <= min(loginSoonLeft, lifetime/4)
}

// backoff is the wait after a failure that may pass: full jitter on an
// exponential, shorter as expiry comes near, so that even a 15-second set is
// tried for several times. failures counts from 1; left is 0 when nothing is held.
func backoff(failures int, left time.Duration, r float64) time.Duration {
	most := backoffMost
	if left > 0 && left <= urgentLeft {
		most = min(backoffUrgent, max(left/4, backoffFirst))
	}
	return time.Duration(r * float64(min(most, doubled(backoffFirst, failures, most))))
}

// negative is how long an error that repeating cannot mend stands for the
// answer. failures counts from 1.
func negative(failures int) time.Duration {
	return doubled(negativeFirst, failures, negativeMost)
}

func doubled(first time.Duration, failures int, most time.Duration) time.Duration {
	d := first
	for i := 1; i < failures && d < most; i++ {
		d *= 2
	}
	return min(d, most)
}

// view is what a lease knows when it decides what to do next. Durations are
// until, or since, now.
type view struct {
	held     bool
	lifetime time.Duration
	left     time.Duration
	renewAt  time.Duration // of left
	idle     time.Duration // since somebody asked
	prefetch bool
	waiting  bool // somebody waits for the next mint
	forced   bool // a person asked for a mint
	person   bool // only a person's asking may start one: it needs a code, or is for one child alone

	failures  int           // in a row
	permanent bool          // repeating cannot mend the last one
	retryIn   time.Duration // until the next try is allowed
	tried     time.Duration // since the last try began; very long if never
}

type action uint8

const (
	actWait action = iota
	actMint
	actLapse
)

// decide is the whole life of a lease: what to do now, and how long to wait
// before looking again. Pure.
func decide(v view) (action, time.Duration) {
	window := demandWindow(v.lifetime)
	if !v.held {
		window = demandLeast
	}
	usable := v.held && v.left > Margin(v.lifetime)
	switch {
	case v.forced:
		return actMint, 0
	case !v.prefetch && !v.waiting && v.idle >= window:
		return actLapse, 0
	case v.held && v.left > v.renewAt:
		return actWait, v.left - v.renewAt
	case v.person:
		if v.prefetch {
			return actWait, demandLeast
		}
		return actWait, max(window-v.idle, mintGap)
	case v.permanent && !v.prefetch && !v.waiting && !usable:
		return actWait, max(window-v.idle, mintGap) // nobody would get it: the next caller tries again
	}
	wait := v.retryIn
	if v.waiting && !usable && !v.permanent {
		wait = min(wait, backoffWaiting-v.tried)
	}
	if !v.waiting {
		wait = max(wait, mintGap-v.tried)
	}
	if wait > 0 {
		return actWait, wait
	}
	return actMint, 0
}
