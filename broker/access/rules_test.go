package access

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

const alice, bob = uint32(1001), uint32(1002)

// theRules give Alice dev and ops, the token ci its profile, and the token both only in
// Alice's hands.
func theRules() []Rule {
	return []Rule{
		{UID: new(alice), Profiles: []string{"dev"}, Line: 3},
		{UID: new(alice), Profiles: []string{"ops"}, Line: 4},
		{Token: "ci", Profiles: []string{"ci"}, Line: 5},
		{UID: new(alice), Token: "both", Profiles: []string{"prod"}, Line: 6},
	}
}

func ofOwner(rules ...Rule) *Tokens {
	tokens := Memory()
	tokens.owner = me
	tokens.SetRules(rules)
	return tokens
}

// The whole table: who comes to which door, with what, for which profile.
func TestRules(t *testing.T) {
	tokens := ofOwner(theRules()...)
	all := []string{"dev", "ops", "ci", "prod"}
	named := func(name string, uid *uint32) string { return must[Issued](t)(tokens.Create(name, all, uid)).ID }
	env := func(uid uint32, bind bool, profile string) string {
		return must[Issued](t)(tokens.ForEnv(uid, bind, profile)).ID
	}
	exec := func(uid uint32, profile string) string {
		i, revoke, err := tokens.ForChild(uid, true, profile, "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(revoke)
		return i.ID
	}
	other, ci, both := named("other", nil), named("ci", nil), named("both", nil)
	ofAlice, ofBob, ofMe := named("of Alice", new(alice)), named("of Bob", new(bob)), named("of me", new(uint32(me)))
	value, _, err := tokens.Rotate("file", all, nil, time.Unix(1_800_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	file, _ := idOf(value.Reveal())
	unknown, owner, root := broker.Peer{}, broker.NewPeer(me, 1), broker.NewPeer(0, 1)
	aliceIs, bobIs, overflow := broker.NewPeer(alice, 1), broker.NewPeer(bob, 1), broker.NewPeer(overflowUID, 1)
	const yes, no = "<nil>", "forbidden"
	for _, c := range []struct {
		token, profile string
		peer           broker.Peer
		want           string
	}{
		// A token of no rule's name has what its bearer has.
		{other, "dev", aliceIs, yes},
		{other, "ops", aliceIs, yes},
		{other, "ci", aliceIs, no},
		{other, "prod", aliceIs, no},
		{other, "dev", bobIs, no},
		{other, "dev", unknown, no},
		{other, "dev", root, no},  // perhaps a container's
		{other, "dev", owner, no}, // who has env for it
		{other, "dev", overflow, no},
		{file, "dev", aliceIs, yes},
		{file, "dev", unknown, no},
		// One of a rule's name has what that gives to anybody, and what its bearer has.
		{ci, "ci", unknown, yes},
		{ci, "ci", bobIs, yes},
		{ci, "ci", root, yes},
		{ci, "dev", unknown, no},
		{ci, "dev", aliceIs, yes},
		{ci, "dev", bobIs, no},
		{ci, "prod", aliceIs, no},
		// Both must hold.
		{both, "prod", aliceIs, yes},
		{both, "prod", bobIs, no},
		{both, "prod", unknown, no},
		{both, "prod", root, no},
		{both, "dev", aliceIs, yes},
		// A bound token counts for its user, in the hands of root too.
		{ofAlice, "dev", aliceIs, yes},
		{ofAlice, "dev", root, yes},
		{ofAlice, "dev", unknown, no},
		{ofAlice, "dev", bobIs, no},
		{ofAlice, "ci", aliceIs, no},
		{ofBob, "dev", bobIs, no},
		{ofBob, "dev", aliceIs, no},
		{ofBob, "dev", root, no},
		{ofMe, "dev", owner, no},
		// What env and exec make: for the owner and root without a rule, for others by theirs.
		{env(me, false, "secret"), "secret", unknown, yes},
		{env(me, true, "secret"), "secret", owner, yes},
		{env(me, true, "secret"), "secret", aliceIs, no},
		{env(0, true, "secret"), "secret", root, yes},
		{exec(me, "secret"), "secret", owner, yes},
		{env(alice, true, "dev"), "dev", aliceIs, yes},
		{env(alice, true, "dev"), "dev", bobIs, no},
		{env(alice, false, "dev"), "dev", unknown, yes}, // where the kernel does not tell, it is the bearer's
		{env(alice, true, "ci"), "ci", aliceIs, no},
		{env(alice, true, "prod"), "prod", aliceIs, no},
		{exec(alice, "ops"), "ops", aliceIs, yes},
		{exec(bob, "dev"), "dev", bobIs, no},
		{exec(bob, "dev"), "dev", root, no},
	} {
		err := tokens.Authorize(t.Context(), broker.Caller{Door: broker.DoorContainer, Token: c.token, Peer: c.peer}, c.profile)
		if kindOf(err) != c.want {
			t.Errorf("%+v: %v", c, err)
		}
	}

	for _, door := range []string{broker.DoorControl, broker.DoorSocket, broker.DoorIMDS, broker.DoorPeer} {
		ofRoot := yes
		if door == broker.DoorIMDS || door == broker.DoorPeer {
			ofRoot = no
		}
		for _, c := range []struct {
			peer    broker.Peer
			profile string
			want    string
		}{
			{owner, "", yes}, {owner, "secret", yes}, {root, "", ofRoot}, {root, "secret", ofRoot},
			{aliceIs, "", yes}, {aliceIs, "dev", yes}, {aliceIs, "ops", yes}, {aliceIs, "Dev", no}, {aliceIs, "dev ", no},
			{aliceIs, "ci", no}, {aliceIs, "prod", no}, {aliceIs, "secret", no}, // not even with a token, which is nothing here
			{bobIs, "", no}, {bobIs, "dev", no}, {unknown, "", no}, {unknown, "dev", no}, {overflow, "", no}, {overflow, "dev", no},
		} {
			for _, token := range []string{"", ci, both} {
				if err := tokens.Authorize(t.Context(), broker.Caller{Door: door, Token: token, Peer: c.peer}, c.profile); kindOf(err) != c.want {
					t.Errorf("%s %+v: %v", door, c, err)
				}
			}
		}
	}
}

// What no rule can say is not said by SetRules either: whoever calls it with what the
// configuration would refuse lets nobody in.
func TestRulesThatGiveNothing(t *testing.T) {
	for _, rule := range []Rule{
		{Profiles: []string{"dev"}},
		{UID: new(uint32(0)), Profiles: []string{"dev"}},
		{UID: new(uint32(overflowUID)), Profiles: []string{"dev"}},
		{UID: new(uint32(noUID)), Profiles: []string{"dev"}},
		{UID: new(alice)},
		{Token: "t"},
	} {
		tokens := ofOwner(rule)
		token := must[Issued](t)(tokens.Create("t", []string{"dev"}, nil)).ID
		for _, peer := range []broker.Peer{{}, broker.NewPeer(0, 1), broker.NewPeer(alice, 1), broker.NewPeer(overflowUID, 1), broker.NewPeer(noUID, 1)} {
			for _, profile := range []string{"", "dev"} {
				for _, door := range []string{broker.DoorContainer, broker.DoorIMDS, broker.DoorPeer} {
					if err := tokens.Authorize(t.Context(), broker.Caller{Door: door, Token: token, Peer: peer}, profile); kindOf(err) != "forbidden" {
						t.Errorf("%+v: %s, %+v, %q: %v", rule, door, peer, profile, err)
					}
				}
			}
		}
	}
}

// Rules change under tokens that were handed out: at the next request, and back again.
func TestRulesAtRunTime(t *testing.T) {
	tokens := ofOwner()
	env := must[Issued](t)(tokens.ForEnv(alice, true, "dev")).ID
	ci := must[Issued](t)(tokens.Create("ci", []string{"ci"}, nil)).ID
	mine := must[Issued](t)(tokens.ForEnv(me, true, "dev")).ID
	is := func(when string, want ...bool) {
		t.Helper()
		for i, c := range []struct {
			door, token, profile string
			uid                  uint32
		}{
			{broker.DoorContainer, env, "dev", alice},
			{broker.DoorContainer, ci, "ci", bob},
			{broker.DoorContainer, mine, "dev", me},
			{broker.DoorControl, "", "dev", alice},
			{broker.DoorIMDS, "", "dev", me},
		} {
			err := tokens.Authorize(t.Context(), broker.Caller{Door: c.door, Token: c.token, Peer: broker.NewPeer(c.uid, 1)}, c.profile)
			if (err == nil) != want[i] {
				t.Errorf("%s: %+v: %v", when, c, err)
			}
		}
	}
	is("without rules", false, true, true, false, true) // Alice's is of rules that have gone
	tokens.SetRules([]Rule{{UID: new(alice), Profiles: []string{"dev"}}})
	is("with one of hers", true, false, true, true, true)
	tokens.SetRules([]Rule{{Token: "ci", Profiles: []string{"ci"}}})
	is("with one of the token's", false, true, true, false, true)
	list := theRules()
	tokens.SetRules(list)
	list[0].Profiles[0], *list[0].UID = "changed", bob // by the caller, afterwards
	is("with all", true, true, true, true, true)
	tokens.SetRules(nil)
	is("without any", false, true, true, false, true)
}

// The kernel is asked only where a rule wants to know.
func TestNeedsPeer(t *testing.T) {
	tokens := ofOwner()
	ci := must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil))
	bound := must[Issued](t)(tokens.Create("bound", []string{"dev"}, new(alice)))
	env := must[Issued](t)(tokens.ForEnv(alice, false, "dev"))
	file, _, err := tokens.Rotate("file", []string{"dev"}, nil, time.Unix(1_800_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rules    []Rule
		ci, file bool
	}{
		{nil, false, false},
		{[]Rule{{Token: "ci", Profiles: []string{"dev"}}}, false, false},
		{[]Rule{{UID: new(alice), Token: "ci", Profiles: []string{"dev"}}}, true, false},
		{[]Rule{{UID: new(alice), Token: "file", Profiles: []string{"dev"}}, {Token: "ci", Profiles: []string{"dev"}}}, false, true},
		{[]Rule{{UID: new(alice), Profiles: []string{"ops"}}}, true, true},
		{[]Rule{{UID: new(uint32(0)), Profiles: []string{"ops"}}}, false, false},
		{nil, false, false},
	} {
		tokens.SetRules(c.rules)
		for token, want := range map[broker.Secret]bool{ci.Token: c.ci, file: c.file, bound.Token: false, env.Token: false} {
			g := must[*broker.Grant](t)(tokens.Authenticate(token.Reveal()))
			if g.NeedsPeer != want {
				t.Errorf("%+v with %v: asks for the peer: %v", g, c.rules, g.NeedsPeer)
			}
			if len(g.Profiles) != 1 || g.Profiles[0] != "dev" || g.ID == "" {
				t.Errorf("%+v", g)
			}
		}
	}
}

// Those on disk want it after a restart too.
func TestNeedsPeerAfterARestart(t *testing.T) {
	dir := t.TempDir() + "/state"
	first := open(t, dir)
	shown := must[Issued](t)(first.Create("ci", []string{"dev"}, nil)).Token.Reveal()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	tokens := open(t, dir)
	tokens.SetRules(theRules())
	if g := must[*broker.Grant](t)(tokens.Authenticate(shown)); !g.NeedsPeer || g.Name != "ci" {
		t.Errorf("%+v", g)
	}
}

// What a client reads is one text for all that it may not have; the log has which rule
// was missing.
func TestRefusedByARule(t *testing.T) {
	tokens := ofOwner(theRules()...)
	other := must[Issued](t)(tokens.Create("other", []string{"dev", "prod"}, nil))
	env := must[Issued](t)(tokens.ForEnv(bob, true, "dev"))
	public := map[string]bool{}
	for _, c := range []struct {
		door, token, profile string
		peer                 broker.Peer
		want                 string
	}{
		{broker.DoorControl, "", "prod", broker.NewPeer(alice, 1), "uid 1001 is not the broker's own, 1000, and no rule under access gives that profile to uid 1001, whose rules are on line 3 and 4"},
		{broker.DoorControl, "", "no-such", broker.NewPeer(alice, 1), "whose rules are on line 3 and 4"},
		{broker.DoorIMDS, "", "dev", broker.NewPeer(bob, 1), "uid 1002 is not the broker's own, 1000, and no rule under access is for uid 1002"},
		{broker.DoorSocket, "", "dev", broker.Peer{}, "unknown"},
		{broker.DoorContainer, other.ID, "prod", broker.NewPeer(alice, 1), "token " + other.ID + `: no rule under access gives that profile to uid 1001 with the token "other", whose rules are on line 3 and 4`},
		{broker.DoorContainer, other.ID, "dev", broker.Peer{}, `no rule under access is for a caller of unknown uid with the token "other"`},
		{broker.DoorContainer, other.ID, "no-such", broker.NewPeer(alice, 1), `token ` + other.ID + ` is for ["dev" "prod"]`},
		{broker.DoorContainer, env.ID, "dev", broker.NewPeer(bob, 1), "token " + env.ID + ": it was made by env for uid 1002, and no rule under access is for uid 1002"},
	} {
		err := tokens.Authorize(t.Context(), broker.Caller{Door: c.door, Token: c.token, Peer: c.peer}, c.profile)
		if kindOf(err) != "forbidden" {
			t.Fatalf("%+v: %v", c, err)
		}
		e := broker.AsError(err)
		if !strings.Contains(e.Cause.Error(), c.want) {
			t.Errorf("the log has %q, want %q", e.Cause, c.want)
		}
		public[strings.ReplaceAll(e.Public, c.profile, "PROFILE")] = true
	}
	if len(public) != 1 {
		t.Errorf("what clients read differs: %v", public)
	}
}

func TestAdministers(t *testing.T) {
	tokens := ofOwner(theRules()...)
	for peer, want := range map[broker.Peer]bool{
		{}: false, broker.NewPeer(me, 1): true, broker.NewPeer(0, 1): true, broker.NewPeer(alice, 1): false, broker.NewPeer(noUID, 1): false,
	} {
		if tokens.Administers(peer) != want {
			t.Errorf("%+v: %v", peer, !want)
		}
	}
	tokens.owner = -1
	if tokens.Administers(broker.NewPeer(noUID, 1)) {
		t.Error("uid -1 was taken for the owner")
	}
}

func TestWhatARuleCannotName(t *testing.T) {
	token := must[Issued](t)(Memory().Create("ci", []string{"dev"}, nil))
	for name, want := range map[string]string{
		"ci": "", "Käse & Brot": "", "": "empty", "a\nb": "printed", token.ID: "write the name", token.Token.Reveal(): "a token itself", token.Token.Reveal() + "\n": "a token itself",
	} {
		err := CheckTokenName(name)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), token.Token.Reveal()[len(tokenPrefix)+idLength:]) {
			t.Error("it repeats the token")
		}
	}
	for uid, want := range map[uint32]string{1: "", alice: "", 65533: "", 0: "root", 65534: "id -u", 1<<32 - 1: "no user"} {
		if err := CheckUID(uid); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%d: %v", uid, err)
		}
	}
}

