package main

import "golang.org/x/sys/unix"

// harden keeps other processes of this user from reading our memory (ptrace,
// /proc/PID/mem, /proc/PID/environ) and the kernel from writing it to a core
// file. It runs before the first secret is read. Both calls can only fail for
// arguments that the kernel does not know.
func harden() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}
