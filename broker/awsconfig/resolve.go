package awsconfig

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/awsini"
)

// Bounds of duration_seconds: AWS STS API reference, AssumeRole.
const (
	minDuration = 900
	maxDuration = 43200
)

const (
	noteSession  = "a session without MFA cannot call IAM, and of STS only AssumeRole and GetCallerIdentity"
	noteOwnKeys  = "the role is assumed with the profile's own keys, as the Go SDK does; boto3 and the AWS CLI want a source_profile line that names the profile itself"
	noteOwnSSO   = "the role is assumed with the profile's own sign-in, as the Go SDK does; boto3 and the AWS CLI want a profile of its own for the role, with the one that signs in as its source_profile"
	noteWins     = "%s before its other ways to get credentials (%s), as in the Go SDK; other SDKs may choose differently"
	noteHeld     = "its long-term keys rest in custody; the %s at %s is not used"
	noteRoleSkip = "the keys of source_profile %s sign directly, as in boto3 and the AWS CLI; the Go SDK would first assume the role that it names as well"
	noteMFA      = "mfa_serial is not used: the profile assumes its role without a signature of yours"
	noteMFAKeys  = "its session is minted with a code of the device in mfa_serial; SDKs and the AWS CLI look at that line in profiles with role_arn only"
	noteCABundle = "ca_bundle is not used: name the file in AWS_CA_BUNDLE"
)

// resolver turns merged sections into profiles: first what each says for
// itself, then where the chains of sources lead.
type resolver struct {
	nodes    map[string]*node
	services map[string]*awsini.Section // by name
	sessions map[string]*awsini.Section // of sign-in to IAM Identity Center, by name
	held     []string                   // the profiles whose long-term keys are in custody
	unread   map[string]string          // by path: what is wrong with a file that is there
}

// node is a profile on its way to being resolved.
type node struct {
	*awsini.Profile
	out      Profile
	keys     error // why its long-term keys cannot sign; nil when they can
	hasKeys  bool
	held     bool // they are in custody
	settings bool
	state    chainState
	root     *node // of an unservable one: the profile that has the trouble
}

type chainState uint8

const (
	unknown chainState = iota
	onPath
	settled
)

func (r *resolver) resolve(profiles []*awsini.Profile) []Profile {
	for _, p := range profiles {
		n := &node{Profile: p, held: slices.Contains(r.held, p.Name)}
		n.out = Profile{Name: p.Name, Origin: place(p.File, p.Line)}
		if region := value(p, keyRegion); validRegion(region) {
			n.out.Region = region
		}
		n.keys, n.hasKeys = n.checkKeys()
		r.nodes[p.Name] = n
	}
	for _, p := range profiles {
		n := r.nodes[p.Name]
		err := r.define(n)
		if err == nil {
			err = r.endpoint(n)
		}
		if err != nil {
			n.fail(err, n)
		}
	}
	out := make([]Profile, len(profiles))
	for i, p := range profiles {
		n := r.nodes[p.Name]
		r.follow(n)
		if n.out.Unservable == nil && len(r.unread) > 0 {
			n.note("settings of it may be missing" + r.hint())
		}
		out[i] = n.out
	}
	return out
}

// withHeld adds the profiles of which nothing is left but the keys in custody.
func (r *resolver) withHeld(profiles []*awsini.Profile) []*awsini.Profile {
	for _, name := range r.held {
		if !slices.ContainsFunc(profiles, func(p *awsini.Profile) bool { return p.Name == name }) {
			profiles = append(profiles, &awsini.Profile{Name: name, File: "custody"})
		}
	}
	slices.SortFunc(profiles, func(a, b *awsini.Profile) int { return strings.Compare(a.Name, b.Name) })
	return profiles
}

// fail makes the profile unservable, once.
func (n *node) fail(err error, root *node) {
	n.out = Profile{Name: n.out.Name, Region: n.out.Region, Origin: n.out.Origin, Unservable: err}
	n.root = root
}

// place is "FILE:LINE"; line 0 is none.
func place(file string, line int) string {
	if line == 0 {
		return file
	}
	return fmt.Sprintf("%s:%d", file, line)
}

