package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/vault"
	"github.com/stsbroker/stsbroker/internal/control"
)

// history is what a watcher has seen: how things stood last, and what changed lately.
type history struct {
	at     time.Time // of last
	last   control.Status
	gone   error // why there is no newer answer; nil: there is
	since  time.Time
	events []change // oldest first, at most [mostChanges]
}

// change is one thing that happened, in words that name the profile.
type change struct {
	at   time.Time
	text string
	bad  bool
}

// mostChanges is how many are kept in mind.
const mostChanges = 5

// saw is the history with one more answer. new is what changed by it.
func (h history) saw(st control.Status, now time.Time) (next history, news []change) {
	if !h.at.IsZero() {
		news = changes(h.last, st, now)
		if h.gone != nil {
			news = append([]change{{now, "the broker answers again", false}}, news...)
		}
	}
	h.last, h.at, h.gone = st, now, nil
	return h.with(news), news
}

// lost is the history with one more question that nobody answered.
func (h history) lost(err error, now time.Time) (next history, news []change) {
	if h.gone == nil {
		news = []change{{now, "no answer: " + oneLine(err.Error()), true}}
		h.since = now
	}
	h.gone = err
	return h.with(news), news
}

func (h history) with(news []change) history {
	h.events = append(slices.Clip(h.events), news...)
	h.events = slices.Clone(h.events[max(0, len(h.events)-mostChanges):])
	return h
}

// changes is what happened between two answers, as far as they tell.
func changes(was, is control.Status, now time.Time) (all []change) {
	add := func(bad bool, format string, args ...any) {
		all = append(all, change{now, fmt.Sprintf(format, args...), bad})
	}
	if was.PID != is.PID || !was.Started.Equal(is.Started) {
		add(false, "the broker was started anew, process %d", is.PID)
	}
	if was.Custody != is.Custody {
		add(is.Custody == vault.Locked.String(), "custody is %s", is.Custody)
	}
	if was.Failed != is.Failed {
		if is.Failed != "" {
			add(true, "the configuration was not read again: %s", oneLine(shortPaths(is)))
		} else {
			add(false, "the configuration was read again")
		}
	}
	regions := map[string]bool{}
	for _, r := range was.Lame {
		regions[r.Name] = true
	}
	for _, r := range is.Lame {
		if !regions[r.Name] {
			add(true, "STS in %s does not answer", oneLine(r.Name))
		}
		delete(regions, r.Name)
	}
	for _, r := range was.Lame {
		if regions[r.Name] {
			add(false, "STS in %s answers again", oneLine(r.Name))
		}
	}
	before := make(map[string]control.Profile, len(was.Profiles))
	for _, p := range was.Profiles {
		before[p.Name] = p
	}
	for _, p := range is.Profiles {
		o, known := before[p.Name]
		delete(before, p.Name)
		name := oneLine(p.Name)
		switch {
		case !known:
			add(false, "%s is new", name)
		case p.KeyID != "" && p.KeyID != o.KeyID && o.LastError != "":
			add(false, "%s recovered: %s for %s", name, p.KeyID, span(seconds(p.Left)))
		case p.KeyID != "" && p.KeyID != o.KeyID:
			add(false, "%s minted: %s for %s", name, p.KeyID, span(seconds(p.Left)))
		case p.LastError != "" && p.LastError != o.LastError:
			add(true, "%s failed: %s", name, oneLine(p.LastError))
		case p.Reason != "" && o.Reason == "":
			add(true, "%s cannot be served: %s", name, shortReason(p.Name, p.Reason))
		case p.Reason == "" && o.Reason != "":
			add(false, "%s can be served", name)
		case p.State != o.State && broker.State(p.State) == broker.StateLogin:
			add(true, "%s needs a login", name)
		case p.State != o.State && broker.State(p.State) == broker.StateLapsed:
			add(false, "%s lapsed: nobody asked for it lately", name)
		case p.KeyID == "" && o.KeyID != "":
			add(o.LastError != "", "%s holds nothing any more", name)
		case p.LastError == "" && o.LastError != "" && p.KeyID != "":
			add(false, "%s recovered", name)
		}
	}
	for _, p := range was.Profiles {
		if _, gone := before[p.Name]; gone {
			add(false, "%s is no longer there", oneLine(p.Name))
		}
	}
	return all
}

