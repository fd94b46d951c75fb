//go:build !race

package seal

// workFactor of a passphrase: 2^18 takes a second, and 256 MB.
const workFactor = 18
