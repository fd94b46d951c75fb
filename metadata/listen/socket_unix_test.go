//go:build unix

package listen

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// names are those of what is in the folder.
func names(t *testing.T, folder string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestUnix(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	folder := shortDir(t)
	path := filepath.Join(folder, "http.sock")
	for range 2 { // the lock file that stays is no hindrance
		l, err := Opener{Doors: 3}.Unix(path, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode() != fs.ModeSocket|0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		if got := names(t, folder); !slices.Equal(got, []string{"http.sock", "http.sock.lock"}) {
			t.Errorf("made %q", got)
		}
		if a := l.Addr(); a.Network() != "unix" || a.String() != path {
			t.Errorf("at %v", a)
		}
		if got, want := cap(l.(*socketListener).shared.slots), share(mostFiles(), 3); got != want {
			t.Errorf("one of 3 doors holds %d connections, want %d", got, want)
		}
		client := dial(t, l.Addr())
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			t.Error(err)
		}
		if got := names(t, folder); !slices.Equal(got, []string{"http.sock.lock"}) {
			t.Errorf("left %q", got)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
		// A connection goes on, and its last answer ends with CloseWrite.
		if _, err := io.WriteString(server, "hello"); err != nil {
			t.Error(err)
		}
		if err := server.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
		if got, err := io.ReadAll(client); err != nil || string(got) != "hello" {
			t.Errorf("%q, %v", got, err)
		}
		_ = server.Close()
	}
}

func TestUnixRefused(t *testing.T) {
	folder := shortDir(t)
	at := func(name string) string { return filepath.Join(folder, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(at("file"), []byte("mine"), 0o600))
	must(os.Mkdir(at("folder"), 0o700))
	squatter, err := net.Listen("unix", at("squatted"))
	must(err)
	echo(t, []net.Listener{squatter})
	datagrams, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: at("datagrams"), Net: "unixgram"})
	must(err)
	defer datagrams.Close()
	must(os.Symlink("nothing", at("dangling")))
	must(os.Symlink("leftover", at("link")))
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: at("leftover"), Net: "unix"})
	must(err)
	left.SetUnlinkOnClose(false)
	must(left.Close())
	must(os.Mkdir(at("unlockable.lock"), 0o700))
	before := names(t, folder)

	long := strings.Repeat("x", 120)
	for name, want := range map[string]string{
		"file":         "no socket",
		"folder":       "no socket",
		"dangling":     "no socket",
		"link":         "no socket",
		"squatted":     "answers there",
		"datagrams":    "cannot be told",
		"missing/sock": "no such file",
		long:           "bytes too long",
		"unlockable":   "is a directory",
	} {
		l, err := Opener{Doors: 1}.Unix(at(name), 0o600)
		if err == nil || l != nil {
			t.Errorf("%s: %v, %v", name, l, err)
			continue
		}
		if !strings.Contains(err.Error(), "socket "+at(name)) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: said %q, which lacks %q", name, err, want)
		}
		// Nobody holds the lock after an error.
		if again, err := (Opener{Doors: 1}).Unix(at(name), 0o600); err == nil || again != nil || strings.Contains(err.Error(), "another broker") {
			t.Errorf("%s, again: %v, %v", name, again, err)
		}
	}
	after := slices.DeleteFunc(names(t, folder), func(n string) bool {
		return strings.HasSuffix(n, ".lock") && !slices.Contains(before, n)
	})
	if !slices.Equal(before, after) {
		t.Errorf("%q became %q", before, after)
	}
	if got, err := os.ReadFile(at("file")); string(got) != "mine" {
		t.Errorf("the file in the way: %q, %v", got, err)
	}
	greeted(t, dial(t, squatter.Addr()))

	// And that nobody answers on is replaced.
	l, err := Opener{Doors: 1}.Unix(at("leftover"), 0o600)
	must(err)
	echo(t, []net.Listener{l})
	greeted(t, dial(t, l.Addr()))
}

// The longest path that is taken, is, however the folder in between is called.
func TestUnixLongestPath(t *testing.T) {
	folder := shortDir(t)
	longest := 0
	for n := 1; n <= 120; n++ {
		l, err := Opener{Doors: 1}.Unix(filepath.Join(folder, strings.Repeat("x", n)), 0o600)
		switch {
		case err == nil:
			if longest != n-1 {
				t.Errorf("%d bytes are taken, and fewer are not", n)
			}
			longest = n
			c := dial(t, l.Addr())
			_ = c.Close()
			_ = l.Close()
		case !strings.Contains(err.Error(), "bytes too long for a socket"):
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if longest < 40 {
		t.Errorf("a name of %d bytes in %s is the longest", longest, folder)
	}
}

// Of many who want the path at once, in one process or several, one has it.
func TestUnixRace(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	for range 20 {
		left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		left.SetUnlinkOnClose(false)
		_ = left.Close()
		won := make(chan net.Listener, 8)
		var wg sync.WaitGroup
		for range cap(won) {
			wg.Go(func() {
				switch l, err := (Opener{Doors: 1}).Unix(path, 0o600); {
				case err == nil:
					won <- l
				case !strings.Contains(err.Error(), "another broker"):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Fatalf("%d have it", len(won))
		}
		l := <-won
		c := dial(t, l.Addr())
		_ = c.Close()
		_ = l.Close()
	}
}

const holdPath = "LISTEN_TEST_HOLD" // the path that this process is to hold until it is killed

func TestUnixOfAnotherProcess(t *testing.T) {
	if path := os.Getenv(holdPath); path != "" {
		if _, err := (Opener{Doors: 1}).Unix(path, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(os.Stdout, "held\n")
		_, _ = io.Copy(io.Discard, os.Stdin) // until killed, or the parent is gone
		os.Exit(0)
	}
	path := filepath.Join(shortDir(t), "s")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	other := exec.CommandContext(t.Context(), self, "-test.run=^TestUnixOfAnotherProcess$")
	other.Env = append(os.Environ(), holdPath+"="+path)
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := (Opener{Doors: 1}).Unix(path, 0o600); err == nil || !strings.Contains(err.Error(), "another broker") || !strings.Contains(err.Error(), path+".lock") {
		t.Errorf("while it lives: %v", err)
	}
	_ = other.Process.Kill()
	_ = other.Wait()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("a killed process removed its socket: %v", err)
	}
	l, err := Opener{Doors: 1}.Unix(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}

func TestCloseLeavesAnothersSocket(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	l, err := Opener{Doors: 1}.Unix(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, []net.Listener{other})
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	greeted(t, dial(t, other.Addr()))
}
