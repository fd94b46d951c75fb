package awsini

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The keys of a long-term key pair, which the SDKs merge as one.
const (
	KeyID        = "aws_access_key_id"
	SecretKey    = "aws_secret_access_key"
	SessionToken = "aws_session_token"
)

// DefaultProfile is the profile that needs no "profile " in the config file.
const DefaultProfile = "default"

// Profile is what both files say of one profile.
type Profile struct {
	Name   string
	File   string // and Line: its first header
	Line   int
	Faults []Fault // what makes it unusable: lines that cannot be read, half a key pair

	properties map[string]Property
}

// Get returns the property of that (lower-case) key that counts.
func (p *Profile) Get(key string) (Property, bool) {
	v, ok := p.properties[key]
	return v, ok
}

// Keys returns the keys that are set, sorted.
func (p *Profile) Keys() []string { return slices.Sorted(maps.Keys(p.properties)) }

// Profiles merges the two files as the AWS SDK for Go v2 does: key by key, the
// credentials file wins, the key pair counts as one (with its session token),
// and [profile default] replaces [default]. Either file may be nil.
//
// The faults are those of sections that SDKs do not read: a bare name in the
// config file, "profile NAME" in the credentials file.
func Profiles(config, credentials *File) ([]*Profile, []Fault) {
	m := merger{profiles: map[string]*Profile{}}
	if config != nil {
		for i := range config.Sections {
			m.config(config, &config.Sections[i])
		}
	}
	if credentials != nil {
		for i := range credentials.Sections {
			m.credentials(credentials, &credentials.Sections[i])
		}
	}
	profiles := slices.SortedFunc(maps.Values(m.profiles), func(a, b *Profile) int {
		return strings.Compare(a.Name, b.Name)
	})
	for _, p := range profiles {
		p.halfPair(p.properties)
	}
	return profiles, m.faults
}

type merger struct {
	profiles map[string]*Profile
	faults   []Fault
}

func (m *merger) config(f *File, s *Section) {
	switch {
	case s.Type == TypeProfile:
		if old := m.profiles[s.Name]; old != nil { // only [default] can be there
			m.replaced(old.File, old.Line)
		}
		m.profiles[s.Name] = newProfile(f, s)
	case s.Type != "":
	case s.Name == DefaultProfile:
		if m.profiles[s.Name] != nil {
			m.replaced(f.Path, s.Line)
			return
		}
		m.profiles[s.Name] = newProfile(f, s)
	case strings.EqualFold(s.Name, DefaultProfile):
		m.faults = append(m.faults, Fault{f.Path, s.Line, "the section is ignored: the default profile is written [default], in small letters"})
	case s.Name == "plugins" || s.Name == "preview": // the AWS CLI's own
	default:
		m.faults = append(m.faults, Fault{f.Path, s.Line, fmt.Sprintf("the section is ignored, as AWS SDKs do: in the config file a profile is written [profile %s]", Shown(s.Name))})
	}
}

func (m *merger) replaced(file string, line int) {
	m.faults = append(m.faults, Fault{file, line, "the section is ignored: [profile default] replaces [default]"})
}

func (m *merger) credentials(f *File, s *Section) {
	if s.Type != "" {
		m.faults = append(m.faults, Fault{f.Path, s.Line, fmt.Sprintf("the section is ignored, as AWS SDKs do: in the credentials file a profile is written [NAME], without %q", s.Type)})
		return
	}
	p := m.profiles[s.Name]
	if p == nil {
		m.profiles[s.Name] = newProfile(f, s)
		return
	}
	over := byKey(s)
	p.Faults = append(p.Faults, s.Faults...)
	if p.halfPair(over) {
		delete(over, KeyID) // never half of one pair and half of another
		delete(over, SecretKey)
	}
	if _, pair := over[KeyID]; !pair {
		delete(over, SessionToken)
	}
	maps.Copy(p.properties, over)
}

func newProfile(f *File, s *Section) *Profile {
	return &Profile{Name: s.Name, File: f.Path, Line: s.Line, Faults: slices.Clone(s.Faults), properties: byKey(s)}
}

// halfPair records the fault of a key pair of which one half is missing.
func (p *Profile) halfPair(properties map[string]Property) bool {
	id, hasID := properties[KeyID]
	secret, hasSecret := properties[SecretKey]
	if hasID == hasSecret {
		return false
	}
	has, misses := id, SecretKey
	if hasSecret {
		has, misses = secret, KeyID
	}
	p.Faults = append(p.Faults, Fault{has.File, has.Line, fmt.Sprintf("%s is here, but %s is missing from the section: add it, or remove this line", has.Key, misses)})
	return true
}

func byKey(s *Section) map[string]Property {
	m := make(map[string]Property, len(s.Properties))
	for _, p := range s.Properties {
		m[p.Key] = p
	}
	return m
}

// Shown returns a name as a message may show it. What is too long for a name,
// or has the length and letters of an AWS secret, is not shown.
func Shown(name string) string {
	const secretLength = 40
	if len(name) > 128 || !clean(name) {
		return "(a name that is not shown)"
	}
	run := 0
	for _, r := range name {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '/', r == '+', r == '=':
			if run++; run >= secretLength {
				return "(a name that is not shown)"
			}
		default:
			run = 0
		}
	}
	return name
}
