package awssts

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/smithy-go"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

func TestFaults(t *testing.T) {
	const asked = "AssumeRole of " + deploy
	for _, c := range []struct {
		name  string
		fault stsfake.Fault
		kind  broker.Kind
		code  string
		words []string
	}{
		{"503", stsfake.Fault{Kind: stsfake.FaultUnavailable}, broker.KindUnavailable, "ServiceUnavailable", []string{"did not grant", "temporary failure of the server. (request id "}},
		{"throttled", stsfake.Fault{Kind: stsfake.FaultThrottle}, broker.KindThrottled, "Throttling", []string{"throttles " + asked + ": Throttling: Rate exceeded (request id "}},
		{"denied", stsfake.Fault{Kind: stsfake.FaultDenied, Message: "no\r\n\tsuch\x1b[31m luck"}, broker.KindDenied, "AccessDenied",
			[]string{"refuses " + asked + ": AccessDenied: no such [31m luck (request id ", "; check the role's trust policy"}},
		{"region disabled", stsfake.Fault{Kind: stsfake.FaultRegionDisabled}, broker.KindConfig, "RegionDisabledException", []string{"activate STS for the region"}},
		{"drop", stsfake.Fault{Kind: stsfake.FaultDrop}, broker.KindUnavailable, "", []string{"it cannot be reached (EOF)"}},
		{"garbage", stsfake.Fault{Kind: stsfake.FaultGarbage}, broker.KindUnavailable, "", []string{"its answer is not one that STS would send"}},
		{"empty", stsfake.Fault{Kind: stsfake.FaultEmpty}, broker.KindUnavailable, "", []string{"is refused: its access key id is empty"}},
		{"expired", stsfake.Fault{Kind: stsfake.FaultExpired}, broker.KindUnavailable, "", []string{"is refused: its credentials expired at"}},
		{"wrong role", stsfake.Fault{Kind: stsfake.FaultWrongRole}, broker.KindUnavailable, "", []string{`is refused: it is for "arn:aws:sts::123456789012:assumed-role/somebody-else/tester"`}},
		{"huge", stsfake.Fault{Kind: stsfake.FaultHuge}, broker.KindUnavailable, "", []string{"its answer is longer than 64 KB"}},
		{"redirect", stsfake.Fault{Kind: stsfake.FaultRedirect}, broker.KindUnavailable, "", []string{"it answered with a redirect (HTTP 307), which is never followed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			fake := world()
			s := listen(t, fake)
			mints := allMints(t, s, fake)
			fake.SetFault(c.fault)
			for action, mint := range mints {
				if c.fault.Kind == stsfake.FaultWrongRole && action == "GetSessionToken" {
					continue // a session is of no role
				}
				before := fake.Total()
				got, err := mint.m.Mint(t.Context(), mint.in)
				e := wantError(t, got, err)
				if e.Kind != c.kind || e.Code != c.code {
					t.Errorf("%s: got %v %q: %s", action, e.Kind, e.Code, e.Public)
				}
				if fake.Total()-before != 1 {
					t.Errorf("%s: %d calls, want 1", action, fake.Total()-before)
				}
				for _, w := range c.words {
					if action == "AssumeRole" && !strings.Contains(e.Public, w) {
						t.Errorf("%s\nlacks %q", e.Public, w)
					}
				}
			}
			if fake.Mints() != 0 {
				t.Errorf("%d mints", fake.Mints())
			}
			// It heals without a new minter.
			fake.SetFault(stsfake.Fault{})
			for action, mint := range mints {
				if _, err := mint.m.Mint(t.Context(), mint.in); err != nil {
					t.Errorf("%s after the fault: %v", action, err)
				}
			}
		})
	}
}

