package awsiam_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/awsiam"
	"github.com/stsbroker/stsbroker/broker/custody"
)

// The client is what a rotation asks for.
var _ custody.IAM = (*awsiam.Client)(nil)

const (
	keyID  = "AKIAIOSFODNN7EXAMPLE"
	secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	token  = "FwoGZXIvYXdzEXAMPLE//token+with=signs"
)

var signer = broker.Material{AccessKeyID: keyID, SecretAccessKey: broker.NewSecret(secret)}

// answering is a server that remembers what it was asked.
type answering struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []url.Values
	scopes []string // region/service of each signature
}

// answer serves h, on loopback, to a client that calls it for both services.
func answer(t *testing.T, h http.HandlerFunc, change ...func(*awsiam.Options)) (*awsiam.Client, *answering) {
	t.Helper()
	a := &answering{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		form, err := url.ParseQuery(string(body))
		if err != nil || r.Method != http.MethodPost || r.URL.RequestURI() != "/" || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
			t.Errorf("%s %s with %q: %v", r.Method, r.URL, body, err)
		}
		_, after, _ := strings.Cut(r.Header.Get("Authorization"), "Credential="+keyID+"/")
		scope := strings.Split(after, "/")
		a.mu.Lock()
		a.asked = append(a.asked, form)
		if len(scope) > 3 {
			a.scopes = append(a.scopes, scope[1]+"/"+scope[2])
		}
		a.mu.Unlock()
		h(w, r)
	}))
	t.Cleanup(a.Close)
	o := awsiam.Options{Endpoint: a.URL, STS: a.URL}
	for _, f := range change {
		f(&o)
	}
	c := client(t, o)
	return c, a
}

