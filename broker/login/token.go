package login

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

const (
	// renewLeft is how much of an access token's life is left when it is refreshed:
	// what AWS's SDK for JavaScript takes (EXPIRE_WINDOW_MS of its token providers).
	// botocore begins at 15 minutes and insists at 10.
	renewLeft = 5 * time.Minute
	// A refresh that failed is tried again after so long; the SDK for JavaScript waits
	// 30 seconds too. With no token to go on with, the broker says when.
	pauseHeld  = 30 * time.Second
	pauseEmpty = 2 * time.Second

	// flightTimeout bounds a refresh and the wait for its turn.
	flightTimeout = 3 * callTimeout

	maxCached = 64 << 10 // bytes of a file of the CLI's
)

// flight is a renewal that everybody who needs it waits for.
type flight struct {
	done  chan struct{}
	token broker.Secret
	err   error
}

// pause is the time after a refresh that failed.
type pause struct {
	until time.Time
	err   error
}

// left is the time until then, by whichever of the host's clocks says less: the
// monotonic one stands still in a suspend, the wall clock may be set back.
func left(until, now time.Time) time.Duration {
	return min(until.Sub(now), until.Round(0).Sub(now.Round(0)))
}

// token returns an access token. One with more than [renewLeft] is taken as it is;
// else it is refreshed, once for all who wait, on a context of its own. While a
// refresh fails in a way that passes, the old one is used to its end.
func (m *Manager) token(ctx context.Context, s Session) (broker.Secret, error) {
	now, k := time.Now(), s.key()
	m.mu.Lock()
	e := m.entryLocked(k)
	t := m.held.sessions[k].without(e.ownNo)
	switch {
	case left(t.expires, now) > renewLeft:
		m.mu.Unlock()
		return t.access, nil
	case now.Before(e.pause.until):
		err := e.pause.err
		m.mu.Unlock()
		if left(t.expires, now) > 0 {
			return t.access, nil
		}
		return broker.Secret{}, err
	}
	f := e.flight
	if f == nil {
		f = &flight{done: make(chan struct{})}
		e.flight = f
		go m.fly(s, f)
	}
	m.mu.Unlock()
	select {
	case <-f.done:
		return f.token, f.err
	case <-ctx.Done():
		return broker.Secret{}, &broker.Error{Kind: broker.KindUnavailable, Public: "the sign-in to " + s.String() + " is being refreshed; ask again", Cause: context.Cause(ctx)}
	}
}

func (m *Manager) fly(s Session, f *flight) {
	ctx, cancel := context.WithTimeout(context.Background(), flightTimeout)
	defer cancel()
	f.token, f.err = m.renew(ctx, s)
	m.mu.Lock()
	m.entryLocked(s.key()).flight = nil
	m.mu.Unlock()
	close(f.done)
}

