package stsfake

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// action is one operation of the STS API. Those of a later day are one entry more.
type action struct {
	signed bool
	params []string // the parameters that are known, and checked
	run    func(*request) (any, error)
}

var actions = map[string]action{
	"GetSessionToken":           {true, []string{"DurationSeconds"}, (*request).getSessionToken},
	"AssumeRole":                {true, []string{"RoleArn", "RoleSessionName", "DurationSeconds", "ExternalId"}, (*request).assumeRole},
	"AssumeRoleWithWebIdentity": {false, []string{"RoleArn", "RoleSessionName", "DurationSeconds", "WebIdentityToken"}, (*request).assumeRoleWithWebIdentity},
	"GetCallerIdentity":         {true, nil, (*request).getCallerIdentity},
}

var (
	sessionName = regexp.MustCompile(`^[\w+=,.@-]*$`)
	roleARN     = regexp.MustCompile(`^arn:aws[\w-]*:iam::(\d{12}):role/(?:[\w+=,.@/-]*/)?([\w+=,.@-]+)$`)
)

const chainLimit = time.Hour

func (q *request) getCallerIdentity() (any, error) {
	return identityResult{q.caller.ARN, q.caller.UserID, q.caller.Account}, nil
}

func (q *request) getSessionToken() (any, error) {
	if q.caller.Session {
		return nil, denied("Cannot call GetSessionToken with session credentials")
	}
	life, err := q.duration(12*time.Hour, 36*time.Hour)
	if err != nil {
		return nil, err
	}
	return sessionResult{q.issue(q.caller, life)}, nil
}

func (q *request) assumeRole() (any, error) {
	life, err := q.roleInput()
	if err != nil {
		return nil, err
	}
	role, ok := q.role(q.call.Target)
	if !ok || !q.trusted(role) || (role.ExternalID != "" && q.form.Get("ExternalId") != role.ExternalID) {
		return nil, denied(fmt.Sprintf("User: %s is not authorized to perform: sts:AssumeRole on resource: %s", q.caller.ARN, q.call.Target))
	}
	// Only a role's session makes a chain; a user's session does not.
	if q.caller.Role != "" && life > chainLimit {
		return nil, invalid("The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.")
	}
	return q.grantRole(role, life)
}

func (q *request) assumeRoleWithWebIdentity() (any, error) {
	life, err := q.roleInput()
	if err != nil {
		return nil, err
	}
	c, ok := q.readIdentityToken(q.form.Get("WebIdentityToken"))
	if !ok {
		return nil, fail(400, "InvalidIdentityToken", "Couldn't retrieve verification key from your identity provider,  please reference AssumeRoleWithWebIdentity documentation for requirements")
	}
	if exp := time.Unix(c.Expires, 0); !q.now.Before(exp) {
		return nil, fail(400, "ExpiredTokenException", fmt.Sprintf("Token expired: current date/time %d must be before the expiration date/time %d", q.now.Unix(), c.Expires))
	}
	role, ok := q.role(q.call.Target)
	if !ok || !slices.Contains(role.Subjects, c.Subject) {
		return nil, denied("Not authorized to perform sts:AssumeRoleWithWebIdentity")
	}
	granted, err := q.grantRole(role, life)
	if err != nil {
		return nil, err
	}
	granted.SubjectFromWebIdentityToken, granted.Audience, granted.Provider = c.Subject, c.Audience, c.Issuer
	return granted, nil
}

// roleInput checks what both ways to assume a role have in common.
func (q *request) roleInput() (time.Duration, error) {
	name := q.form.Get("RoleSessionName")
	switch {
	case len(name) < 2:
		return 0, constraint(name, "roleSessionName", "Member must have length greater than or equal to 2")
	case len(name) > 64:
		return 0, constraint(name, "roleSessionName", "Member must have length less than or equal to 64")
	case !sessionName.MatchString(name):
		return 0, constraint(name, "roleSessionName", `Member must satisfy regular expression pattern: [\w+=,.@-]*`)
	case !roleARN.MatchString(q.call.Target):
		return 0, invalid(q.call.Target + " is invalid")
	}
	return q.duration(time.Hour, 12*time.Hour)
}

func (q *request) grantRole(role Role, life time.Duration) (*roleResult, error) {
	limit := role.MaxSession
	if limit == 0 || q.fault.Kind == FaultDurationTooLong {
		limit = time.Hour
	}
	if life > limit {
		return nil, invalid("The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
	}
	m := roleARN.FindStringSubmatch(role.ARN)
	account, name := m[1], m[2] // the path is dropped, as AWS does
	partition := strings.Split(role.ARN, ":")[1]
	if q.fault.Kind == FaultWrongRole {
		name = "somebody-else"
	}
	session := q.form.Get("RoleSessionName")
	p := principal{
		ARN:     fmt.Sprintf("arn:%s:sts::%s:assumed-role/%s/%s", partition, account, name, session),
		UserID:  userID("AROA", role.ARN) + ":" + session,
		Account: account,
		Role:    role.ARN,
	}
	return &roleResult{AssumedRoleUser: xmlAssumedRoleUser{p.ARN, p.UserID}, Credentials: q.issue(p, life)}, nil
}

func (q *request) trusted(r Role) bool {
	return slices.ContainsFunc(r.Trust, func(t string) bool {
		switch t {
		case "*", q.caller.ARN, "arn:aws:iam::" + q.caller.Account + ":root":
			return true
		}
		return t != "" && t == q.caller.Role
	})
}

// duration reads DurationSeconds.
func (q *request) duration(byDefault, longest time.Duration) (time.Duration, error) {
	v := q.form.Get("DurationSeconds")
	if v == "" {
		return byDefault, nil
	}
	n, err := strconv.Atoi(v)
	switch {
	case err != nil:
		return 0, fail(400, "MalformedInput", "")
	case n < 900:
		return 0, constraint(v, "durationSeconds", "Member must have value greater than or equal to 900")
	case n > int(longest/time.Second):
		return 0, constraint(v, "durationSeconds", fmt.Sprintf("Member must have value less than or equal to %d", int(longest/time.Second)))
	}
	return time.Duration(n) * time.Second, nil
}

func denied(message string) error  { return fail(403, "AccessDenied", message) }
func invalid(message string) error { return fail(400, "ValidationError", message) }

func constraint(value, name, rule string) error {
	return invalid(fmt.Sprintf("1 validation error detected: Value '%s' at '%s' failed to satisfy constraint: %s", value, name, rule))
}
