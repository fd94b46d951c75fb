package broker

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

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
