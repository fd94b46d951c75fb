package listen

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// firstHanded is SD_LISTEN_FDS_START of sd_listen_fds(3).
const firstHanded = 3

// mostHanded is far above what a socket unit has, and keeps a wild number from being believed.
const mostHanded = 1024

// Inherit takes over the sockets that systemd handed to this process, as
// sd_listen_fds(3) has it: descriptors from 3 on, LISTEN_FDS of them, named by
// LISTEN_FDNAMES, for the process LISTEN_PID and no other. To be called once, before anything
// is listened on or run: the variables are removed and the descriptors closed
// on exec, so that no command that we run takes them for its own.
//
// A socket that [TCP] or [Unix] would not have made is an error, which names the setting of the
// socket unit that is wrong. Link-local ones get the TTL that TCP gives them.
//
// The activation package of go-systemd is not used: it takes an unreadable LISTEN_FDS for none,
// so that the ports would then seem to be somebody else's, panics at a
// huge one, and leaves LISTEN_PIDFDID (systemd 259) to the commands that we run.
func Inherit() (*Inherited, error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, err
		}
	}
	h := new(Inherited)
	if pid != strconv.Itoa(os.Getpid()) {
		return h, nil // nobody's, or left over from a process before us
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > mostHanded {
		return nil, fmt.Errorf("LISTEN_FDS is %q: want the number of sockets that systemd hands over, up to %d", count, mostHanded)
	}
	for fd := firstHanded; fd < firstHanded+n; fd++ { // all of them, whatever is wrong with one
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return nil, fmt.Errorf("LISTEN_FDS is %d, and descriptor %d cannot be had: %w", n, fd, err)
		}
	}
	for i := range n {
		name := "unknown" // as sd_listen_fds_with_names has it
		if i < len(names) && names[i] != "" {
			name = names[i]
		}
		s, err := judge(firstHanded+i, name)
		if err != nil {
			return nil, err
		}
		h.sockets = append(h.sockets, s)
	}
	return h, nil
}

// judge says what a descriptor is, or why it cannot be listened on.
func judge(fd int, name string) (*handed, error) {
	about := func(option int) int {
		v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
		if err != nil {
			return -1
		}
		return v
	}
	s := &handed{name: name}
	if about(unix.SO_TYPE) != unix.SOCK_STREAM {
		return nil, fmt.Errorf("descriptor %d, %q, from systemd is no stream socket; let its socket unit have ListenStream= alone", fd, name)
	}
	addr, err := unix.Getsockname(fd)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d, %q, from systemd: %w", fd, name, os.NewSyscallError("getsockname", err))
	}
	switch a := addr.(type) {
	case *unix.SockaddrInet4:
		s.at = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6: // no ::ffff:127.0.0.1 is any of ours, so IPv6 alone, whatever BindIPv6Only= says
		ip := netip.AddrFrom16(a.Addr)
		if a.ZoneId != 0 {
			ip = ip.WithZone(strconv.FormatUint(uint64(a.ZoneId), 10))
		}
		s.at = netip.AddrPortFrom(ip, uint16(a.Port))
	case *unix.SockaddrUnix:
		s.path = a.Name
	default:
		return nil, fmt.Errorf("descriptor %d, %q, from systemd is no socket of IP or of a path; let ListenStream= of its socket unit be one", fd, name)
	}
	if about(unix.SO_ACCEPTCONN) != 1 {
		return nil, s.wrong("it does not listen; set Accept=no")
	}
	if _, isPath := addr.(*unix.SockaddrUnix); isPath {
		if !strings.HasPrefix(s.path, "/") { // x/sys spells the abstract ones with @
			return nil, s.wrong("its name has no file, and so no mode; set ListenStream= to a path")
		}
	} else if err := s.judgeTCP(fd, about); err != nil {
		return nil, err
	}
	s.file = os.NewFile(uintptr(fd), name)
	return s, nil
}

// judgeTCP holds a socket against what bind makes.
func (s *handed) judgeTCP(fd int, about func(option int) int) error {
	if err := allowed(s.at); err != nil {
		return s.wrong(err.Error())
	}
	if about(unix.SO_PROTOCOL) != unix.IPPROTO_TCP { // bind says why
		return s.wrong("it speaks another protocol than TCP; remove SocketProtocol=")
	}
	if about(unix.SO_REUSEPORT) != 0 {
		return s.wrong("other programs can listen there too; remove ReusePort=")
	}
	if !LinkLocal(s.at.Addr()) {
		return nil
	}
	level, option := hopOption(network(s.at.Addr()))
	if err := setInt(uintptr(fd), level, option, 1); err != nil {
		return s.wrong(os.NewSyscallError("setsockopt", err).Error())
	}
	return nil
}

// ownerOf returns whose a file is.
func ownerOf(info fs.FileInfo) (uid uint32, ok bool) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return s.Uid, true
}
