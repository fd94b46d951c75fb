//go:build conformance && linux

package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

const (
	dayStep  = time.Minute     // between two calls of a program
	daySlack = 2 * time.Second // real time goes on while time is moved
	dayRole  = "arn:aws:iam::" + stsfake.Account + ":role/day"
)

// dayProfiles are the leases of the day. lone is hour once more, for one client alone.
var dayProfiles = map[string]time.Duration{
	"hour": time.Hour, "half-day": 12 * time.Hour, "quarter": 15 * time.Minute, "lone": time.Hour, "long": 36 * time.Hour,
}

// TestDay moves a broker, an STS and real SDKs through a day together: the newest
// ones, and in make conformance-all old ones too. Each SDK is asked for its
// credentials once a minute, by a program that holds it all day. None ever holds a set that has ended, none asks again
// before its own refresh rule says so, and STS is called as often as the renewal
// policy says, however many ask.
func TestDay(t *testing.T) {
	k := installDay(newInstaller(t))
	d := startDay(t, k)
	clients := dayClients(t, k)
	for _, c := range clients {
		d.start(t, c)
	}
	d.pass(t, clients, 24*time.Hour)
	mints := d.judgeMints(t, clients)
	d.judgeDoors(t, clients)
	fmt.Printf("\n%s\n", dayTable(clients, mints))
}

// pass lets so much time pass, with a call of each client in each minute.
func (d *day) pass(t *testing.T, clients []*dayClient, length time.Duration) {
	t.Helper()
	began := time.Now()
	judge := func() {
		for _, c := range clients {
			c.judge(t)
		}
	}
	for minute := range int(length / dayStep) {
		d.passUntil(t, time.Duration(minute)*dayStep)
		// They do not all begin at once, or one moment of a set's life would be all
		// that they ever see of it.
		d.ask(clients[:min(len(clients), 1+minute/3)])
		if slices.ContainsFunc(clients, func(c *dayClient) bool { return len(c.wrong) > 10 }) {
			judge()
			t.FailNow() // the rest shows no more
		}
	}
	d.passUntil(t, length)
	t.Logf("%v took %.0f s", length, time.Since(began).Seconds())
	judge()
}

// rule is when an SDK asks again, as its own source says.
type rule struct {
	window time.Duration // asks once no more than this is left of what it was told
	most   time.Duration // asks again after this at the latest; 0 for no such rule
}

// dayClient is one program with one SDK at one door.
type dayClient struct {
	piece
	name, door, profile string
	argv                []string
	rule                rule

	in  io.WriteCloser
	out *os.File
	dec *json.Decoder

	held     daySet
	lastAsk  time.Time
	requests int
	asks     int
	apart    time.Duration // the smallest time between two asks
	left     time.Duration // the smallest ever, until STS itself ends the set
	served   time.Duration // the smallest that was told of a set that it just got
	wrong    []string
}

// daySet is one that STS issued.
type daySet struct {
	key     string
	expires time.Time // at STS
	told    time.Time // what clients were told
	life    time.Duration
}

// The rules, with where they are in the sources.
var (
	// config/resolve_credentials.go: an ExpiryWindow of five minutes for the
	// container endpoint, since the first version; for IMDS until 2021.
	// aws-sdk-go/aws/defaults/defaults.go: the same for both doors of version 1.
	fiveMinutes = rule{window: 5 * time.Minute}
	// aws/credential_cache.go: no window where nobody gives one.
	atTheEnd = rule{}
	// credentials/ec2rolecreds/provider.go, since late 2021: an expiry that is more than an
	// hour away counts as one in an hour; the cache of the default chain has no window.
	hourly = rule{most: time.Hour}
	// @aws-sdk/middleware-signing, then @smithy/core: 300,000 ms. The new one
	// fetches beside the call, and goes on with what it has for that call.
	memoized = rule{window: 5 * time.Minute}
	// aws-sdk/lib/credentials.js: expiryWindow, 15 s.
	seconds15 = rule{window: 15 * time.Second}
	// botocore/credentials.py: advisory at 15 minutes, mandatory at 10. A program with one
	// thread never waits for the second. utils.py moves the expiry of what IMDS serves with less
	// than 17 to 25 minutes left: the broker never does.
	advisory = rule{window: 15 * time.Minute}
)

