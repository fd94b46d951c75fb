package main

import (
	"cmp"
	"errors"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"github.com/stsbroker/stsbroker/broker/awsconfig"
	"github.com/stsbroker/stsbroker/internal/awsini"
	"github.com/stsbroker/stsbroker/internal/control"
)

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
