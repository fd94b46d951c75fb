// Package login signs people in to IAM Identity Center and mints with what that
// gives: one sign-in feeds every role of its session for as long as the session
// lives. It does by itself what `aws sso login` and the SDKs' token providers do,
// with a client registration and a refresh token of its own, so that the two never
// spend each other's.
//
//   - login.go: sessions, the [Manager], and what it says of a session
//   - token.go: the access token: kept, refreshed, read from the AWS CLI's cache
//   - state.go: what is kept, in memory and as one sealed blob
//   - role.go: the minter of a role's credentials
//   - attempt.go: a person signs in; browser.go and device.go are the two ways
//   - api.go: the five calls; fault.go: what became of one that failed
//
// The calls are written here rather than taken from the SDK: they are plain JSON,
// and its two clients for them cost every daemon 0.6 MB of memory. Their shapes are
// those of the service models of SSO OIDC and SSO (2019-06-10); what goes to the
// browser, which no model has, is what the AWS CLI sends.
//
// No prompt ever comes from a mint: only [Manager.Begin] starts an attempt.
package login

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// defaultScope is what reading accounts, and with it GetRoleCredentials, needs; the
// AWS CLI asks for it where nothing else is configured.
const defaultScope = "sso:account:access"

// Session is a sign-in session, as a section [sso-session NAME] of the AWS config
// has it or, with Name "", the legacy sso_start_url and sso_region of a profile.
type Session struct {
	Name     string
	StartURL string   // https
	Region   string   // where IAM Identity Center is
	Scopes   []string // in any order; empty is sso:account:access
}

// String is what to call the session: its name, or else its start URL.
func (s Session) String() string {
	if s.Name != "" {
		return s.Name
	}
	return normal(s.StartURL)
}

// normal is a start URL without what the browser's address line shows behind it:
// people copy "https://NAME.awsapps.com/start/#/" as well as ".../start".
func normal(startURL string) string {
	at, _, _ := strings.Cut(startURL, "#")
	return strings.TrimRight(at, "/")
}

func (s Session) scopes() []string {
	if len(s.Scopes) == 0 {
		return []string{defaultScope}
	}
	return slices.Compact(slices.Sorted(slices.Values(s.Scopes)))
}

// key tells sessions apart. The AWS CLI keeps those of different names apart too,
// for people who have more than one user.
type key struct{ name, url, region, scopes string }

func (s Session) key() key {
	return key{s.Name, normal(s.StartURL), s.Region, strings.Join(s.scopes(), " ")}
}

func (k key) session() Session {
	return Session{k.name, k.url, k.region, strings.Fields(k.scopes)}
}

// check says what of a session nobody can sign in with. A region becomes part of a
// host's name, and no secret goes to a host that somebody else chose.
func (s Session) check() error {
	u, err := url.Parse(s.StartURL)
	switch {
	case err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil:
		return &broker.Error{Kind: broker.KindConfig, Public: "sso_start_url is not an https address; copy the AWS access portal URL of IAM Identity Center"}
	case !isRegion(s.Region):
		return &broker.Error{Kind: broker.KindConfig, Public: "sso_region is not the name of a region; it is the one where IAM Identity Center is"}
	}
	return nil
}

func isRegion(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && s[0] != '-' && s[len(s)-1] != '-'
}

// Vault keeps the sign-ins where only an identity opens them: broker/vault.Vault.
// While it is locked, or has no identity, they live in memory. Update reads, changes and
// writes under a lock: a refresh holds that, so that no two processes ever spend one
// refresh token.
type Vault interface {
	Read(name string) ([]byte, error)
	Update(name string, f func(old []byte) ([]byte, error)) error
}

// Options are what a [Manager] needs. The zero value is AWS's own endpoints, the
// system's roots, no proxy, memory alone, and no look at the AWS CLI's cache.
type Options struct {
	Vault Vault // nil for none

	RootCAs *x509.CertPool
	Proxy   func(*http.Request) (*url.URL, error) // toward https endpoints only; nil for none
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error)

	// CLICache is the folder where the AWS CLI keeps its tokens, ~/.aws/sso/cache.
	// It is only ever read, and only access tokens are. "" for none.
	CLICache string

	// Endpoint gives the base URL of "oidc" or "portal.sso" in a region, https or http
	// to loopback; "" is AWS's own. nil is AWS's own for all.
	Endpoint func(service, region string) string

	// Changed is told of a session that somebody has signed in to, here or in another
	// process: what failed for want of it can be tried again. It may be called from
	// any goroutine and holds no lock of this package.
	Changed func(Session)

	// Report is told what a person should know and no call returns: a sign-in that
	// could not be written. Each is one line without a secret.
	Report func(error)
}

// Manager holds the sign-ins of all sessions. Its methods are safe for concurrent use.
type Manager struct {
	o   Options
	api api

	// disk is held while what is kept changes, over the refresh that changes it too. A
	// channel, so that whoever waits for it can give up.
	disk chan struct{}

	mu      sync.Mutex
	held    state
	entries map[key]*entry
	mended  []Session // to be told when m.disk is free
	shut    bool      // by Lock, and the vault has not opened since
	locks   int       // how often: what was read before a lock is not held after it
	// unwritten is why what is held is in memory alone, nil where it is not.
	unwritten error
	said      string // what Report was told last
}

// entry is what memory alone knows of a session.
type entry struct {
	flight  *flight
	attempt *attempt
	pause   pause
	ownNo   broker.Secret // the access token of our own that the portal refused
	cliNo   broker.Secret // the CLI's that it refused, or that a sign-out means too
}

