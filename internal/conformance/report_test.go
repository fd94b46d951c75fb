//go:build conformance && linux

package conformance

import (
	"flag"
	"os"
	"strings"
	"testing"
)

// What make conformance-all adds.
var (
	everything = flag.Bool("everything", false, "run against moto, fakecloud and a SAML identity provider too")
	writeTo    = flag.String("matrix", "", "write what was verified to this file, if all passed")
)

// settle writes the matrix, or holds the committed one against what this run
// verified. A run of some tests alone, or one that failed, shows too little.
func (m *matrix) settle(t *testing.T) {
	if t.Failed() || strings.Contains(flag.Lookup("test.run").Value.String(), "/") {
		t.Logf("this run's matrix:\n%s", m)
		return
	}
	if *writeTo != "" {
		if err := os.WriteFile(*writeTo, []byte(m.String()), 0o644); err != nil {
			t.Error(err)
		}
		return
	}
	document, err := os.ReadFile(matrixFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range m.disagreements(string(document)) {
		t.Errorf("docs/sts.md: %s; if that is meant, run make conformance-all", bad)
	}
}
