//go:build unix

package custody

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// systemd makes the file 0440 and root's, with an access list for the service's user;
// a mode that anybody else could use is refused.
func TestSystemdModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "credentials")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := write(t, filepath.Join(dir, "work"), idA+"\n"+secretA+"\n", 0o444)
	if _, err := Systemd(dir, "work")(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "the credential work is not read for a key: "+path+" has mode 0444") {
		t.Errorf("%v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("not run: only root has files of root")
	}
	write(t, path, idA+"\n"+secretA+"\n", 0o440)
	if err := os.Chown(path, 0, 0); err != nil {
		t.Fatal(err)
	}
	wantKey(t, Set{"work": Systemd(dir, "work")}, "work", idA, secretA)
}
