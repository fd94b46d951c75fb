package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/access"
	"github.com/stsbroker/stsbroker/internal/control"
)

const pathOfOthers = "/etc/secret-place"

// everything is a Service that answers each call with all it can hold.
type everything struct {
	control.Service // of the calls that no guest may make
	did             []string
	err             error
}

func (e *everything) note(what, profile string) error {
	e.did = append(e.did, what+" "+profile)
	return e.err
}

func (e *everything) Status(_ context.Context, profile string) (st control.Status, err error) {
	fill(reflect.ValueOf(&st).Elem())
	st.Profiles = nil
	for _, name := range []string{"dev", "prod"} {
		if profile == "" || profile == name {
			p := profileOf(name)
			st.Profiles = append(st.Profiles, p)
		}
	}
	st.IMDS = []control.IMDS{{URL: "http://127.0.0.1:9169", Profile: "dev"}, {URL: "http://127.0.0.1:9168", Profile: "prod"}}
	return st, e.note("status", profile)
}

func profileOf(name string) (p control.Profile) {
	fill(reflect.ValueOf(&p).Elem())
	p.Name = name
	return p
}

func (e *everything) Credentials(_ context.Context, profile string) (control.Credentials, error) {
	return control.Credentials{AccessKeyID: "ASIA"}, e.note("credentials", profile)
}

func (e *everything) Env(_ context.Context, profile string, _ bool) (control.Endpoint, error) {
	return control.Endpoint{Token: "t"}, e.note("env", profile)
}

func (e *everything) Child(_ context.Context, profile, _ string) (control.Child, error) {
	return control.Child{Release: func() {}}, e.note("child", profile)
}

func (e *everything) Login(_ context.Context, profile, _ string) (control.Profile, error) {
	return profileOf(profile), e.note("login", profile)
}

func (e *everything) SignIn(_ context.Context, profile string, _ bool) (control.SignIn, error) {
	return control.SignIn{URL: "u", Wait: func() (control.Profile, error) { return profileOf(profile), e.err }}, e.note("sign-in", profile)
}

func (e *everything) Ready(context.Context) (control.Readiness, error) {
	return control.Readiness{Waiting: []string{"dev", "prod"}}, e.note("ready", "")
}

// fill puts something into every field.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(pathOfOthers)
	case reflect.Int:
		v.SetInt(7)
	case reflect.Uint64:
		v.SetUint(7)
	case reflect.Float64:
		v.SetFloat(7)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1, 0)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	default:
		panic(v.Kind().String())
	}
}

// refusals is an observer.
type refusals []broker.Event

func (r *refusals) Observe(e broker.Event) { *r = append(*r, e) }

