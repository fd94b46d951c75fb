package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Security row 16: another process of the same user reads neither the daemon's
// memory nor its environment, and there is no core. Root may do all of that, so
// as root the daemon and the onlooker are children of another uid.
func TestNobodyLooksInside(t *testing.T) {
	dir, err := os.MkdirTemp("", "stsbroker-inside-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "stsbroker") // a test binary of that name is the program, see TestMain
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, data, 0o755); err != nil {
		t.Fatal(err)
	}
	as := &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		as.Credential = &syscall.Credential{Uid: 12345, Gid: 12345}
		if err := os.Chown(dir, 12345, 12345); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(dir, "stsbroker.yaml")
	if err := os.WriteFile(config, []byte("listen: { container: [\"127.0.0.1:0\"] }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var log syncBuilder
	daemon := exec.Command(binary, "serve", "--config", config)
	daemon.Env = []string{"HOME=" + dir, "PATH=/usr/bin:/bin", "SECRET_OF_THE_ENVIRONMENT=canary"}
	daemon.Stderr, daemon.SysProcAttr = &log, as
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		if err := daemon.Wait(); err != nil {
			t.Errorf("serve: %v\n%s", err, log.String())
		}
	}()
	for began := time.Now(); !strings.Contains(log.String(), `"serving"`); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("it does not serve:\n%s", log.String())
		}
	}
	proc := fmt.Sprintf("/proc/%d/", daemon.Process.Pid)
	look := func(pid string, name string) error {
		cmd := exec.Command("cat", pid+name)
		cmd.SysProcAttr = as
		return cmd.Run()
	}
	for _, name := range []string{"environ", "maps", "mem", "auxv"} {
		if look(proc, name) == nil {
			t.Errorf("another process of the same user reads %s%s", proc, name)
		}
	}
	if err := look("/proc/self/", "environ"); err != nil {
		t.Errorf("the onlooker could not read its own environment, so it proves nothing: %v", err)
	}
	limits, err := os.ReadFile(proc + "limits")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if f := strings.Fields(line); strings.HasPrefix(line, "Max core file size") && (f[4] != "0" || f[5] != "0") {
			t.Errorf("core limit: %s", line)
		}
	}
}
