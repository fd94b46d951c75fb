package observe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/control"
)

// audited returns an audit log in a folder of its own. It is not run: lines are in the
// file when somebody tends it, waits at the gate, or closes.
func audited(t testing.TB, o AuditOptions) *Audit {
	t.Helper()
	if o.File == "" {
		o.File = filepath.Join(privateFolder(t), "audit.log")
	}
	a, err := OpenAudit(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// privateFolder is t.TempDir, where the umask may be any.
func privateFolder(t testing.TB) string {
	t.Helper()
	folder := t.TempDir()
	if err := os.Chmod(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	return folder
}

// linesOf returns what is in the file, each line as an object, and fails unless it is
// a list of whole lines, each of one JSON object.
func linesOf(t testing.TB, path string) (all []map[string]any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !utf8.Valid(data) || len(data) > 0 && data[len(data)-1] != '\n' {
		t.Fatalf("not lines of text: %q", data)
	}
	for line := range bytes.Lines(data) {
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		all = append(all, m)
	}
	return all
}

func told1(t testing.TB, a *Audit) []map[string]any {
	t.Helper()
	a.tend(false)
	return linesOf(t, a.path)
}

func servedEvent(generation uint64) broker.Event {
	e := full()
	e.Kind, e.Err, e.Generation = broker.EventServed, nil, generation
	return e
}

func refusedEvent(k broker.Kind, cause string) broker.Event {
	return broker.Event{
		Kind: broker.EventRefused, Profile: "prod", Caller: full().Caller,
		Err: &broker.Error{Kind: k, Public: "not yours", Cause: errors.New(cause)},
	}
}

func names(id string) string { return map[string]string{"ci": "ci-runner"}[id] }

func TestAuditTellsWhoGotWhat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := audited(t, AuditOptions{Name: names})
		a.Observe(servedEvent(3))
		a.Observe(refusedEvent(broker.KindForbidden, `token ci is for ["dev"]`))
		stranger := refusedEvent(broker.KindUnauthorized, "no token was sent")
		stranger.Profile, stranger.Caller = "", broker.Caller{Door: broker.DoorContainer, Remote: netip.MustParseAddrPort("[::1]:99")}
		a.Observe(stranger)
		me := broker.Caller{Door: broker.DoorControl, Peer: broker.NewPeer(0, 77)}
		a.Control(me, "token/create", "ci", nil)
		a.Control(me, "logout", "dev", &broker.Error{Kind: broker.KindForbidden, Public: "not yours"})
		a.Control(me, "key/rotate", "work", &control.Error{Kind: "unavailable", Message: "IAM cannot be reached"})
		a.Control(me, "unlock", "", errors.New("wrong identity"))
		file := servedEvent(3)
		file.Caller = broker.Caller{Door: broker.DoorFile}
		a.Observe(file)

		at := "2000-01-01T00:00:00.000Z"
		tcp := map[string]any{"uid": 1000., "pid": 42., "known": "kernel: tcp"}
		unix := map[string]any{"uid": 0., "pid": 77., "known": "kernel: unix socket"}
		set := map[string]any{
			"time": at, "decision": "allowed", "profile": "dev",
			"role_arn": "arn:aws:iam::123456789012:role/dev", "account_id": "123456789012", "access_key_id": "ASIAEXAMPLE",
			"expires": "2026-11-23T04:05:06.000Z", "generation": 3.,
		}
		with := func(base map[string]any, pairs ...any) map[string]any {
			m := map[string]any{"time": at}
			for k, v := range base {
				m[k] = v
			}
			for i := 0; i < len(pairs); i += 2 {
				m[pairs[i].(string)] = pairs[i+1]
			}
			return m
		}
		want := []map[string]any{
			with(set, "seq", 1., "reason", "its token is for this profile", "door", "container", "remote", "127.0.0.1:4711", "peer", tcp, "token_id", "ci", "token", "ci-runner"),
			with(nil, "seq", 2., "decision", "denied", "kind", "forbidden", "reason", `not yours (token ci is for ["dev"])`, "profile", "prod", "door", "container",
				"remote", "127.0.0.1:4711", "peer", tcp, "token_id", "ci", "token", "ci-runner"),
			with(nil, "seq", 3., "decision", "denied", "kind", "unauthorized", "reason", "not yours (no token was sent)", "door", "container", "remote", "[::1]:99",
				"peer", map[string]any{"known": "unknown"}),
			with(nil, "seq", 4., "decision", "allowed", "reason", "done", "call", "token/create", "subject", "ci", "door", "control", "peer", unix),
			with(nil, "seq", 5., "decision", "denied", "kind", "forbidden", "reason", "not yours", "call", "logout", "subject", "dev", "door", "control", "peer", unix),
			with(nil, "seq", 6., "decision", "failed", "kind", "unavailable", "reason", "IAM cannot be reached", "call", "key/rotate", "subject", "work", "door", "control", "peer", unix),
			with(nil, "seq", 7., "decision", "failed", "kind", "failed", "reason", "wrong identity", "call", "unlock", "door", "control", "peer", unix),
			with(set, "seq", 8., "reason", "the file is configured for this profile", "door", "file", "peer", map[string]any{"known": "the broker itself"}),
		}
		got := told1(t, a)
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || !reflect.DeepEqual(got[i], want[i]) {
				t.Fatalf("line %d\ngot  %v\nwant %v", i+1, got[min(i, len(got)):], want[min(i, len(want)):])
			}
		}
	})
}

