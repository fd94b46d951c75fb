//go:build booted

package booted

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const key = `{"AccessKey": {"UserName": "dev", "Status": "Active", "AccessKeyId": "AKIAIOSFODNN7EXAMPLE", "SecretAccessKey": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}}`

// printed is the shell code below a heading of the README.
func printed(t *testing.T, heading string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "\n## "+heading+"\n")
	section, _, _ := strings.Cut(after, "\n## ")
	_, code, _ := strings.Cut(section, "```sh\n")
	code, _, ok := strings.Cut(code, "```\n")
	if !ok {
		t.Fatalf("README.md has no shell code below %q", heading)
	}
	if n := strings.Count(code, "\n"); n > 10 {
		t.Errorf("%s: %d lines, more than ten", heading, n)
	}
	return code
}

func top(t *testing.T) string {
	t.Helper()
	repo, err := repository()
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

// steps run one after the other on one machine; a step that fails leaves the rest undone.
type steps struct {
	*testing.T
	m *Machine
}

// must runs sh code as the user, and wants each of the texts in what it prints.
func (s steps) must(user, sh string, want ...string) string {
	s.Helper()
	out, err := s.m.ScriptAs(user, sh)
	for _, w := range want {
		if !strings.Contains(out, w) {
			err = errors.Join(err, fmt.Errorf("no %q", w))
		}
	}
	if err != nil {
		s.Fatalf("%s: %s: %v\n%s\n%s", user, sh, err, out, s.journal())
	}
	return out
}

// fails is must for what ends with another status than 0.
func (s steps) fails(user, sh string, want ...string) string {
	s.Helper()
	out, err := s.m.ScriptAs(user, sh)
	if err == nil {
		s.Fatalf("%s: %s: it ended with status 0\n%s", user, sh, out)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			s.Fatalf("%s: %s: no %q\n%s", user, sh, w, out)
		}
	}
	return out
}

func (s steps) journal() string {
	out, err := s.m.Script("journalctl --no-pager -o cat -n 40 _COMM=stsbroker + UNIT=stsbroker.service + USER_UNIT=stsbroker.service")
	if err != nil {
		out += err.Error()
	}
	return "the journal's end:\n" + out
}

// asks is a program that asks the container door over and over, each time on a new
// connection, until the file that is its argument is there, and prints how that went.
const asks = `#!/usr/bin/python3
import os, sys, time, urllib.request
n, bad = 0, []
end = time.time() + 60
while not os.path.exists(sys.argv[1]) and time.time() < end:
    try:
        r = urllib.request.Request(os.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"], headers={"Authorization": os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"]})
        urllib.request.urlopen(r, timeout=10).read()
    except Exception as e:
        bad.append(str(e))
    n += 1
print("asked", "often" if n >= 20 else n, "bad", bad)
`

const (
	root    = "root"
	squat   = `python3 -c 'import socket; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("127.0.0.1", 9170))'`
	get     = `curl -s -o /dev/null -w '%{http_code}\n' `
	app     = "http://127.0.0.1:9170/credentials/app"
	envApp  = `eval "$(stsbroker env app)" && `
	session = `"arn:aws:sts::123456789012:assumed-role/app/`
)

// withSystem is a machine whose service is installed as the README says, by alice, who is
// the one to have the profile app. bob has nothing.
func withSystem(t *testing.T) (s steps, token string) {
	t.Helper()
	m := Boot(t)
	m.STS(t)
	m.User(t, "alice")
	m.User(t, "bob")
	m.Copy(t, Stsbroker(t), "/home/alice/stsbroker")
	m.Write(t, "/home/alice/key.json", 0o600, []byte(key))
	m.Write(t, "/etc/sudoers.d/alice", 0o440, []byte("alice ALL=(ALL) NOPASSWD: ALL\n"))
	m.Run(t, "chown", "alice:", "/home/alice/key.json", "/home/alice/stsbroker")
	m.Write(t, "/usr/local/bin/asks", 0o755, []byte(asks))
	s = steps{t, m}
	s.must("alice", "set -e\n"+printed(t, "As a systemd service"), session)
	return s, strings.TrimSpace(s.must("alice", envApp+`echo "$AWS_CONTAINER_AUTHORIZATION_TOKEN"`))
}

