package awssts

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/stsbroker/stsbroker/broker"
)

// Call is what was asked, for the words of an error.
type Call struct {
	Action   string
	Region   string
	Endpoint string // its URL, when it is not AWS's own
	ARN      string // of the role; "" for none

	// Secrets went into the request. An issuer may repeat them (AWS's signature
	// errors show the canonical request), so they are struck out.
	Secrets []broker.Secret
}

func (c Call) where() string {
	if c.Endpoint != "" {
		return "STS at " + c.Endpoint
	}
	return "STS in " + c.Region
}

func (c Call) target() string {
	if c.ARN == "" {
		return ""
	}
	return " of " + c.ARN
}

// Classify turns what a call failed with into the domain's error. An error
// that is a [*broker.Error] already comes back as it is.
//
// Public holds the issuer's own words (bounded, printable, without secrets),
// the request id, the ARN, and what to do next, but not the profile: it reads
// well after "profile NAME: ", which whoever knows the name puts before it.
//
// The issuer's code decides, not the HTTP status: STS throttles with 400.
func Classify(err error, c Call) *broker.Error {
	var done *broker.Error
	if errors.As(err, &done) {
		return done
	}
	out := &broker.Error{Kind: broker.KindUnavailable, Cause: cause(err, c.Secrets)}
	var bad *smithy.InvalidParamsError
	if errors.As(err, &bad) {
		out.Kind = broker.KindConfig
		out.Public = fmt.Sprintf("%s%s cannot be asked for: %s; mend the profile", c.Action, c.target(), clean(bad.Error(), c.Secrets...))
		return out
	}
	status := 0
	var re *smithyhttp.ResponseError
	if errors.As(err, &re) {
		status = re.HTTPStatusCode()
	}
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() == "UnknownError" {
		if status == http.StatusTooManyRequests {
			out.Kind = broker.KindThrottled
		}
		out.Public = fmt.Sprintf("%s did not grant %s%s: %s; it is tried again by itself", c.where(), c.Action, c.target(), reason(err, status, c.Secrets))
		return out
	}
	code, words := clean(api.ErrorCode(), c.Secrets...), clean(api.ErrorMessage(), c.Secrets...)
	kind, next := judge(api.ErrorCode(), c.Action, words)
	verb := "did not grant"
	switch kind {
	case broker.KindDenied:
		verb = "refuses"
	case broker.KindThrottled:
		verb = "throttles"
	case broker.KindConfig:
		verb = "cannot accept"
	}
	said := code
	if words != "" && words != code {
		said += ": " + words
	}
	if id := requestID(err); id != "" {
		said += " (request id " + clean(id, c.Secrets...) + ")"
	}
	out.Kind, out.Code = kind, code
	out.Own = kind == broker.KindUnavailable && (code == "IDPCommunicationError" || strings.Contains(strings.ToLower(said), "expired"))
	out.Public = fmt.Sprintf("%s %s %s%s: %s; %s", c.where(), verb, c.Action, c.target(), said, next)
	return out
}

