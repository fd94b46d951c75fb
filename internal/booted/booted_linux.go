//go:build booted

package booted

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// varRoot names a root file system that is there already; it is only read.
	varRoot = "STSBROKER_BOOTED_ROOT"
	// varMirror names another Debian mirror.
	varMirror = "STSBROKER_BOOTED_MIRROR"

	suite    = "bookworm" // the oldest systemd that the units are for: 252
	mirror   = "http://deb.debian.org/debian"
	packages = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,ca-certificates,iproute2,sudo,curl,awscli,python3-cffi-backend"
)

// bootTime is the longest that a boot may take; it takes five seconds where nothing
// else runs.
const bootTime = 2 * time.Minute

// Machine is a booted Debian, gone when its test ends. It has a network of its own,
// with a loopback interface and nothing else, and what is written in it is in memory.
type Machine struct {
	leader int // its init, in this process's view
}

// launch starts nspawn in cgroups of its own ($1 is the name; two machines would share
// theirs otherwise), over a file system ($3 is where) whose lower layer is $2. All
// mounts are in a namespace that ends with it.
const launch = `set -e
while IFS=: read -r _ controllers path; do
	case $controllers in
	cpuset) continue ;;
	'') at=/sys/fs/cgroup/unified; [ -d "$at" ] || at=/sys/fs/cgroup ;;
	name=*) at=/sys/fs/cgroup/${controllers#name=} ;;
	*) at=/sys/fs/cgroup/$controllers ;;
	esac
	[ -f "$at/cgroup.procs" ] || continue
	mkdir -p "$at${path%/}/$1"
	echo $$ >"$at${path%/}/$1/cgroup.procs"
done </proc/self/cgroup
exec unshare --mount --propagation private sh -c '
	mount -t tmpfs -o mode=755 booted "$3"
	mkdir "$3/new" "$3/work" "$3/root"
	mount -t overlay -o "lowerdir=$2,upperdir=$3/new,workdir=$3/work" booted "$3/root"
	exec systemd-nspawn --quiet --directory="$3/root" --machine="$1" --register=no --keep-unit --private-network \
		--link-journal=no --kill-signal=SIGKILL --notify-ready=yes --console=pipe --boot
' sh "$@"`

// Boot boots a machine, which nothing shares but the files that it starts with. A test
// that cannot have one is skipped with the reason, and fails where CI is "true".
func Boot(t *testing.T) *Machine {
	t.Helper()
	base, err := base(t)
	if err != nil {
		notRun(t, err)
	}
	dir := t.TempDir()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "n"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = notify.Close() }()
	if err := os.Mkdir(filepath.Join(dir, "m"), 0o755); err != nil {
		t.Fatal(err)
	}
	name := "booted-" + strings.ToLower(rand.Text()[:8])
	var console bytes.Buffer
	nspawn := exec.Command("sh", "-c", launch, "sh", name, base, filepath.Join(dir, "m"))
	nspawn.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify.LocalAddr().String(), "SYSTEMD_LOG_LEVEL=warning")
	nspawn.Stdout, nspawn.Stderr = &console, &console
	nspawn.WaitDelay = 5 * time.Second
	ended, err := start(nspawn)
	if err != nil {
		notRun(t, err)
	}
	m := &Machine{}
	t.Cleanup(func() {
		_ = nspawn.Process.Signal(syscall.SIGTERM) // which kills its init, and so everything
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			if m.leader != 0 {
				_ = syscall.Kill(m.leader, syscall.SIGKILL)
			}
			_ = nspawn.Process.Kill()
			<-ended
		}
		removeControlGroups(name)
	})

	told := make(chan error, 1)
	go func() { told <- m.await(notify) }()
	select {
	case err = <-told:
	case <-ended:
		err = errors.New("the container ended")
	}
	if err != nil {
		_ = nspawn.Process.Kill()
		<-ended // the console is written until then
		said := console.Bytes()
		notRun(t, fmt.Errorf("no machine can be booted here: %w: %s", err, said[max(0, len(said)-600):]))
	}
	m.Run(t, "sh", "-c", "echo 127.0.1.1 $(uname -n) >>/etc/hosts") // sudo wants to know
	return m
}

