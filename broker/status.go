package broker

import (
	"maps"
	"slices"
	"time"
)

// State is how a profile stands, in one word.
type State string

// States.
const (
	StateUnservable State = "unservable"   // cannot be served until its definition is mended
	StateIdle       State = "idle"         // nothing held, and nobody asked lately
	StateMinting    State = "minting"      // nothing held yet, the mint runs
	StateFresh      State = "fresh"        // held, and renewed in time
	StateRenewing   State = "renewing"     // held, and the successor is being minted
	StateFailing    State = "failing"      // held, but the last renewal failed
	StateLapsed     State = "lapsed"       // held, but no longer renewed: nobody asked lately
	StateError      State = "error"        // nothing held: the last mint failed
	StateLogin      State = "login-needed" // a person must log in, now or before what is held expires
)

// states are all of them.
var states = [...]State{StateUnservable, StateIdle, StateMinting, StateFresh, StateRenewing, StateFailing, StateLapsed, StateError, StateLogin}

// Status is how one profile stands at one moment. Durations are from then on.
type Status struct {
	Profile    string
	State      State
	Origin     string
	Action     string
	Region     string // of the profile
	MintRegion string // whose endpoint issued what is held; "" when nothing is, or where that means nothing
	MFA        string // the device whose code a login wants, for the profile or a source of it; "" for none
	Source     string // "key NAME" or "profile NAME"; "" for none
	AccountID  string
	RoleARN    string
	KeyID      string
	Generation uint64
	Left       time.Duration // until the real expiry; 0 when nothing is held
	Life       time.Duration // that was granted, of what is held; 0 for nothing
	Prefetch   bool          // it is minted without being asked for
	Expiration string        // what clients are told, see [Set.Expiration]; "" when nothing is held
	RenewIn    time.Duration // until the next renewal, or the next try; 0: now or never, see State
	Failures   int           // in a row
	LastError  string        // of the last try, when it failed
	Reason     string        // why it is unservable
	Notes      []string
}

// Status returns all profiles that are served or unservable, by name.
func (b *Broker) Status() []Status {
	entries := *b.profiles.Load()
	var all []Status
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if e := entries[name]; !e.Hidden {
			all = append(all, b.status(e))
		}
	}
	return all
}

// StatusOf returns how one profile stands, and false when there is none of that
// name or it only feeds others. It waits for nobody.
func (b *Broker) StatusOf(profile string) (Status, bool) {
	e := (*b.profiles.Load())[profile]
	if e == nil || e.Hidden {
		return Status{}, false
	}
	return b.status(e), true
}

func (b *Broker) status(e *entry) Status {
	s := Status{
		Profile: e.Name, State: StateIdle, Origin: e.Origin, Action: e.Action, Region: e.Region, Notes: e.Notes, Prefetch: e.Prefetch,
	}
	switch {
	case e.Parent.Key != "":
		s.Source = "key " + e.Parent.Key
	case e.Parent.Profile != "":
		s.Source = "profile " + e.Parent.Profile
	}
	if e.Unservable != nil {
		s.State, s.Reason = StateUnservable, e.Unservable.Error()
		return s
	}
	if t := b.loginOf(e); t != nil {
		s.MFA = t.MFA
	}
	b.mu.Lock()
	l := b.leases[e.key]
	b.mu.Unlock()
	if l == nil {
		return s
	}
	now := time.Now()
	l.mu.Lock()
	last, failures, retryIn, rejected := l.last, l.failures, max(0, l.retryAt.Sub(now)), l.rejected
	if last == nil && l.locked && e.MFA != "" && !l.set.Load().usable(now) {
		last = Locked()
	}
	l.mu.Unlock()
	awake, minting := l.awake.Load(), l.minting.Load()
	set := l.set.Load()
	if last != nil {
		s.LastError, s.Failures, s.RenewIn = last.Public, failures, retryIn
	}
	waits := e.MFA != "" && (last == nil || last.Kind != KindLocked) || last != nil && last.Kind == KindLoginNeeded
	if !set.usable(now) {
		switch {
		case waits && !minting:
			s.State = StateLogin
		case minting:
			s.State = StateMinting
		case last != nil:
			s.State = StateError
		}
		return s
	}
	s.AccountID, s.RoleARN, s.KeyID = set.AccountID, set.RoleARN, set.AccessKeyID
	s.MintRegion, s.Life = set.Region, set.Lifetime()
	s.Generation, s.Left, s.Expiration = set.Generation, set.Left(now), set.Expiration()
	if set.Note != "" {
		s.Notes = append(slices.Clip(s.Notes), set.Note)
	}
	switch {
	case waits && (set.Left(now) <= set.renewAt || set.AccessKeyID == rejected):
		s.State = StateLogin
	case last != nil:
		s.State = StateFailing
	case minting:
		s.State = StateRenewing
	case !awake:
		s.State = StateLapsed
	default:
		s.State = StateFresh
		if e.MFA == "" && !e.Once { // else nobody renews it but a person
			s.RenewIn = max(0, s.Left-set.renewAt)
		}
	}
	return s
}

// Stats returns the gauges.
func (b *Broker) Stats() Stats {
	all := make(map[State]int, len(states))
	for _, s := range states {
		all[s] = 0
	}
	for _, e := range *b.profiles.Load() {
		if !e.Hidden {
			all[b.status(e).State]++
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	st := Stats{Waiters: int(b.waiters.Load()), Budget: make(map[string]float64, len(b.budgets)), States: all}
	now := time.Now()
	for _, l := range b.leases {
		set := l.set.Load()
		if set == nil || !l.awake.Load() {
			continue
		}
		if left := set.Left(now); !st.AnyHeld || left < st.SmallestLeft {
			st.SmallestLeft, st.AnyHeld = left, true
		}
	}
	for name, bu := range b.budgets {
		st.Budget[name] = bu.available()
	}
	return st
}
