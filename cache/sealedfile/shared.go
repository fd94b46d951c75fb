package sealedfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/seal"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

const (
	lockMark  = ".lock"  // of the file that whoever writes the leases has a lock on
	ownerMark = ".owner" // of the one that a process locks which has the leases for its whole life

	ownPatience = 12 * time.Second // for another process that has the lock for the length of a mint, of ten at most
	poll        = 20 * time.Millisecond
	pollSpread  = 30 * time.Millisecond // so that those who wait do not come all at once
)

// Files are the paths of the file of leases at path, and of its locks.
func Files(path string) []string { return []string{path, path + lockMark, path + ownerMark} }

var errOwned = errors.New("another stsbroker keeps the sealed leases")

// own takes the leases for the life of a process. It waits a while for those that share
// them.
func own(path string) (release func(), err error) {
	until := time.Now().Add(ownPatience)
	var releases []func()
	release = func() {
		for _, f := range releases {
			f()
		}
		releases = nil
	}
	for _, mark := range []string{ownerMark, lockMark} { // the first keeps others from asking for the second
		for {
			r, held, err := securefile.Lock(path + mark)
			if err != nil {
				release()
				return nil, fmt.Errorf("sealed leases: %w", err)
			}
			if held {
				releases = append(releases, r)
				break
			}
			if time.Now().After(until) {
				release()
				return nil, fmt.Errorf("another stsbroker has the sealed leases %s; stop it first, or wait for what it mints", path)
			}
			time.Sleep(poll)
		}
	}
	return release, nil
}

// Shared is a [broker.LeaseStore] over the file of leases for processes that come and go
// with no daemon beside them. It is a [broker.Locker]: what is put or deleted while it is
// locked is in the file when unlock returns, beside what others have put there. What is
// put at another time waits for the next unlock.
//
// While a daemon keeps the file, or it cannot be read, a Shared reads what there is and
// keeps the rest to itself. It never moves the file, and writes over none that it cannot
// read.
type Shared struct {
	path string
	id   seal.Identity

	gate    chan struct{} // capacity 1: of holds and release, taken before mu
	holds   int           // how often this process has it locked
	release func()

	mu      sync.Mutex
	file    held                  // what the file held when it was read or written last
	buried  graves                // since, likewise
	changes map[broker.Key]change // since, and what is for this process alone
	stamp   os.FileInfo           // of the file then; nil for none
	why     error                 // the file cannot be used
}

// change is what was done to a key, first the deletion.
type change struct {
	deleted string         // the key id of the set in the file that was; "" for none
	put     *broker.Stored // nil for none
}

// OpenShared returns the leases in the file at path. It can be used with an error too,
// which says why the file cannot be: others can reach it, the identity does not open it,
// it is damaged, or of a later time than now. It is looked at again when it has changed.
func OpenShared(path string, id seal.Identity) (*Shared, error) {
	s := &Shared{path: path, id: id, gate: make(chan struct{}, 1), changes: map[broker.Key]change{}, buried: graves{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readLocked()
	return s, s.why
}

// readLocked reads the file, if it is another one than last time.
func (s *Shared) readLocked() {
	info, err := os.Lstat(s.path)
	switch {
	case err != nil: // none, or one that shows when it is read
		info = nil
	case s.stamp != nil && os.SameFile(info, s.stamp) && info.ModTime().Equal(s.stamp.ModTime()) && info.Size() == s.stamp.Size():
		return
	}
	s.stamp = info // before it is read: one that is replaced in between is read again
	raw, err := read(s.path)
	if err == nil {
		if s.file, err = decode(raw, s.id, time.Now()); err != nil {
			err = fmt.Errorf("%s: %w", s.path, err)
		}
	}
	if s.why = err; err != nil {
		s.file = held{}
	}
}

// inFileLocked is what the file held for the key, but for what was deleted since.
func (s *Shared) inFileLocked(k broker.Key) (st broker.Stored, ok bool) {
	st, ok = s.file.sets[k]
	return st, ok && st.AccessKeyID != s.changes[k].deleted && !s.buried.cover(k, st.Received)
}

func (s *Shared) forgottenLocked(k broker.Key, received time.Time) bool {
	return s.file.graves.cover(k, received) || s.buried.cover(k, received)
}

func (s *Shared) getLocked(k broker.Key) (st broker.Stored, ok bool) {
	st, ok = s.inFileLocked(k)
	if put := s.changes[k].put; put != nil && !s.forgottenLocked(k, put.Received) && (!ok || !ends(*put).Before(ends(st))) {
		return *put, true
	}
	return st, ok
}

// Load implements [broker.LeaseStore]. It looks at the file, and reads it if it has changed.
func (s *Shared) Load(_ context.Context, k broker.Key) (broker.Stored, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readLocked()
	st, ok := s.getLocked(k)
	if !ok {
		return broker.Stored{}, broker.ErrNotFound
	}
	return st, nil
}

// PutIfNewer implements [broker.LeaseStore].
func (s *Shared) PutIfNewer(_ context.Context, k broker.Key, st broker.Stored) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.getLocked(k); !ok || !ends(st).Before(ends(old)) {
		s.changes[k] = change{s.changes[k].deleted, &st}
	}
	return nil
}

// Delete implements [broker.LeaseStore]. A set that another process puts there later is
// not meant.
func (s *Shared) Delete(_ context.Context, k broker.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := change{deleted: s.changes[k].deleted}
	if st, ok := s.file.sets[k]; ok {
		c.deleted = st.AccessKeyID
	}
	if s.changes[k] = c; c.deleted == "" {
		delete(s.changes, k)
	}
	return nil
}

// Forget implements [broker.Forgetter]. What another process received until now is meant
// too.
func (s *Shared) Forget(_ context.Context, k broker.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.changes, k)
	s.buried[k] = time.Now()
	return nil
}

