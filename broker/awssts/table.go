package awssts

import (
	"slices"
	"strings"

	"github.com/stsbroker/stsbroker/broker"
)

// row says what codes of an issuer mean, and what is to be done about them.
type row struct {
	codes   string   // separated by spaces, as are actions
	actions string   // "": all
	words   []string // the issuer's message holds one of these, in any case; nil: whatever it says
	kind    broker.Kind
	own     bool   // as in [broker.Error]
	signer  bool   // as in [broker.Error]
	next    string // the step that mends it; "": none, it passes
}

const (
	webIdentity = "AssumeRoleWithWebIdentity"
	saml        = "AssumeRoleWithSAML"

	// Calls that mint nothing: a command makes them, once.
	queries = "GetCallerIdentity DecodeAuthorizationMessage GetAccessKeyInfo GetWebIdentityToken"
)

const (
	denied      = "AccessDenied AccessDeniedException NotAuthorized UnauthorizedOperation"
	expired     = "ExpiredToken ExpiredTokenException"
	rejected    = "IDPRejectedClaim IDPRejectedClaimException InvalidIdentityToken InvalidIdentityTokenException"
	invalid     = "InvalidToken InvalidTokenId TokenRefreshRequired"
	unsignable  = "SignatureDoesNotMatch InvalidSignatureException AuthFailure"
	incomplete  = "IncompleteSignature IncompleteSignatureException"
	tooLarge    = "PackedPolicyTooLarge PackedPolicyTooLargeException"
	validations = "ValidationError ValidationException InvalidParameterValue"
)

const (
	reachProvider = "it is tried again by itself; if this stays, check that the identity provider's issuer URL answers from the internet"
	staleToken    = "the identity token has expired: check what renews its file or command, which is read again at every try"
	clock         = "check the clock of this host"
	wrongRegion   = "check the region and the endpoint: they do not belong together"
	renewed       = "they are renewed first, once; if this stays, run stsbroker refresh on the profile they come from"
)