func TestTimeouts(t *testing.T) {
	for name, c := range map[string]struct {
		fault  stsfake.Fault
		cancel time.Duration
		took   time.Duration
		words  string
		is     error
	}{
		"hangs":        {stsfake.Fault{Kind: stsfake.FaultHang}, 0, DefaultTimeout, "did not answer in time", context.DeadlineExceeded},
		"too slow":     {stsfake.Fault{Delay: 5 * time.Second}, 0, DefaultTimeout, "did not answer in time", context.DeadlineExceeded},
		"slow":         {stsfake.Fault{Delay: 3 * time.Second}, 0, 3 * time.Second, "", nil},
		"mint's limit": {stsfake.Fault{Kind: stsfake.FaultHang}, time.Second, time.Second, "did not answer in time", context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := world()
				fake.SetFault(c.fault)
				s, end := inBubble(t, fake)
				defer end()
				ctx := t.Context()
				if c.cancel != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.cancel)
					defer cancel()
				}
				began := time.Now()
				got, err := s.Session(Session{Site: at}).Mint(ctx, broker.MintInput{Parent: longTerm})
				if took := time.Since(began); took != c.took {
					t.Errorf("took %v, want %v", took, c.took)
				}
				if c.words == "" {
					if err != nil || got.Lifetime() > 12*time.Hour {
						t.Errorf("got lifetime %v, %v", got.Lifetime(), err)
					}
					return
				}
				e := wantError(t, got, err)
				if e.Kind != broker.KindUnavailable || !strings.Contains(e.Public, c.words) || !errors.Is(err, c.is) {
					t.Errorf("got %v: %v", e.Kind, err)
				}
			})
		})
	}
}

// actions are all that are called.
var actions = []string{
	"GetSessionToken", "AssumeRole", "AssumeRoleWithWebIdentity", "AssumeRoleWithSAML", "GetFederationToken", "AssumeRoot", "GetDelegatedAccessToken",
	"GetCallerIdentity", "DecodeAuthorizationMessage", "GetAccessKeyInfo", "GetWebIdentityToken",
}

// literal is a source of always the same secret.
type literal string

func (l literal) Read(context.Context) (broker.Secret, error) {
	return broker.NewSecret(string(l)), nil
}
func (l literal) Digest() broker.Digest { return broker.DigestOf("literal") }

const (
	idp           = "arn:aws:iam::123456789012:saml-provider/idp"
	someAssertion = `<samlp:Response xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol" xmlns="urn:oasis:names:tc:SAML:2.0:assertion"><Assertion>` +
		`<Subject><NameID>somebody</NameID></Subject><AuthnStatement SessionNotOnOrAfter="2100-01-01T00:00:00Z"/><AttributeStatement>` +
		`<Attribute Name="https://aws.amazon.com/SAML/Attributes/Role"><AttributeValue>` + ci + `,` + idp + `</AttributeValue></Attribute>` +
		`<Attribute Name="https://aws.amazon.com/SAML/Attributes/RoleSessionName"><AttributeValue>tester</AttributeValue></Attribute>` +
		`</AttributeStatement></Assertion></samlp:Response>`
)

// means is what a code is expected to mean. next is a part of the next step.
type means struct {
	kind        broker.Kind
	own, signer bool
	next        string
}

