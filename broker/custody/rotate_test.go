package custody

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// fakeIAM is IAM and STS in memory: two keys a user, what is new is unknown for a
// while and lists are behind, and a key that signed was used.
type fakeIAM struct {
	t     *testing.T
	mu    sync.Mutex
	keys  []*fakeKey
	made  int
	calls []string
	by    []string // key ids that signed the calls

	delay   time.Duration           // until a new key is accepted
	behind  time.Duration           // until lists have what was made, and lack what was deleted
	deny    map[string]error        // by call: what is answered, without effect
	lose    map[string]bool         // by call: it takes effect, and the answer does not come
	at      func(call, when string) // before and after the effect of each call
	alias   string                  // the user that STS names for a new key; "" is the right one
	vague   bool                    // it does not say of a key that it is gone
	moved   string                  // id of a key that belongs to another account
	ahead   time.Duration           // of its clock
	renamed bool                    // the user has another name now
	slash   bool                    // likewise, of a store with ids of its own
	swap    bool                    // a new key's id and secret are answered in each other's place
}

type fakeKey struct {
	id, secret, user       string
	active                 bool
	created, used, deleted time.Time
}

const (
	fakeAccount = "123456789012"
	fakeUser    = "dev"
)

// newFakeIAM has the user with one key, a year old.
func newFakeIAM(t *testing.T) (*fakeIAM, Pair) {
	f := &fakeIAM{t: t, deny: map[string]error{}, lose: map[string]bool{}}
	key := f.make(fakeUser)
	key.created = time.Now().Add(-365 * 24 * time.Hour)
	return f, Pair{key.id, broker.NewSecret(key.secret), key.created}
}

func (f *fakeIAM) make(user string) *fakeKey {
	f.made++
	key := &fakeKey{id: fmt.Sprintf("AKIAFAKE%012d", f.made), secret: fmt.Sprintf("canary-secret-%d", f.made), user: user, active: true, created: time.Now()}
	f.keys = append(f.keys, key)
	if n := len(f.of(user)); n > 2 {
		f.t.Errorf("%s has %d keys", user, n)
	}
	return key
}

func (f *fakeIAM) of(user string) (keys []*fakeKey) {
	for _, k := range f.keys {
		if k.user == user && k.deleted.IsZero() {
			keys = append(keys, k)
		}
	}
	return keys
}

func (f *fakeIAM) find(id string) *fakeKey {
	for _, k := range f.keys {
		if k.id == id && k.deleted.IsZero() {
			return k
		}
	}
	return nil
}

func iamError(kind broker.Kind, code string) error {
	return &broker.Error{Kind: kind, Code: code, Public: "IAM says " + code}
}

// accepts is the truth about a pair at this moment, whoever asks.
func (f *fakeIAM) accepts(m broker.Material) (*fakeKey, error) {
	k := f.find(m.AccessKeyID)
	switch {
	case k == nil || !k.active || time.Since(k.created) < f.delay:
		return nil, iamError(broker.KindDenied, "InvalidClientTokenId")
	case k.secret != m.SecretAccessKey.Reveal():
		return nil, iamError(broker.KindDenied, "SignatureDoesNotMatch")
	}
	return k, nil
}

func (f *fakeIAM) call(name string, m broker.Material, effect func(by *fakeKey) error) error {
	f.mu.Lock()
	f.calls, f.by = append(f.calls, name), append(f.by, m.AccessKeyID)
	f.mu.Unlock()
	if f.at != nil {
		f.at(name, "before")
	}
	f.mu.Lock()
	by, err := f.accepts(m)
	if err == nil {
		by.used = time.Now()
		if err = f.deny[name]; err == nil {
			err = effect(by)
		}
	}
	f.mu.Unlock()
	if f.at != nil {
		f.at(name, "after")
	}
	if err == nil && f.lose[name] {
		err = iamError(broker.KindUnavailable, "")
	}
	return err
}

func (f *fakeIAM) Now() time.Time { return time.Now().Add(f.ahead) }

func (f *fakeIAM) CreateKey(ctx context.Context, m broker.Material, user string) (key broker.Material, created time.Time, err error) {
	err = f.call("CreateKey", m, func(*fakeKey) error {
		if len(f.of(user)) >= 2 {
			return iamError(broker.KindConfig, "LimitExceeded")
		}
		k := f.make(user)
		key, created = broker.Material{AccessKeyID: k.id, SecretAccessKey: broker.NewSecret(k.secret)}, k.created.Add(f.ahead)
		if f.slash {
			key.AccessKeyID, key.SecretAccessKey = "canary/secret+id", broker.NewSecret("id")
		} else if f.swap {
			key = broker.Material{AccessKeyID: k.secret, SecretAccessKey: broker.NewSecret(k.id)}
		}
		return nil
	})
	if ctx.Err() != nil { // nobody was there to read the answer
		return broker.Material{}, time.Time{}, iamError(broker.KindUnavailable, "")
	}
	return key, created, err
}

func (f *fakeIAM) ListKeys(_ context.Context, m broker.Material, user string) (list []KeyState, err error) {
	err = f.call("ListKeys", m, func(by *fakeKey) error {
		if by.user == fakeUser && f.renamed {
			return iamError(broker.KindConfig, "NoSuchEntity")
		}
		for _, k := range f.keys {
			there := k.deleted.IsZero() || time.Since(k.deleted) < f.behind
			if k.user == user && there && time.Since(k.created) >= f.behind {
				list = append(list, KeyState{KeyID: k.id, Active: k.active, Created: k.created.Add(f.ahead)})
			}
		}
		return nil
	})
	return list, err
}

func (f *fakeIAM) LastUsed(_ context.Context, m broker.Material, id string) (used time.Time, err error) {
	err = f.call("LastUsed", m, func(*fakeKey) error {
		k := f.find(id)
		if k == nil && f.vague {
			return iamError(broker.KindDenied, "AccessDenied")
		}
		if k == nil {
			return iamError(broker.KindConfig, "NoSuchEntity")
		}
		if used = k.used; !used.IsZero() {
			used = used.Add(f.ahead)
		}
		return nil
	})
	return used, err
}

