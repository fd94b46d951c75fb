package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/awssts"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// faultyDialer cuts regions off, by address.
type faultyDialer struct {
	mu   sync.Mutex
	shut map[string]bool
	seen []string // addresses dialled
}

func (b *faultyDialer) set(addr string, shut bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shut[addr] = shut
}

func (b *faultyDialer) dial(ctx context.Context, network, addr string, dial func(context.Context, string, string) (net.Conn, error)) (net.Conn, error) {
	b.mu.Lock()
	shut := b.shut[addr]
	b.seen = append(b.seen, addr)
	b.mu.Unlock()
	if shut {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return dial(ctx, network, addr)
}

// lastSeen forgets what was dialled before, and returns it.
func (b *faultyDialer) lastSeen() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := b.seen
	b.seen = nil
	return seen
}

// The first region falls into a black hole: clients that are warm see nothing of
// it, cold ones wait less than one time-out and a half, and when it heals it is
// taken back within a minute.
func TestLossOfTheFirstRegion(t *testing.T) {
	const timeout, first, second = 4 * time.Second, "127.0.0.1:1", "127.0.0.1:2"
	synctest.Test(t, func(t *testing.T) {
		b := &faultyDialer{shut: map[string]bool{}}
		w := buildWhole(t, zap.NewNop(), 15*time.Minute, func(o *awssts.Options) {
			o.Override, o.Timeout = nil, timeout
			o.Endpoints = map[string]awssts.Endpoint{"eu-central-1": {URL: "http://" + first}, "eu-west-1": {URL: "http://" + second}}
			o.Fallback = []string{"eu-west-1"}
			dial := o.Dial
			o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
				return b.dial(ctx, network, addr, dial)
			}
		}, func(sts *awssts.STS) (list []broker.Profile) {
			for _, name := range []string{"warm", "cold", "colder"} {
				list = append(list, broker.Profile{Name: name, Region: "eu-central-1", Origin: "test:1", Action: "AssumeRole", Bucket: "123456789012/eu-central-1", Parent: broker.Ref{Key: "work"},
					Minter: sts.Role(awssts.Role{Site: awssts.Site{Region: "eu-central-1"}, ARN: "arn:aws:iam::123456789012:role/app", SessionName: name})})
			}
			return list
		})
		c := w.client(t)
		served := func(profile string) (answer, error) {
			a, err := c.get(profile)
			if err == nil && a.status == 200 {
				err = a.good(time.Now())
			}
			return a, err
		}
		for first := true; first || w.fake.Mints() == 0; first = false {
			_, _ = served("warm")
		}
		keep := func(d time.Duration) { // a warm client, twice a second
			t.Helper()
			for until := time.Now().Add(d); time.Now().Before(until); time.Sleep(500 * time.Millisecond) {
				if a, err := served("warm"); err != nil || a.status != 200 || a.took != 0 {
					t.Fatalf("a warm client got %v %v", a, err)
				}
			}
		}
		arrives := func(profile string) time.Duration { // of the first credential, asked for as SDKs do
			t.Helper()
			began := time.Now()
			for time.Since(began) < time.Minute {
				a, err := served(profile)
				if err != nil {
					t.Fatal(err)
				}
				if a.status == 200 {
					break
				}
			}
			return time.Since(began)
		}
		keep(time.Minute)
		if got := b.lastSeen(); !slices.Equal(got, []string{first}) {
			t.Errorf("while all was well: %v", got)
		}

		b.set(first, true)
		took := arrives("cold")
		t.Logf("the first credential came after %v; the figure is %v", took, timeout*3/2+time.Second)
		if took > timeout*3/2+time.Second {
			t.Error("too late")
		}
		b.lastSeen()
		if took := arrives("colder"); took != 0 || slices.Contains(b.lastSeen(), first) {
			t.Errorf("the next one came after %v", took)
		}
		mints := w.fake.Mints()
		keep(time.Hour)
		if n := w.fake.Mints() - mints; n < 5 {
			t.Errorf("%d mints in an hour of 15-minute credentials", n)
		}

		b.set(first, false)
		keep(time.Minute)
		b.lastSeen()
		mints = w.fake.Mints()
		for w.fake.Mints() == mints {
			keep(time.Minute)
		}
		if got := b.lastSeen(); slices.Contains(got, second) {
			t.Errorf("a minute after the first region healed, %v was asked", got)
		}
		_ = c.conn.Close()
		w.stop()
	})
}

