package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/ambient"
	"github.com/stsbroker/stsbroker/broker/awssts"
	"github.com/stsbroker/stsbroker/broker/custody"
)

// What the environment and the machine give.

// link is where the chain of the SDKs ends, from what this process has in its
// environment to the machine that it runs on.
func (c *cataloguer) link() ambient.Link {
	asked := cmp.Or(c.getenv("AWS_PROFILE"), c.getenv("AWS_DEFAULT_PROFILE"))
	return ambient.Chain(c.getenv, func(name string) bool { return name == asked || c.awsProfile(name) != nil })
}

// environmentKeys puts the long-term key of serve's environment in custody, by
// the names that the SDK for Go takes.
func (c *cataloguer) environmentKeys() string {
	key := custody.ProfileKey("(environment keys)")
	c.out.keys[key] = custody.Env(ambient.WithOldNames(c.getenv))
	return key
}

// ambient follows the chain of the SDKs. Where it leads is not the document's
// fault, and stops no start.
func (d *draft) ambient() {
	d.line = 0
	switch link := d.link(); link.Kind {
	case ambient.LinkEnvironmentKeys:
		d.session(d.environmentKeys(), awssts.Session{})
	case ambient.LinkEnvironmentSession:
		d.out.Action = "environment"
		d.minter(ambient.NewEnvironment(d.getenv))
	case ambient.LinkWebIdentity:
		m := awssts.WebIdentity{ARN: d.getenv("AWS_ROLE_ARN"), SessionName: d.getenv("AWS_ROLE_SESSION_NAME")}
		m.Token = awssts.File("web identity token", d.expand(d.getenv("AWS_WEB_IDENTITY_TOKEN_FILE")))
		d.webIdentity(m)
	case ambient.LinkProfile:
		p := d.awsProfile(link.Profile)
		if p == nil {
			d.fail(fmt.Errorf("AWS_PROFILE is %s where stsbroker serve runs, and no profile of that name has credentials; correct or unset it", oneLine(link.Profile)))
			break
		}
		d.out.Notes = append(d.out.Notes, "as profile "+p.Name+" of "+p.Origin)
		d.region, d.endpoint = cmp.Or(d.region, p.Region), p.Endpoint
		d.out.Region = d.cataloguer.region(d.region)
		d.asAWS(*p)
	case ambient.LinkContainer:
		d.endpointOf(ambient.ECS)
	default:
		d.out.Action = ambient.EC2
		m, err := ambient.New(ambient.EC2, ambient.Options{Getenv: d.getenv, Listeners: d.own})
		if err != nil {
			d.minter(nil, d.nothingElse(err))
			break
		}
		d.minter(lastLink{m, d.nothingElse}, nil)
	}
}

// lastLink is the machine where the chain of the SDKs found nothing before it.
type lastLink struct {
	*ambient.Minter
	failed func(error) error
}

// Mint implements broker.Minter.
func (l lastLink) Mint(ctx context.Context, in broker.MintInput) (broker.Credentials, error) {
	c, err := l.Minter.Mint(ctx, in)
	if err != nil {
		err = l.failed(err)
	}
	return c, err
}

// nothingElse puts what the chain looked at before why its last link cannot be
// used: who asked for the whole chain may not have meant that one.
func (c *cataloguer) nothingElse(err error) error {
	e, ok := errors.AsType[*broker.Error](err)
	if !ok {
		return err
	}
	half := ""
	keys := ambient.WithOldNames(c.getenv)
	switch id, secret := keys("AWS_ACCESS_KEY_ID") != "", keys("AWS_SECRET_ACCESS_KEY") != ""; {
	case id && !secret:
		half = " (AWS_ACCESS_KEY_ID is set there, and AWS_SECRET_ACCESS_KEY is not)"
	case secret && !id:
		half = " (AWS_SECRET_ACCESS_KEY is set there, and AWS_ACCESS_KEY_ID is not)"
	}
	out := *e
	out.Public = "nothing in the environment" + half + ", the AWS files or a container gives credentials, and this machine (" + ambient.EC2 + ") does not: " +
		strings.TrimPrefix(e.Public, "credential_source "+ambient.EC2+": ")
	return &out
}

// endpointOf takes credentials from what gives them to everything on this machine.
func (d *draft) endpointOf(source string) {
	d.out.Action = source
	d.minter(ambient.New(source, ambient.Options{Getenv: d.getenv, Listeners: d.own}))
}
