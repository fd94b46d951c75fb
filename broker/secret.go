package broker

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[secret]"

// Secret holds a value that no formatting verb, encoder or logger prints.
// The only way to the value is [Secret.Reveal], so that every use can be found
// by searching for that word.
//
// The value sits behind a pointer: package fmt reads unexported fields by
// reflection without asking their methods, and of a nested pointer it prints
// the address.
type Secret struct{ p *string }

// NewSecret wraps a value. The empty string gives the zero Secret.
func NewSecret(v string) Secret {
	if v == "" {
		return Secret{}
	}
	return Secret{&v}
}

// Reveal returns the value, "" for the zero Secret.
func (s Secret) Reveal() string {
	if s.p == nil {
		return ""
	}
	return *s.p
}

// IsZero reports whether there is no value.
func (s Secret) IsZero() bool { return s.p == nil }

// Equal compares two values in constant time for equal lengths.
func (s Secret) Equal(o Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(o.Reveal())) == 1
}

// Format implements fmt.Formatter for every verb.
func (s Secret) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, redacted) }

// String implements fmt.Stringer for code that calls it directly.
func (s Secret) String() string { return redacted }

// GoString implements fmt.GoStringer for code that calls it directly.
func (s Secret) GoString() string { return redacted }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler (JSON, XML, YAML).
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON implements json.Marshaler.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// GobEncode refuses: a redacted value would come back as if it were real.
func (s Secret) GobEncode() ([]byte, error) { return nil, errSecretEncode }

// MarshalBinary refuses, for the same reason.
func (s Secret) MarshalBinary() ([]byte, error) { return nil, errSecretEncode }

var errSecretEncode = errors.New("a secret is not encoded")
