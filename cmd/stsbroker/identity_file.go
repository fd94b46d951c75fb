package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/custody/keyring"
	"github.com/stsbroker/stsbroker/broker/vault"
	"github.com/stsbroker/stsbroker/cache"
	"github.com/stsbroker/stsbroker/cache/sealedfile"
	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/seal"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

const (
	// varIdentityFile names the file of the identity that opens sealed state.
	varIdentityFile = "STSBROKER_IDENTITY_FILE"
	// varCredentials is systemd's: a folder of what the unit's LoadCredential= gives.
	varCredentials = "CREDENTIALS_DIRECTORY"
	// systemdIdentity is the name of the credential there.
	systemdIdentity = "stsbroker-identity"
)

// How an identity is come by.
const (
	howFile       = "file"
	howSystemd    = "systemd"
	howKeyring    = "keyring"
	howPassphrase = "passphrase"
	howPlugin     = "plugin"
)

// identity is what opens sealed state, and where it was found. The zero value is none.
type identity struct {
	seal.Identity
	path string
	from string // who named it, in words
	how  string // howFile, …; "" for none
	made bool   // just now

	// locked is that there is one, and a person has to open it: with stsbroker unlock,
	// which is given wrapped and plugin for that.
	locked  bool
	wrapped []byte
	plugin  string
	problem string // why it is locked, in one line
}

// why is the problem for who asks for what is locked; "" where an unlock is all it takes.
func (id identity) why() string {
	if id.how == howPassphrase || id.how == howPlugin {
		return ""
	}
	return id.problem
}

// findIdentity looks for the identity: in the file that the environment names, as a
// systemd credential, and where the state folder says. A file that is named and missing
// is made, if mayMake; else there is none yet. With an error the identity has path and
// from, and opens nothing. Nobody is asked for anything, and no program is run.
func (p place) findIdentity(mayMake bool) (identity, error) {
	if named := p.getenv(varIdentityFile); named != "" {
		return p.namedIdentity(named, mayMake)
	}
	if p.credentials != "" {
		id := identity{path: filepath.Join(p.credentials, systemdIdentity), from: "the systemd credential " + systemdIdentity, how: howSystemd}
		raw, err := securefile.ReadCredential(id.path, seal.IdentityLimit)
		if !errors.Is(err, fs.ErrNotExist) {
			return id.parse(raw, err)
		}
	}
	id, err := p.stateIdentity()
	if there := p.sealedFile(); err == nil && id.IsZero() && !id.locked && there != "" {
		id.locked = true
		id.path, id.from = there, "nobody"
		id.problem = fmt.Sprintf("%s was sealed for an identity that nothing names now: set %s again and start serve anew, or move what is sealed away to begin anew", there, varIdentityFile)
	}
	return id, err
}

func (p place) namedIdentity(named string, mayMake bool) (identity, error) {
	id := identity{path: named, from: varIdentityFile, how: howFile}
	path := filepath.Clean(named)
	switch {
	case !filepath.IsAbs(named): // a ~ that no shell expanded, and a folder that is another one each time
		return id, fmt.Errorf("%s is not an absolute path; write it from / on", oneLine(named))
	case slices.Contains(p.ownFiles(ListenConfig{}), path):
		return id, fmt.Errorf("%s is a file of stsbroker's own; give the identity a path of its own", path)
	}
	raw, err := securefile.Read(path, seal.IdentityLimit)
	if errors.Is(err, fs.ErrNotExist) {
		switch there := p.sealedFile(); {
		case there != "": // another one would open nothing of it: a stick is not in, or a name is mistyped
			id.locked = true
			id.problem = fmt.Sprintf("%s is missing, and %s was sealed for the identity that was there: put it back and run stsbroker unlock, or move what is sealed away to begin anew", path, there)
			return id, nil
		case !mayMake:
			return identity{}, nil
		}
		if err := makeIdentity(path); err != nil {
			return id, fmt.Errorf("%w; a file that age-keygen makes will do as well", err)
		}
		id.made = true
		raw, err = securefile.Read(path, seal.IdentityLimit)
	}
	if err != nil {
		return id, err
	}
	switch seal.KindOfIdentity(raw) {
	case seal.PluginIdentity: // it opens the identity proper, which rests in the state folder
		id.how, id.locked, id.plugin = howPlugin, true, string(raw)
		id.problem = "an age plugin opens it"
		id.wrapped, err = securefile.Read(p.wrappedIdentity(), seal.IdentityLimit)
		if errors.Is(err, fs.ErrNotExist) {
			id.problem, err = "the identity that the age plugin is to open is not made yet; stsbroker unlock makes it", nil
		}
		return id, err
	case seal.Plugin:
		id.how, id.locked, id.wrapped, id.problem = howPlugin, true, raw, "an age plugin opens it"
		return id, nil
	case seal.Passphrase:
		id.how, id.locked, id.wrapped, id.problem = howPassphrase, true, raw, "a passphrase opens it"
		return id, nil
	default:
		return id.parse(raw, nil)
	}
}

// sealedFile is a file of the state folder that only its identity opens, "" where there
// is none.
func (p place) sealedFile() string {
	for _, path := range append(vault.Blobs(p.state), p.leasesFile()) {
		if _, err := os.Lstat(path); err == nil {
			return path
		}
	}
	return ""
}

