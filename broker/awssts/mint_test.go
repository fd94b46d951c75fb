package awssts

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

func TestEveryMintIsGranted(t *testing.T) {
	// None of these may matter.
	t.Setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAPOISONPOISON")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "poison")
	t.Setenv("AWS_REGION", "poison")
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")

	ctx := context.Background()
	fake := world()
	s := listen(t, fake)
	for action, want := range map[string]struct {
		life          time.Duration
		account, role string
		who           string
	}{
		"GetSessionToken":           {12 * time.Hour, "", "", userARN},
		"AssumeRole":                {time.Hour, stsfake.Account, deploy, "arn:aws:sts::123456789012:assumed-role/deploy/tester"},
		"AssumeRoleWithWebIdentity": {time.Hour, stsfake.Account, ci, "arn:aws:sts::123456789012:assumed-role/ci/tester"},
	} {
		t.Run(action, func(t *testing.T) {
			mint := allMints(t, s, fake)[action]
			c, err := mint.m.Mint(ctx, mint.in)
			if err != nil {
				t.Fatal(err)
			}
			if l := c.Lifetime(); l > want.life || l < want.life-2*time.Second {
				t.Errorf("lifetime %v, want %v", l, want.life)
			}
			if c.AccountID != want.account || c.RoleARN != want.role || c.Note != "" {
				t.Errorf("got account %q, role %q, note %q", c.AccountID, c.RoleARN, c.Note)
			}
			id, err := s.WhoAmI(ctx, at, c.Material())
			if err != nil || id.ARN != want.who || id.Account != stsfake.Account || id.UserID == "" {
				t.Errorf("whoami: %+v, %v; want %s", id, err, want.who)
			}
		})
	}
	for _, call := range fake.Calls() {
		if call.Code != "" || (call.Region != region) != (call.Action == "AssumeRoleWithWebIdentity") {
			t.Errorf("unexpected call %+v", call)
		}
	}
}

func TestDurations(t *testing.T) {
	const chained = "arn:aws:iam::123456789012:role/chained"
	ctx := context.Background()
	for name, c := range map[string]struct {
		max, asked time.Duration
		chain      bool
		calls      []int // of the first and the second mint
		life       time.Duration
		note       string
	}{
		"as asked":                {12 * time.Hour, 12 * time.Hour, false, []int{1, 1}, 12 * time.Hour, ""},
		"more than the role may":  {time.Hour, 12 * time.Hour, false, []int{2, 1}, time.Hour, "STS does not grant the 12h asked for"},
		"chained":                 {12 * time.Hour, 90 * time.Minute, true, []int{1, 1}, time.Hour, "asked for 1h, not 1h30m"},
		"chained, short already":  {12 * time.Hour, 15 * time.Minute, true, []int{1, 1}, 15 * time.Minute, ""},
		"by default":              {time.Hour, 0, false, []int{1, 1}, time.Hour, ""},
		"by default, and chained": {time.Hour, 0, true, []int{1, 1}, time.Hour, ""},
	} {
		t.Run(name, func(t *testing.T) {
			fake := world()
			s := listen(t, fake)
			parent := longTerm
			if c.chain {
				got, err := s.Role(Role{Site: at, ARN: deploy, SessionName: "tester"}).Mint(ctx, broker.MintInput{Parent: longTerm})
				if err != nil {
					t.Fatal(err)
				}
				parent = got.Material()
			}
			fake.AddRole(stsfake.Role{ARN: chained, Trust: []string{userARN, deploy}, MaxSession: c.max})
			m := s.Role(Role{Site: at, ARN: chained, SessionName: "tester", Duration: c.asked})
			for i, calls := range c.calls {
				before := fake.Total()
				got, err := m.Mint(ctx, broker.MintInput{Parent: parent})
				if err != nil {
					t.Fatal(err)
				}
				if n := fake.Total() - before; n != calls {
					t.Errorf("mint %d took %d calls, want %d", i, n, calls)
				}
				if l := got.Lifetime(); l > c.life || l < c.life-2*time.Second {
					t.Errorf("lifetime %v, want %v", l, c.life)
				}
				if !strings.HasPrefix(got.Note, c.note) || (c.note == "" && got.Note != "") {
					t.Errorf("note %q, want %q", got.Note, c.note)
				}
			}
		})
	}
	t.Run("too short is for a person to mend", func(t *testing.T) {
		fake := world()
		c, err := listen(t, fake).Role(Role{Site: at, ARN: deploy, SessionName: "tester", Duration: 899 * time.Second}).Mint(ctx, broker.MintInput{Parent: longTerm})
		if e := wantError(t, c, err); e.Kind != broker.KindConfig || fake.Total() != 1 || !strings.Contains(e.Public, "greater than or equal to 900") {
			t.Errorf("got %v after %d calls: %s", e.Kind, fake.Total(), e.Public)
		}
	})
	t.Run("one hour refused too", func(t *testing.T) {
		// A store that refuses whatever the duration: two calls, not a loop, and nothing remembered.
		fake := world()
		s := listen(t, fake)
		fake.AddRole(stsfake.Role{ARN: chained, Trust: []string{userARN}, MaxSession: 30 * time.Minute})
		m := s.Role(Role{Site: at, ARN: chained, SessionName: "tester", Duration: 2 * time.Hour})
		for range 2 {
			before := fake.Total()
			c, err := m.Mint(ctx, broker.MintInput{Parent: longTerm})
			if e := wantError(t, c, err); e.Kind != broker.KindConfig || fake.Total()-before != 2 {
				t.Errorf("got %v after %d calls", e.Kind, fake.Total()-before)
			}
		}
	})
}

