package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// The users of the test: the broker's own, two with rules, and one with none.
const (
	brokers = 23456 + iota
	alices
	bobs
	eves
)

// askerEnv makes this test binary ask, as the user it runs as.
const askerEnv = "STSBROKER_TEST_ASKER"

// userAsk is a request of another user's process: for a path of the container door, with a
// token or none, or for the credentials of an IMDS door, with a session token of its own.
type userAsk struct {
	Network, Address, Path, Token string
	IMDS                          bool
}

type userAnswer struct {
	Status int
	Body   string
}

// askAsUser is the other process: requests come as JSON, and answers go, a line each.
func askAsUser(t *testing.T) {
	var all []userAsk
	if err := json.NewDecoder(os.Stdin).Decode(&all); err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, a.Network, a.Address)
		}}}
		do := func(method, path string, header ...string) userAnswer {
			host := a.Address
			if a.Network == "unix" {
				host = "localhost"
			}
			req, err := http.NewRequest(method, "http://"+host+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i+1 < len(header); i += 2 {
				req.Header.Set(header[i], header[i+1])
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return userAnswer{resp.StatusCode, string(body)}
		}
		var got userAnswer
		switch {
		case a.IMDS:
			if got = do(http.MethodPut, "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds", "60"); got.Status == http.StatusOK {
				got = do(http.MethodGet, a.Path, "X-aws-ec2-metadata-token", got.Body)
			}
		case a.Token != "":
			got = do(http.MethodGet, a.Path, "Authorization", a.Token)
		default:
			got = do(http.MethodGet, a.Path)
		}
		line, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("ANSWER %s\n", line)
	}
}

// neighbours are several users of one host, and a broker that one of them runs.
type neighbours struct {
	dir     string
	env     []string // of the broker
	port    string
	imds    [2]string // ports, of p0 and p1
	daemon  *exec.Cmd
	log     *syncBuilder
	control string
	socket  string
}

