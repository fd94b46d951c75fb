package access

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

const me = 1000

// open is Open for tests that end with the folder let go.
func open(t *testing.T, dir string) *Tokens {
	t.Helper()
	tokens, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tokens.Close() })
	return tokens
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func kindOf(err error) string {
	var e *broker.Error
	if errors.As(err, &e) {
		return e.Kind.String()
	}
	return fmt.Sprint(err)
}

func TestShapeOfAToken(t *testing.T) {
	shape := regexp.MustCompile(`^stsb1_[0-9a-f]{16}_[A-Za-z0-9_-]{43}$`)
	tokens := Memory()
	i := must[Issued](t)(tokens.Create("ci", []string{"dev", "ops"}, nil))
	if v := i.Token.Reveal(); !shape.MatchString(v) || !strings.Contains(v, i.ID) {
		t.Fatalf("%d characters", len(v))
	}
	g := must[*broker.Grant](t)(tokens.Authenticate(i.Token.Reveal()))
	if g.ID != i.ID || g.Name != "ci" || !slices.Equal(g.Profiles, []string{"dev", "ops"}) || g.BoundUID {
		t.Fatalf("%+v", g)
	}
	if v := must[broker.Secret](t)(tokens.Value("ci")); !v.Equal(i.Token) {
		t.Fatal("printed again, it is another token")
	}
	if other := must[Issued](t)(Memory().Create("ci", []string{"dev"}, nil)); other.Token.Equal(i.Token) {
		t.Fatal("two brokers, one token")
	}
}

func TestAuthenticateRefuses(t *testing.T) {
	tokens := Memory()
	a := must[Issued](t)(tokens.Create("a", []string{"dev"}, nil)).Token.Reveal()
	b := must[Issued](t)(tokens.Create("b", []string{"dev"}, nil)).Token.Reveal()
	foreign := must[Issued](t)(Memory().Create("a", []string{"dev"}, nil)).Token.Reveal()
	head := len(tokenPrefix) + idLength + 1
	cases := map[string]string{
		"none": "", "newline": a + "\n", "space": " " + a, "scheme": "Bearer " + a, "cut": a[:len(a)-1],
		"lower case": strings.ToLower(a), "upper case": strings.ToUpper(a),
		"another's value": a[:head] + b[head:], "another broker's": foreign,
		"no value": a[:head] + strings.Repeat("A", macLength), "no separator": strings.Replace(a, "_", "-", 2),
		"long": strings.Repeat("x", 1<<16),
	}
	for i := range a { // every character counts
		flip := []byte(a)
		flip[i] ^= 1
		cases[fmt.Sprintf("character %d", i)] = string(flip)
	}
	for name, shown := range cases {
		g, err := tokens.Authenticate(shown)
		if g != nil || kindOf(err) != "unauthorized" {
			t.Errorf("%s: %v, %v", name, g, err)
			continue
		}
		var e *broker.Error
		errors.As(err, &e)
		if !strings.Contains(e.Public, `eval "$(stsbroker env PROFILE)"`) || e.Cause == nil || len(err.Error()) > 300 {
			t.Errorf("%s: %v", name, err)
		}
		for _, secret := range []string{a, b, foreign} {
			if strings.Contains(err.Error(), secret[head:]) {
				t.Errorf("%s: the error shows a token", name)
			}
		}
	}
	if _, err := tokens.Authenticate(a); err != nil {
		t.Fatalf("locked out: %v", err)
	}
}

