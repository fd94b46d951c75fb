package stsfake

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

var roleARN = lazy(`^arn:aws[\w-]*:iam::(\d{12}):role/(?:[\w+=,.@/-]*/)?([\w+=,.@-]+)$`)

const chainLimit = time.Hour

func (q *request) assumeRole() (any, error) {
	g, err := q.roleInput(q.form.Get("RoleSessionName"), "roleSessionName")
	if err != nil {
		return nil, err
	}
	if err := q.check("ExternalId", 2, 1224, externalChars()); err != nil {
		return nil, err
	}
	given, err := q.tags()
	if err != nil {
		return nil, err
	}
	if g.tags, err = mergeTags(given, q.list("TransitiveTagKeys", ""), q.caller.Tags); err != nil {
		return nil, err
	}
	if g.source, err = q.sourceIdentity(); err != nil {
		return nil, err
	}
	if err := q.contexts(); err != nil {
		return nil, err
	}
	if err := q.pack(&g); err != nil {
		return nil, err
	}
	withCode, err := q.mfa()
	if err != nil {
		return nil, err
	}
	role, ok := q.role(q.call.Target)
	switch {
	case !ok, !q.trusted(role),
		role.ExternalID != "" && q.form.Get("ExternalId") != role.ExternalID,
		role.MFA && !withCode && !q.caller.MFA:
		return nil, q.unauthorized(q.call.Target)
	}
	// Only a role's session makes a chain; a user's session does not.
	if q.caller.Kind == kindRole && g.life > chainLimit {
		return nil, invalid("The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.")
	}
	return q.grantRole(role, g)
}

func (q *request) assumeRoleWithWebIdentity() (any, error) {
	g, err := q.roleInput(q.form.Get("RoleSessionName"), "roleSessionName")
	if err != nil {
		return nil, err
	}
	if err := q.check("WebIdentityToken", 4, 20000, nil); err != nil {
		return nil, err
	}
	if err := q.check("ProviderId", 4, 2048, nil); err != nil {
		return nil, err
	}
	c, err := q.readIdentity()
	if err != nil {
		return nil, err
	}
	if g.tags, err = mergeTags(c.Tags.list(), c.Tags.Transitive, nil); err != nil {
		return nil, err
	}
	g.source = c.SourceIdentity
	if err := q.pack(&g); err != nil {
		return nil, err
	}
	role, ok := q.role(q.call.Target)
	if !ok || !slices.Contains(role.Subjects, c.Subject) {
		return nil, denied("Not authorized to perform sts:AssumeRoleWithWebIdentity")
	}
	granted, err := q.grantRole(role, g)
	if err != nil {
		return nil, err
	}
	granted.SubjectFromWebIdentityToken, granted.Audience, granted.Provider = c.Subject, c.Audience, c.Issuer
	return granted, nil
}

// grant is what a role session is made of, beside the role.
type grant struct {
	account string // of the role asked for
	name    string
	life    time.Duration
	ends    time.Time // the life goes no further; zero for no such limit
	source  string    // identity
	tags    sessionTags
	packed  *int // percent; nil when there is nothing to pack
}

// roleInput checks what all ways to assume a role have in common.
func (q *request) roleInput(name, at string) (g grant, err error) {
	if err := constrain(at, name, 2, 64, nameChars()); err != nil {
		return g, err
	}
	m := roleARN().FindStringSubmatch(q.call.Target)
	if m == nil {
		return g, invalid(q.call.Target + " is invalid")
	}
	g.account, g.name = m[1], name
	g.life, err = q.duration(time.Hour, 15*time.Minute, 12*time.Hour)
	return g, err
}

func (q *request) grantRole(role Role, g grant) (*roleResult, error) {
	limit := role.MaxSession
	if limit == 0 || q.fault.Kind == FaultDurationTooLong {
		limit = time.Hour
	}
	if g.life > limit {
		return nil, invalid("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
	}
	if !g.ends.IsZero() {
		g.life = min(g.life, g.ends.Sub(q.now))
	}
	name := roleARN().FindStringSubmatch(role.ARN)[2] // the path is dropped, as AWS does
	partition := strings.Split(role.ARN, ":")[1]
	if q.fault.Kind == FaultWrongRole {
		name = "somebody-else"
	}
	p := principal{
		Kind:           kindRole,
		ARN:            fmt.Sprintf("arn:%s:sts::%s:assumed-role/%s/%s", partition, g.account, name, g.name),
		UserID:         userID("AROA", role.ARN) + ":" + g.name,
		Account:        g.account,
		Role:           role.ARN,
		SourceIdentity: g.source,
		Tags:           g.tags.transitive,
	}
	return &roleResult{
		AssumedRoleUser:  xmlAssumedRoleUser{p.ARN, p.UserID},
		PackedPolicySize: g.packed,
		SourceIdentity:   g.source,
		xmlMint:          q.issue(p, g.life),
	}, nil
}

func (q *request) trusted(r Role) bool {
	return slices.ContainsFunc(r.Trust, func(t string) bool {
		switch t {
		case "*", q.caller.ARN, rootARN(q.caller.Account):
			return true
		}
		return t != "" && t == q.caller.Role
	})
}

// sourceIdentity is the one that was sent, or the one of the session that
// signs: once set, it stays the same along a chain.
func (q *request) sourceIdentity() (string, error) {
	asked, set := q.form.Get("SourceIdentity"), q.caller.SourceIdentity
	if err := q.check("SourceIdentity", 2, 64, nameChars()); err != nil {
		return "", err
	}
	if set != "" && asked != "" && asked != set {
		return "", invalid("The source identity is already set for this assume role session")
	}
	if asked == "" {
		asked = set
	}
	return asked, nil
}

// contextToken is a context assertion. AWS seals real ones too: clients pass them on.
type contextToken struct {
	Provider string
	Expires  time.Time
}

// ContextAssertion returns an assertion of the context provider (an ARN such
// as "arn:aws:iam::aws:contextProvider/IdentityCenter") that AssumeRole takes
// among its ProvidedContexts.
func (s *Server) ContextAssertion(provider string, life time.Duration) string {
	return s.seal(purposeContext, contextToken{provider, s.Now().Add(life)})
}

func (q *request) contexts() error {
	providers, assertions := q.list("ProvidedContexts", "ProviderArn"), q.list("ProvidedContexts", "ContextAssertion")
	if len(providers) > 5 {
		return constraint(fmt.Sprint(providers), "providedContexts", "Member must have length less than or equal to 5")
	}
	for i, provider := range providers {
		at := fmt.Sprintf("providedContexts.%d.member.", i+1)
		if err := constrain(at+"providerArn", provider, 20, 2048, nil); err != nil {
			return err
		}
		if n := len(assertions[i]); n < 4 || n > 2048 {
			return invalid(fmt.Sprintf("1 validation error detected: Value at '%scontextAssertion' failed to satisfy constraint: Member must have length between 4 and 2048, inclusive", at))
		}
		var c contextToken
		switch {
		case !q.open(purposeContext, assertions[i], &c) || c.Provider != provider:
			return invalid("The provided context assertion is invalid.")
		case !q.now.Before(c.Expires):
			return fail(400, "ExpiredTokenException", "The provided context assertion is expired.")
		}
	}
	return nil
}
