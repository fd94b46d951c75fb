//go:build race

package seal

// workFactor of a passphrase in tests with the race detector, under which scrypt takes
// ten times as long. No program is built that way to be used.
const workFactor = 12
