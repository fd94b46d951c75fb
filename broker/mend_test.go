package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func named(names ...string) func(Profile) bool {
	return func(p Profile) bool { return slices.Contains(names, p.Name) }
}

// overMFA is an MFA session, hidden or not, and the roles that it feeds.
func overMFA(base *issuer, hidden bool, names ...string) ([]Profile, []*issuer) {
	session := mfaProfile(base, "GAHT")
	session.Hidden = hidden
	profiles := []Profile{session}
	var roles []*issuer
	for _, name := range names {
		i := &issuer{name: name, life: time.Hour}
		p := profile(i)
		p.Parent.Profile = session.Name
		roles, profiles = append(roles, i), append(profiles, p)
	}
	return profiles, roles
}

// A logout takes the session, and all that was minted with it, from everybody at once
// and from the store; nothing of it is there after a restart, and what comes next is
// new in number too.
func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := needsCode(&issuer{name: "base", life: 12 * time.Hour}, "222222")
		profiles, roles := overMFA(base, true, "a", "b", "never")
		other := &issuer{name: "other", life: time.Hour}
		profiles = append(profiles, profile(other))
		b := run(t, profiles...)
		if err := b.login(t, "a", "222222"); err != nil {
			t.Fatal(err)
		}
		before := map[string]*Set{}
		for _, name := range []string{"a", "b", "other"} {
			before[name] = b.must(t, name)
		}
		store := b.store.(*mapStore)
		found := b.lease((*b.profiles.Load())["a"])
		if n, err := b.Forget(t.Context(), named("base")); err != nil || n != 3 {
			t.Errorf("%d sets were forgotten, want those of base, a and b", n)
		}
		if set, err := found.get(t.Context(), time.Now(), patience); !errors.Is(err, errForgotten) {
			t.Errorf("who had found the lease already got %v, %v", set, err)
		}
		if len(store.m) != 1 {
			t.Errorf("%d sets are stored, want that of other alone", len(store.m))
		}
		for _, name := range []string{"a", "b", "never"} {
			began := time.Now()
			if _, err := b.ask(name); kindOf(err) != KindLoginNeeded || time.Since(began) != 0 {
				t.Errorf("%s after the logout: %v after %v", name, err, time.Since(began))
			}
		}
		if b.must(t, "other") != before["other"] {
			t.Error("a profile that has nothing to do with it lost its set")
		}
		if s := statusOf(b, "a"); s.KeyID != "" || s.State != StateLogin {
			t.Errorf("status %+v", s)
		}
		if n, err := b.Forget(t.Context(), named("base")); err != nil || n != 0 {
			t.Errorf("%d sets were forgotten twice", n)
		}
		if roles[0].mints() != 1 || base.mints() != 1 {
			t.Errorf("%d and %d mints", roles[0].mints(), base.mints())
		}
		if err := b.login(t, "b", "222222"); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "b"} {
			if set := b.must(t, name); set == before[name] || set.Generation != before[name].Generation+1 || set.AccessKeyID == before[name].AccessKeyID {
				t.Errorf("%s: generation %d, key %s after generation %d", name, set.Generation, set.AccessKeyID, before[name].Generation)
			}
		}
		// A role alone.
		if n, err := b.Forget(t.Context(), named("a")); err != nil || n != 1 {
			t.Errorf("%d sets were forgotten of a", n)
		}
		if set := b.must(t, "a"); set.Generation != 3 || base.mints() != 2 {
			t.Errorf("generation %d after %d mints of the session", set.Generation, base.mints())
		}
	})
}

