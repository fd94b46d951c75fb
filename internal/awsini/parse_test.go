package awsini

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// dump writes a file as one line a thing, values included.
func dump(f *File) string {
	var b strings.Builder
	for _, s := range f.Sections {
		fmt.Fprintf(&b, "%d [%s|%s]\n", s.Line, s.Type, s.Name)
		for _, p := range s.Properties {
			fmt.Fprintf(&b, "%d/%d %s=%q", p.Line, p.Header, p.Key, p.Value)
			if p.Raw != p.Value {
				fmt.Fprintf(&b, " raw %q", p.Raw)
			}
			b.WriteByte('\n')
			for _, n := range p.Nested {
				fmt.Fprintf(&b, "%d  %s=%q\n", n.Line, n.Key, n.Value)
			}
		}
	}
	return b.String()
}

func faults(f *File) string {
	all := slices.Clone(f.Faults)
	for _, s := range f.Sections {
		all = append(all, s.Faults...)
	}
	var b strings.Builder
	for _, fault := range all {
		b.WriteString(fault.String() + "\n")
	}
	return b.String()
}

const (
	badHeader = "not a section header that can be read: write [profile NAME]; the lines up to the next header are skipped"
	badLine   = "the line is not a section header, a key = value or a comment"
	again     = "but boto3 and the AWS CLI refuse the whole file"
)

func TestParse(t *testing.T) {
	for name, c := range map[string]struct{ in, want, faults string }{
		"empty":             {"", "", ""},
		"keys and comments": {"# c\n\n[profile x]\n; c\nRegion = eu-west-1 # why\nb:c=d\na=x#y", "3 [profile|x]\n5/3 region=\"eu-west-1\"\n6/3 b=\"c=d\"\n7/3 a=\"x#y\"\n", ""},
		"no final newline":  {"[x]\na=1", "1 [|x]\n2/1 a=\"1\"\n", ""},
		"CRLF":              {"[x]\r\na = 1\r\nb = \r\n  c = 2\r\nd = one\r\n  two\r\n", "1 [|x]\n2/1 a=\"1\"\n3/1 b=\"\"\n4  c=\"2\"\n5/1 d=\"one\\ntwo\"\n", ""},
		"byte order mark":   {"\ufeff[x]\na=1", "1 [|x]\n2/1 a=\"1\"\n", "F:1: the file begins with a byte order mark, which AWS SDKs do not understand: save it as UTF-8 without one\n"},
		"UTF-16":            {"[\x00x\x00]\x00", "", "F:1: the file is not UTF-8 text (it holds zero bytes, as UTF-16 does): save it as UTF-8\n"},
		"headers": {
			"[default]\n[profile default]\n[profile  x y]\n[ profile \"x z\" ] # c\n[profile 'q']\n[sso-session s]\n[services v]\n[a  b]\n  [in]\n[profile]",
			"1 [|default]\n2 [profile|default]\n3 [profile|x y]\n4 [profile|x z]\n5 [profile|q]\n6 [sso-session|s]\n7 [services|v]\n8 [|a b]\n9 [|in]\n10 [|profile]\n", "",
		},
		"empty name in quotes": {`[profile ""]`, "1 [profile|]\n", ""},
		"quotes": {
			"[x]\na = \"b c\"\nd = 'e'\nf = '\ng = \"h' \ni = \"j\" k\n",
			"1 [|x]\n2/1 a=\"b c\" raw \"\\\"b c\\\"\"\n3/1 d=\"e\" raw \"'e'\"\n4/1 f=\"'\"\n5/1 g=\"\\\"h'\"\n6/1 i=\"\\\"j\\\" k\"\n", "",
		},
		"nested":                      {"[x]\ns3 =\n  a = 1\n  B : 2 # c\nregion = r", "1 [|x]\n2/1 s3=\"\"\n3  a=\"1\"\n4  b=\"2 # c\"\n5/1 region=\"r\"\n", ""},
		"nested under a value":        {"[x]\nregion = r\n  output = json # c", "1 [|x]\n2/1 region=\"r\"\n3/1 output=\"json\"\n", ""},
		"indented under a header":     {"[x]\n  region = r\n  output = json", "1 [|x]\n2/1 region=\"r\"\n3/1 output=\"json\"\n", ""},
		"continuation":                {"[x]\na = one\n  two # c\n\tthree\nb = 1", "1 [|x]\n2/1 a=\"one\\ntwo # c\\nthree\"\n5/1 b=\"1\"\n", ""},
		"continuation then again":     {"[x]\na = one\n  two\na = three", "1 [|x]\n4/1 a=\"three\"\n", "F:4: the key of line 2 comes again: the last one counts here, " + again + "\n"},
		"section again":               {"[x]\na = 1\nb = 2\n[y]\n[x]\na = 3", "1 [|x]\n6/5 a=\"3\"\n3/1 b=\"2\"\n4 [|y]\n", "F:5: the section of line 1 comes again: both count here, the later line first, " + again + "\nF:6: the key of line 2 comes again: the last one counts here, " + again + "\n"},
		"broken header keeps no keys": {"[x]\na = 1\n[y\nb = 2\n  c = 3\n d\n[z]\ne = 4", "1 [|x]\n2/1 a=\"1\"\n7 [|z]\n8/7 e=\"4\"\n", "F:3: " + badHeader + "\n"},
		"header with a comment sign":  {"[x#y]\na = 1", "", "F:1: " + badHeader + "\n"},
		"empty header":                {"[]\na = 1\n[ ]\n", "", "F:1: " + badHeader + "\nF:3: " + badHeader + "\n"},
		"header and more":             {"[x] a = 1", "", "F:1: " + badHeader + "\n"},
		"before any section":          {"a = 1\nb\n  c = 2\n[x]", "4 [|x]\n", "F:1: nothing but comments may come before the first section header; the lines up to it are skipped\n"},
		"malformed lines go on":       {"[x]\nword\na = 1\n= 2\n[y]\n  word\nb =\n  word\n  = 3\nc = \x01\nd = \xff\ne = 5", "1 [|x]\n3/1 a=\"1\"\n5 [|y]\n7/5 b=\"\"\n12/5 e=\"5\"\n", "F:2: " + badLine + "\nF:4: there is no key before the separator\nF:6: the line is indented, but there is no value above that it could continue\nF:8: the line is indented, but there is no value above that it could continue\nF:9: there is no key before the separator\nF:10: the line holds control characters, or is not UTF-8\nF:11: the line holds control characters, or is not UTF-8\n"},
		"key cut off by a comment":    {"[x]\nkey #=1", "1 [|x]\n", "F:2: " + badLine + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			f := Parse("F", []byte(c.in))
			if got := dump(f); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
			if got := faults(f); got != c.faults {
				t.Errorf("faults: got\n%swant\n%s", got, c.faults)
			}
		})
	}
}

