package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/stsbroker/stsbroker/broker/custody"
)

// Durations that STS grants: GetSessionToken and AssumeRole of the AWS STS API
// reference. A role over temporary credentials gets an hour at most.
const (
	leastDuration   = 15 * time.Minute
	mostSession     = 36 * time.Hour
	mostRole        = 12 * time.Hour
	mostChained     = time.Hour
	advisedDuration = time.Hour // below it, some SDKs ask again at every call
)

// config reads the whole document.
func (r *configReader) config(c *Config, root *yaml.Node) {
	r.mapping(root, "", map[string]reads{
		"listen":       func(n *yaml.Node, p string) { r.listen(&c.Listen, n, p) },
		"aws_profiles": func(n *yaml.Node, p string) { r.awsProfiles(&c.AWSProfiles, n, p) },
		"sts":          func(n *yaml.Node, p string) { r.sts(&c.STS, n, p) },
		"keys":         func(n *yaml.Node, p string) { r.keys(c.Keys, n, p) },
		"profiles":     func(n *yaml.Node, p string) { r.profiles(&c.Profiles, n, p) },
	}, "access", "audit")
}

func (r *configReader) listen(to *ListenConfig, n *yaml.Node, p string) {
	seen, _ := r.mapping(n, p, map[string]reads{
		"container": r.set(&to.Container, checkListen),
		"metrics":   r.text(&to.Metrics, optional(checkListen)),
		"control":   r.text(&to.Control, optional(checkSocket)),
	}, "imds")
	to.MetricsGiven = seen["metrics"] != nil
	if to.Metrics != "" && slices.Contains(to.Container, to.Metrics) {
		r.fail(seen["metrics"], join(p, "metrics"), "%s is an address of the container endpoint too; take another port", to.Metrics)
	}
}

func (r *configReader) awsProfiles(to *AWSProfilesConfig, n *yaml.Node, p string) {
	r.mapping(n, p, map[string]reads{
		"include": r.set(&to.Include, checkGlob),
		"exclude": r.set(&to.Exclude, checkGlob),
	})
}

func (r *configReader) sts(to *STSConfig, n *yaml.Node, p string) {
	r.mapping(n, p, map[string]reads{
		"region": r.text(&to.Region, checkRegion),
		// The most is the deadline of a whole mint.
		"timeout": r.duration(&to.Timeout, 500*time.Millisecond, 10*time.Second),
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
	}, "fallback_regions")
}

