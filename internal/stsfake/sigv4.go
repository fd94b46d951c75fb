package stsfake

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	algorithm = "AWS4-HMAC-SHA256"
	amzDate   = "20060102T150405Z"
	maxSkew   = 15 * time.Minute
)

// signature is an Authorization header taken apart.
type signature struct {
	keyID, date, region, service string
	headers                      []string
	value                        string
	at                           time.Time
}

var errIncomplete = errors.New("incomplete signature")

func parseSignature(h http.Header) (signature, error) {
	var s signature
	fields, ok := strings.CutPrefix(h.Get("Authorization"), algorithm+" ")
	if !ok {
		return s, errIncomplete
	}
	for f := range strings.SplitSeq(fields, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(f), "=")
		switch k {
		case "Credential":
			scope := strings.Split(v, "/")
			if len(scope) != 5 || scope[4] != "aws4_request" {
				return s, errIncomplete
			}
			s.keyID, s.date, s.region, s.service = scope[0], scope[1], scope[2], scope[3]
		case "SignedHeaders":
			s.headers = strings.Split(v, ";")
		case "Signature":
			s.value = v
		}
	}
	at, err := time.Parse(amzDate, h.Get("X-Amz-Date"))
	s.at = at
	if err != nil || s.keyID == "" || s.value == "" || !slices.Contains(s.headers, "host") || !slices.Contains(s.headers, "x-amz-date") {
		return s, errIncomplete
	}
	return s, nil
}

// valid computes the signature again, by the public specification ("Create a
// signed AWS API request" in the IAM user guide), and compares.
func (s signature) valid(r *http.Request, body []byte, secret string) bool {
	if !slices.IsSorted(s.headers) || s.date != s.at.Format("20060102") {
		return false
	}
	var headers strings.Builder
	for _, name := range s.headers {
		var v string
		switch name {
		case "host":
			v = r.Host
		case "content-length":
			v = strconv.FormatInt(r.ContentLength, 10)
		default:
			v = strings.Join(r.Header.Values(name), ",")
		}
		headers.WriteString(name + ":" + strings.Join(strings.Fields(v), " ") + "\n")
	}
	path := r.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	canonical := strings.Join([]string{
		r.Method,
		strings.ReplaceAll(url.PathEscape(path), "%2F", "/"), // every service but S3 escapes twice
		strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20"),
		headers.String(),
		strings.Join(s.headers, ";"),
		hexSum(body),
	}, "\n")
	scope := strings.Join([]string{s.date, s.region, s.service, "aws4_request"}, "/")
	toSign := strings.Join([]string{algorithm, s.at.Format(amzDate), scope, hexSum([]byte(canonical))}, "\n")

	key := []byte("AWS4" + secret)
	for _, part := range []string{s.date, s.region, s.service, "aws4_request"} {
		key = mac(key, part)
	}
	return hmac.Equal([]byte(hex.EncodeToString(mac(key, toSign))), []byte(s.value))
}

// authenticate finds out who signed, in the order and the words of AWS.
func (q *request) authenticate(r *http.Request, body []byte) error {
	if r.Header.Get("Authorization") == "" {
		return fail(403, "MissingAuthenticationToken", "Request is missing Authentication Token")
	}
	sig, err := parseSignature(r.Header)
	if err != nil {
		return fail(400, "IncompleteSignature", "The request signature does not conform to AWS standards.")
	}
	q.call.Region = sig.region
	invalid := fail(403, "InvalidClientTokenId", "The security token included in the request is invalid.")

	var secret string
	if token := r.Header.Get("X-Amz-Security-Token"); token != "" {
		var session session
		if !q.open(purposeSession, token, &session) || session.KeyID != sig.keyID || !slices.Contains(sig.headers, "x-amz-security-token") {
			return invalid
		}
		if !q.now.Before(session.Expires) {
			return fail(403, "ExpiredToken", "The security token included in the request is expired")
		}
		q.caller, q.ends, secret = session.Principal, session.Expires, q.secretOf(sig.keyID)
	} else {
		u, ok := q.user(sig.keyID)
		if !ok {
			return invalid
		}
		q.caller, secret = u.principal(), u.secret
	}
	q.call.Principal = q.caller.ARN

	stamp, now := sig.at.Format(amzDate), q.now.UTC().Format(amzDate)
	switch {
	case sig.at.Before(q.now.Add(-maxSkew)):
		return mismatch(fmt.Sprintf("Signature expired: %s is now earlier than %s (%s - 15 min.)", stamp, q.now.UTC().Add(-maxSkew).Format(amzDate), now))
	case sig.at.After(q.now.Add(maxSkew)):
		return mismatch(fmt.Sprintf("Signature not yet current: %s is still later than %s (%s + 15 min.)", stamp, q.now.UTC().Add(maxSkew).Format(amzDate), now))
	case sig.service != "sts":
		return mismatch("Credential should be scoped to correct service: 'sts'. ")
	case !sig.valid(r, body, secret):
		return mismatch("The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
	}
	return nil
}

func mismatch(message string) error { return fail(403, "SignatureDoesNotMatch", message) }

func mac(key []byte, data string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(data))
	return h.Sum(nil)
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
