package metadata

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

// serverEnv makes the test binary a server for [BenchmarkDoor]: "bare" or
// "door". In a process of its own, its CPU time is the server's alone.
const serverEnv = "STSBROKER_BENCH_SERVER"

func TestMain(m *testing.M) {
	if which := os.Getenv(serverEnv); which != "" {
		if err := benchServer(which); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// hashed is a token check with the work of the real one: look up by id, hash,
// compare in constant time.
type hashed map[string]struct {
	hash  [sha256.Size]byte
	grant broker.Grant
}

const benchToken = "sbt_0123456789abcdef_0123456789012345678901234567890123456789012"

func (h hashed) Authenticate(token string) (*broker.Grant, error) {
	if len(token) == len(benchToken) {
		if k, ok := h[token[4:20]]; ok {
			var buf [len(benchToken)]byte
			copy(buf[:], token)
			if sum := sha256.Sum256(buf[:]); subtle.ConstantTimeCompare(sum[:], k.hash[:]) == 1 {
				return &k.grant, nil
			}
		}
	}
	return nil, &broker.Error{Kind: broker.KindUnauthorized}
}

// benchServer prints its address, then its CPU time in nanoseconds for each
// line that it reads, until there are no more.
func benchServer(which string) error {
	counts := &sink{}
	b := broker.New(broker.Options{Store: noStore{}, Access: everybody{}, Observer: counts})
	go func() { _ = b.Run(context.Background()) }()
	b.Reload([]broker.Profile{{Name: "dev", Minter: minter{life: time.Hour}, Origin: "bench:1"}})
	set, err := b.Get(context.Background(), broker.Ask{Profile: "dev", Patience: time.Minute})
	if err != nil {
		return err
	}

	var (
		l      net.Listener
		server *http.Server
	)
	switch which {
	case "door":
		listeners, _, err := listen.TCP(context.Background(), "127.0.0.1:0")
		if err != nil {
			return err
		}
		grant := hashed{benchToken[4:20]: {sha256.Sum256([]byte(benchToken)), broker.Grant{ID: benchToken[4:20], Profiles: []string{"dev"}}}}
		l, server = listeners[0], NewServer(NewContainer(Container{Source: b, Tokens: grant, Requests: counts, Observer: counts}), func(string) {})
	case "bare":
		out, err := render(set)
		if err != nil {
			return err
		}
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
		server = &http.Server{Handler: bareHandler(out.body)} //nolint:gosec // bare is the point
	}
	go func() { _ = server.Serve(l) }()
	fmt.Println(l.Addr())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println(cpuTime().Nanoseconds())
	}
	return nil
}

// benchChild is such a process.
type benchChild struct {
	addr string
	in   io.WriteCloser
	out  *bufio.Reader
}

func startChild(b *testing.B, which string) *benchChild {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverEnv+"="+which)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	c := &benchChild{in: in, out: bufio.NewReader(out)}
	c.addr = strings.TrimSpace(c.line(b))
	return c
}

func (c *benchChild) line(b *testing.B) string {
	s, err := c.out.ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func (c *benchChild) cpu(b *testing.B) (d time.Duration) {
	if _, err := io.WriteString(c.in, "\n"); err != nil {
		b.Fatal(err)
	}
	if _, err := fmt.Sscan(c.line(b), &d); err != nil {
		b.Fatal(err)
	}
	return d
}

// tally is what was measured of one server.
type tally struct {
	requests  int64
	took, cpu time.Duration // cpu is the server's
}

func (t tally) perSecond() float64 { return float64(t.requests) / t.took.Seconds() }

func (t tally) cpuEach() float64 { return float64(t.cpu.Nanoseconds()) / 1000 / float64(t.requests) } // µs

// load sends requests on all connections for a while.
func (c *benchChild) load(b *testing.B, conns []*benchConn, d time.Duration, sum *tally) {
	before, began := c.cpu(b), time.Now()
	var (
		count atomic.Int64
		stop  atomic.Bool
		wg    sync.WaitGroup
	)
	for _, conn := range conns {
		wg.Go(func() {
			n := int64(0)
			for ; !stop.Load(); n++ {
				if err := conn.roundTrip(); err != nil {
					b.Error(err)
					return
				}
			}
			count.Add(n)
		})
	}
	time.Sleep(d)
	stop.Store(true)
	wg.Wait()
	sum.requests += count.Load()
	sum.took += time.Since(began)
	sum.cpu += c.cpu(b) - before
}

// benchConn asks as an SDK does, and reads answers that are all of one length.
type benchConn struct {
	net.Conn
	request, answer []byte
}

func dialBench(b *testing.B, addr string) *benchConn {
	b.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	conn := &benchConn{Conn: c, request: fmt.Appendf(nil,
		"GET /credentials/dev HTTP/1.1\r\nHost: %s\r\nUser-Agent: aws-sdk-go-v2/1.41.0\r\nAccept: application/json\r\nAuthorization: %s\r\nAccept-Encoding: gzip\r\n\r\n",
		addr, benchToken)}
	if _, err := c.Write(conn.request); err != nil {
		b.Fatal(err)
	}
	first := &strings.Builder{}
	resp, err := http.ReadResponse(bufio.NewReader(io.TeeReader(c, first)), nil)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		b.Fatal(resp.Status, err)
	}
	conn.answer = make([]byte, first.Len())
	return conn
}

func (c *benchConn) roundTrip() error {
	if _, err := c.Write(c.request); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, c.answer); err != nil {
		return err
	}
	if s := string(c.answer[:15]); s != "HTTP/1.1 200 OK" {
		return fmt.Errorf("answered %q", s)
	}
	return nil
}

// BenchmarkDoor compares the door, with token check, guard, broker and limits
// on, with a zero http.Server whose handler writes the same bytes. Figures are
// medians of five runs; in each the two take turns of 50 ms, so
// that what else the machine does falls on both.
//
//	ratio         requests a second: door by bare (at least 0.90)
//	added-µs/req  server CPU a request that the door costs more (at most 3)
func BenchmarkDoor(b *testing.B) {
	const (
		runs  = 5
		turns = 20
		turn  = 50 * time.Millisecond
	)
	bare, door := startChild(b, "bare"), startChild(b, "door")
	for _, n := range []int{16, 128} {
		b.Run(fmt.Sprintf("connections=%d", n), func(b *testing.B) {
			var bareConns, doorConns []*benchConn
			for range n {
				bareConns = append(bareConns, dialBench(b, bare.addr))
				doorConns = append(doorConns, dialBench(b, door.addr))
			}
			for range b.N {
				var ratio, added, bareSpeed, doorSpeed []float64
				for range runs {
					var ofBare, ofDoor tally
					for range turns {
						bare.load(b, bareConns, turn, &ofBare)
						door.load(b, doorConns, turn, &ofDoor)
					}
					bareSpeed, doorSpeed = append(bareSpeed, ofBare.perSecond()), append(doorSpeed, ofDoor.perSecond())
					ratio = append(ratio, ofDoor.perSecond()/ofBare.perSecond())
					added = append(added, ofDoor.cpuEach()-ofBare.cpuEach())
				}
				b.ReportMetric(median(ratio), "ratio")
				b.ReportMetric(median(added), "added-µs/req")
				b.ReportMetric(median(bareSpeed), "bare-req/s")
				b.ReportMetric(median(doorSpeed), "door-req/s")
				b.ReportMetric(0, "ns/op")
			}
		})
	}
}

func median(v []float64) float64 { return slices.Sorted(slices.Values(v))[len(v)/2] }
