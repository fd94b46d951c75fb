package peer

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sizes and offsets of <linux/netlink.h> and <linux/inet_diag.h>.
const (
	sizeHeader  = unix.SizeofNlMsghdr
	sizeRequest = sizeHeader + 56 // struct inet_diag_req_v2
	sizeAnswer  = sizeHeader + 72 // struct inet_diag_msg
	offRequest  = sizeHeader + 8  // its struct inet_diag_sockid
	offAnswer   = sizeHeader + 4  // likewise
	offUID      = sizeHeader + 64
	offInode    = sizeHeader + 68

	// Within inet_diag_sockid; ports and addresses are in network order.
	idSport, idDport, idSrc, idDst, idCookie = 0, 2, 4, 20, 40
)

// TCP states (include/net/tcp_states.h) in which the peer's socket is the
// other end of a connection that was made. In SYN_SENT it may be a stranger
// who happens on the same ports; in LISTEN it is no peer at all, and an exact
// lookup falls back to listeners.
const (
	stateEstablished = 1
	stateFinWait1    = 4
	stateFinWait2    = 5
)

// ofTCP makes one exact sock_diag(7) query for the peer's own socket, the one
// whose source is our remote address. Unlike a dump, or /proc/net/tcp, its
// cost does not grow with the number of connections, and it needs no
// privilege. The kernel answers before sendto returns, so nothing here blocks.
func ofTCP(local, remote netip.AddrPort) (Cred, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return Cred{}, unknown("netlink socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()

	req := question(local, remote)
	if err := unix.Sendto(fd, req[:], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return Cred{}, unknown("sock_diag question: %w", err)
	}
	var buf [1024]byte
	n, from, err := unix.Recvfrom(fd, buf[:], unix.MSG_DONTWAIT)
	if err != nil {
		return Cred{}, unknown("sock_diag answer: %w", err)
	}
	if k, ok := from.(*unix.SockaddrNetlink); !ok || k.Pid != 0 {
		return Cred{}, unknown("sock_diag answer is not the kernel's")
	}
	return answer(buf[:n], local, remote)
}

const sequence = 1 // of the only message on its socket

func question(local, remote netip.AddrPort) (b [sizeRequest]byte) {
	ne := binary.NativeEndian
	ne.PutUint32(b[0:], sizeRequest)
	ne.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST) // without NLM_F_DUMP: exactly one socket
	ne.PutUint32(b[8:], sequence)

	b[sizeHeader] = family(remote.Addr())
	b[sizeHeader+1] = unix.IPPROTO_TCP
	ne.PutUint32(b[sizeHeader+4:], ^uint32(0)) // any state; the answer's is checked

	id := b[offRequest:]
	binary.BigEndian.PutUint16(id[idSport:], remote.Port())
	binary.BigEndian.PutUint16(id[idDport:], local.Port())
	copy(id[idSrc:], remote.Addr().AsSlice())
	copy(id[idDst:], local.Addr().AsSlice())
	ne.PutUint64(id[idCookie:], ^uint64(0)) // INET_DIAG_NOCOOKIE
	return b
}

// answer reads the kernel's word and believes it only if it is about the
// socket that was asked for.
func answer(b []byte, local, remote netip.AddrPort) (Cred, error) {
	ne := binary.NativeEndian
	if len(b) < sizeHeader+4 || int(ne.Uint32(b)) > len(b) || ne.Uint32(b[8:]) != sequence {
		return Cred{}, unknown("sock_diag answer malformed")
	}
	switch ne.Uint16(b[4:]) {
	case unix.NLMSG_ERROR:
		return Cred{}, unknown("sock_diag: %w", syscall.Errno(-int32(ne.Uint32(b[sizeHeader:]))))
	case unix.SOCK_DIAG_BY_FAMILY:
	default:
		return Cred{}, unknown("sock_diag answer of another type")
	}
	if len(b) < sizeAnswer {
		return Cred{}, unknown("sock_diag answer malformed")
	}
	id := b[offAnswer:]
	src, ok1 := endpoint(b[sizeHeader], id[idSrc:], id[idSport:])
	dst, ok2 := endpoint(b[sizeHeader], id[idDst:], id[idDport:])
	if !ok1 || !ok2 || src != remote || dst != local {
		return Cred{}, unknown("sock_diag answered for %v to %v, asked for %v to %v", src, dst, remote, local)
	}
	switch state := b[sizeHeader+1]; state {
	case stateEstablished, stateFinWait1, stateFinWait2:
	default:
		return Cred{}, unknown("the peer's socket is in state %d", state)
	}
	// Once its process closed it, the kernel keeps the socket for a while and
	// reports uid 0, inode 0.
	if ne.Uint32(b[offInode:]) == 0 {
		return Cred{}, unknown("the peer closed its socket")
	}
	uid := ne.Uint32(b[offUID:])
	if uid == overflowUID {
		return Cred{}, unknown("the peer's uid has no number here (%d)", uid)
	}
	return Cred{UID: uid}, nil
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// endpoint reads one side of an inet_diag_sockid. A dual-stack socket that
// speaks IPv4 is of family AF_INET6 with v4-mapped addresses.
func endpoint(fam uint8, addr, port []byte) (netip.AddrPort, bool) {
	p := binary.BigEndian.Uint16(port)
	switch fam {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(addr)), p), true
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(addr)).Unmap(), p), true
	}
	return netip.AddrPort{}, false
}

// OfUnix returns the process that connected a Unix socket (SO_PEERCRED, as of
// connect(2)). c is usually a *net.UnixConn.
func OfUnix(c syscall.Conn) (Cred, error) {
	var ucred *unix.Ucred
	if err := control(c, func(fd int) (err error) {
		ucred, err = unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		return err
	}); err != nil {
		return Cred{}, unknown("SO_PEERCRED: %w", err)
	}
	// A TCP socket answers uid -1; a peer outside our namespaces, pid 0 and the overflow uid.
	if ucred.Uid == ^uint32(0) || ucred.Uid == overflowUID {
		return Cred{}, unknown("the peer's uid has no number here (%d)", ucred.Uid)
	}
	return Cred{UID: ucred.Uid, PID: ucred.Pid}, nil
}
