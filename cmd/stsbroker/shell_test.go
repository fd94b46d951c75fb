package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// What env prints means the same to the shell that it is for, whatever a value holds.
func TestEnvInEveryShell(t *testing.T) {
	v := variables{
		Set: map[string]string{
			"AWS_REGION": "eu-central-1", "AWS_CONFIG_FILE": `/a b/it's "$HOME" \n ` + "`id`" + ` $(id) %PATH% !x ~ *`, "NO_PROXY": "::1,[::1],*.corp",
			"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9170/credentials/a%20b", "AWS_CONTAINER_AUTHORIZATION_TOKEN": `\'\\'back\`, "no_proxy": "ümläut\tand tab",
		},
		Unset: []string{"AWS_PROFILE", "AWS_NEVER_SET"},
	}
	for _, s := range []struct {
		program, shell string
		argv           []string
	}{
		{"sh", "sh", []string{"-c"}}, {"dash", "sh", []string{"-c"}}, {"bash", "sh", []string{"--norc", "-c"}}, {"zsh", "sh", []string{"-f", "-c"}},
		{"ksh", "sh", []string{"-c"}}, {"fish", "fish", []string{"--no-config", "-c"}}, {"pwsh", "powershell", []string{"-NoProfile", "-NonInteractive", "-Command"}},
		{"sh", "dotenv", []string{"-ac"}}, // set -a; . file
	} {
		t.Run(s.program+" "+s.shell, func(t *testing.T) {
			path, err := exec.LookPath(s.program)
			if err != nil {
				t.Skipf("not run: there is no %s here", s.program)
			}
			var text bytes.Buffer
			if err := shells[s.shell](&text, v); err != nil {
				t.Fatal(err)
			}
			printer, err := exec.LookPath("env")
			if err != nil {
				t.Skip("not run: there is no env here")
			}
			cmd := exec.Command(path, append(s.argv, text.String()+printer+" -0\n")...)
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "AWS_PROFILE=before", "AWS_REGION=before", "LC_ALL=C.UTF-8"}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			got := map[string]string{}
			for _, kv := range strings.Split(string(out), "\x00") {
				name, value, _ := strings.Cut(kv, "=")
				got[name] = value
			}
			for name, want := range v.Set {
				if got[name] != want {
					t.Errorf("%s is %q, want %q", name, got[name], want)
				}
			}
			if _, set := got["AWS_PROFILE"]; set && s.shell != "dotenv" { // which cannot unset
				t.Error("AWS_PROFILE is still set")
			}
		})
	}
}