// What rests in the store for profiles that nobody asked for yet goes too.
func TestForgetWhatRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &mapStore{m: map[Key]Stored{}}
		base := needsCode(&issuer{name: "base", life: 12 * time.Hour}, "222222")
		profiles, _ := overMFA(base, true, "a", "b")
		b := runOn(t, store, profiles...)
		if err := b.login(t, "a", "222222"); err != nil {
			t.Fatal(err)
		}
		b.must(t, "b")
		b.stop()
		again := runOn(t, store, profiles...)
		again.must(t, "b")
		if n, err := again.Forget(t.Context(), named("base")); err != nil || n != 3 || len(store.m) != 0 {
			t.Errorf("%d sets were forgotten, %d are left", n, len(store.m))
		}
		for _, name := range []string{"a", "b"} {
			if _, err := again.ask(name); kindOf(err) != KindLoginNeeded {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// A mint that is under way and pays no heed to anything: who waits for it is told, and
// what it brings is nobody's.
func TestForgetWhileMinting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{name: "dev", life: time.Hour}
		slow := atomic.Bool{}
		slow.Store(true)
		i.hook = func(context.Context, MintInput) {
			if slow.Load() {
				time.Sleep(2 * time.Second)
			}
		}
		b := run(t, profile(i))
		done := make(chan error)
		go func() {
			_, err := b.Get(t.Context(), Ask{Profile: "dev", Patience: 5 * time.Second})
			done <- err
		}()
		time.Sleep(time.Second)
		if _, err := b.Forget(t.Context(), named("dev")); err != nil {
			t.Error(err)
		}
		slow.Store(false)
		if set := b.must(t, "dev"); set.AccessKeyID != "ASIATESTdev00000002" {
			t.Errorf("the next request got %s", set.AccessKeyID)
		}
		if err := <-done; kindOf(err) != KindUnavailable || !strings.Contains(err.Error(), "forgotten while it was waited for") {
			t.Errorf("who waited: %v", err)
		}
		time.Sleep(5 * time.Second)
		if set := b.must(t, "dev"); set.AccessKeyID != "ASIATESTdev00000002" {
			t.Errorf("later: %s", set.AccessKeyID)
		}
		if st, err := b.store.Load(t.Context(), (*b.profiles.Load())["dev"].key); err != nil || st.AccessKeyID != "ASIATESTdev00000002" {
			t.Errorf("stored: %s, %v", st.AccessKeyID, err)
		}
	})
}

// A set that is on its way into the store when it is forgotten does not stay there.
// (In real time: a mutex holds up a bubble's clock.)
func TestForgetWhileStoring(t *testing.T) {
	store := &gatedStore{mapStore: mapStore{m: map[Key]Stored{}}, entered: make(chan struct{}), open: make(chan struct{})}
	b := runOn(t, store, profile(&issuer{name: "dev", life: time.Hour}))
	go func() { _, _ = b.ask("dev") }()
	<-store.entered
	l := b.lease((*b.profiles.Load())["dev"])
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := b.Forget(context.Background(), named("dev")); err != nil {
			t.Error(err)
		}
	}()
	for !l.gone.Load() {
		time.Sleep(100 * time.Microsecond)
	}
	close(store.open)
	<-done
	l.disk.Lock() // whatever it still stores, it has
	defer l.disk.Unlock()
	if len(store.m) != 0 {
		t.Errorf("%d sets are stored", len(store.m))
	}
	if got := l.set.Load(); got != nil {
		t.Errorf("it holds %s", got.AccessKeyID)
	}
}

// A mint that comes to its end at the very moment: neither held nor stored.
func TestNothingLandsInALeaseThatIsGone(t *testing.T) {
	b := run(t, profile(&issuer{name: "dev", life: time.Hour}))
	set := b.must(t, "dev")
	l := b.lease((*b.profiles.Load())["dev"])
	if _, err := b.Forget(t.Context(), named("dev")); err != nil {
		t.Error(err)
	}
	if err := l.put(set, false); err != nil {
		t.Error(err)
	}
	l.land(set, nil)
	l.adopt(set)
	if n := len(b.store.(*mapStore).m); n != 0 || l.set.Load() != nil {
		t.Errorf("%d sets are stored, and it holds %v", n, l.set.Load())
	}
}

// gatedStore lets a test stop time in the middle of the first PutIfNewer.
type gatedStore struct {
	mapStore
	entered, open chan struct{}
}

func (s *gatedStore) PutIfNewer(ctx context.Context, k Key, c Stored) error {
	select {
	case <-s.open:
	default:
		close(s.entered)
		<-s.open
	}
	return s.mapStore.PutIfNewer(ctx, k, c)
}

// A prefetched profile is not minted again behind the back of who logged out, and is
// after the next login.
func TestForgetPrefetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := needsCode(&issuer{name: "base", life: 12 * time.Hour}, "222222")
		profiles, roles := overMFA(base, true, "a")
		profiles[1].Prefetch = true
		plain := &issuer{name: "plain", life: time.Hour}
		p := profile(plain)
		p.Prefetch = true
		b := run(t, append(profiles, p)...)
		if err := b.login(t, "a", "222222"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if n, err := b.Forget(t.Context(), func(Profile) bool { return true }); err != nil || n != 3 {
			t.Errorf("%d sets were forgotten", n)
		}
		was, before := roles[0].mints(), plain.mints()
		time.Sleep(24 * time.Hour)
		if roles[0].mints() != was || plain.mints() != before || base.mints() != 1 {
			t.Error("minted though nobody asked")
		}
		if err := b.login(t, "a", "222222"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour)
		if roles[0].mints() < was+4 {
			t.Errorf("%d mints: it is not kept fresh after the login", roles[0].mints()-was)
		}
		b.Mended(named("plain"))
		time.Sleep(3 * time.Hour)
		if plain.mints() < before+4 {
			t.Errorf("%d mints after it was mended", plain.mints()-before)
		}
	})
}

