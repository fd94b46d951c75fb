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
	Region          string // whose endpoint issued it; "" where that means nothing

	// Issued and Expires are on the issuer's clock (the Date header of its
	// answer), so their difference is the true lifetime however wrong the
	// host's clock may be. See [Set.Left] for the way back to the host.
	Issued  time.Time
	Expires time.Time

	// Note says what a person should know of how this set came about, such as
	// a duration that STS refused and that was shortened. "" for nothing.
	Note string
}

// ValidKeyID reports whether an access key id has the form that the STS API
// reference gives AccessKeyId: 16 to 128 letters, digits and underscores.
func ValidKeyID(id string) bool {
	for _, c := range []byte(id) {
		if !('A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_') {
			return false
		}
	}
	return 16 <= len(id) && len(id) <= 128
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
	// earlier than the real one by [Margin], because several SDKs sign
	// until the last second of what they were told.
	Advertised time.Time

	received time.Time     // the host's clock when the answer came, with its monotonic part
	margin   time.Duration // see [Margin]
	renewAt  time.Duration // time left at which renewal starts: [RenewLeft] with this generation's jitter
}

// newSet puts credentials on the host's clock. r in [0, 1) is the jitter.
func newSet(c Credentials, received time.Time, generation uint64, r float64) *Set {
	s := &Set{
		Credentials: c, Generation: generation, received: received,
		margin: Margin(c.Lifetime()), renewAt: RenewLeft(c.Lifetime(), r),
	}
	s.Advertised = received.Round(0).Add(c.Lifetime() - s.margin)
	return s
}

// reanchored is the same set after the wall clock jumped: the time left stays
// what it is, and the advertised expiry is where the wall clock will then be.
func (s *Set) reanchored(now time.Time) *Set {
	c := *s
	left := s.Left(now)
	c.received = now.Add(left - s.Lifetime())
	c.Advertised = now.Round(0).Add(left - s.margin)
	return &c
}

// Left is the time until the set really expires.
//
// Since the answer came, at least as much time passed as either of the host's
// clocks says: the monotonic clock stands still while a laptop sleeps, the wall
// clock may be set back. Taking the larger of the two errs toward "expired".
func (s *Set) Left(now time.Time) time.Duration {
	return s.Lifetime() - max(now.Sub(s.received), wallSince(now, s.received))
}

// Expiration is Advertised as every AWS SDK reads it: UTC, whole seconds,
// rounded down.
func (s *Set) Expiration() string { return s.Advertised.UTC().Format("2006-01-02T15:04:05Z") }

// usable reports whether the set may be handed out without trying for a newer one.
func (s *Set) usable(now time.Time) bool { return s != nil && s.Left(now) > s.margin }

// stepped reports how far the host's wall clock has run away from its monotonic
// clock since the answer came: a suspend or a clock that was set.
func (s *Set) stepped(now time.Time) time.Duration {
	return wallSince(now, s.received) - now.Sub(s.received)
}

func wallSince(now, then time.Time) time.Duration { return now.Round(0).Sub(then.Round(0)) }
