package ambient

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
)

// Profiles of the test's AWS config. The region of each is its name, which is
// how the SDK tells which one it read.
const chainConfig = `
[profile keys]
region = keys
aws_access_key_id = AKIAIOSFODNN7PROFILE
aws_secret_access_key = secret
[profile process]
region = process
credential_process = true
[profile web]
region = web
web_identity_token_file = /nowhere
role_arn = arn:aws:iam::123456789012:role/r
[profile sourced]
region = sourced
role_arn = arn:aws:iam::123456789012:role/r
source_profile = keys
[profile machine]
region = machine
role_arn = arn:aws:iam::123456789012:role/r
credential_source = Ec2InstanceMetadata
[profile sso]
region = sso
sso_session = s
sso_account_id = 123456789012
sso_role_name = r
[sso-session s]
sso_region = eu-central-1
sso_start_url = https://example.com/start
[profile login]
region = login
login_session = arn:aws:iam::123456789012:user/u
[profile plain]
region = plain
output = json
`

// TestChainIsTheSDKs lets the SDK choose, for every combination of what it looks
// at, and compares.
func TestChainIsTheSDKs(t *testing.T) {
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	dir := t.TempDir()
	files := map[string]string{
		"none":  chainConfig,
		"plain": chainConfig + "[default]\nregion = default\n",
		"keys":  chainConfig + "[default]\nregion = default\naws_access_key_id = AKIAIOSFODNN7DEFAULT\naws_secret_access_key = secret\n",
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", dir)
	t.Setenv("USERPROFILE", dir)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(dir, "no-credentials"))
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")

	const id, oldID, secret, oldSecret, token = varKeyID, "AWS_ACCESS_KEY", varSecretKey, "AWS_SECRET_KEY", varToken
	const webFile, webRole = "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"
	const relative, full = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"
	values := map[string]string{webRole: "arn:aws:iam::123456789012:role/r", relative: "/x", full: "http://127.0.0.1:1/x"}
	variables := [][]string{
		{}, {id, secret}, {id, secret, token}, {oldID, secret}, {id, oldSecret, token}, {id, oldID, secret}, {id, token}, {secret}, {token},
	}
	webs := [][]string{{}, {webFile}, {webFile, webRole}, {webRole}}
	ends := [][]string{{}, {relative}, {full}, {relative, full}}
	named := []string{"", "keys", "process", "web", "sourced", "machine", "sso", "login", "plain", "gone"}

	met := map[Link]int{}
	try := func(defaults, profile, defaultProfile string, set []string) {
		t.Helper()
		t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, defaults))
		t.Setenv("AWS_PROFILE", profile)
		t.Setenv("AWS_DEFAULT_PROFILE", defaultProfile)
		for _, name := range []string{id, oldID, secret, oldSecret, token, webFile, webRole, relative, full} {
			value := ""
			if slices.Contains(set, name) {
				value = values[name]
				if value == "" {
					value = "value-of-" + name
				}
			}
			t.Setenv(name, value)
		}
		ours := Chain(os.Getenv, func(name string) bool {
			return name != "plain" && name != "gone" && (name != "default" || defaults == "keys")
		})
		met[ours]++
		theirs, err := sdkChoice(t)
		why := ""
		if err != nil {
			why = err.Error()
		}
		switch {
		case profile == "gone" && strings.Contains(why, "failed to get shared config profile, gone"): // as the doc of Chain says
		case ours.Kind == LinkWebIdentity && !slices.Contains(set, webRole) && strings.Contains(why, "role ARN is not set"):
		case err != nil || ours != theirs:
			t.Errorf("default: %s, AWS_PROFILE=%s, AWS_DEFAULT_PROFILE=%s, %v: %+v, and %+v (%v) to the SDK", defaults, profile, defaultProfile, set, ours, theirs, err)
		}
	}
	for _, v := range variables {
		for _, w := range webs {
			for _, e := range ends {
				for defaults := range files {
					try(defaults, "", "", slices.Concat(v, w, e))
				}
			}
		}
	}
	for _, profile := range named {
		for _, defaultProfile := range []string{"", "keys", "plain", "gone"} {
			for _, v := range variables[:4] {
				for _, e := range ends {
					try("keys", profile, defaultProfile, slices.Concat(v, e))
				}
			}
		}
	}
	if len(met) != 5+1+7 { // the links without a profile, "default", and the seven others that hold credentials
		t.Errorf("the combinations met these links only: %v", met)
	}
}

// sdkChoice loads the SDK's default configuration and says where the
// credentials would come from. Nothing is asked for but what is at hand.
func sdkChoice(t *testing.T) (Link, error) {
	t.Helper()
	cfg, err := config.LoadDefaultConfig(t.Context())
	if err != nil {
		return Link{}, err
	}
	provider, ok := cfg.Credentials.(interface{ ProviderSources() []aws.CredentialSource })
	if !ok {
		t.Fatalf("%T does not tell its sources", cfg.Credentials)
	}
	has := func(s ...aws.CredentialSource) bool {
		return slices.ContainsFunc(provider.ProviderSources(), func(p aws.CredentialSource) bool { return slices.Contains(s, p) })
	}
	switch {
	case has(aws.CredentialSourceProfile, aws.CredentialSourceProfileSourceProfile, aws.CredentialSourceProfileNamedProvider, aws.CredentialSourceProfileSTSWebIDToken,
		aws.CredentialSourceProfileSSO, aws.CredentialSourceProfileProcess, aws.CredentialSourceProfileLogin):
		return Link{Kind: LinkProfile, Profile: cfg.Region}, nil
	case has(aws.CredentialSourceEnvVars):
		c, err := cfg.Credentials.Retrieve(t.Context())
		if c.SessionToken != "" {
			return Link{Kind: LinkEnvironmentSession}, err
		}
		return Link{Kind: LinkEnvironmentKeys}, err
	case has(aws.CredentialSourceEnvVarsSTSWebIDToken):
		return Link{Kind: LinkWebIdentity}, nil
	case has(aws.CredentialSourceHTTP):
		return Link{Kind: LinkContainer}, nil
	case has(aws.CredentialSourceIMDS):
		return Link{Kind: LinkInstance}, nil
	}
	t.Fatalf("a provider of %v", provider.ProviderSources())
	return Link{}, nil
}
