package broker

import (
	"testing"
	"testing/synctest"
	"time"
)

// What rests in a store when a broker starts: it serves what is still good, by the
// clock that it finds, and mints the rest.
func TestRestored(t *testing.T) {
	for _, c := range []struct {
		name  string
		age   time.Duration // since the answer came, by the wall clock
		left  time.Duration // of three hours, where it is taken
		mints int
	}{
		{"just now", 0, 3 * time.Hour, 0},
		{"an hour ago", time.Hour, 2 * time.Hour, 0},
		{"renewal is due", 2 * time.Hour, time.Hour, 1},
		{"as good as expired", 3*time.Hour - 30*time.Second, 0, 1},
		{"long ago", 48 * time.Hour, 0, 1},
		{"the clock was set back a little", -20 * time.Second, 3 * time.Hour, 0},
		{"the clock was set back", -time.Hour, 0, 1},
		{"from a clock that was years ahead", -5 * 365 * 24 * time.Hour, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sts := &issuer{name: "dev", life: 3 * time.Hour}
				b := run(t, profile(sts))
				restore(t, b, sts, c.age)
				b.must(t, "dev")
				time.Sleep(time.Second) // a mint that is due begins behind the answer
				got, now, want := b.must(t, "dev"), time.Now(), c.left
				if c.mints > 0 {
					want = 3 * time.Hour
				}
				if sts.mints() != c.mints {
					t.Errorf("%d mints, want %d", sts.mints(), c.mints)
				}
				if left := got.Left(now); left > want || left < want-5*time.Second {
					t.Errorf("%v left, want %v", left, want)
				}
				if d := got.Advertised.Sub(now); d > got.Left(now) {
					t.Errorf("advertised %v, left %v", d, got.Left(now))
				}
			})
		})
	}
}

// A restored set is on both clocks from then on: one that is set back lengthens
// nothing. (In real time: the clock of a synctest bubble is not monotonic.)
func TestRestoredThenSetBack(t *testing.T) {
	sts := &issuer{name: "dev", life: 3 * time.Hour}
	b := run(t, profile(sts))
	restore(t, b, sts, time.Hour)
	set := b.must(t, "dev")
	later := moveWall(time.Now().Add(10*time.Minute), -2*time.Hour)
	if left := set.Left(later); sts.mints() != 0 || left > 110*time.Minute || !stepped(set, later) {
		t.Errorf("%d mints, %v left", sts.mints(), left)
	}
}

// restore puts a set of that age in the store, as a file would give it back.
func restore(t *testing.T, b running, i *issuer, age time.Duration) {
	t.Helper()
	c, err := i.Mint(t.Context(), MintInput{})
	if err != nil {
		t.Fatal(err)
	}
	i.change(func() { i.calls = nil })
	if err := b.store.PutIfNewer(t.Context(), (*b.profiles.Load())[i.name].key, Stored{Credentials: c, Received: time.Now().Round(0).Add(-age)}); err != nil {
		t.Fatal(err)
	}
}

// A set that STS rejects is not handed out again by a restart, before a mint has
// put the next one over it.
func TestRejectedIsNotRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, role := &issuer{name: "base", life: 12 * time.Hour}, &issuer{name: "role", life: time.Hour}
		source, over := profile(base), profile(role)
		over.Parent.Profile = "base"
		b := run(t, source, over)
		b.must(t, "role")
		store := b.store.(*mapStore)
		time.Sleep(2 * renewGap)
		if len(store.m) != 2 {
			t.Fatalf("%d sets are stored", len(store.m))
		}
		base.fail.Store(&Error{Kind: KindUnavailable, Public: "down"})
		role.fail.Store(&Error{Kind: KindDenied, Code: "ExpiredToken", Signer: true, Public: "ExpiredToken"})
		if _, err := b.Refresh(t.Context(), Ask{Profile: "role", Patience: patience}); err == nil {
			t.Fatal("minted over a rejected source")
		}
		if _, err := store.Load(t.Context(), (*b.profiles.Load())["base"].key); err == nil {
			t.Error("the rejected set still rests in the store")
		}
	})
}

// What a refresh replaces does not come back with a restart, though it would end later.
func TestReplacedIsNotRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "dev", life: 10 * time.Hour}
		b := run(t, profile(sts))
		b.must(t, "dev")
		sts.change(func() { sts.life = time.Hour })
		set, err := b.Refresh(t.Context(), Ask{Profile: "dev", Patience: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		st, err := b.store.Load(t.Context(), (*b.profiles.Load())["dev"].key)
		if err != nil || st.AccessKeyID != set.AccessKeyID {
			t.Errorf("the store holds %s, %v; what is served is %s", st.AccessKeyID, err, set.AccessKeyID)
		}
	})
}

// What a command gives, and all that is minted with it, is of this process's
// environment; another key of the same name makes another lease.
func TestWhatOutlivesAProcess(t *testing.T) {
	key := profile(&issuer{name: "key"})
	key.Parent, key.Signer = Ref{Key: "k"}, "AKIAONE"
	command := profile(&issuer{name: "command"})
	command.Bucket = ""
	over := profile(&issuer{name: "over"})
	over.Parent = Ref{Profile: "command"}
	fine := profile(&issuer{name: "fine"})
	fine.Parent = Ref{Profile: "key"}
	entries := resolve([]Profile{key, command, over, fine})
	for name, want := range map[string]bool{"key": false, "command": true, "over": true, "fine": false} {
		e := entries[name]
		if got := (&spec{Profile: e.Profile, parent: e.parent}).local(); got != want {
			t.Errorf("%s: local %v, want %v", name, got, want)
		}
	}
	key.Signer = "AKIATWO"
	other := resolve([]Profile{key, command, over, fine})
	if other["key"].key == entries["key"].key || other["fine"].key == entries["fine"].key || other["over"].key != entries["over"].key {
		t.Error("the key's id is not in the leases that it signs, or is in others")
	}
}

// A refresh right after a restart mints, whatever the store had.
func TestRefreshOfWhatIsRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "dev", life: 3 * time.Hour}
		b := run(t, profile(sts))
		restore(t, b, sts, time.Hour)
		set, err := b.Refresh(t.Context(), Ask{Profile: "dev", Patience: patience})
		if err != nil || sts.mints() != 1 || set.Left(time.Now()) != 3*time.Hour {
			t.Errorf("%v after %d mints: %v left", err, sts.mints(), set.Left(time.Now()))
		}
	})
}
