package ssofake

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Grants, as the API reference of RegisterClient has them.
const (
	GrantCode    = "authorization_code"
	GrantRefresh = "refresh_token"
	GrantDevice  = "urn:ietf:params:oauth:grant-type:device_code"
)

// oauthName is the name that OAuth has for an error of SSO OIDC, which the service
// sends beside its own.
func oauthName(code string) string {
	switch code {
	case "AuthorizationPendingException":
		return "authorization_pending"
	case "InternalServerException":
		return "server_error"
	}
	var b strings.Builder
	for i, r := range strings.TrimSuffix(code, "Exception") {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte('_')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

func invalid(message string) error {
	return fail(http.StatusBadRequest, "InvalidRequestException", message)
}
func noGrant(message string) error {
	return fail(http.StatusBadRequest, "InvalidGrantException", message)
}

// read reads the body of a request, which has no member that in does not have.
func (q *request) read(in any) error {
	if t := q.Header.Get("Content-Type"); t != "application/json" {
		return invalid("Content-Type is " + t)
	}
	d := json.NewDecoder(bytes.NewReader(q.body))
	d.DisallowUnknownFields()
	if err := d.Decode(in); err != nil {
		return invalid(err.Error())
	}
	return nil
}

// scopesKnown are those that a client may ask for here.
var scopesKnown = []string{"sso:account:access", "openid", "aws"}

func (s *Server) registerClient(q *request) (any, error) {
	var in struct {
		ClientName   string   `json:"clientName"`
		ClientType   string   `json:"clientType"`
		Scopes       []string `json:"scopes"`
		RedirectURIs []string `json:"redirectUris"`
		GrantTypes   []string `json:"grantTypes"`
		IssuerURL    string   `json:"issuerUrl"`
	}
	if err := q.read(&in); err != nil {
		return nil, err
	}
	switch {
	case in.ClientName == "" || in.ClientType == "":
		return nil, invalid("clientName and clientType are required")
	case in.ClientType != "public":
		return nil, fail(http.StatusBadRequest, "InvalidClientMetadataException", "clientType must be public")
	}
	for _, scope := range in.Scopes {
		if !slices.Contains(scopesKnown, scope) {
			return nil, fail(http.StatusBadRequest, "InvalidScopeException", "scope "+scope)
		}
	}
	for _, g := range in.GrantTypes {
		if g != GrantCode && g != GrantRefresh && g != GrantDevice {
			return nil, fail(http.StatusBadRequest, "UnsupportedGrantTypeException", "grant type "+g)
		}
	}
	if slices.Contains(in.GrantTypes, GrantCode) {
		if len(in.RedirectURIs) == 0 {
			return nil, fail(http.StatusBadRequest, "InvalidRedirectUriException", "redirectUris are required")
		}
		for _, r := range in.RedirectURIs {
			if loopbackPath(r) == "" {
				return nil, fail(http.StatusBadRequest, "InvalidRedirectUriException", "redirect URI "+r)
			}
		}
		if in.IssuerURL != StartURL {
			return nil, invalid("issuerUrl")
		}
	}
	if len(in.GrantTypes) == 0 { // what the AWS CLI registers for a device
		in.GrantTypes = []string{GrantDevice, GrantRefresh}
	}
	c := &client{
		id: random()[:22], secret: "client-" + random(), expires: q.now.Add(life(s.lives.Client, 90*24*time.Hour)).Truncate(time.Second),
		scopes: in.Scopes, grants: in.GrantTypes, redirects: in.RedirectURIs,
	}
	s.clients[c.id] = c
	return map[string]any{
		"clientId": c.id, "clientSecret": c.secret, "clientIdIssuedAt": q.now.Unix(), "clientSecretExpiresAt": c.expires.Unix(),
	}, nil
}

// loopbackPath is the path of a redirect address to this host, "" for any other.
func loopbackPath(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" || u.Hostname() != "127.0.0.1" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return ""
	}
	return u.Path
}

// redirectsTo reports whether an address is a registered one, on any port.
func (c *client) redirectsTo(address string) bool {
	path := loopbackPath(address)
	return path != "" && slices.ContainsFunc(c.redirects, func(r string) bool { return loopbackPath(r) == path })
}

// authenticate finds a client that may use a grant.
func (s *Server) authenticate(q *request, id, secret, grant string) (*client, error) {
	c := s.clients[id]
	switch {
	case id == "" || secret == "":
		return nil, invalid("clientId and clientSecret are required")
	case c == nil || subtle.ConstantTimeCompare([]byte(c.secret), []byte(secret)) != 1 || !q.now.Before(c.expires):
		return nil, fail(http.StatusUnauthorized, "InvalidClientException", "Invalid client provided")
	case !slices.Contains(c.grants, grant):
		return nil, fail(http.StatusBadRequest, "UnauthorizedClientException", "the client may not use "+grant)
	}
	return c, nil
}

// device is an authorization that a person gives on another device.
type device struct {
	client   *client
	user     string
	expires  time.Time
	interval time.Duration
	asked    time.Time
	denied   bool
	session  *session // once a person has allowed it
	used     bool
}

const slowDown = 5 * time.Second

func (s *Server) startDevice(q *request) (any, error) {
	var in struct {
		ClientID     string `json:"clientId"`
		ClientSecret string `json:"clientSecret"`
		StartURL     string `json:"startUrl"`
	}
	if err := q.read(&in); err != nil {
		return nil, err
	}
	c, err := s.authenticate(q, in.ClientID, in.ClientSecret, GrantDevice)
	if err != nil {
		return nil, err
	}
	if in.StartURL != StartURL {
		return nil, invalid("startUrl")
	}
	ends := life(s.lives.Device, 10*time.Minute)
	code := "device-" + random()
	d := &device{client: c, user: userCode(), expires: q.now.Add(ends), interval: life(s.lives.Interval, 5*time.Second)}
	s.devices[code] = d
	at := "http://" + q.Host + "/device"
	return map[string]any{
		"deviceCode": code, "userCode": d.user, "verificationUri": at, "verificationUriComplete": at + "?user_code=" + d.user,
		"expiresIn": int(ends / time.Second), "interval": int(d.interval / time.Second),
	}, nil
}

// userCode is as AWS's are: ABCD-EFGH.
func userCode() string {
	const letters = "BCDFGHJKLMNPQRSTVWXZ"
	var b [8]byte
	_, _ = rand.Read(b[:])
	for i := range b {
		b[i] = letters[int(b[i])%len(letters)]
	}
	return string(b[:4]) + "-" + string(b[4:])
}

// grant is an authorization code.
type grant struct {
	client              *client
	challenge, redirect string
	scopes              []string
	expires             time.Time
	session             *session
	used                bool
}

func (s *Server) createToken(q *request) (any, error) {
	var in struct {
		ClientID     string   `json:"clientId"`
		ClientSecret string   `json:"clientSecret"`
		GrantType    string   `json:"grantType"`
		DeviceCode   string   `json:"deviceCode"`
		Code         string   `json:"code"`
		RefreshToken string   `json:"refreshToken"`
		Scope        []string `json:"scope"`
		RedirectURI  string   `json:"redirectUri"`
		CodeVerifier string   `json:"codeVerifier"`
	}
	if err := q.read(&in); err != nil {
		return nil, err
	}
	q.call.Grant = in.GrantType
	switch in.GrantType {
	case "":
		return nil, invalid("grantType is required")
	case GrantCode, GrantRefresh, GrantDevice:
	default:
		return nil, fail(http.StatusBadRequest, "UnsupportedGrantTypeException", "grant type "+in.GrantType)
	}
	c, err := s.authenticate(q, in.ClientID, in.ClientSecret, in.GrantType)
	if err != nil {
		return nil, err
	}
	switch in.GrantType {
	case GrantCode:
		return s.byCode(q, c, in.Code, in.CodeVerifier, in.RedirectURI)
	case GrantDevice:
		return s.byDeviceCode(q, c, in.DeviceCode)
	}
	return s.byRefresh(q, c, in.RefreshToken, in.Scope)
}

func (s *Server) byCode(q *request, c *client, code, verifier, redirect string) (any, error) {
	g := s.codes[code]
	if g == nil || g.client != c || !q.now.Before(g.expires) {
		return nil, noGrant("Invalid grant provided")
	}
	if g.used {
		g.session.revoked = true // RFC 6749, section 4.1.2
		return nil, noGrant("the code was used before")
	}
	g.used = true
	sum := sha256.Sum256([]byte(verifier))
	switch {
	case len(verifier) < 43 || len(verifier) > 128 || base64.RawURLEncoding.EncodeToString(sum[:]) != g.challenge:
		return nil, noGrant("PKCE verification failed")
	case redirect != g.redirect:
		return nil, noGrant("the redirect URI is another one")
	}
	return s.tokens(q, c, g.session, g.scopes), nil
}

func (s *Server) byDeviceCode(q *request, c *client, code string) (any, error) {
	d := s.devices[code]
	if d == nil || d.client != c || d.used {
		return nil, noGrant("Invalid grant provided")
	}
	early := !d.asked.IsZero() && q.now.Sub(d.asked) < d.interval-500*time.Millisecond
	d.asked = q.now
	switch {
	case !q.now.Before(d.expires):
		return nil, fail(http.StatusBadRequest, "ExpiredTokenException", "Device code has expired")
	case early:
		d.interval += slowDown
		return nil, fail(http.StatusBadRequest, "SlowDownException", "Slow down")
	case d.denied:
		return nil, fail(http.StatusBadRequest, "AccessDeniedException", "Access denied")
	case d.session == nil:
		return nil, fail(http.StatusBadRequest, "AuthorizationPendingException", "Authorization pending")
	}
	d.used = true
	return s.tokens(q, c, d.session, c.scopes), nil
}

func (s *Server) byRefresh(q *request, c *client, code string, scopes []string) (any, error) {
	t := s.refresh[code]
	if t == nil || t.client != c || t.session.over(q.now) {
		return nil, noGrant("Invalid refresh token provided")
	}
	if t.spent {
		t.session.revoked = true // somebody has had it who should not: RFC 9700, section 4.14.2
		return nil, noGrant("the refresh token was used before")
	}
	for _, scope := range scopes {
		if !slices.Contains(t.scopes, scope) {
			return nil, fail(http.StatusBadRequest, "InvalidScopeException", "scope "+scope)
		}
	}
	t.spent = true
	return s.tokens(q, c, t.session, t.scopes), nil
}

// tokens makes a pair, or an access token alone for a client without scopes.
func (s *Server) tokens(q *request, c *client, of *session, scopes []string) any {
	ends := min(life(s.lives.Access, time.Hour), of.ends.Sub(q.now).Truncate(time.Second))
	access := "access-" + random()
	s.access[access] = &token{session: of, client: c, scopes: scopes, expires: q.now.Add(ends)}
	out := map[string]any{"accessToken": access, "tokenType": "Bearer", "expiresIn": int(ends / time.Second)}
	if len(scopes) > 0 && slices.Contains(c.grants, GrantRefresh) {
		refresh := "refresh-" + random()
		s.refresh[refresh] = &token{session: of, client: c, scopes: scopes}
		out["refreshToken"] = refresh
	}
	return out
}
