package metadata

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

func TestSecondFactor(t *testing.T) {
	me := uint32(os.Geteuid())
	r := start(t, grants{
		"mine":   {ID: "mine", Profiles: []string{"dev"}, BoundUID: true, UID: me},
		"theirs": {ID: "theirs", Profiles: []string{"dev"}, BoundUID: true, UID: me + 1},
		"free":   {ID: "free", Profiles: []string{"dev"}, UID: me + 1}, // UID without BoundUID says nothing
	})
	kernelTells := runtime.GOOS == "linux"
	for token, want := range map[string]bool{
		"mine":   kernelTells,
		"theirs": kernelTells && me == 0, // root is inside the boundary
		"free":   true,
	} {
		a := r.once(t, line+host+"Authorization: "+token+"\n\n")
		if got := a.status == http.StatusOK; got != want || !got && a.status != http.StatusForbidden {
			t.Errorf("%s: %d %s", token, a.status, a.body)
		}
		if a.status != http.StatusOK {
			if e := r.sink.lastRefused(t); e.Err.Cause == nil || e.Caller.Token != token {
				t.Errorf("%s: observed %+v", token, e)
			}
			if strings.Contains(a.body, fmt.Sprint(me+1)) {
				t.Errorf("%s: told too much: %s", token, a.body)
			}
			continue
		}
		uid, known := r.source.lastAsk().Caller.Peer.UID()
		if known != (token != "free") || known && uid != me {
			t.Errorf("%s: asked as uid %d, known %v", token, uid, known)
		}
	}
	if r.source.lastAsk().Patience != ContainerPatience || r.source.lastAsk().Caller.Door != broker.DoorContainer {
		t.Errorf("asked: %+v", r.source.lastAsk())
	}
}

// A connection whose caller cannot be told is refused, though it may look like
// uid 0: here a connection that is no socket.
func TestSecondFactorUnknown(t *testing.T) {
	source := &sets{m: map[string]*broker.Set{"dev": newSet(t, time.Hour)}}
	door := NewContainer(Container{
		Source: source, Requests: &sink{}, Observer: &sink{},
		Tokens: grants{goodToken: {ID: "root", Profiles: []string{"dev"}, BoundUID: true, UID: 0}},
	})
	w := httptest.NewRecorder()
	door.ServeHTTP(w, offline(t, "/credentials/dev"))
	if w.Code != http.StatusForbidden || source.gets.Load() != 0 {
		t.Fatalf("%d, the broker was asked %d times", w.Code, source.gets.Load())
	}
}

// gated tells a token apart by its connection's number and holds it until that
// connection's client has gone.
type gated struct {
	grant broker.Grant // its ID becomes the connection's number
	gone  []chan struct{}
	sure  sync.WaitGroup // requests that cannot be lost on the way
	seen  atomic.Int64
}

// lossy reports whether a connection is reset, so that its request may be lost.
func lossy(i int) bool { return i%4 == 0 }

func (g *gated) Authenticate(token string) (*broker.Grant, error) {
	var i int
	if _, err := fmt.Sscanf(token, "conn-%d", &i); err != nil {
		return nil, err
	}
	<-g.gone[i]
	g.seen.Add(1)
	if !lossy(i) {
		g.sure.Done()
	}
	grant := g.grant
	grant.ID = strconv.Itoa(i)
	return &grant, nil
}

// numbered notes whose requests came to the broker.
type numbered struct {
	sets
	served []int
}

func (n *numbered) Get(ctx context.Context, a broker.Ask) (*broker.Set, error) {
	i, err := strconv.Atoi(a.Caller.Token)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.served = append(n.served, i)
	n.mu.Unlock()
	return n.sets.Get(ctx, a)
}

