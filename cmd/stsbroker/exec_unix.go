//go:build unix

package main

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// forwarded are the signals that people and supervisors send to end or steer a
// program.
var forwarded = []os.Signal{
	syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGCONT,
}

// sentByTerminal reports whether the child has had the signal already: a
// terminal sends these to every process of its foreground group, and the child
// is in ours. (Somebody who sends one to this process alone, while it is in the
// foreground, is not heard; SIGTERM is.)
func sentByTerminal(s os.Signal) bool {
	switch s {
	case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGWINCH, syscall.SIGCONT:
	default:
		return false
	}
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	foreground, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && foreground == unix.Getpgrp()
}

// apart starts a program that goes on when this one ends, whatever the terminal
// sends to its foreground group.
func apart() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// controlFolderGuards: the kernel tells who connects to a Unix socket.
const controlFolderGuards = false

// ownerOnly makes every file of this process private, whatever the umask was.
func ownerOnly() { unix.Umask(0o077) }
