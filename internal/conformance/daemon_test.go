//go:build conformance && linux

package conformance

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// household is what a home folder holds before stsbroker starts in it.
type household struct {
	config string            // stsbroker.yaml but for listen, which is added
	listen string            // the section listen, with $CONTAINER for the usual address; "": that alone
	files  map[string]string // others, by their path in the home
	env    []string          // of serve alone: no client sees it
	secret []string          // must not come up in the log
	within []string          // prefix of every command line, for a namespace
}

// home is a home folder with stsbroker serve running in it.
type home struct {
	dir       string
	stsbroker string
	container string // HOST:PORT of the container door
}

// live starts stsbroker serve in a new home.
func live(t *testing.T, k kit, h household) home {
	t.Helper()
	dir := tempDir(t)
	at := home{dir, k.stsbroker, fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1)[0])}
	listen := cmp.Or(h.listen, `{ container: ["$CONTAINER"] }`)
	writeFile(t, filepath.Join(dir, ".config/stsbroker/stsbroker.yaml"),
		"listen: "+strings.ReplaceAll(listen, "$CONTAINER", at.container), strings.ReplaceAll(h.config, "$HOME", dir))
	for path, content := range h.files {
		writeFile(t, filepath.Join(dir, path), strings.ReplaceAll(content, "$HOME", dir))
	}
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	var serveEnv []string
	for _, v := range h.env {
		serveEnv = append(serveEnv, strings.ReplaceAll(v, "$HOME", dir))
	}
	p := start(t, dir, cleanEnv(dir, serveEnv...), "stsbroker", slices.Concat(h.within, []string{k.stsbroker, "serve"})...)
	t.Cleanup(func() {
		log, err := os.ReadFile(p.log)
		if err != nil || len(log) == 0 {
			t.Errorf("no log of serve: %v", err)
		}
		for _, s := range h.secret {
			if strings.Contains(string(log), s) {
				t.Errorf("a long-term secret is in the log of serve")
			}
		}
	})
	p.await(t, 30*time.Second, func() error {
		if r := at.run(t, k.stsbroker, "status"); r.err != nil {
			return fmt.Errorf("stsbroker status: %s", r)
		}
		return nil
	})
	return at
}

// run runs a command as the home's user would.
func (h home) run(t *testing.T, argv ...string) result {
	t.Helper()
	return run(t.Context(), h.dir, cleanEnv(h.dir), argv...)
}

// The ways to a program that uses a profile, as prefixes of its command line.

// exec is stsbroker exec.
func (h home) exec(profile string) []string {
	return []string{h.stsbroker, "exec", profile, "--"}
}

// env is a shell that evaluates what stsbroker env prints.
func (h home) env(profile string) []string {
	return []string{"sh", "-c", `eval "$("$0" env "$1")" && shift && exec "$@"`, h.stsbroker, profile}
}

// bare is env without what keeps the SDK off the home's own AWS files: it
// shows that what is in there would have been used.
func (h home) bare(profile string) []string {
	return []string{"sh", "-c", `eval "$("$0" env "$1")" && unset AWS_CONFIG_FILE AWS_SHARED_CREDENTIALS_FILE && shift && exec "$@"`, h.stsbroker, profile}
}

// door asks the container door itself, until the answer is not "try again".
func (h home) door(t *testing.T, profile string) answer {
	t.Helper()
	r := h.run(t, append(h.env(profile), "sh", "-c", `printf '%s\n%s\n' "$AWS_CONTAINER_CREDENTIALS_FULL_URI" "$AWS_CONTAINER_AUTHORIZATION_TOKEN"`)...)
	lines := strings.Split(r.stdout, "\n")
	if r.err != nil || len(lines) != 3 || lines[0] == "" || lines[1] == "" {
		t.Fatalf("stsbroker env %s: %s", profile, r)
	}
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, lines[0], nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", lines[1])
		resp, err := loopback.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		a, err := readAnswer(resp)
		if err != nil {
			t.Fatal(err)
		}
		if a.status != http.StatusServiceUnavailable || time.Now().After(deadline) {
			return a
		}
	}
}

// served reads the credentials out of an answer of the container door.
func served(t *testing.T, a answer) aws.Credentials {
	t.Helper()
	a.want(t, 200)
	var c struct {
		AccessKeyId, SecretAccessKey, Token string
		Expiration                          time.Time
	}
	if err := json.Unmarshal([]byte(a.body), &c); err != nil || c.AccessKeyId == "" || c.SecretAccessKey == "" || c.Token == "" || c.Expiration.IsZero() {
		t.Fatalf("not a whole set of credentials: %v", err)
	}
	return aws.Credentials{AccessKeyID: c.AccessKeyId, SecretAccessKey: c.SecretAccessKey,
		SessionToken: c.Token, CanExpire: true, Expires: c.Expiration}
}
