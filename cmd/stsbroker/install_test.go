package main

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stsbroker/stsbroker/deploy"
	"github.com/stsbroker/stsbroker/internal/seal"
)

func TestServiceFilesKnowThemselves(t *testing.T) {
	f := serviceFile{text: "[Service]\nA=1\n", comment: "#"}
	other := serviceFile{text: "[Service]\nA=2\n", comment: "#"}
	for name, tc := range map[string]struct {
		on   string
		want found
	}{
		"same":                  {string(f.signed()), foundSame},
		"of another version":    {string(other.signed()), foundOurs},
		"edited above":          {strings.Replace(string(other.signed()), "A=2", "A=3", 1), foundEdited},
		"added below":           {string(other.signed()) + "B=1\n", foundEdited},
		"its digest edited":     {strings.Replace(string(other.signed()), digest(other.text), digest(f.text), 1), foundEdited},
		"somebody's":            {"[Service]\n", foundOther},
		"empty":                 {"", foundOther},
		"without the last line": {f.text, foundOther},
	} {
		if got := f.judge([]byte(tc.on)); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
	f.path = filepath.Join(t.TempDir(), "x")
	if got, err := f.find(); got != foundNone || err != nil {
		t.Error(got, err)
	}
}

func TestServiceFilesAreWrittenWhole(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("not run: there is no service on Windows")
	}
	dir := filepath.Join(t.TempDir(), "a", "b")
	f := serviceFile{path: filepath.Join(dir, "x.service"), text: "[Service]\n", comment: "#"}
	for range 2 { // made, and replaced
		if err := f.write(); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(f.path)
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("%v", entries)
	}
	if got, err := f.find(); got != foundSame || err != nil {
		t.Error(got, err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := f.write(); err == nil || !strings.Contains(err.Error(), "everybody may replace") {
		t.Errorf("in a folder that everybody can write to: %v", err)
	}
}

func TestServiceProgram(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("not run: there is no service on Windows")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask is
			t.Fatal(err)
		}
		return path
	}
	open := filepath.Dir(at("open/stsbroker", 0o755))
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		at("bin/stsbroker", 0o755):                      "",
		at("with space/stsbroker", 0o755):               "",
		at("bin/everybodys", 0o777):                     "others can replace",
		filepath.Join(open, "stsbroker"):                "others can replace",
		at("go-build123/b001/exe/stsbroker", 0o755):     "go run",
		at("a%b/stsbroker", 0o755):                      "a character",
		at("a\"b/stsbroker", 0o755):                     "a character",
		at("a$b/stsbroker", 0o755):                      "a character",
		at("a\nExecStartPre=/bin/x/stsbroker", 0o755):   "a character",
		filepath.Join(dir, "bin", "there-is-none-here"): "no such file",
	} {
		switch err := judgeProgram(path); {
		case want == "" && err != nil:
			t.Errorf("%s: %v", path, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
}

func lines(text, prefix string) (got []string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			got = append(got, strings.TrimSpace(line))
		}
	}
	return got
}

func TestSystemdKit(t *testing.T) {
	folders := unitFolders{own: filepath.Join(t.TempDir(), "own"), packaged: filepath.Join(t.TempDir(), "usr"), users: "/etc/sysusers.d", config: "/etc/stsbroker"}
	k := systemdKit(place{}, folders)
	if err := k.fill("/opt/my tools/stsbroker", "/home/a b/x.yaml"); err != nil {
		t.Fatal(err)
	}
	if len(k.files) != 2 || k.folder != "" {
		t.Fatalf("%d files, folder %q", len(k.files), k.folder)
	}
	service := k.files[1].text
	if got := lines(service, "ExecStart="); !slices.Equal(got, []string{`ExecStart="/opt/my tools/stsbroker" --config "/home/a b/x.yaml" serve`}) {
		t.Errorf("%q", got)
	}
	if got := lines(service, "ExecReload="); !slices.Equal(got, []string{`ExecReload="/opt/my tools/stsbroker" --socket %t/stsbroker/control.sock reload`}) {
		t.Errorf("%q", got)
	}
	if strings.Contains(service, deploy.Program) {
		t.Error("the path of a package is left in it")
	}
	if k := systemdKit(place{}, folders); k.fill("/bin/stsbroker", "/a%b") == nil {
		t.Error("a configuration file whose path systemd would take for something else")
	}

	k = systemdKit(place{system: true}, folders)
	if err := k.fill("/opt/stsbroker", ""); err != nil {
		t.Fatal(err)
	}
	if got := lines(k.files[1].text, "Exec"); len(k.files) != 3 || !slices.Equal(got, []string{"ExecStart=/opt/stsbroker serve --system", "ExecReload=/opt/stsbroker --socket /run/stsbroker/control.sock reload"}) {
		t.Errorf("%q", got)
	}
	if got := shell(k.start[0]) + "; " + shell(k.start[2]); got != "systemd-sysusers /etc/sysusers.d/stsbroker.conf; systemctl enable --now stsbroker.socket stsbroker.service" {
		t.Error(got)
	}

	// What a package brought is enabled as it is.
	if err := os.MkdirAll(folders.packaged, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folders.packaged, unitService), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if k := systemdKit(place{system: true}, folders); len(k.files) != 0 || len(k.start) != 2 {
		t.Errorf("%d files, %v", len(k.files), k.start)
	}
}

