// Package custody hands out long-term credentials from where they rest. It
// implements [broker.Keys].
//
// A kind of custody is a function, a [Source]; a [Set] is the table of them by
// name. A new kind is one function that returns such a function, and one line where
// the set is filled:
//
//	set := custody.Set{}
//	set["work"] = custody.File(credentialsFile, "work")
//	set["ci"] = custody.Systemd(os.Getenv("CREDENTIALS_DIRECTORY"), "ci")
//	set["home"] = kept.Source("home")
//	set[custody.ProfileKey("dev")] = custody.Profile(configFile, credentialsFile, "dev")
//
// [Kept] is the keys that stsbroker keeps itself, and so can add, remove and rotate;
// where it keeps them is a [Chest]: the sealed file, the keyring of the system.
//
// Names never clash: those of stsbroker.yaml hold no colon ([ValidName]), those
// of keys that stand in AWS profiles begin with "aws:" ([ProfileKey]).
//
// Every error of a Source is a [*broker.Error] of [broker.KindConfig] that names the
// file, the section and what to do, and never a value; while the key's chest is locked
// it is [broker.Locked]. Only a context that ends gives its own.
package custody

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/stsbroker/stsbroker/broker"
)

// Source reads one long-term key from where it rests. It is called at every
// mint, and may be called from several goroutines at once.
type Source func(ctx context.Context) (broker.Material, error)

// Set is long-term keys by name. It must not change while it is in use.
type Set map[string]Source

var _ broker.Keys = Set(nil)

// Key returns the key of that name as it is at this moment.
func (s Set) Key(ctx context.Context, name string) (broker.Material, error) {
	source, ok := s[name]
	if !ok {
		return broker.Material{}, fault("there is no key %q: name one that is listed under keys in stsbroker.yaml", name)
	}
	return source(ctx)
}

// ProfileKey is the name in a [Set] of the key that stands in an AWS profile.
func ProfileKey(profile string) string { return "aws:" + profile }

var keyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.@+-]*$`)

// ValidName reports whether a key of stsbroker.yaml may have this name.
func ValidName(name string) bool { return len(name) <= 64 && keyName.MatchString(name) }

// Env is the key in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, read here and
// never again.
//
// Session credentials are refused: they cannot mint a session. [EnvSession] takes them.
func Env(getenv func(string) string) Source {
	return fromEnv(getenv, half{"AWS_SESSION_TOKEN", getenv("AWS_SESSION_TOKEN")}, broker.Secret{})
}

// EnvSession is like [Env], and takes session credentials too: they can sign for
// a role (credential_source = Environment). When they expire is not known; STS
// says so when it comes to it.
func EnvSession(getenv func(string) string) Source {
	return fromEnv(getenv, half{}, broker.NewSecret(getenv("AWS_SESSION_TOKEN")))
}

func fromEnv(getenv func(string) string, refused half, token broker.Secret) Source {
	m, err := material("the environment", half{"AWS_ACCESS_KEY_ID", getenv("AWS_ACCESS_KEY_ID")},
		half{"AWS_SECRET_ACCESS_KEY", getenv("AWS_SECRET_ACCESS_KEY")}, refused)
	m.SessionToken = token
	return func(context.Context) (broker.Material, error) { return m, err }
}

// half is one value of a key pair and what it is called where it rests.
type half struct{ name, value string }

// plausible reports whether this is an access key id. AWS's have a form; those of
// stores that speak STS may be anything that can stand in a signature's
// credential scope, but do not look like a secret that was pasted in its place:
// an id is not kept secret.
func plausible(id string) bool {
	if strings.HasPrefix(id, "AKIA") || strings.HasPrefix(id, "ASIA") {
		return broker.ValidKeyID(id)
	}
	return len(id) <= 128 && printable(id) && !strings.ContainsAny(id, "/+,=")
}

// material checks a pair that was found in a place.
func material(where string, id, secret, token half) (broker.Material, error) {
	none := broker.Material{}
	switch {
	case id.value == "" && secret.value == "":
		return none, fault("there is no key in %s: put %s and %s there", where, id.name, secret.name)
	case id.value == "":
		return none, fault("%s is missing from %s, or empty: add it", id.name, where)
	case secret.value == "":
		return none, fault("%s is missing from %s, or empty: add it", secret.name, where)
	case token.value != "":
		return none, fault("the key in %s is temporary (%s), and cannot mint others: put a long-term key there", where, token.name)
	case !plausible(id.value):
		return none, fault("%s in %s is not an access key id: copy it again", id.name, where)
	case !printable(secret.value):
		return none, fault("%s in %s is not a secret access key (it holds blanks or characters that do not print): copy it again", secret.name, where)
	}
	return broker.Material{AccessKeyID: id.value, SecretAccessKey: broker.NewSecret(secret.value)}, nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func fault(format string, args ...any) error {
	return &broker.Error{Kind: broker.KindConfig, Public: fmt.Sprintf(format, args...)}
}
