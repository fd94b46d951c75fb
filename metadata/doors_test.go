package metadata

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/access"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

// What must hold at every door that speaks HTTP, over raw sockets.

// front is a door as its clients find it, with a request that it answers with 200.
type front struct {
	*running
	also  string   // where it listens too, "" for nowhere
	hosts []string // all that Host may be, the first is usual; PORT is the listener's
	path  string
	key   string // headers that the request needs
	door  string // by which its refusals are known
	puts  bool   // clients begin with a PUT
}

// request has a Host line or what takes its place, and more headers.
func (f *front) request(hostLine, more string) string {
	return "GET " + f.path + " HTTP/1.1\n" + hostLine + f.key + more + "\n"
}

// host is the usual Host line.
func (f *front) host() string { return "Host: " + f.hosts[0] + "\n" }

// dial connects, and knows the port that PORT stands for.
func (f *front) dial(t testing.TB, addr string) *client {
	t.Helper()
	c := dial(t, addr)
	c.port = f.port
	return c
}

func (f *front) once(t testing.TB, request string) answer {
	t.Helper()
	return f.dial(t, f.addr).do(request)
}

// asked is how often the broker was asked.
func (f *front) asked() int64 {
	if f.source == nil {
		return 0
	}
	return f.source.gets.Load()
}

func loopbackHosts() []string {
	return []string{"127.0.0.1:PORT", "127.0.0.1", "localhost:PORT", "localhost", "[::1]:PORT", "[::1]"}
}

// fronts opens every door that speaks HTTP, by name.
func fronts() map[string]func(testing.TB) *front {
	return map[string]func(testing.TB) *front{
		"container": func(t testing.TB) *front {
			r := start(t, nil)
			return &front{running: r, also: r.addr6, hosts: loopbackHosts(), path: "/credentials/dev", key: auth, door: broker.DoorContainer}
		},
		"container without a token": func(t testing.TB) *front {
			return &front{running: startTokenless(t, nil, "dev"), hosts: loopbackHosts(), path: "/credentials/dev", door: broker.DoorContainer}
		},
		"container at 169.254.170.2": func(t testing.TB) *front {
			return startElsewhere(t, netip.MustParseAddrPort("169.254.170.2:80"), "169.254.170.2", "/credentials/dev")
		},
		"container at fd00:ec2::23": func(t testing.TB) *front {
			return startElsewhere(t, netip.MustParseAddrPort("[fd00:ec2::23]:80"), "[fd00:ec2::23]", "/v1/credentials")
		},
		"socket": func(t testing.TB) *front {
			return &front{running: startSocket(t, nil), hosts: []string{"localhost", "127.0.0.1", "[::1]"}, path: "/credentials/dev", door: broker.DoorSocket}
		},
		"IMDS": func(t testing.TB) *front {
			m := startIMDS(t, freePort, nil)
			return &front{running: &m.running, hosts: loopbackHosts(), path: roleLeaf, key: "X-aws-ec2-metadata-token: " + m.token(t, "600") + "\n", door: broker.DoorIMDS, puts: true}
		},
		"IMDS, version 1 too": func(t testing.TB) *front {
			m := startIMDS(t, freePort, func(c *IMDS) { c.AllowV1 = true })
			return &front{running: &m.running, hosts: loopbackHosts(), path: roleLeaf, door: broker.DoorIMDS, puts: true}
		},
		"metrics": func(t testing.TB) *front {
			r := &running{sink: &sink{}}
			r.serve(t, Guard("metrics", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "canary") }), r.sink, r.sink))
			return &front{running: r, also: r.addr6, hosts: loopbackHosts(), path: "/metrics", door: "metrics"}
		},
	}
}

// everyFront runs f at every door that this system has.
func everyFront(t *testing.T, f func(*testing.T, *front)) {
	for name, open := range fronts() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, open(t))
		})
	}
}

// startTokenless serves, without a token, the profiles to the user who runs the
// test; and all that start serves with one.
func startTokenless(t testing.TB, more grants, profiles ...string) *running {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skipf("not run: the kernel does not tell who connects over TCP on %s", runtime.GOOS)
	}
	r := newRunning(t)
	r.serveAt(t, freePort, r.container(more, &Tokenless{Door: broker.DoorPeer, Access: access.Memory(), Profiles: profiles}))
	return r
}