// stateIdentity is the one that unlock made: sealed with a passphrase, or in the OS keyring.
func (p place) stateIdentity() (identity, error) {
	id := identity{path: p.wrappedIdentity(), from: "the state folder"}
	raw, err := securefile.Read(id.path, seal.IdentityLimit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return identity{}, nil
	case err != nil:
		return id, err
	}
	switch seal.KindOfIdentity(raw) {
	case seal.Passphrase:
		id.how, id.locked, id.wrapped, id.problem = howPassphrase, true, raw, "a passphrase opens it"
		return id, nil
	case seal.Keyring:
		id.how, id.path, id.from = howKeyring, "the OS keyring", "stsbroker unlock"
		text, err := keyring.New(p.getenv).Identity(context.Background())
		if err != nil {
			id.locked, id.problem = true, explain(err).Message
			return id, nil
		}
		return id.parse(text, nil)
	case seal.Plugin:
		id.how, id.locked, id.wrapped, id.problem = howPlugin, true, raw, "an age plugin opens it"
		return id, nil
	default:
		return id, fmt.Errorf("%s needs the age plugin whose identity %s named when it was made, or is damaged: set that again, or restore the file from a backup", id.path, varIdentityFile)
	}
}

func (id identity) parse(raw []byte, err error) (identity, error) {
	if err != nil {
		return id, err
	}
	if id.Identity, err = seal.ParseIdentity(raw); err != nil {
		return id, fmt.Errorf("%s: %w", id.path, err)
	}
	return id, nil
}

// makeIdentity writes a new identity, in a folder that is made if it is missing. One
// that somebody else made meanwhile stays.
func makeIdentity(path string) error {
	folder := filepath.Dir(path)
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		if err := securefile.MakeFolder(folder); err != nil {
			return err
		}
	}
	if err := securefile.CheckFolders(folder); err != nil { // before a secret is in it
		return err
	}
	text, err := seal.MakeIdentity()
	if err != nil {
		return err
	}
	if err := securefile.Create(path, text); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// leasesFile is where leases outlive the broker, where there is an identity.
func (p place) leasesFile() string { return filepath.Join(p.state, "leases") }

// leaseStore is where leases rest: in the state folder, sealed, as long as there is an
// identity for that, and else in memory until there is one. A process beside which a
// daemon may run shares the file where it can, and what is wrong with it is the
// daemon's to say. The state folder's lock is held by all others.
func (a *app) leaseStore(writes bool) (broker.LeaseStore, error) {
	if !writes {
		if a.vault.State() == vault.Open {
			if s, err := sealedfile.OpenShared(a.leasesFile(), a.identity.Identity); err == nil {
				return s, nil
			}
		}
		a.late = newLateStore(cache.NewMemory())
		return a.late, nil
	}
	s, aside, why, err := sealedfile.Open(sealedfile.Options{Path: a.leasesFile(), Identity: a.identity.Identity, Report: func(err error) {
		if err == nil {
			a.log.Info("leases are saved again", zap.String("file", a.leasesFile()))
			return
		}
		a.log.Warn("leases are not saved: a restart now would mint what is held anew", zap.String("file", a.leasesFile()), zap.Error(err))
	}})
	if err != nil {
		return nil, err
	}
	a.tellLeases(aside, why)
	a.leases = s
	return s, nil
}

func (a *app) tellLeases(aside string, why error) {
	switch {
	case aside != "":
		a.log.Warn("the sealed leases could not be opened and were moved aside", zap.String("file", aside), zap.Error(why), zap.String("identity", a.identity.path))
	case why != nil:
		a.log.Warn("sealed leases", zap.String("file", a.leasesFile()), zap.Error(why))
	}
}

// unlockLeases reads what rests sealed beside what was minted meanwhile.
func (a *app) unlockLeases(id seal.Identity) error {
	if a.late != nil {
		if s, err := sealedfile.OpenShared(a.leasesFile(), id); err == nil {
			a.late.becomes(s)
		}
	}
	if a.leases == nil {
		return nil
	}
	aside, why, err := a.leases.Unlock(id)
	if err == nil {
		a.tellLeases(aside, why)
	}
	return err
}

// closeState ends what is in the state folder: the leases first, under the lock that
// the tokens hold.
func (a *app) closeState() error {
	var err error
	if a.leases != nil {
		err = a.leases.Close()
	}
	return errors.Join(err, a.tokens.Close())
}

// sealed tells status where leases rest, nil for in memory only.
func (a *app) sealed() *control.Sealed {
	if a.leases == nil || a.vault.State() != vault.Open {
		return nil
	}
	a.custody.Lock() // an unlock may be under way
	id := a.identity
	a.custody.Unlock()
	out := &control.Sealed{File: a.leasesFile(), Identity: id.path, From: id.from}
	unsaved, err := a.leases.Standing()
	out.Unsaved = unsaved
	if err != nil {
		out.Error = err.Error()
	}
	// What cannot be looked at is not on the same disk any more: a key taken out.
	out.SameDisk, _ = securefile.SameDisk(id.path, a.state)
	return out
}

// checkIdentity is what check says of the identity. serve would make a missing one.
func (p place) checkIdentity() []Finding {
	id, err := p.findIdentity(false)
	switch {
	case err != nil:
		return []Finding{{File: id.path, Severity: SeverityError, Text: "the identity of " + id.from + " cannot be used: " + err.Error()}}
	case id.locked && id.why() != "":
		return []Finding{{File: id.path, Severity: SeverityWarning, Text: "custody will be locked: " + id.problem}}
	case id.IsZero():
		return nil
	}
	if err := sealedfile.Readable(p.leasesFile()); err != nil {
		return []Finding{{File: p.leasesFile(), Severity: SeverityError, Text: err.Error()}}
	}
	var out []Finding
	v := vault.New(p.state)
	v.Open(id.Identity)
	for _, name := range vault.Names() { // serve starts all the same, and serves the rest
		if _, err := v.Read(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			out = append(out, Finding{File: filepath.Join(p.state, name), Severity: SeverityWarning, Text: err.Error()})
		}
	}
	return out
}
