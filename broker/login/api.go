package login

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

const (
	callTimeout = 8 * time.Second // of one call
	maxAnswer   = 64 << 10
	idleTimeout = 5 * time.Second // a call an hour: a kept connection only costs memory
)

// Names of the two services, as [Options].Endpoint is asked for them: what their
// hosts begin with.
const (
	serviceOIDC   = "oidc"
	servicePortal = "portal.sso"
)

// clientName is what a person reads on the page that asks for consent.
const clientName = "stsbroker"

// redirectURI is where the browser comes back to. It is registered without a port,
// and any port of this host may be added to it (RFC 8252, section 7.3).
const redirectPath = "/oauth/callback"

const redirectURI = "http://127.0.0.1" + redirectPath

const (
	grantCode    = "authorization_code"
	grantRefresh = "refresh_token"
	grantDevice  = "urn:ietf:params:oauth:grant-type:device_code"
)

// api makes the calls: TLS 1.2 or later, no redirects, bounded answers, each once.
type api struct {
	http     http.Client
	endpoint func(service, region string) string
}

func newAPI(o Options) api {
	return api{endpoint: o.Endpoint, http: http.Client{
		Transport: &http.Transport{
			Proxy: func(r *http.Request) (*url.URL, error) {
				if o.Proxy == nil || r.URL.Scheme != "https" { // loopback: never hand it to a proxy in the clear
					return nil, nil
				}
				proxy, err := o.Proxy(r)
				if err != nil { // it quotes the whole variable, and so a password in it
					return nil, &fault{words: "HTTPS_PROXY is not the address of a proxy; mend or unset it"}
				}
				return proxy, nil
			},
			OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, r *http.Response) error {
				if r.StatusCode != http.StatusOK {
					return &fault{words: fmt.Sprintf("the proxy of HTTPS_PROXY refuses the connection (HTTP %d)", r.StatusCode)}
				}
				return nil
			},
			DialContext:            o.Dial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs},
			DisableCompression:     true,
			MaxIdleConns:           4,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        idleTimeout,
			MaxResponseHeaderBytes: maxAnswer,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// domains are those of AWS's partitions, by how the names of their regions begin: the
// endpoint rules of both services, without FIPS and dual-stack.
func domain(region string) string {
	for _, p := range [...]struct{ prefix, domain string }{
		{"cn-", "amazonaws.com.cn"}, {"eusc-", "amazonaws.eu"}, {"us-iso-", "c2s.ic.gov"}, {"us-isob-", "sc2s.sgov.gov"},
		{"eu-isoe-", "cloud.adc-e.uk"}, {"us-isof-", "csp.hci.ic.gov"},
	} {
		if strings.HasPrefix(region, p.prefix) {
			return p.domain
		}
	}
	return "amazonaws.com"
}

// base is the URL of a service, without a slash at its end. Another than AWS's own is
// taken where it is https, or http to this host.
func (a *api) base(service, region string) (string, error) {
	if a.endpoint != nil {
		if at := strings.TrimSuffix(a.endpoint(service, region), "/"); at != "" {
			if u, err := url.Parse(at); err != nil || !safe(u) {
				return "", &broker.Error{Kind: broker.KindConfig, Public: "the endpoint of IAM Identity Center must be https, or http to a loopback address; mend it"}
			}
			return at, nil
		}
	}
	return "https://" + service + "." + region + "." + domain(region), nil
}

// safe reports whether an address may be given a secret, or opened in a browser.
func safe(u *url.URL) bool {
	if u.User != nil || u.Hostname() == "" {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Scheme == "https" || u.Scheme == "http" && err == nil && ip.IsLoopback()
}

// call sends one request and reads its answer into out, unless that is nil. secrets
// are what an error must not repeat. The time is the answer's own Date, or this
// host's where that is close to it or there is none.
func (a *api) call(ctx context.Context, method, at string, header map[string]broker.Secret, in, out any, secrets []broker.Secret) (issued time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return issued, err
		}
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, at, body)
	if err != nil {
		return issued, &fault{words: "its address is not one"}
	}
	r.Header.Set("User-Agent", clientName)
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for name, value := range header {
		r.Header.Set(name, value.Reveal())
	}
	sent := time.Now()
	resp, err := a.http.Do(r)
	if err != nil {
		return issued, noAnswer(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch code := resp.StatusCode; {
	case err != nil:
		return issued, noAnswer(err)
	case len(answer) > maxAnswer:
		return issued, &fault{words: fmt.Sprintf("its answer is longer than %d KB", maxAnswer>>10)}
	case code >= 300 && code < 400:
		return issued, &fault{status: code, words: fmt.Sprintf("it answered with a redirect (HTTP %d), which is never followed", code)}
	case code != http.StatusOK && (out != nil || code/100 != 2):
		return issued, refusal(code, resp.Header, answer, secrets)
	case out == nil:
		return issued, nil
	}
	if json.Unmarshal(answer, out) != nil { // the error's text may quote the answer
		return issued, malformed("it is not the JSON expected")
	}
	return issuedAt(resp.Header, sent, time.Now()), nil
}

func malformed(why string) *fault {
	return &fault{words: "its answer is refused: " + why + "; check for a proxy or a portal that answers in its place"}
}

// issuedAt is the time on the issuer's clock when it answered, never earlier than it
// really is: this host's, which is the more exact one, unless the Date says that it
// is off.
func issuedAt(h http.Header, sent, received time.Time) time.Time {
	const tolerance = 1500 * time.Millisecond // Date is cut to whole seconds
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil || !date.Before(sent.Add(-tolerance)) && !date.After(received.Add(tolerance)) {
		return received
	}
	return date.Add(time.Second + received.Sub(sent))
}

func (a *api) post(ctx context.Context, s Session, path string, in, out any, secrets ...broker.Secret) error {
	if err := s.check(); err != nil {
		return err
	}
	base, err := a.base(serviceOIDC, s.Region)
	if err != nil {
		return err
	}
	_, err = a.call(ctx, http.MethodPost, base+path, nil, in, out, secrets)
	return err
}

// register makes a client of ours known, for one of the two ways to sign in. What is
// sent is what the AWS CLI sends: for a browser everything, for a device the scopes
// alone, with which a refresh token comes.
func (a *api) register(ctx context.Context, s Session, device bool) (client, error) {
	in := map[string]any{"clientName": clientName, "clientType": "public", "scopes": s.scopes()}
	if !device {
		in["grantTypes"] = []string{grantCode, grantRefresh}
		in["redirectUris"] = []string{redirectURI}
		in["issuerUrl"] = s.StartURL
	}
	var out struct {
		ID      string `json:"clientId"`
		Secret  string `json:"clientSecret"`
		Expires int64  `json:"clientSecretExpiresAt"` // seconds of the epoch
	}
	if err := a.post(ctx, s, "/client/register", in, &out); err != nil {
		return client{}, err
	}
	c := client{out.ID, broker.NewSecret(out.Secret), time.Unix(out.Expires, 0)}
	if !visible(out.ID) || !visible(out.Secret) || left(c.expires, time.Now()) <= 0 {
		return client{}, malformed("its client registration is empty, or over")
	}
	return c, nil
}

// code is the start of a sign-in on another device.
type code struct {
	device   broker.Secret
	user     string
	url      string
	expires  time.Time
	interval time.Duration
}

func (a *api) startDevice(ctx context.Context, s Session, c client) (code, error) {
	in := map[string]any{"clientId": c.id, "clientSecret": c.secret.Reveal(), "startUrl": s.StartURL}
	var out struct {
		DeviceCode string `json:"deviceCode"`
		UserCode   string `json:"userCode"`
		URI        string `json:"verificationUri"`
		Complete   string `json:"verificationUriComplete"`
		ExpiresIn  int    `json:"expiresIn"`
		Interval   int    `json:"interval"`
	}
	now := time.Now()
	if err := a.post(ctx, s, "/device_authorization", in, &out, c.secret); err != nil {
		return code{}, err
	}
	if out.Complete == "" {
		out.Complete = out.URI
	}
	if out.Interval == 0 {
		out.Interval = 5 // RFC 8628, section 3.2
	}
	u, err := url.Parse(out.Complete)
	switch {
	case !visible(out.DeviceCode) || !visible(out.UserCode) || len(out.UserCode) > 64 || out.ExpiresIn <= 0:
		return code{}, malformed("it has no device code, or no user code")
	case err != nil || !visible(out.Complete) || len(out.Complete) > 2<<10 || !safe(u):
		return code{}, malformed("its page is not an https address") // it is opened, or printed for a person to open
	}
	return code{
		device: broker.NewSecret(out.DeviceCode), user: out.UserCode, url: out.Complete,
		expires: now.Add(time.Duration(min(out.ExpiresIn, 3600)) * time.Second), interval: time.Duration(min(max(out.Interval, 1), 60)) * time.Second,
	}, nil
}

// create asks for tokens by one of the three grants. more are the grant's own
// parameters, all of them secret.
func (a *api) create(ctx context.Context, s Session, c client, grant string, more map[string]broker.Secret) (tokens, error) {
	in := map[string]any{"clientId": c.id, "clientSecret": c.secret.Reveal(), "grantType": grant}
	secrets := []broker.Secret{c.secret}
	for name, value := range more {
		in[name] = value.Reveal()
		secrets = append(secrets, value)
	}
	var out struct {
		AccessToken  string `json:"accessToken"`
		ExpiresIn    int    `json:"expiresIn"`
		RefreshToken string `json:"refreshToken"`
	}
	now := time.Now() // before it was issued, so that it is never taken to live longer
	if err := a.post(ctx, s, "/token", in, &out, secrets...); err != nil {
		return tokens{}, err
	}
	if !visible(out.AccessToken) || out.ExpiresIn <= 0 || out.RefreshToken != "" && !visible(out.RefreshToken) {
		return tokens{}, malformed("its access token is empty, malformed or over")
	}
	const most = 90 * 24 * 3600 // seconds: the longest session that an administrator can allow
	return tokens{
		access: broker.NewSecret(out.AccessToken), expires: now.Add(time.Duration(min(out.ExpiresIn, most)) * time.Second),
		refresh: broker.NewSecret(out.RefreshToken), client: c,
	}, nil
}

// refresh spends the refresh token. Where no new one comes, the old one is still
// good (RFC 6749, section 6).
func (a *api) refresh(ctx context.Context, s Session, t tokens) (tokens, error) {
	fresh, err := a.create(ctx, s, t.client, grantRefresh, map[string]broker.Secret{"refreshToken": t.refresh})
	if err == nil && fresh.refresh.IsZero() {
		fresh.refresh = t.refresh
	}
	return fresh, err
}

// bearer is the header of the portal's calls.
func bearer(token broker.Secret) map[string]broker.Secret {
	return map[string]broker.Secret{"X-Amz-Sso_bearer_token": token}
}

// granted is what the portal gives for a role.
type granted struct {
	ID      string `json:"accessKeyId"`
	Secret  string `json:"secretAccessKey"`
	Token   string `json:"sessionToken"`
	Expires int64  `json:"expiration"` // milliseconds of the epoch
}

func (a *api) roleCredentials(ctx context.Context, s Session, token broker.Secret, account, role string) (granted, time.Time, error) {
	var out struct {
		Credentials granted `json:"roleCredentials"`
	}
	base, err := a.base(servicePortal, s.Region)
	if err != nil {
		return granted{}, time.Time{}, err
	}
	at := base + "/federation/credentials?" + url.Values{"account_id": {account}, "role_name": {role}}.Encode()
	issued, err := a.call(ctx, http.MethodGet, at, bearer(token), nil, &out, []broker.Secret{token})
	return out.Credentials, issued, err
}

func (a *api) logout(ctx context.Context, s Session, token broker.Secret) error {
	base, err := a.base(servicePortal, s.Region)
	if err != nil {
		return err
	}
	_, err = a.call(ctx, http.MethodPost, base+"/logout", bearer(token), nil, nil, []broker.Secret{token})
	return err
}

// listen opens a port of this host for the browser to come back to.
func listen(ctx context.Context) (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	return c.Listen(ctx, "tcp4", "127.0.0.1:0")
}
