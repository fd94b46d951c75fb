package stsfake_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

func TestSAML(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		type in = sts.AssumeRoleWithSAMLInput
		good := stsfake.SAMLAssertion{Provider: provider, Roles: []string{deploy, staff}, SessionName: "ana@corp.example", SessionDuration: 8 * time.Hour}
		with := func(change func(*stsfake.SAMLAssertion)) string {
			a := good
			change(&a)
			return w.Assertion(a)
		}
		raw, _ := base64.StdEncoding.DecodeString(w.Assertion(good))
		edited := func(old, new string) string {
			return base64.StdEncoding.EncodeToString(bytes.ReplaceAll(raw, []byte(old), []byte(new)))
		}
		input := func(assertion string) *in {
			return &in{RoleArn: aws.String(staff), PrincipalArn: aws.String(provider), SAMLAssertion: &assertion}
		}
		for name, c := range map[string]struct {
			assertion   string
			change      func(*in)
			code, words string
			life        time.Duration
		}{
			"good":               {w.Assertion(good), nil, "", "", time.Hour},
			"for two hours":      {w.Assertion(good), func(i *in) { i.DurationSeconds = aws.Int32(7200) }, "", "", 2 * time.Hour},
			"over the role's":    {w.Assertion(good), func(i *in) { i.DurationSeconds = aws.Int32(7201) }, "ValidationError", "exceeds the MaxSessionDuration", 0},
			"session ends first": {with(func(a *stsfake.SAMLAssertion) { a.SessionLife = 10 * time.Minute }), nil, "", "", 10 * time.Minute},
			"session ends later": {with(func(a *stsfake.SAMLAssertion) { a.SessionLife = 8 * time.Hour }), nil, "", "", time.Hour},
			"over both":          {with(func(a *stsfake.SAMLAssertion) { a.SessionLife = 10 * time.Minute }), func(i *in) { i.DurationSeconds = aws.Int32(7201) }, "ValidationError", "exceeds", 0},
			"session over":       {with(func(a *stsfake.SAMLAssertion) { a.SessionLife = -time.Second }), nil, "ExpiredTokenException", "", 0},
			"expired":            {with(func(a *stsfake.SAMLAssertion) { a.Life = -time.Second }), nil, "ExpiredTokenException", "Response has expired", 0},

			"not base64":         {"%%%%", nil, "InvalidIdentityToken", "Invalid base64 SAMLResponse", 0},
			"not XML":            {base64.StdEncoding.EncodeToString([]byte("hello")), nil, "InvalidIdentityToken", "", 0},
			"another document":   {base64.StdEncoding.EncodeToString([]byte("<Response/>")), nil, "InvalidIdentityToken", "", 0},
			"changed":            {edited("role/staff", "role/admin"), nil, "InvalidIdentityToken", "Response signature invalid", 0},
			"signature gone":     {edited("SignatureValue", "Something"), nil, "InvalidIdentityToken", "Response signature invalid", 0},
			"not ours":           {stsfake.New().Assertion(good), nil, "InvalidIdentityToken", "Response signature invalid", 0},
			"recipient":          {with(func(a *stsfake.SAMLAssertion) { a.Recipient = "https://elsewhere.example/saml" }), nil, "InvalidIdentityToken", "recipient", 0},
			"regional recipient": {with(func(a *stsfake.SAMLAssertion) { a.Recipient = "https://eu-central-1.signin.aws.amazon.com/saml" }), nil, "", "", time.Hour},
			"no session name":    {with(func(a *stsfake.SAMLAssertion) { a.SessionName = "" }), nil, "InvalidIdentityToken", "RoleSessionName is required in AuthnResponse", 0},
			"bad session name":   {with(func(a *stsfake.SAMLAssertion) { a.SessionName = "a b" }), nil, "InvalidIdentityToken", "RoleSessionName in AuthnResponse must match", 0},
			"bad source":         {with(func(a *stsfake.SAMLAssertion) { a.SourceIdentity = "aws:me" }), nil, "InvalidIdentityToken", "Source Identity must match", 0},
			"same tag":           {with(func(a *stsfake.SAMLAssertion) { a.Tags = map[string]string{"a": "1", "A": "2"} }), nil, "InvalidParameterValue", "Duplicate", 0},

			"role not asserted":    {with(func(a *stsfake.SAMLAssertion) { a.Roles = []string{deploy} }), nil, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithSAML", 0},
			"provider not trusted": {w.Assertion(good), func(i *in) { i.RoleArn = aws.String(deploy) }, "AccessDenied", "Not authorized", 0},
			"no such role":         {w.Assertion(good), func(i *in) { i.RoleArn = aws.String(staff + "2") }, "AccessDenied", "Not authorized", 0},
			"no such provider":     {w.Assertion(good), func(i *in) { i.PrincipalArn = aws.String(provider + "2") }, "InvalidIdentityToken", "Specified provider doesn't exist", 0},
			"no provider's ARN":    {w.Assertion(good), func(i *in) { i.PrincipalArn = aws.String(deploy) }, "ValidationError", "is invalid", 0},
			"no role's ARN":        {w.Assertion(good), func(i *in) { i.RoleArn = aws.String(provider) }, "ValidationError", "is invalid", 0},
		} {
			i := input(c.assertion)
			if c.change != nil {
				c.change(i)
			}
			out, err := w.client("", "", "").AssumeRoleWithSAML(t.Context(), i)
			if c.code != "" {
				if wantCode(t, err, c.code, c.words); t.Failed() {
					t.Fatal(name)
				}
				continue
			}
			if err != nil || time.Until(*out.Credentials.Expiration) != c.life {
				t.Fatalf("%s: %v, %v", name, out, err)
			}
			// The hash is of the example in the API reference's form: issuer, account, "/", name.
			if *out.Issuer != "https://idp.invalid/saml" || *out.Subject != "ana@corp.example" || *out.SubjectType != "persistent" ||
				!strings.HasSuffix(*out.Audience, "signin.aws.amazon.com/saml") || *out.NameQualifier != "UBlidHC9+uY781yJb5EAW1R5SnY=" ||
				*out.AssumedRoleUser.Arn != "arn:aws:sts::123456789012:assumed-role/staff/ana@corp.example" {
				t.Errorf("%s: answer %s %s %s %s %s %s", name, *out.Issuer, *out.Subject, *out.SubjectType, *out.Audience, *out.NameQualifier, *out.AssumedRoleUser.Arn)
			}
		}

		early := w.Assertion(good)
		w.SetOffset(-2 * time.Minute)
		_, err := w.user.AssumeRoleWithSAML(t.Context(), input(early))
		wantCode(t, err, "InvalidIdentityToken", "not valid yet")
		w.SetOffset(0)
		late := w.Assertion(func() stsfake.SAMLAssertion { a := good; a.Life = time.Hour; return a }())
		time.Sleep(5*time.Minute + time.Second)
		_, err = w.user.AssumeRoleWithSAML(t.Context(), input(late))
		wantCode(t, err, "ExpiredTokenException", "Token must be redeemed within 5 minutes of issuance")
	})
}

