// Package sessionbus connects to the desktop's message bus, where notifications are
// shown and the Secret Service is. It starts no bus, asks nobody, and changes nothing
// in the environment, as D-Bus libraries do that look for one themselves.
package sessionbus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/godbus/dbus/v5"
)

// ErrNone is the error where no bus is: in a system service, in a session over a
// network, on a machine without a desktop.
var ErrNone = errors.New("there is no session bus: DBUS_SESSION_BUS_ADDRESS is not set, and XDG_RUNTIME_DIR has no socket of the name bus")

// Connect opens a connection of its own to the session bus, which the caller closes.
// It ends with ctx, as do its calls.
//
// What is sent may be a secret: only sockets of this host are taken, which this user or
// root serves.
func Connect(ctx context.Context, getenv func(string) string) (*dbus.Conn, error) {
	address, err := address(getenv)
	if err != nil {
		return nil, err
	}
	conn, err := connect(ctx, address)
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil { // what a read says of a connection that was closed meanwhile helps nobody
		err = ctx.Err()
	}
	return nil, fmt.Errorf("the session bus cannot be reached: %w", err)
}

func connect(ctx context.Context, address string) (*dbus.Conn, error) {
	name, err := socket(address)
	if err != nil {
		return nil, err
	}
	c, err := new(net.Dialer).DialContext(ctx, "unix", name)
	if err != nil {
		return nil, err
	}
	if err := served(c, os.Geteuid()); err != nil {
		_ = c.Close()
		return nil, err
	}
	conn, err := dbus.NewConn(c, dbus.WithContext(ctx))
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	if err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err == nil {
		err = conn.Hello()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// served says why nothing is to be sent to whoever serves the socket: everybody can make
// one where the bus is not, in a folder that all may write.
func served(c net.Conn, uid int) error {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return errors.New("it is no Unix socket")
	}
	who, err := servedBy(u)
	if err != nil {
		return fmt.Errorf("nobody knows who serves it: %w", err)
	}
	if who != 0 && int64(who) != int64(uid) {
		return fmt.Errorf("user %d serves it, not user %d; check DBUS_SESSION_BUS_ADDRESS", who, uid)
	}
	return nil
}

// socket is the name of the socket of an address as the D-Bus specification has it, for
// [net.Dial]: its path, or @ and what it is called.
func socket(address string) (string, error) {
	values := map[string]string{}
	for pair := range strings.SplitSeq(strings.TrimPrefix(address, "unix:"), ",") {
		key, value, _ := strings.Cut(pair, "=")
		value, err := dbus.UnescapeBusAddressValue(value)
		if err != nil {
			return "", fmt.Errorf("its address %q is malformed", address)
		}
		values[key] = value
	}
	switch path, abstract := values["path"], values["abstract"]; {
	case path != "" && abstract == "":
		return path, nil
	case abstract != "" && path == "":
		return "@" + abstract, nil
	}
	return "", fmt.Errorf("its address %q names no path", address)
}

// address follows the D-Bus specification and systemd, which gives each user a bus.
func address(getenv func(string) string) (string, error) {
	if list := getenv("DBUS_SESSION_BUS_ADDRESS"); list != "" && list != "autolaunch:" {
		for a := range strings.SplitSeq(list, ";") {
			if strings.HasPrefix(a, "unix:") {
				return a, nil
			}
		}
		return "", errors.New("DBUS_SESSION_BUS_ADDRESS names no Unix socket")
	}
	if dir := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		bus := filepath.Join(dir, "bus")
		if info, err := os.Stat(bus); err == nil && info.Mode().Type() == os.ModeSocket {
			return "unix:path=" + dbus.EscapeBusAddressValue(bus), nil
		}
	}
	return "", ErrNone
}