// watchEvery is how often a watcher looks, and how long it waits for an answer.
const (
	watchEvery   = time.Second
	watchPatient = 5 * time.Second
)

// watchStatus shows how things stand until ctx ends: on a terminal a screen that follows
// them, elsewhere the status once and then a block of lines for each change.
func watchStatus(ctx context.Context, g *globals, profile string) error {
	var s *control.Client
	ask := func() (control.Status, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, watchPatient, fmt.Errorf("the broker takes longer than %s", span(watchPatient)))
		defer cancel()
		var err error
		if s == nil {
			if s, err = connect(ctx, g); err != nil {
				s = nil
				return control.Status{}, err
			}
		}
		st, err := s.Status(ctx, profile)
		if err != nil {
			s = nil
		}
		return st, err
	}
	_, err := ask()
	if e, ok := errors.AsType[*control.Error](err); ok && e.Kind == broker.KindForbidden.String() {
		return err // there is no such profile, or not for us: waiting does not help
	}
	c := painter(os.Stdout)
	if !isTerminal(os.Stdout) {
		return watchLines(ctx, os.Stdout, c, profile != "", ask)
	}
	return watchTerminal(ctx, os.Stdout, c, ask)
}

// watchLines writes to a log: what stood at first, and what changed since.
func watchLines(ctx context.Context, w io.Writer, c paint, one bool, ask func() (control.Status, error)) error {
	var h history
	for {
		var out strings.Builder
		st, err := ask()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to end, and what it asked last is nobody's
		}
		now := time.Now()
		var news []change
		first := h.at.IsZero()
		if err == nil {
			h, news = h.saw(st, now)
			if first {
				showStatus(&out, c, st, one, 0)
			}
		} else {
			h, news = h.lost(err, now)
		}
		for _, n := range news {
			fmt.Fprintf(&out, "%s  %s\n", now.Format(time.RFC3339), n.text)
		}
		if len(news) > 0 && err == nil {
			for _, p := range st.Profiles {
				if l := loginLine(p); l != "" {
					fmt.Fprintf(&out, "%s  %s\n", now.Format(time.RFC3339), l)
				}
			}
		}
		if _, err := io.WriteString(w, out.String()); err != nil {
			return err
		}
		if !pause(ctx, watchEvery) {
			return nil
		}
	}
}

// What a terminal is told: ECMA-48, and xterm's private modes, which all of today's know.
const (
	screenOn   = "\x1b[?1049h\x1b[?25l\x1b[?7l" // another screen, no cursor, no wrapping
	screenOff  = "\x1b[?7h\x1b[?25h\x1b[?1049l"
	screenHome = "\x1b[H"
	lineEnd    = "\x1b[K" // clears what stood behind
	screenEnd  = "\x1b[J" // clears what stood below
)

// watchTerminal follows how things stand on a screen of its own, which is put away
// however it ends.
func watchTerminal(ctx context.Context, w *os.File, c paint, ask func() (control.Status, error)) error {
	if _, err := io.WriteString(w, screenOn); err != nil {
		return err
	}
	defer func() { _, _ = io.WriteString(w, screenOff) }() // of a terminal that is gone, nothing is left to mend
	defer onSuspend(
		func() { _, _ = io.WriteString(w, screenOff) },
		func() { _, _ = io.WriteString(w, screenOn) },
	)()
	answers, stop := make(chan func(history) history), make(chan struct{})
	defer close(stop)
	go func() { // its pace is the broker's, the screen's is the clock's
		for ctx.Err() == nil {
			st, err := ask()
			now := time.Now()
			f := func(h history) history {
				if err != nil {
					h, _ = h.lost(err, now)
				} else {
					h, _ = h.saw(st, now)
				}
				return h
			}
			select {
			case answers <- f:
			case <-stop:
				return
			}
			if !pause(ctx, watchEvery) {
				return
			}
		}
	}()
	var h history
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	resized, done := onResize()
	defer done()
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-answers:
			h = f(h)
		case <-tick.C:
		case <-resized:
		}
		width, height, err := term.GetSize(int(w.Fd()))
		if err != nil || width < 1 || height < 1 { // some terminals do not know their size
			width, height = 80, 24
		}
		if h.at.IsZero() && h.gone == nil {
			continue // there is nothing to show yet
		}
		// The last column stays free: what clears behind it would clear what stands there.
		text := strings.ReplaceAll(watchScreen(h.last, h, time.Now(), max(1, width-1), height, c), "\n", lineEnd+"\r\n")
		if _, err := io.WriteString(w, screenHome+text+lineEnd+screenEnd); err != nil {
			return err
		}
	}
}

