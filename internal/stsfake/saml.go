package stsfake

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	samlAttribute = "https://aws.amazon.com/SAML/Attributes/"
	samlRecipient = "https://signin.aws.amazon.com/saml"
	samlIssuer    = "https://idp.invalid/saml"
	samlFormat    = "urn:oasis:names:tc:SAML:2.0:nameid-format:"
	samlRedeem    = 5 * time.Minute // from issue to use
)

var (
	providerARN = lazy(`^arn:aws[\w-]*:iam::(\d{12}):saml-provider/([\w._-]+)$`)
	recipient   = lazy(`^https://(?:[a-z0-9-]+\.)?(?:signin\.aws\.amazon\.com|signin\.amazonaws\.cn|signin\.amazonaws-us-gov\.com)/saml$`)
)

// AddSAMLProvider makes a SAML provider of IAM. verify judges the signature of
// a response (the XML, base64 taken off), and nothing else; nil takes what
// [Server.Assertion] signs, and that alone.
func (s *Server) AddSAMLProvider(arn string, verify func(response []byte) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if verify == nil {
		verify = s.verifyAssertion
	}
	s.saml[arn] = verify
}

// SAMLAssertion is what an identity provider asserts.
type SAMLAssertion struct {
	Provider    string   // ARN of the SAML provider
	Roles       []string // ARNs of the roles to choose from
	SessionName string
	Subject     string // the NameID; "" is the session name

	Life            time.Duration // until NotOnOrAfter; 0 is five minutes
	SessionLife     time.Duration // until SessionNotOnOrAfter; 0 is none
	SessionDuration time.Duration // the attribute, which counts for AWS's console alone; 0 is none
	Recipient       string        // "" is https://signin.aws.amazon.com/saml
	SourceIdentity  string
	Tags            map[string]string
	TransitiveTags  []string
}

// Assertion returns a SAML response in base64, as AssumeRoleWithSAML takes it.
// It is issued now, on the stand-in's clock. Its signature is one that only
// this server reads, not one by XML-DSig.
func (s *Server) Assertion(a SAMLAssertion) string {
	now := s.Now().UTC()
	if a.Life == 0 {
		a.Life = 5 * time.Minute
	}
	if a.Recipient == "" {
		a.Recipient = samlRecipient
	}
	if a.Subject == "" {
		a.Subject = a.SessionName
	}
	at := func(d time.Duration) string { return now.Add(d).Format("2006-01-02T15:04:05.000Z") }
	var attributes strings.Builder
	attribute := func(name string, values ...string) {
		fmt.Fprintf(&attributes, `<saml:Attribute Name="%s">`, escape(samlAttribute+name))
		for _, v := range values {
			fmt.Fprintf(&attributes, `<saml:AttributeValue>%s</saml:AttributeValue>`, escape(v))
		}
		attributes.WriteString(`</saml:Attribute>`)
	}
	var pairs []string
	for _, r := range a.Roles {
		pairs = append(pairs, r+","+a.Provider)
	}
	attribute("Role", pairs...)
	if a.SessionName != "" {
		attribute("RoleSessionName", a.SessionName)
	}
	if a.SessionDuration != 0 {
		attribute("SessionDuration", fmt.Sprint(int(a.SessionDuration/time.Second)))
	}
	if a.SourceIdentity != "" {
		attribute("SourceIdentity", a.SourceIdentity)
	}
	for k, v := range a.Tags {
		attribute("PrincipalTag:"+k, v)
	}
	if len(a.TransitiveTags) > 0 {
		attribute("TransitiveTagKeys", a.TransitiveTags...)
	}
	session := ""
	if a.SessionLife != 0 {
		session = fmt.Sprintf(` SessionNotOnOrAfter="%s"`, at(a.SessionLife))
	}
	head := fmt.Sprintf(`<samlp:Response xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol" xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" ID="_%s" Version="2.0" IssueInstant="%s" Destination="%s">`+
		`<saml:Issuer>%s</saml:Issuer><samlp:Status><samlp:StatusCode Value="urn:oasis:names:tc:SAML:2.0:status:Success"/></samlp:Status>`+
		`<saml:Assertion ID="_%s" Version="2.0" IssueInstant="%s"><saml:Issuer>%s</saml:Issuer>`,
		requestID(), at(0), escape(a.Recipient), samlIssuer, requestID(), at(0), samlIssuer)
	tail := fmt.Sprintf(`<saml:Subject><saml:NameID Format="%spersistent">%s</saml:NameID>`+
		`<saml:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer"><saml:SubjectConfirmationData NotOnOrAfter="%s" Recipient="%s"/></saml:SubjectConfirmation></saml:Subject>`+
		`<saml:Conditions NotBefore="%s" NotOnOrAfter="%s"><saml:AudienceRestriction><saml:Audience>urn:amazon:webservices</saml:Audience></saml:AudienceRestriction></saml:Conditions>`+
		`<saml:AuthnStatement AuthnInstant="%s"%s><saml:AuthnContext><saml:AuthnContextClassRef>urn:oasis:names:tc:SAML:2.0:ac:classes:Password</saml:AuthnContextClassRef></saml:AuthnContext></saml:AuthnStatement>`+
		`<saml:AttributeStatement>%s</saml:AttributeStatement></saml:Assertion></samlp:Response>`,
		samlFormat, escape(a.Subject), at(a.Life), escape(a.Recipient), at(-time.Minute), at(a.Life), at(0), session, attributes.String())
	sum := base64.StdEncoding.EncodeToString(mac(s.key[:], "saml "+head+tail))
	return base64.StdEncoding.EncodeToString([]byte(head + signatureStart + sum + signatureEnd + tail))
}

