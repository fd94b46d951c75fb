package sealedfile

import (
	"os"

	"golang.org/x/sys/windows"
)

// lockedByAnother reports whether somebody has the lock on the file at path. Any number
// of processes may ask that at once.
func lockedByAnother(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &windows.Overlapped{}) != nil
}
