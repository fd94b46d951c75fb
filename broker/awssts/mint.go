package awssts

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/stsbroker/stsbroker/broker"
)

// Durations that are asked for when nothing says otherwise.
const (
	DefaultSessionDuration = 12 * time.Hour
	DefaultRoleDuration    = time.Hour
)

// oneHour is what STS grants for every role: the limit of role chaining, and
// the smallest MaxSessionDuration that a role can have.
const oneHour = int32(3600)

// Session is a GetSessionToken mint: long-term keys in, a session out.
type Session struct {
	Region   string        // "" is us-east-1
	Duration time.Duration // 900 s to 36 h; 0 is [DefaultSessionDuration]
}

// Role is an AssumeRole mint.
type Role struct {
	Region      string        // "" is the one of the ARN's partition, see [PartitionRegion]
	ARN         string        // compatible stores may do without
	SessionName string        // see [SessionName]
	ExternalID  string        // "" for none
	Duration    time.Duration // 900 s to 12 h; 0 is [DefaultRoleDuration]; session credentials as parent: at most 1 h
}

// WebIdentity is an AssumeRoleWithWebIdentity mint, which nobody signs.
type WebIdentity struct {
	Region      string // "" is the one of the ARN's partition
	ARN         string // compatible stores may do without
	SessionName string // see [SessionName]
	TokenFile   string // absolute; read again at every mint, white space around the token dropped
	// Duration is 900 s to 12 h. 0 is [DefaultRoleDuration], or, at a compatible
	// endpoint, not asked for at all: the token's own life then.
	Duration time.Duration
}

// Session returns the minter of p.
func (s *STS) Session(p Session) broker.Minter {
	in := sts.GetSessionTokenInput{DurationSeconds: seconds(p.Duration, DefaultSessionDuration)}
	m := s.minter("GetSessionToken", p.Region, "", in.DurationSeconds, &in)
	m.send = func(ctx context.Context, api *sts.Client, n *int32, sign func(*sts.Options), _ *exchange) (grant, error) {
		in := in
		in.DurationSeconds = n
		out, err := api.GetSessionToken(ctx, &in, sign)
		if err != nil {
			return grant{}, err
		}
		return grant{creds: out.Credentials}, nil
	}
	return m
}

// Role returns the minter of p.
func (s *STS) Role(p Role) broker.Minter {
	in := sts.AssumeRoleInput{
		RoleArn:         aws.String(p.ARN),
		RoleSessionName: aws.String(p.SessionName),
		DurationSeconds: seconds(p.Duration, DefaultRoleDuration),
	}
	if p.ExternalID != "" {
		in.ExternalId = aws.String(p.ExternalID)
	}
	m := s.minter("AssumeRole", p.Region, p.ARN, in.DurationSeconds, &in)
	m.session, m.chains = p.SessionName, true
	m.send = func(ctx context.Context, api *sts.Client, n *int32, sign func(*sts.Options), _ *exchange) (grant, error) {
		in := in
		in.DurationSeconds = n
		out, err := api.AssumeRole(ctx, &in, sign)
		if err != nil {
			return grant{}, err
		}
		return grant{out.Credentials, out.AssumedRoleUser}, nil
	}
	return m
}

// WebIdentity returns the minter of p.
func (s *STS) WebIdentity(p WebIdentity) broker.Minter {
	in := sts.AssumeRoleWithWebIdentityInput{RoleArn: aws.String(p.ARN), RoleSessionName: aws.String(p.SessionName)}
	if p.Duration != 0 || !s.endpoint(regionOr(p.Region, p.ARN)).Compatible {
		in.DurationSeconds = seconds(p.Duration, DefaultRoleDuration)
	}
	m := s.minter("AssumeRoleWithWebIdentity", p.Region, p.ARN, in.DurationSeconds, &in, "token file", p.TokenFile)
	m.session, m.unsigned = p.SessionName, true
	m.send = func(ctx context.Context, api *sts.Client, n *int32, _ func(*sts.Options), x *exchange) (grant, error) {
		token, err := readToken(p.TokenFile)
		if err != nil {
			return grant{}, err
		}
		x.secrets = append(x.secrets, token)
		in := in
		in.DurationSeconds, in.WebIdentityToken = n, aws.String(token.Reveal())
		out, err := api.AssumeRoleWithWebIdentity(ctx, &in)
		if err != nil {
			return grant{}, err
		}
		return grant{out.Credentials, out.AssumedRoleUser}, nil
	}
	return m
}