// dayClients are the clients that could be installed; of the others the test says so.
func dayClients(t *testing.T, k dayKit) []*dayClient {
	t.Helper()
	var all []*dayClient
	add := func(name string, p piece, door, profile string, r rule, argv ...string) {
		all = append(all, &dayClient{piece: p, name: name, door: door, profile: profile, rule: r, argv: argv})
	}
	js := func(p piece) []string { return []string{k.node.path, k.jsDriver, p.path} }
	add("Go v2, alone", k.goNew, "container", "lone", fiveMinutes, k.goNew.path, "chain")
	add("Go v2, no chain", k.goNew, "container", "hour", atTheEnd, k.goNew.path, "container")
	type sdk struct {
		name            string
		p               piece
		container, imds rule
		argv            []string
	}
	newest := []sdk{
		{"Go v2", k.goNew, fiveMinutes, hourly, []string{k.goNew.path, "chain"}},
		{"JavaScript v3", k.jsNew, memoized, memoized, js(k.jsNew)},
		{"botocore", k.botoNew, advisory, advisory, []string{k.botoNew.path, k.botoDriver}},
	}
	for _, s := range newest {
		add(s.name, s.p, "container", "quarter", s.container, s.argv...)
	}
	sdks := newest
	if *everything {
		sdks = append(sdks,
			sdk{"Go v2", k.goOld, fiveMinutes, fiveMinutes, []string{k.goOld.path, "chain"}},
			sdk{"Go v1", k.goV1, fiveMinutes, fiveMinutes, []string{k.goV1.path, "chain"}},
			sdk{"Go v1", k.goV1Old, fiveMinutes, fiveMinutes, []string{k.goV1Old.path, "chain"}},
			sdk{"JavaScript v3", k.jsOld, memoized, memoized, js(k.jsOld)},
			sdk{"JavaScript v2", k.jsV2, seconds15, seconds15, js(k.jsV2)},
			sdk{"botocore", k.botoOld, advisory, advisory, []string{k.botoOld.path, k.botoDriver}})
	}
	for _, s := range sdks {
		for _, profile := range []string{"hour", "half-day"} {
			add(s.name, s.p, "container", profile, s.container, s.argv...)
			add(s.name, s.p, "imds", profile, s.imds, s.argv...)
		}
	}
	var there []*dayClient
	reasons := map[error]bool{}
	for _, c := range all {
		switch {
		case c.err == nil:
			there = append(there, c)
		case !reasons[c.err]:
			reasons[c.err] = true
			t.Run(c.name, func(t *testing.T) { notRun(t, c.err) })
		}
	}
	return there
}

// day is a broker with an STS, and what time it is there.
type day struct {
	home
	fake     *stsfake.Server
	control  *control.Client
	metrics  string
	clock    *os.File // moves the broker's clock
	moved    *os.File // says that it has moved
	began    time.Time
	ahead    time.Duration
	mu       sync.Mutex
	sets     map[string]daySet // by key id
	received int               // of the stand-in's calls
	owner    map[string]string // profiles by key id, as status says
}

func startDay(t *testing.T, k dayKit) *day {
	t.Helper()
	fake := stsfake.New()
	fake.AddUser("dev", "AKIADAYDAYDAYDAYDAY1", "day-secret-day-secret-day-secret-day-sec")
	fake.AddRole(stsfake.Role{ARN: dayRole, Trust: []string{"arn:aws:iam::" + stsfake.Account + ":user/dev"}})
	running, err := fake.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = running.Close() })

	ports := freePorts(t, 4)
	at := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	dir := tempDir(t)
	d := &day{home: home{dir, k.stsbroker, at(0)}, fake: fake, metrics: "http://" + at(3) + "/metrics", sets: map[string]daySet{}, owner: map[string]string{}}
	writeFile(t, filepath.Join(dir, ".aws/credentials"), section("dev", keyPair{"AKIADAYDAYDAYDAYDAY1", "day-secret-day-secret-day-secret-day-sec"}))
	writeFile(t, filepath.Join(dir, ".config/stsbroker/stsbroker.yaml"), fmt.Sprintf(`
listen:
  container: [%q]
  imds: [{ address: %q, profile: hour }, { address: %q, profile: half-day }]
  metrics: %q
sts: { region: eu-central-1, endpoints: { eu-central-1: %q } }
aws_profiles: { include: [] }
keys: { dev: { custody: file } }
profiles:
  hour: { role: { arn: %[6]q, key: dev, session_name: hour } }
  long: { session: { key: dev, duration: 36h } }
  half-day: { session: { key: dev, duration: 12h } }
  quarter: { role: { arn: %[6]q, key: dev, session_name: quarter, duration: 15m } }
  lone: { role: { arn: %[6]q, key: dev, session_name: lone } }
`, at(0), at(1), at(2), at(3), running.URL, dayRole))
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	pipe := func(name string) *os.File {
		path := filepath.Join(dir, "clock."+name)
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	d.clock = pipe("in")
	d.moved = pipe("out")
	p := start(t, dir, cleanEnv(dir, "TEST_CLOCK="+filepath.Join(dir, "clock")), "stsbroker", k.stsbroker, "serve")
	socket := filepath.Join(dir, "run", "stsbroker", "control.sock")
	p.await(t, 30*time.Second, func() (err error) {
		d.control, err = control.Dial(t.Context(), socket)
		return err
	})
	d.began = time.Now()
	return d
}

