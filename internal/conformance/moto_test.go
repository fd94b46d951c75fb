//go:build conformance && linux

package conformance

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

const (
	motoRegion = "eu-central-1"
	allowAll   = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}`
	narrow     = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iam:ListRoles","Resource":"*"}]}`
)

// trusting is a trust policy of one principal, such as `"AWS": "arn:…"`.
func trusting(action, principal, condition string) string {
	if condition != "" {
		condition = `,"Condition":` + condition
	}
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"sts:` + action + `","Principal":{` + principal + `}` + condition + `}]}`
}

// iam calls IAM as the server's administrator and returns the text of the named
// elements of the answer.
func (s server) iam(t *testing.T, action string, params []string, elements ...string) []string {
	t.Helper()
	v := url.Values{"Action": {action}}
	for i := 0; i < len(params); i += 2 {
		v.Set(params[i], params[i+1])
	}
	a := s.query(t, s.key.credentials(), "iam", v)
	a.want(t, 200)
	found := make([]string, len(elements))
	at := ""
	for d := xml.NewDecoder(strings.NewReader(a.body)); ; {
		token, err := d.Token()
		if err != nil {
			break
		}
		switch token := token.(type) {
		case xml.StartElement:
			at = token.Name.Local
		case xml.CharData:
			for i, e := range elements {
				if e == at && found[i] == "" {
					found[i] = strings.TrimSpace(string(token))
				}
			}
		}
	}
	for i, f := range found {
		if f == "" {
			t.Fatalf("%s: no %s in %s", action, elements[i], a.body)
		}
	}
	return found
}

// furnish makes the user dev, who may do everything, and the roles. It returns
// the user's key.
func (s server) furnish(t *testing.T, webProvider, audience string) keyPair {
	t.Helper()
	s.iam(t, "CreateUser", []string{"UserName", "dev"})
	s.iam(t, "PutUserPolicy", []string{"UserName", "dev", "PolicyName", "all", "PolicyDocument", allowAll})
	key := s.iam(t, "CreateAccessKey", []string{"UserName", "dev"}, "AccessKeyId", "SecretAccessKey")
	dev := `"AWS":"arn:aws:iam::` + account + `:user/dev"`
	for _, r := range []struct {
		arn, trust string
		most       int
	}{
		{deployRole, trusting("AssumeRole", dev, ""), hour},
		{longRole, trusting("AssumeRole", dev, ""), 12 * hour},
		{closedRole, trusting("AssumeRole", `"AWS":"arn:aws:iam::`+account+`:user/somebody-else"`, ""), hour},
		{carefulRole, trusting("AssumeRole", dev, `{"Bool":{"aws:MultiFactorAuthPresent":"true"}}`), hour},
		{deployRole + "-web", trusting("AssumeRoleWithWebIdentity", `"Federated":"`+webProvider+`"`, `{"StringEquals":{"`+webProvider[strings.IndexByte(webProvider, '/')+1:]+`:aud":"`+audience+`"}}`), hour},
		{closedRole + "-web", trusting("AssumeRoleWithWebIdentity", `"Federated":"`+webProvider+`"`, `{"StringEquals":{"`+webProvider[strings.IndexByte(webProvider, '/')+1:]+`:aud":"somebody-else"}}`), hour},
		{deployRole + "-saml", trusting("AssumeRoleWithSAML", `"Federated":"`+samlProvider+`"`, `{"StringEquals":{"saml:iss":"`+samlIssuer+`"}}`), hour},
		{closedRole + "-saml", trusting("AssumeRoleWithSAML", `"Federated":"`+samlProvider+`-other"`, ""), hour},
	} {
		name := r.arn[strings.LastIndexByte(r.arn, '/')+1:]
		s.iam(t, "CreateRole", []string{"RoleName", name, "AssumeRolePolicyDocument", r.trust, "MaxSessionDuration", fmt.Sprint(r.most)})
		s.iam(t, "PutRolePolicy", []string{"RoleName", name, "PolicyName", "all", "PolicyDocument", allowAll})
	}
	return keyPair{key[0], key[1]}
}

// testMoto has the broker make every mint that moto knows, with its checks of
// signatures and permissions switched on once the roles are made.
func testMoto(t *testing.T, k kit, _ *table, m *matrix) {
	idp, web := newSAMLIDP(t, k), startIssuer(t, k)
	dir, port := tempDir(t), freePorts(t, 1)[0]
	s := server{endpoint: fmt.Sprintf("http://127.0.0.1:%d", port), region: motoRegion, key: keyPair{"AKIACONFORMANCE0MOTO", newSecret()}}
	start(t, dir, cleanEnv(dir), "moto", k.moto.path, "-H", "127.0.0.1", "-p", fmt.Sprint(port)).await(t, time.Minute, answers(s.endpoint+"/moto-api/"))
	dev := s.furnish(t, "arn:aws:iam::"+account+":oidc-provider/"+strings.TrimPrefix(web.url, "http://"), clientID)
	token, err := webIdentityToken(t.Context(), web, hour)
	if err != nil {
		t.Fatal(err)
	}
	h := live(t, k, household{
		secret: []string{dev.secret, token},
		files: map[string]string{".aws/credentials": section("dev", dev), "token": token,
			"saml": idp.response(t, deployRole+"-saml", 300)},
		config: strings.ReplaceAll(endpoints(s), ", compatible: true", "") + fmt.Sprintf(`
