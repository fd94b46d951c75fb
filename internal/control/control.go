// Package control is the private API between the command line and a running
// broker: JSON over HTTP on a Unix socket, one POST a call. It is not for other
// programs and may change with every version.
//
// [Service] is the whole of it. A [Client] is one end, [Handler] serves the
// other; a command that works without a daemon calls an embedded Service
// directly.
//
// Who may call is decided by the server from what the kernel tells of the peer
// (see [Handler]); the calls themselves carry no credentials.
package control

import (
	"context"
	"fmt"
	"io"
	"time"
)

// Service is what the command line asks of a broker. Errors are [*Error]; those of
// a [Client] whose context ended before the answer are that context's cause.
type Service interface {
	// Status returns how profiles stand: one, or all for "".
	Status(ctx context.Context, profile string) (Status, error)
	// Credentials returns a profile's session credentials, waiting up to the
	// patience of a credential process.
	Credentials(ctx context.Context, profile string) (Credentials, error)
	// Refresh mints now and returns how the profile stands then.
	Refresh(ctx context.Context, profile string) (Profile, error)
	// Login mints with a code of the MFA device that the profile, or a source of
	// it, waits for, and returns how the profile stands then.
	Login(ctx context.Context, profile, code string) (Profile, error)
	// WhoAmI asks STS whose credentials the profile's are.
	WhoAmI(ctx context.Context, profile string) (Identity, error)
	// Decode asks STS what an encoded message of a denied call says, as JSON.
	Decode(ctx context.Context, profile, message string) (string, error)
	// KeyInfo tells what is known of a long-term key: by its name, by the name of
	// the AWS profile that holds it, or by its id. With the id of a key that is
	// not ours, the profile's credentials sign; else it may be "".
	KeyInfo(ctx context.Context, name, profile string) (KeyInfo, error)
	// IdentityToken asks AWS for a token by which other services know the profile.
	IdentityToken(ctx context.Context, t IdentityTokenRequest) (IdentityToken, error)
	// Env returns where a shell's programs find the profile. With file, the token
	// is in a file that vanishes when the broker stops.
	Env(ctx context.Context, profile string, file bool) (Endpoint, error)
	// Child mints, and returns where one child process finds the profile. With
	// resume, the token that the child has from a broker which has ended since,
	// it mints nothing and makes that token good again.
	Child(ctx context.Context, profile, resume string) (Child, error)

	// SignIn begins a sign-in for a profile whose credentials come from IAM Identity
	// Center, or joins the one under way. It goes on until it is done, or nobody
	// waits any more.
	SignIn(ctx context.Context, profile string, device bool) (SignIn, error)
	// Logout forgets the login that the profile stands on, or else what was minted
	// for it, and all that was minted with that.
	Logout(ctx context.Context, profile string) (Loggedout, error)

	// Custody returns what opens sealed state, and whether it is open.
	Custody(ctx context.Context) (Custody, error)
	// Unlock opens custody.
	Unlock(ctx context.Context, u Unlocking) (Custody, error)
	// Lock closes custody: nothing that rests sealed can be read until Unlock.
	Lock(ctx context.Context) (Custody, error)
	// Keys returns all long-term keys, without asking STS about any.
	Keys(ctx context.Context) ([]KeyInfo, error)
	// AddKey puts a key in custody.
	AddKey(ctx context.Context, k NewKey) (KeyInfo, error)
	// RemoveKey takes it out for good, and returns what IAM still has of it beside the
	// key itself, in words. With force also while a rotation is not at its end.
	RemoveKey(ctx context.Context, name string, force bool) (leaves string, err error)
	// RotateKey replaces a key by a new one of the same IAM user, or goes on where an
	// earlier call was cut off.
	RotateKey(ctx context.Context, r RotateRequest) (Rotation, error)

	// Reload reads the configuration again. On an error nothing has changed.
	Reload(ctx context.Context) (Reloaded, error)
	// Ready tells which prefetched profiles hold nothing yet.
	Ready(ctx context.Context) (Readiness, error)

	CreateToken(ctx context.Context, t NewToken) (Token, error)
	Tokens(ctx context.Context) ([]Token, error)
	RevokeToken(ctx context.Context, name string) error
}

