// Package cache holds the lease stores: where session credentials outlive the
// lease that minted them. This one is memory; stores that survive a restart
// are packages below this one. Each passes cache/cachetest.
package cache

import (
	"context"
	"sync"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// Memory is a [broker.LeaseStore] that lives as long as the process: it gives a
// lease that was evicted its credentials back. Sets that expired are dropped
// whenever one is put, so it holds no more than what is still of use.
type Memory struct {
	mu sync.Mutex
	m  map[broker.Key]broker.Stored
}

// NewMemory returns an empty store.
func NewMemory() *Memory { return &Memory{m: map[broker.Key]broker.Stored{}} }

// Load implements [broker.LeaseStore].
func (s *Memory) Load(_ context.Context, k broker.Key) (broker.Stored, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.m[k]
	if !ok {
		return broker.Stored{}, broker.ErrNotFound
	}
	return c, nil
}

// PutIfNewer implements [broker.LeaseStore].
func (s *Memory) PutIfNewer(_ context.Context, k broker.Key, c broker.Stored) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for k, old := range s.m {
		if ends(old).Before(now) {
			delete(s.m, k)
		}
	}
	if old, ok := s.m[k]; !ok || !ends(c).Before(ends(old)) {
		s.m[k] = c
	}
	return nil
}

// Delete implements [broker.LeaseStore].
func (s *Memory) Delete(_ context.Context, k broker.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, k)
	return nil
}

// ends is the expiry on the host's clock.
func ends(c broker.Stored) time.Time { return c.Received.Add(c.Lifetime()) }
