package login

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/ssofake"
)

// A working day: one sign-in, tokens of an hour, a session of eight. Nothing fails
// before the session ends, and then nobody is asked anything again and again.
func TestDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake()
		m := newManager(fake, Options{})
		_, err := mint(t, m)
		wantKind(t, err, broker.KindLoginNeeded, "nobody is signed in to corp")
		if !err.Own || fake.Count("", "") != 0 {
			t.Errorf("%+v after %d calls", err, fake.Count("", ""))
		}
		signIn(t, m, fake, corp())
		began := time.Now()
		for time.Since(began) < 8*time.Hour-10*time.Minute {
			mustMint(t, m)
			if s := standingOf(m, corp()); !s.signedIn || !s.refreshable || s.fromCLI || time.Until(s.until) <= 0 {
				t.Fatalf("%v: %+v", time.Since(began), s)
			}
			time.Sleep(4 * time.Minute)
		}
		if n := fake.Count(ssofake.CreateToken, ssofake.GrantRefresh); n < 8 || n > 9 {
			t.Errorf("%d refreshes", n)
		}
		if n := fake.Count(ssofake.CreateToken, ssofake.GrantDevice); n > 2 || fake.Count(ssofake.RegisterClient, "") != 1 || fake.Count(ssofake.StartDeviceAuthorization, "") != 1 {
			t.Errorf("%d device grants: %v", n, fake.Calls()[:8])
		}
		time.Sleep(time.Hour)
		_, err = mint(t, m)
		wantKind(t, err, broker.KindLoginNeeded, "the sign-in to corp has ended")
		calls := fake.Count("", "")
		for range 10 {
			time.Sleep(time.Minute)
			_, err := mint(t, m)
			wantKind(t, err, broker.KindLoginNeeded)
		}
		if n := fake.Count("", ""); n != calls {
			t.Errorf("%d calls with nothing to show", n-calls)
		}
		if s := standingOf(m, corp()); s != (standing{}) {
			t.Errorf("%+v", s)
		}
	})
}

// Thirty roles whose credentials end together: one refresh.
func TestOneRefreshForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, vault := newFake(), newVault("open")
		m := newManager(fake, Options{Vault: vault})
		signIn(t, m, fake, corp())
		time.Sleep(56 * time.Minute)
		fake.SetFault(ssofake.Fault{Op: ssofake.CreateToken, Delay: 3 * time.Second})
		updates := vault.updates
		var wg sync.WaitGroup
		for i := range 30 {
			role := fmt.Sprint("role", i)
			fake.Assign(account, role)
			wg.Go(func() {
				if _, err := m.Role(corp(), account, role).Mint(t.Context(), broker.MintInput{}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n, roles := fake.Count(ssofake.CreateToken, ssofake.GrantRefresh), fake.Count(ssofake.GetRoleCredentials, ""); n != 1 || roles != 30 || vault.updates != updates+1 {
			t.Errorf("%d refreshes for %d roles, %d looks into the vault", n, roles, vault.updates-updates)
		}
	})
}

// A refresh belongs to nobody: who waits may leave, and what came is kept.
func TestRefreshOutlivesCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake()
		m := newManager(fake, Options{})
		signIn(t, m, fake, corp())
		time.Sleep(56 * time.Minute)
		fake.SetFault(ssofake.Fault{Op: ssofake.CreateToken, Delay: 3 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := m.Role(corp(), account, "admin").Mint(ctx, broker.MintInput{})
		if e := broker.AsError(err); e.Kind != broker.KindUnavailable || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		time.Sleep(5 * time.Second)
		mustMint(t, m)
		if n := fake.Count(ssofake.CreateToken, ssofake.GrantRefresh); n != 1 {
			t.Errorf("%d refreshes", n)
		}
	})
}

