package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/awsini"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

func (d *diagnosis) endpointURL() {
	switch w := d.door; {
	case w.Kind == "":
		if d.byProcess() || d.byFile() || d.byAddress() {
			return
		}
		what := "and find nothing in the AWS files either"
		if keys := d.set("AWS_ACCESS_KEY_ID"); len(keys) > 0 {
			what = "and take AWS_ACCESS_KEY_ID"
		} else if has, _ := d.hasCredentials(cmp.Or(d.env["AWS_PROFILE"], d.env["AWS_DEFAULT_PROFILE"], awsini.DefaultProfile)); has || d.aws.DefaultHasCredentials() {
			what = "and take what the AWS files have"
		}
		d.stops("no-endpoint", d.lead(), "nothing in this environment leads to the broker: SDKs do not ask it, %s", what)
		return
	case w.Problem != nil:
		d.stops("endpoint-url", d.lead(), "%s %s: SDKs refuse it", w.Variable, w.Problem)
		return
	case !w.allowed():
		d.stops("endpoint-host", d.lead(), "%s is plain http to %s: SDKs take that from 127.0.0.1 and AWS's own link-local addresses alone", w.Variable, w.URL.Host)
		return
	case w.container() && (strings.EqualFold(w.URL.Hostname(), "localhost") || w.addr().Addr() == netip.IPv6Loopback()):
		d.risk("endpoint-form", d.lead(), "%s has %s: http://127.0.0.1:PORT is the one form that every SDK takes", w.Variable, w.URL.Host)
	case w.Kind == doorIMDS && w.URL.Path != "":
		d.risk("endpoint-path", d.export(varIMDS+"="+strings.TrimSuffix(w.shown(), w.URL.EscapedPath())), "%s has a path or a slash at its end: Go and JavaScript drop it, Java and C++ put theirs behind it", w.Variable)
	}
	if d.door.Kind == doorIMDS {
		switch v := d.env[varNoIMDS]; {
		case strings.EqualFold(v, "true"):
			d.stops("imds-disabled", d.unset(varNoIMDS), "%s is true: SDKs do not ask the IMDS endpoint", varNoIMDS)
		case v != "":
			d.risk("imds-disabled", d.unset(varNoIMDS), "%s is set: JavaScript v2 takes any value for true", varNoIMDS)
		}
	}
	at := d.door.addr().Addr()
	if !listen.LinkLocal(at) || slices.Contains(d.addresses, at) || slices.ContainsFunc(d.listen.addresses(), d.of(at)) { // those are judged in host
		return
	}
	if d.broker.Status != nil {
		d.stops("link-local", addAddress(d.goos, at), "%s leads to %s, which is no address of this host", d.door.Variable, at)
		return
	}
	d.risk("endpoint-elsewhere", d.lead(), "%s leads to %s, which is no address of this host: AWS's own agent answers there, or nobody", d.door.Variable, at)
}

func (d *diagnosis) of(at netip.Addr) func(string) bool {
	return func(address string) bool {
		ap, err := netip.ParseAddrPort(address)
		return err == nil && ap.Addr() == at
	}
}

// tokens are what is wrong with the token before anybody sees it.
func (d *diagnosis) tokens() {
	if !d.door.container() {
		return
	}
	value, file := d.env[varToken], d.tokenFile
	if value != "" && file.Path != "" {
		d.risk("token-twice", d.unset(varTokenFile), "%s and %s are both set: SDKs differ on which wins", varToken, varTokenFile)
	}
	if value != "" && hasBreak(value) {
		d.stops("token-shape", d.lead(), "%s has a space, a newline or another character that no header may have: SDKs fail on it", varToken)
	}
	if file.Path == "" {
		return
	}
	raise := d.stops
	if value != "" { // some SDKs look at the variable first
		raise = d.risk
	}
	switch text := string(file.Data); {
	case errors.Is(file.Err, fs.ErrNotExist):
		raise("token-file-missing", d.lead(), "%s names %s, which is not there (env's files go when the broker stops)", varTokenFile, file.Path)
	case errors.Is(file.Err, fs.ErrPermission):
		raise("token-file-unreadable", fmt.Sprintf("sudo chown %d %s", d.uid, shQuote(file.Path)), "the token file %s cannot be read by uid %d", file.Path, d.uid)
	case file.Err != nil:
		raise("token-file-unreadable", d.lead(), "the token file %s cannot be read: %v", file.Path, file.Err)
	case text == "":
		raise("token-file-empty", d.lead(), "the token file %s is empty", file.Path)
	case strings.TrimRight(text, "\r\n") != text && !hasBreak(strings.TrimRight(text, "\r\n")):
		raise("token-file-newline", fmt.Sprintf(`t=$(cat %s) && printf %%s "$t" >%s`, shQuote(file.Path), shQuote(file.Path)),
			"the token file %s ends with a newline: boto, Go, JavaScript v3, Rust and minio-go send it, and fail", file.Path)
	case hasBreak(text):
		raise("token-file-shape", d.lead(), "the token file %s holds more than a token: a space, a newline or another character that no header may have", file.Path)
	}
	if file.Err == nil && file.Mode.Perm()&0o006 != 0 && d.goos != "windows" && d.container == "" { // on a pod's volume others may have to
		d.note("token-file-mode", "chmod 600 "+shQuote(file.Path), "every user of this host can read the token in %s", file.Path)
	}
}

