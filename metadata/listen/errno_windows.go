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

func noSuchAddress(err error) bool { return errors.Is(err, wsaeAddrNotAvail) }

func noFamily(err error) bool { return errors.Is(err, wsaeAFNoSupport) }

// noPrivilege is never so: any program may listen on any port here.
func noPrivilege(error) bool { return false }

func setInt(fd uintptr, level, option, value int) error {
	return syscall.SetsockoptInt(syscall.Handle(fd), level, option, value)
}

func mostFiles() int { return manyFiles }

// hangUp tells the client that the connection ends.
func hangUp(s stream) (done bool) { return s.CloseWrite() == nil }
