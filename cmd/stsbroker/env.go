package main

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/control"
)

func envCommand(g *globals) *cobra.Command {
	var shell, door string
	var file bool
	c := &cobra.Command{
		Use:   "env PROFILE",
		Short: "print the variables that point a shell's programs at a profile",
		Long: `env prints the variables to export and the ones to unset, for a running broker:

    eval "$(stsbroker env PROFILE)"                                     sh, bash, zsh
    stsbroker env PROFILE --shell fish | source                         fish
    stsbroker env PROFILE --shell powershell | Out-String | iex         PowerShell

The token in them is good for this profile only, and for 12 hours after it was last used
or the last credentials fetched with it have ended.

--door chooses the way to the credentials:

    container   the container endpoint on loopback, which every SDK knows
    ecs         the same at 169.254.170.2, for programs that know only
                AWS_CONTAINER_CREDENTIALS_RELATIVE_URI; listen.container must have it
    eks         the same as EKS Pod Identity has it, with the token file that
                token_files in stsbroker.yaml keeps for the profile
    imds        the profile's IMDS endpoint, which knows its callers by their user;
                listen.imds must have it
    process     prints no variables but the lines of an AWS config file`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("env needs a profile: stsbroker env PROFILE")
			}
			return cobra.ExactArgs(1)(cmd, args)
		},
		ValidArgsFunction: completeProfiles(g),
		RunE: func(cmd *cobra.Command, args []string) error {
			print, ok := shells[shell]
			switch {
			case !ok:
				return usage("--shell %s: it is one of sh (bash and zsh read it), fish, powershell, dotenv, json", shell)
			case !slices.Contains(doorsOfEnv(), door):
				return usage("--door %s: it is one of %s", door, strings.Join(doorsOfEnv(), ", "))
			case door != doorContainer && file:
				return usage("--token-file is of the container door alone")
			case door == doorProcess && cmd.Flags().Changed("shell"):
				return usage("--door process prints the lines of an AWS config file, and no shell reads those; leave --shell away")
			}
			s, err := connect(cmd.Context(), g)
			if err != nil {
				return err
			}
			p, err := findPlace(g, false)
			if err != nil {
				return err
			}
			st, err := statusOfOne(cmd.Context(), s, args[0])
			if err != nil {
				return err
			}
			if door == doorProcess {
				err = p.processLines(os.Stdout, g, st.Profiles[0])
			} else {
				var vars variables
				if vars, err = p.envVariables(cmd.Context(), s, st, door, file); err == nil {
					err = print(os.Stdout, vars)
				}
			}
			if err == nil && st.Profiles[0].State == string(broker.StateLogin) {
				what := "a code of " + st.Profiles[0].MFA
				if st.Profiles[0].MFA == "" {
					what = "a sign-in to " + st.Profiles[0].SignIn
				}
				remark("profile %s needs %s before it gives credentials: run stsbroker login %s", args[0], what, args[0])
			}
			return err
		},
	}
	c.Flags().StringVar(&shell, "shell", "sh", "sh, fish, powershell, dotenv or json")
	c.Flags().StringVar(&door, "door", doorContainer, strings.Join(doorsOfEnv(), ", "))
	c.Flags().BoolVar(&file, "token-file", false, "point at a file that holds the token (not every SDK knows that variable)")
	completeWords(c, "door", doorsOfEnv()...)
	completeWords(c, "shell", slices.Sorted(maps.Keys(shells))...)
	return c
}

// statusOfOne is the status with one profile in it, never with all: "", such as of a
// shell's variable that is not set, is the name of none.
func statusOfOne(ctx context.Context, s control.Service, profile string) (control.Status, error) {
	if profile == "" {
		return control.Status{}, errors.New("the name of the profile is empty; stsbroker status lists them all")
	}
	return s.Status(ctx, profile)
}

// envVariables lead a shell's programs to the profile that st is of.
func (p place) envVariables(ctx context.Context, s control.Service, st control.Status, door string, file bool) (variables, error) {
	profile := st.Profiles[0]
	switch door {
	case doorIMDS:
		return p.imdsVariables(st)
	case doorEKS:
		return p.eksVariables(st)
	}
	e, err := s.Env(ctx, profile.Name, file)
	if err != nil {
		return variables{}, err
	}
	return p.endpointVariables(door, st, e)
}
