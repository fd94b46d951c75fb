package ssofake

import (
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// ticket is an authorize page that somebody has open.
type ticket struct {
	client                     *client
	redirect, state, challenge string
	scopes                     []string
}

// authorizePage asks for consent, and sends the browser back with a code.
func (s *Server) authorizePage(q *request, w http.ResponseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.Method == http.MethodPost {
		form, _ := url.ParseQuery(string(q.body))
		back, err := s.decide(q.now, form.Get("ticket"), form.Get("decision"))
		if err != nil {
			show(w, http.StatusBadRequest, err.Error(), "")
			return
		}
		w.Header().Set("Location", back)
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	id, err := s.openTicket(q.now, q.URL.Query())
	if err != nil {
		q.call.Code = "invalid_request"
		show(w, http.StatusBadRequest, err.Error(), "")
		return
	}
	show(w, http.StatusOK, "Allow stsbroker to access your accounts?", fmt.Sprintf(
		`<form method="post" action="/authorize"><input type="hidden" name="ticket" value="%s">`+buttons+`</form>`, id))
}

const buttons = `<button id="allow" name="decision" value="allow">Allow access</button> <button id="deny" name="decision" value="deny">Deny</button>`

// openTicket checks what the browser was sent with.
func (s *Server) openTicket(now time.Time, query url.Values) (id string, err error) {
	for name, values := range query {
		known := map[string]bool{"response_type": true, "client_id": true, "redirect_uri": true, "state": true, "code_challenge_method": true, "code_challenge": true, "scopes": true}
		if !known[name] || len(values) != 1 {
			return "", fmt.Errorf("parameter %s: known are, once each, %s", name, keysOf(known))
		}
	}
	c := s.clients[query.Get("client_id")]
	scopes := strings.Fields(query.Get("scopes"))
	switch {
	case c == nil || !now.Before(c.expires):
		return "", errors.New("client_id is not known")
	case !slices.Contains(c.grants, GrantCode) || query.Get("response_type") != "code":
		return "", errors.New("response_type is not what the client was registered for")
	case !c.redirectsTo(query.Get("redirect_uri")):
		return "", errors.New("redirect_uri is not what the client was registered for")
	case query.Get("state") == "":
		return "", errors.New("state is required")
	case query.Get("code_challenge_method") != "S256" || len(query.Get("code_challenge")) != 43:
		return "", errors.New("code_challenge is required, by S256")
	case len(scopes) == 0 || slices.ContainsFunc(scopes, func(x string) bool { return !slices.Contains(c.scopes, x) }):
		return "", errors.New("scopes are not what the client was registered for")
	}
	id = random()
	s.tickets[id] = &ticket{c, query.Get("redirect_uri"), query.Get("state"), query.Get("code_challenge"), scopes}
	return id, nil
}

// decide is a person's click. It gives the address that the browser goes to.
func (s *Server) decide(now time.Time, id, decision string) (back string, err error) {
	t := s.tickets[id]
	if t == nil {
		return "", errors.New("this page is over")
	}
	delete(s.tickets, id)
	query := url.Values{"state": {t.state}}
	if decision == "allow" {
		code := "code-" + random()
		s.codes[code] = &grant{
			client: t.client, challenge: t.challenge, redirect: t.redirect, scopes: t.scopes,
			expires: now.Add(life(s.lives.Code, 10*time.Minute)), session: s.consented(now),
		}
		query.Set("code", code)
	} else {
		query.Set("error", "access_denied")
	}
	return t.redirect + "?" + query.Encode(), nil
}

// devicePage asks for consent to what another device shows the code of.
func (s *Server) devicePage(q *request, w http.ResponseWriter) {
	if q.Method == http.MethodPost {
		form, _ := url.ParseQuery(string(q.body))
		if err := s.decideDevice(form.Get("user_code"), form.Get("decision") == "allow"); err != nil {
			show(w, http.StatusBadRequest, err.Error(), "")
			return
		}
		show(w, http.StatusOK, "Request approved. You can close this window.", "")
		return
	}
	show(w, http.StatusOK, "Does your device show this code?", fmt.Sprintf(
		`<form method="post" action="/device"><input name="user_code" value="%s">`+buttons+`</form>`, html.EscapeString(q.URL.Query().Get("user_code"))))
}

func (s *Server) decideDevice(user string, allow bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, d := range s.devices {
		if d.user != user || d.session != nil || d.denied || !now.Before(d.expires) {
			continue
		}
		if d.denied = !allow; allow {
			d.session = s.consented(now)
		}
		return nil
	}
	return errors.New("the code is not known, or over")
}

// Visit is a person who opens the address of a sign-in and clicks on Allow or Deny. For
// a sign-in in this machine's browser it returns the address that the browser is sent
// back to; whoever calls has to open that.
func (s *Server) Visit(address string, allow bool) (back string, err error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	if u.Path == "/device" {
		return "", s.decideDevice(u.Query().Get("user_code"), allow)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := s.openTicket(time.Now(), u.Query())
	if err != nil {
		return "", err
	}
	decision := "deny"
	if allow {
		decision = "allow"
	}
	return s.decide(time.Now(), id, decision)
}

func show(w http.ResponseWriter, status int, text, form string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Sign in</title><p id="text">`+html.EscapeString(text)+"</p>"+form+"</html>\n")
}