// at words a reason that has its cause on a line of a file.
func (n *node) at(file string, line int, format string, args ...any) error {
	return fmt.Errorf("%s: profile %s: "+format, append([]any{place(file, line), awsini.Shown(n.Name)}, args...)...)
}

func (n *node) atKey(p awsini.Property, format string, args ...any) error {
	return n.at(p.File, p.Line, format, args...)
}

// define works out what the profile says for itself, in the order of the Go
// SDK's resolveCredsFromProfile. Its source may still turn out to be none.
func (r *resolver) define(n *node) error {
	if err := n.checkName(); err != nil {
		return err
	}
	if len(n.Faults) > 0 {
		f := n.Faults[0]
		return n.at(f.File, f.Line, "%s", f.Message)
	}
	if !n.held && !slices.ContainsFunc(n.Keys(), definingKey) {
		return r.defineSettings(n)
	}
	if err := n.checkValues(); err != nil {
		return err
	}
	if err := r.checkSSO(n); err != nil {
		return err
	}
	role, hasRole := n.Get(keyRoleARN)
	source, hasSource := n.Get(keySourceProfile)
	ambient, hasAmbient := n.Get(keyCredentialSource)
	web, hasWeb := n.Get(keyWebIdentity)
	login, hasLogin := n.Get(keyLoginSession)
	process, hasProcess := n.Get(keyProcess)
	if err := n.checkKinds(hasRole); err != nil {
		return err
	}
	duration, err := n.duration(hasRole)
	if err != nil {
		return err
	}
	mfa, hasMFA := n.Get(keyMFASerial)
	if hasMFA && (hasSource || n.hasKeys) && !ValidSerial(mfa.Value) {
		return n.atKey(mfa, "mfa_serial is not one of an MFA device: copy the identifier of yours from the IAM console (arn:aws:iam::ACCOUNT:mfa/NAME, or the number on a hardware token)")
	}
	if id, ok := n.Get(keyExternalID); ok && hasRole && !hasWeb && !ValidExternalID(id.Value) {
		return n.atKey(id, "external_id is not one: it has 2 to 1224 letters, digits and _ + = , . @ : / -")
	}

	if n.hasKeys && !hasSource {
		if n.keys != nil {
			return n.keys
		}
		n.wins("its long-term keys come", "")
		if !hasRole {
			if key, ok := n.Get(awsini.KeyID); ok {
				n.from(key)
			}
			n.out.Session = &Session{MFASerial: mfa.Value}
			if hasMFA {
				n.note(noteMFAKeys)
			} else {
				n.note(noteSession)
			}
			return nil
		}
		n.from(role)
		n.note(noteOwnKeys)
		n.out.Role = n.role(role, duration, mfa.Value, Source{Key: n.Name})
		return nil
	}
	switch {
	case hasSource:
		n.wins(keySourceProfile+" comes", keySourceProfile)
		n.from(role)
		s, err := r.source(n, source)
		n.out.Role = n.role(role, duration, mfa.Value, s)
		return err
	case hasAmbient:
		switch ambient.Value {
		case AmbientEnvironment, AmbientEC2, AmbientECS:
		default:
			return n.atKey(ambient, "credential_source is none of %s, %s, %s (in these letters)", AmbientEnvironment, AmbientEC2, AmbientECS)
		}
		if hasMFA {
			return n.atKey(mfa, "mfa_serial cannot be used with credential_source, behind which is no user with an MFA device: name a source_profile that has the keys of the user, or remove the line")
		}
		n.wins(keyCredentialSource+" comes", keyCredentialSource)
		n.from(role)
		n.out.Role = n.role(role, duration, "", Source{Ambient: ambient.Value})
	case hasWeb:
		n.wins(keyWebIdentity+" comes", keyWebIdentity)
		n.from(role)
		if hasMFA {
			n.note(noteMFA)
		}
		n.out.WebIdentity = &WebIdentity{ARN: role.Value, SessionName: value(n.Profile, keySessionName), TokenFile: web.Value, Duration: duration}
	case n.hasSSO():
		sso, err := r.sso(n)
		if err != nil {
			return err
		}
		n.wins("IAM Identity Center comes", prefixSSO)
		if !hasRole {
			account, _ := n.Get(keySSOAccount)
			n.from(account)
			n.out.SSO = sso
			break
		}
		if hasMFA {
			return n.atKey(mfa, "mfa_serial cannot be used here: what the sso_ lines give is a role, which no MFA device belongs to; remove the line")
		}
		n.from(role)
		n.note(noteOwnSSO)
		n.out.Role = n.role(role, duration, "", Source{SSO: sso})
	case hasLogin && hasRole:
		return n.atKey(role, "role_arn beside login_session is not supported: give the sign-in a profile of its own, and name that as source_profile here")
	case hasProcess && hasRole:
		return n.atKey(role, "role_arn beside credential_process is not supported: give the process a profile of its own, and name that as source_profile here")
	case hasLogin:
		n.wins(keyLoginSession+" comes", keyLoginSession)
		n.from(login)
		n.out.LoginSession = login.Value
	case hasProcess:
		n.from(process)
		n.out.Process = &Process{Command: process.Raw}
	case hasRole:
		return n.atKey(role, "role_arn has no source of credentials: add source_profile, credential_source or web_identity_token_file%s", r.hint())
	case n.keys != nil: // a session token alone
		return n.keys
	default: // sso_ lines alone, that name neither account nor role
		_, err := r.sso(n)
		return err
	}
	return nil
}

