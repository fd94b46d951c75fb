package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/peer"
	"github.com/stsbroker/stsbroker/internal/securefile"
	"github.com/stsbroker/stsbroker/metadata"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

// doorway is what the configuration wants: addresses, or the path of a socket, and what
// answers there.
type doorway struct {
	kind      string
	imds      IMDSConfig // of that kind
	addresses []string
	socket    bool
	handler   http.Handler
}

// key tells a door from all others that are open: its address, unless that is any free one.
func (w doorway) key(address string) string {
	if strings.HasSuffix(address, ":0") {
		return w.kind + " " + w.imds.Profile + " " + address
	}
	return address
}

// door is an open listener. What answers behind it may change; the address stays open.
type door struct {
	key     string // see doorway
	url     string // as clients write it; "" for a socket, or where this host cannot have the address
	handler *swap
	member  *member
}

// swap is a handler that may become another one between two requests.
type swap struct{ now atomic.Pointer[http.Handler] }

// ServeHTTP implements http.Handler.
func (s *swap) ServeHTTP(w http.ResponseWriter, r *http.Request) { (*s.now.Load()).ServeHTTP(w, r) }

// doorways are all that v's configuration wants. Whatever cannot be had here at all is
// the error.
func (v view) doorways() (all []doorway, err error) {
	container := func(t *metadata.Tokenless) http.Handler {
		return metadata.NewContainer(metadata.Container{
			Source: v.broker, Tokens: v.tokens, Roles: func(arn string) []string { return v.app.now.Load().catalog.roles[arn] }, Requests: v.observer, Observer: v.observing, Tokenless: t, Probe: v.probe,
		})
	}
	if tokened := v.cfg.Listen.tokened(); len(tokened) > 0 {
		all = append(all, doorway{kind: broker.DoorContainer, addresses: tokened, handler: container(nil)})
	}
	for _, l := range v.cfg.Listen.Container {
		if l.WithoutToken == nil {
			continue
		}
		if !v.bind {
			return nil, fmt.Errorf("%s:%d: without_token cannot be had here, where the kernel does not tell which user connects; remove it", v.cfg.File, l.Line)
		}
		all = append(all, doorway{kind: broker.DoorPeer, addresses: []string{l.Address}, handler: container(&metadata.Tokenless{Door: broker.DoorPeer, Access: v.tokens, Profiles: l.WithoutToken})})
	}
	if path := v.credentialSocket(); path != "" {
		all = append(all, doorway{kind: broker.DoorSocket, addresses: []string{path}, socket: true, handler: container(&metadata.Tokenless{Door: broker.DoorSocket, Access: v.tokens})})
	}
	if len(v.cfg.Listen.IMDS) > 0 {
		if err := peer.Works(); err != nil {
			return nil, fmt.Errorf("%s: listen.imds cannot be served here, where the kernel does not tell which user connects (%w); remove it, and use the container door", v.cfg.File, err)
		}
	}
	for _, l := range v.cfg.Listen.IMDS {
		all = append(all, doorway{kind: broker.DoorIMDS, imds: l, addresses: []string{l.Address}, handler: metadata.NewIMDS(metadata.IMDS{
			Profile: l.Profile, AllowV1: l.AllowV1, Source: v.broker, Standing: v.broker.StatusOf, Access: v.tokens, Keys: v.imdsKeys,
			Requests: v.observer, Observer: v.observing,
		})})
	}
	if v.cfg.Listen.Metrics != "" {
		all = append(all, doorway{kind: "metrics", addresses: []string{v.cfg.Listen.Metrics}, handler: metadata.Guard("metrics", v.health(), v.observer, v.observing)})
	}
	return all, nil
}

// openDoors opens what v wants and is not open yet. On an error nothing was opened.
func (v view) openDoors(ctx context.Context, wanted []doorway) (opened []*door, err error) {
	defer func() {
		if err == nil {
			return
		}
		for _, d := range opened {
			_ = d.member.leave()
		}
		opened = nil
	}()
	for _, w := range wanted {
		missing := slices.DeleteFunc(slices.Clone(w.addresses), func(a string) bool { return v.doorAt(w.key(a)) != nil })
		if len(missing) == 0 {
			continue
		}
		var listeners []net.Listener
		if w.socket {
			var l net.Listener
			if l, err = v.openSocket(missing[0]); err != nil {
				return opened, err
			}
			listeners = append(listeners, l)
		} else {
			var skipped []string
			if listeners, skipped, err = v.opener().TCP(ctx, missing...); err != nil {
				return opened, err
			}
			v.skipped = append(v.skipped, skipped...)
		}
		for _, address := range missing {
			d := &door{key: w.key(address), handler: &swap{}}
			d.handler.now.Store(&w.handler)
			i := slices.IndexFunc(listeners, func(l net.Listener) bool { return w.socket || answersFor(l, address) })
			if i < 0 { // it was skipped, and is not tried again
				d.member = v.crew.join(nil, nil)
			} else {
				l := listeners[i]
				listeners = slices.Delete(listeners, i, i+1)
				if !w.socket {
					d.url = "http://" + strings.TrimSuffix(l.Addr().String(), ":80")
				}
				d.member = v.serve(v.server(d.handler), l)
			}
			opened = append(opened, d)
		}
	}
	return opened, nil
}

