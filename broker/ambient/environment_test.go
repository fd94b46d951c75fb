package ambient

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

func session(expiration string, more ...string) []string {
	return append([]string{varKeyID, "ASIAIOSFODNN7EXAMPLE", varSecretKey, canarySecret, varToken, canaryToken, varExpiration, expiration}, more...)
}

func TestEnvironmentSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		expires := time.Now().Add(time.Hour)
		for _, format := range []string{time.RFC3339, "2006-01-02T15:04:05-07:00", time.RFC3339Nano} { // aws-vault, the AWS CLI
			m, err := NewEnvironment(env(session(expires.Format(format), "AWS_ACCOUNT_ID", "123456789012")...))
			if err != nil {
				t.Fatal(err)
			}
			c, err := m.Mint(t.Context(), broker.MintInput{})
			if err != nil || c.AccessKeyID != "ASIAIOSFODNN7EXAMPLE" || c.SecretAccessKey.Reveal() != canarySecret || c.SessionToken.Reveal() != canaryToken ||
				c.AccountID != "123456789012" || !c.Expires.Equal(expires) || c.Lifetime() != time.Hour {
				t.Errorf("%s: %+v, %v", format, c, err)
			}
		}
		m, err := NewEnvironment(env(session(expires.Format(time.RFC3339))...))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(40 * time.Minute)
		if c, err := m.Mint(t.Context(), broker.MintInput{}); err != nil || c.Lifetime() != 20*time.Minute {
			t.Errorf("%+v, %v", c, err)
		}
		time.Sleep(20 * time.Minute)
		_, err = m.Mint(t.Context(), broker.MintInput{})
		expectError(t, "expired", err, broker.KindConfig, "expired at "+expires.UTC().Format(time.RFC3339)+"; start stsbroker serve")
	})
}

func TestEnvironmentRefused(t *testing.T) {
	whole := session("2100-01-02T15:04:05Z")
	if _, err := NewEnvironment(env(whole...)); err != nil {
		t.Fatal(err)
	}
	without := func(name string) []string {
		i := slices.Index(whole, name)
		return slices.Delete(slices.Clone(whole), i, i+2)
	}
	for name, c := range map[string]struct {
		env  []string
		want string
	}{
		"nothing":   {nil, "no session credentials in the environment"},
		"no id":     {without(varKeyID), "no session credentials"},
		"no secret": {without(varSecretKey), "no session credentials"},
		"no token":  {without(varToken), "no session credentials"},
		"no expiry": {without(varExpiration), "nothing says when they expire; set AWS_CREDENTIAL_EXPIRATION"},
		"seconds":   {session("4102585445"), "AWS_CREDENTIAL_EXPIRATION is not RFC 3339"},
		"no zone":   {session("2100-01-02T15:04:05"), "AWS_CREDENTIAL_EXPIRATION is not RFC 3339"},
		"secret":    {session(canarySecret), "AWS_CREDENTIAL_EXPIRATION is not RFC 3339"},
	} {
		_, err := NewEnvironment(env(c.env...))
		expectError(t, name, err, broker.KindConfig, c.want)
	}
}

func TestEnvironmentDigest(t *testing.T) {
	digest := func(pairs []string) broker.Digest {
		m, err := NewEnvironment(env(pairs...))
		if err != nil {
			t.Fatal(err)
		}
		return m.Digest()
	}
	a := digest(session("2100-01-02T15:04:05Z"))
	if b := digest(session("2100-01-02T16:04:05+01:00")); a != b {
		t.Error("one set, two digests")
	}
	if b := digest(session("2100-01-02T15:04:06Z")); a == b {
		t.Error("the digest is not of the expiry")
	}
	other := session("2100-01-02T15:04:05Z")
	other[1] = "ASIAIOSFODNN7ANOTHER"
	if b := digest(other); a == b {
		t.Error("the digest is not of the key id")
	}
}

func TestOldNames(t *testing.T) {
	get := WithOldNames(env(varKeyID, "new", "AWS_ACCESS_KEY", "old", "AWS_SECRET_KEY", "old", "OTHER", "x"))
	for name, want := range map[string]string{varKeyID: "new", varSecretKey: "old", "OTHER": "x", "AWS_SECRET_KEY": "old", varToken: ""} {
		if got := get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