// New returns a manager. It reads nothing yet: see [Manager.Reload].
func New(o Options) *Manager {
	if o.Changed == nil {
		o.Changed = func(Session) {}
	}
	if o.Report == nil {
		o.Report = func(error) {}
	}
	return &Manager{o: o, api: newAPI(o), disk: make(chan struct{}, 1), held: newState(), entries: map[key]*entry{}}
}

// entryLocked is the session's entry; m.mu is held.
func (m *Manager) entryLocked(k key) *entry {
	e := m.entries[k]
	if e == nil {
		e = &entry{}
		m.entries[k] = e
	}
	return e
}

// Reload makes memory and the vault one: of each session the newer sign-in counts,
// and what memory alone had is written. To be called at the start, and when the
// vault opens; a vault that is locked or has no identity is no error.
func (m *Manager) Reload(ctx context.Context) error {
	if err := m.lockDisk(ctx); err != nil {
		return err
	}
	defer m.unlockDisk()
	if err := m.transact(func(*state) {}); err != nil && !closed(err) {
		return fmt.Errorf("sign-ins to IAM Identity Center are kept in memory alone: %w", err)
	}
	return nil
}

// Lock forgets the tokens that memory holds, after a last try to write what only memory
// has, and calls closeVault, which locks the vault, before anybody can read them again.
// Both are done whatever fails, and when ctx ends too; the error, one line, says what
// closeVault said, or that somebody must sign in again since nothing had been written.
//
// What was signed out of stays so. Attempts that run go on. Until the vault opens, the
// AWS CLI's tokens are not used either.
func (m *Manager) Lock(ctx context.Context, closeVault func() error) error {
	if m.lockDisk(ctx) == nil {
		defer m.unlockDisk()
		_ = m.transact(func(*state) {})
	}
	closing := closeVault()
	m.mu.Lock()
	defer m.mu.Unlock()
	var lost error
	if m.unwritten != nil && m.held.any() {
		lost = fmt.Errorf("sign-ins to IAM Identity Center were in memory alone and are forgotten: %w", m.unwritten)
	}
	m.locks++
	m.shut, m.held = true, m.held.signOuts()
	for _, e := range m.entries {
		e.ownNo = broker.Secret{}
	}
	switch {
	case closing == nil:
		return lost
	case lost != nil:
		return fmt.Errorf("%w; and %w", closing, lost)
	}
	return closing
}

const signOutTimeout = 5 * time.Second

// SignOut ends an attempt that waits for a person, forgets the session's tokens, in memory and in the vault, and tells AWS,
// which ends the session there. The client registration stays. The error says what
// could not be done; memory is forgotten whatever it says.
//
// The AWS CLI's token is not ours to remove. It is not used any more until the CLI
// signs in again, or this process ends.
func (m *Manager) SignOut(ctx context.Context, s Session) error {
	m.mu.Lock()
	if a := m.entryLocked(s.key()).attempt; a != nil { // what comes of it would undo this
		a.cancel(errSignedOut)
	}
	m.mu.Unlock()
	if err := m.lockDisk(ctx); err != nil {
		return err
	}
	defer m.unlockDisk()
	k := s.key()
	var was tokens
	var faults []string
	err := m.transact(func(next *state) {
		was = next.sessions[k]
		next.put(k, tokens{})
	})
	switch {
	case err == nil, errors.Is(err, errNoVault):
	case locked(err):
		faults = append(faults, "what is sealed of it stays until custody is unlocked; run stsbroker unlock")
	default:
		faults = append(faults, "its tokens could not be removed from the state folder: "+err.Error())
	}
	if c, err := m.fromCLI(s); err == nil && left(c.expires, time.Now()) > 0 {
		m.mu.Lock()
		m.entryLocked(k).cliNo = c.access
		m.mu.Unlock()
		faults = append(faults, "the AWS CLI is signed in to it too; aws sso logout ends that")
	}
	if err := m.tellAWS(ctx, s, was); err != nil {
		faults = append(faults, "AWS was not told: "+err.Error())
	}
	if len(faults) > 0 {
		return fmt.Errorf("signed out of %s, but %s", s, strings.Join(faults, "; and "))
	}
	return nil
}

// tellAWS ends the session at AWS. That takes an access token; where only a refresh
// token is left, it gets one first.
func (m *Manager) tellAWS(ctx context.Context, s Session, was tokens) error {
	ctx, cancel := context.WithTimeout(ctx, signOutTimeout)
	defer cancel()
	now := time.Now()
	switch {
	case left(was.expires, now) > 0:
	case was.refreshable(now):
		t, err := m.api.refresh(ctx, s, was)
		if ended(err) {
			return nil // there is no session to end
		}
		if err != nil {
			return err
		}
		was = t
	default:
		return nil
	}
	err := m.api.logout(ctx, s, was.access)
	if f := asFault(err); f != nil && f.code == codeUnauthorized {
		return nil
	}
	return err
}

func (m *Manager) lockDisk(ctx context.Context) error {
	select {
	case m.disk <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// unlockDisk tells of sessions that can be had again, on goroutines of their own:
// whoever is told may ask this package, or wait for what waits for this.
func (m *Manager) unlockDisk() {
	mended := m.takeMended()
	<-m.disk
	for _, s := range mended {
		go m.o.Changed(s)
	}
}

func (m *Manager) takeMended() []Session {
	m.mu.Lock()
	defer m.mu.Unlock()
	mended := m.mended
	m.mended = nil
	return mended
}
