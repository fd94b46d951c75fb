package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/vault"
	"github.com/stsbroker/stsbroker/internal/control"
)

func loginCommand(g *globals) *cobra.Command {
	var asJSON bool
	var o signInOptions
	c := &cobra.Command{
		Use:   "login PROFILE",
		Short: "do the human step that a profile waits for",
		Long: `login does what a profile, or a source of it, needs a person for.

With an MFA device, it asks for the code and mints with it. Where a session takes the
code, every role over that session has its credentials without another one, until the
session ends. The code is read from the terminal, or as one line from standard input;
it is held by the running broker for that one call and kept nowhere.

With IAM Identity Center it opens the browser to sign in, once for all profiles of the
session, however many wait. Over SSH, or with --device-code, it prints an address and a
code for a browser elsewhere. The broker renews the sign-in by itself as long as the
session at AWS lasts.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFirst(g, waits),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			s, err := connect(ctx, g)
			if none := (errNoDaemon{}); errors.As(err, &none) {
				return loginAlone(ctx, g, args[0], o, asJSON, err)
			}
			if err != nil {
				return err
			}
			return doLogin(ctx, s, args[0], o, asJSON)
		},
	}
	c.Flags().BoolVar(&o.device, "device-code", false, "sign in with a browser elsewhere, by a code")
	c.Flags().BoolVar(&o.print, "print", false, "print the address to sign in at, and open nothing")
	jsonFlag(c, &asJSON)
	return c
}

func doLogin(ctx context.Context, s control.Service, profile string, o signInOptions, asJSON bool) error {
	if attended() {
		if _, err := unlockFirst(ctx, s); err != nil {
			return err
		}
	}
	p, err := orUnlock(ctx, s, func() (control.Profile, error) { return signIn(ctx, s, profile, o) })
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	}
	return printHeld(p, asJSON)
}

// loginAlone logs in where no broker runs. That is worth it only where the login
// rests in sealed state, for the commands and the broker that come after it.
func loginAlone(ctx context.Context, g *globals, profile string, o signInOptions, asJSON bool, none error) error {
	return withState(ctx, g, func(ctx context.Context, s control.Service) error {
		c, err := s.Custody(ctx)
		if err != nil {
			return err
		}
		if c.State == "none" {
			return fmt.Errorf("%w: a login lives in it; stsbroker exec %s -- COMMAND does it by itself", none, profile)
		}
		return doLogin(ctx, s, profile, o, asJSON)
	})
}

func logoutCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "logout PROFILE",
		Short: "forget a profile's session, and all that was minted with it",
		Long: `logout makes the running broker forget the login that a profile stands on: the session
that an MFA code was given for, or the sign-in to IAM Identity Center, which is ended at
AWS as well. With it go the session credentials of every profile over it, in memory and
in sealed state. A profile that needs no login loses what is held for it.

It counts from the next request on. What programs fetched before stays good until it
ends: STS cannot take session credentials back.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeProfiles(g),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withState(cmd.Context(), g, func(ctx context.Context, s control.Service) error {
				out, err := s.Logout(ctx, args[0])
				if err != nil {
					return err
				}
				if out.Note != "" {
					complain(out.Note)
				}
				_, err = fmt.Println(oneLine(fmt.Sprintf("forgotten: %s, and %s", out.What, count(out.Sets, "set")+" of session credentials")))
				return err
			})
		},
	}
}

// signInOptions say how a browser is found.
type signInOptions struct{ device, print bool }

// signIn does what the profile waits for.
func signIn(ctx context.Context, s control.Service, profile string, o signInOptions) (control.Profile, error) {
	st, err := s.Status(ctx, profile)
	if err != nil {
		return control.Profile{}, err
	}
	if p := st.Profiles[0]; p.Reason == "" && p.SignIn != "" && p.MFA == "" {
		return browserSignIn(ctx, s, p, o)
	}
	return giveCode(ctx, s, profile)
}

