//go:build conformance && linux

package conformance

import (
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

const rootTask = "arn:aws:iam::aws:policy/root-task/IAMAuditRootUserCredentials"

// organize makes an organization with one member account, and prints its id.
const organize = `
import sys, time, boto3
def client(name):
    return boto3.client(name, endpoint_url=sys.argv[1], region_name=sys.argv[2], aws_access_key_id="test", aws_secret_access_key="test")
o = client("organizations")
o.create_organization(FeatureSet="ALL")
status = o.create_account(Email="member@idp.example", AccountName="member")["CreateAccountStatus"]
end = time.monotonic() + 30
while status["State"] != "SUCCEEDED" and time.monotonic() < end:
    time.sleep(0.1)
    status = o.describe_create_account_status(CreateAccountRequestId=status["Id"])["CreateAccountStatus"]
o.enable_aws_service_access(ServicePrincipal="iam.amazonaws.com")
client("iam").enable_organizations_root_sessions()
print(status["AccountId"])
`

// totp prints the code of now for the seed in a file, in hex.
const totp = `
import hmac, struct, sys, time
seed = bytes.fromhex(open(sys.argv[1]).read())
digest = hmac.new(seed, struct.pack(">Q", int(time.time()) // 30), "sha1").digest()
at = digest[-1] & 15
code = (struct.unpack(">I", digest[at:at + 4])[0] & 0x7fffffff) % 1000000
if len(sys.argv) > 2:
    code = (code + 500000) % 1000000
print("%06d" % code)
`

// identify prints whose credentials an SDK finds.
const identify = `
import sys, boto3
print(boto3.client("sts", endpoint_url=sys.argv[1], region_name=sys.argv[2]).get_caller_identity()["Arn"])
`

// fakecloud is a server with the user dev and the roles.
type fakecloud struct {
	server
	dev  keyPair
	seed []byte // of dev's MFA device
	mfa  string // its serial
	web  issuer
}

// startFakecloud starts it with signatures checked. iam is what it does about
// policies of callers: "strict", or "off". Trust policies count in any case.
func startFakecloud(t *testing.T, k kit, iam string, web issuer) fakecloud {
	t.Helper()
	dir, port := tempDir(t), freePorts(t, 1)[0]
	// Its root user, whom it lets do everything.
	s := fakecloud{server: server{endpoint: fmt.Sprintf("http://127.0.0.1:%d", port), region: motoRegion, key: keyPair{"test", "test"}}, web: web}
	start(t, dir, cleanEnv(dir), "fakecloud-"+iam, k.fakecloud.path, "--addr", fmt.Sprintf("127.0.0.1:%d", port), "--region", s.region,
		"--account-id", account, "--verify-sigv4", "--iam", iam, "--log-level", "warn").
		await(t, time.Minute, answers(s.endpoint+"/_fakecloud/health"))
	provider := s.iam(t, "CreateOpenIDConnectProvider", []string{"Url", web.url, "ClientIDList.member.1", clientID, "ThumbprintList.member.1", web.thumbprint}, "OpenIDConnectProviderArn")[0]
	s.iam(t, "CreateSAMLProvider", []string{"Name", "idp", "SAMLMetadataDocument", "<EntityDescriptor>" + strings.Repeat(" ", 1000) + "</EntityDescriptor>"})
	s.dev = s.furnish(t, provider, clientID)
	device := s.iam(t, "CreateVirtualMFADevice", []string{"VirtualMFADeviceName", "dev"}, "SerialNumber", "Base32StringSeed")
	coded, err := base64.StdEncoding.DecodeString(device[1])
	if err != nil {
		t.Fatal(err)
	}
	s.mfa = device[0]
	if s.seed, err = base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(string(coded)); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.iam(t, "EnableMFADevice", []string{"UserName", "dev", "SerialNumber", s.mfa,
		"AuthenticationCode1", stsfake.TOTP(s.seed, now.Add(-30*time.Second)), "AuthenticationCode2", stsfake.TOTP(s.seed, now)})
	return s
}

// testFakecloud has the broker make every mint and every call at fakecloud, with
// its checks of signatures and trust switched on. Those of permissions are on
// for one of two servers: with them it refuses everybody who does not sign, and
// lets a federated user do nothing at all.
func testFakecloud(t *testing.T, k kit, _ *table, m *matrix) {
	web := startIssuer(t, k)
	t.Run("strict", func(t *testing.T) { testFakecloudStrict(t, k, m, startFakecloud(t, k, "strict", web)) })
	t.Run("unsigned and federated", func(t *testing.T) { testFakecloudOpen(t, k, m, startFakecloud(t, k, "off", web)) })
}

func testFakecloudStrict(t *testing.T, k kit, m *matrix, s fakecloud) {
	dir := tempDir(t)
	r := run(t.Context(), dir, cleanEnv(dir), k.boto3.path, "-c", organize, s.endpoint, s.region)
	member := strings.TrimSpace(r.stdout)
	if r.err != nil || len(member) != 12 {
		t.Fatalf("organize: %s", r)
	}
	code := fmt.Sprintf("[%q, $HOME/totp.py, $HOME/seed]", k.boto3.path)
	wrong := fmt.Sprintf("[%q, $HOME/totp.py, $HOME/seed, wrong]", k.boto3.path)
	h := live(t, k, household{
		secret: []string{s.dev.secret},
		files: map[string]string{".aws/credentials": section("dev", s.dev), "trade-in": "trade-in-token",
			"totp.py": totp, "seed": hex.EncodeToString(s.seed)},
		config: strings.ReplaceAll(endpoints(s.server), ", compatible: true", "") + fmt.Sprintf(`
aws_profiles: { include: [] }
keys: { dev: { custody: file } }
profiles:
  session: { region: %[1]s, session: { key: dev, duration: 15m } }
  session-long: { region: %[1]s, session: { key: dev, duration: 36h } }
  session-code: { region: %[1]s, session: { key: dev, mfa_serial: %[2]q, mfa_process: %[3]s } }
  session-wrong: { region: %[1]s, session: { key: dev, mfa_serial: %[2]q, mfa_process: %[4]s } }
  role: { region: %[1]s, role: { arn: %[5]q, key: dev, session_name: conformance, duration: 15m, source_identity: somebody, tags: { team: core } } }
  role-long: { region: %[1]s, role: { arn: %[5]q, key: dev, session_name: conformance, duration: 12h } }
  closed: { region: %[1]s, role: { arn: %[6]q, key: dev, session_name: conformance } }
  careful: { region: %[1]s, role: { arn: %[7]q, key: dev, session_name: conformance, mfa_serial: %[2]q, mfa_process: %[3]s } }
  careful-wrong: { region: %[1]s, role: { arn: %[7]q, key: dev, session_name: conformance, mfa_serial: %[2]q, mfa_process: %[4]s } }
  careful-without: { region: %[1]s, role: { arn: %[7]q, key: dev, session_name: conformance } }
  narrow: { region: %[1]s, role: { arn: %[8]q, key: dev, session_name: conformance, policy: %[9]q } }
  root: { region: %[1]s, root: { key: dev, target: %[10]q, task_policy_arn: %[11]q } }
  delegated: { region: %[1]s, delegated: { key: dev, token_file: $HOME/trade-in } }
`, s.region, s.mfa, code, wrong, longRole, closedRole, carefulRole, deployRole, narrow, member, rootTask),
	})
	by := s.dev.credentials()
	user, sts := "arn:aws:iam::"+account+":user/dev", "arn:aws:sts::"+account+":"
	use := func(t *testing.T, set aws.Credentials) { s.ask(t, ask(set, "GetCallerIdentity")).want(t, 200) }
	name := fakecloudServer

	session := ask(by, "GetSessionToken")
	role := ask(by, "AssumeRole", "RoleArn", longRole, "RoleSessionName", "conformance")
	for _, b := range []bounds{
		{session, 900, 36 * hour, "session", "session-long", "ValidationError", "ValidationError", use},
		{role, 900, 12 * hour, "role", "role-long", "ValidationError", "ValidationError", use},
	} {
		t.Run(b.action()+", durations", func(t *testing.T) {
			b.play(t, h, s.server)
			s.ask(t, b.forged()).want(t, 403, "SignatureDoesNotMatch")
			m.saw(t, name, b.action(), throughBroker, duration, signature)
		})
	}
	for _, c := range []struct{ action, profile, arn string }{
		{"GetSessionToken", "session", user},
		{"AssumeRole", "role", sts + "assumed-role/long/conformance"},
		{"GetDelegatedAccessToken", "delegated", user},
	} {
		t.Run(c.action, func(t *testing.T) {
			h.whoami(t, c.profile, c.arn)
			m.saw(t, name, c.action, throughBroker)
		})
	}
	t.Run("GetCallerIdentity", func(t *testing.T) {
		h.whoami(t, "role", sts+"assumed-role/long/conformance")
		s.ask(t, ask(by, "GetCallerIdentity").forged()).want(t, 403, "SignatureDoesNotMatch")
		m.saw(t, name, "GetCallerIdentity", throughBroker, signature)
	})
	t.Run("AssumeRole, trust", func(t *testing.T) {
		h.whoami(t, "role", sts+"assumed-role/long/conformance")
		h.door(t, "closed").want(t, 403, "AccessDenied", closedRole)
		m.saw(t, name, "AssumeRole", trust)
	})
	t.Run("MFA", func(t *testing.T) {
		h.whoami(t, "session-code", user)
		h.door(t, "session-wrong").want(t, 403, "invalid MFA one time pass code")
		h.whoami(t, "careful", sts+"assumed-role/careful/conformance")
		h.door(t, "careful-wrong").want(t, 403, "invalid MFA one time pass code")
		h.door(t, "careful-without").want(t, 403, "AccessDenied")
		m.saw(t, name, "GetSessionToken", mfa)
		m.saw(t, name, "AssumeRole", mfa)
	})
	t.Run("session policy, DecodeAuthorizationMessage", func(t *testing.T) {
		set := served(t, h.door(t, "narrow"))
		s.query(t, set, "iam", url.Values{"Action": {"ListRoles"}}).want(t, 200)
		denied := s.query(t, set, "iam", url.Values{"Action": {"ListUsers"}})
		denied.want(t, 403, "AccessDenied", "Encoded authorization failure message")
		m.saw(t, name, "AssumeRole", sessionPolicy)

		r := h.run(t, h.stsbroker, "decode", denied.body, "--profile", "role", "--json")
		if r.err != nil || !strings.Contains(r.stdout, "iam:ListUsers") || !json.Valid([]byte(r.stdout)) {
			t.Fatalf("decode: %s", r)
		}
		message := ask(by, "DecodeAuthorizationMessage", "EncodedMessage", "nonsense")
		s.ask(t, message).wantRefused(t, "InvalidAuthorizationMessageException")
		s.ask(t, message.forged()).want(t, 403, "SignatureDoesNotMatch")
		m.saw(t, name, "DecodeAuthorizationMessage", throughBroker, signature)
	})
	t.Run("AssumeRoot", func(t *testing.T) {
		r := h.run(t, append(h.exec("root"), k.boto3.path, "-c", identify, s.endpoint, s.region)...)
		if r.err != nil || strings.TrimSpace(r.stdout) != "arn:aws:iam::"+member+":root" {
			t.Fatalf("exec: %s", r)
		}
		call := ask(by, "AssumeRoot", "TargetPrincipal", member, "TaskPolicyArn.arn", rootTask)
		s.ask(t, call).want(t, 200)
		s.ask(t, call.forged()).want(t, 403, "SignatureDoesNotMatch")
		s.ask(t, call.with("TargetPrincipal", "999999999999")).want(t, 403, "AccessDenied")
		s.ask(t, call.lasting(901)).wantRefused(t, "DurationSeconds")
		m.saw(t, name, "AssumeRoot", throughBroker, signature, trust)
	})
	t.Run("GetDelegatedAccessToken", func(t *testing.T) {
		call := ask(by, "GetDelegatedAccessToken", "TradeInToken", "trade-in-token")
		s.ask(t, call).want(t, 200)
		s.ask(t, call.forged()).want(t, 403, "SignatureDoesNotMatch")
		m.saw(t, name, "GetDelegatedAccessToken", signature)
	})
	t.Run("GetAccessKeyInfo", func(t *testing.T) { testKeysShow(t, h, s.server, m, name, by) })
	t.Run("GetWebIdentityToken", func(t *testing.T) {
		r := h.run(t, h.stsbroker, "identity-token", "role", "--audience", "https://partner.example")
		if parts := strings.Split(strings.TrimSpace(r.stdout), "."); r.err != nil || len(parts) != 3 {
			t.Fatalf("identity-token: %s", r)
		} else if claims, err := base64.RawURLEncoding.DecodeString(parts[1]); err != nil || !strings.Contains(string(claims), "https://partner.example") {
			t.Errorf("identity-token: %s, %v", claims, err)
		}
		call := ask(by, "GetWebIdentityToken", "Audience.member.1", "https://partner.example", "SigningAlgorithm", "ES384")
		s.ask(t, call.lasting(60)).want(t, 200)
		s.ask(t, call.lasting(3600)).want(t, 200)
		s.ask(t, call.lasting(59)).wantRefused(t, "DurationSeconds")
		s.ask(t, call.lasting(3601)).wantRefused(t, "DurationSeconds")
		s.ask(t, call.forged()).want(t, 403, "SignatureDoesNotMatch")
		m.saw(t, name, "GetWebIdentityToken", throughBroker, duration, signature)
	})
}

func testFakecloudOpen(t *testing.T, k kit, m *matrix, s fakecloud) {
	idp, name := newSAMLIDP(t, k), fakecloudServer
	token, err := webIdentityToken(t.Context(), s.web, hour)
	if err != nil {
		t.Fatal(err)
	}
	h := live(t, k, household{
		secret: []string{s.dev.secret, token},
		files: map[string]string{".aws/credentials": section("dev", s.dev), "token": token,
			"saml": idp.response(t, deployRole+"-saml", 300), "saml-closed": idp.response(t, closedRole+"-saml", 300)},
		config: strings.ReplaceAll(endpoints(s.server), ", compatible: true", "") + fmt.Sprintf(`
aws_profiles: { include: [] }
keys: { dev: { custody: file } }
profiles:
  web: { region: %[1]s, web_identity: { arn: "%[2]s-web", token_file: $HOME/token, session_name: conformance } }
  web-closed: { region: %[1]s, web_identity: { arn: "%[3]s-web", token_file: $HOME/token, session_name: conformance } }
  saml: { region: %[1]s, saml: { arn: "%[2]s-saml", principal_arn: %[4]q, assertion_file: $HOME/saml } }
  saml-closed: { region: %[1]s, saml: { arn: "%[3]s-saml", principal_arn: %[4]q, assertion_file: $HOME/saml-closed } }
  federation: { region: %[1]s, federation: { key: dev, name: kiosk, policy: %[5]q, duration: 15m } }
  federation-long: { region: %[1]s, federation: { key: dev, name: kiosk, policy: %[5]q, duration: 36h } }
`, s.region, deployRole, closedRole, samlProvider, narrow),
	})
	sts := "arn:aws:sts::" + account + ":"
	for _, c := range []struct{ action, profile, arn, closed string }{
		{"AssumeRoleWithWebIdentity", "web", sts + "assumed-role/deploy-web/conformance", closedRole + "-web"},
		{"AssumeRoleWithSAML", "saml", sts + "assumed-role/deploy-saml/conformance", closedRole + "-saml"},
	} {
		t.Run(c.action, func(t *testing.T) {
			h.whoami(t, c.profile, c.arn)
			h.door(t, c.profile+"-closed").want(t, 403, "AccessDenied", c.closed)
			m.saw(t, name, c.action, throughBroker, trust)
		})
	}
	t.Run("GetFederationToken", func(t *testing.T) {
		call := ask(s.dev.credentials(), "GetFederationToken", "Name", "kiosk", "Policy", narrow)
		h.whoami(t, "federation", sts+"federated-user/kiosk")
		bounds{call, 900, 36 * hour, "federation", "federation-long", "ValidationError", "ValidationError",
			func(t *testing.T, set aws.Credentials) {
				s.ask(t, ask(set, "GetCallerIdentity")).want(t, 200, "federated-user/kiosk")
			},
		}.play(t, h, s.server)
		s.ask(t, call.forged()).want(t, 403, "SignatureDoesNotMatch")
		m.saw(t, name, "GetFederationToken", throughBroker, duration, signature)
	})
}
