// Package process runs credential processes: commands of the user's that print
// credentials as JSON, as AWS describes it in "Sourcing credentials with an
// external process" (AWS CLI user guide) and its SDKs do.
//
// A command gets no input, no terminal, little time and a small environment
// (see [Environment]), and it is never this program itself (see [IsSelf]).
//
//   - process.go: the [broker.Minter]
//   - answer.go: what a command must print
//   - environ.go: what a command gets to see, and nesting
//   - self.go: recognising our own executable
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/stsbroker/stsbroker/broker"
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

// Minter runs one command. It is a [broker.Minter].
type Minter struct {
	argv   []string
	line   string
	env    []string
	self   string
	nested bool
	limit  time.Duration
}

var _ broker.Minter = (*Minter)(nil)

// New checks the options. Its error is of [broker.KindConfig]: there is no
// command, or it is this program itself.
func New(o Options) (*Minter, error) {
	m := &Minter{argv: append([]string(nil), o.Argv...), line: strings.TrimSpace(o.Line), self: o.Self, limit: limit}
	m.env, m.nested = Environment(o.Environ), Nested(o.Environ)
	if empty := len(m.argv) == 0 || m.argv[0] == ""; empty == (m.line == "") {
		return nil, refuse(broker.KindConfig, nil, "credential process: give a command")
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

// check is repeated at each run, because PATH may lead elsewhere by then.
func (m *Minter) check() error {
	if m.line != "" && IsSelf(m.line, m.self) || m.line == "" && argvIsSelf(m.argv, m.self) {
		return refuse(broker.KindConfig, nil, "credential process %s is stsbroker itself, which cannot be its own source; name another source for this profile", m.name())
	}
	return nil
}

// Deadline is how much time [Minter.Mint] may need: more than a call to STS.
func (m *Minter) Deadline() time.Duration { return m.limit + lingerOn + time.Second }

// Digest implements [broker.Minter].
func (m *Minter) Digest() broker.Digest {
	if m.line != "" {
		return broker.DigestOf("process line", m.line)
	}
	return broker.DigestOf("process argv", m.argv...)
}

// Mint runs the command and returns what it printed. The command and its
// children (on Windows: the command alone) are killed when ctx ends or after
// 60 seconds. What the command says on standard error goes, in part, to the
// cause of an error, for the log; what it prints on standard output, and its
// arguments, never do.
func (m *Minter) Mint(ctx context.Context, _ broker.MintInput) (broker.Credentials, error) {
	if m.nested {
		return broker.Credentials{}, refuse(broker.KindConfig, nil,
			"credential process %s: not run, because this stsbroker was itself started by a command of a stsbroker (%s is set)", m.name(), DepthVariable)
	}
	if err := m.check(); err != nil {
		return broker.Credentials{}, err
	}
	out, err := m.run(ctx)
	if err != nil {
		return broker.Credentials{}, err
	}
	c, bad := parse(out, time.Now())
	if bad != nil {
		return broker.Credentials{}, refuse(bad.kind, nil, "credential process %s %s", m.name(), bad.text)
	}
	return c, nil
}

func (m *Minter) run(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, m.limit, errTime)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	var cmd *exec.Cmd
	if m.line != "" {
		cmd = shell(ctx, m.line)
	} else {
		cmd = exec.CommandContext(ctx, m.argv[0], m.argv[1:]...)
	}
	isolate(cmd)
	cmd.Env = m.env
	out := &head{max: maxOut, full: func() { stop(errSize) }}
	msg := &head{max: maxErr}
	cmd.Stdout, cmd.Stderr = out, msg
	cmd.WaitDelay = lingerOn

	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case context.Cause(ctx) != nil:
		cause := context.Cause(ctx)
		switch {
		case errors.Is(cause, errTime):
			return nil, refuse(broker.KindUnavailable, said(msg), "credential process %s did not end within %s and was killed", m.name(), m.limit)
		case errors.Is(cause, errSize):
			return nil, refuse(broker.KindUnavailable, said(msg), "credential process %s printed more than %d KB and was killed", m.name(), maxOut>>10)
		}
		return nil, refuse(broker.KindUnavailable, cause, "credential process %s was stopped", m.name())
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // the latter: it left a child that holds its pipes
		return out.buf.Bytes(), nil
	case errors.As(err, &exit):
		if code := exit.ExitCode(); m.line != "" && (code == 126 || code == 127) { // POSIX: the shell could not run it
			return nil, refuse(broker.KindConfig, said(msg), "credential process %s cannot be run; is it installed, and on the PATH of stsbroker serve?", m.name())
		}
		return nil, refuse(broker.KindUnavailable, said(msg), "credential process %s failed: %s; the log has the first line it wrote on standard error", m.name(), exit.ProcessState)
	}
	return nil, refuse(broker.KindConfig, err, "credential process %s cannot be run; is it installed, and on the PATH of stsbroker serve?", m.name())
}

var (
	errTime = errors.New("out of time")
	errSize = errors.New("too much output")
)

// name is the program's, without folder and without arguments: those may hold
// a password.
func (m *Minter) name() string {
	name := program(m.line)
	if m.line == "" {
		name = m.argv[0]
	}
	return fmt.Sprintf("%q", printable(filepath.Base(name)))
}

// said is the first line that a command wrote on standard error.
func said(msg *head) error {
	for line := range bytes.Lines(msg.buf.Bytes()) {
		if s := strings.TrimSpace(printable(string(line))); s != "" {
			return errors.New("it said: " + s)
		}
	}
	return errors.New("it said nothing on standard error")
}

func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
	return strings.ToValidUTF8(s[:min(len(s), maxLine)], "")
}

func refuse(kind broker.Kind, cause error, format string, args ...any) error {
	return &broker.Error{Kind: kind, Public: fmt.Sprintf(format, args...), Cause: cause}
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
