package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/access"
	"github.com/stsbroker/stsbroker/broker/awsconfig"
	"github.com/stsbroker/stsbroker/broker/awssts"
	"github.com/stsbroker/stsbroker/broker/custody"
	"github.com/stsbroker/stsbroker/broker/login"
	"github.com/stsbroker/stsbroker/broker/notify"
	"github.com/stsbroker/stsbroker/broker/observe"
	"github.com/stsbroker/stsbroker/broker/vault"
	"github.com/stsbroker/stsbroker/cache/sealedfile"
	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/peer"
	"github.com/stsbroker/stsbroker/internal/securefile"
	"github.com/stsbroker/stsbroker/metadata"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

// app is a broker with everything it needs, as a daemon or embedded in one
// command. Build it with newApp, open its doors, run it.
type app struct {
	place
	cfg      *Config
	catalog  catalog
	log      *zap.Logger
	observer *observe.Observer
	sts      *awssts.STS
	tokens   *access.Tokens
	broker   *broker.Broker
	leases   *sealedfile.Store // nil: of an embedded broker
	late     *lateStore        // of one that may be unlocked yet
	vault    *vault.Vault
	kept     *custody.Kept
	login    *login.Manager
	custody  sync.Mutex       // of changes of what is open, and of identity
	identity identity         // that opens sealed state
	notifier *notify.Notifier // nil: nobody is notified
	started  time.Time
	embedded bool
	bind     bool // whether the kernel tells who connects over TCP

	minted  *quiet
	skipped []string // listeners that this host cannot have
	urls    []string // of the container door
	socket  string   // the one that gives credentials; "" for none
	imds    []control.IMDS
	files   *credentialFiles
	serving []func(context.Context) error
	ending  []func() error // what takes away what was opened and written, in the order of its making
}

// settings are what differs between the daemon, an embedded broker and demo.
type settings struct {
	place
	log      *zap.Logger
	embedded bool   // no state on disk, and a door of its own on a free port
	keeps    bool   // embedded, and yet the one that works on the state folder
	imds     string // of an embedded broker: the profile that an IMDS door is opened for; "" for none
	check    bool   // judged as the daemon, and never run
	demo     bool   // a container door on a free port, and no other
	watch    broker.Observer
}

// newApp reads the configuration and builds the broker. It opens no socket and
// calls nobody. The findings are complete even with an error.
func newApp(s settings) (*app, []Finding, error) {
	cfg, findings := loadConfig(s.config)
	if hasErrors(findings) {
		return nil, findings, errors.New("the configuration has errors")
	}
	if s.imds != "" {
		cfg.Listen.IMDS = append(cfg.Listen.IMDS, IMDSConfig{Address: "127.0.0.1:0", Profile: s.imds})
	}
	if cfg.Listen.Control != "" && s.control == filepath.Join(s.runtime, "control.sock") {
		s.control = cfg.Listen.Control
	}
	if s.system && !cfg.Listen.MetricsGiven && !s.embedded {
		cfg.Listen.Metrics = "127.0.0.1:9171"
	}
	writes := !s.embedded || s.keeps
	a := &app{place: s.place, cfg: cfg, log: s.log, started: time.Now(), embedded: s.embedded && !s.check, minted: &quiet{}, imds: []control.IMDS{}}
	var err error
	if a.sts, err = newSTS(a.place, cfg, func(h awssts.Health) { a.observer.Region(h.Region, h.Lame, h.Why) }); err != nil {
		return nil, findings, err
	}
	if err := a.openCustody(writes && !s.check); err != nil {
		return nil, findings, err
	}
	if a.login, err = a.newLogin(); err != nil {
		return nil, findings, err
	}
	a.catalog = a.read()
	findings = append(findings, a.catalog.findings...)
	if hasErrors(findings) {
		return nil, findings, errors.New("the configuration has errors")
	}
	if s.demo || s.embedded { // now that all was checked
		own := ListenConfig{Container: loopbackDoor("127.0.0.1:0"), Socket: socketOff}
		for _, l := range cfg.Listen.IMDS {
			if l.Line == 0 {
				own.IMDS = append(own.IMDS, l)
			}
		}
		cfg.Listen, cfg.TokenFiles, cfg.Files = own, nil, nil
	}
	if !writes {
		a.tokens = access.Memory()
	} else if a.tokens, err = access.Open(a.state, a.vault); err != nil {
		return nil, findings, err
	}
	if why := a.tokens.Locked(); why != nil && a.vault.State() == vault.Open {
		a.log.Warn("no token is known", zap.Error(why))
	}
	store, err := a.leaseStore(writes)
	if err != nil {
		return nil, findings, errors.Join(err, a.tokens.Close())
	}
	a.observer = observe.New(s.log, func() broker.Stats { return a.broker.Stats() })
	a.files = &credentialFiles{}
	observers := all{a.observer, a.minted, a.files, a.tokens}
	if !s.embedded && !s.system && !cfg.NotifyOff {
		a.notifier = notify.New(notify.Options{Getenv: a.getenv, Show: a.catalog.shown, Failed: func(err error) { s.log.Info("nobody can be notified of logins", zap.Error(err)) }})
		observers = append(observers, a.notifier)
	}
	if s.watch != nil {
		observers = append(observers, s.watch)
	}
	a.broker = broker.New(broker.Options{Keys: a.catalog.keys, Store: store, Access: a.tokens, Observer: observers})
	return a, findings, nil
}

