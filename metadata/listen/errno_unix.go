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

// capacity leaves spare descriptors to the rest of the process; the Go runtime
// has already raised the soft limit to the hard one.
func capacity() int {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return maxConns
	}
	most := uint64(r.Cur)
	if most >= maxConns+spareFiles {
		return maxConns
	}
	return int(max(most, 2*spareFiles) - spareFiles)
}
