package login

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// blobName is the vault's name for all sign-ins: vault.Logins.
const blobName = "logins"

// forgotten is how long what is over stays in the blob: a sign-out has to be known
// to processes that still hold the tokens in memory.
const forgotten = 30 * 24 * time.Hour

// client is a registration of ours. The tokens that it got are refreshed with it.
type client struct {
	id      string
	secret  broker.Secret
	expires time.Time
}

// clientKey tells registrations apart: each has one start URL, one region, one set
// of scopes and one way of signing in, as the AWS CLI's have.
type clientKey struct {
	url, region, scopes string
	device              bool
}

func (k key) client(device bool) clientKey { return clientKey{k.url, k.region, k.scopes, device} }

// tokens are what a sign-in gave. The zero value is "signed out".
type tokens struct {
	access  broker.Secret
	expires time.Time
	refresh broker.Secret // zero where there is none, or none any more
	client  client
	changed time.Time // which of two is newer
}

// without is t with no access token, if that is the one refused.
func (t tokens) without(refused broker.Secret) tokens {
	if t.access.IsZero() || t.access.Equal(refused) {
		t.access, t.expires = broker.Secret{}, time.Time{}
	}
	return t
}

func (t tokens) refreshable(now time.Time) bool {
	return !t.refresh.IsZero() && left(t.client.expires, now) > 0
}

// state is what is kept. A state that [Manager] holds is never changed, only replaced.
type state struct {
	sessions map[key]tokens
	clients  map[clientKey]client
}

func newState() state { return state{map[key]tokens{}, map[clientKey]client{}} }

func (s state) any() bool {
	for _, t := range s.sessions {
		if !t.access.IsZero() || !t.refresh.IsZero() {
			return true
		}
	}
	return false
}

// signOuts is what of s a lock leaves: no secret, and which sessions were signed out of,
// for the vault may have their tokens still.
func (s state) signOuts() state {
	out := newState()
	for k, t := range s.sessions {
		if t.access.IsZero() && t.refresh.IsZero() && t.client.secret.IsZero() {
			out.sessions[k] = tokens{changed: t.changed}
		}
	}
	return out
}

// put replaces the tokens of a session. They are newer than what was there, whatever
// the wall clock has done in between.
func (s *state) put(k key, t tokens) {
	t.changed = time.Now().Round(0)
	if was := s.sessions[k].changed; !t.changed.After(was) {
		t.changed = was.Add(1)
	}
	s.sessions[k] = t
}

// merged is a copy of s with what is newer in o.
func (s state) merged(o state) state {
	out := state{maps.Clone(s.sessions), maps.Clone(s.clients)}
	for k, t := range o.sessions {
		if mine, has := out.sessions[k]; !has || t.changed.After(mine.changed) {
			out.sessions[k] = t
		}
	}
	for k, c := range o.clients {
		if mine, has := out.clients[k]; !has || c.expires.After(mine.expires) {
			out.clients[k] = c
		}
	}
	return out
}

var (
	errNoVault   = errors.New("there is no vault")
	errUnchanged = errors.New("nothing to write")
)

// closed reports whether a vault could not be used because it is not open, which is
// no fault of it.
func closed(err error) bool { return errors.Is(err, errNoVault) || locked(err) }

func locked(err error) bool {
	e, ok := errors.AsType[*broker.Error](err)
	return ok && e.Kind == broker.KindLocked
}

// transact changes what is kept: memory and the vault's blob become one, change is
// applied, the result is written, and then memory has it. change runs exactly once;
// where the vault cannot be read or written, memory has its result all the same and
// the error says why. m.disk is held.
//
// errNoVault stands for every vault that has nothing of ours and takes nothing: none,
// one without an identity, one that is locked over no blob.
func (m *Manager) transact(change func(next *state)) error {
	err, _ := m.tryTransact(true, change)
	return err
}

// tryTransact is transact; unless it must, change does not run where another process
// has the vault for longer than anybody waits, since that may be making the same one.
func (m *Manager) tryTransact(must bool, change func(next *state)) (err error, changed bool) {
	m.mu.Lock()
	before, locks := m.held, m.locks
	m.mu.Unlock()
	next, ran := before, false
	err = m.update(func(old []byte) ([]byte, error) {
		found, err := decode(old)
		if err != nil {
			return nil, err
		}
		if !ran {
			ran, next = true, before.merged(found)
			change(&next)
		}
		b, err := next.encode(time.Now())
		if err == nil && (bytes.Equal(b, old) || old == nil && !next.worth()) {
			err = errUnchanged
		}
		return b, err
	})
	switch {
	case errors.Is(err, errUnchanged):
		err = nil
	case ran || errors.Is(err, errNoVault):
	case locked(err), kindOf(err) == broker.KindConfig:
		if _, none := m.o.Vault.Read(blobName); errors.Is(none, fs.ErrNotExist) {
			err = errNoVault
		}
	case !must && kindOf(err) == broker.KindUnavailable:
		return err, false
	}
	if !ran {
		next = before.merged(newState())
		change(&next)
	}
	m.install(before, next, locks, ran, err)
	return err, true
}

// kindOf is the kind of an error that has one.
func kindOf(err error) broker.Kind {
	if e, ok := errors.AsType[*broker.Error](err); ok {
		return e.Kind
	}
	return broker.KindConfig
}

// worth reports whether there is anything to write.
func (s state) worth() bool { return len(s.sessions) > 0 || len(s.clients) > 0 }

