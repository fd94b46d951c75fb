//go:build unix

package sealedfile

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stsbroker/stsbroker/internal/seal"
)

var kills = flag.Int("kills", 200, "how often TestKilled kills a process that saves")

// jobVariable makes this test binary do one thing instead of testing.
const jobVariable = "SEALEDFILE_TEST_JOB"

func TestMain(m *testing.M) {
	switch os.Getenv(jobVariable) {
	case "":
		os.Exit(m.Run())
	case "save":
		saveForEver(os.Args[1])
	case "full":
		fullDisk(os.Args[1])
	case "mint":
		mintInChild(os.Args[1], os.Args[2])
	case "hold":
		holdInChild(os.Args[1])
	}
	os.Exit(0)
}

func child(t *testing.T, job, path string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, path)
	cmd.Env = append(os.Environ(), jobVariable+"="+job)
	return cmd
}

func childStore(path string) *Store {
	id, err := seal.ParseIdentity([]byte(testIdentity))
	if err != nil {
		fail(err)
	}
	s, aside, why, err := Open(Options{Path: path, Identity: id, Report: func(err error) { fmt.Println("report:", err) }})
	if err = errors.Join(err, why); err != nil {
		fail(aside, err)
	}
	return s
}

func fail(what ...any) {
	fmt.Fprintln(os.Stderr, what...)
	os.Exit(1)
}

// saveForEver saves pairs of sets of which both are of one generation, and prints
// the generation once it is saved.
func saveForEver(path string) {
	s := childStore(path)
	n := generation(s) + 1
	for ; ; n++ {
		for _, name := range []string{"a", "b"} {
			s.m[keyOf(name)] = setOf(strconv.Itoa(n), time.Hour)
		}
		s.dirty = true
		if err := s.save(); err != nil {
			fail(err)
		}
		fmt.Println(n)
	}
}

// generation is that of both sets; -1 when they differ, 0 when there are none.
func generation(s *Store) int {
	number := func(name string) int {
		c, ok := s.m[keyOf(name)]
		if !ok {
			return 0
		}
		n, err := strconv.Atoi(strings.TrimPrefix(c.AccessKeyID, "ASIATESTTESTTEST"))
		if err != nil || c.SecretAccessKey.Reveal() != "secret of "+strconv.Itoa(n) {
			return -1
		}
		return n
	}
	if a := number("a"); a == number("b") {
		return a
	}
	return -1
}

// TestKilled kills a process that saves again and again: what is found is the last
// save that it told of, or the one that it was in, whole.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases")
	newer, last := 0, 0
	for i := range *kills {
		cmd := child(t, "save", path)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		told, lines := 0, bufio.NewScanner(out)
		for range 1 + i%3 {
			if lines.Scan() {
				told, err = strconv.Atoi(lines.Text())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(time.Duration(rand.Int64N(int64(2 * time.Millisecond)))) // a save takes about as long: each kill hits another moment of it
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
			told, err = strconv.Atoi(lines.Text())
			if err != nil {
				t.Fatal(err)
			}
		}
		_ = cmd.Wait()
		if told == 0 {
			t.Fatalf("the child ended: %s", stderr.Bytes())
		}
		s := childStoreOf(t, path) // at once: the lock went with the process
		got := generation(s)
		closed(t, s)
		if got != told && got != told+1 || got <= last {
			t.Fatalf("after kill %d: generation %d of those after %d, and %d was saved", i, got, last, told)
		}
		if last = got; got > told {
			newer++
		}
	}
	t.Logf("%d kills: %d times the save under way had come about", *kills, newer)
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.Contains(e.Name(), asideMark) {
			t.Errorf("%s was moved aside", e.Name())
		}
	}
}

func childStoreOf(t *testing.T, path string) *Store {
	t.Helper()
	id, err := seal.ParseIdentity([]byte(testIdentity))
	if err != nil {
		t.Fatal(err)
	}
	return open(t, path, id)
}

// TestFullDisk stands in for ENOSPC with a limit on the size of files, which fails
// the same call half way, as root too: the old file stays, the failure is told once,
// and the next save after there is room has everything.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases")
	s := childStoreOf(t, path)
	put(t, s, "old", setOf("OLD", time.Hour))
	closed(t, s)
	out, err := child(t, "full", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := "report: cannot write " + path + ": "
	text := string(out)
	if !strings.HasPrefix(text, want) || strings.Count(text, "report: ") != 2 || !strings.HasSuffix(text, "report: <nil>\nold and new\n") {
		t.Errorf("%s", text)
	}
	s = childStoreOf(t, path)
	if !has(t, s, "old") || !has(t, s, "new") {
		t.Error("the new file lacks something")
	}
	closed(t, s)
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != len(Files(path)) {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func fullDisk(path string) {
	s := childStore(path)
	s.m[keyOf("new")] = setOf("NEW", time.Hour)
	s.dirty = true
	signal.Ignore(syscall.SIGXFSZ)
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		fail(err)
	}
	limit := before
	limit.Cur = 512
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		fail(err)
	}
	for range 2 {
		if err := s.save(); !errors.Is(err, unix.EFBIG) {
			fail("a full disk:", err)
		}
		if unsaved, err := s.Standing(); !unsaved || err == nil {
			fail("standing:", unsaved, err)
		}
	}
	sets := func() int {
		shared, err := OpenShared(path, s.id)
		if err != nil {
			fail(err)
		}
		return len(shared.file.sets)
	}
	if n := sets(); n != 1 {
		fail("the old file:", n)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		fail(err)
	}
	if err := s.Close(); err != nil {
		fail(err)
	}
	if unsaved, err := s.Standing(); unsaved || err != nil {
		fail("standing:", unsaved, err)
	}
	if n := sets(); n != 2 {
		fail("the new file:", n)
	}
	fmt.Println("old and new")
}

// 0600 whatever the umask is; what others may read is refused, and not moved.
func TestModes(t *testing.T) {
	path, id := filepath.Join(t.TempDir(), "leases"), newIdentity(t)
	before := syscall.Umask(0)
	s := open(t, path, id)
	put(t, s, "a", setOf("ONE", time.Hour))
	closed(t, s)
	other, aside, _, err := Open(Options{Path: path, Identity: newIdentity(t)})
	syscall.Umask(before)
	if err != nil {
		t.Fatal(err)
	}
	closed(t, other)
	for _, mark := range []string{lockMark, ownerMark} {
		if info, err := os.Stat(path + mark); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", mark, info.Mode(), err)
		}
	}
	if info, err := os.Stat(aside); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.Rename(aside, path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil { //nolint:gosec // this is what is refused
		t.Fatal(err)
	}
	if _, _, _, err := Open(Options{Path: path, Identity: id}); err == nil || !strings.Contains(err.Error(), "sealed leases: "+path+" has mode 0640") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("it was moved: %v", err)
	}
}
