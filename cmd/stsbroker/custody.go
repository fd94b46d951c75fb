package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/awsiam"
	"github.com/stsbroker/stsbroker/broker/awssts"
	"github.com/stsbroker/stsbroker/broker/custody"
	"github.com/stsbroker/stsbroker/broker/custody/keyring"
	"github.com/stsbroker/stsbroker/broker/vault"
	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/seal"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// Custody: what opens sealed state, and the long-term keys that rest there.

// openCustody finds the identity and what it opens. writes is false for a process
// beside which a broker may run; what is wrong with the identity is that one's to say.
func (a *app) openCustody(writes bool) error {
	a.vault = vault.New(a.state)
	id, err := a.findIdentity(writes)
	switch {
	case err != nil && writes:
		return errors.New(id.from + ": " + err.Error())
	case err != nil:
		id.locked, id.problem = true, id.from+": "+err.Error()
	case id.made:
		a.log.Info("made an identity for sealed state", zap.String("file", id.path))
	}
	a.identity = id
	switch {
	case !id.IsZero():
		a.vault.Open(id.Identity)
		a.open.Store(&id.Identity)
	case id.locked:
		a.vault.SetLocked(id.why())
		a.log.Warn("custody is locked; run stsbroker unlock", zap.String("identity", id.path), zap.String("problem", id.problem))
	}
	kept, warning := custody.OpenKept(a.state, map[string]custody.Chest{custodySealed: custody.SealedChest(a.vault), custodyKeyring: keyring.New(a.getenv)})
	if a.kept = kept; warning != nil {
		a.log.Warn("keys in custody", zap.Error(warning))
	}
	return nil
}

// opensState reports whether the identity is the one that sealed state opens for, as
// far as that is known while it is locked.
func (a *app) opensState(id seal.Identity) bool {
	open := a.open.Load()
	return open != nil && open.Same(id)
}

// lockedBy says why custody is locked, "" where it is not.
func (a *app) lockedBy() string {
	a.custody.Lock()
	defer a.custody.Unlock()
	return a.standingOfCustody().Problem
}

// Custody implements control.Service.
func (l local) Custody(context.Context) (control.Custody, error) {
	l.custody.Lock()
	defer l.custody.Unlock()
	return l.standingOfCustody(), nil
}

func (a *app) standingOfCustody() control.Custody {
	id := a.identity
	out := control.Custody{State: a.vault.State().String(), How: id.how, Identity: id.path, From: id.from, Wrapped: id.wrapped, Plugin: id.plugin, Problem: id.problem}
	if out.State == vault.Open.String() {
		out.Wrapped, out.Problem = nil, ""
	}
	return out
}

// Unlock implements control.Service. It is given the identity itself: what opens that,
// a passphrase or a plugin, is the business of the command line.
func (l local) Unlock(ctx context.Context, u control.Unlocking) (control.Custody, error) {
	l.custody.Lock()
	defer l.custody.Unlock()
	a := l.app
	if err := a.unseal(u); err != nil {
		return control.Custody{}, err
	}
	// Whoever asked may hang up: half an unlock is worse than none.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commandPatience)
	defer cancel()
	if err := a.opened(ctx); err != nil {
		l.log.Warn("custody is open, and not all of it could be read", zap.Error(err))
		e := explain(err)
		return control.Custody{}, &control.Error{Kind: e.Kind, Message: "custody is open, and not all of it could be read; mend this and run stsbroker unlock again: " + e.Message}
	}
	l.log.Info("custody is open", zap.String("identity", a.identity.path))
	return a.standingOfCustody(), nil
}

