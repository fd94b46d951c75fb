//go:build !unix

package metadata

import "time"

// cpuTime is not measured here; the benchmark's CPU figure is then 0.
func cpuTime() time.Duration { return 0 }

// maxFiles is how many descriptors we may have open.
func maxFiles() int { return 1 << 20 }