// Status is the answer to "how do things stand".
type Status struct {
	Version    string    `json:"version"`
	PID        int       `json:"pid"`
	Started    time.Time `json:"started"`
	Container  []string  `json:"container"`                 // addresses of the container door
	Socket     string    `json:"socket,omitempty"`          // that gives credentials
	IMDS       []IMDS    `json:"imds"`                      // the IMDS doors
	TokenFiles []File    `json:"token_files"`               // files with a token, kept by the broker
	Files      []File    `json:"files"`                     // files with credentials, kept by the broker
	Sealed     *Sealed   `json:"sealed,omitempty"`          // where leases outlive the broker; nil for in memory only
	Custody    string    `json:"custody"`                   // "none", "locked" or "open": what rests sealed
	Problem    string    `json:"custody_problem,omitempty"` // why it is locked, in one line
	Changed    []string  `json:"changed"`                   // environment variables that changed something
	Lame       []Region  `json:"lame_regions"`              // where STS does not answer
	Config     string    `json:"config,omitempty"`          // path of stsbroker.yaml, where there is one
	Loaded     time.Time `json:"loaded"`                    // when what is served was read
	Failed     string    `json:"reload_failed,omitempty"`   // why what is on disk since is not served
	Profiles   []Profile `json:"profiles"`
}

// Reloaded is what came of reading the configuration again.
type Reloaded struct {
	Profiles int      `json:"profiles"` // that are served now
	Changed  []string `json:"changed"`  // profiles: +NAME came, -NAME went, NAME is defined otherwise
}

// Readiness is whether the profiles that are minted ahead can be had.
type Readiness struct {
	Waiting []string `json:"waiting"` // those that hold nothing
}

// IMDS is where a profile is served as an instance metadata service.
type IMDS struct {
	URL     string `json:"url"` // without a slash at its end
	Profile string `json:"profile"`
	AllowV1 bool   `json:"allow_v1"`
}

// File is one that the broker keeps up to date.
type File struct {
	Path     string   `json:"path"`
	Profiles []string `json:"profiles"`          // the first is its default
	Problem  string   `json:"problem,omitempty"` // why it is not as it should be, in one line
}

// Sealed is what outlives the broker, and what opens it.
type Sealed struct {
	File     string `json:"leases"`
	Identity string `json:"identity"`        // path
	From     string `json:"identity_from"`   // who named it: a variable, or systemd
	SameDisk bool   `json:"same_disk"`       // the identity is on the file system of what it opens
	Unsaved  bool   `json:"unsaved"`         // something waits to be saved
	Error    string `json:"error,omitempty"` // of the last save
}

// Region is a region whose STS does not answer.
type Region struct {
	Name  string    `json:"region"`
	Since time.Time `json:"since"`
	Why   string    `json:"why"` // one line
}

// Profile is how one profile stands. Durations are seconds from the moment of
// the answer.
type Profile struct {
	Name       string   `json:"profile"`
	State      string   `json:"state"`
	Origin     string   `json:"origin"`
	Action     string   `json:"action,omitempty"`
	Source     string   `json:"source,omitempty"`
	Region     string   `json:"region,omitempty"`
	MintRegion string   `json:"mint_region,omitempty"` // whose STS issued what is held
	MFA        string   `json:"mfa_device,omitempty"`  // whose code a login wants
	SignIn     string   `json:"sign_in,omitempty"`     // where a login is a sign-in: to which session of IAM Identity Center
	AccountID  string   `json:"account_id,omitempty"`
	RoleARN    string   `json:"role_arn,omitempty"`
	Compatible bool     `json:"compatible,omitempty"` // a store that speaks STS mints, not AWS, as far as its address tells
	KeyID      string   `json:"access_key_id,omitempty"`
	Generation uint64   `json:"generation,omitempty"`
	Left       float64  `json:"seconds_left,omitempty"`
	Expiration string   `json:"expiration,omitempty"`      // as clients are told
	Granted    float64  `json:"seconds_granted,omitempty"` // the whole life of what is held
	RenewIn    float64  `json:"seconds_to_renewal,omitempty"`
	Prefetch   bool     `json:"prefetch,omitempty"` // minted without being asked for
	Failures   int      `json:"failures,omitempty"`
	LastError  string   `json:"last_error,omitempty"`
	Reason     string   `json:"unservable,omitempty"`
	Notes      []string `json:"notes,omitempty"`
}

