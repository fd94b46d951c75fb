package main

import "os"

// onResize tells nothing here: each second the size is asked for anyway.
func onResize() (resized <-chan os.Signal, done func()) { return nil, func() {} }

// onSuspend has nothing to do: nobody stops a program here.
func onSuspend(_, _ func()) (done func()) { return func() {} }
