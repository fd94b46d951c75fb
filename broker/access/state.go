package access

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sort"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

const (
	secretFile = "token-secret" // 32 random bytes
	listFile   = "tokens.json"
	lockFile   = "tokens.lock"

	listVersion = 1
	listLabel   = "stsbroker tokens.json v1"
	listLimit   = 32 << 20 // bytes; maxTokens of the largest kind fit
)

// Files are the paths of what rests in the state folder dir.
func Files(dir string) []string {
	return []string{filepath.Join(dir, secretFile), filepath.Join(dir, listFile), filepath.Join(dir, lockFile)}
}

// state is the folder that tokens outlive a process in.
type state struct {
	list    string // path of tokens.json
	release func() // of the lock
}

// Open returns the tokens of the state folder dir. The folder and the secret
// are made at the first use. A folder or a file that others may read or
// change, and a file that was changed by hand, cut short or belongs to another
// secret, is an error that names it: nothing is repaired and nothing is thrown
// away. It is an error, too, when another process has the folder open.
func Open(dir string) (_ *Tokens, err error) {
	if err := securefile.MakeFolder(dir); err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	release, held, err := securefile.Lock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	if !held {
		return nil, fmt.Errorf("another stsbroker uses the state folder %s; stop it first", dir)
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	s := &state{list: filepath.Join(dir, listFile), release: release}
	raw, err := securefile.Read(s.list, listLimit)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return nil, fmt.Errorf("token list: %w", err)
	}
	secret, err := loadSecret(filepath.Join(dir, secretFile), missing)
	if err != nil {
		return nil, fmt.Errorf("token secret: %w", err)
	}
	t := newTokens(secret, s)
	tokens := map[string]*token{}
	if !missing {
		if tokens, err = decode(secret, raw); err != nil {
			return nil, fmt.Errorf("token list %s: %w; restore it, or move it away and make the tokens anew", s.list, err)
		}
	}
	t.publish(tokens)
	return t, nil
}

// loadSecret makes a secret only where there can be no token yet: a new one
// would quietly end all that were handed out.
func loadSecret(path string, mayMake bool) (broker.Secret, error) {
	raw, err := securefile.Read(path, secretLength)
	switch {
	case errors.Is(err, fs.ErrNotExist) && mayMake:
		raw = make([]byte, secretLength)
		rand.Read(raw)
		if err := securefile.Write(path, raw); err != nil {
			return broker.Secret{}, err
		}
	case errors.Is(err, fs.ErrNotExist):
		return broker.Secret{}, fmt.Errorf("%s is missing, while %s beside it lists tokens that need it; restore it, or move the list away and make the tokens anew", path, listFile)
	case err != nil:
		return broker.Secret{}, err
	case len(raw) != secretLength || bytes.Count(raw, raw[:1]) == secretLength: // cut short, or zeros after a crash of the file system
		return broker.Secret{}, fmt.Errorf("%s is damaged; restore it, or move it and %s away and make the tokens anew", path, listFile)
	}
	return broker.NewSecret(string(raw)), nil
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
