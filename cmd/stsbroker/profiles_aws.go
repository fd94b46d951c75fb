package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/awsconfig"
	"github.com/stsbroker/stsbroker/broker/awssts"
	"github.com/stsbroker/stsbroker/broker/custody"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// The profiles of the AWS shared files.

// awsProfile is the profile of that name of the AWS files, nil for none.
func (c *cataloguer) awsProfile(name string) *awsconfig.Profile {
	i := slices.IndexFunc(c.aws.Profiles, func(p awsconfig.Profile) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return &c.aws.Profiles[i]
}

func (c *cataloguer) fromAWS(p awsconfig.Profile) broker.Profile {
	d := c.draft(broker.Profile{Name: p.Name, Region: p.Region, Origin: p.Origin, Hidden: !c.cfg.AWSProfiles.Serves(p.Name)}, p.Endpoint)
	d.asAWS(p)
	return d.out
}

// asAWS obtains credentials as the profile of the AWS files does.
func (d *draft) asAWS(p awsconfig.Profile) {
	d.out.Notes = append(d.out.Notes, p.Notes...)
	switch {
	case p.Unservable != nil:
		d.out.Unservable = p.Unservable
	case p.Session != nil:
		d.session(custody.ProfileKey(p.Name), awssts.Session{MFA: awssts.MFA{Serial: p.Session.MFASerial}})
	case p.Role != nil:
		r := p.Role
		m := awssts.Role{ARN: r.ARN, SessionName: r.SessionName, ExternalID: r.ExternalID, Duration: r.Duration}
		source := d.awsSource(r.Source)
		switch {
		case r.MFASerial != "" && r.Source.Key != "":
			source = d.mfaSession(source, r.MFASerial, r.ARN)
			d.out.Notes = append(d.out.Notes, fmt.Sprintf("once in 12h it needs a code of the MFA device %s, for all roles that name it: stsbroker login %s", r.MFASerial, d.out.Name))
		case r.MFASerial != "":
			m.MFA.Serial = r.MFASerial
		}
		if source.Profile != "" && r.Duration > mostChained {
			whose := "its source " + source.Profile
			if strings.HasPrefix(source.Profile, "(") { // a name of ours, see awsSource and mfaSession
				whose = "what signs for it"
			}
			d.out.Notes = append(d.out.Notes, fmt.Sprintf("%s is temporary credentials, with which STS grants a role 1h at most; duration_seconds %d will be 3600", whose, int(r.Duration.Seconds())))
		}
		d.role(m, source)
	case p.WebIdentity != nil:
		w := p.WebIdentity
		d.webIdentity(awssts.WebIdentity{ARN: w.ARN, SessionName: w.SessionName, Token: d.file("web identity token", d.expand(w.TokenFile)), Duration: w.Duration})
	case p.SSO != nil:
		d.identityCenter(*p.SSO)
	case p.LoginSession != "":
		// The SDK's provider truncates the CLI's cache file in place when it refreshes, and
		// costs every daemon more memory than all of our own sign-in does.
		d.out.Action = "login_session"
		d.fail(fmt.Errorf("login_session (aws login) is not served: its session is refreshed by rewriting the AWS CLI's own cache file; use a profile with credential_process = aws configure export-credentials --profile %s --format process", p.Name))
	case p.Process != nil:
		if target, ok := d.askedOfUs(p); ok { // see resolveAliases
			d.out.Action = "credential_process"
			if d.out.Name != p.Name { // the chain of the SDKs led here
				d.cataloguer.aliases[d.out.Name] = target
			}
			break
		}
		if err := trusted(d.files.Config, d.files.Credentials); err != nil {
			d.out.Action = "credential_process"
			d.fail(fmt.Errorf("its command is not run: %w", err))
			break
		}
		d.process(nil, p.Process.Command)
	}
}

// mfaSession is the session that a role with mfa_serial is assumed with: one for
// all roles of a key and a device whose calls go to the same STS, so that one code
// a day is enough. SDKs give a code to AssumeRole itself, and ask for one with each
// role and at every renewal.
func (d *draft) mfaSession(key broker.Ref, serial, role string) broker.Ref {
	at, err := d.settle(role)
	if err != nil {
		d.fail(err)
		return key
	}
	name := "(" + serial + " of " + key.Key + d.whose(at) + ")"
	if !slices.ContainsFunc(d.cataloguer.out.profiles, func(p broker.Profile) bool { return p.Name == name }) {
		session := d.cataloguer.draft(broker.Profile{Name: name, Hidden: true, Region: at.Region, Origin: d.out.Origin}, d.endpoint)
		session.session(key.Key, awssts.Session{MFA: awssts.MFA{Serial: serial}})
		d.add(session.out)
	}
	return broker.Ref{Profile: name}
}

// whose tells the STS that a site belongs to from all others, in words for the end
// of a name. The regions of a partition are one: what one of them issues, all of
// them take. An endpoint of somebody's choice is one of its own, and so is each way
// of choosing among AWS's.
func (d *draft) whose(at awssts.Site) string {
	var words string
	switch partition := awssts.PartitionOf(at.Region); {
	case d.getenv(varEndpointURL) != "": // one for all
		return ""
	case at.URL != "":
		return " at " + at.URL
	case d.cfg.STS.Endpoints[at.Region].URL != "":
		return " at " + at.Region
	case partition != "aws":
		words = " in " + partition
	}
	for _, s := range []struct {
		on   bool
		name string
	}{{at.FIPS, "fips"}, {at.DualStack, "dual-stack"}, {at.Legacy, "legacy"}} {
		if s.on {
			words += ", " + s.name
		}
	}
	return words
}

// awsSource turns the source of a role of the AWS files into a reference, making
// the hidden profile or the key that an ambient source needs.
func (c *cataloguer) awsSource(s awsconfig.Source) broker.Ref {
	switch {
	case s.Key != "":
		return broker.Ref{Key: custody.ProfileKey(s.Key)}
	case s.Profile != "":
		return c.signer(broker.Ref{Profile: s.Profile})
	case s.SSO != nil:
		return c.identityCenterSource(*s.SSO)
	case s.Ambient == awsconfig.AmbientEnvironment:
		return broker.Ref{Key: c.environmentKey()}
	}
	name := "(" + s.Ambient + ")" // parentheses: no AWS profile has them in front
	if !slices.ContainsFunc(c.out.profiles, func(p broker.Profile) bool { return p.Name == name }) {
		d := c.draft(broker.Profile{Name: name, Hidden: true, Origin: "credential_source"}, awsconfig.Endpoint{})
		d.endpointOf(s.Ambient)
		c.add(d.out)
	}
	return broker.Ref{Profile: name}
}

// environmentKey puts what the environment of serve holds in custody.
func (c *cataloguer) environmentKey() string {
	name := custody.ProfileKey("(environment)")
	c.out.keys[name] = custody.EnvSession(c.getenv)
	return name
}

// trusted reports whether somebody else could have written the command that a
// file of the AWS files names.
func trusted(files ...string) error {
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			continue // nothing was read from it
		}
		if err := securefile.CheckWriters(file, info); err != nil {
			return err
		}
	}
	return nil
}

// expand makes a path of an AWS file absolute, as SDKs do from their own working
// folder, and knows the home folder.
func (c *cataloguer) expand(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		return filepath.Join(c.home, rest)
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
