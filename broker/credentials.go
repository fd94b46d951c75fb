package broker

import "time"

// Credentials is one set of session credentials as STS, or another issuer,
// handed it out. It is a value: nobody changes a set after it was minted.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey Secret
	SessionToken    Secret
	AccountID       string // 12 digits; "" when unknown
	RoleARN         string // the role as asked for; "" when there is none

	// Issued and Expires are on the issuer's clock (the Date header of its
	// answer), so their difference is the true lifetime however wrong the
	// host's clock may be. See [Set.Left] for the way back to the host.
	Issued  time.Time
	Expires time.Time

	// Note says what a person should know of how this set came about, such as
	// a duration that STS refused and that was shortened. "" for nothing.
	Note string
}

// Lifetime is how long the set was granted for.
func (c Credentials) Lifetime() time.Duration { return c.Expires.Sub(c.Issued) }

// Material returns the keys to sign a call with.
func (c Credentials) Material() Material {
	return Material{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, SessionToken: c.SessionToken}
}

// Material signs a call: a long-term key pair (no session token) or session
// credentials. The zero value signs nothing (web identity, credential process).
type Material struct {
	AccessKeyID     string
	SecretAccessKey Secret
	SessionToken    Secret
}

// Temporary reports whether the material is session credentials. STS grants a
// role at most one hour to such a caller (role chaining).
func (m Material) Temporary() bool { return !m.SessionToken.IsZero() }

// Set is what a lease holds and a front door serves: credentials, and how they
// stand on this host's clock. A Set is immutable and shared by all readers; a
// door may keep what it rendered from one for as long as the pointer is the same.
type Set struct {
	Credentials
	Generation uint64 // 1 for the first set of a lease, counting up

	// Advertised is the expiry to tell clients, on the host's wall clock:
	// earlier than the real one by [Policy.Margin], because several SDKs sign
	// until the last second of what they were told.
	Advertised time.Time

	received time.Time // the host's clock when the answer came, with its monotonic part
	soft     time.Duration
	margin   time.Duration
	renewAt  time.Duration // left at which renewal starts: soft mark plus this generation's jitter
}

// Left is the time until the set really expires.
//
// Since the answer came, at least as much time passed as either of the host's
// clocks says: the monotonic clock stands still while a laptop sleeps, the wall
// clock may be set back. Taking the larger of the two errs toward "expired".
func (s *Set) Left(now time.Time) time.Duration {
	return s.Lifetime() - max(now.Sub(s.received), wallSince(now, s.received))
}

// Received is when the answer came, on the host's clock.
func (s *Set) Received() time.Time { return s.received }

// usable reports whether the set may be handed out without trying for a newer one.
func (s *Set) usable(now time.Time) bool { return s != nil && s.Left(now) > s.margin }

// stepped reports how far the host's wall clock has run away from its monotonic
// clock since the answer came: a suspend or a clock that was set.
func (s *Set) stepped(now time.Time) time.Duration {
	return wallSince(now, s.received) - now.Sub(s.received)
}

func wallSince(now, then time.Time) time.Duration { return now.Round(0).Sub(then.Round(0)) }
