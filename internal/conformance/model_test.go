//go:build conformance && linux

package conformance

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// modelCall is one call of model.py.
type modelCall struct {
	Name   string         `json:"name"`
	Action string         `json:"action"`
	Params map[string]any `json:"params"`
	Signer *modelSigner   `json:"signer"`
	Code   string         `json:"code"`
}

type modelSigner struct {
	ID     string `json:"id,omitempty"`
	Secret string `json:"secret,omitempty"`
	Call   string `json:"call,omitempty"` // an earlier one, whose credentials these are
}

// runModel makes the calls through boto3, and those that it derives of them, and
// returns what does not fit botocore's model of STS.
func runModel(t *testing.T, k kit, endpoint string, calls []modelCall) (findings []string, made int) {
	t.Helper()
	in, err := json.Marshal(calls)
	if err != nil {
		t.Fatal(err)
	}
	dir := tempDir(t)
	cmd := exec.CommandContext(t.Context(), k.boto3.path, absolute("model/model.py"), endpoint)
	cmd.Dir, cmd.Env, cmd.Stdin = dir, cleanEnv(dir), strings.NewReader(string(in))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var got struct {
		Actions  []string
		Calls    int
		Findings []string
	}
	if err == nil {
		err = json.Unmarshal(out, &got)
	}
	if err != nil {
		t.Fatalf("model.py: %v\n%s%s", err, out, stderr.String())
	}
	if want := slices.Sorted(slices.Values(actions)); !slices.Equal(slices.Sorted(slices.Values(got.Actions)), want) {
		t.Errorf("botocore's model has the actions %q, the matrix %q", got.Actions, want)
	}
	return got.Findings, got.Calls
}

// testModel holds the stand-in against botocore's model of STS: every action,
// every parameter, every element of the answers, and the errors.
func testModel(t *testing.T, k kit, m *matrix) {
	need(t, k.boto3)
	fake := stsfake.New()
	running, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = running.Close() })
	calls := modelCalls(fake)
	findings, made := runModel(t, k, running.URL, calls)
	for _, f := range findings {
		t.Error(f)
	}
	t.Logf("%d calls, %d made of them by leaving out and bending parameters", len(calls), made-len(calls))
	if made < 2*len(calls) {
		t.Error("too few")
	}
	for _, a := range actions {
		m.saw(t, standIn, a, shape)
	}
	// What the calls show beside the shape, by their names.
	for _, show := range []struct {
		facet
		name string
	}{{signature, "another secret"}, {trust, "not trusted"}, {identity, "spoilt"}, {duration, "the longest"}, {mfa, "wrong code"}, {mfa, "MFA"}} {
		for _, c := range calls {
			if c.Name == show.name {
				m.saw(t, standIn, c.Action, show.facet)
			}
		}
	}

	t.Run("drift is found", func(t *testing.T) {
		for _, drift := range []struct {
			fault stsfake.Fault
			want  string
		}{
			{stsfake.Fault{Kind: stsfake.FaultEmpty}, "AccessKeyId: 0 characters"},
			{stsfake.Fault{Kind: stsfake.FaultGarbage}, "no XML"},
			{stsfake.Fault{Kind: stsfake.FaultCode, Code: "SomethingElse", Status: 400}, "has no error SomethingElse"},
			{stsfake.Fault{Kind: stsfake.FaultCode, Code: "AccessDenied", Status: 400}, "AccessDenied with status 400, want 403"},
		} {
			drift.fault.Action = "GetSessionToken"
			fake.SetFault(drift.fault)
			one := slices.DeleteFunc(slices.Clone(calls), func(c modelCall) bool { return c.Action != "GetSessionToken" || c.Code != "" })
			if found, _ := runModel(t, k, running.URL, one[:1]); !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, drift.want) }) {
				t.Errorf("%q is not among %q", drift.want, found)
			}
		}
		fake.SetFault(stsfake.Fault{})
	})
}