func TestSystemdState(t *testing.T) {
	socket := "\n\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n"
	for name, tc := range map[string]struct {
		out             string
		system, lingers bool
		want            serviceState
	}{
		"runs": {
			"LoadState=loaded\nActiveState=active\nSubState=running\nStatusText=serving 2 profiles\nMainPID=7\nUnitFileState=enabled\nActiveEnterTimestamp=Mon 04:00" + socket, false, false,
			serviceState{true, true, true, true, [][]string{{"service", "running, process 7, since Mon 04:00"}, {"says", "serving 2 profiles"}, {"sockets", "open, held by systemd"}, {"starts", "when you log in, and ends when you log out"}}},
		},
		"stopped": {
			"LoadState=loaded\nActiveState=inactive\nMainPID=0\nUnitFileState=enabled" + socket, true, true,
			serviceState{true, false, true, true, [][]string{{"service", "stopped; the next connection starts it"}, {"sockets", "open, held by systemd"}, {"starts", "at boot"}}},
		},
		"stopped for good": {
			"LoadState=loaded\nActiveState=inactive\nUnitFileState=disabled\n\nLoadState=loaded\nActiveState=inactive\nUnitFileState=disabled\n", false, true,
			serviceState{true, false, false, false, [][]string{{"service", "stopped"}, {"sockets", "closed"}, {"starts", "never by itself"}}},
		},
		"fails again and again": {
			"LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nResult=exit-code\nNRestarts=3\nUnitFileState=enabled" + socket, false, true,
			serviceState{true, false, true, true, [][]string{{"service", "fails (exit-code, 3 times) and is started again; see why: journalctl --user -u stsbroker -e"}, {"sockets", "open, held by systemd"}, {"starts", "at boot, and stays when you log out"}}},
		},
		"is not there": {
			"LoadState=not-found\nActiveState=inactive\n\nLoadState=not-found\nActiveState=inactive\n", false, false,
			serviceState{false, false, false, false, [][]string{{"service", "stopped"}, {"sockets", "closed"}, {"starts", "never by itself"}}},
		},
	} {
		got := systemdState(tc.out, tc.system, tc.lingers)
		if got.installed != tc.want.installed || got.running != tc.want.running || got.open != tc.want.open || got.enabled != tc.want.enabled || !slices.EqualFunc(got.rows, tc.want.rows, slices.Equal) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestLaunchdKit(t *testing.T) {
	home := filepath.Join("/Users", "a & <b>")
	k := launchdKit(home, 501)
	if err := k.fill("/opt/x & y/stsbroker", ""); err != nil {
		t.Fatal(err)
	}
	f := k.files[0]
	if want := filepath.Join(home, "Library", "LaunchAgents", deploy.Label+".plist"); f.path != want {
		t.Errorf("%s, want %s", f.path, want)
	}
	var texts []string
	dec := xml.NewDecoder(strings.NewReader(string(f.signed())))
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(xml.CharData); ok {
			texts = append(texts, string(text))
		}
	}
	for _, want := range []string{deploy.Label, "/opt/x & y/stsbroker", "serve", filepath.Join(home, "Library", "Logs", "stsbroker.log")} {
		if !slices.Contains(texts, want) {
			t.Errorf("no <string>%s</string>", want)
		}
	}
	if f.judge(f.signed()) != foundSame {
		t.Error("it does not know itself")
	}
	if k := launchdKit(home, 501); k.fill("/bin/stsbroker", "/x.yaml") == nil {
		t.Error("--config is dropped without a word")
	}
	if got := shell(k.restart[0]) + "; " + shell(k.restart[1]); got != "launchctl bootout gui/501/"+deploy.Label+"; launchctl bootstrap gui/501 "+shQuote(f.path) {
		t.Error(got)
	}
}

func TestLaunchdState(t *testing.T) {
	got := launchdState("gui/501/x = {\n\tactive count = 1\n\tstate = running\n\n\tpid = 42\n\tendpoints = {\n\t\tstate = not\n\t}\n}\n")
	if !got.running || got.rows[0][1] != "running, process 42" {
		t.Errorf("%+v", got)
	}
	got = launchdState("x = {\n\tstate = not running\n\tlast exit code = 1\n}\n")
	if got.running || got.rows[0][1] != "not running; it ended with status 1" {
		t.Errorf("%+v", got)
	}
}

// TestServicePlanInOrder carries out a plan with a systemctl that writes down what it is
// told: what was shown is what is done, in that order, and nothing after a failure.
func TestServicePlanInOrder(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not run: systemd is Linux's")
	}
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	fake := "#!/bin/sh\necho \"systemctl $*\" >>" + log + "\ncase \"$*\" in *enable*) echo 'Job failed.' >&2; exit 1;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(fake), 0o700); err != nil { //nolint:gosec // it has to be executable
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	k := systemdKit(place{}, unitFolders{own: filepath.Join(dir, "units"), packaged: filepath.Join(dir, "none")})
	var acts []act
	for _, f := range k.files {
		acts = append(acts, act{file: &f, text: "write " + f.path})
	}
	acts = append(acts, runs(k.start[0]), runs(k.start[1]), runs([]string{"systemctl", "never"}))
	if done, err := perform(t.Context(), installOptions{dry: true}, acts); done || err != nil {
		t.Fatal(done, err)
	}
	if _, err := os.Stat(log); err == nil {
		t.Fatal("--dry-run runs something")
	}
	done, err := perform(t.Context(), installOptions{yes: true}, acts)
	if done || err == nil || err.Error() != "run systemctl --user enable --now stsbroker.socket stsbroker.service: exit status 1: Job failed." {
		t.Error(done, err)
	}
	ran, err := os.ReadFile(log)
	if err != nil || string(ran) != "systemctl --user daemon-reload\nsystemctl --user enable --now stsbroker.socket stsbroker.service\n" {
		t.Errorf("%q, %v", ran, err)
	}
	for _, f := range k.files {
		if got, err := f.find(); got != foundSame || err != nil {
			t.Error(f.path, got, err)
		}
	}
}

