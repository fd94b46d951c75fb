package metadata

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

// Source hands out credentials: *broker.Broker. It observes its own refusals;
// its errors are *[broker.Error]. On a warm request it must not block.
type Source interface {
	Get(ctx context.Context, a broker.Ask) (*broker.Set, error)
}

// Tokens knows clients' tokens. The error is a *[broker.Error], of
// [broker.KindUnauthorized] for a token that is none of ours. The value is what
// came on the wire, byte for byte; comparing takes constant time.
type Tokens interface {
	Authenticate(token string) (*broker.Grant, error)
}

// ContainerPatience is how long the door waits for a mint: Java, PHP, C++ and
// JavaScript v2 give up after a second, counted from before they connect. A
// thousand of them at once on two cores take a tenth of a second more.
const ContainerPatience = 750 * time.Millisecond

// Container is what the container door is made from; every field must be set,
// except Patience.
type Container struct {
	Source   Source
	Tokens   Tokens
	Requests Requests
	Observer broker.Observer
	Patience time.Duration // 0 is [ContainerPatience]
}

// NewContainer returns the container (ECS/EKS) door, behind its [Guard]:
//
//	/credentials/PROFILE   that profile; the rest of the path is its name
//	/credentials           the token's default profile
//
// with the token in Authorization, on every path. A name may hold slashes and
// percent-escapes; one trailing slash is not part of it, unless written %2F.
// Several leading slashes count as one. Nothing is redirected: Java follows no
// redirect. The query is not read.
//
// Answers are 200 with credentials, or an error as [statusOf] has it: 401
// without a valid token, whatever the path; 403 for an unknown path with one.
func NewContainer(c Container) http.Handler {
	if c.Patience == 0 {
		c.Patience = ContainerPatience
	}
	d := &container{
		refuser:  refuser{door: broker.DoorContainer, requests: c.Requests, observer: c.Observer},
		source:   c.Source,
		tokens:   c.Tokens,
		patience: c.Patience,
		rendered: renderings{in: containerBody},
	}
	return &guard{refuser: d.refuser, next: d.serve}
}

type container struct {
	refuser
	source   Source
	tokens   Tokens
	patience time.Duration
	rendered renderings
}

// serve does a warm request without allocating: what it needs was made when the
// connection, the token or the set came.
func (d *container) serve(w http.ResponseWriter, r *http.Request, conn *listen.Caller) {
	who := brokerCaller(d.door, conn)

	grant, err := d.authenticate(r.Header["Authorization"])
	if err != nil {
		e := broker.AsError(err)
		d.refuse(w, statusOf(e.Kind), who, e)
		return
	}
	who.Token, who.Exec = grant.ID, grant.Exec
	if grant.BoundUID {
		var unknown error
		who.Peer, unknown = conn.Peer()
		if err := grant.Admits(who.Peer); err != nil {
			d.refuse(w, http.StatusForbidden, who, &broker.Error{
				Kind:   broker.KindForbidden,
				Public: "this token is bound to another user than the caller seems to be; the broker's log says more",
				Cause:  errors.Join(err, unknown),
			})
			return
		}
	}
	profile, ok := profileOf(r.URL)
	if ok && profile == "" && len(grant.Profiles) > 0 {
		profile = grant.Profiles[0]
	}
	if !ok || profile == "" {
		// Not 404: some clients drop the message, others fall silent.
		d.refuse(w, http.StatusForbidden, who, &broker.Error{Kind: broker.KindForbidden, Public: "nothing is here: ask for /credentials/PROFILE"})
		return
	}

	set, err := d.source.Get(r.Context(), broker.Ask{Caller: who, Profile: profile, Patience: d.patience})
	if err != nil {
		e := broker.AsError(err)
		d.fail(w, statusOf(e.Kind), who, e)
		return
	}
	out, err := d.rendered.of(profile, set, time.Now())
	if err != nil {
		d.refuse(w, http.StatusServiceUnavailable, who, &broker.Error{
			Kind: broker.KindUnavailable, Profile: profile, Cause: err,
			Public: "profile " + profile + ": no usable credentials right now; stsbroker status tells more",
		})
		return
	}
	writeHeader(w, jsonValue, out.length)
	_, _ = w.Write(out.body)
	d.requests.Request(d.door, http.StatusOK)
}

// authenticate takes exactly one Authorization header. Of two, a proxy and we
// could each believe another one.
func (d *container) authenticate(values []string) (*broker.Grant, error) {
	switch len(values) {
	case 1:
		return d.tokens.Authenticate(values[0])
	case 0:
		return nil, &broker.Error{Kind: broker.KindUnauthorized, Public: "no token: send it in the Authorization header, as stsbroker env prints it"}
	default:
		return nil, &broker.Error{Kind: broker.KindUnauthorized, Public: "more than one Authorization header"}
	}
}

// profileOf reads the path: the name, "" for the token's default, and whether
// the path is one of this door's.
func profileOf(u *url.URL) (name string, ok bool) {
	path := strings.TrimLeft(u.Path, "/")
	name, ok = strings.CutPrefix(path, "credentials")
	if !ok || name == "" {
		return "", ok
	}
	if name[0] != '/' {
		return "", false
	}
	name = name[1:]
	// RawPath is set where it differs from Path's usual encoding, as %2F does.
	if u.RawPath == "" || strings.HasSuffix(u.RawPath, "/") {
		name = strings.TrimSuffix(name, "/")
	}
	return name, true
}
