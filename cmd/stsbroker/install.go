package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/seal"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// The service of systemd or launchd. Everything that is done is planned first, shown,
// and asked for: files with their text, and commands as they could be typed.

func serviceCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "service",
		Short: "have the broker started by systemd or launchd",
		Long: `service has the broker started for you: by your own systemd (Linux) or launchd
(macOS), or with --system, as root, by the machine's systemd for all its users.
It shows what it will write and run, and asks.`,
	}
	var o installOptions
	add := func(use, short string, run func(context.Context, *globals, installOptions) error) *cobra.Command {
		sub := &cobra.Command{
			Use: use, Short: short, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), g, o) },
		}
		sub.Flags().BoolVar(&o.system, "system", false, "the machine's service, not this user's (Linux, root)")
		c.AddCommand(sub)
		return sub
	}
	install := add("install", "write the service's files, enable it and start it", installService)
	install.Flags().BoolVar(&o.identity, "identity-credential", false, "with --system: make the identity that opens sealed state, sealed by systemd-creds for this machine, unless there is one")
	for _, sub := range []*cobra.Command{
		install,
		add("uninstall", "stop the service and remove what install wrote; keys, leases and configuration stay", uninstallService),
	} {
		sub.Flags().BoolVar(&o.yes, "yes", false, "do not ask")
		sub.Flags().BoolVar(&o.dry, "dry-run", false, "print what would be done, and do nothing")
		sub.Flags().BoolVar(&o.force, "force", false, "replace or remove files that are not install's, or were edited")
	}
	add("status", "say whether the service is installed and runs (exit status 1: it does not)", serviceStatus)
	return c
}

type installOptions struct{ system, yes, dry, force, identity bool }

// may refuses what only root can do, before anybody is asked.
func (o installOptions) may() error {
	if o.system && !o.dry && os.Geteuid() != 0 {
		return errors.New("the machine's service is root's: run it with sudo, or without --system for a service of your own")
	}
	return nil
}

// kit is what a service manager needs to know of the broker. It is data, so that what
// install shows is what it does.
type kit struct {
	files     []serviceFile
	packaged  bool                        // the units are a package's: there are no files, and nothing of them is changed
	shadows   bool                        // a package's units are there too, and those of files come before them
	listens   []string                    // addresses of ports that the service manager opens
	folder    string                      // that is made where it is missing, and stays; "" for none
	start     [][]string                  // after the files are written for the first time
	restart   [][]string                  // in its place when the service was there before
	stop      [][]string                  // before the files are removed
	forget    [][]string                  // after
	available func(context.Context) error // nil if the manager can be talked to; else what to do
	state     func(context.Context) (serviceState, error)
	keeps     []string // what uninstall leaves, beside the state folder
	hint      string   // what a person may want next; "" for nothing
}

// serviceFile is a file that only its owner may write and everybody may read.
type serviceFile struct {
	path, text    string
	comment, ends string // what a comment begins and ends with
}

// serviceState is what a service manager says of the broker.
type serviceState struct {
	installed, running bool
	open               bool       // it runs, or the service manager holds its sockets
	enabled            bool       // it is started by itself
	rows               [][]string // for a person
}

const marker = "stsbroker service install wrote this: "

// signed is the file's text with a last line by which install knows it again, as long
// as nobody edits it.
func (f serviceFile) signed() []byte {
	return fmt.Appendf(nil, "%s%s %s%s%s\n", f.text, f.comment, marker, digest(f.text), f.ends)
}

func digest(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text)))[:16] }

// found is whose the file on disk is.
type found int

const (
	foundNone   found = iota
	foundSame         // what install would write
	foundOurs         // what install wrote, of another version or for another path
	foundEdited       // what install wrote, and somebody changed
	foundOther        // somebody else's
)

func (f serviceFile) find() (found, error) {
	b, err := os.ReadFile(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return foundNone, nil
	case err != nil:
		return foundOther, err
	}
	return f.judge(b), nil
}

func (f serviceFile) judge(b []byte) found {
	if bytes.Equal(b, f.signed()) {
		return foundSame
	}
	at := bytes.LastIndex(b, []byte(f.comment+" "+marker))
	if at < 0 {
		return foundOther
	}
	f.text = string(b[:at])
	if bytes.Equal(b, f.signed()) {
		return foundOurs
	}
	return foundEdited
}

