package main

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/ambient"
	"github.com/stsbroker/stsbroker/broker/awsconfig"
	"github.com/stsbroker/stsbroker/broker/awssts"
	"github.com/stsbroker/stsbroker/broker/custody"
	"github.com/stsbroker/stsbroker/broker/process"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// catalog is everything the configuration and the AWS files define, as the
// broker takes it.
type catalog struct {
	profiles []broker.Profile
	keys     custody.Set
	findings []Finding              // of both, in words for check and serve
	files    []string               // that were looked for
	settings map[string]error       // AWS profiles that only hold settings: what to tell who asks for one
	sites    map[string]awssts.Site // by profile: where its calls of STS go
}

// cataloguer turns definitions into minters. It calls nobody.
type cataloguer struct {
	place
	cfg   *Config
	aws   *awsconfig.Config
	files awsconfig.Files
	sts   *awssts.STS
	self  string           // this executable
	own   []netip.AddrPort // of our listeners
	out   catalog
}

func (c *cataloguer) build() catalog {
	c.out.keys, c.out.settings, c.out.sites = custody.Set{}, map[string]error{}, map[string]awssts.Site{}
	for _, k := range c.cfg.Keys {
		switch k.Custody {
		case custodyEnv:
			c.out.keys[k.Name] = custody.Env(c.getenv)
			if c.system {
				c.note(k.Line, SeverityError, "key %s: custody env is not for the system service, which takes no credential from the environment", k.Name)
			}
		default:
			c.out.keys[k.Name] = custody.File(c.files.Credentials, k.Name)
		}
		if _, err := c.out.keys.Key(context.Background(), k.Name); err != nil {
			c.note(k.Line, SeverityWarning, "key %s cannot be had now: %v", k.Name, err)
		}
	}
	for _, f := range []string{c.cfg.File, c.files.Config, c.files.Credentials} {
		if f != "" {
			c.out.files = append(c.out.files, f)
		}
	}
	mine := map[string]bool{}
	for _, p := range c.cfg.Profiles {
		mine[p.Name] = true
		c.add(c.fromConfig(p))
	}
	for _, f := range c.aws.Faults {
		c.out.findings = append(c.out.findings, Finding{File: f.File, Line: f.Line, Severity: SeverityWarning, Text: f.Message})
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
			c.out.findings = append(c.out.findings, Finding{File: c.cfg.File, Severity: SeverityWarning,
				Text: fmt.Sprintf("profile %s is also at %s; the one here counts", p.Name, p.Origin)})
			continue
		}
		c.add(c.fromAWS(p))
	}
	if warning := custody.Exposed(c.files.Credentials); warning != "" {
		c.out.findings = append(c.out.findings, Finding{File: c.files.Credentials, Severity: SeverityWarning, Text: warning})
	}
	return c.out
}

func (c *cataloguer) note(line int, s Severity, format string, args ...any) {
	c.out.findings = append(c.out.findings, Finding{File: c.cfg.File, Line: line, Severity: s, Text: fmt.Sprintf(format, args...)})
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
	c.out.profiles = append(c.out.profiles, p)
}

// addKey puts the long-term key of an AWS profile in custody.
func (c *cataloguer) addKey(p awsconfig.Profile) {
	name := p.Name
	if p.Role != nil {
		name = p.Role.Source.Key
	}
	c.out.keys[custody.ProfileKey(name)] = custody.Profile(c.files.Config, c.files.Credentials, name)
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
	d := c.draft(broker.Profile{Name: p.Name, Region: c.region(p.Region), Prefetch: p.Prefetch, Origin: fmt.Sprintf("%s:%d", c.cfg.File, p.Line)}, awsconfig.Endpoint{})
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
		d.mint("AssumeRoleWithSAML", broker.Ref{}, cmp.Or(awssts.AccountOf(m.ARN), "saml "+p.Name), m.ARN, func(at awssts.Site) broker.Minter { m.Site = at; return c.sts.SAML(m) })
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
		d.mint("AssumeRoot", d.caller(broker.Ref{Key: p.Root.Key, Profile: p.Root.Source}), account, m.Target, func(at awssts.Site) broker.Minter { m.Site = at; return c.sts.Root(m) })
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
	for _, p := range c.cfg.Profiles {
		if p.Name == r.Profile && p.Session != nil && p.Session.MFA.Serial == "" {
			return broker.Ref{Key: p.Session.Key}
		}
		if p.Name == r.Profile {
			return r
		}
	}
	for _, p := range c.aws.Profiles {
		if p.Name == r.Profile && p.Session != nil && p.Session.MFASerial == "" {
			return broker.Ref{Key: custody.ProfileKey(p.Name)}
		}
	}
	return r
}