// table is what is known of the codes of STS: those of its API reference and of
// the errors that are common to AWS's services, of the SDK's service model and
// its list of throttling codes, and what Ceph RGW, MinIO, VersityGW and moto say
// for the same. The first row that fits counts, so of one code the rows that
// look at the words come first, then those of one action, then the rest.
//
// docs/errors.md is made of it.
var table = []row{
	// It passes.
	{
		codes: "Throttling ThrottlingException ThrottledException RequestThrottled RequestThrottledException RequestLimitExceeded TooManyRequests " +
			"TooManyRequestsException BandwidthLimitExceeded LimitExceededException ProvisionedThroughputExceededException EC2ThrottledException " +
			"TransactionInProgressException PriorRequestNotComplete SlowDown SlowDownRead SlowDownWrite",
		kind: broker.KindThrottled,
	},
	{
		codes: "InternalFailure InternalError InternalServerError InternalServerException InternalServiceError InternalServiceException ServiceFailure " +
			"ServiceUnavailable ServiceUnavailableException RequestTimeout RequestTimeoutException RequestAbortedException MalformedHttpRequestException " +
			"ConcurrentModificationException STSNotInitialized STSIAMNotInitialized XMinioServerNotInitialized XMinioIAMNotInitialized",
		kind: broker.KindUnavailable,
	},

	// It passes too, when whoever hands out tokens does its part. Nothing of it is
	// the fault of STS.
	{codes: "IDPCommunicationError IDPCommunicationErrorException OpenIdIdpCommunicationError", kind: broker.KindUnavailable, own: true, next: reachProvider},
	{codes: rejected, words: []string{"verification key"}, kind: broker.KindUnavailable, own: true, next: reachProvider},
	{codes: expired, actions: webIdentity, kind: broker.KindUnavailable, own: true, next: staleToken},
	{codes: rejected + " InvalidParameterValue", actions: webIdentity, words: []string{"expired"}, kind: broker.KindUnavailable, own: true, next: staleToken}, // MinIO says the latter
	{
		codes: expired, actions: saml, kind: broker.KindUnavailable, own: true,
		next: "STS takes an assertion for a few minutes after its issue: check what renews its file or command, which is read again at every try",
	},
	{
		codes: rejected, actions: saml, words: []string{"expired"}, kind: broker.KindUnavailable, own: true,
		next: "the SAML assertion has expired: check what renews its file or command, which is read again at every try",
	},
	{
		codes: "ExpiredTradeInTokenException", kind: broker.KindUnavailable, own: true,
		next: "the trade-in token has expired: ask for a new one; its file or command is read again at every try",
	},

	// The session credentials that signed.
	{
		codes: "ExpiredTokenException", actions: "AssumeRole", kind: broker.KindDenied, signer: true,
		next: "the session credentials that sign this call, or a context assertion that goes with it, have expired: " + renewed,
	},
	{codes: expired, kind: broker.KindDenied, signer: true, next: "the session credentials that sign this call have expired: " + renewed},
	{
		codes: invalid, actions: webIdentity + " " + saml, kind: broker.KindDenied,
		next: "check what hands out the token: its file or command may hold something else",
	},
	{codes: invalid, kind: broker.KindDenied, signer: true, next: "the session credentials that sign this call are not accepted any more: " + renewed},

	// The second factor.
	{
		codes: denied, words: []string{"must provide both mfa serial"}, kind: broker.KindConfig,
		next: "name the device as mfa_serial: a code and a device go together",
	},
	{
		codes: denied, words: []string{"verify your mfa serial"}, kind: broker.KindConfig,
		next: "check mfa_serial: it must be a device of the user whose keys sign this call",
	},
	{
		codes: denied, words: []string{"multifactorauthentication failed"}, kind: broker.KindDenied,
		next: "every code works once: wait for the next code of the device, then run stsbroker login again",
	},

	// Callers of the wrong kind.
	{
		codes: denied, words: []string{"assumed by root accounts"}, kind: broker.KindConfig,
		next: "the root user's keys cannot do this: name the keys of an IAM user, or a role, as source",
	},
	{
		codes: denied, words: []string{"with session credentials"}, actions: "GetSessionToken GetFederationToken", kind: broker.KindConfig,
		next: "session credentials cannot do this: name long-term keys of an IAM user as source",
	},

	// Permissions.
	{
		codes: denied, words: []string{strings.ToLower(encodedWords)}, kind: broker.KindDenied,
		next: "run stsbroker decode on the encoded message, which is in the broker's log: it names the policy that denies",
	},
	{
		codes: denied, words: []string{"explicit deny"}, kind: broker.KindDenied,
		next: "no permission outweighs an explicit deny: whoever owns the policy that these words name must lift it",
	},
	{
		codes: denied, words: []string{"sts:tagsession"}, kind: broker.KindDenied,
		next: "allow sts:TagSession as well, in the role's trust policy and the caller's policies, or send no tags",
	},
	{
		codes: denied, words: []string{"sts:setsourceidentity"}, kind: broker.KindDenied,
		next: "allow sts:SetSourceIdentity as well, in the role's trust policy and the caller's policies, or send no source_identity",
	},
	{
		codes: denied, words: []string{"sts:setcontext"}, kind: broker.KindDenied,
		next: "allow sts:SetContext as well, in the role's trust policy and the caller's policies, or send no provided_contexts",
	},
	{
		codes: denied, actions: "AssumeRole", kind: broker.KindDenied,
		next: "check the role's trust policy, the external id and MFA it may ask for, and that the caller's policies allow sts:AssumeRole on it",
	},
	{
		codes: denied, actions: webIdentity, kind: broker.KindDenied,
		next: "check that the role's trust policy allows sts:AssumeRoleWithWebIdentity to this identity provider, audience and subject",
	},
	{
		codes: denied, actions: saml, kind: broker.KindDenied,
		next: "check that the role's trust policy allows sts:AssumeRoleWithSAML to this identity provider, and its conditions",
	},
	{
		codes: denied, actions: "GetSessionToken", kind: broker.KindDenied,
		next: "it needs the long-term keys of an IAM user, and no policy that denies it",
	},
	{
		codes: denied, actions: "GetFederationToken", kind: broker.KindDenied,
		next: "it needs the long-term keys of an IAM user whose policies allow sts:GetFederationToken for this name",
	},
	{
		codes: denied, actions: "AssumeRoot", kind: broker.KindDenied,
		next: "the caller must be of the organization's management account, or the one it delegated IAM to, with sts:AssumeRoot and this task policy allowed; " +
			"the organization must have centralized root access",
	},
	{
		codes: denied, actions: "GetDelegatedAccessToken", kind: broker.KindDenied,
		next: "check that the caller's policies allow sts:GetDelegatedAccessToken, and that the trade-in token was meant for this caller",
	},
	{codes: denied, actions: "DecodeAuthorizationMessage", kind: broker.KindDenied, next: "the caller's policies must allow sts:DecodeAuthorizationMessage"},
	{codes: denied, actions: "GetAccessKeyInfo", kind: broker.KindDenied, next: "the caller's policies must allow sts:GetAccessKeyInfo"},
	{codes: denied, actions: "GetWebIdentityToken", kind: broker.KindDenied, next: "the caller's policies must allow sts:GetWebIdentityToken, with this audience and duration"},
	{
		codes: denied, actions: "GetCallerIdentity", kind: broker.KindDenied,
		next: "no policy of the caller can deny this, but that of a VPC endpoint can: check it, and which endpoint answers",
	},
	{codes: denied, kind: broker.KindDenied, next: "check the policies of the caller"},

	// Long-term keys and signatures.
	{
		codes: "InvalidClientTokenId InvalidAccessKeyId UnrecognizedClientException", kind: broker.KindDenied,
		next: "check in IAM that the access key exists and is active, and that this region is of its partition and enabled for its account",
	},
	{
		codes: "MissingAuthenticationToken MissingAuthenticationTokenException", kind: broker.KindDenied,
		next: "no signature arrived: check for a proxy that drops the Authorization header, and that the access key id is whole",
	},
	{codes: unsignable + " " + incomplete, words: []string{"signature expired", "not yet current", "date in credential scope"}, kind: broker.KindDenied, next: clock},
	{codes: "RequestTimeTooSkewed RequestExpired RequestInTheFuture", kind: broker.KindDenied, next: clock},
	{codes: unsignable + " " + incomplete, words: []string{"should be scoped to"}, kind: broker.KindConfig, next: wrongRegion},
	{codes: "AuthorizationHeaderMalformed", kind: broker.KindConfig, next: wrongRegion},
	{codes: unsignable, kind: broker.KindDenied, next: "check that the secret access key belongs to the access key id"},
	{codes: incomplete, kind: broker.KindDenied, next: "check that the access key id and the secret are whole, with nothing around them"},

	// Identity providers.
	{
		codes: rejected, words: []string{"no openidconnect provider"}, kind: broker.KindDenied,
		next: "create the identity provider of that issuer in IAM, in the role's account",
	},
	{
		codes: rejected, actions: webIdentity, kind: broker.KindDenied,
		next: "check the identity token: its issuer, audience and signature, and the identity provider in IAM",
	},
	{
		codes: rejected, actions: saml, kind: broker.KindDenied,
		next: "check the SAML assertion: its issuer, audience, signature, and the role and provider it names, against the provider's metadata in IAM",
	},
	{codes: rejected, kind: broker.KindDenied, next: "check the token that goes with this call: its issuer, audience, signature and life"},

	// Accounts.
	{
		codes: "OptInRequired AccountProblem PendingVerification Blocked", kind: broker.KindDenied,
		next: "check the state of the AWS account, and that this region is enabled for it",
	},
	{codes: "UserSuspended", kind: broker.KindDenied, next: "whoever runs the store has suspended the user, and can lift that"},
	{
		codes: "RegionDisabledException RegionDisabled", kind: broker.KindConfig,
		next: "activate STS for the region in IAM's account settings, or name another region, or fallback_regions",
	},
	{
		codes: "OutboundWebIdentityFederationDisabledException", kind: broker.KindConfig,
		next: "enable outbound web identity federation in IAM's account settings",
	},

	// What was asked for.
	{codes: "NoSuchEntity NoSuchEntityException", kind: broker.KindConfig, next: "check that what the profile names exists there, the role's ARN first"},
	{codes: "MalformedPolicyDocument MalformedPolicyDocumentException MalformedPolicy", kind: broker.KindConfig, next: "mend the session policy: these words say where"},
	{
		codes: tooLarge, actions: "GetDelegatedAccessToken", kind: broker.KindConfig,
		next: "whoever asked for the delegation must shorten the policies that go with it, then ask for a new trade-in token",
	},
	{
		codes: tooLarge, kind: broker.KindConfig,
		next: "shorten the inline policy, name fewer policy_arns, or send fewer and shorter tags (those inherited from the source count): all are packed into one limit",
	},
	{
		codes: "InvalidAuthorizationMessageException", kind: broker.KindConfig,
		next: "give the whole message, without line breaks; one that is too old cannot be decoded",
	},
	{
		codes: "SessionDurationEscalationException", kind: broker.KindConfig,
		next: "ask for a shorter duration: the token may not outlive the session that asks for it",
	},
	{codes: "JWTPayloadSizeExceededException", kind: broker.KindConfig, next: "send fewer or shorter tags"},
	{
		codes: validations, words: []string{"durationseconds", "maxsessionduration"}, kind: broker.KindConfig,
		next: "ask for a duration within these limits; a role's is its maximum session duration, and 1h where session credentials sign",
	},
	{
		codes: validations + " InvalidParameterCombination InvalidParameter InvalidQueryParameter InvalidArgument InvalidInput InvalidRequest MissingParameter " +
			"MalformedInput MalformedQueryString UnknownParameter LimitExceeded",
		kind: broker.KindConfig, next: "mend the value that these words name",
	},
	{
		codes: "RequestEntityTooLarge RequestEntityTooLargeException EntityTooLarge", kind: broker.KindConfig,
		next: "what is sent is too long: shorten the policy, the tags or the token",
	},

	// Where it was asked.
	{
		codes: "InvalidAction MissingAction NoSuchVersion UnknownOperationException UnsupportedOperation NotImplemented MethodNotAllowed NoSuchBucket NoSuchKey",
		kind:  broker.KindConfig, next: "this endpoint does not know the action: check which endpoint answers",
	},
	{codes: "InsecureConnection", kind: broker.KindConfig, next: "this endpoint takes https only: write its URL so"},
}

// meaning looks a code up. What is not known passes, as far as anybody can tell.
func meaning(code, action, words string) (r row, known bool) {
	words = strings.ToLower(strings.Join(strings.Fields(words), " "))
	for _, r := range table {
		if r.fits(code, action, words) {
			return r, true
		}
	}
	return row{kind: broker.KindUnavailable}, false
}

// fits takes words in lower case.
func (r row) fits(code, action, words string) bool {
	return slices.Contains(strings.Fields(r.codes), code) &&
		(r.actions == "" || slices.Contains(strings.Fields(r.actions), action)) &&
		(r.words == nil || slices.ContainsFunc(r.words, func(w string) bool { return strings.Contains(words, w) }))
}

// again is the next step where there is none to take.
func again(action string) string {
	if slices.Contains(strings.Fields(queries), action) {
		return "try again"
	}
	return "it is tried again by itself"
}
