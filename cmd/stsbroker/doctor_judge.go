package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/awsconfig"
	"github.com/stsbroker/stsbroker/broker/vault"
	"github.com/stsbroker/stsbroker/internal/awsini"
	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

// judge says what is wrong, and nothing else: a shell in which SDKs get what they
// should gives none. It looks at s alone.
func judge(s *surroundings) []complaint {
	d := diagnosis{surroundings: s}
	d.shadows()
	d.endpointURL()
	d.tokens()
	d.answers()
	d.proxies()
	d.regions()
	d.awsFiles()
	d.daemon()
	d.profiles()
	d.ownFiles()
	d.host()
	d.issuer()
	d.oldSDKs()
	return d.found
}

type diagnosis struct {
	*surroundings
	found []complaint
}

func (d *diagnosis) stops(id, do, what string, args ...any) { d.add(severityStops, id, do, what, args) }
func (d *diagnosis) risk(id, do, what string, args ...any)  { d.add(severityRisk, id, do, what, args) }
func (d *diagnosis) note(id, do, what string, args ...any)  { d.add(severityNote, id, do, what, args) }

func (d *diagnosis) add(severity, id, do, what string, args []any) {
	d.found = append(d.found, complaint{ID: id, Severity: severity, What: fmt.Sprintf(what, args...), Do: do})
}

// set are those of the variables that hold something.
func (s *surroundings) set(names ...string) []string {
	return slices.DeleteFunc(names, func(name string) bool { return s.env[name] == "" })
}

func (s *surroundings) unset(names ...string) string {
	if s.goos == "windows" {
		return "Remove-Item Env:" + strings.Join(names, ",Env:")
	}
	return "unset " + strings.Join(names, " ")
}

func (s *surroundings) export(pairs ...string) string {
	if s.goos == "windows" {
		for i, p := range pairs {
			name, value, _ := strings.Cut(p, "=")
			pairs[i] = "$Env:" + name + " = '" + powershellQuotes.Replace(value) + "'"
		}
		return strings.Join(pairs, "; ")
	}
	for i, p := range pairs {
		name, value, _ := strings.Cut(p, "=")
		pairs[i] = name + "=" + shQuote(value)
	}
	return "export " + strings.Join(pairs, " ")
}

// meant is the broker's profile that a program here would use, "" where nothing tells.
func (s *surroundings) meant() string { return cmp.Or(s.profile, s.led()) }

// led is the one that the environment leads to.
func (s *surroundings) led() string {
	switch {
	case s.door.Kind == "" || s.door.Profile != "":
		return s.door.Profile
	case s.door.Kind != doorIMDS:
		if t := s.ourToken(); t != nil && len(t.Profiles) > 0 {
			return t.Profiles[0]
		}
	case s.broker.Status != nil:
		for _, l := range s.broker.Status.IMDS {
			if asURL(l.URL).addr() == s.door.addr() {
				return l.Profile
			}
		}
	}
	return ""
}

// standing is how that profile stands, nil where the broker does not tell.
func (s *surroundings) standing() *control.Profile {
	if s.broker.Status == nil {
		return nil
	}
	for i, p := range s.broker.Status.Profiles {
		if p.Name == s.meant() {
			return &s.broker.Status.Profiles[i]
		}
	}
	return nil
}

// holds reports whether there are credentials that clients get whatever happens next.
func (s *surroundings) holds() bool {
	p := s.standing()
	return p != nil && p.Left > 60
}

// lead is the command that points this shell at the broker, by the door it is at now.
func (s *surroundings) lead() string {
	if s.broker.Status == nil && s.container != "" {
		return "in the container's definition, set AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:9170/v1/credentials and AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE to the broker's token file on a shared volume"
	}
	name := s.meant()
	if s.broker.Status != nil && name == "" { // any that can be served, before the default one
		for _, p := range s.broker.Status.Profiles {
			if p.Reason == "" && (name == "" || p.Name == awsini.DefaultProfile) {
				name = p.Name
			}
		}
	}
	profile := "PROFILE"
	if name != "" {
		profile = shQuote(name)
	}
	options := ""
	switch {
	case s.door.Kind == doorIMDS, s.door.Kind == doorECS, s.door.Kind == doorEKS:
		options = " --door " + s.door.Kind
	case s.door.Kind == doorContainer && s.env[varTokenFile] != "" && s.env[varToken] == "":
		options = " --token-file"
	}
	if s.goos == "windows" {
		return s.self + " env " + profile + options + " --shell powershell | Out-String | iex"
	}
	return `eval "$(` + s.self + " env " + profile + options + `)"`
}