// caller is what signs a call that no session of GetSessionToken may make. What
// the document alone says was checked with it.
func (d *draft) caller(r broker.Ref) broker.Ref {
	for _, p := range d.aws.Profiles {
		if p.Name == r.Profile && p.Session != nil && p.Session.MFASerial != "" {
			d.fail(fmt.Errorf("its source %s is a session of GetSessionToken, which may not call this; name a role", p.Name))
		}
	}
	return d.signer(r)
}

func (c *cataloguer) fromAWS(p awsconfig.Profile) broker.Profile {
	d := c.draft(broker.Profile{
		Name: p.Name, Region: c.region(p.Region), Origin: p.Origin, Notes: p.Notes, Unservable: p.Unservable,
		Hidden: !c.cfg.AWSProfiles.Serves(p.Name),
	}, p.Endpoint)
	switch {
	case p.Unservable != nil:
	case p.Session != nil:
		d.session(custody.ProfileKey(p.Name), awssts.Session{MFA: awssts.MFA{Serial: p.Session.MFASerial}})
	case p.Role != nil:
		r := p.Role
		m := awssts.Role{ARN: r.ARN, SessionName: r.SessionName, ExternalID: r.ExternalID, Duration: r.Duration}
		source := c.awsSource(r.Source)
		switch {
		case r.MFASerial != "" && r.Source.Key != "":
			source = c.mfaSession(d, source, r.MFASerial)
			d.out.Notes = append(d.out.Notes, fmt.Sprintf("once in 12h it needs a code of the MFA device %s, for all roles that name it: stsbroker login %s", r.MFASerial, p.Name))
		case r.MFASerial != "":
			m.MFA.Serial = r.MFASerial
		}
		d.role(m, source)
	case p.WebIdentity != nil:
		w := p.WebIdentity
		d.webIdentity(awssts.WebIdentity{ARN: w.ARN, SessionName: w.SessionName, Token: awssts.File("web identity token", c.expand(w.TokenFile)), Duration: w.Duration})
	case p.Process != nil:
		if err := trusted(c.files.Config, c.files.Credentials); err != nil {
			d.out.Action = "credential_process"
			d.fail(fmt.Errorf("its command is not run: %w", err))
			break
		}
		d.process(nil, p.Process.Command)
	}
	return d.out
}

// mfaSession is the session that a role with mfa_serial is assumed with: one for
// all roles of a key and a device, so that one code a day is enough. SDKs give a
// code to AssumeRole itself, and ask for one with each role and at every renewal.
func (c *cataloguer) mfaSession(role *draft, key broker.Ref, serial string) broker.Ref {
	name := "(" + serial + " of " + key.Key + ")"
	if !slices.ContainsFunc(c.out.profiles, func(p broker.Profile) bool { return p.Name == name }) {
		d := c.draft(broker.Profile{Name: name, Hidden: true, Region: role.out.Region, Origin: role.out.Origin}, role.endpoint)
		d.session(key.Key, awssts.Session{MFA: awssts.MFA{Serial: serial}})
		c.add(d.out)
	}
	return broker.Ref{Profile: name}
}

