package login

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/printable"
)

// byBrowser signs in by the authorization code grant with PKCE (RFC 6749, RFC 7636),
// with the redirect to a port of this host that native applications use (RFC 8252).
// The port is open for the attempt's life alone.
func (m *Manager) byBrowser(ctx context.Context, s Session, a *attempt) error {
	c, err := m.client(ctx, s, false, false)
	if err != nil {
		return err
	}
	base, err := m.api.base(serviceOIDC, s.Region)
	if err != nil {
		return err
	}
	l, err := listen(ctx)
	if err != nil {
		return fmt.Errorf("there is no port for the browser to come back to: %w", err)
	}
	back := &comeback{host: l.Addr().String(), state: random(), result: make(chan error, 1)}
	verifier := random()
	back.take = func(code broker.Secret) error {
		got, err := m.api.create(ctx, s, c, grantCode, map[string]broker.Secret{
			"code": code, "codeVerifier": verifier, "redirectUri": broker.NewSecret(back.redirectURI()),
		})
		if f := asFault(err); f != nil && (f.code == codeClient || f.code == codeNotTheClient) {
			m.dropClient(s, false, c)
		}
		if err != nil {
			return err
		}
		return m.signedIn(s, got)
	}
	server := &http.Server{
		Handler: back, ReadHeaderTimeout: headerTimeout, WriteTimeout: 2 * keepTimeout, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.New(io.Discard, "", 0), ConnState: new(crowd).changed,
	}
	server.SetKeepAlivesEnabled(false)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	defer func() {
		// The page that says how it went is on its way; a browser that does not take it
		// keeps nobody waiting.
		last, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(last) != nil {
			_ = server.Close()
		}
		<-served
	}()

	sum := sha256.Sum256([]byte(verifier.Reveal()))
	// As the AWS CLI has it: the parameter is called scopes, not scope.
	a.url = base + "/authorize?" + url.Values{
		"response_type": {"code"}, "client_id": {c.id}, "redirect_uri": {back.redirectURI()}, "state": {back.state.Reveal()},
		"code_challenge_method": {"S256"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
		"scopes": {strings.Join(s.scopes(), " ")},
	}.Encode()
	close(a.ready)
	select {
	case err := <-back.result:
		return err
	case <-ctx.Done():
		m.dropClient(s, false, c) // the page may have refused it, which nobody tells us
		return context.Cause(ctx)
	}
}

const (
	headerTimeout = 2 * time.Second // a browser on this host sends at once
	mostConns     = 16              // more than a browser opens, also for what it may need later
)

// crowd keeps the connections to a server few: everybody on the host can reach the port,
// and each connection is a descriptor of the daemon's. One too many closes the oldest, so
// that the browser that comes last is heard.
type crowd struct {
	mu    sync.Mutex
	conns []net.Conn // the oldest first
}

// changed is an [http.Server.ConnState].
func (c *crowd) changed(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		if len(c.conns) == mostConns {
			_ = c.conns[0].Close()
			c.conns = c.conns[1:]
		}
		c.conns = append(c.conns, conn)
	case http.StateClosed:
		c.conns = slices.DeleteFunc(c.conns, func(other net.Conn) bool { return other == conn })
	case http.StateActive, http.StateIdle, http.StateHijacked:
	}
}

// random is 256 bits as 43 characters, which is also the least that a code verifier
// may have (RFC 7636, section 4.1).
func random() broker.Secret {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return broker.NewSecret(base64.RawURLEncoding.EncodeToString(b[:]))
}

// comeback is the page that the browser comes back to. Whoever else finds the port
// learns nothing there and ends nothing: without the state, a request changes nothing.
type comeback struct {
	host   string // 127.0.0.1:PORT
	state  broker.Secret
	take   func(code broker.Secret) error
	result chan error // one value, once

	mu   sync.Mutex
	used bool
}

func (b *comeback) redirectURI() string { return "http://" + b.host + redirectPath }

// ServeHTTP answers the browser.
func (b *comeback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Host != b.host: // a page of another name that resolves to this host
		page(w, http.StatusForbidden, "This is not an address of stsbroker.")
		return
	case r.URL.Path != redirectPath:
		page(w, http.StatusNotFound, "There is nothing here.")
		return
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		page(w, http.StatusMethodNotAllowed, "This page is for the end of a sign-in alone.")
		return
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(q["state"]) != 1 || subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(b.state.Reveal())) != 1 {
		page(w, http.StatusForbidden, "This page does not belong to a sign-in that was begun here. Nothing was changed.")
		return
	}
	b.mu.Lock()
	used := b.used
	b.used = true
	b.mu.Unlock()
	if used {
		page(w, http.StatusForbidden, "This sign-in is over.")
		return
	}
	err = b.finish(q)
	if err != nil {
		page(w, http.StatusBadRequest, "You are not signed in: "+err.Error()+".")
	} else {
		page(w, http.StatusOK, "You are signed in. You may close this tab.")
	}
	b.result <- err
}

// finish takes what the browser brings: a code, or why there is none.
func (b *comeback) finish(q url.Values) error {
	if q.Has("error") {
		why := printable.Text(q.Get("error"), 64)
		if words := printable.Text(q.Get("error_description"), maxWords); words != "" {
			why += ": " + words
		}
		if why == "access_denied" {
			return errRefusedThere
		}
		return errors.New("the browser came back with " + why)
	}
	if len(q["code"]) != 1 || !visible(q.Get("code")) {
		return errors.New("the browser came back without a code")
	}
	return b.take(broker.NewSecret(q.Get("code")))
}

// page writes a page of a title and one line of text.
func page(w http.ResponseWriter, status int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer") // the address has the code in it
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>stsbroker</title><h1>stsbroker</h1><p>`+html.EscapeString(text)+"</p></html>\n")
}
