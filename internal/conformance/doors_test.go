//go:build conformance && linux

package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// doorway is how programs are led to a door.
type doorway struct {
	door    string
	profile string // and bucket: nobody else's credentials list it
	env     func(t *testing.T, h guest, profile string) []string
	homes   []string // those it is tried in, for the clients of the core; the others take the last
}

// The homes of those who call. The broker has one of its own.
const (
	cleanHome  = "clean"
	poisonHome = "poisoned"
)

// testDoors tries every client at every door, all in one network namespace.
func testDoors(t *testing.T, k kit, s server, table *doorTable) {
	clients := append(k.clients(), k.moreClients()...)
	for _, c := range clients {
		table.row(c.name, c.version)
	}
	ns, err := newNamespace(t)
	if err != nil {
		for _, c := range clients {
			for _, d := range doors {
				table.set(c.name, d.name, "not run: "+brief(err, newInstaller(t).cache))
			}
		}
		notRun(t, err)
	}
	at, err := url.Parse(s.endpoint)
	if err != nil {
		t.Fatal(err)
	}
	ns.reach(t, at.Host)

	both := []string{cleanHome, poisonHome}
	ways := []doorway{
		{uriToken, "uri-token", printed(), both},
		{uriTokenFile, "uri-token-file", printed("--token-file"), both},
		{ecs, "ecs", printed("--door", "ecs"), both},
		{eks, "eks", printed("--door", "eks"), both},
		{imdsVariable, "imds-variable", printed("--door", "imds"), both},
		{imdsAlone, "imds-alone", func(*testing.T, guest, string) []string { return nil }, []string{cleanHome}},
		{byCommand, "process", byProcess, []string{"process", poisonHome}},
	}
	yaml := "aws_profiles: { include: [] }\nkeys: { root: { custody: file } }\nprofiles:\n"
	for _, w := range ways {
		s.fill(t, w.profile)
		yaml += fmt.Sprintf("  %s: { region: %s, prefetch: true, role: { arn: %q, key: root, policy: %q } }\n", w.profile, s.region, s.role, only(w.profile))
	}
	// What errors are about. MinIO lets no session credentials assume a role.
	yaml += fmt.Sprintf("  "+wantsLogin+": { region: %[1]s, session: { key: root, mfa_serial: %[2]q } }\n"+
		"  "+isDenied+": { region: %[1]s, role: { arn: %[3]q, source: uri-token } }\n", s.region, "arn:aws:iam::123456789012:mfa/me", s.role)
	h := guest{within: ns.prefix(), home: live(t, k, household{
		secret: []string{s.key.secret},
		env:    []string{"AWS_SHARED_CREDENTIALS_FILE=$HOME/elsewhere/keys"},
		files: map[string]string{
			"elsewhere/keys":                 section("root", s.key),
			cleanHome + "/.aws/config":       "[default]\nregion = " + s.region,
			poisonHome + "/.aws/config":      "[default]\nregion = " + s.region,
			poisonHome + "/.aws/credentials": poisonKeys,
		},
		listen: fmt.Sprintf(`
  container: ["$CONTAINER", "%s:80", { address: "%s:80", without_token: [ecs] }]
  imds:
    - { address: "%s:80", profile: imds-alone }
    - { address: "127.0.0.1:9169", profile: imds-variable }
    - { address: "127.0.0.1:9168", profile: %s }
    - { address: "127.0.0.1:9167", profile: %s }
token_files: { pod: { profiles: [eks] } }`, eksAddress, ecsAddress, imdsAddress, wantsLogin, isDenied),
		config: endpoints(s) + yaml,
		within: ns.prefix(),
	})}
	for _, w := range ways {
		if r := h.run(t, h.stsbroker, "credential-process", w.profile); r.err != nil { // there is a set from here on
			t.Fatal(r)
		}
	}
	// What a program finds at each door, asked for once.
	env := map[[2]string][]string{}
	for _, w := range ways {
		for _, home := range w.homes {
			env[[2]string{w.door, home}] = w.env(t, h.of(home), w.profile)
		}
	}
	errorEnv, messages := map[[2]string][]string{}, map[string]string{}
	for profile := range advice {
		for door, lead := range map[string]func(*testing.T, guest, string) []string{uriToken: printed(), imdsVariable: printed("--door", "imds"), byCommand: byProcess} {
			errorEnv[[2]string{door, profile}] = lead(t, h.of(errorHome(door, profile)), profile)
		}
		at := [2]string{byCommand, profile}
		errorEnv[at] = append(errorEnv[at], "AWS_EC2_METADATA_DISABLED=true") // or it would go on to there
		r := h.run(t, h.stsbroker, "credential-process", profile)
		if messages[profile] = message(profile).FindString(cleaned(r.stderr, h)); r.err == nil || messages[profile] == "" {
			t.Fatalf("not the message of %s: %s", profile, r)
		}
	}
	table.broker(saying{messages[wantsLogin], messages[isDenied]})
	t.Run("clients", func(t *testing.T) {
		for _, c := range clients {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				if c.err != nil {
					for _, d := range doors {
						table.set(c.name, d.name, "not run: "+brief(c.err, newInstaller(t).cache))
					}
					notRun(t, c.err)
				}
				for _, w := range ways {
					homes := w.homes
					if !slices.Contains(core, c.name) {
						homes = homes[len(homes)-1:]
					}
					for _, home := range homes {
						visitor := h.of(home)
						visitor.vars = slices.Concat(visitor.vars, env[[2]string{w.door, home}])
						table.set(c.name, w.door, c.visit(t, visitor, w, s))
					}
				}
				visitor := h.of(poisonHome)
				visitor.vars = slices.Concat(visitor.vars, slices.DeleteFunc(slices.Clone(env[[2]string{uriToken, poisonHome}]), ofFiles))
				if r := visitor.run(t, c.argv(s.endpoint, "uri-token")...); r.err == nil {
					t.Errorf("the poison does not work, so the home proves nothing: %s", r)
				}
			})
			t.Run(c.name+", errors", func(t *testing.T) {
				t.Parallel()
				need(t, c.piece)
				c.testErrors(t, h, s, table, errorEnv)
			})
		}
	})
}

