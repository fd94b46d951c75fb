package credfile

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stsbroker/stsbroker/broker"
)

// header is the first line of every file of ours, and how we know one again:
// with another text, what an older broker left would count as somebody else's.
const header = "# stsbroker wrote this file, keeps it fresh, and removes it when it stops. What you change here is lost.\n"

const defaultName = "default"

// section is a profile's set, in the file or on its way there.
type section struct {
	name  string
	set   *broker.Set
	until time.Time // as clients are told, in whole seconds: none is to use it from then on
}

// left is the time until the section has to go. Of the set's own measure and the
// wall clock, by which people read the file, the stricter counts.
func (s section) left(now time.Time) time.Duration {
	return min(s.set.Left(now), s.until.Sub(now))
}

// newSection refuses a set that no program could use, or that cannot be written
// so that every program reads it as it is. The error quotes nothing of it.
func newSection(name string, set *broker.Set) (section, error) {
	refuse := func(why string) (section, error) {
		return section{}, fmt.Errorf("profile %s is left out of the credentials file: %s", name, why)
	}
	if set.Advertised.IsZero() {
		return refuse("its credentials have no expiry")
	}
	for _, v := range []struct{ what, value string }{
		{"access key id", set.AccessKeyID},
		{"secret access key", set.SecretAccessKey.Reveal()},
		{"session token", set.SessionToken.Reveal()},
	} {
		switch {
		case v.value == "":
			return refuse("its credentials have no " + v.what)
		case !plain(v.value):
			return refuse("its " + v.what + " holds characters that such a file cannot carry; use another front door for it")
		}
	}
	return section{name: name, set: set, until: set.Advertised.UTC().Truncate(time.Second)}, nil
}

// plain reports whether every reader takes the value as it stands: visible ASCII
// without what begins a comment or a quote for one of them. A line break would
// let an issuer write lines of its own. What STS issues is of base64's alphabet.
func plain(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("#;\"'`\\", r)
	})
}

// render returns the content of the file.
func render(sections []section, first string) []byte {
	var b strings.Builder
	b.WriteString(header)
	for _, s := range sections {
		if s.name == first && first != defaultName {
			s.write(&b, defaultName)
		}
		s.write(&b, s.name)
	}
	return []byte(b.String())
}

func (s section) write(b *strings.Builder, name string) {
	fmt.Fprintf(b, "\n[%s]\n# until %s\naws_access_key_id = %s\naws_secret_access_key = %s\naws_session_token = %s\n",
		name, s.set.Expiration(), s.set.AccessKeyID, s.set.SecretAccessKey.Reveal(), s.set.SessionToken.Reveal())
}

// CheckProfiles reports whether a file can have a section for each of the
// profiles: there is one at least, none comes twice, a profile "default" comes
// first, and every name is read back as it is by the readers that most programs
// use, those of the SDK for Go v2 and of botocore.
func CheckProfiles(names []string) error {
	if len(names) == 0 {
		return errors.New("a credentials file needs at least one profile")
	}
	seen := map[string]bool{}
	for i, name := range names {
		switch why := unfit(name); {
		case why != "":
			return fmt.Errorf("profile %q cannot be in a credentials file: its name %s; rename it, or leave it out", name, why)
		case seen[name]:
			return fmt.Errorf("profile %q is named twice for one credentials file", name)
		case name == defaultName && i > 0:
			return fmt.Errorf("profile %q has to be the first of a credentials file, because the first is what [default] holds", name)
		}
		seen[name] = true
	}
	return nil
}

// unfit says why a name cannot be a section's, or "".
func unfit(name string) string {
	switch {
	case name == "":
		return "is empty"
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "holds what is not printable"
	case strings.TrimSpace(name) != name || strings.Contains(name, "  "):
		return "begins or ends with a blank, or has two together" // the SDK makes one of them
	case strings.ContainsAny(name, "[]#;\"'"):
		return `holds one of [ ] # ; " '`
	case name == "DEFAULT":
		return "is what Python reads as the defaults of all sections"
	}
	for _, typ := range []string{"profile ", "sso-session ", "services "} {
		if strings.HasPrefix(name, typ) {
			return "begins with " + strings.TrimSpace(typ) + ", which is the type of a section"
		}
	}
	return ""
}
