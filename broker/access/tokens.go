package access

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stsbroker/stsbroker/broker"
)

// Bounds. One user of a shared broker cannot use up the room of the others.
const (
	maxTokens  = 10_000
	maxPerUser = 2_000 // of env and exec tokens

	secretLength = 32
	saveEvery    = 5 * time.Minute
)

// Tokens is the set of all tokens. It is safe for concurrent use, and only one
// process at a time may have a state folder open.
//
// It is locked as long as the secret that tokens derive from is sealed in a vault that
// nobody has opened. Then no token is recognised, made or listed, and the error is
// [broker.Locked]; callers that are known without a token are let in as ever. See
// [Tokens.Unlock].
type Tokens struct {
	state *state // nil: nothing is written
	owner int    // uid that may use the control door, besides root; -1 for nobody

	// Requests read live without a lock. Changes are made by one writer at a
	// time, who holds mu, its disk write included, and publishes a new map.
	// Before the first one is published, there is no secret: it is locked.
	live   atomic.Pointer[map[string]*token]
	secret broker.Secret // written once, before live
	mu     sync.Mutex
	why    error                        // it is locked
	said   atomic.Pointer[broker.Error] // likewise, in the words for who asks

	used atomic.Bool // a "last used" time is not on disk yet

	rules atomic.Pointer[rules] // read by requests, without a lock; nil for none
}

// token is immutable but for the time of its last use. A copy that takes its
// place shares that.
type token struct {
	kind     Kind
	grant    broker.Grant
	uid      uint32
	created  time.Time
	hash     [sha256.Size]byte
	ended    chan struct{} // of exec's: closed when it is revoked
	inFile   bool          // of env's: it is in a file too, and serve writes that again
	replaced bool          // of a file's: it is not the one in the file now
	use      *usage        // one for all of a file's
	asking   *broker.Grant // the grant while a rule wants to know whose hands it is in; nil where none can
}

// usage is when a token was used, in Unix seconds on the wall clock; 0 for never.
type usage struct {
	last  atomic.Int64
	until atomic.Int64 // of env's: the end of the last set that was fetched with it
}

// Memory returns a set of tokens that leaves no trace: its secret dies with it.
func Memory() *Tokens {
	secret := make([]byte, secretLength)
	rand.Read(secret)
	t := newTokens(nil)
	t.secret = broker.NewSecret(string(secret))
	t.publish(map[string]*token{})
	return t
}

// newTokens must not be called before the process has its final uid.
func newTokens(s *state) *Tokens { return &Tokens{state: s, owner: os.Getuid()} }

func (t *Tokens) publish(m map[string]*token) { t.live.Store(&m) }

// all is empty while they are locked.
func (t *Tokens) all() map[string]*token {
	if m := t.live.Load(); m != nil {
		return *m
	}
	return nil
}

// Locked says why no token is recognised, nil if they are: [broker.Locked], or an error
// of the vault that names a file and what to do.
func (t *Tokens) Locked() error {
	if t.live.Load() != nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.why
}

// whileLocked is what is answered while they are locked, nil once they are not.
func (t *Tokens) whileLocked() error {
	if t.live.Load() != nil {
		return nil
	}
	return t.answer()
}

func (t *Tokens) answer() *broker.Error {
	if said := t.said.Load(); said != nil {
		return said
	}
	return broker.Locked()
}

// lockedBy is what is answered because of why: more than to unlock, where that alone
// would not mend it.
func lockedBy(why error) *broker.Error {
	e, ok := errors.AsType[*broker.Error](why)
	if !ok || e.Kind == broker.KindLocked {
		return broker.Locked()
	}
	return &broker.Error{Kind: broker.KindLocked, Own: true, Public: "no token is known: " + e.Public}
}

