package metadata

import (
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// as runs f on a thread whose sockets are another user's.
func as(t *testing.T, uid int, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with its changed uid
		if err := unix.Setfsuid(uid); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

// Security row 4: another user reads nothing, with any token, on any path.
func TestIMDSOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can make another user's socket")
	}
	m := startIMDS(t, freePort, nil)
	v1 := startIMDS(t, freePort, func(c *IMDS) { c.AllowV1 = true })
	token := m.token(t, "60")
	for _, uid := range []int{12345, 65534} { // 65534 may be anybody
		as(t, uid, func() {
			for _, request := range []string{
				put("60"), put("0"), "GET " + roleLeaf + " HTTP/1.1\n" + host + "X-aws-ec2-metadata-token: " + token + "\n\n",
				"GET " + roleLeaf + " HTTP/1.1\n" + host + "\n", "GET " + roleList + " HTTP/1.1\n" + host + "\n", "GET /x HTTP/1.1\n" + host + "\n",
			} {
				for _, at := range []*metadataService{m, v1} {
					if a := at.once(t, request); !a.bare(http.StatusForbidden) || !a.closed {
						t.Errorf("uid %d: %q: %d %s", uid, strings.SplitN(request, "\n", 2)[0], a.status, a.body)
					}
				}
			}
		})
	}
	if got := m.source.gets.Load() + v1.source.gets.Load(); got != 0 {
		t.Errorf("the broker was asked %d times", got)
	}
	if a := m.read(t, roleLeaf, token); a.status != http.StatusOK {
		t.Errorf("who it is for: %d", a.status)
	}
}

// Security row 14, with a door that several users may use.
func TestIMDSTokensAreOneUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can make another user's socket")
	}
	m := startIMDS(t, freePort, func(c *IMDS) { c.Access = everybody{} })
	mine, theirs := m.token(t, "60"), ""
	as(t, 12345, func() {
		c := dial(t, m.addr)
		for range 10_000 {
			theirs = c.do(put("60")).body
		}
		if a := m.read(t, roleLeaf, theirs); a.status != http.StatusOK {
			t.Errorf("their own: %d", a.status)
		}
		if a := m.read(t, roleLeaf, mine); !a.bare(http.StatusUnauthorized) {
			t.Errorf("mine in their hands: %d", a.status)
		}
	})
	if a := m.read(t, roleLeaf, theirs); !a.bare(http.StatusUnauthorized) {
		t.Errorf("theirs in mine: %d", a.status)
	}
	if a := m.read(t, roleLeaf, mine); a.status != http.StatusOK {
		t.Errorf("mine after 10,000 of theirs: %d", a.status)
	}
}
