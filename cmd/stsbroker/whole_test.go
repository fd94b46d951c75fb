package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/access"
	"github.com/stsbroker/stsbroker/broker/awssts"
	"github.com/stsbroker/stsbroker/broker/observe"
	"github.com/stsbroker/stsbroker/cache"
	"github.com/stsbroker/stsbroker/internal/stsfake"
	"github.com/stsbroker/stsbroker/metadata"
)

// whole is everything between a client's HTTP request and STS's answer, wired as
// in wire.go but over pipes, in a synctest bubble: time is exact.
type whole struct {
	fake  *stsfake.Server
	sts   *awssts.STS
	token string
	door  *pipe
	stop  func()
	refuse
}

// refuse makes dialling STS fail, as a port that nobody listens on does.
type refuse struct {
	mu sync.Mutex
	on bool
}

func (r *refuse) set(on bool) { r.mu.Lock(); defer r.mu.Unlock(); r.on = on }
func (r *refuse) get() bool   { r.mu.Lock(); defer r.mu.Unlock(); return r.on }

const wholeSecret = "canary/secret/key/of/the/user/0123456789"

type oneKey struct{}

func (oneKey) Key(context.Context, string) (broker.Material, error) {
	return broker.Material{AccessKeyID: "AKIAWHOLEWHOLEWHOLEW", SecretAccessKey: broker.NewSecret(wholeSecret)}, nil
}

// newWhole serves profile app, a role, and profile session, both of sts.
func newWhole(t *testing.T, log *zap.Logger, life time.Duration) *whole {
	t.Helper()
	at := awssts.Site{Region: "eu-central-1"}
	return buildWhole(t, log, life, nil, func(sts *awssts.STS) []broker.Profile {
		return []broker.Profile{
			{Name: "app", Region: "eu-central-1", Origin: "test:1", Action: "AssumeRole", Bucket: "123456789012/eu-central-1", Parent: broker.Ref{Key: "work"},
				Minter: sts.Role(awssts.Role{Site: at, ARN: "arn:aws:iam::123456789012:role/app", SessionName: "me"})},
			{Name: "session", Region: "eu-central-1", Origin: "test:2", Action: "GetSessionToken", Bucket: "key/eu-central-1", Parent: broker.Ref{Key: "work"},
				Minter: sts.Session(awssts.Session{Site: at})},
		}
	})
}

// buildWhole serves the profiles. change, which may be nil, has the last word on
// how STS is reached: Dial leads to the stand-in whatever the address.
func buildWhole(t *testing.T, log *zap.Logger, life time.Duration, change func(*awssts.Options), profiles func(*awssts.STS) []broker.Profile) *whole {
	t.Helper()
	w := &whole{fake: stsfake.New(), door: newPipe()}
	w.fake.SetLife(life)
	w.fake.AddUser("dev", "AKIAWHOLEWHOLEWHOLEW", wholeSecret)
	w.fake.AddRole(stsfake.Role{ARN: "arn:aws:iam::123456789012:role/app", Trust: []string{"*"}})
	upstream := newPipe()
	o := awssts.Options{
		Override: &awssts.Endpoint{URL: "http://127.0.0.1:1"},
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if w.refuse.get() {
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("connection refused")}
			}
			return upstream.dial(ctx, network, addr)
		},
	}
	if change != nil {
		change(&o)
	}
	var err error
	if w.sts, err = awssts.New(o); err != nil {
		t.Fatal(err)
	}
	list := profiles(w.sts)
	var names []string
	for _, p := range list {
		names = append(names, p.Name)
	}
	tokens := access.Memory()
	issued, err := tokens.Create("test", names, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.token = issued.Token.Reveal()
	var b *broker.Broker
	obs := observe.New(log, func() broker.Stats { return b.Stats() })
	b = broker.New(broker.Options{Keys: oneKey{}, Store: cache.NewMemory(), Access: tokens, Observer: obs})
	b.Reload(list)
	stsServer := &http.Server{Handler: w.fake}
	doorServer := metadata.NewServer(metadata.NewContainer(metadata.Container{Source: b, Tokens: tokens, Requests: obs, Observer: obs}), func(string) {})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = stsServer.Serve(upstream) })
	wg.Go(func() { _ = doorServer.Serve(w.door) })
	wg.Go(func() { _ = b.Run(ctx) })
	wg.Go(func() { _ = w.sts.Run(ctx) })
	w.stop = sync.OnceFunc(func() {
		cancel()
		_ = doorServer.Close()
		_ = stsServer.Close()
		w.sts.CloseIdle()
		wg.Wait()
	})
	t.Cleanup(w.stop)
	return w
}

