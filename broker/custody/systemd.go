package custody

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// Systemd is the key in the systemd credential of that name: in the file NAME of dir,
// which is the service's $CREDENTIALS_DIRECTORY (systemd.exec(5), "Credentials"), in
// one of the forms of [ParsePair]. It is read again at every call; systemd itself
// replaces it at a restart of the service only.
//
// The file is judged as [securefile.ReadCredential] does.
func Systemd(dir, name string) Source {
	return func(context.Context) (broker.Material, error) {
		p, err := readCredential(dir, name)
		return p.Material(), err
	}
}

func readCredential(dir, name string) (Pair, error) {
	if dir == "" {
		return Pair{}, fault("there is no $CREDENTIALS_DIRECTORY to read the key %s from: run stsbroker as a systemd service with LoadCredentialEncrypted=%[1]s:FILE", name)
	}
	if !ValidName(name) {
		return Pair{}, fault("%q cannot be the name of a key", name)
	}
	path := filepath.Join(dir, name)
	text, err := securefile.ReadCredential(path, recordLimit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Pair{}, fault("there is no credential %s: give the service one, with LoadCredentialEncrypted=%[1]s:FILE in its unit", name)
	case err != nil:
		return Pair{}, fault("the credential %s is not read for a key: %v", name, err)
	}
	return parsePair(path, text)
}
