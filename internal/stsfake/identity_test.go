package stsfake_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// verify is a relying party's check of a JWT, and returns the claims.
func verify(t *testing.T, s *stsfake.Server, token, algorithm string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("no JWT: %s", token)
	}
	var raw [3][]byte
	for i, p := range parts {
		b, err := base64.RawURLEncoding.DecodeString(p)
		if err != nil {
			t.Fatal(err)
		}
		raw[i] = b
	}
	signed, sig := []byte(parts[0]+"."+parts[1]), raw[2]
	switch key := s.PublicKey(algorithm).(type) {
	case *rsa.PublicKey:
		sum := sha256.Sum256(signed)
		if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig); err != nil {
			t.Error(err)
		}
	case *ecdsa.PublicKey:
		sum := sha512.Sum384(signed)
		if len(sig) != 96 || !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(sig[:48]), new(big.Int).SetBytes(sig[48:])) {
			t.Error("the signature does not verify")
		}
	default:
		t.Fatalf("no key for %s", algorithm)
	}
	var head, claims map[string]any
	if json.Unmarshal(raw[0], &head) != nil || head["alg"] != algorithm || json.Unmarshal(raw[1], &claims) != nil {
		t.Errorf("header %s, claims %s", raw[0], raw[1])
	}
	return claims
}

func TestGetWebIdentityToken(t *testing.T) {
	w := newWorld()
	ctx := t.Context()
	role := w.assumed(t, w.user, deploy, nil)
	for _, algorithm := range []string{"RS256", "ES384"} {
		for _, c := range []struct {
			by       *sts.Client
			audience []string
			sub, aud string
		}{
			{w.user, []string{"https://a.example"}, userARN, "https://a.example"},
			{role, []string{"x", "y"}, deploy, "[x y]"},
		} {
			out, err := c.by.GetWebIdentityToken(ctx, &sts.GetWebIdentityTokenInput{Audience: c.audience, SigningAlgorithm: &algorithm, Tags: tagsOf("job", "7")})
			if err != nil {
				t.Fatal(err)
			}
			claims := verify(t, w.Server, *out.WebIdentityToken, algorithm)
			about, _ := claims["https://sts.amazonaws.com/"].(map[string]any)
			if claims["sub"] != c.sub || fmt.Sprint(claims["aud"]) != c.aud || claims["exp"] != float64(out.Expiration.Unix()) || claims["iss"] == "" ||
				about["aws_account"] != stsfake.Account || about["source_region"] != "eu-central-1" || fmt.Sprint(about["request_tags"]) != "map[job:7]" {
				t.Errorf("claims %v until %v", claims, out.Expiration)
			}
		}
	}
	if w.PublicKey("HS256") != nil {
		t.Error("there is a key for HS256")
	}

	big := make([]types.Tag, 0, 30)
	for i := range 30 {
		big = append(big, tagsOf(fmt.Sprint("k", i), strings.Repeat("v", 256))...)
	}
	brief, err := w.user.AssumeRole(ctx, &sts.AssumeRoleInput{RoleArn: aws.String(deploy), RoleSessionName: aws.String("brief"), DurationSeconds: aws.Int32(900)})
	if err != nil {
		t.Fatal(err)
	}
	type in = sts.GetWebIdentityTokenInput
	for name, c := range map[string]struct {
		by     *sts.Client
		change func(*in)
		code   string
	}{
		"no audience":         {w.user, func(i *in) { i.Audience = []string{} }, "ValidationError"},
		"empty audience":      {w.user, func(i *in) { i.Audience = []string{"a", ""} }, "ValidationError"},
		"10 audiences":        {w.user, func(i *in) { i.Audience = strings.Split("0123456789", "") }, ""},
		"11 audiences":        {w.user, func(i *in) { i.Audience = strings.Split("0123456789a", "") }, "ValidationError"},
		"long audience":       {w.user, func(i *in) { i.Audience = []string{strings.Repeat("a", 1001)} }, "ValidationError"},
		"no such algorithm":   {w.user, func(i *in) { i.SigningAlgorithm = aws.String("HS256") }, "ValidationError"},
		"same tag":            {w.user, func(i *in) { i.Tags = tagsOf("a", "1", "A", "2") }, "InvalidParameterValue"},
		"too much":            {w.user, func(i *in) { i.Tags = big }, "JWTPayloadSizeExceededException"},
		"past the session":    {w.with(brief.Credentials), func(i *in) { i.DurationSeconds = aws.Int32(901) }, "SessionDurationEscalationException"},
		"within the session":  {w.with(brief.Credentials), func(i *in) { i.DurationSeconds = aws.Int32(600) }, ""},
		"no session to leave": {w.user, func(i *in) { i.DurationSeconds = aws.Int32(3600) }, ""},
	} {
		i := &in{Audience: []string{"a"}, SigningAlgorithm: aws.String("ES384")}
		c.change(i)
		if _, err := c.by.GetWebIdentityToken(ctx, i); errorCode(err) != c.code {
			t.Errorf("%s: %v, want %q", name, err, c.code)
		}
	}
	w.DisableOutbound(true)
	_, err = call(w.user, "GetWebIdentityToken", w.good()["GetWebIdentityToken"])
	wantCode(t, err, "OutboundWebIdentityFederationDisabledException", "not enabled")
	w.DisableOutbound(false)
	for kind, bad := range map[stsfake.FaultKind]func(*sts.GetWebIdentityTokenOutput) bool{
		stsfake.FaultEmpty:   func(o *sts.GetWebIdentityTokenOutput) bool { return aws.ToString(o.WebIdentityToken) == "" },
		stsfake.FaultExpired: func(o *sts.GetWebIdentityTokenOutput) bool { return o.Expiration.Before(w.Now()) },
	} {
		w.SetFault(stsfake.Fault{Kind: kind})
		if out, err := w.user.GetWebIdentityToken(ctx, &in{Audience: []string{"a"}, SigningAlgorithm: aws.String("RS256")}); err != nil || !bad(out) {
			t.Errorf("under fault %d: %v, %v", kind, out, err)
		}
	}
}