// A line that cannot be read may be a secret that was pasted in the wrong place.
func TestFaultsQuoteNothing(t *testing.T) {
	const secret = "wJalrXUtnFEMIXK7MDENGbPxRfiCYEXAMPLEKEY="
	in := secret + "\n[" + secret + "\n[a" + secret + " b\n[x]\n" + secret[:20] + "\n  " + secret[:20] + "\n= " + secret + "\n" + secret + "\n" + secret +
		"\nk = " + secret + "\x01\n[" + secret + "]\n[profile " + secret + "]\n[" + secret + "]\n"
	file := Parse("F", []byte(in))
	_, more := Profiles(file, Parse("G", []byte("[profile "+secret+"]\n["+secret+"]\naws_access_key_id="+secret+"\n")))
	text := faults(file)
	for _, f := range more {
		text += f.String() + "\n"
	}
	if strings.Count(text, "\n") < 8 {
		t.Fatalf("too few faults to prove anything:\n%s", text)
	}
	if strings.Contains(strings.ToLower(text), strings.ToLower(secret[:12])) {
		t.Errorf("a fault quotes the file:\n%s", text)
	}
	if s := fmt.Sprintf("%v %+v %#v %s", file.Sections, file.Sections, file.Sections[0].Properties, file.Sections[0].Properties); strings.Contains(s, "= "+secret) {
		t.Errorf("a property prints its value: %s", s)
	}
}

func TestFaultsAreBounded(t *testing.T) {
	many := strings.Repeat("x\n", MaxSize/2-10)
	f := Parse("F", []byte("[s]\n"+many))
	if n := len(f.Sections[0].Faults); n != maxSectionFaults {
		t.Errorf("%d faults of a section, want %d", n, maxSectionFaults)
	}
	f = Parse("F", []byte(strings.Repeat("[\n", MaxSize/2)))
	if n := len(f.Faults); n != maxFileFaults {
		t.Errorf("%d faults of a file, want %d", n, maxFileFaults)
	}
}

// BenchmarkParse shows that the worst files of the largest size stay linear.
func BenchmarkParse(b *testing.B) {
	var keys strings.Builder
	keys.WriteString("[s]\n")
	for i := 0; keys.Len() < MaxSize-16; i++ {
		fmt.Fprintf(&keys, "k%d=1\n", i)
	}
	for name, in := range map[string]string{
		"keys":          keys.String(),
		"continuations": "[s]\nk=v\n" + strings.Repeat(" x\n", MaxSize/3-4),
		"headers":       strings.Repeat("[a]\n", MaxSize/4),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				Parse("F", []byte(in))
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"[default]\nregion = eu-west-1\n", "\ufeff[profile \"x y\"]\r\ns3 =\r\n  a = b\r\n", "[a\nb=c\n", "k='", "[x]\n k\n", "[x]\nk=\n =",
		"[profile x]\naws_access_key_id = A\n[x]\n", "[x]\nk=v\n more\n[y]\n more", "[]\n[[]]\n[x]]", "[x]\nk=v\n more\n[",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		file := Parse("F", []byte(in))
		lines := strings.Count(in, "\n") + 1
		seen := map[[2]string]bool{}
		check := func(what string, line int) {
			if line < 1 || line > lines {
				t.Fatalf("%s on line %d of %d", what, line, lines)
			}
		}
		for _, s := range file.Sections {
			check("section", s.Line)
			if id := [2]string{s.Type, s.Name}; seen[id] {
				t.Fatalf("section %q twice", id)
			} else {
				seen[id] = true
			}
			keys := map[string]bool{}
			for _, p := range s.Properties {
				check("property", p.Line)
				if p.Key == "" || keys[p.Key] || p.Header < s.Line || p.Header >= p.Line {
					t.Fatalf("property %q: line %d under header %d of section %d", p.Key, p.Line, p.Header, s.Line)
				}
				keys[p.Key] = true
			}
			for _, x := range s.Faults {
				check("fault", x.Line)
			}
		}
		for _, x := range file.Faults {
			check("fault", x.Line)
		}
		profiles, _ := Profiles(file, file)
		if !slices.IsSortedFunc(profiles, func(a, b *Profile) int { return strings.Compare(a.Name, b.Name) }) {
			t.Fatal("profiles are not sorted")
		}
	})
}
