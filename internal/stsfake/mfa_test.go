package stsfake_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// RFC 6238, appendix B, for SHA-1: of its eight digits the last six.
func TestTOTP(t *testing.T) {
	for at, want := range map[int64]string{59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130"} {
		if got := stsfake.TOTP(seed, time.Unix(at, 0)); got != want {
			t.Errorf("at %d: %s, want %s", at, got, want)
		}
	}
}

const (
	wrongCode   = "MultiFactorAuthentication failed with invalid MFA one time pass code. "
	wrongDevice = "MultiFactorAuthentication failed, unable to validate MFA code."
	halfMFA     = "MultiFactorAuthentication failed, must provide both MFA serial number and one time pass code. "
)

func TestCodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.AddUser("other", "AKIAOTHEROTHEROTHERO", secret)
		w.AddMFA("", "arn:aws:iam::123456789012:mfa/root-account-mfa-device", seed)
		other := w.client("AKIAOTHEROTHEROTHERO", secret, "")
		at := func(d time.Duration) string { return stsfake.TOTP(seed, time.Now().Add(d)) }
		show := func(c *sts.Client, serial, code string) error {
			in := &sts.GetSessionTokenInput{}
			if serial != "" {
				in.SerialNumber = &serial
			}
			if code != "" {
				in.TokenCode = &code
			}
			_, err := c.GetSessionToken(t.Context(), in)
			return err
		}
		for _, c := range []struct {
			name         string
			by           *sts.Client
			serial, code string
			want, words  string
		}{
			{"none", w.user, "", "", "", ""},
			{"serial alone", w.user, phone, "", "AccessDenied", halfMFA},
			{"code alone", w.user, "", at(0), "AccessDenied", halfMFA},
			{"no such device", w.user, phone + "2", at(0), "AccessDenied", wrongDevice},
			{"another's device", other, phone, at(0), "AccessDenied", wrongDevice},
			{"two windows early", w.user, phone, at(-time.Minute), "AccessDenied", wrongCode},
			{"two windows late", w.user, phone, at(time.Minute), "AccessDenied", wrongCode},
			{"letters", w.user, phone, "12345a", "ValidationError", "regular expression"},
			{"five digits", w.user, phone, "12345", "ValidationError", "greater than or equal to 6"},
			{"short serial", w.user, "abc", at(0), "ValidationError", "serialNumber"},
			{"window before", w.user, phone, at(-30 * time.Second), "", ""},
			{"now", w.user, phone, w.Code(phone), "", ""},
			{"window after", w.user, phone, at(30 * time.Second), "", ""},
			{"window before, again", w.user, phone, at(-30 * time.Second), "AccessDenied", wrongCode},
			{"now, again", w.user, phone, at(0), "AccessDenied", wrongCode},
			{"root's", w.root, "arn:aws:iam::123456789012:mfa/root-account-mfa-device", at(0), "", ""},
		} {
			err := show(c.by, c.serial, c.code)
			if c.want != "" {
				wantCode(t, err, c.want, c.words)
			} else if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		time.Sleep(time.Minute) // of simulated time
		if err := show(w.user, phone, at(0)); err != nil {
			t.Errorf("a minute later: %v", err)
		}
		// The device's clock is the stand-in's.
		w.SetOffset(10 * time.Minute)
		if w.Code(phone) != at(10*time.Minute) || w.Code("none") != "" {
			t.Error("the device does not go by the stand-in's clock")
		}
	})
}

func TestRolesThatRequireMFA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		ctx := t.Context()
		w.AddRole(stsfake.Role{ARN: last, Trust: []string{userARN, deploy}, MFA: true})
		session := func(in *sts.GetSessionTokenInput) *sts.Client {
			out, err := w.user.GetSessionToken(ctx, in)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Minute) // every code is good once
			return w.with(out.Credentials)
		}
		code := func(in *sts.AssumeRoleInput) {
			in.SerialNumber, in.TokenCode = aws.String(phone), aws.String(w.Code(phone))
		}
		plain := session(&sts.GetSessionTokenInput{})
		strong := session(&sts.GetSessionTokenInput{SerialNumber: aws.String(phone), TokenCode: aws.String(w.Code(phone))})
		// A role's session does not remember how it was assumed.
		role := w.assumed(t, w.user, deploy, code)
		time.Sleep(2 * time.Minute)
		no := "User: " + userARN + " is not authorized to perform: sts:AssumeRole on resource: " + last
		for name, c := range map[string]struct {
			by    *sts.Client
			code  func(*sts.AssumeRoleInput)
			words string // of AccessDenied; "" for none
		}{
			"keys":                {w.user, nil, no},
			"keys and code":       {w.user, code, ""},
			"keys and wrong code": {w.user, func(in *sts.AssumeRoleInput) { code(in); in.TokenCode = aws.String("000000") }, wrongCode},
			"session":             {plain, nil, no},
			"session and code":    {plain, code, ""},
			"session with MFA":    {strong, nil, ""},
			"role":                {role, nil, "assumed-role/deploy/tester is not authorized"},
			"role and code":       {role, code, wrongDevice},
		} {
			_, err := assume(c.by, func(in *sts.AssumeRoleInput) {
				in.RoleArn = aws.String(last)
				if c.code != nil {
					c.code(in)
				}
			})
			if c.words != "" {
				wantCode(t, err, "AccessDenied", c.words)
			} else if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			time.Sleep(2 * time.Minute)
		}
	})
}
