package stsfake_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

const (
	rootKey  = "AKIAROOTROOTROOTROOT"
	memberID = "210987654321"
	audit    = "arn:aws:iam::aws:policy/root-task/IAMAuditRootUserCredentials"
	hop      = "arn:aws:iam::123456789012:role/hop"
	last     = "arn:aws:iam::123456789012:role/last"
	ci       = "arn:aws:iam::123456789012:role/ci"
	staff    = "arn:aws:iam::123456789012:role/staff"
	provider = "arn:aws:iam::123456789012:saml-provider/Corp"
	phone    = "arn:aws:iam::123456789012:mfa/phone"
	oneAllow = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:Get*","Resource":"*"}]}`
)

var seed = []byte("12345678901234567890")

// direct lets a client call the handler without a connection.
type direct struct{ *stsfake.Server }

func (d direct) Do(r *http.Request) (*http.Response, error) {
	in := r.Clone(r.Context())
	if in.Host == "" {
		in.Host = r.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, in)
	return w.Result(), nil
}

type world struct {
	*stsfake.Server
	user, root *sts.Client
}

// newWorld knows one of everything.
func newWorld() world {
	s := stsfake.New()
	s.AddUser("me", keyID, secret)
	s.AddRootKey(rootKey, secret)
	s.AddMFA("me", phone, seed)
	s.AddMember(memberID)
	s.AddSAMLProvider(provider, nil)
	s.AddRole(stsfake.Role{ARN: deploy, Trust: []string{userARN}, MaxSession: 12 * time.Hour})
	s.AddRole(stsfake.Role{ARN: hop, Trust: []string{deploy, ci, staff}, MaxSession: 12 * time.Hour})
	s.AddRole(stsfake.Role{ARN: last, Trust: []string{hop}})
	s.AddRole(stsfake.Role{ARN: ci, Subjects: []string{"repo:main"}})
	s.AddRole(stsfake.Role{ARN: staff, SAML: []string{provider}, MaxSession: 2 * time.Hour})
	w := world{Server: s}
	w.user, w.root = w.client(keyID, secret, ""), w.client(rootKey, secret, "")
	return w
}

const userARN = "arn:aws:iam::123456789012:user/me"

func (w world) client(id, secret, token string) *sts.Client {
	return sts.New(sts.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String("http://sts.invalid"), Retryer: aws.NopRetryer{}, DisableClockSkewCorrection: true,
		HTTPClient: direct{w.Server},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: id, SecretAccessKey: secret, SessionToken: token}, nil
		}),
	})
}

func (w world) with(c *types.Credentials) *sts.Client {
	return w.client(*c.AccessKeyId, *c.SecretAccessKey, *c.SessionToken)
}