// Every code, of every action: the class and the message, as written down here
// by hand and not by the table. Statuses are those that AWS or the store uses.
func TestCodes(t *testing.T) {
	const (
		unavailable = broker.KindUnavailable
		throttled   = broker.KindThrottled
		denied      = broker.KindDenied
		config      = broker.KindConfig
		oneDenied   = "User: arn:aws:iam::123456789012:user/me is not authorized to perform: "
	)
	type by map[string]means
	both := func(m means) by { return by{"AssumeRoleWithWebIdentity": m, "AssumeRoleWithSAML": m} }
	cases := []struct {
		code   string
		status int
		words  string
		means  means
		but    by // by action
	}{
		// It passes.
		{"Throttling", 400, "Rate exceeded", means{kind: throttled}, nil},
		{"ThrottlingException", 400, "Rate exceeded", means{kind: throttled}, nil},
		{"ThrottledException", 400, "Rate exceeded", means{kind: throttled}, nil},
		{"RequestLimitExceeded", 503, "Request limit exceeded.", means{kind: throttled}, nil},
		{"RequestThrottled", 403, "Too many", means{kind: throttled}, nil},
		{"TooManyRequestsException", 429, "Too many", means{kind: throttled}, nil},
		{"BandwidthLimitExceeded", 509, "Too much", means{kind: throttled}, nil},
		{"SlowDown", 503, "Please reduce your request rate.", means{kind: throttled}, nil},
		{"SlowDownWrite", 503, "Resource requested is unwritable", means{kind: throttled}, nil},
		{"InternalFailure", 500, "unknown error, exception or failure", means{kind: unavailable}, nil},
		{"InternalError", 500, "We encountered an internal error", means{kind: unavailable}, nil},
		{"ServiceUnavailable", 503, "temporary failure of the server", means{kind: unavailable}, nil},
		{"ServiceFailure", 500, "failed", means{kind: unavailable}, nil},
		{"RequestTimeout", 400, "The request took too long", means{kind: unavailable}, nil},
		{"RequestAbortedException", 400, "aborted", means{kind: unavailable}, nil},
		{"STSNotInitialized", 503, "STS API not initialized, please try again.", means{kind: unavailable}, nil},
		{"STSIAMNotInitialized", 503, "STS IAM not initialized, please try again.", means{kind: unavailable}, nil},
		{"SomethingNew", 400, "that nobody has seen before", means{kind: unavailable}, nil},
		{"SomethingNew", 403, "that nobody has seen before", means{kind: unavailable}, nil},
		{"SomethingNew", 429, "that nobody has seen before", means{kind: throttled}, nil},

		// Tokens of identity providers.
		{"IDPCommunicationError", 400, "could not be reached", means{kind: unavailable, own: true, next: "issuer URL answers"}, nil},
		{"OpenIdIdpCommunicationError", 400, "could not be reached", means{kind: unavailable, own: true, next: "issuer URL answers"}, nil},
		{"InvalidIdentityToken", 400, "Couldn't retrieve verification key from your identity provider", means{kind: unavailable, own: true, next: "issuer URL answers"}, nil},
		{"InvalidIdentityToken", 400, "No OpenIDConnect provider found in your account", means{kind: denied, next: "create the identity provider"}, nil},
		{
			"InvalidIdentityToken", 400, "Incorrect token audience", means{kind: denied, next: "its issuer, audience, signature and life"},
			by{
				"AssumeRoleWithWebIdentity": {kind: denied, next: "check the identity token: its issuer, audience"},
				"AssumeRoleWithSAML":        {kind: denied, next: "check the SAML assertion"},
			},
		},
		{
			"IDPRejectedClaim", 403, "The claim is invalid", means{kind: denied, next: "its issuer, audience, signature and life"},
			by{
				"AssumeRoleWithWebIdentity": {kind: denied, next: "check the identity token: its issuer, audience"},
				"AssumeRoleWithSAML":        {kind: denied, next: "check the SAML assertion"},
			},
		},
		{
			"IDPRejectedClaim", 403, "The claim has expired", means{kind: denied, next: "its issuer, audience, signature and life"},
			by{
				"AssumeRoleWithWebIdentity": {kind: unavailable, own: true, next: "the identity token has expired"},
				"AssumeRoleWithSAML":        {kind: unavailable, own: true, next: "the SAML assertion has expired"},
			},
		},
		{"ExpiredTradeInTokenException", 400, "The trade-in token has expired", means{kind: unavailable, own: true, next: "ask for a new one"}, nil},
		{
			"InvalidParameterValue", 400, "token is expired by 2m3s", means{kind: config, next: "mend the value"},
			by{"AssumeRoleWithWebIdentity": {kind: unavailable, own: true, next: "the identity token has expired"}},
		},

		// Session credentials that signed.
		{
			"ExpiredToken", 403, "The security token included in the request is expired", means{kind: denied, signer: true, next: "renewed first, once"},
			by{
				"AssumeRoleWithWebIdentity": {kind: unavailable, own: true, next: "the identity token has expired"},
				"AssumeRoleWithSAML":        {kind: unavailable, own: true, next: "a few minutes after its issue"},
			},
		},
		{
			"ExpiredTokenException", 400, "Token must be redeemed within 5 minutes of issuance", means{kind: denied, signer: true, next: "renewed first, once"},
			by{
				"AssumeRole":                {kind: denied, signer: true, next: "or a context assertion that goes with it"},
				"AssumeRoleWithWebIdentity": {kind: unavailable, own: true, next: "the identity token has expired"},
				"AssumeRoleWithSAML":        {kind: unavailable, own: true, next: "a few minutes after its issue"},
			},
		},
		{
			"InvalidToken", 400, "The provided token is malformed or otherwise invalid.", means{kind: denied, signer: true, next: "not accepted any more"},
			both(means{kind: denied, next: "check what hands out the token"}),
		},
		{
			"InvalidTokenId", 403, "The security token included in the request is invalid", means{kind: denied, signer: true, next: "not accepted any more"},
			both(means{kind: denied, next: "check what hands out the token"}),
		},

		// A person.
		{
			"AccessDenied", 403, oneDenied + "sts:AssumeRole", means{kind: denied},
			by{
				"GetSessionToken":            {kind: denied, next: "long-term keys of an IAM user"},
				"AssumeRole":                 {kind: denied, next: "check the role's trust policy, the external id and MFA"},
				"AssumeRoleWithWebIdentity":  {kind: denied, next: "allows sts:AssumeRoleWithWebIdentity to this identity provider, audience and subject"},
				"AssumeRoleWithSAML":         {kind: denied, next: "allows sts:AssumeRoleWithSAML"},
				"GetFederationToken":         {kind: denied, next: "allow sts:GetFederationToken"},
				"AssumeRoot":                 {kind: denied, next: "the organization's management account"},
				"GetDelegatedAccessToken":    {kind: denied, next: "allow sts:GetDelegatedAccessToken"},
				"GetCallerIdentity":          {kind: denied, next: "VPC endpoint"},
				"DecodeAuthorizationMessage": {kind: denied, next: "must allow sts:DecodeAuthorizationMessage"},
				"GetAccessKeyInfo":           {kind: denied, next: "must allow sts:GetAccessKeyInfo"},
				"GetWebIdentityToken":        {kind: denied, next: "must allow sts:GetWebIdentityToken"},
			},
		},
		{"AccessDeniedException", 403, "", means{kind: denied}, nil},
		{"NotAuthorized", 401, "no permission", means{kind: denied}, nil},
		{"UnauthorizedOperation", 403, "no permission", means{kind: denied}, nil},
		{"AccessDenied", 403, oneDenied + "sts:AssumeRole with an explicit deny in a service control policy", means{kind: denied, next: "must lift it"}, nil},
		{"AccessDenied", 403, oneDenied + "sts:TagSession", means{kind: denied, next: "allow sts:TagSession as well"}, nil},
		{"AccessDenied", 403, oneDenied + "sts:SetSourceIdentity", means{kind: denied, next: "allow sts:SetSourceIdentity as well"}, nil},
		{"AccessDenied", 403, oneDenied + "sts:SetContext", means{kind: denied, next: "allow sts:SetContext as well"}, nil},
		{"AccessDenied", 403, "MultiFactorAuthentication failed with invalid MFA one time pass code.", means{kind: denied, next: "wait for the next code of the device, then run stsbroker login again"}, nil},
		{"InvalidClientTokenId", 403, "The security token included in the request is invalid.", means{kind: denied, next: "exists and is active"}, nil},
		{"InvalidAccessKeyId", 403, "does not exist in our records", means{kind: denied, next: "exists and is active"}, nil},
		{"UnrecognizedClientException", 403, "does not exist in our records", means{kind: denied, next: "exists and is active"}, nil},
		{"MissingAuthenticationToken", 403, "Request is missing Authentication Token", means{kind: denied, next: "drops the Authorization header"}, nil},
		{"SignatureDoesNotMatch", 403, "The request signature we calculated does not match", means{kind: denied, next: "the secret access key belongs to"}, nil},
		{"SignatureDoesNotMatch", 403, "Signature expired: 20261122T100000Z is now earlier than 20261122T101500Z", means{kind: denied, next: "clock of this host"}, nil},
		{"SignatureDoesNotMatch", 403, "Signature not yet current: 20261122T100000Z is still later than", means{kind: denied, next: "clock of this host"}, nil},
		{"InvalidSignatureException", 403, "does not match", means{kind: denied, next: "the secret access key belongs to"}, nil},
		{"AuthFailure", 401, "could not validate the provided access credentials", means{kind: denied, next: "the secret access key belongs to"}, nil},
		{"IncompleteSignature", 400, "The request signature does not conform to AWS standards.", means{kind: denied, next: "are whole"}, nil},
		{"RequestExpired", 400, "Request has expired.", means{kind: denied, next: "clock of this host"}, nil},
		{"RequestTimeTooSkewed", 403, "too large", means{kind: denied, next: "clock of this host"}, nil},
		{"OptInRequired", 403, "needs a subscription", means{kind: denied, next: "state of the AWS account"}, nil},
		{"UserSuspended", 403, "", means{kind: denied, next: "suspended"}, nil},

		// The configuration.
		{"AccessDenied", 403, "MultiFactorAuthentication failed, must provide both MFA serial number and one time pass code.", means{kind: config, next: "mfa_serial"}, nil},
		{"AccessDenied", 403, "MultiFactorAuthentication failed, unable to validate MFA code. Please verify your MFA serial number is valid and associated with this user.", means{kind: config, next: "mfa_serial"}, nil},
		{"AccessDenied", 403, "Roles may not be assumed by root accounts.", means{kind: config, next: "the root user's keys cannot"}, nil},
		{
			"AccessDenied", 403, "Cannot call GetSessionToken with session credentials", means{kind: denied},
			by{"GetSessionToken": {kind: config, next: "name long-term keys"}, "GetFederationToken": {kind: config, next: "name long-term keys"}},
		},
		{
			"AccessDenied", 403, "Cannot call GetFederationToken with session credentials", means{kind: denied},
			by{"GetSessionToken": {kind: config, next: "name long-term keys"}, "GetFederationToken": {kind: config, next: "name long-term keys"}},
		},
		{"RegionDisabledException", 403, "STS is not activated in this region", means{kind: config, next: "activate STS for the region"}, nil},
		{"NoSuchEntity", 404, "", means{kind: config, next: "the role's ARN first"}, nil},
		{"MalformedPolicyDocument", 400, "Syntax errors in policy.", means{kind: config, next: "mend the session policy"}, nil},
		{
			"PackedPolicyTooLarge", 400, "Packed size of session tags consumes 127% of allotted space.", means{kind: config, next: "shorten the inline policy, name fewer policy_arns, or send fewer and shorter tags"},
			by{"GetDelegatedAccessToken": {kind: config, next: "whoever asked for the delegation"}},
		},
		{"InvalidAuthorizationMessageException", 400, "Message is not valid", means{kind: config, next: "without line breaks"}, nil},
		{"OutboundWebIdentityFederationDisabledException", 403, "is not enabled", means{kind: config, next: "enable outbound web identity federation"}, nil},
		{"SessionDurationEscalationException", 403, "would extend the session", means{kind: config, next: "shorter duration"}, nil},
		{"JWTPayloadSizeExceededException", 400, "exceeds the maximum", means{kind: config, next: "fewer or shorter tags"}, nil},
		{"ValidationError", 400, "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.", means{kind: config, next: "ask for a duration within"}, nil},
		{"ValidationError", 400, "Value '899' at 'durationSeconds' failed to satisfy constraint", means{kind: config, next: "ask for a duration within"}, nil},
		{"ValidationError", 400, "1 validation error detected: Value 'x' at 'roleSessionName' failed to satisfy constraint", means{kind: config, next: "mend the value"}, nil},
		{"ValidationException", 400, "failed", means{kind: config, next: "mend the value"}, nil},
		{"InvalidParameterValue", 400, "out of range", means{kind: config, next: "mend the value"}, nil},
		{"InvalidParameterCombination", 400, "not together", means{kind: config, next: "mend the value"}, nil},
		{"MissingParameter", 400, "The request must contain the parameter RoleArn.", means{kind: config, next: "mend the value"}, nil},
		{"MalformedQueryString", 404, "syntax error", means{kind: config, next: "mend the value"}, nil},
		{"MalformedInput", 400, "", means{kind: config, next: "mend the value"}, nil},
		{"InvalidArgument", 400, "", means{kind: config, next: "mend the value"}, nil},
		{"InvalidInput", 400, "Duplicate tag keys found.", means{kind: config, next: "mend the value"}, nil},
		{"RequestEntityTooLarge", 413, "too large", means{kind: config, next: "too long"}, nil},
		{"InvalidAction", 400, "Could not find operation", means{kind: config, next: "does not know the action"}, nil},
		{"UnknownOperationException", 404, "", means{kind: config, next: "does not know the action"}, nil},
		{"MethodNotAllowed", 405, "The specified method is not allowed against this resource.", means{kind: config, next: "does not know the action"}, nil},
		{"NotImplemented", 501, "not implemented", means{kind: config, next: "does not know the action"}, nil},
		{"InsecureConnection", 400, "A TLS connection is required.", means{kind: config, next: "https only"}, nil},
		{"AuthorizationHeaderMalformed", 400, "the region 'a' is wrong; expecting 'b'", means{kind: config, next: "check the region"}, nil},
		{"SignatureDoesNotMatch", 403, "Credential should be scoped to a valid region.", means{kind: config, next: "check the region"}, nil},
	}
	distinct := map[string]bool{}
	var status int
	var body string
	s := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	verbs := map[broker.Kind]string{unavailable: "did not grant", throttled: "throttles", denied: "refuses", config: "cannot accept"}
	for _, c := range cases {
		distinct[c.code] = true
		words := new(bytes.Buffer)
		_ = xml.EscapeText(words, []byte(c.words))
		status, body = c.status, fmt.Sprintf(`<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error>`+
			`<RequestId>c6104cbe-af31-11e0-8154-cbc7ccf896c7</RequestId></ErrorResponse>`, c.code, words)
		for _, action := range actions {
			want, special := c.but[action]
			if !special {
				want = c.means
			}
			if want.next == "" && want.kind.Passes() {
				want.next = "it is tried again by itself"
				if slices.Contains(actions[7:], action) {
					want.next = "try again"
				}
			}
			creds, _, arn, err := askFor(t.Context(), s, action, false)
			e := wantError(t, creds, err)
			if e.Kind != want.kind || e.Own != want.own || e.Signer != want.signer || e.Code != c.code {
				t.Errorf("%s (%q) of %s: got %v, own %v, signer %v, code %q, want %+v", c.code, c.words, action, e.Kind, e.Own, e.Signer, e.Code, want)
			}
			said := verbs[want.kind] + " " + action
			if action == "AssumeRoot" {
				arn = "123456789012" // the account, which is all that is asked for
			}
			if arn != "" {
				said += " of " + arn
			}
			said += ": " + c.code
			if c.words != "" {
				said += ": " + c.words
			}
			said += " (request id c6104cbe-af31-11e0-8154-cbc7ccf896c7); "
			_, next, found := strings.Cut(e.Public, said)
			if !strings.HasPrefix(e.Public, "STS at http://127.0.0.1:") || !found || !strings.Contains(next, want.next) || next == "" {
				t.Errorf("%s of %s: got %s\nwant it to hold %s…%s", c.code, action, e.Public, said, want.next)
			}
			if e.Cause == nil || !strings.Contains(e.Cause.Error(), c.code) {
				t.Errorf("%s of %s: the cause is %v", c.code, action, e.Cause)
			}
		}
	}
	if len(distinct) < 40 {
		t.Errorf("%d codes only", len(distinct))
	}
}

