package main

import (
	"errors"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stsbroker/stsbroker/broker/awsconfig"
	"github.com/stsbroker/stsbroker/internal/control"
)

const healthyToken = "stsb1_0123456789abcdef_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"

// healthy is a shell after eval "$(stsbroker env app)".
func healthy() *surroundings {
	s := &surroundings{
		goos: "linux", uid: 1000, version: "1.0.0", self: "stsbroker",
		env: map[string]string{
			"HOME": "/home/me", varFullURI: "http://127.0.0.1:9170/credentials/app", varToken: healthyToken,
			"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "eu-central-1", varNoIMDS: "true",
		},
		state:     fileSeen{Path: "/home/me/.local/state/stsbroker", Mode: fs.ModeDir | 0o700},
		files:     awsconfig.Files{Config: "/home/me/.aws/config", Credentials: "/home/me/.aws/credentials"},
		originals: awsconfig.Files{Config: "/home/me/.aws/config", Credentials: "/home/me/.aws/credentials"},
		aws: &awsconfig.Config{
			Profiles: []awsconfig.Profile{{Name: "app", Role: &awsconfig.Role{}}}, Settings: []awsconfig.Profile{{Name: "bare"}},
		},
		awsFile: [2]fileSeen{
			{Path: "/home/me/.aws/config", Mode: 0o644},
			{Path: "/home/me/.aws/credentials", Mode: 0o600, Data: []byte("[dev]\naws_secret_access_key = x\n")},
		},
		listen: defaultConfig().Listen,
		broker: brokerSeen{
			Path: "/run/user/1000/stsbroker/control.sock",
			Status: &control.Status{
				Version: "1.0.0", PID: 77, Container: []string{"http://127.0.0.1:9170", "http://[::1]:9170"}, Custody: "none",
				IMDS:     []control.IMDS{{URL: "http://127.0.0.1:9169", Profile: "app"}},
				Profiles: []control.Profile{{Name: "app", State: "fresh", Region: "eu-central-1", Left: 3000}, {Name: "dev", State: "idle", Region: "eu-central-1"}},
			},
			Tokens: []control.Token{{ID: "0123456789abcdef", Kind: "env", Profiles: []string{"app"}}},
		},
		endpoint:  doorSeen{Asked: true, Shown: true, Status: 403, Code: "forbidden", Message: "nothing is here: ask for /credentials/PROFILE", Ours: true},
		sts:       stsSeen{Asked: true, Host: "sts.eu-central-1.amazonaws.com", Kind: stsAnswers, Timed: true, Skew: 300 * time.Millisecond},
		addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"), netip.MustParseAddr("192.0.2.7")},
	}
	s.door = wayOf(s.lookup)
	return s
}

func (s *surroundings) with(pairs ...string) {
	for _, p := range pairs {
		k, v, _ := strings.Cut(p, "=")
		s.env[k] = v
	}
	s.door = wayOf(s.lookup)
}

func (s *surroundings) without(names ...string) {
	for _, n := range names {
		delete(s.env, n)
	}
	s.door = wayOf(s.lookup)
}

// byFile takes the token from the variable into a file.
func (s *surroundings) tokenIn(f fileSeen) {
	f.Path = "/run/user/1000/stsbroker/tokens/1"
	s.without(varToken)
	s.with(varTokenFile + "=" + f.Path)
	s.tokenFile = f
}

func (s *surroundings) imds() {
	s.without(varFullURI, varToken, varNoIMDS)
	s.with(varIMDS + "=http://127.0.0.1:9169")
	s.endpoint = doorSeen{Asked: true, Status: 200, Ours: true}
}

func (s *surroundings) linkLocal() {
	s.with(varFullURI + "=http://169.254.170.23/v1/credentials")
	s.addresses = append(s.addresses, netip.MustParseAddr("169.254.170.23"))
	s.broker.Status.Container = append(s.broker.Status.Container, "http://169.254.170.23")
}

func (s *surroundings) noDaemon() {
	s.broker = brokerSeen{Path: s.broker.Path}
	s.endpoint = doorSeen{Asked: true, Err: errors.New("connection refused")}
}

// silentSystem is a system service that cannot start: systemd takes connections for it.
func (s *surroundings) silentSystem() {
	s.broker, s.unit = brokerSeen{Path: systemControl, System: true, Silent: true}, "sudo systemctl "
	s.endpoint = doorSeen{Asked: true, Err: errors.New("no answer")}
}

