package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/securefile"
	"github.com/stsbroker/stsbroker/internal/stsfake"
)

// demoLife is how long the stand-in's credentials live: short enough to watch.
const demoLife = 90 * time.Second

const (
	demoRole   = "arn:aws:iam::123456789012:role/demo"
	demoSecret = "A/secret/key/that/opens/nothing/at/all00" // known to the stand-in alone
)

func demoCommand() *cobra.Command {
	var once, client bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "see it work, without an AWS account",
		Long: `demo runs the real broker against a stand-in for STS inside this process, and
makes an SDK call through it. It then shows every renewal as it happens (the
credentials live for 90 seconds) until Ctrl-C. Everything it writes is in a
temporary folder, and gone when it ends.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if client {
				return demoClient(cmd.Context())
			}
			return demo(cmd.Context(), once)
		},
	}
	c.Flags().BoolVar(&once, "once", false, "end after the SDK call")
	c.Flags().BoolVar(&client, "client", false, "be the program that makes the SDK call")
	if err := c.Flags().MarkHidden("client"); err != nil {
		panic(err) // the flag is on the line above
	}
	return c
}

func demo(ctx context.Context, once bool) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	fake := stsfake.New()
	fake.SetLife(demoLife)
	fake.AddUser("demo", "AKIADEMODEMODEMODEMO", demoSecret)
	fake.AddRole(stsfake.Role{ARN: demoRole, Trust: []string{"*"}})
	standIn, err := fake.Start("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, standIn.Close()) }()

	folder, err := os.MkdirTemp("", "stsbroker-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	p, err := demoPlace(folder, standIn.URL)
	if err != nil {
		return err
	}
	out := &demoScreen{paint: painter(os.Stdout)}
	a, findings, err := newApp(settings{place: p, log: zap.NewNop(), demo: true, watch: out})
	if err != nil {
		return errors.Join(firstError(findings), err)
	}
	release, err := a.listenControl()
	if err != nil {
		return errors.Join(err, a.close())
	}
	defer release()
	out.mu.Lock() // the first mint begins at once; what serves it is shown first
	if err := a.listen(ctx); err != nil {
		return errors.Join(err, a.close())
	}
	out.print("the broker serves profile demo at %s, minting at a stand-in for STS at %s", a.now.Load().urls[0], standIn.URL)
	out.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- a.run(ctx) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-done)
	}()
	return out.show(ctx, a, standIn.URL, once)
}

// demoPlace is a machine of the demo's own: a home with one configuration file.
func demoPlace(folder, url string) (place, error) {
	p := place{
		home: folder, getenv: func(string) string { return "" },
		config: filepath.Join(folder, "stsbroker.yaml"), state: filepath.Join(folder, "state"), runtime: filepath.Join(folder, "run"),
	}
	p.control = filepath.Join(p.runtime, "control.sock")
	if err := securefile.MakeFolder(filepath.Join(folder, ".aws")); err != nil {
		return p, err
	}
	err := securefile.Write(filepath.Join(folder, ".aws", "credentials"), []byte("[work]\naws_access_key_id = AKIADEMODEMODEMODEMO\naws_secret_access_key = "+demoSecret+"\n"))
	return p, errors.Join(err, securefile.Write(p.config, fmt.Appendf(nil, `sts:
  region: us-east-1
  endpoints: { us-east-1: %q }
keys:
  work: { custody: file }
profiles:
  demo:
    role: { arn: %q, key: work }
    prefetch: true
`, url, demoRole)))
}

// demoScreen prints what happens.
type demoScreen struct {
	paint
	mu sync.Mutex
}

func (d *demoScreen) line(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.print(format, args...)
}

func (d *demoScreen) print(format string, args ...any) {
	fmt.Println(d.dim(time.Now().Format(time.TimeOnly)) + "  " + fmt.Sprintf(format, args...))
}

// Observe implements broker.Observer.
func (d *demoScreen) Observe(e broker.Event) {
	switch e.Kind {
	case broker.EventMinted:
		what := "renewed"
		if e.Generation == 1 {
			what = "minted"
		}
		d.line("%s %s: %s lives %s, the next one comes in %s", d.green(what), e.Profile, e.KeyID, span(e.Left), span(e.Renewal))
	case broker.EventMintFailed:
		d.line("%s %s: %s", d.red("failed"), e.Profile, e.Err.Public)
	}
}

func (d *demoScreen) show(ctx context.Context, a *app, standIn string, once bool) error {
	s := a.self()
	child, err := s.Child(ctx, "demo", "")
	if err != nil {
		return err
	}
	defer child.Release()
	vars, err := a.endpointVariables(doorContainer, control.Status{}, child.Endpoint)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	call := exec.CommandContext(ctx, self, "demo", "--client")
	call.Env = append(vars.environ(os.Environ()), "AWS_ENDPOINT_URL_STS="+standIn, "AWS_CONFIG_FILE="+filepath.Join(a.home, "none"), "AWS_SHARED_CREDENTIALS_FILE="+filepath.Join(a.home, "none"))
	call.Stderr = os.Stderr
	answer, err := call.Output()
	if err != nil {
		return fmt.Errorf("the SDK call through the broker failed: %w", err)
	}
	d.line("an AWS SDK, given only the address and a token, asked who it is: %s", d.bold(oneLine(string(answer))))
	if once {
		return nil
	}
	if err := d.paste(ctx, a, standIn); err != nil {
		return err
	}
	d.line("showing each renewal as it happens; Ctrl-C ends it")
	<-ctx.Done()
	return nil
}

// paste prints the lines for another terminal, with the caller's own AWS files
// taken out of the way as env does it.
func (d *demoScreen) paste(ctx context.Context, a *app, standIn string) error {
	theirs, err := findPlace(&globals{}, false)
	if err != nil {
		return err
	}
	theirs.runtime = a.runtime
	endpoint, err := a.self().Env(ctx, "demo", false)
	if err != nil {
		return err
	}
	vars, err := theirs.endpointVariables(doorContainer, control.Status{}, endpoint)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Println("\nPaste this into another terminal, and the last line as often as you like:")
	fmt.Println()
	if err := shells["sh"](os.Stdout, vars); err != nil {
		return err
	}
	fmt.Printf("aws sts get-caller-identity --endpoint-url %s\n\n", standIn)
	return nil
}

// demoClient is an unmodified SDK in a process of its own: it knows what its
// environment says, and nothing of the broker.
func demoClient(ctx context.Context) error {
	id, err := sts.New(sts.Options{
		Region: os.Getenv("AWS_REGION"), BaseEndpoint: aws.String(os.Getenv("AWS_ENDPOINT_URL_STS")),
		Credentials: endpointcreds.New(os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI"), func(o *endpointcreds.Options) {
			o.AuthorizationToken = os.Getenv(varToken)
		}),
	}).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return err
	}
	fmt.Print(aws.ToString(id.Arn))
	return nil
}
