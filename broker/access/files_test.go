package access

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
)

// noon is in the middle of nothing: a period begins then.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// rotate is Rotate for the file "web" of the profile dev, and returns what is written then.
func rotate(t *testing.T, tokens *Tokens, now time.Time) string {
	t.Helper()
	value, next, err := tokens.Rotate("web", []string{"dev"}, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	if wait := next.Sub(now); wait <= 0 || wait > FileLife || next.Unix()%int64(FileLife/time.Second) != 0 {
		t.Fatalf("at %v the next is due at %v", now, next)
	}
	good(t, tokens, value.Reveal())
	return value.Reveal()
}

func good(t *testing.T, tokens *Tokens, shown string) *broker.Grant {
	t.Helper()
	g, err := tokens.Authenticate(shown)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func bad(t *testing.T, tokens *Tokens, shown string) {
	t.Helper()
	if _, err := tokens.Authenticate(shown); kindOf(err) != "unauthorized" {
		t.Fatal("it is good still", err)
	}
}

func TestRotate(t *testing.T) {
	tokens := Memory()
	a := rotate(t, tokens, noon)
	for _, d := range []time.Duration{0, time.Minute, FileLife - time.Nanosecond} {
		if rotate(t, tokens, noon.Add(d)) != a {
			t.Errorf("another token after %v", d)
		}
	}
	// Whatever the place or the monotonic clock, a period is one.
	if rotate(t, tokens, noon.In(time.FixedZone("", 5*3600+45*60)).Add(time.Minute)) != a {
		t.Error("the time zone made another token")
	}
	b := rotate(t, tokens, noon.Add(FileLife))
	if a == b {
		t.Fatal("the same token in the next period")
	}
	good(t, tokens, a)
	c := rotate(t, tokens, noon.Add(2*FileLife))
	bad(t, tokens, a)
	good(t, tokens, b)
	if g := good(t, tokens, c); g.Name != "web" || !slices.Equal(g.Profiles, []string{"dev"}) || g.BoundUID || g.Exec || g.ID != strings.Split(c, "_")[1] {
		t.Errorf("%+v", g)
	}
}

func TestRotatedTokensRights(t *testing.T) {
	tokens := Memory()
	tokens.owner = me
	uid := uint32(me)
	value, _, err := tokens.Rotate("web", []string{"dev", "ops"}, &uid, noon)
	if err != nil {
		t.Fatal(err)
	}
	g := good(t, tokens, value.Reveal())
	if !g.BoundUID || g.UID != me || g.Profiles[0] != "dev" {
		t.Errorf("%+v", g)
	}
	for _, c := range []struct {
		profile string
		peer    broker.Peer
		want    string
	}{
		{"dev", broker.NewPeer(me, 1), "<nil>"},
		{"ops", broker.NewPeer(0, 1), "<nil>"},
		{"dev", broker.NewPeer(1001, 1), "forbidden"},
		{"dev", broker.Peer{}, "forbidden"},
		{"prod", broker.NewPeer(me, 1), "forbidden"},
	} {
		err := tokens.Authorize(t.Context(), broker.Caller{Door: broker.DoorContainer, Token: g.ID, Peer: c.peer}, c.profile)
		if kindOf(err) != c.want {
			t.Errorf("%s for %+v: %v, want %s", c.profile, c.peer, err, c.want)
		}
	}
	shown, ctx := value.Reveal(), t.Context()
	who := broker.Caller{Door: broker.DoorContainer, Token: g.ID, Peer: broker.NewPeer(me, 1)}
	if n := testing.AllocsPerRun(100, func() {
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

// A clock that is set between two calls ends neither what the file has nor what
// it had until then.
func TestRotateWhileTheClockIsSet(t *testing.T) {
	for name, steps := range map[string][]time.Duration{
		"an hour back":              {0, -time.Hour, 0, time.Hour},
		"a second back over a turn": {0, -time.Second, 0, -time.Second, 0},
		"a day forward":             {0, 24 * time.Hour, 25 * time.Hour},
		"a day forward and back":    {0, 24 * time.Hour, time.Minute, time.Hour},
		"a year back and forward":   {0, -365 * 24 * time.Hour, time.Hour},
		"from 1970":                 {time.Unix(30, 0).Sub(noon), 0, time.Hour},
		"before 1970":               {time.Unix(-30, 0).Sub(noon), time.Unix(30, 0).Sub(noon), 0},
		"to and fro within minutes": {0, time.Hour, time.Minute, time.Hour + time.Minute, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			tokens := Memory()
			inFile := ""
			for _, at := range steps {
				now := noon.Add(at)
				if inFile != "" {
					good(t, tokens, inFile)
				}
				returned := rotate(t, tokens, now)
				if inFile != "" {
					good(t, tokens, inFile) // not written yet, or just read
				}
				rotate(t, tokens, now) // again at once: nothing new, and so nothing ends
				if inFile != "" {
					good(t, tokens, inFile)
				}
				inFile = returned
				if n := len(*tokens.live.Load()); n > 3 {
					t.Fatalf("%d tokens of one file", n)
				}
				if l := tokens.List(); len(l) != 1 || l[0].ID != strings.Split(inFile, "_")[1] {
					t.Fatalf("the list has another token than the file: %+v", l)
				}
			}
		})
	}
}

// A laptop sleeps, or the writer is stuck: nothing ends without a call.
func TestRotatedTokensOutliveALateCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := Memory()
		before := rotate(t, tokens, time.Now().Add(-FileLife))
		a := rotate(t, tokens, time.Now())
		time.Sleep(100 * time.Hour)
		if err := tokens.tidy(time.Now()); err != nil {
			t.Fatal(err)
		}
		must[Issued](t)(tokens.ForEnv(me, false, "dev")) // forgets what is expired
		good(t, tokens, before)
		good(t, tokens, a)
		b := rotate(t, tokens, time.Now())
		bad(t, tokens, before)
		good(t, tokens, a)
		good(t, tokens, b)
	})
}

// Killed and started again, also in the next period, the broker knows what clients have read.
func TestRotatedTokensSurviveAKill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	first := open(t, dir)
	uid := uint32(me)
	rights := func(tokens *Tokens, now time.Time) string {
		t.Helper()
		value, _, err := tokens.Rotate("db", []string{"ops", "dev"}, &uid, now)
		if err != nil {
			t.Fatal(err)
		}
		return value.Reveal()
	}
	before, beforeDB := rotate(t, first, noon.Add(-FileLife)), rights(first, noon.Add(-FileLife))
	a, aDB := rotate(t, first, noon), rights(first, noon)
	named := must[Issued](t)(first.Create("ci", []string{"dev"}, nil)) // writes the list
	must[*broker.Grant](t)(first.Authenticate(a))
	if disk := must[[]byte](t)(os.ReadFile(filepath.Join(dir, listFile))); bytes.Contains(disk, []byte("web")) || !bytes.Contains(disk, []byte("ci")) {
		t.Fatalf("%s", disk)
	}
	first.state.release() // all that a kill does: the kernel drops the lock

	for _, c := range []struct {
		name string
		now  time.Time
		good []string
		bad  []string
	}{
		{"at once", noon.Add(time.Minute), []string{before, beforeDB, a, aDB}, nil},
		{"in the next period", noon.Add(FileLife + time.Minute), []string{a, aDB}, []string{before, beforeDB}},
		{"a day later", noon.Add(24 * time.Hour), nil, []string{before, beforeDB, a, aDB}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tokens := open(t, dir)
			for _, v := range append(c.good, c.bad...) {
				bad(t, tokens, v) // until the configuration has said which files there are
			}
			rotate(t, tokens, c.now)
			rights(tokens, c.now)
			for _, v := range c.good {
				good(t, tokens, v)
			}
			for _, v := range c.bad {
				bad(t, tokens, v)
			}
			good(t, tokens, named.Token.Reveal())
			if err := tokens.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("another secret", func(t *testing.T) {
		tokens := open(t, filepath.Join(t.TempDir(), "s"))
		if rotate(t, tokens, noon) == a {
			t.Error("two brokers, one token")
		}
		bad(t, tokens, a)
	})
}

// One name with other rights has other ids and values, in this process and the next.
func TestRotateWithOtherRights(t *testing.T) {
	secret := Memory().secret
	mine, root := uint32(me), uint32(0)
	type right struct {
		name     string
		profiles []string
		uid      *uint32
	}
	base := right{"web", []string{"dev"}, nil}
	others := []right{
		{"web", []string{"ops"}, nil},
		{"web", []string{"dev", "ops"}, nil},
		{"web", []string{"ops", "dev"}, nil}, // the first is the default
		{"web", []string{"dev ops"}, nil},
		{"web", []string{"dev"}, &mine},
		{"web", []string{"dev"}, &root},
		{"web", []string{"dev dev"}, nil},
		{"web2", []string{"dev"}, nil},
		{"web dev", []string{"dev"}, nil},
		{"w", []string{"dev"}, nil},
	}
	run := func(tokens *Tokens, r right) string {
		t.Helper()
		value, _, err := tokens.Rotate(r.name, r.profiles, r.uid, noon)
		if err != nil {
			t.Fatal(err)
		}
		return value.Reveal()
	}
	seen := map[string]bool{}
	for _, r := range others {
		tokens := newTokens(nil) // as after a restart
		tokens.secret = secret
		tokens.publish(map[string]*token{})
		value := run(tokens, r)
		for id := range *tokens.live.Load() {
			if seen[id] {
				t.Errorf("%+v has the id of another right", r)
			}
			seen[id] = true
		}

		// And in one process: the old token is gone at once where the name is the same.
		was := run(tokens, base)
		if g := good(t, tokens, was); was == value || g.Name != base.name || g.BoundUID || !slices.Equal(g.Profiles, base.profiles) {
			t.Errorf("after %+v, %+v", r, g)
		}
		now := run(tokens, r)
		if now != value {
			t.Errorf("%+v: another token than after a restart", r)
		}
		if g := good(t, tokens, now); g.Name != r.name || g.BoundUID != (r.uid != nil) || !slices.Equal(g.Profiles, r.profiles) {
			t.Errorf("for %+v, %+v", r, g)
		}
		if r.name == base.name {
			bad(t, tokens, was)
		} else {
			good(t, tokens, was)
		}
	}

	// Two files of one right are two, and each turns for itself.
	tokens := Memory()
	a, b := run(tokens, right{"a", []string{"dev"}, nil}), run(tokens, right{"b", []string{"dev"}, nil})
	for n := range 3 {
		if _, _, err := tokens.Rotate("a", []string{"dev"}, nil, noon.Add(time.Duration(n)*FileLife)); err != nil {
			t.Fatal(err)
		}
	}
	bad(t, tokens, a)
	good(t, tokens, b)
}

// What the caller does with its slice later does not change a right.
func TestRotateKeepsItsOwnProfiles(t *testing.T) {
	tokens := Memory()
	profiles := []string{"dev"}
	value, _, err := tokens.Rotate("web", profiles, nil, noon)
	if err != nil {
		t.Fatal(err)
	}
	profiles[0] = "prod"
	tokens.List()[0].Profiles[0] = "prod"
	if g := good(t, tokens, value.Reveal()); g.Profiles[0] != "dev" {
		t.Error(g.Profiles)
	}
}

// An id that another token has is left to it, and the file's own stays what it is.
func TestRotateWhereAnIdIsTaken(t *testing.T) {
	probe := Memory()
	rotate(t, probe, noon)
	for taken, k := range *probe.live.Load() {
		tokens := newTokens(nil)
		tokens.secret = probe.secret
		other := newToken(KindEnv, me, false, "prod")
		other.grant.ID, other.created = taken, time.Now()
		other.seal(tokens.secret)
		tokens.publish(map[string]*token{taken: other})
		value := derive(tokens.secret, other)
		if value == derive(tokens.secret, k) {
			t.Fatal("two kinds with one id have one value")
		}
		for range 2 { // the second time with its own tokens there
			inFile := rotate(t, tokens, noon)
			if g := good(t, tokens, inFile); g.ID == taken || g.Profiles[0] != "dev" {
				t.Errorf("%+v", g)
			}
			if g := good(t, tokens, value); g.Profiles[0] != "prod" {
				t.Errorf("%+v", g)
			}
		}
		a := rotate(t, tokens, noon)
		rotate(t, tokens, noon.Add(FileLife))
		good(t, tokens, a)
		good(t, tokens, value)
		if n := len(*tokens.live.Load()); n != 3 {
			t.Errorf("%d tokens", n)
		}
	}
}

// A file's token and another of the same id, which was revoked or expired, have different values.
func TestNoTokenIsTakenForAFiles(t *testing.T) {
	tokens := Memory()
	inFile := rotate(t, tokens, noon)
	id, _ := idOf(inFile)
	for _, kind := range []Kind{KindNamed, KindEnv, KindExec} {
		k := newToken(kind, 0, false, "dev")
		k.grant.ID = id
		bad(t, tokens, derive(tokens.secret, k))
	}
	if _, _, err := tokens.ForChild(0, false, "dev", inFile); kindOf(err) != "config" {
		t.Error("a child went on with a file's token", err)
	}
}

func TestListOfFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := Memory()
		now := func() time.Time { return time.Now() }
		env := must[Issued](t)(tokens.ForEnv(me, false, "dev"))
		must[Issued](t)(tokens.Create("zoo", []string{"dev"}, nil))
		if _, _, err := tokens.Rotate("api", []string{"ops"}, nil, now()); err != nil {
			t.Fatal(err)
		}
		rotate(t, tokens, now())
		names := func() (out []string) {
			for _, i := range tokens.List() {
				out = append(out, string(i.Kind)+" "+i.Name)
			}
			return out
		}
		want := []string{"named zoo", "env ", "file api", "file web"}
		if got := names(); !slices.Equal(got, want) {
			t.Fatalf("%q", got)
		}
		var inFile, before string
		for range 3 {
			time.Sleep(FileLife)
			must[*broker.Grant](t)(tokens.Authenticate(env.Token.Reveal()))
			before, inFile = inFile, rotate(t, tokens, now())
			if got := names(); !slices.Equal(got, want) {
				t.Fatalf("%q", got)
			}
		}
		line := func() Info { l := tokens.List(); return l[len(l)-1] }
		i := line()
		if !strings.Contains(inFile, i.ID) || !i.Created.Equal(now().Truncate(FileLife)) || !i.Expires.IsZero() || i.Bound || !slices.Equal(i.Profiles, []string{"dev"}) {
			t.Errorf("%+v", i)
		}
		time.Sleep(10 * time.Second)
		must[*broker.Grant](t)(tokens.Authenticate(before))
		if !line().LastUsed.Equal(now().Truncate(time.Second)) {
			t.Errorf("the use of the token before does not show: %+v", line())
		}
		used := line().LastUsed
		time.Sleep(FileLife)
		if _, _, err := tokens.Rotate("web", []string{"dev"}, nil, now()); err != nil {
			t.Fatal(err)
		}
		if !line().LastUsed.Equal(used) {
			t.Errorf("a turn is taken for a use, or forgets it: %+v", line())
		}
		for range 100 { // maps have no order
			if v := must[broker.Secret](t)(tokens.Value("web")).Reveal(); !strings.Contains(v, line().ID) {
				t.Fatal("by its name it is another token than in the list")
			}
		}
	})
}