func TestSAMLWithAnotherSigner(t *testing.T) {
	w := newWorld()
	var seen []byte
	var verdict error
	w.AddSAMLProvider(provider, func(response []byte) error { seen = response; return verdict })
	in := w.saml(stsfake.SAMLAssertion{})
	in.SAMLAssertion = aws.String(stsfake.New().Assertion(stsfake.SAMLAssertion{Provider: provider, Roles: []string{staff}, SessionName: "ana"}))
	if _, err := w.user.AssumeRoleWithSAML(t.Context(), in); err != nil {
		t.Error(err)
	}
	if raw, _ := base64.StdEncoding.DecodeString(*in.SAMLAssertion); len(raw) == 0 || !bytes.Equal(raw, seen) {
		t.Errorf("the hook saw %q", seen)
	}
	// Each of the two limits counts by itself.
	raw := string(seen)
	for _, element := range []string{"SubjectConfirmationData", "Conditions"} {
		past := regexp.MustCompile(`(<saml:`+element+` [^>]*NotOnOrAfter=")[^"]*`).ReplaceAllString(raw, "${1}2001-01-01T00:00:00Z")
		if past == raw {
			t.Fatalf("no %s in %s", element, raw)
		}
		in.SAMLAssertion = aws.String(base64.StdEncoding.EncodeToString([]byte(past)))
		_, err := w.user.AssumeRoleWithSAML(t.Context(), in)
		wantCode(t, err, "ExpiredTokenException", "Response has expired")
	}
	verdict = errors.New("no")
	_, err := w.user.AssumeRoleWithSAML(t.Context(), in)
	wantCode(t, err, "InvalidIdentityToken", "Response signature invalid")
}
