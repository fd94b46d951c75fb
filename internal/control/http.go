package control

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

const maxBody = 1 << 20

// firstAnswer is more than any broker takes to mint, or to give up.
const firstAnswer = time.Minute

// request is the body of every call; each call reads its own fields.
type request struct {
	Profile string    `json:"profile,omitempty"`
	File    bool      `json:"file,omitempty"`
	Resume  string    `json:"resume,omitempty"`
	Name    string    `json:"name,omitempty"`
	Code    string    `json:"code,omitempty"`
	Message string    `json:"message,omitempty"`
	Token   *NewToken `json:"token,omitempty"`

	IdentityToken *IdentityTokenRequest `json:"identity_token,omitempty"`

	Device bool           `json:"device,omitempty"`
	Force  bool           `json:"force,omitempty"`
	Unlock *Unlocking     `json:"unlock,omitempty"`
	Key    *NewKey        `json:"key,omitempty"`
	Rotate *RotateRequest `json:"rotate,omitempty"`
}

// about is what a call is about, by its name.
func (in request) about() string {
	switch {
	case in.Key != nil:
		return in.Key.Name
	case in.Rotate != nil:
		return in.Rotate.Name
	case in.Token != nil:
		return in.Token.Name
	}
	return cmp.Or(in.Profile, in.Name)
}

// mostCode is longer than any code of an MFA device, in bytes.
const mostCode = 64

// Handler serves the command line. as turns a request's connection into the Service of
// the caller behind it, or refuses. Errors that are not [*Error] are passed through
// explain. done is told of each call that was let in, by its path after /v1/, what it was
// about (the name of a profile, a key, a token), and what came of it.
func Handler(as func(r *http.Request) (Service, error), explain func(error) *Error, done func(r *http.Request, call, about string, err error)) http.Handler {
	mux := http.NewServeMux()
	call := func(name string, f func(s Service, r *http.Request, in request) (any, error)) {
		mux.HandleFunc("POST /v1/"+name, func(w http.ResponseWriter, r *http.Request) {
			var in request
			out, err := func() (any, error) {
				s, err := as(r) // before anything of theirs is read
				if err != nil {
					return nil, err
				}
				dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
				dec.DisallowUnknownFields()
				if err := dec.Decode(&in); err != nil {
					return nil, &Error{Kind: "config", Message: "the broker does not understand this command: it may be of another version; restart it (" + err.Error() + ")"}
				}
				out, err := f(s, r, in)
				if at, ok := out.(SignIn); ok && err == nil { // it has only begun
					wait := at.Wait
					at.Wait = func() (Profile, error) {
						p, err := wait()
						done(r, name, in.about(), err)
						return p, err
					}
					return at, nil
				}
				done(r, name, in.about(), err)
				return out, err
			}()
			reply(w, out, err, explain)
		})
	}
	call("status", func(s Service, r *http.Request, in request) (any, error) { return s.Status(r.Context(), in.Profile) })
	call("credentials", func(s Service, r *http.Request, in request) (any, error) {
		return s.Credentials(r.Context(), in.Profile)
	})
	call("refresh", func(s Service, r *http.Request, in request) (any, error) { return s.Refresh(r.Context(), in.Profile) })
	call("login", func(s Service, r *http.Request, in request) (any, error) {
		if len(in.Code) > mostCode {
			return nil, &Error{Kind: "denied", Profile: in.Profile, Message: "what was given is too long for the code of an MFA device"}
		}
		return s.Login(r.Context(), in.Profile, in.Code)
	})
	call("whoami", func(s Service, r *http.Request, in request) (any, error) { return s.WhoAmI(r.Context(), in.Profile) })
	call("decode", func(s Service, r *http.Request, in request) (any, error) {
		return s.Decode(r.Context(), in.Profile, in.Message)
	})
	call("key", func(s Service, r *http.Request, in request) (any, error) {
		return s.KeyInfo(r.Context(), in.Name, in.Profile)
	})
	call("identity-token", func(s Service, r *http.Request, in request) (any, error) {
		if in.IdentityToken == nil {
			return nil, &Error{Kind: "config", Message: "no token described"}
		}
		return s.IdentityToken(r.Context(), *in.IdentityToken)
	})
	call("sign-in", func(s Service, r *http.Request, in request) (any, error) {
		return s.SignIn(r.Context(), in.Profile, in.Device)
	})
	call("logout", func(s Service, r *http.Request, in request) (any, error) { return s.Logout(r.Context(), in.Profile) })
	call("custody", func(s Service, r *http.Request, _ request) (any, error) { return s.Custody(r.Context()) })
	call("unlock", func(s Service, r *http.Request, in request) (any, error) {
		if in.Unlock == nil {
			in.Unlock = &Unlocking{}
		}
		return s.Unlock(r.Context(), *in.Unlock)
	})
	call("lock", func(s Service, r *http.Request, _ request) (any, error) { return s.Lock(r.Context()) })
	call("key/list", func(s Service, r *http.Request, _ request) (any, error) { return s.Keys(r.Context()) })
	call("key/add", func(s Service, r *http.Request, in request) (any, error) {
		if in.Key == nil {
			return nil, &Error{Kind: "config", Message: "no key given"}
		}
		return s.AddKey(r.Context(), *in.Key)
	})
	call("key/remove", func(s Service, r *http.Request, in request) (any, error) {
		return s.RemoveKey(r.Context(), in.Name, in.Force)
	})
	call("key/rotate", func(s Service, r *http.Request, in request) (any, error) {
		if in.Rotate == nil {
			return nil, &Error{Kind: "config", Message: "no rotation described"}
		}
		return s.RotateKey(r.Context(), *in.Rotate)
	})
	call("env", func(s Service, r *http.Request, in request) (any, error) {
		return s.Env(r.Context(), in.Profile, in.File)
	})
	call("child", func(s Service, r *http.Request, in request) (any, error) {
		c, err := s.Child(r.Context(), in.Profile, in.Resume)
		return held{c, r.Context()}, err
	})
	call("reload", func(s Service, r *http.Request, _ request) (any, error) { return s.Reload(r.Context()) })
	call("ready", func(s Service, r *http.Request, _ request) (any, error) { return s.Ready(r.Context()) })
	call("token/create", func(s Service, r *http.Request, in request) (any, error) {
		if in.Token == nil {
			return nil, &Error{Kind: "config", Message: "no token described"}
		}
		return s.CreateToken(r.Context(), *in.Token)
	})
	call("token/list", func(s Service, r *http.Request, _ request) (any, error) { return s.Tokens(r.Context()) })
	call("token/revoke", func(s Service, r *http.Request, in request) (any, error) {
		return struct{}{}, s.RevokeToken(r.Context(), in.Name)
	})
	return mux
}

