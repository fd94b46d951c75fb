package observe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/broker"
)

// AuditOptions are what an [Audit] is made from.
type AuditOptions struct {
	File     string                      // path of the file; see [OpenAudit]
	Required bool                        // nobody is served whose line cannot be written
	Name     func(tokenID string) string // what a person calls the token, "" for none; must not block; nil for no names
	Log      *zap.Logger
}

// Audit writes the audit log: who was given which credentials, and who was refused,
// one JSON object a line (docs/observability.md shows them). It implements
// [broker.Observer]; all methods are safe for concurrent use.
//
// A line is written for
//   - what was served ([broker.EventServed]) to each token, user, door and profile:
//     once for each generation of credentials, when it is first served. What a
//     credentials file is filled with counts as served to that file.
//   - each denial: an [broker.EventRefused] that access decided. That is the kinds
//     forbidden and unauthorized, whether the guard of a door, a token or a rule says
//     so, and locked, when nobody could be recognised or nothing given out.
//   - each call that changes something over the control socket, see [Audit.Control].
//   - lines that had to be dropped: how many.
//
// No line is written for credentials that could not be made, whoever asks (a login is
// needed, the definition is wrong, STS refuses or cannot be reached): the log and the
// metrics tell of those, and of STS's own refusals CloudTrail. A file's writer looks
// again each minute, and its refusals are nobody's.
//
// Denials come as often as a stranger likes, so repeats become a line with a count, and
// each caller has an allowance of lines; see [limiter]. No denial goes uncounted.
//
// Nothing waits for the disk but [Audit.Gate]: lines go to a bounded queue, which
// [Audit.Run] writes out. Lines that cannot be written stay in it and are tried again
// each second; those that it has no room for are dropped and counted. Every line takes
// a number, a dropped one too, so that a reader sees where one is missing.
type Audit struct {
	path     string
	required bool
	name     func(string) string
	log      *zap.Logger
	wake     chan struct{} // of Run: something waits

	told told

	mu       sync.Mutex // of what waits. Never held while the disk works
	seq      uint64
	queue    []*auditLine
	unsaid   int // dropped since the last line that said so
	denials  limiter
	finished bool

	disk sync.Mutex // of the file, and of the states of lines. Taken before mu
	file *os.File   // nil when it was closed
	info fs.FileInfo
	torn bool // the file ends within a line

	dropped atomic.Uint64
	failing atomic.Bool // the last write failed
}

// mostQueued bounds what waits for the disk: some 4 MB, if all fields are as long as
// they may be. Denials get half of it, so that they push out nobody's credentials.
const mostQueued = 4096

// aBatch is how many lines go into one write.
const aBatch = 256

// retryAudit is how long after a failed write the next one is tried.
const retryAudit = time.Second

// auditLine waits in the queue until it is written.
type auditLine struct {
	record *record     // nil when text is there
	text   []byte      // nil when it was written
	gate   *tellingKey // somebody waits for it, so it is not tried again; what is told by it
	state  atomic.Int32
}

// States of a line.
const (
	lineWaits int32 = iota
	lineWritten
	lineFailed
)

var errAuditClosed = errors.New("the audit log is closed")

// OpenAudit opens the file to append to it, and makes it, mode 0600, where it is
// missing. It must be a regular file that nobody else may write, no symbolic link, in
// folders that nobody else can change (see [securefile.CheckFolders]). A last line that
// a crash cut off is ended first, so that the next one is whole. Whoever opens an
// audit log calls [Audit.Close] when nothing more will happen.
func OpenAudit(o AuditOptions) (*Audit, error) {
	a := &Audit{
		path: o.File, required: o.Required, name: o.Name, log: o.Log,
		wake: make(chan struct{}, 1), denials: newLimiter(),
	}
	if a.name == nil {
		a.name = func(string) string { return "" }
	}
	if a.log == nil {
		a.log = zap.NewNop()
	}
	if err := a.reopen(); err != nil {
		return nil, fmt.Errorf("audit.file: %w", err)
	}
	return a, nil
}

// Observe implements [broker.Observer]. What was told already costs one look into a
// map and no allocation.
func (a *Audit) Observe(e broker.Event) {
	switch e.Kind {
	case broker.EventServed:
		a.served(e)
	case broker.EventRefused:
		if !isDenial(e.Err) || e.Caller.Door == broker.DoorFile {
			return
		}
		a.limited(a.refusedRecord(e))
	}
}

