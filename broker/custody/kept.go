package custody

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

const (
	indexFile    = "keys.index"
	keptLockFile = "keys.index.lock"

	indexVersion = 1
	indexLimit   = 4 << 20 // bytes; a thousand keys with the longest names fit

	lockPatience = 10 * time.Second // for another process that changes keys
)

// KeptFiles are the paths of what [Kept] has in the state folder dir beside its chests.
func KeptFiles(dir string) []string {
	return []string{filepath.Join(dir, indexFile), filepath.Join(dir, keptLockFile), filepath.Join(dir, rotationLockFile)}
}

// Kept is the keys that stsbroker itself keeps, each in one of several chests. A list
// of them without secrets, the index, can be read while the chests are locked.
//
// It is safe for concurrent use, and several processes may use one state folder at a
// time: changes come one after the other, and what one process changed the others see
// at their next call. Nothing is held in memory between calls.
//
// The chests hold the truth. The index is written after them; where a crash came in
// between, or it was lost, the next change or [Kept.Refresh] mends it.
type Kept struct {
	dir    string
	chests map[string]Chest
}

// Info is what may be known of a key while its chest is locked: no secret.
type Info struct {
	Name    string    `json:"name"`
	Custody string    `json:"custody"` // of which chest: "sealed", "keyring"
	KeyID   string    `json:"key_id"`  // of the pair that signs
	Lineage string    `json:"lineage"` // see [Record]
	Profile string    `json:"profile,omitempty"`
	Account string    `json:"account,omitempty"`
	User    string    `json:"user,omitempty"`
	Created time.Time `json:"created,omitzero"` // the pair, by IAM's clock; zero unknown
	Added   time.Time `json:"added,omitzero"`

	Creating    time.Time `json:"creating,omitzero"`      // see [Record]
	Next        string    `json:"next,omitempty"`         // id of the next key; "" for none
	Old         string    `json:"old,omitempty"`          // id of the old key; "" for none
	OldInactive bool      `json:"old_inactive,omitempty"` // Old is no longer accepted
	DeleteAfter time.Time `json:"delete_after,omitzero"`  // when Old may be deleted
}

// Rotation says in words how far the key's rotation is, "" for none under way.
func (i Info) Rotation() string {
	var parts []string
	if !i.Creating.IsZero() && i.Next == "" {
		parts = append(parts, "a new key was asked for")
	}
	if i.Next != "" {
		parts = append(parts, "new key "+i.Next+" is not in use yet")
	}
	if i.Old != "" {
		state := "is still active"
		if i.OldInactive {
			state = "is inactive"
		}
		if !i.DeleteAfter.IsZero() {
			state += " and goes after " + i.DeleteAfter.UTC().Format(time.RFC3339)
		}
		parts = append(parts, "old key "+i.Old+" "+state)
	}
	return strings.Join(parts, "; ")
}

// Leaves says in words what IAM has of the key's rotation beside the key itself, and how
// to delete it; "" for nothing. When the key is removed from custody, nobody else will.
func (i Info) Leaves() string {
	var parts []string
	for _, id := range []string{i.Next, i.Old} {
		if id != "" {
			parts = append(parts, fmt.Sprintf("IAM still has the key %s of a rotation: if nobody needs it, run aws iam delete-access-key --user-name %s --access-key-id %[1]s", word(id), word(i.User)))
		}
	}
	if !i.Creating.IsZero() && i.Next == "" {
		parts = append(parts, fmt.Sprintf("IAM may have a key of a rotation that was cut off: look with aws iam list-access-keys --user-name %s", word(i.User)))
	}
	return strings.Join(parts, "; ")
}

