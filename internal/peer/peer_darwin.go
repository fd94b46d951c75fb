package peer

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

func ofTCP(_, _ netip.AddrPort) (Cred, error) {
	return Cred{}, unknown("macOS does not tell the owner of a TCP connection")
}

// OfUnix returns the process that connected a Unix socket (LOCAL_PEERCRED and
// LOCAL_PEERPID, unix(4)). c is usually a *net.UnixConn.
func OfUnix(c syscall.Conn) (Cred, error) {
	var cred Cred
	if err := control(c, func(fd int) error {
		x, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
		if err != nil {
			return err
		}
		cred.UID = x.Uid
		if pid, err := unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID); err == nil {
			cred.PID = int32(pid)
		}
		return nil
	}); err != nil {
		return Cred{}, unknown("LOCAL_PEERCRED: %w", err)
	}
	return cred, nil
}
