package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/ambient"
	"github.com/stsbroker/stsbroker/broker/awsconfig"
	"github.com/stsbroker/stsbroker/broker/awssts"
	"github.com/stsbroker/stsbroker/broker/custody"
	"github.com/stsbroker/stsbroker/broker/login"
	"github.com/stsbroker/stsbroker/broker/process"
	"github.com/stsbroker/stsbroker/internal/seal"
)

// catalog is everything the configuration and the AWS files define, as the
// broker takes it.
type catalog struct {
	profiles []broker.Profile
	keys     custody.Set
	findings []Finding                // of both, in words for check and serve
	files    []string                 // that were looked for
	settings map[string]error         // AWS profiles that only hold settings: what to tell who asks for one
	sites    map[string]awssts.Site   // by profile: where its calls of STS go
	sessions map[string]string        // profiles that are a session of a key without MFA: the key
	signIns  map[string]login.Session // by profile: what a person signs in to for it
	region   string                   // where STS is asked when no profile says
	roles    map[string][]string      // profiles, by the ARN of the role that they are configured for
	inputs   map[string][]string      // profiles, by the path of a file whose token or assertion mints them
}

// shown is a profile by the name that a person can log in to: its own, or that of one
// over it where it only feeds others; "" for none.
func (c catalog) shown(profile string) string {
	for range c.profiles {
		i := slices.IndexFunc(c.profiles, func(p broker.Profile) bool { return p.Name == profile })
		if i < 0 || !c.profiles[i].Hidden {
			return profile
		}
		over := slices.IndexFunc(c.profiles, func(p broker.Profile) bool { return p.Parent.Profile == profile })
		if over < 0 {
			return ""
		}
		profile = c.profiles[over].Name
	}
	return ""
}

// cataloguer turns definitions into minters. It calls nobody.
type cataloguer struct {
	place
	cfg   *Config
	aws   *awsconfig.Config
	files awsconfig.Files
	sts   *awssts.STS
	kept  *custody.Kept
	held  []custody.Info // what kept has now
	login *login.Manager
	self  string           // this executable
	own   []netip.AddrPort // of our listeners

	opensState func(seal.Identity) bool // whether it is the one that sealed state opens for

	embedded bool // for one command
	out      catalog

	seeds map[SeedConfig]*custody.SeedSource // those from before a reload go on: they know which codes are used up

	aliases map[string]string // by profile: which one its credential_process asks us for
}

func (c *cataloguer) build() catalog {
	c.out = catalog{keys: custody.Set{}, settings: map[string]error{}, sites: map[string]awssts.Site{}, sessions: map[string]string{}, signIns: map[string]login.Session{}, region: c.region(""), roles: map[string][]string{}, inputs: map[string][]string{}}
	c.aliases = map[string]string{}
	if c.seeds == nil {
		c.seeds = map[SeedConfig]*custody.SeedSource{}
	}
	for _, k := range c.cfg.Keys {
		switch k.Custody {
		case custodySealed, custodyKeyring:
			c.out.keys[k.Name] = c.kept.Source(k.Name)
		case custodySystemd:
			c.out.keys[k.Name] = custody.Systemd(c.credentials, k.Name)
		case custodyEnv:
			c.out.keys[k.Name] = custody.Env(c.getenv)
			if c.system {
				c.note(c.cfg.File, k.Line, SeverityError, "key %s: custody env is not for the system service, which takes no credential from the environment", k.Name)
			}
		default:
			c.out.keys[k.Name] = custody.File(c.files.Credentials, k.Name)
		}
		if _, err := c.out.keys.Key(context.Background(), k.Name); err != nil && broker.AsError(err).Kind != broker.KindLocked {
			c.note(c.cfg.File, k.Line, SeverityWarning, "key %s cannot be had now: %v", k.Name, err)
		}
	}
	for _, f := range []string{c.cfg.File, c.files.Config, c.files.Credentials} {
		if f != "" {
			c.out.files = append(c.out.files, f)
		}
	}
	c.surroundings()
	for _, p := range c.aws.Profiles {
		if target, ok := c.askedOfUs(p); ok {
			c.aliases[p.Name] = target
		}
	}
	mine := map[string]bool{}
	for _, p := range c.cfg.Profiles {
		mine[p.Name] = true
		c.add(c.fromConfig(p))
	}
	for _, f := range c.aws.Faults {
		c.note(f.File, f.Line, SeverityWarning, "%s", f.Message)
	}
	for _, p := range c.aws.Settings {
		if !mine[p.Name] {
			c.out.settings[p.Name] = p.Unservable
		}
	}
	for _, p := range c.aws.Profiles {
		if p.Session != nil || p.Role != nil && p.Role.Source.Key != "" {
			c.addKey(p)
		}
		if mine[p.Name] {
			if target, ok := c.askedOfUs(p); ok && target == p.Name {
				continue // the lines that env prints for it
			}
			c.note(c.cfg.File, 0, SeverityWarning, "profile %s is also at %s; the one here counts", p.Name, p.Origin)
			continue
		}
		c.add(c.fromAWS(p))
	}
	c.signers()
	c.signedIn()
	c.resolveAliases()
	c.checkNamed()
	c.checkAddresses()
	if !c.embedded { // that one writes no files
		c.checkFiles()
	}
	if warning := custody.Exposed(c.files.Credentials); warning != "" {
		c.note(c.files.Credentials, 0, SeverityWarning, "%s", warning)
	}
	return c.out
}

