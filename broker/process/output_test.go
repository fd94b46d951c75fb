package process

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

func printing(t *testing.T, part string, args ...string) *Output {
	t.Helper()
	o, err := NewOutput("SAML assertion", Options{Argv: append([]string{self(t), part}, args...), Environ: []string{"PATH=" + os.Getenv("PATH")}})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOutput(t *testing.T) {
	for printed, want := range map[string]string{
		canarySecret:                       canarySecret,
		canarySecret + "\r\n":              canarySecret,
		" \t\n" + canarySecret + "\n\n":    canarySecret,
		"two lines\n" + canarySecret + " ": "two lines\n" + canarySecret,
	} {
		got, err := printing(t, "part:print", printed).Read(t.Context())
		if err != nil || got.Reveal() != want {
			t.Errorf("%q: %q, %v", printed, got.Reveal(), err)
		}
	}
}

func TestOutputFailures(t *testing.T) {
	missing, err := NewOutput("MFA code", Options{Argv: []string{filepath.Join(t.TempDir(), "none"), "--password", canarySecret}})
	if err != nil {
		t.Fatal(err)
	}
	slow := printing(t, "part:hang")
	slow.limit = 300 * time.Millisecond
	nested, err := NewOutput("MFA code", Options{Argv: []string{self(t), "part:good"}, Environ: Environment(nil)})
	if err != nil {
		t.Fatal(err)
	}
	name := `"` + filepath.Base(self(t)) + `"`
	for _, c := range []struct {
		o    *Output
		kind broker.Kind
		want string
	}{
		{printing(t, "part:print", ""), broker.KindUnavailable, "SAML assertion command " + name + " printed nothing"},
		{printing(t, "part:print", " \n\t\r\n"), broker.KindUnavailable, "SAML assertion command " + name + " printed nothing"},
		{printing(t, "part:fail", canarySecret), broker.KindUnavailable, "SAML assertion command " + name + " failed: exit status 3"},
		{printing(t, "part:flood"), broker.KindUnavailable, "more than 64 KB"},
		{slow, broker.KindUnavailable, "did not end within 300ms"},
		{missing, broker.KindConfig, `MFA code command "none" cannot be run`},
		{nested, broker.KindConfig, DepthVariable},
	} {
		got, err := c.o.Read(t.Context())
		e := asError(t, err)
		if e.Kind != c.kind || !e.Own || !strings.Contains(e.Public, c.want) || !got.IsZero() {
			t.Errorf("%v, own %v: %v; want %v: …%s…", e.Kind, e.Own, err, c.kind, c.want)
		}
	}
	if _, err = playing(t, "part:fail").Mint(t.Context(), broker.MintInput{}); asError(t, err).Own {
		t.Errorf("a credential process is the issuer itself: %v", err)
	}
	for _, o := range []Options{{}, {Argv: []string{"a"}, Line: "a"}, {Argv: []string{self(t)}, Self: self(t)}, {Line: `"` + self(t) + `" x`, Self: self(t)}} {
		_, err := NewOutput("web identity token", o)
		if e := asError(t, err); e.Kind != broker.KindConfig || !strings.HasPrefix(e.Public, "web identity token command") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestOutputDigest(t *testing.T) {
	a, b := printing(t, "part:good"), printing(t, "part:print", "x")
	if a.Digest() != printing(t, "part:good").Digest() || a.Digest() == b.Digest() {
		t.Error("a digest is not of the command")
	}
	if d := a.Deadline(); d < limit+lingerOn {
		t.Error(d)
	}
}
