//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// TestWarmRestart: fifty leases are held, the broker is killed, STS is down. The next
// broker serves all of them, to the token of before, and STS is not asked at all. A
// client that tries a refused connection again gets nothing but credentials.
func TestWarmRestart(t *testing.T) {
	const profiles, rounds = 50, 5
	fake := stsfake.New()
	run, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer run.Close()
	r := newRig(t, shipped(t), run.URL, "", fake, profiles)
	r.env = append(r.env, varIdentityFile+"="+filepath.Join(r.home, "keys", "identity"))

	var log syncBuilder
	serve := func() *exec.Cmd {
		cmd := exec.Command(r.binary, "serve")
		cmd.Env, cmd.Stderr = r.env, &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	kill := func(cmd *exec.Cmd) {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	// answer is the first that is more than a refused connection.
	answer := func(token, profile string) (status int, body []byte) {
		for until := time.Now().Add(10 * time.Second); ; {
			req, err := http.NewRequest(http.MethodGet, "http://127.0.0.1:"+r.port+"/credentials/"+profile, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", token)
			resp, err := client.Do(req)
			if err != nil {
				if time.Now().After(until) {
					t.Fatalf("%v\n%s", err, log.String())
				}
				time.Sleep(100 * time.Microsecond) // the port is not open yet
				continue
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode, body
		}
	}

	cmd := serve()
	defer func() { kill(cmd) }()
	r.wait(t)
	token := r.token(t, profiles)
	held := map[string][]byte{}
	for i := range profiles {
		name := fmt.Sprintf("p%d", i)
		for tries := 0; ; tries++ { // the budget of calls makes the last ones wait
			status, body := answer(token, name)
			if status == http.StatusOK {
				held[name] = body
				break
			}
			if tries == 20 {
				t.Fatalf("%s: %d %s", name, status, body)
			}
		}
	}
	for {
		var st control.Status
		if err := json.Unmarshal([]byte(r.run(t, "status", "--json")), &st); err != nil {
			t.Fatal(err)
		}
		if st.Sealed == nil || st.Sealed.Error != "" {
			t.Fatalf("%+v", st.Sealed)
		}
		if !st.Sealed.Unsaved {
			break
		}
	}
	fake.SetFault(stsfake.Fault{Kind: stsfake.FaultUnavailable})
	calls := fake.Total()
	if calls < profiles {
		t.Fatalf("%d calls", calls)
	}

	var took []time.Duration
	for range rounds {
		kill(cmd)
		began := time.Now()
		cmd = serve()
		for i := range profiles {
			name := fmt.Sprintf("p%d", i)
			status, body := answer(token, name)
			if i == 0 {
				took = append(took, time.Since(began))
			}
			if status != http.StatusOK || !bytes.Equal(body, held[name]) {
				t.Fatalf("%s: %d %s, before the restart %s", name, status, body, held[name])
			}
		}
	}
	if n := fake.Total() - calls; n != 0 {
		t.Errorf("%d calls of STS", n)
	}
	slices.Sort(took)
	t.Logf("from start to the first of %d warm leases: median %v of %v", profiles, took[rounds/2], took)
	if took[0] > time.Second {
		t.Error("slow")
	}

	canaries := []string{wholeSecret, "AKIABENCH", token}
	for _, body := range held {
		var c control.Credentials
		if err := json.Unmarshal(bytes.ReplaceAll(body, []byte(`"Token"`), []byte(`"SessionToken"`)), &c); err != nil || c.SecretAccessKey == "" || c.SessionToken == "" {
			t.Fatalf("%s: %v", body, err)
		}
		canaries = append(canaries, c.AccessKeyID, c.SecretAccessKey, c.SessionToken)
	}
	files := 0
	if err := filepath.WalkDir(filepath.Join(r.home, ".local", "state", "stsbroker"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		for _, c := range canaries {
			if strings.Contains(string(raw), c) {
				t.Errorf("%s holds %.8s…", path, c)
			}
		}
		files++
		return err
	}); err != nil || files < 3 {
		t.Errorf("%d files, %v", files, err)
	}
}
