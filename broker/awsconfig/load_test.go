package awsconfig

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stsbroker/stsbroker/internal/awsini"
)

// load loads two files with the given contents; C and K stand for their paths
// in what it returns.
func load(t testing.TB, config, credentials string) (*Config, func(string) string) {
	t.Helper()
	dir := t.TempDir()
	f := Files{Config: filepath.Join(dir, "config"), Credentials: filepath.Join(dir, "credentials")}
	for path, content := range map[string]string{f.Config: config, f.Credentials: credentials} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Load(f), strings.NewReplacer(f.Config, "C", f.Credentials, "K").Replace
}

// text writes a profile as one line.
func text(p Profile) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", p.Name, p.Origin)
	if p.Region != "" {
		fmt.Fprintf(&b, " region=%s", p.Region)
	}
	if p.Session != nil {
		b.WriteString(strings.TrimSuffix(" session "+p.Session.MFASerial, " "))
	}
	if r := p.Role; r != nil {
		role := *r
		role.Source.SSO = nil
		b.WriteString(strings.ReplaceAll(fmt.Sprintf(" role %+v", role), " SSO:<nil>", ""))
		if r.Source.SSO != nil {
			fmt.Fprintf(&b, " over %+v", *r.Source.SSO)
		}
	}
	if w := p.WebIdentity; w != nil {
		fmt.Fprintf(&b, " web %+v", *w)
	}
	if s := p.SSO; s != nil {
		fmt.Fprintf(&b, " sso %+v", *s)
	}
	if p.LoginSession != "" {
		fmt.Fprintf(&b, " login %s", p.LoginSession)
	}
	if c := p.Process; c != nil {
		fmt.Fprintf(&b, " process %q", c.Command)
	}
	if p.Endpoint != (Endpoint{}) {
		fmt.Fprintf(&b, " endpoint %+v", p.Endpoint)
	}
	if p.Unservable != nil {
		fmt.Fprintf(&b, " unservable: %v", p.Unservable)
	}
	for _, n := range p.Notes {
		fmt.Fprintf(&b, " note: %s", n)
	}
	return b.String()
}

func texts(list []Profile) []string {
	var out []string
	for _, p := range list {
		out = append(out, text(p))
	}
	return out
}

const (
	keysA = "aws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n"
	noteS = " note: " + noteSession

	serial = "arn:aws:iam::123456789012:mfa/me"

	sso     = "sso_session=s\nsso_account_id=123456789012\nsso_role_name=r\n"
	session = "[sso-session s]\nsso_region=us-east-1\nsso_start_url=https://u/start\n"
	ssoText = "{Session:s StartURL:https://u/start Region:us-east-1 Scopes:[sso:account:access] AccountID:123456789012 RoleName:r}"
)

