package repotest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// goCommand runs the go command at the module's root.
func goCommand(t *testing.T, env []string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out
}

// packages lists the module's packages for each system that it is built for:
// imports differ between them.
func packages(t *testing.T) (all []pkg) {
	t.Helper()
	for _, goos := range []string{"linux", "darwin", "windows"} {
		out := goCommand(t, []string{"GOOS=" + goos, "CGO_ENABLED=0"}, "list", "-e", "-tags", "conformance",
			"-json=ImportPath,Name,Doc,Dir,Imports,GoFiles,IgnoredGoFiles,TestGoFiles,XTestGoFiles", "./...")
		n := 0
		for dec := json.NewDecoder(bytes.NewReader(out)); ; n++ {
			var p pkg
			if err := dec.Decode(&p); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			all = append(all, p)
		}
		if n < 5 {
			t.Fatalf("go list for %s knows %d packages", goos, n)
		}
	}
	return all
}

func report(t *testing.T, findings []string) {
	t.Helper()
	slices.Sort(findings)
	for _, f := range slices.Compact(findings) {
		t.Error(f)
	}
}

func TestPackages(t *testing.T) {
	all := packages(t)
	t.Run("imports follow the arrows", func(t *testing.T) { report(t, brokenArrows(all)) })
	t.Run("every package has a doc comment", func(t *testing.T) { report(t, undocumented(all)) })
	t.Run("no package has an init", func(t *testing.T) {
		seen := map[string]bool{}
		for _, p := range all {
			for _, name := range slices.Concat(p.GoFiles, p.IgnoredGoFiles, p.TestGoFiles, p.XTestGoFiles) {
				file := filepath.Join(p.Dir, name)
				if seen[file] {
					continue
				}
				seen[file] = true
				places, err := inits(file, nil)
				if err != nil {
					t.Error(err)
				}
				report(t, places)
			}
		}
		if len(seen) < 20 {
			t.Errorf("looked at %d files only", len(seen))
		}
	})
}

func TestEveryDirectDependencyIsAccountedFor(t *testing.T) {
	var mod struct{ Require []requirement }
	if err := json.Unmarshal(goCommand(t, nil, "mod", "edit", "-json"), &mod); err != nil {
		t.Fatal(err)
	}
	if len(mod.Require) < 5 {
		t.Fatalf("go.mod requires %v", mod.Require)
	}
	doc, err := os.ReadFile(root + "/docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	report(t, unaccounted(mod.Require, string(doc)))
}
