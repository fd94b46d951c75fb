package broker

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A role's maximum is lowered while a 12-hour set is held: the 1-hour set that
// comes next is what counts.
func TestShorterSuccessorIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "dev", life: 12 * time.Hour}
		b := run(t, profile(sts))
		b.must(t, "dev")
		time.Sleep(time.Minute)
		sts.change(func() { sts.life = time.Hour })
		set, err := b.Refresh(t.Context(), Ask{Profile: "dev", Patience: patience})
		if err != nil || set.Lifetime() != time.Hour {
			t.Fatalf("refresh: %v", err)
		}
		before := sts.mints()
		for range 11 * 60 {
			time.Sleep(time.Minute)
			b.must(t, "dev")
		}
		if n := sts.mints() - before; n < 20 || n > 30 {
			t.Errorf("%d mints in 11 h of 1-hour sets", n)
		}
	})
}

func TestRefreshForgetsWhatSourcesFailedOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, child := &issuer{name: "base", life: time.Hour}, &issuer{name: "child", life: time.Hour}
		p := profile(child)
		p.Parent.Profile = "base"
		b := run(t, profile(base), p)
		base.fail.Store(&Error{Kind: KindDenied, Code: "AccessDenied", Public: "no"})
		for range 20 {
			_, _ = b.ask("child")
			time.Sleep(2 * time.Second)
		}
		base.fail.Store(nil)
		if _, err := b.Refresh(t.Context(), Ask{Profile: "child", Patience: time.Second}); err != nil {
			t.Errorf("the source was mended, and refresh says: %v", err)
		}
	})
}

// What never reached STS says nothing of STS.
func TestLocalFaultEndsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var profiles []Profile
		var all []*issuer
		for i := range 50 {
			sts := &issuer{name: fmt.Sprintf("p%02d", i), life: time.Hour, delay: 20 * time.Millisecond}
			sts.fail.Store(&Error{Kind: KindUnavailable, Public: "down"})
			all, profiles = append(all, sts), append(profiles, profile(sts))
		}
		local := &issuer{name: "local", life: time.Hour}
		local.fail.Store(&Error{Kind: KindConfig, Public: "the token file cannot be read"})
		profiles = append(profiles, profile(local))
		b := run(t, profiles...)
		settled, end := time.Now().Add(10*time.Second), time.Now().Add(10*time.Minute)
		var wg sync.WaitGroup
		for _, p := range profiles {
			wg.Go(func() {
				for time.Now().Before(end) {
					_, _ = b.ask(p.Name)
					time.Sleep(time.Second)
				}
			})
		}
		wg.Wait()
		probes := 0
		for _, sts := range all {
			probes += sts.mintsSince(settled)
		}
		if limit := int(590*time.Second/probeEvery) + 1; probes > limit {
			t.Errorf("%d calls in 590 s of outage, at most %d are allowed", probes, limit)
		}
	})
}

// Trouble that is two profiles' own slows nobody else.
func TestOwnTroubleIsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, c := &issuer{name: "a", life: time.Hour}, &issuer{name: "c", life: time.Hour}
		d := &issuer{name: "d", life: time.Hour, delay: 100 * time.Millisecond}
		for _, i := range []*issuer{a, c} {
			i.fail.Store(&Error{Kind: KindUnavailable, Code: "IDPCommunicationError", Own: true, Public: "the identity provider is down"})
		}
		b := run(t, profile(a), profile(c), profile(d))
		var wg sync.WaitGroup
		for _, name := range []string{"a", "c"} {
			wg.Go(func() {
				for range 30 {
					_, _ = b.ask(name)
				}
			})
		}
		time.Sleep(10*time.Second + 300*time.Millisecond)
		asked := time.Now()
		b.must(t, "d")
		if took := time.Since(asked); took != d.delay {
			t.Errorf("a healthy profile waited %v", took)
		}
		wg.Wait()
	})
}

