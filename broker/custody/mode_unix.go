//go:build unix

package custody

import "io/fs"

func readable(info fs.FileInfo) bool {
	const readableByOthers = 0o044
	return info.Mode().Perm()&readableByOthers != 0
}
