package custody

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/vault"
	"github.com/stsbroker/stsbroker/internal/seal"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// ringChest is a chest that cannot tell what it holds, as the keyring.
type ringChest struct {
	mu  sync.Mutex
	m   map[string][]byte
	err error // of every call
}

func (c *ringChest) Get(_ context.Context, name string) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if raw, ok := c.m[name]; ok || c.err != nil {
		return raw, c.err
	}
	return nil, fs.ErrNotExist
}

func (c *ringChest) Put(_ context.Context, name string, record []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.m[name] = record
	}
	return c.err
}

func (c *ringChest) Delete(_ context.Context, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		delete(c.m, name)
	}
	return c.err
}

// house is a state folder with a vault and a keyring.
type house struct {
	dir   string
	id    seal.Identity
	vault *vault.Vault
	ring  *ringChest
	*Kept
}

func newHouse(t testing.TB) *house {
	t.Helper()
	text, err := seal.MakeIdentity()
	if err != nil {
		t.Fatal(err)
	}
	h := &house{dir: filepath.Join(t.TempDir(), "state"), ring: &ringChest{m: map[string][]byte{}}}
	if h.id, err = seal.ParseIdentity(text); err != nil {
		t.Fatal(err)
	}
	if err := h.again(true); err != nil {
		t.Fatal(err)
	}
	return h
}

// again is a new process.
func (h *house) again(open bool) (warning error) {
	h.vault = vault.New(h.dir)
	h.vault.SetLocked("")
	if open {
		h.vault.Open(h.id)
	}
	h.Kept, warning = OpenKept(h.dir, map[string]Chest{"sealed": SealedChest(h.vault), "keyring": h.ring})
	return warning
}

func (h *house) add(t testing.TB, name, custody string, p Pair, o AddOptions) {
	t.Helper()
	if err := h.Add(context.Background(), name, custody, p, o); err != nil {
		t.Fatal(err)
	}
}

func (h *house) indexPath() string { return filepath.Join(h.dir, indexFile) }

func wantFault(t *testing.T, err error, kind broker.Kind, words string) {
	t.Helper()
	var e *broker.Error
	if !errors.As(err, &e) || e.Kind != kind || !strings.Contains(e.Public, words) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got\n%v\nwant %v: …%s…", err, kind, words)
	}
	if strings.Contains(fmt.Sprintf("%+v", err), secretA) || strings.Contains(fmt.Sprintf("%+v", err), secretB) {
		t.Errorf("the error has a secret: %v", err)
	}
}

