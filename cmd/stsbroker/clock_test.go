//go:build clock

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// TestWallClock moves the wall clock of the whole shipped program, without its
// timers, as a suspend or a person with `date -s` does. The program is built with
// a patched time.Now that adds what a file says. (libfaketime does nothing to Go.)
//
// It rebuilds the standard library, so it has a target of its own: make test-clock.
func TestWallClock(t *testing.T) {
	binary := patchedBinary(t)
	for _, c := range []struct {
		name        string
		host, world time.Duration // how far this host's clock moves, and how much time really passed
		ask         bool          // whether somebody asks right after
	}{
		{"suspended for 8 h", 8 * time.Hour, 8 * time.Hour, true},
		{"suspended for 8 h, nobody asks", 8 * time.Hour, 8 * time.Hour, false},
		{"set forward 2 h", 2 * time.Hour, 0, true},
		{"set back 2 h", -2 * time.Hour, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			fake := stsfake.New()
			run, err := fake.Start("127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = run.Close() })
			r := newRig(t, binary, run.URL, "", fake, 2)
			clock := filepath.Join(r.home, "clock")
			r.env = append(r.env, "TEST_WALL_CLOCK="+clock)
			_, stop := r.serve(t)
			t.Cleanup(stop)
			r.wait(t)
			token := r.token(t, 2)
			for _, p := range []string{"p0", "p1"} { // p1 is not asked again
				if left, _ := servedLeft(t, r, run.URL, token, p, 0); left < 50*time.Minute {
					t.Fatalf("%s: %v left at first", p, left)
				}
			}
			mints := fake.Mints()
			fake.SetOffset(c.world)
			if err := os.WriteFile(clock+".new", fmt.Append(nil, int64(c.host/time.Second)), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(clock+".new", clock); err != nil {
				t.Fatal(err)
			}
			moved := time.Now()
			time.Sleep(100 * time.Millisecond) // until the program has read it
			if c.ask {
				left, really := servedLeft(t, r, run.URL, token, "p0", c.host)
				if left < time.Minute || left > time.Hour || really != nil {
					t.Errorf("right after: advertised for another %v, STS says %v", left, really)
				}
				t.Logf("right after: advertised for another %v, STS accepts them", left.Round(time.Second))
			}
			if c.host < 0 {
				return // what was held is as good as before: nothing is due
			}
			for fake.Mints() < mints+2 {
				if time.Since(moved) > 17*time.Second {
					t.Fatalf("%d mints %v after the clock moved, want both profiles renewed within 15 s", fake.Mints()-mints, time.Since(moved))
				}
				time.Sleep(100 * time.Millisecond)
			}
			t.Logf("both profiles were renewed %v after", time.Since(moved).Round(time.Second))
		})
	}
}

// TestHostClockOff starts the shipped program on a host whose clock is wrong, as
// STS would not take its signatures: what it serves is good, and advertised on
// the host's clock for as long as it really lives.
func TestHostClockOff(t *testing.T) {
	binary := patchedBinary(t)
	for _, off := range []time.Duration{20 * time.Minute, -20 * time.Minute} {
		t.Run(off.String(), func(t *testing.T) {
			fake := stsfake.New()
			run, err := fake.Start("127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = run.Close() })
			r := newRig(t, binary, run.URL, "", fake, 1)
			clock := filepath.Join(r.home, "clock")
			if err := os.WriteFile(clock, fmt.Append(nil, int64(off/time.Second)), 0o600); err != nil {
				t.Fatal(err)
			}
			r.env = append(r.env, "TEST_WALL_CLOCK="+clock)
			_, stop := r.serve(t)
			t.Cleanup(stop)
			r.wait(t)
			token := r.token(t, 1)
			for n := 1; n <= 2; n++ {
				left, really := servedLeft(t, r, run.URL, token, "p0", off)
				if left < 55*time.Minute || left > time.Hour || really != nil {
					t.Errorf("set %d: advertised for another %v, STS says %v", n, left, really)
				}
				t.Logf("set %d: advertised for another %v of the hour that it was granted for, and STS accepts it", n, left.Round(time.Second))
				refresh := exec.Command(binary, "refresh", "p0")
				refresh.Env = r.env
				if out, err := refresh.CombinedOutput(); err != nil {
					t.Fatalf("refresh: %v\n%s", err, out)
				}
			}
			refused := 0
			for _, c := range fake.Calls() {
				if c.Code != "" {
					refused++
				}
			}
			if refused != 1 || fake.Mints() != 3 {
				t.Errorf("%d calls were refused, %d minted; want the first one refused, and none after", refused, fake.Mints())
			}
		})
	}
}

// servedLeft asks the door, and STS whether it accepts what was served. left is
// on the moved clock of the program.
func servedLeft(t *testing.T, r *rig, url, token, profile string, moved time.Duration) (left time.Duration, really error) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://127.0.0.1:"+r.port+"/credentials/"+profile, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("status %d: %s %v", resp.StatusCode, data, err)
	}
	var c struct{ AccessKeyId, SecretAccessKey, Token, Expiration string } //nolint:revive // the wire's names
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	exp, err := time.Parse(time.RFC3339, c.Expiration)
	if err != nil {
		t.Fatal(err)
	}
	client := sts.New(sts.Options{Region: "eu-central-1", BaseEndpoint: aws.String(url), Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: c.AccessKeyId, SecretAccessKey: c.SecretAccessKey, SessionToken: c.Token}, nil
	})})
	_, really = client.GetCallerIdentity(context.Background(), &sts.GetCallerIdentityInput{})
	return time.Until(exp) - moved, really
}

// patchedBinary builds the program with a clock that the test moves.
func patchedBinary(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	timeGo := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	source, err := os.ReadFile(timeGo)
	if err != nil {
		t.Fatal(err)
	}
	const now = "sec, nsec, mono := runtimeNow()\n"
	patched := strings.Replace(string(source), "func Now() Time {\n\t"+now, "func Now() Time {\n\t"+now+"\tsec += WallOffset.Load()\n", 1)
	patched = strings.Replace(patched, "import (\n", "import (\n\t\"sync/atomic\"\n", 1) + "\nvar WallOffset atomic.Int64\n"
	if !strings.Contains(patched, "sec += WallOffset") {
		t.Fatal("package time of this Go is not as this test knows it: mend the patch")
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		timeGo: patched,
		filepath.Join(here, "zz_clock.go"): `package main

import (
	"os"
	"strconv"
	"time"
)

func init() {
	go func() {
		for {
			if b, err := os.ReadFile(os.Getenv("TEST_WALL_CLOCK")); err == nil {
				if n, err := strconv.ParseInt(string(b), 10, 64); err == nil {
					time.WallOffset.Store(n)
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
}
`,
	}
	overlay := map[string]map[string]string{"Replace": {}}
	i := 0
	for path, text := range files {
		i++
		replacement := filepath.Join(dir, fmt.Sprintf("%d.go", i))
		if err := os.WriteFile(replacement, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay["Replace"][path] = replacement
	}
	data, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "stsbroker")
	cmd := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}
