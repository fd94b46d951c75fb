package login

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/ssofake"
)

// A restart loses nothing and asks nobody.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, vault := newFake(), newVault("open")
		signIn(t, newManager(fake, Options{Vault: vault}), fake, corp())
		for _, early := range []bool{true, false} {
			var changed []Session
			writes := vault.writes
			m := newManager(fake, Options{Vault: vault, Changed: func(s Session) { changed = append(changed, s) }})
			calls := fake.Count("", "")
			if early {
				if err := m.Reload(t.Context()); err != nil {
					t.Fatal(err)
				}
				if s := standingOf(m, corp()); !s.signedIn || !s.refreshable {
					t.Errorf("%+v", s)
				}
			}
			mustMint(t, m)
			synctest.Wait()
			if vault.writes != writes {
				t.Error("written with nothing new")
			}
			if n := fake.Count("", "") - calls; n != 1 || len(changed) != 1 || changed[0].String() != "corp" {
				t.Errorf("%d calls after a restart, told of %v", n, changed)
			}
		}
		time.Sleep(3 * time.Hour)
		m := newManager(fake, Options{Vault: vault})
		mustMint(t, m)
		signIn(t, m, fake, corp()) // the registration is known, too
		if n := fake.Count(ssofake.RegisterClient, ""); n != 1 {
			t.Errorf("%d registrations", n)
		}
	})
}

// What is new is in the vault before it is shown to anybody.
func TestWrittenBeforeUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, vault := newFake(), newVault("open")
		var m *Manager
		var checked atomic.Int32
		m = newManager(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if token := r.Header.Get("X-Amz-Sso_bearer_token"); token != "" {
				checked.Add(1)
				if !strings.Contains(vault.content(), token) {
					t.Error("a token is used that is not in the vault")
				}
			}
			fake.ServeHTTP(w, r)
		}), Options{Vault: slowVault{vault}})
		signIn(t, m, fake, corp())
		for range 3 {
			var wg sync.WaitGroup
			for i := range 10 {
				wg.Go(func() {
					time.Sleep(time.Duration(i) * 300 * time.Millisecond)
					mustMint(t, m)
				})
			}
			wg.Wait()
			time.Sleep(58 * time.Minute)
		}
		if n := checked.Load(); n != 30 {
			t.Errorf("%d calls were looked at", n)
		}
	})
}

// slowVault takes a second to write.
type slowVault struct{ *memVault }

func (v slowVault) Update(name string, f func([]byte) ([]byte, error)) error {
	return v.memVault.Update(name, func(old []byte) ([]byte, error) {
		b, err := f(old)
		time.Sleep(time.Second)
		return b, err
	})
}

// A disk that fails: memory goes on with the new pair, it is said once, and written
// as soon as that works.
func TestWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, vault := newFake(), newVault("open")
		var said []error
		m := newManager(fake, Options{Vault: vault, Report: func(err error) { said = append(said, err) }})
		signIn(t, m, fake, corp())
		first := vault.content()
		vault.set("open", errors.New("no space left on device"))
		for range 4 {
			time.Sleep(57 * time.Minute)
			mustMint(t, m)
		}
		if vault.content() != first || len(said) != 1 || !strings.Contains(said[0].Error(), "kept in memory alone") || !strings.Contains(said[0].Error(), "no space left") {
			t.Errorf("%v", said)
		}
		if err := m.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("%v", err)
		}
		vault.set("open", nil)
		if err := m.Reload(t.Context()); err != nil {
			t.Error(err)
		}
		if !strings.Contains(vault.content(), m.held.sessions[corp().key()].refresh.Reveal()) {
			t.Error("the last refresh token is not written")
		}
		mustMint(t, newManager(fake, Options{Vault: vault}))
	})
}

// Without an identity, and while custody is locked over nothing of ours, everything is
// in memory, and nobody is told of a fault. What opens takes it.
func TestVaultNotOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, state := range []string{"none", "locked", "nil"} {
			fake, vault := newFake(), newVault(state)
			o := Options{Vault: vault, Report: func(err error) { t.Errorf("%s: %v", state, err) }}
			if state == "nil" {
				o.Vault = nil
			}
			m := newManager(fake, o)
			if err := m.Reload(t.Context()); err != nil {
				t.Error(err)
			}
			_, err := mint(t, m)
			wantKind(t, err, broker.KindLoginNeeded)
			signIn(t, m, fake, corp())
			time.Sleep(3 * time.Hour)
			mustMint(t, m)
			if state == "nil" {
				continue
			}
			vault.set("open", nil)
			if err := m.Reload(t.Context()); err != nil {
				t.Error(err)
			}
			calls := fake.Count(ssofake.CreateToken, ssofake.GrantDevice)
			again := newManager(fake, Options{Vault: vault})
			time.Sleep(time.Hour)
			mustMint(t, again)
			if n := fake.Count(ssofake.CreateToken, ssofake.GrantDevice); n != calls {
				t.Error("somebody had to sign in again")
			}
		}
	})
}

