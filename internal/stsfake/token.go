package stsfake

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// principal is who signs a call.
type principal struct {
	ARN     string
	UserID  string
	Account string
	Role    string `json:",omitempty"` // the role's ARN, for a role session
	Session bool   // signs with session credentials
}

// session is what a session token says. It travels inside the token, under the
// server's seal, so that nothing has to be remembered for any time.
type session struct {
	KeyID     string
	Principal principal
	Expires   time.Time
}

// issue makes credentials for p.
func (q *request) issue(p principal, life time.Duration) xmlCredentials {
	life = q.lifeOf(life)
	p.Session = true
	s := session{KeyID: keyID("ASIA"), Principal: p, Expires: q.now.Add(life).Truncate(time.Second).UTC()}
	q.call.Life = life
	// What a fault spoils is no mint: nobody gets to use it.
	q.call.Minted = q.fault.Kind == FaultNone || q.fault.Kind == FaultDurationTooLong
	c := xmlCredentials{
		AccessKeyId:     s.KeyID,
		SecretAccessKey: q.secretOf(s.KeyID),
		SessionToken:    q.sealToken(s),
		Expiration:      s.Expires.Format(time.RFC3339),
	}
	switch q.fault.Kind {
	case FaultEmpty:
		c = xmlCredentials{Expiration: c.Expiration}
	case FaultExpired:
		c.Expiration = q.now.Add(-time.Minute).UTC().Format(time.RFC3339)
	}
	return c
}

// secretOf derives the secret of a session's key, 40 characters as AWS's are.
func (s *Server) secretOf(keyID string) string {
	return base64.StdEncoding.EncodeToString(mac(s.key[:], "secret "+keyID))[:40]
}

func (s *Server) sealToken(v session) string {
	b, _ := json.Marshal(v)
	return base64.StdEncoding.EncodeToString(append(mac(s.key[:], "token "+string(b)), b...))
}

func (s *Server) openToken(token string) (v session, ok bool) {
	b, err := base64.StdEncoding.DecodeString(token)
	if err != nil || len(b) < sha256.Size || !hmac.Equal(b[:sha256.Size], mac(s.key[:], "token "+string(b[sha256.Size:]))) {
		return v, false
	}
	return v, json.Unmarshal(b[sha256.Size:], &v) == nil
}

// keyID makes an access key id with the given prefix, 20 characters as AWS's are.
func keyID(prefix string) string {
	var b [10]byte
	_, _ = rand.Read(b[:])
	return prefix + base32.StdEncoding.EncodeToString(b[:])
}

// userID makes the stable unique id that IAM gives a user or role.
func userID(prefix, name string) string {
	sum := sha256.Sum256([]byte(name))
	return prefix + base32.StdEncoding.EncodeToString(sum[:10])
}

// claims of an identity token, by RFC 7519.
type claims struct {
	Subject  string `json:"sub"`
	Audience string `json:"aud"`
	Issuer   string `json:"iss"`
	Expires  int64  `json:"exp"`
}

const issuer = "https://identity.invalid"

// IdentityToken returns a signed web identity token for the subject: a JWT
// that [Server] itself vouches for, as an identity provider would.
func (s *Server) IdentityToken(subject string, life time.Duration) string {
	c, _ := json.Marshal(claims{subject, "sts.amazonaws.com", issuer, s.Now().Add(life).Unix()})
	enc := base64.RawURLEncoding
	body := enc.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + enc.EncodeToString(c)
	return body + "." + enc.EncodeToString(mac(s.key[:], "jwt "+body))
}

func (s *Server) readIdentityToken(token string) (c claims, ok bool) {
	enc := base64.RawURLEncoding
	i := strings.LastIndexByte(token, '.')
	if i < 0 {
		return c, false
	}
	body := token[:i]
	sum, err := enc.DecodeString(token[i+1:])
	if err != nil || !hmac.Equal(sum, mac(s.key[:], "jwt "+body)) {
		return c, false
	}
	_, payload, _ := strings.Cut(body, ".")
	b, err := enc.DecodeString(payload)
	if err != nil {
		return c, false
	}
	return c, json.Unmarshal(b, &c) == nil
}
