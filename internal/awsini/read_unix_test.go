//go:build unix

package awsini

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
)

func TestReadRefusesPipesAndDevices(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, "/dev/zero"} {
		if f, err := Read(path); f != nil || !errors.Is(err, errNotRegular) {
			t.Errorf("%s: %v, %v; want %v", path, f, err, errNotRegular)
		}
	}
}