func (r Record) info(name, custody string) Info {
	i := Info{
		Name: name, Custody: custody, KeyID: r.Current.KeyID, Lineage: r.Lineage, Profile: r.Profile, Account: r.Account, User: r.User,
		Created: utc(r.Current.Created), Added: utc(r.Added), Creating: utc(r.Creating),
	}
	if r.Next != nil {
		i.Next = r.Next.KeyID
	}
	if r.Old != nil {
		i.Old, i.OldInactive, i.DeleteAfter = r.Old.KeyID, r.Old.Inactive, utc(r.Old.DeleteAfter)
	}
	return i
}

// AddOptions say more of a key that is added.
type AddOptions struct {
	Replace bool   // a key of that name may be there, and goes
	Account string // from GetCallerIdentity; "" unknown
	User    string // likewise
	Profile string // the AWS profile that the key stands in for, by any name that prints, up to 128 bytes; "" for none
}

// OpenKept returns the keys of the state folder dir, which need not exist yet: it is
// made at the first change. The chests are by kind of custody: "sealed", "keyring".
//
// The Kept is never nil. warning says what is wrong with the index and what mends it;
// the keys can be used all the same.
func OpenKept(dir string, chests map[string]Chest) (k *Kept, warning error) {
	k = &Kept{dir: dir, chests: maps.Clone(chests)}
	return k, k.Refresh(context.Background())
}

// Refresh mends the index where the chests can be read and say something else. It is
// for after an unlock, and waits for nobody: while another process changes keys, that
// one writes the index. A chest that cannot tell what it holds is not asked. The error
// is the warning of [OpenKept].
func (k *Kept) Refresh(context.Context) error {
	if _, same, err := k.look(); err != nil || same {
		return err
	}
	release, err := k.tryLock()
	if release == nil {
		return err
	}
	defer release()
	truth, same, err := k.look()
	if err != nil || same {
		return err
	}
	return k.writeIndex(truth)
}

// look returns what the index should say, and whether it does.
func (k *Kept) look() (truth map[string]Info, same bool, err error) {
	index, broken := k.index()
	truth, unsure := k.merge(index)
	switch {
	case broken == nil:
		return truth, maps.Equal(truth, index), nil
	case unsure != nil:
		return nil, false, fmt.Errorf("%w; it is made anew when custody can be read (%w)", broken, unsure)
	case errors.Is(broken, fs.ErrNotExist) && len(truth) == 0: // there was never a key
		return truth, true, nil
	}
	return truth, false, nil
}

// List returns all keys, by name. Where the index cannot be read, it is those that
// the chests tell.
func (k *Kept) List() []Info {
	m := k.known()
	list := make([]Info, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		list = append(list, m[name])
	}
	return list
}

// Names returns the names of all keys, sorted.
func (k *Kept) Names() []string { return slices.Sorted(maps.Keys(k.known())) }

// Info returns what is known of a key.
func (k *Kept) Info(name string) (Info, bool) {
	i, ok := k.known()[name]
	return i, ok
}

// ForProfile returns the key that stands in for an AWS profile.
func (k *Kept) ForProfile(profile string) (Info, bool) {
	return standsIn(k.known(), profile)
}

func standsIn(m map[string]Info, profile string) (Info, bool) {
	for _, i := range m {
		if i.Profile == profile && profile != "" {
			return i, true
		}
	}
	return Info{}, false
}

// Problems returns, by name, why keys of [Kept.List] cannot be read at this moment, as
// [Kept.Source] would say it. Each chest is opened once, and one that does not answer
// is waited for once, however many keys it has.
func (k *Kept) Problems(ctx context.Context) map[string]error {
	problems := map[string]error{}
	get := map[string]func(name string) ([]byte, error){}
	for custody, chest := range k.chests {
		get[custody] = asker(ctx, chest)
	}
	for _, i := range k.List() {
		ask := get[i.Custody]
		if ask == nil {
			problems[i.Name] = notHere(i.Name, i.Custody)
			continue
		}
		raw, err := ask(i.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			problems[i.Name] = noKey(i.Name)
		case err != nil:
			problems[i.Name] = inChest(i.Name, i.Custody, err)
		default:
			if _, err := decodeIn(i.Name, i.Custody, raw); err != nil {
				problems[i.Name] = err
			}
		}
	}
	return problems
}

