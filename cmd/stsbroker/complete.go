package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/stsbroker/stsbroker/broker/custody"
	"github.com/stsbroker/stsbroker/internal/control"
)

// completeProfiles completes the first argument with the profiles that the
// running broker serves.
func completeProfiles(g *globals) cobra.CompletionFunc { return completeFirst(g, served) }

// completeFirst completes the first argument with what name makes of each
// profile, "" for nothing.
func completeFirst(g *globals, name func(control.Profile) string) cobra.CompletionFunc {
	of := completeFlag(g, name)
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return of(cmd, args, typed)
	}
}

// completeFlag is the same for the value of a flag.
func completeFlag(g *globals, name func(control.Profile) string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) (names []string, _ cobra.ShellCompDirective) {
		c, err := connect(cmd.Context(), g)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		st, err := c.Status(cmd.Context(), "")
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		for _, p := range st.Profiles {
			if n := name(p); n != "" {
				names = append(names, n)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeWords completes a flag of the command, which must have it, with words.
func completeWords(c *cobra.Command, flag string, words ...string) {
	if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // no such flag
	}
}

func served(p control.Profile) string {
	if p.Reason != "" {
		return ""
	}
	return p.Name
}

// waits is for login: those that a person's code is for.
func waits(p control.Profile) string {
	if p.MFA == "" && p.SignIn == "" {
		return ""
	}
	return p.Name
}

// keyOf is the long-term key behind a profile, as keys show calls it.
func keyOf(p control.Profile) string {
	name, ok := strings.CutPrefix(p.Source, "key ")
	if !ok {
		return ""
	}
	return strings.TrimPrefix(name, custody.ProfileKey(""))
}

// completeKeys completes the first argument with the names of keys.
func completeKeys(g *globals) cobra.CompletionFunc {
	return completeKey(g, func(control.KeyInfo) bool { return true })
}

// completeKept is for what only keys in our own custody can have done to them.
func completeKept(g *globals) cobra.CompletionFunc {
	return completeKey(g, inOurCustody)
}

func inOurCustody(k control.KeyInfo) bool {
	return k.Custody == custodySealed || k.Custody == custodyKeyring
}

func completeKey(g *globals, which func(control.KeyInfo) bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := connect(cmd.Context(), g)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		keys, err := c.Keys(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		for _, k := range keys {
			if which(k) {
				names = append(names, k.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
