package main

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/stsbroker/stsbroker/broker/access"
	"github.com/stsbroker/stsbroker/broker/custody"
	"github.com/stsbroker/stsbroker/broker/process"
	"github.com/stsbroker/stsbroker/broker/vault"
	"github.com/stsbroker/stsbroker/cache/sealedfile"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// place is the machine as the broker sees it: where its files are, and what the
// environment may say. The system service takes nothing from the environment, but
// where systemd put its credentials.
type place struct {
	system  bool
	home    string
	getenv  func(string) string // "" for everything under --system
	config  string              // stsbroker.yaml, as it was named; "" for the usual place
	usual   string              // that place, where a file need not be
	state   string              // folder, 0700
	runtime string              // folder, 0700, of the control socket
	control string              // the socket

	credentials string   // folder that systemd gives the unit its credentials in; "" for none
	lasting     []string // folders that systemd empties at a stop, and leaves be at a restart (RUNTIME_DIRECTORY)
}

// varEndpointURL sends all calls of STS to one endpoint, above all that files say.
const varEndpointURL = "AWS_ENDPOINT_URL_STS"

// The same for the other services that are called, by the names that SDKs give them.
const (
	varEndpointIAM  = "AWS_ENDPOINT_URL_IAM"
	varEndpointSSO  = "AWS_ENDPOINT_URL_SSO"
	varEndpointOIDC = "AWS_ENDPOINT_URL_SSO_OIDC"
)

// overrides are the variables that change what the broker does.
var overrides = []string{
	"STSBROKER_CONFIG", varIdentityFile, "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_REGION", "AWS_CA_BUNDLE",
	varEndpointURL, varEndpointIAM, varEndpointSSO, varEndpointOIDC, "AWS_STS_REGIONAL_ENDPOINTS", "AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy",
}

// tokenFile is where a token file is, by default beside the control socket.
func (p place) tokenFile(f TokenFileConfig) string {
	return cmp.Or(f.Path, filepath.Join(p.runtime, "token-files", f.Name))
}

// credentialsFile is where a file of credentials is; the default folder is in
// memory wherever XDG_RUNTIME_DIR or /run is.
func (p place) credentialsFile(f FileConfig) string {
	return cmp.Or(f.Path, filepath.Join(p.runtime, "files", f.Name))
}

// ownFiles are the files and sockets that a broker makes at fixed places.
func (p place) ownFiles(l ListenConfig) (paths []string) {
	sockets := []string{p.control, filepath.Join(p.runtime, "creds.sock")}
	if l.Socket != "" && l.Socket != socketOff {
		sockets = append(sockets, l.Socket)
	}
	for _, s := range sockets {
		paths = append(paths, s, s+".lock")
	}
	paths = append(append(paths, p.wrappedIdentity()), sealedfile.Files(p.leasesFile())...)
	paths = append(paths, vault.Files(p.state)...)
	return append(append(paths, custody.KeptFiles(p.state)...), access.Files(p.state)...)
}

// changed returns the overrides that are set.
func (p place) changed() []string {
	return slices.DeleteFunc(slices.Clone(overrides), func(v string) bool { return p.getenv(v) == "" })
}

// findPlace knows the folders of the user's or the system's service.
func findPlace(g *globals, system bool) (place, error) {
	p := place{system: system, getenv: ownEnvironment(os.Getenv)}
	if process.Nested(os.Environ()) {
		return p, fmt.Errorf("refused: %s is set, so this runs inside a command that a broker runs for credentials, and would ask for ever", process.DepthVariable)
	}
	if dir := os.Getenv(varCredentials); filepath.IsAbs(dir) {
		p.credentials = dir
	}
	if dirs := os.Getenv("RUNTIME_DIRECTORY"); dirs != "" {
		p.lasting = strings.Split(dirs, ":")
	}
	if system {
		if runtime.GOOS != "linux" {
			return p, errors.New("--system is for Linux; run stsbroker serve as the user it serves")
		}
		p.getenv = func(string) string { return "" }
		for _, v := range []string{"SSL_CERT_FILE", "SSL_CERT_DIR"} { // crypto/x509 reads them behind our back
			if err := os.Unsetenv(v); err != nil {
				return p, err
			}
		}
		p.home = "/nonexistent"
		p.state, p.runtime = "/var/lib/stsbroker", "/run/stsbroker"
		p.usual = "/etc/stsbroker/stsbroker.yaml"
	} else {
		home, err := os.UserHomeDir()
		if err != nil {
			return p, fmt.Errorf("the home folder is not known: %w; set HOME", err)
		}
		p.home = home
		configs, states := p.folders()
		p.usual = filepath.Join(configs, "stsbroker", "stsbroker.yaml")
		p.state = filepath.Join(states, "stsbroker")
		p.runtime = filepath.Join(p.state, "run")
		if dir := p.getenv("XDG_RUNTIME_DIR"); dir != "" && filepath.IsAbs(dir) {
			p.runtime = filepath.Join(dir, "stsbroker")
		}
	}
	p.control = filepath.Join(p.runtime, "control.sock")
	if g.socket != "" {
		p.control = g.socket
	}
	switch {
	case g.config != "":
		p.config = g.config
	case p.getenv("STSBROKER_CONFIG") != "":
		p.config = p.getenv("STSBROKER_CONFIG")
	}
	return p, nil
}