// asker is the Get of a chest that is asked for many keys at one moment.
func asker(ctx context.Context, chest Chest) func(name string) ([]byte, error) {
	if lists, ok := chest.(lister); ok {
		all := sync.OnceValues(lists.all)
		return func(name string) ([]byte, error) {
			records, err := all()
			if raw, ok := records[name]; ok || err != nil {
				return raw, err
			}
			return nil, fs.ErrNotExist
		}
	}
	var hangs error
	return func(name string) (raw []byte, err error) {
		if hangs != nil {
			return nil, hangs
		}
		raw, err = chest.Get(ctx, name)
		if e, ok := errors.AsType[*broker.Error](err); ok && e.Kind.Passes() {
			hangs = err
		}
		return raw, err
	}
}

// Source is the key of that name as it is at each call, for a [Set].
func (k *Kept) Source(name string) Source {
	return func(ctx context.Context) (broker.Material, error) {
		r, err := k.Get(ctx, name)
		return r.Current.Material(), err
	}
}

// Get returns the record of a key. Its errors are those of [Kept.Source].
func (k *Kept) Get(ctx context.Context, name string) (Record, error) {
	r, _, err := k.get(ctx, name)
	return r, err
}

func (k *Kept) get(ctx context.Context, name string) (Record, string, error) {
	r, custody, err := k.find(ctx, name)
	if err == nil && custody == "" {
		err = noKey(name)
	}
	return r, custody, err
}

func noKey(name string) error {
	return fault("there is no key %s in custody: run stsbroker keys add %[1]s", name)
}

// find returns a record and the custody that it is in, "" for none.
func (k *Kept) find(ctx context.Context, name string) (Record, string, error) {
	custody, raw, err := k.locate(ctx, name)
	if err != nil || custody == "" {
		return Record{}, "", err
	}
	r, err := decodeIn(name, custody, raw)
	if err != nil {
		return Record{}, "", err
	}
	return r, custody, nil
}

func decodeIn(name, custody string, raw []byte) (Record, error) {
	r, err := decodeRecord(raw)
	if err != nil {
		return Record{}, fault("the key %s, in custody %s, cannot be used: %v; restore it from a backup, or run stsbroker keys remove %[1]s and add it again", name, custody, err)
	}
	return r, nil
}

func notHere(name, custody string) error {
	return fault("the key %s is in custody %s, which is not to be had here", name, custody)
}

