package sessionbus

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestAddress(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("not run: paths of sockets are written otherwise here, and nobody asks for them")
	}
	dir, err := os.MkdirTemp("", "a bus") // a short path, for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "bus"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	plain := t.TempDir()
	if err := os.WriteFile(filepath.Join(plain, "bus"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		variable, runtime, want string
		err                     string
	}{
		"the variable":          {"unix:path=/x", dir, "unix:path=/x", ""},
		"the first socket":      {"tcp:host=h,port=1;unix:abstract=/x,guid=0;unix:path=/y", "", "unix:abstract=/x,guid=0", ""},
		"no socket of a host":   {"tcp:host=h,port=1", dir, "", "DBUS_SESSION_BUS_ADDRESS names no Unix socket"},
		"systemd's":             {"", dir, "unix:path=" + filepath.Dir(dir) + "/a%20bus" + filepath.Base(dir)[len("a bus"):] + "/bus", ""},
		"autolaunch is not":     {"autolaunch:", dir, "unix:path=" + filepath.Dir(dir) + "/a%20bus" + filepath.Base(dir)[len("a bus"):] + "/bus", ""},
		"a file is no socket":   {"", plain, "", ErrNone.Error()},
		"a folder without":      {"", filepath.Join(plain, "no"), "", ErrNone.Error()},
		"a relative folder":     {"", ".", "", ErrNone.Error()},
		"nothing at all":        {"", "", "", ErrNone.Error()},
		"autolaunch and no bus": {"autolaunch:", "", "", ErrNone.Error()},
	} {
		got, err := address(func(name string) string {
			return map[string]string{"DBUS_SESSION_BUS_ADDRESS": c.variable, "XDG_RUNTIME_DIR": c.runtime}[name]
		})
		if got != c.want || err == nil && c.err != "" || err != nil && err.Error() != c.err {
			t.Errorf("%s: %q, %v; want %q, %s", name, got, err, c.want, c.err)
		}
	}
}

// D-Bus libraries start a bus, or set the variable, where none is.
func TestConnectChangesNothing(t *testing.T) {
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("PATH", t.TempDir())
	if _, err := Connect(t.Context(), os.Getenv); !errors.Is(err, ErrNone) {
		t.Errorf("%v", err)
	}
	if v := os.Getenv("DBUS_SESSION_BUS_ADDRESS"); v != "" {
		t.Errorf("the variable is now %q", v)
	}
}

func TestSocket(t *testing.T) {
	for address, want := range map[string]string{
		"unix:path=/run/a%20bus,guid=0": "/run/a bus",
		"unix:guid=0,abstract=/tmp/x":   "@/tmp/x",
		"unix:path=/x,abstract=/x":      "",
		"unix:tmpdir=/tmp":              "",
		"unix:path=":                    "",
		"unix:path=%zz":                 "",
	} {
		if got, err := socket(address); got != want || err == nil && want == "" {
			t.Errorf("%s: %q, %v", address, got, err)
		}
	}
}