const (
	signatureStart = `<ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#"><ds:SignatureValue>`
	signatureEnd   = `</ds:SignatureValue></ds:Signature>`
)

func (s *Server) verifyAssertion(response []byte) error {
	head, rest, _ := strings.Cut(string(response), signatureStart)
	value, tail, _ := strings.Cut(rest, signatureEnd)
	sum, err := base64.StdEncoding.DecodeString(value)
	if err != nil || !hmac.Equal(sum, mac(s.key[:], "saml "+head+tail)) {
		return errors.New("not signed by this server")
	}
	return nil
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

// samlResponse is what counts of a response.
type samlResponse struct {
	XMLName    xml.Name `xml:"urn:oasis:names:tc:SAML:2.0:protocol Response"`
	Assertions []struct {
		IssueInstant time.Time `xml:",attr"`
		Issuer       string
		Subject      struct {
			NameID struct {
				Format string `xml:",attr"`
				Value  string `xml:",chardata"`
			}
			Confirmation struct {
				NotOnOrAfter time.Time `xml:",attr"`
				Recipient    string    `xml:",attr"`
			} `xml:"SubjectConfirmation>SubjectConfirmationData"`
		}
		Conditions struct {
			NotBefore    time.Time `xml:",attr"`
			NotOnOrAfter time.Time `xml:",attr"`
		}
		AuthnStatement struct {
			SessionNotOnOrAfter time.Time `xml:",attr"`
		}
		Attributes []struct {
			Name   string   `xml:",attr"`
			Values []string `xml:"AttributeValue"`
		} `xml:"AttributeStatement>Attribute"`
	} `xml:"urn:oasis:names:tc:SAML:2.0:assertion Assertion"`
}

func (q *request) assumeRoleWithSAML() (any, error) {
	if err := q.check("SAMLAssertion", 4, 100000, nil); err != nil {
		return nil, err
	}
	provider := q.form.Get("PrincipalArn")
	m := providerARN().FindStringSubmatch(provider)
	if m == nil {
		return nil, invalid(provider + " is invalid")
	}
	raw, err := base64.StdEncoding.DecodeString(q.form.Get("SAMLAssertion"))
	if err != nil {
		return nil, badToken("Invalid base64 SAMLResponse")
	}
	var response samlResponse
	if err := xml.Unmarshal(raw, &response); err != nil || len(response.Assertions) != 1 {
		return nil, badToken("Response is not a SAML response with one assertion")
	}
	q.mu.Lock()
	verify := q.saml[provider]
	q.mu.Unlock()
	if verify == nil {
		return nil, badToken("Specified provider doesn't exist")
	}
	if verify(raw) != nil {
		return nil, badToken("Response signature invalid")
	}

	a := response.Assertions[0]
	confirmed, ends := a.Subject.Confirmation, a.AuthnStatement.SessionNotOnOrAfter
	over := func(t time.Time) bool { return !t.IsZero() && !q.now.Before(t) }
	expired := func(m string) error { return fail(400, "ExpiredTokenException", m) }
	switch {
	case over(a.Conditions.NotOnOrAfter), over(confirmed.NotOnOrAfter), over(ends):
		return nil, expired("Response has expired")
	case q.now.Sub(a.IssueInstant) > samlRedeem:
		return nil, expired("Token must be redeemed within 5 minutes of issuance")
	case q.now.Before(a.Conditions.NotBefore):
		return nil, badToken("Response is not valid yet")
	case !recipient().MatchString(confirmed.Recipient):
		return nil, badToken("Response does not contain the required recipient")
	}

	said := map[string][]string{}
	var tags []tag
	for _, at := range a.Attributes {
		name, ours := strings.CutPrefix(at.Name, samlAttribute)
		if !ours {
			continue
		}
		said[name] = append(said[name], at.Values...)
		if key, ok := strings.CutPrefix(name, "PrincipalTag:"); ok {
			for _, v := range at.Values {
				tags = append(tags, tag{key, v})
			}
		}
	}
	one := func(name string) string { return strings.Join(said[name], ",") }
	switch {
	case one("RoleSessionName") == "":
		return nil, badToken("RoleSessionName is required in AuthnResponse")
	case constrain("", one("RoleSessionName"), 2, 64, nameChars()) != nil:
		return nil, badToken("RoleSessionName in AuthnResponse must match [a-zA-Z_0-9+=,.@-]{2,64}")
	case one("SourceIdentity") != "" && !goodSource(one("SourceIdentity")):
		return nil, badToken(sourceRule)
	}
	g, err := q.roleInput(one("RoleSessionName"), "roleSessionName")
	if err != nil {
		return nil, err
	}
	if g.tags, err = mergeTags(tags, said["TransitiveTagKeys"], nil); err != nil {
		return nil, err
	}
	g.source = one("SourceIdentity")
	if err := q.pack(&g); err != nil {
		return nil, err
	}

	role, ok := q.role(q.call.Target)
	asserted := slices.ContainsFunc(said["Role"], func(pair string) bool {
		x, y, _ := strings.Cut(strings.ReplaceAll(pair, " ", ""), ",")
		return x == q.call.Target && y == provider || x == provider && y == q.call.Target // AWS takes both orders
	})
	if !ok || !asserted || !slices.Contains(role.SAML, provider) {
		return nil, denied("Not authorized to perform sts:AssumeRoleWithSAML")
	}
	g.ends = ends
	granted, err := q.grantRole(role, g)
	if err != nil {
		return nil, err
	}
	qualifier := sha1.Sum([]byte(a.Issuer + m[1] + "/" + m[2]))
	granted.Subject, granted.SubjectType = a.Subject.NameID.Value, strings.TrimPrefix(a.Subject.NameID.Format, samlFormat)
	granted.Issuer, granted.Audience = a.Issuer, confirmed.Recipient
	granted.NameQualifier = base64.StdEncoding.EncodeToString(qualifier[:])
	return granted, nil
}
