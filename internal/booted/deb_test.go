//go:build booted

package booted

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
)

// debConfig is what somebody writes into the configuration that the package brings.
const debConfig = `sts: { region: us-east-1, endpoints: { us-east-1: %q } }
keys: { work: { custody: sealed } }
profiles:
  app: { role: { arn: "arn:aws:iam::123456789012:role/app", key: work }, prefetch: true }
`

// dpkgMayChange are the files that a purge legitimately leaves changed: dpkg's own
// books, what the tools that keep passwd leave of its last version, and what a running
// system writes while the test looks.
var dpkgMayChange = regexp.MustCompile(`^(/var/lib/dpkg/status-old|/var/log/dpkg\.log|/etc/(passwd|group|shadow|gshadow)-` +
	`|/var/log/journal/.*|/var/lib/systemd/timers/.*)$`)

// TestDeb installs the package that make package built, starts the service, upgrades
// it under load, removes it, and purges it: then the system is as it was before.
func TestDeb(t *testing.T) {
	deb := builtDeb(t)
	m := Boot(t)
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := m.Script("journalctl -b --no-pager -n 40 -u stsbroker.service -u stsbroker.socket")
			t.Log(out)
		}
	})
	sts := m.STS(t)
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	m.Write(t, "/tmp/identity", 0o600, []byte(identity.String()+"\n"))
	m.Run(t, "sh", "-ec", `mkdir -p -m 700 /etc/credstore.encrypted
		systemd-creds --name=stsbroker-identity encrypt /tmp/identity /etc/credstore.encrypted/stsbroker-identity; rm /tmp/identity`)
	m.Copy(t, deb, "/tmp/one.deb")
	m.Copy(t, bumped(t, deb), "/tmp/two.deb")
	before := m.files(t)

	said := m.Run(t, "dpkg", "-i", "/tmp/one.deb")
	if !strings.Contains(said, "systemctl enable --now stsbroker") {
		t.Errorf("the installation does not say how to start it:\n%s", said)
	}
	if out, err := m.Script("dpkg --verify stsbroker && systemctl is-active stsbroker.service stsbroker.socket; systemctl is-enabled stsbroker.service stsbroker.socket"); err == nil || out != "inactive\ninactive\ndisabled\ndisabled\n" {
		t.Errorf("installed, and not asked to start, it is\n%s(%v)", out, err)
	}
	m.Run(t, "getent", "passwd", "stsbroker")

	// As the package brings it, and then with somebody's own configuration.
	m.Run(t, "systemctl", "enable", "--now", "stsbroker")
	m.Run(t, "stsbroker", "--socket", "/run/stsbroker/control.sock", "status")
	m.Write(t, "/etc/stsbroker/stsbroker.yaml", 0o644, fmt.Appendf(nil, debConfig, sts))
	m.Run(t, "sh", "-ec", `systemctl restart stsbroker
		printf 'AKIAIOSFODNN7EXAMPLE\nwJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n' | stsbroker keys add work
		stsbroker token create ci --profile app --file /tmp/token`)
	whoami := func(when string) {
		t.Helper()
		if out := m.Run(t, "stsbroker", "whoami", "app"); !strings.Contains(out, "assumed-role/app/") {
			t.Errorf("%s, app is\n%s", when, out)
		}
	}
	whoami("started")

	t.Run("upgrade", func(t *testing.T) {
		// A request after the other on new connections while the package is replaced.
		ended := make(chan string)
		go func() {
			out, err := m.Script(`while [ ! -e /tmp/enough ]; do
				code=$(curl -s -m 20 -o /tmp/body -w '%{http_code}' -H "Authorization: $(cat /tmp/token)" http://127.0.0.1:9170/credentials/app) || code="curl: $?"
				echo "$code $([ "$code" = 200 ] || cat /tmp/body)"
			done`)
			if err != nil {
				out += err.Error()
			}
			ended <- out
		}()
		pid := m.Run(t, "systemctl", "show", "--property=MainPID", "--value", "stsbroker")
		_, err := m.Script("dpkg -i /tmp/two.deb >/tmp/said 2>&1")
		m.Run(t, "touch", "/tmp/enough")
		answers := strings.Split(strings.TrimSpace(<-ended), "\n")
		if err != nil {
			t.Fatalf("%v:\n%s", err, m.Run(t, "cat", "/tmp/said"))
		}
		if failed := slices.DeleteFunc(slices.Clone(answers), func(a string) bool { return strings.TrimSpace(a) == "200" }); len(failed) > 0 || len(answers) < 10 {
			t.Errorf("of %d requests during the upgrade %d failed:\n%s", len(answers), len(failed), strings.Join(slices.Compact(failed), "\n"))
		}
		now := m.Run(t, "systemctl", "show", "--property=MainPID", "--value", "stsbroker")
		if now == pid || strings.TrimSpace(now) == "0" {
			t.Errorf("after the upgrade the old program still runs: pid %s", now)
		}
		if out := m.Run(t, "stsbroker", "version"); !strings.Contains(out, "v99.0.0") {
			t.Errorf("after the upgrade it is %s", out)
		}
		if exe := m.Run(t, "readlink", "/proc/"+strings.TrimSpace(now)+"/exe"); exe != "/usr/bin/stsbroker\n" {
			t.Errorf("%s runs", exe)
		}
		if kept := m.Run(t, "cat", "/etc/stsbroker/stsbroker.yaml"); kept != fmt.Sprintf(debConfig, sts) {
			t.Errorf("the upgrade changed the configuration to\n%s", kept)
		}
		whoami("upgraded")

		// Sockets that are as they were are not told of; others are, and stay as they were.
		const stay = "stsbroker.socket has changed"
		if said := m.Run(t, "cat", "/tmp/said"); strings.Contains(said, stay) {
			t.Errorf("the same sockets are said to have changed:\n%s", said)
		}
		m.Run(t, "sh", "-ec", "dpkg-deb -R /tmp/two.deb /tmp/three; sed -i 's/^Backlog=.*/Backlog=100/' /tmp/three/usr/lib/systemd/system/stsbroker.socket; dpkg-deb --root-owner-group -Zgzip -b /tmp/three /tmp/three.deb")
		if said := m.Run(t, "dpkg", "-i", "/tmp/three.deb"); !strings.Contains(said, stay) || !strings.Contains(said, "systemctl restart stsbroker.socket stsbroker.service") {
			t.Errorf("sockets that change with the package are not told of:\n%s", said)
		}
		whoami("upgraded with other sockets")
	})

	t.Run("remove", func(t *testing.T) {
		said := m.Run(t, "dpkg", "-r", "stsbroker")
		if !strings.Contains(said, "long-term keys stay in /var/lib/stsbroker") {
			t.Errorf("removing it does not tell of the keys that stay:\n%s", said)
		}
		m.Run(t, "test", "-s", "/var/lib/stsbroker/keys", "-a", "-s", "/etc/stsbroker/stsbroker.yaml", "-a", "!", "-e", "/usr/bin/stsbroker")
		if out := m.Run(t, "ss", "-Hltn", "( sport = 9170 or sport = 9171 )"); out != "" {
			t.Errorf("removed, and still listening:\n%s", out)
		}
		if out := m.Run(t, "find", "/etc/systemd", "-name", "stsbroker*"); out != "" {
			t.Errorf("removed, and still enabled:\n%s", out)
		}
		// What stayed is taken up again.
		m.Run(t, "sh", "-ec", "dpkg -i /tmp/two.deb && systemctl enable --now stsbroker")
		whoami("removed and installed again")
	})

	said = m.Run(t, "dpkg", "-P", "stsbroker")
	if !strings.Contains(said, "deleting /var/lib/stsbroker, with the long-term keys") {
		t.Errorf("the purge does not say that it deletes keys:\n%s", said)
	}
	if !strings.Contains(said, "/etc/credstore.encrypted/stsbroker-identity stays") {
		t.Errorf("the purge does not tell of the identity that stays:\n%s", said)
	}
	if out := m.Run(t, "find", "/run", "-name", "*stsbroker*"); out != "" {
		t.Errorf("the purge leaves\n%s", out)
	}
	after := m.files(t)
	var tolerated []string
	for _, path := range slices.Sorted(maps.Keys(after)) {
		switch was, ok := before[path]; {
		case ok && was == after[path]:
		case dpkgMayChange.MatchString(path):
			tolerated = append(tolerated, path)
		case ok:
			t.Errorf("the purge leaves %s changed: %q, was %q", path, after[path], was)
		default:
			t.Errorf("the purge leaves %s", path)
		}
	}
	for path := range before {
		if _, ok := after[path]; !ok && !dpkgMayChange.MatchString(path) {
			t.Errorf("the purge took %s away", path)
		}
	}
	t.Logf("of %d files, changed by dpkg and by what keeps passwd: %s", len(before), strings.Join(tolerated, " "))
}

