package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestThousandColdCallersOneMint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "dev", life: time.Hour, delay: 2 * time.Second}
		b := run(t, profile(sts))
		began := time.Now()
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				_, err := b.ask("dev")
				if kindOf(err) != KindTimeout || !strings.HasPrefix(err.Error(), "profile dev: ") {
					t.Errorf("cold: %v", err)
				}
				if took := time.Since(began); took > 850*time.Millisecond {
					t.Errorf("answered after %v", took)
				}
			})
		}
		wg.Wait()
		time.Sleep(2500*time.Millisecond - time.Since(began))
		for range 1000 {
			wg.Go(func() { b.must(t, "dev") })
		}
		wg.Wait()
		if time.Since(began) != 2500*time.Millisecond {
			t.Errorf("a warm caller waited")
		}
		if n := sts.mints(); n != 1 {
			t.Errorf("%d mints", n)
		}
	})
}

func TestCallersMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "dev", life: time.Hour, delay: 2 * time.Second}
		b := run(t, profile(sts))
		var good, left atomic.Int32
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if i < 10 { // the first among them
					time.AfterFunc(time.Second, cancel)
				} else {
					time.Sleep(time.Millisecond)
				}
				switch _, err := b.Get(ctx, Ask{Profile: "dev", Patience: time.Minute}); {
				case err == nil:
					good.Add(1)
				case errors.Is(err, context.Canceled):
					left.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if good.Load() != 990 || left.Load() != 10 || sts.mints() != 1 {
			t.Errorf("%d good, %d left, %d mints", good.Load(), left.Load(), sts.mints())
		}
	})
}

// While a set is held, no fault of STS reaches a caller, or makes one wait.
func TestRenewalsWhileSTSIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "dev", life: 15 * time.Second, delay: 2 * time.Second}
		b := run(t, profile(sts))
		_, _ = b.ask("dev")
		time.Sleep(2 * time.Second)
		seen := map[uint64]bool{}
		for range 1000 {
			time.Sleep(100 * time.Millisecond)
			asked := time.Now()
			set := b.must(t, "dev")
			seen[set.Generation] = true
			if time.Since(asked) != 0 {
				t.Fatalf("a caller waited %v", time.Since(asked))
			}
			if set.Advertised.Before(asked) {
				t.Fatalf("advertised expiry is past")
			}
		}
		if len(seen) < 10 {
			t.Errorf("only %d generations in 100 s of 15-second sets", len(seen))
		}
	})
}

// The policy's arithmetic: 100 profiles of 1 h, asked every minute for a day.
func TestSimulatedDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var profiles []Profile
		var all []*issuer
		for i := range 100 {
			sts := &issuer{name: fmt.Sprintf("p%02d", i), life: time.Hour, delay: 150 * time.Millisecond}
			all = append(all, sts)
			profiles = append(profiles, profile(sts))
		}
		b := run(t, profiles...)
		for i, sts := range all {
			if _, err := b.Get(t.Context(), Ask{Profile: sts.name, Patience: time.Minute}); err != nil {
				t.Fatal(i, err)
			}
		}
		began := time.Now()
		least := time.Hour
		for range 24 * 60 {
			time.Sleep(time.Minute)
			for _, sts := range all {
				least = min(least, b.must(t, sts.name).Left(time.Now()))
			}
		}
		mints := 0
		for _, sts := range all {
			mints += sts.mintsSince(began)
		}
		// Renewed at 32 to 38 min left, 35 on average: every 25 min and a mint's time.
		const want = 24 * 60 * 100 / 25
		if mints < want*95/100 || mints > want*105/100 {
			t.Errorf("%d mints, want %d within 5 %%", mints, want)
		}
		if least < 31*time.Minute { // and clients are told a minute less
			t.Errorf("served with %v left", least)
		}
		t.Logf("%d mints (arithmetic: %d), least time left %v", mints, want, least)
	})
}

func TestLapseAndReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "dev", life: time.Hour, delay: 200 * time.Millisecond}
		b := run(t, profile(sts))
		b.must(t, "dev")
		time.Sleep(95 * time.Minute)
		if b.seen.count(EventLapsed) != 1 {
			t.Fatalf("the lease did not lapse")
		}
		quiet := sts.mints()
		set := b.must(t, "dev")
		if left := set.Left(time.Now()); left < 25*time.Minute {
			t.Errorf("after 95 min of silence: %v left", left)
		}
		if sts.mints() != quiet+1 {
			t.Errorf("%d mints on return", sts.mints()-quiet)
		}
	})
}

func TestLapsedServesWhatIsHeldWhenTheMintIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "dev", life: 12 * time.Hour}
		b := run(t, profile(sts))
		first := b.must(t, "dev")
		// Renewed after 4.8 to 6 h, and again; when it is due a third time, at 14.4 to 18
		// h, nobody has asked for 12, and it lapses. What came second is held for 12 h.
		time.Sleep(18*time.Hour + 10*time.Minute)
		if st := b.Status()[0]; st.State != StateLapsed {
			t.Fatalf("state %s, %v left", st.State, st.Left)
		}
		sts.change(func() { sts.delay = 5 * time.Second })
		asked := time.Now()
		set := b.must(t, "dev")
		if waited := time.Since(asked); waited != patience || set.Generation <= first.Generation {
			t.Errorf("waited %v for generation %d", waited, set.Generation)
		}
		time.Sleep(5 * time.Second)
		if again := b.must(t, "dev"); again.Generation != set.Generation+1 {
			t.Errorf("generation %d after the mint that was started", again.Generation)
		}
	})
}