func TestTokensOfIdentityProviders(t *testing.T) {
	w := newWorld()
	type in = sts.AssumeRoleWithWebIdentityInput
	minute := w.Now().Add(time.Minute).Unix()
	for name, c := range map[string]struct {
		token, provider string
		code, words     string
	}{
		"OIDC":              {w.IdentityToken("repo:main", time.Minute), "", "", ""},
		"OAuth 2.0":         {w.AccessToken("www.amazon.com", "repo:main", time.Minute), "www.amazon.com", "", ""},
		"OAuth unnamed":     {w.AccessToken("www.amazon.com", "repo:main", time.Minute), "", "InvalidIdentityToken", ""},
		"OAuth of another":  {w.AccessToken("www.amazon.com", "repo:main", time.Minute), "graph.facebook.com", "InvalidIdentityToken", ""},
		"OAuth expired":     {w.AccessToken("www.amazon.com", "repo:main", 0), "www.amazon.com", "ExpiredTokenException", ""},
		"OIDC named":        {w.IdentityToken("repo:main", time.Minute), "www.amazon.com", "InvalidIdentityToken", ""},
		"unknown provider":  {w.IdentityToken("repo:main", time.Minute), "idp.example", "ValidationError", "idp.example"},
		"bad source":        {w.SignedToken(map[string]any{"sub": "repo:main", "exp": minute, "https://aws.amazon.com/source_identity": "a"}), "", "InvalidIdentityToken", "Source Identity must match"},
		"bad tags":          {w.SignedToken(map[string]any{"sub": "repo:main", "exp": minute, "https://aws.amazon.com/tags": map[string]any{"transitive_tag_keys": []string{"x"}}}), "", "InvalidParameterValue", "must be included in the requested tags"},
		"two values of one": {w.SignedToken(map[string]any{"sub": "repo:main", "exp": minute, "https://aws.amazon.com/tags": map[string]any{"principal_tags": map[string]any{"x": []string{"a", "b"}}}}), "", "InvalidParameterValue", "Duplicate"},
	} {
		i := &in{RoleArn: aws.String(ci), RoleSessionName: aws.String("ci"), WebIdentityToken: &c.token}
		if c.provider != "" {
			i.ProviderId = &c.provider
		}
		out, err := w.client("", "", "").AssumeRoleWithWebIdentity(t.Context(), i)
		switch {
		case c.code != "":
			wantCode(t, err, c.code, c.words)
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case c.provider != "" && *out.Provider != c.provider:
			t.Errorf("%s: provider %s", name, *out.Provider)
		}
	}
}
