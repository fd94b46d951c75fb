//go:build unix

package filewatch

import (
	"io/fs"
	"syscall"
)

// owner is whose a file is.
type owner struct{ uid, gid uint32 }

func ownerOf(info fs.FileInfo) owner {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return owner{st.Uid, st.Gid}
	}
	return owner{}
}
