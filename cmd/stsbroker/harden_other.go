//go:build !linux

package main

// harden does nothing where there is no PR_SET_DUMPABLE; docs/security.md says so.
func harden() {}