// startSocket serves on a Unix socket.
func startSocket(t testing.TB, more grants) *running {
	t.Helper()
	folder, err := os.MkdirTemp("", "s") // a test's own may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	l, err := listen.Opener{Doors: 1}.Unix(filepath.Join(folder, "s"), 0o600)
	if err != nil {
		t.Skipf("not run: %v", err)
	}
	r := newRunning(t)
	r.serveOn(t, l, r.container(more, &Tokenless{Door: broker.DoorSocket, Access: access.Memory()}))
	return r
}

// startElsewhere serves as if at an address that this host need not have.
func startElsewhere(t testing.TB, at netip.AddrPort, literal, path string) *front {
	t.Helper()
	l, _, err := listen.Opener{Doors: 1}.TCP(t.Context(), freePort)
	if err != nil {
		t.Fatal(err)
	}
	r := newRunning(t)
	r.serveOn(t, elsewhere{l[0], at}, r.container(nil, nil))
	r.addr, r.port = l[0].Addr().String(), "80"
	return &front{running: r, hosts: []string{literal, literal + ":PORT"}, path: path, key: auth, door: broker.DoorContainer}
}

// elsewhere is a listener whose connections say that they are at another address.
type elsewhere struct {
	net.Listener
	at netip.AddrPort
}

type moved struct {
	net.Conn
	at netip.AddrPort
}

func (l elsewhere) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return moved{c, l.at}, nil
}

func (c moved) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.at) }
func (c moved) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.at.Addr(), 50000))
}

