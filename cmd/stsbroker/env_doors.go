package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/stsbroker/stsbroker/broker/awsconfig"
	"github.com/stsbroker/stsbroker/internal/control"
)

// The doors, as --door of env and exec names them.
const (
	doorContainer = "container"
	doorECS       = "ecs"
	doorEKS       = "eks"
	doorIMDS      = "imds"
	doorProcess   = "process"
)

// doorsOfEnv and doorsOfExec are what each may be told. The token of the EKS shape
// is a service's, and would not die with exec's child.
func doorsOfEnv() []string {
	return []string{doorContainer, doorECS, doorEKS, doorIMDS, doorProcess}
}
func doorsOfExec() []string { return []string{doorContainer, doorECS, doorIMDS} }

// variables are what a program's environment needs to find a door.
type variables struct {
	Set   map[string]string `json:"set"`
	Unset []string          `json:"unset"`
}

const (
	varFullURI     = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
	varRelativeURI = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
	varToken       = "AWS_CONTAINER_AUTHORIZATION_TOKEN"
	varTokenFile   = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
	varIMDS        = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
	varNoIMDS      = "AWS_EC2_METADATA_DISABLED"
)

// leading are the variables that lead to a door, and all that would lead elsewhere or
// confuse it (wire contract, line 22). Even empty, RELATIVE_URI sends boto to
// 169.254.170.2.
func leading(set map[string]string) variables {
	v := variables{Set: set}
	for _, name := range []string{
		varRelativeURI, "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
		"AWS_SESSION_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", varFullURI, varToken, varTokenFile,
	} {
		if _, used := set[name]; !used { // never token and token file: SDKs differ on which wins
			v.Unset = append(v.Unset, name)
		}
	}
	return v
}

// endpointVariables lead to the container door, on loopback or at ECS's address.
func (p place) endpointVariables(door string, st control.Status, e control.Endpoint) (variables, error) {
	if e.URI == "" {
		return variables{}, errors.New("the broker has no container door: listen.container is empty")
	}
	set := map[string]string{varFullURI: e.URI}
	if door == doorECS {
		if !slices.Contains(st.Container, "http://169.254.170.2") {
			return variables{}, errors.New(`the broker does not listen on 169.254.170.2; give that address to this host, add it to stsbroker.yaml: listen: { container: ["127.0.0.1:9170", "169.254.170.2:80"] }`)
		}
		set = map[string]string{varRelativeURI: e.Path}
		undisturbed(set, "169.254.170.2")
	}
	if e.TokenFile != "" {
		set[varTokenFile] = e.TokenFile
	} else {
		set[varToken] = e.Token
	}
	set[varNoIMDS] = "true" // CLI v2 would ask IMDS for the region
	return leading(set), p.complete(set, e.Region)
}

// eksVariables lead to the container door in the shape of EKS Pod Identity: one
// address for all, where the token in the file says which profile is meant.
func (p place) eksVariables(st control.Status) (variables, error) {
	profile := st.Profiles[0]
	if profile.Reason != "" {
		return variables{}, fmt.Errorf("profile %s is unservable: %s", profile.Name, profile.Reason)
	}
	i := slices.IndexFunc(st.TokenFiles, func(f control.File) bool { return f.Profiles[0] == profile.Name })
	if i < 0 {
		return variables{}, fmt.Errorf("profile %s is the first of no token file; add one to stsbroker.yaml: token_files: { %s: { profiles: [%s] } }", profile.Name, profile.Name, profile.Name)
	}
	if problem := st.TokenFiles[i].Problem; problem != "" {
		return variables{}, fmt.Errorf("the token file %s: %s", st.TokenFiles[i].Path, problem)
	}
	if len(st.Container) == 0 {
		return variables{}, errors.New("the broker has no container door: listen.container is empty")
	}
	base := st.Container[0]
	for _, door := range st.Container {
		if host := hostOf(door); host == "169.254.170.23" || host == "fd00:ec2::23" {
			base = door
			break
		}
	}
	set := map[string]string{varFullURI: base + "/v1/credentials", varTokenFile: st.TokenFiles[i].Path, varNoIMDS: "true"}
	if !isLoopbackURL(base) {
		undisturbed(set, hostOf(base))
	}
	return leading(set), p.complete(set, profile.Region)
}

