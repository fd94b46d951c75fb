package repotest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strings"
)

const module = "github.com/stsbroker/stsbroker"

// pkg is what "go list -json" tells of a package.
type pkg struct {
	ImportPath, Name, Doc, Dir string
	Imports                    []string
	GoFiles, IgnoredGoFiles    []string
	TestGoFiles, XTestGoFiles  []string
}

// inModule returns the path below the module, and whether path is in it.
func inModule(path string) (rel string, ok bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}

func isStd(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

// under reports whether path is one of the folders or below one.
func under(path string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return path == f || strings.HasPrefix(path, f+"/") })
}

// arrow says why the package at from (a path below the module) may not import
// to, or "".
//
//	cmd → {metadata, cache/*, broker/*} → broker → std
//
// What lies under internal/ imports nothing of the module and may be imported
// by anybody. Tests may import what they like.
func arrow(from, to string) string {
	rel, ours := inModule(to)
	if !ours {
		if from == "broker" && !isStd(to) {
			return "the domain imports only the standard library"
		}
		return ""
	}
	switch {
	case under(from, "internal/conformance", "internal/booted"):
		return ""
	case under(rel, "internal/stsfake", "internal/ssofake") && !under(from, "cmd"):
		return "the stand-ins are for demo and tests"
	case under(rel, "internal/conformance", "internal/booted", "internal/repotest"):
		return "this is for tests"
	case under(from, "internal"):
		return "what is under internal/ is a leaf"
	case from == "broker":
		return "the domain imports only the standard library"
	case under(rel, "internal"):
		return ""
	case under(from, "broker") && rel != "broker":
		return "packages under broker/ import of the module broker and internal/ only"
	case under(from, "cache") && rel != "broker" && rel != "cache":
		return "stores import of the module broker and internal/ only"
	case from == "metadata/listen" && rel != "broker":
		return "listeners import of the module broker and internal/ only"
	case under(from, "metadata") && rel != "broker" && rel != "metadata/listen":
		return "front doors import of the module broker, metadata/listen and internal/ only"
	case under(rel, "cmd"):
		return "nothing imports a command"
	}
	return ""
}

// brokenArrows returns a line for each import that [arrow] forbids.
func brokenArrows(pkgs []pkg) (broken []string) {
	for _, p := range pkgs {
		from, ours := inModule(p.ImportPath)
		if !ours {
			continue
		}
		for _, to := range p.Imports {
			if why := arrow(from, to); why != "" {
				broken = append(broken, fmt.Sprintf("%s imports %s: %s", p.ImportPath, to, why))
			}
		}
	}
	return broken
}

// undocumented returns the packages without a doc comment that begins as
// godoc wants it: "Package NAME", or for commands "Command" or the name.
func undocumented(pkgs []pkg) (bad []string) {
	for _, p := range pkgs {
		if len(p.GoFiles) == 0 { // tests of another system's package, say
			continue
		}
		starts := []string{"Package " + p.Name + " "}
		if p.Name == "main" {
			command := p.ImportPath[strings.LastIndexByte(p.ImportPath, '/')+1:]
			starts = []string{"Command ", command + " ", strings.ToUpper(command[:1]) + command[1:] + " "}
		}
		if !slices.ContainsFunc(starts, func(s string) bool { return strings.HasPrefix(p.Doc, s) }) {
			bad = append(bad, fmt.Sprintf("%s: the doc comment is %q", p.ImportPath, p.Doc))
		}
	}
	return bad
}

// inits returns the places of package-level init functions: what a program
// does at start stands in its main.
func inits(name string, source any) (places []string, err error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
			places = append(places, set.Position(f.Pos()).String())
		}
	}
	return places, nil
}

// requirement is a line of go.mod.
type requirement struct {
	Path     string
	Indirect bool
}

var moduleCell = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")

// unaccounted compares go.mod with the table of docs/dependencies.md, whose
// first column holds one module a line.
func unaccounted(required []requirement, doc string) (bad []string) {
	var documented []string
	for _, m := range moduleCell.FindAllStringSubmatch(doc, -1) {
		documented = append(documented, m[1])
	}
	var direct []string
	for _, r := range required {
		if r.Indirect {
			continue
		}
		direct = append(direct, r.Path)
		if !slices.Contains(documented, r.Path) {
			bad = append(bad, r.Path+" has no line in the table")
		}
	}
	for _, d := range documented {
		if !slices.Contains(direct, d) {
			bad = append(bad, d+" is in the table, and no direct dependency")
		}
	}
	return bad
}
