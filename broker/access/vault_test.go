package access

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/vault"
	"github.com/stsbroker/stsbroker/internal/seal"
)

func newIdentity(t *testing.T) seal.Identity {
	t.Helper()
	return must[seal.Identity](t)(seal.ParseIdentity(must[[]byte](t)(seal.MakeIdentity())))
}

func opened(dir string, id seal.Identity) *vault.Vault {
	v := vault.New(dir)
	v.Open(id)
	return v
}

func lockedVault(dir string) *vault.Vault {
	v := vault.New(dir)
	v.SetLocked("")
	return v
}

func openWith(t *testing.T, dir string, v Vault) *Tokens {
	t.Helper()
	tokens, err := Open(dir, v)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tokens.Close() })
	return tokens
}

func shut(t *testing.T, tokens *Tokens) {
	t.Helper()
	if err := tokens.Close(); err != nil {
		t.Fatal(err)
	}
}

func there(t *testing.T, dir, name string) bool {
	t.Helper()
	_, err := os.Lstat(filepath.Join(dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// works reports whether the token is recognised, and fails the test for anything but
// yes and locked.
func works(t *testing.T, tokens *Tokens, i Issued) bool {
	t.Helper()
	g, err := tokens.Authenticate(i.Token.Reveal())
	if err != nil {
		if kindOf(err) != "locked" {
			t.Errorf("the token: %v", err)
		}
		return false
	}
	who := broker.Caller{Door: broker.DoorContainer, Token: g.ID}
	if err := tokens.Authorize(t.Context(), who, "dev"); err != nil {
		t.Error(err)
	}
	return true
}

// nothingPlain fails if a file of the folder has the secret in it, in any form.
func nothingPlain(t *testing.T, dir string, secret broker.Secret) {
	t.Helper()
	raw := []byte(secret.Reveal())
	forms := [][]byte{raw, []byte(hex.EncodeToString(raw)), []byte(strings.ToUpper(hex.EncodeToString(raw)))}
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for i := range 3 { // at each place that base64 can put it
			text := e.EncodeToString(append(make([]byte, i), raw...))
			forms = append(forms, []byte(text[4:len(text)-4]))
		}
	}
	files := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		for i, f := range forms {
			if bytes.Contains(data, f) {
				t.Errorf("%s holds the secret (form %d)", e.Name(), i)
			}
		}
		return err
	})
	if err != nil || files < 2 {
		t.Errorf("%d files, %v", files, err)
	}
}

func TestSecretInTheVault(t *testing.T) {
	dir, id := filepath.Join(t.TempDir(), "state"), newIdentity(t)
	tokens := openWith(t, dir, opened(dir, id))
	i := must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil))
	if there(t, dir, secretFile) || !there(t, dir, sealedName) {
		t.Error("the secret is not in the vault alone")
	}
	nothingPlain(t, dir, tokens.secret)
	shut(t, tokens)

	tokens = openWith(t, dir, opened(dir, id))
	if !works(t, tokens, i) {
		t.Error("the token is not recognised after a restart")
	}
	shut(t, tokens)
}

