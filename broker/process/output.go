package process

import (
	"bytes"
	"context"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// Output is a command that prints one secret: a token, an assertion, a code.
type Output struct{ command }

// NewOutput checks the options. what names the secret to messages, such as "web
// identity token". Its error is of [broker.KindConfig]: there is no command, or
// it is this program itself.
func NewOutput(what string, o Options) (*Output, error) {
	c, err := newCommand(what+" command", o)
	if err != nil {
		return nil, err
	}
	c.own = true
	return &Output{c}, nil
}

// Deadline is how much time [Output.Read] may need.
func (o *Output) Deadline() time.Duration { return o.deadline() }

// Digest is of the command, never of what it prints.
func (o *Output) Digest() broker.Digest { return o.digest() }

// Read runs the command as [Minter.Mint] does, and returns what it printed
// without the white space around it. Its error is a [*broker.Error] whose Own is
// set: it says nothing of STS. A command that fails or prints nothing may do
// better later ([broker.KindUnavailable]); one that cannot be run must be mended
// ([broker.KindConfig]).
func (o *Output) Read(ctx context.Context) (broker.Secret, error) {
	out, err := o.run(ctx)
	if err != nil {
		return broker.Secret{}, err
	}
	if out = bytes.TrimSpace(out); len(out) == 0 {
		return broker.Secret{}, o.refuse(broker.KindUnavailable, nil, "printed nothing")
	}
	return broker.NewSecret(string(out)), nil
}
