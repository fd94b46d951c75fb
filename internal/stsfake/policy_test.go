package stsfake_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

func policyOf(length int) *string {
	const start, end = `{"Statement":[{"Effect":"Allow","Action":"`, `","Resource":"*"}]}`
	return aws.String(start + strings.Repeat("a", length-len(start)-len(end)) + end)
}

func arns(n int, arn string) (list []types.PolicyDescriptorType) {
	for range n {
		list = append(list, types.PolicyDescriptorType{Arn: &arn})
	}
	return list
}

func tagsOf(kv ...string) (list []types.Tag) {
	for i := 0; i < len(kv); i += 2 {
		list = append(list, types.Tag{Key: &kv[i], Value: &kv[i+1]})
	}
	return list
}

func manyTags(n int) (list []types.Tag) {
	for i := range n {
		list = append(list, tagsOf(fmt.Sprint("k", i), "v")...)
	}
	return list
}

type roleIn = sts.AssumeRoleInput

func TestAssumeRoleInputs(t *testing.T) {
	w := newWorld()
	const center = "arn:aws:iam::aws:contextProvider/IdentityCenter"
	context1 := func(provider, assertion string) func(*roleIn) {
		return func(i *roleIn) {
			i.ProvidedContexts = []types.ProvidedContext{{ProviderArn: &provider, ContextAssertion: &assertion}}
		}
	}
	policy := func(p string) func(*roleIn) { return func(i *roleIn) { i.Policy = &p } }
	tags := func(list []types.Tag, transitive ...string) func(*roleIn) {
		return func(i *roleIn) { i.Tags, i.TransitiveTagKeys = list, transitive }
	}
	managed := func(list []types.PolicyDescriptorType) func(*roleIn) {
		return func(i *roleIn) { i.PolicyArns = list }
	}
	const aws1, own, foreign = "arn:aws:iam::aws:policy/ReadOnlyAccess", "arn:aws:iam::123456789012:policy/team/x", "arn:aws:iam::210987654321:policy/x"
	long := "arn:aws:iam::123456789012:policy/" + strings.Repeat("x/", 110)

	for name, c := range map[string]struct {
		change      func(*roleIn)
		code, words string
	}{
		"policy":                  {policy(oneAllow), "", ""},
		"one statement":           {policy(`{"Statement":{"Effect":"Deny","Action":"*","Resource":"*"}}`), "", ""},
		"policy with tabs":        {policy("{\t\"Statement\":\r\n[{\"Effect\":\"Allow\"}]}"), "", ""},
		"policy no JSON":          {policy("{"), "MalformedPolicyDocument", "invalid Json"},
		"policy no object":        {policy("[]"), "MalformedPolicyDocument", "Syntax errors in policy."},
		"policy no statement":     {policy(`{"Version":"2012-10-17"}`), "MalformedPolicyDocument", "Syntax errors in policy."},
		"policy empty statements": {policy(`{"Statement":[]}`), "MalformedPolicyDocument", "Syntax errors in policy."},
		"policy no effect":        {policy(`{"Statement":[{"Action":"*"}]}`), "MalformedPolicyDocument", "Syntax errors in policy."},
		"policy empty":            {policy(""), "ValidationError", "greater than or equal to 1"},
		"policy other letters":    {policy(strings.Replace(oneAllow, "s3", "ś3", 1)), "ValidationError", "regular expression"},
		"policy 1024":             {func(i *roleIn) { i.Policy = policyOf(1024) }, "", ""},
		"policy 1025":             {func(i *roleIn) { i.Policy = policyOf(1025) }, "PackedPolicyTooLarge", "Packed policy consumes 101% of allotted space"},
		"policy 2049":             {func(i *roleIn) { i.Policy = policyOf(2049) }, "ValidationError", "less than or equal to 2048"},
		"policy mostly blank":     {policy(oneAllow + strings.Repeat(" ", 1500)), "", ""},

		"10 ARNs":           {managed(arns(10, aws1)), "", ""},
		"11 ARNs":           {managed(arns(11, aws1)), "ValidationError", "less than or equal to 10"},
		"own ARN":           {managed(arns(1, own)), "", ""},
		"another account's": {managed(arns(1, foreign)), "ValidationError", foreign + " is invalid"},
		"no policy's ARN":   {managed(arns(1, deploy)), "ValidationError", "is invalid"},
		"short ARN":         {managed(arns(1, "arn:x")), "ValidationError", "policyArns.1.member.arn"},
		"2048 in all":       {func(i *roleIn) { i.PolicyArns, i.Policy = arns(7, long), policyOf(2049-7*len(long)) }, "ValidationError", "2049 characters together"},

		"tags":               {tags(tagsOf("Team", "blue", "a b/c:d=e+f-g@h.ü", "")), "", ""},
		"50 tags":            {tags(manyTags(50)), "", ""},
		"51 tags":            {tags(manyTags(51)), "ValidationError", "'tags' failed to satisfy constraint: Member must have length less than or equal to 50"},
		"tag without key":    {tags(tagsOf("", "v")), "ValidationError", "tags.1.member.key"},
		"key 128":            {tags(tagsOf(strings.Repeat("ü", 128), "v")), "", ""},
		"key 129":            {tags(tagsOf(strings.Repeat("k", 129), "v")), "ValidationError", "less than or equal to 128"},
		"value 256":          {tags(tagsOf("k", strings.Repeat("v", 256))), "", ""},
		"value 257":          {tags(tagsOf("k", strings.Repeat("v", 257))), "ValidationError", "tags.1.member.value"},
		"key's characters":   {tags(tagsOf("k", "v", "a*", "v")), "ValidationError", "tags.2.member.key"},
		"value's characters": {tags(tagsOf("k", "<v>")), "ValidationError", "tags.1.member.value"},
		"same key":           {tags(tagsOf("Team", "a", "team", "b")), "InvalidParameterValue", "Duplicate tag keys found."},
		"transitive":         {tags(tagsOf("Team", "a"), "tEAM"), "", ""},
		"not among tags":     {tags(tagsOf("Team", "a"), "other"), "InvalidParameterValue", "must be included in the requested tags"},
		"large tags":         {tags(tagsOf("a", strings.Repeat("v", 256), "b", strings.Repeat("v", 256), "c", strings.Repeat("v", 256), "d", strings.Repeat("v", 256))), "PackedPolicyTooLarge", "Packed size of session tags consumes 101% of allotted space."},

		"source identity":       {func(i *roleIn) { i.SourceIdentity = aws.String("ana@corp.example") }, "", ""},
		"source identity short": {func(i *roleIn) { i.SourceIdentity = aws.String("a") }, "ValidationError", "sourceIdentity"},
		"source identity long":  {func(i *roleIn) { i.SourceIdentity = aws.String(strings.Repeat("a", 65)) }, "ValidationError", "sourceIdentity"},
		"source identity aws:":  {func(i *roleIn) { i.SourceIdentity = aws.String("aws:ana") }, "ValidationError", "sourceIdentity"},
		"external id short":     {func(i *roleIn) { i.ExternalId = aws.String("a") }, "ValidationError", "externalId"},
		"external id":           {func(i *roleIn) { i.ExternalId = aws.String("a/b:c") }, "", ""},
		"external id long":      {func(i *roleIn) { i.ExternalId = aws.String(strings.Repeat("a", 1225)) }, "ValidationError", "externalId"},

		"context":            {context1(center, w.ContextAssertion(center, time.Minute)), "", ""},
		"context expired":    {context1(center, w.ContextAssertion(center, 0)), "ExpiredTokenException", "expired"},
		"context of another": {context1(center+"2", w.ContextAssertion(center, time.Minute)), "ValidationError", "invalid"},
		"context not ours":   {context1(center, stsfake.New().ContextAssertion(center, time.Minute)), "ValidationError", "invalid"},
		"context too short":  {context1(center, "abc"), "ValidationError", "contextAssertion"},
		"context's provider": {context1("center", w.ContextAssertion("center", time.Minute)), "ValidationError", "providedContexts.1.member.providerArn"},
		"more contexts than 5": {func(i *roleIn) {
			i.ProvidedContexts = make([]types.ProvidedContext, 6)
			for n := range i.ProvidedContexts {
				i.ProvidedContexts[n] = types.ProvidedContext{ProviderArn: aws.String(center), ContextAssertion: aws.String("abcd")}
			}
		}, "ValidationError", "less than or equal to 5"},
	} {
		_, err := assume(w.user, c.change)
		if c.code != "" {
			if wantCode(t, err, c.code, c.words); t.Failed() {
				t.Fatal(name)
			}
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	// The answer says how much of the space was used; nothing when nothing was packed.
	out, err := assume(w.user, tags(tagsOf("key0", strings.Repeat("v", 252), "key1", strings.Repeat("v", 252))))
	if err != nil || aws.ToInt32(out.PackedPolicySize) != 50 { //nolint:staticcheck // as above
		t.Errorf("packed size of 512 bytes: %v, %v", out, err)
	}
	if out, err = assume(w.user, nil); err != nil || out.PackedPolicySize != nil || out.SourceIdentity != nil { //nolint:staticcheck // as above
		t.Errorf("got %v, %v", out, err)
	}
	// Typed as the SDK knows them.
	var packed *types.PackedPolicyTooLargeException
	if _, err = assume(w.user, func(i *roleIn) { i.Policy = policyOf(1025) }); !errors.As(err, &packed) {
		t.Errorf("got %v", err)
	}
}

func TestChains(t *testing.T) {
	w := newWorld()
	first := w.assumed(t, w.user, deploy, func(i *roleIn) {
		i.SourceIdentity, i.Tags, i.TransitiveTagKeys = aws.String("ana"), tagsOf("Team", strings.Repeat("v", 200), "Once", "x"), []string{"Team"}
	})
	to := func(role string, change func(*roleIn)) func(*roleIn) {
		return func(i *roleIn) {
			i.RoleArn = &role
			if change != nil {
				change(i)
			}
		}
	}
	out, err := assume(first, to(hop, nil))
	if err != nil || aws.ToString(out.SourceIdentity) != "ana" || aws.ToInt32(out.PackedPolicySize) != 20 { //nolint:staticcheck // as above
		t.Fatalf("second link: %+v, %v", out, err)
	}
	second := w.with(out.Credentials)
	for name, c := range map[string]struct {
		by          *sts.Client
		change      func(*roleIn)
		code, words string
	}{
		"third":                {second, to(last, nil), "", ""},
		"same source identity": {second, to(last, func(i *roleIn) { i.SourceIdentity = aws.String("ana") }), "", ""},
		"other source":         {second, to(last, func(i *roleIn) { i.SourceIdentity = aws.String("bob") }), "ValidationError", "The source identity is already set for this assume role session"},
		"inherited tag":        {second, to(last, func(i *roleIn) { i.Tags = tagsOf("TEAM", "red") }), "InvalidParameterValue", "conflicts with a transitive tag key from the calling session"},
		"tag that was not":     {second, to(last, func(i *roleIn) { i.Tags = tagsOf("Once", "y") }), "", ""},
		"an hour":              {second, to(last, func(i *roleIn) { i.DurationSeconds = aws.Int32(3600) }), "", ""},
		"more than an hour":    {first, to(hop, func(i *roleIn) { i.DurationSeconds = aws.Int32(3601) }), "ValidationError", "1 hour session limit for roles assumed by role chaining"},
		"inherited tags count": {second, to(last, func(i *roleIn) { i.Policy = policyOf(1000) }), "PackedPolicyTooLarge", ""},
	} {
		_, err := assume(c.by, c.change)
		if c.code != "" {
			wantCode(t, err, c.code, c.words)
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// From identity providers too.
	for action, in := range w.good() {
		if action != "AssumeRoleWithSAML" && action != "AssumeRoleWithWebIdentity" {
			continue
		}
		out, err := call(w.user, action, in)
		if err != nil {
			t.Fatal(err)
		}
		by := w.with(out.FieldByName("Credentials").Interface().(*types.Credentials))
		_, err = assume(by, to(hop, func(i *roleIn) { i.SourceIdentity = aws.String("bob") }))
		wantCode(t, err, "ValidationError", "source identity is already set")
		_, err = assume(by, to(hop, func(i *roleIn) { i.Tags = tagsOf("team", "red") }))
		wantCode(t, err, "InvalidParameterValue", "conflicts")
	}
}

func TestPoliciesOfOtherActions(t *testing.T) {
	w := newWorld()
	ctx := t.Context()
	saml := w.saml(stsfake.SAMLAssertion{})
	for what, change := range map[string]struct {
		policy *string
		arns   []types.PolicyDescriptorType
	}{
		"MalformedPolicyDocument": {policy: aws.String("no")},
		"PackedPolicyTooLarge":    {policy: policyOf(1100)},
		"ValidationError":         {arns: arns(11, "arn:aws:iam::aws:policy/ReadOnlyAccess")},
	} {
		saml.Policy, saml.PolicyArns = change.policy, change.arns
		_, err := w.user.AssumeRoleWithSAML(ctx, saml)
		wantCode(t, err, what, "")
		_, err = w.user.AssumeRoleWithWebIdentity(ctx, &sts.AssumeRoleWithWebIdentityInput{RoleArn: aws.String(ci), RoleSessionName: aws.String("ci"),
			WebIdentityToken: aws.String(w.IdentityToken("repo:main", time.Minute)), Policy: change.policy, PolicyArns: change.arns})
		wantCode(t, err, what, "")
		_, err = w.user.GetFederationToken(ctx, &sts.GetFederationTokenInput{Name: aws.String("bob"), Policy: change.policy, PolicyArns: change.arns})
		wantCode(t, err, what, "")
	}
	_, err := w.user.GetFederationToken(ctx, &sts.GetFederationTokenInput{Name: aws.String("bob"), Tags: tagsOf("a", "1", "A", "2")})
	wantCode(t, err, "InvalidParameterValue", "Duplicate tag keys")
}
