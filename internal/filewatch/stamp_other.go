//go:build !linux

package filewatch

import (
	"io/fs"
	"time"
)

// changeTime is when the file's content changed.
func changeTime(info fs.FileInfo) time.Time { return info.ModTime() }

// silent is not known here.
func silent(string) bool { return false }
