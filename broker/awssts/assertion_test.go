package awssts

import (
	"encoding/base64"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	samlDeploy  = "arn:aws:iam::123456789012:role/deploy"
	samlRead    = "arn:aws:iam::210987654321:role/team/read,only"
	samlIDP     = "arn:aws:iam::123456789012:saml-provider/corp"
	samlIDP2    = "arn:aws:iam::210987654321:saml-provider/corp"
	samlCanary  = "CANARYperson"
	samlCore    = "urn:oasis:names:tc:SAML:2.0:assertion"
	samlWrapped = `<?xml version="1.0" encoding="UTF-8"?>
<samlp:Response xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol" ID="_r" Version="2.0" IssueInstant="2026-11-22T12:00:00Z" Destination="https://signin.aws.amazon.com/saml">
 <saml:Issuer xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion">https://idp.example.com/metadata</saml:Issuer>
 <samlp:Status><samlp:StatusCode Value="urn:oasis:names:tc:SAML:2.0:status:Success"/></samlp:Status>
 %s
</samlp:Response>`
)

// samlDocument is an assertion as identity providers write it, with these
// elements in its attribute statement.
func samlDocument(attributes ...string) string {
	return `<saml:Assertion xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" ID="_a" Version="2.0" IssueInstant="2026-11-22T12:00:00Z">
  <saml:Issuer>https://idp.example.com/metadata</saml:Issuer>
  <ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#"><ds:SignedInfo><ds:Reference URI="#_a"/></ds:SignedInfo><ds:SignatureValue>AAAA</ds:SignatureValue></ds:Signature>
  <saml:Subject>
   <saml:NameID Format="urn:oasis:names:tc:SAML:2.0:nameid-format:persistent">` + samlCanary + `</saml:NameID>
   <saml:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer">
    <saml:SubjectConfirmationData NotOnOrAfter="2026-11-22T12:01:00Z" Recipient="https://signin.aws.amazon.com/saml"/>
   </saml:SubjectConfirmation>
  </saml:Subject>
  <saml:Conditions NotBefore="2026-11-22T11:55:00Z" NotOnOrAfter="2026-11-22T12:05:00.250Z">
   <saml:AudienceRestriction><saml:Audience>urn:amazon:webservices</saml:Audience></saml:AudienceRestriction>
  </saml:Conditions>
  <saml:AuthnStatement AuthnInstant="2026-11-22T12:00:00Z" SessionNotOnOrAfter="2026-11-22T20:00:00Z" SessionIndex="_i">
   <saml:AuthnContext><saml:AuthnContextClassRef>urn:oasis:names:tc:SAML:2.0:ac:classes:Password</saml:AuthnContextClassRef></saml:AuthnContext>
  </saml:AuthnStatement>
  <saml:AttributeStatement>` + strings.Join(attributes, "\n   ") + `</saml:AttributeStatement>
 </saml:Assertion>`
}

func samlAttribute(name string, values ...string) string {
	var b strings.Builder
	for _, v := range values {
		b.WriteString(`<saml:AttributeValue xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="xs:string">` + v + `</saml:AttributeValue>`)
	}
	return `<saml:Attribute Name="` + name + `" NameFormat="urn:oasis:names:tc:SAML:2.0:attrname-format:uri">` + b.String() + `</saml:Attribute>`
}

func samlEncoded(document string) string { return base64.StdEncoding.EncodeToString([]byte(document)) }