func TestProfiles(t *testing.T) {
	for name, c := range map[string]struct {
		config, credentials string
		want, settings      []string
	}{
		"static keys in the credentials file": {
			"[default]\nregion = eu-west-1\n[profile y]\n", "[default]\n" + keysA,
			[]string{"default K:1 region=eu-west-1 session" + noteS},
			[]string{"y C:3 unservable: C:3: profile y: it has no credentials: add role_arn with source_profile, aws_access_key_id with aws_secret_access_key, or credential_process"},
		},
		"static keys in the config file": {"[profile x]\n" + keysA, "", []string{"x C:1 session" + noteS}, nil},
		"a role signs with the keys of its source": {
			"[profile r]\nrole_arn = arn:r\nsource_profile = default\nexternal_id = id\nrole_session_name = me\nduration_seconds = 3600\nregion = us-east-1\n", "[default]\n" + keysA,
			[]string{"default K:1 session" + noteS, "r C:1 region=us-east-1 role {ARN:arn:r ExternalID:id SessionName:me Duration:1h0m0s MFASerial: Source:{Key:default Profile: Ambient:}}"}, nil,
		},
		"a chain": {
			"[profile a]\nrole_arn=ra\nsource_profile=b\n[profile b]\nrole_arn=rb\nsource_profile=c\n[profile c]\nrole_arn=rc\nsource_profile=d\n", "[d]\n" + keysA,
			[]string{
				"a C:1 role {ARN:ra ExternalID: SessionName: Duration:0s MFASerial: Source:{Key: Profile:b Ambient:}}",
				"b C:4 role {ARN:rb ExternalID: SessionName: Duration:0s MFASerial: Source:{Key: Profile:c Ambient:}}",
				"c C:7 role {ARN:rc ExternalID: SessionName: Duration:0s MFASerial: Source:{Key:d Profile: Ambient:}}",
				"d K:1 session" + noteS,
			}, nil,
		},
		"a role over its own keys": {
			"[profile a]\nrole_arn=ra\nsource_profile=a\n", "[a]\n" + keysA,
			[]string{"a C:1 role {ARN:ra ExternalID: SessionName: Duration:0s MFASerial: Source:{Key:a Profile: Ambient:}}"}, nil,
		},
		"a role beside keys, without a source": {
			"[profile a]\nrole_arn=ra\n", "[a]\n" + keysA,
			[]string{"a C:1 role {ARN:ra ExternalID: SessionName: Duration:0s MFASerial: Source:{Key:a Profile: Ambient:}} note: " + noteOwnKeys}, nil,
		},
		"a source with keys and a role signs with the keys": {
			"[profile a]\nrole_arn=ra\nsource_profile=b\n[profile b]\nrole_arn=rb\nsource_profile=b\n", "[b]\n" + keysA,
			[]string{
				"a C:1 role {ARN:ra ExternalID: SessionName: Duration:0s MFASerial: Source:{Key:b Profile: Ambient:}} note: the keys of source_profile b sign directly, as in boto3 and the AWS CLI; the Go SDK would first assume the role that it names as well",
				"b C:4 role {ARN:rb ExternalID: SessionName: Duration:0s MFASerial: Source:{Key:b Profile: Ambient:}}",
			}, nil,
		},
		"what looks like a circle ends at keys": {
			"[profile a]\nrole_arn=ra\nsource_profile=b\n" + keysA + "[profile b]\nrole_arn=rb\nsource_profile=a\n", "",
			[]string{
				"a C:1 role {ARN:ra ExternalID: SessionName: Duration:0s MFASerial: Source:{Key: Profile:b Ambient:}}",
				"b C:6 role {ARN:rb ExternalID: SessionName: Duration:0s MFASerial: Source:{Key:a Profile: Ambient:}} note: the keys of source_profile a sign directly, as in boto3 and the AWS CLI; the Go SDK would first assume the role that it names as well",
			}, nil,
		},
		"ambient sources": {
			"[profile a]\nrole_arn=ra\ncredential_source=Environment\n[profile b]\nrole_arn=rb\ncredential_source=Ec2InstanceMetadata\n[profile c]\nrole_arn=rc\ncredential_source=EcsContainer\n[profile d]\nrole_arn=rd\ncredential_source=environment\n", "",
			[]string{
				"a C:1 role {ARN:ra ExternalID: SessionName: Duration:0s MFASerial: Source:{Key: Profile: Ambient:Environment}}",
				"b C:4 role {ARN:rb ExternalID: SessionName: Duration:0s MFASerial: Source:{Key: Profile: Ambient:Ec2InstanceMetadata}}",
				"c C:7 role {ARN:rc ExternalID: SessionName: Duration:0s MFASerial: Source:{Key: Profile: Ambient:EcsContainer}}",
				"d C:10 unservable: C:12: profile d: credential_source is none of Environment, Ec2InstanceMetadata, EcsContainer (in these letters)",
			}, nil,
		},
		"web identity and process, alone and as sources": {
			"[profile w]\nrole_arn=rw\nweb_identity_token_file=/t\nrole_session_name=s\nduration_seconds=900\nmfa_serial=m\n" +
				"[profile p]\ncredential_process = \"/opt/my tool\" --profile \"x\"\nmfa_serial=m\n" +
				"[profile x]\nrole_arn=rx\nsource_profile=w\n[profile y]\nrole_arn=ry\nsource_profile=p\n", "",
			[]string{
				"p C:7 process \"\\\"/opt/my tool\\\" --profile \\\"x\\\"\"",
				"w C:1 web {ARN:rw SessionName:s TokenFile:/t Duration:15m0s} note: " + noteMFA,
				"x C:10 role {ARN:rx ExternalID: SessionName: Duration:0s MFASerial: Source:{Key: Profile:w Ambient:}}",
				"y C:13 role {ARN:ry ExternalID: SessionName: Duration:0s MFASerial: Source:{Key: Profile:p Ambient:}}",
			}, nil,
		},
		"a role with mfa, of a source, of its own keys, of a process": {
			"[profile a]\nrole_arn=ra\nsource_profile=k\nmfa_serial=" + serial + "\n[profile b]\nrole_arn=rb\nmfa_serial=GAHT12345678\n" +
				"[profile c]\nrole_arn=rc\nsource_profile=p\nmfa_serial=" + serial + "\n[profile p]\ncredential_process=c\n" +
				"[profile d]\nrole_arn=rd\nsource_profile=a\n", "[k]\n" + keysA + "[b]\n" + keysA,
			[]string{
				"a C:1 role {ARN:ra ExternalID: SessionName: Duration:0s MFASerial:" + serial + " Source:{Key:k Profile: Ambient:}}",
				"b C:5 role {ARN:rb ExternalID: SessionName: Duration:0s MFASerial:GAHT12345678 Source:{Key:b Profile: Ambient:}} note: " + noteOwnKeys,
				"c C:8 role {ARN:rc ExternalID: SessionName: Duration:0s MFASerial:" + serial + " Source:{Key: Profile:p Ambient:}}",
				"d C:14 role {ARN:rd ExternalID: SessionName: Duration:0s MFASerial: Source:{Key: Profile:a Ambient:}}",
				"k K:1 session" + noteS,
				"p C:12 process \"c\"",
			}, nil,
		},
		"keys with mfa, which a role over them does not inherit": {
			"[profile k]\nmfa_serial = " + serial + "\n[profile r]\nrole_arn=r\nsource_profile=k\n", "[k]\n" + keysA,
			[]string{
				"k K:1 session " + serial + " note: " + noteMFAKeys,
				"r C:3 role {ARN:r ExternalID: SessionName: Duration:0s MFASerial: Source:{Key:k Profile: Ambient:}}",
			}, nil,
		},
		"settings of the endpoint, of those that call STS, each its own": {
			"[default]\nuse_fips_endpoint=true\n[profile k]\nuse_fips_endpoint = TRUE\nuse_dualstack_endpoint = False\n" +
				"[profile r]\nrole_arn=r\nsource_profile=k\nsts_regional_endpoints=Legacy\nca_bundle=/c\n" +
				"[profile p]\ncredential_process=c\nuse_fips_endpoint=maybe\nservices=none\nca_bundle=/c\n", "[k]\n" + keysA,
			[]string{
				"k K:1 session endpoint {Legacy:unset FIPS:on DualStack:off IgnoreURLs:unset URL: URLPlace:}" + noteS,
				"p C:11 process \"c\"",
				"r C:6 role {ARN:r ExternalID: SessionName: Duration:0s MFASerial: Source:{Key:k Profile: Ambient:}} endpoint {Legacy:on FIPS:unset DualStack:unset IgnoreURLs:unset URL: URLPlace:} note: " + noteCABundle,
			},
			[]string{"default C:1 unservable: C:1: profile default: it has no credentials: add role_arn with source_profile, aws_access_key_id with aws_secret_access_key, or credential_process"},
		},
		"an endpoint for sts comes before one for all, and ignored ones are kept": {
			"[services s]\ns3 =\n  endpoint_url = https://s3\nsts =\n  endpoint_url = https://one\n  endpoint_url = https://sts\n[services o]\ns3 =\n  endpoint_url = https://s3\n" +
				"[profile a]\nservices=s\nendpoint_url = https://all\nignore_configured_endpoint_urls = true\n[profile b]\nservices=o\nendpoint_url = https://all\n[profile c]\nservices = \nendpoint_url =\n",
			"[a]\n" + keysA + "[b]\n" + keysA + "[c]\n" + keysA,
			[]string{
				"a K:1 session endpoint {Legacy:unset FIPS:unset DualStack:unset IgnoreURLs:on URL:https://sts URLPlace:C:6}" + noteS,
				"b K:4 session endpoint {Legacy:unset FIPS:unset DualStack:unset IgnoreURLs:unset URL:https://all URLPlace:C:16}" + noteS,
				"c K:7 session" + noteS,
			}, nil,
		},
		"keys come before a process, and before web identity": {
			"[profile p]\ncredential_process=c\n[profile w]\nrole_arn=rw\nweb_identity_token_file=/t\n", "[p]\n" + keysA + "[w]\n" + keysA,
			[]string{
				"p K:1 session note: its long-term keys come before its other ways to get credentials (credential_process), as in the Go SDK; other SDKs may choose differently" + noteS,
				"w C:3 role {ARN:rw ExternalID: SessionName: Duration:0s MFASerial: Source:{Key:w Profile: Ambient:}} note: its long-term keys come before its other ways to get credentials (web_identity_token_file), as in the Go SDK; other SDKs may choose differently note: " + noteOwnKeys,
			}, nil,
		},
		"one broken profile does not stop the others": {
			"[profile a]\nword\n[profile b]\ncredential_process=c\n", "",
			[]string{"a C:1 unservable: C:2: profile a: the line is not a section header, a key = value or a comment", "b C:3 process \"c\""}, nil,
		},
		"an unservable profile keeps its region": {
			"[profile a]\nregion = r\nsso_session = s\n", "",
			[]string{"a C:1 region=r unservable: C:3: profile a: sso_session s does not exist: correct the name, or add the section to the config file"}, nil,
		},
		"sso, of a session and without": {
			"[profile a]\nsso_session = s\nsso_account_id = 012345678901\nsso_role_name = Dev\nregion = eu-west-1\n[sso-session s]\nsso_region = us-east-1\nsso_start_url = https://d.awsapps.com/start # c\n" +
				"sso_registration_scopes = sso:account:access, codewhisperer:completions,\n[profile b]\nsso_start_url = https://d.awsapps.com/start\nsso_region = us-east-1\nsso_account_id = 012345678901\nsso_role_name = Dev\n" +
				"[profile c]\nsso_session = my team\nsso_region = r\nsso_start_url = https://x\nsso_role_name = Ops\nsso_account_id = 123456789012\n[sso-session my team]\nsso_start_url = https://x\nsso_region = r\n", "",
			[]string{
				"a C:1 region=eu-west-1 sso {Session:s StartURL:https://d.awsapps.com/start Region:us-east-1 Scopes:[sso:account:access codewhisperer:completions] AccountID:012345678901 RoleName:Dev}",
				"b C:10 sso {Session: StartURL:https://d.awsapps.com/start Region:us-east-1 Scopes:[] AccountID:012345678901 RoleName:Dev}",
				"c C:15 sso {Session:my team StartURL:https://x Region:r Scopes:[sso:account:access] AccountID:123456789012 RoleName:Ops}",
			}, nil,
		},
		"roles over sso: of another profile, and of their own lines": {
			"[profile a]\n" + sso + "[profile b]\nrole_arn=rb\nsource_profile=a\n[profile c]\nrole_arn=rc\n" + sso + "[profile d]\nrole_arn=rd\nsource_profile=d\n" + sso + session, "",
			[]string{
				"a C:1 sso " + ssoText,
				"b C:5 role {ARN:rb ExternalID: SessionName: Duration:0s MFASerial: Source:{Key: Profile:a Ambient:}}",
				"c C:8 role {ARN:rc ExternalID: SessionName: Duration:0s MFASerial: Source:{Key: Profile: Ambient:}} over " + ssoText + " note: " + noteOwnSSO,
				"d C:13 role {ARN:rd ExternalID: SessionName: Duration:0s MFASerial: Source:{Key: Profile: Ambient:}} over " + ssoText + " note: source_profile comes before its other ways to get credentials (sso_*), as in the Go SDK; other SDKs may choose differently",
			}, nil,
		},
		"what comes before sso, and what after": {
			"[profile e]\nrole_arn=r\ncredential_source=Environment\n" + sso + "[profile k]\n" + sso + "[profile l]\nlogin_session=l\ncredential_process=c\n[profile p]\nlogin_session=l\ncredential_process=c\n" + sso +
				"[profile s]\nrole_arn=r\nsource_profile=k\n" + sso + "[profile w]\nrole_arn=r\nweb_identity_token_file=t\n" + sso + session, "[k]\n" + keysA,
			[]string{
				"e C:1 role {ARN:r ExternalID: SessionName: Duration:0s MFASerial: Source:{Key: Profile: Ambient:Environment}} note: credential_source comes before its other ways to get credentials (sso_*), as in the Go SDK; other SDKs may choose differently",
				"k K:1 session note: its long-term keys come before its other ways to get credentials (sso_*), as in the Go SDK; other SDKs may choose differently" + noteS,
				"l C:11 login l note: login_session comes before its other ways to get credentials (credential_process), as in the Go SDK; other SDKs may choose differently",
				"p C:14 sso " + ssoText + " note: IAM Identity Center comes before its other ways to get credentials (credential_process, login_session), as in the Go SDK; other SDKs may choose differently",
				"s C:20 role {ARN:r ExternalID: SessionName: Duration:0s MFASerial: Source:{Key:k Profile: Ambient:}} note: source_profile comes before its other ways to get credentials (sso_*), as in the Go SDK; other SDKs may choose differently",
				"w C:26 web {ARN:r SessionName: TokenFile:t Duration:0s} note: web_identity_token_file comes before its other ways to get credentials (sso_*), as in the Go SDK; other SDKs may choose differently",
			}, nil,
		},
		"a session of sso alone is for a token, and other credentials count": {
			"[profile a]\nsso_session=s\nregion=r\n[profile b]\nsso_session=s\ncredential_process=c\n" + session, "",
			[]string{"b C:4 process \"c\""},
			[]string{"a C:1 region=r unservable: C:2: profile a: sso_session without sso_account_id and sso_role_name is for programs that want a token of the sign-in, and gives no credentials: add both lines if it should"},
		},
		"login sessions, and roles over them": {
			"[profile a]\nlogin_session = arn:aws:iam::123456789012:user/me\n[profile b]\nrole_arn=rb\nsource_profile=a\nmfa_serial=" + serial + "\n", "",
			[]string{
				"a C:1 login arn:aws:iam::123456789012:user/me",
				"b C:3 role {ARN:rb ExternalID: SessionName: Duration:0s MFASerial:" + serial + " Source:{Key: Profile:a Ambient:}}",
			}, nil,
		},
		"a region that is none": {
			"[profile a]\nregion = a b;c\ncredential_process=c\n[profile b]\nregion =\ncredential_process=c\n", "",
			[]string{"a C:1 unservable: C:2: profile a: the value of region is not the name of a region: correct it", "b C:4 process \"c\""}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, short := load(t, c.config, c.credentials)
			for _, x := range []struct {
				what      string
				got, want []string
			}{{"profiles", texts(cfg.Profiles), c.want}, {"settings", texts(cfg.Settings), c.settings}} {
				got, want := short(strings.Join(x.got, "\n")), strings.Join(x.want, "\n")
				if got != want {
					t.Errorf("%s: got\n%s\nwant\n%s", x.what, got, want)
				}
			}
		})
	}
}