// withToken asks the container door with a token.
func withToken(token string) string { return get + "-m 20 -H 'Authorization: " + token + "' " + app }

// TestSystemService: whom the machine's service serves and whom not, and what it may not.
func TestSystemService(t *testing.T) {
	t.Parallel()
	s, token := withSystem(t)
	s.must("bob", "stsbroker service status --system", "running, process", "held by systemd", "at boot")

	// Peers are told apart at every door, and a token in other hands changes nothing.
	unix := get + "--unix-socket /run/stsbroker/creds.sock http://localhost/credentials/app"
	s.must("alice", withToken(token), "200")
	s.must("bob", withToken(token), "403")
	s.must("alice", unix, "200")
	s.must("bob", unix, "403")
	s.fails("bob", "stsbroker env app", "stsbroker: ")
	s.fails("alice", "stsbroker keys list", "stsbroker: ")
	s.must(root, "stsbroker keys list", "AKIAIOSFODNN7EXAMPLE")
	s.must("bob", "curl -s http://127.0.0.1:9171/readyz", "ok")
	ci := get + `-H "Authorization: $(cat /root/token)" ` + app
	s.must(root, "stsbroker token create ci --profile app --file /root/token && "+ci, "403")
	s.must(root, "sed -i 's/^access: ./&{ token: ci, profiles: [app] }, /' /etc/stsbroker/stsbroker.yaml && systemctl reload stsbroker && "+ci, "200")

	s.must(root, `pid=$(systemctl show -P MainPID stsbroker); grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/$pid/status | tr -d '\t\n'; grep 'core file' /proc/$pid/limits`,
		"CapEff:0000000000000000CapBnd:0000000000000000NoNewPrivs:1Seccomp:2", "Max core file size        0                    0")
	s.must(root, "stat -c '%a %U %n' /run/stsbroker /run/stsbroker/* /etc/stsbroker /var/lib/stsbroker",
		"755 root /run/stsbroker\n", "666 root /run/stsbroker/control.sock", "666 root /run/stsbroker/creds.sock", "700 stsbroker /run/stsbroker/tokens", "755 root /etc/stsbroker\n", "700 stsbroker /var/lib/stsbroker\n")

	// The commands that it runs for profiles live under the same limits, and can.
	s.must(root, `cat >/usr/local/bin/given <<'E'
#!/bin/sh
echo '{"Version":1,"AccessKeyId":"AKIAIOSFODNN7EXAMPLE","SecretAccessKey":"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY","SessionToken":"x","Expiration":"'$(date -u -d '+1 hour' +%FT%TZ)'"}'
E
chmod 755 /usr/local/bin/given; sed -i 's|^profiles: {|& cmd: { process: { command: [/usr/bin/python3, -c, "import subprocess; subprocess.run([\\"/usr/local/bin/given\\"])"] } },|' /etc/stsbroker/stsbroker.yaml
systemctl reload stsbroker && stsbroker refresh cmd`, "AKIAIOSFODNN7EXAMPLE")

	if out := s.must(root, "journalctl --no-pager -b -u stsbroker -o cat"); strings.Contains(out, "not permitted") || strings.Contains(out, "SYS") || strings.Contains(out, "atchdog") {
		t.Errorf("the sandbox is in the way: %s", out)
	}
}

