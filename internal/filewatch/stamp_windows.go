package filewatch

import "io/fs"

// owner is not told here by looking at a file.
type owner struct{}

func ownerOf(fs.FileInfo) owner { return owner{} }