func (f *fakeIAM) SetActive(_ context.Context, m broker.Material, user, id string, active bool) error {
	return f.call("SetActive", m, func(*fakeKey) error {
		k := f.find(id)
		if k == nil || k.user != user || f.renamed {
			return iamError(broker.KindConfig, "NoSuchEntity")
		}
		k.active = active
		return nil
	})
}

func (f *fakeIAM) DeleteKey(_ context.Context, m broker.Material, user, id string) error {
	return f.call("DeleteKey", m, func(*fakeKey) error {
		k := f.find(id)
		if k == nil || k.user != user || f.renamed {
			return iamError(broker.KindConfig, "NoSuchEntity")
		}
		k.deleted = time.Now()
		return nil
	})
}

func (f *fakeIAM) WhoAmI(_ context.Context, m broker.Material) (account, user string, err error) {
	err = f.call("WhoAmI", m, func(by *fakeKey) error {
		account, user = fakeAccount, by.user
		if f.alias != "" && by != f.keys[0] {
			user = f.alias
		}
		if by.id == f.moved {
			account = "210987654321"
		}
		return nil
	})
	return account, user, err
}

// memChest is a chest that a crash leaves as it is.
type memChest struct {
	records map[string][]byte
	at      func(call, when string)
	err     error
}

func (c *memChest) Get(ctx context.Context, name string) ([]byte, error) {
	if err := cmp.Or(c.err, ctx.Err()); err != nil {
		return nil, err
	}
	raw, ok := c.records[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(raw), nil
}

func (c *memChest) Put(ctx context.Context, name string, record []byte) error {
	if c.at != nil {
		c.at("Put", "before")
		defer c.at("Put", "after")
	}
	if err := cmp.Or(c.err, ctx.Err()); err != nil {
		return err
	}
	c.records[name] = slices.Clone(record)
	return nil
}

func (c *memChest) Delete(_ context.Context, name string) error {
	delete(c.records, name)
	return nil
}

// rotation is a world to rotate a key in.
type rotation struct {
	t     *testing.T
	dir   string
	iam   *fakeIAM
	chest *memChest
	first Pair
}

func newRotation(t *testing.T) *rotation {
	t.Helper()
	iam, pair := newFakeIAM(t)
	w := &rotation{t: t, dir: filepath.Join(t.TempDir(), "state"), iam: iam, chest: &memChest{records: map[string][]byte{}}, first: pair}
	if err := w.kept().Add(t.Context(), "work", "sealed", pair, AddOptions{}); err != nil {
		t.Fatal(err)
	}
	return w
}

// kept is what another process would open.
func (w *rotation) kept() *Kept {
	w.t.Helper()
	k, warning := OpenKept(w.dir, map[string]Chest{"sealed": w.chest})
	if warning != nil {
		w.t.Fatal(warning)
	}
	return k
}

func (w *rotation) record() Record {
	w.t.Helper()
	r, err := w.kept().Get(context.Background(), "work")
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *rotation) rotate(o RotateOptions) (Rotation, error) {
	w.t.Helper()
	return w.kept().Rotate(context.Background(), "work", w.iam, o)
}

// must fails the test unless the rotation comes to its end.
func (w *rotation) must(o RotateOptions) Rotation {
	w.t.Helper()
	done, err := w.rotate(o)
	if err != nil {
		w.t.Fatalf("after %v: %v", done.Steps, err)
	}
	return done
}

// refused fails the test unless the rotation fails in one line that has the words. It
// returns of which kind the error is.
func (w *rotation) refused(o RotateOptions, words ...string) broker.Kind {
	w.t.Helper()
	done, err := w.rotate(o)
	var e *broker.Error
	if !errors.As(err, &e) {
		w.t.Fatalf("after %v: got %v, want a broker error", done.Steps, err)
	}
	if strings.ContainsAny(e.Public, "\n\r") || strings.Contains(err.Error(), "canary") {
		w.t.Errorf("not for people: %q", err)
	}
	for _, word := range words {
		if !strings.Contains(e.Public, word) {
			w.t.Errorf("no %q in: %s", word, e.Public)
		}
	}
	return e.Kind
}

// works fails the test unless IAM accepts the key in custody at this moment.
func (w *rotation) works(when string) {
	w.t.Helper()
	raw, err := decodeRecord(w.chest.records["work"])
	if err != nil {
		w.t.Fatalf("%s: %v", when, err)
	}
	w.iam.mu.Lock()
	defer w.iam.mu.Unlock()
	if _, err := w.iam.accepts(raw.Current.Material()); err != nil {
		w.t.Errorf("%s: %s, which is in custody, is not accepted: %v", when, raw.Current.KeyID, err)
	}
}

// rotated fails the test unless the first key is gone and one other is in its place.
func (w *rotation) rotated() {
	w.t.Helper()
	w.works("at the end")
	r := w.record()
	keys := w.iam.of(fakeUser)
	if len(keys) != 1 || keys[0].id != r.Current.KeyID || r.Current.KeyID == w.first.KeyID {
		w.t.Errorf("%s is in custody, and IAM has %d keys", r.Current.KeyID, len(keys))
	}
	if r.Next != nil || r.Old != nil || !r.Creating.IsZero() || r.Lineage != w.first.KeyID || r.User != fakeUser || r.Account != fakeAccount {
		w.t.Errorf("the record at the end: next %v, old %v, creating %v, lineage %s, user %q of %q", r.Next, r.Old, r.Creating, r.Lineage, r.User, r.Account)
	}
}

var wholeRotation = []string{StepMark, StepCreate, StepSeal, StepVerify, StepSwitch, StepDeactivate, StepDelete}

// TestNext is the whole plan: what is done in which state.
func TestNext(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	current := Pair{KeyID: "AKIACURRENT000000000"}
	newer := &Pair{KeyID: "AKIANEXT000000000000"}
	old := func(inactive bool, left time.Duration) *OldKey {
		o := &OldKey{KeyID: "AKIAOLD0000000000000", Inactive: inactive}
		if inactive {
			o.DeleteAfter = now.Add(left)
		}
		return o
	}
	own := seen{KeyState: KeyState{KeyID: current.KeyID, Active: true}}
	other := func(change func(*seen)) seen {
		s := seen{KeyState: KeyState{KeyID: "AKIAOTHER00000000000", Active: true, Created: now.Add(-time.Minute)}}
		if change != nil {
			change(&s)
		}
		return s
	}
	marked := progress{earlier: now.Add(-time.Minute)}
	for name, c := range map[string]struct {
		r    Record
		keys []seen
		p    progress
		want string // a step, "" for the end, or words of an error
	}{
		"new":                               {Record{}, []seen{own}, progress{}, StepMark},
		"new, an inactive key in custody":   {Record{}, []seen{{KeyState: KeyState{KeyID: current.KeyID}}}, progress{}, StepMark},
		"marked by this run":                {Record{Creating: now}, []seen{own}, progress{marked: true}, StepCreate},
		"marked by another run, and no key": {Record{Creating: marked.earlier}, []seen{own}, marked, StepMark},
		"the same, marked again":            {Record{Creating: now}, []seen{own}, progress{marked: true, earlier: marked.earlier}, StepCreate},
		"marked by another run, its key":    {Record{Creating: marked.earlier}, []seen{own, other(nil)}, marked, StepClear},
		"the order of the list is nothing":  {Record{Creating: marked.earlier}, []seen{other(nil), own}, marked, StepClear},
		"made by a slow call":               {Record{}, []seen{own, other(func(s *seen) { s.Created = now })}, marked, StepClear},
		"made in the mark's second":         {Record{}, []seen{own, other(func(s *seen) { s.Created = now.Add(-time.Minute - time.Second) })}, marked, StepClear},
		"made after the mark's call":        {Record{}, []seen{own, other(func(s *seen) { s.Created = now.Add(time.Second) })}, marked, "not certain: look at it"},
		"made before the mark":              {Record{}, []seen{own, other(func(s *seen) { s.Created = now.Add(-time.Minute - 11*time.Second) })}, marked, "not certain: look at it"},
		"the mark's key was used":           {Record{}, []seen{own, other(func(s *seen) { s.used = now })}, marked, "; a rotation that was cut off at 2026-11-23T11:59:00Z may have made it, but that is not certain: look at it"},
		"its use is not known":              {Record{}, []seen{own, other(func(s *seen) { s.unasked = errors.New("denied") })}, marked, "iam:GetAccessKeyLastUsed"},
		"somebody made it inactive":         {Record{}, []seen{own, other(func(s *seen) { s.Active = false })}, marked, "AKIAOTHER00000000000 (inactive, made 2026-11-23, never used)"},
		"two that are unknown":              {Record{}, []seen{own, other(nil), other(nil)}, marked, "look at it"},
		"one of them in custody's place":    {Record{}, []seen{other(nil), other(nil)}, marked, "is none of the access keys of dev any more"},
		"no keys":                           {Record{}, nil, progress{}, "is none of the access keys"},
		"two keys, no mark":                 {Record{}, []seen{own, other(nil)}, progress{}, "aws iam delete-access-key --user-name dev --access-key-id AKIAOTHER00000000000;"},
		"two keys, no times":                {Record{}, []seen{own, other(func(s *seen) { s.Created = time.Time{} })}, progress{}, "two access keys at most"},
		"two keys, marked by this run":      {Record{Creating: now}, []seen{own, other(nil)}, progress{marked: true}, "two access keys at most"},
		"made":                              {Record{Creating: now}, nil, progress{marked: true, made: newer}, StepSeal},
		"sealed":                            {Record{Next: newer}, nil, progress{}, StepVerify},
		"another was verified":              {Record{Next: newer}, nil, progress{verified: "AKIAOTHER00000000000"}, StepVerify},
		"verified":                          {Record{Next: newer}, nil, progress{verified: newer.KeyID}, StepSwitch},
		"a next key and an old one":         {Record{Next: newer, Old: old(true, -1)}, nil, progress{}, StepVerify},
		"switched":                          {Record{Old: old(false, 0)}, nil, progress{verified: current.KeyID}, StepDeactivate},
		"waiting":                           {Record{Old: old(true, time.Second)}, nil, progress{}, ""},
		"due":                               {Record{Old: old(true, 0)}, nil, progress{}, StepDelete},
		"overdue":                           {Record{Old: old(true, -time.Hour)}, nil, progress{}, StepDelete},
		"ended":                             {Record{}, nil, progress{ended: true}, ""},
	} {
		c.r.Current, c.r.User = current, fakeUser
		step, err := next(c.r, c.keys, c.p, now)
		switch {
		case err == nil && step != c.want:
			t.Errorf("%s: %q, want %q", name, step, c.want)
		case err != nil && (step != "" || c.want == "" || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %q %v, want %q", name, step, err, c.want)
		}
	}
}

func TestRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRotation(t)
		var began, done []string
		o := RotateOptions{Step: func(s string) { began = append(began, s) }, Done: func(s string) { done = append(done, s) }}
		r := w.must(o)
		w.rotated()
		if !slices.Equal(r.Steps, wholeRotation) || !slices.Equal(began, wholeRotation) || !slices.Equal(done, wholeRotation) {
			t.Errorf("steps %v, told %v and %v", r.Steps, began, done)
		}
		if r.Old != "" || r.Hint() != "" || r.KeyID != w.record().Current.KeyID || r.User != fakeUser {
			t.Errorf("%+v, %s", r, r.Hint())
		}
		// And again, from a key of its own making.
		w.must(RotateOptions{})
		w.rotated()
		if n := w.iam.made; n != 3 {
			t.Errorf("%d keys were made", n)
		}
	})
}

func TestRotateWithGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRotation(t)
		o := RotateOptions{Grace: 24 * time.Hour}
		r := w.must(o)
		old := w.iam.find(w.first.KeyID)
		if old == nil || old.active {
			t.Fatalf("the old key is %+v", old)
		}
		if r.Old != w.first.KeyID || !r.DeleteAfter.Equal(time.Now().Add(o.Grace)) {
			t.Errorf("%+v", r)
		}
		if want := "aws iam update-access-key --user-name dev --access-key-id " + w.first.KeyID + " --status Active"; !strings.Contains(r.Hint(), want) {
			t.Errorf("hint: %s", r.Hint())
		}
		w.works("in the grace period")

		time.Sleep(o.Grace - time.Second)
		calls := len(w.iam.calls)
		if again := w.must(o); len(again.Steps) != 0 || again.Old != r.Old || !again.DeleteAfter.Equal(r.DeleteAfter) {
			t.Errorf("a second call in the grace period: %+v", again)
		}
		if id, err := w.kept().Tidy(t.Context(), "work", w.iam, time.Now()); id != "" || err != nil {
			t.Errorf("tidied too early: %q %v", id, err)
		}
		if len(w.iam.calls) != calls {
			t.Errorf("calls in the grace period: %v", w.iam.calls[calls:])
		}

		time.Sleep(time.Second)
		if id, err := w.kept().Tidy(t.Context(), "work", w.iam, time.Now()); id != w.first.KeyID || err != nil {
			t.Errorf("not tidied: %q %v", id, err)
		}
		w.rotated()
		if id, err := w.kept().Tidy(t.Context(), "work", w.iam, time.Now()); id != "" || err != nil {
			t.Errorf("tidied twice: %q %v", id, err)
		}
		if id, err := w.kept().Tidy(t.Context(), "nothing", w.iam, time.Now()); id != "" || err != nil {
			t.Errorf("tidied nothing: %q %v", id, err)
		}
	})
}