// behind serves s over a socket to a caller of that uid, and returns its other end.
func behind(t *testing.T, s control.Service, uid int, tokens *access.Tokens, o broker.Observer) *control.Client {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("not run: rules are for hosts whose kernel tells the caller of a socket")
	}
	dir, err := os.MkdirTemp("", "guest-") // a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	who := broker.Caller{Door: broker.DoorControl, Peer: broker.NewPeer(uint32(uid), 1)}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: control.Handler(func(r *http.Request) (control.Service, error) {
		return admit(r.Context(), s, who, strings.TrimPrefix(r.URL.Path, "/v1/"), tokens, o)
	}, explain, func(*http.Request, string, string, error) {})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	c, err := control.Dial(t.Context(), filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// someUser is neither this one nor root nor one that is unknown.
func someUser() int { return os.Getuid()%1000 + 12345 }

func rulesFor(uid int) *access.Tokens {
	tokens := access.Memory()
	tokens.SetRules([]access.Rule{{UID: new(uint32(uid)), Profiles: []string{"dev"}}})
	return tokens
}

// Every call there is, of a user whom rules let in: it is one of those that guests may
// make, or it is refused with the words for that, and nothing is done.
func TestCallsOfGuests(t *testing.T) {
	uid := someUser()
	may := map[string]bool{"Status": true, "Credentials": true, "Env": true, "Child": true, "Login": true, "SignIn": true, "Ready": true}
	service := reflect.TypeFor[control.Service]()
	if service.NumMethod() < 20 {
		t.Fatalf("%d calls", service.NumMethod())
	}
	for i := range service.NumMethod() {
		name := service.Method(i).Name
		var seen refusals
		does := &everything{}
		client := reflect.ValueOf(behind(t, does, uid, rulesFor(uid), &seen)).MethodByName(name)
		in := []reflect.Value{reflect.ValueOf(t.Context())}
		for n := 1; n < client.Type().NumIn(); n++ {
			in = append(in, reflect.Zero(client.Type().In(n)))
		}
		out := client.Call(in)
		err, _ := out[len(out)-1].Interface().(error)
		if may[name] {
			if err != nil || len(does.did) != 1 || len(seen) != 0 {
				t.Errorf("%s: %v, did %q, noted %v", name, err, does.did, seen)
			}
			continue
		}
		e, ok := errors.AsType[*control.Error](err)
		if !ok || e.Kind != "forbidden" || !strings.HasPrefix(e.Message, "only root and the broker's own user may ") || strings.Contains(e.Message, "do this") || !strings.Contains(e.Message, "; sudo stsbroker ") {
			t.Errorf("%s: %v", name, err)
		}
		if len(does.did) != 0 || len(seen) != 1 || seen[0].Kind != broker.EventRefused || seen[0].Err.Kind != broker.KindForbidden {
			t.Errorf("%s: did %q, noted %+v", name, does.did, seen)
		}
	}
}

// Of the calls they may make, only for their own profiles; of another one, nothing tells
// whether it exists.
func TestProfilesOfGuests(t *testing.T) {
	uid := someUser()
	calls := map[string]func(c *control.Client, profile string) error{
		"status":      func(c *control.Client, p string) error { _, err := c.Status(t.Context(), p); return err },
		"credentials": func(c *control.Client, p string) error { _, err := c.Credentials(t.Context(), p); return err },
		"env":         func(c *control.Client, p string) error { _, err := c.Env(t.Context(), p, false); return err },
		"child":       func(c *control.Client, p string) error { _, err := c.Child(t.Context(), p, ""); return err },
		"login":       func(c *control.Client, p string) error { _, err := c.Login(t.Context(), p, "123456"); return err },
		"sign-in":     func(c *control.Client, p string) error { _, err := c.SignIn(t.Context(), p, true); return err },
	}
	texts := map[string]bool{}
	for name, call := range calls {
		if !guestMay(name) {
			t.Errorf("%s is not theirs", name)
		}
		var seen refusals
		does := &everything{}
		c := behind(t, does, uid, rulesFor(uid), &seen)
		if err := call(c, "dev"); err != nil || !slices.Equal(does.did, []string{name + " dev"}) {
			t.Errorf("%s: %v, did %q", name, err, does.did)
		}
		for _, profile := range []string{"prod", "no-such"} {
			does.did, seen = nil, nil
			err := call(c, profile)
			if e, ok := errors.AsType[*control.Error](err); !ok || e.Kind != "forbidden" || len(does.did) != 0 {
				t.Errorf("%s of %s: %v, did %q", name, profile, err, does.did)
				continue
			}
			texts[strings.ReplaceAll(err.Error(), profile, "PROFILE")] = true
			if len(seen) != 1 || seen[0].Profile != profile || !strings.Contains(seen[0].Err.Cause.Error(), fmt.Sprint("uid ", uid)) {
				t.Errorf("%s of %s is noted as %+v", name, profile, seen)
			}
		}
		// Whom no rule names, and who is unknown, come to no call at all.
		for _, other := range []int{uid + 1, 65534} {
			does.did, seen = nil, nil
			err := call(behind(t, does, other, rulesFor(uid), &seen), "dev")
			if err == nil || !strings.Contains(err.Error(), "belongs to another user") || len(does.did) != 0 || len(seen) != 1 {
				t.Errorf("%s by uid %d: %v, did %q, noted %v", name, other, err, does.did, seen)
			}
		}
		for _, own := range []int{0, os.Getuid()} { // as before, rules or none
			does.did = nil
			if err := call(behind(t, does, own, rulesFor(uid), &seen), "prod"); err != nil || len(does.did) != 1 {
				t.Errorf("%s by uid %d: %v, did %q", name, own, err, does.did)
			}
		}
	}
	if len(texts) != 1 {
		t.Errorf("what they read differs: %v", texts)
	}
	c := behind(t, &everything{}, uid, rulesFor(uid), &refusals{})
	if r, err := c.Ready(t.Context()); err != nil || !slices.Equal(r.Waiting, []string{"dev"}) {
		t.Errorf("%v, %v", r, err)
	}
	if _, err := c.Env(t.Context(), "dev", true); err == nil || !strings.Contains(err.Error(), "--token-file") {
		t.Errorf("a token file that they cannot read: %v", err)
	}
}

// What status tells guests was decided field by field; a new one is to be decided too.
func TestStatusOfGuests(t *testing.T) {
	uid := someUser()
	c := behind(t, &everything{}, uid, rulesFor(uid), &refusals{})
	for _, profile := range []string{"", "dev"} {
		st, err := c.Status(t.Context(), profile)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		if len(st.Profiles) != 1 || st.Profiles[0].Name != "dev" || len(st.IMDS) != 1 || st.IMDS[0].Profile != "dev" || strings.Contains(string(raw), "prod") {
			t.Errorf("%s", raw)
		}
		is(t, st, map[string]bool{
			"version": true, "pid": true, "started": true, "loaded": true, "container": true, "imds": true, "profiles": true,
			"socket": false, "token_files": false, "files": false, "sealed": false, "custody": false, "custody_problem": false, "changed": false,
			"lame_regions": false, "config": false, "reload_failed": false, "config_error": false,
		})
	}
	theirs := map[string]bool{
		"profile": true, "state": true, "action": true, "region": true, "mint_region": true, "mfa_device": true, "sign_in": true, "account_id": true,
		"role_arn": true, "compatible": true, "access_key_id": true, "generation": true, "seconds_left": true, "expiration": true, "seconds_granted": true,
		"seconds_to_renewal": true, "prefetch": true, "failures": true, "last_error": true, "unservable": true,
		"origin": false, "source": false, "notes": false,
	}
	st, err := c.Status(t.Context(), "dev")
	if err != nil {
		t.Fatal(err)
	}
	is(t, st.Profiles[0], theirs)
	if p := st.Profiles[0]; strings.Contains(p.LastError+p.Reason, pathOfOthers) || !strings.Contains(p.Reason, "sudo stsbroker status") {
		t.Errorf("%q, %q", p.LastError, p.Reason)
	}
	p, err := c.Login(t.Context(), "dev", "123456")
	if err != nil {
		t.Fatal(err)
	}
	is(t, p, theirs)
	at, err := c.SignIn(t.Context(), "dev", false)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = at.Wait(); err != nil {
		t.Fatal(err)
	}
	is(t, p, theirs)
}

// is checks which fields of v hold something; those that v does not have may be named too.
func is(t *testing.T, v any, told map[string]bool) {
	t.Helper()
	for f, value := range reflect.ValueOf(v).Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		want, decided := told[name]
		holds := !value.IsZero() && (value.Kind() != reflect.Slice || value.Len() > 0)
		if !decided || holds != want {
			t.Errorf("%s.%s is %v: decided %v, to be told %v", value.Type(), f.Name, value, decided, want)
		}
	}
}

