package stsfake

import (
	"slices"
	"strings"
	"time"
)

var rootTarget = lazy(`^(?:arn:aws:iam::)?(\d{12})(?::root)?$`)

const taskPolicy = "arn:aws:iam::aws:policy/root-task/"

// assumeRoot lets principals of the managing account, which is [Account], do a
// task as the root user of a member account. The global endpoint is refused
// by AWS; a stand-in does not know by which name it was called.
func (q *request) assumeRoot() (any, error) {
	life, err := q.duration(15*time.Minute, 0, 15*time.Minute)
	if err != nil {
		return nil, err
	}
	if err := q.check("TargetPrincipal", 12, 2048, nil); err != nil {
		return nil, err
	}
	target := rootTarget().FindStringSubmatch(q.call.Target)
	if target == nil || strings.HasPrefix(q.call.Target, "arn:") != strings.HasSuffix(q.call.Target, ":root") {
		return nil, invalid(q.call.Target + " is invalid")
	}
	policy := q.form.Get("TaskPolicyArn.arn")
	name, ok := strings.CutPrefix(policy, taskPolicy)
	if !ok || !slices.Contains([]string{"IAMAuditRootUserCredentials", "IAMCreateRootUserPassword", "IAMDeleteRootUserCredentials", "S3UnlockBucketPolicy", "SQSUnlockQueuePolicy"}, name) {
		return nil, invalid(policy + " is invalid")
	}
	account := target[1]
	if q.caller.Account != Account || !q.isMember(account) {
		return nil, q.unauthorized(rootARN(account))
	}
	p := principal{Kind: kindTask, ARN: rootARN(account), UserID: account, Account: account, SourceIdentity: q.caller.SourceIdentity}
	return rootResult{q.issue(p, life), p.SourceIdentity}, nil
}

func (s *Server) isMember(account string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.members[account]
}

// knowsAccount reports whether anything of the account was added.
func (s *Server) knowsAccount(account string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if account == Account || s.members[account] {
		return true
	}
	for arn := range s.roles {
		if m := roleARN().FindStringSubmatch(arn); m != nil && m[1] == account {
			return true
		}
	}
	return false
}
