//go:build !linux

package listen

import "io/fs"

// Inherit returns nothing: there is no systemd here.
func Inherit() (*Inherited, error) { return new(Inherited), nil }

func ownerOf(fs.FileInfo) (uid uint32, ok bool) { return 0, false }
