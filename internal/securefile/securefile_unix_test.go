//go:build unix

package securefile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childVariable makes the test binary do one of the children's jobs instead of
// running tests.
const childVariable = "SECUREFILE_TEST_CHILD"

func TestMain(m *testing.M) {
	switch job := os.Getenv(childVariable); job {
	case "":
		os.Exit(m.Run())
	case "full":
		fullDisk(os.Args[1])
	case "write":
		writeForEver(os.Args[1])
	case "as-other":
		readAsOther(os.Args[1])
	}
	os.Exit(0)
}

func child(t *testing.T, job, binary string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), childVariable+"="+job)
	return cmd
}

func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

func TestModesWhateverTheUmask(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077, 0o777} {
		t.Run(fmt.Sprintf("%03o", mask), func(t *testing.T) {
			base := t.TempDir()
			dir := filepath.Join(base, "a", "b")
			before := syscall.Umask(mask)
			defer syscall.Umask(before)
			if err := MakeFolder(dir); err != nil {
				t.Fatal(err)
			}
			mustWrite(t, filepath.Join(dir, "f"), "x")
			for path, want := range map[string]os.FileMode{filepath.Dir(dir): 0o700, dir: 0o700, filepath.Join(dir, "f"): 0o600} {
				info, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				if got := info.Mode().Perm(); got != want {
					t.Errorf("%s: %#o", path, got)
				}
			}
		})
	}
}

func TestWriteMendsTheMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path, 100); err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
		t.Fatal(err)
	}
	mustWrite(t, path, "x")
	if _, err := Read(path, 100); err != nil {
		t.Fatal(err)
	}
}