// TestSystemServiceStands: restarts, a reload that fails, a start that fails, a stop, a
// host without IPv6. Nobody else ever has its port.
func TestSystemServiceStands(t *testing.T) {
	t.Parallel()
	s, token := withSystem(t)

	// A restart is not noticed by who asks, and mints nothing anew.
	s.must("alice", envApp+`{ asks /tmp/enough >/tmp/asked & sleep 1; for i in 1 2 3; do sudo systemctl restart stsbroker; sleep 1; done; touch /tmp/enough; wait; cat /tmp/asked; }`, "asked often bad []")
	s.must(root, `journalctl --no-pager -o cat -u stsbroker | grep -c '"msg":"minted"'`, "1\n")

	// A file with a fault is what the reload fails with; the one before is served.
	s.must(root, "cp /etc/stsbroker/stsbroker.yaml /root/good.yaml; echo 'profils: {}' >>/etc/stsbroker/stsbroker.yaml")
	s.fails(root, "systemctl reload stsbroker")
	s.must(root, "journalctl --no-pager -o cat -u stsbroker | tail -5", "/etc/stsbroker/stsbroker.yaml:4", "profils")
	s.must("alice", withToken(token), "200")

	// It does not start with that file. Its port is nobody else's nevertheless, however
	// often it is tried, and with a good file it comes by itself.
	s.fails(root, "systemctl restart stsbroker")
	s.must("bob", "for i in 1 2 3 4 5; do curl -s -m 1 "+app+"; done; sleep 3; true")
	s.fails("bob", "stsbroker service status --system", "held by systemd")
	s.fails("bob", squat, "Address already in use")
	s.must(root, "test $(systemctl show -P NRestarts stsbroker) -ge 2; cp /root/good.yaml /etc/stsbroker/stsbroker.yaml")
	s.must("alice", withToken(token), "200")

	// SIGHUP is a reload too.
	s.must(root, "sed -i 's/app:/app2: { ambient: true }, app:/' /etc/stsbroker/stsbroker.yaml; systemctl kill --kill-who=main -s HUP stsbroker; for i in $(seq 20); do stsbroker status | grep app2 && exit; sleep 0.5; done; exit 1")

	// Stopped, it leaves no token and no free port; the next connection starts it.
	s.must(root, "stsbroker env app --token-file; ls /run/stsbroker/tokens | grep -q .")
	if out := s.must(root, "systemctl stop stsbroker 2>&1; ls /run/stsbroker"); !strings.HasSuffix(out, "\ncontrol.sock\ncreds.sock\n") {
		t.Error(out)
	}
	s.fails("bob", squat, "Address already in use")
	s.fails("bob", "rm -f /run/stsbroker/control.sock; mv /run/stsbroker/creds.sock /tmp/", "Permission denied")
	s.must("alice", withToken(token), "200")
	s.must(root, "systemctl is-active stsbroker; ls /run/stsbroker/tokens | grep -c .", "active\n1\n")

	// A host whose IPv6 is off.
	s.must(root, "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; ip -6 -o addr; systemctl restart stsbroker.socket stsbroker.service && systemctl is-active stsbroker.socket stsbroker.service", "active\nactive\n")
	s.must("alice", withToken(token), "200")
}

// TestSystemServiceWithoutPeers is the narrower variant: a token over TCP, and root.
func TestSystemServiceWithoutPeers(t *testing.T) {
	t.Parallel()
	s, _ := withSystem(t)
	s.m.Copy(t, filepath.Join(top(t), "deploy/systemd/system/stsbroker-nopeer.conf"), "/etc/systemd/system/stsbroker.service.d/nopeer.conf")
	s.must(root, "sed -i /access/d /etc/stsbroker/stsbroker.yaml; mkdir -p /var/lib/stsbroker-root; systemctl daemon-reload && systemctl restart stsbroker")
	s.must(root, "stsbroker token create ci --profile app --file /root/token && "+get+`-H "Authorization: $(cat /root/token)" `+app, "200")
	s.fails("bob", "stsbroker env app", "stsbroker: ")
	s.fails("alice", "stsbroker env app", "stsbroker: ")
	s.must(root, "ls /proc/$(systemctl show -P MainPID stsbroker)/root/usr/bin", "stsbroker\n")
	s.must(root, "systemctl reload stsbroker && systemctl restart stsbroker && "+get+`-H "Authorization: $(cat /root/token)" `+app, "200")
}

