package awssts

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws/retry"

	"github.com/stsbroker/stsbroker/broker"
)

var update = flag.Bool("update", false, "write docs/errors.md")

// The document that users read is made of the table, so neither can be wrong alone.
func TestErrorsDocument(t *testing.T) {
	const path = "../../docs/errors.md"
	want := document()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; write it with: go test ./broker/awssts -run TestErrorsDocument -update", err)
	}
	if strings.ReplaceAll(string(got), "\r\n", "\n") != want {
		t.Error("docs/errors.md is not what the table says; write it with: go test ./broker/awssts -run TestErrorsDocument -update")
	}
}

func document() string {
	var b strings.Builder
	b.WriteString(`# Errors of STS

<!-- Made of the table in broker/awssts/table.go: go test ./broker/awssts -run TestErrorsDocument -update -->

When STS refuses, the message holds the profile, where it was asked, the ARN, STS's own code and words, its request id, and the next step:

    profile deploy: STS in eu-central-1 refuses AssumeRole of arn:aws:iam::123456789012:role/deploy: AccessDenied: User: … is not
    authorized to perform: sts:AssumeRole on resource: … (request id 01234567-…); check the role's trust policy, …

The code decides what the broker does, not the HTTP status: STS throttles with 400. Of the rows that name a code, those that ask for certain words
of STS's count first, then those of certain calls, then the rest. A code that is in none of them passes, as far as anybody can tell: it is tried
again, as is an answer with no code at all (a proxy's page, an empty body, nothing within the time-out).

| kind | what it means |
|---|---|
| ` + "`unavailable`, `throttled`" + ` | passes: the broker tries again by itself, with growing pauses, and serves what it holds meanwhile |
| ` + "`denied`" + ` | a person has to act; what STS said stands for the answer for 2 s, doubling to 30 s |
| ` + "`config`" + ` | the configuration has to be mended; likewise |

"Own" is what the profile's own identity provider or token causes, and says nothing of STS: other profiles are not slowed down. "Signer" are session
credentials that are no longer accepted: the profile they come from is renewed first, once.
`)
	for _, class := range []struct {
		title string
		kinds []broker.Kind
	}{
		{"What passes", []broker.Kind{broker.KindThrottled, broker.KindUnavailable}},
		{"What needs a person", []broker.Kind{broker.KindDenied}},
		{"What needs the configuration mended", []broker.Kind{broker.KindConfig}},
	} {
		fmt.Fprintf(&b, "\n## %s\n\n| codes | calls | STS's words hold | kind | next step |\n|---|---|---|---|---|\n", class.title)
		above := ""
		for _, r := range table {
			if !slices.Contains(class.kinds, r.kind) {
				continue
			}
			codes := "the same"
			if r.codes != above {
				codes, above = ticked(r.codes), r.codes
			}
			kind := r.kind.String()
			if r.own {
				kind += ", own"
			}
			if r.signer {
				kind += ", signer"
			}
			words := ""
			for i, w := range r.words {
				if i > 0 {
					words += ", or "
				}
				words += `"` + w + `"`
			}
			next := r.next
			if next == "" {
				next = again("")
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", codes, ticked(r.actions), words, kind, strings.ReplaceAll(next, "_", "\\_"))
		}
	}
	return b.String()
}

func ticked(list string) string {
	if list == "" {
		return "all"
	}
	return "`" + strings.Join(strings.Fields(list), "`, `") + "`"
}

func TestTable(t *testing.T) {
	kinds := []broker.Kind{broker.KindUnavailable, broker.KindThrottled, broker.KindDenied, broker.KindConfig}
	for i, r := range table {
		name := fmt.Sprintf("row %d (%s)", i, r.codes)
		if !slices.Contains(kinds, r.kind) {
			t.Errorf("%s is of kind %v", name, r.kind)
		}
		// The budget takes what is "own" for no answer of STS's, and a refusal is one.
		if r.own && r.kind != broker.KindUnavailable {
			t.Errorf("%s is own, and %v", name, r.kind)
		}
		if r.signer && r.kind != broker.KindDenied {
			t.Errorf("%s is the signer's, and %v", name, r.kind)
		}
		if (r.next == "") != (r.kind.Passes() && !r.own) || strings.ContainsAny(r.next, "\n|") || strings.HasSuffix(r.next, ".") {
			t.Errorf("%s has the next step %q", name, r.next)
		}
		for _, w := range r.words {
			if w != strings.ToLower(w) || w == "" {
				t.Errorf("%s looks for %q, and the words are in lower case", name, w)
			}
		}
		for _, action := range strings.Fields(r.actions) {
			if !slices.Contains(actions, action) {
				t.Errorf("%s names %s", name, action)
			}
		}
		// Each code of a row must be able to reach it, else an earlier row is too wide.
		asked := strings.Fields(r.actions)
		if len(asked) == 0 {
			asked = append(slices.Clone(actions), "AnActionToCome")
		}
		for _, code := range strings.Fields(r.codes) {
			if !slices.ContainsFunc(asked, func(action string) bool {
				got := slices.IndexFunc(table, func(r2 row) bool { return r2.fits(code, action, strings.Join(r.words, " ")) })
				return got == i
			}) {
				t.Errorf("%s: %s never comes to it", name, code)
			}
		}
	}
}

// Codes that the SDK knows are known here.
func TestTableKnowsTheSDKsCodes(t *testing.T) {
	for code := range retry.DefaultThrottleErrorCodes {
		if r, _ := meaning(code, "AssumeRole", ""); r.kind != broker.KindThrottled {
			t.Errorf("%s is %v", code, r.kind)
		}
	}
	for code := range retry.DefaultRetryableErrorCodes {
		if r, known := meaning(code, "AssumeRole", ""); !known || r.kind != broker.KindUnavailable {
			t.Errorf("%s is %v, known %v", code, r.kind, known)
		}
	}
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/aws/aws-sdk-go-v2/service/sts/types").Output()
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "errors.go"))
	if err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`return "(\w+)"`).FindAllSubmatch(source, -1)
	if len(codes) < 12 {
		t.Errorf("found %d codes only", len(codes))
	}
	for _, c := range codes {
		for _, action := range actions {
			if _, known := meaning(string(c[1]), action, ""); !known {
				t.Errorf("%s of %s is not known", c[1], action)
			}
		}
	}
}
