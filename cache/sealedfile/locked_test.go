package sealedfile

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/internal/seal"
)

// folder is every file of the leases but the locks, with what is in it.
func folder(t *testing.T, path string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(filepath.Dir(path), e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(Files(path)[1:], filepath.Join(filepath.Dir(path), e.Name())) {
			all = append(all, e.Name()+"="+string(raw))
		}
	}
	return all
}

func unlocked(t *testing.T, s *Store, id seal.Identity) {
	t.Helper()
	aside, why, err := s.Unlock(id)
	if err != nil || aside != "" || why != nil {
		t.Fatalf("%q, %v, %v", aside, why, err)
	}
}

// A store without an identity works in memory and touches nothing; when it gets one, what
// it has and what the file has come together.
func TestStartsLocked(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, path, id)
		put(t, s, "rests", setOf("RESTS", 3*time.Hour))
		put(t, s, "deleted", setOf("DELETED", 3*time.Hour))
		put(t, s, "replaced", setOf("REPLACED", 3*time.Hour))
		put(t, s, "later in the file", setOf("FILE", 3*time.Hour))
		put(t, s, "later in memory", setOf("FILE", time.Hour))
		closed(t, s)
		before := folder(t, path)

		s = open(t, path, seal.Identity{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		if has(t, s, "rests") || !s.id.IsZero() {
			t.Error("what is sealed is known")
		}
		put(t, s, "new", setOf("NEW", time.Hour))
		put(t, s, "later in the file", setOf("MEMORY", time.Hour))
		put(t, s, "later in memory", setOf("MEMORY", 3*time.Hour))
		for _, name := range []string{"deleted", "replaced"} {
			if err := s.Delete(t.Context(), keyOf(name)); err != nil {
				t.Fatal(err)
			}
		}
		put(t, s, "replaced", setOf("SUCCESSOR", time.Hour))
		if !has(t, s, "new") {
			t.Error("it does not hold what it is given")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if unsaved, err := s.Standing(); !unsaved || !errors.Is(err, ErrLocked) {
			t.Errorf("standing %v, %v", unsaved, err)
		}
		if !slices.Equal(before, folder(t, path)) {
			t.Error("something was written while it was locked")
		}

		unlocked(t, s, id)
		want := map[string]string{"rests": "RESTS", "new": "NEW", "later in the file": "FILE", "later in memory": "MEMORY", "replaced": "SUCCESSOR"}
		check := func(when string, s *Store) {
			t.Helper()
			for name, id := range want {
				if c, err := s.Load(t.Context(), keyOf(name)); err != nil || c.AccessKeyID != "ASIATESTTESTTEST"+id {
					t.Errorf("%s: %q is %s, %v", when, name, c.AccessKeyID, err)
				}
			}
			if has(t, s, "deleted") {
				t.Errorf("%s: what was deleted is there", when)
			}
		}
		check("unlocked", s)
		time.Sleep(time.Minute)
		synctest.Wait()
		if unsaved, err := s.Standing(); unsaved || err != nil || s.id.IsZero() {
			t.Errorf("standing %v, %v", unsaved, err)
		}
		check("saved", onDisk(t, path, id))
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		closed(t, s)
	})
}

// What was minted while it was locked is saved when it is unlocked, and not only with the
// next change.
func TestSavedWhenUnlocked(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, path, seal.Identity{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		put(t, s, "a", setOf("ONE", time.Hour))
		time.Sleep(time.Minute)
		unlocked(t, s, id)
		time.Sleep(gap)
		synctest.Wait()
		if !has(t, onDisk(t, path, id), "a") {
			t.Error("it is not saved")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		closed(t, s)
	})
}

// Never unlocked: it ends as quietly as it ran, and what expires is not kept.
func TestStaysLocked(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, path, id)
		put(t, s, "a", setOf("ONE", time.Hour))
		closed(t, s)
		before := folder(t, path)
		s = open(t, path, seal.Identity{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		put(t, s, "b", setOf("TWO", time.Hour))
		time.Sleep(2 * time.Hour)
		put(t, s, "c", setOf("THREE", time.Hour))
		synctest.Wait()
		if len(s.m) != 1 {
			t.Errorf("%d sets are held", len(s.m))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		closed(t, s)
		if !slices.Equal(before, folder(t, path)) {
			t.Error("something was written")
		}
	})
}

