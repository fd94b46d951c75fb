//go:build unix

package observe

import "syscall"

// openNoLink refuses symbolic links, and does not wait where somebody left a named pipe.
const openNoLink = syscall.O_NOFOLLOW | syscall.O_NONBLOCK