// signers notes which keys there are behind the names, as far as they can be had now.
// What was minted with one is not another's, over a restart with other files either.
func (c *cataloguer) signers() {
	ids := map[string]string{}
	for i := range c.out.profiles {
		name := c.out.profiles[i].Parent.Key
		if name == "" {
			continue
		}
		id, known := ids[name]
		if !known {
			if i, kept := heldKey(c.cfg, c.held, name); kept {
				id = i.Lineage // it stays the same when the key is rotated
			} else if m, err := c.out.keys.Key(context.Background(), name); err == nil {
				id = m.AccessKeyID
			}
			ids[name] = id
		}
		c.out.profiles[i].Signer = id
	}
}

// heldKey is the key of that name in the catalogue, where it is in our custody.
func heldKey(cfg *Config, held []custody.Info, name string) (custody.Info, bool) {
	profile, ofProfile := strings.CutPrefix(name, custody.ProfileKey(""))
	if where := cfg.Keys[name].Custody; !ofProfile && where != custodySealed && where != custodyKeyring {
		return custody.Info{}, false
	}
	i := slices.IndexFunc(held, func(i custody.Info) bool { return ofProfile && i.Profile == profile || !ofProfile && i.Name == name })
	if i < 0 {
		return custody.Info{}, false
	}
	return held[i], true
}

// note adds a finding; line is 0 for the file as a whole.
func (c *cataloguer) note(file string, line int, s Severity, format string, args ...any) {
	c.out.findings = append(c.out.findings, Finding{File: file, Line: line, Severity: s, Text: fmt.Sprintf(format, args...)})
}

