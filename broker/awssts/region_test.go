package awssts

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// earth is a few regions over pipes. They share one world; each can be cut off.
type earth struct {
	*STS
	fake    *stsfake.Server
	regions map[string]*place // by host and port
	changes []Health
	mu      sync.Mutex
}

type place struct {
	pipes
	mu     sync.Mutex
	cut    bool         // packets vanish
	answer http.Handler // in place of the stand-in
	asked  int
}

func (p *place) set(cut bool, answer http.Handler) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.answer = cut, answer
}

func (p *place) calls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func (p *place) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked++
	h := p.answer
	p.mu.Unlock()
	h.ServeHTTP(w, r)
}

var hosts = map[string]string{"eu-central-1": "127.0.0.1:1", "eu-west-1": "127.0.0.1:2", "eu-north-1": "127.0.0.1:3", "cn-north-1": "127.0.0.1:4"}

// onEarth runs f in a bubble where all regions answer.
func onEarth(t *testing.T, o Options, f func(t *testing.T, e *earth)) {
	synctest.Test(t, func(t *testing.T) {
		e := &earth{fake: world(), regions: map[string]*place{}}
		o.Endpoints = map[string]Endpoint{}
		byAddress := map[string]*place{}
		var servers []*http.Server
		for region, host := range hosts {
			p := &place{pipes: pipes{conns: make(chan net.Conn), closed: make(chan struct{})}, answer: e.fake}
			e.regions[region], byAddress[host] = p, p
			o.Endpoints[region] = Endpoint{URL: "http://" + host}
			srv := &http.Server{Handler: p}
			servers = append(servers, srv)
			go srv.Serve(p)
		}
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			p := byAddress[addr]
			p.mu.Lock()
			cut := p.cut
			p.mu.Unlock()
			if cut {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return p.dial(ctx, network, addr)
		}
		o.Changed = func(h Health) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.changes = append(e.changes, h)
		}
		var err error
		if e.STS, err = New(o); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := e.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		defer func() {
			stop()
			wg.Wait()
			e.CloseIdle()
			for _, s := range servers {
				s.Close()
			}
		}()
		f(t, e)
	})
}

func (e *earth) mint(t *testing.T) (broker.Credentials, time.Duration, error) {
	began := time.Now()
	m := e.Role(Role{Site: at, ARN: deploy, SessionName: "tester"})
	ctx, cancel := context.WithTimeout(t.Context(), m.(interface{ Deadline() time.Duration }).Deadline())
	defer cancel()
	c, err := m.Mint(ctx, broker.MintInput{Parent: longTerm})
	e.CloseIdle()
	return c, time.Since(began), err
}

var silence = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // only then does net/http notice that a client left
	<-r.Context().Done()
})

func refusing(status int, code string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte("<ErrorResponse><Error><Code>" + code + "</Code><Message>its words</Message></Error><RequestId>id</RequestId></ErrorResponse>"))
	})
}

