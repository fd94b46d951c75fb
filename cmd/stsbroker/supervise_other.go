//go:build !linux

package main

import "time"

// monotonic is wanted by systemd alone, which is not here.
func monotonic() time.Duration { return 0 }
