package awssts

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/stsbroker/stsbroker/broker"
)

func TestAnswersAreHeldAgainstTheQuestion(t *testing.T) {
	now := time.Date(2026, 11, 5, 12, 0, 0, 0, time.UTC)
	good := func() grant {
		return grant{
			&types.Credentials{AccessKeyId: aws.String("ASIAIOSFODNN7EXAMPLE"), SecretAccessKey: aws.String("secret/+="), SessionToken: aws.String("token=="), Expiration: aws.Time(now.Add(time.Hour))},
			aws.String("arn:aws:sts::123456789012:assumed-role/deploy/tester"),
		}
	}
	user := func(arn string) func(*grant) { return func(g *grant) { g.principal = &arn } }
	key := func(id string) func(*grant) { return func(g *grant) { g.creds.AccessKeyId = &id } }
	expires := func(d time.Duration) func(*grant) {
		return func(g *grant) { g.creds.Expiration = aws.Time(now.Add(d)) }
	}
	for name, c := range map[string]struct {
		change     func(*grant)
		compatible bool
		want       string // "" for believed
	}{
		"good":                      {func(*grant) {}, false, ""},
		"a minute over":             {expires(61 * time.Minute), false, ""},
		"key of 128":                {key(strings.Repeat("A", 128)), false, ""},
		"no credentials":            {func(g *grant) { g.creds = nil }, false, "holds no credentials"},
		"no key id":                 {func(g *grant) { g.creds.AccessKeyId = nil }, true, "access key id is empty"},
		"short key id":              {key("ASIASHORT"), false, "access key id"},
		"long key id":               {key(strings.Repeat("A", 129)), false, "access key id"},
		"key id with a line break":  {key("ASIAIOSFODNN7EXAMPLE\n"), false, "access key id"},
		"empty secret":              {func(g *grant) { g.creds.SecretAccessKey = aws.String("") }, true, "secret access key is empty"},
		"no secret":                 {func(g *grant) { g.creds.SecretAccessKey = nil }, true, "secret access key is empty"},
		"no token":                  {func(g *grant) { g.creds.SessionToken = nil }, true, "session token is empty"},
		"token with a line break":   {func(g *grant) { g.creds.SessionToken = aws.String("tok\nen") }, true, "session token is empty or malformed"},
		"no expiration":             {func(g *grant) { g.creds.Expiration = nil }, true, "no expiration"},
		"expired":                   {expires(-time.Second), true, "expired at 2026-11-05T11:59:59Z"},
		"expires now":               {expires(0), true, "expired at"},
		"lives longer than asked":   {expires(65*time.Minute + time.Second), false, "later than the 1h asked for"},
		"nobody":                    {func(g *grant) { g.principal = nil }, false, `it is for ""`},
		"nobody, compatible":        {func(g *grant) { g.principal = nil }, true, ""},
		"other role":                {user("arn:aws:sts::123456789012:assumed-role/admin/tester"), false, "it is for"},
		"other role, compatible":    {user("arn:aws:sts::123456789012:assumed-role/admin/tester"), true, "it is for"},
		"longer name":               {user("arn:aws:sts::123456789012:assumed-role/xdeploy/tester"), false, "it is for"},
		"other session":             {user("arn:aws:sts::123456789012:assumed-role/deploy/other"), false, "it is for"},
		"other account":             {user("arn:aws:sts::210987654321:assumed-role/deploy/tester"), false, "it is for"},
		"other partition":           {user("arn:aws-cn:sts::123456789012:assumed-role/deploy/tester"), false, "it is for"},
		"a user":                    {user("arn:aws:iam::123456789012:user/deploy/tester"), false, "it is for"},
		"no ARN":                    {user("deploy/tester"), false, "it is for"},
		"path kept, as some stores": {user("arn:aws:sts::123456789012:assumed-role/team/deploy/tester"), true, ""},
		"unprintable":               {user("arn:aws:sts::1:\x1b[2J\n"), false, "it is for"},
	} {
		t.Run(name, func(t *testing.T) {
			m, call := &minter{compatible: c.compatible}, Call{Action: "AssumeRole", Region: region, ARN: deploy}
			g := good()
			c.change(&g)
			got, err := m.verify(call, assuming(deploy, "tester"), g, aws.Int32(3600), now)
			if c.want == "" {
				if noted := g.principal == nil; noted != (got.Note != "") {
					t.Errorf("note %q", got.Note)
				}
				if err != nil || got.Region != region || got.AccessKeyID != *g.creds.AccessKeyId || !got.Issued.Equal(now) || got.SecretAccessKey.Reveal() != "secret/+=" {
					t.Errorf("got %+v, %v", got, err)
				}
				return
			}
			e := wantError(t, got, err)
			if e.Kind != broker.KindUnavailable || !strings.Contains(e.Public, c.want) || strings.ContainsAny(e.Public, "\x1b\n") {
				t.Errorf("got %v: %q, want %q", e.Kind, e.Public, c.want)
			}
		})
	}
	t.Run("an assertion's session", func(t *testing.T) {
		p := assuming(deploy, "tester")
		for _, c := range []struct{ ends, life time.Duration }{{2 * time.Hour, time.Hour}, {40 * time.Minute, 40 * time.Minute}, {0, 0}, {-time.Second, 0}} {
			p.latest = now.Add(c.ends)
			got, err := (&minter{}).verify(Call{Action: "AssumeRoleWithSAML", Region: region, ARN: deploy}, p, good(), aws.Int32(3600), now)
			if c.life == 0 {
				if e := wantError(t, got, err); !strings.Contains(e.Public, "the assertion's session ended at") {
					t.Errorf("ends in %v: %v", c.ends, e)
				}
			} else if err != nil || got.Lifetime() != c.life {
				t.Errorf("ends in %v: %v, %v", c.ends, got.Lifetime(), err)
			}
		}
	})
	t.Run("no duration asked for", func(t *testing.T) {
		m := &minter{compatible: true}
		g := good()
		expires(1000 * time.Hour)(&g)
		if _, err := m.verify(Call{Action: "AssumeRoleWithWebIdentity", Region: region}, assuming("", "tester"), g, nil, now); err != nil {
			t.Error(err)
		}
	})
}

func TestIssuersClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(300 * time.Millisecond) // off the whole second
		sent := time.Now()
		for name, c := range map[string]struct {
			rtt  time.Duration
			date time.Duration // of the header, from sending
			none bool
			want time.Duration // from the host's clock
		}{
			"right":              {50 * time.Millisecond, -300 * time.Millisecond, false, 0},
			"slightly behind":    {50 * time.Millisecond, 1300 * time.Millisecond, false, 0},
			"slightly ahead":     {50 * time.Millisecond, -1300 * time.Millisecond, false, 0},
			"slow, stamped late": {3 * time.Second, 2700 * time.Millisecond, false, 0},
			"slow, stamped soon": {3 * time.Second, -300 * time.Millisecond, false, 0},
			"host an hour ahead": {0, -time.Hour, false, -time.Hour + time.Second},
			"host behind":        {2 * time.Second, time.Hour, false, time.Hour + time.Second},
			"host 2 s ahead":     {0, -2 * time.Second, false, -time.Second},
			"no Date":            {time.Second, 0, true, 0},
		} {
			x := &exchange{sent: sent, received: sent.Add(c.rtt), date: sent.Add(c.date)}
			if c.none {
				x.date = time.Time{}
			}
			want := time.Now().Add(c.want)
			if got := x.now(); !got.Equal(want) {
				t.Errorf("%s: issuer's clock is %v off, want %v", name, time.Until(got), c.want)
			}
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// FuzzAnswer serves any bytes as the answer: what comes out is an error, or
// credentials that are whole and fit the question.
func FuzzAnswer(f *testing.F) {
	result := func(body string) []byte {
		return []byte(`<AssumeRoleResponse><AssumeRoleResult>` + body + `</AssumeRoleResult></AssumeRoleResponse>`)
	}
	whole := `<AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/deploy/tester</Arn></AssumedRoleUser><Credentials><AccessKeyId>ASIAIOSFODNN7EXAMPLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>` +
		time.Now().Add(time.Hour).UTC().Format(time.RFC3339) + `</Expiration></Credentials>`
	for _, b := range [][]byte{
		nil, result(whole), result(""), result("<Credentials/>"), result(strings.Replace(whole, "ASIAIOSFODNN7EXAMPLE", "", 1)),
		result(strings.Replace(whole, "20", "10", 1)), []byte("{}"), []byte("<"), []byte("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"),
		[]byte("<ErrorResponse><Error><Code>AccessDenied</Code><Message>no\x00</Message></Error></ErrorResponse>"),
		[]byte("<Error><Code>Throttling</Code></Error>"),
	} {
		for _, status := range []uint16{200, 204, 301, 400, 403, 429, 500} {
			f.Add(status, b, "", true)
		}
	}
	f.Add(uint16(200), result(whole), "Thu, 05 Nov 2026 12:00:00 GMT", false)

	f.Fuzz(func(t *testing.T, status uint16, body []byte, date string, compatible bool) {
		e := Endpoint{URL: "http://127.0.0.1:1", Compatible: compatible}
		s := newSTS(t, Options{Override: &e})
		s.http.client.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			h := http.Header{"Date": {date}}
			return &http.Response{StatusCode: int(status), Header: h, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
		})
		parent := broker.MintInput{Parent: longTerm}
		for _, m := range []broker.Minter{s.Role(Role{ARN: deploy, SessionName: "tester"}), s.Session(Session{})} {
			c, err := m.Mint(context.Background(), parent)
			if err != nil {
				e := wantError(t, c, err)
				if len(e.Public) > 8<<10 || strings.ContainsFunc(e.Public, func(r rune) bool { return r < ' ' || r == 0x7f }) {
					t.Errorf("not one printable line: %q", e.Public)
				}
				continue
			}
			if c.AccessKeyID == "" || c.SecretAccessKey.IsZero() || c.SessionToken.IsZero() || c.Lifetime() <= 0 || c.Lifetime() > 13*time.Hour || status/100 != 2 {
				t.Errorf("believed %+v of HTTP %d %q", c, status, body)
			}
		}
	})
}
