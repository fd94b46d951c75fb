//go:build booted

// Command standin is STS's stand-in for a booted machine, at the loopback address that
// is its argument. It tells systemd when it listens.
package main

import (
	"fmt"
	"net"
	"os"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "standin:", err)
		os.Exit(1)
	}
}

func run() error {
	fake := stsfake.New()
	fake.AddUser("dev", "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
	for _, name := range []string{"app", "dev", "ci", "deploy"} {
		fake.AddRole(stsfake.Role{ARN: "arn:aws:iam::" + stsfake.Account + ":role/" + name, Trust: []string{"*"}})
	}
	if _, err := fake.Start(os.Args[1]); err != nil {
		return err
	}
	if socket := os.Getenv("NOTIFY_SOCKET"); socket != "" {
		c, err := net.Dial("unixgram", socket)
		if err != nil {
			return err
		}
		if _, err := c.Write([]byte("READY=1")); err != nil {
			return err
		}
	}
	select {}
}
