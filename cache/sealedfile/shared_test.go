package sealedfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/cache/cachetest"
	"github.com/stsbroker/stsbroker/internal/seal"
)

var (
	_ broker.Locker    = (*Shared)(nil)
	_ broker.Flusher   = (*Shared)(nil)
	_ broker.Flusher   = (*Store)(nil)
	_ broker.Forgetter = (*Shared)(nil)
	_ broker.Forgetter = (*Store)(nil)
)

func openShared(t *testing.T, path string, id seal.Identity) *Shared {
	t.Helper()
	s, err := OpenShared(path, id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put2(t *testing.T, s broker.LeaseStore, name string, c broker.Stored) {
	t.Helper()
	if err := s.PutIfNewer(t.Context(), keyOf(name), c); err != nil {
		t.Error(err)
	}
}

func idIn(t *testing.T, s broker.LeaseStore, name string) string {
	t.Helper()
	c, err := s.Load(t.Context(), keyOf(name))
	if err != nil && !errors.Is(err, broker.ErrNotFound) {
		t.Error(err)
	}
	return strings.TrimPrefix(c.AccessKeyID, "ASIATESTTESTTEST")
}

func lock(t *testing.T, s *Shared) func() {
	t.Helper()
	unlock, err := s.Lock(t.Context(), broker.Key{})
	if err != nil {
		t.Fatal(err)
	}
	return unlock
}

func TestShared(t *testing.T) {
	id := newIdentity(t)
	t.Run("in one process", func(t *testing.T) {
		cachetest.Run(t, func(t *testing.T) broker.LeaseStore {
			return openShared(t, filepath.Join(t.TempDir(), "leases"), id)
		})
	})
	t.Run("between processes", func(t *testing.T) {
		cachetest.Run(t, func(t *testing.T) broker.LeaseStore {
			path := filepath.Join(t.TempDir(), "leases")
			w := &byTurns{}
			for i := range w.all {
				w.all[i] = openShared(t, path, id)
			}
			return w
		})
	})
}

// byTurns has each call done by another of several that share a file.
type byTurns struct {
	all [3]*Shared
	n   atomic.Int32
}

func (w *byTurns) with(ctx context.Context, f func(*Shared) error) error {
	s := w.all[int(w.n.Add(1))%len(w.all)]
	unlock, err := s.Lock(ctx, broker.Key{})
	if err != nil {
		return err
	}
	defer unlock()
	return f(s)
}

func (w *byTurns) Load(ctx context.Context, k broker.Key) (out broker.Stored, err error) {
	s := w.all[int(w.n.Add(1))%len(w.all)]
	return s.Load(ctx, k) // without the lock: it sees what others have put
}

func (w *byTurns) PutIfNewer(ctx context.Context, k broker.Key, c broker.Stored) error {
	return w.with(ctx, func(s *Shared) error { return s.PutIfNewer(ctx, k, c) })
}

func (w *byTurns) Forget(ctx context.Context, k broker.Key) error {
	return w.with(ctx, func(s *Shared) error { return s.Forget(ctx, k) })
}

func (w *byTurns) Forgotten(ctx context.Context, k broker.Key, received time.Time) bool {
	return w.all[int(w.n.Add(1))%len(w.all)].Forgotten(ctx, k, received)
}

func (w *byTurns) Delete(ctx context.Context, k broker.Key) error {
	return w.with(ctx, func(s *Shared) error { return s.Delete(ctx, k) })
}

// What is done under the lock is in the file when it is let go, beside what others put;
// what is done without it is when it is taken the next time.
func TestSharedBesideOthers(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	one, two := openShared(t, path, id), openShared(t, path, id)
	unlock := lock(t, one)
	put2(t, one, "a", setOf("A", time.Hour))
	if _, err := os.Stat(path); err == nil {
		t.Error("it was written before the end")
	}
	unlock()
	unlock() // once is enough
	put2(t, two, "b", setOf("B", time.Hour))
	if got := idIn(t, two, "a"); got != "A" {
		t.Errorf("the other reads %q", got)
	}
	if idIn(t, one, "b") != "" {
		t.Error("what was put without the lock is written")
	}
	lock(t, two)()
	if idIn(t, one, "b") != "B" || idIn(t, one, "a") != "A" {
		t.Error("a set of one of the two is lost")
	}
	// Deleted, and meanwhile replaced by another process: that was not meant.
	if err := one.Delete(t.Context(), keyOf("a")); err != nil {
		t.Fatal(err)
	}
	if idIn(t, one, "a") != "" || idIn(t, two, "a") != "A" {
		t.Error("the deletion shows too early, or not at all")
	}
	unlock = lock(t, two)
	if err := two.Delete(t.Context(), keyOf("a")); err != nil {
		t.Fatal(err)
	}
	put2(t, two, "a", setOf("NEXT", 30*time.Minute)) // of a shorter life than what it takes the place of
	unlock()
	if got := idIn(t, one, "a"); got != "NEXT" {
		t.Errorf("the other process's successor is %q", got)
	}
	lock(t, one)()
	if got := idIn(t, two, "a"); got != "NEXT" {
		t.Errorf("the deletion took the successor: %q", got)
	}
	// Deleted without the lock, and nobody replaced it.
	if err := one.Delete(t.Context(), keyOf("b")); err != nil {
		t.Fatal(err)
	}
	lock(t, one)()
	if idIn(t, two, "b") != "" {
		t.Error("the deletion is not written")
	}
	// Local sets are this process's own.
	local := setOf("LOCAL", time.Hour)
	local.Local = true
	unlock = lock(t, one)
	put2(t, one, "local", local)
	unlock()
	unlock = lock(t, two)
	put2(t, two, "c", setOf("C", time.Hour))
	unlock()
	lock(t, one)()
	if idIn(t, one, "local") != "LOCAL" || idIn(t, two, "local") != "" {
		t.Error("a local set is lost, or known to others")
	}
	if n := len(onDisk(t, path, id).m); n != 2 {
		t.Errorf("%d sets in the file", n)
	}
	// Nothing has changed: nothing is written.
	before := folder(t, path)
	lock(t, one)()
	if !slices.Equal(before, folder(t, path)) {
		t.Error("a look alone wrote the file")
	}
}

// A process locks it for several leases at once, one within the other; the others wait
// until it has let go of all.
func TestSharedLockWithin(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	one, two := openShared(t, path, id), openShared(t, path, id)
	once := lock(t, one)
	once()
	once() // is as good as once
	outer := lock(t, one)
	inner := lock(t, one)
	put2(t, one, "inner", setOf("I", time.Hour))
	inner()
	if idIn(t, two, "inner") != "I" {
		t.Error("what the inner one put is not written")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := two.Lock(ctx, broker.Key{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked by two: %v", err)
	}
	outer()
	lock(t, two)()
}

// While a daemon has the file, others do not wait, read what it saves, and keep theirs to
// themselves; when it has gone, they have it again.
func TestSharedBesideADaemon(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	shared := openShared(t, path, id)
	daemon := open(t, path, id)
	put(t, daemon, "a", setOf("A", time.Hour))
	if err := daemon.save(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := shared.Lock(t.Context(), broker.Key{}); !errors.Is(err, errOwned) {
		t.Errorf("%v", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it waited %v", took)
	}
	put2(t, shared, "b", setOf("B", time.Hour))
	if idIn(t, shared, "a") != "A" || idIn(t, shared, "b") != "B" || has(t, onDisk(t, path, id), "b") {
		t.Error("it does not read what the daemon saved, lost its own, or wrote it")
	}
	if err := daemon.Delete(t.Context(), keyOf("a")); err != nil {
		t.Fatal(err)
	}
	closed(t, daemon)
	if idIn(t, shared, "a") != "" {
		t.Error("it does not look again")
	}
	lock(t, shared)()
	if !has(t, onDisk(t, path, id), "b") {
		t.Error("it does not write after the daemon has gone")
	}
}

// A file that it cannot use is told of, and stays as it is, whatever is put; it is used
// when somebody has mended it.
func TestSharedOfAFileThatCannotBeUsed(t *testing.T) {
	id := newIdentity(t)
	for name, spoil := range map[string]func(t *testing.T, path string) (want string){
		"damaged": func(t *testing.T, path string) string {
			if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
				t.Fatal(err)
			}
			return path + ": it is not sealed at all"
		},
		"another's": func(t *testing.T, path string) string {
			if err := write(path, newIdentity(t).Sealer(), content{Version: version, Saved: time.Now()}); err != nil {
				t.Fatal(err)
			}
			return path + ": it was sealed for another identity"
		},
		"of a later time": func(t *testing.T, path string) string {
			if err := write(path, id.Sealer(), content{Version: version, Saved: time.Now().Add(time.Hour)}); err != nil {
				t.Fatal(err)
			}
			return path + ": it was written later than now"
		},
		"a folder": func(t *testing.T, path string) string {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
			return path + " is not a regular file"
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "leases")
			want := spoil(t, path)
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			s, err := OpenShared(path, id)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want …%s…", err, want)
			}
			if unlock, err := s.Lock(t.Context(), broker.Key{}); err == nil {
				unlock()
				t.Error("it can be locked")
			}
			put2(t, s, "a", setOf("A", time.Hour))
			if idIn(t, s, "a") != "A" {
				t.Error("it does not hold what it is given")
			}
			if now, err := os.Lstat(path); err != nil || !os.SameFile(info, now) || !now.ModTime().Equal(info.ModTime()) {
				t.Errorf("the file was moved or written: %v", err)
			}
			if err := os.Rename(path, path+".away"); err != nil {
				t.Fatal(err)
			}
			lock(t, s)()
			if !has(t, onDisk(t, path, id), "a") {
				t.Error("it does not go on when the file is mended")
			}
		})
	}
}

// A write that fails loses nothing: the next one has it.
func TestSharedWriteFails(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	s := openShared(t, path, id)
	unlock := lock(t, s)
	if err := os.Mkdir(path, 0o700); err != nil { // no file can take its place
		t.Fatal(err)
	}
	put2(t, s, "a", setOf("A", time.Hour))
	unlock()
	if idIn(t, s, "a") != "A" {
		t.Error("it lost what could not be written")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	lock(t, s)()
	if !has(t, onDisk(t, path, id), "a") {
		t.Error("it was not written later")
	}
}

// Brokers over one file, each as a process of its own would be.
func TestSharedByBrokers(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "new", "leases"), newIdentity(t) // whose folder nobody has made
	var mints atomic.Int32
	got := make(chan string)
	for range 8 {
		go func() {
			key, err := mintOnce(t.Context(), path, id, "dev", func() { mints.Add(1); <-time.After(50 * time.Millisecond) })
			got <- fmt.Sprint(key, err)
		}()
	}
	first := <-got
	for range 7 {
		if next := <-got; next != first {
			t.Errorf("got %s, and %s", first, next)
		}
	}
	if mints.Load() != 1 {
		t.Errorf("%d mints: %s", mints.Load(), first)
	}
}

// mintOnce is a process: a broker over the shared file that is asked for one profile,
// a role over a source.
func mintOnce(ctx context.Context, path string, id seal.Identity, role string, minted func()) (keyID string, err error) {
	store, err := OpenShared(path, id)
	if err != nil {
		return "", err
	}
	b := broker.New(broker.Options{Store: store, Access: anybody{}, Observer: anybody{}})
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- b.Run(running) }()
	b.Reload([]broker.Profile{
		{Name: "base", Minter: minting{"base", func() {}}, Bucket: "b", Action: "AssumeRole"},
		{Name: role, Minter: minting{role, minted}, Bucket: "b", Action: "AssumeRole", Parent: broker.Ref{Profile: "base"}},
	})
	set, err := b.Get(ctx, broker.Ask{Profile: role, Patience: time.Minute})
	stop()
	if err = errors.Join(err, <-done); err != nil {
		return "", err
	}
	return set.AccessKeyID, nil
}

type minting struct {
	name   string
	minted func()
}

func (m minting) Digest() broker.Digest { return broker.DigestOf("test", m.name) }

func (m minting) Mint(context.Context, broker.MintInput) (broker.Credentials, error) {
	m.minted()
	now := time.Now()
	return broker.Credentials{
		AccessKeyID: fmt.Sprintf("ASIA%s%020d", strings.ToUpper(m.name), now.UnixNano()), SecretAccessKey: broker.NewSecret("s"), SessionToken: broker.NewSecret("t"),
		Issued: now, Expires: now.Add(time.Hour),
	}, nil
}

type anybody struct{}

func (anybody) Authorize(context.Context, broker.Caller, string) error { return nil }
func (anybody) Observe(broker.Event)                                   {}
