package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/observe"
	"github.com/stsbroker/stsbroker/broker/vault"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

func serveCommand(g *globals) *cobra.Command {
	var system bool
	var level string
	c := &cobra.Command{
		Use:   "serve",
		Short: "run the broker in the foreground",
		Long: `serve runs the broker until it is told to stop (Ctrl-C, SIGTERM). Without a
configuration file it serves every profile of ~/.aws/config and ~/.aws/credentials.

Nothing is minted before somebody asks, except profiles marked prefetch and those
that have an IMDS endpoint.

With an identity (STSBROKER_IDENTITY_FILE, the systemd credential stsbroker-identity,
or one that stsbroker unlock keeps in the OS keyring or behind a passphrase) what is held
rests sealed in the state folder, and a restart mints nothing of it anew. One that a
person has to open leaves custody locked until stsbroker unlock.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), g, system, level) },
	}
	c.Flags().BoolVar(&system, "system", false, "be the system's service: folders under /etc, /run and /var/lib, and nothing from the environment")
	c.Flags().StringVar(&level, "log-level", "info", "the least that is logged: debug, info, warn or error")
	return c
}

func serve(ctx context.Context, g *globals, system bool, level string) error {
	noCore()
	ownerOnly()
	hangups := make(chan os.Signal, 1) // from the first moment on: one that comes early is heard late
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	told := newSupervisor()
	inherited, err := listen.Inherit()
	if err != nil {
		return err
	}
	lvl, err := zapcore.ParseLevel(level)
	if err != nil {
		return usage("--log-level %s: it is debug, info, warn or error", level)
	}
	log := observe.NewLogger(os.Stderr, isTerminal(os.Stderr), lvl)
	p, err := findPlace(g, system)
	if err != nil {
		return err
	}
	a, findings, err := newApp(settings{place: p, log: log, inherited: inherited, supervisor: told})
	if err != nil {
		return cmp.Or(firstError(findings), err)
	}
	return a.daemon(ctx, findings, hangups)
}

// daemon opens every door, says so, and serves until ctx ends.
func (a *app) daemon(ctx context.Context, findings []Finding, hangups <-chan os.Signal) (err error) {
	release, err := a.listenControl()
	if err != nil {
		return errors.Join(err, a.close())
	}
	defer release()
	if err := a.listen(ctx); err != nil {
		return errors.Join(err, a.close())
	}
	for _, address := range a.inherited.Left() {
		a.log.Warn("systemd listens where nothing is served: who connects there waits for ever; name it under listen in stsbroker.yaml, or take it out of the socket unit", zap.String("address", address))
	}
	a.supervise()
	a.greet(findings)
	a.crew.join(a.hear(hangups), nil)
	return a.run(ctx)
}

// hear reads the configuration again at each hangup. A terminal that was closed sends one
// too, and ends the broker that was started there.
func (a *app) hear(hangups <-chan os.Signal) func(context.Context) error {
	onTerminal := isTerminal(os.Stderr)
	return func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-hangups:
			}
			if onTerminal && !isTerminal(os.Stderr) {
				return exitStatus(128 + int(syscall.SIGHUP))
			}
			_, _ = a.reload(ctx) // it logs what is wrong
		}
	}
}

// supervise gives the supervisor what it wants to know.
func (a *app) supervise() {
	s := a.supervisor
	if s == nil {
		return
	}
	s.alive, s.tried = a.broker.Alive, a.broker.Tried
	s.failed = func(err error) { a.log.Error("systemd", zap.Error(err)) }
	s.door = func(ctx context.Context) error {
		now := a.now.Load()
		if len(now.urls) == 0 {
			return nil
		}
		return askDoor(now.urls[0] + a.probe)(ctx)
	}
	s.words = func() string {
		var lame, troubles []string
		for _, h := range a.now.Load().sts.Health() {
			lame = append(lame, h.Region)
		}
		if a.vault.State() == vault.Locked {
			troubles = append(troubles, "custody is locked")
		}
		if a.failure.Load() != nil {
			troubles = append(troubles, "the configuration on disk has a fault, and the one from before is served")
		}
		return standing(a.broker.Status(), lame, troubles...)
	}
}

// looks lets the supervisor look again when something has happened.
type looks struct{ *supervisor }

// Observe implements broker.Observer.
func (l looks) Observe(e broker.Event) {
	if e.Kind != broker.EventServed && e.Kind != broker.EventRefused {
		l.look()
	}
}

// greet tells a person what is served, what is not and why, and what to paste
// next; a log file gets the same as entries.
func (a *app) greet(findings []Finding) {
	now := a.now.Load()
	if !isTerminal(os.Stderr) {
		for _, f := range findings {
			a.log.Warn(f.Text, zap.String("file", f.File), zap.Int("line", f.Line))
		}
		for _, s := range a.broker.Status() {
			if s.State == broker.StateUnservable {
				a.log.Warn("unservable", zap.String("profile", s.Profile), zap.String("reason", s.Reason))
			}
		}
		a.log.Info("serving", zap.Strings("container", now.urls), zap.Strings("imds", now.imdsURLs()), zap.String("control", a.control), zap.Strings("skipped", now.skipped),
			zap.String("version", buildVersion()), zap.Strings("environment", a.changed()))
		return
	}
	w, c := os.Stderr, painter(os.Stderr)
	fmt.Fprintf(w, "%s serves %s\n", c.bold("stsbroker "+buildVersion()), strings.Join(now.urls, " and "))
	for _, l := range now.imds {
		fmt.Fprintf(w, "IMDS of %s at %s\n", oneLine(l.Profile), l.URL)
	}
	for _, s := range now.skipped {
		fmt.Fprintln(w, c.dim("  "+oneLine(s)))
	}
	if changed := a.changed(); len(changed) > 0 {
		fmt.Fprintln(w, c.dim("  as the environment says: "+strings.Join(changed, ", ")))
	}
	var rows, not [][]string
	paste := ""
	for _, s := range a.broker.Status() {
		if s.State == broker.StateUnservable {
			not = append(not, []string{"  " + c.red(oneLine(s.Profile)), shortReason(s.Profile, s.Reason)})
			continue
		}
		if paste == "" || s.Profile == "default" {
			paste = s.Profile
		}
		rows = append(rows, []string{"  " + c.green(oneLine(s.Profile)), s.Action, s.Region, oneLine(s.Origin)})
	}
	table(w, rows)
	if len(not) > 0 {
		fmt.Fprintln(w, "not served:")
		table(w, not)
	}
	for _, f := range findings {
		fmt.Fprintln(w, c.dim(oneLine(f.String())))
	}
	if paste == "" {
		fmt.Fprintln(w, "no profile can be served yet: add one to ~/.aws/config or stsbroker.yaml, and start again. To see it work without an AWS account: stsbroker demo")
		return
	}
	fmt.Fprintf(w, "next, in another shell:  %s\n", c.bold(fmt.Sprintf(`eval "$(%s env %s)"`, ownName(), shQuote(paste))))
}

func (s *setup) imdsURLs() (urls []string) {
	for _, l := range s.imds {
		urls = append(urls, l.URL)
	}
	return urls
}

// ownName is how a person can call this program: by its name if the PATH finds
// it, else by its path.
func ownName() string {
	self, err := os.Executable()
	if err != nil {
		return "stsbroker"
	}
	if found, err := exec.LookPath(filepath.Base(self)); err == nil {
		if a, err := os.Stat(found); err == nil {
			if b, err := os.Stat(self); err == nil && os.SameFile(a, b) {
				return filepath.Base(self)
			}
		}
	}
	return shQuote(self)
}