// An exec's own credentials go with the profile, and cannot be had again.
func TestForgetOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := profile(&issuer{name: "root", life: 15 * time.Minute})
		p.Once, p.Action = true, "AssumeRoot"
		b := run(t, p)
		exec := Ask{Profile: "root", Patience: patience, Caller: Caller{Exec: true, Token: "one"}}
		if _, err := b.Refresh(t.Context(), exec); err != nil {
			t.Fatal(err)
		}
		if n, err := b.Forget(t.Context(), named("root")); err != nil || n != 1 {
			t.Errorf("%d sets", n)
		}
		if _, err := b.Get(t.Context(), exec); kindOf(err) != KindConfig {
			t.Errorf("%v", err)
		}
	})
}

// Somebody signs in, or unlocks: what was refused is tried again at once, and not when
// the refusal would have passed.
func TestMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &issuer{name: "base", life: time.Hour}
		base.fail.Store(Locked())
		role, other := &issuer{name: "role", life: time.Hour}, &issuer{name: "other", life: time.Hour}
		other.fail.Store(&Error{Kind: KindDenied, Code: "AccessDenied", Public: "no"})
		r := profile(role)
		r.Parent.Profile = "base"
		b := run(t, profile(base), r, profile(other))
		for range 6 { // the refusals come to stand for 30 s
			_, err := b.ask("role")
			if e := AsError(err); e.Kind != KindLocked || e.Public != "profile role: custody is locked; run stsbroker unlock" {
				t.Fatalf("%v: %s", e.Kind, e.Public)
			}
			_, _ = b.ask("other")
			time.Sleep(30 * time.Second)
		}
		_, _ = b.ask("role")
		_, _ = b.ask("other")
		base.fail.Store(nil)
		other.fail.Store(nil)
		b.Mended(named("base"))
		b.must(t, "role")
		if _, err := b.ask("other"); kindOf(err) != KindDenied {
			t.Errorf("a profile that has nothing to do with it: %v", err)
		}
	})
}

// A mint that began before it was mended fails of what was: that is forgiven too.
func TestMendedWhileMinting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{name: "dev", life: time.Hour, delay: 500 * time.Millisecond}
		i.fail.Store(Locked())
		p := profile(i)
		p.Prefetch = true
		b := run(t, p)
		time.Sleep(100 * time.Millisecond)
		i.change(func() { i.hook = func(context.Context, MintInput) { i.fail.Store(nil) } }) // of the next one
		b.Mended(named("dev"))
		time.Sleep(500 * time.Millisecond)
		if s := statusOf(b, "dev"); s.LastError != "" || i.mints() != 1 {
			t.Errorf("%+v after %d mints", s, i.mints())
		}
		time.Sleep(mintGap)
		if s := statusOf(b, "dev"); s.State != StateFresh {
			t.Errorf("%+v after %d mints", s, i.mints())
		}
	})
}

// After an unlock, more is in the store than before: that is used, also by leases that
// were asked, by those that fail, and by those for which a person would be needed.
func TestMendedLooksIntoTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := &mapStore{m: map[Key]Stored{}}
		base := needsCode(&issuer{name: "base", life: 12 * time.Hour}, "222222")
		profiles, roles := overMFA(base, true, "a", "b")
		pre := &issuer{name: "pre", life: time.Hour}
		p := profile(pre)
		p.Prefetch = true
		profiles = append(profiles, p)
		b := runOn(t, first, profiles...)
		if err := b.login(t, "a", "222222"); err != nil {
			t.Fatal(err)
		}
		b.must(t, "pre")
		b.stop()

		locked := &mapStore{m: map[Key]Stored{}}
		pre.fail.Store(Locked())
		b = runOn(t, locked, profiles...)
		for _, name := range []string{"a", "b"} {
			if _, err := b.ask(name); kindOf(err) != KindLoginNeeded {
				t.Errorf("%s while locked: %v", name, err)
			}
		}
		time.Sleep(65 * time.Second) // between two tries
		locked.mu.Lock()
		maps.Copy(locked.m, first.m)
		locked.mu.Unlock()
		calls := pre.mints()
		b.Mended(func(Profile) bool { return true })
		synctest.Wait()
		if s := statusOf(b, "pre"); s.KeyID == "" || s.State != StateFresh || pre.mints() != calls {
			t.Errorf("prefetched: %+v after %d calls", s, pre.mints()-calls)
		}
		if set := b.must(t, "a"); set.AccessKeyID != "ASIATESTa00000001" || roles[0].mints() != 1 {
			t.Errorf("a: %s", set.AccessKeyID)
		}
		if b.must(t, "b"); base.mints() != 1 {
			t.Errorf("%d sessions", base.mints())
		}
	})
}