// Leases that are dropped while they mint leave nothing behind in the budget.
func TestDroppedWhileMinting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &issuer{name: "a", life: time.Hour, delay: 5 * time.Second}
		c := &issuer{name: "c", life: time.Hour, delay: 5 * time.Second}
		b := run(t, profile(a), profile(c))
		_, _ = b.ask("a")
		_, _ = b.ask("c")
		b.Reload([]Profile{profile(&issuer{name: "d", life: time.Hour})})
		synctest.Wait()
		asked := time.Now()
		b.must(t, "d")
		if time.Since(asked) != 0 || b.seen.count(EventMintFailed) != 0 {
			t.Errorf("waited %v, %d failures observed", time.Since(asked), b.seen.count(EventMintFailed))
		}
	})
}

func TestNothingIsMintedAfterRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &issuer{name: "a", life: time.Hour}
		b := run(t, profile(a))
		b.stop()
		if _, err := b.Get(context.Background(), Ask{Profile: "a", Patience: time.Second}); err == nil || a.mints() != 0 {
			t.Errorf("%v, %d mints", err, a.mints())
		}
	})
}

// A look-up that was under way when the profiles changed does not bring the old
// definition back.
func TestOldDefinitionStaysGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := &issuer{name: "old", life: time.Hour}
		b := run(t, profile(old))
		e, err := b.entry(context.Background(), Ask{Profile: "old"})
		if err != nil {
			t.Fatal(err)
		}
		p := profile(&issuer{name: "other", life: time.Hour})
		p.Name = "old"
		b.Reload([]Profile{p})
		if _, err := b.lease(e).get(context.Background(), time.Now(), time.Second); err == nil || old.mints() != 0 || len(b.leases) != 0 {
			t.Errorf("%v, %d mints, %d leases", err, old.mints(), len(b.leases))
		}
	})
}

func TestPrefetchOfOneThatShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "same", life: time.Hour}
		one, two := profile(sts), profile(sts)
		one.Name, two.Name, two.Prefetch = "one", "two", true
		b := run(t, one, two)
		b.Reload([]Profile{one, two})
		time.Sleep(24 * time.Hour)
		if n := sts.mints(); n < 48 {
			t.Errorf("%d mints in a day", n)
		}
	})
}

func TestEvictionSparesPrefetchAndTakesTheLeastUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pre := &issuer{name: "pre", life: time.Hour}
		p := profile(pre)
		p.Prefetch, p.Bucket = true, ""
		profiles := []Profile{p}
		for i := range mostLeases {
			p := profile(&issuer{name: fmt.Sprintf("p%04d", i), life: time.Hour})
			p.Bucket = ""
			profiles = append(profiles, p)
		}
		b := run(t, profiles...)
		time.Sleep(2 * time.Second)
		for _, p := range profiles[1:mostLeases] { // the house is full
			b.must(t, p.Name)
		}
		time.Sleep(2 * time.Second)
		for _, p := range profiles[2:mostLeases] { // all but p0000 again
			b.must(t, p.Name)
		}
		gone := b.lease((*b.profiles.Load())["p0000"])
		b.must(t, profiles[mostLeases].Name)
		if !gone.gone.Load() || len(b.leases) != mostLeases {
			t.Errorf("the least used lease was kept; %d leases", len(b.leases))
		}
		before := pre.mints()
		time.Sleep(24 * time.Hour)
		if n := pre.mints() - before; n < 48 {
			t.Errorf("%d mints of a prefetched profile in a day", n)
		}
	})
}

// Profiles over different sources never share a set, however equal the rest.
func TestDifferentSourcesDifferentLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		role := &issuer{name: "role", life: time.Hour}
		one, two := profile(role), profile(role)
		one.Name, two.Name = "one", "two"
		one.Parent.Profile, two.Parent.Profile = "first", "second"
		b := run(t, one, two, profile(&issuer{name: "first", life: time.Hour}), profile(&issuer{name: "second", life: time.Hour}))
		if b.must(t, "one") == b.must(t, "two") || role.mints() != 2 {
			t.Errorf("two sources, one set (%d mints)", role.mints())
		}
	})
}

// What a reload took away cannot come back from the store.
func TestReloadForgetsStoredSets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "dev", life: time.Hour}
		b := run(t, profile(sts))
		b.must(t, "dev")
		b.Reload(nil)
		b.Reload([]Profile{profile(sts)})
		if b.must(t, "dev"); sts.mints() != 2 {
			t.Errorf("%d mints", sts.mints())
		}
	})
}
