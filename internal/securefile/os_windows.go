package securefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/windows"
)

func openToRead(path string) (*os.File, error) { return os.Open(path) }

func factsOf(info fs.FileInfo) facts {
	m := info.Mode()
	return facts{mode: m, regular: m.IsRegular(), link: m&fs.ModeSymlink != 0, folder: m.IsDir()}
}

func thisUser() user { return user{onlyMember: func(uint32) bool { return false }} }

// CheckGroup says that Windows has no such groups.
func CheckGroup(uint32) error { return errNoGroups }

var errNoGroups = errors.New("files have no groups on Windows; remove it")

func giveTo(*os.File, uint32) error { return errNoGroups }

func mountedReadOnly(string) bool { return false }

// syncFolder does nothing: Windows has no such call, and its renames are journaled.
func syncFolder(string) error { return nil }

// Lock takes the lock on the file at path, making the file (empty) where it is
// missing, and holds it until release is called or the process ends. It does
// not wait: where somebody else holds it, held is false.
func Lock(path string) (release func(), held bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, false, err
	}
	const exclusive = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	if err := windows.LockFileEx(windows.Handle(f.Fd()), exclusive, 0, 1, 0, &windows.Overlapped{}); err != nil {
		_ = f.Close()
		if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, true, nil
}

// SameDisk reports whether two files, or folders, are on one volume, as far as
// their paths tell.
func SameDisk(a, b string) (bool, error) {
	return strings.EqualFold(filepath.VolumeName(a), filepath.VolumeName(b)), nil
}
