package printable

import "testing"

func TestText(t *testing.T) {
	for _, c := range []struct {
		in   string
		most int
		want string
	}{
		{"no such role", 100, "no such role"},
		{"a\nb\x1b[31m\tc\u202e\x00", 100, "ab[31mc"},
		{"Größe", 100, "Größe"},
		{"Größe", 3, "Gr"}, // not half of a letter
		{"Größe", 4, "Grö"},
		{"a\xffb", 100, "a\ufffdb"}, // as strings.Map reads it
		{"", 0, ""},
	} {
		if got := Text(c.in, c.most); got != c.want {
			t.Errorf("%q, %d: %q, want %q", c.in, c.most, got, c.want)
		}
	}
}
