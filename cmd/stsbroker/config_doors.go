package main

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The doors of the broker, as the document has them.

// ListenConfig holds addresses ("IP:PORT", of this host) and paths.
type ListenConfig struct {
	Container    []ContainerConfig // empty for no container door
	IMDS         []IMDSConfig
	Metrics      string // "" for off
	MetricsGiven bool   // whether the document says so, or the default of the service is meant
	Control      string // absolute path of the Unix socket; "" for the default path
	Socket       string // absolute path of the socket that gives credentials; "" for the default path, socketOff for none
}

// socketOff is the word for a door that is not wanted.
const socketOff = "off"

// ContainerConfig is an address of the container door.
type ContainerConfig struct {
	Address      string
	WithoutToken []string // profiles that this host's user may have without a token, the first is the default; nil for none
	Line         int      // 0 for the defaults
}

// IMDSConfig is an instance metadata service with one profile as its role.
type IMDSConfig struct {
	Address string
	Profile string // here or of the AWS files
	AllowV1 bool   // answer without a session token too
	Line    int    // 0 for one that a command opens
}

// TokenFileConfig is a file that holds a token, which the broker changes now and then.
type TokenFileConfig struct {
	Name     string
	Line     int
	Path     string   // absolute; "" for the default path
	Profiles []string // that the token is good for, the first is its default
	UID      *uint32  // in whose hands it is good; nil for anybody's
	Group    *uint32  // whose members may read the file; nil for none. Only with Path: the default folder lets nobody through
}

// FileConfig is a file of credentials, in the form of ~/.aws/credentials.
type FileConfig struct {
	Name     string
	Line     int
	Path     string   // absolute; "" for the default path
	Profiles []string // its sections; the first is [default] too
}

// loopbackDoor are addresses of a container door that everybody may use who has a token.
func loopbackDoor(addresses ...string) (out []ContainerConfig) {
	for _, a := range addresses {
		out = append(out, ContainerConfig{Address: a})
	}
	return out
}

// addresses are all that this version listens on over TCP.
func (c ListenConfig) addresses() (all []string) {
	for _, l := range c.Container {
		all = append(all, l.Address)
	}
	for _, l := range c.IMDS {
		all = append(all, l.Address)
	}
	if c.Metrics != "" {
		all = append(all, c.Metrics)
	}
	return all
}

// tokened are the addresses of the container door where everybody needs a token:
// they are one door.
func (c ListenConfig) tokened() (addresses []string) {
	for _, l := range c.Container {
		if l.WithoutToken == nil {
			addresses = append(addresses, l.Address)
		}
	}
	return addresses
}

// doors is how many parts share the descriptors: the container door, each address of
// it where some need no token, each IMDS door, the metrics, the socket.
func (c ListenConfig) doors() int {
	n := 2 + len(c.Container) - len(c.tokened()) + len(c.IMDS)
	if c.Metrics != "" {
		n++
	}
	return n
}

// The link-local addresses that SDKs take over plain http.
var (
	ecsAddress = netip.MustParseAddr("169.254.170.2")
	eksAddress = []netip.Addr{netip.MustParseAddr("169.254.170.23"), netip.MustParseAddr("fd00:ec2::23")}
	ec2Address = []netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("fd00:ec2::254")}
)

// checkListen takes the loopback addresses, and some others.
func checkListen(others ...netip.Addr) func(string) error {
	return func(s string) error {
		a, err := netip.ParseAddrPort(s)
		if err != nil {
			if _, port, e := net.SplitHostPort(s); e == nil && port != "" {
				return fmt.Errorf("%q is not IP:PORT; did you mean %q?", s, "127.0.0.1:"+port)
			}
			return fmt.Errorf("%q is not IP:PORT; write it as 127.0.0.1:9170 or \"[::1]:9170\"", s)
		}
		ip := a.Addr()
		if slices.Contains(others, ip) || ip.IsLoopback() && ip.Zone() == "" && !ip.Is4In6() {
			return nil
		}
		also := ""
		for _, o := range others {
			also += ", " + o.String()
		}
		return fmt.Errorf("%s is not a loopback address%s, and credentials are served to this host only; write 127.0.0.1:%d or \"[::1]:%d\"",
			s, also, a.Port(), a.Port())
	}
}

func (r *configReader) listen(to *ListenConfig, n *yaml.Node, p string) {
	var container, metrics, imds []ref
	seen, _ := r.mapping(n, p, fields{
		"container": r.container(&to.Container, &container),
		"imds":      r.imds(&to.IMDS, &imds),
		"metrics": func(n *yaml.Node, p string) {
			if r.text(&to.Metrics, optional(checkListen()))(n, p); to.Metrics != "" {
				metrics = append(metrics, ref{n, p, to.Metrics})
			}
		},
		"control": r.text(&to.Control, optional(checkSocket)),
		"socket":  r.text(&to.Socket, checkSocketOrOff),
	})
	to.MetricsGiven = seen["metrics"] != nil
	var taken []string
	if seen["container"] == nil {
		taken = to.tokened()
	}
	for _, d := range slices.Concat(container, metrics, imds) {
		if slices.Contains(taken, d.name) && !strings.HasSuffix(d.name, ":0") { // port 0 is a free one each time
			r.fail(d.node, d.path, "%s is the address of another listener too; each has its own, so give address with another port", d.name)
		}
		taken = append(taken, d.name)
	}
	to.Socket, to.Control = clean(to.Socket), clean(to.Control)
	if to.Socket != "" && to.Socket == to.Control {
		r.fail(seen["socket"], join(p, "socket"), "%s is the control socket; the credentials have a socket of their own", to.Socket)
	}
}

