package awssts

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/stsbroker/stsbroker/broker"
)

// Session is a GetSessionToken mint: long-term keys of a user in, a session out.
type Session struct {
	Site
	MFA      MFA
	Duration time.Duration // 900 s to 36 h; 0 is [DefaultSessionDuration]. A root user's session ends after an hour, whatever is asked for
}

// Role is an AssumeRole mint.
type Role struct {
	Site
	ARN            string            // compatible stores may do without
	SessionName    string            // see [SessionName]
	ExternalID     string            // "" for none
	SourceIdentity string            // "" for none
	Policy         string            // JSON that narrows what the role may do; "" for none
	PolicyARNs     []string          // of managed policies that narrow it
	Tags           map[string]string // of the session
	TransitiveTags []string          // those of Tags that later roles of the chain inherit
	Contexts       []Context
	MFA            MFA
	Duration       time.Duration // 900 s to 12 h; 0 is [DefaultRoleDuration]; session credentials as parent: at most 1 h
}

// Context is an assertion about the caller's identity by a context provider.
type Context struct {
	ProviderARN string
	Assertion   Source
}

// WebIdentity is an AssumeRoleWithWebIdentity mint, which nobody signs.
type WebIdentity struct {
	Site
	ARN         string // compatible stores may do without
	SessionName string // see [SessionName]
	ProviderID  string // of the OAuth 2.0 providers that are not OpenID Connect; "" for others
	Policy      string // as of a [Role]
	PolicyARNs  []string
	Token       Source
	// Duration is 900 s to 12 h. 0 is [DefaultRoleDuration], or, at a compatible
	// endpoint, not asked for at all: the token's own life then.
	Duration time.Duration
}

// SAML is an AssumeRoleWithSAML mint, which nobody signs.
type SAML struct {
	Site
	ARN          string // "" for the only role that the assertion offers
	PrincipalARN string // of the identity provider in IAM; "" for the one that the assertion names with the role
	Policy       string // as of a [Role]
	PolicyARNs   []string
	Assertion    Source        // base64, as the identity provider posts it
	Duration     time.Duration // 900 s to 12 h, and never past the assertion's SessionNotOnOrAfter; 0 is [DefaultRoleDuration]
}

// Federation is a GetFederationToken mint: long-term keys of a user in, a
// session of some name out, which may do what both the user and the policies allow.
type Federation struct {
	Site
	Name       string // 2 to 32 characters
	Policy     string // without a policy, the session may do nothing
	PolicyARNs []string
	Tags       map[string]string
	Duration   time.Duration // 900 s to 36 h; 0 is [DefaultSessionDuration]
}

// Root is an AssumeRoot mint: a short session of a member account's root user,
// for one task. Regional endpoints only, so Site.Legacy is not looked at.
type Root struct {
	Site
	Target        string        // the member account, 12 digits or an ARN
	TaskPolicyARN string        // what may be done
	Duration      time.Duration // at most 900 s; 0 is [DefaultRootDuration]
}

// Delegated is a GetDelegatedAccessToken mint: a trade-in token in, a session of
// the principal that consented out.
type Delegated struct {
	Site
	Token Source
}

// Session returns the minter of p.
func (s *STS) Session(p Session) broker.Minter {
	in := sts.GetSessionTokenInput{DurationSeconds: seconds(p.Duration, DefaultSessionDuration), SerialNumber: optional(p.MFA.Serial)}
	m := s.minter("GetSessionToken", p.Site, "", in.DurationSeconds, &in, p.MFA.Process)
	m.mfa = p.MFA
	m.prepare = func(_ context.Context, code broker.Secret) (prepared, error) {
		in := in
		in.TokenCode = optional(code.Reveal())
		send := sending((*sts.Client).GetSessionToken, &in, &in.DurationSeconds, func(out *sts.GetSessionTokenOutput) grant { return grant{creds: out.Credentials} })
		return prepared{secrets: []broker.Secret{code}, send: send}, nil
	}
	return m
}

