package access

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

const (
	secretFile = "token-secret"     // 32 random bytes
	sealedName = "token-secret.age" // the same in a vault
	listFile   = "tokens.json"
	lockFile   = "tokens.lock"

	patience = 3 * time.Second // for a command that works on the state folder

	listVersion = 1
	listLabel   = "stsbroker tokens.json v1"
	listLimit   = 32 << 20 // bytes; maxTokens of the largest kind fit
)

// Vault is what seals the token secret in the state folder, as far as tokens need it.
type Vault interface {
	// Read returns [fs.ErrNotExist] where nothing rests under the name, [broker.Locked]
	// while the vault is locked, and else an error that names the file.
	Read(name string) ([]byte, error)
	// Write is whole or not at all, and durable when it returns. The error is
	// [broker.Locked] while the vault is locked.
	Write(name string, plain []byte) error
}

// Files are the paths of what rests in the state folder dir, but for what a vault keeps.
func Files(dir string) []string {
	return []string{filepath.Join(dir, secretFile), filepath.Join(dir, listFile), filepath.Join(dir, lockFile)}
}

// state is the folder that tokens outlive a process in.
type state struct {
	dir     string
	vault   Vault  // nil for none
	list    string // path of tokens.json
	release func() // of the lock
}

// Open returns the tokens of the state folder dir. The folder and the secret
// are made at the first use. A folder or a file that others may read or
// change, and a file that was changed by hand, cut short or belongs to another
// secret, is an error that names it: nothing is repaired and nothing is thrown
// away. It is an error, too, when another process has the folder open.
//
// With a vault that is open, the secret rests there, and one in a file of its own moves
// there. Without one, be v nil or without an identity, it is in that file. Where the
// vault has the secret and does not give it, the tokens are locked.
func Open(dir string, v Vault) (_ *Tokens, err error) {
	if err := securefile.MakeFolder(dir); err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	late, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	release, err := securefile.OwnWithin(late, filepath.Join(dir, lockFile))
	if busy, ok := errors.AsType[securefile.Busy](err); ok {
		return nil, fmt.Errorf("another stsbroker uses the state folder %s (%s); stop it first, or wait for it", dir, busy.Holder)
	}
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	t := newTokens(&state{dir: dir, vault: v, list: filepath.Join(dir, listFile), release: release})
	if err := t.open(); err != nil {
		release()
		return nil, err
	}
	return t, nil
}

// Unlock reads the secret and the list, once the vault is open. Where they are read
// already, it only moves a secret that rests in a file of its own into the vault. An
// error tells what is wrong with which file, and changes nothing.
//
// There is no way back: a vault that is locked later does not take the secret out of
// memory, since tokens that were handed out go on working, as what is held goes on
// being served.
func (t *Tokens) Unlock() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.state == nil: // in memory only, or closed
		return t.whileLocked()
	case t.live.Load() != nil:
		return t.state.settle(t.secret)
	}
	if err := t.open(); err != nil {
		return err
	}
	if t.live.Load() == nil {
		return t.why
	}
	return nil
}

// open reads what rests on disk. Without an error they may be locked still, and then
// say why.
func (t *Tokens) open() error {
	s := t.state
	raw, err := securefile.Read(s.list, listLimit)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return fmt.Errorf("token list: %w", err)
	}
	secret, why, err := s.secret(missing)
	if err != nil {
		return fmt.Errorf("token secret: %w", err)
	}
	if t.why = why; why != nil {
		t.said.Store(lockedBy(why))
		return nil
	}
	tokens := map[string]*token{}
	if !missing {
		if tokens, err = decode(secret, raw); err != nil {
			return fmt.Errorf("token list %s: %w; restore it, or move it away and make the tokens anew", s.list, err)
		}
	}
	if err := s.settle(secret); err != nil && !errors.As(err, new(unsealed)) { // now that it is the right one
		return fmt.Errorf("token secret: %w", err)
	}
	t.secret = secret
	t.publish(tokens)
	return nil
}