// held is an answer that lasts as long as the caller's connection.
type held struct {
	Child
	until context.Context
}

// revoked is what follows in such an answer when its token was revoked.
type revoked struct {
	Revoked bool `json:"revoked"`
}

// outcome is what follows a [SignIn] when it is over.
type outcome struct {
	Profile *Profile `json:"profile,omitempty"`
	Error   *Error   `json:"error,omitempty"`
}

func reply(w http.ResponseWriter, out any, err error, explain func(error) *Error) {
	w.Header().Set("Content-Type", "application/json")
	theirs := func(err error) *Error {
		if e, ok := errors.AsType[*Error](err); ok {
			return e
		}
		return explain(err)
	}
	if err != nil {
		w.WriteHeader(http.StatusUnprocessableEntity)
		_ = json.NewEncoder(w).Encode(theirs(err))
		return
	}
	if s, ok := out.(SignIn); ok {
		if json.NewEncoder(w).Encode(s) == nil {
			_ = http.NewResponseController(w).Flush()
		}
		var end outcome
		p, err := s.Wait() // also where the client has gone: it ends with its connection
		if end.Profile = &p; err != nil {
			end = outcome{Error: theirs(err)}
		}
		_ = json.NewEncoder(w).Encode(end)
		return
	}
	h, lasting := out.(held)
	if lasting {
		defer h.Release()
		out = h.Endpoint
	}
	if err := json.NewEncoder(w).Encode(out); err != nil || !lasting {
		return
	}
	if http.NewResponseController(w).Flush() != nil {
		return
	}
	select {
	case <-h.until.Done():
	case <-h.Revoked:
		_ = json.NewEncoder(w).Encode(revoked{true}) // whoever is not there any more need not know
	}
}

// Client is a [Service] at the other end of a socket.
type Client struct {
	path string
	http *http.Client
}

// ErrSilent is that somebody listens and does not answer: systemd for a service that
// cannot start, or a broker that hangs.
var ErrSilent = errors.New("it does not answer")

