package stsfake

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// kind of principal: it decides what of STS may be called.
type kind uint8

const (
	kindUser kind = iota
	kindRoot
	kindRole
	kindFederated
	kindTask // a session of AssumeRoot
)

// principal is who signs a call.
type principal struct {
	Kind    kind `json:",omitempty"`
	ARN     string
	UserID  string
	Account string
	Role    string `json:",omitempty"` // the role's ARN, for a role session
	Session bool   // signs with session credentials
	MFA     bool   `json:",omitempty"` // a session that GetSessionToken minted with a code

	SourceIdentity string         `json:",omitempty"`
	Tags           map[string]tag `json:",omitempty"` // the transitive ones, by key in lower case
}

// Purposes of seals.
const (
	purposeSession = "session"
	purposeMessage = "message"
	purposeTradeIn = "trade-in"
	purposeContext = "context"
	purposeAccess  = "access"
)

// session is what a session token says. It travels inside the token, under the
// server's seal, so that nothing has to be remembered for any time.
type session struct {
	KeyID     string
	Principal principal
	Expires   time.Time
}

// issue makes credentials for p.
func (q *request) issue(p principal, life time.Duration) xmlMint {
	life = q.lifeOf(life)
	p.Session = true
	s := session{KeyID: q.sessionKeyID(p.Account), Principal: p, Expires: q.now.Add(life).Truncate(time.Second).UTC()}
	q.call.Life, q.call.KeyID = life, s.KeyID
	// What a fault spoils is no mint: nobody gets to use it.
	q.call.Minted = q.fault.Kind == FaultNone || q.fault.Kind == FaultDurationTooLong
	c := xmlCredentials{
		AccessKeyId:     s.KeyID,
		SecretAccessKey: q.secretOf(s.KeyID),
		SessionToken:    q.seal(purposeSession, s),
		Expiration:      s.Expires.Format(time.RFC3339),
	}
	switch q.fault.Kind {
	case FaultEmpty:
		c = xmlCredentials{Expiration: c.Expiration}
	case FaultExpired:
		c.Expiration = q.now.Add(-time.Minute).UTC().Format(time.RFC3339)
	}
	return xmlMint{c, len(c.SessionToken), min(100, percent(len(c.SessionToken), tokenBudget))}
}

// secretOf derives the secret of a session's key, 40 characters as AWS's are.
func (s *Server) secretOf(keyID string) string {
	return base64.StdEncoding.EncodeToString(mac(s.key[:], "secret "+keyID))[:40]
}

// seal writes v so that only open with the same purpose reads it. It is
// authentic, not secret.
func (s *Server) seal(purpose string, v any) string {
	b, _ := json.Marshal(v)
	return sealEncoding(purpose).EncodeToString(append(mac(s.key[:], purpose+" "+string(b)), b...))
}

func (s *Server) open(purpose, token string, v any) bool {
	if strings.ContainsAny(token, "\r\n") { // which the decoder would skip
		return false
	}
	b, err := sealEncoding(purpose).DecodeString(token)
	if err != nil || len(b) < sha256.Size || !hmac.Equal(b[:sha256.Size], mac(s.key[:], purpose+" "+string(b[sha256.Size:]))) {
		return false
	}
	return json.Unmarshal(b[sha256.Size:], v) == nil
}

// sealEncoding is AWS's: encoded messages are safe in URLs, session tokens are not.
func sealEncoding(purpose string) *base64.Encoding {
	if purpose == purposeMessage {
		return base64.RawURLEncoding
	}
	return base64.StdEncoding
}

// sessionKeyID makes the id of a session's key, 20 characters as AWS's are. It
// holds the account as AWS's ids do, in 40 bits of the first 48 after the
// prefix: so GetAccessKeyInfo works with nothing remembered. The rest counts.
func (s *Server) sessionKeyID(account string) string {
	n, _ := strconv.ParseUint(account, 10, 40)
	serial := s.serial.Add(1)
	var b [10]byte
	binary.BigEndian.PutUint64(b[:], n<<23|(serial>>32&0x7f)<<16)
	binary.BigEndian.PutUint32(b[6:], uint32(serial))
	return "ASIA" + base32.StdEncoding.EncodeToString(b[:])
}

// accountOf reads the account out of a session's key id; "" for none.
func accountOf(keyID string) string {
	if len(keyID) != 20 || keyID[:4] != "ASIA" {
		return ""
	}
	b, err := base32.StdEncoding.DecodeString(keyID[4:])
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%012d", binary.BigEndian.Uint64(b)>>23&(1<<40-1))
}

// userID makes the stable unique id that IAM gives a user or role.
func userID(prefix, name string) string {
	sum := sha256.Sum256([]byte(name))
	return prefix + base32.StdEncoding.EncodeToString(sum[:10])
}