func TestAuditTellsDenialsAlone(t *testing.T) {
	a := audited(t, AuditOptions{})
	var want []string
	for k := range broker.Kind(16) {
		a.Observe(refusedEvent(k, ""))
		if k == broker.KindForbidden || k == broker.KindUnauthorized || k == broker.KindLocked {
			want = append(want, k.String())
		}
	}
	file := refusedEvent(broker.KindForbidden, "")
	file.Caller = broker.Caller{Door: broker.DoorFile}
	a.Observe(file)
	for k := range broker.EventKind(16) {
		if k != broker.EventServed && k != broker.EventRefused {
			e := full()
			e.Kind = k
			a.Observe(e)
		}
	}
	a.Observe(broker.Event{Kind: broker.EventRefused})
	var got []string
	for _, m := range told1(t, a) {
		got = append(got, m["kind"].(string))
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAuditTellsEachSetOnce(t *testing.T) {
	a := audited(t, AuditOptions{})
	lines := 0
	serve := func(what string, want int, change func(*broker.Event)) {
		t.Helper()
		e := servedEvent(1)
		change(&e)
		for range 3 {
			a.Observe(e)
		}
		got := len(told1(t, a)) - lines
		lines += got
		if got != want {
			t.Errorf("%s: %d lines, want %d", what, got, want)
		}
	}
	serve("first", 1, func(*broker.Event) {})
	serve("again", 0, func(e *broker.Event) { e.Left, e.Stale = time.Minute, false })
	serve("another process of the user", 0, func(e *broker.Event) { e.Caller.Peer = broker.NewPeer(1000, 43) })
	serve("another user", 1, func(e *broker.Event) { e.Caller.Peer = broker.NewPeer(1001, 42) })
	serve("root", 1, func(e *broker.Event) { e.Caller.Peer = broker.NewPeer(0, 42) })
	serve("nobody known", 1, func(e *broker.Event) { e.Caller.Peer = broker.Peer{} })
	serve("another token", 1, func(e *broker.Event) { e.Caller.Token = "other" })
	serve("another profile", 1, func(e *broker.Event) { e.Profile = "prod" })
	serve("another door", 1, func(e *broker.Event) { e.Caller.Door = broker.DoorIMDS })
	serve("the next generation", 1, func(e *broker.Event) { e.Generation = 2 })
	serve("a lease made anew, which counts from 1", 1, func(e *broker.Event) { e.KeyID = "ASIAANOTHER" })
}

// evil is what a client may try to write.
var evil = map[string]string{
	"line break":     "x\n{\"decision\":\"allowed\",\"seq\":1}\n",
	"closing quotes": `"}` + "\n" + `{"decision":"allowed","forged":true`,
	"return":         "a\rb",
	"NUL":            "a\x00b",
	"separators":     "a\u2028b\u2029c\u0085d",
	"bidi":           "a\u202eb\u2066c",
	"escape":         "\x1b[2J\u009b31m\x7f",
	"invalid UTF-8":  "a\xff\xfe\xc3\x28\xed\xa0\x80b",
	"100 KB":         strings.Repeat("n", 100<<10),
	"100 KB of é":    strings.Repeat("é", 50<<10),
	"100 KB of \\":   strings.Repeat(`\"`, 50<<10),
	"100 KB of NUL":  strings.Repeat("\x00", 100<<10),
	"HTML":           "</script><!--&",
	"surrogate":      `\ud800 \u0000 %00 %0a`,
	"token":          tokenStart + strings.Repeat("0", 16) + "_" + strings.Repeat("cAnArYx", 7)[:43],
	"tokens":         "stsb1_stsb1_cAnArYx" + strings.Repeat("y", 2040) + "stsb1_" + strings.Repeat("cAnArYx", 9),
}

func TestNobodyForgesAnAuditLine(t *testing.T) {
	for what, s := range evil {
		t.Run(what, func(t *testing.T) {
			a := audited(t, AuditOptions{Name: func(string) string { return s }})
			caller := full().Caller
			caller.Door, caller.Token = s, s
			zone := caller
			zone.Remote = netip.AddrPortFrom(netip.MustParseAddr("fe80::1").WithZone(s), 9)
			served := servedEvent(1)
			served.Profile, served.RoleARN, served.AccountID, served.KeyID, served.Caller = s, s, s, s, caller
			a.Observe(served)
			bad := &broker.Error{Kind: broker.KindForbidden, Profile: s, Code: s, Public: s, Cause: errors.New(s)}
			a.Observe(broker.Event{Kind: broker.EventRefused, Profile: s, Caller: caller, Err: bad})
			a.Observe(broker.Event{Kind: broker.EventRefused, Profile: s + s, Caller: zone, Err: bad})
			a.Control(caller, s, s, nil)
			a.Control(caller, s, s, bad)
			a.Control(caller, s, s, &control.Error{Kind: s, Message: s})
			a.Control(caller, s, s, errors.New(s))
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, m := range linesOf(t, a.path) {
				got = append(got, m["decision"].(string))
				if _, ok := m["forged"]; ok {
					t.Errorf("forged: %v", m)
				}
			}
			want := []string{"allowed", "denied", "denied", "allowed", "denied", "failed", "failed"}
			if len(s) > 1000 || strings.Contains(s, tokenStart) { // text twice is then cut to the same: one denial, which is counted
				want = []string{"allowed", "denied", "allowed", "denied", "failed", "failed", "denied"}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("decisions %v, want %v", got, want)
			}
			data, err := os.ReadFile(a.path)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(data)) {
				if len(line) > 12<<10 {
					t.Errorf("a line of %d bytes", len(line))
				}
				if i := strings.IndexFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
					t.Errorf("not printable: %q", line[max(0, i-20):min(len(line), i+20)])
				}
				if strings.Contains(line, "cAnArYx") {
					t.Errorf("a token: %.3000s", line)
				}
			}
		})
	}
}

