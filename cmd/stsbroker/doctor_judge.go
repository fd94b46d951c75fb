package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/stsbroker/stsbroker/internal/awsini"
	"github.com/stsbroker/stsbroker/internal/control"
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

// check is the command that shows what is wrong with the stsbroker.yaml that counts.
func (s *surroundings) check() string {
	switch path := s.config.Path; {
	case path != "" && path != s.usual:
		return s.self + " check --config " + shQuote(path)
	case path == "" && s.broker.System: // a guest's; root knows
		return "sudo " + s.self + " check --config " + systemConfig
	}
	return s.self + " check"
}

// start and restart are the commands for the daemon.
func (s *surroundings) start() string {
	if s.broker.InWay {
		return "mv " + shQuote(s.broker.Path) + " " + shQuote(s.broker.Path+".away") + ", then: " + s.self + " serve"
	}
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
