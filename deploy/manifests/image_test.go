//go:build image

package manifests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"golang.org/x/sys/unix"

	"github.com/stsbroker/stsbroker/deploy/manifests/play"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// The examples, run: the image's own file system, read-only, beside an application with the
// AWS CLI, as the users, with the volumes and the variables that the manifest gives them.
// try.sh says what there has to be.

const (
	standIn = "127.0.0.1:4599" // of STS, in the pod's network
	keyID   = "AKIAIOSFODNN7EXAMPLE"
	secret  = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	account = "arn:aws:iam::" + stsfake.Account
)

func TestMain(m *testing.M) {
	play.Staged()
	os.Exit(m.Run())
}

func needEnv(t *testing.T, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Fatalf("%s is not set; deploy/container/try.sh sets it", name)
	}
	return v
}

// site is a network with STS's stand-in, and the two images.
type site struct {
	net         play.Network
	fake        *stsfake.Server
	broker, app Image
	asked       atomic.Int32 // of the task's role
}

const taskPath = "/v2/credentials/0f1e2d3c"

func newSite(t *testing.T) *site {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can make containers without a daemon")
	}
	s := &site{fake: stsfake.New()}
	s.fake.AddUser("me", keyID, secret)
	s.fake.AddRole(stsfake.Role{ARN: account + ":role/app", Trust: []string{account + ":role/app-stsbroker"}, Subjects: []string{"system:serviceaccount:default:app"}})
	s.fake.AddRole(stsfake.Role{ARN: account + ":role/app-stsbroker", Trust: []string{"*"}})
	var err error
	if s.net, err = play.NewNetwork("169.254.170.2/32"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.net.Close() })
	var agent net.Listener
	var startErr error
	if err := s.net.Do(func() {
		_, err := s.fake.Start(standIn)
		l, err2 := net.Listen("tcp4", "169.254.170.2:80")
		agent, startErr = l, errors.Join(err, err2)
	}); errors.Join(err, startErr) != nil {
		t.Fatal(err, startErr)
	}
	t.Cleanup(func() { _ = agent.Close() })
	task := s.taskRole(t)
	go func() {
		_ = http.Serve(agent, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:gosec // a test's
			if r.URL.Path != taskPath {
				http.NotFound(w, r)
				return
			}
			s.asked.Add(1)
			_, _ = w.Write(task)
		}))
	}()
	s.broker = openImage(t, "IMAGE")
	if s.app, err = HostImage(needEnv(t, "PLAY_APP"), "AWS_ENDPOINT_URL_STS=http://"+standIn); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(s.app.Root) })
	return s
}

// openImage mounts the image that the variable names.
func openImage(t *testing.T, variable string) Image {
	t.Helper()
	img, err := OpenImage(needEnv(t, variable))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := CloseImage(img.Handle); err != nil {
			t.Error(err)
		}
	})
	return img
}

// taskRole are credentials of the task's role, in the form of ECS's agent.
func (s *site) taskRole(t *testing.T) []byte {
	t.Helper()
	outside := httptest.NewServer(s.fake) // this process is in no pod
	defer outside.Close()
	client := sts.New(sts.Options{Region: "eu-central-1", BaseEndpoint: aws.String(outside.URL),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: keyID, SecretAccessKey: secret}, nil
		})})
	out, err := client.AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: aws.String(account + ":role/app-stsbroker"), RoleSessionName: aws.String("task")})
	if err != nil {
		t.Fatal(err)
	}
	c := out.Credentials
	return fmt.Appendf(nil, `{"RoleArn":%q,"AccessKeyId":%q,"SecretAccessKey":%q,"Token":%q,"Expiration":%q}`,
		account+":role/app-stsbroker", *c.AccessKeyId, *c.SecretAccessKey, *c.SessionToken, c.Expiration.UTC().Format(time.RFC3339))
}

// volumes is a folder for them, whose mounts end with the test.
func volumes(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "stsbroker-volumes")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		entries, _ := os.ReadDir(folder)
		for _, e := range entries {
			_ = unix.Unmount(filepath.Join(folder, e.Name()), unix.MNT_DETACH)
		}
		_ = os.RemoveAll(folder)
	})
	if err := os.Chmod(folder, 0o755); err != nil { //nolint:gosec // containers have to get there
		t.Fatal(err)
	}
	return folder
}