// TestSystemServiceInstall: what install wrote it replaces and removes, and nothing else.
func TestSystemServiceInstall(t *testing.T) {
	t.Parallel()
	s, token := withSystem(t)
	s.must(root, "test $(stat -c %a /etc/credstore.encrypted) = 700; cp /etc/credstore.encrypted/stsbroker-identity /root")
	s.must(root, "echo '# mine' >>/etc/systemd/system/stsbroker.service")
	s.fails(root, "stsbroker service uninstall --system --yes", "is not as service install left it")
	s.fails(root, "stsbroker service install --system --yes", "--force")
	s.must(root, "stsbroker service install --system --identity-credential --yes --force", "replace /etc/systemd/system/stsbroker.service", "running")
	s.must(root, "cmp /etc/credstore.encrypted/stsbroker-identity /root/stsbroker-identity")
	s.must("alice", withToken(token), "200")
	s.fails("alice", "stsbroker service uninstall --system --yes", "run it with sudo")
	s.must(root, "stsbroker service uninstall --system --yes", "remove /etc/systemd/system/stsbroker.service", "/var/lib/stsbroker")
	s.must(root, "systemctl is-active stsbroker.service stsbroker.socket; ls -A /run/stsbroker /etc/sysusers.d; test -e /var/lib/stsbroker/keys && test -e /etc/stsbroker/stsbroker.yaml", "inactive\ninactive\n/etc/sysusers.d:\n\n/run/stsbroker:\n")
	s.must("bob", squat)
	s.must(root, "stsbroker service uninstall --system --yes", "nothing is installed")

	// Installed again, it knows what it knew.
	s.must(root, "stsbroker service install --system --yes", "running")
	s.must("alice", withToken(token), "200")
}

// TestUserService is the life of a user's own service.
func TestUserService(t *testing.T) {
	t.Parallel()
	m := Boot(t)
	m.STS(t)
	m.User(t, "alice")
	m.Run(t, "useradd", "--create-home", "bob")
	m.Copy(t, Stsbroker(t), "/usr/local/bin/stsbroker")
	s := steps{t, m}
	s.must("alice", `mkdir .aws; cat >.aws/config <<E
[default]
region = eu-central-1
[profile app]
role_arn = arn:aws:iam::123456789012:role/app
source_profile = keys
E
cat >.aws/credentials <<E
[keys]
aws_access_key_id = AKIAIOSFODNN7EXAMPLE
aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY
E
chmod 600 .aws/*`)

	// Nothing is done unless somebody says yes, and nothing where there is nobody's systemd.
	s.must("alice", "stsbroker service install --dry-run", "write /home/alice/.config/systemd/user/stsbroker.service", "ExecStart=/usr/local/bin/stsbroker serve\n", "run systemctl --user enable --now")
	s.fails("alice", "stsbroker service install </dev/null", "--yes")
	s.must("alice", "test ! -e .config/systemd")
	s.fails("bob", "unset XDG_RUNTIME_DIR; stsbroker service install --yes", "no systemd runs for this user here", "loginctl enable-linger bob")
	s.must("bob", "test ! -e .config/systemd")
	s.fails("alice", "stsbroker service status", "not installed")

	// One that was started by hand has the port.
	s.must("alice", "systemd-run --user --quiet --unit=hand stsbroker serve; for i in $(seq 20); do stsbroker status && exit; sleep 0.3; done; exit 1")
	s.fails("alice", "stsbroker service install --yes", "serves /run/user/1000/stsbroker/control.sock already")
	s.must("alice", "systemctl --user stop hand; rm /run/user/1000/stsbroker/*.lock")

	s.must("alice", "AWS_REGION=us-east-1 stsbroker service install --yes", "running, process", "held by systemd", "at boot, and stays when you log out", "this shell has AWS_REGION set")
	s.must("alice", envApp+"aws sts get-caller-identity", session)
	s.must("alice", "stat -c '%a %n' .config/systemd/user/stsbroker.* /run/user/1000/stsbroker /run/user/1000/stsbroker/*",
		"644 .config/systemd/user/stsbroker.service", "700 /run/user/1000/stsbroker\n", "600 /run/user/1000/stsbroker/control.sock", "600 /run/user/1000/stsbroker/creds.sock", "700 /run/user/1000/stsbroker/tokens")
	token := strings.TrimSpace(s.must("alice", envApp+`echo "$AWS_CONTAINER_AUTHORIZATION_TOKEN"`))
	s.must("alice", withToken(token), "200")
	s.must("bob", withToken(token), "403") // peers are told apart here too

	s.must("alice", "systemctl --user reload stsbroker && systemctl --user restart stsbroker && "+withToken(token), "200")
	if out := s.must("alice", "systemctl --user stop stsbroker 2>&1; ls /run/user/1000/stsbroker"); !strings.HasSuffix(out, "\ncontrol.sock\ncreds.sock\n") {
		t.Error(out)
	}
	s.fails("alice", "stsbroker service status", "the next connection starts it")
	s.fails("bob", squat, "Address already in use")
	s.must("alice", withToken(token), "200")
	s.must("alice", "stsbroker service install --yes", "run systemctl --user restart", "running") // again: it is there already
	s.must("alice", "stsbroker service uninstall --yes", "remove /home/alice/.config/systemd/user/stsbroker.socket", "/home/alice/.local/state/stsbroker")
	if out := s.must("alice", "find .config -name 'stsbroker*'; ls -A /run/user/1000/stsbroker"); out != "" {
		t.Errorf("left: %s", out)
	}
	s.must("bob", squat)

	// Somebody else's unit is not touched.
	s.must("alice", "echo '[Service]' >.config/systemd/user/stsbroker.service")
	s.fails("alice", "stsbroker service install --yes", "--force")
	s.must("alice", `test "$(cat .config/systemd/user/stsbroker.service)" = '[Service]'`)
}

