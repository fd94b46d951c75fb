package observe

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/stsbroker/stsbroker/broker"
)

func noStats() broker.Stats { return broker.Stats{} }

// recorded returns an Observer and what it logs, at every level.
func recorded() (*Observer, *zapobserver.ObservedLogs) {
	core, logs := zapobserver.New(zapcore.DebugLevel)
	return New(zap.New(core), noStats), logs
}

func scrape(t *testing.T, o *Observer) string {
	t.Helper()
	w := httptest.NewRecorder()
	o.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("scrape: status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func wantLines(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
}

func denied(code string) *broker.Error {
	return &broker.Error{Kind: broker.KindDenied, Code: code, Public: "profile dev: STS refuses", Cause: errors.New("api error " + code)}
}

func TestMetricsTellWhatHappened(t *testing.T) {
	o := New(zap.NewNop(), func() broker.Stats {
		return broker.Stats{Waiters: 7, AnyHeld: true, SmallestLeft: 90 * time.Second, Budget: map[string]float64{
			"111111111111/eu-central-1": 20, "222222222222/eu-central-1": 3.5, "111111111111/us-east-1": 0, "odd": 1,
		}, States: map[broker.State]int{broker.StateFresh: 3, broker.StateLogin: 1, broker.StateIdle: 0, "odd": 1, "odder": 1}}
	})
	o.Build("1.2.3")
	wantLines(t, scrape(t, o),
		`stsbroker_reloads_total{result="ok"} 0`, `stsbroker_reloads_total{result="failed"} 0`, `stsbroker_last_reload_success 1`)
	o.Reloaded(nil)
	o.Reloaded(errors.New("line 3: no such key"))
	wantLines(t, scrape(t, o),
		`stsbroker_reloads_total{result="ok"} 1`, `stsbroker_reloads_total{result="failed"} 1`, `stsbroker_last_reload_success 0`)
	o.Reloaded(nil)
	minted := broker.Event{Kind: broker.EventMinted, Profile: "dev", Action: "AssumeRole", Region: "eu-central-1", Took: 300 * time.Millisecond}
	o.Observe(minted)
	o.Observe(minted)
	o.Observe(broker.Event{Kind: broker.EventMintFailed, Action: "GetSessionToken", Region: "us-gov-west-1", Err: denied("AccessDenied")})
	o.Observe(broker.Event{Kind: broker.EventMintFailed, Action: "credential_process"})
	o.Observe(broker.Event{Kind: broker.EventServed, Left: 20 * time.Minute})
	o.Observe(broker.Event{Kind: broker.EventServed, Left: 50 * time.Second, Stale: true})
	o.Observe(broker.Event{Kind: broker.EventLapsed})
	o.Observe(broker.Event{Kind: broker.EventClockStep, Left: time.Hour})
	o.Request(broker.DoorContainer, 200)
	o.Request(broker.DoorContainer, 503)
	o.Request(broker.DoorContainer, 503)

	wantLines(t, scrape(t, o),
		`stsbroker_mints_total{action="AssumeRole",region="eu-central-1",result="ok"} 2`,
		`stsbroker_mints_total{action="GetSessionToken",region="us-gov-west-1",result="denied"} 1`,
		`stsbroker_mints_total{action="credential_process",region="none",result="unavailable"} 1`,
		`stsbroker_mint_seconds_bucket{action="AssumeRole",le="0.2"} 0`,
		`stsbroker_mint_seconds_bucket{action="AssumeRole",le="0.4"} 2`,
		`stsbroker_served_time_left_seconds_bucket{le="60"} 1`,
		`stsbroker_served_time_left_seconds_bucket{le="1500"} 2`,
		`stsbroker_served_time_left_seconds_count 2`,
		`stsbroker_served_stale_total 1`,
		`stsbroker_leases_lapsed_total 1`,
		`stsbroker_clock_steps_total 1`,
		`stsbroker_waiters 7`,
		`stsbroker_profiles{state="fresh"} 3`,
		`stsbroker_profiles{state="login-needed"} 1`,
		`stsbroker_profiles{state="idle"} 0`,
		`stsbroker_profiles{state="other"} 2`,
		`stsbroker_reloads_total{result="ok"} 2`,
		`stsbroker_last_reload_success 1`,
		`stsbroker_build_info{goversion="`+runtime.Version()+`",version="1.2.3"} 1`,
		`stsbroker_smallest_time_left_seconds 90`,
		`stsbroker_budget_calls{region="eu-central-1"} 3.5`,
		`stsbroker_budget_calls{region="us-east-1"} 0`,
		`stsbroker_budget_calls{region="other"} 1`,
		`stsbroker_requests_total{door="container",status="200"} 1`,
		`stsbroker_requests_total{door="container",status="503"} 2`,
	)
}

func TestNothingHeldHasNoSmallestTimeLeft(t *testing.T) {
	if text := scrape(t, New(zap.NewNop(), noStats)); strings.Contains(text, "smallest") {
		t.Errorf("a gauge for nothing:\n%s", text)
	}
}

func TestMetricNamesFollowTheConventions(t *testing.T) {
	o := New(zap.NewNop(), func() broker.Stats {
		return broker.Stats{AnyHeld: true, Budget: map[string]float64{"1/eu-west-1": 1}, States: map[broker.State]int{broker.StateFresh: 1}}
	})
	o.Build("dev")
	o.Watch(audited(t, AuditOptions{}))
	everyEvent(o, full())
	o.Request(broker.DoorContainer, 200)
	text := scrape(t, o)
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	families := 0
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			families++
			if !strings.HasPrefix(name, "stsbroker_") {
				t.Errorf("foreign name: %s", name)
			}
		}
	}
	if families != 16 {
		t.Errorf("%d families, want 16:\n%s", families, text)
	}
}

