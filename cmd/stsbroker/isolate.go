package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/stsbroker/stsbroker/broker/awsconfig"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// A runtime copy begins with these lines, so that it is known for what it is
// and never taken for a source.
const (
	copiedConfig      = "# stsbroker: without credentials, from config "
	copiedCredentials = "# stsbroker: without credentials, from credentials "
)

// isolate points SDKs at a copy of the config without credential keys, and an
// empty credentials file, where the default profile holds credentials.
func (p place) isolate(set map[string]string) error {
	files := awsconfig.DefaultFiles(p.getenv, p.home)
	if real := originals(files); real != files { // already isolated: bring the copy up to date
		files = real
	} else if !awsconfig.Load(files).DefaultHasCredentials() {
		return nil
	}
	data, err := os.ReadFile(files.Config)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	sum := sha256.Sum256([]byte(files.Config + "\x00" + files.Credentials))
	folder := filepath.Join(p.runtime, "aws-"+hex.EncodeToString(sum[:6]))
	config, credentials := filepath.Join(folder, "config"), filepath.Join(folder, "credentials")
	if err := securefile.MakeFolder(folder); err != nil {
		return err
	}
	head := copiedConfig + files.Config + "\n" + copiedCredentials + files.Credentials + "\n"
	if err := securefile.Write(config, append([]byte(head), awsconfig.Isolate(data)...)); err != nil {
		return err
	}
	if err := securefile.Write(credentials, nil); err != nil {
		return err
	}
	set["AWS_CONFIG_FILE"], set["AWS_SHARED_CREDENTIALS_FILE"] = config, credentials
	return nil
}

// originals undoes isolate: a copy that we wrote is an alias of what it was
// made from, never a source.
func originals(f awsconfig.Files) awsconfig.Files {
	if info, err := os.Stat(f.Config); err != nil || !info.Mode().IsRegular() { // a pipe would wait for its writer
		return f
	}
	file, err := os.Open(f.Config)
	if err != nil {
		return f
	}
	defer file.Close()
	head, err := io.ReadAll(io.LimitReader(file, 16<<10))
	if err != nil {
		return f
	}
	first, rest, _ := bytes.Cut(head, []byte("\n"))
	second, _, _ := bytes.Cut(rest, []byte("\n"))
	config, ok1 := strings.CutPrefix(string(first), copiedConfig)
	credentials, ok2 := strings.CutPrefix(string(second), copiedCredentials)
	if !ok1 || !ok2 {
		return f
	}
	return awsconfig.Files{Config: config, Credentials: credentials}
}
