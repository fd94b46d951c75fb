package awssts

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/stsbroker/stsbroker/broker"
)

// Source is where a secret comes from that goes into a call: an identity token,
// an assertion, a code. It is read again at every mint. Commands that print one
// are in package process.
type Source interface {
	// Read returns the secret, not empty. Errors are [*broker.Error].
	Read(ctx context.Context) (broker.Secret, error)
	// Digest covers where it comes from, and never what it holds: that changes
	// while the lease stays the same.
	Digest() broker.Digest
	// A source that takes longer than reading a file also has Deadline() time.Duration.
}

// File is a [Source] in a file, white space around the secret dropped. what
// says what it holds, as in "web identity token".
func File(what, path string) Source { return file{what, path} }

type file struct{ what, path string }

// Digest implements [Source].
func (f file) Digest() broker.Digest { return broker.DigestOf("file", f.path) }

// maxInput is the longest secret, in bytes: what STS takes for a SAML assertion,
// which is the longest of all.
const maxInput = 100_000

// Read implements [Source]. A file that is empty may just be being written,
// which passes; any other trouble is for a person to mend.
func (f file) Read(context.Context) (broker.Secret, error) {
	fault := func(kind broker.Kind, what string, cause error) (broker.Secret, error) {
		return broker.Secret{}, &broker.Error{Kind: kind, Own: true, Public: fmt.Sprintf("%s file %s: %s", f.what, clean(f.path), what), Cause: cause}
	}
	// Looking before opening keeps a FIFO from blocking the mint.
	info, err := os.Stat(f.path)
	if err != nil {
		return fault(broker.KindConfig, "cannot be read; check the path and who may read it", err)
	}
	if !info.Mode().IsRegular() {
		return fault(broker.KindConfig, "is not a regular file", nil)
	}
	open, err := os.Open(f.path)
	if err != nil {
		return fault(broker.KindConfig, "cannot be read; check who may read it", err)
	}
	defer open.Close()
	b, err := io.ReadAll(io.LimitReader(open, maxInput+1))
	switch secret := strings.TrimSpace(string(b)); {
	case err != nil:
		return fault(broker.KindUnavailable, "cannot be read", err)
	case len(b) > maxInput:
		return fault(broker.KindConfig, fmt.Sprintf("is longer than %d characters, which STS takes of nothing", maxInput), nil)
	case secret == "":
		return fault(broker.KindUnavailable, "is empty; it is read again at the next try", nil)
	default:
		return broker.NewSecret(secret), nil
	}
}

// MFA is the second factor of a mint. The zero value is none.
type MFA struct {
	Serial  string // of a hardware device, or the ARN of a virtual one
	Process Source // prints a code; nil when a person gives it, see [broker.MintInput]
}

// code returns the code to send, zero when there is no device.
func (m MFA) code(ctx context.Context, given broker.Secret) (broker.Secret, error) {
	if m.Serial == "" {
		return broker.Secret{}, nil
	}
	code := given
	if code.IsZero() && m.Process == nil {
		return code, &broker.Error{Kind: broker.KindLoginNeeded, Public: "a code of the MFA device " + clean(m.Serial) + " is needed"}
	}
	if code.IsZero() {
		var err error
		if code, err = m.Process.Read(ctx); err != nil {
			return code, err
		}
	}
	if !isCode(code.Reveal()) {
		return code, &broker.Error{Kind: broker.KindDenied, Own: true, Public: "what was given as code of the MFA device " + clean(m.Serial) + " is not six digits"}
	}
	return code, nil
}

// isCode reports whether v has the form of the API's TokenCode.
func isCode(v string) bool { return len(v) == 6 && strings.Trim(v, "0123456789") == "" }
