package awsconfig

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/stsbroker/stsbroker/internal/awsini"
)

// The meaning of the files is the AWS SDK's: these tests read the same files
// with it and with this package, and compare profile by profile.

// onPurpose are the reasons for which this package refuses what the SDK takes:
// each would mean credentials other than those that the person had in mind, or
// a step that is not supported. With any other reason, the SDK refuses too.
var onPurpose = []string{
	"is not supported",               // role_arn beside credential_process or login_session: never ignored
	"sso_* is none of",               // the SDK ignores it
	"sso_account_id is not",          // Identity Center would say so
	"sso_region is not the name",     // it would end up in host names
	"sso_start_url is not an",        // Identity Center would say so
	"for programs that want a token", // Identity Center would say so: there is no account to ask for
	"which a profile needs",          // the same
	"sso_registration_scopes",        // the SDK does not know the key
	"mfa_serial is not one",          // STS would say so
	"external_id is not one",         // as before
	"mfa_serial cannot be used",      // nobody who signs has a device
	"is neither",                     // the SDK takes what is not true for false, and knows no sts_regional_endpoints
	"add the section",                // the SDK goes on without the section
	"has no value",                   // the SDK goes on as if the line were not there
	"goes on in the next line",       // the SDK takes a newline into the value
	"is missing from the section",    // the SDK lets half a pair in one file disappear behind the other file
	"keys are temporary",             // they cannot mint
	"is here without keys",           // the SDK ignores it
	"duration_seconds",               // the SDK ignores what it cannot use
	"the name is not one",            // no door could ask for it
	"the value of region",            // it would end up in host names and shell lines
	"role_arn has no source",         // the SDK takes whatever the machine offers
	"credential_source is none",      // the SDK says so later, when it resolves
	"the line",                       // lines that cannot be read: the SDK skips them
	"there is no key before the sep", // the same
}

// sdkDiffers finds files that the SDK reads differently on purpose of ours, or
// by its own faults; no comparison can be made.
func sdkDiffers(files ...string) bool {
	for _, f := range files {
		for _, fault := range awsini.Parse("", []byte(f)).Faults {
			if strings.Contains(fault.Message, "not a section header") || // the SDK gives the lines to the section before
				strings.Contains(fault.Message, "byte order mark") || // the SDK loses the first section
				strings.Contains(fault.Message, "UTF-8") {
				return true
			}
		}
		// The SDK leaves quotes in names (the AWS CLI writes them and takes them
		// off), knows [sso-session x] as a profile of that name, and mistakes
		// [profile profile x] for [profile x].
		if oddHeader.MatchString(f) || oddSource.MatchString(f) {
			return true
		}
	}
	return false
}

var (
	oddHeader = regexp.MustCompile(`(?m)^\s*\[[^\]]*(["']|profile[ \t]+(profile|sso-session|services)[ \t])`)
	oddSource = regexp.MustCompile(`(?im)source_profile.*(profile|sso-session|services)[ \t]`)
)

// compare fails the test where the SDK and this package disagree.
func compare(t *testing.T, configFile, credentials string) {
	t.Helper()
	dir := t.TempDir()
	f := Files{Config: filepath.Join(dir, "config"), Credentials: filepath.Join(dir, "credentials")}
	for path, content := range map[string]string{f.Config: configFile, f.Credentials: credentials} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if ssoHeader.MatchString(credentials) { // the SDK reads sso-session sections there, too
		return
	}
	ours := Load(f)
	merged, _ := awsini.Profiles(awsini.Parse(f.Config, []byte(configFile)), awsini.Parse(f.Credentials, []byte(credentials)))
	for _, m := range merged {
		sdk, err, ok := loadSDK(f, m.Name)
		if !ok {
			return
		}
		var p Profile
		for _, q := range append(ours.Profiles, ours.Settings...) {
			if q.Name == m.Name {
				p = q
			}
		}
		compareProfile(t, p, m, sdk, err, overLogin(ours, p), func() error { return resolve(t, f, m.Name) })
	}
}

// tokenOnly reports whether a profile of the chain has sso_ lines that name neither
// account nor role: the SDK would ask for credentials all the same, and fail.
func tokenOnly(c *config.SharedConfig) bool {
	return c != nil && (ssoAnywhere(&config.SharedConfig{SSOSessionName: c.SSOSessionName, SSORegion: c.SSORegion, SSOStartURL: c.SSOStartURL}) && c.SSOAccountID+c.SSORoleName == "" || tokenOnly(c.Source))
}

