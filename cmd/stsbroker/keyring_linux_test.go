package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// The whole binary on a session bus: with a real Secret Service, and with a server of
// notifications.

// onBus runs the test again below a session bus of its own, and reports whether this is
// that run.
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
	home := t.TempDir()
	run := filepath.Join(home, "run")
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), runner, "--", self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + run, "TMPDIR=" + os.TempDir(), mark + "=" + t.Name()}
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	const noBus = 127 // dbus-run-session(1)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == noBus {
		t.Skipf("not run: there is no session bus to be had, as for a user without an entry in /etc/passwd: %s", out)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// bused is a rig on the bus, whose daemon is restarted.
type bused struct {
	*rig
	bus *dbus.Conn
	log *syncBuilder
	cmd *exec.Cmd // the daemon
}

func newBused(t *testing.T, yaml string) *bused {
	t.Helper()
	bus, err := dbus.ConnectSessionBus()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bus.Close() })
	binary, err := exec.LookPath("stsbroker")
	if err != nil {
		t.Fatal(err)
	}
	fake := stsfake.New()
	run, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = run.Close() })
	b := &bused{rig: newRig(t, binary, run.URL, "", fake, 1), bus: bus, log: &syncBuilder{}}
	b.env = append(b.env, "XDG_RUNTIME_DIR="+os.Getenv("XDG_RUNTIME_DIR"), "DBUS_SESSION_BUS_ADDRESS="+os.Getenv("DBUS_SESSION_BUS_ADDRESS"))
	config := filepath.Join(b.home, ".config", "stsbroker", "stsbroker.yaml")
	if err := os.WriteFile(config, []byte("listen: { container: [\"127.0.0.1:"+b.port+"\"] }\n"+yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.kill)
	return b
}

// start starts the daemon, and tells how long it took until it answered.
func (b *bused) start(t *testing.T) time.Duration {
	t.Helper()
	b.kill()
	began := time.Now()
	b.cmd = exec.Command(b.binary, "serve")
	b.cmd.Env, b.cmd.Stderr = b.env, b.log
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b.wait(t)
	return time.Since(began)
}

func (b *bused) kill() {
	if b.cmd != nil {
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait()
		b.cmd = nil
	}
}

func (b *bused) halt(t *testing.T) {
	t.Helper()
	_ = b.cmd.Process.Signal(syscall.SIGTERM)
	if err := b.cmd.Wait(); err != nil {
		t.Errorf("serve: %v\n%s", err, b.log.String())
	}
	b.cmd = nil
}

// fails runs a command that must fail with status 1 and such words.
func (b *bused) fails(t *testing.T, words string, args ...string) {
	t.Helper()
	cmd := exec.Command(b.binary, args...)
	cmd.Env = b.env
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), words) {
		t.Errorf("%v: %v, want status 1 and %q:\n%s", args, err, words, out)
	}
}

// gives wants credentials of a profile.
func (b *bused) gives(t *testing.T, profile string) {
	t.Helper()
	if out := b.run(t, "credential-process", profile); !strings.Contains(out, `"AccessKeyId":"ASIA`) {
		t.Errorf("%s: %s", profile, out)
	}
}

// add puts a key in custody.
func (b *bused) add(t *testing.T, key string, args ...string) string {
	t.Helper()
	cmd := exec.Command(b.binary, append([]string{"keys", "add"}, args...)...)
	cmd.Env, cmd.Stdin = b.env, strings.NewReader(key)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("keys add: %v\n%s", err, out)
	}
	return string(out)
}

func (b *bused) status(t *testing.T) (st control.Status) {
	t.Helper()
	if err := json.Unmarshal([]byte(b.run(t, "status", "--json")), &st); err != nil {
		t.Fatal(err)
	}
	return st
}

func (b *bused) names(t *testing.T) (list []string) {
	t.Helper()
	if err := b.bus.BusObject().Call("org.freedesktop.DBus.ListNames", 0).Store(&list); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(list, func(n string) bool { return n[0] == ':' }) // connections come and go
}

const (
	secretsName     = "org.freedesktop.secrets"
	secretsPath     = dbus.ObjectPath("/org/freedesktop/secrets")
	loginCollection = dbus.ObjectPath("/org/freedesktop/secrets/collection/login")
	desktopPassword = "correct horse"
)

