package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// crew runs the parts of a broker until one fails or its context ends. Parts come and
// go meanwhile: a reload opens a door and closes another.
//
// At the end the doors and what else faces outward end first; what they stand on, the
// broker itself, goes on until the last request is answered.
type crew struct {
	mu      sync.Mutex
	ctx     context.Context // nil before run
	cancel  context.CancelFunc
	base    context.Context // of those that the others stand on
	members []*member
	facing  sync.WaitGroup // those that run, by when they end
	bearing sync.WaitGroup
	failed  error // of the first that did
}

// member is one part: what runs, and what takes away what it leaves behind. Either may
// be nil.
type member struct {
	crew *crew
	base bool // others stand on it
	run  func(context.Context) error
	end  func() error
	stop context.CancelFunc // nil: it does not run
	done chan struct{}
}

// join adds a part. It runs from now on, or from the crew's work on.
func (c *crew) join(run func(context.Context) error, end func() error) *member {
	return c.add(&member{run: run, end: end})
}

// bear adds a part that others stand on.
func (c *crew) bear(run func(context.Context) error) *member {
	return c.add(&member{run: run, base: true})
}

// bearUntil is bear of a part that leaves something behind.
func (c *crew) bearUntil(run func(context.Context) error, end func() error) *member {
	return c.add(&member{run: run, end: end, base: true})
}

func (c *crew) add(m *member) *member {
	c.mu.Lock()
	defer c.mu.Unlock()
	m.crew, m.done = c, make(chan struct{})
	c.members = append(c.members, m)
	c.begin(m)
	return m
}

func (c *crew) begin(m *member) {
	if c.ctx == nil || c.ctx.Err() != nil || m.run == nil {
		return
	}
	within, running := c.ctx, &c.facing
	if m.base {
		within, running = c.base, &c.bearing
	}
	ctx, stop := context.WithCancel(within)
	m.stop = stop
	running.Go(func() {
		defer close(m.done)
		err := m.run(ctx)
		if left := ctx.Err() != nil && within.Err() == nil; left || errors.Is(err, errDone) || err == nil && c.ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		if c.failed == nil {
			c.failed = err
		}
		c.mu.Unlock()
		c.cancel()
	})
}

// later has f called after d, or when the crew ends.
func (c *crew) later(d time.Duration, f func()) {
	var m *member
	ready := make(chan struct{})
	m = c.join(func(ctx context.Context) error {
		<-ready
		pause(ctx, d)
		f()
		c.forget(m)
		return errDone
	}, nil)
	close(ready)
}

// errDone ends a part that has done what it was for.
var errDone = errors.New("done")

func (c *crew) forget(m *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members = slices.DeleteFunc(c.members, func(o *member) bool { return o == m })
}

// leave ends the part, waits for it, and takes away what it left.
func (m *member) leave() error {
	m.crew.forget(m)
	if m.stop != nil {
		m.stop()
		<-m.done
	}
	if m.end == nil {
		return nil
	}
	return m.end()
}

// work runs all until ctx ends or one fails; all have ended when it returns.
func (c *crew) work(ctx context.Context) error {
	base, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	c.mu.Lock()
	c.base = base
	c.ctx, c.cancel = context.WithCancel(ctx)
	defer c.cancel()
	for _, m := range c.members {
		c.begin(m)
	}
	c.mu.Unlock()
	<-c.ctx.Done()
	c.facing.Wait()
	end()
	c.bearing.Wait()
	return c.failed
}

// close takes away what all of them left, those that never ran too: the last first.
func (c *crew) close() (err error) {
	c.mu.Lock()
	members := c.members
	c.members = nil
	c.mu.Unlock()
	for _, m := range slices.Backward(members) {
		if m.end != nil {
			err = errors.Join(err, m.end())
		}
	}
	return err
}