// Security row 4: after a client closes, the kernel's table says uid 0, inode 0.
// A connection that was reset leaves its ports to whoever connects next, so that a
// request on it may be taken for theirs; nobody is left to read the answer.
func TestEarlyCloseIsNeverServed(t *testing.T) {
	n := 10_000
	if testing.Short() {
		n = 1000
	}
	tokens := &gated{
		grant: broker.Grant{Profiles: []string{"dev"}, BoundUID: true, UID: uint32(os.Geteuid())},
		gone:  make([]chan struct{}, n),
	}
	for i := range tokens.gone {
		tokens.gone[i] = make(chan struct{})
		if !lossy(i) {
			tokens.sure.Add(1)
		}
	}
	source := &numbered{sets: sets{m: map[string]*broker.Set{"dev": newSet(t, time.Hour)}}}
	r := &running{sink: &sink{}}
	r.serve(t, NewContainer(Container{Source: source, Tokens: tokens, Requests: r.sink, Observer: r.sink}))

	next := atomic.Int64{}
	var ports sync.Mutex
	used := map[string]int{} // how often each was a client's
	port := make([]string, n)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				c, err := net.Dial("tcp", r.addr)
				if err != nil {
					panic(err) // else we would wait for its request
				}
				ports.Lock()
				port[i] = c.LocalAddr().String()
				used[port[i]]++
				ports.Unlock()
				_, _ = fmt.Fprintf(c, "GET /credentials/dev HTTP/1.1\r\nHost: localhost\r\nAuthorization: conn-%d\r\n\r\n", i)
				if lossy(i) {
					_ = c.(*net.TCPConn).SetLinger(0)
				}
				_ = c.Close()
				close(tokens.gone[i])
			}
		})
	}
	wg.Wait()
	tokens.sure.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.server.Shutdown(ctx); err != nil { // every request has been answered
		t.Fatal(err)
	}
	for _, i := range source.served {
		if !lossy(i) || used[port[i]] < 2 {
			t.Errorf("early closer %d was served (reset: %v), and its port had %d clients", i, lossy(i), used[port[i]])
		}
	}
	seen, refused := tokens.seen.Load(), r.sink.counts[http.StatusForbidden].Load()
	if served := int64(len(source.served)); refused+served != seen || served > int64(n)/10 {
		t.Errorf("%d of %d requests came to the check, %d were refused, %d served to nobody", seen, n, refused, served)
	}
}

// recorder is a ResponseWriter that allocates nothing.
type recorder struct {
	h http.Header
	n int
}

func (w *recorder) Header() http.Header         { return w.h }
func (w *recorder) Write(p []byte) (int, error) { w.n += len(p); return len(p), nil }
func (w *recorder) WriteHeader(int)             {}

// warm returns a request on a real connection, and what answers it.
func warm(t testing.TB, path string, grant *broker.Grant) (http.Handler, *http.Request) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.Close(), s.Close() })

	_, port, _ := net.SplitHostPort(l.Addr().String())
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = "127.0.0.1:" + port
	r.Header = http.Header{"Authorization": {goodToken}, "User-Agent": {"aws-sdk-go-v2/1.41"}, "Accept-Encoding": {"gzip"}, "Amz-Sdk-Request": {"attempt=1"}}
	r = r.WithContext(listen.ConnContext(context.Background(), s))
	counts := &sink{}
	return NewContainer(Container{
		Source: newBroker(t, "dev", minter{life: time.Hour}), Tokens: grants{goodToken: grant}, Requests: counts, Observer: counts,
	}), r
}

// A warm request allocates nothing: guard, token, second factor, broker,
// rendering and headers together.
func TestWarmRequestAllocatesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		path  string
		grant *broker.Grant
	}{
		"profile": {"/credentials/dev", &broker.Grant{ID: "a", Profiles: []string{"dev"}}},
		"default": {"/credentials", &broker.Grant{ID: "a", Profiles: []string{"dev"}}},
		"bound":   {"/credentials/dev/", &broker.Grant{ID: "a", Profiles: []string{"dev"}, BoundUID: true, UID: uint32(os.Geteuid())}},
	} {
		if name == "bound" && runtime.GOOS != "linux" {
			continue // refused there
		}
		h, r := warm(t, c.path, c.grant)
		w := &recorder{h: http.Header{}}
		h.ServeHTTP(w, r) // mints, renders, asks the kernel
		body := w.n
		if body == 0 || w.h.Get("Content-Length") != fmt.Sprint(body) {
			t.Fatalf("%s: no answer: %v", name, w.h)
		}
		bare := bareHandler(make([]byte, body))
		measure := func(h http.Handler) float64 {
			return testing.AllocsPerRun(1000, func() {
				clear(w.h)
				h.ServeHTTP(w, r)
			})
		}
		if ours, theirs := measure(h), measure(bare); ours != theirs || ours != 0 {
			t.Errorf("%s: %v allocations a request, %v by a bare handler", name, ours, theirs)
		}
	}
}

