package process

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// answer is what a credential process prints, version 1.
type answer struct {
	Version         json.Number
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey string
	SessionToken    string
	Expiration      string // RFC 3339
	AccountID       string `json:"AccountId"`
}

// fault is why an answer is not taken. It holds nothing of the answer.
type fault struct {
	kind broker.Kind
	text string
}

// parse returns the credentials in what a command printed by now. There is no
// clock but the host's to go by.
func parse(out []byte, now time.Time) (broker.Credentials, *fault) {
	var a answer
	if err := json.Unmarshal(out, &a); err != nil {
		// The error's own text may quote the answer.
		var field *json.UnmarshalTypeError
		if errors.As(err, &field) && field.Field != "" {
			return broker.Credentials{}, &fault{broker.KindConfig, "printed a JSON object in which " + field.Field + " has the wrong type"}
		}
		return broker.Credentials{}, &fault{broker.KindConfig, "did not print one JSON object and nothing else"}
	}
	expires, err := time.Parse(time.RFC3339, a.Expiration)
	switch {
	case a.Version.String() != "1":
		return broker.Credentials{}, &fault{broker.KindConfig, `printed no "Version": 1, the one version there is`}
	case a.AccessKeyID == "":
		return broker.Credentials{}, &fault{broker.KindConfig, "printed no AccessKeyId"}
	case a.SecretAccessKey == "":
		return broker.Credentials{}, &fault{broker.KindConfig, "printed no SecretAccessKey"}
	case a.SessionToken == "":
		return broker.Credentials{}, &fault{broker.KindConfig, "printed long-term keys (there is no SessionToken), and those are never served; " +
			"keep them as a key, and make this a session or role profile over it"}
	case a.Expiration == "":
		return broker.Credentials{}, &fault{broker.KindConfig, "printed no Expiration: nobody could tell when to renew, nor when the credentials are dead"}
	case err != nil:
		return broker.Credentials{}, &fault{broker.KindConfig, "printed an Expiration that is not RFC 3339, such as 2026-01-02T15:04:05Z"}
	case !expires.After(now):
		return broker.Credentials{}, &fault{broker.KindUnavailable, "printed credentials that had expired " + now.Sub(expires).Round(time.Second).String() + " ago; does it keep a cache?"}
	}
	return broker.Credentials{
		AccessKeyID:     a.AccessKeyID,
		SecretAccessKey: broker.NewSecret(a.SecretAccessKey),
		SessionToken:    broker.NewSecret(a.SessionToken),
		AccountID:       a.AccountID,
		Issued:          now.Round(0),
		Expires:         expires,
	}, nil
}
