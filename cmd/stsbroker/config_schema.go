package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/stsbroker/stsbroker/broker/awssts"
)

// Durations that STS grants, from its API reference. A role over temporary
// credentials gets an hour at most, and so does all that a root user signs.
const (
	leastDuration   = 15 * time.Minute
	mostSession     = 36 * time.Hour
	mostRole        = 12 * time.Hour
	mostFederation  = 36 * time.Hour
	mostChained     = time.Hour
	mostOfRootUser  = time.Hour
	mostRoot        = 15 * time.Minute
	advisedDuration = time.Hour // below it, some SDKs ask again at every call

	// leastOverIMDS leaves botocore 25 minutes at every moment: with less, it
	// makes a later expiry up.
	leastOverIMDS = 45 * time.Minute
)

// Most of one kind that a call of STS takes, from its API reference.
const (
	mostPolicyARNs = 10
	mostTags       = 50
	mostContexts   = 5
)

// kinds of profiles, as the messages list them.
const kinds = "session, role, web_identity, saml, federation, root, delegated, process, ambient"

// fields is a mapping's keys and what reads them.
type fields = map[string]reads

// config reads the whole document.
func (r *configReader) config(c *Config, root *yaml.Node) {
	r.mapping(root, "", fields{
		"listen":       func(n *yaml.Node, p string) { r.listen(&c.Listen, n, p) },
		"aws_profiles": func(n *yaml.Node, p string) { r.awsProfiles(&c.AWSProfiles, n, p) },
		"sts":          func(n *yaml.Node, p string) { r.sts(&c.STS, n, p) },
		"keys":         func(n *yaml.Node, p string) { r.keys(c.Keys, n, p) },
		"profiles":     func(n *yaml.Node, p string) { r.profiles(&c.Profiles, n, p) },
		"token_files":  func(n *yaml.Node, p string) { r.tokenFiles(&c.TokenFiles, n, p) },
		"files":        func(n *yaml.Node, p string) { r.files(&c.Files, n, p) },
		"notify": func(n *yaml.Node, p string) {
			notify := true
			r.flag(&notify)(n, p)
			c.NotifyOff = !notify
		},
		"access": func(n *yaml.Node, p string) { r.access(&c.Access, n, p) },
		"audit":  func(n *yaml.Node, p string) { r.audit(&c.Audit, n, p) },
	})
}

func (r *configReader) awsProfiles(to *AWSProfilesConfig, n *yaml.Node, p string) {
	r.mapping(n, p, fields{
		"include": r.set(&to.Include, checkGlob),
		"exclude": r.set(&to.Exclude, checkGlob),
	})
}

func (r *configReader) sts(to *STSConfig, n *yaml.Node, p string) {
	var endpoints string
	seen, _ := r.mapping(n, p, fields{
		"region":           r.text(&to.Region, checkRegion),
		"fallback_regions": r.set(&to.FallbackRegions, checkRegion),
		// The most is the deadline of a whole mint.
		"timeout":            r.duration(&to.Timeout, 500*time.Millisecond, 10*time.Second),
		"fips":               r.flag(&to.FIPS),
		"dual_stack":         r.flag(&to.DualStack),
		"regional_endpoints": r.text(&endpoints, checkRegionalEndpoints),
		"endpoints": func(n *yaml.Node, p string) {
			r.entries(n, p, func(key, value *yaml.Node) {
				if err := checkRegion(key.Value); err != nil {
					r.fail(key, p, "%v", err)
				}
				at := join(p, key.Value)
				e := r.endpoint(value, at)
				to.Endpoints[key.Value] = e
				r.endpoints = append(r.endpoints, ref{value, at, e.URL})
			})
		},
	})
	to.Legacy = endpoints == "legacy"
	if len(to.FallbackRegions) == 0 {
		to.FallbackRegions = nil
		return
	}
	// Credentials of one partition, or of one store, mean nothing to another.
	first := cmp.Or(to.Region, to.FallbackRegions[0])
	for _, f := range to.FallbackRegions {
		at, path := seen["fallback_regions"], join(p, "fallback_regions")
		switch ours, its := awssts.PartitionOf(first), awssts.PartitionOf(f); {
		case f == to.Region:
			r.fail(at, path, "%s is sts.region itself; name the regions to try after it", f)
		case ours != its:
			r.fail(at, path, "%s is of the partition %s, and %s of %s; name regions of one partition", f, its, first, ours)
		case to.Endpoints[f].Compatible != to.Endpoints[first].Compatible:
			r.fail(at, path, "one of %s and %s is a compatible store and the other is AWS; name regions of one of them", f, first)
		}
	}
}

