package securefile

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"
)

// Busy is the error of a lock that somebody else holds.
type Busy struct {
	Holder string // "process 123", or where that is not known "another process"
}

// Error implements error.
func (b Busy) Error() string { return b.Holder + " holds the lock" }

// Own is [Lock] that says in the file who holds it, for [Busy].
func Own(path string) (release func(), err error) {
	release, held, err := Lock(path)
	switch {
	case err != nil:
		return nil, err
	case !held:
		return nil, Busy{holder(path)}
	}
	_ = os.WriteFile(path, strconv.AppendInt(nil, int64(os.Getpid()), 10), fileMode) // Windows lets nobody write there
	return release, nil
}

// OwnWithin is [Own] for who has time until ctx ends: then it is [Busy], unless ctx was
// cancelled, and not only late. A goroutine of this process waits like another process.
func OwnWithin(ctx context.Context, path string) (release func(), err error) {
	const poll = 20 * time.Millisecond
	for {
		release, err := Own(path)
		busy, ok := err.(Busy) //nolint:errorlint // ours, as it is
		if !ok {
			return release, err
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			if context.Cause(ctx) == context.DeadlineExceeded { //nolint:errorlint // likewise
				return nil, busy
			}
			return nil, context.Cause(ctx)
		}
	}
}

func holder(path string) string {
	raw, err := Read(path, 20)
	if pid, perr := strconv.Atoi(string(raw)); err == nil && perr == nil && pid > 0 {
		return fmt.Sprintf("process %d", pid)
	}
	return "another process"
}
