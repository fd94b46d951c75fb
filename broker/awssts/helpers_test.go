package awssts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

const (
	userARN = "arn:aws:iam::123456789012:user/me"
	deploy  = "arn:aws:iam::123456789012:role/team/deploy"
	ci      = "arn:aws:iam::123456789012:role/ci"
	region  = "eu-central-1"
)

var longTerm = broker.Material{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: broker.NewSecret("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")}

// world returns a stand-in that knows a user and two roles.
func world() *stsfake.Server {
	s := stsfake.New()
	s.AddUser("me", longTerm.AccessKeyID, longTerm.SecretAccessKey.Reveal())
	s.AddRole(stsfake.Role{ARN: deploy, Trust: []string{userARN}, MaxSession: 12 * time.Hour})
	s.AddRole(stsfake.Role{ARN: ci, Subjects: []string{"repo:main"}, Trust: []string{deploy}})
	return s
}

var at = Site{Region: region}

// listen serves h on loopback and returns an STS that calls it in every region.
func listen(t *testing.T, h http.Handler, change ...func(*Options)) *STS {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return newSTS(t, Options{Override: &Endpoint{URL: "http://" + l.Addr().String()}}, change...)
}

func newSTS(t testing.TB, o Options, change ...func(*Options)) *STS {
	t.Helper()
	for _, f := range change {
		f(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.CloseIdle)
	return s
}

// inBubble serves h over pipes, for synctest; the returned function ends it.
func inBubble(t *testing.T, h http.Handler) (*STS, func()) {
	t.Helper()
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	srv := &http.Server{Handler: h}
	go srv.Serve(l)
	s, err := New(Options{Override: &Endpoint{URL: "http://127.0.0.1:1"}, Dial: l.dial})
	if err != nil {
		t.Fatal(err)
	}
	return s, func() { s.CloseIdle(); srv.Close() }
}

type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func tokenFile(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// allMints is one minter of each kind, with what signs it.
func allMints(t testing.TB, s *STS, fake *stsfake.Server) map[string]struct {
	m  broker.Minter
	in broker.MintInput
} {
	t.Helper()
	type mint = struct {
		m  broker.Minter
		in broker.MintInput
	}
	file := tokenFile(t, fake.IdentityToken("repo:main", time.Hour)+"\n")
	return map[string]mint{
		"GetSessionToken":           {s.Session(Session{Site: at}), broker.MintInput{Parent: longTerm}},
		"AssumeRole":                {s.Role(Role{Site: at, ARN: deploy, SessionName: "tester"}), broker.MintInput{Parent: longTerm}},
		"AssumeRoleWithWebIdentity": {s.WebIdentity(WebIdentity{Site: at, ARN: ci, SessionName: "tester", Token: File("web identity token", file)}), broker.MintInput{}},
	}
}

func wantError(t *testing.T, c broker.Credentials, err error) *broker.Error {
	t.Helper()
	var e *broker.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a broker error", err)
	}
	if c != (broker.Credentials{}) {
		t.Errorf("an error came with credentials: %+v", c)
	}
	if e.Public == "" {
		t.Errorf("no public text: %v", fmt.Sprint(e))
	}
	return e
}