// write puts the file there, whole.
func (f serviceFile) write() error {
	folder := filepath.Dir(f.path)
	if err := os.MkdirAll(folder, 0o755); err != nil { //nolint:gosec // a service manager of root's may have to read it
		return err
	}
	if err := securefile.CheckFolders(folder); err != nil { // who can change what is started is who it runs as
		return err
	}
	tmp, err := os.CreateTemp(folder, ".stsbroker-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(f.signed())
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), f.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// findKit is the kit for this system, whose program is the one that runs.
func findKit(g *globals, o installOptions) (kit, place, error) {
	p, err := findPlace(g, o.system)
	if err != nil {
		return kit{}, p, err
	}
	if g.socket != "" {
		return kit{}, p, usage("--socket: a service's control socket is %s", p.control)
	}
	switch {
	case runtime.GOOS == "linux":
		return systemdKit(p, systemdFolders(p)), p, nil
	case runtime.GOOS == "darwin":
		return launchdKit(p.home, os.Getuid()), p, nil
	}
	return kit{}, p, errors.New("there is a service for systemd (Linux) and launchd (macOS) alone; have stsbroker serve started by other means")
}

// program is the path that the service starts: this very program's, where nobody else
// can put another.
func program() (string, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return "", fmt.Errorf("the path of this program is not known: %w", err)
	}
	return self, judgeProgram(self)
}

