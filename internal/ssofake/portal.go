package ssofake

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// bearer is the token that a call of the portal shows.
func (s *Server) bearer(q *request) (*token, error) {
	shown := q.Header.Get("X-Amz-Sso_bearer_token")
	if shown == "" {
		return nil, invalid("accessToken is required")
	}
	t := s.access[shown]
	if t == nil || t.session.over(q.now) || !q.now.Before(t.expires) {
		return nil, fail(http.StatusUnauthorized, "UnauthorizedException", "Session token not found or invalid")
	}
	if len(t.scopes) > 0 && !slices.Contains(t.scopes, "sso:account:access") {
		return nil, fail(http.StatusForbidden, "ForbiddenException", "Insufficient scope")
	}
	return t, nil
}

func (s *Server) roleCredentials(q *request) (any, error) {
	query := q.URL.Query()
	account, role := query.Get("account_id"), query.Get("role_name")
	q.call.Role = account + "/" + role
	if len(account) != 12 || strings.Trim(account, "0123456789") != "" || role == "" {
		return nil, invalid("account_id and role_name are required")
	}
	if _, err := s.bearer(q); err != nil {
		return nil, err
	}
	if !s.assigned[q.call.Role] {
		for known := range s.assigned {
			if strings.HasPrefix(known, account+"/") {
				return nil, fail(http.StatusForbidden, "ForbiddenException", "No access")
			}
		}
		return nil, fail(http.StatusNotFound, "ResourceNotFoundException", "no account "+account)
	}
	c, err := s.issue(account, role, life(s.lives.Role, time.Hour))
	if err != nil {
		return nil, err
	}
	return map[string]any{"roleCredentials": map[string]any{
		"accessKeyId": c.AccessKeyID, "secretAccessKey": c.SecretAccessKey, "sessionToken": c.SessionToken, "expiration": c.Expires.UnixMilli(),
	}}, nil
}

func (s *Server) logout(q *request) (any, error) {
	t, err := s.bearer(q)
	if err != nil {
		return nil, err
	}
	t.session.revoked = true
	return nil, nil
}