// 50 roles, ten minutes without STS: at most one probe every two seconds, and
// everything is back within five seconds.
// One lease that is broken by itself neither stops nor slows the others.
func TestEvictionKeepsTheBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var profiles []Profile
		for i := range mostLeases + 10 {
			p := profile(&issuer{name: fmt.Sprintf("p%04d", i), life: time.Hour})
			p.Bucket = ""
			profiles = append(profiles, p)
		}
		b := run(t, profiles...)
		first := b.must(t, "p0000")
		time.Sleep(2 * time.Second)
		for _, p := range profiles[1:] {
			b.must(t, p.Name)
		}
		if n := len(b.leases); n > mostLeases {
			t.Errorf("%d leases", n)
		}
		if again := b.must(t, "p0000"); again.AccessKeyID != first.AccessKeyID {
			t.Errorf("the evicted lease was minted anew although the store held its set")
		}
	})
}

func TestPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "dev", life: time.Hour}
		p := profile(sts)
		p.Prefetch = true
		b := run(t, p)
		time.Sleep(24 * time.Hour)
		if n := sts.mints(); n < 48 || n > 60 {
			t.Errorf("%d mints in a day nobody asked", n)
		}
		asked := time.Now()
		if b.must(t, "dev"); time.Since(asked) != 0 {
			t.Errorf("waited")
		}
	})
}

// The wall clock jumps while a set is held: what is served is right on the clock
// as it then is. (In real time: the clock of a synctest bubble is not monotonic.)
func TestClockSteps(t *testing.T) {
	for _, step := range []time.Duration{8 * time.Hour, 2 * time.Hour, -2 * time.Hour} {
		t.Run(step.String(), func(t *testing.T) {
			sts := &issuer{name: "dev", life: 3 * time.Hour}
			b := run(t, profile(sts))
			b.must(t, "dev")
			l := b.lease((*b.profiles.Load())["dev"])
			set := *l.set.Load()
			set.received = moveWall(set.received, -step) // as seen from after the step
			set.Advertised = set.Advertised.Add(-step)
			l.set.Store(&set)
			mints := sts.mints()
			got := b.must(t, "dev")
			now := time.Now()
			if got == &set || got.Advertised.After(now.Add(got.Left(now))) || got.Advertised.Before(now) {
				t.Errorf("advertised %v, real %v", got.Advertised.Sub(now), got.Left(now))
			}
			renew := step >= 2*time.Hour // two of three hours gone, or all: below the soft mark of 90 min
			if renewed := sts.mints() > mints; renewed != renew {
				t.Errorf("renewed: %v", renewed)
			}
			if step < 0 && got.Left(now) < 3*time.Hour-time.Minute {
				t.Errorf("set back: %v left of 3h", got.Left(now))
			}
			if b.seen.count(EventClockStep) != 1 {
				t.Errorf("%d events", b.seen.count(EventClockStep))
			}
		})
	}
}

func TestStopEndsWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := run(t, profile(&issuer{name: "dev", delay: time.Hour}))
		got := make(chan error)
		go func() {
			_, err := b.Get(context.Background(), Ask{Profile: "dev", Patience: time.Hour})
			got <- err
		}()
		time.Sleep(time.Second)
		b.stop()
		if err := <-got; err == nil {
			t.Error("served by a stopped broker")
		}
		if _, err := b.ask("dev"); err == nil {
			t.Error("served after Run returned")
		}
	})
}

func TestGetAllocatesNothing(t *testing.T) {
	sts := &issuer{name: "dev", life: time.Hour}
	b := run(t, profile(sts))
	b.must(t, "dev")
	if n := testing.AllocsPerRun(1000, func() { _, _ = b.ask("dev") }); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
}

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "dev", life: time.Hour, delay: time.Second}
		hidden := profile(&issuer{name: "hidden"})
		hidden.Hidden = true
		b := run(t, profile(sts), hidden, Profile{Name: "bad", Unservable: errors.New("why")})
		states := func() (s []string) {
			for _, p := range b.Status() {
				s = append(s, p.Profile+" "+string(p.State))
			}
			return s
		}
		check := func(want string) {
			t.Helper()
			if got := states(); !slices.Equal(got, []string{"bad unservable", "dev " + want}) {
				t.Errorf("%v, want dev %s", got, want)
			}
		}
		check("idle")
		_, _ = b.ask("dev")
		check("minting")
		time.Sleep(time.Second)
		check("fresh")
		st := b.Status()[1]
		if st.KeyID == "" || st.Left > time.Hour || st.RenewIn <= 0 || st.Expiration == "" {
			t.Errorf("%+v", st)
		}
		if one, ok := b.StatusOf("dev"); !ok || one.KeyID != st.KeyID || one.State != st.State {
			t.Errorf("%v, %+v", ok, one)
		}
		for name, want := range map[string]bool{"bad": true, "hidden": false, "none": false, "": false} {
			if one, ok := b.StatusOf(name); ok != want || one.Profile != map[bool]string{true: name}[want] {
				t.Errorf("%q: %v, %+v", name, ok, one)
			}
		}
		if s := b.Stats(); !s.AnyHeld || s.SmallestLeft != st.Left || s.Budget["123456789012/eu-central-1"] != budgetBurst {
			t.Errorf("%+v", s)
		}
	})
}
