package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stsbroker/stsbroker/internal/control"
)

// The commands that are one call.

func credentialProcessCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "credential-process PROFILE",
		Short: "print a profile's credentials as credential_process wants them",
		Long: `credential-process prints one JSON object for credential_process in an AWS config
file. With a running broker any number of programs at once cause one mint. On
success nothing is written to stderr: one SDK reads both streams.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeProfiles(g),
		RunE: func(cmd *cobra.Command, args []string) error {
			return within(cmd.Context(), g, func(ctx context.Context, s control.Service) error {
				c, err := s.Credentials(ctx, args[0])
				if err != nil {
					return err
				}
				return json.NewEncoder(os.Stdout).Encode(struct {
					Version int
					control.Credentials
				}{1, c})
			})
		},
	}
}

func refreshCommand(g *globals) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:               "refresh PROFILE",
		Short:             "mint now, whatever is held",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeProfiles(g),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := connect(cmd.Context(), g)
			if err != nil {
				return err
			}
			p, err := patiently(cmd.Context(), "STS to renew profile "+args[0], func(ctx context.Context) (control.Profile, error) { return s.Refresh(ctx, args[0]) })
			if err != nil {
				return err
			}
			return printHeld(p, asJSON)
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

// printHeld says what a profile holds now.
func printHeld(p control.Profile, asJSON bool) error {
	if asJSON {
		return printJSON(p)
	}
	held := "nothing; its source is logged in, and each exec mints for itself"
	if p.KeyID != "" {
		held = p.KeyID + ", " + span(seconds(p.Left)) + " left"
	}
	_, err := fmt.Println(oneLine(p.Name) + ": " + held)
	return err
}

func whoamiCommand(g *globals) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:               "whoami PROFILE",
		Short:             "ask STS whose credentials a profile's are",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeProfiles(g),
		RunE: func(cmd *cobra.Command, args []string) error {
			return within(cmd.Context(), g, func(ctx context.Context, s control.Service) error {
				id, err := patiently(ctx, "STS to say who profile "+args[0]+" is", func(ctx context.Context) (control.Identity, error) { return s.WhoAmI(ctx, args[0]) })
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(id)
				}
				table(os.Stdout, [][]string{{"account", id.Account}, {"arn", oneLine(id.ARN)}, {"user id", oneLine(id.UserID)}})
				return nil
			})
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

func reloadCommand(g *globals) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "reload",
		Short: "have the broker read stsbroker.yaml and the AWS files again",
		Long: `reload has the running broker read stsbroker.yaml and the AWS files again. Profiles
that are the same keep what they hold, and no request waits. If anything is wrong with
the files, nothing changes, and the first fault is said with its place. SIGHUP does the same, and
so does the broker itself when one of the files has changed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := connect(cmd.Context(), g)
			if err != nil {
				return err
			}
			r, err := s.Reload(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(r)
			}
			changed := "none changed"
			if len(r.Changed) > 0 {
				changed = "changed: " + oneLine(strings.Join(r.Changed, ", "))
			}
			_, err = fmt.Printf("%s served; %s\n", count(r.Profiles, "profile"), changed)
			return err
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

func readyCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "ready",
		Short: "succeed when every prefetched profile holds credentials, for probes",
		Long: `ready exits with 0 when the broker runs and every profile that it mints ahead (prefetch,
IMDS doors, files) holds credentials, else with 1 and a line that names those which do
not. It asks the broker over the control socket, and STS nothing: fit for an exec probe.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := connect(cmd.Context(), g)
			if err != nil {
				return err
			}
			r, err := s.Ready(cmd.Context())
			if err == nil && len(r.Waiting) > 0 {
				err = fmt.Errorf("no credentials yet: %s; stsbroker status says why", oneLine(strings.Join(r.Waiting, ", ")))
			}
			return err
		},
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Printf("stsbroker %s %s %s/%s\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

func jsonFlag(c *cobra.Command, to *bool) {
	c.Flags().BoolVar(to, "json", false, "print JSON, for scripts")
}

func printJSON(v any) error {
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
