package main

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/awsconfig"
	"github.com/stsbroker/stsbroker/internal/control"
)

// surroundings are what doctor saw. They are data: what it means is for judge to say,
// which looks at nothing else.
type surroundings struct {
	goos    string
	uid     int
	version string // of this program
	self    string // how a person calls this program
	unit    string // how systemctl is called for a systemd unit that is there; "" for none

	env     map[string]string // all of it, as an SDK in this shell has it
	profile string            // --profile
	door    way

	tokenFile fileSeen
	caBundle  fileSeen
	identity  fileSeen
	state     fileSeen
	config    fileSeen // stsbroker.yaml, of the broker where that tells; Path "" for none
	usual     string   // the one that this user's commands read by themselves

	files     awsconfig.Files // as SDKs here find them
	originals awsconfig.Files // what those were copied from, or the same
	aws       *awsconfig.Config
	awsFile   [2]fileSeen // config and credentials of originals
	missing   []string    // variables that name an AWS file that is not there
	stale     bool        // the files are a copy of ours, and its original has changed

	findings []Finding // of stsbroker.yaml
	settings *Config   // what it says; nil where it has errors, or is not for this user to read
	listen   ListenConfig

	broker   brokerSeen
	endpoint doorSeen
	taken    []portSeen
	sts      stsSeen

	addresses []netip.Addr // of this host
	routed    []string     // interfaces with route_localnet=1
	container string       // what runs this, in words; "" for a host
	peer      error        // why the kernel does not tell who connects
	sdks      []sdkSeen

	notLooked []string // with the reason
}

func (s *surroundings) lookup(name string) (string, bool) {
	v, ok := s.env[name]
	return v, ok
}

// fileSeen is a file as this user sees it.
type fileSeen struct {
	Path string
	Err  error
	Mode fs.FileMode
	Data []byte // of the few whose content matters
}

func see(path string, most int64) fileSeen {
	f := fileSeen{Path: path}
	if path == "" {
		return f
	}
	info, err := os.Stat(path)
	if err != nil {
		f.Err = err
		return f
	}
	f.Mode = info.Mode()
	if most == 0 {
		return f
	}
	if !info.Mode().IsRegular() { // a pipe would wait for its writer
		f.Err = errors.New("not a regular file")
		return f
	}
	file, err := os.Open(path)
	if err != nil {
		f.Err = err
		return f
	}
	defer file.Close()
	f.Data, f.Err = io.ReadAll(io.LimitReader(file, most))
	return f
}

// there reports whether the file was named and is there.
func (f fileSeen) there() bool { return f.Path != "" && !errors.Is(f.Err, fs.ErrNotExist) }

// brokerSeen is the daemon at the control socket.
type brokerSeen struct {
	Path    string          // of the socket
	System  bool            // it is the system service's
	Status  *control.Status // nil where it did not answer
	Tokens  []control.Token // nil where it did not tell
	Foreign bool            // another user's, and lets this one in for nothing
	Silent  bool            // somebody listens, and does not answer
	Stale   bool            // a socket that nobody listens at
	InWay   bool            // something that is no socket
	Err     error           // it answered, and this was wrong
}

// serves reports whether the URL of a door is one of the broker's.
func (b brokerSeen) serves(at netip.AddrPort) bool {
	if b.Status == nil {
		return false
	}
	urls := slices.Clone(b.Status.Container)
	for _, l := range b.Status.IMDS {
		urls = append(urls, l.URL)
	}
	return slices.ContainsFunc(urls, func(u string) bool {
		return asURL(u).addr() == at
	})
}

// doorSeen is what the endpoint of the environment answered.
type doorSeen struct {
	Asked   bool
	Shown   bool  // the token was shown to it
	Err     error // nobody answered
	Status  int
	Code    string // of the broker's errors
	Message string
	Ours    bool   // it answers as a broker does
	Holder  string // who does where it is none, "" where that cannot be told
}

// portSeen is an address of stsbroker.yaml that somebody else has.
type portSeen struct {
	Address netip.AddrPort
	Holder  string // "" where it cannot be told
	Broker  bool   // it answers as a broker does
}

