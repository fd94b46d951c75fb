package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/stsbroker/stsbroker/internal/control"
)

func TestEncodedMessage(t *testing.T) {
	longest := strings.Repeat("x", control.MaxMessage)
	for text, want := range map[string]string{
		"abc_-=":     "abc_-=",
		"  abc\n":    "abc",
		"odd.but~ok": "odd.but~ok", // STS says whether it is one
		longest:      longest,
		"You are not authorized. Encoded authorization failure message: a1_-b":                     "a1_-b",
		"x (UnauthorizedOperation): Encoded Authorization Failure Message:\n  a+/=\n\tstatus: 403": "a+/=",
		`"…Encoded authorization failure message: abc"`:                                            "abc",
		"Encoded authorization failure message: abc. Encoded authorization failure message: def":   "abc",
		"Encoded authorization failure message: ":                                                  "",
		"An error occurred (AccessDenied)":                                                         "",
		"":                                                                                         "",
		" \n":                                                                                      "",
		longest + "x":                                                                              "",
	} {
		got, err := encodedMessage(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%.80q: got %.80q, %v", text, got, err)
		}
	}
}

// What a decoded message holds was chosen by others, and may be of another form.
func TestShowDenial(t *testing.T) {
	for text, want := range map[string]string{
		`{"allowed":false,"explicitDeny":false,"context":{"principal":{"arn":"me"},"action":"s3:GetObject","resource":"arn:x"}}`: "denied   s3:GetObject\non       arn:x\nto       me\nbecause  no statement allows it\n\n{\n",
		`{"allowed":true,"context":{"action":"a:B"}}`:      "allowed  a:B\n\n{\n",
		`{"context":{"action":"a\u001b[31m\nb"}}`:          "denied   a\uFFFD[31m b\nbecause  no statement allows it\n\n{\n",
		"{\"context\":{\"action\":\"a\u009b31m\u202eb\"}}": "denied   a\uFFFD31m\uFFFDb\n",
		`{"explicitDeny":true,"matchedStatements":{"items":[{"statementId":"S","effect":"DENY","actions":{"items":[{"value":"*"}]}}]}}`: "because  a statement denies it explicitly\nmatched  DENY * (S)\n",
		`{}`: "because  no statement allows it\n\n{}\n",
	} {
		var out bytes.Buffer
		if err := showDenial(&out, text); err != nil || !strings.HasPrefix(out.String(), want) {
			t.Errorf("%s: %v\n%s", text, err, out.String())
		}
		if i := strings.IndexFunc(out.String(), func(r rune) bool { return r == '\u009b' || r == '\u202e' || r < ' ' && r != '\n' }); i >= 0 {
			t.Errorf("%s: it drives the terminal: %q", text, out.String()[i:])
		}
	}
	for _, text := range []string{"", "no", "[]", `{"allowed":"yes"}`} {
		if err := showDenial(new(bytes.Buffer), text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// profilesOf is a broker that serves these; "!" in front is unservable.
type profilesOf []string

type statusOnly struct {
	control.Service
	names profilesOf
}

func (s statusOnly) Status(context.Context, string) (control.Status, error) {
	var st control.Status
	for _, n := range s.names {
		p := control.Profile{Name: strings.TrimPrefix(n, "!")}
		if p.Name != n {
			p.Reason = "because"
		}
		st.Profiles = append(st.Profiles, p)
	}
	return st, nil
}

func TestSigningProfile(t *testing.T) {
	for _, c := range []struct {
		flag, env string
		names     profilesOf
		want      string
	}{
		{"x", "a", profilesOf{"a", "default"}, "x"},
		{"", "a", profilesOf{"a", "b", "default"}, "a"},
		{"", "c", profilesOf{"a", "b", "default"}, "default"},
		{"", "b", profilesOf{"a", "!b", "!default"}, "a"},
		{"", "", profilesOf{"a", "b"}, ""},
		{"", "", profilesOf{"!a"}, ""},
		{"", "", nil, ""},
	} {
		t.Setenv("AWS_PROFILE", c.env)
		if got, err := signingProfile(t.Context(), statusOnly{names: c.names}, c.flag); got != c.want || err != nil {
			t.Errorf("--profile %q, AWS_PROFILE %q, %v: got %q, %v", c.flag, c.env, c.names, got, err)
		}
	}
}
