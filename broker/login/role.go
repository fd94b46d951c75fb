package login

import (
	"context"
	"fmt"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// longest is more than a permission set's session can last (12 hours).
const longest = 36 * time.Hour

// role mints the credentials of a permission set in an account.
type role struct {
	m             *Manager
	session       Session
	account, name string
}

// Role returns the minter of a role: of the permission set name in an account of 12
// digits. It makes GetRoleCredentials with the session's token, and no prompt: where
// a token can be had from a person alone, its error is [broker.KindLoginNeeded], and
// where one may rest in a vault that is locked, [broker.KindLocked].
func (m *Manager) Role(s Session, account, name string) broker.Minter {
	return &role{m, s, account, name}
}

// Digest implements [broker.Minter].
func (r *role) Digest() broker.Digest {
	at, _ := r.m.api.base(servicePortal, r.session.Region)
	k := r.session.key()
	return broker.DigestOf("sso:GetRoleCredentials", k.name, k.url, k.region, at, r.account, r.name)
}

// Deadline is how much time [role.Mint] may need: for a token, the call, and both
// again where the token turns out to be revoked.
func (r *role) Deadline() time.Duration { return 2*flightTimeout + 2*callTimeout }

// Mint implements [broker.Minter].
func (r *role) Mint(ctx context.Context, _ broker.MintInput) (broker.Credentials, error) {
	if err := r.session.check(); err != nil {
		return broker.Credentials{}, err
	}
	for again := false; ; again = true {
		token, err := r.m.token(ctx, r.session)
		if err != nil {
			return broker.Credentials{}, err
		}
		g, issued, err := r.m.api.roleCredentials(ctx, r.session, token, r.account, r.name)
		f := asFault(err)
		switch {
		case err == nil:
			return r.verify(g, issued)
		case f == nil:
			return broker.Credentials{}, err
		case f.status != 401 || f.code != codeUnauthorized:
			return broker.Credentials{}, r.refused(f)
		}
		r.m.refuse(r.session, token)
		if again {
			return broker.Credentials{}, signInNeeded(r.session, true, f)
		}
	}
}

func (r *role) what() string { return fmt.Sprintf("role %s in account %s", r.name, r.account) }

func (r *role) refused(f *fault) *broker.Error {
	e := &broker.Error{Kind: f.kind(), Code: f.code}
	switch {
	case f.code == codeForbidden:
		e.Cause = f
		e.Public = fmt.Sprintf("%s does not give you the %s; check sso_role_name and sso_account_id, or ask for the permission set", r.session, r.what())
	case f.code == codeNotFound:
		e.Cause = f
		e.Public = fmt.Sprintf("%s knows no %s; check sso_role_name and sso_account_id", r.session, r.what())
	case e.Kind.Passes():
		e.Public = fmt.Sprintf("IAM Identity Center in %s did not give the %s: %s; it is tried again by itself", r.session.Region, r.what(), f.words)
	default:
		e.Public = fmt.Sprintf("IAM Identity Center in %s refuses the %s: %s; check the profile's sso_ settings", r.session.Region, r.what(), f.words)
	}
	return e
}

// verify holds an answer against what credentials look like: nothing empty or over
// is ever served.
func (r *role) verify(g granted, issued time.Time) (broker.Credentials, error) {
	expires := time.UnixMilli(g.Expires)
	why := ""
	switch {
	case !broker.ValidKeyID(g.ID):
		why = "its access key id is empty or malformed"
	case !visible(g.Secret):
		why = "its secret access key is empty or malformed"
	case !visible(g.Token):
		why = "its session token is empty or malformed"
	case !expires.After(issued):
		why = "its credentials are over already"
	case expires.After(issued.Add(longest)):
		why = "its credentials live longer than AWS's do"
	}
	if why != "" {
		return broker.Credentials{}, r.refused(malformed(why))
	}
	return broker.Credentials{
		AccessKeyID: g.ID, SecretAccessKey: broker.NewSecret(g.Secret), SessionToken: broker.NewSecret(g.Token),
		AccountID: r.account, Region: r.session.Region, Issued: issued, Expires: expires,
	}, nil
}
