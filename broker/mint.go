package broker

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"
)

// mint makes one call, from the parent's credentials to the checked answer. If
// STS no longer accepts those, they are renewed first, and it makes one more. Where
// processes share the store, what another one has just minted does as well; if strict,
// only what came since this try began.
func (l *lease) mint(code Secret, strict bool) (*Set, *Error) {
	s := l.spec.Load()
	l.idles()
	unlock := l.lockStore(s)
	defer unlock()
	if set := l.mintedElsewhere(s, strict); set != nil {
		return set, nil
	}
	l.dropForgotten(s)
	note := ""
	for {
		in, signer, err := l.input(s)
		if l.ctx.Err() != nil {
			return nil, l.ended()
		}
		if err != nil {
			return nil, l.failed(s, 0, err)
		}
		in.Code = code
		l.works(deadline(s.Minter))
		began := time.Now()
		c, err := l.call(s, in)
		took := time.Since(began)
		if l.ctx.Err() != nil {
			return nil, l.ended() // dropped meanwhile: the outcome is nobody's
		}
		if err == nil {
			err = complete(c)
		}
		var e *Error
		if err != nil {
			e = AsError(err)
		}
		for _, other := range s.budget.report(l, e) {
			other.(*lease).retry()
		}
		switch {
		case e == nil && s.parent != nil && l.b.forgotten(s.parent, signer): // meanwhile
			return nil, l.failed(s, took, errForgotten)
		case e == nil:
			c.Note = joinNote(c.Note, note)
			return l.issued(s, c, took)
		case !e.Signer || signer == nil || note != "":
			return nil, l.failed(s, took, e)
		}
		note = "STS no longer accepted the credentials of its source, so those were renewed first"
		l.idles()
		switch renewed, err := l.b.lease(s.parent).renewPast(l.ctx, signer, s.parent.deadline()); {
		case err != nil:
			return nil, l.failed(s, took, ofSource(s, err))
		case !renewed:
			return nil, l.failed(s, took, e)
		}
	}
}

// renewPast makes sure that the set is not the current one any more, and reports
// whether that is so. One that just came is not renewed: another would be no better.
func (l *lease) renewPast(ctx context.Context, set *Set, patience time.Duration) (renewed bool, err error) {
	now := time.Now()
	l.mu.Lock()
	held, last := l.set.Load(), l.last
	if held == nil || held.AccessKeyID != set.AccessKeyID {
		l.mu.Unlock()
		return true, nil
	}
	l.rejected = set.AccessKeyID
	if last == nil || !now.Before(l.retryAt) {
		last = nil
	}
	l.mu.Unlock()
	switch {
	case last != nil: // a renewal failed just now
		return false, last
	case now.Sub(held.received) < renewGap:
		return false, nil
	}
	l.unstore(ctx, set) // else a restart would hand it out again; a mint stores the next
	_, err = l.await(ctx, patience, &force{past: set.AccessKeyID})
	return err == nil, err
}

// issued turns the answer into the lease's next set.
func (l *lease) issued(s *spec, c Credentials, took time.Duration) (*Set, *Error) {
	l.works(mintDeadline)
	now := time.Now()
	set := newSet(c, now, l.nextGeneration(), l.b.rand())
	if !set.usable(now) {
		return nil, l.failed(s, took, &Error{Kind: KindUnavailable, Public: s.Action + " answered credentials that are as good as expired"})
	}
	if s.Once {
		set.renewAt = 0
	} else if err := l.put(set, s.local()); err != nil {
		c.Note = joinNote(c.Note, "not stored: "+err.Error())
	}
	if l.gone.Load() {
		return nil, l.ended()
	}
	l.b.obs.Observe(Event{
		Kind: EventMinted, Profile: s.Name, Action: s.Action, Region: regionOf(c, s), Generation: set.Generation,
		KeyID: c.AccessKeyID, AccountID: c.AccountID, RoleARN: c.RoleARN, Expires: c.Expires,
		Took: took, Left: set.Left(now), Renewal: max(0, set.Left(now)-set.renewAt), Note: c.Note,
	})
	return set, nil
}

// regionOf is where the set was minted, which may be another region than the profile's.
func regionOf(c Credentials, s *spec) string {
	if c.Region != "" {
		return c.Region
	}
	return s.Region
}

func joinNote(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}

// input waits for what signs the call, and for a place in the budget. signer is
// the set that does, nil where a key does, or nothing.
func (l *lease) input(s *spec) (in MintInput, signer *Set, err error) {
	for {
		l.idles()
		if s.parent != nil {
			set, err := l.b.lease(s.parent).feed(l.ctx, s.parent.deadline())
			if err != nil {
				return in, nil, ofSource(s, err)
			}
			signer, in.Parent = set, set.Material()
		}
		if err := s.budget.acquire(l.ctx, l); err != nil {
			return in, nil, err
		}
		if signer == nil || signer.usable(time.Now()) {
			break // a place may take long in an outage: a source that ran out meanwhile is asked for again
		}
	}
	l.works(mintDeadline)
	if s.Parent.Key != "" {
		m, err := l.b.keys.Key(l.ctx, s.Parent.Key)
		if err != nil {
			return in, nil, err
		}
		in.Parent = m
	}
	return in, signer, nil
}

// ofSource is an error of the profile's source. A login is asked for by the name
// of the profile itself, and so passed on as it is; what is locked is so for all.
func ofSource(s *spec, err error) *Error {
	e := AsError(err)
	if e.Kind == KindLoginNeeded || e.Kind == KindLocked {
		return e
	}
	e = e.forProfile(s.parent.Name)
	e.Profile, e.Public = "", "its source, "+e.Public
	return e
}

// call runs the minter on a context of its own: no caller's leaving ends it, and
// its panic is an error like any other.
func (l *lease) call(s *spec, in MintInput) (c Credentials, err error) {
	ctx, cancel := context.WithTimeout(l.ctx, deadline(s.Minter))
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			// The value may hold what was being worked on; where it happened is enough.
			err = &Error{Kind: KindUnavailable, Public: s.Action + " failed inside the broker; please report this", Cause: fmt.Errorf("panic (%T) in mint: %s", r, debug.Stack())}
		}
	}()
	return s.Minter.Mint(ctx, in)
}

// deadline is how long one mint may take.
func deadline(m Minter) time.Duration {
	if m, ok := m.(interface{ Deadline() time.Duration }); ok {
		return m.Deadline()
	}
	return mintDeadline
}

// deadline is how long credentials of the profile may take, with those of all
// its sources.
func (e *entry) deadline() (d time.Duration) {
	for p := e; p != nil; p = p.parent {
		d += deadline(p.Minter)
	}
	return d
}

func (l *lease) failed(s *spec, took time.Duration, err error) *Error {
	e := AsError(err)
	l.b.obs.Observe(Event{Kind: EventMintFailed, Profile: s.Name, Action: s.Action, Region: s.Region, Took: took, Err: e})
	return e
}

// complete refuses an answer that no client could use, whoever minted it.
func complete(c Credentials) error {
	var what string
	switch {
	case !ValidKeyID(c.AccessKeyID):
		what = "without a well-formed access key id"
	case c.SecretAccessKey.IsZero():
		what = "without a secret access key"
	case c.SessionToken.IsZero():
		what = "without a session token"
	case !c.Expires.After(c.Issued):
		what = "that are expired, or without an expiry"
	default:
		return nil
	}
	return &Error{Kind: KindUnavailable, Public: "the answer held credentials " + what + "; refused"}
}
