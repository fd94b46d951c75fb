package credfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// childVariable makes the test binary write the file that it names, say so, and
// wait to be killed.
const childVariable = "CREDFILE_TEST_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childVariable); path != "" {
		leave(path)
	}
	os.Exit(m.Run())
}

func leave(path string) {
	b := broker.New(broker.Options{Store: noStore{}, Access: everybody{}, Observer: nobody{}})
	go func() { _ = b.Run(context.Background()) }()
	b.Reload([]broker.Profile{{Name: "dev", Minter: &minter{name: "dev", life: time.Hour}}})
	_, err := b.Get(context.Background(), broker.Ask{Profile: "dev", Patience: time.Minute})
	if err == nil {
		var w *Writer
		if w, err = New(File{Path: path, Profiles: []string{"dev"}}, b, me, func(err error) { fmt.Println(err) }); err == nil {
			go func() { _ = w.Run(context.Background()) }()
			for !IsOurs(path) {
				runtime.Gosched()
			}
		}
	}
	fmt.Println("written", err)
	select {}
}

// TestTheSDKReadsTheFile compares with the AWS SDK's own reader, profile by
// profile, and with what a program gets that only knows the file's path.
func TestTheSDKReadsTheFile(t *testing.T) {
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	path := place(t)
	dev, team := newSet(t, "dev", time.Hour), newSet(t, "ops", 2*time.Hour)
	s, r := &sets{}, &reports{}
	s.set("dev", dev)
	s.set("team/ops @x", team)
	w := newWriter(t, path, s, r, "dev", "team/ops @x", "none")
	w.look(t.Context())
	holds(t, path, "dev", dev)
	holds(t, path, "default", dev)
	holds(t, path, "team/ops @x", team)
	holds(t, path, "none", nil)
	for _, set := range []*broker.Set{dev, team} {
		if !strings.Contains(text(t, path), "\n# until "+set.Expiration()+"\naws_access_key_id = "+set.AccessKeyID+"\n") {
			t.Errorf("no expiry above the keys of %s", set.AccessKeyID)
		}
	}

	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", path)
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	for profile, want := range map[string]*broker.Set{"": dev, "team/ops @x": team} {
		t.Setenv("AWS_PROFILE", profile)
		cfg, err := config.LoadDefaultConfig(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, err := cfg.Credentials.Retrieve(t.Context())
		if err != nil || got.AccessKeyID != want.AccessKeyID || got.SessionToken != want.SessionToken.Reveal() {
			t.Errorf("AWS_PROFILE=%q: %q, %v; want %q", profile, got.AccessKeyID, err, want.AccessKeyID)
		}
	}

	// The first alone is the default, also when it has nothing to show.
	s.set("dev", nil)
	w.look(t.Context())
	holds(t, path, "default", nil)
	holds(t, path, "team/ops @x", team)

	own := place(t)
	s.set("default", team)
	newWriter(t, own, s, r, "default").look(t.Context())
	holds(t, own, "default", team)
	if n := strings.Count(text(t, own), "\n["); n != 1 {
		t.Errorf("%d sections", n)
	}
	lines(t, r)
}

// TestADay keeps a file for two profiles of a real broker, from a cold start:
// nobody ever reads an expired set, or misses one, and a new one is there at once.
func TestADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		outage := func(n int) error { // each third mint takes some tries, and each takes a while
			time.Sleep(300 * time.Millisecond)
			if n%3 == 2 {
				return errors.New("STS is away")
			}
			return nil
		}
		dev := &minter{name: "dev", life: time.Hour, before: outage}
		ops := &minter{name: "ops", life: 15 * time.Minute}
		path, r, events := place(t), &reports{}, &relay{}
		b := newBroker(t, events, dev, ops)
		w := newWriter(t, path, b, r, "dev", "ops")
		events.add(w)
		minted := make(chan string, 100)
		events.add(observer(func(e broker.Event) {
			if e.Kind == broker.EventMinted {
				minted <- e.KeyID
			}
		}))
		stop := run(t, w)
		pass(2 * time.Second) // the start
		n := 0
		for began := time.Now(); time.Since(began) < 24*time.Hour; {
			select {
			case key := <-minted:
				pass(settle + 10*time.Millisecond)
				if !strings.Contains(text(t, path), key) {
					t.Fatalf("%v: the new set of %s is not in the file", time.Now(), key)
				}
				n++
			case <-time.After(30 * time.Second):
			}
			for _, profile := range []string{"dev", "default", "ops"} {
				set, err := b.Get(t.Context(), broker.Ask{Profile: strings.Replace(profile, "default", "dev", 1)})
				if err != nil {
					t.Fatal(err)
				}
				holds(t, path, profile, set)
			}
			if t.Failed() {
				t.Fatal(time.Now())
			}
		}
		if n < 100 {
			t.Errorf("only %d mints", n)
		}
		if err := stop(); err != nil || exists(t, path) {
			t.Errorf("after the end: %v, there is a file: %v", err, exists(t, path))
		}
		lines(t, r)
	})
}

