// Package awsconfig takes profiles out of the AWS shared files, ~/.aws/config
// and ~/.aws/credentials, as plain data: what each profile means, or why it
// cannot be served. It calls nobody and mints nothing.
//
// The rules are those of the AWS SDK for Go v2 (config/shared_config.go and
// config/resolve_credentials.go), and a fuzz test holds the two against each
// other. Where it differs on purpose:
//
//   - an sso_ key that no SDK knows makes a profile unservable; it is never
//     ignored. So does an account, a region or a start URL that cannot be one
//   - sso-session sections count in the config file alone, as in boto3 and the
//     AWS CLI; the Go SDK finds them in the credentials file too
//   - sso_ lines that name neither an account nor a role are no way to get
//     credentials, as in boto3; the Go SDK asks for some, and fails
//   - a source_profile that has nothing but a login_session feeds roles, as in
//     boto3; the Go SDK takes it for one without credentials
//   - a value that the SDK would silently drop (empty, half a key pair, a
//     duration out of range, a switch that is neither true nor false, a services
//     section that is not there) makes the profile unservable
//   - mfa_serial beside keys alone means a session that is minted with MFA; SDKs
//     look at it for a role only
//   - mfa_serial where no user's credentials sign (credential_source, a source
//     that is a role) makes the profile unservable: AWS would refuse the call
//   - sts_regional_endpoints counts, as in boto3 and the AWS CLI; the Go SDK
//     knows no endpoint but the regional one
//   - a source_profile that has long-term keys of its own signs with them, as
//     boto3, the AWS CLI, JavaScript and Rust do, even if it names a role as
//     well; the Go SDK would assume that role first
//   - a role never falls back to whatever credentials lie about
//
// One broken profile never stops the others, and no message holds a value that
// may be a secret.
package awsconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stsbroker/stsbroker/internal/awsini"
)

// Files names the two shared files. "" is a file that does not exist.
type Files struct{ Config, Credentials string }