func bytesOf(t testing.TB, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestKept(t *testing.T) {
	h := newHouse(t)
	if n := h.Names(); len(n) > 0 {
		t.Fatal(n)
	}
	if _, err := os.Stat(h.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("to look makes a folder: %v", err)
	}
	wantFault(t, h.Remove(t.Context(), "work"), broker.KindConfig, "there is no key work in custody: run stsbroker keys add work")
	h.add(t, "work", "sealed", pairOf(idA, secretA), AddOptions{Account: "123456789012", User: "me", Profile: "my work"})
	h.add(t, "ring", "keyring", pairOf(idB, secretB), AddOptions{})
	set := Set{"work": h.Source("work"), "ring": h.Source("ring"), "none": h.Source("none")}
	for _, open := range []bool{true, true, false} {
		if err := h.again(open); err != nil {
			t.Fatal(err)
		}
		if n := h.Names(); !slices.Equal(n, []string{"ring", "work"}) {
			t.Error(n)
		}
		i, ok := h.Info("work")
		if !ok || i.Custody != "sealed" || i.KeyID != idA || i.Lineage != idA || i.Account != "123456789012" || i.User != "me" || i.Profile != "my work" || time.Since(i.Added) > time.Minute || i.Rotation() != "" {
			t.Errorf("%+v, %v", i, ok)
		}
		if i, ok := h.ForProfile("my work"); !ok || i.Name != "work" {
			t.Errorf("%+v", i)
		}
		if _, ok := h.ForProfile(""); ok {
			t.Error("a key stands in for no profile")
		}
		if l := h.List(); len(l) != 2 || l[0].Name != "ring" || l[0].KeyID != idB {
			t.Errorf("%+v", l)
		}
	}
	wantKey(t, set, "work", idA, secretA)
	wantKey(t, set, "ring", idB, secretB)
	wantError(t, set["none"], "there is no key none in custody: run stsbroker keys add none")
	wantError(t, h.Source("a/b"), `"a/b" cannot be the name of a key`)
	if err := h.again(true); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"work", "ring"} {
		if err := h.Remove(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		wantFault(t, h.Remove(t.Context(), name), broker.KindConfig, "there is no key "+name)
	}
	if n := h.Names(); len(n) > 0 || len(h.ring.m) > 0 {
		t.Error(n)
	}
	wantError(t, set["work"], "there is no key work in custody: run stsbroker keys add work")
}

func TestNothingSecretInTheFolder(t *testing.T) {
	h := newHouse(t)
	h.add(t, "work", "sealed", pairOf(idA, secretA), AddOptions{})
	h.add(t, "ring", "keyring", pairOf(idB, secretB), AddOptions{})
	entries, err := os.ReadDir(h.dir)
	if err != nil || len(entries) < 3 {
		t.Fatal(entries, err)
	}
	for _, e := range entries {
		raw := bytesOf(t, filepath.Join(h.dir, e.Name()))
		for _, secret := range []string{secretA, secretB} {
			if bytes.Contains(raw, []byte(secret)) {
				t.Errorf("%s has a secret", e.Name())
			}
		}
	}
	if !bytes.Contains(bytesOf(t, h.indexPath()), []byte(idA)) {
		t.Error("the index has no id")
	}
	known := append(KeptFiles(h.dir), vault.Files(h.dir)...)
	for _, e := range entries {
		if !slices.Contains(known, filepath.Join(h.dir, e.Name())) {
			t.Errorf("%s is nobody's", e.Name())
		}
	}
	if keysBlob != vault.Keys {
		t.Error("the blob has another name")
	}
}

// While custody is locked, keys are listed, none is served or changed, and the folder
// stays as it is.
func TestLocked(t *testing.T) {
	h := newHouse(t)
	h.add(t, "work", "sealed", pairOf(idA, secretA), AddOptions{})
	if err := h.again(false); err != nil {
		t.Fatal(err)
	}
	look := func() map[string]string {
		m := map[string]string{}
		entries, err := os.ReadDir(h.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), "lock") {
				m[e.Name()] = string(bytesOf(t, filepath.Join(h.dir, e.Name())))
			}
		}
		return m
	}
	before := look()
	_, err := h.Source("work")(t.Context())
	locked := broker.Locked().Public
	for _, err := range []error{
		err,
		h.Add(t.Context(), "work", "sealed", pairOf(idB, secretB), AddOptions{Replace: true}),
		h.Add(t.Context(), "other", "sealed", pairOf(idB, secretB), AddOptions{}),
		h.Remove(t.Context(), "work"),
		h.Update(t.Context(), "work", func(*Record) error { t.Error("f was called"); return nil }),
	} {
		wantFault(t, err, broker.KindLocked, locked)
	}
	if after := look(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the folder changed: %d files, and %d before", len(after), len(before))
	}
	wantError(t, h.Source("none"), "there is no key none in custody: run stsbroker keys add none")
	h.vault.Open(h.id)
	wantKey(t, Set{"work": h.Source("work")}, "work", idA, secretA)
}

func TestAddRefuses(t *testing.T) {
	h := newHouse(t)
	h.add(t, "work", "sealed", pairOf(idA, secretA), AddOptions{Profile: "p"})
	for name, c := range map[string]struct {
		name, custody string
		p             Pair
		o             AddOptions
		want          string
	}{
		"a name that is taken":        {"work", "keyring", pairOf(idB, secretB), AddOptions{}, `there is a key "work" already, ` + idA + " in custody sealed: choose another name, or add it with --replace, or run stsbroker keys remove work first"},
		"a bad name":                  {"a/b", "sealed", pairOf(idB, secretB), AddOptions{}, "cannot be the name of a key"},
		"a long name":                 {strings.Repeat("a", 500), "sealed", pairOf(idB, secretB), AddOptions{}, "aaa…\" cannot be the name of a key"},
		"no such custody":             {"b", "safe", pairOf(idB, secretB), AddOptions{}, `keys cannot be kept in custody "safe" here: choose one of keyring, sealed`},
		"swapped":                     {"b", "sealed", pairOf(secretB, idB), AddOptions{}, "not an access key id"},
		"half":                        {"b", "sealed", pairOf(idB, ""), AddOptions{}, "the secret access key is missing"},
		"temporary":                   {"b", "sealed", pairOf("ASIAIOSFODNN7EXAMPLE", secretB), AddOptions{}, "temporary"},
		"a profile that breaks lines": {"b", "sealed", pairOf(idB, secretB), AddOptions{Profile: "a\nb"}, "does not print"},
		"a long profile":              {"b", "sealed", pairOf(idB, secretB), AddOptions{Profile: strings.Repeat("a", 129)}, "128 bytes"},
		"a user that is none":         {"b", "sealed", pairOf(idB, secretB), AddOptions{User: "a b"}, "the user of the key"},
		"a profile that is taken":     {"b", "sealed", pairOf(idB, secretB), AddOptions{Profile: "p"}, "the key work stands in for the AWS profile p already"},
	} {
		t.Run(name, func(t *testing.T) {
			wantFault(t, h.Add(t.Context(), c.name, c.custody, c.p, c.o), broker.KindConfig, c.want)
		})
	}
	if n := h.Names(); !slices.Equal(n, []string{"work"}) || len(h.ring.m) > 0 {
		t.Errorf("what was refused was kept: %v", n)
	}
	wantKey(t, Set{"work": h.Source("work")}, "work", idA, secretA)
}

