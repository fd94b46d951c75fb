package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/control"
)

// What takes a setup into service: at the start, and again when the configuration has
// changed.

// listen opens the doors that the configuration wants, and writes the files that
// lead to them.
func (a *app) listen(ctx context.Context) error {
	a.changing.Lock()
	defer a.changing.Unlock()
	a.bind = testPeer(a.log)
	if !a.embedded { // the files in these places are a daemon's, which may be about to start
		if err := a.beginFiles(); err != nil {
			return err
		}
	}
	if err := a.view().take(ctx); err != nil {
		return err
	}
	if !a.embedded { // what was in use goes on being renewed
		a.broker.Resume()
	}
	return nil
}

// take takes v into service, in the place of what was. On an error nothing has changed.
// Profiles come last: all that may be taken by somebody else is taken before anything is
// minted.
func (v view) take(ctx context.Context) (err error) {
	var undo []func() error
	defer func() {
		if err == nil {
			return
		}
		for _, f := range slices.Backward(undo) {
			err = errors.Join(err, f())
		}
	}()
	wanted, err := v.doorways()
	if err != nil {
		return err
	}
	opened, err := v.openDoors(ctx, wanted)
	if err != nil {
		return err
	}
	for _, d := range opened {
		undo = append(undo, d.member.leave)
	}
	var written []*writing
	if !v.embedded {
		if written, err = v.beginWriting(); err != nil {
			return err
		}
	}
	log, changes, err := v.openAudit()
	if err != nil {
		return fmt.Errorf("%s:%d: %w", v.cfg.File, v.cfg.Audit.Line, err)
	}
	// From here on nothing fails that would keep the old one.
	v.complain("audit.file", v.takeAudit(log, changes))
	v.prefetch()
	gone := v.takeDoors(wanted, opened)
	v.locate(wanted)
	before := v.app.now.Swap(v.setup) // nobody changes it from here on
	first := before == v.setup
	if first || before.sts != v.sts {
		old := v.mints
		v.app.mints = v.crew.bear(v.sts.Run)
		if old != nil {
			v.complain("STS", old.leave())
			before.sts.CloseIdle()
		}
	}
	if len(v.catalog.signIns) > 0 {
		if err := v.login.Reload(ctx); err != nil {
			v.log.Warn("sign-in to IAM Identity Center", zap.Error(err))
		}
	}
	profiles, _ := v.signed()
	v.broker.ReloadWith(profiles, func() { v.tokens.SetRules(v.cfg.Access) })
	if !v.embedded {
		if err := v.keepWriting(written); first {
			if err != nil {
				return err // nobody is served yet, and somebody will look for the file
			}
		} else {
			v.complain("files", err)
		}
	}
	v.watch()
	var leaving sync.WaitGroup // each may have answers under way
	for _, d := range gone {
		leaving.Go(func() { v.complain(d.key, d.member.leave()) })
	}
	leaving.Wait()
	return nil
}

// watch has changes of v's files noticed.
func (v view) watch(more ...string) {
	if v.watcher != nil {
		v.watcher.Set(v.begun, append(v.watched(), more...)...)
	}
}

// watched are the files whose changes matter: those that say what is served, and the
// tokens and assertions that mints are made with.
func (v view) watched() (paths []string) {
	for _, p := range append(append([]string{cmp.Or(v.config, v.usual)}, v.catalog.files...), v.cfg.read...) {
		if p != "" {
			paths = append(paths, p)
		}
	}
	for path := range v.catalog.inputs {
		paths = append(paths, path)
	}
	return paths
}

// filesChanged reads the configuration again where that has changed, and lets profiles
// whose token or assertion is another one try again.
func (a *app) filesChanged(paths []string) {
	ctx := context.Background()
	inputs := a.now.Load().catalog.inputs
	again := false
	mended := map[string]bool{}
	for _, p := range paths {
		names, input := inputs[p]
		again = again || !input
		for _, n := range names {
			mended[n] = true
		}
	}
	if again {
		_, _ = a.reload(ctx) // it logs what is wrong
	}
	if len(mended) > 0 {
		a.broker.Mended(func(p broker.Profile) bool { return mended[p.Name] })
	}
}

// complain logs what could not be put away: nothing depends on it any more.
func (v view) complain(what string, err error) {
	if err != nil {
		v.log.Warn("left behind by a reload", zap.String("what", what), zap.Error(err))
	}
}