// CloseWrite is how net/http ends an answer that the client has not read yet.
func (c moved) CloseWrite() error { return c.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// Security row 1.
func TestHostAllowList(t *testing.T) { everyFront(t, hostTable) }

func hostTable(t *testing.T, f *front) {
	for _, h := range f.hosts {
		for _, addr := range []string{f.addr, f.also} {
			if addr == "" {
				continue
			}
			if a := f.dial(t, addr).do(f.request("Host: "+h+"\n", "")); a.status != http.StatusOK {
				t.Errorf("Host %s at %s: %d %s", h, addr, a.status, a.body)
			}
		}
	}

	allowed := strings.Split(strings.ReplaceAll(strings.Join(f.hosts, "\n"), "PORT", f.port), "\n")
	refused := map[string]string{}
	for _, h := range []string{
		"", " ", "evil.example", "evil.example:PORT", "127.0.0.1.evil.example:PORT", "localhost.evil.example", "evil.localhost:PORT",
		"127.0.0.1:PORT", "localhost:PORT", "[::1]:PORT", "127.0.0.1", "localhost", "[::1]",
		"127.0.0.1.:PORT", "localhost.:PORT", "localhost.", "LOCALHOST:PORT", "Localhost",
		"127.0.0.1:", "127.0.0.1:1", "127.0.0.1:0PORT", "127.0.0.1:+PORT", "127.0.0.1:PORT:PORT", "127.0.0.1:PORT0", "localhost:http",
		"user@127.0.0.1:PORT", "127.0.0.1@evil.example", "127.0.0.1:PORT@evil.example", "127.0.0.1:PORT,evil.example", "127.0.0.1:PORT evil.example",
		"127.0.0.1/", "127.0.0.1:PORT/credentials", "127.0.0.1#", "127.0.0.1%00",
		"0.0.0.0:PORT", "0:PORT", "127.1:PORT", "127.0.0.2:PORT", "2130706433:PORT", "0x7f.0.0.1:PORT", "0177.0.0.1", "127.000.000.001",
		"::1", "::1:PORT", "[::]:PORT", "[0:0:0:0:0:0:0:1]:PORT", "[::1%25lo]:PORT", "[::ffff:127.0.0.1]:PORT", "[::1].evil.example",
		"169.254.170.2", "169.254.170.2:PORT", "169.254.170.23", "169.254.169.254", "169.254.169.254:PORT", "[fd00:ec2::23]", "[fd00:ec2::23]:PORT", "[fd00:ec2::254]",
		"169.254.170.2.", "169.254.170.2:", "169.254.170.2:1", "169.254.43522", "0xa9feaa02", "169.254.170.2.evil.example", "user@169.254.170.2",
		"fd00:ec2::23", "[FD00:EC2::23]", "[fd00:ec2:0::23]", "[fd00:ec2::23%25lo]", "[fd00:ec2::23]:", "[fd00:ec2::23]:1", "[fd00:ec2::23", "instance-data", "metadata.google.internal",
		"host.docker.internal:PORT", "\t127.0.0.1\t.example", "127.0.0.1\x00", f.hosts[0] + "\x00", f.hosts[0] + ".", f.hosts[0] + " x", f.hosts[0] + ",", "." + f.hosts[0],
	} {
		if !slices.Contains(allowed, strings.ReplaceAll(h, "PORT", f.port)) {
			refused["Host "+h] = f.request("Host: "+h+"\n", "")
		}
	}
	good, rest := f.host(), f.key+"\n"
	target := f.path + " HTTP/1.1\n"
	for name, request := range map[string]string{
		"absolute form":                 "GET http://" + f.hosts[0] + target + good + rest,
		"absolute form over a bad Host": "GET http://" + f.hosts[0] + target + "Host: evil.example\n" + rest,
		"absolute form, evil":           "GET http://evil.example" + target + good + rest,
		"absolute form, upper case":     "GET HTTP://" + f.hosts[0] + target + good + rest,
		"absolute form, no slashes":     "GET x:" + target + good + rest,
		"absolute form without Host":    "GET http://" + f.hosts[0] + target + rest,
		"authority form":                "CONNECT " + f.hosts[0] + " HTTP/1.1\n" + good + rest,
		"asterisk form":                 "OPTIONS * HTTP/1.1\n" + good + rest,
		"no Host":                       "GET " + target + rest,
		"HTTP/1.0 without Host":         "GET " + f.path + " HTTP/1.0\n" + rest,
		"HTTP/1.0 with another Host":    "GET " + f.path + " HTTP/1.0\nHost: evil.example\n" + rest,
		"two Hosts":                     "GET " + target + good + "Host: evil.example\n" + rest,
		"two Hosts, the good one last":  "GET " + target + "Host: evil.example\n" + good + rest,
		"the same Host twice":           "GET " + target + good + good + rest,
		"folded Host":                   "GET " + target + "Host: evil.example\n " + f.hosts[0] + "\n" + rest,
		"folded Host, empty at first":   "GET " + target + "Host:\n evil.example\n" + rest,
		"Host with a space before it":   "GET " + target + " " + good + rest,
		"Host with a space behind it":   "GET " + target + "Host : " + f.hosts[0] + "\n" + rest,
		"another header for Host":       "GET " + target + "X-Host: " + f.hosts[0] + "\n" + rest,
		"X-Forwarded-Host":              "GET " + target + good + "X-Forwarded-Host: " + f.hosts[0] + "\n" + rest,
		"HTTP/2 preface":                "PRI * HTTP/2.0\n\nSM\n\n",
		"HTTP/0.9":                      "GET " + f.path + "\n\n",
	} {
		refused[name] = request
	}
	if len(refused) < 80 {
		t.Fatalf("only %d forms", len(refused))
	}
	before := f.asked()
	for name, request := range refused {
		requests := []string{request}
		if f.puts && strings.HasPrefix(request, "GET ") {
			put := strings.Replace(strings.Replace(request, "GET ", "PUT ", 1), f.path, "/latest/api/token", 1)
			requests = append(requests, strings.Replace(put, "\n", "\nX-aws-ec2-metadata-token-ttl-seconds: 60\n", 1))
		}
		for _, request := range requests {
			a := f.once(t, request)
			if a.leaks() || a.status < 400 || a.status >= 500 && a.status != http.StatusHTTPVersionNotSupported {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
			if !a.closed {
				t.Errorf("%s: the connection stays", name)
			}
		}
	}
	if got := f.asked() - before; got != 0 {
		t.Errorf("the broker was asked %d times", got)
	}
}

// Security row 5: 403 whatever else is right, on every route, and no CORS header.
func TestBrowserAndProxyHeaders(t *testing.T) { everyFront(t, browserTable) }

func browserTable(t *testing.T, f *front) {
	requests := []string{f.request(f.host(), ""), "GET /nowhere HTTP/1.1\n" + f.host() + f.key + "\n", "POST " + f.path + " HTTP/1.1\n" + f.host() + f.key + "\n"}
	if f.puts {
		requests = append(requests, strings.Replace(put("60"), host, f.host(), 1))
	}
	foreign := []string{
		"Origin: http://" + f.hosts[0], "Origin: null", "Origin:", "origin: http://evil.example",
		"Referer: http://evil.example/", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none", "Cookie: a=b",
		"Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization", "Access-Control-Request-Private-Network: true",
		"X-Forwarded-For: 127.0.0.1", "x-forwarded-proto: http", "X-Forwarded-Anything: x", "Forwarded: for=127.0.0.1", "Via: 1.1 proxy",
	}
	usual := []string{"Sec-Fetch-Mode: cors", "Accept: */*", "User-Agent: x", "Accept-Encoding: gzip", "Connection: keep-alive", "Expect:", "Accept-Language: *"}
	linkLocal := strings.HasPrefix(f.hosts[0], "169.254.") || strings.HasPrefix(f.hosts[0], "[fd00:")
	if said := "Accept-Language: en-GB,en;q=0.9"; linkLocal { // all that a page's image need send there
		foreign = append(foreign, said, "Accept-Language: *\nAccept-Language: de")
	} else {
		usual = append(usual, said)
	}
	for _, h := range foreign {
		before := f.asked()
		for _, request := range requests {
			a := f.once(t, strings.TrimSuffix(request, "\n")+h+"\n\n")
			if a.status != http.StatusForbidden || a.leaks() || !a.closed {
				t.Errorf("%s with %s: %d %s", strings.SplitN(request, "\n", 2)[0], h, a.status, a.body)
			}
			for name := range a.header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s: answered with %s", h, name)
				}
			}
		}
		if f.asked() != before {
			t.Errorf("%s: the broker was asked", h)
		}
	}
	e := f.sink.lastRefused(t)
	if e.Err.Cause == nil || e.Caller.Door != f.door || e.Caller.Remote.IsValid() != (f.door != broker.DoorSocket) {
		t.Errorf("the log learns nothing: %+v", e)
	}
	for _, h := range usual {
		a := f.once(t, f.request(f.host(), h+"\n"))
		if a.status != http.StatusOK {
			t.Errorf("%s: %d %s; SDKs send it", h, a.status, a.body)
		}
		for name := range a.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("answered with %s", name)
			}
		}
		if got := a.header.Get("Cross-Origin-Resource-Policy") == "same-origin" && a.header.Get("X-Content-Type-Options") == "nosniff"; got != linkLocal {
			t.Errorf("the body is kept from other pages: %v, want %v", got, linkLocal)
		}
	}
}

