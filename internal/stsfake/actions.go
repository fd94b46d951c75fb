package stsfake

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// action is one operation of the STS API.
type action struct {
	run      func(*request) (any, error)
	target   string   // the parameter that says what is asked for
	required []string // parameters; N stands for a number
	optional []string
	unsigned bool
}

// One parameter is left out everywhere, to be refused as not known:
// MinimumSessionTokenSize.
var actions = map[string]action{
	"GetSessionToken": {run: (*request).getSessionToken,
		optional: []string{"DurationSeconds", "SerialNumber", "TokenCode"}},
	"AssumeRole": {run: (*request).assumeRole, target: "RoleArn",
		required: []string{"RoleArn", "RoleSessionName"},
		optional: []string{"DurationSeconds", "ExternalId", "SerialNumber", "TokenCode", "SourceIdentity", "Policy", "PolicyArns.member.N.arn",
			"Tags.member.N.Key", "Tags.member.N.Value", "TransitiveTagKeys.member.N",
			"ProvidedContexts.member.N.ProviderArn", "ProvidedContexts.member.N.ContextAssertion"}},
	"AssumeRoleWithWebIdentity": {run: (*request).assumeRoleWithWebIdentity, target: "RoleArn", unsigned: true,
		required: []string{"RoleArn", "RoleSessionName", "WebIdentityToken"},
		optional: []string{"DurationSeconds", "ProviderId", "Policy", "PolicyArns.member.N.arn"}},
	"AssumeRoleWithSAML": {run: (*request).assumeRoleWithSAML, target: "RoleArn", unsigned: true,
		required: []string{"RoleArn", "PrincipalArn", "SAMLAssertion"},
		optional: []string{"DurationSeconds", "Policy", "PolicyArns.member.N.arn"}},
	"GetFederationToken": {run: (*request).getFederationToken, target: "Name",
		required: []string{"Name"},
		optional: []string{"DurationSeconds", "Policy", "PolicyArns.member.N.arn", "Tags.member.N.Key", "Tags.member.N.Value"}},
	"AssumeRoot": {run: (*request).assumeRoot, target: "TargetPrincipal",
		required: []string{"TargetPrincipal", "TaskPolicyArn.arn"},
		optional: []string{"DurationSeconds"}},
	"GetDelegatedAccessToken": {run: (*request).getDelegatedAccessToken,
		required: []string{"TradeInToken"}},
	"DecodeAuthorizationMessage": {run: (*request).decodeAuthorizationMessage,
		required: []string{"EncodedMessage"}},
	"GetAccessKeyInfo": {run: (*request).getAccessKeyInfo, target: "AccessKeyId",
		required: []string{"AccessKeyId"}},
	"GetWebIdentityToken": {run: (*request).getWebIdentityToken,
		required: []string{"Audience.member.1", "SigningAlgorithm"},
		optional: []string{"Audience.member.N", "DurationSeconds", "Tags.member.N.Key", "Tags.member.N.Value"}},
	"GetCallerIdentity": {run: (*request).getCallerIdentity},
}

var member = lazy(`\.member\.([1-9][0-9]*)(\.|$)`)

// known refuses what would be ignored otherwise: parameters that the action
// does not have, that are given twice, and list members after a gap.
func (q *request) known(act action) error {
	for name, values := range q.form {
		pattern, gap := name, false
		if m := member().FindStringSubmatchIndex(name); m != nil {
			pattern = name[:m[2]] + "N" + name[m[3]:]
			n, _ := strconv.Atoi(name[m[2]:m[3]])
			gap = n > 1 && !q.has(name[:m[2]]+strconv.Itoa(n-1))
		}
		all := slices.Concat([]string{"Action", "Version"}, act.required, act.optional)
		// A list without members is its bare name.
		empty := values[0] == "" && slices.ContainsFunc(all, func(p string) bool { return strings.HasPrefix(p, name+".member.") })
		switch {
		case !empty && !slices.Contains(all, name) && !slices.Contains(all, pattern):
			return fail(400, "InvalidParameterValue", fmt.Sprintf("this stand-in does not know the parameter %s of %s", name, q.call.Action))
		case gap:
			return fail(400, "InvalidParameterValue", fmt.Sprintf("the list member before %s is missing", name))
		case len(values) > 1:
			return fail(400, "InvalidParameterValue", fmt.Sprintf("the parameter %s is given more than once", name))
		}
	}
	return nil
}

func (q *request) complete(act action) error {
	for _, name := range act.required {
		if !q.form.Has(name) {
			return invalid(fmt.Sprintf("1 validation error detected: Value null at '%s' failed to satisfy constraint: Member must not be null", field(name)))
		}
	}
	return nil
}

// has reports whether a parameter of the name, or below it, was sent.
func (q *request) has(name string) bool {
	for k := range q.form {
		if k == name || strings.HasPrefix(k, name+".") {
			return true
		}
	}
	return false
}

