package custody

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

func pairOf(id, secret string) Pair { return Pair{KeyID: id, Secret: broker.NewSecret(secret)} }

func fullRecord() Record {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	next := pairOf(idB, secretB)
	next.Created = at.Add(time.Hour)
	current := pairOf(idA, secretA)
	current.Created = at
	return Record{
		Current: current, Lineage: "AKIAFIRSTFIRSTFIRST0", Creating: at.Add(time.Minute), Next: &next,
		Old: &OldKey{KeyID: "AKIAOLDOLDOLDOLDOLD0", Inactive: true, DeleteAfter: at.Add(24 * time.Hour)}, Account: "123456789012", User: "me@example", Profile: "my profile ü", Added: at,
	}
}

func TestParsePair(t *testing.T) {
	const created = `{"AccessKey": {"UserName": "me", "AccessKeyId": "` + idA + `", "Status": "Active", "SecretAccessKey": "` + secretA + `", "CreateDate": "2026-01-02T03:04:05+00:00", "Later": 1}}`
	for name, text := range map[string]string{
		"two lines":     idA + "\n" + secretA,
		"a line more":   idA + "\n" + secretA + "\n",
		"CRLF, blanks":  " " + idA + " \r\n " + secretA + " \r\n\r\n",
		"mark of order": "\ufeff" + idA + "\n" + secretA + "\n",
		"JSON":          created,
		"JSON, lines":   "\ufeff\n" + strings.ReplaceAll(created, ",", ",\r\n\t") + "\n",
	} {
		p, err := ParsePair([]byte(text))
		if err != nil || p.KeyID != idA || p.Secret.Reveal() != secretA {
			t.Errorf("%s: %s, %v", name, p.KeyID, err)
		}
		if want := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC); strings.HasPrefix(name, "JSON") != p.Created.Equal(want) {
			t.Errorf("%s: made at %v", name, p.Created)
		}
	}
	for text, want := range map[string]string{
		"":                                    "there is no key in what was given: put the access key id and the secret access key there",
		idA:                                   "the secret access key is missing from what was given, or empty: add it",
		"\n" + idA + "\n\n" + secretA:         "what was given has 3 lines: give two, the access key id and the secret access key",
		secretA + "\n" + idA:                  "the access key id in what was given is not an access key id: copy it again",
		idA + "\n" + secretA + " x":           "the secret access key in what was given is not a secret access key (it holds blanks or characters that do not print): copy it again",
		"ASIAIOSFODNN7EXAMPLE\nsecret":        "the key in what was given is temporary (its id begins with ASIA), and cannot mint others: give a long-term key, whose id begins with AKIA",
		idA + "\n" + strings.Repeat("x", 513): "the secret access key in what was given is longer than 512 characters: copy it again",
		created[:len(created)-1]:              "what was given is damaged JSON: give what aws iam create-access-key prints, whole, or two lines",
		`{"Credentials": {}}`:                 "what was given is JSON without an AccessKey: give what aws iam create-access-key prints, or two lines",
		`{"AccessKey": {}}`:                   "there is no key in what was given: put the access key id and the secret access key there",
		strings.Replace(created, "Active", "Inactive", 1): "the key in what was given is not active: activate it, or give another",
	} {
		p, err := ParsePair([]byte(text))
		if err == nil || err.Error() != want || p != (Pair{}) {
			t.Errorf("%.30q: got\n%v\nwant\n%s", text, err, want)
		}
	}
}

func TestRecordRoundTrip(t *testing.T) {
	for name, r := range map[string]Record{"full": fullRecord(), "least": {Current: pairOf(idA, secretA), Lineage: idA}} {
		raw, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := decodeRecord(raw)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		again, err := back.encode()
		if err != nil || string(again) != string(raw) {
			t.Errorf("%s: another record came back: %v", name, err)
		}
		if !back.Current.Secret.Equal(r.Current.Secret) || back.info("n", "c") != r.info("n", "c") {
			t.Errorf("%s: %+v, want %+v", name, back, r)
		}
		if r.Next != nil && !back.Next.Secret.Equal(r.Next.Secret) {
			t.Error("the next key's secret")
		}
	}
}