func newNeighbours(t *testing.T, url string, fake *stsfake.Server) *neighbours {
	t.Helper()
	dir, err := os.MkdirTemp("", "stsbroker-users-") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	n := &neighbours{dir: dir, port: freePort(t), imds: [2]string{freePort(t), freePort(t)}}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	n.write(t, 0, "stsbroker", string(binary), 0o755) // a test binary of that name is the program, see TestMain
	if err := os.Link(filepath.Join(dir, "stsbroker"), filepath.Join(dir, "asker")); err != nil {
		t.Fatal(err)
	}
	fake.AddUser("dev", "AKIABENCHBENCHBENCHB", wholeSecret)
	var config strings.Builder
	for i := range 4 {
		arn := fmt.Sprintf("arn:aws:iam::123456789012:role/p%d", i)
		fake.AddRole(stsfake.Role{ARN: arn, Trust: []string{"*"}})
		fmt.Fprintf(&config, "[profile p%d]\nrole_arn = %s\nsource_profile = dev\nregion = eu-central-1\n", i, arn)
	}
	n.write(t, brokers, "home/.aws/config", config.String(), 0o600)
	n.write(t, brokers, "home/.aws/credentials", "[dev]\naws_access_key_id = AKIABENCHBENCHBENCHB\naws_secret_access_key = "+wholeSecret+"\n", 0o600)
	for _, folder := range []string{"run", "of-others"} {
		n.folder(t, brokers, folder)
	}
	n.control, n.socket = filepath.Join(dir, "run/stsbroker/control.sock"), filepath.Join(dir, "run/stsbroker/creds.sock")
	n.env = []string{"HOME=" + dir + "/home", "XDG_RUNTIME_DIR=" + dir + "/run", "PATH=" + os.Getenv("PATH"), "AWS_ENDPOINT_URL_STS=" + url}
	for _, d := range []string{dir, filepath.Join(dir, "run"), filepath.Join(dir, "of-others")} {
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func (n *neighbours) folder(t *testing.T, uid int, name string) {
	t.Helper()
	path := filepath.Join(n.dir, name)
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	for ; path != n.dir; path = filepath.Dir(path) {
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
}

func (n *neighbours) write(t *testing.T, uid int, name, text string, mode os.FileMode) {
	t.Helper()
	n.folder(t, uid, filepath.Dir(name))
	path := filepath.Join(n.dir, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, uid, uid); err != nil {
		t.Fatal(err)
	}
}

func asUser(cmd *exec.Cmd, uid int) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	return cmd
}

func (n *neighbours) configure(t *testing.T, rules string) {
	t.Helper()
	n.write(t, brokers, "home/.config/stsbroker/stsbroker.yaml", fmt.Sprintf(`listen:
  container: ["127.0.0.1:%s"]
  imds: [{ address: "127.0.0.1:%s", profile: p0 }, { address: "127.0.0.1:%s", profile: p1 }]
%s`, n.port, n.imds[0], n.imds[1], rules), 0o600)
}

// serve starts the broker with the rules, and opens its sockets to everybody, as those of
// the system service are: then the kernel's word decides.
func (n *neighbours) serve(t *testing.T, rules string) {
	t.Helper()
	n.configure(t, rules)
	folder := filepath.Dir(n.control)
	if err := os.Chmod(folder, 0o700); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	n.log = &syncBuilder{}
	n.daemon = asUser(exec.Command(filepath.Join(n.dir, "stsbroker"), "serve"), brokers)
	n.daemon.Env, n.daemon.Stderr, n.daemon.Dir = n.env, n.log, n.dir
	if err := n.daemon.Start(); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(20 * time.Second); !strings.Contains(n.log.String(), `"serving"`); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("it does not serve:\n%s", n.log.String())
		}
	}
	for path, mode := range map[string]os.FileMode{folder: 0o711, n.control: 0o666, n.socket: 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
}

func (n *neighbours) halt(t *testing.T) {
	t.Helper()
	_ = n.daemon.Process.Signal(syscall.SIGTERM)
	if err := n.daemon.Wait(); err != nil {
		t.Errorf("serve: %v\n%s", err, n.log.String())
	}
}

// run is the command line in the hands of a user.
func (n *neighbours) run(t *testing.T, uid int, args ...string) (out, complaint string, ok bool) {
	t.Helper()
	home := fmt.Sprintf("of-others/%d", uid)
	if _, err := os.Stat(filepath.Join(n.dir, home)); err != nil {
		n.folder(t, uid, home)
		for path, owner := range map[string]int{home: uid, "of-others": 0} {
			if err := os.Chown(filepath.Join(n.dir, path), owner, owner); err != nil {
				t.Fatal(err)
			}
		}
	}
	cmd := asUser(exec.Command(filepath.Join(n.dir, "stsbroker"), append([]string{"--socket", n.control}, args...)...), uid)
	cmd.Env, cmd.Dir = []string{"HOME=" + filepath.Join(n.dir, home), "PATH=" + os.Getenv("PATH")}, n.dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	return stdout.String(), stderr.String(), err == nil
}

// must is run of what works.
func (n *neighbours) must(t *testing.T, uid int, args ...string) string {
	t.Helper()
	out, complaint, ok := n.run(t, uid, args...)
	if !ok {
		t.Fatalf("uid %d: %q: %s%s", uid, args, out, complaint)
	}
	return out
}

// ask has a process of the user make the requests.
func (n *neighbours) ask(t *testing.T, uid int, all ...userAsk) (answers []userAnswer) {
	t.Helper()
	in, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	cmd := asUser(exec.Command(filepath.Join(n.dir, "asker"), "-test.run=^TestUsers$"), uid)
	cmd.Env, cmd.Dir, cmd.Stdin = []string{askerEnv + "=1", "PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}, n.dir, bytes.NewReader(in)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("uid %d: %v\n%s", uid, err, out)
	}
	for line := range strings.Lines(string(out)) {
		if line, ok := strings.CutPrefix(line, "ANSWER "); ok {
			var a userAnswer
			if err := json.Unmarshal([]byte(line), &a); err != nil {
				t.Fatal(err)
			}
			answers = append(answers, a)
		}
	}
	if len(answers) != len(all) {
		t.Fatalf("uid %d: %d answers to %d questions\n%s", uid, len(answers), len(all), out)
	}
	return answers
}

func (n *neighbours) container(profile, token string) userAsk {
	return userAsk{Network: "tcp", Address: "127.0.0.1:" + n.port, Path: "/credentials/" + profile, Token: token}
}

// token is the one that env gives the user for the profile.
func (n *neighbours) token(t *testing.T, uid int, profile string) string {
	t.Helper()
	var vars map[string]any
	out := n.must(t, uid, "env", profile, "--shell", "json")
	if err := json.Unmarshal([]byte(out), &vars); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var find func(v any) string
	find = func(v any) string {
		switch v := v.(type) {
		case string:
			if strings.HasPrefix(v, "stsb1_") {
				return v
			}
		case map[string]any:
			for _, each := range v {
				if found := find(each); found != "" {
					return found
				}
			}
		}
		return ""
	}
	token := find(vars)
	if token == "" {
		t.Fatalf("no token: %s", out)
	}
	return token
}

// Several users on one host, whose broker runs under a uid of its own: each gets only what
// access gives, over the control socket, the container door, the socket of credentials and
// IMDS; whom no rule names gets nothing; and what a rule gave ends with it.
func TestUsers(t *testing.T) {
	if os.Getenv(askerEnv) != "" {
		askAsUser(t)
		return
	}
	if os.Getuid() != 0 {
		t.Skip("not run: only root can start processes of other users")
	}
	fake := stsfake.New()
	sts, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer sts.Close()
	n := newNeighbours(t, sts.URL, fake)
	rules := func(of string) string {
		return fmt.Sprintf("access:\n%s  - { uid: %d, profiles: [p1, p2] }\n  - { token: ci, profiles: [p2] }\n", of, bobs)
	}
	ofAlice := fmt.Sprintf("  - { uid: %d, profiles: [p0] }\n", alices)
	n.serve(t, rules(ofAlice))
	defer func() { n.halt(t) }()

	t.Run("control", n.overControl)

	token := map[int]string{alices: n.token(t, alices, "p0"), bobs: n.token(t, bobs, "p1"), brokers: n.token(t, brokers, "p3"), 0: n.token(t, 0, "p3")}
	ci := strings.TrimSpace(n.must(t, brokers, "token", "create", "ci", "--profile", "p0", "--profile", "p2"))
	socket := func(profile string) userAsk {
		return userAsk{Network: "unix", Address: n.socket, Path: "/credentials/" + profile}
	}
	imds := func(i int) userAsk {
		return userAsk{Network: "tcp", Address: "127.0.0.1:" + n.imds[i], Path: fmt.Sprintf("/latest/meta-data/iam/security-credentials/p%d", i), IMDS: true}
	}
	what := []struct {
		name  string
		ask   userAsk
		given []int // the users whom it is given to; of all, in the order below
	}{
		{"Alice's token", n.container("p0", token[alices]), []int{alices, 0}}, // root could become her
		{"Alice's token, for another profile", n.container("p1", token[alices]), nil},
		{"Bob's token", n.container("p1", token[bobs]), []int{bobs, 0}},
		{"the broker's own", n.container("p3", token[brokers]), []int{brokers, 0}},
		{"root's", n.container("p3", token[0]), []int{0}},
		{"ci, by the rule of its name", n.container("p2", ci), []int{brokers, alices, bobs, eves, 0}},
		{"ci, by the rule of who has it", n.container("p0", ci), []int{alices}},
		{"ci, for what it is not for", n.container("p1", ci), nil},
		{"socket p0", socket("p0"), []int{brokers, alices, 0}},
		{"socket p1", socket("p1"), []int{brokers, bobs, 0}},
		{"socket p2", socket("p2"), []int{brokers, bobs, 0}},
		{"socket p3", socket("p3"), []int{brokers, 0}},
		{"socket, none of that name", socket("no-such"), nil},
		{"IMDS p0", imds(0), []int{brokers, alices}}, // root over TCP may be some container's
		{"IMDS p1", imds(1), []int{brokers, bobs}},
	}
	check := func(t *testing.T, taken func(i, uid int) bool) {
		t.Helper()
		var asks []userAsk
		for _, w := range what {
			asks = append(asks, w.ask)
		}
		for _, uid := range []int{brokers, alices, bobs, eves, 0} {
			for i, a := range n.ask(t, uid, asks...) {
				given := slices.Contains(what[i].given, uid) && (taken == nil || !taken(i, uid))
				has := a.Status == http.StatusOK && strings.Contains(a.Body, `"AccessKeyId"`)
				if has != given || !given && (a.Status != http.StatusForbidden || strings.Contains(a.Body, "AccessKeyId")) {
					t.Errorf("%s, asked by uid %d: %d %s", what[i].name, uid, a.Status, a.Body)
				}
			}
		}
	}
	t.Run("doors", func(t *testing.T) { check(t, nil) })

	// Her rule is taken away, and with it goes what she was given before; and back again.
	without := func(t *testing.T) {
		t.Helper()
		check(t, func(i, uid int) bool {
			return what[i].name == "Alice's token" || uid == alices && what[i].name != "ci, by the rule of its name"
		})
		if _, complaint, ok := n.run(t, alices, "credential-process", "p0"); ok || !strings.Contains(complaint, "belongs to another user") {
			t.Errorf("%v, %s", ok, complaint)
		}
		n.must(t, bobs, "credential-process", "p1")
	}
	t.Run("reload", func(t *testing.T) {
		n.configure(t, rules(""))
		if _, complaint, ok := n.run(t, bobs, "reload"); ok || !strings.Contains(complaint, "only root and the broker's own user may ") {
			t.Errorf("Bob reloads: %v, %s", ok, complaint)
		}
		n.must(t, 0, "reload")
		without(t)
		n.configure(t, rules(ofAlice))
		n.must(t, 0, "reload")
		check(t, nil)
	})
	t.Run("restart", func(t *testing.T) {
		n.halt(t)
		n.serve(t, rules(""))
		without(t)
	})
	if log := n.log.String(); !strings.Contains(log, "no rule under access is for uid "+fmt.Sprint(alices)) {
		t.Errorf("the log does not say which rule was missing:\n%s", log)
	}
}

func (n *neighbours) overControl(t *testing.T) {
	for uid, profiles := range map[int][]string{brokers: {"dev", "p0", "p1", "p2", "p3"}, 0: {"dev", "p0", "p1", "p2", "p3"}, alices: {"p0"}, bobs: {"p1", "p2"}} {
		var st control.Status
		out := n.must(t, uid, "status", "--json")
		if err := json.Unmarshal([]byte(out), &st); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range st.Profiles {
			names = append(names, p.Name)
		}
		slices.Sort(names)
		if names = slices.DeleteFunc(names, func(s string) bool { return s == "dev" }); !slices.Equal(names, slices.DeleteFunc(slices.Clone(profiles), func(s string) bool { return s == "dev" })) {
			t.Errorf("uid %d sees %v", uid, names)
		}
		if guest := uid == alices || uid == bobs; guest == strings.Contains(out, n.dir) || guest == strings.Contains(out, "AWS_ENDPOINT_URL_STS") || guest && len(st.IMDS) != 1 {
			t.Errorf("uid %d sees %s", uid, out)
		}
	}
	refused := map[string]bool{}
	for uid, c := range map[int]struct{ may, not []string }{
		alices: {[]string{"p0"}, []string{"p1", "no-such"}},
		bobs:   {[]string{"p2"}, []string{"p0"}},
		eves:   {nil, []string{"p0"}},
	} {
		does := func(profile string) [][]string {
			return [][]string{
				{"credential-process", profile}, {"env", profile}, {"status", profile}, {"exec", profile, "--", filepath.Join(n.dir, "stsbroker"), "version"},
			}
		}
		for _, profile := range c.may {
			for _, args := range does(profile) {
				if out := n.must(t, uid, args...); out == "" || args[0] == "credential-process" && !strings.Contains(out, `"AccessKeyId"`) {
					t.Errorf("uid %d: %q: %s", uid, args, out)
				}
			}
		}
		for _, profile := range c.not {
			for _, args := range does(profile) {
				out, complaint, ok := n.run(t, uid, args...)
				if ok || out != "" || !strings.HasPrefix(complaint, "stsbroker: ") || strings.Count(complaint, "\n") != 1 {
					t.Errorf("uid %d: %q: %v, %s%s", uid, args, ok, out, complaint)
				}
				if uid != eves {
					refused[strings.ReplaceAll(complaint, profile, "PROFILE")] = true
				}
			}
		}
		commands := [][]string{
			{"token", "list"}, {"token", "create", "x", "--profile", "p0"}, {"token", "revoke", "ci"}, {"keys", "list"}, {"lock"}, {"unlock"}, {"refresh", "p0"}, {"logout", "p0"}, {"whoami", "p0"},
		}
		if uid != alices {
			commands = commands[:1]
		}
		for _, args := range commands {
			want := "only root and the broker's own user may "
			if uid == eves {
				want = "the broker belongs to another user"
			}
			if out, complaint, ok := n.run(t, uid, args...); ok || out != "" || !strings.HasPrefix(complaint, "stsbroker: "+want) {
				t.Errorf("uid %d: %q: %v, %s%s", uid, args, ok, out, complaint)
			}
		}
	}
	if len(refused) != 1 {
		t.Errorf("what they read tells which profiles there are: %v", refused)
	}
}
