// Package ssofake is a stand-in for IAM Identity Center, for tests and the demo: the
// SSO OIDC service, the pages that people see in their browser, and the portal that
// gives credentials for roles. It is never part of what serve runs.
//
// It really checks what it is asked: registrations and their end, redirect addresses,
// PKCE challenges, codes that work once, the rotation of refresh tokens, scopes, who
// has what role. Shapes and names of errors are those of botocore's models of sso-oidc
// and sso, which a conformance test holds it against; of what is in no model, the
// authorize page and the portal's ForbiddenException, they are as the AWS CLI sends
// and users report them. What it does not know it refuses.
//
// All services are at one address: their paths differ.
//
// Reading order: ssofake.go (the world it knows, faults, the handler), oidc.go,
// pages.go, portal.go, listen.go.
package ssofake

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// StartURL is the access portal that the stand-in is of. It is compared, never called.
const StartURL = "https://corp.awsapps.com/start"

// Names of operations, as the models have them; Authorize and Device are the pages.
const (
	RegisterClient           = "RegisterClient"
	StartDeviceAuthorization = "StartDeviceAuthorization"
	CreateToken              = "CreateToken"
	GetRoleCredentials       = "GetRoleCredentials"
	Logout                   = "Logout"
	Authorize                = "Authorize"
	Device                   = "Device"
)

// Lives are how long things last. A zero is as at AWS: see [New].
type Lives struct {
	Client  time.Duration // a registration
	Code    time.Duration // an authorization code
	Device  time.Duration // a device code
	Access  time.Duration // an access token
	Session time.Duration // of which tokens can be refreshed
	Role    time.Duration // a role's credentials

	Interval time.Duration // between two questions for a device's token; whole seconds
}

// Fault is what goes wrong, switchable at any time by [Server.SetFault].
type Fault struct {
	Op    string        // only calls of this operation; "" for all
	Times int           // so many calls; 0 for all of them
	Delay time.Duration // before anything else happens; works alone too

	Drop   bool   // close the connection without an answer
	After  bool   // do what was asked first: the answer is lost, not the call
	Status int    // answer with this status
	Code   string // and this error
	Body   string // or this text; "{request}" in it is what was sent, "{quoted}" the same within quotes of JSON
}

func (f Fault) fails() bool { return f.Drop || f.Status != 0 || f.Body != "" }

// Call is one request that was answered, or dropped.
type Call struct {
	Time  time.Time
	Op    string // "" for what is none
	Grant string // of CreateToken
	Code  string // the error's name; "" for none
	Role  string // of GetRoleCredentials: ACCOUNT/ROLE
}

// Credentials are what the portal gives for a role.
type Credentials struct {
	AccessKeyID, SecretAccessKey, SessionToken string
	Expires                                    time.Time
}

// Server is the stand-in: an [http.Handler] and the world it knows. All methods are
// safe for concurrent use. It starts no goroutine by itself.
type Server struct {
	mu       sync.Mutex
	lives    Lives
	fault    Fault
	issue    func(account, role string, life time.Duration) (Credentials, error)
	clients  map[string]*client
	tickets  map[string]*ticket // of authorize pages
	codes    map[string]*grant  // authorization codes
	devices  map[string]*device // by device code
	access   map[string]*token
	refresh  map[string]*token
	assigned map[string]bool // ACCOUNT/ROLE
	calls    []Call
}

type client struct {
	id, secret string
	expires    time.Time
	scopes     []string
	grants     []string
	redirects  []string
}

// session is what a person's consent makes.
type session struct {
	ends    time.Time
	revoked bool
}

func (s *session) over(now time.Time) bool { return s.revoked || !now.Before(s.ends) }

// token is an access or a refresh token.
type token struct {
	session *session
	client  *client
	scopes  []string
	expires time.Time
	spent   bool
}

// New returns a stand-in that gives no role. Its lives are AWS's defaults: 90 days for
// a registration, 10 minutes for codes, an hour for access tokens and credentials,
// 8 hours for a session, and 5 seconds between questions.
func New() *Server {
	return &Server{
		clients: map[string]*client{}, tickets: map[string]*ticket{}, codes: map[string]*grant{}, devices: map[string]*device{},
		access: map[string]*token{}, refresh: map[string]*token{}, assigned: map[string]bool{},
		issue: plausible,
	}
}

// life is the first that is set.
func life(set, byDefault time.Duration) time.Duration {
	if set != 0 {
		return set
	}
	return byDefault
}

// SetLives changes how long what is made from now on lasts.
func (s *Server) SetLives(l Lives) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lives = l
}

// SetFault replaces the fault; the zero value ends it.
func (s *Server) SetFault(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// SetIssuer has f make the credentials of roles, such as a stand-in for STS whose
// services take them. It must not call this server.
func (s *Server) SetIssuer(f func(account, role string, life time.Duration) (Credentials, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issue = f
}

// Assign gives everybody who signs in a role in an account.
func (s *Server) Assign(account, role string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.assigned[account+"/"+role] = true
}

// RevokeSessions ends every session, as an administrator does: neither access nor
// refresh tokens work any more.
func (s *Server) RevokeSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.access {
		t.session.revoked = true
	}
	for _, t := range s.refresh {
		t.session.revoked = true
	}
}

// RevokeAccess makes every access token invalid now; sessions go on.
func (s *Server) RevokeAccess() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.access)
}

// ForgetClients makes every registration unknown.
func (s *Server) ForgetClients() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.clients)
}

// Calls are all calls so far, oldest first.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Count is how many calls of an operation, and for [CreateToken] of a grant, there
// were; "" is any.
func (s *Server) Count(op, grant string) int {
	n := 0
	for _, c := range s.Calls() {
		if (op == "" || c.Op == op) && (grant == "" || c.Grant == grant) {
			n++
		}
	}
	return n
}

