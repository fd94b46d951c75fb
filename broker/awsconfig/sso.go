package awsconfig

import (
	"net/url"
	"slices"
	"strings"

	"github.com/stsbroker/stsbroker/internal/awsini"
)

// hasSSO reports whether the profile gets credentials by IAM Identity Center: as in
// boto3, the account or the role says so. What names a session alone wants a token.
func (n *node) hasSSO() bool {
	_, account := n.Get(keySSOAccount)
	_, role := n.Get(keySSORole)
	return account || role
}

// anySSO returns the first of the profile's sso_ lines, zero for none.
func (n *node) anySSO() awsini.Property {
	for _, key := range ssoKeys() {
		if p, ok := n.Get(key); ok {
			return p
		}
	}
	return awsini.Property{}
}

// checkSSO refuses what must not be there, whichever way the profile goes: keys
// that nobody knows, and a session that is not there (so does the Go SDK).
func (r *resolver) checkSSO(n *node) error {
	for _, key := range n.Keys() {
		if strings.HasPrefix(key, prefixSSO) && !slices.Contains(ssoKeys(), key) {
			p, _ := n.Get(key)
			return n.atKey(p, "%s is none of %s: correct it, or remove the line", keyShown(key), strings.Join(ssoKeys(), ", "))
		}
	}
	if p, ok := n.Get(keySSOSession); ok && r.sessions[sessionName(p)] == nil {
		return n.atKey(p, "sso_session %s does not exist: correct the name, or add the section to the config file%s", awsini.Shown(sessionName(p)), r.hint())
	}
	return nil
}

func sessionName(p awsini.Property) string { return strings.TrimSpace(p.Value) }

// sso reads the profile's sso_ lines, by the rules of the Go SDK's
// validateSSOConfiguration and botocore's SSOProvider.
func (r *resolver) sso(n *node) (*SSO, error) {
	name, inSession := n.Get(keySSOSession)
	if inSession && !n.hasSSO() {
		n.settings = len(r.unread) == 0
		return nil, n.atKey(name, "sso_session without sso_account_id and sso_role_name is for programs that want a token of the sign-in, and gives no credentials: add both lines if it should%s", r.hint())
	}
	account, err := r.ssoValue(n, keySSOAccount)
	if err != nil {
		return nil, err
	}
	if len(account.Value) != 12 || strings.Trim(account.Value, "0123456789") != "" {
		return nil, n.atKey(account, "sso_account_id is not the number of an account: it has 12 digits, zeros in front included")
	}
	role, err := r.ssoValue(n, keySSORole)
	if err != nil {
		return nil, err
	}
	read := r.ssoValue
	if inSession {
		read = r.sessionValue
	}
	region, err := read(n, keySSORegion)
	if err != nil {
		return nil, err
	}
	if !validRegion(region.Value) {
		return nil, n.atKey(region, "sso_region is not the name of a region: correct it")
	}
	start, err := read(n, keySSOURL)
	if err != nil {
		return nil, err
	}
	if u, err := url.Parse(start.Value); err != nil || u.Scheme != "https" || u.Host == "" || strings.ContainsAny(start.Value, " \t") {
		return nil, n.atKey(start, "sso_start_url is not an address: copy it from the access portal (https://NAME.awsapps.com/start)")
	}
	sso := &SSO{StartURL: start.Value, Region: region.Value, AccountID: account.Value, RoleName: role.Value}
	if inSession {
		sso.Session = sessionName(name)
		sso.Scopes, err = r.scopes(n)
	}
	return sso, err
}

// ssoValue reads a line that the profile itself must have.
func (r *resolver) ssoValue(n *node, key string) (awsini.Property, error) {
	p, ok := n.Get(key)
	if ok {
		return p, nil
	}
	has := n.anySSO()
	needs := "a profile"
	if _, ok := n.Get(keySSOSession); !ok {
		needs = "a profile without sso_session"
	}
	return p, n.atKey(has, "%s is here, but %s is missing, which %s needs: add it%s", has.Key, key, needs, r.hint())
}

// sessionValue reads a line that the profile's session must have, and that the
// profile may repeat, in the same words.
func (r *resolver) sessionValue(n *node, key string) (awsini.Property, error) {
	p, section, err := r.inSession(n, key)
	if err == nil && p.Key == "" {
		name, _ := n.Get(keySSOSession)
		err = n.atKey(name, "[sso-session %s] (line %d) has no %s: add it there", awsini.Shown(section.Name), section.Line, key)
	}
	return p, err
}

func (r *resolver) scopes(n *node) ([]string, error) {
	p, _, err := r.inSession(n, keySSOScopes)
	if err != nil {
		return nil, err
	}
	scopes := strings.FieldsFunc(p.Value, func(c rune) bool { return c == ',' || c == ' ' || c == '\t' })
	if len(scopes) == 0 {
		return []string{DefaultScope}, nil
	}
	return scopes, nil
}

// inSession reads a line of the profile's session, zero for none.
func (r *resolver) inSession(n *node, key string) (awsini.Property, *awsini.Section, error) {
	name, _ := n.Get(keySSOSession)
	section := r.sessions[sessionName(name)] // there: see checkSSO
	if len(section.Faults) > 0 {
		f := section.Faults[0]
		return awsini.Property{}, section, n.at(f.File, f.Line, "%s", f.Message)
	}
	i := slices.IndexFunc(section.Properties, func(p awsini.Property) bool { return p.Key == key })
	if i < 0 {
		return awsini.Property{}, section, nil
	}
	p := section.Properties[i]
	if err := n.checkValue(p); err != nil {
		return p, section, err
	}
	if own, ok := n.Get(key); ok && own.Value != p.Value {
		return p, section, n.atKey(own, "%s is not what [sso-session %s] says at %s: make them the same, or remove the line here", key, awsini.Shown(section.Name), p.Place())
	}
	return p, section, nil
}