func TestAuthorize(t *testing.T) {
	tokens := Memory()
	tokens.owner = me
	uid := uint32(me)
	free := must[Issued](t)(tokens.Create("free", []string{"dev", "ops"}, nil)).ID
	bound := must[Issued](t)(tokens.Create("bound", []string{"dev"}, &uid)).ID
	unknown, mine, root, other := broker.Peer{}, broker.NewPeer(me, 1), broker.NewPeer(0, 1), broker.NewPeer(1001, 1)
	for _, c := range []struct {
		door, token, profile string
		peer                 broker.Peer
		want                 string
	}{
		{"container", free, "dev", unknown, ""},
		{"container", free, "ops", other, ""},
		{"container", free, "prod", unknown, "forbidden"},
		{"container", free, "Dev", unknown, "forbidden"},
		{"container", free, "dev ", unknown, "forbidden"},
		{"container", free, "", unknown, "forbidden"},
		{"container", bound, "dev", mine, ""},
		{"container", bound, "dev", unknown, "forbidden"},
		{"container", bound, "dev", other, "forbidden"},
		{"container", bound, "dev", root, ""},
		{"container", bound, "ops", mine, "forbidden"},
		{"container", "", "dev", mine, "unauthorized"},
		{"container", "free", "dev", mine, "unauthorized"},
		{"", free, "dev", mine, "forbidden"},
		{"smoke", free, "dev", mine, "forbidden"},
	} {
		err := tokens.Authorize(t.Context(), broker.Caller{Door: c.door, Token: c.token, Peer: c.peer}, c.profile)
		if c.want == "" && err != nil || c.want != "" && kindOf(err) != c.want {
			t.Errorf("%s %s %q %+v: %v, want %q", c.door, c.token, c.profile, c.peer, err, c.want)
		}
	}

	for _, door := range []string{"control", "imds", "container-peer", "socket"} {
		ofRoot := "<nil>"
		if door == "imds" || door == "container-peer" { // whoever has that uid in a container has it there
			ofRoot = "forbidden"
		}
		for peer, want := range map[broker.Peer]string{root: ofRoot, other: "forbidden", unknown: "forbidden", mine: "<nil>"} {
			if me == 0 && peer == root {
				continue
			}
			for _, token := range []string{"", free} { // which is nothing there
				if err := tokens.Authorize(t.Context(), broker.Caller{Door: door, Token: token, Peer: peer}, "dev"); kindOf(err) != want {
					t.Errorf("%s %q %+v: %v, want %s", door, token, peer, err, want)
				}
			}
		}
		tokens.owner = -1 // as on Windows: no uid is the owner's
		if err := tokens.Authorize(t.Context(), broker.Caller{Door: door, Peer: broker.NewPeer(1<<32-1, 1)}, "dev"); err == nil {
			t.Errorf("%s: uid -1 was taken for the owner", door)
		}
		tokens.owner = me
	}
}

func TestForbiddenDoesNotTellWhatExists(t *testing.T) {
	tokens := Memory()
	uid := uint32(me)
	token := must[Issued](t)(tokens.Create("a", []string{"dev"}, &uid))
	ask := func(profile string) *broker.Error {
		var e *broker.Error
		if !errors.As(tokens.Authorize(t.Context(), broker.Caller{Door: broker.DoorContainer, Token: token.ID}, profile), &e) {
			t.Fatal("allowed")
		}
		return e
	}
	held, none := ask("dev"), ask("xyz")
	if strings.ReplaceAll(held.Public, "dev", "xyz") != none.Public {
		t.Errorf("%q and %q", held.Public, none.Public)
	}
	if held.Cause.Error() == none.Cause.Error() || held.Profile != "dev" {
		t.Errorf("the log learns too little: %v, %v", held.Cause, none.Cause)
	}
	if e := ask(strings.Repeat("\n", 1<<16)); len(e.Public) > 1000 || strings.Contains(e.Public, "\n") {
		t.Errorf("what a client sends comes back in %d bytes", len(e.Public))
	}
}

