// Package process runs commands of the user's, for what only they can tell:
// credentials, as JSON that AWS describes in "Sourcing credentials with an
// external process" (AWS CLI user guide) and its SDKs read, or one secret, such
// as a token or an MFA code.
//
// A command gets no input, no terminal, little time and a small environment
// (see [Environment]), and it is never this program itself (see [IsSelf]).
//
//   - process.go: the [broker.Minter] that a credential process is
//   - answer.go: what a credential process must print
//   - output.go: a command that prints one secret
//   - run.go: how any command is run
//   - environ.go: what a command gets to see, and nesting
//   - self.go: recognising our own executable
package process

import (
	"context"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// Minter runs one credential process. It is a [broker.Minter].
type Minter struct{ command }

var _ broker.Minter = (*Minter)(nil)

// New checks the options. Its error is of [broker.KindConfig]: there is no
// command, or it is this program itself.
func New(o Options) (*Minter, error) {
	c, err := newCommand("credential process", o)
	if err != nil {
		return nil, err
	}
	return &Minter{c}, nil
}

// Deadline is how much time [Minter.Mint] may need: more than a call to STS.
func (m *Minter) Deadline() time.Duration { return m.deadline() }

// Digest implements [broker.Minter].
func (m *Minter) Digest() broker.Digest { return m.digest() }

// Mint runs the command and returns what it printed. The command and its
// children (on Windows: the command alone) are killed when ctx ends or after
// 60 seconds, and so are children that the command leaves behind (on Windows
// they stay), unless they made a session of their own. What the command says on standard error goes, in part, to the
// cause of an error, for the log; what it prints on standard output, and its
// arguments, never do.
func (m *Minter) Mint(ctx context.Context, _ broker.MintInput) (broker.Credentials, error) {
	out, err := m.run(ctx)
	if err != nil {
		return broker.Credentials{}, err
	}
	c, bad := parse(out, time.Now())
	if bad != nil {
		return broker.Credentials{}, m.refuse(bad.kind, nil, "%s", bad.text)
	}
	return c, nil
}