// imdsVariables lead to the profile's IMDS door (wire contract, line 23). SDKs
// look at the container endpoint first, so its variables are unset.
func (p place) imdsVariables(st control.Status) (variables, error) {
	profile := st.Profiles[0]
	if profile.Reason != "" {
		return variables{}, fmt.Errorf("profile %s is unservable: %s", profile.Name, profile.Reason)
	}
	i := slices.IndexFunc(st.IMDS, func(l control.IMDS) bool { return l.Profile == profile.Name })
	if i < 0 {
		return variables{}, fmt.Errorf("profile %s has no IMDS endpoint; add it to stsbroker.yaml: listen: { imds: [{ profile: %s }] }", profile.Name, profile.Name)
	}
	set := map[string]string{varIMDS: st.IMDS[i].URL}
	hosts := []string{"127.0.0.1", "localhost", "169.254.169.254"}
	if host := hostOf(st.IMDS[i].URL); strings.Contains(host, ":") { // programs differ on whether it has its brackets there
		hosts = append(hosts, host, "["+host+"]")
	}
	undisturbed(set, hosts...)
	v := leading(set)
	v.Unset = append(v.Unset, varNoIMDS) // JavaScript v2 takes any value of it for true
	return v, p.complete(set, profile.Region)
}

// undisturbed keeps a proxy from the calls to these hosts: boto sends even those to
// loopback to HTTP_PROXY, and Go all others. Programs differ on which spelling wins,
// so one that is there already is not left behind.
func undisturbed(set map[string]string, hosts ...string) {
	upper, lower := os.Getenv("NO_PROXY"), os.Getenv("no_proxy")
	set["NO_PROXY"] = direct(cmp.Or(upper, lower), hosts)
	if lower != "" {
		set["no_proxy"] = direct(lower, hosts)
	}
}

// hostOf is the host of a door's URL, an IPv6 address without brackets.
func hostOf(door string) string {
	u, err := url.Parse(door)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// direct adds hosts to a NO_PROXY. Only a * that stands alone is all hosts to every
// client.
func direct(old string, hosts []string) string {
	list := strings.FieldsFunc(old, func(r rune) bool { return r == ',' || r == ' ' })
	if strings.TrimSpace(old) == "*" {
		return old
	}
	for _, h := range hosts {
		if !slices.Contains(list, h) {
			list = append(list, h)
		}
	}
	return strings.Join(list, ",")
}

// complete adds what programs need whatever the door. It also takes the default
// profile's own credentials out of the way: most SDKs look there before they ask an
// endpoint.
func (p place) complete(set map[string]string, region string) error {
	if region != "" {
		set["AWS_REGION"], set["AWS_DEFAULT_REGION"] = region, region
	}
	if err := p.isolate(set); err != nil {
		return fmt.Errorf("the default profile of the AWS files has credentials of its own, which most SDKs would prefer; no copy without them could be made: %w", err)
	}
	return nil
}

// processLines prints the section of an AWS config file by which SDKs ask a
// credential process for the profile. One that the AWS files define themselves stays
// as it is, because the broker mints with it: the section has another name then.
func (p place) processLines(w io.Writer, g *globals, profile control.Profile) error {
	if profile.Reason != "" {
		return fmt.Errorf("profile %s is unservable: %s", profile.Name, profile.Reason)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("the path of this program is not known: %w", err)
	}
	words := []string{self}
	for _, option := range []struct{ name, value string }{{"--config", g.config}, {"--socket", g.socket}} {
		if option.value != "" {
			words = append(words, option.name, absolute(option.value))
		}
	}
	words = append(words, "credential-process")
	if strings.HasPrefix(profile.Name, "-") {
		words = append(words, "--")
	}
	words = append(words, profile.Name)
	for i, word := range words {
		words[i] = shQuote(word)
		if runtime.GOOS == "windows" && words[i] != word {
			words[i] = `"` + word + `"`
		}
	}
	name, head := profile.Name, ""
	files := originals(awsconfig.DefaultFiles(p.getenv, p.home))
	for _, file := range []string{files.Config, files.Credentials} {
		if strings.HasPrefix(profile.Origin, file+":") {
			name += "-stsbroker"
			head = "# Beside " + profile.Name + " of " + filepath.Base(file) + ", which stays: stsbroker mints with it.\n"
			break
		}
	}
	section := "profile " + name
	if strings.ContainsAny(name, " \t#;") {
		section = `profile "` + name + `"`
	}
	lines := head + "[" + section + "]\ncredential_process = " + strings.Join(words, " ") + "\n"
	if profile.Region != "" {
		lines += "region = " + profile.Region + "\n"
	}
	_, err = io.WriteString(w, lines)
	return err
}
