//go:build conformance

package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// TestReadmeOnALaptop runs the lines of the README's first minute exactly as they are
// printed, with the AWS CLI of PyPI, in the home of somebody whose profile is called
// PROFILE. internal/booted and deploy/manifests run the sections on the other two ways.
func TestReadmeOnALaptop(t *testing.T) {
	in := newInstaller(t)
	aws := in.python("client-awscli1", "clients/awscli1/requirements.txt", "awscli", nil)
	need(t, aws)
	blocks := readmeBlocks(t, "On a laptop, in one minute")
	lines := 0
	for _, b := range blocks[:2] {
		lines += strings.Count(b, "\n")
	}
	if lines > 10 {
		t.Errorf("%d lines, more than ten", lines)
	}
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	fake := stsfake.New()
	secret := newSecret()
	fake.AddUser("me", "AKIALAPTOPLAPTOPLAPT", secret)
	fake.AddRole(stsfake.Role{ARN: "arn:aws:iam::" + account + ":role/laptop", Trust: []string{"*"}})
	sts, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sts.Close() })

	dir := tempDir(t)
	home := filepath.Join(dir, "home")
	writeFile(t, filepath.Join(home, ".aws/config"), "[profile PROFILE]\nrole_arn = arn:aws:iam::"+account+":role/laptop\nsource_profile = work\nregion = eu-central-1")
	writeFile(t, filepath.Join(home, ".aws/credentials"), section("work", keyPair{"AKIALAPTOPLAPTOPLAPT", secret}))
	// Only because another program may have the usual port.
	writeFile(t, filepath.Join(home, ".config/stsbroker/stsbroker.yaml"), fmt.Sprintf(`listen: { container: ["127.0.0.1:%d"] }`, freePorts(t, 1)[0]))
	if err := os.MkdirAll(filepath.Join(home, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	goenv := run(t.Context(), repo, os.Environ(), "go", "env", "GOMODCACHE", "GOCACHE", "GOPROXY", "GOFLAGS", "GOSUMDB")
	values := strings.Split(goenv.stdout, "\n")
	if goenv.err != nil || len(values) < 5 {
		t.Fatal(goenv)
	}
	gopath := filepath.Join(dir, "go") // $(go env GOPATH)/bin is on the PATH
	env := cleanEnv(home, "AWS_ENDPOINT_URL_STS="+sts.URL, "GOPATH="+gopath, "GOMODCACHE="+values[0], "GOCACHE="+values[1], "GOPROXY="+values[2], "GOFLAGS="+values[3], "GOSUMDB="+values[4])
	env[0] = "PATH=" + filepath.Join(gopath, "bin") + ":" + filepath.Dir(aws.path) + ":" + os.Getenv("PATH")

	broker := start(t, dir, env, "laptop", "sh", "-e", "-c", "cd '"+repo+"'\n"+blocks[0])
	broker.await(t, 2*time.Minute, func() error { return run(t.Context(), repo, env, "sh", "-c", "stsbroker ready").err })
	r := run(t.Context(), repo, env, "sh", "-e", "-c", blocks[1])
	if r.err != nil || !strings.Contains(r.stdout, "assumed-role/laptop/") {
		t.Fatalf("%s\n%s", blocks[1], r)
	}
	t.Logf("%d lines; AWS CLI %s: %s", lines, aws.version, r.stdout)
}

// readmeBlocks are the shell lines below a heading of the README.
func readmeBlocks(t *testing.T, heading string) (blocks []string) {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for ok {
		var block string
		if _, section, ok = strings.Cut(section, "```sh\n"); ok {
			block, section, ok = strings.Cut(section, "```\n")
			blocks = append(blocks, block)
		}
	}
	if len(blocks) < 2 {
		t.Fatalf("the README has %d blocks of lines below %q", len(blocks), heading)
	}
	return blocks
}
