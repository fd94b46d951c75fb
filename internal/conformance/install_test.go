//go:build conformance && linux

package conformance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// What is installed, pinned: here, in the lock files of clients/js and issuer,
// in clients/boto3/requirements.txt and clients/go/go.mod. The newest AWS CLI
// that Debian has and Ceph are Debian's to pin.
const (
	minioModule   = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"
	versityModule = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
	nodeMajor     = 20 // what the JavaScript SDK asks for at least

	fakecloudCrate = "fakecloud@0.51.0"
	fakecloudBuild = 10 * time.Minute // what it may take
)

var cephPrograms = []string{"ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin"}

// piece is a program that was installed, or why it was not.
type piece struct {
	path    string
	version string
	err     error
}

// kit is everything a run needs.
type kit struct {
	stsbroker string // the binary under test, built from this tree

	ceph, minio, versity piece // servers
	issuer               piece // folder of the OpenID Connect issuer
	faketime             piece // the library that moves a server's clock
	moto, fakecloud      piece // servers, of make conformance-all
	saml                 piece // folder of the SAML identity provider
	xmlsec1              piece
	node                 piece

	boto3, awscli, js, gosdk piece // clients
	more                           // clients of make conformance-all
}

// notRun ends a test whose programs are not there: skipped, or failed in CI.
func notRun(t *testing.T, reason error) {
	t.Helper()
	fmt.Printf("not run: %s: %v\n", t.Name(), reason)
	if os.Getenv("CI") == "true" {
		t.Fatalf("not run: %v (and this is CI, where everything must run)", reason)
	}
	t.Skipf("not run: %v", reason)
}

// need calls notRun unless every piece is there.
func need(t *testing.T, pieces ...piece) {
	t.Helper()
	for _, p := range pieces {
		if p.err != nil {
			notRun(t, p.err)
		}
	}
}

// installer puts programs into the cache folder.
type installer struct {
	t     *testing.T
	repo  string // top of the repository
	cache string
}

// install installs everything, side by side where that is possible. Only a
// stsbroker that does not build fails the test.
func install(t *testing.T) kit {
	t.Helper()
	in := newInstaller(t)
	var k kit
	var wg sync.WaitGroup
	wg.Go(func() {
		k.minio, k.versity = in.goServer("minio", minioModule), in.goServer("versitygw", versityModule)
	})
	wg.Go(func() { k.gosdk = in.goModule("go", ".", "github.com/aws/aws-sdk-go-v2/service/s3") })
	wg.Go(func() {
		aptErr := in.debianPackages() // first: it may bring what the others need
		k.ceph, k.awscli, k.node, k.faketime = in.ceph(aptErr), in.awscli(aptErr), in.node(), in.faketime(aptErr)
		k.boto3 = in.boto3(aptErr)
		k.js = in.npm("client", "clients/js", k.node, "@aws-sdk/client-s3")
		k.issuer = in.npm("issuer", "issuer", k.node, "oidc-provider")
		if *everything {
			k.moto = in.python("moto", "moto/requirements.txt", "moto", aptErr)
			k.moto.path = filepath.Join(filepath.Dir(k.moto.path), "moto_server")
			k.saml = in.npm("saml", "saml", k.node, "saml")
			k.xmlsec1 = in.xmlsec1(aptErr)
		}
	})
	wg.Wait()
	if *everything {
		k.fakecloud = in.fakecloud() // alone: it takes all processors for minutes
		k.more = in.more(k.node)     // one after the other: so do some of these
	}

	k.stsbroker = filepath.Join(tempDir(t), "stsbroker")
	build := in.command(in.repo, "go", "build", "-o", k.stsbroker, "./cmd/stsbroker")
	build.Env = append(build.Env, "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build ./cmd/stsbroker: %v\n%s", err, out)
	}
	return k
}

func newInstaller(t *testing.T) installer {
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	cache := os.Getenv("STSBROKER_CACHE")
	if cache == "" {
		cache = filepath.Join(repo, ".cache")
	}
	cache, err = filepath.Abs(cache)
	if err != nil {
		t.Fatal(err)
	}
	return installer{t, repo, filepath.Join(cache, "conformance")}
}

