package main

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/awsconfig"
	"github.com/stsbroker/stsbroker/broker/awssts"
	"github.com/stsbroker/stsbroker/broker/custody"
	"github.com/stsbroker/stsbroker/broker/login"
)

// files is what a catalogue is built from.
type files struct{ yaml, config, credentials string }

// catalogOf builds a catalogue in an environment that has nothing but env.
func catalogOf(t *testing.T, f files, env map[string]string) catalog {
	t.Helper()
	dir := privateFolder(t)
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cfg, findings := parseConfig("stsbroker.yaml", []byte(f.yaml))
	if cfg == nil {
		t.Fatal(findings)
	}
	aws := awsconfig.Files{Config: write("config", f.config), Credentials: write("credentials", f.credentials)}
	sts, err := newSTS(place{getenv: func(name string) string { return env[name] }}, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	kept, warning := custody.OpenKept(filepath.Join(dir, "state"), nil)
	if warning != nil {
		t.Fatal(warning)
	}
	c := cataloguer{kept: kept, login: login.New(login.Options{}), place: place{home: dir, getenv: func(name string) string { return env[name] }}, cfg: cfg, aws: awsconfig.Load(aws), files: aws, sts: sts, self: "/x/stsbroker"}
	return c.build()
}

func (c catalog) get(t *testing.T, name string) broker.Profile {
	t.Helper()
	i := slices.IndexFunc(c.profiles, func(p broker.Profile) bool { return p.Name == name })
	if i < 0 {
		t.Fatalf("there is no profile %q", name)
	}
	return c.profiles[i]
}

const (
	devKeys   = "[dev]\naws_access_key_id = AKIASCRIPTSCRIPTSCRI\naws_secret_access_key = canary/secret/key/of/the/user/0123456789\n"
	phoneMFA  = "mfa_serial = arn:aws:iam::123456789012:mfa/phone\n"
	rootOfApp = `{ root: { target: "210987654321", task_policy_arn: "arn:aws:iam::aws:policy/root-task/IAMAuditRootUserCredentials", source: here } }`
)

// deviceRole is a role of the AWS files that is assumed with a session with MFA.
func deviceRole(name, more string) string {
	return "[profile " + name + "]\nrole_arn = arn:aws:iam::123456789012:role/x\nsource_profile = dev\n" + phoneMFA + more
}

// The code of a device, and what it buys, stay with the STS that a role names.
func TestSessionOfADeviceStaysWithItsSTS(t *testing.T) {
	const stores = "sts: { region: eu-central-1, endpoints: { store: { url: 'https://store.example', compatible: true } } }"
	for _, tc := range []struct {
		name string
		yaml string
		a, b string // settings of two roles of one device
		env  map[string]string
		same bool
	}{
		{name: "regions of a partition", a: "region = eu-west-1\n", b: "region = us-east-2\n", same: true},
		{name: "a region, and none", a: "region = eu-west-1\n", same: true},
		{name: "an endpoint, and none", a: "endpoint_url = http://localhost:4566\n", b: "region = eu-west-1\n"},
		{name: "none, and an endpoint", b: "endpoint_url = http://localhost:4566\n"},
		{name: "two endpoints", a: "endpoint_url = http://localhost:4566\n", b: "endpoint_url = http://localhost:4567\n"},
		{name: "one endpoint", a: "endpoint_url = http://localhost:4566\n", b: "endpoint_url = http://localhost:4566\n", same: true},
		{name: "FIPS", a: "use_fips_endpoint = true\n"},
		{name: "dual-stack", b: "use_dualstack_endpoint = true\n"},
		{name: "a store", yaml: stores, a: "region = store\n"},
		{name: "one store", yaml: stores, a: "region = store\n", b: "region = store\n", same: true},
		{name: "one endpoint for all", a: "endpoint_url = http://localhost:4566\n", env: map[string]string{"AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1"}, same: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := catalogOf(t, files{tc.yaml, deviceRole("a", tc.a) + deviceRole("b", tc.b), devKeys}, tc.env)
			a, b := c.get(t, "a"), c.get(t, "b")
			if (a.Parent == b.Parent) != tc.same {
				t.Errorf("%q and %q", a.Parent.Profile, b.Parent.Profile)
			}
			for _, p := range []broker.Profile{a, b} {
				session := c.get(t, p.Parent.Profile)
				role, its := c.sites[p.Name], c.sites[session.Name]
				if p.Unservable != nil || session.Unservable != nil || session.Action != "GetSessionToken" || !session.Hidden {
					t.Fatalf("%+v over %+v", p, session)
				}
				if role.Region = its.Region; !tc.same && role != its || awssts.PartitionOf(c.sites[p.Name].Region) != awssts.PartitionOf(its.Region) {
					t.Errorf("%s is minted at %+v, its session at %+v", p.Name, c.sites[p.Name], its)
				}
			}
		})
	}
	china := strings.ReplaceAll(deviceRole("b", ""), "arn:aws:", "arn:aws-cn:")
	c := catalogOf(t, files{"", china, devKeys}, nil)
	if at := c.sites[c.get(t, "b").Parent.Profile]; at.Region != "cn-north-1" {
		t.Errorf("the session for a role of China is minted in %s", at.Region)
	}
}