func TestNoSecretReachesTheAuditLog(t *testing.T) {
	a := audited(t, AuditOptions{})
	for k := range broker.EventKind(16) {
		for kind := range broker.Kind(16) {
			e := full()
			err := *e.Err
			err.Kind, e.Kind, e.Err = kind, k, &err
			a.Observe(e)
			a.Control(e.Caller, "refresh", "dev", &err)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(a.path)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(data); strings.Contains(text, canary) || !strings.Contains(text, "[secret]") {
		t.Errorf("%s", text)
	}
}

func TestRepeatedDenialsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := audited(t, AuditOptions{})
		ctx := t.Context()
		go func() { _ = a.Run(ctx) }()
		counts := func() (counts []int) {
			synctest.Wait()
			for _, m := range linesOf(t, a.path) {
				n := 1.
				if m["count"] != nil {
					n = m["count"].(float64)
				}
				counts = append(counts, int(n))
			}
			return counts
		}
		want := func(when string, want ...int) {
			t.Helper()
			if got := counts(); !reflect.DeepEqual(got, want) {
				t.Errorf("%s: %v, want %v", when, got, want)
			}
		}
		for range 1000 {
			a.Observe(refusedEvent(broker.KindUnauthorized, "wrong value"))
		}
		want("at once", 1)
		time.Sleep(time.Second)
		want("after a second", 1, 999)
		a.Observe(refusedEvent(broker.KindUnauthorized, "wrong value"))
		a.Observe(refusedEvent(broker.KindUnauthorized, "another reason"))
		want("another", 1, 999, 1)
		time.Sleep(2 * time.Second)
		want("after two more", 1, 999, 1, 1)
		time.Sleep(time.Minute)
		a.Observe(refusedEvent(broker.KindUnauthorized, "wrong value"))
		want("after a quiet minute", 1, 999, 1, 1, 1)
		for range 3600 {
			a.Observe(refusedEvent(broker.KindUnauthorized, "wrong value"))
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
		got := counts()
		sum := 0
		for _, n := range got {
			sum += n
		}
		if sum != 1003+3600 || len(got) > 80 {
			t.Errorf("an hour of one a second: %d lines for %d denials", len(got), sum)
		}
	})
}