// However wrong the host's clock, a set is minted with at most one more call,
// its lifetime is the true one, and the offset is kept for later calls.
func TestSkewedClock(t *testing.T) {
	for _, offset := range []time.Duration{0, 3 * time.Second, -14 * time.Minute, 20 * time.Minute, -20 * time.Minute, 30 * time.Hour, -3 * 365 * 24 * time.Hour} {
		t.Run(offset.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := world()
				fake.SetOffset(offset)
				s, end := inBubble(t, fake)
				defer end()
				mints := allMints(t, s, fake)
				// A signed call first: any answer at all tells the offset.
				for _, name := range []string{"AssumeRole", "GetSessionToken", "AssumeRoleWithWebIdentity"} {
					mint := mints[name]
					c, err := mint.m.Mint(t.Context(), mint.in)
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					if true_ := c.Expires.Sub(fake.Now()); c.Lifetime() > true_ || c.Lifetime() < true_-2*time.Second {
						t.Errorf("%s: lifetime %v, but it lives %v", name, c.Lifetime(), true_)
					}
				}
				failed := 0
				for _, call := range fake.Calls() {
					if call.Code != "" {
						failed++
					}
				}
				if want := offset.Abs() > 15*time.Minute; failed > 1 || (failed == 1) != want {
					t.Errorf("%d calls failed, want one: %v; %+v", failed, want, fake.Calls())
				}
				// The clock is set right: the offset heals, too.
				fake.SetOffset(0)
				if _, err := s.WhoAmI(t.Context(), at, longTerm); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestSignatureErrorIsTriedAgainForSkewAlone(t *testing.T) {
	for name, c := range map[string]struct {
		offset time.Duration
		calls  int
		hint   string
	}{
		"right clock":    {0, 1, "check that the secret access key belongs to the access key id"},
		"wrong clock":    {time.Hour, 2, "check that the secret access key belongs to the access key id"},
		"tolerable skew": {-2 * time.Minute, 1, "check that the secret"},
	} {
		t.Run(name, func(t *testing.T) {
			fake := world()
			fake.SetOffset(c.offset)
			wrong := longTerm
			wrong.SecretAccessKey = broker.NewSecret("this is not the secret of that key")
			got, err := listen(t, fake).Session(Session{Site: at}).Mint(t.Context(), broker.MintInput{Parent: wrong})
			e := wantError(t, got, err)
			if e.Kind != broker.KindDenied || fake.Total() != c.calls || !strings.Contains(e.Public, c.hint) {
				t.Errorf("got %v after %d calls, want %d: %s", e.Kind, fake.Total(), c.calls, e.Public)
			}
		})
	}
}

func TestTokenFileIsReadAtEveryMint(t *testing.T) {
	fake := world()
	s := listen(t, fake)
	path := filepath.Join(t.TempDir(), "token")
	m := s.WebIdentity(WebIdentity{Site: at, ARN: ci, SessionName: "tester", Token: File("web identity token", path)})
	mint := func() (broker.Credentials, error) { return m.Mint(t.Context(), broker.MintInput{}) }
	write := func(content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check := func(kind broker.Kind, words string) {
		t.Helper()
		c, err := mint()
		if e := wantError(t, c, err); e.Kind != kind || !strings.Contains(e.Public, words) {
			t.Errorf("got %v: %s\nwant %v with %q", e.Kind, e.Public, kind, words)
		}
	}
	check(broker.KindConfig, path+": cannot be read; check the path")
	write(" \n")
	check(broker.KindUnavailable, "is empty")
	write(strings.Repeat("x", maxInput+1))
	check(broker.KindConfig, "is longer than 100000 characters")
	if fake.Total() != 0 {
		t.Errorf("%d calls without a token", fake.Total())
	}
	write("not-a-token-at-all")
	check(broker.KindUnavailable, "InvalidIdentityToken: Couldn't retrieve verification key")
	write(fake.IdentityToken("repo:main", -time.Minute))
	check(broker.KindUnavailable, "the identity token has expired: check what renews its file")
	write(fake.IdentityToken("repo:other", time.Hour))
	check(broker.KindDenied, "trust policy")
	write("\n " + fake.IdentityToken("repo:main", time.Hour) + "\r\n\n")
	if _, err := mint(); err != nil {
		t.Error(err)
	}
	dir := s.WebIdentity(WebIdentity{Site: at, ARN: ci, Token: File("web identity token", t.TempDir())})
	c, err := dir.Mint(t.Context(), broker.MintInput{})
	if e := wantError(t, c, err); e.Kind != broker.KindConfig || !strings.Contains(e.Public, "is not a regular file") {
		t.Error(e)
	}
}

// store answers as STS-compatible stores do: fields left empty.
func store(t *testing.T, wantDuration string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		if got := r.PostForm.Get("DurationSeconds"); got != wantDuration {
			t.Errorf("DurationSeconds is %q, want %q", got, wantDuration)
		}
		a := r.PostForm.Get("Action")
		_, _ = w.Write([]byte(`<?xml version="1.0" encoding="UTF-8"?>
<` + a + `Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><` + a + `Result><AssumedRoleUser><Arn></Arn><AssumeRoleId></AssumeRoleId></AssumedRoleUser>
<Credentials><AccessKeyId>SFQ7A1BBGRI7XJXAGMGQ</AccessKeyId><SecretAccessKey>mCsRYGOUCY6XzTGkLVhGgYQOv3N3Yk7LPsMdqcL0</SecretAccessKey>
<SessionToken>eyJhbGciOiJIUzUxMiJ9.e30.x</SessionToken><Expiration>` + time.Now().UTC().Add(15*time.Second).Format(time.RFC3339) + `</Expiration></Credentials></` + a + `Result></` + a + `Response>`))
	})
}

func TestCompatibleStores(t *testing.T) {
	compatible := func(o *Options) { o.Override.Compatible = true }
	file := tokenFile(t, "a.b.c")
	t.Run("web identity without a duration", func(t *testing.T) {
		s := listen(t, store(t, ""), compatible)
		c, err := s.WebIdentity(WebIdentity{SessionName: "tester", Token: File("web identity token", file)}).Mint(t.Context(), broker.MintInput{})
		if err != nil || c.Lifetime() > 16*time.Second || c.Lifetime() < 12*time.Second || c.RoleARN != "" {
			t.Errorf("got %+v, %v", c, err)
		}
	})
	t.Run("web identity with one", func(t *testing.T) {
		s := listen(t, store(t, "900"), compatible)
		if _, err := s.WebIdentity(WebIdentity{SessionName: "tester", Token: File("web identity token", file), Duration: 15 * time.Minute}).Mint(t.Context(), broker.MintInput{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("role", func(t *testing.T) {
		s := listen(t, store(t, "3600"), compatible)
		if _, err := s.Role(Role{ARN: "arn:aws:iam:::role/x", SessionName: "tester"}).Mint(t.Context(), broker.MintInput{Parent: longTerm}); err != nil {
			t.Error(err)
		}
	})
	t.Run("AWS itself leaves nothing empty", func(t *testing.T) {
		s := listen(t, store(t, "3600"))
		c, err := s.Role(Role{ARN: deploy, SessionName: "tester"}).Mint(t.Context(), broker.MintInput{Parent: longTerm})
		if e := wantError(t, c, err); e.Kind != broker.KindUnavailable || !strings.Contains(e.Public, "is refused: it is for \"\"") {
			t.Error(e)
		}
	})
}

func TestNothingToSignWith(t *testing.T) {
	fake := world()
	s := listen(t, fake)
	for name, m := range map[string]broker.Minter{"session": s.Session(Session{}), "role": s.Role(Role{ARN: deploy, SessionName: "x"})} {
		c, err := m.Mint(t.Context(), broker.MintInput{})
		if e := wantError(t, c, err); e.Kind != broker.KindConfig || fake.Total() != 0 {
			t.Errorf("%s: %v after %d calls", name, e, fake.Total())
		}
	}
}

// A secret that is mended counts at the next mint: nothing derived from the
// wrong one is kept by the key id. (The SDK's own signer does keep it, for a day.)
func TestMendedSecret(t *testing.T) {
	s := listen(t, world())
	m := s.Role(Role{Site: at, ARN: deploy, SessionName: "me"})
	wrong := longTerm
	wrong.SecretAccessKey = broker.NewSecret("not/the/secret/of/this/key/0123456789012")
	if _, err := m.Mint(t.Context(), broker.MintInput{Parent: wrong}); err == nil {
		t.Fatal("minted with a wrong secret")
	}
	if _, err := m.Mint(t.Context(), broker.MintInput{Parent: longTerm}); err != nil {
		t.Errorf("refused after the secret was mended: %v", err)
	}
}
