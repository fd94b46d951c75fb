package stsfake_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"

	"github.com/stsbroker/stsbroker/internal/stsfake"
)

const (
	keyID  = "AKIAIOSFODNN7EXAMPLE"
	secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	deploy = "arn:aws:iam::123456789012:role/team/deploy"
)

func start(t *testing.T) (*stsfake.Server, string) {
	t.Helper()
	s := stsfake.New()
	s.AddUser("me", keyID, secret)
	s.AddRole(stsfake.Role{ARN: deploy, Trust: []string{"arn:aws:iam::123456789012:user/me"}, MaxSession: 12 * time.Hour})
	r, err := s.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, r.URL
}

// client is the SDK's own: a signer that nobody here wrote.
func client(url, id, secret, token string) *sts.Client {
	return sts.New(sts.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String(url), Retryer: aws.NopRetryer{}, DisableClockSkewCorrection: true,
		HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: id, SecretAccessKey: secret, SessionToken: token}, nil
		}),
	})
}

func with(url string, c *types.Credentials) *sts.Client {
	return client(url, *c.AccessKeyId, *c.SecretAccessKey, *c.SessionToken)
}

func wantCode(t *testing.T, err error, code, words string) {
	t.Helper()
	var e smithy.APIError
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want %s", err, code)
	}
	if e.ErrorCode() != code || !strings.Contains(e.ErrorMessage(), words) {
		t.Errorf("got %s: %s\nwant %s with %q", e.ErrorCode(), e.ErrorMessage(), code, words)
	}
}

func assume(c *sts.Client, change func(*sts.AssumeRoleInput)) (*sts.AssumeRoleOutput, error) {
	in := &sts.AssumeRoleInput{RoleArn: aws.String(deploy), RoleSessionName: aws.String("tester")}
	if change != nil {
		change(in)
	}
	return c.AssumeRole(context.Background(), in)
}

func TestMintsAndWhoTheyAre(t *testing.T) {
	s, url := start(t)
	ctx := context.Background()
	c := client(url, keyID, secret, "")

	session, err := c.GetSessionToken(ctx, &sts.GetSessionTokenInput{})
	if err != nil {
		t.Fatal(err)
	}
	if left := session.Credentials.Expiration.Sub(s.Now()); left < 12*time.Hour-2*time.Second || left > 12*time.Hour {
		t.Errorf("a session lives %v, want 12 h", left)
	}
	role, err := assume(with(url, session.Credentials), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := *role.AssumedRoleUser.Arn, "arn:aws:sts::123456789012:assumed-role/deploy/tester"; got != want {
		t.Errorf("assumed %s, want %s: AWS drops the path", got, want)
	}
	for _, who := range []struct {
		c    *sts.Client
		want string
	}{
		{c, "arn:aws:iam::123456789012:user/me"},
		{with(url, session.Credentials), "arn:aws:iam::123456789012:user/me"},
		{with(url, role.Credentials), *role.AssumedRoleUser.Arn},
	} {
		out, err := who.c.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		if err != nil || *out.Arn != who.want || *out.Account != stsfake.Account {
			t.Errorf("got %v %v, want %s", out, err, who.want)
		}
	}
	if n, calls := s.Mints(), s.Calls(); n != 2 || len(calls) != 5 || s.Total() != 5 || s.Mints("AssumeRole") != 1 {
		t.Errorf("%d mints, calls %+v", n, calls)
	} else if got := calls[1]; got.Action != "AssumeRole" || got.Region != "eu-central-1" || got.Target != deploy || !got.Minted || got.Principal != "arn:aws:iam::123456789012:user/me" {
		t.Errorf("recorded %+v", got)
	}

	_, err = with(url, session.Credentials).GetSessionToken(ctx, &sts.GetSessionTokenInput{})
	wantCode(t, err, "AccessDenied", "Cannot call GetSessionToken with session credentials")
	s.RemoveKey(keyID)
	_, err = assume(c, nil)
	wantCode(t, err, "InvalidClientTokenId", "security token")
}

func TestSignaturesAreChecked(t *testing.T) {
	s, url := start(t)
	out, err := assume(client(url, keyID, secret, ""), nil)
	if err != nil {
		t.Fatal(err)
	}
	good := out.Credentials
	for name, c := range map[string]struct {
		id, secret, token string
		offset            time.Duration
		code, words       string
	}{
		"another secret":         {keyID, secret + "x", "", 0, "SignatureDoesNotMatch", "we calculated does not match"},
		"unknown key":            {"AKIAXXXXXXXXXXXXXXXX", secret, "", 0, "InvalidClientTokenId", "invalid"},
		"token of nobody":        {keyID, secret, "bm8gdG9rZW4gb2Ygb3Vycywgbm8gdG9rZW4gb2Ygb3VycywK", 0, "InvalidClientTokenId", "invalid"},
		"session without token":  {*good.AccessKeyId, *good.SecretAccessKey, "", 0, "InvalidClientTokenId", "invalid"},
		"token of another key":   {keyID, secret, *good.SessionToken, 0, "InvalidClientTokenId", "invalid"},
		"session, other secret":  {*good.AccessKeyId, secret, *good.SessionToken, 0, "SignatureDoesNotMatch", "we calculated"},
		"host 16 minutes behind": {keyID, secret, "", 16 * time.Minute, "SignatureDoesNotMatch", "Signature expired: "},
		"host 16 minutes ahead":  {keyID, secret, "", -16 * time.Minute, "SignatureDoesNotMatch", "Signature not yet current: "},
		"expired session":        {*good.AccessKeyId, *good.SecretAccessKey, *good.SessionToken, 61 * time.Minute, "ExpiredToken", "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			s.SetOffset(c.offset)
			defer s.SetOffset(0)
			_, err := client(url, c.id, c.secret, c.token).GetCallerIdentity(context.Background(), &sts.GetCallerIdentityInput{})
			wantCode(t, err, c.code, c.words)
		})
	}
	s.SetOffset(14 * time.Minute)
	if _, err := assume(client(url, keyID, secret, ""), nil); err != nil {
		t.Errorf("14 minutes are within AWS's tolerance: %v", err)
	}
}

