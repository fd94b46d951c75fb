package awssts

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

const (
	device   = "arn:aws:iam::123456789012:mfa/me"
	provider = "arn:aws:iam::123456789012:saml-provider/Corp"
	member   = "111122223333"
	guarded  = "arn:aws:iam::123456789012:role/guarded"
	analyst  = "arn:aws:iam::123456789012:role/analyst"
	narrow   = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}`
)

// given is a Source that a test fills.
type given struct{ s *string }

func (g given) Read(context.Context) (broker.Secret, error) {
	if *g.s == "" {
		return broker.Secret{}, &broker.Error{Kind: broker.KindUnavailable, Own: true, Public: "nothing there"}
	}
	return broker.NewSecret(*g.s), nil
}
func (given) Digest() broker.Digest { return broker.Digest{} }

func constant(s string) Source { return given{&s} }

// wide is a world that has something for every kind.
func wide() *stsfake.Server {
	s := world()
	s.AddMFA("me", device, []byte("12345678901234567890"))
	s.AddMember(member)
	s.AddSAMLProvider(provider, nil)
	s.AddRole(stsfake.Role{ARN: guarded, Trust: []string{userARN}, MFA: true, ExternalID: "ext", MaxSession: 12 * time.Hour})
	s.AddRole(stsfake.Role{ARN: analyst, SAML: []string{provider}, MaxSession: 12 * time.Hour})
	return s
}

func signedBy(m broker.Material) broker.MintInput { return broker.MintInput{Parent: m} }

// Every kind with every parameter that it has, granted by a stand-in that checks
// them, and the credentials are whose they should be.
func TestEveryKindIsGranted(t *testing.T) {
	fake := wide()
	s := listen(t, fake)
	ctx := t.Context()
	assertion := fake.Assertion(stsfake.SAMLAssertion{Provider: provider, Roles: []string{analyst}, SessionName: "ann"})
	for name, c := range map[string]struct {
		mint     broker.Minter
		code     bool
		life     time.Duration
		account  string
		who      string
		role     string
		unsigned bool
	}{
		"GetSessionToken": {mint: s.Session(Session{Site: at, MFA: MFA{Serial: device}, Duration: 36 * time.Hour}), code: true, life: 36 * time.Hour, who: userARN},
		"AssumeRole": {mint: s.Role(Role{
			Site: at, ARN: guarded, SessionName: "tester", ExternalID: "ext", SourceIdentity: "me", Policy: narrow, PolicyARNs: []string{"arn:aws:iam::aws:policy/ReadOnlyAccess"},
			Tags: map[string]string{"team": "core", "cost": "7"}, TransitiveTags: []string{"team"}, MFA: MFA{Serial: device}, Duration: 2 * time.Hour,
			Contexts: []Context{{ProviderARN: "arn:aws:iam::aws:contextProvider/IdentityCenter", Assertion: constant(fake.ContextAssertion("arn:aws:iam::aws:contextProvider/IdentityCenter", time.Hour))}},
		}), code: true, life: 2 * time.Hour, account: stsfake.Account, role: guarded, who: "arn:aws:sts::123456789012:assumed-role/guarded/tester"},
		"AssumeRoleWithWebIdentity": {mint: s.WebIdentity(WebIdentity{Site: at, ARN: ci, SessionName: "tester", Policy: narrow, PolicyARNs: []string{"arn:aws:iam::aws:policy/ReadOnlyAccess"},
			Token: constant(fake.IdentityToken("repo:main", time.Hour)), Duration: time.Hour}), unsigned: true, life: time.Hour, account: stsfake.Account, role: ci, who: "arn:aws:sts::123456789012:assumed-role/ci/tester"},
		"AssumeRoleWithSAML": {mint: s.SAML(SAML{Site: at, Policy: narrow, Assertion: constant(assertion), Duration: 2 * time.Hour}), unsigned: true, life: 2 * time.Hour, account: stsfake.Account, role: analyst,
			who: "arn:aws:sts::123456789012:assumed-role/analyst/ann"},
		"GetFederationToken": {mint: s.Federation(Federation{Site: at, Name: "kiosk", Policy: narrow, Tags: map[string]string{"a": "b"}, Duration: 15 * time.Minute}), life: 15 * time.Minute, account: stsfake.Account,
			who: "arn:aws:sts::123456789012:federated-user/kiosk"},
		"AssumeRoot": {mint: s.Root(Root{Site: at, Target: member, TaskPolicyARN: "arn:aws:iam::aws:policy/root-task/IAMAuditRootUserCredentials"}), life: 15 * time.Minute, account: member,
			who: "arn:aws:iam::" + member + ":root"},
		"GetDelegatedAccessToken": {mint: s.Delegated(Delegated{Site: at, Token: constant(fake.TradeInToken(deploy, time.Hour))}), life: time.Hour, account: stsfake.Account},
	} {
		t.Run(name, func(t *testing.T) {
			in := signedBy(longTerm)
			if c.unsigned {
				in = broker.MintInput{}
			}
			if c.code {
				fake.AddMFA("me", device, []byte("another seed for "+name)) // no code is good twice
				in.Code = broker.NewSecret(fake.Code(device))
			}
			before := fake.Mints(name)
			got, err := c.mint.Mint(ctx, in)
			if err != nil {
				t.Fatal(err)
			}
			if fake.Mints(name) != before+1 {
				t.Errorf("%d mints", fake.Mints(name)-before)
			}
			if l := got.Lifetime(); l > c.life || l < c.life-3*time.Second {
				t.Errorf("lifetime %v, want %v", l, c.life)
			}
			if got.AccountID != c.account && c.account != "" || got.RoleARN != c.role || got.Note != "" || got.Region != region {
				t.Errorf("got account %q, role %q, region %q, note %q", got.AccountID, got.RoleARN, got.Region, got.Note)
			}
			id, err := s.WhoAmI(ctx, at, got.Material())
			if err != nil || c.who != "" && id.ARN != c.who {
				t.Errorf("whoami: %+v, %v; want %s", id, err, c.who)
			}
		})
	}
}

// Every parameter reaches STS under the name that the API has for it.
func TestEveryParameterIsSent(t *testing.T) {
	sent := func(t *testing.T, mint func(*STS) broker.Minter) url.Values {
		var form url.Values
		s := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := r.ParseForm(); err != nil {
				t.Error(err)
			}
			form = r.PostForm
			w.WriteHeader(http.StatusBadRequest)
		}))
		_, _ = mint(s).Mint(t.Context(), broker.MintInput{Parent: longTerm, Code: broker.NewSecret("123456")})
		return form
	}
	tags := map[string]string{"b": "2", "a": "1"}
	arns := []string{"arn:x", "arn:y"}
	policy := map[string]string{"Policy": "{}", "PolicyArns.member.1.arn": "arn:x", "PolicyArns.member.2.arn": "arn:y"}
	tagged := map[string]string{"Tags.member.1.Key": "a", "Tags.member.1.Value": "1", "Tags.member.2.Key": "b", "Tags.member.2.Value": "2"}
	assertion := stsfake.New().Assertion(stsfake.SAMLAssertion{Provider: provider, Roles: []string{analyst, ci}, SessionName: "ann"})
	for action, c := range map[string]struct {
		mint func(*STS) broker.Minter
		want []map[string]string
	}{
		"GetSessionToken": {func(s *STS) broker.Minter { return s.Session(Session{MFA: MFA{Serial: device}}) },
			[]map[string]string{{"DurationSeconds": "43200", "SerialNumber": device, "TokenCode": "123456"}}},
		"AssumeRole": {func(s *STS) broker.Minter {
			return s.Role(Role{ARN: deploy, SessionName: "tester", ExternalID: "ext", SourceIdentity: "src", Policy: "{}", PolicyARNs: arns, Tags: tags, TransitiveTags: []string{"b", "a"},
				Contexts: []Context{{"arn:p", constant("an-assertion")}, {"arn:q", constant("another")}}, MFA: MFA{Serial: device}})
		}, []map[string]string{policy, tagged, {"RoleArn": deploy, "RoleSessionName": "tester", "DurationSeconds": "3600", "ExternalId": "ext", "SourceIdentity": "src", "SerialNumber": device, "TokenCode": "123456",
			"TransitiveTagKeys.member.1": "a", "TransitiveTagKeys.member.2": "b", "ProvidedContexts.member.1.ProviderArn": "arn:p", "ProvidedContexts.member.1.ContextAssertion": "an-assertion",
			"ProvidedContexts.member.2.ProviderArn": "arn:q", "ProvidedContexts.member.2.ContextAssertion": "another"}}},
		"AssumeRoleWithWebIdentity": {func(s *STS) broker.Minter {
			return s.WebIdentity(WebIdentity{ARN: ci, SessionName: "tester", ProviderID: "www.amazon.com", Policy: "{}", PolicyARNs: arns, Token: constant("a.b.c")})
		}, []map[string]string{policy, {"RoleArn": ci, "RoleSessionName": "tester", "ProviderId": "www.amazon.com", "WebIdentityToken": "a.b.c", "DurationSeconds": "3600"}}},
		"AssumeRoleWithSAML": {func(s *STS) broker.Minter {
			return s.SAML(SAML{ARN: ci, Policy: "{}", PolicyARNs: arns, Assertion: constant(assertion[:70] + "\n" + assertion[70:])})
		}, []map[string]string{policy, {"RoleArn": ci, "PrincipalArn": provider, "SAMLAssertion": assertion, "DurationSeconds": "3600"}}},
		"GetFederationToken": {func(s *STS) broker.Minter {
			return s.Federation(Federation{Name: "kiosk", Policy: "{}", PolicyARNs: arns, Tags: tags})
		}, []map[string]string{policy, tagged, {"Name": "kiosk", "DurationSeconds": "43200"}}},
		"AssumeRoot": {func(s *STS) broker.Minter { return s.Root(Root{Target: member, TaskPolicyARN: "arn:task"}) },
			[]map[string]string{{"TargetPrincipal": member, "TaskPolicyArn.arn": "arn:task", "DurationSeconds": "900"}}},
		"GetDelegatedAccessToken": {func(s *STS) broker.Minter { return s.Delegated(Delegated{Token: constant("trade")}) },
			[]map[string]string{{"TradeInToken": "trade"}}},
	} {
		t.Run(action, func(t *testing.T) {
			got := sent(t, c.mint)
			want := map[string]string{"Action": action, "Version": "2011-06-15"}
			for _, w := range c.want {
				for k, v := range w {
					want[k] = v
				}
			}
			for k := range want {
				if !slices.Equal(got[k], []string{want[k]}) {
					t.Errorf("%s is %q, want %q", k, got[k], want[k])
				}
			}
			for k := range got {
				if _, ok := want[k]; !ok {
					t.Errorf("%s was sent: %q", k, got[k])
				}
			}
		})
	}
}

func TestMFA(t *testing.T) {
	fake := wide()
	s := listen(t, fake)
	code := ""
	person, program := s.Session(Session{Site: at, MFA: MFA{Serial: device}}), s.Session(Session{Site: at, MFA: MFA{Serial: device, Process: given{&code}}})
	refused := func(m broker.Minter, in broker.MintInput, kind broker.Kind, words string) {
		t.Helper()
		c, err := m.Mint(t.Context(), in)
		if e := wantError(t, c, err); e.Kind != kind || !strings.Contains(e.Public, words) {
			t.Errorf("got %v: %s\nwant %v with %q", e.Kind, e.Public, kind, words)
		}
	}
	refused(person, signedBy(longTerm), broker.KindLoginNeeded, "a code of the MFA device "+device+" is needed")
	refused(person, broker.MintInput{Parent: longTerm, Code: broker.NewSecret("12345")}, broker.KindDenied, "not six digits")
	refused(program, signedBy(longTerm), broker.KindUnavailable, "nothing there")
	code = "hello, here is your code"
	refused(program, signedBy(longTerm), broker.KindDenied, "not six digits")
	if fake.Total() != 0 {
		t.Errorf("%d calls without a code", fake.Total())
	}
	code = fake.Code(device)
	if _, err := program.Mint(t.Context(), signedBy(longTerm)); err != nil {
		t.Error(err)
	}
	c, err := person.Mint(t.Context(), broker.MintInput{Parent: longTerm, Code: broker.NewSecret(code)})
	if e := wantError(t, c, err); e.Kind != broker.KindDenied || e.Code != "AccessDenied" || !strings.Contains(e.Public, "MultiFactorAuthentication failed") || strings.Contains(e.Public, code) {
		t.Errorf("a code given twice: %v: %s", e.Kind, e.Public)
	}
}

func TestSAML(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := wide()
		fake.AddRole(stsfake.Role{ARN: guarded, SAML: []string{provider}})
		s, end := inBubble(t, fake)
		defer end()
		posted := ""
		one := stsfake.SAMLAssertion{Provider: provider, Roles: []string{analyst}, SessionName: "ann"}
		two := one
		two.Roles = []string{analyst, guarded}
		mint := func(a stsfake.SAMLAssertion, p SAML) (broker.Credentials, error) {
			posted = fake.Assertion(a)
			p.Site, p.Assertion = at, given{&posted}
			return s.SAML(p).Mint(t.Context(), broker.MintInput{})
		}
		refused := func(a stsfake.SAMLAssertion, p SAML, kind broker.Kind, words string) {
			t.Helper()
			c, err := mint(a, p)
			if e := wantError(t, c, err); e.Kind != kind || !strings.Contains(e.Public, words) {
				t.Errorf("got %v: %s\nwant %v with %q", e.Kind, e.Public, kind, words)
			}
		}
		if c, err := mint(two, SAML{ARN: guarded}); err != nil || c.RoleARN != guarded {
			t.Errorf("one of two: %v, %s", err, c.RoleARN)
		}
		before := fake.Total()
		refused(two, SAML{}, broker.KindConfig, analyst)
		refused(one, SAML{ARN: guarded}, broker.KindConfig, "does not fit")
		if fake.Total() != before {
			t.Error("STS was asked for a role that the assertion does not offer")
		}
		// Never past SessionNotOnOrAfter, whatever is asked for, and whatever our clock says.
		for _, offset := range []time.Duration{0, 20 * time.Minute, -20 * time.Minute} {
			fake.SetOffset(offset)
			short := one
			short.SessionLife = 40 * time.Minute
			c, err := mint(short, SAML{Duration: 2 * time.Hour})
			if err != nil {
				t.Fatalf("offset %v: %v", offset, err)
			}
			if left := c.Expires.Sub(fake.Now()); left > 40*time.Minute || left < 39*time.Minute || c.Lifetime() > left {
				t.Errorf("offset %v: it lives %v, and says %v", offset, left, c.Lifetime())
			}
		}
		fake.SetOffset(0)
		old := one
		old.Life = -time.Minute
		refused(old, SAML{}, broker.KindUnavailable, "ExpiredToken")
		posted = "not base64!"
		c, err := s.SAML(SAML{Site: at, Assertion: given{&posted}}).Mint(t.Context(), broker.MintInput{})
		if e := wantError(t, c, err); e.Kind != broker.KindUnavailable || !e.Own || strings.Contains(e.Public, "not base64!") {
			t.Error(e)
		}
	})
}

func TestQueries(t *testing.T) {
	fake := wide()
	s := listen(t, fake)
	text, err := s.Decode(t.Context(), at, longTerm, fake.Encoded(stsfake.Denial{Principal: userARN, Action: "ec2:RunInstances", Resource: "arn:aws:ec2:::x", Explicit: true}))
	if err != nil || !strings.Contains(text, "ec2:RunInstances") {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := s.Decode(t.Context(), at, longTerm, "nonsense"); broker.AsError(err).Code != "InvalidAuthorizationMessageException" {
		t.Error(err)
	}
	if account, err := s.KeyAccount(t.Context(), at, longTerm, longTerm.AccessKeyID); err != nil || account != stsfake.Account {
		t.Errorf("%q, %v", account, err)
	}
	role, err := s.Role(Role{Site: at, ARN: deploy, SessionName: "tester"}).Mint(t.Context(), signedBy(longTerm))
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.IdentityToken(t.Context(), at, role.Material(), TokenRequest{Audiences: []string{"https://a.example.com"}, Algorithm: "ES384", Duration: 10 * time.Minute, Tags: map[string]string{"a": "b"}})
	if left := time.Until(token.Expires); err != nil || strings.Count(token.Token.Reveal(), ".") != 2 || left > 10*time.Minute || left < 9*time.Minute {
		t.Errorf("%v, expires in %v", err, left)
	}
	fake.DisableOutbound(true)
	if _, err := s.IdentityToken(t.Context(), at, role.Material(), TokenRequest{Audiences: []string{"a"}, Algorithm: "RS256"}); broker.AsError(err).Kind != broker.KindConfig {
		t.Error(err)
	}
}

// Whom an answer may name: of another partition, of no account, or of no name, it
// is not the one that was asked for.
func TestWhoseCredentialsAnAnswerMayBe(t *testing.T) {
	s := newSTS(t, Options{})
	for _, c := range []struct {
		m    broker.Minter
		arn  string
		good bool
	}{
		{s.Federation(Federation{Site: at, Name: "kiosk"}), "arn:aws:sts::123456789012:federated-user/kiosk", true},
		{s.Federation(Federation{Site: at, Name: "kiosk"}), "arn:aws:sts::123456789012:federated-user/other", false},
		{s.Federation(Federation{Site: at, Name: "kiosk"}), "arn:aws-cn:sts::123456789012:federated-user/kiosk", false},
		{s.Federation(Federation{Site: at, Name: "kiosk"}), "arn:aws:sts:::federated-user/kiosk", false},
		{s.Federation(Federation{Site: Site{Region: "cn-north-1"}, Name: "kiosk"}), "arn:aws-cn:sts::123456789012:federated-user/kiosk", true},
		{s.Delegated(Delegated{Site: at, Token: constant("a-token")}), "arn:aws:iam::123456789012:role/x", true},
		{s.Delegated(Delegated{Site: at, Token: constant("a-token")}), "arn:", false},
		{s.Delegated(Delegated{Site: at, Token: constant("a-token")}), "arn:aws-cn:iam::123456789012:role/x", false},
	} {
		p, err := c.m.(*minter).prepare(t.Context(), broker.Secret{})
		if err != nil {
			t.Fatal(err)
		}
		if got := p.holds(c.arn); got != c.good {
			t.Errorf("%s of %s: %v", c.m.(*minter).call.Action, c.arn, got)
		}
	}
}

// A duration that is refused after the code was spent costs that login, and no
// other one.
func TestRefusedDurationWithACode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const short = "arn:aws:iam::123456789012:role/short"
		fake := wide()
		fake.AddRole(stsfake.Role{ARN: short, Trust: []string{userARN}, MFA: true, MaxSession: time.Hour})
		s, end := inBubble(t, fake)
		defer end()
		m := s.Role(Role{Site: at, ARN: short, SessionName: "tester", Duration: 2 * time.Hour, MFA: MFA{Serial: device}})
		var err error
		for range 2 {
			var c broker.Credentials
			c, err = m.Mint(t.Context(), broker.MintInput{Parent: longTerm, Code: broker.NewSecret(fake.Code(device))})
			if err == nil && !strings.Contains(c.Note, "1h was asked for") {
				t.Errorf("note %q", c.Note)
			}
			time.Sleep(2 * time.Minute)
		}
		if err != nil {
			t.Errorf("a second code: %v", err)
		}
	})
}

// An issuer that repeats a code does not bring it into a log: it may still be good.
func TestCodeIsStruckOut(t *testing.T) {
	s := listen(t, refusing(400, "ValidationError: 739164 of account 173916400000, (739164)"))
	_, err := s.Session(Session{Site: at, MFA: MFA{Serial: device}}).Mint(t.Context(), broker.MintInput{Parent: longTerm, Code: broker.NewSecret("739164")})
	e := broker.AsError(err)
	if all := e.Public + e.Code + e.Cause.Error(); strings.Contains(strings.ReplaceAll(all, "173916400000", ""), "739164") || !strings.Contains(all, "173916400000") || !strings.Contains(all, "([secret])") {
		t.Errorf("%s (%v)", e.Public, e.Cause)
	}
}

// GetWebIdentityToken, like AssumeRoot, is not at the global endpoint.
func TestIdentityTokenIsRegional(t *testing.T) {
	var host string
	s := newSTS(t, Options{})
	s.http.client.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		host = r.URL.Host
		return nil, context.DeadlineExceeded
	})
	_, _ = s.IdentityToken(t.Context(), Site{Region: "eu-west-1", Legacy: true}, longTerm, TokenRequest{Audiences: []string{"a"}, Algorithm: "RS256"})
	if host != "sts.eu-west-1.amazonaws.com" {
		t.Errorf("asked at %s", host)
	}
}
