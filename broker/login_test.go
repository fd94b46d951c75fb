package broker

import (
	"context"
	"fmt"
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
		exec := Ask{Profile: "root", Patience: patience, Caller: Caller{Exec: true, Token: "one"}}

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
		if n := len(b.store.(*mapStore).m); n != 0 {
			t.Errorf("%d sets were stored", n)
		}
		// Another exec has a set of its own, which the first one's child never gets.
		other := exec
		other.Caller.Token = "two"
		set, err := b.Refresh(t.Context(), other)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := b.Get(t.Context(), exec); err == nil {
			t.Errorf("the first exec got generation %d of the second one's", got.Generation)
		}
		if got, err := b.Get(t.Context(), other); got != set {
			t.Errorf("the second one got another: %v", err)
		}
		b.Release("two")
		if _, err := b.Get(t.Context(), other); err == nil {
			t.Error("it is held although its token is gone")
		}
		if s := statusOf(b, "root"); s.State != StateIdle || s.RenewIn != 0 {
			t.Errorf("status %+v", s)
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
		time.Sleep(renewGap)
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
		// A source that is refused even when new is not renewed for ever.
		always.Store(true)
		if _, err := get("d"); kindOf(err) != KindDenied || AsError(err).Code != "ExpiredToken" {
			t.Errorf("%v", err)
		}
		if n := base.mints(); n != 2 {
			t.Errorf("the source was minted %d times, want 2", n)
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
		// The same code from two terminals: the second is refused by STS, and nobody minds.
		i.change(func() { i.delay = 0 })
		time.Sleep(time.Minute)
		used := false
		i.hook = func(_ context.Context, in MintInput) {
			i.fail.Store(nil)
			if used {
				i.fail.Store(&Error{Kind: KindDenied, Public: "every code works once"})
			}
			used = true
			time.Sleep(time.Second)
		}
		go func() { done <- login("444444") }()
		go func() { done <- login("444444") }()
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("one of two with the same code: %v", err)
			}
		}
		i.hook = func(_ context.Context, in MintInput) { codes = append(codes, in.Code.Reveal()) }
		i.change(func() { i.delay = 2 * time.Second })
		i.fail.Store(nil)
		// Joining a login that succeeds leaves a code over, which must not be kept.
		go func() { done <- login("222222") }()
		time.Sleep(time.Second)
		if err := login("333333"); err != nil {
			t.Errorf("a login that joined: %v", err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		i.fail.Store(&Error{Kind: KindLoginNeeded, Public: "no code"})
		if _, err := b.Refresh(t.Context(), Ask{Profile: "base", Patience: time.Minute}); err == nil {
			t.Error("a refresh without a code")
		}
		if got := strings.Join(codes, " "); got != "111111 222222 222222 " {
			t.Errorf("STS got %q", got)
		}
	})
}

// needsCode makes an issuer take one code, as awssts and STS do together.
func needsCode(i *issuer, good string) *issuer {
	i.hook = func(_ context.Context, in MintInput) {
		switch in.Code.Reveal() {
		case good:
			i.fail.Store(nil)
		case "":
			i.fail.Store(&Error{Kind: KindLoginNeeded, Public: "a code is needed"})
		default:
			i.fail.Store(&Error{Kind: KindDenied, Code: "AccessDenied", Public: "MultiFactorAuthentication failed"})
		}
	}
	return i
}

// mfaProfile is a session that a code of the device buys.
func mfaProfile(i *issuer, device string) Profile {
	p := profile(i)
	p.MFA, p.Parent.Key = device, "work"
	return p
}

func (r running) login(t *testing.T, name, code string) error {
	_, err := r.Login(t.Context(), Ask{Profile: name, Patience: time.Minute}, NewSecret(code))
	return err
}

