package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/control"
)

func execCommand(g *globals) *cobra.Command {
	var door string
	c := &cobra.Command{
		Use:   "exec PROFILE -- CMD [ARGS...]",
		Short: "run a program with a profile's credentials within its reach",
		Long: `exec mints first, waiting up to 50 seconds, and then runs CMD with the variables
that point at the profile. It needs no running broker: without one it is the
broker itself, for as long as CMD lasts. The token that CMD gets dies with it.
On a terminal it asks for the code of an MFA device where the profile needs one.

--door imds leads CMD to the profile's IMDS endpoint instead of the container
endpoint, and --door ecs to the container endpoint at 169.254.170.2; both stand
before PROFILE. Without a running broker the IMDS endpoint is one of exec's own.

A profile of AssumeRoot is for exec alone: each exec mints anew, and what CMD
holds is never renewed.

If no credentials can be had, CMD is not started and the status is 1. Otherwise
the status is CMD's (127 if there is no such program, 126 if it cannot be run,
128 and the signal's number if a signal ended it).`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 && strings.HasPrefix(args[1], "--") && len(args[1]) > 2 {
				return fmt.Errorf("%s stands before the profile: stsbroker exec %s ... PROFILE -- CMD [ARGS...]", args[1], args[1])
			}
			if _, argv := split(args); len(argv) == 0 {
				return errors.New("exec needs a profile and a command: stsbroker exec PROFILE -- CMD [ARGS...]")
			}
			return nil
		},
		ValidArgsFunction: completeProfiles(g),
		RunE: func(cmd *cobra.Command, args []string) error {
			profile, argv := split(args)
			switch {
			case !slices.Contains(doorsOfExec(), door):
				return usage("--door %s: it is one of %s", door, strings.Join(doorsOfExec(), ", "))
			case door == doorIMDS:
				g.imds = profile
			}
			return within(cmd.Context(), g, func(ctx context.Context, s control.Service) error { return runChild(ctx, g, s, profile, door, argv) })
		},
	}
	c.Flags().StringVar(&door, "door", doorContainer, strings.Join(doorsOfExec(), ", "))
	completeWords(c, "door", doorsOfExec()...)
	c.Flags().SetInterspersed(false) // what follows the profile is the child's
	return c
}

// split takes PROFILE [--] CMD ARGS apart.
func split(args []string) (profile string, argv []string) {
	if len(args) == 0 {
		return "", nil
	}
	profile, argv = args[0], args[1:]
	if len(argv) > 0 && argv[0] == "--" {
		argv = argv[1:]
	}
	return profile, argv
}

func runChild(ctx context.Context, g *globals, s control.Service, profile, door string, argv []string) error {
	p, err := findPlace(g, false)
	if err != nil {
		return err
	}
	if _, err := exec.LookPath(argv[0]); err != nil { // before anything is minted for it
		return cannotRun(argv[0], err)
	}
	// From here on every signal has an owner: this channel, which supervise reads.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, heard()...)
	defer signal.Stop(signals)
	held, release := context.WithCancel(context.WithoutCancel(ctx)) // Ctrl-C ends the wait; once the child runs, it is the child's
	defer release()
	ends, deaf := hangup(ctx)
	defer deaf()
	stop := context.AfterFunc(ends, release)
	if door != doorContainer { // one that is not there is told before a mint, and a code for it
		_, err = p.childVariables(held, s, profile, door, control.Endpoint{URI: "http://127.0.0.1"})
	}
	var c control.Child
	var vars variables
	if err == nil {
		c, err = child(held, s, profile)
	}
	if err == nil {
		if vars, err = p.childVariables(held, s, profile, door, c.Endpoint); err != nil {
			c.Release()
		}
	}
	if !stop() { // as late as can be: the next thing is the command's start
		return interrupted(ends)
	}
	if err != nil {
		return err
	}
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		keep(held, g, c, profile)
	}()
	err = supervise(argv, vars.environ(os.Environ()), signals)
	release()
	<-kept
	return err
}

// childVariables lead a child to the profile.
func (p place) childVariables(ctx context.Context, s control.Service, profile, door string, e control.Endpoint) (variables, error) {
	if door == doorContainer {
		return p.endpointVariables(door, control.Status{}, e)
	}
	st, err := statusOfOne(ctx, s, profile)
	switch {
	case err != nil:
		return variables{}, err
	case door == doorIMDS:
		return p.imdsVariables(st)
	}
	return p.endpointVariables(door, st, e)
}

// child mints for one child.
func child(ctx context.Context, s control.Service, profile string) (control.Child, error) {
	return orSignIn(ctx, s, profile, func() (control.Child, error) {
		return patiently(ctx, "STS to give credentials of profile "+profile, func(context.Context) (control.Child, error) {
			return s.Child(ctx, profile, "")
		})
	})
}

// heard are the signals to pass on: those that are not ignored, as nohup and
// background jobs of scripts have it. A child inherits that.
func heard() []os.Signal {
	return slices.DeleteFunc(slices.Clone(forwarded), signal.Ignored)
}

// hangup is a context that ends as well when the terminal goes, or its user wants
// an end: while nothing runs yet, nobody else hears that.
func hangup(ctx context.Context) (context.Context, context.CancelFunc) {
	return endedBy(ctx, syscall.SIGHUP, syscall.SIGQUIT)
}

// interrupted is the status for the signal that ended ctx, while no child runs
// that would have it; Ctrl-C's for none.
func interrupted(ctx context.Context) exitStatus {
	var status exitStatus
	if errors.As(context.Cause(ctx), &status) {
		return status
	}
	return exitStatus(128 + int(syscall.SIGINT))
}

// keep holds on to the child's token until ctx ends: when the broker goes away,
// the next one that answers is told to go on with it.
func keep(ctx context.Context, g *globals, c control.Child, profile string) {
	for {
		select {
		case <-ctx.Done():
			c.Release()
			return
		case <-c.Revoked:
			c.Release()
			return
		case <-c.Lost:
		}
		c.Release()
		for again := false; !again; {
			if !pause(ctx, time.Second) {
				return
			}
			s, err := connect(ctx, g)
			if err != nil {
				continue
			}
			next, err := s.Child(ctx, profile, c.Token)
			refusal, refused := errors.AsType[*control.Error](err)
			switch {
			case err == nil:
				c, again = next, true
			case refused && refusal.Kind != broker.KindUnavailable.String():
				remark("the broker was started anew, and the command gets no more credentials: %v", err)
				return
			}
		}
	}
}

// supervise runs the child in our place: its terminal, its signals, its status.
func supervise(argv, environ []string, signals <-chan os.Signal) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = environ
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return cannotRun(argv[0], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			if !sentByTerminal(s) {
				_ = cmd.Process.Signal(s) // it may have ended already
			}
		case err := <-ended:
			var exit *exec.ExitError
			switch {
			case err == nil:
				return nil
			case !errors.As(err, &exit):
				return fmt.Errorf("%s: %w", argv[0], err)
			}
			if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
				return exitStatus(128 + int(status.Signal()))
			}
			return exitStatus(exit.ExitCode())
		}
	}
}

// cannotRun says why, with the status that shells use.
func cannotRun(name string, err error) error {
	status := exitStatus(126)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		status = 127
	}
	complain(name + " cannot be run: " + strings.TrimPrefix(err.Error(), "exec: "))
	return status
}