// now is the time of the simulated day.
func (d *day) now() time.Time { return time.Now().Add(d.ahead) }

// passUntil moves everybody's clock to a time of the day, with a stop at each
// renewal of the broker on the way, so that none is late for the size of a step.
func (d *day) passUntil(t *testing.T, at time.Duration) {
	t.Helper()
	for {
		next := d.settled(t)
		rest := d.began.Add(at).Sub(d.now())
		if rest <= 0 {
			return
		}
		d.ahead += min(rest, next).Truncate(time.Second) + time.Second
		d.fake.SetOffset(d.ahead)
		want := fmt.Sprintln(int64(d.ahead / time.Second))
		if _, err := d.clock.WriteString(want); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if err := d.moved.SetReadDeadline(time.Now().Add(15 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(d.moved, got); err != nil || string(got) != want {
			t.Fatalf("the broker's clock was not moved to %q: %q, %v", want, got, err)
		}
	}
}

// settled waits until the broker holds and renews what it should, and returns
// in how long the next renewal is due.
func (d *day) settled(t *testing.T) (next time.Duration) {
	t.Helper()
	look := func() error {
		s, err := d.control.Status(t.Context(), "")
		if err != nil {
			return err
		}
		next = 24 * time.Hour
		for _, p := range s.Profiles {
			if p.State == string(broker.StateIdle) { // nobody asked yet
				continue
			}
			if p.State != string(broker.StateFresh) || p.RenewIn <= 0 {
				return fmt.Errorf("%s is %s, %s", p.Name, p.State, p.LastError)
			}
			next = min(next, time.Duration(p.RenewIn*float64(time.Second)))
			d.owner[p.KeyID] = p.Name
		}
		return nil
	}
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		err := look()
		if err == nil {
			return next
		}
		if time.Since(began) > 15*time.Second {
			t.Fatalf("at %v: %v", d.now().Sub(d.began), err)
		}
	}
}

// start starts a client as a person would, by way of stsbroker env, and waits
// until it is ready: time must not be moved while env speaks to the broker.
func (d *day) start(t *testing.T, c *dayClient) {
	t.Helper()
	stderr, err := os.Create(filepath.Join(d.dir, strings.ReplaceAll(fmt.Sprintf("%s-%s-%s-%s.err", c.name, c.version, c.door, c.profile), " ", "")))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	argv := append([]string{"-c", `lines=$("$0" env "$1" --door "$2") && eval "$lines" && shift 2 && exec "$@"`, d.stsbroker, c.profile, c.door}, c.argv...)
	cmd := exec.Command("sh", argv...)
	cmd.Dir, cmd.Env, cmd.Stderr = d.dir, cleanEnv(d.dir), stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if c.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = out.(*os.File)
	c.dec = json.NewDecoder(c.out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // how it ended is in stderr
		if b, err := os.ReadFile(stderr.Name()); t.Failed() && err == nil && len(b) > 0 {
			t.Logf("%s said:\n%s", c.title(), b[max(0, len(b)-2000):])
		}
	})
	var ready struct{}
	if err := c.answer(&ready); err != nil {
		t.Fatalf("%s did not start: %v", c.title(), err)
	}
}

// answer reads one line of the client.
func (c *dayClient) answer(line any) error {
	if err := c.out.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	return c.dec.Decode(line)
}

