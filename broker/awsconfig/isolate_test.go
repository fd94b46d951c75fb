package awsconfig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stsbroker/stsbroker/internal/awsini"
)

func TestIsolate(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"empty": {"", ""},
		"all credential keys": {
			"[default]\nregion = r\naws_access_key_id = A\naws_secret_access_key=S\naws_session_token:T\naws_security_token=T\nrole_arn=r\nsource_profile=s\ncredential_source=Environment\n" +
				"external_id=e\nrole_session_name=n\nduration_seconds=900\nmfa_serial=m\nweb_identity_token_file=/t\ncredential_process=c\nlogin_session=l\nsso_session=s\nsso_account_id=1\noutput = json\n",
			"[default]\nregion = r\noutput = json\n",
		},
		"every section":          {"# top\n[profile x]\nROLE_ARN = r\n[sso-session s]\nsso_region=r\n\n[y]\nrole_arn=r", "# top\n[profile x]\n[sso-session s]\n\n[y]\n"},
		"the rest byte for byte": {"\ufeff[default]\r\n\tregion\t=\tr \r\n  s3 =\r\n    a = b\r\n\r\ngarbage\x00\xff\r\n[bad\r\nca_bundle = x", "\ufeff[default]\r\n\tregion\t=\tr \r\n  s3 =\r\n    a = b\r\n\r\ngarbage\x00\xff\r\n[bad\r\nca_bundle = x"},
		"how STS and others are called": {
			"[default]\nsts_regional_endpoints = legacy\nuse_fips_endpoint = true\nuse_dualstack_endpoint = true\nendpoint_url = u\nservices = s\nignore_configured_endpoint_urls = true\nmfa_serial = m\n[services s]\nsts =\n  endpoint_url = v\n",
			"[default]\nsts_regional_endpoints = legacy\nuse_fips_endpoint = true\nuse_dualstack_endpoint = true\nendpoint_url = u\nservices = s\nignore_configured_endpoint_urls = true\n[services s]\nsts =\n  endpoint_url = v\n",
		},
		"continued values":       {"[x]\ncredential_process = a\n  --b\n  # c\n\n  d\nregion = r\n  more\n", "[x]\n\nregion = r\n  more\n"},
		"nested":                 {"[x]\ns3 =\n  aws_secret_access_key = S\n    more\n  addressing_style = path\n", "[x]\ns3 =\n  addressing_style = path\n"},
		"value on the next line": {"[x]\n aws_secret_access_key =\n wJalr\n region = r\n", "[x]\n region = r\n"},
		"commented out":          {"[x]\n# aws_secret_access_key = S\n;role_arn=r\n# region = r\n", "[x]\n# region = r\n"},
		"lone carriage return":   {"[x]\rregion = r\rrole_arn = y\routput = json", "[x]\rregion = r\routput = json"},
		"header after a key":     {"[x]\nrole_arn = r\n  [y]\nregion = r\n", "[x]\n  [y]\nregion = r\n"},
		"odd blanks":             {"[x]\n\u00a0role_arn\x1f= r\n\x0brole_arn = r\n", "[x]\n"},
	} {
		if got := string(Isolate([]byte(c.in))); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// FuzzIsolate holds what matters: no reader finds a credential key, nothing is
// added, and isolating twice changes nothing.
func FuzzIsolate(f *testing.F) {
	for _, s := range seeds {
		f.Add(s[0])
	}
	f.Add("[x]\rrole_arn=a\n s3=\n  sso_x=y\n[bad\nrole_arn=r\n # aws_access_key_id = A")
	f.Fuzz(func(t *testing.T, in string) {
		if len(in) > awsini.MaxSize {
			return
		}
		out := string(Isolate([]byte(in)))
		if twice := string(Isolate([]byte(out))); twice != out {
			t.Fatalf("%q, isolated again: %q", out, twice)
		}
		rest := in
		for i := range len(out) {
			j := strings.IndexByte(rest, out[i])
			if j < 0 {
				t.Fatalf("%q holds bytes that %q does not", out, in)
			}
			rest = rest[j+1:]
		}
		path := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(path, []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
		c := Load(Files{Config: path})
		if c.DefaultHasCredentials() || len(c.Profiles) > 0 && !onlyUnreadable(c) {
			t.Fatalf("credentials are left in %q: %q", out, texts(c.Profiles))
		}
		for _, name := range []string{"default", "x", "a"} {
			if sdk, err, ok := loadSDK(Files{Config: path}, name); ok && err == nil &&
				(sdk.Credentials.HasKeys() || sdk.RoleARN != "" || sdk.CredentialProcess != "" || sdk.WebIdentityTokenFile != "" || sdk.SSOSessionName != "" || sdk.LoginSession != "") {
				t.Fatalf("the SDK finds credentials of %q in %q", name, out)
			}
		}
	})
}

// onlyUnreadable reports whether nothing but broken lines and names make a
// profile more than settings.
func onlyUnreadable(c *Config) bool {
	for _, p := range c.Profiles {
		if p.Unservable == nil || strings.Contains(p.Unservable.Error(), "not supported") {
			return false
		}
	}
	return true
}