func newSTS(p place, cfg *Config, changed func(awssts.Health)) (*awssts.STS, error) {
	o := awssts.Options{Timeout: cfg.STS.Timeout, Endpoints: map[string]awssts.Endpoint{}, Fallback: cfg.STS.FallbackRegions, Changed: changed}
	for region, e := range cfg.STS.Endpoints {
		o.Endpoints[region] = awssts.Endpoint{URL: e.URL, Compatible: e.Compatible}
	}
	if u := p.getenv(varEndpointURL); u != "" {
		o.Override = &awssts.Endpoint{URL: u}
	}
	if !p.system {
		o.Proxy = http.ProxyFromEnvironment
	}
	var err error
	if o.RootCAs, err = p.roots(); err != nil {
		return nil, err
	}
	return awssts.New(o)
}

// read takes the profiles from the AWS files and the configuration.
func (a *app) read() catalog {
	var files awsconfig.Files
	if !a.system {
		files = awsconfig.DefaultFiles(a.getenv, a.home)
		files = originals(files)
	}
	files, ours := withoutOurs(files)
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	held := a.kept.List()
	var profiles []string
	for _, i := range held {
		if i.Profile != "" {
			profiles = append(profiles, i.Profile)
		}
	}
	aws := awsconfig.Load(files, profiles...)
	var own []netip.AddrPort
	for _, address := range a.cfg.Listen.addresses() {
		if ap, err := netip.ParseAddrPort(address); err == nil {
			own = append(own, ap)
		}
	}
	c := cataloguer{place: a.place, cfg: a.cfg, aws: aws, files: files, sts: a.sts, kept: a.kept, held: held, login: a.login, opensState: a.opensState, self: self, own: own, embedded: a.embedded}
	var names []string
	for _, p := range aws.Profiles {
		names = append(names, p.Name)
	}
	out := c.build()
	out.findings = append(a.cfg.CheckSources(names), out.findings...)
	if ours != nil {
		out.findings = append(out.findings, *ours)
	}
	return out
}