// TestLabelsAreClosedLists feeds what a profile, a server or a caller chose
// into every field and counts the series that come of it.
func TestLabelsAreClosedLists(t *testing.T) {
	budget := map[string]float64{}
	o := New(zap.NewNop(), func() broker.Stats { return broker.Stats{Budget: budget} })
	series := func() int { return strings.Count(scrape(t, o), "\n") }

	feed := func(i int) {
		s := fmt.Sprintf("arn:aws:iam::%012d:role/x", i)
		budget[s+"/"+s] = 1
		e := broker.Event{
			Profile: s, Action: s, Region: s, KeyID: s, Note: s, Caller: broker.Caller{Door: s, Token: s},
			Err: &broker.Error{Kind: broker.Kind(100 + i%100), Profile: s, Code: s, Public: s, Cause: errors.New(s)},
		}
		everyEvent(o, e)
		o.Request(s, 1000+i)
	}
	feed(0)
	before := series()
	for i := range 1000 {
		feed(i)
	}
	if after := series(); after != before {
		t.Errorf("%d lines before, %d after 1,000 other values", before, after)
	}
	if text := scrape(t, o); strings.Contains(text, "arn:") {
		t.Errorf("an ARN in the metrics:\n%s", text)
	}
}

func TestRegionLabel(t *testing.T) {
	for in, want := range map[string]string{
		"": "none", "eu-central-1": "eu-central-1", "us-gov-west-1": "us-gov-west-1", "us-iso-east-1": "us-iso-east-1",
		"ap-southeast-7": "ap-southeast-7", "mx-central-1": "mx-central-1",
		"123456789012": other, "AKIAIOSFODNN7EXAMPLE": other, "eu-central-1x": other, "eu": other,
		"eu-central-1\n": other, "EU-CENTRAL-1": other, "minio": other, "eu-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-1": other,
	} {
		if got := regionLabel(in); got != want {
			t.Errorf("regionLabel(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestServingDoesNotAllocate(t *testing.T) {
	o := New(NewLogger(io.Discard, false, zapcore.InfoLevel), noStats)
	e := full()
	e.Kind = broker.EventServed
	var asInterface broker.Observer = o
	if n := testing.AllocsPerRun(1000, func() { asInterface.Observe(e) }); n != 0 {
		t.Errorf("a served event: %v allocations", n)
	}
	if n := testing.AllocsPerRun(1000, func() { o.Request(broker.DoorContainer, 200) }); n != 0 {
		t.Errorf("a counted request: %v allocations", n)
	}
}

func BenchmarkServed(b *testing.B) {
	o := New(NewLogger(io.Discard, false, zapcore.InfoLevel), noStats)
	e := full()
	e.Kind = broker.EventServed
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			o.Observe(e)
			o.Request(broker.DoorContainer, 200)
		}
	})
}

