package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/vault"
	"github.com/stsbroker/stsbroker/internal/control"
)

func statusCommand(g *globals) *cobra.Command {
	var asJSON, watch bool
	c := &cobra.Command{
		Use:               "status [PROFILE]",
		Short:             "show how the profiles stand",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeProfiles(g),
		RunE: func(cmd *cobra.Command, args []string) error {
			profile := strings.Join(args, "")
			ctx := cmd.Context()
			if watch && !asJSON {
				return watchStatus(ctx, g, profile)
			}
			for {
				s, err := connect(ctx, g)
				if err != nil {
					return err
				}
				st, err := s.Status(ctx, profile)
				if err != nil {
					return err
				}
				if !asJSON {
					var out strings.Builder
					showStatus(&out, painter(os.Stdout), st, profile != "", terminalWidth())
					_, err := io.WriteString(os.Stdout, out.String())
					return err
				}
				if err := printJSON(st); err != nil || !watch || !pause(ctx, time.Second) {
					return err
				}
			}
		},
	}
	jsonFlag(c, &asJSON)
	c.Flags().BoolVar(&watch, "watch", false, "follow it on a screen of its own, until Ctrl-C; where that is no terminal, write what changes")
	return c
}

// terminalWidth is that of stdout, 0 where that is no terminal.
func terminalWidth() int {
	w, _, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil {
		return 0
	}
	return w
}

// pause waits, and reports whether ctx let it.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func showStatus(w io.Writer, c paint, st control.Status, one bool, width int) {
	if one {
		showProfile(w, c, st.Profiles[0])
		return
	}
	fmt.Fprintf(w, "stsbroker %s, process %d, up %s, at %s\n", st.Version, st.PID, span(time.Since(st.Started)), strings.Join(st.Container, " and "))
	for _, l := range st.IMDS {
		v1 := ""
		if l.AllowV1 {
			v1 = ", version 1 too"
		}
		fmt.Fprintf(w, "IMDS of %s at %s%s\n", oneLine(l.Profile), l.URL, v1)
	}
	if st.Socket != "" {
		fmt.Fprintf(w, "credentials at %s\n", oneLine(st.Socket))
	}
	for _, f := range st.TokenFiles {
		showFile(w, c, "token", f)
	}
	for _, f := range st.Files {
		showFile(w, c, "credentials", f)
	}
	if st.Custody == vault.Locked.String() {
		why := ""
		if st.Problem != "" {
			why = " (" + oneLine(st.Problem) + ")"
		}
		fmt.Fprintln(w, c.red("custody is locked; run stsbroker unlock"+why))
	}
	if s := st.Sealed; s != nil {
		disk := ""
		if s.SameDisk {
			disk = ", identity on the same disk"
		}
		fmt.Fprintf(w, "leases sealed in %s, opened by the identity in %s (%s)%s\n", oneLine(s.File), oneLine(s.Identity), s.From, disk)
		if s.Error != "" {
			fmt.Fprintln(w, c.red("leases are not saved, and a restart would mint anew: "+oneLine(s.Error)))
		}
	}
	if len(st.Changed) > 0 {
		fmt.Fprintf(w, "as the environment says: %s\n", strings.Join(st.Changed, ", "))
	}
	if st.Failed != "" {
		fmt.Fprintln(w, c.red("what is served is from "+st.Loaded.Local().Format(time.DateTime)+"; the configuration since has a fault: "+oneLine(st.Failed)))
	}
	for _, r := range st.Lame {
		fmt.Fprintln(w, c.red(fmt.Sprintf("STS in %s does not answer since %s (%s ago): %s", oneLine(r.Name), r.Since.Local().Format(time.TimeOnly), span(time.Since(r.Since)), oneLine(r.Why))))
	}
	// What is served first: those that cannot be are the same every time one looks.
	sort.SliceStable(st.Profiles, func(i, j int) bool { return st.Profiles[i].Reason == "" && st.Profiles[j].Reason != "" })
	rows := [][]string{{"PROFILE", "STATE", "KEY ID", "LEFT", "RENEWAL", "REGION", "LAST ERROR"}}
	for _, p := range st.Profiles {
		row := []string{oneLine(p.Name), p.State, p.KeyID, "", "", mintedIn(p), oneLine(p.LastError) + shortReason(p.Name, p.Reason)}
		if p.Left > 0 {
			row[3] = span(seconds(p.Left))
		}
		if p.RenewIn > 0 {
			row[4] = "in " + span(seconds(p.RenewIn))
		}
		rows = append(rows, row)
	}
	var out strings.Builder
	table(&out, rows)
	lines := strings.SplitAfter(out.String(), "\n")
	for i, line := range lines {
		if r := []rune(line); width > 0 && len(r) > width {
			lines[i] = string(r[:width-1]) + "…\n"
		}
	}
	fmt.Fprint(w, c.dim(strings.TrimSuffix(lines[0], "\n")), "\n")
	for i, p := range st.Profiles {
		line := lines[i+1]
		switch broker.State(p.State) {
		case broker.StateFresh, broker.StateRenewing:
			line = c.green(strings.TrimSuffix(line, "\n")) + "\n"
		case broker.StateLogin:
			line = c.as("33", strings.TrimSuffix(line, "\n")) + "\n"
		case broker.StateFailing, broker.StateError, broker.StateUnservable:
			line = c.red(strings.TrimSuffix(line, "\n")) + "\n"
		}
		fmt.Fprint(w, line)
	}
}

func showFile(w io.Writer, c paint, what string, f control.File) {
	fmt.Fprintf(w, "%s of %s in %s\n", what, oneLine(strings.Join(f.Profiles, ", ")), oneLine(f.Path))
	if f.Problem != "" {
		fmt.Fprintln(w, c.red("  "+oneLine(f.Problem)))
	}
}

// mintedIn is the region that issued what is held, and whose place it took.
func mintedIn(p control.Profile) string {
	switch {
	case p.MintRegion == "" || p.MintRegion == p.Region:
		return p.Region
	case p.Region == "":
		return p.MintRegion
	}
	return p.MintRegion + " (for " + p.Region + ")"
}

func showProfile(w io.Writer, c paint, p control.Profile) {
	rows := [][]string{{c.bold("profile"), oneLine(p.Name)}, {"state", p.State}, {"defined at", oneLine(p.Origin)}}
	add := func(k, v string) {
		if v != "" {
			rows = append(rows, []string{k, oneLine(v)})
		}
	}
	add("mint", p.Action)
	add("signed by", p.Source)
	add("region", p.Region)
	add("minted in", p.MintRegion)
	add("mfa device", p.MFA)
	add("sign-in", p.SignIn)
	add("account", p.AccountID)
	add("role", p.RoleARN)
	add("key id", p.KeyID)
	if p.Left > 0 {
		add("time left", span(seconds(p.Left)))
		add("clients are told", p.Expiration)
	}
	if p.RenewIn > 0 {
		add("next try", "in "+span(seconds(p.RenewIn)))
	}
	add("last error", p.LastError)
	if p.Failures > 0 {
		add("failures", fmt.Sprintf("%d in a row", p.Failures))
	}
	add("unservable", p.Reason)
	for _, n := range p.Notes {
		add("note", n)
	}
	table(w, rows)
}
