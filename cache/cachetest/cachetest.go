// Package cachetest is the conformance suite that every lease store passes.
package cachetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// Run tests the store that open returns; each subtest opens a fresh one.
func Run(t *testing.T, open func(t *testing.T) broker.LeaseStore) {
	t.Run("nothing there", func(t *testing.T) {
		s := open(t)
		if _, err := s.Load(t.Context(), key("a")); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("Load of nothing: %v, want ErrNotFound", err)
		}
		if err := s.Delete(t.Context(), key("a")); err != nil {
			t.Errorf("Delete of nothing: %v", err)
		}
	})
	t.Run("all of it comes back", func(t *testing.T) {
		s := open(t)
		in := set("AKIDFULL", time.Hour)
		in.AccountID, in.RoleARN, in.Note = "123456789012", "arn:aws:iam::123456789012:role/r", "note"
		put(t, s, key("a"), in)
		out := load(t, s, key("a"))
		if out.AccessKeyID != in.AccessKeyID || !out.SecretAccessKey.Equal(in.SecretAccessKey) || !out.SessionToken.Equal(in.SessionToken) ||
			out.AccountID != in.AccountID || out.RoleARN != in.RoleARN || out.Note != in.Note ||
			!out.Issued.Equal(in.Issued) || !out.Expires.Equal(in.Expires) || !out.Received.Equal(in.Received) {
			t.Errorf("put %+v, got %+v", in, out)
		}
	})
	t.Run("keys are apart", func(t *testing.T) {
		s := open(t)
		subject := key("a")
		subject.Subject = "somebody"
		put(t, s, key("a"), set("AKIDA", time.Hour))
		put(t, s, key("b"), set("AKIDB", time.Hour))
		put(t, s, subject, set("AKIDS", time.Hour))
		for k, want := range map[broker.Key]string{key("a"): "AKIDA", key("b"): "AKIDB", subject: "AKIDS"} {
			if got := load(t, s, k).AccessKeyID; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	})
	t.Run("an older set never replaces a newer one", func(t *testing.T) {
		s := open(t)
		put(t, s, key("a"), set("AKIDNEW", 2*time.Hour))
		put(t, s, key("a"), set("AKIDOLD", time.Hour))
		if got := load(t, s, key("a")).AccessKeyID; got != "AKIDNEW" {
			t.Errorf("got %s", got)
		}
		put(t, s, key("a"), set("AKIDNEWER", 3*time.Hour))
		if got := load(t, s, key("a")).AccessKeyID; got != "AKIDNEWER" {
			t.Errorf("got %s", got)
		}
	})
	t.Run("delete", func(t *testing.T) {
		s := open(t)
		put(t, s, key("a"), set("AKIDA", time.Hour))
		for range 2 {
			if err := s.Delete(t.Context(), key("a")); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Load(t.Context(), key("a")); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("after Delete: %v", err)
		}
	})
	t.Run("forgotten", func(t *testing.T) {
		s := open(t)
		f, ok := s.(broker.Forgetter)
		if !ok {
			t.Skip("not run: the store outlives no process")
		}
		before := set("AKIDOLD", 2*time.Hour)
		put(t, s, key("a"), before)
		put(t, s, key("b"), set("AKIDB", time.Hour))
		for _, name := range []string{"a", "never"} {
			if err := f.Forget(t.Context(), key(name)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Load(t.Context(), key(name)); !errors.Is(err, broker.ErrNotFound) {
				t.Errorf("after Forget of %s: %v", name, err)
			}
			if !f.Forgotten(t.Context(), key(name), before.Received) {
				t.Errorf("%s is not forgotten", name)
			}
		}
		if f.Forgotten(t.Context(), key("b"), before.Received) || load(t, s, key("b")).AccessKeyID != "AKIDB" {
			t.Error("another key was forgotten too")
		}
		later := set("AKIDNEW", time.Hour)
		for forgotten := time.Now(); !later.Received.After(forgotten); {
			later.Received = time.Now()
		}
		if f.Forgotten(t.Context(), key("a"), later.Received) {
			t.Error("what came later is forgotten")
		}
		put(t, s, key("a"), later)
		if got := load(t, s, key("a")).AccessKeyID; got != "AKIDNEW" {
			t.Errorf("got %s", got)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		s := open(t)
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				for n := range 20 {
					put(t, s, key("a"), set(fmt.Sprintf("AKID%d", i*20+n), time.Hour+time.Duration(i*20+n)*time.Second))
				}
			})
		}
		wg.Wait()
		if got := load(t, s, key("a")).AccessKeyID; got != "AKID319" {
			t.Errorf("the newest is AKID319, got %s", got)
		}
	})
}

func key(name string) broker.Key { return broker.Key{Digest: broker.DigestOf("test", name)} }

func set(id string, life time.Duration) broker.Stored {
	now := time.Now().Truncate(time.Second)
	return broker.Stored{
		Credentials: broker.Credentials{
			AccessKeyID: id, SecretAccessKey: broker.NewSecret("secret of " + id), SessionToken: broker.NewSecret("token of " + id),
			Issued: now, Expires: now.Add(life),
		},
		Received: now,
	}
}

func put(t *testing.T, s broker.LeaseStore, k broker.Key, c broker.Stored) {
	t.Helper()
	if err := s.PutIfNewer(t.Context(), k, c); err != nil {
		t.Error(err)
	}
}

func load(t *testing.T, s broker.LeaseStore, k broker.Key) broker.Stored {
	t.Helper()
	c, err := s.Load(t.Context(), k)
	if err != nil {
		t.Error(err)
	}
	return c
}
