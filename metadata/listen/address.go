package listen

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"syscall"
)

// LinkLocal reports whether a is one of the five link-local addresses where AWS
// gives out credentials, and which SDKs take over plain http as they do
// loopback: 169.254.170.2 (ECS), 169.254.170.23 and fd00:ec2::23 (EKS Pod
// Identity), 169.254.169.254 and fd00:ec2::254 (IMDS). No other spelling of
// them counts: no zone, no IPv4 address in an IPv6 one.
func LinkLocal(a netip.Addr) bool { return hostOf(a) != "" }

// hostOf returns a link-local address as a Host header spells it, "" for all others.
func hostOf(a netip.Addr) string {
	switch a {
	case netip.AddrFrom4([4]byte{169, 254, 170, 2}):
		return "169.254.170.2"
	case netip.AddrFrom4([4]byte{169, 254, 170, 23}):
		return "169.254.170.23"
	case netip.AddrFrom4([4]byte{169, 254, 169, 254}):
		return "169.254.169.254"
	case netip.AddrFrom16([16]byte{0: 0xfd, 2: 0x0e, 3: 0xc2, 15: 0x23}):
		return "[fd00:ec2::23]"
	case netip.AddrFrom16([16]byte{0: 0xfd, 2: 0x0e, 3: 0xc2, 14: 0x02, 15: 0x54}):
		return "[fd00:ec2::254]"
	}
	return ""
}

// local reports whether both ends of a connection are on this host.
//
// On loopback both addresses say so. A process that connects to a link-local
// address of its own host is given that address as its own. Nobody else has a
// connection from it: what we answer goes to ourselves, so that a stranger who
// sends under our address never completes a handshake.
func local(c net.Conn) bool {
	if _, ok := c.(*net.UnixConn); ok {
		return true
	}
	here, there := addrPort(c.LocalAddr()).Addr(), addrPort(c.RemoteAddr()).Addr()
	return here.IsLoopback() && there.IsLoopback() || LinkLocal(here) && there == here
}

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := t.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// oneHop sets the TTL or hop limit of a socket to 1, so that no router carries
// an answer on. It is a value for net.ListenConfig's Control. Set before
// listen(2), it holds for the handshake and for every connection accepted.
func oneHop(network, _ string, c syscall.RawConn) error {
	level, option := hopOption(network)
	var err error
	if closed := c.Control(func(fd uintptr) { err = setInt(fd, level, option, 1) }); closed != nil {
		return closed
	}
	return os.NewSyscallError("setsockopt", err)
}

// hopOption is what the kernel calls the TTL.
func hopOption(network string) (level, option int) {
	if network == "tcp6" {
		return syscall.IPPROTO_IPV6, syscall.IPV6_UNICAST_HOPS
	}
	return syscall.IPPROTO_IP, syscall.IP_TTL
}

// network is that of one family alone.
func network(a netip.Addr) string {
	if a.Is6() {
		return "tcp6"
	}
	return "tcp4"
}

// linkLocalError says what a person can do when a link-local address cannot be
// bound because of the address, nil when it is something else. Linux looks at the
// privilege first on IPv6, so that err may be about that and the address missing too.
func linkLocalError(at netip.AddrPort, err error) error {
	addr := at.Addr()
	switch {
	case noFamily(err):
		return fmt.Errorf("listen on %s: this host has no IPv6; leave the address out", at)
	case !noSuchAddress(err) && !noPrivilege(err):
		return nil
	case !present(addr):
		return fmt.Errorf("listen on %s: %s is no address of this host; add it as root: %s", at, addr, AddAddress(runtime.GOOS, addr))
	case noSuchAddress(err): // see bindSoon
		return fmt.Errorf("listen on %s: %s cannot be used yet (%w): a neighbour may have it too, and that is not known; "+
			"on the loopback interface nobody else can; take it away where it is and add it there, as root: %s", at, addr, err, AddAddress(runtime.GOOS, addr))
	}
	return nil
}

// present reports whether an interface has the address, be it usable or not.
func present(addr netip.Addr) bool {
	all, _ := net.InterfaceAddrs() // where nobody tells, it counts as missing
	return slices.ContainsFunc(all, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(addr.AsSlice())
	})
}

// AddAddress is the command, of the system goos and for root, that puts addr on the
// loopback interface.
func AddAddress(goos string, addr netip.Addr) string {
	alone := netip.PrefixFrom(addr, addr.BitLen())
	switch {
	case goos == "linux":
		return fmt.Sprintf("ip addr add %s dev lo", alone)
	case goos == "windows" && addr.Is4():
		return fmt.Sprintf(`netsh interface ipv4 add address "Loopback Pseudo-Interface 1" %s`, alone)
	case goos == "windows":
		return fmt.Sprintf(`netsh interface ipv6 add address "Loopback Pseudo-Interface 1" %s`, alone)
	case addr.Is4():
		return fmt.Sprintf("ifconfig lo0 alias %s", alone)
	default:
		return fmt.Sprintf("ifconfig lo0 inet6 %s alias", alone)
	}
}

// getPrivilege says how a program comes to listen on a port below 1024.
func getPrivilege(goos string, port uint16) string {
	if goos == "linux" {
		return fmt.Sprintf("give it CAP_NET_BIND_SERVICE (in a systemd unit: AmbientCapabilities=CAP_NET_BIND_SERVICE), "+
			"or let everybody, as root: sysctl net.ipv4.ip_unprivileged_port_start=%d", port)
	}
	return "only root may listen on it here"
}