func (r *configReader) endpoint(n *yaml.Node, p string) (e EndpointConfig) {
	if n.Kind != yaml.MappingNode {
		r.text(&e.URL, awssts.CheckURL)(n, p)
		return e
	}
	seen, clean := r.mapping(n, p, fields{
		"url":        r.text(&e.URL, awssts.CheckURL),
		"compatible": r.flag(&e.Compatible),
	})
	r.need(seen, clean, n, p, "url")
	return e
}

func (r *configReader) keys(to map[string]KeyConfig, n *yaml.Node, p string) {
	r.entries(n, p, func(key, value *yaml.Node) {
		k := KeyConfig{Name: key.Value, Line: key.Line}
		at := join(p, key.Value)
		if err := checkKeyName(key.Value); err != nil {
			r.fail(key, p, "%v", err)
		}
		seen, clean := r.mapping(value, at, fields{
			"custody":   r.text(&k.Custody, checkCustody),
			"root_user": r.flag(&k.RootUser),
		})
		r.need(seen, clean, key, at, "custody")
		to[k.Name] = k
	})
}

func (r *configReader) profiles(to *[]ProfileConfig, n *yaml.Node, p string) {
	r.entries(n, p, func(key, value *yaml.Node) {
		if err := checkProfileName(key.Value); err != nil {
			r.fail(key, p, "%v", err)
		}
		*to = append(*to, r.profile(key, value, join(p, key.Value)))
	})
}

func (r *configReader) profile(key, n *yaml.Node, p string) ProfileConfig {
	c := ProfileConfig{Name: key.Value, Line: key.Line}
	known := fields{
		"session":      func(n *yaml.Node, p string) { c.Session = r.session(c.Name, n, p) },
		"role":         func(n *yaml.Node, p string) { c.Role = r.role(c.Name, n, p) },
		"web_identity": func(n *yaml.Node, p string) { c.WebIdentity = r.webIdentity(c.Name, n, p) },
		"saml":         func(n *yaml.Node, p string) { c.SAML = r.saml(c.Name, n, p) },
		"federation":   func(n *yaml.Node, p string) { c.Federation = r.federation(c.Name, n, p) },
		"root":         func(n *yaml.Node, p string) { c.Root = r.root(c.Name, n, p) },
		"delegated":    func(n *yaml.Node, p string) { c.Delegated = r.delegated(c.Name, n, p) },
		"process":      func(n *yaml.Node, p string) { c.Process = r.process(n, p) },
		"ambient": func(n *yaml.Node, p string) {
			faults := r.faults
			if r.flag(&c.Ambient)(n, p); !c.Ambient && r.faults == faults {
				r.fail(n, p, "false means nothing here; leave ambient out")
			}
		},
	}
	seen, clean := r.mapping(n, p, with(known, fields{
		"region":   r.text(&c.Region, checkRegion),
		"prefetch": r.flag(&c.Prefetch),
	}))
	var have []string
	for kind := range known {
		if seen[kind] != nil {
			have = append(have, kind)
		}
	}
	slices.SortFunc(have, func(a, b string) int {
		return cmp.Or(cmp.Compare(seen[a].Line, seen[b].Line), cmp.Compare(seen[a].Column, seen[b].Column))
	})
	switch {
	case len(have) > 1:
		r.fail(seen[have[1]], p, "%s and %s in one profile; a profile has one kind", have[0], have[1])
	case len(have) == 0 && clean:
		r.fail(key, p, "says no way to obtain credentials; give it one of %s", kinds)
	case c.Root != nil && c.Prefetch:
		r.fail(seen["prefetch"], join(p, "prefetch"), "a root session is minted for one exec alone, never ahead of it; leave prefetch out")
	}
	return c
}

