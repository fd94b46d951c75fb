// Package stsfake is a stand-in for the AWS Security Token Service, for the
// demo and for tests. It is never part of what serve runs.
//
// It has every action of the STS API, speaks the Query protocol (form POST in,
// XML out) and really checks what it is asked: SigV4 signatures and their age,
// session tokens and their expiry, who may call what, durations, trust,
// external ids, MFA codes, policies, tags, role chaining, identity tokens and
// SAML assertions. Limits are those of the API's model. Error codes and texts
// are the ones AWS uses, where they are known. What it does not know it
// refuses by name, so that no test passes because a parameter was ignored.
// It does not evaluate policies: trust is a list, see [Role].
//
// Reading order: stsfake.go (the world it knows, faults, the handler),
// actions.go (the table of actions, their parameters, who may call them),
// role.go (AssumeRole, AssumeRoleWithWebIdentity, and what every role session
// has in common), saml.go, user.go (sessions of users, federation, trade-in
// tokens), root.go, policy.go (policies, tags and their packed size), mfa.go,
// decode.go (encoded denials), identity.go (GetWebIdentityToken, and tokens of
// identity providers), token.go (principals, seals, key ids), sigv4.go
// (signatures), answer.go (XML), listen.go (loopback).
package stsfake

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Account is the account of users that are added by name alone.
const Account = "123456789012"

const (
	maxRequest = 256 << 10
	maxCalls   = 1 << 14 // how many calls are remembered
)

// Role is a role that may be assumed.
type Role struct {
	ARN string

	// Trust lists who may assume the role: ARNs of users, roles or role
	// sessions, "arn:aws:iam::ACCOUNT:root" for everybody in an account, "*"
	// for anybody who signs.
	Trust []string

	// Subjects lists the identity token subjects that may assume the role by
	// AssumeRoleWithWebIdentity.
	Subjects []string

	// SAML lists the ARNs of providers whose users may assume the role by
	// AssumeRoleWithSAML.
	SAML []string

	ExternalID string        // when not empty, a caller must send exactly this
	MFA        bool          // AssumeRole must come with a code, or from a GetSessionToken session that was minted with one
	MaxSession time.Duration // 0 is AWS's default, one hour
}

// FaultKind is a way to fail.
type FaultKind uint8

// Faults.
const (
	FaultNone            FaultKind = iota
	FaultHang                      // never answers; ends when the client leaves
	FaultDrop                      // closes the connection without an answer
	FaultUnavailable               // HTTP 503, ServiceUnavailable
	FaultThrottle                  // HTTP 400, Throttling: as AWS does it
	FaultDenied                    // HTTP 403, AccessDenied with Fault.Message
	FaultGarbage                   // HTTP 200, a body that is no XML
	FaultEmpty                     // HTTP 200, credentials with empty fields
	FaultExpired                   // HTTP 200, credentials that are over already
	FaultWrongRole                 // HTTP 200, credentials of another role
	FaultHuge                      // HTTP 200, a body of one megabyte
	FaultRedirect                  // HTTP 307 to Fault.Message, or to "/elsewhere"
	FaultRegionDisabled            // HTTP 403, RegionDisabledException
	FaultEchoSecrets               // HTTP 403, AccessDenied that repeats what the caller sent
	FaultDurationTooLong           // HTTP 400, ValidationError whenever more than one hour is asked for
	FaultCode                      // HTTP Fault.Status, with Fault.Code and Fault.Message
)

// Fault is what goes wrong, switchable at any time by [Server.SetFault].
type Fault struct {
	Kind    FaultKind
	Delay   time.Duration // before anything else happens; works alone too
	Action  string        // only calls of this action; "" for all
	Message string
	Status  int    // of FaultCode; 0 is 400
	Code    string // of FaultCode: any that STS has, or has not
}

// Call is one request that was answered, or dropped.
type Call struct {
	Time      time.Time // on the stand-in's clock
	Action    string
	Principal string        // ARN of who signed; "" for unsigned or unknown
	Region    string        // of the credential scope; "" for unsigned calls
	Target    string        // what was asked for: a role, a federated user's name, a member account, a trade-in token's principal, a key id, the audiences of a token; "" for the rest
	Code      string        // the error's code; "" for none
	Minted    bool          // whether credentials were issued
	KeyID     string        // of what was minted
	Life      time.Duration // of what was minted
}

