package login

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/ssofake"
)

const account = "123456789012"

func corp() Session { return Session{Name: "corp", StartURL: ssofake.StartURL, Region: "eu-central-1"} }

// direct hands requests to a handler without a network, so that it works in a bubble.
type direct struct{ handler http.Handler }

func (d direct) RoundTrip(r *http.Request) (_ *http.Response, err error) {
	defer func() {
		if recover() != nil {
			if err = context.Cause(r.Context()); err == nil {
				err = errors.New("connection reset")
			}
		}
	}()
	w := httptest.NewRecorder()
	in := r.Clone(r.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	in.Host = r.URL.Host
	d.handler.ServeHTTP(w, in)
	return w.Result(), nil
}

// newManager is a manager that calls the stand-in and nobody else.
func newManager(fake http.Handler, o Options) *Manager {
	o.Endpoint = func(string, string) string { return "http://127.0.0.1:1" }
	m := New(o)
	m.api.http.Transport = direct{fake}
	return m
}

func newFake() *ssofake.Server {
	fake := ssofake.New()
	fake.Assign(account, "admin")
	return fake
}

// signIn is a person who signs in on another device.
func signIn(t *testing.T, m *Manager, fake *ssofake.Server, s Session) {
	t.Helper()
	a, err := m.Begin(t.Context(), s, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fake.Visit(a.URL, true); err != nil {
		t.Fatal(err)
	}
	if err := a.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func mint(t *testing.T, m *Manager) (broker.Credentials, *broker.Error) {
	t.Helper()
	c, err := m.Role(corp(), account, "admin").Mint(t.Context(), broker.MintInput{})
	if err == nil {
		if !broker.ValidKeyID(c.AccessKeyID) || c.SecretAccessKey.IsZero() || c.SessionToken.IsZero() || c.Lifetime() <= 0 || c.AccountID != account {
			t.Errorf("minted %+v", c)
		}
		return c, nil
	}
	e, ok := errors.AsType[*broker.Error](err)
	if !ok {
		t.Fatalf("%T: %v", err, err)
	}
	if strings.Contains(e.Public, "\n") || e.Public == "" {
		t.Errorf("the public text %q", e.Public)
	}
	return c, e
}

func mustMint(t *testing.T, m *Manager) broker.Credentials {
	t.Helper()
	c, err := mint(t, m)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func wantKind(t *testing.T, err *broker.Error, kind broker.Kind, words ...string) {
	t.Helper()
	if err == nil || err.Kind != kind {
		t.Errorf("%v, want %v", err, kind)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Public, w) {
			t.Errorf("%q does not say %q", err.Public, w)
		}
	}
}

// memVault is a vault in memory.
type memVault struct {
	turn chan struct{}

	mu              sync.Mutex
	state           string // "open", "locked", "none"
	blob            []byte
	fail            error // of a write
	busy            error // of an update
	writes, updates int
}

func newVault(state string) *memVault {
	return &memVault{turn: make(chan struct{}, 1), state: state}
}

func (v *memVault) closed() error {
	switch v.state {
	case "locked":
		return broker.Locked()
	case "none":
		return &broker.Error{Kind: broker.KindConfig, Public: "there is no identity to seal with: choose one"}
	}
	return nil
}

func (v *memVault) Read(name string) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.blob == nil || name != blobName {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(v.blob), v.closed()
}

func (v *memVault) write(plain []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.closed(); err != nil {
		return err
	}
	if v.fail != nil {
		return v.fail
	}
	v.blob = slices.Clone(plain)
	v.writes++
	return nil
}

func (v *memVault) Update(name string, f func([]byte) ([]byte, error)) error {
	v.mu.Lock()
	v.updates++
	err := errors.Join(v.closed(), v.busy)
	v.mu.Unlock()
	if err != nil {
		return err
	}
	v.turn <- struct{}{}
	defer func() { <-v.turn }()
	old, err := v.Read(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := f(old)
	if err != nil {
		return err
	}
	return v.write(b)
}

func (v *memVault) set(state string, fail error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.state, v.fail = state, fail
}

func (v *memVault) content() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return string(v.blob)
}

// cacheToken writes a token as the AWS CLI does.
func cacheToken(t *testing.T, dir, of string, token map[string]string) string {
	t.Helper()
	sum := sha1.Sum([]byte(of))
	path := filepath.Join(dir, hex.EncodeToString(sum[:])+".json")
	b, err := json.Marshal(token)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// tokensOf is somebody else's sign-in, such as the AWS CLI's.
func tokensOf(t *testing.T, fake *ssofake.Server) tokens {
	t.Helper()
	other := newManager(fake, Options{})
	signIn(t, other, fake, corp())
	other.mu.Lock()
	defer other.mu.Unlock()
	return other.held.sessions[corp().key()]
}

func rfc3339(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }

// moveWall moves the wall clock of a time and leaves its monotonic reading, as
// if the host's clock had been set in between. Package time has no way to say that.
func moveWall(t time.Time, d time.Duration) time.Time {
	type internals struct {
		wall uint64
		ext  int64
		loc  unsafe.Pointer
	}
	const hasMonotonic = 1 << 63
	p := (*internals)(unsafe.Pointer(&t))
	if p.wall&hasMonotonic == 0 {
		panic("no monotonic reading")
	}
	p.wall += uint64(int64(d/time.Second)) << 30
	return t
}

// standing is how a session stands, without asking anybody.
type standing struct {
	signedIn    bool      // a token can be had without a person, as far as is known
	until       time.Time // the end of the access token; zero where there is none
	refreshable bool      // beyond that end
	fromCLI     bool      // the access token is the AWS CLI's
}

func standingOf(m *Manager, s Session) standing {
	now, k := time.Now(), s.key()
	m.mu.Lock()
	t, e := m.held.sessions[k], *m.entryLocked(k)
	m.mu.Unlock()
	out := standing{refreshable: t.refreshable(now)}
	if !t.access.IsZero() && !t.access.Equal(e.ownNo) && left(t.expires, now) > 0 {
		out.until = t.expires.Round(0)
	} else if !out.refreshable {
		if c, err := m.fromCLI(s); err == nil && !c.access.Equal(e.cliNo) && left(c.expires, now) > 0 {
			out.until, out.fromCLI = c.expires, true
		}
	}
	out.signedIn = out.refreshable || !out.until.IsZero()
	return out
}

// holdsAny reports whether memory has any token.
func holdsAny(m *Manager) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held.any()
}
