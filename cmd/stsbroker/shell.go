package main

import (
	"encoding/json"
	"io"
	"slices"
	"strings"
)

// shells print variables so that the shell of that name takes them in.
var shells = map[string]func(io.Writer, variables) error{
	"sh": func(w io.Writer, v variables) error {
		return v.lines(w, func(k, val string) string { return "export " + k + "=" + shQuote(val) }, func(k string) string { return "unset " + k })
	},
	"fish": func(w io.Writer, v variables) error {
		return v.lines(w, func(k, val string) string { return "set -gx " + k + " " + fishQuote(val) }, func(k string) string { return "set -e " + k })
	},
	"powershell": func(w io.Writer, v variables) error {
		return v.lines(w,
			func(k, val string) string { return "$Env:" + k + " = '" + powershellQuotes.Replace(val) + "'" },
			func(k string) string { return "Remove-Item Env:" + k + " -ErrorAction SilentlyContinue" })
	},
	// A dotenv file cannot unset; what must not be set is named in comments.
	"dotenv": func(w io.Writer, v variables) error {
		return v.lines(w, func(k, val string) string { return k + "=" + shQuote(val) }, func(k string) string { return "# must not be set: " + k })
	},
	"json": func(w io.Writer, v variables) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	},
}

func (v variables) lines(w io.Writer, set func(k, val string) string, unset func(k string) string) error {
	var out strings.Builder
	for _, k := range v.Unset {
		out.WriteString(unset(k) + "\n")
	}
	for _, k := range v.names() {
		out.WriteString(set(k, v.Set[k]) + "\n")
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func (v variables) names() []string {
	names := make([]string, 0, len(v.Set))
	for k := range v.Set {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

// environ is an environment with the variables applied.
func (v variables) environ(base []string) []string {
	out := slices.DeleteFunc(slices.Clone(base), func(kv string) bool {
		k, _, _ := strings.Cut(kv, "=")
		_, set := v.Set[k]
		return set || slices.Contains(v.Unset, k)
	})
	for _, k := range v.names() {
		out = append(out, k+"="+v.Set[k])
	}
	return out
}

const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@%+=,"

func shQuote(s string) string {
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func fishQuote(s string) string {
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}

// powershellQuotes doubles what ends a verbatim string: PowerShell takes typographic
// quotes for the plain one (about_Quoting_Rules).
var powershellQuotes = strings.NewReplacer("'", "''", "\u2018", "\u2018\u2018", "\u2019", "\u2019\u2019", "\u201a", "\u201a\u201a", "\u201b", "\u201b\u201b")
