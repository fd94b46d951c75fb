//go:build unix

package securefile

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// anyGroup is a group that this process can give files to, if it can also one that it is not in.
func anyGroup() uint32 {
	if os.Geteuid() == 0 {
		return 54323
	}
	return uint32(os.Getegid()) //nolint:gosec // ids are small
}

func TestWriteShared(t *testing.T) {
	path, gid := filepath.Join(t.TempDir(), "f"), anyGroup()
	before := syscall.Umask(0)
	defer syscall.Umask(before)
	is := func(content string, mode os.FileMode, want *uint32) {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		data, group, err := ReadShared(path, 10)
		if err != nil || string(data) != content || info.Mode() != mode {
			t.Errorf("%q, mode %v, %v", data, info.Mode(), err)
		}
		switch {
		case want == nil && group != nil:
			t.Errorf("read by group %d", *group)
		case want != nil && (group == nil || *group != *want || factsOf(info).gid != *want):
			t.Errorf("read by group %v, and belongs to %d, want %d", group, factsOf(info).gid, *want)
		}
	}
	if err := Write(path, []byte("mine")); err != nil {
		t.Fatal(err)
	}
	is("mine", 0o600, nil)
	if err := WriteShared(path, []byte("ours"), gid); err != nil {
		t.Fatal(err)
	}
	is("ours", 0o640, &gid)
	if _, err := Read(path, 10); err == nil || !strings.Contains(err.Error(), "mode 0640: others may reach it") {
		t.Errorf("Read took it: %v", err)
	}
	if err := Write(path, []byte("mine")); err != nil {
		t.Fatal(err)
	}
	is("mine", 0o600, nil)
	if err := CheckGroup(gid); err != nil {
		t.Error(err)
	}
	if n := names(t, filepath.Dir(path)); len(n) != 1 {
		t.Errorf("left behind: %v", n)
	}
}

const sharedChild = "SECUREFILE_SHARED_CHILD"

// TestSharedChild is in group 54323, and in no other but its own.
func TestSharedChild(t *testing.T) {
	folder := os.Getenv(sharedChild)
	if folder == "" {
		t.Skip("not run: it is a child of TestSharedByMembers")
	}
	path := filepath.Join(folder, "f")
	fmt.Printf("member: %v\n", errors.Join(CheckGroup(54323), WriteShared(path, []byte("ours"), 54323)))
	fmt.Printf("stranger: %v\n", CheckGroup(54324))
	fmt.Printf("stranger: %v\n", WriteShared(path, []byte("theirs"), 54324))
	data, group, err := ReadShared(path, 10)
	fmt.Printf("then: %q %d %v\n", data, *group, err)
}

// Who is no member cannot give a file to a group, and is told how to become one; what was
// there stays.
func TestSharedByMembers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can start a process with other groups")
	}
	folder, err := os.MkdirTemp("", "securefile") // not t.TempDir(): the child must reach it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	if err := os.Chown(folder, 54322, 54322); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(folder, "child")
	image, err := os.ReadFile(self(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, image, 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-test.run=^TestSharedChild$")
	cmd.Dir, cmd.Env = folder, append(os.Environ(), sharedChild+"="+folder)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 54322, Gid: 54322, Groups: []uint32{54323}}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const refused = "uid 54322 is not in group 54324 here, and cannot give a file to it; start it with that group"
	for _, want := range []string{"member: <nil>\n", "stranger: " + refused, "stranger: cannot write " + folder + "/f: " + refused, "then: \"ours\" 54323 <nil>\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	info, err := os.Stat(filepath.Join(folder, "f"))
	if err != nil || info.Mode() != 0o640 || factsOf(info).uid != 54322 || factsOf(info).gid != 54323 {
		t.Errorf("%+v, %v", info, err)
	}
}
