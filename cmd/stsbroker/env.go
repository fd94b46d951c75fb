package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/awsconfig"
	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

func envCommand(g *globals) *cobra.Command {
	var shell, door string
	var file bool
	c := &cobra.Command{
		Use:   "env PROFILE",
		Short: "print the variables that point a shell's programs at a profile",
		Long: `env prints the variables to export and the ones to unset, for a running broker:

    eval "$(stsbroker env PROFILE)"                                     sh, bash, zsh
    stsbroker env PROFILE --shell fish | source                         fish
    stsbroker env PROFILE --shell powershell | Out-String | iex         PowerShell

The token in them is good for this profile only, and for 12 hours after it was last used.
With --door imds there is none: they lead to the profile's IMDS endpoint, which knows
its callers by their user.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeProfiles(g),
		RunE: func(cmd *cobra.Command, args []string) error {
			print, ok := shells[shell]
			switch {
			case !ok:
				return usage("--shell %s: it is one of sh, fish, powershell, dotenv, json", shell)
			case door != "container" && door != "imds":
				return usage("--door %s: it is container or imds", door)
			case door == "imds" && file:
				return usage("--token-file is of the container door; IMDS has no token that one could write down")
			}
			s, err := connect(cmd.Context(), g)
			if err != nil {
				return err
			}
			p, err := findPlace(g, false)
			if err != nil {
				return err
			}
			st, err := s.Status(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var vars variables
			if door == "imds" {
				vars, err = p.imdsVariables(st)
			} else {
				vars, err = p.variables(cmd.Context(), s, args[0], file)
			}
			if err != nil {
				return err
			}
			if st.Profiles[0].State == string(broker.StateLogin) {
				remark("profile %s needs a code of %s before it gives credentials: run stsbroker login %s", oneLine(args[0]), oneLine(st.Profiles[0].MFA), oneLine(args[0]))
			}
			return print(os.Stdout, vars)
		},
	}
	c.Flags().StringVar(&shell, "shell", "sh", "sh, fish, powershell, dotenv or json")
	c.Flags().StringVar(&door, "door", "container", "container, or imds where listen.imds names the profile")
	c.Flags().BoolVar(&file, "token-file", false, "point at a file that holds the token (not every SDK knows that variable)")
	return c
}

func (p place) variables(ctx context.Context, s control.Service, profile string, file bool) (variables, error) {
	e, err := s.Env(ctx, profile, file)
	if err != nil {
		return variables{}, err
	}
	return p.endpointVariables(e)
}

// variables are what a program's environment needs to find the container door.
type variables struct {
	Set   map[string]string `json:"set"`
	Unset []string          `json:"unset"`
}

// unset are the variables that would win over the container door, or confuse it
// (wire contract, line 22). Even empty, RELATIVE_URI sends boto to 169.254.170.2.
var unset = []string{
	"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
	"AWS_SESSION_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN",
}

const (
	varToken     = "AWS_CONTAINER_AUTHORIZATION_TOKEN"
	varTokenFile = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"
)

// endpointVariables also takes the default profile's own credentials out of the
// way: most SDKs look there before they ask the container endpoint.
func (p place) endpointVariables(e control.Endpoint) (variables, error) {
	v := variables{
		Set: map[string]string{
			"AWS_CONTAINER_CREDENTIALS_FULL_URI": e.URI,
			"AWS_EC2_METADATA_DISABLED":          "true", // CLI v2 would ask IMDS for the region
		},
		Unset: slices.Clone(unset),
	}
	if e.TokenFile != "" { // never both: SDKs differ on which wins
		v.Set[varTokenFile] = e.TokenFile
		v.Unset = append(v.Unset, varToken)
	} else {
		v.Set[varToken] = e.Token
		v.Unset = append(v.Unset, varTokenFile)
	}
	return v, p.complete(v.Set, e.Region)
}

// complete adds what programs need whatever the door.
func (p place) complete(set map[string]string, region string) error {
	if region != "" {
		set["AWS_REGION"], set["AWS_DEFAULT_REGION"] = region, region
	}
	if err := p.isolate(set); err != nil {
		return fmt.Errorf("the default profile of the AWS files has credentials of its own, which most SDKs would prefer; no copy without them could be made: %w", err)
	}
	return nil
}

// imdsVariables lead to the profile's IMDS door (wire contract, line 23). SDKs
// look at the container endpoint first, so its variables are unset.
func (p place) imdsVariables(st control.Status) (variables, error) {
	profile := st.Profiles[0]
	i := slices.IndexFunc(st.IMDS, func(l control.IMDS) bool { return l.Profile == profile.Name })
	if i < 0 {
		return variables{}, fmt.Errorf("profile %s has no IMDS endpoint; add it to stsbroker.yaml and restart: listen: { imds: [{ profile: %s }] }", profile.Name, profile.Name)
	}
	if profile.Reason != "" {
		return variables{}, fmt.Errorf("profile %s is unservable: %s", profile.Name, profile.Reason)
	}
	v := variables{
		Set: map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": st.IMDS[i].URL},
		// JavaScript v2 takes any value of the last one for true.
		Unset: append(slices.Clone(unset), "AWS_CONTAINER_CREDENTIALS_FULL_URI", varToken, varTokenFile, "AWS_EC2_METADATA_DISABLED"),
	}
	// boto sends even its calls to loopback to HTTP_PROXY. Programs differ on which
	// spelling wins, so one that is there already is not left behind.
	upper, lower := os.Getenv("NO_PROXY"), os.Getenv("no_proxy")
	v.Set["NO_PROXY"] = direct(cmp.Or(upper, lower), st.IMDS[i].URL)
	if lower != "" {
		v.Set["no_proxy"] = direct(lower, st.IMDS[i].URL)
	}
	return v, p.complete(v.Set, profile.Region)
}

// direct adds the hosts that no proxy may see to a NO_PROXY, for a door at that
// URL. Programs differ on whether an IPv6 address has its brackets there.
func direct(hosts, door string) string {
	list := strings.FieldsFunc(hosts, func(r rune) bool { return r == ',' || r == ' ' })
	if slices.Contains(list, "*") {
		return hosts
	}
	ours := []string{"127.0.0.1", "localhost", "169.254.169.254"}
	if strings.HasPrefix(door, "http://[::1]:") {
		ours = append(ours, "::1", "[::1]")
	}
	for _, h := range ours {
		if !slices.Contains(list, h) {
			list = append(list, h)
		}
	}
	return strings.Join(list, ",")
}

// A runtime copy begins with these lines, so that it is known for what it is
// and never taken for a source.
const (
	copiedConfig      = "# stsbroker: without credentials, from config "
	copiedCredentials = "# stsbroker: without credentials, from credentials "
)

// isolate points SDKs at a copy of the config without credential keys, and an
// empty credentials file, where the default profile holds credentials.
func (p place) isolate(set map[string]string) error {
	files := awsconfig.DefaultFiles(p.getenv, p.home)
	if real := originals(files); real != files { // already isolated: bring the copy up to date
		files = real
	} else if !awsconfig.Load(files).DefaultHasCredentials() {
		return nil
	}
	data, err := os.ReadFile(files.Config)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	sum := sha256.Sum256([]byte(files.Config + "\x00" + files.Credentials))
	folder := filepath.Join(p.runtime, "aws-"+hex.EncodeToString(sum[:6]))
	config, credentials := filepath.Join(folder, "config"), filepath.Join(folder, "credentials")
	if err := securefile.MakeFolder(folder); err != nil {
		return err
	}
	head := copiedConfig + files.Config + "\n" + copiedCredentials + files.Credentials + "\n"
	if err := securefile.Write(config, append([]byte(head), awsconfig.Isolate(data)...)); err != nil {
		return err
	}
	if err := securefile.Write(credentials, nil); err != nil {
		return err
	}
	set["AWS_CONFIG_FILE"], set["AWS_SHARED_CREDENTIALS_FILE"] = config, credentials
	return nil
}

// originals undoes isolate: a copy that we wrote is an alias of what it was
// made from, never a source.
func originals(f awsconfig.Files) awsconfig.Files {
	if info, err := os.Stat(f.Config); err != nil || !info.Mode().IsRegular() { // a pipe would wait for its writer
		return f
	}
	file, err := os.Open(f.Config)
	if err != nil {
		return f
	}
	defer file.Close()
	head, err := io.ReadAll(io.LimitReader(file, 16<<10))
	if err != nil {
		return f
	}
	first, rest, _ := bytes.Cut(head, []byte("\n"))
	second, _, _ := bytes.Cut(rest, []byte("\n"))
	config, ok1 := strings.CutPrefix(string(first), copiedConfig)
	credentials, ok2 := strings.CutPrefix(string(second), copiedCredentials)
	if !ok1 || !ok2 {
		return f
	}
	return awsconfig.Files{Config: config, Credentials: credentials}
}

// shells print variables so that the shell of that name takes them in.
var shells = map[string]func(io.Writer, variables) error{
	"sh": func(w io.Writer, v variables) error {
		return v.lines(w, func(k, val string) string { return "export " + k + "=" + shQuote(val) }, func(k string) string { return "unset " + k })
	},
	"fish": func(w io.Writer, v variables) error {
		return v.lines(w, func(k, val string) string { return "set -gx " + k + " " + fishQuote(val) }, func(k string) string { return "set -e " + k })
	},
	"powershell": func(w io.Writer, v variables) error {
		return v.lines(w,
			func(k, val string) string { return "$Env:" + k + " = '" + strings.ReplaceAll(val, "'", "''") + "'" },
			func(k string) string { return "Remove-Item Env:" + k + " -ErrorAction SilentlyContinue" })
	},
	// A dotenv file cannot unset; what must not be set is named in comments.
	"dotenv": func(w io.Writer, v variables) error {
		return v.lines(w, func(k, val string) string { return k + "=" + shQuote(val) }, func(k string) string { return "# must not be set: " + k })
	},
	"json": func(w io.Writer, v variables) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	},
}

func (v variables) lines(w io.Writer, set func(k, val string) string, unset func(k string) string) error {
	var out strings.Builder
	for _, k := range v.Unset {
		out.WriteString(unset(k) + "\n")
	}
	for _, k := range v.names() {
		out.WriteString(set(k, v.Set[k]) + "\n")
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func (v variables) names() []string {
	names := make([]string, 0, len(v.Set))
	for k := range v.Set {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

// environ is an environment with the variables applied.
func (v variables) environ(base []string) []string {
	out := slices.DeleteFunc(slices.Clone(base), func(kv string) bool {
		k, _, _ := strings.Cut(kv, "=")
		_, set := v.Set[k]
		return set || slices.Contains(v.Unset, k)
	})
	for _, k := range v.names() {
		out = append(out, k+"="+v.Set[k])
	}
	return out
}

const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@%+=,"

func shQuote(s string) string {
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func fishQuote(s string) string {
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}
