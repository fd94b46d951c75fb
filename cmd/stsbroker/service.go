package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/access"
	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/metadata/credfile"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

// commandPatience is how long the command line and a credential process wait:
// SDKs give a credential process a minute.
const commandPatience = 50 * time.Second

// local is the control.Service of one caller, in this process.
type local struct {
	view
	who broker.Caller
}

// caller is the Service of whoever is behind a connection to the control
// socket: all there is for the user who runs the broker, and root; for others what
// rules give them.
func (a *app) caller(r *http.Request) (control.Service, error) {
	c := listen.FromContext(r.Context())
	if c == nil {
		return nil, notServed(errors.New("the connection has no caller"))
	}
	p, err := c.Peer()
	if err != nil && controlFolderGuards {
		p, err = broker.NewPeer(uint32(os.Getuid()), 0), nil
	}
	if err != nil {
		return nil, &broker.Error{Kind: broker.KindForbidden, Cause: err,
			Public: "the broker cannot tell which user you are (a uid of 65534 says nothing: it also stands for users of other namespaces); run stsbroker as an ordinary user"}
	}
	who := broker.Caller{Door: broker.DoorControl, Peer: p}
	return admit(r.Context(), local{a.view(), who}, who, strings.TrimPrefix(r.URL.Path, "/v1/"), a.tokens, a.observing)
}

// called has an audit line written for calls that change something.
func (a *app) called(r *http.Request, call, about string, err error) {
	switch call {
	case "login", "logout", "sign-in", "unlock", "lock", "refresh", "reload", "env", "child", "key/add", "key/remove", "key/rotate", "token/create", "token/revoke":
	default:
		return
	}
	who := broker.Caller{Door: broker.DoorControl}
	if c := listen.FromContext(r.Context()); c != nil {
		who.Peer, _ = c.Peer() // unknown is what it says then
	}
	a.audit.control(who, call, about, err)
}

// self is the Service of this very process.
func (a *app) self() control.Service {
	return local{a.view(), broker.Caller{Door: broker.DoorControl, Peer: broker.NewPeer(uint32(os.Getuid()), int32(os.Getpid()))}}
}

// explain turns the domain's error into one for the other end of the socket.
func explain(err error) *control.Error {
	if e, ok := errors.AsType[*control.Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*broker.Error](err); ok {
		return &control.Error{Kind: e.Kind.String(), Profile: e.Profile, Message: e.Public}
	}
	return &control.Error{Kind: "failed", Message: err.Error()} // files and sockets: no secret is in their errors
}

// ask is a request of the command line for the profile. Its caller may know
// which profiles there are, so it is told what is wrong with this one.
func (l local) ask(profile string) (broker.Ask, error) {
	a := broker.Ask{Caller: l.who, Profile: profile, Patience: commandPatience}
	if profile == "" {
		return a, &control.Error{Kind: "forbidden", Message: "the name of the profile is empty; stsbroker status lists them all"}
	}
	if reason := l.catalog.settings[profile]; reason != nil {
		return a, &control.Error{Kind: "config", Profile: profile, Message: reason.Error()}
	}
	if _, known := l.definition(profile); !known {
		return a, &control.Error{Kind: "forbidden", Profile: profile, Message: "there is no profile " + profile + didYouMean(profile, l.names()) + "; stsbroker status lists them all (one that was added since the broker read its configuration: stsbroker reload)"}
	}
	return a, nil
}

// definition is the profile as it was configured.
func (l local) definition(profile string) (broker.Profile, bool) {
	for _, p := range l.catalog.profiles {
		if p.Name == profile {
			return p, true
		}
	}
	return broker.Profile{}, false
}

func (l local) names() (names []string) {
	for _, p := range l.catalog.profiles {
		if !p.Hidden {
			names = append(names, p.Name)
		}
	}
	return names
}

// get is broker.Get for the command line.
func (l local) get(ctx context.Context, profile string) (*broker.Set, error) {
	a, err := l.ask(profile)
	if err != nil {
		return nil, err
	}
	return patient(ctx, a, 100*time.Millisecond, l.broker.Get) // the broker says when to try again
}