// A region that does not answer costs the first mint its time-out, the next ones
// nothing, and is taken back within a minute of its healing.
func TestFallback(t *testing.T) {
	const timeout = 4 * time.Second
	for name, c := range map[string]struct {
		cut    bool
		answer http.Handler
		most   time.Duration // for the first credential
	}{
		"black hole": {true, nil, connectTimeout},
		"silent":     {false, silence, timeout},
		"HTTP 500":   {false, refusing(500, "InternalFailure"), 0},
		"HTTP 503":   {false, refusing(503, "ServiceUnavailable"), 0},
		"stalls in the body": {false, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}), timeout},
		"cut in the body": {false, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "500")
			_, _ = io.WriteString(w, "<AssumeRoleResponse")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}), 0},
		"502 from nobody": {false, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "Bad Gateway", http.StatusBadGateway) }), 0},
	} {
		t.Run(name, func(t *testing.T) {
			if c.most > timeout*3/2+time.Second {
				t.Fatal("the table promises more than the figure")
			}
			onEarth(t, Options{Timeout: timeout, Fallback: []string{"eu-central-1", "cn-north-1", "eu-west-1", "eu-north-1"}}, func(t *testing.T, e *earth) {
				first, second := e.regions["eu-central-1"], e.regions["eu-west-1"]
				if got, _, err := e.mint(t); err != nil || got.Region != "eu-central-1" {
					t.Fatalf("all well: %v in %q", err, got.Region)
				}
				first.set(c.cut, c.answer)
				got, took, err := e.mint(t)
				if err != nil || got.Region != "eu-west-1" || took > c.most {
					t.Fatalf("first region gone: %v in %q after %v, want at most %v", err, got.Region, took, c.most)
				}
				if h := e.Health(); len(h) != 1 || h[0].Region != "eu-central-1" || h[0].Why == "" || !h[0].Lame {
					t.Errorf("health %+v", h)
				}
				asked := second.calls()
				if got, took, err = e.mint(t); err != nil || got.Region != "eu-west-1" || took != 0 || second.calls() != asked+1 {
					t.Errorf("the next mint: %v in %q after %v", err, got.Region, took)
				}
				time.Sleep(10 * time.Minute) // probed all the time, and lame all the time
				if len(e.Health()) != 1 {
					t.Error("taken back without healing")
				}
				first.set(false, e.fake)
				time.Sleep(time.Minute)
				mints := e.fake.Mints()
				if got, took, err = e.mint(t); err != nil || got.Region != "eu-central-1" || took != 0 || e.fake.Mints() != mints+1 {
					t.Errorf("a minute after healing: %v in %q after %v", err, got.Region, took)
				}
				if len(e.changes) != 2 || !e.changes[0].Lame || e.changes[1].Lame {
					t.Errorf("changes %+v", e.changes)
				}
				if e.regions["cn-north-1"].calls() != 0 || e.regions["eu-north-1"].calls() != 0 {
					t.Error("a region was asked that had no turn")
				}
			})
		})
	}
}

// What is an answer is nobody's fault: no other region is asked.
func TestAnswersAreNotLameness(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.Handler
		kind   broker.Kind
	}{
		"throttling":           {refusing(400, "Throttling"), broker.KindThrottled},
		"throttling, by 503":   {refusing(503, "SlowDown"), broker.KindThrottled},
		"denied":               {refusing(403, "AccessDenied"), broker.KindDenied},
		"config":               {refusing(400, "ValidationError"), broker.KindConfig},
		"the source's session": {refusing(403, "ExpiredToken"), broker.KindDenied},
	} {
		t.Run(name, func(t *testing.T) {
			onEarth(t, Options{Fallback: []string{"eu-west-1"}}, func(t *testing.T, e *earth) {
				e.regions["eu-central-1"].set(false, c.answer)
				_, _, err := e.mint(t)
				if got := broker.AsError(err); got.Kind != c.kind || len(e.Health()) != 0 || e.regions["eu-west-1"].calls() != 0 {
					t.Errorf("got %v, health %+v, %d calls elsewhere", got, e.Health(), e.regions["eu-west-1"].calls())
				}
			})
		})
	}
}

// A stand-in may be refused what the first region grants: policies name regions.
func TestWhatAStandInRefusesIsNotTheAnswer(t *testing.T) {
	onEarth(t, Options{Fallback: []string{"eu-west-1", "eu-north-1"}}, func(t *testing.T, e *earth) {
		e.regions["eu-central-1"].set(true, nil)
		e.regions["eu-west-1"].set(false, refusing(403, "AccessDenied"))
		got, _, err := e.mint(t)
		if err != nil || got.Region != "eu-north-1" {
			t.Fatalf("%v in %q", err, got.Region)
		}
		e.regions["eu-north-1"].set(false, refusing(403, "AccessDenied"))
		_, _, err = e.mint(t)
		bad := broker.AsError(err)
		if bad.Kind != broker.KindUnavailable || bad.Code != "" {
			t.Errorf("got %v %q: %s", bad.Kind, bad.Code, bad.Public)
		}
		for _, want := range []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "AccessDenied: its words (request id id)"} {
			if !strings.Contains(bad.Public, want) {
				t.Errorf("no %q in %s", want, bad.Public)
			}
		}
		if h := e.Health(); len(h) != 1 {
			t.Errorf("health %+v", h)
		}
		// A session that has expired has expired everywhere.
		e.regions["eu-west-1"].set(false, refusing(403, "ExpiredToken"))
		if _, _, err = e.mint(t); !broker.AsError(err).Signer {
			t.Error(err)
		}
		// A stand-in's word on what is wrong with the call itself counts.
		e.regions["eu-west-1"].set(false, refusing(400, "PackedPolicyTooLarge"))
		if _, _, err = e.mint(t); broker.AsError(err).Kind != broker.KindConfig {
			t.Error(err)
		}
	})
}