// Custody locked over a sign-in: that is said, nobody is sent to a browser, and after
// the unlock everything is there.
func TestLocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, vault := newFake(), newVault("open")
		m := newManager(fake, Options{Vault: vault, Report: func(err error) { t.Error(err) }})
		signIn(t, m, fake, corp())
		lock := func() error { vault.set("locked", nil); return nil }
		if err := m.Lock(t.Context(), lock); err != nil {
			t.Fatal(err)
		}
		_, err := mint(t, m)
		wantKind(t, err, broker.KindLocked, "run stsbroker unlock")
		if s := standingOf(m, corp()); s.signedIn || holdsAny(m) {
			t.Errorf("%+v", s)
		}
		before := vault.content()
		if err := m.Reload(t.Context()); err != nil {
			t.Error(err)
		}
		if vault.content() != before {
			t.Error("a locked vault was changed")
		}
		vault.set("open", nil)
		if err := m.Reload(t.Context()); err != nil {
			t.Error(err)
		}
		mustMint(t, m)

		// What memory alone has when it is locked is lost, and that is said.
		vault.set("open", errors.New("no space left on device"))
		time.Sleep(2 * time.Hour)
		m.o.Report = func(error) {}
		mustMint(t, m)
		lock = func() error { vault.set("locked", nil); return errors.New("the keys stay readable") }
		if err := m.Lock(t.Context(), lock); err == nil || !strings.HasPrefix(err.Error(), "the keys stay readable; and sign-ins") || !strings.Contains(err.Error(), "are forgotten: no space left") {
			t.Errorf("%v", err)
		}
		if holdsAny(m) || vault.closed() == nil {
			t.Error("with a disk that fails, it is not locked")
		}
	})
}

// Whatever waits for its turn when it is locked finds the vault closed, and memory empty.
func TestLockBesideRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, vault := newFake(), newVault("open")
		m := newManager(fake, Options{Vault: vault})
		signIn(t, m, fake, corp())
		time.Sleep(59 * time.Minute)
		var wg sync.WaitGroup
		if err := m.Lock(t.Context(), func() error {
			for range 3 {
				wg.Go(func() {
					if _, err := m.renew(t.Context(), corp()); !locked(err) {
						t.Errorf("%v", err)
					}
				})
			}
			synctest.Wait() // they have come as far as they get
			vault.set("locked", nil)
			return nil
		}); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if holdsAny(m) || fake.Count(ssofake.CreateToken, ssofake.GrantRefresh) != 0 {
			t.Errorf("memory has tokens after the lock: %v, after %d refreshes", holdsAny(m), fake.Count(ssofake.CreateToken, ssofake.GrantRefresh))
		}
		vault.set("open", nil)
		mustMint(t, m)
	})
}

// A lock does not wait for ever: what is under way then ends in the vault alone.
func TestLockWhileRefreshing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, vault := newFake(), newVault("open")
		m := newManager(fake, Options{Vault: vault})
		signIn(t, m, fake, corp())
		old := vault.content()
		time.Sleep(59 * time.Minute)
		fake.SetFault(ssofake.Fault{Op: ssofake.CreateToken, Delay: 3 * time.Second})
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := m.renew(t.Context(), corp()); err == nil {
				t.Error("it was locked meanwhile")
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		closed := false
		if err := m.Lock(ctx, func() error { closed = true; return nil }); err != nil || !closed || holdsAny(m) {
			t.Errorf("%v, closed: %v, memory: %v", err, closed, holdsAny(m))
		}
		wg.Wait()
		if holdsAny(m) {
			t.Error("memory has the tokens that came after the lock")
		}
		if vault.content() == old {
			t.Error("a refresh token was spent and its successor not written")
		}
		fake.SetFault(ssofake.Fault{})
		if err := m.Reload(t.Context()); err != nil {
			t.Error(err)
		}
		mustMint(t, m)
	})
}