// While the service is down the old token does until its end, and the service is left
// in peace; afterwards the error is one that passes, and mends itself.
func TestRefreshFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, tc := range map[string]struct {
			fault ssofake.Fault
			kind  broker.Kind
			words string
		}{
			"down":      {ssofake.Fault{Status: 503, Code: "InternalServerException"}, broker.KindUnavailable, "could not be refreshed: InternalServerException: on purpose; it is tried again by itself"},
			"dropped":   {ssofake.Fault{Drop: true}, broker.KindUnavailable, "it cannot be reached"},
			"hangs":     {ssofake.Fault{Delay: time.Hour}, broker.KindUnavailable, "did not answer in time"},
			"throttled": {ssofake.Fault{Status: 400, Code: "SlowDownException"}, broker.KindThrottled, "SlowDownException"},
			"portal":    {ssofake.Fault{Status: 403, Body: "<html>no"}, broker.KindUnavailable, "HTTP 403 and no error that AWS would send"},
			"garbage":   {ssofake.Fault{Body: "<html>"}, broker.KindUnavailable, "not the JSON expected"},
			"empty":     {ssofake.Fault{Body: "{}"}, broker.KindUnavailable, "its access token is empty"},
			"forbidden": {ssofake.Fault{Status: 400, Code: "AccessDeniedException"}, broker.KindDenied, "ask who administers"},
		} {
			fake := newFake()
			m := newManager(fake, Options{})
			signIn(t, m, fake, corp())
			tc.fault.Op = ssofake.CreateToken
			fake.SetFault(tc.fault)
			time.Sleep(56 * time.Minute)
			calls := fake.Count(ssofake.CreateToken, "")
			for began := time.Now(); time.Since(began) < 200*time.Second; time.Sleep(10 * time.Second) {
				mustMint(t, m)
			}
			if n := fake.Count(ssofake.CreateToken, "") - calls; n > 8 {
				t.Errorf("%s: tried %d times in 200 s", name, n)
			}
			time.Sleep(2 * time.Minute)
			_, err := mint(t, m)
			wantKind(t, err, tc.kind, "the sign-in to corp", tc.words)
			if s := standingOf(m, corp()); !s.refreshable {
				t.Errorf("%s: the refresh token is lost: %+v", name, s)
			}
			fake.SetFault(ssofake.Fault{})
			time.Sleep(3 * time.Second)
			mustMint(t, m)
		}
	})
}

// The answers that mean the end: the refresh token is not spent again.
func TestRefreshRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, code := range []string{"InvalidGrantException", "UnauthorizedClientException", "InvalidClientException", "ExpiredTokenException"} {
			fake, vault := newFake(), newVault("open")
			m := newManager(fake, Options{Vault: vault})
			signIn(t, m, fake, corp())
			fake.SetFault(ssofake.Fault{Op: ssofake.CreateToken, Status: 400, Code: code})
			time.Sleep(2 * time.Hour)
			for range 3 {
				_, err := mint(t, m)
				wantKind(t, err, broker.KindLoginNeeded, "has ended")
			}
			if n := fake.Count(ssofake.CreateToken, ""); n != 2 {
				t.Errorf("%s: %d calls", code, n)
			}
			if strings.Contains(vault.content(), `"refresh_token"`) {
				t.Errorf("%s: the vault keeps it", code)
			}
		}
		// A registration that is over cannot refresh: nobody is asked.
		fake := newFake()
		fake.SetLives(ssofake.Lives{Client: 90 * time.Minute, Session: 24 * time.Hour})
		m := newManager(fake, Options{})
		signIn(t, m, fake, corp())
		time.Sleep(3 * time.Hour)
		_, err := mint(t, m)
		wantKind(t, err, broker.KindLoginNeeded)
		if n := fake.Count(ssofake.CreateToken, ssofake.GrantRefresh); n != 0 {
			t.Errorf("%d refreshes with a registration that is over", n)
		}
	})
}

// A token that was revoked is replaced once; a session that was revoked is over.
func TestRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake()
		m := newManager(fake, Options{})
		signIn(t, m, fake, corp())
		mustMint(t, m)
		fake.RevokeAccess()
		mustMint(t, m)
		if n, p := fake.Count(ssofake.CreateToken, ssofake.GrantRefresh), fake.Count(ssofake.GetRoleCredentials, ""); n != 1 || p != 3 {
			t.Errorf("%d refreshes, %d asked for", n, p)
		}
		fake.SetFault(ssofake.Fault{Op: ssofake.GetRoleCredentials, Status: 401, Code: "UnauthorizedException"})
		_, err := mint(t, m)
		wantKind(t, err, broker.KindLoginNeeded)
		if n, p := fake.Count(ssofake.CreateToken, ssofake.GrantRefresh), fake.Count(ssofake.GetRoleCredentials, ""); n != 2 || p != 5 {
			t.Errorf("%d refreshes, %d asked for", n, p)
		}
		fake.SetFault(ssofake.Fault{})
		mustMint(t, m)
		fake.RevokeSessions()
		_, err = mint(t, m)
		wantKind(t, err, broker.KindLoginNeeded, "has ended")
		if s := standingOf(m, corp()); s.signedIn {
			t.Errorf("%+v", s)
		}
	})
}

