// Package sealedfile is a lease store that survives a restart: one file that opens
// for one identity alone. A broker that starts with it mints nothing that it held
// before, and asks nobody for a code that was given already.
//
// What is held is in memory; the file is written whole, beside the way of every
// request, at once after a change and then at most once a second. So a crash loses
// the mints of the last second at most, and never the file: it is the one before a
// save or the one after it.
//
// A [Store] has the file for the whole life of its process. Without such a process,
// several that come and go have it as [Shared].
package sealedfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/seal"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

const (
	version = 1
	limit   = 64 << 20 // bytes; the most leases, with the longest tokens, fit
	most    = 4096     // sets in the file: a broker has no more leases; of those beyond, chance decides

	gap     = time.Second // at least, between two saves
	gapMost = time.Minute // the longest, while saves fail

	clockEvery = 15 * time.Second // at most this long until a clock that was set is noticed

	// tolerance is how far a clock may be off before what it says of the file is
	// not believed; the broker's own for a clock that was set.
	tolerance = 30 * time.Second

	asideMark = ".damaged-"
)

// Store is a [broker.LeaseStore] in a file. Whoever made one with [Open] lets Run
// return, then calls Close. Its methods never wait for the disk, save Unlock, Flush and
// Close.
//
// It is locked as long as nobody has given it the identity. Then it is a store in memory,
// and leaves the file as it is; see [Store.Unlock].
type Store struct {
	path    string
	report  func(error)
	changed chan struct{} // capacity 1
	release func()        // of the locks
	opening sync.Mutex    // of Unlock, one at a time

	saving chan struct{} // capacity 1: of the save that is under way, taken before mu
	rests  bool          // there was a file at the start

	mu      sync.Mutex
	id      seal.Identity // zero while it is locked
	to      seal.Sealer   // zero as long as it always was: then nothing is written
	m       map[broker.Key]broker.Stored
	graves  graves
	gone    map[broker.Key]bool // deleted, before the file was read
	at      time.Time           // when the file was read or written, on both clocks
	dirty   bool
	writing bool  // what was dirty is on its way to the disk
	err     error // of the last save
}

// ErrLocked is why nothing is saved as long as nobody has given the identity.
var ErrLocked = errors.New("they are locked: what was minted since the start is in memory only")

// Options say which file, and what opens it.
type Options struct {
	Path     string        // in a folder that only this user reaches
	Identity seal.Identity // zero: locked
	// Report is told when saves begin to fail, and with nil when they work again.
	// While they fail, they are tried again, at least once a minute.
	Report func(error)
}

// Open reads the file, where there is one, and drops the sets that have expired.
//
// A file that the identity does not open, that is damaged or of another version is
// moved aside, and the store starts empty: it is a cache, and a mint mends it. aside is
// then where it went, and why says what was wrong with it. Two such files are kept, and
// one that the identity does open takes the place of the one that it does not, or that
// is missing; why says so then. A file that was written later than now stays
// where it is and is not believed either, since nobody knows how long its sets have
// left; then only why is set.
//
// The error is of a file, or a folder above it, that others can reach, or that cannot
// be read or moved at all, or that another process has. For one that only shares it, and
// so for the length of a mint, Open waits a few seconds.
//
// Without an identity, the store starts locked, and only the last of these is an error.
func Open(o Options) (s *Store, aside string, why, err error) {
	release, err := own(o.Path)
	if err != nil {
		return nil, "", nil, err
	}
	s = &Store{
		path: o.Path, report: o.Report, changed: make(chan struct{}, 1), release: release, saving: make(chan struct{}, 1),
		m: map[broker.Key]broker.Stored{}, graves: graves{}, gone: map[broker.Key]bool{}, at: time.Now(),
	}
	_, missing := os.Lstat(o.Path)
	s.rests = !errors.Is(missing, fs.ErrNotExist)
	if o.Identity.IsZero() {
		return s, "", nil, nil
	}
	if aside, why, err = s.Unlock(o.Identity); err != nil {
		release()
		return nil, "", nil, err
	}
	return s, aside, why, nil
}

// Unlock reads the file as [Open] does, with the same results, and from then on what is
// held is saved. Of what was minted meanwhile and what the file has, the set that ends
// later stays; what was deleted meanwhile is deleted there too. With an error the store
// is as locked as before.
//
// After [Store.Lock] there is nothing to be read: all of it is in memory.
func (s *Store) Unlock(id seal.Identity) (aside string, why, err error) {
	s.opening.Lock()
	defer s.opening.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if id.IsZero() {
		return "", nil, errors.New("sealed leases: there is no identity")
	}
	if s.to.IsZero() {
		s.mu.Unlock()
		now := time.Now()
		var file held
		file, aside, why, err = fetch(s.path, id, now)
		s.mu.Lock()
		if err != nil {
			return "", nil, err
		}
		s.mergeLocked(file)
		s.at = now
	} else if !s.id.Same(id) { // or the same after a lock, which does no harm
		s.touchLocked()
	}
	if s.id, s.to = id, id.Sealer(); s.dirty {
		s.touchLocked() // Run may have looked when nothing could be written
	}
	return aside, why, nil
}

