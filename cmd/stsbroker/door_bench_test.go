package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// bareEnv makes the test binary a plain net/http server that answers with the
// contents of the file it names: what [BenchmarkDoor] compares with.
const bareEnv = "STSBROKER_BENCH_BARE"

func serveBare(file string) error {
	body, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	length := strconv.Itoa(len(body))
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until the benchmark is over
		_ = l.Close()
	}()
	_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { //nolint:gosec // bare is the point
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", length)
		h.Set("Cache-Control", "no-store")
		_, _ = w.Write(body)
	}))
	return nil
}

// BenchmarkDoor compares the shipped program, token check and metrics on, with a
// zero http.Server in a process of its own whose handler writes the same
// bytes. Figures are medians of five runs; in each the two take turns of 50 ms,
// so that what else the machine does falls on both.
//
//	ratio         requests a second: door by bare (at least 0.90)
//	added-µs/req  server CPU a request that the door costs more (at most 3)
func BenchmarkDoor(b *testing.B) {
	const (
		runs  = 5
		turns = 20
		turn  = 50 * time.Millisecond
	)
	if _, err := os.Stat("/proc/self/task"); err != nil {
		b.Skip("not run: there is no /proc on this system to read CPU times from")
	}
	fake := stsfake.New()
	run, err := fake.Start("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer run.Close()
	r := newRig(b, shipped(b), run.URL, "", fake, 1)
	pid, stop := r.serve(b)
	defer stop()
	r.wait(b)
	door := &target{pid: pid, addr: "127.0.0.1:" + r.port, token: r.token(b, 1)}
	bare := startBare(b, door.dial(b).first)
	bare.token = door.token
	for _, n := range []int{16, 128} {
		b.Run(fmt.Sprintf("connections=%d", n), func(b *testing.B) {
			var bareConns, doorConns []*asker
			for range n {
				bareConns, doorConns = append(bareConns, bare.dial(b)), append(doorConns, door.dial(b))
			}
			for b.Loop() {
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
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func median(v []float64) float64 { return slices.Sorted(slices.Values(v))[len(v)/2] }

// target is a server in a process of its own.
type target struct {
	pid   int
	addr  string
	token string
}

// startBare starts the bare server, answering with the body of a whole answer.
func startBare(b *testing.B, answer string) *target {
	b.Helper()
	_, body, _ := strings.Cut(answer, "\r\n\r\n")
	file := filepath.Join(b.TempDir(), "body")
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := testBinary(b)
	cmd.Env = append(os.Environ(), bareEnv+"="+file)
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
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return &target{pid: cmd.Process.Pid, addr: strings.TrimSpace(addr)}
}

// cpu is the time that all threads of the server ran, which schedstat counts in
// nanoseconds (Documentation/scheduler/sched-stats.rst of the kernel).
func (t *target) cpu(b *testing.B) (sum time.Duration) {
	b.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", t.pid))
	if err != nil || len(files) == 0 {
		b.Fatal("no schedstat", err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // a thread that just ended
		}
		var ns int64
		if _, err := fmt.Sscan(string(data), &ns); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(ns)
	}
	return sum
}

// tally is what was measured of one server.
type tally struct {
	requests  int64
	took, cpu time.Duration // cpu is the server's
}

func (t tally) perSecond() float64 { return float64(t.requests) / t.took.Seconds() }

func (t tally) cpuEach() float64 { return float64(t.cpu.Nanoseconds()) / 1000 / float64(t.requests) } // µs

// load sends requests on all connections for a while.
func (t *target) load(b *testing.B, conns []*asker, d time.Duration, sum *tally) {
	before, began := t.cpu(b), time.Now()
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
	sum.cpu += t.cpu(b) - before
}

// asker asks as an SDK does, and reads answers that are all of one length.
type asker struct {
	net.Conn
	request, answer []byte
	first           string // the whole first answer
}

func (t *target) request() []byte {
	return fmt.Appendf(nil,
		"GET /credentials/p0 HTTP/1.1\r\nHost: %s\r\nUser-Agent: aws-sdk-go-v2/1.41.0\r\nAccept: application/json\r\nAuthorization: %s\r\nAccept-Encoding: gzip\r\n\r\n",
		t.addr, t.token)
}

// status asks once on a connection and returns the answer's status.
func (t *target) status(c net.Conn) (int, error) {
	if _, err := c.Write(t.request()); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func (t *target) dial(b *testing.B) *asker {
	b.Helper()
	c, err := net.Dial("tcp", t.addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	a := &asker{Conn: c, request: t.request()}
	if _, err := c.Write(a.request); err != nil {
		b.Fatal(err)
	}
	whole := &strings.Builder{}
	resp, err := http.ReadResponse(bufio.NewReader(io.TeeReader(c, whole)), nil)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		b.Fatal(resp.Status, err)
	}
	a.first, a.answer = whole.String(), make([]byte, whole.Len())
	return a
}

func (a *asker) roundTrip() error {
	if _, err := a.Write(a.request); err != nil {
		return err
	}
	if _, err := io.ReadFull(a, a.answer); err != nil {
		return err
	}
	if s := string(a.answer[:15]); s != "HTTP/1.1 200 OK" {
		return fmt.Errorf("answered %q", s)
	}
	return nil
}

// BenchmarkColdDoors: cold callers at once, STS answering in 2 s, each as an SDK asks:
// the container door with one request on a connection of its own, which is timed with
// its dialling; the IMDS door with a PUT, the list and the leaf on one connection. They share
// the cores with the server. Figures are of one run.
//
//	p99-ms, slowest-ms   until the first answer, 503: the leaf's (less than 450) or the container's (850)
//	token-p99-ms, list-p99-ms   of the IMDS door
//	retried-ok           whose own retry succeeds when STS has answered (all)
func BenchmarkColdDoors(b *testing.B) {
	fake := stsfake.New()
	run, err := fake.Start("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer run.Close()
	r := newRig(b, shipped(b), run.URL, "", fake, 1)
	imds := "127.0.0.1:" + freePort(b)
	doors := map[string]string{
		"container": fmt.Sprintf("listen: { container: [\"127.0.0.1:%s\"], socket: off }\n", r.port),
		"imds":      fmt.Sprintf("listen: { container: [\"127.0.0.1:%s\"], socket: off, imds: [{ address: %q, profile: p0 }] }\n", r.port, imds),
	}
	for _, door := range []string{"imds", "container"} {
		for _, callers := range []int{50, 1000} {
			b.Run(fmt.Sprintf("door=%s/callers=%d", door, callers), func(b *testing.B) {
				if door == "imds" && runtime.GOOS != "linux" {
					b.Skip("not run: IMDS is served on Linux only")
				}
				if err := os.WriteFile(filepath.Join(r.home, ".config/stsbroker/stsbroker.yaml"), []byte(doors[door]), 0o600); err != nil {
					b.Fatal(err)
				}
				for b.Loop() {
					fake.SetFault(stsfake.Fault{Delay: 2 * time.Second})
					began := time.Now() // an IMDS profile is minted from the start on
					_, stop := r.serve(b)
					r.wait(b)
					ask := (&coldIMDS{addr: imds}).ask
					if door == "container" {
						ask = (&coldContainer{target{addr: "127.0.0.1:" + r.port, token: r.token(b, 1)}}).ask
						began = time.Now()
					}
					answered := began.Add(2500 * time.Millisecond)
					var (
						mu                 sync.Mutex
						first, token, list []time.Duration
						good               atomic.Int64
						wg                 sync.WaitGroup
					)
					for range callers {
						wg.Go(func() {
							took, err := ask(answered)
							mu.Lock()
							first, token, list = append(first, took.first), append(token, took.token), append(list, took.list)
							mu.Unlock()
							if err != nil {
								b.Error(err)
								return
							}
							good.Add(1)
						})
					}
					wg.Wait()
					b.ReportMetric(milliseconds(percentile99(first)), "p99-ms")
					b.ReportMetric(milliseconds(slices.Max(first)), "slowest-ms")
					if door == "imds" {
						b.ReportMetric(milliseconds(percentile99(token)), "token-p99-ms")
						b.ReportMetric(milliseconds(percentile99(list)), "list-p99-ms")
					}
					b.ReportMetric(float64(good.Load()), "retried-ok")
					if door == "container" {
						r.run(b, "token", "revoke", "bench")
					}
					stop()
				}
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

func percentile99(v []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(v))[(len(v)*99+99)/100-1]
}

// coldTimes are how long one caller waited for the first answer about credentials,
// and for what comes before it.
type coldTimes struct{ first, token, list time.Duration }

// coldContainer asks the container door.
type coldContainer struct{ target }

// ask wants 503, and 200 after answered.
func (d *coldContainer) ask(answered time.Time) (took coldTimes, err error) {
	began := time.Now()
	c, err := net.Dial("tcp", d.addr)
	if err != nil {
		return took, err
	}
	defer c.Close()
	status, err := d.status(c)
	took.first = time.Since(began)
	if err == nil && status != http.StatusServiceUnavailable {
		err = fmt.Errorf("cold: %d", status)
	}
	if err != nil {
		return took, err
	}
	time.Sleep(time.Until(answered))
	if status, err = d.status(c); err == nil && status != http.StatusOK {
		err = fmt.Errorf("the retry: %d", status)
	}
	return took, err
}

// coldIMDS asks the IMDS door.
type coldIMDS struct{ addr string }

// ask wants 503 of the leaf, and 200 after answered.
func (d *coldIMDS) ask(answered time.Time) (took coldTimes, err error) {
	conn, err := net.Dial("tcp", d.addr)
	if err != nil {
		return took, err
	}
	defer conn.Close()
	const list = "/latest/meta-data/iam/security-credentials/"
	c := &metadataClient{conn: conn, r: bufio.NewReader(conn)}
	for _, step := range []struct {
		method, path string
		wait         time.Time
		want         int
		took         *time.Duration
	}{
		{http.MethodPut, "/latest/api/token", time.Time{}, http.StatusOK, &took.token},
		{http.MethodGet, list, time.Time{}, http.StatusOK, &took.list},
		{http.MethodGet, list + "p0", time.Time{}, http.StatusServiceUnavailable, &took.first},
		{http.MethodGet, list + "p0", answered, http.StatusOK, new(time.Duration)},
	} {
		time.Sleep(time.Until(step.wait))
		status, body, t, err := c.ask(step.method, step.path)
		*step.took = t
		if err == nil && (status != step.want || strings.Contains(body, `"Message"`)) {
			err = fmt.Errorf("%s %s: %d %q", step.method, step.path, status, body)
		}
		if err != nil {
			return took, err
		}
	}
	return took, nil
}
