package awsini

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Parse reads data as the content of the file at path. It never fails: what
// cannot be read is a fault, and the rest counts.
func Parse(path string, data []byte) *File {
	p := parser{file: &File{Path: path}, sections: map[[2]string]int{}}
	data, marked := bytes.CutPrefix(data, []byte("\ufeff"))
	if marked {
		p.warn(1, "the file begins with a byte order mark, which AWS SDKs do not understand: save it as UTF-8 without one")
	}
	if bytes.IndexByte(data, 0) >= 0 {
		p.warn(1, "the file is not UTF-8 text (it holds zero bytes, as UTF-16 does): save it as UTF-8")
		return p.file
	}
	n := 0
	for line := range strings.SplitSeq(string(data), "\n") {
		n++
		p.line(n, strings.TrimSuffix(line, "\r"))
	}
	p.closeValue()
	return p.file
}

// parser reads line by line. Where it stands: in section cur (index, or none)
// under the header on line header, after property prop (index in cur, or none)
// whose value goes on with more.
type parser struct {
	file     *File
	sections map[[2]string]int
	keys     []map[string]int // by section: where each key is in Properties

	in     place
	cur    int
	header int
	prop   int
	more   []string
}

type place uint8

const (
	beforeAny place = iota // no header yet
	nowhere                // no section: its faults were told
	inSection
)

func (p *parser) line(n int, line string) {
	trimmed := strings.TrimSpace(line)
	if trimmed == "" || trimmed[0] == '#' || trimmed[0] == ';' {
		return
	}
	indented := line[0] == ' ' || line[0] == '\t'
	switch name, ok := header(trimmed); {
	case ok && name != "" && clean(name):
		p.open(n, name)
		return
	case ok || !indented && trimmed[0] == '[':
		p.closeValue()
		p.in, p.prop = nowhere, none
		p.warn(n, "not a section header that can be read: write [profile NAME]; the lines up to the next header are skipped")
		return
	}
	switch p.in {
	case beforeAny:
		p.in = nowhere
		p.warn(n, "nothing but comments may come before the first section header; the lines up to it are skipped")
		return
	case nowhere:
		return
	}
	switch {
	case !clean(line):
		p.fault(n, "the line holds control characters, or is not UTF-8")
	case indented:
		p.indented(n, strings.TrimLeft(line, " \t"))
	default:
		key, raw, ok := split(trimComment(line))
		if !ok {
			p.fault(n, "the line is not a section header, a key = value or a comment")
			return
		}
		p.set(n, key, unquote(raw), raw)
	}
}

const none = -1

// indented reads a line that begins with a blank: a nested property, a
// property of the section, or more of the value above.
func (p *parser) indented(n int, text string) {
	key, raw, ok := split(text)
	var above *Property
	if p.prop != none {
		above = &p.section().Properties[p.prop]
	}
	switch {
	case ok && (above == nil || above.Value != ""):
		p.set(n, key, strings.TrimSpace(trimComment(unquote(raw))), strings.TrimSpace(trimComment(raw)))
	case ok && key == "":
		p.fault(n, "there is no key before the separator")
	case ok:
		above.Nested = append(above.Nested, Property{
			Key: key, Value: unquote(raw), Raw: raw, File: p.file.Path, Line: n, Header: p.header,
		})
	case above == nil || above.Value == "":
		p.fault(n, "the line is indented, but there is no value above that it could continue")
	default:
		p.more = append(p.more, strings.TrimSpace(text))
	}
}

// open enters the section of a header.
func (p *parser) open(n int, name string) {
	p.closeValue()
	typ, name := splitHeader(name)
	id := [2]string{typ, name}
	i, seen := p.sections[id]
	if seen {
		p.warn(n, fmt.Sprintf("the section of line %d comes again: both count here, the later line first, but boto3 and the AWS CLI refuse the whole file", p.file.Sections[i].Line))
	} else {
		i = len(p.file.Sections)
		p.sections[id] = i
		p.file.Sections = append(p.file.Sections, Section{Type: typ, Name: name, Line: n})
		p.keys = append(p.keys, map[string]int{})
	}
	p.in, p.cur, p.header, p.prop = inSection, i, n, none
}