// start starts the command on a thread that lives as long as it does: the kernel ends
// it with the thread that started it, and so with this process, however that ends.
func start(cmd *exec.Cmd) (ended <-chan struct{}, err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setsid: true} // what ends us by group would end it, and not the machine
	started, done := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	return done, <-started
}

// await reads what nspawn tells, until the machine is up.
func (m *Machine) await(notify *net.UnixConn) error {
	if err := notify.SetReadDeadline(time.Now().Add(bootTime)); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	for {
		n, err := notify.Read(buf)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(buf[:n])) {
			line = strings.TrimSpace(line)
			if pid, ok := strings.CutPrefix(line, "X_NSPAWN_LEADER_PID="); ok {
				m.leader, err = strconv.Atoi(pid)
				if err != nil {
					return err
				}
			}
			if line == "READY=1" && m.leader != 0 {
				return nil
			}
		}
	}
}

// Root is the machine's root folder as this process can open it. An absolute symbolic
// link in it leads out of it: to write, take [Machine.Copy].
func (m *Machine) Root() string { return fmt.Sprintf("/proc/%d/root", m.leader) }

// command prepares a command inside, as root, with a plain environment.
func (m *Machine) command(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--target", strconv.Itoa(m.leader), "--all", "--"}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "LANG=C.UTF-8", "TERM=dumb"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a "kill 0" inside is not for us
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Run runs a command inside as root and returns what it prints to stdout and stderr.
// One that does not end with status 0 fails the test.
func (m *Machine) Run(t *testing.T, cmd ...string) string {
	t.Helper()
	out, err := m.command(cmd...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd, " "), err, out)
	}
	return string(out)
}

// Script runs sh code inside as root. out is what it prints to stdout and stderr, err
// an *exec.ExitError for another status than 0.
func (m *Machine) Script(sh string) (out string, err error) {
	b, err := m.command("sh", "-c", sh).CombinedOutput()
	return string(b), err
}

// ScriptAs is [Machine.Script] as a user of the machine's, with the runtime folder that
// the user's own systemd has, where it runs (loginctl enable-linger).
func (m *Machine) ScriptAs(user, sh string) (out string, err error) {
	const enter = `exec runuser -u "$1" -- env HOME="$(getent passwd "$1" | cut -d: -f6)" USER="$1" LOGNAME="$1" XDG_RUNTIME_DIR="/run/user/$(id -u "$1")" sh -c 'cd; eval "$1"' sh "$2"`
	b, err := m.command("sh", "-c", enter, "sh", user, sh).CombinedOutput()
	return string(b), err
}

// User makes a user with a home, whose own systemd runs from then on.
func (m *Machine) User(t *testing.T, name string) {
	t.Helper()
	m.Run(t, "useradd", "--create-home", "--shell", "/bin/sh", name)
	m.Run(t, "loginctl", "enable-linger", name)
	m.Run(t, "systemctl", "start", fmt.Sprintf("user@%s.service", strings.TrimSpace(m.Run(t, "id", "-u", name))))
}

// Write makes a file inside, of root, and the folders above it.
func (m *Machine) Write(t *testing.T, inside string, mode fs.FileMode, data []byte) {
	t.Helper()
	m.install(t, bytes.NewReader(data), inside, mode)
}

// Copy copies a file of this machine into that one, to the path inside, with its mode.
func (m *Machine) Copy(t *testing.T, local, inside string) {
	t.Helper()
	f, err := os.Open(local)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	m.install(t, f, inside, info.Mode().Perm())
}

func (m *Machine) install(t *testing.T, from io.Reader, inside string, mode fs.FileMode) {
	t.Helper()
	cmd := m.command("install", "-D", "-m", fmt.Sprintf("%o", mode), "/dev/stdin", inside)
	cmd.Stdin = from
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", inside, err, out)
	}
}