func checkSocketOrOff(s string) error {
	if s == "" || s == socketOff {
		return nil
	}
	if err := checkSocket(s); err != nil {
		return fmt.Errorf("%w; or write %s", err, socketOff)
	}
	return nil
}

// container reads the addresses of the container door: texts, or mappings where
// there is more to say of one.
func (r *configReader) container(to *[]ContainerConfig, doors *[]ref) reads {
	return func(n *yaml.Node, p string) {
		if !r.sequence(n, p) {
			return
		}
		*to = nil
		address := checkListen(append([]netip.Addr{ecsAddress}, eksAddress...)...)
		for i, item := range n.Content {
			c := ContainerConfig{Line: item.Line}
			at, faults := fmt.Sprintf("%s[%d]", p, i), r.faults
			if item.Kind == yaml.MappingNode {
				seen, clean := r.mapping(item, at, fields{
					"address":       r.text(&c.Address, address),
					"without_token": r.names(&c.WithoutToken),
				})
				r.need(seen, clean, item, at, "address")
				if a, err := netip.ParseAddrPort(c.Address); err == nil && c.WithoutToken != nil && a.Addr() != ecsAddress {
					r.fail(seen["without_token"], join(at, "without_token"), "only for %s, whose old clients cannot send a token; at %s they do", ecsAddress, c.Address)
				}
			} else {
				r.text(&c.Address, address)(item, at)
			}
			if r.faults == faults {
				*to, *doors = append(*to, c), append(*doors, ref{item, at, c.Address})
			}
		}
	}
}

// names reads a list of profiles, at least one.
func (r *configReader) names(to *[]string) reads {
	return func(n *yaml.Node, p string) {
		faults := r.faults
		if r.set(to, notEmpty, noNUL)(n, p); r.faults == faults && len(*to) == 0 {
			r.fail(n, p, "names no profile")
		}
	}
}

// imds reads the IMDS doors.
func (r *configReader) imds(to *[]IMDSConfig, doors *[]ref) reads {
	return func(n *yaml.Node, p string) {
		if !r.sequence(n, p) {
			return
		}
		for i, item := range n.Content {
			c := IMDSConfig{Address: "127.0.0.1:9169", Line: item.Line}
			at, faults := fmt.Sprintf("%s[%d]", p, i), r.faults
			seen, clean := r.mapping(item, at, fields{
				"address":  r.text(&c.Address, checkListen(ec2Address...)),
				"profile":  r.text(&c.Profile, checkRole),
				"allow_v1": r.flag(&c.AllowV1),
			})
			r.need(seen, clean, item, at, "profile")
			if r.faults == faults {
				*to, *doors = append(*to, c), append(*doors, ref{item, at, c.Address})
			}
		}
	}
}

func (r *configReader) tokenFiles(to *[]TokenFileConfig, n *yaml.Node, p string) {
	r.entries(n, p, func(key, value *yaml.Node) {
		c := TokenFileConfig{Name: key.Value, Line: key.Line}
		at := join(p, key.Value)
		if err := checkFileName(key.Value); err != nil {
			r.fail(key, p, "%v", err)
		}
		seen, known := r.mapping(value, at, fields{
			"path":     r.text(&c.Path, checkAbsolute),
			"profiles": r.names(&c.Profiles),
			"uid":      r.uid(&c.UID),
			"group":    r.id(&c.Group, "a group; getent group GROUP prints it"),
		})
		c.Path = clean(c.Path)
		r.need(seen, known, key, at, "profiles")
		if c.Group != nil && c.Path == "" && seen["path"] == nil {
			r.fail(seen["group"], join(at, "group"), "the default folder is this user's alone; give path too, in a folder that the group can look into")
		}
		*to = append(*to, c)
	})
}

func (r *configReader) files(to *[]FileConfig, n *yaml.Node, p string) {
	r.entries(n, p, func(key, value *yaml.Node) {
		c := FileConfig{Name: key.Value, Line: key.Line}
		at := join(p, key.Value)
		if err := checkFileName(key.Value); err != nil {
			r.fail(key, p, "%v", err)
		}
		seen, known := r.mapping(value, at, fields{
			"path":     r.text(&c.Path, checkAbsolute),
			"profiles": r.names(&c.Profiles),
		})
		c.Path = clean(c.Path)
		r.need(seen, known, key, at, "profiles")
		*to = append(*to, c)
	})
}

// clean gives a path the spelling by which two that are the same can be told; "" stays.
func clean(path string) string {
	if path == "" {
		return ""
	}
	return filepath.Clean(path)
}

// checkFileName takes what is a file's name everywhere, in a folder of ours.
func checkFileName(s string) error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
	if s == "" || len(s) > 64 || strings.Trim(s, letters) != "" || s[0] == '.' || filepath.Base(s) != s {
		return fmt.Errorf("%q is not a name for a file: letters, digits, and . _ - after the first, 64 at most; the file itself may be anywhere, with path", s)
	}
	return nil
}

// uid reads the number of a user.
func (r *configReader) uid(to **uint32) reads { return r.id(to, "a user; id -u USER prints it") }

// id reads the number of a user or a group; what says of what, and what prints it.
func (r *configReader) id(to **uint32, what string) reads {
	return func(n *yaml.Node, p string) {
		s, ok := r.scalar(n, p, "!!int", "the number of "+what)
		if !ok {
			return
		}
		v, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			r.fail(n, p, "%s is not the number of %s", s, what)
			return
		}
		*to = new(uint32(v))
	}
}
