package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stsbroker/stsbroker/internal/ownnet"
)

// In a network of nothing but loopback: no name service, no route, none of AWS's
// addresses, until the remedies that are said have been run.
func TestDoctorInAnEmptyNetwork(t *testing.T) {
	if !ownnet.Inside(t) {
		return
	}
	cleared(t, t.TempDir())
	t.Setenv("AWS_REGION", "eu-central-1")
	t.Setenv(varEndpointURL, "")
	look := func(id string) (c complaint, found bool) {
		t.Helper()
		s, err := lookAround(t.Context(), &globals{}, "", true)
		if err != nil {
			t.Fatal(err)
		}
		s.listen.Container = loopbackDoor("169.254.170.2:80") // a file of that is nobody's here, where this user is the only one
		all := judge(s)
		if i := slices.IndexFunc(all, func(c complaint) bool { return c.ID == id }); i >= 0 {
			return all[i], true
		}
		return complaint{ID: id, What: "none of them"}, false
	}
	if c, _ := look("sts-dns"); c.Severity != severityStops || !strings.Contains(c.What, "sts.eu-central-1.amazonaws.com") {
		t.Errorf("%+v", c)
	}
	t.Setenv(varEndpointURL, "https://192.0.2.1")
	if c, _ := look("sts-tcp"); !strings.Contains(c.What, "no route to 192.0.2.1") {
		t.Errorf("%+v", c)
	}

	remedy := func(id string) {
		t.Helper()
		c, found := look(id)
		if !found || c.Do == "" {
			t.Fatalf("%+v", c)
		}
		words := strings.Fields(strings.TrimPrefix(c.Do, "sudo ")) // the user here is root in this network
		program, err := exec.LookPath(words[0])
		if err != nil {
			t.Skipf("not run: the remedy %q: there is no %s here", c.Do, words[0])
		}
		if out, err := exec.CommandContext(t.Context(), program, words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", c.Do, err, out)
		}
		if c, found := look(id); found {
			t.Errorf("mended, and still %+v", c)
		}
	}
	remedy("link-local")
	const routed = "/proc/sys/net/ipv4/conf/lo/route_localnet"
	if err := os.WriteFile(routed, []byte("1\n"), 0); err != nil {
		t.Skipf("not run: route_localnet cannot be set here: %v", err)
	}
	remedy("route-localnet")
}
