// Command sbom prints the bill of materials of a Go program: the modules that
// the linker recorded in it, as CycloneDX 1.6 (cyclonedx.org/docs/1.6/json). It
// reads the program and nothing else, so two runs over equal programs print
// equal bytes; tools that give each document a random number and a time do not.
//
//	go run ./deploy/packages/sbom PROGRAM VERSION
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: sbom PROGRAM VERSION")
	}
	program, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	info, err := buildinfo.ReadFile(args[0])
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(describe(info, args[1], sha256.Sum256(program)), "", "  ")
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(append(text, '\n'))
	return err
}

// document is what CycloneDX calls a BOM, as far as it is needed here.
type document struct {
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Serial       string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp,omitempty"` // of the commit
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	Scope      string     `json:"scope,omitempty"`
	Hashes     []hash     `json:"hashes,omitempty"`
	PURL       string     `json:"purl"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"` // hexadecimal
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref string   `json:"ref"`
	On  []string `json:"dependsOn"`
}

// describe is the document of a program with that build information, version
// and SHA-256. Which module needs which is not recorded in a program: all are
// listed as the program's own.
func describe(info *debug.BuildInfo, version string, sum [sha256.Size]byte) document {
	own := module(info.Main.Path, version, "")
	own.Type, own.Scope = "application", ""
	own.Hashes = []hash{{"SHA-256", fmt.Sprintf("%x", sum)}}
	doc := document{Format: "CycloneDX", Spec: "1.6", Serial: serial(sum), Version: 1}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.time":
			doc.Metadata.Timestamp = s.Value
		case "vcs.revision", "GOOS", "GOARCH", "-tags":
			own.Properties = append(own.Properties, property{"go:build:" + strings.TrimPrefix(s.Key, "-"), s.Value})
		}
	}
	doc.Metadata.Component = own
	doc.Components = append(doc.Components, module("std", strings.TrimPrefix(info.GoVersion, "go"), ""))
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		doc.Components = append(doc.Components, module(m.Path, m.Version, m.Sum))
	}
	needs := dependency{Ref: own.Ref}
	for _, c := range doc.Components {
		needs.On = append(needs.On, c.Ref)
	}
	doc.Dependencies = []dependency{needs}
	return doc
}

// module is a library of Go. Sum is go.sum's, "" for none; its h1 is no
// algorithm that CycloneDX knows, hence a property.
func module(path, version, sum string) component {
	// The type golang of package URLs has names in lower case; + and % are escaped.
	purl := "pkg:golang/" + strings.ToLower(path) + "@" + strings.NewReplacer("%", "%25", "+", "%2B").Replace(version)
	c := component{Type: "library", Ref: purl, Name: path, Version: version, Scope: "required", PURL: purl}
	if sum != "" {
		c.Properties = []property{{"go:sum", sum}}
	}
	return c
}

// serial is a UUID of the program's bytes: RFC 9562, version 8 (made in a way of one's own).
func serial(sum [sha256.Size]byte) string {
	u := sum[:16]
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
