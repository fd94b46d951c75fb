package broker

import (
	"errors"
	"fmt"
)

// ErrNotFound is what a [LeaseStore] answers when it has nothing for a key.
var ErrNotFound = errors.New("not found")

// Kind classes an error by what has to happen for it to go away. Doors map it
// to their status codes; the renewal policy maps it to when to try again.
type Kind uint8

// Kinds. The first three pass by themselves; the others stay until a person acts.
const (
	KindUnavailable  Kind = iota // STS or the network: cannot be reached, 5xx, garbage
	KindThrottled                // STS says slow down
	KindTimeout                  // the door's patience ended before the mint did
	KindDenied                   // STS refuses: AccessDenied, a trust policy, a deleted key
	KindConfig                   // the definition must be mended: validation errors, unservable profiles
	KindLoginNeeded              // a person must log in
	KindForbidden                // the caller may not have this profile, or there is none of that name
	KindUnauthorized             // no token, or not one of ours
	KindLocked                   // custody is locked: a person must unlock it
)

var kindNames = [...]string{"unavailable", "throttled", "timeout", "denied", "config", "login-needed", "forbidden", "unauthorized", "locked"}

// String returns the kind's name as it appears in logs, metrics and error codes.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", k)
}

// Passes reports whether waiting may mend the error.
func (k Kind) Passes() bool { return k <= KindTimeout }

// Error is every error that leaves the domain. Public is what a client reads:
// one line, no secret, what happened and what to do next. Cause is for the log.
//
// A minter leaves Profile empty and does not name the profile in Public: the
// broker does both, because profiles may share a lease.
type Error struct {
	Kind    Kind
	Profile string
	Code    string // the issuer's own code, such as "AccessDenied"; "" when it did not answer
	Own     bool   // the trouble is this mint's own (its identity provider, its token), and says nothing of the issuer
	Signer  bool   // the session credentials that signed are no longer accepted: renew those first
	Public  string
	Cause   error
}

// Error returns the public text, and the cause when it says more.
func (e *Error) Error() string {
	switch {
	case e.Cause == nil:
		return e.Public
	case e.Public == "":
		return e.Cause.Error()
	}
	return e.Public + " (" + e.Cause.Error() + ")"
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// AsError returns err as an [*Error]: itself when it is one, else wrapped as
// [KindUnavailable], with a public text that gives nothing away.
func AsError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Kind: KindUnavailable, Public: "no credentials could be minted; the broker's log says why, and it goes on trying", Cause: err}
}

// forProfile returns a copy that names the profile, in Public too.
func (e *Error) forProfile(name string) *Error {
	c := *e
	c.Profile = name
	c.Public = "profile " + name + ": " + e.Public
	if e.Kind == KindLoginNeeded {
		c.Public += "; run stsbroker login " + name
	}
	return &c
}

// Locked is the error of what rests in custody while that is locked.
func Locked() *Error {
	return &Error{Kind: KindLocked, Own: true, Public: "custody is locked; run stsbroker unlock"}
}