// A role whose endpoint cannot be used is told so at its own place, and spoils no other.
func TestEndpointOfOneRoleSpoilsNoOther(t *testing.T) {
	f := files{"", deviceRole("a", "endpoint_url = http://example.com\n") + deviceRole("b", ""), devKeys}
	c := catalogOf(t, f, nil)
	if a := c.get(t, "a"); a.Unservable == nil || !strings.Contains(a.Unservable.Error(), "config:5: endpoint_url") {
		t.Errorf("a: %v", a.Unservable)
	}
	if b := c.get(t, "b"); b.Unservable != nil || c.get(t, b.Parent.Profile).Unservable != nil {
		t.Errorf("b: %v", b.Unservable)
	}
	// An endpoint that counts for nothing spoils nothing.
	f.config += "[profile c]\nrole_arn = arn:aws:iam::123456789012:role/x\nsource_profile = dev\nuse_fips_endpoint = true\nendpoint_url = https://sts.example.com\n"
	c = catalogOf(t, f, map[string]string{"AWS_ENDPOINT_URL_STS": "https://sts.example.com"})
	for _, name := range []string{"a", "b", "c"} {
		if p := c.get(t, name); p.Unservable != nil {
			t.Errorf("%s, with AWS_ENDPOINT_URL_STS: %v", name, p.Unservable)
		}
	}
}

func TestAmbientAsASource(t *testing.T) {
	const yaml = `
profiles:
  here: { ambient: true, region: eu-west-1 }
  long: { role: { arn: "arn:aws:iam::123456789012:role/x", source: here, duration: 12h } }
  audit: ` + rootOfApp + `
  product: { delegated: { token_file: /t, source: here } }
`
	environment := map[string]string{"AWS_ACCESS_KEY_ID": "AKIASCRIPTSCRIPTSCRI", "AWS_SECRET_ACCESS_KEY": "canary"}
	for _, tc := range []struct {
		name   string
		config string
		env    map[string]string
		signer broker.Ref // of the role
		caller broker.Ref // of what a session may not call; zero where it is refused
	}{
		{name: "keys of the environment", env: environment, signer: broker.Ref{Key: custody.ProfileKey("(environment keys)")}, caller: broker.Ref{Key: custody.ProfileKey("(environment keys)")}},
		{name: "keys of a profile", env: map[string]string{"AWS_PROFILE": "dev"}, signer: broker.Ref{Key: custody.ProfileKey("dev")}, caller: broker.Ref{Key: custody.ProfileKey("dev")}},
		{name: "keys with a device", config: "[profile dev]\n" + phoneMFA, env: map[string]string{"AWS_PROFILE": "dev"}, signer: broker.Ref{Profile: "here"}},
		{name: "a role", config: "[profile app]\nrole_arn = arn:aws:iam::123456789012:role/x\nsource_profile = dev\n", env: map[string]string{"AWS_PROFILE": "app"},
			signer: broker.Ref{Profile: "here"}, caller: broker.Ref{Profile: "here"}},
		{name: "the machine", signer: broker.Ref{Profile: "here"}, caller: broker.Ref{Profile: "here"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := catalogOf(t, files{yaml, tc.config, devKeys}, tc.env)
			if p := c.get(t, "long"); p.Parent != tc.signer || p.Unservable != nil {
				t.Errorf("the role is signed by %+v, want %+v (%v)", p.Parent, tc.signer, p.Unservable)
			}
			if key := tc.signer.Key; key != "" {
				if _, err := c.keys.Key(t.Context(), key); err != nil {
					t.Error(err)
				}
			}
			for _, name := range []string{"audit", "product"} {
				p := c.get(t, name)
				if tc.caller == (broker.Ref{}) {
					if p.Unservable == nil || !strings.Contains(p.Unservable.Error(), "its source here is a session of GetSessionToken") {
						t.Errorf("%s over a session: %v", name, p.Unservable)
					}
				} else if p.Parent != tc.caller || p.Unservable != nil {
					t.Errorf("%s is signed by %+v, want %+v (%v)", name, p.Parent, tc.caller, p.Unservable)
				}
			}
		})
	}
}

