//go:build unix

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// TestWatchTerminal: the shipped program on a real terminal, through resizes, the end and
// the return of its broker, Ctrl-Z and Ctrl-C.
func TestWatchTerminal(t *testing.T) {
	tmux, err := exec.LookPath("tmux")
	if err != nil {
		t.Skip("not run: tmux is missing")
	}
	fake := stsfake.New()
	sts, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sts.Close() }()
	r := newRig(t, shipped(t), sts.URL, "", fake, 12)
	_, stop := r.serve(t)
	defer func() { stop() }()
	r.wait(t)
	r.run(t, "refresh", "p1")

	dir, err := os.MkdirTemp("", "w") // t.TempDir is too long for a socket on some systems
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ask := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(tmux, append([]string{"-S", filepath.Join(dir, "s"), "-f", "/dev/null"}, args...)...)
		cmd.Env = append(r.env, "LC_ALL=C.UTF-8", "TERM=xterm")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("tmux %v: %v: %s", args, err, out)
		}
		return strings.TrimRight(string(out), "\n ")
	}
	defer func() { ask("kill-server") }()
	screen := func() string { return ask("-u", "capture-pane", "-p", "-t", "w") }
	await := func(what string, good func(s string) bool) string {
		t.Helper()
		for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
			s := screen()
			if good(s) {
				return s
			}
			if time.Since(began) > 20*time.Second {
				t.Fatalf("%s: this stands there for long:\n%s", what, s)
			}
		}
	}
	shows := func(pattern string) func(string) bool {
		re := regexp.MustCompile(pattern)
		return re.MatchString
	}
	modes := func() string {
		return ask("display-message", "-p", "-t", "w", "#{alternate_on}#{cursor_flag}#{wrap_flag}")
	}
	awaitModes := func(what, want string) {
		t.Helper()
		for began := time.Now(); modes() != want; time.Sleep(20 * time.Millisecond) {
			if time.Since(began) > 20*time.Second {
				t.Fatalf("%s: other screen, cursor, wrapping: %s, want %s", what, modes(), want)
			}
		}
	}

	shell := "env -i TERM=screen PS1='$ '"
	for _, v := range r.env {
		shell += " " + shQuote(v)
	}
	ask("-u", "new-session", "-d", "-x", "100", "-y", "30", "-s", "w", shell+" sh -i")
	ask("set-option", "-g", "status", "off")
	await("the shell", shows(`(?m)^\$`))
	ask("send-keys", "-t", "w", "echo before; "+r.binary+" status --watch", "Enter")
	first := await("the watcher", shows(`p1 +fresh +(60m|59m|1h00m) +█+`))
	if !strings.HasPrefix(first, "stsbroker ") || strings.Contains(first, "before") || !strings.Contains(first, "13 profiles, 1 held") && !strings.Contains(first, "12 profiles, 1 held") {
		t.Errorf("\n%s", first)
	}
	awaitModes("while it runs", "100")
	await("the clock", func(s string) bool { return clockOf(s) != clockOf(first) })
	r.run(t, "refresh", "p2")
	await("an event", shows(`(?m)^\d\d:\d\d:\d\d  p2 minted: ASIA`))

	ask("resize-window", "-t", "w", "-x", "45", "-y", "12")
	small := await("a small terminal", func(s string) bool {
		lines := strings.Split(s, "\n")
		return len(lines) == 12 && shows(`… and \d+ more`)(s) && shows(`^stsbroker.* \d\d:\d\d:\d\d$`)(lines[0])
	})
	for _, l := range strings.Split(small, "\n") {
		if cells(l) > 45 {
			t.Errorf("%q", l)
		}
	}
	ask("resize-window", "-t", "w", "-x", "140", "-y", "40")
	await("a large one", shows(`LAST ERROR`))

	stop()
	await("the broker's end", shows(`no answer for \d+s, waiting for one: no broker is running`))
	_, stop = r.serve(t)
	await("its return", func(s string) bool {
		return strings.Contains(s, "the broker answers again") && !strings.Contains(s, "waiting for one")
	})

	ask("send-keys", "-t", "w", "C-z")
	awaitModes("after Ctrl-Z", "011")
	await("the shell's word", shows(`before`))
	ask("send-keys", "-t", "w", "fg", "Enter")
	awaitModes("after fg", "100")
	await("the screen again", shows(`^stsbroker `))

	ask("send-keys", "-t", "w", "C-c")
	awaitModes("after Ctrl-C", "011")
	ask("send-keys", "-t", "w", fmt.Sprintf("echo status $?; %s status --watch nosuch; echo $?", r.binary), "Enter")
	await("a profile that is not there", shows(`(?m)^stsbroker: there is no profile nosuch[^$]*\n1$`))
}

func clockOf(screen string) string {
	line, _, _ := strings.Cut(screen, "\n")
	return line[strings.LastIndexByte(line, ' ')+1:]
}