// The encoded message of a denial is of use only whole, and nobody reads 10 KB.
func TestEncodedMessageIsForTheLog(t *testing.T) {
	encoded := strings.Repeat("Zm9v-YmFy_9", 900)
	for name, c := range map[string]struct{ before, after string }{
		"last":       {"You are not authorized to perform this operation. Encoded authorization failure message: ", ""},
		"in between": {"User: x is not authorized. Encoded authorization failure message: ", " (Service: sts)"},
	} {
		t.Run(name, func(t *testing.T) {
			s := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(403)
				fmt.Fprintf(w, "<ErrorResponse><Error><Code>AccessDenied</Code><Message>%s%s%s</Message></Error><RequestId>the-id</RequestId></ErrorResponse>", c.before, encoded, c.after)
			}))
			creds, _, _, err := askFor(t.Context(), s, "AssumeRole", false)
			e := wantError(t, creds, err)
			want := "AccessDenied: " + c.before + "(in the log)" + c.after + " (request id the-id); run stsbroker decode on the encoded message"
			if e.Kind != broker.KindDenied || !strings.Contains(e.Public, want) || strings.Contains(e.Public, encoded[:30]) {
				t.Errorf("got %v: %s", e.Kind, e.Public)
			}
			if !strings.HasSuffix(e.Cause.Error(), "Encoded authorization failure message: "+encoded) {
				t.Errorf("the cause is %s", e.Cause)
			}
		})
	}
	// What is no such message is text like any other, and bounded.
	for _, words := range []string{
		"Encoded authorization failure message:",
		"Encoded authorization failure message: " + strings.Repeat("x", 20_000),
		strings.Repeat("long words ", 5000),
	} {
		e := Classify(&smithy.GenericAPIError{Code: "AccessDenied", Message: words}, Call{Action: "AssumeRole", Region: region})
		if len(e.Public) > 1000 || len(e.Cause.Error()) > 1000 {
			t.Errorf("%d and %d bytes of %.60s", len(e.Public), len(e.Cause.Error()), words)
		}
	}
	// A secret in it is struck out like anywhere else.
	secret := longTerm.SecretAccessKey
	e := Classify(&smithy.GenericAPIError{Code: "AccessDenied", Message: "Encoded authorization failure message: AAAA" + secret.Reveal() + "BBBB"}, Call{Action: "AssumeRole", Secrets: []broker.Secret{secret}})
	if strings.Contains(e.Error(), secret.Reveal()) {
		t.Error("it tells a secret")
	}
}