func client(t *testing.T, o awsiam.Options) *awsiam.Client {
	t.Helper()
	c, err := awsiam.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

const iamSpace = ` xmlns="https://iam.amazonaws.com/doc/2010-05-08/"`

func TestCalls(t *testing.T) {
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
	t.Setenv("AWS_ENDPOINT_URL_IAM", "http://127.0.0.1:1")
	t.Setenv("AWS_REGION", "cn-north-1")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAFROMENVIRONMENT0")
	ctx := context.Background()
	made := time.Date(2026, 11, 23, 10, 11, 12, 0, time.UTC)
	for name, c := range map[string]struct {
		body  string
		call  func(c *awsiam.Client) (any, error)
		want  string // the result, printed
		form  string // beside Version
		scope string
	}{
		"CreateKey": {
			`<CreateAccessKeyResponse` + iamSpace + `><CreateAccessKeyResult><AccessKey><UserName>dev</UserName><AccessKeyId>AKIANEW0000000000000</AccessKeyId>
			<Status>Active</Status><SecretAccessKey>new/secret+</SecretAccessKey><CreateDate>2026-11-23T10:11:12Z</CreateDate></AccessKey></CreateAccessKeyResult></CreateAccessKeyResponse>`,
			func(c *awsiam.Client) (any, error) {
				m, at, err := c.CreateKey(ctx, signer, "dev")
				return fmt.Sprint(m.AccessKeyID, " ", m.SecretAccessKey.Reveal(), " ", m.Temporary(), " ", at.Equal(made)), err
			},
			"AKIANEW0000000000000 new/secret+ false true", "Action=CreateAccessKey&UserName=dev", "us-east-1/iam",
		},
		"CreateKey of the caller": {
			`<R><CreateAccessKeyResult><AccessKey><AccessKeyId>AKIANEW0000000000000</AccessKeyId><SecretAccessKey>s</SecretAccessKey></AccessKey></CreateAccessKeyResult></R>`,
			func(c *awsiam.Client) (any, error) {
				m, at, err := c.CreateKey(ctx, signer, "")
				return fmt.Sprint(m.AccessKeyID, " ", at.IsZero()), err
			},
			"AKIANEW0000000000000 true", "Action=CreateAccessKey", "us-east-1/iam",
		},
		"ListKeys": {
			`<ListAccessKeysResponse` + iamSpace + `><ListAccessKeysResult><UserName>dev</UserName><AccessKeyMetadata>
			<member><AccessKeyId>AKIAONE0000000000000</AccessKeyId><Status>Active</Status><CreateDate>2026-11-23T10:11:12Z</CreateDate></member>
			<member><AccessKeyId>AKIATWO0000000000000</AccessKeyId><Status>Inactive</Status></member>
			</AccessKeyMetadata><IsTruncated>false</IsTruncated></ListAccessKeysResult></ListAccessKeysResponse>`,
			func(c *awsiam.Client) (any, error) { return c.ListKeys(ctx, signer, "dev") },
			fmt.Sprint([]awsiam.KeyState{{KeyID: "AKIAONE0000000000000", Active: true, Created: made}, {KeyID: "AKIATWO0000000000000"}}),
			"Action=ListAccessKeys&UserName=dev", "us-east-1/iam",
		},
		"ListKeys, none": {
			`<ListAccessKeysResponse><ListAccessKeysResult><AccessKeyMetadata/><IsTruncated>false</IsTruncated></ListAccessKeysResult></ListAccessKeysResponse>`,
			func(c *awsiam.Client) (any, error) { return c.ListKeys(ctx, signer, "") }, "[]", "Action=ListAccessKeys", "us-east-1/iam",
		},
		"LastUsed": {
			`<R><GetAccessKeyLastUsedResult><AccessKeyLastUsed><Region>us-east-1</Region><LastUsedDate>2026-11-23T10:11:12Z</LastUsedDate></AccessKeyLastUsed></GetAccessKeyLastUsedResult></R>`,
			func(c *awsiam.Client) (any, error) { return c.LastUsed(ctx, signer, "AKIAONE0000000000000") },
			fmt.Sprint(made), "AccessKeyId=AKIAONE0000000000000&Action=GetAccessKeyLastUsed", "us-east-1/iam",
		},
		"LastUsed, never": {
			`<R><GetAccessKeyLastUsedResult><AccessKeyLastUsed><Region>N/A</Region><ServiceName>N/A</ServiceName></AccessKeyLastUsed></GetAccessKeyLastUsedResult></R>`,
			func(c *awsiam.Client) (any, error) { return c.LastUsed(ctx, signer, "AKIAONE0000000000000") },
			fmt.Sprint(time.Time{}), "AccessKeyId=AKIAONE0000000000000&Action=GetAccessKeyLastUsed", "us-east-1/iam",
		},
		"SetActive": {
			`<R/>`, func(c *awsiam.Client) (any, error) {
				return nil, c.SetActive(ctx, signer, "dev", "AKIAONE0000000000000", true)
			},
			"<nil>", "AccessKeyId=AKIAONE0000000000000&Action=UpdateAccessKey&Status=Active&UserName=dev", "us-east-1/iam",
		},
		"SetActive, not": {
			`<R/>`, func(c *awsiam.Client) (any, error) {
				return nil, c.SetActive(ctx, signer, "", "AKIAONE0000000000000", false)
			},
			"<nil>", "AccessKeyId=AKIAONE0000000000000&Action=UpdateAccessKey&Status=Inactive", "us-east-1/iam",
		},
		"DeleteKey": {
			`<R/>`, func(c *awsiam.Client) (any, error) {
				return nil, c.DeleteKey(ctx, signer, "dev", "AKIAONE0000000000000")
			},
			"<nil>", "AccessKeyId=AKIAONE0000000000000&Action=DeleteAccessKey&UserName=dev", "us-east-1/iam",
		},
		"WhoAmI":       {whoami("arn:aws:iam::123456789012:user/team/dev"), who, "123456789012 dev", "Action=GetCallerIdentity", "us-east-1/sts"},
		"WhoAmI, root": {whoami("arn:aws:iam::123456789012:root"), who, "123456789012 ", "Action=GetCallerIdentity", "us-east-1/sts"},
		"WhoAmI, role": {whoami("arn:aws:sts::123456789012:assumed-role/user/dev"), who, "123456789012 ", "Action=GetCallerIdentity", "us-east-1/sts"},
	} {
		t.Run(name, func(t *testing.T) {
			client, a := answer(t, says(200, c.body))
			got, err := c.call(client)
			if err != nil || fmt.Sprint(got) != c.want {
				t.Errorf("%v %v, want %s", got, err, c.want)
			}
			if len(a.asked) != 1 || len(a.scopes) != 1 || a.scopes[0] != c.scope {
				t.Fatalf("asked %v, signed for %v", a.asked, a.scopes)
			}
			version := map[bool]string{true: "2011-06-15", false: "2010-05-08"}[strings.HasSuffix(c.scope, "sts")]
			if form := a.asked[0]; form.Get("Version") != version {
				t.Errorf("version %s", form.Get("Version"))
			} else if form.Del("Version"); form.Encode() != c.form {
				t.Errorf("asked %s, want %s", form.Encode(), c.form)
			}
		})
	}
}

func whoami(arn string) string {
	return `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Arn>` + arn +
		`</Arn><UserId>AIDA</UserId><Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`
}

func who(c *awsiam.Client) (any, error) {
	account, user, err := c.WhoAmI(context.Background(), signer)
	return account + " " + user, err
}

func TestListOfPages(t *testing.T) {
	page := func(id, rest string) string {
		return `<R><ListAccessKeysResult><AccessKeyMetadata><member><AccessKeyId>` + id + `</AccessKeyId></member></AccessKeyMetadata>` + rest + `</ListAccessKeysResult></R>`
	}
	const more = `<IsTruncated>true</IsTruncated><Marker>m+1</Marker>`
	n := 0
	c, a := answer(t, func(w http.ResponseWriter, _ *http.Request) {
		n++
		_, _ = io.WriteString(w, page(fmt.Sprintf("AKIA%016d", n), map[bool]string{true: more}[n < 3]))
	})
	keys, err := c.ListKeys(t.Context(), signer, "dev")
	if err != nil || len(keys) != 3 || a.asked[0].Has("Marker") || a.asked[2].Get("Marker") != "m+1" {
		t.Errorf("%v %v, asked %v", keys, err, a.asked)
	}
	c, a = answer(t, says(200, page(keyID, more)))
	if keys, err := c.ListKeys(t.Context(), signer, "dev"); err == nil || keys != nil || len(a.asked) > 10 {
		t.Errorf("a list without end: %d calls, %v", len(a.asked), err)
	}
}

// AWS's own endpoints: as the endpoint rules in service/iam v1.64.8 and service/sts
// v1.51.8 of the SDK resolve them.
func TestWhereCallsGo(t *testing.T) {
	for region, want := range map[string][2]string{
		"":               {"iam.amazonaws.com:443", "sts.us-east-1.amazonaws.com:443"},
		"eu-central-1":   {"iam.amazonaws.com:443", "sts.eu-central-1.amazonaws.com:443"},
		"cn-north-1":     {"iam.cn-north-1.amazonaws.com.cn:443", "sts.cn-north-1.amazonaws.com.cn:443"},
		"cn-northwest-1": {"iam.cn-north-1.amazonaws.com.cn:443", "sts.cn-northwest-1.amazonaws.com.cn:443"},
		"us-gov-east-1":  {"iam.us-gov.amazonaws.com:443", "sts.us-gov-east-1.amazonaws.com:443"},
		"eusc-de-east-1": {"iam.eusc-de-east-1.amazonaws.eu:443", "sts.eusc-de-east-1.amazonaws.eu:443"},
		"us-iso-west-1":  {"iam.us-iso-east-1.c2s.ic.gov:443", "sts.us-iso-west-1.c2s.ic.gov:443"},
		"us-isob-east-1": {"iam.us-isob-east-1.sc2s.sgov.gov:443", "sts.us-isob-east-1.sc2s.sgov.gov:443"},
		"eu-isoe-west-1": {"iam.eu-isoe-west-1.cloud.adc-e.uk:443", "sts.eu-isoe-west-1.cloud.adc-e.uk:443"},
		"us-isof-east-1": {"iam.us-isof-south-1.csp.hci.ic.gov:443", "sts.us-isof-east-1.csp.hci.ic.gov:443"},
	} {
		var dialled []string
		c := client(t, awsiam.Options{Region: region, Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
			dialled = append(dialled, addr)
			return nil, errors.New("not from a test")
		}})
		_, err := c.ListKeys(t.Context(), signer, "")
		_, _, err2 := c.WhoAmI(t.Context(), signer)
		if err == nil || err2 == nil || len(dialled) != 2 || [2]string(dialled) != want {
			t.Errorf("%s: %v %v, dialled %v", region, err, err2, dialled)
		}
	}
	// What is signed for: one region in a partition.
	for region, want := range map[string]string{"": "us-east-1", "eu-central-1": "us-east-1", "cn-northwest-1": "cn-north-1", "us-gov-east-1": "us-gov-west-1", "us-isof-east-1": "us-isof-south-1"} {
		c, a := answer(t, says(200, whoami("arn:aws:iam::123456789012:user/dev")), func(o *awsiam.Options) { o.Region = region })
		_ = c.DeleteKey(t.Context(), signer, "", keyID)
		_, _, _ = c.WhoAmI(t.Context(), signer)
		if region == "" {
			region = "us-east-1"
		}
		if len(a.scopes) != 2 || a.scopes[0] != want+"/iam" || a.scopes[1] != region+"/sts" {
			t.Errorf("%s: signed for %v", region, a.scopes)
		}
	}
}