// defineSettings handles a profile without credentials. It may have some in a
// file that could not be read.
func (r *resolver) defineSettings(n *node) error {
	n.settings = len(r.unread) == 0
	return n.at(n.File, n.Line, "it has no credentials: add role_arn with source_profile, aws_access_key_id with aws_secret_access_key, or credential_process%s", r.hint())
}

// hint tells of files that could not be read, for what is found missing.
func (r *resolver) hint() string {
	if len(r.unread) == 0 {
		return ""
	}
	return " (" + strings.Join(slices.Sorted(maps.Values(r.unread)), "; ") + ")"
}

// source finds what signs for a role with source_profile. A source with
// long-term keys signs with them, never with a session of them.
func (r *resolver) source(n *node, p awsini.Property) (Source, error) {
	s := r.nodes[p.Value]
	switch {
	case s == nil:
		return Source{}, n.atKey(p, "source_profile %s does not exist: correct the name, or add the profile%s", awsini.Shown(p.Value), r.hint())
	case s == n && !n.hasKeys && n.anySSO().Key != "":
		sso, err := r.sso(n)
		return Source{SSO: sso}, err
	case s == n && !n.hasKeys:
		return Source{}, n.atKey(p, "source_profile names the profile itself, which has no keys of its own: name another profile, or add aws_access_key_id and aws_secret_access_key")
	case !s.hasKeys:
		return Source{Profile: p.Value}, nil
	case s.keys != nil && s == n:
		return Source{}, n.keys
	case s.keys != nil:
		return Source{}, n.atKey(p, "its source_profile cannot sign: %w", s.keys)
	}
	if _, also := s.Get(keyRoleARN); also && s != n {
		n.note(fmt.Sprintf(noteRoleSkip, awsini.Shown(s.Name)))
	}
	return Source{Key: p.Value}, nil
}

// follow settles a role whose source is another profile: unservable when the
// chain meets a profile that is, or itself.
func (r *resolver) follow(n *node) {
	var chain []*node
	for n.state == unknown {
		n.state = onPath
		chain = append(chain, n)
		next := r.parent(n)
		if next == nil {
			break
		}
		n = next
	}
	if n.state == onPath && r.parent(n) != nil { // the chain came back to n
		r.failLoop(chain[slices.Index(chain, n):])
	}
	for _, c := range slices.Backward(chain) {
		c.state = settled
		s := r.parent(c)
		p, _ := c.Get(keySourceProfile)
		switch {
		case s == nil:
		case s.root == s:
			c.fail(c.atKey(p, "its source_profile cannot be served: %w", s.out.Unservable), s)
		case s.root != nil:
			c.fail(c.atKey(p, "its source_profile %s leads to a profile that cannot be served: %w", awsini.Shown(s.Name), s.root.out.Unservable), s.root)
		case c.out.Role.MFASerial != "" && c.out.Role.Source.Profile != "" && s.out.Process == nil && s.out.LoginSession == "":
			mfa, _ := c.Get(keyMFASerial)
			c.fail(c.atKey(mfa, "mfa_serial cannot be used here: source_profile %s is a role, which no MFA device belongs to; move the line to the profile in the chain that signs with the keys of the user", awsini.Shown(s.Name)), c)
		}
	}
}

