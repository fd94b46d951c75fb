package metadata

import (
	"context"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/access"
)

// authorizing is a Source that asks as the broker does.
type authorizing struct {
	*sets
	access broker.Authorizer
}

func (a authorizing) Get(ctx context.Context, ask broker.Ask) (*broker.Set, error) {
	if err := a.access.Authorize(ctx, ask.Caller, ask.Profile); err != nil {
		return nil, err
	}
	return a.sets.Get(ctx, ask)
}

// startRuled serves three profiles by the rules: with tokens, and without one at the list.
func startRuled(t *testing.T, tokens *access.Tokens, list ...string) *running {
	t.Helper()
	r := newRunning(t)
	threeProfiles(r)
	c := Container{Source: authorizing{r.source, tokens}, Tokens: tokens, Roles: r.withRole, Requests: r.sink, Observer: r.sink}
	if list != nil {
		c.Tokenless = &Tokenless{Door: broker.DoorPeer, Access: tokens, Profiles: list}
	}
	r.serve(t, NewContainer(c))
	return r
}

// A token that is bound to nobody, where rules say in whose hands it is good.
func TestTokenInRuledHands(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can make another user's socket")
	}
	tokens := access.Memory()
	issued, err := tokens.Create("shared", []string{"dev", "second", "third"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := startRuled(t, tokens)
	get := func(uid int, profile string) (a answer) {
		as(t, uid, func() {
			a = r.once(t, "GET /credentials/"+profile+" HTTP/1.1\n"+host+"Authorization: "+issued.Token.Reveal()+"\n\n")
		})
		return a
	}
	if a := get(12345, "third"); !a.has("ASIATHIRD") {
		t.Errorf("without rules: %d %s", a.status, a.body)
	}
	if _, known := r.source.lastAsk().Caller.Peer.UID(); known {
		t.Error("without rules, the kernel was asked")
	}
	tokens.SetRules([]access.Rule{
		{UID: new(uint32(12345)), Profiles: []string{"dev"}},
		{UID: new(uint32(54321)), Token: "shared", Profiles: []string{"second"}},
		{Token: "shared", Profiles: []string{"third"}},
	})
	for _, c := range []struct {
		uid      int
		profiles string // that it is given
	}{
		{12345, "dev third"}, {54321, "second third"}, {11111, "third"}, {0, "third"}, {65534, "third"},
	} {
		for _, profile := range []string{"dev", "second", "third"} {
			a := get(c.uid, profile)
			if want := strings.Contains(c.profiles, profile); a.has("ASIA"+strings.ToUpper(profile)) != want || !want && (a.status != http.StatusForbidden || a.leaks()) {
				t.Errorf("uid %d: %s: %d %s", c.uid, profile, a.status, a.body)
			}
		}
	}
}

// Who comes without a token, and is let in by a rule, learns nothing of other profiles:
// neither on the list nor by their roles.
func TestTokenlessByARule(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can make another user's socket")
	}
	tokens := access.Memory()
	tokens.SetRules([]access.Rule{{UID: new(uint32(12345)), Profiles: []string{"second"}}})
	r := startRuled(t, tokens, "dev", "second")
	as(t, 12345, func() {
		if a := r.once(t, "GET /credentials/second HTTP/1.1\n"+host+"\n"); !a.has("ASIASECOND") {
			t.Errorf("%d %s", a.status, a.body)
		}
		if a := r.once(t, "GET /role-arn/"+appRole+" HTTP/1.1\n"+host+"\n"); !a.has("ASIASECOND") { // which dev and third have too
			t.Errorf("by its role: %d %s", a.status, a.body)
		}
		told := map[string]bool{}
		for _, profile := range []string{"dev", "third", "no-such"} {
			a := r.once(t, "GET /credentials/"+profile+" HTTP/1.1\n"+host+"\n")
			if a.status != http.StatusForbidden || a.leaks() {
				t.Errorf("%s: %d %s", profile, a.status, a.body)
			}
			told[strings.ReplaceAll(a.body, profile, "PROFILE")] = true
		}
		if len(told) != 1 {
			t.Errorf("what is told differs: %v", told)
		}
		for _, role := range []string{"dev", "third", "no-such"} {
			a := r.once(t, "GET /role-arn/arn:aws:iam::123456789012:role/"+role+" HTTP/1.1\n"+host+"\n")
			if a.status != http.StatusForbidden || !strings.Contains(a.body, noRole) {
				t.Errorf("the role of %s: %d %s", role, a.status, a.body)
			}
		}
	})
	as(t, 54321, func() {
		if a := r.once(t, "GET /credentials/second HTTP/1.1\n"+host+"\n"); a.status != http.StatusForbidden || a.leaks() {
			t.Errorf("whom no rule names: %d %s", a.status, a.body)
		}
	})
	tokens.SetRules(nil)
	as(t, 12345, func() {
		if a := r.once(t, "GET /credentials/second HTTP/1.1\n"+host+"\n"); a.status != http.StatusForbidden || a.leaks() {
			t.Errorf("after the rule was taken away: %d %s", a.status, a.body)
		}
	})
}