func TestReadAssertion(t *testing.T) {
	whole := samlDocument(
		samlAttribute(samlRoleAttribute, samlDeploy+","+samlIDP, "\n "+samlIDP2+" ,\n "+samlRead+"\n", samlDeploy+","+samlIDP),
		samlAttribute(samlNameAttribute, samlCanary+"@example.com"), samlAttribute("https://aws.amazon.com/SAML/Attributes/SessionDuration", "28800"))
	want := assertion{
		roles:               []samlRole{{samlDeploy, samlIDP}, {samlRead, samlIDP2}},
		sessionName:         samlCanary + "@example.com",
		sessionNotOnOrAfter: time.Date(2026, 11, 22, 20, 0, 0, 0, time.UTC),
	}
	prefixes := strings.NewReplacer("saml:", "", "xmlns:saml", "xmlns")
	replace := func(old, new string) string {
		if !strings.Contains(whole, old) {
			t.Fatalf("no %q to replace", old)
		}
		return strings.ReplaceAll(whole, old, new)
	}
	with := func(change func(*assertion)) assertion {
		a := want
		change(&a)
		return a
	}
	for name, c := range map[string]struct {
		document string
		want     assertion
	}{
		"bare":           {whole, want},
		"wrapped":        {fmt.Sprintf(samlWrapped, whole), want},
		"no prefix":      {prefixes.Replace(whole), want},
		"one role each":  {replace("</saml:AttributeValue><saml:AttributeValue", `</saml:AttributeValue></saml:Attribute><saml:Attribute Name="`+samlRoleAttribute+`"><saml:AttributeValue`), want},
		"comment inside": {replace("role/deploy", "role/dep<!-- -->loy"), want},
		"CDATA":          {replace(samlDeploy+",", "<![CDATA["+samlDeploy+",]]>"), want},
		"offset":         {replace("T20:00:00Z", "T21:00:00+01:00"), want},
		"no zone":        {replace("T20:00:00Z", "T20:00:00"), want},
		"no end":         {replace("SessionNotOnOrAfter", "Other"), with(func(a *assertion) { a.sessionNotOnOrAfter = time.Time{} })},
		"foreign end":    {replace(" SessionNotOnOrAfter", " ds:SessionNotOnOrAfter"), with(func(a *assertion) { a.sessionNotOnOrAfter = time.Time{} })},
		// What is not used cannot fail a mint; STS judges it.
		"odd conditions": {replace("T12:05:00.250Z", "24:05"), want},
		"odd duration":   {replace(">28800<", ">899<"), want},
		"two ends": {replace("</saml:AuthnStatement>", `</saml:AuthnStatement><saml:AuthnStatement SessionNotOnOrAfter="2026-11-22T13:00:00Z"/><saml:AuthnStatement/>`),
			with(func(a *assertion) { a.sessionNotOnOrAfter = time.Date(2026, 11, 22, 13, 0, 0, 0, time.UTC) })},
		"name's case": {replace(samlRoleAttribute+`"`, strings.ToLower(samlRoleAttribute)+`"`), with(func(a *assertion) { a.roles = nil })},
		"namespace":   {replace("<saml:AttributeStatement>", `<saml:AttributeStatement xmlns:saml="urn:other">`), with(func(a *assertion) { a.roles, a.sessionName = nil, "" })},
		"China":       {strings.ReplaceAll(whole, "arn:aws:", "arn:aws-cn:"), with(func(a *assertion) { a.roles = chinese(a.roles) })},
		"one provider only, a word, two roles": {samlDocument(samlAttribute(samlRoleAttribute, samlIDP, "admin", "", samlDeploy+","+samlRead, samlDeploy+samlIDP,
			samlIDP+","+samlIDP2, samlDeploy+","+samlIDP+",x", "arn:aws:iam::12:role/x,"+samlIDP, "arn:aws:iam::123456789012:role/,"+samlIDP, "arn:aws:iam::123456789012:role/a b,"+samlIDP)),
			with(func(a *assertion) { a.roles, a.sessionName = nil, "" })},
		"encrypted":       {fmt.Sprintf(samlWrapped, `<e:EncryptedAssertion xmlns:e="`+samlCore+`"><x:EncryptedData xmlns:x="http://www.w3.org/2001/04/xmlenc#">AAAA</x:EncryptedData></e:EncryptedAssertion>`), assertion{encrypted: true}},
		"encrypted, bare": {`<EncryptedAssertion xmlns="` + samlCore + `"><a/></EncryptedAssertion>`, assertion{encrypted: true}},
	} {
		got, err := readAssertion(samlEncoded(c.document))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v\ngot  %+v\nwant %+v", name, err, got, c.want)
		}
	}
	inLines := strings.Join(slices.Collect(samlLines(samlEncoded(whole), 76)), "\r\n") + "\n"
	if got, err := readAssertion(inLines); err != nil || !reflect.DeepEqual(got, want) || unbroken(inLines) != samlEncoded(whole) {
		t.Errorf("in lines: %+v, %v", got, err)
	}
}

func chinese(roles []samlRole) (out []samlRole) {
	for _, r := range roles {
		out = append(out, samlRole{strings.Replace(r.role, "aws", "aws-cn", 1), strings.Replace(r.principal, "aws", "aws-cn", 1)})
	}
	return out
}

func samlLines(s string, n int) func(func(string) bool) {
	return func(yield func(string) bool) {
		for ; len(s) > n; s = s[n:] {
			if !yield(s[:n]) {
				return
			}
		}
		yield(s)
	}
}