// secret returns the secret, or why it is not to be had now. It makes one only where
// there can be no token yet: a new one would quietly end all that were handed out.
func (s *state) secret(mayMake bool) (_ broker.Secret, why, err error) {
	none := broker.Secret{}
	path := filepath.Join(s.dir, secretFile)
	raw, err := securefile.Read(path, secretLength)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return none, nil, err
	}
	sealed, err := s.sealed()
	switch {
	case err == nil && damaged(sealed):
		return none, nil, fmt.Errorf("what is sealed in %s is no token secret; restore it, or move it and %s away and make the tokens anew", s.sealedPath(), listFile)
	case err == nil && !missing && !bytes.Equal(raw, sealed): // a crash between the two leaves them equal
		return none, nil, fmt.Errorf("%s and %s are different secrets, and the tokens of %s need one of them; move the other one away", path, s.sealedPath(), listFile)
	case err == nil:
		return broker.NewSecret(string(sealed)), nil, nil
	case !errors.Is(err, fs.ErrNotExist):
		return none, err, nil
	case !missing && damaged(raw):
		return none, nil, fmt.Errorf("%s is damaged; restore it, or move it and %s away and make the tokens anew", path, listFile)
	case !missing:
		return broker.NewSecret(string(raw)), nil, nil
	case !mayMake:
		return none, nil, fmt.Errorf("%s is missing, while %s beside it lists tokens that need it; restore it, or move the list away and make the tokens anew", path, listFile)
	}
	raw = make([]byte, secretLength)
	rand.Read(raw)
	if err := s.seal(raw); isLocked(err) {
		return none, err, nil
	} else if err != nil { // nobody has an identity, or the disk fails, which shows here too
		if err := securefile.Write(path, raw); err != nil {
			return none, nil, err
		}
	}
	return broker.NewSecret(string(raw)), nil, nil
}

// damaged is cut short, or zeros after a crash of the file system.
func damaged(secret []byte) bool {
	return len(secret) != secretLength || bytes.Count(secret, secret[:1]) == secretLength
}

// settle moves a secret that rests in a file of its own into the vault, if that is open.
// The file goes last: after a crash in between there are both.
func (s *state) settle(secret broker.Secret) error {
	path := filepath.Join(s.dir, secretFile)
	if _, err := os.Lstat(path); s.vault == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	sealed, err := s.sealed()
	if errors.Is(err, fs.ErrNotExist) {
		if err := s.seal([]byte(secret.Reveal())); err != nil {
			return unsealed{err}
		}
		sealed, err = s.sealed()
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s stays: %w", path, err)
	case string(sealed) != secret.Reveal():
		return fmt.Errorf("%s stays: what is sealed in %s is another secret; move that away", path, s.sealedPath())
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("it is sealed in %s now, and its plain file could not be removed: %w", s.sealedPath(), err)
	}
	return nil
}

// unsealed is why a secret stays in its file: nobody has an identity, it is locked, or
// the disk fails. At a start that is no error, since it is there and good.
type unsealed struct{ error }

func (u unsealed) Unwrap() error { return u.error }

func (s *state) sealedPath() string { return filepath.Join(s.dir, sealedName) }

// sealed reads the secret out of the vault.
func (s *state) sealed() ([]byte, error) {
	if s.vault != nil {
		return s.vault.Read(sealedName)
	}
	if _, err := os.Lstat(s.sealedPath()); err != nil {
		return nil, err
	}
	return nil, &broker.Error{Kind: broker.KindConfig, Public: "the token secret is sealed in " + s.sealedPath() + ", and there is no identity to open it with"}
}

func (s *state) seal(secret []byte) error {
	if s.vault == nil {
		return errors.New("there is no vault")
	}
	return s.vault.Write(sealedName, secret)
}

func isLocked(err error) bool {
	e, ok := errors.AsType[*broker.Error](err)
	return ok && e.Kind == broker.KindLocked
}

// list is the file. Its MAC, under the token secret, is over the exact bytes of
// tokens.
type list struct {
	Version int             `json:"version"`
	MAC     string          `json:"mac"` // hex
	Tokens  json.RawMessage `json:"tokens"`
}