func TestOptionsAreValidated(t *testing.T) {
	for u, want := range map[string]string{
		"https://iam.example.com:8443": "", "http://127.0.0.1:9000": "", "http://[::1]:9000": "", "http://localhost:1": "", "": "",
		"http://iam.example.com": "https, or http to loopback", "http://0.0.0.0:9000": "https, or http to loopback", "ftp://127.0.0.1": "https, or http",
		"iam.example.com": "names no host", "https://me:hunter22@example.com": "remove them", "https://me:hunter22@exa mple.com": "not a URL",
		"https://iam.example.com/?a=b": "query", "https://iam.example.com#x": "fragment",
	} {
		for _, o := range []awsiam.Options{{Endpoint: u}, {STS: u}} {
			_, err := awsiam.New(o)
			if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter22")) {
				t.Errorf("%q: %v, want %q", u, err, want)
			}
		}
	}
	for _, region := range []string{"evil.example.com/", "a b", "x.y", strings.Repeat("a", 64)} {
		if _, err := awsiam.New(awsiam.Options{Region: region}); err == nil {
			t.Errorf("region %q is taken", region)
		}
	}
}

func TestErrors(t *testing.T) {
	wrapped := func(code, message string) string {
		return `<ErrorResponse` + iamSpace + `><Error><Type>Sender</Type><Code>` + code + `</Code><Message>` + message + `</Message></Error><RequestId>req-1</RequestId></ErrorResponse>`
	}
	for _, c := range []struct {
		status int
		body   string
		kind   broker.Kind
		code   string
		words  []string
	}{
		{403, wrapped("AccessDenied", "User: arn:aws:iam::1:user/dev is not authorized"), broker.KindDenied, "AccessDenied",
			[]string{"IAM at http://127.0.0.1", "refuses CreateAccessKey", "is not authorized", "(request id req-1)", "the key's user may not call iam:CreateAccessKey on itself; give it that permission, or sign with --profile"}},
		{409, wrapped("LimitExceeded", "Cannot exceed quota for AccessKeysPerUser: 2"), broker.KindConfig, "LimitExceeded", []string{"two access keys at most"}},
		{404, wrapped("NoSuchEntity", "no such user"), broker.KindConfig, "NoSuchEntity", []string{"somebody else may have deleted it"}},
		{403, wrapped("InvalidClientTokenId", "The security token included in the request is invalid."), broker.KindDenied, "InvalidClientTokenId", []string{"minted with MFA"}},
		{403, wrapped("ExpiredToken", "expired"), broker.KindDenied, "ExpiredToken", []string{"have expired"}},
		{403, wrapped("SignatureDoesNotMatch", "x-amz-security-token:"+token+" and "+url.QueryEscape(token)+" or "+secret), broker.KindDenied, "SignatureDoesNotMatch", []string{"[secret] and [secret] or [secret]", "secret access key belongs"}},
		{400, wrapped("Throttling", "Rate exceeded"), broker.KindThrottled, "Throttling", []string{"throttles CreateAccessKey"}},
		{429, "", broker.KindThrottled, "", []string{"HTTP 429 without an error of its own"}},
		{409, wrapped("EntityTemporarilyUnmodifiable", "later"), broker.KindUnavailable, "EntityTemporarilyUnmodifiable", []string{"try again"}},
		{400, wrapped("ValidationError", "user name"), broker.KindConfig, "ValidationError", []string{"mend the value"}},
		{400, wrapped("InvalidAction", "no"), broker.KindConfig, "InvalidAction", []string{"which endpoint answers"}},
		{500, wrapped("ServiceFailure", "oops"), broker.KindUnavailable, "ServiceFailure", []string{"oops", "try again"}},
		{503, "<html>down</html>", broker.KindUnavailable, "", []string{"HTTP 503 without an error of its own"}},
		{502, "", broker.KindUnavailable, "", []string{"HTTP 502"}},
		{204, "", broker.KindUnavailable, "", []string{"HTTP 204"}},
		{403, `<Error><Code>InvalidAccessKeyId</Code><Message>S3's shape</Message></Error>`, broker.KindDenied, "InvalidAccessKeyId", []string{"S3's shape"}},
		{403, wrapped("AccessDenied", "two\nlines \x1b[31mred &lt;"+strings.Repeat("x", 5000)), broker.KindUnavailable, "", nil}, // no XML
		{403, wrapped("AccessDenied", "two\nlines "+strings.Repeat("ä", 5000)), broker.KindDenied, "AccessDenied", []string{"two lines ä"}},
		{307, "", broker.KindUnavailable, "", []string{"redirect (HTTP 307), which is never followed"}},
		{200, strings.Repeat("x", 65<<10), broker.KindUnavailable, "", []string{"longer than 64 KB"}},
		{200, "<R/>", broker.KindUnavailable, "", []string{"is not believed: it holds no key"}},
		{200, "<a><b></a>", broker.KindUnavailable, "", []string{"it cannot be read"}},
		{200, "", broker.KindUnavailable, "", []string{"it cannot be read"}},
		{200, "<R><CreateAccessKeyResult><AccessKey><AccessKeyId>AKIANEW0000000000000</AccessKeyId></AccessKey></CreateAccessKeyResult></R>", broker.KindUnavailable, "", []string{"holds no key"}},
		{200, "<R><CreateAccessKeyResult><AccessKey><AccessKeyId>AKIANEW0000000000000</AccessKeyId><SecretAccessKey>hidden-secret</SecretAccessKey></Acc", broker.KindUnavailable, "", []string{"cannot be read"}},
	} {
		name := fmt.Sprint(c.status, " ", c.body[:min(len(c.body), 120)])
		client, a := answer(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			says(c.status, c.body)(w, r)
		})
		m := signer
		m.SessionToken = broker.NewSecret(token)
		key, _, err := client.CreateKey(t.Context(), m, "dev")
		var e *broker.Error
		if !errors.As(err, &e) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if key != (broker.Material{}) || len(a.asked) != 1 {
			t.Errorf("%s: a key with an error, or %d calls", name, len(a.asked))
		}
		if e.Kind != c.kind || e.Code != c.code || e.Signer != (c.code == "ExpiredToken") {
			t.Errorf("%s: %v %q %v", name, e.Kind, e.Code, e.Signer)
		}
		for _, word := range c.words {
			if !strings.Contains(e.Public, word) {
				t.Errorf("%s: no %q in %s", name, word, e.Public)
			}
		}
		if text := e.Public + err.Error(); strings.ContainsAny(text, "\n\r\x1b") || strings.Contains(text, secret) || strings.Contains(text, token) || strings.Contains(text, "hidden") || len(e.Public) > 1000 {
			t.Errorf("%s: not for people: %q", name, text)
		}
	}
}

