//go:build booted

package booted

import (
	"strings"
	"testing"
)

// TestMachinesAreApart: each has what it starts with, a network of its own, and nothing
// of another's.
func TestMachinesAreApart(t *testing.T) {
	t.Parallel()
	one, two := Boot(t), Boot(t)
	if state := one.Run(t, "systemctl", "is-system-running"); state != "running\n" {
		t.Error(state, one.Run(t, "systemctl", "list-units", "--failed"))
	}
	one.Write(t, "/etc/mark", 0o640, []byte("x"))
	if out := one.Run(t, "stat", "-c", "%a %U", "/etc/mark"); out != "640 root\n" {
		t.Error(out)
	}
	if _, err := two.Script("test -e /etc/mark"); err == nil {
		t.Error("the second machine has the first one's file")
	}
	if out := one.Run(t, "ip", "-o", "link"); strings.Count(out, "\n") != 1 || !strings.Contains(out, ": lo:") {
		t.Errorf("interfaces: %s", out)
	}
	if out, err := one.Script("echo said; exit 7"); out != "said\n" || err == nil || err.Error() != "exit status 7" {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := one.Script("kill -TERM 0"); err == nil {
		t.Error("a script that kills itself and its kind", out)
	}
}

// TestUsersHaveTheirOwnSystemd is what units of users are tested with.
func TestUsersHaveTheirOwnSystemd(t *testing.T) {
	t.Parallel()
	m := Boot(t)
	m.User(t, "alice")
	if out, err := m.ScriptAs("alice", "pwd; id -un; systemctl --user is-system-running; exit 7"); out != "/home/alice\nalice\nrunning\n" || err == nil || err.Error() != "exit status 7" {
		t.Errorf("%q, %v", out, err)
	}
}

// TestStandInIsAWS: the AWS CLI reaches it with no setting but a key.
func TestStandInIsAWS(t *testing.T) {
	t.Parallel()
	m := Boot(t)
	m.STS(t)
	out, err := m.Script(`AWS_REGION=eu-central-1 AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY aws sts get-caller-identity --query Arn`)
	if err != nil || !strings.Contains(out, `"arn:aws:iam::123456789012:user/dev"`) {
		t.Errorf("%v: %s", err, out)
	}
}