// ask lets every client call AWS once; some at a time, as the machine is small
// and SDKs wait for half a second only.
func (d *day) ask(clients []*dayClient) {
	var wg sync.WaitGroup
	next := make(chan *dayClient)
	for range 4 {
		wg.Go(func() {
			for c := range next {
				if err := d.askOne(c); err != nil {
					c.wrong = append(c.wrong, err.Error())
				}
			}
		})
	}
	for _, c := range clients {
		next <- c
	}
	close(next)
	wg.Wait()
}

func (d *day) askOne(c *dayClient) error {
	before := d.now()
	if _, err := fmt.Fprintln(c.in, int64(d.ahead/time.Second)); err != nil {
		return err
	}
	var line struct {
		Now      int64
		Key      string
		Requests int
		Error    string
	}
	if err := c.answer(&line); err != nil {
		return err
	}
	now := d.now()
	told := time.Unix(line.Now, 0)
	switch {
	case line.Error != "":
		return errors.New(line.Error)
	case told.Before(before.Add(-daySlack)) || told.After(now.Add(daySlack)):
		return fmt.Errorf("its clock says %v at %v", told, now)
	}
	set, err := d.set(line.Key)
	if err != nil {
		return err
	}
	if set.life != dayProfiles[c.profile] {
		return fmt.Errorf("it was given a set of %v for profile %s", set.life, c.profile)
	}
	return c.saw(set, line.Requests, d.began, now)
}

// set returns what STS knows of a key id.
func (d *day) set(key string) (daySet, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.sets[key]; !ok {
		calls := d.fake.Calls()
		for _, call := range calls[d.received:] {
			if call.Minted {
				ends := call.Time.Add(call.Life).Truncate(time.Second)
				d.sets[call.KeyID] = daySet{call.KeyID, ends, ends.Add(-broker.Margin(call.Life)), call.Life}
			}
		}
		d.received = len(calls)
	}
	s, ok := d.sets[key]
	if !ok {
		return s, fmt.Errorf("it holds %q, which STS did not issue", key)
	}
	return s, nil
}

// most is how many requests one ask makes at a door: IMDS has a session token,
// a list and a leaf.
var most = map[string]int{"container": 1, "imds": 3}

// saw judges one call of the client.
func (c *dayClient) saw(set daySet, requests int, began, now time.Time) error {
	first, was := c.lastAsk.IsZero(), c.held
	c.held = set
	c.requests += requests
	left := set.expires.Sub(now)
	if first {
		c.left = left
	}
	c.left = min(c.left, left)
	at := now.Sub(began).Round(time.Second)
	if left <= 0 || set.told.Sub(now) < -daySlack {
		return fmt.Errorf("at %v it holds a set that ended %v ago", at, -left)
	}
	if requests == 0 {
		switch {
		case first:
			return errors.New("it has credentials and asked nobody")
		case set.key != was.key: // fetched beside the call before
			c.served = min(c.served, set.told.Sub(c.lastAsk))
		case set.told.Sub(now) < c.rule.window-daySlack:
			return fmt.Errorf("at %v it does not ask, with %v left", at, set.told.Sub(now))
		case c.rule.most > 0 && now.Sub(c.lastAsk) > c.rule.most+daySlack:
			return fmt.Errorf("at %v it does not ask, after %v", at, now.Sub(c.lastAsk))
		}
		return nil
	}
	c.asks++
	since := now.Sub(c.lastAsk)
	c.lastAsk = now
	may := most[c.door]
	if first {
		may *= 2 // botocore loads, and then asks whether that was too old already
	}
	if requests > may {
		return fmt.Errorf("at %v it asked with %d requests", at, requests)
	}
	if first {
		c.apart, c.served = 24*time.Hour, set.told.Sub(now)
		return nil
	}
	c.apart = min(c.apart, since)
	if set.key != was.key {
		c.served = min(c.served, set.told.Sub(now))
	}
	if was.told.Sub(now) > c.rule.window+daySlack && (c.rule.most == 0 || since < c.rule.most-daySlack) {
		return fmt.Errorf("at %v it asked with %v left, its window is %v", at, was.told.Sub(now), c.rule.window)
	}
	// What it was given leaves it alone for as long as the broker's policy and its own window say.
	if alone := c.alone(); since < alone-daySlack {
		return fmt.Errorf("at %v it asked again after %v, want none for %v", at, since, alone)
	}
	return nil
}

