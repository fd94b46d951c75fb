package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

func classic(t *testing.T) (Identity, string) {
	t.Helper()
	x, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, x.String()), x.String()
}

func parse(t *testing.T, text string) Identity {
	t.Helper()
	id, err := ParseIdentity([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func made(t *testing.T) (Identity, string) {
	t.Helper()
	text, err := MakeIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(text)), string(text)
}

func seal(t *testing.T, id Identity, plain string) []byte {
	t.Helper()
	sealed, err := id.Seal([]byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestSealAndOpen(t *testing.T) {
	x, _ := classic(t)
	h, _ := made(t)
	for name, id := range map[string]Identity{"X25519": x, "hybrid": h} {
		for _, n := range []int{0, 1, 1000, 64 << 10, 200_000} {
			plain := strings.Repeat("canary", n/6+1)[:n]
			sealed := seal(t, id, plain)
			if n > 5 && bytes.Contains(sealed, []byte("canary")) {
				t.Errorf("%s: %d bytes are not sealed", name, n)
			}
			if got, err := id.Open(sealed, int64(n)); err != nil || string(got) != plain {
				t.Errorf("%s: %d bytes came back as %d, %v", name, n, len(got), err)
			}
			if got, err := id.Open(sealed, int64(n)-1); err == nil || got != nil {
				t.Errorf("%s: %d bytes pass a limit of one less", name, n)
			}
		}
	}
	if _, err := h.Open(seal(t, x, "x"), 10); err == nil || !errors.Is(err, errOther) {
		t.Errorf("another identity: %v", err)
	}
	if _, err := (Identity{}).Seal(nil); err == nil {
		t.Error("no identity seals")
	}
	if _, err := (Identity{}).Open(seal(t, x, "x"), 10); err == nil {
		t.Error("no identity opens")
	}
}

func TestSeveralIdentities(t *testing.T) {
	older, olderText := classic(t)
	newer, newerText := made(t)
	both := parse(t, "# the new one\r\n"+strings.TrimSpace(newerText)+"\r\n\r\n"+olderText)
	if got, err := both.Open(seal(t, older, "old"), 10); err != nil || string(got) != "old" {
		t.Errorf("the second identity: %q, %v", got, err)
	}
	if got, err := newer.Open(seal(t, both, "new"), 10); err != nil || string(got) != "new" {
		t.Errorf("the first identity: %q, %v", got, err)
	}
	if _, err := older.Open(seal(t, both, "new"), 10); err == nil {
		t.Error("what is new is sealed for the old identity too")
	}
}

// Whatever is changed in a sealed file, or cut off or added, nothing comes out of it.
func TestEveryByteCounts(t *testing.T) {
	x, _ := classic(t)
	h, _ := made(t)
	for name, id := range map[string]Identity{"X25519": x, "hybrid": h} {
		sealed := seal(t, id, "canary canary canary")
		for i := range sealed {
			if got, err := id.Open(sealed[:i], 100); err == nil {
				t.Fatalf("%s: the first %d of %d bytes open as %q", name, i, len(sealed), got)
			}
			changed := bytes.Clone(sealed)
			changed[i] ^= 1 << (i % 8)
			if got, err := id.Open(changed, 100); err == nil {
				t.Fatalf("%s: with byte %d of %d changed it opens as %q", name, i, len(sealed), got)
			}
		}
		if _, err := id.Open(append(bytes.Clone(sealed), 'x'), 100); err == nil {
			t.Errorf("%s: a byte more goes unnoticed", name)
		}
	}
}

// A file for a passphrase whose work factor would take days is no work: no
// identity of ours is a passphrase.
func TestScryptIsRefusedAtOnce(t *testing.T) {
	id, _ := made(t)
	hostile := "age-encryption.org/v1\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 40\n" + strings.Repeat("A", 43) + "\n--- " + strings.Repeat("A", 43) + "\n" + strings.Repeat("x", 100)
	began := time.Now()
	if _, err := id.Open([]byte(hostile), 100); err == nil || !errors.Is(err, errOther) {
		t.Errorf("%v", err)
	}
	if took := time.Since(began); took > 100*time.Millisecond {
		t.Errorf("it took %v", took)
	}
}

func TestWhatIsNoIdentity(t *testing.T) {
	_, x := classic(t)
	_, h := made(t)
	h = strings.TrimSpace(h[strings.Index(h, "AGE-"):])
	for text, want := range map[string]string{
		"":                                      "it holds no age identity; age-keygen makes one",
		"# only\n\n":                            "it holds no age identity; age-keygen makes one",
		"canary\n":                              "line 1 is not an age identity; age-keygen makes one",
		"#\ncanary\n":                           "line 2 is not an age identity; age-keygen makes one",
		x[:40]:                                  "line 1 is a damaged age identity: it was mistyped or cut short",
		h[:len(h)-1]:                            "line 1 is a damaged age identity: it was mistyped or cut short",
		x + "\n" + h[1:]:                        "line 2 is not an age identity; age-keygen makes one",
		"AGE-PLUGIN-YUBIKEY-1CANARY":            "line 1 is the identity of a plugin, which a person has to run; stsbroker unlock opens it",
		"AGE-PLUGIN-X-1\n" + x:                  "line 1 is the identity of a plugin, and other lines are not; ",
		"age-encryption.org/v1\n-> scrypt A 18": "it is sealed by a passphrase; stsbroker unlock opens it",
		"age-encryption.org/v1\n-> X25519 A":    "it is sealed itself, and not by a passphrase; decrypt it first",
		"-----BEGIN AGE ENCRYPTED FILE-----\n":  "it is sealed itself, and not by a passphrase; decrypt it first",
		"-----BEGIN OPENSSH PRIVATE KEY-----\ncanary": "line 1 is not an age identity; age-keygen makes one",
	} {
		id, err := ParseIdentity([]byte(text))
		if err == nil || !strings.HasPrefix(err.Error(), want) || !id.IsZero() {
			t.Errorf("%.30q: %v", text, err)
		} else if m := err.Error(); strings.Contains(strings.ToLower(m), "canary") || strings.Contains(m, x[20:30]) || strings.Contains(m, h[20:30]) {
			t.Errorf("%.30q: the error quotes the line: %v", text, err)
		}
	}
}

func TestIdentityDoesNotPrint(t *testing.T) {
	id, text := classic(t)
	encoded, err := json.Marshal(id) //nolint:staticcheck // that it encodes nothing is what is tested
	if err != nil {
		t.Fatal(err)
	}
	out := fmt.Sprintf("%v %+v %#v %s %q %x %v %s", id, id, id, id, id, id, struct{ I Identity }{id}, encoded)
	if strings.Contains(strings.ToUpper(out), text[16:24]) || strings.Contains(out, "age.") {
		t.Error(out)
	}
}

// fuzzed is the same in every process that fuzzes, and opens nothing else.
const fuzzed = "AGE-SECRET-KEY-1FH68HPLUPPJTQDYKXPDNYQMYRVX72DUMC0589XWSSTYG96ZDSASQZ7REN7"

func FuzzOpen(f *testing.F) {
	id, err := ParseIdentity([]byte(fuzzed))
	if err != nil {
		f.Fatal(err)
	}
	sealed, err := id.Seal([]byte("plain"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add(bytes.Replace(sealed, []byte("X25519"), []byte("scrypt"), 1))
	f.Fuzz(func(t *testing.T, in []byte) {
		if got, err := id.Open(in, 100); err == nil && string(got) != "plain" {
			t.Errorf("%q opens as %q", in, got)
		}
	})
}

func FuzzParseIdentity(f *testing.F) {
	f.Add([]byte("# x\nAGE-SECRET-KEY-1QQQQ\n"))
	f.Add([]byte("AGE-SECRET-KEY-PQ-1QQQQ\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if id, err := ParseIdentity(in); (err == nil) == id.IsZero() {
			t.Errorf("%v, %v", id, err)
		}
	})
}

// A hostile file is refused for what its head says, before anything is tried.
func TestManyRecipients(t *testing.T) {
	text, err := MakeIdentity()
	if err != nil {
		t.Fatal(err)
	}
	id, err := ParseIdentity(text)
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]bool{1: true, mostRecipients: true, mostRecipients + 1: false, 1000: false} {
		var to []age.Recipient
		for range n {
			to = append(to, id.to)
		}
		var sealed bytes.Buffer
		w, err := age.Encrypt(&sealed, to...)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, "plain")
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := id.Open(sealed.Bytes(), 100)
		if ok := err == nil && string(got) == "plain"; ok != want || !want && !strings.Contains(err.Error(), "more than 4 identities") {
			t.Errorf("%d recipients: %q, %v", n, got, err)
		}
	}
}

func BenchmarkRefuseManyRecipients(b *testing.B) {
	text, err := MakeIdentity()
	if err != nil {
		b.Fatal(err)
	}
	id, err := ParseIdentity(text)
	if err != nil {
		b.Fatal(err)
	}
	hostile := []byte("age-encryption.org/v1\n" + strings.Repeat("-> X25519 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n", 1000) + "--- x\n")
	for b.Loop() {
		if _, err := id.Open(hostile, 100); err == nil {
			b.Fatal("it was opened")
		}
	}
}