// minter is every mint: what differs between actions is how the call is sent.
type minter struct {
	sts        *STS
	call       Call
	compatible bool
	session    string // role session name; "" where there is none
	chains     bool   // session credentials as parent limit it to an hour
	unsigned   bool
	asked      *int32 // seconds; nil for what the answer says
	digest     broker.Digest
	send       func(ctx context.Context, api *sts.Client, seconds *int32, sign func(*sts.Options), x *exchange) (grant, error)

	// refused remembers that STS does not grant the duration asked for.
	refused atomic.Bool
}

// grant is what all minting answers have in common.
type grant struct {
	creds *types.Credentials
	user  *types.AssumedRoleUser
}

func (s *STS) minter(action, region, arn string, asked *int32, input any, more ...string) *minter {
	region = regionOr(region, arn)
	e := s.endpoint(region)
	return &minter{
		sts:        s,
		call:       Call{Action: action, Region: region, Endpoint: e.URL, ARN: arn},
		compatible: e.Compatible,
		asked:      asked,
		digest:     digestOf(action, region, e, input, more...),
	}
}

// Digest implements [broker.Minter].
func (m *minter) Digest() broker.Digest { return m.digest }

// Mint implements [broker.Minter].
func (m *minter) Mint(ctx context.Context, in broker.MintInput) (broker.Credentials, error) {
	if !m.unsigned && (in.Parent.AccessKeyID == "" || in.Parent.SecretAccessKey.IsZero()) {
		return broker.Credentials{}, &broker.Error{Kind: broker.KindConfig, Public: m.call.Action + m.call.target() + " must be signed, and there are no credentials to sign it with; name a key or a source profile"}
	}
	n, note := m.asked, ""
	if n != nil && *n > oneHour {
		switch {
		case m.refused.Load():
			n, note = aws.Int32(oneHour), m.refusedNote()
		case m.chains && in.Parent.Temporary():
			n, note = aws.Int32(oneHour), fmt.Sprintf("asked for 1h, not %s: STS grants a role assumed with session credentials at most that", period(*m.asked))
		}
	}
	c, x, err := m.mint(ctx, in.Parent, n)
	if err != nil && n != nil && *n > oneHour && x.durationRefused() {
		n, note = aws.Int32(oneHour), m.refusedNote()
		if c, _, err = m.mint(ctx, in.Parent, n); err == nil {
			m.refused.Store(true)
		}
	}
	if err != nil {
		return broker.Credentials{}, err
	}
	c.Note = note
	return c, nil
}

func (m *minter) refusedNote() string {
	return fmt.Sprintf("STS does not grant the %s asked for, so 1h was asked for; raise the role's maximum session duration, or ask for less", period(*m.asked))
}

func (m *minter) mint(ctx context.Context, parent broker.Material, n *int32) (broker.Credentials, *exchange, error) {
	var g grant
	x, err := m.sts.do(ctx, m.call, parent, func(ctx context.Context, api *sts.Client, sign func(*sts.Options), x *exchange) (err error) {
		g, err = m.send(ctx, api, n, sign, x)
		return err
	})
	if err != nil {
		return broker.Credentials{}, x, err
	}
	c, err := m.believe(g, n, x.now())
	return c, x, err
}

func seconds(d, byDefault time.Duration) *int32 {
	if d == 0 {
		d = byDefault
	}
	return aws.Int32(int32(min(d/time.Second, 1<<31-1)))
}

// period prints seconds as a person writes them: 12h, 1h30m, 45s.
func period(n int32) string {
	s := (time.Duration(n) * time.Second).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// maxToken is more than STS takes (20,000 characters).
const maxToken = 32 << 10

// readToken reads an identity token. A file that is empty is being written,
// which passes; any other trouble is for a person to mend.
func readToken(path string) (broker.Secret, error) {
	fault := func(kind broker.Kind, what string, cause error) (broker.Secret, error) {
		return broker.Secret{}, &broker.Error{Kind: kind, Public: fmt.Sprintf("web identity token file %s: %s", clean(path), what), Cause: cause}
	}
	// Looking before opening keeps a FIFO from blocking the mint.
	info, err := os.Stat(path)
	if err != nil {
		return fault(broker.KindConfig, "cannot be read; check the path and who may read it", err)
	}
	if !info.Mode().IsRegular() {
		return fault(broker.KindConfig, "is not a regular file", nil)
	}
	f, err := os.Open(path)
	if err != nil {
		return fault(broker.KindConfig, "cannot be read; check who may read it", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	switch token := strings.TrimSpace(string(b)); {
	case err != nil:
		return fault(broker.KindUnavailable, "cannot be read", err)
	case len(b) > maxToken:
		return fault(broker.KindConfig, fmt.Sprintf("is longer than %d KB, which no identity token is", maxToken>>10), nil)
	case token == "":
		return fault(broker.KindUnavailable, "is empty; it is read again at the next try", nil)
	default:
		return broker.NewSecret(token), nil
	}
}
