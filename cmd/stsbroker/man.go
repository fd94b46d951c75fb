package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manCommand writes the manual pages, for whoever makes a package. It is hidden:
// a user has the pages. cobra/doc would do it too, by way of Markdown: two more
// modules, and tables in a help text that run together.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man FOLDER",
		Short:  "write the manual pages",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			date, err := manDate(os.Getenv("SOURCE_DATE_EPOCH"))
			if err != nil {
				return err
			}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			return writePages(args[0], date, cmd.Root())
		},
	}
}

// manDate is the day of SOURCE_DATE_EPOCH (reproducible-builds.org), in UTC.
// Without one a page has no date: today's would make two builds differ.
func manDate(epoch string) (string, error) {
	if epoch == "" {
		return "", nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return "", fmt.Errorf("SOURCE_DATE_EPOCH is %q: it is seconds since 1970", epoch)
	}
	return time.Unix(seconds, 0).UTC().Format(time.DateOnly), nil
}

// writePages writes a page for the command and for each below it that help lists.
func writePages(folder, date string, c *cobra.Command) error {
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" {
			if err := writePages(folder, date, sub); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(filepath.Join(folder, pageName(c)+".1"), page(c, date), 0o644)
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// page is a command's manual page, in the man macros (man(7), groff_man(7)).
func page(c *cobra.Command, date string) []byte {
	var w bytes.Buffer
	c.InitDefaultHelpFlag()
	fmt.Fprintf(&w, ".TH %s 1 %q %q\n", roff(strings.ToUpper(pageName(c))), date, "stsbroker "+buildVersion())
	fmt.Fprintf(&w, ".SH NAME\n%s \\- %s\n", roff(pageName(c)), roff(c.Short))
	fmt.Fprintf(&w, ".SH SYNOPSIS\n%s\n", roff(c.UseLine()))
	w.WriteString(".SH DESCRIPTION\n")
	for text := range strings.SplitSeq(cmp.Or(c.Long, c.Short), "\n\n") {
		if strings.Contains(text, "  ") || strings.Contains(text, "\t") { // columns, or a command to type: lines stay as they are
			fmt.Fprintf(&w, ".PP\n.nf\n%s\n.fi\n", roff(strings.Trim(text, "\n")))
		} else {
			fmt.Fprintf(&w, ".PP\n%s\n", roff(strings.TrimSpace(text)))
		}
	}
	if c.HasAvailableSubCommands() {
		w.WriteString(".SH COMMANDS\n")
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() && sub.Name() != "help" {
				fmt.Fprintf(&w, ".TP\n.BR %s (1)\n%s\n", roff(pageName(sub)), roff(sub.Short))
			}
		}
	}
	pageFlags(&w, "OPTIONS", c.NonInheritedFlags())
	pageFlags(&w, "OPTIONS OF EVERY COMMAND", c.InheritedFlags())
	if c.HasParent() {
		fmt.Fprintf(&w, ".SH SEE ALSO\n.BR %s (1)\n", roff(pageName(c.Parent())))
	} else {
		w.WriteString(".SH EXIT STATUS\n0: done. 1: failed, with a line that says why. 2: wrong usage.\n")
	}
	return w.Bytes()
}

func pageFlags(w *bytes.Buffer, title string, flags *pflag.FlagSet) {
	if flags.HasAvailableFlags() {
		fmt.Fprintf(w, ".SH %s\n", title)
	}
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" {
			return
		}
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		value, usage := pflag.UnquoteUsage(f)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
			usage += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(w, ".TP\n\\fB%s\\fR \\fI%s\\fR\n%s\n", roff(name), roff(value), roff(usage))
	})
}

// roff writes text so that it is printed as it stands, to be pasted too: roff
// takes some signs of ASCII for typographic ones, lines that begin with a point
// for requests, and what is not ASCII byte by byte.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, `"`, `\(dq`, "\n.", "\n\\&.").Replace("\n" + text)[1:]
	var w strings.Builder
	for _, r := range text {
		if r <= unicode.MaxASCII {
			w.WriteRune(r)
		} else {
			fmt.Fprintf(&w, `\[u%04X]`, r)
		}
	}
	return w.String()
}