// An account that has not activated STS in a region says nothing of the region.
func TestRegionDisabled(t *testing.T) {
	onEarth(t, Options{Fallback: []string{"eu-west-1"}}, func(t *testing.T, e *earth) {
		first := e.regions["eu-central-1"]
		first.set(false, refusing(403, "RegionDisabledException"))
		m := e.Role(Role{Site: at, ARN: deploy, SessionName: "tester"})
		mint := func() string {
			c, err := m.Mint(t.Context(), broker.MintInput{Parent: longTerm})
			if err != nil {
				t.Error(err)
			}
			e.CloseIdle()
			return c.Region
		}
		for range 3 {
			if got := mint(); got != "eu-west-1" {
				t.Errorf("minted in %q", got)
			}
		}
		if first.calls() != 1 || len(e.Health()) != 0 {
			t.Errorf("%d calls, health %+v", first.calls(), e.Health())
		}
		first.set(false, e.fake)
		time.Sleep(disabledFor)
		if got := mint(); got != "eu-central-1" {
			t.Errorf("activated an hour ago, minted in %q", got)
		}
		// Disabled everywhere is for a person to mend, and says so.
		for _, p := range e.regions {
			p.set(false, refusing(403, "RegionDisabledException"))
		}
		_, _, err := e.mint(t)
		if got := broker.AsError(err); got.Kind != broker.KindConfig || !strings.Contains(got.Public, "activate STS") {
			t.Error(got)
		}
	})
}

func TestNobodyAnswers(t *testing.T) {
	onEarth(t, Options{Fallback: []string{"eu-west-1"}}, func(t *testing.T, e *earth) {
		for _, p := range e.regions {
			p.set(true, nil)
		}
		for range 3 { // lame ones are asked all the same, when there is no other
			before := time.Now()
			_, _, err := e.mint(t)
			if got := broker.AsError(err); got.Kind != broker.KindUnavailable || got.Code != "" || time.Since(before) != 2*connectTimeout {
				t.Errorf("after %v: %v", time.Since(before), got)
			}
		}
		e.regions["eu-central-1"].set(false, e.fake)
		if got, _, err := e.mint(t); err != nil || got.Region != "eu-central-1" || len(e.Health()) != 1 {
			t.Errorf("%v in %q, health %+v", err, got.Region, e.Health())
		}
	})
}

// Of regions that all answered, and none granted, the last word counts: nothing
// of it passes by itself.
func TestDisabledAndDeniedDoesNotPass(t *testing.T) {
	onEarth(t, Options{Fallback: []string{"eu-west-1"}}, func(t *testing.T, e *earth) {
		e.regions["eu-central-1"].set(false, refusing(403, "RegionDisabledException"))
		e.regions["eu-west-1"].set(false, refusing(403, "AccessDenied"))
		_, _, err := e.mint(t)
		if got := broker.AsError(err); got.Kind != broker.KindDenied || got.Code != "AccessDenied" || !strings.Contains(got.Public, "RegionDisabled") {
			t.Errorf("kind %v, code %q: %s", got.Kind, got.Code, got.Public)
		}
	})
}

// A region that was asked when the mint's own time ran out is not lame.
func TestOwnDeadlineIsNotLameness(t *testing.T) {
	onEarth(t, Options{Fallback: []string{"eu-west-1"}}, func(t *testing.T, e *earth) {
		e.regions["eu-central-1"].set(false, silence)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := e.Role(Role{Site: at, ARN: deploy, SessionName: "tester"}).Mint(ctx, signedBy(longTerm))
		if got := broker.AsError(err); got.Kind != broker.KindUnavailable || len(e.Health()) != 0 {
			t.Errorf("%v, health %+v", got, e.Health())
		}
		e.CloseIdle()
	})
}