// start and restart are the commands for the daemon.
func (s *surroundings) start() string {
	if s.unit != "" {
		return s.unit + "start stsbroker"
	}
	return s.self + " serve"
}

func (s *surroundings) restart() string {
	switch {
	case s.unit != "":
		return s.unit + "restart stsbroker"
	case s.broker.Status != nil && s.goos != "windows":
		return fmt.Sprintf("kill %d; %s serve", s.broker.Status.PID, s.self)
	}
	return "stop the broker (Ctrl-C where it runs); " + s.self + " serve"
}

// shadows are the sources that SDKs look at before the endpoint.
func (d *diagnosis) shadows() {
	if _, ok := d.env[varRelativeURI]; ok && d.door.Kind != doorECS {
		d.stops("relative-uri", d.unset(varRelativeURI), "%s is set%s: boto and the AWS CLI ask %s and not the broker",
			varRelativeURI, map[bool]string{true: ", though empty"}[d.env[varRelativeURI] == ""], ecsURL)
	}
	if d.door.Kind == "" {
		return
	}
	if keys := d.set("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"); len(keys) > 0 {
		d.stops("static-keys", d.unset(d.set("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")...),
			"%s set: SDKs take keys of the environment before they ask the broker", are(keys))
	}
	if names := d.set("AWS_PROFILE", "AWS_DEFAULT_PROFILE"); len(names) > 0 && d.env[names[0]] != awsini.DefaultProfile {
		// One that is there and holds no credentials is no matter: all SDKs go on to the endpoint.
		switch has, known := d.hasCredentials(d.env[names[0]]); {
		case has:
			d.stops("aws-profile", d.unset(names...), "%s set: SDKs take that profile's own credentials from the AWS files, and never ask the broker", are(names))
		case !known:
			d.stops("aws-profile", d.unset(names...), "%s set to a profile that the AWS files do not have: boto, Go and others fail before they ask the broker", are(names))
		}
	} else if d.aws.DefaultHasCredentials() {
		d.stops("default-profile", d.lead(), "the default profile in %s has credentials of its own, and most SDKs take those before they ask the broker", d.where(d.files.Config, d.files.Credentials))
	}
	if d.env["AWS_WEB_IDENTITY_TOKEN_FILE"] != "" {
		do := d.unset(d.set("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN")...)
		if _, pod := d.env["KUBERNETES_SERVICE_HOST"]; pod {
			do = "kubectl annotate serviceaccount NAME eks.amazonaws.com/role-arn- (it puts them into each new pod), or in the container's command: " + do
		}
		d.stops("web-identity", do, "AWS_WEB_IDENTITY_TOKEN_FILE is set: SDKs assume that role themselves before they ask the broker")
	}
}

func are(names []string) string {
	if len(names) == 1 {
		return names[0] + " is"
	}
	return strings.Join(names, " and ") + " are"
}

// hasCredentials reports whether the AWS files, as SDKs here find them, have credentials
// in the profile, and whether they have the profile at all.
func (s *surroundings) hasCredentials(name string) (has, known bool) {
	for _, p := range s.aws.Profiles {
		if p.Name == name {
			return true, true
		}
	}
	for _, p := range s.aws.Settings {
		if p.Name == name {
			return false, true
		}
	}
	return false, false
}

func (s *surroundings) where(paths ...string) string {
	return strings.Join(slices.DeleteFunc(paths, func(p string) bool { return p == "" }), " or ")
}

// byProcess reports whether SDKs here run stsbroker for the profile they use.
func (s *surroundings) byProcess() bool {
	name := cmp.Or(s.env["AWS_PROFILE"], s.env["AWS_DEFAULT_PROFILE"], awsini.DefaultProfile)
	return slices.ContainsFunc(s.aws.Profiles, func(p awsconfig.Profile) bool {
		return p.Name == name && p.Process != nil && strings.Contains(p.Process.Command, "credential-process")
	})
}

// byFile reports whether SDKs here read a file that the broker keeps.
func (s *surroundings) byFile() bool {
	return s.broker.Status != nil && slices.ContainsFunc(s.broker.Status.Files, func(f control.File) bool { return f.Path == s.files.Credentials })
}

