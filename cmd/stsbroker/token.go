package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stsbroker/stsbroker/broker/access"
	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

func tokenCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "make, list and revoke tokens of services",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(tokenCreateCommand(g), tokenListCommand(g), tokenRevokeCommand(g))
	return c
}

func tokenCreateCommand(g *globals) *cobra.Command {
	var profiles []string
	var uid, file string
	c := &cobra.Command{
		Use:   "create NAME --profile PROFILE",
		Short: "make a token for a service, good until it is revoked",
		Long: `create prints a new token, or writes it to a file with --file (mode 0600, no
newline at the end: several SDKs take one for part of the token).

The service is given AWS_CONTAINER_CREDENTIALS_FULL_URI and
AWS_CONTAINER_AUTHORIZATION_TOKEN, or AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(profiles) == 0 {
				return errors.New("token create needs --profile: what the token is good for")
			}
			return cobra.ExactArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			t := control.NewToken{Name: args[0], Profiles: profiles}
			if uid != "" {
				n, err := strconv.ParseUint(uid, 10, 32)
				if err != nil {
					return usage("--uid %s: it is a number; id -u USER prints it", uid)
				}
				t.UID = new(uint32(n))
			}
			if file != "" { // before the token exists: a token nobody holds helps nobody
				if err := securefile.CheckFolders(filepath.Dir(absolute(file))); err != nil {
					return fmt.Errorf("--file: %w", err)
				}
				if _, err := os.Lstat(file); err == nil {
					return fmt.Errorf("--file: %s exists, and another service may read its token there; remove it first, or name another", file)
				}
			}
			s, err := connect(cmd.Context(), g)
			if err != nil {
				return err
			}
			made, err := s.CreateToken(cmd.Context(), t)
			if err != nil {
				return err
			}
			if file == "" {
				if _, err := fmt.Println(made.Value); err != nil {
					return fmt.Errorf("the token was made but not printed (%w); run stsbroker token revoke %s and try again", err, shQuote(t.Name))
				}
				return nil
			}
			if err := securefile.Write(absolute(file), []byte(made.Value)); err != nil {
				return fmt.Errorf("the token was made but not written (%w); run stsbroker token revoke %s and try again", err, shQuote(t.Name))
			}
			return nil
		},
	}
	c.Flags().StringSliceVar(&profiles, "profile", nil, "a profile it is good for; the first is its default (may be given again)")
	c.Flags().StringVar(&uid, "uid", "", "accept it only from processes of this user (a number)")
	c.Flags().StringVar(&file, "file", "", "write it to this `path` instead of printing it")
	return c
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

func tokenListCommand(g *globals) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "list the tokens that are good now; their values are not shown",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := connect(cmd.Context(), g)
			if err != nil {
				return err
			}
			tokens, err := s.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(tokens)
			}
			rows := [][]string{{"NAME", "ID", "KIND", "PROFILES", "UID", "LAST USED", "EXPIRES"}}
			for _, t := range tokens {
				uid := ""
				if t.UID != nil {
					uid = fmt.Sprint(*t.UID)
				}
				rows = append(rows, []string{cmp.Or(oneLine(t.Name), "-"), t.ID, t.Kind, oneLine(strings.Join(t.Profiles, ",")), uid, moment(t.LastUsed), until(t)})
			}
			table(os.Stdout, rows)
			return nil
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

// until is when a token ends.
func until(t control.Token) string {
	if t.Kind == string(access.KindFile) {
		return "changed every hour"
	}
	return moment(t.Expires)
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format(time.DateTime)
}

func tokenRevokeCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME",
		Short: "end a token, by its name or id, from the next request on",
		Long: `revoke ends a token from the next request on. Credentials that a client holds
already stay good until they expire: STS cannot take them back.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := connect(cmd.Context(), g)
			if err != nil {
				return err
			}
			return s.RevokeToken(cmd.Context(), args[0])
		},
	}
}