// listen opens the doors that the configuration wants, and writes the files that
// lead to them. The profiles come last: all that may be taken by somebody else is
// taken before anything is minted.
func (a *app) listen(ctx context.Context) error {
	a.bind = testPeer(a.log)
	if err := a.listenContainer(ctx); err != nil {
		return err
	}
	if err := a.listenIMDS(ctx); err != nil {
		return err
	}
	if a.cfg.Listen.Metrics != "" {
		if err := a.door(ctx, metadata.Guard("metrics", onlyMetrics(a.observer), a.observer, a.observer), []string{a.cfg.Listen.Metrics}, nil); err != nil {
			return err
		}
	}
	if !a.embedded { // the files in these places are a daemon's, which may be about to start
		if err := a.keepCredentialFiles(); err != nil {
			return err
		}
		if err := a.keepTokenFiles(); err != nil {
			return err
		}
	}
	if len(a.catalog.signIns) > 0 {
		if err := a.login.Reload(ctx); err != nil {
			a.log.Warn("sign-in to IAM Identity Center", zap.Error(err))
		}
	}
	a.broker.Reload(a.catalog.profiles)
	if !a.embedded { // what was in use goes on being renewed
		a.broker.Resume()
	}
	return nil
}

// listenContainer opens the container door: over TCP, where callers show a token or,
// at addresses that are told so, are known by the kernel's word, and on a socket,
// where they always are.
func (a *app) listenContainer(ctx context.Context) error {
	door := func(t *metadata.Tokenless) http.Handler {
		return metadata.NewContainer(metadata.Container{
			Source: a.broker, Tokens: a.tokens, Roles: func(arn string) []string { return a.catalog.roles[arn] }, Requests: a.observer, Observer: a.observer, Tokenless: t,
		})
	}
	if err := a.door(ctx, door(nil), a.cfg.Listen.tokened(), &a.urls); err != nil {
		return err
	}
	for _, l := range a.cfg.Listen.Container {
		if l.WithoutToken == nil {
			continue
		}
		if !a.bind {
			return fmt.Errorf("%s:%d: without_token cannot be had here, where the kernel does not tell which user connects; remove it", a.cfg.File, l.Line)
		}
		t := &metadata.Tokenless{Door: broker.DoorPeer, Access: a.tokens, Profiles: l.WithoutToken}
		if err := a.door(ctx, door(t), []string{l.Address}, &a.urls); err != nil {
			return err
		}
	}
	path := a.credentialSocket()
	if path == "" {
		return nil
	}
	if err := securefile.MakeFolder(filepath.Dir(path)); err != nil { // in one of others, they could take its place
		return err
	}
	l, err := listen.Unix(a.cfg.Listen.doors(), path)
	if err != nil {
		return err
	}
	a.socket = path
	a.serve(a.server(door(&metadata.Tokenless{Door: broker.DoorSocket, Access: a.tokens})), l)
	return nil
}

// listenIMDS opens one IMDS door a profile. They know their callers by the
// kernel's word alone.
func (a *app) listenIMDS(ctx context.Context) error {
	if len(a.cfg.Listen.IMDS) == 0 {
		return nil
	}
	if err := peer.Works(); err != nil {
		return fmt.Errorf("%s: listen.imds cannot be served here, where the kernel does not tell which user connects (%w); remove it, and use the container door", a.cfg.File, err)
	}
	keys := a.imdsKeys()
	for _, l := range a.cfg.Listen.IMDS {
		a.prefetch(l.Profile)
		door := metadata.NewIMDS(metadata.IMDS{
			Profile: l.Profile, AllowV1: l.AllowV1, Source: a.broker, Standing: a.broker.StatusOf, Access: a.tokens, Keys: keys,
			Requests: a.observer, Observer: a.observer,
		})
		var urls []string
		if err := a.door(ctx, door, []string{l.Address}, &urls); err != nil {
			return err
		}
		a.imds = append(a.imds, control.IMDS{URL: urls[0], Profile: l.Profile, AllowV1: l.AllowV1})
	}
	return nil
}

