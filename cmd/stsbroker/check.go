package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
)

func checkCommand(g *globals) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "check",
		Short: "validate the configuration and the AWS files, every finding with its place",
		Long: `check reads stsbroker.yaml, the AWS shared files and the identity that opens sealed
state as serve would, and calls nobody. The status is 1 if serve would not start; a profile that cannot be served
is a warning, because the others are.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			p, err := findPlace(g, false)
			if err != nil {
				return err
			}
			a, findings, err := newApp(settings{place: p, log: zap.NewNop(), embedded: true, check: true})
			findings = append(findings, p.checkIdentity()...)
			if a != nil {
				catalog := a.now.Load().catalog
				for _, p := range catalog.profiles {
					if p.Hidden { // whom it feeds says what a person should know
						continue
					}
					if p.Unservable != nil {
						findings = append(findings, unservable(p.Name, p.Origin, p.Unservable))
					}
					for _, n := range p.Notes {
						findings = append(findings, at(p.Origin, "profile "+p.Name+": "+n))
					}
				}
			}
			if asJSON {
				if err := printFindings(findings); err != nil {
					return err
				}
			} else {
				var out strings.Builder
				for _, f := range findings {
					out.WriteString(oneLine(f.String()) + "\n")
				}
				if _, err := os.Stdout.WriteString(out.String()); err != nil {
					return err
				}
			}
			switch {
			case hasErrors(findings):
				return exitStatus(1)
			case err != nil:
				return err
			}
			if !asJSON {
				remark("%s in %s; %s, none that stops the start", count(len(a.now.Load().catalog.profiles), "profile"), strings.Join(a.now.Load().catalog.files, ", "), count(len(findings), "finding"))
			}
			return nil
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// takeApart splits a reason that begins with its place and the profile.
func takeApart(profile, reason string) (place, text string) {
	place, text, ok := strings.Cut(reason, ": profile "+profile+": ")
	if !ok {
		return "", reason
	}
	return place, text
}

// shortReason is a reason for a line that names the profile already.
func shortReason(profile, reason string) string {
	place, text := takeApart(profile, reason)
	if place == "" {
		return oneLine(text)
	}
	return oneLine(text + " (" + place + ")")
}

// unservable is the reason as a finding. A reason that begins with a place keeps
// that place, which is nearer to the fault than the profile's header.
func unservable(profile, origin string, reason error) Finding {
	place, text := takeApart(profile, reason.Error())
	if place == "" {
		place = origin
	}
	return at(place, "profile "+profile+" is unservable: "+text)
}

// at is a warning at "FILE:LINE", or at a file as a whole.
func at(place, text string) Finding {
	f := Finding{File: place, Severity: SeverityWarning, Text: text}
	if i := strings.LastIndexByte(place, ':'); i > 0 {
		if n, err := strconv.Atoi(place[i+1:]); err == nil {
			f.File, f.Line = place[:i], n
		}
	}
	return f
}

func printFindings(findings []Finding) error {
	type finding struct {
		File     string `json:"file"`
		Line     int    `json:"line,omitempty"`
		Column   int    `json:"column,omitempty"`
		Severity string `json:"severity"`
		Text     string `json:"text"`
	}
	out := []finding{}
	for _, f := range findings {
		s := "error"
		if f.Severity == SeverityWarning {
			s = "warning"
		}
		out = append(out, finding{f.File, f.Line, f.Col, s, f.Text})
	}
	return printJSON(out)
}
