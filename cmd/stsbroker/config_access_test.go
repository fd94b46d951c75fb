package main

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/stsbroker/stsbroker/broker/access"
)

// What takes a document of its own; testdata/config/access.yaml has the rest.
func TestConfigAccess(t *testing.T) {
	const file = "token_files: { pod: { profiles: [dev, ops] }, of1001: { profiles: [dev], uid: 1001 } }\n"
	for _, tc := range []struct {
		text string
		want []string // findings, from the first line on
	}{
		{"access: []", nil},
		{"access:", []string{"x.yaml:1:8: access: want a list ([a, b]), not nothing"}},
		{"access: { uid: 1001, profiles: [dev] }", []string{"x.yaml:1:9: access: want a list ([a, b]), not a mapping"}},
		{"access: [{ uid: &a 1001, profiles: [dev] }]", []string{"x.yaml:1:17: access[0].uid: anchors are not supported"}},
		{"access: [{ uid: 1001, profiles: }]", []string{"x.yaml:1:33: access[0].profiles: want a list ([a, b]), not nothing"}},
		{"access: []\naccess: []", []string{"x.yaml:2:1: access: given twice; first on line 1"}},

		{file, nil},
		{file + "access: []", nil},
		{file + "access: [{ uid: 1001, profiles: [dev, ops] }]", nil},
		{file + "access: [{ token: pod, profiles: [dev, ops] }, { token: of1001, profiles: [dev] }]", nil},
		{file + "access: [{ token: pod, uid: 7, profiles: [dev, ops] }, { token: of1001, uid: 1001, profiles: [dev] }]", nil},
		{file + "access: [{ uid: 1002, profiles: [dev] }]", []string{
			"x.yaml:2:9: warning: access: no rule gives profile ops to the token of token_files.pod (line 1), so it is refused; add: { token: pod, profiles: [ops] }",
			"x.yaml:2:9: warning: access: no rule gives profile dev to the token of token_files.of1001 (line 1)",
		}},
		{file + "access: [{ token: pod, profiles: [dev, ops] }, { token: of1001, uid: 1002, profiles: [dev] }]", []string{
			"x.yaml:2:9: warning: access: no rule gives profile dev to the token of token_files.of1001 (line 1)",
		}},

		{"audit: {}", nil},
		{"audit:", nil},
		{`audit: { file: "" }`, nil},
		{`audit: { required: false }`, nil},
		{`audit: { file: /a }`, nil},
		{`audit: { file: "~/a" }`, []string{`x.yaml:1:16: audit.file: "~/a" is not an absolute path; write it from / on`}},
		{`audit: { file: "/a\0b" }`, []string{`x.yaml:1:16: audit.file: holds a NUL`}},
		{`audit: { required: true }`, []string{"x.yaml:1:10: audit.required: there is no file to write to; give audit.file, or leave required out"}},
		{`audit: { file: "", required: true }`, []string{"x.yaml:1:20: audit.required: there is no file to write to"}},
		{`audit: /a`, []string{"x.yaml:1:8: audit: want a mapping (key: value), not text"}},
	} {
		_, findings := parseConfig("x.yaml", []byte(tc.text))
		if len(findings) != len(tc.want) {
			t.Errorf("%s: %v", tc.text, findings)
			continue
		}
		for i, f := range findings {
			if !strings.HasPrefix(f.String(), tc.want[i]) {
				t.Errorf("%s: %v, want %s", tc.text, f, tc.want[i])
			}
		}
	}
}

// A rule's profiles are of the document or of the AWS files, whose names come later.
func TestAccessNamesProfilesThatExist(t *testing.T) {
	c, findings := parseConfig("x.yaml", []byte(`profiles: { here: { ambient: true } }
access:
  - { uid: 1001, profiles: [here, aws-prod, "her*"] }
  - { token: ci, profiles: [aws-prd] }
`))
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	got := fmt.Sprint(c.CheckSources([]string{"aws-prod"}))
	want := `[x.yaml:3:45: access[0].profiles[2]: there is no profile "her*", neither here nor in the AWS files; did you mean "here"? ` +
		`x.yaml:4:29: access[1].profiles[0]: there is no profile "aws-prd", neither here nor in the AWS files; did you mean "aws-prod"?]`
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if rules := []access.Rule{{UID: new(uint32(1001)), Profiles: []string{"here", "aws-prod", "her*"}, Line: 3}, {Token: "ci", Profiles: []string{"aws-prd"}, Line: 4}}; !reflect.DeepEqual(c.Access, rules) {
		t.Errorf("%+v", c.Access)
	}
}