func TestReplace(t *testing.T) {
	h := newHouse(t)
	me := AddOptions{Replace: true, Account: "123456789012", User: "me"}
	add := func(custody string, p Pair, o AddOptions, lineage string) {
		t.Helper()
		h.add(t, "work", custody, p, o)
		i, _ := h.Info("work")
		if i.Lineage != lineage || i.KeyID != p.KeyID || i.Custody != custody || len(h.List()) != 1 {
			t.Errorf("%+v, want the lineage %s", i, lineage)
		}
		wantKey(t, Set{"work": h.Source("work")}, "work", p.KeyID, p.Secret.Reveal())
	}
	const idC = "AKIACCCCCCCCCCCCCCCC"
	add("sealed", pairOf(idA, secretA), me, idA)
	add("sealed", pairOf(idB, secretB), me, idA) // the same user: leases go on
	add("keyring", pairOf(idA, secretA), me, idA)
	if m, err := SealedChest(h.vault).(sealedChest).all(); err != nil || len(m) > 0 {
		t.Errorf("it is still in the other chest: %d, %v", len(m), err)
	}
	add("sealed", pairOf(idA, secretB), AddOptions{Replace: true}, idA) // a secret that was mistyped
	if len(h.ring.m) > 0 {
		t.Error("it is still in the other chest")
	}
	add("sealed", pairOf(idB, secretB), me, idB) // nobody said whose it was
	add("sealed", pairOf(idC, secretA), AddOptions{Replace: true, Account: "123456789012", User: "you"}, idC)

	for _, under := range []func(r *Record){func(r *Record) { r.Creating = time.Now() }, func(r *Record) { next := pairOf(idB, secretB); r.Next = &next }} {
		if err := h.Update(t.Context(), "work", func(r *Record) error { under(r); return nil }); err != nil {
			t.Fatal(err)
		}
		wantFault(t, h.Add(t.Context(), "work", "sealed", pairOf(idA, secretA), me), broker.KindConfig, "a rotation of the key work is under way")
		if err := h.Update(t.Context(), "work", func(r *Record) error { r.Creating, r.Next = time.Time{}, nil; return nil }); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKeptUpdate(t *testing.T) {
	h := newHouse(t)
	h.add(t, "work", "sealed", pairOf(idA, secretA), AddOptions{})
	refused := errors.New("refused")
	if err := h.Update(t.Context(), "work", func(r *Record) error { r.User = "x"; return refused }); !errors.Is(err, refused) {
		t.Error(err)
	}
	wantFault(t, h.Update(t.Context(), "work", func(r *Record) error { r.Current = Pair{}; return nil }), broker.KindConfig, "there is no key in the record")
	wantFault(t, h.Update(t.Context(), "none", func(*Record) error { return nil }), broker.KindConfig, "there is no key none")
	if i, _ := h.Info("work"); i.User != "" || i.KeyID != idA {
		t.Errorf("%+v", i)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		change func(r *Record)
		want   string
	}{
		{func(r *Record) { r.Creating = at }, "a new key was asked for"},
		{func(r *Record) { next := pairOf(idB, secretB); r.Next, r.Creating = &next, time.Time{} }, "new key " + idB + " is not in use yet"},
		{func(r *Record) { r.Old, r.Current, r.Next = &OldKey{KeyID: r.Current.KeyID}, *r.Next, nil }, "old key " + idA + " is still active"},
		{func(r *Record) { r.Old.Inactive, r.Old.DeleteAfter = true, at }, "old key " + idA + " is inactive and goes after 2026-01-02T03:04:05Z"},
		{func(r *Record) { r.Old = nil }, ""},
	} {
		if err := h.Update(t.Context(), "work", func(r *Record) error { c.change(r); return nil }); err != nil {
			t.Fatal(err)
		}
		i, ok := h.Info("work")
		r, err := h.Get(t.Context(), "work")
		if !ok || err != nil || i.Rotation() != c.want || i.Lineage != idA || i != r.info("work", "sealed") {
			t.Errorf("%+v: %q, want %q; %v", i, i.Rotation(), c.want, err)
		}
	}
	wantKey(t, Set{"work": h.Source("work")}, "work", idB, secretB)
}

// The index may be lost or damaged: keys are served and listed all the same, and it is
// made anew as soon as the chests can be read.
func TestIndexIsMended(t *testing.T) {
	h := newHouse(t)
	h.add(t, "work", "sealed", pairOf(idA, secretA), AddOptions{Profile: "p"})
	h.add(t, "ring", "keyring", pairOf(idB, secretB), AddOptions{})
	good := bytesOf(t, h.indexPath())
	damage := map[string]func() error{
		"lost":  func() error { return os.Remove(h.indexPath()) },
		"empty": func() error { return os.WriteFile(h.indexPath(), nil, 0o600) },
		"other": func() error { return os.WriteFile(h.indexPath(), []byte(`{"version":9,"keys":[]}`), 0o600) },
		"hostile": func() error {
			return os.WriteFile(h.indexPath(), bytes.Replace(good, []byte(`"work"`), []byte(`"a\nb"`), 1), 0o600)
		},
		"twice": func() error {
			return os.WriteFile(h.indexPath(), bytes.Replace(good, []byte(`"work"`), []byte(`"ring"`), 1), 0o600)
		},
		"folder": func() error { return errors.Join(os.Remove(h.indexPath()), os.Mkdir(h.indexPath(), 0o700)) },
	}
	for n := range good[:len(good)-2] { // the rest is a line break and a bracket
		damage[fmt.Sprint("cut at ", n)] = func() error { return os.WriteFile(h.indexPath(), good[:n], 0o600) }
	}
	for name, f := range damage {
		if err := f(); err != nil {
			t.Fatal(err)
		}
		warning := h.again(false)
		if warning == nil || !strings.Contains(warning.Error(), h.indexPath()) || !strings.Contains(warning.Error(), "stsbroker unlock") || strings.Contains(warning.Error(), "\n") {
			t.Errorf("%s, locked: %v", name, warning)
		}
		if _, err := h.Source("work")(t.Context()); err == nil {
			t.Errorf("%s: locked, and served", name)
		} else {
			wantFault(t, err, broker.KindLocked, "")
		}
		wantKey(t, Set{"ring": h.Source("ring")}, "ring", idB, secretB)
		h.vault.Open(h.id)
		wantKey(t, Set{"work": h.Source("work")}, "work", idA, secretA)
		if i, ok := h.Info("work"); !ok || i.Profile != "p" {
			t.Errorf("%s: %+v is known without the index", name, i)
		}
		if name == "folder" { // somebody else's doing, and it stays
			if h.Refresh(t.Context()) == nil {
				t.Error("a folder is an index")
			}
			if err := os.Remove(h.indexPath()); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.Refresh(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n := h.Names(); !slices.Equal(n, []string{"work"}) { // of the keyring nobody can say what it holds
			t.Errorf("%s: %v", name, n)
		}
		if err := h.Update(t.Context(), "ring", func(*Record) error { return nil }); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := bytesOf(t, h.indexPath()); !bytes.Equal(got, good) {
			t.Errorf("%s: the index is %s", name, got)
		}
		if t.Failed() {
			return
		}
	}
}

// A crash between the change of a chest and that of the index leaves the index behind.
func TestIndexThatIsBehind(t *testing.T) {
	h := newHouse(t)
	h.add(t, "work", "sealed", pairOf(idA, secretA), AddOptions{})
	h.add(t, "ring", "keyring", pairOf(idA, secretA), AddOptions{})
	behind := bytesOf(t, h.indexPath())
	for _, name := range []string{"work", "ring"} {
		if err := h.Update(t.Context(), name, func(r *Record) error { r.Current = pairOf(idB, secretB); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	h.add(t, "new", "sealed", pairOf(idA, secretA), AddOptions{})
	good := bytesOf(t, h.indexPath())
	if err := os.WriteFile(h.indexPath(), behind, 0o600); err != nil {
		t.Fatal(err)
	}
	wantKey(t, Set{"new": h.Source("new")}, "new", idA, secretA)
	wantKey(t, Set{"work": h.Source("work")}, "work", idB, secretB)
	wantFault(t, h.Add(t.Context(), "new", "keyring", pairOf(idB, secretB), AddOptions{}), broker.KindConfig, `there is a key "new" already`)
	if err := errors.Join(h.Refresh(t.Context()), h.Update(t.Context(), "ring", func(*Record) error { return nil })); err != nil {
		t.Fatal(err)
	}
	if got := bytesOf(t, h.indexPath()); !bytes.Equal(got, good) {
		t.Errorf("the index is %s", got)
	}
	// And the other way: the chest has lost what the index lists.
	delete(h.ring.m, "ring")
	if err := os.Remove(filepath.Join(h.dir, vault.Keys)); err != nil {
		t.Fatal(err)
	}
	if err := h.again(true); err != nil {
		t.Fatal(err)
	}
	if n := h.Names(); !slices.Equal(n, []string{"ring"}) {
		t.Error(n)
	}
	if err := h.Remove(t.Context(), "ring"); err != nil || len(h.Names()) > 0 {
		t.Errorf("what is listed only: %v, %v", err, h.Names())
	}
}

// A change is told whose index could not be written; the key has it all the same.
func TestIndexThatCannotBeWritten(t *testing.T) {
	h := newHouse(t)
	h.add(t, "work", "sealed", pairOf(idA, secretA), AddOptions{})
	if err := errors.Join(os.Remove(h.indexPath()), os.Mkdir(h.indexPath(), 0o700)); err != nil {
		t.Fatal(err)
	}
	err := h.Update(t.Context(), "work", func(r *Record) error { r.Current = pairOf(idB, secretB); return nil })
	wantFault(t, err, broker.KindConfig, "the key work was changed, but the list of keys was not: cannot write "+h.indexPath())
	wantKey(t, Set{"work": h.Source("work")}, "work", idB, secretB)
	if err := os.Remove(h.indexPath()); err != nil {
		t.Fatal(err)
	}
	if err := h.again(true); err != nil {
		t.Fatal(err)
	}
	if i, ok := h.Info("work"); !ok || i.KeyID != idB {
		t.Errorf("%+v", i)
	}
}

// What a crash left of a key in a chest that it went out of does not come back when the
// key is removed, and goes with the next that is added.
func TestRemovedFromEveryChest(t *testing.T) {
	none := &broker.Error{Kind: broker.KindConfig, Public: "no keyring here"}
	for _, from := range []string{"keyring", "sealed"} {
		h := newHouse(t)
		sealed := SealedChest(h.vault)
		chests := map[string]Chest{"keyring": h.ring, "sealed": sealed}
		into := map[string]string{"keyring": "sealed", "sealed": "keyring"}[from]
		orphan := func() {
			t.Helper()
			h.add(t, "work", from, pairOf(idA, secretA), AddOptions{Replace: true})
			raw, err := chests[from].Get(t.Context(), "work")
			if err != nil {
				t.Fatal(err)
			}
			h.add(t, "work", into, pairOf(idB, secretB), AddOptions{Replace: true})
			if err := chests[from].Put(t.Context(), "work", raw); err != nil { // as if Add had come no further
				t.Fatal(err)
			}
		}
		empty := func() {
			t.Helper()
			for custody, chest := range chests {
				if _, err := chest.Get(t.Context(), "work"); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("from %s: %s still has it: %v", from, custody, err)
				}
			}
			wantError(t, h.Source("work"), "there is no key work in custody: run stsbroker keys add work")
		}
		orphan()
		if err := h.Remove(t.Context(), "work"); err != nil {
			t.Error(err)
		}
		empty()

		orphan()
		h.add(t, "work", into, pairOf(idB, secretB), AddOptions{Replace: true})
		if _, err := chests[from].Get(t.Context(), "work"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s still has it: %v", from, err)
		}

		// A chest that may have it is asked first, and what is listed stays.
		orphan()
		if from == "keyring" {
			h.ring.err = &broker.Error{Kind: broker.KindUnavailable, Public: "it hangs"}
			wantFault(t, h.Remove(t.Context(), "work"), broker.KindUnavailable, "the key work may be in custody keyring too, and must not come back from there: it hangs")
			h.ring.err = errors.New("no bus")
			wantFault(t, h.Remove(t.Context(), "work"), broker.KindConfig, "no bus")
		} else {
			h.vault.SetLocked("")
			wantFault(t, h.Remove(t.Context(), "work"), broker.KindLocked, "the key work may be in custody sealed too")
			h.vault.Open(h.id)
		}
		wantKey(t, Set{"work": h.Source("work")}, "work", idB, secretB)
		h.ring.err = nil
		if err := h.Remove(t.Context(), "work"); err != nil {
			t.Error(err)
		}
		empty()
	}
	// Where there is no such chest nothing comes back from it.
	h := newHouse(t)
	h.add(t, "work", "sealed", pairOf(idA, secretA), AddOptions{})
	h.ring.err = none
	if err := h.Remove(t.Context(), "work"); err != nil {
		t.Error(err)
	}
}

// Keys that IAM has of a rotation are not forgotten unsaid.
func TestKeysOfRotationsAreNamed(t *testing.T) {
	h := newHouse(t)
	const idC = "AKIACCCCCCCCCCCCCCCC"
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	set := func(change func(r *Record)) {
		t.Helper()
		if err := h.Update(t.Context(), "work", func(r *Record) error { r.Next, r.Old, r.Creating = nil, nil, time.Time{}; change(r); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	leaves := func(want string) {
		t.Helper()
		if i, _ := h.Info("work"); i.Leaves() != want {
			t.Errorf("%q, want %q", i.Leaves(), want)
		}
	}
	owner := AddOptions{Account: "123456789012", User: "dev"}
	h.add(t, "work", "sealed", pairOf(idA, secretA), owner)
	leaves("")
	set(func(r *Record) { r.Creating = at })
	leaves("IAM may have a key of a rotation that was cut off: look with aws iam list-access-keys --user-name dev")
	wantFault(t, h.Remove(t.Context(), "work"), broker.KindConfig, "a rotation of the key work is not at its end (a new key was asked for): run stsbroker keys rotate work")
	set(func(r *Record) { next := pairOf(idB, secretB); r.Next = &next })
	leaves("IAM still has the key " + idB + " of a rotation: if nobody needs it, run aws iam delete-access-key --user-name dev --access-key-id " + idB)
	wantFault(t, h.Remove(t.Context(), "work"), broker.KindConfig, "new key "+idB+" is not in use yet")
	wantKey(t, Set{"work": h.Source("work")}, "work", idA, secretA)
	if err := h.Forget(t.Context(), "work"); err != nil || len(h.Names()) > 0 {
		t.Errorf("%v, %v", err, h.Names())
	}

	h.add(t, "work", "sealed", pairOf(idA, secretA), owner)
	set(func(r *Record) { r.Old = &OldKey{KeyID: idB, Inactive: true, DeleteAfter: at} })
	leaves("IAM still has the key " + idB + " of a rotation: if nobody needs it, run aws iam delete-access-key --user-name dev --access-key-id " + idB)
	for _, o := range []AddOptions{{Replace: true}, {Replace: true, Account: "123456789012", User: "you"}} {
		wantFault(t, h.Add(t.Context(), "work", "sealed", pairOf(idC, secretB), o), broker.KindConfig, "IAM still has "+idB+", the old key of a rotation of work")
	}
	wantKey(t, Set{"work": h.Source("work")}, "work", idA, secretA)
	owner.Replace = true
	h.add(t, "work", "keyring", pairOf(idC, secretB), owner)
	if r, err := h.Get(t.Context(), "work"); err != nil || r.Old == nil || r.Old.KeyID != idB {
		t.Errorf("%+v, %v", r.Old, err)
	}
	h.add(t, "work", "keyring", pairOf(idB, secretB), AddOptions{Replace: true}) // back to the old one
	leaves("")
	set(func(r *Record) { r.Old = &OldKey{KeyID: idA} })
	if err := h.Remove(t.Context(), "work"); err != nil {
		t.Error(err)
	}
}

// A list of what is wrong with keys asks each chest once.
func TestProblems(t *testing.T) {
	h := newHouse(t)
	reads, hangs := 0, errors.New("it says no")
	ring := &slowChest{ringChest: h.ring}
	var err error
	h.Kept, err = OpenKept(h.dir, map[string]Chest{"sealed": countingChest{SealedChest(h.vault).(sealedChest), &reads}, "keyring": ring})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		h.add(t, fmt.Sprint("sealed", i), "sealed", pairOf(idA, secretA), AddOptions{})
		h.add(t, fmt.Sprint("ring", i), "keyring", pairOf(idB, secretB), AddOptions{})
	}
	problems := func(want map[string]string) {
		t.Helper()
		reads, ring.gets = 0, 0
		got := h.Problems(t.Context())
		if len(got) != len(want) {
			t.Errorf("%v, want %v", got, want)
		}
		for name, words := range want {
			if got[name] == nil || !strings.Contains(got[name].Error(), words) {
				t.Errorf("%s: %v, want %s", name, got[name], words)
			}
		}
		if reads != 1 {
			t.Errorf("the sealed keys were opened %d times", reads)
		}
	}
	problems(nil)
	h.ring.m["ring1"] = []byte("x")
	delete(h.ring.m, "ring2")
	problems(map[string]string{"ring1": "the key ring1, in custody keyring, cannot be used: it is damaged", "ring2": "there is no key ring2 in custody"})
	for _, c := range []struct {
		err  error
		gets int
	}{{hangs, 4}, {&broker.Error{Kind: broker.KindUnavailable, Public: "it hangs"}, 1}} {
		h.ring.err = c.err
		words := c.err.Error()
		problems(map[string]string{"ring0": words, "ring1": words, "ring2": words, "ring3": words})
		if ring.gets != c.gets {
			t.Errorf("%v: asked %d times, want %d", c.err, ring.gets, c.gets)
		}
	}
	h.ring.err = nil
	h.vault.SetLocked("")
	words := "custody is locked; run stsbroker unlock"
	problems(map[string]string{"sealed0": words, "sealed1": words, "sealed2": words, "sealed3": words, "ring1": "damaged", "ring2": "no key"})
	h.Kept, _ = OpenKept(h.dir, map[string]Chest{"sealed": countingChest{SealedChest(h.vault).(sealedChest), &reads}})
	words2 := "is in custody keyring, which is not to be had here"
	problems(map[string]string{"sealed0": words, "sealed1": words, "sealed2": words, "sealed3": words, "ring0": words2, "ring1": words2, "ring2": words2, "ring3": words2})
}

// countingChest counts how often all that is sealed is opened.
type countingChest struct {
	sealedChest
	reads *int
}

func (c countingChest) all() (map[string][]byte, error) {
	*c.reads++
	return c.sealedChest.all()
}

func (c countingChest) Get(ctx context.Context, name string) ([]byte, error) {
	*c.reads++
	return c.sealedChest.Get(ctx, name)
}

// slowChest counts how often it is waited for.
type slowChest struct {
	*ringChest
	gets int
}

func (c *slowChest) Get(ctx context.Context, name string) ([]byte, error) {
	c.gets++
	return c.ringChest.Get(ctx, name)
}

// A key that went from one chest to another is in both after a crash: the index says
// which counts.
func TestKeyInTwoChests(t *testing.T) {
	h := newHouse(t)
	h.add(t, "work", "keyring", pairOf(idA, secretA), AddOptions{})
	r := Record{Current: pairOf(idB, secretB), Lineage: idB}
	raw, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := SealedChest(h.vault).Put(t.Context(), "work", raw); err != nil {
		t.Fatal(err)
	}
	if err := h.again(true); err != nil {
		t.Fatal(err)
	}
	if i, _ := h.Info("work"); i.Custody != "keyring" || i.KeyID != idA {
		t.Errorf("%+v", i)
	}
	wantKey(t, Set{"work": h.Source("work")}, "work", idA, secretA)
}

func TestChestThatFails(t *testing.T) {
	h := newHouse(t)
	h.add(t, "ring", "keyring", pairOf(idA, secretA), AddOptions{})
	h.add(t, "work", "sealed", pairOf(idA, secretA), AddOptions{})
	h.ring.err = errors.New("no bus")
	const words = "the key ring cannot be had from custody keyring: no bus"
	wantError(t, h.Source("ring"), words)
	wantFault(t, h.Update(t.Context(), "ring", func(*Record) error { return nil }), broker.KindConfig, words)
	wantFault(t, h.Remove(t.Context(), "ring"), broker.KindConfig, words)
	wantKey(t, Set{"work": h.Source("work")}, "work", idA, secretA)
	wantError(t, h.Source("none"), "there is no key none in custody: run stsbroker keys add none")
	h.add(t, "other", "sealed", pairOf(idB, secretB), AddOptions{})
	if n := h.Names(); !slices.Equal(n, []string{"other", "ring", "work"}) {
		t.Error(n)
	}
	h.ring.err = broker.Locked()
	_, err := h.Source("ring")(t.Context())
	wantFault(t, err, broker.KindLocked, "")
	h.ring.err = context.Canceled
	if _, err := h.Source("ring")(t.Context()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	h.ring.err = nil
	h.ring.m["ring"] = []byte("x")
	wantFault(t, h.Update(t.Context(), "ring", func(*Record) error { return nil }), broker.KindConfig, "the key ring, in custody keyring, cannot be used: it is damaged")
	if err := h.Remove(t.Context(), "ring"); err != nil {
		t.Errorf("what is damaged is not removed: %v", err)
	}
}

// What is sealed and is no list of keys stays.
func TestSealedThatIsNoList(t *testing.T) {
	h := newHouse(t)
	for plain, want := range map[string]string{
		"":                                      "is no list of keys: restore that file from a backup",
		`{"version":1}`:                         "is no list of keys",
		`{"version":1,"records":{},"x":1}`:      "is no list of keys",
		`{"version":2,"records":[],"new":true}`: "the sealed keys have version 2, and this stsbroker knows 1",
	} {
		if err := h.vault.Write(vault.Keys, []byte(plain)); err != nil {
			t.Fatal(err)
		}
		before := bytesOf(t, filepath.Join(h.dir, vault.Keys))
		wantFault(t, h.Add(t.Context(), "work", "sealed", pairOf(idA, secretA), AddOptions{}), broker.KindConfig, want)
		c := SealedChest(h.vault)
		wantFault(t, c.Put(t.Context(), "work", nil), broker.KindConfig, want)
		wantFault(t, c.Delete(t.Context(), "work"), broker.KindConfig, want)
		if !bytes.Equal(before, bytesOf(t, filepath.Join(h.dir, vault.Keys))) {
			t.Error("it changed")
		}
	}
}

// A foreign or damaged blob of keys is never moved or overwritten, and the error says
// what to do; at every length of it.
func TestForeignKeysStay(t *testing.T) {
	h := newHouse(t)
	h.add(t, "work", "sealed", pairOf(idA, secretA), AddOptions{})
	path := filepath.Join(h.dir, vault.Keys)
	good := bytesOf(t, path)
	owner := h.id
	try := func(what string) {
		t.Helper()
		before := bytesOf(t, path)
		_ = h.again(true)
		_, err := h.Source("work")(t.Context())
		for _, err := range []error{
			err,
			h.Add(t.Context(), "work", "sealed", pairOf(idB, secretB), AddOptions{Replace: true}),
			h.Add(t.Context(), "new", "sealed", pairOf(idB, secretB), AddOptions{}),
			h.Update(t.Context(), "work", func(*Record) error { return nil }),
			h.Remove(t.Context(), "work"),
		} {
			wantFault(t, err, broker.KindConfig, path+" does not open: ")
			wantFault(t, err, broker.KindConfig, "unlock with the identity that it was sealed for, or restore it from a backup; it was left as it is")
		}
		if !bytes.Equal(before, bytesOf(t, path)) {
			t.Errorf("%s: it changed", what)
		}
		if i, ok := h.Info("work"); !ok || i.KeyID != idA || len(h.List()) != 1 {
			t.Errorf("%s: the index has %+v", what, i)
		}
	}
	text, err := seal.MakeIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if h.id, err = seal.ParseIdentity(text); err != nil {
		t.Fatal(err)
	}
	try("another identity")
	h.id = owner
	for n := range good {
		if n%7 > 0 && testing.Short() {
			continue
		}
		if err := os.WriteFile(path, good[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if try(fmt.Sprint("cut at ", n)); t.Failed() {
			return
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	_ = h.again(true)
	wantKey(t, Set{"work": h.Source("work")}, "work", idA, secretA)
	entries, err := os.ReadDir(h.dir)
	if err != nil || len(entries) != 5 { // keys and index, each with its lock, and the lock of rotations
		t.Errorf("%v, %v", entries, err)
	}
}

// Of changes by two processes at a time none is lost.
func TestKeptAtOnce(t *testing.T) {
	h := newHouse(t)
	h.add(t, "work", "sealed", pairOf(idA, secretA), AddOptions{})
	other := *h
	if err := other.again(true); err != nil {
		t.Fatal(err)
	}
	houses := []*house{h, &other}
	var all sync.WaitGroup
	for i := range 6 {
		k := houses[i%2]
		all.Go(func() {
			name, custody := fmt.Sprint("key", i), []string{"sealed", "keyring"}[i/2%2]
			if err := k.Add(t.Context(), name, custody, pairOf(idB, secretB), AddOptions{}); err != nil {
				t.Error(err)
			}
			for range 3 {
				if err := k.Update(t.Context(), "work", func(r *Record) error { r.User += "x"; return nil }); err != nil {
					t.Error(err)
				}
				if m, err := k.Source("work")(t.Context()); err != nil || m.AccessKeyID != idA {
					t.Error(err)
				}
				k.List()
			}
			if err := k.Refresh(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := h.Names(); len(n) != 7 {
		t.Error(n)
	}
	if i, _ := other.Info("work"); i.User != strings.Repeat("x", 18) {
		t.Errorf("%+v", i)
	}
}

// Who waits for too long is told for whom, and who gives up is not kept.
func TestSomebodyElseChangesKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.add(t, "work", "sealed", pairOf(idA, secretA), AddOptions{})
		release, held, err := securefile.Lock(filepath.Join(h.dir, keptLockFile))
		if err != nil || !held {
			t.Fatal(held, err)
		}
		began := time.Now()
		wantFault(t, h.Remove(t.Context(), "work"), broker.KindUnavailable, fmt.Sprintf("process %d has been changing the keys in %s for 10s: wait for it, or end it", os.Getpid(), h.dir))
		if waited := time.Since(began); waited != lockPatience {
			t.Errorf("it waited %v", waited)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := h.Update(ctx, "work", func(*Record) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if err := h.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
		time.AfterFunc(time.Second, release)
		if err := h.Remove(t.Context(), "work"); err != nil {
			t.Error(err)
		}
	})
}
