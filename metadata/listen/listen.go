// Package listen opens the sockets that the front doors answer on, and knows
// the caller behind each connection.
//
// Nothing here answers another host:
//
//   - [Opener.TCP] listens on loopback, and on the five addresses where containers and
//     instances find credentials ([LinkLocal]), should this host have them. Every
//     connection is checked again when it comes, because a host with
//     route_localnet=1 hands packets from its neighbours to 127.0.0.1, and any host
//     takes packets for an address of one interface on all of them. What
//     leaves a link-local listener has TTL 1: no router carries it on.
//   - [Opener.Unix] listens on a socket file that is its user's alone, or one where
//     the kernel's word about the caller decides.
//
// Sockets that systemd opened ([Inherit]) are held to the same, and used where they have the
// address or path that is asked for.
//
// The listeners of one call share a cap on open connections, and their
// deadlines are cheap and a little late. In a crowd each user has a part of that cap. [ConnContext] is for http.Server; a handler
// gets the caller back with [FromContext].
package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"
)

// The loopback addresses that may be listened on: the ones that every SDK takes
// over plain http, and the ones that the doors' Host allow-list lets through.
var (
	loopback4 = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.MustParseAddr("::1")
)

// maxConns is the most connections that one call holds open at a time,
// where the limit on descriptors allows it.
const maxConns = 4096

// spareFiles are the descriptors that connections never take: for STS, files,
// the control socket.
const spareFiles = 256

// manyFiles stands for no limit on descriptors.
const manyFiles = 1 << 20

// share is the cap on connections of each of that many doors of a process that may
// have so many descriptors. They divide what there is: with one cap for each and
// none for all, a flood of two doors would leave nothing to STS and to files.
func share(files, doors int) int {
	return min(maxConns, max(1, (max(files, 2*spareFiles)-spareFiles)/doors))
}

// Opener opens the listeners of a process.
type Opener struct {
	// Doors is how many calls of TCP and Unix the process makes, at least 1: they
	// share its descriptors evenly.
	Doors int

	// Inherited are the sockets to use, where they are the ones asked for. nil for none.
	Inherited *Inherited
}

// TCP listens on the given literal addresses, such as "127.0.0.1:9170",
// "[::1]:9170" and "169.254.170.2:80". All of them share one cap on open
// connections; beyond it, callers wait in the kernel's queue until one closes.
// Who is not of this host is closed without a word.
//
// [::1] on a host that does not have it is left out, and skipped says so, one
// sentence for each. Any other failure closes what was opened and is returned:
// a port that somebody else holds is never exchanged for another, and a
// link-local address that is missing was asked for. For one that is there and
// not usable yet, TCP waits three seconds, or until ctx ends.
func (o Opener) TCP(ctx context.Context, addresses ...string) (listeners []net.Listener, skipped []string, err error) {
	return o.tcp(ctx, o.share(), addresses)
}

func (o Opener) share() int { return share(mostFiles(), max(1, o.Doors)) }

func (o Opener) tcp(ctx context.Context, conns int, addresses []string) (listeners []net.Listener, skipped []string, err error) {
	defer func() {
		if err != nil {
			for _, l := range listeners {
				_ = l.Close()
			}
			listeners, skipped = nil, nil
		}
	}()
	all := newShared(conns)
	for _, s := range addresses {
		at, err := parse(s)
		if err != nil {
			return listeners, nil, err
		}
		l, ok, err := o.Inherited.tcp(at)
		if err != nil {
			return listeners, nil, err
		}
		if !ok {
			l, err = bindSoon(ctx, at)
		}
		switch {
		case err == nil:
			listeners = append(listeners, newListener(l, all))
		case at.Addr() == loopback6 && (noSuchAddress(err) || noFamily(err)):
			skipped = append(skipped, fmt.Sprintf("not listening on %s: this host has no IPv6 loopback", at))
		default:
			return listeners, nil, bindError(at, err)
		}
	}
	if len(listeners) == 0 {
		return nil, skipped, fmt.Errorf("no address to listen on is left of %v: add 127.0.0.1", addresses)
	}
	return listeners, skipped, nil
}

func parse(s string) (netip.AddrPort, error) {
	at, err := netip.ParseAddrPort(s)
	if err != nil {
		return at, fmt.Errorf("listen address %q: want a literal address and a port, such as 127.0.0.1:9170 or [::1]:9170", s)
	}
	if err := allowed(at); err != nil {
		return at, fmt.Errorf("listen address %q: %w", s, err)
	}
	return at, nil
}

