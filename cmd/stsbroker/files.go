package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
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
func (a *app) credentialSocket() string {
	switch {
	case a.cfg.Listen.Socket == socketOff || runtime.GOOS == "windows":
		return ""
	case a.cfg.Listen.Socket != "":
		return a.cfg.Listen.Socket
	}
	return filepath.Join(a.runtime, "creds.sock") // shorter than the control socket's: a path that does for one does for both
}

// makeFolderOf makes the folder of a file at its default path. Others are there, and
// nobody else can write to them.
func makeFolderOf(path string, isDefault bool) error {
	if isDefault {
		return securefile.MakeFolder(filepath.Dir(path))
	}
	return securefile.CheckFolders(filepath.Dir(path))
}

// credentialFiles tells the writers of credentials files what happens.
type credentialFiles struct{ writers []*credfile.Writer }

// Observe implements broker.Observer.
func (c *credentialFiles) Observe(e broker.Event) {
	for _, w := range c.writers {
		w.Observe(e)
	}
}

// keepCredentialFiles prepares the writers. They mint nothing of their own accord but
// what is prefetched, and so is every profile that they have, unless a person is
// needed for it.
func (a *app) keepCredentialFiles() error {
	for _, f := range a.cfg.Files {
		path := a.credentialsFile(f)
		err := makeFolderOf(path, f.Path == "")
		if err == nil && f.Path == "" { // who gives a path has been warned
			err = inMemory(a.place, f)
		}
		if err == nil {
			err = credfile.Check(path)
		}
		if err == nil { // a dead broker's, before anything is minted
			err = credfile.Sweep(path)
		}
		if err != nil {
			return fmt.Errorf("%s:%d: files.%s: %w", a.cfg.File, f.Line, f.Name, err)
		}
		for _, p := range f.Profiles {
			a.prefetch(p)
		}
		who := broker.Caller{Door: broker.DoorFile, Peer: broker.NewPeer(uint32(os.Getuid()), int32(os.Getpid()))}
		w, err := credfile.New(credfile.File{Path: path, Profiles: f.Profiles}, a.broker, who, func(err error) {
			a.log.Warn("credentials file", zap.String("file", path), zap.Error(err))
		})
		if err != nil {
			return fmt.Errorf("%s:%d: files.%s: %w", a.cfg.File, f.Line, f.Name, err)
		}
		a.files.writers = append(a.files.writers, w)
		a.serving = append(a.serving, w.Run)
	}
	return nil
}

// tokenCheck is how often a token file is looked at: its token may be due, the wall
// clock may have moved, and somebody may have removed it.
const tokenCheck = time.Minute

// keepTokenFiles writes the token files, and env's of an earlier run: shells still
// have their paths.
func (a *app) keepTokenFiles() error {
	for _, issued := range a.tokens.EnvFiles() {
		if err := a.writeEnvToken(issued); err != nil {
			return err
		}
	}
	for _, f := range a.cfg.TokenFiles {
		k := tokenFile{app: a, TokenFileConfig: f, path: a.tokenFile(f)}
		if err := k.begin(); err != nil {
			return fmt.Errorf("%s:%d: token_files.%s: %w", a.cfg.File, f.Line, f.Name, err)
		}
		a.serving = append(a.serving, k.run)
	}
	return nil
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

func (k tokenFile) begin() error {
	if k.UID != nil && !k.bind {
		return errors.New("uid cannot be had here, where the kernel does not tell which user connects; remove it")
	}
	if err := makeFolderOf(k.path, k.Path == ""); err != nil {
		return err
	}
	if held, err := k.held(); err != nil {
		return err
	} else if held != "" && !access.IsToken(held) {
		return fmt.Errorf("%s is not a token file of stsbroker's; move it away, or give another path", k.path)
	}
	return k.write()
}

// held is what the file holds, "" for no file.
func (k tokenFile) held() (string, error) {
	b, err := securefile.Read(k.path, 4096)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(bytes.TrimSpace(b)), err
}

// write brings the file up to date, whole at every moment. There is no newline at its
// end: several SDKs take one for part of the token (wire contract, line 5).
func (k tokenFile) write() error {
	value, _, err := k.tokens.Rotate(k.Name, k.Profiles, k.UID, time.Now())
	if err != nil {
		return err
	}
	if held, err := k.held(); err == nil && held == value.Reveal() {
		return nil
	}
	return securefile.Write(k.path, []byte(value.Reveal()))
}

// run keeps the file until ctx ends, and then takes it away.
func (k tokenFile) run(ctx context.Context) error {
	for pause(ctx, tokenCheck) {
		if err := k.write(); err != nil {
			k.log.Warn("a token file could not be written", zap.String("file", k.path), zap.Error(err))
		}
	}
	if held, err := k.held(); err == nil && access.IsToken(held) { // else somebody else's by now
		return os.Remove(k.path)
	}
	return nil
}