// assumed returns a client that signs with a session of the role.
func (w world) assumed(t *testing.T, by *sts.Client, role string, change func(*sts.AssumeRoleInput)) *sts.Client {
	t.Helper()
	out, err := assume(by, func(in *sts.AssumeRoleInput) {
		in.RoleArn = &role
		if change != nil {
			change(in)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return w.with(out.Credentials)
}

func (w world) saml(a stsfake.SAMLAssertion) *sts.AssumeRoleWithSAMLInput {
	a.Provider, a.Roles = provider, []string{staff}
	if a.SessionName == "" {
		a.SessionName = "ana@corp.example"
	}
	return &sts.AssumeRoleWithSAMLInput{RoleArn: aws.String(staff), PrincipalArn: aws.String(provider), SAMLAssertion: aws.String(w.Assertion(a))}
}

// good is one input for each action that is granted.
func (w world) good() map[string]any {
	tags := []types.Tag{{Key: aws.String("Team"), Value: aws.String("blue")}}
	arns := []types.PolicyDescriptorType{{Arn: aws.String("arn:aws:iam::aws:policy/ReadOnlyAccess")}}
	const center = "arn:aws:iam::aws:contextProvider/IdentityCenter"
	return map[string]any{
		"GetSessionToken": &sts.GetSessionTokenInput{SerialNumber: aws.String(phone), TokenCode: aws.String(w.Code(phone)), DurationSeconds: aws.Int32(900)},
		"AssumeRole": &sts.AssumeRoleInput{
			RoleArn: aws.String(deploy), RoleSessionName: aws.String("tester"), DurationSeconds: aws.Int32(900), ExternalId: aws.String("any"),
			SourceIdentity: aws.String("ana"), Policy: aws.String(oneAllow), PolicyArns: arns, Tags: tags, TransitiveTagKeys: []string{"team"},
			ProvidedContexts: []types.ProvidedContext{{ProviderArn: aws.String(center), ContextAssertion: aws.String(w.ContextAssertion(center, time.Minute))}},
		},
		"AssumeRoleWithWebIdentity": &sts.AssumeRoleWithWebIdentityInput{
			RoleArn: aws.String(ci), RoleSessionName: aws.String("tester"), Policy: aws.String(oneAllow), PolicyArns: arns, DurationSeconds: aws.Int32(900),
			WebIdentityToken: aws.String(w.SignedToken(map[string]any{
				"sub": "repo:main", "aud": "sts.amazonaws.com", "iss": "https://idp.example", "exp": w.Now().Add(time.Minute).Unix(),
				"https://aws.amazon.com/source_identity": "ana",
				"https://aws.amazon.com/tags":            map[string]any{"principal_tags": map[string]any{"Team": []string{"blue"}}, "transitive_tag_keys": []string{"Team"}},
			})),
		},
		"AssumeRoleWithSAML": w.saml(stsfake.SAMLAssertion{SourceIdentity: "ana", Tags: map[string]string{"Team": "blue"}, TransitiveTags: []string{"Team"}, SessionLife: time.Hour}),
		"GetFederationToken": &sts.GetFederationTokenInput{Name: aws.String("bob"), Policy: aws.String(oneAllow), PolicyArns: arns, Tags: tags, DurationSeconds: aws.Int32(900)},
		"AssumeRoot": &sts.AssumeRootInput{TargetPrincipal: aws.String(memberID), DurationSeconds: aws.Int32(900),
			TaskPolicyArn: &types.PolicyDescriptorType{Arn: aws.String(audit)}},
		"GetDelegatedAccessToken":    &sts.GetDelegatedAccessTokenInput{TradeInToken: aws.String(w.TradeInToken(deploy, time.Minute))},
		"DecodeAuthorizationMessage": &sts.DecodeAuthorizationMessageInput{EncodedMessage: aws.String(w.Encoded(stsfake.Denial{Action: "sts:AssumeRole"}))},
		"GetAccessKeyInfo":           &sts.GetAccessKeyInfoInput{AccessKeyId: aws.String(keyID)},
		"GetWebIdentityToken": &sts.GetWebIdentityTokenInput{Audience: []string{"https://a.example", "https://b.example"},
			SigningAlgorithm: aws.String("ES384"), DurationSeconds: aws.Int32(60), Tags: tags},
		"GetCallerIdentity": &sts.GetCallerIdentityInput{},
	}
}

// call calls an operation of the SDK by its name; out is its output.
func call(c *sts.Client, action string, in any) (out reflect.Value, err error) {
	r := reflect.ValueOf(c).MethodByName(action).Call([]reflect.Value{reflect.ValueOf(context.Background()), reflect.ValueOf(in)})
	err, _ = r[1].Interface().(error)
	return r[0].Elem(), err
}

// operations are all that the SDK has.
func operations() (names []string) {
	client := reflect.TypeFor[*sts.Client]()
	for m := range client.Methods() {
		if m.Type.IsVariadic() && m.Type.NumIn() == 4 && m.Type.NumOut() == 2 {
			names = append(names, m.Name)
		}
	}
	return names
}

func errorCode(err error) string {
	var e smithy.APIError
	if errors.As(err, &e) {
		return e.ErrorCode()
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func TestEveryActionAnswersInFull(t *testing.T) {
	all := operations()
	if len(all) < 11 {
		t.Fatalf("found the operations %v of the SDK only", all)
	}
	for _, action := range all {
		t.Run(action, func(t *testing.T) {
			w := newWorld()
			in, ok := w.good()[action]
			if !ok {
				t.Fatal("the SDK has an action that is not tested here")
			}
			by := w.user
			if action == "AssumeRoot" { // from a session that has a source identity to pass on
				by = w.assumed(t, w.user, deploy, func(in *sts.AssumeRoleInput) { in.SourceIdentity = aws.String("ana") })
			}
			out, err := call(by, action, in)
			if err != nil {
				t.Fatal(err)
			}
			for i := range out.NumField() {
				f := out.Type().Field(i)
				never := action == "GetDelegatedAccessToken" && f.Name == "PackedPolicySize" // as the API says
				if f.Type.Kind() == reflect.Pointer && out.Field(i).IsNil() != never {
					t.Errorf("the answer's %s: nil is %v", f.Name, !never)
				}
			}
			c := out.FieldByName("Credentials")
			calls := w.Calls()
			got := calls[len(calls)-1]
			if got.Action != action || got.Code != "" || got.Minted != c.IsValid() || (got.KeyID != "") != got.Minted {
				t.Errorf("recorded %+v", got)
			}
			if !c.IsValid() {
				return
			}
			creds := c.Interface().(*types.Credentials)
			if left := creds.Expiration.Sub(got.Time); got.KeyID != *creds.AccessKeyId || left > got.Life || left <= got.Life-time.Second {
				t.Errorf("minted %s until %v, recorded %+v", *creds.AccessKeyId, creds.Expiration, got)
			}
			if size := out.FieldByName("SessionTokenSize"); size.IsValid() {
				n, used := size.Elem().Int(), out.FieldByName("SessionTokenUtilization").Elem().Int()
				if n != int64(len(*creds.SessionToken)) || used != (n*100+4095)/4096 {
					t.Errorf("the token has %d bytes; the answer says %d, %d percent", len(*creds.SessionToken), n, used)
				}
			}
			if _, err := w.with(creds).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{}); err != nil {
				t.Errorf("what was minted does not sign: %v", err)
			}
			info, err := w.user.GetAccessKeyInfo(t.Context(), &sts.GetAccessKeyInfoInput{AccessKeyId: creds.AccessKeyId})
			if want := map[bool]string{true: memberID, false: stsfake.Account}[action == "AssumeRoot"]; err != nil || *info.Account != want {
				t.Errorf("the key is of %v, %v; want %s", info, err, want)
			}
		})
	}
}

func TestTargets(t *testing.T) {
	for action, want := range map[string]string{
		"AssumeRole": deploy, "AssumeRoleWithWebIdentity": ci, "AssumeRoleWithSAML": staff, "GetFederationToken": "bob", "AssumeRoot": memberID,
		"GetDelegatedAccessToken": deploy, "GetAccessKeyInfo": keyID, "GetWebIdentityToken": "https://a.example,https://b.example",
		"GetSessionToken": "", "GetCallerIdentity": "", "DecodeAuthorizationMessage": "",
	} {
		w := newWorld()
		if _, err := call(w.user, action, w.good()[action]); err != nil {
			t.Error(err)
		}
		if got := w.Calls()[0].Target; got != want {
			t.Errorf("%s: target %q, want %q", action, got, want)
		}
	}
}

// fill sets every field, to what passes the SDK's own checks.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i))
		}
	case reflect.String:
		v.SetString("x")
	case reflect.Int32:
		v.SetInt(900)
	default:
		panic(v.Type())
	}
}

// Whatever the SDK can send is understood, but for the one parameter that the
// stand-in refuses by name.
func TestParametersOfTheSDKAreKnown(t *testing.T) {
	for _, action := range operations() {
		w := newWorld()
		full, lists := reflect.New(reflect.ValueOf(w.good()[action]).Type().Elem()), reflect.New(reflect.ValueOf(w.good()[action]).Type().Elem())
		fill(full.Elem())
		fill(lists.Elem())
		for i := range lists.Elem().NumField() { // lists without a member are sent too
			if f := lists.Elem().Field(i); f.Kind() == reflect.Slice {
				f.SetLen(0)
			}
		}
		for _, in := range []reflect.Value{full, lists} {
			if size := in.Elem().FieldByName("MinimumSessionTokenSize"); size.IsValid() {
				_, err := call(w.user, action, in.Interface())
				wantCode(t, err, "InvalidParameterValue", "does not know the parameter MinimumSessionTokenSize of "+action)
				size.SetZero()
			}
			if _, err := call(w.user, action, in.Interface()); err != nil && strings.Contains(err.Error(), "does not know") {
				t.Error(err)
			}
		}
	}
}

func TestFaultCodeReachesEveryAction(t *testing.T) {
	for _, action := range operations() {
		w := newWorld()
		w.SetFault(stsfake.Fault{Kind: stsfake.FaultCode, Status: 418, Code: "Teapot", Message: "short and stout"})
		_, err := call(w.user, action, w.good()[action])
		wantCode(t, err, "Teapot", "short and stout")
		var re interface{ HTTPStatusCode() int }
		if !errors.As(err, &re) || re.HTTPStatusCode() != 418 {
			t.Errorf("%s: %v, want HTTP 418", action, err)
		}
		w.SetFault(stsfake.Fault{Kind: stsfake.FaultCode, Action: "Other", Code: "Teapot"})
		if _, err := call(w.user, action, w.good()[action]); err != nil {
			t.Errorf("%s under another action's fault: %v", action, err)
		}
	}
	w := newWorld()
	w.SetFault(stsfake.Fault{Kind: stsfake.FaultCode, Code: "MalformedPolicyDocument"})
	_, err := call(w.user, "AssumeRole", w.good()["AssumeRole"])
	var malformed *types.MalformedPolicyDocumentException
	if !errors.As(err, &malformed) {
		t.Errorf("got %v", err)
	}
}

// The table "Compare AWS STS credentials" of the IAM user guide, and more.
func TestWhoMayCallWhat(t *testing.T) {
	w := newWorld()
	ctx := t.Context()
	session := func(c *sts.Client) *sts.Client {
		out, err := c.GetSessionToken(ctx, &sts.GetSessionTokenInput{})
		if err != nil {
			t.Fatal(err)
		}
		return w.with(out.Credentials)
	}
	minted := func(action string) *sts.Client {
		out, err := call(w.user, action, w.good()[action])
		if err != nil {
			t.Fatal(err)
		}
		return w.with(out.FieldByName("Credentials").Interface().(*types.Credentials))
	}
	callers := map[string]*sts.Client{
		"user": w.user, "root": w.root, "user's session": session(w.user), "session with MFA": minted("GetSessionToken"), "root's session": session(w.root),
		"role": minted("AssumeRole"), "web identity": minted("AssumeRoleWithWebIdentity"), "SAML": minted("AssumeRoleWithSAML"),
		"federated": minted("GetFederationToken"), "task": minted("AssumeRoot"), "delegated": minted("GetDelegatedAccessToken"),
	}
	signed := []string{"GetSessionToken", "GetFederationToken", "AssumeRole", "AssumeRoot", "GetDelegatedAccessToken", "DecodeAuthorizationMessage", "GetAccessKeyInfo", "GetWebIdentityToken", "GetCallerIdentity"}
	w.AddRole(stsfake.Role{ARN: deploy, Trust: []string{"*"}})
	rest := signed[4:]
	may := map[string][]string{
		"user": signed, "root": append([]string{"GetSessionToken", "GetFederationToken"}, rest...),
		"user's session": {"AssumeRole", "GetCallerIdentity"}, "session with MFA": {"AssumeRole", "GetCallerIdentity"}, "root's session": {"GetCallerIdentity"},
		"role": signed[2:], "web identity": signed[2:], "SAML": signed[2:], "delegated": signed[2:],
		"federated": {"GetCallerIdentity"}, "task": {"GetCallerIdentity"},
	}
	for who, c := range callers {
		for _, action := range signed {
			in := w.good()[action]
			switch in := in.(type) {
			case *sts.GetSessionTokenInput:
				in.SerialNumber, in.TokenCode = nil, nil
			case *sts.AssumeRoleInput: // nothing that a chain may not set again
				in.SourceIdentity, in.Tags, in.TransitiveTagKeys = nil, nil, nil
			}
			_, err := call(c, action, in)
			if want := map[bool]string{true: "", false: "AccessDenied"}[slices.Contains(may[who], action)]; errorCode(err) != want {
				t.Errorf("%s calls %s: %v, want %q", who, action, err, want)
			}
		}
	}
	_, err := call(w.root, "AssumeRole", w.good()["AssumeRole"])
	wantCode(t, err, "AccessDenied", "Roles may not be assumed by root accounts.")
	_, err = call(callers["role"], "GetFederationToken", w.good()["GetFederationToken"])
	wantCode(t, err, "AccessDenied", "Cannot call GetFederationToken with session credentials")
	_, err = call(callers["user's session"], "AssumeRoot", w.good()["AssumeRoot"])
	wantCode(t, err, "AccessDenied", "User: "+userARN+" is not authorized to perform: sts:AssumeRoot")
}

func TestDurations(t *testing.T) {
	type limits struct{ byDefault, shortest, longest int }
	for action, l := range map[string]limits{
		"GetSessionToken":           {43200, 900, 129600},
		"AssumeRole":                {3600, 900, 43200},
		"AssumeRoleWithWebIdentity": {3600, 900, 43200},
		"AssumeRoleWithSAML":        {3600, 900, 43200},
		"GetFederationToken":        {43200, 900, 129600},
		"AssumeRoot":                {900, 0, 900},
		"GetWebIdentityToken":       {300, 60, 3600},
	} {
		w := newWorld()
		for _, arn := range []string{deploy, ci, staff} {
			w.AddRole(stsfake.Role{ARN: arn, Trust: []string{"*"}, Subjects: []string{"repo:main"}, SAML: []string{provider}, MaxSession: 12 * time.Hour})
		}
		lives := func(seconds *int32) (time.Duration, error) {
			in := w.good()[action]
			switch i := in.(type) {
			case *sts.GetSessionTokenInput:
				i.SerialNumber, i.TokenCode = nil, nil
			case *sts.AssumeRoleWithSAMLInput:
				i.SAMLAssertion = w.saml(stsfake.SAMLAssertion{}).SAMLAssertion
			}
			reflect.ValueOf(in).Elem().FieldByName("DurationSeconds").Set(reflect.ValueOf(seconds))
			before := w.Now().Truncate(time.Second)
			out, err := call(w.user, action, in)
			if err != nil {
				return 0, err
			}
			ends := out.FieldByName("Expiration")
			if !ends.IsValid() {
				ends = out.FieldByName("Credentials").Elem().FieldByName("Expiration")
			}
			life := ends.Interface().(*time.Time).Sub(before)
			return life - life%(5*time.Second), nil // the test itself may take a moment
		}
		check := func(asked *int32, want int, code string) {
			t.Helper()
			got, err := lives(asked)
			wanted := time.Duration(want) * time.Second
			if errorCode(err) != code || code == "" && got != wanted-wanted%(5*time.Second) {
				t.Errorf("%s for %v: %v, %v; want %d s, %q", action, aws.ToInt32(asked), got, err, want, code)
			}
		}
		check(nil, l.byDefault, "")
		check(aws.Int32(int32(l.shortest)), l.shortest, "")
		check(aws.Int32(int32(l.longest)), l.longest, "")
		check(aws.Int32(int32(l.shortest)-1), 0, "ValidationError")
		check(aws.Int32(int32(l.longest)+1), 0, "ValidationError")
	}
}

func TestRootsSessionsAreCut(t *testing.T) {
	w := newWorld()
	ctx := t.Context()
	for asked, want := range map[int32]time.Duration{0: time.Hour, 900: 15 * time.Minute, 3600: time.Hour, 7200: time.Hour} {
		var seconds *int32
		if asked != 0 {
			seconds = &asked
		}
		a, err1 := w.root.GetSessionToken(ctx, &sts.GetSessionTokenInput{DurationSeconds: seconds})
		b, err2 := w.root.GetFederationToken(ctx, &sts.GetFederationTokenInput{Name: aws.String("bob"), DurationSeconds: seconds})
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*types.Credentials{a.Credentials, b.Credentials} {
			if got := c.Expiration.Sub(w.Now()); got > want || got < want-5*time.Second {
				t.Errorf("for %d s: %v, want %v", asked, got, want)
			}
		}
	}
	_, err := w.root.GetSessionToken(ctx, &sts.GetSessionTokenInput{DurationSeconds: aws.Int32(899)})
	wantCode(t, err, "ValidationError", "899")
	who, err := w.root.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil || *who.Arn != "arn:aws:iam::123456789012:root" || *who.UserId != stsfake.Account {
		t.Errorf("root is %v, %v", who, err)
	}
}

func TestAccessKeys(t *testing.T) {
	w := newWorld()
	seen := map[string]bool{}
	for range 300 {
		out, err := assume(w.user, nil)
		if err != nil {
			t.Fatal(err)
		}
		id := *out.Credentials.AccessKeyId
		if len(id) != 20 || !strings.HasPrefix(id, "ASIA") || seen[id] {
			t.Fatalf("minted the key id %s, a new one: %v", id, !seen[id])
		}
		seen[id] = true
	}
	for id, code := range map[string]string{
		rootKey: "", "AKIAUNKNOWNUNKNOWNUN": "ValidationError", "ASIAUNKNOWNUNKNOWNUN": "ValidationError",
		"short": "ValidationError", "AKIA-NOT-A-KEY-ID-AT": "ValidationError", strings.Repeat("A", 129): "ValidationError",
	} {
		out, err := w.user.GetAccessKeyInfo(t.Context(), &sts.GetAccessKeyInfoInput{AccessKeyId: &id})
		if errorCode(err) != code || code == "" && *out.Account != stsfake.Account {
			t.Errorf("%s: %v, %v", id, out, err)
		}
	}
}

func TestFederation(t *testing.T) {
	w := newWorld()
	ctx := t.Context()
	for name, code := range map[string]string{"b": "ValidationError", "bo": "", strings.Repeat("b", 32): "", strings.Repeat("b", 33): "ValidationError", "b b": "ValidationError"} {
		out, err := w.user.GetFederationToken(ctx, &sts.GetFederationTokenInput{Name: &name})
		if errorCode(err) != code {
			t.Errorf("%q: %v", name, err)
		} else if err == nil && (*out.FederatedUser.Arn != "arn:aws:sts::123456789012:federated-user/"+name || *out.FederatedUser.FederatedUserId != "123456789012:"+name || out.PackedPolicySize != nil) { //nolint:staticcheck // deprecated in the SDK, and answered by AWS
			t.Errorf("%q is %v", name, out)
		}
	}
	w.SetFault(stsfake.Fault{Kind: stsfake.FaultWrongRole})
	out, err := w.user.GetFederationToken(ctx, &sts.GetFederationTokenInput{Name: aws.String("bob")})
	if err != nil || strings.Contains(*out.FederatedUser.Arn, "bob") {
		t.Errorf("under the fault of another identity: %v, %v", out, err)
	}
}

func TestAssumeRoot(t *testing.T) {
	w := newWorld()
	for name, c := range map[string]struct{ target, policy, code string }{
		"account":         {memberID, audit, ""},
		"ARN":             {"arn:aws:iam::" + memberID + ":root", audit, ""},
		"create":          {memberID, strings.Replace(audit, "IAMAudit", "IAMDelete", 1), ""},
		"another policy":  {memberID, "arn:aws:iam::aws:policy/ReadOnlyAccess", "ValidationError"},
		"no such task":    {memberID, "arn:aws:iam::aws:policy/root-task/Anything", "ValidationError"},
		"not a member":    {"999999999999", audit, "AccessDenied"},
		"itself":          {stsfake.Account, audit, "AccessDenied"},
		"half an ARN":     {memberID + ":root", audit, "ValidationError"},
		"a role":          {"arn:aws:iam::" + memberID + ":role/x", audit, "ValidationError"},
		"short":           {"123", audit, "ValidationError"},
		"unlock a bucket": {memberID, "arn:aws:iam::aws:policy/root-task/S3UnlockBucketPolicy", ""},
		"unlock a queue":  {memberID, "arn:aws:iam::aws:policy/root-task/SQSUnlockQueuePolicy", ""},
		"create password": {memberID, "arn:aws:iam::aws:policy/root-task/IAMCreateRootUserPassword", ""},
	} {
		out, err := w.user.AssumeRoot(t.Context(), &sts.AssumeRootInput{TargetPrincipal: &c.target, TaskPolicyArn: &types.PolicyDescriptorType{Arn: &c.policy}})
		if errorCode(err) != c.code {
			t.Errorf("%s: %v, want %q", name, err, c.code)
		}
		if err == nil {
			who, err := w.with(out.Credentials).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
			if err != nil || *who.Arn != "arn:aws:iam::"+memberID+":root" || *who.Account != memberID {
				t.Errorf("%s: the session is %v, %v", name, who, err)
			}
		}
	}
}

func TestTradeIn(t *testing.T) {
	w := newWorld()
	for name, c := range map[string]struct{ token, code, who string }{
		"role":         {w.TradeInToken(deploy, time.Minute), "", deploy},
		"session":      {w.TradeInToken("arn:aws:sts::123456789012:assumed-role/x/y", time.Minute), "", "arn:aws:sts::123456789012:assumed-role/x/y"},
		"user":         {w.TradeInToken(userARN, time.Minute), "", userARN},
		"expired":      {w.TradeInToken(deploy, 0), "ExpiredTradeInTokenException", ""},
		"nobody":       {w.TradeInToken("somebody", time.Minute), "ValidationError", ""},
		"not ours":     {stsfake.New().TradeInToken(deploy, time.Minute), "AccessDenied", ""},
		"of that kind": {w.ContextAssertion(deploy, time.Minute), "AccessDenied", ""},
	} {
		out, err := w.user.GetDelegatedAccessToken(t.Context(), &sts.GetDelegatedAccessTokenInput{TradeInToken: &c.token})
		if errorCode(err) != c.code || err == nil && *out.AssumedPrincipal != c.who {
			t.Errorf("%s: %v, %v", name, out, err)
		}
		if err != nil {
			continue
		}
		if who, err := w.with(out.Credentials).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{}); err != nil || *who.Arn != c.who {
			t.Errorf("%s: the session is %v, %v", name, who, err)
		}
	}
}

func TestSecretsAreNotRepeated(t *testing.T) {
	w := newWorld()
	const token = "hush"
	for name, in := range map[string]any{
		"AssumeRoleWithWebIdentity": &sts.AssumeRoleWithWebIdentityInput{RoleArn: aws.String(ci), RoleSessionName: aws.String("ci"), WebIdentityToken: aws.String(strings.Repeat(token, 5001))},
		"AssumeRoleWithSAML":        &sts.AssumeRoleWithSAMLInput{RoleArn: aws.String(staff), PrincipalArn: aws.String(provider), SAMLAssertion: aws.String(strings.Repeat(token, 25001))},
	} {
		if _, err := call(w.user, name, in); errorCode(err) != "ValidationError" || strings.Contains(err.Error(), token) {
			t.Errorf("%s: %.300v", name, fmt.Sprint(err))
		}
	}
}
