package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/vault"
	"github.com/stsbroker/stsbroker/metadata/listen"
)

func (d *diagnosis) daemon() {
	st := d.broker.Status
	switch {
	case st != nil:
	case d.endpoint.Ours: // beside this one, in a container of its own
	case d.broker.Err != nil:
		d.stops("daemon-error", d.restart(), "the broker at %s gives no status: %v", d.broker.Path, d.broker.Err)
	case d.broker.Silent:
		d.stops("daemon-silent", d.log(), "the broker at %s does not answer: it cannot start, and systemd holds its sockets meanwhile, or it hangs", d.broker.Path)
	case d.broker.Foreign && d.broker.System:
		d.stops("daemon-foreign", d.grant()+" (with a port of its own in listen.container)", "the broker at %s is another user's, and gives uid %d nothing", d.broker.Path, d.uid)
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
		do := d.check() + " (shows the place), then: " + d.self + " reload"
		if at, ok := takenAddress(st.Failed); ok { // which check does not look at
			do = findListener(d.goos, at.Port()) + " (names who has the port), then: " + d.self + " reload"
		}
		d.risk("reload-failed", do, "the broker goes on with the configuration of %s: the one since then has a fault: %s", st.Loaded.Local().Format(time.DateTime), st.Failed)
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

// log is the command that shows why a broker does not answer.
func (d *diagnosis) log() string {
	switch {
	case strings.Contains(d.unit, "--user"):
		return "journalctl --user -u stsbroker -n 20"
	case d.unit != "" && d.uid == 0:
		return "journalctl -u stsbroker -n 20"
	case d.unit != "":
		return "sudo journalctl -u stsbroker -n 20"
	}
	return d.restart()
}

// takenAddress is the one that a reload failed on because another program has its port,
// in the words of package listen.
func takenAddress(text string) (netip.AddrPort, bool) {
	if !strings.Contains(text, " is taken by ") {
		return netip.AddrPort{}, false
	}
	for _, word := range strings.Fields(text) {
		if ap, err := netip.ParseAddrPort(strings.TrimRight(word, ":;,.")); err == nil {
			return ap, true
		}
	}
	return netip.AddrPort{}, false
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
		d.stops("profile-unservable", d.check()+" (shows the place), then: "+d.self+" reload", "profile %s cannot be served: %s", name, shortReason(name, p.Reason))
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
			raise("config", d.check(), "stsbroker.yaml stops the start: %s", f)
		}
		break // check shows them all
	}
	if d.goos == "windows" || d.broker.System {
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
	if goos == "windows" {
		return listen.AddAddress(goos, a)
	}
	return "sudo " + listen.AddAddress(goos, a)
}
