package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/awssts"
	"github.com/stsbroker/stsbroker/broker/custody"
	"github.com/stsbroker/stsbroker/internal/control"
)

// The calls of STS that mint nothing.

// about puts what a call was about before what STS said to it.
func about(what, name string, err error) error {
	e := explain(err)
	return &control.Error{Kind: e.Kind, Profile: e.Profile, Message: what + " " + name + ": " + e.Message}
}

// signer is what signs such a call for a profile. A session of a key may call next
// to nothing of STS, so there the key itself signs, unless the session asks for a
// code: nothing is to go round that.
func (l local) signer(ctx context.Context, profile string) (broker.Material, error) {
	if p, _ := l.definition(profile); p.Action == "GetSessionToken" && p.Unservable == nil && !p.Hidden {
		key, plain := l.catalog.sessions[profile]
		if !plain {
			return broker.Material{}, &control.Error{Kind: "config", Profile: profile, Message: "profile " + profile +
				" is a session with MFA, which may not call this, and its key signs nothing without a code; name a role, or a session without MFA"}
		}
		m, err := l.catalog.keys.Key(ctx, key)
		if err != nil {
			return m, about("profile", profile, err)
		}
		return m, nil
	}
	set, err := l.get(ctx, profile)
	if err != nil {
		return broker.Material{}, explain(err)
	}
	return set.Material(), nil
}

// asks notes a call that mints nothing: who had what signed, and by which key.
func (l local) asks(action string, m broker.Material, about ...zap.Field) {
	fields := []zap.Field{zap.String("action", action), zap.String("key_id", m.AccessKeyID)}
	if uid, known := l.who.Peer.UID(); known {
		fields = append(fields, zap.Uint32("uid", uid))
	}
	l.log.Info("asks STS", append(fields, about...)...)
}

// WhoAmI implements control.Service.
func (l local) WhoAmI(ctx context.Context, profile string) (control.Identity, error) {
	set, err := l.get(ctx, profile)
	if err != nil {
		return control.Identity{}, explain(err)
	}
	l.asks("GetCallerIdentity", set.Material(), zap.String("profile", profile))
	id, err := l.sts.WhoAmI(ctx, l.catalog.sites[profile], set.Material())
	if err != nil {
		return control.Identity{}, about("profile", profile, err)
	}
	return control.Identity{Account: id.Account, ARN: id.ARN, UserID: id.UserID}, nil
}

// Decode implements control.Service.
func (l local) Decode(ctx context.Context, profile, message string) (string, error) {
	if n := utf8.RuneCountInString(message); n == 0 || n > control.MaxMessage {
		return "", &control.Error{Kind: "config", Message: fmt.Sprintf("an encoded message has 1 to %d characters, and this has %d", control.MaxMessage, n)}
	}
	m, err := l.signer(ctx, profile)
	if err != nil {
		return "", err
	}
	l.asks("DecodeAuthorizationMessage", m, zap.String("profile", profile))
	text, err := l.sts.Decode(ctx, l.catalog.sites[profile], m, message)
	if err == nil && !json.Valid([]byte(text)) {
		err = &broker.Error{Kind: broker.KindUnavailable, Public: "STS decoded the message to something that is not JSON"}
	}
	if err != nil {
		return "", about("profile", profile, err)
	}
	return text, nil
}

// KeyInfo implements control.Service.
func (l local) KeyInfo(ctx context.Context, name, profile string) (control.KeyInfo, error) {
	key, m, err := l.key(ctx, name)
	if err != nil {
		return control.KeyInfo{}, about("key", name, err)
	}
	if key == "" {
		return l.foreignKey(ctx, name, profile)
	}
	out := l.described(key)
	if i, ok := l.kept.Info(out.Name); ok && i.Custody == out.Custody {
		out = l.keptKey(i, nil)
	}
	out.KeyID = m.AccessKeyID
	site := awssts.Site{Region: l.cfg.STS.Region}
	for _, p := range l.catalog.profiles {
		if at, ok := l.catalog.sites[p.Name]; ok && p.Parent.Key == key {
			site = at
			break
		}
	}
	l.asks("GetAccessKeyInfo", m, zap.String("key", out.Name))
	if out.Account, err = l.sts.KeyAccount(ctx, site, m, m.AccessKeyID); err != nil {
		out.Unknown = about("key", out.Name, err).Error() // the rest is known without STS
	}
	return out, nil
}