// answers are what the endpoint said.
func (d *diagnosis) answers() {
	e, w := d.endpoint, d.door
	t := d.ourToken()
	token, has := d.token()
	unknown := func() {
		d.stops("token-unknown", d.lead(), "the broker does not know the token of this environment: it was revoked, has ended, or is another broker's")
	}
	switch {
	case w.URL == nil:
	case !e.Asked:
		if w.container() && has && !hasBreak(strings.TrimRight(token, "\r\n")) && d.broker.Tokens != nil && d.broker.serves(w.addr()) && t == nil {
			unknown()
		}
	case e.Err != nil && (d.broker.Silent || d.broker.Foreign || d.broker.Err != nil): // see daemon
	case e.Err != nil && d.broker.Status == nil:
		d.stops("no-daemon", d.start(), "nobody answers at %s, and no broker is running (nobody answers at %s%s)", w.shown(), d.broker.Path, d.left())
	case e.Err != nil:
		d.stops("endpoint-silent", d.lead(), "nobody answers at %s, which %s names; the broker is %s", w.shown(), w.Variable, d.elsewhere())
	case !e.Ours:
		d.stops("endpoint-foreign", d.find(w.addr(), e.Holder), "what answers at %s is not stsbroker%s", w.shown(), by(e.Holder))
	case w.container() && d.broker.Status != nil && !d.broker.serves(w.addr()):
		d.stops("endpoint-foreign", d.lead(), "a broker answers at %s%s, and not the one of %s: the token was not shown to it", w.shown(), by(e.Holder), d.broker.Path)
	case w.Kind == doorIMDS && e.Status != 200:
		d.stops("imds-refused", d.grant(), "the IMDS endpoint %s does not serve this user (uid %d): it serves the one who runs the broker, and whom a rule of access gives its profile", w.shown(), d.uid)
	case w.Kind == doorIMDS:
	case e.Code == broker.KindLocked.String(): // see profiles
		d.stops("custody-locked", d.self+" unlock", "the broker's custody is locked: it knows no token and no key until it is unlocked")
	case e.Status == 401 && !has:
		d.noToken()
	case e.Status == 401 && e.Shown:
		unknown()
	case e.Status == 403 && !strings.HasPrefix(e.Message, "nothing is here"):
		d.stops("token-refused", d.lead(), "the broker refuses the token: %s", cmp.Or(e.Message, e.Code))
	}
	if w.container() && !e.Asked && !has && d.tokenFile.Path == "" && w.Kind != doorECS {
		d.noToken()
	}
	if t != nil && w.Profile != "" && !slices.Contains(t.Profiles, w.Profile) {
		d.stops("token-profile", d.lead(), "the token is good for %s, and %s asks for %s", strings.Join(t.Profiles, ", "), w.Variable, w.Profile)
	}
	if from := d.led(); d.profile != "" && from != "" && from != d.profile {
		d.stops("profile-other", d.lead(), "this environment leads to profile %s, not to %s", from, d.profile)
	}
}

// grant is what gives this user the profile of an IMDS endpoint.
func (d *diagnosis) grant() string {
	own := "run a broker of your own: " + d.self + " serve"
	if d.uid == 0 || d.uid == overflowUser { // who can have no rule
		return own + " (as an ordinary user)"
	}
	return fmt.Sprintf("have { uid: %d, profiles: [%s] } added under access in its stsbroker.yaml, then: %s reload; or %s", d.uid, cmp.Or(d.led(), "PROFILE"), d.self, own)
}

func (d *diagnosis) noToken() {
	if d.tokenFile.Path != "" { // judged already
		return
	}
	if d.container != "" {
		d.stops("no-token", d.lead(), "in %s, %s is set and neither %s nor %s is: the broker refuses who shows no token", d.container, d.door.Variable, varTokenFile, varToken)
		return
	}
	d.stops("no-token", d.lead(), "neither %s nor %s is set: the broker refuses who shows no token", varToken, varTokenFile)
}

func (d *diagnosis) elsewhere() string {
	switch st := d.broker.Status; {
	case d.door.Kind == doorIMDS && len(st.IMDS) > 0:
		return "at " + st.IMDS[0].URL
	case len(st.Container) > 0:
		return "at " + strings.Join(st.Container, " and ")
	}
	return "at no address"
}

func by(holder string) string {
	if holder == "" {
		return ""
	}
	return ": it is " + holder
}

func (d *diagnosis) find(at netip.AddrPort, holder string) string {
	if pid, ok := strings.CutPrefix(holder, "process "); ok && d.goos != "windows" {
		pid, _, _ = strings.Cut(pid, " ")
		return "kill " + pid + " (if it may go), then: " + d.start()
	}
	return findListener(d.goos, at.Port()) + " (names it)"
}

// left is for a socket that was left behind.
func (d *diagnosis) left() string {
	switch {
	case d.broker.InWay:
		return ", which is no socket: serve does not start while it is in the way"
	case d.broker.Stale:
		return ", the socket of a broker that was killed; serve puts it away"
	}
	return ""
}
