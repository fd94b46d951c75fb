package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestManualPages writes the pages and looks for every command and flag that
// help lists; groff, where there is one, finds nothing to warn of.
func TestManualPages(t *testing.T) {
	write := func(date string) string {
		folder := t.TempDir()
		if err := writePages(folder, date, rootCommand(new(bool))); err != nil {
			t.Fatal(err)
		}
		return folder
	}
	folder, again := write("2026-01-02"), write("2026-01-02")
	pages := 0
	var look func(c *cobra.Command)
	look = func(c *cobra.Command) {
		pages++
		name := filepath.Join(folder, pageName(c)+".1")
		text, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
			return
		}
		if second, err := os.ReadFile(filepath.Join(again, pageName(c)+".1")); err != nil || !bytes.Equal(text, second) {
			t.Errorf("%s: two runs differ (%v)", name, err)
		}
		wants := []string{`"2026-01-02"`, ".SH NAME\n" + roff(pageName(c)+" ")}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				wants = append(wants, roff("--"+f.Name))
			}
		})
		for _, want := range wants {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s says nothing of %s", name, want)
			}
		}
		if groff, err := exec.LookPath("groff"); err == nil {
			if out, err := exec.Command(groff, "-man", "-Tutf8", "-ww", "-z", name).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("groff: %v %s", err, out)
			}
		}
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				look(sub)
			}
		}
	}
	look(rootCommand(new(bool)))
	if files, err := filepath.Glob(folder + "/*"); err != nil || len(files) != pages || pages < 20 {
		t.Errorf("%d files for %d commands, %v", len(files), pages, err)
	}
}

func TestRoff(t *testing.T) {
	for text, want := range map[string]string{
		"a -b":        `a \-b`,
		`C:\x`:        `C:\ex`,
		".hidden":     `\&.hidden`,
		"a\n.TH\n'x'": "a\n\\&.TH\n\\(aqx\\(aq",
		"AKIA…":       `AKIA\[u2026]`,
	} {
		if got := roff(text); got != want {
			t.Errorf("roff(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestManDate(t *testing.T) {
	for epoch, want := range map[string]string{"": "", "0": "1970-01-01", "1767323045": "2026-01-02"} {
		if got, err := manDate(epoch); err != nil || got != want {
			t.Errorf("manDate(%q) = %q, %v", epoch, got, err)
		}
	}
	if _, err := manDate("today"); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
		t.Errorf("manDate(today): %v", err)
	}
}