type observer func(broker.Event)

func (f observer) Observe(e broker.Event) { f(e) }

// TestRefusedAtFirst is about prefetched profiles, which is what New asks for.
func TestRefusedAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &minter{name: "dev", life: time.Hour, before: func(n int) error {
			if n <= 4 {
				return &broker.Error{Kind: broker.KindDenied, Public: "no"}
			}
			return nil
		}}
		path, events := place(t), &relay{}
		w := newWriter(t, path, newBroker(t, events, m), &reports{}, "dev")
		events.add(w)
		run(t, w)
		pass(time.Second)
		if exists(t, path) {
			t.Fatal("a file of nothing")
		}
		pass(time.Minute)
		if got := sdk(t, path, "dev"); got.AccessKeyID != keyID("dev", 5) {
			t.Errorf("the SDK reads %q", got.AccessKeyID)
		}
	})
}

// TestExpiry has a source that goes on handing out what has expired.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path, s, r := place(t), &sets{}, &reports{}
		pass(700 * time.Millisecond) // expiries are between whole seconds, then
		short, long := newSet(t, "short", 20*time.Minute), newSet(t, "long", time.Hour)
		s.set("short", short)
		s.set("long", long)
		run(t, newWriter(t, path, s, r, "short", "long"))
		at := func(moment time.Time) {
			pass(time.Until(moment))
		}
		until := func(set *broker.Set) time.Time {
			u, err := time.Parse(time.RFC3339, set.Expiration())
			if err != nil {
				t.Fatal(err)
			}
			return u
		}
		at(until(short).Add(-time.Millisecond))
		holds(t, path, "short", short)
		holds(t, path, "default", short)
		at(until(short))
		holds(t, path, "short", nil)
		holds(t, path, "default", nil)
		holds(t, path, "long", long)
		at(until(long).Add(-time.Millisecond))
		holds(t, path, "long", long)
		at(until(long))
		if exists(t, path) {
			t.Error("the file is there, with nothing in it")
		}
		lines(t, r)
	})
}

// TestLeft is the clocks: the stricter of the set's own measure, which has both
// of them in it, and of the expiry that the file tells.
func TestLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := newSet(t, "dev", time.Hour)
		s, err := newSection("dev", set)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		wall := func(d time.Duration) time.Time { return now.Round(0).Add(d) } // no monotonic part: the wall clock moved alone
		for _, c := range []struct {
			what string
			now  time.Time
			good bool
		}{
			{"at once", now, true},
			{"after 58 minutes", now.Add(58 * time.Minute), true},
			{"after 59 minutes", now.Add(59 * time.Minute), false},
			{"a suspend of 58 minutes", wall(58 * time.Minute), true},
			{"a suspend of 59 minutes", wall(59 * time.Minute), false},
			{"a suspend of a night", wall(8 * time.Hour), false},
		} {
			if left := s.left(c.now); left > 0 != c.good {
				t.Errorf("%s: %v left", c.what, left)
			}
		}
		// Set back by two hours, the wall clock says that there is time. The set knows better.
		pass(time.Hour)
		s.until = s.until.Add(2 * time.Hour)
		if left := s.left(time.Now()); left > 0 {
			t.Errorf("after an hour with the clock set back: %v left", left)
		}
	})
}