// A lock takes the identity and nothing else: what is held is served, what is minted is
// saved, and the identity goes on from there.
func TestLockAndUnlock(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	s := open(t, path, id)
	put(t, s, "before", setOf("ONE", time.Hour))
	s.Lock()
	if !s.id.IsZero() || !has(t, s, "before") {
		t.Error("it is not locked, or lost what it held")
	}
	put(t, s, "while", setOf("TWO", time.Hour))
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	if unsaved, err := s.Standing(); unsaved || err != nil {
		t.Errorf("standing %v, %v", unsaved, err)
	}
	if d := onDisk(t, path, id); !has(t, d, "before") || !has(t, d, "while") {
		t.Error("what was minted while it was locked is not saved")
	}
	if err := s.Delete(t.Context(), keyOf("before")); err != nil {
		t.Fatal(err)
	}
	unlocked(t, s, id)
	put(t, s, "after", setOf("THREE", time.Hour))
	closed(t, s)
	if d := onDisk(t, path, id); has(t, d, "before") || !has(t, d, "while") || !has(t, d, "after") {
		t.Error("it did not go on")
	}
}

// Another identity after a lock takes over what is in memory: nothing is lost or moved.
func TestUnlockWithAnother(t *testing.T) {
	path, id, other := filepath.Join(t.TempDir(), "leases"), newIdentity(t), newIdentity(t)
	s := open(t, path, id)
	put(t, s, "a", setOf("ONE", time.Hour))
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	s.Lock()
	unlocked(t, s, other)
	closed(t, s)
	if !has(t, onDisk(t, path, other), "a") || len(folder(t, path)) != 1 {
		t.Error("it is not sealed for the one that it was given last")
	}
}

// What Open says of a file that cannot be used, Unlock says; and Open, of a locked store,
// says nothing of it.
func TestUnlockOfADamagedFile(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, path, seal.Identity{})
	put(t, s, "a", setOf("ONE", time.Hour))
	if _, _, err := s.Unlock(seal.Identity{}); err == nil || !s.id.IsZero() {
		t.Errorf("unlocked with no identity: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil { //nolint:gosec // this is what is refused
		t.Fatal(err)
	}
	if _, _, err := s.Unlock(id); err == nil || !strings.Contains(err.Error(), "has mode 0644") || !s.id.IsZero() {
		t.Errorf("a file that others can read: %v", err)
	}
	if _, err := s.Standing(); !errors.Is(err, ErrLocked) {
		t.Errorf("standing: %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	aside, why, err := s.Unlock(id)
	if err != nil || why == nil || aside == "" || s.id.IsZero() {
		t.Fatalf("%q, %v, %v", aside, why, err)
	}
	if raw, err := os.ReadFile(aside); err != nil || !bytes.Equal(raw, []byte("damaged")) {
		t.Errorf("%q, %v", raw, err)
	}
	closed(t, s)
	if !has(t, onDisk(t, path, id), "a") {
		t.Error("what was minted meanwhile is not saved")
	}
}

// One process has the leases at a time, and another's start says so; what is only shared
// holds a start up for a moment.
func TestOwned(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, path, seal.Identity{})
		began := time.Now()
		if _, _, _, err := Open(Options{Path: path, Identity: id}); err == nil || !strings.Contains(err.Error(), "another stsbroker has the sealed leases "+path) {
			t.Errorf("%v", err)
		}
		if took := time.Since(began); took < ownPatience || took > ownPatience+time.Second {
			t.Errorf("refused after %v", took)
		}
		closed(t, s)

		shared, err := OpenShared(path, id)
		if err != nil {
			t.Fatal(err)
		}
		unlock, err := shared.Lock(t.Context(), keyOf("a"))
		if err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		time.AfterFunc(3*time.Second, func() {
			put2(t, shared, "a", setOf("ONE", time.Hour))
			unlock()
		})
		s = open(t, path, id)
		if took := time.Since(began); took < 3*time.Second || took > 4*time.Second || !has(t, s, "a") {
			t.Errorf("opened after %v, with what was minted %v", took, has(t, s, "a"))
		}
		closed(t, s)
	})
}
