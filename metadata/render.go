package metadata

import (
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// rendered is a set in the container dialect.
type rendered struct {
	set    *broker.Set
	body   []byte
	length []string  // the Content-Length header's value
	until  time.Time // the Expiration in body: to a client, the set is expired from then on
}

var errIncomplete = errors.New("the set is incomplete")

// render makes the body of a 200. Fields that are not known are left out, never
// null or empty: .NET fails on those. Expiration is in whole seconds, rounded down.
func render(set *broker.Set) (*rendered, error) {
	body := struct {
		RoleArn         string `json:",omitempty"` // s3fs needs it
		AccessKeyId     string
		SecretAccessKey string
		Token           string
		Expiration      string // without it botocore fails and Go never refreshes
		AccountId       string `json:",omitempty"`
	}{
		RoleArn:         set.RoleARN,
		AccessKeyId:     set.AccessKeyID,
		SecretAccessKey: set.SecretAccessKey.Reveal(),
		Token:           set.SessionToken.Reveal(),
		AccountId:       set.AccountID,
	}
	if body.AccessKeyId == "" || body.SecretAccessKey == "" || body.Token == "" || set.Advertised.IsZero() {
		return nil, errIncomplete
	}
	until := set.Advertised.UTC().Truncate(time.Second)
	body.Expiration = until.Format("2006-01-02T15:04:05Z")
	b := marshal(body)
	return &rendered{set: set, body: b, length: []string{strconv.Itoa(len(b))}, until: until}, nil
}

// live reports whether the set may be handed out: really, and in the client's eyes.
func (r *rendered) live(now time.Time) bool { return r.set.Left(now) > 0 && now.Before(r.until) }

// renderings keeps what was rendered, by profile, so that a request costs a
// lookup. Only names that the broker has credentials for come in, and what has
// expired goes out when something new comes in: it is no larger than the
// configuration.
type renderings struct {
	mu sync.Mutex // of writers
	m  atomic.Pointer[map[string]*rendered]
}

// of returns the profile's rendered set, rendering it if it is another one than last time.
func (c *renderings) of(profile string, set *broker.Set, now time.Time) (*rendered, error) {
	if m := c.m.Load(); m != nil {
		if r := (*m)[profile]; r != nil && r.set == set {
			return r, nil
		}
	}
	fresh, err := render(set)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := map[string]*rendered{strings.Clone(profile): fresh} // not a part of the request's line
	if m := c.m.Load(); m != nil {
		for name, r := range *m {
			if name != profile && r.live(now) {
				next[name] = r
			}
		}
	}
	c.m.Store(&next)
	return fresh, nil
}
