package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// crewLog notes in which order parts did what.
type crewLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *crewLog) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

// part runs until it is told to end, and takes so long to do so.
func (l *crewLog) part(name string, takes time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		l.add("+" + name)
		<-ctx.Done()
		time.Sleep(takes)
		l.add("-" + name)
		return nil
	}
}

// What others stand on ends after them, and what parts leave is taken away last first.
func TestCrewEndsFromTheOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crew
		var log crewLog
		c.bear(log.part("broker", 0))
		c.join(log.part("door", time.Second), func() error { log.add("close door"); return nil })
		c.join(nil, func() error { log.add("remove file"); return nil })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.work(ctx) }()
		synctest.Wait()
		late := c.join(log.part("late", 0), func() error { log.add("close late"); return nil })
		synctest.Wait()
		if err := late.leave(); err != nil {
			t.Error(err)
		}
		log.lines = log.lines[2:] // the first two begin in any order
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if c.join(log.part("too late", 0), nil); len(log.lines) == 0 {
			t.Error("nothing")
		}
		if err := c.close(); err != nil {
			t.Error(err)
		}
		if got, want := strings.Join(log.lines, ", "), "+late, -late, close late, -door, -broker, remove file, close door"; got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	})
}

// A part that fails ends all, and its error is the crew's; a part that leaves ends nobody.
func TestCrewFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crew
		var log crewLog
		fault := errors.New("the listener failed")
		c.bear(log.part("broker", 0))
		c.join(func(context.Context) error { time.Sleep(time.Minute); return fault }, nil)
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- c.work(t.Context()) }()
		synctest.Wait()
		gone := c.join(func(ctx context.Context) error { <-ctx.Done(); return errors.New("told to leave") }, nil)
		if err := gone.leave(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, fault) || time.Since(began) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}