// start starts the broker and waits until its probe succeeds.
func (s *site) start(t *testing.T, c play.Container) *play.Running {
	t.Helper()
	c.Env = append(c.Env, "AWS_ENDPOINT_URL_STS=http://"+standIn) // the one thing that no manifest says
	var log bytes.Buffer
	r, err := s.net.Start(c, nil, &log, &log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil || t.Failed() {
			t.Errorf("the broker: %v\n%s", err, log.String())
		}
	})
	var said bytes.Buffer
	for range 200 {
		said.Reset()
		if err := r.Exec(&said, &said, strings.Fields(readyWord)...); err == nil {
			return r
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("it is not ready: %s", said.String())
	return nil
}

// run runs a container to its end.
func (s *site) run(t *testing.T, c play.Container) (out string, err error) {
	t.Helper()
	var b bytes.Buffer
	r, err := s.net.Start(c, nil, &b, &b)
	if err != nil {
		t.Fatal(err)
	}
	err = r.Wait()
	return b.String(), err
}

// judge runs what all examples have in common: a broker that is ready, and an application.
func (s *site) judge(t *testing.T, b, a play.Container, tokens string, arn *regexp.Regexp) {
	t.Helper()
	version := b
	version.Args = []string{"/usr/bin/stsbroker", "version"}
	if out, err := s.run(t, version); err != nil || !strings.Contains(out, "stsbroker") {
		t.Errorf("version: %v: %s", err, out)
	}
	t.Cleanup(func() { // after the broker's end
		if _, err := os.Stat(filepath.Join(tokens, "app")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the token file outlives the broker: %v", err)
		}
	})
	s.start(t, b)
	whoami := []string{"aws", "sts", "get-caller-identity"}

	app := a
	app.Args = []string{"sleep", "infinity"}
	var log bytes.Buffer
	r, err := s.net.Start(app, nil, &log, &log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = unix.Kill(r.PID, unix.SIGKILL) // sleep does not listen, as process 1
		_ = r.Wait()
	}()
	var out bytes.Buffer
	if err := r.Exec(&out, &out, whoami...); err != nil || !arn.MatchString(out.String()) {
		t.Errorf("the application, by exec: %v: %s", err, out.String())
	}
	for _, path := range []string{"/x", "/tokens/x", "/tokens/app", "/usr/x"} {
		out.Reset()
		if err := r.Exec(&out, &out, "sh", "-c", "echo > "+path); err == nil {
			t.Errorf("the application writes to %s: %s", path, out.String())
		}
	}
	info, err := os.Stat(filepath.Join(tokens, "app"))
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); info.Mode() != 0o640 || int(st.Uid) != b.UID || st.Gid != group {
		t.Errorf("the token file: %v of %d:%d", info.Mode(), st.Uid, st.Gid)
	}
	stranger := a
	stranger.GID, stranger.Args = stranger.UID, whoami
	if out, err := s.run(t, stranger); err == nil || !strings.Contains(out, "ermission denied") {
		t.Errorf("the application without its group: %v: %s", err, out)
	}
}

var roleApp = regexp.MustCompile(`"Arn": "arn:aws:sts::` + stsfake.Account + `:assumed-role/app/`)

