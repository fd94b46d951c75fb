package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stsbroker/stsbroker/internal/seal"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

func placeWith(env map[string]string, credentials string) place {
	return place{getenv: func(name string) string { return env[name] }, credentials: credentials}
}

func writeIdentity(t *testing.T, path string) seal.Identity {
	t.Helper()
	text, err := seal.MakeIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if err := securefile.Write(path, text); err != nil {
		t.Fatal(err)
	}
	id, err := seal.ParseIdentity(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// opens reports whether one identity opens what was sealed for the other.
func opens(t *testing.T, by, sealedFor seal.Identity) bool {
	t.Helper()
	sealed, err := sealedFor.Seal([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = by.Open(sealed, 1)
	return err == nil
}

func TestFindIdentity(t *testing.T) {
	dir := t.TempDir()
	named, credentials := filepath.Join(dir, "named"), filepath.Join(dir, "credentials")
	if err := os.Mkdir(credentials, 0o700); err != nil {
		t.Fatal(err)
	}
	file, handed := writeIdentity(t, named), writeIdentity(t, filepath.Join(credentials, systemdIdentity))

	for name, c := range map[string]struct {
		place
		want seal.Identity
		from string
	}{
		"the file":            {placeWith(map[string]string{varIdentityFile: named}, ""), file, varIdentityFile},
		"the file goes first": {placeWith(map[string]string{varIdentityFile: named}, credentials), file, varIdentityFile},
		"systemd's":           {placeWith(nil, credentials), handed, "the systemd credential stsbroker-identity"},
	} {
		got, err := c.findIdentity(true)
		if err != nil || got.IsZero() || !opens(t, got.Identity, c.want) || got.from != c.from || got.made {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, p := range map[string]place{
		"nothing":                   placeWith(nil, ""),
		"a folder without it":       placeWith(nil, dir),
		"a folder that is gone":     placeWith(nil, filepath.Join(dir, "gone")),
		"a file that is not there":  placeWith(map[string]string{varIdentityFile: filepath.Join(dir, "gone")}, ""),
		"and systemd's is not used": placeWith(map[string]string{varIdentityFile: filepath.Join(dir, "gone")}, credentials),
	} {
		if got, err := p.findIdentity(false); err != nil || !got.IsZero() {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if found := p.checkIdentity(); len(found) != 0 {
			t.Errorf("%s: %v", name, found)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "gone")); err == nil {
		t.Error("looking made it")
	}

	bad := filepath.Join(dir, "bad")
	if err := securefile.Write(bad, []byte("swordfish")); err != nil {
		t.Fatal(err)
	}
	p := placeWith(map[string]string{varIdentityFile: bad}, credentials)
	if got, err := p.findIdentity(true); err == nil || !got.IsZero() || strings.Contains(err.Error(), "swordfish") {
		t.Errorf("a bad file: %+v, %v", got, err)
	}
	if found := p.checkIdentity(); len(found) != 1 || found[0].Severity != SeverityError || found[0].File != bad {
		t.Errorf("%v", found)
	}
}

// Of brokers that start at once, all come to use the one identity that was made.
func TestMakeIdentityAtOnce(t *testing.T) {
	p := placeWith(map[string]string{varIdentityFile: filepath.Join(t.TempDir(), "new", "identity")}, "")
	ids := make([]identity, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			var err error
			if ids[i], err = p.findIdentity(true); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id.IsZero() || !opens(t, ids[0].Identity, id.Identity) {
			t.Fatal("two identities were made")
		}
	}
}

// The system service takes the identity from systemd, and no path from a variable.
func TestSystemIdentity(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not run: --system is for Linux")
	}
	dir := t.TempDir()
	handed := writeIdentity(t, filepath.Join(dir, systemdIdentity))
	t.Setenv("SSL_CERT_FILE", "") // findPlace unsets these for good
	t.Setenv("SSL_CERT_DIR", "")
	t.Setenv(varIdentityFile, filepath.Join(dir, "named"))
	t.Setenv(varCredentials, dir)
	p, err := findPlace(&globals{}, true)
	if err != nil {
		t.Fatal(err)
	}
	id, err := p.findIdentity(true)
	if err != nil || !opens(t, id.Identity, handed) {
		t.Errorf("%+v, %v", id, err)
	}
	t.Setenv(varCredentials, "relative")
	if p, err := findPlace(&globals{}, true); err != nil || p.credentials != "" {
		t.Errorf("%q, %v", p.credentials, err)
	}
}