// A secret of before there was an identity moves into the vault, and its tokens stay.
func TestSecretMovesIntoTheVault(t *testing.T) {
	for name, move := range map[string]func(t *testing.T, dir string, id seal.Identity) *Tokens{
		"at the start": func(t *testing.T, dir string, id seal.Identity) *Tokens {
			return openWith(t, dir, opened(dir, id))
		},
		"when it is unlocked": func(t *testing.T, dir string, id seal.Identity) *Tokens {
			v := lockedVault(dir)
			tokens := openWith(t, dir, v)
			if tokens.Locked() != nil {
				t.Error("locked, with a secret that is there to be read")
			}
			v.Open(id)
			if err := tokens.Unlock(); err != nil {
				t.Fatal(err)
			}
			return tokens
		},
		"when the identity is made": func(t *testing.T, dir string, id seal.Identity) *Tokens {
			v := vault.New(dir)
			tokens := openWith(t, dir, v)
			v.Open(id)
			if err := tokens.Unlock(); err != nil {
				t.Fatal(err)
			}
			return tokens
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, id := filepath.Join(t.TempDir(), "state"), newIdentity(t)
			tokens := openWith(t, dir, vault.New(dir)) // of which nobody has an identity
			i := must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil))
			if !there(t, dir, secretFile) || there(t, dir, sealedName) {
				t.Error("without an identity the secret is not in its file")
			}
			secret := tokens.secret
			shut(t, tokens)

			tokens = move(t, dir, id)
			if there(t, dir, secretFile) || !there(t, dir, sealedName) || !works(t, tokens, i) {
				t.Errorf("plain %v, sealed %v", there(t, dir, secretFile), there(t, dir, sealedName))
			}
			nothingPlain(t, dir, secret)
			if err := tokens.Unlock(); err != nil { // once more does nothing
				t.Error(err)
			}
			shut(t, tokens)
			if tokens = openWith(t, dir, opened(dir, id)); !works(t, tokens, i) {
				t.Error("the token is not recognised after the next start")
			}
		})
	}
}

// crashing is a vault whose process dies at a write, before or after it is done.
type crashing struct {
	*vault.Vault
	after bool
}

func (c crashing) Write(name string, plain []byte) error {
	if c.after {
		if err := c.Vault.Write(name, plain); err != nil {
			return err
		}
	}
	panic("killed")
}

// Whenever the process dies while the secret moves, the next start has it, and the
// tokens of before.
func TestCrashWhileTheSecretMoves(t *testing.T) {
	for _, after := range []bool{false, true} {
		dir, id := filepath.Join(t.TempDir(), "state"), newIdentity(t)
		tokens := openWith(t, dir, nil)
		i := must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil))
		shut(t, tokens)
		func() {
			defer func() {
				if recover() != "killed" {
					t.Error("nothing was written")
				}
			}()
			_, _ = Open(dir, crashing{opened(dir, id), after})
		}()
		if !there(t, dir, secretFile) || there(t, dir, sealedName) != after {
			t.Errorf("plain %v, sealed %v", there(t, dir, secretFile), there(t, dir, sealedName))
		}
		copied := filepath.Join(t.TempDir(), "state") // the dead one's lock is still held in this process
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		for _, e := range must[[]os.DirEntry](t)(os.ReadDir(copied)) {
			if err := os.Chmod(filepath.Join(copied, e.Name()), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(copied, 0o700); err != nil { //nolint:gosec // a folder
			t.Fatal(err)
		}
		tokens = openWith(t, copied, opened(copied, id))
		if !works(t, tokens, i) || there(t, copied, secretFile) || !there(t, copied, sealedName) {
			t.Errorf("plain %v, sealed %v", there(t, copied, secretFile), there(t, copied, sealedName))
		}
	}
}

// Two secrets that differ are nobody's to choose from.
func TestTwoSecrets(t *testing.T) {
	dir, id := filepath.Join(t.TempDir(), "state"), newIdentity(t)
	tokens := openWith(t, dir, nil)
	must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil))
	shut(t, tokens)
	v := opened(dir, id)
	if err := v.Write(sealedName, bytes.Repeat([]byte("ab"), 16)); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, dir)
	if _, err := Open(dir, v); err == nil || !strings.Contains(err.Error(), "are different secrets") ||
		!strings.Contains(err.Error(), filepath.Join(dir, secretFile)) || !strings.Contains(err.Error(), filepath.Join(dir, sealedName)) {
		t.Errorf("%v", err)
	}
	if !slices.Equal(before, snapshot(t, dir)) {
		t.Error("something was changed")
	}
}

// snapshot is every file of the folder, with its content.
func snapshot(t *testing.T, dir string) (all []string) {
	t.Helper()
	for _, e := range must[[]os.DirEntry](t)(os.ReadDir(dir)) {
		all = append(all, e.Name()+"="+string(must[[]byte](t)(os.ReadFile(filepath.Join(dir, e.Name())))))
	}
	return all
}