// files are the machine's files by path, on disk: type, mode, numbers of owner and
// group, and where a link leads, or the SHA-256 of what is in it.
func (m *Machine) files(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(m.Run(t, "find", "/", "-xdev", "-printf", `%p\t%y %m %U %G %l\n`)) {
		path, what, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		all[path] = what
	}
	for line := range strings.Lines(m.Run(t, "find", "/", "-xdev", "-type", "f", "-exec", "sha256sum", "{}", "+")) {
		sum, path, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		all[path] += sum
	}
	if len(all) < 5000 {
		t.Fatalf("only %d files", len(all))
	}
	return all
}

// builtDeb is the package of this machine's kind in dist.
func builtDeb(t *testing.T) string {
	t.Helper()
	repo, err := repository()
	if err != nil {
		t.Fatal(err)
	}
	debs, err := filepath.Glob(filepath.Join(repo, "dist", "stsbroker_*_"+runtime.GOARCH+".deb"))
	if err != nil {
		t.Fatal(err)
	}
	if len(debs) != 1 {
		notRun(t, fmt.Errorf("%d packages in dist: make package makes one", len(debs)))
	}
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		notRun(t, err)
	}
	return debs[0]
}

// bumped is the package with a program of another version in it.
func bumped(t *testing.T, deb string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	run := func(args ...string) {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", args, err, out)
		}
	}
	run("dpkg-deb", "-R", deb, dir)
	run("install", "-m", "755", Build(t, "./cmd/stsbroker", "-tags=nethttpomithttp2", "-ldflags=-s -w -X main.version=v99.0.0"), filepath.Join(dir, "usr/bin/stsbroker"))
	control := filepath.Join(dir, "DEBIAN/control")
	text, err := os.ReadFile(control)
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`(?m)^Version: .*$`).ReplaceAll(text, []byte("Version: 99.0.0"))
	if err := errors.Join(os.WriteFile(control, text, 0o644), os.Remove(filepath.Join(dir, "DEBIAN/md5sums"))); err != nil {
		t.Fatal(err)
	}
	run("dpkg-deb", "--root-owner-group", "-Zgzip", "-b", dir, dir+".deb")
	return dir + ".deb"
}
