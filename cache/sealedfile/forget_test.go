package sealedfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/seal"
)

func forget(t *testing.T, s broker.Forgetter, name string) {
	t.Helper()
	if err := s.Forget(t.Context(), keyOf(name)); err != nil {
		t.Fatal(err)
	}
}

func isLocked(err error) bool {
	e, ok := errors.AsType[*broker.Error](err)
	return ok && e.Kind == broker.KindLocked
}

// What was forgotten is gone from the file when Flush returns, whatever happens then; a
// file that cannot be written is told of, and the next Flush tries again.
func TestFlush(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	s := open(t, path, id)
	for _, name := range []string{"a", "b", "c"} {
		put(t, s, name, setOf("ONE", time.Hour))
	}
	for _, name := range []string{"a", "b"} {
		forget(t, s, name)
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := onDisk(t, path, id); has(t, d, name) || !has(t, d, "c") {
			t.Errorf("%s is in the file, or c is not", name)
		}
	}
	before := folder(t, path)
	if err := s.Flush(t.Context()); err != nil || before[0] != folder(t, path)[0] {
		t.Errorf("nothing to save: %v, or written all the same", err)
	}

	forget(t, s, "c")
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil { // no file can take its place
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); err == nil {
		t.Error("it could not be written, and nothing was said")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	s.saving <- struct{}{} // as a disk that does not answer
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Flush(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	<-s.saving
	if err := s.Flush(t.Context()); err != nil || has(t, onDisk(t, path, id), "c") {
		t.Errorf("not tried again: %v", err)
	}
	closed(t, s)
}

// Flush and Run, and many of the first, save one at a time.
func TestFlushBesideRun(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	s := open(t, path, id)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 5 {
				name := fmt.Sprint(i, n)
				put(t, s, name, setOf("ONE", time.Hour))
				if err := s.Flush(t.Context()); err != nil || !has(t, onDisk(t, path, id), name) {
					t.Errorf("%s is not saved: %v", name, err)
				}
			}
		})
	}
	wg.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	closed(t, s)
}

// A store that waits for its identity says so of what may rest in the file, and of what
// cannot be removed from it; where there is no file, nothing rests.
func TestLockedOverAFile(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	s := open(t, path, seal.Identity{})
	if _, err := s.Load(t.Context(), keyOf("a")); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("without a file: %v", err)
	}
	forget(t, s, "a")
	if err := s.Flush(t.Context()); err != nil {
		t.Errorf("without a file: %v", err)
	}
	closed(t, s)
	s = open(t, path, id)
	put(t, s, "a", setOf("ONE", time.Hour))
	put(t, s, "b", setOf("TWO", time.Hour))
	closed(t, s)

	s = open(t, path, seal.Identity{})
	for _, name := range []string{"a", "b", "never"} {
		if _, err := s.Load(t.Context(), keyOf(name)); !isLocked(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	put(t, s, "b", setOf("NEW", 2*time.Hour))
	forget(t, s, "a")
	if _, err := s.Load(t.Context(), keyOf("a")); !errors.Is(err, broker.ErrNotFound) || !has(t, s, "b") {
		t.Errorf("forgotten: %v", err)
	}
	if err := s.Flush(t.Context()); !isLocked(err) {
		t.Errorf("it cannot be removed from the file: %v", err)
	}
	unlocked(t, s, id)
	if err := s.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := s.Load(t.Context(), keyOf("never")); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("unlocked: %v", err)
	}
	d := onDisk(t, path, id)
	if has(t, d, "a") || !has(t, d, "b") || !d.Forgotten(t.Context(), keyOf("a"), time.Now().Add(-time.Minute)) {
		t.Error("it was not removed, or is not remembered")
	}
	s.Lock()
	if err := s.Flush(t.Context()); err != nil {
		t.Errorf("after a lock it can write: %v", err)
	}
	closed(t, s)
}

