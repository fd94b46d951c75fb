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
	everything = flag.Bool("everything", false, "run against moto, fakecloud and a SAML identity provider too, and all clients")
	writeTo    = flag.String("matrix", "", "write what was verified of STS to this file, if all passed")
	doorsTo    = flag.String("doors", "", "write which client came through which door to this file, if all passed")
)

// report is a document that a run writes, or is held against.
type report interface {
	String() string
	disagreements(document string) []string
}

// settle writes the documents, or holds the committed ones against what this run
// verified. A run of some tests alone, or one that failed, shows too little.
func settle(t *testing.T, m *matrix, d *doorTable) {
	for _, doc := range []struct {
		report
		committed, name, writeTo string
	}{{m, matrixFile, "docs/sts.md", *writeTo}, {d, doorsFile, "docs/conformance.md", *doorsTo}} {
		if t.Failed() || strings.Contains(flag.Lookup("test.run").Value.String(), "/") {
			t.Logf("this run's %s:\n%s", doc.name, doc)
			continue
		}
		if doc.writeTo != "" {
			if err := os.WriteFile(doc.writeTo, []byte(doc.String()), 0o644); err != nil {
				t.Error(err)
			}
			continue
		}
		document, err := os.ReadFile(doc.committed)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range doc.disagreements(string(document)) {
			t.Errorf("%s: %s; if that is meant, run make conformance-all", doc.name, bad)
		}
	}
}
