package credfile

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// OnDisk reports whether the folder of path is on a file system that is not kept
// in memory: anything but tmpfs and ramfs. What was on a disk can be read off it
// after it was removed. A folder that is not there yet counts as the one above it. On
// systems other than Linux it always answers false.
func OnDisk(path string) (bool, error) {
	folder := filepath.Dir(path)
	var st unix.Statfs_t
	err := unix.Statfs(folder, &st)
	for errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOENT) && folder != "/" && folder != "." {
		if errors.Is(err, unix.ENOENT) {
			folder = filepath.Dir(folder)
		}
		err = unix.Statfs(folder, &st)
	}
	if err != nil {
		return false, fmt.Errorf("cannot tell the file system of %s: %w", folder, err)
	}
	// 32 bits, because that is what the kernel has, and Type's size and sign differ by platform.
	kind := uint32(st.Type)
	return kind != unix.TMPFS_MAGIC && kind != unix.RAMFS_MAGIC, nil
}
