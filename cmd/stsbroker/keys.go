package main

import (
	"context"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/stsbroker/stsbroker/internal/control"
)

func keysCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "keys",
		Short: "look at long-term credentials",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(keysShowCommand(g))
	return c
}

func keysShowCommand(g *globals) *cobra.Command {
	var profile string
	var asJSON bool
	c := &cobra.Command{
		Use:   "show NAME",
		Short: "show a key's id, where it rests, and the account it belongs to",
		Long: `show prints what may be known of a long-term key, never its secret. NAME is a key
of stsbroker.yaml, an AWS profile that holds one, or an access key id
(AKIA… or ASIA…) that turned up somewhere.

The account comes from STS. A key of yours asks for itself; for another id the
credentials of a profile do: the one in AWS_PROFILE, the only one there is, or
default, unless --profile names it. Where STS does not tell the account of a key
of yours, the rest is printed, and the reason on standard error.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFirst(g, keyOf),
		RunE: func(cmd *cobra.Command, args []string) error {
			return within(cmd.Context(), g, func(ctx context.Context, s control.Service) error {
				signs, err := signingProfile(ctx, s, profile)
				if err != nil {
					return err
				}
				k, err := patiently(ctx, "STS to say whose key it is", func(ctx context.Context) (control.KeyInfo, error) { return s.KeyInfo(ctx, args[0], signs) })
				if err != nil {
					return err
				}
				if k.Unknown != "" {
					complain("the account is not known: " + k.Unknown)
				}
				if asJSON {
					return printJSON(k)
				}
				rows := [][]string{{"name", oneLine(k.Name)}, {"key id", oneLine(k.KeyID)}, {"custody", k.Custody}, {"account", oneLine(k.Account)}}
				table(os.Stdout, slices.DeleteFunc(rows, func(r []string) bool { return r[1] == "" }))
				return nil
			})
		},
	}
	c.Flags().StringVar(&profile, "profile", "", "the `profile` whose credentials ask for a key that is not yours")
	jsonFlag(c, &asJSON)
	completeProfileFlag(c, g)
	return c
}
