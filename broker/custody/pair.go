package custody

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stsbroker/stsbroker/broker"
)

const (
	recordVersion = 1
	recordLimit   = 16 << 10 // bytes; more than the longest keys need
	maxProfile    = 128      // bytes of the name of an AWS profile
	maxOwner      = 128      // bytes of an account or of a user's name; IAM allows 64
	maxSecret     = 512      // bytes; AWS's have 40, those of stores may be longer
)

// Pair is an access key: the long-term credentials of an IAM user. Printing it does
// not print the secret.
type Pair struct {
	KeyID   string
	Secret  broker.Secret
	Created time.Time // as IAM says it; zero where nobody said
}

// Material is the pair as it signs.
func (p Pair) Material() broker.Material {
	return broker.Material{AccessKeyID: p.KeyID, SecretAccessKey: p.Secret}
}

// check refuses what cannot be a long-term key, in words that name the place.
func (p Pair) check(where string) error {
	if strings.HasPrefix(p.KeyID, "ASIA") { // the prefix of session credentials (IAM user guide, "Unique identifiers")
		return fault("the key in %s is temporary (its id begins with ASIA), and cannot mint others: give a long-term key, whose id begins with AKIA", where)
	}
	if _, err := material(where, half{"the access key id", p.KeyID}, half{"the secret access key", p.Secret.Reveal()}, half{}); err != nil {
		return err
	}
	if len(p.Secret.Reveal()) > maxSecret {
		return fault("the secret access key in %s is longer than %d characters: copy it again", where, maxSecret)
	}
	return nil
}

// Record is a key at rest, and how far its rotation is. The account, the user and the
// times are for people and for the rotation; nothing signs with them.
type Record struct {
	Current Pair // what signs

	// Lineage is the id of the first key of this user that was kept under the name. It
	// stays over rotations, so that leases do too (broker.Profile.Signer).
	Lineage string

	Creating time.Time // when a rotation began to ask for a new key of which nothing is known yet, by IAM's clock; zero for none
	Next     *Pair     // made by a rotation, not yet in use
	Old      *OldKey   // what a rotation replaced, and IAM still has

	Account string // twelve digits, from GetCallerIdentity; "" unknown
	User    string // likewise: the IAM user's name, "" unknown
	Profile string // the AWS profile that the key stands in for; "" for none
	Added   time.Time
}

// OldKey is a key that is no longer in use, and that the user's account still has.
// Its secret is gone.
type OldKey struct {
	KeyID       string
	Inactive    bool
	Since       time.Time // when it was made inactive; zero unknown
	DeleteAfter time.Time
}

// recordJSON is a [Record] as it rests; the secrets in it are the reason why it is
// only ever made for a chest.
type recordJSON struct {
	Version  int       `json:"version"`
	Current  pairJSON  `json:"current"`
	Lineage  string    `json:"lineage"`
	Creating time.Time `json:"creating,omitzero"`
	Next     *pairJSON `json:"next,omitempty"`
	Old      *oldJSON  `json:"old,omitempty"`
	Account  string    `json:"account,omitempty"`
	User     string    `json:"user,omitempty"`
	Profile  string    `json:"profile,omitempty"`
	Added    time.Time `json:"added,omitzero"`
}

type pairJSON struct {
	KeyID   string    `json:"key_id"`
	Secret  string    `json:"secret"`
	Created time.Time `json:"created,omitzero"`
}

type oldJSON struct {
	KeyID       string    `json:"key_id"`
	Inactive    bool      `json:"inactive,omitempty"`
	Since       time.Time `json:"since,omitzero"`
	DeleteAfter time.Time `json:"delete_after,omitzero"`
}

func (p Pair) stored() pairJSON {
	return pairJSON{p.KeyID, p.Secret.Reveal(), utc(p.Created)}
}

func (p pairJSON) pair() Pair { return Pair{p.KeyID, broker.NewSecret(p.Secret), p.Created} }

// utc drops the monotonic part and the zone; the zero time stays zero.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Round(0)
}

// encode returns the bytes for a chest, of a record that was checked.
func (r Record) encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	j := recordJSON{
		Version: recordVersion, Current: r.Current.stored(), Lineage: r.Lineage, Creating: utc(r.Creating),
		Account: r.Account, User: r.User, Profile: r.Profile, Added: utc(r.Added),
	}
	if r.Next != nil {
		next := r.Next.stored()
		j.Next = &next
	}
	if r.Old != nil {
		j.Old = &oldJSON{r.Old.KeyID, r.Old.Inactive, utc(r.Old.Since), utc(r.Old.DeleteAfter)}
	}
	raw, err := json.Marshal(j)
	switch {
	case err != nil: // a time of the year 10000
		return nil, errors.New("the record of the key has a time that cannot be written")
	case len(raw) > recordLimit:
		return nil, fmt.Errorf("the record of the key is longer than %d bytes", recordLimit)
	}
	return raw, nil
}

