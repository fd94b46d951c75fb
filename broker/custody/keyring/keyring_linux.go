package keyring

import (
	"context"
	"errors"
	"io/fs"

	"github.com/godbus/dbus/v5"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/sessionbus"
)

// The Secret Service API Draft 0.2 of freedesktop.org. It is spoken here and not by a
// library, because those unlock what is locked, which prompts, and wait without end.
const (
	busName     = "org.freedesktop.DBus"
	secretsName = "org.freedesktop.secrets"
	secretsPath = dbus.ObjectPath("/org/freedesktop/secrets")
	iface       = "org.freedesktop.Secret."
	none        = dbus.ObjectPath("/") // no object, no prompt
	login       = secretsPath + "/collection/login"
)

type secretService struct{ getenv func(string) string }

func newBackend(getenv func(string) string) backend { return secretService{getenv} }

// secret is the API's Secret, in a session without encryption: the bus is a socket
// of this host, and whoever may listen to a user's bus may ask for the secret as well.
type secret struct {
	Session     dbus.ObjectPath
	Parameters  []byte
	Value       []byte
	ContentType string
}

// collection is the default collection, over a connection of one call.
type collection struct {
	ctx  context.Context
	conn *dbus.Conn
	path dbus.ObjectPath
}

func (c *collection) call(path dbus.ObjectPath, method string, args ...any) *dbus.Call {
	return c.conn.Object(secretsName, path).CallWithContext(c.ctx, method, 0, args...)
}

// open finds the default collection, locked or not. The caller closes conn.
func (s secretService) open(ctx context.Context) (*collection, error) {
	conn, err := sessionbus.Connect(ctx, s.getenv)
	switch {
	case errors.Is(err, sessionbus.ErrNone):
		return nil, fault("the OS keyring belongs to a desktop session, and %v; a system service has none: keep keys sealed in the state folder instead (custody: sealed)", err)
	case err != nil:
		return nil, failed(err)
	}
	c := &collection{ctx: ctx, conn: conn}
	if err := c.find(); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *collection) find() error {
	bus := func(method string, args ...any) *dbus.Call {
		return c.conn.BusObject().CallWithContext(c.ctx, busName+"."+method, 0, args...)
	}
	var runs bool
	if err := bus("NameHasOwner", secretsName).Store(&runs); err != nil {
		return failed(err)
	}
	if !runs {
		var startable []string
		if err := bus("ListActivatableNames").Store(&startable); err != nil {
			return failed(err)
		}
		for _, name := range startable {
			runs = runs || name == secretsName
		}
	}
	if !runs {
		return fault("there is no OS keyring: nothing on the session bus provides %s; install gnome-keyring, KWallet or KeePassXC and switch its Secret Service on, or keep keys sealed in the state folder (custody: sealed)", secretsName)
	}
	if err := c.call(secretsPath, iface+"Service.ReadAlias", "default").Store(&c.path); err != nil {
		return failed(err)
	}
	if c.path != none {
		return nil
	}
	var all []dbus.ObjectPath
	if err := c.property(secretsPath, "Service", "Collections", &all); err != nil {
		return err
	}
	for _, path := range all {
		if path == login {
			c.path = path
			return nil
		}
	}
	return fault("the OS keyring has no default collection: make one in its settings (in seahorse: a password keyring, set as default), or keep keys sealed in the state folder (custody: sealed)")
}

func (c *collection) property(path dbus.ObjectPath, of, name string, to any) error {
	var v dbus.Variant
	err := c.call(path, "org.freedesktop.DBus.Properties.Get", iface+of, name).Store(&v)
	if err == nil {
		err = v.Store(to)
	}
	return failed(err)
}

// opened is open, and the error of a collection that is locked.
func (s secretService) opened(ctx context.Context) (*collection, error) {
	c, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	var isLocked bool
	if err = c.property(c.path, "Collection", "Locked", &isLocked); err == nil && isLocked {
		err = locked()
	}
	if err != nil {
		_ = c.conn.Close()
		return nil, err
	}
	return c, nil
}

func attributes(user string) map[string]string {
	return map[string]string{"service": service, "username": user}
}

