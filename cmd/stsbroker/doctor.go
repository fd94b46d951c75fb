package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// doctorTime is how long all probes together may take. They run side by side, and what
// is not known by then is a finding or is not looked at.
const doctorTime = 6 * time.Second

func doctorCommand(g *globals) *cobra.Command {
	var asJSON, noNetwork bool
	var profile string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "find what would stop an SDK from getting credentials here, and the command that mends it",
		Long: `doctor looks at what an AWS SDK would meet in this shell: the variables that lead to
the broker and those that lead elsewhere, the AWS files, the endpoint and its token, the
broker, and STS. Each finding has a line that says what to do, a command wherever one
mends it. The status is 1 if a finding would stop an SDK.

It changes nothing and takes no credentials. It asks the broker; the endpoint that the
environment names, if that is on this host; and STS, by a request that nobody signed.
With --no-network it asks only the broker, over its socket.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), doctorTime)
			defer cancel()
			s, err := lookAround(ctx, g, profile, !noNetwork)
			if err != nil {
				return err
			}
			if cmd.Context().Err() != nil {
				return context.Cause(cmd.Context())
			}
			found := judge(s)
			if asJSON {
				err = printComplaints(s, found)
			} else {
				var out strings.Builder
				showComplaints(&out, painter(os.Stdout), s, found)
				_, err = io.WriteString(os.Stdout, out.String())
			}
			if err == nil && slices.ContainsFunc(found, func(c complaint) bool { return c.Severity == severityStops }) {
				return exitStatus(1)
			}
			return err
		},
	}
	jsonFlag(c, &asJSON)
	c.Flags().StringVar(&profile, "profile", "", "the `profile` that the program would use (default: the one that the environment names)")
	c.Flags().BoolVar(&noNetwork, "no-network", false, "open no connection but to the broker's control socket")
	_ = c.RegisterFlagCompletionFunc("profile", completeProfiles(g))
	return c
}

// How much a finding weighs.
const (
	severityStops = "stops" // an SDK gets no credentials, or somebody else's
	severityRisk  = "risk"  // some programs are stopped, or all will be later
	severityNote  = "note"  // a person should know
)

// complaint is one finding of doctor. What and Do are one line each and hold no secret.
type complaint struct {
	ID       string `json:"id"` // of docs/doctor.md
	Severity string `json:"severity"`
	What     string `json:"what"`
	Do       string `json:"do"` // a command wherever one mends it
}

func showComplaints(w io.Writer, c paint, s *surroundings, found []complaint) {
	for _, group := range []struct{ severity, title, code string }{
		{severityStops, "stops SDKs here:", "31"},
		{severityRisk, "stops some programs, or will:", "33"},
		{severityNote, "worth knowing:", "1"},
	} {
		first := true
		for _, f := range found {
			if f.Severity != group.severity {
				continue
			}
			if first {
				fmt.Fprintln(w, c.as(group.code, group.title))
				first = false
			}
			fmt.Fprintf(w, "  %s\n    %s %s\n", oneLine(f.What), c.dim("->"), c.bold(oneLine(f.Do)))
		}
	}
	if len(found) == 0 {
		fmt.Fprintln(w, "nothing found")
	}
	fmt.Fprintln(w, c.dim("looked at: "+oneLine(strings.Join(s.looked(), ", "))))
	for _, not := range s.notLooked {
		fmt.Fprintln(w, c.dim("not looked at: "+oneLine(not)))
	}
}

func printComplaints(s *surroundings, found []complaint) error {
	none := []string{}
	return printJSON(struct {
		Profile  string      `json:"profile,omitempty"`
		Findings []complaint `json:"findings"`
		Looked   []string    `json:"looked_at"`
		Not      []string    `json:"not_looked_at"`
	}{s.meant(), append([]complaint{}, found...), s.looked(), append(none, s.notLooked...)})
}

// looked says in words what was looked at.
func (s *surroundings) looked() []string {
	out := []string{"the environment"}
	for _, f := range []string{s.files.Config, s.files.Credentials, s.config.Path} {
		if f != "" {
			out = append(out, f)
		}
	}
	if s.broker.Status != nil {
		out = append(out, fmt.Sprintf("the broker (process %d)", s.broker.Status.PID))
	} else {
		out = append(out, "the control socket "+s.broker.Path)
	}
	if s.endpoint.Asked {
		out = append(out, "the endpoint "+s.door.shown())
	}
	if s.sts.Asked {
		out = append(out, "STS at "+s.sts.Host)
	}
	for _, p := range s.sdks {
		out = append(out, p.Name+" "+p.Version)
	}
	return out
}
