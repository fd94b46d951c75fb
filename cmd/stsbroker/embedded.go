package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/internal/control"
)

// embedded runs f with a broker of its own, which ends when f does and leaves
// nothing behind.
func embedded(ctx context.Context, g *globals, f func(context.Context, control.Service) error) error {
	return embeddedApp(ctx, g, settings{imds: g.imds}, f)
}

// withState runs f with a running broker, or with an embedded one that works on the
// state folder, under its lock.
func withState(ctx context.Context, g *globals, f func(context.Context, control.Service) error) error {
	c, err := connect(ctx, g)
	if none := (errNoDaemon{}); errors.As(err, &none) && g.socket == "" {
		return embeddedApp(ctx, g, settings{keeps: true}, f)
	}
	if err != nil {
		return err
	}
	return f(ctx, c)
}

func embeddedApp(ctx context.Context, g *globals, s settings, f func(context.Context, control.Service) error) error {
	p, err := findPlace(g, false)
	if err != nil {
		return err
	}
	s.place, s.log, s.embedded = p, zap.NewNop(), true
	a, findings, err := newApp(s)
	if err != nil {
		return cmp.Or(firstError(findings), err)
	}
	if err := a.listen(ctx); err != nil {
		return errors.Join(err, a.close())
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- a.run(serving) }()
	err = f(ctx, a.self())
	stop()
	stopped := <-done
	switch {
	case err == nil:
		return stopped
	case ctx.Err() != nil && !errors.As(err, new(exitStatus)):
		return context.Cause(ctx) // whatever failed, it was told to
	}
	return err
}

// firstError is the first finding that stops the start, as one line that says how
// many there are.
func firstError(findings []Finding) error {
	var first error
	more := 0
	for _, f := range findings {
		switch {
		case f.Severity != SeverityError:
		case first == nil:
			first = errors.New(f.String())
		default:
			more++
		}
	}
	if more > 0 {
		return fmt.Errorf("%w (and %d more: stsbroker check shows them)", first, more)
	}
	return first
}