// loginLine says what a person has to do for the profile, "" for nothing.
func loginLine(p control.Profile) string {
	if broker.State(p.State) != broker.StateLogin {
		return ""
	}
	return oneLine(p.Name) + " needs a login: stsbroker login " + shQuote(oneLine(p.Name))
}

// urgencyOf orders profiles: what a person has to do or to know comes first.
func urgencyOf(p control.Profile) int {
	switch broker.State(p.State) {
	case broker.StateLogin:
		return 0
	case broker.StateError:
		return 1
	case broker.StateFailing:
		return 2
	case broker.StateMinting:
		return 3
	case broker.StateFresh, broker.StateRenewing:
		return 4
	case broker.StateLapsed:
		return 5
	case broker.StateIdle:
		return 6
	}
	return 7
}

// Widths of the columns, in cells of the terminal.
const (
	stateWidth = 10
	leftWidth  = 6
	renewWidth = 6
	leastBar   = 5
	mostBar    = 40
	leastName  = 7
	mostName   = 32
	leastError = 24 // else it has a line of its own
	mostLogins = 4
)

// watchScreen is the whole screen: lines of at most width cells, at most height of them,
// without a line break after the last. st is how things stood at prev's time.
func watchScreen(st control.Status, prev history, now time.Time, width, height int, c paint) string {
	past := max(0, now.Sub(prev.at))
	if prev.at.IsZero() {
		past = 0
	}
	profiles := slices.Clone(st.Profiles)
	for i := range profiles {
		profiles[i].Left = max(0, profiles[i].Left-past.Seconds())
		profiles[i].RenewIn = max(0, profiles[i].RenewIn-past.Seconds())
	}
	slices.SortStableFunc(profiles, func(a, b control.Profile) int {
		return cmp.Or(cmp.Compare(urgencyOf(a), urgencyOf(b)), cmp.Compare(a.Left, b.Left), cmp.Compare(a.Name, b.Name))
	})

	head := watchHead(st, profiles, prev, now, width, c)
	var tail []string
	if room := height - len(head) - 2; len(prev.events) > 0 && room >= 8 { // else the profiles need it
		tail = append(tail, "")
		for _, e := range prev.events[max(0, len(prev.events)-room/3):] {
			line := cut(e.at.Local().Format(time.TimeOnly)+"  "+e.text, width)
			if e.bad {
				tail = append(tail, c.red(line))
			} else {
				tail = append(tail, c.dim(line))
			}
		}
	}
	lines := append(head, watchRows(profiles, width, height-len(head)-len(tail), c)...)
	lines = append(lines, tail...)
	return strings.Join(lines[:min(len(lines), max(1, height))], "\n")
}