// TestUnservable holds the words of each reason: file, line, profile, cure.
func TestUnservable(t *testing.T) {
	const role = "[profile x]\nrole_arn = r\n"
	const noExternalID = "external_id is not one: it has 2 to 1224 letters, digits and _ + = , . @ : / -"
	const noSerial = "mfa_serial is not one of an MFA device: copy the identifier of yours from the IAM console (arn:aws:iam::ACCOUNT:mfa/NAME, or the number on a hardware token)"
	for name, c := range map[string]struct{ config, credentials, profile, want string }{
		"mfa that is no serial":  {role + "source_profile=k\nmfa_serial=arn:mfa me\n", "[k]\n" + keysA, "x", "C:4: profile x: " + noSerial},
		"mfa that is too short":  {role + "source_profile=k\nmfa_serial=12345678\n", "[k]\n" + keysA, "x", "C:4: profile x: " + noSerial},
		"mfa that is too long":   {role + "source_profile=k\nmfa_serial=" + strings.Repeat("m", 257) + "\n", "[k]\n" + keysA, "x", "C:4: profile x: " + noSerial},
		"mfa of an account":      {role + "source_profile=k\nmfa_serial=arn:aws:iam::12345678901:mfa/me\n", "[k]\n" + keysA, "x", "C:4: profile x: " + noSerial},
		"mfa without a name":     {role + "source_profile=k\nmfa_serial=arn:aws:iam::123456789012:mfa/\n", "[k]\n" + keysA, "x", "C:4: profile x: " + noSerial},
		"mfa that is a user":     {role + "source_profile=k\nmfa_serial=arn:aws:iam::123456789012:user/me\n", "[k]\n" + keysA, "x", "C:4: profile x: " + noSerial},
		"external id of a blank": {role + "source_profile=k\nexternal_id=hunter 2\n", "[k]\n" + keysA, "x", "C:4: profile x: " + noExternalID},
		"short external id":      {role + "credential_source=Environment\nexternal_id=h\n", "", "x", "C:4: profile x: " + noExternalID},
		"long external id":       {role + "source_profile=k\nexternal_id=" + strings.Repeat("h", 1225) + "\n", "[k]\n" + keysA, "x", "C:4: profile x: " + noExternalID},
		"empty mfa":              {role + "source_profile=k\nmfa_serial=\n", "[k]\n" + keysA, "x", "C:4: profile x: mfa_serial has no value: add one, or remove the line"},
		"mfa of an ambient role": {role + "credential_source=Environment\nmfa_serial=" + serial + "\n", "", "x", "C:4: profile x: mfa_serial cannot be used with credential_source, behind which is no user with an MFA device: name a source_profile that has the keys of the user, or remove the line"},
		"mfa of keys":            {"[profile x]\nmfa_serial=m\n", "[x]\n" + keysA, "x", "C:2: profile x: " + noSerial},
		"mfa of a source's keys": {role + "source_profile=k\n[profile k]\nmfa_serial=m\n", "[k]\n" + keysA, "x", "C:3: profile x: its source_profile cannot be served: C:5: profile k: " + noSerial},
		"mfa over a role":        {role + "mfa_serial=" + serial + "\nsource_profile=y\n[profile y]\nrole_arn=ry\nsource_profile=k\nmfa_serial=" + serial + "\n", "[k]\n" + keysA, "x", "C:3: profile x: mfa_serial cannot be used here: source_profile y is a role, which no MFA device belongs to; move the line to the profile in the chain that signs with the keys of the user"},
		"mfa over web identity":  {role + "mfa_serial=" + serial + "\nsource_profile=y\n[profile y]\nrole_arn=ry\nweb_identity_token_file=/t\n", "", "x", "C:3: profile x: mfa_serial cannot be used here: source_profile y is a role, which no MFA device belongs to; move the line to the profile in the chain that signs with the keys of the user"},
		"above mfa over a role":  {role + "source_profile=y\n[profile y]\nrole_arn=ry\nsource_profile=z\nmfa_serial=" + serial + "\n[profile z]\nrole_arn=rz\nsource_profile=k\n", "[k]\n" + keysA, "x", "C:3: profile x: its source_profile cannot be served: C:7: profile y: mfa_serial cannot be used here: source_profile z is a role, which no MFA device belongs to; move the line to the profile in the chain that signs with the keys of the user"},
		"regional endpoints":     {role + "credential_source=Environment\nsts_regional_endpoints=global\n", "", "x", "C:4: profile x: sts_regional_endpoints is neither legacy nor regional: correct it, or remove the line"},
		"fips":                   {"[profile x]\nuse_fips_endpoint=yes\n", "[x]\n" + keysA, "x", "C:2: profile x: use_fips_endpoint is neither true nor false: correct it, or remove the line"},
		"empty dualstack":        {"", "[x]\nuse_dualstack_endpoint=\n" + keysA, "x", "K:2: profile x: use_dualstack_endpoint is neither true nor false: correct it, or remove the line"},
		"ignored urls":           {role + "web_identity_token_file=/t\nignore_configured_endpoint_urls=1\n", "", "x", "C:4: profile x: ignore_configured_endpoint_urls is neither true nor false: correct it, or remove the line"},
		"missing services":       {role + "credential_source=Environment\nservices=s\n[profile s]\n", "[s]\nregion=r\n", "x", "C:4: profile x: services s does not exist: correct the name, or add the section"},
		"services with bad line": {role + "credential_source=Environment\nservices=s\n[services s]\nword\n", "", "x", "C:6: profile x: the line is not a section header, a key = value or a comment"},
		"half of old sso":        {"[profile x]\nsso_start_url=u\nsso_region=r\n", "", "x", "C:3: profile x: sso_region is here, but sso_account_id is missing, which a profile without sso_session needs: add it"},
		"old sso without region": {"[profile x]\nsso_start_url=https://u\nsso_account_id=123456789012\nsso_role_name=r\n", "", "x", "C:3: profile x: sso_account_id is here, but sso_region is missing, which a profile without sso_session needs: add it"},
		"old sso without url":    {"[profile x]\nsso_region=r\nsso_account_id=123456789012\nsso_role_name=r\n", "", "x", "C:3: profile x: sso_account_id is here, but sso_start_url is missing, which a profile without sso_session needs: add it"},
		"sso without account":    {"[profile x]\nsso_session=s\nsso_role_name=r\n" + session, "", "x", "C:2: profile x: sso_session is here, but sso_account_id is missing, which a profile needs: add it"},
		"sso without role":       {"[profile x]\nsso_session=s\nsso_account_id=123456789012\n" + session, "", "x", "C:2: profile x: sso_session is here, but sso_role_name is missing, which a profile needs: add it"},
		"sso of no account":      {"[profile x]\nsso_account_id=12345\n" + strings.Replace(sso, "sso_account_id=123456789012", "", 1) + session, "", "x", "C:2: profile x: sso_account_id is not the number of an account: it has 12 digits, zeros in front included"},
		"sso without section":    {"[profile x]\n" + sso, "[sso-session s]\nsso_region=r\nsso_start_url=https://u\n", "x", "C:2: profile x: sso_session s does not exist: correct the name, or add the section to the config file"},
		"keys, no section":       {"[profile x]\nsso_session=s\n", "[x]\n" + keysA, "x", "C:2: profile x: sso_session s does not exist: correct the name, or add the section to the config file"},
		"section without url":    {"[profile x]\n" + sso + "sso_start_url=https://u\n[sso-session s]\nsso_region=r\n", "", "x", "C:2: profile x: [sso-session s] (line 6) has no sso_start_url: add it there"},
		"section without region": {"[profile x]\n" + sso + "[sso-session s]\nsso_start_url=https://u\n", "", "x", "C:2: profile x: [sso-session s] (line 5) has no sso_region: add it there"},
		"section, empty region":  {"[profile x]\n" + sso + "[sso-session s]\nsso_start_url=https://u\nsso_region=\n", "", "x", "C:7: profile x: sso_region has no value: add one, or remove the line"},
		"section, bad region":    {"[profile x]\n" + sso + "[sso-session s]\nsso_start_url=https://u\nsso_region=a b\n", "", "x", "C:7: profile x: sso_region is not the name of a region: correct it"},
		"section, bad url":       {"[profile x]\n" + sso + "[sso-session s]\nsso_start_url=http://u/start\nsso_region=r\n", "", "x", "C:6: profile x: sso_start_url is not an address: copy it from the access portal (https://NAME.awsapps.com/start)"},
		"section with bad line":  {"[profile x]\n" + sso + session + "word\n", "", "x", "C:8: profile x: the line is not a section header, a key = value or a comment"},
		"section, other region":  {"[profile x]\n" + sso + "sso_region=eu-west-1\n" + session, "", "x", "C:5: profile x: sso_region is not what [sso-session s] says at C:7: make them the same, or remove the line here"},
		"section, other url":     {"[profile x]\n" + sso + "sso_start_url=https://v\n" + session, "", "x", "C:5: profile x: sso_start_url is not what [sso-session s] says at C:8: make them the same, or remove the line here"},
		"section, other scopes":  {"[profile x]\n" + sso + "sso_registration_scopes=a\n" + session + "sso_registration_scopes=b\n", "", "x", "C:5: profile x: sso_registration_scopes is not what [sso-session s] says at C:9: make them the same, or remove the line here"},
		"role over a token":      {role + "source_profile=y\n[profile y]\nsso_session=s\n" + session, "", "x", "C:3: profile x: its source_profile cannot be served: C:5: profile y: sso_session without sso_account_id and sso_role_name is for programs that want a token of the sign-in, and gives no credentials: add both lines if it should"},
		"role over its token":    {role + "source_profile=x\nsso_session=s\n" + session, "", "x", "C:4: profile x: sso_session without sso_account_id and sso_role_name is for programs that want a token of the sign-in, and gives no credentials: add both lines if it should"},
		"mfa over sso":           {role + "source_profile=y\nmfa_serial=" + serial + "\n[profile y]\n" + sso + session, "", "x", "C:4: profile x: mfa_serial cannot be used here: source_profile y is a role, which no MFA device belongs to; move the line to the profile in the chain that signs with the keys of the user"},
		"mfa over own sso":       {role + "mfa_serial=" + serial + "\n" + sso + session, "", "x", "C:3: profile x: mfa_serial cannot be used here: what the sso_ lines give is a role, which no MFA device belongs to; remove the line"},
		"unknown sso key":        {"[profile x]\nsso_anything=u\n", "", "x", "C:2: profile x: sso_* is none of sso_session, sso_account_id, sso_role_name, sso_region, sso_start_url, sso_registration_scopes: correct it, or remove the line"},
		"role beside a login":    {role + "login_session=u\n", "", "x", "C:2: profile x: role_arn beside login_session is not supported: give the sign-in a profile of its own, and name that as source_profile here"},
		"empty login session":    {"[profile x]\nlogin_session=\n", "", "x", "C:2: profile x: login_session has no value: add one, or remove the line"},
		"both sources":           {role + "source_profile=k\ncredential_source=Environment\n", "[k]\n" + keysA, "x", "C:4: profile x: source_profile and credential_source exclude each other: remove one of them"},
		"source and process":     {role + "source_profile=k\ncredential_process=c\n", "[k]\n" + keysA, "x", "C:4: profile x: source_profile and credential_process exclude each other: remove one of them"},
		"no source":              {role, "", "x", "C:2: profile x: role_arn has no source of credentials: add source_profile, credential_source or web_identity_token_file"},
		"role beside a process":  {role + "credential_process=c\n", "", "x", "C:2: profile x: role_arn beside credential_process is not supported: give the process a profile of its own, and name that as source_profile here"},
		"source without role":    {"[profile x]\nsource_profile=k\n", "[k]\n" + keysA, "x", "C:2: profile x: source_profile needs a role_arn beside it: add one, or remove the line"},
		"token without role":     {"[profile x]\nweb_identity_token_file=/t\n", "", "x", "C:2: profile x: web_identity_token_file needs a role_arn beside it: add one, or remove the line"},
		"missing source":         {role + "source_profile=nope\n", "", "x", "C:3: profile x: source_profile nope does not exist: correct the name, or add the profile"},
		"source of settings":     {role + "source_profile=s\n[profile s]\nregion=r\n", "", "x", "C:3: profile x: its source_profile cannot be served: C:4: profile s: it has no credentials: add role_arn with source_profile, aws_access_key_id with aws_secret_access_key, or credential_process"},
		"itself without keys":    {role + "source_profile=x\n", "", "x", "C:3: profile x: source_profile names the profile itself, which has no keys of its own: name another profile, or add aws_access_key_id and aws_secret_access_key"},
		"circle":                 {role + "source_profile=y\n[profile y]\nrole_arn=ry\nsource_profile=z\n[profile z]\nrole_arn=rz\nsource_profile=x\n", "", "y", "C:6: profile y: its sources go round in a circle (x → y → z → x): one of them needs credentials of its own"},
		"source in a circle":     {"[profile a]\nrole_arn=ra\nsource_profile=x\n" + role + "source_profile=y\n[profile y]\nrole_arn=ry\nsource_profile=x\n", "", "a", "C:3: profile a: its source_profile cannot be served: C:6: profile x: its sources go round in a circle (x → y → x): one of them needs credentials of its own"},
		"source unservable far":  {role + "source_profile=y\n[profile y]\nrole_arn=ry\nsource_profile=z\n[profile z]\nrole_arn=rz\nsource_profile=w\n[profile w]\nsso_session=l\n", "", "x", "C:3: profile x: its source_profile y leads to a profile that cannot be served: C:11: profile w: sso_session l does not exist: correct the name, or add the section to the config file"},
		"duration no number":     {role + "source_profile=k\nduration_seconds=1h\n", "[k]\n" + keysA, "x", "C:4: profile x: duration_seconds is not a whole number of seconds"},
		"duration negative":      {role + "source_profile=k\nduration_seconds=-900\n", "[k]\n" + keysA, "x", "C:4: profile x: duration_seconds is not a whole number of seconds"},
		"duration too short":     {role + "source_profile=k\nduration_seconds=899\n", "[k]\n" + keysA, "x", "C:4: profile x: duration_seconds is out of range: STS takes 900 to 43200"},
		"duration too long":      {role + "source_profile=k\nduration_seconds=43201\n", "[k]\n" + keysA, "x", "C:4: profile x: duration_seconds is out of range: STS takes 900 to 43200"},
		"half a pair":            {"", "[x]\naws_access_key_id=A\n", "x", "K:2: profile x: aws_access_key_id is here, but aws_secret_access_key is missing from the section: add it, or remove this line"},
		"the other half":         {"", "[x]\naws_secret_access_key=S\n", "x", "K:2: profile x: aws_secret_access_key is here, but aws_access_key_id is missing from the section: add it, or remove this line"},
		"source of half a pair":  {role + "source_profile=k\n", "[k]\naws_access_key_id=A\n", "x", "C:3: profile x: its source_profile cannot sign: K:2: profile k: aws_access_key_id is here, but aws_secret_access_key is missing from the section: add it, or remove this line"},
		"temporary keys":         {"", "[x]\n" + keysA + "aws_session_token=T\n", "x", "K:4: profile x: its keys are temporary (aws_session_token), cannot mint others, and nothing says when they expire: put long-term keys there, or name the profile that they came from"},
		"source of temporary":    {role + "source_profile=k\n", "[k]\n" + keysA + "aws_session_token=T\n", "x", "C:3: profile x: its source_profile cannot sign: K:4: profile k: its keys are temporary (aws_session_token), cannot mint others, and nothing says when they expire: put long-term keys there, or name the profile that they came from"},
		"own temporary keys":     {role + "source_profile=x\n", "[x]\n" + keysA + "aws_session_token=T\n", "x", "K:4: profile x: its keys are temporary (aws_session_token), cannot mint others, and nothing says when they expire: put long-term keys there, or name the profile that they came from"},
		"a token alone":          {"", "[x]\naws_session_token=T\n", "x", "K:2: profile x: aws_session_token is here without keys: remove the line"},
		"empty key id":           {"", "[x]\naws_access_key_id=\naws_secret_access_key=S\n", "x", "K:2: profile x: aws_access_key_id has no value: add one, or remove the line"},
		"empty role":             {"[profile x]\nrole_arn=\nsource_profile=k\n", "", "x", "C:2: profile x: role_arn has no value: add one, or remove the line"},
		"empty sso key":          {"[profile x]\nsso_wJalrXUtnFEMI=\n", "", "x", "C:2: profile x: sso_* has no value: add one, or remove the line"},
		"value in two lines":     {"[profile x]\nrole_arn=a\n  b\nsource_profile=k\n", "", "x", "C:2: profile x: the value of role_arn goes on in the next line: write it in one, or take the blanks off the line that follows"},
		"dotted name":            {"[profile ../x]\ncredential_process=c\n", "", "../x", "C:1: profile ../x: the name is not one that can be asked for: it may have up to 128 printable characters, no quotes, and no empty or dotted parts between slashes; rename it"},
		"empty name":             {"[profile \"\"]\ncredential_process=c\n", "", "", "C:1: profile : the name is not one that can be asked for: it may have up to 128 printable characters, no quotes, and no empty or dotted parts between slashes; rename it"},
		"source with bad line":   {role + "source_profile=k\n", "[k]\n" + keysA + "word\n", "x", "C:3: profile x: its source_profile cannot sign: K:4: profile k: the line is not a section header, a key = value or a comment"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, short := load(t, c.config, c.credentials)
			all := append(cfg.Profiles, cfg.Settings...)
			i := slices.IndexFunc(all, func(p Profile) bool { return p.Name == c.profile })
			if i < 0 {
				t.Fatalf("no profile %q in %q", c.profile, texts(all))
			}
			p := all[i]
			if p.Unservable == nil {
				t.Fatalf("served: %s", text(p))
			}
			if got := short(p.Unservable.Error()); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			if p.Session != nil || p.Role != nil || p.WebIdentity != nil || p.SSO != nil || p.LoginSession != "" || p.Process != nil || p.Notes != nil {
				t.Errorf("unservable, and yet %s", text(p))
			}
		})
	}
}

