package main

import (
	"cmp"
	"context"
	"errors"
	"strings"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/internal/control"
)

// embedded runs f with a broker of its own, which ends when f does and leaves
// nothing behind.
func embedded(ctx context.Context, g *globals, f func(context.Context, control.Service) error) error {
	harden()
	p, err := findPlace(g, false)
	if err != nil {
		return err
	}
	a, findings, err := newApp(settings{place: p, log: zap.NewNop(), embedded: true})
	if err != nil {
		return cmp.Or(firstError(findings), err)
	}
	if err := a.listen(ctx); err != nil {
		return err
	}
	a.bind = testPeer(a.log)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- a.run(serving) }()
	err = f(ctx, a.self())
	stop()
	if stopped := <-done; err == nil {
		err = stopped
	}
	return err
}

// firstError is the first finding that stops the start, as one line.
func firstError(findings []Finding) error {
	for _, f := range findings {
		if f.Severity == SeverityError {
			return errors.New(strings.TrimSpace(f.String()) + "; stsbroker check shows everything")
		}
	}
	return nil
}
