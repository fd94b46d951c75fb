package stsfake

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// claims of an identity token, by RFC 7519 and, for tags and source identity,
// by "Pass session tags in AWS STS" in the IAM user guide.
type claims struct {
	Subject  string `json:"sub"`
	Audience string `json:"aud"`
	Issuer   string `json:"iss"`
	Expires  int64  `json:"exp"`

	SourceIdentity string    `json:"https://aws.amazon.com/source_identity,omitempty"`
	Tags           tagClaims `json:"https://aws.amazon.com/tags,omitzero"`
}

type tagClaims struct {
	Principal  map[string][]string `json:"principal_tags"`
	Transitive []string            `json:"transitive_tag_keys"`
}

func (c tagClaims) list() (tags []tag) {
	for key, values := range c.Principal {
		for _, v := range values {
			tags = append(tags, tag{key, v})
		}
	}
	return tags
}

const issuer = "https://identity.invalid"

// IdentityToken returns a signed web identity token for the subject: a JWT
// that [Server] itself vouches for, as an identity provider would.
func (s *Server) IdentityToken(subject string, life time.Duration) string {
	return s.SignedToken(map[string]any{"sub": subject, "aud": "sts.amazonaws.com", "iss": issuer, "exp": s.Now().Add(life).Unix()})
}

// SignedToken is [Server.IdentityToken] with any claims.
func (s *Server) SignedToken(claims map[string]any) string {
	b, _ := json.Marshal(claims)
	body := jwtBody(map[string]string{"alg": "HS256", "typ": "JWT"}, b)
	return body + "." + base64.RawURLEncoding.EncodeToString(mac(s.key[:], "jwt "+body))
}

// AccessToken returns a token of an OAuth 2.0 provider ("www.amazon.com" or
// "graph.facebook.com"), for a call that names it by ProviderId.
func (s *Server) AccessToken(provider, subject string, life time.Duration) string {
	return s.seal(purposeAccess, claims{Subject: subject, Issuer: provider, Expires: s.Now().Add(life).Unix()})
}

// readIdentity checks the token of AssumeRoleWithWebIdentity.
func (q *request) readIdentity() (c claims, err error) {
	token, provider := q.form.Get("WebIdentityToken"), q.form.Get("ProviderId")
	var ok bool
	switch {
	case provider == "":
		c, ok = q.readIdentityToken(token)
	case !slices.Contains([]string{"www.amazon.com", "graph.facebook.com"}, provider):
		return c, invalid("The identity provider " + provider + " is not supported.")
	default:
		ok = q.open(purposeAccess, token, &c) && c.Issuer == provider
	}
	if !ok {
		return c, badToken("Couldn't retrieve verification key from your identity provider,  please reference AssumeRoleWithWebIdentity documentation for requirements")
	}
	if !q.now.Before(time.Unix(c.Expires, 0)) {
		return c, fail(400, "ExpiredTokenException", fmt.Sprintf("Token expired: current date/time %d must be before the expiration date/time %d", q.now.Unix(), c.Expires))
	}
	if c.SourceIdentity != "" && !goodSource(c.SourceIdentity) {
		return c, badToken(sourceRule)
	}
	return c, nil
}

const sourceRule = `Source Identity must match [a-zA-Z_0-9+=,.@-]{2,64} and not begin with "aws:"`

// goodSource: the prefix aws: needs no look of its own, a colon is no character of it.
func goodSource(v string) bool { return constrain("", v, 2, 64, nameChars()) == nil }

func badToken(message string) error { return fail(400, "InvalidIdentityToken", message) }

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

const maxJWT = 8 << 10 // bytes of claims; AWS's limit is not public

// DisableOutbound switches off what GetWebIdentityToken needs: the account's
// outbound web identity federation.
func (s *Server) DisableOutbound(off bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noOutbound = off
}

// PublicKey checks the tokens that GetWebIdentityToken signs with the
// algorithm: an [*rsa.PublicKey] for "RS256", an [*ecdsa.PublicKey] for
// "ES384", nil for any other.
func (s *Server) PublicKey(algorithm string) crypto.PublicKey {
	switch algorithm {
	case "RS256":
		return &s.rsa().PublicKey
	case "ES384":
		return &s.ecdsa().PublicKey
	}
	return nil
}

