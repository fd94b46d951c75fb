//go:build !unix

package custody

import "io/fs"

// Modes mean nothing here: the access list of the user's folder decides.

func readable(fs.FileInfo) bool { return false }
