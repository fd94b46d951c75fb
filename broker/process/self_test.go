package process

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stsbroker/stsbroker/broker"
)

func TestIsSelf(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("not run: the paths here are Unix ones")
	}
	dir := t.TempDir()
	us := filepath.Join(dir, "bin dir", "stsbroker")
	for _, p := range []string{us, filepath.Join(dir, "other")} {
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"link": us, "linklink": "link"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(us, filepath.Join(dir, "hard")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+"/bin dir:/usr/bin:/bin")
	us2 := filepath.Join(dir, "hard")
	for line, want := range map[string]bool{
		"stsbroker credential-process dev":      true,
		"  stsbroker\tcredential-process dev":   true,
		`"stsbroker" credential-process`:        true,
		`'` + us + `' credential-process`:       true,
		`"` + us + `" credential-process`:       true,
		dir + `/bin\ dir/stsbroker x`:           true,
		dir + `/bin" "dir/stsbroker`:            true,
		dir + "/link x":                         true,
		dir + "/linklink":                       true,
		dir + "/hard":                           true,
		"exec stsbroker credential-process dev": true,
		"AWS_PROFILE=x LANG=C stsbroker x":      true,
		`A="b c" stsbroker`:                     true,
		"env A=b stsbroker x":                   true,
		"/usr/bin/env stsbroker x":              true,
		"command stsbroker x":                   true,
		"stsbroker;true":                        true,
		dir + "/other stsbroker":                false, // a bare word where no program is looked for
		"pass show stsbroker":                   false,
		dir + "/other " + us2:                   true,
		"nice -n 5 stsbroker x":                 true,
		"nohup stsbroker x":                     true,
		"true && stsbroker x":                   true,
		"if true; then stsbroker x; fi":         true,
		"env -i PATH=/bin stsbroker x":          true,
		"timeout 5 env -i " + dir + "/hard x":   true,
		"sh -c 'stsbroker x'":                   true,
		"sh -c \"exec stsbroker x\"":            true,
		"echo $(stsbroker x)":                   true,
		"echo `stsbroker x`":                    true,
		"not-stsbroker":                         false,
		"":                                      false,
		"exec":                                  false,
		"A=b":                                   false,
		`"unclosed`:                             false,
		"; stsbroker":                           true,
		"echo stsbroker-not":                    false,
		"echo stsbroker":                        false,
		dir + "/none":                           false,
		dir:                                     false,
	} {
		if got := IsSelf(line, us); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
	if IsSelf("stsbroker", "") || IsSelf("stsbroker", dir+"/gone") {
		t.Error("taken for itself by a program that does not know where it is")
	}

	for _, o := range []Options{{Line: "stsbroker x"}, {Argv: []string{"stsbroker", "x"}}, {Argv: []string{dir + "/link"}}} {
		o.Self = us
		_, err := New(o)
		if e := asError(t, err); e.Kind != broker.KindConfig {
			t.Errorf("%+v: %v", o, err)
		}
	}
	// A path with a space is one word where no shell splits it.
	if _, err := New(Options{Argv: []string{us}, Self: us}); err == nil {
		t.Error("argv was split like a shell line")
	}
	if _, err := New(Options{Argv: []string{dir + "/other", us}, Self: us}); err == nil {
		t.Error("a program that may run its arguments was given us")
	}
	if _, err := New(Options{Argv: []string{dir + "/other", "--for=stsbroker"}, Self: us}); err != nil {
		t.Error(err)
	}

	// PATH may come to lead to us after the configuration was read.
	t.Setenv("PATH", "/usr/bin:/bin")
	m, err := New(Options{Argv: []string{"stsbroker"}, Self: us})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+"/bin dir")
	_, err = m.Mint(t.Context(), broker.MintInput{})
	if e := asError(t, err); e.Kind != broker.KindConfig {
		t.Error(err)
	}
}
