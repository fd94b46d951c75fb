// Package awsiam makes the calls of AWS Identity and Access Management that the
// rotation of an IAM user's access key needs, and GetCallerIdentity of STS to see
// that a key works.
//
// They are six calls of AWS's Query protocol, signed by the SDK's signer and read
// with encoding/xml. The SDK's own client for IAM is not used: the daemon would
// hold the code of some 170 calls for these.
//
// Nothing is read from the environment or from the AWS shared files, nothing is
// tried again, but for a call that was signed by a wrong clock, and no redirect is
// followed. A [Client] fits what package custody asks of an IAM.
//
// Reading order: awsiam.go (endpoints, the calls), query.go (one call on the wire),
// errors.go (what is said of those that fail).
package awsiam

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// DefaultTimeout is how long one call may take unless [Options] says otherwise.
const DefaultTimeout = 10 * time.Second

// Options say where IAM is and how it is reached. The zero value is AWS's own
// endpoints in the aws partition, the system's roots and no proxy.
type Options struct {
	// Region chooses the partition, and with it IAM's endpoint and the region that
	// calls to IAM are signed for: IAM has one of each for a whole partition. It is
	// also the region whose STS is asked who a key belongs to. "" is us-east-1.
	Region string

	Endpoint string // of IAM, instead of AWS's own: https, or http to loopback only
	STS      string // of STS, likewise

	Timeout time.Duration // of one call; 0 is [DefaultTimeout]

	RootCAs *x509.CertPool                        // AWS_CA_BUNDLE; nil for the system's
	Proxy   func(*http.Request) (*url.URL, error) // toward https endpoints only; nil for none

	// Dial opens connections; nil is the net package's way.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client makes the calls. It is safe for concurrent use.
//
// Each call takes what signs it: a long-term key, or session credentials. IAM takes
// those of GetSessionToken only where they were minted with MFA (IAM user guide,
// "Request temporary security credentials"). A user of "" is the one whose
// credentials sign.
//
// Errors are [*broker.Error]s with IAM's code, without what is secret.
type Client struct {
	http     http.Client
	iam, sts service
	timeout  time.Duration
	ahead    atomic.Int64 // how far IAM's clock is ahead of this host's, in nanoseconds
}

// service is where calls of a service go, and what they are signed for.
type service struct {
	title   string // as people know it
	name    string // in the signature
	version string // of its API
	url     string
	region  string
	own     bool // url is not AWS's own
}

// New returns a Client, or an error that names what cannot be used.
func New(o Options) (*Client, error) {
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	if strings.Trim(o.Region, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || len(o.Region) > 63 {
		return nil, errors.New("the region of IAM is not the name of a region: lower-case letters, digits and hyphens") // it becomes part of a host name
	}
	c := &Client{http: newHTTP(o), timeout: o.Timeout}
	if c.timeout == 0 {
		c.timeout = DefaultTimeout
	}
	c.iam, c.sts = endpoints(o.Region)
	for _, own := range []struct {
		s   *service
		url string
	}{{&c.iam, o.Endpoint}, {&c.sts, o.STS}} {
		if own.url == "" {
			continue
		}
		if err := checkURL(own.url); err != nil {
			return nil, fmt.Errorf("%s endpoint: %w", strings.ToLower(own.s.title), err)
		}
		own.s.url, own.s.own = own.url, true
	}
	return c, nil
}

// endpoints are AWS's own, as the endpoint rules of the SDK for both services have
// them (without FIPS and dual-stack, which IAM has in some partitions only). STS's
// are regional.
func endpoints(region string) (iam, sts service) {
	host, home, suffix := "iam.amazonaws.com", "us-east-1", "amazonaws.com"
	for _, p := range []struct{ prefix, host, home, suffix string }{
		{"cn-", "iam.cn-north-1.amazonaws.com.cn", "cn-north-1", "amazonaws.com.cn"},
		{"us-gov-", "iam.us-gov.amazonaws.com", "us-gov-west-1", "amazonaws.com"},
		{"eusc-", "iam.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1", "amazonaws.eu"},
		{"us-iso-", "iam.us-iso-east-1.c2s.ic.gov", "us-iso-east-1", "c2s.ic.gov"},
		{"us-isob-", "iam.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1", "sc2s.sgov.gov"},
		{"eu-isoe-", "iam.eu-isoe-west-1.cloud.adc-e.uk", "eu-isoe-west-1", "cloud.adc-e.uk"},
		{"us-isof-", "iam.us-isof-south-1.csp.hci.ic.gov", "us-isof-south-1", "csp.hci.ic.gov"},
	} {
		if strings.HasPrefix(region, p.prefix) {
			host, home, suffix = p.host, p.home, p.suffix
			break
		}
	}
	return service{title: "IAM", name: "iam", version: "2010-05-08", url: "https://" + host, region: home},
		service{title: "STS", name: "sts", version: "2011-06-15", url: "https://sts." + region + "." + suffix, region: region}
}

func checkURL(endpoint string) error {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil:
		return errors.New("not a URL: want https://HOST[:PORT]") // err would repeat what may hold a password
	case u.User != nil:
		return errors.New("a URL with a user or password in it; remove them")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return fmt.Errorf("%q has a query or fragment; remove it", endpoint)
	case u.Hostname() == "":
		return fmt.Errorf("%q names no host: want https://HOST[:PORT]", endpoint)
	case u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("%q: use https, or http to loopback", endpoint)
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// Now is the time on IAM's clock, as the Date of its last answer tells; on this host's
// where none did. It is up to a second behind, and what the answer took to come.
func (c *Client) Now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// KeyState is an access key as IAM lists it. It is an alias of a plain struct, and so
// the same type as package custody's, which this one does not import.
type KeyState = struct {
	KeyID   string
	Active  bool
	Created time.Time
}

// CreateKey asks CreateAccessKey for a new key of the user, and returns it with the
// time of its making on IAM's clock. After an error that passes, IAM may have made
// one all the same, whose secret is lost.
func (c *Client) CreateKey(ctx context.Context, m broker.Material, user string) (broker.Material, time.Time, error) {
	var a struct {
		Key struct {
			ID      string    `xml:"AccessKeyId"`
			Secret  string    `xml:"SecretAccessKey"`
			Created time.Time `xml:"CreateDate"`
		} `xml:"CreateAccessKeyResult>AccessKey"`
	}
	if err := c.iam.call(ctx, c, "CreateAccessKey", m, ofUser(user), &a); err != nil {
		return broker.Material{}, time.Time{}, err
	}
	if a.Key.ID == "" || a.Key.Secret == "" {
		return broker.Material{}, time.Time{}, c.iam.odd("CreateAccessKey", "it holds no key")
	}
	return broker.Material{AccessKeyID: a.Key.ID, SecretAccessKey: broker.NewSecret(a.Key.Secret)}, a.Key.Created, nil
}

// maxPages bounds a list: a user has two keys, and a page may hold a hundred.
const maxPages = 5

// ListKeys asks ListAccessKeys for the user's keys.
func (c *Client) ListKeys(ctx context.Context, m broker.Material, user string) ([]KeyState, error) {
	var keys []KeyState
	params := ofUser(user)
	for range maxPages {
		var a struct {
			Result *struct {
				Keys []struct {
					ID      string    `xml:"AccessKeyId"`
					Status  string    `xml:"Status"`
					Created time.Time `xml:"CreateDate"`
				} `xml:"AccessKeyMetadata>member"`
				More   bool   `xml:"IsTruncated"`
				Marker string `xml:"Marker"`
			} `xml:"ListAccessKeysResult"`
		}
		if err := c.iam.call(ctx, c, "ListAccessKeys", m, params, &a); err != nil {
			return nil, err
		}
		if a.Result == nil {
			return nil, c.iam.odd("ListAccessKeys", "it holds no list")
		}
		for _, k := range a.Result.Keys {
			if k.ID == "" {
				return nil, c.iam.odd("ListAccessKeys", "a key in it has no id")
			}
			keys = append(keys, KeyState{KeyID: k.ID, Active: k.Status == "Active", Created: k.Created})
		}
		if !a.Result.More {
			return keys, nil
		}
		params.Set("Marker", a.Result.Marker)
	}
	return nil, c.iam.odd("ListAccessKeys", "the list has no end")
}

// LastUsed asks GetAccessKeyLastUsed when a key was last used, as far as IAM knows by
// now; the zero time means never.
func (c *Client) LastUsed(ctx context.Context, m broker.Material, keyID string) (time.Time, error) {
	var a struct {
		// LastUsedDate is missing for a key that was never used (IAM API reference,
		// "AccessKeyLastUsed"), so that what is around it must be there.
		Used *struct {
			Date *time.Time `xml:"LastUsedDate"`
		} `xml:"GetAccessKeyLastUsedResult>AccessKeyLastUsed"`
	}
	err := c.iam.call(ctx, c, "GetAccessKeyLastUsed", m, url.Values{"AccessKeyId": {keyID}}, &a)
	switch {
	case err != nil:
		return time.Time{}, err
	case a.Used == nil:
		return time.Time{}, c.iam.odd("GetAccessKeyLastUsed", "it does not say")
	case a.Used.Date == nil:
		return time.Time{}, nil
	}
	return *a.Used.Date, nil
}

// SetActive makes a key of the user active or inactive, by UpdateAccessKey.
func (c *Client) SetActive(ctx context.Context, m broker.Material, user, keyID string, active bool) error {
	params := ofUser(user)
	params.Set("AccessKeyId", keyID)
	params.Set("Status", "Inactive")
	if active {
		params.Set("Status", "Active")
	}
	return c.iam.call(ctx, c, "UpdateAccessKey", m, params, nil)
}

// DeleteKey deletes a key of the user, for ever.
func (c *Client) DeleteKey(ctx context.Context, m broker.Material, user, keyID string) error {
	params := ofUser(user)
	params.Set("AccessKeyId", keyID)
	return c.iam.call(ctx, c, "DeleteAccessKey", m, params, nil)
}

// WhoAmI asks STS's GetCallerIdentity, which needs no permission, for the account and
// the IAM user that the credentials belong to. user is "" where it is none: the
// account's root user, or a role.
func (c *Client) WhoAmI(ctx context.Context, m broker.Material) (account, user string, err error) {
	var a struct {
		Account string `xml:"GetCallerIdentityResult>Account"`
		ARN     string `xml:"GetCallerIdentityResult>Arn"`
	}
	if err := c.sts.call(ctx, c, "GetCallerIdentity", m, url.Values{}, &a); err != nil {
		return "", "", err
	}
	if a.Account == "" || a.ARN == "" {
		return "", "", c.sts.odd("GetCallerIdentity", "it names no account or ARN")
	}
	return a.Account, UserOf(a.ARN), nil
}

// UserOf is the name in the ARN of an IAM user, which may have a path before it:
// arn:PARTITION:iam::ACCOUNT:user/PATH/NAME. "" for other ARNs.
func UserOf(arn string) string {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) != 6 || parts[2] != "iam" || !strings.HasPrefix(parts[5], "user/") {
		return ""
	}
	return parts[5][strings.LastIndexByte(parts[5], '/')+1:]
}

func ofUser(user string) url.Values {
	if user == "" {
		return url.Values{} // an empty name would not mean the caller
	}
	return url.Values{"UserName": {user}}
}