// list returns the members of a list; sub is the field of each, "" for plain values.
func (q *request) list(name, sub string) (members []string) {
	for n := 1; ; n++ {
		at := name + ".member." + strconv.Itoa(n)
		if !q.has(at) {
			return members
		}
		if sub != "" {
			at += "." + sub
		}
		members = append(members, q.form.Get(at))
	}
}

// permitted applies the table "Compare AWS STS credentials" of the IAM user
// guide, and what the API reference says of each action.
func (q *request) permitted() error {
	p, name := q.caller, q.call.Action
	userSession := p.Session && (p.Kind == kindUser || p.Kind == kindRoot)
	switch {
	case name == "GetCallerIdentity":
		return nil
	case p.Session && (name == "GetSessionToken" || name == "GetFederationToken"):
		return denied("Cannot call " + name + " with session credentials")
	case p.Kind == kindRoot && name == "AssumeRole":
		return denied("Roles may not be assumed by root accounts.")
	case p.Kind == kindFederated, p.Kind == kindTask, userSession && name != "AssumeRole", p.Kind == kindRoot && name == "AssumeRoot":
		return q.unauthorized("")
	}
	return nil
}

// unauthorized says who may not do what, and on which resource if any.
func (q *request) unauthorized(resource string) error {
	message := fmt.Sprintf("User: %s is not authorized to perform: sts:%s", q.caller.ARN, q.call.Action)
	if resource != "" {
		message += " on resource: " + resource
	}
	return denied(message)
}

func (q *request) getCallerIdentity() (any, error) {
	return identityResult{q.caller.ARN, q.caller.UserID, q.caller.Account}, nil
}

func (q *request) getAccessKeyInfo() (any, error) {
	id := q.form.Get("AccessKeyId")
	if err := q.check("AccessKeyId", 16, 128, wordChars()); err != nil {
		return nil, err
	}
	account := accountOf(id)
	if _, ok := q.user(id); ok {
		account = Account
	}
	if !q.knowsAccount(account) {
		return nil, invalid("The access key ID does not exist.")
	}
	return keyResult{account}, nil
}

// Characters that parameters may have, by the API's model.
var (
	wordChars     = lazy(`^\w*$`)
	nameChars     = lazy(`^[\w+=,.@-]*$`)
	externalChars = lazy(`^[\w+=,.@:/-]*$`)
	digits        = lazy(`^[0-9]*$`)
)

// check holds a parameter, if it was sent, against length and characters.
func (q *request) check(name string, shortest, longest int, chars *regexp.Regexp) error {
	if !q.form.Has(name) {
		return nil
	}
	return constrain(field(name), q.form.Get(name), shortest, longest, chars)
}

func constrain(at, value string, shortest, longest int, chars *regexp.Regexp) error {
	n := utf8.RuneCountInString(value)
	switch {
	case n < shortest:
		return constraint(value, at, fmt.Sprintf("Member must have length greater than or equal to %d", shortest))
	case n > longest:
		return constraint(value, at, fmt.Sprintf("Member must have length less than or equal to %d", longest))
	case chars != nil && !chars.MatchString(value):
		return constraint(value, at, "Member must satisfy regular expression pattern: "+strings.Trim(chars.String(), "^$"))
	}
	return nil
}

// duration reads DurationSeconds.
func (q *request) duration(byDefault, shortest, longest time.Duration) (time.Duration, error) {
	v := q.form.Get("DurationSeconds")
	if v == "" {
		return byDefault, nil
	}
	n, err := strconv.Atoi(v)
	low, high := int(shortest/time.Second), int(longest/time.Second)
	switch {
	case err != nil:
		return 0, fail(400, "MalformedInput", "")
	case n < low:
		return 0, constraint(v, "durationSeconds", fmt.Sprintf("Member must have value greater than or equal to %d", low))
	case n > high:
		return 0, constraint(v, "durationSeconds", fmt.Sprintf("Member must have value less than or equal to %d", high))
	}
	return time.Duration(n) * time.Second, nil
}

func denied(message string) error   { return fail(403, "AccessDenied", message) }
func invalid(message string) error  { return fail(400, "ValidationError", message) }
func badValue(message string) error { return fail(400, "InvalidParameterValue", message) }

func constraint(value, name, rule string) error {
	shown := fmt.Sprintf("Value '%s' at", value)
	if slices.Contains([]string{"webIdentityToken", "sAMLAssertion", "tradeInToken"}, name) {
		shown = "Value at" // secrets are not repeated
	}
	return invalid(fmt.Sprintf("1 validation error detected: %s '%s' failed to satisfy constraint: %s", shown, name, rule))
}

// field is a parameter as error messages name it.
func field(name string) string { return strings.ToLower(name[:1]) + name[1:] }

// lazy compiles an expression at its first use: the program that holds the demo
// is a daemon nearly all the time.
func lazy(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}
