package stsfake

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

const (
	maxPolicy    = 2048 // characters of an inline policy and the ARNs of managed ones together
	maxPolicies  = 10
	maxTags      = 50
	packedBudget = 1024 // see pack
	tokenBudget  = 4096 // bytes of a session token that count as 100 percent
)

var (
	policyChars   = lazy(`^[\x{0009}\x{000A}\x{000D}\x{0020}-\x{00FF}]+$`)
	policyARN     = lazy(`^arn:aws[\w-]*:iam::(aws|\d{12}):policy/([\w+=,.@/-]+)$`)
	tagKeyChars   = lazy(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]+$`)
	tagValueChars = lazy(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$`)
)

type tag struct{ Key, Value string }

// sessionTags are the tags of a session; transitive ones by key in lower case,
// for keys do not differ by case.
type sessionTags struct {
	all        []tag
	transitive map[string]tag
}

// tags reads the parameter Tags.
func (q *request) tags() (tags []tag, err error) {
	keys, values := q.list("Tags", "Key"), q.list("Tags", "Value")
	for i, key := range keys {
		for _, sub := range []string{"Key", "Value"} {
			if !q.form.Has(fmt.Sprintf("Tags.member.%d.%s", i+1, sub)) {
				return nil, invalid(fmt.Sprintf("1 validation error detected: Value null at 'tags.%d.member.%s' failed to satisfy constraint: Member must not be null", i+1, field(sub)))
			}
		}
		tags = append(tags, tag{key, values[i]})
	}
	return tags, nil
}

// mergeTags checks the tags of a session to be, and adds those it inherits.
// The limits are those of the API's model; the rules of inheritance are those
// of "Pass session tags in AWS STS" in the IAM user guide.
func mergeTags(given []tag, transitive []string, inherited map[string]tag) (t sessionTags, err error) {
	for name, n := range map[string]int{"tags": len(given), "transitiveTagKeys": len(transitive)} {
		if n > maxTags {
			return t, invalid(fmt.Sprintf("1 validation error detected: Value at '%s' failed to satisfy constraint: Member must have length less than or equal to %d", name, maxTags))
		}
	}
	t.transitive = map[string]tag{}
	keys := map[string]tag{}
	for i, g := range given {
		if err := constrain(fmt.Sprintf("tags.%d.member.key", i+1), g.Key, 1, 128, tagKeyChars()); err != nil {
			return t, err
		}
		if err := constrain(fmt.Sprintf("tags.%d.member.value", i+1), g.Value, 0, 256, tagValueChars()); err != nil {
			return t, err
		}
		low := strings.ToLower(g.Key)
		if _, twice := keys[low]; twice {
			return t, badValue("Duplicate tag keys found. Please note that Tag keys are case insensitive.")
		}
		if _, set := inherited[low]; set {
			return t, badValue("One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key from the calling session.")
		}
		keys[low] = g
	}
	t.all = given
	for low, g := range inherited {
		t.all, t.transitive[low] = append(t.all, g), g
	}
	for _, key := range transitive {
		low := strings.ToLower(key)
		g, ok := keys[low]
		if !ok {
			return t, badValue("The specified transitive tag key must be included in the requested tags.")
		}
		t.transitive[low] = g
	}
	return t, nil
}

// pack reads and checks the session policies, and sets what they and the tags
// take of the packed form's budget. AWS's compression is not public. This
// model is near to what people report of it: the inline policy without white
// space, names of managed policies, keys and values of tags, of 1,024 bytes.
func (q *request) pack(g *grant) error {
	size := 0
	if q.form.Has("Policy") {
		if err := q.check("Policy", 1, maxPolicy, policyChars()); err != nil {
			return err
		}
		var compact bytes.Buffer
		if err := checkPolicy([]byte(q.form.Get("Policy")), &compact); err != nil {
			return err
		}
		size += compact.Len()
	}
	arns := q.list("PolicyArns", "arn")
	if len(arns) > maxPolicies {
		return constraint(fmt.Sprint(arns), "policyArns", fmt.Sprintf("Member must have length less than or equal to %d", maxPolicies))
	}
	plain := len([]rune(q.form.Get("Policy")))
	for i, arn := range arns {
		if err := constrain(fmt.Sprintf("policyArns.%d.member.arn", i+1), arn, 20, 2048, nil); err != nil {
			return err
		}
		// Managed by AWS, or of the account of the session.
		m := policyARN().FindStringSubmatch(arn)
		if m == nil || m[1] != "aws" && m[1] != g.account {
			return invalid(arn + " is invalid")
		}
		plain += len(arn)
		size += len(m[2])
	}
	if plain > maxPolicy {
		return invalid(fmt.Sprintf("The inline session policy and the ARNs of managed session policies have %d characters together, more than %d", plain, maxPolicy))
	}
	policies := q.form.Has("Policy") || len(arns) > 0
	for _, t := range g.tags.all {
		size += len(t.Key) + len(t.Value)
	}
	if !policies && len(g.tags.all) == 0 {
		return nil
	}
	n := percent(size, packedBudget)
	switch {
	case n > 100 && policies:
		return fail(400, "PackedPolicyTooLarge", fmt.Sprintf("Packed policy consumes %d%% of allotted space, please use smaller policy.", n))
	case n > 100:
		return fail(400, "PackedPolicyTooLarge", fmt.Sprintf("Packed size of session tags consumes %d%% of allotted space.", n))
	}
	g.packed = &n
	return nil
}

// checkPolicy checks the shape of a policy document, and writes it without white space.
func checkPolicy(policy []byte, compact *bytes.Buffer) error {
	malformed := func(m string) error { return fail(400, "MalformedPolicyDocument", m) }
	if json.Compact(compact, policy) != nil {
		return malformed("This policy contains invalid Json")
	}
	var doc struct{ Statement json.RawMessage }
	type statement struct{ Effect string }
	var list []statement
	var one statement
	if json.Unmarshal(policy, &doc) != nil {
		return malformed("Syntax errors in policy.")
	}
	if json.Unmarshal(doc.Statement, &list) != nil && json.Unmarshal(doc.Statement, &one) == nil {
		list = []statement{one}
	}
	if len(list) == 0 || slices.ContainsFunc(list, func(s statement) bool { return s.Effect != "Allow" && s.Effect != "Deny" }) {
		return malformed("Syntax errors in policy.")
	}
	return nil
}

// percent is rounded up: what is over the budget is over 100.
func percent(n, of int) int { return (100*n + of - 1) / of }