// entry is a token as it rests on disk.
type entry struct {
	ID       string    `json:"id"`
	Name     string    `json:"name,omitempty"`
	Kind     Kind      `json:"kind"`
	Profiles []string  `json:"profiles"`
	UID      uint32    `json:"uid"`
	Bound    bool      `json:"bound,omitempty"`
	Created  time.Time `json:"created"`
	LastUsed int64     `json:"last_used,omitempty"` // Unix seconds
	Until    int64     `json:"until,omitempty"`     // likewise: the end of the last set that was fetched with it
	File     bool      `json:"file,omitempty"`      // see [Tokens.KeepFile]
}

func (s *state) save(secret broker.Secret, m map[string]*token) error {
	return securefile.Write(s.list, encode(secret, m))
}

func encode(secret broker.Secret, m map[string]*token) []byte {
	entries := make([]entry, 0, len(m))
	for _, k := range m {
		if k.kind.onDisk() {
			entries = append(entries, entry{
				ID: k.grant.ID, Name: k.grant.Name, Kind: k.kind, Profiles: k.grant.Profiles,
				UID: k.uid, Bound: k.grant.BoundUID, Created: k.created, LastUsed: k.use.last.Load(), Until: k.use.until.Load(), File: k.inFile,
			})
		}
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].ID < entries[j].ID })
	body, err := json.MarshalIndent(entries, "", "\t")
	if err != nil {
		panic(err) // strings, numbers and times of this century
	}
	// Put together by hand: an encoder would lay the bytes out anew under the MAC.
	return fmt.Appendf(nil, "{\n\"version\": %d,\n\"mac\": \"%x\",\n\"tokens\": %s\n}\n",
		listVersion, mac(secret, listLabel, string(body)), body)
}

func decode(secret broker.Secret, raw []byte) (map[string]*token, error) {
	var l list
	if err := strict(raw, &l); err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	if l.Version != listVersion {
		return nil, fmt.Errorf("has version %d, and this stsbroker knows %d", l.Version, listVersion)
	}
	if !hmac.Equal([]byte(l.MAC), fmt.Appendf(nil, "%x", mac(secret, listLabel, string(l.Tokens)))) {
		return nil, fmt.Errorf("was changed by something else, or belongs to another %s", secretFile)
	}
	var entries []entry
	if err := strict(l.Tokens, &entries); err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	m, named := make(map[string]*token, len(entries)), map[string]bool{}
	for _, e := range entries {
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("token %q: %w", clip(e.ID), err)
		}
		if m[e.ID] != nil || named[e.Name] {
			return nil, fmt.Errorf("token %q is listed twice", e.ID)
		}
		named[e.Name] = e.Kind == KindNamed
		k := &token{
			kind: e.Kind, uid: e.UID, created: e.Created, inFile: e.File, use: new(usage),
			grant: broker.Grant{ID: e.ID, Name: e.Name, Profiles: e.Profiles, BoundUID: e.Bound, Exec: e.Kind == KindExec},
		}
		k.seal(secret)
		if e.Bound {
			k.grant.UID = e.UID
		}
		k.use.last.Store(e.LastUsed)
		k.use.until.Store(e.Until)
		m[e.ID] = k
	}
	return m, nil
}

func (e entry) check() error {
	if !isID(e.ID) {
		return errors.New("bad id")
	}
	if err := checkProfiles(e.Profiles); err != nil {
		return err
	}
	switch e.Kind {
	case KindNamed:
		if e.File {
			return errors.New("only an env token is in a file that is written again")
		}
		return checkName("token", e.Name)
	case KindEnv:
		if e.Name != "" || len(e.Profiles) != 1 {
			return errors.New("an env token has no name and one profile")
		}
		return nil
	case KindExec, KindFile: // never written
	}
	return fmt.Errorf("unknown kind %q", e.Kind)
}

// strict decodes one JSON value and refuses unknown fields and what follows.
func strict(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the end")
	}
	return nil
}