func TestKubernetesRuns(t *testing.T) {
	s := newSite(t)
	k, err := ReadKubernetes(read(t, "kubernetes/sidecar.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	l := Kubelet{Folder: volumes(t), Token: s.fake.IdentityToken("system:serviceaccount:default:app", time.Hour)}
	b, a, err := l.Containers(k, s.broker, s.app)
	if err != nil {
		t.Fatal(err)
	}
	s.judge(t, b, a, filepath.Join(l.Folder, "tokens"), roleApp)
}

// The broker refuses volumes that others could write to, and says so.
func TestKubernetesOnDiskRefused(t *testing.T) {
	s := newSite(t)
	k, err := ReadKubernetes(read(t, "kubernetes/sidecar.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"run", "state", "tokens"} {
		l := Kubelet{Folder: volumes(t), Token: s.fake.IdentityToken("system:serviceaccount:default:app", time.Hour)}
		b, _, err := l.Containers(k, s.broker, s.app)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(l.Folder, name), 0o777); err != nil { //nolint:gosec // as an emptyDir on disk is
			t.Fatal(err)
		}
		if out, err := s.run(t, b); err == nil || !strings.Contains(out, "has mode 0777: everybody may replace what is in it") {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

func TestECSRuns(t *testing.T) {
	s := newSite(t)
	task, err := ReadECS(read(t, "ecs/task-definition.json"))
	if err != nil {
		t.Fatal(err)
	}
	s.broker = openImage(t, "IMAGE_ECS") // by deploy/ecs/Containerfile
	folder := volumes(t)
	injected := map[string]string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": taskPath} // into every container
	b, a, err := ContainersECS(task, s.broker, s.app, folder, injected)
	if err != nil {
		t.Fatal(err)
	}
	a.Env = append(a.Env, "AWS_MAX_ATTEMPTS=1")
	// By exec, ECS too gives a command the variables of the container: what was printed about env -u is of the task's command.
	whole := a
	a.Args = nil
	for i, e := range a.Env {
		if strings.HasPrefix(e, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=") {
			a.Env = append(append([]string{}, a.Env[:i]...), a.Env[i+1:]...)
			break
		}
	}
	s.judge(t, b, a, filepath.Join(folder, "tokens"), roleApp)
	asked := s.asked.Load()
	if asked == 0 {
		t.Error("the broker did not ask for the task's role")
	}
	if out, err := s.run(t, whole); err != nil || !roleApp.MatchString(out) || s.asked.Load() != asked {
		t.Errorf("the application, as the task has it: %v, the task's role asked for %d times more: %s", err, s.asked.Load()-asked, out)
	}
	whole.Args = whole.Args[3:] // without env -u
	if out, err := s.run(t, whole); err != nil || !strings.Contains(out, ":assumed-role/app-stsbroker/") {
		t.Errorf("without env -u the task's role comes first, and here it does not: %v: %s", err, out)
	}
}

// home is a person's, with a default profile of static keys.
func home(t *testing.T, uid int) string {
	t.Helper()
	folder := volumes(t)
	for name, text := range map[string]string{
		"credentials": "[default]\naws_access_key_id = " + keyID + "\naws_secret_access_key = " + secret + "\n",
		"config":      "[default]\nregion = eu-central-1\nservices = here\n[services here]\nsts =\n  endpoint_url = http://" + standIn + "\n",
	} {
		path := filepath.Join(folder, ".aws", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600), os.Chown(path, uid, uid), os.Chown(filepath.Dir(path), uid, uid)); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func TestComposeRuns(t *testing.T) {
	s := newSite(t)
	p, err := ReadCompose(t.Context(), filepath.Join("..", "compose", "compose.yaml"), "BROKER_UID=1000", "HOME="+home(t, 1000), "IMAGE="+os.Getenv("IMAGE"))
	if err != nil {
		t.Fatal(err)
	}
	folder := volumes(t)
	b, err := ContainerCompose(p, "stsbroker", s.broker, folder)
	if err != nil {
		t.Fatal(err)
	}
	a, err := ContainerCompose(p, "app", s.app, folder)
	if err != nil {
		t.Fatal(err)
	}
	s.judge(t, b, a, filepath.Join(folder, "tokens"), regexp.MustCompile(`"Arn": "`+account+`:user/me"`))
}

// The commands of the README, as they are printed, by a shell that has the stand-in
// for docker: see standin.
func TestReadme(t *testing.T) {
	s := newSite(t)
	section := regexp.MustCompile("(?s)\n## As a sidecar\n.*?\n```sh\n(.*?)```").FindSubmatch(read(t, "../README.md"))
	if section == nil {
		t.Fatal("the README has no section As a sidecar with commands")
	}
	if n := bytes.Count(section[1], []byte("\n")); n > 10 {
		t.Errorf("%d lines", n)
	}
	bin, state := t.TempDir(), volumes(t)
	if out, err := exec.Command("go", "build", "-o", filepath.Join(bin, "docker"), "./standin").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command("sh", "-eux")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Stdin = strings.NewReader(string(section[1]) + "docker compose down\n")
	cache, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	caches := strings.Fields(string(cache))
	cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "IMAGE") || strings.HasPrefix(e, "AWS_") })
	cmd.Env = append(cmd.Env, "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+home(t, os.Getuid()), "GOCACHE="+caches[0], "GOMODCACHE="+caches[1],
		"PLAY_FOLDER="+state, "PLAY_NETWORK="+s.net.Path(), "PLAY_APP_ENV=AWS_ENDPOINT_URL_STS=http://"+standIn)
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte(`"Arn": "`+account+`:user/me"`)) {
		log, _ := os.ReadFile(filepath.Join(state, "stsbroker.log"))
		t.Errorf("%v: %s\n%s", err, out, log)
	}
}
