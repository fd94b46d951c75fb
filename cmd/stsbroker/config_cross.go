package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/stsbroker/stsbroker/broker/awssts"
)

// document is a configuration that has been read to its end, for what depends on more
// than one part of it.
type document struct {
	*Config
	profile map[string]*ProfileConfig
}

// crossCheck looks at what names something else in the document.
func (r *configReader) crossCheck(c *Config) {
	w := document{c, map[string]*ProfileConfig{}}
	for i := range c.Profiles {
		w.profile[c.Profiles[i].Name] = &c.Profiles[i]
	}
	names := slices.Sorted(maps.Keys(c.Keys))
	for _, k := range r.keyRefs {
		if _, ok := c.Keys[k.name]; !ok {
			hint := didYouMean(k.name, names)
			if hint == "" {
				hint = fmt.Sprintf("; add it: keys: { %s: { custody: file } }", k.name)
			}
			r.fail(k.node, k.path, "there is no key %q%s", k.name, hint)
		}
	}
	r.checkSources(w)
	for _, a := range r.arns {
		if !c.compatible(w.profile[a.profile].Region) && !awsRoleARN().MatchString(a.name) {
			r.fail(a.node, a.path, "%q is not the ARN of a role of AWS: arn:aws:iam::ACCOUNT:role/NAME with an account of 12 digits; "+
				"for another store, set compatible: true at sts.endpoints", a.name)
		}
	}
	for _, e := range r.endpoints {
		if slices.ContainsFunc(c.Listen.addresses(), func(l string) bool { return sameAddress(e.name, l) }) {
			r.fail(e.node, e.path, "%s is where stsbroker itself listens; give the address of an STS", e.name)
		}
	}
	for _, check := range r.later {
		check(w)
	}
}

// checkSources holds every source to what its credentials may call of STS,
// which the API reference says of each action.
func (r *configReader) checkSources(w document) {
	next := map[string]located{}
	for _, s := range r.sourceRefs {
		next[s.profile] = s
	}
	for _, s := range r.sourceRefs {
		source, user := w.profile[s.name], w.profile[s.profile]
		switch {
		case source == nil:
			w.sources = append(w.sources, s.ref)
			continue
		case source.Root != nil:
			r.fail(s.node, s.path, "%s is a root session, for one exec alone and for nothing but its task; name a role or a key", s.name)
		case source.Federation != nil:
			r.fail(s.node, s.path, "%s is a federated session, which can call of STS GetCallerIdentity alone; name a role or a key", s.name)
		case source.Session != nil && user.Role == nil:
			r.fail(s.node, s.path, "%s is a session of GetSessionToken, which can call of STS AssumeRole and GetCallerIdentity alone; "+
				"name a role, or write key: %s instead of source", s.name, cmp.Or(source.Session.Key, "NAME"))
		case user.Role != nil && user.Role.Duration > mostChained && source.temporary():
			holds, be := "holds", "will be"
			if source.Ambient { // unless it finds long-term keys
				holds, be = "may hold", "is then"
			}
			r.warn(s.node, s.path, "%s %s temporary credentials, with which STS grants a role 1h at most; duration %s %s 1h", s.name, holds, short(user.Role.Duration), be)
		}
		if loop := loopFrom(s.profile, next); loop != nil && slices.Min(loop) == s.profile {
			r.fail(s.node, s.path, "the sources run in a loop: %s; name a key somewhere in it", strings.Join(append(loop, s.profile), " → "))
		}
	}
}

// temporary reports whether a role that has the profile as its source is signed
// with temporary credentials. With a session that needs no MFA, the key itself
// signs.
func (p *ProfileConfig) temporary() bool { return p.Session == nil || p.Session.MFA.Serial != "" }

// rootUser says why a signer is a root user, "" when it is none.
func (w document) rootUser(source, key string) string {
	if s := w.profile[source]; s != nil && s.Session != nil {
		if key = s.Session.Key; rootDevice(s.Session.MFA.Serial) {
			return fmt.Sprintf("%s has the MFA device of a root user", source)
		}
	}
	if w.Keys[key].RootUser {
		return fmt.Sprintf("key %s is a root user's", key)
	}
	return ""
}

// checkChain compares a role with the roles of this document that it is reached
// through: their transitive tags and source identity go with it, and STS refuses
// to set either again.
func (r *configReader) checkChain(w document, c *RoleConfig, seen map[string]*yaml.Node, p string) {
	first := w.profile[c.Source]
	if c.MFA.Serial != "" && first != nil && (first.Role != nil || first.WebIdentity != nil || first.SAML != nil) {
		r.fail(seen["mfa_serial"], join(p, "mfa_serial"), "%s is a role, which no MFA device belongs to; "+
			"move mfa_serial to the profile in the chain that signs with the keys of the user", c.Source)
	}
	named := c.SourceIdentity != ""
	name := c.Source
	for range w.Profiles { // no further: a loop has been reported
		above := w.profile[name]
		if above == nil || above.Role == nil {
			return
		}
		for _, t := range above.Role.TransitiveTags {
			for k := range c.Tags {
				if strings.EqualFold(k, t) {
					r.fail(seen["tags"], join(p, "tags"), "%s passes its tag %q on along the chain, where STS refuses another of that key; leave it out here",
						name, t)
				}
			}
		}
		if named && above.Role.SourceIdentity != "" {
			if above.Role.SourceIdentity != c.SourceIdentity {
				r.fail(seen["source_identity"], join(p, "source_identity"), "the source identity is %s's %q all along the chain, and cannot be changed; leave it out here",
					name, above.Role.SourceIdentity)
			}
			named = false // what is further up is compared there
		}
		name = above.Role.Source
	}
}

// checkKin holds ARNs to the partition and the account of the one that they go
// with, what of that is known: AWS wants them to be the same. A store that is not
// AWS has rules of its own.
func (r *configReader) checkKin(w document, profile, what, arn string, n *yaml.Node, p string, others ...string) {
	partition := func(arn string) string { // "" for what is no ARN
		if parts := strings.SplitN(arn, ":", 3); len(parts) == 3 && parts[0] == "arn" {
			return parts[1]
		}
		return ""
	}
	if w.compatible(w.profile[profile].Region) {
		return
	}
	for _, other := range others {
		for _, of := range []struct {
			what      string
			ours, its string
		}{{"partition", partition(arn), partition(other)}, {"account", awssts.AccountOf(arn), awssts.AccountOf(other)}} {
			if of.ours != "" && of.its != "" && of.ours != of.its {
				r.fail(n, p, "%s is of the %s %s, and the %s of %s; both must be of one", other, of.what, of.its, what, of.ours)
				break
			}
		}
	}
}

// compatible reports whether a profile of that region may mint at a store that
// is not AWS.
func (c *Config) compatible(region string) bool {
	if region = cmp.Or(region, c.STS.Region); region != "" {
		return c.STS.Endpoints[region].Compatible
	}
	for _, e := range c.STS.Endpoints { // the environment will choose one
		if e.Compatible {
			return true
		}
	}
	return false
}

// loopFrom returns the profiles of the loop of sources that profile is on, nil
// where it is on none.
func loopFrom(profile string, next map[string]located) (loop []string) {
	for at := profile; ; {
		loop = append(loop, at)
		s, ok := next[at]
		if !ok || len(loop) > len(next) {
			return nil
		}
		if at = s.name; at == profile {
			return loop
		}
	}
}
