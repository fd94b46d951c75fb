package notify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

var _ broker.Observer = (*Notifier)(nil)

// sent runs a Notifier with a sender that takes some time, for a test in a bubble.
func sent(t *testing.T, o Options, took time.Duration) (*Notifier, *[]string) {
	t.Helper()
	n := New(o)
	var lines []string
	n.send = func(ctx context.Context, n note, replaces uint32) (uint32, error) {
		lines = append(lines, fmt.Sprintf("%d %s: %s", replaces, n.title, n.text))
		select {
		case <-time.After(took):
			return uint32(len(lines)), nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { n.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return n, &lines
}

func failed(profile string, kind broker.Kind) broker.Event {
	return broker.Event{Kind: broker.EventMintFailed, Profile: profile, Err: &broker.Error{Kind: kind, Public: "hunter2"}}
}

func TestWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, lines := sent(t, Options{}, 0)
		for _, e := range []broker.Event{
			{Kind: broker.EventLoginSoon, Profile: "dev", Left: 14*time.Minute + 40*time.Second},
			{Kind: broker.EventLoginSoon, Profile: "ops", Left: 10 * time.Second},
			failed("dev", broker.KindLoginNeeded),
			{Kind: broker.EventRefused, Profile: "a\n<b>\x1b", Err: &broker.Error{Kind: broker.KindLocked, Cause: errors.New("hunter2")}},
		} {
			n.Observe(e)
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		want := []string{
			"0 stsbroker: login needed soon: The session of profile dev ends in 15 min. To go on without a gap, run: stsbroker login dev",
			"0 stsbroker: login needed soon: The session of profile ops ends soon. To go on without a gap, run: stsbroker login ops",
			"1 stsbroker: login needed: Profile dev waits for you. Run: stsbroker login dev",
			"0 stsbroker: custody is locked: Profile a<b> waits for its keys. Run: stsbroker unlock",
		}
		if got := strings.Join(*lines, "\n"); got != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
		}
	})
}

func TestWhatIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, lines := sent(t, Options{}, 0)
		for kind := broker.KindUnavailable; kind <= broker.KindLocked; kind++ {
			if kind != broker.KindLoginNeeded && kind != broker.KindLocked {
				n.Observe(failed("dev", kind))
			}
		}
		for kind := broker.EventMinted; kind <= broker.EventClockStep; kind++ {
			n.Observe(broker.Event{Kind: kind, Profile: "dev"})
		}
		synctest.Wait()
		if len(*lines) > 0 {
			t.Errorf("told: %s", *lines)
		}
	})
}

// An hour of a caller that asks each second, for two profiles and two reasons.
func TestOnceAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, lines := sent(t, Options{}, 0)
		for range 3600 {
			n.Observe(failed("dev", broker.KindLoginNeeded))
			n.Observe(failed("ops", broker.KindLoginNeeded))
			n.Observe(broker.Event{Kind: broker.EventLoginSoon, Profile: "dev"})
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if len(*lines) != 3 {
			t.Errorf("told %d times in an hour, want 3: %s", len(*lines), *lines)
		}
		n.Observe(failed("dev", broker.KindLoginNeeded))
		synctest.Wait()
		if len(*lines) != 4 {
			t.Errorf("told %d times after an hour, want 4", len(*lines))
		}
	})
}

// A hundred profiles at once: three a minute, and each has its turn.
func TestThreeAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, lines := sent(t, Options{}, time.Second)
		most := 0
		for minute := range 50 {
			before := len(*lines)
			for range 60 {
				for i := range 100 {
					n.Observe(failed(fmt.Sprintf("p%d", i), broker.KindLoginNeeded))
				}
				time.Sleep(time.Second)
			}
			synctest.Wait()
			most = max(most, len(*lines)-before)
			if minute == 0 && len(*lines) != 3 {
				t.Errorf("told %d times in the first minute", len(*lines))
			}
		}
		if most > 3 || len(*lines) < 100 {
			t.Errorf("told %d times in all, up to %d a minute", len(*lines), most)
		}
		if len(n.told) > 180 {
			t.Errorf("%d entries are kept", len(n.told))
		}
	})
}

// One unlock serves all profiles, so one is named.
func TestLockedIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, lines := sent(t, Options{}, 0)
		for i := range 30 {
			n.Observe(failed(fmt.Sprintf("p%d", i), broker.KindLocked))
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		if len(*lines) != 1 {
			t.Errorf("told %d times", len(*lines))
		}
	})
}

func TestShow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, lines := sent(t, Options{Show: func(p string) string { return map[string]string{"(session)": "dev", "dev": "dev"}[p] }}, 0)
		n.Observe(failed("(session)", broker.KindLoginNeeded))
		n.Observe(failed("dev", broker.KindLoginNeeded))
		n.Observe(failed("(other)", broker.KindLoginNeeded))
		synctest.Wait()
		if len(*lines) != 1 || !strings.HasSuffix((*lines)[0], "Run: stsbroker login dev") {
			t.Errorf("told: %s", *lines)
		}
	})
}

// A desktop that hangs, or nobody who sends: Observe returns all the same, and the
// first failure alone is told.
func TestNothingBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failures []error
		n, lines := sent(t, Options{Failed: func(err error) { failures = append(failures, err) }}, time.Hour)
		quiet := New(Options{})
		began := time.Now()
		for i := range 1000 {
			n.Observe(failed(fmt.Sprintf("p%d", i), broker.KindLoginNeeded))
			quiet.Observe(failed(fmt.Sprintf("p%d", i), broker.KindLoginNeeded))
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("observing took %v", took)
		}
		time.Sleep(most * sendLimit)
		synctest.Wait()
		if len(*lines) != most || len(failures) != 1 || !errors.Is(failures[0], context.DeadlineExceeded) {
			t.Errorf("%d sent, failures %v", len(*lines), failures)
		}
	})
}