// getForChild makes sure that the child of exec with this token will find
// credentials: those that are held, or new ones where each exec has its own.
func (l local) getForChild(ctx context.Context, profile, token string) error {
	a, err := l.ask(profile)
	if err != nil {
		return err
	}
	if p, _ := l.definition(profile); !p.Once {
		_, err = l.get(ctx, profile)
		return err
	}
	a.Caller.Exec, a.Caller.Token = true, token
	_, err = patient(ctx, a, 2*time.Second, l.broker.Refresh)
	return err
}

// patient asks for the command line, which has time: what passes is waited for,
// as long as there is patience.
func patient(ctx context.Context, a broker.Ask, gap time.Duration, ask func(context.Context, broker.Ask) (*broker.Set, error)) (*broker.Set, error) {
	for until := time.Now().Add(a.Patience); ; a.Patience = time.Until(until) {
		set, err := ask(ctx, a)
		if err != nil && ctx.Err() != nil { // the client has gone, or the broker goes
			return nil, &broker.Error{Kind: broker.KindUnavailable, Profile: a.Profile, Public: "profile " + a.Profile + ": the broker was stopped while it waited for STS; ask again when it runs", Cause: err}
		}
		if err == nil || !broker.AsError(err).Kind.Passes() || time.Until(until) <= 0 || !pause(ctx, gap) {
			return set, err
		}
	}
}

// Status implements control.Service.
func (l local) Status(_ context.Context, profile string) (control.Status, error) {
	out := control.Status{
		Version: buildVersion(), PID: os.Getpid(), Started: l.started, Container: l.urls, IMDS: l.imds, Changed: l.changed(),
		Lame: []control.Region{}, Profiles: []control.Profile{}, Socket: l.socket, TokenFiles: []control.File{}, Files: []control.File{}, Sealed: l.sealed(),
		Custody: l.vault.State().String(), Problem: l.lockedBy(), Config: l.cfg.File, Loaded: l.loaded,
	}
	if f := l.failure.Load(); f != nil {
		out.Failed = f.why
	}
	for _, f := range l.cfg.TokenFiles {
		k := tokenFile{app: l.app, TokenFileConfig: f, path: l.tokenFile(f)}
		out.TokenFiles = append(out.TokenFiles, control.File{Path: k.path, Profiles: f.Profiles, Problem: k.problem()})
	}
	for _, f := range l.cfg.Files {
		file := control.File{Path: l.credentialsFile(f), Profiles: f.Profiles}
		if err := credfile.Check(file.Path); err != nil {
			file.Problem = err.Error()
		}
		out.Files = append(out.Files, file)
	}
	for _, h := range l.sts.Health() {
		out.Lame = append(out.Lame, control.Region{Name: h.Region, Since: h.Since, Why: h.Why})
	}
	for _, s := range l.broker.Status() {
		if profile == "" || s.Profile == profile {
			p := statusOf(s)
			if at, ok := l.catalog.signIns[s.Profile]; ok {
				p.SignIn = at.String()
			}
			p.Compatible = callOfSTS(p.Action) && l.sts.Foreign(l.catalog.sites[s.Profile])
			out.Profiles = append(out.Profiles, p)
		}
	}
	if profile != "" && len(out.Profiles) == 0 {
		if _, err := l.ask(profile); err != nil {
			return out, err
		}
		return out, &control.Error{Kind: "forbidden", Profile: profile, Message: "profile " + profile + " is excluded by aws_profiles in " + l.cfg.File + "; it only feeds others"}
	}
	return out, nil
}

func statusOf(s broker.Status) control.Profile {
	return control.Profile{
		Name: s.Profile, State: string(s.State), Origin: s.Origin, Action: s.Action, Source: s.Source, Region: s.Region,
		MintRegion: s.MintRegion, MFA: s.MFA, AccountID: s.AccountID, RoleARN: s.RoleARN, KeyID: s.KeyID, Generation: s.Generation, Left: s.Left.Seconds(),
		Granted: s.Life.Seconds(), Prefetch: s.Prefetch, RenewIn: s.RenewIn.Seconds(), Failures: s.Failures, LastError: s.LastError, Reason: s.Reason, Notes: s.Notes, Expiration: s.Expiration,
	}
}