// STS starts a stand-in of STS inside, as the unit sts.service. It is at the URL that is
// returned, on loopback, and besides it is AWS's own for eu-central-1, us-east-1 and the
// world: their names lead to it, and the machine trusts it, so that what is made for AWS
// needs no setting. It knows the key AKIAIOSFODNN7EXAMPLE with the secret that AWS
// documents beside it, of account 123456789012, and the roles app, dev, ci and deploy.
func (m *Machine) STS(t *testing.T) (url string) {
	t.Helper()
	const address, authority = "127.0.0.1:4599", "/usr/local/share/ca-certificates/standin.crt"
	names := []string{"sts.eu-central-1.amazonaws.com", "sts.us-east-1.amazonaws.com", "sts.amazonaws.com"}
	m.Copy(t, Build(t, "./internal/booted/standin", "-tags=booted"), "/usr/local/libexec/sts")
	m.Run(t, append([]string{"systemd-run", "--quiet", "--unit=sts", "--property=Type=notify", "/usr/local/libexec/sts", address, authority}, names...)...)
	m.Run(t, "sh", "-c", "echo 127.0.0.1 "+strings.Join(names, " ")+" >>/etc/hosts && update-ca-certificates")
	m.Run(t, "sh", "-c", "cat "+authority+" >>/usr/lib/python3/dist-packages/awscli/botocore/cacert.pem") // the AWS CLI's own
	return "http://" + address
}

// Stsbroker builds the program as it ships, and returns its path.
func Stsbroker(t *testing.T) string {
	t.Helper()
	return Build(t, "./cmd/stsbroker", "-tags=nethttpomithttp2")
}

// Build builds a command of this module, static, and returns the path of the program.
func Build(t *testing.T, pkg string, flags ...string) string {
	t.Helper()
	repo, err := repository()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), filepath.Base(pkg))
	build := exec.Command("go", slices.Concat([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", out}, flags, []string{pkg})...)
	build.Dir = repo
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	return out
}

// repository is the top of the repository: where go.mod is.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("not inside the repository")
		}
		dir = filepath.Dir(dir)
	}
}

// base is the root file system that machines start with, made once.
func base(t *testing.T) (string, error) {
	if os.Getuid() != 0 {
		return "", errors.New("a container is booted by root alone")
	}
	need := []string{"systemd-nspawn", "nsenter", "unshare"}
	dir := os.Getenv(varRoot)
	if dir == "" {
		need = append(need, "debootstrap")
	}
	for _, program := range need {
		if _, err := exec.LookPath(program); err != nil {
			return "", errors.New(program + " is missing; on Debian: apt-get install systemd-container debootstrap util-linux")
		}
	}
	if dir != "" {
		return filepath.Abs(dir)
	}
	repo, err := repository()
	if err != nil {
		return "", err
	}
	cache := os.Getenv("STSBROKER_CACHE")
	if cache == "" {
		cache = filepath.Join(repo, ".cache")
	}
	cache, err = filepath.Abs(filepath.Join(cache, "booted"))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o600) // go test runs packages side by side
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	dir = filepath.Join(cache, suite)
	stamp, want := dir+".made-of", packages+"\n"
	if made, err := os.ReadFile(stamp); err == nil && string(made) == want {
		return dir, nil
	}
	if err := errors.Join(os.RemoveAll(stamp), os.RemoveAll(dir)); err != nil { // half of an earlier try
		return "", err
	}
	from := os.Getenv(varMirror)
	if from == "" {
		from = mirror
	}
	began := time.Now()
	out, err := exec.Command("debootstrap", "--variant=minbase", "--include="+packages, suite, dir, from).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("debootstrap: %w: %s", err, out[max(0, len(out)-600):])
	}
	if err := os.RemoveAll(filepath.Join(dir, "var", "cache", "apt", "archives")); err != nil {
		return "", err
	}
	t.Logf("made %s in %.0f s", dir, time.Since(began).Seconds())
	return dir, os.WriteFile(stamp, []byte(want), 0o644)
}

// notRun skips the test; CI has what these tests need, so there it fails.
func notRun(t *testing.T, why error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("not run, and CI requires it: %v", why)
	}
	t.Skipf("not run: %v", why)
}

// removeControlGroups removes what launch and the machine made, deepest first.
func removeControlGroups(name string) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return
	}
	for s := bufio.NewScanner(bytes.NewReader(own)); s.Scan(); {
		_, rest, _ := strings.Cut(s.Text(), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		for _, at := range []string{strings.TrimPrefix(controllers, "name="), "unified", ""} {
			var dirs []string
			_ = filepath.WalkDir(filepath.Join("/sys/fs/cgroup", at, path, name), func(p string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, p)
				}
				return nil
			})
			for _, d := range slices.Backward(dirs) {
				_ = os.Remove(d)
			}
		}
	}
}