// client is one keep-alive connection to the door.
type client struct {
	w    *whole
	conn net.Conn
	r    *bufio.Reader
}

func (w *whole) client(t *testing.T) *client {
	conn, err := w.door.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	return &client{w, conn, bufio.NewReader(conn)}
}

// answer is what the door said: a status, and the body's strings by key.
type answer struct {
	status int
	body   map[string]string
	took   time.Duration
}

// get asks, with a time-out of a second as four SDKs have it.
func (c *client) get(profile string) (answer, error) {
	began := time.Now()
	_ = c.conn.SetDeadline(began.Add(time.Second))
	if _, err := fmt.Fprintf(c.conn, "GET /credentials/%s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: %s\r\n\r\n", profile, c.w.token); err != nil {
		return answer{}, err
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: resp.StatusCode, took: time.Since(began)}
	return a, json.Unmarshal(data, &a.body)
}

// good says what is wrong with a 200, if anything.
func (a answer) good(now time.Time) error {
	for _, k := range []string{"AccessKeyId", "SecretAccessKey", "Token", "Expiration"} {
		if a.body[k] == "" {
			return fmt.Errorf("a 200 without %s: %v", k, a.body)
		}
	}
	exp, err := time.Parse(time.RFC3339, a.body["Expiration"])
	if err == nil && !exp.After(now) {
		err = fmt.Errorf("a 200 with credentials that expired at %v, and it is %v", exp, now)
	}
	return err
}

type pipe struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipe() *pipe { return &pipe{conns: make(chan net.Conn), closed: make(chan struct{})} }

// loopback gives a pipe the addresses that the door's guard looks at.
type loopback struct{ net.Conn }

func (loopback) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:9170"))
}

func (loopback) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:50000"))
}

func (p *pipe) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- loopback{server}:
		return client, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipe) Addr() net.Addr { return loopback{}.LocalAddr() }

// faults are what an STS, or the network before it, does wrong.
func faults() map[string]stsfake.Fault {
	return map[string]stsfake.Fault{
		"hang": {Kind: stsfake.FaultHang}, "drop": {Kind: stsfake.FaultDrop}, "503": {Kind: stsfake.FaultUnavailable},
		"throttle": {Kind: stsfake.FaultThrottle}, "denied": {Kind: stsfake.FaultDenied, Message: "not authorized"},
		"garbage": {Kind: stsfake.FaultGarbage}, "empty": {Kind: stsfake.FaultEmpty}, "expired": {Kind: stsfake.FaultExpired},
		"wrong role": {Kind: stsfake.FaultWrongRole}, "huge": {Kind: stsfake.FaultHuge}, "redirect": {Kind: stsfake.FaultRedirect},
		"region disabled": {Kind: stsfake.FaultRegionDisabled}, "echo": {Kind: stsfake.FaultEchoSecrets},
		"slow": {Delay: 2 * time.Second}, "slow 503": {Kind: stsfake.FaultUnavailable, Delay: 3 * time.Second},
		"slow garbage": {Kind: stsfake.FaultGarbage, Delay: 700 * time.Millisecond},
	}
}

// Whatever STS does, in whatever state of the lease: no 200 without live
// credentials, no answer later than a second, and none but 200, 403 and 503.
func TestNoFaultIsServed(t *testing.T) {
	list := faults()
	list["refused"] = stsfake.Fault{}
	for name, fault := range list {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWhole(t, zap.NewNop(), 15*time.Minute)
				c := w.client(t)
				check := func(when string) answer {
					t.Helper()
					a, err := c.get("app")
					if err != nil {
						t.Fatalf("%s: %v", when, err)
					}
					switch {
					case a.took > 850*time.Millisecond:
						t.Errorf("%s: answered after %v", when, a.took)
					case a.status == 200:
						if err := a.good(time.Now()); err != nil {
							t.Errorf("%s: %v", when, err)
						}
					case a.status != 403 && a.status != 503:
						t.Errorf("%s: status %d", when, a.status)
					case a.body["code"] == "" || a.body["message"] == "" || a.body["code"] != a.body["Code"] || a.body["message"] != a.body["Message"]:
						t.Errorf("%s: error body %v", when, a.body)
					case a.body["AccessKeyId"] != "":
						t.Errorf("%s: keys in an error", when)
					}
					return a
				}
				spoil := func(on bool) {
					w.refuse.set(on && name == "refused")
					w.fake.SetFault(map[bool]stsfake.Fault{true: fault}[on])
				}
				// Cold.
				spoil(true)
				for range 20 {
					if a := check("cold"); a.status == 200 && fault.Kind != stsfake.FaultNone {
						t.Errorf("cold: served")
					}
					time.Sleep(500 * time.Millisecond)
				}
				// Fresh, renewing, expired: a good set first, then the fault for all its life.
				spoil(false)
				time.Sleep(time.Minute)
				for check("healed").status != 200 {
					time.Sleep(time.Second)
				}
				spoil(true)
				minted := time.Now()
				held := 0
				for time.Since(minted) < 16*time.Minute {
					if a := check(fmt.Sprintf("%v after the mint", time.Since(minted))); a.status == 200 {
						held++
					} else if time.Since(minted) < 13*time.Minute {
						t.Fatalf("%v after the mint, with a valid set held: %d", time.Since(minted), a.status)
					}
					time.Sleep(time.Second)
				}
				if held < 13*60 {
					t.Errorf("served %d times", held)
				}
				spoil(false)
				time.Sleep(time.Minute)
				if a := check("healed again"); a.status != 200 {
					t.Errorf("not healed: %v", a)
				}
				_ = c.conn.Close()
				w.stop()
			})
		})
	}
}