// What was in use before a restart is renewed after it, without being asked for, and
// lapses when it would have. The rest waits to be asked for.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &mapStore{m: map[Key]Stored{}}
		base := needsCode(&issuer{name: "base", life: 12 * time.Hour}, "222222")
		profiles, roles := overMFA(base, false, "used", "mfa")
		long := &issuer{name: "long", life: 4 * time.Hour}
		quiet := &issuer{name: "quiet", life: 12 * time.Hour}
		profiles = append(profiles, profile(long), profile(quiet), profile(&issuer{name: "never", life: time.Hour}))
		b := runOn(t, store, profiles...)
		b.must(t, "quiet")
		time.Sleep(90 * time.Minute)
		if err := b.login(t, "used", "222222"); err != nil {
			t.Fatal(err)
		}
		b.must(t, "used")
		b.must(t, "long")
		received := time.Now()
		b.stop()

		time.Sleep(10 * time.Minute)
		b = runOn(t, store, profiles...)
		b.Resume()
		b.Resume()
		synctest.Wait()
		resumed := b.all()
		if n := len(resumed); n != 2 {
			t.Errorf("%d leases were resumed, want those of used and long", n)
		}
		for _, l := range resumed {
			if idle := l.idle(time.Now()); idle != 10*time.Minute {
				t.Errorf("one counts as asked for %v ago, want when its set came", idle)
			}
		}
		if roles[0].mints() != 1 || long.mints() != 1 || base.mints() != 1 || quiet.mints() != 1 {
			t.Error("a restart minted")
		}
		time.Sleep(time.Until(received.Add(59 * time.Minute)))
		if got := roles[0].mints(); got != 3 && got != 2 || statusOf(b, "used").State != StateFresh {
			t.Errorf("%d mints in an hour: it is not renewed; %+v", got, statusOf(b, "used"))
		}
		renewed := roles[0].mints()
		time.Sleep(time.Until(received.Add(100 * time.Minute)))
		if s := statusOf(b, "used"); s.State != StateLapsed || roles[0].mints() != renewed {
			t.Errorf("nobody asked for long, and it is %s, with %d mints more", s.State, roles[0].mints()-renewed)
		}
		// Four hours' demand lasts four hours.
		time.Sleep(time.Until(received.Add(3*time.Hour + 58*time.Minute)))
		if s := statusOf(b, "long"); s.State != StateFresh || long.mints() < 2 {
			t.Errorf("%s after %d mints", s.State, long.mints())
		}
		renewed = long.mints()
		time.Sleep(3 * time.Hour)
		if s := statusOf(b, "long"); s.State != StateLapsed || long.mints() != renewed {
			t.Errorf("%s, with %d mints more", s.State, long.mints()-renewed)
		}
	})
}

// What is due is minted at the restart, once, and nothing is for sets of long ago.
func TestResumeDue(t *testing.T) {
	for _, c := range []struct {
		age   time.Duration
		mints int
	}{{10 * time.Minute, 0}, {40 * time.Minute, 1}, {59*time.Minute + 30*time.Second, 0}} {
		synctest.Test(t, func(t *testing.T) {
			sts := &issuer{name: "dev", life: time.Hour}
			b := run(t, profile(sts))
			restore(t, b, sts, c.age)
			b.Resume()
			time.Sleep(2 * time.Second)
			if sts.mints() != c.mints {
				t.Errorf("%v old: %d mints", c.age, sts.mints())
			}
		})
	}
}

// Resume does not take what somebody asked for, or what another is about to, for less
// in demand than it is.
func TestResumeOfWhatIsInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sts := &issuer{name: "dev", life: time.Hour}
		b := run(t, profile(sts))
		restore(t, b, sts, 20*time.Minute)
		set := b.must(t, "dev")
		b.Resume()
		if b.must(t, "dev") != set || sts.mints() != 0 {
			t.Error("it was loaded twice")
		}
		time.Sleep(59 * time.Minute)
		if s := statusOf(b, "dev"); s.State != StateFresh {
			t.Errorf("%s 59 min after it was asked for", s.State)
		}
	})
}

// sharedStore is a store that several brokers have, and that keeps count of its locks.
type sharedStore struct {
	mapStore
	one   chan struct{}
	fail  error
	locks atomic.Int32
}

func newShared() *sharedStore {
	return &sharedStore{mapStore: mapStore{m: map[Key]Stored{}}, one: make(chan struct{}, 1)}
}

// sharer is one process's view of it: it may lock it several times at once.
type sharer struct {
	*sharedStore
	gate chan struct{}
	n    int
}