func TestErrorsWithoutACode(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		kind   broker.Kind
		code   string
		want   string
	}{
		"S3's shape":      {403, "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><RequestId>tx1</RequestId><HostId>h</HostId></Error>", broker.KindDenied, "AccessDenied", "AccessDenied (request id tx1)"},
		"proxy's page":    {502, "<html><body><h1>Bad gateway</h1></body></html>", broker.KindUnavailable, "", "HTTP 502 and no error that STS would send"},
		"no XML":          {500, "oops & <", broker.KindUnavailable, "", "HTTP 500"},
		"nothing":         {500, "", broker.KindUnavailable, "", "HTTP 500"},
		"nothing, 403":    {403, "", broker.KindUnavailable, "", "HTTP 403"},
		"no code":         {400, "<ErrorResponse><Error><Message>m</Message></Error></ErrorResponse>", broker.KindUnavailable, "", "HTTP 400"},
		"cut short":       {403, "<ErrorResponse><Error><Code>AccessDenied</Code><Mess", broker.KindUnavailable, "", "HTTP 403"},
		"login page":      {200, "<html><body>Please log in</body></html>", broker.KindUnavailable, "", "its answer is not one that STS would send"},
		"503 of a store":  {503, "<Error><Code>XMinioServerNotInitialized</Code><Message>soon</Message></Error>", broker.KindUnavailable, "XMinioServerNotInitialized", "soon"},
		"S3's no such":    {405, "<Error><Code>MethodNotAllowed</Code><Message>m</Message></Error>", broker.KindConfig, "MethodNotAllowed", "does not know the action"},
		"RGW's unknown":   {500, "<Error><Code>UnknownError</Code><RequestId>tx2</RequestId></Error>", broker.KindUnavailable, "", "did not grant"},
		"JSON":            {403, `{"message":"forbidden"}`, broker.KindUnavailable, "", "HTTP 403"},
		"429 of a proxy":  {429, "slow down", broker.KindThrottled, "", "HTTP 429"},
		"200 and nothing": {200, "", broker.KindUnavailable, "", "holds no credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			s := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			got, err := s.Session(Session{Site: at}).Mint(t.Context(), broker.MintInput{Parent: longTerm})
			if e := wantError(t, got, err); e.Kind != c.kind || e.Code != c.code || !strings.Contains(e.Public, c.want) {
				t.Errorf("got %v %q: %s", e.Kind, e.Code, e.Public)
			}
		})
	}
}

