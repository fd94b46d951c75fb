// Package vault keeps named blobs sealed in the state folder: long-term keys, the
// tokens of sign-ins, the secret that tokens derive from. A blob opens for an age
// identity, which a vault is given at the start, or later by a person, and which can
// be taken from it again.
//
// A blob that the identity does not open is never moved, changed or replaced: it may
// be all that is left of a key, and the identity may come back.
package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/seal"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// Names of the blobs, which are those of their files in the state folder.
const (
	Keys        = "keys"             // long-term keys
	Logins      = "logins"           // what sign-ins gave: refresh tokens and the like
	TokenSecret = "token-secret.age" // the secret that clients' tokens derive from
)

const (
	limit    = 8 << 20 // bytes of a blob, sealed
	overhead = 16 << 10
	lockMark = ".lock"

	patience = 10 * time.Second // for another process that changes the blob
)

// Names are those of all blobs.
func Names() []string { return []string{Keys, Logins, TokenSecret} }

// Blobs are the paths of the blobs of the state folder dir.
func Blobs(dir string) (paths []string) {
	for _, name := range Names() {
		paths = append(paths, filepath.Join(dir, name))
	}
	return paths
}

// Files are those paths, and the locks beside them.
func Files(dir string) (paths []string) {
	for _, path := range Blobs(dir) {
		paths = append(paths, path, path+lockMark)
	}
	return paths
}

// State is whether a vault has its identity.
type State uint8

// States.
const (
	None   State = iota // nobody has an identity: nothing can be sealed
	Locked              // there is an identity, and a person has to give it
	Open
)

// String returns the state's name.
func (s State) String() string {
	switch s {
	case None:
		return "none"
	case Locked:
		return "locked"
	case Open:
		return "open"
	}
	return fmt.Sprintf("state(%d)", s)
}

// Vault is the blobs of a state folder. It is safe for concurrent use, and several
// processes may have vaults in one folder.
type Vault struct {
	dir string

	mu    sync.RWMutex
	state State
	id    seal.Identity // zero unless state is Open
	why   string        // it is Locked
}

// New returns the vault of the state folder dir, without an identity. The folder need
// not exist: it is made at the first write.
func New(dir string) *Vault { return &Vault{dir: dir} }

// Open gives the vault the identity that opens and seals from now on. The zero value
// is none.
func (v *Vault) Open(id seal.Identity) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.id, v.state = id, Open
	if id.IsZero() {
		v.state = None
	}
}

// Lock takes the identity from the vault, so that nothing is read or written until the
// next Open. A vault that never had one stays as it is. A write that is under way comes
// to its end, and what was read stays with its readers. The memory that the identity
// was in is the garbage collector's: nothing here can wipe it.
func (v *Vault) Lock() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.id, v.why = seal.Identity{}, ""
	if v.state == Open {
		v.state = Locked
	}
}

// SetLocked says that there is an identity, which nobody has given yet. why is for who
// asks for what is locked: one line that ends with what to do, "" where that is to
// unlock and no more.
func (v *Vault) SetLocked(why string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.id, v.state, v.why = seal.Identity{}, Locked, why
}

// State reports whether the vault has its identity.
func (v *Vault) State() State {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.state
}

// Ready says why nothing can be sealed now, nil if it can.
func (v *Vault) Ready() error {
	_, err := v.identity()
	return err
}

// identity returns the identity, or why there is none.
func (v *Vault) identity() (seal.Identity, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	switch v.state {
	case Open:
		return v.id, nil
	case Locked:
		e := broker.Locked()
		if v.why != "" {
			e.Public = "custody is locked: " + v.why
		}
		return seal.Identity{}, e
	case None:
	}
	return seal.Identity{}, fault("there is no identity to seal with: set STSBROKER_IDENTITY_FILE to a path (an age identity is made there), or give the service the systemd credential stsbroker-identity, or run stsbroker unlock, which keeps one in the OS keyring or behind a passphrase")
}

// Read returns what is sealed under the name. The error is [fs.ErrNotExist] where there
// is no such blob, whatever the state is; [broker.Locked] while the vault is locked; and
// otherwise a [*broker.Error] of [broker.KindConfig] that names the file and what to do:
// about a file that others can reach, that the identity does not open, or that is
// damaged, and about a vault without an identity.
func (v *Vault) Read(name string) ([]byte, error) {
	path, err := v.path(name)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	id, err := v.identity()
	if err != nil {
		return nil, err
	}
	return read(path, id)
}

func read(path string, id seal.Identity) ([]byte, error) {
	raw, err := securefile.Read(path, limit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	case err != nil:
		return nil, fault("%s cannot be read: %v; it was left as it is", path, err)
	}
	plain, err := id.Open(raw, limit)
	if err != nil {
		return nil, fault("%s does not open: %v; unlock with the identity that it was sealed for, or restore it from a backup; it was left as it is", path, err)
	}
	return plain, nil
}

// Write seals plain under the name: whole or not at all, and durable when it returns.
// A blob that is there and that the identity does not open is not replaced. The errors
// are those of [Vault.Read], or tell that the disk failed; then the old blob is there
// still, or, where it was only the last flush that failed, the new one.
func (v *Vault) Write(name string, plain []byte) error {
	return v.Update(name, func([]byte) ([]byte, error) { return plain, nil })
}

// Update replaces what is sealed under the name by what f makes of it, nil for nothing.
// No other Write or Update of the name comes in between, of other processes either: it
// waits up to ten seconds for them. f must not change this vault. An error of f changes
// nothing and is returned as it is; other errors are those of [Vault.Write].
func (v *Vault) Update(name string, f func(old []byte) ([]byte, error)) error {
	path, err := v.path(name)
	if err != nil {
		return err
	}
	id, err := v.identity()
	if err != nil {
		return err
	}
	release, err := v.lock(path)
	if err != nil {
		return err
	}
	defer release()
	old, err := read(path, id)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	plain, err := f(old)
	if err != nil {
		return err
	}
	return write(path, id, plain)
}

func write(path string, id seal.Identity, plain []byte) error {
	if len(plain) > limit-overhead {
		return fault("%s would be longer than %d bytes, and would not be read again", path, limit)
	}
	sealed, err := id.Seal(plain)
	if err != nil {
		return fault("%s cannot be sealed: %v", path, err)
	}
	if err := securefile.Write(path, sealed); err != nil {
		return fault("%v", err)
	}
	return nil
}

func (v *Vault) path(name string) (string, error) {
	if name == "" || strings.HasPrefix(name, ".") || strings.ContainsAny(name, `/\:`) || strings.HasSuffix(name, lockMark) {
		return "", fault("%q cannot be the name of a sealed file", name)
	}
	return filepath.Join(v.dir, name), nil
}

// lock waits until no other process changes the file at path.
func (v *Vault) lock(path string) (release func(), err error) {
	if err := securefile.MakeFolder(v.dir); err != nil {
		return nil, fault("state folder: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	release, err = securefile.OwnWithin(ctx, path+lockMark)
	if busy, ok := errors.AsType[securefile.Busy](err); ok {
		return nil, &broker.Error{Kind: broker.KindUnavailable, Own: true, Public: fmt.Sprintf("%s has been changing %s for %v: wait for it, or end it", busy.Holder, path, patience)}
	}
	if err != nil {
		return nil, fault("state folder: %v", err)
	}
	return release, nil
}

func fault(format string, args ...any) error {
	return &broker.Error{Kind: broker.KindConfig, Public: fmt.Sprintf(format, args...)}
}
