package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/stsbroker/stsbroker/broker/access"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// Config is stsbroker.yaml, checked: what a document says, with defaults where
// it is silent. What cannot be known from the document alone (a source that is
// a profile of the AWS files) is checked by [Config.CheckSources].
type Config struct {
	File        string // "" for the defaults
	Listen      ListenConfig
	AWSProfiles AWSProfilesConfig
	STS         STSConfig
	Keys        map[string]KeyConfig
	Profiles    []ProfileConfig   // in the order of the document
	TokenFiles  []TokenFileConfig // likewise
	Files       []FileConfig      // likewise
	Access      []access.Rule     // likewise
	NotifyOff   bool              // no desktop notification when a login is needed
	Audit       AuditConfig

	empty   bool     // the document says nothing at all
	sources []ref    // sources, and profiles under access, that are none of this document
	read    []string // files that the document names and that were read with it
}

// AWSProfilesConfig chooses among the profiles of the AWS shared files.
type AWSProfilesConfig struct{ Include, Exclude []string }

// Serves reports whether a profile of the AWS files is to be served: it matches
// a pattern of Include and none of Exclude. A pattern's * matches any text.
func (c AWSProfilesConfig) Serves(profile string) bool {
	// path.Match with no separators: a profile's name may hold slashes.
	flat := func(s string) string { return strings.ReplaceAll(s, "/", "\x00") }
	matches := func(pattern string) bool {
		ok, err := path.Match(flat(pattern), flat(profile))
		return ok && err == nil
	}
	return slices.ContainsFunc(c.Include, matches) && !slices.ContainsFunc(c.Exclude, matches)
}

// STSConfig says how STS is reached.
type STSConfig struct {
	Region          string   // "" where the document does not say
	FallbackRegions []string // in the order in which they are tried; of the partition of Region
	Timeout         time.Duration
	FIPS            bool                      // endpoints with FIPS 140 cryptography
	DualStack       bool                      // endpoints with IPv6 addresses too
	Legacy          bool                      // the global endpoint for the regions that had it by default
	Endpoints       map[string]EndpointConfig // by region
}

// EndpointConfig replaces the address of a region's STS.
type EndpointConfig struct {
	URL        string // https, or http to loopback
	Compatible bool   // not AWS: a store that speaks STS, with ARNs of its own making
}

// Custodies, as they appear in the document.
const (
	custodySealed  = "sealed"  // the file keys of the state folder, which the identity opens
	custodyKeyring = "keyring" // the operating system's
	custodySystemd = "systemd" // the credential of the key's name that systemd gives the unit
	custodyFile    = "file"    // the section of the AWS credentials file that has the key's name
	custodyEnv     = "env"     // AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of serve
)

// KeyConfig is a long-term credential.
type KeyConfig struct {
	Name     string
	Line     int
	Custody  string // custodySealed, custodyKeyring, …
	RootUser bool   // of an account's root user, who gets an hour at most and no role
}

// ProfileConfig is one profile. Either exactly one of the pointers is set, or
// Ambient.
type ProfileConfig struct {
	Name     string
	Line     int    // where its name stands
	Region   string // "" where it says none: STSConfig.Region, then the environment's
	Prefetch bool

	Session     *SessionConfig
	Role        *RoleConfig
	WebIdentity *WebIdentityConfig
	SAML        *SAMLConfig
	Federation  *FederationConfig
	Root        *RootConfig
	Delegated   *DelegatedConfig
	Process     *ProcessConfig
	Ambient     bool // the SDK's own chain
}

// life is the duration that the profile asks for, 0 where it names none.
func (p ProfileConfig) life() time.Duration {
	switch {
	case p.Session != nil:
		return p.Session.Duration
	case p.Role != nil:
		return p.Role.Duration
	case p.WebIdentity != nil:
		return p.WebIdentity.Duration
	case p.SAML != nil:
		return p.SAML.Duration
	case p.Federation != nil:
		return p.Federation.Duration
	}
	return 0
}

// MFAConfig is the device whose code a mint needs; zero for none.
type MFAConfig struct {
	Serial  string   // of a hardware device, or the ARN of a virtual one
	Process []string // a command that prints the code; empty when a person gives it, or Seed does
	Seed    *SeedConfig
}