// gnome starts gnome-keyring with an open collection, as a log-in to the desktop does.
func (b *bused) gnome(t *testing.T) {
	t.Helper()
	owned := make(chan *dbus.Signal, 10)
	b.bus.Signal(owned)
	if err := b.bus.AddMatchSignal(dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, secretsName)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets")
	cmd.Stdin = strings.NewReader(desktopPassword)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	select {
	case <-owned:
	case <-time.After(10 * time.Second):
		t.Fatal("gnome-keyring-daemon does not come up")
	}
}

// screenLocks locks the collection, as some desktops do with the screen.
func (b *bused) screenLocks(t *testing.T) {
	t.Helper()
	var done []dbus.ObjectPath
	var prompt dbus.ObjectPath
	if err := b.bus.Object(secretsName, secretsPath).Call("org.freedesktop.Secret.Service.Lock", 0, []dbus.ObjectPath{loginCollection}).Store(&done, &prompt); err != nil || len(done) != 1 {
		t.Fatal(done, prompt, err)
	}
}

// screenUnlocks opens it, by the call that a log-in makes.
func (b *bused) screenUnlocks(t *testing.T) {
	t.Helper()
	var session dbus.ObjectPath
	var output dbus.Variant
	service := b.bus.Object(secretsName, secretsPath)
	if err := service.Call("org.freedesktop.Secret.Service.OpenSession", 0, "plain", dbus.MakeVariant("")).Store(&output, &session); err != nil {
		t.Fatal(err)
	}
	master := struct {
		Session          dbus.ObjectPath
		Parameters, Word []byte
		ContentType      string
	}{session, []byte{}, []byte(desktopPassword), "text/plain"}
	if err := service.Call("org.gnome.keyring.InternalUnsupportedGuiltRiddenInterface.UnlockWithMasterPassword", 0, loginCollection, master).Err; err != nil {
		t.Fatal(err)
	}
}

// items is how many items of ours the keyring has.
func (b *bused) items(t *testing.T) int {
	t.Helper()
	var items []dbus.ObjectPath
	if err := b.bus.Object(secretsName, loginCollection).Call("org.freedesktop.Secret.Collection.SearchItems", 0, map[string]string{"service": "stsbroker"}).Store(&items); err != nil {
		t.Fatal(err)
	}
	return len(items)
}

