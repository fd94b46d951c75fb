package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/stsbroker/stsbroker/deploy"
)

// launchdKit is the service under a user's launchd: an agent of the user's session.
func launchdKit(home string, uid int) kit {
	domain := fmt.Sprintf("gui/%d", uid)
	agent := serviceFile{
		path:    filepath.Join(home, "Library", "LaunchAgents", deploy.Label+".plist"),
		text:    strings.ReplaceAll(deploy.LaunchAgent, deploy.LaunchdLog, xmlText(filepath.Join(home, "Library", "Logs", "stsbroker.log"))),
		comment: "<!--", ends: " -->",
	}
	target := domain + "/" + deploy.Label
	bootstrap, bootout := []string{"launchctl", "bootstrap", domain, agent.path}, []string{"launchctl", "bootout", target}
	return kit{
		files:   []serviceFile{agent},
		start:   [][]string{bootstrap},
		restart: [][]string{bootout, bootstrap},
		stop:    [][]string{bootout},
		available: func(ctx context.Context) error {
			if _, err := exec.LookPath("launchctl"); err != nil {
				return errors.New("there is no launchctl here")
			}
			if _, err := manage(ctx, nil, []string{"launchctl", "print", domain}); err != nil {
				return fmt.Errorf("launchd has no session for this user here (over ssh, say): log in at the screen, and run it there (%w)", err)
			}
			return nil
		},
		state: func(ctx context.Context) (serviceState, error) {
			out, err := manage(ctx, nil, []string{"launchctl", "print", target})
			if err != nil { // that is how it says that it does not know the agent
				return serviceState{}, nil //nolint:nilerr // see above
			}
			return launchdState(out), nil
		},
		hint: "its log is " + filepath.Join(home, "Library", "Logs", "stsbroker.log"),
	}
}

// launchdState reads what "launchctl print" says of the agent.
func launchdState(out string) serviceState {
	field := func(name string) string {
		if m := regexp.MustCompile(`(?m)^\t` + name + ` = (.*)$`).FindStringSubmatch(out); m != nil {
			return m[1]
		}
		return ""
	}
	s := serviceState{installed: true, running: field("state") == "running"}
	words := field("state")
	if pid := field("pid"); s.running && pid != "" {
		words += ", process " + pid
	}
	if code := field("last exit code"); !s.running && code != "" {
		words += "; it ended with status " + code
	}
	s.rows = [][]string{{"service", words}, {"starts", "when you log in"}}
	return s
}

// xmlText is s as text of an XML element.
func xmlText(s string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(s)); err != nil {
		return "" // a strings.Builder takes everything
	}
	return b.String()
}
