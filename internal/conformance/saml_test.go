//go:build conformance && linux

package conformance

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// The account that moto, fakecloud and the stand-in have, and what is in it.
const (
	account      = "123456789012"
	deployRole   = "arn:aws:iam::" + account + ":role/deploy"
	longRole     = "arn:aws:iam::" + account + ":role/long" // twelve hours
	closedRole   = "arn:aws:iam::" + account + ":role/closed"
	carefulRole  = "arn:aws:iam::" + account + ":role/careful" // wants MFA
	samlProvider = "arn:aws:iam::" + account + ":saml-provider/idp"
	samlIssuer   = "https://idp.example/metadata"
)

// samlIDP is a SAML identity provider: a key, and the program that signs with it.
type samlIDP struct {
	k   kit
	dir string
}

func newSAMLIDP(t *testing.T, k kit) samlIDP {
	t.Helper()
	dir := tempDir(t)
	key, certificate := newCertificate(t, "idp.example")
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	writeFile(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})))
	return samlIDP{k, dir}
}

// command is a command that prints a response for one of the roles, which
// lives for so many seconds.
func (i samlIDP) command(t *testing.T, role string, life int) []string {
	t.Helper()
	const attribute = "https://aws.amazon.com/SAML/Attributes/"
	order, err := json.Marshal(map[string]any{
		"key": filepath.Join(i.dir, "key.pem"), "cert": filepath.Join(i.dir, "cert.pem"),
		"issuer": samlIssuer, "audience": "urn:amazon:webservices", "recipient": "https://signin.aws.amazon.com/saml",
		"subject": "somebody", "life": life,
		"attributes": map[string]string{attribute + "Role": role + "," + samlProvider, attribute + "RoleSessionName": "conformance"},
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(i.dir, fmt.Sprintf("order-%s-%d.json", role[strings.LastIndexByte(role, '/')+1:], life))
	writeFile(t, file, string(order))
	return []string{i.k.node.path, filepath.Join(i.k.saml.path, "assert.mjs"), file}
}

// response returns such a response, whose signature xmlsec1 has checked.
func (i samlIDP) response(t *testing.T, role string, life int) string {
	t.Helper()
	r := run(t.Context(), i.dir, cleanEnv(i.dir), i.command(t, role, life)...)
	if r.err != nil {
		t.Fatalf("assert.mjs: %s", r)
	}
	xml, err := base64.StdEncoding.DecodeString(r.stdout)
	if err != nil {
		t.Fatal(err)
	}
	if err := i.verify(t, xml); err != nil {
		t.Fatal(err)
	}
	return r.stdout
}

// verify has xmlsec1 check the signature of the response's assertion, by the
// provider's own certificate.
func (i samlIDP) verify(t *testing.T, response []byte) error {
	dir := tempDir(t)
	file := filepath.Join(dir, "response.xml")
	if err := os.WriteFile(file, response, 0o600); err != nil {
		return err
	}
	r := run(t.Context(), dir, cleanEnv(dir), i.k.xmlsec1.path, "--verify", "--trusted-pem", filepath.Join(i.dir, "cert.pem"),
		"--id-attr:ID", "urn:oasis:names:tc:SAML:2.0:assertion:Assertion", file)
	if r.err != nil {
		return fmt.Errorf("xmlsec1: %s", r)
	}
	return nil
}

// altered is a response that says somebody else after it was signed.
func altered(t *testing.T, response string) string {
	t.Helper()
	xml, err := base64.StdEncoding.DecodeString(response)
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(string(xml), ">conformance<", ">administrator<", 1)
	if other == string(xml) {
		t.Fatal("the response names no session")
	}
	return base64.StdEncoding.EncodeToString([]byte(other))
}

// testSAML has the broker use signed assertions at the stand-in, which asks
// xmlsec1 about each.
func testSAML(t *testing.T, k kit, m *matrix) {
	need(t, k.node, k.saml, k.xmlsec1)
	idp, foreign := newSAMLIDP(t, k), newSAMLIDP(t, k)
	fake := stsfake.New()
	running, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = running.Close() })
	var asked atomic.Int32
	fake.AddSAMLProvider(samlProvider, func(response []byte) error {
		asked.Add(1)
		return idp.verify(t, response)
	})
	fake.AddRole(stsfake.Role{ARN: deployRole, SAML: []string{samlProvider}})
	fake.AddRole(stsfake.Role{ARN: closedRole, SAML: []string{samlProvider + "-other"}})
	s := server{endpoint: running.URL, region: "eu-central-1"}

	good := idp.response(t, deployRole, 300)
	h := live(t, k, household{
		secret: []string{good},
		files: map[string]string{"good": good, "altered": altered(t, good), "foreign": foreign.response(t, deployRole, 300),
			"closed": idp.response(t, closedRole, 300)},
		config: strings.ReplaceAll(endpoints(s), ", compatible: true", "") + fmt.Sprintf(`
aws_profiles: { include: [] }
profiles:
  file: { region: %[1]s, saml: { arn: %[2]q, principal_arn: %[3]q, assertion_file: $HOME/good } }
  command: { region: %[1]s, saml: { arn: %[2]q, principal_arn: %[3]q, assertion_command: %[4]s } }
  chosen: { region: %[1]s, saml: { assertion_command: %[4]s } }
  altered: { region: %[1]s, saml: { arn: %[2]q, principal_arn: %[3]q, assertion_file: $HOME/altered } }
  foreign: { region: %[1]s, saml: { arn: %[2]q, principal_arn: %[3]q, assertion_file: $HOME/foreign } }
  closed: { region: %[1]s, saml: { arn: %[5]q, principal_arn: %[3]q, assertion_file: $HOME/closed } }
`, s.region, deployRole, samlProvider, jsonList(t, idp.command(t, deployRole, 300)), closedRole),
	})
	for _, profile := range []string{"file", "command", "chosen"} {
		h.whoami(t, profile, "arn:aws:sts::"+account+":assumed-role/deploy/conformance")
	}
	for _, profile := range []string{"altered", "foreign"} {
		h.door(t, profile).want(t, 403, "InvalidIdentityToken", "Response signature invalid", profile)
	}
	h.door(t, "closed").want(t, 403, "AccessDenied", closedRole)
	call := ask(aws.Credentials{}, "AssumeRoleWithSAML", "RoleArn", deployRole, "PrincipalArn", samlProvider)
	s.ask(t, call.with("SAMLAssertion", idp.response(t, deployRole, -60))).wantRefused(t, "ExpiredTokenException")
	if asked.Load() < 6 {
		t.Errorf("xmlsec1 was asked %d times", asked.Load())
	}
	m.saw(t, standIn, "AssumeRoleWithSAML", throughBroker, identity, trust)
}

// jsonList is a list as YAML reads it too.
func jsonList(t *testing.T, list []string) string {
	t.Helper()
	b, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// whoami asks the server, by the broker, whose set a profile serves.
func (h home) whoami(t *testing.T, profile, arn string) {
	t.Helper()
	r := h.run(t, h.stsbroker, "whoami", profile, "--json")
	var who struct{ ARN string }
	if err := json.Unmarshal([]byte(r.stdout), &who); r.err != nil || err != nil || who.ARN != arn {
		t.Fatalf("whoami %s: want %s: %s", profile, arn, r)
	}
}
