// Package filewatch tells when files may read otherwise than before: files that are not
// there yet, that an editor replaces, that are reached over links (Kubernetes mounts swap
// one link for a whole folder), in folders that come and go.
//
// What the operating system tells is taken as a hint to look, and never as an answer: a
// change is reported when a file, reached by its path once more, is another one, or has
// another size, time, mode or owner. So nothing depends on which event says what.
//
// Two things nobody tells: that something was mounted over a folder; and on systems other
// than Linux, that a folder further up was renamed, or a file of a network changed elsewhere.
//
// A [Watcher] does nothing at all while nothing happens.
package filewatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watcher watches a set of files. Make it with [New].
type Watcher struct {
	changed  func(paths []string)
	complain func(error)
	open     func() (*source, error)
	pace     pace

	poke chan struct{} // capacity 1: the set is another

	mu    sync.Mutex
	files map[string]stamp // by path, as of the last report

	// What follows is Run's alone.
	events  *source          // nil: it cannot be had
	folders map[string]names // that are watched, and what in them matters
	polls   bool             // not all is told: look from time to time
	told    map[string]bool  // what was complained of
}

// source is what the operating system tells.
type source struct {
	system
	events chan fsnotify.Event
	errors chan error
}

type system interface {
	Add(folder string) error
	Remove(folder string) error
	Close() error
}

func openSystem() (*source, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	return &source{w, w.Events, w.Errors}, nil
}

// pace is how fast it goes.
type pace struct {
	quiet time.Duration // nothing may happen for so long before a change is looked for
	most  time.Duration // but after so long it is, whatever happens
	poll  time.Duration // between looks at what nobody tells of
}

// rounds is how often the way to the files may change while it is being watched, before
// that is left for the next look.
const rounds = 10

// New returns a watcher of no files; see [Watcher.Set] and [Watcher.Run].
//
// changed is given the paths, as they were set and sorted, of files that have changed since
// the last call or were set. Calls come one after the other; the next waits for the last.
// A burst of changes is one call: 250 ms after its end, or 2 s after its beginning.
//
// complain is given what keeps the operating system from telling of changes, once for
// each cause. It is looked for them every 10 s then.
func New(changed func(paths []string), complain func(error)) *Watcher {
	return &Watcher{
		changed: changed, complain: complain, open: openSystem,
		pace: pace{quiet: 250 * time.Millisecond, most: 2 * time.Second, poll: 10 * time.Second},
		poke: make(chan struct{}, 1), files: map[string]stamp{}, folders: map[string]names{}, told: map[string]bool{},
	}
}

// Set says which files are watched from now on; relative paths are of the working folder.
// since is when whoever sets them began to read them: a file that was not watched before
// and changed at that time or later is reported at once. The zero time is for those who
// read after Set.
//
// It looks at each file, and returns when it has. It may be called from anywhere, changed
// too, and before Run.
func (w *Watcher) Set(since time.Time, paths ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	files := make(map[string]stamp, len(paths))
	for _, p := range paths {
		s, known := w.files[p]
		if !known {
			s = stampOf(p)
			s.late = !since.IsZero() && s.after(since)
		}
		files[p] = s
	}
	w.files = files
	select {
	case w.poke <- struct{}{}:
	default:
	}
}

// Run watches until ctx ends, and returns nil then. It is called once.
func (w *Watcher) Run(ctx context.Context) error {
	defer w.close()
	due := time.NewTimer(0)
	due.Stop()
	defer due.Stop()
	poll := time.NewTimer(0)
	poll.Stop()
	defer poll.Stop()
	var began time.Time // of the burst; zero: nothing is to be looked at
	note := func() {
		now := time.Now()
		if began.IsZero() {
			began = now
		}
		due.Reset(min(w.pace.quiet, began.Add(w.pace.most).Sub(now)))
	}
	look := func() { // for what happened where nobody told of it
		w.follow()
		if poll.Stop(); w.polls {
			poll.Reset(w.pace.poll)
		}
		if len(w.differ()) > 0 {
			note()
		}
	}
	look()
	for {
		var events chan fsnotify.Event
		var failed chan error
		if w.events != nil {
			events, failed = w.events.events, w.events.errors
		}
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-events:
			if !ok {
				w.close()
				look()
			} else if w.matters(e) {
				note()
			}
		case err, ok := <-failed:
			switch {
			case !ok:
				w.close()
			case !errors.Is(err, fsnotify.ErrEventOverflow): // then it is enough to look
				w.tell(fmt.Errorf("changes of files may be noticed late: %w", err))
			}
			note()
		case <-w.poke:
			look()
		case <-poll.C:
			look()
		case <-due.C:
			began = time.Time{}
			w.follow()
			if poll.Stop(); w.polls {
				poll.Reset(w.pace.poll)
			}
			if paths := w.take(); len(paths) > 0 {
				w.changed(paths)
			}
		}
	}
}

func (w *Watcher) close() {
	if w.events != nil {
		_ = w.events.Close() // there is nothing in it that could be lost
	}
	w.events = nil
	clear(w.folders)
}

