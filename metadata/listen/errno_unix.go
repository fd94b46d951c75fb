//go:build unix

package listen

import (
	"errors"
	"syscall"
)

func inUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }

// noSuchAddress is how a kernel refuses an address that this host does not have
// or cannot use: [::1] too, where IPv6 is switched off on the loopback interface.
func noSuchAddress(err error) bool { return errors.Is(err, syscall.EADDRNOTAVAIL) }

// noFamily is the answer of a kernel without IPv6.
func noFamily(err error) bool { return errors.Is(err, syscall.EAFNOSUPPORT) }

// noPrivilege is the answer for a port below 1024. (EPERM is another's: a filter.)
func noPrivilege(err error) bool { return errors.Is(err, syscall.EACCES) }

func setInt(fd uintptr, level, option, value int) error {
	return syscall.SetsockoptInt(int(fd), level, option, value)
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
