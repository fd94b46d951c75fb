// Package packages tries the scripts that run when a package is installed, upgraded and
// removed. There is no program in it.
package packages

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// run runs a script of this folder with commands in the place of others, and returns
// what it prints.
func run(t *testing.T, commands map[string]string, env, script string, args ...string) (out string, err error) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("not run: the scripts of packages are Linux's")
	}
	dir := t.TempDir()
	for name, text := range commands {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil { //nolint:gosec // it has to be executable
			t.Fatal(err)
		}
	}
	c := exec.CommandContext(t.Context(), "./"+script, args...) //nolint:gosec // from the tests below
	c.Env = []string{"PATH=" + dir + ":/usr/bin:/bin", env}
	b, err := c.CombinedOutput()
	return string(b), err
}

// A package whose units systemctl does not take for its own can be removed.
func TestRemovalGoesOn(t *testing.T) {
	for _, arg := range []string{"remove", "0"} {
		if out, err := run(t, map[string]string{"systemctl": "echo no: $* >&2; exit 1"}, "", "prerm.sh", arg); err != nil || !strings.Contains(out, "no: --quiet --global disable stsbroker.service stsbroker.socket\n") {
			t.Errorf("%s: %v\n%s", arg, err, out)
		}
	}
	if out, err := run(t, map[string]string{"systemctl": "echo no"}, "", "prerm.sh", "upgrade", "2.0.0"); err != nil || out != "" {
		t.Errorf("an upgrade stops something: %v\n%s", err, out)
	}
}

// A unit that service install wrote comes before the package's, which is told.
func TestShadowedUnitsAreTold(t *testing.T) {
	root := t.TempDir()
	for _, there := range []bool{false, true} {
		if there {
			unit := filepath.Join(root, "etc/systemd/system/stsbroker.service")
			if err := os.MkdirAll(filepath.Dir(unit), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(unit, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		none := map[string]string{"systemctl": "exit 0", "systemd-sysusers": "exit 0"}
		out, err := run(t, none, "DPKG_ROOT="+root, "postinst.sh", "configure", "1.0.0")
		if err != nil || strings.Contains(out, "/etc/systemd/system/stsbroker.service comes before the unit of this package") != there {
			t.Errorf("there: %v, %v\n%s", there, err, out)
		}
	}
}

// What was not looked up is not said to be clean: the last line says so, and with
// STRICT=1 the status does.
func TestVulncheckClaimsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		govulncheck, env, last string
		fails                  bool
	}{
		"no answer":         {"echo cannot reach it; echo; exit 1", "", "vulncheck: not run: cannot reach it", false},
		"no answer, strict": {"echo cannot reach it; exit 1", "STRICT=1", "vulncheck: not run: cannot reach it", true},
		"no word":           {"exit 1", "", "vulncheck: not run: govulncheck says nothing", false},
		"an empty database": {"echo {}", "", "vulncheck: not run: https://db knows nothing of GO-2021-0113, so it is not Go's database, or empty", false},
		"empty, strict":     {"echo {}", "STRICT=1", "vulncheck: not run: https://db knows nothing of GO-2021-0113, so it is not Go's database, or empty", true},
		"it knows":          {"echo GO-2021-0113", "STRICT=1", "GO-2021-0113", false},
		"something found":   {`case "$*" in *query*) echo GO-2021-0113 ;; *) echo found; exit 3 ;; esac`, "", "found", true},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := run(t, map[string]string{"govulncheck": c.govulncheck}, c.env, "vulncheck.sh", "govulncheck", "https://db")
			lines := strings.Split(strings.TrimSpace(out), "\n")
			if got := lines[len(lines)-1]; got != c.last || (err != nil) != c.fails {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
