package ambient

import (
	"context"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// Variables of the environment, as all AWS SDKs name them.
const (
	varKeyID     = "AWS_ACCESS_KEY_ID"
	varSecretKey = "AWS_SECRET_ACCESS_KEY"
	varToken     = "AWS_SESSION_TOKEN"

	// varExpiration is beside session credentials where `aws configure
	// export-credentials --format env` or aws-vault put them there.
	varExpiration = "AWS_CREDENTIAL_EXPIRATION"
)

// EnvironmentMinter passes the session credentials of an environment through
// until they expire. It is a [broker.Minter], if one that cannot renew: the
// environment of a process never changes.
type EnvironmentMinter struct{ set broker.Credentials }

var _ broker.Minter = (*EnvironmentMinter)(nil)

// NewEnvironment reads the session credentials of an environment, once. Its
// error is of [broker.KindConfig]: they are not there, or without an expiry that
// can be read, and nobody could tell when they are dead.
func NewEnvironment(getenv func(string) string) (*EnvironmentMinter, error) {
	keys := WithOldNames(getenv)
	expires, err := time.Parse(time.RFC3339, getenv(varExpiration))
	switch {
	case keys(varKeyID) == "" || keys(varSecretKey) == "" || getenv(varToken) == "":
		return nil, badEnvironment("there are no session credentials in the environment: " + varKeyID + ", " + varSecretKey + " and " + varToken +
			" are not all set where stsbroker serve runs")
	case getenv(varExpiration) == "":
		return nil, badEnvironment("the session credentials in the environment are not served, because nothing says when they expire; set " + varExpiration +
			" too, as `aws configure export-credentials --format env` does, or name a profile instead")
	case err != nil:
		return nil, badEnvironment(varExpiration + " is not RFC 3339, such as 2026-01-02T15:04:05Z")
	}
	return &EnvironmentMinter{broker.Credentials{
		AccessKeyID:     keys(varKeyID),
		SecretAccessKey: broker.NewSecret(keys(varSecretKey)),
		SessionToken:    broker.NewSecret(getenv(varToken)),
		AccountID:       getenv("AWS_ACCOUNT_ID"),
		Expires:         expires,
	}}, nil
}

// Mint returns the credentials, with the life that they have left by the host's
// clock; there is no other to go by. Once they have expired it is an error of
// [broker.KindConfig], because trying again mends nothing.
func (m *EnvironmentMinter) Mint(context.Context, broker.MintInput) (broker.Credentials, error) {
	c := m.set
	c.Issued = time.Now().Round(0)
	if !c.Expires.After(c.Issued) {
		return broker.Credentials{}, badEnvironment("the session credentials in the environment expired at " + c.Expires.UTC().Format(time.RFC3339) +
			"; start stsbroker serve from an environment with fresh ones, or name a profile instead")
	}
	return c, nil
}

// Digest implements [broker.Minter]. No two sets share a key id.
func (m *EnvironmentMinter) Digest() broker.Digest {
	return broker.DigestOf("environment session", m.set.AccessKeyID, m.set.Expires.UTC().Format(time.RFC3339Nano))
}

func badEnvironment(text string) error {
	return &broker.Error{Kind: broker.KindConfig, Public: text}
}
