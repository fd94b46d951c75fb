package broker

import "time"

// EventKind says what happened.
type EventKind uint8

// Events.
const (
	EventMinted     EventKind = iota // a mint succeeded
	EventMintFailed                  // a mint failed
	EventServed                      // a set was handed to a caller
	EventRefused                     // a caller got an error
	EventLapsed                      // a lease is no longer renewed: nobody asked lately
	EventClockStep                   // the wall clock jumped: a suspend, or it was set
	EventLoginSoon                   // what a person's login minted is in use and about to end
	EventForgotten                   // sets were forgotten, of any profile: whoever keeps one looks again
)

// Event is one thing that happened in the broker. It is passed by value and
// holds no secret; which fields are set depends on the kind.
type Event struct {
	Kind       EventKind
	Profile    string
	Caller     Caller        // Served, Refused
	Action     string        // Minted, MintFailed
	Region     string        // Minted, MintFailed
	KeyID      string        // Minted, Served: for logs, never for a label
	AccountID  string        // likewise; "" when unknown
	RoleARN    string        // likewise; "" for none
	Expires    time.Time     // Minted, Served: the real end, on the issuer's clock
	Generation uint64        // Minted, Served
	Took       time.Duration // Minted, MintFailed: of the call alone
	Left       time.Duration // Minted, Served, LoginSoon: time left; ClockStep: how far
	Renewal    time.Duration // Minted: time until the next renewal
	Stale      bool          // Served: the last renewal failed
	Note       string        // Minted
	Err        *Error        // MintFailed, Refused
}

// Observer is told of every event. It never fails and never blocks: it is
// called on the way of requests.
type Observer interface{ Observe(e Event) }

// Stats are gauges, read when somebody looks.
type Stats struct {
	Waiters      int                // callers waiting for a mint
	SmallestLeft time.Duration      // of all leases that are kept fresh and hold a set
	AnyHeld      bool               // whether SmallestLeft means anything
	Budget       map[string]float64 // calls that could start now, by bucket
	States       map[State]int      // profiles that are served or unservable; every state has its number
}
