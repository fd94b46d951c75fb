//go:build unix

package awsconfig

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// replaceable refuses a file that would have another owner afterwards, or whose
// keys would stay under another name.
func replaceable(path string, info fs.FileInfo) error {
	s, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return nil
	case int(s.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to uid %d: do it as that user", path, s.Uid)
	case s.Nlink > 1:
		return fmt.Errorf("%s has a second name (a hard link), under which the keys would stay: remove that", path)
	}
	return nil
}