// byAddress reports whether the broker is where SDKs look that know no variable.
func (s *surroundings) byAddress() bool {
	return s.broker.serves(netip.AddrPortFrom(ec2Address[0], 80))
}

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
	case e.Err != nil && d.broker.Status == nil && d.broker.Err == nil && !d.broker.Foreign:
		d.stops("no-daemon", d.start(), "nobody answers at %s, and no broker is running (nobody answers at %s%s)", w.shown(), d.broker.Path, d.left())
	case e.Err != nil:
		d.stops("endpoint-silent", d.lead(), "nobody answers at %s, which %s names; the broker is %s", w.shown(), w.Variable, d.elsewhere())
	case !e.Ours:
		d.stops("endpoint-foreign", d.find(w.addr(), e.Holder), "what answers at %s is not stsbroker%s", w.shown(), by(e.Holder))
	case w.Kind == doorIMDS && e.Status != 200:
		d.stops("imds-refused", "run the broker as this user: "+d.self+" serve", "the IMDS endpoint %s does not serve this user (uid %d): it serves the one who runs the broker", w.shown(), d.uid)
	case w.Kind == doorIMDS:
	case e.Code == broker.KindLocked.String(): // see profiles
		d.stops("custody-locked", d.self+" unlock", "the broker's custody is locked: it knows no token and no key until it is unlocked")
	case e.Status == 401 && !has:
		d.noToken()
	case e.Status == 401 && !hasBreak(token):
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
	case st == nil:
		return "another user's"
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
	if d.broker.Stale {
		return ", the socket of a broker that was killed; serve puts it away"
	}
	return ""
}

// proxies would be sent what is for the endpoint.
func (d *diagnosis) proxies() {
	w := d.door
	if w.URL == nil || w.URL.Scheme != "http" {
		return
	}
	at, host := w.addr().Addr(), w.URL.Hostname()
	loopback := at.IsLoopback()
	set := d.set("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
	lists := d.set("NO_PROXY", "no_proxy")
	uncovered := func(name string) bool { return !covers(d.env[name], host, w.Kind != doorIMDS) }
	if len(set) == 0 || len(lists) > 0 && !slices.ContainsFunc(lists, uncovered) {
		return
	}
	hosts := []string{host}
	if loopback || w.Kind == doorIMDS {
		hosts = append(hosts, "127.0.0.1", "localhost")
	}
	pairs := []string{"NO_PROXY=" + direct(cmp.Or(d.env["NO_PROXY"], d.env["no_proxy"]), hosts)}
	if d.env["no_proxy"] != "" {
		pairs = append(pairs, "no_proxy="+direct(d.env["no_proxy"], hosts))
	}
	what := "%s set, and NO_PROXY does not have %s"
	switch {
	case w.Kind == doorIMDS:
		d.stops("proxy", d.export(pairs...), what+": boto sends its calls of the IMDS endpoint to the proxy", are(set), host)
	case !loopback:
		d.stops("proxy", d.export(pairs...), what+": Go and others send their calls of the endpoint to the proxy, and the token with them", are(set), host)
	default:
		d.note("proxy", d.export(pairs...), what+": SDKs go round the proxy to loopback, but curl and other programs send it the call and the token", are(set), host)
	}
}

func (d *diagnosis) regions() {
	if d.door.Kind == "" || len(d.set("AWS_REGION", "AWS_DEFAULT_REGION")) > 0 || d.aws.DefaultRegion != "" {
		return
	}
	if name := cmp.Or(d.env["AWS_PROFILE"], d.env["AWS_DEFAULT_PROFILE"]); slices.ContainsFunc(d.aws.Settings, func(p awsconfig.Profile) bool { return p.Name == name && p.Region != "" }) {
		return
	}
	region := "REGION"
	if p := d.standing(); p != nil && p.Region != "" {
		region = p.Region
	}
	pairs := []string{"AWS_REGION=" + region, "AWS_DEFAULT_REGION=" + region}
	if d.door.container() && !strings.EqualFold(d.env[varNoIMDS], "true") {
		d.risk("region", d.export(append(pairs, varNoIMDS+"=true")...), "no region is set, nor is %s: AWS CLI v2 asks the instance metadata service for one and waits, and others fail without", varNoIMDS)
		return
	}
	d.note("region", d.export(pairs...), "no region is set: most calls fail without one, whatever the credentials")
}

func (d *diagnosis) awsFiles() {
	for _, name := range d.missing {
		d.risk("aws-file-missing", d.fromEnv(name), "%s names %s, which is not there: boto and others go on without, or fail where a profile is named", name, d.env[name])
	}
	if d.stale && len(d.missing) == 0 {
		d.risk("stale-copy", d.lead(), "AWS_CONFIG_FILE is a copy without credentials that env made, and %s has changed since", d.originals.Config)
	}
	if f := d.caBundle; f.Path != "" {
		switch {
		case f.Err != nil:
			d.stops("ca-bundle", d.unset("AWS_CA_BUNDLE"), "AWS_CA_BUNDLE names %s, which cannot be read (%s): SDKs and the broker fail on it", f.Path, reason(f.Err))
		case !certificates(f.Data):
			d.stops("ca-bundle", d.unset("AWS_CA_BUNDLE"), "AWS_CA_BUNDLE names %s, which holds no PEM certificate: SDKs and the broker fail on it", f.Path)
		}
	}
	if d.goos == "windows" {
		return
	}
	for _, f := range d.awsFile {
		if f.Err == nil && f.Mode.Perm()&0o006 != 0 && strings.Contains(string(f.Data), "aws_secret_access_key") {
			d.note("aws-file-mode", "chmod 600 "+shQuote(f.Path), "every user of this host can read the keys in %s", f.Path)
		}
	}
}

// fromEnv mends a variable that env sets, or that somebody else did.
func (d *diagnosis) fromEnv(name string) string {
	if strings.Contains(d.env[name], "/aws-") && strings.Contains(d.env[name], "stsbroker") {
		return d.lead()
	}
	return d.unset(name)
}

func reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return err.Error()
}

