//go:build unix

package custody

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFileModes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "credentials")
	for mode, want := range map[os.FileMode]string{
		0o600: "", 0o400: "", 0o644: "", 0o640: "",
		0o602: "%s is not read for keys: %[1]s has mode 0602: everybody may change it; run: chmod go-w %[1]s",
		0o666: "%s is not read for keys: %[1]s has mode 0666: everybody may change it; run: chmod go-w %[1]s",
	} {
		write(t, path, "[k]\n"+pair(idA, secretA), mode)
		if want == "" {
			wantKey(t, Set{"k": File(path, "k")}, "k", idA, secretA)
		} else {
			wantError(t, File(path, "k"), fmt.Sprintf(want, path))
		}
		exposed := ""
		if mode&0o044 != 0 {
			exposed = fmt.Sprintf("%s can be read by other users (mode %04o): chmod 600 %[1]s", path, mode)
		}
		if got := Exposed(path); got != exposed {
			t.Errorf("mode %o: %q, want %q", mode, got, exposed)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if got := Exposed(path) + Exposed(dir) + Exposed(os.DevNull); got != "" {
		t.Errorf("what is no file is exposed: %s", got)
	}
}

// A config file without keys may be as it likes; one with keys may not.
func TestOnlyTheFileWithTheKeyIsJudged(t *testing.T) {
	dir := t.TempDir()
	keys := write(t, filepath.Join(dir, "credentials"), "[k]\n"+pair(idA, secretA), 0o600)
	config := write(t, filepath.Join(dir, "config"), "[profile j]\n"+pair(idB, secretB), 0o666)
	wantKey(t, Set{"k": Profile(config, keys, "k")}, "k", idA, secretA)
	wantError(t, Profile(config, keys, "j"), fmt.Sprintf("%s is not read for keys: %[1]s has mode 0666: everybody may change it; run: chmod go-w %[1]s", config))
}

// A folder that others may write is as good as a file that they may.
func TestFoldersAndLinks(t *testing.T) {
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	inOpen := write(t, filepath.Join(open, "credentials"), "[k]\n"+pair(idA, secretA), 0o600)
	safe := t.TempDir()
	toOpen := filepath.Join(safe, "to-open")
	toSafe := filepath.Join(safe, "to-safe")
	target := write(t, filepath.Join(safe, "target"), "[k]\n"+pair(idA, secretA), 0o600)
	for link, to := range map[string]string{toOpen: inOpen, toSafe: target, filepath.Join(open, "link"): target} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	wantKey(t, Set{"k": File(toSafe, "k")}, "k", idA, secretA)
	for _, path := range []string{inOpen, toOpen, filepath.Join(open, "link")} {
		_, err := File(path, "k")(t.Context())
		if err == nil || !strings.HasPrefix(err.Error(), path+" is not read for keys: ") {
			t.Errorf("%s: %v; want it refused for its folder", path, err)
		}
	}
}

func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can give a file to another user")
	}
	path := write(t, filepath.Join(t.TempDir(), "credentials"), "[k]\n"+pair(idA, secretA), 0o600)
	if err := os.Chown(path, 12345, -1); err != nil {
		t.Fatal(err)
	}
	wantError(t, File(path, "k"), fmt.Sprintf("%s is not read for keys: %[1]s (mode 0600) belongs to uid 12345, not to uid %[2]d or root; if it should be yours, run: chown %[2]d %[1]s", path, os.Geteuid()))
}
