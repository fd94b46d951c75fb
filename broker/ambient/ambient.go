// Package ambient obtains the credentials that a machine or a container gives
// to whatever runs on it: what `credential_source` of an AWS config names, and
// what SDKs find by looking around. They are asked for only where a profile
// says so.
//
//   - ambient.go: the [broker.Minter], and where the endpoints are
//   - fetch.go: asking the two kinds of endpoint
//   - guard.go: which addresses are talked to: local ones, never our own
//   - chain.go: where SDKs look for credentials, and what they would find first
//   - environment.go: session credentials of the environment
package ambient

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/stsbroker/stsbroker/broker"
)

// Sources, in the AWS config's own words.
const (
	EC2 = "Ec2InstanceMetadata" // the role of an EC2 instance, from its metadata service
	ECS = "EcsContainer"        // the role of an ECS task or an EKS pod, from its agent
)

// Where the endpoints are if the environment does not say otherwise.
const (
	ec2IPv4 = "http://169.254.169.254"
	ec2IPv6 = "http://[fd00:ec2::254]"
	ecsHost = "http://169.254.170.2" // of AWS_CONTAINER_CREDENTIALS_RELATIVE_URI
)

// Options are what a source needs to know of this process.
type Options struct {
	// Getenv looks up the environment of this process; [New] reads it, once. A
	// service that takes nothing from the environment passes a function that
	// knows nothing, and so has no [ECS].
	Getenv func(string) string

	// Listeners are the addresses on which this process listens. An endpoint
	// among them would be the broker asking itself.
	Listeners []netip.AddrPort
}

// Minter asks one endpoint. It is a [broker.Minter].
type Minter struct {
	source    string
	endpoint  string
	token     broker.Secret // what to show there
	tokenFile string        // read at each call; wins over token, as in SDKs
	guard     guard
	fetch     func(context.Context, *Minter) (reply, error)
}

var _ broker.Minter = (*Minter)(nil)

// New returns the minter for a source. Its error is of [broker.KindConfig] and
// says what of the environment is missing or cannot be used.
func New(source string, o Options) (*Minter, error) {
	m := &Minter{source: source}
	var err error
	switch source {
	case EC2:
		m.fetch = fetchEC2
		m.endpoint, err = m.findEC2(o.Getenv)
	case ECS:
		m.fetch = fetchECS
		m.endpoint, err = m.findECS(o.Getenv)
	default:
		err = m.refuse(broker.KindConfig, nil, "is not %s or %s", EC2, ECS)
	}
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(m.endpoint)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return nil, m.refuse(broker.KindConfig, nil, "its endpoint is not an http or https URL")
	}
	m.guard = guard{source: source, tls: u.Scheme == "https", ours: o.Listeners}
	if err := m.guard.checkURL(u); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Minter) findEC2(getenv func(string) string) (string, error) {
	if strings.EqualFold(getenv("AWS_EC2_METADATA_DISABLED"), "true") {
		return "", m.refuse(broker.KindConfig, nil, "AWS_EC2_METADATA_DISABLED is true where stsbroker serve runs; unset it there")
	}
	if e := getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT"); e != "" {
		return strings.TrimSuffix(e, "/"), nil
	}
	switch mode := getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"); {
	case mode == "", strings.EqualFold(mode, "IPv4"):
		return ec2IPv4, nil
	case strings.EqualFold(mode, "IPv6"):
		return ec2IPv6, nil
	}
	return "", m.refuse(broker.KindConfig, nil, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE is neither IPv4 nor IPv6")
}

func (m *Minter) findECS(getenv func(string) string) (string, error) {
	m.token = broker.NewSecret(getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN"))
	m.tokenFile = getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
	if path := getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"); path != "" {
		if !strings.HasPrefix(path, "/") {
			return "", m.refuse(broker.KindConfig, nil, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI does not begin with a slash")
		}
		return ecsHost + path, nil
	}
	if full := getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI"); full != "" {
		return full, nil
	}
	return "", m.refuse(broker.KindConfig, nil, "neither AWS_CONTAINER_CREDENTIALS_RELATIVE_URI nor AWS_CONTAINER_CREDENTIALS_FULL_URI is set where stsbroker serve runs: "+
		"that is not an ECS task or an EKS pod with a role, or the service does not pass its environment on")
}

// Digest implements [broker.Minter]. It covers the token, which can be what
// chooses the role (as with EKS Pod Identity), and not what a token file holds,
// which changes all the time.
func (m *Minter) Digest() broker.Digest {
	return broker.DigestOf("ambient", m.source, m.endpoint, m.token.Reveal(), m.tokenFile)
}

// refuse words an error. The endpoint is left out of what clients read.
func (m *Minter) refuse(kind broker.Kind, cause error, format string, args ...any) error {
	return refuse(m.source, kind, cause, format, args...)
}

func refuse(source string, kind broker.Kind, cause error, format string, args ...any) error {
	return &broker.Error{Kind: kind, Public: "credential_source " + source + ": " + fmt.Sprintf(format, args...), Cause: cause}
}