// TestAStrangerFillsNoDisk refuses another name each second for six hours, and floods; a
// second caller's few denials keep their lines.
func TestAStrangerFillsNoDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := audited(t, AuditOptions{})
		ctx := t.Context()
		go func() { _ = a.Run(ctx) }()
		e := refusedEvent(broker.KindForbidden, "for nobody")
		refuse := func(uid uint32, profile string) {
			e.Profile, e.Caller = profile, broker.Caller{Door: broker.DoorContainer, Peer: broker.NewPeer(uid, 1)}
			a.Observe(e)
		}
		const flood, seconds = 20_000, 6 * 3600
		for i := range flood {
			refuse(1000, fmt.Sprintf("%d-%s", i, strings.Repeat("x", 1000)))
		}
		refuse(1001, "honest")
		synctest.Wait()
		if n := a.dropped.Load(); n != 0 {
			t.Errorf("%d lines dropped", n)
		}
		for i := range seconds {
			refuse(1000, fmt.Sprintf("%d-%s", i, strings.Repeat("y", 1000)))
			time.Sleep(time.Second)
			if i%3600 == 0 {
				refuse(1001, fmt.Sprint("honest", i))
			}
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		sum, honest := 0, 0
		for _, m := range linesOf(t, a.path) {
			n := 1
			if m["count"] != nil {
				n = int(m["count"].(float64))
			}
			if m["peer"].(map[string]any)["uid"] == 1001. {
				honest += n
				if n != 1 {
					t.Errorf("an honest caller's line stands for %d", n)
				}
			} else {
				sum += n
			}
		}
		if sum != flood+seconds || honest != 1+6 {
			t.Errorf("%d and %d denials told, want %d and 7", sum, honest, flood+seconds)
		}
		if info, err := os.Stat(a.path); err != nil || info.Size() > 2<<20 {
			t.Errorf("%v %v", info.Size(), err)
		}
		if len(a.denials.same) > 60 || len(a.denials.from) > 2 {
			t.Errorf("%d denials and %d callers remembered", len(a.denials.same), len(a.denials.from))
		}
	})
}