// Reload implements control.Service.
func (l local) Reload(ctx context.Context) (control.Reloaded, error) {
	if l.embedded {
		return control.Reloaded{}, errNoDaemon{l.control}
	}
	return l.app.reload(context.WithoutCancel(ctx)) // whoever asked may hang up
}

// Ready implements control.Service.
func (l local) Ready(context.Context) (control.Readiness, error) {
	return control.Readiness{Waiting: append([]string{}, l.broker.Ready()...)}, nil
}

// Credentials implements control.Service.
func (l local) Credentials(ctx context.Context, profile string) (control.Credentials, error) {
	set, err := l.get(ctx, profile)
	if err != nil {
		return control.Credentials{}, explain(err)
	}
	return control.Credentials{
		AccessKeyID: set.AccessKeyID, SecretAccessKey: set.SecretAccessKey.Reveal(), SessionToken: set.SessionToken.Reveal(),
		Expiration: set.Expiration(), AccountID: set.AccountID,
	}, nil
}

// Refresh implements control.Service.
func (l local) Refresh(ctx context.Context, profile string) (control.Profile, error) {
	a, err := l.ask(profile)
	if err == nil {
		_, err = l.broker.Refresh(ctx, a)
	}
	if err != nil {
		return control.Profile{}, explain(err)
	}
	return l.standing(ctx, profile)
}

func (l local) standing(ctx context.Context, profile string) (control.Profile, error) {
	st, err := l.Status(ctx, profile)
	if err != nil {
		return control.Profile{}, err
	}
	return st.Profiles[0], nil
}

// Login implements control.Service.
func (l local) Login(ctx context.Context, profile, code string) (control.Profile, error) {
	a, err := l.ask(profile)
	if err == nil {
		a.Caller.Exec = true // a login is given, and nothing is handed out
		_, err = l.broker.Login(ctx, a, broker.NewSecret(code))
	}
	if err != nil {
		return control.Profile{}, explain(err)
	}
	return l.standing(ctx, profile)
}

// Env implements control.Service.
func (l local) Env(_ context.Context, profile string, file bool) (control.Endpoint, error) {
	if err := l.shareable(profile); err != nil {
		return control.Endpoint{}, err
	}
	uid, _ := l.who.Peer.UID()
	issued, err := l.tokens.ForEnv(uid, l.bind, profile)
	if err != nil {
		return control.Endpoint{}, err
	}
	e := l.endpoint(profile, issued.Token.Reveal())
	if file {
		if err := errors.Join(l.tokens.KeepFile(issued.ID), l.writeEnvToken(issued)); err != nil {
			return e, err
		}
		e.Token, e.TokenFile = "", l.envTokenFile(issued.ID)
	}
	return e, nil
}

// tokenFolder holds the token files of env; it vanishes when the broker stops.
func (a *app) tokenFolder() string { return filepath.Join(a.runtime, "tokens") }

// servable refuses profiles that no token should be made for.
func (l local) servable(profile string) error {
	if _, err := l.ask(profile); err != nil {
		return err
	}
	st, err := l.Status(context.Background(), profile)
	if err != nil {
		return err
	}
	if p := st.Profiles[0]; p.Reason != "" {
		return &control.Error{Kind: "config", Profile: profile, Message: "profile " + profile + " is unservable: " + p.Reason}
	}
	return nil
}

// shareable refuses also those that only a child of exec may have.
func (l local) shareable(profile string) error {
	if p, _ := l.definition(profile); p.Once {
		return &control.Error{Kind: "forbidden", Profile: profile, Message: "profile " + profile + " is for exec alone (" + p.Action + "): run stsbroker exec " + profile + " -- COMMAND"}
	}
	return l.servable(profile)
}

