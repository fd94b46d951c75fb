//go:build unix

package awsconfig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommentOutModes(t *testing.T) {
	for before, after := range map[os.FileMode]os.FileMode{0o600: 0o600, 0o644: 0o600, 0o640: 0o600, 0o400: 0o400} {
		path := put(t, filepath.Join(t.TempDir(), "credentials"), "[p]\n"+keysA, before)
		backup, err := CommentOut(path, "p", "n", nil)
		if err != nil {
			t.Fatalf("%o: %v", before, err)
		}
		for file, want := range map[string]os.FileMode{path: after, backup: 0o600} {
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != want {
				t.Errorf("%o: %s has mode %v", before, filepath.Base(file), info.Mode())
			}
		}
	}
	open := put(t, filepath.Join(t.TempDir(), "credentials"), "[p]\n"+keysA, 0o666)
	if _, err := CommentOut(open, "p", "n", nil); err == nil || !strings.Contains(err.Error(), "everybody may change it") {
		t.Errorf("a file that everybody may change: %v", err)
	}
}

// A link stays one, and what it leads to is replaced.
func TestCommentOutFollowsLinks(t *testing.T) {
	home, dotfiles := t.TempDir(), t.TempDir()
	target := put(t, filepath.Join(dotfiles, "aws-credentials"), "[p]\n"+keysA, 0o600)
	link := filepath.Join(home, "credentials")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	backup, err := CommentOut(link, "p", noteKept, nil)
	if err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(link); err != nil || to != target || content(t, target) != "[p]\n"+keptLines {
		t.Errorf("the link leads to %q (%v), which holds\n%s", to, err, content(t, target))
	}
	if filepath.Dir(backup) != home {
		t.Errorf("the backup went to %s, where others may look after the files", backup)
	}
	if err := os.Link(target, filepath.Join(dotfiles, "second")); err != nil {
		t.Fatal(err)
	}
	put(t, target, "[p]\n"+keysA, 0o600)
	if _, err := CommentOut(link, "p", "n", nil); err == nil || !strings.Contains(err.Error(), "a hard link") {
		t.Errorf("a file with two names: %v", err)
	}
}

func TestCommentOutOfAnother(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can give a file to another user")
	}
	path := put(t, filepath.Join(t.TempDir(), "credentials"), "[p]\n"+keysA, 0o600)
	if err := os.Chown(path, 12345, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := CommentOut(path, "p", "n", nil); err == nil || !strings.Contains(err.Error(), "belongs to uid 12345") {
		t.Errorf("somebody else's file: %v", err)
	}
}