// browserSignIn signs in to IAM Identity Center: whoever begins it opens the browser,
// and all others wait for the same.
func browserSignIn(ctx context.Context, s control.Service, p control.Profile, o signInOptions) (control.Profile, error) {
	opener := browserCommand()
	_, err := exec.LookPath(opener[0])
	device := o.device || !o.print && (err != nil || !hasDisplay())
	at, err := s.SignIn(ctx, p.Name, device)
	if err != nil {
		return control.Profile{}, err
	}
	// The end of a sign-in that somebody else does in his browser is waited for too. Then
	// the page that led there has been read.
	type outcome struct {
		held control.Profile
		err  error
	}
	over := make(chan outcome, 1)
	waiting, end := context.WithCancel(ctx)
	defer end()
	go func() {
		held, err := at.Wait()
		over <- outcome{held, err}
		end()
	}()
	code := ""
	if at.Code != "" {
		code = " and check that it shows the code " + at.Code
	}
	switch {
	case !at.First:
		remark("profile %s: a sign-in to %s is under way already; it is at %s%s", p.Name, at.Session, at.URL, code)
	case device || o.print:
		remark("profile %s: to sign in to %s, open %s%s", p.Name, at.Session, at.URL, code)
	default:
		place, err := findPlace(&globals{}, false)
		if err == nil {
			remark("profile %s: sign in to %s in the browser", p.Name, at.Session)
			err = place.browse(waiting, opener, broker.NewSecret(at.URL), pageReading)
		}
		if err != nil {
			remark("profile %s: no browser could be opened (%v); open %s yourself", p.Name, err, at.URL)
		}
	}
	return patiently(ctx, "the sign-in to "+at.Session, func(context.Context) (control.Profile, error) {
		out := <-over
		return out.held, out.err
	})
}

// hasDisplay reports whether a browser that is opened here is before the person who
// asked for it.
func hasDisplay() bool {
	if os.Getenv("SSH_CONNECTION") != "" {
		return false
	}
	return runtime.GOOS != "linux" || os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != ""
}

// giveCode asks for the codes that the profile waits for, and mints with them. On a
// terminal a wrong one may be mended.
func giveCode(ctx context.Context, s control.Service, profile string) (control.Profile, error) {
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
		held, err := orUnlock(ctx, s, func() (control.Profile, error) { // the code is good for that long, and asked for once
			return patiently(ctx, "STS to take the code", func(ctx context.Context) (control.Profile, error) { return s.Login(ctx, profile, code) })
		})
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

// orSignIn does what needs credentials, after an unlock or a login where that is
// needed and somebody is there to do it.
func orSignIn[T any](ctx context.Context, s control.Service, profile string, f func() (T, error)) (T, error) {
	for {
		out, err := orUnlock(ctx, s, f)
		if !loginNeeded(err) || !attended() {
			return out, err
		}
		switch opened, err := unlockFirst(ctx, s); { // what a code was given for may rest sealed
		case err != nil:
			return out, err
		case opened:
			continue
		}
		if _, err := signIn(ctx, s, profile, signInOptions{}); err != nil {
			return out, err
		}
	}
}

// orUnlock does what needs custody, after an unlock where that is needed and somebody
// is there to do it.
func orUnlock[T any](ctx context.Context, s control.Service, f func() (T, error)) (T, error) {
	out, err := f()
	if !lockedOut(err) || !attended() {
		return out, err
	}
	if _, err := unlock(ctx, s, false); err != nil {
		return out, err
	}
	return f()
}

// unlockFirst opens custody where it is locked, and reports whether it did: before a code
// is asked for, which would be of no use, or not needed.
func unlockFirst(ctx context.Context, s control.Service) (bool, error) {
	c, err := s.Custody(ctx)
	if e, ok := errors.AsType[*control.Error](err); ok && e.Kind == broker.KindForbidden.String() {
		return false, nil // another user's
	}
	if err != nil || c.State != vault.Locked.String() {
		return false, err
	}
	_, err = unlock(ctx, s, false)
	return err == nil, err
}

// attended reports whether a person can be asked, and sees the question.
func attended() bool { return isTerminal(os.Stdin) && isTerminal(os.Stderr) }

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