// alone is how long at least a client has no reason to ask again: what is left of
// a set on the eve of its renewal, less the margin and the client's window. It is
// negative for a client that never gets a set that is outside its window; that
// one may ask at each call, and once.
func (c *dayClient) alone() time.Duration {
	life := dayProfiles[c.profile]
	d := broker.RenewLeft(life, 0) - broker.Margin(life) - c.rule.window
	if c.rule.most > 0 {
		d = min(d, c.rule.most)
	}
	return d
}

func (c *dayClient) title() string {
	return fmt.Sprintf("%s %s, %s, %s", c.name, c.version, c.door, c.profile)
}

func (c *dayClient) judge(t *testing.T) {
	t.Helper()
	for i, w := range c.wrong {
		if i == 5 {
			t.Errorf("%s: and %d more", c.title(), len(c.wrong)-i)
			break
		}
		t.Errorf("%s: %s", c.title(), w)
	}
	// Wire contract, line 19: half an hour wherever STS allows.
	if life := dayProfiles[c.profile]; c.asks > 0 && life >= time.Hour && c.served < 30*time.Minute-daySlack {
		t.Errorf("%s: it was served a set of %v with %v left", c.title(), life, c.served)
	}
}

// judgeMints holds the calls to STS against the renewal policy, and returns how
// many there were for each profile.
func (d *day) judgeMints(t *testing.T, clients []*dayClient) map[string]int {
	t.Helper()
	mints, last := map[string]int{}, map[string]time.Time{}
	for _, call := range d.fake.Calls() {
		p := d.owner[call.KeyID]
		if !call.Minted || p == "" {
			t.Errorf("STS was asked for %s by nobody's need: %q", call.Action, call.Code)
			continue
		}
		mints[p]++
		if was, ok := last[p]; ok {
			least, most := call.Life-broker.RenewLeft(call.Life, 1), call.Life-broker.RenewLeft(call.Life, 0)
			if age := call.Time.Sub(was); age < least-daySlack || age > most+daySlack {
				t.Errorf("%s: minted %v after the one before, want %v to %v", p, age, least, most)
			}
		}
		last[p] = call.Time
	}
	for _, c := range clients {
		if end := d.now().Sub(last[c.profile]); end > dayProfiles[c.profile] {
			t.Errorf("%s: not minted for %v", c.profile, end)
		}
	}
	return mints
}

// judgeDoors holds what the clients say they sent against what the doors answered.
func (d *day) judgeDoors(t *testing.T, clients []*dayClient) {
	t.Helper()
	resp, err := loopback.Get(d.metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("metrics: status %d, %v", resp.StatusCode, err)
	}
	sent, answered := map[string]int{}, map[string]int{}
	for _, c := range clients {
		sent[c.door] += c.requests
	}
	for _, m := range regexp.MustCompile(`(?m)^stsbroker_requests_total\{door="(container|imds)",status="(\w+)"\} (\S+)$`).FindAllStringSubmatch(string(text), -1) {
		n, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			t.Fatal(err)
		}
		if m[2] != "200" && n != 0 {
			t.Errorf("the %s door answered %s %v times", m[1], m[2], n)
		}
		answered[m[1]] += int(n)
	}
	for door, n := range sent {
		if answered[door] != n {
			t.Errorf("the clients sent the %s door %d requests, it answered %d", door, n, answered[door])
		}
	}
	for _, none := range []string{"stsbroker_clock_steps_total", "stsbroker_served_stale_total", "stsbroker_leases_lapsed_total"} {
		if !strings.Contains(string(text), "\n"+none+" 0\n") {
			t.Errorf("%s is not 0: the day was not as any other", none)
		}
	}
}

func dayTable(clients []*dayClient, mints map[string]int) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "a day, a call a minute\tversion\tdoor\tprofile\tits window\tasks\trequests\tsmallest between asks\tsmallest told when served\tsmallest ever left at STS")
	for _, c := range clients {
		window := c.rule.window.String()
		if c.rule.most > 0 {
			window += ", every " + c.rule.most.String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%v\t%v\t%v\n", c.name, c.version, c.door, c.profile, window, c.asks, c.requests,
			c.apart.Round(time.Second), c.served.Round(time.Second), c.left.Round(time.Second))
	}
	_ = w.Flush() // a strings.Builder takes everything
	for _, p := range slices.Sorted(maps.Keys(mints)) {
		fmt.Fprintf(&b, "%d mints of %s, of %v each\n", mints[p], p, dayProfiles[p])
	}
	return b.String()
}