// renew has a token by whatever way is left: the vault's, if another process has
// refreshed it, a refresh, the old one, the AWS CLI's; that not after [Manager.Lock], which
// is meant for all that a sign-in gave.
func (m *Manager) renew(ctx context.Context, s Session) (broker.Secret, error) {
	if err := m.lockDisk(ctx); err != nil {
		return broker.Secret{}, &broker.Error{Kind: broker.KindUnavailable, Public: "the sign-in to " + s.String() + " waits for another to be refreshed; it is tried again", Cause: err}
	}
	defer m.unlockDisk()
	k := s.key()
	m.mu.Lock()
	ownNo, cliNo := m.entryLocked(k).ownNo, m.entryLocked(k).cliNo
	m.mu.Unlock()

	var failed error
	over := false
	kept, changed := m.tryTransact(false, func(next *state) {
		now := time.Now()
		t := next.sessions[k]
		if left(t.without(ownNo).expires, now) > renewLeft || t.refresh.IsZero() {
			return
		}
		if t.refreshable(now) {
			fresh, err := m.api.refresh(ctx, s, t)
			if err == nil {
				next.put(k, fresh)
				return
			}
			if !ended(err) {
				failed = err
				return
			}
		}
		// It is over. The time of change stays what it was: should another process have
		// had a newer pair all along, that one counts.
		over = true
		t.refresh = broker.Secret{}
		next.sessions[k] = t
	})
	if !changed {
		failed = kept // another process refreshes, perhaps this very session
	} else {
		m.report(s, kept)
	}

	now := time.Now()
	m.mu.Lock()
	t := m.held.sessions[k].without(ownNo)
	shut := m.shut
	e := m.entryLocked(k)
	var err error
	if e.pause = (pause{}); failed != nil {
		err = refreshFailed(s, failed)
		wait := pauseEmpty
		if left(t.expires, now) > 0 {
			wait = pauseHeld
		}
		e.pause = pause{now.Add(wait), err}
	}
	m.mu.Unlock()
	if left(t.expires, now) > 0 {
		return t.access, nil
	}
	c, why := m.fromCLI(s)
	if why == nil && !shut && !c.access.Equal(cliNo) && left(c.expires, now) > 0 {
		return c.access, nil
	}
	switch {
	case err != nil:
		return broker.Secret{}, err
	case (shut || locked(kept)) && !over:
		return broker.Secret{}, broker.Locked()
	}
	if errors.Is(why, fs.ErrNotExist) {
		why = nil
	}
	return broker.Secret{}, signInNeeded(s, over || !t.client.secret.IsZero(), why)
}

// refuse notes an access token that the portal does not take any more, and reports
// whether it is worth asking for another one.
func (m *Manager) refuse(s Session, token broker.Secret) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := s.key()
	if e := m.entryLocked(k); m.held.sessions[k].access.Equal(token) {
		e.ownNo = token
	} else {
		e.cliNo = token
	}
}

// report tells of a vault that cannot be used, where that is no matter of course: once
// until it can.
func (m *Manager) report(s Session, err error) {
	if closed(err) {
		return
	}
	said := ""
	if err != nil {
		said = err.Error()
	}
	m.mu.Lock()
	again := m.said == said
	m.said = said
	m.mu.Unlock()
	if said != "" && !again {
		m.o.Report(fmt.Errorf("the sign-in to %s is kept in memory alone, and lost at a restart: %w", s, err))
	}
}

// fromCLI reads the token that the AWS CLI keeps for the session: in a file named
// after the SHA-1 of the session's name or, for a legacy profile, its start URL
// (botocore's SSOTokenLoader). The file may hold a refresh token as well; that is
// the CLI's to spend, and not even read.
func (m *Manager) fromCLI(s Session) (tokens, error) {
	if m.o.CLICache == "" {
		return tokens{}, fs.ErrNotExist
	}
	of := s.Name
	if of == "" {
		of = s.StartURL
	}
	sum := sha1.Sum([]byte(of))
	path := filepath.Join(m.o.CLICache, hex.EncodeToString(sum[:])+".json")
	data, err := securefile.Read(path, maxCached)
	if err != nil {
		return tokens{}, err
	}
	var c struct {
		StartURL    string `json:"startUrl"`
		Region      string `json:"region"`
		AccessToken string `json:"accessToken"`
		ExpiresAt   string `json:"expiresAt"`
	}
	if json.Unmarshal(data, &c) != nil { // the error's text may quote the file
		return tokens{}, errors.New(path + " is not a token of the AWS CLI; run aws sso login")
	}
	expires, err := time.Parse(time.RFC3339, c.ExpiresAt)
	if err != nil || !visible(c.AccessToken) {
		return tokens{}, errors.New(path + " holds no token of the AWS CLI; run aws sso login")
	}
	if normal(c.StartURL) != normal(s.StartURL) || c.Region != s.Region {
		return tokens{}, errors.New(path + " is of another start URL or region")
	}
	return tokens{access: broker.NewSecret(c.AccessToken), expires: expires}, nil
}
