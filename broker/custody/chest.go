package custody

import (
	"context"
)

// Chest is where long-term keys may be put, as opaque records by name. It is safe for
// concurrent use. Changes of one name come one at a time: [Kept] sees to that.
//
// Errors that are a [*broker.Error] reach people as they are; one of
// [broker.KindLocked] says that the chest is locked.
type Chest interface {
	// Get returns the record; the error is [fs.ErrNotExist] where there is none.
	Get(ctx context.Context, name string) ([]byte, error)
	// Put makes or replaces it. It is durable when Put returns: the old record is there
	// or the new one, whatever happens, and never neither.
	Put(ctx context.Context, name string, record []byte) error
	// Delete removes it. That there is none is no error.
	Delete(ctx context.Context, name string) error
}

// lister is a chest that can tell all that it holds.
type lister interface {
	all() (map[string][]byte, error)
}
