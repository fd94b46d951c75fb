package stsfake_test

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

func TestEncodedDenials(t *testing.T) {
	w := newWorld()
	ctx := t.Context()
	decode := func(message string) (string, error) {
		out, err := w.user.DecodeAuthorizationMessage(ctx, &sts.DecodeAuthorizationMessageInput{EncodedMessage: &message})
		if err != nil {
			return "", err
		}
		return *out.DecodedMessage, nil
	}
	denied := func() string {
		_, err := assume(w.user, func(in *sts.AssumeRoleInput) { in.RoleArn = aws.String(last) })
		var e smithy.APIError
		if !errors.As(err, &e) || e.ErrorCode() != "AccessDenied" {
			t.Fatalf("got %v", err)
		}
		return e.ErrorMessage()
	}
	if m := denied(); strings.Contains(m, "Encoded") {
		t.Errorf("encoded by default: %s", m)
	}
	w.EncodeDenials(true)
	m := regexp.MustCompile(`is not authorized to perform: sts:AssumeRole on resource: \S+ Encoded authorization failure message: ([\w-]+)$`).FindStringSubmatch(denied())
	if m == nil {
		t.Fatalf("got %q", denied())
	}
	type document struct {
		Allowed           *bool
		ExplicitDeny      *bool
		MatchedStatements struct{ Items []any }
		Context           struct {
			Principal        struct{ ID, ARN string }
			Action, Resource string
		}
	}
	for name, c := range map[string]struct {
		message  string
		explicit bool
	}{
		"own":      {m[1], false},
		"explicit": {w.Encoded(stsfake.Denial{Principal: userARN, Action: "sts:AssumeRole", Resource: last, Explicit: true}), true},
	} {
		text, err := decode(c.message)
		if err != nil {
			t.Fatal(err)
		}
		var d document
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			t.Fatal(err)
		}
		if d.Allowed == nil || *d.Allowed || d.ExplicitDeny == nil || *d.ExplicitDeny != c.explicit || (len(d.MatchedStatements.Items) == 1) != c.explicit ||
			d.Context.Principal.ARN != userARN || d.Context.Principal.ID == "" || d.Context.Action != "sts:AssumeRole" || d.Context.Resource != last {
			t.Errorf("%s: %s", name, text)
		}
	}
	for _, bad := range []string{"x", m[1] + "A", m[1] + "\n", stsfake.New().Encoded(stsfake.Denial{}), w.TradeInToken(deploy, 1)} {
		_, err := decode(bad)
		wantCode(t, err, "InvalidAuthorizationMessageException", "Message is not valid")
	}
	_, err := decode(strings.Repeat("x", 10241))
	wantCode(t, err, "ValidationError", "encodedMessage")
	// Other errors stay as they are.
	_, err = w.user.GetAccessKeyInfo(ctx, &sts.GetAccessKeyInfoInput{AccessKeyId: aws.String("x")})
	if err == nil || strings.Contains(err.Error(), "Encoded") {
		t.Error(err)
	}
}