// TestKeyring: the identity and a long-term key in a real Secret Service.
func TestKeyring(t *testing.T) {
	if _, err := exec.LookPath("gnome-keyring-daemon"); err != nil {
		t.Skip("not run: gnome-keyring-daemon is missing")
	}
	if !onBus(t) {
		return
	}
	const ringSecret = "canary/secret/key/in/the/keyring/0123456"
	b := newBused(t, `keys: { work: { custody: sealed }, ring: { custody: keyring } }
profiles:
  sealed: { session: { key: work } }
  kept: { session: { key: ring } }
`)
	b.gnome(t)
	b.fake.AddUser("ring", "AKIARINGRINGRINGRING", ringSecret)

	// unlock --keyring makes the identity there, and leaves a word of that in the state folder.
	b.start(t)
	if out := b.run(t, "unlock", "--keyring"); out != "custody is open: stsbroker unlock (the OS keyring)" {
		t.Error(out)
	}
	state := filepath.Join(b.home, ".local", "state", "stsbroker")
	marker, err := os.ReadFile(filepath.Join(state, "identity"))
	if err != nil || strings.Contains(string(marker), "AGE-SECRET-KEY") || b.items(t) != 1 {
		t.Errorf("%d items; identity is %q, %v", b.items(t), marker, err)
	}
	b.fails(t, "there is an identity already", "unlock", "--keyring")
	b.add(t, "AKIABENCHBENCHBENCHB\n"+wholeSecret+"\n", "work")
	b.gives(t, "sealed")
	if out := b.add(t, "AKIARINGRINGRINGRING\n"+ringSecret+"\n", "ring", "--custody", "keyring"); !strings.Contains(out, "key ring (AKIARINGRINGRINGRING, of ring in account 123456789012) rests in custody: keyring") {
		t.Error(out)
	}
	b.gives(t, "kept")
	if n := b.items(t); n != 2 {
		t.Errorf("%d items, want the identity and a key", n)
	}

	// A restart opens it without asking.
	b.start(t)
	if c := b.status(t).Custody; c != "open" {
		t.Errorf("custody is %s after a restart", c)
	}
	for _, profile := range []string{"sealed", "kept"} {
		b.gives(t, profile)
		b.run(t, "refresh", profile)
	}
	b.halt(t)
	b.run(t, "exec", "kept", "--", "true") // and without a broker

	// The collection is locked: the broker starts all the same and at once, and asks nobody.
	b.screenLocks(t)
	before, mints := b.names(t), b.fake.Mints()
	if took := b.start(t); took > 3*time.Second {
		t.Errorf("it started in %v", took)
	}
	if c := b.status(t).Custody; c != "locked" {
		t.Errorf("custody is %s with a locked keyring", c)
	}
	if out := b.run(t, "status"); !strings.Contains(out, "custody is locked; run stsbroker unlock (the OS keyring is locked") {
		t.Error(out)
	}
	b.fails(t, "profile sealed: custody is locked: the OS keyring is locked; unlock it (log in to the desktop), or run stsbroker unlock", "credential-process", "sealed")
	b.fails(t, "the OS keyring is locked", "credential-process", "kept")
	b.fails(t, "the OS keyring is locked", "refresh", "kept")
	if out := b.run(t, "keys", "list"); !strings.Contains(out, "AKIARINGRINGRINGRING") || !strings.Contains(out, "the OS keyring is locked") {
		t.Error(out)
	}
	b.gives(t, "p0") // of the AWS files
	if after := b.names(t); !slices.Equal(before, after) {
		t.Errorf("on the bus before: %v, after: %v", before, after) // a prompter would be here
	}

	// It is opened: unlock finds the identity, and what rests sealed.
	b.screenUnlocks(t)
	if out := b.run(t, "unlock"); !strings.HasPrefix(out, "custody is open") {
		t.Error(out)
	}
	b.gives(t, "sealed")
	b.gives(t, "kept")
	if n := b.fake.Mints() - mints; n != 1 { // of p0
		t.Errorf("%d mints since the collection was locked", n)
	}

	// What is removed is out of the keyring too.
	b.run(t, "keys", "remove", "ring", "--yes")
	if n := b.items(t); n != 1 {
		t.Errorf("%d items after keys remove", n)
	}
	b.halt(t)
	for _, secret := range []string{ringSecret, wholeSecret} {
		if strings.Contains(b.log.String(), secret) {
			t.Errorf("the log holds %.8s…", secret)
		}
		if err := filepath.WalkDir(state, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			raw, err := os.ReadFile(path)
			if strings.Contains(string(raw), secret) {
				t.Errorf("%s holds %.8s…", path, secret)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	}
}

// desktop is a server of notifications.
type desktop struct{ told chan string }

// Notify is org.freedesktop.Notifications'.
func (d desktop) Notify(_ string, _ uint32, _, title, body string, _ []string, _ map[string]dbus.Variant, _ int32) (uint32, *dbus.Error) {
	d.told <- title + ": " + body
	return 7, nil
}

// TestNotification: whoever sits at the desktop is told once that a profile waits for
// them, unless notify is off.
func TestNotification(t *testing.T) {
	if !onBus(t) {
		return
	}
	const profiles = `keys: { dev: { custody: file } }
profiles:
  base: { session: { key: dev, mfa_serial: GAHT12345678 } }
  over: { role: { arn: "arn:aws:iam::123456789012:role/p0", source: base } }
`
	for name, c := range map[string]struct {
		yaml string
		want []string
	}{
		"by default": {profiles, []string{"stsbroker: login needed: Profile over waits for you. Run: stsbroker login over"}},
		"off":        {"notify: false\n" + profiles, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBused(t, c.yaml)
			b.fake.AddMFA("dev", "GAHT12345678", []byte("token"))
			d := desktop{make(chan string, 100)}
			if err := b.bus.Export(d, "/org/freedesktop/Notifications", "org.freedesktop.Notifications"); err != nil {
				t.Fatal(err)
			}
			if reply, err := b.bus.RequestName("org.freedesktop.Notifications", dbus.NameFlagDoNotQueue|dbus.NameFlagReplaceExisting); err != nil || reply != dbus.RequestNameReplyPrimaryOwner && reply != dbus.RequestNameReplyAlreadyOwner {
				t.Fatal(reply, err)
			}
			b.start(t)
			b.gives(t, "p0") // needs nobody
			var told []string
			for range 20 {
				b.fails(t, "run stsbroker login over", "credential-process", "over")
			}
			if len(c.want) > 0 {
				select {
				case text := <-d.told:
					told = append(told, text)
				case <-time.After(10 * time.Second):
				}
			}
			b.halt(t) // whatever it had to say is said
			for len(d.told) > 0 {
				told = append(told, <-d.told)
			}
			if !slices.Equal(told, c.want) {
				t.Errorf("told: %q, want %q", told, c.want)
			}
			if _, err := b.bus.ReleaseName("org.freedesktop.Notifications"); err != nil {
				t.Error(err)
			}
		})
	}
}
