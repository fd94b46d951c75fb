package broker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// withKeys is run with a custody of its own.
func withKeys(t *testing.T, keys Keys, profiles ...Profile) *Broker {
	t.Helper()
	b := New(Options{Keys: keys, Store: &mapStore{m: map[Key]Stored{}}, Access: everybody{}, Observer: &events{}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	b.Reload(profiles)
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

// hanging is a custody whose reading may never end: a pipe where a file was meant, a
// file system that is gone.
type hanging struct{ end chan struct{} }

func (h hanging) Key(context.Context, string) (Material, error) {
	<-h.end
	return Material{}, errors.New("gone")
}

func TestAliveSeesALoopThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := hanging{make(chan struct{})}
		p := profile(&issuer{name: "stuck", life: time.Hour})
		p.Parent.Key, p.Prefetch = "pipe", true
		b := withKeys(t, keys, p, profile(&issuer{name: "other", life: time.Hour}))
		time.Sleep(mintDeadline)
		if err := b.Alive(); err != nil {
			t.Errorf("not late yet: %v", err)
		}
		time.Sleep(hangSlack + time.Second)
		if err := b.Alive(); err == nil || !strings.Contains(err.Error(), "stuck") || !strings.Contains(err.Error(), "hangs") {
			t.Errorf("said %v", err)
		}
		close(keys.end)
		synctest.Wait()
		if err := b.Alive(); err != nil {
			t.Errorf("it goes on, and still: %v", err)
		}
	})
}

// An outage of a day, throttling included, is no hang; and neither is a quiet day.
func TestAliveThroughAnOutage(t *testing.T) {
	for _, c := range []struct {
		name string
		fail *Error
		slow time.Duration
	}{
		{"quiet", nil, 0},
		{"down", &Error{Kind: KindUnavailable, Public: "503"}, 0},
		{"silent", nil, time.Hour},
		{"throttled", &Error{Kind: KindThrottled, Public: "slow down"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var profiles []Profile
				for _, name := range []string{"a", "b", "c"} {
					i := &issuer{name: name, life: time.Hour, delay: c.slow}
					i.fail.Store(c.fail)
					p := profile(i)
					p.Prefetch = true
					profiles = append(profiles, p)
				}
				over := profile(&issuer{name: "over", life: time.Hour})
				over.Parent.Profile, over.Prefetch = "a", true
				b := run(t, append(profiles, over)...)
				for end := time.Now().Add(6 * time.Hour); time.Now().Before(end); time.Sleep(7 * time.Second) {
					if err := b.Alive(); err != nil {
						t.Fatal(err)
					}
				}
			})
		})
	}
}

func TestReadyAndTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &issuer{name: "slow", life: time.Hour, delay: 3 * time.Second}
		bad := &issuer{name: "bad", life: time.Hour, delay: 5 * time.Second}
		bad.fail.Store(&Error{Kind: KindDenied, Public: "no"})
		person, lazy := profile(&issuer{name: "person", life: time.Hour}), profile(&issuer{name: "lazy", life: time.Hour})
		person.MFA = "device"
		profiles := []Profile{profile(slow), profile(bad), person}
		for i := range profiles {
			profiles[i].Prefetch = true
		}
		b := run(t, append(profiles, lazy)...)
		want := func(after time.Duration, tried bool, waiting ...string) {
			t.Helper()
			time.Sleep(after)
			if got := b.Tried(); got != tried {
				t.Errorf("tried: %v", got)
			}
			if got := b.Ready(); !slices.Equal(got, waiting) {
				t.Errorf("waiting for %q, want %q", got, waiting)
			}
		}
		want(0, false, "bad", "person", "slow")
		want(4*time.Second, false, "bad", "person")
		want(2*time.Second, true, "bad", "person")
		bad.fail.Store(nil)
		want(time.Hour, true, "person")
		if all := b.Stats().States; len(all) != len(states) || all[StateFresh] != 2 || all[StateLogin] != 1 || all[StateIdle] != 1 {
			t.Errorf("states: %v", all)
		}
	})
}

// What a gate refuses is not handed out, and asked for again it may be.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("the disk is full")
		var asked []Event
		seen := &events{}
		b := New(Options{Store: &mapStore{m: map[Key]Stored{}}, Access: everybody{}, Observer: seen, Gate: func(e Event) error {
			asked = append(asked, e)
			return full
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		b.Reload([]Profile{profile(&issuer{name: "dev", life: time.Hour})})
		ask := Ask{Profile: "dev", Patience: time.Second, Caller: Caller{Token: "t1"}}
		set, err := b.Get(t.Context(), ask)
		if set != nil || kindOf(err) != KindUnavailable || !errors.Is(err, full) || !strings.Contains(err.Error(), "dev") {
			t.Errorf("%v, %v", set, err)
		}
		if seen.count(EventRefused) != 1 || len(asked) != 1 || asked[0].Kind != EventServed || asked[0].KeyID == "" || asked[0].Caller.Token != "t1" || asked[0].Expires.IsZero() {
			t.Errorf("%+v, %+v", seen.all, asked)
		}
		full = nil
		if set, err = b.Get(t.Context(), ask); err != nil || set.AccessKeyID != asked[0].KeyID {
			t.Errorf("%v, %v", set, err)
		}
	})
}