// TestWithdrawn finds within a minute what no event tells of, and at once what one does.
func TestWithdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path, s := place(t), &sets{}
		set := newSet(t, "dev", 12*time.Hour)
		s.set("dev", set)
		w := newWriter(t, path, s, &reports{}, "dev")
		run(t, w)
		pass(time.Hour)
		holds(t, path, "dev", set)
		s.set("dev", nil)
		pass(longestPause)
		if exists(t, path) {
			t.Fatal("what the source no longer hands out is in the file after a minute")
		}
		s.set("dev", set)
		pass(longestPause)
		holds(t, path, "dev", set)

		if err := os.Remove(path); err != nil { // by somebody's broom
			t.Fatal(err)
		}
		pass(longestPause)
		holds(t, path, "dev", set)

		pass(10 * time.Minute)
		for kind, asked := range map[broker.EventKind]bool{
			broker.EventMinted: true, broker.EventClockStep: true,
			broker.EventServed: false, broker.EventRefused: false, broker.EventMintFailed: false, broker.EventLapsed: false,
		} {
			pass(time.Until(time.Now().Truncate(time.Minute).Add(time.Hour))) // far from a nudge's looks
			before := s.count()
			w.Observe(broker.Event{Kind: kind})
			pass(settle)
			if n := s.count() - before; (n > 0) != asked {
				t.Errorf("event %d: the source was asked %d times", kind, n)
			}
		}
		pass(time.Hour)
		before := s.count()
		pass(time.Hour)
		if n := s.count() - before; n != 60 {
			t.Errorf("asked %d times in a quiet hour", n)
		}
	})
}

