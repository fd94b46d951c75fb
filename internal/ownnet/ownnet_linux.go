package ownnet

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// variable is set in the processes that [Inside] starts, to who started them.
const variable = "STSBROKER_TEST_OWN_NETWORK"

// Inside reports whether this is a process with a network of its own, whose loopback
// interface is up, with IPv6 where the kernel has it. If it is not, it runs the
// calling test again in such a process, where it is root: of all users, or for an
// ordinary user of itself alone. The test then has nothing left to do. It is
// skipped, with the reason, where no such process can be made.
func Inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(variable) != "" {
		if err := loopbackUp(); err != nil {
			t.Fatal(err)
		}
		if !IPv6() {
			t.Log("without IPv6, which this kernel does not have")
		}
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	again := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	who := "root"
	if os.Geteuid() != 0 {
		who = "user"
		again.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		again.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		again.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	again.Env = append(os.Environ(), variable+"="+who)
	var out strings.Builder
	again.Stdout, again.Stderr = &out, &out
	if err := again.Start(); err != nil {
		t.Skipf("not run: no network namespace can be made here: %v", err)
	}
	err = again.Wait()
	switch _, why, _ := strings.Cut(out.String(), "not run: "); {
	case err == nil && strings.Contains(out.String(), "--- PASS: "+t.Name()+" "):
	case err == nil && strings.Contains(out.String(), "--- SKIP: "+t.Name()+" "):
		why, _, _ = strings.Cut(why, "\n")
		t.Skip("not run: " + why)
	default:
		t.Errorf("in a network of its own: %v\n%s", err, out.String())
	}
	return false
}

// OfRoot reports whether root started this process: other users are there too then.
func OfRoot() bool { return os.Getenv(variable) == "root" }

// IPv6 switches IPv6 on in the network of the thread, and reports whether there is any.
func IPv6() bool {
	const all = "/proc/sys/net/ipv6/conf/all/disable_ipv6"
	_ = os.WriteFile(all, []byte("0"), 0) // whether it helped is read back
	now, _ := os.ReadFile(all)
	return string(now) == "0\n"
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}
