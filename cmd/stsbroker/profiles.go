package main

import (
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
	findings []Finding        // of both, in words for check and serve
	files    []string         // that were looked for
	settings map[string]error // AWS profiles that only hold settings: what to tell who asks for one
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
	c.out.keys, c.out.settings = custody.Set{}, map[string]error{}
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
	out := broker.Profile{Name: p.Name, Region: c.region(p.Region), Prefetch: p.Prefetch, Origin: fmt.Sprintf("%s:%d", c.cfg.File, p.Line)}
	switch {
	case p.Session != nil:
		c.session(&out, p.Session.Key, p.Session.Duration)
	case p.Role != nil:
		ref := broker.Ref{Key: p.Role.Key, Profile: p.Role.Source}
		c.role(&out, awssts.Role{ARN: p.Role.ARN, SessionName: p.Role.SessionName, ExternalID: p.Role.ExternalID, Duration: p.Role.Duration}, c.signer(ref))
	case p.WebIdentity != nil:
		w := p.WebIdentity
		c.webIdentity(&out, awssts.WebIdentity{ARN: w.ARN, SessionName: w.SessionName, TokenFile: w.TokenFile, Duration: w.Duration})
	case p.Process != nil:
		c.process(&out, p.Process.Command, "")
	}
	return out
}

// signer resolves a source that is a session of keys to the keys themselves: a
// role is signed with the session only where that session's MFA is needed, and
// a temporary signer would clamp the role to an hour.
func (c *cataloguer) signer(r broker.Ref) broker.Ref {
	for _, p := range c.cfg.Profiles {
		if p.Name == r.Profile && p.Session != nil {
			return broker.Ref{Key: p.Session.Key}
		}
		if p.Name == r.Profile {
			return r
		}
	}
	for _, p := range c.aws.Profiles {
		if p.Name == r.Profile && p.Session != nil {
			return broker.Ref{Key: custody.ProfileKey(p.Name)}
		}
	}
	return r
}

func (c *cataloguer) fromAWS(p awsconfig.Profile) broker.Profile {
	out := broker.Profile{
		Name: p.Name, Region: c.region(p.Region), Origin: p.Origin, Notes: p.Notes, Unservable: p.Unservable,
		Hidden: !c.cfg.AWSProfiles.Serves(p.Name),
	}
	switch {
	case p.Unservable != nil:
	case p.Session != nil:
		c.session(&out, custody.ProfileKey(p.Name), 0)
	case p.Role != nil:
		c.role(&out, awssts.Role{ARN: p.Role.ARN, SessionName: p.Role.SessionName, ExternalID: p.Role.ExternalID, Duration: p.Role.Duration}, c.awsSource(p.Role.Source))
	case p.WebIdentity != nil:
		w := p.WebIdentity
		c.webIdentity(&out, awssts.WebIdentity{ARN: w.ARN, SessionName: w.SessionName, TokenFile: w.TokenFile, Duration: w.Duration})
	case p.Process != nil:
		if err := trusted(c.files.Config, c.files.Credentials); err != nil {
			out.Action, out.Unservable = "credential_process", fmt.Errorf("%s: profile %s: its command is not run: %w", out.Origin, out.Name, err)
			break
		}
		c.process(&out, nil, p.Process.Command)
	}
	return out
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
		name := custody.ProfileKey("(environment)")
		c.out.keys[name] = custody.EnvSession(c.getenv)
		return broker.Ref{Key: name}
	}
	name := "(" + s.Ambient + ")" // parentheses: no AWS profile has them in front
	if !slices.ContainsFunc(c.out.profiles, func(p broker.Profile) bool { return p.Name == name }) {
		p := broker.Profile{Name: name, Hidden: true, Origin: "credential_source", Action: s.Ambient}
		p.Minter, p.Unservable = c.ambient(s.Ambient)
		c.add(p)
	}
	return broker.Ref{Profile: name}
}