// No request hides another one: whoever sends a body, or what some take for the
// beginning of one, gets a single answer without credentials, and loses the connection.
func TestBodies(t *testing.T) { everyFront(t, bodyTable) }

func bodyTable(t *testing.T, f *front) {
	before := f.asked()
	hidden := f.request(f.host(), "")
	var wg sync.WaitGroup // some are waited for, for a quarter of a second
	// s3fs sends its PUT in chunks, of which there is none.
	noChunks := map[string]bool{"chunked, empty": true, "chunked, then another": true, "both": true, "both, length first": true, "both, of no length": true}
	for name, rest := range map[string]string{
		"length":                           "Content-Length: 4\n\nabcd",
		"length, not sent":                 "Content-Length: 4\n\n",
		"long, not sent":                   "Content-Length: 1000000\n\n",
		"chunked":                          "Transfer-Encoding: chunked\n\n4\nabcd\n0\n\n",
		"chunked, empty":                   "Transfer-Encoding: chunked\n\n0\n\n",
		"chunked, not sent":                "Transfer-Encoding: chunked\n\n",
		"chunked, then another":            "Transfer-Encoding: chunked\n\n0\n\n" + hidden,
		"chunked, bad size":                "Transfer-Encoding: chunked\n\nxyz\n" + hidden,
		"chunked, negative size":           "Transfer-Encoding: chunked\n\n-1\n" + hidden,
		"chunked, huge size":               "Transfer-Encoding: chunked\n\nffffffffffffffffff\n" + hidden,
		"chunked with a trailer":           "Transfer-Encoding: chunked\nTrailer: Host\n\n0\nHost: evil.example\n\n" + hidden,
		"both":                             "Transfer-Encoding: chunked\nContent-Length: 4\n\n0\n\n",
		"both, length first":               "Content-Length: 4\nTransfer-Encoding: chunked\n\n0\n\n" + hidden,
		"both, of no length":               "Content-Length: 0\nTransfer-Encoding: chunked\n\n0\n\n" + hidden,
		"two lengths":                      "Content-Length: 4\nContent-Length: 0\n\nabcd",
		"two lengths, none first":          "Content-Length: 0\nContent-Length: 44\n\n" + hidden,
		"lengths in a list":                "Content-Length: 0, 44\n\n" + hidden,
		"length with a sign":               "Content-Length: +0\n\n" + hidden,
		"negative length":                  "Content-Length: -1\n\n" + hidden,
		"length in hex":                    "Content-Length: 0x0\n\n" + hidden,
		"length with a word":               "Content-Length: 0 x\n\n" + hidden,
		"length beyond all bounds":         "Content-Length: 99999999999999999999\n\n" + hidden,
		"another coding":                   "Transfer-Encoding: gzip\n\nabcd",
		"identity":                         "Transfer-Encoding: identity\n\n" + hidden,
		"two codings":                      "Transfer-Encoding: gzip, chunked\n\n0\n\n" + hidden,
		"two coding headers":               "Transfer-Encoding: chunked\nTransfer-Encoding: identity\n\n0\n\n" + hidden,
		"a coding that looks like chunked": "Transfer-Encoding: \x0bchunked\n\n0\n\n" + hidden,
		"a space before the colon":         "Transfer-Encoding : chunked\n\n0\n\n" + hidden,
		"a space before the length":        "Content-Length : 44\n\n" + hidden,
		"a carriage return in a header":    "X: a\rTransfer-Encoding: chunked\n\n0\n\n" + hidden,
		"a zero in a header":               "X: a\x00\n\n" + hidden,
		"a zero in a header's name":        "X\x00: a\n\n" + hidden,
		"a line that is no header":         "GET / HTTP/1.1\n\n" + hidden,
		"a header without a name":          ": chunked\n\n" + hidden,
		"expect":                           "Content-Length: 4\nExpect: 100-continue\n\n",
		"expect what nobody knows":         "Expect: 200-ok\n\n",
		"a request in the body":            "Content-Length: 100\n\n" + hidden,
	} {
		firsts := []string{strings.TrimSuffix(hidden, "\n")}
		if f.puts {
			firsts = append(firsts, strings.TrimSuffix(strings.Replace(put("60"), host, f.host(), 1), "\n"))
		}
		for i, first := range firsts {
			wg.Go(func() {
				c := f.dial(t, f.addr)
				a := c.do(first + rest)
				if served := i == 1 && noChunks[name]; (a.status == http.StatusOK) != served || !served && (a.leaks() || a.status < 400) || !a.closed {
					t.Errorf("%s: %d, closed %v: %s", name, a.status, a.closed, a.body)
				}
				if err := c.gone(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
	}
	wg.Wait()
	if got := f.asked() - before; got != 0 {
		t.Errorf("the broker was asked %d times", got)
	}
	// net/http overlooks Transfer-Encoding in HTTP/1.0; what follows must not become a request.
	c := f.dial(t, f.addr)
	old := strings.Replace(f.request(f.host(), "Connection: keep-alive\nTransfer-Encoding: chunked\n"), "HTTP/1.1", "HTTP/1.0", 1)
	if a := c.do(old + hidden); !a.closed {
		t.Error("HTTP/1.0: the connection stays")
	}
	if err := c.gone(); err != nil {
		t.Errorf("HTTP/1.0: %v", err)
	}
	// No body, and said so. What follows is a request of its own, and looked at as one.
	c = f.dial(t, f.addr)
	if a := c.do(f.request(f.host(), "Content-Length: 0\n") + f.request("Host: evil.example\n", "") + hidden); a.status != http.StatusOK {
		t.Errorf("no body, and said so: %d", a.status)
	}
	if a := c.do(""); a.status != http.StatusForbidden || a.leaks() || !a.closed {
		t.Errorf("another Host behind a good request: %d, closed %v", a.status, a.closed)
	}
	if err := c.gone(); err != nil {
		t.Errorf("behind a refused request: %v", err)
	}
}

// The header as a whole may have 8 KB.
func TestHeaderLimit(t *testing.T) { everyFront(t, sizeTable) }

func sizeTable(t *testing.T, f *front) {
	whole := f.request(f.host(), "")
	begun := strings.TrimSuffix(whole, "\n")
	before := f.asked()
	for name, c := range map[string]struct {
		request string
		want    int
	}{
		"7 KB of one header":     {begun + "X: " + strings.Repeat("x", 7<<10) + "\n\n", http.StatusOK},
		"9 KB of one header":     {begun + "X: " + strings.Repeat("x", 9<<10) + "\n\n", http.StatusRequestHeaderFieldsTooLarge},
		"9 KB of headers":        {begun + strings.Repeat("X: xxxxxxxxxx\n", 9<<10/14+1) + "\n", http.StatusRequestHeaderFieldsTooLarge},
		"9 KB of path":           {strings.Replace(whole, " HTTP/1.1", strings.Repeat("x", 9<<10)+" HTTP/1.1", 1), http.StatusRequestHeaderFieldsTooLarge},
		"9 KB of Host":           {f.request("Host: "+strings.Repeat("x", 9<<10)+"\n", ""), http.StatusRequestHeaderFieldsTooLarge},
		"9 KB of method":         {strings.Repeat("G", 9<<10) + whole, http.StatusRequestHeaderFieldsTooLarge},
		"900 KB, never finished": {begun + "X: " + strings.Repeat("x", 900<<10), http.StatusRequestHeaderFieldsTooLarge},
	} {
		conn := f.dial(t, f.addr)
		done := make(chan struct{})
		go func() { // the server may stop reading
			defer close(done)
			_, _ = io.WriteString(conn.Conn, onWire(c.request, f.port))
		}()
		resp, err := http.ReadResponse(conn.r, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if resp.StatusCode != c.want || resp.Close != (c.want != http.StatusOK) {
			t.Errorf("%s: %d, want %d; closed %v", name, resp.StatusCode, c.want, resp.Close)
		}
		_ = conn.Close()
		<-done
	}
	if got := f.asked() - before; got > 1 { // the one of 7 KB
		t.Errorf("the broker was asked %d times", got)
	}
}

// Security row 13: who never finishes a request is gone after 3.5 s, at whatever
// door, and meanwhile others are served.
func TestSlowloris(t *testing.T) {
	n := 2000
	if testing.Short() {
		n = 200
	}
	if most := (maxFiles() - 300) / 2; n > most { // both ends are ours
		t.Logf("only %d connections: no more descriptors may be open here", most)
		n = most
	}
	all := fronts()
	doors := []*front{all["container"](t)}
	if runtime.GOOS == "linux" {
		doors = append(doors, all["IMDS"](t), all["container without a token"](t))
	}
	// Both ends and all that drips share this machine with other tests, so that one
	// round may be late for no fault of the doors. A door that keeps somebody keeps
	// them in every round.
	const rounds = 3
	for round := 1; ; round++ {
		held := slowloris(t, doors, n)
		if held == 0 {
			return
		}
		t.Logf("round %d: %d of %d held after 3.5 s", round, held, n)
		if round == rounds {
			t.Fatalf("held after 3.5 s in each of %d rounds", rounds)
		}
	}
}

// slowloris opens n connections that never finish a request, and returns how many
// were still open after 3.5 s.
func slowloris(t *testing.T, doors []*front, n int) int64 {
	t.Helper()
	var (
		held    atomic.Int64
		wg      sync.WaitGroup
		dialing sync.WaitGroup
	)
	dialing.Add(n)
	for i := range n {
		wg.Go(func() {
			door := doors[i%len(doors)]
			c, err := net.Dial("tcp", door.addr)
			dialing.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			end := time.Now().Add(3500 * time.Millisecond)
			_ = c.SetDeadline(end)
			whole := onWire(door.request(door.host(), "X: "), door.port)
			var sent string // a quarter each: nothing, a line, a header without end, a body that never comes
			kind := i / len(doors) % 4
			switch kind {
			case 1:
				sent = whole[:strings.Index(whole, "\n")+1]
			case 2:
				sent = strings.TrimSuffix(whole, "\r\n")
			case 3:
				sent = onWire(door.request(door.host(), "Content-Length: 1000000\n"), door.port)
			}
			_, _ = io.WriteString(c, sent)
			if kind >= 2 {
				drip := time.NewTicker(500 * time.Millisecond)
				defer drip.Stop()
				stop := make(chan struct{})
				defer close(stop)
				go func() {
					for {
						select {
						case <-drip.C:
							_, _ = c.Write([]byte{'x'})
						case <-stop:
							return
						}
					}
				}()
			}
			_, err = io.Copy(io.Discard, c)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				held.Add(1)
			}
		})
	}
	dialing.Wait()
	for range 50 {
		for _, door := range doors {
			if a := door.once(t, door.request(door.host(), "")); a.status != http.StatusOK {
				t.Errorf("an honest caller: %d", a.status)
			}
		}
	}
	wg.Wait()
	return held.Load()
}