func TestClassifyKeepsTheDomainsErrors(t *testing.T) {
	want := &broker.Error{Kind: broker.KindLoginNeeded}
	if got := Classify(fmt.Errorf("wrapped: %w", want), Call{}); got != want {
		t.Errorf("got %v", got)
	}
	if got := Classify(errors.New("?"), Call{Action: "AssumeRole", Region: "r"}); got.Kind != broker.KindUnavailable {
		t.Errorf("got %v", got.Kind)
	}
	if got := Classify(&smithy.GenericAPIError{Code: "AccessDenied"}, Call{Action: "AnActionToCome"}); got.Kind != broker.KindDenied || !strings.Contains(got.Public, "check the policies") {
		t.Errorf("got %v %s", got.Kind, got.Public)
	}
	bad := smithy.InvalidParamsError{Context: "AssumeRoleInput"}
	bad.Add(smithy.NewErrParamRequired("RoleArn"))
	if got := Classify(&bad, Call{Action: "AssumeRole"}); got.Kind != broker.KindConfig || !strings.Contains(got.Public, "RoleArn") {
		t.Errorf("got %v %s", got.Kind, got.Public)
	}
}

// A hostile or talkative issuer repeats all it was sent: nothing of it is told on.
func TestNoSecretIsToldOn(t *testing.T) {
	fake := world()
	s := listen(t, fake)
	session, err := s.Role(Role{Site: at, ARN: deploy, SessionName: "tester"}).Mint(t.Context(), broker.MintInput{Parent: longTerm})
	if err != nil {
		t.Fatal(err)
	}
	token := fake.IdentityToken("repo:main", time.Hour)
	echo := func(how func(string) string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = r.ParseForm()
			w.WriteHeader(403)
			said := how(session.SecretAccessKey.Reveal()) + " " + how(r.Header.Get("X-Amz-Security-Token")) + " " + how(r.PostForm.Get("WebIdentityToken"))
			fmt.Fprintf(w, "<ErrorResponse><Error><Code>%[1]s</Code><Message>%[1]s</Message></Error><RequestId>%[1]s</RequestId></ErrorResponse>", said)
		})
	}
	fake.SetFault(stsfake.Fault{Kind: stsfake.FaultEchoSecrets})
	encodings := map[string]func(string) string{
		"as it is": func(s string) string { return s },
		"query":    url.QueryEscape,
		"path":     url.PathEscape,
		"base64":   func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
		"hex":      func(s string) string { return hex.EncodeToString([]byte(s)) },
	}
	issuers := map[string]http.Handler{"stand-in": fake, "in an element's name": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		fmt.Fprintf(w, "<A%s><b", strings.NewReplacer("/", "", "+", "", "=", "").Replace(r.PostForm.Get("WebIdentityToken")))
	})}
	for name, how := range encodings {
		issuers[name] = echo(how)
	}
	for name, issuer := range issuers {
		t.Run(name, func(t *testing.T) {
			s := listen(t, issuer)
			for action, m := range map[string]broker.Minter{
				"AssumeRole":                s.Role(Role{Site: at, ARN: ci, SessionName: "tester"}),
				"GetSessionToken":           s.Session(Session{Site: at}),
				"AssumeRoleWithWebIdentity": s.WebIdentity(WebIdentity{Site: at, ARN: ci, SessionName: "tester", Token: File("web identity token", tokenFile(t, token))}),
			} {
				c, err := m.Mint(t.Context(), broker.MintInput{Parent: session.Material()})
				e := wantError(t, c, err)
				js, _ := json.Marshal(e)
				all := strings.Join([]string{e.Error(), e.Public, e.Code, string(js), fmt.Sprintf("%v %+v %#v", e, e, e), fmt.Sprintf("%v %+v %#v", e.Cause, e.Cause, e.Cause)}, "\n")
				for _, canary := range []string{session.SecretAccessKey.Reveal(), session.SessionToken.Reveal(), token} {
					for enc, how := range encodings {
						if strings.Contains(all, how(canary)) {
							t.Errorf("%s tells a secret, %s: %s", action, enc, all)
						}
					}
				}
			}
		})
	}
}

// An issuer that repeats the request's headers tells nobody what signed it.
func TestSignaturesAreStruck(t *testing.T) {
	const signature = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
	for _, text := range []string{
		"you sent Credential=AKIA/x, Signature=" + signature, "X-Amz-Signature%3D" + signature + "&b", `{"Signature": "` + signature + `"}`,
		"Signature=" + strings.ToUpper(signature) + " Signature=" + signature,
	} {
		if got := clean(text); strings.Contains(strings.ToLower(got), signature[:20]) || !strings.Contains(got, "[secret]") {
			t.Errorf("%s: %s", text, got)
		}
	}
	for _, text := range []string{"The request signature we calculated does not match", "Signature expired: 20261123T000000Z is now earlier", "signature=abc"} {
		if got := clean(text); got != text {
			t.Errorf("%s: %s", text, got)
		}
	}
}