// TestNudges has many at once: none blocks, and they are looked at together.
func TestNudges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sets{}
		w := newWriter(t, place(t), s, &reports{}, "dev")
		for range 10 { // before Run too
			w.Observe(broker.Event{Kind: broker.EventMinted})
		}
		run(t, w)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for range 100 {
					w.Observe(broker.Event{Kind: broker.EventMinted})
				}
			})
		}
		wg.Wait()
		pass(500 * time.Millisecond)
		if n := s.count(); n == 0 || n > 4 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestWrittenOnlyWhenItDiffers(t *testing.T) {
	path, s := place(t), &sets{}
	s.set("dev", newSet(t, "dev", time.Hour))
	w := newWriter(t, path, s, &reports{}, "dev")
	stat := func() fs.FileInfo {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	if changed, _ := w.look(t.Context()); !changed {
		t.Fatal("nothing was written")
	}
	first := stat()
	if changed, _ := w.look(t.Context()); changed || !os.SameFile(first, stat()) {
		t.Error("the same was written again")
	}
	s.set("dev", newSet(t, "ops", time.Hour))
	if changed, _ := w.look(t.Context()); !changed || os.SameFile(first, stat()) {
		t.Error("another set was not written, or into the file that a reader has open")
	}
}

// TestUnusable has sets that a file could carry only broken, or not at all.
func TestUnusable(t *testing.T) {
	good := newSet(t, "ops", time.Hour)
	for name, c := range map[string]struct {
		spoil func(*broker.Set)
		want  string
	}{
		"line break":      {func(s *broker.Set) { s.SessionToken = broker.NewSecret("abc\n[admin]\naws_access_key_id = AKIAEVIL") }, "session token holds"},
		"carriage return": {func(s *broker.Set) { s.SecretAccessKey = broker.NewSecret("abc\rdef") }, "secret access key holds"},
		"zero byte":       {func(s *broker.Set) { s.SessionToken = broker.NewSecret("abc\x00") }, "session token holds"},
		"escape":          {func(s *broker.Set) { s.SessionToken = broker.NewSecret("abc\x1b[2J") }, "session token holds"},
		"next line":       {func(s *broker.Set) { s.SessionToken = broker.NewSecret("abc\u0085def") }, "session token holds"},
		"line separator":  {func(s *broker.Set) { s.SessionToken = broker.NewSecret("abc\u2028def") }, "session token holds"},
		"blank":           {func(s *broker.Set) { s.SessionToken = broker.NewSecret("abc def") }, "session token holds"},
		"comment":         {func(s *broker.Set) { s.SessionToken = broker.NewSecret("#abc") }, "session token holds"},
		"quotes":          {func(s *broker.Set) { s.SecretAccessKey = broker.NewSecret(`"abc"`) }, "secret access key holds"},
		"key id":          {func(s *broker.Set) { s.AccessKeyID = "ASIA\nx" }, "access key id holds"},
		"no key id":       {func(s *broker.Set) { s.AccessKeyID = "" }, "credentials have no access key id"},
		"no secret":       {func(s *broker.Set) { s.SecretAccessKey = broker.Secret{} }, "credentials have no secret access key"},
		"no token":        {func(s *broker.Set) { s.SessionToken = broker.Secret{} }, "credentials have no session token"},
		"no expiry":       {func(s *broker.Set) { s.Advertised = time.Time{} }, "credentials have no expiry"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := *newSet(t, "dev", time.Hour)
			c.spoil(&bad)
			path, s, r := place(t), &sets{}, &reports{}
			s.set("dev", &bad)
			s.set("ops", good)
			w := newWriter(t, path, s, r, "dev", "ops")
			for range 3 {
				w.look(t.Context())
			}
			lines(t, r, "profile dev is left out of the credentials file: its "+c.want)
			holds(t, path, "dev", nil)
			holds(t, path, "default", nil)
			holds(t, path, "ops", good)
			if strings.Contains(text(t, path), "abc") || strings.Contains(strings.Join(r.all(), ""), "abc") {
				t.Error("a part of it is in the file or in the report")
			}
			s.set("dev", good)
			w.look(t.Context())
			holds(t, path, "dev", good)
			s.set("dev", &bad)
			w.look(t.Context())
			if n := len(r.all()); n != 2 {
				t.Errorf("reported %d times; once for each spell was due", n)
			}
		})
	}
}

func TestCheckProfiles(t *testing.T) {
	for name, want := range map[string]string{
		"":               "its name is empty",
		"a]":             "holds one of",
		"[a":             "holds one of",
		"a\nb":           "not printable",
		"a\tb":           "not printable",
		"a\xff":          "not printable",
		"a\u2028":        "not printable",
		" a":             "a blank",
		"a ":             "a blank",
		"a  b":           "a blank",
		"a#b":            "holds one of",
		"a;b":            "holds one of",
		`"a"`:            "holds one of",
		"DEFAULT":        "Python",
		"profile a":      "type of a section",
		"sso-session a":  "type of a section",
		"services a":     "type of a section",
		"a":              "",
		"default":        "",
		"Default":        "",
		"profile":        "",
		"profiles a":     "",
		"a b c":          "",
		"team/a=b:c@x":   "",
		"größe":          "",
		"a.b-c_d+e,f%g":  "",
		"{a}(b)!$&*?~^|": "",
	} {
		err := CheckProfiles([]string{name})
		if got := fmt.Sprint(err); (err == nil) != (want == "") || want != "" && !strings.Contains(got, want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
		if _, newErr := New(File{Path: "x", Profiles: []string{name}}, &sets{}, me, nil); fmt.Sprint(newErr) != fmt.Sprint(err) {
			t.Errorf("%q: New says %v", name, newErr)
		}
		if err == nil { // and the SDK finds it
			path, s, set := place(t), &sets{}, newSet(t, "dev", time.Hour)
			s.set(name, set)
			newWriter(t, path, s, &reports{}, name).look(t.Context())
			holds(t, path, name, set)
		}
	}
	for want, names := range map[string][]string{
		"at least one":        nil,
		"named twice":         {"a", "b", "a"},
		"has to be the first": {"a", "default"},
	} {
		if err := CheckProfiles(names); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", names, err)
		}
	}
}