aws_profiles: { include: [] }
keys: { dev: { custody: file } }
profiles:
  session: { region: %[1]s, session: { key: dev, duration: 1h } }
  role: { region: %[1]s, role: { arn: %[2]q, key: dev, session_name: conformance } }
  closed: { region: %[1]s, role: { arn: %[3]q, key: dev, session_name: conformance } }
  web: { region: %[1]s, web_identity: { arn: "%[2]s-web", token_file: $HOME/token, session_name: conformance } }
  saml: { region: %[1]s, saml: { arn: "%[2]s-saml", principal_arn: %[4]q, assertion_file: $HOME/saml } }
  federation: { region: %[1]s, federation: { key: dev, name: kiosk, policy: %[5]q, duration: 1h } }
`, s.region, deployRole, closedRole, samlProvider, narrow),
	})
	switchOn := func() {
		resp, err := loopback.Post(s.endpoint+"/moto-api/reset-auth", "text/plain", strings.NewReader("0"))
		if err != nil {
			t.Fatal(err)
		}
		if a, err := readAnswer(resp); err != nil || a.status != http.StatusOK {
			t.Fatalf("moto's checks are not switched on: %v %s", err, a.body)
		}
	}
	who := "arn:aws:sts::" + account + ":assumed-role/deploy"
	by := dev.credentials()
	on := false
	for _, mint := range []struct {
		profile string
		ask     asking // signed: another secret is refused
		arn     string // what whoami says; "" where moto's sets are examples that it knows nothing of
		shown   []facet
	}{
		// Unsigned calls come first: with the checks on, moto fails at them.
		{"web", asking{params: url.Values{"Action": {"AssumeRoleWithWebIdentity"}}}, who + "-web/conformance", []facet{throughBroker}},
		{"saml", asking{params: url.Values{"Action": {"AssumeRoleWithSAML"}}}, who + "-saml/conformance", []facet{throughBroker}},
		{"session", ask(by, "GetSessionToken"), "", []facet{throughBroker, signature}},
		{"role", ask(by, "AssumeRole", "RoleArn", deployRole, "RoleSessionName", "conformance"), who + "/conformance", []facet{throughBroker, signature}},
		{"federation", ask(by, "GetFederationToken", "Name", "kiosk"), "", []facet{throughBroker, signature}},
	} {
		t.Run(mint.ask.action(), func(t *testing.T) {
			if mint.ask.signer.HasKeys() && !on {
				switchOn()
				on = true
			}
			served(t, h.door(t, mint.profile))
			if mint.arn != "" {
				h.whoami(t, mint.profile, mint.arn)
			}
			if mint.ask.signer.HasKeys() {
				s.ask(t, mint.ask).want(t, 200)
				s.ask(t, mint.ask.forged()).want(t, 403, "SignatureDoesNotMatch")
			}
			m.saw(t, motoServer, mint.ask.action(), mint.shown...)
		})
	}
	t.Run("AssumeRole, trust", func(t *testing.T) {
		h.whoami(t, "role", who+"/conformance")
		h.door(t, "closed").want(t, 403, "AccessDenied", closedRole)
		m.saw(t, motoServer, "AssumeRole", trust)
	})
	t.Run("GetCallerIdentity", func(t *testing.T) {
		h.whoami(t, "role", who+"/conformance")
		s.ask(t, ask(by, "GetCallerIdentity").forged()).want(t, 403, "SignatureDoesNotMatch")
		m.saw(t, motoServer, "GetCallerIdentity", throughBroker, signature)
	})
	t.Run("GetAccessKeyInfo", func(t *testing.T) { testKeysShow(t, h, s, m, motoServer, by) })
	t.Run("unknown actions", func(t *testing.T) {
		signed := s
		signed.key = dev
		testAbsent(t, m, motoServer, signed, "sts", "Internal Server Error", "")
	})
}

// testKeysShow has the broker say whose a key is.
func testKeysShow(t *testing.T, h home, s server, m *matrix, name string, by aws.Credentials) {
	call := ask(by, "GetAccessKeyInfo", "AccessKeyId", by.AccessKeyID)
	s.ask(t, call).want(t, 200, account)
	s.ask(t, call.forged()).want(t, 403, "SignatureDoesNotMatch")
	if r := h.run(t, h.stsbroker, "keys", "show", "dev"); r.err != nil || !strings.Contains(r.stdout, account) || strings.Contains(r.stdout, by.SecretAccessKey) {
		t.Errorf("keys show: %s", r)
	}
	m.saw(t, name, "GetAccessKeyInfo", throughBroker, signature)
}
