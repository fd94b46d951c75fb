//go:build unix

package sealedfile

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/seal"
)

// The jobs of a child that shares the file; see TestMain. A line in the file "mints"
// beside it is a call of STS.
func mintInChild(path, role string) {
	id, err := seal.ParseIdentity([]byte(testIdentity))
	if err != nil {
		fail(err)
	}
	key, err := mintOnce(context.Background(), path, id, role, func() {
		f, err := os.OpenFile(filepath.Join(filepath.Dir(path), "mints"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err == nil {
			_, err = fmt.Fprintln(f, role)
		}
		if err != nil {
			fail(err)
		}
		_ = f.Close()
		<-time.After(200 * time.Millisecond) // STS takes its time
	})
	if err != nil {
		fail(err)
	}
	fmt.Println(key)
}

func holdInChild(path string) {
	id, err := seal.ParseIdentity([]byte(testIdentity))
	if err != nil {
		fail(err)
	}
	s, err := OpenShared(path, id)
	if err != nil {
		fail(err)
	}
	unlock, err := s.Lock(context.Background(), broker.Key{})
	if err != nil {
		fail(err)
	}
	_ = s.PutIfNewer(context.Background(), keyOf("half done"), setOf("HALF", time.Hour))
	fmt.Println("held")
	<-time.After(time.Minute) // or the kill
	unlock()
}

func mintsBeside(t *testing.T, path string) int {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(filepath.Dir(path), "mints"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(raw), "\n")
}

// together starts a process for each role and returns what they print.
func together(t *testing.T, path string, roles []string) (keys []string) {
	t.Helper()
	type process struct {
		*exec.Cmd
		out, err bytes.Buffer
	}
	var all []*process
	for _, role := range roles {
		p := &process{Cmd: child(t, "mint", path)}
		p.Args = append(p.Args, role)
		p.Stdout, p.Stderr = &p.out, &p.err
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	for _, p := range all {
		if err := p.Wait(); err != nil {
			t.Errorf("%v: %s", err, p.err.Bytes())
		}
		keys = append(keys, strings.TrimSpace(p.out.String()))
	}
	return keys
}

// Fifty processes at once that need the same: one of them asks STS.
func TestProcessesShareOneMint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases")
	roles := make([]string, 50)
	for i := range roles {
		roles[i] = "dev"
	}
	keys := together(t, path, roles)
	for _, key := range keys {
		if key != keys[0] || key == "" {
			t.Errorf("got %q and %q", keys[0], key)
		}
	}
	if n := mintsBeside(t, path); n != 1 {
		t.Errorf("%d mints", n)
	}
}

// Processes at once that need something different each: all of it is in the file.
func TestProcessesLoseNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases")
	var roles []string
	for i := range 12 {
		roles = append(roles, fmt.Sprintf("role%d", i))
	}
	keys := together(t, path, roles)
	id, err := seal.ParseIdentity([]byte(testIdentity))
	if err != nil {
		t.Fatal(err)
	}
	held := map[string]bool{}
	for _, c := range onDisk(t, path, id).m {
		held[c.AccessKeyID] = true
	}
	for i, key := range keys {
		if !held[key] {
			t.Errorf("the set of %s, %q, is lost", roles[i], key)
		}
	}
	if len(held) != len(roles)+1 { // and that of their source, minted once
		t.Errorf("%d sets in the file", len(held))
	}
	if again := together(t, path, roles); fmt.Sprint(again) != fmt.Sprint(keys) || mintsBeside(t, path) != len(roles) {
		t.Errorf("the next processes got %v, those before %v, after %d mints", again, keys, mintsBeside(t, path))
	}
}

// A process that is killed while it has the lock leaves it to the next, and nothing half done.
func TestKilledHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases")
	cmd := child(t, "hold", path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("%q, %v", line, err)
	}
	id, err := seal.ParseIdentity([]byte(testIdentity))
	if err != nil {
		t.Fatal(err)
	}
	s := openShared(t, path, id)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.Lock(ctx, broker.Key{}); err == nil {
		t.Error("two have the lock")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	began := time.Now()
	unlock := lock(t, s)
	if took := time.Since(began); took > time.Second {
		t.Errorf("the lock came %v after the kill", took)
	}
	unlock()
	if idIn(t, s, "half done") != "" {
		t.Error("what was not finished is there")
	}
}
