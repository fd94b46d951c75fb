//go:build unix

package listen

import (
	"errors"
	"syscall"
)

func inUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }

// noSuchAddress is how a kernel without IPv6, or with IPv6 switched off on the
// loopback interface, refuses to bind [::1].
func noSuchAddress(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

// mostFiles is the limit on descriptors, as far as it is one; the Go runtime has
// already raised the soft limit to the hard one.
func mostFiles() int {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return manyFiles
	}
	return int(min(uint64(r.Cur), manyFiles))
}