// isDenial reports whether access decided the error; see [Audit].
func isDenial(err *broker.Error) bool {
	switch orUnknown(err).Kind {
	case broker.KindForbidden, broker.KindUnauthorized, broker.KindLocked:
		return true
	}
	return false
}

// Gate lets a set out: e is the [broker.EventServed] of it. With Required, the first
// time, it returns when the line that tells of it was written (write(2) returned; not
// synced), and an error when that failed: then the set must not be handed out. Otherwise,
// and for what was told before, it waits for nothing, allocates nothing and returns nil.
// Who asks for the same set meanwhile waits for the same line.
func (a *Audit) Gate(e broker.Event) error {
	line := a.served(e)
	if line == nil || line.state.Load() == lineWritten {
		return nil
	}
	a.disk.Lock()
	defer a.disk.Unlock()
	var err error
	if line.state.Load() == lineWaits { // else somebody else's flush took it along
		err = a.flush()
	}
	if line.state.Load() == lineWritten {
		return nil
	}
	if err == nil {
		err = errors.New("an earlier write failed")
	}
	return fmt.Errorf("the audit log cannot be written, and audit.required is set: %w", err)
}

// served queues the line of what was not told yet. It returns the line that the set
// has to wait for, nil for none.
func (a *Audit) served(e broker.Event) *auditLine {
	k := tellingOf(e)
	if before, ok := a.told.has(k, e); ok {
		return before.line
	}
	r := a.servedRecord(e)
	a.mu.Lock()
	defer a.mu.Unlock()
	if before, ok := a.told.has(k, e); ok { // somebody was faster
		return before.line
	}
	t := telling{generation: e.Generation, keyID: e.KeyID}
	if a.required {
		to := k // k itself would be on the heap, at each request
		t.line = &auditLine{record: r, gate: &to}
		a.append(t.line)
		a.told.note(k, t)
		return t.line
	}
	a.told.note(k, t) // also when it is dropped: it is counted once, and not at every request
	a.add(r, mostQueued)
	return nil
}

// Control tells of a call that changes something over the control socket: login, logout,
// unlock, lock, key/*, token/*, reload, refresh. subject is what it was about (a profile,
// a key, a token by its name), err its result. Failed calls are limited as denials are.
func (a *Audit) Control(who broker.Caller, call, subject string, err error) {
	r := a.controlRecord(who, call, subject, err)
	if err != nil {
		a.limited(r)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.add(r, mostQueued)
}

// limited queues the line of a denial, unless it is a repeat or its caller has had
// enough lines.
func (a *Audit) limited(r *record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	first, watch := a.denials.admit(r, time.Now())
	if first {
		a.add(r, mostQueued/2)
	}
	if watch {
		a.alert()
	}
}

// add queues a line where the queue is shorter than most; a.mu is held.
func (a *Audit) add(r *record, most int) {
	if a.finished {
		return
	}
	if len(a.queue) >= most {
		a.seq++
		a.unsaid++
		a.dropped.Add(1)
		a.alert()
		return
	}
	a.append(&auditLine{record: r})
}

// append queues a line; a.mu is held.
func (a *Audit) append(l *auditLine) {
	a.seq++
	l.record.Seq = a.seq
	a.queue = append(a.queue, l)
	a.alert()
}

func (a *Audit) alert() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Run writes what is queued until ctx ends. What happens after that is written by
// [Audit.Close]. While nothing happens, it does nothing.
func (a *Audit) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case <-timer.C:
		}
		if next := a.tend(false); next > 0 {
			timer.Reset(next)
		}
	}
}

// tend writes what waits and returns when to look again, 0 for when something happens.
// With all, it tells of repeats although their time is not over.
func (a *Audit) tend(all bool) (next time.Duration) {
	now := time.Now()
	a.mu.Lock()
	for _, r := range a.denials.due(now, all) {
		a.add(r, mostQueued)
	}
	if at := a.denials.next(); !at.IsZero() {
		next = max(at.Sub(now), time.Millisecond)
	}
	a.mu.Unlock()

	a.disk.Lock()
	defer a.disk.Unlock()
	if a.flush() != nil && (next == 0 || next > retryAudit) {
		next = retryAudit
	}
	return next
}

