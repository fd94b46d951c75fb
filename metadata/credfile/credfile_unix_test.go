//go:build unix

package credfile

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestModeWhateverTheUmask(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077, 0o777} {
		t.Run(fmt.Sprintf("%03o", mask), func(t *testing.T) {
			path, s, r := place(t), &sets{}, &reports{}
			before := syscall.Umask(mask)
			defer syscall.Umask(before)
			w := newWriter(t, path, s, r, "dev")
			for range 2 { // new, and replaced
				s.set("dev", newSet(t, "dev", time.Hour))
				w.look(t.Context())
				info, err := os.Lstat(path)
				if err != nil {
					t.Fatal(err)
				}
				if info.Mode() != 0o600 {
					t.Errorf("mode %v", info.Mode())
				}
			}
			lines(t, r)
		})
	}
}

// TestOpenedToOthers closes a file of ours that somebody opened: to readers by
// itself; what others could write is no longer known to be ours.
func TestOpenedToOthers(t *testing.T) {
	path, s, r := place(t), &sets{}, &reports{}
	s.set("dev", newSet(t, "dev", time.Hour))
	w := newWriter(t, path, s, r, "dev")
	w.look(t.Context())
	chmod := func(p string, mode os.FileMode) {
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
	}
	chmod(path, 0o644)
	w.look(t.Context())
	if info, err := os.Lstat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	lines(t, r)
	chmod(path, 0o666)
	w.look(t.Context())
	lines(t, r, "everybody may change it")
	chmod(path, 0o600)
	chmod(filepath.Dir(path), 0o777)
	w.look(t.Context())
	lines(t, r, "everybody may change it", "everybody may replace what is in it")
	if err := Check(path); err == nil {
		t.Error("Check accepts the folder")
	}
	if err := stop(path); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("what cannot be judged is left in silence: %v", err)
	}
}

// TestPipe must not wait for somebody to write.
func TestPipe(t *testing.T) {
	path := place(t)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Check(path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
	if IsOurs(path) {
		t.Error("a pipe is ours")
	}
}

// TestOwner has a file that begins as ours and is another user's: in a sticky
// folder anybody could put one there.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can give a file away")
	}
	path := place(t)
	if err := os.WriteFile(path, []byte(header), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 54321, 54321); err != nil {
		t.Skipf("not run: %v", err)
	}
	if err := Check(path); err == nil || !strings.Contains(err.Error(), "belongs to uid 54321") {
		t.Error(err)
	}
	if err := Sweep(path); err == nil || !exists(t, path) {
		t.Errorf("swept: %v", err)
	}
}

const fullVariable = "CREDFILE_TEST_FULL"

// TestFullDisk stands in for a full disk with a limit on the size of files,
// which fails the same call half way, as root too. The limit is the process's,
// so the test runs itself again.
func TestFullDisk(t *testing.T) {
	if os.Getenv(fullVariable) == "" {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe, "-test.run=^TestFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), fullVariable+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestFullDisk") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	signal.Ignore(syscall.SIGXFSZ)
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	full := func(yes bool) {
		limit := before
		if yes {
			limit.Cur = 100
		}
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		path, s, r := place(t), &sets{}, &reports{}
		old := newSet(t, "dev", time.Hour)
		s.set("dev", old)
		stop := run(t, newWriter(t, path, s, r, "dev"))
		pass(time.Second)
		holds(t, path, "dev", old)

		// A renewal that cannot be written: the old set stays for as long as it is good.
		full(true)
		s.set("dev", newSet(t, "dev", 12*time.Hour))
		pass(57 * time.Minute)
		holds(t, path, "dev", old)
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil || len(entries) != 1 {
			t.Errorf("there are %v, %v", entries, err)
		}
		lines(t, r, "cannot be written: file too large; the file goes on with what it holds; trying again")
		pass(time.Until(old.Advertised))
		if exists(t, path) {
			t.Error("an expired set stays, because the disk is full")
		}
		pass(3 * time.Hour)
		lines(t, r, "the file goes on", "was removed, because credentials in it are no longer good", "there is no file")
		full(false)
		pass(longestPause)
		holds(t, path, "dev", s.m["dev"])

		// One of two is withdrawn, and what is left does not fit.
		w := newWriter(t, place(t), s, r, "dev", "ops")
		s.set("ops", newSet(t, "ops", time.Hour))
		w.look(t.Context())
		holds(t, w.file.Path, "ops", s.m["ops"])
		s.set("ops", nil)
		full(true)
		w.look(t.Context())
		if exists(t, w.file.Path) {
			t.Error("what was withdrawn stays, because the disk is full")
		}
		full(false)
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}
