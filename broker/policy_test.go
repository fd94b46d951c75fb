package broker

import (
	"testing"
	"time"
)

func TestSoftMarkAndMargin(t *testing.T) {
	for _, c := range []struct{ life, soft, margin time.Duration }{
		{12 * time.Hour, 6 * time.Hour, time.Minute},
		{2 * time.Hour, 65 * time.Minute, time.Minute},
		{90 * time.Minute, 65 * time.Minute, time.Minute},
		{89 * time.Minute, 44*time.Minute + 30*time.Second, time.Minute},
		{time.Hour, 32 * time.Minute, time.Minute},
		{45 * time.Minute, 32 * time.Minute, time.Minute},
		{44 * time.Minute, 26*time.Minute + 24*time.Second, time.Minute},
		{15 * time.Minute, 9 * time.Minute, time.Minute},
		{15 * time.Second, 9 * time.Second, 1500 * time.Millisecond},
	} {
		if got := SoftMark(c.life); got != c.soft {
			t.Errorf("SoftMark(%v) = %v, want %v", c.life, got, c.soft)
		}
		if got := Margin(c.life); got != c.margin {
			t.Errorf("Margin(%v) = %v, want %v", c.life, got, c.margin)
		}
	}
}

// Renewal never starts before the set is there, never after the soft mark, and
// always above what the margin leaves.
func TestRenewLeftBounds(t *testing.T) {
	for life := 10 * time.Second; life <= 36*time.Hour; life += 7 * time.Second {
		for _, r := range []float64{0, 0.5, 0.999} {
			at := RenewLeft(life, r)
			if at < SoftMark(life) || at >= life || at <= Margin(life) {
				t.Fatalf("life %v, r %v: renewed at %v left", life, r, at)
			}
		}
	}
}

func TestBackoff(t *testing.T) {
	for _, c := range []struct {
		failures int
		left     time.Duration
		most     time.Duration
	}{
		{1, 0, time.Second}, {2, 0, 2 * time.Second}, {4, 0, 8 * time.Second}, {7, 0, time.Minute}, {1000, 0, time.Minute},
		{1000, time.Hour, time.Minute},
		{1000, 15 * time.Minute, 15 * time.Second},
		{1000, 6 * time.Second, 1500 * time.Millisecond},
		{1000, time.Second, time.Second},
	} {
		if got := backoff(c.failures, c.left, 1); got != c.most {
			t.Errorf("backoff(%d, %v) up to %v, want %v", c.failures, c.left, got, c.most)
		}
		if got := backoff(c.failures, c.left, 0); got != 0 {
			t.Errorf("no full jitter: at least %v", got)
		}
	}
}

func TestDecide(t *testing.T) {
	long := 24 * time.Hour
	hour := view{held: true, lifetime: time.Hour, left: 50 * time.Minute, renewAt: 33 * time.Minute, tried: 10 * time.Minute}
	change := func(v view, f func(*view)) view { f(&v); return v }
	for _, c := range []struct {
		name string
		v    view
		act  action
		wait time.Duration
	}{
		{"cold, just asked", view{tried: long}, actMint, 0},
		{"cold, nobody asked", view{idle: time.Hour, tried: long}, actLapse, 0},
		{"cold, nobody asked, prefetch", view{idle: long, prefetch: true, tried: long}, actMint, 0},
		{"cold, nobody asked, somebody waits", view{idle: time.Hour, waiting: true, tried: long}, actMint, 0},
		{"fresh", hour, actWait, 17 * time.Minute},
		{"fresh, forced", change(hour, func(v *view) { v.forced = true }), actMint, 0},
		{"due", change(hour, func(v *view) { v.left = 33 * time.Minute }), actMint, 0},
		{"due, idle for an hour", change(hour, func(v *view) { v.left, v.idle = 33*time.Minute, time.Hour }), actLapse, 0},
		{"12 h, idle for 6", view{held: true, lifetime: 12 * time.Hour, left: 6 * time.Hour, renewAt: 6 * time.Hour, idle: 6 * time.Hour, tried: long}, actMint, 0},
		{"due, failing", change(hour, func(v *view) { v.left, v.failures, v.retryIn = 20*time.Minute, 3, 7*time.Second }), actWait, 7 * time.Second},
		{"cold, failing, nobody waits", view{failures: 9, retryIn: 50 * time.Second, tried: long}, actWait, 50 * time.Second},
		{"cold, failing, somebody waits", view{failures: 9, retryIn: 50 * time.Second, tried: 500 * time.Millisecond, waiting: true}, actWait, 1500 * time.Millisecond},
		{"cold, denied, somebody waits", view{failures: 9, permanent: true, retryIn: 20 * time.Second, tried: time.Second, waiting: true}, actWait, 20 * time.Second},
		{"cold, denied, nobody waits", view{failures: 1, permanent: true, retryIn: 0, tried: long, idle: 10 * time.Minute}, actWait, 50 * time.Minute},
		{"held, denied", change(hour, func(v *view) { v.left, v.permanent, v.retryIn = 20*time.Minute, true, 0 }), actMint, 0},
		{"minted a moment ago, due again", view{held: true, lifetime: 2 * time.Second, left: time.Second, renewAt: 1200 * time.Millisecond, tried: 300 * time.Millisecond}, actWait, 700 * time.Millisecond},
	} {
		if act, wait := decide(c.v); act != c.act || wait != c.wait {
			t.Errorf("%s: %v after %v, want %v after %v", c.name, act, wait, c.act, c.wait)
		}
	}
}

func TestLeftTakesTheClockThatSaysMore(t *testing.T) {
	now := time.Now()
	s := newSet(Credentials{Issued: now, Expires: now.Add(time.Hour)}, now, 1, 0)
	later := now.Add(10 * time.Minute)
	for _, c := range []struct{ step, left time.Duration }{
		{0, 50 * time.Minute},
		{20 * time.Minute, 30 * time.Minute},  // slept, or set forward
		{-20 * time.Minute, 50 * time.Minute}, // set back: the monotonic clock still counts
	} {
		if got := s.Left(moveWall(later, c.step)); got != c.left {
			t.Errorf("wall clock %v off: %v left, want %v", c.step, got, c.left)
		}
	}
}
