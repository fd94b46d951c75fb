package main

import (
	"os"
	"syscall"
)

// forwarded: a console sends Ctrl-C to every process attached to it.
var forwarded = []os.Signal{os.Interrupt}

func sentByTerminal(os.Signal) bool { return true }

// apart starts a program that goes on when this one ends.
func apart() *syscall.SysProcAttr { return nil }

// controlFolderGuards: Windows does not tell who connects to a Unix socket; the
// access list of the user's own folder, where it lies, decides alone.
const controlFolderGuards = true

// ownerOnly: folders under the user's profile are private by inheritance.
func ownerOnly() {}
