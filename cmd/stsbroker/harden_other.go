//go:build !linux

package main

// undumpable does nothing where there is no PR_SET_DUMPABLE; the README says so.
func undumpable() {}

func noCore() {}
