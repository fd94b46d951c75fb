package main

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/stsbroker/stsbroker/metadata/listen"
)

// The one that SDKs prefix AWS_CONTAINER_CREDENTIALS_RELATIVE_URI with.
const ecsURL = "http://169.254.170.2"

// way is where the environment leads an SDK.
type way struct {
	Kind     string // doorContainer, doorECS, doorEKS, doorIMDS; "" for none
	Variable string // that names it
	Raw      string
	URL      *url.URL // nil where Raw is none
	Profile  string   // that the path names; "" where the token or the listener decides
	Problem  error    // why Raw is no URL
}

// wayOf reads the environment as SDKs do: botocore takes RELATIVE_URI even when it is
// empty, and the container endpoint comes before IMDS in all of them.
func wayOf(lookup func(string) (string, bool)) way {
	full, _ := lookup(varFullURI)
	relative, _ := lookup(varRelativeURI)
	imds, _ := lookup(varIMDS)
	w := way{}
	switch {
	case full != "":
		w = way{Kind: doorContainer, Variable: varFullURI, Raw: full}
	case relative != "":
		w = way{Kind: doorECS, Variable: varRelativeURI, Raw: ecsURL + "/" + strings.TrimPrefix(relative, "/")}
	case imds != "":
		w = way{Kind: doorIMDS, Variable: varIMDS, Raw: imds}
	default:
		return w
	}
	u, err := url.Parse(w.Raw)
	switch {
	case err != nil:
		w.Problem = errors.New("is no URL")
	case u.Scheme != "http" && u.Scheme != "https":
		w.Problem = errors.New("does not begin with http:// or https://")
	case u.Hostname() == "":
		w.Problem = errors.New("names no host")
	case strings.Contains(u.Hostname(), ":") && !strings.HasPrefix(u.Host, "["):
		w.Problem = errors.New("has an IPv6 address without brackets")
	default:
		w.URL = u
	}
	if err != nil && strings.Count(w.Raw, ":") > 3 && !strings.Contains(w.Raw, "[") {
		w.Problem = errors.New("has an IPv6 address without brackets")
	}
	if w.URL == nil || w.Kind == doorIMDS {
		return w
	}
	path := "/" + strings.Trim(w.URL.Path, "/")
	if w.Kind == doorContainer && path == "/v1/credentials" {
		w.Kind = doorEKS
	}
	w.Profile, _ = strings.CutPrefix(path, "/credentials/")
	if w.Profile == path {
		w.Profile = ""
	}
	return w
}

// asURL is the way to a URL that no variable names.
func asURL(u string) way {
	return wayOf(func(name string) (string, bool) { return u, name == varFullURI })
}

// shown is the URL without what may be a secret: a user, a query.
func (w way) shown() string {
	if w.URL == nil {
		return "its value"
	}
	return (&url.URL{Scheme: w.URL.Scheme, Host: w.URL.Host, Path: w.URL.Path, RawPath: w.URL.RawPath}).String()
}

// container reports whether the way is the container endpoint, whatever its address.
func (w way) container() bool { return w.Kind != "" && w.Kind != doorIMDS }

// addr is the literal address and port, the zero value where there is a name.
func (w way) addr() netip.AddrPort {
	if w.URL == nil {
		return netip.AddrPort{}
	}
	port := w.URL.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[w.URL.Scheme]
	}
	host := w.URL.Hostname()
	if strings.EqualFold(host, "localhost") {
		host = "127.0.0.1"
	}
	ap, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil {
		return netip.AddrPort{}
	}
	return ap
}

// allowed reports whether SDKs take the host over plain http: literal loopback, or one
// of the link-local addresses where AWS itself gives out credentials.
func (w way) allowed() bool {
	a := w.addr().Addr()
	return w.URL.Scheme == "https" || a.IsLoopback() || listen.LinkLocal(a)
}

// covers reports whether a NO_PROXY list keeps the host from a proxy. ranges are only
// read by some programs, and not by botocore.
func covers(list, host string, ranges bool) bool {
	ip, _ := netip.ParseAddr(host)
	return slices.ContainsFunc(strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }), func(entry string) bool {
		if entry == "*" || strings.EqualFold(strings.Trim(entry, "[]"), host) {
			return true
		}
		if h, _, err := net.SplitHostPort(entry); err == nil && strings.EqualFold(h, host) {
			return true
		}
		p, err := netip.ParsePrefix(entry)
		return ranges && err == nil && ip.IsValid() && p.Contains(ip)
	})
}
