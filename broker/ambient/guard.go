package ambient

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// guard decides which addresses are talked to. It judges an endpoint when the
// configuration is read, so that the reason is known from the start, and each
// connection again, by the address that a name led to.
type guard struct {
	source string
	tls    bool
	ours   []netip.AddrPort
}

// metadataIPv6 are the addresses of EC2's and EKS's services, fd00:ec2::/32.
var metadataIPv6 = netip.MustParsePrefix("fd00:ec2::/32")

// onThisMachine reports whether traffic to the address cannot be read on a
// network: plain http is fine there. SDKs allow a few single addresses of these.
func onThisMachine(a netip.Addr) bool {
	return a.IsLoopback() || a.IsLinkLocalUnicast() || metadataIPv6.Contains(a)
}

// checkURL judges a URL whose host is an address. What a name stands for is
// known only when it is used.
func (g guard) checkURL(u *url.URL) error {
	port := u.Port()
	if port == "" {
		port = map[bool]string{false: "80", true: "443"}[g.tls]
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return refuse(g.source, broker.KindConfig, nil, "the port of its endpoint is not a number up to 65535")
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		return g.check(netip.AddrPortFrom(addr, uint16(n)))
	}
	return nil
}

func (g guard) check(to netip.AddrPort) error {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	for _, l := range g.ours {
		// An unspecified address leads to this machine at one end, and takes
		// whatever comes to it at the other.
		if l.Port() == to.Port() && (l.Addr().Unmap() == to.Addr() || l.Addr().IsUnspecified() || to.Addr().IsUnspecified()) {
			return refuse(g.source, broker.KindConfig, nil,
				"its endpoint %s is this broker itself; the AWS_CONTAINER_… variables that stsbroker env prints must not be set where stsbroker serve runs", to)
		}
	}
	if !g.tls && !onThisMachine(to.Addr()) {
		return refuse(g.source, broker.KindConfig, nil, "its endpoint %s is not on this machine; over http that is the only place", to)
	}
	return nil
}

// transport is for one call: no proxy, nothing kept, nothing waited for long.
func (g guard) transport() *http.Transport {
	d := &net.Dialer{
		Timeout: time.Second,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return g.check(to)
		},
	}
	return &http.Transport{
		DialContext:            d.DialContext,
		TLSHandshakeTimeout:    2 * time.Second,
		ResponseHeaderTimeout:  2 * time.Second,
		MaxResponseHeaderBytes: 16 << 10,
		DisableKeepAlives:      true,
		DisableCompression:     true,
	}
}
