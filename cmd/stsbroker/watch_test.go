package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/control"
)

var watchNow = time.Date(2026, 11, 23, 12, 34, 56, 0, time.Local)

// many is a broker with all that a screen may have to show.
func many(extra int) control.Status {
	p := func(name string, s broker.State, left, granted, renew float64, err string) control.Profile {
		return control.Profile{Name: name, State: string(s), Left: left, Granted: granted, RenewIn: renew, LastError: err}
	}
	st := control.Status{
		Version: "1.2.3", PID: 42, Started: watchNow.Add(-3 * time.Hour), Container: []string{"http://127.0.0.1:9170", "http://[::1]:9170"},
		IMDS: []control.IMDS{{URL: "http://127.0.0.1:9169", Profile: "dev"}}, Custody: "locked", Failed: "stsbroker.yaml:3: unknown key\x1b[2J",
		Lame: []control.Region{{Name: "eu-central-1", Since: watchNow.Add(-3 * time.Minute), Why: "timeout"}},
		Profiles: []control.Profile{
			p("fresh-late", broker.StateFresh, 3000, 3600, 1200, ""),
			p("fresh-soon", broker.StateFresh, 900, 3600, 300, ""),
			p("idle", broker.StateIdle, 0, 0, 0, ""),
			p("failing", broker.StateFailing, 500, 3600, 10, "STS does not answer\nin "+strings.Repeat("a very long time ", 20)),
			p("broken", broker.StateError, 0, 0, 5, "AccessDenied"),
			p("日本語のとても長い名前のプロファイルです", broker.StateFresh, 1800, 3600, 600, "ü"),
			p("person's", broker.StateLogin, 0, 0, 0, ""),
			{Name: "never", State: string(broker.StateUnservable), Reason: "it is not known how"},
		},
	}
	for i := range extra {
		st.Profiles = append(st.Profiles, p(fmt.Sprintf("p%03d", i), broker.StateFresh, 3600, 3600, 1800, ""))
	}
	return st
}

func past(st control.Status, events int) history {
	h := history{at: watchNow, last: st}
	for i := range events {
		h = h.with([]change{{watchNow, fmt.Sprintf("event %d %s", i, strings.Repeat("long ", 60)), i%2 == 0}})
	}
	return h
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;]*m")

// TestWatchScreenFits: whatever the size, no line is wider and no screen is higher.
func TestWatchScreenFits(t *testing.T) {
	for _, colours := range []bool{false, true} {
		for _, extra := range []int{0, 200} {
			for width := 1; width <= 250; width += 1 + width/30 {
				for _, height := range []int{1, 2, 3, 5, 10, 24, 60, 300} {
					st := many(extra)
					h := past(st, 7)
					if width%2 == 0 {
						h, _ = h.lost(errors.New("nobody answers"), watchNow)
					}
					text := watchScreen(st, h, watchNow.Add(time.Second), width, height, paint{colours})
					if !colours && strings.Contains(text, "\x1b") {
						t.Fatalf("colour, or somebody else's escape: %q", text)
					}
					lines := strings.Split(escapes.ReplaceAllString(text, ""), "\n")
					if strings.ContainsAny(strings.Join(lines, ""), "\x1b\r\t") {
						t.Fatalf("controls: %q", text)
					}
					if len(lines) > height {
						t.Fatalf("%d×%d: %d lines", width, height, len(lines))
					}
					for _, l := range lines {
						if cells(l) > width {
							t.Fatalf("%d×%d: %d cells: %q", width, height, cells(l), l)
						}
					}
				}
			}
		}
	}
}

// TestWatchScreenShows: at the sizes that people have, all that matters is there, the
// urgent first.
func TestWatchScreenShows(t *testing.T) {
	for _, width := range []int{40, 80, 160, 250} {
		st := many(0)
		text := watchScreen(st, past(st, 2), watchNow, width, 60, paint{})
		lines := strings.Split(text, "\n")
		at := func(start string) int {
			return slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, start) })
		}
		order := []string{"stsbroker", "person's needs a login: stsbroker login", "custody is locked: stsbroker unlock", "not read again: ", "STS does not answer in eu-central-1", "http://127.0.0.1:9170",
			"PROFILE", "person", "broken", "failing", "fresh-soo", "日本", "fresh-lat", "idle", "never", "12:34:56  event 0", "12:34:56  event 1"}
		last := -1
		for _, start := range order {
			i := slices.IndexFunc(lines[last+1:], func(l string) bool { return strings.HasPrefix(l, start) })
			if i < 0 {
				t.Fatalf("width %d: no %q after line %d:\n%s", width, start, last, text)
			}
			last += 1 + i
		}
		if !strings.HasSuffix(lines[0], " 12:34:56") {
			t.Errorf("the clock: %q", lines[0])
		}
		if !strings.Contains(text, "AccessDenied") || !strings.Contains(text, "15m") || !strings.Contains(text, "it is not known how") {
			t.Errorf("width %d:\n%s", width, text)
		}
		if width >= 80 && !strings.Contains(lines[at("fresh-soo")], "5m") { // of the next renewal
			t.Errorf("width %d: %q", width, lines[at("fresh-soo")])
		}
		for _, l := range lines[at("failing"):] { // the error is cut, and not left away
			if strings.HasSuffix(l, "…") && strings.Contains(l, "STS does not") {
				last = -1
			}
		}
		if last != -1 {
			t.Errorf("width %d: the long error:\n%s", width, text)
		}
	}
	t.Log("\n" + watchScreen(many(0), past(many(0), 2), watchNow, 120, 24, paint{}))
}