// matters reports whether the event may be of one of the files, or of the way there.
func (w *Watcher) matters(e fsnotify.Event) bool {
	name := filepath.Clean(e.Name)
	if _, folder := w.folders[name]; folder {
		return true
	}
	for _, in := range w.folders { // one that is mounted twice is told of by one of its names
		if _, ok := in[filepath.Base(name)]; ok {
			return true
		}
	}
	return false
}

// paths are the files, sorted.
func (w *Watcher) paths() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.files))
}

// differ returns the files that are not as they were, as far as one can see.
func (w *Watcher) differ() []string { return w.compare(false) }

// take returns the files that are not as they were, or may not be now that something was
// told of them. As they are is how they should be from now on.
func (w *Watcher) take() []string { return w.compare(true) }

func (w *Watcher) compare(take bool) (differ []string) {
	for _, p := range w.paths() {
		now := stampOf(p) // outside of the lock: it may take long
		w.mu.Lock()
		if was, still := w.files[p]; still && (!was.same(now) || take && was.fresh) {
			differ = append(differ, p)
			if take {
				w.files[p] = now
			}
		}
		w.mu.Unlock()
	}
	return differ
}

// follow watches each folder on the way to the files as it is now. The way is looked up
// again after it is watched, until that finds nothing new: what changes later is told.
func (w *Watcher) follow() {
	if w.events == nil {
		events, err := w.open()
		if err != nil {
			w.polls = true
			w.tell(fmt.Errorf("the system cannot tell of changed files (%w%s): they are looked at every %s", err, remedy(err), w.pace.poll))
			return
		}
		w.events = events
	}
	paths := w.paths()
	for range rounds {
		w.polls = false
		need := map[string]names{}
		for _, p := range paths {
			need = wayTo(p, need)
		}
		same := maps.EqualFunc(need, w.folders, maps.Equal)
		for _, folder := range slices.Sorted(maps.Keys(need)) {
			w.watch(folder, need[folder])
		}
		for folder := range w.folders {
			if _, ok := need[folder]; !ok {
				_ = w.events.Remove(folder) // which may be gone, and its watch with it
			}
		}
		w.folders = need
		if same {
			return
		}
	}
	w.polls = true // somebody is at work there: look again
}

// watch watches one folder. To do so again costs a call of the system, and makes sure that
// the folder which now has this path is the one that is watched.
func (w *Watcher) watch(folder string, in names) {
	err := w.events.Add(folder)
	if !in.needed() {
		return // a folder further up: without it nearly all is told
	}
	if err == nil && silent(folder) {
		w.polls = true
		w.tell(fmt.Errorf("the file system of %s does not tell of all changes: its files are looked at every %s", folder, w.pace.poll))
		return
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // gone since it was looked up: the next round finds another way
		w.polls = true
		w.tell(fmt.Errorf("the system cannot tell of changes in %s (%w%s): its files are looked at every %s", folder, err, remedy(err), w.pace.poll))
	}
}

// remedy is what to do about a limit.
func remedy(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return "; raise the sysctl fs.inotify.max_user_watches"
	case errors.Is(err, syscall.EMFILE):
		return "; raise the sysctl fs.inotify.max_user_instances, or the limit of open files"
	}
	return ""
}

func (w *Watcher) tell(err error) {
	if text := err.Error(); !w.told[text] {
		w.told[text] = true
		w.complain(err)
	}
}

// stamp is what a file is known by. Its content is not read: it may be secret, or long.
type stamp struct {
	info  fs.FileInfo // nil: there is none, or it cannot be looked at
	path  string      // without links
	fault syscall.Errno
	owner owner
	late  bool // it is to be reported whatever it is like
	fresh bool // so new that a change may leave no trace in it: file systems tell time in steps
}

// step is the longest step in which a file system that is worth the name tells time.
const step = 10 * time.Millisecond

func stampOf(path string) (s stamp) {
	var err error
	if s.info, err = os.Stat(path); err != nil {
		s.info, s.fault = nil, syscall.EIO
		_ = errors.As(err, &s.fault)
		return s
	}
	_ = os.SameFile(s.info, s.info) // Windows asks for the identity only then
	if real, err := filepath.EvalSymlinks(path); err == nil {
		s.path = real
	}
	s.owner = ownerOf(s.info)
	s.fresh = time.Since(s.info.ModTime()).Abs() < step
	return s
}

func (s stamp) same(now stamp) bool {
	switch {
	case s.late:
		return false
	case s.info == nil || now.info == nil:
		return s.info == nil && now.info == nil && s.fault == now.fault
	}
	return s.path == now.path && s.owner == now.owner && os.SameFile(s.info, now.info) &&
		s.info.Size() == now.info.Size() && s.info.ModTime().Equal(now.info.ModTime()) && s.info.Mode() == now.info.Mode()
}

// after reports whether the file, or its name, changed at that time or later, as far as
// the file system knows.
func (s stamp) after(t time.Time) bool {
	return s.info != nil && !changeTime(s.info).Before(t.Add(-step))
}
