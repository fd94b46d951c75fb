package listen

import (
	"errors"
	"syscall"
)

// Winsock's numbers; package syscall does not name them.
const (
	wsaeAFNoSupport  = syscall.Errno(10047)
	wsaeAddrInUse    = syscall.Errno(10048)
	wsaeAddrNotAvail = syscall.Errno(10049)
)

func inUse(err error) bool { return errors.Is(err, wsaeAddrInUse) }

func noSuchAddress(err error) bool {
	return errors.Is(err, wsaeAddrNotAvail) || errors.Is(err, wsaeAFNoSupport)
}

func mostFiles() int { return manyFiles }
