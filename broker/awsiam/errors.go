package awsiam

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/printable"
)

const maxWords = 400 // bytes of somebody else's text

// where names a service as people know it.
func (s service) where() string {
	if s.own {
		return s.title + " at " + s.url
	}
	return s.title
}

// odd is the error for an answer that is none of the service's.
func (s service) odd(action, why string) error {
	return &broker.Error{Kind: broker.KindUnavailable, Public: fmt.Sprintf("the answer of %s to %s is not believed: %s; try again", s.where(), action, why)}
}

// unanswered is the error for a call without an answer that can be read.
func (s service) unanswered(action string, err error, m broker.Material) error {
	var refused refusal
	var cert *tls.CertificateVerificationError
	why := "it cannot be reached (" + clean(err.Error(), m) + ")"
	switch {
	case errors.As(err, &refused):
		why = refused.Error()
	case errors.Is(err, context.DeadlineExceeded):
		why = "it did not answer in time"
	case errors.Is(err, context.Canceled):
		why = "the call was given up"
	case errors.As(err, &cert):
		why = "its certificate is not trusted (" + clean(cert.Err.Error(), m) + "), which a CA bundle (AWS_CA_BUNDLE) may mend"
	}
	return &broker.Error{Kind: broker.KindUnavailable, Public: fmt.Sprintf("%s did not answer %s: %s; try again", s.where(), action, why), Cause: bare(err)}
}

// bare keeps of an error only whether the call was given up.
func bare(err error) error {
	for _, is := range []error{context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, is) {
			return is
		}
	}
	return nil
}

// refused is the error for one that the service sent. Its code decides, and only
// without a known one the HTTP status: IAM throttles with 400.
func (s service) refused(action string, status int, e issue, m broker.Material) error {
	kind, next := s.meaning(action, status, e)
	verb := map[broker.Kind]string{broker.KindDenied: "refuses", broker.KindThrottled: "throttles"}[kind]
	if verb == "" {
		verb = "did not do"
	}
	said := fmt.Sprintf("HTTP %d without an error of its own", status)
	if e.Code != "" {
		said = clean(e.Code, m)
		if words := clean(e.Message, m); words != "" {
			said += ": " + words
		}
		if e.RequestID != "" {
			said += " (request id " + clean(e.RequestID, m) + ")"
		}
	}
	return &broker.Error{
		Kind: kind, Code: clean(e.Code, m), Signer: kind == broker.KindDenied && m.Temporary() && strings.HasPrefix(e.Code, "Expired"),
		Public: fmt.Sprintf("%s %s %s: %s; %s", s.where(), verb, action, said, next),
	}
}

// meaning is what is known of the codes that the IAM API reference has for these
// calls, of the errors common to AWS's services, and of what stand-ins say for them.
func (s service) meaning(action string, status int, e issue) (kind broker.Kind, next string) {
	switch e.Code {
	case "AccessDenied", "AccessDeniedException", "NotAuthorized", "UnauthorizedOperation", "AuthorizationError":
		if s.name == "sts" {
			return broker.KindDenied, "no policy of the caller can deny this, but that of a VPC endpoint can: check it, and which endpoint answers"
		}
		return broker.KindDenied, fmt.Sprintf("the key's user may not call iam:%s on itself; give it that permission, or sign with --profile", action)
	case "InvalidClientTokenId", "InvalidAccessKeyId", "UnrecognizedClientException":
		return broker.KindDenied, "the key that signs does not exist, is inactive, or is seconds old; session credentials are taken only if they were minted with MFA"
	case "ExpiredToken", "ExpiredTokenException":
		return broker.KindDenied, "the session credentials that sign this call have expired: mint new ones"
	case "SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature", "IncompleteSignatureException", "AuthFailure":
		return broker.KindDenied, "check that the secret access key belongs to the access key id, and the clock of this host"
	case "RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture":
		return broker.KindDenied, "check the clock of this host"
	case "LimitExceeded", "LimitExceededException", "QuotaExceeded":
		return broker.KindConfig, "a user has two access keys at most: delete the one that is not needed"
	case "NoSuchEntity", "NoSuchEntityException":
		return broker.KindConfig, "check the user and the access key in IAM: somebody else may have deleted it"
	case "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestLimitExceeded", "TooManyRequestsException", "SlowDown":
		return broker.KindThrottled, "try again in a minute"
	case "EntityTemporarilyUnmodifiable", "EntityTemporarilyUnmodifiableException", "ConcurrentModification", "ConcurrentModificationException":
		return broker.KindUnavailable, "somebody else changes the same user at this moment: try again"
	case "ValidationError", "ValidationException", "InvalidParameterValue", "InvalidInput", "MissingParameter", "InvalidUserType":
		return broker.KindConfig, "mend the value that these words name"
	case "InvalidAction", "MissingAction", "NotImplemented", "UnknownOperationException", "UnsupportedOperation", "MethodNotAllowed":
		return broker.KindConfig, "this endpoint does not know the action: check which endpoint answers"
	case "OptInRequired", "AccountProblem":
		return broker.KindDenied, "check the state of the AWS account"
	}
	if status == http.StatusTooManyRequests {
		return broker.KindThrottled, "try again in a minute"
	}
	return broker.KindUnavailable, "try again"
}

// clean makes somebody else's text fit for one line of ours: printable, bounded, and
// without what signed the call (a signature error shows the request).
func clean(text string, m broker.Material) string {
	for _, s := range []broker.Secret{m.SecretAccessKey, m.SessionToken} {
		v := s.Reveal()
		if len(v) < 8 { // no secret of AWS's; striking out "a" would leave nothing to read
			continue
		}
		for _, form := range []string{v, url.QueryEscape(v), url.PathEscape(v)} {
			text = strings.ReplaceAll(text, form, "[secret]")
		}
	}
	text = strings.Join(strings.Fields(text), " ")
	return printable.Text(text, maxWords)
}
