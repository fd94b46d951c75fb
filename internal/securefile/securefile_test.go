package securefile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func mustWrite(t *testing.T, path, content string) {
	t.Helper()
	if err := Write(path, []byte(content)); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestWriteThenRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if _, err := Read(path, 100); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("missing file: %v", err)
	}
	mustWrite(t, path, "old")
	mustWrite(t, path, "new")
	got, err := Read(path, 3)
	if err != nil || string(got) != "new" {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := Read(path, 2); err == nil || !strings.Contains(err.Error(), path) {
		t.Fatalf("a file over the limit: %v", err)
	}
	if n := names(t, filepath.Dir(path)); len(n) != 1 {
		t.Fatalf("left behind: %v", n)
	}
}

func TestWriteReplacesALinkAndLeavesItsTarget(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	mustWrite(t, target, "target")
	if err := os.Symlink(target, link); err != nil {
		t.Skipf("not run: %v", err)
	}
	mustWrite(t, link, "new")
	if got, err := Read(target, 100); err != nil || string(got) != "target" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestWriteSweepsOnlyItsOwnOldLeftovers(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-2 * strayAge)
	for name, when := range map[string]time.Time{
		".f.1.tmp": old, ".f.2.tmp": time.Now(), ".g.1.tmp": old, "f.tmp": old,
	} {
		p := filepath.Join(dir, name)
		mustWrite(t, p, "x")
		if err := os.Chtimes(p, when, when); err != nil {
			t.Fatal(err)
		}
	}
	mustWrite(t, filepath.Join(dir, "f"), "x")
	if got := strings.Join(names(t, dir), " "); got != ".f.2.tmp .g.1.tmp f f.tmp" {
		t.Fatal(got)
	}
}

func TestWriteIntoNowhere(t *testing.T) {
	dir := t.TempDir()
	if err := Write(filepath.Join(dir, "no", "f"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	// A folder stands where the file should be: the rename fails, nothing is left.
	if err := os.MkdirAll(filepath.Join(dir, "d", "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(dir, "d"), []byte("x")); err == nil {
		t.Fatal("wrote over a folder")
	}
	if got := strings.Join(names(t, dir), " "); got != "d" {
		t.Fatal(got)
	}
}

func TestMakeFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b", "c")
	for range 2 { // to make, and to find
		if err := MakeFolder(dir); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "f")
	mustWrite(t, file, "x")
	for _, path := range []string{file, filepath.Join(file, "sub")} {
		if err := MakeFolder(path); err == nil {
			t.Errorf("%s: taken for a folder", path)
		}
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	release, held, err := Lock(path)
	if err != nil || !held {
		t.Fatal(held, err)
	}
	if _, held, err := Lock(path); err != nil || held {
		t.Fatal("held twice", err)
	}
	release()
	release, held, err = Lock(path)
	if err != nil || !held {
		t.Fatal("not released", err)
	}
	release()
}

func TestShellWord(t *testing.T) {
	for in, want := range map[string]string{
		"/home/me/.local/state": "/home/me/.local/state",
		"/a b":                  "'/a b'",
		"it's":                  `'it'\''s'`,
		"-rf":                   "'-rf'",
		"":                      "''",
		"a\nb":                  "'a\nb'",
	} {
		if got := shellWord(in); got != want {
			t.Errorf("%q: %s", in, got)
		}
	}
}

// sameByte reports whether data is n times one byte: what the writers that are
// killed in the tests write.
func sameByte(data []byte, n int) bool {
	return len(data) == n && bytes.Count(data, data[:1]) == n
}

func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := Create(path, []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	if got, err := Read(path, 100); err != nil || string(got) != "first" {
		t.Errorf("%q, %v", got, err)
	}
	if n := names(t, filepath.Dir(path)); len(n) != 1 {
		t.Errorf("left behind: %v", n)
	}
	if err := Create(filepath.Join(path, "in-a-file"), nil); err == nil {
		t.Error("a file is no folder")
	}
}

// Of many that create one file at a time, one does.
func TestCreateAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	results := make(chan error, 16)
	for range cap(results) {
		go func() { results <- Create(path, []byte("x")) }()
	}
	made := 0
	for range cap(results) {
		switch err := <-results; {
		case err == nil:
			made++
		case !errors.Is(err, fs.ErrExist):
			t.Error(err)
		}
	}
	if made != 1 {
		t.Errorf("%d made it", made)
	}
}

func TestSameDisk(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	mustWrite(t, path, "x")
	if same, err := SameDisk(path, dir); err != nil || !same {
		t.Errorf("a file and its folder: %v, %v", same, err)
	}
	if _, err := os.Stat("/proc/self/status"); err == nil {
		if same, err := SameDisk("/proc/self/status", dir); err != nil || same {
			t.Errorf("/proc and a folder: %v, %v", same, err)
		}
	}
}
