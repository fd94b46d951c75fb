package sessionbus

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// servedBy is the user who serves the socket (SO_PEERCRED, unix(7)). One of another
// user namespace has no number here, and counts as unknown.
func servedBy(c *net.UnixConn) (uid uint32, err error) {
	const overflow = 65534
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, failed
	}
	if cred.Uid == ^uint32(0) || cred.Uid == overflow {
		return 0, errors.New("its user has no number here")
	}
	return cred.Uid, nil
}