// TestServiceIdentityGoesToSystemdCreds: what seals state is on no command line and in
// no file of ours.
func TestServiceIdentityGoesToSystemdCreds(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not run: systemd is Linux's")
	}
	dir := t.TempDir()
	fake := "#!/bin/sh\necho \"$*\" >" + dir + "/args\n/bin/cat >" + dir + "/stdin\n"
	if err := os.WriteFile(filepath.Join(dir, "systemd-creds"), []byte(fake), 0o700); err != nil { //nolint:gosec // it has to be executable
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	store := filepath.Join(dir, "store")
	acts, err := identityActs(store)
	if err != nil || len(acts) != 1 {
		t.Fatal(acts, err)
	}
	if err := acts[0].do(context.Background()); err != nil {
		t.Fatal(err)
	}
	stdin, err := os.ReadFile(filepath.Join(dir, "stdin"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.ParseIdentity(stdin); err != nil {
		t.Error(err)
	}
	args, err := os.ReadFile(filepath.Join(dir, "args"))
	if err != nil || string(args) != "encrypt --name=stsbroker-identity - "+store+"/stsbroker-identity\n" {
		t.Errorf("%q, %v", args, err)
	}
	if info, err := os.Stat(store); err != nil || info.Mode().Perm() != 0o700 {
		t.Error(info, err)
	}
	if err := os.WriteFile(filepath.Join(store, systemdIdentity), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if acts, err := identityActs(store); len(acts) != 0 || err != nil {
		t.Errorf("one that is there would be replaced: %v, %v", acts, err)
	}
}

// TestServiceOfAPackage: units that a package brought are enabled and disabled, and what
// systemd says of them decides, since there is no file that would tell.
func TestServiceOfAPackage(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("not run: systemd is Linux's")
	}
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	folders := unitFolders{own: filepath.Join(dir, "own"), packaged: dir}
	fake := `#!/bin/sh
case "$*" in
*Version) exit ;;
*show*) if [ -e ` + dir + `/enabled ]; then s=active e=enabled; else s=inactive e=disabled; fi
	printf "LoadState=loaded\nActiveState=$s\nUnitFileState=$e\n\nLoadState=loaded\nActiveState=$s\nUnitFileState=$e\n"; exit ;;
*enable*) : >` + dir + `/enabled ;;
*disable*) /bin/rm ` + dir + `/enabled ;;
esac
echo "$*" >>` + log + "\n"
	for name, text := range map[string]string{"systemctl": fake, unitService: "[Service]\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil { //nolint:gosec // one of them has to be executable
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	k := systemdKit(place{}, folders)
	if err := k.fill("/usr/bin/stsbroker", ""); err != nil || !k.packaged {
		t.Fatal(k.packaged, err)
	}
	if err := k.fill("/usr/bin/stsbroker", "/srv/x.yaml"); err == nil || !strings.Contains(err.Error(), "systemctl edit") {
		t.Errorf("--config is dropped without a word: %v", err)
	}
	p := place{control: filepath.Join(dir, "control.sock"), getenv: func(string) string { return "" }}
	for _, step := range []struct {
		name string
		run  func(context.Context, place, installOptions) error
		want string
	}{
		{"uninstall, where nothing is enabled", k.uninstall, ""},
		{"install", k.install, "--user daemon-reload\n--user enable --now stsbroker.socket stsbroker.service\n"},
		{"install again", k.install, "--user daemon-reload\n--user enable stsbroker.socket stsbroker.service\n--user restart stsbroker.socket stsbroker.service\n"},
		{"uninstall", k.uninstall, "--user disable --now stsbroker.service stsbroker.socket\n--user clean --what=runtime stsbroker.service\n--user daemon-reload\n"},
		{"uninstall again", k.uninstall, ""},
	} {
		if err := os.WriteFile(log, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := step.run(t.Context(), p, installOptions{yes: true}); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		if ran, err := os.ReadFile(log); err != nil || string(ran) != step.want {
			t.Errorf("%s: %q, want %q; %v", step.name, ran, step.want, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, unitService)); err != nil {
		t.Errorf("the package's unit is gone: %v", err)
	}

	// What install wrote before the package came is still install's to remove.
	own := systemdKit(place{}, unitFolders{own: folders.own, packaged: filepath.Join(dir, "none")}).files[1]
	if err := own.write(); err != nil {
		t.Fatal(err)
	}
	if k := systemdKit(place{}, folders); k.packaged || len(k.files) != 2 {
		t.Errorf("packaged %v, %d files", k.packaged, len(k.files))
	}
}

// fakeSystemctl is a folder with a systemctl that writes down what it is told, knows no
// unit, and fails where the words match.
func fakeSystemctl(t *testing.T, fails string) (dir string, ran func() string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("not run: systemd is Linux's")
	}
	dir = t.TempDir()
	log := filepath.Join(dir, "log")
	fake := "#!/bin/sh\necho \"$*\" >>" + log + "\ncase \"$*\" in *show*) printf 'LoadState=not-found\\n\\nLoadState=not-found\\n' ;; " + fails + ") echo 'Job failed.' >&2; exit 1 ;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(fake), 0o700); err != nil { //nolint:gosec // it has to be executable
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	return dir, func() string {
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

// TestServiceInstallIsTakenBack: what systemd does not start is neither enabled nor there
// afterwards.
func TestServiceInstallIsTakenBack(t *testing.T) {
	dir, ran := fakeSystemctl(t, "*enable*--now*")
	k := systemdKit(place{}, unitFolders{own: filepath.Join(dir, "units"), packaged: filepath.Join(dir, "none")})
	k.listens = nil
	p := place{control: filepath.Join(dir, "control.sock"), getenv: func(string) string { return "" }}
	if err := k.install(t.Context(), p, installOptions{yes: true}); err == nil || !strings.Contains(err.Error(), "Job failed.") {
		t.Error(err)
	}
	if got := ran(); !strings.HasSuffix(got, "enable --now stsbroker.socket stsbroker.service\n--user disable --now stsbroker.service stsbroker.socket\n--user clean --what=runtime stsbroker.service\n--user daemon-reload\n") {
		t.Errorf("%q", got)
	}
	for _, f := range k.files {
		if got, err := f.find(); got != foundNone || err != nil {
			t.Error(f.path, got, err)
		}
	}
}

// TestServiceInstallAsksForItsPorts: nothing is written where somebody has a port.
func TestServiceInstallAsksForItsPorts(t *testing.T) {
	dir, ran := fakeSystemctl(t, "never")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	k := systemdKit(place{}, unitFolders{own: filepath.Join(dir, "units"), packaged: filepath.Join(dir, "none")})
	if want := []string{"127.0.0.1:9170", "[::1]:9170"}; !slices.Equal(k.listens, want) {
		t.Errorf("%q, want %q", k.listens, want)
	}
	k.listens = []string{l.Addr().String()}
	p := place{control: filepath.Join(dir, "control.sock"), getenv: func(string) string { return "" }}
	err = k.install(t.Context(), p, installOptions{yes: true})
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()+" is taken: it is process ") || !strings.Contains(err.Error(), "listen.container") {
		t.Error(err)
	}
	if got := ran(); strings.Contains(got, "enable") {
		t.Errorf("%q", got)
	}
	if got, err := k.files[0].find(); got != foundNone || err != nil {
		t.Error(got, err)
	}
}

func TestPortsFree(t *testing.T) {
	at := func(holder string, isBroker bool) []portSeen {
		return []portSeen{{netip.MustParseAddrPort("127.0.0.1:9170"), holder, isBroker}}
	}
	for _, c := range []struct {
		taken         []portSeen
		system, there bool
		want          string
	}{
		{nil, false, true, ""},
		{at("a process of uid 0", true), false, true, "127.0.0.1:9170 is taken: it is the system's service (stsbroker service status --system). "},
		{at("process 42 (/usr/bin/nc)", false), false, true, "is taken: it is process 42 (/usr/bin/nc). "},
		{at("", false), false, false, "systemctl --user edit --force stsbroker.socket"},
		{at("process 42 (/x/stsbroker)", true), true, false, "is taken: it is a broker, of some user's service perhaps. "},
		{at("", false), true, false, "/run/stsbroker/control.sock"},
	} {
		switch err := portsFree(c.taken, c.system, c.there); {
		case c.want == "" && err != nil:
			t.Error(err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

// A drop-in moves the ports, and the plain unit's are nothing to be asked for then.
func TestUnitListens(t *testing.T) {
	dir := t.TempDir()
	if got := unitListens("[Socket]\nListenStream=127.0.0.1:1\nListenStream=%t/x.sock\n", dir); !slices.Equal(got, []string{"127.0.0.1:1"}) {
		t.Errorf("%q", got)
	}
	for name, text := range map[string]string{"a.conf": "[Socket]\nListenStream=\nListenStream=127.0.0.1:2\n", "b.conf": "[Socket]\nListenStream = [::1]:2", "c.txt": "ListenStream="} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := unitListens(deploy.UserSocket, dir); !slices.Equal(got, []string{"127.0.0.1:2", "[::1]:2"}) {
		t.Errorf("%q", got)
	}
}

func TestServiceBesideTheSystems(t *testing.T) {
	none := errors.New("not installed")
	if err := besideSystem(none, "/s", false); err.Error() != "not installed" {
		t.Error(err)
	}
	if err := besideSystem(none, "/s", true); err.Error() != "not installed; the system's service has /s: stsbroker service status --system" {
		t.Error(err)
	}
	if err := besideSystem(exitStatus(1), "/s", true); !errors.Is(err, exitStatus(1)) {
		t.Error(err)
	}
}

// TestServiceBeforeAPackages: units that install wrote, and a package that came later.
func TestServiceBeforeAPackages(t *testing.T) {
	dir, ran := fakeSystemctl(t, "never")
	folders := unitFolders{own: filepath.Join(dir, "own"), packaged: dir}
	first := systemdKit(place{}, unitFolders{own: folders.own, packaged: filepath.Join(dir, "none")})
	for _, f := range first.files {
		if err := f.write(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, unitService), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if first.shadows {
		t.Error("without a package, nothing is shadowed")
	}
	p := place{state: filepath.Join(dir, "state")}
	k := systemdKit(p, folders)
	if k.packaged || !k.shadows {
		t.Errorf("packaged %v, shadows %v", k.packaged, k.shadows)
	}
	if err := os.Remove(k.files[1].path); err != nil { // the socket's alone is one too
		t.Fatal(err)
	}
	if k = systemdKit(p, folders); k.packaged {
		t.Error("the socket that install wrote is forgotten")
	}
	if err := k.uninstall(t.Context(), p, installOptions{yes: true}); err != nil {
		t.Error(err)
	}
	if got, err := k.files[0].find(); got != foundNone || err != nil {
		t.Error(got, err)
	}
	if got := ran(); !strings.Contains(got, "disable --now") {
		t.Errorf("%q", got)
	}
	if k = systemdKit(p, folders); !k.packaged || k.shadows {
		t.Error("the package's units do not count again")
	}
}
