package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/awssts"
	"github.com/stsbroker/stsbroker/broker/signin"
	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// consoleOptions are the flags of console, and what its tests put in their place.
type consoleOptions struct {
	service     string
	destination string
	print       bool

	out      io.Writer
	endpoint string        // of federation; "" for AWS's own
	reading  time.Duration // see pageReading
}

const (
	// pageReading is how long a browser has to read the page after the program that
	// opens it has ended: a browser that runs already is told, and reads on its own time.
	pageReading = 10 * time.Second
	// opening is how long that program may take: where no browser runs yet, it may
	// become the browser and end with it.
	opening = 30 * time.Second
)

func consoleCommand(g *globals) *cobra.Command {
	o := consoleOptions{out: os.Stdout, reading: pageReading}
	c := &cobra.Command{
		Use:   "console PROFILE",
		Short: "open the AWS console, signed in as a profile",
		Long: `console exchanges a profile's credentials for a sign-in address of the AWS
console, in the profile's region, and opens it in the browser. It is for roles
and federated users: AWS signs no session of GetSessionToken in.

The address is as good as a password for 15 minutes, so the browser is given the
path of a private page that leads there; the page is removed when the browser has
had ten seconds to read it (Ctrl-C: at once). --print prints the address instead,
for a browser elsewhere or one that may not read the page, as in a sandbox.

The console's session ends with the credentials: mint new ones with refresh to
have all of their life.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFirst(g, signsIn),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.Trim(o.service, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
				return usage("--service %s: it is the service's part of the console's address, such as ec2 or s3", oneLine(o.service))
			}
			if o.service != "" && o.destination != "" {
				return usage("--service and --destination: each names the page to show; give one of them")
			}
			if o.destination != "" {
				u, err := url.Parse(o.destination)
				if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
					return usage("--destination is the whole address of a page, https://…, without a name or a password")
				}
			}
			return console(cmd.Context(), g, args[0], o)
		},
	}
	c.Flags().StringVar(&o.service, "service", "", "the service whose console to show, by its `name` in addresses, such as ec2")
	c.Flags().StringVar(&o.destination, "destination", "", "the page to show, as a whole `URL`")
	c.Flags().BoolVar(&o.print, "print", false, "print the address, and open nothing")
	for _, flag := range []string{"service", "destination"} {
		if err := c.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions); err != nil {
			panic(err) // the command has the flag
		}
	}
	return c
}

func console(ctx context.Context, g *globals, profile string, o consoleOptions) error {
	p, err := findPlace(g, false)
	if err != nil {
		return err
	}
	opener := browserCommand()
	if _, err := exec.LookPath(opener[0]); err != nil && !o.print { // before anything is minted for it
		return fmt.Errorf("profile %s: no browser can be opened here (there is no %s): run it with --print and open the address yourself", profile, opener[0])
	}
	ctx, deaf := hangup(ctx) // the page does not outlive the terminal either
	defer deaf()
	context.AfterFunc(ctx, deaf) // the second one ends us, whatever we are stuck in
	var address broker.Secret
	err = within(ctx, g, func(ctx context.Context, s control.Service) (err error) {
		address, err = p.signInAddress(ctx, s, profile, o)
		return err
	})
	switch {
	case ctx.Err() != nil:
		return interrupted(ctx)
	case err != nil:
		return err
	case o.print:
		_, err := fmt.Fprintln(o.out, address.Reveal())
		return err
	}
	if err := p.browse(ctx, opener, address, o.reading); err != nil {
		return fmt.Errorf("profile %s: %w", profile, err)
	}
	if ctx.Err() != nil {
		if status := interrupted(ctx); status != exitStatus(128+int(syscall.SIGINT)) { // Ctrl-C is how a person ends the wait
			return status
		}
	}
	return nil
}

// signInAddress mints where that is needed, and asks AWS for the address.
func (p place) signInAddress(ctx context.Context, s control.Service, profile string, o consoleOptions) (address broker.Secret, err error) {
	st, err := s.Status(ctx, profile)
	if err != nil {
		return address, err
	}
	if why := noSignIn(st.Profiles[0]); why != "" {
		return address, fmt.Errorf("profile %s %s", profile, why)
	}
	held, err := orSignIn(ctx, s, profile, func() (control.Credentials, error) {
		return patiently(ctx, "STS to give credentials of profile "+profile, func(ctx context.Context) (control.Credentials, error) { return s.Credentials(ctx, profile) })
	})
	if err != nil {
		return address, err
	}
	if st, err = s.Status(ctx, profile); err != nil { // now it tells the time left, and where they were minted
		return address, err
	}
	now := st.Profiles[0]
	region := cmp.Or(now.Region, now.MintRegion, awssts.PartitionRegion(now.RoleARN))
	partition := awssts.PartitionOf(region)
	site, err := signin.SiteOf(partition, region)
	if err != nil {
		return address, fmt.Errorf("profile %s: %w; correct its region", profile, err)
	}
	request := signin.Request{
		Endpoint: cmp.Or(o.endpoint, site.Endpoint), AccessKeyID: held.AccessKeyID, SecretAccessKey: broker.NewSecret(held.SecretAccessKey), SessionToken: broker.NewSecret(held.SessionToken),
		Destination: cmp.Or(o.destination, site.Page(o.service, region)), Duration: consoleDuration(now),
	}
	if request.Destination == "" {
		return address, fmt.Errorf("profile %s: AWS does not publish where the console of partition %s is; give the address of its page with --destination", profile, partition)
	}
	roots, err := p.roots()
	if err != nil {
		return address, err
	}
	client := signin.New(signin.Options{RootCAs: roots, Proxy: http.ProxyFromEnvironment})
	address, err = patiently(ctx, "AWS to sign profile "+profile+" in", func(ctx context.Context) (broker.Secret, error) { return client.URL(ctx, request) })
	if err != nil {
		return address, fmt.Errorf("profile %s: %w", profile, err)
	}
	return address, nil
}

// noSignIn says why AWS signs nobody in with a profile's credentials, or "". AWS's
// comparison of its STS calls has it for GetSessionToken.
func noSignIn(p control.Profile) string {
	switch {
	case p.Action == "GetSessionToken":
		return "is a session of GetSessionToken, which AWS does not sign in to the console: name a profile with a role, or one of federation"
	case p.Action == "AssumeRoot":
		return "is for exec alone (AssumeRoot), and what exec mints is given to its command and to nobody else: for the console, name a profile with a role"
	case p.Compatible:
		return "has credentials of an STS that is not AWS's (by compatible in sts.endpoints, endpoint_url or AWS_ENDPOINT_URL_STS), and AWS is not told them: use that store's own console, or name the address in sts.endpoints instead if AWS answers there"
	}
	return ""
}

// signsIn is for completion: the profiles that can be asked for.
func signsIn(p control.Profile) string {
	if noSignIn(p) != "" {
		return ""
	}
	return served(p)
}

// callOfSTS reports whether an action is one.
func callOfSTS(action string) bool {
	return strings.HasPrefix(action, "AssumeRo") || strings.HasPrefix(action, "Get")
}

// consoleDuration is how long to ask for: as long as the credentials live, where
// AWS takes a duration at all. That is with credentials of AssumeRole, unless
// session credentials signed for them (what a role is chained to, a session with
// MFA), and never with GetFederationToken's: IAM user guide. Of what a process or
// the machine gives, nobody knows. Without one, the session ends with the
// credentials as well.
func consoleDuration(p control.Profile) time.Duration {
	switch p.Action {
	case "AssumeRole":
		if !strings.HasPrefix(p.Source, "key ") {
			return 0
		}
	case "AssumeRoleWithSAML", "AssumeRoleWithWebIdentity": // nobody signs these
	default:
		return 0
	}
	return seconds(p.Left)
}

// browserCommand opens a page in the user's browser; the page's path comes after it.
func browserCommand() []string {
	switch runtime.GOOS {
	case "darwin":
		return []string{"open"}
	case "windows":
		return []string{"rundll32", "url.dll,FileProtocolHandler"}
	}
	return []string{"xdg-open"}
}

// browse opens an address that is nobody else's business: in no argument list,
// which every user sees, stands more than the path of a private page.
func (p place) browse(ctx context.Context, opener []string, address broker.Secret, reading time.Duration) (err error) {
	folder := filepath.Join(p.runtime, "console")
	if err := securefile.MakeFolder(folder); err != nil {
		return err
	}
	sweepPages(folder)
	own, err := os.MkdirTemp(folder, "") // 0700
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(own)) }()
	page := filepath.Join(own, "console.html")
	if err := securefile.Write(page, signInPage(address)); err != nil {
		return err
	}
	_, err = patiently(ctx, "the browser to read "+page, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, open(ctx, append(opener, page), reading)
	})
	return err
}

// sweepPages removes what killed commands left.
func sweepPages(folder string) {
	entries, _ := os.ReadDir(folder) // a folder that cannot be read shows at the write
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > 2*(opening+pageReading) {
			_ = os.RemoveAll(filepath.Join(folder, e.Name()))
		}
	}
}

// signInPage leads to the address at once, and tells the site nothing of itself.
func signInPage(address broker.Secret) []byte {
	to := html.EscapeString(address.Reveal())
	return []byte(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>stsbroker</title>
<meta name="referrer" content="no-referrer"><meta http-equiv="refresh" content="0; url=` + to + `"></head>
<body><a href="` + to + `">to the AWS sign-in</a></body></html>
`)
}

// ours reports whether a variable is for AWS's programs and for this one: a browser
// needs none of them, lives long, and has plug-ins.
func ours(variable string) bool {
	v := strings.ToUpper(variable)
	return strings.HasPrefix(v, "AWS_") || strings.HasPrefix(v, "STSBROKER_")
}

// open runs the command and returns when the page has had its time, or ctx ends.
func open(ctx context.Context, argv []string, reading time.Duration) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = apart()
	cmd.Env = slices.DeleteFunc(os.Environ(), ours)
	ended := make(chan error, 1)
	if err := cmd.Start(); err != nil {
		ended <- err
	} else {
		go func() { ended <- cmd.Wait() }()
	}
	late := time.NewTimer(opening)
	defer late.Stop()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("no browser opened the page (%s: %w): run it with --print and open the address yourself", argv[0], err)
		}
		pause(ctx, reading)
	case <-late.C:
	case <-ctx.Done():
	}
	return nil
}