// A false alarm is a fault: each of these shells is as it should be.
func TestDoctorIsContent(t *testing.T) {
	for name, change := range map[string]func(*surroundings){
		"after env":    func(*surroundings) {},
		"--token-file": func(s *surroundings) { s.tokenIn(fileSeen{Mode: 0o600, Data: []byte(healthyToken)}) },
		"--door imds":  (*surroundings).imds,
		"--door eks":   (*surroundings).linkLocal,
		"--door ecs": func(s *surroundings) {
			s.without(varFullURI)
			s.with(varRelativeURI + "=/credentials/app")
			s.addresses = append(s.addresses, netip.MustParseAddr("169.254.170.2"))
			s.broker.Status.Container = append(s.broker.Status.Container, "http://169.254.170.2:80")
		},
		"ecs without a token": func(s *surroundings) {
			s.without(varFullURI, varToken)
			s.with(varRelativeURI + "=/credentials/app")
			s.addresses = append(s.addresses, netip.MustParseAddr("169.254.170.2"))
			s.broker.Status.Container = append(s.broker.Status.Container, "http://169.254.170.2:80")
		},
		"no network":            func(s *surroundings) { s.endpoint, s.sts = doorSeen{}, stsSeen{} },
		"empty variables":       func(s *surroundings) { s.with("AWS_ACCESS_KEY_ID=", "AWS_PROFILE=", "HTTP_PROXY=", "AWS_CA_BUNDLE=") },
		"a proxy for https":     func(s *surroundings) { s.with("HTTPS_PROXY=http://proxy:3128") },
		"a proxy and NO_PROXY":  func(s *surroundings) { s.with("HTTP_PROXY=http://proxy:3128", "NO_PROXY=.corp,127.0.0.1") },
		"NO_PROXY of all":       func(s *surroundings) { s.imds(); s.with("http_proxy=http://proxy:3128", "no_proxy=*") },
		"a role alone":          func(s *surroundings) { s.with("AWS_ROLE_ARN=arn:aws:iam::123456789012:role/app") },
		"a session token alone": func(s *surroundings) { s.with("AWS_SESSION_TOKEN=x") },
		"a region in the file": func(s *surroundings) {
			s.without("AWS_REGION", "AWS_DEFAULT_REGION")
			s.aws.DefaultRegion = "eu-west-1"
		},
		"a copy without keys":    func(s *surroundings) { s.files = awsconfig.Files{Config: "/run/user/1000/stsbroker/aws-1/config"} },
		"a profile that is idle": func(s *surroundings) { s.broker.Status.Profiles[0] = control.Profile{Name: "app", State: "idle"} },
		"a profile of settings": func(s *surroundings) {
			s.without("AWS_REGION", "AWS_DEFAULT_REGION")
			s.with("AWS_PROFILE=bare")
			s.aws.Settings[0].Region = "eu-west-1"
		},
		"the default profile by name": func(s *surroundings) { s.with("AWS_PROFILE=default") },
		"another is unservable": func(s *surroundings) {
			s.broker.Status.Profiles[1] = control.Profile{Name: "dev", State: "unservable", Reason: "x"}
		},
		"locked, none needs it":  func(s *surroundings) { s.broker.Status.Custody = "open" },
		"the clock is a bit off": func(s *surroundings) { s.sts.Skew = -90 * time.Second },
		"what both have set": func(s *surroundings) {
			s.with("HTTPS_PROXY=x")
			s.broker.Status.Changed = []string{"HTTPS_PROXY", varIdentityFile}
		},
		"an old SDK and a token":  func(s *surroundings) { s.sdks = []sdkSeen{{Name: "botocore", Version: "1.20.0", Since: sinceBoto}} },
		"peers that nobody needs": func(s *surroundings) { s.peer = errors.New("no netlink") },
		"a pod beside its broker": func(s *surroundings) {
			s.tokenIn(fileSeen{Mode: 0o644, Data: []byte(healthyToken)})
			s.with("KUBERNETES_SERVICE_HOST=10.0.0.1", varFullURI+"=http://127.0.0.1:9170/v1/credentials")
			s.container, s.broker, s.sts = "a Kubernetes pod", brokerSeen{Path: s.broker.Path}, stsSeen{}
			s.taken = []portSeen{{netip.MustParseAddrPort("127.0.0.1:9170"), "", true}}
		},
		"credential_process": func(s *surroundings) {
			s.without(varFullURI, varToken)
			s.aws.Profiles = append(s.aws.Profiles, awsconfig.Profile{Name: "default", Process: &awsconfig.Process{Command: "/usr/bin/stsbroker credential-process app"}})
		},
		"IMDS at its own address": func(s *surroundings) {
			s.without(varFullURI, varToken)
			s.broker.Status.IMDS[0].URL = "http://169.254.169.254"
		},
		"a credentials file": func(s *surroundings) {
			s.without(varFullURI, varToken)
			s.broker.Status.Files = []control.File{{Path: s.files.Credentials}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := healthy()
			change(s)
			for _, c := range judge(s) {
				t.Errorf("%+v", c)
			}
		})
	}
}

type doctorCase struct {
	change   func(*surroundings)
	severity string
	what, do string // parts of the lines
	also     []string
}

