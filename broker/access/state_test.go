package access

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

func TestTokensSurviveARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "stsbroker")
	tokens := open(t, dir)
	uid := uint32(me)
	named := must[Issued](t)(tokens.Create("ci", []string{"dev", "ops"}, &uid))
	env := must[Issued](t)(tokens.ForEnv(me, false, "dev"))
	gone := must[Issued](t)(tokens.Create("gone", []string{"dev"}, nil))
	child, _, err := tokens.ForChild(me, false, "dev", "")
	if err != nil {
		t.Fatal(err)
	}
	must[*broker.Grant](t)(tokens.Authenticate(env.Token.Reveal()))
	if err := tokens.Revoke("gone"); err != nil {
		t.Fatal(err)
	}
	before := slices.DeleteFunc(tokens.List(), func(i Info) bool { return i.Kind == KindExec })
	if err := tokens.Close(); err != nil {
		t.Fatal(err)
	}

	tokens = open(t, dir)
	want, _ := json.Marshal(before)
	if got, _ := json.Marshal(tokens.List()); !bytes.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	g := must[*broker.Grant](t)(tokens.Authenticate(named.Token.Reveal()))
	if g.Name != "ci" || !g.BoundUID || g.UID != me || !slices.Equal(g.Profiles, []string{"dev", "ops"}) {
		t.Errorf("%+v", g)
	}
	for _, dead := range []Issued{gone, child} {
		if _, err := tokens.Authenticate(dead.Token.Reveal()); kindOf(err) != "unauthorized" {
			t.Error(err)
		}
	}
	if again := must[Issued](t)(tokens.ForEnv(me, false, "dev")); !again.Token.Equal(env.Token) {
		t.Error("a restart changed the shell's token")
	}
}

func TestNoValueRestsOnDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	tokens := open(t, dir)
	values := []broker.Secret{
		must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil)).Token,
		must[Issued](t)(tokens.ForEnv(me, false, "dev")).Token,
	}
	if err := tokens.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{secretFile: 0o600, listFile: 0o600, ".": fs.ModeDir | 0o700} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if runtime.GOOS != "windows" && info.Mode() != want {
			t.Errorf("%s: %v", name, info.Mode())
		}
		if info.IsDir() {
			continue
		}
		data := must[[]byte](t)(os.ReadFile(filepath.Join(dir, name)))
		for _, v := range values {
			mac := v.Reveal()[len(tokenPrefix)+idLength+1:]
			raw := must[[]byte](t)(base64.RawURLEncoding.DecodeString(mac))
			if bytes.Contains(data, []byte(mac)) || bytes.Contains(data, raw) {
				t.Errorf("%s holds a token", name)
			}
		}
	}
}

