package awssts

import (
	"context"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/stsbroker/stsbroker/broker"
)

// Identity is who STS takes a caller for.
type Identity struct {
	Account string `json:"account"`
	ARN     string `json:"arn"`
	UserID  string `json:"user_id"`
}

// WhoAmI asks GetCallerIdentity, which needs no permission. Errors are
// [*broker.Error], here and in the other calls.
func (s *STS) WhoAmI(ctx context.Context, at Site, m broker.Material) (Identity, error) {
	var id Identity
	c, _, err := s.query(ctx, "GetCallerIdentity", at, m, func(ctx context.Context, api *sts.Client, sign func(*sts.Options)) error {
		out, err := api.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{}, sign)
		if err == nil {
			id = Identity{aws.ToString(out.Account), aws.ToString(out.Arn), aws.ToString(out.UserId)}
		}
		return err
	})
	if err == nil && id.ARN == "" {
		return Identity{}, refuse(c, "it names no ARN")
	}
	return id, err
}

// Decode asks DecodeAuthorizationMessage what an encoded message of a denied
// call says, as JSON. The caller needs the permission of that name.
func (s *STS) Decode(ctx context.Context, at Site, m broker.Material, message string) (string, error) {
	return s.text(ctx, "DecodeAuthorizationMessage", at, m, "message", func(ctx context.Context, api *sts.Client, sign func(*sts.Options)) (*string, error) {
		out, err := api.DecodeAuthorizationMessage(ctx, &sts.DecodeAuthorizationMessageInput{EncodedMessage: aws.String(message)}, sign)
		if err != nil {
			return nil, err
		}
		return out.DecodedMessage, nil
	})
}

// KeyAccount asks GetAccessKeyInfo for the account that an access key belongs to.
func (s *STS) KeyAccount(ctx context.Context, at Site, m broker.Material, keyID string) (string, error) {
	return s.text(ctx, "GetAccessKeyInfo", at, m, "account", func(ctx context.Context, api *sts.Client, sign func(*sts.Options)) (*string, error) {
		out, err := api.GetAccessKeyInfo(ctx, &sts.GetAccessKeyInfoInput{AccessKeyId: aws.String(keyID)}, sign)
		if err != nil {
			return nil, err
		}
		return out.Account, nil
	})
}

// text is a query whose answer is one text, which must not be empty.
func (s *STS) text(ctx context.Context, action string, at Site, m broker.Material, what string, call func(context.Context, *sts.Client, func(*sts.Options)) (*string, error)) (string, error) {
	var text *string
	c, _, err := s.query(ctx, action, at, m, func(ctx context.Context, api *sts.Client, sign func(*sts.Options)) (err error) {
		text, err = call(ctx, api, sign)
		return err
	})
	if err == nil && aws.ToString(text) == "" {
		return "", refuse(c, "it holds no "+what)
	}
	return aws.ToString(text), err
}

// TokenRequest says what a signed web identity token is to hold.
type TokenRequest struct {
	Audiences []string
	Algorithm string            // RS256 or ES384
	Duration  time.Duration     // 60 s to 1 h; 0 leaves it to AWS, which takes 5 min
	Tags      map[string]string // more claims
}

// IdentityToken is a JWT by which other services know an AWS identity.
type IdentityToken struct {
	Token   broker.Secret
	Expires time.Time // on this host's clock
}

// IdentityToken asks GetWebIdentityToken. It exists at regional endpoints only.
func (s *STS) IdentityToken(ctx context.Context, at Site, m broker.Material, r TokenRequest) (IdentityToken, error) {
	at.Legacy = false
	in := sts.GetWebIdentityTokenInput{Audience: r.Audiences, SigningAlgorithm: aws.String(r.Algorithm), Tags: tags(r.Tags)}
	if r.Duration != 0 {
		in.DurationSeconds = seconds(r.Duration, 0)
	}
	var out *sts.GetWebIdentityTokenOutput
	c, x, err := s.query(ctx, "GetWebIdentityToken", at, m, func(ctx context.Context, api *sts.Client, sign func(*sts.Options)) (err error) {
		out, err = api.GetWebIdentityToken(ctx, &in, sign)
		return err
	})
	if err != nil {
		return IdentityToken{}, err
	}
	left := aws.ToTime(out.Expiration).Sub(x.now())
	switch {
	case !visible(aws.ToString(out.WebIdentityToken)):
		return IdentityToken{}, refuse(c, "its token is empty or malformed")
	case left <= 0:
		return IdentityToken{}, refuse(c, "its token has expired, or says nothing of when it will ("+strconv.Quote(stamp(aws.ToTime(out.Expiration)))+")")
	}
	return IdentityToken{broker.NewSecret(*out.WebIdentityToken), time.Now().Add(left)}, nil
}

// query is a call that mints nothing.
func (s *STS) query(ctx context.Context, action string, at Site, m broker.Material, call send) (Call, *exchange, error) {
	x, err := s.do(ctx, Call{Action: action}, s.site(at, ""), m, nil, call)
	return Call{Action: action, Region: x.site.Region, Endpoint: s.endpoint(x.site).URL}, x, err
}
