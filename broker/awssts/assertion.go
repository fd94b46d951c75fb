package awssts

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// assertion is what an identity provider says about a person to AWS ("Configure
// SAML assertions for the authentication response", IAM user guide). It is read
// to choose a role and to know when a session must end. Nothing here verifies a
// signature, an audience or a time: STS does, and gives nothing for a forgery.
type assertion struct {
	roles               []samlRole // each pair once, in the assertion's order
	sessionName         string
	sessionNotOnOrAfter time.Time // when sessions must end; zero when nothing says so
	encrypted           bool      // only AWS can read it, and nothing else is known
}

// samlRole is a role and the identity provider in IAM through which it is offered.
type samlRole struct{ role, principal string }

// Names of attributes, the same in every partition.
const (
	samlRoleAttribute = "https://aws.amazon.com/SAML/Attributes/Role"
	samlNameAttribute = "https://aws.amazon.com/SAML/Attributes/RoleSessionName"
)

// samlResponse and samlAssertion are the elements of SAML 2.0 core that matter
// here. Lists, because SAML has them; of times, the earliest counts.
type samlResponse struct {
	Assertions []samlAssertion `xml:"urn:oasis:names:tc:SAML:2.0:assertion Assertion"`
	Encrypted  []struct{}      `xml:"urn:oasis:names:tc:SAML:2.0:assertion EncryptedAssertion"`
}

type samlAssertion struct {
	Statements []samlElement `xml:"urn:oasis:names:tc:SAML:2.0:assertion AuthnStatement"`
	Attributes []samlElement `xml:"urn:oasis:names:tc:SAML:2.0:assertion AttributeStatement>Attribute"`
}

type samlElement struct {
	Attrs  []xml.Attr `xml:",any,attr"`
	Values []string   `xml:"urn:oasis:names:tc:SAML:2.0:assertion AttributeValue"`
}

// attr is the value of an attribute of XML. SAML's have no namespace.
func (e samlElement) attr(name string) string {
	for _, a := range e.Attrs {
		if a.Name == (xml.Name{Local: name}) {
			return strings.TrimSpace(a.Value)
		}
	}
	return ""
}

// readAssertion reads a response of SAML's HTTP POST binding, or the assertion
// alone, in base64 that may be broken into lines. Errors hold nothing of it.
func readAssertion(encoded string) (assertion, error) {
	encoded = unbroken(encoded)
	switch {
	case len(encoded) > maxInput:
		return assertion{}, fmt.Errorf("it is longer than %d characters, the most that STS takes", maxInput)
	case strings.HasPrefix(encoded, "<"):
		return assertion{}, errors.New("it is XML as it stands, and must be in base64, as the identity provider posts it")
	case strings.Contains(encoded, "%"):
		return assertion{}, errors.New("it is URL-encoded; decode it first, so that it is plain base64")
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return assertion{}, errors.New("it is not base64")
	}
	r, err := parseSAML(raw)
	if err != nil {
		return assertion{}, err
	}
	a := assertion{encrypted: len(r.Encrypted) > 0}
	for _, s := range r.Assertions {
		if err := a.add(s); err != nil {
			return assertion{}, err
		}
	}
	return a, nil
}

// unbroken drops white space. STS is to get base64 without any.
func unbroken(encoded string) string { return strings.Join(strings.Fields(encoded), "") }

var errNotSAML = errors.New("it is not the XML of a SAML response or assertion")

// parseSAML finds the assertions, encrypted or not, of a document.
func parseSAML(raw []byte) (samlResponse, error) {
	const core, protocol = "urn:oasis:names:tc:SAML:2.0:assertion", "urn:oasis:names:tc:SAML:2.0:protocol"
	var r samlResponse
	d := xml.NewTokenDecoder(withoutDTD{xml.NewDecoder(bytes.NewReader(raw))})
	for roots := 0; ; {
		token, err := d.Token()
		if root, ok := token.(xml.StartElement); ok && err == nil {
			if roots++; roots > 1 {
				return samlResponse{}, errNotSAML
			}
			switch root.Name {
			case xml.Name{Space: protocol, Local: "Response"}:
				err = d.DecodeElement(&r, &root)
			case xml.Name{Space: core, Local: "Assertion"}:
				r.Assertions = make([]samlAssertion, 1)
				err = d.DecodeElement(&r.Assertions[0], &root)
			case xml.Name{Space: core, Local: "EncryptedAssertion"}:
				r.Encrypted = make([]struct{}, 1)
				err = d.Skip()
			default:
				return samlResponse{}, errNotSAML
			}
		}
		switch {
		case errors.Is(err, errDTD):
			return samlResponse{}, errDTD
		case errors.Is(err, io.EOF) && roots == 1 && len(r.Assertions)+len(r.Encrypted) == 0:
			return samlResponse{}, errors.New("it is a response without an assertion: the identity provider did not let the person in")
		case errors.Is(err, io.EOF) && roots == 1:
			return r, nil
		case err != nil: // its text may quote the document
			return samlResponse{}, errNotSAML
		}
	}
}

