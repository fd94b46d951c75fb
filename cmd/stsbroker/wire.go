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
	"reflect"
	"runtime/debug"
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
	"github.com/stsbroker/stsbroker/internal/filewatch"
	"github.com/stsbroker/stsbroker/internal/peer"
	"github.com/stsbroker/stsbroker/internal/seal"
	"github.com/stsbroker/stsbroker/internal/securefile"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

// app is a broker with everything it needs, as a daemon or embedded in one
// command. Build it with newApp, open its doors, run it.
type app struct {
	place
	settings settings
	log      *zap.Logger
	observer *observe.Observer
	tokens   *access.Tokens
	broker   *broker.Broker
	leases   *sealedfile.Store // nil: of an embedded broker
	late     *lateStore        // of one that may be unlocked yet
	vault    *vault.Vault
	kept     *custody.Kept
	login    *login.Manager
	custody  sync.Mutex                    // of changes of what is open, and of identity. Taken before changing, never after
	identity identity                      // that opens sealed state
	open     atomic.Pointer[seal.Identity] // the same while it is open, for those who hold changing
	notifier *notify.Notifier              // nil: nobody is notified
	started  time.Time
	embedded bool
	bind     bool // whether the kernel tells who connects over TCP

	inherited  *listen.Inherited  // sockets that systemd opened
	supervisor *supervisor        // nil: nobody wants to know how things stand
	watcher    *filewatch.Watcher // nil: of an embedded broker

	audit     audit
	minted    *quiet
	files     *credentialFiles
	observing all // everybody who is told of events
	imdsKeys  func() []broker.Secret
	probe     string // path that the watchdog asks for
	asks      sync.Mutex
	asked     *asking // under way
	crew      crew

	// A reload replaces what now points to, whole; who works with it takes it once.
	now      atomic.Pointer[setup]
	changing sync.Mutex // of now, of the broker's profiles, and of what follows
	seeds    map[SeedConfig]*custody.SeedSource
	mints    *member // the STS of now
	doors    []*door
	written  map[string]*writing // files that are kept up to date, by what
	failure  atomic.Pointer[reloadFailure]
}

// setup is what the configuration and the AWS files say, read at one moment.
type setup struct {
	cfg     *Config
	catalog catalog
	sts     *awssts.STS
	begun   time.Time // when the reading of it began
	loaded  time.Time

	skipped []string // listeners that this host cannot have
	urls    []string // of the container door
	socket  string   // the one that gives credentials; "" for none
	imds    []control.IMDS
}

// view is a broker as one call, or one reload, sees it from its beginning to its end.
type view struct {
	*app
	*setup
}

func (a *app) view() view { return view{a, a.now.Load()} }

// settings are what differs between the daemon, an embedded broker and demo.
type settings struct {
	place
	log        *zap.Logger
	inherited  *listen.Inherited
	supervisor *supervisor

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
	a := &app{
		place: s.place, settings: s, inherited: s.inherited, supervisor: s.supervisor, log: s.log, started: time.Now(), embedded: s.embedded && !s.check, minted: &quiet{}, files: &credentialFiles{},
		seeds: map[SeedConfig]*custody.SeedSource{}, written: map[string]*writing{},
	}
	cfg, _, findings, err := a.configure()
	if err != nil {
		return nil, findings, err
	}
	if cfg.Listen.Control != "" && a.control == filepath.Join(a.runtime, "control.sock") {
		a.control = cfg.Listen.Control
	}
	writes := !s.embedded || s.keeps
	if err := a.openCustody(writes && !s.check); err != nil {
		return nil, findings, err
	}
	if a.login, err = a.newLogin(); err != nil {
		return nil, findings, err
	}
	now, more, err := a.prepare(cfg, nil)
	if findings = append(findings, more...); err != nil {
		return nil, findings, err
	}
	now.begun = a.started
	a.now.Store(now)
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
	a.imdsKeys, a.probe = newIMDSKeys(a.tokens), "/"+rand.Text()
	if !s.embedded && !s.demo {
		a.watcher = filewatch.New(a.filesChanged, func(err error) {
			a.log.Warn("changes of files are noticed late: they are looked for now and then", zap.Error(err))
		})
	}
	a.observer = observe.New(s.log, func() broker.Stats { return a.broker.Stats() })
	a.observer.Build(buildVersion())
	a.observing = all{a.observer, &a.audit, a.minted, a.files, a.tokens}
	if !s.embedded && !s.system && !cfg.NotifyOff {
		a.notifier = notify.New(notify.Options{
			Getenv: a.getenv, Show: func(profile string) string { return a.now.Load().catalog.shown(profile) },
			Failed: func(err error) { s.log.Info("nobody can be notified of logins", zap.Error(err)) },
		})
		a.observing = append(a.observing, a.notifier)
	}
	if s.supervisor != nil {
		a.observing = append(a.observing, looks{s.supervisor})
	}
	if s.watch != nil {
		a.observing = append(a.observing, s.watch)
	}
	a.broker = broker.New(broker.Options{Keys: currentKeys{a}, Store: store, Access: a.tokens, Observer: a.observing, Gate: a.audit.gate})
	return a, findings, nil
}

