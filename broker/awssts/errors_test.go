package awssts

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
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
				got, err := s.Session(Session{Region: region}).Mint(ctx, broker.MintInput{Parent: longTerm})
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

func TestCodes(t *testing.T) {
	kinds := map[broker.Kind][]string{
		broker.KindThrottled: {"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "TooManyRequestsException", "SlowDown"},
		broker.KindDenied: {"AccessDenied", "AccessDeniedException", "InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException",
			"IDPRejectedClaim", "InvalidIdentityToken", "IncompleteSignature", "MissingAuthenticationToken", "OptInRequired", "RequestTimeTooSkewed", "RequestExpired",
			"InvalidAccessKeyId", "NotAuthorized", "UnrecognizedClientException", "ExpiredTradeInTokenException"},
		broker.KindConfig: {"ValidationError", "MalformedPolicyDocument", "PackedPolicyTooLarge", "RegionDisabledException", "InvalidAction",
			"InvalidParameterValue", "InvalidParameterCombination", "MissingParameter", "MalformedQueryString", "MissingAction", "InvalidQueryParameter",
			"JWTPayloadSizeExceededException", "SessionDurationEscalationException", "OutboundWebIdentityFederationDisabledException", "InvalidAuthorizationMessageException", "NoSuchEntity"},
		broker.KindUnavailable: {"InternalFailure", "InternalError", "ServiceUnavailable", "IDPCommunicationError", "SomethingNew"},
	}
	for kind, codes := range kinds {
		for _, code := range codes {
			for _, action := range []string{"AssumeRole", "AssumeRoleWithWebIdentity", "GetSessionToken", "GetCallerIdentity"} {
				// The status says the opposite: the code decides.
				status := 400
				if kind != broker.KindThrottled {
					status = 503
				}
				s := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.WriteHeader(status)
					fmt.Fprintf(w, "<ErrorResponse><Error><Code>%s</Code><Message>its own words</Message></Error><RequestId>the-id</RequestId></ErrorResponse>", code)
				}))
				_, err := s.do(t.Context(), Call{Action: action, Region: region}, longTerm, callAny(action))
				e := wantError(t, broker.Credentials{}, err)
				kind := kind
				if action == "AssumeRoleWithWebIdentity" && strings.HasPrefix(code, "Expired") {
					kind = broker.KindUnavailable // whatever writes the token file mends it
				}
				if e.Kind != kind || e.Code != code || !strings.Contains(e.Public, code+": its own words (request id the-id); ") || !strings.Contains(e.Public, action) {
					t.Errorf("%s of %s: got %v: %s", code, action, e.Kind, e.Public)
				}
			}
		}
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
		"JSON":            {403, `{"message":"forbidden"}`, broker.KindUnavailable, "", "HTTP 403"},
		"429 of a proxy":  {429, "slow down", broker.KindThrottled, "", "HTTP 429"},
		"200 and nothing": {200, "", broker.KindUnavailable, "", "holds no credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			s := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body))
			}))
			got, err := s.Session(Session{Region: region}).Mint(t.Context(), broker.MintInput{Parent: longTerm})
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
	session, err := s.Role(Role{Region: region, ARN: deploy, SessionName: "tester"}).Mint(t.Context(), broker.MintInput{Parent: longTerm})
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
				"AssumeRole":                s.Role(Role{Region: region, ARN: ci, SessionName: "tester"}),
				"GetSessionToken":           s.Session(Session{Region: region}),
				"AssumeRoleWithWebIdentity": s.WebIdentity(WebIdentity{Region: region, ARN: ci, SessionName: "tester", TokenFile: tokenFile(t, token)}),
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