// Add puts a key in custody. A name that is taken is refused without o.Replace. With
// it the key that was there goes, from all chests. A rotation must not be under way,
// and an old key that one left at IAM must not be forgotten: only what replaces a key
// of the same user stays in its lineage, and so with its old key.
func (k *Kept) Add(ctx context.Context, name, custody string, p Pair, o AddOptions) error {
	chest := k.chests[custody]
	switch {
	case !ValidName(name):
		return fault("%q cannot be the name of a key: use up to 64 letters, digits and . _ @ + -, and begin with a letter or digit", clip(name))
	case chest == nil:
		return fault("keys cannot be kept in custody %q here: choose one of %s", clip(custody), strings.Join(slices.Sorted(maps.Keys(k.chests)), ", "))
	}
	r := Record{Current: p, Lineage: p.KeyID, Account: o.Account, User: o.User, Profile: o.Profile, Added: time.Now()}
	if err := p.check("what was given"); err != nil {
		return err
	}
	if err := r.check(); err != nil {
		return err
	}
	if o.Replace {
		release, err := k.lockRotation()
		if err != nil {
			return err
		}
		defer release()
	}
	release, err := k.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	was, before, err := k.find(ctx, name)
	switch {
	case err != nil:
		return err
	case before == "":
	case !o.Replace:
		return fault("there is a key %q already, %s in custody %s: choose another name, or add it with --replace, or run stsbroker keys remove %[1]s first", name, was.Current.KeyID, before)
	case was.Next != nil || !was.Creating.IsZero():
		return fault("a rotation of the key %s is under way, and what it made would be lost: run stsbroker keys rotate %[1]s to end it, then replace the key", name)
	case was.Account != "" && was.User != "" && was.Account == r.Account && was.User == r.User || was.Current.KeyID == p.KeyID:
		r.Lineage = was.Lineage
		if was.Old != nil && was.Old.KeyID != p.KeyID {
			r.Old = was.Old
		}
	case was.Old != nil && was.Old.KeyID != p.KeyID:
		return fault("IAM still has %s, the old key of a rotation of %s, and nobody says that the new key is of the same user: it would be forgotten; run stsbroker keys rotate %[2]s after %s, which deletes it, or stsbroker keys remove %[2]s, which says how to; then add the key", was.Old.KeyID, name, was.Old.DeleteAfter.UTC().Format(time.RFC3339))
	}
	if other, ok := standsIn(k.known(), o.Profile); ok && other.Name != name {
		return fault("the key %s stands in for the AWS profile %s already: run stsbroker keys remove %[1]s first", other.Name, o.Profile)
	}
	if err := k.put(ctx, name, custody, r); err != nil {
		return err
	}
	// Not before the index says where the key is now. What another chest has of it is
	// what a crash left; one that cannot be asked is asked when the key is removed.
	for _, other := range slices.Sorted(maps.Keys(k.chests)) {
		if other == custody {
			continue
		}
		if err := k.drop(ctx, name, other); err != nil && other == before {
			return fault("the key %s is kept in custody %s now, but is still in custody %s too: %v", name, custody, before, err)
		}
	}
	return nil
}

// Remove takes a key out of custody, out of every chest: a crash may have left it in
// two, and it must not come back. Where a chest cannot be asked, it stays. IAM knows
// nothing of it; [Info.Leaves] says what a rotation left there. While one is not at
// its end, the key stays too: see [Kept.Forget].
func (k *Kept) Remove(ctx context.Context, name string) error { return k.remove(ctx, name, false) }

// Forget is [Kept.Remove], of a key whose rotation cannot be brought to its end too. What
// that made at IAM is nobody's then: [Info.Leaves] says what it is.
func (k *Kept) Forget(ctx context.Context, name string) error { return k.remove(ctx, name, true) }

func (k *Kept) remove(ctx context.Context, name string, unfinished bool) error {
	rotates, err := k.lockRotation()
	if err != nil {
		return err
	}
	defer rotates()
	release, err := k.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	custody, raw, err := k.locate(ctx, name)
	if err != nil {
		return err
	}
	i, listed := k.known()[name]
	if custody == "" && !listed {
		return noKey(name)
	}
	if r, err := decodeRecord(raw); err == nil {
		i = r.info(name, custody)
	}
	if !unfinished && (i.Next != "" || !i.Creating.IsZero()) {
		return fault("a rotation of the key %s is not at its end (%s): run stsbroker keys rotate %[1]s, then remove it; if that cannot be done, stsbroker keys remove --force %[1]s", name, i.Rotation())
	}
	// Where it is listed comes last: what fails before can be tried again.
	for _, other := range slices.Sorted(maps.Keys(k.chests)) {
		if other == custody {
			continue
		}
		if err := k.drop(ctx, name, other); err != nil {
			return err
		}
	}
	if custody != "" {
		if err := k.chests[custody].Delete(ctx, name); err != nil {
			return inChest(name, custody, err)
		}
	}
	return k.reindex(name, Info{})
}

// drop deletes what a chest has of a key that belongs elsewhere.
func (k *Kept) drop(ctx context.Context, name, custody string) error {
	chest := k.chests[custody]
	_, err := chest.Get(ctx, name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err != nil && absent(chest, err):
		return nil
	case err == nil:
		err = chest.Delete(ctx, name)
	}
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*broker.Error](inChest(name, custody, err))
	if !ok {
		return err
	}
	said := *e
	said.Public = fmt.Sprintf("the key %s may be in custody %s too, and must not come back from there: %s", name, custody, e.Public)
	return &said
}

