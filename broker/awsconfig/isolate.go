package awsconfig

import (
	"bytes"
	"strings"
	"unicode"
)

// Isolate returns a copy of a config file without any credential key, in
// whatever section, so that SDKs that read it ask the container endpoint.
// Everything else is left as it is, byte for byte.
//
// It knows no sections, and takes more for a key than any one SDK does: a line
// is dropped if any reader could find such a key on it, commented ones too, and
// with it the deeper indented lines that continue it.
func Isolate(config []byte) []byte {
	out := make([]byte, 0, len(config))
	dropped := -1 // indent of the key that was dropped last, -1 while none is continued
	for len(config) > 0 {
		line := config[:lineEnd(config)]
		config = config[len(line):]
		text := strings.TrimRightFunc(string(line), blank)
		key, separated := keyOf(text)
		indent := len(text) - len(strings.TrimLeft(text, " \t"))
		switch {
		case separated && credentialKey(key):
			dropped = indent
		case text == "":
			out = append(out, line...)
		case dropped >= 0 && (indent > dropped || indent > 0 && indent == dropped && !separated) && !headerLike(text):
		default:
			dropped = -1
			out = append(out, line...)
		}
	}
	return out
}

// lineEnd is the length of the first line with its end, which Python takes a
// lone carriage return for as well.
func lineEnd(b []byte) int {
	i := bytes.IndexAny(b, "\r\n")
	switch {
	case i < 0:
		return len(b)
	case b[i] == '\r' && i+1 < len(b) && b[i+1] == '\n':
		return i + 2
	}
	return i + 1
}

func keyOf(text string) (key string, ok bool) {
	i := strings.IndexAny(text, "=:")
	if i < 0 {
		return "", false
	}
	key = strings.TrimLeftFunc(text[:i], func(r rune) bool { return blank(r) || r == '#' || r == ';' })
	return strings.ToLower(strings.TrimRightFunc(key, blank)), true
}

// blank is what some reader strips: Python takes 0x1c to 0x1f for white space.
func blank(r rune) bool { return r <= ' ' || r == '\ufeff' || unicode.IsSpace(r) }

// headerLike reports whether some reader may take an indented line for a header.
func headerLike(text string) bool { return strings.HasPrefix(strings.TrimLeftFunc(text, blank), "[") }
