package custody

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stsbroker/stsbroker/broker"
)

const (
	idA     = "AKIAIOSFODNN7EXAMPLE"
	secretA = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	idB     = "AKIAI44QH8DHBEXAMPLE"
	secretB = "je7MtGbClwBF/2Zp9Utk/h3yCo8nvbEXAMPLEKEY"
)

func pair(id, secret string) string {
	return "aws_access_key_id = " + id + "\naws_secret_access_key = " + secret + "\n"
}

func write(t *testing.T, path, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	return path
}

func wantKey(t *testing.T, s Set, name, id, secret string) {
	t.Helper()
	m, err := s.Key(t.Context(), name)
	if err != nil {
		t.Fatalf("key %s: %v", name, err)
	}
	if m.AccessKeyID != id || m.SecretAccessKey.Reveal() != secret || m.Temporary() {
		t.Errorf("key %s has the id %s, want %s", name, m.AccessKeyID, id)
	}
}

// wantError checks words, kind, and that no secret is in them.
func wantError(t *testing.T, s Source, want string) {
	t.Helper()
	m, err := s(context.Background())
	var e *broker.Error
	if !errors.As(err, &e) || e.Kind != broker.KindConfig {
		t.Fatalf("got %v, want a *broker.Error of kind config: %s", err, want)
	}
	if e.Public != want {
		t.Errorf("got\n%s\nwant\n%s", e.Public, want)
	}
	if m != (broker.Material{}) {
		t.Error("material beside an error")
	}
	for _, secret := range []string{secretA, secretB} {
		if strings.Contains(fmt.Sprintf("%+v %#v", err, e), secret) {
			t.Errorf("the error holds the secret: %v", err)
		}
	}
}

func TestSet(t *testing.T) {
	dir := t.TempDir()
	keys := write(t, filepath.Join(dir, "credentials"), "[work]\n"+pair(idA, secretA)+"[default]\n"+pair(idB, secretB), 0o600)
	config := write(t, filepath.Join(dir, "config"), "[profile work]\n"+pair(idB, secretB)+"[profile only]\n"+pair(idB, secretB), 0o600)
	s := Set{
		"work":                File(keys, "work"),
		ProfileKey("work"):    Profile(config, keys, "work"),
		ProfileKey("only"):    Profile(config, keys, "only"),
		ProfileKey("default"): Profile("", keys, "default"),
	}
	wantKey(t, s, "work", idA, secretA)
	wantKey(t, s, "aws:work", idA, secretA) // the credentials file wins
	wantKey(t, s, "aws:only", idB, secretB)
	wantKey(t, s, "aws:default", idB, secretB)
	_, err := s.Key(t.Context(), "nope")
	var e *broker.Error
	if !errors.As(err, &e) || e.Kind != broker.KindConfig || !strings.Contains(e.Public, `no key "nope"`) {
		t.Errorf("a key that is not there: %v", err)
	}
}

func TestNamesDoNotClash(t *testing.T) {
	for name, want := range map[string]bool{
		"work": true, "a": true, "9a_b.c@d+e-f": true, strings.Repeat("a", 64): true,
		"": false, "-a": false, "a b": false, "a:b": false, "a/b": false, "ä": false, strings.Repeat("a", 65): false,
		ProfileKey("work"): false, ProfileKey(""): false,
	} {
		if ValidName(name) != want {
			t.Errorf("ValidName(%q) is %v", name, !want)
		}
	}
}

func TestFileIsReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "credentials")
	s := Set{"work": File(path, "work")}
	missing := "there is no section [work] of " + path + ": add it, with aws_access_key_id and aws_secret_access_key"
	wantError(t, s["work"], missing)
	write(t, path, "[work]\n"+pair(idA, secretA), 0o600)
	wantKey(t, s, "work", idA, secretA)
	write(t, path, "[work]\n"+pair(idB, secretB), 0o600)
	wantKey(t, s, "work", idB, secretB)
	write(t, path, "[other]\n"+pair(idB, secretB), 0o600)
	wantError(t, s["work"], missing)
}