// Who asks for what only a person can renew never waits for it, but for a login
// that is under way.
func TestNobodyWaitsForAPerson(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := needsCode(&issuer{name: "base", life: 12 * time.Hour, delay: 500 * time.Millisecond}, "222222")
		b := run(t, mfaProfile(i, "GAHT"))
		done := make(chan error)
		go func() { done <- b.login(t, "base", "222222") }()
		time.Sleep(100 * time.Millisecond)
		if _, err := b.ask("base"); err != nil {
			t.Errorf("beside a login: %v", err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		quick := func(when string, kind Kind) {
			t.Helper()
			began := time.Now()
			_, err := b.ask("base")
			if took := time.Since(began); took != 0 || kind == 255 && err != nil || kind != 255 && kindOf(err) != kind {
				t.Errorf("%s: %v after %v", when, err, took)
			}
		}
		time.Sleep(11*time.Hour + 30*time.Minute) // far below the mark for renewal
		quick("half an hour left, lapsed", 255)
		for range 28 {
			time.Sleep(time.Minute)
			quick("near the end", 255)
		}
		time.Sleep(3 * time.Minute)
		quick("after the end", KindLoginNeeded)
		if i.mints() != 1 {
			t.Errorf("%d mints", i.mints())
		}
	})
}

// A login renews what a role was refused for, whatever the refusal was.
func TestLoginForgetsWhatRolesWereRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := needsCode(&issuer{name: "base", life: 12 * time.Hour}, "222222")
		role := &issuer{name: "role", life: time.Hour}
		role.hook = func(_ context.Context, in MintInput) {
			role.fail.Store(nil)
			if in.Parent.AccessKeyID == "ASIATESTbase00000001" {
				role.fail.Store(&Error{Kind: KindDenied, Code: "AccessDenied", Public: "aws:MultiFactorAuthAge"})
			}
		}
		r := profile(role)
		r.Parent.Profile = "base"
		b := run(t, mfaProfile(base, "GAHT"), r)
		if err := b.login(t, "base", "222222"); err != nil {
			t.Fatal(err)
		}
		for range 6 { // the refusal comes to stand for 30 s
			_, _ = b.ask("role")
			time.Sleep(30 * time.Second)
		}
		if _, err := b.ask("role"); kindOf(err) != KindDenied {
			t.Fatalf("%v", err)
		}
		if err := b.login(t, "base", "222222"); err != nil {
			t.Fatal(err)
		}
		if s := statusOf(b, "role"); s.LastError != "" || s.State == StateError || s.State == StateLogin {
			t.Errorf("it still stands as refused: %+v", s)
		}
		b.must(t, "role")
	})
}

// A session that rests in the store is used before anybody is asked for a code.
func TestStoredSessionNeedsNoLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := needsCode(&issuer{name: "base", life: 12 * time.Hour}, "222222")
		b := run(t, mfaProfile(i, "GAHT"))
		if err := b.login(t, "base", "222222"); err != nil {
			t.Fatal(err)
		}
		set := b.must(t, "base")
		b.mu.Lock()
		b.evictLocked()
		b.mu.Unlock()
		if got, err := b.ask("base"); err != nil || got.AccessKeyID != set.AccessKeyID {
			t.Errorf("after the lease was evicted: %v", err)
		}
	})
}

// One mistyped code, or a refresh, does nothing to a session that is fresh.
func TestMistypedCodeSpoilsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := needsCode(&issuer{name: "base", life: 12 * time.Hour}, "222222")
		b := run(t, mfaProfile(i, "GAHT"))
		if err := b.login(t, "base", "222222"); err != nil {
			t.Fatal(err)
		}
		if err := b.login(t, "base", "111111"); kindOf(err) != KindDenied {
			t.Errorf("a wrong code: %v", err)
		}
		if _, err := b.Refresh(t.Context(), Ask{Profile: "base", Patience: patience}); kindOf(err) != KindLoginNeeded {
			t.Errorf("a refresh: %v", err)
		}
		time.Sleep(time.Minute)
		if s := statusOf(b, "base"); s.State != StateFresh && s.State != StateLapsed || s.Failures != 0 || s.LastError != "" || s.RenewIn != 0 {
			t.Errorf("status %+v", s)
		}
		b.must(t, "base")
	})
}