// A process that shares the file has in memory what another one forgot: it is not handed
// out from there, and not written again.
func TestForgottenElsewhere(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	one, two := openShared(t, path, id), openShared(t, path, id)
	unlock := lock(t, one)
	put2(t, one, "written", setOf("ONE", time.Hour))
	unlock()
	put2(t, one, "waits", setOf("ONE", time.Hour))
	put2(t, one, "other", setOf("ONE", time.Hour))
	for _, name := range []string{"written", "waits"} {
		forget(t, two, name)
	}
	if idIn(t, two, "written") != "" || idIn(t, one, "written") == "" {
		t.Error("it shows too early, or not at all")
	}
	if err := two.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"written", "waits"} {
		if id := idIn(t, one, name); id != "" {
			t.Errorf("%s is %s", name, id)
		}
	}
	lock(t, one)()
	if d := onDisk(t, path, id); has(t, d, "written") || has(t, d, "waits") || !has(t, d, "other") {
		t.Error("it came back, or another was lost")
	}
	unlock = lock(t, one)
	put2(t, one, "waits", setOf("NEW", time.Hour))
	unlock()
	if id := idIn(t, two, "waits"); id != "NEW" {
		t.Errorf("what came later is %q", id)
	}

	daemon := open(t, path, id)
	forget(t, one, "other")
	if err := one.Flush(t.Context()); !errors.Is(err, errOwned) {
		t.Errorf("beside a daemon: %v", err)
	}
	closed(t, daemon)
	if err := one.Flush(t.Context()); err != nil || has(t, onDisk(t, path, id), "other") {
		t.Errorf("when it has gone: %v", err)
	}
}

// What was forgotten is remembered as long as a session may live, and no more of it than
// sets are.
func TestForgottenForAWhile(t *testing.T) {
	now, g := time.Now(), graves{}
	for i := range most + 10 {
		g[keyOf(fmt.Sprint(i))] = now.Add(-time.Duration(i) * time.Second)
	}
	g[keyOf("old")] = now.Add(-longest - time.Second)
	g.prune(now)
	if len(g) != most || !g.cover(keyOf("0"), now) || g.cover(keyOf("0"), now.Add(1)) || g.cover(keyOf(fmt.Sprint(most)), now.Add(-24*time.Hour)) || g.cover(keyOf("old"), now.Add(-longest-time.Hour)) {
		t.Errorf("%d are left", len(g))
	}
}

// A file in which both stand, as one has that does not know what is forgotten.
func TestForgottenAndThere(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	now := time.Now()
	c := contentOf(held{map[broker.Key]broker.Stored{keyOf("a"): setOf("ONE", time.Hour), keyOf("b"): setOf("TWO", time.Hour)}, graves{keyOf("a"): now.Add(time.Second), keyOf("b"): now.Add(-time.Second)}}, now)
	if err := write(path, id.Sealer(), c); err != nil {
		t.Fatal(err)
	}
	if d := onDisk(t, path, id); has(t, d, "a") || !has(t, d, "b") {
		t.Error("what was forgotten is read, or what came later is not")
	}
}

// A logout beside an exec that lives on: its broker has the session in memory, and mints
// nothing over it any more.
func TestLogoutBesideExec(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "s", "leases"), newIdentity(t)
	var mints []string
	profiles := []broker.Profile{
		{Name: "base", Minter: minting{"base", func() { mints = append(mints, "base") }}, Bucket: "b", Action: "GetSessionToken"},
		{Name: "one", Minter: minting{"one", func() {}}, Bucket: "b", Action: "AssumeRole", Parent: broker.Ref{Profile: "base"}},
		{Name: "two", Minter: minting{"two", func() { mints = append(mints, "two") }}, Bucket: "b", Action: "AssumeRole", Parent: broker.Ref{Profile: "base"}},
	}
	start := func(s broker.LeaseStore) *broker.Broker {
		b := broker.New(broker.Options{Store: s, Access: anybody{}, Observer: anybody{}})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		t.Cleanup(func() {
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		b.Reload(profiles)
		return b
	}
	exec := start(openShared(t, path, id))
	get := func(b *broker.Broker, p string) {
		t.Helper()
		if _, err := b.Get(t.Context(), broker.Ask{Profile: p, Patience: 20 * time.Second}); err != nil {
			t.Fatal(err)
		}
	}
	get(exec, "one")
	store := open(t, path, id)
	if n, err := start(store).Forget(t.Context(), func(p broker.Profile) bool { return p.Name == "base" }); n != 2 || err != nil {
		t.Errorf("%d sets were forgotten, %v", n, err)
	}
	closed(t, store)
	get(exec, "two")
	if want := "[base base two]"; fmt.Sprint(mints) != want {
		t.Errorf("minted %v, want %v", mints, want)
	}
}
