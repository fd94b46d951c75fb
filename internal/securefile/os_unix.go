//go:build unix

package securefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// openToRead does not wait for a writer where somebody left a named pipe.
func openToRead(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

func factsOf(info fs.FileInfo) facts {
	m := info.Mode()
	f := facts{mode: m, regular: m.IsRegular(), link: m&fs.ModeSymlink != 0, folder: m.IsDir(), sticky: m&fs.ModeSticky != 0}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		f.owned, f.uid, f.gid = true, st.Uid, st.Gid
	}
	return f
}

func thisUser() user {
	uid := uint32(os.Geteuid())
	return user{uid: uid, onlyMember: func(gid uint32) bool { return onlyMember(passwdFile, groupFile, uid, gid) }}
}

// CheckGroup reports whether this process may give files to the group with the number
// gid: it must be in it, or be root. The error says how it gets in.
func CheckGroup(gid uint32) error {
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 || slices.Contains(append(groups, os.Getegid()), int(gid)) {
		return nil
	}
	return notInGroup(gid)
}

func notInGroup(gid uint32) error {
	return fmt.Errorf("uid %d is not in group %d here, and cannot give a file to it; start it with that group: runAsGroup in Kubernetes, user: \"%[1]d:%[2]d\" in compose and ECS, SupplementaryGroups= in a unit", os.Geteuid(), gid)
}

// giveTo gives the file to a group.
func giveTo(f *os.File, gid uint32) error {
	err := f.Chown(-1, int(gid))
	if errors.Is(err, fs.ErrPermission) && CheckGroup(gid) == nil {
		return fmt.Errorf("giving a file to group %d is forbidden here (%w): in a unit, SystemCallFilter=@chown allows it", gid, err)
	}
	if errors.Is(err, fs.ErrPermission) {
		return notInGroup(gid)
	}
	return err
}

// syncFolder makes a rename or a new entry survive a power cut. Some file
// systems cannot sync a folder and say so.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot sync the folder %s: %w", path, err)
	}
	err = d.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		err = nil
	}
	if err = errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("cannot sync the folder %s: %w", path, err)
	}
	return nil
}

// Lock takes the lock on the file at path, making the file (0600, empty) where
// it is missing, and holds it until release is called or the process ends. It
// does not wait: where somebody else holds it, held is false.
func Lock(path string) (release func(), held bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, false, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, true, nil
}

// SameDisk reports whether two files, or folders, are on one file system.
func SameDisk(a, b string) (bool, error) {
	var sa, sb unix.Stat_t
	if err := errors.Join(unix.Stat(a, &sa), unix.Stat(b, &sb)); err != nil {
		return false, err
	}
	return sa.Dev == sb.Dev, nil
}