// post sends a form that may have been changed after it was signed.
func post(t *testing.T, url, form string, change func(*http.Request)) (int, string) {
	t.Helper()
	r, _ := http.NewRequest(http.MethodPost, url+"/", strings.NewReader(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if change != nil {
		change(r)
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if resp.Header.Get("Date") == "" || resp.Header.Get("X-Amzn-Requestid") == "" {
		t.Error("no Date or no request id")
	}
	return resp.StatusCode, string(b)
}

func TestRawRequests(t *testing.T) {
	_, url := start(t)
	const form = "Action=GetCallerIdentity&Version=2011-06-15"
	sign := func(service, hash string) func(*http.Request) {
		return func(r *http.Request) {
			err := v4.NewSigner().SignHTTP(context.Background(), aws.Credentials{AccessKeyID: keyID, SecretAccessKey: secret}, r, hash, service, "eu-central-1", time.Now())
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	const unvalued = "Action=GetFederationToken&Version=2011-06-15&Name=bob&Tags.member.1.Key=x"
	const sum = "ab821ae955788b0e33ebd34c208442ccfc2d406e2edc5e7a39bd6458fbb4f843" // sha256 of form
	for name, c := range map[string]struct {
		form   string
		change func(*http.Request)
		status int
		want   string
	}{
		"signed":            {form, sign("sts", sum), 200, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Arn>arn:aws:iam::123456789012:user/me</Arn>`},
		"unsigned":          {form, nil, 403, "<Code>MissingAuthenticationToken</Code>"},
		"body changed":      {form + "&", sign("sts", sum), 403, "<Code>SignatureDoesNotMatch</Code>"},
		"other service":     {form, sign("iam", sum), 403, "scoped to correct service"},
		"garbled":           {form, func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=x") }, 400, "IncompleteSignature"},
		"no such action":    {"Action=Nonsense&Version=2011-06-15", nil, 400, "<Code>InvalidAction</Code>"},
		"no version":        {"Action=GetCallerIdentity", nil, 400, "InvalidAction"},
		"unknown parameter": {"Action=AssumeRole&Version=2011-06-15&Polity=x", nil, 400, "does not know the parameter Polity"},
		"no such member":    {"Action=AssumeRole&Version=2011-06-15&Tags.member.1.Colour=x", nil, 400, "does not know the parameter Tags.member.1.Colour"},
		"member zero":       {"Action=AssumeRole&Version=2011-06-15&Tags.member.0.Key=x", nil, 400, "does not know the parameter Tags.member.0.Key"},
		"gap in a list":     {"Action=AssumeRole&Version=2011-06-15&TransitiveTagKeys.member.1=x&TransitiveTagKeys.member.3=x", nil, 400, "the list member before TransitiveTagKeys.member.3 is missing"},
		"twice":             {"Action=AssumeRole&Version=2011-06-15&RoleArn=x&RoleArn=y", nil, 400, "given more than once"},
		"tag of no value":   {unvalued, sign("sts", fmt.Sprintf("%x", sha256.Sum256([]byte(unvalued)))), 400, "Value null at &#39;tags.1.member.value&#39;"},
		"missing":           {"Action=AssumeRoleWithSAML&Version=2011-06-15&RoleArn=x", nil, 400, "Value null at &#39;principalArn&#39; failed to satisfy constraint: Member must not be null"},
		"too large":         {strings.Repeat("x", 300<<10), nil, 413, "RequestEntityTooLarge"},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := post(t, url, c.form, c.change)
			if status != c.status || !strings.Contains(body, c.want) || !strings.Contains(body, "<RequestId>") {
				t.Errorf("got %d %s\nwant %d with %s", status, body, c.status, c.want)
			}
		})
	}
}

func TestAssumeRoleIsJudged(t *testing.T) {
	s, url := start(t)
	const hop, partner, short = "arn:aws:iam::123456789012:role/hop", "arn:aws:iam::210987654321:role/partner", "arn:aws:iam::123456789012:role/short"
	s.AddRole(stsfake.Role{ARN: hop, Trust: []string{deploy}, MaxSession: 12 * time.Hour})
	s.AddRole(stsfake.Role{ARN: partner, Trust: []string{"arn:aws:iam::123456789012:root"}, ExternalID: "abc"})
	s.AddRole(stsfake.Role{ARN: short, Trust: []string{"*"}})
	user := client(url, keyID, secret, "")
	out, err := assume(user, nil)
	if err != nil {
		t.Fatal(err)
	}
	chained := with(url, out.Credentials)

	type in = sts.AssumeRoleInput
	role := func(arn string, seconds int32) func(*in) {
		return func(i *in) { i.RoleArn, i.DurationSeconds = &arn, &seconds }
	}
	for name, c := range map[string]struct {
		client      *sts.Client
		change      func(*in)
		code, words string
	}{
		"899":                {user, role(deploy, 899), "ValidationError", "Value '899' at 'durationSeconds' failed to satisfy constraint: Member must have value greater than or equal to 900"},
		"900":                {user, role(deploy, 900), "", ""},
		"12 h":               {user, role(deploy, 43200), "", ""},
		"43201":              {user, role(deploy, 43201), "ValidationError", "less than or equal to 43200"},
		"over the role's":    {user, role(short, 3601), "ValidationError", "exceeds the MaxSessionDuration set for this role"},
		"not trusted":        {user, role(hop, 900), "AccessDenied", "User: arn:aws:iam::123456789012:user/me is not authorized to perform: sts:AssumeRole on resource: " + hop},
		"chained":            {chained, role(hop, 3600), "", ""},
		"chained, too long":  {chained, role(hop, 3601), "ValidationError", "1 hour session limit for roles assumed by role chaining"},
		"no such role":       {user, role("arn:aws:iam::123456789012:role/none", 900), "AccessDenied", "not authorized"},
		"no role's ARN":      {user, role("arn:aws:iam::123456789012:user/me", 900), "ValidationError", "is invalid"},
		"no external id":     {user, role(partner, 900), "AccessDenied", "not authorized"},
		"with external id":   {user, func(i *in) { role(partner, 900)(i); i.ExternalId = aws.String("abc") }, "", ""},
		"short session name": {user, func(i *in) { i.RoleSessionName = aws.String("x") }, "ValidationError", "roleSessionName"},
		"bad session name":   {user, func(i *in) { i.RoleSessionName = aws.String("a b") }, "ValidationError", "regular expression"},
		"long session name":  {user, func(i *in) { i.RoleSessionName = aws.String(strings.Repeat("x", 65)) }, "ValidationError", "less than or equal to 64"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := assume(c.client, c.change)
			if c.code != "" {
				wantCode(t, err, c.code, c.words)
			} else if err != nil || *out.Credentials.SessionToken == "" {
				t.Errorf("got %v, %v", out, err)
			}
		})
	}
	for n, code := range map[int32]string{899: "ValidationError", 900: "", 129600: "", 129601: "ValidationError"} {
		_, err := user.GetSessionToken(context.Background(), &sts.GetSessionTokenInput{DurationSeconds: &n})
		if code != "" {
			wantCode(t, err, code, "durationSeconds")
		} else if err != nil {
			t.Errorf("GetSessionToken for %d s: %v", n, err)
		}
	}
}

func TestWebIdentity(t *testing.T) {
	s, url := start(t)
	const ci = "arn:aws:iam::123456789012:role/ci"
	s.AddRole(stsfake.Role{ARN: ci, Subjects: []string{"repo:main"}})
	c := client(url, "", "", "")
	call := func(token string) (*sts.AssumeRoleWithWebIdentityOutput, error) {
		return c.AssumeRoleWithWebIdentity(context.Background(), &sts.AssumeRoleWithWebIdentityInput{RoleArn: aws.String(ci), RoleSessionName: aws.String("ci"), WebIdentityToken: &token})
	}
	out, err := call(s.IdentityToken("repo:main", time.Minute))
	if err != nil || *out.SubjectFromWebIdentityToken != "repo:main" {
		t.Fatalf("got %v, %v", out, err)
	}
	who, err := with(url, out.Credentials).GetCallerIdentity(context.Background(), &sts.GetCallerIdentityInput{})
	if err != nil || *who.Arn != "arn:aws:sts::123456789012:assumed-role/ci/ci" {
		t.Errorf("got %v, %v", who, err)
	}
	_, err = call(s.IdentityToken("repo:other", time.Minute))
	wantCode(t, err, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity")
	_, err = call(s.IdentityToken("repo:main", -time.Second))
	wantCode(t, err, "ExpiredTokenException", "Token expired")
	_, err = call(stsfake.New().IdentityToken("repo:main", time.Minute))
	wantCode(t, err, "InvalidIdentityToken", "")
}

func TestStartRefusesOtherThanLoopback(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "localhost:0", "127.0.0.1"} {
		if r, err := stsfake.New().Start(addr); err == nil {
			r.Close()
			t.Errorf("started on %s", addr)
		}
	}
}

// The handler must work where time is simulated: no goroutine, no own clock.
func TestWorksInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := stsfake.New()
		s.AddUser("me", keyID, secret)
		s.SetLife(90 * time.Second)
		s.SetFault(stsfake.Fault{Delay: 2 * time.Second})
		server, clientConn := net.Pipe()
		l := &oneConn{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
		l.conn <- server
		srv := &http.Server{Handler: s}
		go srv.Serve(l)
		tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return clientConn, nil }}
		c := client("http://sts.invalid", keyID, secret, "")
		began := time.Now()
		out, err := c.GetSessionToken(context.Background(), &sts.GetSessionTokenInput{}, func(o *sts.Options) { o.HTTPClient = &http.Client{Transport: tr} })
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("took %v of simulated time, want 2 s", took)
		}
		if left := time.Until(*out.Credentials.Expiration); left != 90*time.Second {
			t.Errorf("lives %v, want 90 s", left)
		}
		tr.CloseIdleConnections()
		srv.Close()
	})
}

type oneConn struct {
	conn   chan net.Conn
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *oneConn) Close() error   { close(l.closed); return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }
