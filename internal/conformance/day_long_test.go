//go:build conformance && linux

package conformance

import (
	"testing"
	"time"
)

// TestDayAndAHalf holds a shell's token through the longest life that STS gives to
// a session. Who has a whole set asks again a few minutes before its end, and
// uses the token for nothing until then.
func TestDayAndAHalf(t *testing.T) {
	k := installDay(newInstaller(t))
	d := startDay(t, k)
	c := &dayClient{piece: k.goNew, name: "Go v2", door: "container", profile: "long", rule: fiveMinutes, argv: []string{k.goNew.path, "chain"}}
	d.start(t, c)
	d.pass(t, []*dayClient{c}, 37*time.Hour)
}