func share(s *sharedStore) *sharer { return &sharer{sharedStore: s, gate: make(chan struct{}, 1)} }

func (s *sharer) Lock(ctx context.Context, _ Key) (func(), error) {
	s.locks.Add(1)
	if s.fail != nil {
		return nil, s.fail
	}
	select {
	case s.gate <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.gate }()
	if s.n == 0 {
		select {
		case s.one <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.n++
	return func() {
		s.gate <- struct{}{}
		if s.n--; s.n == 0 {
			<-s.one
		}
		<-s.gate
	}, nil
}

// Twenty processes begin at once, of a role over a source: STS is asked once for each.
func TestSharedStoreOneMint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newShared()
		base, role := &issuer{name: "base", life: 12 * time.Hour, delay: 300 * time.Millisecond}, &issuer{name: "role", life: time.Hour, delay: 300 * time.Millisecond}
		r := profile(role)
		r.Parent.Profile = "base"
		got := make(chan string)
		for range 20 {
			b := runOn(t, share(store), profile(base), r)
			go func() {
				set, err := b.Get(t.Context(), Ask{Profile: "role", Patience: time.Minute})
				if err != nil {
					t.Error(err)
					got <- ""
					return
				}
				got <- set.AccessKeyID
			}()
		}
		for range 20 {
			if id := <-got; id != "ASIATESTrole00000001" {
				t.Errorf("got %q", id)
			}
		}
		if base.mints() != 1 || role.mints() != 1 {
			t.Errorf("%d and %d mints", base.mints(), role.mints())
		}
	})
}

// Several processes that live on: one of them renews, and the others take that.
func TestSharedStoreOneRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newShared()
		sts := &issuer{name: "dev", life: time.Hour, delay: 100 * time.Millisecond}
		var brokers []running
		for range 4 {
			brokers = append(brokers, runOn(t, share(store), profile(sts)))
		}
		for range 24 * 60 {
			time.Sleep(time.Minute)
			for _, b := range brokers {
				if set := b.must(t, "dev"); set.Left(time.Now()) < 20*time.Minute {
					t.Fatalf("%v left", set.Left(time.Now()))
				}
			}
		}
		// Each draws a jitter of its own, and the earliest renews: at most at 38 min left.
		if n := sts.mints(); n < 50 || n > 24*60/22+1 {
			t.Errorf("%d mints in a day", n)
		}
		for _, b := range brokers {
			if s := statusOf(b, "dev"); s.Generation < 50 {
				t.Errorf("generation %d", s.Generation)
			}
		}
	})
}

// What is in the store does not do: it was rejected, is held already, or somebody
// insists on a mint now.
func TestSharedStoreWhatWillNotDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newShared()
		sts := &issuer{name: "dev", life: time.Hour}
		one, two := runOn(t, share(store), profile(sts)), runOn(t, share(store), profile(sts))
		set := one.must(t, "dev")
		if got := two.must(t, "dev"); got.AccessKeyID != set.AccessKeyID || got.Generation != 1 {
			t.Errorf("%s", got.AccessKeyID)
		}
		time.Sleep(time.Minute)
		refreshed, err := two.Refresh(t.Context(), Ask{Profile: "dev", Patience: patience})
		if err != nil || refreshed.AccessKeyID != "ASIATESTdev00000002" {
			t.Fatalf("a refresh: %v", err)
		}
		// The other one's is there and newer, and yet a refresh is a refresh.
		time.Sleep(time.Minute)
		if again, err := one.Refresh(t.Context(), Ask{Profile: "dev", Patience: patience}); err != nil || again.AccessKeyID != "ASIATESTdev00000003" {
			t.Errorf("another refresh: %v", err)
		}
		// Rejected: the first process takes the second one's, which is another.
		l := two.lease((*two.profiles.Load())["dev"])
		time.Sleep(renewGap)
		if renewed, err := l.renewPast(t.Context(), refreshed, time.Minute); !renewed || err != nil || l.set.Load().AccessKeyID != "ASIATESTdev00000003" || sts.mints() != 3 {
			t.Errorf("renewed %v, %v: it holds %s after %d mints", renewed, err, l.set.Load().AccessKeyID, sts.mints())
		}
		time.Sleep(renewGap)
		if renewed, err := l.renewPast(t.Context(), l.set.Load(), time.Minute); !renewed || err != nil || sts.mints() != 4 {
			t.Errorf("renewed %v, %v after %d mints", renewed, err, sts.mints())
		}
	})
}