// What the portal refuses, in words that say what to do.
func TestRoleRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake()
		m := newManager(fake, Options{})
		signIn(t, m, fake, corp())
		ask := func(account, role string) *broker.Error {
			_, err := m.Role(corp(), account, role).Mint(t.Context(), broker.MintInput{})
			e, _ := errors.AsType[*broker.Error](err)
			return e
		}
		wantKind(t, ask(account, "reader"), broker.KindDenied, "corp does not give you the role reader in account 123456789012", "check sso_role_name")
		wantKind(t, ask("999999999999", "admin"), broker.KindConfig, "corp knows no role admin in account 999999999999")
		wantKind(t, ask("1", "admin"), broker.KindConfig, "refuses the role", "InvalidRequestException")
		for _, tc := range []struct {
			fault ssofake.Fault
			kind  broker.Kind
			words string
		}{
			{ssofake.Fault{Status: 429, Code: "TooManyRequestsException"}, broker.KindThrottled, "TooManyRequestsException"},
			{ssofake.Fault{Status: 500}, broker.KindUnavailable, "HTTP 500"},
			{ssofake.Fault{Status: 401, Body: "proxy"}, broker.KindUnavailable, "HTTP 401 and no error that AWS would send"},
			{ssofake.Fault{Status: 307, Body: "x"}, broker.KindUnavailable, "redirect (HTTP 307), which is never followed"},
			{ssofake.Fault{Body: strings.Repeat("x", maxAnswer+1)}, broker.KindUnavailable, "longer than 64 KB"},
			{ssofake.Fault{Body: "null"}, broker.KindUnavailable, "its access key id is empty"},
			{ssofake.Fault{Body: "[]"}, broker.KindUnavailable, "not the JSON expected"},
			{ssofake.Fault{Drop: true}, broker.KindUnavailable, "cannot be reached"},
			{ssofake.Fault{Delay: time.Hour}, broker.KindUnavailable, "did not answer in time"},
		} {
			tc.fault.Op = ssofake.GetRoleCredentials
			fake.SetFault(tc.fault)
			wantKind(t, ask(account, "admin"), tc.kind, tc.words)
		}
	})
}

// An answer is held against what credentials look like.
func TestRoleAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good := ssofake.Credentials{AccessKeyID: "ASIAAAAAAAAAAAAAAAAA", SecretAccessKey: "secret/+=", SessionToken: "token", Expires: time.Now().Add(time.Hour)}
		for words, spoil := range map[string]func(c *ssofake.Credentials){
			"":                     func(*ssofake.Credentials) {},
			"access key id":        func(c *ssofake.Credentials) { c.AccessKeyID = "short" },
			"secret access key":    func(c *ssofake.Credentials) { c.SecretAccessKey = "" },
			"session token":        func(c *ssofake.Credentials) { c.SessionToken = "a\nb" },
			"over already":         func(c *ssofake.Credentials) { c.Expires = time.Now().Add(-time.Second) },
			"live longer than AWS": func(c *ssofake.Credentials) { c.Expires = time.Now().Add(37 * time.Hour) },
		} {
			fake := newFake()
			fake.SetIssuer(func(string, string, time.Duration) (ssofake.Credentials, error) {
				c := good
				spoil(&c)
				return c, nil
			})
			m := newManager(fake, Options{})
			signIn(t, m, fake, corp())
			c, err := mint(t, m)
			if words == "" {
				if err != nil || !c.Expires.Equal(good.Expires.Truncate(time.Millisecond)) || c.Region != "eu-central-1" || c.SessionToken.Reveal() != "token" {
					t.Errorf("%+v %v", c, err)
				}
				continue
			}
			wantKind(t, err, broker.KindUnavailable, "its answer is refused", words)
		}
	})
}

