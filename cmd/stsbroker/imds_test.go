package main

import (
	"strings"
	"testing"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/control"
)

// Kept fresh is what an IMDS door serves, and nothing that a person must give a code for.
func TestPrefetchOfIMDS(t *testing.T) {
	cfg := &Config{Listen: ListenConfig{IMDS: []IMDSConfig{{Profile: "app"}, {Profile: "locked"}}}, Files: []FileConfig{{Profiles: []string{"filed"}}}}
	v := view{&app{}, &setup{cfg: cfg, catalog: catalog{profiles: []broker.Profile{
		{Name: "app"}, {Name: "locked", MFA: "GAHT12345678"}, {Name: "other"}, {Name: "asked", Prefetch: true}, {Name: "filed"},
	}}}}
	v.prefetch()
	var got []string
	for _, p := range v.catalog.profiles {
		if p.Prefetch {
			got = append(got, p.Name)
		}
	}
	if strings.Join(got, " ") != "app asked filed" {
		t.Errorf("prefetched are %v", got)
	}
}

func TestDoorsAreCounted(t *testing.T) {
	two := []IMDSConfig{{}, {}}
	for want, c := range map[int]ListenConfig{
		2: {Container: loopbackDoor("127.0.0.1:9170", "[::1]:9170")}, 3: {Container: []ContainerConfig{{Address: "127.0.0.1:9170"}, {Address: "169.254.170.2:80", WithoutToken: []string{"dev"}}}},
		4: {IMDS: two}, 5: {IMDS: two, Metrics: "127.0.0.1:9171"},
	} {
		if got := c.doors(); got != want {
			t.Errorf("%+v: %d doors, want %d", c, got, want)
		}
	}
}

// Wire contract, line 23: no proxy between a program and its door, on IPv6 either.
func TestNoProxyToIMDS(t *testing.T) {
	const four, six = "http://127.0.0.1:9169", "http://[::1]:9169"
	for _, tc := range []struct{ door, upper, lower, wantUpper, wantLower string }{
		{four, "", "", "127.0.0.1,localhost,169.254.169.254", ""},
		{six, "", "", "127.0.0.1,localhost,169.254.169.254,::1,[::1]", ""},
		{six, ".corp, ::1", "localhost", ".corp,::1,127.0.0.1,localhost,169.254.169.254,[::1]", "localhost,127.0.0.1,169.254.169.254,::1,[::1]"},
		{six, "*", "*", "*", "*"},
	} {
		t.Setenv("NO_PROXY", tc.upper)
		t.Setenv("no_proxy", tc.lower)
		p := place{home: t.TempDir(), getenv: func(string) string { return "" }}
		v, err := p.imdsVariables(control.Status{Profiles: []control.Profile{{Name: "app"}}, IMDS: []control.IMDS{{URL: tc.door, Profile: "app"}}})
		if err != nil || v.Set["NO_PROXY"] != tc.wantUpper || v.Set["no_proxy"] != tc.wantLower || v.Set["AWS_EC2_METADATA_SERVICE_ENDPOINT"] != tc.door {
			t.Errorf("%+v: %v, %v", tc, v.Set, err)
		}
	}
}