func TestErrorsOfSTS(t *testing.T) {
	c, _ := answer(t, says(403, `<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>`))
	if _, _, err := c.WhoAmI(t.Context(), signer); err == nil || !strings.Contains(err.Error(), "STS at") || !strings.Contains(err.Error(), "VPC endpoint") || strings.Contains(err.Error(), "iam:") {
		t.Errorf("%v", err)
	}
	c, _ = answer(t, says(200, `<R><GetCallerIdentityResult/></R>`))
	if _, _, err := c.WhoAmI(t.Context(), signer); err == nil || !strings.Contains(err.Error(), "names no account") {
		t.Errorf("%v", err)
	}
	c, _ = answer(t, says(200, `<R/>`))
	if _, err := c.LastUsed(t.Context(), signer, keyID); err == nil { // never used is another answer than none
		t.Error("an answer that does not say is taken for never")
	}
	if _, err := c.ListKeys(t.Context(), signer, ""); err == nil {
		t.Error("an answer without a list is taken for an empty one")
	}
}

func TestNoAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c := client(t, awsiam.Options{Endpoint: "http://" + l.Addr().String()})
	if err := c.DeleteKey(t.Context(), signer, "dev", keyID); err == nil || !strings.Contains(err.Error(), "cannot be reached") || broker.AsError(err).Kind != broker.KindUnavailable {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.DeleteKey(ctx, signer, "dev", keyID); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{}) // a transport goes on dialing when nobody waits any more
		defer close(end)
		c := client(t, awsiam.Options{Dial: func(context.Context, string, string) (net.Conn, error) { <-end; return nil, net.ErrClosed }})
		began := time.Now()
		err := c.DeleteKey(t.Context(), signer, "dev", keyID)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "IAM did not answer DeleteAccessKey: it did not answer in time") || time.Since(began) != awsiam.DefaultTimeout {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// Certificates are looked at, and plain http never goes by a proxy.
func TestTLSAndProxy(t *testing.T) {
	srv := httptest.NewUnstartedServer(says(200, "<R/>"))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	err := client(t, awsiam.Options{Endpoint: srv.URL}).DeleteKey(t.Context(), signer, "", keyID)
	if err == nil || !strings.Contains(err.Error(), "certificate is not trusted") {
		t.Errorf("%v", err)
	}
	roots := srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	if err := client(t, awsiam.Options{Endpoint: srv.URL, RootCAs: roots}).DeleteKey(t.Context(), signer, "", keyID); err != nil {
		t.Error(err)
	}
	asked := 0
	proxy := func(*http.Request) (*url.URL, error) { asked++; return nil, errors.New("by the proxy") }
	c, _ := answer(t, says(200, "<R/>"), func(o *awsiam.Options) { o.Proxy = proxy })
	if err := c.DeleteKey(t.Context(), signer, "", keyID); err != nil || asked != 0 {
		t.Errorf("%v, the proxy was asked %d times", err, asked)
	}
	err = client(t, awsiam.Options{Endpoint: srv.URL, RootCAs: roots, Proxy: proxy}).DeleteKey(t.Context(), signer, "", keyID)
	if err == nil || asked != 1 {
		t.Errorf("%v, the proxy was asked %d times", err, asked)
	}
}

// A wrong clock costs one more call, and no more.
func TestWrongClock(t *testing.T) {
	for _, off := range []time.Duration{-time.Hour, time.Hour, time.Minute} {
		n := 0
		c, _ := answer(t, func(w http.ResponseWriter, r *http.Request) {
			n++
			now := time.Now().Add(off)
			w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
			at, _ := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
			if at.Sub(now).Abs() > 5*time.Minute || off == time.Minute {
				says(403, `<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code><Message>Signature expired</Message></Error></ErrorResponse>`)(w, r)
				return
			}
			says(200, "<R/>")(w, r)
		})
		err := c.DeleteKey(t.Context(), signer, "", keyID)
		switch {
		case off == time.Minute && (err == nil || n != 1):
			t.Errorf("a clock that is right enough: %d calls, %v", n, err)
		case off != time.Minute && (err != nil || n != 2):
			t.Errorf("%v off: %d calls, %v", off, n, err)
		}
	}
	n := 0
	c, _ := answer(t, func(w http.ResponseWriter, r *http.Request) {
		n++
		w.Header().Set("Date", time.Now().Add(time.Duration(n)*time.Hour).UTC().Format(http.TimeFormat))
		says(403, `<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code></Error></ErrorResponse>`)(w, r)
	})
	if err := c.DeleteKey(t.Context(), signer, "", keyID); err == nil || n != 2 {
		t.Errorf("%d calls, %v", n, err)
	}
}

// A session token is signed and sent.
func TestSessionToken(t *testing.T) {
	var got string
	c, _ := answer(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Authorization"), "x-amz-security-token") {
			got = r.Header.Get("X-Amz-Security-Token")
		}
		says(200, "<R/>")(w, r)
	})
	m := signer
	m.SessionToken = broker.NewSecret(token)
	if err := c.DeleteKey(t.Context(), m, "", keyID); err != nil || got != token {
		t.Errorf("%v, sent %q", err, got)
	}
}

