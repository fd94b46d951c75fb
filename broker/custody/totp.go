package custody

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// A code is good for one step of time (RFC 6238, 4), in the form that AWS's virtual
// MFA devices use: SHA-1, 30 seconds, six digits.
const (
	codeStep   = 30 * time.Second
	codeDigits = 1_000_000
)

// Lengths of a seed: RFC 4226 asks for 128 bits, other issuers give 80, AWS 320.
const (
	minSeed = 10
	maxSeed = 256
)

// setBack is how many steps of time the clock may go back and still count as the
// same one: a correction, and not a clock that had been set wrong.
const setBack = 4

// parseSeed reads the seed as AWS shows it when a device is made: base32, in either
// case, with or without blanks, hyphens and padding. The error is a [*broker.Error]
// of [broker.KindConfig] that holds nothing of the text.
func parseSeed(text []byte) (broker.Secret, error) {
	plain := strings.Map(func(r rune) rune {
		if strings.ContainsRune(" \t\r\n-=", r) {
			return -1
		}
		return r
	}, strings.ToUpper(string(text)))
	encoding := base32.StdEncoding.WithPadding(base32.NoPadding)
	key, err := encoding.DecodeString(plain)
	whole := encoding.EncodedLen(len(key)) == len(plain) // no letter left over
	if err != nil || !whole || len(key) < minSeed || len(key) > maxSeed {
		return broker.Secret{}, fault("the seed of the MFA device is not one: it is the secret key that AWS shows for a virtual device, letters A to Z and digits 2 to 7; copy it again")
	}
	return broker.NewSecret(string(key)), nil
}

// used remembers up to which step of time codes were given.
type used struct {
	mu   sync.Mutex
	next uint64 // the first step whose code was not given yet
}

// code returns the code of this moment. AWS takes no code twice, so neither is one
// given twice: where this moment's was, it waits for the next, half a minute at most.
func (u *used) code(ctx context.Context, key broker.Secret) (broker.Secret, error) {
	for {
		now := time.Now()
		step, free := u.take(now)
		if free {
			return broker.NewSecret(codeOf(key, step)), nil
		}
		// The wall clock says when a step begins; after a suspend it is looked at again.
		wait := time.NewTimer(time.Unix(0, 0).Add(time.Duration(step+1) * codeStep).Sub(now))
		select {
		case <-ctx.Done():
			wait.Stop()
			return broker.Secret{}, &broker.Error{Kind: broker.KindUnavailable, Own: true, Cause: ctx.Err(),
				Public: "the MFA code of this half minute was used already, and the next did not come in time; it is tried again"}
		case <-wait.C:
		}
	}
}

// take reserves the code of this moment, and reports whether it was free. A step that
// lies a little behind one that was given is not. One that lies far behind is: the
// clock was wrong and was set back, and to wait until it is there again could take
// years. If that very step was given before, AWS refuses one code.
func (u *used) take(now time.Time) (step uint64, free bool) {
	step = uint64(max(now.Unix(), 0)) / uint64(codeStep/time.Second)
	u.mu.Lock()
	defer u.mu.Unlock()
	if step < u.next && u.next-step <= setBack {
		return step, false
	}
	u.next = step + 1
	return step, true
}

// codeOf is RFC 4226, 5.3, over a step of time.
func codeOf(key broker.Secret, step uint64) string {
	mac := hmac.New(sha1.New, []byte(key.Reveal()))
	_ = binary.Write(mac, binary.BigEndian, step) // a hash takes everything
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[at:])&0x7fffffff%codeDigits)
}

// SeedSource gives the codes of a seed that rests sealed in a file. It has the
// methods of a source of secrets that go into calls: Read, Digest and Deadline.
//
// One SeedSource must serve all that use the device: it is what knows which codes
// were given.
type SeedSource struct {
	path string
	open func(sealed []byte) ([]byte, error)
	used
}

// SeedFile is the sealed seed at path, which must be a private file (see
// [securefile.Read]). It is read and opened anew for each code, and kept nowhere;
// open returns the seed as AWS shows it: base32, in either case, with or without
// blanks, hyphens and padding. Its errors should be [*broker.Error], as
// [broker.Locked] where the identity is not there yet.
func SeedFile(path string, open func(sealed []byte) ([]byte, error)) *SeedSource {
	return &SeedSource{path: path, open: open}
}

// Read returns a code that was not given before, after up to half a minute.
func (s *SeedSource) Read(ctx context.Context) (broker.Secret, error) {
	const maxSealed = 64 << 10 // armor and the stanzas of post-quantum recipients take some
	sealed, err := securefile.Read(s.path, maxSealed)
	if err != nil {
		return broker.Secret{}, &broker.Error{Kind: broker.KindConfig, Own: true, Public: "the sealed MFA seed cannot be read: " + err.Error()}
	}
	text, err := s.open(sealed)
	if err != nil {
		return broker.Secret{}, err
	}
	key, err := parseSeed(text)
	clear(text)
	if err != nil {
		return broker.Secret{}, &broker.Error{Kind: broker.KindConfig, Own: true, Public: s.path + ": " + err.Error()}
	}
	return s.code(ctx, key)
}

// Digest covers where the seed is, and nothing of what it is.
func (s *SeedSource) Digest() broker.Digest { return broker.DigestOf("totp", s.path) }

// Deadline is how much time [SeedSource.Read] may need: that of a step, and a bit.
func (*SeedSource) Deadline() time.Duration { return codeStep + 2*time.Second }
