// Package seal closes and opens what rests on disk, in the age format
// (age-encryption.org/v1). Whoever holds an [Identity] opens what was sealed for
// it; everybody else sees random bytes, and changes none of them unnoticed.
//
// Where an identity comes from, and who may read its file, is the caller's matter.
package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// IdentityLimit is more than any identity file has, in bytes.
const IdentityLimit = 64 << 10

var errOther = errors.New("it was sealed for another identity, or its head is damaged")

// mostRecipients is how many a file may have been sealed for; [Identity.Seal] has one.
const mostRecipients = 4

// Identity opens what was sealed for it, and seals for itself. The zero value is
// no identity. Nothing prints it.
type Identity struct {
	all []age.Identity
	to  age.Recipient // of the first of them
}

// ParseIdentity reads an identity file of age: one identity a line, empty lines and
// those that begin with # aside. The first identity seals and all of them open, so
// that one can be replaced: the new one goes before the old.
//
// Known are age's native identities, X25519 and hybrid post-quantum ones; for others
// see [KindOfIdentity]. The error names the line and never what is on it.
func ParseIdentity(text []byte) (Identity, error) {
	var id Identity
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimRight(line, "\r\n")
		var (
			one age.Identity
			to  age.Recipient
			err error
		)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
			continue
		case strings.HasPrefix(line, "AGE-SECRET-KEY-1"):
			var x *age.X25519Identity
			if x, err = age.ParseX25519Identity(line); err == nil {
				one, to = x, x.Recipient()
			}
		case strings.HasPrefix(line, "AGE-SECRET-KEY-PQ-1"):
			var h *age.HybridIdentity
			if h, err = age.ParseHybridIdentity(line); err == nil {
				one, to = h, h.Recipient()
			}
		case strings.HasPrefix(line, "AGE-PLUGIN-"):
			// The program would be run at each save, for as long as it likes, and a daemon has
			// nobody to touch a key for it: see [OpenPlugin].
			if plugins, _ := splitPlugin(text); plugins == nil {
				return Identity{}, fmt.Errorf("line %d is the identity of a plugin, and other lines are not; keep them in files of their own", n)
			}
			return Identity{}, fmt.Errorf("line %d is the identity of a plugin, which a person has to run; stsbroker unlock opens it", n)
		case strings.HasPrefix(line, "age-encryption.org/"), strings.HasPrefix(line, armor.Header):
			if isScrypt(text) {
				return Identity{}, errors.New("it is sealed by a passphrase; stsbroker unlock opens it")
			}
			return Identity{}, errors.New("it is sealed itself, and not by a passphrase; decrypt it first")
		default:
			return Identity{}, fmt.Errorf("line %d is not an age identity; age-keygen makes one", n)
		}
		if err != nil { // it may quote the line
			return Identity{}, fmt.Errorf("line %d is a damaged age identity: it was mistyped or cut short", n)
		}
		if id.all = append(id.all, one); id.to == nil {
			id.to = to
		}
	}
	if id.IsZero() {
		return Identity{}, errors.New("it holds no age identity; age-keygen makes one")
	}
	return id, nil
}

// MakeIdentity returns the text of a file with a new identity, as age-keygen writes
// it. It is a hybrid one, since what it seals may be read off a stolen disk long after.
func MakeIdentity() ([]byte, error) {
	h, err := age.GenerateHybridIdentity()
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "# created: %s\n# An age identity (age 1.3 or newer). It opens what stsbroker seals: keep it to yourself.\n%s\n", time.Now().UTC().Format(time.RFC3339), h), nil
}

// IsZero reports whether this is no identity.
func (id Identity) IsZero() bool { return id.to == nil }

// Format implements fmt.Formatter: age's own identities print themselves.
func (Identity) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, "[identity]") }

// Same reports whether the two have any identity in common.
func (id Identity) Same(other Identity) bool {
	for _, a := range id.all {
		for _, b := range other.all {
			if name := recipientOf(a); name != "" && name == recipientOf(b) {
				return true
			}
		}
	}
	return false
}

// recipientOf is the public half of an identity.
func recipientOf(one age.Identity) string {
	switch one := one.(type) {
	case *age.X25519Identity:
		return one.Recipient().String()
	case *age.HybridIdentity:
		return one.Recipient().String()
	}
	return ""
}

// Seal returns plain as an age file that the identity opens.
func (id Identity) Seal(plain []byte) ([]byte, error) { return id.Sealer().Seal(plain) }

// Sealer returns what only seals for the identity.
func (id Identity) Sealer() Sealer { return Sealer{id.to} }

// Sealer seals for an identity, and opens nothing: what a program may keep after the
// identity was taken from it. The zero value seals nothing. Nothing prints it: whoever
// knows a recipient can forge what was sealed for it.
type Sealer struct{ to age.Recipient }

// IsZero reports whether there is nobody to seal for.
func (s Sealer) IsZero() bool { return s.to == nil }

// Format implements fmt.Formatter.
func (Sealer) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, "[sealer]") }

// Seal returns plain as an age file that the identity opens.
func (s Sealer) Seal(plain []byte) ([]byte, error) {
	if s.IsZero() {
		return nil, errors.New("there is no identity to seal for")
	}
	return encrypt(plain, s.to)
}

func encrypt(plain []byte, to ...age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to...)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Open returns what an age file holds, at most limit bytes of it. An error tells
// that the file is not for this identity, was changed or cut short, or holds more:
// then nothing of it is returned.
func (id Identity) Open(sealed []byte, limit int64) ([]byte, error) {
	if id.IsZero() {
		return nil, errors.New("there is no identity to open it with")
	}
	sealed, err := unarmor(sealed) // people seal by hand, too
	if err != nil {
		return nil, err
	}
	return decrypt(sealed, limit, id.all...)
}

// crowded tells of a head that names too many recipients: it may name a thousand, each
// of which would be tried with each identity (age-encryption.org/v1, "Recipient
// stanza"); ours names one.
func crowded(sealed []byte) bool {
	head, _, _ := bytes.Cut(sealed, []byte("\n--- "))
	return bytes.Count(head, []byte("\n-> ")) > mostRecipients
}

// damaged is the error of an age file that is not whole. What age says of it is inside,
// and not in the words: it quotes what it read, which may never have been sealed.
type damaged struct{ error }

func (damaged) Error() string   { return "it is damaged, or was cut short" }
func (d damaged) Unwrap() error { return d.error }

func decrypt(sealed []byte, limit int64, ids ...age.Identity) ([]byte, error) {
	if !bytes.HasPrefix(sealed, []byte(ageHead)) {
		return nil, errors.New("it is not sealed at all: it is no age file")
	}
	if crowded(sealed) {
		return nil, fmt.Errorf("it was sealed for more than %d identities", mostRecipients)
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), ids...)
	if none := (*age.NoIdentityMatchError)(nil); errors.As(err, &none) {
		return nil, errOther
	}
	if err != nil {
		return nil, damaged{err}
	}
	plain, err := io.ReadAll(io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return nil, damaged{err}
	case int64(len(plain)) > limit:
		return nil, fmt.Errorf("it holds more than %d bytes", limit)
	}
	return plain, nil
}
