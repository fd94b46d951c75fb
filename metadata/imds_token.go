package metadata

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// A session token of the IMDS door is when it ends and a MAC over that and over
// all that it is good for, in unpadded base64url. Nothing is kept of it: no
// caller can use up room that another needs, and it outlives a restart. (Rust
// goes on showing its cached token after a 401.)
const (
	expirySize = 8 // bytes; Unix nanoseconds on the wall clock, which goes on in a suspend
	sealedSize = expirySize + sha256.Size
)

// strictBase64 takes one spelling of a value.
var strictBase64 = base64.RawURLEncoding.Strict()

// session is what a token is good for.
type session struct {
	uid     uint32
	at      netip.AddrPort // of the listener
	profile string
}

// seal returns the token of s until expires.
func (s session) seal(key broker.Secret, expires time.Time) string {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, sealedSize), uint64(expires.UnixNano()))
	return strictBase64.EncodeToString(append(b, s.mac(key, b)...))
}

// admits reports whether the token is one of s and has not ended. Comparing
// takes constant time.
func (s session) admits(key broker.Secret, token string, now time.Time) bool {
	b, err := strictBase64.DecodeString(token)
	if err != nil || len(b) != sealedSize || !hmac.Equal(b[expirySize:], s.mac(key, b[:expirySize])) {
		return false
	}
	return now.UnixNano() < int64(binary.BigEndian.Uint64(b))
}

func (s session) mac(key broker.Secret, expiry []byte) []byte {
	return derive(key, "token", fmt.Sprintf("%x %d %s %s", expiry, s.uid, s.at, s.profile))
}

// derive is HMAC-SHA256 over a label, which keeps different uses of the key
// apart, and a message.
func derive(key broker.Secret, label, message string) []byte {
	h := hmac.New(sha256.New, []byte(key.Reveal()))
	h.Write([]byte(label + "\x00" + message))
	return h.Sum(nil)
}