// While the vault is locked, no token is recognised, made or listed, every call says so,
// and nothing on disk is touched; then all is as before.
func TestLocked(t *testing.T) {
	dir, id := filepath.Join(t.TempDir(), "state"), newIdentity(t)
	tokens := openWith(t, dir, opened(dir, id))
	i := must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil))
	env := must[Issued](t)(tokens.ForEnv(me, false, "dev"))
	if err := tokens.KeepFile(env.ID); err != nil {
		t.Fatal(err)
	}
	key, _ := tokens.Key("imds")
	shut(t, tokens)

	before := snapshot(t, dir)
	v := lockedVault(dir)
	tokens = openWith(t, dir, v)
	locked := func(what string, err error) {
		t.Helper()
		if kindOf(err) != "locked" || !strings.Contains(err.Error(), "stsbroker unlock") {
			t.Errorf("%s: %v", what, err)
		}
	}
	locked("standing", tokens.Locked())
	_, err := tokens.Authenticate(i.Token.Reveal())
	locked("a good token", err)
	_, err = tokens.Authenticate("x")
	if kindOf(err) != "unauthorized" {
		t.Errorf("what is no token: %v", err)
	}
	_, err = tokens.Create("new", []string{"dev"}, nil)
	locked("create", err)
	_, err = tokens.ForEnv(me, false, "dev")
	locked("env", err)
	_, _, err = tokens.ForChild(me, false, "dev", "")
	locked("exec", err)
	_, _, err = tokens.ForChild(me, false, "dev", i.Token.Reveal())
	locked("exec that goes on", err)
	_, _, err = tokens.Rotate("file", []string{"dev"}, nil, time.Now())
	locked("rotate", err)
	locked("keep", tokens.KeepFile(env.ID))
	locked("revoke", tokens.Revoke("ci"))
	_, err = tokens.Value("ci")
	locked("value", err)
	locked("unlock with the vault locked", tokens.Unlock())
	container := broker.Caller{Door: broker.DoorContainer, Token: i.ID}
	locked("authorize", tokens.Authorize(t.Context(), container, "dev"))
	socket := broker.Caller{Door: broker.DoorSocket, Peer: broker.NewPeer(uint32(os.Getuid()), 1)}
	if err := tokens.Authorize(t.Context(), socket, "dev"); err != nil && os.Getuid() >= 0 {
		t.Errorf("who needs no token: %v", err)
	}
	if _, ok := tokens.Key("imds"); ok || len(tokens.List()) != 0 || len(tokens.EnvFiles()) != 0 {
		t.Error("something is known of what is sealed")
	}
	tokens.Observe(broker.Event{Kind: broker.EventServed, Caller: container})
	if err := tokens.tidy(time.Now()); err != nil {
		t.Error(err)
	}
	if _, err := Open(dir, v); err == nil || !strings.Contains(err.Error(), "another stsbroker uses the state folder") {
		t.Errorf("the folder of a locked one: %v", err)
	}
	if !slices.Equal(before, snapshot(t, dir)) {
		t.Error("something was changed on disk")
	}

	// Another identity opens nothing, and does no harm.
	v.Open(newIdentity(t))
	if err := tokens.Unlock(); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, sealedName)) || tokens.Locked() == nil {
		t.Errorf("another identity: %v", err)
	}
	if !slices.Equal(before, snapshot(t, dir)) {
		t.Error("another identity changed something on disk")
	}
	v.Open(id)
	if err := tokens.Unlock(); err != nil {
		t.Fatal(err)
	}
	if again, ok := tokens.Key("imds"); !ok || !again.Equal(key) || tokens.Locked() != nil || len(tokens.List()) != 2 || len(tokens.EnvFiles()) != 1 {
		t.Error("not all is back")
	}
	if !works(t, tokens, i) {
		t.Error("the token of before is not recognised")
	}
	// A lock takes nothing from those who have a token.
	v.Lock()
	if !works(t, tokens, i) {
		t.Error("a lock ended a token")
	}
	must[Issued](t)(tokens.Create("later", []string{"dev"}, nil))
	shut(t, tokens)

	// Closed while locked: no harm.
	tokens = openWith(t, dir, lockedVault(dir))
	before = snapshot(t, dir)
	shut(t, tokens)
	if !slices.Equal(before, snapshot(t, dir)) {
		t.Error("closing changed something on disk")
	}
}