// overLogin reports whether a role ends at a login_session, which the SDK takes for
// a source without credentials.
func overLogin(c *Config, p Profile) bool {
	for p.Role != nil {
		i := slices.IndexFunc(c.Profiles, func(q Profile) bool { return q.Name == p.Role.Source.Profile })
		if i < 0 {
			return false
		}
		p = c.Profiles[i]
	}
	return p.LoginSession != ""
}

var ssoHeader = regexp.MustCompile(`(?m)^\s*\[\s*sso-session`)

// resolve makes the SDK choose how to get the credentials of a profile, which is
// when it looks at what the sso_ lines say. Nothing is called.
func resolve(t *testing.T, f Files, profile string) error {
	_, err := config.LoadDefaultConfig(t.Context(), config.WithSharedConfigProfile(profile),
		config.WithSharedConfigFiles([]string{f.Config}), config.WithSharedCredentialsFiles([]string{f.Credentials}),
		config.WithAssumeRoleCredentialOptions(func(o *stscreds.AssumeRoleOptions) {
			o.TokenProvider = func() (string, error) { return "", errors.New("nobody is asked") }
		}))
	return err
}

// ssoAnywhere reports whether the SDK looks at sso_ lines in the chain of a profile.
func ssoAnywhere(c *config.SharedConfig) bool {
	return c != nil && (c.SSOSessionName+c.SSOAccountID+c.SSORoleName+c.SSORegion+c.SSOStartURL != "" || ssoAnywhere(c.Source))
}

// loadSDK loads one profile with the SDK; ok is false when it panics, as it
// does on a value of one quote.
func loadSDK(f Files, profile string) (c config.SharedConfig, err error, ok bool) {
	defer func() { _ = recover() }()
	c, err = config.LoadSharedConfigProfile(context.Background(), profile, func(o *config.LoadSharedConfigOptions) {
		o.ConfigFiles, o.CredentialsFiles = []string{f.Config}, []string{f.Credentials}
	})
	return c, err, true
}