// unseal gives the vault its identity. Nothing has changed when it fails.
func (a *app) unseal(u control.Unlocking) error {
	id := a.identity
	switch state := a.vault.State(); {
	case u.Identity == "" && state == vault.Open:
		return nil // what an earlier unlock could not do is left
	case u.Identity == "":
		found, err := a.findIdentity(true)
		if err != nil {
			return errors.New(found.from + ": " + err.Error())
		}
		if found.IsZero() {
			return &control.Error{Kind: "locked", Message: cmp.Or(found.problem, "there is no identity to open custody with; stsbroker unlock makes one")}
		}
		id = found
	case len(u.Wrapped) == 0 && state == vault.None: // it would be forgotten at the end, with all that it sealed
		return &control.Error{Kind: "config", Message: "there is no identity yet, and this one would rest nowhere; run stsbroker unlock"}
	case len(u.Wrapped) > 0 && (state == vault.Open || len(id.wrapped) > 0):
		return &control.Error{Kind: "config", Message: "there is an identity already; it was not replaced"}
	default:
		var err error
		if id.Identity, err = seal.ParseIdentity([]byte(u.Identity)); err != nil {
			return err
		}
	}
	// One that is not the identity of what is there opens nothing, and must not be sealed for.
	trial := vault.New(a.state)
	trial.Open(id.Identity)
	for _, blob := range vault.Names() {
		if _, err := trial.Read(blob); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if len(u.Wrapped) > 0 {
		if err := a.keepIdentity(u.Wrapped); err != nil {
			return err
		}
		made, err := a.findIdentity(false)
		if err != nil {
			return err
		}
		made.Identity = id.Identity
		id = made
	}
	id.locked, id.problem = false, ""
	a.identity = id
	a.open.Store(&id.Identity)
	a.vault.Open(id.Identity)
	return nil
}

// opened lets every part read what rests sealed. It may be called again, for what
// failed; the error is of all that did.
func (a *app) opened(ctx context.Context) error {
	if err := a.kept.Refresh(ctx); err != nil {
		a.log.Warn("keys in custody", zap.Error(err))
	}
	a.resign()
	err := errors.Join(a.tokens.Unlock(), a.unlockLeases(a.identity.Identity), a.login.Reload(ctx))
	if a.tokensKnown() && !a.embedded {
		err = errors.Join(err, a.writeTokenFiles())
	}
	a.broker.Mended(func(broker.Profile) bool { return true })
	a.broker.Resume()
	return err
}

// keepIdentity writes the sealed identity, where there is none.
func (a *app) keepIdentity(wrapped []byte) error {
	if err := securefile.MakeFolder(a.state); err != nil {
		return err
	}
	err := securefile.Create(a.wrappedIdentity(), wrapped)
	if errors.Is(err, fs.ErrExist) {
		return &control.Error{Kind: "config", Message: a.wrappedIdentity() + " is there already, and was not replaced: run stsbroker unlock again"}
	}
	return err
}

// Lock implements control.Service.
func (l local) Lock(ctx context.Context) (control.Custody, error) {
	l.custody.Lock()
	defer l.custody.Unlock()
	if l.vault.State() == vault.None {
		return control.Custody{}, &control.Error{Kind: "config", Message: "there is nothing to lock: no identity seals anything here; stsbroker unlock makes one"}
	}
	lost := l.login.Lock(ctx, func() error {
		l.vault.Lock()
		if l.leases != nil {
			l.leases.Lock()
		}
		return nil
	})
	id := &l.app.identity
	id.Identity, id.locked, id.problem = seal.Identity{}, true, "it was locked by stsbroker lock"
	l.open.Store(nil)
	l.log.Info("custody is locked")
	if lost != nil {
		e := explain(lost)
		return control.Custody{}, &control.Error{Kind: e.Kind, Message: "custody is locked, and " + e.Message}
	}
	return l.standingOfCustody(), nil
}

// Keys implements control.Service.
func (l local) Keys(ctx context.Context) ([]control.KeyInfo, error) {
	out := []control.KeyInfo{}
	problems := l.kept.Problems(ctx)
	for _, i := range l.kept.List() {
		out = append(out, l.keptKey(i, problems[i.Name]))
	}
	for _, name := range slices.Sorted(maps.Keys(l.catalog.keys)) {
		k := l.described(name)
		if _, kept := l.kept.Info(k.Name); kept {
			continue
		}
		m, err := l.catalog.keys.Key(ctx, name)
		if k.KeyID = m.AccessKeyID; err != nil {
			k.Problem = explain(err).Message
		}
		out = append(out, k)
	}
	return out, nil
}

// keptKey is what is known of a key in our custody, and why it cannot be had now.
func (l local) keptKey(i custody.Info, problem error) control.KeyInfo {
	k := control.KeyInfo{Name: i.Name, Custody: i.Custody, KeyID: i.KeyID, Account: i.Account, User: i.User, Profile: i.Profile, Added: i.Added, Rotation: i.Rotation()}
	if problem != nil {
		k.Problem = explain(problem).Message
	}
	return k
}

// described is a key of the catalogue: its name as people say it, and where it rests.
func (l local) described(key string) control.KeyInfo {
	out := control.KeyInfo{Name: key, Custody: l.cfg.Keys[key].Custody}
	if ofProfile, ok := strings.CutPrefix(key, custody.ProfileKey("")); ok {
		out.Name, out.Custody = ofProfile, "profile"
		if i, ok := l.kept.ForProfile(ofProfile); ok {
			out.Name, out.Custody = i.Name, i.Custody
		}
		if strings.HasPrefix(ofProfile, "(") { // no profile's name; see environmentKey
			out.Custody = custodyEnv
		}
	}
	return out
}

// AddKey implements control.Service.
func (l local) AddKey(ctx context.Context, k control.NewKey) (control.KeyInfo, error) {
	none := control.KeyInfo{}
	configured := l.cfg.Keys[k.Name].Custody
	switch where := cmp.Or(k.Custody, configured, custodySealed); {
	case configured != "" && configured != where:
		return none, &control.Error{Kind: "config", Message: "key " + k.Name + " has custody " + configured + " in " + l.cfg.File + "; change that, or leave --custody out"}
	case where != custodySealed && where != custodyKeyring:
		return none, &control.Error{Kind: "config", Message: "key " + k.Name + " has custody " + where + " in " + l.cfg.File + ", where stsbroker puts nothing: it can be sealed or keyring"}
	default:
		k.Custody = where
	}
	if k.Custody == custodySealed {
		if err := errors.Join(l.vault.Ready(), l.identityStands()); err != nil {
			return none, about("key", k.Name, err)
		}
	}
	if err := l.makeState(); err != nil {
		return none, err
	}
	pair := custody.Pair{KeyID: k.KeyID, Secret: broker.NewSecret(k.Secret)}
	if i, ok := l.kept.Info(k.Name); ok && i.KeyID == k.KeyID && i.Custody == k.Custody && i.Profile == k.Profile {
		if m, err := l.kept.Source(i.Name)(ctx); err == nil && m.SecretAccessKey.Equal(pair.Secret) {
			return l.keptKey(i, nil), nil // an import that was cut off goes on
		}
	}
	o := custody.AddOptions{Replace: k.Replace, Profile: k.Profile}
	if !k.Unverified {
		at := l.siteOfKey(k.Name)
		if k.Profile != "" {
			at = l.siteOf(k.Profile)
		}
		id, err := l.sts.WhoAmI(ctx, at, pair.Material())
		if err != nil {
			e := explain(err)
			return none, &control.Error{Kind: e.Kind, Message: "key " + k.Name + ": " + e.Message + "; it was not put in custody (--unverified does so all the same)"}
		}
		o.Account, o.User = id.Account, awsiam.UserOf(id.ARN)
	}
	if err := l.kept.Add(ctx, k.Name, k.Custody, pair, o); err != nil {
		return none, about("key", k.Name, err)
	}
	l.log.Info("a key was put in custody", zap.String("key", k.Name), zap.String("key_id", k.KeyID), zap.String("custody", k.Custody))
	l.keyChanged(k.Name, k.Profile)
	i, _ := l.kept.Info(k.Name)
	return l.keptKey(i, nil), nil
}

// identityStands says why the identity that seals now would not be there at the next
// start: its file is gone, or another one.
func (a *app) identityStands() error {
	a.custody.Lock()
	id := a.identity
	a.custody.Unlock()
	if id.how != howFile || id.IsZero() {
		return nil
	}
	now, err := a.findIdentity(false)
	if err == nil && (now.IsZero() || !now.Same(id.Identity)) {
		err = errors.New("it is not the identity any more that it was when the broker read it")
	}
	if err != nil {
		return &control.Error{Kind: "config", Message: fmt.Sprintf("what is sealed now could not be opened after a restart: %s: %v; put the identity back", id.path, cmp.Or(now.problem, err.Error()))}
	}
	return nil
}

// siteOf is where STS is asked for a profile, or for a key that has none yet.
func (a view) siteOf(profile string) awssts.Site {
	if at, ok := a.catalog.sites[profile]; ok && profile != "" {
		return at
	}
	return a.defaultSite()
}

func (a view) defaultSite() awssts.Site {
	return awssts.Site{Region: cmp.Or(a.catalog.region, "us-east-1")}
}

// keyChanged lets everything that signs with the key try again.
func (l local) keyChanged(name, profile string) {
	l.resign()
	l.broker.Mended(func(p broker.Profile) bool {
		return p.Parent.Key == name || profile != "" && p.Parent.Key == custody.ProfileKey(profile)
	})
}

// resign tells the broker whose the keys in custody are now: what was minted with the
// key of one user is not another's.
func (a *app) resign() {
	a.changing.Lock()
	defer a.changing.Unlock()
	if profiles, changed := a.view().signed(); changed {
		a.broker.Reload(profiles)
	}
}

// signed are the profiles of v with the keys that are in custody now, and whether that
// makes a difference. It is called under changing.
func (v view) signed() (profiles []broker.Profile, changed bool) {
	held := v.kept.List()
	profiles = slices.Clone(v.catalog.profiles)
	for i := range profiles {
		p := &profiles[i]
		if info, ok := heldKey(v.cfg, held, p.Parent.Key); ok && p.Signer != info.Lineage {
			p.Signer, changed = info.Lineage, true
		}
	}
	return profiles, changed
}

// RemoveKey implements control.Service.
func (l local) RemoveKey(ctx context.Context, name string, force bool) (string, error) {
	i, ok := l.kept.Info(name)
	if !ok {
		return "", l.notKept(name)
	}
	remove := l.kept.Remove
	if force {
		remove = l.kept.Forget
	}
	if err := remove(ctx, name); err != nil {
		return "", about("key", name, err)
	}
	l.log.Info("a key was removed from custody", zap.String("key", name), zap.String("key_id", i.KeyID))
	return i.Leaves(), nil
}

func (l local) notKept(name string) error {
	hint := didYouMean(name, l.kept.Names())
	if k, ok := l.cfg.Keys[name]; ok {
		hint = "; its custody is " + k.Custody + ", where stsbroker changes nothing"
		if k.Custody == custodySealed || k.Custody == custodyKeyring {
			hint = "; stsbroker keys add " + name + " puts it there"
		}
	} else if _, ok := l.catalog.keys[custody.ProfileKey(name)]; ok {
		hint = "; it stands in the AWS files, and stsbroker keys import " + name + " takes it over"
	}
	return &control.Error{Kind: "config", Message: "stsbroker keeps no key " + name + hint}
}

// RotateKey implements control.Service.
func (l local) RotateKey(ctx context.Context, r control.RotateRequest) (control.Rotation, error) {
	out := control.Rotation{Name: r.Name, Steps: []string{}}
	if _, ok := l.kept.Info(r.Name); !ok {
		return out, l.notKept(r.Name)
	}
	if err := l.elsewhere(ctx, r.Name); err != nil {
		return out, err
	}
	iam, err := l.iam(r.Name)
	if err != nil {
		return out, err
	}
	o := custody.RotateOptions{Grace: time.Duration(r.Grace * float64(time.Second)), DryRun: r.DryRun}
	if r.Profile != "" {
		set, err := l.get(ctx, r.Profile)
		if err != nil {
			return out, err
		}
		m := set.Material()
		o.Sign = &m
	}
	if !r.DryRun {
		l.log.Info("a key is rotated", zap.String("key", r.Name))
	}
	done, err := l.kept.Rotate(ctx, r.Name, iam, o)
	if err != nil {
		return out, about("key", r.Name, err)
	}
	out.Steps = append(out.Steps, done.Steps...)
	out.KeyID, out.OldKeyID, out.DeleteAfter, out.Hint = done.KeyID, done.Old, done.DeleteAfter, done.Hint()
	if !r.DryRun {
		l.log.Info("a key was rotated", zap.String("key", r.Name), zap.String("key_id", out.KeyID), zap.String("old_key_id", out.OldKeyID))
		i, _ := l.kept.Info(r.Name)
		l.keyChanged(r.Name, i.Profile)
	}
	return out, nil
}

// elsewhere says where the key is kept by another name too, and would be dead there
// after a rotation.
func (l local) elsewhere(ctx context.Context, name string) error {
	key, _ := l.kept.Info(name)
	refused := func(where, mend string) error {
		return &control.Error{Kind: "config", Message: "key " + name + " (" + key.KeyID + ") " + where + " too, where it would work no more: " + mend + ", then rotate it"}
	}
	for _, i := range l.kept.List() {
		if i.KeyID == key.KeyID && i.Name != name {
			return refused("is kept as key "+i.Name, "run stsbroker keys remove "+i.Name)
		}
	}
	for _, other := range slices.Sorted(maps.Keys(l.catalog.keys)) {
		k := l.described(other)
		if k.Custody == custodySealed || k.Custody == custodyKeyring {
			continue
		}
		if m, err := l.catalog.keys.Key(ctx, other); err == nil && m.AccessKeyID == key.KeyID {
			return refused("stands in the AWS files or the environment, as "+k.Name, "take it out there (stsbroker keys import "+k.Name+" --comment-out does so for a profile)")
		}
	}
	return nil
}

// iam is a client of IAM for the issuer of the keys, made when one is needed: keys are
// rotated a few times a year. Nothing of a key goes to AWS that is of another issuer.
func (a view) iam(key string) (*awsiam.Client, error) {
	site := a.siteOfKey(key)
	endpoint, sts := a.getenv(varEndpointIAM), cmp.Or(a.getenv(varEndpointURL), site.URL)
	configured := a.cfg.STS.Endpoints[site.Region]
	if sts == "" {
		sts = configured.URL
	}
	if endpoint == "" && (a.getenv(varEndpointURL) != "" || site.URL != "" || configured.Compatible) {
		return nil, &control.Error{Kind: "config", Message: "key " + key + " is of another issuer than AWS, as far as " + sts + " tells, and " + varEndpointIAM + " is not set: set it to where that issuer changes access keys"}
	}
	o := awsiam.Options{Endpoint: endpoint, STS: sts, Region: site.Region}
	if !a.system {
		o.Proxy = http.ProxyFromEnvironment
	}
	var err error
	if o.RootCAs, err = a.roots(); err != nil {
		return nil, err
	}
	return awsiam.New(o)
}

// siteOfKey is where STS is asked for a profile that the key signs for.
func (a view) siteOfKey(key string) awssts.Site {
	i, _ := a.kept.Info(key)
	for _, p := range a.catalog.profiles {
		if p.Parent.Key == key || i.Profile != "" && p.Parent.Key == custody.ProfileKey(i.Profile) {
			return a.catalog.sites[p.Name]
		}
	}
	return a.defaultSite()
}

// tidyKeys deletes the old keys of rotations whose time of grace has passed.
func (a *app) tidyKeys(ctx context.Context) error {
	ticker := time.NewTicker(time.Hour)
	defer ticker.Stop()
	told := map[string]string{} // by key: the old one that was found in use
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		for _, i := range a.kept.List() {
			if i.Old == "" || i.DeleteAfter.IsZero() || time.Now().Before(i.DeleteAfter) {
				continue
			}
			iam, err := a.view().iam(i.Name)
			if err == nil {
				_, err = a.kept.Tidy(ctx, i.Name, iam, time.Now())
			}
			fields := []zap.Field{zap.String("key", i.Name), zap.String("old_key_id", i.Old)}
			switch {
			case err == nil:
				a.log.Info("the old key of a rotation was deleted", fields...)
			case errors.Is(err, custody.ErrOldInUse):
				if told[i.Name] != i.Old {
					told[i.Name] = i.Old
					a.log.Warn("the old key of a rotation is in use again, and was not deleted", append(fields, zap.Error(err))...)
				}
			default:
				a.log.Warn("the old key of a rotation could not be deleted; stsbroker keys rotate tries again", append(fields, zap.Error(err))...)
			}
		}
	}
}

// makeState makes the state folder where it is missing.
func (p place) makeState() error { return securefile.MakeFolder(p.state) }

// wrappedIdentity is the file in the state folder that leads to the identity: sealed
// itself, or a word that it is in the OS keyring.
func (p place) wrappedIdentity() string { return filepath.Join(p.state, "identity") }