// A call after the grace period ends the rotation, and begins no other.
func TestRotateEndsWhatWasBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRotation(t)
		w.must(RotateOptions{Grace: time.Hour})
		time.Sleep(time.Hour)
		if r := w.must(RotateOptions{Grace: time.Hour}); !slices.Equal(r.Steps, []string{StepDelete}) {
			t.Errorf("%v", r.Steps)
		}
		w.rotated()
		if w.iam.made != 2 {
			t.Errorf("%d keys were made", w.iam.made)
		}
	})
}

// crash is what a test panics with in the place of a SIGKILL.
type crash struct{}

// TestRotateCrashes ends the process at every event of a rotation: before and after
// each step, before and after the effect of each call to IAM, before and after each
// write of the record. A second crash follows in the resumed run, at an event that
// moves with the first. At every event the key in custody must work.
func TestRotateCrashes(t *testing.T) {
	for name, c := range map[string]struct {
		delay, behind time.Duration
		grace         time.Duration
	}{
		"at once":               {},
		"eventually consistent": {delay: 20 * time.Second, behind: time.Second},
		"with a grace period":   {grace: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			at := map[string]bool{}
			for first, crashed := 1, true; crashed; first++ {
				crashed = false
				// Without a second crash, and then with one: where there may be a leftover, at
				// every fourth event, beginning elsewhere each time, or else at one.
				for seconds := []int{0}; len(seconds) > 0; seconds = seconds[1:] {
					synctest.Test(t, func(t *testing.T) {
						w := newRotation(t)
						w.iam.delay, w.iam.behind = c.delay, c.behind
						left := 0
						hit := func(call, when string) {
							w.works(call + " " + when)
							if left--; left == 0 {
								at[call+" "+when] = true
								panic(crash{})
							}
						}
						w.iam.at, w.chest.at = hit, hit
						// run reports whether it came to the end of the rotation.
						run := func(crashAt int) (ended bool) {
							defer func() {
								if r := recover(); r != nil && r != any(crash{}) {
									panic(r)
								}
							}()
							left = crashAt
							for r := w.record(); r.Current.KeyID == w.first.KeyID || r.Old != nil; r = w.record() {
								if r.Old != nil && r.Old.Inactive {
									time.Sleep(time.Until(r.Old.DeleteAfter))
								}
								w.must(RotateOptions{Grace: c.grace, Step: func(s string) { hit(s, "begins") }, Done: func(s string) { hit(s, "done") }})
							}
							return true
						}
						if !run(first) {
							crashed = true
							if seconds[0] == 0 && !w.record().Creating.IsZero() {
								for n := 1 + first%4; n < 42; n += 4 {
									seconds = append(seconds, n)
								}
							} else if seconds[0] == 0 {
								seconds = append(seconds, 1+first%13)
							}
							if seconds[0] != 0 {
								run(seconds[0])
							}
							run(0)
						}
						w.rotated()
						if made := w.iam.made - 1; made > 3 {
							t.Errorf("%d keys were made", made)
						}
					})
					if t.Failed() {
						t.Fatalf("with crashes at the events %d and %d after it", first, seconds[0])
					}
				}
			}
			events := slices.Sorted(maps.Keys(at))
			for _, want := range []string{"CreateKey before", "CreateKey after", "Put before", "Put after", "clear begins", "clear done", "DeleteKey after", "SetActive before", "SetActive after", "WhoAmI after", "switch begins", "switch done", "delete done"} {
				if !slices.Contains(events, want) {
					t.Errorf("no crash at %q, only at %v", want, events)
				}
			}
			t.Logf("crashes at %d kinds of event", len(events))
		})
	}
}

// files is every file of a folder with its content.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		all[path] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A dry run tells in every state what Rotate then does, and changes nothing.
func TestRotateDryRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for stop := range len(wholeRotation) + 1 {
			w := newRotation(t)
			o := RotateOptions{Done: func(s string) {
				if stop > 0 && s == wholeRotation[stop-1] {
					panic(crash{})
				}
			}}
			func() {
				defer func() { _ = recover() }()
				w.must(o)
			}()
			record, before, calls := string(w.chest.records["work"]), files(t, w.dir), len(w.iam.calls)
			keys := fmt.Sprint(w.iam.of(fakeUser))
			plan := w.must(RotateOptions{DryRun: true})
			if string(w.chest.records["work"]) != record || !maps.Equal(files(t, w.dir), before) || fmt.Sprint(w.iam.of(fakeUser)) != keys {
				t.Errorf("after %d steps a dry run changes something", stop)
			}
			for _, call := range w.iam.calls[calls:] {
				if call != "ListKeys" && call != "WhoAmI" && call != "LastUsed" {
					t.Errorf("after %d steps a dry run calls %s", stop, call)
				}
			}
			if stop == len(wholeRotation) { // the next one would be new
				continue
			}
			if done := w.must(RotateOptions{}); !slices.Equal(done.Steps, plan.Steps) || len(plan.Steps) == 0 {
				t.Errorf("after %d steps: planned %v, done %v", stop, plan.Steps, done.Steps)
			}
			w.rotated()
		}
	})
}

func TestRotateRefusesASecondKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRotation(t)
		second := w.iam.make(fakeUser)
		command := "aws iam delete-access-key --user-name dev --access-key-id " + second.id + ";"
		w.refused(RotateOptions{}, second.id+" (active, made "+time.Now().UTC().Format(time.DateOnly)+", never used)", w.first.KeyID, command)
		w.refused(RotateOptions{DryRun: true}, command)
		second.used, second.active = time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC), false
		w.refused(RotateOptions{}, "inactive", "last used 2026-03-04", command)
		w.iam.deny["LastUsed"] = iamError(broker.KindDenied, "AccessDenied")
		w.refused(RotateOptions{}, "iam:GetAccessKeyLastUsed", command)
		if len(w.iam.of(fakeUser)) != 2 || w.iam.made != 2 || w.record().Next != nil {
			t.Error("something was changed")
		}
		second.deleted = time.Now()
		w.must(RotateOptions{})
		w.rotated()
	})
}

// What a crash left is deleted where it is certain what it is, and else it is named.
func TestRotateLeftovers(t *testing.T) {
	for name, c := range map[string]struct {
		change func(w *rotation, left *fakeKey)
		words  []string // of the refusal; nil where it goes on
	}{
		"as it was":    {func(*rotation, *fakeKey) {}, nil},
		"the next day": {func(*rotation, *fakeKey) { time.Sleep(24 * time.Hour) }, nil},
		"made by hand": {func(w *rotation, k *fakeKey) {
			k.deleted = time.Now() // as if the call had not come through
			time.Sleep(5 * time.Minute)
			w.iam.make(fakeUser)
		}, []string{"AKIAFAKE000000000003", "look at it", "aws iam delete-access-key --user-name dev --access-key-id AKIAFAKE000000000003;"}},
		"used":              {func(_ *rotation, k *fakeKey) { k.used = time.Now() }, []string{"may have made it", "look at it", "last used"}},
		"its use is secret": {func(w *rotation, _ *fakeKey) { w.iam.deny["LastUsed"] = iamError(broker.KindDenied, "AccessDenied") }, []string{"look at it"}},
		"another's": {func(w *rotation, k *fakeKey) {
			k.deleted = time.Now()
			time.Sleep(time.Hour)
			w.iam.make(fakeUser)
		}, []string{"AKIAFAKE000000000003", "look at it"}},
		"IAM does not answer": {func(w *rotation, _ *fakeKey) { w.iam.deny["LastUsed"] = iamError(broker.KindUnavailable, "") }, []string{"IAM says"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newRotation(t)
				// The answer is lost, as in a crash: the key is made, and nobody has its secret.
				w.iam.lose["CreateKey"] = true
				w.refused(RotateOptions{})
				left := w.iam.keys[1]
				if w.record().Creating.IsZero() || w.record().Next != nil {
					t.Fatal("no mark stays where the answer was lost")
				}
				w.iam.lose = map[string]bool{}
				c.change(w, left)
				before := len(w.iam.of(fakeUser))
				if c.words != nil {
					w.refused(RotateOptions{}, c.words...)
					if n := len(w.iam.of(fakeUser)); n != before {
						t.Errorf("%d keys, and %d before", n, before)
					}
					w.works("after the refusal")
					return
				}
				r := w.must(RotateOptions{})
				if want := append([]string{StepClear}, wholeRotation...); !slices.Equal(r.Steps, want) {
					t.Errorf("%v", r.Steps)
				}
				if w.iam.find(left.id) != nil {
					t.Error("the leftover is still there")
				}
				w.rotated()
			})
		})
	}
}

// The mark is by IAM's clock, so that this host's may be off.
func TestRotateLeftoverOfAnotherClock(t *testing.T) {
	for _, ahead := range []time.Duration{-13 * time.Minute, 13 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			w := newRotation(t)
			w.iam.ahead, w.iam.lose["CreateKey"] = ahead, true
			w.refused(RotateOptions{})
			w.iam.lose = map[string]bool{}
			time.Sleep(time.Hour)
			if r := w.must(RotateOptions{}); r.Steps[0] != StepClear {
				t.Errorf("%v", r.Steps)
			}
			w.rotated()
		})
	}
}

// An old key that somebody made to work again, as the hint says, stays until it is made
// inactive again, and then for the time of grace from its last use.
func TestOldKeyThatWorksAgain(t *testing.T) {
	const grace = 24 * time.Hour
	for _, ahead := range []time.Duration{0, -13 * time.Minute, 13 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			w := newRotation(t)
			w.iam.ahead = ahead
			w.must(RotateOptions{Grace: grace})
			old, due := w.iam.find(w.first.KeyID), w.record().Old.DeleteAfter
			stays := func(words ...string) {
				t.Helper()
				id, err := w.kept().Tidy(t.Context(), "work", w.iam, time.Now())
				if id != "" || !errors.Is(err, ErrOldInUse) || broker.AsError(err).Kind != broker.KindConfig {
					t.Errorf("tidied: %q %v", id, err)
				}
				for _, o := range []RotateOptions{{}, {DryRun: true}} {
					w.refused(o, append(words, old.id)...)
				}
				if w.iam.find(old.id) == nil {
					t.Fatal("it was deleted")
				}
				if r := w.record(); r.Old == nil || !r.Old.DeleteAfter.Equal(due) {
					t.Errorf("the record has %+v", r.Old)
				}
				w.works("after it")
			}
			time.Sleep(grace - time.Hour)
			old.active = true
			time.Sleep(time.Hour)
			stays("active again", "aws iam update-access-key --user-name dev --access-key-id "+old.id+" --status Inactive")
			time.Sleep(time.Hour)
			if _, _, err := w.iam.WhoAmI(t.Context(), w.first.Material()); err != nil {
				t.Fatal(err)
			}
			lastUse := time.Now()
			stays("active again")
			old.active = false
			const words = "aws iam delete-access-key --user-name dev --access-key-id "
			stays(words, "is not deleted before "+lastUse.Add(grace).UTC().Format(time.RFC3339))
			time.Sleep(grace - time.Second)
			stays(words)
			time.Sleep(time.Second)
			if id, err := w.kept().Tidy(t.Context(), "work", w.iam, time.Now()); id != old.id || err != nil {
				t.Errorf("not tidied: %q %v", id, err)
			}
			w.rotated()
		})
	}
}