// Server is the stand-in: an [http.Handler] and the world it knows. All
// methods are safe for concurrent use. It starts no goroutine by itself.
type Server struct {
	key    [32]byte      // seals session tokens, signs identity tokens
	serial atomic.Uint64 // of the latest session key id
	rsa    func() *rsa.PrivateKey
	ecdsa  func() *ecdsa.PrivateKey

	mu      sync.Mutex
	users   map[string]user // by access key id
	devices map[string]*device
	roles   map[string]Role
	saml    map[string]func([]byte) error // by ARN of the provider
	members map[string]bool               // accounts that AssumeRoot may enter

	encodeDenials, noOutbound bool

	fault  Fault
	offset time.Duration
	life   time.Duration
	calls  []Call
	counts map[string]int // mints by action
	total  int
}

type user struct {
	name, secret string
	root         bool
}

// principal is the user as one who signs.
func (u user) principal() principal {
	if u.root {
		return principal{Kind: kindRoot, ARN: rootARN(Account), UserID: Account, Account: Account}
	}
	return principal{ARN: userARN(u.name), UserID: userID("AIDA", u.name), Account: Account}
}

func userARN(name string) string    { return "arn:aws:iam::" + Account + ":user/" + name }
func rootARN(account string) string { return "arn:aws:iam::" + account + ":root" }

// New returns a stand-in that knows nobody.
func New() *Server {
	s := &Server{
		users: map[string]user{}, devices: map[string]*device{}, roles: map[string]Role{},
		saml: map[string]func([]byte) error{}, members: map[string]bool{}, counts: map[string]int{},
		rsa: sync.OnceValue(newRSA), ecdsa: sync.OnceValue(newECDSA), // made when first asked for: an RSA key takes its time
	}
	_, _ = rand.Read(s.key[:]) // never fails, see crypto/rand
	s.serial.Store(uint64(binary.BigEndian.Uint32(s.key[:])) << 8)
	return s
}

// AddUser makes an IAM user of [Account] with a long-term key.
func (s *Server) AddUser(name, keyID, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[keyID] = user{name: name, secret: secret}
}

// AddRootKey makes a long-term key of the root user of [Account].
func (s *Server) AddRootKey(keyID, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[keyID] = user{secret: secret, root: true}
}

// RemoveKey forgets a long-term key, as deleting it in IAM does.
func (s *Server) RemoveKey(keyID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.users, keyID)
}

// AddRole makes a role, or replaces the one with the same ARN.
func (s *Server) AddRole(r Role) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roles[r.ARN] = r
}

// AddMember makes an account (12 digits()) of the organization that [Account]
// manages: AssumeRoot may enter it.
func (s *Server) AddMember(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members[account] = true
}

// SetFault replaces the fault; the zero value ends it.
func (s *Server) SetFault(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// SetOffset moves the stand-in's clock away from this host's.
func (s *Server) SetOffset(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset = d
}

// SetLife caps the life of what is minted below what was asked for; 0 ends that.
func (s *Server) SetLife(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.life = d
}

// Calls returns the latest calls, oldest first; at most 16,384 are remembered.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Total is how many calls came in.
func (s *Server) Total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

// Mints is how many sets of credentials were issued, by the given actions or by all.
func (s *Server) Mints(actions ...string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for a, c := range s.counts {
		if len(actions) == 0 || slices.Contains(actions, a) {
			n += c
		}
	}
	return n
}

// Now is the time on the stand-in's clock.
func (s *Server) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.offset)
}

// request is one call on its way through the checks.
type request struct {
	*Server
	now    time.Time
	fault  Fault
	form   url.Values
	caller principal
	ends   time.Time // of the caller's session; zero for long-term keys
	call   Call
}

// ServeHTTP answers one call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := requestID()
	// Read to the end first: only then does net/http notice that a client left.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		reply(w, s.Now(), id, http.StatusRequestEntityTooLarge, fail(413, "RequestEntityTooLarge", "the request is too large").answer(id))
		return
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		form = url.Values{}
	}
	q := &request{Server: s, form: form, call: Call{Action: form.Get("Action")}}
	if target := actions[q.call.Action].target; target != "" {
		q.call.Target = form.Get(target)
	}
	q.fault = s.faultFor(q.call.Action)

	if d := q.fault.Delay; d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
		}
	}
	q.now = s.Now() // after the wait, as the Date header is
	q.call.Time = q.now

	result, err := q.answer(r, body)
	if errors.Is(err, errDrop) {
		q.call.Code = "dropped"
		s.record(q.call)
		panic(http.ErrAbortHandler) // net/http closes the connection, and logs nothing
	}
	var e *apiError
	switch {
	case errors.As(err, &e):
		e = q.withDetails(e)
		q.call.Code = e.code
		s.record(q.call)
		reply(w, q.now, id, e.status, e.answer(id))
	default:
		s.record(q.call)
		q.write(w, id, result)
	}
}