// Child implements control.Service.
func (l local) Child(ctx context.Context, profile, resume string) (control.Child, error) {
	if err := l.servable(profile); err != nil {
		return control.Child{}, err
	}
	uid, _ := l.who.Peer.UID()
	issued, revoke, err := l.tokens.ForChild(uid, l.bind, profile, resume)
	if err != nil {
		return control.Child{}, err
	}
	release := func() {
		revoke()
		l.broker.Release(issued.ID)
	}
	if resume == "" {
		if err := l.getForChild(ctx, profile, issued.ID); err != nil {
			release()
			return control.Child{}, explain(err)
		}
	}
	return control.Child{Endpoint: l.endpoint(profile, issued.Token.Reveal()), Release: release, Revoked: issued.Revoked}, nil
}

// CreateToken implements control.Service.
func (l local) CreateToken(_ context.Context, t control.NewToken) (control.Token, error) {
	for _, p := range t.Profiles {
		if err := l.shareable(p); err != nil {
			return control.Token{}, err
		}
	}
	if t.UID != nil && !l.bind {
		return control.Token{}, &control.Error{Kind: "config", Message: "a token cannot be bound to a uid here: the kernel does not tell the broker who connects; leave --uid away"}
	}
	issued, err := l.tokens.Create(t.Name, t.Profiles, t.UID)
	if err != nil {
		return control.Token{}, err
	}
	out := tokenOf(issued.Info)
	out.Value = issued.Token.Reveal()
	return out, nil
}

// Tokens implements control.Service.
func (l local) Tokens(context.Context) ([]control.Token, error) {
	out := []control.Token{}
	for _, i := range l.tokens.List() {
		out = append(out, tokenOf(i))
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Kind < out[j].Kind })
	return out, nil
}

// RevokeToken implements control.Service.
func (l local) RevokeToken(_ context.Context, name string) error {
	file := ""
	for _, issued := range l.tokens.EnvFiles() {
		if issued.ID == name {
			file = l.envTokenFile(issued.ID)
		}
	}
	err := l.tokens.Revoke(name)
	if err == nil && file != "" {
		err = os.Remove(file)
	}
	return err
}

func tokenOf(i access.Info) control.Token {
	t := control.Token{ID: i.ID, Name: i.Name, Kind: string(i.Kind), Profiles: i.Profiles, Created: i.Created, LastUsed: i.LastUsed, Expires: i.Expires}
	if i.Bound {
		t.UID = &i.UID
	}
	return t
}

// controlPaths are where a broker is looked for, in turn.
func controlPaths(g *globals, p place) []string {
	if g.socket != "" {
		return []string{p.control}
	}
	if cfg, _ := loadConfig(p.configFile()); cfg != nil && cfg.Listen.Control != "" {
		return []string{cfg.Listen.Control}
	}
	return []string{p.control, systemControl}
}

// systemControl is the system service's control socket.
const systemControl = "/run/stsbroker/control.sock"

// connect finds a running broker: the user's, else the system's.
func connect(ctx context.Context, g *globals) (*control.Client, error) {
	p, err := findPlace(g, false)
	if err != nil {
		if c, e := control.Dial(ctx, systemControl); e == nil && g.socket == "" { // a unit of root has no home
			return c, nil
		}
		return nil, err
	}
	paths := controlPaths(g, p)
	for _, path := range paths {
		c, err := control.Dial(ctx, path)
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil { // whether one is there is not known
			return nil, context.Cause(ctx)
		}
		if errors.Is(err, control.ErrSilent) {
			return nil, fmt.Errorf("%w: the broker there may fail to start, or hang; see stsbroker service status, and its log", err)
		}
		if errors.Is(err, os.ErrPermission) && g.socket != "" {
			return nil, fmt.Errorf("the broker at %s belongs to another user: %w", path, err)
		}
	}
	return nil, errNoDaemon{paths[0]}
}

// errNoDaemon is connect's when nobody answers.
type errNoDaemon struct{ path string }

func (e errNoDaemon) Error() string {
	return "no broker is running (nobody answers at " + e.path + "); start one with stsbroker serve"
}

// within runs f with a running broker, or with an embedded one for as long as f
// lasts.
func within(ctx context.Context, g *globals, f func(context.Context, control.Service) error) error {
	c, err := connect(ctx, g)
	if err == nil {
		return f(ctx, c)
	}
	if none := (errNoDaemon{}); !errors.As(err, &none) || g.socket != "" {
		return err
	}
	return embedded(ctx, g, f)
}
