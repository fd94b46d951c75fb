package securefile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	release, err := Own(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Own(path)
	if busy, ok := errors.AsType[Busy](err); !ok || busy.Holder != fmt.Sprintf("process %d", os.Getpid()) {
		t.Fatalf("a lock that is held: %v", err)
	}
	late, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := OwnWithin(late, path); !errors.As(err, new(Busy)) {
		t.Fatalf("a lock that stays held: %v", err)
	}
	gone, leave := context.WithCancelCause(t.Context())
	leave(errors.New("somebody left"))
	if _, err := OwnWithin(gone, path); err == nil || err.Error() != "somebody left" {
		t.Fatalf("nobody waits any more: %v", err)
	}
	freed := make(chan error, 1)
	go func() {
		release, err := OwnWithin(t.Context(), path)
		if err == nil {
			release()
		}
		freed <- err
	}()
	release()
	if err := <-freed; err != nil {
		t.Fatal(err)
	}
	if _, err := Own(filepath.Join(t.TempDir(), "no", "folder", "lock")); err == nil || errors.As(err, new(Busy)) {
		t.Fatalf("no folder: %v", err)
	}
}
