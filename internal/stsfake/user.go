package stsfake

import (
	"strings"
	"time"
)

func (q *request) getSessionToken() (any, error) {
	life, err := q.userLife()
	if err != nil {
		return nil, err
	}
	p := q.caller
	if p.MFA, err = q.mfa(); err != nil {
		return nil, err
	}
	return sessionResult{q.issue(p, life)}, nil
}

func (q *request) getFederationToken() (any, error) {
	life, err := q.userLife()
	if err != nil {
		return nil, err
	}
	if err := q.check("Name", 2, 32, nameChars()); err != nil {
		return nil, err
	}
	given, err := q.tags()
	if err != nil {
		return nil, err
	}
	g := grant{account: q.caller.Account}
	if g.tags, err = mergeTags(given, nil, nil); err != nil {
		return nil, err
	}
	if err := q.pack(&g); err != nil {
		return nil, err
	}
	name := q.form.Get("Name")
	if q.fault.Kind == FaultWrongRole {
		name = "somebody-else"
	}
	p := principal{
		Kind:    kindFederated,
		ARN:     "arn:aws:sts::" + q.caller.Account + ":federated-user/" + name,
		UserID:  q.caller.Account + ":" + name,
		Account: q.caller.Account,
	}
	return federationResult{
		FederatedUser:    xmlFederatedUser{p.ARN, p.UserID},
		PackedPolicySize: g.packed,
		xmlMint:          q.issue(p, life),
	}, nil
}

// userLife is how long a session of a user lives. Of the root user's, AWS cuts
// what is over an hour and says nothing.
func (q *request) userLife() (time.Duration, error) {
	life, err := q.duration(12*time.Hour, 15*time.Minute, 36*time.Hour)
	if q.caller.Kind == kindRoot {
		life = min(life, time.Hour)
	}
	return life, err
}

type tradeIn struct {
	Principal string
	Expires   time.Time
}

var principalARN = lazy(`^arn:aws[\w-]*:(?:iam|sts)::(\d{12}):(role|user|assumed-role)/`)

// TradeInToken returns a token that GetDelegatedAccessToken exchanges, once or
// more, for an hour's credentials of the principal: the ARN of a role, of a
// role session or of a user. life is that of the token.
func (s *Server) TradeInToken(arn string, life time.Duration) string {
	return s.seal(purposeTradeIn, tradeIn{arn, s.Now().Add(life)})
}

func (q *request) getDelegatedAccessToken() (any, error) {
	var t tradeIn
	if !q.open(purposeTradeIn, q.form.Get("TradeInToken"), &t) {
		return nil, denied("The trade-in token is invalid.")
	}
	q.call.Target = t.Principal
	m := principalARN().FindStringSubmatch(t.Principal)
	switch {
	case !q.now.Before(t.Expires):
		return nil, fail(400, "ExpiredTradeInTokenException", "The trade-in token is expired.")
	case m == nil:
		return nil, invalid(t.Principal + " is invalid")
	}
	p := principal{Kind: kindRole, ARN: t.Principal, UserID: userID("AROA", t.Principal), Account: m[1]}
	if m[2] == "user" {
		p.UserID = userID("AIDA", t.Principal[strings.LastIndexByte(t.Principal, '/')+1:])
	}
	if m[2] == "role" {
		p.Role = t.Principal
	}
	if q.fault.Kind == FaultWrongRole {
		p.ARN = strings.Replace(p.ARN, m[2]+"/", m[2]+"/not-", 1)
	}
	return delegatedResult{q.issue(p, time.Hour).Credentials, p.ARN}, nil
}