// A file's token of a period that, by the clock set back since, is to come.
func TestTidyIsNoUseOfAFile(t *testing.T) {
	tokens := Memory()
	if _, _, err := tokens.Rotate("web", []string{"dev"}, nil, time.Now().Add(48*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := tokens.tidy(time.Now()); err != nil {
		t.Fatal(err)
	}
	if l := tokens.List(); len(l) != 1 || !l[0].LastUsed.IsZero() {
		t.Errorf("%+v", l)
	}
	if tokens.used.Load() {
		t.Error("the list is to be written for what is not in it")
	}
}

func TestNamesOfFilesAndTokens(t *testing.T) {
	tokens := Memory()
	ci := must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil))
	inFile := rotate(t, tokens, noon)
	rotate(t, tokens, noon.Add(FileLife))

	if _, err := tokens.Create("web", []string{"dev"}, nil); kindOf(err) != "config" || !strings.Contains(err.Error(), "token file") {
		t.Error(err)
	}
	count := len(*tokens.live.Load())
	long := strings.Repeat("n", broker.MaxName+1)
	for _, c := range []struct {
		name     string
		profiles []string
		want     string
	}{
		{"ci", []string{"dev"}, "stsbroker token revoke " + ci.ID},
		{"", []string{"dev"}, "empty"},
		{long, []string{"dev"}, "longer"},
		{"a\x00b", []string{"dev"}, "printed"},
		{"0123456789abcdef", []string{"dev"}, "id"},
		{"x", nil, "profile"},
		{"x", []string{"dev", "dev"}, "twice"},
		{"x", []string{"a\x00b"}, "printed"},
	} {
		value, _, err := tokens.Rotate(c.name, c.profiles, nil, noon)
		if kindOf(err) != "config" || !strings.Contains(err.Error(), c.want) || !value.IsZero() {
			t.Errorf("%q for %q: %v", c.name, c.profiles, err)
		}
	}
	if len(*tokens.live.Load()) != count {
		t.Error("a refusal changed something")
	}

	id, _ := idOf(inFile)
	for _, what := range []string{"web", tokens.List()[1].ID, id} {
		if err := tokens.Revoke(what); kindOf(err) != "config" || !strings.Contains(err.Error(), `"web"`) || !strings.Contains(err.Error(), "configuration") {
			t.Error(err)
		}
	}
	good(t, tokens, inFile)
	if err := tokens.Revoke("ci"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := tokens.Rotate("ci", []string{"dev"}, nil, noon); err != nil {
		t.Error("the name is free, and was refused:", err)
	}
}

// Files take nobody's room, and find room where there is none for others.
func TestFilesAndTheBounds(t *testing.T) {
	tokens := Memory()
	uid := uint32(1)
	for n := range maxPerUser / 2 { // two tokens each
		m := *tokens.live.Load()
		for _, at := range []time.Time{noon, noon.Add(-FileLife)} {
			k := &token{kind: KindFile, uid: uid, created: at, use: new(usage), grant: broker.Grant{Name: fmt.Sprint(n), Profiles: []string{"dev"}, UID: uid, BoundUID: true}}
			tokens.addFile(m, k)
		}
	}
	if n := len(*tokens.live.Load()); n != maxPerUser {
		t.Fatal(n)
	}
	if _, err := tokens.ForEnv(uid, true, "dev"); err != nil {
		t.Fatal(err)
	}
	m := *tokens.live.Load()
	for i := range maxTokens - len(m) {
		k := newToken(KindExec, 2, false, "dev")
		k.grant.ID = fmt.Sprintf("%016x", i)
		m[k.grant.ID] = k
	}
	if _, err := tokens.Create("more", []string{"dev"}, nil); kindOf(err) != "config" {
		t.Fatal(err)
	}
	a := rotate(t, tokens, noon)
	rotate(t, tokens, noon.Add(FileLife))
	good(t, tokens, a)
}

// TestRotateWhileClientsAsk has clients that read the file and show what it has, as
// SDKs do, while its token turns, forth and back, and others make and end theirs.
func TestRotateWhileClientsAsk(t *testing.T) {
	tokens := open(t, filepath.Join(t.TempDir(), "s"))
	var file atomic.Pointer[string] // what is written now
	write := func(at time.Time) {
		value, _, err := tokens.Rotate("web", []string{"dev"}, nil, at)
		if err != nil {
			t.Error(err)
			return
		}
		v := value.Reveal()
		file.Store(&v)
	}
	write(noon)
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	var asked atomic.Int64
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				shown := file.Load()
				g, err := tokens.Authenticate(*shown)
				switch {
				case err == nil:
					asked.Add(1)
					if g.Name != "web" || g.Profiles[0] != "dev" {
						t.Errorf("%+v", g)
					}
				case shown == file.Load(): // no write since: it is the file's own
					t.Error(err)
					return
				}
				l := slices.DeleteFunc(tokens.List(), func(i Info) bool { return i.Kind != KindFile })
				if len(l) != 1 {
					t.Errorf("the file has not one line: %+v", l)
				}
			}
		})
	}
	writers.Go(func() {
		for n := range 400 {
			write(noon.Add(time.Duration(n%7-n%3) * FileLife))
		}
	})
	writers.Go(func() {
		for n := range 10 {
			e, err := tokens.ForEnv(1, false, fmt.Sprint("p", n))
			if err != nil {
				t.Error(err)
				return
			}
			if err := errors.Join(tokens.KeepFile(e.ID), tokens.tidy(time.Now())); err != nil {
				t.Error(err)
			}
		}
	})
	writers.Wait()
	for asked.Load() == 0 && !t.Failed() {
		runtime.Gosched()
	}
	close(stop)
	readers.Wait()
	if n := len(tokens.EnvFiles()); n != 10 {
		t.Errorf("%d env files", n)
	}
}

func TestKeepFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	synctest.Test(t, func(t *testing.T) {
		tokens := open(t, dir)
		defer tokens.Close()
		a := must[Issued](t)(tokens.ForEnv(me, false, "a"))
		time.Sleep(time.Minute)
		b := must[Issued](t)(tokens.ForEnv(me, true, "b"))
		must[Issued](t)(tokens.ForEnv(me, false, "not in a file"))
		named := must[Issued](t)(tokens.Create("ci", []string{"dev"}, nil))
		child, revoke, err := tokens.ForChild(me, false, "dev", "")
		if err != nil {
			t.Fatal(err)
		}
		defer revoke()
		rotate(t, tokens, time.Now())
		if len(tokens.EnvFiles()) != 0 {
			t.Fatalf("%+v", tokens.EnvFiles())
		}
		list := tokens.List()
		for _, id := range []string{"", "ci", named.ID, child.ID, list[len(list)-1].ID, "0000000000000000", strings.Repeat("\n", 1<<16)} {
			if err := tokens.KeepFile(id); kindOf(err) != "config" || len(err.Error()) > 1000 || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: %v", id, err)
			}
		}
		g := must[*broker.Grant](t)(tokens.Authenticate(a.Token.Reveal())) // a request under way
		for _, id := range []string{b.ID, a.ID, a.ID} {
			if err := tokens.KeepFile(id); err != nil {
				t.Fatal(err)
			}
		}
		if g.ID != a.ID || !slices.Equal(g.Profiles, []string{"a"}) {
			t.Errorf("%+v", g)
		}
		check := func(want ...Issued) {
			t.Helper()
			got := tokens.EnvFiles()
			if len(got) != len(want) {
				t.Fatalf("%+v", got)
			}
			for i := range got {
				if got[i].ID != want[i].ID || !got[i].Token.Equal(want[i].Token) || got[i].UID != me || got[i].Bound != want[i].Bound {
					t.Errorf("%+v, want %+v", got[i], want[i])
				}
			}
		}
		check(a, b)
		restart := func() {
			t.Helper()
			tokens.state.release() // killed: what counts is on disk already
			tokens = open(t, dir)
		}
		restart()
		check(a, b)
		if again := must[Issued](t)(tokens.ForEnv(me, false, "a")); again.ID != a.ID {
			t.Error("in a file, it is another token for the shell")
		}
		time.Sleep(EnvIdle - time.Minute)
		check(a, b) // looking is no use, of b the twelfth hour has begun
		must[*broker.Grant](t)(tokens.Authenticate(a.Token.Reveal()))
		time.Sleep(2 * time.Minute)
		check(a)
		if err := tokens.tidy(time.Now()); err != nil { // writes that a was used
			t.Fatal(err)
		}
		if err := tokens.KeepFile(b.ID); err == nil {
			t.Error("an expired token was kept")
		}
		restart()
		check(a)
		if err := tokens.Revoke(a.ID); err != nil {
			t.Fatal(err)
		}
		check()
		restart()
		check()
		if err := tokens.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestKeepFileOnADiskThatFails(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("not run: an open folder cannot be moved on Windows")
	}
	dir := filepath.Join(t.TempDir(), "s")
	tokens := open(t, dir)
	i := must[Issued](t)(tokens.ForEnv(me, false, "dev"))
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := tokens.KeepFile(i.ID); kindOf(err) != "config" || !strings.Contains(err.Error(), "after a restart") {
		t.Fatal(err)
	}
	if l := tokens.EnvFiles(); len(l) != 0 {
		t.Fatalf("noted in memory alone: %+v", l)
	}
	rotate(t, tokens, noon) // needs no disk
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if err := tokens.KeepFile(i.ID); err != nil || len(tokens.EnvFiles()) != 1 {
		t.Fatal(err)
	}
}

