package awssts

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stsbroker/stsbroker/broker"
)

// FuzzWire is of every action: whatever comes back, from the status line on,
// nothing panics, an error is one fit to be shown, and credentials are handed
// out only when they are whole, of whom was asked for, and alive for no longer
// than asked.
func FuzzWire(f *testing.F) {
	now := time.Now()
	date := now.UTC().Format(http.TimeFormat)
	for kind, name := range fuzzed {
		for _, life := range []time.Duration{time.Minute, 15 * time.Minute, time.Hour, 12 * time.Hour, -time.Minute, 1000 * time.Hour} {
			f.Add(uint8(kind), uint16(200), date, []byte(goodAnswer(name, now.Add(life))))
		}
		f.Add(uint8(kind), uint16(200), now.Add(-20*time.Minute).UTC().Format(http.TimeFormat), []byte(goodAnswer(name, now.Add(-5*time.Minute))))
		f.Add(uint8(kind), uint16(200), "Mon, 01 Jan 0001 00:00:00 GMT", []byte(goodAnswer(name, time.Time{}.Add(time.Minute))))
		f.Add(uint8(kind), uint16(200), "Fri, 31 Dec 9999 23:59:59 GMT", []byte(goodAnswer(name, now)))
	}
	for status, body := range map[uint16]string{
		400: "<ErrorResponse><Error><Code>Throttling</Code><Message>Rate exceeded</Message></Error><RequestId>id</RequestId></ErrorResponse>",
		403: "<ErrorResponse><Error><Code>AccessDenied</Code><Message>Encoded authorization failure message: AAAA</Message></Error></ErrorResponse>",
		405: "<?xml version=\"1.0\"?><Error><Code>MethodNotAllowed</Code><RequestId>tx</RequestId></Error>",
		401: "<ErrorResponse><Errors><Error><Code>AuthFailure</Code></Error></Errors></ErrorResponse>",
		502: "<html><body>Bad gateway</body></html>",
		500: "", 204: "", 100: "", 304: "", 0: "", 999: "{}",
		307: "<a href='/'>there</a>",
		404: strings.Repeat("x", maxAnswer+1),
	} {
		f.Add(uint8(1), status, date, []byte(body))
		f.Add(uint8(len(fuzzed)), status, "x\r\nTransfer-Encoding: chunked\r\nLocation: http://127.0.0.1:1/", []byte(body))
	}
	f.Fuzz(func(t *testing.T, kind uint8, status uint16, date string, body []byte) {
		began := time.Now()
		o := Options{Endpoints: map[string]Endpoint{region: {URL: "http://127.0.0.1:1", Compatible: kind >= 128}}, Dial: answering(status%1000, date, body)}
		s := newSTS(t, o)
		ask := fuzzed[int(kind%128)%(len(fuzzed))]
		c, most, arn, err := askFor(t.Context(), s, ask, kind >= 128)
		if err != nil {
			var e *broker.Error
			if !errors.As(err, &e) || e.Public == "" || len(e.Public) > 8<<10 || strings.IndexFunc(e.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
				t.Errorf("not fit to be shown: %q", err)
			}
			if c != (broker.Credentials{}) {
				t.Errorf("an error came with credentials of %s", c.AccessKeyID)
			}
			return
		}
		if most == 0 {
			return // it mints nothing
		}
		life := c.Expires.Sub(c.Issued)
		switch {
		case status != 200 && (status%1000 < 200 || status%1000 > 299):
			t.Errorf("credentials out of status %d", status%1000)
		case !broker.ValidKeyID(c.AccessKeyID) || !visible(c.SecretAccessKey.Reveal()) || !visible(c.SessionToken.Reveal()):
			t.Errorf("empty or malformed: %+v", c)
		case !c.Expires.After(c.Issued):
			t.Errorf("it expired at %v and was issued at %v", c.Expires, c.Issued)
		case life > most+5*time.Minute:
			t.Errorf("a life of %v is longer than %v", life, most)
		case c.RoleARN != arn || c.Region != region || (c.AccountID != "" && len(c.AccountID) != 12):
			t.Errorf("it is of %q in %q, account %q", c.RoleARN, c.Region, c.AccountID)
		}
		// Issued is by the answer's own clock if it has one that is not this host's.
		clock := began
		if d, err := http.ParseTime(strings.TrimSpace(date)); err == nil && d.Sub(began).Abs() > time.Minute && !strings.ContainsAny(date, "\r\n") {
			clock = d
		}
		if off := c.Issued.Sub(clock); off < -time.Minute || off > time.Minute {
			t.Errorf("issued at %v, and the answer said %q", c.Issued, date)
		}
	})
}

// What fuzzing starts from is believed, else it would never come to what matters.
func TestGoodAnswers(t *testing.T) {
	for _, action := range fuzzed {
		s := newSTS(t, Options{
			Endpoints: map[string]Endpoint{region: {URL: "http://127.0.0.1:1"}},
			Dial:      answering(200, time.Now().UTC().Format(http.TimeFormat), []byte(goodAnswer(action, time.Now().Add(15*time.Minute)))),
		})
		c, _, _, err := askFor(t.Context(), s, action, false)
		if strings.HasSuffix(action, "*") {
			if e := wantError(t, c, err); !strings.Contains(e.Public, "assumed-role/other/tester") {
				t.Errorf("%s: %v", action, err)
			}
		} else if err != nil {
			t.Errorf("%s: %v", action, err)
		}
	}
}

// fuzzed are the actions, and one whose seed is an answer for another role.
var fuzzed = append([]string{"AssumeRole*"}, actions...)