// What another process has put there spares a mint only if it is better than what is held.
func TestMintedElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			name     string
			age      time.Duration // of what is there, of an hour's life
			held     time.Duration // age of what is held; 0 for nothing
			rejected bool
			strict   bool
			want     bool
		}{
			{"fresh", time.Minute, 0, false, false, true},
			{"newer than what is held", time.Minute, 15 * time.Minute, false, false, true},
			{"older than what is held", 10 * time.Minute, 5 * time.Minute, false, false, false},
			{"due itself", 40 * time.Minute, 0, false, false, false},
			{"rejected", time.Minute, 0, true, false, false},
			{"there before somebody insisted", time.Minute, 15 * time.Minute, false, true, false},
		} {
			i := &issuer{name: "dev", life: time.Hour}
			b := runOn(t, share(newShared()), profile(i))
			if c.held != 0 {
				restore(t, b, i, c.held)
				b.Resume()
				synctest.Wait()
			}
			restore(t, b, i, c.age)
			l := b.lease((*b.profiles.Load())["dev"])
			st, err := b.store.Load(t.Context(), l.key)
			if err != nil {
				t.Fatal(err)
			}
			st.AccessKeyID = "ASIATESTELSEWHERE"
			if err := b.store.PutIfNewer(t.Context(), l.key, st); err != nil {
				t.Fatal(err)
			}
			l.mu.Lock()
			l.began = time.Now()
			if c.rejected {
				l.rejected = st.AccessKeyID
			}
			held := l.set.Load()
			l.mu.Unlock()
			set := l.mintedElsewhere(l.spec.Load(), c.strict)
			if (set != nil) != c.want || set != nil && (set.AccessKeyID != st.AccessKeyID || held != nil && set.Generation != held.Generation+1) {
				t.Errorf("%s: %v", c.name, set)
			}
			b.stop()
		}
	})
}

// Two logins in two processes with one code: STS gets it once.
func TestSharedStoreLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newShared()
		base := needsCode(&issuer{name: "base", life: 12 * time.Hour, delay: 500 * time.Millisecond}, "222222")
		done := make(chan error)
		for range 2 {
			b := runOn(t, share(store), mfaProfile(base, "GAHT"))
			go func() { done <- b.login(t, "base", "222222") }()
		}
		if err := errors.Join(<-done, <-done); err != nil || base.mints() != 1 {
			t.Errorf("%v after %d mints", err, base.mints())
		}
	})
}

// A lock that cannot be had stops nobody, and what means nothing elsewhere needs none.
func TestSharedStoreLockFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newShared()
		store.fail = errors.New("no lock")
		dev, command := profile(&issuer{name: "dev", life: time.Hour}), profile(&issuer{name: "command", life: time.Hour})
		command.Bucket = ""
		b := runOn(t, share(store), dev, command)
		b.must(t, "command")
		if store.locks.Load() != 0 {
			t.Error("locked for a command's")
		}
		b.must(t, "dev")
		if store.locks.Load() != 1 {
			t.Errorf("locked %d times", store.locks.Load())
		}
		// Held by somebody who never lets go.
		store.fail = nil
		store.one <- struct{}{}
		b = runOn(t, share(store), profile(&issuer{name: "stuck", life: time.Hour}))
		began := time.Now()
		if _, err := b.Get(t.Context(), Ask{Profile: "stuck", Patience: time.Minute}); err != nil || time.Since(began) != mintDeadline {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		<-store.one
	})
}

// The session that a person logged in for ends soon, while it is in use: that is told
// once, in time, by the name that is logged in to.
func TestLoginSoon(t *testing.T) {
	for _, c := range []struct {
		name   string
		hidden bool
		ask    map[string]time.Duration // profile: how often
		until  time.Duration            // asked for no more after that
		want   string
	}{
		{"the session itself", false, map[string]time.Duration{"base": time.Minute}, 24 * time.Hour, "base"},
		{"roles over one that is served", false, map[string]time.Duration{"a": time.Minute}, 24 * time.Hour, "base"},
		{"roles over a hidden one", true, map[string]time.Duration{"b": time.Minute, "a": 7 * time.Minute}, 24 * time.Hour, "b"},
		{"seldom", true, map[string]time.Duration{"a": 50 * time.Minute}, 24 * time.Hour, "a"},
		{"asked half an hour before", true, map[string]time.Duration{"a": time.Minute}, 11*time.Hour + 20*time.Minute, "a"},
		{"not lately", true, map[string]time.Duration{"a": time.Minute}, 10*time.Hour + 40*time.Minute, ""},
		{"never", true, nil, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base := needsCode(&issuer{name: "base", life: 12 * time.Hour}, "222222")
				profiles, _ := overMFA(base, c.hidden, "a", "b")
				b := run(t, profiles...)
				names := []string{"a", "base"}
				if c.hidden {
					names = []string{"a"}
				}
				if err := b.login(t, names[0], "222222"); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				for minute := range 13 * 60 {
					at := time.Duration(minute) * time.Minute
					if at < c.until {
						for _, name := range slices.Sorted(maps.Keys(c.ask)) {
							if at%c.ask[name] == 0 {
								_, _ = b.ask(name)
							}
						}
					}
					time.Sleep(time.Until(began.Add(at + time.Minute)))
				}
				var told []string
				b.seen.mu.Lock()
				defer b.seen.mu.Unlock()
				for _, e := range b.seen.all {
					if e.Kind == EventLoginSoon {
						told = append(told, e.Profile)
						if e.Left > loginSoonLeft || e.Left < loginSoonLeft-2*tick {
							t.Errorf("told with %v left", e.Left)
						}
					}
				}
				if got := strings.Join(told, " "); got != c.want {
					t.Errorf("told of %q, want %q", got, c.want)
				}
			})
		})
	}
}