func (q *request) getWebIdentityToken() (any, error) {
	audience := q.list("Audience", "")
	q.call.Target = strings.Join(audience, ",")
	if len(audience) > 10 {
		return nil, constraint(fmt.Sprint(audience), "audience", "Member must have length less than or equal to 10")
	}
	for i, a := range audience {
		if err := constrain(fmt.Sprintf("audience.%d.member", i+1), a, 1, 1000, nil); err != nil {
			return nil, err
		}
	}
	algorithm := q.form.Get("SigningAlgorithm")
	if algorithm != "RS256" && algorithm != "ES384" {
		return nil, constraint(algorithm, "signingAlgorithm", "Member must satisfy enum value set: [RS256, ES384]")
	}
	life, err := q.duration(5*time.Minute, time.Minute, time.Hour)
	if err != nil {
		return nil, err
	}
	given, err := q.tags()
	if err != nil {
		return nil, err
	}
	tags, err := mergeTags(given, nil, nil)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	off := q.noOutbound
	q.mu.Unlock()
	expires := q.now.Add(life).Truncate(time.Second)
	switch {
	case off:
		return nil, fail(403, "OutboundWebIdentityFederationDisabledException", "Outbound web identity federation is not enabled for account "+q.caller.Account+".")
	case !q.ends.IsZero() && expires.After(q.ends):
		return nil, fail(403, "SessionDurationEscalationException", "The requested token duration would extend the session beyond its original expiration time.")
	}
	b, _ := json.Marshal(q.identityClaims(audience, tags.all, expires))
	if len(b) > maxJWT {
		return nil, fail(400, "JWTPayloadSizeExceededException", fmt.Sprintf("The token's payload has %d bytes, more than %d.", len(b), maxJWT))
	}
	token := q.sign(algorithm, b)
	switch q.fault.Kind {
	case FaultEmpty:
		token = ""
	case FaultExpired:
		expires = q.now.Add(-time.Minute)
	}
	return tokenResult{token, expires.UTC().Format(time.RFC3339)}, nil
}

// identityClaims are those of "Understanding token claims" in the IAM user guide.
func (q *request) identityClaims(audience []string, tags []tag, expires time.Time) map[string]any {
	about := map[string]any{"aws_account": q.caller.Account, "source_region": q.call.Region}
	if len(tags) > 0 {
		m := map[string]string{}
		for _, t := range tags {
			m[t.Key] = t.Value
		}
		about["request_tags"] = m
	}
	subject := q.caller.ARN
	if q.caller.Role != "" {
		subject = q.caller.Role
	}
	c := map[string]any{
		"iss": "https://" + q.caller.Account + ".tokens.sts.invalid", "sub": subject, "aud": audience, "jti": requestID(),
		"iat": q.now.Unix(), "exp": expires.Unix(), "https://sts.amazonaws.com/": about,
	}
	if len(audience) == 1 {
		c["aud"] = audience[0]
	}
	return c
}

// sign makes a JWS by RFC 7515 and RFC 7518, sections 3.3 and 3.4.
func (s *Server) sign(algorithm string, claims []byte) string {
	body := jwtBody(map[string]string{"alg": algorithm, "typ": "JWT", "kid": algorithm}, claims)
	var sig []byte
	if algorithm == "RS256" {
		sum := sha256.Sum256([]byte(body))
		sig, _ = rsa.SignPKCS1v15(nil, s.rsa(), crypto.SHA256, sum[:])
	} else {
		sum := sha512.Sum384([]byte(body))
		if a, b, err := ecdsa.Sign(rand.Reader, s.ecdsa(), sum[:]); err == nil {
			sig = append(a.FillBytes(make([]byte, 48)), b.FillBytes(make([]byte, 48))...)
		}
	}
	return body + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func jwtBody(header map[string]string, claims []byte) string {
	h, _ := json.Marshal(header)
	return base64.RawURLEncoding.EncodeToString(h) + "." + base64.RawURLEncoding.EncodeToString(claims)
}

// Keys are made with a working source of randomness or not at all: see crypto/rand.
func newRSA() *rsa.PrivateKey {
	k, _ := rsa.GenerateKey(rand.Reader, 2048)
	return k
}

func newECDSA() *ecdsa.PrivateKey {
	k, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	return k
}