// answering is a server at the other end of each connection that says the same to all.
func answering(status uint16, date string, body []byte) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			r, err := http.ReadRequest(bufio.NewReader(server))
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body) // else the client may fail to send before it reads
			head := fmt.Sprintf("HTTP/1.1 %03d It is\r\nDate: %s\r\nContent-Type: text/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", status, date, len(body))
			_, _ = server.Write(append([]byte(head), body...))
		}()
		return client, nil
	}
}

// askFor makes the call of an action, by the way that users take; most is the
// longest life of what it mints, 0 for nothing, and arn the role that it names.
func askFor(ctx context.Context, s *STS, action string, compatible bool) (c broker.Credentials, most time.Duration, arn string, err error) {
	const unlimited = 1 << 62
	var m broker.Minter
	switch action {
	case "GetSessionToken":
		m, most = s.Session(Session{Site: at, Duration: 15 * time.Minute}), 15*time.Minute
	case "AssumeRole", "AssumeRole*":
		m, most, arn = s.Role(Role{Site: at, ARN: deploy, SessionName: "tester"}), time.Hour, deploy
	case "AssumeRoleWithWebIdentity":
		m, most, arn = s.WebIdentity(WebIdentity{Site: at, ARN: ci, SessionName: "tester", Token: literal("eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl")}), time.Hour, ci
		if compatible {
			most = unlimited // it is the token's own
		}
	case "AssumeRoleWithSAML":
		assertion := literal(base64.StdEncoding.EncodeToString([]byte(someAssertion)))
		m, most, arn = s.SAML(SAML{Site: at, ARN: ci, Assertion: assertion, Duration: 2 * time.Hour}), 2*time.Hour, ci
	case "GetFederationToken":
		m, most = s.Federation(Federation{Site: at, Name: "kiosk", Policy: "{}", Duration: 36 * time.Hour}), 36*time.Hour
	case "AssumeRoot":
		m, most = s.Root(Root{Site: at, Target: "123456789012", TaskPolicyARN: "arn:aws:iam::aws:policy/root-task/IAMAuditRootUserCredentials"}), 15*time.Minute
	case "GetDelegatedAccessToken":
		m, most = s.Delegated(Delegated{Site: at, Token: literal("trade-in-token-of-some-length")}), unlimited // the answer says
	case "GetCallerIdentity":
		var id Identity
		if id, err = s.WhoAmI(ctx, at, longTerm); err == nil && id.ARN == "" {
			err = errors.New("nobody")
		}
	case "DecodeAuthorizationMessage":
		var text string
		if text, err = s.Decode(ctx, at, longTerm, "encoded"); err == nil && text == "" {
			err = errors.New("no text")
		}
	case "GetAccessKeyInfo":
		var account string
		if account, err = s.KeyAccount(ctx, at, longTerm, longTerm.AccessKeyID); err == nil && account == "" {
			err = errors.New("no account")
		}
	case "GetWebIdentityToken":
		var token IdentityToken
		if token, err = s.IdentityToken(ctx, at, longTerm, TokenRequest{Audiences: []string{"a"}, Algorithm: "RS256"}); err == nil && token.Token.IsZero() {
			err = errors.New("no token")
		}
	default:
		err = errors.New("no action " + action)
	}
	if m != nil {
		c, err = m.Mint(ctx, broker.MintInput{Parent: longTerm})
	}
	return c, most, arn, err
}

// goodAnswer is what AWS would say.
func goodAnswer(action string, expires time.Time) string {
	at := expires.UTC().Format(time.RFC3339)
	credentials := "<Credentials><AccessKeyId>ASIAIOSFODNN7EXAMPLE</AccessKeyId><SecretAccessKey>wJalrXUtnFEMI/K7MDENG</SecretAccessKey>" +
		"<SessionToken>AQoDYXdzEPT//////////wEXAMPLE</SessionToken><Expiration>" + at + "</Expiration></Credentials>"
	role := func(arn string) string {
		return "<AssumedRoleUser><AssumedRoleId>AROA:tester</AssumedRoleId><Arn>arn:aws:sts::123456789012:assumed-role/" + arn + "/tester</Arn></AssumedRoleUser>"
	}
	body := credentials
	switch action {
	case "AssumeRole*":
		action, body = "AssumeRole", credentials+role("other")
	case "AssumeRole":
		body = credentials + role("deploy")
	case "AssumeRoleWithWebIdentity", "AssumeRoleWithSAML":
		body = credentials + role("ci")
	case "GetFederationToken":
		body = credentials + "<FederatedUser><Arn>arn:aws:sts::123456789012:federated-user/kiosk</Arn></FederatedUser>"
	case "GetDelegatedAccessToken":
		body = credentials + "<AssumedPrincipal>arn:aws:iam::123456789012:user/me</AssumedPrincipal>"
	case "GetCallerIdentity":
		body = "<Arn>arn:aws:iam::123456789012:user/me</Arn><UserId>AIDA</UserId><Account>123456789012</Account>"
	case "DecodeAuthorizationMessage":
		body = "<DecodedMessage>{}</DecodedMessage>"
	case "GetAccessKeyInfo":
		body = "<Account>123456789012</Account>"
	case "GetWebIdentityToken":
		body = "<WebIdentityToken>a.b.c</WebIdentityToken><Expiration>" + at + "</Expiration>"
	}
	return fmt.Sprintf("<%[1]sResponse><%[1]sResult>%[2]s</%[1]sResult><ResponseMetadata><RequestId>id</RequestId></ResponseMetadata></%[1]sResponse>", action, body)
}
