package securefile

import "golang.org/x/sys/unix"

// mountedReadOnly reports whether what is at path is on a file system that is mounted
// read-only here: by a flag of the mount, or of the file system itself.
func mountedReadOnly(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Flags&unix.ST_RDONLY != 0
}
