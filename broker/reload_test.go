package broker

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Who waits for a mint while a reload makes another profile of it waits for that one, as
// long as there is patience; and is refused when there is no such profile any more.
func TestWaitingThroughAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, quick := profile(&issuer{name: "slow", life: time.Hour, delay: 5 * time.Second}), profile(&issuer{name: "quick", life: time.Hour, delay: time.Second})
		slow.Name, quick.Name = "app", "app"
		b := run(t, slow)
		type answer struct {
			set *Set
			err error
			at  time.Duration
		}
		ask := func(patience time.Duration) chan answer {
			c, began := make(chan answer, 1), time.Now()
			go func() {
				set, err := b.Get(context.Background(), Ask{Profile: "app", Patience: patience})
				c <- answer{set, err, time.Since(began)}
			}()
			return c
		}
		patient, hasty := ask(10*time.Second), ask(2500*time.Millisecond)
		time.Sleep(2 * time.Second)
		b.Reload([]Profile{quick})
		if a := <-patient; a.err != nil || !strings.Contains(a.set.AccessKeyID, "quick") || a.at != 3*time.Second {
			t.Errorf("%+v", a)
		}
		if a := <-hasty; kindOf(a.err) != KindTimeout || a.at != 2500*time.Millisecond {
			t.Errorf("%+v", a)
		}
		b.Reload([]Profile{slow})
		gone := ask(10 * time.Second)
		time.Sleep(time.Second)
		b.Reload(nil)
		if a := <-gone; kindOf(a.err) != KindForbidden || a.at != time.Second {
			t.Errorf("%+v", a)
		}
	})
}