func (d *diagnosis) daemon() {
	st := d.broker.Status
	switch {
	case st != nil:
	case d.endpoint.Ours: // beside this one, in a container of its own
	case d.broker.Err != nil:
		d.stops("daemon-error", d.restart(), "the broker at %s gives no status: %v", d.broker.Path, d.broker.Err)
	case d.broker.Foreign:
		d.stops("daemon-foreign", d.self+" serve", "the broker at %s is another user's, and does not let uid %d in", d.broker.Path, d.uid)
	case slices.ContainsFunc(d.found, func(c complaint) bool { return c.ID == "no-daemon" }):
	case d.byProcess():
		d.note("no-daemon", d.start(), "no broker is running (nobody answers at %s%s): each program that runs credential-process mints for itself", d.broker.Path, d.left())
	default:
		d.stops("no-daemon", d.start(), "no broker is running (nobody answers at %s%s)", d.broker.Path, d.left())
	}
	for _, p := range d.taken {
		switch {
		case d.endpoint.Ours || strings.HasPrefix(p.Holder, "process 1 "): // the broker in a container of its own, and systemd, which keeps the port for it
		case p.Broker:
			d.stops("port-taken", d.find(p.Address, p.Holder), "a broker has %s%s, and its control socket is not %s: name it with --socket, or end that broker", p.Address, by(p.Holder), d.broker.Path)
		default:
			d.stops("port-taken", d.find(p.Address, p.Holder), "the broker cannot start: %s is taken%s", p.Address, by(p.Holder))
		}
	}
	if st == nil {
		return
	}
	if st.Version != d.version {
		d.risk("version", d.restart(), "the broker that runs (process %d) is version %s, and this is %s", st.PID, st.Version, d.version)
	}
	if st.Custody == vault.Locked.String() && !slices.ContainsFunc(d.found, func(c complaint) bool { return c.ID == "custody-locked" }) {
		why := ""
		if st.Problem != "" {
			why = " (" + st.Problem + ")"
		}
		d.risk("custody-locked", d.self+" unlock", "custody is locked%s: what needs a key of it is not renewed", why)
	}
	if st.Sealed != nil && st.Sealed.SameDisk {
		d.note("identity-same-disk", "keep it elsewhere: mv "+shQuote(st.Sealed.Identity)+" /path/on/another/disk, set "+varIdentityFile+" to that, then: "+d.restart(),
			"the identity %s is on the disk of what it opens: who has the disk has both", st.Sealed.Identity)
	}
	if st.Sealed != nil && st.Sealed.Error != "" {
		d.risk("unsaved", "df "+shQuote(st.Sealed.File)+" (is there room?), then: "+d.self+" status", "the broker cannot save what it holds, and a restart would mint anew: %s", st.Sealed.Error)
	}
	if st.Failed != "" && !hasErrors(d.findings) { // those are told of below
		d.risk("reload-failed", d.self+" check (shows the place), then: "+d.self+" reload", "the broker goes on with the configuration of %s: the one since then has a fault: %s", st.Loaded.Local().Format(time.DateTime), st.Failed)
	}
	if only := slices.DeleteFunc(slices.Clone(st.Changed), func(name string) bool {
		_, here := d.env[name]
		return here || name == varIdentityFile || name == "STSBROKER_CONFIG"
	}); len(only) > 0 {
		d.note("environment", d.withoutVariables(only), "the environment that the broker was started in has %s, and this one has not: it sees other files, endpoints or proxies than you", strings.Join(only, ", "))
	}
	if p := d.standing(); p != nil && p.Failures > 0 || len(st.Lame) > 0 {
		if only := slices.DeleteFunc(d.set("HTTPS_PROXY", "https_proxy", "AWS_CA_BUNDLE", varEndpointURL), func(name string) bool { return slices.Contains(st.Changed, name) }); len(only) > 0 {
			d.risk("environment-late", d.restartWith(only), "%s set here, and the broker was started without: it does not reach STS as this shell does", are(only))
		}
	}
}