// Update changes the record of a key by f, then the index. While f runs nobody else
// changes a key, so it should not wait for anything. An error of f changes nothing
// and is returned as it is. Other errors than that the index could not be written
// leave the old record or, where a disk fails, the new one.
func (k *Kept) Update(ctx context.Context, name string, f func(*Record) error) error {
	release, err := k.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	r, custody, err := k.get(ctx, name)
	if err != nil {
		return err
	}
	if err := f(&r); err != nil {
		return err
	}
	return k.put(ctx, name, custody, r)
}

func (k *Kept) put(ctx context.Context, name, custody string, r Record) error {
	raw, err := r.encode()
	if err != nil {
		return err
	}
	if err := k.chests[custody].Put(ctx, name, raw); err != nil {
		return inChest(name, custody, err)
	}
	return k.reindex(name, r.info(name, custody))
}

// locate returns the custody that a key is in, "" for none, and its record. The index
// says which; a key that it does not know is looked for, since the index may be lost.
func (k *Kept) locate(ctx context.Context, name string) (custody string, raw []byte, err error) {
	if !ValidName(name) {
		return "", nil, fault("%q cannot be the name of a key", clip(name))
	}
	index, broken := k.index()
	listed, ok := index[name]
	if ok {
		chest := k.chests[listed.Custody]
		if chest == nil {
			return "", nil, notHere(name, listed.Custody)
		}
		raw, err := chest.Get(ctx, name)
		if err == nil {
			return listed.Custody, raw, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", nil, inChest(name, listed.Custody, err)
		}
	}
	var unsure error
	for _, custody := range slices.Sorted(maps.Keys(k.chests)) {
		raw, err := k.chests[custody].Get(ctx, name)
		if err == nil {
			return custody, raw, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && unsure == nil && !absent(k.chests[custody], err) {
			unsure = inChest(name, custody, err)
		}
	}
	if broken != nil && unsure != nil { // nobody can say that there is none
		return "", nil, unsure
	}
	return "", nil, nil
}

// absent reports whether there is no such chest on this machine, as there is no keyring
// on a server. A key that it once held is one that the index names.
func absent(c Chest, err error) bool {
	e, ok := errors.AsType[*broker.Error](err)
	_, lists := c.(lister)
	return ok && !lists && e.Kind == broker.KindConfig
}

// inChest is an error of a chest, fit for people.
func inChest(name, custody string, err error) error {
	if e, ok := errors.AsType[*broker.Error](err); ok {
		return e
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) { // says nothing of the chest
		return err
	}
	return fault("the key %s cannot be had from custody %s: %v", name, custody, err)
}

// known is what the index says, or else the chests.
func (k *Kept) known() map[string]Info {
	index, broken := k.index()
	if broken == nil {
		return index
	}
	truth, _ := k.merge(index)
	return truth
}

// merge returns the index as the chests that tell what they hold make it. Of those
// that do not, or cannot be read, it keeps what it was given. unsure says why one could
// not be read.
func (k *Kept) merge(index map[string]Info) (truth map[string]Info, unsure error) {
	truth = map[string]Info{}
	maps.Copy(truth, index)
	for custody, chest := range k.chests {
		lists, ok := chest.(lister)
		if !ok {
			continue
		}
		records, err := lists.all()
		if err != nil {
			unsure = err
			continue
		}
		maps.DeleteFunc(truth, func(name string, i Info) bool { return i.Custody == custody && records[name] == nil })
		for name, raw := range records {
			if i, listed := truth[name]; listed && i.Custody != custody || !ValidName(name) {
				continue // a crash left it when the key went into another chest
			}
			if r, err := decodeRecord(raw); err == nil {
				truth[name] = r.info(name, custody)
			}
		}
	}
	return truth, unsure
}

// reindex writes the index after a change of the key that name says; the zero Info is
// that it went.
func (k *Kept) reindex(name string, i Info) error {
	index, _ := k.index()
	if index == nil {
		index = map[string]Info{}
	}
	delete(index, name)
	if i.Name != "" {
		index[name] = i
	}
	truth, _ := k.merge(index)
	if err := k.writeIndex(truth); err != nil {
		return fault("the key %s was changed, but the list of keys was not: %v; the next change mends it", name, err)
	}
	return nil
}

type indexJSON struct {
	Version int    `json:"version"`
	Keys    []Info `json:"keys"`
}

// index reads the index. The error says what is wrong with it; it is
// [fs.ErrNotExist] where there is none.
func (k *Kept) index() (map[string]Info, error) {
	path := filepath.Join(k.dir, indexFile)
	raw, err := securefile.Read(path, indexLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the list of keys, %s, is missing: %w", path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("the list of keys is not read: %w", err)
	}
	var j indexJSON
	if err := strict(raw, &j); err != nil || j.Version != indexVersion {
		return nil, fmt.Errorf("the list of keys, %s, is damaged", path)
	}
	m := make(map[string]Info, len(j.Keys))
	for _, i := range j.Keys {
		if _, twice := m[i.Name]; twice || !i.valid() {
			return nil, fmt.Errorf("the list of keys, %s, is damaged", path)
		}
		m[i.Name] = i
	}
	return m, nil
}

// valid reports whether all of it may be printed.
func (i Info) valid() bool {
	id := func(s string) bool { return len(s) <= 128 && printable(s) }
	return ValidName(i.Name) && ValidName(i.Custody) && i.KeyID != "" && id(i.KeyID) && id(i.Lineage) && id(i.Account) && id(i.User) && id(i.Next) && id(i.Old) &&
		(i.Profile == "" || validProfile(i.Profile))
}

func (k *Kept) writeIndex(m map[string]Info) error {
	j := indexJSON{Version: indexVersion, Keys: []Info{}}
	for _, name := range slices.Sorted(maps.Keys(m)) {
		j.Keys = append(j.Keys, m[name])
	}
	raw, err := json.MarshalIndent(j, "", "\t")
	if err != nil {
		return err
	}
	return securefile.Write(filepath.Join(k.dir, indexFile), append(raw, '\n'))
}

// lock waits until nobody else changes a key. A goroutine of this process waits like
// another process: the lock is the open file's.
func (k *Kept) lock(ctx context.Context) (release func(), err error) {
	path, err := k.lockFile()
	if err != nil {
		return nil, err
	}
	late, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	release, err = securefile.OwnWithin(late, path)
	busy, isBusy := errors.AsType[securefile.Busy](err)
	switch {
	case ctx.Err() != nil && err != nil:
		return nil, context.Cause(ctx)
	case isBusy:
		return nil, &broker.Error{Kind: broker.KindUnavailable, Own: true, Public: fmt.Sprintf("%s has been changing the keys in %s for %v: wait for it, or end it", busy.Holder, k.dir, lockPatience)}
	case err != nil:
		return nil, fault("state folder: %v", err)
	}
	return release, nil
}

// tryLock returns nil where somebody else has the lock.
func (k *Kept) tryLock() (release func(), err error) {
	path, err := k.lockFile()
	if err != nil {
		return nil, err
	}
	release, err = securefile.Own(path)
	if _, busy := errors.AsType[securefile.Busy](err); busy {
		return nil, nil
	}
	if err != nil {
		return nil, fault("state folder: %v", err)
	}
	return release, nil
}

func (k *Kept) lockFile() (string, error) {
	if err := securefile.MakeFolder(k.dir); err != nil {
		return "", fault("state folder: %v", err)
	}
	return filepath.Join(k.dir, keptLockFile), nil
}

// clip shortens what is not known to be short.
func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
