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

// sdkUnknown is what the SDK takes for the code, or the message, of an error
// that has none.
const sdkUnknown = "UnknownError"

// Classify turns what a call failed with into the domain's error. An error
// that is a [*broker.Error] already comes back as it is.
//
// Public holds the issuer's own words (bounded, printable, without secrets),
// the request id, the ARN, and what to do next, but not the profile: it reads
// well after "profile NAME: ", which whoever knows the name puts before it.
//
// The issuer's code decides, by the table in table.go, and not the HTTP status:
// STS throttles with 400.
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
	var store *storeError
	if errors.As(err, &store) {
		status = store.status
	}
	var api smithy.APIError
	if !errors.As(err, &api) || api.ErrorCode() == sdkUnknown {
		if status == http.StatusTooManyRequests {
			out.Kind = broker.KindThrottled
		}
		out.Public = fmt.Sprintf("%s did not grant %s%s: %s; %s", c.where(), c.Action, c.target(), reason(err, status, c.Secrets), again(c.Action))
		return out
	}
	message, _ := cutEncoded(strike(api.ErrorMessage(), c.Secrets))
	code, words := clean(api.ErrorCode(), c.Secrets...), clean(message)
	r, known := meaning(code, c.Action, message)
	if !known && status == http.StatusTooManyRequests {
		r.kind = broker.KindThrottled
	}
	if r.next == "" {
		r.next = again(c.Action)
	}
	verb := "did not grant"
	switch r.kind {
	case broker.KindDenied:
		verb = "refuses"
	case broker.KindThrottled:
		verb = "throttles"
	case broker.KindConfig:
		verb = "cannot accept"
	}
	said := code
	if words != "" && words != code && words != sdkUnknown {
		said += ": " + words
	}
	if id := requestID(err); id != "" {
		said += " (request id " + clean(id, c.Secrets...) + ")"
	}
	out.Kind, out.Code, out.Own, out.Signer = r.kind, code, r.own, r.signer
	out.Public = fmt.Sprintf("%s %s %s%s: %s; %s", c.where(), verb, c.Action, c.target(), said, r.next)
	return out
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
// original may hold in fields of its own, and with the encoded message of a
// denial whole: a part of it cannot be decoded.
func cause(err error, secrets []broker.Secret) error {
	text, encoded := cutEncoded(strike(err.Error(), secrets))
	text = clean(text)
	if encoded != "" {
		text += "; " + encodedWords + " " + encoded
	}
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

const (
	maxWords   = 500    // characters of somebody else's text
	maxEncoded = 10_240 // characters that DecodeAuthorizationMessage takes

	encodedWords = "Encoded authorization failure message:"
)

// cutEncoded takes the encoded message, of which a person reads nothing, out of
// the words of a denial. encoded is "" when there is none.
func cutEncoded(text string) (rest, encoded string) {
	before, after, found := strings.Cut(text, encodedWords)
	if !found {
		return text, ""
	}
	after = strings.TrimLeft(after, " ")
	end := strings.IndexFunc(after, func(r rune) bool {
		return !('0' <= r && r <= '9' || 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z' || strings.ContainsRune("-_+/=", r))
	})
	if end < 0 {
		end = len(after)
	}
	if end == 0 || end > maxEncoded {
		return text, ""
	}
	return before + encodedWords + " (in the log)" + after[end:], after[:end]
}

// clean makes somebody else's text fit for one line of ours: printable,
// bounded, and without the secrets.
func clean(text string, secrets ...broker.Secret) string {
	text = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strikeSignatures(strike(text, secrets)))
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > maxWords {
		text = string(r[:maxWords]) + "…"
	}
	return text
}

// strike removes the secrets, also where they were encoded on the way.
func strike(text string, secrets []broker.Secret) string {
	for _, s := range secrets {
		v := s.Reveal()
		if isCode(v) {
			text = strikeCode(text, v)
			continue
		}
		if len(v) < 8 { // no issuer's secret is; striking out "a" would leave nothing to read
			continue
		}
		for _, form := range []string{v, url.QueryEscape(v), url.PathEscape(v), base64.StdEncoding.EncodeToString([]byte(v)), hex.EncodeToString([]byte(v))} {
			text = strings.ReplaceAll(text, form, "[secret]")
		}
	}
	return text
}

// strikeSignatures removes what signed the request, should the issuer repeat its
// headers: with it the call can be made again for a quarter of an hour.
func strikeSignatures(text string) string {
	const name, least = "ignature", 16
	for from := 0; ; {
		i := strings.Index(text[from:], name)
		if i < 0 {
			return text
		}
		from += i + len(name)
		rest := strings.TrimLeft(text[from:], `=": `)
		if strings.HasPrefix(strings.ToUpper(rest), "%3D") {
			rest = rest[3:]
		}
		value := len(rest) - len(strings.TrimLeft(rest, "0123456789abcdefABCDEF"))
		if value < least {
			continue
		}
		at := len(text) - len(rest)
		text = text[:at] + "[secret]" + text[at+value:]
		from = at
	}
}

// strikeCode removes the code of an MFA device where it is not part of a longer
// number, such as an account.
func strikeCode(text, code string) string {
	digit := func(i int) bool { return i >= 0 && i < len(text) && '0' <= text[i] && text[i] <= '9' }
	for from := 0; ; {
		i := strings.Index(text[from:], code)
		if i < 0 {
			return text
		}
		i += from
		if digit(i-1) || digit(i+len(code)) {
			from = i + 1
			continue
		}
		text = text[:i] + "[secret]" + text[i+len(code):]
		from = i
	}
}
