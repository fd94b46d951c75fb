package login

import (
	"context"
	"errors"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// slowDown is what a request to slow down adds to the interval (RFC 8628, section 3.5).
const slowDown = 5 * time.Second

// byDevice signs in by the device authorization grant (RFC 8628): a person opens a
// page anywhere, and this asks until that is done.
func (m *Manager) byDevice(ctx context.Context, s Session, a *attempt) error {
	c, err := m.client(ctx, s, true, false)
	if err != nil {
		return err
	}
	d, err := m.api.startDevice(ctx, s, c)
	if f := asFault(err); f != nil && (f.code == codeClient || f.code == codeNotTheClient) {
		if c, err = m.client(ctx, s, true, true); err != nil {
			return err
		}
		d, err = m.api.startDevice(ctx, s, c)
	}
	if err != nil {
		return err
	}
	if d.expires.Before(a.expires) {
		a.expires = d.expires
	}
	a.url, a.code = d.url, d.user
	close(a.ready)

	t := time.NewTimer(d.interval)
	defer t.Stop()
	for time.Now().Before(d.expires) {
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		got, err := m.api.create(ctx, s, c, grantDevice, map[string]broker.Secret{"deviceCode": d.device})
		f := asFault(err)
		switch {
		case err == nil:
			return m.signedIn(s, got)
		case f == nil:
			return err
		case f.code == codePending:
		case f.kind() == broker.KindThrottled:
			d.interval += slowDown
		case f.code == codeExpired:
			return errCodeOver
		case f.code == codeDenied:
			return errRefusedThere
		case f.kind() == broker.KindUnavailable: // the code is good for minutes, a network comes back
		default:
			return err
		}
		t.Reset(d.interval)
	}
	return errCodeOver
}

var (
	errCodeOver     = errors.New("the code is over; run the command again")
	errRefusedThere = errors.New("it was refused in the browser")
)
