package main

import (
	"crypto/sha256"
	"encoding/json"
	"regexp"
	"runtime/debug"
	"slices"
	"testing"
)

func TestDescribe(t *testing.T) {
	info := &debug.BuildInfo{
		GoVersion: "go1.26.0",
		Main:      debug.Module{Path: "example.com/Tool", Version: "(devel)"},
		Deps: []*debug.Module{
			{Path: "github.com/BurntSushi/toml", Version: "v1.5.0", Sum: "h1:abc="},
			{Path: "old.example/m", Version: "v1.0.0", Replace: &debug.Module{Path: "new.example/m", Version: "v1.0.1+incompatible"}},
		},
		Settings: []debug.BuildSetting{{Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "GOOS", Value: "linux"}, {Key: "-ldflags", Value: "-s"}},
	}
	sum := sha256.Sum256([]byte("program"))
	doc := describe(info, "v1.2.3", sum)
	refs := []string{"pkg:golang/std@1.26.0", "pkg:golang/github.com/burntsushi/toml@v1.5.0", "pkg:golang/new.example/m@v1.0.1%2Bincompatible"}
	var got []string
	for _, c := range doc.Components {
		got = append(got, c.PURL)
	}
	if !slices.Equal(got, refs) || !slices.Equal(doc.Dependencies[0].On, refs) {
		t.Errorf("components %q, needed %q; want %q", got, doc.Dependencies[0].On, refs)
	}
	own := doc.Metadata.Component
	if own.PURL != "pkg:golang/example.com/tool@v1.2.3" || doc.Dependencies[0].Ref != own.Ref || doc.Metadata.Timestamp != "2026-01-02T03:04:05Z" {
		t.Errorf("the program is %+v at %q", own, doc.Metadata.Timestamp)
	}
	if len(own.Properties) != 1 || own.Properties[0] != (property{"go:build:GOOS", "linux"}) {
		t.Errorf("properties %v", own.Properties)
	}
	// The pattern of the specification's schema.
	if !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(doc.Serial) {
		t.Errorf("serial %s", doc.Serial)
	}
	if other := describe(info, "v1.2.3", sha256.Sum256([]byte("another"))); other.Serial == doc.Serial {
		t.Error("two programs have one serial number")
	}
	first, _ := json.Marshal(doc)
	if second, _ := json.Marshal(describe(info, "v1.2.3", sum)); string(first) != string(second) {
		t.Error("two runs differ")
	}
}