// currentKeys are those of the configuration as it is now.
type currentKeys struct{ *app }

// Key implements broker.Keys.
func (k currentKeys) Key(ctx context.Context, name string) (broker.Material, error) {
	return k.now.Load().catalog.keys.Key(ctx, name)
}

// configure reads stsbroker.yaml, and what the kind of broker makes of it. read are the
// other files that it names and that were read with it, of a faulty one too.
func (a *app) configure() (cfg *Config, read []string, findings []Finding, err error) {
	cfg, read, findings = readConfig(a.configFile())
	if hasErrors(findings) {
		return nil, read, findings, errors.New("the configuration has errors")
	}
	if a.settings.imds != "" {
		cfg.Listen.IMDS = append(cfg.Listen.IMDS, IMDSConfig{Address: "127.0.0.1:0", Profile: a.settings.imds})
	}
	if a.system && !cfg.Listen.MetricsGiven && !a.settings.embedded {
		cfg.Listen.Metrics = "127.0.0.1:9171"
	}
	return cfg, read, findings, nil
}

// prepare makes a setup of a configuration and of the AWS files, and changes nothing.
// before is the one that it is to take the place of, nil for none: what is the same in
// both goes on.
func (a *app) prepare(cfg *Config, before *setup) (*setup, []Finding, error) {
	s := &setup{cfg: cfg, loaded: time.Now(), imds: []control.IMDS{}}
	if before != nil && reflect.DeepEqual(before.cfg.STS, cfg.STS) {
		s.sts = before.sts
	} else {
		var err error
		if s.sts, err = newSTS(a.place, cfg, func(h awssts.Health) { a.observer.Region(h.Region, h.Lame, h.Why) }); err != nil {
			return nil, nil, err
		}
	}
	v := view{a, s}
	s.catalog = v.read()
	if hasErrors(s.catalog.findings) {
		return nil, s.catalog.findings, errors.New("the configuration has errors")
	}
	if a.settings.demo || a.settings.embedded { // now that all was checked
		own := ListenConfig{Container: loopbackDoor("127.0.0.1:0"), Socket: socketOff}
		for _, l := range cfg.Listen.IMDS {
			if l.Line == 0 {
				own.IMDS = append(own.IMDS, l)
			}
		}
		cfg.Listen, cfg.TokenFiles, cfg.Files = own, nil, nil
	}
	return s, s.catalog.findings, nil
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
func (a view) read() catalog {
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
	c := cataloguer{place: a.place, seeds: a.seeds, cfg: a.cfg, aws: aws, files: files, sts: a.sts, kept: a.kept, held: held, login: a.login, opensState: a.opensState, self: self, own: own, embedded: a.embedded}
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

// newIMDSKeys are what IMDS's session tokens derive from. Started with locked custody the
// broker has no lasting key yet; what it gave out by then stays good after the unlock,
// since some clients never ask for another token.
func newIMDSKeys(tokens *access.Tokens) func() []broker.Secret {
	const purpose = "imds"
	var open atomic.Pointer[[]broker.Secret]
	if key, ok := tokens.Key(purpose); ok {
		open.Store(&[]broker.Secret{key})
	}
	meanwhile := []broker.Secret{broker.NewSecret(rand.Text())}
	return func() []broker.Secret {
		if keys := open.Load(); keys != nil {
			return *keys
		}
		if key, ok := tokens.Key(purpose); ok {
			open.CompareAndSwap(nil, &[]broker.Secret{key, meanwhile[0]})
			return *open.Load()
		}
		return meanwhile
	}
}

// listenControl opens the control socket. Whoever holds the lock beside it is
// the one broker of this state; a socket file found under the lock is a dead
// broker's. Where systemd has the socket, it starts one broker for it.
func (a *app) listenControl() (release func(), err error) {
	if a.inherited.Has(a.control) {
		if err := a.socketFolder(a.control); err != nil {
			return nil, err
		}
	}
	l, ours, err := a.inherited.TakeUnix(a.control, a.socketMode())
	if err != nil {
		return nil, err
	}
	release = func() {}
	if !ours {
		if l, release, err = a.ownControl(); err != nil {
			return nil, err
		}
	}
	server := &http.Server{
		Handler: control.Handler(a.caller, explain, a.called), ConnContext: listen.ConnContext,
		ReadHeaderTimeout: 2 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10, ErrorLog: zap.NewStdLog(a.log),
	}
	a.serveHeld(server, l)
	return release, nil
}

func (a *app) ownControl() (net.Listener, func(), error) {
	if err := a.makeRuntime(); err != nil {
		return nil, nil, err
	}
	if a.system { // others connect too: it has a cap
		l, err := listen.Opener{Doors: a.now.Load().cfg.Listen.doors() + 1}.Unix(a.control, a.socketMode())
		return l, func() {}, err
	}
	unlock, held, err := securefile.Lock(a.control + ".lock")
	if err != nil {
		return nil, nil, err
	}
	if !held {
		return nil, nil, fmt.Errorf("another broker already serves %s; stsbroker status shows it", a.control)
	}
	if info, err := os.Lstat(a.control); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			unlock()
			return nil, nil, fmt.Errorf("%s is in the way and is not a socket; move it, or name another path with --socket", a.control)
		}
		if err := os.Remove(a.control); err != nil {
			unlock()
			return nil, nil, err
		}
	}
	l, err := net.Listen("unix", a.control)
	if err != nil {
		unlock()
		return nil, nil, fmt.Errorf("the control socket %s cannot be opened: %w", a.control, err)
	}
	if err := os.Chmod(a.control, a.socketMode()); err != nil {
		unlock()
		return nil, nil, errors.Join(err, l.Close())
	}
	return l, unlock, nil
}

