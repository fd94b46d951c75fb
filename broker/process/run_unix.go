//go:build unix

package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
)

func shell(ctx context.Context, line string) *exec.Cmd {
	return exec.CommandContext(ctx, "sh", "-c", line)
}

// isolate gives the command a session of its own: a process group to kill, and
// no terminal on which it could ask, and wait, unseen.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
}

// endGroup kills what a command that has ended left running in its process group;
// what made a session or a group of its own is left alone. The command's pid is
// given to no other process while the group has members, and the kernel hands
// pids out in turn, so that it is hardly anybody else's when it has none.
func endGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) } // ESRCH as a rule: nothing is left
