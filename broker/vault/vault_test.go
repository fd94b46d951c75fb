package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/seal"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

func newIdentity(t testing.TB) seal.Identity {
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

func opened(t testing.TB, dir string, id seal.Identity) *Vault {
	t.Helper()
	v := New(dir)
	v.Open(id)
	return v
}

// folder is a state folder: closed to others, unlike t.TempDir.
func folder(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func wantKind(t *testing.T, err error, kind broker.Kind, words string) {
	t.Helper()
	var e *broker.Error
	if !errors.As(err, &e) || e.Kind != kind || !strings.Contains(e.Public, words) || strings.Contains(e.Public, "\n") {
		t.Errorf("got %v, want %v: …%s…", err, kind, words)
	}
}

func wantBlob(t *testing.T, v *Vault, name, want string) {
	t.Helper()
	if got, err := v.Read(name); err != nil || string(got) != want {
		t.Errorf("%s is %.40q, %v; want %.40q", name, got, err, want)
	}
}

func contents(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestWriteThenRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	id := newIdentity(t)
	v := opened(t, dir, id)
	if _, err := v.Read(Keys); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no blob: %v", err)
	}
	for _, plain := range []string{"", "canary", strings.Repeat("canary", 1000)} {
		if err := v.Write(Keys, []byte(plain)); err != nil {
			t.Fatal(err)
		}
		wantBlob(t, v, Keys, plain)
		wantBlob(t, opened(t, dir, id), Keys, plain)
		if bytes.Contains(contents(t, filepath.Join(dir, Keys)), []byte("canary")) {
			t.Error("it is not sealed")
		}
	}
}

func TestStates(t *testing.T) {
	dir := folder(t)
	id := newIdentity(t)
	v := New(dir)
	state := func(want State) {
		t.Helper()
		if v.State() != want {
			t.Errorf("%v, want %v", v.State(), want)
		}
	}
	state(None)
	v.Lock()
	state(None) // there is nothing to unlock
	for _, choice := range []string{"STSBROKER_IDENTITY_FILE", "stsbroker-identity", "keyring", "passphrase"} {
		wantKind(t, v.Write(Keys, nil), broker.KindConfig, choice)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("a vault that cannot write left %v, %v", entries, err)
	}
	v.Open(id)
	state(Open)
	if err := v.Write(Keys, []byte("plain")); err != nil {
		t.Fatal(err)
	}
	before := contents(t, filepath.Join(dir, Keys))
	for _, lock := range []func(){v.Lock, func() { v.SetLocked("the stick is not in: run stsbroker unlock") }, func() { v.Open(seal.Identity{}) }} {
		lock()
		kind, words := broker.KindLocked, "stsbroker unlock"
		if v.State() == None {
			kind, words = broker.KindConfig, "there is no identity"
		}
		_, err := v.Read(Keys)
		wantKind(t, err, kind, words)
		wantKind(t, v.Write(Keys, []byte("other")), kind, words)
		wantKind(t, v.Update(Keys, func([]byte) ([]byte, error) { t.Error("f was called"); return nil, nil }), kind, words)
		if _, err := v.Read(Logins); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what is not there is not there while locked too: %v", err)
		}
		if !bytes.Equal(before, contents(t, filepath.Join(dir, Keys))) {
			t.Error("the blob changed")
		}
	}
	state(None)
	v.Open(id)
	wantBlob(t, v, Keys, "plain")
	v.Lock()
	state(Locked)
	for s, want := range map[State]string{None: "none", Locked: "locked", Open: "open", 9: "state(9)"} {
		if s.String() != want {
			t.Error(s)
		}
	}
}

