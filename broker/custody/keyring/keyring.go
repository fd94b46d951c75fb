// Package keyring keeps long-term keys, and the identity that opens sealed state, in
// the keyring of the operating system: the Secret Service of Linux desktops, the
// Keychain of macOS, the Credential Manager of Windows. Its type is a chest of package
// custody.
//
// A daemon asks nobody: no method but [Keyring.Unlock] makes a Linux desktop prompt. A
// keyring that is locked is an error, and so is one that does not answer. macOS may
// show a dialogue of its own where the user chose to lock the login keychain.
//
// Items have the attributes "service" (always "stsbroker") and "username" ("identity",
// or "key/" and a name), by which secret-tool and keyring programs find them.
package keyring

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

const (
	service  = "stsbroker"
	identity = "identity"

	limit       = 5 * time.Second // of a call; a person's keyring answers in milliseconds
	unlockLimit = 2 * time.Minute // for a person to type a password
)

// MaxSize is the largest record, in bytes: Windows takes no more of a credential, and
// macOS hardly more. It is the same everywhere, so that a record can move.
const MaxSize = 2560

// Keyring is the keyring of the user who runs the process. It is safe for concurrent
// use; calls go one after the other.
//
// Errors are [*broker.Error] but for [fs.ErrNotExist]: [broker.KindLocked] where a
// person must unlock it, [broker.KindConfig] where there is none or it refuses,
// [broker.KindUnavailable] where it does not answer in five seconds.
type Keyring struct {
	back  backend
	turn  chan struct{} // held by the call that is under way, even when nobody waits for it any more
	limit time.Duration
}

// backend is a keyring of some system. Its errors are those of [Keyring].
type backend interface {
	get(ctx context.Context, user string) ([]byte, error)
	put(ctx context.Context, user string, secret []byte) error
	remove(ctx context.Context, user string) error // of nothing is no error
	unlock(ctx context.Context) error
}

// New returns the keyring, and looks for it at each call. getenv tells where the
// session bus is, on Linux; nil is os.Getenv.
func New(getenv func(string) string) *Keyring {
	if getenv == nil {
		getenv = os.Getenv
	}
	return &Keyring{back: newBackend(getenv), turn: make(chan struct{}, 1), limit: limit}
}

// Get returns the record of a key.
func (k *Keyring) Get(ctx context.Context, name string) ([]byte, error) {
	return k.get(ctx, keyUser(name))
}

// Put keeps the record of a key, in the place of one of that name. What the keyring
// took is read back before it returns.
func (k *Keyring) Put(ctx context.Context, name string, record []byte) error {
	return k.put(ctx, keyUser(name), record)
}

// Delete forgets the record of a key. There need not be one.
func (k *Keyring) Delete(ctx context.Context, name string) error {
	return k.remove(ctx, keyUser(name))
}

// Identity returns the text of the identity, as [Keyring.PutIdentity] was given it.
func (k *Keyring) Identity(ctx context.Context) ([]byte, error) { return k.get(ctx, identity) }

// PutIdentity is [Keyring.Put] for the identity.
func (k *Keyring) PutIdentity(ctx context.Context, text []byte) error {
	return k.put(ctx, identity, text)
}

// DeleteIdentity is [Keyring.Delete] for the identity: what is sealed for it cannot
// be opened any more.
func (k *Keyring) DeleteIdentity(ctx context.Context) error { return k.remove(ctx, identity) }

// Unlock has the desktop ask its user for the password, where the keyring is locked,
// and waits for two minutes at most. It is for a command that a person just typed, and
// for nothing else.
func (k *Keyring) Unlock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, unlockLimit)
	defer cancel()
	err := k.back.unlock(ctx)
	if err != nil && ctx.Err() != nil {
		return &broker.Error{Kind: broker.KindLocked, Own: true, Public: "nobody unlocked the OS keyring in time", Cause: ctx.Err()}
	}
	return err
}

func keyUser(name string) string { return "key/" + name }

func (k *Keyring) get(ctx context.Context, user string) ([]byte, error) {
	return k.call(ctx, func(ctx context.Context) ([]byte, error) { return k.back.get(ctx, user) })
}

func (k *Keyring) put(ctx context.Context, user string, secret []byte) error {
	if n := len(secret); n == 0 || n > MaxSize {
		return fault("what is to be kept has %d bytes, and an OS keyring takes 1 to %d: keep it sealed in the state folder instead (custody: sealed)", n, MaxSize)
	}
	_, err := k.call(ctx, func(ctx context.Context) ([]byte, error) {
		if err := k.back.put(ctx, user, secret); err != nil {
			return nil, err
		}
		switch kept, err := k.back.get(ctx, user); {
		case errors.Is(err, fs.ErrNotExist) || err == nil && string(kept) != string(secret):
			return nil, fault("the OS keyring did not keep what it was given; keep it sealed in the state folder instead (custody: sealed)")
		default:
			return nil, err
		}
	})
	return err
}

func (k *Keyring) remove(ctx context.Context, user string) error {
	_, err := k.call(ctx, func(ctx context.Context) ([]byte, error) { return nil, k.back.remove(ctx, user) })
	return err
}

// call runs f when it is its turn, and waits no longer than the limit. An f that hangs
// keeps the turn, so there is never more than one.
func (k *Keyring) call(ctx context.Context, f func(context.Context) ([]byte, error)) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, k.limit)
	defer cancel()
	select {
	case k.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, k.late(ctx.Err())
	}
	type answer struct {
		data []byte
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		data, err := f(ctx)
		<-k.turn
		done <- answer{data, err}
	}()
	select {
	case a := <-done:
		if a.err != nil && ctx.Err() != nil { // of a connection that was closed for it, say
			a.err = k.late(ctx.Err())
		}
		return a.data, a.err
	case <-ctx.Done():
		return nil, k.late(ctx.Err())
	}
}

func (k *Keyring) late(cause error) error {
	return &broker.Error{Kind: broker.KindUnavailable, Own: true, Cause: cause,
		Public: fmt.Sprintf("the OS keyring did not answer in %v; it is asked again at the next try", k.limit)}
}

func locked() error {
	return &broker.Error{Kind: broker.KindLocked, Own: true, Public: "the OS keyring is locked; unlock it (log in to the desktop), or run stsbroker unlock"}
}

func fault(format string, args ...any) error {
	return &broker.Error{Kind: broker.KindConfig, Own: true, Public: fmt.Sprintf(format, args...)}
}
