package notify

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/stsbroker/stsbroker/broker"
)

// desktop is a notification server.
type desktop struct{ calls chan []any }

func (d desktop) Notify(app string, replaces uint32, icon, title, body string, actions []string, hints map[string]dbus.Variant, timeout int32) (uint32, *dbus.Error) {
	d.calls <- []any{app, replaces, title, body, len(actions), timeout}
	if title == "refuse" {
		return 0, dbus.MakeFailedError(errors.New("refused"))
	}
	return 7, nil
}

// onBus runs the test again below a session bus of its own.
func onBus(t *testing.T) (child bool) {
	t.Helper()
	const mark = "STSBROKER_TEST_ON_BUS"
	if os.Getenv(mark) == t.Name() {
		return true
	}
	runner, err := exec.LookPath("dbus-run-session")
	if err != nil {
		t.Skip("not run: dbus-run-session is missing")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), runner, "--", self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "XDG_RUNTIME_DIR=" + t.TempDir(), "TMPDIR=" + os.TempDir(), mark + "=" + t.Name()}
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func TestOverARealBus(t *testing.T) {
	if !onBus(t) {
		return
	}
	n := New(Options{Failed: func(err error) { t.Errorf("failed: %v", err) }})
	if _, err := n.send(t.Context(), note{title: "nobody is there"}, 0); err == nil {
		t.Error("no error where no server is")
	}

	server, err := dbus.ConnectSessionBus()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	d := desktop{make(chan []any, 10)}
	if err := server.Export(d, "/org/freedesktop/Notifications", "org.freedesktop.Notifications"); err != nil {
		t.Fatal(err)
	}
	if reply, err := server.RequestName("org.freedesktop.Notifications", dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatal(reply, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { n.Run(ctx); close(done) }()
	want := func(fields ...any) {
		t.Helper()
		select {
		case got := <-d.calls:
			for i := range fields {
				if got[i] != fields[i] {
					t.Errorf("field %d is %v, want %v", i, got[i], fields[i])
				}
			}
		case <-time.After(5 * time.Second):
			t.Fatal("nothing came")
		}
	}
	n.Observe(broker.Event{Kind: broker.EventLoginSoon, Profile: "a&<b>", Left: 10 * time.Minute})
	want("stsbroker", uint32(0), "stsbroker: login needed soon", "The session of profile a&amp;&lt;b&gt; ends in 10 min. To go on without a gap, run: stsbroker login a&amp;&lt;b&gt;", 0, int32(-1))
	n.Observe(failed("a&<b>", broker.KindLoginNeeded))
	want("stsbroker", uint32(7), "stsbroker: login needed", "Profile a&amp;&lt;b&gt; waits for you. Run: stsbroker login a&amp;&lt;b&gt;", 0, int32(-1))
	n.Observe(failed("c", broker.KindLocked))
	want("stsbroker", uint32(0), "stsbroker: custody is locked", "Profile c waits for its keys. Run: stsbroker unlock", 0, int32(-1))
	if _, err := n.send(t.Context(), note{title: "refuse"}, 0); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("refused: %v", err)
	}
	want("stsbroker")
	cancel()
	<-done

	var names []string // of the bus, and two of the server
	for end := time.Now().Add(5 * time.Second); len(names) != 3 && time.Now().Before(end); {
		names = nil // the bus takes a moment to see that a connection was closed
		if err := server.BusObject().Call("org.freedesktop.DBus.ListNames", 0).Store(&names); err != nil {
			t.Fatal(err)
		}
	}
	if len(names) != 3 {
		t.Errorf("connections are left open: %v", names)
	}
}

// Without a bus nothing fails; with one that hangs, the limit holds.
func TestNoBus(t *testing.T) {
	none := newSender(func(string) string { return "" })
	if _, err := none(t.Context(), note{}, 0); err != nil {
		t.Errorf("no bus: %v", err)
	}
	dir, err := os.MkdirTemp("", "bus") // a short path, for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "bus"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // takes connections and says nothing
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	env := map[string]string{"XDG_RUNTIME_DIR": dir}
	hangs := newSender(func(name string) string { return env[name] })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := hangs(ctx, note{}, 0); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 5*time.Second {
		t.Errorf("a bus that hangs: %v after %v", err, time.Since(began))
	}
	env["DBUS_SESSION_BUS_ADDRESS"] = "tcp:host=127.0.0.1,port=1"
	if _, err := hangs(t.Context(), note{}, 0); err == nil || !strings.Contains(err.Error(), "no Unix socket") {
		t.Errorf("a bus over TCP: %v", err)
	}
}