func (m *Manager) update(f func(old []byte) ([]byte, error)) error {
	v := m.o.Vault
	if v == nil {
		return errNoVault
	}
	return v.Update(blobName, f)
}

// install makes next what memory holds, and notes sessions that can be had again. opened
// is whether the vault could be read, and unwritten why next is not in it. Of a change that
// a lock overtook, the sign-outs count.
func (m *Manager) install(before, next state, locks int, opened bool, unwritten error) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if locks != m.locks {
		m.held = m.held.merged(next.signOuts())
		return
	}
	m.held, m.unwritten = next, unwritten
	m.shut = m.shut && !opened
	for k, t := range next.sessions {
		was := before.sessions[k]
		if t.changed.Equal(was.changed) {
			continue
		}
		e := m.entryLocked(k)
		e.pause = pause{}
		could := was.refreshable(now) || left(was.without(e.ownNo).expires, now) > 0
		if can := t.refreshable(now) || left(t.expires, now) > 0; can && !could {
			m.mended = append(m.mended, k.session())
		}
	}
}

// The blob: one JSON object. Secrets are spelled out on the way into the vault and
// nowhere else.
type (
	blob struct {
		Version  int           `json:"version"`
		Clients  []blobClient  `json:"clients"`
		Sessions []blobSession `json:"sessions"`
	}
	blobClient struct {
		StartURL string    `json:"start_url"`
		Region   string    `json:"region"`
		Scopes   string    `json:"scopes"`
		Device   bool      `json:"device"`
		ID       string    `json:"id"`
		Secret   string    `json:"secret"`
		Expires  time.Time `json:"expires"`
	}
	blobSession struct {
		Name          string    `json:"name"`
		StartURL      string    `json:"start_url"`
		Region        string    `json:"region"`
		Scopes        string    `json:"scopes"`
		Changed       time.Time `json:"changed"`
		AccessToken   string    `json:"access_token,omitempty"`
		Expires       time.Time `json:"expires,omitzero"`
		RefreshToken  string    `json:"refresh_token,omitempty"`
		ClientID      string    `json:"client_id,omitempty"`
		ClientSecret  string    `json:"client_secret,omitempty"`
		ClientExpires time.Time `json:"client_expires,omitzero"`
	}
)

const blobVersion = 1

// encode is the same for the same state, but for what is over.
func (s state) encode(now time.Time) ([]byte, error) {
	b := blob{Version: blobVersion, Clients: []blobClient{}, Sessions: []blobSession{}}
	for k, c := range s.clients {
		if left(c.expires, now) > 0 {
			b.Clients = append(b.Clients, blobClient{k.url, k.region, k.scopes, k.device, c.id, c.secret.Reveal(), c.expires.UTC()})
		}
	}
	for k, t := range s.sessions {
		if now.Sub(t.changed) > forgotten && !t.refreshable(now) {
			continue
		}
		r := blobSession{Name: k.name, StartURL: k.url, Region: k.region, Scopes: k.scopes, Changed: t.changed.UTC()}
		if !t.access.IsZero() {
			r.AccessToken, r.Expires = t.access.Reveal(), t.expires.Round(0).UTC()
		}
		if !t.refresh.IsZero() {
			r.RefreshToken = t.refresh.Reveal()
		}
		if !t.client.secret.IsZero() {
			r.ClientID, r.ClientSecret, r.ClientExpires = t.client.id, t.client.secret.Reveal(), t.client.expires.UTC()
		}
		b.Sessions = append(b.Sessions, r)
	}
	slices.SortFunc(b.Clients, func(x, y blobClient) int {
		device := func(c blobClient) int {
			if c.Device {
				return 1
			}
			return 0
		}
		return cmp.Or(strings.Compare(x.StartURL, y.StartURL), strings.Compare(x.Region, y.Region), strings.Compare(x.Scopes, y.Scopes), device(x)-device(y))
	})
	slices.SortFunc(b.Sessions, func(x, y blobSession) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.StartURL, y.StartURL), strings.Compare(x.Region, y.Region), strings.Compare(x.Scopes, y.Scopes))
	})
	return json.Marshal(b)
}

// decode reads a blob. What it does not know whole it refuses, and with it the
// write that would replace it. Its errors quote nothing of the content.
func decode(data []byte) (state, error) {
	s := newState()
	if data == nil {
		return s, nil
	}
	fault := func(why string) (state, error) {
		return state{}, fmt.Errorf("the sealed file %q of sign-ins %s; it is left as it is, and can be removed to sign in anew", blobName, why)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	var version struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(data, &version) == nil && version.Version != blobVersion {
		return fault(fmt.Sprintf("is of version %d, and this stsbroker knows version %d", version.Version, blobVersion))
	}
	d.DisallowUnknownFields()
	var b blob
	if d.Decode(&b) != nil {
		return fault("is not of the expected form")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fault("has something behind its end")
	}
	for _, c := range b.Clients {
		s.clients[clientKey{c.StartURL, c.Region, c.Scopes, c.Device}] = client{c.ID, broker.NewSecret(c.Secret), c.Expires}
	}
	for _, r := range b.Sessions {
		s.sessions[key{r.Name, r.StartURL, r.Region, r.Scopes}] = tokens{
			access: broker.NewSecret(r.AccessToken), expires: r.Expires, refresh: broker.NewSecret(r.RefreshToken),
			client: client{r.ClientID, broker.NewSecret(r.ClientSecret), r.ClientExpires}, changed: r.Changed,
		}
	}
	return s, nil
}
