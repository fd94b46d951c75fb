package main

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// listenerOf names who listens at an address, as far as /proc lets this user see: the
// process, else its user; "" for nothing, as on other systems than Linux. proc_pid_net
// in the Linux manual pages has the format.
func listenerOf(proc string, at netip.AddrPort) string {
	inode, uid := listeningSocket(proc, at)
	if inode == "" {
		return ""
	}
	links, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*")) // the pattern is good
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != "socket:["+inode+"]" {
			continue
		}
		process := filepath.Dir(filepath.Dir(link))
		if program, err := os.Readlink(filepath.Join(process, "exe")); err == nil {
			return fmt.Sprintf("process %s (%s)", filepath.Base(process), program)
		}
		return "process " + filepath.Base(process)
	}
	return "a process of uid " + uid
}

// listeningSocket finds a socket in the state LISTEN, of the address or of all.
func listeningSocket(proc string, at netip.AddrPort) (inode, uid string) {
	name := "tcp"
	if at.Addr().Is6() {
		name = "tcp6"
	}
	for _, file := range []string{name, "tcp6"} { // a socket of all addresses takes both families
		f, err := os.Open(filepath.Join(proc, "net", file))
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			words := strings.Fields(lines.Text())
			if len(words) < 10 || words[3] != "0A" {
				continue
			}
			got, ok := procAddress(words[1])
			if ok && got.Port() == at.Port() && (got.Addr().Unmap() == at.Addr() || got.Addr().IsUnspecified()) {
				_ = f.Close()
				return words[9], words[7]
			}
		}
		_ = f.Close()
	}
	return "", ""
}

// procAddress reads 0100007F:1F90: words of 32 bits in the order of a little-endian
// machine, and the port.
func procAddress(s string) (netip.AddrPort, bool) {
	a, p, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(a)
	port, bad := hex.DecodeString(p)
	if !ok || err != nil || bad != nil || len(port) != 2 || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for word := range slices.Chunk(raw, 4) {
		slices.Reverse(word)
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr, uint16(port[0])<<8|uint16(port[1])), ok
}

// findListener is the command that names it, with more rights.
func findListener(goos string, port uint16) string {
	switch goos {
	case "linux":
		return fmt.Sprintf("sudo ss -ltnp 'sport = :%d'", port)
	case "windows":
		return fmt.Sprintf("netstat -ano -p tcp | findstr :%d", port)
	}
	return fmt.Sprintf("sudo lsof -nP -iTCP:%d -sTCP:LISTEN", port)
}
