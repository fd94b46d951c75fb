//go:build unix

package main

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// judgeConfigFile refuses a file that somebody other than this user and root
// may write. A group-writable one passes if the group has the user's own
// number: a user-private group.
func judgeConfigFile(info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("the system does not tell who owns %s", info.Name())
	}
	uid, perm := os.Geteuid(), info.Mode().Perm()
	switch {
	case st.Uid != 0 && int(st.Uid) != uid:
		return fmt.Errorf("belongs to uid %d, not to uid %d or root; if it should be yours, run: chown %d FILE", st.Uid, uid, uid)
	case perm&0o002 != 0:
		return fmt.Errorf("has mode %#o: everybody may change it; run: chmod go-w FILE", perm)
	case perm&0o020 != 0 && int(st.Gid) != uid:
		return fmt.Errorf("has mode %#o: its group %d may change it; run: chmod g-w FILE", perm, st.Gid)
	}
	return nil
}
