package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// talkCmd runs a command on a terminal of its own and wants its status. The lines of
// the file are what happens there, one after the other:
//
//	< TEXT   is shown by the program
//	> TEXT   is typed, and seen
//	! TEXT   is typed, and must not be seen: the terminal's echo has to be off, and TEXT is nowhere on it at the end
//	^C       is pressed, where echo is off
//	@        the address of a sign-in that is shown is opened in a browser, and allowed
//
// At the end echo has to be on.
func talkCmd(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	path, err := exec.LookPath(args[2])
	ts.Check(err)
	t, err := openTerminal()
	ts.Check(err)
	defer t.close()
	cmd := exec.Command(path, args[3:]...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), environ(ts)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = t.user, t.user, t.user
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	ts.Check(cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	var unseen []string
	for _, line := range strings.Split(strings.TrimRight(ts.ReadFile(args[0]), "\n"), "\n") {
		text := strings.TrimPrefix(line[1:], " ")
		switch line[0] {
		case '<':
			err = t.until("shows "+text, func() bool { return t.saw(text) })
		case '>':
			if err = t.until("echoes", t.echoes); err == nil {
				err = t.press(text + "\n")
			}
		case '!':
			unseen = append(unseen, text)
			if err = t.until("echoes nothing", func() bool { return !t.echoes() }); err == nil {
				err = t.press(text + "\n")
			}
		case '^':
			if err = t.until("echoes nothing", func() bool { return !t.echoes() }); err == nil {
				err = t.press("\x03")
			}
		case '@':
			address := ""
			if err = t.until("shows an address", func() bool { address = addressIn(t.shown()); return address != "" }); err == nil {
				_, _, err = visit(address, "allow")
			}
		default:
			err = errors.New("a line begins with <, >, !, ^ or @")
		}
		if err != nil {
			ts.Fatalf("%s: %v; the terminal shows:\n%s", line, err, t.shown())
		}
	}
	select {
	case err = <-done:
	case <-time.After(20 * time.Second):
		ts.Fatalf("it goes on; the terminal shows:\n%s", t.shown())
	}
	var exit *exec.ExitError
	got := 0
	if errors.As(err, &exit) {
		if got = exit.ExitCode(); got < 0 {
			got = 128 + int(exit.Sys().(syscall.WaitStatus).Signal())
		}
	} else {
		ts.Check(err)
	}
	echoes := t.echoes()
	t.end()
	fmt.Fprint(ts.Stdout(), strings.ReplaceAll(t.shown(), "\r\n", "\n"))
	if got != want {
		ts.Fatalf("status %d, want %d; the terminal shows:\n%s", got, want, t.shown())
	}
	if !echoes {
		ts.Fatalf("echo is off at the end")
	}
	for _, text := range unseen {
		if strings.Contains(t.shown(), text) {
			ts.Fatalf("%q is seen:\n%s", text, t.shown())
		}
	}
}

// terminal is a pseudo-terminal: the test's end, and the one that programs have.
type terminal struct {
	test, user *os.File
	read       chan struct{} // closed when all was read

	mu   sync.Mutex
	text bytes.Buffer
	seen int // of text, by expectations before
}

func openTerminal() (*terminal, error) {
	test, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	fd := int(test.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, errors.Join(err, test.Close())
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, errors.Join(err, test.Close())
	}
	user, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, errors.Join(err, test.Close())
	}
	t := &terminal{test: test, user: user, read: make(chan struct{})}
	go func() {
		defer close(t.read)
		b := make([]byte, 4096)
		for {
			n, err := test.Read(b)
			t.mu.Lock()
			t.text.Write(b[:n])
			t.mu.Unlock()
			if err != nil { // EIO, once nobody has the other end
				return
			}
		}
	}()
	return t, nil
}

// end waits for what was written before the programs' end was closed.
func (t *terminal) end() {
	_ = t.user.Close()
	select {
	case <-t.read:
	case <-time.After(5 * time.Second): // somebody in the background has it still
	}
}

func (t *terminal) close() { t.end(); _ = t.test.Close() }

func (t *terminal) press(keys string) error {
	_, err := t.test.WriteString(keys)
	return err
}

func (t *terminal) echoes() bool {
	state, err := unix.IoctlGetTermios(int(t.user.Fd()), unix.TCGETS)
	return err == nil && state.Lflag&unix.ECHO != 0
}

func (t *terminal) shown() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// saw reports whether text was shown after all that was expected before.
func (t *terminal) saw(text string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := bytes.Index(t.text.Bytes()[t.seen:], []byte(text))
	if i >= 0 {
		t.seen += i + len(text)
	}
	return i >= 0
}

func (t *terminal) until(what string, f func() bool) error {
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return errors.New("it never " + what)
		}
	}
	return nil
}