func TestNothingIsAllocatedForAGoodToken(t *testing.T) {
	tokens := Memory()
	tokens.owner = me
	i := must[Issued](t)(tokens.ForEnv(me, true, "dev"))
	shown, ctx := i.Token.Reveal(), t.Context()
	who := broker.Caller{Door: broker.DoorContainer, Token: i.ID, Peer: broker.NewPeer(me, 1)}
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := tokens.Authenticate(shown); err != nil {
			t.Fatal(err)
		}
		if err := tokens.Authorize(ctx, who, "dev"); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestForEnvGivesTheSameTokenAgain(t *testing.T) {
	tokens := Memory()
	forEnv := func(uid uint32, bind bool, profile string) string {
		return must[Issued](t)(tokens.ForEnv(uid, bind, profile)).Token.Reveal()
	}
	first := forEnv(me, false, "dev")
	if forEnv(me, false, "dev") != first {
		t.Error("printed again, it is another token")
	}
	all := []string{first, forEnv(me, false, "ops"), forEnv(1001, false, "dev"), forEnv(me, true, "dev")}
	slices.Sort(all)
	if len(slices.Compact(all)) != 4 {
		t.Error("one token for different rights")
	}
	g := must[*broker.Grant](t)(tokens.Authenticate(forEnv(me, true, "dev")))
	if !g.BoundUID || g.UID != me || !slices.Equal(g.Profiles, []string{"dev"}) {
		t.Errorf("%+v", g)
	}
	if err := tokens.Revoke(strings.Split(first, "_")[1]); err != nil {
		t.Fatal(err)
	}
	if forEnv(me, false, "dev") == first {
		t.Error("a revoked token was handed out again")
	}
}

func TestEnvTokensDieOfIdleness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := Memory()
		i := must[Issued](t)(tokens.ForEnv(me, false, "dev"))
		named := must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil))
		for range 3 { // used, it lives on
			time.Sleep(EnvIdle)
			must[*broker.Grant](t)(tokens.Authenticate(i.Token.Reveal()))
		}
		time.Sleep(EnvIdle)
		if again := must[Issued](t)(tokens.ForEnv(me, false, "dev")); !again.Token.Equal(i.Token) {
			t.Fatal("printed, it died")
		}
		time.Sleep(EnvIdle)
		if l := tokens.List(); len(l) != 2 || l[1].Expires.Sub(l[1].LastUsed) != EnvIdle || !l[1].Expires.Equal(time.Now()) {
			t.Fatalf("%+v", l)
		}
		time.Sleep(time.Second)
		if _, err := tokens.Authenticate(i.Token.Reveal()); kindOf(err) != "unauthorized" {
			t.Fatal(err)
		}
		if err := tokens.Authorize(t.Context(), broker.Caller{Door: broker.DoorContainer, Token: i.ID}, "dev"); kindOf(err) != "unauthorized" {
			t.Fatal(err)
		}
		if _, err := tokens.Value(i.ID); err == nil {
			t.Fatal("an expired token was printed")
		}
		if l := tokens.List(); len(l) != 1 || l[0].Name != "ci" || !l[0].Expires.IsZero() {
			t.Fatalf("%+v", l)
		}
		if again := must[Issued](t)(tokens.ForEnv(me, false, "dev")); again.Token.Equal(i.Token) {
			t.Fatal("an expired token came back")
		}
		time.Sleep(10_000 * time.Hour)
		must[*broker.Grant](t)(tokens.Authenticate(named.Token.Reveal()))
	})
}

func TestAClockThatWasAheadDoesNotKeepATokenAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := Memory()
		i := must[Issued](t)(tokens.ForEnv(me, false, "dev"))
		(*tokens.live.Load())[i.ID].use.last.Store(time.Now().AddDate(10, 0, 0).Unix())
		if err := tokens.tidy(time.Now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(EnvIdle + time.Second)
		if _, err := tokens.Authenticate(i.Token.Reveal()); err == nil {
			t.Fatal("still alive")
		}
	})
}

func TestForChild(t *testing.T) {
	tokens := Memory()
	a, revoke, err := tokens.ForChild(me, false, "dev", "")
	if err != nil {
		t.Fatal(err)
	}
	b, revokeB, err := tokens.ForChild(me, false, "dev", "")
	if err != nil || b.Token.Equal(a.Token) {
		t.Fatal("two children, one token", err)
	}
	defer revokeB()
	must[*broker.Grant](t)(tokens.Authenticate(a.Token.Reveal()))
	for range 2 {
		revoke()
		if _, err := tokens.Authenticate(a.Token.Reveal()); kindOf(err) != "unauthorized" {
			t.Fatal(err)
		}
	}
	must[*broker.Grant](t)(tokens.Authenticate(b.Token.Reveal()))
}

