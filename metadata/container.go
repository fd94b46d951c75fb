package metadata

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
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
// except Patience and Tokenless.
type Container struct {
	Source    Source
	Tokens    Tokens
	Roles     func(arn string) []string // the profiles whose role has exactly this ARN
	Requests  Requests
	Observer  broker.Observer
	Patience  time.Duration // 0 is [ContainerPatience]
	Tokenless *Tokenless    // nil for none
	Probe     string        // path that is answered 401 and told to nobody: whoever knows it only asks whether the door answers; "" for none
}

// Tokenless are callers who send no Authorization header, and are known by the
// kernel's word alone. It is for clients that cannot send one (s3fs), and for a
// Unix socket, which neither a web page nor a request that was talked out of a
// program reaches.
type Tokenless struct {
	Door     string            // what Access and the log know them by
	Access   broker.Authorizer // is asked first, with the peer that the kernel tells
	Profiles []string          // that they may have, the first is the default; nil for all that Access admits them to
}

// NewContainer returns the container (ECS/EKS) door, behind its [Guard]:
//
//	/credentials/PROFILE   that profile; the rest of the path is its name
//	/credentials           the token's default profile
//	/v1/credentials        the same, as EKS Pod Identity has it
//	/role-arn/ARN          the one profile of the token that has this role
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
		refuser:   refuser{door: broker.DoorContainer, requests: c.Requests, observer: c.Observer},
		Container: c,
		rendered:  renderings{in: containerBody},
	}
	if c.Tokenless != nil && c.Tokenless.Door == broker.DoorSocket {
		d.door = broker.DoorSocket // all its callers are such
	}
	return &guard{refuser: d.refuser, next: d.serve}
}

type container struct {
	refuser
	Container
	rendered renderings
}

// right is what a caller may ask for.
type right struct {
	profiles []string // the first is the default
	all      bool     // every profile; there is no default
}

func (o right) covers(profile string) bool { return o.all || slices.Contains(o.profiles, profile) }

// serve does a warm request for a profile by its name, or for the default one, without
// allocating: what it needs was made when the connection, the token or the set came.
func (d *container) serve(w http.ResponseWriter, r *http.Request, conn *listen.Caller) {
	if d.Probe != "" && r.URL.Path == d.Probe {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	who := brokerCaller(broker.DoorContainer, conn)
	may, e := d.recognise(r, conn, &who)
	if e != nil {
		w.Header()["Connection"] = closeValue // known to the kernel or not: who may have nothing keeps nothing open
	}
	var profile string
	if e == nil {
		profile, e = d.choose(r.Context(), r.URL, who, may)
	}
	if e == nil && who.Door != broker.DoorContainer && !may.covers(profile) { // what tokens are for, Source knows
		e = &broker.Error{Kind: broker.KindForbidden, Public: "without a token this endpoint gives only some profiles, and this is none of them: send the token that stsbroker env prints"}
		if err := d.Tokenless.Access.Authorize(r.Context(), who, profile); err != nil { // what is on the list, those learn who may have it
			e = broker.AsError(err)
		}
	}
	if e != nil {
		d.refuse(w, statusOf(e.Kind), who, e)
		return
	}

	set, err := d.Source.Get(r.Context(), broker.Ask{Caller: who, Profile: profile, Patience: d.Patience})
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

// recognise finds out who asks, by the token or, where none was sent and none is
// needed, by the kernel's word. It completes who.
func (d *container) recognise(r *http.Request, conn *listen.Caller, who *broker.Caller) (right, *broker.Error) {
	shown := r.Header["Authorization"]
	if len(shown) == 0 && d.Tokenless != nil {
		var unknown error
		who.Door = d.Tokenless.Door
		who.Peer, unknown = conn.Peer()
		if err := d.Tokenless.Access.Authorize(r.Context(), *who, ""); err != nil {
			e := *broker.AsError(err)
			e.Public = "this endpoint does not serve the user whom the caller seems to be; the broker's log says more"
			e.Cause = errors.Join(e.Cause, unknown)
			return right{}, &e
		}
		return right{profiles: d.Tokenless.Profiles, all: d.Tokenless.Profiles == nil}, nil
	}
	grant, err := d.authenticate(shown)
	if err != nil {
		return right{}, broker.AsError(err)
	}
	who.Token, who.Exec = grant.ID, grant.Exec
	if grant.BoundUID || grant.NeedsPeer {
		var unknown error
		who.Peer, unknown = conn.Peer()
		if err := grant.Admits(who.Peer); err != nil {
			return right{}, &broker.Error{
				Kind:   broker.KindForbidden,
				Public: "this token is bound to another user than the caller seems to be; the broker's log says more",
				Cause:  errors.Join(err, unknown),
			}
		}
	}
	return right{profiles: grant.Profiles}, nil
}

// authenticate takes exactly one Authorization header. Of two, a proxy and we
// could each believe another one.
func (d *container) authenticate(values []string) (*broker.Grant, error) {
	switch len(values) {
	case 1:
		return d.Tokens.Authenticate(values[0])
	case 0:
		return nil, &broker.Error{Kind: broker.KindUnauthorized, Public: "no token: send it in the Authorization header, as stsbroker env prints it"}
	default:
		return nil, &broker.Error{Kind: broker.KindUnauthorized, Public: "more than one Authorization header"}
	}
}

// choose returns the profile that a path means to a caller. Its errors are of
// [broker.KindForbidden], so never 404: some clients drop the message then, others
// fall silent.
func (d *container) choose(ctx context.Context, u *url.URL, who broker.Caller, may right) (string, *broker.Error) {
	refuse := func(public string) (string, *broker.Error) {
		return "", &broker.Error{Kind: broker.KindForbidden, Public: public}
	}
	profile, arn, ok := target(u)
	switch {
	case arn != "":
		switch found := d.withRole(ctx, arn, who, may); len(found) {
		case 0:
			return refuse("no profile that is yours to use is configured for exactly this role; ask for /credentials/PROFILE")
		case 1:
			return found[0], nil
		default:
			return refuse("several profiles have this role (" + strings.Join(found, ", ") + "): ask for /credentials/PROFILE")
		}
	case profile != "":
		return profile, nil
	case ok && len(may.profiles) > 0:
		return may.profiles[0], nil
	}
	return refuse("nothing is here: ask for /credentials/PROFILE")
}

// target reads the path: a profile's name, or the ARN of a role, or neither for the
// caller's default. ok says whether the path is one of this door's.
func target(u *url.URL) (profile, arn string, ok bool) {
	path := strings.TrimLeft(u.Path, "/")
	// RawPath is set where it differs from Path's usual encoding, as %2F does.
	if u.RawPath == "" || strings.HasSuffix(u.RawPath, "/") {
		path = strings.TrimSuffix(path, "/")
	}
	if arn, ok = strings.CutPrefix(path, "role-arn/"); ok {
		return "", arn, arn != ""
	}
	if profile, ok = strings.CutPrefix(path, "credentials/"); ok {
		return profile, "", true
	}
	return "", "", path == "credentials" || path == "v1/credentials"
}

// withRole returns the profiles of the role that are the caller's. Those of a token are
// in its grant; to others no name is told that they may not have.
func (d *container) withRole(ctx context.Context, arn string, who broker.Caller, may right) []string {
	return slices.DeleteFunc(slices.Clone(d.Roles(arn)), func(profile string) bool {
		return !may.covers(profile) || who.Door != broker.DoorContainer && d.Tokenless.Access.Authorize(ctx, who, profile) != nil
	})
}
