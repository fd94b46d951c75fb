package ambient

import "cmp"

// LinkKind is a link of the chain along which AWS SDKs look for credentials.
type LinkKind uint8

// Links, in the order of the chain.
const (
	LinkEnvironmentKeys    LinkKind = iota + 1 // a long-term key in the environment
	LinkEnvironmentSession                     // session credentials there: [NewEnvironment]
	LinkWebIdentity                            // AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN and AWS_ROLE_SESSION_NAME
	LinkProfile                                // a profile of the AWS files
	LinkContainer                              // [ECS]
	LinkInstance                               // [EC2]
)

// Link is where the chain ends.
type Link struct {
	Kind    LinkKind
	Profile string // of [LinkProfile]; "" else
}

// Chain follows the default chain of the AWS SDK for Go v2, as its config
// package resolves it, which costs more memory than the rest of a daemon: the
// first link that is there counts, whether it works or not. The last one always
// is there.
//
// getenv looks up the environment. profile reports whether the AWS files say
// how to obtain credentials for a profile; it is asked for the one that
// AWS_PROFILE names, else AWS_DEFAULT_PROFILE, else "default". What is wrong
// with such a profile is not the chain's business, and profile answers true for
// one that cannot be served. The SDK refuses to start where AWS_PROFILE names a
// profile that is not in the files; that, too, is for those to say who know them.
func Chain(getenv func(string) string, profile func(name string) bool) Link {
	name := cmp.Or(getenv("AWS_PROFILE"), getenv("AWS_DEFAULT_PROFILE"), "default")
	keys := WithOldNames(getenv)
	switch {
	case keys(varKeyID) != "" && keys(varSecretKey) != "" && getenv(varToken) == "":
		return Link{Kind: LinkEnvironmentKeys}
	case keys(varKeyID) != "" && keys(varSecretKey) != "":
		return Link{Kind: LinkEnvironmentSession}
	case getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "":
		return Link{Kind: LinkWebIdentity}
	case profile(name):
		return Link{Kind: LinkProfile, Profile: name}
	case getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") != "", getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI") != "":
		return Link{Kind: LinkContainer}
	}
	return Link{Kind: LinkInstance}
}

// WithOldNames returns getenv with the values of AWS_ACCESS_KEY and
// AWS_SECRET_KEY under the names that replaced these, where those are not set:
// the SDK for Go takes both, and a key's halves may have names of either kind.
func WithOldNames(getenv func(string) string) func(string) string {
	return func(name string) string {
		switch name {
		case varKeyID:
			return cmp.Or(getenv(name), getenv("AWS_ACCESS_KEY"))
		case varSecretKey:
			return cmp.Or(getenv(name), getenv("AWS_SECRET_KEY"))
		}
		return getenv(name)
	}
}
