package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestConfigFindings reads the documents in testdata/config. A comment there
// says what the line is blamed for: "# ! TEXT | TEXT" for errors, "# ? TEXT"
// for warnings, in the order of the columns. Nothing else may be found.
func TestConfigFindings(t *testing.T) {
	files, err := filepath.Glob("testdata/config/*.yaml")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d documents, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c, findings := parseConfig(file, data)
			if hasErrors(findings) != (c == nil) {
				t.Errorf("configuration %v with %v", c, findings)
			}
			got := map[int][]Finding{}
			for _, f := range findings {
				got[f.Line] = append(got[f.Line], f)
			}
			number := 0
			for line := range strings.Lines(string(data)) {
				number++
				severity, wants := SeverityError, []string(nil)
				if _, w, ok := strings.Cut(line, "# ! "); ok {
					wants = strings.Split(strings.TrimSpace(w), " | ")
				} else if _, w, ok := strings.Cut(line, "# ? "); ok {
					severity, wants = SeverityWarning, strings.Split(strings.TrimSpace(w), " | ")
				}
				if len(got[number]) != len(wants) {
					t.Errorf("line %d: want %q, got %v", number, wants, got[number])
					continue
				}
				for i, want := range wants {
					if f := got[number][i]; !strings.Contains(f.Text, want) || f.Severity != severity || f.Col < 1 || f.File != file {
						t.Errorf("line %d: want %q (severity %d), got %v", number, want, severity, f)
					}
				}
			}
			if number == 0 {
				t.Error("an empty document")
			}
			for _, f := range findings {
				if strings.Contains(f.Text, "hunter2") {
					t.Errorf("a finding repeats what may be a secret: %v", f)
				}
			}
		})
	}
}