// The host's clock is wrong all day. A client believes the expiry that it was
// told, on that clock, and asks again at it; it never holds an expired set.
func TestHostClockWrongAllDay(t *testing.T) {
	for _, off := range []time.Duration{20 * time.Minute, -20 * time.Minute, 0} {
		for _, life := range []time.Duration{time.Hour, 15 * time.Minute} {
			t.Run(fmt.Sprintf("host off by %v, sets live %v", off, life), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWhole(t, zap.NewNop(), life)
					w.fake.SetOffset(-off) // the world's clock, seen from this host
					c := w.client(t)
					held, until, sets := "", time.Time{}, 0
					start := time.Now()
					ends := map[string]time.Time{} // true ones, on the world's clock
					for time.Since(start) < 24*time.Hour {
						if now := time.Now(); !until.After(now) { // a client that uses a set to its last second
							a, err := c.get("app")
							if err != nil || a.status != 200 {
								t.Fatalf("%v %v", a, err)
							}
							if held, until = a.body["AccessKeyId"], must(time.Parse(time.RFC3339, a.body["Expiration"])); !until.After(now) {
								t.Fatal("told an expiry that has passed")
							}
							sets++
						} else if _, err := c.get("app"); err != nil { // and another one that asks all the time
							t.Fatal(err)
						}
						for _, call := range w.fake.Calls() {
							ends[call.KeyID] = call.Time.Add(call.Life)
						}
						if now := w.fake.Now(); !ends[held].After(now) {
							t.Fatalf("%v into the day a client holds a set that ended at %v, and it is %v", time.Since(start), ends[held], now)
						}
						time.Sleep(10 * time.Second)
					}
					if least := int(24 * time.Hour / life); sets < least || sets > 3*least {
						t.Errorf("%d sets", sets)
					}
					refused := 0
					for _, call := range w.fake.Calls() {
						if call.Code != "" {
							refused++
						}
					}
					if want := off.Abs() > 15*time.Minute; refused > 1 || (refused == 1) != want {
						t.Errorf("STS refused %d calls for their signature's time", refused)
					}
					_ = c.conn.Close()
					w.stop()
				})
			})
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Five roles in a chain: cold, one mint each; warm, one for each renewal of the
// last while its parents are fresh. No set lives longer than the hour that a
// temporary parent allows.
func TestChainOfFive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := buildWhole(t, zap.NewNop(), 0, nil, func(sts *awssts.STS) (list []broker.Profile) {
			for i := range 5 {
				p := broker.Profile{Name: fmt.Sprintf("hop%d", i), Region: "eu-central-1", Origin: "test:1", Action: "AssumeRole", Bucket: "123456789012/eu-central-1", Hidden: i < 4,
					Parent: broker.Ref{Key: "work"},
					Minter: sts.Role(awssts.Role{Site: awssts.Site{Region: "eu-central-1"}, ARN: fmt.Sprintf("arn:aws:iam::123456789012:role/hop%d", i), SessionName: "me", Duration: 12 * time.Hour})}
				if i > 0 {
					p.Parent = broker.Ref{Profile: list[i-1].Name}
				}
				list = append(list, p)
			}
			return list
		})
		for i := range 5 {
			w.fake.AddRole(stsfake.Role{ARN: fmt.Sprintf("arn:aws:iam::123456789012:role/hop%d", i), Trust: []string{"*"}, MaxSession: 12 * time.Hour})
		}
		c := w.client(t)
		ask := func() answer {
			t.Helper()
			a, err := c.get("hop4")
			if err == nil && a.status == 200 {
				err = a.good(time.Now())
			}
			if err != nil || a.status != 200 {
				t.Fatalf("%v %v", a, err)
			}
			// The limit of role chaining, from the answer on; the first hop has a key as parent.
			if left := time.Until(must(time.Parse(time.RFC3339, a.body["Expiration"]))); left > time.Hour {
				t.Fatalf("advertised for another %v", left)
			}
			return a
		}
		ask()
		if n := w.fake.Mints(); n != 5 {
			t.Errorf("%d mints for a cold chain of five", n)
		}
		hops := func() (n [5]int) {
			for _, call := range w.fake.Calls() {
				for i := range n {
					if call.Minted && call.Target == fmt.Sprintf("arn:aws:iam::123456789012:role/hop%d", i) {
						n[i]++
						if call.Life > time.Hour && i > 0 {
							t.Errorf("hop %d was granted %v", i, call.Life)
						}
					}
				}
			}
			return n
		}
		// Twelve hours of use. Each hop is asked for by the next one's renewals and by
		// nothing else, so it is renewed no more often, but for the jitter of both.
		keys := map[string]bool{}
		for range 12 * 60 {
			time.Sleep(time.Minute)
			keys[ask().body["AccessKeyId"]] = true
		}
		n := hops()
		if n[4] != len(keys) && n[4] != len(keys)+1 { // the last may be minted and not served yet, the first was before
			t.Errorf("%d mints of the last hop, %d sets were served", n[4], len(keys))
		}
		for i := range 4 {
			if n[i] > n[i+1]+2 {
				t.Errorf("hop %d was minted %d times, the hop that it signs for %d times", i, n[i], n[i+1])
			}
		}
		if n[4] > 30 {
			t.Errorf("%d mints of the last hop in 12 h", n[4])
		}
		t.Logf("mints in 12 h, by hop: %v", n)
		_ = c.conn.Close()
		w.stop()
	})
}