// key finds a long-term key of ours by its name, by the name of the AWS profile
// that holds it, or by its id; "" is none.
func (l local) key(ctx context.Context, name string) (key string, m broker.Material, err error) {
	if _, ok := l.kept.Info(name); ok && l.catalog.keys[name] == nil && l.catalog.keys[custody.ProfileKey(name)] == nil {
		m, err = l.kept.Source(name)(ctx) // nothing uses it yet
		return name, m, err
	}
	for _, key := range []string{name, custody.ProfileKey(name)} {
		if _, ok := l.catalog.keys[key]; ok {
			m, err = l.catalog.keys.Key(ctx, key)
			return key, m, err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(l.catalog.keys)) {
		if m, err := l.catalog.keys.Key(ctx, key); err == nil && m.AccessKeyID == name {
			return key, m, nil
		}
	}
	return "", broker.Material{}, nil
}

// foreignKey asks for a key that is not ours.
func (l local) foreignKey(ctx context.Context, id, profile string) (control.KeyInfo, error) {
	if !broker.ValidKeyID(id) || !strings.HasPrefix(id, "AKIA") && !strings.HasPrefix(id, "ASIA") {
		return control.KeyInfo{}, l.noKey(id)
	}
	if profile == "" {
		return control.KeyInfo{}, &control.Error{Kind: "config", Message: "no profile to sign the call with: name one with --profile; stsbroker status lists them"}
	}
	m, err := l.signer(ctx, profile)
	if err != nil {
		return control.KeyInfo{}, err
	}
	l.asks("GetAccessKeyInfo", m, zap.String("profile", profile), zap.String("of", id))
	account, err := l.sts.KeyAccount(ctx, l.catalog.sites[profile], m, id)
	if err != nil {
		return control.KeyInfo{}, about("profile", profile, err)
	}
	return control.KeyInfo{KeyID: id, Account: account}, nil
}

func (l local) noKey(name string) error {
	if p, ok := l.definition(name); ok && !p.Hidden {
		hint := ""
		if p.Parent.Key != "" {
			hint = "; it is signed by key " + p.Parent.Key
		}
		return &control.Error{Kind: "config", Profile: name, Message: "profile " + name + " holds no key of its own" + hint}
	}
	var names []string
	for key := range l.catalog.keys {
		names = append(names, strings.TrimPrefix(key, custody.ProfileKey("")))
	}
	slices.Sort(names)
	return &control.Error{Kind: "config", Message: "there is no key " + name + didYouMean(name, names) + "; name a key of stsbroker.yaml, an AWS profile that holds one, or an access key id"}
}

// IdentityToken implements control.Service.
func (l local) IdentityToken(ctx context.Context, r control.IdentityTokenRequest) (control.IdentityToken, error) {
	m, err := l.signer(ctx, r.Profile)
	if err != nil {
		return control.IdentityToken{}, err
	}
	l.asks("GetWebIdentityToken", m, zap.String("profile", r.Profile), zap.Strings("audience", r.Audiences))
	t, err := l.sts.IdentityToken(ctx, l.catalog.sites[r.Profile], m, awssts.TokenRequest{
		Audiences: r.Audiences, Algorithm: r.Algorithm, Duration: time.Duration(r.Duration) * time.Second, Tags: r.Tags,
	})
	if err != nil {
		return control.IdentityToken{}, about("profile", r.Profile, err)
	}
	return control.IdentityToken{Token: t.Token.Reveal(), Expires: t.Expires.UTC().Truncate(time.Second)}, nil
}
