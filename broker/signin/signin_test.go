package signin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

const (
	canaryKey   = "canary/secret+key/of=the?set&0123456789"
	canaryToken = "canary//session+token=="
)

// call is what the stand-in was sent.
type call struct {
	method, uri string
	header      http.Header
	form        url.Values
}

// standIn is a federation endpoint on loopback.
type standIn struct {
	*httptest.Server
	mu    sync.Mutex
	calls []call
}

func newStandIn(t *testing.T, answer http.HandlerFunc) *standIn {
	t.Helper()
	s := &standIn{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		s.calls = append(s.calls, call{r.Method, r.RequestURI, r.Header.Clone(), form})
		s.mu.Unlock()
		r.PostForm = form
		answer(w, r)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *standIn) client() *Client {
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return New(Options{RootCAs: roots})
}

func (s *standIn) request() Request {
	return Request{
		Endpoint: s.URL + "/federation", AccessKeyID: "ASIACANARYCANARYCANA", SecretAccessKey: broker.NewSecret(canaryKey), SessionToken: broker.NewSecret(canaryToken),
		Destination: "https://eu-central-1.console.aws.amazon.com/ec2/home?region=eu-central-1",
	}
}

func token(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"SigninToken":"the+token/="}`) }

// What goes out is what the IAM user guide lists, in the body of a POST, and what
// comes out is its login address.
func TestExchange(t *testing.T) {
	s := newStandIn(t, token)
	got, err := s.client().URL(t.Context(), s.request())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.calls) != 1 {
		t.Fatalf("%d calls", len(s.calls))
	}
	sent := s.calls[0]
	if sent.method != http.MethodPost || sent.uri != "/federation" || sent.header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		t.Errorf("sent %s %s %q", sent.method, sent.uri, sent.header.Get("Content-Type"))
	}
	if names := slices.Sorted(maps.Keys(sent.form)); !slices.Equal(names, []string{"Action", "Session"}) || sent.form.Get("Action") != "getSigninToken" {
		t.Errorf("the form: %v, Action %q", names, sent.form.Get("Action"))
	}
	var session map[string]string
	if err := json.Unmarshal([]byte(sent.form.Get("Session")), &session); err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"sessionId": "ASIACANARYCANARYCANA", "sessionKey": canaryKey, "sessionToken": canaryToken}; !maps.Equal(session, want) {
		t.Errorf("the session: %v", session)
	}
	for name, values := range sent.header {
		if strings.Contains(strings.Join(values, " "), "canary") {
			t.Errorf("header %s holds a secret", name)
		}
	}

	u, err := url.Parse(got.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	want := url.Values{"Action": {"login"}, "Issuer": {issuer}, "Destination": {s.request().Destination}, "SigninToken": {"the+token/="}}
	if !strings.HasPrefix(got.Reveal(), s.URL+"/federation?") || q.Encode() != want.Encode() {
		t.Errorf("the address: %s", got.Reveal())
	}
	if strings.Contains(got.Reveal(), "canary") || strings.Contains(got.Reveal(), "CANARY") {
		t.Error("the address holds the credentials")
	}
}

func TestDuration(t *testing.T) {
	for _, tc := range []struct {
		asked time.Duration
		sent  string
	}{
		{0, ""}, {15*time.Minute - time.Millisecond, ""}, {15 * time.Minute, "900"}, {59*time.Minute + 59900*time.Millisecond, "3599"},
		{12 * time.Hour, "43200"}, {13 * time.Hour, "43200"}, {-time.Hour, ""},
	} {
		s := newStandIn(t, token)
		r := s.request()
		r.Duration = tc.asked
		if _, err := s.client().URL(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if got := s.calls[0].form.Get("SessionDuration"); got != tc.sent || s.calls[0].form.Has("SessionDuration") != (tc.sent != "") {
			t.Errorf("%v: SessionDuration %q, want %q", tc.asked, got, tc.sent)
		}
	}
}

// AWS answers 400 to a duration that it does not take for these credentials.
func TestDurationRefused(t *testing.T) {
	s := newStandIn(t, func(w http.ResponseWriter, r *http.Request) {
		if r.PostForm.Has("SessionDuration") {
			http.Error(w, "Invalid credentials parameter", http.StatusBadRequest)
			return
		}
		token(w, r)
	})
	r := s.request()
	r.Duration = time.Hour
	got, err := s.client().URL(t.Context(), r)
	if err != nil || got.IsZero() || len(s.calls) != 2 {
		t.Fatalf("%v after %d calls", err, len(s.calls))
	}
	if s.calls[1].form.Get("Session") != s.calls[0].form.Get("Session") {
		t.Error("the second call had another session")
	}
}

// Whatever answers, the error says what to do and holds nothing that was sent: the
// endpoint here gives all of it back.
func TestRefusals(t *testing.T) {
	echo := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/elsewhere?Session="+url.QueryEscape(r.PostForm.Get("Session")))
			w.WriteHeader(status)
			fmt.Fprint(w, r.PostForm.Get("Session"))
		}
	}
	answers := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
	}
	raw := func(text func(form url.Values) string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_, _ = io.WriteString(c, text(r.PostForm))
		}
	}
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   string
		calls  int
	}{
		"redirect 302":  {echo(302), "answered with a redirect (HTTP 302), which is never followed", 1},
		"redirect 307":  {echo(307), "answered with a redirect (HTTP 307), which is never followed", 1},
		"refused 400":   {echo(400), "refuses the credentials (HTTP 400): AWS takes those of roles and of federated users", 2},
		"refused 403":   {echo(403), "refuses the credentials (HTTP 403)", 2},
		"gone":          {echo(404), "HTTP 404; check for a proxy or a portal", 1},
		"throttled":     {echo(429), "not able to answer now (HTTP 429); try again", 1},
		"broken":        {echo(503), "not able to answer now (HTTP 503); try again", 1},
		"no content":    {echo(204), "HTTP 204; check", 1},
		"the session":   {echo(200), "there is none in its answer; try again", 1},
		"a page":        {answers("<html>"), "there is none in its answer", 1},
		"empty":         {answers(""), "there is none in its answer", 1},
		"null":          {answers("null"), "there is none in its answer", 1},
		"empty token":   {answers(`{"SigninToken":""}`), "there is none in its answer", 1},
		"not a string":  {answers(`{"SigninToken":{}}`), "there is none in its answer", 1},
		"more after it": {answers(`{"SigninToken":"x"} y`), "there is none in its answer", 1},
		"endless":       {answers(`{"SigninToken":"` + strings.Repeat("x", maxAnswer) + `"}`), "longer than 64 KB", 1},
		"cut short": {raw(func(url.Values) string { return "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{" }),
			"does not speak HTTPS as AWS does", 1},
		"no HTTP": {raw(func(f url.Values) string { return f.Get("Session") + "\r\n\r\n" }), "does not speak HTTPS as AWS does", 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStandIn(t, tc.answer)
			r := s.request()
			r.Duration = time.Hour
			got, err := s.client().URL(t.Context(), r)
			if err == nil || !got.IsZero() || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v, want %q", err, tc.want)
			}
			if !strings.HasPrefix(err.Error(), "AWS's sign-in (127.0.0.1:") || strings.Contains(err.Error(), "\n") || strings.Contains(strings.ToLower(err.Error()), "canary") {
				t.Errorf("the error: %v", err)
			}
			if len(s.calls) != tc.calls {
				t.Errorf("%d calls, want %d", len(s.calls), tc.calls)
			}
		})
	}
}

func TestTransport(t *testing.T) {
	s := newStandIn(t, token)
	fails := func(t *testing.T, c *Client, r Request, want string) {
		t.Helper()
		if _, err := c.URL(t.Context(), r); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%v, want %q", err, want)
		}
	}
	t.Run("authority", func(t *testing.T) {
		fails(t, New(Options{RootCAs: x509.NewCertPool()}), s.request(), "its certificate is not trusted: x509: certificate signed by unknown authority; AWS_CA_BUNDLE")
	})
	t.Run("TLS 1.1", func(t *testing.T) {
		old := httptest.NewUnstartedServer(http.HandlerFunc(token))
		old.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
		old.Config.ErrorLog = log.New(io.Discard, "", 0)
		old.StartTLS()
		defer old.Close()
		r := s.request()
		r.Endpoint = old.URL
		fails(t, s.client(), r, "cannot be reached: remote error: tls: protocol version not supported")
	})
	t.Run("nobody", func(t *testing.T) {
		gone := httptest.NewServer(nil)
		gone.Close()
		r := s.request()
		r.Endpoint = strings.Replace(gone.URL, "http:", "https:", 1)
		fails(t, s.client(), r, "cannot be reached: dial tcp")
	})
	t.Run("slow", func(t *testing.T) {
		over := make(chan struct{})
		slow := newStandIn(t, func(http.ResponseWriter, *http.Request) { <-over })
		defer close(over) // before the stand-in closes, which waits for the handler
		c := slow.client()
		c.timeout = 50 * time.Millisecond
		began := time.Now()
		fails(t, c, slow.request(), "no answer within 50ms")
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		wait := newStandIn(t, func(http.ResponseWriter, *http.Request) {
			cancel()
			<-over
		})
		defer close(over)
		if _, err := wait.client().URL(ctx, wait.request()); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
	t.Run("endless", func(t *testing.T) {
		const most = 256 << 20 // far more than buffers on the way take
		sent := make(chan int, 1)
		endless := newStandIn(t, func(w http.ResponseWriter, _ *http.Request) {
			n := 0
			for chunk := make([]byte, 64<<10); n < most; n += len(chunk) {
				if _, err := w.Write(chunk); err != nil {
					break
				}
			}
			sent <- n
		})
		fails(t, endless.client(), endless.request(), "longer than 64 KB")
		if <-sent >= most {
			t.Error("all of it was read")
		}
	})
	t.Run("proxy", func(t *testing.T) {
		var asked []string
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.Method+" "+r.Host)
			http.Error(w, "canary", http.StatusProxyAuthRequired)
		}))
		defer proxy.Close()
		to, err := url.Parse(proxy.URL)
		if err != nil {
			t.Fatal(err)
		}
		fails(t, New(Options{Proxy: http.ProxyURL(to)}), s.request(), "the proxy of HTTPS_PROXY refuses the connection (HTTP 407)")
		if want := "CONNECT " + s.Listener.Addr().String(); len(asked) != 1 || asked[0] != want {
			t.Errorf("the proxy was asked %v, want %s", asked, want)
		}
		bad := func(*http.Request) (*url.URL, error) {
			return nil, errors.New(`invalid proxy address "me:canary@proxy"`)
		}
		fails(t, New(Options{Proxy: bad}), s.request(), "HTTPS_PROXY is not the address of a proxy")
	})
	if len(s.calls) != 0 {
		t.Errorf("%d calls came through", len(s.calls))
	}
}

func TestSiteOf(t *testing.T) {
	for _, tc := range []struct{ partition, region, endpoint, home string }{
		{"aws", "eu-central-1", "https://signin.aws.amazon.com/federation", "https://eu-central-1.console.aws.amazon.com/console/home?region=eu-central-1"},
		{"aws-cn", "cn-north-1", "https://signin.amazonaws.cn/federation", "https://cn-north-1.console.amazonaws.cn/console/home?region=cn-north-1"},
		{"aws-us-gov", "us-gov-west-1", "https://signin.amazonaws-us-gov.com/federation", "https://us-gov-west-1.console.amazonaws-us-gov.com/console/home?region=us-gov-west-1"},
		{"aws-eusc", "eusc-de-east-1", "https://eusc-de-east-1.signin.amazonaws-eusc.eu/federation", "https://eusc-de-east-1.console.amazonaws-eusc.eu/console/home?region=eusc-de-east-1"},
		{"aws-iso", "us-iso-east-1", "https://us-iso-east-1.signin.c2shome.ic.gov/federation", ""},
		{"aws-iso-b", "us-isob-east-1", "https://us-isob-east-1.signin.sc2shome.sgov.gov/federation", ""},
		{"aws-iso-e", "eu-isoe-west-1", "https://eu-isoe-west-1.signin.csphome.adc-e.uk/federation", ""},
		{"aws-iso-f", "us-isof-south-1", "https://us-isof-south-1.signin.csphome.hci.ic.gov/federation", ""},
	} {
		s, err := SiteOf(tc.partition, tc.region)
		if err != nil || s.Endpoint != tc.endpoint || s.Page("", tc.region) != tc.home {
			t.Errorf("%s: %+v %v, home %q", tc.partition, s, err, s.Page("", tc.region))
		}
	}
	s, err := SiteOf("aws", "eu-west-1")
	if got := s.Page("ec2", "eu-west-1"); err != nil || got != "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1" {
		t.Errorf("%s %v", got, err)
	}
	for _, region := range []string{"", "evil.example/", "a.b", "eu-west-1@evil", "EU-WEST-1", "eu west", "eu\n"} {
		if s, err := SiteOf("aws-eusc", region); err == nil {
			t.Errorf("%q gave %+v", region, s)
		}
	}
	if _, err := SiteOf("aws-new", "eu-west-1"); err == nil {
		t.Error("an unknown partition has a site")
	}
}
