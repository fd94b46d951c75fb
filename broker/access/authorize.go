package access

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"

	"github.com/stsbroker/stsbroker/broker"
)

var _ broker.Authorizer = (*Tokens)(nil)

// Authenticate returns the right that a token carries, as shown by a client,
// and notes that it was used. The caller must not change what it points to.
// The error is of [broker.KindUnauthorized]; only its cause tells an expired
// token from one that never was. While tokens are locked, it is of
// [broker.KindLocked]. There is no lock-out after failures: some
// SDKs try again without the token (wire contract, line 5).
//
// It takes no lock and allocates nothing for a good token.
func (t *Tokens) Authenticate(shown string) (*broker.Grant, error) {
	id, ok := idOf(shown)
	if !ok {
		if shown == "" {
			return nil, unauthorized("no token", "no token was sent")
		}
		return nil, unauthorized(badToken, "not shaped like a token of ours")
	}
	live := t.live.Load()
	if live == nil {
		return nil, t.answer()
	}
	k := (*live)[id]
	if k == nil {
		return nil, unauthorized(badToken, "no token has this id: made by another broker, revoked, expired, replaced in its file, or its child has ended")
	}
	var buf [tokenLength]byte
	copy(buf[:], shown)
	if hash := sha256.Sum256(buf[:]); subtle.ConstantTimeCompare(hash[:], k.hash[:]) != 1 {
		return nil, unauthorized(badToken, "wrong value for token "+k.grant.ID)
	}
	if k.expired() {
		return nil, unauthorized(badToken, fmt.Sprintf("token %s was idle for more than %s, and what it fetched has ended", k.grant.ID, EnvIdle))
	}
	t.touch(k)
	if k.asking != nil && t.rules.Load().wantPeer(k.grant.Name) {
		return k.asking, nil
	}
	return &k.grant, nil
}

const badToken = "token unknown, expired or revoked"

func unauthorized(what, cause string) error {
	return &broker.Error{
		Kind:   broker.KindUnauthorized,
		Public: what + `; run: eval "$(stsbroker env PROFILE)"`,
		Cause:  errors.New(cause),
	}
}

// Authorize implements [broker.Authorizer].
//
// At the container door the caller's token decides: it must hold the profile
// by its exact name and, where it is bound to a user, admit the peer; and if there are
// rules, one must give the profile to that token, or to the peer (see [Tokens.SetRules]).
// Wherever nobody shows a token, the peer must be the user who runs the broker, or have
// a rule of its uid for the profile; for the profile "", which asks whether to let it in at
// all, for any. Whoever is unknown is refused. At the two sockets root is let in too, who
// can open any file: over TCP, uid 0 may be a container's root without any power, or
// a service that can be made to fetch an address. The writer of files is the broker
// itself.
//
// What a client reads is the same whether the profile exists or not. Allowing
// allocates nothing.
func (t *Tokens) Authorize(_ context.Context, who broker.Caller, profile string) error {
	uid, known := who.Peer.UID()
	switch who.Door {
	case broker.DoorContainer:
		if err := t.whileLocked(); err != nil {
			return err
		}
		k := t.all()[who.Token]
		switch {
		case k == nil || k.expired():
			return unauthorized(badToken, "the token ended after it was recognised, or none was shown")
		case !slices.Contains(k.grant.Profiles, profile):
			return forbidden(profile, fmt.Sprintf("token %s is for %q", k.grant.ID, k.grant.Profiles))
		}
		if err := k.grant.Admits(who.Peer); err != nil {
			return forbidden(profile, err.Error())
		}
		if why := t.withheld(k, who.Peer, profile); why != "" {
			return forbidden(profile, "token "+k.grant.ID+": "+why)
		}
		return nil
	case broker.DoorControl, broker.DoorIMDS, broker.DoorPeer, broker.DoorSocket:
		overFile := who.Door == broker.DoorControl || who.Door == broker.DoorSocket
		if !known {
			return forbidden(profile, "the caller's uid is unknown")
		}
		if t.owns(uid) || uid == 0 && overFile {
			return nil
		}
		r := t.rules.Load()
		if profile == "" && r.admit(uid) || r.give(asked{uid: uid, known: true}, profile) {
			return nil
		}
		return forbidden(profile, fmt.Sprintf("uid %d is not the broker's own, %d, and %s", uid, t.owner, r.missing(asked{uid: uid, known: true})))
	case broker.DoorFile:
		return nil
	}
	return forbidden(profile, fmt.Sprintf("no rule for the door %q", who.Door))
}

func forbidden(profile, cause string) error {
	if IsToken(profile) { // shown in the wrong place, by mistake perhaps, and good all the same
		profile = "(a token)"
	}
	return &broker.Error{
		Kind:    broker.KindForbidden,
		Profile: clip(profile),
		Public:  fmt.Sprintf("profile %q is not yours to use, or there is none of that name; stsbroker status lists yours", clip(profile)),
		Cause:   errors.New(cause),
	}
}