// Signed out while it is locked, locked again, unlocked: signed out. And the AWS CLI's
// token, which the sign-out meant too, is not used.
func TestSignOutThenLock(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fake, vault := newFake(), newVault("open")
		cli := tokensOf(t, fake)
		cacheToken(t, dir, "corp", map[string]string{"startUrl": ssofake.StartURL, "region": "eu-central-1", "accessToken": cli.access.Reveal(), "expiresAt": rfc3339(time.Hour)})
		m := newManager(fake, Options{Vault: vault, CLICache: dir})
		signIn(t, m, fake, corp())
		lock := func() error { vault.set("locked", nil); return nil }
		if err := m.Lock(t.Context(), lock); err != nil {
			t.Error(err)
		}
		if err := m.SignOut(t.Context(), corp()); err == nil || !strings.Contains(err.Error(), "run stsbroker unlock") {
			t.Errorf("%v", err)
		}
		if err := m.Lock(t.Context(), lock); err != nil {
			t.Error(err)
		}
		vault.set("open", nil)
		if err := m.Reload(t.Context()); err != nil {
			t.Error(err)
		}
		_, err := mint(t, m)
		wantKind(t, err, broker.KindLoginNeeded, "nobody is signed in")
		if strings.Contains(vault.content(), "refresh_token") {
			t.Error("the vault has a token")
		}
	})
}

// Locked means the AWS CLI's token too; started locked does not.
func TestLockedBesideCLI(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fake, vault := newFake(), newVault("locked")
		cli := tokensOf(t, fake)
		cacheToken(t, dir, "corp", map[string]string{"startUrl": ssofake.StartURL, "region": "eu-central-1", "accessToken": cli.access.Reveal(), "expiresAt": rfc3339(time.Hour)})
		m := newManager(fake, Options{Vault: vault, CLICache: dir})
		mustMint(t, m)
		vault.set("open", nil)
		mustMint(t, m)
		if err := m.Lock(t.Context(), func() error { vault.set("locked", nil); return nil }); err != nil {
			t.Error(err)
		}
		_, err := mint(t, m)
		wantKind(t, err, broker.KindLocked, "run stsbroker unlock")
		vault.set("open", nil)
		mustMint(t, m)
	})
}

// Two processes, one vault: one refresh for both, and the newer sign-in counts.
func TestTwoProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, vault := newFake(), newVault("open")
		one, two := newManager(fake, Options{Vault: vault}), newManager(fake, Options{Vault: vault})
		signIn(t, one, fake, corp())
		mustMint(t, two)
		fake.SetFault(ssofake.Fault{Op: ssofake.CreateToken, Delay: 3 * time.Second})
		for hour := range 6 {
			time.Sleep(59 * time.Minute)
			var wg sync.WaitGroup
			for range 5 {
				wg.Go(func() { mustMint(t, one) })
				wg.Go(func() { mustMint(t, two) })
			}
			wg.Wait()
			if n := fake.Count(ssofake.CreateToken, ssofake.GrantRefresh); n != hour+1 {
				t.Fatalf("%d refreshes in hour %d", n, hour+1)
			}
		}
		fake.SetFault(ssofake.Fault{})
		// The session ends, and somebody signs in through one of them.
		time.Sleep(3 * time.Hour)
		_, err := mint(t, one)
		wantKind(t, err, broker.KindLoginNeeded)
		signIn(t, two, fake, corp())
		mustMint(t, one)
		// Signed out in one: the other does not bring it back.
		if err := two.SignOut(t.Context(), corp()); err != nil {
			t.Error(err)
		}
		if strings.Contains(vault.content(), "access_token") || strings.Contains(vault.content(), "refresh_token") {
			t.Error("the vault has tokens after a sign-out")
		}
		if err := one.Reload(t.Context()); err != nil {
			t.Error(err)
		}
		_, err = mint(t, one)
		wantKind(t, err, broker.KindLoginNeeded, "nobody is signed in")
		if strings.Contains(vault.content(), "access_token") {
			t.Error("they came back")
		}
	})
}

// A process that is locked out of the vault goes on with an old refresh token, which
// another has spent: its refusal does not reach what the vault has.
func TestOldTokenDoesNotWin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, vault := newFake(), newVault("open")
		one, two := newManager(fake, Options{Vault: vault}), newManager(fake, Options{Vault: vault})
		signIn(t, one, fake, corp())
		mustMint(t, two)
		time.Sleep(59 * time.Minute)
		mustMint(t, two)
		fake.SetFault(ssofake.Fault{Op: ssofake.CreateToken, Status: 400, Code: "InvalidGrantException"}) // as for a spent one
		vault.set("locked", nil)
		time.Sleep(2 * time.Minute)
		_, err := mint(t, one)
		wantKind(t, err, broker.KindLoginNeeded)
		fake.SetFault(ssofake.Fault{})
		vault.set("open", nil)
		if err := one.Reload(t.Context()); err != nil {
			t.Error(err)
		}
		mustMint(t, one)
	})
}