var errDrop = errors.New("drop the connection")

// answer runs the checks and the action, or the fault in their place.
func (q *request) answer(r *http.Request, body []byte) (any, error) {
	switch q.fault.Kind {
	case FaultHang:
		<-r.Context().Done()
		return nil, errDrop
	case FaultDrop:
		return nil, errDrop
	case FaultUnavailable:
		return nil, fail(503, "ServiceUnavailable", "The request has failed due to a temporary failure of the server.")
	case FaultThrottle:
		return nil, fail(400, "Throttling", "Rate exceeded")
	case FaultDenied:
		return nil, fail(403, "AccessDenied", q.fault.Message)
	case FaultCode:
		status := q.fault.Status
		if status == 0 {
			status = http.StatusBadRequest
		}
		return nil, fail(status, q.fault.Code, q.fault.Message)
	case FaultRegionDisabled:
		return nil, fail(403, "RegionDisabledException", "STS is not activated in this region for account:"+Account+". Your account administrator can activate STS in this region using the IAM Console.")
	case FaultEchoSecrets:
		return nil, fail(403, "AccessDenied", fmt.Sprintf("you sent\n%s\n%s\n%v", body, unescaped(q.form), r.Header))
	}
	if r.Method != http.MethodPost || q.form.Get("Version") != "2011-06-15" {
		return nil, fail(400, "InvalidAction", fmt.Sprintf("Could not find operation %s for version %s", q.call.Action, q.form.Get("Version")))
	}
	act, ok := actions[q.call.Action]
	if !ok {
		return nil, fail(400, "InvalidAction", fmt.Sprintf("Could not find operation %s for version 2011-06-15", q.call.Action))
	}
	if err := q.known(act); err != nil {
		return nil, err
	}
	if !act.unsigned {
		if err := q.authenticate(r, body); err != nil {
			return nil, err
		}
	}
	if err := q.complete(act); err != nil {
		return nil, err
	}
	if !act.unsigned {
		if err := q.permitted(); err != nil {
			return nil, err
		}
	}
	return act.run(q)
}

// write sends a result, or what a fault makes of it.
func (q *request) write(w http.ResponseWriter, id string, result any) {
	switch q.fault.Kind {
	case FaultGarbage:
		reply(w, q.now, id, http.StatusOK, []byte("<html><body>It works! & this is < no XML"))
	case FaultHuge:
		reply(w, q.now, id, http.StatusOK, []byte("<AssumeRoleResponse>"+strings.Repeat(" ", 1<<20)+"</AssumeRoleResponse>"))
	case FaultRedirect:
		to := q.fault.Message
		if to == "" {
			to = "/elsewhere"
		}
		w.Header().Set("Location", to)
		reply(w, q.now, id, http.StatusTemporaryRedirect, nil)
	default:
		reply(w, q.now, id, http.StatusOK, render(q.call.Action, result, id))
	}
}

func (s *Server) faultFor(action string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault.Action != "" && s.fault.Action != action {
		return Fault{}
	}
	return s.fault
}

func (s *Server) record(c Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total++
	if c.Minted {
		s.counts[c.Action]++
	}
	if len(s.calls) == maxCalls {
		s.calls = slices.Delete(s.calls, 0, maxCalls/2)
	}
	s.calls = append(s.calls, c)
}

func (s *Server) user(keyID string) (user, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.users[keyID]
	return u, ok
}

func (s *Server) role(arn string) (Role, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.roles[arn]
	return r, ok
}

func (s *Server) lifeOf(asked time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life > 0 {
		return min(asked, s.life)
	}
	return asked
}

// unescaped is the form as a person would write it, so that an echo holds
// secrets in more than one encoding.
func unescaped(form url.Values) string {
	var b strings.Builder
	for k, v := range form {
		fmt.Fprintf(&b, "%s=%s ", k, strings.Join(v, ","))
	}
	return b.String()
}

func requestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