// imdsKeys are what IMDS's session tokens derive from. Started with locked custody the
// broker has no lasting key yet; what it gave out by then stays good after the unlock,
// since some clients never ask for another token.
func (a *app) imdsKeys() func() []broker.Secret {
	const purpose = "imds"
	var open atomic.Pointer[[]broker.Secret]
	if key, ok := a.tokens.Key(purpose); ok {
		open.Store(&[]broker.Secret{key})
	}
	meanwhile := []broker.Secret{broker.NewSecret(rand.Text())}
	return func() []broker.Secret {
		if keys := open.Load(); keys != nil {
			return *keys
		}
		if key, ok := a.tokens.Key(purpose); ok {
			open.CompareAndSwap(nil, &[]broker.Secret{key, meanwhile[0]})
			return *open.Load()
		}
		return meanwhile
	}
}

// prefetch keeps the profile fresh from the start on, unless a person is needed for
// each mint: botocore asks IMDS once, and where that finds a cold broker it has no
// credentials for good. Only who opens the door calls it, so that an embedded
// broker, which has none, mints nothing that nobody asked for.
func (a *app) prefetch(profile string) {
	for i := range a.catalog.profiles {
		if p := &a.catalog.profiles[i]; p.Name == profile && p.MFA == "" {
			p.Prefetch = true
		}
	}
}

// onlyMetrics serves /metrics and nothing else. No ServeMux: that one redirects.
func onlyMetrics(o *observe.Observer) http.Handler {
	metrics := o.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			o.Request("metrics", http.StatusNotFound)
			http.Error(w, "metrics are at /metrics", http.StatusNotFound)
			return
		}
		o.Request("metrics", http.StatusOK)
		metrics.ServeHTTP(w, r)
	})
}

// door serves h at the addresses. urls, unless nil, gets where, as clients write it.
func (a *app) door(ctx context.Context, h http.Handler, addresses []string, urls *[]string) error {
	if len(addresses) == 0 {
		return nil
	}
	listeners, skipped, err := listen.TCP(ctx, a.cfg.Listen.doors(), addresses...)
	if err != nil {
		return err
	}
	a.skipped = append(a.skipped, skipped...)
	for _, l := range listeners {
		if urls != nil {
			*urls = append(*urls, "http://"+strings.TrimSuffix(l.Addr().String(), ":80"))
		}
		a.serve(a.server(h), l)
	}
	return nil
}

func (a *app) server(h http.Handler) *http.Server {
	return metadata.NewServer(h, func(line string) { a.log.Debug("http", zap.String("line", line)) })
}

// serve runs a server of its own on a listener until the context ends, then lets requests
// under way finish.
func (a *app) serve(server *http.Server, l net.Listener) {
	a.ending = append(a.ending, func() error { // of a server that never ran
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	a.serving = append(a.serving, func(ctx context.Context) error {
		drained := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			defer close(drained)
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if server.Shutdown(late) != nil {
				_ = server.Close() // whoever still waits is cut off: the process ends
			}
		})
		server.BaseContext = func(net.Listener) context.Context { return ctx } // a held answer ends with us
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			stop()
			return fmt.Errorf("the listener on %s failed: %w", l.Addr(), err)
		}
		<-drained // Serve returns when the shutdown begins
		return nil
	})
}

// listenControl opens the control socket. Whoever holds the lock beside it is
// the one broker of this state; a socket file found under the lock is a dead
// broker's.
func (a *app) listenControl() (release func(), err error) {
	if err := a.makeRuntime(); err != nil {
		return nil, err
	}
	unlock, held, err := securefile.Lock(a.control + ".lock")
	if err != nil {
		return nil, err
	}
	if !held {
		return nil, fmt.Errorf("another broker already serves %s; stsbroker status shows it", a.control)
	}
	if info, err := os.Lstat(a.control); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			unlock()
			return nil, fmt.Errorf("%s is in the way and is not a socket; move it, or name another path with --socket", a.control)
		}
		if err := os.Remove(a.control); err != nil {
			unlock()
			return nil, err
		}
	}
	l, err := net.Listen("unix", a.control)
	if err != nil {
		unlock()
		return nil, fmt.Errorf("the control socket %s cannot be opened: %w", a.control, err)
	}
	if err := os.Chmod(a.control, 0o600); err != nil {
		unlock()
		return nil, errors.Join(err, l.Close())
	}
	server := &http.Server{
		Handler: control.Handler(a.caller, explain), ConnContext: listen.ConnContext,
		ReadHeaderTimeout: 2 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10, ErrorLog: zap.NewStdLog(a.log),
	}
	a.serve(server, l)
	return unlock, nil
}

