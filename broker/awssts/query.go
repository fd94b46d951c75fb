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
	c, err := s.query(ctx, "GetCallerIdentity", at, m, nil, func(ctx context.Context, api *sts.Client, sign func(*sts.Options)) error {
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
	var text string
	c, err := s.query(ctx, "DecodeAuthorizationMessage", at, m, nil, func(ctx context.Context, api *sts.Client, sign func(*sts.Options)) error {
		out, err := api.DecodeAuthorizationMessage(ctx, &sts.DecodeAuthorizationMessageInput{EncodedMessage: aws.String(message)}, sign)
		if err == nil {
			text = aws.ToString(out.DecodedMessage)
		}
		return err
	})
	if err == nil && text == "" {
		return "", refuse(c, "it holds no message")
	}
	return text, err
}

// KeyAccount asks GetAccessKeyInfo for the account that an access key belongs to.
func (s *STS) KeyAccount(ctx context.Context, at Site, m broker.Material, keyID string) (string, error) {
	var account string
	c, err := s.query(ctx, "GetAccessKeyInfo", at, m, nil, func(ctx context.Context, api *sts.Client, sign func(*sts.Options)) error {
		out, err := api.GetAccessKeyInfo(ctx, &sts.GetAccessKeyInfoInput{AccessKeyId: aws.String(keyID)}, sign)
		if err == nil {
			account = aws.ToString(out.Account)
		}
		return err
	})
	if err == nil && account == "" {
		return "", refuse(c, "it names no account")
	}
	return account, err
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
	var x *exchange
	c, err := s.query(ctx, "GetWebIdentityToken", at, m, &x, func(ctx context.Context, api *sts.Client, sign func(*sts.Options)) (err error) {
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

// query is a call that mints nothing. x may be nil.
func (s *STS) query(ctx context.Context, action string, at Site, m broker.Material, x **exchange, call send) (Call, error) {
	at = s.site(at, "")
	got, err := s.do(ctx, Call{Action: action}, at, m, nil, call)
	if x != nil {
		*x = got
	}
	return Call{Action: action, Region: got.site.Region, Endpoint: s.endpoint(got.site).URL}, err
}