// There is no identity any more, and the secret is sealed: locked, and nothing is lost.
func TestNoIdentityAnyMore(t *testing.T) {
	dir, id := filepath.Join(t.TempDir(), "state"), newIdentity(t)
	tokens := openWith(t, dir, opened(dir, id))
	i := must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil))
	shut(t, tokens)
	before := snapshot(t, dir)
	for _, v := range []Vault{nil, vault.New(dir)} {
		tokens = openWith(t, dir, v)
		if works(t, tokens, i) || tokens.Locked() == nil || !strings.Contains(tokens.Locked().Error(), "no identity") {
			t.Errorf("%v", tokens.Locked())
		}
		if err := tokens.Unlock(); err == nil {
			t.Error("unlocked without an identity")
		}
		shut(t, tokens)
	}
	if !slices.Equal(before, snapshot(t, dir)) {
		t.Error("something was changed on disk")
	}
	if tokens = openWith(t, dir, opened(dir, id)); !works(t, tokens, i) {
		t.Error("the token is lost")
	}
}

// The first start of all, and nobody has unlocked yet: no plain secret is made.
func TestFirstStartLocked(t *testing.T) {
	dir, id := filepath.Join(t.TempDir(), "state"), newIdentity(t)
	v := lockedVault(dir)
	tokens := openWith(t, dir, v)
	if kindOf(tokens.Locked()) != "locked" || there(t, dir, secretFile) || there(t, dir, sealedName) {
		t.Errorf("%v", tokens.Locked())
	}
	v.Open(id)
	if err := tokens.Unlock(); err != nil {
		t.Fatal(err)
	}
	i := must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil))
	if there(t, dir, secretFile) || !works(t, tokens, i) {
		t.Error("not sealed, or no good")
	}
}

// What is wrong is said, and nothing is repaired, with a vault as without.
func TestWhatIsSealedIsDamaged(t *testing.T) {
	id := newIdentity(t)
	fresh := func(t *testing.T) (string, *vault.Vault) {
		dir := filepath.Join(t.TempDir(), "state")
		v := opened(dir, id)
		tokens := openWith(t, dir, v)
		must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil))
		shut(t, tokens)
		return dir, v
	}
	for name, secret := range map[string][]byte{"empty": nil, "short": make([]byte, 31), "long": bytes.Repeat([]byte("ab"), 17), "zeros": make([]byte, 32)} {
		dir, v := fresh(t)
		if err := v.Write(sealedName, secret); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, v); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, sealedName)+" is no token secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir, v := fresh(t)
	if err := v.Write(sealedName, bytes.Repeat([]byte("ab"), 16)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, v); err == nil || !strings.Contains(err.Error(), "belongs to another "+secretFile) {
		t.Errorf("the secret of another list: %v", err)
	}
	dir, v = fresh(t)
	if err := os.Remove(filepath.Join(dir, sealedName)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, v); err == nil || !strings.Contains(err.Error(), "is missing, while "+listFile) || there(t, dir, sealedName) || there(t, dir, secretFile) {
		t.Errorf("the secret is lost: %v", err)
	}
	// Cut short: it does not open, and so they are locked, with the file's name.
	dir, v = fresh(t)
	path := filepath.Join(dir, sealedName)
	raw := must[[]byte](t)(os.ReadFile(path))
	if err := os.WriteFile(path, raw[:len(raw)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	tokens := openWith(t, dir, v)
	if err := tokens.Locked(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
}
