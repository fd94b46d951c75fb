package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// configReader walks YAML nodes and collects findings, each with the position
// of the node. Its methods for values return a reader of one value, so that a
// mapping is a table of keys and what reads them.
type configReader struct {
	file     string
	findings []Finding
	faults   int      // those that are errors
	read     []string // files that the document names

	// For crossCheck, which looks at what names something else.
	keyRefs, sourceRefs, arns []located
	endpoints                 []ref
	later                     []func(w document)
}

// located is a ref and the profile it stands in.
type located struct {
	ref
	profile string
}

// reads is what takes in the value at a path such as profiles.dev.role.arn.
type reads func(n *yaml.Node, path string)

func (r *configReader) fail(n *yaml.Node, path, format string, args ...any) {
	r.add(SeverityError, n, path, format, args...)
}

func (r *configReader) warn(n *yaml.Node, path, format string, args ...any) {
	r.add(SeverityWarning, n, path, format, args...)
}

func (r *configReader) add(s Severity, n *yaml.Node, path, format string, args ...any) {
	if s == SeverityError {
		r.faults++
	}
	text := fmt.Sprintf(format, args...)
	if path != "" {
		text = path + ": " + text
	}
	r.findings = append(r.findings, Finding{File: r.file, Line: max(n.Line, 1), Col: max(n.Column, 1), Severity: s, Text: text})
}

var (
	yamlLine   = lazy(`^(?:yaml: )?line (\d+): `)
	yamlAnchor = lazy(`unknown anchor '(.*)' referenced`)
)

// syntax reports what the YAML parser says. It does not always say where.
func (r *configReader) syntax(data []byte, err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	at := &yaml.Node{Line: 1, Column: 1}
	offset := -1
	if m := yamlLine().FindStringSubmatch(text); m != nil {
		at.Line, _ = strconv.Atoi(m[1]) // digits; too many of them count as line 1
		text = text[len(m[0]):]
	} else if m := yamlAnchor().FindStringSubmatch(text); m != nil {
		offset = bytes.Index(data, []byte("*"+m[1]))
	} else {
		offset = firstBadByte(data)
	}
	if offset >= 0 {
		before := data[:offset]
		at.Line = bytes.Count(before, []byte("\n")) + 1
		at.Column = offset - bytes.LastIndexByte(before, '\n')
	}
	r.fail(at, "", "not YAML: %s", text)
}

// firstBadByte finds what YAML does not allow: control characters and bytes
// that are not UTF-8. It returns -1 where there is nothing of that kind.
func firstBadByte(data []byte) int {
	for i := 0; i < len(data); {
		c, n := utf8.DecodeRune(data[i:])
		if c == utf8.RuneError && n == 1 || c < ' ' && c != '\n' && c != '\r' && c != '\t' || c == 0x7f {
			return i
		}
		i += n
	}
	return -1
}

// plain refuses YAML's indirections.
func (r *configReader) plain(n *yaml.Node, path string) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		r.fail(n, path, "aliases are not supported; write the value out")
	case n.Anchor != "":
		r.fail(n, path, "anchors are not supported; write the value where it is needed")
	case n.Style&yaml.TaggedStyle != 0:
		r.fail(n, path, "tags (%s) are not supported; leave it away", n.Tag)
	default:
		return true
	}
	return false
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// entries calls each for the pairs of a mapping; null counts as an empty one.
// It reports whether all of it could be read.
func (r *configReader) entries(n *yaml.Node, path string, each func(key, value *yaml.Node)) (clean bool) {
	switch {
	case !r.plain(n, path):
		return false
	case isNull(n):
		return true
	case n.Kind != yaml.MappingNode:
		r.fail(n, path, "want a mapping (key: value), not %s", kindOf(n))
		return false
	}
	clean = true
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !r.plain(key, path) {
			clean = false
			continue
		}
		switch tag := key.ShortTag(); {
		case tag == "!!merge":
			r.fail(key, path, "merge keys are not supported; write the values out")
			clean = false
			continue
		case key.Kind != yaml.ScalarNode || tag != "!!str":
			r.fail(key, path, "a key must be text; put it in quotes")
			clean = false
			continue
		}
		if line, dup := first[key.Value]; dup {
			r.fail(key, join(path, key.Value), "given twice; first on line %d", line)
			continue
		}
		first[key.Value] = key.Line
		each(key, value)
	}
	return clean
}

