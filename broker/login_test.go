package broker

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// An MFA session feeds its roles: one code for all of them, none ever asked for
// by a renewal, and what is held is served until it ends.
func TestLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &issuer{name: "base", life: 12 * time.Hour}
		var codes []string
		base.hook = func(_ context.Context, in MintInput) { codes = append(codes, in.Code.Reveal()) }
		session := profile(base)
		session.Parent.Key, session.MFA, session.Hidden = "work", "GAHT12345678", true
		profiles := []Profile{session}
		var roles []*issuer
		for _, name := range []string{"a", "b", "c"} {
			i := &issuer{name: name, life: time.Hour}
			p := profile(i)
			p.Parent.Profile = "base"
			roles, profiles = append(roles, i), append(profiles, p)
		}
		b := run(t, profiles...)
		login := func(code string) error {
			_, err := b.Login(t.Context(), Ask{Profile: "b", Patience: time.Minute}, NewSecret(code))
			return err
		}
		for _, name := range []string{"a", "b"} {
			_, err := b.ask(name)
			want := "profile " + name + ": a code of the MFA device GAHT12345678 is needed; run stsbroker login " + name
			if e := AsError(err); e.Kind != KindLoginNeeded || e.Public != want {
				t.Errorf("got %v: %s", e.Kind, e.Public)
			}
		}
		if base.mints() != 0 || roles[0].mints() != 0 {
			t.Error("STS was asked before anybody gave a code")
		}
		base.fail.Store(&Error{Kind: KindDenied, Public: "wrong code"})
		if err := login("111111"); kindOf(err) != KindDenied {
			t.Errorf("a wrong code: %v", err)
		}
		base.fail.Store(nil)
		if err := login("222222"); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "b", "c"} {
			b.must(t, name) // at once, whatever they were told before
		}
		if s := statusOf(b, "a"); s.State != StateFresh || s.MFA != "GAHT12345678" {
			t.Errorf("status %+v", s)
		}
		// A day of steady use: the code is never asked for again while the session
		// lives, nor used again, and the roles are renewed to its end.
		start := time.Now()
		failed := time.Duration(0)
		for time.Since(start) < 14*time.Hour {
			time.Sleep(time.Minute)
			set, err := b.ask("a")
			switch {
			case err == nil && set.Left(time.Now()) <= 0:
				t.Fatal("served expired")
			case err != nil && failed == 0:
				failed = time.Since(start)
				if kindOf(err) != KindLoginNeeded {
					t.Errorf("the end of the session: %v", err)
				}
			}
		}
		if failed < 12*time.Hour-time.Minute || failed > 13*time.Hour {
			t.Errorf("credentials lasted %v", failed)
		}
		if got := strings.Join(codes, " "); got != "111111 222222" {
			t.Errorf("STS got the codes %q", got)
		}
		if s := statusOf(b, "a"); s.State != StateLogin {
			t.Errorf("state %s", s.State)
		}
		if err := login("333333"); err != nil {
			t.Error(err)
		}
		if b.must(t, "a"); statusOf(b, "a").State != StateFresh {
			t.Errorf("state %s", statusOf(b, "a").State)
		}
	})
}

func TestLoginThatNobodyNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{name: "plain", life: time.Hour}
		b := run(t, profile(i))
		_, err := b.Login(t.Context(), Ask{Profile: "plain", Patience: time.Minute}, NewSecret("123456"))
		if e := AsError(err); e.Kind != KindConfig || !strings.Contains(e.Public, "profile plain: it needs no login") || i.mints() != 0 {
			t.Errorf("%v after %d mints", err, i.mints())
		}
	})
}

// A prefetched profile that needs a code never calls STS by itself.
func TestNoPromptFromPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{name: "base", life: 12 * time.Hour}
		p := profile(i)
		p.MFA, p.Prefetch = "GAHT12345678", true
		b := run(t, p)
		time.Sleep(48 * time.Hour)
		if n := len(b.seen.all); i.mints() != 0 || n != 0 {
			t.Errorf("%d mints, %d events: %+v", i.mints(), n, b.seen.all)
		}
		if s := statusOf(b, "base"); s.State != StateLogin {
			t.Errorf("state %s", s.State)
		}
	})
}

func statusOf(b running, name string) Status {
	for _, s := range b.Status() {
		if s.Profile == name {
			return s
		}
	}
	return Status{}
}

func TestOnceIsForExecAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{name: "root", life: 15 * time.Minute}
		p := profile(i)
		p.Once, p.Prefetch, p.Action = true, true, "AssumeRoot"
		child := profile(&issuer{name: "child", life: time.Hour})
		child.Parent.Profile = "root"
		b := run(t, p, child)
		exec := Ask{Profile: "root", Patience: patience, Caller: Caller{Exec: true}}

		if _, err := b.ask("root"); kindOf(err) != KindForbidden {
			t.Errorf("somebody else's Get: %v", err)
		}
		if _, err := b.Refresh(t.Context(), Ask{Profile: "root", Patience: patience}); kindOf(err) != KindForbidden {
			t.Errorf("somebody else's Refresh: %v", err)
		}
		if _, err := b.Get(t.Context(), exec); kindOf(err) != KindConfig {
			t.Errorf("Get before the mint: %v", err)
		}
		if _, err := b.ask("child"); kindOf(err) != KindConfig || !strings.Contains(err.Error(), "for exec alone") {
			t.Errorf("a profile that it feeds: %v", err)
		}
		if i.mints() != 0 {
			t.Error("minted without an exec")
		}
		for n := 1; n <= 2; n++ {
			first, err := b.Refresh(t.Context(), exec)
			if err != nil {
				t.Fatal(err)
			}
			for range 14 { // it is served to its end, and never renewed
				time.Sleep(time.Minute - time.Second)
				if set, err := b.Get(t.Context(), exec); err != nil || set != first || i.mints() != n {
					t.Fatalf("got another set or an error after %d mints: %v", i.mints(), err)
				}
			}
			time.Sleep(2 * time.Minute)
			if _, err := b.Get(t.Context(), exec); kindOf(err) != KindConfig || !strings.Contains(err.Error(), "run stsbroker exec again") {
				t.Errorf("after its end: %v", err)
			}
		}
		if st, _ := b.store.Load(t.Context(), (*b.profiles.Load())["root"].key); st.AccessKeyID != "" {
			t.Error("it was stored")
		}
	})
}

// STS says that the source's credentials have expired, whatever our clock says:
// the source is renewed first, once, by all that it feeds together.
func TestExpiredSourceIsRenewedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &issuer{name: "base", life: 12 * time.Hour, delay: time.Second}
		source := profile(base)
		source.Parent.Key = "work"
		var revoked, always atomic.Bool
		profiles := []Profile{source}
		for _, name := range []string{"a", "b", "c", "d"} {
			i := &issuer{name: name, life: time.Hour, delay: 100 * time.Millisecond}
			i.hook = func(_ context.Context, in MintInput) {
				i.fail.Store(nil)
				if always.Load() || revoked.Load() && in.Parent.AccessKeyID == "ASIATESTbase00000001" {
					i.fail.Store(&Error{Kind: KindDenied, Code: "ExpiredToken", Signer: true, Public: "ExpiredToken"})
				}
			}
			p := profile(i)
			p.Parent.Profile = "base"
			profiles = append(profiles, p)
		}
		b := run(t, profiles...)
		wait := Ask{Patience: 30 * time.Second}
		get := func(name string) (*Set, error) {
			wait.Profile = name
			return b.Get(t.Context(), wait)
		}
		if _, err := get("base"); err != nil {
			t.Fatal(err)
		}
		revoked.Store(true)
		done := make(chan error)
		for _, name := range []string{"a", "b", "c"} {
			a := Ask{Profile: name, Patience: 30 * time.Second}
			go func() {
				set, err := b.Get(t.Context(), a)
				if err == nil && !strings.Contains(set.Note, "renewed first") {
					t.Errorf("note %q", set.Note)
				}
				done <- err
			}()
		}
		for range 3 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if n := base.mints(); n != 2 {
			t.Errorf("the source was minted %d times, want 2", n)
		}
		if n := b.seen.count(EventMintFailed); n != 0 {
			t.Errorf("%d mints failed", n)
		}
		// A source that is refused even when new: once more, and no loop.
		always.Store(true)
		if _, err := get("d"); kindOf(err) != KindDenied || AsError(err).Code != "ExpiredToken" {
			t.Errorf("%v", err)
		}
		if n := base.mints(); n != 3 {
			t.Errorf("the source was minted %d times, want 3", n)
		}
	})
}

// Two people log in at once: a wrong code does not spoil the other's, and no code
// is ever used for a mint that nobody meant it for.
func TestTwoLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{name: "base", life: 12 * time.Hour, delay: 2 * time.Second}
		var codes []string
		i.hook = func(_ context.Context, in MintInput) {
			codes = append(codes, in.Code.Reveal())
			i.fail.Store(nil)
			if in.Code.Reveal() != "222222" {
				i.fail.Store(&Error{Kind: KindDenied, Public: "wrong code"})
			}
		}
		p := profile(i)
		p.MFA = "GAHT12345678"
		b := run(t, p)
		login := func(code string) error {
			_, err := b.Login(t.Context(), Ask{Profile: "base", Patience: time.Minute}, NewSecret(code))
			return err
		}
		done := make(chan error)
		go func() { done <- login("111111") }()
		time.Sleep(time.Second) // the first one's call is under way
		if err := login("222222"); err != nil {
			t.Errorf("a good code beside a wrong one: %v", err)
		}
		if err := <-done; kindOf(err) != KindDenied {
			t.Errorf("the wrong one: %v", err)
		}
		// Joining a login that succeeds leaves a code over, which must not be kept.
		go func() { done <- login("222222") }()
		time.Sleep(time.Second)
		if err := login("333333"); err != nil {
			t.Errorf("a login that joined: %v", err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := b.Refresh(t.Context(), Ask{Profile: "base", Patience: time.Minute}); err == nil {
			t.Error("a refresh without a code")
		}
		if got := strings.Join(codes, " "); got != "111111 222222 222222 " {
			t.Errorf("STS got %q", got)
		}
	})
}
