package keyring

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

func kindOf(err error) broker.Kind {
	var e *broker.Error
	if !errors.As(err, &e) {
		return 255
	}
	return e.Kind
}

// table is a backend that can hang, forget, or refuse.
type table struct {
	mu      sync.Mutex
	items   map[string]string
	calls   atomic.Int32
	hang    chan struct{} // until it is closed; nil for not at all
	forgets bool
}

func (b *table) wait() {
	b.calls.Add(1)
	if b.hang != nil {
		<-b.hang // like a call that knows no context
	}
}

func (b *table) get(_ context.Context, user string) ([]byte, error) {
	b.wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, ok := b.items[user]; ok {
		return []byte(s), nil
	}
	return nil, fs.ErrNotExist
}

func (b *table) put(_ context.Context, user string, secret []byte) error {
	b.wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.forgets {
		b.items[user] = string(secret)
	}
	return nil
}

func (b *table) remove(_ context.Context, user string) error {
	b.wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.items, user)
	return nil
}

func (b *table) unlock(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func over(b *table) *Keyring {
	b.items = map[string]string{}
	k := New(func(string) string { return "" })
	k.back = b
	return k
}

func TestKeysAndIdentityAreApart(t *testing.T) {
	b := &table{}
	k := over(b)
	for _, err := range []error{k.Put(t.Context(), "identity", []byte("a key of this name")), k.PutIdentity(t.Context(), []byte("AGE-SECRET-KEY"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := k.Get(t.Context(), "identity")
	id, err2 := k.Identity(t.Context())
	if string(key) != "a key of this name" || string(id) != "AGE-SECRET-KEY" || err != nil || err2 != nil {
		t.Errorf("%q, %v; %q, %v", key, err, id, err2)
	}
	if err := k.DeleteIdentity(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := k.Identity(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after its end: %v", err)
	}
	if _, err := k.Get(t.Context(), "identity"); err != nil {
		t.Error(err)
	}
}

func TestSizes(t *testing.T) {
	k := over(&table{})
	for size, ok := range map[int]bool{0: false, 1: true, MaxSize: true, MaxSize + 1: false} {
		err := k.Put(t.Context(), "k", []byte(strings.Repeat("x", size)))
		if (err == nil) != ok || !ok && (kindOf(err) != broker.KindConfig || !strings.Contains(err.Error(), "2560")) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// A keyring that says yes and keeps nothing is found out before a key is lost.
func TestPutIsReadBack(t *testing.T) {
	k := over(&table{forgets: true})
	if err := k.Put(t.Context(), "k", []byte("x")); kindOf(err) != broker.KindConfig || !strings.Contains(err.Error(), "did not keep") {
		t.Errorf("%v", err)
	}
}

// A keyring that hangs for ever costs five seconds and one goroutine, however many ask.
func TestHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &table{hang: make(chan struct{})}
		k := over(b)
		began := time.Now()
		for range 3 {
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					if _, err := k.Get(t.Context(), "k"); kindOf(err) != broker.KindUnavailable || !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("%v", err)
					}
				})
			}
			wg.Wait()
		}
		if took := time.Since(began); took != 3*limit {
			t.Errorf("it took %v", took)
		}
		if n := b.calls.Load(); n != 1 { // each has a goroutine of its own
			t.Errorf("%d calls are under way", n)
		}
		close(b.hang)
		synctest.Wait()
		if _, err := k.Get(t.Context(), "k"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("afterwards: %v", err)
		}
	})
}

func TestUnlockEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := over(&table{})
		began := time.Now()
		if err := k.Unlock(t.Context()); kindOf(err) != broker.KindLocked || time.Since(began) != unlockLimit {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}
