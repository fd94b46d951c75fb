//go:build conformance && linux

package conformance

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// patchedBinary builds stsbroker with a wall clock that the file
// $TEST_WALL_CLOCK moves by so many seconds, without the timers, as a suspend
// does. (libfaketime does nothing to Go.) The first build takes the standard
// library along; Go caches it.
func patchedBinary(t *testing.T) string {
	t.Helper()
	dir, in := tempDir(t), newInstaller(t)
	root, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	timeGo := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	source, err := os.ReadFile(timeGo)
	if err != nil {
		t.Fatal(err)
	}
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	patched := strings.Replace(string(source), now, now+"\tsec += WallOffset.Load()\n", 1)
	patched = strings.Replace(patched, "import (\n", "import (\n\t\"sync/atomic\"\n", 1) + "\nvar WallOffset atomic.Int64\n"
	if !strings.Contains(patched, "sec += WallOffset") {
		t.Fatal("package time of this Go is not as this test knows it: mend the patch")
	}
	mover := `package main

import (
	"os"
	"strconv"
	"strings"
	"time"
)

func init() {
	go func() {
		for {
			if b, err := os.ReadFile(os.Getenv("TEST_WALL_CLOCK")); err == nil {
				if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
					time.WallOffset.Store(n)
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
}
`
	writeFile(t, filepath.Join(dir, "time.go"), patched)
	writeFile(t, filepath.Join(dir, "mover.go"), mover)
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {
		timeGo: filepath.Join(dir, "time.go"),
		filepath.Join(in.repo, "cmd", "stsbroker", "zz_clock.go"): filepath.Join(dir, "mover.go"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "overlay.json"), string(overlay))
	binary := filepath.Join(dir, "stsbroker")
	build := in.command(in.repo, "go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, "./cmd/stsbroker")
	build.Env = append(build.Env, "CGO_ENABLED=0")
	if err := do(build); err != nil {
		t.Fatal(err)
	}
	return binary
}
