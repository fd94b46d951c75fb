package main

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// The figures that need a real process, real sockets or real time. They print,
// and fail only where the outcome is wrong (a request that failed), never for
// being slow: machines differ. What must hold to the millisecond is asserted
// in whole_test.go, on a simulated clock.

// shipped builds the binary as it ships, by the words of the Makefile.
func shipped(b testing.TB) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "stsbroker")
	cmd := exec.Command("go", "build", "-trimpath", "-tags=nethttpomithttp2", "-ldflags=-s -w", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return path
}

// testBinary is this test binary, to be started as something else.
func testBinary(b *testing.B) *exec.Cmd {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	return exec.Command(self)
}

// rig is a home with profiles, and an STS stand-in behind it.
type rig struct {
	binary string
	home   string
	env    []string
	fake   *stsfake.Server
	port   string
}

func newRig(b testing.TB, binary, url, ca string, fake *stsfake.Server, profiles int) *rig {
	b.Helper()
	r := &rig{binary: binary, home: b.TempDir(), fake: fake, port: freePort(b)}
	fake.AddUser("dev", "AKIABENCHBENCHBENCHB", wholeSecret)
	var config strings.Builder
	for i := range profiles {
		arn := fmt.Sprintf("arn:aws:iam::123456789012:role/p%d", i)
		fake.AddRole(stsfake.Role{ARN: arn, Trust: []string{"*"}})
		fmt.Fprintf(&config, "[profile p%d]\nrole_arn = %s\nsource_profile = dev\nregion = eu-central-1\n", i, arn)
	}
	for name, text := range map[string]string{
		".aws/config":                      config.String(),
		".aws/credentials":                 "[dev]\naws_access_key_id = AKIABENCHBENCHBENCHB\naws_secret_access_key = " + wholeSecret + "\n",
		".config/stsbroker/stsbroker.yaml": fmt.Sprintf("listen: { container: [\"127.0.0.1:%s\"] }\n", r.port),
	} {
		path := filepath.Join(r.home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	r.env = []string{"HOME=" + r.home, "PATH=" + os.Getenv("PATH"), "AWS_ENDPOINT_URL_STS=" + url, "AWS_CA_BUNDLE=" + ca, promptRace}
	return r
}

func freePort(b testing.TB) string {
	b.Helper()
	s := httptest.NewServer(nil)
	defer s.Close()
	return s.URL[strings.LastIndexByte(s.URL, ':')+1:]
}

// serve starts the daemon; the function ends it.
func (r *rig) serve(b testing.TB) (pid int, stop func()) {
	b.Helper()
	cmd := exec.Command(r.binary, "serve")
	cmd.Env = r.env
	var log syncBuilder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	return cmd.Process.Pid, sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			b.Errorf("serve: %v\n%s", err, log.String())
		}
	})
}

func (r *rig) run(b testing.TB, args ...string) string {
	b.Helper()
	cmd := exec.Command(r.binary, args...)
	cmd.Env = r.env
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("%v: %v", args, err)
	}
	return strings.TrimSpace(string(out))
}