// A blob that the identity does not open stays as it is, byte by byte, whatever is
// tried; the error names it and says what to do.
func TestForeignBlobIsNeverTouched(t *testing.T) {
	dir := folder(t)
	path := filepath.Join(dir, Keys)
	owner, stranger := opened(t, dir, newIdentity(t)), opened(t, dir, newIdentity(t))
	if err := owner.Write(Keys, []byte("plain")); err != nil {
		t.Fatal(err)
	}
	good := contents(t, path)
	try := func(v *Vault, words string) {
		t.Helper()
		before := contents(t, path)
		_, err := v.Read(Keys)
		wantKind(t, err, broker.KindConfig, words)
		wantKind(t, err, broker.KindConfig, path)
		wantKind(t, err, broker.KindConfig, "restore it from a backup")
		wantKind(t, v.Write(Keys, []byte("new")), broker.KindConfig, words)
		wantKind(t, v.Update(Keys, func([]byte) ([]byte, error) { t.Error("f was called"); return nil, nil }), broker.KindConfig, words)
		if !bytes.Equal(before, contents(t, path)) {
			t.Error("the blob changed")
		}
	}
	try(stranger, "sealed for another identity")
	for n := range good { // cut short, at every byte
		if err := os.WriteFile(path, good[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		try(owner, "does not open")
		if t.Failed() {
			t.Fatalf("at %d of %d bytes", n, len(good))
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 { // and the lock
		t.Errorf("%v, %v", entries, err)
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	wantBlob(t, owner, Keys, "plain")
}

// An identity file may have the old identity behind the new one.
func TestIdentityIsReplaced(t *testing.T) {
	dir := folder(t)
	text := func() string {
		made, err := seal.MakeIdentity()
		if err != nil {
			t.Fatal(err)
		}
		return string(made)
	}
	parse := func(s string) seal.Identity {
		id, err := seal.ParseIdentity([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	older, newer := text(), text()
	v := opened(t, dir, parse(older))
	if err := v.Write(Keys, []byte("1")); err != nil {
		t.Fatal(err)
	}
	v.Open(parse(newer + older))
	if err := v.Write(Keys, []byte("2")); err != nil {
		t.Fatal(err)
	}
	v.Open(parse(newer))
	wantBlob(t, v, Keys, "2")
}

func TestNames(t *testing.T) {
	v := opened(t, folder(t), newIdentity(t))
	for _, name := range []string{"", ".", "..", "../keys", "a/b", `a\b`, "C:x", ".keys.1.tmp", "keys.lock"} {
		_, err := v.Read(name)
		for _, err := range []error{err, v.Write(name, nil)} {
			wantKind(t, err, broker.KindConfig, "cannot be the name")
		}
	}
	for _, path := range Files("/state") {
		if filepath.Dir(path) != filepath.FromSlash("/state") {
			t.Error(path)
		}
	}
}

func TestLimit(t *testing.T) {
	dir := folder(t)
	v := opened(t, dir, newIdentity(t))
	most := bytes.Repeat([]byte("x"), limit-overhead)
	if err := v.Write(Keys, most); err != nil {
		t.Fatal(err)
	}
	wantBlob(t, v, Keys, string(most))
	wantKind(t, v.Write(Keys, append(most, 'x')), broker.KindConfig, "longer than")
	wantBlob(t, v, Keys, string(most))
	if err := os.WriteFile(filepath.Join(dir, Keys), make([]byte, limit+1), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := v.Read(Keys)
	wantKind(t, err, broker.KindConfig, "larger than")
}

func TestUpdate(t *testing.T) {
	v := opened(t, folder(t), newIdentity(t))
	refused := errors.New("refused")
	if err := v.Update(Keys, func(old []byte) ([]byte, error) {
		if old != nil {
			t.Errorf("%q where there is nothing", old)
		}
		return []byte("x"), refused
	}); !errors.Is(err, refused) {
		t.Error(err)
	}
	if _, err := v.Read(Keys); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an error of f wrote something: %v", err)
	}
	if err := v.Write(Keys, nil); err != nil {
		t.Fatal(err)
	}
	if err := v.Update(Keys, func(old []byte) ([]byte, error) {
		if old == nil {
			t.Error("an empty blob is nil")
		}
		return []byte("y"), nil
	}); err != nil {
		t.Fatal(err)
	}
	wantBlob(t, v, Keys, "y")
}

// Of many changes at a time, from two vaults in one folder, none is lost.
func TestUpdateAtOnce(t *testing.T) {
	dir := folder(t)
	id := newIdentity(t)
	vaults := []*Vault{opened(t, dir, id), opened(t, dir, id)}
	var all sync.WaitGroup
	const each, workers = 5, 8
	for i := range workers {
		all.Go(func() {
			for range each {
				if err := increment(vaults[i%2]); err != nil {
					t.Error(err)
				}
				if _, err := vaults[i%2].Read(Keys); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	wantBlob(t, vaults[0], Keys, strconv.Itoa(each*workers))
}

func increment(v *Vault) error {
	return v.Update(Keys, func(old []byte) ([]byte, error) {
		n, err := strconv.Atoi(string(old))
		if err != nil && old != nil {
			return nil, err
		}
		return strconv.AppendInt(nil, int64(n+1), 10), nil
	})
}

// While one goroutine locks and opens, others see whole blobs or that it is locked.
func TestLockAtOnce(t *testing.T) {
	v := opened(t, folder(t), newIdentity(t))
	if err := v.Write(Keys, []byte("plain")); err != nil {
		t.Fatal(err)
	}
	id := v.id
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 50 {
				got, err := v.Read(Keys)
				if e := (*broker.Error)(nil); err != nil && (!errors.As(err, &e) || e.Kind != broker.KindLocked) || err == nil && string(got) != "plain" {
					t.Errorf("%q, %v", got, err)
				}
			}
		})
	}
	for range 50 {
		v.Lock()
		v.Open(id)
	}
	all.Wait()
}

// Who waits for too long is told for whom.
func TestSomebodyElseChangesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := folder(t)
		v := opened(t, dir, newIdentity(t))
		if err := v.Write(Keys, []byte("plain")); err != nil {
			t.Fatal(err)
		}
		release, held, err := securefile.Lock(filepath.Join(dir, Keys+lockMark))
		if err != nil || !held {
			t.Fatal(held, err)
		}
		began := time.Now()
		wantKind(t, v.Write(Keys, []byte("new")), broker.KindUnavailable, fmt.Sprintf("process %d has been changing %s for 10s", os.Getpid(), filepath.Join(dir, Keys)))
		if waited := time.Since(began); waited < patience || waited > patience+time.Second {
			t.Errorf("it waited %v", waited)
		}
		wantBlob(t, v, Keys, "plain")
		time.AfterFunc(time.Second, release)
		if err := v.Write(Keys, []byte("new")); err != nil {
			t.Error(err)
		}
		wantBlob(t, v, Keys, "new")
	})
}

func TestNothingIsPrinted(t *testing.T) {
	text, err := seal.MakeIdentity()
	if err != nil {
		t.Fatal(err)
	}
	id, err := seal.ParseIdentity(text)
	if err != nil {
		t.Fatal(err)
	}
	out := strings.ToUpper(fmt.Sprintf("%v %+v %#v", opened(t, "", id), opened(t, "", id), opened(t, "", id)))
	_, line, _ := strings.Cut(string(text), "AGE-SECRET-KEY-PQ-1")
	if strings.Contains(out, line[:10]) || strings.Contains(out, "SECRET") {
		t.Error(out)
	}
}