// An ambient profile that leads to a profile of the AWS files has its own region, and
// changes nothing of that one.
func TestAmbientProfileHasItsOwnRegion(t *testing.T) {
	config := "[default]\nregion = us-east-2\nrole_arn = arn:aws:iam::123456789012:role/x\nsource_profile = dev\n" + phoneMFA
	c := catalogOf(t, files{"profiles: { here: { ambient: true, region: eu-west-1 }, there: { ambient: true } }", config, devKeys}, nil)
	for name, want := range map[string]string{"here": "eu-west-1", "there": "us-east-2", "default": "us-east-2"} {
		p := c.get(t, name)
		if p.Region != want || c.sites[name].Region != want || p.Bucket != "123456789012/"+want {
			t.Errorf("%s: %s, %+v, %s", name, p.Region, c.sites[name], p.Bucket)
		}
		if !slices.ContainsFunc(p.Notes, func(n string) bool { return strings.HasSuffix(n, "stsbroker login "+name) }) {
			t.Errorf("%s: %q", name, p.Notes)
		}
	}
}

func TestPartitionOfARegionAndAnARN(t *testing.T) {
	const web, china = "arn:aws:iam::123456789012:role/x", "arn:aws-cn:iam::123456789012:role/x"
	profile := func(arn, region string) string {
		return "\nprofiles: { p: { web_identity: { arn: '" + arn + "', token_file: /t }" + region + " } }"
	}
	inAWS := func(arn, more string) string {
		return "[profile p]\nrole_arn = " + arn + "\nweb_identity_token_file = /t\n" + more
	}
	for _, tc := range []struct {
		name    string
		files   files
		env     map[string]string
		region  string // where it is minted; "" where it is refused
		note    bool
		atStart bool // the refusal stops the start
	}{
		{name: "both of AWS's first", files: files{yaml: profile(web, ", region: eu-west-1")}, region: "eu-west-1"},
		{name: "both of China", files: files{yaml: profile(china, ", region: cn-northwest-1")}, region: "cn-northwest-1"},
		{name: "none", files: files{yaml: profile(china, "")}, region: "cn-north-1"},
		{name: "its own", files: files{yaml: profile(china, ", region: eu-west-1")}, atStart: true},
		{name: "its own, the other way", files: files{yaml: profile(web, ", region: cn-north-1")}, atStart: true},
		{name: "its own, in the AWS files", files: files{config: inAWS(china, "region = eu-west-1\n")}},
		{name: "of the file", files: files{yaml: "sts: { region: eu-central-1 }" + profile(china, "")}, region: "cn-north-1", note: true},
		{name: "of the environment", files: files{yaml: profile(china, "")}, env: map[string]string{"AWS_REGION": "us-gov-west-1"}, region: "cn-north-1", note: true},
		{name: "of the environment, in the AWS files", files: files{config: inAWS(china, "")}, env: map[string]string{"AWS_REGION": "eu-west-1"}, region: "cn-north-1", note: true},
		{name: "an endpoint of the region", files: files{yaml: "sts: { region: eu-central-1, endpoints: { eu-central-1: 'https://sts.example' } }" + profile(china, "")}, region: "eu-central-1"},
		{name: "an endpoint of another", files: files{yaml: "sts: { region: eu-central-1, endpoints: { eu-west-1: 'https://sts.example' } }" + profile(china, "")}, region: "cn-north-1", note: true},
		{name: "an endpoint for all", files: files{yaml: profile(china, ", region: eu-west-1")}, env: map[string]string{"AWS_ENDPOINT_URL_STS": "https://sts.example"}, region: "eu-west-1"},
		{name: "an endpoint of the profile", files: files{config: inAWS(china, "region = eu-west-1\nendpoint_url = https://sts.example\n")}, region: "eu-west-1"},
		{name: "SAML by its provider", files: files{yaml: "profiles: { p: { saml: { principal_arn: 'arn:aws-cn:iam::123456789012:saml-provider/x', assertion_file: /t }, region: eu-west-1 } }"}, atStart: true},
		{name: "SAML that says nothing", files: files{yaml: "profiles: { p: { saml: { assertion_file: /t }, region: cn-north-1 } }"}, region: "cn-north-1"},
		{name: "a root task of China", files: files{yaml: `
keys: { work: { custody: env } }
profiles: { p: { root: { target: "210987654321", task_policy_arn: "arn:aws-cn:iam::aws:policy/root-task/SQSUnlockQueuePolicy", key: work } } }`}, region: "cn-north-1"},
		{name: "ambient", files: files{yaml: "profiles: { p: { ambient: true, region: eu-west-1 } }"}, env: map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "/t", "AWS_ROLE_ARN": china}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := catalogOf(t, tc.files, tc.env)
			p := c.get(t, "p")
			if tc.region == "" {
				if p.Unservable == nil || !strings.Contains(p.Unservable.Error(), "is of the partition ") || p.Minter != nil {
					t.Errorf("%v", p.Unservable)
				}
			} else if p.Unservable != nil || c.sites["p"].Region != tc.region || !strings.HasSuffix(p.Bucket, "/"+tc.region) || p.Region != "" && p.Region != tc.region {
				t.Errorf("%v, %+v, %s, %s", p.Unservable, c.sites["p"], p.Bucket, p.Region)
			}
			if got := slices.ContainsFunc(p.Notes, func(n string) bool { return strings.HasPrefix(n, "its region is ") }); got != tc.note {
				t.Errorf("notes: %q", p.Notes)
			}
			if hasErrors(c.findings) != tc.atStart {
				t.Errorf("findings: %v", c.findings)
			}
		})
	}
}