// TestInstallBesideAPackage: the units are a package's. install enables them as they
// are, for a user and for the machine, and uninstall undoes just that.
func TestInstallBesideAPackage(t *testing.T) {
	t.Parallel()
	m := Boot(t)
	m.STS(t)
	m.User(t, "alice")
	m.Copy(t, Stsbroker(t), "/usr/bin/stsbroker")
	for _, flavour := range []string{"system", "user"} {
		for _, unit := range []string{"stsbroker.service", "stsbroker.socket"} {
			m.Copy(t, filepath.Join(top(t), "deploy/systemd", flavour, unit), "/usr/lib/systemd/"+flavour+"/"+unit)
		}
	}
	m.Copy(t, filepath.Join(top(t), "deploy/systemd/system/stsbroker.sysusers"), "/usr/lib/sysusers.d/stsbroker.conf")
	m.Write(t, "/etc/stsbroker/stsbroker.yaml", 0o644, []byte("{}\n"))
	m.Run(t, "systemd-sysusers")
	m.Run(t, "systemctl", "daemon-reload")
	s := steps{t, m}
	for _, c := range []struct{ user, option, ctl string }{{"alice", "", "systemctl --user "}, {root, " --system", "systemctl "}} {
		service := func(verb string) string { return "stsbroker service " + verb + c.option }
		enabled := c.ctl + "is-enabled stsbroker.service stsbroker.socket; true"
		s.must(c.user, c.ctl+"daemon-reload; "+service("uninstall --yes"), "nothing was enabled")
		s.fails(c.user, "stsbroker --config /srv/x.yaml service install --yes"+c.option, "--config: the units are a package's")
		s.must(c.user, service("install --yes"), "enable --now stsbroker.socket", "running, process")
		s.must(c.user, service("install --yes"), "restart stsbroker.socket", "running, process")
		s.must(c.user, c.ctl+"stop stsbroker.service stsbroker.socket 2>&1; "+service("install --yes"), "enable --now stsbroker.socket", "running, process")
		s.must(c.user, enabled, "enabled\nenabled\n")
		s.must(c.user, service("uninstall --yes"), "disable --now", "stopped and disabled")
		s.must(c.user, enabled, "disabled\ndisabled\n")
		s.must(c.user, c.ctl+"is-active stsbroker.service stsbroker.socket; true", "inactive\ninactive\n")
		s.must(c.user, service("uninstall --yes"), "nothing was enabled")
	}

	// Units that install wrote before the package came: they count, and are install's to remove.
	s.must(root, "mkdir /root/units; mv /usr/lib/systemd/system/stsbroker.* /root/units; systemctl daemon-reload; stsbroker service install --system --yes", "write /etc/systemd/system/stsbroker.service", "running, process")
	s.must(root, "mv /root/units/* /usr/lib/systemd/system; systemctl daemon-reload; stsbroker service install --system --yes", "restart stsbroker.socket", "running, process")
	s.must(root, "stsbroker service uninstall --system --yes", "remove /etc/systemd/system/stsbroker.service", "remove /etc/systemd/system/stsbroker.socket", "a package's units are in its place")
	s.must(root, "systemctl show -P FragmentPath stsbroker.service; systemctl is-active stsbroker.service stsbroker.socket; true", "/lib/systemd/system/stsbroker.service\ninactive\ninactive\n")

	// What root enabled for all users is not alice's to disable.
	s.must(root, "systemctl --global enable stsbroker.service")
	s.fails("alice", "systemctl --user daemon-reload; stsbroker service uninstall --yes", "systemctl --global disable stsbroker.service")
}