// modelCalls fills the stand-in, and returns calls that together send every
// parameter and see every element and the errors that it can give.
func modelCalls(fake *stsfake.Server) []modelCall {
	const (
		account  = "arn:aws:iam::" + stsfake.Account
		role     = account + ":role/deploy"
		closed   = account + ":role/closed"
		careful  = account + ":role/careful"
		long     = account + ":role/long"
		provider = account + ":saml-provider/idp"
		device   = account + ":mfa/dev"
		member   = "210987654321"
		policy   = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}`
		managed  = "arn:aws:iam::aws:policy/ReadOnlyAccess"
		context  = "arn:aws:iam::aws:contextProvider/IdentityCenter"
		task     = "arn:aws:iam::aws:policy/root-task/IAMAuditRootUserCredentials"
	)
	dev := &modelSigner{ID: "AKIACONFORMANCE00DEV", Secret: newSecret()}
	root := &modelSigner{ID: "AKIACONFORMANCE0ROOT", Secret: newSecret()}
	fake.AddUser("dev", dev.ID, dev.Secret)
	fake.AddRootKey(root.ID, root.Secret)
	fake.AddMFA("dev", device, []byte("12345678901234567890"))
	fake.AddRole(stsfake.Role{ARN: role, Trust: []string{account + ":user/dev"}, Subjects: []string{"subject"}, SAML: []string{provider}})
	fake.AddRole(stsfake.Role{ARN: closed, Trust: []string{account + ":user/somebody-else"}})
	fake.AddRole(stsfake.Role{ARN: careful, Trust: []string{"*"}, ExternalID: "external", MFA: true})
	fake.AddRole(stsfake.Role{ARN: long, Trust: []string{"*"}, Subjects: []string{"subject"}, SAML: []string{provider}, MaxSession: 12 * time.Hour})
	fake.AddSAMLProvider(provider, nil)
	fake.AddMember(member)

	type p = map[string]any
	list := func(v ...any) []any { return v }
	tags := list(p{"Key": "team", "Value": "core"})
	policies := list(p{"arn": managed})
	token := fake.IdentityToken("subject", time.Hour)
	rich := fake.SignedToken(p{"sub": "subject", "aud": "sts.amazonaws.com", "iss": "https://identity.invalid", "exp": time.Now().Add(time.Hour).Unix(),
		"https://aws.amazon.com/source_identity": "someone"})
	assertion := stsfake.SAMLAssertion{Provider: provider, Roles: []string{role, long}, SessionName: "conformance", SourceIdentity: "someone"}
	saml := fake.Assertion(assertion)
	expired := assertion
	expired.Life = -time.Minute
	denial := fake.Encoded(stsfake.Denial{Principal: account + ":user/dev", Action: "s3:GetObject", Resource: "*", Explicit: true})
	trade := fake.TradeInToken(role, time.Hour)

	unsigned := func(name, action string, params p, code string) modelCall {
		return modelCall{name, action, params, nil, code}
	}
	signed := func(name, action string, params p, code string) modelCall {
		return modelCall{name, action, params, dev, code}
	}
	forged := func(action string, params p) modelCall {
		return modelCall{"another secret", action, params, &modelSigner{ID: dev.ID, Secret: newSecret()}, "SignatureDoesNotMatch"}
	}
	with := func(base p, more p) p {
		out := p{}
		for k, v := range base {
			out[k] = v
		}
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	assume := p{"RoleArn": role, "RoleSessionName": "conformance"}
	web := with(assume, p{"WebIdentityToken": token})
	bySAML := p{"RoleArn": role, "PrincipalArn": provider, "SAMLAssertion": saml}
	federation := p{"Name": "kiosk", "Policy": policy}
	asRoot := p{"TargetPrincipal": member, "TaskPolicyArn": p{"arn": task}}
	identity := p{"Audience": list("https://partner.example"), "SigningAlgorithm": "RS256"}
	large := strings.Replace(policy, "s3:*", "s3:"+strings.Repeat("a", 1100), 1)
	var manyTags []any
	for i := range 50 {
		manyTags = append(manyTags, p{"Key": fmt.Sprint("tag", i), "Value": strings.Repeat("v", 200)})
	}

	calls := []modelCall{
		signed("plain", "GetSessionToken", p{"DurationSeconds": 900}, ""),
		signed("MFA", "GetSessionToken", p{"SerialNumber": device, "TokenCode": fake.Code(device)}, ""),
		signed("wrong code", "GetSessionToken", p{"SerialNumber": device, "TokenCode": wrongCode(fake.Code(device))}, "AccessDenied"),
		signed("the longest", "GetSessionToken", p{"DurationSeconds": 129600}, ""),
		{"root", "GetSessionToken", p{"DurationSeconds": 3600}, root, ""},

		signed("plain", "AssumeRole", assume, ""),
		signed("everything", "AssumeRole", with(assume, p{"DurationSeconds": 900, "ExternalId": "external", "SourceIdentity": "someone", "Policy": policy,
			"PolicyArns": policies, "Tags": tags, "TransitiveTagKeys": list("team"),
			"ProvidedContexts": list(p{"ProviderArn": context, "ContextAssertion": fake.ContextAssertion(context, time.Hour)})}), ""),
		signed("MFA", "AssumeRole", with(assume, p{"RoleArn": careful, "ExternalId": "external", "SerialNumber": device, "TokenCode": nextCode(fake)}), ""),
		signed("wrong code", "AssumeRole", with(assume, p{"RoleArn": careful, "ExternalId": "external", "SerialNumber": device, "TokenCode": wrongCode(fake.Code(device))}), "AccessDenied"),
		signed("not trusted", "AssumeRole", with(assume, p{"RoleArn": closed}), "AccessDenied"),
		signed("the longest", "AssumeRole", with(assume, p{"RoleArn": long, "DurationSeconds": 43200}), ""),
		signed("too long for the role", "AssumeRole", with(assume, p{"DurationSeconds": 3601}), "ValidationError"),
		signed("malformed policy", "AssumeRole", with(assume, p{"Policy": "{"}), "MalformedPolicyDocument"),
		signed("large policy", "AssumeRole", with(assume, p{"Policy": large}), "PackedPolicyTooLarge"),
		signed("expired context", "AssumeRole", with(assume, p{"ProvidedContexts": list(p{"ProviderArn": context, "ContextAssertion": fake.ContextAssertion(context, -time.Hour)})}), "ExpiredTokenException"),
		{"root", "AssumeRole", assume, root, "AccessDenied"},

		unsigned("plain", "AssumeRoleWithWebIdentity", web, ""),
		unsigned("everything", "AssumeRoleWithWebIdentity", with(web, p{"DurationSeconds": 900, "WebIdentityToken": rich, "Policy": policy, "PolicyArns": policies}), ""),
		unsigned("OAuth", "AssumeRoleWithWebIdentity", with(web, p{"ProviderId": "www.amazon.com", "WebIdentityToken": fake.AccessToken("www.amazon.com", "subject", time.Hour)}), ""),
		unsigned("the longest", "AssumeRoleWithWebIdentity", with(web, p{"RoleArn": long, "DurationSeconds": 43200}), ""),
		unsigned("too long for the role", "AssumeRoleWithWebIdentity", with(web, p{"DurationSeconds": 3601}), "ValidationError"),
		unsigned("not trusted", "AssumeRoleWithWebIdentity", with(web, p{"RoleArn": closed}), "AccessDenied"),
		unsigned("spoilt", "AssumeRoleWithWebIdentity", with(web, p{"WebIdentityToken": token + "x"}), "InvalidIdentityToken"),
		unsigned("expired", "AssumeRoleWithWebIdentity", with(web, p{"WebIdentityToken": fake.IdentityToken("subject", -time.Hour)}), "ExpiredTokenException"),
		unsigned("large policy", "AssumeRoleWithWebIdentity", with(web, p{"Policy": large}), "PackedPolicyTooLarge"),

		unsigned("plain", "AssumeRoleWithSAML", bySAML, ""),
		unsigned("everything", "AssumeRoleWithSAML", with(bySAML, p{"DurationSeconds": 900, "Policy": policy, "PolicyArns": policies}), ""),
		unsigned("the longest", "AssumeRoleWithSAML", with(bySAML, p{"RoleArn": long, "DurationSeconds": 43200}), ""),
		unsigned("too long for the role", "AssumeRoleWithSAML", with(bySAML, p{"DurationSeconds": 3601}), "ValidationError"),
		unsigned("not trusted", "AssumeRoleWithSAML", with(bySAML, p{"RoleArn": closed}), "AccessDenied"),
		unsigned("spoilt", "AssumeRoleWithSAML", with(bySAML, p{"SAMLAssertion": "PHg+PC94Pg=="}), "InvalidIdentityToken"),
		unsigned("expired", "AssumeRoleWithSAML", with(bySAML, p{"SAMLAssertion": fake.Assertion(expired)}), "ExpiredTokenException"),

		signed("plain", "GetFederationToken", federation, ""),
		signed("the longest", "GetFederationToken", with(federation, p{"DurationSeconds": 129600}), ""),
		signed("everything", "GetFederationToken", with(federation, p{"DurationSeconds": 900, "PolicyArns": policies, "Tags": tags}), ""),
		signed("many tags", "GetFederationToken", with(federation, p{"Tags": manyTags}), "PackedPolicyTooLarge"),
		signed("malformed policy", "GetFederationToken", with(federation, p{"Policy": "{}"}), "MalformedPolicyDocument"),

		signed("plain", "AssumeRoot", asRoot, ""),
		{"of a session with a source identity", "AssumeRoot", asRoot, &modelSigner{Call: "AssumeRole, everything"}, ""},
		signed("the longest", "AssumeRoot", with(asRoot, p{"DurationSeconds": 900}), ""),
		signed("not trusted", "AssumeRoot", with(asRoot, p{"TargetPrincipal": "999999999999"}), "AccessDenied"),

		signed("plain", "GetDelegatedAccessToken", p{"TradeInToken": trade}, ""),
		signed("expired", "GetDelegatedAccessToken", p{"TradeInToken": fake.TradeInToken(role, -time.Hour)}, "ExpiredTradeInTokenException"),
		signed("spoilt token", "GetDelegatedAccessToken", p{"TradeInToken": trade + "x"}, "AccessDenied"),

		signed("plain", "GetCallerIdentity", p{}, ""),
		{"unknown key", "GetCallerIdentity", p{}, &modelSigner{ID: "AKIACONFORMANCE0NONE", Secret: newSecret()}, "InvalidClientTokenId"},
		{"no signature", "GetCallerIdentity", p{}, nil, "MissingAuthenticationToken"},

		signed("plain", "GetAccessKeyInfo", p{"AccessKeyId": dev.ID}, ""),
		signed("unknown", "GetAccessKeyInfo", p{"AccessKeyId": "AKIA0000000000000000"}, "ValidationError"),

		signed("plain", "DecodeAuthorizationMessage", p{"EncodedMessage": denial}, ""),
		signed("spoilt message", "DecodeAuthorizationMessage", p{"EncodedMessage": denial + "x"}, "InvalidAuthorizationMessageException"),

		signed("plain", "GetWebIdentityToken", identity, ""),
		signed("everything", "GetWebIdentityToken", with(identity, p{"SigningAlgorithm": "ES384", "DurationSeconds": 60, "Tags": tags}), ""),
		signed("the longest", "GetWebIdentityToken", with(identity, p{"DurationSeconds": 3600}), ""),
		signed("large", "GetWebIdentityToken", with(identity, p{"Tags": manyTags}), "JWTPayloadSizeExceededException"),

		forged("GetSessionToken", p{}), forged("AssumeRole", assume), forged("GetFederationToken", federation), forged("AssumeRoot", asRoot),
		forged("GetDelegatedAccessToken", p{"TradeInToken": trade}), forged("GetCallerIdentity", p{}), forged("GetAccessKeyInfo", p{"AccessKeyId": dev.ID}),
		forged("DecodeAuthorizationMessage", p{"EncodedMessage": denial}), forged("GetWebIdentityToken", identity),
	}
	return calls
}

// wrongCode is no code of this window nor of its neighbours, but once in some
// hundred thousand times.
func wrongCode(code string) string {
	return strings.Map(func(r rune) rune { return '0' + (r-'0'+5)%10 }, code)
}

// nextCode is the code of the window after this one, which counts already: each
// counts once.
func nextCode(fake *stsfake.Server) string {
	return stsfake.TOTP([]byte("12345678901234567890"), fake.Now().Add(30*time.Second))
}