// surroundings notes what concerns no single profile.
func (c *cataloguer) surroundings() {
	if r := c.cfg.STS.Region; c.unknown(r) {
		c.note(c.cfg.File, 0, SeverityWarning, "sts.region: %s", noRegion(r))
	}
	for _, r := range c.cfg.STS.FallbackRegions {
		if c.unknown(r) {
			c.note(c.cfg.File, 0, SeverityWarning, "sts.fallback_regions: %s", noRegion(r))
		}
	}
	ignored := strings.EqualFold(c.getenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"), "true") // SDKs do not look at it either
	if c.getenv("AWS_ENDPOINT_URL") != "" && c.getenv(varEndpointURL) == "" && !ignored {
		c.note("environment", 0, SeverityWarning, "AWS_ENDPOINT_URL is set and not used here; set %s if STS is meant too", varEndpointURL)
	}
}

// unknown reports whether a region is one that calls of STS go to at AWS, and has
// no name of AWS's making.
func (c *cataloguer) unknown(region string) bool {
	return region != "" && !awsRegion().MatchString(region) && c.cfg.STS.Endpoints[region].URL == "" && c.getenv(varEndpointURL) == ""
}

func noRegion(r string) string {
	return "not the name of a region that AWS has: " + r + "; correct it, or give its address at sts.endpoints"
}

func (c *cataloguer) add(p broker.Profile) {
	if p.Unservable == nil && p.Minter == nil {
		p.Unservable = fmt.Errorf("%s: it says nothing of how to obtain credentials", p.Origin)
	}
	if _, known := c.out.sites[p.Name]; !known { // it mints elsewhere, and may still ask STS who it is
		if at, err := c.site(p.Region, awsconfig.Endpoint{}); err == nil {
			c.out.sites[p.Name] = at
		}
	}
	if at := c.out.sites[p.Name]; p.Unservable == nil && at.URL == "" && at.Region != c.cfg.STS.Region && c.unknown(at.Region) {
		p.Notes = append(p.Notes, noRegion(at.Region))
	}
	c.out.profiles = append(c.out.profiles, p)
}

// addKey puts the long-term key of an AWS profile in custody.
func (c *cataloguer) addKey(p awsconfig.Profile) {
	name := p.Name
	if p.Role != nil {
		name = p.Role.Source.Key
	}
	stands, kept := custody.Profile(c.files.Config, c.files.Credentials, name), c.kept
	c.out.keys[custody.ProfileKey(name)] = func(ctx context.Context) (broker.Material, error) {
		if i, ok := kept.ForProfile(name); ok { // looked for each time: it may have been imported since
			return kept.Source(i.Name)(ctx)
		}
		return stands(ctx)
	}
}

// region is what the profile says, else the environment, else the
// configuration, else the default profile.
func (c *cataloguer) region(own string) string {
	for _, r := range []string{own, c.getenv("AWS_REGION"), c.cfg.STS.Region, c.aws.DefaultRegion} {
		if r != "" {
			return r
		}
	}
	return ""
}

func (c *cataloguer) fromConfig(p ProfileConfig) broker.Profile {
	d := c.draft(broker.Profile{Name: p.Name, Region: p.Region, Prefetch: p.Prefetch, Origin: fmt.Sprintf("%s:%d", c.cfg.File, p.Line)}, awsconfig.Endpoint{})
	d.line = p.Line
	switch {
	case p.Session != nil:
		s := p.Session
		d.session(s.Key, awssts.Session{MFA: d.mfa(s.MFA), Duration: s.Duration})
	case p.Role != nil:
		r := p.Role
		m := awssts.Role{
			ARN: r.ARN, SessionName: r.SessionName, ExternalID: r.ExternalID, SourceIdentity: r.SourceIdentity, Policy: r.Policy, PolicyARNs: r.PolicyARNs,
			Tags: r.Tags, TransitiveTags: r.TransitiveTags, MFA: d.mfa(r.MFA), Duration: r.Duration,
		}
		for _, x := range r.Contexts {
			m.Contexts = append(m.Contexts, awssts.Context{ProviderARN: x.ProviderARN, Assertion: d.input("context assertion", x.Assertion)})
		}
		d.role(m, c.signer(broker.Ref{Key: r.Key, Profile: r.Source}))
	case p.WebIdentity != nil:
		w := p.WebIdentity
		d.webIdentity(awssts.WebIdentity{
			ARN: w.ARN, SessionName: w.SessionName, ProviderID: w.ProviderID, Policy: w.Policy, PolicyARNs: w.PolicyARNs,
			Token: d.input("web identity token", w.Token), Duration: w.Duration,
		})
	case p.SAML != nil:
		m := awssts.SAML{
			ARN: p.SAML.ARN, PrincipalARN: p.SAML.PrincipalARN, Policy: p.SAML.Policy, PolicyARNs: p.SAML.PolicyARNs,
			Assertion: d.input("SAML assertion", p.SAML.Assertion), Duration: p.SAML.Duration,
		}
		d.mint("AssumeRoleWithSAML", broker.Ref{}, cmp.Or(awssts.AccountOf(m.ARN), "saml "+p.Name), cmp.Or(m.ARN, m.PrincipalARN), func(at awssts.Site) broker.Minter { m.Site = at; return c.sts.SAML(m) })
		d.ofRole(m.ARN)
		d.shortNote(m.Duration)
	case p.Federation != nil:
		f := p.Federation
		m := awssts.Federation{Name: f.Name, Policy: f.Policy, PolicyARNs: f.PolicyARNs, Tags: f.Tags, Duration: f.Duration}
		d.mint("GetFederationToken", broker.Ref{Key: f.Key}, "key "+f.Key, "", func(at awssts.Site) broker.Minter { m.Site = at; return c.sts.Federation(m) })
		d.out.Notes = append(d.out.Notes, "the session of a federated user cannot call IAM, and of STS only GetCallerIdentity")
	case p.Root != nil:
		m := awssts.Root{Target: p.Root.Target, TaskPolicyARN: p.Root.TaskPolicyARN, Duration: p.Root.Duration}
		d.out.Once = true
		account := cmp.Or(awssts.AccountOf(m.Target), m.Target)
		// The target may be digits, which are of no partition; the policy's ARN always is of one.
		d.mint("AssumeRoot", d.caller(broker.Ref{Key: p.Root.Key, Profile: p.Root.Source}), account, m.TaskPolicyARN, func(at awssts.Site) broker.Minter { m.Site = at; return c.sts.Root(m) })
	case p.Delegated != nil:
		ref := d.caller(broker.Ref{Key: p.Delegated.Key, Profile: p.Delegated.Source})
		m := awssts.Delegated{Token: d.input("trade-in token", p.Delegated.Token)}
		d.mint("GetDelegatedAccessToken", ref, ref.Key+ref.Profile, "", func(at awssts.Site) broker.Minter { m.Site = at; return c.sts.Delegated(m) })
	case p.Process != nil:
		d.process(p.Process.Command, "")
	case p.Ambient:
		d.ambient()
	}
	return d.out
}

// signer resolves a source that is a session of keys to the keys themselves: a
// role is signed with the session only where that session's MFA is needed, and
// a temporary signer would clamp the role to an hour.
func (c *cataloguer) signer(r broker.Ref) broker.Ref {
	if key, device := c.sessionOf(r.Profile); key != "" && device == "" {
		return broker.Ref{Key: key}
	}
	return r
}

// sessionOf returns the key and the MFA device of a profile that is a session of
// GetSessionToken, by itself, by another name, or because the chain of the SDKs leads
// to one; "" for any other.
func (c *cataloguer) sessionOf(profile string) (key, device string) {
	profile, _ = c.behind(profile)
	for _, p := range c.cfg.Profiles {
		switch {
		case p.Name != profile:
			continue
		case p.Session != nil:
			return p.Session.Key, p.Session.MFA.Serial
		case !p.Ambient:
			return "", ""
		}
		switch link := c.link(); link.Kind {
		case ambient.LinkEnvironmentKeys:
			return c.environmentKeys(), ""
		case ambient.LinkProfile:
			return c.sessionOfAWS(link.Profile)
		}
		return "", ""
	}
	return c.sessionOfAWS(profile)
}

func (c *cataloguer) sessionOfAWS(profile string) (key, device string) {
	if p := c.awsProfile(profile); p != nil && p.Session != nil {
		return custody.ProfileKey(p.Name), p.Session.MFASerial
	}
	return "", ""
}

// caller is what signs a call that no session of GetSessionToken may make. What
// the document alone says was checked with it.
func (d *draft) caller(r broker.Ref) broker.Ref {
	if key, device := d.sessionOf(r.Profile); key != "" && device != "" {
		d.fail(fmt.Errorf("its source %s is a session of GetSessionToken, which may not call this; name a role", r.Profile))
	}
	return d.signer(r)
}

// site is where a profile's calls of STS go: as its own file says, else the sts
// section; the environment is above both.
func (c *cataloguer) site(region string, e awsconfig.Endpoint) (awssts.Site, error) {
	for _, s := range []struct {
		own *awsconfig.Switch
		all bool
	}{{&e.Legacy, c.cfg.STS.Legacy}, {&e.FIPS, c.cfg.STS.FIPS}, {&e.DualStack, c.cfg.STS.DualStack}} {
		if *s.own == awsconfig.Unset && s.all {
			*s.own = awsconfig.On
		}
	}
	if c.getenv(varEndpointURL) != "" { // it replaces this one, whatever that is
		e.URL, e.URLPlace = "", ""
	}
	e, err := e.Effective(c.getenv)
	if err != nil {
		return awssts.Site{}, err
	}
	if e.URL != "" {
		if err := awssts.CheckURL(e.URL); err != nil {
			return awssts.Site{}, fmt.Errorf("%s: endpoint_url: %w", e.URLPlace, err)
		}
		if slices.ContainsFunc(c.own, func(l netip.AddrPort) bool { return sameAddress(e.URL, l.String()) }) {
			return awssts.Site{}, fmt.Errorf("%s: endpoint_url is where stsbroker itself listens; give the address of an STS", e.URLPlace)
		}
	}
	return awssts.Site{
		Region: region, URL: e.URL,
		FIPS: e.FIPS == awsconfig.On, DualStack: e.DualStack == awsconfig.On, Legacy: e.Legacy == awsconfig.On,
	}, nil
}

// draft is a profile on its way into the catalogue.
type draft struct {
	*cataloguer
	out      broker.Profile
	line     int    // of stsbroker.yaml; 0 for a profile of the AWS files
	region   string // that the profile itself names; out.Region is the one that counts
	endpoint awsconfig.Endpoint
	at       awssts.Site // where its calls of STS go, once that is settled
}

// draft begins a profile, whose region is the one that it names itself.
func (c *cataloguer) draft(p broker.Profile, e awsconfig.Endpoint) *draft {
	d := &draft{cataloguer: c, out: p, region: p.Region, endpoint: e}
	d.out.Region = c.region(p.Region)
	return d
}

// fail makes the profile unservable; the first reason counts.
func (d *draft) fail(err error) {
	if d.out.Unservable == nil {
		d.out.Unservable, d.out.Minter = fmt.Errorf("%s: profile %s: %w", d.out.Origin, d.out.Name, err), nil
	}
}

// settle decides which STS the profile's calls go to. arn is of what they are
// about, "" where that is of no partition. What is sent with such a call is the
// business of the ARN's partition alone: a region of another one is refused, and
// gives way where the profile does not name it itself.
func (d *draft) settle(arn string) (awssts.Site, error) {
	at, err := d.site(d.out.Region, d.endpoint)
	if err != nil {
		return at, err
	}
	its := awssts.PartitionRegion(arn)
	switch ours, theirs := awssts.PartitionOf(d.out.Region), awssts.PartitionOf(its); {
	case d.out.Region == "":
		at.Region = its
	case arn == "" || ours == theirs || at.URL != "" || d.getenv(varEndpointURL) != "" || d.cfg.STS.Endpoints[d.out.Region].URL != "":
	case d.region == "":
		d.out.Notes = append(d.out.Notes, fmt.Sprintf("its region is %s and not %s: %s is of the partition %s", its, d.out.Region, oneLine(arn), theirs))
		d.out.Region, at.Region = its, its
	default:
		err := fmt.Errorf("%s is of the partition %s, and region %s of %s; name a region such as %s", oneLine(arn), theirs, d.out.Region, ours, its)
		if d.line > 0 {
			d.note(d.cfg.File, d.line, SeverityError, "profile %s: %v", d.out.Name, err)
		}
		return at, err
	}
	return at, nil
}

// mint makes the profile one that calls STS, for the ARN if there is one. account
// is what its calls are counted under, "" for the ARN's.
func (d *draft) mint(action string, parent broker.Ref, account, arn string, minter func(awssts.Site) broker.Minter) {
	d.out.Action, d.out.Parent = action, parent
	if d.out.Unservable != nil {
		return
	}
	at, err := d.settle(arn)
	if err != nil {
		d.fail(err)
		return
	}
	if account == "" {
		account = awssts.AccountOf(arn)
	}
	d.at, d.cataloguer.out.sites[d.out.Name] = at, at
	d.out.Bucket, d.out.Minter = awssts.Bucket(account, at.Region), minter(at)
}

func (d *draft) session(key string, m awssts.Session) {
	d.mint("GetSessionToken", broker.Ref{Key: key}, "key "+key, "", func(at awssts.Site) broker.Minter { m.Site = at; return d.sts.Session(m) })
	d.person(m.MFA)
	if m.MFA.Serial == "" {
		d.cataloguer.out.sessions[d.out.Name] = key
	}
	if m.MFA.Serial == "" && !slices.ContainsFunc(d.out.Notes, func(n string) bool { return strings.Contains(n, "IAM") }) {
		d.out.Notes = append(d.out.Notes, "a session without MFA: it cannot call IAM, and of STS only AssumeRole and GetCallerIdentity")
	}
}

func (d *draft) role(m awssts.Role, source broker.Ref) {
	d.sessionName(&m.SessionName)
	d.mint("AssumeRole", source, "", m.ARN, func(at awssts.Site) broker.Minter { m.Site = at; return d.sts.Role(m) })
	d.roleARN(m.ARN)
	d.ofRole(m.ARN)
	d.person(m.MFA)
	d.shortNote(m.Duration)
}

func (d *draft) webIdentity(m awssts.WebIdentity) {
	d.sessionName(&m.SessionName)
	d.mint("AssumeRoleWithWebIdentity", broker.Ref{}, "", m.ARN, func(at awssts.Site) broker.Minter { m.Site = at; return d.sts.WebIdentity(m) })
	d.roleARN(m.ARN)
	d.ofRole(m.ARN)
	d.shortNote(m.Duration)
}

// ofRole notes the role that the profile is for, where clients may ask for that.
func (d *draft) ofRole(arn string) {
	if arn != "" && !d.out.Hidden && !d.out.Once {
		d.cataloguer.out.roles[arn] = append(d.cataloguer.out.roles[arn], d.out.Name)
	}
}

// sessionName fills a template in. What the document has was checked with it; the
// AWS files may hold more than STS takes.
func (d *draft) sessionName(template *string) {
	name, err := roleSessionName(*template)
	if err != nil {
		d.fail(err)
	} else if *template != "" && !strings.Contains(*template, "{{") && name != *template {
		d.out.Notes = append(d.out.Notes, fmt.Sprintf("its role_session_name is sent as %s: STS takes 2 to 64 letters, digits and _ + = , . @ - there", name))
	}
	*template = name
}

// person notes that somebody must give a code for each mint.
func (d *draft) person(m awssts.MFA) {
	if m.Serial != "" && m.Process == nil {
		d.out.MFA = m.Serial
		d.out.Notes = append(d.out.Notes, fmt.Sprintf("each %s needs a code of the MFA device %s: stsbroker login %s", d.out.Action, m.Serial, d.out.Name))
	}
}

func (d *draft) mfa(m MFAConfig) awssts.MFA {
	out := awssts.MFA{Serial: m.Serial}
	switch {
	case len(m.Process) > 0:
		out.Process = d.command("MFA code", m.Process)
	case m.Seed != nil:
		out.Process = d.seed(*m.Seed)
	}
	return out
}

func (d *draft) input(what string, in InputConfig) awssts.Source {
	if len(in.Command) > 0 {
		return d.command(what, in.Command)
	}
	return d.file(what, in.File)
}

// file is a source of secrets, and a file to watch.
func (d *draft) file(what, path string) awssts.Source {
	d.cataloguer.out.inputs[path] = append(d.cataloguer.out.inputs[path], d.out.Name)
	return awssts.File(what, path)
}

// command is a source of secrets. One that cannot be run makes the profile
// unservable; the source that is returned then is never read.
func (d *draft) command(what string, argv []string) awssts.Source {
	out, err := process.NewOutput(what, process.Options{Argv: argv, Environ: d.environ(), Self: d.self})
	if err != nil {
		d.fail(err)
		return awssts.File(what, "")
	}
	return out
}

// minter takes a minter that was made, or the reason why it could not be.
func (d *draft) minter(m broker.Minter, err error) {
	switch {
	case err == nil:
		d.out.Minter = m
	case d.out.Hidden: // the profile that it feeds says where
		d.out.Unservable = err
	default:
		d.fail(err)
	}
}

// roleARN refuses what AWS could not know for a role. Stores that speak STS have
// ARNs of their own making; whose answers an endpoint of somebody's choice leads
// to is not known.
func (d *draft) roleARN(arn string) {
	if d.cfg.STS.Endpoints[d.at.Region].Compatible || d.at.URL != "" || d.getenv(varEndpointURL) != "" || awsRoleARN().MatchString(arn) {
		return
	}
	d.fail(fmt.Errorf("role_arn %s is not the ARN of a role: it looks like arn:aws:iam::123456789012:role/NAME", oneLine(arn)))
}

func (d *draft) shortNote(life time.Duration) {
	if life > 0 && life < time.Hour {
		d.out.Notes = append(d.out.Notes, fmt.Sprintf("sessions of %s: several SDKs ask on every call below 15 minutes left; an hour is better", span(life)))
	}
}

// process runs a command: argv of ours, or a line of the AWS files.
func (d *draft) process(argv []string, line string) {
	d.out.Action = "credential_process"
	m, err := process.New(process.Options{Argv: argv, Line: line, Environ: d.environ(), Self: d.self})
	if err != nil {
		d.fail(err)
		return
	}
	d.out.Minter = m
}

// roleSessionName fills the template from the broker's own user and host, fixed at
// load and never a caller's.
func roleSessionName(template string) (string, error) {
	if template == "" {
		template = awssts.DefaultSessionTemplate
	}
	name := "uid" + fmt.Sprint(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
		if i := strings.LastIndexByte(name, '\\'); i >= 0 && runtime.GOOS == "windows" { // DOMAIN\user
			name = name[i+1:]
		}
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	return awssts.SessionName(template, name, host)
}
