package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/broker"
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

// identity is what opens sealed state, and where it was found. The zero value is none.
type identity struct {
	seal.Identity
	path string
	from string // who named it, in words
	made bool   // just now
}

// findIdentity reads the identity that the environment names: a file, else a
// systemd credential. A file that is named and missing is made, if mayMake; else
// there is none yet. With an error the identity has path and from, and opens nothing.
func (p place) findIdentity(mayMake bool) (identity, error) {
	if named := p.getenv(varIdentityFile); named != "" {
		id := identity{path: named, from: varIdentityFile}
		path := filepath.Clean(named)
		switch {
		case !filepath.IsAbs(named): // a ~ that no shell expanded, and a folder that is another one each time
			return id, fmt.Errorf("%s is not an absolute path; write it from / on", oneLine(named))
		case slices.Contains(p.ownFiles(ListenConfig{}), path):
			return id, fmt.Errorf("%s is a file of stsbroker's own; give the identity a path of its own", path)
		}
		raw, err := securefile.Read(path, seal.IdentityLimit)
		if errors.Is(err, fs.ErrNotExist) {
			if !mayMake {
				return identity{}, nil
			}
			if err := makeIdentity(path); err != nil {
				return id, fmt.Errorf("%w; a file that age-keygen makes will do as well", err)
			}
			id.made = true
			raw, err = securefile.Read(path, seal.IdentityLimit)
		}
		return id.parse(raw, err)
	}
	if p.credentials == "" {
		return identity{}, nil
	}
	id := identity{path: filepath.Join(p.credentials, systemdIdentity), from: "the systemd credential " + systemdIdentity}
	raw, err := securefile.ReadCredential(id.path, seal.IdentityLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return identity{}, nil
	}
	return id.parse(raw, err)
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

// leaseStore is where leases rest: sealed in the state folder where there is an
// identity, else in memory. An embedded broker, beside which a daemon may run, reads
// the file and leaves it as it is; what is wrong with it is the daemon's to say.
// The state folder's lock is held by whoever is not embedded.
func (a *app) leaseStore(embedded bool) (broker.LeaseStore, error) {
	id, err := a.findIdentity(!embedded)
	if embedded {
		if err == nil && !id.IsZero() {
			if s, err := sealedfile.Peek(a.leasesFile(), id.Identity); err == nil {
				return s, nil
			}
		}
		return cache.NewMemory(), nil
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", id.from, err)
	case id.IsZero():
		return cache.NewMemory(), nil
	case id.made:
		a.log.Info("made an identity for sealed state", zap.String("file", id.path))
	}
	s, aside, why, err := sealedfile.Open(sealedfile.Options{Path: a.leasesFile(), Identity: id.Identity, Report: func(err error) {
		if err == nil {
			a.log.Info("leases are saved again", zap.String("file", a.leasesFile()))
			return
		}
		a.log.Warn("leases are not saved: a restart now would mint what is held anew", zap.String("file", a.leasesFile()), zap.Error(err))
	}})
	switch {
	case err != nil:
		return nil, err
	case aside != "":
		a.log.Warn("the sealed leases could not be opened and were moved aside", zap.String("file", aside), zap.Error(why), zap.String("identity", id.path))
	case why != nil:
		a.log.Warn("sealed leases", zap.String("file", a.leasesFile()), zap.Error(why))
	}
	a.leases, a.identity = s, id
	return s, nil
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
	if a.leases == nil {
		return nil
	}
	out := &control.Sealed{File: a.leasesFile(), Identity: a.identity.path, From: a.identity.from}
	unsaved, err := a.leases.Standing()
	out.Unsaved = unsaved
	if err != nil {
		out.Error = err.Error()
	}
	// What cannot be looked at is not on the same disk any more: a key taken out.
	out.SameDisk, _ = securefile.SameDisk(a.identity.path, a.state)
	return out
}

// checkIdentity is what check says of the identity. serve would make a missing one.
func (p place) checkIdentity() []Finding {
	id, err := p.findIdentity(false)
	switch {
	case err != nil:
		return []Finding{{File: id.path, Severity: SeverityError, Text: "the identity of " + id.from + " cannot be used: " + err.Error()}}
	case id.IsZero():
		return nil
	}
	if err := sealedfile.Readable(p.leasesFile()); err != nil {
		return []Finding{{File: p.leasesFile(), Severity: SeverityError, Text: err.Error()}}
	}
	return nil
}