// parent is the profile whose credentials sign, or whose keys do: whatever
// makes a profile unservable that only has keys counts for its roles too.
func (r *resolver) parent(n *node) *node {
	if n.out.Role == nil {
		return nil
	}
	source := n.out.Role.Source
	if source.Profile != "" {
		return r.nodes[source.Profile]
	}
	if source.Key == "" || source.Key == n.Name {
		return nil
	}
	s := r.nodes[source.Key]
	if _, role := s.Get(keyRoleARN); role {
		return nil
	}
	return s
}

func (r *resolver) failLoop(loop []*node) {
	const most = 8 // names shown
	var names []string
	for i, n := range loop {
		if i == most {
			names = append(names, "…")
			break
		}
		names = append(names, awsini.Shown(n.Name))
	}
	text := strings.Join(append(names, awsini.Shown(loop[0].Name)), " → ")
	for _, n := range loop {
		p, _ := n.Get(keySourceProfile)
		n.fail(n.atKey(p, "its sources go round in a circle (%s): one of them needs credentials of its own", text), n)
	}
}

func (n *node) role(arn awsini.Property, d time.Duration, mfa string, s Source) *Role {
	return &Role{ARN: arn.Value, ExternalID: value(n.Profile, keyExternalID), SessionName: value(n.Profile, keySessionName), Duration: d, MFASerial: mfa, Source: s}
}

// from sets the origin to the header above the property that decides.
func (n *node) from(p awsini.Property) { n.out.Origin = fmt.Sprintf("%s:%d", p.File, p.Header) }

func (n *node) note(s string) { n.out.Notes = append(n.out.Notes, s) }

// wins notes that one way to get credentials comes before others that are set.
func (n *node) wins(one, key string) {
	var others []string
	for _, k := range append(kindKeys(), keyLoginSession) {
		if _, ok := n.Get(k); ok && k != key {
			others = append(others, k)
		}
	}
	if n.hasSSO() && key != prefixSSO {
		others = append(others, prefixSSO+"*")
	}
	if len(others) > 0 {
		n.note(fmt.Sprintf(noteWins, one, strings.Join(others, ", ")))
	}
}

// checkName refuses names that no door could ask for by path.
func (n *node) checkName() error {
	bad := func(r rune) bool { return !unicode.IsPrint(r) || r == '"' || r == '\'' }
	if n.Name != "" && len(n.Name) <= broker.MaxName &&
		!strings.ContainsFunc(n.Name, bad) && path.Clean("/"+n.Name) == "/"+n.Name {
		return nil
	}
	return n.at(n.File, n.Line, "the name is not one that can be asked for: it may have up to 128 printable characters, no quotes, and no empty or dotted parts between slashes; rename it")
}

