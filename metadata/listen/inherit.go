package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
)

// Inherited are the listening sockets that systemd opened for this process
// (systemd.socket(5)). It keeps them open for as long as the process lives, as systemd does
// beyond that, and hands out listeners on them: what such a listener has not accepted
// when it is closed waits for the next one, in this process or in its successor.
//
// The zero value and nil hold nothing.
type Inherited struct {
	sockets []*handed
}

// handed is one of them.
type handed struct {
	name string // LISTEN_FDNAMES has it: the unit's, unless FileDescriptorName= says otherwise
	at   netip.AddrPort
	path string // of a Unix socket, "" on TCP
	file *os.File

	mu    sync.Mutex
	taken bool // a listener on it is open
}

// address is as ListenStream= spells it.
func (s *handed) address() string {
	if s.path != "" {
		return s.path
	}
	return s.at.String()
}

// wrong is an error about the unit that made the socket.
func (s *handed) wrong(why string) error {
	return fmt.Errorf("socket %q from systemd, ListenStream=%s: %s", s.name, s.address(), why)
}

func (h *Inherited) all() []*handed {
	if h == nil {
		return nil
	}
	return h.sockets
}

// Any reports whether systemd handed over anything. If so, and only then, somebody
// holds sockets of ours when this process ends, and new connections wait there.
func (h *Inherited) Any() bool { return len(h.all()) > 0 }

// Has reports whether systemd handed over the Unix socket that is bound to path. Such a
// one needs no folder made for it, and none that this process may write to; whoever can write there
// can put a socket of their own in its place, and so the folder is to be judged all the same.
func (h *Inherited) Has(path string) bool { return h.at(path) != nil }

// at is the Unix socket that the kernel says is bound to path, nil if there is none.
func (h *Inherited) at(path string) *handed {
	for _, s := range h.all() {
		if s.path != "" && s.path == filepath.Clean(path) {
			return s
		}
	}
	return nil
}

// Left returns the addresses and paths on which nobody listens now, as
// ListenStream= spells them. Who connects there waits for ever: a
// socket unit names another address than the configuration.
func (h *Inherited) Left() (addresses []string) {
	for _, s := range h.all() {
		s.mu.Lock()
		if !s.taken {
			addresses = append(addresses, s.address())
		}
		s.mu.Unlock()
	}
	return addresses
}

// tcp listens on the socket that the kernel says is bound to at, if there is one.
func (h *Inherited) tcp(at netip.AddrPort) (l net.Listener, ok bool, err error) {
	for _, s := range h.all() {
		if s.path == "" && s.at == at {
			l, err = s.take()
			return l, true, err
		}
	}
	return nil, false, nil
}

// TakeUnix listens on the Unix socket that the kernel says is bound to path, and
// reports with ok whether there is one, be it taken or refused with err. It is for a
// socket outside the doors' share of descriptors, such as the control socket; doors use [Opener.Unix].
// No lock file is taken, and Close removes nothing: the socket is systemd's, who starts one process for it.
//
// The file must be at its path, belong to root or to this process's user, and let in nobody whom
// mode keeps out; else the error names the setting of the socket unit that is wrong.
// The folder is the caller's to judge, whoever made it ([Inherited.Has] tells).
func (h *Inherited) TakeUnix(path string, mode fs.FileMode) (l net.Listener, ok bool, err error) {
	return h.unix(path, mode, maxConns)
}

func (h *Inherited) unix(path string, mode fs.FileMode, conns int) (l net.Listener, ok bool, err error) {
	s := h.at(path)
	if s == nil {
		return nil, false, nil
	}
	if err := s.judgeFile(mode); err != nil {
		return nil, true, err
	}
	inner, err := s.take()
	if err != nil {
		return nil, true, err
	}
	return newListener(inner, newShared(conns)), true, nil
}

// judgeFile says what is wrong with the file of a Unix socket, nil if nothing.
func (s *handed) judgeFile(mode fs.FileMode) error {
	info, err := os.Lstat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.wrong("nothing is at that path any more; where the service unit has RuntimeDirectory= with the same folder, " +
			"set RuntimeDirectoryPreserve=yes, and restart the socket unit")
	case err != nil:
		return s.wrong(err.Error())
	case info.Mode()&fs.ModeSocket == 0:
		return s.wrong("another file has taken its place; move it, and restart the socket unit")
	case info.Mode().Perm()&^mode != 0:
		return s.wrong(fmt.Sprintf("its mode is %04o, and lets others in; set SocketMode=%04o", info.Mode().Perm(), mode))
	}
	if uid, ok := ownerOf(info); ok && uid != 0 && int(uid) != os.Geteuid() {
		return s.wrong(fmt.Sprintf("its file belongs to uid %d, who can open it to others; remove SocketUser=", uid))
	}
	return nil
}

// take listens on the socket. As with bind(2), only one at a time does: with two,
// chance would decide which door answers.
func (s *handed) take() (net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken {
		return nil, s.wrong("it is taken already: two doors cannot answer at one address")
	}
	l, err := net.FileListener(s.file) // on a descriptor of its own
	if err != nil {
		return nil, s.wrong(err.Error())
	}
	s.taken = true
	return &handedListener{Listener: l, of: s}, nil
}

// handedListener is a listener on a socket that is not closed with it.
type handedListener struct {
	net.Listener
	of   *handed
	once sync.Once
}

// Accept makes of a connection what those of our own sockets are from the start.
func (l *handedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		t, ok := c.(*net.TCPConn)
		if !ok || l.of.ready(t) == nil {
			return c, nil
		}
		_ = c.Close() // reset by its client, or not to be kept on this host
	}
}

// ready turns probing off (bind says why), and sets the TTL, which a connection
// takes from its listener when the kernel makes it. Those made between systemd's listen(2)
// and our start have another, unless the socket unit has IPTTL=1.
func (s *handed) ready(c *net.TCPConn) error {
	if err := c.SetKeepAlive(false); err != nil {
		return err
	}
	if !LinkLocal(s.at.Addr()) {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return oneHop(network(s.at.Addr()), "", raw)
}

func (l *handedListener) Close() error {
	err := l.Listener.Close()
	l.once.Do(func() {
		l.of.mu.Lock()
		l.of.taken = false
		l.of.mu.Unlock()
	})
	return err
}
