package notify

import (
	"context"
	"errors"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/stsbroker/stsbroker/internal/sessionbus"
)

// newSender calls the Desktop Notifications Specification's Notify, over a connection
// that is opened for it and closed after: the daemon waits for no signals. Where there
// is no session bus there is nobody to tell, which is no failure.
func newSender(getenv func(string) string) sender {
	return func(ctx context.Context, n note, replaces uint32) (id uint32, err error) {
		bus, err := sessionbus.Connect(ctx, getenv)
		if errors.Is(err, sessionbus.ErrNone) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		defer bus.Close()
		const byServer = int32(-1) // how long it stays
		hints := map[string]dbus.Variant{}
		err = bus.Object("org.freedesktop.Notifications", "/org/freedesktop/Notifications").
			CallWithContext(ctx, "org.freedesktop.Notifications.Notify", 0,
				"stsbroker", replaces, "dialog-password", n.title, escape(n.text), []string{}, hints, byServer).
			Store(&id)
		return id, err
	}
}

// escape makes plain text of what servers read as markup. A title has none.
func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}