func (r *configReader) session(profile string, n *yaml.Node, p string) *SessionConfig {
	var c SessionConfig
	faults := r.faults
	seen, clean := r.mapping(n, p, with(r.mfa(&c.MFA), fields{
		"key":      r.naming(&r.keyRefs, &c.Key, profile, notEmpty),
		"duration": r.credentialLife(&c.Duration, mostSession),
	}))
	r.needSerial(seen, faults, p, c.MFA)
	r.need(seen, clean, n, p, "key")
	r.later = append(r.later, func(w document) {
		if w.Keys[c.Key].RootUser || rootDevice(c.MFA.Serial) {
			r.rootUserLife(&c.Duration, seen, p)
		}
	})
	return &c
}

func (r *configReader) role(profile string, n *yaml.Node, p string) *RoleConfig {
	var c RoleConfig
	faults := r.faults
	seen, clean := r.mapping(n, p, with(r.mfa(&c.MFA), r.narrowing(&c.Policy, &c.PolicyARNs), r.signing(&c.Source, &c.Key, profile), fields{
		"arn":               r.naming(&r.arns, &c.ARN, profile, checkRoleARN),
		"duration":          r.credentialLife(&c.Duration, mostRole),
		"session_name":      r.text(&c.SessionName, checkSessionName),
		"external_id":       r.text(&c.ExternalID, checkExternalID),
		"source_identity":   r.text(&c.SourceIdentity, checkSourceIdentity),
		"tags":              r.tags(&c.Tags),
		"transitive_tags":   r.few(&c.TransitiveTags, mostTags, "tags", notEmpty),
		"provided_contexts": r.contexts(&c.Contexts),
	}))
	r.needSerial(seen, faults, p, c.MFA)
	r.need(seen, clean, n, p, "arn")
	r.needSigner(seen, clean, n, p)
	for _, t := range c.TransitiveTags {
		if _, ok := c.Tags[t]; !ok {
			r.fail(seen["transitive_tags"], join(p, "transitive_tags"), "%q is none of tags; give it there, with its value%s",
				t, didYouMean(t, slices.Sorted(maps.Keys(c.Tags))))
		}
	}
	if rootDevice(c.MFA.Serial) {
		r.fail(seen["mfa_serial"], join(p, "mfa_serial"), "this is the device of a root user, and the root user cannot assume roles; "+
			"give the serial of the IAM user's device")
	}
	r.later = append(r.later, func(w document) {
		if why := w.rootUser(c.Source, c.Key); why != "" {
			r.fail(cmp.Or(seen["key"], seen["source"], n), p, "%s, and the root user cannot assume roles; sign with the key of an IAM user, or with a role", why)
		}
		r.checkChain(w, &c, seen, p)
		r.checkKin(w, profile, "role", c.ARN, seen["policy_arns"], join(p, "policy_arns"), c.PolicyARNs...)
	})
	return &c
}

func (r *configReader) webIdentity(profile string, n *yaml.Node, p string) *WebIdentityConfig {
	var c WebIdentityConfig
	seen, clean := r.mapping(n, p, with(r.input(&c.Token, "token"), r.narrowing(&c.Policy, &c.PolicyARNs), fields{
		"arn":          r.naming(&r.arns, &c.ARN, profile, checkRoleARN),
		"duration":     r.credentialLife(&c.Duration, mostRole),
		"session_name": r.text(&c.SessionName, checkSessionName),
		"provider_id":  r.text(&c.ProviderID, checkProviderID),
	}))
	r.need(seen, clean, n, p, "arn")
	r.needInput(seen, clean, n, p, "token")
	r.later = append(r.later, func(w document) {
		if c.ProviderID != "" && !slices.Contains(oauthProviders, c.ProviderID) && !w.compatible(w.profile[profile].Region) {
			r.fail(seen["provider_id"], join(p, "provider_id"), "%q is no provider of OAuth 2.0 access tokens that STS knows, which are %s; "+
				"leave provider_id out for OpenID Connect", c.ProviderID, strings.Join(oauthProviders, " and "))
		}
		r.checkKin(w, profile, "role", c.ARN, seen["policy_arns"], join(p, "policy_arns"), c.PolicyARNs...)
	})
	return &c
}

