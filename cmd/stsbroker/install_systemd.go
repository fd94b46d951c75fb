package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stsbroker/stsbroker/deploy"
)

const (
	unitService = "stsbroker.service"
	unitSocket  = "stsbroker.socket"
)

// unitFolders are where systemd looks for units.
type unitFolders struct {
	own      string // what install writes
	packaged string // what a package brought
	users    string // of sysusers.d; "" for a user's service
	config   string // made where it is missing; "" for a user's service
}

func systemdFolders(p place) unitFolders {
	if p.system {
		return unitFolders{own: "/etc/systemd/system", packaged: "/usr/lib/systemd/system", users: "/etc/sysusers.d", config: "/etc/stsbroker"}
	}
	configs, _ := p.folders()
	return unitFolders{own: filepath.Join(configs, "systemd", "user"), packaged: "/usr/lib/systemd/user"}
}

// systemdKit is the service under this user's systemd, or under the machine's. Where a
// package brought the units, they are enabled as they are.
func systemdKit(p place, folders unitFolders) (k kit) {
	ctl := []string{"systemctl", "--user"}
	service, socket := deploy.UserService, deploy.UserSocket
	if p.system {
		ctl = ctl[:1]
		service, socket = deploy.SystemService, deploy.SystemSocket
	}
	call := func(args ...string) []string { return append(ctl[:len(ctl):len(ctl)], args...) }
	unit := func(name, text string) serviceFile {
		return serviceFile{path: filepath.Join(folders.own, name), text: text, comment: "#"}
	}
	own := []serviceFile{unit(unitSocket, socket), unit(unitService, service)}
	_, err := os.Stat(filepath.Join(folders.packaged, unitService))
	k.packaged = err == nil && !slices.ContainsFunc(own, func(f serviceFile) bool { // what install wrote comes before a package's, for systemd too
		there, _ := f.find()
		return there != foundNone && there != foundOther
	})
	k.shadows = err == nil && !k.packaged
	k.listens = unitListens(socket, filepath.Join(folders.own, unitSocket+".d"))
	if !k.packaged {
		k.files = own
		if p.system {
			users := serviceFile{path: filepath.Join(folders.users, "stsbroker.conf"), text: deploy.SystemUser, comment: "#"}
			k.files, k.folder = append(k.files, users), folders.config
			k.start = append(k.start, []string{"systemd-sysusers", users.path})
		}
	}
	k.start = append(k.start, call("daemon-reload"))
	k.restart = append(k.start[:len(k.start):len(k.start)], call("enable", unitSocket, unitService), call("restart", unitSocket, unitService))
	k.start = append(k.start, call("enable", "--now", unitSocket, unitService))
	k.stop = [][]string{call("disable", "--now", unitService, unitSocket), call("clean", "--what=runtime", unitService)}
	k.forget = [][]string{call("daemon-reload")}
	k.available = func(ctx context.Context) error { return systemdAvailable(ctx, p, call("show", "--property=Version")) }
	k.state = func(ctx context.Context) (serviceState, error) {
		out, err := manage(ctx, nil, call("show", "--property=LoadState,ActiveState,SubState,StatusText,Result,MainPID,UnitFileState,ActiveEnterTimestamp,NRestarts", unitService, unitSocket))
		if err != nil {
			return serviceState{}, err
		}
		return systemdState(out, p.system, lingers(p.system)), nil
	}
	if !p.system && !lingers(false) {
		k.hint = "it ends when you log out; to keep it running: loginctl enable-linger"
	}
	if p.system {
		k.keeps = []string{folders.config, filepath.Join(credentialStore, systemdIdentity), "the user stsbroker", "/var/log/stsbroker"}
		k.hint = "its configuration is /etc/stsbroker/stsbroker.yaml; after a change: systemctl reload stsbroker"
	}
	return k
}

// unitListens are the addresses of ports in a socket unit and its drop-ins: an empty
// ListenStream= takes those before away, as systemd.socket has it.
func unitListens(text, dropIns string) (addresses []string) {
	more, _ := filepath.Glob(filepath.Join(dropIns, "*.conf")) // the pattern is good; the order is systemd's
	for _, path := range more {
		b, _ := os.ReadFile(path) // one that cannot be read says nothing
		text += "\n" + string(b)
	}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch value = strings.TrimSpace(value); {
		case strings.TrimSpace(key) != "ListenStream":
		case value == "":
			addresses = nil
		default:
			if _, err := netip.ParseAddrPort(value); err == nil {
				addresses = append(addresses, value)
			}
		}
	}
	return addresses
}

