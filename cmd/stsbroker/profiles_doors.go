package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/awsconfig"
	"github.com/stsbroker/stsbroker/metadata/credfile"
)

// What the doors, and the files that the broker writes, say of profiles.

// named is a profile that the document names outside of profiles.
type named struct {
	where   string // "listen.imds"
	line    int
	profile string
}

func (c *cataloguer) named() (all []named) {
	add := func(where string, line int, profiles []string) {
		for _, p := range profiles {
			all = append(all, named{where, line, p})
		}
	}
	for _, l := range c.cfg.Listen.Container {
		add("listen.container", l.Line, l.WithoutToken)
	}
	for _, l := range c.cfg.Listen.IMDS {
		add("listen.imds", l.Line, []string{l.Profile})
	}
	for _, f := range c.cfg.TokenFiles {
		add("token_files."+f.Name, f.Line, f.Profiles)
	}
	for _, f := range c.cfg.Files {
		add("files."+f.Name, f.Line, f.Profiles)
	}
	return all
}

// checkNamed looks at the profiles that doors and files are for. One that cannot be
// served now is a warning, because a fault in an AWS file stops nothing else.
func (c *cataloguer) checkNamed() {
	names := make([]string, 0, len(c.out.profiles))
	for _, p := range c.out.profiles {
		names = append(names, p.Name)
	}
	for _, n := range c.named() {
		fault := func(s Severity, format string, args ...any) {
			file := c.cfg.File
			if n.line == 0 { // not of the document: a command wants it
				file = "exec"
			}
			c.note(file, n.line, s, "%s: %s", n.where, fmt.Sprintf(format, args...))
		}
		i := slices.Index(names, n.profile)
		if i < 0 {
			if why := c.out.settings[n.profile]; why != nil {
				fault(SeverityError, "profile %s: %s", oneLine(n.profile), shortReason(n.profile, why.Error()))
			} else {
				fault(SeverityError, "there is no profile %q, neither here nor in the AWS files%s", n.profile, didYouMean(n.profile, names))
			}
			continue
		}
		switch p, life := c.out.profiles[i], c.life(n.profile); {
		case p.Hidden:
			fault(SeverityError, "profile %s is excluded by aws_profiles, and only feeds others; include it, or name another", p.Name)
		case p.Once:
			fault(SeverityError, "profile %s is a root session, for one exec alone; name another", p.Name)
		case n.where == "listen.imds" && life > 0 && life < leastOverIMDS:
			fault(SeverityError, "profile %s has sessions of %s, and over IMDS botocore makes a later expiry up when less than 25m are left; give it a duration of %s or more",
				p.Name, short(life), short(leastOverIMDS))
		case p.Unservable != nil:
			fault(SeverityWarning, "profile %s cannot be served now: %s", p.Name, shortReason(p.Name, p.Unservable.Error()))
		}
	}
}

// checkFiles looks at the places of the files that the broker is to write. They
// are never somebody else's, and the broker reads none of them.
func (c *cataloguer) checkFiles() {
	taken := map[string]string{c.cfg.File: "this document", c.files.Config: "the AWS configuration", c.files.Credentials: "the AWS credentials file"}
	delete(taken, "")
	take := func(where string, line int, path string) bool {
		if whose := taken[path]; whose != "" {
			c.note(c.cfg.File, line, SeverityError, "%s: %s is %s; give it a path of its own", where, path, whose)
			return false
		}
		taken[path] = where
		return true
	}
	for _, f := range c.cfg.TokenFiles {
		take("token_files."+f.Name, f.Line, c.tokenFile(f))
	}
	for _, f := range c.cfg.Files {
		where, path := "files."+f.Name, c.credentialsFile(f)
		if !take(where, f.Line, path) {
			continue
		}
		if err := credfile.CheckProfiles(f.Profiles); err != nil {
			c.note(c.cfg.File, f.Line, SeverityError, "%s: %v", where, err)
		}
		if err := inMemory(c.place, f); err != nil {
			c.note(c.cfg.File, f.Line, SeverityWarning, "%s: %v", where, err)
		}
	}
}

// inMemory says what is wrong with a file of credentials on a disk.
func inMemory(p place, f FileConfig) error {
	path := p.credentialsFile(f)
	onDisk, err := credfile.OnDisk(path)
	if err == nil && onDisk {
		err = fmt.Errorf("%s is on a disk, where deleted secrets can be found again; give it a path in memory, such as /dev/shm/%s/credentials", path, f.Name)
	}
	return err
}

// withoutOurs leaves out of the AWS files what a broker wrote: it is never a source.
func withoutOurs(f awsconfig.Files) (awsconfig.Files, *Finding) {
	if f.Credentials == "" || !credfile.IsOurs(f.Credentials) {
		return f, nil
	}
	ours := f.Credentials
	f.Credentials = ""
	return f, &Finding{File: ours, Severity: SeverityWarning, Text: "not read: a broker writes this file, and does not take credentials from itself; AWS_SHARED_CREDENTIALS_FILE of serve should name another"}
}

// alias is a profile of the AWS files that asks this program for another profile.
type alias struct{ name, target string }

// resolveAliases gives each alias what its target has, so that they share a lease
// where the broker would otherwise ask itself.
func (c *cataloguer) resolveAliases() {
	find := func(name string) int {
		return slices.IndexFunc(c.out.profiles, func(p broker.Profile) bool { return p.Name == name })
	}
	for _, a := range c.aliases {
		target := a.target
		for range c.aliases { // a longer way than this goes in a circle
			if i := slices.IndexFunc(c.aliases, func(b alias) bool { return b.name == target }); i >= 0 {
				target = c.aliases[i].target
			}
		}
		own := &c.out.profiles[find(a.name)]
		i := find(target)
		switch {
		case slices.ContainsFunc(c.aliases, func(b alias) bool { return b.name == target }):
			own.Unservable = fmt.Errorf("%s: profile %s: its credential_process asks stsbroker for itself; name the profile that has the credentials there", own.Origin, own.Name)
			continue
		case i < 0 || c.out.profiles[i].Hidden:
			own.Unservable = fmt.Errorf("%s: profile %s: its credential_process asks stsbroker for profile %s, which it does not serve; correct the name", own.Origin, own.Name, oneLine(target))
			continue
		}
		p := c.out.profiles[i]
		p.Name, p.Origin, p.Hidden, p.Prefetch = own.Name, own.Origin, own.Hidden, false
		if own.Region != "" {
			p.Region = own.Region
		}
		p.Notes = []string{"the same as profile " + target + ", which its credential_process asks stsbroker for"}
		*own = p
		c.out.sites[p.Name], c.out.roles[p.Name] = c.out.sites[target], c.out.roles[target]
		if key, plain := c.out.sessions[target]; plain {
			c.out.sessions[p.Name] = key
		}
	}
}

// life is the duration that the profile asks for, 0 where it names none.
func (c *cataloguer) life(profile string) time.Duration {
	for _, p := range c.cfg.Profiles {
		if p.Name == profile {
			return p.life()
		}
	}
	for _, p := range c.aws.Profiles {
		switch {
		case p.Name != profile:
		case p.Role != nil:
			return p.Role.Duration
		case p.WebIdentity != nil:
			return p.WebIdentity.Duration
		}
	}
	return 0
}