// brief is a reason fit for the document.
func brief(err error, cache string) string {
	reason := oneCell(strings.ReplaceAll(err.Error(), cache, ".cache"))
	return reason[:min(len(reason), 200)]
}

// ofFiles is true for the variables that keep a program off the home's own AWS files.
func ofFiles(v string) bool {
	return strings.HasPrefix(v, "AWS_CONFIG_FILE=") || strings.HasPrefix(v, "AWS_SHARED_CREDENTIALS_FILE=")
}

// visit tries one client at one door, and returns the cell for the table.
func (c client) visit(t *testing.T, h guest, w doorway, s server) string {
	t.Helper()
	r := h.run(t, c.argv(s.endpoint, w.profile)...)
	can, why := r.err == nil && strings.TrimSpace(r.stdout) == objectName, expectedNo(c.name, c.version, w.door)
	switch {
	case can && why == "":
		return "yes"
	case can:
		t.Errorf("%s can, though it is expected that it cannot: %s", w.door, why)
		return "yes"
	case why == "":
		t.Errorf("%s in %s: %s", w.door, filepath.Base(h.vars[0]), r)
		return "no: it failed"
	}
	return "no: " + why
}

// guest is somebody in the namespace who talks to the broker of a home.
type guest struct {
	home
	within []string // prefix of every command line
	vars   []string // of the environment, beyond cleanEnv
}

// run runs a command as the guest would.
func (g guest) run(t *testing.T, argv ...string) result {
	t.Helper()
	return run(t.Context(), g.dir, cleanEnv(g.dir, g.vars...), slices.Concat(g.within, argv)...)
}

// of is a guest with a home folder of its own, in that of the broker.
func (g guest) of(name string) guest {
	g.vars = []string{"HOME=" + filepath.Join(g.dir, name)}
	return g
}

// printed are the variables that stsbroker env prints.
func printed(flags ...string) func(*testing.T, guest, string) []string {
	return func(t *testing.T, h guest, profile string) (env []string) {
		t.Helper()
		r := h.run(t, slices.Concat([]string{h.stsbroker, "env", profile, "--shell", "json"}, flags)...)
		var v struct{ Set map[string]string }
		if err := json.Unmarshal([]byte(r.stdout), &v); err != nil || r.err != nil || len(v.Set) == 0 {
			t.Fatalf("stsbroker env %s: %v: %s", profile, err, r)
		}
		for name, value := range v.Set {
			env = append(env, name+"="+value)
		}
		return env
	}
}

// byProcess writes what stsbroker env --door process prints into the home's AWS
// config file: as [default], or, where that has keys, as the profile that it is.
func byProcess(t *testing.T, h guest, profile string) []string {
	t.Helper()
	lines := h.run(t, h.stsbroker, "env", profile, "--door", "process")
	if lines.err != nil {
		t.Fatal(lines)
	}
	// Old SDKs read the config file only where they are told to.
	env, section := []string{"AWS_SDK_LOAD_CONFIG=1"}, lines.stdout
	if strings.HasSuffix(h.vars[0], poisonHome) {
		env = append(env, "AWS_PROFILE="+profile)
	} else {
		section = strings.Replace(section, "[profile "+profile+"]", "[default]", 1)
	}
	config := filepath.Join(strings.TrimPrefix(h.vars[0], "HOME="), ".aws", "config")
	before, err := os.ReadFile(config)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	writeFile(t, config, string(before), section)
	return env
}