// allowed says why an address may not be listened on, nil if it may.
func allowed(at netip.AddrPort) error {
	if a := at.Addr(); a != loopback4 && a != loopback6 && !LinkLocal(a) {
		return errors.New("only 127.0.0.1, [::1] and the addresses of the ECS, EKS and instance endpoints may be listened on; " +
			"credentials do not leave this host")
	}
	return nil
}

// A new IPv6 address cannot be bound while the system asks whether a neighbour has
// it too (RFC 4862, 5.4). Linux takes up to two seconds for that, and even on
// the loopback interface a moment.
const (
	settleTime  = 3 * time.Second
	settleGrain = 20 * time.Millisecond
)

// bindSoon is bind, with some patience where an address is there and cannot be used yet.
func bindSoon(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	for began := time.Now(); ; {
		l, err := bind(ctx, at)
		if !LinkLocal(at.Addr()) || !noSuchAddress(err) || time.Since(began) > settleTime || !present(at.Addr()) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(settleGrain):
		}
	}
}

func bind(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	// Both ends are on this host: no peer can vanish without the kernel
	// telling, so probing for it would only cost three system calls a connection.
	lc := net.ListenConfig{KeepAlive: -1}
	lc.SetMultipathTCP(false) // Landlock's rules for TCP do not cover it
	if LinkLocal(at.Addr()) {
		lc.Control = oneHop
	}
	return lc.Listen(ctx, network(at.Addr()), at.String())
}

// bindError says what a person can do about err. It reads well after "stsbroker: ".
func bindError(at netip.AddrPort, err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // the address is said already
	}
	if LinkLocal(at.Addr()) {
		if err := linkLocalError(at, err); err != nil {
			return err
		}
	}
	switch {
	case noPrivilege(err) && at.Port() < 1024:
		return fmt.Errorf("listen on %s: port %d needs a privilege (%w); %s", at, at.Port(), err, getPrivilege(runtime.GOOS, at.Port()))
	case !inUse(err):
		return fmt.Errorf("listen on %s: %w", at, err)
	}
	return fmt.Errorf("listen on %s: port %d is taken by another program (%w); find it with: %s", at, at.Port(), err, findOwner(runtime.GOOS, at.Port()))
}

func findOwner(goos string, port uint16) string {
	switch goos {
	case "linux":
		return fmt.Sprintf("ss -ltnp 'sport = :%d'", port)
	case "windows":
		return fmt.Sprintf("netstat -ano -p tcp | findstr :%d", port)
	default:
		return fmt.Sprintf("lsof -nP -iTCP:%d -sTCP:LISTEN", port)
	}
}

// shared is what the listeners of one call have in common.
type shared struct {
	slots     chan struct{} // taken by open connections
	deadlines deadlines
	held      map[holder]int // how many connections are whose; guarded by deadlines.mu

	tells  sync.Once
	untold bool // after tells: the kernel does not say whose a connection is
}

func newShared(conns int) *shared {
	s := &shared{slots: make(chan struct{}, conns), held: map[holder]int{}}
	s.deadlines = deadlines{conns: map[*conn]struct{}{}, also: s.trim}
	return s
}

// listener hands out at most cap(slots) connections at a time, all of them
// from this host. Without the cap a flood would take every descriptor, and the
// broker could no longer reach STS or its own files.
type listener struct {
	net.Listener // TCP or Unix
	shared       *shared
	once         sync.Once
	closed       chan struct{}
}

func newListener(l net.Listener, all *shared) *listener {
	return &listener{Listener: l, shared: all, closed: make(chan struct{})}
}

// Accept waits for a free slot, then for a connection.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.shared.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.shared.slots
			return nil, err
		}
		if s, ok := c.(stream); ok && local(c) {
			if o := l.shared.open(s, l); o != nil {
				return o, nil
			}
		}
		_ = c.Close() // without a word, and without a log line that a neighbour could write at will
	}
}

// CloseSilent ends connections of this listener on which it has seen nothing come for that long,
// since they were accepted or since their last answer, and returns how many are open
// still. It looks when it is called, and so is to be called again and again.
//
// Such a connection is ended where nothing waits to be read, so that no request that has arrived is lost, and
// none that is under way is touched. Called while requests are still accepted it
// needs a server with time-outs for idle connections and for headers, as both doors and control have.
func (l *listener) CloseSilent(patience time.Duration) (open int) {
	now := time.Now()
	d := &l.shared.deadlines
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		if c.from == l {
			open++
			c.read.closeSilent(patience, now.Sub(c.opened), c.stream.SetReadDeadline)
		}
	}
	return open
}

// Close stops accepting; connections go on.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}