// lookAround looks at everything side by side, until ctx ends.
func lookAround(ctx context.Context, g *globals, profile string, network bool) (*surroundings, error) {
	p, err := findPlace(g, false)
	if err != nil {
		return nil, err
	}
	s := &surroundings{goos: runtime.GOOS, uid: os.Getuid(), version: buildVersion(), self: ownName(), profile: profile, env: map[string]string{}}
	for _, kv := range os.Environ() {
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" {
			s.env[k] = v
		}
	}
	s.door = wayOf(s.lookup)
	s.lookAtFiles(p)
	s.lookAtHost()
	s.lookAtBroker(ctx, controlPaths(g, p))
	if err := s.lookAtConfig(g, p); err != nil {
		return nil, err
	}
	if network {
		s.ask(ctx, p)
	} else {
		s.notLooked = append(s.notLooked, "the endpoint, ports and STS (--no-network)")
	}
	return s, nil
}

func (s *surroundings) lookAtFiles(p place) {
	const most = 1 << 20
	s.tokenFile = see(s.env[varTokenFile], 4<<10)
	s.caBundle = see(s.env["AWS_CA_BUNDLE"], most)
	s.identity = see(p.getenv(varIdentityFile), 0)
	s.state = see(p.state, 0)

	s.files = awsconfig.DefaultFiles(os.Getenv, p.home)
	s.originals = originals(s.files)
	s.aws = awsconfig.Load(s.files)
	s.awsFile = [2]fileSeen{see(s.originals.Config, most), see(s.originals.Credentials, most)}
	if s.originals != s.files && s.awsFile[0].Err == nil {
		copied := see(s.files.Config, 2*most)
		head := copiedConfig + s.originals.Config + "\n" + copiedCredentials + s.originals.Credentials + "\n"
		s.stale = string(copied.Data) != head+string(awsconfig.Isolate(s.awsFile[0].Data))
	}
	for name, path := range map[string]string{"AWS_CONFIG_FILE": s.files.Config, "AWS_SHARED_CREDENTIALS_FILE": s.files.Credentials} {
		if _, err := os.Stat(path); s.env[name] != "" && errors.Is(err, fs.ErrNotExist) {
			s.missing = append(s.missing, name)
		}
	}
	slices.Sort(s.missing)
	if folder, err := os.Getwd(); err == nil {
		s.sdks = installedSDKs(s.lookup, folder)
	}
	if s.goos == "linux" {
		for _, unit := range []struct{ path, call string }{
			{filepath.Join(p.home, ".config/systemd/user/stsbroker.service"), "systemctl --user "}, {"/etc/systemd/system/stsbroker.service", "sudo systemctl "},
			{"/usr/lib/systemd/user/stsbroker.service", "systemctl --user "}, {"/usr/lib/systemd/system/stsbroker.service", "sudo systemctl "},
		} {
			if _, err := os.Stat(unit.path); err == nil {
				s.unit = unit.call
				break
			}
		}
	}
}

func (s *surroundings) lookAtHost() {
	all, err := net.InterfaceAddrs()
	if err != nil {
		s.notLooked = append(s.notLooked, "the addresses of this host ("+err.Error()+")")
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				s.addresses = append(s.addresses, ip.Unmap())
			}
		}
	}
	if s.goos == "linux" {
		s.routed = routedInterfaces("/proc/sys/net/ipv4/conf")
		s.container = containerOf("/", s.lookup)
	}
}

// routedInterfaces are those that hand packets from outside to 127.0.0.1.
func routedInterfaces(folder string) (names []string) {
	switches, _ := filepath.Glob(filepath.Join(folder, "*", "route_localnet")) // the pattern is good
	for _, path := range switches {
		if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == "1" {
			names = append(names, filepath.Base(filepath.Dir(path)))
		}
	}
	return names
}

// containerOf names what contains this process, "" for nothing that shows.
func containerOf(root string, lookup func(string) (string, bool)) string {
	if _, ok := lookup("KUBERNETES_SERVICE_HOST"); ok {
		return "a Kubernetes pod"
	}
	if v, _ := lookup("ECS_CONTAINER_METADATA_URI_V4"); v != "" {
		return "an ECS task"
	}
	for _, mark := range []struct{ path, what string }{{".dockerenv", "a Docker container"}, {"run/.containerenv", "a Podman container"}} {
		if _, err := os.Stat(filepath.Join(root, mark.path)); err == nil {
			return mark.what
		}
	}
	groups, _ := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	for _, word := range []string{"kubepods", "docker-", "/docker/", "libpod-", "cri-containerd"} {
		if strings.Contains(string(groups), word) {
			return "a container"
		}
	}
	return ""
}

