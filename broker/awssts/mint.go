package awssts

import (
	"context"
	"fmt"
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
	DefaultSessionDuration       = 12 * time.Hour // of federation too
	DefaultRoleDuration          = time.Hour
	DefaultRootDuration          = 15 * time.Minute
	oneHour                int32 = 3600 // what STS grants for every role: the limit of role chaining, and the smallest MaxSessionDuration that a role can have
)

// minter is every mint: what differs between kinds is how a call is prepared.
type minter struct {
	sts        *STS
	call       Call
	site       Site
	compatible bool
	unsigned   bool
	mfa        MFA
	asked      *int32 // seconds; nil for what the answer says
	digest     broker.Digest
	reading    time.Duration // what reading the sources may take
	prepare    func(ctx context.Context, code broker.Secret) (prepared, error)

	// refused remembers that STS does not grant the duration asked for.
	refused atomic.Bool
	off     disabled
}

// prepared is one mint, with everything read that goes into it. It may be sent
// more than once: to another region, with a corrected clock, for a shorter time.
type prepared struct {
	arn, account string                      // of what is minted; "" when the answer says, or nobody
	holds        func(principal string) bool // whether the answer's ARN can be the one asked for; nil when the answer names none
	latest       time.Time                   // no set may live longer, on the issuer's clock; zero for no such limit
	secrets      []broker.Secret             // beside those that sign
	send         sendMint
}

// sendMint asks one region for credentials that live for so many seconds.
type sendMint func(ctx context.Context, api *sts.Client, seconds *int32, sign func(*sts.Options)) (grant, error)

// grant is what all minting answers have in common.
type grant struct {
	creds     *types.Credentials
	principal *string // ARN of whose credentials they are
}

// minter makes what all kinds share. from may hold nil, for sources that there are not.
func (s *STS) minter(action string, at Site, arn string, asked *int32, input any, from ...Source) *minter {
	at = s.site(at, arn)
	e := s.endpoint(at)
	m := &minter{
		sts:        s,
		call:       Call{Action: action, Region: at.Region, Endpoint: e.URL, ARN: arn},
		site:       at,
		compatible: e.Compatible,
		asked:      asked,
	}
	var digests []broker.Digest
	for _, f := range from {
		if f == nil {
			continue
		}
		digests = append(digests, f.Digest())
		if slow, ok := f.(interface{ Deadline() time.Duration }); ok {
			m.reading += slow.Deadline()
		}
	}
	m.digest = digestOf(action, at, e, input, digests...)
	return m
}

// Digest implements [broker.Minter].
func (m *minter) Digest() broker.Digest { return m.digest }

// Deadline is how much time [minter.Mint] may need: each region has its own, and
// so has each source.
func (m *minter) Deadline() time.Duration {
	const regions = 3 // of more, a mint asks as many as it has time for
	return m.reading + max(10*time.Second, time.Duration(min(regions, 1+len(m.sts.o.Fallback)))*m.sts.o.Timeout+2*time.Second)
}

// Mint implements [broker.Minter].
func (m *minter) Mint(ctx context.Context, in broker.MintInput) (broker.Credentials, error) {
	if !m.unsigned && (in.Parent.AccessKeyID == "" || in.Parent.SecretAccessKey.IsZero()) {
		return broker.Credentials{}, &broker.Error{Kind: broker.KindConfig, Public: m.call.Action + m.call.target() + " must be signed, and there are no credentials to sign it with; name a key or a source profile"}
	}
	code, err := m.mfa.code(ctx, in.Code)
	if err != nil {
		return broker.Credentials{}, err
	}
	p, err := m.prepare(ctx, code)
	if err != nil {
		return broker.Credentials{}, err
	}
	n, note := m.seconds(in.Parent)
	c, x, err := m.mint(ctx, p, in.Parent, n)
	if err != nil && n != nil && *n > oneHour && x.durationRefused() {
		n, note = aws.Int32(oneHour), m.refusedNote()
		if c, x, err = m.mint(ctx, p, in.Parent, n); err == nil || !x.durationRefused() {
			m.refused.Store(true) // also where the first call spent a code that works once
		}
	}
	if err != nil {
		return broker.Credentials{}, err
	}
	c.Note = joined(note, c.Note)
	return c, nil
}

// seconds is how long to ask for, and a note where that is not what is configured.
func (m *minter) seconds(parent broker.Material) (*int32, string) {
	n, note := m.asked, ""
	if n != nil && *n > oneHour {
		switch {
		case m.refused.Load():
			n, note = aws.Int32(oneHour), m.refusedNote()
		case parent.Temporary():
			n, note = aws.Int32(oneHour), fmt.Sprintf("asked for 1h, not %s: STS grants a role assumed with session credentials at most that", period(*m.asked))
		}
	}
	return n, note
}

func (m *minter) refusedNote() string {
	return fmt.Sprintf("STS does not grant the %s asked for, so 1h was asked for; raise the role's maximum session duration, or ask for less", period(*m.asked))
}

func (m *minter) mint(ctx context.Context, p prepared, parent broker.Material, n *int32) (broker.Credentials, *exchange, error) {
	c := m.call
	if p.arn != "" {
		c.ARN = p.arn
	}
	c.Secrets = p.secrets
	var g grant
	x, err := m.sts.do(ctx, c, m.site, parent, &m.off, func(ctx context.Context, api *sts.Client, sign func(*sts.Options)) (err error) {
		g, err = p.send(ctx, api, n, sign)
		return err
	})
	if err != nil {
		return broker.Credentials{}, x, err
	}
	c.Region, c.Endpoint = x.site.Region, m.sts.endpoint(x.site).URL
	creds, err := m.verify(c, p, g, n, x.now())
	return creds, x, err
}

func joined(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

func seconds(d, byDefault time.Duration) *int32 {
	if d == 0 {
		d = byDefault
	}
	return aws.Int32(int32(min(d/time.Second, 1<<31-1)))
}

// period prints seconds as a person writes them: 12h, 1h30m, 45s.
func period(seconds int32) string {
	text := (time.Duration(seconds) * time.Second).String()
	for _, zero := range []string{"m0s", "h0m"} {
		if short, cut := strings.CutSuffix(text, zero); cut {
			text = short + zero[:1]
		}
	}
	return text
}