func TestRevoke(t *testing.T) {
	tokens := Memory()
	a := must[Issued](t)(tokens.Create("a", []string{"dev"}, nil))
	b := must[Issued](t)(tokens.Create("b", []string{"dev"}, nil))
	for what, i := range map[string]Issued{"a": a, b.ID: b} {
		if err := tokens.Revoke(what); err != nil {
			t.Fatal(err)
		}
		if _, err := tokens.Authenticate(i.Token.Reveal()); kindOf(err) != "unauthorized" {
			t.Fatal(err)
		}
		if err := tokens.Authorize(t.Context(), broker.Caller{Door: broker.DoorContainer, Token: i.ID}, "dev"); kindOf(err) != "unauthorized" {
			t.Fatal("a request under way went on", err)
		}
		if err := tokens.Revoke(what); err == nil || !strings.Contains(err.Error(), "stsbroker token list") {
			t.Fatal(err)
		}
	}
	must[Issued](t)(tokens.ForEnv(me, false, "dev"))
	if err := tokens.Revoke(""); err == nil {
		t.Fatal("the empty name matched a token without one")
	}
	if again := must[Issued](t)(tokens.Create("a", []string{"dev"}, nil)); again.Token.Equal(a.Token) {
		t.Fatal("a revoked token came back")
	}
}

func TestCreateRefuses(t *testing.T) {
	tokens := Memory()
	must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil))
	long := strings.Repeat("n", broker.MaxName+1)
	for _, c := range []struct {
		name     string
		profiles []string
		want     string
	}{
		{"ci", []string{"dev"}, "already"},
		{"", []string{"dev"}, "empty"},
		{long, []string{"dev"}, "longer"},
		{"a\nb", []string{"dev"}, "printed"},
		{"a\x1b[2J", []string{"dev"}, "printed"},
		{"a\u202eb", []string{"dev"}, "printed"},
		{"a\xff", []string{"dev"}, "printed"},
		{" a", []string{"dev"}, "space"},
		{"0123456789abcdef", []string{"dev"}, "id"},
		{"x", nil, "--profile"},
		{"x", []string{""}, "empty"},
		{"x", []string{"dev", "dev"}, "twice"},
		{"x", []string{long}, "longer"},
		{"x", []string{"a\x00"}, "printed"},
	} {
		if _, err := tokens.Create(c.name, c.profiles, nil); kindOf(err) != "config" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q for %q: %v", c.name, c.profiles, err)
		}
	}
	if _, err := tokens.ForEnv(me, false, "a\n"); kindOf(err) != "config" {
		t.Error(err)
	}
	if _, revoke, err := tokens.ForChild(me, false, "", ""); kindOf(err) != "config" || revoke != nil {
		t.Error(err)
	}
	must[Issued](t)(tokens.Create("Käse & Brot", []string{"my profile"}, nil))
}

