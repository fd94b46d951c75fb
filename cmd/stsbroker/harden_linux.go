package main

import "golang.org/x/sys/unix"

// undumpable keeps other processes of this user from reading our memory (ptrace,
// /proc/PID/mem, /proc/PID/environ) and the kernel from writing it to a core
// file. It runs before anything else: every command may come to hold a secret.
// A program that exec starts is not affected. It fails only on a kernel that
// does not know it.
func undumpable() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }

// noCore is the same for core files once more, for the daemon alone: its
// children inherit the limit.
func noCore() { _ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}) }
