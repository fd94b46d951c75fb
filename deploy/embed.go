// Package deploy holds what service managers read of stsbroker: the files that
// "stsbroker service install" writes, and packages bring along.
package deploy

import _ "embed"

// Units of systemd, for the service of one user and for that of the machine. Program is
// the path in them that is replaced where the program is another.
var (
	//go:embed systemd/user/stsbroker.service
	UserService string
	//go:embed systemd/user/stsbroker.socket
	UserSocket string
	//go:embed systemd/system/stsbroker.service
	SystemService string
	//go:embed systemd/system/stsbroker.socket
	SystemSocket string
	//go:embed systemd/system/stsbroker.sysusers
	SystemUser string
)

// LaunchAgent is launchd's file for the service of one user. Besides Program it has
// LaunchdLog, the path of the log.
//
//go:embed launchd/com.github.stsbroker.stsbroker.plist
var LaunchAgent string

// What the files above have where an installation puts its own.
const (
	Program    = "/usr/bin/stsbroker"
	LaunchdLog = "/Users/USER/Library/Logs/stsbroker.log"
)

// Label is the name of the launch agent.
const Label = "com.github.stsbroker.stsbroker"
