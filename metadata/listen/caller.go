package listen

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"sync"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/peer"
)

// Caller is what is known of the other end of one connection.
type Caller struct {
	Local, Remote netip.AddrPort // zero on a Unix socket
	LocalPort     string         // Local's, in decimal; "" on a Unix socket

	// Host is the address of a link-local listener as Host headers spell it,
	// "169.254.170.2" or "[fd00:ec2::23]"; "" on loopback and on a Unix socket.
	Host string

	conn net.Conn
	once sync.Once
	peer broker.Peer
	err  error
}

// Peer is the kernel's word about the caller. The error says why there is
// none; the Peer is then the zero one, which is unknown.
//
// The kernel is asked once a connection, and only when somebody wants to know:
// most tokens are bound to no uid, and so most connections never pay for it.
// Asking late is as safe as asking early. On a Unix socket the answer is as of
// the time of connecting. On TCP it is looked up by addresses and ports, and
// while the connection stands no other socket can have these; so a late answer
// is about the same peer, or there is none (it has closed its end: inode 0, or no
// entry) and who needs one refuses. Only a peer that resets the connection gives
// its port away while we still answer: the next one there may then be named for
// it, but what we write reaches neither.
func (c *Caller) Peer() (broker.Peer, error) {
	c.once.Do(func() {
		var cred peer.Cred
		inner := c.conn
		if ours, ok := inner.(*conn); ok {
			inner = ours.stream
		}
		if u, ok := inner.(*net.UnixConn); ok {
			cred, c.err = peer.OfUnix(u)
		} else {
			cred, c.err = peer.OfTCP(c.Local, c.Remote)
		}
		if c.err == nil {
			c.peer = broker.NewPeer(cred.UID, cred.PID)
		}
	})
	return c.peer, c.err
}

type callerKey struct{}

// ConnContext keeps a [Caller] for the connection in its context. It is a value
// for http.Server's field of that name.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	caller := &Caller{Local: addrPort(c.LocalAddr()), Remote: addrPort(c.RemoteAddr()), conn: c}
	if caller.Local.IsValid() {
		caller.LocalPort = strconv.Itoa(int(caller.Local.Port()))
		caller.Host = hostOf(caller.Local.Addr())
	}
	return context.WithValue(ctx, callerKey{}, caller)
}

// FromContext returns the caller behind the request whose context this is, nil
// when its server does not use [ConnContext].
func FromContext(ctx context.Context) *Caller {
	c, _ := ctx.Value(callerKey{}).(*Caller)
	return c
}
