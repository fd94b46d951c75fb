package sealedfile

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/cache/cachetest"
	"github.com/stsbroker/stsbroker/internal/seal"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// native identities of both kinds, as age-keygen writes them.
func identities(t *testing.T) map[string]seal.Identity {
	t.Helper()
	out := map[string]seal.Identity{"hybrid": newIdentity(t)}
	x, err := seal.ParseIdentity([]byte(testIdentity))
	if err != nil {
		t.Fatal(err)
	}
	out["X25519"] = x
	return out
}

const testIdentity = "AGE-SECRET-KEY-13KDZ5VRL280G78TKQZ65UXSJE39ZSVUR5E8F468H90D4NPQ5DPHQWWFWEF"

func newIdentity(t *testing.T) seal.Identity {
	t.Helper()
	text, err := seal.MakeIdentity()
	if err != nil {
		t.Fatal(err)
	}
	id, err := seal.ParseIdentity(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func open(t *testing.T, path string, id seal.Identity) *Store {
	t.Helper()
	s, aside, why, err := Open(Options{Path: path, Identity: id})
	if err != nil || aside != "" || why != nil {
		t.Fatalf("%q, %v, %v", aside, why, err)
	}
	return s
}

// onDisk is what the file has now, as a store that has nothing to do with it.
func onDisk(t *testing.T, path string, id seal.Identity) *Store {
	t.Helper()
	raw, err := read(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := decode(raw, id, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &Store{m: file.sets, graves: file.graves}
}

func keyOf(name string) broker.Key { return broker.Key{Digest: broker.DigestOf("test", name)} }

func setOf(id string, life time.Duration) broker.Stored {
	now := time.Now()
	return broker.Stored{
		Credentials: broker.Credentials{
			AccessKeyID: "ASIATESTTESTTEST" + id, SecretAccessKey: broker.NewSecret("secret of " + id), SessionToken: broker.NewSecret("token of " + id),
			Issued: now.Add(time.Minute), Expires: now.Add(time.Minute + life),
		},
		Received: now,
	}
}

func put(t *testing.T, s *Store, name string, c broker.Stored) {
	t.Helper()
	if err := s.PutIfNewer(t.Context(), keyOf(name), c); err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, s *Store, name string) bool {
	t.Helper()
	_, err := s.Load(t.Context(), keyOf(name))
	if e, ok := errors.AsType[*broker.Error](err); err != nil && !errors.Is(err, broker.ErrNotFound) && (!ok || e.Kind != broker.KindLocked) {
		t.Fatal(err)
	}
	return err == nil
}

func closed(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestStore(t *testing.T) {
	id := newIdentity(t)
	t.Run("in one process", func(t *testing.T) {
		cachetest.Run(t, func(t *testing.T) broker.LeaseStore {
			return open(t, filepath.Join(t.TempDir(), "leases"), id)
		})
	})
	t.Run("over restarts", func(t *testing.T) {
		cachetest.Run(t, func(t *testing.T) broker.LeaseStore {
			return &restarting{t, filepath.Join(t.TempDir(), "leases"), id, make(chan struct{}, 1)}
		})
	})
}

// restarting is a store that is opened for each call and closed after it.
type restarting struct {
	t    *testing.T
	path string
	id   seal.Identity
	one  chan struct{}
}

func (r *restarting) with(f func(*Store) error) error {
	r.one <- struct{}{}
	defer func() { <-r.one }()
	s, _, why, err := Open(Options{Path: r.path, Identity: r.id})
	if err = errors.Join(why, err); err != nil {
		return err
	}
	return errors.Join(f(s), s.Close())
}

func (r *restarting) Load(ctx context.Context, k broker.Key) (out broker.Stored, err error) {
	err = r.with(func(s *Store) error {
		out, err = s.Load(ctx, k)
		return err
	})
	return out, err
}

func (r *restarting) PutIfNewer(ctx context.Context, k broker.Key, c broker.Stored) error {
	return r.with(func(s *Store) error { return s.PutIfNewer(ctx, k, c) })
}

func (r *restarting) Forget(ctx context.Context, k broker.Key) error {
	return r.with(func(s *Store) error { return s.Forget(ctx, k) })
}

func (r *restarting) Forgotten(ctx context.Context, k broker.Key, received time.Time) (is bool) {
	if err := r.with(func(s *Store) error { is = s.Forgotten(ctx, k, received); return nil }); err != nil {
		r.t.Error(err)
	}
	return is
}

func (r *restarting) Delete(ctx context.Context, k broker.Key) error {
	return r.with(func(s *Store) error { return s.Delete(ctx, k) })
}

// Values come back to the byte, with the region too, which no suite asks of a store.
func TestAllOfASet(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	s := open(t, path, id)
	in := setOf("ONE", time.Hour)
	in.Region, in.Note, in.SecretAccessKey = "eu-central-1", "<&\u2028>\"", broker.NewSecret("\xff\x00/+=")
	put(t, s, "a", in)
	closed(t, s)
	out, err := onDisk(t, path, id).Load(t.Context(), keyOf("a"))
	if err != nil || out.Region != in.Region || out.Note != in.Note || out.SecretAccessKey.Reveal() != in.SecretAccessKey.Reveal() {
		t.Errorf("%+v, %v", out, err)
	}
}

// Saves are at once after a change, and then a second apart.
func TestCoalesced(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, path, id)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		var last []byte
		saves, behind := 0, time.Duration(0)
		for i := range 100 {
			put(t, s, fmt.Sprint(i), setOf("ONE", time.Hour))
			changed := time.Now()
			for {
				synctest.Wait()
				now, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(now, last) {
					saves++
					last = now
				}
				if unsaved, err := s.Standing(); err != nil {
					t.Fatal(err)
				} else if !unsaved || i < 99 {
					break
				}
				time.Sleep(10 * time.Millisecond)
				behind = time.Since(changed)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if saves < 10 || saves > 12 {
			t.Errorf("%d saves in ten seconds", saves)
		}
		if behind > time.Second {
			t.Errorf("the last change was saved after %v", behind)
		}
		if unsaved, _ := s.Standing(); unsaved {
			t.Error("the last change is not saved")
		}
		time.Sleep(time.Minute)
		put(t, s, "at once", setOf("ONE", time.Hour))
		synctest.Wait()
		if !has(t, onDisk(t, path, id), "at once") {
			t.Error("a change after a quiet minute waits")
		}
		put(t, s, "at the end", setOf("ONE", time.Hour))
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if has(t, onDisk(t, path, id), "at the end") {
			t.Error("Run saved twice within a second")
		}
		closed(t, s)
		if !has(t, onDisk(t, path, id), "at the end") {
			t.Error("Close saved nothing")
		}
	})
}

func TestTheExpiredAreDropped(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, path, id)
		put(t, s, "short", setOf("SHORT", time.Hour))
		put(t, s, "long", setOf("LONG", 12*time.Hour))
		closed(t, s)
		time.Sleep(2 * time.Hour)
		if again := onDisk(t, path, id); has(t, again, "short") || !has(t, again, "long") {
			t.Error("what expired is read, or what has not is not")
		}
		put(t, s, "new", setOf("NEW", time.Hour))
		closed(t, s)
		if n := len(readContent(t, path, id).Leases); n != 2 {
			t.Errorf("%d sets in the file, want 2", n)
		}
		if err := s.Delete(t.Context(), keyOf("new")); err != nil {
			t.Fatal(err)
		}
		closed(t, s)
		if n := len(readContent(t, path, id).Leases); n != 1 {
			t.Errorf("%d sets in the file after a deletion, want 1", n)
		}
	})
}

func readContent(t *testing.T, path string, id seal.Identity) (c content) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := id.Open(raw, limit)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(plain, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNoMoreThanABrokerHas(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	s := open(t, path, id)
	for i := range most + 10 {
		put(t, s, fmt.Sprint(i), setOf("ONE", time.Hour))
	}
	never := setOf("NEVER", time.Hour)
	never.Expires = time.Date(9999, 12, 31, 23, 59, 0, 0, time.FixedZone("", -3600)) // JSON has no such year in UTC
	put(t, s, "never", never)
	closed(t, s)
	again := onDisk(t, path, id)
	if n := len(again.m); n != most || has(t, again, "never") {
		t.Errorf("%d sets", n)
	}
}

// The clock: the file is believed where it can be, and left alone where it cannot.
func TestClocks(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	s := open(t, path, id)
	put(t, s, "a", setOf("ONE", 3*time.Hour))
	closed(t, s)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, c := range []struct {
		after time.Duration
		why   error
		n     int
	}{{0, nil, 1}, {2 * time.Hour, nil, 1}, {4 * time.Hour, nil, 0}, {-20 * time.Second, nil, 1}, {-time.Minute, errFuture, 0}, {-24 * time.Hour, errFuture, 0}} {
		m, err := decode(raw, id, now.Add(c.after))
		if !errors.Is(err, c.why) || err != nil && c.why == nil || len(m.sets) != c.n {
			t.Errorf("read %v after it was written: %d sets, %v", c.after, len(m.sets), err)
		}
		for _, st := range m.sets {
			if left := ends(st).Sub(now.Add(c.after)); left > 3*time.Hour-c.after {
				t.Errorf("read %v after it was written: %v left", c.after, left)
			}
		}
	}

	// A file of a later time stays, for when the clock is right again.
	future := content{Version: version, Saved: now.Add(time.Hour)}
	if err := write(path, id.Sealer(), future); err != nil {
		t.Fatal(err)
	}
	s, aside, why, err := Open(Options{Path: path, Identity: id})
	if aside != "" || !errors.Is(why, errFuture) || err != nil {
		t.Fatalf("%q, %v, %v", aside, why, err)
	}
	closed(t, s)
	if got := readContent(t, path, id); !got.Saved.Equal(future.Saved) {
		t.Error("the file was changed")
	}
	if _, err := OpenShared(path, id); !errors.Is(err, errFuture) {
		t.Errorf("shared: %v", err)
	}
}

// A clock that was set back while the broker ran: the file says when the set came by
// the clock as it now is. (In real time: the clock of a synctest bubble is not monotonic.)
func TestSetBackBeforeTheSave(t *testing.T) {
	now := time.Now()
	c := setOf("ONE", 3*time.Hour)
	c.Received = now.Add(-time.Hour)
	for _, step := range []time.Duration{-2 * time.Hour, -10 * time.Second, 0, 2 * time.Hour} {
		e := entryOf(keyOf("a"), c, moveWall(now, step))
		past, want := now.Round(0).Add(step).Sub(e.Received), time.Hour
		if step > -tolerance {
			want += step // forth, or hardly back: the wall clock's word
		}
		if past != want {
			t.Errorf("clock set by %v: received %v ago, want %v", step, past, want)
		}
	}
}

// moveWall moves the wall clock of a time and leaves its monotonic reading, as if the
// host's clock had been set in between. Package time has no way to say that.
func moveWall(t time.Time, d time.Duration) time.Time {
	type internals struct {
		wall uint64
		ext  int64
		loc  unsafe.Pointer
	}
	const hasMonotonic = 1 << 63
	p := (*internals)(unsafe.Pointer(&t))
	if p.wall&hasMonotonic == 0 {
		panic("no monotonic reading")
	}
	p.wall += uint64(int64(d/time.Second)) << 30
	return t
}

// Saves that fail are tried again, ever more seldom; who puts a set does not wait.
func TestSavesThatFail(t *testing.T) {
	dir, id := t.TempDir(), newIdentity(t)
	path := filepath.Join(dir, "leases")
	synctest.Test(t, func(t *testing.T) {
		told := make(chan error, 9)
		s, _, _, err := Open(Options{Path: path, Identity: id, Report: func(err error) { told <- err }})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(path, 0o700); err != nil { // no file can take its place
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		put(t, s, "a", setOf("ONE", 12*time.Hour))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if unsaved, err := s.Standing(); !unsaved || err == nil || len(told) != 1 || <-told == nil {
			t.Errorf("%v, %v, told %d times", unsaved, err, len(told))
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(gapMost)
		synctest.Wait()
		if unsaved, err := s.Standing(); unsaved || err != nil || len(told) != 1 || <-told != nil {
			t.Errorf("%v, %v, told %d times", unsaved, err, len(told))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		closed(t, s)
		if !has(t, onDisk(t, path, id), "a") {
			t.Error("not saved")
		}
	})
}

// Whatever is changed in the file or cut off it: a set of before, or none.
func TestEveryByte(t *testing.T) {
	for name, id := range identities(t) {
		path := filepath.Join(t.TempDir(), "leases")
		s := open(t, path, id)
		put(t, s, "a", setOf("ONE", time.Hour))
		put(t, s, "b", setOf("TWO", 12*time.Hour))
		closed(t, s)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes", name, len(whole))
		try := func(raw []byte, what string, i int) {
			if m, err := decode(raw, id, time.Now()); err == nil || len(m.sets) != 0 {
				t.Fatalf("%s: %s %d of %d: %d sets, %v", name, what, i, len(whole), len(m.sets), err)
			}
		}
		for i := range whole {
			try(whole[:i], "cut at", i)
			changed := bytes.Clone(whole)
			changed[i] ^= 1 << (i % 8)
			try(changed, "flipped", i)
		}
		// And as a start sees it: aside, cold, and it goes on from there.
		for _, n := range []int{0, 1, len(whole) / 2, len(whole) - 1} {
			if err := securefile.Write(path, whole[:n]); err != nil {
				t.Fatal(err)
			}
			s, aside, why, err := Open(Options{Path: path, Identity: id})
			if err != nil || why == nil || len(s.m) != 0 {
				t.Fatalf("%s: cut at %d: %v, %v", name, n, why, err)
			}
			if kept, err := os.ReadFile(aside); err != nil || !bytes.Equal(kept, whole[:n]) {
				t.Errorf("%s: moved to %s: %v", name, aside, err)
			}
			put(t, s, "c", setOf("THREE", time.Hour))
			closed(t, s)
			if !has(t, onDisk(t, path, id), "c") {
				t.Errorf("%s: nothing is saved after a damaged file", name)
			}
		}
	}
}

// Two files are kept.
func TestMovedAside(t *testing.T) {
	dir, id := t.TempDir(), newIdentity(t)
	path := filepath.Join(dir, "leases")
	synctest.Test(t, func(t *testing.T) {
		for i := range 4 {
			s, aside, why, err := Open(Options{Path: path, Identity: newIdentity(t)})
			if err != nil || (i > 0) != (aside != "" && why != nil) {
				t.Fatalf("%d: %q, %v, %v", i, aside, why, err)
			}
			put(t, s, "a", setOf("ONE", time.Hour))
			closed(t, s)
			time.Sleep(time.Minute)
		}
	})
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 5 { // the file, two, and two locks
		t.Errorf("%v, %v", entries, err)
	}
	if _, err := OpenShared(path, id); err == nil || !strings.Contains(err.Error(), path+": it was sealed for another identity") {
		t.Errorf("shared: %v", err)
	}
	if after, err := os.ReadDir(dir); err != nil || len(after) != 5 {
		t.Errorf("a shared one moved something: %v, %v", after, err)
	}
}

// A start with another identity, by mistake, costs nothing: with the right one again,
// what that one moved aside is used.
func TestIdentityComesBack(t *testing.T) {
	path, mine, other := filepath.Join(t.TempDir(), "leases"), newIdentity(t), newIdentity(t)
	s := open(t, path, mine)
	put(t, s, "a", setOf("ONE", time.Hour))
	closed(t, s)

	s, aside, why, err := Open(Options{Path: path, Identity: other})
	if err != nil || aside == "" || why == nil || has(t, s, "a") {
		t.Fatalf("%q, %v, %v", aside, why, err)
	}
	put(t, s, "b", setOf("TWO", time.Hour))
	closed(t, s)

	s, aside, why, err = Open(Options{Path: path, Identity: mine})
	if err != nil || aside == "" || why == nil || !has(t, s, "a") || has(t, s, "b") {
		t.Fatalf("%q, %v, %v: a %v", aside, why, err, has(t, s, "a"))
	}
	closed(t, s)
	if !has(t, onDisk(t, path, mine), "a") {
		t.Error("it is not in its place again")
	}

	// A third one may have written nothing at all.
	if s, aside, _, err = Open(Options{Path: path, Identity: newIdentity(t)}); err != nil || aside == "" {
		t.Fatal(aside, err)
	}
	closed(t, s)
	s, aside, why, err = Open(Options{Path: path, Identity: mine})
	if err != nil || aside != "" || why == nil || !has(t, s, "a") {
		t.Fatalf("%q, %v, %v", aside, why, err)
	}
	// What it held once does not come back when a later file is damaged.
	if err := s.Delete(t.Context(), keyOf("a")); err != nil {
		t.Fatal(err)
	}
	closed(t, s)
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, aside, why, err = Open(Options{Path: path, Identity: mine})
	if err != nil || aside == "" || why == nil || has(t, s, "a") {
		t.Errorf("what was deleted is there again: %q, %v, %v", aside, why, err)
	}
	closed(t, s)
}

// What means nothing elsewhere is held, and not written.
func TestLocalSets(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	s := open(t, path, id)
	local := setOf("ONE", time.Hour)
	local.Local = true
	put(t, s, "a", local)
	put(t, s, "b", setOf("TWO", time.Hour))
	if !has(t, s, "a") {
		t.Error("it is not held")
	}
	closed(t, s)
	if s := onDisk(t, path, id); has(t, s, "a") || !has(t, s, "b") {
		t.Error("the local set is written, or the other is not")
	}
}

// A clock that is set while nothing is minted: what is in the file says too much of
// what is left, and is written anew.
func TestClockIsSetWhileNothingChanges(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	for step, want := range map[time.Duration]bool{0: false, 10 * time.Second: false, -10 * time.Second: false, -2 * time.Hour: true, 2 * time.Hour: true} {
		s := open(t, path, id)
		put(t, s, "a", setOf("ONE", time.Hour))
		if err := s.save(); err != nil {
			t.Fatal(err)
		}
		s.lookAtClock(moveWall(time.Now(), step))
		if unsaved, _ := s.Standing(); unsaved != want {
			t.Errorf("clock set by %v: to be saved %v, want %v", step, unsaved, want)
		}
		closed(t, s)
	}
}

// Authentic, and yet not what this version writes.
func TestWhatWasSealed(t *testing.T) {
	id := newIdentity(t)
	good := entryOf(keyOf("a"), setOf("ONE", time.Hour), time.Now())
	list := func(change func(*entry)) string {
		e := good
		change(&e)
		plain, err := json.Marshal(content{Version: version, Saved: time.Now(), Leases: []entry{good, e}})
		if err != nil {
			t.Fatal(err)
		}
		return string(plain)
	}
	for plain, want := range map[string]string{
		"":                                  "what was sealed is no list of leases",
		"canary":                            "what was sealed is no list of leases",
		`{"version":1,"leases":["canary"]}`: "what was sealed is no list of leases",
		`{"version":2}`:                     "it has version 2, and this stsbroker knows 1",
		`{}`:                                "it has version 0",
		`{"version":1,"forgotten":[{}]}`:    "what was forgotten is not whole",
		list(func(e *entry) { e.Digest = e.Digest[1:] }):                   "a lease in it is not whole",
		list(func(e *entry) { e.Digest = append(e.Digest, 1) }):            "a lease in it is not whole",
		list(func(e *entry) { e.KeyID = "" }):                              "a lease in it is not whole",
		list(func(e *entry) { e.Secret = nil }):                            "a lease in it is not whole",
		list(func(e *entry) { e.Token = nil }):                             "a lease in it is not whole",
		list(func(e *entry) { e.Expires = e.Issued }):                      "a lease in it is not whole",
		list(func(e *entry) { e.Issued, e.Expires = e.Expires, e.Issued }): "a lease in it is not whole",
	} {
		sealed, err := id.Seal([]byte(plain))
		if err != nil {
			t.Fatal(err)
		}
		m, err := decode(sealed, id, time.Now())
		if err == nil || !strings.Contains(err.Error(), want) || len(m.sets) != 0 || strings.Contains(err.Error(), "canary") {
			t.Errorf("%.40q: %d sets, %v", plain, len(m.sets), err)
		}
	}
	sealed, err := id.Seal([]byte(list(func(*entry) {})))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := decode(sealed, id, time.Now()); err != nil || len(m.sets) != 1 {
		t.Errorf("a good list: %v, %v", m.sets, err)
	}
}

// No byte of a secret is in the folder, however it is written.
func TestNothingPlainOnDisk(t *testing.T) {
	const canary = `canary/secret+of "a" set=`
	dir, id := t.TempDir(), newIdentity(t)
	path := filepath.Join(dir, "leases")
	s := open(t, path, id)
	c := setOf("CANARY", time.Hour)
	c.SecretAccessKey, c.SessionToken, c.RoleARN = broker.NewSecret(canary), broker.NewSecret(canary+canary), "arn:aws:iam::123456789012:role/canary"
	put(t, s, "a", c)
	closed(t, s)
	another := newIdentity(t)
	other, aside, _, err := Open(Options{Path: path, Identity: another})
	if err != nil || aside == "" {
		t.Fatal(aside, err)
	}
	put(t, other, "b", c)
	closed(t, other)
	escaped, err := json.Marshal(canary)
	if err != nil {
		t.Fatal(err)
	}
	forms := []string{canary, hex.EncodeToString([]byte(canary)), url.QueryEscape(canary), url.PathEscape(canary), string(escaped[1 : len(escaped)-1]), "ASIATEST", "arn:aws", "canary"}
	for i := range 3 { // at each place that base64 can put it
		e := base64.StdEncoding.EncodeToString([]byte("xx"[:i] + canary))
		forms = append(forms, e[4:len(e)-4])
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 { // the file, one aside, and two locks
		t.Fatal(entries, err)
	}
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range forms {
			if bytes.Contains(raw, []byte(f)) || bytes.Contains(bytes.ToLower(raw), []byte(strings.ToLower(f))) {
				t.Errorf("%s holds %q", e.Name(), f)
			}
		}
	}
	// The same search finds them in what was sealed.
	plain, err := json.Marshal(readContent(t, path, another))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(forms[8:], func(f string) bool { return bytes.Contains(plain, []byte(f)) }) {
		t.Error("the search finds nothing, so this test proves nothing")
	}
}

func FuzzContent(f *testing.F) {
	text, err := seal.MakeIdentity()
	if err != nil {
		f.Fatal(err)
	}
	id, err := seal.ParseIdentity(text)
	if err != nil {
		f.Fatal(err)
	}
	now := time.Now()
	good, err := json.Marshal(content{Version: version, Saved: now, Leases: []entry{entryOf(keyOf("a"), setOf("ONE", time.Hour), now)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1,"leases":[{}]}`))
	f.Fuzz(func(t *testing.T, plain []byte) {
		sealed, err := id.Seal(plain)
		if err != nil {
			t.Fatal(err)
		}
		m, err := decode(sealed, id, now)
		if err != nil && len(m.sets) > 0 {
			t.Errorf("%d sets with an error", len(m.sets))
		}
		for _, c := range m.sets {
			if c.AccessKeyID == "" || c.SecretAccessKey.IsZero() || c.SessionToken.IsZero() || c.Lifetime() <= 0 || !ends(c).After(now) {
				t.Errorf("%+v", c)
			}
		}
	})
}
