// Package broker is the domain of stsbroker: it keeps one lease for each way
// to obtain AWS session credentials, renews what each lease holds ahead of
// expiry, and hands the current set to whoever may have it.
//
// One idea carries it: a lease per set of mint parameters, kept fresh by its
// own small loop; every front door only reads leases. Nothing on the way of a
// request waits for the network unless nothing usable is held.
//
// The package imports only the standard library. What touches the world comes
// in through four small interfaces: [Minter] (a call that issues credentials),
// [Keys] (long-term credentials in custody), [Authorizer] (who may ask for
// what) and [Observer] (logs and metrics). [LeaseStore] is where sets outlive
// a lease.
//
// # Reading order
//
//   - credentials.go, secret.go: what is carried
//   - profile.go: what a profile is, and the key two equal profiles share
//   - policy.go: every number of the renewal policy, as pure functions
//   - lease.go: the loop of one lease; what it does next is decided by one
//     pure function, [decide]
//   - budget.go: how fast we may call STS, and in which order
//   - broker.go: asking, reloading, running
//   - errors.go, event.go: what is told to clients, and to operators
package broker
