package broker

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
)

func TestSecretPrintsNowhere(t *testing.T) {
	const canary = "wJalr/canary+KEY=="
	s := NewSecret(canary)
	type exported struct{ S Secret }
	type hidden struct{ s Secret }
	type deep struct{ m map[string]*hidden }
	values := map[string]any{
		"plain": s, "pointer": &s, "exported": exported{s}, "hidden": hidden{s}, "pointer to hidden": &hidden{s},
		"deep": deep{map[string]*hidden{"k": {s}}}, "slice": []any{s, hidden{s}},
		"credentials": Credentials{SecretAccessKey: s, SessionToken: s}, "set": &Set{Credentials: Credentials{SecretAccessKey: s}},
		"error": fmt.Errorf("it was %v, %s", s, s),
	}
	for name, v := range values {
		var out strings.Builder
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%o", "%t", "%e", "%g", "%c", "%U", "%p", "%T"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
		if b, err := xml.Marshal(v); err == nil {
			out.Write(b)
		}
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
		for _, enc := range []string{
			canary, url.QueryEscape(canary), base64.StdEncoding.EncodeToString([]byte(canary)), hex.EncodeToString([]byte(canary)),
			strings.ToUpper(hex.EncodeToString([]byte(canary))), strings.Trim(fmt.Sprintf("%q", canary), `"`),
		} {
			if strings.Contains(out.String(), enc) {
				t.Errorf("%s prints the secret as %s", name, enc)
			}
		}
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(exported{s}); err == nil || strings.Contains(b.String(), canary) {
		t.Errorf("gob encodes a secret: %v", err)
	}
	if s.Reveal() != canary || !s.Equal(NewSecret(canary)) || s.Equal(NewSecret("other")) || s.IsZero() || !NewSecret("").IsZero() {
		t.Error("the secret itself is not right")
	}
}
