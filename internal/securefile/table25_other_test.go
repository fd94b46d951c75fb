//go:build unix && !linux

package securefile

import (
	"os/exec"
	"syscall"
	"testing"
)

// Mounts are looked at on Linux alone.
func mountRows(tableUsers) []tableRow { return nil }

func whyNoMounts(*testing.T) string { return "" }

func startAs(cmd *exec.Cmd, who tableUsers, _ bool) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(who.me), Gid: uint32(who.mine)}} //nolint:gosec // ids are small
}

func becomeUser([][2]string) error { return nil }