func TestManyCallersOfDenialsAreBounded(t *testing.T) {
	a := audited(t, AuditOptions{})
	const callers, each = 2000, 3
	e := refusedEvent(broker.KindForbidden, "")
	for i := range callers * each {
		e.Err = &broker.Error{Kind: broker.KindForbidden, Public: fmt.Sprint(i)}
		e.Caller = broker.Caller{Door: broker.DoorIMDS, Peer: broker.NewPeer(uint32(i%callers), 1)}
		a.Observe(e)
	}
	if s, f := len(a.denials.same), len(a.denials.from); s > mostSame+mostDeniers+1 || f > mostDeniers {
		t.Errorf("%d denials of %d callers are kept", s, f)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, m := range linesOf(t, a.path) {
		if n, ok := m["count"].(float64); ok {
			sum += int(n)
		} else {
			sum++
		}
	}
	if sum != callers*each {
		t.Errorf("%d denials told of %d", sum, callers*each)
	}
}

func TestAFullQueueIsCounted(t *testing.T) {
	core, logs := zapobserver.New(zapcore.DebugLevel)
	a := audited(t, AuditOptions{Log: zap.New(core)})
	o := New(zap.NewNop(), noStats)
	o.Watch(a)
	hide(t, a) // nothing can be written
	e := servedEvent(0)
	for i := range mostQueued + 100 {
		e.Generation = uint64(i)
		a.Observe(e)
		a.Observe(e)
	}
	for i := range 10 { // all of them are over their share
		e := refusedEvent(broker.KindForbidden, fmt.Sprint(i))
		a.Observe(e)
	}
	for range 5 {
		a.tend(false)
	}
	wantLines(t, scrape(t, o), "stsbroker_audit_dropped_total 110", "stsbroker_audit_failing 1")
	unhide(t, a)
	lines := told1(t, a)
	if got := logs.Len(); got != 2 {
		t.Errorf("%d lines in the log, want one at the failure and one at its end: %v", got, logs.All())
	}
	last := lines[len(lines)-1]
	if len(lines) != mostQueued+1 || last["decision"] != "dropped" || last["count"] != 110. {
		t.Errorf("%d lines, the last %v", len(lines), last)
	}
	if lines[mostQueued-1]["seq"] != float64(mostQueued) || last["seq"] != float64(mostQueued+110+1) {
		t.Errorf("numbers: %v, %v", lines[mostQueued-1]["seq"], last["seq"])
	}
	wantLines(t, scrape(t, o), "stsbroker_audit_dropped_total 110", "stsbroker_audit_failing 0")
}

// hide takes the folder away, which root cannot write into either.
func hide(t testing.TB, a *Audit) {
	t.Helper()
	if err := os.Rename(filepath.Dir(a.path), filepath.Dir(a.path)+".away"); err != nil {
		t.Fatal(err)
	}
}

func unhide(t testing.TB, a *Audit) {
	t.Helper()
	if err := os.Rename(filepath.Dir(a.path)+".away", filepath.Dir(a.path)); err != nil {
		t.Fatal(err)
	}
}

func TestGateWaitsForTheLine(t *testing.T) {
	a := audited(t, AuditOptions{Required: true})
	a.Observe(refusedEvent(broker.KindForbidden, "before")) // what waits goes along
	if err := a.Gate(servedEvent(1)); err != nil {
		t.Fatal(err)
	}
	if got := linesOf(t, a.path); len(got) != 2 || got[1]["generation"] != 1. {
		t.Fatalf("%v", got)
	}
	hide(t, a)
	if err := a.Gate(servedEvent(1)); err != nil {
		t.Errorf("what was told is let out: %v", err)
	}
	for range 2 {
		if err := a.Gate(servedEvent(2)); err == nil || !strings.Contains(err.Error(), "audit.required") || strings.Contains(err.Error(), "\n") {
			t.Errorf("a line that cannot be written: %v", err)
		}
	}
	unhide(t, a)
	if err := a.Gate(servedEvent(2)); err != nil {
		t.Error(err)
	}
	a.Observe(servedEvent(2))
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if got := linesOf(t, a.path); len(got) != 3 || got[2]["generation"] != 2. {
		t.Errorf("%v", got)
	}
	if err := a.Gate(servedEvent(3)); err == nil {
		t.Error("let out after the end")
	}
}

func TestGateIsOpenUnlessRequired(t *testing.T) {
	a := audited(t, AuditOptions{})
	hide(t, a)
	defer unhide(t, a)
	if err := a.Gate(servedEvent(1)); err != nil {
		t.Error(err)
	}
}

// TestGateOfMany lets a hundred callers ask for the same new set at once: one line,
// and nobody passes before it is there.
func TestGateOfMany(t *testing.T) {
	a := audited(t, AuditOptions{Required: true})
	var wg sync.WaitGroup
	for i := range 10 {
		for range 100 {
			wg.Go(func() {
				e := servedEvent(uint64(i))
				e.Profile = fmt.Sprint("p", i)
				if err := a.Gate(e); err != nil {
					t.Error(err)
				}
				data, err := os.ReadFile(a.path)
				if err != nil || !bytes.Contains(data, []byte(`"profile":"`+e.Profile+`"`)) {
					t.Errorf("let out before its line was written (%v)", err)
				}
			})
		}
	}
	wg.Wait()
	if got := linesOf(t, a.path); len(got) != 10 {
		t.Errorf("%d lines, want 10", len(got))
	}
}

func TestAuditFollowsRotation(t *testing.T) {
	a := audited(t, AuditOptions{})
	generation := uint64(0)
	tell := func() {
		generation++
		a.Observe(servedEvent(generation))
		a.tend(false)
	}
	want := func(what, path string, generations ...float64) {
		t.Helper()
		var got []float64
		for _, m := range linesOf(t, path) {
			got = append(got, m["generation"].(float64))
		}
		if !reflect.DeepEqual(got, generations) {
			t.Errorf("%s: %v, want %v", what, got, generations)
		}
	}
	tell()
	if err := os.Rename(a.path, a.path+".1"); err != nil {
		t.Fatal(err)
	}
	tell()
	want("renamed: the old one", a.path+".1", 1)
	want("renamed: the new one", a.path, 2)
	if err := os.Remove(a.path); err != nil {
		t.Fatal(err)
	}
	tell()
	want("removed", a.path, 3)
	if err := os.Rename(a.path, a.path+".2"); err != nil {
		t.Fatal(err)
	}
	if err := a.Reopen(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(a.path); err != nil {
		t.Errorf("reopened, and nothing is there before the next line: %v", err)
	}
	tell()
	want("reopened", a.path, 4)
	if err := os.Truncate(a.path, 0); err != nil {
		t.Fatal(err)
	}
	tell()
	want("copied and truncated", a.path, 5)
	hide(t, a)
	if err := a.Reopen(); err == nil || !strings.HasPrefix(err.Error(), "audit.file: ") {
		t.Errorf("no folder: %v", err)
	}
	unhide(t, a)
	tell()
	want("after an error", a.path, 5, 6)
}

func TestACutLineIsEnded(t *testing.T) {
	path := filepath.Join(privateFolder(t), "audit.log")
	if err := os.WriteFile(path, []byte("{\"seq\":1}\n{\"seq\":2,\"pro"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := audited(t, AuditOptions{File: path})
	a.Observe(servedEvent(1))
	a.Observe(servedEvent(2))
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(data), "\n")
	if len(lines) != 5 || lines[1] != `{"seq":2,"pro` || !json.Valid([]byte(lines[2])) || !json.Valid([]byte(lines[3])) || lines[4] != "" {
		t.Errorf("%q", data)
	}
}

func TestToldIsBounded(t *testing.T) {
	var m told
	e := servedEvent(1)
	tell := func(profile string) (again bool) {
		e.Profile = profile
		if _, ok := m.has(tellingOf(e), e); ok {
			return true
		}
		m.note(tellingOf(e), telling{generation: e.Generation, keyID: e.KeyID})
		return false
	}
	tell("hot")
	tell("cold")
	for i := range 3 * mostTold {
		tell(fmt.Sprint(i))
		if !tell("hot") {
			t.Fatalf("what is served all the time was forgotten after %d others", i)
		}
	}
	if n := len(m.recent) + len(m.older); n > mostTold {
		t.Errorf("%d remembered", n)
	}
	if tell("cold") {
		t.Error("never forgotten: is anything?")
	}
}

func TestWhatWasToldCostsNothing(t *testing.T) {
	for _, required := range []bool{false, true} {
		a := audited(t, AuditOptions{Required: required, Name: names})
		e := servedEvent(1)
		if err := a.Gate(e); err != nil {
			t.Fatal(err)
		}
		var o broker.Observer = a
		if n := testing.AllocsPerRun(1000, func() { o.Observe(e) }); n != 0 {
			t.Errorf("required %v: a served event: %v allocations", required, n)
		}
		if n := testing.AllocsPerRun(1000, func() { _ = a.Gate(e) }); n != 0 {
			t.Errorf("required %v: the gate: %v allocations", required, n)
		}
	}
}

// BenchmarkAudit is a warm request with and without the audit log.
func BenchmarkAudit(b *testing.B) {
	a := audited(b, AuditOptions{Required: true})
	e := servedEvent(1)
	metrics := New(NewLogger(&bytes.Buffer{}, false, zapcore.InfoLevel), noStats)
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"metrics", func() { metrics.Observe(e) }},
		{"observe", func() { a.Observe(e) }},
		{"gate", func() { _ = a.Gate(e) }},
	} {
		c.do()
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.do()
			}
		})
		b.Run(c.name+"-parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					c.do()
				}
			})
		})
	}
}

func TestAuditIsSafeForConcurrentUse(t *testing.T) {
	a := audited(t, AuditOptions{Required: true, Name: names})
	ran := make(chan error, 1)
	ctx := t.Context()
	go func() { ran <- a.Run(ctx) }()
	var wg sync.WaitGroup
	const each = 300
	for g := range 4 {
		wg.Go(func() {
			for i := range each {
				e := servedEvent(uint64(i))
				e.Profile = fmt.Sprint(g)
				if err := a.Gate(e); err != nil {
					t.Error(err)
				}
				a.Observe(e)
				a.Observe(refusedEvent(broker.KindForbidden, fmt.Sprint(i)))
			}
		})
	}
	wg.Go(func() {
		for i := range 50 {
			if err := os.Rename(a.path, fmt.Sprint(a.path, ".", i)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Error(err)
			}
			if err := a.Reopen(); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	files, err := filepath.Glob(a.path + "*")
	if err != nil {
		t.Fatal(err)
	}
	seqs, allowed := map[float64]bool{}, 0
	for _, f := range files {
		for _, m := range linesOf(t, f) {
			seqs[m["seq"].(float64)] = true
			if m["decision"] == "allowed" {
				allowed++
			}
		}
	}
	if allowed != 4*each || !seqs[1] || !seqs[float64(len(seqs))] {
		t.Errorf("%d allowed lines, want %d; %d numbers, with gaps or twice", allowed, 4*each, len(seqs))
	}
}