// notes are what check says of a profile that can be served.
func (c catalog) notes(t *testing.T, name string) string {
	t.Helper()
	p := c.get(t, name)
	if p.Unservable != nil {
		t.Errorf("%s: %v", name, p.Unservable)
	}
	return strings.Join(p.Notes, "\n")
}

func TestRegionsThatAWSHasNot(t *testing.T) {
	const web = "web_identity: { arn: 'arn:aws:iam::123456789012:role/x', token_file: /t }"
	yaml := "sts: { region: venus-2, fallback_regions: [pluto, us-east-1], endpoints: { store: 'https://store.example' } }\n" +
		"profiles: { a: { " + web + ", region: mars-1 }, b: { " + web + ", region: store }, c: { " + web + " }, d: { " + web + ", region: us-gov-west-1 } }"
	yaml = strings.Replace(yaml, ", d: { web_identity: { arn: 'arn:aws:", ", d: { web_identity: { arn: 'arn:aws-us-gov:", 1)
	aws := "[profile e]\nrole_arn = arn:aws:iam::123456789012:role/x\nweb_identity_token_file = /t\nregion = mars-1\n" +
		"[profile f]\nrole_arn = arn:aws:iam::123456789012:role/x\nweb_identity_token_file = /t\nregion = mars-1\nendpoint_url = https://store.example\n"
	c := catalogOf(t, files{yaml, aws, ""}, nil)
	const want = "not the name of a region that AWS has: "
	for name, region := range map[string]string{"a": "mars-1", "b": "", "c": "", "d": "", "e": "mars-1", "f": ""} {
		if notes := c.notes(t, name); strings.Contains(notes, want) != (region != "") || !strings.Contains(notes, region) {
			t.Errorf("%s: %s", name, notes)
		}
	}
	said := 0
	for _, f := range c.findings {
		if strings.Contains(f.Text, want) {
			said++
			if f.Severity != SeverityWarning || f.Text[:strings.Index(f.Text, ";")] != []string{"", "sts.region: " + want + "venus-2", "sts.fallback_regions: " + want + "pluto"}[said] {
				t.Error(f)
			}
		}
	}
	if said != 2 {
		t.Error(c.findings)
	}
	c = catalogOf(t, files{yaml, aws, ""}, map[string]string{"AWS_ENDPOINT_URL_STS": "https://store.example"})
	for _, name := range []string{"a", "e"} {
		if notes := c.notes(t, name); strings.Contains(notes, want) {
			t.Errorf("one endpoint for all, and %s: %s", name, notes)
		}
	}
	for _, region := range []string{"us-east-1", "ap-southeast-7", "us-isob-east-1", "eu-isoe-west-1", "eusc-de-east-1", "mx-central-1", "cn-northwest-1", "us-gov-east-1"} {
		if !awsRegion().MatchString(region) {
			t.Errorf("%s is a region", region)
		}
	}
}