func TestRulesAllocateNothing(t *testing.T) {
	tokens, token, env := manyRules(t)
	ctx := t.Context()
	for name, who := range map[string]broker.Caller{
		"token": {Door: broker.DoorContainer, Token: token.ID, Peer: broker.NewPeer(alice, 1)},
		"env":   {Door: broker.DoorContainer, Token: env.ID, Peer: broker.NewPeer(alice, 1)},
		"imds":  {Door: broker.DoorIMDS, Peer: broker.NewPeer(alice, 1)},
	} {
		if n := testing.AllocsPerRun(1000, func() {
			if _, err := tokens.Authenticate(token.Token.Reveal()); err != nil {
				t.Fatal(err)
			}
			if err := tokens.Authorize(ctx, who, "dev"); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// manyRules has a rule for each of a thousand users, and a token that all of them may have.
func manyRules(t testing.TB) (tokens *Tokens, token, env Issued) {
	rules := []Rule{{UID: new(alice), Token: "shared", Profiles: []string{"dev"}}}
	for i := range uint32(1000) {
		rules = append(rules, Rule{UID: new(alice + i), Profiles: []string{"ops", "dev", fmt.Sprint("p", i)}})
	}
	tokens = ofOwner(rules...)
	token, err := tokens.Create("shared", []string{"dev"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if env, err = tokens.ForEnv(alice, true, "dev"); err != nil {
		t.Fatal(err)
	}
	return tokens, token, env
}

// The cost of rules on the way of a request: Authorize with none, and with a thousand.
func BenchmarkAuthorize(b *testing.B) {
	tokens, token, env := manyRules(b)
	for _, c := range []struct {
		name  string
		rules bool
		who   broker.Caller
	}{
		{"token/none", false, broker.Caller{Door: broker.DoorContainer, Token: token.ID}},
		{"token/1000", true, broker.Caller{Door: broker.DoorContainer, Token: token.ID, Peer: broker.NewPeer(alice, 1)}},
		{"env/1000", true, broker.Caller{Door: broker.DoorContainer, Token: env.ID, Peer: broker.NewPeer(alice, 1)}},
		{"imds/1000", true, broker.Caller{Door: broker.DoorIMDS, Peer: broker.NewPeer(alice, 1)}},
	} {
		b.Run(c.name, func(b *testing.B) {
			if !c.rules {
				kept := tokens.rules.Swap(nil)
				defer tokens.rules.Store(kept)
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := tokens.Authorize(b.Context(), c.who, "dev"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Rules are swapped under requests: what both sets give is given at every moment, and
// what neither gives never is.
func TestRulesAreSwappedWhole(t *testing.T) {
	tokens := ofOwner(theRules()...)
	env := must[Issued](t)(tokens.ForEnv(alice, true, "dev")).ID
	more := append(theRules(), Rule{UID: new(bob), Profiles: []string{"dev"}, Line: 7})
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for over := false; !over; {
				select {
				case <-done:
					over = true // and once more, so that there is one at least
				default:
				}
				if err := tokens.Authorize(t.Context(), broker.Caller{Door: broker.DoorContainer, Token: env, Peer: broker.NewPeer(alice, 1)}, "dev"); err != nil {
					t.Error(err)
					return
				}
				if err := tokens.Authorize(t.Context(), broker.Caller{Door: broker.DoorControl, Peer: broker.NewPeer(bob, 1)}, "ops"); err == nil {
					t.Error("Bob has what no rule gives")
					return
				}
			}
		})
	}
	for i := range 2000 {
		if i%2 == 0 {
			tokens.SetRules(more)
		} else {
			tokens.SetRules(theRules())
		}
	}
	close(done)
	wg.Wait()
}