// Another process has the vault, and perhaps our refresh token on its way: nobody
// spends that a second time.
func TestVaultBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, vault := newFake(), newVault("open")
		m := newManager(fake, Options{Vault: vault})
		signIn(t, m, fake, corp())
		vault.mu.Lock()
		vault.busy = &broker.Error{Kind: broker.KindUnavailable, Own: true, Public: "process 7 has been changing it for 10s"}
		vault.mu.Unlock()
		time.Sleep(57 * time.Minute)
		mustMint(t, m) // the old one is good for a while
		time.Sleep(4 * time.Minute)
		_, err := mint(t, m)
		wantKind(t, err, broker.KindUnavailable, "process 7")
		if n := fake.Count(ssofake.CreateToken, ssofake.GrantRefresh); n != 0 {
			t.Errorf("%d refreshes", n)
		}
		vault.mu.Lock()
		vault.busy = nil
		vault.mu.Unlock()
		time.Sleep(pauseHeld)
		mustMint(t, m)
	})
}

func TestSignOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, vault := newFake(), newVault("open")
		m := newManager(fake, Options{Vault: vault})
		if err := m.SignOut(t.Context(), corp()); err != nil || fake.Count("", "") != 0 {
			t.Errorf("%v", err)
		}
		signIn(t, m, fake, corp())
		if err := m.SignOut(t.Context(), corp()); err != nil {
			t.Error(err)
		}
		if n := fake.Count(ssofake.Logout, ""); n != 1 || standingOf(m, corp()).signedIn {
			t.Errorf("%d logouts", n)
		}
		_, err := mint(t, m)
		wantKind(t, err, broker.KindLoginNeeded, "nobody is signed in to corp")
		signIn(t, m, fake, corp())
		if n := fake.Count(ssofake.RegisterClient, ""); n != 1 {
			t.Errorf("%d registrations", n)
		}

		// With an access token that is over, the session is ended all the same.
		time.Sleep(2 * time.Hour)
		kept := m.held.sessions[corp().key()]
		if err := m.SignOut(t.Context(), corp()); err != nil {
			t.Error(err)
		}
		logouts := 0
		for _, c := range fake.Calls() {
			if c.Op == ssofake.Logout && c.Code == "" {
				logouts++
			}
		}
		if _, err := m.api.refresh(t.Context(), corp(), kept); !ended(err) || logouts != 2 {
			t.Errorf("the session lives: %v, after %d sign-outs at AWS", err, logouts)
		}

		// AWS does not answer: forgotten here, and said.
		signIn(t, m, fake, corp())
		fake.SetFault(ssofake.Fault{Op: ssofake.Logout, Delay: time.Hour})
		began := time.Now()
		fault := m.SignOut(t.Context(), corp())
		if fault == nil || !strings.Contains(fault.Error(), "signed out of corp, but AWS was not told: it did not answer in time") || time.Since(began) > signOutTimeout {
			t.Errorf("%v after %v", fault, time.Since(began))
		}
		if strings.Contains(vault.content(), "access_token") {
			t.Error("the vault has a token")
		}

		// Locked: memory forgets, the sealed copy goes at the unlock.
		fake.SetFault(ssofake.Fault{})
		signIn(t, m, fake, corp())
		vault.set("locked", nil)
		if err := m.SignOut(t.Context(), corp()); err == nil || !strings.Contains(err.Error(), "run stsbroker unlock") {
			t.Errorf("%v", err)
		}
		vault.set("open", nil)
		if err := m.Reload(t.Context()); err != nil {
			t.Error(err)
		}
		if strings.Contains(vault.content(), "access_token") {
			t.Error("the vault has a token")
		}
	})
}