// set records a property of the section; one that comes again replaces the first.
func (p *parser) set(n int, key, value, raw string) {
	p.closeValue()
	if key == "" {
		p.fault(n, "there is no key before the separator")
		return
	}
	prop := Property{Key: key, Value: value, Raw: raw, File: p.file.Path, Line: n, Header: p.header}
	s := p.section()
	i, seen := p.keys[p.cur][key]
	if seen {
		p.warn(n, fmt.Sprintf("the key of line %d comes again: the last one counts here, but boto3 and the AWS CLI refuse the whole file", s.Properties[i].Line))
		s.Properties[i] = prop
	} else {
		i = len(s.Properties)
		p.keys[p.cur][key] = i
		s.Properties = append(s.Properties, prop)
	}
	p.prop = i
}

// closeValue adds the continuation lines to the value they continue.
func (p *parser) closeValue() {
	if len(p.more) == 0 {
		return
	}
	rest := "\n" + strings.Join(p.more, "\n")
	prop := &p.section().Properties[p.prop]
	prop.Value += rest
	prop.Raw += rest
	p.more = nil
}

func (p *parser) section() *Section { return &p.file.Sections[p.cur] }

// warn records a fault that disables no section.
func (p *parser) warn(n int, msg string) {
	if len(p.file.Faults) < maxFileFaults {
		p.file.Faults = append(p.file.Faults, Fault{p.file.Path, n, msg})
	}
}

// fault records a line of the current section that cannot be read.
func (p *parser) fault(n int, msg string) {
	if s := p.section(); len(s.Faults) < maxSectionFaults {
		s.Faults = append(s.Faults, Fault{p.file.Path, n, msg})
	}
}

// header returns what stands between the brackets of a header line.
func header(trimmed string) (string, bool) {
	if i := strings.IndexAny(trimmed, "#;"); i >= 0 {
		trimmed = strings.TrimSpace(trimmed[:i])
	}
	if !strings.HasPrefix(trimmed, "[") || !strings.HasSuffix(trimmed, "]") {
		return "", false
	}
	return strings.TrimSpace(trimmed[1 : len(trimmed)-1]), true
}

// splitHeader takes the type off a header. Without one of the known types the
// whole is the name, with one blank after its first word, as the Go SDK has it.
func splitHeader(s string) (typ, name string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return "", s
	}
	typ, name = s[:i], strings.TrimLeft(s[i:], " \t")
	switch typ {
	case TypeProfile, TypeSSOSession, TypeServices:
		return typ, unquote(name)
	}
	return "", typ + " " + name
}

// split cuts a line at its first separator.
func split(s string) (key, value string, ok bool) {
	i := strings.IndexAny(s, "=:")
	if i < 0 {
		return "", "", false
	}
	return strings.ToLower(strings.TrimSpace(s[:i])), strings.TrimSpace(s[i+1:]), true
}

// trimComment cuts at the first comment sign that follows a blank.
func trimComment(s string) string {
	for i := 1; i < len(s); i++ {
		if (s[i] == '#' || s[i] == ';') && (s[i-1] == ' ' || s[i-1] == '\t') {
			return s[:i-1]
		}
	}
	return s
}

// unquote takes one pair of quotes off.
func unquote(s string) string {
	if n := len(s); n >= 2 && (s[0] == '"' || s[0] == '\'') && s[0] == s[n-1] {
		return s[1 : n-1]
	}
	return s
}

// clean reports whether a line is text: UTF-8 without control characters.
func clean(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < ' ' && r != '\t' || r == 0x7f || r == utf8.RuneError {
			return false
		}
	}
	return true
}