// Two devices on the way: the one whose session STS rejects is asked for, fresh
// as it seems.
func TestLoginForARejectedSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := needsCode(&issuer{name: "base", life: 12 * time.Hour}, "222222")
		role := &issuer{name: "role", life: time.Hour}
		r := profile(role)
		r.Parent.Profile, r.MFA = "base", "TWO"
		b := run(t, mfaProfile(base, "ONE"), r)
		role.hook = func(_ context.Context, in MintInput) {
			role.fail.Store(nil)
			if in.Parent.AccessKeyID == "ASIATESTbase00000001" {
				role.fail.Store(&Error{Kind: KindDenied, Code: "ExpiredToken", Signer: true, Public: "ExpiredToken"})
			}
		}
		wants := func(device string) {
			t.Helper()
			if s := statusOf(b, "role"); s.MFA != device {
				t.Errorf("the device %s is asked for, want %s", s.MFA, device)
			}
		}
		wants("ONE")
		if err := b.login(t, "role", "222222"); kindOf(err) != KindLoginNeeded {
			t.Fatalf("the first of two: %v", err)
		}
		wants("TWO")
		time.Sleep(renewGap)
		if err := b.login(t, "role", "222222"); kindOf(err) != KindLoginNeeded {
			t.Errorf("a rejected source: %v", err)
		}
		wants("ONE")
		if s := statusOf(b, "base"); s.State != StateLogin {
			t.Errorf("the rejected session is %s", s.State)
		}
		if err := b.login(t, "role", "222222"); kindOf(err) != KindLoginNeeded {
			t.Errorf("%v", err)
		}
		wants("TWO")
		if err := b.login(t, "role", "222222"); err != nil {
			t.Error(err)
		}
	})
}

// Roles whose signatures STS rejects for ever do not mint their source for ever.
func TestRejectedSourceIsNotMintedInAStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &issuer{name: "base", life: 12 * time.Hour}
		profiles := []Profile{profile(base)}
		for n := range 10 {
			i := &issuer{name: fmt.Sprintf("role%d", n), life: time.Hour}
			i.fail.Store(&Error{Kind: KindDenied, Code: "InvalidToken", Signer: true, Public: "InvalidToken"})
			p := profile(i)
			p.Parent.Profile, p.Prefetch = "base", true
			profiles = append(profiles, p)
		}
		run(t, profiles...)
		time.Sleep(10 * time.Minute)
		if n := base.mints(); n < 2 || n > 11 {
			t.Errorf("the source was minted %d times in 10 min", n)
		}
	})
}

// A source may take as long as its own minter says.
type slowIssuer struct{ *issuer }

func (slowIssuer) Deadline() time.Duration { return 63 * time.Second }

func TestSourceHasItsOwnDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := &issuer{name: "base", life: 12 * time.Hour, delay: 40 * time.Second}
		p := profile(base)
		p.Minter = slowIssuer{base}
		r := profile(&issuer{name: "role", life: time.Hour})
		r.Parent.Profile = "base"
		b := run(t, p, r)
		if _, err := b.Get(t.Context(), Ask{Profile: "role", Patience: 50 * time.Second}); err != nil || b.seen.count(EventMintFailed) != 0 {
			t.Errorf("%v, %d failed mints", err, b.seen.count(EventMintFailed))
		}
	})
}

// A reload may bring other ways to reach STS, which no digest covers.
func TestReloadTakesTheNewMinter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before, after := &issuer{name: "x", life: time.Hour}, &issuer{name: "x", life: time.Hour}
		b := run(t, profile(before))
		set := b.must(t, "x")
		b.Reload([]Profile{profile(after)})
		if b.must(t, "x") != set {
			t.Error("the lease was lost")
		}
		if _, err := b.Refresh(t.Context(), Ask{Profile: "x", Patience: patience}); err != nil || before.mints() != 1 || after.mints() != 1 {
			t.Errorf("%v: %d mints by the old minter, %d by the new", err, before.mints(), after.mints())
		}
	})
}

// The source's lease may be another one by now, which holds nothing yet.
func TestRejectedSourceThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{name: "base", life: time.Hour}
		b := run(t, profile(i))
		gone := b.must(t, "base")
		b.mu.Lock()
		b.evictLocked()
		b.mu.Unlock()
		b.store.(*mapStore).m = map[Key]Stored{}
		l := b.lease((*b.profiles.Load())["base"])
		if renewed, err := l.renewPast(t.Context(), gone, time.Minute); !renewed || err != nil {
			t.Errorf("renewed %v, %v", renewed, err)
		}
		if set, err := l.await(t.Context(), time.Minute, &force{past: gone.AccessKeyID}); err != nil || set.AccessKeyID == gone.AccessKeyID {
			t.Errorf("%v, %v", set, err)
		}
	})
}
