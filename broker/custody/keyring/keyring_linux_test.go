package keyring

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/sessionbus"
)

// onBus runs the test again below a session bus of its own. Without a configuration
// the bus starts services that the system has, as a desktop's does.
func onBus(t *testing.T, config string) (child bool) {
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
	args := []string{"--", self, "-test.run=^" + t.Name() + "$", "-test.v"}
	if config != "" {
		path := filepath.Join(t.TempDir(), "bus.conf")
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append([]string{"--config-file=" + path}, args...)
	}
	home := t.TempDir()
	run := filepath.Join(home, "run")
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), runner, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + run, "TMPDIR=" + os.TempDir(), mark + "=" + t.Name()}
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// bare is a bus on which nothing can be started.
const bare = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:tmpdir=/tmp</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`

func connect(t *testing.T) *dbus.Conn {
	t.Helper()
	conn, err := sessionbus.Connect(t.Context(), os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func names(t *testing.T, conn *dbus.Conn) (list []string) {
	t.Helper()
	if err := conn.BusObject().Call("org.freedesktop.DBus.ListNames", 0).Store(&list); err != nil {
		t.Fatal(err)
	}
	return list
}

const password = "correct horse"

// gnome starts gnome-keyring with an open login collection, as a desktop's log-in does.
func gnome(t *testing.T) *dbus.Conn {
	t.Helper()
	conn := connect(t)
	owned := make(chan *dbus.Signal, 10)
	conn.Signal(owned)
	if err := conn.AddMatchSignal(dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, secretsName)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets")
	cmd.Stdin = strings.NewReader(password)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for {
		select {
		case s := <-owned:
			if s.Name == "org.freedesktop.DBus.NameOwnerChanged" {
				return conn
			}
		case <-time.After(10 * time.Second):
			t.Fatal("gnome-keyring-daemon does not come up")
		}
	}
}

// lock and unlock change the login collection without a prompt.
func lock(t *testing.T, conn *dbus.Conn) {
	t.Helper()
	var done []dbus.ObjectPath
	var prompt dbus.ObjectPath
	if err := conn.Object(secretsName, secretsPath).Call(iface+"Service.Lock", 0, []dbus.ObjectPath{login}).Store(&done, &prompt); err != nil || len(done) != 1 {
		t.Fatal(done, prompt, err)
	}
}

func unlock(t *testing.T, conn *dbus.Conn) {
	t.Helper()
	var session dbus.ObjectPath
	var output dbus.Variant
	service := conn.Object(secretsName, secretsPath)
	if err := service.Call(iface+"Service.OpenSession", 0, "plain", dbus.MakeVariant("")).Store(&output, &session); err != nil {
		t.Fatal(err)
	}
	if err := service.Call("org.gnome.keyring.InternalUnsupportedGuiltRiddenInterface.UnlockWithMasterPassword", 0, login,
		secret{session, []byte{}, []byte(password), "text/plain"}).Err; err != nil {
		t.Fatal(err)
	}
}

// TestSecretService is the whole life of a key in a real Secret Service.
func TestSecretService(t *testing.T) {
	if _, err := exec.LookPath("gnome-keyring-daemon"); err != nil {
		t.Skip("not run: gnome-keyring-daemon is missing")
	}
	if !onBus(t, "") {
		return
	}
	conn := gnome(t)
	k := New(os.Getenv)
	ctx := t.Context()
	want := func(name, record string) {
		t.Helper()
		got, err := k.Get(ctx, name)
		if record == "" && (got != nil || !errors.Is(err, fs.ErrNotExist)) || record != "" && (err != nil || string(got) != record) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, record)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	binary := "\x00\xff{\"Current\":\"\r\n'$(id)'\"}" + strings.Repeat("é", 1000)
	want("work", "")
	do(k.Delete(ctx, "work"))
	do(k.Put(ctx, "work", []byte("one")))
	do(k.Put(ctx, "work-2", []byte(binary)))
	do(k.PutIdentity(ctx, []byte("AGE-SECRET-KEY-1")))
	want("work", "one")
	want("work-2", binary)
	do(k.Put(ctx, "work", []byte("two")))
	want("work", "two")
	var items []dbus.ObjectPath
	if err := conn.Object(secretsName, login).Call(iface+"Collection.SearchItems", 0, map[string]string{"service": service}).Store(&items); err != nil || len(items) != 3 {
		t.Errorf("%d items for 3 records, %v", len(items), err)
	}
	do(k.Delete(ctx, "work-2"))
	want("work-2", "")
	want("work", "two")
	if id, err := k.Identity(ctx); err != nil || string(id) != "AGE-SECRET-KEY-1" {
		t.Errorf("the identity is %q, %v", id, err)
	}

	lock(t, conn)
	before := names(t, conn)
	for name, f := range map[string]func() error{
		"get":    func() error { _, err := k.Get(ctx, "work"); return err },
		"none":   func() error { _, err := k.Get(ctx, "no such key"); return err },
		"put":    func() error { return k.Put(ctx, "work", []byte("three")) },
		"new":    func() error { return k.Put(ctx, "other", []byte("three")) },
		"delete": func() error { return k.Delete(ctx, "work") },
	} {
		began := time.Now()
		err := f()
		if kindOf(err) != broker.KindLocked || err.Error() != "the OS keyring is locked; unlock it (log in to the desktop), or run stsbroker unlock" || time.Since(began) > time.Second {
			t.Errorf("%s, locked: %v after %v", name, err, time.Since(began))
		}
	}
	// A prompter would be on the bus now, or a connection left open.
	after := names(t, conn)
	for end := time.Now().Add(5 * time.Second); !slices.Equal(before, after) && time.Now().Before(end); {
		after = names(t, conn) // the bus takes a moment to see that one was closed
	}
	if !slices.Equal(before, after) {
		t.Errorf("on the bus before: %v\nafter: %v", before, after)
	}
	unlock(t, conn)
	want("work", "two")
	do(k.Unlock(ctx)) // nothing to ask for
	do(k.Delete(ctx, "work"))
	want("work", "")
}

// TestUnlockPrompts: only Unlock does, and where no desktop is to show the dialogue it
// comes to an end.
func TestUnlockPrompts(t *testing.T) {
	if _, err := exec.LookPath("gnome-keyring-daemon"); err != nil {
		t.Skip("not run: gnome-keyring-daemon is missing")
	}
	if !onBus(t, "") {
		return
	}
	conn := gnome(t)
	lock(t, conn)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := New(os.Getenv).Unlock(ctx); kindOf(err) != broker.KindLocked {
		t.Errorf("%v", err)
	}
}

func TestNoSecretService(t *testing.T) {
	if !onBus(t, bare) {
		return
	}
	for name, f := range map[string]func(*Keyring) error{
		"get":    func(k *Keyring) error { _, err := k.Get(t.Context(), "work"); return err },
		"put":    func(k *Keyring) error { return k.Put(t.Context(), "work", []byte("x")) },
		"unlock": func(k *Keyring) error { return k.Unlock(t.Context()) },
	} {
		if err := f(New(os.Getenv)); kindOf(err) != broker.KindConfig || !strings.Contains(err.Error(), "there is no OS keyring: nothing on the session bus provides org.freedesktop.secrets") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// services is a Secret Service that prompts where it should not, or answers nothing.
type services struct {
	collection dbus.ObjectPath // "/" for none
	hang       chan struct{}
	mu         sync.Mutex
	called     []string
}

func (s *services) note(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.called = append(s.called, name)
}

func (s *services) ReadAlias(string) (dbus.ObjectPath, *dbus.Error) {
	if s.hang != nil {
		<-s.hang
	}
	return s.collection, nil
}

func (s *services) Get(_, name string) (dbus.Variant, *dbus.Error) {
	if name == "Locked" {
		return dbus.MakeVariant(false), nil
	}
	return dbus.MakeVariant([]dbus.ObjectPath{}), nil
}

func (s *services) OpenSession(string, dbus.Variant) (dbus.Variant, dbus.ObjectPath, *dbus.Error) {
	return dbus.MakeVariant(""), "/session", nil
}

func (s *services) CreateItem(map[string]dbus.Variant, secret, bool) (dbus.ObjectPath, dbus.ObjectPath, *dbus.Error) {
	return "/", "/prompt", nil
}

func (s *services) SearchItems(map[string]string) ([]dbus.ObjectPath, *dbus.Error) {
	return []dbus.ObjectPath{"/item"}, nil
}

func (s *services) GetSecret(dbus.ObjectPath) (secret, *dbus.Error) {
	return secret{}, dbus.NewError(iface+"Error.IsLocked", []any{"locked"})
}
func (s *services) Delete() (dbus.ObjectPath, *dbus.Error) { return "/prompt", nil }
func (s *services) Dismiss() *dbus.Error                   { s.note("Dismiss"); return nil }
func (s *services) Prompt(string) *dbus.Error              { s.note("Prompt"); return nil }
func (s *services) Unlock([]dbus.ObjectPath) ([]dbus.ObjectPath, dbus.ObjectPath, *dbus.Error) {
	s.note("Unlock")
	return nil, "/prompt", nil
}

func (s *services) serve(t *testing.T) {
	t.Helper()
	conn := connect(t)
	for _, export := range []struct {
		path dbus.ObjectPath
		of   string
	}{{secretsPath, iface + "Service"}, {secretsPath, "org.freedesktop.DBus.Properties"}, {"/c", iface + "Collection"}, {"/c", "org.freedesktop.DBus.Properties"}, {"/item", iface + "Item"}, {"/prompt", iface + "Prompt"}} {
		if err := conn.Export(s, export.path, export.of); err != nil {
			t.Fatal(err)
		}
	}
	if reply, err := conn.RequestName(secretsName, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatal(reply, err)
	}
}

// A keyring that wants to ask (KWallet and KeePassXC may, for each item) is told that
// it need not.
func TestPromptsAreDismissed(t *testing.T) {
	if !onBus(t, bare) {
		return
	}
	s := &services{collection: "/c"}
	s.serve(t)
	k := New(os.Getenv)
	_, err := k.Get(t.Context(), "work")
	for name, err := range map[string]error{"get": err, "put": k.Put(t.Context(), "work", []byte("x")), "delete": k.Delete(t.Context(), "work")} {
		if kindOf(err) != broker.KindLocked {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.called, []string{"Dismiss", "Dismiss"}) {
		t.Errorf("called: %v", s.called)
	}
}

func TestNoCollection(t *testing.T) {
	if !onBus(t, bare) {
		return
	}
	(&services{collection: "/"}).serve(t)
	if _, err := New(os.Getenv).Get(t.Context(), "work"); kindOf(err) != broker.KindConfig || !strings.Contains(err.Error(), "has no default collection") {
		t.Errorf("%v", err)
	}
}

// flat waits until no more goroutines than before are left.
func flat(t *testing.T, before int) {
	t.Helper()
	end := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(end) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%d goroutines of %d are left\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
		runtime.Gosched()
	}
}

func TestServiceThatHangs(t *testing.T) {
	if !onBus(t, bare) {
		return
	}
	s := &services{collection: "/c", hang: make(chan struct{})}
	s.serve(t)
	defer close(s.hang)
	hangs(t, os.Getenv)
}

// TestBusThatHangs needs no bus: a socket takes connections and says nothing.
func TestBusThatHangs(t *testing.T) {
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
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	hangs(t, func(name string) string { return map[string]string{"XDG_RUNTIME_DIR": dir}[name] })
}

func hangs(t *testing.T, getenv func(string) string) {
	t.Helper()
	k := New(getenv)
	k.limit = 200 * time.Millisecond
	began := time.Now()
	before := runtime.NumGoroutine()
	for range 3 {
		if _, err := k.Get(t.Context(), "work"); kindOf(err) != broker.KindUnavailable || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	flat(t, before+3) // what a stand-in has of calls that it does not answer
}

func TestNoBus(t *testing.T) {
	began := time.Now()
	_, err := New(func(string) string { return "" }).Get(t.Context(), "work")
	if kindOf(err) != broker.KindConfig || !strings.Contains(err.Error(), "there is no session bus") || !strings.Contains(err.Error(), "a system service has none") || time.Since(began) > time.Second {
		t.Errorf("%v", err)
	}
}