// answerWithin is how long a broker may take for its first sign of life.
const answerWithin = 5 * time.Second

// Dial connects to the broker at a Unix socket, and makes sure that it answers. The error
// is the dial's own when nobody listens there, and [ErrSilent] when nobody answers.
func Dial(ctx context.Context, path string) (*Client, error) {
	d := net.Dialer{Timeout: 2 * time.Second}
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	// The connection that proved the broker to be there carries the first call.
	first := make(chan net.Conn, 1)
	first <- conn
	if err := answers(ctx, conn); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Client{path, &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			select {
			case c := <-first:
				return c, nil
			default:
				return d.DialContext(ctx, "unix", path)
			}
		},
		DisableCompression: true,
		DisableKeepAlives:  true, // a command makes a call or two; nobody would close what is idle
	}}}, nil
}

// answers asks for nothing that there is, and waits for whatever is answered. The
// connection goes on to be used.
func answers(ctx context.Context, conn net.Conn) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(answerWithin))
	_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: stsbroker\r\n\r\n")
	if err == nil {
		var resp *http.Response
		if resp, err = http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
			_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody))
			_ = resp.Body.Close()
		}
	}
	if err == nil {
		return conn.SetDeadline(time.Time{})
	}
	_ = conn.Close()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w within %s", ErrSilent, answerWithin)
	}
	return err
}

func (c *Client) open(ctx context.Context, call string, in request) (*http.Response, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://stsbroker/v1/"+call, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, &Error{Kind: "unavailable", Message: fmt.Sprintf("the broker at %s hung up; see its log, and stsbroker status (%v)", c.path, err)}
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	e := &Error{Kind: "unavailable"}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxBody)).Decode(e); err != nil || e.Message == "" {
		e.Message = fmt.Sprintf("the broker at %s answered %s to %q: it may be of another version; restart it", c.path, resp.Status, call)
	}
	return nil, e
}

func do[T any](ctx context.Context, c *Client, call string, in request) (out T, err error) {
	resp, err := c.open(ctx, call, in)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return out, cmp.Or(context.Cause(ctx), err)
	}
	return out, nil
}

// Status implements [Service].
func (c *Client) Status(ctx context.Context, profile string) (Status, error) {
	return do[Status](ctx, c, "status", request{Profile: profile})
}

// Credentials implements [Service].
func (c *Client) Credentials(ctx context.Context, profile string) (Credentials, error) {
	return do[Credentials](ctx, c, "credentials", request{Profile: profile})
}

// Refresh implements [Service].
func (c *Client) Refresh(ctx context.Context, profile string) (Profile, error) {
	return do[Profile](ctx, c, "refresh", request{Profile: profile})
}

// Login implements [Service].
func (c *Client) Login(ctx context.Context, profile, code string) (Profile, error) {
	return do[Profile](ctx, c, "login", request{Profile: profile, Code: code})
}

// WhoAmI implements [Service].
func (c *Client) WhoAmI(ctx context.Context, profile string) (Identity, error) {
	return do[Identity](ctx, c, "whoami", request{Profile: profile})
}

// Decode implements [Service].
func (c *Client) Decode(ctx context.Context, profile, message string) (string, error) {
	return do[string](ctx, c, "decode", request{Profile: profile, Message: message})
}

// KeyInfo implements [Service].
func (c *Client) KeyInfo(ctx context.Context, name, profile string) (KeyInfo, error) {
	return do[KeyInfo](ctx, c, "key", request{Name: name, Profile: profile})
}

// IdentityToken implements [Service].
func (c *Client) IdentityToken(ctx context.Context, t IdentityTokenRequest) (IdentityToken, error) {
	return do[IdentityToken](ctx, c, "identity-token", request{IdentityToken: &t})
}

// Env implements [Service].
func (c *Client) Env(ctx context.Context, profile string, file bool) (Endpoint, error) {
	return do[Endpoint](ctx, c, "env", request{Profile: profile, File: file})
}