// What answers a probe, and is no refusal of STS's, heals nothing.
func TestProbeIsNotFooled(t *testing.T) {
	for name, body := range map[string]string{"empty": "", "HTML": "<html><body>hello</body></html>", "XML": `<?xml version="1.0"?><ok></ok>`} {
		t.Run(name, func(t *testing.T) {
			onEarth(t, Options{Fallback: []string{"eu-west-1"}}, func(t *testing.T, e *earth) {
				first := e.regions["eu-central-1"]
				first.set(true, nil)
				if _, _, err := e.mint(t); err != nil {
					t.Fatal(err)
				}
				first.set(false, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
				time.Sleep(time.Minute)
				if len(e.Health()) != 1 || first.calls() == 0 {
					t.Errorf("healed by it, or never probed (%d calls)", first.calls())
				}
			})
		})
	}
}

// One region that comes and goes does not keep another from being probed.
func TestProbesAreNotStarved(t *testing.T) {
	onEarth(t, Options{Fallback: []string{"eu-west-1"}}, func(t *testing.T, e *earth) {
		e.lame.add(Site{Region: "eu-central-1"}, "x")
		for range 12 {
			e.lame.add(Site{Region: "eu-north-1"}, "x")
			time.Sleep(5 * time.Second)
			e.lame.heal(Site{Region: "eu-north-1"})
			time.Sleep(5 * time.Second)
		}
		if len(e.Health()) != 0 {
			t.Errorf("%d probes in two minutes, health %+v", e.regions["eu-central-1"].calls(), e.Health())
		}
	})
}

// A region is told to be lame while any of its endpoints is.
func TestHealthOfARegionWithTwoEndpoints(t *testing.T) {
	var told []bool
	l := newLame(func(h Health) { told = append(told, h.Lame) })
	a, b := Site{Region: "us-east-1"}, Site{Region: "us-east-1", FIPS: true}
	l.add(a, "x")
	l.add(b, "x")
	l.heal(a)
	if len(told) != 1 || !told[0] {
		t.Errorf("told %v while one is lame", told)
	}
	if l.heal(b); len(told) != 2 || told[1] {
		t.Errorf("told %v when both are well", told)
	}
}

// A caller's leaving, or a reload, says nothing of a region.
func TestGivingUpIsNotLameness(t *testing.T) {
	onEarth(t, Options{Fallback: []string{"eu-west-1"}}, func(t *testing.T, e *earth) {
		e.regions["eu-central-1"].set(false, silence)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		_, err := e.WhoAmI(ctx, at, longTerm)
		if err == nil || len(e.Health()) != 0 || e.regions["eu-west-1"].calls() != 0 {
			t.Errorf("%v, health %+v", err, e.Health())
		}
		if id, err := e.WhoAmI(t.Context(), at, longTerm); err != nil || id.ARN != userARN {
			t.Errorf("queries fall back, too: %v, %+v", err, id)
		}
		e.CloseIdle()
	})
}

// Stores of their own and AWS never stand in for each other.
func TestRoute(t *testing.T) {
	private := Endpoint{URL: "https://store.example.com", Compatible: true}
	for name, c := range map[string]struct {
		o    Options
		at   Site
		want string
	}{
		"none":                  {Options{}, Site{Region: "eu-west-1"}, "eu-west-1"},
		"in order":              {Options{Fallback: []string{"eu-north-1", "us-east-1"}}, Site{Region: "eu-west-1"}, "eu-west-1 eu-north-1 us-east-1"},
		"itself":                {Options{Fallback: []string{"eu-west-1", "eu-north-1", "eu-north-1"}}, Site{Region: "eu-west-1"}, "eu-west-1 eu-north-1"},
		"another partition":     {Options{Fallback: []string{"us-gov-west-1", "cn-north-1", "us-east-1"}}, Site{Region: "us-gov-east-1"}, "us-gov-east-1 us-gov-west-1"},
		"override":              {Options{Override: &Endpoint{URL: "https://x.example.com"}, Fallback: []string{"eu-north-1"}}, Site{Region: "eu-west-1"}, "eu-west-1"},
		"a URL of its own":      {Options{Fallback: []string{"eu-north-1"}}, Site{Region: "eu-west-1", URL: "https://x.example.com"}, "eu-west-1"},
		"from a store":          {Options{Endpoints: map[string]Endpoint{"here": private}, Fallback: []string{"eu-north-1"}}, Site{Region: "here"}, "here"},
		"to a store":            {Options{Endpoints: map[string]Endpoint{"here": private}, Fallback: []string{"here"}}, Site{Region: "eu-west-1"}, "eu-west-1"},
		"store to store":        {Options{Endpoints: map[string]Endpoint{"here": private, "there": private}, Fallback: []string{"there"}}, Site{Region: "here"}, "here there"},
		"a VPC endpoint to AWS": {Options{Endpoints: map[string]Endpoint{"eu-west-1": {URL: "https://vpce.example.com"}}, Fallback: []string{"eu-north-1"}}, Site{Region: "eu-west-1"}, "eu-west-1 eu-north-1"},
		"AWS to a VPC endpoint": {Options{Endpoints: map[string]Endpoint{"eu-north-1": {URL: "https://vpce.example.com"}}, Fallback: []string{"eu-north-1"}}, Site{Region: "eu-west-1"}, "eu-west-1 eu-north-1"},
	} {
		s := newSTS(t, c.o)
		var got []string
		for _, at := range s.route(s.site(c.at, ""), &disabled{}) {
			got = append(got, at.Region)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", name, got, c.want)
		}
	}
	if _, err := New(Options{Fallback: []string{"evil.example.com/"}}); err == nil {
		t.Error("a fallback region of no sense is taken")
	}
}

// resolved is the host that the SDK makes of a site.
func resolved(t *testing.T, at Site) string {
	t.Helper()
	s := newSTS(t, Options{})
	o := s.client(at).Options()
	got, err := o.EndpointResolverV2.ResolveEndpoint(t.Context(), sts.EndpointParameters{
		Region: aws.String(at.Region), UseFIPS: aws.Bool(o.EndpointOptions.UseFIPSEndpoint == aws.FIPSEndpointStateEnabled),
		UseDualStack: aws.Bool(o.EndpointOptions.UseDualStackEndpoint == aws.DualStackEndpointStateEnabled),
	}.WithDefaults())
	if err != nil {
		t.Fatalf("%+v: %v", at, err)
	}
	return got.URI.Host
}

func TestEndpointsOfASite(t *testing.T) {
	for want, at := range map[string]Site{
		"sts.eu-west-1.amazonaws.com":      {Region: "eu-west-1"},
		"sts.us-east-1.amazonaws.com":      {Region: "us-east-1"},
		"sts-fips.us-east-1.amazonaws.com": {Region: "us-east-1", FIPS: true},
		"sts.eu-west-1.api.aws":            {Region: "eu-west-1", DualStack: true},
		"sts-fips.us-west-2.api.aws":       {Region: "us-west-2", FIPS: true, DualStack: true},
		"sts.amazonaws.com":                {Region: "eu-west-1", Legacy: true},
		"sts.eu-south-1.amazonaws.com":     {Region: "eu-south-1", Legacy: true}, // a region that was never served by the global endpoint
		"sts.us-gov-west-1.amazonaws.com":  {Region: "us-gov-west-1", Legacy: true},
		"sts.cn-north-1.amazonaws.com.cn":  {Region: "cn-north-1"},
	} {
		if got := resolved(t, at); got != want {
			t.Errorf("%+v leads to %s, want %s", at, got, want)
		}
	}
}

// The global endpoint signs for us-east-1, whatever the region.
func TestLegacyEndpointIsSignedFor(t *testing.T) {
	var signed string
	o := Options{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }}
	s := newSTS(t, o)
	s.http.client.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		signed = r.URL.Host + " " + r.Header.Get("Authorization")
		return nil, net.ErrClosed
	})
	_, _ = s.WhoAmI(t.Context(), Site{Region: "eu-west-1", Legacy: true}, longTerm)
	if !strings.HasPrefix(signed, "sts.amazonaws.com ") || !strings.Contains(signed, "/us-east-1/sts/aws4_request") {
		t.Errorf("signed as %s", signed)
	}
	_, _ = s.Root(Root{Site: Site{Region: "eu-west-1", Legacy: true}, Target: "123456789012", TaskPolicyARN: "arn:aws:iam::aws:policy/root-task/x"}).
		Mint(t.Context(), broker.MintInput{Parent: longTerm})
	if !strings.HasPrefix(signed, "sts.eu-west-1.amazonaws.com ") || !strings.Contains(signed, "/eu-west-1/sts/aws4_request") {
		t.Errorf("AssumeRoot, which the global endpoint does not have, is signed as %s", signed)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Every partition that the SDK's resolver knows, by its own list.
func TestPartitions(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/aws/aws-sdk-go-v2").Output()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "internal", "endpoints", "awsrulesfn", "partitions.json"))
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Partitions []struct {
			ID      string
			Outputs struct{ DNSSuffix, DualStackDNSSuffix string }
			Regions map[string]any
		}
	}
	if err := json.Unmarshal(data, &list); err != nil || len(list.Partitions) < 8 {
		t.Fatalf("%d partitions, %v", len(list.Partitions), err)
	}
	var suffixes []string
	for _, p := range list.Partitions {
		for _, d := range []string{p.Outputs.DNSSuffix, p.Outputs.DualStackDNSSuffix} {
			if suffixes = append(suffixes, d); !slices.Contains(domains, d) {
				t.Errorf("%s: %s is a domain of AWS", p.ID, d)
			}
		}
		home := PartitionRegion("arn:" + p.ID + ":iam::123456789012:role/x")
		if _, known := p.Regions[home]; !known {
			t.Errorf("%s: PartitionRegion says %s", p.ID, home)
		}
		for r := range p.Regions {
			if strings.HasSuffix(r, "-global") { // no region to mint in
				continue
			}
			if got := PartitionOf(r); got != p.ID {
				t.Errorf("PartitionOf(%s) = %s, want %s", r, got, p.ID)
			}
			if got := resolved(t, Site{Region: r}); got != "sts."+r+"."+p.Outputs.DNSSuffix {
				t.Errorf("%s leads to %s", r, got)
			}
			for _, at := range []Site{{Region: r}, {Region: r, FIPS: true}, {Region: r, DualStack: true}, {Region: r, FIPS: true, DualStack: true}, {Region: r, Legacy: true}} {
				if host := resolved(t, at); !hostOfAWS(host) {
					t.Errorf("%+v leads to %s, which counts as somebody else's", at, host)
				}
			}
			if u, err := url.Parse("https://" + resolved(t, Site{Region: r, FIPS: true, DualStack: true})); err != nil || u.Host == "" {
				t.Errorf("%s has no FIPS or dual-stack endpoint: %v", r, err)
			}
		}
	}
	for _, d := range domains {
		if !slices.Contains(suffixes, d) {
			t.Errorf("%s is no domain of AWS", d)
		}
	}
}