// Each session is told of; one that a restart found in the store too; one that a login
// replaced in time is not.
func TestLoginSoonAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &mapStore{m: map[Key]Stored{}}
		base := needsCode(&issuer{name: "base", life: 2 * time.Hour}, "222222")
		profiles, roles := overMFA(base, true, "a")
		roles[0].life = 12 * time.Hour // so that it asks for the session once a day
		b := runOn(t, store, profiles...)
		use := func(d time.Duration) {
			t.Helper()
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Minute) {
				b.must(t, "a")
			}
		}
		login := func() {
			t.Helper()
			if err := b.login(t, "a", "222222"); err != nil {
				t.Fatal(err)
			}
		}
		login()
		use(100 * time.Minute)
		login()
		use(100 * time.Minute)
		if n := b.seen.count(EventLoginSoon); n != 0 {
			t.Errorf("told %d times of sessions that were replaced", n)
		}
		b.stop()
		b = runOn(t, store, profiles...)
		use(18 * time.Minute)
		if n := b.seen.count(EventLoginSoon); n != 1 {
			t.Errorf("told %d times after a restart", n)
		}
		login()
		use(110 * time.Minute)
		if n := b.seen.count(EventLoginSoon); n != 2 {
			t.Errorf("told %d times", n)
		}
	})
}

func TestLoginSoonRule(t *testing.T) {
	for _, c := range []struct {
		lifetime, left time.Duration
		want           bool
	}{
		{12 * time.Hour, 16 * time.Minute, false}, {12 * time.Hour, 15 * time.Minute, true}, {12 * time.Hour, time.Second, true}, {12 * time.Hour, 0, false},
		{time.Hour, 15 * time.Minute, true}, {15 * time.Minute, 15 * time.Minute, false}, {15 * time.Minute, 3 * time.Minute, true}, {time.Hour, -time.Second, false},
	} {
		if got := loginSoon(c.lifetime, c.left); got != c.want {
			t.Error(fmt.Sprint(c), got)
		}
	}
}

// restingStore is locked over what it has, until it is opened; it writes when it is told.
type restingStore struct {
	mapStore
	locked bool
	fail   error
	wrote  int
}

func (s *restingStore) Load(ctx context.Context, k Key) (Stored, error) {
	if s.locked {
		return Stored{}, Locked()
	}
	return s.mapStore.Load(ctx, k)
}

func (s *restingStore) Flush(context.Context) error {
	s.wrote++
	if s.locked {
		return Locked()
	}
	return s.fail
}

// A logout is written when it returns, or says that it is not.
func TestForgetIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &restingStore{mapStore: mapStore{m: map[Key]Stored{}}}
		b := runOn(t, store, profile(&issuer{name: "dev", life: time.Hour}))
		for _, c := range []struct {
			locked bool
			fail   error
			kind   Kind
			words  string
		}{
			{false, nil, 255, ""},
			{false, errors.New("no space left on device"), KindUnavailable, "may come back after a restart, since it could not be removed from the file; log out again: no space left on device"},
			{true, nil, KindLocked, "what rests sealed is forgotten only once custody is unlocked: run stsbroker unlock, then log out again"},
		} {
			b.must(t, "dev")
			store.locked, store.fail, store.wrote = c.locked, c.fail, 0
			n, err := b.Forget(t.Context(), named("dev"))
			if n != 1 || store.wrote != 1 || kindOf(err) != c.kind || err != nil && !strings.Contains(AsError(err).Public, c.words) {
				t.Errorf("%d sets, written %d times, %v", n, store.wrote, err)
			}
			store.locked = false
		}
	})
}