func TestLongRoleOverARole(t *testing.T) {
	role := func(name, more string) string {
		return "[profile " + name + "]\nrole_arn = arn:aws:iam::123456789012:role/x\n" + more
	}
	c := catalogOf(t, files{"", role("first", "source_profile = dev\nduration_seconds = 7200\n") +
		role("second", "source_profile = first\nduration_seconds = 7200\n") + role("hour", "source_profile = first\nduration_seconds = 3600\n") +
		role("machine", "credential_source = Ec2InstanceMetadata\nduration_seconds = 7200\n") +
		role("device", "source_profile = dev\nduration_seconds = 7200\n"+phoneMFA), devKeys}, nil)
	const rest = " is temporary credentials, with which STS grants a role 1h at most; duration_seconds 7200 will be 3600"
	for name, want := range map[string]string{"first": "", "hour": "", "second": "its source first" + rest, "machine": "what signs for it" + rest, "device": "what signs for it" + rest} {
		if notes := c.notes(t, name); strings.Contains(notes, "1h at most") != (want != "") || !strings.Contains(notes, want) {
			t.Errorf("%s: %s", name, notes)
		}
	}
}

func TestSessionNameThatWasChanged(t *testing.T) {
	name := func(profile, session string) string {
		return "[profile " + profile + "]\nrole_arn = arn:aws:iam::123456789012:role/x\nsource_profile = dev\nrole_session_name = " + session + "\n"
	}
	c := catalogOf(t, files{"", name("blank", "Jo Doe") + name("long", strings.Repeat("n", 65)) + name("good", "jo@example"), devKeys}, nil)
	for profile, sent := range map[string]string{"blank": "Jo-Doe:", "long": strings.Repeat("n", 64) + ":", "good": ""} {
		if notes := c.notes(t, profile); strings.Contains(notes, "is sent as") != (sent != "") || sent != "" && !strings.Contains(notes, "its role_session_name is sent as "+sent) {
			t.Errorf("%s: %s", profile, notes)
		}
	}
}