// TestWatchScreenCounts: what does not fit is counted, and what is urgent is not what is
// left away.
func TestWatchScreenCounts(t *testing.T) {
	st := many(200)
	text := watchScreen(st, past(st, 5), watchNow, 100, 24, paint{})
	lines := strings.Split(text, "\n")
	shown := 0
	for _, l := range lines {
		if regexp.MustCompile(`^(p\d\d\d|fresh-|日|person's +login|broken|failing|idle|never)`).MatchString(l) {
			shown++
		}
	}
	var more int
	for _, l := range lines {
		if _, err := fmt.Sscanf(l, "… and %d more:", &more); err == nil && !strings.Contains(l, "fresh") {
			t.Errorf("%q", l)
		}
	}
	if shown+more != len(st.Profiles) || shown < 5 || !strings.Contains(text, "broken") {
		t.Errorf("%d shown, %d more of %d:\n%s", shown, more, len(st.Profiles), text)
	}
}

// TestBars: a bar is as long as the share of life that is left, and marks the renewal.
func TestBars(t *testing.T) {
	bar := func(left, granted, renew float64, width int) string {
		return barOf(control.Profile{Left: left, Granted: granted, RenewIn: renew}, width, paint{})
	}
	for width := 5; width <= 40; width++ {
		for left := 1.0; left <= 3600; left += 37 {
			b := bar(left, 3600, 0, width)
			want := left / 3600 * float64(width)
			if n := strings.Count(b, "█"); cells(b) != width || float64(n) > max(1, want+0.51) || float64(n) < want-0.51 || strings.Contains(b, "│") {
				t.Fatalf("%g s in %d cells: %q", left, width, b)
			}
		}
	}
	for want, got := range map[string]string{
		"██████████":   bar(3600, 3600, 0, 10),
		"█████│████":   bar(3600, 3600, 1800, 10), // renewed at half its life
		"█████│██░░":   bar(2880, 3600, 1080, 10), // a while later the mark has stayed
		"█████│░░░░":   bar(2160, 3600, 360, 10),
		"     ":        bar(0, 3600, 5, 5),
		"      ":       bar(100, 0, 5, 6), // of an older broker, which does not tell
		"█░░░░░░░░░":   bar(1, 3600, 0, 10),
		"████████████": bar(9999, 3600, 0, 12),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestWatchGoesOn: while nobody answers, the clock and the time left go on.
func TestWatchGoesOn(t *testing.T) {
	st := control.Status{Version: "1", Started: watchNow, Profiles: []control.Profile{{Name: "dev", State: "fresh", Left: 600, Granted: 3600, RenewIn: 300}}}
	h, _ := history{}.saw(st, watchNow)
	h, news := h.lost(errors.New("no broker is running"), watchNow)
	if len(news) != 1 || !news[0].bad {
		t.Errorf("%v", news)
	}
	h, news = h.lost(errors.New("no broker is running"), watchNow.Add(time.Second))
	if len(news) != 0 {
		t.Errorf("twice: %v", news)
	}
	text := watchScreen(h.last, h, watchNow.Add(5*time.Minute), 100, 24, paint{})
	if !strings.Contains(text, "no answer for 5m, waiting for one: no broker is running") || !regexp.MustCompile(`dev +fresh +5m`).MatchString(text) || !strings.Contains(text, "12:39:56") {
		t.Error("\n" + text)
	}
	h, news = h.saw(st, watchNow.Add(time.Hour))
	if len(news) != 1 || news[0].text != "the broker answers again" || len(h.events) != 2 {
		t.Errorf("%v, %v", news, h.events)
	}
	if text := watchScreen(h.last, h, watchNow.Add(time.Hour), 100, 24, paint{}); strings.Contains(text, "waiting") {
		t.Error("\n" + text)
	}
	// Nothing was ever seen.
	h, _ = history{}.lost(errors.New("no broker is running"), watchNow)
	if text := watchScreen(h.last, h, watchNow.Add(time.Second), 60, 24, paint{}); !strings.Contains(text, "no broker is running") || !strings.HasPrefix(text, "stsbroker ") {
		t.Error("\n" + text)
	}
}

// TestChangesSeen: what happened between two answers.
func TestChangesSeen(t *testing.T) {
	p := func(name string, change ...func(*control.Profile)) control.Profile {
		p := control.Profile{Name: name, State: "fresh", KeyID: "ASIAONE", Left: 3600}
		for _, c := range change {
			c(&p)
		}
		return p
	}
	failed := func(p *control.Profile) { p.State, p.LastError, p.Failures = "failing", "STS is away", 1 }
	renewed := func(p *control.Profile) { p.KeyID, p.Left = "ASIATWO", 3600 }
	state := func(s broker.State) func(p *control.Profile) {
		return func(p *control.Profile) { p.State = string(s) }
	}
	nothing := func(p *control.Profile) { p.KeyID, p.Left, p.State = "", 0, "idle" }
	st := func(p ...control.Profile) control.Status { return control.Status{PID: 1, Profiles: p} }
	with := func(s control.Status, change func(*control.Status)) control.Status { change(&s); return s }
	for name, c := range map[string]struct {
		was, is control.Status
		want    []string
	}{
		"nothing":        {st(p("a")), st(p("a", func(p *control.Profile) { p.Left, p.RenewIn = 3000, 5 })), nil},
		"minted":         {st(p("a", nothing)), st(p("a")), []string{"a minted: ASIAONE for 1h00m"}},
		"renewed":        {st(p("a")), st(p("a", renewed)), []string{"a minted: ASIATWO for 1h00m"}},
		"failed":         {st(p("a")), st(p("a", failed)), []string{"!a failed: STS is away"}},
		"failed again":   {st(p("a", failed)), st(p("a", failed, func(p *control.Profile) { p.Failures = 9 })), nil},
		"recovered":      {st(p("a", failed)), st(p("a", renewed)), []string{"a recovered: ASIATWO for 1h00m"}},
		"forgiven":       {st(p("a", failed)), st(p("a")), []string{"a recovered"}},
		"login":          {st(p("a")), st(p("a", state(broker.StateLogin))), []string{"!a needs a login"}},
		"lapsed":         {st(p("a")), st(p("a", state(broker.StateLapsed))), []string{"a lapsed: nobody asked for it lately"}},
		"expired":        {st(p("a")), st(p("a", nothing)), []string{"a holds nothing any more"}},
		"came and went":  {st(p("a")), st(p("b\n")), []string{"b  is new", "a is no longer there"}},
		"restart":        {st(), with(st(), func(s *control.Status) { s.PID = 2 }), []string{"the broker was started anew, process 2"}},
		"locked":         {st(), with(st(), func(s *control.Status) { s.Custody = "locked" }), []string{"!custody is locked"}},
		"bad file":       {st(), with(st(), func(s *control.Status) { s.Failed = "f:1: no" }), []string{"!the configuration was not read again: f:1: no"}},
		"region":         {st(), with(st(), func(s *control.Status) { s.Lame = []control.Region{{Name: "eu"}} }), []string{"!STS in eu does not answer"}},
		"region is back": {with(st(), func(s *control.Status) { s.Lame = []control.Region{{Name: "eu"}} }), st(), []string{"STS in eu answers again"}},
	} {
		var got []string
		for _, c := range changes(c.was, c.is, watchNow) {
			text := c.text
			if c.bad {
				text = "!" + text
			}
			got = append(got, text)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	h, news := history{}.saw(st(p("a")), watchNow)
	if len(news) != 0 {
		t.Errorf("the first answer is no news: %v", news)
	}
	for i := range 20 {
		h, _ = h.saw(st(p(fmt.Sprint(i))), watchNow)
	}
	if len(h.events) != mostChanges || h.events[mostChanges-1].text != "18 is no longer there" {
		t.Errorf("%v", h.events)
	}
}

// TestWatchLines: for a log, the status once and then what changes; a broker that has
// gone is waited for.
func TestWatchLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := 0
		began := time.Now()
		ask := func() (control.Status, error) {
			st := control.Status{Version: "1", Started: began, Profiles: []control.Profile{{Name: "dev", State: "fresh", KeyID: "ASIAONE", Left: 3600 - float64(n), Granted: 3600}}}
			switch n++; {
			case n > 40:
				cancel()
			case n > 30:
				st.Profiles[0].State = "login-needed"
			case n > 20:
				return control.Status{}, errors.New("no broker is running")
			}
			return st, nil
		}
		var out syncBuilder
		if err := watchLines(ctx, &out, paint{}, false, ask); err != nil {
			t.Fatal(err)
		}
		var lines []string
		for s := bufio.NewScanner(strings.NewReader(out.String())); s.Scan(); {
			lines = append(lines, s.Text())
		}
		stamp := func(n int) string { return began.Add(time.Duration(n) * time.Second).Format(time.RFC3339) }
		want := []string{
			stamp(20) + "  no answer: no broker is running",
			stamp(30) + "  the broker answers again",
			stamp(30) + "  dev needs a login",
			stamp(30) + "  dev needs a login: stsbroker login dev",
		}
		if len(lines) < 6 || !strings.HasPrefix(lines[0], "stsbroker 1") || !slices.Equal(lines[len(lines)-4:], want) {
			t.Errorf("%s", out.String())
		}
		if s := strings.Count(out.String(), "PROFILE"); s != 1 {
			t.Errorf("the table stands there %d times", s)
		}
	})
}