// awsSource turns the source of a role of the AWS files into a reference, making
// the hidden profile or the key that an ambient source needs.
func (c *cataloguer) awsSource(s awsconfig.Source) broker.Ref {
	switch {
	case s.Key != "":
		return broker.Ref{Key: custody.ProfileKey(s.Key)}
	case s.Profile != "":
		return c.signer(broker.Ref{Profile: s.Profile})
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
	endpoint awsconfig.Endpoint
}

func (c *cataloguer) draft(p broker.Profile, e awsconfig.Endpoint) *draft { return &draft{c, p, e} }

// fail makes the profile unservable; the first reason counts.
func (d *draft) fail(err error) {
	if d.out.Unservable == nil {
		d.out.Unservable, d.out.Minter = fmt.Errorf("%s: profile %s: %w", d.out.Origin, d.out.Name, err), nil
	}
}

// mint makes the profile one that calls STS, for the ARN if there is one. account
// is what its calls are counted under, "" for the ARN's.
func (d *draft) mint(action string, parent broker.Ref, account, arn string, minter func(awssts.Site) broker.Minter) {
	d.out.Action, d.out.Parent = action, parent
	region := d.out.Region
	if region == "" {
		region = awssts.PartitionRegion(arn)
	}
	if account == "" {
		account = awssts.AccountOf(arn)
	}
	at, err := d.site(region, d.endpoint)
	if err != nil {
		d.fail(err)
	}
	if d.out.Unservable == nil {
		d.cataloguer.out.sites[d.out.Name] = at
		d.out.Bucket, d.out.Minter = awssts.Bucket(account, region), minter(at)
	}
}

func (d *draft) session(key string, m awssts.Session) {
	d.mint("GetSessionToken", broker.Ref{Key: key}, "key "+key, "", func(at awssts.Site) broker.Minter { m.Site = at; return d.sts.Session(m) })
	d.person(m.MFA)
	if m.MFA.Serial == "" && !slices.ContainsFunc(d.out.Notes, func(n string) bool { return strings.Contains(n, "IAM") }) {
		d.out.Notes = append(d.out.Notes, "a session without MFA: it cannot call IAM, and of STS only AssumeRole and GetCallerIdentity")
	}
}

func (d *draft) role(m awssts.Role, source broker.Ref) {
	d.assumes(m.ARN, &m.SessionName)
	d.mint("AssumeRole", source, "", m.ARN, func(at awssts.Site) broker.Minter { m.Site = at; return d.sts.Role(m) })
	d.person(m.MFA)
	d.shortNote(m.Duration)
}

func (d *draft) webIdentity(m awssts.WebIdentity) {
	d.assumes(m.ARN, &m.SessionName)
	d.mint("AssumeRoleWithWebIdentity", broker.Ref{}, "", m.ARN, func(at awssts.Site) broker.Minter { m.Site = at; return d.sts.WebIdentity(m) })
	d.shortNote(m.Duration)
}

// assumes fills the session name in and looks at the ARN of a role.
func (d *draft) assumes(arn string, session *string) {
	var err error
	if *session, err = roleSessionName(*session); err != nil {
		d.fail(err)
	}
	if err := d.roleARN(arn); err != nil {
		d.fail(err)
	}
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
	if len(m.Process) > 0 {
		out.Process = d.command("MFA code", m.Process)
	}
	return out
}

func (d *draft) input(what string, in InputConfig) awssts.Source {
	if len(in.Command) > 0 {
		return d.command(what, in.Command)
	}
	return awssts.File(what, in.File)
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

// ambient follows the chain of the SDKs, from what this process has in its
// environment to the machine that it runs on.
func (d *draft) ambient() {
	named := func(name string) *awsconfig.Profile {
		i := slices.IndexFunc(d.aws.Profiles, func(p awsconfig.Profile) bool { return p.Name == name })
		if i < 0 {
			return nil
		}
		return &d.aws.Profiles[i]
	}
	asked := cmp.Or(d.getenv("AWS_PROFILE"), d.getenv("AWS_DEFAULT_PROFILE"))
	link := ambient.Chain(d.getenv, func(name string) bool { return name == asked || named(name) != nil })
	switch link.Kind {
	case ambient.LinkEnvironmentKeys:
		key := custody.ProfileKey("(environment keys)")
		d.cataloguer.out.keys[key] = custody.Env(ambient.WithOldNames(d.getenv))
		d.session(key, awssts.Session{})
	case ambient.LinkEnvironmentSession:
		d.out.Action = "environment"
		d.minter(ambient.NewEnvironment(d.getenv))
	case ambient.LinkWebIdentity:
		m := awssts.WebIdentity{ARN: d.getenv("AWS_ROLE_ARN"), SessionName: d.getenv("AWS_ROLE_SESSION_NAME")}
		m.Token = awssts.File("web identity token", d.expand(d.getenv("AWS_WEB_IDENTITY_TOKEN_FILE")))
		d.webIdentity(m)
	case ambient.LinkProfile:
		p := named(link.Profile)
		if p == nil {
			d.fail(fmt.Errorf("AWS_PROFILE is %s where stsbroker serve runs, and no profile of that name has credentials; correct or unset it", oneLine(link.Profile)))
			break
		}
		from := d.fromAWS(*p)
		from.Name, from.Origin, from.Prefetch, from.Hidden = d.out.Name, d.out.Origin, d.out.Prefetch, false
		d.cataloguer.out.sites[from.Name] = d.cataloguer.out.sites[p.Name]
		from.Notes = append([]string{"as profile " + p.Name + " of " + p.Origin}, from.Notes...)
		d.out = from
	case ambient.LinkContainer:
		d.endpointOf(ambient.ECS)
	default:
		d.endpointOf(ambient.EC2)
	}
}

// endpointOf takes credentials from what gives them to everything on this machine.
func (d *draft) endpointOf(source string) {
	d.out.Action = source
	d.minter(ambient.New(source, ambient.Options{Getenv: d.getenv, Listeners: d.own}))
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
func (d *draft) roleARN(arn string) error {
	region := d.out.Region
	if region == "" {
		region = awssts.PartitionRegion(arn)
	}
	if d.cfg.STS.Endpoints[region].Compatible || d.endpoint.URL != "" || d.getenv("AWS_ENDPOINT_URL_STS") != "" || awsRoleARN().MatchString(arn) {
		return nil
	}
	return fmt.Errorf("role_arn %s is not the ARN of a role: it looks like arn:aws:iam::123456789012:role/NAME", oneLine(arn))
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
