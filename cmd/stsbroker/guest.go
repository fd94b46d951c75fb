package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/access"
	"github.com/stsbroker/stsbroker/internal/control"
)

// Users who do not administer the broker, and whom rules under access give some of its
// profiles: what they may do over the control socket, and what they learn there.

// admit is what a caller has of s for a call, by its path in package control: all for
// those who administer the broker, else what rules give. A refusal is noted.
func admit(ctx context.Context, s control.Service, who broker.Caller, call string, tokens *access.Tokens, o broker.Observer) (control.Service, error) {
	if tokens.Administers(who.Peer) {
		return s, nil
	}
	var refused *broker.Error
	if err := tokens.Authorize(ctx, who, ""); err != nil {
		refused = notServed(broker.AsError(err).Cause)
	} else if !guestMay(call) {
		refused = forAdministrators(call)
	} else {
		return guest{s, who, tokens, o}, nil
	}
	o.Observe(broker.Event{Kind: broker.EventRefused, Caller: who, Err: refused})
	return nil, refused
}

// guestMay reports whether they may make a call of package control, by its path.
func guestMay(call string) bool {
	return slices.Contains([]string{"status", "credentials", "env", "child", "login", "sign-in", "ready"}, call)
}

// forAdministrators is the refusal of any other call.
func forAdministrators(call string) *broker.Error {
	what, command := "do this", "…"
	switch call {
	case "refresh":
		what, command = "have credentials minted before it is time", "refresh PROFILE"
	case "logout":
		what, command = "end a login that others stand on too", "logout PROFILE"
	case "whoami", "decode", "identity-token":
		what, command = "have the broker call AWS for more than credentials", call+" …"
	case "key", "key/list", "key/add", "key/remove", "key/rotate":
		what, command = "see and change long-term keys", "keys …"
	case "token/create", "token/list", "token/revoke":
		what, command = "see and change tokens", strings.ReplaceAll(call, "/", " ")+" …"
	case "custody", "unlock":
		what, command = "open custody", "unlock"
	case "lock":
		what, command = "close custody", "lock"
	case "reload":
		what, command = "have the configuration read again", "reload"
	}
	return &broker.Error{
		Kind: broker.KindForbidden, Public: "only root and the broker's own user may " + what + "; sudo stsbroker " + command,
		Cause: errors.New("rules under access do not give the call " + call),
	}
}

// notServed is the refusal of who has no rule at all.
func notServed(cause error) *broker.Error {
	return &broker.Error{Kind: broker.KindForbidden, Cause: cause,
		Public: "the broker belongs to another user, and gives you nothing; run your own with stsbroker serve, or ask who administers it for a rule under access with the number that id -u prints"}
}

// guest is the Service of such a user: for the calls that guestMay names, and the
// profiles of the user's rules. To whom another is refused, nothing tells whether it exists.
type guest struct {
	control.Service // does what is allowed
	who             broker.Caller
	access          broker.Authorizer
	observer        broker.Observer
}

// may refuses a profile that the rules do not give, and has that noted.
func (g guest) may(ctx context.Context, profile string) error {
	err := g.access.Authorize(ctx, g.who, profile)
	if err != nil {
		g.observer.Observe(broker.Event{Kind: broker.EventRefused, Profile: profile, Caller: g.who, Err: broker.AsError(err)})
	}
	return err
}

// sees is the same of what nobody asked for by name.
func (g guest) sees(ctx context.Context) func(profile string) bool {
	return func(profile string) bool { return g.access.Authorize(ctx, g.who, profile) == nil }
}

// Status implements control.Service.
func (g guest) Status(ctx context.Context, profile string) (control.Status, error) {
	if err := g.may(ctx, profile); err != nil {
		return control.Status{}, err
	}
	st, err := g.Service.Status(ctx, profile)
	if err != nil {
		return control.Status{}, guestError(profile, err)
	}
	return guestStatus(st, g.sees(ctx)), nil
}

// Credentials implements control.Service.
func (g guest) Credentials(ctx context.Context, profile string) (control.Credentials, error) {
	if err := g.may(ctx, profile); err != nil {
		return control.Credentials{}, err
	}
	c, err := g.Service.Credentials(ctx, profile)
	return c, guestError(profile, err)
}

