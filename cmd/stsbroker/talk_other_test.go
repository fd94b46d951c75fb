//go:build !linux

package main

import "github.com/rogpeppe/go-internal/testscript"

func talkCmd(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Fatalf("not run: the terminal that scripts talk on is Linux's")
}