func (c *cataloguer) ambient(source string) (broker.Minter, error) {
	m, err := ambient.New(source, ambient.Options{Getenv: c.getenv, Listeners: c.own})
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (c *cataloguer) session(out *broker.Profile, key string, d time.Duration) {
	m := awssts.Session{Region: out.Region, Duration: d}
	out.Action, out.Minter, out.Parent = "GetSessionToken", c.sts.Session(m), broker.Ref{Key: key}
	out.Bucket = awssts.Bucket("key "+key, out.Region)
	if note := "a session without MFA: it cannot call IAM, and of STS only AssumeRole and GetCallerIdentity"; !slices.ContainsFunc(out.Notes, func(n string) bool { return strings.Contains(n, "IAM") }) {
		out.Notes = append(out.Notes, note)
	}
}

func (c *cataloguer) role(out *broker.Profile, m awssts.Role, source broker.Ref) {
	var err error
	if m.SessionName, err = roleSessionName(m.SessionName); err != nil {
		out.Unservable = fmt.Errorf("%s: profile %s: %w", out.Origin, out.Name, err)
		return
	}
	m.Region = c.regionFor(out, m.ARN)
	if err := c.roleARN(m.ARN, m.Region); err != nil {
		out.Unservable = fmt.Errorf("%s: profile %s: %w", out.Origin, out.Name, err)
		return
	}
	out.Action, out.Minter, out.Parent = "AssumeRole", c.sts.Role(m), source
	c.shortNote(out, m.Duration)
}

func (c *cataloguer) webIdentity(out *broker.Profile, m awssts.WebIdentity) {
	var err error
	if m.SessionName, err = roleSessionName(m.SessionName); err != nil {
		out.Unservable = fmt.Errorf("%s: profile %s: %w", out.Origin, out.Name, err)
		return
	}
	m.TokenFile = c.expand(m.TokenFile)
	m.Region = c.regionFor(out, m.ARN)
	if err := c.roleARN(m.ARN, m.Region); err != nil {
		out.Unservable = fmt.Errorf("%s: profile %s: %w", out.Origin, out.Name, err)
		return
	}
	out.Action, out.Minter = "AssumeRoleWithWebIdentity", c.sts.WebIdentity(m)
	c.shortNote(out, m.Duration)
}

// roleARN refuses what AWS could not know for a role. Stores that speak STS have
// ARNs of their own making; whose answers AWS_ENDPOINT_URL_STS leads to is not known.
func (c *cataloguer) roleARN(arn, region string) error {
	if c.cfg.STS.Endpoints[region].Compatible || c.getenv("AWS_ENDPOINT_URL_STS") != "" || awsRoleARN.MatchString(arn) {
		return nil
	}
	return fmt.Errorf("role_arn %s is not the ARN of a role: it looks like arn:aws:iam::123456789012:role/NAME", oneLine(arn))
}

// regionFor is the region whose STS mints, and the budget that it counts under.
func (c *cataloguer) regionFor(out *broker.Profile, arn string) string {
	region := out.Region
	if region == "" {
		region = awssts.PartitionRegion(arn)
	}
	out.Bucket = awssts.Bucket(awssts.AccountOf(arn), region)
	return region
}

func (c *cataloguer) shortNote(out *broker.Profile, d time.Duration) {
	if d > 0 && d < time.Hour {
		out.Notes = append(out.Notes, fmt.Sprintf("sessions of %s: several SDKs ask on every call below 15 minutes left; an hour is better", span(d)))
	}
}

// process runs a command: argv of ours, or a line of the AWS files.
func (c *cataloguer) process(out *broker.Profile, argv []string, line string) {
	out.Action = "credential_process"
	m, err := process.New(process.Options{Argv: argv, Line: line, Environ: c.environ(), Self: c.self})
	if err != nil {
		out.Unservable = fmt.Errorf("%s: profile %s: %w", out.Origin, out.Name, err)
		return
	}
	out.Minter = m
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
