package access

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// A token is "stsb1_" ID "_" MAC: visible ASCII without a newline, because it
// travels in an HTTP header and SDKs refuse one with a newline (wire contract,
// line 5). ID is 16 hex digits; MAC is HMAC-SHA256 in unpadded base64url.
const (
	tokenPrefix = "stsb1_"
	idLength    = 16
	macLength   = 43
	tokenLength = len(tokenPrefix) + idLength + 1 + macLength

	tokenLabel = "stsbroker token v1"
	fileLabel  = "stsbroker file v1" // of the ids of a file's tokens
	keyLabel   = "stsbroker key v1"  // see [Tokens.Key]
)

// Kind says how a token came about, and so how long it lives.
type Kind string

// Kinds.
const (
	KindNamed Kind = "named" // made for a service; until revoked
	KindEnv   Kind = "env"   // printed into a shell; until it was idle for [EnvIdle]
	KindExec  Kind = "exec"  // given to one child process; until that ends
	KindFile  Kind = "file"  // in a file that the broker rewrites; see [Tokens.Rotate]
)

// onDisk reports whether tokens of the kind are in the list on disk.
func (k Kind) onDisk() bool { return k == KindNamed || k == KindEnv }

// EnvIdle is how long a token of [KindEnv] lives without being used or printed. A
// client that holds a set which it fetched with it is using it, until that expires.
const EnvIdle = 12 * time.Hour

// Info is what may be told of a token: everything but its value.
type Info struct {
	ID       string    `json:"id"`
	Name     string    `json:"name,omitempty"` // of a file's token, the file's; "" for env and exec tokens
	Kind     Kind      `json:"kind"`
	Profiles []string  `json:"profiles"` // the first is the default
	UID      uint32    `json:"uid"`      // of whom it was made for; means nothing for a named token that is not bound
	Bound    bool      `json:"bound"`    // whether it is good only in the hands of UID
	Created  time.Time `json:"created"`  // of a file's token, the beginning of its period
	LastUsed time.Time `json:"last_used,omitzero"`
	Expires  time.Time `json:"expires,omitzero"` // if it is not used again; zero for never
}

// Issued is a token at the moment it is handed out.
type Issued struct {
	Info
	Token   broker.Secret
	Revoked <-chan struct{} // of exec's tokens: closed when it is revoked
}

// derive returns the value of a token. What exec's are good for goes into theirs:
// one that is shown to go on with can only be for the same user and profile, and
// no other kind of token can be taken for one.
func derive(secret broker.Secret, k *token) string {
	message := k.grant.ID
	switch k.kind {
	case KindFile: // made anew from the same id, and so not to be had for another kind's
		message = string(KindFile) + " " + k.grant.ID
	case KindExec:
		message = fmt.Sprintf("%s %d %v %s %s", KindExec, k.uid, k.grant.BoundUID, k.grant.ID, k.grant.Profiles[0])
	}
	return tokenPrefix + k.grant.ID + "_" + base64.RawURLEncoding.EncodeToString(mac(secret, tokenLabel, message))
}

// seal notes what the token's value is recognised by, when all else of it is set.
func (k *token) seal(secret broker.Secret) {
	k.hash = sha256.Sum256([]byte(derive(secret, k)))
	if !k.grant.BoundUID && (k.kind == KindNamed || k.kind == KindFile) {
		asking := k.grant
		asking.NeedsPeer = true
		k.asking = &asking
	}
}

// mac is HMAC-SHA256 over a label, which keeps different uses of the secret
// apart, and a message.
func mac(secret broker.Secret, label, message string) []byte {
	h := hmac.New(sha256.New, []byte(secret.Reveal()))
	h.Write([]byte(label))
	h.Write([]byte{0})
	h.Write([]byte(message))
	return h.Sum(nil)
}

// Key returns a key for a purpose of others, such as the tokens of a door that
// makes its own. The same secret gives the same key, after a restart too, and
// no two purposes have the same. There is none while tokens are locked: ask again.
func (t *Tokens) Key(purpose string) (key broker.Secret, ok bool) {
	if t.whileLocked() != nil {
		return broker.Secret{}, false
	}
	return broker.NewSecret(string(mac(t.secret, keyLabel, purpose))), true
}

// IsToken reports whether this has the shape of a token, of this broker or another.
func IsToken(s string) bool {
	_, ok := idOf(s)
	return ok
}

// idOf returns the id in a token, and whether the token has the right shape.
func idOf(token string) (string, bool) {
	if len(token) != tokenLength || token[:len(tokenPrefix)] != tokenPrefix || token[len(tokenPrefix)+idLength] != '_' {
		return "", false
	}
	return token[len(tokenPrefix) : len(tokenPrefix)+idLength], true
}

func newID() string {
	var b [idLength / 2]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func isID(s string) bool {
	_, err := hex.DecodeString(s)
	return len(s) == idLength && err == nil
}
