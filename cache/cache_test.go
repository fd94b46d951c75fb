package cache_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/cache"
	"github.com/stsbroker/stsbroker/cache/cachetest"
)

func TestMemory(t *testing.T) {
	cachetest.Run(t, func(*testing.T) broker.LeaseStore { return cache.NewMemory() })
}

func TestMemoryDropsTheExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := cache.NewMemory()
		put := func(name string) broker.Key {
			now := time.Now()
			k := broker.Key{Digest: broker.DigestOf("test", name)}
			c := broker.Stored{Credentials: broker.Credentials{Issued: now, Expires: now.Add(time.Hour)}, Received: now}
			if err := s.PutIfNewer(t.Context(), k, c); err != nil {
				t.Fatal(err)
			}
			return k
		}
		old := put("old")
		time.Sleep(2 * time.Hour)
		put("new")
		if _, err := s.Load(t.Context(), old); !errors.Is(err, broker.ErrNotFound) {
			t.Errorf("an expired set is still held: %v", err)
		}
	})
}