func (d *diagnosis) withoutVariables(names []string) string {
	if d.unit != "" {
		return d.unit + "unset-environment " + strings.Join(names, " ") + " && " + d.restart()
	}
	return fmt.Sprintf("kill %d; env -u %s %s serve", d.broker.Status.PID, strings.Join(names, " -u "), d.self)
}

func (d *diagnosis) restartWith(names []string) string {
	if strings.Contains(d.unit, "--user") {
		return d.unit + "import-environment " + strings.Join(names, " ") + " && " + d.restart()
	}
	return d.restart()
}

func (d *diagnosis) profiles() {
	st, name := d.broker.Status, d.meant()
	if st == nil || name == "" {
		return
	}
	p := d.standing()
	if p == nil {
		d.stops("profile-unknown", d.self+" status (lists them; after a change: "+d.self+" reload)", "the broker has no profile %s", name)
		return
	}
	word := shQuote(name)
	switch broker.State(p.State) {
	case broker.StateUnservable:
		d.stops("profile-unservable", d.self+" check (shows the place), then: "+d.self+" reload", "profile %s cannot be served: %s", name, shortReason(name, p.Reason))
	case broker.StateLogin:
		if p.Left > 60 {
			d.risk("login-needed", d.self+" login "+word, "profile %s needs a login before its credentials end, in %s", name, span(seconds(p.Left)))
		} else {
			d.stops("login-needed", d.self+" login "+word, "profile %s waits for a login", name)
		}
	case broker.StateError:
		d.stops("profile-error", d.self+" refresh "+word+" (tries again)", "profile %s has no credentials: %s", name, p.LastError)
	case broker.StateFailing:
		d.risk("profile-failing", d.self+" refresh "+word+" (tries again)", "profile %s is not renewed, and ends in %s: %s", name, span(seconds(p.Left)), p.LastError)
	}
}

// ownFiles are those without which serve does not start.
func (d *diagnosis) ownFiles() {
	raise := d.stops
	if d.broker.Status != nil || d.endpoint.Ours { // it runs; the next start would fail
		raise = d.risk
	}
	for _, f := range d.findings {
		if f.Severity != SeverityError {
			continue
		}
		if _, do, ok := strings.Cut(f.Text, "; run: "); ok {
			raise("config-mode", do, "%s", strings.TrimSuffix(f.String(), "; run: "+do))
		} else {
			raise("config", d.self+" check", "stsbroker.yaml stops the start: %s", f)
		}
		break // check shows them all
	}
	if d.goos == "windows" {
		return
	}
	if d.state.there() && d.state.Err == nil && d.state.Mode.Perm()&0o077 != 0 {
		raise("state-mode", "chmod 700 "+shQuote(d.state.Path), "the state folder %s has mode %#o: others may reach it, and the broker does not start", d.state.Path, d.state.Mode.Perm())
	}
	switch f := d.identity; {
	case f.Path == "" || !f.there():
	case f.Err != nil:
		raise("identity", "sudo chown "+fmt.Sprint(d.uid)+" "+shQuote(f.Path), "the identity %s cannot be looked at: %s", f.Path, reason(f.Err))
	case f.Mode.Perm()&0o077 != 0:
		raise("identity", "chmod 600 "+shQuote(f.Path), "the identity %s has mode %#o: others may reach it, and the broker does not take it", f.Path, f.Mode.Perm())
	}
}

