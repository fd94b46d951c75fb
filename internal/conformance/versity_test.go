//go:build conformance && linux

package conformance

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// What VersityGW's one account has.
const (
	versityRegion = "us-east-1" // it takes signatures for this one alone
	versityIssuer = "https://identity.example"
)

// startVersity starts VersityGW's IAM and STS server with one session, as
// AssumeRoleWithWebIdentity would have left it in its store: the server calls
// no identity provider on loopback, so it can grant none here.
func startVersity(t *testing.T, k kit, session aws.Credentials) server {
	t.Helper()
	dir, port := tempDir(t), freePorts(t, 1)[0]
	s := server{
		endpoint:  fmt.Sprintf("http://127.0.0.1:%d", port),
		region:    versityRegion,
		key:       keyPair{"conformance_root", newSecret()},
		webRole:   "arn:aws:iam::000000000000:role/web",
		webClosed: "arn:aws:iam::000000000000:role/web-closed",
	}
	store, err := json.Marshal(map[string]any{"sessions": map[string]any{session.AccessKeyID: map[string]any{
		"accessKeyId": session.AccessKeyID, "secretAccessKey": session.SecretAccessKey, "sessionToken": session.SessionToken,
		"roleArn": s.webRole, "roleName": "web", "roleId": "AROACONFORMANCE00WEB", "roleSessionName": "conformance",
		"provider": "arn:aws:iam::000000000000:oidc-provider/identity.example", "audience": clientID, "subject": "somebody",
		"createDate": time.Now().UTC(), "expiration": session.Expires.UTC(),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "iam", "iam.json"), string(store))
	env := cleanEnv(dir, "ROOT_ACCESS_KEY_ID="+s.key.id, "ROOT_SECRET_ACCESS_KEY="+s.key.secret)
	start(t, dir, env, "versitygw", k.versity.path, "--port", fmt.Sprintf("127.0.0.1:%d", port), "--health", "/health",
		"iam", "--dir", filepath.Join(dir, "iam"), "--disable-oidc-thumbprint-autofetch").
		await(t, 30*time.Second, answers(s.endpoint+"/health"))
	iam := func(params ...string) {
		t.Helper()
		v := url.Values{}
		for i := 0; i < len(params); i += 2 {
			v.Set(params[i], params[i+1])
		}
		s.query(t, s.key.credentials(), "iam", v).want(t, 200)
	}
	iam("Action", "CreateOpenIDConnectProvider", "Url", versityIssuer, "ClientIDList.member.1", clientID,
		"ThumbprintList.member.1", strings.Repeat("0", 40))
	for role, client := range map[string]string{"web": clientID, "web-closed": "somebody-else"} {
		iam("Action", "CreateRole", "RoleName", role, "AssumeRolePolicyDocument",
			`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Federated":"arn:aws:iam::000000000000:oidc-provider/identity.example"},`+
				`"Action":"sts:AssumeRoleWithWebIdentity","Condition":{"StringEquals":{"identity.example:aud":"`+client+`"}}}]}`)
	}
	return s
}

// testVersity holds whoami, and how the broker words errors that are shaped as
// AWS's are.
func testVersity(t *testing.T, k kit, _ *table, m *matrix) {
	session := aws.Credentials{AccessKeyID: "ASIACONFORMANCE00VGW", SecretAccessKey: newSecret(), SessionToken: newSecret(), Expires: time.Now().Add(time.Hour)}
	s := startVersity(t, k, session)

	// An identity token that nobody signed: what is refused for its claims is
	// refused before the signature is looked at.
	claims, err := json.Marshal(map[string]any{"iss": versityIssuer, "aud": clientID, "sub": "somebody", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()})
	if err != nil {
		t.Fatal(err)
	}
	encoded := base64.RawURLEncoding.EncodeToString
	token := encoded([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + encoded(claims) + "." + encoded([]byte("no signature"))

	// Sets as a credential process would bring them: whole, with another secret,
	// with another token, and of a key that nobody knows.
	set := func(id, secret, token string) string {
		return fmt.Sprintf(`{"Version": 1, "AccessKeyId": %q, "SecretAccessKey": %q, "SessionToken": %q, "Expiration": %q}`,
			id, secret, token, session.Expires.UTC().Format(time.RFC3339))
	}
	forged := newSecret()
	files := map[string]string{
		"token":       token,
		"whole":       set(session.AccessKeyID, session.SecretAccessKey, session.SessionToken),
		"secret":      set(session.AccessKeyID, forged, session.SessionToken),
		"stolen":      set(session.AccessKeyID, session.SecretAccessKey, forged),
		"unknown-key": set("ASIACONFORMANCE0NONE", session.SecretAccessKey, session.SessionToken),
	}
	config := endpoints(s) + "aws_profiles: { include: [] }\nprofiles:\n"
	for name := range maps.Keys(files) {
		if name != "token" {
			config += fmt.Sprintf("  %s: { region: %s, process: { command: [cat, $HOME/%[1]s] } }\n", name, s.region)
		}
	}
	for name, arn := range map[string]string{"web": s.webRole, "web-closed": s.webClosed, "web-missing": s.webRole + "-missing"} {
		config += fmt.Sprintf("  %s: { region: %s, web_identity: { arn: %q, token_file: $HOME/token, session_name: conformance } }\n", name, s.region, arn)
	}
	h := live(t, k, household{
		secret: []string{session.SecretAccessKey, session.SessionToken, forged, token}, files: files,
		// AWS's own words are wanted, so nothing is made compatible.
		config: strings.ReplaceAll(config, "compatible: true", "compatible: false"),
	})

	t.Run("GetCallerIdentity", func(t *testing.T) {
		// The server's word for the same set, asked without the broker.
		direct := s.ask(t, ask(session, "GetCallerIdentity"))
		const arn, id = "arn:aws:sts::000000000000:assumed-role/web/conformance", "AROACONFORMANCE00WEB:conformance"
		direct.want(t, 200, arn, id)
		r := h.run(t, h.stsbroker, "whoami", "whole", "--json")
		var who struct {
			Account, ARN string
			UserID       string `json:"user_id"`
		}
		if err := json.Unmarshal([]byte(r.stdout), &who); r.err != nil || err != nil {
			t.Fatalf("whoami: %s", r)
		}
		if who.Account != "000000000000" || who.ARN != arn || who.UserID != id {
			t.Errorf("whoami: %+v", who)
		}
		m.saw(t, versityServer, "GetCallerIdentity", throughBroker)
	})
	t.Run("GetCallerIdentity, errors", func(t *testing.T) {
		for _, r := range []struct{ profile, code, words, next string }{
			{"secret", "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.", "secret access key"},
			{"stolen", "InvalidClientTokenId", "The security token included in the request is invalid.", "access key exists and is active"},
			{"unknown-key", "InvalidClientTokenId", "The security token included in the request is invalid.", "access key exists and is active"},
		} {
			got := h.run(t, h.stsbroker, "whoami", r.profile)
			oneLine(t, got, r.profile, "refuses GetCallerIdentity", r.code+": "+r.words, "request id", r.next)
		}
		s.ask(t, ask(session, "GetCallerIdentity").forged()).want(t, 403, "<Code>SignatureDoesNotMatch</Code>", "<Type>Sender</Type>")
		m.saw(t, versityServer, "GetCallerIdentity", signature, errorShape)
	})
	t.Run("AssumeRoleWithWebIdentity, errors", func(t *testing.T) {
		for _, r := range []struct {
			profile, arn, code, words, next string
		}{
			{"web-missing", s.webRole + "-missing", "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity", "trust policy"},
			{"web-closed", s.webClosed, "InvalidIdentityToken", "The web identity token provided could not be validated.", "audience"},
		} {
			s.ask(t, ask(aws.Credentials{}, "AssumeRoleWithWebIdentity", "RoleArn", r.arn, "RoleSessionName", "conformance", "WebIdentityToken", token)).
				wantRefused(t, "<Code>"+r.code+"</Code>")
			h.door(t, r.profile).want(t, 403, r.code, r.words)
			got := h.run(t, append(h.exec(r.profile), "true")...)
			oneLine(t, got, r.profile, "refuses AssumeRoleWithWebIdentity of "+r.arn, r.code+": "+r.words, "request id", r.next)
		}
		m.saw(t, versityServer, "AssumeRoleWithWebIdentity", errorShape)
	})
	t.Run("AssumeRoleWithWebIdentity, trust", func(t *testing.T) {
		// The role that trusts the audience is refused later: for its key, which
		// cannot be fetched. The one that does not is refused for the claims.
		call := ask(aws.Credentials{}, "AssumeRoleWithWebIdentity", "RoleArn", s.webRole, "RoleSessionName", "conformance", "WebIdentityToken", token)
		s.ask(t, call).wantRefused(t, "retrieve verification key")
		s.ask(t, call.with("RoleArn", s.webClosed)).wantRefused(t, "could not be validated")
		s.ask(t, call.lasting(899)).wantRefused(t, "ValidationError")
		s.ask(t, call.lasting(43201)).wantRefused(t, "ValidationError")
	})
	t.Run("unknown actions", func(t *testing.T) {
		testAbsent(t, m, versityServer, s, "iam", "InvalidAction", "Could not find operation")
	})
}

// oneLine fails the test unless a command failed with one line on stderr that
// holds the words, and nothing on stdout.
func oneLine(t *testing.T, r result, words ...string) {
	t.Helper()
	if r.err == nil || r.stdout != "" || !strings.HasPrefix(r.stderr, "stsbroker: ") || strings.Count(r.stderr, "\n") != 1 {
		t.Fatalf("want one line of error: %s", r)
	}
	for _, w := range words {
		if !strings.Contains(r.stderr, w) {
			t.Errorf("no %q in %s", w, r.stderr)
		}
	}
}
