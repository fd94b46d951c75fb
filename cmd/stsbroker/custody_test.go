package main

import (
	"context"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/internal/control"
)

// Custody is locked and unlocked while others look, ask, and lock too: it is open or
// locked at the end, as whoever came last wanted, and never half of each.
func TestLockAndUnlockAtOnce(t *testing.T) {
	dir := privateFolder(t)
	env := map[string]string{varIdentityFile: filepath.Join(dir, "keys", "identity"), "AWS_CONFIG_FILE": filepath.Join(dir, "config"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(dir, "credentials")}
	p := place{
		home: dir, getenv: func(name string) string { return env[name] }, state: filepath.Join(dir, "state"),
		runtime: filepath.Join(dir, "run"), control: filepath.Join(dir, "run", "control.sock"),
	}
	a, findings, err := newApp(settings{place: p, log: zap.NewNop()})
	if err != nil {
		t.Fatal(firstError(findings), err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	s := a.self()
	var wg sync.WaitGroup
	for _, f := range []func() error{
		func() error { _, err := s.Status(ctx, ""); return err },
		func() error { _, err := s.Keys(ctx); return err },
		func() error { _, err := s.Custody(ctx); return err },
		func() error { _, err := s.Lock(ctx); return err },
		func() error { _, err := s.Unlock(ctx, control.Unlocking{}); return err },
	} {
		wg.Go(func() {
			for range 20 {
				if err := f(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	c, err := s.Lock(ctx)
	if err != nil || c.State != "locked" || a.vault.State().String() != "locked" || a.opensState(a.identity.Identity) {
		t.Errorf("locked: %+v, %v", c, err)
	}
	c, err = s.Unlock(ctx, control.Unlocking{})
	if err != nil || c.State != "open" || !a.opensState(a.identity.Identity) {
		t.Errorf("open: %+v, %v", c, err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
