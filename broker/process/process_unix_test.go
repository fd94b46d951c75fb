//go:build unix

package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
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
	pid := pidIn(t, pidFile)
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

// What a command leaves running ends with it, and holds up no answer by its pipes.
func TestNothingIsLeftBehind(t *testing.T) {
	for _, redirect := range []string{"", "> /dev/null 2>&1"} {
		for part, works := range map[string]bool{"part:good": true, "part:fail": false} {
			pidFile := filepath.Join(t.TempDir(), "pid")
			m := line(t, "sleep 1000 %s & echo $! > '%s'; exec '%s' %s", redirect, pidFile, self(t), part)
			c, err := m.Mint(t.Context(), broker.MintInput{})
			if works != (err == nil && c.AccessKeyID == "ASIA1") {
				t.Error(part, c, err)
			}
			if pid := pidIn(t, pidFile); !gone(pid) {
				t.Errorf("%s: process %d outlived the command", part, pid)
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

// A command's child with a session of its own, as agents have, was meant to stay.
func TestWhatDetachedItselfStays(t *testing.T) {
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip("not run: no setsid here")
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	m := line(t, `setsid sh -c 'echo $$ > "$1.new"; mv "$1.new" "$1"; exec sleep 1000' sh '%s' > /dev/null 2>&1 & until test -e '%s'; do sleep 0.01; done; exec '%s' part:good`, pidFile, pidFile, self(t))
	c, err := m.Mint(t.Context(), broker.MintInput{})
	if err != nil || c.AccessKeyID != "ASIA1" {
		t.Error(c, err)
	}
	if err := syscall.Kill(pidIn(t, pidFile), syscall.SIGKILL); err != nil {
		t.Errorf("what the command detached was ended: %v", err)
	}
}

func pidIn(t *testing.T, file string) int {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || pid <= 1 {
		t.Fatal(pid, err)
	}
	return pid
}

func TestWhyItCannotBeRun(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain, odd, lost := file("plain", "#!/bin/sh\n", 0o600), file("odd", "\x00\x01\x02\x03", 0o700), file("lost", "#!/nowhere/sh\n", 0o700)
	const onPath = "is it installed, and on the PATH of stsbroker serve?"
	for _, tc := range []struct {
		o    Options
		want string
	}{
		{Options{Argv: []string{"no-such-program-anywhere"}}, onPath},
		{Options{Argv: []string{filepath.Join(dir, "none")}}, "there is no such file"},
		{Options{Argv: []string{plain}}, "may not be executed"},
		{Options{Argv: []string{dir}}, "may not be executed"},
		{Options{Argv: []string{odd}}, "is not a program"},
		{Options{Argv: []string{lost}}, "what its first line names"},
		{Options{Line: "no-such-program-anywhere"}, onPath},
		{Options{Line: filepath.Join(dir, "none")}, "there is no such file"},
		{Options{Line: plain}, "may not be executed"},
		{Options{Line: lost}, "(status 127)"},
	} {
		tc.o.Environ = os.Environ()
		if tc.o.Line != "" {
			tc.o.Line += " --password " + canarySecret
		} else {
			tc.o.Argv = append(tc.o.Argv, "--password", canarySecret)
		}
		m, err := New(tc.o)
		if err != nil {
			t.Fatal(err)
		}
		_, err = m.Mint(t.Context(), broker.MintInput{})
		if e := asError(t, err); e.Kind != broker.KindConfig || !strings.Contains(e.Public, tc.want) || strings.Contains(e.Public, "PATH") != (tc.want == onPath) {
			t.Errorf("%+v: %v: %v", tc.o, e.Kind, err)
		}
	}
}

func TestNoTerminal(t *testing.T) {
	_, err := line(t, "if (: < /dev/tty) 2> /dev/null; then echo a terminal >&2; else echo none >&2; fi; exit 1").Mint(t.Context(), broker.MintInput{})
	if e := asError(t, err); fmt.Sprint(e.Cause) != "it said: none" {
		t.Error(err)
	}
}
