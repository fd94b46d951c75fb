package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/control"
)

func loginCommand(g *globals) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "login PROFILE",
		Short: "give the MFA code that a profile waits for",
		Long: `login asks for the code of the MFA device that the profile, or a source of it,
waits for, and mints with it. Where a session takes the code, every role over
that session has its credentials without another one, until the session ends.

The code is read from the terminal, or as one line from standard input. It is
held by the running broker for that one call and kept nowhere.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFirst(g, waits),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := connect(cmd.Context(), g)
			if errors.As(err, new(errNoDaemon)) {
				return fmt.Errorf("%w: a login lives in it; stsbroker exec %s -- COMMAND asks for the code by itself", err, args[0])
			}
			if err != nil {
				return err
			}
			p, err := signIn(cmd.Context(), s, args[0])
			switch {
			case cmd.Context().Err() != nil:
				return context.Cause(cmd.Context())
			case err != nil:
				return err
			}
			return printHeld(p, asJSON)
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

// signIn asks for the codes that the profile waits for, and mints with them. On a
// terminal a wrong one may be mended.
func signIn(ctx context.Context, s control.Service, profile string) (control.Profile, error) {
	const mostTries = 3
	terminal := isTerminal(os.Stdin)
	for tries := 0; ; {
		st, err := s.Status(ctx, profile)
		if err != nil {
			return control.Profile{}, err
		}
		p := st.Profiles[0]
		switch {
		case p.Reason != "":
			return p, errors.New("profile " + profile + " is unservable: " + p.Reason)
		case p.MFA == "":
			return p, errors.New("profile " + profile + " needs no login: nothing on its way to credentials asks a person for a code")
		}
		if terminal {
			fmt.Fprintf(os.Stderr, "code of %s: ", oneLine(p.MFA))
		}
		code, err := readLine(ctx, os.Stdin)
		if err != nil && terminal {
			fmt.Fprintln(os.Stderr) // the prompt's line was never ended
		}
		if err == nil && code == "" || errors.Is(err, io.EOF) {
			err = errors.New("profile " + profile + ": no code of the MFA device " + p.MFA + " was given; it is one line of standard input")
		}
		if err != nil {
			return p, err
		}
		held, err := patiently(ctx, "STS to take the code", func(ctx context.Context) (control.Profile, error) { return s.Login(ctx, profile, code) })
		switch {
		case err == nil || !terminal:
			return held, err
		case loginNeeded(err): // that device is done, and another follows
			tries = 0
			continue
		}
		if tries++; !wrongCode(err) || tries == mostTries {
			return held, err
		}
		complain(err.Error())
	}
}

// orSignIn does what needs credentials, after a login where that is needed and
// somebody is there to give the code.
func orSignIn[T any](ctx context.Context, s control.Service, profile string, f func() (T, error)) (T, error) {
	for {
		out, err := f()
		if !loginNeeded(err) || !isTerminal(os.Stdin) || !isTerminal(os.Stderr) {
			return out, err
		}
		if _, err := signIn(ctx, s, profile); err != nil {
			return out, err
		}
	}
}

func loginNeeded(err error) bool {
	e, ok := errors.AsType[*control.Error](err)
	return ok && e.Kind == broker.KindLoginNeeded.String()
}

// wrongCode knows STS's words for it, and ours for what is no code at all. Other
// denials do not go away with another code.
func wrongCode(err error) bool {
	return strings.Contains(err.Error(), "MultiFactorAuthentication failed") || strings.Contains(err.Error(), "is not six digits")
}

// readLine reads a line and nothing beyond it: the rest is for a child that
// inherits the stream. White space around it is dropped. The error is io.EOF
// only where nothing came before the end.
func readLine(ctx context.Context, r io.Reader) (string, error) {
	const longest = 1 << 10
	type result struct {
		line string
		err  error
	}
	done := make(chan result, 1)
	go func() { // it stays behind when ctx ends first; then so does this process
		var line []byte
		var err error
		for b := make([]byte, 1); err == nil && len(line) < longest; {
			var n int
			if n, err = r.Read(b); n == 1 && b[0] == '\n' {
				break
			} else if n == 1 {
				line = append(line, b[0])
			}
		}
		if errors.Is(err, io.EOF) && len(line) > 0 {
			err = nil
		}
		done <- result{strings.TrimSpace(string(line)), err}
	}()
	select {
	case got := <-done:
		return got.line, got.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}
