// Command stsbroker is what ssh-agent is for SSH keys, for AWS: one process that
// holds long-term credentials, mints session credentials from them, renews those
// ahead of expiry, and serves them where every AWS SDK looks.
//
// One file a command. wire.go is the only place where the packages of this
// module meet; config.go reads stsbroker.yaml; tui.go has the voice.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the release build (-ldflags "-X main.version=…").
var version string

func main() { os.Exit(run()) }

// run is main, with the exit status: 0 done, 1 failed, 2 wrong usage, 128 and the
// signal's number where one ended a wait, or that of exec's child.
func run() int {
	undumpable()
	ctx, end := endedBy(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer end()
	running := false // whether a command began: what fails before is wrong usage
	err := rootCommand(&running).ExecuteContext(ctx)
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	case !running || errors.As(err, new(usageError)):
		complain(err.Error() + "; see stsbroker help")
		return 2
	}
	complain(err.Error())
	return 1
}

// endedBy is a context that the first of the signals ends, with the status of a
// command that only waited as its cause. The second one ends us, whatever we are
// stuck in; what is ignored stays so.
func endedBy(ctx context.Context, signals ...os.Signal) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	first := make(chan os.Signal, 1)
	if signals = slices.DeleteFunc(signals, signal.Ignored); len(signals) > 0 { // for Notify, none are all
		signal.Notify(first, signals...)
	}
	go func() {
		select {
		case s := <-first:
			signal.Stop(first)
			n, _ := s.(syscall.Signal)
			end(exitStatus(128 + int(n)))
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(first)
		end(nil)
	}
}

// usageError is wrong usage that only a command can tell.
type usageError struct{ error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitStatus ends the program with that status and no further word.
type exitStatus int

func (exitStatus) Error() string { return "exit" }

func rootCommand(running *bool) *cobra.Command {
	root := &cobra.Command{
		Use:   "stsbroker",
		Short: "AWS session credentials, always fresh, for every program on this machine",
		Long: `stsbroker is what ssh-agent is for SSH keys, for AWS: it holds long-term
credentials, mints session credentials from them with STS, renews those ahead of
expiry, and serves them on the endpoint that every AWS SDK already knows.

Start with:  stsbroker demo                     the whole thing, with no AWS account
             stsbroker serve                    your own profiles, from ~/.aws
             eval "$(stsbroker env PROFILE)"    in another shell`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
		PersistentPreRun:  func(*cobra.Command, []string) { *running = true },
	}
	var g globals
	flags := root.PersistentFlags()
	flags.StringVar(&g.config, "config", "", "configuration `file` (default $STSBROKER_CONFIG, else stsbroker.yaml in the user's configuration folder)")
	flags.StringVar(&g.socket, "socket", "", "control socket `path` of the broker to talk to")
	root.AddCommand(
		serveCommand(&g), execCommand(&g), envCommand(&g), credentialProcessCommand(&g), statusCommand(&g), loginCommand(&g), logoutCommand(&g), refreshCommand(&g),
		lockCommand(&g), unlockCommand(&g), reloadCommand(&g), readyCommand(&g), serviceCommand(&g), doctorCommand(&g), manCommand(),
		whoamiCommand(&g), consoleCommand(&g), decodeCommand(&g), identityTokenCommand(&g), keysCommand(&g), tokenCommand(&g), checkCommand(&g), demoCommand(), versionCommand(),
	)
	return root
}

// globals are the flags that every command has.
type globals struct {
	config string
	socket string
	imds   string // of exec: the profile that an embedded broker opens an IMDS door for
}

// buildVersion is the release's version, else the module's, else the commit's.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "commit " + s.Value[:12]
		}
	}
	return "unreleased"
}
