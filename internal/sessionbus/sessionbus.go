// Package sessionbus connects to the desktop's message bus, where notifications are
// shown and the Secret Service is. It starts no bus, asks nobody, and changes nothing
// in the environment, as D-Bus libraries do that look for one themselves.
package sessionbus

import (
	"context"
	"errors"
	"fmt"
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
// Only sockets of this host are taken: what is sent may be a secret.
func Connect(ctx context.Context, getenv func(string) string) (*dbus.Conn, error) {
	address, err := address(getenv)
	if err != nil {
		return nil, err
	}
	conn, err := dbus.Connect(address, dbus.WithContext(ctx), dbus.WithAuth(dbus.AuthExternal(strconv.Itoa(os.Geteuid()))))
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil { // what a read says of a connection that was closed meanwhile helps nobody
		err = ctx.Err()
	}
	return nil, fmt.Errorf("the session bus cannot be reached: %w", err)
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
