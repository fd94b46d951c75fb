package metadata

import (
	"context"
	"encoding/base32"
	"encoding/hex"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

// IMDSPatience is how long the door waits for a mint: Go v2 gives up when half a
// second has passed without an answer, and a leaf is to come in less than 400 ms.
const IMDSPatience = 350 * time.Millisecond

// maxTTL is the longest life of a session token, 6 h, in seconds (EC2 user guide,
// "Use the Instance Metadata Service to access instance metadata").
const maxTTL = 21_600

// The headers of version 2, as net/http spells them.
const (
	ttlHeader   = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"
	tokenHeader = "X-Aws-Ec2-Metadata-Token"
)

// IMDS is what an IMDS door is made from; every field must be set, except
// AllowV1 and Patience.
type IMDS struct {
	Profile  string // the only one, and the role's name: of [A-Za-z0-9+=,.@_-]
	AllowV1  bool   // a request without a token is answered too
	Source   Source
	Standing func(profile string) (broker.Status, bool) // broker.Broker.StatusOf
	Access   broker.Authorizer                          // is asked first, with the peer that the kernel tells
	// Keys are what session tokens and made-up ids derive from: the first of them, which
	// there always is, and tokens of the others are good too. It is called at each request.
	Keys     func() []broker.Secret
	Requests Requests
	Observer broker.Observer
	Patience time.Duration // 0 is [IMDSPatience]
}

// NewIMDS returns an EC2 instance metadata service with one role, the profile,
// behind its [Guard]. Clients begin with
//
//	PUT /latest/api/token    X-aws-ec2-metadata-token-ttl-seconds: 1 to 21600
//
// and show what they got as X-aws-ec2-metadata-token, for as long as they asked
// for, from the same user and at the same listener. What may be asked for is in
// [imds.leaves], with the listing of each folder above, with or without a slash
// at the end. Several leading slashes count as one, and the query is not read.
//
// Errors have no body, because some clients take one for the role's name: 403
// for whom the door does not serve, whatever is asked; 400 for a bad TTL; 401
// without a good token; 404 for what there is not; 503 for what passes. Only why
// a role has no credentials until a person acts is told, as EC2 does: with
// status 200 and a Code that is not Success.
func NewIMDS(c IMDS) http.Handler {
	if c.Patience == 0 {
		c.Patience = IMDSPatience
	}
	ids := derive(c.Keys()[0], "ids", c.Profile)
	d := &imds{
		refuser:  refuser{door: broker.DoorIMDS, requests: c.Requests, observer: c.Observer, silent: true},
		IMDS:     c,
		instance: "i-" + hex.EncodeToString(ids)[:17],
		role:     renderings{in: roleBody},
		extended: renderings{in: extendedBody},
	}
	d.info.in = infoBody(c.Profile, "AIPA"+base32.StdEncoding.EncodeToString(ids)[:17])
	return &guard{refuser: d.refuser, put: true, next: d.serve}
}

type imds struct {
	refuser
	IMDS
	instance             string // made up, and the same for ever
	role, extended, info renderings
}

func (d *imds) serve(w http.ResponseWriter, r *http.Request, conn *listen.Caller) {
	who, err := d.admit(r.Context(), conn)
	if err != nil {
		w.Header()["Connection"] = closeValue
		d.refuse(w, http.StatusForbidden, who, err)
		return
	}
	// Only who was admitted comes here, so the uid is known.
	uid, _ := who.Peer.UID()
	s := session{uid: uid, at: conn.Local, profile: d.Profile}
	path, ok := belowLatest(r.URL.Path)
	isToken := ok && path == "api/token"
	switch {
	case isToken && r.Method == http.MethodPut:
		d.issue(w, r.Header[ttlHeader], s)
	case isToken:
		d.wrongMethod(w, who, allowPut)
	case r.Method == http.MethodPut:
		d.wrongMethod(w, who, allowGet)
	case !d.authentic(r.Header[tokenHeader], s):
		d.refuse(w, http.StatusUnauthorized, who, &broker.Error{Kind: broker.KindUnauthorized, Profile: d.Profile, Public: "no session token, or one that is not good here (any more)"})
	case ok:
		d.answer(r.Context(), w, path, who)
	default:
		d.end(w, http.StatusNotFound)
	}
}

// admit asks the kernel who is there: nothing else keeps other users away from
// this door, where anybody could ask for a session token.
func (d *imds) admit(ctx context.Context, conn *listen.Caller) (broker.Caller, *broker.Error) {
	who := brokerCaller(d.door, conn)
	peer, unknown := conn.Peer()
	who.Peer = peer
	err := d.Access.Authorize(ctx, who, d.Profile)
	if _, known := peer.UID(); err == nil && known {
		return who, nil
	}
	e := &broker.Error{Kind: broker.KindForbidden, Profile: d.Profile, Public: "the IMDS endpoint does not serve this caller", Cause: unknown}
	if unknown == nil {
		e.Cause = err
	}
	return who, e
}

// belowLatest returns what follows /latest/, without a slash at its end.
func belowLatest(path string) (string, bool) {
	rest, ok := strings.CutPrefix(strings.TrimLeft(path, "/"), "latest")
	if !ok || rest != "" && rest[0] != '/' {
		return "", false
	}
	return strings.TrimSuffix(strings.TrimPrefix(rest, "/"), "/"), true
}

// issue answers with a token for all of the time that was asked for. Go and Rust
// also want the header.
func (d *imds) issue(w http.ResponseWriter, asked []string, s session) {
	if len(asked) != 1 {
		d.end(w, http.StatusBadRequest)
		return
	}
	ttl, err := strconv.ParseUint(asked[0], 10, 16)
	if err != nil || ttl < 1 || ttl > maxTTL {
		d.end(w, http.StatusBadRequest)
		return
	}
	w.Header()[ttlHeader] = []string{strconv.FormatUint(ttl, 10)}
	d.text(w, []byte(s.seal(d.Keys()[0], time.Now().Add(time.Duration(ttl)*time.Second))))
}

func (d *imds) authentic(shown []string, s session) bool {
	switch len(shown) {
	case 0:
		return d.AllowV1
	case 1:
		return slices.ContainsFunc(d.Keys(), func(k broker.Secret) bool { return s.admits(k, shown[0], time.Now()) })
	}
	return false
}

// leaf is something to be read: a text, or what is made of the profile's set.
type leaf struct {
	path string // below /latest/
	text string
	set  *renderings // nil for a text
}

// leaves are all there is below /latest/, as the profile stands now. Folders are
// not among them: they are what the paths say.
func (d *imds) leaves() (all []leaf) {
	standing, known := d.Standing(d.Profile)
	all = append(all,
		leaf{path: "dynamic/instance-identity/document", text: d.document(standing)},
		leaf{path: "meta-data/instance-id", text: d.instance},
	)
	if known && standing.State != broker.StateUnservable {
		all = append(all,
			leaf{path: "meta-data/iam/info", set: &d.info},
			leaf{path: "meta-data/iam/security-credentials/" + d.Profile, set: &d.role},
			leaf{path: "meta-data/iam/security-credentials-extended/" + d.Profile, set: &d.extended}, // with the account, for JavaScript
		)
	}
	if standing.Region != "" {
		all = append(all,
			leaf{path: "meta-data/placement/availability-zone", text: zone(standing.Region)},
			leaf{path: "meta-data/placement/region", text: standing.Region},
		)
	}
	return all
}

// zone is one of the region. AWS CLI v2 cuts its last character to get the region.
func zone(region string) string {
	if region == "" {
		return ""
	}
	return region + "a"
}

// document is an instance identity document with what is true of this host (EC2
// user guide, "Instance identity documents"). Nobody signs it. The account is in
// it while credentials are held: clients read the region there, and a region is
// nothing to wait for.
func (d *imds) document(s broker.Status) string {
	return string(marshal(struct {
		AccountID        string `json:"accountId,omitempty"`
		Architecture     string `json:"architecture,omitempty"`
		AvailabilityZone string `json:"availabilityZone,omitempty"`
		InstanceID       string `json:"instanceId"`
		Region           string `json:"region,omitempty"`
		Version          string `json:"version"`
	}{s.AccountID, architectures[runtime.GOARCH], zone(s.Region), d.instance, s.Region, "2017-09-30"}))
}

var architectures = map[string]string{"amd64": "x86_64", "arm64": "arm64", "386": "i386"}

// answer gives the leaf at path, or the names in that folder, one a line without
// a line break at the end.
func (d *imds) answer(ctx context.Context, w http.ResponseWriter, path string, who broker.Caller) {
	folder := path + "/"
	if path == "" {
		folder = ""
	}
	var names []string
	for _, l := range d.leaves() {
		switch rest, inside := strings.CutPrefix(l.path, folder); {
		case l.path == path && l.set != nil:
			d.give(ctx, w, l.set, who)
			return
		case l.path == path:
			d.text(w, []byte(l.text))
			return
		case inside:
			name, _, deeper := strings.Cut(rest, "/")
			if deeper {
				name += "/"
			}
			names = append(names, name)
		}
	}
	if names == nil {
		d.end(w, http.StatusNotFound)
		return
	}
	slices.Sort(names)
	d.text(w, []byte(strings.Join(slices.Compact(names), "\n")))
}

// give answers with what is made of the profile's set.
func (d *imds) give(ctx context.Context, w http.ResponseWriter, in *renderings, who broker.Caller) {
	set, err := d.Source.Get(ctx, broker.Ask{Caller: who, Profile: d.Profile, Patience: d.Patience})
	if err != nil {
		switch e := broker.AsError(err); {
		case e.Kind.Passes():
			d.end(w, http.StatusServiceUnavailable)
		case e.Kind == broker.KindForbidden: // the caller was admitted: there is no such profile any more
			d.end(w, http.StatusNotFound)
		default:
			d.text(w, failureBody(e))
		}
		return
	}
	out, err := in.of(d.Profile, set, time.Now())
	if err != nil {
		d.refuse(w, http.StatusServiceUnavailable, who, &broker.Error{Kind: broker.KindUnavailable, Profile: d.Profile, Cause: err})
		return
	}
	d.write(w, out.body, out.length)
}

func (d *imds) text(w http.ResponseWriter, body []byte) {
	d.write(w, body, []string{strconv.Itoa(len(body))})
}

func (d *imds) write(w http.ResponseWriter, body []byte, length []string) {
	writeHeader(w, textValue, length)
	_, _ = w.Write(body)
	d.requests.Request(d.door, http.StatusOK)
}

// success is how EC2 says that what follows is whole. LastUpdated is when the
// credentials were issued.
const success = "Success"

func lastUpdated(set *broker.Set) string { return set.Issued.UTC().Format("2006-01-02T15:04:05Z") }

// credentialBody has no RoleArn: with one, s3fs takes it for a container's answer.
type credentialBody struct {
	Code            string
	LastUpdated     string
	Type            string
	AccessKeyId     string
	SecretAccessKey string
	Token           string
	Expiration      string
	AccountId       string `json:",omitempty"`
}

func extendedBody(set *broker.Set, expiration string) any {
	return credentialBody{
		Code: success, LastUpdated: lastUpdated(set), Type: "AWS-HMAC", AccessKeyId: set.AccessKeyID,
		SecretAccessKey: set.SecretAccessKey.Reveal(), Token: set.SessionToken.Reveal(), Expiration: expiration, AccountId: set.AccountID,
	}
}

func roleBody(set *broker.Set, expiration string) any {
	b := extendedBody(set, expiration).(credentialBody)
	b.AccountId = ""
	return b
}

// infoBody tells of an instance profile that has the profile's name. It is in
// the role's account, and left out where there is no role.
func infoBody(profile, id string) dialect {
	return func(set *broker.Set, _ string) any {
		arn := ""
		if parts := strings.SplitN(set.RoleARN, ":", 6); len(parts) == 6 {
			arn = strings.Join(parts[:5], ":") + ":instance-profile/" + profile
		}
		return struct {
			Code               string
			LastUpdated        string
			InstanceProfileArn string `json:",omitempty"`
			InstanceProfileId  string
		}{success, lastUpdated(set), arn, id}
	}
}

// failureBody says why there are no credentials. It has no key fields.
func failureBody(e *broker.Error) []byte {
	code, message := errorWords(e)
	if strings.EqualFold(code, success) { // an issuer's own word
		code = e.Kind.String()
	}
	return marshal(struct{ Code, Message string }{code, message})
}
