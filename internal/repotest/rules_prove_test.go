package repotest

import (
	"strings"
	"testing"
)

// The rules are proven here: each fails on what breaks it, and on nothing else.

func TestArrowCanFail(t *testing.T) {
	for _, tc := range []struct {
		from, to string
		broken   bool
	}{
		{"broker", "crypto/sha256", false},
		{"broker", "golang.org/x/sys/unix", true},
		{"broker", module + "/internal/peer", true},
		{"broker", module + "/cache", true},
		{"broker/awssts", module + "/broker", false},
		{"broker/awssts", module + "/internal/awsini", false},
		{"broker/awssts", "github.com/aws/aws-sdk-go-v2/service/sts", false},
		{"broker/awssts", module + "/broker/awsconfig", true},
		{"broker/awssts", module + "/metadata", true},
		{"broker/awssts", module + "/internal/stsfake", true},
		{"cache", module + "/broker", false},
		{"cache/cachetest", module + "/broker", false},
		{"cache/sealedfile", module + "/cache", false},
		{"cache", module + "/broker/observe", true},
		{"metadata", module + "/broker", false},
		{"metadata", module + "/metadata/listen", false},
		{"metadata", module + "/internal/peer", false},
		{"metadata", module + "/broker/access", true},
		{"metadata", module + "/internal/stsfake", true},
		{"metadata/listen", module + "/internal/peer", false},
		{"metadata/listen", module + "/metadata", true},
		{"internal/peer", "golang.org/x/sys/unix", false},
		{"internal/peer", module + "/internal/securefile", true},
		{"internal/peer", module + "/broker", true},
		{"internal/conformance", module + "/internal/stsfake", false},
		{"cmd/stsbroker", module + "/internal/stsfake", false},
		{"cmd/stsbroker", module + "/metadata", false},
		{"cmd/stsbroker", module + "/internal/conformance", true},
		{"metadata", module + "/cmd/stsbroker", true},
		{".", module + "/cmd/stsbroker", true},
	} {
		got := brokenArrows([]pkg{{ImportPath: module + "/" + tc.from, Imports: []string{"fmt", tc.to}}})
		if (len(got) > 0) != tc.broken {
			t.Errorf("%s → %s: %v", tc.from, tc.to, got)
		}
	}
}

func TestUndocumentedCanFail(t *testing.T) {
	files := []string{"x.go"}
	for doc, bad := range map[string]bool{"": true, "Peer tells who": true, "Package peers is": true, "Package peer tells who.": false} {
		if got := undocumented([]pkg{{ImportPath: module + "/internal/peer", Name: "peer", Doc: doc, GoFiles: files}}); (len(got) > 0) != bad {
			t.Errorf("library with %q: %v", doc, got)
		}
	}
	for doc, bad := range map[string]bool{"": true, "Package main is": true, "Stsbroker is": false, "Command stsbroker is": false} {
		if got := undocumented([]pkg{{ImportPath: module + "/cmd/stsbroker", Name: "main", Doc: doc, GoFiles: files}}); (len(got) > 0) != bad {
			t.Errorf("command with %q: %v", doc, got)
		}
	}
}

func TestInitsCanFail(t *testing.T) {
	got, err := inits("x.go", "package x\n\nfunc init() {}\n\ntype t struct{}\n\nfunc (t) init() {}\n\nfunc initialise() {}\n\nfunc init() { _ = 1 }\n")
	if err != nil || strings.Join(got, " ") != "x.go:3:1 x.go:11:1" {
		t.Errorf("%v %v", got, err)
	}
}

func TestUnaccountedCanFail(t *testing.T) {
	const doc = "| module | why |\n|---|---|\n| `a.org/x` | reason |\n| `a.org/gone` | reason; not `a.org/y` |\n"
	got := unaccounted([]requirement{{Path: "a.org/x"}, {Path: "a.org/y"}, {Path: "a.org/z", Indirect: true}}, doc)
	if strings.Join(got, "; ") != "a.org/y has no line in the table; a.org/gone is in the table, and no direct dependency" {
		t.Errorf("%v", got)
	}
}