// failure is an error in the services' shape.
type failure struct {
	status  int
	code    string
	message string
}

func (f *failure) Error() string { return f.code + ": " + f.message }

func fail(status int, code, message string) error { return &failure{status, code, message} }

// request is one call.
type request struct {
	*http.Request
	body []byte
	call Call
	now  time.Time
}

// operation is what is at a path: an operation of a service, or a page.
type operation struct {
	name, method string
	oidc, page   bool
	run          func(*Server, *request) (any, error)
	show         func(*Server, *request, http.ResponseWriter) // of pages
}

func operations(path string) operation {
	switch path {
	case "/client/register":
		return operation{name: RegisterClient, method: http.MethodPost, oidc: true, run: (*Server).registerClient}
	case "/device_authorization":
		return operation{name: StartDeviceAuthorization, method: http.MethodPost, oidc: true, run: (*Server).startDevice}
	case "/token":
		return operation{name: CreateToken, method: http.MethodPost, oidc: true, run: (*Server).createToken}
	case "/federation/credentials":
		return operation{name: GetRoleCredentials, method: http.MethodGet, run: (*Server).roleCredentials}
	case "/logout":
		return operation{name: Logout, method: http.MethodPost, run: (*Server).logout}
	case "/authorize":
		return operation{name: Authorize, page: true, show: (*Server).authorizePage}
	case "/device":
		return operation{name: Device, page: true, show: (*Server).devicePage}
	}
	return operation{}
}

const maxRequest = 64 << 10

// ServeHTTP answers one call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		return
	}
	op := operations(r.URL.Path)
	f := s.takeFault(op.name)
	if f.Delay > 0 {
		t := time.NewTimer(f.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	q := &request{Request: r, body: body, now: time.Now(), call: Call{Time: time.Now(), Op: op.name}}
	if !f.fails() || f.After {
		if op.page {
			defer s.record(q)
			op.show(s, q, w)
			return
		}
		out, err := s.answer(op, q)
		if !f.fails() {
			s.record(q)
			s.reply(w, op, out, err)
			return
		}
	}
	s.spoil(w, q, op, f)
}

func (s *Server) answer(op operation, q *request) (any, error) {
	if op.run == nil || q.Method != op.method {
		return nil, fail(http.StatusNotFound, "UnknownOperationException", "")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out, err := op.run(s, q)
	if e, ok := errors.AsType[*failure](err); ok {
		q.call.Code = e.code
	}
	return out, err
}

// reply writes an answer in the protocol rest-json.
func (s *Server) reply(w http.ResponseWriter, op operation, out any, err error) {
	h := w.Header()
	h.Set("X-Amzn-Requestid", requestID())
	h.Set("Content-Type", "application/json")
	e, failed := errors.AsType[*failure](err)
	switch {
	case failed && op.oidc:
		h.Set("X-Amzn-Errortype", e.code)
		w.WriteHeader(e.status)
		write(w, map[string]string{"error": oauthName(e.code), "error_description": e.message})
	case failed:
		h.Set("X-Amzn-Errortype", e.code)
		w.WriteHeader(e.status)
		write(w, map[string]string{"message": e.message, "__type": "com.amazonaws.switchboard.portal#" + e.code})
	case err != nil:
		w.WriteHeader(http.StatusInternalServerError)
	case out != nil:
		write(w, out)
	}
}

func write(w io.Writer, v any) {
	b, _ := json.Marshal(v)
	_, _ = w.Write(b)
}

// spoil answers as the fault says.
func (s *Server) spoil(w http.ResponseWriter, q *request, op operation, f Fault) {
	q.call.Code = f.Code
	if f.Drop {
		q.call.Code = "dropped"
	}
	s.record(q)
	switch {
	case f.Drop:
		panic(http.ErrAbortHandler) // net/http closes the connection, and logs nothing
	case f.Body != "":
		if f.Status >= 300 && f.Status < 400 {
			w.Header().Set("Location", "/elsewhere")
		}
		if f.Status != 0 {
			w.WriteHeader(f.Status)
		}
		sent := string(q.body) + " " + q.Header.Get("X-Amz-Sso_bearer_token")
		quoted, _ := json.Marshal(sent)
		_, _ = io.WriteString(w, strings.NewReplacer("{request}", sent, "{quoted}", strings.Trim(string(quoted), `"`)).Replace(f.Body))
	default:
		s.reply(w, op, nil, fail(f.Status, f.Code, "on purpose"))
	}
}

func (s *Server) takeFault(op string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.fault
	if f.Op != "" && f.Op != op {
		return Fault{}
	}
	if f.Times > 0 {
		if s.fault.Times--; s.fault.Times == 0 {
			s.fault = Fault{}
		}
	}
	return f
}

func (s *Server) record(q *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, q.call)
}

// consented makes the session of a person's consent; s.mu is held.
func (s *Server) consented(now time.Time) *session {
	return &session{ends: now.Add(life(s.lives.Session, 8*time.Hour))}
}

// plausible makes credentials that nobody takes.
func plausible(_, _ string, life time.Duration) (Credentials, error) {
	var b [10]byte
	_, _ = rand.Read(b[:])
	return Credentials{
		AccessKeyID: "ASIA" + base32.StdEncoding.EncodeToString(b[:]), SecretAccessKey: random()[:40], SessionToken: random() + random(),
		Expires: time.Now().Add(life),
	}, nil
}

// random is a token: 64 letters and digits.
func random() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}

func requestID() string { return random()[:32] }

// keysOf names what a request may hold, for the words of a refusal.
func keysOf(m map[string]bool) string { return strings.Join(slices.Sorted(maps.Keys(m)), ", ") }
