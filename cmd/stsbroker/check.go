package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
)

func checkCommand(g *globals) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "check",
		Short: "validate the configuration and the AWS files, every finding with its place",
		Long: `check reads stsbroker.yaml and the AWS shared files as serve would, and calls
nobody. The status is 1 if serve would not start; a profile that cannot be served
is a warning, because the others are.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			p, err := findPlace(g, false)
			if err != nil {
				return err
			}
			a, findings, err := newApp(settings{place: p, log: zap.NewNop(), embedded: true})
			if a != nil {
				for _, p := range a.catalog.profiles {
					if p.Unservable != nil && !p.Hidden {
						findings = append(findings, unservable(p.Name, p.Origin, p.Unservable))
					}
					for _, n := range p.Notes {
						findings = append(findings, Finding{File: p.Origin, Severity: SeverityWarning, Text: "profile " + p.Name + ": " + n})
					}
				}
			}
			if asJSON {
				if err := printFindings(findings); err != nil {
					return err
				}
			} else {
				for _, f := range findings {
					fmt.Fprintln(os.Stdout, oneLine(f.String()))
				}
			}
			switch {
			case hasErrors(findings):
				return exitStatus(1)
			case err != nil:
				return err
			}
			if !asJSON {
				remark("%d profiles, %d findings, none that stops the start", len(a.catalog.profiles), len(findings))
			}
			return nil
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

// unservable is the reason as a finding. A reason that begins with a place keeps
// that place, which is nearer to the fault than the profile's header.
func unservable(profile, origin string, reason error) Finding {
	place, text, ok := strings.Cut(reason.Error(), ": profile "+profile+": ")
	if !ok {
		place, text = origin, reason.Error()
	}
	return Finding{File: place, Severity: SeverityWarning, Text: "profile " + profile + " is unservable: " + text}
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