// answersFor reports whether the listener is that of a configured address, whose port
// may be any free one.
func answersFor(l net.Listener, address string) bool {
	want, err := netip.ParseAddrPort(address)
	if err != nil {
		return false
	}
	have, err := netip.ParseAddrPort(l.Addr().String())
	return err == nil && have.Addr().Unmap() == want.Addr() && (want.Port() == 0 || want.Port() == have.Port())
}

func (v view) openSocket(path string) (net.Listener, error) {
	if err := v.socketFolder(path); err != nil {
		return nil, err
	}
	return v.opener().Unix(path, v.socketMode())
}

// socketFolder makes the folder of a socket, or judges the one that systemd has put it in:
// in a folder of others, they could take its place.
func (a *app) socketFolder(path string) error {
	if a.inherited.Has(path) {
		return securefile.CheckFolders(filepath.Dir(path))
	}
	return a.makeFolder(filepath.Dir(path))
}

func (v view) opener() listen.Opener {
	return listen.Opener{Doors: v.cfg.Listen.doors(), Inherited: v.inherited}
}

// takeDoors makes the doors that v wants the ones that are open: what answers behind the
// old ones changes, and those that are wanted no more are returned, still open.
func (v view) takeDoors(wanted []doorway, opened []*door) (gone []*door) {
	all := append(v.doors, opened...)
	var kept []*door
	for _, w := range wanted {
		for _, address := range w.addresses {
			i := slices.IndexFunc(all, func(d *door) bool { return d.key == w.key(address) })
			if i < 0 {
				continue
			}
			all[i].handler.now.Store(&w.handler)
			kept = append(kept, all[i])
			all = slices.Delete(all, i, i+1)
		}
	}
	v.app.doors = kept
	return all
}

func (a *app) doorAt(key string) *door {
	if i := slices.IndexFunc(a.doors, func(d *door) bool { return d.key == key }); i >= 0 {
		return a.doors[i]
	}
	return nil
}

// locate notes in the setup where its doors are, when all are open.
func (v view) locate(wanted []doorway) {
	v.setup.urls, v.setup.imds = nil, []control.IMDS{}
	for _, w := range wanted {
		for _, address := range w.addresses {
			d := v.doorAt(w.key(address))
			if d == nil || d.url == "" {
				continue
			}
			switch w.kind {
			case broker.DoorContainer, broker.DoorPeer:
				v.setup.urls = append(v.setup.urls, d.url)
			case broker.DoorIMDS:
				v.setup.imds = append(v.setup.imds, control.IMDS{URL: d.url, Profile: w.imds.Profile, AllowV1: w.imds.AllowV1})
			}
		}
	}
	v.setup.socket = v.credentialSocket()
}

func (a *app) server(h http.Handler) *http.Server {
	return metadata.NewServer(h, func(line string) { a.log.Debug("http", zap.String("line", line)) })
}

// drain is how long clients of a broker that ends have to close their connections, where
// systemd keeps the sockets open for the next one. Their own patience is a second.
const drain = 300 * time.Millisecond

// serve runs a server of its own on a listener until the context ends, then lets requests
// under way finish.
func (a *app) serve(server *http.Server, l net.Listener) *member {
	d := time.Duration(0)
	if a.inherited.Any() {
		d = drain
	}
	return a.crew.join(func(ctx context.Context) error { return metadata.Serve(ctx, server, l, d) }, unused(l))
}

// serveHeld is serve of a server whose answers may last as long as it does: they end with
// it.
func (a *app) serveHeld(server *http.Server, l net.Listener) {
	a.crew.join(func(ctx context.Context) error {
		server.BaseContext = func(net.Listener) context.Context { return ctx }
		return metadata.Serve(ctx, server, l, 0)
	}, unused(l))
}

// unused closes the listener of a server that never ran.
func unused(l net.Listener) func() error {
	return func() error {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
}
