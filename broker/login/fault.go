package login

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/printable"
)

// Codes of errors, as the service models name them. The last is in none of them:
// the portal sends it for a role that the user does not have.
const (
	codePending      = "AuthorizationPendingException"
	codeSlowDown     = "SlowDownException"
	codeExpired      = "ExpiredTokenException"
	codeDenied       = "AccessDeniedException"
	codeGrant        = "InvalidGrantException"
	codeClient       = "InvalidClientException"
	codeNotTheClient = "UnauthorizedClientException"
	codeUnauthorized = "UnauthorizedException"
	codeTooMany      = "TooManyRequestsException"
	codeNotFound     = "ResourceNotFoundException"
	codeForbidden    = "ForbiddenException"
)

// fault is what became of a call that was not answered as asked.
type fault struct {
	status int    // of HTTP; 0 where there was no answer
	code   string // of the service's own error; "" where it sent none
	words  string // what happened, in one line without a secret
	is     error  // what a caller may look for; nil for nothing
}

func (f *fault) Error() string { return f.words }
func (f *fault) Unwrap() error { return f.is }

func asFault(err error) *fault {
	f, _ := errors.AsType[*fault](err)
	return f
}

// kind is what has to happen for the fault to go away, as far as its shape tells.
func (f *fault) kind() broker.Kind {
	switch {
	case f.code == codeSlowDown, f.code == codeTooMany, f.status == http.StatusTooManyRequests:
		return broker.KindThrottled
	case f.code == codeDenied, f.code == codeForbidden:
		return broker.KindDenied
	case f.code != "" && f.status >= 400 && f.status < 500:
		return broker.KindConfig
	}
	return broker.KindUnavailable // no answer, 5xx, or somebody else's: a proxy, a portal
}

// ended reports whether a refresh is refused for good: the refresh token, or the
// registration that it belongs to, is not accepted any more.
func ended(err error) bool {
	f := asFault(err)
	if f == nil {
		return false
	}
	switch f.code {
	case codeGrant, codeClient, codeNotTheClient, codeUnauthorized, codeExpired:
		return true
	}
	return false
}

// refreshFailed words a refresh that may yet succeed.
func refreshFailed(s Session, err error) *broker.Error {
	out := &broker.Error{Kind: broker.KindUnavailable}
	next := "it is tried again by itself"
	if f := asFault(err); f != nil {
		out.Kind, out.Code = f.kind(), f.code
	} else if e, ok := errors.AsType[*broker.Error](err); ok {
		return e // the session's definition, or a vault that another process has
	}
	if !out.Kind.Passes() {
		next = "sign out of the session and in again, or ask who administers IAM Identity Center"
	}
	out.Public = fmt.Sprintf("the sign-in to %s could not be refreshed: %v; %s", s, err, next)
	return out
}

// signInNeeded is the error of a session that only a person can open. The broker
// adds the command to run.
func signInNeeded(s Session, was bool, why error) *broker.Error {
	words := "nobody is signed in to " + s.String()
	if was {
		words = "the sign-in to " + s.String() + " has ended"
	}
	return &broker.Error{Kind: broker.KindLoginNeeded, Own: true, Public: words, Cause: why}
}

// noAnswer words what an HTTP client failed with.
func noAnswer(err error) *fault {
	var own *fault
	var certificate *tls.CertificateVerificationError
	var u *url.Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.Is(err, context.DeadlineExceeded):
		return &fault{words: "it did not answer in time; check the network", is: context.DeadlineExceeded}
	case errors.Is(err, context.Canceled):
		return &fault{words: "the call was given up", is: context.Canceled}
	case errors.As(err, &certificate):
		return &fault{words: "its certificate is not trusted (" + certificate.Err.Error() + "), which a CA bundle (AWS_CA_BUNDLE) may mend"}
	case errors.As(err, &u):
		err = u.Err
	}
	return &fault{words: "it cannot be reached (" + printable.Text(err.Error(), maxWords) + "); check the network"}
}

const maxWords = 300 // bytes of somebody else's text

// refusal reads an error of the service: rest-json has its name in a header or in
// the body, and SSO OIDC sends OAuth's own names beside it (RFC 6749, section 5.2;
// RFC 8628, section 3.5).
func refusal(status int, header http.Header, body []byte, secrets []broker.Secret) *fault {
	var e struct {
		Type        string `json:"__type"`
		Code        string `json:"code"`
		Message     string `json:"message"`
		OAuth       string `json:"error"`
		Description string `json:"error_description"`
	}
	_ = json.Unmarshal(body, &e) // what is no JSON is no error of the service's
	code := header.Get("X-Amzn-Errortype")
	for _, other := range []string{e.Type, e.Code, oauthName(e.OAuth)} {
		if code == "" {
			code = other
		}
	}
	code, _, _ = strings.Cut(code, ":")
	if i := strings.LastIndexByte(code, '#'); i >= 0 {
		code = code[i+1:]
	}
	if !isCode(code) {
		code = ""
	}
	f := &fault{status: status, code: code}
	words := e.Message
	if words == "" {
		words = e.Description
	}
	switch words = printable.Text(strike(words, secrets), maxWords); {
	case code == "":
		f.words = fmt.Sprintf("it answered with HTTP %d and no error that AWS would send; check for a proxy or a portal that answers in its place", status)
	case words == "":
		f.words = code
	default:
		f.words = code + ": " + words
	}
	return f
}

func oauthName(s string) string {
	switch s {
	case "authorization_pending":
		return codePending
	case "slow_down":
		return codeSlowDown
	case "expired_token":
		return codeExpired
	case "access_denied":
		return codeDenied
	case "invalid_grant":
		return codeGrant
	case "invalid_client":
		return codeClient
	case "unauthorized_client":
		return codeNotTheClient
	}
	return s
}

// isCode keeps what a service calls its error from being anything else: a secret,
// given back, has digits or is longer.
func isCode(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_") == ""
}

// strike removes what went out with the call, also where it was encoded on the way.
func strike(text string, secrets []broker.Secret) string {
	for _, s := range secrets {
		v := s.Reveal()
		if len(v) < 8 { // none is; striking out "a" would leave nothing to read
			continue
		}
		quoted, _ := json.Marshal(v)
		for _, form := range []string{v, strings.Trim(string(quoted), `"`), url.QueryEscape(v), url.PathEscape(v), base64.StdEncoding.EncodeToString([]byte(v)), hex.EncodeToString([]byte(v))} {
			text = strings.ReplaceAll(text, form, "[secret]")
		}
	}
	return text
}

// visible reports whether s is not empty and all visible ASCII, as what goes into a
// header has to be.
func visible(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}