func compareProfile(t *testing.T, p Profile, m *awsini.Profile, sdk config.SharedConfig, err error, overLogin bool, resolve func() error) {
	t.Helper()
	eq := func(what, ours, theirs string) {
		t.Helper()
		if ours != theirs {
			t.Errorf("profile %q: %s is %q, and %q to the SDK\n%s", p.Name, what, ours, theirs, text(p))
		}
	}
	if p.Unservable != nil {
		sdkHas := sdk.RoleARN != "" || sdk.Source != nil || sdk.CredentialProcess != "" || sdk.WebIdentityTokenFile != "" || sdk.CredentialSource != "" || sdk.Credentials.HasKeys() || sdk.LoginSession != "" || ssoAnywhere(&sdk)
		if err == nil && sdkHas && (!ssoAnywhere(&sdk) || resolve() == nil) {
			for _, reason := range onPurpose {
				if strings.Contains(p.Unservable.Error(), reason) {
					return
				}
			}
			t.Errorf("profile %q is fine to the SDK, and here: %v", p.Name, p.Unservable)
		}
		return
	}
	var assume config.SharedConfigAssumeRoleError
	if err != nil && !errors.As(err, &assume) && strings.Contains(err.Error(), "failed to load") {
		return // a setting that has nothing to do with credentials
	}
	if errors.As(err, &assume) && overLogin {
		return
	}
	if err == nil && (p.SSO != nil || p.Role != nil && ssoAnywhere(&sdk)) && !tokenOnly(&sdk) {
		err = resolve()
	}
	if err != nil {
		t.Errorf("profile %q is served, and the SDK says: %v\n%s", p.Name, err, text(p))
		return
	}
	compareSSO := func(s *SSO, sdk *config.SharedConfig) {
		t.Helper()
		eq("account", s.AccountID, sdk.SSOAccountID)
		eq("permission set", s.RoleName, sdk.SSORoleName)
		eq("access key id", "", sdk.Credentials.AccessKeyID)
		eq("session", s.Session, strings.TrimSpace(sdk.SSOSessionName))
		if sdk.SSOSession != nil {
			eq("region of the session", s.Region, sdk.SSOSession.SSORegion)
			eq("start URL of the session", s.StartURL, sdk.SSOSession.SSOStartURL)
			return
		}
		eq("sso region", s.Region, sdk.SSORegion)
		eq("start URL", s.StartURL, sdk.SSOStartURL)
	}
	if validRegion(sdk.Region) {
		eq("region", p.Region, sdk.Region)
	} else {
		eq("region", p.Region, "")
	}
	if p.Process == nil && p.SSO == nil && p.LoginSession == "" {
		compareEndpoint(t, p.Endpoint, m, sdk, eq)
	}
	switch {
	case p.Session != nil:
		eq("role", "", sdk.RoleARN)
		eq("mfa serial", p.Session.MFASerial, sdk.MFASerial)
		eq("source", "", sdk.SourceProfileName)
		eq("access key id", value(m, awsini.KeyID), sdk.Credentials.AccessKeyID)
		eq("secret", value(m, awsini.SecretKey), sdk.Credentials.SecretAccessKey)
		eq("token", "", sdk.Credentials.SessionToken)
	case p.Role != nil:
		eq("role", p.Role.ARN, sdk.RoleARN)
		eq("external id", p.Role.ExternalID, sdk.ExternalID)
		eq("session name", p.Role.SessionName, sdk.RoleSessionName)
		eq("mfa serial", p.Role.MFASerial, sdk.MFASerial)
		// As decimal numbers, like boto3; the SDK knows octal, too.
		if v, ok := m.Get(keyDuration); !ok {
			eq("duration", p.Role.Duration.String(), "0s")
		} else if n, _ := strconv.ParseInt(v.Value, 0, 64); strconv.FormatInt(n, 10) == v.Value {
			eq("duration", p.Role.Duration.String(), sdk.RoleDurationSeconds.String())
		}
		switch s := p.Role.Source; {
		case s.SSO != nil && sdk.Source != nil:
			eq("source", p.Name, sdk.SourceProfileName)
			compareSSO(s.SSO, sdk.Source)
		case s.SSO != nil:
			eq("source", "", sdk.SourceProfileName)
			compareSSO(s.SSO, &sdk)
		case s.Ambient != "":
			eq("credential_source", s.Ambient, sdk.CredentialSource)
			eq("source", "", sdk.SourceProfileName)
			eq("access key id", "", sdk.Credentials.AccessKeyID)
		case s.Profile != "":
			eq("source", s.Profile, sdk.SourceProfileName)
			if sdk.Source == nil || sdk.Source.Credentials.HasKeys() {
				t.Errorf("profile %q: the SDK signs with keys of %q", p.Name, s.Profile)
			}
		case s.Key == p.Name && sdk.Source == nil: // keys beside the role
			eq("access key id", value(m, awsini.KeyID), sdk.Credentials.AccessKeyID)
		default:
			eq("source", s.Key, sdk.SourceProfileName)
			// That the SDK assumes sdk.Source.RoleARN first, if there is one, is
			// where this package takes the side of all other SDKs.
			if sdk.Source == nil || !sdk.Source.Credentials.HasKeys() {
				t.Errorf("profile %q: the SDK finds no keys at %q", p.Name, s.Key)
			}
		}
	case p.WebIdentity != nil:
		eq("role", p.WebIdentity.ARN, sdk.RoleARN)
		eq("session name", p.WebIdentity.SessionName, sdk.RoleSessionName)
		eq("token file", p.WebIdentity.TokenFile, sdk.WebIdentityTokenFile)
		eq("access key id", "", sdk.Credentials.AccessKeyID)
	case p.SSO != nil:
		eq("role", "", sdk.RoleARN)
		eq("web identity", "", sdk.WebIdentityTokenFile)
		compareSSO(p.SSO, &sdk)
	case p.LoginSession != "":
		eq("login session", p.LoginSession, sdk.LoginSession)
		eq("role", "", sdk.RoleARN)
		eq("account of sso", "", sdk.SSOAccountID)
		eq("access key id", "", sdk.Credentials.AccessKeyID)
	case p.Process != nil:
		eq("login session", "", sdk.LoginSession)
		eq("account of sso", "", sdk.SSOAccountID)
		command, _ := m.Get(keyProcess)
		eq("command", command.Value, sdk.CredentialProcess)
		eq("command as written", p.Process.Command, command.Raw) // the SDK strips quotes that the shell needs
		eq("access key id", "", sdk.Credentials.AccessKeyID)
	default:
		t.Errorf("profile %q is nothing, and not unservable", p.Name)
	}
}

