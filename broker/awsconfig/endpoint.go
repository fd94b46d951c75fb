package awsconfig

import (
	"fmt"
	"strings"

	"github.com/stsbroker/stsbroker/internal/awsini"
)

// Switch is a setting that may be left out.
type Switch uint8

// The values of a Switch.
const (
	Unset Switch = iota
	Off
	On
)

// String is "unset", "off" or "on".
func (s Switch) String() string {
	switch s {
	case Off:
		return "off"
	case On:
		return "on"
	}
	return "unset"
}

// Endpoint is what a profile's own section says of the STS endpoint that its
// calls go to. As in SDKs, nothing is inherited: not from a source_profile, nor
// from the default profile. All of it unset is the regional endpoint.
//
// [Endpoint.Effective] is what counts.
type Endpoint struct {
	// Legacy is sts_regional_endpoints, On for legacy: the global endpoint, for
	// the older regions of the partition aws. It gives way to FIPS and DualStack.
	Legacy    Switch
	FIPS      Switch // use_fips_endpoint
	DualStack Switch // use_dualstack_endpoint

	// IgnoreURLs is ignore_configured_endpoint_urls. On switches off URL, and in
	// SDKs AWS_ENDPOINT_URL and AWS_ENDPOINT_URL_STS too.
	IgnoreURLs Switch

	// URL is where SDKs send calls of STS instead: endpoint_url under sts in the
	// services section, else the profile's own endpoint_url. It is as written
	// and nothing is checked of it; "" for none. Both variables named above beat it.
	URL      string
	URLPlace string // "FILE:LINE" of URL
}

// Effective puts the environment above the file: AWS_STS_REGIONAL_ENDPOINTS,
// AWS_USE_FIPS_ENDPOINT, AWS_USE_DUALSTACK_ENDPOINT and
// AWS_IGNORE_CONFIGURED_ENDPOINT_URLS, of which an empty one counts as unset.
// URL is empty in what it returns where it is to be ignored. Errors are a
// variable that has none of its values, and, as in the Go SDK, a URL together
// with FIPS or dual-stack; they name no profile.
func (e Endpoint) Effective(getenv func(string) string) (Endpoint, error) {
	for _, s := range e.settings() {
		v := getenv(s.variable)
		if v != "" && !s.parse(v) {
			return Endpoint{}, fmt.Errorf("%s is neither %s nor %s: correct it, or unset it", s.variable, s.on, s.off)
		}
	}
	if e.IgnoreURLs == On {
		e.URL, e.URLPlace = "", ""
	}
	if e.URL != "" {
		for _, s := range e.settings() {
			if *s.to == On && (s.to == &e.FIPS || s.to == &e.DualStack) {
				return Endpoint{}, fmt.Errorf("%s: endpoint_url and %s (or %s) exclude each other: switch one of them off", e.URLPlace, s.key, s.variable)
			}
		}
	}
	return e, nil
}

// setting is a Switch with its names and values.
type setting struct {
	key, variable string
	on, off       string
	to            *Switch
}

func (e *Endpoint) settings() []setting {
	return []setting{
		{keyRegionalSTS, "AWS_STS_REGIONAL_ENDPOINTS", "legacy", "regional", &e.Legacy},
		{keyFIPS, "AWS_USE_FIPS_ENDPOINT", "true", "false", &e.FIPS},
		{keyDualStack, "AWS_USE_DUALSTACK_ENDPOINT", "true", "false", &e.DualStack},
		{keyIgnoreURLs, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true", "false", &e.IgnoreURLs},
	}
}

// parse sets the switch, or reports false for a value that is none. SDKs make
// "false" of such a value in a file, or an error, or look at the case of letters.
func (s setting) parse(v string) bool {
	switch {
	case strings.EqualFold(v, s.on):
		*s.to = On
	case strings.EqualFold(v, s.off):
		*s.to = Off
	default:
		return false
	}
	return true
}

// endpoint reads the settings of the endpoint, for a profile that calls STS.
func (r *resolver) endpoint(n *node) error {
	if n.out.Session == nil && n.out.Role == nil && n.out.WebIdentity == nil {
		return nil
	}
	e := &n.out.Endpoint
	for _, s := range e.settings() {
		if p, ok := n.Get(s.key); ok && !s.parse(p.Value) {
			return n.atKey(p, "%s is neither %s nor %s: correct it, or remove the line", s.key, s.on, s.off)
		}
	}
	url, _ := n.Get(keyEndpointURL)
	if services, ok := n.Get(keyServices); ok && services.Value != "" {
		section := r.services[services.Value]
		if section == nil {
			return n.atKey(services, "services %s does not exist: correct the name, or add the section%s", awsini.Shown(services.Value), r.hint())
		}
		if len(section.Faults) > 0 {
			f := section.Faults[0]
			return n.at(f.File, f.Line, "%s", f.Message)
		}
		for _, p := range nested(section, "sts") {
			if p.Key == keyEndpointURL && p.Value != "" {
				url = p
			}
		}
	}
	if url.Value != "" {
		e.URL, e.URLPlace = url.Value, url.Place()
	}
	if _, ok := n.Get(keyCABundle); ok {
		n.note(noteCABundle)
	}
	return nil
}

// nested returns the indented properties under a key.
func nested(s *awsini.Section, key string) []awsini.Property {
	for _, p := range s.Properties {
		if p.Key == key {
			return p.Nested
		}
	}
	return nil
}
