package metadata

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/access"
	"github.com/stsbroker/stsbroker/internal/ownnet"
)

// inNetwork is [ownnet.Inside] in a network whose loopback interface has the
// link-local addresses.
func inNetwork(t *testing.T) bool {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("not run: no ip command here")
	}
	if !ownnet.Inside(t) {
		return false
	}
	for _, address := range []string{"169.254.170.2/32", "169.254.170.23/32", "169.254.169.254/32"} {
		if out, err := exec.Command("ip", "addr", "add", address, "dev", "lo").CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", address, err, out)
		}
	}
	for _, address := range []string{"fd00:ec2::23/128", "fd00:ec2::254/128"} {
		if out, err := exec.Command("ip", "addr", "add", address, "dev", "lo", "nodad").CombinedOutput(); err != nil {
			t.Logf("without %s: %s", address, out)
		}
	}
	return true
}

// literal is how a Host header spells the address of "ADDRESS:PORT".
func literal(address string) string {
	h, _, _ := net.SplitHostPort(address)
	if strings.Contains(h, ":") {
		return "[" + h + "]"
	}
	return h
}

// linkLocal are the doors at link-local addresses, each of them where its clients look.
func linkLocal() map[string]func(testing.TB) *front {
	container := func(at, path string) func(testing.TB) *front {
		return func(t testing.TB) *front {
			r := newRunning(t)
			r.serveAt(t, at, r.container(nil, nil))
			return &front{running: r, hosts: []string{literal(at), literal(at) + ":PORT"}, path: path, key: auth, door: broker.DoorContainer}
		}
	}
	imds := func(at string) func(testing.TB) *front {
		return func(t testing.TB) *front {
			m := startIMDS(t, at, nil)
			f := &front{running: &m.running, hosts: []string{literal(at), literal(at) + ":PORT"}, path: roleLeaf, door: broker.DoorIMDS, puts: true}
			a := f.once(t, strings.Replace(put("600"), host, f.host(), 1))
			if a.status != http.StatusOK {
				t.Fatalf("PUT: %d %s", a.status, a.body)
			}
			f.key = "X-aws-ec2-metadata-token: " + a.body + "\n"
			return f
		}
	}
	return map[string]func(testing.TB) *front{
		"ECS":             container("169.254.170.2:80", "/credentials/dev"),
		"EKS":             container("169.254.170.23:80", "/v1/credentials"),
		"EKS over IPv6":   container("[fd00:ec2::23]:80", "/v1/credentials"),
		"EKS, other port": container("169.254.170.23:8080", "/v1/credentials"),
		"IMDS":            imds("169.254.169.254:80"),
		"IMDS over IPv6":  imds("[fd00:ec2::254]:80"),
		"ECS without token": func(t testing.TB) *front {
			const at = "169.254.170.2:81"
			r := newRunning(t)
			r.serveAt(t, at, r.container(nil, &Tokenless{Door: broker.DoorPeer, Access: access.Memory(), Profiles: []string{"dev"}}))
			return &front{running: r, hosts: []string{literal(at) + ":PORT", literal(at)}, path: "/credentials", door: broker.DoorContainer}
		},
	}
}

func TestWire01_LinkLocal(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	for name, open := range linkLocal() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if strings.Contains(name, "IPv6") {
				l, err := net.Listen("tcp", "[fd00:ec2::23]:0")
				if err != nil {
					t.Skip("not run: this host has no IPv6")
				}
				_ = l.Close()
			}
			f := open(t)
			hostTable(t, f)
			browserTable(t, f)
			bodyTable(t, f)
			sizeTable(t, f)
			uid, known := f.source.lastAsk().Caller.Peer.UID()
			if byKernel := f.key != auth; known != byKernel || known && int(uid) != os.Geteuid() {
				t.Errorf("asked as uid %d, known %v", uid, known)
			}
			if f.key == auth || !ownnet.OfRoot() {
				return
			}
			// Who needs no token here, or a session's, is this user and root alone.
			before := f.asked()
			as(t, 12345, func() {
				if a := f.once(t, f.request(f.host(), "")); a.status != http.StatusForbidden || a.leaks() {
					t.Errorf("another user: %d %s", a.status, a.body)
				}
			})
			if f.asked() != before {
				t.Error("another user: the broker was asked")
			}
		})
	}
}