func (r *configReader) saml(profile string, n *yaml.Node, p string) *SAMLConfig {
	var c SAMLConfig
	seen, clean := r.mapping(n, p, with(r.input(&c.Assertion, "assertion"), r.narrowing(&c.Policy, &c.PolicyARNs), fields{
		"arn":           r.naming(&r.arns, &c.ARN, profile, checkRoleARN),
		"principal_arn": r.text(&c.PrincipalARN, checkPrincipalARN),
		"duration":      r.credentialLife(&c.Duration, mostRole),
	}))
	r.needInput(seen, clean, n, p, "assertion")
	r.later = append(r.later, func(w document) {
		r.checkKin(w, profile, "role", c.ARN, seen["principal_arn"], join(p, "principal_arn"), c.PrincipalARN)
		r.checkKin(w, profile, "role", c.ARN, seen["policy_arns"], join(p, "policy_arns"), c.PolicyARNs...)
	})
	return &c
}

func (r *configReader) federation(profile string, n *yaml.Node, p string) *FederationConfig {
	var c FederationConfig
	faults := r.faults
	seen, clean := r.mapping(n, p, with(r.narrowing(&c.Policy, &c.PolicyARNs), fields{
		"key":      r.naming(&r.keyRefs, &c.Key, profile, notEmpty),
		"name":     r.text(&c.Name, checkFederatedName),
		"tags":     r.tags(&c.Tags),
		"duration": r.credentialLife(&c.Duration, mostFederation),
	}))
	if r.faults == faults && c.Policy == "" && len(c.PolicyARNs) == 0 {
		r.fail(n, p, "without policy and policy_arns such a session has no permissions at all; "+
			"give one of them: what it and the user's own policies both allow, the session may do")
	}
	r.need(seen, clean, n, p, "key", "name")
	r.later = append(r.later, func(w document) {
		if w.Keys[c.Key].RootUser {
			r.rootUserLife(&c.Duration, seen, p)
			r.warn(seen["key"], join(p, "key"), "%s is a root user's, and AWS advises against federation with it; sign with the key of an IAM user", c.Key)
		}
	})
	return &c
}

func (r *configReader) root(profile string, n *yaml.Node, p string) *RootConfig {
	var c RootConfig
	seen, clean := r.mapping(n, p, with(r.signing(&c.Source, &c.Key, profile), fields{
		"target":          r.text(&c.Target, checkTarget),
		"task_policy_arn": r.taskPolicy(&c.TaskPolicyARN),
		"duration": func(n *yaml.Node, p string) {
			faults := r.faults
			if r.duration(&c.Duration, 0, mostRoot)(n, p); c.Duration == 0 && r.faults == faults {
				r.warn(n, p, "0 is STS's default, %s; write the time that the task needs, such as 5m", short(mostRoot))
			}
		},
	}))
	r.need(seen, clean, n, p, "target", "task_policy_arn")
	r.needSigner(seen, clean, n, p)
	r.later = append(r.later, func(w document) {
		if w.STS.Legacy {
			r.fail(n, p, "AssumeRoot exists at regional endpoints only; leave regional_endpoints: legacy out of sts")
		}
		if why := w.rootUser(c.Source, c.Key); why != "" && c.Key != "" {
			r.fail(seen["key"], p, "%s, and the root user cannot call AssumeRoot; sign with the key of an IAM user, or with a role", why)
		}
		r.checkKin(w, profile, "target", c.Target, seen["task_policy_arn"], join(p, "task_policy_arn"), c.TaskPolicyARN)
	})
	return &c
}

func (r *configReader) delegated(profile string, n *yaml.Node, p string) *DelegatedConfig {
	var c DelegatedConfig
	seen, clean := r.mapping(n, p, with(r.signing(&c.Source, &c.Key, profile), r.input(&c.Token, "token")))
	r.needSigner(seen, clean, n, p)
	r.needInput(seen, clean, n, p, "token")
	return &c
}