// TestCheck leaves what is there as it is, whatever it is.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	const foreign = "[default]\naws_access_key_id = AKIATHEIRS\n"
	for name, data := range map[string]string{
		"ours": header + "\n[a]\n", "bare": header, "foreign": foreign, "empty": "",
		"cut": header[:len(header)-1], "edited": foreign + header, "crlf": strings.TrimSuffix(header, "\n") + "\r\n",
	} {
		if err := os.WriteFile(in(name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(in("folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	cases := map[string]string{
		"nothing": "", "ours": "", "bare": "",
		"foreign": "was not written by stsbroker", "empty": "was not written by stsbroker", "cut": "was not written by stsbroker",
		"edited": "was not written by stsbroker", "crlf": "was not written by stsbroker",
		"folder": "not a regular file", "missing/credentials": "its folder is missing",
		"ours/credentials": "not a folder",
	}
	for link, target := range map[string]string{"to-ours": "ours", "to-foreign": "foreign", "dangling": "not-there"} {
		if err := os.Symlink(target, in(link)); err != nil {
			t.Logf("without links: %v", err)
			break
		}
		cases[link] = "symbolic link"
	}
	for name, want := range cases {
		err := Check(in(name))
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir)) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		if want == "" || strings.Contains(name, "/") {
			continue
		}
		// A writer does not touch it either, from its start to its end.
		synctest.Test(t, func(t *testing.T) {
			before, _ := os.Lstat(in(name))
			s, r := &sets{}, &reports{}
			s.set("dev", newSet(t, "dev", time.Hour))
			stop := run(t, newWriter(t, in(name), s, r, "dev"))
			pass(2 * time.Hour)
			if err := stop(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			after, err := os.Lstat(in(name))
			if err != nil || !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) || after.Mode() != before.Mode() {
				t.Errorf("%s was touched: %v", name, err)
			}
			lines(t, r, want)
		})
	}
	if text(t, in("ours")) != header+"\n[a]\n" || text(t, in("foreign")) != foreign {
		t.Error("the target of a link was changed")
	}
	for name, want := range map[string]bool{
		"ours": true, "bare": true, "to-ours": cases["to-ours"] != "", "nothing": false, "foreign": false, "empty": false, "cut": false,
		"edited": false, "folder": false, "to-foreign": false, "dangling": false,
	} {
		if got := IsOurs(in(name)); got != want {
			t.Errorf("IsOurs(%s) is %v", name, got)
		}
	}
}

// TestForeignComes has somebody put a file of theirs where ours is.
func TestForeignComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path, s, r := place(t), &sets{}, &reports{}
		set := newSet(t, "dev", 12*time.Hour)
		s.set("dev", set)
		w := newWriter(t, path, s, r, "dev")
		stop := run(t, w)
		pass(time.Second)
		holds(t, path, "dev", set)
		const foreign = "[default]\naws_access_key_id = AKIATHEIRS\n"
		put := func() {
			if err := os.WriteFile(path, []byte(foreign), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		put()
		for range 10 { // renewals among it
			pass(10 * time.Minute)
			s.set("dev", newSet(t, "dev", 12*time.Hour))
			w.Observe(broker.Event{Kind: broker.EventMinted})
		}
		pass(time.Minute)
		if got := text(t, path); got != foreign {
			t.Fatalf("it was changed to %q", got)
		}
		lines(t, r, "was not written by stsbroker")
		if err := os.Rename(path, path+".mine"); err != nil {
			t.Fatal(err)
		}
		pass(longestPause)
		holds(t, path, "dev", s.m["dev"])
		put()
		if err := stop(); err != nil {
			t.Error(err)
		}
		if got := text(t, path); got != foreign {
			t.Errorf("at the end it was changed to %q", got)
		}
	})
}