func (r *configReader) endpoint(n *yaml.Node, p string) (e EndpointConfig) {
	if n.Kind != yaml.MappingNode {
		r.text(&e.URL, checkEndpoint)(n, p)
		return e
	}
	seen, clean := r.mapping(n, p, map[string]reads{
		"url":        r.text(&e.URL, checkEndpoint),
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
		seen, clean := r.mapping(value, at, map[string]reads{"custody": r.text(&k.Custody, checkCustody)})
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
	kinds := map[string]reads{
		"session":      func(n *yaml.Node, p string) { c.Session = r.session(c.Name, n, p) },
		"role":         func(n *yaml.Node, p string) { c.Role = r.role(c.Name, n, p) },
		"web_identity": func(n *yaml.Node, p string) { c.WebIdentity = r.webIdentity(c.Name, n, p) },
		"process":      func(n *yaml.Node, p string) { c.Process = r.process(n, p) },
	}
	fields := maps.Clone(kinds)
	fields["region"] = r.text(&c.Region, checkRegion)
	fields["prefetch"] = r.flag(&c.Prefetch)
	seen, clean := r.mapping(n, p, fields, "saml", "federation", "root", "ambient")

	var have []string
	for kind := range kinds {
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
		r.fail(key, p, "says no way to obtain credentials; give it one of session, role, web_identity, process")
	}
	return c
}

func (r *configReader) session(profile string, n *yaml.Node, p string) *SessionConfig {
	var c SessionConfig
	seen, clean := r.mapping(n, p, map[string]reads{
		"key":      r.naming(&r.keyRefs, &c.Key, profile, notEmpty),
		"duration": r.credentialLife(&c.Duration, mostSession),
	}, "mfa_serial", "mfa_process")
	r.need(seen, clean, n, p, "key")
	return &c
}

func (r *configReader) role(profile string, n *yaml.Node, p string) *RoleConfig {
	var c RoleConfig
	seen, clean := r.mapping(n, p, map[string]reads{
		"arn":          r.naming(&r.arns, &c.ARN, profile, checkRoleARN),
		"key":          r.naming(&r.keyRefs, &c.Key, profile, notEmpty),
		"source":       r.naming(&r.sourceRefs, &c.Source, profile, notEmpty),
		"duration":     r.credentialLife(&c.Duration, mostRole),
		"session_name": r.text(&c.SessionName, checkSessionName),
		"external_id":  r.text(&c.ExternalID, checkExternalID),
	}, "mfa_serial", "mfa_process", "source_identity", "tags", "transitive_tags", "policy", "policy_arns", "provided_contexts")
	r.need(seen, clean, n, p, "arn")
	switch {
	case seen["source"] != nil && seen["key"] != nil:
		r.fail(seen["key"], p, "source and key; give one: a profile to take the role from, or a long-term key")
	case seen["source"] == nil && seen["key"] == nil && clean:
		r.fail(n, p, "nothing to sign with; give source: PROFILE or key: NAME")
	}
	return &c
}

func (r *configReader) webIdentity(profile string, n *yaml.Node, p string) *WebIdentityConfig {
	var c WebIdentityConfig
	seen, clean := r.mapping(n, p, map[string]reads{
		"arn":          r.naming(&r.arns, &c.ARN, profile, checkRoleARN),
		"token_file":   r.text(&c.TokenFile, checkAbsolute),
		"duration":     r.credentialLife(&c.Duration, mostRole),
		"session_name": r.text(&c.SessionName, checkSessionName),
	}, "token_command", "policy", "policy_arns")
	r.need(seen, clean, n, p, "arn", "token_file")
	return &c
}

func (r *configReader) process(n *yaml.Node, p string) *ProcessConfig {
	var c ProcessConfig
	seen, clean := r.mapping(n, p, map[string]reads{
		"command": func(n *yaml.Node, p string) {
			before := len(r.findings)
			r.list(&c.Command, noNUL)(n, p)
			if len(r.findings) == before && (len(c.Command) == 0 || c.Command[0] == "") {
				r.fail(n, p, "names no program; write [PROGRAM, ARGUMENT…]")
			}
		},
	})
	r.need(seen, clean, n, p, "command")
	return &c
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

// need reports keys that a mapping must have. Where it holds a key that is
// unknown, that one is probably the misspelt one and was reported.
func (r *configReader) need(seen map[string]*yaml.Node, clean bool, n *yaml.Node, p string, keys ...string) {
	for _, k := range keys {
		if seen[k] == nil && clean {
			r.fail(n, p, "%s is missing", k)
		}
	}
}

// crossCheck looks at what names something else in the document.
func (r *configReader) crossCheck(c *Config) {
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
	byName := map[string]*ProfileConfig{}
	for i := range c.Profiles {
		byName[c.Profiles[i].Name] = &c.Profiles[i]
	}
	next := map[string]located{}
	for _, s := range r.sourceRefs {
		next[s.profile] = s
	}
	for _, s := range r.sourceRefs {
		source := byName[s.name]
		if source == nil {
			c.sources = append(c.sources, s.ref)
			continue
		}
		if d := byName[s.profile].Role; source.Session == nil && d != nil && d.Duration > mostChained {
			r.warn(s.node, s.path, "%s holds temporary credentials, with which STS grants a role 1h at most; duration %s will be 1h", s.name, short(d.Duration))
		}
		if loop := loopFrom(s.profile, next); loop != nil && slices.Min(loop) == s.profile {
			r.fail(s.node, s.path, "the sources run in a loop: %s; name a key somewhere in it", strings.Join(append(loop, s.profile), " → "))
		}
	}
	for _, a := range r.arns {
		if !c.compatible(byName[a.profile].Region) && !awsRoleARN.MatchString(a.name) {
			r.fail(a.node, a.path, "%q is not the ARN of a role of AWS: arn:aws:iam::ACCOUNT:role/NAME with an account of 12 digits; "+
				"for another store, set compatible: true at sts.endpoints", a.name)
		}
	}
	for _, e := range r.endpoints {
		ours := append(slices.Clone(c.Listen.Container), c.Listen.Metrics)
		if slices.ContainsFunc(ours, func(l string) bool { return sameAddress(e.name, l) }) {
			r.fail(e.node, e.path, "%s is where stsbroker itself listens; give the address of an STS", e.name)
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

// Checks of one value. They return what is wrong and what to write instead.

func notEmpty(s string) error {
	if s == "" {
		return errors.New("is empty")
	}
	return nil
}

func noNUL(s string) error {
	if strings.ContainsRune(s, 0) {
		return errors.New("holds a NUL")
	}
	return nil
}

func optional(check func(string) error) func(string) error {
	return func(s string) error {
		if s == "" {
			return nil
		}
		return check(s)
	}
}

func checkListen(s string) error {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		if _, port, e := net.SplitHostPort(s); e == nil && port != "" {
			return fmt.Errorf("%q is not IP:PORT; did you mean %q?", s, "127.0.0.1:"+port)
		}
		return fmt.Errorf("%q is not IP:PORT; write it as 127.0.0.1:9170 or \"[::1]:9170\"", s)
	}
	if ip := a.Addr(); !ip.IsLoopback() || ip.Zone() != "" || ip.Is4In6() {
		return fmt.Errorf("%s is not a loopback address, and credentials are served to this host only; write 127.0.0.1:%d or \"[::1]:%d\"", s, a.Port(), a.Port())
	}
	return nil
}

// checkSocket knows the shortest sun_path of the systems served: 104 bytes with
// the final NUL, of macOS.
func checkSocket(s string) error {
	if err := checkAbsolute(s); err != nil {
		return err
	}
	if len(s) > 103 {
		return fmt.Errorf("is %d bytes long; the path of a socket has 103 at most", len(s))
	}
	return nil
}

func checkAbsolute(s string) error {
	switch {
	case strings.ContainsRune(s, 0):
		return errors.New("holds a NUL")
	case !filepath.IsAbs(s):
		return fmt.Errorf("%q is not an absolute path; write it from / on", s)
	}
	return nil
}

func checkGlob(s string) error {
	if _, err := path.Match(s, ""); err != nil || s == "" {
		return fmt.Errorf("%q is not a pattern; * is any text, ? one character, [ab] one of these", s)
	}
	return nil
}

var (
	regionShape   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`) // a label of a host name: STS's address is made of it
	profileShape  = regexp.MustCompile(`^[A-Za-z0-9+=,.@_-]+$`)           // what a path segment and the metadata service's role list can hold
	roleARN       = regexp.MustCompile(`^arn:[a-z0-9-]+:iam:[^:]*:[^:]*:role/[\w+=,.@/-]+$`)
	awsRoleARN    = regexp.MustCompile(`^arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+$`)
	placeholder   = regexp.MustCompile(`\{\{\.(User|Host)\}\}`)
	sessionShape  = regexp.MustCompile(`^[\w+=,.@-]*$`)   // AssumeRole, RoleSessionName
	externalShape = regexp.MustCompile(`^[\w+=,.@:/-]*$`) // AssumeRole, ExternalId
)

func checkRegion(s string) error {
	if len(s) > 63 || !regionShape.MatchString(s) {
		return fmt.Errorf("%q is not the name of a region, such as eu-central-1", s)
	}
	return nil
}

func checkProfileName(s string) error {
	if len(s) > 128 || !profileShape.MatchString(s) || s == "." || s == ".." {
		return fmt.Errorf("%q is not a name for a profile: letters, digits and + = , . @ _ -, 128 at most", s)
	}
	return nil
}

func checkKeyName(s string) error {
	if !custody.ValidName(s) {
		return fmt.Errorf("%q is not a name for a key", s)
	}
	return nil
}

func checkCustody(s string) error {
	switch s {
	case custodyFile, custodyEnv:
		return nil
	case "sealed", "keyring", "systemd":
		return fmt.Errorf("%s is known, but not supported by this version; file and env are", s)
	}
	return fmt.Errorf("%q is no custody: file or env%s", s, didYouMean(s, []string{custodyFile, custodyEnv}))
}

func checkRoleARN(s string) error {
	if len(s) > 2048 || !roleARN.MatchString(s) {
		return fmt.Errorf("%q is not the ARN of a role; write it as arn:aws:iam::123456789012:role/NAME", s)
	}
	return nil
}

func checkSessionName(s string) error {
	literal := placeholder.ReplaceAllString(s, "")
	switch {
	case strings.Contains(literal, "{{") || strings.Contains(literal, "}}"):
		return fmt.Errorf("%q: only {{.User}} and {{.Host}} can be filled in", s)
	case !sessionShape.MatchString(literal):
		return fmt.Errorf("%q: STS takes letters, digits and _ + = , . @ - here", s)
	case literal == s && (len(s) < 2 || len(s) > 64), len(literal) > 64:
		return fmt.Errorf("%q: STS takes 2 to 64 characters here", s)
	}
	return nil
}

// checkExternalID does not repeat the value: some treat it as a secret.
func checkExternalID(s string) error {
	if len(s) < 2 || len(s) > 1224 || !externalShape.MatchString(s) {
		return errors.New("not an external id: 2 to 1224 letters, digits and _ + = , . @ : / -")
	}
	return nil
}

// checkEndpoint does not repeat a URL that may hold a password.
func checkEndpoint(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
		return errors.New("not the address of an STS; write it as https://HOST or https://HOST:PORT")
	case u.User != nil:
		return errors.New("holds a user name; STS calls are signed, leave it away")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return errors.New("holds a query or a fragment; leave it away")
	case u.Scheme == "http" && !loopbackHost(u.Hostname()):
		return fmt.Errorf("http is allowed to loopback only; write https://%s", u.Host)
	}
	return nil
}

func loopbackHost(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// sameAddress reports whether the URL leads to the listener at address.
func sameAddress(rawURL, address string) bool {
	u, err := url.Parse(rawURL)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return false
	}
	port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	return port == fmt.Sprint(a.Port()) && (u.Hostname() == "localhost" || u.Hostname() == a.Addr().String())
}
