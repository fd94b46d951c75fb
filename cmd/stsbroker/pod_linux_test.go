package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stsbroker/stsbroker/internal/ownnet"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// Who is in the pod, as deploy/kubernetes/sidecar.yaml has them.
const (
	podBroker = 9170
	podApp    = 1000
	podShared = 9171 // the group of the token file
	podOther  = 1001 // another container's user
)

// pod is a network with a broker in it, and the volumes that containers share.
type pod struct {
	t       *testing.T
	binary  string
	volumes string // folder of config, identity, run, state and tokens
	env     []string
}

// newPod makes the volumes with the owners and modes that the kubelet gives them: an
// emptyDir in memory is a tmpfs, root's and sticky, and belongs to the fsGroup where
// there is one. They are on a tmpfs here too.
func newPod(t *testing.T, sts string, setgid fs.FileMode, group int) *pod {
	t.Helper()
	base, err := os.MkdirTemp("/dev/shm", "stsbroker-pod")
	if err != nil {
		t.Skipf("not run: no memory volume here: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	p := &pod{t: t, binary: filepath.Join(t.TempDir(), "stsbroker"), volumes: base}
	p.env = []string{
		"HOME=/nonexistent", "XDG_CONFIG_HOME=" + p.path("config"), "XDG_RUNTIME_DIR=" + p.path("run"), "XDG_STATE_HOME=" + p.path("state"),
		"AWS_ENDPOINT_URL_STS=" + sts,
	}
	for name, mode := range map[string]fs.FileMode{
		"": 0o755, "config": 0o755, "config/stsbroker": 0o755, "identity": 0o755,
		"run": fs.ModeSticky | setgid | 0o777, "state": fs.ModeSticky | setgid | 0o777, "tokens": fs.ModeSticky | setgid | 0o777,
	} {
		path := p.path(name)
		if err := errors.Join(os.MkdirAll(path, 0o755), os.Chown(path, 0, group), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (p *pod) path(name string) string { return filepath.Join(p.volumes, name) }

func (p *pod) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(p.path(name), []byte(text), 0o644); err != nil { //nolint:gosec // as a ConfigMap's
		p.t.Fatal(err)
	}
}

// command is stsbroker as a container has it: a user, one group, no others.
func (p *pod) command(uid, gid uint32, args ...string) *exec.Cmd {
	cmd := exec.Command(p.binary, args...) // not by the context of the test, which ends before its clean-up
	cmd.Env = p.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	return cmd
}

// serve starts the broker and returns when the token file is there as it should be. The
// function kills it.
func (p *pod) serve() (kill func()) {
	p.t.Helper()
	var log syncBuilder
	cmd := p.command(podBroker, podShared, "serve")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	killed := false
	p.t.Cleanup(func() {
		if killed {
			return
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := <-ended; err != nil {
			p.t.Errorf("serve: %v\n%s", err, log.String())
		}
		if _, err := os.Lstat(p.path("tokens/app")); !errors.Is(err, fs.ErrNotExist) {
			p.t.Errorf("the token file outlives the broker: %v", err)
		}
	})
	for range 1000 {
		select {
		case err := <-ended:
			ended <- err
			p.t.Fatalf("serve ended: %v\n%s", err, log.String())
		case <-time.After(10 * time.Millisecond):
			if info, err := os.Stat(p.path("tokens/app")); err == nil && info.Mode() == 0o640 {
				return func() {
					killed = true
					_ = cmd.Process.Kill()
					if err := <-ended; err == nil {
						p.t.Error("killed, and it ended well")
					}
				}
			}
		}
	}
	p.t.Fatalf("no token file with mode 0640\n%s", log.String())
	return nil
}

// asPodUser runs f on a thread that is the user's, in one group and no others. f must not
// end its goroutine, as t.Fatal does.
func asPodUser(t *testing.T, uid, gid int, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
			t.Error(errno)
			return
		}
		if err := errors.Join(unix.Setfsgid(gid), unix.Setfsuid(uid)); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

// askPod is one GET with a token, "" for none, over a connection of this thread's user. A
// connection that was closed without a word is no answer: status 0.
func askPod(address, token string) (status int, body map[string]string, err error) {
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return 0, nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	authorization := ""
	if token != "" {
		authorization = "Authorization: " + token + "\r\n"
	}
	if _, err := fmt.Fprintf(c, "GET /credentials HTTP/1.1\r\nHost: 127.0.0.1:9170\r\n%sConnection: close\r\n\r\n", authorization); err != nil {
		return 0, nil, nil // it hung up
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	return resp.StatusCode, body, json.NewDecoder(resp.Body).Decode(&body)
}

// TestPod plays a pod: broker and application are two users in one network, and share a
// volume in memory. The application reads the token file and gets credentials; nobody
// else does, be it another user of the pod or another pod.
func TestPod(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can be several users")
	}
	if !ownnet.Inside(t) {
		return
	}
	for _, c := range []string{"ip link add a0 type veth peer name n0", "ip link del a0"} {
		f := strings.Fields(c)
		if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
			t.Skipf("not run: no ip command or no veth here: %v: %s", err, out)
		}
	}
	fake := stsfake.New()
	const arn = "arn:aws:iam::" + stsfake.Account + ":role/app"
	fake.AddRole(stsfake.Role{ARN: arn, Subjects: []string{"system:serviceaccount:default:app"}})
	sts, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	built := shipped(t)
	for name, setgid := range map[string]fs.FileMode{"without fsGroup": 0, "with fsGroup": fs.ModeSetgid} {
		t.Run(name, func(t *testing.T) {
			group := 0
			if setgid != 0 {
				group = podShared
			}
			p := newPod(t, sts.URL, setgid, group)
			p.binary = p.path("stsbroker") // where every user gets to
			if err := os.Link(built, p.binary); err != nil {
				data, err := os.ReadFile(built)
				if err = errors.Join(err, os.WriteFile(p.binary, data, 0o755)); err != nil { //nolint:gosec // a program
					t.Fatal(err)
				}
			}
			p.write("identity/token", fake.IdentityToken("system:serviceaccount:default:app", time.Hour))
			config := func(group int) {
				p.write("config/stsbroker/stsbroker.yaml", fmt.Sprintf(`profiles:
  app: { web_identity: { arn: %q, token_file: %q }, region: eu-central-1, prefetch: true }
token_files:
  app: { path: %q, profiles: [app], group: %d }
`, arn, p.path("identity/token"), p.path("tokens/app"), group))
			}

			config(podShared + 1) // a group that the broker is not in
			if out, err := p.command(podBroker, podShared, "serve").CombinedOutput(); err == nil || !strings.Contains(string(out), "stsbroker.yaml:4: token_files.app: group: uid 9170 is not in group 9172 here, and cannot give a file to it; start it with that group: runAsGroup") {
				t.Errorf("with a group of others: %v, %s", err, out)
			}
			if _, err := os.Lstat(p.path("tokens/app")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("and the file is there: %v", err)
			}
			config(podShared)
			p.serve()()
			if err := os.Chmod(p.path("tokens/app"), 0o600); err != nil { // a killed broker left it, and another configuration is to be
				t.Fatal(err)
			}
			p.serve()
			p.usersOfThePod()
			p.neighbour()
		})
	}
}

func (p *pod) usersOfThePod() {
	t, file := p.t, p.path("tokens/app")
	info, err := os.Lstat(file)
	if err != nil {
		t.Error(err)
		return
	}
	if st := info.Sys().(*syscall.Stat_t); info.Mode() != 0o640 || st.Uid != podBroker || st.Gid != podShared {
		t.Errorf("the token file has mode %v and is of %d:%d", info.Mode(), st.Uid, st.Gid)
	}
	asPodUser(t, podApp, podShared, func() {
		token, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
			return
		}
		if status, body, err := askPod("127.0.0.1:9170", string(token)); err != nil || status != http.StatusOK || body["SecretAccessKey"] == "" || !strings.HasSuffix(body["RoleArn"], ":role/app") {
			t.Errorf("the application: %d, %d fields, %v", status, len(body), err)
		}
		if err := os.WriteFile(file, nil, 0); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("the application writes to the token file: %v", err)
		}
	})
	for name, who := range map[string][2]int{"another container": {podOther, podOther}, "the application's user without the group": {podApp, podApp}, "nobody": {65534, 65534}} {
		asPodUser(t, who[0], who[1], func() {
			if _, err := os.ReadFile(file); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s reads the token file: %v", name, err)
			}
			for _, err := range []error{os.Remove(file), os.Rename(file, file+".away")} {
				if !errors.Is(err, fs.ErrPermission) {
					t.Errorf("%s takes the token file away: %v", name, err)
				}
			}
			for _, private := range []string{"run/stsbroker", "state/stsbroker"} {
				if _, err := os.ReadDir(p.path(private)); !errors.Is(err, fs.ErrPermission) {
					t.Errorf("%s looks into %s: %v", name, private, err)
				}
			}
			for _, token := range []string{"", "guessed"} {
				if status, body, err := askPod("127.0.0.1:9170", token); err != nil || status != http.StatusUnauthorized || body["SecretAccessKey"] != "" {
					t.Errorf("%s with the token %q: %d, %v", name, token, status, err)
				}
			}
		})
	}
}

// neighbour is another pod, on a link to this one, which knows the token and is let in
// by the kernel as far as a host can: route_localnet.
func (p *pod) neighbour() {
	t := p.t
	token, err := os.ReadFile(p.path("tokens/app"))
	if err != nil {
		t.Error(err)
		return
	}
	plain, err := net.Listen("tcp4", "127.0.0.1:81") // shows that the way is open
	if err != nil {
		t.Error(err)
		return
	}
	defer plain.Close()
	go func() {
		for {
			c, err := plain.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
			_ = c.Close()
		}
	}()

	do, ready := make(chan func()), make(chan string)
	go func() {
		runtime.LockOSThread() // never unlocked: its network ends with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		ready <- strconv.Itoa(unix.Gettid())
		for f := range do {
			f()
		}
	}()
	defer close(do)
	over := func(f func()) {
		done := make(chan struct{})
		do <- func() { defer close(done); f() }
		<-done
	}
	run := func(commands ...string) {
		for _, c := range commands {
			f := strings.Fields(c)
			if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", c, err, out)
			}
		}
	}
	lenient := func(dev string) {
		for _, name := range []string{"route_localnet=1", "rp_filter=0", "accept_local=1"} {
			key, value, _ := strings.Cut(name, "=")
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+dev+"/"+key, []byte(value), 0); err != nil {
				t.Error(err)
			}
		}
	}
	id := <-ready
	run("ip link add a0 type veth peer name n0 netns "+id, "ip addr add 10.99.0.1/24 dev a0", "ip link set a0 up")
	defer run("ip link del a0")
	lenient("all")
	lenient("a0")
	over(func() {
		lenient("all")
		lenient("n0")
		// Its own loopback stays down, so that 127.0.0.1 is what it is told it is.
		run("ip addr add 10.99.0.2/24 dev n0", "ip link set n0 up", "ip route add 127.0.0.1/32 via 10.99.0.1 dev n0 src 10.99.0.2")
	})
	if t.Failed() {
		return
	}
	over(func() {
		if status, _, err := askPod("127.0.0.1:81", ""); status != http.StatusOK {
			t.Errorf("a neighbour at a plain listener on loopback: %d, %v", status, err)
		}
		if status, body, err := askPod("127.0.0.1:9170", string(token)); status != 0 || len(body) != 0 || err != nil {
			t.Errorf("a neighbour with the token and route_localnet: %d, %d fields, %v", status, len(body), err)
		}
		if _, _, err := askPod("10.99.0.1:9170", string(token)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a neighbour at the pod's address: %v", err)
		}
	})
	if status, _, err := askPod("127.0.0.1:9170", string(token)); status != http.StatusOK {
		t.Errorf("this pod, after that: %d, %v", status, err)
	}
}