// compareEndpoint holds the settings of the endpoint against the SDK's, which
// reads all but sts_regional_endpoints.
func compareEndpoint(t *testing.T, e Endpoint, m *awsini.Profile, sdk config.SharedConfig, eq func(what, ours, theirs string)) {
	t.Helper()
	eq("FIPS", e.FIPS.String(), map[aws.FIPSEndpointState]string{aws.FIPSEndpointStateUnset: "unset", aws.FIPSEndpointStateDisabled: "off", aws.FIPSEndpointStateEnabled: "on"}[sdk.UseFIPSEndpoint])
	eq("dual-stack", e.DualStack.String(), map[aws.DualStackEndpointState]string{aws.DualStackEndpointStateUnset: "unset", aws.DualStackEndpointStateDisabled: "off", aws.DualStackEndpointStateEnabled: "on"}[sdk.UseDualStackEndpoint])
	for _, key := range []string{keyIgnoreURLs, keyEndpointURL, keyServices} {
		// Of a profile that stands in both files, the SDK forgets these of the
		// credentials file; boto3 and the AWS CLI do not.
		if v, ok := m.Get(key); ok && v.File != m.File {
			return
		}
	}
	ignore, found, _ := sdk.GetIgnoreConfiguredEndpoints(t.Context())
	eq("ignored URLs", e.IgnoreURLs.String(), map[[2]bool]string{{}: "unset", {false, true}: "off", {true, true}: "on"}[[2]bool{ignore, found}])
	url, _, _ := sdk.GetServiceBaseEndpoint(t.Context(), sts.ServiceID)
	eq("endpoint URL", e.URL, cmp.Or(url, sdk.BaseEndpoint))
}