func TestEndpointForEverythingIsNotForSTS(t *testing.T) {
	for _, tc := range []struct {
		env  map[string]string
		want bool
	}{
		{map[string]string{"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, true},
		{map[string]string{"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1"}, false},
		{map[string]string{"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, false},
		{nil, false},
	} {
		c := catalogOf(t, files{}, tc.env)
		found := slices.ContainsFunc(c.findings, func(f Finding) bool {
			return f.Severity == SeverityWarning && strings.HasPrefix(f.String(), "environment: warning: AWS_ENDPOINT_URL is set and not used here; set AWS_ENDPOINT_URL_STS")
		})
		if found != tc.want {
			t.Errorf("%v: %v", tc.env, c.findings)
		}
	}
}

func TestAmbientThatFindsNothing(t *testing.T) {
	const nothing, machine = "nothing in the environment", ", the AWS files or a container gives credentials, and this machine (Ec2InstanceMetadata) does not: "
	for _, tc := range []struct {
		env  map[string]string
		half string
	}{
		{nil, ""},
		{map[string]string{"AWS_ACCESS_KEY_ID": "AKIASCRIPTSCRIPTSCRI"}, " (AWS_ACCESS_KEY_ID is set there, and AWS_SECRET_ACCESS_KEY is not)"},
		{map[string]string{"AWS_SECRET_ACCESS_KEY": "canary"}, " (AWS_SECRET_ACCESS_KEY is set there, and AWS_ACCESS_KEY_ID is not)"},
	} {
		env := map[string]string{"AWS_EC2_METADATA_DISABLED": "true"}
		maps.Copy(env, tc.env)
		p := catalogOf(t, files{yaml: "profiles: { here: { ambient: true } }"}, env).get(t, "here")
		if p.Unservable == nil || !strings.Contains(p.Unservable.Error(), ": profile here: "+nothing+tc.half+machine+"AWS_EC2_METADATA_DISABLED is true") ||
			strings.Contains(p.Unservable.Error(), "credential_source") || strings.Contains(p.Unservable.Error(), "canary") {
			t.Errorf("%v: %v", tc.env, p.Unservable)
		}
		env = map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1"} // nobody is there
		maps.Copy(env, tc.env)
		p = catalogOf(t, files{yaml: "profiles: { here: { ambient: true } }"}, env).get(t, "here")
		if p.Unservable != nil {
			t.Fatal(p.Unservable)
		}
		_, err := p.Minter.Mint(t.Context(), broker.MintInput{})
		if e, ok := errors.AsType[*broker.Error](err); !ok || !strings.HasPrefix(e.Public, nothing+tc.half+machine) || e.Kind != broker.KindUnavailable {
			t.Errorf("%v: %v", tc.env, err)
		}
	}
}

// Profiles of IAM Identity Center know their sign-in, and so does what is over them.
func TestIdentityCenterProfiles(t *testing.T) {
	c := catalogOf(t, files{config: `
[sso-session corp]
sso_region = eu-west-1
sso_start_url = https://corp.awsapps.com/start
[profile admin]
sso_session = corp
sso_account_id = 123456789012
sso_role_name = Admin
[profile over]
role_arn = arn:aws:iam::123456789012:role/over
source_profile = admin
[profile beside]
role_arn = arn:aws:iam::123456789012:role/beside
sso_session = corp
sso_account_id = 123456789012
sso_role_name = Reader
[profile cli]
login_session = arn:aws:iam::123456789012:user/me
`}, nil)
	for _, name := range []string{"admin", "over", "beside"} {
		if p := c.get(t, name); p.Unservable != nil || c.signIns[name].String() != "corp" {
			t.Errorf("%s: sign-in %q, %v", name, c.signIns[name], p.Unservable)
		}
	}
	if p := c.get(t, "admin"); p.SignIn != "corp" || p.Region != "eu-west-1" || p.Action != "GetRoleCredentials" || p.Bucket == "" {
		t.Errorf("%+v", p)
	}
	source := c.get(t, c.get(t, "beside").Parent.Profile)
	if !source.Hidden || source.SignIn != "corp" || source.Minter.Digest() == c.get(t, "admin").Minter.Digest() {
		t.Errorf("what signs for beside: %+v", source)
	}
	if p := c.get(t, "cli"); p.Unservable == nil || !strings.Contains(p.Unservable.Error(), "aws configure export-credentials --profile cli") {
		t.Errorf("login_session: %v", p.Unservable)
	}
}