func TestBounds(t *testing.T) {
	tokens := Memory()
	seed := func(uid uint32, n int) { // as ForChild would, without a copy of the map for each
		m := *tokens.live.Load()
		for i := range n {
			k := newToken(KindExec, uid, false, "dev")
			k.grant.ID = fmt.Sprintf("%08x%08x", uid, i)
			m[k.grant.ID] = k
		}
	}
	seed(1, maxPerUser-1)
	if _, _, err := tokens.ForChild(1, false, "dev", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.ForEnv(1, false, "dev"); kindOf(err) != "config" {
		t.Fatal("one user has all the room", err)
	}
	if _, err := tokens.ForEnv(2, false, "dev"); err != nil {
		t.Fatal(err)
	}
	seed(3, maxTokens-maxPerUser-2)
	if _, err := tokens.Create("last", []string{"dev"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Create("more", []string{"dev"}, nil); kindOf(err) != "config" {
		t.Fatal(err)
	}
}

// TestCanary looks for a token's value, and for the secret, in all that can be
// printed.
func TestCanary(t *testing.T) {
	tokens := Memory()
	i := must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil))
	g := must[*broker.Grant](t)(tokens.Authenticate(i.Token.Reveal()))
	_, clash := tokens.Create("ci", []string{"dev"}, nil)
	secret := tokens.secret.Reveal()
	canaries := []string{
		i.Token.Reveal()[len(tokenPrefix)+idLength+1:], secret, fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret),
		strings.Trim(fmt.Sprint([]byte(secret)), "[]"), fmt.Sprintf("%q", secret),
	}
	var log strings.Builder
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	for _, v := range []any{i, &i, tokens, i.Token, tokens.List(), g, clash, (*tokens.live.Load())[i.ID]} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%p"} {
			fmt.Fprintf(&log, verb, v)
		}
		if j, err := json.Marshal(v); err == nil {
			log.Write(j)
		}
		logger.Info("", "v", v)
	}
	for n, c := range canaries {
		if strings.Contains(log.String(), c) {
			t.Errorf("canary %d was printed", n)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	tokens := open(t, filepath.Join(t.TempDir(), "s"))
	steady := must[Issued](t)(tokens.Create("steady", []string{"dev"}, nil))
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				g, err := tokens.Authenticate(steady.Token.Reveal())
				if err != nil {
					t.Error(err)
					return
				}
				if err := tokens.Authorize(t.Context(), broker.Caller{Door: broker.DoorContainer, Token: g.ID}, "dev"); err != nil {
					t.Error(err)
					return
				}
				tokens.List()
			}
		})
	}
	for w := range uint32(4) {
		writers.Go(func() {
			for n := range 5 {
				_, revoke, err := tokens.ForChild(w, false, "dev", "")
				if err != nil {
					t.Error(err)
					return
				}
				e, err := tokens.ForEnv(w, false, fmt.Sprint("p", n))
				if err != nil {
					t.Error(err)
					return
				}
				if err := errors.Join(tokens.Revoke(e.ID), tokens.tidy(time.Now())); err != nil {
					t.Error(err)
				}
				revoke()
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	if l := tokens.List(); len(l) != 1 || l[0].LastUsed.IsZero() {
		t.Errorf("%+v", l)
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	tokens := Memory()
	i, err := tokens.ForEnv(me, false, "dev")
	if err != nil {
		b.Fatal(err)
	}
	shown := i.Token.Reveal()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := tokens.Authenticate(shown); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A client with a long set asks again only at its end: until then its token is not idle.
func TestEnvTokenOutlivesTheSetItFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "state")
		tokens, err := Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		i, err := tokens.ForEnv(1, false, "dev")
		if err != nil {
			t.Fatal(err)
		}
		served := func(left time.Duration) {
			tokens.Observe(broker.Event{Kind: broker.EventServed, Caller: broker.Caller{Token: i.ID}, Left: left})
		}
		good := func() bool {
			_, err := tokens.Authenticate(i.Token.Reveal())
			return err == nil
		}
		served(36 * time.Hour)
		served(time.Hour) // one that ends earlier takes nothing back
		tokens.Observe(broker.Event{Kind: broker.EventMinted, Caller: broker.Caller{Token: i.ID}, Left: 1000 * time.Hour})
		tokens.Observe(broker.Event{Kind: broker.EventServed, Caller: broker.Caller{Token: "nobody"}, Left: time.Hour})
		time.Sleep(20 * time.Hour)
		if err := tokens.Close(); err != nil { // a restart does not forget it
			t.Fatal(err)
		}
		if tokens, err = Open(dir, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(16*time.Hour + EnvIdle - time.Second)
		if l := tokens.List(); len(l) != 1 || !l[0].Expires.Equal(time.Now().Add(time.Second)) || !good() {
			t.Fatalf("%+v", l)
		}
		served(1000 * time.Hour) // no set lives as long
		time.Sleep(longestSet + EnvIdle + time.Second)
		if good() {
			t.Error("it is good for ever")
		}

		// A clock that was ahead by years when a set was fetched.
		if i, err = tokens.ForEnv(1, false, "dev"); err != nil {
			t.Fatal(err)
		}
		(*tokens.live.Load())[i.ID].use.until.Store(time.Now().AddDate(5, 0, 0).Unix())
		if err := tokens.tidy(time.Now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(longestSet + EnvIdle + time.Second)
		if good() {
			t.Error("a clock that was ahead makes a token live for years")
		}
		if err := tokens.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
