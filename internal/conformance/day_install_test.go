//go:build conformance && linux

package conformance

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// dayKit is what the simulated day needs beside the kit.
type dayKit struct {
	stsbroker            string // built with a clock that can be moved
	goNew, goOld         piece  // version 2 of the SDK for Go
	goV1, goV1Old        piece  // version 1
	jsNew, jsOld, jsV2   piece  // folders of the SDK for JavaScript
	botoNew, botoOld     piece  // interpreters
	jsDriver, botoDriver string
	node                 piece
}

// installDay installs the clients of the simulated day. Only a stsbroker that
// does not build fails the test.
func installDay(in installer) dayKit {
	k := dayKit{node: in.node(), jsDriver: absolute("day/js/driver.cjs"), botoDriver: absolute("day/py/driver.py")}
	k.goNew = in.dayGo("go.mod", "aws-sdk-go-v2")
	k.jsNew = in.npm("day-new", "day/js/new", k.node, "@aws-sdk/client-sts")
	k.botoNew = in.python("client-boto3", "clients/boto3/requirements.txt", "botocore", nil)
	if *everything {
		k.goV1 = in.dayGo("go.mod", "aws-sdk-go")
		k.goOld, k.goV1Old = in.dayGo("old.mod", "aws-sdk-go-v2"), in.dayGo("old.mod", "aws-sdk-go")
		k.jsOld = in.npm("day-old", "day/js/old", k.node, "@aws-sdk/client-sts")
		k.jsV2 = in.npm("day-v2", "day/js/v2", k.node, "aws-sdk")
		k.botoOld = in.python("day-botocore", "day/py/requirements.txt", "botocore", nil)
	}
	k.stsbroker = in.dayBroker()
	return k
}

// A clock that can be moved, for programs in Go. What patchedBinary builds has
// a wall clock that jumps, as in a suspend. Here time passes: both clocks and the
// timers move together, so that a jump of a minute is a minute in which
// nothing happened.
const (
	dayNanotime = "func nanotime() int64 {\n\treturn nanotime1()\n}\n"
	dayMoved    = "func nanotime() int64 {\n\treturn nanotime1() + ClockAhead.Load()\n}\n"
	dayNow      = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	dayNowMoved = dayNow + "\tsec += runtime.ClockAhead.Load() / 1e9\n\tmono = runtimeNano()\n" // on most systems it is so already

	// dayMover moves the clock of stsbroker as a pipe says, and answers when it has.
	dayMover = `package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
)

func init() {
	path := os.Getenv("TEST_CLOCK")
	if path == "" {
		return
	}
	in, err := os.OpenFile(path+".in", os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	out, err := os.OpenFile(path+".out", os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	go func() {
		for s := bufio.NewScanner(in); s.Scan(); {
			seconds, err := strconv.ParseInt(s.Text(), 10, 64)
			if err != nil {
				panic(err)
			}
			runtime.ClockAhead.Store(seconds * 1e9)
			fmt.Fprintln(out, seconds)
		}
	}()
}
`
	daySetClock = `package main

import "runtime"

func setClock(seconds int64) error {
	runtime.ClockAhead.Store(seconds * 1e9)
	return nil
}
`
)

// dayOverlay writes the overlay of a build to dir: a standard library whose clock can
// be moved, and one more file of the program.
func dayOverlay(in installer, dir, file, content string) (path string, err error) {
	out, err := in.command(in.repo, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	src := filepath.Join(strings.TrimSpace(string(out)), "src")
	replace := map[string]string{file: filepath.Join(dir, "added.go")}
	if err := os.WriteFile(replace[file], []byte(content), 0o644); err != nil {
		return "", err
	}
	for _, p := range []struct{ file, old, new, imports string }{
		{"runtime/time_nofake.go", dayNanotime, dayMoved + "\nvar ClockAhead atomic.Int64\n", `"internal/runtime/atomic"`},
		{"time/time.go", dayNow, dayNowMoved, `"runtime"`},
	} {
		b, err := os.ReadFile(filepath.Join(src, p.file))
		if err != nil {
			return "", err
		}
		if strings.Count(string(b), p.old) != 1 {
			return "", fmt.Errorf("%s of this Go is not as this test knows it: mend the patch", p.file)
		}
		patched := strings.Replace(string(b), p.old, p.new, 1)
		patched = regexp.MustCompile(`(?m)^package \w+$`).ReplaceAllStringFunc(patched, func(line string) string {
			return line + "\n\nimport " + p.imports
		})
		replace[filepath.Join(src, p.file)] = filepath.Join(dir, filepath.Base(p.file))
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(p.file)), []byte(patched), 0o644); err != nil {
			return "", err
		}
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, overlay, 0o644)
}

// dayBroker builds stsbroker with a clock that can be moved.
func (in installer) dayBroker() string {
	in.t.Helper()
	dir := tempDir(in.t)
	overlay, err := dayOverlay(in, dir, filepath.Join(in.repo, "cmd", "stsbroker", "zz_clock.go"), dayMover)
	if err != nil {
		in.t.Fatal(err)
	}
	build := in.command(in.repo, "go", "build", "-overlay", overlay, "-o", filepath.Join(dir, "stsbroker"), "./cmd/stsbroker")
	build.Env = append(build.Env, "CGO_ENABLED=0")
	if err := do(build); err != nil {
		in.t.Fatal(err)
	}
	return filepath.Join(dir, "stsbroker")
}

// dayGo builds the driver of an SDK for Go, which is one source for two modules
// (of version 1 and of version 2) in two files of pins.
func (in installer) dayGo(mod, module string) piece {
	const src = "day/go/"
	goVersion, err := in.command(in.repo, "go", "version").Output()
	if err != nil {
		return piece{err: err}
	}
	name, tags := "day-"+module, "v2"
	if module == "aws-sdk-go" {
		tags = "v1"
	}
	pins := src + mod
	dir, err := in.once(name, []string{pins, src + strings.TrimSuffix(mod, "mod") + "sum", src + "main.go", src + tags + ".go",
		string(goVersion), dayMoved, dayNowMoved, daySetClock}, func(dir string) error {
		overlay, err := dayOverlay(in, dir, absolute(src+"clock.go"), daySetClock)
		if err != nil {
			return err
		}
		cmd := in.command(src, "go", "build", "-overlay", overlay, "-modfile", mod, "-tags", tags, "-o", filepath.Join(dir, "day"), ".")
		cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
		return do(cmd)
	})
	if err != nil {
		return piece{err: err}
	}
	b, err := os.ReadFile(pins)
	return piece{filepath.Join(dir, "day"), firstMatch(`github.com/aws/`+module+` v(\S+)`, b), err}
}
