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
	xmlFederatedUser   struct{ Arn, FederatedUserId string }

	// xmlMint is in the answer of every action that mints, but GetDelegatedAccessToken.
	xmlMint struct {
		Credentials             xmlCredentials
		SessionTokenSize        int
		SessionTokenUtilization int // percent
	}

	sessionResult struct{ xmlMint }
	roleResult    struct {
		xmlMint
		AssumedRoleUser  xmlAssumedRoleUser
		PackedPolicySize *int   `xml:",omitempty"` // percent
		SourceIdentity   string `xml:",omitempty"`
		Audience         string `xml:",omitempty"` // web identity and SAML

		SubjectFromWebIdentityToken string `xml:",omitempty"`
		Provider                    string `xml:",omitempty"`

		Subject, SubjectType, Issuer, NameQualifier string `xml:",omitempty"` // SAML
	}
	federationResult struct {
		xmlMint
		FederatedUser    xmlFederatedUser
		PackedPolicySize *int `xml:",omitempty"`
	}
	rootResult struct {
		xmlMint
		SourceIdentity string `xml:",omitempty"`
	}
	delegatedResult struct {
		Credentials      xmlCredentials
		AssumedPrincipal string
	}
	identityResult struct{ Arn, UserId, Account string }
	decodedResult  struct{ DecodedMessage string }
	keyResult      struct{ Account string }
	tokenResult    struct{ WebIdentityToken, Expiration string }
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
