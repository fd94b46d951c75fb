package ssofake

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	account  = "123456789012"
	verifier = "a-verifier-of-forty-three-characters-or-more"
	redirect = "http://127.0.0.1:4321/oauth/callback"
)

type m = map[string]any

// post makes a call of the OIDC service.
func post(t *testing.T, s *Server, path string, in m) (status int, out map[string]any) {
	t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(b))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		t.Fatalf("%s: %s", path, w.Body)
	}
	if code := w.Header().Get("X-Amzn-Errortype"); code != "" {
		out["code"] = code
	}
	return w.Code, out
}

func with(base, more m) m {
	out := m{}
	for _, from := range []m{base, more} {
		for k, v := range from {
			out[k] = v
		}
	}
	return out
}

// registered is a client for browsers.
func registered(t *testing.T, s *Server) m {
	t.Helper()
	status, c := post(t, s, "/client/register", m{
		"clientName": "test", "clientType": "public", "scopes": []string{"sso:account:access"}, "grantTypes": []string{GrantCode, GrantRefresh},
		"redirectUris": []string{"http://127.0.0.1/oauth/callback"}, "issuerUrl": StartURL,
	})
	if status != 200 {
		t.Fatal(c)
	}
	return m{"clientId": c["clientId"], "clientSecret": c["clientSecret"]}
}

// authorize is the address that a browser is sent to.
func authorize(c m, more url.Values) string {
	sum := sha256.Sum256([]byte(verifier))
	q := url.Values{
		"response_type": {"code"}, "client_id": {c["clientId"].(string)}, "redirect_uri": {redirect}, "state": {"s"}, "code_challenge_method": {"S256"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "scopes": {"sso:account:access"},
	}
	for name, values := range more {
		q[name] = values
	}
	return "http://stand-in/authorize?" + q.Encode()
}

// consent gives a code.
func consent(t *testing.T, s *Server, c m) string {
	t.Helper()
	back, err := s.Visit(authorize(c, nil), true)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(back)
	if err != nil || u.Query().Get("state") != "s" || !strings.HasPrefix(back, redirect+"?") {
		t.Fatal(back)
	}
	return u.Query().Get("code")
}

func portal(s *Server, role string, token any) int {
	r := httptest.NewRequest(http.MethodGet, "/federation/credentials?account_id="+account+"&role_name="+role, nil)
	r.Header.Set("X-Amz-Sso_bearer_token", token.(string))
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Code
}

func TestCode(t *testing.T) {
	s := New()
	s.Assign(account, "admin")
	c := registered(t, s)
	grant := func(more m) m {
		return with(with(c, m{"grantType": GrantCode, "code": consent(t, s, c), "codeVerifier": verifier, "redirectUri": redirect}), more)
	}
	for name, spoilt := range map[string]m{
		"verifier": {"codeVerifier": verifier + "x"}, "redirect": {"redirectUri": "http://127.0.0.1:1/oauth/callback"}, "code": {"code": "x"},
		"secret": {"clientSecret": "x"}, "grant": {"grantType": GrantDevice}, "member": {"more": 1},
	} {
		if status, out := post(t, s, "/token", grant(spoilt)); status < 400 {
			t.Errorf("%s: %v", name, out)
		}
	}
	good := grant(nil)
	_, out := post(t, s, "/token", good)
	if portal(s, "admin", out["accessToken"]) != 200 || portal(s, "reader", out["accessToken"]) != 403 || portal(s, "admin", "x") != 401 {
		t.Errorf("%v", out)
	}
	// A code that comes twice has been seen by somebody: its session is over.
	if _, again := post(t, s, "/token", good); again["code"] != "InvalidGrantException" || portal(s, "admin", out["accessToken"]) != 401 {
		t.Errorf("%v", again)
	}
}

func TestPage(t *testing.T) {
	s := New()
	c := registered(t, s)
	for name, q := range map[string]url.Values{
		"client": {"client_id": {"x"}}, "type": {"response_type": {"token"}}, "host": {"redirect_uri": {"http://evil.example/oauth/callback"}},
		"path": {"redirect_uri": {"http://127.0.0.1:1/other"}}, "state": {"state": {""}}, "plain": {"code_challenge_method": {"plain"}},
		"challenge": {"code_challenge": {"x"}}, "scope": {"scopes": {"openid"}}, "more": {"prompt": {"none"}},
	} {
		if back, err := s.Visit(authorize(c, q), true); err == nil {
			t.Errorf("%s: %s", name, back)
		}
	}
	if back, err := s.Visit(authorize(c, nil), false); err != nil || !strings.Contains(back, "error=access_denied") || strings.Contains(back, "code=") {
		t.Errorf("%s %v", back, err)
	}
}

func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		s.Assign(account, "admin")
		c := registered(t, s)
		_, one := post(t, s, "/token", with(c, m{"grantType": GrantCode, "code": consent(t, s, c), "codeVerifier": verifier, "redirectUri": redirect}))
		refresh := func(of map[string]any) map[string]any {
			_, out := post(t, s, "/token", with(c, m{"grantType": GrantRefresh, "refreshToken": of["refreshToken"]}))
			return out
		}
		time.Sleep(time.Hour)
		if portal(s, "admin", one["accessToken"]) != 401 {
			t.Error("an access token lives for longer than an hour")
		}
		two := refresh(one)
		if portal(s, "admin", two["accessToken"]) != 200 || two["refreshToken"] == one["refreshToken"] {
			t.Errorf("%v", two)
		}
		// One that comes twice ends the session, the latest tokens too.
		if out := refresh(one); out["code"] != "InvalidGrantException" || portal(s, "admin", two["accessToken"]) != 401 || refresh(two)["code"] != "InvalidGrantException" {
			t.Errorf("%v", out)
		}
		_, three := post(t, s, "/token", with(c, m{"grantType": GrantCode, "code": consent(t, s, c), "codeVerifier": verifier, "redirectUri": redirect}))
		time.Sleep(8 * time.Hour)
		if out := refresh(three); out["code"] != "InvalidGrantException" {
			t.Errorf("a session of more than eight hours: %v", out)
		}
		time.Sleep(90 * 24 * time.Hour)
		if status, out := post(t, s, "/token", with(c, m{"grantType": GrantRefresh, "refreshToken": "x"})); status != 401 {
			t.Errorf("a registration of more than 90 days: %v", out)
		}
	})
}

func TestLoopbackOnly(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "localhost:0"} {
		if r, err := New().Start(addr); err == nil {
			_ = r.Close()
			t.Errorf("listens on %s", addr)
		}
	}
}
