package repotest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// unitFindings returns the lines of systemd-analyze's stderr that are about
// units of ours. It warns of unknown keys with status 0, so the text decides.
func unitFindings(stderr string) (findings []string) {
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "/lib/systemd/") || strings.HasPrefix(line, "/usr/lib/systemd/") {
			continue
		}
		findings = append(findings, line)
	}
	return findings
}

// TestSystemdAcceptsTheUserUnit lets systemd read the unit as a user manager
// would, with the program it starts in place.
func TestSystemdAcceptsTheUserUnit(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("not run: systemd-analyze is missing (apt-get install systemd)")
	}
	home := t.TempDir()
	program := filepath.Join(home, ".local", "bin", "stsbroker")
	if err := os.MkdirAll(filepath.Dir(program), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700); err != nil { //nolint:gosec // a program has to be executable
		t.Fatal(err)
	}
	verify := func(text []byte) []string {
		unit := filepath.Join(t.TempDir(), "stsbroker.service")
		if err := os.WriteFile(unit, text, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(analyze, "verify", "--user", "--man=no", "--recursive-errors=one", unit)
		cmd.Env = append(os.Environ(), "HOME="+home, "XDG_RUNTIME_DIR="+home, "SYSTEMD_LOG_LEVEL=warning", "SYSTEMD_LOG_COLOR=0")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		findings := unitFindings(stderr.String())
		if err != nil && len(findings) == 0 {
			t.Fatalf("systemd-analyze: %v\n%s", err, stderr.Bytes())
		}
		return findings
	}
	text, err := os.ReadFile(root + "/deploy/systemd/user/stsbroker.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range verify(text) {
		t.Error(f)
	}
	// The same way finds a misspelt key: the silence above means something.
	if bad := bytes.Replace(text, []byte("NoNewPrivileges="), []byte("NoNewPriviledges="), 1); len(verify(bad)) == 0 {
		t.Error("systemd-analyze accepts a misspelt key, so this test proves nothing")
	}
}

// TestUserUnitKeepsPeersKnown holds what an analysis cannot know: with a user
// namespace of its own the broker would see every other user as 65534.
func TestUserUnitKeepsPeersKnown(t *testing.T) {
	text, err := os.ReadFile(root + "/deploy/systemd/user/stsbroker.service")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if key == "PrivateUsers" && value != "no" {
			t.Errorf("%s: peer identity needs the host's user namespace", strings.TrimSpace(line))
		}
	}
	for _, want := range []string{"\nMemorySwapMax=0\n", "\nLimitCORE=0\n", "\nNoNewPrivileges=yes\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s", strings.TrimSpace(want))
		}
	}
}
