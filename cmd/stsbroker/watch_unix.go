//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// onResize tells of another size of the terminal.
func onResize() (resized <-chan os.Signal, done func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGWINCH)
	return c, func() { signal.Stop(c) }
}

// onSuspend calls before when a person stops the program (Ctrl-Z), and after when it goes
// on.
func onSuspend(before, after func()) (done func()) {
	if signal.Ignored(syscall.SIGTSTP) { // whoever started us does not want it
		return func() {}
	}
	c, on, end := make(chan os.Signal, 1), make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(c, syscall.SIGTSTP)
	go func() {
		for {
			select {
			case <-end:
				return
			case <-c:
			}
			before()
			signal.Notify(on, syscall.SIGCONT)
			_ = syscall.Kill(syscall.Getpid(), syscall.SIGSTOP) // it is ours to send; and may return before it has worked
			select {
			case <-end:
				return
			case <-on:
			}
			signal.Stop(on)
			after()
		}
	}()
	return func() {
		signal.Stop(c)
		signal.Stop(on)
		close(end)
	}
}