// systemConfig is the system service's stsbroker.yaml.
const systemConfig = "/etc/stsbroker/stsbroker.yaml"

// lookAtConfig reads the stsbroker.yaml that counts: the one that was named, else that of
// the broker which was found, else this user's. What a broker does not tell is not
// guessed: a file of this user's says nothing of another's broker.
func (s *surroundings) lookAtConfig(g *globals, p place) error {
	own, err := findPlace(&globals{socket: g.socket}, false)
	if err != nil {
		return err
	}
	s.usual = own.configFile()
	path := p.configFile()
	switch st := s.broker.Status; {
	case g.config != "":
	case st != nil && st.Config != "":
		path = st.Config
	case s.broker.System && st != nil: // a guest, or a service without a file
		return nil
	case s.broker.System:
		path = systemConfig
	}
	if s.config = see(path, 0); path != "" && s.config.Err == nil {
		if f, err := os.Open(path); err == nil {
			_ = f.Close()
		} else if path != p.configFile() {
			s.config.Err = err
			return nil
		}
	} else if path != p.configFile() {
		return nil
	}
	cfg, findings := loadConfig(path)
	s.findings, s.settings = findings, cfg
	if cfg != nil {
		s.listen = cfg.Listen
	}
	return nil
}

// lookAtBroker looks at the sockets in turn, until somebody listens. Where nobody does,
// the first that can tell anything is the one that is told of.
func (s *surroundings) lookAtBroker(ctx context.Context, paths []string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second) // one that hangs leaves time for the rest
	defer cancel()
	s.broker.Path = paths[0]
	for i, path := range paths {
		b, listens := lookAtSocket(ctx, path)
		if listens || i == 0 || b.Foreign && !s.broker.Foreign && !s.broker.InWay {
			s.broker = b
		}
		if listens {
			break
		}
	}
	if s.broker.System = s.broker.Path == systemControl; s.broker.System {
		s.unit = "sudo systemctl "
	} else if s.broker.Status != nil && strings.HasPrefix(s.unit, "sudo ") { // which is another's
		s.unit = ""
	}
	if s.broker.Status == nil {
		return
	}
	c, err := control.Dial(ctx, s.broker.Path) // each connection carries a call
	if err == nil {
		s.broker.Tokens, err = c.Tokens(ctx)
	}
	if err != nil {
		s.notLooked = append(s.notLooked, "the broker's tokens ("+err.Error()+")")
	}
}

// lookAtSocket asks who is at a control socket for its status. listens reports whether
// somebody is.
func lookAtSocket(ctx context.Context, path string) (b brokerSeen, listens bool) {
	b.Path = path
	c, err := control.Dial(ctx, path)
	if err == nil {
		st, err := c.Status(ctx, "")
		var refused *control.Error
		switch {
		case err == nil:
			b.Status = &st
		case errors.As(err, &refused) && refused.Kind == broker.KindForbidden.String():
			b.Foreign = true
		case errors.Is(err, context.DeadlineExceeded):
			b.Silent = true
		default:
			b.Err = err
		}
		return b, true
	}
	info, statErr := os.Lstat(path)
	switch {
	case errors.Is(err, control.ErrSilent), errors.Is(err, context.DeadlineExceeded):
		b.Silent = true
		return b, true
	case errors.Is(err, fs.ErrPermission):
		b.Foreign = true
	case statErr == nil && info.Mode().Type() != fs.ModeSocket:
		b.InWay = true
	case errors.Is(err, syscall.ECONNREFUSED):
		b.Stale = true
	case statErr == nil: // it takes connections, and hangs up
		b.Err = err
		return b, true
	}
	return b, false
}

// certificates counts what a CA bundle holds.
func certificates(pem []byte) bool { return x509.NewCertPool().AppendCertsFromPEM(pem) }