func (d *diagnosis) host() {
	var asked []netip.Addr
	for _, address := range d.listen.addresses() {
		ap, err := netip.ParseAddrPort(address)
		if err != nil || !listen.LinkLocal(ap.Addr()) || slices.Contains(d.addresses, ap.Addr()) || slices.Contains(asked, ap.Addr()) {
			continue
		}
		asked = append(asked, ap.Addr())
		d.stops("link-local", addAddress(d.goos, ap.Addr()), "stsbroker.yaml listens on %s, which is no address of this host", ap)
	}
	if len(d.routed) > 0 {
		var settings []string
		for _, name := range d.routed {
			settings = append(settings, "net.ipv4.conf."+name+".route_localnet=0")
		}
		d.note("route-localnet", "sudo sysctl -w "+strings.Join(settings, " "), "route_localnet is 1 for %s: neighbours' packets reach 127.0.0.1 (the broker turns them away)", strings.Join(d.routed, ", "))
	}
	if d.peer != nil && d.goos == "linux" && (len(d.listen.IMDS) > 0 || d.door.Kind == doorIMDS) {
		d.stops("peer-unknown", `eval "$(`+d.self+` env PROFILE)" (the container endpoint needs no such word), and remove listen.imds`, "the kernel does not tell here which user connects, so that no IMDS endpoint can be served: %v", d.peer)
	}
	if d.uid == overflowUser && d.goos == "linux" {
		d.stops("nobody", "run it as an ordinary user; in a systemd unit: systemctl edit stsbroker, [Service] PrivateUsers=no", "this process is uid %d, which also stands for users without a number (as under PrivateUsers=yes): the broker refuses it", d.uid)
	}
}

// overflowUser is whom Linux shows for a user without a number here: see
// internal/peer.
const overflowUser = 65534

// addAddress is the command that puts a link-local address on the loopback interface.
func addAddress(goos string, a netip.Addr) string {
	alone := netip.PrefixFrom(a, a.BitLen())
	switch {
	case goos == "linux":
		return fmt.Sprintf("sudo ip addr add %s dev lo", alone)
	case goos == "windows" && a.Is4():
		return fmt.Sprintf(`netsh interface ipv4 add address "Loopback Pseudo-Interface 1" %s`, alone)
	case goos == "windows":
		return fmt.Sprintf(`netsh interface ipv6 add address "Loopback Pseudo-Interface 1" %s`, alone)
	case a.Is4():
		return fmt.Sprintf("sudo ifconfig lo0 alias %s", alone)
	}
	return fmt.Sprintf("sudo ifconfig lo0 inet6 %s alias", alone)
}

// A clock that is further off than this is told of, and one that is further off than
// STS allows stops everything.
const (
	clockDrift = 4 * time.Minute
	clockLimit = 15 * time.Minute
)

