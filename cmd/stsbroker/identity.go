package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stsbroker/stsbroker/internal/control"
)

func identityTokenCommand(g *globals) *cobra.Command {
	var audiences, tags []string
	var algorithm string
	var duration time.Duration
	var asJSON bool
	c := &cobra.Command{
		Use:   "identity-token PROFILE --audience A",
		Short: "print a token that proves a profile's AWS identity to another service",
		Long: `identity-token asks AWS (GetWebIdentityToken) for a signed token, which a service
outside AWS can check against the account's public keys. The account must have
outbound web identity federation switched on. Each call makes a new token; it is
printed and kept nowhere.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(audiences) == 0 {
				return fmt.Errorf("%s needs --audience: who is to accept the token", cmd.Name())
			}
			return cobra.ExactArgs(1)(cmd, args)
		},
		ValidArgsFunction: completeProfiles(g),
		RunE: func(cmd *cobra.Command, args []string) error {
			t := control.IdentityTokenRequest{Profile: args[0], Audiences: audiences, Algorithm: algorithm, Duration: int(duration / time.Second), Tags: map[string]string{}}
			for _, tag := range tags {
				k, v, ok := strings.Cut(tag, "=")
				if _, twice := t.Tags[k]; !ok || k == "" || twice {
					return usage("--tag %s: it is KEY=VALUE, each key once", oneLine(tag))
				}
				t.Tags[k] = v
			}
			switch {
			case algorithm != "RS256" && algorithm != "ES384":
				return usage("--algorithm %s: it is RS256 or ES384", oneLine(algorithm))
			case duration < time.Minute || duration > time.Hour || duration%time.Second != 0:
				return usage("--duration %s: AWS grants 1m to 1h, in whole seconds", duration)
			case len(audiences) > control.MaxAudiences:
				return usage("--audience is given %d times; a token has %d at most", len(audiences), control.MaxAudiences)
			case len(t.Tags) > control.MaxTags:
				return usage("--tag is given %d times; a token has %d at most", len(t.Tags), control.MaxTags)
			}
			return within(cmd.Context(), g, func(ctx context.Context, s control.Service) error {
				token, err := patiently(ctx, "STS to sign a token for profile "+args[0], func(ctx context.Context) (control.IdentityToken, error) { return s.IdentityToken(ctx, t) })
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(token)
				}
				_, err = fmt.Println(token.Token)
				return err
			})
		},
	}
	c.Flags().StringArrayVar(&audiences, "audience", nil, "who is to accept the token (may be given again)")
	c.Flags().StringVar(&algorithm, "algorithm", "ES384", "what signs it: RS256 or ES384")
	c.Flags().DurationVar(&duration, "duration", 5*time.Minute, "how long it lives, 1m to 1h")
	c.Flags().StringArrayVar(&tags, "tag", nil, "a claim more, as `KEY=VALUE` (may be given again)")
	jsonFlag(c, &asJSON)
	completeWords(c, "algorithm", "ES384", "RS256")
	return c
}
