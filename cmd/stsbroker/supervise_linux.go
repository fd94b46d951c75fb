package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// monotonic is the clock by which systemd orders a reload's beginning: CLOCK_MONOTONIC.
func monotonic() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // fails for no clock that Linux has
	return time.Duration(t.Nano())
}