func TestServedIsLoggedAtDebugOnly(t *testing.T) {
	o, logs := recorded()
	o.Observe(broker.Event{Kind: broker.EventServed, Profile: "dev"})
	if got := logs.All(); len(got) != 1 || got[0].Level != zapcore.DebugLevel {
		t.Errorf("%v", got)
	}
}

func TestFailuresWarnOnceThenNowAndThen(t *testing.T) {
	o, logs := recorded()
	fail := func(profile string, n int, err *broker.Error) (warned int) {
		for range n {
			o.Observe(broker.Event{Kind: broker.EventMintFailed, Profile: profile, Err: err})
		}
		for _, l := range logs.TakeAll() {
			if l.Level == zapcore.WarnLevel {
				warned++
			}
		}
		return warned
	}
	if got := fail("dev", againAfter, denied("AccessDenied")); got != 1 {
		t.Errorf("the first %d failures: %d warnings, want 1", againAfter, got)
	}
	if got := fail("dev", 1, denied("AccessDenied")); got != 1 {
		t.Errorf("failure %d: %d warnings, want 1", againAfter+1, got)
	}
	if got := fail("dev", 1, denied("ExpiredToken")); got != 1 {
		t.Errorf("another code: %d warnings, want 1", got)
	}
	if got := fail("other", 1, denied("AccessDenied")); got != 1 {
		t.Errorf("another profile: %d warnings, want 1", got)
	}

	o.Observe(broker.Event{Kind: broker.EventMinted, Profile: "dev"})
	got := logs.TakeAll()
	if len(got) != 1 || got[0].ContextMap()["failures_before"] != int64(againAfter+2) {
		t.Errorf("after a success: %v", got)
	}
	if got := fail("dev", 1, denied("ExpiredToken")); got != 1 {
		t.Errorf("the first failure after a success: %d warnings, want 1", got)
	}
}

// requestError looks like the AWS SDK's response error.
type requestError struct{ id string }

func (e requestError) Error() string            { return "https response error StatusCode: 403" }
func (e requestError) ServiceRequestID() string { return e.id }