func doctorCases() map[string][]doctorCase {
	stale := func(s *surroundings) { s.noDaemon(); s.broker.Stale = true }
	file := func(f fileSeen) func(*surroundings) {
		return func(s *surroundings) { s.tokenIn(f); s.endpoint = doorSeen{} }
	}
	sts := func(seen stsSeen) func(*surroundings) {
		return func(s *surroundings) {
			seen.Asked, seen.Host = true, s.sts.Host
			s.sts = seen
		}
	}
	p := func(p control.Profile) func(*surroundings) {
		return func(s *surroundings) { p.Name = "app"; s.broker.Status.Profiles[0] = p }
	}
	return map[string][]doctorCase{
		"static-keys": {
			{func(s *surroundings) { s.with("AWS_ACCESS_KEY_ID=AKIACANARY", "AWS_SECRET_ACCESS_KEY=canary") }, severityStops, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set", "unset AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY", nil},
			{func(s *surroundings) { s.imds(); s.with("AWS_ACCESS_KEY_ID=AKIACANARY", "AWS_SESSION_TOKEN=canary") }, severityStops, "AWS_ACCESS_KEY_ID is set", "unset AWS_ACCESS_KEY_ID AWS_SESSION_TOKEN", nil},
			{func(s *surroundings) { s.goos = "windows"; s.with("AWS_ACCESS_KEY_ID=AKIACANARY") }, severityStops, "", "Remove-Item Env:AWS_ACCESS_KEY_ID", nil},
		},
		"default-profile": {{func(s *surroundings) {
			s.aws = loadAWS("[default]\naws_access_key_id = AKIACANARY\naws_secret_access_key = canary\n")
		}, severityStops, "the default profile in /home/me/.aws/config or", `eval "$(stsbroker env app)"`, nil}},
		"aws-profile": {
			{func(s *surroundings) { s.with("AWS_PROFILE=app") }, severityStops, "that profile's own credentials", "unset AWS_PROFILE", nil},
			{func(s *surroundings) { s.with("AWS_DEFAULT_PROFILE=gone") }, severityStops, "do not have", "unset AWS_DEFAULT_PROFILE", nil},
			{func(s *surroundings) { s.with("AWS_PROFILE=app", "AWS_DEFAULT_PROFILE=app") }, severityStops, "AWS_PROFILE and AWS_DEFAULT_PROFILE are set", "unset AWS_PROFILE AWS_DEFAULT_PROFILE", nil},
		},
		"relative-uri": {
			{func(s *surroundings) { s.with(varRelativeURI + "=/v2/credentials/1") }, severityStops, "ask http://169.254.170.2", "unset " + varRelativeURI, nil},
			{func(s *surroundings) { s.with(varRelativeURI + "=") }, severityStops, "though empty", "unset " + varRelativeURI, nil},
		},
		"web-identity": {
			{func(s *surroundings) { s.with("AWS_WEB_IDENTITY_TOKEN_FILE=/t", "AWS_ROLE_ARN=arn:x") }, severityStops, "assume that role themselves", "unset AWS_WEB_IDENTITY_TOKEN_FILE AWS_ROLE_ARN", nil},
			{func(s *surroundings) { s.with("AWS_WEB_IDENTITY_TOKEN_FILE=/t", "KUBERNETES_SERVICE_HOST=10.0.0.1") }, severityStops, "", "kubectl annotate serviceaccount", nil},
		},
		"token-twice": {{func(s *surroundings) {
			s.with(varTokenFile + "=/t")
			s.tokenFile = fileSeen{Path: "/t", Mode: 0o600, Data: []byte(healthyToken)}
		}, severityRisk, "SDKs differ", "unset " + varTokenFile, nil}},
		"token-shape": {
			{func(s *surroundings) {
				s.with(varToken + "=" + healthyToken + "\n")
				s.endpoint.Status, s.endpoint.Shown = 401, false
			}, severityStops, "a newline", `eval "$(stsbroker env app)"`, nil},
			{func(s *surroundings) { s.with(varToken + "= " + healthyToken); s.endpoint = doorSeen{} }, severityStops, "a space", "env app", nil},
		},
		"token-unknown": {
			{func(s *surroundings) {
				s.endpoint = doorSeen{Asked: true, Shown: true, Status: 401, Code: "unauthorized", Ours: true}
			}, severityStops, "does not know the token", "env app", nil},
			{func(s *surroundings) { s.endpoint, s.broker.Tokens = doorSeen{}, []control.Token{} }, severityStops, "does not know the token", "env app", nil},
			{func(s *surroundings) { s.with(varToken + "=another"); s.endpoint = doorSeen{} }, severityStops, "does not know the token", "env app", nil},
		},
		"token-profile":      {{func(s *surroundings) { s.broker.Tokens[0].Profiles = []string{"dev"} }, severityStops, "good for dev", "env app", nil}},
		"token-refused":      {{func(s *surroundings) { s.endpoint.Message = "this token is bound to another user" }, severityStops, "bound to another user", "env app", nil}},
		"token-file-missing": {{file(fileSeen{Err: fs.ErrNotExist}), severityStops, "which is not there", `eval "$(stsbroker env app --token-file)"`, nil}},
		"token-file-unreadable": {
			{file(fileSeen{Err: &fs.PathError{Op: "open", Path: "/t", Err: fs.ErrPermission}}), severityStops, "cannot be read by uid 1000", "sudo chown 1000 /run", nil},
			{file(fileSeen{Err: errors.New("not a regular file")}), severityStops, "not a regular file", "env app", nil},
		},
		"token-file-empty":   {{file(fileSeen{Mode: 0o600}), severityStops, "is empty", "--token-file", nil}},
		"token-file-newline": {{file(fileSeen{Mode: 0o600, Data: []byte(healthyToken + "\n")}), severityStops, "ends with a newline", "printf %s", nil}},
		"token-file-shape":   {{file(fileSeen{Mode: 0o600, Data: []byte("a b\n")}), severityStops, "more than a token", "--token-file", nil}},
		"token-file-mode":    {{file(fileSeen{Mode: 0o644, Data: []byte(healthyToken)}), severityNote, "every user", "chmod 600 /run", nil}},
		"no-token": {
			{func(s *surroundings) {
				s.without(varToken)
				s.endpoint = doorSeen{Asked: true, Status: 401, Code: "unauthorized", Ours: true}
			}, severityStops, "neither", "env app", nil},
			{func(s *surroundings) { s.without(varToken); s.endpoint = doorSeen{} }, severityStops, "neither", "env app", nil},
			{func(s *surroundings) {
				s.without(varToken)
				s.container, s.broker = "a Kubernetes pod", brokerSeen{}
				s.endpoint = doorSeen{Asked: true, Status: 401, Code: "unauthorized", Ours: true}
			}, severityStops, "in a Kubernetes pod", "shared volume", nil},
		},
		"no-endpoint": {
			{func(s *surroundings) { s.without(varFullURI, varToken) }, severityStops, "find nothing", `eval "$(stsbroker env app)"`, nil},
			{func(s *surroundings) { s.without(varFullURI, varToken); s.with("AWS_ACCESS_KEY_ID=AKIACANARY") }, severityStops, "take AWS_ACCESS_KEY_ID", "env app", nil},
			{func(s *surroundings) { s.without(varFullURI, varToken); s.with("AWS_PROFILE=app") }, severityStops, "take what the AWS files have", "env app", nil},
			{func(s *surroundings) { s.without(varFullURI, varToken); s.goos = "windows" }, severityStops, "", "--shell powershell | Out-String | iex", nil},
		},
		"endpoint-url": {
			{func(s *surroundings) {
				s.with(varFullURI + "=http://::1:9170/credentials/app")
				s.endpoint = doorSeen{}
			}, severityStops, "without brackets", "env", nil},
			{func(s *surroundings) { s.with(varFullURI + "=127.0.0.1:9170/x"); s.endpoint = doorSeen{} }, severityStops, "SDKs refuse it", "env", nil},
			{func(s *surroundings) { s.with(varFullURI + "=ftp://127.0.0.1/x"); s.endpoint = doorSeen{} }, severityStops, "http://", "env", nil},
			{func(s *surroundings) { s.with(varFullURI + "=http:///credentials"); s.endpoint = doorSeen{} }, severityStops, "names no host", "env", nil},
		},
		"endpoint-host": {
			{func(s *surroundings) {
				s.with(varFullURI + "=http://me:canary@broker.corp:9170/credentials/app")
				s.endpoint = doorSeen{}
			}, severityStops, "broker.corp:9170", "env app", nil},
			{func(s *surroundings) {
				s.with(varFullURI + "=http://host.docker.internal:9170/credentials/app")
				s.endpoint = doorSeen{}
			}, severityStops, "host.docker.internal", "env app", nil},
		},
		"endpoint-form": {
			{func(s *surroundings) { s.with(varFullURI + "=http://localhost:9170/credentials/app") }, severityRisk, "localhost:9170", "env app", nil},
			{func(s *surroundings) { s.with(varFullURI + "=http://[::1]:9170/credentials/app") }, severityRisk, "[::1]:9170", "env app", nil},
		},
		"endpoint-path":   {{func(s *surroundings) { s.imds(); s.with(varIMDS + "=http://127.0.0.1:9169/latest/") }, severityRisk, "has a path", "export " + varIMDS + "=http://127.0.0.1:9169", nil}},
		"endpoint-silent": {{func(s *surroundings) { s.endpoint = doorSeen{Asked: true, Err: errors.New("refused")} }, severityStops, "the broker is at http://127.0.0.1:9170", "env app", nil}},
		"endpoint-foreign": {
			{func(s *surroundings) {
				s.endpoint = doorSeen{Asked: true, Status: 200, Holder: "process 42 (/usr/bin/nc)"}
			}, severityStops, "it is process 42 (/usr/bin/nc)", "kill 42", nil},
			{func(s *surroundings) {
				s.with(varFullURI + "=http://127.0.0.1:9199/credentials/app")
				s.endpoint = doorSeen{Asked: true, Status: 401, Code: "unauthorized", Ours: true}
			}, severityStops, "and not the one of /run/user/1000/stsbroker/control.sock", "env app", nil},
		},
		"endpoint-elsewhere": {{func(s *surroundings) {
			s.with(varFullURI + "=http://169.254.170.23/v1/credentials")
			s.noDaemon()
			s.endpoint = doorSeen{}
		}, severityRisk, "no address of this host", "env PROFILE --door eks", []string{"no-daemon"}}},
		"link-local": {
			{func(s *surroundings) { s.linkLocal(); s.addresses = s.addresses[:1]; s.endpoint = doorSeen{} }, severityStops, "leads to 169.254.170.23", "sudo ip addr add 169.254.170.23/32 dev lo", nil},
			{func(s *surroundings) {
				s.listen.Container = append(s.listen.Container, ContainerConfig{Address: "169.254.170.2:80"})
			}, severityStops, "stsbroker.yaml listens on 169.254.170.2:80", "sudo ip addr add 169.254.170.2/32 dev lo", nil},
			{func(s *surroundings) {
				s.goos = "darwin"
				s.listen.IMDS = []IMDSConfig{{Address: "169.254.169.254:80"}}
			}, severityStops, "", "sudo ifconfig lo0 alias 169.254.169.254/32", nil},
		},
		"imds-refused": {
			{func(s *surroundings) { s.imds(); s.endpoint.Status = 403 }, severityStops, "(uid 1000): it serves the one who runs the broker, and whom a rule of access", "{ uid: 1000, profiles: [app] } added under access in its stsbroker.yaml, then: stsbroker reload; or run a broker of your own: stsbroker serve", nil},
			{func(s *surroundings) { s.imds(); s.endpoint.Status, s.uid = 403, 0 }, severityStops, "(uid 0)", "stsbroker serve (as an ordinary user)", nil},
		},
		"imds-disabled": {
			{func(s *surroundings) { s.imds(); s.with(varNoIMDS + "=true") }, severityStops, "do not ask", "unset " + varNoIMDS, nil},
			{func(s *surroundings) { s.imds(); s.with(varNoIMDS + "=false") }, severityRisk, "JavaScript v2", "unset " + varNoIMDS, nil},
		},
		"proxy": {
			{func(s *surroundings) { s.imds(); s.with("HTTP_PROXY=http://me:canary@proxy:3128") }, severityStops, "boto", "export NO_PROXY=127.0.0.1,localhost", nil},
			{func(s *surroundings) { s.imds(); s.with("http_proxy=x", "NO_PROXY=127.0.0.0/8", "no_proxy=.corp") }, severityStops, "boto", "NO_PROXY=127.0.0.0/8,127.0.0.1,localhost no_proxy=.corp,127.0.0.1,localhost", nil},
			{func(s *surroundings) {
				s.linkLocal()
				s.with("http_proxy=http://proxy:3128", "no_proxy=localhost,127.0.0.1")
			}, severityStops, "Go and others", "169.254.170.23", nil},
			{func(s *surroundings) { s.with("ALL_PROXY=socks5://proxy:1080") }, severityNote, "curl", "export NO_PROXY=127.0.0.1,localhost", nil},
		},
		"region": {
			{func(s *surroundings) { s.without("AWS_REGION", "AWS_DEFAULT_REGION", varNoIMDS) }, severityRisk, "AWS CLI v2", "export AWS_REGION=eu-central-1 AWS_DEFAULT_REGION=eu-central-1 AWS_EC2_METADATA_DISABLED=true", nil},
			{func(s *surroundings) { s.without("AWS_REGION", "AWS_DEFAULT_REGION") }, severityNote, "no region", "export AWS_REGION=eu-central-1", nil},
		},
		"aws-file-missing": {
			{func(s *surroundings) { s.with("AWS_CONFIG_FILE=/nowhere"); s.missing = []string{"AWS_CONFIG_FILE"} }, severityRisk, "/nowhere", "unset AWS_CONFIG_FILE", nil},
			{func(s *surroundings) {
				s.with("AWS_CONFIG_FILE=/run/stsbroker/aws-1/config")
				s.missing = []string{"AWS_CONFIG_FILE"}
			}, severityRisk, "", "env app", nil},
		},
		"stale-copy": {{func(s *surroundings) { s.stale = true }, severityRisk, "has changed since", "env app", nil}},
		"ca-bundle": {
			{func(s *surroundings) {
				s.caBundle = fileSeen{Path: "/ca.pem", Err: &fs.PathError{Op: "open", Path: "/ca.pem", Err: fs.ErrPermission}}
			}, severityStops, "/ca.pem, which cannot be read (permission denied)", "unset AWS_CA_BUNDLE", nil},
			{func(s *surroundings) { s.caBundle = fileSeen{Path: "/ca.pem", Data: []byte("x")} }, severityStops, "no PEM certificate", "unset AWS_CA_BUNDLE", nil},
		},
		"aws-file-mode": {{func(s *surroundings) { s.awsFile[1].Mode = 0o644 }, severityNote, "/home/me/.aws/credentials", "chmod 600 /home/me/.aws/credentials", nil}},
		"no-daemon": {
			{(*surroundings).noDaemon, severityStops, "no broker is running", "stsbroker serve", nil},
			{func(s *surroundings) { s.noDaemon(); s.unit = "systemctl --user " }, severityStops, "", "systemctl --user start stsbroker", nil},
			{func(s *surroundings) { s.noDaemon(); s.unit = "sudo systemctl " }, severityStops, "", "sudo systemctl start stsbroker", nil},
			{stale, severityStops, "of a broker that was killed", "stsbroker serve", nil},
			{func(s *surroundings) { s.noDaemon(); s.broker.InWay = true }, severityStops, "which is no socket: serve does not start", "mv /run/user/1000/stsbroker/control.sock /run/user/1000/stsbroker/control.sock.away, then: stsbroker serve", nil},
			{func(s *surroundings) { s.noDaemon(); s.endpoint = doorSeen{} }, severityStops, "no broker is running", "stsbroker serve", nil},
			{func(s *surroundings) {
				s.noDaemon()
				s.without(varFullURI, varToken)
				s.endpoint = doorSeen{}
				s.aws.Profiles = append(s.aws.Profiles, awsconfig.Profile{Name: "default", Process: &awsconfig.Process{Command: "stsbroker credential-process app"}})
			}, severityNote, "mints for itself", "stsbroker serve", nil},
		},
		"daemon-foreign": {
			{func(s *surroundings) { s.noDaemon(); s.broker.Foreign = true }, severityStops, "another user's", "stsbroker serve", nil},
			{func(s *surroundings) {
				s.noDaemon()
				s.broker, s.unit = brokerSeen{Path: systemControl, System: true, Foreign: true}, "sudo systemctl "
			}, severityStops, "the broker at /run/stsbroker/control.sock is another user's, and gives uid 1000 nothing", "have { uid: 1000, profiles: [app] } added under access in its stsbroker.yaml, then: stsbroker reload; or run a broker of your own: stsbroker serve", nil},
		},
		"daemon-silent": {
			{func(s *surroundings) { s.silentSystem(); s.uid = 0 }, severityStops, "the broker at /run/stsbroker/control.sock does not answer", "journalctl -u stsbroker -n 20", nil},
			{(*surroundings).silentSystem, severityStops, "cannot start", "sudo journalctl -u stsbroker -n 20", nil},
			{func(s *surroundings) {
				s.silentSystem()
				s.config, s.findings = fileSeen{Path: systemConfig}, []Finding{{File: systemConfig, Line: 4, Text: "unknown key"}}
			}, severityStops, "", "", []string{"config"}},
			{func(s *surroundings) {
				s.noDaemon()
				s.broker.Silent, s.unit = true, "systemctl --user "
			}, severityStops, "/run/user/1000/stsbroker/control.sock", "journalctl --user -u stsbroker -n 20", nil},
			{func(s *surroundings) { s.noDaemon(); s.broker.Silent = true }, severityStops, "or it hangs", "stop the broker", nil},
		},
		"daemon-error": {{func(s *surroundings) {
			s.broker.Status, s.broker.Tokens, s.broker.Err = nil, nil, errors.New("hung up")
			s.endpoint = doorSeen{}
		}, severityStops, "hung up", "stsbroker serve", nil}},
		"port-taken": {
			{func(s *surroundings) {
				s.noDaemon()
				s.taken = []portSeen{{netip.MustParseAddrPort("127.0.0.1:9170"), "process 42 (/usr/bin/nc)", false}}
			}, severityStops, "127.0.0.1:9170 is taken: it is process 42 (/usr/bin/nc)", "kill 42", []string{"no-daemon"}},
			{func(s *surroundings) {
				s.noDaemon()
				s.taken = []portSeen{{netip.MustParseAddrPort("127.0.0.1:9170"), "a process of uid 0", false}}
			}, severityStops, "uid 0", "sudo ss -ltnp 'sport = :9170'", []string{"no-daemon"}},
		},
		"reload-failed": {
			{func(s *surroundings) { s.broker.Status.Failed = "c.yaml:3: unknown key" }, severityRisk, "c.yaml:3: unknown key", "stsbroker check (shows the place), then: stsbroker reload", nil},
			{func(s *surroundings) {
				s.config, s.broker.Status.Failed = fileSeen{Path: "/srv/c.yaml"}, "c.yaml:3: unknown key"
			}, severityRisk, "", "stsbroker check --config /srv/c.yaml (shows the place)", nil},
			{func(s *surroundings) {
				s.broker.Status.Failed = "c.yaml: listen on 127.0.0.1:9171: port 9171 is taken by another program (bind: address already in use); find it with: ss; stsbroker reload tries again"
			}, severityRisk, "is taken by", "sudo ss -ltnp 'sport = :9171' (names who has the port), then: stsbroker reload", nil},
		},
		"version": {{func(s *surroundings) { s.broker.Status.Version = "0.9.0" }, severityRisk, "version 0.9.0, and this is 1.0.0", "kill 77; stsbroker serve", nil}},
		"custody-locked": {
			{func(s *surroundings) {
				s.broker.Status.Custody, s.broker.Status.Problem = "locked", "a passphrase opens it"
			}, severityRisk, "a passphrase opens it", "stsbroker unlock", nil},
			{func(s *surroundings) { s.endpoint.Code, s.broker.Status.Custody = "locked", "locked" }, severityStops, "knows no token", "stsbroker unlock", nil},
		},
		"identity-same-disk": {{func(s *surroundings) {
			s.broker.Status.Sealed = &control.Sealed{Identity: "/home/me/identity", SameDisk: true}
		}, severityNote, "/home/me/identity", "mv /home/me/identity", nil}},
		"unsaved": {{func(s *surroundings) {
			s.broker.Status.Sealed = &control.Sealed{File: "/leases", Error: "no space left"}
		}, severityRisk, "no space left", "df /leases", nil}},
		"environment": {
			{func(s *surroundings) { s.broker.Status.Changed = []string{"AWS_CONFIG_FILE", "NO_PROXY"} }, severityNote, "AWS_CONFIG_FILE, NO_PROXY", "env -u AWS_CONFIG_FILE -u NO_PROXY stsbroker serve", nil},
			{func(s *surroundings) {
				s.broker.Status.Changed, s.unit = []string{"AWS_CA_BUNDLE"}, "systemctl --user "
			}, severityNote, "", "systemctl --user unset-environment AWS_CA_BUNDLE && systemctl --user restart stsbroker", nil},
		},
		"environment-late": {{func(s *surroundings) {
			s.with("HTTPS_PROXY=http://me:canary@proxy:3128")
			s.broker.Status.Lame = []control.Region{{Name: "eu-central-1"}}
			s.unit = "systemctl --user "
		}, severityRisk, "HTTPS_PROXY is set here", "systemctl --user import-environment HTTPS_PROXY", nil}},
		"profile-unknown": {{func(s *surroundings) { s.broker.Status.Profiles = s.broker.Status.Profiles[1:] }, severityStops, "no profile app", "stsbroker status", nil}},
		"profile-other":   {{func(s *surroundings) { s.profile = "dev" }, severityStops, "profile app, not to dev", "env dev", nil}},
		"profile-unservable": {
			{p(control.Profile{State: "unservable", Reason: "its source is gone"}), severityStops, "its source is gone", "stsbroker check", nil},
			{func(s *surroundings) {
				p(control.Profile{State: "unservable", Reason: "who administers the broker sees why"})(s)
				s.broker.System = true
			}, severityStops, "", "sudo stsbroker check --config /etc/stsbroker/stsbroker.yaml", nil},
		},
		"login-needed": {
			{p(control.Profile{State: "login-needed"}), severityStops, "waits for a login", "stsbroker login app", nil},
			{p(control.Profile{State: "login-needed", Left: 600}), severityRisk, "in 10m", "stsbroker login app", nil},
		},
		"profile-error":   {{p(control.Profile{State: "error", LastError: "AccessDenied"}), severityStops, "AccessDenied", "stsbroker refresh app", nil}},
		"profile-failing": {{p(control.Profile{State: "failing", LastError: "throttled", Left: 900}), severityRisk, "throttled", "stsbroker refresh app", nil}},
		"config": {
			{func(s *surroundings) { s.findings = []Finding{{File: "/c.yaml", Line: 3, Text: "unknown key"}} }, severityRisk, "/c.yaml:3", "stsbroker check", nil},
			{func(s *surroundings) {
				s.silentSystem()
				s.config, s.findings = fileSeen{Path: systemConfig}, []Finding{{File: systemConfig, Line: 4, Text: "unknown key"}}
			}, severityStops, "/etc/stsbroker/stsbroker.yaml:4: ", "stsbroker check --config /etc/stsbroker/stsbroker.yaml", []string{"daemon-silent"}},
			{func(s *surroundings) {
				s.noDaemon()
				s.findings = []Finding{{File: "/c.yaml", Line: 3, Text: "unknown key"}}
			}, severityStops, "/c.yaml:3", "stsbroker check", []string{"no-daemon"}},
		},
		"config-mode": {{func(s *surroundings) {
			s.findings = []Finding{{File: "/c.yaml", Text: "not trusted: /c.yaml has mode 0666: everybody may change it; run: chmod go-w /c.yaml"}}
		}, severityRisk, "everybody may change it", "chmod go-w /c.yaml", nil}},
		"state-mode": {{func(s *surroundings) { s.state.Mode = fs.ModeDir | 0o755 }, severityRisk, "0755", "chmod 700 /home/me/.local/state/stsbroker", nil}},
		"identity": {
			{func(s *surroundings) { s.identity = fileSeen{Path: "/id", Mode: 0o640} }, severityRisk, "0640", "chmod 600 /id", nil},
			{func(s *surroundings) { s.noDaemon(); s.identity = fileSeen{Path: "/id", Err: fs.ErrPermission} }, severityStops, "permission denied", "sudo chown 1000 /id", []string{"no-daemon"}},
		},
		"route-localnet": {{func(s *surroundings) { s.routed = []string{"all", "eth0"} }, severityNote, "all, eth0", "sudo sysctl -w net.ipv4.conf.all.route_localnet=0 net.ipv4.conf.eth0.route_localnet=0", nil}},
		"peer-unknown":   {{func(s *surroundings) { s.imds(); s.peer = errors.New("no netlink") }, severityStops, "no netlink", "stsbroker env", nil}},
		"nobody":         {{func(s *surroundings) { s.uid = 65534 }, severityStops, "65534", "PrivateUsers=no", nil}},
		"clock": {
			{func(s *surroundings) { s.sts.Skew = 20 * time.Minute }, severityStops, "20m ahead of", "sudo timedatectl set-ntp true", nil},
			{func(s *surroundings) { s.sts.Skew = -6 * time.Minute }, severityRisk, "6m behind", "sudo timedatectl set-ntp true", nil},
			{func(s *surroundings) { s.sts.Skew = -6 * time.Minute; s.goos = "darwin" }, severityRisk, "", "sntp", nil},
		},
		"sts-dns": {
			{sts(stsSeen{Kind: stsDNS, Detail: "no such host"}), severityRisk, "no such host", "getent hosts sts.eu-central-1.amazonaws.com", nil},
			{func(s *surroundings) { s.noDaemon(); sts(stsSeen{Kind: stsDNS})(s) }, severityStops, "", "getent", []string{"no-daemon"}},
		},
		"sts-tcp": {
			{sts(stsSeen{Kind: stsRefused}), severityRisk, "refuses the connection", "HTTPS_PROXY", nil},
			{sts(stsSeen{Kind: stsSilent}), severityRisk, "no connection within", "HTTPS_PROXY", nil},
			{sts(stsSeen{Kind: stsNoRoute}), severityRisk, "no route", "ip route", nil},
		},
		"sts-tls-authority": {{sts(stsSeen{Kind: stsAuthority, Detail: "Corp CA"}), severityRisk, "signed by Corp CA", "export AWS_CA_BUNDLE=", nil}},
		"sts-tls-expired": {
			{sts(stsSeen{Kind: stsExpired, Detail: "2020-01-01"}), severityRisk, "ended on 2020-01-01", "date -u", nil},
			{sts(stsSeen{Kind: stsNotYet, Detail: "2099-01-01"}), severityRisk, "clock is behind", "timedatectl", nil},
		},
		"sts-tls-name": {{sts(stsSeen{Kind: stsName}), severityRisk, "another name", "getent hosts", nil}},
		"sts-tls":      {{sts(stsSeen{Kind: stsTLS, Detail: "does not speak TLS"}), severityRisk, "does not speak TLS", "openssl s_client -connect sts.eu-central-1.amazonaws.com:443", nil}},
		"sts-proxy": {
			{sts(stsSeen{Kind: stsProxyDown, Proxy: "proxy:3128"}), severityRisk, "proxy:3128 cannot be reached", "unset HTTPS_PROXY https_proxy", nil},
			{sts(stsSeen{Kind: stsProxyURL}), severityRisk, "no URL", "unset HTTPS_PROXY https_proxy", nil},
		},
		"sts-proxy-login":   {{sts(stsSeen{Kind: stsProxyLogin, Proxy: "proxy:3128"}), severityRisk, "407", "export HTTPS_PROXY=http://USER:PASSWORD@proxy:3128", nil}},
		"sts-proxy-refuses": {{sts(stsSeen{Kind: stsProxyNo, Proxy: "proxy:3128", Detail: "Forbidden"}), severityRisk, "Forbidden", "export NO_PROXY=sts.eu-central-1.amazonaws.com", nil}},
		"sts-silent": {
			{sts(stsSeen{Kind: stsMute}), severityRisk, "does not answer", "curl -sv -m 5 https://sts.eu-central-1.amazonaws.com/", nil},
			{sts(stsSeen{Kind: stsMute, Scheme: "http"}), severityRisk, "does not answer", "curl -sv -m 5 http://sts.eu-central-1.amazonaws.com/", nil},
		},
		"sts-failing": {{sts(stsSeen{Kind: stsFailing, Detail: "503"}), severityRisk, "503", "stsbroker doctor", nil}},
		"sts-foreign": {{sts(stsSeen{Kind: stsForeign, Detail: "200 OK"}), severityRisk, "is not STS", "curl -sv", nil}},
		"sts-failed":  {{sts(stsSeen{Kind: stsFailed, Detail: "EOF"}), severityRisk, "EOF", "stsbroker check", nil}},
		"old-sdk": {{func(s *surroundings) {
			s.tokenIn(fileSeen{Mode: 0o600, Data: []byte(healthyToken)})
			s.sdks = []sdkSeen{{"AWS CLI", "2.9.19", "/usr/bin/aws", sinceCLI2, "upgrade"}, {"botocore", "1.43.0", "/x", sinceBoto, "upgrade"}}
		}, severityRisk, "AWS CLI 2.9.19 (/usr/bin/aws)", "upgrade (or", nil}},
	}
}

// Every finding, provoked alone: it is there with its weight and its remedy, and nothing
// else is but what it comes with.
func TestDoctorFinds(t *testing.T) {
	for id, cases := range doctorCases() {
		for _, c := range cases {
			t.Run(id, func(t *testing.T) {
				s := healthy()
				c.change(s)
				var hit bool
				for _, f := range judge(s) {
					switch {
					case f.ID == id:
						hit = true
						if f.Severity != c.severity || !strings.Contains(f.What, c.what) || !strings.Contains(f.Do, c.do) {
							t.Errorf("%+v, want %s, %q and %q", f, c.severity, c.what, c.do)
						}
					case !slices.Contains(c.also, f.ID):
						t.Errorf("also %+v", f)
					}
					for _, line := range []string{f.What, f.Do} {
						if strings.TrimSpace(line) == "" || strings.Contains(line, "%!") || strings.ContainsAny(line, "\n\x1b") {
							t.Errorf("%q is no line", line)
						}
						for _, secret := range []string{"canary", "AKIACANARY", healthyToken} {
							if strings.Contains(line, secret) {
								t.Errorf("%q holds a secret", line)
							}
						}
					}
				}
				if !hit {
					t.Errorf("not found")
				}
			})
		}
	}
}

// What judge can say is provoked above and explained in the documentation, and nothing else is.
func TestDoctorIsComplete(t *testing.T) {
	files, err := filepath.Glob("doctor_judge*.go")
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]bool{}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?:stops|risk|note|raise)\("([a-z-]+)"`).FindAllStringSubmatch(string(source), -1) {
			said[m[1]] = true
		}
	}
	page, err := os.ReadFile("../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	explained := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		explained[m[1]] = true
	}
	want := slices.Sorted(maps.Keys(said))
	if got := slices.Sorted(maps.Keys(doctorCases())); !slices.Equal(got, want) {
		t.Errorf("provoked: %q\nof:       %q", got, want)
	}
	if got := slices.Sorted(maps.Keys(explained)); !slices.Equal(got, want) {
		t.Errorf("explained: %q\nof:        %q", got, want)
	}
	if len(want) < 20 {
		t.Errorf("only %d findings", len(want))
	}
}

func TestShowComplaints(t *testing.T) {
	s := healthy()
	var out strings.Builder
	showComplaints(&out, paint{}, s, []complaint{
		{"a", severityNote, "a note", "do a"}, {"b", severityStops, "a \x1b[31mstop", "do b"}, {"c", severityRisk, "a risk", "do c"}, {"d", severityStops, "another", "do d"},
	})
	const want = `stops SDKs here:
  a �[31mstop
    -> do b
  another
    -> do d
stops some programs, or will:
  a risk
    -> do c
worth knowing:
  a note
    -> do a
looked at: the environment, /home/me/.aws/config, /home/me/.aws/credentials, the broker (process 77), the endpoint http://127.0.0.1:9170/credentials/app, STS at sts.eu-central-1.amazonaws.com
`
	if out.String() != want {
		t.Errorf("%s", out.String())
	}
	out.Reset()
	showComplaints(&out, paint{on: true}, s, nil)
	if !strings.HasPrefix(out.String(), "nothing found\n") || !strings.Contains(out.String(), "\x1b[") {
		t.Errorf("%q", out.String())
	}
}

// loadAWS is a config file as SDKs find it.
func loadAWS(config string) *awsconfig.Config {
	dir, err := os.MkdirTemp("", "doctor-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "config")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		panic(err)
	}
	return awsconfig.Load(awsconfig.Files{Config: path})
}