// Nobody is asked for a code while a session may rest in a store that a person can unlock.
// Who gives one all the same is not refused, and what needs none is minted.
func TestLockedStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &restingStore{mapStore: mapStore{m: map[Key]Stored{}}}
		base := needsCode(&issuer{name: "base", life: 12 * time.Hour}, "222222")
		profiles, roles := overMFA(base, false, "a")
		alone := &issuer{name: "alone", life: time.Hour}
		profiles = append(profiles, profile(alone))
		first := runOn(t, store, profiles...)
		if err := first.login(t, "a", "222222"); err != nil {
			t.Fatal(err)
		}
		first.stop()
		store.locked = true
		b := runOn(t, store, profiles...)
		b.must(t, "alone")
		for _, name := range []string{"base", "a"} {
			began := time.Now()
			if _, err := b.ask(name); kindOf(err) != KindLocked || time.Since(began) > time.Second || !strings.Contains(err.Error(), "run stsbroker unlock") {
				t.Errorf("%s: %v after %v", name, err, time.Since(began))
			}
			if s := statusOf(b, name); s.State != StateError || !strings.Contains(s.LastError, "run stsbroker unlock") {
				t.Errorf("status %+v", s)
			}
		}
		store.locked = false
		b.Mended(func(Profile) bool { return true })
		b.must(t, "base")
		b.must(t, "a")
		if base.mints() != 1 || roles[0].mints() != 1 || statusOf(b, "base").State == StateError {
			t.Errorf("%d and %d mints, status %+v", base.mints(), roles[0].mints(), statusOf(b, "base"))
		}
		b.stop()

		store.locked = true
		again := runOn(t, store, profiles...)
		if err := again.login(t, "a", "222222"); err != nil {
			t.Errorf("with a code: %v", err)
		}
		again.must(t, "base")
		if base.mints() != 2 {
			t.Errorf("%d mints", base.mints())
		}
		// Logged out while it is locked: from then on there is nothing to be unlocked for it.
		if _, err := again.Forget(t.Context(), named("base")); kindOf(err) != KindLocked {
			t.Errorf("%v", err)
		}
		if _, err := again.ask("a"); kindOf(err) != KindLoginNeeded {
			t.Errorf("after the logout: %v", err)
		}
	})
}

// graveStore is one that other processes forget in, too.
type graveStore struct {
	mapStore
	at map[Key]time.Time
}

func (s *graveStore) Forget(_ context.Context, k Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, k)
	s.at[k] = time.Now()
	return nil
}

func (s *graveStore) Forgotten(_ context.Context, k Key, received time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.at[k]
	return ok && !received.After(at)
}

// A logout in another process takes the session from this one's roles too, at their next
// mint, and from one that is under way; who logs in there, does so for this one.
func TestForgottenElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &graveStore{mapStore{m: map[Key]Stored{}}, map[Key]time.Time{}}
		base := needsCode(&issuer{name: "base", life: 12 * time.Hour}, "222222")
		profiles, roles := overMFA(base, false, "a", "b", "c")
		b := runOn(t, store, profiles...)
		if err := b.login(t, "a", "222222"); err != nil {
			t.Fatal(err)
		}
		keyOf := func(name string) Key { return (*b.profiles.Load())[name].key }
		logout := func() {
			for _, name := range []string{"base", "a", "b", "c"} {
				if err := store.Forget(t.Context(), keyOf(name)); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(time.Minute)
		logout()
		time.Sleep(time.Minute)
		now := time.Now()
		other := Stored{Credentials: Credentials{AccessKeyID: "ASIATESTbaseOTHER", SecretAccessKey: NewSecret("s"), SessionToken: NewSecret("t"), Issued: now, Expires: now.Add(12 * time.Hour)}, Received: now}
		if err := store.PutIfNewer(t.Context(), keyOf("base"), other); err != nil {
			t.Fatal(err)
		}
		b.must(t, "b")
		if held := statusOf(b, "base").KeyID; base.mints() != 1 || held != other.AccessKeyID {
			t.Errorf("%d codes, minted over %s", base.mints(), held)
		}
		time.Sleep(time.Minute)
		logout()
		if _, err := b.ask("c"); kindOf(err) != KindLoginNeeded || roles[2].mints() != 0 {
			t.Errorf("%v after %d mints", err, roles[2].mints())
		}

		time.Sleep(time.Minute)
		if err := b.login(t, "base", "222222"); err != nil {
			t.Fatal(err)
		}
		roles[2].change(func() { roles[2].hook = func(context.Context, MintInput) { logout() } })
		if set, err := b.ask("c"); err == nil {
			t.Errorf("minted %s over what was forgotten meanwhile", set.AccessKeyID)
		}
		if _, ok := store.m[keyOf("c")]; ok {
			t.Error("and stored it")
		}
	})
}