// A list that is behind by the deactivation holds nothing up, and who may not ask when a
// key was used deletes what is inactive.
func TestOldKeyOfALateList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRotation(t)
		w.iam.deny["LastUsed"] = iamError(broker.KindDenied, "AccessDenied")
		old := w.iam.find(w.first.KeyID)
		w.iam.at = func(call, when string) {
			if r, err := decodeRecord(w.chest.records["work"]); err != nil || r.Old == nil || !r.Old.Inactive {
				return
			}
			old.active = time.Since(w.iam.keys[1].created) < 20*time.Second
		}
		w.must(RotateOptions{})
		w.rotated()
	})
}

// Whoever hangs up loses no key that IAM made.
func TestRotateHangsUp(t *testing.T) {
	for at, want := range map[string][]string{
		"CreateKey before": wholeRotation[:3], "CreateKey after": wholeRotation[:3], "seal": wholeRotation[:3], "create": wholeRotation[:3],
		"mark": wholeRotation[:1], "switch": wholeRotation[:5],
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newRotation(t)
			ctx, cancel := context.WithCancel(t.Context())
			w.iam.at = func(call, when string) {
				if call+" "+when == at {
					cancel()
				}
			}
			r, err := w.kept().Rotate(ctx, "work", w.iam, RotateOptions{Step: func(s string) {
				if s == at && s != StepMark {
					cancel()
				}
			}, Done: func(s string) {
				if s == at && s == StepMark {
					cancel()
				}
			}})
			if !errors.Is(err, context.Canceled) || !slices.Equal(r.Steps, want) {
				t.Errorf("hung up at %s: %v after %v, want %v", at, err, r.Steps, want)
			}
			w.works(at)
			made := w.iam.made
			w.iam.at = nil
			w.must(RotateOptions{})
			w.rotated()
			if at != StepMark && w.iam.made != made {
				t.Errorf("hung up at %s: %d keys were made, then %d", at, made, w.iam.made)
			}
		})
	}
}

// That IAM does not find a key of a user who has another name now says nothing of the
// key.
func TestRotateOfARenamedUser(t *testing.T) {
	for _, step := range []string{StepDeactivate, StepDelete} {
		synctest.Test(t, func(t *testing.T) {
			w := newRotation(t)
			w.refused(RotateOptions{Step: func(s string) { w.iam.renamed = w.iam.renamed || s == step }},
				"IAM has no user dev any more", w.first.KeyID, "stsbroker keys remove work")
			if r := w.record(); r.Old == nil || r.Old.KeyID != w.first.KeyID || w.iam.find(w.first.KeyID) == nil {
				t.Errorf("%s: the old key is forgotten: %+v", step, r.Old)
			}
			w.iam.renamed = false
			w.must(RotateOptions{})
			w.rotated()
		})
	}
	synctest.Test(t, func(t *testing.T) { // the same of the next key, when it is to be deleted
		w := newRotation(t)
		w.iam.alias = "somebody"
		w.refused(RotateOptions{Step: func(s string) { w.iam.renamed = w.iam.renamed || s == StepUndo }}, "IAM has no user dev any more")
		if w.record().Next == nil {
			t.Error("the next key is forgotten")
		}
	})
}

// A store that swaps id and secret has none of them printed.
func TestRotateOfASwappedAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRotation(t)
		w.iam.swap, w.iam.slash = true, true
		w.refused(RotateOptions{}, "its answer has no access key id and secret that can be one")
		w.iam.slash = false
		w.refused(RotateOptions{}, "its answer has no access key id and secret that can be one") // and no canary
		w.iam.swap = false
		w.must(RotateOptions{})
		w.rotated()
	})
}

// One mark answers for one key. What shows up after that one is deleted is another's.
func TestRotateClearsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRotation(t)
		w.iam.lose["CreateKey"] = true
		w.refused(RotateOptions{})
		w.iam.lose = map[string]bool{}
		var other *fakeKey
		w.refused(RotateOptions{Done: func(s string) {
			if s == StepClear {
				other = w.iam.make(fakeUser)
			}
		}}, "two access keys at most", "AKIAFAKE000000000003")
		if w.iam.find(other.id) == nil {
			t.Error("it was taken for ours")
		}
	})
}

// Lists that are behind are waited for, and what they still have of what was deleted
// is in nobody's way.
func TestRotateStaleLists(t *testing.T) {
	for _, vague := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := newRotation(t)
			w.iam.lose["CreateKey"] = true
			w.refused(RotateOptions{})
			w.iam.lose, w.iam.vague = map[string]bool{}, vague
			w.iam.behind = 10 * time.Second
			time.Sleep(w.iam.behind)
			w.must(RotateOptions{}) // clears
			w.rotated()
			if vague { // then the key that was just deleted is taken for one that is there
				time.Sleep(w.iam.behind)
			}
			w.must(RotateOptions{})
			w.rotated()
		})
	}
}

