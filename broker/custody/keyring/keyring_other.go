//go:build !linux

package keyring

import (
	"context"
	"errors"
	"io/fs"
	"os/exec"

	"github.com/zalando/go-keyring"

	"github.com/stsbroker/stsbroker/broker"
)

// systemKeyring is the Keychain of macOS, through /usr/bin/security (which reads what
// it is to keep from its standard input), or Windows' Credential Manager. Its calls
// know no context: [Keyring] bounds them.
type systemKeyring struct{}

func newBackend(func(string) string) backend { return systemKeyring{} }

func (systemKeyring) get(_ context.Context, user string) ([]byte, error) {
	text, err := keyring.Get(service, user)
	return []byte(text), failed(err)
}

func (systemKeyring) put(_ context.Context, user string, secret []byte) error {
	return failed(keyring.Set(service, user, string(secret)))
}

func (systemKeyring) remove(_ context.Context, user string) error {
	if err := failed(keyring.Delete(service, user)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// unlock has nothing to do: both are open while their user is logged in.
func (systemKeyring) unlock(context.Context) error { return nil }

// interactionNotAllowed is how security ends where a keychain is locked and nobody can
// be asked: errSecInteractionNotAllowed, of which a status keeps eight bits.
const interactionNotAllowed = 36

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

func failed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, keyring.ErrNotFound):
		return fs.ErrNotExist
	case exitCode(err) == interactionNotAllowed:
		return locked()
	case errors.Is(err, keyring.ErrUnsupportedPlatform):
		return fault("there is no OS keyring that stsbroker knows on this system: keep keys sealed in the state folder instead (custody: sealed)")
	case errors.Is(err, keyring.ErrSetDataTooBig):
		return fault("the record is too large for the OS keyring: keep the key sealed in the state folder instead (custody: sealed)")
	}
	// Its own words may hold what a program printed: they go to the log, and no secret is among them.
	return &broker.Error{Kind: broker.KindUnavailable, Own: true, Public: "the OS keyring refused; see that you are logged in and that it is unlocked", Cause: err}
}
