package deploy_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stsbroker/stsbroker/deploy"
)

// analyze is systemd-analyze. CI has it.
func analyze(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("not run, and CI requires it: systemd-analyze is missing (apt-get install systemd)")
		}
		t.Skip("not run: systemd-analyze is missing (apt-get install systemd)")
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// lay writes files, name and text in turn, into a folder of their own.
func lay(t *testing.T, files ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// score is what "systemd-analyze security" comes to: 0 is best, 10 worst.
func score(t *testing.T, files ...string) float64 {
	t.Helper()
	cmd := exec.Command(analyze(t), "security", "--no-pager", "--offline=true", filepath.Join(lay(t, files...), "stsbroker.service"))
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_COLORS=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	m := regexp.MustCompile(`Overall exposure level for stsbroker\.service: ([0-9.]+)`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("systemd-analyze: %v\n%s%s", err, out, stderr.Bytes())
	}
	level, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return level
}

// TestScores holds how little the system service can do, by systemd's own count. The
// user's is printed alone: what its systemd cannot enforce counts against it.
func TestScores(t *testing.T) {
	version, err := exec.Command(analyze(t), "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(version), "\n")
	nopeer := read(t, "systemd/system/stsbroker-nopeer.conf")
	for _, tc := range []struct {
		name  string
		most  float64
		files []string
	}{
		{"system service", 1.3, []string{"stsbroker.service", deploy.SystemService}},
		{"system service, peers not known", 1.0, []string{"stsbroker.service", deploy.SystemService, "stsbroker.service.d/nopeer.conf", nopeer}},
		{"user service", 10, []string{"stsbroker.service", deploy.UserService}},
	} {
		got := score(t, tc.files...)
		t.Logf("%s: %.1f (at most %.1f) by %s", tc.name, got, tc.most, first)
		if got > tc.most {
			t.Errorf("%s: exposure %.1f, more than %.1f", tc.name, got, tc.most)
		}
	}
	if worse := strings.Replace(deploy.SystemService, "ProtectSystem=strict", "ProtectSystem=no", 1); score(t, "stsbroker.service", worse) <= 1.3 {
		t.Error("a worse unit has as good a score, so this test proves nothing")
	}
}

// findings returns the lines of systemd-analyze's stderr that are about units of ours.
// It warns of unknown keys with status 0, so the text decides.
func findings(stderr string) (lines []string) {
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "/lib/systemd/") || strings.HasPrefix(line, "/usr/lib/systemd/") {
			continue
		}
		lines = append(lines, line)
	}
	return lines
}

// TestSystemdAcceptsTheUnits lets systemd read the units as the manager would, with a
// program in place of the one they start.
func TestSystemdAcceptsTheUnits(t *testing.T) {
	verify := func(manager, service, socket string) []string {
		service = strings.ReplaceAll(service, deploy.Program, "/bin/sh")
		dir := lay(t, "stsbroker.service", service, "stsbroker.socket", socket)
		cmd := exec.Command(analyze(t), "verify", manager, "--man=no", "--recursive-errors=one", filepath.Join(dir, "stsbroker.service"), filepath.Join(dir, "stsbroker.socket"))
		cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_RUNTIME_DIR="+dir, "SYSTEMD_LOG_LEVEL=warning", "SYSTEMD_LOG_COLOR=0")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		lines := findings(stderr.String())
		if err != nil && len(lines) == 0 {
			t.Fatalf("systemd-analyze: %v\n%s", err, stderr.Bytes())
		}
		return lines
	}
	for _, u := range []struct{ manager, service, socket string }{
		{"--user", deploy.UserService, deploy.UserSocket},
		{"--system", deploy.SystemService, deploy.SystemSocket},
	} {
		for _, line := range verify(u.manager, u.service, u.socket) {
			t.Errorf("%s: %s", u.manager, line)
		}
		// The same way finds a misspelt key in either: the silence above means something.
		if len(verify(u.manager, strings.Replace(u.service, "NoNewPrivileges=", "NoNewPriviledges=", 1), u.socket)) == 0 {
			t.Errorf("%s: systemd-analyze accepts a misspelt key of the service, so this test proves nothing", u.manager)
		}
		if len(verify(u.manager, u.service, strings.Replace(u.socket, "SocketMode=", "SocketMod=", 1))) == 0 {
			t.Errorf("%s: systemd-analyze accepts a misspelt key of the socket, so this test proves nothing", u.manager)
		}
	}
}

func TestFindingsCanFail(t *testing.T) {
	got := findings("x.service:7: Unknown key name 'Frobnicate' in section 'Service', ignoring.\n\n  \n/lib/systemd/system/plymouth-start.service:16: Unit configured to use KillMode=none.\n")
	if len(got) != 1 || !strings.Contains(got[0], "Frobnicate") {
		t.Errorf("%q", got)
	}
}

// settings are the lines of a unit that are not comments.
func settings(unit string) map[string]bool {
	s := map[string]bool{}
	for line := range strings.Lines(unit) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' && line[0] != ';' {
			s[line] = true
		}
	}
	return s
}

// TestUnitsHoldWhatNoAnalysisKnows: with a user namespace of its own the broker would
// see every other user as 65534, a user's systemd makes one for each setting that
// mounts, and a limit of starts closes the sockets.
func TestUnitsHoldWhatNoAnalysisKnows(t *testing.T) {
	system, user := settings(deploy.SystemService), settings(deploy.UserService)
	for name, s := range map[string]map[string]bool{"system": system, "user": user} {
		for _, want := range []string{
			"MemorySwapMax=0", "LimitCORE=0", "NoNewPrivileges=yes", "UMask=0077", "Type=notify", "Requires=stsbroker.socket",
			"StartLimitIntervalSec=0", "RuntimeDirectoryPreserve=restart", "RuntimeDirectoryMode=0700",
			"RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
		} {
			if !s[want] {
				t.Errorf("%s: no %s", name, want)
			}
		}
		for line := range s {
			if key, value, _ := strings.Cut(line, "="); key == "PrivateUsers" && value != "no" {
				t.Errorf("%s: %s: peer identity needs the host's user namespace", name, line)
			}
		}
	}
	for line := range user {
		switch key, _, _ := strings.Cut(line, "="); key {
		case "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs",
			"ProtectControlGroups", "ProtectProc", "ProcSubset", "ProtectHostname", "ProtectClock", "ReadWritePaths", "ReadOnlyPaths", "BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem", "RootDirectory":
			t.Errorf("user: %s: implies PrivateUsers=yes", line)
		}
	}
	for name, service := range map[string]string{"serve --system\n": deploy.SystemService, "serve\n": deploy.UserService} {
		if n := strings.Count(service, deploy.Program); n != 2 || !strings.Contains(service, "\nExecStart="+deploy.Program+" "+name) || !strings.Contains(service, "\nExecReload="+deploy.Program+" ") {
			t.Errorf("%s: %s %d times, or not as install replaces it", name, deploy.Program, n)
		}
	}
	if n := strings.Count(deploy.LaunchAgent, "<string>"+deploy.Program+"</string>"); n != 1 || strings.Count(deploy.LaunchAgent, "<string>"+deploy.LaunchdLog+"</string>") != 1 {
		t.Error("launchd: the program or the log is not where install replaces it")
	}
}