// Security: whose STS answers decides whether AWS's sign-in is told what it issued.
func TestForeign(t *testing.T) {
	o := Options{Endpoints: map[string]Endpoint{"eu-west-1": {URL: "http://127.0.0.1:1"}, "store-1": {URL: "http://127.0.0.1:1", Compatible: true}}}
	of := map[string]bool{
		"https://sts.eu-west-1.amazonaws.com": false, "https://STS.eu-west-1.AmazonAWS.com.:443/": false, "https://sts.amazonaws.com": false,
		"https://sts-fips.us-west-2.api.aws": false, "https://vpce-1-2.sts.eu-central-1.vpce.amazonaws.com": false,
		"https://vpce-1-2-a.sts-fips.us-gov-west-1.vpce.amazonaws.com": false, "https://sts.cn-north-1.api.amazonwebservices.com.cn": false,
		"http://127.0.0.1:9000": true, "http://[::1]:9000": true, "https://store.invalid": true, "https://amazonaws.com": true, "https://sts.evilamazonaws.com": true,
		"https://sts.amazonaws.com.evil.invalid": true, "https://evil.invalid/sts.amazonaws.com": true, "https://sts.amazonaws.com:443.evil.invalid": true,
		"https://ec2-203-0-113-1.eu-west-1.compute.amazonaws.com": true, "https://sts-1.eu-west-1.elb.amazonaws.com": true,
	}
	for at, want := range map[Site]bool{
		{Region: "eu-west-1"}: false, {Region: "eu-west-2"}: false, {Region: "eu-west-2", FIPS: true, DualStack: true, Legacy: true}: false, {Region: "store-1"}: true,
	} {
		if got := newSTS(t, o).Foreign(at); got != want {
			t.Errorf("%+v: %v", at, got)
		}
	}
	for u, want := range of {
		if CheckURL(u) != nil { // never an endpoint; its host must not pass all the same
			t.Log(u, "is refused as an endpoint")
		}
		for _, region := range []string{"eu-west-1", "eu-west-2", "store-1"} {
			if got := newSTS(t, o).Foreign(Site{Region: region, URL: u}); got != want {
				t.Errorf("endpoint_url %s in %s: %v", u, region, got)
			}
			if CheckURL(u) != nil {
				continue
			}
			over := o
			over.Override = &Endpoint{URL: u}
			for _, at := range []Site{{Region: region}, {Region: region, URL: "http://127.0.0.1:2"}, {Region: region, URL: "https://sts.amazonaws.com"}} {
				if got := newSTS(t, over).Foreign(at); got != want {
					t.Errorf("AWS_ENDPOINT_URL_STS=%s at %+v: %v", u, at, got)
				}
			}
		}
	}
}
