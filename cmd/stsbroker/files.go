package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/access"
	"github.com/stsbroker/stsbroker/internal/securefile"
	"github.com/stsbroker/stsbroker/metadata/credfile"
)

// The files that a running broker keeps up to date, and that vanish when it stops.

// credentialSocket is the path of the socket that gives credentials, "" for none.
// Without the kernel's word about its callers nobody could be served there.
func (a view) credentialSocket() string {
	switch {
	case a.cfg.Listen.Socket == socketOff || runtime.GOOS == "windows":
		return ""
	case a.cfg.Listen.Socket != "":
		return a.cfg.Listen.Socket
	}
	return filepath.Join(a.runtime, "creds.sock") // shorter than the control socket's: a path that does for one does for both
}

// credentialFiles tells the writers of credentials files what happens.
type credentialFiles struct {
	writers atomic.Pointer[[]*credfile.Writer]
}

// Observe implements broker.Observer.
func (c *credentialFiles) Observe(e broker.Event) {
	if writers := c.writers.Load(); writers != nil {
		for _, w := range *writers {
			w.Observe(e)
		}
	}
}

// tokenCheck is how often a token file is looked at: its token may be due, the wall
// clock may have moved, and somebody may have removed it.
const tokenCheck = time.Minute

// beginFiles takes up the files of an earlier run: those of env go on, since shells still
// have their paths.
func (a *app) beginFiles() error {
	a.crew.join(nil, func() error {
		if slices.Contains(a.lasting, a.tokenFolder()) {
			return nil // clients of an upgrade find their tokens; at a stop systemd takes them away
		}
		return os.RemoveAll(a.tokenFolder())
	})
	return a.writeEnvTokens()
}

// writing is a file that the configuration wants kept up to date.
type writing struct {
	path   string
	what   string // that tells it from any other, its path and all that is in it
	writer *credfile.Writer
	run    func(context.Context) error
	end    func() error
	member *member
}

// beginWriting prepares the files that v wants, and writes nothing that clients would
// notice. Those that are kept already have no more than their name. Folders of files are
// this user's alone: in one that others may put files into, they could get in the way.
func (v view) beginWriting() (all []*writing, err error) {
	for _, f := range v.cfg.Files {
		path := v.credentialsFile(f)
		w := &writing{path: path, what: fmt.Sprintf("credentials %q %q", path, f.Profiles)}
		all = append(all, w)
		if v.written[w.what] != nil {
			continue
		}
		fault := func(err error) error { return fmt.Errorf("%s:%d: files.%s: %w", v.cfg.File, f.Line, f.Name, err) }
		if err := securefile.MakeFolder(filepath.Dir(path)); err != nil {
			return nil, fault(err)
		}
		if !v.writes(path) {
			if err := credfile.Sweep(path); err != nil { // a dead broker's, before anything is minted
				return nil, fault(err)
			}
		}
		w.writer, err = credfile.New(credfile.File{Path: path, Profiles: f.Profiles, Over: v.writes(path)}, v.broker, broker.Caller{Door: broker.DoorFile}, func(err error) {
			v.log.Warn("credentials file", zap.String("file", path), zap.Error(err))
		})
		if err != nil {
			return nil, fault(err)
		}
		w.run = w.writer.Run
	}
	for _, f := range v.cfg.TokenFiles {
		k := tokenFile{app: v.app, TokenFileConfig: f, path: v.tokenFile(f)}
		k.Line = 0
		w := &writing{path: k.path, what: fmt.Sprintf("token %q %q %q %s %s", k.path, f.Name, f.Profiles, idWord(f.UID), idWord(f.Group))}
		all = append(all, w)
		if v.written[w.what] != nil {
			continue
		}
		if err := k.judge(); err != nil {
			return nil, fmt.Errorf("%s:%d: token_files.%s: %w", v.cfg.File, f.Line, f.Name, err)
		}
		w.run, w.end = k.run, k.remove
	}
	return all, nil
}

