package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// The shipped program: many credential processes at once are one mint, and a thousand
// commands one after the other leave nothing behind.
func TestThousandExecsLeaveNothing(t *testing.T) {
	fake := stsfake.New()
	sts, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sts.Close() }()
	r := newRig(t, shipped(t), sts.URL, "", fake, 1)
	pid, stop := r.serve(t)
	defer stop()
	r.wait(t)

	const atOnce = 50
	outputs := make([]string, atOnce)
	var wg sync.WaitGroup
	for i := range outputs {
		wg.Go(func() {
			cmd := exec.Command(r.binary, "credential-process", "p0")
			cmd.Env = r.env
			out, err := cmd.CombinedOutput() // a word on stderr would be taken for credentials
			if outputs[i] = string(out); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	if slices.Sort(outputs); outputs[0] != outputs[atOnce-1] || !strings.HasPrefix(outputs[0], `{"Version":1,`) {
		t.Errorf("not all got the same set: %.200s and %.200s", outputs[0], outputs[atOnce-1])
	}
	if n := fake.Mints(); n != 1 {
		t.Errorf("%d credential processes at once: %d mints, want 1", atOnce, n)
	}

	const runs = 1000
	before, open := r.holds(t, pid)
	for range runs {
		r.run(t, "exec", "p0", "--", "true")
	}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) { // the last connection is closed a moment after its client
		after, now := r.holds(t, pid)
		if after == before && len(now) <= len(open) { // it may have let go of one toward STS
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("before:\n%s%q\nafter %d times exec:\n%s%q", before, open, runs, after, now)
		}
	}
	if n := fake.Mints(); n != 1 {
		t.Errorf("%d mints after %d times exec, want 1", n, runs)
	}

	stop()
	quiet := r.files(t)
	for range 20 {
		r.run(t, "exec", "p0", "--", "true")
	}
	if now := r.files(t); now != quiet {
		t.Errorf("a broker of exec's own leaves files:\n%s\nbefore:\n%s", now, quiet)
	}
	if n := fake.Mints(); n != 21 {
		t.Errorf("%d mints, want one more for each of 20 brokers of their own", n)
	}
}

// holds is all that the daemon could keep of a client: tokens, children and files in
// words, and open descriptors by what they are.
func (r *rig) holds(t *testing.T, pid int) (words string, open []string) {
	t.Helper()
	folder := fmt.Sprintf("/proc/%d/", pid)
	entries, err := os.ReadDir(folder + "fd")
	switch {
	case errors.Is(err, fs.ErrPermission) && os.Getuid() != 0:
		t.Log("descriptors: not run: nobody but root looks into the daemon")
	case err != nil:
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink(folder + "fd/" + e.Name()); err == nil { // else it is closed by now
			kind, _, _ := strings.Cut(to, ":[")
			open = append(open, kind)
		}
	}
	slices.Sort(open)
	tasks, err := filepath.Glob(folder + "task/*/children")
	if err != nil || len(tasks) == 0 {
		t.Fatal(tasks, err)
	}
	children := ""
	for _, task := range tasks {
		if b, err := os.ReadFile(task); err == nil { // else the thread has ended
			children += string(b)
		}
	}
	return fmt.Sprintf("tokens: %s\nchildren: %q\nfiles: %s\n", r.run(t, "token", "list", "--json"), children, r.files(t)), open
}

func (r *rig) files(t *testing.T) string {
	t.Helper()
	var all []string
	if err := filepath.WalkDir(r.home, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "\n")
}