// Child implements [Service]. The kernel closes the connection when this process
// dies, however it dies, and the token with it.
func (c *Client) Child(ctx context.Context, profile, resume string) (Child, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	tooLong := &Error{Kind: "unavailable", Profile: profile, Message: "the broker at " + c.path + " took too long to answer"}
	late := time.AfterFunc(firstAnswer, func() { cancel(tooLong) })
	resp, err := c.open(ctx, "child", request{Profile: profile, Resume: resume})
	if !late.Stop() && err == nil {
		err = errors.Join(tooLong, resp.Body.Close())
	}
	if err != nil {
		cancel(nil)
		return Child{}, err
	}
	lost, over := make(chan struct{}), make(chan struct{})
	out := Child{Lost: lost, Revoked: over, Release: sync.OnceFunc(func() {
		cancel(nil)
		_ = resp.Body.Close()
	})}
	dec := json.NewDecoder(resp.Body)
	if err := dec.Decode(&out.Endpoint); err != nil {
		out.Release()
		return Child{}, err
	}
	go func() {
		var end revoked
		if dec.Decode(&end) == nil && end.Revoked {
			close(over)
			return
		}
		close(lost)
	}()
	return out, nil
}

// SignIn implements [Service].
func (c *Client) SignIn(ctx context.Context, profile string, device bool) (SignIn, error) {
	resp, err := c.open(ctx, "sign-in", request{Profile: profile, Device: device}) //nolint:bodyclose // Wait closes it
	if err != nil {
		return SignIn{}, err
	}
	dec := json.NewDecoder(resp.Body)
	var out SignIn
	if err := dec.Decode(&out); err != nil {
		return SignIn{}, errors.Join(cmp.Or(context.Cause(ctx), err), resp.Body.Close())
	}
	out.Wait = func() (Profile, error) {
		defer resp.Body.Close()
		var end outcome
		switch err := dec.Decode(&end); {
		case ctx.Err() != nil:
			return Profile{}, context.Cause(ctx)
		case err != nil:
			return Profile{}, &Error{Kind: "unavailable", Profile: profile, Message: "the broker at " + c.path + " hung up while the sign-in was under way; ask again when it runs"}
		case end.Error != nil:
			return Profile{}, end.Error
		case end.Profile == nil:
			return Profile{}, &Error{Kind: "unavailable", Profile: profile, Message: "the broker at " + c.path + " may be of another version; restart it"}
		}
		return *end.Profile, nil
	}
	return out, nil
}

// Logout implements [Service].
func (c *Client) Logout(ctx context.Context, profile string) (Loggedout, error) {
	return do[Loggedout](ctx, c, "logout", request{Profile: profile})
}

// Custody implements [Service].
func (c *Client) Custody(ctx context.Context) (Custody, error) {
	return do[Custody](ctx, c, "custody", request{})
}

// Unlock implements [Service].
func (c *Client) Unlock(ctx context.Context, u Unlocking) (Custody, error) {
	return do[Custody](ctx, c, "unlock", request{Unlock: &u})
}

// Lock implements [Service].
func (c *Client) Lock(ctx context.Context) (Custody, error) {
	return do[Custody](ctx, c, "lock", request{})
}

// Keys implements [Service].
func (c *Client) Keys(ctx context.Context) ([]KeyInfo, error) {
	return do[[]KeyInfo](ctx, c, "key/list", request{})
}

// AddKey implements [Service].
func (c *Client) AddKey(ctx context.Context, k NewKey) (KeyInfo, error) {
	return do[KeyInfo](ctx, c, "key/add", request{Key: &k})
}

// RemoveKey implements [Service].
func (c *Client) RemoveKey(ctx context.Context, name string, force bool) (string, error) {
	return do[string](ctx, c, "key/remove", request{Name: name, Force: force})
}

// RotateKey implements [Service].
func (c *Client) RotateKey(ctx context.Context, r RotateRequest) (Rotation, error) {
	return do[Rotation](ctx, c, "key/rotate", request{Rotate: &r})
}

// Reload implements [Service].
func (c *Client) Reload(ctx context.Context) (Reloaded, error) {
	return do[Reloaded](ctx, c, "reload", request{})
}

// Ready implements [Service].
func (c *Client) Ready(ctx context.Context) (Readiness, error) {
	return do[Readiness](ctx, c, "ready", request{})
}

// CreateToken implements [Service].
func (c *Client) CreateToken(ctx context.Context, t NewToken) (Token, error) {
	return do[Token](ctx, c, "token/create", request{Token: &t})
}

// Tokens implements [Service].
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	return do[[]Token](ctx, c, "token/list", request{})
}

// RevokeToken implements [Service].
func (c *Client) RevokeToken(ctx context.Context, name string) error {
	_, err := do[struct{}](ctx, c, "token/revoke", request{Name: name})
	return err
}
