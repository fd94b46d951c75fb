package stsfake

import (
	"encoding/json"
	"strings"
)

// Denial is what an encoded authorization message tells.
type Denial struct {
	Principal string // ARN
	Action    string // such as "sts:AssumeRole"
	Resource  string // ARN
	Explicit  bool   // a statement denies it; otherwise none allows it
}

// Encoded returns the denial as DecodeAuthorizationMessage takes it.
func (s *Server) Encoded(d Denial) string { return s.seal(purposeMessage, d) }

// EncodeDenials makes the message of every AccessDenied end with "Encoded
// authorization failure message: ...", as those of some services of AWS do.
func (s *Server) EncodeDenials(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.encodeDenials = on
}

func (q *request) withDetails(e *apiError) *apiError {
	q.mu.Lock()
	on := q.encodeDenials
	q.mu.Unlock()
	if !on || e.code != "AccessDenied" {
		return e
	}
	d := Denial{Principal: q.call.Principal, Action: "sts:" + q.call.Action, Resource: q.call.Target}
	return fail(e.status, e.code, strings.TrimSpace(e.message+" Encoded authorization failure message: "+q.Encoded(d)))
}

// decodeAuthorizationMessage writes the document as AWS does.
func (q *request) decodeAuthorizationMessage() (any, error) {
	if err := q.check("EncodedMessage", 1, 10240, nil); err != nil {
		return nil, err
	}
	var d Denial
	if !q.open(purposeMessage, q.form.Get("EncodedMessage"), &d) {
		return nil, fail(400, "InvalidAuthorizationMessageException", "Message is not valid")
	}
	type value struct {
		Value string `json:"value"`
	}
	type values struct {
		Items []value `json:"items"`
	}
	type statement struct {
		ID         string `json:"statementId"`
		Effect     string `json:"effect"`
		Principals values `json:"principals"`
		Groups     values `json:"principalGroups"`
		Actions    values `json:"actions"`
		Resources  values `json:"resources"`
		Conditions values `json:"conditions"`
	}
	type condition struct {
		Key    string `json:"key"`
		Values values `json:"values"`
	}
	type list[T any] struct {
		Items []T `json:"items"`
	}
	var doc struct {
		Allowed  bool            `json:"allowed"`
		Explicit bool            `json:"explicitDeny"`
		Matched  list[statement] `json:"matchedStatements"`
		Failures list[value]     `json:"failures"`
		Context  struct {
			Principal struct {
				ID  string `json:"id"`
				ARN string `json:"arn"`
			} `json:"principal"`
			Action     string          `json:"action"`
			Resource   string          `json:"resource"`
			Conditions list[condition] `json:"conditions"`
		} `json:"context"`
	}
	none := values{[]value{}}
	id := userID("AIDA", d.Principal)
	doc.Explicit = d.Explicit
	doc.Matched.Items, doc.Failures.Items = []statement{}, []value{}
	if d.Explicit {
		doc.Matched.Items = append(doc.Matched.Items, statement{"", "DENY", values{[]value{{id}}}, none, values{[]value{{d.Action}}}, values{[]value{{"*"}}}, none})
	}
	doc.Context.Principal.ID, doc.Context.Principal.ARN = id, d.Principal
	doc.Context.Action, doc.Context.Resource = d.Action, d.Resource
	doc.Context.Conditions.Items = []condition{{"aws:RequestedRegion", values{[]value{{q.call.Region}}}}}
	b, _ := json.Marshal(doc)
	return decodedResult{string(b)}, nil
}