// command prepares a command of an installation: it keeps the caller's
// environment, which knows proxies and mirrors, but for AWS's variables.
func (in installer) command(dir, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(in.t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") })
	return cmd
}

// once returns the folder NAME-HASH of the cache, filled by fill the first
// time. inputs are files of this package that name what is installed; the hash
// is over their content, so that another pin is another folder.
func (in installer) once(name string, inputs []string, fill func(dir string) error) (string, error) {
	h := sha256.New()
	for _, input := range inputs {
		b, err := os.ReadFile(input)
		if errors.Is(err, fs.ErrNotExist) {
			b = []byte(input) // a pin rather than a file
		} else if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%d:%s", len(b), b)
	}
	dir := filepath.Join(in.cache, fmt.Sprintf("%s-%x", name, h.Sum(nil)[:6]))
	stamp := filepath.Join(dir, "installed")
	if _, err := os.Stat(stamp); err == nil {
		return dir, nil
	}
	began := time.Now()
	if err := os.RemoveAll(dir); err != nil { // half of an earlier try
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := fill(dir); err != nil {
		return "", err
	}
	in.t.Logf("installed %s in %.0f s", name, time.Since(began).Seconds())
	return dir, os.WriteFile(stamp, nil, 0o644)
}

// do runs commands one after the other; the error holds the end of the output.
func do(cmds ...*exec.Cmd) error {
	for _, cmd := range cmds {
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out[max(0, len(out)-600):])
		}
	}
	return nil
}

// debianPackages installs what is missing of Ceph, the AWS CLI, faketime and
// Python's venv.
func (in installer) debianPackages() error {
	var packages []string
	if missing(cephPrograms) != nil {
		packages = append(packages, "ceph-mon", "ceph-osd", "ceph-common", "radosgw")
	}
	if _, _, err := findAWSCLI(in.t.Context()); err != nil {
		packages = append(packages, "awscli")
	}
	if _, err := findFaketime(); err != nil {
		packages = append(packages, "libfaketime")
	}
	if *everything && missing([]string{"xmlsec1"}) != nil {
		packages = append(packages, "xmlsec1")
	}
	if exec.Command("python3", "-c", "import ensurepip").Run() != nil {
		packages = append(packages, "python3-venv")
	}
	return in.apt(packages)
}

// apt installs Debian packages, where there is an apt-get and we are root.
func (in installer) apt(packages []string) error {
	if len(packages) == 0 {
		return nil
	}
	hint := "as root: apt-get install --no-install-recommends " + strings.Join(packages, " ")
	if os.Getuid() != 0 || missing([]string{"apt-get"}) != nil {
		return errors.New(hint)
	}
	began := time.Now()
	update := in.command("/", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120", "update")
	add := in.command("/", "apt-get", append([]string{"-qq", "-y", "-o", "DPkg::Lock::Timeout=120", "install", "--no-install-recommends"}, packages...)...)
	add.Env = append(add.Env, "DEBIAN_FRONTEND=noninteractive")
	if err := do(update, add); err != nil {
		return fmt.Errorf("%s: %w", hint, err)
	}
	in.t.Logf("installed %s in %.0f s", strings.Join(packages, ", "), time.Since(began).Seconds())
	return nil
}

// because adds to a fault what hindered its cure, if anything did, in one line.
func because(err, hindrance error) error {
	if hindrance == nil {
		return err
	}
	return fmt.Errorf("%w; %w", err, hindrance)
}

// missing says which of the programs are not in PATH.
func missing(programs []string) error {
	var no []string
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			no = append(no, p)
		}
	}
	if no != nil {
		return fmt.Errorf("%s not found", strings.Join(no, ", "))
	}
	return nil
}

func (in installer) ceph(aptErr error) piece {
	if err := missing(cephPrograms); err != nil {
		return piece{err: because(err, aptErr)}
	}
	out, err := exec.CommandContext(in.t.Context(), "radosgw", "--version").Output()
	return piece{version: firstMatch(`ceph version (\S+)`, out), err: err}
}

// goServer installs the program that a module's version names.
func (in installer) goServer(name, module string) piece {
	dir, err := in.once(name, []string{module}, func(dir string) error {
		cmd := in.command(dir, "go", "install", module)
		cmd.Env = append(cmd.Env, "GOBIN="+dir, "CGO_ENABLED=0")
		return do(cmd)
	})
	_, version, _ := strings.Cut(module, "@")
	return piece{filepath.Join(dir, name), version, err}
}

// faketime finds the library that moves the clock of what preloads it.
func (in installer) faketime(aptErr error) piece {
	path, err := findFaketime()
	if err != nil {
		err = because(err, aptErr)
	}
	return piece{path: path, err: err}
}

