package securefile

import (
	"fmt"
	"io/fs"
	"strings"
)

// facts is what is judged of a file: its kind and bits, and, where the system
// has them, its owner and group.
type facts struct {
	mode           fs.FileMode
	regular, link  bool
	folder, sticky bool
	owned          bool // the system tells owners and modes
	uid, gid       uint32
}

// user is for whom files are judged.
type user struct {
	uid uint32
	// onlyMember reports whether the user is the one member of the group.
	onlyMember func(gid uint32) bool
}

func (f facts) of(me user) bool { return f.uid == me.uid || f.uid == 0 }

func judgeFile(path string, f facts, me user) error {
	switch {
	case !f.regular:
		return fmt.Errorf("%s is not a regular file", path)
	case !f.owned:
		return nil
	}
	return judgePrivate(path, "600", f, me)
}

// judgeShared is judgeFile for a file that a group may read.
func judgeShared(path string, f facts, me user) error {
	f.mode &^= 0o040
	return judgeFile(path, f, me)
}

// judgeCredential is judgeFile for a file that systemd hands to a service.
func judgeCredential(path string, f facts, me user) error {
	if f.regular && f.owned && f.uid == 0 && f.gid == 0 && f.mode.Perm()&0o037 == 0 {
		return nil
	}
	return judgeFile(path, f, me)
}

func judgePrivateFolder(path string, f facts, me user) error {
	switch {
	case !f.folder:
		return fmt.Errorf("%s is not a folder", path)
	case !f.owned:
		return nil
	}
	return judgePrivate(path, "700", f, me)
}

// judgePrivate is OpenSSH's rule for private keys.
func judgePrivate(path, chmod string, f facts, me user) error {
	switch {
	case !f.of(me):
		return wrongOwner(path, f, me)
	case f.mode.Perm()&0o077 != 0:
		return fmt.Errorf("%s has mode %#o: others may reach it; run: chmod %s %s", path, f.mode.Perm(), chmod, shellWord(path))
	}
	return nil
}

// judgeWriters is the rule for files that others may read and not change: keys in
// the AWS files, configuration, commands to run. A group that has this user as
// its only member is nobody else.
func judgeWriters(path string, f facts, me user) error {
	perm := f.mode.Perm()
	switch {
	case !f.owned:
		return nil
	case !f.of(me):
		return wrongOwner(path, f, me)
	case perm&0o002 != 0:
		return fmt.Errorf("%s has mode %#o: everybody may change it; run: chmod go-w %s", path, perm, shellWord(path))
	case perm&0o020 != 0 && !me.onlyMember(f.gid):
		return fmt.Errorf("%s has mode %#o: its group %d may change it; run: chmod g-w %s", path, perm, f.gid, shellWord(path))
	}
	return nil
}

// judgeFolder is the rule for folders on the way to a private file, and for the
// links among them: OpenSSH's for authorized_keys, as Debian has it.
func judgeFolder(path string, f facts, me user) error {
	perm := f.mode.Perm()
	switch {
	case !f.folder && !f.link:
		return fmt.Errorf("%s is not a folder", path)
	case !f.owned:
		return nil
	case !f.of(me):
		return wrongOwner(path, f, me)
	case f.link: // its mode means nothing
		return nil
	case f.sticky && f.uid == 0: // entries can be replaced by their owners only
		return nil
	case perm&0o002 != 0:
		return fmt.Errorf("%s has mode %#o: everybody may replace what is in it; run: chmod go-w %s", path, perm, shellWord(path))
	case perm&0o020 != 0 && !me.onlyMember(f.gid):
		return fmt.Errorf("%s has mode %#o: its group %d may replace what is in it; run: chmod g-w %s", path, perm, f.gid, shellWord(path))
	}
	return nil
}

// judgeReadOnly is judgeFolder, which root's folder passes too where nobody can write to
// it because of its mount; see [CheckWriters].
func judgeReadOnly(path string, f facts, me user) error {
	err := judgeFolder(path, f, me)
	if err != nil && f.folder && f.owned && f.uid == 0 && mountedReadOnly(path) {
		return nil
	}
	return err
}

func wrongOwner(path string, f facts, me user) error {
	return fmt.Errorf("%s (mode %#o) belongs to uid %d, not to uid %d or root; if it should be yours, run: chown %d %s",
		path, f.mode.Perm(), f.uid, me.uid, me.uid, shellWord(path))
}

// shellWord quotes a path so that the command in a message can be pasted.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+=:@%,", r)
	}
	if s != "" && strings.TrimFunc(s, plain) == "" && !strings.HasPrefix(s, "-") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