// issuer is what stands between the broker and STS, as seen from here.
func (d *diagnosis) issuer() {
	t := d.sts
	if t.Timed && t.Skew.Abs() > clockDrift {
		raise, way := d.risk, "ahead of"
		if t.Skew.Abs() > clockLimit {
			raise = d.stops
		}
		if t.Skew < 0 {
			way = "behind"
		}
		raise("clock", setClock(d.goos), "this host's clock is %s %s that of STS: signatures are refused from 15m on, and SDKs take credentials for ended, or too long for good", span(t.Skew.Abs()), way)
	}
	raise := d.stops
	if d.holds() || d.endpoint.Ours && d.broker.Status == nil {
		raise = d.risk // what is held is served meanwhile, or the broker has another way
	}
	proxied := "export HTTPS_PROXY=http://HOST:PORT, then: " + d.restart()
	through := "unset HTTPS_PROXY https_proxy (or name a proxy that works), then: " + d.restart()
	switch t.Kind {
	case stsDNS:
		raise("sts-dns", d.resolve(t.Host)+" (prints an address once name service works)", "the name %s cannot be resolved: %s", t.Host, t.Detail)
	case stsRefused:
		raise("sts-tcp", proxied+" (or open the firewall to "+t.Host+")", "%s refuses the connection", t.Host)
	case stsSilent:
		raise("sts-tcp", proxied+" (or open the firewall to "+t.Host+")", "%s does not answer: no connection within 3 s", t.Host)
	case stsNoRoute:
		raise("sts-tcp", "ip route (is there a default one?)", "there is no route to %s", t.Host)
	case stsAuthority:
		by := ""
		if t.Detail != "" {
			by = " by " + t.Detail
		}
		raise("sts-tls-authority", "export AWS_CA_BUNDLE=/path/to/your/ca.pem, then: "+d.restart(), "the certificate of %s is signed%s, whom this host does not trust: a proxy that reads TLS, or a private endpoint", t.Host, by)
	case stsExpired:
		raise("sts-tls-expired", "date -u (is the clock right? "+setClock(d.goos)+"); else have the certificate renewed", "the certificate of %s has ended on %s", t.Host, t.Detail)
	case stsNotYet:
		raise("sts-tls-expired", setClock(d.goos), "the certificate of %s begins on %s, so that this host's clock is behind", t.Host, t.Detail)
	case stsName:
		raise("sts-tls-name", d.resolve(t.Host)+" (is that address the endpoint's? mend sts.endpoints or "+varEndpointURL+")", "what answers as %s has a certificate for another name", t.Host)
	case stsTLS:
		raise("sts-tls", "openssl s_client -connect "+withPort(t.Host)+" </dev/null", "no TLS connection to %s: %s", t.Host, t.Detail)
	case stsProxyDown:
		raise("sts-proxy", through, "the proxy %s cannot be reached: %s", t.Proxy, t.Detail)
	case stsProxyLogin:
		raise("sts-proxy-login", "export HTTPS_PROXY=http://USER:PASSWORD@"+t.Proxy+", then: "+d.restart(), "the proxy %s wants a user and password (HTTP 407)", t.Proxy)
	case stsProxyNo:
		raise("sts-proxy-refuses", "export NO_PROXY="+direct(d.env["NO_PROXY"], []string{hostOf("https://" + t.Host)})+" (or have the proxy let it through), then: "+d.restart(), "the proxy %s does not connect to %s: %s", t.Proxy, t.Host, t.Detail)
	case stsProxyURL:
		raise("sts-proxy", through, "HTTPS_PROXY is no URL of a proxy")
	case stsMute:
		raise("sts-silent", "curl -sv -m 5 https://"+t.Host+"/", "%s takes the connection and does not answer", t.Host)
	case stsFailing:
		raise("sts-failing", d.self+" doctor (again in a minute; sts.fallback_regions in stsbroker.yaml names regions that stand in)", "STS at %s fails: %s", t.Host, t.Detail)
	case stsForeign:
		raise("sts-foreign", "curl -sv https://"+t.Host+"/ (a sign-in page of the network?)", "what answers as %s is not STS: %s", t.Host, t.Detail)
	case stsFailed:
		raise("sts-failed", d.self+" check", "STS at %s cannot be asked: %s", cmp.Or(t.Host, "the configured endpoint"), t.Detail)
	}
}

func (d *diagnosis) resolve(host string) string {
	name := hostOf("https://" + host)
	if d.goos == "linux" {
		return "getent hosts " + name
	}
	return "nslookup " + name
}

func withPort(host string) string {
	u := asURL("https://" + host)
	if u.URL == nil || u.URL.Port() != "" {
		return host
	}
	return host + ":443"
}

func setClock(goos string) string {
	switch goos {
	case "windows":
		return "w32tm /resync"
	case "darwin":
		return "sudo sntp -sS time.apple.com"
	}
	return "sudo timedatectl set-ntp true"
}

// oldSDKs are those that do not read the file which holds the token here.
func (d *diagnosis) oldSDKs() {
	if !d.door.container() || d.env[varTokenFile] == "" || d.env[varToken] != "" {
		return
	}
	for _, k := range d.sdks {
		if k.old() {
			d.risk("old-sdk", k.Upgrade+" (or lead it by the token itself: env without --token-file)", "%s %s (%s) does not read %s, which it does from %s on", k.Name, k.Version, k.Path, varTokenFile, k.Since)
		}
	}
}
