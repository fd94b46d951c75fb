package metadata

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

// Values that no answer may hold unless the request had every right to it.
const (
	goodToken    = "sbt_0123456789abcdef_good"
	secretCanary = "canary/SECRET+wJalrXUtnFEMI="
	tokenCanary  = "canary/SESSION+FwoGZXIvYXdzE<>&="
)

var creds = broker.Credentials{
	AccessKeyID: "ASIATESTTESTTESTTEST", SecretAccessKey: broker.NewSecret(secretCanary), SessionToken: broker.NewSecret(tokenCanary),
	AccountID: "123456789012", RoleARN: "arn:aws:iam::123456789012:role/deploy",
}

// minter issues creds for life, after delay.
type minter struct{ life, delay time.Duration }

func (m minter) Digest() broker.Digest { return broker.DigestOf("test") }

func (m minter) Mint(ctx context.Context, _ broker.MintInput) (broker.Credentials, error) {
	select {
	case <-time.After(m.delay):
	case <-ctx.Done():
		return broker.Credentials{}, ctx.Err()
	}
	c := creds
	c.Issued = time.Now()
	c.Expires = c.Issued.Add(m.life)
	return c, nil
}

type (
	noStore   struct{}
	everybody struct{}
)

func (noStore) Load(context.Context, broker.Key) (broker.Stored, error) {
	return broker.Stored{}, broker.ErrNotFound
}
func (noStore) PutIfNewer(context.Context, broker.Key, broker.Stored) error { return nil }
func (noStore) Delete(context.Context, broker.Key) error                    { return nil }
func (everybody) Authorize(context.Context, broker.Caller, string) error    { return nil }

