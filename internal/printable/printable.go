// Package printable makes somebody else's text fit to stand in a log or an error.
package printable

import (
	"strings"
	"unicode"
)

// Text is s without what is not printable, line breaks among it, and cut to at
// most so many bytes of valid UTF-8.
func Text(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}
