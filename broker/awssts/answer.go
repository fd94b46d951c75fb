package awssts

import (
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/stsbroker/stsbroker/broker"
)

// expirySlack is how much longer than asked for an answer may claim to live.
const expirySlack = 5 * time.Minute

// verify holds an answer against the question. n is the duration that was
// asked for, in seconds, nil for none; now is the time on the issuer's clock.
// An answer that does not fit is refused with [broker.KindUnavailable]: it is
// never served, and asking again may bring the right one.
func (m *minter) verify(c Call, p prepared, g grant, n *int32, now time.Time) (broker.Credentials, error) {
	no := func(why string) (broker.Credentials, error) { return broker.Credentials{}, refuse(c, why) }
	if g.creds == nil {
		return no("it holds no credentials")
	}
	id, secret, token := aws.ToString(g.creds.AccessKeyId), aws.ToString(g.creds.SecretAccessKey), aws.ToString(g.creds.SessionToken)
	expires := aws.ToTime(g.creds.Expiration)
	switch {
	case !broker.ValidKeyID(id):
		return no("its access key id is empty or malformed")
	case !visible(secret):
		return no("its secret access key is empty or malformed")
	case !visible(token):
		return no("its session token is empty or malformed")
	case expires.IsZero():
		return no("it has no expiration")
	case !expires.After(now):
		return no(fmt.Sprintf("its credentials expired at %s, and it is %s by its own clock", stamp(expires), stamp(now)))
	case n != nil && expires.After(now.Add(time.Duration(*n)*time.Second+expirySlack)):
		return no(fmt.Sprintf("its credentials expire at %s, later than the %s asked for allow", stamp(expires), period(*n)))
	case !p.latest.IsZero() && !p.latest.After(now):
		return no(fmt.Sprintf("the assertion's session ended at %s, and it is %s by its own clock", stamp(p.latest), stamp(now)))
	}
	if !p.latest.IsZero() && expires.After(p.latest) {
		expires = p.latest
	}
	note, account, principal := "", p.account, aws.ToString(g.principal)
	switch {
	case p.holds == nil:
	case principal == "" && m.compatible:
		note = "the answer does not say whose credentials these are"
	case !p.holds(principal):
		return no(fmt.Sprintf("it is for %q", clean(principal)))
	case account == "":
		account = AccountOf(principal)
	}
	return broker.Credentials{
		AccessKeyID:     id,
		SecretAccessKey: broker.NewSecret(secret),
		SessionToken:    broker.NewSecret(token),
		AccountID:       account,
		RoleARN:         p.arn,
		Region:          c.Region,
		Issued:          now,
		Expires:         expires,
		Note:            note,
	}, nil
}

func refuse(c Call, why string) *broker.Error {
	return &broker.Error{
		Kind:   broker.KindUnavailable,
		Public: fmt.Sprintf("the answer of %s to %s%s is refused: %s; check which endpoint answers", c.where(), c.Action, c.target(), why),
	}
}

// sameRole reports whether user, the ARN of an assumed role, is the session of
// the role that was asked for; of any name, if session is "". AWS drops the
// role's path; some stores keep it.
//
//	arn:aws:iam::123456789012:role/path/deploy
//	arn:aws:sts::123456789012:assumed-role/deploy/SESSION
func sameRole(role, session, user string) bool {
	r, u := strings.SplitN(role, ":", 6), strings.SplitN(user, ":", 6)
	if len(r) != 6 || len(u) != 6 {
		return false
	}
	name := r[5][strings.LastIndexByte(r[5], '/')+1:]
	path, got := u[5], ""
	if i := strings.LastIndexByte(u[5], '/'); i >= 0 {
		path, got = u[5][:i], u[5][i+1:]
	}
	return u[0] == "arn" && u[1] == r[1] && u[2] == "sts" && u[4] == r[4] && got != "" && (session == "" || got == session) &&
		strings.HasPrefix(path, "assumed-role/") && strings.HasSuffix(path, "/"+name)
}

// visible reports whether s is not empty and all visible ASCII, as what goes
// into a header has to be.
func visible(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
