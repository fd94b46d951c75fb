package login

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/ssofake"
)

// Twenty at once, some for a browser and some for a device: one attempt, one address,
// one who opens it, and all are told.
func TestOneAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake()
		var changed atomic.Int32
		m := newManager(fake, Options{Changed: func(Session) { changed.Add(1) }})
		fake.SetFault(ssofake.Fault{Delay: time.Second})
		var mu sync.Mutex
		urls, firsts := map[string]bool{}, 0
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				a, err := m.Begin(t.Context(), corp(), i == 0 || i%2 == 1)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				urls[a.URL] = true
				if a.First {
					firsts++
				}
				mu.Unlock()
				if a.Code == "" || a.Expires.After(time.Now().Add(attemptLife)) {
					t.Errorf("%+v", a)
				}
				if a.First {
					time.Sleep(20 * time.Second) // a person
					if _, err := fake.Visit(a.URL, true); err != nil {
						t.Error(err)
					}
				}
				if err := a.Wait(t.Context()); err != nil {
					t.Error(err)
				}
				if err := a.Wait(t.Context()); err != nil {
					t.Errorf("again: %v", err)
				}
				mustMint(t, m)
			})
		}
		wg.Wait()
		if len(urls) != 1 || firsts != 1 || changed.Load() != 1 {
			t.Errorf("%d addresses, %d to open one, told %d times", len(urls), firsts, changed.Load())
		}
		if n, r := fake.Count(ssofake.StartDeviceAuthorization, ""), fake.Count(ssofake.RegisterClient, ""); n != 1 || r != 1 {
			t.Errorf("%d attempts, %d registrations", n, r)
		}
	})
}

// A mint, however often, is no attempt.
func TestNoAttemptFromMint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake()
		m := newManager(fake, Options{})
		for range 100 {
			_, err := mint(t, m)
			wantKind(t, err, broker.KindLoginNeeded)
			time.Sleep(time.Minute)
		}
		if n := fake.Count("", ""); n != 0 {
			t.Errorf("%d calls", n)
		}
	})
}

// An attempt ends when nobody waits any more; the next one is another.
func TestNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake()
		m := newManager(fake, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		one, err := m.Begin(ctx, corp(), true)
		if err != nil {
			t.Fatal(err)
		}
		two, err := m.Begin(t.Context(), corp(), true)
		if err != nil || two.URL != one.URL || two.First {
			t.Fatalf("%+v %v", two, err)
		}
		cancel()
		if err := one.Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		time.Sleep(12 * time.Second)
		polls := fake.Count(ssofake.CreateToken, "")
		if polls < 2 {
			t.Errorf("%d polls while somebody waits", polls)
		}
		brief, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := two.Wait(brief); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if n := fake.Count(ssofake.CreateToken, ""); n > polls+1 {
			t.Errorf("%d polls with nobody waiting", n-polls)
		}
		if err := two.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "nobody waits") {
			t.Error(err)
		}
		three, err := m.Begin(t.Context(), corp(), true)
		if err != nil || three.URL == one.URL || !three.First {
			t.Errorf("%+v %v", three, err)
		}
		over, done := context.WithCancel(t.Context())
		done()
		_ = three.Wait(over)
		// At once, while the last one is still on its way out.
		fake.SetFault(ssofake.Fault{Op: ssofake.StartDeviceAuthorization, Delay: time.Second})
		four, err := m.Begin(t.Context(), corp(), true)
		if err != nil || four.URL == three.URL || !four.First {
			t.Errorf("%+v %v", four, err)
		}
		_ = four.Wait(over)
	})
}

// Who began leaves before there is anything to open: whoever is left opens it.
func TestFirstLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake()
		m := newManager(fake, Options{})
		fake.SetFault(ssofake.Fault{Delay: 2 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := m.Begin(ctx, corp(), true); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
		synctest.Wait()
		a, err := m.Begin(t.Context(), corp(), true)
		if err != nil || !a.First {
			t.Fatalf("%+v %v", a, err)
		}
		fake.SetFault(ssofake.Fault{})
		if _, err := fake.Visit(a.URL, true); err != nil {
			t.Error(err)
		}
		if err := a.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

// How a sign-in by a device ends that does not succeed at once.
func TestDeviceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := func(fake *ssofake.Server) Attempt {
			a, err := newManager(fake, Options{}).Begin(t.Context(), corp(), true)
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
		fake := newFake()
		a := begin(fake)
		if _, err := fake.Visit(a.URL, false); err != nil {
			t.Error(err)
		}
		if err := a.Wait(t.Context()); err == nil || err.Error() != "no sign-in to corp: it was refused in the browser" {
			t.Error(err)
		}

		// Nobody does anything: it asks every five seconds, for the ten minutes of the code.
		fake = newFake()
		a = begin(fake)
		began := time.Now()
		if err := a.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "run the command again") {
			t.Error(err)
		}
		if took := time.Since(began); took < 9*time.Minute || took > attemptLife+time.Second {
			t.Errorf("took %v", took)
		}
		if n := fake.Count(ssofake.CreateToken, ""); n < 110 || n > 121 {
			t.Errorf("asked %d times", n)
		}

		// A code that is over sooner.
		fake = newFake()
		fake.SetLives(ssofake.Lives{Device: time.Minute})
		a = begin(fake)
		if got := time.Until(a.Expires); got > time.Minute {
			t.Errorf("expires in %v", got)
		}
		if err := a.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "the code is over") {
			t.Error(err)
		}

		// Asked to slow down, it does, by five seconds each time.
		fake = newFake()
		a = begin(fake)
		fake.SetFault(ssofake.Fault{Op: ssofake.CreateToken, Times: 3, Status: 400, Code: "SlowDownException"})
		began = time.Now()
		time.Sleep(5*time.Second + 10*time.Second + 15*time.Second + time.Second)
		if _, err := fake.Visit(a.URL, true); err != nil {
			t.Error(err)
		}
		if err := a.Wait(t.Context()); err != nil || time.Since(began) != 50*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}

		// A network that is away for a while.
		fake = newFake()
		a = begin(fake)
		fake.SetFault(ssofake.Fault{Op: ssofake.CreateToken, Times: 4, Drop: true})
		if _, err := fake.Visit(a.URL, true); err != nil {
			t.Error(err)
		}
		if err := a.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// What AWS, or the configuration, does not allow is said by Begin, to all who wait.
func TestBeginFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range []struct {
			fault ssofake.Fault
			start string
			kind  broker.Kind
			words string
		}{
			{ssofake.Fault{Status: 500, Code: "InternalServerException"}, "", broker.KindUnavailable, "no sign-in to corp: InternalServerException"},
			{ssofake.Fault{Drop: true}, "", broker.KindUnavailable, "it cannot be reached"},
			{ssofake.Fault{}, "https://other.awsapps.com/start", broker.KindConfig, "InvalidRequestException: startUrl; check sso_start_url and sso_region"},
			{ssofake.Fault{Body: `{"clientId":"a","clientSecret":"b","clientSecretExpiresAt":1}`}, "", broker.KindUnavailable, "its client registration is empty, or over"},
			{ssofake.Fault{Op: ssofake.StartDeviceAuthorization, Body: `{"deviceCode":"a","userCode":"b","expiresIn":600,"verificationUri":"javascript:alert(1)"}`}, "", broker.KindUnavailable, "its page is not an https address"},
			{ssofake.Fault{Op: ssofake.StartDeviceAuthorization, Body: `{"deviceCode":"a","userCode":"b","expiresIn":600,"verificationUri":"http://evil.example/"}`}, "", broker.KindUnavailable, "its page is not an https address"},
			{ssofake.Fault{Op: ssofake.StartDeviceAuthorization, Body: `{"deviceCode":"a","userCode":"b\u001b[2J","expiresIn":600,"verificationUri":"https://x/"}`}, "", broker.KindUnavailable, "no user code"},
		} {
			fake := newFake()
			m := newManager(fake, Options{})
			fake.SetFault(tc.fault)
			s := corp()
			if tc.start != "" {
				s.StartURL = tc.start
			}
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					_, err := m.Begin(t.Context(), s, true)
					e, _ := errors.AsType[*broker.Error](err)
					wantKind(t, e, tc.kind, tc.words)
				})
			}
			wg.Wait()
			fake.SetFault(ssofake.Fault{})
			signIn(t, m, fake, corp())
		}
	})
}

// A registration that AWS has forgotten is made anew, within the same attempt; one that
// ends soon is not used.
func TestRegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, vault := newFake(), newVault("open")
		m := newManager(fake, Options{Vault: vault})
		signIn(t, m, fake, corp())
		fake.ForgetClients()
		signIn(t, m, fake, corp())
		time.Sleep(80 * 24 * time.Hour)
		signIn(t, m, fake, corp())
		if n := fake.Count(ssofake.RegisterClient, ""); n != 2 {
			t.Errorf("%d registrations", n)
		}
		time.Sleep(5 * 24 * time.Hour)
		signIn(t, newManager(fake, Options{Vault: vault}), fake, corp())
		if n := fake.Count(ssofake.RegisterClient, ""); n != 3 {
			t.Errorf("%d registrations", n)
		}
		// Other scopes are another registration, and another sign-in.
		other := corp()
		other.Scopes = []string{"sso:account:access", "openid"}
		if standingOf(m, other).signedIn {
			t.Error("scopes do not count")
		}
		signIn(t, m, fake, other)
		if n := fake.Count(ssofake.RegisterClient, ""); n != 4 {
			t.Errorf("%d registrations", n)
		}
	})
}

// A sign-out ends the attempt that waits: what came of it would undo the sign-out.
func TestSignOutEndsTheAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake()
		m := newManager(fake, Options{})
		a, err := m.Begin(t.Context(), corp(), true)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.SignOut(t.Context(), corp()); err != nil {
			t.Fatal(err)
		}
		if err := a.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "somebody logged out of it meanwhile") {
			t.Errorf("the attempt: %v", err)
		}
		if next, err := m.Begin(t.Context(), corp(), true); err != nil || !next.First {
			t.Errorf("the next attempt: %+v, %v", next, err)
		} else if _, err := fake.Visit(next.URL, true); err != nil {
			t.Error(err)
		} else if err := next.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
