//go:build unix

package sealedfile

import (
	"os"

	"golang.org/x/sys/unix"
)

// lockedByAnother reports whether somebody has the lock on the file at path. Any number
// of processes may ask that at once.
func lockedByAnother(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}