// A thousand cold callers over HTTP, STS in 2 s.
func TestThousandColdCallersOverHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWhole(t, zap.NewNop(), 0)
		w.fake.SetFault(stsfake.Fault{Delay: 2 * time.Second})
		began := time.Now()
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				c := w.client(t)
				a, err := c.get("app")
				if err != nil || a.status != 503 || a.took > 850*time.Millisecond {
					t.Errorf("cold: %v %v", a, err)
				}
				time.Sleep(time.Until(began.Add(2500 * time.Millisecond)))
				if a, err = c.get("app"); err != nil || a.status != 200 || a.took != 0 {
					t.Errorf("at 2.5 s: %v %v", a, err)
				}
				_ = c.conn.Close()
			})
		}
		wg.Wait()
		if n := w.fake.Mints(); n != 1 {
			t.Errorf("%d mints", n)
		}
		w.stop()
	})
}

// Several renewals while STS takes 2 s, clients asking throughout.
func TestRenewalsOverHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWhole(t, zap.NewNop(), 15*time.Second)
		w.fake.SetFault(stsfake.Fault{Delay: 2 * time.Second})
		c := w.client(t)
		_, _ = c.get("app")
		time.Sleep(2 * time.Second)
		keys := map[string]bool{}
		for range 2000 {
			a, err := c.get("app")
			if err == nil && a.status != 200 {
				err = fmt.Errorf("status %d: %v", a.status, a.body)
			}
			if err == nil {
				err = a.good(time.Now())
			}
			if err != nil || a.took != 0 {
				t.Fatalf("%v after %v", err, a.took)
			}
			keys[a.body["AccessKeyId"]] = true
			time.Sleep(20 * time.Millisecond)
		}
		if len(keys) < 4 {
			t.Errorf("only %d renewals in 40 s", len(keys)-1)
		}
		_ = c.conn.Close()
		w.stop()
	})
}

// No secret reaches the log at any level, an error body or the metrics, whatever
// STS echoes.
func TestNoSecretInAnySink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log syncBuilder
		w := newWhole(t, observe.NewLogger(&log, false, zap.DebugLevel), 15*time.Minute)
		c := w.client(t)
		a, err := c.get("app")
		if err != nil || a.status != 200 {
			t.Fatal(a, err)
		}
		secrets := []string{wholeSecret, a.body["SecretAccessKey"], a.body["Token"], w.token}
		var bodies strings.Builder
		for name, fault := range faults() {
			w.fake.SetFault(fault)
			for range 20 {
				for _, p := range []string{"app", "session", "unknown"} {
					if a, err := c.get(p); err != nil {
						t.Fatal(name, err)
					} else if a.status != 200 {
						fmt.Fprint(&bodies, a.body)
					}
				}
				time.Sleep(time.Minute)
			}
		}
		_ = c.conn.Close()
		w.stop()
		if !strings.Contains(log.String(), "AssumeRole") || bodies.Len() == 0 {
			t.Fatal("nothing was logged or refused: the test looks at nothing")
		}
		for i, s := range secrets {
			for _, enc := range encodings(s) {
				if strings.Contains(log.String(), enc) || strings.Contains(bodies.String(), enc) {
					t.Errorf("secret %d is in a log line or an error body", i)
				}
			}
		}
	})
}