func TestAFailureSaysWhy(t *testing.T) {
	o, logs := recorded()
	o.Observe(broker.Event{
		Kind: broker.EventMintFailed, Profile: "dev", Action: "AssumeRole", Region: "eu-central-1", Took: time.Second,
		Err: &broker.Error{
			Kind: broker.KindDenied, Code: "AccessDenied", Public: "profile dev: STS refuses; check the trust policy",
			Cause: fmt.Errorf("operation error STS: AssumeRole: %w", requestError{"4f1e"}),
		},
	})
	want := map[string]any{
		"profile": "dev", "action": "AssumeRole", "region": "eu-central-1", "took": time.Second, "failures": int64(1),
		"kind": "denied", "code": "AccessDenied", "error": "profile dev: STS refuses; check the trust policy",
		"cause": "operation error STS: AssumeRole: https response error StatusCode: 403", "request_id": "4f1e",
	}
	if got := logs.All()[0].ContextMap(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestRefusals(t *testing.T) {
	o, logs := recorded()
	refuse := func(k broker.Kind) {
		o.Observe(broker.Event{Kind: broker.EventRefused, Profile: "prod", Caller: full().Caller, Err: &broker.Error{Kind: k, Cause: errors.New("not granted")}})
	}
	refuse(broker.KindForbidden)
	l := logs.TakeAll()[0]
	if m := l.ContextMap(); l.Level != zapcore.WarnLevel || l.Message != "refused: forbidden" || m["cause"] != "not granted" ||
		m["profile"] != "prod" || m["door"] != "container" || m["remote"] != "127.0.0.1:4711" || m["uid"] != uint32(1000) || m["pid"] != int32(42) || m["token"] != "ci" {
		t.Errorf("%v %v", l, m)
	}
	refuse(broker.KindTimeout)
	if got := logs.TakeAll(); len(got) != 1 || got[0].Level != zapcore.DebugLevel {
		t.Errorf("what passes by itself: %v", got)
	}
	for range 10_000 {
		refuse(broker.KindUnauthorized)
	}
	if got := logs.Len(); got < 20 || got > 200 {
		t.Errorf("a flood of 10,000 wrong tokens: %d lines", got)
	}
}

func TestUnknownCallerIsNotRoot(t *testing.T) {
	o, logs := recorded()
	o.Observe(broker.Event{Kind: broker.EventServed})
	m := logs.All()[0].ContextMap()
	for _, field := range []string{"uid", "pid", "remote", "token"} {
		if v, ok := m[field]; ok {
			t.Errorf("%s = %v for a caller of whom nothing is known", field, v)
		}
	}
}

const canary = "cAnArY/sEcReT+7Q=="

// full returns an event with every field set, and with a secret at every
// place where a broker.Secret, or an error that formats one, could stand.
func full() broker.Event {
	creds := broker.Credentials{
		AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: broker.NewSecret(canary), SessionToken: broker.NewSecret(canary),
		AccountID: "123456789012", RoleARN: "arn:aws:iam::123456789012:role/dev",
	}
	return broker.Event{
		Profile: "dev", Action: "AssumeRole", Region: "eu-central-1", KeyID: creds.AccessKeyID,
		AccountID: creds.AccountID, RoleARN: creds.RoleARN, Expires: time.Date(2026, 11, 23, 4, 5, 6, 0, time.UTC),
		Caller: broker.Caller{
			Door: broker.DoorContainer, Remote: netip.MustParseAddrPort("127.0.0.1:4711"),
			Peer: broker.NewPeer(1000, 42), Token: "ci",
		},
		Generation: 3, Took: time.Second, Left: time.Hour, Renewal: 30 * time.Minute, Stale: true, Note: "duration cut to 1h",
		Err: &broker.Error{
			Kind: broker.KindDenied, Profile: "dev", Code: "AccessDenied", Public: fmt.Sprintf("refused %v", creds),
			Cause: fmt.Errorf("signing with %+v %#v %s %q %x %v", creds, creds, creds.Material(), creds, creds, &creds),
		},
	}
}

// everyEvent observes e as each kind of event, those to come too.
func everyEvent(o *Observer, e broker.Event) {
	for k := range broker.EventKind(16) {
		e.Kind = k
		o.Observe(e)
	}
	for k := range broker.Kind(16) { // every kind of error
		err := *e.Err
		err.Kind = k
		e.Err = &err
		for _, kind := range []broker.EventKind{broker.EventRefused, broker.EventMintFailed} {
			e.Kind = kind
			o.Observe(e)
		}
	}
}

func TestNoSecretReachesLogOrMetrics(t *testing.T) {
	e := reflect.ValueOf(full())
	for i := range e.NumField() {
		if f := e.Type().Field(i); f.Name != "Kind" && e.Field(i).IsZero() {
			t.Errorf("the event of this test does not set %s", f.Name)
		}
	}
	quoted, err := json.Marshal(canary)
	if err != nil {
		t.Fatal(err)
	}
	forms := []string{
		canary, strings.Trim(string(quoted), `"`), url.QueryEscape(canary), hex.EncodeToString([]byte(canary)),
		strings.ToUpper(hex.EncodeToString([]byte(canary))), base64.RawStdEncoding.EncodeToString([]byte(canary)),
		base64.RawURLEncoding.EncodeToString([]byte(canary)),
	}
	leaks := func(where, text string) {
		for _, form := range forms {
			if strings.Contains(text, form) {
				t.Errorf("%s holds the secret as %q", where, form)
			}
		}
	}
	for _, terminal := range []bool{false, true} {
		for level := zapcore.DebugLevel; level <= zapcore.FatalLevel; level++ {
			var log bytes.Buffer
			o := New(NewLogger(&log, terminal, level), noStats)
			everyEvent(o, full())
			o.Request(broker.DoorContainer, 200)

			text := log.String()
			leaks(fmt.Sprintf("the log (terminal %v) at %s", terminal, level), text)
			if level == zapcore.DebugLevel && !strings.Contains(text, "ASIAEXAMPLE") {
				t.Error("the key id is missing: did this test see the whole log?")
			}
			metrics := scrape(t, o)
			leaks("the metrics", metrics)
			for _, word := range []string{"ASIA", "arn:", "123456789012", "dev"} {
				if strings.Contains(metrics, word) {
					t.Errorf("the metrics hold %q", word)
				}
			}
		}
	}
	// The net has no hole: the same search finds what is not hidden.
	if !strings.Contains(fmt.Sprint(full().Err.Cause), "[secret]") {
		t.Error("the canary never stood in the error")
	}
}

func TestNobodyForgesALogLine(t *testing.T) {
	const evil = "x\n{\"level\":\"info\",\"msg\":\"minted\"}\r\x1b[2J\u2028y\xff"
	for _, terminal := range []bool{false, true} {
		var log bytes.Buffer
		o := New(NewLogger(&log, terminal, zapcore.DebugLevel), noStats)
		o.Observe(broker.Event{Kind: broker.EventRefused, Profile: evil, Caller: broker.Caller{Door: evil, Token: evil},
			Err: &broker.Error{Kind: broker.KindForbidden, Code: evil, Public: evil, Cause: errors.New(evil)}})
		text := log.String()
		if strings.Count(text, "\n") != 1 || strings.ContainsAny(text, "\r\x1b") {
			t.Errorf("terminal %v: %q", terminal, text)
		}
		if !terminal && !json.Valid([]byte(text)) {
			t.Errorf("not JSON: %q", text)
		}
	}
}

func TestLongTextIsCut(t *testing.T) {
	o, logs := recorded()
	long := strings.Repeat("é", 1<<20)
	o.Observe(broker.Event{Kind: broker.EventMintFailed, Err: &broker.Error{Public: long, Code: long, Cause: errors.New(long)}})
	for field, most := range map[string]int{"error": 2100, "code": 2100, "cause": mostCause + 100} {
		if got := logs.All()[0].ContextMap()[field].(string); len(got) > most || len(got) < most-200 {
			t.Errorf("%d bytes of %s", len(got), field)
		}
	}
	encoded := "Encoded authorization failure message: " + strings.Repeat("A", 10_240)
	o.Observe(broker.Event{Kind: broker.EventMintFailed, Profile: "other", Err: &broker.Error{Cause: errors.New("refused; " + encoded)}})
	if got := logs.All()[1].ContextMap()["cause"].(string); !strings.HasSuffix(got, encoded) {
		t.Error("an encoded message is cut, so nobody can decode it")
	}
}

func TestLoggerForms(t *testing.T) {
	var log bytes.Buffer
	NewLogger(&log, false, zapcore.InfoLevel).Info("listening", zap.String("address", "127.0.0.1:9170"))
	var line struct{ Time, Level, Msg, Address string }
	if err := json.Unmarshal(log.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	if _, err := time.Parse(time.RFC3339, line.Time); err != nil || line.Level != "info" || line.Msg != "listening" || line.Address != "127.0.0.1:9170" {
		t.Errorf("%+v %v", line, err)
	}
	log.Reset()
	NewLogger(&log, true, zapcore.InfoLevel).Warn("careful")
	if got := log.String(); !strings.HasSuffix(got, "  WARN  careful\n") {
		t.Errorf("%q", got)
	}
	log.Reset()
	NewLogger(&log, true, zapcore.InfoLevel).Debug("noise")
	if log.Len() != 0 {
		t.Errorf("below the level: %q", log.String())
	}
}

func TestObserverIsSafeForConcurrentUse(t *testing.T) {
	o := New(NewLogger(io.Discard, false, zapcore.DebugLevel), noStats)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				everyEvent(o, full())
			}
		})
		wg.Go(func() { scrape(t, o) })
	}
	wg.Wait()
	if text := scrape(t, o); !strings.Contains(text, "stsbroker_leases_lapsed_total 400\n") {
		t.Errorf("lost events:\n%s", text)
	}
}