// Whoever answers in AWS's place gives back all that was sent: none of it is in an error.
func TestNoSecretInErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, body := range []string{`{"error":"invalid_request","error_description":"{quoted}"}`, "{request}", `{"__type":"{quoted}","message":"x {quoted}"}`, `{"code":"ValidationException","message":"{quoted}"}`} {
			for _, op := range []string{ssofake.CreateToken, ssofake.GetRoleCredentials} {
				for _, status := range []int{200, 400, 401, 500} {
					fake := newFake()
					m := newManager(fake, Options{})
					signIn(t, m, fake, corp())
					have := m.held.sessions[corp().key()]
					time.Sleep(61 * time.Minute)
					if op == ssofake.GetRoleCredentials {
						mustMint(t, m)
						have = m.held.sessions[corp().key()]
					}
					fake.SetFault(ssofake.Fault{Op: op, Status: status, Body: body})
					_, err := mint(t, m)
					if err == nil {
						t.Fatal("no error")
					}
					text := err.Error() + fmt.Sprintf("%+v %#v", err, err)
					for _, s := range []broker.Secret{have.access, have.refresh, have.client.secret} {
						if strings.Contains(text, s.Reveal()) {
							t.Errorf("%s %d: %s", op, status, text)
						}
					}
				}
			}
		}
		fake := newFake()
		m := newManager(fake, Options{})
		signIn(t, m, fake, corp())
		have := m.held.sessions[corp().key()]
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			text := fmt.Sprintf(verb, []any{m, m.held, have, standingOf(m, corp())})
			for _, s := range []broker.Secret{have.access, have.refresh, have.client.secret} {
				if strings.Contains(text, s.Reveal()) {
					t.Errorf("%s prints a secret", verb)
				}
			}
		}
	})
}

// The CLI's access token is used where there is no other, and nothing else of it.
func TestCLICache(t *testing.T) {
	for _, s := range []Session{corp(), {StartURL: ssofake.StartURL, Region: "eu-central-1"}} {
		dir := t.TempDir()
		of := s.Name
		if of == "" {
			of = s.StartURL
		}
		synctest.Test(t, func(t *testing.T) {
			fake := newFake()
			cli := tokensOf(t, fake)
			token := func() map[string]string {
				return map[string]string{
					"startUrl": s.StartURL + "/#/", "region": s.Region, "accessToken": cli.access.Reveal(), "expiresAt": cli.expires.UTC().Format(time.RFC3339),
					"refreshToken": cli.refresh.Reveal(), "clientId": cli.client.id, "clientSecret": cli.client.secret.Reveal(),
					"registrationExpiresAt": cli.client.expires.UTC().Format(time.RFC3339),
				}
			}
			path := cacheToken(t, dir, of, token())
			calls := fake.Count("", "")
			m := newManager(fake, Options{CLICache: dir})
			ask := func() *broker.Error {
				_, err := m.Role(s, account, "admin").Mint(t.Context(), broker.MintInput{})
				e, _ := errors.AsType[*broker.Error](err)
				return e
			}
			if err := ask(); err != nil {
				t.Fatal(err)
			}
			if got := standingOf(m, s); !got.signedIn || !got.fromCLI || got.refreshable || got.until.IsZero() {
				t.Errorf("%+v", got)
			}
			if n := fake.Count("", "") - calls; n != 1 {
				t.Errorf("%d calls for one role", n)
			}

			// Whatever is wrong with the file, it is as if there were none; and with it goes
			// no request, whether or not it holds a refresh token.
			for name, spoil := range map[string]func(map[string]string){
				"another start URL": func(c map[string]string) { c["startUrl"] = "https://other.awsapps.com/start" },
				"another region":    func(c map[string]string) { c["region"] = "us-east-1" },
				"expired":           func(c map[string]string) { c["expiresAt"] = rfc3339(-time.Second) },
				"no time":           func(c map[string]string) { c["expiresAt"] = "soon" },
				"no token":          func(c map[string]string) { delete(c, "accessToken") },
				"two lines":         func(c map[string]string) { c["accessToken"] += "\r\nX: y" },
			} {
				c := token()
				spoil(c)
				cacheToken(t, dir, of, c)
				before, _ := os.ReadFile(path)
				calls := fake.Count("", "")
				wantKind(t, ask(), broker.KindLoginNeeded, "nobody is signed in")
				if n := fake.Count("", "") - calls; n != 0 {
					t.Errorf("%s: %d calls", name, n)
				}
				if after, _ := os.ReadFile(path); string(after) != string(before) {
					t.Errorf("%s: the file was changed", name)
				}
				if got := standingOf(m, s); got.signedIn {
					t.Errorf("%s: %+v", name, got)
				}
			}
			if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
			wantKind(t, ask(), broker.KindLoginNeeded)

			// A day later the CLI's token is over. Its refresh token works still, and is the
			// CLI's: our own sign-in does not touch it.
			cacheToken(t, dir, of, token())
			time.Sleep(2 * time.Hour)
			calls = fake.Count("", "")
			wantKind(t, ask(), broker.KindLoginNeeded)
			if n := fake.Count("", "") - calls; n != 0 {
				t.Errorf("%d calls with a CLI token that is over", n)
			}
			signIn(t, m, fake, s)
			time.Sleep(2 * time.Hour)
			if err := ask(); err != nil {
				t.Error(err)
			}
			if got := standingOf(m, s); got.fromCLI || !got.refreshable {
				t.Errorf("%+v", got)
			}
			if _, err := m.api.refresh(t.Context(), s, cli); err != nil {
				t.Errorf("the CLI's refresh token was spent: %v", err)
			}
		})
	}
}

