package stsfake

import (
	"bytes"
	"encoding/xml"
	"net/http"
	"strconv"
	"time"
)

const namespace = "https://sts.amazonaws.com/doc/2011-06-15/"

// apiError is an error as AWS's Query protocol tells it.
type apiError struct {
	status        int
	code, message string
}

func fail(status int, code, message string) *apiError { return &apiError{status, code, message} }

func (e *apiError) Error() string { return e.code + ": " + e.message }

func (e *apiError) answer(id string) []byte {
	kind := "Sender"
	if e.status >= 500 {
		kind = "Receiver"
	}
	type inner struct{ Type, Code, Message string }
	b, _ := xml.Marshal(struct {
		XMLName   xml.Name `xml:"ErrorResponse"`
		NS        string   `xml:"xmlns,attr"`
		Error     inner
		RequestId string
	}{NS: namespace, Error: inner{kind, e.code, e.message}, RequestId: id})
	return b
}

// The parts of answers, named as in the STS API reference.
type (
	xmlCredentials struct {
		AccessKeyId, SecretAccessKey, SessionToken, Expiration string
	}
	xmlAssumedRoleUser struct{ Arn, AssumedRoleId string }

	sessionResult struct{ Credentials xmlCredentials }
	roleResult    struct {
		AssumedRoleUser  xmlAssumedRoleUser
		Credentials      xmlCredentials
		PackedPolicySize *int `xml:",omitempty"`
		// web identity only
		SubjectFromWebIdentityToken string `xml:",omitempty"`
		Audience                    string `xml:",omitempty"`
		Provider                    string `xml:",omitempty"`
	}
	identityResult struct{ Arn, UserId, Account string }
)

// render wraps a result as the Query protocol does.
func render(action string, result any, id string) []byte {
	var b bytes.Buffer
	b.WriteString("<" + action + `Response xmlns="` + namespace + `">`)
	e := xml.NewEncoder(&b)
	_ = e.EncodeElement(result, xml.StartElement{Name: xml.Name{Local: action + "Result"}})
	_ = e.EncodeElement(struct{ RequestId string }{id}, xml.StartElement{Name: xml.Name{Local: "ResponseMetadata"}})
	b.WriteString("</" + action + "Response>\n")
	return b.Bytes()
}

func reply(w http.ResponseWriter, now time.Time, id string, status int, body []byte) {
	h := w.Header()
	h.Set("Date", now.UTC().Format(http.TimeFormat))
	h.Set("Content-Type", "text/xml")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Amzn-Requestid", id)
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
