package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

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
		// Warm: while its parents are fresh, a renewal of the last is one mint.
		if _, err := b.Refresh(t.Context(), Ask{Profile: "hop4", Patience: patience}); err != nil {
			t.Error(err)
		}
		for i, sts := range all {
			if want := 1 + i/4; sts.mints() != want {
				t.Errorf("%s: %d mints after a renewal of the last, want %d", sts.name, sts.mints(), want)
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