// newBroker runs a broker with one profile until the test ends.
func newBroker(t testing.TB, profile string, m broker.Minter) *broker.Broker {
	t.Helper()
	b := broker.New(broker.Options{Store: noStore{}, Access: everybody{}, Observer: &sink{}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	b.Reload([]broker.Profile{{Name: profile, Minter: m, Origin: "test:1", Action: "AssumeRole"}})
	return b
}

// newSet returns a set as a broker makes it.
func newSet(t testing.TB, life time.Duration) *broker.Set {
	t.Helper()
	set, err := newBroker(t, "p", minter{life: life}).Get(t.Context(), broker.Ask{Profile: "p", Patience: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// sets is a Source that answers with a set or an error for any name that it has.
type sets struct {
	mu   sync.Mutex
	m    map[string]*broker.Set
	errs map[string]error
	asks []broker.Ask
	gets atomic.Int64
}

func (s *sets) Get(_ context.Context, a broker.Ask) (*broker.Set, error) {
	s.gets.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.asks) < 1000 {
		s.asks = append(s.asks, a)
	}
	if err := s.errs[a.Profile]; err != nil {
		return nil, err
	}
	if set := s.m[a.Profile]; set != nil {
		return set, nil
	}
	return nil, &broker.Error{Kind: broker.KindForbidden, Profile: a.Profile, Public: "no such profile for you", Cause: errors.New("the cause")}
}

func (s *sets) lastAsk() broker.Ask {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asks[len(s.asks)-1]
}

// grants is a Tokens.
type grants map[string]*broker.Grant

func (g grants) Authenticate(token string) (*broker.Grant, error) {
	if grant := g[token]; grant != nil {
		return grant, nil
	}
	return nil, &broker.Error{Kind: broker.KindUnauthorized, Public: "no token of ours", Cause: errors.New("the cause")}
}

// sink counts answers by status, and keeps refusals.
type sink struct {
	counts [600]atomic.Int64
	mu     sync.Mutex
	events []broker.Event
}

func (s *sink) Request(_ string, status int) { s.counts[status].Add(1) }

func (s *sink) Observe(e broker.Event) {
	if e.Kind != broker.EventRefused {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.events) < 1000 {
		s.events = append(s.events, e)
	}
}

func (s *sink) lastRefused(t *testing.T) broker.Event {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.events) == 0 {
		t.Fatal("no refusal was observed")
	}
	return s.events[len(s.events)-1]
}

// running is a door on a loopback listener.
type running struct {
	source *sets
	roles  map[string][]string // profiles by the ARN of their role
	sink   *sink
	server *http.Server
	addr   string // 127.0.0.1:port, or the path of a socket
	port   string // that callers may name in Host; "" for none
	addr6  string // [::1]:port, "" on a host without
}

// newRunning has profile "dev".
func newRunning(t testing.TB) *running {
	t.Helper()
	return &running{
		source: &sets{m: map[string]*broker.Set{"dev": newSet(t, time.Hour)}, errs: map[string]error{}},
		roles:  map[string][]string{},
		sink:   &sink{},
	}
}

// container serves profile "dev" (and whatever else source is given) to goodToken.
func (r *running) container(more grants, tokenless *Tokenless) http.Handler {
	all := grants{goodToken: {ID: "good", Profiles: []string{"dev", "other"}}}
	for k, v := range more {
		all[k] = v
	}
	return NewContainer(Container{Source: r.source, Tokens: all, Roles: r.withRole, Requests: r.sink, Observer: r.sink, Tokenless: tokenless})
}

// start serves a container door on both loopback addresses.
func start(t testing.TB, more grants) *running {
	t.Helper()
	r := newRunning(t)
	r.serve(t, r.container(more, nil))
	return r
}

func (r *running) withRole(arn string) []string { return r.roles[arn] }

func (r *running) serve(t testing.TB, h http.Handler) {
	t.Helper()
	listeners, _, err := listen.Opener{Doors: 1}.TCP(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = listeners[0].Addr().String()
	_, r.port, _ = net.SplitHostPort(r.addr)
	if l6, _, err := (listen.Opener{Doors: 1}).TCP(t.Context(), "[::1]:"+r.port); err == nil {
		listeners = append(listeners, l6...)
		r.addr6 = l6[0].Addr().String()
	}
	r.server = NewServer(h, func(line string) { t.Log("net/http: " + line) })
	var wg sync.WaitGroup
	for _, l := range listeners {
		wg.Go(func() {
			if err := r.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { _ = r.server.Close(); wg.Wait() })
}

// serveAt serves at one address.
func (r *running) serveAt(t testing.TB, at string, h http.Handler) {
	t.Helper()
	l, _, err := listen.Opener{Doors: 1}.TCP(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	r.serveOn(t, l[0], h)
}

// serveOn serves on a listener.
func (r *running) serveOn(t testing.TB, l net.Listener, h http.Handler) {
	t.Helper()
	r.addr = l.Addr().String()
	_, r.port, _ = net.SplitHostPort(r.addr)
	r.server = NewServer(h, func(line string) { t.Log("net/http: " + line) })
	done := make(chan error, 1)
	go func() { done <- r.server.Serve(l) }()
	t.Cleanup(func() {
		_ = r.server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

// answer is what came over the wire.
type answer struct {
	proto  string
	status int
	header http.Header
	body   string
	closed bool // the server closed the connection after it
}

func (a answer) leaks() bool {
	return a.status == http.StatusOK || strings.Contains(a.body, "canary") || strings.Contains(a.body, "AccessKeyId")
}

// client is a raw connection.
type client struct {
	net.Conn
	t    testing.TB
	r    *bufio.Reader
	port string
}

// dial connects to an address, or to the socket at a path.
func dial(t testing.TB, addr string) *client {
	t.Helper()
	network := "tcp"
	if filepath.IsAbs(addr) {
		network = "unix"
	}
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second)) // not a figure: only so that a fault ends the test
	_, port, _ := net.SplitHostPort(addr)
	return &client{Conn: c, t: t, r: bufio.NewReader(c), port: port}
}

// do sends the bytes as they are and reads one answer. PORT stands for the
// port that we are connected to, TOKEN for the good token.
func (c *client) do(request string) answer {
	c.t.Helper()
	request = onWire(request, c.port)
	if request != "" { // else it only reads: the server may have closed already
		if _, err := io.WriteString(c, request); err != nil {
			c.t.Fatalf("%q: %v", request, err)
		}
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method}) // HEAD: no body follows
	if err != nil {
		c.t.Fatalf("%q: %v", request, err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("%q: %v", request, err)
	}
	return answer{proto: resp.Proto, status: resp.StatusCode, header: resp.Header, body: string(body), closed: resp.Close}
}

func onWire(request, port string) string {
	return strings.NewReplacer("PORT", port, "TOKEN", goodToken, "\n", "\r\n").Replace(request)
}

// gone waits until the server has closed the connection.
func (c *client) gone() error {
	_, err := c.r.ReadByte()
	var ne net.Error
	switch {
	case err == nil:
		return errors.New("more bytes than one answer")
	case errors.As(err, &ne) && ne.Timeout():
		return errors.New("still open")
	}
	return nil
}

// once sends one request on a connection of its own.
func (r *running) once(t testing.TB, request string) answer {
	t.Helper()
	return dial(t, r.addr).do(request)
}

// get is a well-formed GET with the good token.
func (r *running) get(t testing.TB, path string) answer {
	t.Helper()
	return r.once(t, fmt.Sprintf("GET %s HTTP/1.1\nHost: 127.0.0.1:PORT\nAuthorization: TOKEN\n\n", path))
}

func keysOf(text string) func() []broker.Secret {
	keys := []broker.Secret{broker.NewSecret(text)}
	return func() []broker.Secret { return keys }
}