func judgeProgram(path string) error {
	if strings.Contains(filepath.ToSlash(path), "/go-build") {
		return fmt.Errorf("%s is gone when go run or go test ends: build it (go install ./cmd/stsbroker), and run that", path)
	}
	if !regexp.MustCompile(`^[A-Za-z0-9/._+@,=:~ -]+$`).MatchString(path) {
		return fmt.Errorf("%s has a character that service managers take for something else; move it, to /usr/local/bin say", oneLine(path))
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := securefile.CheckWriters(path, info); err != nil {
		return fmt.Errorf("the service would start a program that others can replace: %w", err)
	}
	return nil
}

func installService(ctx context.Context, g *globals, o installOptions) error {
	k, p, err := findKit(g, o)
	if err != nil {
		return err
	}
	if err := o.may(); err != nil {
		return err
	}
	self, err := program()
	if err != nil {
		return err
	}
	arguments := ""
	if g.config != "" {
		if arguments, err = filepath.Abs(g.config); err != nil {
			return err
		}
	}
	if err := k.fill(self, arguments); err != nil {
		return err
	}
	return k.install(ctx, p, o)
}

// install carries out what installService found.
func (k kit) install(ctx context.Context, p place, o installOptions) error {
	var acts []act
	var err error
	if o.identity {
		if !o.system {
			return usage("--identity-credential is for --system; for a service of your own, stsbroker unlock makes an identity")
		}
		if acts, err = identityActs(credentialStore); err != nil {
			return err
		}
	}
	if _, err := os.Stat(k.folder); k.folder != "" && errors.Is(err, fs.ErrNotExist) {
		acts = append(acts, act{text: "make the folder " + k.folder, do: func(context.Context) error {
			return os.Mkdir(k.folder, 0o755) //nolint:gosec // the service reads what root puts there
		}})
	}
	before, commands := false, k.start
	for _, f := range k.files {
		there, err := f.find()
		switch {
		case err != nil:
			return err
		case there >= foundEdited && !o.force:
			return fmt.Errorf("%s is there and is not as service install would have left it: put changes into a drop-in (systemctl edit) and move it away, or have it replaced with --force", f.path)
		case there == foundNone:
			acts = append(acts, act{file: &f, text: "write " + f.path})
			continue
		case there != foundSame:
			acts = append(acts, act{file: &f, text: "replace " + f.path})
		}
		before = true
	}
	if !o.dry {
		if err := k.available(ctx); err != nil {
			return err
		}
	}
	if k.packaged || !o.dry {
		s, err := k.state(ctx)
		if err != nil && !o.dry { // a plan is shown where nobody can be asked, too
			return err
		}
		before = before && !k.packaged || s.open
	}
	if before {
		commands = k.restart
	}
	for _, c := range commands {
		acts = append(acts, runs(c))
	}
	if !o.dry {
		if !before && answers(ctx, p.control) {
			return fmt.Errorf("a broker serves %s already, by hand it seems: end it (Ctrl-C where it runs), then run this again", p.control)
		}
		if !before {
			if err := portsFree(takenPorts(ctx, k.listens), o.system, listens(ctx, systemControl)); err != nil {
				return err
			}
		}
	}
	if done, err := perform(ctx, o, acts); !done {
		if half := (unfinished{}); errors.As(err, &half) && !before {
			err = errors.Join(err, k.takeBack(ctx, acts[:half.done]))
		}
		return err
	}
	if set := p.changed(); len(set) > 0 {
		remark("this shell has %s set, and the service does not: what it needs goes into stsbroker.yaml, or on Linux after systemctl --user edit stsbroker under [Service], Environment=NAME=VALUE", strings.Join(set, ", "))
	}
	if err := printState(ctx, k); err != nil {
		return err
	}
	if k.hint != "" {
		remark("%s", k.hint)
	}
	return nil
}

// portsFree refuses to enable what cannot listen: taken are who has its ports. system is
// for --system, and there reports whether the system's service has its sockets.
func portsFree(taken []portSeen, system, there bool) error {
	if len(taken) == 0 {
		return nil
	}
	who, ctl, sockets := by(taken[0].Holder), "systemctl --user", "%t"
	switch {
	case system:
		ctl, sockets = "systemctl", "/run"
		if taken[0].Broker {
			who = ": it is a broker, of some user's service perhaps"
		}
	case there && (taken[0].Holder == "a process of uid 0" || strings.HasPrefix(taken[0].Holder, "process 1 ")):
		who = ": it is the system's service (stsbroker service status --system)"
	}
	return fmt.Errorf("%s is taken%s. One user's service and the system's want the same port: use the one that is there, or move this one. That is listen.container in stsbroker.yaml, "+
		"and %s edit --force stsbroker.socket, under [Socket] an empty ListenStream=, and then one for each: the new address, %s/stsbroker/control.sock, %s/stsbroker/creds.sock. Then run this again", taken[0].Address, who, ctl, sockets, sockets)
}

// takeBack undoes what was done of a plan that failed: nothing stays enabled, and no file
// that was not there before.
func (k kit) takeBack(ctx context.Context, done []act) error {
	ctx = context.WithoutCancel(ctx)
	for _, c := range k.stop {
		_, _ = manage(ctx, nil, c) // what was not enabled yet cannot be disabled
	}
	var errs []error
	for _, a := range done {
		if a.file != nil && strings.HasPrefix(a.text, "write ") {
			errs = append(errs, os.Remove(a.file.path))
		}
	}
	for _, c := range k.forget {
		_, err := manage(ctx, nil, c)
		errs = append(errs, err)
	}
	remark("what was done is undone: nothing is enabled, and the files that were written are removed")
	return errors.Join(errs...)
}

// unfinished is the error of a plan of which the first acts were done.
type unfinished struct {
	error
	done int
}

func (u unfinished) Unwrap() error { return u.error }

func uninstallService(ctx context.Context, g *globals, o installOptions) error {
	k, p, err := findKit(g, o)
	if err != nil {
		return err
	}
	if err := o.may(); err != nil {
		return err
	}
	return k.uninstall(ctx, p, o)
}

// uninstall carries out what uninstallService found.
func (k kit) uninstall(ctx context.Context, p place, o installOptions) error {
	var acts []act
	for _, c := range k.stop {
		acts = append(acts, runs(c))
	}
	removed := 0
	for _, f := range k.files {
		there, err := f.find()
		switch {
		case err != nil:
			return err
		case there == foundNone:
			continue
		case there >= foundEdited && !o.force:
			return fmt.Errorf("%s is not as service install left it: remove it yourself, or with --force", f.path)
		}
		removed++
		acts = append(acts, act{file: &f, remove: true, text: "remove " + f.path})
	}
	for _, c := range k.forget {
		acts = append(acts, runs(c))
	}
	if removed == 0 && !k.packaged {
		remark("nothing is installed that service install wrote")
		return nil
	}
	if !o.dry || k.packaged {
		if err := k.available(ctx); err != nil {
			return err
		}
	}
	if k.packaged {
		switch s, err := k.state(ctx); {
		case err != nil:
			return err
		case !s.open && !s.enabled:
			remark("nothing was enabled: the units are a package's, and go with it")
			return nil
		}
	}
	if done, err := perform(ctx, o, acts); !done {
		return err
	}
	gone := "the service is gone"
	if k.packaged {
		gone = "the service is stopped and disabled; its units are a package's, and go with that"
		if s, err := k.state(ctx); err != nil || s.enabled { // root may have enabled them for everybody
			return cmp.Or(err, errors.New("the service is stopped, and is enabled still, as root may have done for all users: sudo systemctl --global disable stsbroker.service stsbroker.socket"))
		}
	}
	if k.shadows {
		gone += ", and a package's units are in its place, not started: the service is theirs from now on"
	}
	kept := slices.DeleteFunc(append(slices.Clone(k.keeps), p.state), func(path string) bool {
		if name, ok := strings.CutPrefix(path, "the user "); ok {
			_, err := user.Lookup(name)
			return err != nil
		}
		_, err := os.Lstat(path)
		return errors.Is(err, fs.ErrNotExist)
	})
	if len(kept) == 0 {
		remark("%s; it kept nothing", gone)
		return nil
	}
	remark("%s; what it kept stays: %s. Remove it yourself", gone, strings.Join(kept, ", "))
	return nil
}

func serviceStatus(ctx context.Context, g *globals, o installOptions) error {
	k, _, err := findKit(g, o)
	if err != nil {
		return err
	}
	err = printState(ctx, k)
	if err != nil && !o.system && runtime.GOOS == "linux" {
		err = besideSystem(err, systemControl, listens(ctx, systemControl))
	}
	return err
}

// besideSystem adds to what is wrong with a user's service that there is the system's.
func besideSystem(err error, socket string, there bool) error {
	const see = "the system's service has %s: stsbroker service status --system"
	switch {
	case !there:
		return err
	case errors.As(err, new(exitStatus)): // the rows say what is wrong
		remark(see, socket)
		return err
	}
	return fmt.Errorf("%w; "+see, err, socket)
}

// printState says how the service stands; that it does not run is an error.
func printState(ctx context.Context, k kit) error {
	if err := k.available(ctx); err != nil {
		return err
	}
	s, err := k.state(ctx)
	switch {
	case err != nil:
		return err
	case !s.installed:
		return errors.New("stsbroker is not installed as a service here; run stsbroker service install")
	}
	table(os.Stdout, s.rows)
	if !s.running {
		return exitStatus(1) // the rows say why
	}
	return nil
}

// act is one thing of a plan.
type act struct {
	text   string // what it is, for a person
	file   *serviceFile
	remove bool
	do     func(context.Context) error // what is not about a file
}

// runs is the act of running a command.
func runs(command []string) act {
	return act{text: "run " + shell(command), do: func(ctx context.Context) error {
		_, err := manage(ctx, nil, command)
		return err
	}}
}

// credentialStore is where systemd looks for the unit's LoadCredentialEncrypted=.
const credentialStore = "/etc/credstore.encrypted"

// identityActs make the identity that seals state, in the store: nobody ever has it on a
// disk in the clear. One that is there is never replaced, since nothing else opens what
// it sealed.
func identityActs(store string) ([]act, error) {
	path := filepath.Join(store, systemdIdentity)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	seals := []string{"systemd-creds", "encrypt", "--name=" + systemdIdentity, "-", path}
	return []act{{text: "make an identity, and give it to: " + shell(seals), do: func(ctx context.Context) error {
		if err := os.MkdirAll(store, 0o700); err != nil {
			return err
		}
		identity, err := seal.MakeIdentity()
		if err != nil {
			return err
		}
		_, err = manage(ctx, identity, seals)
		return err
	}}}, nil
}

// perform shows the plan, asks, and carries it out. done is false if it was not.
func perform(ctx context.Context, o installOptions, acts []act) (done bool, err error) {
	w := io.Writer(os.Stderr)
	if o.dry {
		w = os.Stdout
	}
	for _, a := range acts {
		fmt.Fprintln(w, oneLine(a.text))
		if a.file != nil && !a.remove {
			for line := range strings.Lines(string(a.file.signed())) {
				fmt.Fprint(w, strings.TrimRight("    "+line, " \n")+"\n")
			}
		}
	}
	if o.dry {
		return false, nil
	}
	if !o.yes {
		if !isTerminal(os.Stdin) {
			return false, errors.New("nothing was done: nobody is here to be asked; --yes does it")
		}
		yes, err := confirm(ctx, "do all this?")
		if err != nil || !yes {
			return false, cmp.Or(err, errors.New("nothing was done"))
		}
	}
	for i, a := range acts {
		switch {
		case a.file != nil && a.remove:
			err = os.Remove(a.file.path)
		case a.file != nil:
			err = a.file.write()
		default:
			err = a.do(ctx)
		}
		if err != nil {
			return false, unfinished{fmt.Errorf("%s: %w", a.text, err), i}
		}
	}
	return true, nil
}

// manage runs a command of a service manager, with input if that is not nil, and returns
// its stdout. What it says on stderr is the error.
func manage(ctx context.Context, input []byte, args []string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // from a kit's table
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if input != nil {
		cmd.Stdin = bytes.NewReader(input)
	}
	if err := cmd.Run(); err != nil {
		if said := strings.TrimSpace(stderr.String()); said != "" {
			err = fmt.Errorf("%w: %s", err, oneLine(said))
		}
		return stdout.String(), err
	}
	return stdout.String(), nil
}

// shell is a command as it would be typed.
func shell(args []string) string {
	quoted := slices.Clone(args)
	for i, a := range quoted {
		if !regexp.MustCompile(`^[A-Za-z0-9/._+@,=:-]+$`).MatchString(a) {
			quoted[i] = shQuote(a)
		}
	}
	return strings.Join(quoted, " ")
}

// answers reports whether a broker answers at the control socket.
func answers(ctx context.Context, path string) bool {
	_, err := control.Dial(ctx, path)
	return err == nil
}

// listens reports whether there is somebody at a Unix socket, be it without an answer.
func listens(ctx context.Context, path string) bool {
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		err = conn.Close()
	}
	return err == nil
}
