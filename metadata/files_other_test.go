//go:build !unix

package metadata

// maxFiles is how many descriptors we may have open.
func maxFiles() int { return 1 << 20 }