// dropIns is the code below a line of docs/service.md that has the word, without its fence.
func dropIns(t *testing.T, word string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(top(t), "docs/service.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), word)
	_, code, _ := strings.Cut(after, "```ini\n")
	code, _, ok := strings.Cut(code, "```\n")
	if !found || !ok {
		t.Fatalf("docs/service.md has no code after %q", word)
	}
	return code
}

// TestBesideTheSystemService: what a user is told who has no rule, who wants a service of
// one's own where the system's has the port, and who finds that one silent.
func TestBesideTheSystemService(t *testing.T) {
	t.Parallel()
	s, _ := withSystem(t)
	s.fails("bob", "stsbroker doctor", "the broker at /run/stsbroker/control.sock is another user's, and gives uid", "added under access in its stsbroker.yaml")
	s.must("alice", envApp+"stsbroker doctor", "not looked at: STS (which one the broker asks, only who administers it can tell)")
	s.must(root, envApp+"stsbroker doctor", "/etc/stsbroker/stsbroker.yaml", "STS at sts.")

	s.fails("bob", "stsbroker service status", "not installed", "stsbroker service status --system")
	s.fails("bob", "stsbroker service install --yes", "127.0.0.1:9170 is taken: it is the system's service", "listen.container")
	s.must("bob", "test ! -e .config/systemd/user/stsbroker.service -a ! -e .config/systemd/user/default.target.wants/stsbroker.service")
	s.must("bob", `mkdir -p .config/systemd/user/stsbroker.socket.d .config/stsbroker
cat >.config/systemd/user/stsbroker.socket.d/override.conf <<'E'
`+dropIns(t, "To move the user's")+`E
echo 'listen: { container: ["127.0.0.1:9172"] }' >.config/stsbroker/stsbroker.yaml
stsbroker service install --yes && stsbroker status && ss -Hltn 'sport = 9172'`, "running, process", "127.0.0.1:9172")
	s.must("bob", "stsbroker service uninstall --yes")

	// A token file for a group.
	s.must(root, `groupadd app; usermod -aG app bob
cat >/etc/tmpfiles.d/stsbroker-app.conf <<'E'
d /run/stsbroker-app 0750 stsbroker app -
E
systemd-tmpfiles --create stsbroker-app.conf
mkdir -p /etc/systemd/system/stsbroker.service.d; cat >/etc/systemd/system/stsbroker.service.d/group.conf <<'E'
`+dropIns(t, "A file of `token_files` with a `group`")+`E
echo "token_files: { app: { path: /run/stsbroker-app/token, profiles: [app], group: $(getent group app | cut -d: -f3) } }" >>/etc/stsbroker/stsbroker.yaml
systemctl daemon-reload && systemctl restart stsbroker && stat -c '%a %U %G' /run/stsbroker-app/token`, "640 stsbroker app")
	s.must("bob", "cat /run/stsbroker-app/token", "stsb")
	s.must("alice", "cat /run/stsbroker-app/token 2>&1; true", "Permission denied")

	// It cannot start, and systemd takes the connections.
	s.must(root, "echo 'profils: {}' >>/etc/stsbroker/stsbroker.yaml")
	s.fails(root, "systemctl restart stsbroker")
	s.fails(root, "stsbroker doctor", "the broker at /run/stsbroker/control.sock does not answer", "-> journalctl -u stsbroker -n 20", "/etc/stsbroker/stsbroker.yaml:", "-> stsbroker check --config /etc/stsbroker/stsbroker.yaml")
	s.must(root, "stsbroker check --config /etc/stsbroker/stsbroker.yaml 2>&1; true", "profils")
}
