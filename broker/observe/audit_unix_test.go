//go:build unix

package observe

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestAuditFileIsNobodyElses(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	folder := privateFolder(t)
	path := func(name string) string { return filepath.Join(folder, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	open := func(path string) error {
		a, err := OpenAudit(AuditOptions{File: path})
		if err == nil {
			err = a.Close()
		}
		return err
	}
	must(open(path("new")))
	if info, err := os.Stat(path("new")); err != nil || info.Mode() != 0o600 {
		t.Errorf("made with mode %v (%v)", info.Mode(), err)
	}
	must(os.WriteFile(path("readable"), nil, 0o640)) //nolint:gosec // as logrotate may make it, for a group that reads logs
	if err := open(path("readable")); err != nil {
		t.Errorf("a file that others may read: %v", err)
	}

	must(os.Symlink(path("new"), path("link")))
	must(os.Symlink(path("nowhere"), path("dangling")))
	must(syscall.Mkfifo(path("pipe"), 0o600))
	must(os.Mkdir(path("folder"), 0o700))
	must(os.WriteFile(path("writable"), nil, 0o666)) //nolint:gosec // that is the point
	must(os.Mkdir(path("open"), 0o777))              //nolint:gosec // that is the point
	for name, want := range map[string]string{
		"link": "symbolic link", "dangling": "symbolic link", "pipe": "not a regular file", "folder": "is a directory", "writable": "everybody may change it",
		"open/audit.log": "everybody may replace", "missing/audit.log": "no such file",
	} {
		err := open(path(name))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "audit.file: ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if _, err := os.Lstat(path("nowhere")); err == nil {
		t.Error("a file was made through a link")
	}
}

// TestAFullDisk runs [fullDisk] on a file system of a few pages.
func TestAFullDisk(t *testing.T) {
	if folder := os.Getenv("AUDIT_TEST_FULL_DISK"); folder != "" {
		fullDisk(t, folder)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("not run: mounting a file system takes root")
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("not run: unshare is missing (apt-get install util-linux)")
	}
	folder := privateFolder(t)
	if out, err := exec.Command(unshare, "-m", "mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", folder).CombinedOutput(); err != nil {
		t.Skipf("not run: no file system can be mounted here: %s", out)
	}
	cmd := exec.Command(unshare, "-m", "sh", "-c", `mount -t tmpfs -o size=64k,mode=700 none "$AUDIT_TEST_FULL_DISK" && exec "$0" -test.run='^TestAFullDisk$' -test.v`, os.Args[0])
	cmd.Env = append(os.Environ(), "AUDIT_TEST_FULL_DISK="+folder)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "the disk was full") {
		t.Errorf("%v\n%s", err, out)
	}
}

func fullDisk(t *testing.T, folder string) {
	filler := filepath.Join(folder, "filler")
	if err := os.WriteFile(filler, make([]byte, 40<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	a := audited(t, AuditOptions{File: filepath.Join(folder, "audit.log")})
	strict := audited(t, AuditOptions{File: filepath.Join(folder, "required.log"), Required: true})
	const sets = 100 // 45 KB
	for i := range sets {
		a.Observe(servedEvent(uint64(i)))
		if i%7 == 0 {
			a.tend(false)
		}
	}
	a.tend(false)
	had := len(linesOf(t, a.path)) // whole lines alone
	if !a.failing.Load() || had == 0 || had == sets {
		t.Fatalf("%d of %d lines on the disk, which should be full", had, sets)
	}
	refused := false
	for i := range sets {
		e := servedEvent(1)
		e.Profile = fmt.Sprint(i)
		if err := strict.Gate(e); err != nil {
			refused = strings.Contains(err.Error(), "no space left on device")
		}
	}
	if !refused {
		t.Error("nobody was refused for a line that had no room")
	}
	before := len(linesOf(t, strict.path))
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := strict.Gate(servedEvent(9)); err != nil {
		t.Errorf("there is room again: %v", err)
	}
	if got := len(linesOf(t, strict.path)); got != before+1 {
		t.Errorf("%d lines, want %d: what was refused is not told as allowed", got, before+1)
	}
	for i, m := range told1(t, a) {
		if m["seq"] != float64(i+1) {
			t.Fatalf("line %d has number %v", i+1, m["seq"])
		}
	}
	if got := len(linesOf(t, a.path)); got != sets || a.dropped.Load() != 0 {
		t.Errorf("%d lines of %d, %d dropped", got, sets, a.dropped.Load())
	}
	t.Log("the disk was full")
}
