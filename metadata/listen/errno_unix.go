//go:build unix

package listen

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
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

// hangUp tells the client that the connection ends, unless something of it waits to be
// read: it then returns false and has done nothing. A client that sends between the look and the
// end sees a connection end without an answer. On TCP that is two system calls apart; on a
// Unix socket nothing is: what came before it was kept out is read, and what comes later fails to be sent.
func hangUp(s stream) (done bool) {
	raw, err := s.SyscallConn()
	if err != nil {
		return false // closed: the read says so
	}
	_ = raw.Control(func(fd uintptr) {
		if _, err := peek(int(fd)); !errors.Is(err, unix.EAGAIN) {
			return // bytes, or an end that the client made: reading tells
		}
		if _, ok := s.(*net.UnixConn); ok {
			_ = unix.Shutdown(int(fd), unix.SHUT_RD)
			if n, _ := peek(int(fd)); n > 0 {
				return
			}
		}
		done = true
		_ = unix.Shutdown(int(fd), unix.SHUT_WR)
	})
	return done
}

// peek reads a byte and leaves it there.
func peek(fd int) (n int, err error) {
	var one [1]byte
	for {
		n, _, err = unix.Recvfrom(fd, one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