// What goes wrong is told as far as it concerns a guest.
func TestErrorsOfGuests(t *testing.T) {
	uid := someUser()
	for _, tc := range []struct {
		err  error
		want string
	}{
		{&broker.Error{Kind: broker.KindDenied, Public: "profile dev: STS denies arn:aws:iam::123456789012:role/team/x"}, "profile dev: STS denies arn:aws:iam::123456789012:role/team/x"},
		{&broker.Error{Kind: broker.KindLoginNeeded, Public: "profile dev: a code is needed; run stsbroker login dev"}, "profile dev: a code is needed; run stsbroker login dev"},
		{&broker.Error{Kind: broker.KindConfig, Public: "profile dev is unservable: " + pathOfOthers + ":7: key work is not there"}, "profile dev cannot be had now, and only who administers the broker can see why: sudo stsbroker status"},
		{&broker.Error{Kind: broker.KindConfig, Public: "profile dev: the token file " + pathOfOthers + "/t cannot be read"}, "profile dev: the token file … cannot be read"},
		{&control.Error{Kind: "forbidden", Message: "excluded by aws_profiles in " + pathOfOthers + "; it only feeds others"}, "excluded by aws_profiles in …; it only feeds others"},
		{broker.Locked(), "custody is locked, and only who administers the broker can open it: sudo stsbroker unlock"},
		{os.ErrPermission, "profile dev cannot be had now, and only who administers the broker can see why: sudo stsbroker status"},
	} {
		c := behind(t, &everything{err: tc.err}, uid, rulesFor(uid), &refusals{})
		_, err := c.Credentials(t.Context(), "dev")
		if err == nil || err.Error() != tc.want {
			t.Errorf("%v became %v", tc.err, err)
		}
		for _, call := range []func() error{
			func() error { _, err := c.Status(t.Context(), ""); return err },
			func() error { _, err := c.Child(t.Context(), "dev", ""); return err },
			func() error { _, err := c.Login(t.Context(), "dev", ""); return err },
			func() error { _, err := c.Env(t.Context(), "dev", false); return err },
			func() error { _, err := c.Ready(t.Context()); return err },
			func() error { _, err := c.SignIn(t.Context(), "dev", false); return err },
		} {
			if err := call(); err == nil || strings.Contains(err.Error(), pathOfOthers) {
				t.Errorf("%v became %v", tc.err, err)
			}
		}
	}
}

func TestWithoutPaths(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "no path": "no path", "/": "…", "/a/b": "…", "read /a/b, then": "read …, then", `open "/a b/c": no`: `open "…": no`, "(/a)": "(…)", "x=/a;": "x=…;",
		"/a/b.yaml:12:3: key": "… key", "arn:aws:iam::1:role/a/b": "arn:aws:iam::1:role/a/b", "https://sts.example.com/": "https://sts.example.com/", "'/a": "'…", "ü /ü ü": "ü … ü",
	} {
		if got := withoutPaths(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