// A list of before there was a field "file", byte for byte as it was written then.
func TestOldList(t *testing.T) {
	secret := broker.NewSecret(strings.Repeat("ab", 16))
	body := `[
	{
		"id": "00000000000000aa",
		"kind": "env",
		"profiles": [
			"dev"
		],
		"uid": 1000,
		"created": "2026-03-01T12:00:00Z",
		"last_used": 1772366400
	},
	{
		"id": "00000000000000bb",
		"name": "ci",
		"kind": "named",
		"profiles": [
			"dev"
		],
		"uid": 0,
		"created": "2026-03-01T12:00:00Z"
	}
]`
	old := signed(secret, body)
	m, err := decode(secret, old)
	if err != nil || len(m) != 2 || m["00000000000000aa"].inFile {
		t.Fatal(m, err)
	}
	if again := encode(secret, m); !bytes.Equal(again, old) {
		t.Errorf("a list without the field gained it:\n%s", again)
	}
	m["00000000000000aa"].inFile = true
	again, err := decode(secret, encode(secret, m))
	if err != nil || !again["00000000000000aa"].inFile || again["00000000000000bb"].inFile {
		t.Error(again, err)
	}
	var l list
	if err := json.Unmarshal(encode(secret, m), &l); err != nil || !strings.Contains(string(l.Tokens), `"file": true`) {
		t.Error(err)
	}
}