// Forgotten implements [broker.Forgetter]. It looks at the file, and reads it if it has
// changed.
func (s *Shared) Forgotten(_ context.Context, k broker.Key, received time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readLocked()
	return s.forgottenLocked(k, received)
}

// Flush implements [broker.Flusher]: it takes the lock and writes what has changed.
func (s *Shared) Flush(ctx context.Context) error {
	unlock, err := s.Lock(ctx, broker.Key{})
	if err != nil {
		return err
	}
	defer unlock()
	return s.save()
}

// Lock implements [broker.Locker]. It is given at once where this process has it locked
// already, whatever for.
func (s *Shared) Lock(ctx context.Context, _ broker.Key) (unlock func(), err error) {
	select {
	case s.gate <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-s.gate }()
	if s.holds == 0 {
		if s.release, err = s.lockFile(ctx); err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.readLocked()
		err = s.why
		s.mu.Unlock()
		if err != nil {
			s.release()
			return nil, err
		}
	}
	s.holds++
	return sync.OnceFunc(s.unlock), nil
}

func (s *Shared) lockFile(ctx context.Context) (release func(), err error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if lockedByAnother(s.path + ownerMark) { // it has the lock, or is about to
			return nil, errOwned
		}
		release, held, err := securefile.Lock(s.path + lockMark)
		if errors.Is(err, fs.ErrNotExist) { // nobody has had state here yet
			if err := securefile.MakeFolder(filepath.Dir(s.path)); err != nil {
				return nil, err
			}
			release, held, err = securefile.Lock(s.path + lockMark)
		}
		if held || err != nil {
			return release, err
		}
		timer.Reset(poll + rand.N(pollSpread))
	}
}

func (s *Shared) unlock() {
	s.gate <- struct{}{}
	defer func() { <-s.gate }()
	_ = s.save() // the next one tries again
	if s.holds--; s.holds == 0 {
		s.release()
	}
}

// save writes the file under the lock, with what has changed. Where that fails, the next
// unlock tries it again; this process goes on with what it has.
func (s *Shared) save() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	file, own := map[broker.Key]broker.Stored{}, map[broker.Key]change{}
	buried := graves{}
	buried.add(s.file.graves)
	buried.add(s.buried)
	buried.prune(now)
	dirty := len(s.buried) > 0
	for k, st := range s.file.sets {
		if _, ok := s.inFileLocked(k); ok && ends(st).After(now) {
			file[k] = st
		} else {
			dirty = true
		}
	}
	for k, c := range s.changes {
		switch st, ok := s.getLocked(k); {
		case c.put == nil || !ok || st.AccessKeyID != c.put.AccessKeyID || !ends(st).After(now):
		case st.Local:
			own[k] = change{put: c.put}
		default:
			file[k], dirty = st, true
		}
	}
	if dirty {
		if err := write(s.path, s.id.Sealer(), contentOf(held{file, buried}, now)); err != nil {
			return err
		}
		s.stamp, _ = os.Lstat(s.path)
	}
	s.file, s.changes, s.buried = held{file, buried}, own, graves{}
	return nil
}
