package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/printable"
)

const (
	limit    = 60 * time.Second // for the command; what SDKs allow, too
	maxOut   = 64 << 10         // bytes of standard output
	maxErr   = 4 << 10          // bytes of standard error that are looked at
	maxLine  = 200              // bytes of it that go to the log
	lingerOn = 2 * time.Second  // for pipes that the command left to a child of its own
)

// Options say which command to run. Exactly one of Argv and Line is set.
type Options struct {
	// Argv is a program and its arguments, run as they are.
	Argv []string

	// Line is credential_process of the AWS config. It is run by a shell, `sh
	// -c` or on Windows `cmd /C`, as the SDKs for Go and JavaScript do;
	// botocore splits it into words itself. Lines that follow AWS's rules for
	// quoting mean the same to both.
	Line string

	// Environ is the environment of this process, of which the command gets
	// what [Environment] lets through.
	Environ []string

	// Self is the path of our own executable, as [os.Executable] tells it.
	Self string
}

// command is a command and the one way in which any is run.
type command struct {
	what   string // what it is to messages, which begin so
	own    bool   // its errors say nothing of STS: see [broker.Error]
	argv   []string
	line   string
	env    []string
	self   string
	nested bool
	limit  time.Duration
}

func newCommand(what string, o Options) (command, error) {
	c := command{what: what, argv: append([]string(nil), o.Argv...), line: strings.TrimSpace(o.Line), self: o.Self, limit: limit}
	c.env, c.nested = Environment(o.Environ), Nested(o.Environ)
	if empty := len(c.argv) == 0 || c.argv[0] == ""; empty == (c.line == "") {
		return command{}, &broker.Error{Kind: broker.KindConfig, Public: what + ": give a command"}
	}
	return c, c.check()
}

// check is repeated at each run, because PATH may lead elsewhere by then.
func (c *command) check() error {
	if c.line != "" && IsSelf(c.line, c.self) || c.line == "" && argvIsSelf(c.argv, c.self) {
		return c.refuse(broker.KindConfig, nil, "is stsbroker itself, which cannot be its own source; name another source for this profile")
	}
	return nil
}

func (c *command) deadline() time.Duration { return c.limit + lingerOn + time.Second }

func (c *command) digest() broker.Digest {
	if c.line != "" {
		return broker.DigestOf("process line", c.line)
	}
	return broker.DigestOf("process argv", c.argv...)
}

// run returns what the command printed on standard output.
func (c *command) run(ctx context.Context) ([]byte, error) {
	if c.nested {
		return nil, c.refuse(broker.KindConfig, nil, "is not run, because this stsbroker was itself started by a command of a stsbroker (%s is set)", DepthVariable)
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.limit, errTime)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	var cmd *exec.Cmd
	if c.line != "" {
		cmd = shell(ctx, c.line)
	} else {
		cmd = exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	}
	isolate(cmd)
	cmd.Env = c.env
	out := &head{max: maxOut, full: func() { stop(errSize) }}
	msg := &head{max: maxErr}
	cmd.Stdout, cmd.Stderr = out, msg
	cmd.WaitDelay = lingerOn

	err := cmd.Run()
	if cmd.Process != nil {
		endGroup(cmd.Process.Pid)
	}
	var exit *exec.ExitError
	switch {
	case context.Cause(ctx) != nil:
		cause := context.Cause(ctx)
		switch {
		case errors.Is(cause, errTime):
			return nil, c.refuse(broker.KindUnavailable, said(msg), "did not end within %s and was killed", c.limit)
		case errors.Is(cause, errSize):
			return nil, c.refuse(broker.KindUnavailable, said(msg), "printed more than %d KB and was killed", maxOut>>10)
		}
		return nil, c.refuse(broker.KindUnavailable, cause, "was stopped")
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // the latter: it left a child that holds its pipes
		return out.buf.Bytes(), nil
	case errors.As(err, &exit):
		switch code := exit.ExitCode(); { // POSIX, of a shell that could not run it
		case c.line != "" && code == 126:
			return nil, c.refuse(broker.KindConfig, said(msg), "may not be executed, or is not a program; the log has what the shell said")
		case c.line != "" && code == 127 && there(program(c.line)): // then it is something that this one runs
			return nil, c.refuse(broker.KindConfig, said(msg), "ended as shells do where a program is not found (status 127); the log has what was said")
		case c.line != "" && code == 127:
			return nil, c.refuse(broker.KindConfig, said(msg), "%s", notFound(program(c.line)))
		}
		return nil, c.refuse(broker.KindUnavailable, said(msg), "failed: %s; the log has the first line it wrote on standard error", exit.ProcessState)
	}
	return nil, c.refuse(broker.KindConfig, err, "%s", cannotRun(c.argv, err))
}

// cannotRun says why a program could not be started. argv is empty where that is
// the shell.
func cannotRun(argv []string, err error) string {
	var why syscall.Errno
	switch {
	case len(argv) == 0:
		return "cannot be run: there is no shell"
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		if there(argv[0]) {
			return "cannot be run: what its first line names to run it is not there"
		}
		return notFound(argv[0])
	case errors.Is(err, fs.ErrPermission):
		return "may not be executed by the user who runs the broker; see its mode, and that of its folders (chmod +x)"
	case errors.Is(err, syscall.ENOEXEC):
		return "is not a program: a script begins with #! and what runs it, and a binary is of this kind of machine"
	case errors.As(err, &why):
		return "cannot be run: " + why.Error()
	}
	return "cannot be run; the log says why"
}

// there reports whether a name that is a path leads to something.
func there(name string) bool {
	_, err := os.Stat(name)
	return err == nil && strings.ContainsAny(name, separatorsOfPaths)
}

// notFound is for a program that is not there. Only a bare name is looked up.
func notFound(name string) string {
	if strings.ContainsAny(name, separatorsOfPaths) {
		return "cannot be run: there is no such file; correct its path"
	}
	return "cannot be run: it is not found; is it installed, and on the PATH of stsbroker serve?"
}

// separatorsOfPaths are those of any system: a shell line may have either.
const separatorsOfPaths = `/\`

var (
	errTime = errors.New("out of time")
	errSize = errors.New("too much output")
)

// name is the program's, without folder and without arguments: those may hold
// a password.
func (c *command) name() string {
	name := program(c.line)
	if c.line == "" {
		name = c.argv[0]
	}
	return fmt.Sprintf("%q", printable.Text(filepath.Base(name), maxLine))
}

func (c *command) refuse(kind broker.Kind, cause error, format string, args ...any) error {
	text := c.what + " " + c.name() + " " + fmt.Sprintf(format, args...)
	return &broker.Error{Kind: kind, Own: c.own, Public: text, Cause: cause}
}

// said is the first line that a command wrote on standard error.
func said(msg *head) error {
	for line := range bytes.Lines(msg.buf.Bytes()) {
		if s := strings.TrimSpace(printable.Text(string(line), maxLine)); s != "" {
			return errors.New("it said: " + s)
		}
	}
	return errors.New("it said nothing on standard error")
}

// head keeps the first bytes that are written to it and drops the others.
type head struct {
	buf  bytes.Buffer
	max  int
	full func() // called when something was dropped; may be nil
}

var _ io.Writer = (*head)(nil)

func (h *head) Write(p []byte) (int, error) {
	room := h.max - h.buf.Len()
	if len(p) > room && h.full != nil {
		h.full()
	}
	h.buf.Write(p[:min(len(p), room)])
	return len(p), nil
}
