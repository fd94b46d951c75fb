package metadata

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"unicode"

	"github.com/stsbroker/stsbroker/broker"
)

// maxMessage keeps the body of an error under 8 KB: it is in there twice, and
// escaping at most doubles it. The CRT reads 10,000 bytes.
const maxMessage = 1900

var (
	jsonValue    = []string{"application/json"} // exactly: with a charset, Go v2 does not read error bodies
	textValue    = []string{"text/plain"}
	noStoreValue = []string{"no-store"}
)

// statusOf maps what happened to what SDKs make of it: 401 for a wrong or
// missing token, 503 for what passes, 403 for what stays until a person acts.
// Never 404 (Java drops the message), 429 (Go v1 takes 5 s, Ruby gives up), or 200.
func statusOf(k broker.Kind) int {
	switch {
	case k == broker.KindUnauthorized:
		return http.StatusUnauthorized
	case k.Passes():
		return http.StatusServiceUnavailable
	default:
		return http.StatusForbidden
	}
}

// errorBody is one line of JSON. Everything is in it twice: Java wants the
// lower-case names, others the upper-case ones.
func errorBody(e *broker.Error) []byte {
	code, message := errorWords(e)
	return marshal(struct {
		Code1    string `json:"code"`
		Message1 string `json:"message"`
		Code2    string `json:"Code"`
		Message2 string `json:"Message"`
	}{code, message, code, message})
}

// errorWords are what a client reads: the issuer's own code where there is one,
// else the kind, and what to do.
func errorWords(e *broker.Error) (code, message string) {
	code = e.Code
	if code == "" {
		code = e.Kind.String()
	}
	code, message = oneLine(code, 100), oneLine(e.Public, maxMessage)
	if message == "" {
		message = "no credentials: " + e.Kind.String()
	}
	return code, message
}

// oneLine makes s safe to show: valid UTF-8, no control characters, at most
// most bytes.
func oneLine(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > most {
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "")
}

// marshal encodes a struct of strings on one line, without the escapes meant
// for HTML: s3fs does not undo them.
func marshal(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // not for a struct of strings
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

// writeHeader sets what every answer with a body has.
func writeHeader(w http.ResponseWriter, contentType, length []string) {
	h := w.Header()
	h["Content-Type"] = contentType
	h["Content-Length"] = length
	h["Cache-Control"] = noStoreValue
}

// refuser answers with errors, and tells of them.
type refuser struct {
	door     string
	requests Requests
	observer broker.Observer
	silent   bool // errors have no body
}

// fail writes e and counts it. The connection ends unless the caller has shown
// a valid token or is known to the kernel: strangers keep nothing open.
func (d *refuser) fail(w http.ResponseWriter, status int, who broker.Caller, e *broker.Error) {
	if _, known := who.Peer.UID(); who.Token == "" && !known {
		w.Header()["Connection"] = closeValue
	}
	if d.silent {
		d.end(w, status)
		return
	}
	body := errorBody(e)
	writeHeader(w, jsonValue, []string{strconv.Itoa(len(body))})
	w.WriteHeader(status)
	_, _ = w.Write(body)
	d.requests.Request(d.door, status)
}

// end answers with a status alone.
func (d *refuser) end(w http.ResponseWriter, status int) {
	w.Header()["Cache-Control"] = noStoreValue
	w.WriteHeader(status)
	d.requests.Request(d.door, status)
}

func (d *refuser) wrongMethod(w http.ResponseWriter, who broker.Caller, allow []string) {
	w.Header()["Allow"] = allow
	d.refuse(w, http.StatusMethodNotAllowed, who, &broker.Error{Kind: broker.KindForbidden, Public: "refused: only " + allow[0] + " is answered here"})
}

// refuse is fail for what the broker never saw, and so could not observe.
func (d *refuser) refuse(w http.ResponseWriter, status int, who broker.Caller, e *broker.Error) {
	d.observer.Observe(broker.Event{Kind: broker.EventRefused, Profile: e.Profile, Caller: who, Err: e})
	d.fail(w, status, who, e)
}