// A token that the portal does not take is not shown again: the CLI's, after ours.
func TestCLITokenRefused(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fake := newFake()
		cacheToken(t, dir, "corp", map[string]string{"startUrl": ssofake.StartURL, "region": "eu-central-1", "accessToken": "unknown", "expiresAt": rfc3339(time.Hour)})
		m := newManager(fake, Options{CLICache: dir})
		for range 5 {
			_, err := mint(t, m)
			wantKind(t, err, broker.KindLoginNeeded)
		}
		if n := fake.Count("", ""); n != 1 {
			t.Errorf("%d calls", n)
		}
		signIn(t, m, fake, corp())
		mustMint(t, m)
		fake.RevokeSessions()
		calls := fake.Count(ssofake.GetRoleCredentials, "")
		for range 5 {
			_, err := mint(t, m)
			wantKind(t, err, broker.KindLoginNeeded)
		}
		// Ours is refused; the CLI's is tried once more, since a sign-in forgot that it was.
		if n := fake.Count(ssofake.GetRoleCredentials, "") - calls; n != 2 {
			t.Errorf("%d calls", n)
		}
	})
}

// A suspend: the monotonic clock stood still, and the token is over all the same.
func TestLeft(t *testing.T) {
	now := time.Now()
	until := now.Add(time.Hour)
	if got := left(until, now); got != time.Hour {
		t.Errorf("%v", got)
	}
	// A suspend of two hours, which the monotonic clock does not count.
	if got := left(until, moveWall(now, 2*time.Hour)); got != -time.Hour {
		t.Errorf("%v", got)
	}
	// A wall clock that is set back by a day: the monotonic one knows better.
	if got := left(until, moveWall(now.Add(2*time.Hour), -24*time.Hour)); got != -time.Hour {
		t.Errorf("%v", got)
	}
	// What comes out of the vault has the wall clock's word alone.
	if got := left(until.Round(0), now.Add(2*time.Hour)); got != -time.Hour {
		t.Errorf("%v", got)
	}
	if got := left(time.Time{}, now); got >= 0 {
		t.Errorf("%v", got)
	}
}

func TestDigest(t *testing.T) {
	m := New(Options{})
	base := m.Role(corp(), account, "admin").Digest()
	seen := map[broker.Digest]string{base: "base"}
	other := func(name string, change func(*Session)) Session {
		s := corp()
		change(&s)
		return s
	}
	for name, r := range map[string]broker.Minter{
		"account": m.Role(corp(), "210987654321", "admin"), "role": m.Role(corp(), account, "reader"),
		"name":     m.Role(other("name", func(s *Session) { s.Name = "" }), account, "admin"),
		"start":    m.Role(other("start", func(s *Session) { s.StartURL += "x" }), account, "admin"),
		"region":   m.Role(other("region", func(s *Session) { s.Region = "us-east-1" }), account, "admin"),
		"endpoint": New(Options{Endpoint: func(string, string) string { return "https://other.example" }}).Role(corp(), account, "admin"),
	} {
		d := r.Digest()
		if was, has := seen[d]; has {
			t.Errorf("%s has the digest of %s", name, was)
		}
		seen[d] = name
	}
	same := corp()
	same.StartURL += "/#/"
	if New(Options{}).Role(same, account, "admin").Digest() != base {
		t.Error("the same role has another digest")
	}
}