// Create makes a named token for the profiles, the first of which is the
// default. With a uid, it is good only in the hands of that user. It lives
// until it is revoked.
func (t *Tokens) Create(name string, profiles []string, uid *uint32) (Issued, error) {
	if err := errors.Join(checkName("token", name), checkProfiles(profiles)); err != nil {
		return Issued{}, refuse("%v", err)
	}
	if isID(name) {
		return Issued{}, refuse("token name %q looks like a token's id; choose another", name)
	}
	k := &token{kind: KindNamed, grant: broker.Grant{Name: name, Profiles: slices.Clone(profiles)}, use: new(usage)}
	if uid != nil {
		k.uid, k.grant.UID, k.grant.BoundUID = *uid, *uid, true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.whileLocked(); err != nil {
		return Issued{}, err
	}
	for _, other := range t.all() {
		switch {
		case other.grant.Name != name:
		case other.kind == KindFile:
			return Issued{}, refuse("%q is the name of a token file in the configuration; choose another name", name)
		default:
			return Issued{}, refuse("there is a token %q already; choose another name, or revoke it first: stsbroker token revoke %s", name, other.grant.ID)
		}
	}
	return t.add(k)
}

// ForEnv returns the token that the user's shells use for the profile: the same
// one at every call, until it was idle for [EnvIdle] or is revoked. With bind,
// it is good only in the hands of that user; that is a token of its own.
func (t *Tokens) ForEnv(uid uint32, bind bool, profile string) (Issued, error) {
	if err := checkName("profile", profile); err != nil {
		return Issued{}, refuse("%v", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.whileLocked(); err != nil {
		return Issued{}, err
	}
	for _, k := range t.all() {
		if k.kind == KindEnv && k.uid == uid && k.grant.BoundUID == bind && k.grant.Profiles[0] == profile && !k.expired() {
			t.touch(k)
			return t.issued(k), nil
		}
	}
	return t.add(newToken(KindEnv, uid, bind, profile))
}

// ForChild makes a token for one child process. Revoke it when the child has
// ended; it may be called more than once. Such a token is never written to
// disk, and so ends with this process. The child need not: who shows the token
// that it has from an earlier process, as resume, gets that same one again.
func (t *Tokens) ForChild(uid uint32, bind bool, profile, resume string) (i Issued, revoke func(), err error) {
	if err := checkName("profile", profile); err != nil {
		return Issued{}, nil, refuse("%v", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.whileLocked(); err != nil {
		return Issued{}, nil, err
	}
	k := newToken(KindExec, uid, bind, profile)
	if resume != "" {
		id, ok := idOf(resume)
		k.grant.ID = id
		if !ok || subtle.ConstantTimeCompare([]byte(derive(t.secret, k)), []byte(resume)) != 1 || t.all()[id] != nil {
			return Issued{}, nil, refuse("the token to go on with is not one of this broker's for that profile, or it is in use")
		}
	}
	k.ended = make(chan struct{})
	i, err = t.add(k)
	if err != nil {
		return Issued{}, nil, err
	}
	i.Revoked = k.ended
	return i, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if _, ok := t.all()[i.ID]; ok {
			m := maps.Clone(t.all())
			delete(m, i.ID)
			t.publish(m)
		}
	}, nil
}

func newToken(kind Kind, uid uint32, bind bool, profile string) *token {
	k := &token{kind: kind, uid: uid, grant: broker.Grant{Profiles: []string{profile}, Exec: kind == KindExec}, use: new(usage)}
	if bind {
		k.grant.UID, k.grant.BoundUID = uid, true
	}
	return k
}

// add gives k an id and makes it known, on disk first. The caller holds mu.
func (t *Tokens) add(k *token) (Issued, error) {
	now := time.Now()
	m := maps.Clone(t.all())
	maps.DeleteFunc(m, func(_ string, k *token) bool { return k.expired() })
	if len(m) >= maxTokens {
		return Issued{}, refuse("there are %d tokens, which is the most there may be; see: stsbroker token list", len(m))
	}
	if k.kind != KindNamed {
		n := 0
		for _, other := range m {
			if (other.kind == KindEnv || other.kind == KindExec) && other.uid == k.uid {
				n++
			}
		}
		if n >= maxPerUser {
			return Issued{}, refuse("uid %d has %d tokens of env and exec, which is the most there may be; end some children, or see: stsbroker token list", k.uid, n)
		}
	}
	for k.grant.ID == "" || m[k.grant.ID] != nil {
		k.grant.ID = newID()
	}
	k.created = now.UTC().Truncate(time.Second)
	k.seal(t.secret)
	m[k.grant.ID] = k
	if k.kind.onDisk() {
		if err := t.save(m); err != nil {
			return Issued{}, refuse("no token was made: %v", err)
		}
	}
	t.publish(m)
	return t.issued(k), nil
}

func (t *Tokens) issued(k *token) Issued {
	return Issued{Info: k.info(), Token: broker.NewSecret(derive(t.secret, k))}
}

// Revoke ends the token with the name or id, from the next request on. An
// error tells that there is none, that it is one of [KindFile], which only the
// configuration can end, or that the list could not be written, so that the
// token would be back after a restart.
func (t *Tokens) Revoke(nameOrID string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, err := t.find(nameOrID)
	if err != nil {
		return err
	}
	if k.kind == KindFile {
		return refuse("the token of the file %q comes from the configuration; take the file out there and start the broker again", k.grant.Name)
	}
	m := maps.Clone(t.all())
	delete(m, k.grant.ID)
	t.publish(m)
	if k.kind == KindExec {
		close(k.ended)
		return nil
	}
	if err := t.save(m); err != nil {
		return refuse("the token is revoked, but will be back after a restart: %v", err)
	}
	return nil
}

// Value returns the token with the name or id, to be printed again.
func (t *Tokens) Value(nameOrID string) (broker.Secret, error) {
	k, err := t.find(nameOrID)
	if err != nil {
		return broker.Secret{}, err
	}
	return t.issued(k).Token, nil
}

func (t *Tokens) find(nameOrID string) (*token, error) {
	if err := t.whileLocked(); err != nil {
		return nil, err
	}
	m := t.all()
	k := m[nameOrID]
	for _, other := range m {
		if nameOrID != "" && other.grant.Name == nameOrID && !other.replaced {
			k = other
		}
	}
	if k == nil || k.expired() {
		return nil, refuse("there is no token with the name or id %q; see: stsbroker token list", clip(nameOrID))
	}
	return k, nil
}

// List returns the tokens that are good now: named ones by name, then those of
// env and exec by age, then those of files by name. A file has one line, for the
// token in it now; its last use may have been of the one before.
func (t *Tokens) List() []Info {
	var out []Info
	for _, k := range t.all() {
		if !k.expired() && !k.replaced {
			out = append(out, k.info())
		}
	}
	// sort.Slice here and below: slices.SortFunc is compiled anew for each struct,
	// at 20 KB of every daemon's memory.
	sort.Slice(out, func(i, j int) bool {
		a, b := out[i], out[j]
		if named := a.Kind == KindNamed; named != (b.Kind == KindNamed) {
			return named
		}
		return cmp.Or(strings.Compare(a.Name, b.Name), byAge(a, b)) < 0
	})
	return out
}

func byAge(a, b Info) int {
	return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
}

// Run forgets expired tokens and writes down when tokens were last used, every
// five minutes, until ctx ends. A crash in between loses no more than that.
// [Tokens.Close] does the last write.
func (t *Tokens) Run(ctx context.Context) error {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			// A failure shows at the next change, and in Close; the times are a nicety.
			_ = t.tidy(now)
		}
	}
}

func (t *Tokens) tidy(now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.whileLocked() != nil {
		return nil
	}
	m := maps.Clone(t.all())
	maps.DeleteFunc(m, func(_ string, k *token) bool {
		if k.kind != KindFile && k.usedAt() > now.Unix() { // the clock was ahead then: count from now
			t.touch(k)
		}
		if most := now.Add(longestSet).Unix(); k.use.until.Load() > most {
			k.use.until.Store(most)
			t.used.Store(true)
		}
		return k.expired()
	})
	if len(m) == len(t.all()) && !t.used.Load() {
		return nil
	}
	t.publish(m)
	return t.save(m)
}

// Close writes down when tokens were last used and lets go of the state folder.
// Afterwards tokens are still recognised, but no change is kept.
func (t *Tokens) Close() error {
	err := t.tidy(time.Now())
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != nil {
		t.state.release()
		t.state = nil
	}
	return err
}

// save writes the tokens of m that rest on disk. The caller holds mu.
func (t *Tokens) save(m map[string]*token) error {
	if t.state == nil {
		return nil
	}
	t.used.Store(false) // before the times are read, so that none is missed
	err := t.state.save(t.secret, m)
	if err != nil {
		t.used.Store(true)
	}
	return err
}

// touch notes a use. It may be called from any number of requests at once.
func (t *Tokens) touch(k *token) {
	if s := time.Now().Unix(); k.use.last.Load() != s {
		k.use.last.Store(s)
		if k.kind.onDisk() {
			t.used.Store(true)
		}
	}
}

// longestSet is more than STS gives to any session (36 h, GetSessionToken).
const longestSet = 37 * time.Hour

// Observe implements [broker.Observer]: a client that was given a set asks again only
// shortly before that ends, and its token is not idle until then. It allocates
// nothing, and takes no lock.
func (t *Tokens) Observe(e broker.Event) {
	if e.Kind != broker.EventServed || e.Caller.Token == "" {
		return
	}
	k := t.all()[e.Caller.Token]
	if k == nil || k.kind != KindEnv {
		return
	}
	if until := time.Now().Add(min(e.Left, longestSet)).Unix(); k.use.until.Load() < until {
		k.use.until.Store(until)
		t.used.Store(true)
	}
}

// expired compares wall clocks, which go on while a laptop sleeps.
func (k *token) expired() bool {
	return k.kind == KindEnv && time.Now().Unix()-k.idleSince() > int64(EnvIdle/time.Second)
}

func (k *token) idleSince() int64 { return max(k.usedAt(), k.use.until.Load()) }

func (k *token) usedAt() int64 {
	if used := k.use.last.Load(); used != 0 {
		return used
	}
	return k.created.Unix()
}

func (k *token) info() Info {
	i := Info{
		ID: k.grant.ID, Name: k.grant.Name, Kind: k.kind, Profiles: slices.Clone(k.grant.Profiles),
		UID: k.uid, Bound: k.grant.BoundUID, Created: k.created,
	}
	if s := k.use.last.Load(); s != 0 {
		i.LastUsed = time.Unix(s, 0).UTC()
	}
	if k.kind == KindEnv {
		i.Expires = time.Unix(k.idleSince(), 0).Add(EnvIdle).UTC()
	}
	return i
}

func refuse(format string, args ...any) error {
	return &broker.Error{Kind: broker.KindConfig, Public: fmt.Sprintf(format, args...)}
}

func checkProfiles(profiles []string) error {
	if len(profiles) == 0 {
		return errors.New("a token needs a profile; add: --profile NAME")
	}
	for i, p := range profiles {
		if err := checkName("profile", p); err != nil {
			return err
		}
		if slices.Contains(profiles[:i], p) {
			return fmt.Errorf("profile %q is named twice", p)
		}
	}
	return nil
}

// checkName refuses what could forge a line of a list or a log.
func checkName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the %s name is empty", what)
	case len(name) > broker.MaxName:
		return fmt.Errorf("the %s name %q… is longer than %d bytes", what, clip(name), broker.MaxName)
	case !utf8.ValidString(name), strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("the %s name %q has characters that cannot be printed", what, clip(name))
	case strings.TrimSpace(name) != name:
		return fmt.Errorf("the %s name %q begins or ends with a space", what, name)
	}
	return nil
}

func clip(s string) string { return s[:min(len(s), broker.MaxName)] }