// mergeLocked takes what the file has, now that it can be read.
func (s *Store) mergeLocked(file held) {
	s.graves.add(file.graves)
	for k, st := range file.sets {
		if s.gone[k] {
			s.touchLocked()
		} else if old, ok := s.m[k]; !ok || ends(old).Before(ends(st)) {
			s.m[k] = st
		}
	}
	s.gone = nil
}

// Lock makes the store forget the identity. What it holds stays, and is saved: for that
// the identity is not needed.
func (s *Store) Lock() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id = seal.Identity{}
}

// fetch returns what the file at path has, and moves it aside where it cannot be used.
func fetch(path string, id seal.Identity, now time.Time) (file held, aside string, why, err error) {
	raw, err := read(path)
	if err != nil {
		return held{}, "", nil, err
	}
	file, why = decode(raw, id, now)
	if errors.Is(why, errFuture) {
		return file, "", why, nil
	}
	var from string
	if raw == nil || why != nil { // the identity may be back, whose file another one's start had moved aside
		if older, path := earlier(path, id, now); path != "" {
			file, from = older, path
		}
	}
	if why != nil {
		if aside, err = moveAside(path, now); err != nil {
			return held{}, "", nil, err
		}
	}
	if from != "" { // it takes its place again, and is no earlier one of a later file
		if err := os.Rename(from, path); err != nil {
			return held{}, "", nil, fmt.Errorf("sealed leases: %w", err)
		}
		back := fmt.Errorf("%s, which had been moved aside, is opened by this identity and used again", filepath.Base(from))
		if why == nil {
			why = back
		} else {
			why = fmt.Errorf("%w; %w", why, back)
		}
	}
	prune(path)
	return file, aside, why, nil
}

// earlier returns what a file that was moved aside holds, if the identity opens it, and
// which that is: the newest of them.
func earlier(path string, id seal.Identity, now time.Time) (file held, from string) {
	for _, path := range asides(path) {
		if raw, err := read(path); err == nil && raw != nil {
			if file, err := decode(raw, id, now); err == nil {
				return file, path
			}
		}
	}
	return held{}, ""
}

// Readable says why the file at path would stop [Open], nil if it would not.
func Readable(path string) error {
	_, err := read(path)
	return err
}

// Load implements [broker.LeaseStore]. Before the file could be read, [broker.Locked] is
// the answer for what it may have.
func (s *Store) Load(_ context.Context, k broker.Key) (broker.Stored, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.m[k]
	switch {
	case ok:
		return c, nil
	case s.to.IsZero() && s.rests && !s.gone[k]:
		return broker.Stored{}, broker.Locked()
	}
	return broker.Stored{}, broker.ErrNotFound
}

// PutIfNewer implements [broker.LeaseStore]. It does not wait for the file.
func (s *Store) PutIfNewer(_ context.Context, k broker.Key, c broker.Stored) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.m[k]; !ok || !ends(c).Before(ends(old)) {
		s.m[k] = c
		s.touchLocked()
		if s.graves.cover(k, c.Received) { // minted here, and so since: a clock was set
			delete(s.graves, k)
		}
	}
	return nil
}

// Delete implements [broker.LeaseStore]. It does not wait for the file.
func (s *Store) Delete(_ context.Context, k broker.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deleteLocked(k)
	return nil
}

// Forget implements [broker.Forgetter]. It does not wait for the file either.
func (s *Store) Forget(_ context.Context, k broker.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deleteLocked(k)
	s.graves[k] = time.Now()
	s.touchLocked()
	return nil
}

// Forgotten implements [broker.Forgetter].
func (s *Store) Forgotten(_ context.Context, k broker.Key, received time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.graves.cover(k, received)
}

func (s *Store) deleteLocked(k broker.Key) {
	if s.gone != nil {
		s.gone[k] = true
	}
	if _, ok := s.m[k]; ok {
		delete(s.m, k)
		s.touchLocked()
	}
}

func (s *Store) touchLocked() {
	s.dirty = true
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Run saves what changes until ctx ends. What changes later is for Close.
func (s *Store) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	clock := time.NewTicker(clockEvery)
	defer clock.Stop()
	wait := gap
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
		for waiting := true; waiting; {
			select {
			case <-s.changed:
				waiting = false
			case <-clock.C:
				s.lookAtClock(time.Now())
			case <-ctx.Done():
				return nil
			}
		}
		if s.save() == nil {
			wait = gap
		} else {
			wait = min(2*wait, gapMost)
		}
		timer.Reset(wait)
	}
}

