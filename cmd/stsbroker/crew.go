package main

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// crew runs the parts of a broker until one fails or its context ends. Parts come and
// go meanwhile: a reload opens a door and closes another.
type crew struct {
	mu      sync.Mutex
	ctx     context.Context // nil before run
	cancel  context.CancelFunc
	members []*member
	running sync.WaitGroup
	failed  error // of the first that did
}

// member is one part: what runs, and what takes away what it leaves behind. Either may
// be nil.
type member struct {
	crew *crew
	run  func(context.Context) error
	end  func() error
	stop context.CancelFunc // nil: it does not run
	done chan struct{}
}

// join adds a part. It runs from now on, or from the crew's run on.
func (c *crew) join(run func(context.Context) error, end func() error) *member {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &member{crew: c, run: run, end: end, done: make(chan struct{})}
	c.members = append(c.members, m)
	c.begin(m)
	return m
}

func (c *crew) begin(m *member) {
	if c.ctx == nil || c.ctx.Err() != nil || m.run == nil {
		return
	}
	ctx, stop := context.WithCancel(c.ctx)
	m.stop = stop
	c.running.Go(func() {
		defer close(m.done)
		err := m.run(ctx)
		if left := ctx.Err() != nil && c.ctx.Err() == nil; left || err == nil && c.ctx.Err() != nil {
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

// leave ends the part, waits for it, and takes away what it left.
func (m *member) leave() error {
	m.crew.mu.Lock()
	m.crew.members = slices.DeleteFunc(m.crew.members, func(o *member) bool { return o == m })
	m.crew.mu.Unlock()
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
	c.mu.Lock()
	c.ctx, c.cancel = context.WithCancel(ctx)
	defer c.cancel()
	for _, m := range c.members {
		c.begin(m)
	}
	c.mu.Unlock()
	<-c.ctx.Done()
	c.running.Wait()
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
