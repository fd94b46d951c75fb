package listen

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// grain is how late a deadline may fire.
const grain = 250 * time.Millisecond

// deadlines makes the deadlines of connections cheap and a little late.
//
// With time-outs on, net/http moves a connection's deadlines seven times a
// request. In package net a move reads the clock twice and changes a timer of
// the runtime: together 0.7 µs, as much as guard, token check and broker. Here
// a move stores a number, and one sweep every [grain], while connections are
// open, fires what has passed.
type deadlines struct {
	mu    sync.Mutex
	conns map[*conn]struct{}
	timer *time.Timer     // nil until the first connection
	also  func(time.Time) // called by every sweep, with mu held
}

// add takes a connection in. mu is held, as for remove.
func (d *deadlines) add(c *conn) {
	d.conns[c] = struct{}{}
	switch {
	case len(d.conns) > 1: // the timer runs
	case d.timer == nil:
		d.timer = time.AfterFunc(grain, d.sweep)
	default:
		d.timer.Reset(grain)
	}
}

func (d *deadlines) remove(c *conn) { delete(d.conns, c) }

func (d *deadlines) sweep() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.conns) == 0 {
		return // nothing wakes an idle host
	}
	now := time.Now()
	for c := range d.conns {
		since := now.Sub(c.opened)
		c.read.expire(since, c.stream.SetReadDeadline)
		c.write.expire(since, c.stream.SetWriteDeadline)
	}
	d.also(now)
	d.timer.Reset(grain)
}

// deadline is one direction's. Times are since the connection was accepted.
type deadline struct {
	mu    sync.Mutex
	by    time.Duration // 0 for none
	fired bool          // package net has been told that it is past

	// Of reads alone, for closeSilent. net/http sets no deadline while a request is answered,
	// and sets one before it waits for the next.
	quiet time.Duration // when closeSilent first saw the connection wait; 0 if it has not
	begun atomic.Bool   // bytes came since there is a deadline: they are a request's
	last  atomic.Bool   // closeSilent has fired the deadline: the reader looks a last time, and ends the connection
}

// set is SetReadDeadline or SetWriteDeadline; tell is the socket's own. A time
// before the connection counts as now: net/http interrupts a read with one.
func (d *deadline) set(t, opened time.Time, tell func(time.Time) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.by = 0
	if d.last.Load() {
		d.last.Store(false)
	}
	if t.IsZero() {
		d.quiet = 0
		if d.begun.Load() {
			d.begun.Store(false)
		}
	} else {
		if d.by = t.Sub(opened); d.by <= 0 {
			d.by, d.fired = 0, true
			return tell(t)
		}
	}
	if d.fired {
		d.fired = false
		return tell(time.Time{})
	}
	return nil
}

func (d *deadline) expire(since time.Duration, tell func(time.Time) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.by != 0 && d.by <= since {
		d.by, d.fired = 0, true
		_ = tell(time.Unix(1, 0)) // it fails only on a closed connection
	}
}

// closeSilent fires the deadline where nothing has come for so long since it was first called. It
// reports whether the reader is to end the connection, now or since an earlier call.
func (d *deadline) closeSilent(patience, since time.Duration, tell func(time.Time) error) (ends bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.by == 0 || d.begun.Load(): // a request is read or answered
		d.quiet = 0
		return false
	case d.quiet == 0:
		d.quiet = max(1, since)
	}
	if since-d.quiet < patience || d.last.Load() {
		return d.last.Load()
	}
	// First this, then a look, and came has it the other way round: one of the two sees the other.
	if d.last.Store(true); d.begun.Load() {
		d.last.Store(false)
		return false
	}
	d.fired = true
	_ = tell(time.Unix(1, 0)) // it fails only on a closed connection
	return true
}

// came notes that bytes did, and takes back what closeSilent may just have done. It
// is on the way of every request, and so takes no lock for nothing.
func (d *deadline) came(tell func(time.Time) error) {
	if !d.begun.Load() {
		d.begun.Store(true)
	}
	if !d.last.Load() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.last.Load() {
		d.last.Store(false)
		d.fired = false
		_ = tell(time.Time{})
	}
}

// stream is what *net.TCPConn and *net.UnixConn have in common. net/http ends a
// connection with CloseWrite where it finds one, so that its last answer is read.
type stream interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// conn is a connection that gives its slot back when it is closed, and whose
// deadlines may be [grain] late.
type conn struct {
	stream
	owner       *shared
	from        *listener
	opened      time.Time
	of          holder // guarded by owner.deadlines.mu
	read, write deadline
	once        sync.Once
}

// Read reads. A connection that closeSilent ends is ended here, by who reads from it:
// nobody else knows for sure that no request has been read from it.
func (c *conn) Read(p []byte) (int, error) {
	for {
		n, err := c.stream.Read(p)
		switch {
		case n > 0:
			c.read.came(c.stream.SetReadDeadline)
			return n, err
		case err == nil || !c.lastLook(err):
			return n, err
		case hangUp(c.stream):
			return 0, io.EOF
		}
		_ = c.stream.SetReadDeadline(time.Time{}) // something came: it is read, and answered
	}
}

// lastLook reports whether a read failed because of closeSilent, once.
func (c *conn) lastLook(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	return c.read.last.Swap(false) // and fired it stays, so that the next deadline of net/http takes effect
}

func (c *conn) SetReadDeadline(t time.Time) error {
	return c.read.set(t, c.opened, c.stream.SetReadDeadline)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	return c.write.set(t, c.opened, c.stream.SetWriteDeadline)
}

func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// Close closes the connection; calling it again does no harm.
func (c *conn) Close() error {
	defer c.once.Do(func() { c.owner.release(c) })
	return c.stream.Close()
}