// bareHandler writes a fixed answer with the headers of ours, and nothing else.
func bareHandler(body []byte) http.Handler {
	length := []string{strconv.Itoa(len(body))}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeHeader(w, jsonValue, length)
		_, _ = w.Write(body)
	})
}

// What is kept grows with the profiles that exist, not with those asked for,
// and what has expired goes.
func TestRenderingsAreBounded(t *testing.T) {
	r := start(t, nil)
	door := &container{refuser: refuser{requests: r.sink, observer: r.sink}, rendered: renderings{in: containerBody}, Container: Container{Source: r.source, Tokens: grants{goodToken: {ID: "good", Profiles: []string{"dev", "new"}}}}}
	ask := func(name string) {
		r := offline(t, "/credentials/"+url.PathEscape(name))
		door.serve(httptest.NewRecorder(), r, listen.FromContext(r.Context()))
	}
	ask("dev")
	first := (*door.rendered.m.Load())["dev"]
	for i := range 1000 {
		ask(fmt.Sprint("random-", i))
		ask("dev")
	}
	if m := *door.rendered.m.Load(); len(m) != 1 || m["dev"] != first {
		t.Errorf("%d kept; rendered again: %v", len(m), m["dev"] != first)
	}

	// A new set is rendered, and takes the old one's place.
	renewed := *r.source.m["dev"]
	renewed.AccessKeyID = "ASIARENEWED"
	r.source.m["dev"] = &renewed
	ask("dev")
	if m := *door.rendered.m.Load(); len(m) != 1 || !strings.Contains(string(m["dev"].body), "ASIARENEWED") {
		t.Errorf("the old set is still served: %s", m["dev"].body)
	}

	// The last set of a profile that is gone does not outlive it for ever.
	renewed.Expires = renewed.Issued
	r.source.m["new"] = newSet(t, time.Hour)
	ask("new")
	if m := *door.rendered.m.Load(); len(m) != 1 || m["new"] == nil {
		t.Errorf("expired bodies are kept: %d", len(m))
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/credentials/dev", "//credentials//", "/credentials/a%2Fb/", "/credentials/%2f", "/credentialsx", "/credentials/..%2f", "/role-arn/arn:aws:iam::123456789012:role/a/b", "/role-arn/", "/v1/credentials", "/v1/credentialsx", "/", "*", "/credentials/\xff%00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// As a target off the wire.
		if u, err := url.ParseRequestURI(s); err == nil {
			path := strings.TrimLeft(u.Path, "/")
			profile, arn, ok := target(u)
			switch {
			case profile != "" && (arn != "" || !strings.HasPrefix(path, "credentials/")),
				arn != "" && !strings.HasPrefix(path, "role-arn/arn:") && strings.HasPrefix(arn, "arn:"),
				!ok && profile+arn != "",
				ok && !strings.HasPrefix(path, "credentials") && !strings.HasPrefix(path, "v1/credentials") && !strings.HasPrefix(path, "role-arn/"):
				t.Fatalf("%q is the profile %q, the role %q, %v", s, profile, arn, ok)
			}
		}
		// As a name: it comes out as it went in, with and without a trailing slash.
		if s == "" {
			return
		}
		for _, tail := range []string{"", "/"} {
			for _, folder := range []string{"/credentials/", "/role-arn/"} {
				u, err := url.ParseRequestURI(folder + url.PathEscape(s) + tail)
				if err != nil {
					t.Fatal(err)
				}
				if profile, arn, ok := target(u); !ok || profile+arn != s || (arn != "") != (folder == "/role-arn/") {
					t.Fatalf("%s%q%s became %q, %q, %v", folder, s, tail, profile, arn, ok)
				}
			}
		}
	})
}

func BenchmarkWarmHandler(b *testing.B) {
	h, r := warm(b, "/credentials/dev", &broker.Grant{ID: "a", Profiles: []string{"dev"}})
	w := &recorder{h: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.h)
		h.ServeHTTP(w, r)
	}
}