// checkValues refuses empty values, which SDKs take for no value, and values of
// more than one line, of all keys that have to do with credentials.
func (n *node) checkValues() error {
	for _, key := range n.Keys() {
		p, _ := n.Get(key)
		switch {
		case key == keyRegion && p.Value != "" && !validRegion(p.Value):
			return n.atKey(p, "the value of region is not the name of a region: correct it")
		case credentialKey(key):
			if err := n.checkValue(p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *node) checkValue(p awsini.Property) error {
	switch {
	case p.Value == "":
		return n.atKey(p, "%s has no value: add one, or remove the line", keyShown(p.Key))
	case p.Key != keyProcess && strings.Contains(p.Value, "\n"):
		return n.atKey(p, "the value of %s goes on in the next line: write it in one, or take the blanks off the line that follows", keyShown(p.Key))
	}
	return nil
}

// keyShown is a key that a message may show: what follows sso_ may be anything.
func keyShown(key string) string {
	if strings.HasPrefix(key, prefixSSO) && !slices.Contains(ssoKeys(), key) {
		return prefixSSO + "*"
	}
	return key
}

// checkKinds holds the rules of the Go SDK's validateCredentialType and
// validateCredentialsRequireARN.
func (n *node) checkKinds(hasRole bool) error {
	var first awsini.Property
	for _, k := range kindKeys() {
		p, ok := n.Get(k)
		switch {
		case !ok:
		case first.Key != "":
			return n.atKey(p, "%s and %s exclude each other: remove one of them", first.Key, p.Key)
		default:
			first = p
		}
	}
	if first.Key != "" && first.Key != keyProcess && !hasRole {
		return n.atKey(first, "%s needs a role_arn beside it: add one, or remove the line", first.Key)
	}
	return nil
}

// checkKeys reports whether the profile has long-term keys, and why they
// cannot sign.
func (n *node) checkKeys() (problem error, has bool) {
	if n.held {
		for _, key := range []string{awsini.KeyID, awsini.SecretKey, awsini.SessionToken} {
			if p, ok := n.Get(key); ok {
				n.note(fmt.Sprintf(noteHeld, key, p.Place()))
			}
		}
		return nil, true
	}
	id, hasID := n.Get(awsini.KeyID)
	secret, hasSecret := n.Get(awsini.SecretKey)
	token, hasToken := n.Get(awsini.SessionToken)
	if len(n.Faults) > 0 {
		f := n.Faults[0]
		return n.at(f.File, f.Line, "%s", f.Message), hasID || hasSecret
	}
	for _, p := range []awsini.Property{id, secret} {
		if p.Key != "" && (p.Value == "" || strings.Contains(p.Value, "\n")) {
			return n.atKey(p, "%s has no value of one line: correct it, or remove the line", p.Key), true
		}
	}
	switch {
	case hasToken && hasID:
		return n.atKey(token, "its keys are temporary (aws_session_token), cannot mint others, and nothing says when they expire: put long-term keys there, or name the profile that they came from"), true
	case hasToken:
		return n.atKey(token, "aws_session_token is here without keys: remove the line"), false
	}
	return nil, hasID && hasSecret
}

func (n *node) duration(hasRole bool) (time.Duration, error) {
	p, ok := n.Get(keyDuration)
	if !ok || !hasRole {
		return 0, nil
	}
	s, err := strconv.ParseUint(p.Value, 10, 32)
	if err != nil {
		return 0, n.atKey(p, "duration_seconds is not a whole number of seconds")
	}
	if s < minDuration || s > maxDuration {
		return 0, n.atKey(p, "duration_seconds is out of range: STS takes %d to %d", minDuration, maxDuration)
	}
	return time.Duration(s) * time.Second, nil
}

// value is the value of a key, "" when it is not set.
func value(p *awsini.Profile, key string) string {
	v, _ := p.Get(key)
	return v.Value
}

// ValidSerial reports whether a value can be the serial of an MFA device: 9 to 256
// of [A-Za-z0-9_+=/:,.@-] (AWS STS API reference, AssumeRole, SerialNumber), and if
// it is an ARN, arn:PARTITION:iam::ACCOUNT:mfa/NAME with an account of 12 digits.
func ValidSerial(s string) bool {
	const least, most = 9, 256
	return len(s) >= least && len(s) <= most && plain(s) && (!strings.HasPrefix(s, "arn:") || deviceARN(s))
}

func deviceARN(s string) bool {
	parts := strings.Split(s, ":")
	if len(parts) != 6 || parts[1] == "" || parts[2] != "iam" || parts[3] != "" {
		return false
	}
	account, name := parts[4], strings.TrimPrefix(parts[5], "mfa/")
	return len(account) == 12 && strings.Trim(account, "0123456789") == "" && name != parts[5] && name != "" && !strings.HasSuffix(name, "/")
}

// ValidExternalID reports whether a value has the form of externalIdType: 2 to 1224
// of the same characters (AWS STS API reference, AssumeRole, ExternalId).
func ValidExternalID(s string) bool {
	const least, most = 2, 1224
	return len(s) >= least && len(s) <= most && plain(s)
}

func plain(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_+=/:,.@-", r)
	})
}

// validRegion reports whether a value can stand in a host name and on a line of
// shell: STS-compatible stores invent names, so more is not asked.
func validRegion(s string) bool {
	const most = 63
	return s != "" && len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	})
}