// lookAtClock has the file written anew when the wall clock was set: the times in it
// are of that clock, and would say too much of what is left after a restart.
func (s *Store) lookAtClock(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if step := now.Round(0).Sub(s.at.Round(0)) - now.Sub(s.at); len(s.m)+len(s.graves) > 0 && step.Abs() > tolerance {
		s.touchLocked()
	}
}

// Flush implements [broker.Flusher]: it saves what Run has not yet. A save that is under
// way when ctx ends goes on. Of a store that was never unlocked, over a file, the error is
// [broker.Locked].
func (s *Store) Flush(ctx context.Context) error {
	s.mu.Lock()
	locked := s.to.IsZero() && s.rests
	s.mu.Unlock()
	if locked {
		return broker.Locked()
	}
	select {
	case s.saving <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	saved := make(chan error, 1)
	go func() {
		err := s.saveInTurn()
		<-s.saving
		saved <- err
	}()
	select {
	case err := <-saved:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close saves what Run has not, if it ever was unlocked, and lets others have the file.
func (s *Store) Close() error {
	defer s.release()
	s.lookAtClock(time.Now())
	if err := s.save(); err != nil {
		return fmt.Errorf("leases are not saved: %w", err)
	}
	return nil
}

// Standing reports whether something waits to be saved, and why it does: [ErrLocked], or
// what the last save failed of.
func (s *Store) Standing() (unsaved bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.to.IsZero() {
		return s.dirty, ErrLocked
	}
	return s.dirty || s.writing, s.err
}

// save writes the file if something changed, one at a time.
func (s *Store) save() error {
	s.saving <- struct{}{}
	defer func() { <-s.saving }()
	return s.saveInTurn()
}

func (s *Store) saveInTurn() error {
	s.mu.Lock()
	if !s.dirty {
		s.mu.Unlock()
		return nil
	}
	now := time.Now()
	for k, st := range s.m {
		if ends(st).Before(now) {
			delete(s.m, k)
		}
	}
	s.graves.prune(now)
	if s.to.IsZero() {
		s.mu.Unlock()
		return nil
	}
	s.at = now
	c, to := contentOf(held{s.m, s.graves}, now), s.to
	s.dirty, s.writing = false, true
	failed := s.err != nil
	s.mu.Unlock()

	err := write(s.path, to, c)

	s.mu.Lock()
	s.writing = false
	if s.err = err; err != nil {
		s.touchLocked() // again, when it is time
	}
	s.mu.Unlock()
	if s.report != nil && failed != (err != nil) {
		s.report(err)
	}
	return err
}

// held is what a file of leases has in it.
type held struct {
	sets   map[broker.Key]broker.Stored
	graves graves
}

// contentOf is what of it is written: what another process has a use for.
func contentOf(h held, now time.Time) content {
	c := content{Version: version, Saved: now.UTC()}
	for k, st := range h.sets {
		if !st.Local && len(c.Leases) < most && st.Expires.UTC().Year() <= 9999 { // JSON has no later one
			c.Leases = append(c.Leases, entryOf(k, st, now))
		}
	}
	for k, at := range h.graves {
		c.Forgotten = append(c.Forgotten, grave{Digest: k.Digest[:], Subject: k.Subject, At: onWall(at, now)})
	}
	return c
}

func write(path string, to seal.Sealer, c content) error {
	plain, err := json.Marshal(c)
	if err != nil {
		return err
	}
	sealed, err := to.Seal(plain)
	if err != nil {
		return err
	}
	if len(sealed) > limit {
		return fmt.Errorf("they are %d bytes, and more than %d would not be read again", len(sealed), limit)
	}
	return securefile.Write(path, sealed)
}

// read returns nil where there is no file.
func read(path string) ([]byte, error) {
	raw, err := securefile.Read(path, limit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("sealed leases: %w", err)
	}
	return raw, nil
}

// moveAside gives the file a name that is no other's.
func moveAside(path string, now time.Time) (string, error) {
	aside := path + asideMark + now.UTC().Format("20060102T150405.000000000Z")
	if err := os.Rename(path, aside); err != nil {
		return "", fmt.Errorf("sealed leases: %w", err)
	}
	return aside, nil
}

// prune keeps the two newest of the files that were moved aside.
func prune(path string) {
	for i, other := range asides(path) {
		if i >= 2 {
			_ = os.Remove(other) // one that stays is in nobody's way
		}
	}
}

// asides are the files that were moved aside, the newest first.
func asides(path string) (paths []string) {
	folder, name := filepath.Split(path)
	entries, _ := os.ReadDir(filepath.Clean(folder))
	for _, e := range slices.Backward(entries) { // sorted by name, and so by time
		if strings.HasPrefix(e.Name(), name+asideMark) {
			paths = append(paths, filepath.Join(folder, e.Name()))
		}
	}
	return paths
}

// content is what is sealed.
type content struct {
	Version int       `json:"version"`
	Saved   time.Time `json:"saved"` // by the host's clock
	Leases  []entry   `json:"leases"`

	Forgotten []grave `json:"forgotten,omitempty"`
}

// entry is a set, and all that a lease needs of it. Values that a client gets are
// kept to the byte.
type entry struct {
	Digest   []byte    `json:"lease"`
	Subject  string    `json:"subject,omitempty"`
	KeyID    string    `json:"key_id"`
	Secret   []byte    `json:"secret"`
	Token    []byte    `json:"token"`
	Account  string    `json:"account,omitempty"`
	Role     string    `json:"role,omitempty"`
	Region   string    `json:"region,omitempty"`
	Note     string    `json:"note,omitempty"`
	Issued   time.Time `json:"issued"`
	Expires  time.Time `json:"expires"`
	Received time.Time `json:"received"`
}

func entryOf(k broker.Key, c broker.Stored, now time.Time) entry {
	return entry{
		Digest: k.Digest[:], Subject: k.Subject, KeyID: c.AccessKeyID, Secret: []byte(c.SecretAccessKey.Reveal()), Token: []byte(c.SessionToken.Reveal()),
		Account: c.AccountID, Role: c.RoleARN, Region: c.Region, Note: c.Note,
		Issued: c.Issued.UTC(), Expires: c.Expires.UTC(), Received: onWall(c.Received, now),
	}
}

// onWall is then by the wall clock as it is now: the file has no monotonic one to show that
// it was set back.
func onWall(then, now time.Time) time.Time {
	wall := then.Round(0)
	if back := now.Sub(then) - now.Round(0).Sub(wall); back > tolerance {
		wall = wall.Add(-back)
	}
	return wall.UTC()
}

var errFuture = errors.New("it was written later than now: the clock was set back, or had been ahead")

// decode returns what raw, nil for no file, holds at now. An error comes with nothing.
func decode(raw []byte, id seal.Identity, now time.Time) (held, error) {
	h, none := held{map[broker.Key]broker.Stored{}, graves{}}, held{map[broker.Key]broker.Stored{}, graves{}}
	if raw == nil {
		return none, nil
	}
	plain, err := id.Open(raw, limit)
	if err != nil {
		return none, err
	}
	var c content
	if err := json.Unmarshal(plain, &c); err != nil {
		return none, errors.New("it is damaged: what was sealed is no list of leases") // the decoder's own words may quote it
	}
	switch {
	case c.Version != version:
		return none, fmt.Errorf("it has version %d, and this stsbroker knows %d", c.Version, version)
	case c.Saved.Sub(now) > tolerance:
		return none, errFuture
	}
	monotonic := func(wall time.Time) time.Time { return now.Add(wall.Sub(now.Round(0))) }
	for _, g := range c.Forgotten {
		var k broker.Key
		if len(g.Digest) != copy(k.Digest[:], g.Digest) || len(g.Digest) != len(k.Digest) {
			return none, errors.New("it is damaged: what was forgotten is not whole")
		}
		k.Subject = g.Subject
		h.graves[k] = monotonic(g.At)
	}
	h.graves.prune(now)
	for _, e := range c.Leases {
		var k broker.Key
		if copy(k.Digest[:], e.Digest) != len(k.Digest) || len(e.Digest) != len(k.Digest) || e.KeyID == "" || len(e.Secret) == 0 || len(e.Token) == 0 || !e.Expires.After(e.Issued) {
			return none, errors.New("it is damaged: a lease in it is not whole")
		}
		k.Subject = e.Subject
		st := broker.Stored{
			Credentials: broker.Credentials{
				AccessKeyID: e.KeyID, SecretAccessKey: broker.NewSecret(string(e.Secret)), SessionToken: broker.NewSecret(string(e.Token)),
				AccountID: e.Account, RoleARN: e.Role, Region: e.Region, Note: e.Note, Issued: e.Issued, Expires: e.Expires,
			},
			Received: monotonic(e.Received),
		}
		if ends(st).After(now) && !h.graves.cover(k, st.Received) {
			h.sets[k] = st
		}
	}
	return h, nil
}

// ends is the expiry on the host's clock.
func ends(c broker.Stored) time.Time { return c.Received.Add(c.Lifetime()) }