func TestLastUseIsWrittenNowAndThen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	synctest.Test(t, func(t *testing.T) {
		tokens := open(t, dir)
		defer tokens.Close()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- tokens.Run(ctx) }()
		i := must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil))
		env := must[Issued](t)(tokens.ForEnv(me, false, "dev"))
		onDisk := func() string { return string(must[[]byte](t)(os.ReadFile(filepath.Join(dir, listFile)))) }
		start := onDisk()
		time.Sleep(saveEvery + time.Second)
		if onDisk() != start {
			t.Error("written without a change")
		}
		must[*broker.Grant](t)(tokens.Authenticate(i.Token.Reveal()))
		if onDisk() != start {
			t.Error("written on the way of a request")
		}
		time.Sleep(saveEvery)
		if !strings.Contains(onDisk(), `"last_used"`) {
			t.Error("not written")
		}
		time.Sleep(EnvIdle + saveEvery)
		if strings.Contains(onDisk(), env.ID) {
			t.Error("an expired token stayed")
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestDamage spoils the state in every way a disk or a hand can, and expects a
// refusal that names the file, which must still be there.
func TestDamage(t *testing.T) {
	fresh := func(t *testing.T) (dir string) {
		dir = filepath.Join(t.TempDir(), "s")
		tokens := open(t, dir)
		must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil))
		if err := tokens.Close(); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	refused := func(t *testing.T, dir, file string, spoilt []byte) {
		t.Helper()
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, spoilt, 0o600); err != nil {
			t.Fatal(err)
		}
		tokens, err := Open(dir, nil)
		if err == nil {
			_ = tokens.Close()
			t.Fatalf("opened with %s = %q", file, spoilt)
		}
		if !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), file) {
			t.Fatalf("does not name the file: %v", err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, spoilt) {
			t.Fatalf("the file was touched: %v", err)
		}
	}
	t.Run("list cut at every byte", func(t *testing.T) {
		dir := fresh(t)
		whole := must[[]byte](t)(os.ReadFile(filepath.Join(dir, listFile)))
		for n := range len(whole) - 1 { // without the last newline it is whole
			refused(t, dir, listFile, whole[:n])
		}
		if err := os.WriteFile(filepath.Join(dir, listFile), whole, 0o600); err != nil {
			t.Fatal(err)
		}
		if l := open(t, dir).List(); len(l) != 1 {
			t.Fatalf("%+v", l)
		}
	})
	t.Run("list with every byte changed", func(t *testing.T) {
		dir := fresh(t)
		whole := bytes.TrimSpace(must[[]byte](t)(os.ReadFile(filepath.Join(dir, listFile))))
		for n := range whole {
			spoilt := bytes.Clone(whole)
			spoilt[n] ^= 1
			refused(t, dir, listFile, spoilt)
		}
	})
	t.Run("list of another secret", func(t *testing.T) {
		dir := fresh(t)
		refused(t, dir, listFile, must[[]byte](t)(os.ReadFile(filepath.Join(fresh(t), listFile))))
	})
	t.Run("list from the future", func(t *testing.T) {
		refused(t, fresh(t), listFile, []byte(`{"version": 2, "mac": "", "tokens": []}`))
	})
	t.Run("garbage after the list", func(t *testing.T) {
		dir := fresh(t)
		whole := must[[]byte](t)(os.ReadFile(filepath.Join(dir, listFile)))
		refused(t, dir, listFile, append(whole, '}'))
	})
	for name, secret := range map[string][]byte{
		"empty": {}, "short": bytes.Repeat([]byte("ab"), 15), "long": bytes.Repeat([]byte("ab"), 17),
		"zeros": make([]byte, secretLength),
	} {
		t.Run("secret "+name, func(t *testing.T) { refused(t, fresh(t), secretFile, secret) })
	}
	t.Run("secret of another list", func(t *testing.T) {
		dir := fresh(t)
		if err := os.WriteFile(filepath.Join(dir, secretFile), bytes.Repeat([]byte("ab"), 16), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, nil); err == nil || !strings.Contains(err.Error(), secretFile) {
			t.Fatal(err)
		}
	})
	t.Run("secret lost", func(t *testing.T) {
		dir := fresh(t)
		if err := os.Remove(filepath.Join(dir, secretFile)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, nil); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, secretFile)) {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, secretFile)); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal("a new secret was made, which ends every token")
		}
	})
	t.Run("open to others", func(t *testing.T) {
		if runtime.GOOS == "windows" {
			t.Skip("not run: modes mean nothing on Windows")
		}
		for _, name := range []string{secretFile, listFile, "."} {
			dir := fresh(t)
			if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir, nil); err == nil || !strings.Contains(err.Error(), "chmod") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// signed is a list with this as its tokens, laid out as encode does.
func signed(secret broker.Secret, body string) []byte {
	return fmt.Appendf(nil, "{\n\"version\": 1,\n\"mac\": \"%x\",\n\"tokens\": %s\n}\n", mac(secret, listLabel, body), body)
}

// TestListThatNobodyHereWrote is about lists with the right MAC and wrong contents.
func TestListThatNobodyHereWrote(t *testing.T) {
	secret := Memory().secret
	good := func(id string) *token {
		k := newToken(KindEnv, me, false, "dev")
		k.grant.ID, k.created = id, time.Now()
		return k
	}
	const a, b = "00000000000000aa", "00000000000000bb"
	of := func(kind Kind, g broker.Grant) *token {
		return &token{kind: kind, grant: g, use: new(usage)}
	}
	kept := of(KindNamed, broker.Grant{ID: a, Name: "n", Profiles: []string{"dev"}})
	kept.inFile = true
	for name, m := range map[string]map[string]*token{
		"bad id":         {"x": good("xx")},
		"no profile":     {a: of(KindNamed, broker.Grant{ID: a, Name: "n"})},
		"no name":        {a: of(KindNamed, broker.Grant{ID: a, Profiles: []string{"dev"}})},
		"env with name":  {a: of(KindEnv, broker.Grant{ID: a, Name: "n", Profiles: []string{"dev"}})},
		"env with many":  {a: of(KindEnv, broker.Grant{ID: a, Profiles: []string{"dev", "ops"}})},
		"named in file":  {a: kept},
		"control in it":  {a: of(KindNamed, broker.Grant{ID: a, Name: "n\n", Profiles: []string{"dev"}})},
		"one id twice":   {"x": good(a), "y": good(a)},
		"one name twice": {a: of(KindNamed, broker.Grant{ID: a, Name: "n", Profiles: []string{"dev"}}), b: of(KindNamed, broker.Grant{ID: b, Name: "n", Profiles: []string{"dev"}})},
	} {
		if got, err := decode(secret, encode(secret, m)); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got, err := decode(secret, encode(secret, map[string]*token{a: good(a), b: good(b)})); err != nil || len(got) != 2 {
		t.Error(got, err)
	}
	for kind, ok := range map[Kind]bool{KindNamed: true, KindExec: false, KindFile: false, "root": false, "": false} {
		body := must[[]byte](t)(json.Marshal([]entry{{ID: a, Name: "n", Kind: kind, Profiles: []string{"dev"}}}))
		if got, err := decode(secret, signed(secret, string(body))); (err == nil) != ok {
			t.Errorf("kind %q: %v, %v", kind, got, err)
		}
	}
}

func TestOneProcessAtATime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	first := open(t, dir)
	if _, err := Open(dir, nil); err == nil || !strings.Contains(err.Error(), "another stsbroker uses the state folder "+dir) {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal("closing twice:", err)
	}
	open(t, dir)
}

// TestDiskThatFails takes the folder away under an open broker.
func TestDiskThatFails(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("not run: an open folder cannot be moved on Windows")
	}
	dir := filepath.Join(t.TempDir(), "s")
	tokens := open(t, dir)
	i := must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil))
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Create("more", []string{"dev"}, nil); kindOf(err) != "config" || !strings.Contains(err.Error(), "no token was made") {
		t.Fatal(err)
	}
	if l := tokens.List(); len(l) != 1 {
		t.Fatalf("a token that is not on disk was made: %+v", l)
	}
	must[*broker.Grant](t)(tokens.Authenticate(i.Token.Reveal()))
	if _, revoke, err := tokens.ForChild(me, false, "dev", ""); err != nil {
		t.Fatal(err)
	} else {
		revoke()
	}
	if err := tokens.Revoke("ci"); err == nil || !strings.Contains(err.Error(), "back after a restart") {
		t.Fatal(err)
	}
	if _, err := tokens.Authenticate(i.Token.Reveal()); err == nil {
		t.Fatal("a revocation that could not be written was not done either")
	}
}

func FuzzDecode(f *testing.F) {
	secret := broker.NewSecret(strings.Repeat("ab", 16))
	k := newToken(KindEnv, me, true, "dev")
	k.grant.ID = "00000000000000aa"
	f.Add(encode(secret, map[string]*token{k.grant.ID: k}))
	f.Add([]byte(`{"version":1,"mac":"","tokens":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := decode(secret, raw)
		if err != nil {
			return
		}
		if again, err := decode(secret, encode(secret, m)); err != nil || len(again) != len(m) {
			t.Fatal(err)
		}
	})
}

// Keys for others are as lasting as the secret, and have nothing to do with tokens.
func TestKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	first := open(t, dir)
	keyOf := func(t *Tokens, purpose string) broker.Secret {
		key, _ := t.Key(purpose)
		return key
	}
	key := keyOf(first, "imds")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir)
	switch {
	case len(key.Reveal()) != 32 || !key.Equal(keyOf(again, "imds")):
		t.Error("another key after a restart")
	case key.Equal(keyOf(again, "other")), key.Equal(keyOf(Memory(), "imds")), key.Equal(again.secret):
		t.Error("the key of another purpose or secret")
	}
}