// seeds are pairs of files that the SDK and this package must agree on.
var seeds = [][2]string{
	{"[default]\nregion = eu-west-1\noutput = json\n", "[default]\n" + keysA},
	{"[profile x]\n" + keysA + "region: us-east-1 # c\n", "[x]\nregion =\n"},
	{"[default]\n" + keysA + "aws_session_token=T\n", "[default]\naws_access_key_id=B\naws_secret_access_key=C\n"},
	{"[profile r]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = default\nexternal_id = e=f/g\nrole_session_name = me\nduration_seconds = 3600\n", "[default]\n" + keysA},
	{"[profile a]\nrole_arn=ra\nsource_profile=b\n[profile b]\nrole_arn=rb\nsource_profile=c\n[profile c]\nrole_arn=rc\nsource_profile=d\n", "[d]\n" + keysA},
	{"[profile a]\nrole_arn=ra\nsource_profile=a\n", "[a]\n" + keysA},
	{"[profile a]\nrole_arn=ra\n", "[a]\n" + keysA},
	{"[profile a]\nrole_arn=ra\nsource_profile=b\n[profile b]\nrole_arn=rb\nsource_profile=b\n", "[b]\n" + keysA},
	{"[profile a]\nrole_arn=ra\nsource_profile=b\n" + keysA + "[profile b]\nrole_arn=rb\nsource_profile=a\n", ""},
	{"[profile a]\nrole_arn=ra\nsource_profile=b\n[profile b]\nrole_arn=rb\nsource_profile=a\n", ""},
	{"[profile a]\nrole_arn=ra\nsource_profile=nope\n", ""},
	{"[profile a]\nrole_arn=ra\nsource_profile=s\n[profile s]\nregion=r\n", ""},
	{"[profile a]\nrole_arn=ra\ncredential_source=Ec2InstanceMetadata\n[profile b]\nrole_arn=rb\ncredential_source=EcsContainer\nsource_profile=a\n", ""},
	{"[profile a]\nrole_arn=ra\nweb_identity_token_file=/t\nrole_session_name=s\n[profile b]\nrole_arn=rb\nsource_profile=a\n", ""},
	{"[profile a]\ncredential_process = \"/opt/x y\"\n[profile b]\ncredential_process = a 'b c' # d\n[profile c]\ncredential_process = a\n  b\n", ""},
	{"[profile a]\ncredential_process = a\nrole_arn = r\n[profile b]\ncredential_process = a\nweb_identity_token_file = t\n", "[a]\n" + keysA},
	{"[profile a]\nsource_profile = b\n[profile b]\nweb_identity_token_file=t\n[profile c]\ncredential_source=Environment\n", "[b]\n" + keysA},
	{"[profile a]\nsso_session=s\nsso_account_id=1\nsso_role_name=r\n[sso-session s]\nsso_region=r\nsso_start_url=u\n[profile b]\nrole_arn=r\nsource_profile=a\n", ""},
	{"[profile a]\nlogin_session=s\n", ""},
	{"[profile a]\nlogin_session=s\ncredential_process=c\n[profile b]\nrole_arn=r\nlogin_session=s\n[profile c]\nrole_arn=r\nsource_profile=a\n", ""},
	{"[profile a]\n" + sso + session, ""},
	{"[profile a]\n" + sso + "credential_process=c\nlogin_session=l\n" + session + "[profile b]\nrole_arn=r\nsource_profile=a\n[profile c]\nrole_arn=r\nsource_profile=b\n", ""},
	{"[profile a]\nrole_arn=r\n" + sso + session + "[profile b]\nrole_arn=r\nsource_profile=b\n" + sso, ""},
	{"[profile a]\n" + sso + session + "[profile b]\nrole_arn=r\nsource_profile=c\n" + sso + "[profile c]\nrole_arn=r\ncredential_source=Environment\n" + sso, "[a]\n" + keysA},
	{"[profile a]\nsso_account_id=123456789012\nsso_role_name=r\nsso_region=us-east-1\nsso_start_url=https://u\n[profile b]\nsso_account_id=123456789012\nsso_role_name=r\nsso_region=us-east-1\n", ""},
	{"[profile a]\n" + sso + "sso_region=us-east-2\n" + session + "[profile b]\n" + sso + "sso_region=us-east-1\nsso_start_url=https://u/start\n[profile c]\nsso_session=no\n" + keysA, ""},
	{"[profile a]\nsso_session=s\n[profile b]\nsso_session=s\nsso_role_name=r\n[profile c]\nrole_arn=r\nsource_profile=a\n" + session, ""},
	{"[profile a]\nsso_session = \" s \"\nsso_role_name=r # c\n[sso-session  s]\nsso_region: us-east-1\n[sso-session s]\nsso_start_url = https://u\n", "[a]\nsso_account_id = 123456789012\n"},
	{"[profile a]\nrole_arn=r\nsource_profile=k\nmfa_serial=" + serial + "\n", "[k]\n" + keysA + "mfa_serial = GAHT12345678\n"},
	{"[profile a]\nrole_arn=r\nsource_profile=b\n[profile b]\nrole_arn=r\nsource_profile=b\nmfa_serial=" + serial + "\n", "[b]\n" + keysA},
	{"[profile a]\nrole_arn=r\nmfa_serial=" + serial + "\nsource_profile=p\n[profile p]\ncredential_process=c\n", ""},
	{"[profile a]\nrole_arn=r\nmfa_serial=" + serial + "\ncredential_source=Environment\n", ""},
	{"[profile a]\nuse_fips_endpoint = TRUE\nuse_dualstack_endpoint = false\nsts_regional_endpoints = legacy\n[profile b]\nuse_fips_endpoint = yes\nrole_arn=r\nsource_profile=a\n", "[a]\n" + keysA + "use_fips_endpoint = False\n"},
	{"[profile a]\nservices = s\nendpoint_url = https://all # c\nrole_arn=r\ncredential_source=Environment\n[services s]\ns3 =\n  endpoint_url = u\nsts =\n  endpoint_url = https://sts # c\n", ""},
	{"[profile a]\nservices = s\nendpoint_url = u\nignore_configured_endpoint_urls = true\nrole_arn=r\ncredential_source=Environment\n[services s]\nsts = x\n  endpoint_url = v\n", ""},
	{"[profile a]\nservices = nope\nignore_configured_endpoint_urls = false\nrole_arn=r\ncredential_source=Environment\n", ""},
	{"[default]\nregion=a\n[profile default]\noutput=json\n[x]\nregion=b\n", "[profile x]\nregion=c\n[default]\nregion=d\n"},
	{"[profile x]\nregion=a\n[profile y]\n[profile x]\nregion=b\ncredential_process=c\n", ""},
	{"[profile x]\r\ns3 =\r\n  region = no\r\nregion = yes\r\n  output = json\r\ncredential_process=c\r\n", ""},
	{"[profile x]\n  region = a\n role_arn = r\n\tcredential_source = Environment ; c\n", ""},
	{"[profile x y]\ncredential_process=c\n[profile  z]\ncredential_process=c\n[ default ]\ncredential_process=d\n", "[x y]\nregion=r\n"},
	{"[profile x]\nduration_seconds=900\nrole_arn=r\nsource_profile=k\n[profile y]\nduration_seconds=01750\nrole_arn=r\nsource_profile=k\n", "[k]\n" + keysA},
	{"[profile x]\naws_access_key_id=A\n", "[x]\nregion=r\n"},
	{"[profile x]\nmax_attempts=many\ncredential_process=c\n", ""},
	{"[DEFAULT]\ncredential_process=c\n", "[DEFAULT]\n" + keysA},
}