// decodeRecord reads what encode wrote. The error never quotes it.
func decodeRecord(raw []byte) (Record, error) {
	if len(raw) > recordLimit {
		return Record{}, fmt.Errorf("it is longer than %d bytes", recordLimit)
	}
	var head struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(raw, &head) == nil && head.Version > recordVersion {
		return Record{}, fmt.Errorf("it has version %d, and this stsbroker knows %d: use the newer stsbroker that wrote it", head.Version, recordVersion)
	}
	var j recordJSON
	if strict(raw, &j) != nil || j.Version != recordVersion {
		return Record{}, errors.New("it is damaged: it is no record of a key")
	}
	r := Record{
		Current: j.Current.pair(), Lineage: j.Lineage, Creating: j.Creating,
		Account: j.Account, User: j.User, Profile: j.Profile, Added: j.Added,
	}
	if j.Next != nil {
		next := j.Next.pair()
		r.Next = &next
	}
	if j.Old != nil {
		r.Old = &OldKey{j.Old.KeyID, j.Old.Inactive, j.Old.Since, j.Old.DeleteAfter}
	}
	if r.check() != nil {
		return Record{}, errors.New("it is damaged: a part of the key is missing")
	}
	return r, nil
}

func (r Record) check() error {
	if err := r.Current.check("the record"); err != nil {
		return err
	}
	if r.Next != nil {
		if err := r.Next.check("the record's next key"); err != nil {
			return err
		}
		if r.Next.KeyID == r.Current.KeyID {
			return fault("the next key is the one that is in use")
		}
	}
	switch {
	case !plausible(r.Lineage) || r.Lineage == "":
		return fault("the record of the key has no lineage")
	case r.Old != nil && (r.Old.KeyID == "" || !plausible(r.Old.KeyID) || r.Old.KeyID == r.Current.KeyID):
		return fault("the record of the key has an old key that cannot be one")
	case len(r.Account) > maxOwner || !printable(r.Account):
		return fault("the account of the key is not one")
	case len(r.User) > maxOwner || !printable(r.User):
		return fault("the user of the key is not one")
	case r.Profile != "" && !validProfile(r.Profile):
		return fault("the AWS profile of the key has a name that does not print, or has more than %d bytes", maxProfile)
	}
	return nil
}

// validProfile reports whether an AWS profile that a key stands in for may have this
// name: AWS's files allow nearly any.
func validProfile(name string) bool {
	return name != "" && len(name) <= maxProfile && utf8.ValidString(name) && strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// strict decodes one JSON value and refuses unknown fields and what follows.
func strict(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the end")
	}
	return nil
}

// ParsePair reads an access key as people have it: two lines, the access key id and
// the secret access key, or the JSON that `aws iam create-access-key` prints. The
// error says what is wrong with it and never what is in it.
func ParsePair(text []byte) (Pair, error) { return parsePair("what was given", text) }

func parsePair(where string, text []byte) (Pair, error) {
	text = bytes.TrimSpace(bytes.TrimPrefix(text, []byte("\ufeff"))) // some editors begin a file with that mark
	var p Pair
	if bytes.HasPrefix(text, []byte("{")) {
		// The fields are those of IAM's AccessKey (IAM API reference, "AccessKey"); others may come.
		var j struct {
			AccessKey *struct {
				ID      string    `json:"AccessKeyId"`
				Secret  string    `json:"SecretAccessKey"`
				Status  string    `json:"Status"`
				Created time.Time `json:"CreateDate"`
			}
		}
		switch err := json.Unmarshal(text, &j); {
		case err != nil:
			return Pair{}, fault("%s is damaged JSON: give what aws iam create-access-key prints, whole, or two lines", where)
		case j.AccessKey == nil:
			return Pair{}, fault("%s is JSON without an AccessKey: give what aws iam create-access-key prints, or two lines", where)
		case j.AccessKey.Status != "" && j.AccessKey.Status != "Active":
			return Pair{}, fault("the key in %s is not active: activate it, or give another", where)
		}
		p = Pair{j.AccessKey.ID, broker.NewSecret(j.AccessKey.Secret), j.AccessKey.Created}
	} else {
		lines := strings.Split(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n")
		if len(lines) > 2 {
			return Pair{}, fault("%s has %d lines: give two, the access key id and the secret access key", where, len(lines))
		}
		p.KeyID = strings.TrimSpace(lines[0])
		if len(lines) == 2 {
			p.Secret = broker.NewSecret(strings.TrimSpace(lines[1]))
		}
	}
	if err := p.check(where); err != nil {
		return Pair{}, err
	}
	return p, nil
}