// run serves until ctx ends or a part fails, and stops everything before it returns.
func (a *app) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	parts := append([]func(context.Context) error{a.broker.Run, a.tokens.Run, a.sts.Run, a.minted.run(a.sts.CloseIdle)}, a.serving...)
	if a.leases != nil {
		parts = append(parts, a.leases.Run)
	}
	if a.notifier != nil {
		parts = append(parts, func(ctx context.Context) error { a.notifier.Run(ctx); return nil })
	}
	if !a.embedded {
		parts = append(parts, a.tidyKeys)
	}
	done := make(chan error, len(parts))
	for _, part := range parts {
		go func() { done <- part(ctx) }()
	}
	var first error
	for range parts {
		if err := <-done; err != nil && first == nil {
			first = err
		}
		cancel()
	}
	return errors.Join(first, a.close())
}

// close leaves nothing of a broker that does not run (any more), or never did.
func (a *app) close() (err error) {
	for _, end := range slices.Backward(a.ending) {
		err = errors.Join(err, end())
	}
	a.ending = nil
	return errors.Join(err, a.closeState())
}

// endpoint is where a program finds the profile.
func (a *app) endpoint(profile, token string) control.Endpoint {
	e := control.Endpoint{Token: token, Path: "/credentials/" + pathEscape(profile)}
	for _, u := range a.urls { // loopback where there is one: any client may use that
		if e.URI == "" || isLoopbackURL(u) {
			e.URI = u + e.Path
			if isLoopbackURL(u) {
				break
			}
		}
	}
	for _, p := range a.catalog.profiles {
		if p.Name == profile {
			e.Region = p.Region
		}
	}
	return e
}

func isLoopbackURL(u string) bool {
	return strings.HasPrefix(u, "http://127.") || strings.HasPrefix(u, "http://[::1]")
}

// pathEscape keeps a profile's name one unambiguous path: what is not plainly
// safe is percent-escaped, slashes too.
func pathEscape(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-_.~@", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// all tells several observers.
type all []broker.Observer

func (o all) Observe(e broker.Event) {
	for _, each := range o {
		each.Observe(e)
	}
}

// quiet gives memory and connections back to the system when nothing has happened
// for a while, mint or request: a laptop's broker does nothing nearly all day.
type quiet struct{ mints atomic.Int64 }

// Observe implements broker.Observer.
func (q *quiet) Observe(e broker.Event) {
	if e.Kind == broker.EventMinted || e.Kind == broker.EventMintFailed {
		q.mints.Add(1)
	}
}

// collections counts the collector's rounds: a busy door has them.
func collections(s *debug.GCStats) int64 {
	debug.ReadGCStats(s)
	return s.NumGC
}

func (q *quiet) run(closeIdle func()) func(context.Context) error {
	return func(ctx context.Context) error {
		ticker := time.NewTicker(20 * time.Second)
		defer ticker.Stop()
		var stats debug.GCStats
		var seen, freed int64 = 0, -1
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-ticker.C:
			}
			now := collections(&stats) + q.mints.Load()
			if now == seen && now != freed {
				closeIdle()
				debug.FreeOSMemory()
				now = collections(&stats) + q.mints.Load()
				freed = now
			}
			seen = now
		}
	}
}

// testPeer reports whether the kernel tells who is behind a loopback connection.
func testPeer(log *zap.Logger) bool {
	err := peer.Works()
	if err != nil {
		log.Info("tokens are not bound to users: the kernel does not tell who connects", zap.Error(err))
	}
	return err == nil
}
