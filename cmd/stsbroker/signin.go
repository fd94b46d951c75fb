package main

import (
	"cmp"
	"context"
	"net/http"
	"path/filepath"
	"slices"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/awsconfig"
	"github.com/stsbroker/stsbroker/broker/awssts"
	"github.com/stsbroker/stsbroker/broker/login"
	"github.com/stsbroker/stsbroker/internal/control"
)

// Sign-ins to IAM Identity Center, and logout.

// newLogin makes what signs in. What it has been given rests in the vault.
func (a *app) newLogin() (*login.Manager, error) {
	o := login.Options{
		Vault: a.vault,
		Endpoint: func(service, region string) string {
			if service == "oidc" {
				return a.getenv(varEndpointOIDC)
			}
			return a.getenv(varEndpointSSO)
		},
		Changed: func(s login.Session) { a.signedInTo(s) },
		Report:  func(err error) { a.log.Warn("sign-in to IAM Identity Center", zap.Error(err)) },
	}
	if !a.system {
		o.Proxy, o.CLICache = http.ProxyFromEnvironment, filepath.Join(a.home, ".aws", "sso", "cache")
	}
	var err error
	if o.RootCAs, err = a.roots(); err != nil {
		return nil, err
	}
	return login.New(o), nil
}

// signedInTo lets all profiles of a session try again.
func (a *app) signedInTo(s login.Session) {
	a.broker.Mended(func(p broker.Profile) bool { return p.SignIn == s.String() })
}

// identityCenter mints with a sign-in to IAM Identity Center.
func (d *draft) identityCenter(p awsconfig.SSO) {
	s := login.Session{Name: p.Session, StartURL: p.StartURL, Region: p.Region, Scopes: p.Scopes}
	d.out.Action, d.out.SignIn = "GetRoleCredentials", s.String()
	d.out.Bucket = awssts.Bucket("sso "+p.AccountID, p.Region)
	d.out.Minter = d.login.Role(s, p.AccountID, p.RoleName)
	d.cataloguer.out.signIns[d.out.Name] = s
	if d.out.Region == "" {
		d.out.Region = p.Region
	}
}

// identityCenterSource is the hidden profile of what signs for a role that has its
// sso_ lines beside role_arn.
func (c *cataloguer) identityCenterSource(p awsconfig.SSO) broker.Ref {
	name := "(" + p.RoleName + " in " + p.AccountID + " of " + cmp.Or(p.Session, p.StartURL) + ")"
	if !slices.ContainsFunc(c.out.profiles, func(p broker.Profile) bool { return p.Name == name }) {
		d := c.draft(broker.Profile{Name: name, Hidden: true, Region: p.Region, Origin: "sso_account_id beside role_arn"}, awsconfig.Endpoint{})
		d.identityCenter(p)
		c.add(d.out)
	}
	return broker.Ref{Profile: name}
}

// signedIn tells profiles over a sign-in which one that is.
func (c *cataloguer) signedIn() {
	for _, p := range c.out.profiles {
		at := p
		for range c.out.profiles {
			if s, ok := c.out.signIns[at.Name]; ok {
				c.out.signIns[p.Name] = s
				break
			}
			i := slices.IndexFunc(c.out.profiles, func(q broker.Profile) bool { return q.Name == at.Parent.Profile })
			if i < 0 {
				break
			}
			at = c.out.profiles[i]
		}
	}
}

// SignIn implements control.Service.
func (l local) SignIn(ctx context.Context, profile string, device bool) (control.SignIn, error) {
	if err := l.servable(profile); err != nil {
		return control.SignIn{}, err
	}
	s, ok := l.catalog.signIns[profile]
	if !ok {
		return control.SignIn{}, &control.Error{Kind: "config", Profile: profile, Message: "profile " + profile + " needs no sign-in: nothing on its way to credentials is of IAM Identity Center"}
	}
	at, err := l.app.login.Begin(ctx, s, device)
	if err != nil {
		return control.SignIn{}, about("profile", profile, err)
	}
	l.log.Info("a sign-in is under way", zap.String("session", s.String()), zap.String("profile", profile), zap.Bool("device_code", device), zap.Bool("joined", !at.First))
	return control.SignIn{
		Session: s.String(), URL: at.URL, Code: at.Code, First: at.First, Expires: at.Expires,
		Wait: func() (control.Profile, error) {
			if err := at.Wait(ctx); err != nil {
				return control.Profile{}, about("profile", profile, err)
			}
			l.signedInTo(s)
			if p, _ := l.definition(profile); !p.Once {
				if _, err := l.get(ctx, profile); err != nil {
					return control.Profile{}, explain(err)
				}
			}
			return l.standing(ctx, profile)
		},
	}, nil
}

// Logout implements control.Service.
func (l local) Logout(ctx context.Context, profile string) (control.Loggedout, error) {
	if _, err := l.ask(profile); err != nil {
		return control.Loggedout{}, err
	}
	var out control.Loggedout
	whose := func(p broker.Profile) bool { return p.Name == profile }
	switch s, ok := l.catalog.signIns[profile]; {
	case ok:
		out.What = "the sign-in to " + s.String()
		whose = func(p broker.Profile) bool { return p.SignIn == s.String() }
		if err := l.app.login.SignOut(ctx, s); err != nil {
			out.Note = explain(err).Message
		}
	default:
		device, at := l.deviceOf(profile)
		if out.What = "what was minted for " + profile; at != "" {
			out.What = "the session of the MFA device " + device
			whose = func(p broker.Profile) bool { return p.Name == at }
		}
	}
	var err error
	if out.Sets, err = l.broker.Forget(ctx, whose); err != nil && out.Note == "" {
		out.Note = explain(err).Message
	}
	l.log.Info("logged out", zap.String("profile", profile), zap.String("forgotten", out.What), zap.Int("sets", out.Sets))
	return out, nil
}

// deviceOf is the MFA device that a login of the profile is for, and the profile that
// is minted with its code: itself, or the first of its sources that has one.
func (l local) deviceOf(profile string) (device, at string) {
	for range l.catalog.profiles {
		p, ok := l.definition(profile)
		switch {
		case !ok:
			return "", ""
		case p.MFA != "":
			return p.MFA, p.Name
		}
		profile = p.Parent.Profile
	}
	return "", ""
}