// Role returns the minter of p.
func (s *STS) Role(p Role) broker.Minter {
	in := sts.AssumeRoleInput{
		RoleArn: aws.String(p.ARN), RoleSessionName: aws.String(p.SessionName), DurationSeconds: seconds(p.Duration, DefaultRoleDuration),
		ExternalId: optional(p.ExternalID), SourceIdentity: optional(p.SourceIdentity), SerialNumber: optional(p.MFA.Serial),
		Policy: optional(p.Policy), PolicyArns: policies(p.PolicyARNs), Tags: tags(p.Tags), TransitiveTagKeys: slices.Sorted(slices.Values(p.TransitiveTags)),
	}
	from := []Source{p.MFA.Process}
	for _, c := range p.Contexts {
		in.ProvidedContexts = append(in.ProvidedContexts, types.ProvidedContext{ProviderArn: aws.String(c.ProviderARN)})
		from = append(from, c.Assertion)
	}
	m := s.minter("AssumeRole", p.Site, p.ARN, in.DurationSeconds, &in, from...)
	m.mfa = p.MFA
	m.prepare = func(ctx context.Context, code broker.Secret) (prepared, error) {
		in := in
		in.TokenCode = optional(code.Reveal())
		in.ProvidedContexts = slices.Clone(in.ProvidedContexts)
		out := assuming(p.ARN, p.SessionName)
		out.secrets = []broker.Secret{code}
		for i, c := range p.Contexts {
			assertion, err := c.Assertion.Read(ctx)
			if err != nil {
				return prepared{}, err
			}
			in.ProvidedContexts[i].ContextAssertion = aws.String(assertion.Reveal())
			out.secrets = append(out.secrets, assertion)
		}
		out.send = sending((*sts.Client).AssumeRole, &in, &in.DurationSeconds, func(out *sts.AssumeRoleOutput) grant { return grant{out.Credentials, assumed(out.AssumedRoleUser)} })
		return out, nil
	}
	return m
}

// WebIdentity returns the minter of p.
func (s *STS) WebIdentity(p WebIdentity) broker.Minter {
	in := sts.AssumeRoleWithWebIdentityInput{
		RoleArn: aws.String(p.ARN), RoleSessionName: aws.String(p.SessionName), ProviderId: optional(p.ProviderID),
		Policy: optional(p.Policy), PolicyArns: policies(p.PolicyARNs),
	}
	if p.Duration != 0 || !s.endpoint(s.site(p.Site, p.ARN)).Compatible {
		in.DurationSeconds = seconds(p.Duration, DefaultRoleDuration)
	}
	m := s.minter("AssumeRoleWithWebIdentity", p.Site, p.ARN, in.DurationSeconds, &in, p.Token)
	m.unsigned = true
	m.prepare = func(ctx context.Context, _ broker.Secret) (prepared, error) {
		token, err := p.Token.Read(ctx)
		if err != nil {
			return prepared{}, err
		}
		in := in
		in.WebIdentityToken = aws.String(token.Reveal())
		out := assuming(p.ARN, p.SessionName)
		out.secrets = []broker.Secret{token}
		out.send = sending((*sts.Client).AssumeRoleWithWebIdentity, &in, &in.DurationSeconds, func(out *sts.AssumeRoleWithWebIdentityOutput) grant {
			return grant{out.Credentials, assumed(out.AssumedRoleUser)}
		})
		return out, nil
	}
	return m
}

// SAML returns the minter of p.
func (s *STS) SAML(p SAML) broker.Minter {
	in := sts.AssumeRoleWithSAMLInput{
		RoleArn: optional(p.ARN), PrincipalArn: optional(p.PrincipalARN), DurationSeconds: seconds(p.Duration, DefaultRoleDuration),
		Policy: optional(p.Policy), PolicyArns: policies(p.PolicyARNs),
	}
	m := s.minter("AssumeRoleWithSAML", p.Site, p.ARN, in.DurationSeconds, &in, p.Assertion)
	m.unsigned = true
	m.prepare = func(ctx context.Context, _ broker.Secret) (prepared, error) {
		secret, err := p.Assertion.Read(ctx)
		if err != nil {
			return prepared{}, err
		}
		secret = broker.NewSecret(unbroken(secret.Reveal()))
		a, err := readAssertion(secret.Reveal())
		if err != nil {
			return prepared{}, &broker.Error{Kind: broker.KindUnavailable, Own: true, Public: "the SAML assertion cannot be used: " + err.Error() + "; it is read again at the next try"}
		}
		role, principal, err := a.choose(p.ARN, p.PrincipalARN)
		if err != nil {
			return prepared{}, &broker.Error{Kind: broker.KindConfig, Public: "the SAML assertion does not fit: " + err.Error()}
		}
		in := in
		in.SAMLAssertion, in.RoleArn, in.PrincipalArn = aws.String(secret.Reveal()), aws.String(role), aws.String(principal)
		out := assuming(role, a.sessionName)
		out.latest, out.secrets = a.sessionNotOnOrAfter, []broker.Secret{secret}
		out.send = sending((*sts.Client).AssumeRoleWithSAML, &in, &in.DurationSeconds, func(out *sts.AssumeRoleWithSAMLOutput) grant {
			return grant{out.Credentials, assumed(out.AssumedRoleUser)}
		})
		return out, nil
	}
	return m
}

