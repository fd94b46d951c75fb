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
func TestFaultsWhileHeld(t *testing.T) {
	for _, f := range []struct {
		name  string
		delay time.Duration
		err   *Error
	}{
		{"refused", 0, &Error{Kind: KindUnavailable, Public: "refused"}},
		{"hanging", time.Hour, nil},
		{"throttled", 0, &Error{Kind: KindThrottled, Public: "slow down"}},
		{"denied", 0, &Error{Kind: KindDenied, Public: "no"}},
	} {
		t.Run(f.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sts := &issuer{name: "dev", life: time.Hour}
				b := run(t, profile(sts))
				b.must(t, "dev")
				began := time.Now()
				sts.change(func() { sts.delay = f.delay })
				sts.fail.Store(f.err)
				for range 58 * 60 {
					time.Sleep(time.Second)
					asked := time.Now()
					b.must(t, "dev")
					if time.Since(asked) != 0 {
						t.Fatalf("at %v a caller waited %v", asked.Sub(began), time.Since(asked))
					}
				}
				if n := b.seen.count(EventMintFailed); n < 20 {
					t.Errorf("only %d tries in half an hour of trouble", n)
				}
				st := b.Status()[0]
				if st.State != StateFailing || st.LastError == "" {
					t.Errorf("status: %+v", st)
				}
				// It expires: an error from then on, in words.
				time.Sleep(90 * time.Second)
				if set, err := b.ask("dev"); err == nil {
					t.Errorf("served with %v left", set.Left(time.Now()))
				}
				// It passes: served again at once or within the back-off.
				sts.change(func() { sts.delay = 0 })
				sts.fail.Store(nil)
				time.Sleep(time.Minute)
				b.must(t, "dev")
			})
		})
	}
}

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

// The arithmetic: 100 profiles of 1 h, asked every minute for a day.
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
		// Renewed at 30 to 36 min left, 33 on average: every 27 min and a mint's time.
		const want = 24 * 60 * 100 / 27
		if mints < want*95/100 || mints > want*105/100 {
			t.Errorf("%d mints, want %d within 5 %%", mints, want)
		}
		if least < 25*time.Minute {
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
		// Renewed after about 6 h while in demand; asked last just before 12 h have
		// passed without demand, it lapses and is held still.
		time.Sleep(17*time.Hour + 30*time.Minute)
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

func TestNegativeCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "dev", life: time.Hour}
		sts.fail.Store(&Error{Kind: KindDenied, Code: "AccessDenied", Public: "STS says AccessDenied"})
		b := run(t, profile(sts))
		for range 600 { // asked every 100 ms for a minute
			asked := time.Now()
			_, err := b.ask("dev")
			if kindOf(err) != KindDenied || time.Since(asked) != 0 {
				t.Fatalf("%v after %v", err, time.Since(asked))
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := sts.mints(); n != 5 { // at 0, 2, 6, 14, 30 s
			t.Errorf("%d mints in a minute", n)
		}
		// Nobody asks: nobody calls.
		quiet := sts.mints()
		time.Sleep(10 * time.Minute)
		if sts.mints() != quiet {
			t.Errorf("%d mints that nobody asked for", sts.mints()-quiet)
		}
		// A person mends it: refresh is not held up by the memory of it.
		if _, err := b.ask("dev"); kindOf(err) != KindDenied {
			t.Fatal(err)
		}
		sts.fail.Store(nil)
		if _, err := b.ask("dev"); kindOf(err) != KindDenied {
			t.Errorf("the negative cache should stand: %v", err)
		}
		if _, err := b.Refresh(t.Context(), Ask{Profile: "dev", Patience: patience}); err != nil {
			t.Errorf("refresh: %v", err)
		}
		b.must(t, "dev")
	})
}

func TestReloadClearsTheNegativeCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "dev", life: time.Hour}
		sts.fail.Store(&Error{Kind: KindDenied, Public: "no"})
		b := run(t, profile(sts))
		_, _ = b.ask("dev")
		sts.fail.Store(nil)
		b.Reload([]Profile{profile(sts)})
		b.must(t, "dev")
	})
}

func TestRefreshFailureKeepsServing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "dev", life: time.Hour}
		b := run(t, profile(sts))
		held := b.must(t, "dev")
		sts.fail.Store(&Error{Kind: KindDenied, Public: "no"})
		if _, err := b.Refresh(t.Context(), Ask{Profile: "dev", Patience: patience}); kindOf(err) != KindDenied {
			t.Errorf("refresh: %v", err)
		}
		if got := b.must(t, "dev"); got != held {
			t.Errorf("another set is served")
		}
	})
}

func TestChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var profiles []Profile
		var all []*issuer
		for i := range 5 {
			sts := &issuer{name: fmt.Sprintf("hop%d", i), life: time.Hour, delay: 50 * time.Millisecond}
			sts.hook = func(_ context.Context, in MintInput) {
				want := "AKIATEST"
				if i > 0 {
					want = "ASIATEST" + all[i-1].name
				}
				if !strings.HasPrefix(in.Parent.AccessKeyID, want) || in.Parent.Temporary() != (i > 0) {
					t.Errorf("hop %d is signed with %s", i, in.Parent.AccessKeyID)
				}
			}
			p := profile(sts)
			if i == 0 {
				p.Parent.Key = "work"
			} else {
				p.Parent.Profile = all[i-1].name
				p.Hidden = i < 4
			}
			all = append(all, sts)
			profiles = append(profiles, p)
		}
		b := run(t, profiles...)
		b.must(t, "hop4")
		for _, sts := range all {
			if sts.mints() != 1 {
				t.Errorf("%s: %d mints", sts.name, sts.mints())
			}
		}
		if _, err := b.ask("hop2"); kindOf(err) != KindForbidden {
			t.Errorf("a hidden profile is served: %v", err)
		}
		// A source that fails is named to the caller.
		all[1].fail.Store(&Error{Kind: KindDenied, Public: "no trust"})
		b2 := run(t, profiles...)
		_, err := b2.ask("hop4")
		if e := AsError(err); e.Kind != KindDenied || !strings.Contains(e.Public, "profile hop1: no trust") || !strings.HasPrefix(e.Public, "profile hop4: its source, profile hop3: ") {
			t.Errorf("%v", err)
		}
	})
}

func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept, changed := &issuer{name: "kept", life: time.Hour}, &issuer{name: "changed", life: time.Hour}
		b := run(t, profile(kept), profile(changed))
		set := b.must(t, "kept")
		b.must(t, "changed")
		other := &issuer{name: "other", life: time.Hour}
		p := profile(other)
		p.Name = "changed"
		renamed := profile(&issuer{name: "kept", life: time.Hour})
		renamed.Name = "renamed"
		b.Reload([]Profile{renamed, p})
		if got := b.must(t, "renamed"); got != set {
			t.Errorf("an unchanged mint lost its lease")
		}
		if b.must(t, "changed"); other.mints() != 1 {
			t.Errorf("a changed mint kept its lease")
		}
		if _, err := b.ask("kept"); kindOf(err) != KindForbidden {
			t.Errorf("a profile that is gone: %v", err)
		}
		if n := kept.mints(); n != 1 {
			t.Errorf("%d mints of the one kept", n)
		}
	})
}

func TestEqualMintsShareOneLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "same", life: time.Hour}
		one, two, three := profile(sts), profile(sts), profile(sts)
		one.Name, two.Name, three.Name = "one", "two", "three"
		three.Parent.Key = "work"
		b := run(t, one, two, three)
		if b.must(t, "one") != b.must(t, "two") {
			t.Errorf("equal parameters, two sets")
		}
		if b.must(t, "one") == b.must(t, "three") {
			t.Errorf("different keys, one set")
		}
		if sts.mints() != 2 {
			t.Errorf("%d mints", sts.mints())
		}
	})
}

func TestUnservable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := profile(&issuer{name: "good", life: time.Hour})
		bad := Profile{Name: "bad", Unservable: errors.New("config:7: profile bad: half a key pair")}
		child := profile(&issuer{name: "child"})
		child.Parent.Profile = "bad"
		orphan := profile(&issuer{name: "orphan"})
		orphan.Parent.Profile = "nowhere"
		a, z := profile(&issuer{name: "a"}), profile(&issuer{name: "z"})
		a.Parent.Profile, z.Parent.Profile = "z", "a"
		b := run(t, good, bad, child, orphan, a, z)
		b.must(t, "good")
		for name, want := range map[string]string{
			"bad":    "config:7: profile bad: half a key pair",
			"child":  "source bad is unservable: config:7",
			"orphan": `source "nowhere" is not a profile`,
			"a":      "round in a circle: a -> z -> a",
			"z":      "round in a circle",
		} {
			_, err := b.ask(name)
			if kindOf(err) != KindConfig || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := b.ask("unknown"); kindOf(err) != KindForbidden {
			t.Errorf("unknown: %v", err)
		}
	})
}

