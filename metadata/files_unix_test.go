//go:build unix

package metadata

import "syscall"

// maxFiles is how many descriptors we may have open.
func maxFiles() int {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		panic(err)
	}
	return int(min(r.Cur, 1<<20))
}
