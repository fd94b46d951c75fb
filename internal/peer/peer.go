// Package peer asks the kernel who is at the other end of a connection.
//
// On a TCP connection from loopback to loopback, or from an address to itself, both
// ends are sockets of this host, and Linux tells the owner of each ([OfTCP]). On a Unix socket every kernel that has
// them tells ([OfUnix]). Where nobody tells, the answer is an error that wraps
// [ErrUnknown], never uid 0: "unknown" and "root" must not look alike.
package peer

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"
)

// ErrUnknown is wrapped by every error of this package: the kernel did not
// vouch for the peer, so nothing may be concluded about it.
var ErrUnknown = errors.New("peer unknown")

// Cred is what the kernel tells of a peer.
type Cred struct {
	UID uint32 // the user the socket was made by
	PID int32  // the process that made it; 0 when not told (always on TCP)
}

// overflowUID is what Linux reports for a user that has no number in our user
// namespace (proc_sys_kernel(5), overflowuid): many users look like it.
const overflowUID = 65534

func unknown(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUnknown, fmt.Errorf(format, args...))
}

// OfTCP returns the owner of the other end of an established TCP connection
// within this host. local and remote are as the accepting side sees them:
// Conn.LocalAddr and Conn.RemoteAddr. Both are loopback, or both are the same
// address, which is what connecting to an address of one's own host makes of it.
//
// Ask while the connection is open on this side: as long as it stands, no other
// socket can be established between the same two ports, so the answer is about
// this peer or is an error. (A peer that resets it gives its port to the next, but
// then what this side writes reaches nobody.)
func OfTCP(local, remote netip.AddrPort) (Cred, error) {
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	loopback := local.Addr().IsLoopback() && remote.Addr().IsLoopback()
	same := local.Addr() == remote.Addr() && local.Addr().IsValid() && !local.Addr().IsUnspecified()
	switch {
	case !loopback && !same:
		return Cred{}, unknown("%v to %v is not a connection within this host", remote, local)
	case local.Addr().Is4() != remote.Addr().Is4():
		return Cred{}, unknown("%v and %v are of two families", remote, local)
	}
	return ofTCP(local, remote)
}

// Works tries [OfTCP] on a connection to ourselves, and tells why it does not
// work here: another system than Linux, or a sandbox without netlink. Bind
// nothing to a uid on a host where it returns an error.
func Works() error {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return unknown("self test: %w", err)
	}
	defer l.Close()
	client, err := net.DialTimeout("tcp4", l.Addr().String(), time.Second)
	if err != nil {
		return unknown("self test: %w", err)
	}
	defer client.Close()
	// The kernel has made the connection before anybody accepts it.
	got, err := OfTCP(l.Addr().(*net.TCPAddr).AddrPort(), client.LocalAddr().(*net.TCPAddr).AddrPort())
	if err != nil {
		return err
	}
	if want := os.Geteuid(); int(got.UID) != want {
		return unknown("self test: the kernel says uid %d of a socket of uid %d", got.UID, want)
	}
	return nil
}
