// Package notify tells a person at a desktop that a profile waits for them: for a
// login, or for custody to be unlocked. It implements [broker.Observer].
//
// On Linux it calls org.freedesktop.Notifications on the session bus, where there is
// one; on macOS it runs osascript; elsewhere it is silent. Nothing depends on it: the
// doors and the log say the same.
package notify

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/printable"
)

// How much a person is told at most. A profile that cannot be had is asked for again
// and again.
const (
	again     = time.Hour       // for the same profile and reason
	most      = 3               // in all, within spate
	spate     = time.Minute     //
	sendLimit = 2 * time.Second // for one notification
)

// Options are what a [Notifier] works with. The zero value is fine.
type Options struct {
	Getenv func(string) string // where the session bus is; nil is os.Getenv
	Failed func(error)         // told of the first failure, and of no other; nil for nobody

	// Show returns the name by which a person can log in to a profile, which for one
	// that only feeds others is that of another; "" keeps it quiet. nil takes every name
	// as it is. It is called on the way of requests.
	Show func(profile string) string
}

// Notifier sends notifications. [Notifier.Run] does the work.
type Notifier struct {
	o     Options
	send  sender
	queue chan note

	mu   sync.Mutex
	told map[topic]time.Time // within the last hour
	last [most]time.Time     // when the last ones were accepted, the oldest first
}

// sender shows a note in the place of one that it showed before, and returns the
// number of it; 0 stands for none.
type sender func(ctx context.Context, n note, replaces uint32) (uint32, error)

type note struct{ profile, title, text string } // plain text

type topic struct {
	profile string
	reason  reason
}

type reason uint8

const (
	loginSoon reason = iota
	loginNeeded
	locked
)

// New returns a Notifier that is quiet until [Notifier.Run] is called.
func New(o Options) *Notifier {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	return &Notifier{o: o, send: newSender(o.Getenv), queue: make(chan note, most), told: map[topic]time.Time{}}
}

// Observe implements [broker.Observer]: it never blocks, and nothing is sent from it.
func (n *Notifier) Observe(e broker.Event) {
	var t topic
	switch e.Kind {
	case broker.EventLoginSoon:
		t = topic{e.Profile, loginSoon}
	case broker.EventMintFailed, broker.EventRefused:
		switch {
		case e.Err == nil:
			return
		case e.Err.Kind == broker.KindLoginNeeded:
			t = topic{e.Profile, loginNeeded}
		case e.Err.Kind == broker.KindLocked:
			t = topic{"", locked} // one unlock serves all
		default:
			return
		}
	default:
		return
	}
	shown := e.Profile
	if n.o.Show != nil {
		if shown = n.o.Show(e.Profile); shown == "" {
			return
		}
		if t.profile != "" {
			t.profile = shown
		}
	}
	if n.accept(t, time.Now()) {
		select {
		case n.queue <- words(t, shown, e.Left):
		default: // the desktop is slow: it is told of the others
		}
	}
}

// accept reports whether a person is to be told now, and counts that.
func (n *Notifier) accept(t topic, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if at, told := n.told[t]; told && now.Sub(at) < again {
		return false
	}
	if !n.last[0].IsZero() && now.Sub(n.last[0]) < spate {
		return false
	}
	for old, at := range n.told {
		if now.Sub(at) >= again {
			delete(n.told, old)
		}
	}
	n.told[t] = now
	copy(n.last[:], n.last[1:])
	n.last[most-1] = now
	return true
}

// words is what a person reads: which profile, and what to type.
func words(t topic, profile string, left time.Duration) note {
	profile = printable.Text(profile, broker.MaxName)
	n := note{profile: t.profile, title: "stsbroker: login needed"}
	command := "stsbroker login " + profile
	switch t.reason {
	case loginSoon:
		when := "soon"
		if m := left.Round(time.Minute); m >= time.Minute {
			when = fmt.Sprintf("in %d min", m/time.Minute)
		}
		n.title = "stsbroker: login needed soon"
		n.text = "The session of profile " + profile + " ends " + when + ". To go on without a gap, run: " + command
	case loginNeeded:
		n.text = "Profile " + profile + " waits for you. Run: " + command
	case locked:
		n.title = "stsbroker: custody is locked"
		n.text = "Profile " + profile + " waits for its keys. Run: stsbroker unlock"
	}
	return n
}

// Run sends what was observed until ctx ends.
func (n *Notifier) Run(ctx context.Context) {
	shown := map[string]uint32{} // by profile, so that each has one bubble
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case next := <-n.queue:
			limited, cancel := context.WithTimeout(ctx, sendLimit)
			id, err := n.send(limited, next, shown[next.profile])
			cancel()
			if err == nil {
				shown[next.profile] = id
			} else if !failed && ctx.Err() == nil && n.o.Failed != nil {
				failed = true
				n.o.Failed(err)
			}
		}
	}
}