func TestReadAssertionRefuses(t *testing.T) {
	whole := samlDocument(samlAttribute(samlRoleAttribute, samlDeploy+","+samlIDP))
	const notSAML = "is not the XML of a SAML"
	for name, c := range map[string]struct{ encoded, want string }{
		"nothing":          {"", notSAML},
		"XML":              {whole, "must be in base64"},
		"URL-encoded":      {strings.Replace(samlEncoded(whole), "+", "%2B", 1) + "%3D", "URL-encoded"},
		"URL alphabet":     {strings.NewReplacer("+", "-", "/", "_").Replace(samlEncoded(whole + "\u00bf\u00bf\u00be")), "not base64"},
		"cut":              {samlEncoded(whole)[:1001], "not base64"},
		"cut XML":          {samlEncoded(whole[:1000]), notSAML},
		"text":             {samlEncoded(samlCanary), notSAML},
		"other document":   {samlEncoded("<html><body>" + samlCanary + "</body></html>"), notSAML},
		"no namespace":     {samlEncoded(`<Assertion/>`), notSAML},
		"prefix only":      {samlEncoded(`<saml:Assertion/>`), notSAML},
		"request":          {samlEncoded(`<p:AuthnRequest xmlns:p="urn:oasis:names:tc:SAML:2.0:protocol"/>`), notSAML},
		"two roots":        {samlEncoded(whole + whole), notSAML},
		"unbalanced":       {samlEncoded(strings.Replace(whole, "</saml:Issuer>", "</saml:"+samlCanary+">", 1)), notSAML},
		"entity":           {samlEncoded(strings.Replace(whole, samlCanary, "&"+samlCanary+";", 1)), notSAML},
		"other charset":    {samlEncoded(`<?xml version="1.0" encoding="` + samlCanary + `"?>` + whole), notSAML},
		"DTD":              {samlEncoded(`<!DOCTYPE x [<!ENTITY a "` + samlCanary + `">]>` + whole), "document type"},
		"DTD inside":       {samlEncoded(strings.Replace(whole, "<saml:Issuer>", "<!DOCTYPE x><saml:Issuer>", 1)), "document type"},
		"no assertion":     {samlEncoded(fmt.Sprintf(samlWrapped, "")), "without an assertion"},
		"hidden assertion": {samlEncoded(fmt.Sprintf(samlWrapped, "<samlp:Extensions>"+whole+"</samlp:Extensions>")), "without an assertion"},
		"no time":          {samlEncoded(strings.Replace(whole, "T20:00:00Z", "T"+samlCanary, 1)), "not a time"},
		"deep":             {samlEncoded(fmt.Sprintf(samlWrapped, strings.Repeat("<a>", 24_000))), notSAML},
		"long":             {strings.Repeat("A", maxInput+1), "longer than 100000 characters"},
	} {
		a, err := readAssertion(c.encoded)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "CANARY") || !reflect.DeepEqual(a, assertion{}) {
			t.Errorf("%s: %v; want …%s…", name, err, c.want)
		}
	}
}

