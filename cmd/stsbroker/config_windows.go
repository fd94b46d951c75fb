package main

import "io/fs"

// judgeConfigFile passes every file: on Windows modes are made up, and the
// access list that the profile folder hands down decides.
func judgeConfigFile(fs.FileInfo) error { return nil }