// judge is the table from the issuer's codes to kinds, and to the step that
// mends. It holds the codes of the STS API reference and its common errors,
// and those that S3-compatible stores use for the same.
func judge(code, action, words string) (broker.Kind, string) {
	const again = "it is tried again by itself"
	const mend = "mend the profile"
	webIdentity := action == "AssumeRoleWithWebIdentity"
	if webIdentity && code == "InvalidParameterValue" && strings.Contains(words, "expired") {
		code = "ExpiredToken" // MinIO's word for it
	}
	switch code {
	case "Throttling", "ThrottlingException", "ThrottledException", "RequestLimitExceeded", "RequestThrottled",
		"RequestThrottledException", "TooManyRequests", "TooManyRequestsException", "BandwidthLimitExceeded",
		"LimitExceededException", "SlowDown", "PriorRequestNotComplete":
		return broker.KindThrottled, again

	case "AccessDenied", "AccessDeniedException", "NotAuthorized", "UnauthorizedOperation":
		switch {
		case webIdentity:
			return broker.KindDenied, "check that the role's trust policy allows this identity provider, audience and subject"
		case action == "AssumeRole":
			return broker.KindDenied, "check the role's trust policy, its external id, and that the caller's policies allow sts:AssumeRole on it"
		case action == "GetSessionToken":
			return broker.KindDenied, "it needs the long-term keys of an IAM user, and no policy that denies it"
		}
		return broker.KindDenied, "check the policies of the caller"
	case "InvalidClientTokenId", "InvalidAccessKeyId", "UnrecognizedClientException", "MissingAuthenticationToken", "MissingAuthenticationTokenException":
		return broker.KindDenied, "the access key is unknown there or inactive: check it in IAM, and that it belongs to this partition"
	case "SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature", "IncompleteSignatureException", "AuthFailure":
		if strings.Contains(words, "expired") || strings.Contains(words, "not yet current") {
			return broker.KindDenied, "check the clock of this host"
		}
		return broker.KindDenied, "check that the secret access key belongs to the access key id"
	case "RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture":
		return broker.KindDenied, "check the clock of this host"
	case "ExpiredToken", "ExpiredTokenException", "ExpiredTradeInTokenException", "TokenRefreshRequired":
		if webIdentity {
			return broker.KindUnavailable, "the identity token has expired: check what renews its file, which is read again at every try"
		}
		return broker.KindDenied, "the session credentials that sign this call have expired: renew them first"
	case "InvalidToken":
		return broker.KindDenied, "the session token that signs this call is not accepted: renew it first"
	case "IDPRejectedClaim", "InvalidIdentityToken":
		return broker.KindDenied, "check the identity token: its issuer, audience, signature and life"
	case "OptInRequired", "AccountProblem":
		return broker.KindDenied, "check the state of the AWS account"

	case "RegionDisabledException":
		return broker.KindConfig, "activate STS for the region in IAM's account settings, or name another region"
	case "NoSuchEntity", "NoSuchEntityException":
		return broker.KindConfig, "check the role's ARN"
	case "MalformedPolicyDocument", "PackedPolicyTooLarge", "JWTPayloadSizeExceededException", "SessionDurationEscalationException",
		"OutboundWebIdentityFederationDisabledException", "InvalidAuthorizationMessageException":
		return broker.KindConfig, mend
	case "ValidationError", "ValidationException", "InvalidParameterValue", "InvalidParameterCombination", "InvalidQueryParameter",
		"InvalidArgument", "InvalidRequest", "MissingParameter", "MalformedInput", "MalformedQueryString", "UnknownParameter":
		return broker.KindConfig, mend
	case "InvalidAction", "MissingAction", "NoSuchVersion", "UnknownOperationException", "NotImplemented", "MethodNotAllowed":
		return broker.KindConfig, "this endpoint does not know the action: check which endpoint answers"
	}
	// ServiceUnavailable, InternalFailure, IDPCommunicationError, and whatever is not known.
	return broker.KindUnavailable, again
}

// reason says why there is no answer of the issuer's, or none that can be read.
func reason(err error, status int, secrets []broker.Secret) string {
	var refused refusal
	var cert *tls.CertificateVerificationError
	var send *smithyhttp.RequestSendError
	switch {
	case errors.As(err, &refused):
		return refused.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return "it did not answer in time"
	case errors.Is(err, context.Canceled):
		return "the call was given up"
	case errors.As(err, &cert):
		return "its certificate is not trusted (" + clean(cert.Err.Error(), secrets...) + "), which a CA bundle (AWS_CA_BUNDLE) may mend"
	case errors.As(err, &send):
		return "it cannot be reached (" + clean(send.Err.Error(), secrets...) + ")"
	case status >= 300:
		return fmt.Sprintf("it answered with HTTP %d and no error that STS would send", status)
	}
	return "its answer is not one that STS would send"
}

func requestID(err error) string {
	var store *storeError
	if errors.As(err, &store) {
		return store.requestID
	}
	var re *awshttp.ResponseError
	if errors.As(err, &re) {
		return re.RequestID
	}
	return ""
}

// cause keeps an error's text for the log, without the secrets that the
// original may hold in fields of its own.
func cause(err error, secrets []broker.Secret) error {
	text := clean(err.Error(), secrets...)
	for _, is := range []error{context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, is) {
			return &quoted{text, is}
		}
	}
	return &quoted{text, nil}
}

type quoted struct {
	text string
	is   error
}

func (q *quoted) Error() string { return q.text }
func (q *quoted) Unwrap() error { return q.is }

const maxWords = 500 // characters of somebody else's text

// clean makes somebody else's text fit for one line of ours: printable,
// bounded, and without the secrets, also where they were encoded on the way.
func clean(text string, secrets ...broker.Secret) string {
	for _, s := range secrets {
		v := s.Reveal()
		if len(v) < 8 { // no issuer's secret is; striking out "a" would leave nothing to read
			continue
		}
		for _, form := range []string{v, url.QueryEscape(v), url.PathEscape(v), base64.StdEncoding.EncodeToString([]byte(v)), hex.EncodeToString([]byte(v))} {
			text = strings.ReplaceAll(text, form, "[secret]")
		}
	}
	text = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > maxWords {
		text = string(r[:maxWords]) + "…"
	}
	return text
}