// handOver leaves the file where it is when the writing ends.
func (w *writing) handOver() {
	w.end = nil
	w.member.end = nil
	if w.writer != nil {
		w.writer.HandOver()
	}
}

// writes reports whether a file at path is kept now.
func (a *app) writes(path string) bool {
	for _, w := range a.written {
		if w.path == path {
			return true
		}
	}
	return false
}

// keepWriting lets go of the files that are wanted no more, and begins with the new ones.
func (v view) keepWriting(all []*writing) (err error) {
	wanted := map[string]bool{}
	for _, w := range all {
		wanted[w.what] = true
	}
	for what, w := range v.written {
		if wanted[what] {
			continue
		}
		delete(v.written, what)
		if slices.ContainsFunc(all, func(next *writing) bool { return next.path == w.path }) {
			w.handOver() // the next one writes over it, whole at every moment
		}
		err = errors.Join(err, w.member.leave())
	}
	err = errors.Join(err, v.sweepCredentialFiles(), v.sweepTokenFiles())
	var names []string
	for _, f := range v.cfg.TokenFiles {
		names = append(names, f.Name)
	}
	v.tokens.EndFiles(names)
	for _, w := range all {
		if v.written[w.what] == nil {
			v.written[w.what] = w
		}
	}
	var writers []*credfile.Writer
	for _, w := range v.written {
		if w.writer != nil {
			writers = append(writers, w.writer)
		}
	}
	v.files.writers.Store(&writers) // before they run, so that they miss nothing
	for _, w := range v.written {
		if w.member == nil {
			w.member = v.crew.join(w.run, w.end)
		}
	}
	for _, f := range v.cfg.TokenFiles {
		err = errors.Join(err, tokenFile{app: v.app, TokenFileConfig: f, path: v.tokenFile(f)}.write())
	}
	return err
}

func (a *app) writeEnvTokens() error {
	for _, issued := range a.tokens.EnvFiles() {
		if err := a.writeEnvToken(issued); err != nil {
			return err
		}
	}
	return nil
}

// tokensKnown is false while their secret rests in custody that is locked.
func (a *app) tokensKnown() bool { return a.tokens.Locked() == nil }

// writeTokenFiles brings them all up to date, when tokens have become known.
func (a *app) writeTokenFiles() error {
	err := a.writeEnvTokens()
	for _, f := range a.now.Load().cfg.TokenFiles {
		err = errors.Join(err, tokenFile{app: a, TokenFileConfig: f, path: a.tokenFile(f)}.write())
	}
	return err
}

// sweepTokenFiles removes what a broker that was killed left in the default folder for
// files that are configured no more.
func (a view) sweepTokenFiles() (err error) {
	for _, path := range leftovers(a.tokenFile(TokenFileConfig{Name: "x"})) {
		k := tokenFile{app: a.app, path: path}
		if !a.writes(path) && !slices.ContainsFunc(a.cfg.TokenFiles, func(f TokenFileConfig) bool { return a.tokenFile(f) == path }) && k.problem() == "" {
			err = errors.Join(err, os.Remove(path))
		}
	}
	return err
}

