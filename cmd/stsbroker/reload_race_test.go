//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/seal"
	"github.com/stsbroker/stsbroker/internal/securefile"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// inside is a broker within the test, whose document the test changes.
type inside struct {
	*app
	dir, port string
	ctx       context.Context
}

func newInside(t *testing.T, env map[string]string, document string) inside {
	t.Helper()
	fake := stsfake.New()
	run, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = run.Close() })
	fake.AddUser("dev", "AKIABENCHBENCHBENCHB", wholeSecret)
	for _, n := range []string{"admin", "readonly"} {
		fake.AddRole(stsfake.Role{ARN: "arn:aws:iam::123456789012:role/" + n, Trust: []string{"*"}})
	}
	in := inside{dir: privateFolder(t), port: freePort(t)}
	all := map[string]string{"AWS_CONFIG_FILE": filepath.Join(in.dir, "config"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(in.dir, "credentials"), "AWS_ENDPOINT_URL_STS": run.URL}
	for k, v := range env {
		all[k] = filepath.Join(in.dir, v)
	}
	in.file(t, "credentials", "[dev]\naws_access_key_id = AKIABENCHBENCHBENCHB\naws_secret_access_key = "+wholeSecret+"\n")
	in.document(t, document)
	p := place{
		home: in.dir, getenv: func(name string) string { return all[name] }, state: filepath.Join(in.dir, "state"), config: filepath.Join(in.dir, "stsbroker.yaml"),
		runtime: filepath.Join(in.dir, "run"), control: filepath.Join(in.dir, "run", "control.sock"),
	}
	a, findings, err := newApp(settings{place: p, log: zap.NewNop()})
	if err != nil {
		t.Fatal(firstError(findings), err)
	}
	in.app = a
	ctx, stop := context.WithCancel(t.Context())
	in.ctx = ctx
	if err := a.listen(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return in
}

func (in inside) file(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(in.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (in inside) document(t *testing.T, text string) {
	t.Helper()
	in.file(t, "stsbroker.yaml", fmt.Sprintf("listen: { container: [\"127.0.0.1:%s\"] }\nkeys: { dev: { custody: file } }\n", in.port)+strings.ReplaceAll(text, "DIR", in.dir))
}

func ofRole(role string) string {
	return "profiles: { app: { role: { arn: 'arn:aws:iam::123456789012:role/" + role + "', key: dev }, region: eu-central-1 } }\n"
}

// One reload gives a profile to another user and makes a lesser role of it. That user
// never gets what it was before.
func TestNobodyIsServedByNewRulesWhatAProfileWas(t *testing.T) {
	in := newInside(t, nil, ofRole("admin"))
	ask := func(uid int) (*broker.Set, error) {
		return in.broker.Get(in.ctx, broker.Ask{Caller: broker.Caller{Door: broker.DoorControl, Peer: broker.NewPeer(uint32(uid), 1)}, Profile: "app", Patience: 5 * time.Second})
	}
	var wrong, right atomic.Int64
	var askers sync.WaitGroup
	over := make(chan struct{})
	askers.Go(func() {
		for {
			select {
			case <-over:
				return
			default:
			}
			if set, err := ask(54321); err != nil {
				continue
			} else if strings.HasSuffix(set.RoleARN, "/admin") {
				wrong.Add(1)
			} else {
				right.Add(1)
			}
		}
	})
	for range 40 {
		if set, err := ask(os.Getuid()); err != nil || !strings.HasSuffix(set.RoleARN, "/admin") {
			t.Fatal(set, err)
		}
		in.document(t, ofRole("readonly")+"access: [{ uid: 54321, profiles: [app] }]\ntoken_files: { pod: { profiles: [app] } }\n")
		if _, err := in.reload(in.ctx); err != nil {
			t.Fatal(err)
		}
		for before := right.Load(); right.Load() == before; {
			time.Sleep(100 * time.Microsecond) // until it was served by the rule, as it must be
		}
		in.document(t, ofRole("admin"))
		if _, err := in.reload(in.ctx); err != nil {
			t.Fatal(err)
		}
	}
	close(over)
	askers.Wait()
	if wrong.Load() > 0 {
		t.Errorf("the other user had the admin role %d times (the one that is given %d times)", wrong.Load(), right.Load())
	}
}

// A token file whose profiles change is there at every moment.
func TestTokenFileStaysThroughReloads(t *testing.T) {
	in := newInside(t, nil, ofRole("admin")+"token_files: { pod: { profiles: [app] } }\n")
	path := in.tokenFile(TokenFileConfig{Name: "pod"})
	var missing, there atomic.Int64
	var readers sync.WaitGroup
	over := make(chan struct{})
	readers.Go(func() {
		for {
			select {
			case <-over:
				return
			default:
			}
			if b, err := os.ReadFile(path); err != nil || len(b) == 0 {
				missing.Add(1)
			} else {
				there.Add(1)
			}
		}
	})
	for i := range 20 {
		more := "token_files: { pod: { profiles: [app, default] } }\n"
		if i%2 == 1 {
			more = "token_files: { pod: { profiles: [app] } }\n"
		}
		in.document(t, "profiles: { app: { role: { arn: 'arn:aws:iam::123456789012:role/admin', key: dev }, region: eu-central-1 }, default: { session: { key: dev }, region: eu-central-1 } }\n"+more)
		if _, err := in.reload(in.ctx); err != nil {
			t.Fatal(err)
		}
	}
	close(over)
	readers.Wait()
	if missing.Load() > 0 || there.Load() == 0 {
		t.Errorf("it was missing for %d of %d reads", missing.Load(), missing.Load()+there.Load())
	}
}

// A reload that is refused at its last step takes nothing away.
func TestRefusedReloadLeavesFiles(t *testing.T) {
	in := newInside(t, nil, ofRole("admin")+"token_files: { pod: { profiles: [app] } }\n")
	path := in.tokenFile(TokenFileConfig{Name: "pod"})
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	in.document(t, ofRole("admin")+"audit: { file: DIR/missing/log }\n")
	if _, err := in.reload(in.ctx); err == nil || !strings.Contains(err.Error(), "audit.file") {
		t.Fatalf("said %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("%q, %v", after, err)
	}
	in.document(t, ofRole("admin"))
	if _, err := in.reload(in.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("taken out of the configuration, it is there: %v", err)
	}
}

// A file that a faulty document names is watched too: mending it is enough.
func TestMendedFileIsNoticed(t *testing.T) {
	in := newInside(t, nil, ofRole("admin"))
	in.document(t, strings.Replace(ofRole("readonly"), "key: dev", "key: dev, policy: 'file:narrow.json'", 1))
	if _, err := in.reload(in.ctx); err == nil || !strings.Contains(err.Error(), "narrow.json") {
		t.Fatalf("said %v", err)
	}
	in.file(t, "narrow.json", `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}]}`)
	for end := time.Now().Add(20 * time.Second); in.failure.Load() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("nobody noticed that the policy is there: %+v", in.failure.Load())
		}
	}
}

// Unlocks and reloads at once, with a seed that asks whose identity is open: nobody waits
// for nobody.
func TestUnlockBesideReload(t *testing.T) {
	seedIdentity, err := seal.MakeIdentity()
	if err != nil {
		t.Fatal(err)
	}
	in := newInside(t, map[string]string{varIdentityFile: "keys-identity"}, ofRole("admin"))
	in.file(t, "seed-identity", string(seedIdentity))
	if err := securefile.Write(filepath.Join(in.dir, "seed.age"), []byte("x")); err != nil {
		t.Fatal(err)
	}
	in.document(t, "profiles: { app: { session: { key: dev, mfa_serial: 'arn:aws:iam::123456789012:mfa/me', mfa_seed: { file: DIR/seed.age, identity_file: DIR/seed-identity } }, region: eu-central-1 } }\n")
	var both sync.WaitGroup
	s := in.self()
	both.Go(func() {
		for range 200 {
			if _, err := s.Unlock(in.ctx, control.Unlocking{}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	both.Go(func() {
		for range 200 {
			if _, err := in.reload(in.ctx); err != nil {
				t.Error(err)
				return
			}
		}
	})
	done := make(chan struct{})
	go func() { both.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("they wait for each other")
	}
}

// A document that is empty or gone for a moment, as many ways of writing leave it, is not
// taken for the wish to serve nothing; {} is.
func TestEmptyDocumentIsNotTakenForOne(t *testing.T) {
	in := newInside(t, nil, ofRole("admin"))
	path := filepath.Join(in.dir, "stsbroker.yaml")
	in.app.place.usual, in.app.place.config = path, ""
	served := func() bool {
		_, err := in.broker.Get(in.ctx, broker.Ask{Caller: in.self().(local).who, Profile: "app", Patience: 5 * time.Second})
		return err == nil
	}
	for says, change := range map[string]func() error{
		"is empty": func() error { return os.WriteFile(path, []byte("# soon\n"), 0o600) },
		"is gone":  func() error { return os.Remove(path) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if _, err := in.reload(in.ctx); err == nil || !strings.Contains(err.Error(), says) || !served() {
			t.Errorf("%s: said %v", says, err)
		}
	}
	in.file(t, "stsbroker.yaml", "{}\n")
	if _, err := in.reload(in.ctx); err != nil || served() {
		t.Errorf("{} is a document: %v", err)
	}
}

// What a reload publishes is whole: who reads it meanwhile reads one setup (with -race).
func TestStatusBesideReload(t *testing.T) {
	in := newInside(t, nil, ofRole("admin"))
	var reader sync.WaitGroup
	over := make(chan struct{})
	reader.Go(func() {
		for {
			select {
			case <-over:
				return
			default:
			}
			if st, err := in.self().Status(in.ctx, ""); err != nil || len(st.Container) != 1 {
				t.Errorf("%v, %v", st.Container, err)
				return
			}
		}
	})
	for i := range 100 {
		in.document(t, ofRole([]string{"admin", "readonly"}[i%2]))
		if _, err := in.reload(in.ctx); err != nil {
			t.Fatal(err)
		}
	}
	close(over)
	reader.Wait()
}