func TestConfigValues(t *testing.T) {
	c, findings := loadConfig("testdata/config/good.yaml")
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	c.sources = nil
	want := &Config{
		File:        "testdata/config/good.yaml",
		Listen:      ListenConfig{Container: []string{"127.0.0.1:9170", "[::1]:9170"}, Metrics: "127.0.0.1:9171", MetricsGiven: true},
		AWSProfiles: AWSProfilesConfig{Include: []string{"*"}, Exclude: []string{"prod-*"}},
		STS: STSConfig{Region: "eu-central-1", Timeout: 4 * time.Second, Endpoints: map[string]EndpointConfig{
			"eu-west-1": {URL: "https://vpce-1.sts.eu-west-1.vpce.amazonaws.com"},
			"minio":     {URL: "http://127.0.0.1:9000/", Compatible: true},
		}},
		Keys: map[string]KeyConfig{"work": {"work", 17, custodyFile}, "ci": {"ci", 18, custodyEnv}},
		Profiles: []ProfileConfig{
			{Name: "base", Line: 21, Session: &SessionConfig{Key: "work", Duration: 36 * time.Hour}},
			{Name: "deploy", Line: 23, Region: "eu-central-1", Prefetch: true, Role: &RoleConfig{
				ARN: "arn:aws:iam::123456789012:role/team/deploy", Source: "base", Duration: 12 * time.Hour,
				SessionName: "{{.User}}@{{.Host}}", ExternalID: "abc",
			}},
			{Name: "direct", Line: 32, Role: &RoleConfig{ARN: "arn:aws-us-gov:iam::123456789012:role/direct", Key: "ci"}},
			{Name: "web", Line: 34, WebIdentity: &WebIdentityConfig{
				ARN: "arn:aws:iam::123456789012:role/ci", TokenFile: "/var/run/token", Duration: time.Hour, SessionName: "web",
			}},
			{Name: "store", Line: 36, Region: "minio", WebIdentity: &WebIdentityConfig{ARN: "arn:minio:iam:::role/idmp-x", TokenFile: "/var/run/token"}},
			{Name: "ceph", Line: 39, Region: "minio", Role: &RoleConfig{ARN: "arn:aws:iam:::role/x", Key: "work"}},
			{Name: "legacy", Line: 42, Process: &ProcessConfig{Command: []string{"get-credentials", "--json", "--json"}}},
			{Name: "from_aws", Line: 44, Role: &RoleConfig{ARN: "arn:aws:iam::123456789012:role/x", Source: "a-profile-of-the-aws-files"}},
		},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestNothingSaidGivesTheDefaults(t *testing.T) {
	want, findings := loadConfig("")
	if len(findings) > 0 || len(want.Listen.Container) != 2 || want.Listen.MetricsGiven || want.STS.Timeout != 4*time.Second {
		t.Fatalf("%+v %v", want, findings)
	}
	want.File = "x.yaml"
	for _, text := range []string{"", "\n", "# only a comment\n", "---\n", "null\n", "{}\n", "\ufeff", "listen:\nsts:\nkeys:\nprofiles:\naws_profiles:\n"} {
		c, findings := parseConfig("x.yaml", []byte(text))
		if len(findings) > 0 || !reflect.DeepEqual(c, want) {
			t.Errorf("%q: %+v %v", text, c, findings)
		}
	}
	if c, findings := parseConfig("x.yaml", []byte("listen: { container: [], metrics: \"\" }")); len(findings) > 0 || len(c.Listen.Container) > 0 || !c.Listen.MetricsGiven {
		t.Errorf("said to be off: %+v %v", c, findings)
	}
}

func TestSyntaxErrorsHaveAPlace(t *testing.T) {
	for text, want := range map[string]string{
		"profiles:\n\ta: b\n":                 "x.yaml:2:1: not YAML: ",
		"listen: [\nkeys: {}\n":               "x.yaml:2:",
		"keys: {}\nprofiles: *nowhere\n":      "x.yaml:2:11: not YAML: unknown anchor",
		"keys: {}\nlisten: \"a\xffb\"\n":      "x.yaml:2:11: not YAML: ",
		"keys: {}\n\nlisten: \"a\x00\"\n":     "x.yaml:3:11: not YAML: ",
		"keys: {}\n---\nkeys: {}\n":           "x.yaml:2:1: a second document begins here",
		"keys: {}\n---\n[\n":                  "x.yaml:",
		"just text\n":                         "x.yaml:1:1: want a mapping (key: value), not text",
		"- a\n":                               "x.yaml:1:1: want a mapping (key: value), not a list",
		"profiles:\n  a:\n    role:\n   x: y": "x.yaml:",
		"listen:\n  metrics: 9171\n":          "x.yaml:2:12: listen.metrics: want text",
		"sts:\n  region: eu\n  regoin: x\n":   "x.yaml:3:3: sts.regoin: unknown key; did you mean \"region\"?",
	} {
		c, findings := parseConfig("x.yaml", []byte(text))
		if c != nil || len(findings) == 0 || !strings.HasPrefix(findings[0].String(), want) {
			t.Errorf("%q: want %s…, got %v", text, want, findings)
		}
	}
}

func TestAliasBombIsRefusedAtOnce(t *testing.T) {
	bomb := "a0: &a0 x\n"
	for i := 1; i < 40; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [*a%d, *a%d, *a%d, *a%d]\n", i, i, i-1, i-1, i-1, i-1)
	}
	if c, findings := parseConfig("x.yaml", []byte(bomb)); c != nil || len(findings) != 40 {
		t.Errorf("%d findings", len(findings))
	}
}

func TestCheckSources(t *testing.T) {
	c, findings := parseConfig("x.yaml", []byte(`
profiles:
  a: { role: { arn: "arn:aws:iam::123456789012:role/x", source: corporate } }
  b: { role: { arn: "arn:aws:iam::123456789012:role/x", source: a } }
`))
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	if got := c.CheckSources([]string{"corporate"}); len(got) != 0 {
		t.Errorf("a profile of the AWS files: %v", got)
	}
	got := c.CheckSources([]string{"corporat", "x"})
	const want = `x.yaml:3:65: profiles.a.role.source: there is no profile "corporate", neither here nor in the AWS files; did you mean "corporat"?`
	if len(got) != 1 || got[0].String() != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
}

func TestAWSProfilesServes(t *testing.T) {
	c := AWSProfilesConfig{Include: []string{"*"}, Exclude: []string{"prod-*", "[ab]?"}}
	for name, want := range map[string]bool{"dev": true, "team/dev": true, "prod-1": false, "prod-a/b": false, "prod": true, "a1": false, "c1": true} {
		if got := c.Serves(name); got != want {
			t.Errorf("Serves(%q) = %v", name, got)
		}
	}
	if (AWSProfilesConfig{}).Serves("dev") {
		t.Error("no pattern, and a profile is served")
	}
}

// TestConfigFileIsTrustedOrRefused is about who may write the file. Modes are
// looked at rather than tried, so it holds for root too.
func TestConfigFileIsTrustedOrRefused(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("not run: no modes on Windows")
	}
	dir := t.TempDir()
	write := func(name string, mode os.FileMode) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte("keys: {}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	symlink := func(name, to string) string {
		file := filepath.Join(dir, name)
		if err := os.Symlink(to, file); err != nil {
			t.Fatal(err)
		}
		return file
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	inOpen := write("open/x.yaml", 0o644)
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(large, []byte("#"+strings.Repeat("x", maxConfig)), 0o600); err != nil {
		t.Fatal(err)
	}
	private, world := write("private.yaml", 0o600), write("world.yaml", 0o666)
	foreignGroup := write("group.yaml", 0o664)
	if os.Geteuid() == 0 {
		if err := os.Chown(foreignGroup, 0, 12345); err != nil {
			t.Fatal(err)
		}
	} else {
		t.Log("not run: a file of another user's group, because only root can make one")
		foreignGroup = world
	}

	for _, tc := range []struct{ file, want string }{
		{private, ""},
		{write("readable.yaml", 0o644), ""},
		{symlink("link.yaml", private), ""},
		{world, "may change it; run: chmod"},
		{foreignGroup, "may change it; run: chmod"},
		{symlink("to-world.yaml", world), "may change it; run: chmod"},
		{inOpen, "not trusted: "},
		{symlink("to-open.yaml", inOpen), "not trusted: "},
		{dir, "is not a regular file"},
		{filepath.Join(dir, "missing.yaml"), "there is no such file"},
		{large, "is larger than 1048576 bytes"},
	} {
		c, findings := loadConfig(tc.file)
		switch {
		case tc.want == "" && (c == nil || len(findings) > 0):
			t.Errorf("%s: %v", tc.file, findings)
		case tc.want != "" && (c != nil || len(findings) != 1 || !strings.Contains(findings[0].Text, tc.want)):
			t.Errorf("%s: want %q, got %v", tc.file, tc.want, findings)
		}
	}
	if os.Geteuid() == 0 {
		stranger := write("stranger.yaml", 0o600)
		if err := os.Chown(stranger, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		if c, findings := loadConfig(stranger); c != nil || !strings.Contains(fmt.Sprint(findings), "belongs to uid 12345") {
			t.Errorf("a stranger's file: %v", findings)
		}
	}
}

// FuzzConfig: no document makes the reader panic, every rejection has a place,
// and what passes has what the types promise.
func FuzzConfig(f *testing.F) {
	files, err := filepath.Glob("testdata/config/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("? ? a\n: - !!binary x\n..."))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, findings := parseConfig("x.yaml", data)
		for _, finding := range findings {
			if finding.Line < 1 || finding.Col < 1 || finding.Text == "" {
				t.Errorf("a finding without a place or a text: %#v", finding)
			}
		}
		if (c == nil) != hasErrors(findings) {
			t.Fatalf("%v with %v", c, findings)
		}
		if c == nil {
			return
		}
		for _, p := range c.Profiles {
			kinds := 0
			for _, set := range []bool{p.Session != nil, p.Role != nil, p.WebIdentity != nil, p.Process != nil} {
				if set {
					kinds++
				}
			}
			if kinds != 1 || p.Name == "" || p.Line < 1 {
				t.Errorf("%+v", p)
			}
			if r := p.Role; r != nil && (r.ARN == "" || (r.Source == "") == (r.Key == "")) {
				t.Errorf("%+v", *r)
			}
		}
	})
}