// watchHead is what concerns all: the clock, what a person has to do, what is amiss.
func watchHead(st control.Status, profiles []control.Profile, prev history, now time.Time, width int, c paint) []string {
	held := 0
	var logins []string
	for _, p := range profiles {
		if p.Left > 0 {
			held++
		}
		if l := loginLine(p); l != "" {
			logins = append(logins, l)
		}
	}
	title, clock := "stsbroker", now.Local().Format(time.TimeOnly)
	if !prev.at.IsZero() {
		title = fmt.Sprintf("stsbroker %s  %s, %d held  up %s", oneLine(st.Version), count(len(profiles), "profile"), held, span(now.Sub(st.Started)))
	}
	title = pad(cut(title, width-len(clock)-1), width-len(clock)-1)
	lines := []string{c.bold(title) + " " + clock}
	if width <= len(clock)+1 {
		lines[0] = cut(clock, width)
	}
	red := func(text string) { lines = append(lines, c.red(cut(text, width))) }
	if prev.gone != nil {
		red(fmt.Sprintf("no answer for %s, waiting for one: %s", span(now.Sub(prev.since)), oneLine(prev.gone.Error())))
	}
	for i, l := range logins {
		if i == mostLogins-1 && len(logins) > mostLogins {
			l = fmt.Sprintf("and %d more need a login", len(logins)-i)
		}
		lines = append(lines, c.as("1;33", cut(l, width)))
		if i == mostLogins-1 {
			break
		}
	}
	if st.Custody == vault.Locked.String() {
		red("custody is locked: stsbroker unlock" + because(st.Problem))
	}
	if st.Failed != "" {
		red("not read again: " + oneLine(shortPaths(st)))
	}
	if s := st.Sealed; s != nil && s.Error != "" {
		red("leases are not saved: " + oneLine(s.Error))
	}
	for _, f := range append(slices.Clone(st.TokenFiles), st.Files...) {
		if f.Problem != "" {
			red(oneLine(f.Path) + ": " + oneLine(f.Problem))
		}
	}
	var lame []string
	for _, r := range st.Lame {
		lame = append(lame, fmt.Sprintf("%s (%s)", oneLine(r.Name), span(now.Sub(r.Since))))
	}
	if len(lame) > 0 {
		red("STS does not answer in " + strings.Join(lame, ", "))
	}
	doors := slices.Clone(st.Container)
	for _, l := range st.IMDS {
		doors = append(doors, "IMDS of "+oneLine(l.Profile)+" "+l.URL)
	}
	if st.Socket != "" {
		doors = append(doors, oneLine(st.Socket))
	}
	if len(doors) > 0 {
		lines = append(lines, c.dim(cut(strings.Join(doors, "  "), width)))
	}
	return append(lines, "")
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return " (" + oneLine(why) + ")"
}

// watchRows is the table, of at most so many lines. Those that do not fit are counted.
func watchRows(profiles []control.Profile, width, height int, c paint) []string {
	if len(profiles) == 0 {
		return nil
	}
	name := leastName
	for _, p := range profiles {
		name = max(name, cells(oneLine(p.Name)))
	}
	name = min(name, mostName, max(leastName, width/4))
	rest := width - name - stateWidth - leftWidth - 3 // and a blank after each of the three
	renew, fault := 0, 0
	if rest >= leastBar+1+renewWidth+8 {
		renew = renewWidth
		rest -= renew + 1
	}
	if rest >= 2*leastBar+2+leastError {
		fault = max(leastError, rest*6/10)
		rest -= fault + 1
	}
	bar := rest
	if fault > 0 && bar > mostBar { // longer says no more; an error's text does
		fault += bar - mostBar
	}
	bar = min(bar, mostBar)
	head := []string{pad("PROFILE", name), pad("STATE", stateWidth), pad("LEFT", leftWidth), pad("", max(0, bar))}
	if renew > 0 {
		head = append(head, pad("RENEW", renew))
	}
	if fault > 0 {
		head = append(head, "LAST ERROR")
	}
	lines := []string{c.dim(strings.TrimRight(cut(strings.Join(head, " "), width), " "))}
	for i, p := range profiles {
		left, next, why := "", "", oneLine(p.LastError)
		if p.Reason != "" {
			why = shortReason(p.Name, p.Reason)
		}
		if p.Left > 0 {
			left = span(seconds(p.Left))
		}
		if p.RenewIn > 0 {
			next = span(seconds(p.RenewIn))
		}
		plain := pad(oneLine(p.Name), name) + " " + pad(stateWords(p.State), stateWidth) + " " + pad(left, leftWidth)
		row := []string{colour(c, p, cut(plain, width))}
		if bar > 0 && width > cells(plain)+1 {
			row[0] += " " + barOf(p, bar, c)
		}
		if renew > 0 {
			row[0] += " " + pad(next, renew)
		}
		switch {
		case why == "":
		case fault > 0:
			row[0] += " " + colour(c, p, cut(why, fault))
		default:
			row = append(row, colour(c, p, cut("  "+why, width)))
		}
		last := i == len(profiles)-1
		if len(lines)+len(row) > height || !last && len(lines)+len(row) == height {
			if len(lines) < height {
				lines = append(lines, c.dim(cut("… and "+remainder(profiles[i:]), width)))
			}
			break
		}
		lines = append(lines, row...)
	}
	return lines
}

