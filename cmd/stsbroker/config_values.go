package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/stsbroker/stsbroker/broker/awsconfig"
	"github.com/stsbroker/stsbroker/broker/custody"
)

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
	regionShape   = lazy(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`) // a label of a host name: STS's address is made of it
	awsRegion     = lazy(`^[a-z]{2,4}(-[a-z]+)+-\d+$`)      // us-gov-west-1, eusc-de-east-1
	profileShape  = lazy(`^[A-Za-z0-9+=,.@_-]+$`)           // what a path segment and the metadata service's role list can hold
	roleARN       = lazy(`^arn:[a-z0-9-]+:iam:[^:]*:[^:]*:role/[\w+=,.@/-]+$`)
	awsRoleARN    = lazy(`^arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+$`)
	placeholder   = lazy(`\{\{\.(User|Host)\}\}`)
	sessionShape  = lazy(`^[\w+=,.@-]*$`) // AssumeRole, RoleSessionName and SourceIdentity; GetFederationToken, Name
	policyARN     = lazy(`^arn:aws[a-z-]*:iam::(aws|\d{12}):policy/[\w+=,.@/-]+$`)
	providerARN   = lazy(`^arn:aws[a-z-]*:iam::\d{12}:saml-provider/[\w.-]+$`)
	contextARN    = lazy(`^arn:aws[a-z-]*:iam::(aws|\d{12}):contextProvider/[\w+=,.@/-]+$`)
	targetShape   = lazy(`^(\d{12}|arn:aws[a-z-]*:iam::\d{12}:root)$`)
	taskPolicyARN = lazy(`^arn:aws[a-z-]*:iam::aws:policy/root-task/[\w+=,.@-]+$`)
)

// rootTasks are the managed policies that AssumeRoot takes, from the API
// reference.
var rootTasks = []string{
	"IAMAuditRootUserCredentials", "IAMCreateRootUserPassword", "IAMDeleteRootUserCredentials", "S3UnlockBucketPolicy", "SQSUnlockQueuePolicy",
}

// oauthProviders are those whose access tokens AssumeRoleWithWebIdentity takes,
// with ProviderId; with all others, OpenID Connect is spoken and there is none.
var oauthProviders = []string{"www.amazon.com", "graph.facebook.com"}

func checkRegion(s string) error {
	if len(s) > 63 || !regionShape().MatchString(s) {
		return fmt.Errorf("%q is not the name of a region, such as eu-central-1", s)
	}
	return nil
}

func checkProfileName(s string) error {
	if len(s) > 128 || !profileShape().MatchString(s) || s == "." || s == ".." {
		return fmt.Errorf("%q is not a name for a profile: letters, digits and + = , . @ _ -, 128 at most", s)
	}
	return nil
}

// checkRole takes the profiles that an IMDS client finds: it makes a path of the
// name without escaping it.
func checkRole(s string) error {
	if err := checkProfileName(s); err != nil {
		return fmt.Errorf("%w; IMDS has no other names: define the profile under such a name in profiles", err)
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
	all := []string{custodySealed, custodyKeyring, custodySystemd, custodyFile, custodyEnv}
	if slices.Contains(all, s) {
		return nil
	}
	return fmt.Errorf("%q is no custody: %s%s", s, strings.Join(all, ", "), didYouMean(s, all))
}

// arnOf checks an ARN of one kind. what it is to be, and an example, are for who
// wrote another.
func arnOf(what string, shape func() *regexp.Regexp, example string) func(string) error {
	return func(s string) error {
		if len(s) > 2048 || !shape().MatchString(s) {
			return fmt.Errorf("%q is not the %s; write it as %s", s, what, example)
		}
		return nil
	}
}

var (
	checkRoleARN      = arnOf("ARN of a role", roleARN, "arn:aws:iam::123456789012:role/NAME")
	checkPolicyARN    = arnOf("ARN of a managed policy", policyARN, "arn:aws:iam::aws:policy/NAME or arn:aws:iam::123456789012:policy/NAME")
	checkPrincipalARN = arnOf("ARN of a SAML provider", providerARN, "arn:aws:iam::123456789012:saml-provider/NAME")
	checkContextARN   = arnOf("ARN of a context provider", contextARN, "arn:aws:iam::aws:contextProvider/IdentityCenter")
	checkTaskPolicy   = arnOf("policy of a root task", taskPolicyARN, "arn:aws:iam::aws:policy/root-task/"+rootTasks[0])
)

func checkSessionName(s string) error {
	literal := placeholder().ReplaceAllString(s, "")
	switch {
	case strings.Contains(literal, "{{") || strings.Contains(literal, "}}"):
		return fmt.Errorf("%q: only {{.User}} and {{.Host}} can be filled in", s)
	case !sessionShape().MatchString(literal):
		return fmt.Errorf("%q: STS takes letters, digits and _ + = , . @ - here", s)
	case literal == s && (len(s) < 2 || len(s) > 64), len(literal) > 64:
		return fmt.Errorf("%q: STS takes 2 to 64 characters here", s)
	}
	return nil
}

// checkExternalID does not repeat the value: some treat it as a secret.
func checkExternalID(s string) error {
	if !awsconfig.ValidExternalID(s) {
		return errors.New("not an external id: 2 to 1224 letters, digits and _ + = , . @ : / -")
	}
	return nil
}

// checkSerial takes the ARN of a virtual device and the serial number of a
// hardware one.
func checkSerial(s string) error {
	if !awsconfig.ValidSerial(s) {
		return fmt.Errorf("%q is not the serial of an MFA device; write its ARN, arn:aws:iam::123456789012:mfa/NAME, or the 9 to 256 characters of its serial number", s)
	}
	return nil
}

// rootDevice reports whether an MFA device is the one of a root user.
func rootDevice(serial string) bool { return strings.HasSuffix(serial, ":mfa/root-account-mfa-device") }

func checkSourceIdentity(s string) error {
	if len(s) < 2 || len(s) > 64 || !sessionShape().MatchString(s) {
		return fmt.Errorf("%q: STS takes 2 to 64 letters, digits and _ + = , . @ - here", s)
	}
	return nil
}

func checkFederatedName(s string) error {
	if len(s) < 2 || len(s) > 32 || !sessionShape().MatchString(s) {
		return fmt.Errorf("%q: STS takes 2 to 32 letters, digits and _ + = , . @ - here", s)
	}
	return nil
}

func checkTagKey(s string) error {
	switch n := utf8.RuneCountInString(s); {
	case n < 1 || n > 128 || strings.ContainsFunc(s, noTag):
		return fmt.Errorf("%q is not the key of a tag: 1 to 128 letters, digits, blanks and _ . : / = + - @", s)
	case len(s) >= 4 && strings.EqualFold(s[:4], "aws:"):
		return fmt.Errorf("%q: keys that begin with aws: are AWS's own; take another", s)
	}
	return nil
}

func checkTagValue(s string) error {
	if utf8.RuneCountInString(s) > 256 || strings.ContainsFunc(s, noTag) {
		return fmt.Errorf("%q is not the value of a tag: at most 256 letters, digits, blanks and _ . : / = + - @", s)
	}
	return nil
}

func checkTarget(s string) error {
	if !targetShape().MatchString(s) {
		return fmt.Errorf("%q is no member account; write its 12 digits, or arn:aws:iam::123456789012:root", s)
	}
	return nil
}

func checkProviderID(s string) error {
	if len(s) < 4 || len(s) > 2048 || strings.ContainsRune(s, 0) {
		return fmt.Errorf("%q is not the host name of an OAuth 2.0 provider; write %s, or leave it out for OpenID Connect", s, strings.Join(oauthProviders, " or "))
	}
	return nil
}

func checkRegionalEndpoints(s string) error {
	known := []string{"regional", "legacy"}
	if !slices.Contains(known, s) {
		return fmt.Errorf("%q is neither regional nor legacy%s", s, didYouMean(s, known))
	}
	return nil
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
	ip, err := netip.ParseAddr(u.Hostname())
	return port == fmt.Sprint(a.Port()) && (strings.EqualFold(u.Hostname(), "localhost") || err == nil && ip.Unmap() == a.Addr())
}

// noTag reports whether session tags cannot hold the character: AssumeRole, Tag
// has [\p{L}\p{Z}\p{N}_.:/=+\-@].
func noTag(r rune) bool {
	return !unicode.In(r, unicode.L, unicode.Z, unicode.N) && !strings.ContainsRune("_.:/=+-@", r)
}

// lazy compiles an expression at its first use: compiled ones take memory, and a
// configuration has use for few of them.
func lazy(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}