// Env implements control.Service.
func (g guest) Env(ctx context.Context, profile string, file bool) (control.Endpoint, error) {
	if err := g.may(ctx, profile); err != nil {
		return control.Endpoint{}, err
	}
	if file {
		return control.Endpoint{}, &control.Error{Kind: "forbidden", Profile: profile,
			Message: "the token file would be the broker's, and not yours to read; leave --token-file away"}
	}
	e, err := g.Service.Env(ctx, profile, false)
	return e, guestError(profile, err)
}

// Child implements control.Service.
func (g guest) Child(ctx context.Context, profile, resume string) (control.Child, error) {
	if err := g.may(ctx, profile); err != nil {
		return control.Child{}, err
	}
	c, err := g.Service.Child(ctx, profile, resume)
	return c, guestError(profile, err)
}

// Login implements control.Service.
func (g guest) Login(ctx context.Context, profile, code string) (control.Profile, error) {
	if err := g.may(ctx, profile); err != nil {
		return control.Profile{}, err
	}
	p, err := g.Service.Login(ctx, profile, code)
	return guestProfile(p), guestError(profile, err)
}

// SignIn implements control.Service.
func (g guest) SignIn(ctx context.Context, profile string, device bool) (control.SignIn, error) {
	if err := g.may(ctx, profile); err != nil {
		return control.SignIn{}, err
	}
	at, err := g.Service.SignIn(ctx, profile, device)
	if err != nil {
		return control.SignIn{}, guestError(profile, err)
	}
	wait := at.Wait
	at.Wait = func() (control.Profile, error) {
		p, err := wait()
		return guestProfile(p), guestError(profile, err)
	}
	return at, nil
}

// Ready implements control.Service: of the user's own profiles.
func (g guest) Ready(ctx context.Context) (control.Readiness, error) {
	r, err := g.Service.Ready(ctx)
	sees := g.sees(ctx)
	r.Waiting = slices.DeleteFunc(slices.Clone(r.Waiting), func(profile string) bool { return !sees(profile) })
	return r, guestError("", err)
}

// guestStatus is what st tells a guest: of the profiles that may admits to, and where
// they are served. Nothing is in it that was not put there by name.
func guestStatus(st control.Status, may func(profile string) bool) control.Status {
	out := control.Status{
		Version: st.Version, PID: st.PID, Started: st.Started, Loaded: st.Loaded, Container: st.Container, IMDS: []control.IMDS{},
		TokenFiles: []control.File{}, Files: []control.File{}, Changed: []string{}, Lame: []control.Region{}, Profiles: []control.Profile{},
	}
	for _, l := range st.IMDS {
		if may(l.Profile) {
			out.IMDS = append(out.IMDS, l)
		}
	}
	for _, p := range st.Profiles {
		if may(p.Name) {
			out.Profiles = append(out.Profiles, guestProfile(p))
		}
	}
	return out
}

// guestProfile is how a guest sees a profile: not where it is defined, nor what signs for it.
func guestProfile(p control.Profile) control.Profile {
	p.Origin, p.Source, p.Notes = "", "", nil
	p.LastError = withoutPaths(p.LastError)
	if p.Reason != "" {
		p.Reason = "who administers the broker sees why: sudo stsbroker status"
	}
	return p
}

// guestError is how a guest reads an error about a profile of its own: what concerns the
// configuration, the custody and the files of another is for that one. nil stays.
func guestError(profile string, err error) error {
	if err == nil {
		return nil
	}
	e := *explain(err)
	switch e.Message = withoutPaths(e.Message); {
	case e.Kind == broker.KindLocked.String():
		e.Message = "custody is locked, and only who administers the broker can open it: sudo stsbroker unlock"
	case e.Kind == "failed", strings.Contains(e.Message, " is unservable: "):
		e.Message = "profile " + profile + " cannot be had now, and only who administers the broker can see why: sudo stsbroker status"
	}
	return &e
}

// withoutPaths leaves absolute paths out of a line: the words, quoted or not, that begin
// with a slash. (An ARN does not.)
func withoutPaths(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); {
		before := byte(' ')
		if i > 0 {
			before = s[i-1]
		}
		if s[i] != '/' || strings.IndexByte(` "'([=`, before) < 0 {
			out.WriteByte(s[i])
			i++
			continue
		}
		ends := " ,;)]\"'"
		if before == '"' || before == '\'' {
			ends = string(before)
		}
		out.WriteString("…")
		n := strings.IndexAny(s[i:], ends)
		if n < 0 {
			break
		}
		i += n
	}
	return out.String()
}