// fill puts the program's path, and that of a configuration file, into the files.
func (k *kit) fill(program, config string) error {
	if k.packaged && config != "" {
		return usage("--config: the units are a package's, which install leaves as they are: put the file where the service looks for it, or after systemctl edit stsbroker (--user for your own) "+
			"under [Service]: ExecStart= and, on the next line, what systemctl cat has there with --config %s before serve", unitWord(config))
	}
	for i := range k.files {
		f := &k.files[i]
		if f.comment != "#" {
			if config != "" {
				return usage("--config: put the file where the service looks for it, or make that a link to it")
			}
			f.text = strings.ReplaceAll(f.text, deploy.Program, xmlText(program))
			continue
		}
		word := unitWord(program)
		if config != "" {
			if err := judgeUnitWord(config); err != nil {
				return err
			}
			f.text = strings.Replace(f.text, "\nExecStart="+deploy.Program+" ", "\nExecStart="+deploy.Program+" --config "+unitWord(config)+" ", 1)
		}
		for _, key := range []string{"ExecStart=", "ExecReload="} {
			f.text = strings.Replace(f.text, "\n"+key+deploy.Program+" ", "\n"+key+word+" ", 1)
		}
	}
	return nil
}

// unitWord is a path that judgeProgram takes as one word of a unit's command line.
func unitWord(path string) string {
	if strings.Contains(path, " ") {
		return `"` + path + `"`
	}
	return path
}

// judgeUnitWord refuses what systemd would take for something else in a command line.
func judgeUnitWord(path string) error {
	if strings.ContainsAny(path, "\"'\\$%\n\r\t") {
		return fmt.Errorf("--config: %s has a character that systemd takes for something else", oneLine(path))
	}
	return nil
}

// systemdAvailable says what to do where systemctl cannot talk to a manager.
func systemdAvailable(ctx context.Context, p place, try []string) error {
	if _, err := exec.LookPath(try[0]); err != nil {
		return errors.New("there is no systemctl here, so no systemd (a container, another init): have stsbroker serve started by what starts things here")
	}
	_, err := manage(ctx, nil, try)
	if err == nil {
		return nil
	}
	if p.system {
		return fmt.Errorf("this machine does not run systemd, or not for this shell (a container, WSL without systemd=true in /etc/wsl.conf): %w", err)
	}
	why := "no systemd runs for this user here (su and sudo start none; nor does WSL without systemd=true in /etc/wsl.conf, or a container): " +
		"log in as this user, by ssh or at the console"
	if os.Getenv("XDG_RUNTIME_DIR") == "" {
		why += fmt.Sprintf("; or as root: loginctl enable-linger %s, and here: export XDG_RUNTIME_DIR=/run/user/%d", userName(), os.Getuid())
	}
	return fmt.Errorf("%s (%w)", why, err)
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprint(os.Getuid())
}

// lingers reports whether this user's systemd runs on after the logout.
func lingers(system bool) bool {
	_, err := os.Stat("/var/lib/systemd/linger/" + userName())
	return system || err == nil
}

// systemdState reads what "systemctl show" prints of the service and the sockets.
func systemdState(out string, system, lingers bool) serviceState {
	service, socket, _ := strings.Cut(out, "\n\n")
	s, l := properties(service), properties(socket)
	state := serviceState{
		installed: s["LoadState"] == "loaded",
		running:   s["ActiveState"] == "active" || s["ActiveState"] == "reloading",
	}
	state.open = state.running || s["ActiveState"] == "activating" || l["ActiveState"] == "active"
	state.enabled = s["UnitFileState"] == "enabled" || l["UnitFileState"] == "enabled"
	words := s["ActiveState"]
	switch {
	case state.running:
		words = "running, process " + s["MainPID"] + ", since " + s["ActiveEnterTimestamp"]
	case s["ActiveState"] == "activating" && s["SubState"] == "auto-restart":
		words = "fails (" + s["Result"] + ", " + s["NRestarts"] + " times) and is started again; see why: " + journal(system)
	case s["ActiveState"] == "activating":
		words = "starting"
	case s["ActiveState"] == "failed":
		words = "failed (" + s["Result"] + "); see why: " + journal(system)
	case s["ActiveState"] == "inactive" && l["ActiveState"] == "active":
		words = "stopped; the next connection starts it"
	case s["ActiveState"] == "inactive":
		words = "stopped"
	}
	sockets := "closed"
	if l["ActiveState"] == "active" {
		sockets = "open, held by systemd"
	}
	starts := "never by itself"
	switch {
	case !state.enabled:
	case system:
		starts = "at boot"
	case lingers:
		starts = "at boot, and stays when you log out"
	default:
		starts = "when you log in, and ends when you log out"
	}
	state.rows = [][]string{{"service", words}}
	if text := s["StatusText"]; text != "" {
		state.rows = append(state.rows, []string{"says", oneLine(text)})
	}
	state.rows = append(state.rows, []string{"sockets", sockets}, []string{"starts", starts})
	return state
}

func journal(system bool) string {
	if system {
		return "journalctl -u stsbroker -e"
	}
	return "journalctl --user -u stsbroker -e"
}

func properties(text string) map[string]string {
	p := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			p[k] = v
		}
	}
	return p
}