func (r *configReader) process(n *yaml.Node, p string) *ProcessConfig {
	var c ProcessConfig
	seen, clean := r.mapping(n, p, fields{"command": r.command(&c.Command)})
	r.need(seen, clean, n, p, "command")
	return &c
}

// What several kinds have in common. The methods for keys return what reads
// them, those that begin with need say what is missing afterwards.

// with puts tables of keys together.
func with(tables ...fields) fields {
	all := fields{}
	for _, t := range tables {
		maps.Copy(all, t)
	}
	return all
}

// signing is who signs: a profile or a key.
func (r *configReader) signing(source, key *string, profile string) fields {
	return fields{
		"source": r.naming(&r.sourceRefs, source, profile, notEmpty),
		"key":    r.naming(&r.keyRefs, key, profile, notEmpty),
	}
}

func (r *configReader) needSigner(seen map[string]*yaml.Node, clean bool, n *yaml.Node, p string) {
	switch {
	case seen["source"] != nil && seen["key"] != nil:
		r.fail(seen["key"], p, "source and key; give one: a profile whose credentials sign, or a long-term key")
	case seen["source"] == nil && seen["key"] == nil && clean:
		r.fail(n, p, "nothing to sign with; give source: PROFILE or key: NAME")
	}
}

// mfa is the device and where its code comes from.
func (r *configReader) mfa(to *MFAConfig) fields {
	return fields{
		"mfa_serial": r.text(&to.Serial, optional(checkSerial)),
		"mfa_process": func(n *yaml.Node, p string) {
			if n.Kind != yaml.SequenceNode || len(n.Content) > 0 { // [] is none
				r.command(&to.Process)(n, p)
			}
		},
		"mfa_seed": func(n *yaml.Node, p string) {
			var c SeedConfig
			seen, clean := r.mapping(n, p, fields{
				"file":          r.text(&c.File, checkAbsolute),
				"identity_file": r.text(&c.IdentityFile, checkAbsolute),
			})
			r.need(seen, clean, n, p, "file", "identity_file")
			to.Seed = &c
		},
	}
}

// needSerial is quiet where the mapping had a fault since there were so many: it
// may be the serial's.
func (r *configReader) needSerial(seen map[string]*yaml.Node, faults int, p string, c MFAConfig) {
	switch {
	case r.faults != faults:
	case len(c.Process) > 0 && c.Seed != nil:
		r.fail(seen["mfa_seed"], join(p, "mfa_seed"), "mfa_process and mfa_seed; give one")
	case c.Serial != "":
	case c.Seed != nil:
		r.fail(seen["mfa_seed"], join(p, "mfa_seed"), "codes without a device; give mfa_serial too")
	case len(c.Process) > 0:
		r.fail(seen["mfa_process"], join(p, "mfa_process"), "a code without a device; give mfa_serial too")
	}
}

// input is a secret input: KIND_file or KIND_command.
func (r *configReader) input(to *InputConfig, kind string) fields {
	return fields{kind + "_file": r.text(&to.File, checkAbsolute), kind + "_command": r.command(&to.Command)}
}

func (r *configReader) needInput(seen map[string]*yaml.Node, clean bool, n *yaml.Node, p, kind string) {
	file, command := kind+"_file", kind+"_command"
	switch {
	case seen[file] != nil && seen[command] != nil:
		r.fail(seen[command], p, "%s and %s; give one", file, command)
	case seen[file] == nil && seen[command] == nil && clean:
		r.fail(n, p, "%s or %s is missing", file, command)
	}
}

// narrowing is the session policies: what the session may do at most.
func (r *configReader) narrowing(policy *string, arns *[]string) fields {
	return fields{
		"policy":      r.policy(policy),
		"policy_arns": r.few(arns, mostPolicyARNs, "policy ARNs", checkPolicyARN),
	}
}

