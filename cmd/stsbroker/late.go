package main

import (
	"context"
	"sync/atomic"

	"github.com/stsbroker/stsbroker/broker"
)

// lateStore is the lease store of a command that began with locked custody: in memory,
// until what rests sealed can be read.
type lateStore struct {
	now atomic.Pointer[broker.LeaseStore]
}

func newLateStore(s broker.LeaseStore) *lateStore {
	l := &lateStore{}
	l.now.Store(&s)
	return l
}

func (l *lateStore) becomes(s broker.LeaseStore) { l.now.Store(&s) }

// Load implements broker.LeaseStore.
func (l *lateStore) Load(ctx context.Context, k broker.Key) (broker.Stored, error) {
	return (*l.now.Load()).Load(ctx, k)
}

// PutIfNewer implements broker.LeaseStore.
func (l *lateStore) PutIfNewer(ctx context.Context, k broker.Key, c broker.Stored) error {
	return (*l.now.Load()).PutIfNewer(ctx, k, c)
}

// Delete implements broker.LeaseStore.
func (l *lateStore) Delete(ctx context.Context, k broker.Key) error {
	return (*l.now.Load()).Delete(ctx, k)
}

// Lock implements broker.Locker, where the store has it.
func (l *lateStore) Lock(ctx context.Context, k broker.Key) (func(), error) {
	if s, ok := (*l.now.Load()).(broker.Locker); ok {
		return s.Lock(ctx, k)
	}
	return func() {}, nil
}
