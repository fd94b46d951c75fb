//go:build unix && !linux

package securefile

// mountedReadOnly is for containers, which are Linux.
func mountedReadOnly(string) bool { return false }
