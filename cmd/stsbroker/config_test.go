package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker/access"
)

// TestConfigFindings reads the documents in testdata/config. A comment there
// says what the line is blamed for: "# ! TEXT | TEXT" for errors, "# ? TEXT"
// for warnings, in the order of the columns; "? TEXT" among errors is a warning.
// Nothing else may be found.
func TestConfigFindings(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(documents(t), "*.yaml"))
	if err != nil || len(files) < 11 {
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
					severity := severity
					if w, ok := strings.CutPrefix(want, "? "); ok {
						severity, want = SeverityWarning, w
					}
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

// privateFolder is a new one that nobody else can write, whatever the umask.
func privateFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// documents copies testdata/config to where nobody else can write, whatever the
// modes of the checkout: policies are read from there.
func documents(t *testing.T) string {
	t.Helper()
	dir := privateFolder(t)
	files, err := filepath.Glob("testdata/config/*")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestConfigValues(t *testing.T) {
	file := filepath.Join(documents(t), "good.yaml")
	c, findings := loadConfig(file)
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	c.sources, c.read = nil, nil
	const (
		narrow   = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:Get*","Resource":"arn:aws:s3:::a bucket/*"}]}`
		kiosk    = `{"Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*","Sid":"Über"}}`
		readOnly = "arn:aws:iam::aws:policy/ReadOnlyAccess"
	)
	want := &Config{
		File: file,
		Listen: ListenConfig{
			Container: []ContainerConfig{{Address: "127.0.0.1:9170", Line: 3}, {Address: "[::1]:9170", Line: 3}, {"169.254.170.2:80", []string{"deploy", "base"}, 3}, {Address: "[fd00:ec2::23]:80", Line: 3}},
			IMDS:      []IMDSConfig{{"127.0.0.1:9169", "deploy", true, 5}}, Metrics: "127.0.0.1:9171", MetricsGiven: true, Socket: "/run/x/creds.sock",
		},
		TokenFiles: []TokenFileConfig{
			{Name: "pod", Line: 112, Path: "/run/x/token", Profiles: []string{"deploy", "base"}, UID: new(uint32(1000)), Group: new(uint32(9171))},
			{Name: "plain", Line: 113, Profiles: []string{"base"}},
		},
		Files: []FileConfig{
			{Name: "old", Line: 115, Path: "/dev/shm/x/credentials", Profiles: []string{"base", "deploy"}},
			{Name: "older", Line: 116, Profiles: []string{"base"}},
		},
		Access: []access.Rule{
			{UID: new(uint32(1001)), Profiles: []string{"base", "deploy"}, Line: 119},
			{Token: "pod", Profiles: []string{"deploy", "base"}, Line: 120},
			{UID: new(uint32(1001)), Token: "plain", Profiles: []string{"base"}, Line: 121},
		},
		Audit:       AuditConfig{File: "/var/log/stsbroker/audit.jsonl", Required: true, Line: 122},
		AWSProfiles: AWSProfilesConfig{Include: []string{"*"}, Exclude: []string{"prod-*"}},
		STS: STSConfig{
			Region: "eu-central-1", FallbackRegions: []string{"eu-west-1", "us-east-1"}, Timeout: 4 * time.Second, FIPS: true, DualStack: true,
			Endpoints: map[string]EndpointConfig{
				"eu-west-1": {URL: "https://vpce-1.sts.eu-west-1.vpce.amazonaws.com"},
				"minio":     {URL: "http://127.0.0.1:9000/", Compatible: true},
			},
		},
		Keys: map[string]KeyConfig{
			"work": {"work", 21, custodyFile, false}, "ci": {"ci", 22, custodyEnv, false}, "account": {"account", 23, custodyFile, true},
		},
		Profiles: []ProfileConfig{
			{Name: "base", Line: 26, Session: &SessionConfig{Key: "work", Duration: 36 * time.Hour, MFA: MFAConfig{Serial: "arn:aws:iam::123456789012:mfa/me"}}},
			{Name: "plain", Line: 28, Session: &SessionConfig{Key: "work"}},
			{Name: "deploy", Line: 30, Region: "eu-central-1", Prefetch: true, Role: &RoleConfig{
				ARN: "arn:aws:iam::123456789012:role/team/deploy", Source: "plain", Duration: 12 * time.Hour,
				SessionName: "{{.User}}@{{.Host}}", ExternalID: "abc", SourceIdentity: "me@example.com",
				Tags: map[string]string{"team": "core", "cost center": "12/34", "Größe": ""}, TransitiveTags: []string{"team"},
				Policy: narrow, PolicyARNs: []string{readOnly, "arn:aws:iam::123456789012:policy/team/own"},
				Contexts: []ContextConfig{
					{ProviderARN: "arn:aws:iam::aws:contextProvider/IdentityCenter", Assertion: InputConfig{Command: []string{"get-context"}}},
					{ProviderARN: "arn:aws:iam::aws:contextProvider/Other", Assertion: InputConfig{File: "/var/run/context"}},
				},
				MFA: MFAConfig{Serial: "GAHT12345678", Process: []string{"code", "--of", "me"}},
			}},
			{Name: "direct", Line: 49, Role: &RoleConfig{ARN: "arn:aws-us-gov:iam::123456789012:role/direct", Key: "ci"}},
			{Name: "web", Line: 51, WebIdentity: &WebIdentityConfig{
				ARN: "arn:aws:iam::123456789012:role/ci", Token: InputConfig{File: "/var/run/token"}, Duration: time.Hour, SessionName: "web",
				ProviderID: "graph.facebook.com", Policy: `{"Statement":[{"Effect":"Deny","NotAction":"s3:*","Resource":"*"}]}`, PolicyARNs: []string{readOnly},
			}},
			{Name: "web-command", Line: 60, WebIdentity: &WebIdentityConfig{
				ARN: "arn:aws:iam::123456789012:role/ci", Token: InputConfig{Command: []string{"get-token", "--raw"}},
			}},
			{Name: "store", Line: 62, Region: "minio", WebIdentity: &WebIdentityConfig{
				ARN: "arn:minio:iam:::role/idmp-x", Token: InputConfig{File: "/var/run/token"}, ProviderID: "oidc.example.com",
			}},
			{Name: "ceph", Line: 65, Region: "minio", Role: &RoleConfig{ARN: "arn:aws:iam:::role/x", Key: "work"}},
			{Name: "partner", Line: 68, SAML: &SAMLConfig{
				ARN: "arn:aws:iam::123456789012:role/partner", PrincipalARN: "arn:aws:iam::123456789012:saml-provider/Our_IdP.1",
				Assertion: InputConfig{Command: []string{"get-assertion"}}, Policy: `{"Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}`, PolicyARNs: []string{readOnly},
				Duration: 12 * time.Hour,
			}},
			{Name: "partner-file", Line: 76, SAML: &SAMLConfig{Assertion: InputConfig{File: "/var/run/assertion"}}},
			{Name: "kiosk", Line: 78, Federation: &FederationConfig{
				Key: "work", Name: "kiosk", Policy: kiosk, PolicyARNs: []string{readOnly}, Tags: map[string]string{"team": "core"}, Duration: 36 * time.Hour,
			}},
			{Name: "audit-root", Line: 86, Root: &RootConfig{
				Target: "123456789012", TaskPolicyARN: "arn:aws:iam::aws:policy/root-task/IAMAuditRootUserCredentials", Source: "deploy", Duration: 5 * time.Minute,
			}},
			{Name: "unlock-root", Line: 92, Root: &RootConfig{
				Target: "arn:aws:iam::123456789012:root", TaskPolicyARN: "arn:aws:iam::aws:policy/root-task/S3UnlockBucketPolicy", Key: "ci",
			}},
			{Name: "product", Line: 94, Delegated: &DelegatedConfig{Source: "deploy", Token: InputConfig{File: "/var/run/trade-in"}}},
			{Name: "product-key", Line: 96, Delegated: &DelegatedConfig{Key: "ci", Token: InputConfig{Command: []string{"get-trade-in"}}}},
			{Name: "legacy", Line: 98, Process: &ProcessConfig{Command: []string{"get-credentials", "--json", "--json"}}},
			{Name: "here", Line: 100, Ambient: true},
			{Name: "from_aws", Line: 102, Role: &RoleConfig{ARN: "arn:aws:iam::123456789012:role/x", Source: "a-profile-of-the-aws-files"}},
			{Name: "of-the-account", Line: 104, Session: &SessionConfig{Key: "account", Duration: time.Hour}},
			{Name: "of-the-account-too", Line: 106, Session: &SessionConfig{Key: "account", Duration: time.Hour}},
			{Name: "of-the-device", Line: 108, Session: &SessionConfig{
				Key: "work", Duration: time.Hour, MFA: MFAConfig{Serial: "arn:aws:iam::123456789012:mfa/root-account-mfa-device"},
			}},
		},
	}
	if len(c.Profiles) != len(want.Profiles) {
		t.Fatalf("%d profiles: %s", len(c.Profiles), dump(t, c.Profiles))
	}
	for i, p := range c.Profiles {
		if !reflect.DeepEqual(p, want.Profiles[i]) {
			t.Errorf("got  %s\nwant %s", dump(t, p), dump(t, want.Profiles[i]))
		}
	}
	c.Profiles = want.Profiles // compared above
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %s\nwant %s", dump(t, c), dump(t, want))
	}
}

func dump(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestEveryFieldIsParsedSomewhere reflects over the configuration: each field
// that a document can fill is filled by one of the good ones.
func TestEveryFieldIsParsedSomewhere(t *testing.T) {
	filled, all := map[string]bool{}, map[string]bool{}
	var walk func(v reflect.Value, found bool)
	walk = func(v reflect.Value, found bool) {
		switch v.Kind() {
		case reflect.Pointer:
			if v.IsNil() {
				walk(reflect.Zero(v.Type().Elem()), false)
				return
			}
			walk(v.Elem(), found)
		case reflect.Slice:
			walk(reflect.Zero(v.Type().Elem()), false) // its type, where there is none
			for i := range v.Len() {
				walk(v.Index(i), found)
			}
		case reflect.Map:
			walk(reflect.Zero(v.Type().Elem()), false)
			for _, k := range v.MapKeys() {
				walk(v.MapIndex(k), found)
			}
		case reflect.Struct:
			for f, value := range v.Fields() {
				if !f.IsExported() {
					continue
				}
				name := v.Type().Name() + "." + f.Name
				all[name] = true
				if found && !value.IsZero() {
					filled[name] = true
				}
				walk(value, found)
			}
		}
	}
	good, findings := loadConfig(filepath.Join(documents(t), "good.yaml"))
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	other, findings := parseConfig("x.yaml", []byte(`listen: { control: /run/x }
sts: { regional_endpoints: legacy }
notify: false
keys: { work: { custody: sealed } }
profiles: { base: { session: { key: work, mfa_serial: "arn:aws:iam::123456789012:mfa/me", mfa_seed: { file: /stick/seed.age, identity_file: /stick/identity } } } }`))
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	walk(reflect.ValueOf(good), true)
	walk(reflect.ValueOf(other), true)
	if len(all) < 80 {
		t.Errorf("only %d fields", len(all))
	}
	for name := range all {
		if !filled[name] {
			t.Errorf("%s is filled by no document", name)
		}
	}
}

// TestConfigOfWholeDocuments is about what takes a document of its own, or more
// text than a line holds.
func TestConfigOfWholeDocuments(t *testing.T) {
	const (
		key  = "keys: { work: { custody: file } }\n"
		role = key + `profiles: { a: { role: { arn: "arn:aws:iam::123456789012:role/x", key: work, `
		task = `profiles: { a: { root: { key: work, target: "123456789012", task_policy_arn: "arn:aws:iam::aws:policy/root-task/SQSUnlockQueuePolicy" } } }`
	)
	repeat := func(n int, format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format+", ", i)
		}
		return strings.TrimSuffix(b.String(), ", ")
	}
	for _, tc := range []struct{ text, want string }{
		{key + `profiles: { a: { session: { key: work, mfa_serial: GAHT12345678, mfa_seed: { file: /s, identity_file: /i } } } }`, ""},
		{key + `profiles: { a: { session: { key: work, mfa_serial: GAHT12345678, mfa_seed: { file: s, identity_file: /i } } } }`, "profiles.a.session.mfa_seed.file: "},
		{key + `profiles: { a: { session: { key: work, mfa_serial: GAHT12345678, mfa_seed: { file: /s } } } }`, "identity_file is missing"},
		{key + `profiles: { a: { session: { key: work, mfa_seed: { file: /s, identity_file: /i } } } }`, "profiles.a.session.mfa_seed: codes without a device; give mfa_serial too"},
		{
			key + `profiles: { a: { session: { key: work, mfa_serial: GAHT12345678, mfa_process: [code], mfa_seed: { file: /s, identity_file: /i } } } }`,
			"profiles.a.session.mfa_seed: mfa_process and mfa_seed; give one",
		},
		{"notify: maybe", "notify: "},
		{"sts: { region: eu-west-1, fallback_regions: [eu-central-1, us-east-1] }", ""},
		{"sts: { fallback_regions: [cn-north-1, cn-northwest-1] }", ""},
		{"sts: { fallback_regions: [] }", ""},
		{"sts: { fallback_regions: [eu-west-1, eu-west-1] }", `sts.fallback_regions: "eu-west-1" is given twice`},
		{"sts: { fallback_regions: [Ireland] }", `sts.fallback_regions[0]: "Ireland" is not the name of a region, such as eu-central-1`},
		{"sts: { fallback_regions: eu-west-1 }", "sts.fallback_regions: want a list ([a, b]), not text"},
		{"sts: { fallback_regions: [us-east-1, eu-west-1], region: eu-west-1 }", "sts.fallback_regions: eu-west-1 is sts.region itself; name the regions to try after it"},
		{"sts: { region: eu-west-1, fallback_regions: [us-gov-west-1] }", "sts.fallback_regions: us-gov-west-1 is of the partition aws-us-gov, and eu-west-1 of aws; name regions of one partition"},
		{"sts: { fallback_regions: [cn-north-1, eu-west-1] }", "sts.fallback_regions: eu-west-1 is of the partition aws, and cn-north-1 of aws-cn; name regions"},
		{
			`sts: { region: eu-west-1, fallback_regions: [store], endpoints: { store: { url: "https://store.example.com", compatible: true } } }`,
			"sts.fallback_regions: one of store and eu-west-1 is a compatible store and the other is AWS; name regions of one of them",
		},
		{
			`sts: { region: a, fallback_regions: [b], endpoints: { a: { url: "https://a.example.com", compatible: true }, b: { url: "https://b.example.com", compatible: true } } }`, "",
		},
		{"sts: { regional_endpoints: legacy, fips: false, dual_stack: true }", ""},
		{"sts: { regional_endpoints: legasy }", `sts.regional_endpoints: "legasy" is neither regional nor legacy; did you mean "legacy"?`},
		{"sts: { fips: 1 }", "sts.fips: want true or false, not a number"},
		{"sts: { dual_stack: on }", "sts.dual_stack: want true or false, not text"},
		{key + "sts: { regional_endpoints: legacy }\n" + task, "profiles.a.root: AssumeRoot exists at regional endpoints only; leave regional_endpoints: legacy out of sts"},
		{key + "sts: { regional_endpoints: regional }\n" + task, ""},

		{role + "tags: { " + repeat(50, "t%d: x") + " } } } }", ""},
		{role + "tags: { " + repeat(51, "t%d: x") + " } } } }", "profiles.a.role.tags: 51 tags; STS takes 50 at most"},
		{role + `tags: { "` + strings.Repeat("ä", 128) + `": "` + strings.Repeat("ß", 256) + `" } } } }`, ""},
		{role + `tags: { "` + strings.Repeat("ä", 129) + `": x } } } }`, "is not the key of a tag: 1 to 128 letters, digits, blanks and _ . : / = + - @"},
		{role + `tags: { a: "` + strings.Repeat("x", 257) + `" } } } }`, "is not the value of a tag: at most 256 letters, digits, blanks and _ . : / = + - @"},
		{role + "policy_arns: [" + repeat(10, "arn:aws:iam::aws:policy/p%d") + "] } } }", ""},
		{role + "policy_arns: [" + repeat(11, "arn:aws:iam::aws:policy/p%d") + "] } } }", "profiles.a.role.policy_arns: 11 policy ARNs; STS takes 10 at most"},
		{role + "policy_arns: [" + strings.Repeat("arn:aws:iam::aws:policy/p, ", 2) + "] } } }", `"arn:aws:iam::aws:policy/p" is given twice`},
		{role + "policy_arns: [arn:aws:iam::aws:policy/" + strings.Repeat("p", 2048) + "] } } }", "is not the ARN of a managed policy"},
		{role + "provided_contexts: [" + repeat(5, "{ provider_arn: arn:aws:iam::aws:contextProvider/c%d, assertion_file: /t }") + "] } } }", ""},
		{role + "provided_contexts: [" + repeat(6, "{ provider_arn: arn:aws:iam::aws:contextProvider/c%d, assertion_file: /t }") + "] } } }", "profiles.a.role.provided_contexts: 6 contexts; STS takes 5 at most"},
		{role + "mfa_serial: " + strings.Repeat("x", 256) + " } } }", ""},
		{role + "mfa_serial: " + strings.Repeat("x", 257) + " } } }", "is not the serial of an MFA device"},
		{role + "source_identity: " + strings.Repeat("x", 64) + " } } }", ""},
		{role + "source_identity: " + strings.Repeat("x", 65) + " } } }", "STS takes 2 to 64 letters, digits and _ + = , . @ - here"},
		{role + "external_id: " + strings.Repeat("x", 1224) + " } } }", ""},
		{role + "external_id: " + strings.Repeat("x", 1225) + " } } }", "not an external id: 2 to 1224 letters"},
		{key + "profiles: { a: { federation: { key: work, policy_arns: [arn:aws:iam::aws:policy/p], name: " + strings.Repeat("x", 32) + " } } }", ""},
		{key + "profiles: { a: { federation: { key: work, policy_arns: [arn:aws:iam::aws:policy/p], name: " + strings.Repeat("x", 33) + " } } }", "STS takes 2 to 32 letters, digits and _ + = , . @ - here"},
		{`profiles: { a: { web_identity: { arn: "arn:aws:iam::123456789012:role/x", token_file: /t, provider_id: ` + strings.Repeat("x", 2049) + " } } }", "is not the host name of an OAuth 2.0 provider"},
	} {
		c, findings := parseConfig("x.yaml", []byte(tc.text))
		switch {
		case tc.want == "" && (c == nil || len(findings) > 0):
			t.Errorf("%.200s: %v", tc.text, findings)
		case tc.want != "" && (len(findings) != 1 || !strings.Contains(findings[0].String(), tc.want)):
			t.Errorf("%.200s: want %q, got %v", tc.text, tc.want, findings)
		}
	}
}

// TestDurationsAtTheirEnds: the shortest and the longest that STS grants pass,
// a second beyond does not.
func TestDurationsAtTheirEnds(t *testing.T) {
	const policy = `name: kiosk, policy_arns: ["arn:aws:iam::aws:policy/p"]`
	for mint, tc := range map[string]struct{ least, most time.Duration }{
		"session: { key: work, duration: %s }":    {15 * time.Minute, 36 * time.Hour},
		"session: { key: account, duration: %s }": {15 * time.Minute, time.Hour},
		`session: { key: work, mfa_serial: "arn:aws:iam::123456789012:mfa/root-account-mfa-device", duration: %s }`:                            {15 * time.Minute, time.Hour},
		`role: { key: work, arn: "arn:aws:iam::123456789012:role/x", duration: %s }`:                                                           {15 * time.Minute, 12 * time.Hour},
		`web_identity: { token_file: /t, arn: "arn:aws:iam::123456789012:role/x", duration: %s }`:                                              {15 * time.Minute, 12 * time.Hour},
		"saml: { assertion_file: /t, duration: %s }":                                                                                           {15 * time.Minute, 12 * time.Hour},
		"federation: { key: work, " + policy + ", duration: %s }":                                                                              {15 * time.Minute, 36 * time.Hour},
		"federation: { key: account, " + policy + ", duration: %s }":                                                                           {15 * time.Minute, time.Hour},
		`root: { key: work, target: "123456789012", task_policy_arn: "arn:aws:iam::aws:policy/root-task/SQSUnlockQueuePolicy", duration: %s }`: {0, 15 * time.Minute},
	} {
		for d, good := range map[time.Duration]bool{tc.least: true, tc.most: true, tc.least - time.Second: false, tc.most + time.Second: false} {
			text := "keys: { work: { custody: file }, account: { custody: file, root_user: true } }\nprofiles: { a: { " + fmt.Sprintf(mint, d) + " } }"
			c, findings := parseConfig("x.yaml", []byte(text))
			if (c != nil) != good || !good && !strings.Contains(fmt.Sprint(findings), "is out of range: "+short(tc.least)+" to ") {
				t.Errorf("%s: %v", text, findings)
			}
		}
	}
}

// TestExamplesOfTheDocumentation: what docs/configuration.md shows as YAML is
// read without a finding. Parts of a document stand on one with the keys and
// profiles that they name.
func TestExamplesOfTheDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(text), "```yaml\n")[1:]
	if len(parts) < 9 {
		t.Errorf("%d examples", len(parts))
	}
	seen := map[string]bool{}
	document := filepath.Join(documents(t), "x.yaml") // beside the policies that they name
	for _, part := range parts {
		example, _, ok := strings.Cut(part, "```")
		if !ok {
			t.Fatalf("%.60q… has no end", part)
		}
		whole := example
		if !strings.Contains(example, "keys:") {
			whole = "keys: { work: { custody: file } }\n" + example
		}
		c, findings := parseConfig(document, []byte(whole))
		if len(findings) > 0 {
			t.Errorf("%s%v", example, findings)
			continue
		}
		for _, f := range c.CheckSources([]string{"base", "deploy"}) {
			t.Errorf("%s%v", example, f)
		}
		for _, p := range c.Profiles {
			for kind, set := range map[string]bool{
				"session": p.Session != nil, "role": p.Role != nil, "web_identity": p.WebIdentity != nil, "saml": p.SAML != nil, "federation": p.Federation != nil,
				"root": p.Root != nil, "delegated": p.Delegated != nil, "process": p.Process != nil, "ambient": p.Ambient,
			} {
				if set {
					seen[kind] = true
				}
			}
		}
	}
	for kind := range strings.SplitSeq(kinds, ", ") {
		if !seen[kind] {
			t.Errorf("no example of %s", kind)
		}
	}
}

func TestConfigPolicies(t *testing.T) {
	const statement = `{"Effect":"Allow","Action":"s3:*","Resource":"*"}`
	sized := func(n int) string { // a policy of n characters without white space
		frame := `{"Statement":[{"Effect":"Deny","Action":"*","Sid":""}]}`
		return strings.Replace(frame, `""`, `"`+strings.Repeat("ÿ", n-len(frame))+`"`, 1)
	}
	for _, tc := range []struct{ text, want, fault string }{
		{`{"Statement":[` + statement + `]}`, `{"Statement":[` + statement + `]}`, ""},
		{" {\t\"Statement\" :\r\n " + statement + ` , "Version" : "2012-10-17" } ` + "\n", `{"Statement":` + statement + `,"Version":"2012-10-17"}`, ""},
		{"\ufeff" + `{"Statement": {"Effect":"Deny","Action":"*","Sid": "<a & b>"}}`, `{"Statement":{"Effect":"Deny","Action":"*","Sid":"<a & b>"}}`, ""},
		{sized(2048), sized(2048), ""},
		{strings.Replace(sized(2048), ":", ":"+strings.Repeat(" \n", 1000), 1), sized(2048), ""},
		{sized(2049), "", "the policy has 2049 characters without its white space, and STS takes 2048; say less, or name managed policies in policy_arns"},
		{`{"Statement":[` + statement + `]`, "", "the policy is not JSON: line 1: unexpected end of JSON input"},
		{"{\n\"Statement\":\n[,]}", "", "the policy is not JSON: line 3: invalid character ','"},
		{"", "", "the policy is not JSON: line 1: unexpected end of JSON input"},
		{"narrow.json", "", "the policy is not JSON: line 1: invalid character"},
		{"[]", "", `the policy is not a JSON object; write {"Version": "2012-10-17", "Statement": [{…}]}`},
		{"null", "", `the policy has no "Statement"`},
		{`{"Version":"2012-10-17"}`, "", `the policy has no "Statement"; write {"Version": "2012-10-17", "Statement": [{…}]}`},
		{`{"statement":[{}]}`, "", `the policy has no "Statement"; write`},
		{`{"Statement":[ ]}`, "", `the policy's "Statement" says nothing; write [{"Effect": "Allow", "Action": "…", "Resource": "…"}]`},
		{`{"Statement":{}}`, "", `says nothing`},
		{`{"Statement":null}`, "", `says nothing`},
		{`{"Statement":"x"}`, "", `says nothing`},
		{`{"Statement":[{"Effect":"Deny","Action":"*","Sid":"€"}]}`, "", `the policy holds '€', and STS takes no character beyond U+00FF; write it as \u20ac`},
		{`{"Statement":[{"Effect":"Deny","Action":"*","Sid":"😀"}]}`, "", `write it as \ud83d\ude00`},
		{`{"Statement":[{"Sid":"` + "\xff" + `"}]}`, "", "the policy is not UTF-8; save it as that"},
		{`{"Version":"2008-10-17","Statement":[` + statement + `,{"Effect":"Deny","NotAction":["iam:*"]}]}`, `{"Version":"2008-10-17","Statement":[` + statement + `,{"Effect":"Deny","NotAction":["iam:*"]}]}`, ""},
		{`{"Version":"2012-10-18","Statement":[` + statement + `]}`, "", `the policy's "Version" is neither "2012-10-17" nor "2008-10-17"`},
		{`{"Version":2012,"Statement":[` + statement + `]}`, "", `the policy's "Version" is neither`},
		{`{"Statement":[{}]}`, "", `statement 1 of the policy has no "Effect" that is "Allow" or "Deny", in these letters`},
		{`{"Statement":[` + statement + `,{"Effect":"allow","Action":"*"}]}`, "", `statement 2 of the policy has no "Effect"`},
		{`{"Statement":{"Effect":"Allow","Resource":"*"}}`, "", `statement 1 of the policy has neither "Action" nor "NotAction"`},
		{`{"Statement":{"Effect":"Allow","action":"*"}}`, "", `neither "Action" nor "NotAction"`},
		{`{"Statement":{"Effect":"Allow","Action":"*","Principal":"*"}}`, "", `statement 1 of the policy names a principal`},
		{`{"Statement":{"Effect":"Allow","Action":"*","NotPrincipal":"*"}}`, "", `names a principal`},
		{`{"Statement":["x"]}`, "", `holds something that is not an object`},
	} {
		got, err := compactPolicy(tc.text)
		if got != tc.want || (err == nil) != (tc.fault == "") || err != nil && !strings.Contains(err.Error(), tc.fault) {
			t.Errorf("%.80q: got %.80q, %v", tc.text, got, err)
		}
		if err == nil && !json.Valid([]byte(got)) {
			t.Errorf("%.80q: %.80q is not JSON", tc.text, got)
		}
	}
}

// TestPolicyFiles is about where a policy is looked for, and whom it is taken from.
func TestPolicyFiles(t *testing.T) {
	dir, elsewhere := privateFolder(t), privateFolder(t)
	write := func(dir, name, text string, mode os.FileMode) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	const good = `{"Statement":[{"Effect":"Deny","Action":"*"}]}`
	absolute := write(elsewhere, "absolute.json", good, 0o644)
	write(dir, "good.json", " "+good+"\n", 0o600)
	write(dir, "bad.json", "{\n", 0o600)
	write(dir, "open.json", good, 0o666)
	write(dir, "large.json", strings.Repeat(" ", mostPolicyFile)+good, 0o600)
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(dir, "folder"), "good.json", good, 0o600)
	t.Chdir(elsewhere) // the folder of the document counts, not the one of the process

	cases := []struct{ policy, fault string }{
		{"file:good.json", ""},
		{"file:./good.json", ""},
		{"file:folder/good.json", ""},
		{"file:" + absolute, ""},
		{"file:absolute.json", "absolute.json: there is no such file; a relative path begins in the folder of x.yaml"},
		{"file:bad.json", "bad.json: the policy is not JSON: line 2: unexpected end of JSON input"},
		{"file:large.json", "large.json: is larger than 65536 bytes"},
		{"file:folder", "folder: is not a regular file"},
		{"file:", ": not the path of a policy; write it as file:./policy.json or file:/etc/policy.json"},
		{"file://good.json", "//good.json: not the path of a policy"},
		{"good.json", "the policy is not JSON"},
	}
	if runtime.GOOS != "windows" { // which has no modes
		cases = append(cases, struct{ policy, fault string }{"file:open.json", "open.json: not trusted: "})
	}
	for _, tc := range cases {
		text := fmt.Sprintf("profiles: { a: { saml: { assertion_file: %q, policy: %q } } }", absolute, tc.policy)
		c, findings := loadConfig(write(dir, "x.yaml", text, 0o600))
		switch {
		case tc.fault == "" && (c == nil || c.Profiles[0].SAML.Policy != good):
			t.Errorf("%s: %v", tc.policy, findings)
		case tc.fault != "" && (len(findings) != 1 || !strings.Contains(findings[0].Text, "profiles.a.saml.policy: "+tc.fault)):
			t.Errorf("%s: want %q, got %v", tc.policy, tc.fault, findings)
		}
	}
	_, findings := parseConfig("x.yaml", []byte("profiles: { a: { saml: { assertion_file: /t, policy: { Statement: [] } } } }"))
	if len(findings) != 1 || !strings.Contains(findings[0].Text, "want the policy's JSON in quotes, or file:PATH, not a mapping") {
		t.Errorf("a mapping: %v", findings)
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
		if said := strings.Contains(text, ":") || strings.Contains(text, "{}") || strings.Contains(text, "null") || strings.Contains(text, "---"); c != nil {
			if c.empty == said {
				t.Errorf("%q: empty is %v", text, c.empty)
			}
			c.empty = false
		}
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
	dir := privateFolder(t)
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
			for _, set := range []bool{
				p.Session != nil, p.Role != nil, p.WebIdentity != nil, p.SAML != nil, p.Federation != nil, p.Root != nil, p.Delegated != nil, p.Process != nil, p.Ambient,
			} {
				if set {
					kinds++
				}
			}
			if kinds != 1 || p.Name == "" || p.Line < 1 {
				t.Errorf("%+v", p)
			}
			if r := p.Role; r != nil && (r.ARN == "" || (r.Source == "") == (r.Key == "") || len(r.Policy) > 2*mostPolicy || len(r.Tags) > mostTags) {
				t.Errorf("%+v", *r)
			}
			if r := p.Root; r != nil && (r.Target == "" || r.TaskPolicyARN == "" || (r.Source == "") == (r.Key == "") || p.Prefetch || c.STS.Legacy) {
				t.Errorf("%+v", *r)
			}
			if f := p.Federation; f != nil && (f.Key == "" || f.Name == "" || f.Policy == "" && len(f.PolicyARNs) == 0) {
				t.Errorf("%+v", *f)
			}
			var inputs []InputConfig
			if p.WebIdentity != nil {
				inputs = append(inputs, p.WebIdentity.Token)
			}
			if p.SAML != nil {
				inputs = append(inputs, p.SAML.Assertion)
			}
			if p.Delegated != nil {
				inputs = append(inputs, p.Delegated.Token)
			}
			for _, in := range inputs {
				if (in.File == "") == (len(in.Command) == 0) {
					t.Errorf("%+v", in)
				}
			}
		}
	})
}

func TestConfigIMDS(t *testing.T) {
	c, findings := parseConfig("f", []byte("listen:\n  imds:\n    - { profile: a.b+c@d }\n    - { profile: e, address: \"[::1]:1\", allow_v1: true }\n"))
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	want := []IMDSConfig{{Address: "127.0.0.1:9169", Profile: "a.b+c@d", Line: 3}, {Address: "[::1]:1", Profile: "e", AllowV1: true, Line: 4}}
	if !reflect.DeepEqual(c.Listen.IMDS, want) {
		t.Errorf("got %+v, want %+v", c.Listen.IMDS, want)
	}
	for _, list := range []string{"null", "", "x"} {
		if _, findings := parseConfig("f", []byte("listen: { imds: "+list+" }")); !hasErrors(findings) {
			t.Errorf("%q is taken", list)
		}
	}
}