var errDTD = errors.New("it has a document type declaration, which no SAML response needs")

// withoutDTD refuses what could define entities.
type withoutDTD struct{ *xml.Decoder }

func (d withoutDTD) Token() (xml.Token, error) {
	t, err := d.RawToken()
	if _, ok := t.(xml.Directive); ok {
		return nil, errDTD
	}
	return t, err
}

func (a *assertion) add(s samlAssertion) error {
	for _, e := range s.Statements {
		if err := earliest(&a.sessionNotOnOrAfter, e.attr("SessionNotOnOrAfter")); err != nil {
			return err
		}
	}
	for _, e := range s.Attributes {
		name := e.attr("Name")
		for _, v := range e.Values {
			v = strings.TrimSpace(v)
			switch name {
			case samlRoleAttribute:
				if r, ok := parseSAMLRole(v); ok && !slices.Contains(a.roles, r) {
					a.roles = append(a.roles, r)
				}
			case samlNameAttribute:
				if a.sessionName == "" {
					a.sessionName = v
				}
			}
		}
	}
	return nil
}

// earliest moves t to what an attribute says, if that is earlier. SAML's times
// are of UTC, and some providers leave the Z out.
func earliest(t *time.Time, value string) error {
	if value == "" {
		return nil
	}
	at, err := time.Parse(time.RFC3339, value)
	if err != nil {
		at, err = time.Parse("2006-01-02T15:04:05", value)
	}
	if err != nil {
		return errors.New("one of its SessionNotOnOrAfter is not a time")
	}
	if t.IsZero() || at.Before(*t) {
		*t = at.UTC()
	}
	return nil
}

// parseSAMLRole takes the two ARNs in either order. Names of roles may hold a
// comma, those of providers may not.
func parseSAMLRole(v string) (samlRole, bool) {
	i := max(strings.LastIndex(v, "arn:"), 0)
	first, ok := strings.CutSuffix(strings.TrimSpace(v[:i]), ",")
	first, second := strings.TrimSpace(first), v[i:]
	switch {
	case !ok:
	case isIAM(first, "role/") && isIAM(second, "saml-provider/"):
		return samlRole{first, second}, true
	case isIAM(second, "role/") && isIAM(first, "saml-provider/"):
		return samlRole{second, first}, true
	}
	return samlRole{}, false
}

// isIAM reports whether an ARN is of IAM and names a thing of this kind.
func isIAM(arn, kind string) bool {
	p := strings.SplitN(arn, ":", 6)
	if len(arn) > 2048 || len(p) != 6 || p[0] != "arn" || p[1] == "" || p[2] != "iam" || p[3] != "" || len(p[4]) != 12 || strings.Trim(p[4], "0123456789") != "" {
		return false
	}
	name, ok := strings.CutPrefix(p[5], kind)
	comma := kind != "role/" && strings.Contains(name, ",")
	return ok && name != "" && !comma && !strings.ContainsFunc(arn, func(r rune) bool { return r <= ' ' || r > '~' })
}

// choose returns the pair to ask STS for. What is "" is taken from the
// assertion, where exactly one pair fits what is not.
func (a assertion) choose(role, principal string) (roleARN, principalARN string, err error) {
	switch {
	case a.encrypted && role != "" && principal != "":
		return role, principal, nil
	case a.encrypted:
		return "", "", errors.New("it is encrypted, and only AWS can read it; set both arn and principal_arn")
	case len(a.roles) == 0:
		return "", "", errors.New("it offers no role; the identity provider must send pairs of a role's ARN and the provider's in the attribute " + samlRoleAttribute)
	}
	roleOf, principalOf := func(r samlRole) string { return r.role }, func(r samlRole) string { return r.principal }
	var same, fit []samlRole // same role; same principal, too
	for _, r := range a.roles {
		if role == "" || r.role == role {
			same = append(same, r)
			if principal == "" || r.principal == principal {
				fit = append(fit, r)
			}
		}
	}
	switch {
	case len(fit) == 1:
		return fit[0].role, fit[0].principal, nil
	case len(same) == 0:
		return "", "", errors.New("it does not offer that role; set arn to one of those that it offers: " + listed(a.roles, roleOf))
	case len(fit) == 0:
		return "", "", errors.New("it offers nothing through that principal_arn; set it to one of these, or leave it out: " + listed(same, principalOf))
	case slices.ContainsFunc(fit, func(r samlRole) bool { return r.role != fit[0].role }):
		return "", "", errors.New("it offers several roles; set arn to one of them: " + listed(fit, roleOf))
	}
	return "", "", errors.New("it offers the role through several providers; set principal_arn to one of them: " + listed(fit, principalOf))
}

// listed names each ARN once, and at most ten.
func listed(roles []samlRole, arn func(samlRole) string) string {
	const most = 10
	var all []string
	for _, r := range roles {
		if s := arn(r); !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	if more := len(all) - most; more > 0 {
		return strings.Join(all[:most], ", ") + " and " + strconv.Itoa(more) + " more"
	}
	return strings.Join(all, ", ")
}
