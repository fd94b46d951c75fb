package broker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"
)

// MaxName is the length of the longest name of a profile or token, in bytes.
const MaxName = 128

// Profile is a named way to obtain credentials: AWS's own word.
type Profile struct {
	Name   string
	Region string // for the client's SDK and the regional STS endpoint; "" when nothing says
	Origin string // where it is defined, "FILE:LINE"
	Action string // the call that mints: "AssumeRole", "GetSessionToken", …, "credential_process"

	Minter Minter // nil exactly when Unservable is not
	Parent Ref    // whose credentials sign the mint; zero for none
	Signer string // of a Parent that is a key: its id, since another key may come to have the name

	// Bucket names the budget that mints draw on: the account and region that
	// STS counts them under. "" for mints that no one limits (a local process).
	Bucket string

	MFA string // the device whose code a person gives for each mint; "" when none does

	SignIn string // the sign-in session of IAM Identity Center whose token mints; "" for none

	Prefetch bool // minted at start and renewed without being asked for
	Hidden   bool // feeds other profiles but is not served itself
	Once     bool // minted by [Broker.Refresh] alone, for one child of exec: never renewed, never stored

	Unservable error    // why it cannot be served, in words that name file, line and cure; nil when it can
	Notes      []string // what a person should know before relying on it
}

// Ref names what signs a mint: another profile's session credentials, or a
// long-term key in custody. At most one field is set.
type Ref struct {
	Profile string
	Key     string
}

// Minter issues session credentials by one call. Implementations are values
// that are safe for concurrent use; the broker never runs two mints of one
// lease at once.
//
// An error should be an [*Error], whose Kind decides whether the broker tries
// again; any other error counts as [KindUnavailable].
type Minter interface {
	Mint(ctx context.Context, in MintInput) (Credentials, error)
	// Digest covers every parameter that goes into the call, endpoint
	// included, but not the parent: the broker adds that.
	Digest() Digest
}

// MintInput is what the broker hands a [Minter] for one call.
type MintInput struct {
	Parent Material // zero when the profile has no parent
	Code   Secret   // of an MFA device, given by a person for this one mint; zero for none
}

// Keys hands out long-term credentials from custody, by name. It is asked at
// every mint, so that a key changed on disk counts from the next mint on.
type Keys interface {
	Key(ctx context.Context, name string) (Material, error)
}

// Digest identifies a set of mint parameters. It reveals nothing about them.
type Digest [sha256.Size]byte

// String returns the digest in hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// DigestOf hashes the parameters of a mint, each with its length, so that no
// two different lists give one digest. kind keeps different mints apart.
func DigestOf(kind string, params ...string) Digest {
	h := sha256.New()
	write := func(s string) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	write(kind)
	for _, p := range params {
		write(p)
	}
	return Digest(h.Sum(nil))
}

// Key identifies a lease. Two profiles share one only if every mint parameter
// is equal, those of all parents too, and the long-term key's name and id.
type Key struct {
	Digest  Digest
	Subject string // "" until sessions per caller come
}

// Peer is what the kernel tells of the process at the other end of a
// connection. The zero value means unknown, which is never taken for root.
type Peer struct {
	uid   uint32
	pid   int32
	known bool
}

// NewPeer records a uid that the kernel vouched for; pid is 0 when not told.
func NewPeer(uid uint32, pid int32) Peer { return Peer{uid: uid, pid: pid, known: true} }

// UID returns the peer's user and whether it is known.
func (p Peer) UID() (uid uint32, known bool) { return p.uid, p.known }

// PID returns the peer's process and whether it is known.
func (p Peer) PID() (pid int32, known bool) { return p.pid, p.known && p.pid != 0 }

// Doors, as they appear in events and metrics.
const (
	DoorContainer = "container"
	DoorControl   = "control"        // the command line, over the Unix control socket
	DoorIMDS      = "imds"           // the instance metadata service
	DoorPeer      = "container-peer" // the container endpoint, without a token: known by the kernel's word alone
	DoorSocket    = "socket"         // credentials over a Unix socket
	DoorFile      = "file"           // the writer of a credentials file
)

// Caller is who asks.
type Caller struct {
	Door   string
	Remote netip.AddrPort // zero on a Unix socket
	Peer   Peer
	Token  string // id of the token shown, never its value; "" for none
	Exec   bool   // a child of exec, or exec itself on its behalf
}

// Grant is the right that a token carries.
type Grant struct {
	ID       string
	Name     string   // what a person calls it
	Profiles []string // in order; the first is the default
	UID      uint32   // the second factor; read only when BoundUID
	BoundUID bool
	Exec     bool // of a child of exec: only these may have profiles that are minted once

	// NeedsPeer asks for the kernel's word about the caller although the grant is bound
	// to nobody: there are rules for users.
	NeedsPeer bool
}

// Admits is the second factor of a grant that is bound to a user: the kernel
// must say that the caller is that user, or root, who could become it. A peer
// that the kernel does not tell is nobody: it may have closed its end so as to
// look like uid 0.
func (g *Grant) Admits(p Peer) error {
	uid, known := p.UID()
	switch {
	case !g.BoundUID || known && (uid == g.UID || uid == 0):
		return nil
	case !known:
		return fmt.Errorf("token %s is bound to uid %d, and the caller's is unknown", g.ID, g.UID)
	}
	return fmt.Errorf("token %s is bound to uid %d, and the caller's is %d", g.ID, g.UID, uid)
}

// Authorizer decides who may ask for what. The error it returns is an
// [*Error] of [KindForbidden] or [KindUnauthorized]; its cause says why, for the log.
type Authorizer interface {
	Authorize(ctx context.Context, who Caller, profile string) error
}

// Ask is one request for credentials.
type Ask struct {
	Caller   Caller
	Profile  string
	Patience time.Duration // how long the door lets its client wait when nothing usable is held
}

// LeaseStore keeps short-lived credentials beyond the lease that minted them.
// Every store passes cache/cachetest.
type LeaseStore interface {
	// Load returns [ErrNotFound] when there is nothing for k. It may return
	// expired credentials; the broker looks.
	Load(ctx context.Context, k Key) (Stored, error)
	// PutIfNewer stores c unless what is stored expires later: an older set
	// never replaces a newer one.
	PutIfNewer(ctx context.Context, k Key, c Stored) error
	// Delete is idempotent.
	Delete(ctx context.Context, k Key) error
}

// Stored is a set as a store keeps it: credentials and the host's clock when they came.
type Stored struct {
	Credentials
	Received time.Time
	// Local sets mean nothing to another process: what a command or the machine gives
	// depends on the environment, of which the lease's key tells nothing.
	Local bool
}