// The CLI is another program: its token is not used after a sign-out, is left to it,
// and is named.
func TestSignOutBesideCLI(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		fake := newFake()
		cli := tokensOf(t, fake)
		cacheToken(t, dir, "corp", map[string]string{"startUrl": ssofake.StartURL, "region": "eu-central-1", "accessToken": cli.access.Reveal(), "expiresAt": rfc3339(time.Hour)})
		m := newManager(fake, Options{CLICache: dir})
		mustMint(t, m)
		if err := m.SignOut(t.Context(), corp()); err == nil || !strings.Contains(err.Error(), "aws sso logout") {
			t.Errorf("%v", err)
		}
		_, err := mint(t, m)
		wantKind(t, err, broker.KindLoginNeeded)
		if fake.Count(ssofake.Logout, "") != 0 || standingOf(m, corp()).signedIn {
			t.Error("the CLI's session is not ours to end, nor to use")
		}
		newer := tokensOf(t, fake)
		cacheToken(t, dir, "corp", map[string]string{"startUrl": ssofake.StartURL, "region": "eu-central-1", "accessToken": newer.access.Reveal(), "expiresAt": rfc3339(time.Hour)})
		mustMint(t, m)
	})
}

// A blob that is not wholly understood is left as it is.
func TestStrictBlob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, content := range []string{
			"", "null", "{}", "x", `{"version":2,"clients":[],"sessions":[]}`, `{"version":1,"clients":[],"sessions":[],"more":1}`,
			`{"version":1,"clients":[],"sessions":[]}{}`, `{"version":1,"clients":[],"sessions":[{"canary":"x"}]}`, `{"version":1,"clients":"canary"}`,
		} {
			fake, vault := newFake(), newVault("open")
			vault.blob = []byte(content)
			var said []error
			m := newManager(fake, Options{Vault: vault, Report: func(err error) { said = append(said, err) }})
			if err := m.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "left as it is") || strings.Contains(err.Error(), "canary") {
				t.Errorf("%s: %v", content, err)
			}
			signIn(t, m, fake, corp())
			for range 3 {
				mustMint(t, m)
				time.Sleep(time.Hour)
			}
			if vault.content() != content || vault.writes != 0 {
				t.Errorf("%s was replaced", content)
			}
			if len(said) != 1 {
				t.Errorf("%s: said %v", content, said)
			}
		}
	})
}

// The same state is the same bytes, and comes back as it was.
func TestBlob(t *testing.T) {
	now := time.Now()
	s := newState()
	for _, name := range []string{"a", "b", "", "c"} {
		session := corp()
		session.Name, session.Scopes = name, []string{"x", "y"}
		c := client{"id" + name, broker.NewSecret("client-secret"), now.Add(time.Hour).Truncate(time.Second)}
		s.clients[session.key().client(name == "b")] = c
		s.put(session.key(), tokens{access: broker.NewSecret("access"), expires: now.Add(time.Hour), refresh: broker.NewSecret("refresh"), client: c})
	}
	first, err := s.encode(now)
	if err != nil {
		t.Fatal(err)
	}
	back, err := decode(first)
	if err != nil || len(back.sessions) != 4 || len(back.clients) != 2 {
		t.Fatalf("%v %+v", err, back)
	}
	for k, want := range s.sessions {
		got := back.sessions[k]
		if !got.access.Equal(want.access) || !got.refresh.Equal(want.refresh) || !got.client.secret.Equal(want.client.secret) ||
			!got.expires.Equal(want.expires) || !got.changed.Equal(want.changed) || !got.client.expires.Equal(want.client.expires) {
			t.Errorf("%+v: %+v", k, got)
		}
	}
	for range 5 {
		if again, err := back.encode(now); err != nil || string(again) != string(first) {
			t.Fatalf("%v\n%s\n%s", err, first, again)
		}
	}
	// What is over goes, and a sign-out stays for a while.
	over := newState()
	over.put(corp().key(), tokens{})
	soon, _ := over.encode(now.Add(24 * time.Hour))
	late, _ := over.encode(now.Add(31 * 24 * time.Hour))
	var b blob
	if json.Unmarshal(soon, &b) != nil || len(b.Sessions) != 1 {
		t.Errorf("%s", soon)
	}
	if b = (blob{}); json.Unmarshal(late, &b) != nil || len(b.Sessions) != 0 {
		t.Errorf("%s", late)
	}
	// A long leave ends nothing that can still be refreshed.
	over.put(corp().key(), tokens{refresh: broker.NewSecret("refresh"), client: client{"id", broker.NewSecret("secret"), now.Add(60 * 24 * time.Hour)}})
	late, _ = over.encode(now.Add(31 * 24 * time.Hour))
	if b = (blob{}); json.Unmarshal(late, &b) != nil || len(b.Sessions) != 1 {
		t.Errorf("%s", late)
	}
}
