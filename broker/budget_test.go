package broker

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

type fixed urgency

func (f *fixed) urgency() urgency { return urgency(*f) }

func TestBudgetRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget()
		began := time.Now()
		for range 120 {
			if err := b.acquire(t.Context(), &fixed{}); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took < 10*time.Second || took > 10*time.Second+time.Millisecond {
			t.Errorf("120 calls at burst 20 and 10/s took %v", took)
		}
	})
}

func TestBudgetOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget()
		for range int(budgetBurst) {
			_ = b.acquire(t.Context(), &fixed{})
		}
		var mu sync.Mutex
		var order []string
		var wg sync.WaitGroup
		for name, u := range map[string]urgency{
			"prefetch": {class: 2}, "an hour left": {class: 1, left: time.Hour}, "a minute left": {class: 1, left: time.Minute}, "cold, waited for": {class: 0},
		} {
			wg.Go(func() {
				f := fixed(u)
				_ = b.acquire(t.Context(), &f)
				mu.Lock()
				defer mu.Unlock()
				order = append(order, name)
			})
		}
		wg.Wait()
		if want := []string{"cold, waited for", "a minute left", "an hour left", "prefetch"}; !slices.Equal(order, want) {
			t.Errorf("order %q", order)
		}
	})
}

func TestBudgetThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget()
		who := &fixed{}
		for range 10 { // of one moment
			b.report(who, &Error{Kind: KindThrottled})
		}
		if b.rate != budgetRate/2 {
			t.Errorf("rate %v after throttles of one moment", b.rate)
		}
		time.Sleep(time.Second)
		b.report(who, &Error{Kind: KindThrottled})
		if b.rate != budgetRate/4 || b.available() > budgetRate/2+1 {
			t.Errorf("rate %v, level %v after two throttles", b.rate, b.level)
		}
		time.Sleep(30 * time.Second)
		if b.available(); b.rate != budgetRate/4+3 {
			t.Errorf("rate %v after 30 s", b.rate)
		}
		for range 100 {
			b.report(who, &Error{Kind: KindThrottled})
			time.Sleep(time.Second)
		}
		if b.rate != budgetLeast {
			t.Errorf("rate %v at the least", b.rate)
		}
	})
}

func TestBudgetLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget()
		for range int(budgetBurst) {
			_ = b.acquire(t.Context(), &fixed{})
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := b.acquire(ctx, &fixed{}); err == nil {
			t.Error("a place for one who left")
		}
		if len(b.queue) != 0 {
			t.Errorf("%d in the queue", len(b.queue))
		}
	})
}