// mapping reads a mapping with known keys. It returns the nodes of the keys it saw, and
// whether each of them was known.
func (r *configReader) mapping(n *yaml.Node, path string, fields map[string]reads) (seen map[string]*yaml.Node, clean bool) {
	seen = map[string]*yaml.Node{}
	known := true
	clean = r.entries(n, path, func(key, value *yaml.Node) {
		seen[key.Value] = key
		at := join(path, key.Value)
		switch read, ok := fields[key.Value]; {
		case ok:
			read(value, at)
		default:
			known = false
			names := slices.Sorted(maps.Keys(fields))
			hint := didYouMean(key.Value, names)
			if hint == "" {
				hint = "; known here: " + strings.Join(names, ", ")
			}
			r.fail(key, at, "unknown key%s", hint)
		}
	})
	return seen, clean && known
}

// scalar returns the value of a node that has one tag, "!!str" or "!!bool".
func (r *configReader) scalar(n *yaml.Node, path, tag, want string) (string, bool) {
	if !r.plain(n, path) {
		return "", false
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == tag {
		return n.Value, true
	}
	r.fail(n, path, "want %s, not %s", want, kindOf(n))
	return "", false
}

// text reads a string and hands it to the checks, which say what is wrong.
func (r *configReader) text(to *string, checks ...func(string) error) reads {
	return func(n *yaml.Node, path string) {
		s, ok := r.scalar(n, path, "!!str", "text (put it in quotes)")
		if !ok {
			return
		}
		for _, check := range checks {
			if err := check(s); err != nil {
				r.fail(n, path, "%v", err)
				return
			}
		}
		*to = s
	}
}

func (r *configReader) flag(to *bool) reads {
	return func(n *yaml.Node, path string) {
		if s, ok := r.scalar(n, path, "!!bool", "true or false"); ok {
			*to = strings.EqualFold(s, "true")
		}
	}
}

// set reads a sequence of different strings; [] is an empty one.
func (r *configReader) set(to *[]string, checks ...func(string) error) reads {
	return func(n *yaml.Node, path string) {
		r.list(to, checks...)(n, path)
		for i, s := range *to {
			if slices.Contains((*to)[:i], s) {
				r.fail(n, path, "%q is given twice", s)
			}
		}
	}
}

// sequence reports whether this is one.
func (r *configReader) sequence(n *yaml.Node, path string) bool {
	if !r.plain(n, path) {
		return false
	}
	if n.Kind != yaml.SequenceNode {
		r.fail(n, path, "want a list ([a, b]), not %s", kindOf(n))
		return false
	}
	return true
}

// list reads a sequence of strings.
func (r *configReader) list(to *[]string, checks ...func(string) error) reads {
	return func(n *yaml.Node, path string) {
		if !r.sequence(n, path) {
			return
		}
		*to = []string{}
		for i, item := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			var s string
			faults := r.faults
			if r.text(&s, checks...)(item, at); r.faults == faults {
				*to = append(*to, s)
			}
		}
	}
}

// duration reads a time such as 12h or 1h30m, in whole seconds unless the
// least is not.
func (r *configReader) duration(to *time.Duration, least, most time.Duration) reads {
	return func(n *yaml.Node, path string) {
		s, ok := r.scalar(n, path, "!!str", "a time with its unit, such as 12h, 90m or 3600s")
		if !ok {
			return
		}
		d, err := time.ParseDuration(s)
		switch {
		case err != nil:
			r.fail(n, path, "%q is not a time; write it as 12h, 90m or 3600s", s)
		case d < least || d > most:
			r.fail(n, path, "%s is out of range: %s to %s", s, short(least), short(most))
		case least%time.Second == 0 && d%time.Second != 0:
			r.fail(n, path, "%s is not in whole seconds", s)
		default:
			*to = d
		}
	}
}

// short is a duration without its zero parts: 15m0s is 15m.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Kind != yaml.ScalarNode:
		return "this"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!str":
		return "text"
	case "!!bool":
		return "true or false"
	case "!!int", "!!float":
		return "a number"
	case "!!timestamp":
		return "a date"
	}
	return "this"
}

// didYouMean returns a suggestion for a misspelt word, "" without a near one.
func didYouMean(word string, known []string) string {
	best, least := "", max(1, min(len(word)/3, 3))+1
	for _, k := range known {
		if d := editDistance(word, k); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// editDistance is Levenshtein's, over bytes, of words up to 128 bytes long.
func editDistance(a, b string) int {
	const far = 1 << 10
	if len(a) > 128 || len(b) > 128 {
		return far
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