func TestSession(t *testing.T) {
	if got := (Session{StartURL: "https://a.awsapps.com/start/#/"}).String(); got != "https://a.awsapps.com/start" {
		t.Error(got)
	}
	a, b := corp(), corp()
	a.Scopes, b.Scopes = []string{"b", "a", "b"}, []string{"a", "b"}
	if a.key() != b.key() || a.key() == corp().key() || !slices.Equal(corp().scopes(), []string{"sso:account:access"}) {
		t.Errorf("%v %v", a.key(), b.key())
	}
	for _, s := range []Session{
		{StartURL: "http://a.awsapps.com/start", Region: "eu-west-1"}, {StartURL: "https://me:secret@a/", Region: "eu-west-1"}, {StartURL: "::", Region: "eu-west-1"}, {Region: "eu-west-1"},
		{StartURL: ssofake.StartURL}, {StartURL: ssofake.StartURL, Region: "evil.example/"}, {StartURL: ssofake.StartURL, Region: "eu-west-1.evil"},
	} {
		m := New(Options{})
		_, err := m.Role(s, account, "admin").Mint(t.Context(), broker.MintInput{})
		if e := broker.AsError(err); e.Kind != broker.KindConfig {
			t.Errorf("%+v: %v", s, err)
		}
		if _, err := m.Begin(t.Context(), s, true); broker.AsError(err).Kind != broker.KindConfig {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

func TestEndpoint(t *testing.T) {
	a := newAPI(Options{})
	for region, want := range map[string]string{
		"eu-central-1": "amazonaws.com", "us-gov-west-1": "amazonaws.com", "cn-north-1": "amazonaws.com.cn", "eusc-de-east-1": "amazonaws.eu",
		"us-iso-east-1": "c2s.ic.gov", "us-isob-east-1": "sc2s.sgov.gov",
	} {
		got, err := a.base(serviceOIDC, region)
		if portal, err := a.base(servicePortal, region); err != nil || portal != "https://portal.sso."+region+"."+want {
			t.Errorf("%s %v", portal, err)
		}
		if err != nil || got != "https://oidc."+region+"."+want {
			t.Errorf("%s %v", got, err)
		}
	}
	for at, ok := range map[string]bool{
		"https://vpce.example/": true, "http://127.0.0.1:1": true, "http://[::1]:1": true, "http://localhost:1": false, "http://10.0.0.1": false,
		"https://me@x": false, "ftp://x": false, "x": false,
	} {
		a := newAPI(Options{Endpoint: func(string, string) string { return at }})
		if got, err := a.base(serviceOIDC, "eu-west-1"); (err == nil) != ok || strings.HasSuffix(got, "/") {
			t.Errorf("%s: %q %v", at, got, err)
		}
	}
}

// An answer without a new refresh token leaves the old one good.
func TestRefreshTokenStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, vault := newFake(), newVault("open")
		m := newManager(fake, Options{Vault: vault})
		signIn(t, m, fake, corp())
		was := m.held.sessions[corp().key()].refresh
		time.Sleep(2 * time.Hour)
		fake.SetFault(ssofake.Fault{Op: ssofake.CreateToken, Body: `{"accessToken":"unknown","tokenType":"Bearer","expiresIn":3600}`})
		_, err := mint(t, m)
		wantKind(t, err, broker.KindLoginNeeded) // the stand-in does not know the token
		if got := m.held.sessions[corp().key()]; !got.refresh.Equal(was) || got.access.Reveal() != "unknown" || !strings.Contains(vault.content(), was.Reveal()) {
			t.Error("the refresh token is lost")
		}
		fake.SetFault(ssofake.Fault{})
		mustMint(t, m)
	})
}

// An answer that is lost on its way takes the refresh token with it: nobody can tell,
// and the next try says that a person is needed.
func TestRefreshAnswerLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake()
		m := newManager(fake, Options{})
		signIn(t, m, fake, corp())
		time.Sleep(2 * time.Hour)
		fake.SetFault(ssofake.Fault{Op: ssofake.CreateToken, Times: 1, After: true, Drop: true})
		_, err := mint(t, m)
		wantKind(t, err, broker.KindUnavailable)
		time.Sleep(pauseEmpty)
		_, err = mint(t, m)
		wantKind(t, err, broker.KindLoginNeeded, "has ended")
	})
}