// A key prints no secret, whatever prints it.
func TestRecordDoesNotPrint(t *testing.T) {
	r := fullRecord()
	encoded, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	info, err := json.Marshal(r.info("n", "c"))
	if err != nil {
		t.Fatal(err)
	}
	out := fmt.Sprintf("%v %+v %#v %s %x %v %+v %v %s %s", r, r, r, r.Current, r.Current, &r, &r, r.Next, encoded, info)
	if strings.Contains(out, secretA[:8]) || strings.Contains(out, secretB[:8]) || strings.Contains(out, fmt.Sprintf("%x", secretA[:8])) {
		t.Error(out)
	}
}

func TestRecordIsStrict(t *testing.T) {
	raw, err := fullRecord().encode()
	if err != nil {
		t.Fatal(err)
	}
	good := string(raw)
	replace := func(from, to string) string {
		if !strings.Contains(good, from) {
			t.Fatalf("the record has no %s", from)
		}
		return strings.Replace(good, from, to, 1)
	}
	for name, c := range map[string]struct{ in, want string }{
		"empty":             {"", "it is damaged"},
		"null":              {"null", "it is damaged"},
		"later version":     {replace(`"version":1`, `"version":2,"new":true`), "it has version 2, and this stsbroker knows 1"},
		"no version":        {replace(`"version":1,`, ""), "it is damaged"},
		"unknown field":     {replace(`"version":1`, `"version":1,"x":1`), "it is damaged"},
		"something behind":  {good + "x", "it is damaged"},
		"no id":             {replace(`"key_id":"`+idA, `"key_id":"`), "it is damaged: a part of the key is missing"},
		"no secret":         {replace(`"secret":"`+secretA, `"secret":"`), "it is damaged: a part of the key is missing"},
		"no lineage":        {replace(`"lineage":"AKIAFIRSTFIRSTFIRST0"`, `"lineage":""`), "it is damaged: a part of the key is missing"},
		"next is half":      {replace(`"secret":"`+secretB, `"secret":"`), "it is damaged: a part of the key is missing"},
		"next is current":   {replace(`"key_id":"`+idB, `"key_id":"`+idA), "it is damaged: a part of the key is missing"},
		"old is nobody":     {replace("AKIAOLDOLDOLDOLDOLD0", ""), "it is damaged: a part of the key is missing"},
		"user breaks lines": {replace("me@example", `me\nx`), "it is damaged: a part of the key is missing"},
		"too long":          {good + strings.Repeat(" ", recordLimit), "it is longer than"},
	} {
		if _, err := decodeRecord([]byte(c.in)); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	for i := range good {
		if _, err := decodeRecord([]byte(good[:i])); err == nil {
			t.Fatalf("the first %d bytes are a record", i)
		}
	}
	bad := fullRecord()
	bad.Profile = strings.Repeat("x", 129)
	if _, err := bad.encode(); err == nil {
		t.Error("a record that could not be read is written")
	}
}

func FuzzParsePair(f *testing.F) {
	f.Add([]byte(idA + "\n" + secretA))
	f.Add([]byte(`{"AccessKey": {"AccessKeyId": "` + idA + `", "SecretAccessKey": "` + secretA + `"}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		p, err := ParsePair(in)
		if err != nil {
			if p != (Pair{}) || strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("%v beside %q", p, err)
			}
			return
		}
		r := Record{Current: p, Lineage: p.KeyID}
		r.Current.Created = time.Time{} // JSON has no year 10000
		raw, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeRecord(raw); err != nil || back.Current.KeyID != p.KeyID || !back.Current.Secret.Equal(p.Secret) {
			t.Errorf("%v", err)
		}
	})
}
