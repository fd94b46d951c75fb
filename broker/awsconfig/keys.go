package awsconfig

import (
	"strings"

	"github.com/stsbroker/stsbroker/internal/awsini"
)

// The keys that say how to get credentials.
const (
	keyRoleARN          = "role_arn"
	keySourceProfile    = "source_profile"
	keyCredentialSource = "credential_source"
	keyExternalID       = "external_id"
	keySessionName      = "role_session_name"
	keyDuration         = "duration_seconds"
	keyMFASerial        = "mfa_serial"
	keyWebIdentity      = "web_identity_token_file"
	keyProcess          = "credential_process"
	keyLoginSession     = "login_session"
	keyRegion           = "region"
)

// The keys of IAM Identity Center. The first three may stand in a profile; the
// others belong to the section that sso_session names, and in the older form to
// the profile itself.
const (
	prefixSSO     = "sso_"
	keySSOSession = "sso_session"
	keySSOAccount = "sso_account_id"
	keySSORole    = "sso_role_name"
	keySSORegion  = "sso_region"
	keySSOURL     = "sso_start_url"
	keySSOScopes  = "sso_registration_scopes"
)

// The keys that say how STS is called. They are no credential keys: other
// services are called by them too.
const (
	keyRegionalSTS = "sts_regional_endpoints"
	keyFIPS        = "use_fips_endpoint"
	keyDualStack   = "use_dualstack_endpoint"
	keyIgnoreURLs  = "ignore_configured_endpoint_urls"
	keyEndpointURL = "endpoint_url"
	keyServices    = "services"
	keyCABundle    = "ca_bundle"
)

// kindKeys returns the keys of which the Go SDK lets a profile have one only.
func kindKeys() []string {
	return []string{keySourceProfile, keyCredentialSource, keyProcess, keyWebIdentity}
}

// ssoKeys returns the keys of IAM Identity Center.
func ssoKeys() []string {
	return []string{keySSOSession, keySSOAccount, keySSORole, keySSORegion, keySSOURL, keySSOScopes}
}

// definingKey reports whether a key alone makes a profile one that is meant to
// have credentials. The others only refine how.
func definingKey(key string) bool {
	switch key {
	case awsini.KeyID, awsini.SecretKey, awsini.SessionToken, keyRoleARN, keySourceProfile,
		keyCredentialSource, keyWebIdentity, keyProcess, keyLoginSession:
		return true
	}
	return strings.HasPrefix(key, prefixSSO)
}

// credentialKey reports whether a key has to do with getting credentials.
func credentialKey(key string) bool {
	switch key {
	case keyExternalID, keySessionName, keyDuration, keyMFASerial:
		return true
	case "aws_security_token": // botocore's older name of the session token
		return true
	}
	return definingKey(key)
}