// socketMode is that of the sockets: the system service's are for all, of whom the kernel
// tells who they are and access decides what they may have.
func (p place) socketMode() os.FileMode {
	if p.system {
		return 0o666
	}
	return 0o600
}

// run serves until ctx ends or a part fails, and stops everything before it returns.
func (a *app) run(ctx context.Context) error {
	a.crew.bear(a.broker.Run)
	a.crew.bear(a.tokens.Run)
	a.crew.bear(a.minted.run(func() { a.now.Load().sts.CloseIdle() }))
	if a.leases != nil {
		a.crew.bear(a.leases.Run)
	}
	a.crew.join(a.supervisor.run, nil)
	if a.watcher != nil {
		a.crew.join(a.watcher.Run, nil)
	}
	if a.notifier != nil {
		a.crew.join(func(ctx context.Context) error { a.notifier.Run(ctx); return nil }, nil)
	}
	if !a.embedded {
		a.crew.join(a.tidyKeys, nil)
	}
	return errors.Join(a.crew.work(ctx), a.close())
}

// close leaves nothing of a broker that does not run (any more), or never did.
func (a *app) close() error { return errors.Join(a.crew.close(), a.closeState()) }

// endpoint is where a program finds the profile.
func (a view) endpoint(profile, token string) control.Endpoint {
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