// DefaultFiles returns the files as SDKs choose them: AWS_CONFIG_FILE and
// AWS_SHARED_CREDENTIALS_FILE, else those under home/.aws. A leading "~/"
// stands for home, as in boto3.
func DefaultFiles(getenv func(string) string, home string) Files {
	file := func(variable, name string) string {
		path := getenv(variable)
		switch rest, tilde := strings.CutPrefix(filepath.ToSlash(path), "~/"); {
		case tilde && home != "":
			return filepath.Join(home, filepath.FromSlash(rest))
		case path != "":
			return path
		case home == "":
			return ""
		}
		return filepath.Join(home, ".aws", name)
	}
	return Files{
		Config:      file("AWS_CONFIG_FILE", "config"),
		Credentials: file("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
	}
}

// Config is what the two files say.
type Config struct {
	Profiles []Profile // every profile that says how to get credentials, sorted by name

	// Settings are the profiles that do not (a region, an output format), sorted
	// by name. They are no error, so they are not among Profiles; their
	// Unservable says it to somebody who asks for one by name.
	Settings []Profile

	Faults        []Fault // by file and line; they stop nothing by themselves
	DefaultRegion string  // of the default profile; "" when it sets none

	defaultKeys bool
}

// Fault is a place in a file that a person should look at. Line is 0 for the
// file as a whole.
type Fault = awsini.Fault

// Profile is one profile: exactly one of Session, Role, WebIdentity, SSO,
// LoginSession, Process and Unservable is set.
type Profile struct {
	Name   string
	Region string // its own; "" when it sets none
	Origin string // "FILE:LINE" of the header that defines how it mints

	Endpoint Endpoint // of its own calls of STS; zero where it makes none

	Session     *Session
	Role        *Role
	WebIdentity *WebIdentity
	SSO         *SSO
	Process     *Process

	// LoginSession is the value of login_session, which "aws login" writes: the ARN
	// of who signed in. Whether it can be served is for the caller to say.
	LoginSession string

	Unservable error    // "FILE:LINE: profile NAME: what is wrong; what to do"
	Notes      []string // what a person should know before relying on it
}

// Session is a session of the profile's own long-term keys: held in custody (see
// [Load]), or in its section of the credentials file or else the config file.
type Session struct {
	MFASerial string // of the device whose code the session is minted with; "" for none
}

// Role is a role that is assumed with the credentials of Source.
//
// MFASerial is the profile's own: as in SDKs, none is inherited from a
// source_profile. Where it is set, Source is a Key, or a Profile that is a Process
// or a LoginSession (which may hold a user's keys or session).
type Role struct {
	ARN         string
	ExternalID  string        // see [ValidExternalID]; "" for none
	SessionName string        // "" when the file sets none
	Duration    time.Duration // 15 min to 12 h; 0 when the file sets none
	MFASerial   string        // of the device of the user who signs, see [ValidSerial]; "" for none
	Source      Source
}

// Source signs the call for a role. Exactly one field is set.
type Source struct {
	Key     string // the profile whose long-term keys sign, which may be the role's own
	Profile string // the profile whose session credentials sign
	Ambient string // [AmbientEnvironment], [AmbientEC2], [AmbientECS]
	SSO     *SSO   // the sso_ lines beside role_arn: what they give signs
}

// The values of credential_source.
const (
	AmbientEnvironment = "Environment"
	AmbientEC2         = "Ec2InstanceMetadata"
	AmbientECS         = "EcsContainer"
)

// WebIdentity is a role that is assumed with the token in a file.
type WebIdentity struct {
	ARN         string
	SessionName string // "" when the file sets none
	TokenFile   string // as written
	Duration    time.Duration
}

// SSO is a role of an account that IAM Identity Center gives to whoever is signed
// in to a session.
type SSO struct {
	Session   string   // of [sso-session NAME]; "" for the older form, which has none
	StartURL  string   // an https address
	Region    string   // of Identity Center, not of the profile
	Scopes    []string // sso_registration_scopes, else [DefaultScope]; nil in the older form, which registers without
	AccountID string   // 12 digits
	RoleName  string
}

// DefaultScope is what a client registers for where the file names no scopes, as
// the AWS CLI writes it. It is what listing and getting roles needs.
const DefaultScope = "sso:account:access"

// Process is a command that prints credentials.
type Process struct {
	Command string // as written, quotes included, up to a comment
}

// Load reads the files. It never fails as a whole: a missing file is an empty
// one, and one that cannot be read is a fault, and the reason of profiles that
// lack what may stand in it.
//
// held names profiles whose long-term keys are in custody: they are taken as if
// these stood in the profile's section, whatever does, and even if neither file
// has such a section any more.
func Load(f Files, held ...string) *Config {
	c := &Config{}
	r := resolver{nodes: map[string]*node{}, unread: map[string]string{}, held: held}
	read := func(path string) *awsini.File {
		if path == "" {
			return nil
		}
		file, err := awsini.Read(path)
		switch {
		case err == nil:
			c.Faults = append(c.Faults, file.Faults...)
		case !errors.Is(err, fs.ErrNotExist):
			fault := unreadable(path, err)
			c.Faults = append(c.Faults, fault)
			r.unread[path] = fault.String()
		}
		return file
	}
	config, credentials := read(f.Config), read(f.Credentials)
	r.services, r.sessions = sections(config, awsini.TypeServices), sections(config, awsini.TypeSSOSession)
	profiles, faults := awsini.Profiles(config, credentials)
	c.Faults = append(c.Faults, faults...)
	for _, p := range profiles {
		c.Faults = append(c.Faults, p.Faults...)
	}
	slices.SortStableFunc(c.Faults, func(a, b Fault) int {
		if a.File != b.File {
			return strings.Compare(a.File, b.File)
		}
		return a.Line - b.Line
	})

	for _, p := range r.resolve(r.withHeld(profiles)) {
		if p.Name == awsini.DefaultProfile {
			c.DefaultRegion = p.Region
		}
		if r.nodes[p.Name].settings {
			c.Settings = append(c.Settings, p)
		} else {
			c.Profiles = append(c.Profiles, p)
		}
	}
	c.defaultKeys = defaultHasKeys(config) || defaultHasKeys(credentials)
	return c
}

// sections returns the sections of a type by name. Those that are no profiles
// count in the config file alone.
func sections(config *awsini.File, typ string) map[string]*awsini.Section {
	m := map[string]*awsini.Section{}
	if config == nil {
		return m
	}
	for i := range config.Sections {
		if s := &config.Sections[i]; s.Type == typ {
			m[s.Name] = s
		}
	}
	return m
}

// unreadable words the error of a file that is there and cannot be read.
func unreadable(path string, err error) Fault {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return Fault{File: path, Message: fmt.Sprintf("the file cannot be read: %v; profiles that stand in it are missing", err)}
}

// DefaultHasCredentials reports whether SDKs may find credentials in the
// default profile, which most of them look at before they ask a container
// endpoint. A section that only one SDK takes for the default one counts.
func (c *Config) DefaultHasCredentials() bool { return c.defaultKeys }

func defaultHasKeys(f *awsini.File) bool {
	if f == nil {
		return false
	}
	for i := range f.Sections {
		s := &f.Sections[i]
		// configparser, under boto3, knows [DEFAULT] as the defaults of every section.
		if !strings.EqualFold(s.Name, awsini.DefaultProfile) || s.Type != "" && s.Type != awsini.TypeProfile {
			continue
		}
		if slices.ContainsFunc(s.Properties, func(p awsini.Property) bool { return credentialKey(p.Key) }) {
			return true
		}
	}
	return false
}
