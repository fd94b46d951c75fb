package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

// issuer is a Minter whose answers a test chooses. It mints for life, after
// delay, and records when it was called.
type issuer struct {
	name  string
	life  time.Duration
	delay time.Duration
	fail  atomic.Pointer[Error]
	hook  func(ctx context.Context, in MintInput) // before the answer

	mu    sync.Mutex
	calls []time.Time
}

func (i *issuer) Digest() Digest { return DigestOf("test", i.name) }

func (i *issuer) Mint(ctx context.Context, in MintInput) (Credentials, error) {
	i.mu.Lock()
	i.calls = append(i.calls, time.Now())
	n, delay, hook := len(i.calls), i.delay, i.hook
	i.mu.Unlock()
	if hook != nil {
		hook(ctx, in)
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return Credentials{}, &Error{Kind: KindUnavailable, Public: "timed out", Cause: ctx.Err()}
		}
	}
	if e := i.fail.Load(); e != nil {
		return Credentials{}, e
	}
	now := time.Now()
	return Credentials{
		AccessKeyID: fmt.Sprintf("ASIATEST%s%08d", i.name, n), SecretAccessKey: NewSecret("secret"), SessionToken: NewSecret("token"),
		Issued: now, Expires: now.Add(i.life),
	}, nil
}

// change alters how it answers while it is in use.
func (i *issuer) change(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
}

func (i *issuer) mints() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.calls)
}

func (i *issuer) mintsSince(t time.Time) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := 0
	for _, c := range i.calls {
		if !c.Before(t) {
			n++
		}
	}
	return n
}

type everybody struct{}

func (everybody) Authorize(context.Context, Caller, string) error { return nil }

// events keeps what was observed.
type events struct {
	mu  sync.Mutex
	all []Event
}

func (e *events) Observe(ev Event) {
	if ev.Kind == EventServed {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

func (e *events) count(k EventKind) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.all {
		if ev.Kind == k {
			n++
		}
	}
	return n
}

type oneKey Material

func (k oneKey) Key(_ context.Context, name string) (Material, error) {
	if name != "work" {
		return Material{}, &Error{Kind: KindConfig, Public: "no key of that name"}
	}
	return Material(k), nil
}

// mapStore is the least that a LeaseStore can be.
type mapStore struct {
	mu sync.Mutex
	m  map[Key]Stored
}

func (s *mapStore) Load(_ context.Context, k Key) (Stored, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.m[k]; ok {
		return c, nil
	}
	return Stored{}, ErrNotFound
}

func (s *mapStore) PutIfNewer(_ context.Context, k Key, c Stored) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m[k] = c
	return nil
}

func (s *mapStore) Delete(_ context.Context, k Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, k)
	return nil
}

// running is a broker inside the test's bubble, ended with it.
type running struct {
	*Broker
	seen *events
	stop func()
}

func run(t *testing.T, profiles ...Profile) running {
	t.Helper()
	return runOn(t, &mapStore{m: map[Key]Stored{}}, profiles...)
}

// runOn is run with a store that others may have filled, or share.
func runOn(t *testing.T, store LeaseStore, profiles ...Profile) running {
	t.Helper()
	seen := &events{}
	b := New(Options{
		Keys: oneKey{AccessKeyID: "AKIATEST", SecretAccessKey: NewSecret("s")}, Store: store,
		Access: everybody{}, Observer: seen,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	b.Reload(profiles)
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return running{b, seen, stop}
}

func profile(i *issuer) Profile {
	return Profile{Name: i.name, Minter: i, Origin: "test:1", Action: "AssumeRole", Region: "eu-central-1", Bucket: "123456789012/eu-central-1"}
}

const patience = 800 * time.Millisecond

func (r running) ask(name string) (*Set, error) {
	return r.Get(context.Background(), Ask{Profile: name, Patience: patience})
}

func (r running) must(t *testing.T, name string) *Set {
	t.Helper()
	set, err := r.ask(name)
	if err != nil {
		t.Fatalf("%v: %s: %v", time.Now().Format(time.TimeOnly), name, err)
	}
	if set.Left(time.Now()) <= 0 {
		t.Fatalf("%s: served expired", name)
	}
	return set
}

func kindOf(err error) Kind {
	var e *Error
	if !errors.As(err, &e) {
		return 255
	}
	return e.Kind
}

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
