//go:build unix

package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

func line(t *testing.T, format string, args ...any) *Minter {
	t.Helper()
	m, err := New(Options{Line: fmt.Sprintf(format, args...), Environ: os.Environ()})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestLineIsRunByAShell(t *testing.T) {
	c, err := line(t, `A='x y'; test "$A" = "x y" && '%s' "part:good" | cat`, self(t)).Mint(t.Context(), broker.MintInput{})
	if err != nil || c.AccessKeyID != "ASIA1" {
		t.Fatal(c, err)
	}
	_, err = line(t, "no-such-program-anywhere").Mint(t.Context(), broker.MintInput{})
	if e := asError(t, err); e.Kind != broker.KindConfig || !strings.Contains(e.Public, "installed") {
		t.Fatal(err)
	}
}

// TestGrandchildIsKilledToo reads the pid of a child of the command and waits
// for the kernel to say that it is gone.
func TestGrandchildIsKilledToo(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	m := line(t, "sleep 1000 & echo $! > '%s'; wait", pidFile)
	m.limit = 500 * time.Millisecond
	_, err := m.Mint(t.Context(), broker.MintInput{})
	if e := asError(t, err); !strings.Contains(e.Public, "was killed") {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if !gone(pid) {
		t.Errorf("process %d outlived the command", pid)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// gone reports whether the process has ended; it may still wait to be reaped
// by whoever adopted it. SIGKILL was sent, so that this cannot take for ever.
func gone(pid int) bool {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if _, after, ok := strings.Cut(string(stat), ") "); ok && after[0] == 'Z' {
			return true
		}
		if err != nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return true
		}
	}
	return false
}

func TestChildLeftBehindDoesNotHoldUpTheAnswer(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	m := line(t, "sleep 1000 & echo $! > '%s'; exec '%s' part:good", pidFile, self(t))
	c, err := m.Mint(t.Context(), broker.MintInput{})
	if err != nil || c.AccessKeyID != "ASIA1" {
		t.Error(c, err)
	}
	raw, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("what the command left running was ended: %v", err)
	}
}

func TestNoTerminal(t *testing.T) {
	_, err := line(t, "if (: < /dev/tty) 2> /dev/null; then echo a terminal >&2; else echo none >&2; fi; exit 1").Mint(t.Context(), broker.MintInput{})
	if e := asError(t, err); fmt.Sprint(e.Cause) != "it said: none" {
		t.Error(err)
	}
}
