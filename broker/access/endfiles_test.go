package access

import (
	"testing"
	"time"
)

// Files that are configured no more lose their tokens, and nobody else loses any.
func TestEndFiles(t *testing.T) {
	all := Memory()
	named, err := all.Create("ci", []string{"dev"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]string{"ci": named.Token.Reveal()}
	for _, name := range []string{"pod", "job"} {
		value, _, err := all.Rotate(name, []string{"dev"}, nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		shown[name] = value.Reveal()
	}
	all.EndFiles([]string{"job"})
	for name, good := range map[string]bool{"ci": true, "job": true, "pod": false} {
		grant, err := all.Authenticate(shown[name])
		if (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
		if good && all.NameOf(grant.ID) != name {
			t.Errorf("%s is called %q", name, all.NameOf(grant.ID))
		}
	}
	if all.NameOf("nobody") != "" {
		t.Error("a name for nobody")
	}
}