// TestRead is about real files: which folders above, links and kinds are refused.
func TestRead(t *testing.T) {
	base := t.TempDir()
	in := func(elem ...string) string { return filepath.Join(append([]string{base}, elem...)...) }
	for dir, mode := range map[string]os.FileMode{"ok": 0o755, "open": 0o777, "closed": 0o700} {
		if err := os.Mkdir(in(dir), 0o700); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, in(dir, "f"), "x")
		if err := os.Chmod(in(dir), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(in("open", "deep", "er"), 0o700); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, in("open", "deep", "er", "f"), "x")
	for link, target := range map[string]string{
		"link": "ok/f", "dirlink": "ok", "absolute": in("closed", "f"), "up": "ok/../closed/f",
		"tosink": "open/f", "loop": "loop", "dangling": "nothing",
	} {
		if err := os.Symlink(target, in(link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(in("ok", "f"), in("open", "out")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(in("fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"ok/f": "", "closed/f": "", "link": "", "dirlink/f": "", "absolute": "", "up": "",
		"open/f":         in("open") + " has mode 0777",
		"open/deep/er/f": in("open") + " has mode 0777",
		"tosink":         in("open") + " has mode 0777",
		"open/out":       in("open") + " has mode 0777",
		"loop":           "too many symbolic links",
		"dangling":       "no such file",
		"fifo":           "not a regular file",
		"ok":             "not a regular file",
		"ok/f/g":         "not a folder",
	} {
		data, err := Read(in(path), 100)
		switch {
		case want == "" && (err != nil || string(data) != "x"):
			t.Errorf("%s: %q, %v", path, data, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want …%s…", path, err, want)
		}
	}
	if err := MakeFolder(in("ok")); err == nil || !strings.Contains(err.Error(), "chmod 700 "+in("ok")) {
		t.Errorf("a folder open to others: %v", err)
	}
	if err := MakeFolder(in("open", "new")); err == nil {
		t.Error("a folder in a folder that everybody may change was accepted")
	}
}

func TestReadFilesOfOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run: needs root, to give files away")
	}
	// Not t.TempDir(): the child must reach it.
	base, err := os.MkdirTemp("", "securefile")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	const mine, other = 54321, 54322
	put := func(name string, uid int, mode os.FileMode) string {
		p := filepath.Join(base, name)
		mustWrite(t, p, "x")
		if err := errors.Join(os.Chown(p, uid, uid), os.Chmod(p, mode)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if _, err := Read(put("given-away", other, 0o600), 100); err == nil || !strings.Contains(err.Error(), "belongs to uid 54322") {
		t.Errorf("root reads another's file: %v", err)
	}

	// As an ordinary user, for whom the modes count.
	put("mine", mine, 0o600)
	put("mine-unreadable", mine, 0)
	put("other-open", other, 0o604)
	put("root-open", 0, 0o644)
	put("root-closed", 0, 0o600)
	binary := filepath.Join(base, "child")
	image, err := os.ReadFile(self(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(binary, image, 0o755), os.Chmod(base, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := child(t, "as-other", binary, base)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: mine, Gid: mine}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := []string{
		"mine: ok",
		"mine-unreadable: open " + base + "/mine-unreadable: permission denied",
		"other-open: " + base + "/other-open (mode 0604) belongs to uid 54322",
		"root-open: " + base + "/root-open has mode 0644",
		"root-closed: open " + base + "/root-closed: permission denied",
		"write: cannot write " + base + "/new: open",
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%s", out)
	}
	for i, w := range want {
		if !strings.HasPrefix(lines[i], w) {
			t.Errorf("got  %s\nwant %s…", lines[i], w)
		}
	}
}

func readAsOther(base string) {
	for _, name := range []string{"mine", "mine-unreadable", "other-open", "root-open", "root-closed"} {
		if _, err := Read(filepath.Join(base, name), 100); err != nil {
			fmt.Printf("%s: %v\n", name, err)
		} else {
			fmt.Printf("%s: ok\n", name)
		}
	}
	fmt.Printf("write: %v\n", Write(filepath.Join(base, "new"), nil))
}

// TestFullDisk stands in for ENOSPC with a limit on the size of files, which
// fails the same call half way, as root too.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	mustWrite(t, path, "old")
	out, err := child(t, "full", self(t), path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "file too large") {
		t.Fatalf("%v: %s", err, out)
	}
	if got, err := Read(path, 100); err != nil || string(got) != "old" {
		t.Fatalf("%q, %v", got, err)
	}
	if n := names(t, filepath.Dir(path)); len(n) != 1 {
		t.Fatalf("left behind: %v", n)
	}
}

func fullDisk(path string) {
	signal.Ignore(syscall.SIGXFSZ)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 4096, Max: 4096}); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(Write(path, make([]byte, 8192)))
}

const killedSize = 1 << 18

// TestKilled kills a writer again and again; the file is old or new, never
// lost, never a part. Each kill comes after some more writes, so that it falls
// on a different moment.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	exe := self(t)
	for i := range 40 {
		cmd := child(t, "write", exe, path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_, err = io.CopyN(io.Discard, out, int64(1+i%7))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Read(path, killedSize); err != nil || !sameByte(got, killedSize) {
			t.Fatalf("after kill %d: %d bytes, %v", i, len(got), err)
		}
	}
	old := time.Now().Add(-2 * strayAge)
	for _, n := range names(t, filepath.Dir(path)) {
		if err := os.Chtimes(filepath.Join(filepath.Dir(path), n), old, old); err != nil {
			t.Fatal(err)
		}
	}
	mustWrite(t, path, "x")
	if n := names(t, filepath.Dir(path)); len(n) != 1 {
		t.Fatalf("left behind: %v", n)
	}
}

func writeForEver(path string) {
	for i := byte('a'); ; i = 'a' + (i-'a'+1)%26 {
		if err := Write(path, bytes.Repeat([]byte{i}, killedSize)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Print(".")
	}
}

func TestOnlyMember(t *testing.T) {
	dir := t.TempDir()
	passwd, group := filepath.Join(dir, "passwd"), filepath.Join(dir, "group")
	mustWrite(t, passwd, "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\nyou:x:1001:1001::/home/you:/bin/sh\na:x:1002:100::/:/bin/sh\nb:x:1003:100::/:/bin/sh\n")
	mustWrite(t, group, "root:x:0:\nme:x:1000:\nyou:x:1001:me\nusers:x:100:\nempty:x:200:\nmine:x:201:me\nboth:x:202:me,you\nbroken\n")
	for gid, want := range map[uint32]bool{1000: true, 1001: false, 100: false, 200: false, 201: true, 202: false, 0: false, 999: false} {
		if got := onlyMember(passwd, group, 1000, gid); got != want {
			t.Errorf("group %d: %v", gid, got)
		}
	}
	if onlyMember(passwd, group, 4711, 1000) || onlyMember(filepath.Join(dir, "none"), group, 1000, 1000) {
		t.Error("a user whom nobody knows has a group of their own")
	}
}