// IAM's clock is read from its answers, and from those of STS not.
func TestNow(t *testing.T) {
	const ahead = 7 * time.Hour
	c, _ := answer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
		_, _ = io.WriteString(w, `<R><ListAccessKeysResult/><GetCallerIdentityResult><Account>123456789012</Account><Arn>arn:aws:iam::123456789012:user/dev</Arn></GetCallerIdentityResult></R>`)
	})
	near := func(want time.Duration) {
		t.Helper()
		if got := time.Until(c.Now()); (got - want).Abs() > 10*time.Second { // a slow machine, and whole seconds
			t.Errorf("IAM's clock is ahead by %v, want %v", got, want)
		}
	}
	near(0)
	if _, _, err := c.WhoAmI(t.Context(), signer); err != nil {
		t.Fatal(err)
	}
	near(0)
	if _, err := c.ListKeys(t.Context(), signer, "dev"); err != nil {
		t.Fatal(err)
	}
	near(ahead)
}

func TestUserOf(t *testing.T) {
	for arn, want := range map[string]string{
		"arn:aws:iam::123456789012:user/dev":                 "dev",
		"arn:aws-cn:iam::123456789012:user/a/path/dev":       "dev",
		"arn:aws:iam::123456789012:root":                     "",
		"arn:aws:sts::123456789012:assumed-role/r/:user/dev": "",
		"arn:aws:sts::123456789012:federated-user/dev":       "",
		"arn:aws:iam::123456789012:role/user/dev":            "",
		"arn:user/dev": "",
		"":             "",
	} {
		if got := awsiam.UserOf(arn); got != want {
			t.Errorf("%s: %q, want %q", arn, got, want)
		}
	}
}