// remainder counts profiles by state, the urgent first.
func remainder(profiles []control.Profile) string {
	var states []string
	n := map[string]int{}
	for _, p := range profiles {
		s := stateWords(p.State)
		if n[s] == 0 {
			states = append(states, s)
		}
		n[s]++
	}
	for i, s := range states {
		states[i] = fmt.Sprintf("%d %s", n[s], s)
	}
	return fmt.Sprintf("%d more: %s", len(profiles), strings.Join(states, ", "))
}

// stateWords is the state in at most stateWidth cells.
func stateWords(state string) string {
	if broker.State(state) == broker.StateLogin {
		return "login"
	}
	return oneLine(state)
}

func colour(c paint, p control.Profile, s string) string {
	switch broker.State(p.State) {
	case broker.StateFresh, broker.StateRenewing:
		return c.green(s)
	case broker.StateLogin, broker.StateMinting:
		return c.as("33", s)
	case broker.StateFailing, broker.StateError, broker.StateUnservable:
		return c.red(s)
	}
	return c.dim(s)
}

// barOf is the time left as a share of the life that was granted, in so many cells. A
// line stands where it will be when it is renewed.
func barOf(p control.Profile, width int, c paint) string {
	if p.Left <= 0 || p.Granted <= 0 {
		return strings.Repeat(" ", width)
	}
	at := func(left float64) int { return min(width, max(0, int(left/p.Granted*float64(width)+0.5))) }
	full, mark := max(1, at(p.Left)), -1
	if p.RenewIn > 0 && p.RenewIn < p.Left && broker.State(p.State) != broker.StateFailing { // then it is the next try's
		mark = min(at(p.Left-p.RenewIn), width-1)
	}
	var done, rest strings.Builder
	for i := range width {
		b, r := &done, '█'
		if i >= full {
			b, r = &rest, '░'
		}
		if i == mark {
			r = '│'
		}
		b.WriteRune(r)
	}
	return colour(c, p, done.String()) + c.dim(rest.String())
}

// cells is how many cells of a terminal the text takes, roughly: East Asian characters
// and pictures take two.
func cells(s string) (n int) {
	for _, r := range s {
		n += cellsOf(r)
	}
	return n
}

// cellsOf goes by the blocks of Unicode that its annex 11 has as wide.
func cellsOf(r rune) int {
	switch {
	case r < 0x1100:
		return 1
	case r <= 0x115F, r >= 0x2E80 && r <= 0xA4CF, r >= 0xAC00 && r <= 0xD7A3, r >= 0xF900 && r <= 0xFAFF, r >= 0xFE30 && r <= 0xFE6F,
		r >= 0xFF00 && r <= 0xFF60, r >= 0xFFE0 && r <= 0xFFE6, r >= 0x1F300 && r <= 0x1FAFF, r >= 0x20000 && r <= 0x3FFFD:
		return 2
	}
	return 1
}

// cut is the text in at most width cells.
func cut(s string, width int) string {
	if cells(s) <= width {
		return s
	}
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n += cellsOf(r); n > width-1 {
			break
		}
		b.WriteRune(r)
	}
	if width > 0 {
		b.WriteRune('…')
	}
	return b.String()
}

// pad is the text in exactly width cells.
func pad(s string, width int) string {
	s = cut(s, width)
	return s + strings.Repeat(" ", max(0, width-cells(s)))
}

// shortPaths is why the configuration was not read, with its file's name alone: a line has
// little room, and what is wrong stands at its end.
func shortPaths(st control.Status) string {
	if st.Config == "" {
		return st.Failed
	}
	return strings.ReplaceAll(st.Failed, filepath.Dir(st.Config)+string(filepath.Separator), "")
}
