// Package credfile keeps a file in the format of ~/.aws/credentials up to date
// with the session credentials of profiles, for programs that read nothing else.
//
// The file is wholly the broker's: it is written whole, and it goes when the
// broker stops. One that somebody else wrote, or changed at its head, is never
// touched. Programs read such a file when they start, and few read it again: what
// runs for longer than a set lives belongs at another front door.
package credfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

const (
	// settle is how long after a nudge the broker is asked: it tells of a mint
	// shortly before it hands the new set out.
	settle = 50 * time.Millisecond
	// The pause between two looks doubles from the first to the longest, and
	// begins anew with each nudge and each change. So what no nudge tells of (a set
	// out of the store, a disk with room again) is found soon, and an expiry that a
	// suspend hid, by a timer that slept too, within the longest.
	firstPause   = time.Second
	longestPause = time.Minute
)

// Source hands out sets: a [broker.Broker]. With a Patience of 0 it answers what
// is usable now, or an error, and does not wait.
type Source interface {
	Get(ctx context.Context, a broker.Ask) (*broker.Set, error)
}

// File is what a file is to hold.
type File struct {
	Path     string   // in a folder that exists; see [Check]
	Profiles []string // a section each; the first is [default] too
	Over     bool     // it takes the place of what another writer handed over: see [Writer.HandOver]
}

// Writer keeps one file up to date while [Writer.Run] runs.
type Writer struct {
	file   File
	source Source
	who    broker.Caller
	report func(error)
	nudge  chan struct{} // capacity 1: look again
	handed atomic.Bool

	// Of Run alone:
	held []section // in the file; nil when it is not there, or its content unknown
	told []string  // what was reported and still stands
}

// New returns a writer that asks the source as who. The profiles should be ones
// that the broker prefetches: it tries again by itself, then, after an answer
// that repeating cannot mend. Of others it does so for callers who wait, and the
// writer never waits.
//
// report is called from Run,
// with one line that holds no secret: once for each error that is another than
// before. That a profile has no credentials is not among them: the source tells
// its own observers. The error is that of [CheckProfiles].
func New(f File, s Source, who broker.Caller, report func(error)) (*Writer, error) {
	if err := CheckProfiles(f.Profiles); err != nil {
		return nil, err
	}
	return &Writer{file: f, source: s, who: who, report: report, nudge: make(chan struct{}, 1)}, nil
}

// Observe implements [broker.Observer]. It only nudges: whose mint it was does
// not matter, because profiles may share a lease, which has one name in events.
func (w *Writer) Observe(e broker.Event) {
	switch e.Kind {
	case broker.EventMinted, broker.EventClockStep, broker.EventForgotten:
	default: // above all EventServed, which our own asking causes
		return
	}
	select {
	case w.nudge <- struct{}{}:
	default:
	}
}

// Run keeps the file up to date until ctx ends, and then removes it. It begins
// with [Sweep]. What is wrong on the way is reported and tried again; the error
// is of the last step alone, and says that the file stays.
//
// A profile's section is there while the source hands out a set of it that is
// complete and has not expired, for real or by the expiry that clients are told.
// There is no file while there is no section. Where the disk does not take the
// new content, the old stays, unless something in it has to go: then all goes.
func (w *Writer) Run(ctx context.Context) error {
	if !w.file.Over {
		if err := Sweep(w.file.Path); err != nil {
			w.tell([]error{err})
		}
	}
	pause := firstPause
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			if w.handed.Load() {
				return nil
			}
			return stop(w.file.Path)
		case <-w.nudge:
			pause = firstPause
			select {
			case <-time.After(settle):
			case <-ctx.Done():
				continue
			}
		case <-timer.C:
		}
		changed, next := w.look(ctx)
		if changed {
			pause = firstPause
		}
		timer.Reset(min(pause, next))
		pause = min(2*pause, longestPause)
	}
}

// HandOver leaves the file behind when Run ends: another writer writes over it.
func (w *Writer) HandOver() { w.handed.Store(true) }

// look brings the file up to date. next is when something in it expires, if
// that is sooner than the longest pause.
func (w *Writer) look(ctx context.Context) (changed bool, next time.Duration) {
	var want []section
	var errs []error
	for _, name := range w.file.Profiles {
		set, err := w.source.Get(ctx, broker.Ask{Caller: w.who, Profile: name})
		if err != nil {
			continue
		}
		s, err := newSection(name, set)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		want = append(want, s)
	}
	if ctx.Err() != nil {
		return false, longestPause // whatever was asked for since then failed of that
	}
	now := time.Now()
	want = slices.DeleteFunc(want, func(s section) bool { return s.left(now) <= 0 })
	changed, err := w.put(want, now)
	if err != nil {
		errs = append(errs, err)
	}
	w.tell(errs)
	next = longestPause
	for _, s := range w.held {
		if left := s.left(now); left > 0 { // else it could not be taken out, and the pause grows
			next = min(next, left)
		}
	}
	return changed, next
}

// put makes the file hold these sections and no others.
func (w *Writer) put(want []section, now time.Time) (changed bool, err error) {
	path := w.file.Path
	is, err := read(path)
	if err != nil {
		w.held = nil // there is no folder any more, or somebody else's file
		return false, err
	}
	data := render(want, w.file.Profiles[0])
	switch {
	case is == nil && len(want) == 0:
		w.held = nil
		return false, nil
	case is != nil && len(want) == 0:
		err = os.Remove(path)
	case is != nil && is.private && bytes.Equal(is.data, data):
		w.held = want
		return false, nil
	default:
		err = write(path, data)
	}
	if err == nil {
		w.held = want
		return true, nil
	}
	stays := "the file goes on with what it holds"
	switch {
	case is == nil:
		stays = "there is no file"
	case !w.mayStay(want, now):
		if os.Remove(path) == nil {
			w.held, changed = nil, true
			stays = "the file was removed, because credentials in it are no longer good"
		} else {
			stays = "credentials in it are no longer good; remove it"
		}
	}
	return changed, fmt.Errorf("credentials file %s cannot be written: %w; %s; trying again", path, bare(err), stays)
}

// mayStay reports whether all that is in the file is still good, if not the
// newest: nothing in it has expired, and each of its profiles is still served.
func (w *Writer) mayStay(want []section, now time.Time) bool {
	for _, s := range w.held {
		served := slices.ContainsFunc(want, func(o section) bool { return o.name == s.name })
		if !served || s.left(now) <= 0 {
			return false
		}
	}
	return len(w.held) > 0 // else nobody knows what is in it
}

// tell reports what it did not report the last time.
func (w *Writer) tell(errs []error) {
	var told []string
	for _, err := range errs {
		text := err.Error()
		if !slices.Contains(w.told, text) {
			w.report(err)
		}
		told = append(told, text)
	}
	w.told = told
}

// write replaces the file. That the disk does not confirm the folder's entry is
// no error here: the file has not to outlive a power cut.
func write(path string, data []byte) error {
	err := securefile.Write(path, data)
	if err == nil {
		return nil
	}
	if is, again := read(path); again == nil && is != nil && bytes.Equal(is.data, data) {
		return nil
	}
	return err
}

// bare is what the system says alone. The rest names a temporary file, by
// another name at each try.
func bare(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}

// stop removes the file if it is still ours.
func stop(path string) error {
	is, err := read(path)
	if is != nil && err == nil {
		err = os.Remove(path)
	}
	if err == nil || errors.Is(err, errNotOurs) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("credentials file %s cannot be removed: %w; remove it, it may hold credentials that are still good", path, bare(err))
}
