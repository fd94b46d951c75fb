package monitoring

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/observe"
)

// TestRotation lets logrotate rotate the audit log of a running broker, twice, as the
// file that ships has it. User and path are the test's own.
func TestRotation(t *testing.T) {
	logrotate, err := exec.LookPath("logrotate")
	if err != nil {
		t.Skip("not run: logrotate is missing (apt-get install logrotate)")
	}
	folder := t.TempDir()
	if err := os.Chmod(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	file, conf := filepath.Join(folder, "audit.log"), filepath.Join(folder, "logrotate.conf")
	text := string(read(t, "../systemd/stsbroker.logrotate"))
	for _, change := range [][2]string{{"/var/log/stsbroker/audit.log {", file + " {"}, {"\tsu stsbroker stsbroker\n", ""}} {
		if strings.Count(text, change[0]) != 1 {
			t.Fatalf("the file that ships has no %q", change[0])
		}
		text = strings.Replace(text, change[0], change[1], 1)
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := observe.OpenAudit(observe.AuditOptions{File: file, Required: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- a.Run(ctx) }()
	serve := func(profile string) {
		t.Helper()
		if err := a.Gate(broker.Event{Kind: broker.EventServed, Profile: profile}); err != nil {
			t.Error(err)
		}
	}
	rotate := func() {
		t.Helper()
		if out, err := exec.Command(logrotate, "--force", "--state", filepath.Join(folder, "state"), conf).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%v: %s", err, out)
		}
	}
	serve("one")
	rotate()
	serve("two")
	rotate()
	serve("three")
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{file: "three", file + ".1": "two"} {
		if got := string(read(t, name)); strings.Count(got, "\n") != 1 || !strings.Contains(got, `"profile":"`+want+`"`) {
			t.Errorf("%s: %q, want the line of %s", filepath.Base(name), got, want)
		}
	}
	if out, err := exec.Command("gzip", "-dc", file+".2.gz").Output(); err != nil || !strings.Contains(string(out), `"profile":"one"`) {
		t.Errorf("the oldest: %q (%v)", out, err)
	}
	if info, err := os.Stat(file); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 || time.Since(info.ModTime()) > time.Hour {
		t.Errorf("%v %v", info, err)
	}
}

// TestJoinWithCloudTrail runs the command of the documentation on its own example.
func TestJoinWithCloudTrail(t *testing.T) {
	if _, err := exec.LookPath("jq"); err != nil {
		t.Skip("not run: jq is missing (apt-get install jq)")
	}
	doc := string(read(t, "../../docs/observability.md"))
	block := func(kind, with string) string {
		for _, m := range regexp.MustCompile("(?s)```"+kind+"\n(.*?)```").FindAllStringSubmatch(doc, -1) {
			if strings.Contains(m[1], with) {
				return m[1]
			}
		}
		t.Fatalf("the documentation has no %s block with %q", kind, with)
		return ""
	}
	folder := t.TempDir()
	const trail = `{"Records":[
		{"eventTime":"2026-11-23T09:15:00Z","eventName":"ListBuckets","userIdentity":{"type":"AssumedRole","accessKeyId":"ASIAIOSFODNN7EXAMPLE"}},
		{"eventTime":"2026-11-23T09:16:00Z","eventName":"PutObject","userIdentity":{"type":"AssumedRole","accessKeyId":"ASIASOMEBODYELSE1234"}},
		{"eventTime":"2026-11-23T09:17:00Z","eventName":"ConsoleLogin","userIdentity":{"type":"Root"}}]}`
	for name, text := range map[string]string{"audit.log": block("json", `"decision"`), "cloudtrail.json": trail} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", "-c", block("sh", "cloudtrail.json"))
	cmd.Dir = folder
	out, err := cmd.CombinedOutput()
	if want := "2026-11-23T09:15:00Z\tListBuckets\tASIAIOSFODNN7EXAMPLE\tci-runner\n"; err != nil || string(out) != want {
		t.Errorf("%v: %q, want %q", err, out, want)
	}
}