func TestChooseRole(t *testing.T) {
	one := assertion{roles: []samlRole{{samlDeploy, samlIDP}}}
	two := assertion{roles: []samlRole{{samlDeploy, samlIDP}, {samlRead, samlIDP2}}}
	twice := assertion{roles: []samlRole{{samlDeploy, samlIDP}, {samlDeploy, samlIDP2}}}
	hidden := assertion{encrypted: true}
	var many assertion
	for i := range 13 {
		many.roles = append(many.roles, samlRole{fmt.Sprintf("%s-%02d", samlDeploy, i), samlIDP})
	}
	for _, c := range []struct {
		name            string
		from            assertion
		role, principal string
		want            string // role and principal, or part of an error that begins with "!"
	}{
		{"one", one, "", "", samlDeploy + " " + samlIDP},
		{"one, by role", one, samlDeploy, "", samlDeploy + " " + samlIDP},
		{"one, by provider", one, "", samlIDP, samlDeploy + " " + samlIDP},
		{"one, by both", one, samlDeploy, samlIDP, samlDeploy + " " + samlIDP},
		{"another", one, samlRead, "", "!set arn to one of those that it offers: " + samlDeploy},
		{"another provider", one, "", samlIDP2, "!nothing through that principal_arn; set it to one of these, or leave it out: " + samlIDP},
		{"another provider of the role", one, samlDeploy, samlIDP2, "!nothing through that principal_arn"},
		{"two", two, "", "", "!several roles; set arn to one of them: " + samlDeploy + ", " + samlRead},
		{"two, by role", two, samlRead, "", samlRead + " " + samlIDP2},
		{"two, by provider", two, "", samlIDP2, samlRead + " " + samlIDP2},
		{"two, crossed", two, samlRead, samlIDP, "!nothing through that principal_arn"},
		{"twice", twice, "", "", "!several providers; set principal_arn to one of them: " + samlIDP + ", " + samlIDP2},
		{"twice, by role", twice, samlDeploy, "", "!several providers"},
		{"twice, by provider", twice, "", samlIDP2, samlDeploy + " " + samlIDP2},
		{"many", many, "", "", "!-09 and 3 more"},
		{"many, another", many, samlRead, "", "!-09 and 3 more"},
		{"none", assertion{}, samlDeploy, samlIDP, "!offers no role; the identity provider must send"},
		{"encrypted", hidden, samlDeploy, samlIDP, samlDeploy + " " + samlIDP},
		{"encrypted, role", hidden, samlDeploy, "", "!encrypted"},
		{"encrypted, provider", hidden, "", samlIDP, "!set both arn and principal_arn"},
	} {
		role, principal, err := c.from.choose(c.role, c.principal)
		if text, ok := strings.CutPrefix(c.want, "!"); ok {
			if err == nil || !strings.Contains(err.Error(), text) || role+principal != "" || strings.Contains(err.Error(), "-10") {
				t.Errorf("%s: %s %s, %v; want …%s…", c.name, role, principal, err, text)
			}
		} else if err != nil || role+" "+principal != c.want {
			t.Errorf("%s: %s %s, %v; want %s", c.name, role, principal, err, c.want)
		}
	}
}

// FuzzReadAssertion looks for a panic, a wait, a pair that STS could not be asked
// for, and errors that show what they must not.
func FuzzReadAssertion(f *testing.F) {
	pair := samlDeploy + "," + samlIDP
	for _, document := range []string{
		samlDocument(samlAttribute(samlRoleAttribute, pair, samlIDP2+","+samlRead), samlAttribute(samlNameAttribute, "me")),
		`<Assertion xmlns="` + samlCore + `"><AttributeStatement><Attribute Name="` + samlRoleAttribute + `"><AttributeValue>` + pair + `</AttributeValue></Attribute></AttributeStatement></Assertion>`,
		fmt.Sprintf(samlWrapped, `<EncryptedAssertion xmlns="`+samlCore+`"/>`),
		`<!DOCTYPE a><a/>`,
	} {
		f.Add([]byte(document))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		text := samlEncoded(string(document))
		a, err := readAssertion(text)
		again, errAgain := readAssertion(" " + strings.Join(slices.Collect(samlLines(text, 64)), "\n") + "\n")
		if !reflect.DeepEqual(a, again) || fmt.Sprint(err) != fmt.Sprint(errAgain) {
			t.Errorf("lines change what is read: %+v, %v", again, errAgain)
		}
		if err != nil {
			if !reflect.DeepEqual(a, assertion{}) || len(err.Error()) > 120 {
				t.Errorf("%+v, %v", a, err)
			}
			return
		}
		for i, r := range a.roles {
			if !strings.HasPrefix(r.role, "arn:") || !strings.HasPrefix(r.principal, "arn:") || !strings.Contains(r.role, ":role/") || !strings.Contains(r.principal, ":saml-provider/") ||
				strings.ContainsFunc(r.role+r.principal, func(c rune) bool { return c <= ' ' || c > '~' }) || slices.Contains(a.roles[:i], r) {
				t.Errorf("a pair of %q and %q", r.role, r.principal)
			}
			if role, principal, err := a.choose(r.role, r.principal); err != nil || role != r.role || principal != r.principal {
				t.Errorf("%+v cannot be chosen: %v", r, err)
			}
		}
		_, _, err = a.choose("", "")
		if alone := len(a.roles) == 1 && !a.encrypted; alone != (err == nil) {
			t.Errorf("of %+v: %v", a, err)
		}
		if err != nil && (strings.ContainsFunc(err.Error(), func(c rune) bool { return c < ' ' || c > '~' }) || len(err.Error()) > 300+10*2050) {
			t.Errorf("%q", err)
		}
	})
}