// configFile is stsbroker.yaml, "" when there is none.
func (p place) configFile() string {
	if p.config != "" || p.usual == "" {
		return p.config
	}
	if _, err := os.Lstat(p.usual); errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return p.usual
}

// ownEnvironment hides what env and exec set: in a shell that has it, the broker is
// to be as it would be without.
func ownEnvironment(getenv func(string) string) func(string) string {
	ours := access.IsToken(getenv(varToken)) || holdsToken(getenv(varTokenFile)) || isLoopbackURL(getenv(varIMDS))
	return func(name string) string {
		switch name {
		case "AWS_REGION", "AWS_DEFAULT_REGION", varNoIMDS, varFullURI, varRelativeURI, varToken, varTokenFile, varIMDS:
			if ours {
				return ""
			}
		}
		return getenv(name)
	}
}

// holdsToken reports whether the file at path holds a token of ours, or is at a path
// of ours and gone, as it is between two runs of a broker.
func holdsToken(path string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > 1<<10 { // a pipe would wait for its writer
		return strings.Contains(path, "/stsbroker/token") || strings.Contains(path, "/stsbroker/run/token")
	}
	b, err := os.ReadFile(path)
	return err == nil && access.IsToken(string(b))
}

// environ is what commands that the broker runs may be given; see
// [process.Environment] for what they do get.
func (p place) environ() []string {
	if p.system {
		return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	return os.Environ()
}

// folders are the user's folders for configuration and state: XDG's on Linux
// (and wherever its variables are set), the platform's own elsewhere.
func (p place) folders() (configs, states string) {
	configs, states = filepath.Join(p.home, ".config"), filepath.Join(p.home, ".local", "state")
	if runtime.GOOS != "linux" {
		if dir, err := os.UserConfigDir(); err == nil {
			configs, states = dir, dir
		}
	}
	if dir := p.getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		configs = dir
	}
	if dir := p.getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		states = dir
	}
	return configs, states
}

// roots reads AWS_CA_BUNDLE; nil is the system's own.
func (p place) roots() (*x509.CertPool, error) {
	file := p.getenv("AWS_CA_BUNDLE")
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("AWS_CA_BUNDLE: %w; mend or unset the variable", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("AWS_CA_BUNDLE: %s holds no PEM certificate; mend or unset the variable", file)
	}
	return pool, nil
}

// makeFolder makes a folder for sockets: this user's alone, or one of the system service,
// that everybody may pass and nobody else may write.
func (p place) makeFolder(path string) error {
	if !p.system {
		return securefile.MakeFolder(path)
	}
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return securefile.CheckFolders(path)
}

// makeRuntime makes the folder of the control socket, and refuses a path that no
// Unix socket can have.
func (p place) makeRuntime() error {
	const most = 103 // darwin's sun_path, less its NUL; Linux has 4 more
	if len(p.control) > most {
		return fmt.Errorf("the control socket's path is longer than %d bytes: %s; name a shorter one with --socket", most, p.control)
	}
	if err := p.makeFolder(filepath.Dir(p.control)); err != nil {
		if dir := p.getenv("XDG_RUNTIME_DIR"); dir != "" {
			return fmt.Errorf("%w; XDG_RUNTIME_DIR is %s here: is it this user's?", err, dir)
		}
		return err
	}
	return nil
}