// cleanEnv keeps this machine's settings from the SDK.
func cleanEnv(t testing.TB) {
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
}

func TestAgainstSDK(t *testing.T) {
	cleanEnv(t)
	for _, s := range seeds {
		if sdkDiffers(s[0], s[1]) {
			t.Errorf("nothing is compared for %q", s)
		}
		compare(t, s[0], s[1])
	}
}

// TestRandomFilesAgainstSDK deals lines into files: that meets more of the rules
// than random bytes do.
func TestRandomFilesAgainstSDK(t *testing.T) {
	cleanEnv(t)
	lines := []string{
		"aws_access_key_id = AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key = s", "aws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = s",
		"aws_session_token = t", "aws_access_key_id =", "role_arn = r", "role_arn = r", "source_profile = a", "source_profile = b", "source_profile = c", "source_profile = default",
		"credential_source = Environment", "credential_process = c", "web_identity_token_file = t", "external_id = e", "role_session_name = n", "duration_seconds = 3600",
		"duration_seconds = 1", "mfa_serial = m", "mfa_serial = " + serial, "use_fips_endpoint = true", "use_dualstack_endpoint = False", "use_fips_endpoint = x",
		"sts_regional_endpoints = legacy", "endpoint_url = u", "services = s", "ignore_configured_endpoint_urls = true", "sts =\n  endpoint_url = v", "sts =", "sso_region = r", "login_session = l", "region = r", "region = s", "  region = t", "s3 =\n  region = u", "  more", "output = json # c",
		"role_arn =", "; c", "", "word", strings.TrimSpace(sso), strings.TrimSpace(sso), "sso_session = s", "sso_session = t", "sso_account_id = 123456789012", "sso_role_name = r",
		"sso_region = us-east-1", "sso_start_url = https://u/start", "sso_account_id = 123456789012\nsso_role_name = r\nsso_region = us-east-1\nsso_start_url = https://u/start", "sso_other = x",
	}
	const pairs = 1500
	rnd := rand.New(rand.NewPCG(1, 2))
	file := func(headers ...string) string {
		var b strings.Builder
		for range rnd.IntN(5) {
			b.WriteString(headers[rnd.IntN(len(headers))] + "\n")
			for range rnd.IntN(5) {
				b.WriteString(lines[rnd.IntN(len(lines))] + "\n")
			}
		}
		return b.String()
	}
	for range pairs {
		configFile := file("[default]", "[profile a]", "[profile b]", "[profile c]", "[profile default]", "[a]", strings.TrimSpace(session), "[sso-session t]", "[services s]")
		credentials := file("[default]", "[a]", "[b]", "[profile c]")
		compare(t, configFile, credentials)
		if t.Failed() {
			t.Fatalf("of the files\n%s\nand\n%s", configFile, credentials)
		}
	}
}

// otherDefault finds [DEFAULT] and its like, of which SDKs make different things
// (to botocore's parser it is what every section falls back to); here a fault.
func otherDefault(file string) bool {
	for _, header := range defaultHeader.FindAllString(file, -1) {
		if !strings.HasSuffix(header, "default") {
			return true
		}
	}
	return false
}

var defaultHeader = regexp.MustCompile(`(?mi)^\s*\[[^\]]*default`)

func FuzzAgainstSDK(f *testing.F) {
	cleanEnv(f)
	for _, s := range seeds {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, configFile, credentials string) {
		if len(configFile)+len(credentials) < awsini.MaxSize && !sdkDiffers(configFile, credentials) &&
			!otherDefault(configFile) && !otherDefault(credentials) {
			compare(t, configFile, credentials)
		}
	})
}
