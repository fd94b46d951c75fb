//go:build unix

package custody

import (
	"io/fs"
	"os"
	"syscall"
)

func safeFile(path string, info fs.FileInfo) error {
	const writableByOthers = 0o022
	if info.Mode().Perm()&writableByOthers != 0 {
		return fault("%s is not read for keys: others can change it (mode %04o): chmod go-w %s", path, info.Mode().Perm(), path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fault("%s is not read for keys: it belongs to another user (uid %d): make it this user's or root's", path, st.Uid)
	}
	return nil
}

func readable(info fs.FileInfo) bool {
	const readableByOthers = 0o044
	return info.Mode().Perm()&readableByOthers != 0
}