func (c *collection) items(user string) (paths []dbus.ObjectPath, err error) {
	err = c.call(c.path, iface+"Collection.SearchItems", attributes(user)).Store(&paths)
	return paths, failed(err)
}

func (c *collection) session() (path dbus.ObjectPath, err error) {
	var output dbus.Variant
	err = c.call(secretsPath, iface+"Service.OpenSession", "plain", dbus.MakeVariant("")).Store(&output, &path)
	return path, failed(err)
}

func (s secretService) get(ctx context.Context, user string) ([]byte, error) {
	c, err := s.opened(ctx)
	if err != nil {
		return nil, err
	}
	defer c.conn.Close()
	items, err := c.items(user)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return nil, fs.ErrNotExist
	}
	session, err := c.session()
	if err != nil {
		return nil, err
	}
	var got secret
	if err := c.call(items[0], iface+"Item.GetSecret", session).Store(&got); err != nil {
		return nil, failed(err)
	}
	return got.Value, nil
}

func (s secretService) put(ctx context.Context, user string, value []byte) error {
	c, err := s.opened(ctx)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	session, err := c.session()
	if err != nil {
		return err
	}
	properties := map[string]dbus.Variant{
		iface + "Item.Label":      dbus.MakeVariant(service + ": " + user),
		iface + "Item.Attributes": dbus.MakeVariant(attributes(user)),
	}
	const replace = true
	var item, prompt dbus.ObjectPath
	err = c.call(c.path, iface+"Collection.CreateItem", properties, secret{session, []byte{}, value, "text/plain; charset=utf8"}, replace).Store(&item, &prompt)
	if err != nil {
		return failed(err)
	}
	return c.unprompted(prompt)
}

func (s secretService) remove(ctx context.Context, user string) error {
	c, err := s.opened(ctx)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	items, err := c.items(user)
	if err != nil {
		return err
	}
	for _, item := range items {
		var prompt dbus.ObjectPath
		if err := c.call(item, iface+"Item.Delete").Store(&prompt); err != nil {
			return failed(err)
		}
		if err := c.unprompted(prompt); err != nil {
			return err
		}
	}
	return nil
}

// unprompted makes an error of a prompt, which nobody sees until somebody calls it.
func (c *collection) unprompted(prompt dbus.ObjectPath) error {
	if prompt == none {
		return nil
	}
	_ = c.call(prompt, iface+"Prompt.Dismiss").Err
	return locked()
}

func (s secretService) unlock(ctx context.Context) error {
	c, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer c.conn.Close()
	var now []dbus.ObjectPath
	var prompt dbus.ObjectPath
	if err := c.call(secretsPath, iface+"Service.Unlock", []dbus.ObjectPath{c.path}).Store(&now, &prompt); err != nil {
		return failed(err)
	}
	if prompt == none {
		return nil
	}
	signals := make(chan *dbus.Signal, 8)
	c.conn.Signal(signals)
	if err := c.conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(secretsName), dbus.WithMatchObjectPath(prompt)); err != nil {
		return failed(err)
	}
	const noWindow = ""
	if err := c.call(prompt, iface+"Prompt.Prompt", noWindow).Err; err != nil {
		return failed(err)
	}
	for {
		select {
		case <-ctx.Done():
			return failed(ctx.Err())
		case s, open := <-signals:
			if !open {
				return failed(dbus.ErrClosed)
			}
			if s.Path != prompt || s.Name != iface+"Prompt.Completed" {
				continue
			}
			if len(s.Body) > 0 && s.Body[0] == false { // not dismissed
				return nil
			}
			return &broker.Error{Kind: broker.KindLocked, Own: true, Public: "the OS keyring stays locked: its dialogue was closed, or there is no desktop to show it; log in to the desktop"}
		}
	}
}

// failed words what the bus or the keyring said; nil stays nil.
func failed(err error) error {
	var said dbus.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &said) && said.Name == iface+"Error.IsLocked":
		return locked()
	}
	return &broker.Error{Kind: broker.KindUnavailable, Own: true, Public: "the OS keyring cannot be asked; it is asked again at the next try", Cause: err}
}
