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

// rendered is a set in a door's dialect.
type rendered struct {
	set    *broker.Set
	body   []byte
	length []string  // the Content-Length header's value
	until  time.Time // the Expiration in body: to a client, the set is expired from then on
}

var (
	errIncomplete = errors.New("the set is incomplete")
	errExpired    = errors.New("the set has expired")
)

// dialect is the body of a 200, a struct of strings: what a door's clients want
// to read of a complete set. Fields that are not known are left out, never null
// or empty: .NET fails on those.
type dialect func(set *broker.Set, expiration string) any

// render makes the body of a 200. Expiration is in whole seconds, rounded down.
func render(set *broker.Set, in dialect) (*rendered, error) {
	if set.AccessKeyID == "" || set.SecretAccessKey.IsZero() || set.SessionToken.IsZero() || set.Advertised.IsZero() {
		return nil, errIncomplete
	}
	b := marshal(in(set, set.Expiration()))
	return &rendered{set: set, body: b, length: []string{strconv.Itoa(len(b))}, until: set.Advertised.UTC().Truncate(time.Second)}, nil
}

func containerBody(set *broker.Set, expiration string) any {
	return struct {
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
		Expiration:      expiration,
		AccountId:       set.AccountID,
	}
}

// usable returns an error when the set has expired: really, or in the client's eyes.
func (r *rendered) usable(now time.Time) error {
	if r.set.Left(now) > 0 && now.Before(r.until) {
		return nil
	}
	return errExpired
}

// renderings keeps what was rendered, by profile, so that a request costs a
// lookup. Only names that the broker has credentials for come in, and what has
// expired goes out when something new comes in: it is no larger than the
// configuration.
type renderings struct {
	in dialect
	mu sync.Mutex // of writers
	m  atomic.Pointer[map[string]*rendered]
}

// of returns the profile's rendered set, rendering it if it is another one than
// last time. The error says why the set may not be handed out.
func (c *renderings) of(profile string, set *broker.Set, now time.Time) (*rendered, error) {
	if m := c.m.Load(); m != nil {
		if r := (*m)[profile]; r != nil && r.set == set {
			return r, r.usable(now)
		}
	}
	fresh, err := render(set, c.in)
	if err != nil {
		return nil, err
	}
	if err := fresh.usable(now); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := map[string]*rendered{strings.Clone(profile): fresh} // not a part of the request's line
	if m := c.m.Load(); m != nil {
		for name, r := range *m {
			if name != profile && r.usable(now) == nil {
				next[name] = r
			}
		}
	}
	c.m.Store(&next)
	return fresh, nil
}