// Credentials are a profile's, as a credential process prints them.
type Credentials struct {
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey string `json:"SecretAccessKey"`
	SessionToken    string `json:"SessionToken"`
	Expiration      string `json:"Expiration"`
	AccountID       string `json:"AccountId,omitempty"`
}

// Format implements fmt.Formatter: the secrets are not printed.
func (c Credentials) Format(w fmt.State, _ rune) {
	_, _ = fmt.Fprintf(w, "{credentials %s}", c.AccessKeyID)
}

// Identity is what GetCallerIdentity answered.
type Identity struct {
	Account string `json:"account"`
	ARN     string `json:"arn"`
	UserID  string `json:"user_id"`
}

// KeyInfo is what may be told of a long-term key.
type KeyInfo struct {
	Name     string    `json:"name,omitempty"`    // "" for one that is not ours
	Custody  string    `json:"custody,omitempty"` // as in stsbroker.yaml, or "profile" for the AWS files
	KeyID    string    `json:"access_key_id"`
	Account  string    `json:"account,omitempty"`
	User     string    `json:"user,omitempty"`            // the IAM user's name
	Profile  string    `json:"profile,omitempty"`         // of the AWS files, whose key it is
	Added    time.Time `json:"added,omitzero"`            // of this very key
	Rotation string    `json:"rotation,omitempty"`        // what is left to do of one, in words
	Problem  string    `json:"problem,omitempty"`         // why it cannot be had now, in one line
	Unknown  string    `json:"account_unknown,omitempty"` // why STS did not tell the account, in one line
}

// NewKey is a long-term key on its way into custody.
type NewKey struct {
	Name       string `json:"name"`
	Custody    string `json:"custody,omitempty"` // "sealed" or "keyring"; "" for what the configuration says, else "sealed"
	KeyID      string `json:"access_key_id"`
	Secret     string `json:"secret_access_key"`
	Profile    string `json:"profile,omitempty"` // of the AWS files, that it is the key of from now on
	Replace    bool   `json:"replace,omitempty"` // the key that has the name, if there is one
	Unverified bool   `json:"unverified,omitempty"`
}

// Format implements fmt.Formatter: the secret is not printed.
func (k NewKey) Format(w fmt.State, _ rune) { _, _ = fmt.Fprintf(w, "{key %s, %s}", k.Name, k.KeyID) }

// RotateRequest asks for a new key in an old one's place.
type RotateRequest struct {
	Name    string  `json:"name"`
	Profile string  `json:"profile,omitempty"` // whose credentials sign the calls of IAM; "" for the key itself
	Grace   float64 `json:"grace_seconds"`     // how long the old key stays, inactive, before it is deleted
	DryRun  bool    `json:"dry_run,omitempty"`
}

// Rotation is how far one came.
type Rotation struct {
	Name        string    `json:"name"`
	Steps       []string  `json:"steps"` // that were done, or of a dry run: would be
	KeyID       string    `json:"access_key_id"`
	OldKeyID    string    `json:"old_access_key_id,omitempty"`
	DeleteAfter time.Time `json:"delete_after,omitzero"` // of the old key
	Hint        string    `json:"hint,omitempty"`        // what can still be done about the old key
}

