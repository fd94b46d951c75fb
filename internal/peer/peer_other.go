//go:build !linux && !darwin

package peer

import (
	"net/netip"
	"runtime"
	"syscall"
)

func ofTCP(_, _ netip.AddrPort) (Cred, error) {
	return Cred{}, unknown("%s does not tell the owner of a TCP connection", runtime.GOOS)
}

// OfUnix knows nothing on this system.
func OfUnix(_ syscall.Conn) (Cred, error) {
	return Cred{}, unknown("%s does not tell the owner of a Unix socket", runtime.GOOS)
}