func TestFileErrors(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "credentials")
	for name, c := range map[string]struct{ content, want string }{
		"empty section": {"[k]\n", "there is no key in section [k] of F: put aws_access_key_id and aws_secret_access_key there"},
		"half":          {"[k]\naws_secret_access_key = " + secretA, "F:2: aws_secret_access_key is here, but aws_access_key_id is missing from the section: add it, or remove this line"},
		"empty id":      {"[k]\naws_access_key_id =\naws_secret_access_key = " + secretA, "aws_access_key_id is missing from the section at F:1, or empty: add it"},
		"empty secret":  {"\n[k]\naws_access_key_id = " + idA + "\naws_secret_access_key =", "aws_secret_access_key is missing from the section at F:2, or empty: add it"},
		"temporary":     {"[k]\n" + pair(idA, secretA) + "aws_session_token = T", "the key in the section at F:1 is temporary (aws_session_token), and cannot mint others: put a long-term key there"},
		"swapped":       {"[k]\n" + pair(secretA, idA), "aws_access_key_id in the section at F:1 is not an access key id: copy it again"},
		"short id":      {"[k]\n" + pair("AKIA12345678901", secretA), "aws_access_key_id in the section at F:1 is not an access key id: copy it again"},
		"long id":       {"[k]\n" + pair(strings.Repeat("A", 129), secretA), "aws_access_key_id in the section at F:1 is not an access key id: copy it again"},
		"blank":         {"[k]\n" + pair(idA, secretA+" "+secretA), "aws_secret_access_key in the section at F:1 is not a secret access key (it holds blanks or characters that do not print): copy it again"},
		"two lines":     {"[k]\n" + pair(idA, secretA) + "  " + secretB, "aws_secret_access_key in the section at F:1 is not a secret access key (it holds blanks or characters that do not print): copy it again"},
		"bad line":      {"[k]\n" + pair(idA, secretA) + secretB, "F:4: the line is not a section header, a key = value or a comment"},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, path, c.content, 0o600)
			wantError(t, File(path, "k"), strings.ReplaceAll(c.want, "F", path))
		})
	}
	wantError(t, File(dir, "k"), dir+" cannot be read: not a regular file")
	config := write(t, filepath.Join(dir, "config"), "[profile j]\n", 0o600)
	wantError(t, Profile(config, path, "x"), "there is no section [x] of "+path+" or profile x of "+config+": add it, with aws_access_key_id and aws_secret_access_key")
	wantError(t, File(os.DevNull, "k"), "there is no section [k] of "+os.DevNull+": add it, with aws_access_key_id and aws_secret_access_key")
}

func TestEnv(t *testing.T) {
	env := map[string]string{"AWS_ACCESS_KEY_ID": idA, "AWS_SECRET_ACCESS_KEY": secretA}
	getenv := func(k string) string { return env[k] }
	s := Set{"e": Env(getenv)}
	env["AWS_ACCESS_KEY_ID"] = idB
	wantKey(t, s, "e", idA, secretA) // as it was
	env["AWS_SESSION_TOKEN"] = "T"
	wantError(t, Env(getenv), "the key in the environment is temporary (AWS_SESSION_TOKEN), and cannot mint others: put a long-term key there")
	delete(env, "AWS_SECRET_ACCESS_KEY")
	wantError(t, Env(getenv), "AWS_SECRET_ACCESS_KEY is missing from the environment, or empty: add it")
	clear(env)
	wantError(t, Env(getenv), "there is no key in the environment: put AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY there")
}

func TestPlausible(t *testing.T) {
	for id, want := range map[string]bool{
		"AKIAIOSFODNN7EXAMPLE": true, "AKIA12345": false, "ASIA/SFODNN7EXAMPLE0": false,
		"minioadmin": true, "store-1-root": true, "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY": false, "with blank": false, strings.Repeat("x", 129): false,
	} {
		if plausible(id) != want {
			t.Errorf("%s: %v", id, !want)
		}
	}
}

func TestEnvSession(t *testing.T) {
	env := map[string]string{"AWS_ACCESS_KEY_ID": "ASIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": secretA, "AWS_SESSION_TOKEN": "token"}
	getenv := func(k string) string { return env[k] }
	if m, err := EnvSession(getenv)(t.Context()); err != nil || !m.Temporary() {
		t.Errorf("session credentials that may sign for a role: %v", err)
	}
	if _, err := Env(getenv)(t.Context()); err == nil {
		t.Error("session credentials are taken for a long-term key")
	}
	delete(env, "AWS_SESSION_TOKEN")
	if m, err := EnvSession(getenv)(t.Context()); err != nil || m.Temporary() {
		t.Errorf("a long-term key: %v", err)
	}
}