func (r *configReader) contexts(to *[]ContextConfig) reads {
	return func(n *yaml.Node, p string) {
		if !r.sequence(n, p) {
			return
		}
		for i, item := range n.Content {
			var c ContextConfig
			at := fmt.Sprintf("%s[%d]", p, i)
			seen, clean := r.mapping(item, at, with(r.input(&c.Assertion, "assertion"), fields{
				"provider_arn": r.text(&c.ProviderARN, checkContextARN),
			}))
			r.need(seen, clean, item, at, "provider_arn")
			r.needInput(seen, clean, item, at, "assertion")
			*to = append(*to, c)
		}
		if len(*to) > mostContexts {
			r.fail(n, p, "%d contexts; STS takes %d at most", len(*to), mostContexts)
		}
	}
}

// tags reads session tags. Keys that differ in case alone are one to STS.
func (r *configReader) tags(to *map[string]string) reads {
	return func(n *yaml.Node, p string) {
		tags := map[string]string{}
		r.entries(n, p, func(key, value *yaml.Node) {
			at := join(p, key.Value)
			if err := checkTagKey(key.Value); err != nil {
				r.fail(key, p, "%v", err)
			}
			for k := range tags {
				if strings.EqualFold(k, key.Value) {
					r.fail(key, at, "differs from %q in case alone, which STS does not tell apart; give one", k)
				}
			}
			var v string
			r.text(&v, checkTagValue)(value, at)
			tags[key.Value] = v
		})
		if len(tags) > mostTags {
			r.fail(n, p, "%d tags; STS takes %d at most", len(tags), mostTags)
		}
		if len(tags) > 0 {
			*to = tags
		}
	}
}

// taskPolicy reads what a root session is for. AWS may add to the names.
func (r *configReader) taskPolicy(to *string) reads {
	return func(n *yaml.Node, p string) {
		r.text(to, checkTaskPolicy)(n, p)
		if _, name, ok := strings.Cut(*to, ":policy/root-task/"); ok && !slices.Contains(rootTasks, name) {
			r.warn(n, p, "%s is no task that this version knows%s; known are %s", name, didYouMean(name, rootTasks), strings.Join(rootTasks, ", "))
		}
	}
}

// command reads a program and its arguments.
func (r *configReader) command(to *[]string) reads {
	return func(n *yaml.Node, p string) {
		faults := r.faults
		r.list(to, noNUL)(n, p)
		if r.faults == faults && (len(*to) == 0 || (*to)[0] == "") {
			r.fail(n, p, "names no program; write [PROGRAM, ARGUMENT…]")
		}
	}
}

// few reads a set that STS bounds. An empty one is none.
func (r *configReader) few(to *[]string, most int, what string, check func(string) error) reads {
	return func(n *yaml.Node, p string) {
		r.set(to, check)(n, p)
		if len(*to) > most {
			r.fail(n, p, "%d %s; STS takes %d at most", len(*to), what, most)
		}
		if len(*to) == 0 {
			*to = nil
		}
	}
}

// naming reads a text that crossCheck looks at again, among the others in refs.
func (r *configReader) naming(refs *[]located, to *string, profile string, check func(string) error) reads {
	return func(n *yaml.Node, p string) {
		if r.text(to, check)(n, p); *to != "" {
			*refs = append(*refs, located{ref{n, p, *to}, profile})
		}
	}
}

func (r *configReader) credentialLife(to *time.Duration, most time.Duration) reads {
	return func(n *yaml.Node, p string) {
		if r.duration(to, leastDuration, most)(n, p); *to > 0 && *to < advisedDuration {
			r.warn(n, p, "%s is short: below an hour, some SDKs ask again before every call", short(*to))
		}
	}
}

// rootUserLife holds a mint that a root user signs to what STS grants then.
func (r *configReader) rootUserLife(d *time.Duration, seen map[string]*yaml.Node, p string) {
	if *d > mostOfRootUser {
		r.fail(seen["duration"], join(p, "duration"), "%s is out of range: %s to %s for a root user", short(*d), short(leastDuration), short(mostOfRootUser))
	}
	*d = cmp.Or(*d, mostOfRootUser)
}

// need reports keys that a mapping must have. Where it holds a key that is
// unknown, that one is probably the misspelt one and was reported.
func (r *configReader) need(seen map[string]*yaml.Node, clean bool, n *yaml.Node, p string, keys ...string) {
	for _, k := range keys {
		if seen[k] == nil && clean {
			r.fail(n, p, "%s is missing", k)
		}
	}
}