// Federation returns the minter of p.
func (s *STS) Federation(p Federation) broker.Minter {
	in := sts.GetFederationTokenInput{
		Name: aws.String(p.Name), DurationSeconds: seconds(p.Duration, DefaultSessionDuration),
		Policy: optional(p.Policy), PolicyArns: policies(p.PolicyARNs), Tags: tags(p.Tags),
	}
	m := s.minter("GetFederationToken", p.Site, "", in.DurationSeconds, &in)
	m.prepare = func(context.Context, broker.Secret) (prepared, error) {
		in := in
		holds := func(principal string) bool {
			return m.ours(principal) && strings.HasSuffix(principal, ":federated-user/"+p.Name)
		}
		return prepared{holds: holds, send: sending((*sts.Client).GetFederationToken, &in, &in.DurationSeconds, func(out *sts.GetFederationTokenOutput) grant {
			g := grant{creds: out.Credentials}
			if out.FederatedUser != nil {
				g.principal = out.FederatedUser.Arn
			}
			return g
		})}, nil
	}
	return m
}

// Root returns the minter of p.
func (s *STS) Root(p Root) broker.Minter {
	p.Legacy = false
	in := sts.AssumeRootInput{
		TargetPrincipal: aws.String(p.Target), TaskPolicyArn: &types.PolicyDescriptorType{Arn: aws.String(p.TaskPolicyARN)},
		DurationSeconds: seconds(p.Duration, DefaultRootDuration),
	}
	m := s.minter("AssumeRoot", p.Site, p.Target, in.DurationSeconds, &in)
	account := AccountOf(p.Target)
	if account == "" {
		account = p.Target
	}
	m.prepare = func(context.Context, broker.Secret) (prepared, error) {
		in := in
		send := sending((*sts.Client).AssumeRoot, &in, &in.DurationSeconds, func(out *sts.AssumeRootOutput) grant { return grant{creds: out.Credentials} })
		return prepared{account: account, send: send}, nil
	}
	return m
}

// Delegated returns the minter of p.
func (s *STS) Delegated(p Delegated) broker.Minter {
	m := s.minter("GetDelegatedAccessToken", p.Site, "", nil, &sts.GetDelegatedAccessTokenInput{}, p.Token)
	m.prepare = func(ctx context.Context, _ broker.Secret) (prepared, error) {
		token, err := p.Token.Read(ctx)
		if err != nil {
			return prepared{}, err
		}
		in := sts.GetDelegatedAccessTokenInput{TradeInToken: aws.String(token.Reveal())}
		send := sending((*sts.Client).GetDelegatedAccessToken, &in, nil, func(out *sts.GetDelegatedAccessTokenOutput) grant {
			return grant{out.Credentials, out.AssumedPrincipal}
		})
		return prepared{holds: m.ours, secrets: []broker.Secret{token}, send: send}, nil
	}
	return m
}

// sending makes a mint of an operation of the SDK's client. life points at the
// duration in the input, nil where there is none; calls follow one another.
// Operations that nobody signs take no notice of sign.
func sending[I, O any](call func(*sts.Client, context.Context, *I, ...func(*sts.Options)) (*O, error), in *I, life **int32, read func(*O) grant) sendMint {
	return func(ctx context.Context, api *sts.Client, n *int32, sign func(*sts.Options)) (grant, error) {
		if life != nil {
			*life = n
		}
		out, err := call(api, ctx, in, sign)
		if err != nil {
			return grant{}, err
		}
		return read(out), nil
	}
}

// ours reports whether a principal can be of the account that was asked: one of
// the endpoint's partition, with an account. Stores have ARNs of their own making.
func (m *minter) ours(principal string) bool {
	parts := strings.SplitN(principal, ":", 6)
	if len(parts) != 6 || parts[0] != "arn" || parts[5] == "" {
		return false
	}
	return m.call.Endpoint != "" && m.compatible || AccountOf(principal) != "" && (m.call.Endpoint != "" || parts[1] == PartitionOf(m.site.Region))
}

// assuming is what every way to assume a role expects of the answer. The session
// name is "" where only the answer knows it.
func assuming(arn, session string) prepared {
	p := prepared{arn: arn, account: AccountOf(arn)}
	if arn != "" {
		p.holds = func(principal string) bool { return sameRole(arn, session, principal) }
	}
	return p
}

func assumed(u *types.AssumedRoleUser) *string {
	if u == nil {
		return nil
	}
	return u.Arn
}

// optional is nil for what is not sent.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func policies(arns []string) (out []types.PolicyDescriptorType) {
	for _, arn := range arns {
		out = append(out, types.PolicyDescriptorType{Arn: aws.String(arn)})
	}
	return out
}

// tags are sorted, so that one map always gives one request and one digest.
func tags(m map[string]string) (out []types.Tag) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, types.Tag{Key: aws.String(k), Value: aws.String(m[k])})
	}
	return out
}