// A refusal leaves no mark: what somebody else makes a moment later is not ours.
func TestRotateLeavesNoMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRotation(t)
		w.iam.deny["CreateKey"] = iamError(broker.KindDenied, "AccessDenied")
		w.refused(RotateOptions{}, "AccessDenied")
		if !w.record().Creating.IsZero() {
			t.Error("the mark stays")
		}
		delete(w.iam.deny, "CreateKey")
		other := w.iam.make(fakeUser)
		w.refused(RotateOptions{}, "two access keys at most", other.id)

		// Somebody else makes it between our list and our call.
		other.deleted = time.Now()
		w.iam.behind = time.Second
		time.Sleep(2 * time.Second)
		racing := true
		w.iam.at = func(call, when string) {
			if call == "CreateKey" && when == "before" && racing {
				racing = false
				other = w.iam.make(fakeUser)
			}
		}
		w.refused(RotateOptions{}, "two access keys at most", "AKIAFAKE000000000003")
		if w.iam.find(other.id) == nil || !w.record().Creating.IsZero() {
			t.Error("it was taken for ours")
		}
		w.refused(RotateOptions{}, "two access keys at most", other.id)
	})
}

func TestRotateVerifies(t *testing.T) {
	t.Run("another user's", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newRotation(t)
			w.iam.alias = "somebody"
			var steps []string
			w.refused(RotateOptions{Done: func(s string) { steps = append(steps, s) }}, `belongs to "somebody"`, "deleted again", w.first.KeyID+" goes on being used")
			if !slices.Equal(steps, []string{StepMark, StepCreate, StepSeal, StepUndo}) {
				t.Errorf("%v", steps)
			}
			w.untouched()
		})
	})
	t.Run("never known", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newRotation(t)
			w.iam.delay = 300 * 24 * time.Hour // the first key is older
			began := time.Now()
			w.refused(RotateOptions{}, "InvalidClientTokenId", "deleted again")
			if took := time.Since(began); took < patience || took > patience+longWait {
				t.Errorf("it took %v", took)
			}
			w.untouched()
		})
	})
	t.Run("known after a while", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newRotation(t)
			w.iam.delay = 50 * time.Second
			w.must(RotateOptions{})
			w.rotated()
		})
	})
	t.Run("known by some of STS first", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newRotation(t)
			answers := 0
			w.iam.at = func(call, when string) {
				if call == "WhoAmI" && when == "before" && w.iam.made == 2 {
					w.iam.delay = 0
					if answers++; answers == 3 {
						w.iam.delay = time.Hour
					}
				}
			}
			w.must(RotateOptions{})
			w.rotated()
			if answers != 3+acceptances {
				t.Errorf("asked %d times", answers)
			}
		})
	})
	t.Run("no answer", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newRotation(t)
			w.iam.at = func(call, when string) {
				if call == "CreateKey" && when == "after" {
					w.iam.deny["WhoAmI"] = iamError(broker.KindUnavailable, "")
				}
			}
			w.refused(RotateOptions{}, "IAM says")
			if w.record().Next == nil {
				t.Fatal("the next key was thrown away")
			}
			w.works("while STS is down")
			w.iam.at, w.iam.deny = nil, map[string]error{}
			w.must(RotateOptions{})
			w.rotated()
			if w.iam.made != 2 {
				t.Errorf("%d keys were made", w.iam.made)
			}
		})
	})
	t.Run("and cannot be deleted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newRotation(t)
			w.iam.alias, w.iam.deny["DeleteKey"] = "somebody", iamError(broker.KindDenied, "AccessDenied")
			w.refused(RotateOptions{}, "could not be deleted (IAM says AccessDenied)")
			if w.record().Next == nil {
				t.Error("a key that IAM has is forgotten")
			}
			w.works("after it")
			delete(w.iam.deny, "DeleteKey")
			w.refused(RotateOptions{}, "deleted again")
			w.untouched()
		})
	})
}

// untouched fails the test unless the first key alone is at IAM and in custody, and
// nothing is under way.
func (w *rotation) untouched() {
	w.t.Helper()
	w.works("after it")
	r := w.record()
	if keys := w.iam.of(fakeUser); len(keys) != 1 || keys[0].id != w.first.KeyID {
		w.t.Errorf("IAM has %d keys", len(keys))
	}
	if r.Current.KeyID != w.first.KeyID || r.Next != nil || r.Old != nil || !r.Creating.IsZero() {
		w.t.Errorf("the record: %s, next %v, old %v, creating %v", r.Current.KeyID, r.Next, r.Old, r.Creating)
	}
}

// The old key may be gone before its time, by somebody else's hand.
func TestRotateOldKeyIsGone(t *testing.T) {
	for _, before := range []string{"SetActive", "DeleteKey"} {
		synctest.Test(t, func(t *testing.T) {
			w := newRotation(t)
			w.iam.at = func(call, when string) {
				if call == before && when == "before" {
					w.iam.find(w.first.KeyID).deleted = time.Now()
				}
			}
			w.must(RotateOptions{})
			w.iam.at = nil
			w.rotated()
		})
	}
}

// What the key's user may not do leaves it with a key that works, and a step to go on with.
func TestRotateDenied(t *testing.T) {
	for call, want := range map[string]string{"ListKeys": "", "CreateKey": "", "SetActive": StepDeactivate, "DeleteKey": StepDelete} {
		synctest.Test(t, func(t *testing.T) {
			w := newRotation(t)
			w.iam.deny[call] = iamError(broker.KindDenied, "AccessDenied")
			w.refused(RotateOptions{}, "AccessDenied")
			w.works("after the refusal")
			if want == "" {
				w.untouched()
			}
			delete(w.iam.deny, call)
			if r := w.must(RotateOptions{}); want != "" && r.Steps[0] != want {
				t.Errorf("%s: goes on with %v", call, r.Steps)
			}
			w.rotated()
		})
	}
}

func TestRotateSignedByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRotation(t)
		admin := w.iam.make("admin")
		sign := &broker.Material{AccessKeyID: admin.id, SecretAccessKey: broker.NewSecret(admin.secret)}
		admin.created = admin.created.Add(-time.Hour)
		w.iam.delay = 5 * time.Second
		w.must(RotateOptions{Sign: sign})
		w.iam.delay = 0
		w.works("at the end")
		if keys := w.iam.of(fakeUser); len(keys) != 1 || keys[0].id != w.record().Current.KeyID || w.iam.made != 3 {
			t.Errorf("%d keys", len(keys))
		}
		for i, call := range w.iam.calls {
			if call != "WhoAmI" && w.iam.by[i] != admin.id {
				t.Errorf("%s is signed by %s", call, w.iam.by[i])
			}
		}
		w.iam.moved = admin.id
		w.refused(RotateOptions{Sign: sign}, "belongs to account 210987654321", "to account 123456789012")
		w.iam.moved = ""
		// Credentials that IAM does not take are no reason to wait: of a session without
		// MFA, STS says whose it is.
		began := time.Now()
		w.iam.deny["ListKeys"] = iamError(broker.KindDenied, "InvalidClientTokenId")
		w.refused(RotateOptions{Sign: sign}, "InvalidClientTokenId")
		sign.AccessKeyID = "AKIAUNKNOWN000000000"
		w.refused(RotateOptions{Sign: sign}, "InvalidClientTokenId")
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

// A key that no longer works, or is no user's, is not rotated.
func TestRotateWrongKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRotation(t)
		w.iam.keys[0].active = false
		w.refused(RotateOptions{}, "InvalidClientTokenId")
		w.iam.keys[0].active, w.iam.keys[0].user = true, ""
		w.refused(RotateOptions{}, "no key of an IAM user")
		w.iam.keys[0].user = fakeUser
		if err := w.kept().Update(t.Context(), "work", func(r *Record) error { r.User, r.Account = "me", fakeAccount; return nil }); err != nil {
			t.Fatal(err)
		}
		w.refused(RotateOptions{}, "belongs to dev", "was added as a key of me")
		w.refused(RotateOptions{Grace: -1}, "negative")
		if err := w.kept().Update(t.Context(), "work", func(r *Record) error { r.User = fakeUser; return nil }); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		w.iam.deny["ListKeys"] = iamError(broker.KindDenied, "InvalidClientTokenId")
		w.refused(RotateOptions{}, "InvalidClientTokenId")
		if took := time.Since(began); took != 0 { // only what is new may be unknown for a while
			t.Errorf("it took %v", took)
		}
		if _, err := w.kept().Rotate(t.Context(), "nothing", w.iam, RotateOptions{}); err == nil || !strings.Contains(err.Error(), "there is no key nothing") {
			t.Errorf("%v", err)
		}
		if w.iam.made != 1 {
			t.Errorf("%d keys were made", w.iam.made)
		}
	})
}

// Custody that is locked in the middle leaves what a crash would.
func TestRotateLocked(t *testing.T) {
	for _, step := range wholeRotation {
		synctest.Test(t, func(t *testing.T) {
			w := newRotation(t)
			kind := w.refused(RotateOptions{Step: func(s string) {
				if s == step {
					w.chest.err = broker.Locked()
				}
			}}, "custody is locked; run stsbroker unlock")
			if kind != broker.KindLocked {
				t.Errorf("%s: %v", step, kind)
			}
			w.chest.err = nil
			w.works(step)
			w.must(RotateOptions{})
			w.rotated()
		})
	}
}

// Two at a time would take each other's keys for leftovers.
func TestRotateOnceAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRotation(t)
		refused := false
		w.must(RotateOptions{Step: func(s string) {
			if s == StepVerify {
				w.refused(RotateOptions{}, "a rotation of a key is under way")
				for _, err := range []error{w.kept().Forget(t.Context(), "work"), w.kept().Add(t.Context(), "work", "sealed", pairOf(idA, secretA), AddOptions{Replace: true})} {
					wantFault(t, err, broker.KindUnavailable, "a rotation of a key is under way")
				}
				refused = true
			}
		}})
		if !refused {
			t.Error("nothing was tried")
		}
		w.rotated()
	})
}

// Whoever gives up in the middle can go on later.
func TestRotateGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRotation(t)
		w.iam.delay = 30 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if r, err := w.kept().Rotate(ctx, "work", w.iam, RotateOptions{}); err == nil || !slices.Equal(r.Steps, wholeRotation[:3]) {
			t.Fatalf("%v %v", r.Steps, err)
		}
		w.works("after it")
		if r := w.must(RotateOptions{}); !slices.Equal(r.Steps, wholeRotation[3:]) {
			t.Errorf("%v", r.Steps)
		}
		w.rotated()
	})
}

// A key that was put in the place of the one that was looked at is not taken for it.
func TestRotateOfAReplacedKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newRotation(t)
		w.refused(RotateOptions{Step: func(s string) {
			if err := w.kept().Update(t.Context(), "work", func(r *Record) error { r.Current = pairOf(idA, secretA); return nil }); s == StepMark && err != nil {
				t.Error(err)
			}
		}}, "changed by somebody else")
		if r := w.record(); !r.Creating.IsZero() || r.User != "" || w.iam.made != 1 {
			t.Errorf("it is taken for one of %s, and %d keys were made", r.User, w.iam.made)
		}
	})
}

// What was not verified is not switched to, whoever put it there.
func TestRotateOfAChangedRecord(t *testing.T) {
	for _, step := range []string{StepSeal, StepSwitch} {
		synctest.Test(t, func(t *testing.T) {
			w := newRotation(t)
			w.refused(RotateOptions{Step: func(s string) {
				if s != step {
					return
				}
				err := w.kept().Update(context.Background(), "work", func(r *Record) error {
					r.Next = &Pair{KeyID: "AKIASOMEBODYELSES000", Secret: broker.NewSecret("canary-else")}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}}, "changed by somebody else")
			if r := w.record(); r.Current.KeyID != w.first.KeyID || r.Next == nil || r.Next.KeyID != "AKIASOMEBODYELSES000" {
				t.Errorf("%s: %s is in custody, and next %v", step, r.Current.KeyID, r.Next)
			}
			w.works(step)
		})
	}
}

func TestWord(t *testing.T) {
	for in, want := range map[string]string{
		"dev": "dev", "me+x=y,z.@-_": "me+x=y,z.@-_", "": "''", "-x": "'-x'", "a b": "'a b'", "$(x)": "'$(x)'", "a'b": `'a'\''b'`,
	} {
		if got := word(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
