package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/stsbroker/stsbroker/broker/awsconfig"
	"github.com/stsbroker/stsbroker/broker/process"
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
	for _, path := range c.ownFiles(c.cfg.Listen) {
		taken[path] = "a file of stsbroker's own"
	}
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
		k := tokenFile{path: c.tokenFile(f)}
		if !take("token_files."+f.Name, f.Line, k.path) {
			continue
		}
		if _, _, err := k.held(); err != nil {
			c.note(c.cfg.File, f.Line, SeverityError, "token_files.%s: %v", f.Name, err)
		}
	}
	for _, f := range c.cfg.Files {
		where := "files." + f.Name
		if !take(where, f.Line, c.credentialsFile(f)) {
			continue
		}
		if err := credfile.CheckProfiles(f.Profiles); err != nil {
			c.note(c.cfg.File, f.Line, SeverityError, "%s: %v", where, err)
		}
		if err := credfile.Check(c.credentialsFile(f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.note(c.cfg.File, f.Line, SeverityError, "%s: %v", where, err)
		}
		onDisk, err := credfile.OnDisk(c.credentialsFile(f))
		if err == nil && !onDisk {
			continue
		}
		if err == nil {
			err = fmt.Errorf("%s is on a disk, where deleted secrets can be found again; give it a path in memory, such as /dev/shm/%s/credentials", c.credentialsFile(f), f.Name)
		}
		severity := SeverityError
		if onDisk && f.Path != "" { // it was asked for by name
			severity = SeverityWarning
		}
		c.note(c.cfg.File, f.Line, severity, "%s: %v", where, err)
	}
}

// checkAddresses warns of doors that know their callers by the user alone, at
// addresses that a container's helper reaches in that user's name.
func (c *cataloguer) checkAddresses() {
	const forwarded = "%s: at %s every program of this user is served, and so is a rootless container of the user's (slirp4netns, pasta) that asks this address; from loopback such a container is kept away, unless it was started otherwise"
	for _, l := range c.cfg.Listen.Container {
		if l.WithoutToken != nil {
			c.note(c.cfg.File, l.Line, SeverityWarning, forwarded, "listen.container", l.Address)
		}
	}
	for _, l := range c.cfg.Listen.IMDS {
		if at, err := netip.ParseAddrPort(l.Address); err == nil && !at.Addr().IsLoopback() {
			c.note(c.cfg.File, l.Line, SeverityWarning, forwarded, "listen.imds", l.Address)
		}
	}
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

// askedOfUs returns the profile that a profile of the AWS files has its
// credential_process ask this very broker for. Another broker, at another socket or
// with another configuration, is none of ours, and no source either.
func (c *cataloguer) askedOfUs(p awsconfig.Profile) (target string, ok bool) {
	if p.Process == nil {
		return "", false
	}
	asked, ok := process.AskedOfSelf(p.Process.Command, c.self)
	ours := func(option, own string) bool { return option == "" || filepath.Clean(c.expand(option)) == own }
	if !ok || !ours(asked.Socket, c.control) || !ours(asked.Config, c.cfg.File) {
		return "", false
	}
	return asked.Profile, true
}

// behind follows the aliases from a profile to the one that has the credentials. ok
// is false where they go in a circle.
func (c *cataloguer) behind(profile string) (target string, ok bool) {
	for range len(c.aliases) + 1 {
		next, is := c.aliases[profile]
		if !is {
			return profile, true
		}
		profile = next
	}
	return profile, false
}

// resolveAliases gives each alias what its target has, so that they share a lease
// where the broker would otherwise ask itself.
func (c *cataloguer) resolveAliases() {
	at := map[string]int{}
	for i, p := range c.out.profiles {
		at[p.Name] = i
	}
	for name := range c.aliases {
		i, served := at[name]
		if !served { // defined in the document too, and that counts
			continue
		}
		own := &c.out.profiles[i]
		target, ok := c.behind(name)
		j, there := at[target]
		switch {
		case !ok:
			own.Unservable = fmt.Errorf("%s: profile %s: its credential_process asks stsbroker for itself; name the profile that has the credentials there", own.Origin, own.Name)
			continue
		case !there || c.out.profiles[j].Hidden:
			own.Unservable = fmt.Errorf("%s: profile %s: its credential_process asks stsbroker for profile %s, which it does not serve; correct the name", own.Origin, own.Name, oneLine(target))
			continue
		}
		p := c.out.profiles[j]
		p.Name, p.Origin, p.Hidden, p.Prefetch = own.Name, own.Origin, own.Hidden, false
		if section := c.awsProfile(name); section != nil && section.Region != "" {
			p.Region = section.Region
		}
		p.Notes = []string{"the same as profile " + target + ", which its credential_process asks stsbroker for"}
		*own = p
		c.out.sites[name] = c.out.sites[target]
		if key, plain := c.out.sessions[target]; plain {
			c.out.sessions[name] = key
		}
	}
}

// life is the duration that the profile asks for, 0 where it names none.
func (c *cataloguer) life(profile string) time.Duration {
	profile, _ = c.behind(profile)
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