// findFaketime returns the library for programs with threads, of whatever
// architecture Debian was installed for.
func findFaketime() (string, error) {
	found, err := filepath.Glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
	if err == nil && len(found) == 0 {
		err = errors.New("libfaketimeMT.so.1 not found")
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

func (in installer) boto3(aptErr error) piece {
	return in.python("client-boto3", "clients/boto3/requirements.txt", "boto3", aptErr)
}

// python installs what a requirements file pins into an environment of its
// own. The path is that of its interpreter.
func (in installer) python(name, requirements, main string, aptErr error) piece {
	dir, err := in.once(name, []string{requirements}, func(dir string) error {
		pinned, err := filepath.Abs(requirements)
		if err != nil {
			return err
		}
		return do(in.command(dir, "python3", "-m", "venv", "venv"),
			in.command(dir, "venv/bin/pip", "install", "--quiet", "--require-hashes", "-r", pinned))
	})
	if err != nil {
		return piece{err: because(err, aptErr)}
	}
	pins, err := os.ReadFile(requirements)
	return piece{filepath.Join(dir, "venv", "bin", "python"), firstMatch(`(?m)^`+main+`==(\S+)`, pins), err}
}

func (in installer) xmlsec1(aptErr error) piece {
	path, err := exec.LookPath("xmlsec1")
	if err != nil {
		return piece{err: because(err, aptErr)}
	}
	out, err := exec.CommandContext(in.t.Context(), path, "--version").Output()
	return piece{path, firstMatch(`xmlsec1 (\S+)`, out), err}
}

// fakecloud builds the crate, without optimization and with nothing in it to
// debug, which is a third of the work. What was compiled of it stays when the
// time is over, so that another run goes on from there.
func (in installer) fakecloud() piece {
	dir, err := in.once("fakecloud", []string{fakecloudCrate}, func(dir string) error {
		if err := missing([]string{"cargo"}); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(in.t.Context(), fakecloudBuild)
		defer cancel()
		target := filepath.Join(in.cache, "fakecloud-target")
		cmd := in.command(dir, "cargo", "install", fakecloudCrate, "--locked", "--debug", "--root", dir, "--target-dir", target,
			"--config", "profile.dev.debug=0", "--config", "profile.dev.opt-level=0", "--config", "profile.dev.strip=true")
		build := exec.CommandContext(ctx, cmd.Path, cmd.Args[1:]...)
		build.Dir, build.Env = cmd.Dir, cmd.Env
		if err := do(build); ctx.Err() != nil {
			return fmt.Errorf("it does not build within %v; the next run goes on with it", fakecloudBuild)
		} else if err != nil {
			return err
		}
		return os.RemoveAll(target)
	})
	_, version, _ := strings.Cut(fakecloudCrate, "@")
	return piece{filepath.Join(dir, "bin", "fakecloud"), version, err}
}

// node finds Node.js, which Debian 12 has only in a version too old.
func (in installer) node() piece {
	path, err := exec.LookPath("node")
	if err == nil {
		err = missing([]string{"npm"})
	}
	if err != nil {
		return piece{err: fmt.Errorf("install Node.js %d or later with npm: %w", nodeMajor, err)}
	}
	out, err := exec.CommandContext(in.t.Context(), path, "--version").Output()
	version := firstMatch(`v(\S+)`, out)
	if major, _ := strconv.Atoi(strings.Split(version, ".")[0]); err == nil && major < nodeMajor {
		err = fmt.Errorf("install Node.js %d or later: %s is %s", nodeMajor, path, version)
	}
	return piece{path, version, err}
}

// npm installs what the lock file in the folder src names, beside the folder's scripts.
func (in installer) npm(name, src string, node piece, main string) piece {
	if node.err != nil {
		return piece{err: node.err}
	}
	files, err := filepath.Glob(filepath.Join(src, "*.*"))
	if err != nil || len(files) == 0 {
		return piece{err: fmt.Errorf("nothing in %s: %w", src, err)}
	}
	dir, err := in.once(name+"-js", files, func(dir string) error {
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(f)), b, 0o644); err != nil {
				return err
			}
		}
		return do(in.command(dir, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"))
	})
	if err != nil {
		return piece{err: err}
	}
	lock, err := os.ReadFile(filepath.Join(src, "package.json"))
	return piece{dir, firstMatch(regexp.QuoteMeta(main)+`": "(\S+)"`, lock), err}
}

func (in installer) awscli(aptErr error) piece {
	path, version, err := findAWSCLI(in.t.Context())
	if err != nil {
		err = because(err, aptErr)
	}
	return piece{path, version, err}
}

// findAWSCLI returns the first AWS CLI v2 in PATH, passing over those of v1.
func findAWSCLI(ctx context.Context) (path, version string, err error) {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, "aws")
		out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
		if err == nil && bytes.HasPrefix(out, []byte("aws-cli/2.")) {
			return path, firstMatch(`aws-cli/(\S+)`, out), nil
		}
	}
	return "", "", errors.New("no AWS CLI v2 in PATH")
}

// firstMatch returns the first group of pattern in b, or "".
func firstMatch(pattern string, b []byte) string {
	m := regexp.MustCompile(pattern).FindSubmatch(b)
	if m == nil {
		return ""
	}
	return string(m[1])
}