// prefetch keeps the profiles of IMDS doors and of credentials files fresh from the start
// on, unless a person is needed for each mint: botocore asks IMDS once, and where that
// finds a cold broker it has no credentials for good. An embedded broker, which has
// none, mints nothing that nobody asked for.
func (v view) prefetch() {
	wanted := map[string]bool{}
	for _, l := range v.cfg.Listen.IMDS {
		wanted[l.Profile] = true
	}
	for _, f := range v.cfg.Files {
		for _, p := range f.Profiles {
			wanted[p] = true
		}
	}
	for i := range v.catalog.profiles {
		if p := &v.catalog.profiles[i]; wanted[p.Name] && p.MFA == "" {
			p.Prefetch = true
		}
	}
}

// reloadFailure is why the configuration on disk is not the one that is served.
type reloadFailure struct {
	at  time.Time
	why string
}

// reload reads the configuration and the AWS files again. What is wrong with them leaves
// everything as it was.
func (a *app) reload(ctx context.Context) (control.Reloaded, error) {
	a.changing.Lock()
	defer a.changing.Unlock()
	a.supervisor.reloading()
	defer a.supervisor.ready()
	out, err := a.reloadLocked(ctx)
	a.observer.Reloaded(err)
	if err != nil {
		a.failure.Store(&reloadFailure{time.Now(), err.Error()})
		a.log.Warn("the configuration was not loaded again; the one from before is served", zap.Error(err))
		return out, &control.Error{Kind: "config", Message: "nothing was changed: " + err.Error()}
	}
	a.failure.Store(nil)
	a.log.Info("loaded the configuration again", zap.Int("profiles", out.Profiles), zap.Strings("changed", out.Changed))
	return out, nil
}

func (a *app) reloadLocked(ctx context.Context) (out control.Reloaded, err error) {
	before := a.now.Load()
	begun := time.Now()
	cfg, read, findings, err := a.configure()
	defer func() {
		if err != nil { // what is at fault may be mended in a file that nobody looked at before
			view{a, before}.watch(read...)
		}
	}()
	if err != nil {
		return out, cmp.Or(firstError(findings), err)
	}
	switch was := before.cfg.File; {
	case was != "" && cfg.File == "":
		err = fmt.Errorf("%s is gone; to go on without one, restart the broker", was)
	case was != "" && cfg.empty && !before.cfg.empty:
		err = fmt.Errorf("%s is empty; if that is meant, write {} into it", cfg.File)
	}
	if err != nil {
		return out, err
	}
	next, more, err := a.prepare(cfg, before)
	if err != nil {
		return out, cmp.Or(firstError(more), err)
	}
	next.begun = begun
	for _, f := range append(findings, more...) {
		a.log.Warn(f.Text, zap.String("file", f.File), zap.Int("line", f.Line))
	}
	if was, is := before.cfg.Listen.Control, cfg.Listen.Control; was != is {
		a.log.Warn("listen.control is another one now, and counts when the broker is started again", zap.String("path", is))
	}
	out.Changed = differences(before, next)
	if err = (view{a, next}).take(ctx); err != nil {
		if cfg.File != "" && !strings.HasPrefix(err.Error(), cfg.File) {
			err = fmt.Errorf("%s: %w; stsbroker reload tries again", cfg.File, err)
		}
		return out, err
	}
	for _, s := range a.broker.Status() {
		if s.State != broker.StateUnservable {
			out.Profiles++
		}
	}
	return out, nil
}

// differences names the profiles that came, went, or are defined otherwise.
func differences(before, after *setup) []string {
	out := []string{}
	was := map[string]broker.Profile{}
	for _, p := range before.catalog.profiles {
		was[p.Name] = p
	}
	for _, p := range after.catalog.profiles {
		old, known := was[p.Name]
		delete(was, p.Name)
		switch {
		case p.Hidden && (!known || old.Hidden):
		case !known || old.Hidden:
			out = append(out, "+"+p.Name)
		case p.Hidden:
			out = append(out, "-"+p.Name)
		case !sameProfile(old, p):
			out = append(out, p.Name)
		}
	}
	for _, p := range before.catalog.profiles {
		if _, gone := was[p.Name]; gone && !p.Hidden {
			out = append(out, "-"+p.Name)
		}
	}
	return out
}

func sameProfile(a, b broker.Profile) bool {
	if (a.Unservable == nil) != (b.Unservable == nil) || a.Unservable != nil && a.Unservable.Error() != b.Unservable.Error() {
		return false
	}
	if a.Minter != nil && b.Minter != nil && a.Minter.Digest() != b.Minter.Digest() {
		return false
	}
	return a.Region == b.Region && a.Parent == b.Parent && a.Prefetch == b.Prefetch && a.MFA == b.MFA && fmt.Sprint(a.Notes) == fmt.Sprint(b.Notes)
}