// sweepCredentialFiles does that for credentials files.
func (a view) sweepCredentialFiles() error {
	for _, path := range leftovers(a.credentialsFile(FileConfig{Name: "x"})) {
		if credfile.IsOurs(path) && !a.writes(path) && !slices.ContainsFunc(a.cfg.Files, func(f FileConfig) bool { return a.credentialsFile(f) == path }) {
			if err := credfile.Sweep(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// leftovers are the files in the folder of path.
func leftovers(path string) (paths []string) {
	folder := filepath.Dir(path)
	entries, _ := os.ReadDir(folder) // it need not be there
	for _, e := range entries {
		if e.Type().IsRegular() {
			paths = append(paths, filepath.Join(folder, e.Name()))
		}
	}
	return paths
}

// writeEnvToken puts a token of env in its file.
func (a *app) writeEnvToken(issued access.Issued) error {
	if err := securefile.MakeFolder(a.tokenFolder()); err != nil {
		return err
	}
	return securefile.Write(a.envTokenFile(issued.ID), []byte(issued.Token.Reveal()))
}

func (a *app) envTokenFile(id string) string { return filepath.Join(a.tokenFolder(), id) }

// tokenFile is one file of the configuration's.
type tokenFile struct {
	*app
	TokenFileConfig
	path string
}

// judge says why the file cannot be kept, and makes the folder of one that has the usual place.
func (k tokenFile) judge() error {
	if k.UID != nil && !k.bind {
		return errors.New("uid cannot be had here, where the kernel does not tell which user connects; remove it")
	}
	if k.Group != nil {
		if err := securefile.CheckGroup(*k.Group); err != nil {
			return fmt.Errorf("group: %w", err)
		}
	}
	folder := filepath.Dir(k.path)
	if k.Path == "" {
		if err := securefile.MakeFolder(folder); err != nil {
			return err
		}
	} else if err := securefile.CheckFolders(folder); err != nil { // a service of another user may have to look into it
		return err
	}
	_, _, err := k.held()
	return err
}

// held is what the file holds, and which group may read it. It is an error when that is no
// token of stsbroker's: such a file is somebody else's, and is never touched. A missing
// one is not.
func (k tokenFile) held() (token string, group *uint32, err error) {
	b, group, err := securefile.ReadShared(k.path, 4096)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil, nil
	case err != nil:
		return "", nil, err
	case !access.IsToken(string(b)):
		return "", nil, fmt.Errorf("%s is not a token file of stsbroker's; move it away, or give another path", k.path)
	}
	return string(b), group, nil
}

func sameID(a, b *uint32) bool { return idWord(a) == idWord(b) }

func idWord(id *uint32) string {
	if id == nil {
		return "none"
	}
	return fmt.Sprint(*id)
}

// problem is what is wrong with the file now, "" for nothing.
func (k tokenFile) problem() string {
	held, group, err := k.held()
	switch {
	case err != nil:
		return err.Error()
	case held != "" && !sameID(group, k.Group):
		return "its mode or its group was changed, and is set again within a minute"
	case held == "":
		if !k.tokensKnown() {
			return "it is written when custody is unlocked: run stsbroker unlock"
		}
		return "it is missing, and is written again within a minute"
	}
	return ""
}

// write brings the file up to date, whole at every moment. There is no newline at its
// end: several SDKs take one for part of the token (wire contract, line 5).
func (k tokenFile) write() error {
	if !k.tokensKnown() { // there is none to write; the unlock writes it
		return nil
	}
	value, _, err := k.tokens.Rotate(k.Name, k.Profiles, k.UID, time.Now())
	if err != nil {
		return err
	}
	held, group, err := k.held()
	switch {
	case err != nil || held == value.Reveal() && sameID(group, k.Group):
		return err
	case k.Group != nil:
		return securefile.WriteShared(k.path, []byte(value.Reveal()), *k.Group)
	}
	return securefile.Write(k.path, []byte(value.Reveal()))
}

// configured reports whether the file is wanted still: then this broker ends, and it is
// systemd's to keep for the next one, or not.
func (k tokenFile) configured() bool {
	return slices.ContainsFunc(k.now.Load().cfg.TokenFiles, func(f TokenFileConfig) bool { return k.tokenFile(f) == k.path })
}

// run keeps the file until ctx ends.
func (k tokenFile) run(ctx context.Context) error {
	for pause(ctx, tokenCheck) {
		if err := k.write(); err != nil {
			k.log.Warn("token file", zap.String("file", k.path), zap.Error(err))
		}
	}
	return nil
}

// remove takes the file away, unless it is somebody else's by now.
func (k tokenFile) remove() error {
	if slices.Contains(k.lasting, filepath.Dir(k.path)) && k.configured() {
		return nil
	}
	if held, _, err := k.held(); err != nil || held == "" {
		return err
	}
	return os.Remove(k.path)
}
