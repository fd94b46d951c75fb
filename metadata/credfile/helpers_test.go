package credfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/stsbroker/stsbroker/broker"
)

var me = broker.Caller{Door: broker.DoorFile}

// minter issues a set for life; each has another key id, and a secret and a
// token that no one issued before. before may fail the mint, and is told which it is.
type minter struct {
	name   string
	life   time.Duration
	before func(n int) error
	mu     sync.Mutex
	n      int
}

func (m *minter) Digest() broker.Digest { return broker.DigestOf("test", m.name) }

func (m *minter) Mint(context.Context, broker.MintInput) (broker.Credentials, error) {
	m.mu.Lock()
	m.n++
	n := m.n
	m.mu.Unlock()
	if m.before != nil {
		if err := m.before(n); err != nil {
			return broker.Credentials{}, err
		}
	}
	now := time.Now()
	return broker.Credentials{
		AccessKeyID:     keyID(m.name, n),
		SecretAccessKey: broker.NewSecret(fmt.Sprintf("secret/+%s%d=", m.name, n)),
		SessionToken:    broker.NewSecret(fmt.Sprintf("IQoJb3JpZ2luX2Vj//////////+%s%d==", m.name, n)),
		Issued:          now, Expires: now.Add(m.life),
	}, nil
}

func keyID(name string, n int) string { return fmt.Sprintf("ASIATEST%s%08d", strings.ToUpper(name), n) }

type (
	noStore   struct{}
	everybody struct{}
	nobody    struct{}
)

func (noStore) Load(context.Context, broker.Key) (broker.Stored, error) {
	return broker.Stored{}, broker.ErrNotFound
}
func (noStore) PutIfNewer(context.Context, broker.Key, broker.Stored) error { return nil }
func (noStore) Delete(context.Context, broker.Key) error                    { return nil }
func (everybody) Authorize(context.Context, broker.Caller, string) error    { return nil }
func (nobody) Observe(broker.Event)                                         {}

// relay passes events on to whoever is there when they come.
type relay struct {
	mu sync.Mutex
	to []broker.Observer
}

func (r *relay) Observe(e broker.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.to {
		o.Observe(e)
	}
}

func (r *relay) add(o broker.Observer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = append(r.to, o)
}

// newBroker runs a broker of these minters until the test ends.
func newBroker(t testing.TB, o broker.Observer, minters ...*minter) *broker.Broker {
	t.Helper()
	b := broker.New(broker.Options{Store: noStore{}, Access: everybody{}, Observer: o})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	var profiles []broker.Profile
	for _, m := range minters {
		profiles = append(profiles, broker.Profile{Name: m.name, Minter: m, Origin: "test:1", Action: "AssumeRole", Prefetch: true})
	}
	b.Reload(profiles)
	return b
}

// newSet returns a set as a broker makes it.
func newSet(t testing.TB, name string, life time.Duration) *broker.Set {
	t.Helper()
	set, err := newBroker(t, nobody{}, &minter{name: name, life: life}).Get(t.Context(), broker.Ask{Profile: name, Patience: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

var errNone = &broker.Error{Kind: broker.KindTimeout, Public: "no credentials yet"}

// sets is a Source. It hands out what it was given, expired or not.
type sets struct {
	mu     sync.Mutex
	m      map[string]*broker.Set
	asks   int
	before func()
}

func (s *sets) Get(_ context.Context, a broker.Ask) (*broker.Set, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asks++
	if s.before != nil {
		s.before()
	}
	if a.Patience != 0 {
		return nil, fmt.Errorf("a patience of %v", a.Patience)
	}
	if set := s.m[a.Profile]; set != nil {
		return set, nil
	}
	return nil, errNone
}

func (s *sets) set(name string, set *broker.Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[string]*broker.Set{}
	}
	s.m[name] = set
}

func (s *sets) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asks
}

// reports keeps what a writer reports.
type reports struct {
	mu    sync.Mutex
	lines []string
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, err.Error())
}

func (r *reports) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.lines...)
}

func newWriter(t testing.TB, path string, s Source, r *reports, profiles ...string) *Writer {
	t.Helper()
	w, err := New(File{Path: path, Profiles: profiles}, s, me, r.add)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// run runs the writer; what it returns ends it, and is the error of Run.
func run(t testing.TB, w *Writer) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() {
			cancel()
			err = <-done
		})
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

// pass lets time pass in a bubble, and what is due by then be done.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func place(t testing.TB) string { return filepath.Join(t.TempDir(), "credentials") }

func exists(t testing.TB, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func text(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// sdk is what the AWS SDK reads of a profile; no credentials where it has none.
func sdk(t testing.TB, path, profile string) aws.Credentials {
	t.Helper()
	c, err := config.LoadSharedConfigProfile(t.Context(), profile, func(o *config.LoadSharedConfigOptions) {
		o.CredentialsFiles, o.ConfigFiles = []string{path}, []string{}
	})
	if _, missing := errors.AsType[config.SharedConfigProfileNotExistError](err); missing {
		return aws.Credentials{}
	}
	if err != nil {
		t.Fatal(err)
	}
	return c.Credentials
}

// holds fails unless the SDK reads exactly the set for the profile; nil for none.
func holds(t testing.TB, path, profile string, set *broker.Set) {
	t.Helper()
	got := sdk(t, path, profile)
	var want broker.Credentials
	if set != nil {
		want = set.Credentials
	}
	if got.AccessKeyID != want.AccessKeyID || got.SecretAccessKey != want.SecretAccessKey.Reveal() || got.SessionToken != want.SessionToken.Reveal() {
		t.Errorf("[%s]: the SDK reads %q, %q, %q; want the set of %q", profile, got.AccessKeyID, got.SecretAccessKey, got.SessionToken, want.AccessKeyID)
	}
}

func lines(t testing.TB, r *reports, want ...string) {
	t.Helper()
	got := r.all()
	if len(got) != len(want) {
		t.Fatalf("reported %q, want %d lines", got, len(want))
	}
	for i, line := range got {
		if !strings.Contains(line, want[i]) || strings.Contains(line, "\n") {
			t.Errorf("reported %q, want a line with %q", line, want[i])
		}
	}
}