// SeedConfig is the seed of a virtual MFA device, which codes are made from.
type SeedConfig struct {
	File         string // absolute; an age file
	IdentityFile string // absolute: of the identity that opens it, which is not the one that opens the key
}

// InputConfig is where a token or an assertion is read from, again at every
// mint: exactly one of the two is set. Zero is none.
type InputConfig struct {
	File    string // absolute
	Command []string
}

// SessionConfig is GetSessionToken with a long-term key.
type SessionConfig struct {
	Key      string
	MFA      MFAConfig
	Duration time.Duration // 0 for the default; a root user's: always set
}

// RoleConfig is AssumeRole, signed by a profile's credentials or by a key:
// exactly one of Source and Key is set.
type RoleConfig struct {
	ARN            string
	Source         string
	Key            string
	Duration       time.Duration // 0 for the default
	SessionName    string        // may hold {{.User}} and {{.Host}}; "" for the default
	ExternalID     string
	SourceIdentity string
	Tags           map[string]string
	TransitiveTags []string // keys of Tags
	Policy         string   // compact JSON, as STS gets it
	PolicyARNs     []string
	Contexts       []ContextConfig
	MFA            MFAConfig
}

// ContextConfig is a context that AssumeRole passes on, such as the user of IAM
// Identity Center for whom a role acts.
type ContextConfig struct {
	ProviderARN string
	Assertion   InputConfig
}

// WebIdentityConfig is AssumeRoleWithWebIdentity.
type WebIdentityConfig struct {
	ARN         string
	SessionName string // as of a role
	ProviderID  string // of an OAuth 2.0 provider; "" for OpenID Connect
	Policy      string // as of a role
	PolicyARNs  []string
	Token       InputConfig
	Duration    time.Duration // 0 for the default (of a compatible store: its own)
}

// SAMLConfig is AssumeRoleWithSAML. An ARN that is "" is taken from the assertion.
type SAMLConfig struct {
	ARN          string
	PrincipalARN string
	Policy       string // as of a role
	PolicyARNs   []string
	Assertion    InputConfig
	Duration     time.Duration // 0 for the default
}

// FederationConfig is GetFederationToken with a long-term key. At least one of
// Policy and PolicyARNs is set.
type FederationConfig struct {
	Key        string
	Name       string
	Policy     string // as of a role
	PolicyARNs []string
	Tags       map[string]string
	Duration   time.Duration // 0 for the default; a root user's: always set
}

// RootConfig is AssumeRoot, signed as a role is, but never by a session of
// GetSessionToken.
type RootConfig struct {
	Target        string // the account of 12 digits, or the ARN of its root user
	TaskPolicyARN string
	Source        string
	Key           string
	Duration      time.Duration // 0 for the default
}

// DelegatedConfig is GetDelegatedAccessToken, signed as AssumeRoot is.
type DelegatedConfig struct {
	Source string
	Key    string
	Token  InputConfig // the trade-in token
}

// ProcessConfig is a command that prints credentials, in the form of
// credential_process.
type ProcessConfig struct{ Command []string }

// Severity tells a fault, which stops the start, from a remark.
type Severity uint8

// Severities.
const (
	SeverityError Severity = iota
	SeverityWarning
)

// Finding is something wrong in the configuration, and what to do about it.
type Finding struct {
	File      string
	Line, Col int // counted from 1; 0 for the file as a whole
	Severity  Severity
	Text      string
}

// String returns the finding as compilers print theirs: FILE:LINE:COL: TEXT. A
// column that is not known is left out.
func (f Finding) String() string {
	where := f.File
	switch {
	case f.Line > 0 && f.Col > 0:
		where = fmt.Sprintf("%s:%d:%d", f.File, f.Line, f.Col)
	case f.Line > 0:
		where = fmt.Sprintf("%s:%d", f.File, f.Line)
	}
	if f.Severity == SeverityWarning {
		return where + ": warning: " + f.Text
	}
	return where + ": " + f.Text
}

// hasErrors reports whether one of the findings stops the start.
func hasErrors(fs []Finding) bool {
	return slices.ContainsFunc(fs, func(f Finding) bool { return f.Severity == SeverityError })
}