func TestFaults(t *testing.T) {
	cfg, short := load(t, "a = 1\n[x]\n[profile a]\nword\ncredential_process=c\n[bad\n", "[profile y]\n[z]\naws_access_key_id=A\n")
	var got []string
	for _, f := range cfg.Faults {
		got = append(got, short(f.String()))
	}
	want := []string{
		"C:1: nothing but comments may come before the first section header; the lines up to it are skipped",
		"C:2: the section is ignored, as AWS SDKs do: in the config file a profile is written [profile x]",
		"C:4: the line is not a section header, a key = value or a comment",
		"C:6: not a section header that can be read: write [profile NAME]; the lines up to the next header are skipped",
		"K:1: the section is ignored, as AWS SDKs do: in the credentials file a profile is written [NAME], without \"profile\"",
		"K:3: aws_access_key_id is here, but aws_secret_access_key is missing from the section: add it, or remove this line",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestFilesThatAreNotThere(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []Files{{}, {Config: filepath.Join(dir, "no"), Credentials: filepath.Join(dir, "no", "no")}, {Config: os.DevNull, Credentials: os.DevNull}} {
		if c := Load(f); len(c.Profiles)+len(c.Settings)+len(c.Faults) > 0 || c.DefaultHasCredentials() {
			t.Errorf("%v: %+v; want nothing", f, c)
		}
	}
}

// A file that is there and cannot be read counts for what may stand in it.
func TestUnreadableFile(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "config")
	if err := os.WriteFile(config, []byte("[default]\nregion=r\n[profile x]\nrole_arn=a\nsource_profile=k\n[profile p]\ncredential_process=c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Load(Files{Config: config, Credentials: dir}) // a folder cannot be read by root either
	fault := dir + ": the file cannot be read: not a regular file; profiles that stand in it are missing"
	if len(cfg.Faults) != 1 || cfg.Faults[0].String() != fault {
		t.Errorf("faults %v, want %s", cfg.Faults, fault)
	}
	want := []string{
		"default C:1 region=r unservable: C:1: profile default: it has no credentials: add role_arn with source_profile, aws_access_key_id with aws_secret_access_key, or credential_process (" + fault + ")",
		"p C:6 process \"c\" note: settings of it may be missing (" + fault + ")",
		"x C:3 unservable: C:5: profile x: source_profile k does not exist: correct the name, or add the profile (" + fault + ")",
	}
	var got []string
	for _, s := range texts(cfg.Profiles) {
		got = append(got, strings.ReplaceAll(s, config, "C"))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if cfg.DefaultRegion != "r" || len(cfg.Settings) != 0 {
		t.Errorf("default region %q, settings %v", cfg.DefaultRegion, cfg.Settings)
	}
}

func TestDefaultFiles(t *testing.T) {
	home := filepath.Join(string(filepath.Separator)+"home", "me")
	for name, c := range map[string]struct {
		env        map[string]string
		home       string
		wantConfig string
		wantKeys   string
	}{
		"no variables": {nil, home, filepath.Join(home, ".aws", "config"), filepath.Join(home, ".aws", "credentials")},
		"variables":    {map[string]string{"AWS_CONFIG_FILE": "c", "AWS_SHARED_CREDENTIALS_FILE": "/k"}, home, "c", "/k"},
		"tilde":        {map[string]string{"AWS_CONFIG_FILE": "~/c", "AWS_SHARED_CREDENTIALS_FILE": "~x/k"}, home, filepath.Join(home, "c"), "~x/k"},
		"no home":      {map[string]string{"AWS_CONFIG_FILE": "~/c"}, "", "~/c", ""},
	} {
		got := DefaultFiles(func(k string) string { return c.env[k] }, c.home)
		if want := (Files{c.wantConfig, c.wantKeys}); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestDefaultHasCredentials(t *testing.T) {
	for _, key := range []string{"aws_access_key_id", "aws_secret_access_key", "aws_session_token", "role_arn", "source_profile", "credential_process", "web_identity_token_file", "sso_session", "sso_account_id", "login_session"} {
		for _, header := range []string{"[default]", "[profile default]", "[DEFAULT]"} {
			if c, _ := load(t, header+"\n"+key+" = x\n", ""); !c.DefaultHasCredentials() {
				t.Errorf("%s %s is not seen", header, key)
			}
		}
		if c, _ := load(t, "", "[default]\n"+key+" = x\n"); !c.DefaultHasCredentials() {
			t.Errorf("%s in the credentials file is not seen", key)
		}
	}
	if c, _ := load(t, "[default]\nregion = r\ns3 =\n  a = b\n[profile x]\ncredential_process = c\n", "[x]\n"+keysA); c.DefaultHasCredentials() {
		t.Error("settings of [default], or keys of others, are taken for credentials of the default profile")
	}
}

// Whatever a secret is mistaken for, no message holds it.
func TestMessagesHoldNoSecret(t *testing.T) {
	const secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	for _, line := range []string{
		"source_profile", "credential_source", "credential_process", "role_arn", "duration_seconds", "region", "mfa_serial", "external_id", "role_session_name",
		"web_identity_token_file", "sso_session", "sso_account_id", "sso_role_name", "sso_region", "sso_start_url", "sso_registration_scopes", "sso_other", "login_session", "aws_access_key_id", "aws_secret_access_key", "aws_session_token",
		"sts_regional_endpoints", "use_fips_endpoint", "use_dualstack_endpoint", "ignore_configured_endpoint_urls", "endpoint_url", "services", "ca_bundle",
	} {
		for _, before := range []string{"", "role_arn = r\n", keysA, "role_arn = r\nsource_profile = x\n", sso, session} {
			cfg, _ := load(t, "[profile x]\n"+before+line+" = "+secret+"\n"+session+"[profile z]\n"+sso+"[profile y]\n"+secret+"\n"+secret+" =\n["+secret+"\n["+secret+"]\n", "[x]\n"+line+"\n")
			for _, f := range cfg.Faults {
				if strings.Contains(f.String(), secret) {
					t.Errorf("%s: a fault holds the secret: %v", line, f)
				}
			}
			for _, p := range append(cfg.Profiles, cfg.Settings...) {
				if p.Unservable != nil && strings.Contains(p.Unservable.Error(), secret) || strings.Contains(strings.Join(p.Notes, " "), secret) {
					t.Errorf("%s: a reason holds the secret: %s", line, text(p))
				}
			}
		}
	}
}

// A chain as long as a file can hold is settled in linear time, and its reasons
// do not grow with it.
func TestLongChain(t *testing.T) {
	var b strings.Builder
	n := 0
	for ; b.Len() < awsini.MaxSize-100; n++ {
		fmt.Fprintf(&b, "[profile p%d]\nrole_arn=r\nsource_profile=p%d\n", n, n+1)
	}
	cfg, _ := load(t, b.String(), "")
	if len(cfg.Profiles) != n {
		t.Fatalf("%d profiles of %d", len(cfg.Profiles), n)
	}
	for _, p := range cfg.Profiles {
		if p.Unservable == nil || len(p.Unservable.Error()) > 1000 {
			t.Fatalf("%s", text(p))
		}
	}
}

func TestSerialsAndExternalIDs(t *testing.T) {
	for s, want := range map[string]bool{
		serial: true, "arn:aws-us-gov:iam::123456789012:mfa/team/me@example.com": true, "GAHT12345678": true, "arnold/12345": true,
		"arn:aws:iam::123456789012:mfa/a/": false, "arn:aws:iam::123456789012:mfa": false, "arn:aws:sts::123456789012:mfa/me": false,
		"arn::iam::123456789012:mfa/me": false, "arn:aws:iam:eu-west-1:123456789012:mfa/me": false, "arn:aws:iam::123456789012:mfa/a:b": false,
		"arn:aws:iam::12345678901x:mfa/me": false, "12345678": false, "123456789é": false,
	} {
		if ValidSerial(s) != want {
			t.Errorf("serial %q: %v", s, !want)
		}
	}
	for s, want := range map[string]bool{"ab": true, "a": false, "a b": false, "_+=,.@:/-": true, strings.Repeat("a", 1224): true, strings.Repeat("a", 1225): false} {
		if ValidExternalID(s) != want {
			t.Errorf("external id %.20q: %v", s, !want)
		}
	}
}