// Reopen opens the file anew, as after a rotation: what is queued goes into the file
// that has the name now. After an error the old one is written on. Nobody has to call
// it: a file that was renamed or removed is noticed at the next write.
func (a *Audit) Reopen() error {
	a.disk.Lock()
	err := a.reopen()
	a.disk.Unlock()
	a.alert()
	if err != nil {
		return fmt.Errorf("audit.file: %w", err)
	}
	return nil
}

// Close writes what is queued, closes the file, and returns why lines were lost, if any
// were. What happens later is not written, and refused with Required.
func (a *Audit) Close() error {
	a.tend(true)
	a.mu.Lock()
	a.finished = true
	a.mu.Unlock()
	a.disk.Lock()
	defer a.disk.Unlock()
	err := a.flush()
	if a.file != nil {
		err = errors.Join(err, a.file.Close())
		a.file = nil
	}
	return err
}

// flush writes the queue; a.disk is held. An error means that not all of it was
// written: then the lines that somebody waits for have failed, and the others wait on.
func (a *Audit) flush() error {
	a.mu.Lock()
	lines, finished := a.queue, a.finished
	a.queue = nil
	unsaid := a.unsaid > 0
	a.mu.Unlock()
	if len(lines) == 0 && !unsaid {
		return nil
	}
	if a.file == nil && finished {
		a.settle(lines, errAuditClosed)
		return errAuditClosed
	}
	err := a.ready()
	for err == nil && (len(lines) > 0 || unsaid) {
		if len(lines) == 0 {
			lines, unsaid = []*auditLine{a.sayDropped()}, false
		}
		var written int
		written, err = a.write(lines[:min(len(lines), aBatch)])
		lines = lines[written:]
	}
	a.settle(lines, err)
	return err
}

// sayDropped returns the line that says how many were dropped.
func (a *Audit) sayDropped() *auditLine {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := droppedRecord(a.unsaid)
	a.unsaid = 0
	a.seq++
	r.Seq = a.seq
	return &auditLine{record: r}
}

// write appends the lines in one call, and returns how many got there whole. What a
// full disk took of a line it takes away again, so that the file stays a list of lines.
func (a *Audit) write(lines []*auditLine) (written int, err error) {
	var out []byte
	if a.torn {
		out = append(out, '\n')
	}
	ends := make([]int, len(lines))
	for i, l := range lines {
		if l.text == nil {
			l.text, l.record = l.record.encode(), nil
		}
		out = append(out, l.text...)
		ends[i] = len(out)
	}
	before, err := a.file.Stat()
	if err != nil {
		return 0, err
	}
	n, err := a.file.Write(out)
	whole := 0
	for _, l := range lines {
		if ends[written] > n {
			break
		}
		whole = ends[written]
		l.text, l.gate = nil, nil
		l.state.Store(lineWritten)
		written++
	}
	switch {
	case whole == n && n > 0:
		a.torn = false
	case n > whole:
		a.torn = a.torn && whole == 0 || !a.cut(before.Size(), n, whole)
	}
	return written, err
}

// cut takes away what follows the whole lines of a write, unless somebody else wrote
// too, or the file may only grow.
func (a *Audit) cut(before int64, n, whole int) bool {
	now, err := a.file.Stat()
	return err == nil && now.Size() == before+int64(n) && a.file.Truncate(before+int64(whole)) == nil
}

// settle puts back what was not written, before what came meanwhile.
func (a *Audit) settle(left []*auditLine, err error) {
	if a.failing.Swap(err != nil) != (err != nil) { // say it once
		if err != nil {
			a.log.Error("the audit log cannot be written", zap.String("file", a.path), zap.Bool("required", a.required), zap.Error(err))
		} else {
			a.log.Info("the audit log is written again", zap.String("file", a.path), zap.Uint64("dropped", a.dropped.Load()))
		}
	}
	if err == nil {
		return
	}
	var back []*auditLine
	for _, l := range left {
		if l.gate != nil {
			a.told.forget(*l.gate, l)
			l.state.Store(lineFailed)
			continue
		}
		back = append(back, l)
	}
	a.mu.Lock()
	a.queue = append(back, a.queue...)
	a.mu.Unlock()
}