// maxConfig bounds stsbroker.yaml, in bytes.
const maxConfig = 1 << 20

func defaultConfig() *Config {
	return &Config{
		Listen:      ListenConfig{Container: loopbackDoor("127.0.0.1:9170", "[::1]:9170")},
		AWSProfiles: AWSProfilesConfig{Include: []string{"*"}},
		STS:         STSConfig{Timeout: 4 * time.Second, Endpoints: map[string]EndpointConfig{}},
		Keys:        map[string]KeyConfig{},
	}
}

// loadConfig reads and checks the document at path; "" gives the defaults. All
// findings are reported, in the order of the document. With an error among
// them, the configuration is nil.
//
// The dialect is plain YAML: one document, no anchors, aliases, merge keys or
// explicit tags, so that each value stands where it is read.
func loadConfig(file string) (*Config, []Finding) {
	c, _, findings := readConfig(file)
	return c, findings
}

// readConfig is loadConfig, and returns the other files that the document names and that
// were read with it, or could not be.
func readConfig(file string) (c *Config, read []string, findings []Finding) {
	if file == "" {
		return defaultConfig(), nil, nil
	}
	data, err := readConfigFile(file)
	if err != nil {
		return nil, nil, []Finding{{File: file, Text: err.Error()}}
	}
	return parse(file, data)
}

// readConfigFile reads the document if nobody else can change it.
func readConfigFile(file string) ([]byte, error) {
	data, err := readTrusted(file, maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("there is no such file; name another with --config, or leave that away to serve the profiles of the AWS files")
	}
	return data, err
}

// readTrusted reads a file of at most so many bytes if nobody else can change
// it. Symbolic links are followed (Kubernetes mounts configuration by them), and
// the folders on both ends of one count.
func readTrusted(file string, most int64) ([]byte, error) {
	switch info, err := os.Stat(file); { // before the open: a pipe would wait for its writer
	case err != nil:
		return nil, fmt.Errorf("cannot be read: %w", err)
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	if err := securefile.CheckWriters(file, info); err != nil {
		return nil, fmt.Errorf("not trusted: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot be read: %w", err)
	case int64(len(data)) > most:
		return nil, fmt.Errorf("is larger than %d bytes", most)
	}
	return data, nil
}

// parseConfig is loadConfig of bytes. Every error it finds has a line.
func parseConfig(file string, data []byte) (*Config, []Finding) {
	c, _, findings := parse(file, data)
	return c, findings
}

func parse(file string, data []byte) (*Config, []string, []Finding) {
	r := &configReader{file: file}
	c := defaultConfig()
	c.File = file
	root := r.document(data)
	if c.empty = root == nil; root != nil {
		r.config(c, root)
		r.crossCheck(c)
	}
	c.read = r.read
	slices.SortStableFunc(r.findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	if hasErrors(r.findings) {
		return nil, r.read, r.findings
	}
	return c, r.read, r.findings
}

// CheckSources reports the sources, and the profiles under access, that are neither
// a profile of this document nor one of the AWS files, whose names are given.
func (c *Config) CheckSources(awsProfiles []string) []Finding {
	r := &configReader{file: c.File}
	known := slices.Clone(awsProfiles)
	for _, p := range c.Profiles {
		known = append(known, p.Name)
	}
	for _, s := range c.sources {
		if !slices.Contains(known, s.name) {
			r.fail(s.node, s.path, "there is no profile %q, neither here nor in the AWS files%s", s.name, didYouMean(s.name, known))
		}
	}
	return r.findings
}

// ref is a place of the document that names something.
type ref struct {
	node *yaml.Node
	path string
	name string
}

// document parses one YAML document and returns its root, nil when there is
// nothing in it (which is fine) or when it cannot be parsed (which is a finding).
func (r *configReader) document(data []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		r.syntax(data, err)
		return nil
	}
	switch err := dec.Decode(&more); {
	case errors.Is(err, io.EOF):
	case err != nil:
		r.syntax(data, err)
	default:
		r.fail(&more, "", "a second document begins here; write one")
	}
	if len(doc.Content) == 0 {
		return nil
	}
	return doc.Content[0]
}
