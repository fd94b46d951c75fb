package access

import (
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// FileLife is how long a token of [KindFile] stays in its file. Periods of it
// are counted from 1970, by the wall clock, so that a restart falls into the
// same one.
const FileLife = time.Hour

// Rotate returns the token that belongs in a file now, and when the next one
// does. Call it at the start, before clients can make tokens of their own, and
// again at next or earlier; whenever the value is another one, write the file.
// The name is the file's own among files and tokens, for lists and logs. With a
// uid, the token is good only in the hands of that user.
//
// The token that a call returned stays good until the second call that returns
// another one: who has just read the file is served. No token dies of time
// alone: a suspended laptop calls late, and a clock that is set, back or forth,
// only changes which token is next. Nothing is written to disk, since secret,
// name, rights and period make the token; so a broker that was killed knows
// those of this period and the one before again. Given other rights for the same
// name, the tokens that carry the old ones end at once.
//
// The error is of [broker.KindConfig]: a name or a profile that cannot be, or
// the name of a token of another kind; or [broker.Locked]. Then nothing has changed.
func (t *Tokens) Rotate(name string, profiles []string, uid *uint32, now time.Time) (value broker.Secret, next time.Time, err error) {
	if err := errors.Join(checkName("token file", name), checkProfiles(profiles)); err != nil {
		return broker.Secret{}, time.Time{}, refuse("%v", err)
	}
	if isID(name) {
		return broker.Secret{}, time.Time{}, refuse("token file name %q looks like a token's id; choose another", name)
	}
	start := now.UTC().Truncate(FileLife)
	next = start.Add(FileLife)
	k := token{
		kind: KindFile, created: start, use: new(usage),
		grant: broker.Grant{Name: name, Profiles: slices.Clone(profiles)},
	}
	if uid != nil {
		k.uid, k.grant.UID, k.grant.BoundUID = *uid, *uid, true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.whileLocked(); err != nil {
		return broker.Secret{}, time.Time{}, err
	}
	m := maps.Clone(t.all())
	var last *token // that is in the file until now
	for id, other := range m {
		switch {
		case other.grant.Name != name:
			continue
		case other.kind != KindFile:
			return broker.Secret{}, time.Time{}, refuse("there is a token %q already; give the token file another name, or revoke that token: stsbroker token revoke %s", name, id)
		case !other.replaced && other.sameRight(&k):
			last = other
		}
		delete(m, id)
	}
	if last != nil && last.created.Equal(start) {
		return t.issued(last).Token, next, nil
	}
	if last != nil {
		k.use = last.use
		old := *last
		old.replaced = true
		m[old.grant.ID] = &old
	}
	before := k
	before.created, before.replaced = start.Add(-FileLife), true
	if last == nil || !last.created.Equal(before.created) {
		t.addFile(m, &before)
	}
	t.addFile(m, &k)
	t.publish(m)
	return t.issued(&k).Token, next, nil
}

// addFile adds a file's token to m, under an id that follows from its period and
// its rights: no token comes to carry rights that it was not made for.
func (t *Tokens) addFile(m map[string]*token, k *token) {
	for n := 0; k.grant.ID == "" || m[k.grant.ID] != nil; n++ {
		// No name has a zero byte in it, so no two tokens have one message.
		message := fmt.Sprintf("%d %d %v %d %s\x00%s", n, k.uid, k.grant.BoundUID, k.created.Unix(), k.grant.Name, strings.Join(k.grant.Profiles, "\x00"))
		k.grant.ID = hex.EncodeToString(mac(t.secret, fileLabel, message)[:idLength/2])
	}
	k.seal(t.secret)
	m[k.grant.ID] = k
}

// sameRight reports whether two tokens are good for the same.
func (k *token) sameRight(other *token) bool {
	return k.uid == other.uid && k.grant.BoundUID == other.grant.BoundUID && slices.Equal(k.grant.Profiles, other.grant.Profiles)
}

// KeepFile notes, on disk, that the token of [KindEnv] with this id is in a file
// too; see [Tokens.EnvFiles]. An error tells that there is no such token, or that
// the list could not be written; then nothing is noted.
func (t *Tokens) KeepFile(id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.whileLocked(); err != nil {
		return err
	}
	k := t.all()[id]
	switch {
	case k == nil || k.kind != KindEnv || k.expired():
		return refuse("there is no token of env with the id %q; see: stsbroker token list", clip(id))
	case k.inFile:
		return nil
	}
	kept := *k
	kept.inFile = true
	m := maps.Clone(t.all())
	m[id] = &kept
	if err := t.save(m); err != nil {
		return refuse("the token's file will not be there after a restart: %v", err)
	}
	t.publish(m)
	return nil
}

// EnvFiles returns the tokens that [Tokens.KeepFile] was called for and that are
// good now, by age. The files go when the broker stops, and the shells that were
// told of them do not: the next start writes them again, or, if tokens are locked then,
// whoever unlocks them. It is no use of a token.
func (t *Tokens) EnvFiles() []Issued {
	var out []Issued
	for _, k := range t.all() {
		if k.inFile && !k.expired() {
			out = append(out, t.issued(k))
		}
	}
	sort.Slice(out, func(i, j int) bool { return byAge(out[i].Info, out[j].Info) < 0 })
	return out
}