// wait until the daemon answers its control socket.
func (r *rig) wait(b testing.TB) {
	b.Helper()
	for range 500 {
		cmd := exec.Command(r.binary, "status")
		cmd.Env = r.env
		if cmd.Run() == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.Fatal("the daemon does not answer")
}

// token makes one for all profiles.
func (r *rig) token(b testing.TB, profiles int) string {
	args := []string{"token", "create", "bench"}
	for i := range profiles {
		args = append(args, "--profile", fmt.Sprintf("p%d", i))
	}
	return r.run(b, args...)
}

// ask is one GET; ok means 200 with keys that have not expired.
func (r *rig) ask(c *http.Client, token, profile string) (status int, ok bool, err error) {
	req, err := http.NewRequest(http.MethodGet, "http://127.0.0.1:"+r.port+"/credentials/"+profile, nil)
	if err != nil {
		return 0, false, err
	}
	req.Header.Set("Authorization", token)
	resp, err := c.Do(req)
	if err != nil {
		return 0, false, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		return resp.StatusCode, false, err
	}
	m := expiration.FindSubmatch(data)
	if m == nil {
		return 200, false, nil
	}
	exp, err := time.Parse(time.RFC3339, string(m[1]))
	return 200, err == nil && exp.After(time.Now()), err
}

var expiration = regexp.MustCompile(`"Expiration":"([^"]+)"`)

// load asks at a rate on some connections for a while, each with a time-out of
// a second, and returns how long the answers took and how many were not good.
func (r *rig) load(token, profile string, conns int, perSecond float64, d time.Duration) (took []time.Duration, failed int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range conns {
		wg.Go(func() {
			c := &http.Client{Timeout: time.Second, Transport: &http.Transport{MaxConnsPerHost: 1}}
			defer c.CloseIdleConnections()
			ticker := time.NewTicker(time.Duration(float64(conns) / perSecond * float64(time.Second)))
			defer ticker.Stop()
			for end := time.Now().Add(d); time.Now().Before(end); <-ticker.C {
				began := time.Now()
				_, ok, err := r.ask(c, token, profile)
				mu.Lock()
				took = append(took, time.Since(began))
				if !ok || err != nil {
					failed++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took, failed
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// BenchmarkColdCallers: 1,000 cold callers at once, STS answering in 2 s. The
// slowest is timed from before any of them dialled; they share the cores with
// the server.
func BenchmarkColdCallers(b *testing.B) {
	fake := stsfake.New()
	run, err := fake.Start("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer run.Close()
	r := newRig(b, shipped(b), run.URL, "", fake, 1)
	for b.Loop() {
		_, stop := r.serve(b)
		r.wait(b)
		token := r.token(b, 1)
		fake.SetFault(stsfake.Fault{Delay: 2 * time.Second})
		before := fake.Mints()
		door := &target{addr: "127.0.0.1:" + r.port, token: token}
		var slowest atomic.Int64
		var late atomic.Int64
		var wg sync.WaitGroup
		began := time.Now()
		for range 1000 {
			wg.Go(func() {
				c, err := net.Dial("tcp", door.addr)
				if err != nil {
					b.Error(err)
					return
				}
				defer c.Close()
				if status, err := door.status(c); err != nil || status != 503 {
					b.Errorf("cold: %d %v", status, err)
				}
				took := int64(time.Since(began))
				for old := slowest.Load(); took > old && !slowest.CompareAndSwap(old, took); old = slowest.Load() {
				}
				time.Sleep(time.Until(began.Add(2500 * time.Millisecond)))
				if status, err := door.status(c); err == nil && status == 200 {
					late.Add(1)
				}
			})
		}
		wg.Wait()
		if late.Load() != 1000 {
			b.Errorf("%d of 1000 served at 2.5 s", late.Load())
		}
		b.ReportMetric(float64(fake.Mints()-before), "mints")
		b.ReportMetric(milliseconds(time.Duration(slowest.Load())), "slowest-503-ms")
		b.ReportMetric(float64(late.Load()), "served-at-2.5s")
		r.run(b, "token", "revoke", "bench")
		stop()
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkFaultsWhileHeld: 50 requests/s on 4 connections while a valid set is
// held and every renewal fails.
func BenchmarkFaultsWhileHeld(b *testing.B) {
	binary := shipped(b)
	for name, fault := range map[string]stsfake.Fault{
		"refused": {}, "hanging": {Kind: stsfake.FaultHang}, "503": {Kind: stsfake.FaultUnavailable},
		"throttling": {Kind: stsfake.FaultThrottle}, "dropping": {Kind: stsfake.FaultDrop}, "garbage": {Kind: stsfake.FaultGarbage},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				fake := stsfake.New()
				fake.SetLife(30 * time.Second) // renewed from 9 to 12 s on
				run, err := fake.Start("127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				r := newRig(b, binary, run.URL, "", fake, 1)
				_, stop := r.serve(b)
				r.wait(b)
				token := r.token(b, 1)
				if _, ok, err := r.ask(http.DefaultClient, token, "p0"); !ok || err != nil {
					b.Fatal("not served", err)
				}
				calls := fake.Total()
				fake.SetFault(fault)
				if name == "refused" {
					_ = run.Close()
				}
				took, failed := r.load(token, "p0", 4, 50, 22*time.Second)
				if failed > 0 {
					b.Errorf("%d of %d requests failed", failed, len(took))
				}
				if name != "refused" && fake.Total() == calls {
					b.Errorf("no renewal was tried")
				}
				b.ReportMetric(float64(failed), "failed")
				b.ReportMetric(float64(len(took)), "requests")
				b.ReportMetric(milliseconds(took[len(took)*99/100]), "p99-ms")
				stop()
				_ = run.Close()
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkRenewals: 15-second sets, STS takes 2 s, clients ask throughout with a
// time-out of a second.
func BenchmarkRenewals(b *testing.B) {
	fake := stsfake.New()
	fake.SetLife(15 * time.Second)
	run, err := fake.Start("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer run.Close()
	r := newRig(b, shipped(b), run.URL, "", fake, 1)
	_, stop := r.serve(b)
	defer stop()
	r.wait(b)
	token := r.token(b, 1)
	for b.Loop() {
		if _, ok, err := r.ask(http.DefaultClient, token, "p0"); !ok || err != nil {
			b.Fatal("not served", err)
		}
		fake.SetFault(stsfake.Fault{Delay: 2 * time.Second})
		before := fake.Mints()
		took, failed := r.load(token, "p0", 4, 50, 35*time.Second)
		fake.SetFault(stsfake.Fault{})
		if failed > 0 {
			b.Errorf("%d of %d requests failed, or were answered with an expired set", failed, len(took))
		}
		b.ReportMetric(float64(failed), "failed")
		b.ReportMetric(float64(len(took)), "requests")
		b.ReportMetric(float64(fake.Mints()-before), "renewals")
		b.ReportMetric(milliseconds(took[len(took)*99/100]), "p99-ms")
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkStart: from starting serve to the first credentials at the door, over
// what the same mint takes when the SDK is asked directly.
func BenchmarkStart(b *testing.B) {
	fake := stsfake.New()
	run, err := fake.Start("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer run.Close()
	r := newRig(b, shipped(b), run.URL, "", fake, 10)
	_, stop := r.serve(b)
	r.wait(b)
	token := r.token(b, 10)
	stop()
	var starts, trips []time.Duration
	for b.Loop() {
		for range 21 {
			began := time.Now()
			client := sts.New(sts.Options{Region: "eu-central-1", BaseEndpoint: aws.String(run.URL),
				Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
					return aws.Credentials{AccessKeyID: "AKIABENCHBENCHBENCHB", SecretAccessKey: wholeSecret}, nil
				})})
			if _, err := client.AssumeRole(context.Background(), &sts.AssumeRoleInput{RoleArn: aws.String("arn:aws:iam::123456789012:role/p0"), RoleSessionName: aws.String("bench")}); err != nil {
				b.Fatal(err)
			}
			trips = append(trips, time.Since(began))

			c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}
			began = time.Now()
			_, stop := r.serve(b)
			for {
				if _, ok, err := r.ask(c, token, "p0"); err == nil && ok {
					break
				}
				if time.Since(began) > 5*time.Second {
					b.Fatal("no credentials after 5 s")
				}
				time.Sleep(100 * time.Microsecond) // the port is not open yet
			}
			starts = append(starts, time.Since(began))
			c.CloseIdleConnections()
			stop()
		}
	}
	slices.Sort(starts)
	slices.Sort(trips)
	start, trip := starts[len(starts)/2], trips[len(trips)/2]
	b.ReportMetric(milliseconds(start), "start-ms")
	b.ReportMetric(milliseconds(trip), "round-trip-ms")
	b.ReportMetric(milliseconds(start-trip), "over-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkResident: memory with 10 profiles, 60 s after ten mints over TLS.
func BenchmarkResident(b *testing.B) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		b.Skip("not run: there is no /proc on this system")
	}
	fake := stsfake.New()
	server := httptest.NewUnstartedServer(fake)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(b.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		b.Fatal(err)
	}
	r := newRig(b, shipped(b), server.URL, ca, fake, 10)
	for b.Loop() {
		pid, stop := r.serve(b)
		r.wait(b)
		token := r.token(b, 10)
		for i := range 10 {
			if _, ok, err := r.ask(http.DefaultClient, token, fmt.Sprintf("p%d", i)); !ok || err != nil {
				b.Fatal("not served", i, err)
			}
		}
		if n := fake.Mints(); n%10 != 0 {
			b.Errorf("%d mints", n)
		}
		b.ReportMetric(memory(b, pid, "VmRSS"), "after-mints-MB")
		time.Sleep(time.Minute)
		b.ReportMetric(memory(b, pid, "VmRSS"), "after-60s-MB")
		b.ReportMetric(memory(b, pid, "RssAnon"), "of-it-not-files-MB")
		r.run(b, "token", "revoke", "bench")
		stop()
	}
	b.ReportMetric(0, "ns/op")
}

func memory(b *testing.B, pid int, what string) float64 {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	m := regexp.MustCompile(what + `:\s+(\d+) kB`).FindSubmatch(data)
	if m == nil {
		b.Fatal("no ", what)
	}
	kb, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	return kb / 1024
}
