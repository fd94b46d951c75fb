package process

import (
	"context"
	"os/exec"
	"syscall"
)

// shell passes the line as it stands: cmd has quoting rules of its own, and
// strips exactly the outer quotes.
func shell(ctx context.Context, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "cmd.exe")
	cmd.SysProcAttr = &syscall.SysProcAttr{CmdLine: `cmd.exe /S /C "` + line + `"`}
	return cmd
}

// isolate keeps Ctrl-C on the broker's console away from the command.
func isolate(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.CreationFlags |= syscall.CREATE_NEW_PROCESS_GROUP
}

// endGroup does nothing: a process group here is for console signals alone, and a
// pid that has ended may be another process's.
func endGroup(int) {}