// only is the policy of who may do anything with one bucket.
func only(bucket string) string {
	return fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:*"],"Resource":["arn:aws:s3:::%[1]s","arn:aws:s3:::%[1]s/*"]}]}`, bucket)
}

// fill makes a bucket with the one object.
func (s server) fill(t *testing.T, bucket string) {
	t.Helper()
	for _, path := range []string{"/" + bucket, "/" + bucket + "/" + objectName} {
		a, err := s.send(t.Context(), s.key.credentials(), "s3", http.MethodPut, path, "", "")
		if err != nil {
			t.Fatal(err)
		}
		a.want(t, 200)
	}
}

// The two ways to have no credentials until somebody acts, and what the broker
// tells them to do.
const (
	wantsLogin = "wants-login"
	isDenied   = "is-denied"
)

var advice = map[string]string{wantsLogin: "stsbroker login " + wantsLogin, isDenied: "check the role's trust policy, the external id and MFA it may ask for, and that the caller's policies allow sts:AssumeRole on it"}

// testErrors records what a client prints when a door has no credentials for it,
// and holds that our words are in there where the client lets them through.
func (c client) testErrors(t *testing.T, h guest, s server, table *doorTable, env map[[2]string][]string) {
	for _, door := range errorDoors {
		if expectedNo(c.name, c.version, door) != "" {
			continue
		}
		said := map[string]string{}
		for profile, words := range advice {
			visitor := h.of(errorHome(door, profile))
			visitor.vars = slices.Concat(visitor.vars, env[[2]string{door, profile}])
			r := visitor.run(t, c.argv(s.endpoint, bucketName)...)
			if r.err == nil {
				t.Errorf("%s, %s: it lists the bucket: %s", door, profile, r)
			}
			all := r.stdout + "\n" + r.stderr
			heard := strings.Contains(strings.Join(strings.Fields(all), " "), words)
			switch quiet := silent[[2]string{c.name, door}]; {
			case !heard && !quiet:
				t.Errorf("%s, %s: %q is not in what it prints: %s", door, profile, words, r)
			case heard && quiet:
				t.Errorf("%s, %s: it lets our words through, and is thought to be silent: %s", door, profile, r)
			}
			said[profile] = lastWords(all, h, profile)
		}
		table.say(c.name, door, saying{said[wantsLogin], said[isDenied]})
	}
}

// errorHome is the name of a home for one door and profile.
func errorHome(door, profile string) string {
	if door == byCommand {
		return "process-" + profile
	}
	return cleanHome
}

var (
	stackFrame = regexp.MustCompile(`^\s*(at |File "|goroutine |\.\.\. \d+ more|Node\.js v|\^+$|[{}\]]|node:internal)`)
	telling    = regexp.MustCompile(`(?i)error|exception|credential|stsbroker|denied|fail`)
	ours       = regexp.MustCompile(`(?m)^stsbroker: .*$`)
	// What differs from run to run, or is of this machine.
	passing = []struct {
		pattern *regexp.Regexp
		instead string
	}{
		{regexp.MustCompile(`\x1b\[[0-9;]*m`), ""},
		{regexp.MustCompile(`\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d([.,]\d+)?(Z|[+-]\d\d:?\d\d)?`), "TIME"},
		{regexp.MustCompile(`[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}`), "ID"},
		{regexp.MustCompile(`\b[0-9A-F]{16}\b|\b[0-9a-f]{64}\b|0x[0-9a-f]+`), "ID"},
		{regexp.MustCompile(`127\.0\.0\.1:\d+`), "127.0.0.1:PORT"},
		{regexp.MustCompile(`\b\d+(\.\d+)?(ms|µs|s)\b`), "TIME"},
		{regexp.MustCompile(`(file://)?/(?:[\w.@+-]+/)+([\w.@+-]+)(:\d+)*`), "$2"},
	}
)

// cleaned is a text without what differs from run to run.
func cleaned(printed string, h guest) string {
	printed = strings.ReplaceAll(printed, h.stsbroker, "stsbroker")
	for _, p := range passing {
		printed = p.pattern.ReplaceAllString(printed, p.instead)
	}
	return printed
}

// message finds the broker's message about a profile.
func message(profile string) *regexp.Regexp {
	return regexp.MustCompile(`profile ` + profile + `: .*?` + regexp.QuoteMeta(advice[profile]))
}

// lastWords is the end of what a client printed, in one line: what tells of the
// failure, without where in the client's code it was.
func lastWords(printed string, h guest, profile string) string {
	printed = cleaned(printed, h)
	first := ours.FindString(printed) // of a credential process: it goes past the client
	printed = strings.Replace(printed, first, "", 1)
	if i := strings.LastIndex(printed, "Traceback (most"); i >= 0 { // Python tells the whole story
		printed = printed[i:]
	}
	var words string
	if i := strings.LastIndex("\n"+printed, "\nError: "); i >= 0 { // terraform wraps its lines
		words = strings.Join(strings.Fields(printed[i:]), " ")
	} else {
		lines := strings.Split(strings.TrimSpace(printed), "\n")
		for _, keep := range []func(string) bool{
			func(l string) bool { return strings.TrimSpace(l) != "" && !stackFrame.MatchString(l) },
			func(l string) bool { return strings.TrimLeft(l, " \t") == l }, // the rest shows code, mostly
			telling.MatchString,
		} {
			if some := slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !keep(l) }); len(some) > 0 {
				lines = some
			}
		}
		words = strings.Join(lines[max(0, len(lines)-3):], " / ")
	}
	if first != "" && words != "" {
		first += " / "
	}
	words = message(profile).ReplaceAllString(first+words, ourWords)
	if r := []rune(words); len(r) > 800 {
		words = "… " + string(r[len(r)-800:])
	}
	return words
}