// TestKilled is about what a killed broker leaves: the file, and a half of one.
func TestKilled(t *testing.T) {
	path := place(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childVariable+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said [64]byte
	n, err := out.Read(said[:])
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if got := string(said[:n]); got != "written <nil>\n" {
		t.Fatalf("the child says %q, %v", got, err)
	}
	if sdk(t, path, "dev").AccessKeyID != keyID("dev", 1) {
		t.Fatal("the killed child left nothing, so this test proves nothing")
	}
	folder := filepath.Dir(path)
	for name, data := range map[string]string{
		".credentials.123.tmp": header + "\n[dev]\naws_secret_acc", ".credentials.4.tmp": header[:10], ".credentials.5.tmp": "",
		".credentials.6.tmp": "theirs", ".credentials.x.tmp": header, ".credentials..tmp": header, "credentials.7.tmp": header,
		".credentials2.8.tmp": header, ".credentials.9.tmp.bak": header,
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s, r := &sets{}, &reports{}
		s.before = func() {
			if s.asks == 1 && exists(t, path) {
				t.Error("the dead broker's file was there when the source was asked")
			}
		}
		stop := run(t, newWriter(t, path, s, r, "dev"))
		pass(time.Hour)
		if err := stop(); err != nil {
			t.Error(err)
		}
		lines(t, r)
	})
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{".credentials..tmp", ".credentials.6.tmp", ".credentials.9.tmp.bak", ".credentials.x.tmp", ".credentials2.8.tmp", "credentials.7.tmp"}
	if !slices.Equal(names, want) {
		t.Errorf("left are %q, want %q", names, want)
	}
}

// TestUnfinished catches securefile in the middle of a write: what it has then
// is what Sweep looks for.
func TestUnfinished(t *testing.T) {
	path := place(t)
	ended := make(chan error)
	go func() { ended <- securefile.Write(path, make([]byte, 64<<20)) }()
	caught := ""
	for caught == "" {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			go func() { ended <- securefile.Write(path, make([]byte, 64<<20)) }()
		default:
		}
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != "credentials" {
				caught = e.Name()
			}
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !unfinished(caught, "credentials") {
		t.Errorf("%q is not looked for", caught)
	}
}

// TestFolderGone and back: told once, nothing left half, and written again.
func TestFolderGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := t.TempDir()
		folder := filepath.Join(base, "run")
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		path, s, r := filepath.Join(folder, "credentials"), &sets{}, &reports{}
		set := newSet(t, "dev", 12*time.Hour)
		s.set("dev", set)
		stop := run(t, newWriter(t, path, s, r, "dev"))
		pass(time.Second)
		holds(t, path, "dev", set)
		away := filepath.Join(base, "away")
		if err := os.Rename(folder, away); err != nil {
			t.Fatal(err)
		}
		pass(time.Hour)
		lines(t, r, "its folder is missing")
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		pass(longestPause)
		holds(t, path, "dev", set)
		if err := os.RemoveAll(folder); err != nil {
			t.Fatal(err)
		}
		pass(time.Hour)
		lines(t, r, "its folder is missing", "its folder is missing")
		if err := stop(); err != nil {
			t.Errorf("there is nothing to remove, and the end says %v", err)
		}
	})
}

// TestStopAtOnce ends a writer at any moment of its start.
func TestStopAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sets{}
		s.set("dev", newSet(t, "dev", time.Hour))
		for i := range 20 {
			path := place(t)
			w := newWriter(t, path, s, &reports{}, "dev")
			w.Observe(broker.Event{Kind: broker.EventMinted})
			stop := run(t, w)
			pass(time.Duration(i) * 5 * time.Millisecond)
			if err := stop(); err != nil || exists(t, path) {
				t.Errorf("%v, there is a file: %v", err, exists(t, path))
			}
		}
	})
}