// 50 roles, ten minutes without STS: at most one probe every two seconds, and
// everything is back within five seconds.
func TestOutage(t *testing.T) {
	for _, f := range []*Error{{Kind: KindUnavailable, Public: "down"}, {Kind: KindThrottled, Public: "slow down"}} {
		t.Run(f.Kind.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var profiles []Profile
				var all []*issuer
				for i := range 50 {
					sts := &issuer{name: fmt.Sprintf("p%02d", i), life: time.Hour, delay: 20 * time.Millisecond}
					all, profiles = append(all, sts), append(profiles, profile(sts))
				}
				b := run(t, profiles...)
				var wg sync.WaitGroup
				asking := func(until time.Duration, ok func(name string, err error)) {
					deadline := time.Now().Add(until)
					for _, sts := range all {
						wg.Go(func() {
							for time.Now().Before(deadline) {
								_, err := b.ask(sts.name)
								ok(sts.name, err)
								time.Sleep(time.Second)
							}
						})
					}
					wg.Wait()
				}
				for _, sts := range all {
					sts.fail.Store(f)
				}
				settled := time.Now().Add(10 * time.Second)
				asking(10*time.Minute, func(_ string, err error) {
					if err == nil {
						t.Errorf("served in an outage")
					}
				})
				probes := 0
				for _, sts := range all {
					probes += sts.mintsSince(settled)
				}
				if limit := int(590*time.Second/probeEvery) + 1; probes > limit || probes < limit/2 {
					t.Errorf("%d probes in 590 s, want at most %d and not much fewer", probes, limit)
				}
				for _, sts := range all {
					sts.fail.Store(nil)
				}
				back := time.Now()
				var mu sync.Mutex
				served := map[string]time.Duration{}
				asking(20*time.Second, func(name string, err error) {
					mu.Lock()
					defer mu.Unlock()
					if _, ok := served[name]; err == nil && !ok {
						served[name] = time.Since(back)
					}
				})
				var last time.Duration
				for _, d := range served {
					last = max(last, d)
				}
				if len(served) != 50 || last > 5*time.Second {
					t.Errorf("%d of 50 back, the last after %v", len(served), last)
				}
				t.Logf("%d probes, all back after %v", probes, last)
			})
		})
	}
}

// One lease that is broken by itself neither stops nor slows the others.
func TestOneBrokenLeaseBlocksNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken, fine := &issuer{name: "broken"}, &issuer{name: "fine", life: time.Hour, delay: 100 * time.Millisecond}
		broken.fail.Store(&Error{Kind: KindUnavailable, Public: "down"})
		b := run(t, profile(broken), profile(fine))
		for range 60 {
			_, _ = b.ask("broken")
			time.Sleep(time.Second)
		}
		asked := time.Now()
		b.must(t, "fine")
		if took := time.Since(asked); took != fine.delay {
			t.Errorf("waited %v", took)
		}
	})
}

func TestPanicInMint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "dev", life: time.Hour}
		sts.change(func() { sts.hook = func(context.Context, MintInput) { panic("canary-of-a-secret") } })
		b := run(t, profile(sts))
		_, err := b.ask("dev")
		if err == nil || strings.Contains(fmt.Sprintf("%+v %v", err, AsError(err).Cause), "canary-of-a-secret") {
			t.Fatalf("%v", err)
		}
		sts.change(func() { sts.hook = nil })
		time.Sleep(2 * time.Second)
		b.must(t, "dev")
	})
}

func TestIncompleteAnswersAreRefused(t *testing.T) {
	now := time.Now()
	good := Credentials{AccessKeyID: "ASIAAAAAAAAAAAAAAAAA", SecretAccessKey: NewSecret("s"), SessionToken: NewSecret("t"), Issued: now, Expires: now.Add(time.Hour)}
	if err := complete(good); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Credentials){
		"no key id":    func(c *Credentials) { c.AccessKeyID = "" },
		"odd key id":   func(c *Credentials) { c.AccessKeyID = "ASIA\r\nAAAAAAAAAAAAAAAAA" },
		"no secret":    func(c *Credentials) { c.SecretAccessKey = Secret{} },
		"no token":     func(c *Credentials) { c.SessionToken = NewSecret("") },
		"expired":      func(c *Credentials) { c.Expires = now },
		"no expiry":    func(c *Credentials) { c.Expires = time.Time{} },
		"ends earlier": func(c *Credentials) { c.Expires = now.Add(-time.Hour) },
	} {
		c := good
		spoil(&c)
		if complete(c) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

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
		if s := b.Stats(); !s.AnyHeld || s.SmallestLeft != st.Left || s.Budget["123456789012/eu-central-1"] != budgetBurst {
			t.Errorf("%+v", s)
		}
	})
}