// Custody is what opens sealed state.
type Custody struct {
	State    string `json:"state"`                   // "none", "locked" or "open"
	How      string `json:"how,omitempty"`           // "file", "systemd", "keyring", "passphrase" or "plugin"
	Identity string `json:"identity,omitempty"`      // path
	From     string `json:"identity_from,omitempty"` // who named it
	Wrapped  []byte `json:"wrapped,omitempty"`       // the sealed identity, which a passphrase or a plugin opens
	Plugin   string `json:"plugin,omitempty"`        // the plugin's identity, where nothing is sealed for it yet
	Problem  string `json:"problem,omitempty"`       // why it is locked, in one line
}

// Unlocking opens custody: with an identity, or where both are zero as the
// configuration says.
type Unlocking struct {
	Identity string `json:"identity,omitempty"` // text of an age identity file
	// Wrapped is a new identity as it is to rest in the state folder, where there is none yet.
	Wrapped []byte `json:"wrapped,omitempty"`
}

// Format implements fmt.Formatter: the identity is not printed.
func (Unlocking) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, "{unlocking}") }

// SignIn is a sign-in under way.
type SignIn struct {
	Session string    `json:"session"`
	URL     string    `json:"url"`
	Code    string    `json:"code,omitempty"` // to be compared with, or typed into, the page; "" where there is none
	First   bool      `json:"first"`          // whoever asked is to open the browser; others have it open already
	Expires time.Time `json:"expires"`

	// Wait returns how the profile stands when the sign-in is done. It is called once.
	Wait func() (Profile, error) `json:"-"`
}

// Loggedout is what was forgotten.
type Loggedout struct {
	What string `json:"what"`           // in words
	Sets int    `json:"sets"`           // session credentials that were dropped
	Note string `json:"note,omitempty"` // what did not work, in one line
}

// Most that GetWebIdentityToken and DecodeAuthorizationMessage take: AWS STS API
// reference.
const (
	MaxMessage   = 10_240 // characters
	MaxAudiences = 10
	MaxTags      = 50
)

// IdentityTokenRequest says what an identity token is to hold.
type IdentityTokenRequest struct {
	Profile   string            `json:"profile"`
	Audiences []string          `json:"audiences"`
	Algorithm string            `json:"algorithm"` // "RS256" or "ES384"
	Duration  int               `json:"seconds"`
	Tags      map[string]string `json:"tags,omitempty"`
}

// IdentityToken is a JWT, and when it ends.
type IdentityToken struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expiration"`
}

// Endpoint is where a program finds a profile.
type Endpoint struct {
	URI       string `json:"uri"`
	Path      string `json:"path"` // of URI
	Token     string `json:"token"`
	TokenFile string `json:"token_file,omitempty"`
	Region    string `json:"region,omitempty"`
}

// Child is an endpoint for one process. Its token dies with Release, or with the
// connection.
type Child struct {
	Endpoint
	Release func()
	Lost    <-chan struct{} // closed when the broker has gone; nil when it cannot go
	Revoked <-chan struct{} // closed when the token was revoked; at the client's end Lost never follows
}

// NewToken describes a token to make.
type NewToken struct {
	Name     string   `json:"name"`
	Profiles []string `json:"profiles"`
	UID      *uint32  `json:"uid,omitempty"`
}

// Token is a client's token. Value is set only in the answer to its making.
type Token struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Kind     string    `json:"kind"`
	Profiles []string  `json:"profiles"`
	UID      *uint32   `json:"uid,omitempty"`
	Created  time.Time `json:"created"`
	LastUsed time.Time `json:"last_used,omitzero"`
	Expires  time.Time `json:"expires,omitzero"`
	Value    string    `json:"value,omitempty"`
}

// Error is a failure as the other end tells it.
type Error struct {
	Kind    string `json:"kind"` // the domain's word, such as "denied"
	Profile string `json:"profile,omitempty"`
	Message string `json:"message"` // one line, to be shown as it is
}

// Error implements error.
func (e *Error) Error() string { return e.Message }
