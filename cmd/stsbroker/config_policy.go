package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Limits of a session policy: what STS takes, in characters, and what is read
// before its white space is dropped, in bytes.
const (
	mostPolicy     = 2048
	mostPolicyFile = 64 << 10
)

// policy reads a session policy: its JSON, or file:PATH, relative to the folder
// of the document. The file is read here and not again, and others must not be
// able to change it: it says what a session may do.
func (r *configReader) policy(to *string) reads {
	return func(n *yaml.Node, p string) {
		text, ok := r.scalar(n, p, "!!str", "the policy's JSON in quotes, or file:PATH")
		if !ok {
			return
		}
		where := ""
		if name, ok := strings.CutPrefix(text, "file:"); ok {
			data, err := r.policyFile(name)
			if err != nil {
				r.fail(n, p, "%s: %v", name, err)
				return
			}
			text, where = string(data), name+": "
		}
		compact, err := compactPolicy(text)
		if err != nil {
			r.fail(n, p, "%s%v", where, err)
			return
		}
		*to = compact
	}
}

func (r *configReader) policyFile(name string) ([]byte, error) {
	if name == "" || strings.HasPrefix(name, "//") || strings.ContainsRune(name, 0) {
		return nil, errors.New("not the path of a policy; write it as file:./policy.json or file:/etc/policy.json")
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(r.file), name)
	}
	r.read = append(r.read, name)
	data, err := readTrusted(name, mostPolicyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no such file; a relative path begins in the folder of %s", filepath.Base(r.file))
	}
	return data, err
}

// compactPolicy checks a session policy and drops the white space between its
// parts, which STS would count. Whether AWS likes what it says, STS knows.
func compactPolicy(text string) (string, error) {
	text = strings.TrimPrefix(text, "\ufeff")
	if !utf8.ValidString(text) {
		return "", errors.New("the policy is not UTF-8; save it as that")
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &parts); err != nil {
		var syntax *json.SyntaxError
		if !errors.As(err, &syntax) {
			return "", errors.New(`the policy is not a JSON object; write {"Version": "2012-10-17", "Statement": [{…}]}`)
		}
		line := strings.Count(text[:min(int(syntax.Offset), len(text))], "\n") + 1
		return "", fmt.Errorf("the policy is not JSON: line %d: %w", line, err)
	}
	statement, ok := parts["Statement"]
	if !ok {
		return "", errors.New(`the policy has no "Statement"; write {"Version": "2012-10-17", "Statement": [{…}]}`)
	}
	if s := strings.Join(strings.Fields(string(statement)), ""); s[0] != '{' && s[0] != '[' || s == "[]" || s == "{}" {
		return "", errors.New(`the policy's "Statement" says nothing; write [{"Effect": "Allow", "Action": "…", "Resource": "…"}]`)
	}
	if err := checkStatements(parts["Version"], statement); err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := json.Compact(&out, []byte(text)); err != nil {
		return "", fmt.Errorf("the policy is not JSON: %w", err)
	}
	compact := out.String()
	for _, c := range compact {
		if c > 0xff { // the pattern of Policy in the API reference
			return "", fmt.Errorf("the policy holds %q, and STS takes no character beyond U+00FF; write it as %s", c, escaped(c))
		}
	}
	if n := utf8.RuneCountInString(compact); n > mostPolicy {
		return "", fmt.Errorf("the policy has %d characters without its white space, and STS takes %d; say less, or name managed policies in policy_arns", n, mostPolicy)
	}
	return compact, nil
}

// checkStatements holds a session policy to the grammar of IAM's policies, of which
// STS says no more than that a policy is malformed. A session policy names no
// principal: that is the session.
func checkStatements(version, statement json.RawMessage) error {
	var v string
	if version != nil && (json.Unmarshal(version, &v) != nil || v != "2012-10-17" && v != "2008-10-17") {
		return errors.New(`the policy's "Version" is neither "2012-10-17" nor "2008-10-17", the versions of the language; write "2012-10-17"`)
	}
	type object map[string]json.RawMessage
	var all []object
	if err := json.Unmarshal(statement, &all); err != nil {
		var one object
		if json.Unmarshal(statement, &one) != nil {
			return errors.New(`the policy's "Statement" holds something that is not an object; write [{"Effect": "Allow", "Action": "…", "Resource": "…"}]`)
		}
		all = []object{one}
	}
	for i, s := range all {
		has := func(key string) bool { return s[key] != nil }
		var effect string
		switch err := json.Unmarshal(s["Effect"], &effect); {
		case err != nil || effect != "Allow" && effect != "Deny":
			return fmt.Errorf(`statement %d of the policy has no "Effect" that is "Allow" or "Deny", in these letters`, i+1)
		case has("Principal"), has("NotPrincipal"):
			return fmt.Errorf(`statement %d of the policy names a principal, which in a session policy is the session itself; leave it out`, i+1)
		case !has("Action") && !has("NotAction"):
			return fmt.Errorf(`statement %d of the policy has neither "Action" nor "NotAction"; say what it is about`, i+1)
		}
	}
	return nil
}

// escaped is a character as JSON can write it in ASCII.
func escaped(c rune) string {
	if a, b := utf16.EncodeRune(c); a != utf8.RuneError {
		return fmt.Sprintf(`\u%04x\u%04x`, a, b)
	}
	return fmt.Sprintf(`\u%04x`, c)
}
