package listen

import (
	"net"
	"os"
	"time"

	"github.com/stsbroker/stsbroker/internal/peer"
)

// holder is whose a connection is: a uid, or one of these.
type holder int64

const (
	unasked holder = -1 - iota // the kernel was not asked
	unknown                    // the kernel does not tell of this one; all such count as one user
	ours                       // this process's own user
)

// crowded reports whether half of the connections are taken. From there on each user
// but our own may hold an eighth, and what that user holds beyond ends where it is silent: one
// user of many, or none of theirs, could keep all others waiting otherwise, by connecting
// and saying nothing. The last quarter is for our own user alone, whatever many users do together.
//
// Whose a connection is costs 3 µs to ask, and is asked only then: first of
// those that are open, each once, and of each that comes. A host on which nobody crowds never pays.
func (s *shared) crowded() bool { return len(s.slots) > cap(s.slots)/2 }

// each is how many connections another user may hold in a crowd.
func (s *shared) each() int { return max(1, cap(s.slots)/8) }

// holderOf asks the kernel, as far as it tells such things at all: where it does not, all are
// ours. On a Unix socket that is others' too, root counts as this user: for one with mode
// 0600 those two are all there are.
func (s *shared) holderOf(c net.Conn) holder {
	var cred peer.Cred
	var err error
	u, unix := c.(*net.UnixConn)
	if unix {
		cred, err = peer.OfUnix(u)
	} else {
		s.tells.Do(func() { s.untold = peer.Works() != nil })
		if s.untold {
			return ours
		}
		cred, err = peer.OfTCP(addrPort(c.LocalAddr()), addrPort(c.RemoteAddr()))
	}
	switch {
	case err != nil:
		return unknown
	case int(cred.UID) == os.Geteuid() || unix && cred.UID == 0:
		return ours
	}
	return holder(cred.UID)
}

// open makes c one of the open connections, or returns nil where there is no room for its user.
func (s *shared) open(c stream, from *listener) *conn {
	o := &conn{stream: c, owner: s, from: from, opened: time.Now(), of: unasked}
	crowded := s.crowded()
	if crowded {
		o.of = s.holderOf(c)
	}
	s.deadlines.mu.Lock()
	defer s.deadlines.mu.Unlock()
	if crowded && !s.room(o.of) {
		return nil
	}
	s.count(o.of, 1)
	s.deadlines.add(o)
	return o
}

func (s *shared) release(c *conn) {
	s.deadlines.mu.Lock()
	s.deadlines.remove(c)
	s.count(c.of, -1)
	s.deadlines.mu.Unlock()
	<-s.slots
}

// count notes that h holds so many more. deadlines.mu is held, as for all below.
func (s *shared) count(h holder, more int) {
	if s.held[h] += more; s.held[h] == 0 {
		delete(s.held, h)
	}
}

// room reports whether h may hold one more in a crowd.
func (s *shared) room(h holder) bool {
	switch {
	case h == ours:
		return true
	case len(s.slots) > cap(s.slots)*3/4:
		return false
	}
	s.ask()
	return s.held[h] < s.each()
}

// ask learns whose the connections are that came before the crowd.
func (s *shared) ask() {
	if s.held[unasked] == 0 {
		return
	}
	for c := range s.deadlines.conns {
		if c.of == unasked {
			s.count(unasked, -1)
			c.of = s.holderOf(c.stream)
			s.count(c.of, 1)
		}
	}
}

// trim ends, in a crowd, what users hold beyond their part, where they are silent: so a user with
// many idle connections keeps nobody out, and loses no request. It is called with
// every sweep, and lets a new connection a moment to speak.
func (s *shared) trim(now time.Time) {
	if !s.crowded() {
		return
	}
	s.ask()
	var ended map[holder]int
	for c := range s.deadlines.conns {
		since := now.Sub(c.opened)
		if c.of == ours || s.held[c.of]-ended[c.of] <= s.each() || since < grain {
			continue
		}
		if c.read.closeSilent(0, since, c.stream.SetReadDeadline) {
			if ended == nil {
				ended = map[holder]int{}
			}
			ended[c.of]++
		}
	}
}
