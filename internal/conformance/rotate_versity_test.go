//go:build conformance && linux

package conformance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/awsiam"
	"github.com/stsbroker/stsbroker/broker/custody"
	"github.com/stsbroker/stsbroker/broker/vault"
	"github.com/stsbroker/stsbroker/internal/seal"
)

// varRotation tells a child what to rotate, as JSON of [rotationJob].
const varRotation = "STSBROKER_CONFORMANCE_ROTATION"

// rotationJob is a rotation by a process of its own.
type rotationJob struct {
	Dir      string // has the state folder, and the identity that opens it
	Endpoint string
	Grace    time.Duration
	Kill     int // the event at which the process kills itself; 0 for never
}

const rotatedKey = "work"

// keys opens custody in the job's state folder, sealed as it is in real life.
func (j rotationJob) keys() (*custody.Kept, error) {
	text, err := os.ReadFile(filepath.Join(j.Dir, "identity"))
	if err != nil {
		return nil, err
	}
	id, err := seal.ParseIdentity(text)
	if err != nil {
		return nil, err
	}
	state := filepath.Join(j.Dir, "state")
	v := vault.New(state)
	v.Open(id)
	return custody.OpenKept(state, map[string]custody.Chest{"sealed": custody.SealedChest(v)})
}

func (j rotationJob) iam() (*awsiam.Client, error) {
	return awsiam.New(awsiam.Options{Endpoint: j.Endpoint, STS: j.Endpoint, Region: versityRegion})
}

// TestRotationChild is the process that [TestRotation] starts and that kills itself.
func TestRotationChild(t *testing.T) {
	raw, is := os.LookupEnv(varRotation)
	if !is {
		t.Skip("not run: this is the child of TestRotation")
	}
	var j rotationJob
	if err := json.Unmarshal([]byte(raw), &j); err != nil {
		t.Fatal(err)
	}
	kept, err := j.keys()
	if err != nil {
		t.Fatal(err)
	}
	iam, err := j.iam()
	if err != nil {
		t.Fatal(err)
	}
	events := 0
	event := func(what, step string) {
		fmt.Fprintf(os.Stderr, "event %s %s\n", what, step) // unbuffered
		if events++; events == j.Kill {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	done, err := kept.Rotate(t.Context(), rotatedKey, interrupted{iam, event}, custody.RotateOptions{
		Grace: j.Grace,
		Step:  func(step string) { event("begins", step) },
		Done:  func(step string) { event("done", step) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", done)
}

// interrupted is IAM, with an event where a call has changed a key and nothing of it
// rests yet. For CreateAccessKey that is the end of the step.
type interrupted struct {
	*awsiam.Client
	event func(what, step string)
}

func (i interrupted) SetActive(ctx context.Context, m broker.Material, user, keyID string, active bool) error {
	err := i.Client.SetActive(ctx, m, user, keyID, active)
	i.event("answered", "UpdateAccessKey")
	return err
}

func (i interrupted) DeleteKey(ctx context.Context, m broker.Material, user, keyID string) error {
	err := i.Client.DeleteKey(ctx, m, user, keyID)
	i.event("answered", "DeleteAccessKey")
	return err
}

// rotate runs the job in a process of its own, and returns the events that it told
// of. killed is that SIGKILL ended it.
func (j rotationJob) rotate(t *testing.T) (events []string, killed bool) {
	t.Helper()
	raw, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestRotationChild$", "-test.v")
	cmd.Env = cleanEnv(j.Dir, varRotation+"="+string(raw))
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	for s := bufio.NewScanner(strings.NewReader(errs.String())); s.Scan(); {
		if e, is := strings.CutPrefix(s.Text(), "event "); is {
			events = append(events, e)
		}
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status, _ := exit.Sys().(syscall.WaitStatus)
		killed = ctx.Err() == nil && status.Signaled() && status.Signal() == syscall.SIGKILL
	}
	if err != nil && !killed {
		t.Fatalf("the rotation: %v\n%s%s", err, out.String(), errs.String())
	}
	if strings.Contains(out.String()+errs.String(), "canary") {
		t.Errorf("a secret is told: %s%s", out.String(), errs.String())
	}
	return events, killed
}

// rotationUser makes a user with one key on the server, who may change its own keys,
// and puts the key into custody.
func rotationUser(t *testing.T, s server, name string, actions ...string) (rotationJob, keyPair) {
	t.Helper()
	s.iam(t, "CreateUser", []string{"UserName", name})
	if len(actions) > 0 {
		allow, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": []any{map[string]any{
			"Effect": "Allow", "Action": actions, "Resource": "arn:aws:iam::000000000000:user/" + name}}})
		if err != nil {
			t.Fatal(err)
		}
		s.iam(t, "PutUserPolicy", []string{"UserName", name, "PolicyName", "own-keys", "PolicyDocument", string(allow)})
	}
	made := s.iam(t, "CreateAccessKey", []string{"UserName", name}, "AccessKeyId", "SecretAccessKey")
	key := keyPair{made[0], made[1]}

	j := rotationJob{Dir: tempDir(t), Endpoint: s.endpoint}
	identity, err := seal.MakeIdentity()
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(j.Dir, "identity"), string(identity))
	kept, err := j.keys()
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.Add(t.Context(), rotatedKey, "sealed", custody.Pair{KeyID: key.id, Secret: broker.NewSecret(key.secret)}, custody.AddOptions{}); err != nil {
		t.Fatal(err)
	}
	return j, key
}

// ownKeys is what a rotation asks of IAM.
var ownKeys = []string{"iam:CreateAccessKey", "iam:ListAccessKeys", "iam:UpdateAccessKey", "iam:DeleteAccessKey", "iam:GetAccessKeyLastUsed"}

// held is the key in custody, as a mint would read it now.
func (j rotationJob) held(t *testing.T) aws.Credentials {
	t.Helper()
	kept, err := j.keys()
	if err != nil {
		t.Fatal(err)
	}
	m, err := kept.Source(rotatedKey)(t.Context())
	if err != nil {
		t.Fatalf("custody: %v", err)
	}
	return aws.Credentials{AccessKeyID: m.AccessKeyID, SecretAccessKey: m.SecretAccessKey.Reveal()}
}

// whose is the server's word for who signs.
func (s server) whose(t *testing.T, by aws.Credentials) answer {
	t.Helper()
	return s.query(t, by, "sts", url.Values{"Action": {"GetCallerIdentity"}})
}

// keysOf is what the server has of a user, as its administrator sees it.
func (s server) keysOf(t *testing.T, user string) []awsiam.KeyState {
	t.Helper()
	c, err := awsiam.New(awsiam.Options{Endpoint: s.endpoint})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := c.ListKeys(t.Context(), broker.Material{AccessKeyID: s.key.id, SecretAccessKey: broker.NewSecret(s.key.secret)}, user)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// unknown fails the test unless the server refuses a key in its own words for one
// that does not exist, or is inactive.
func (s server) unknown(t *testing.T, key keyPair) {
	t.Helper()
	s.whose(t, key.credentials()).want(t, 403, "<Code>InvalidClientTokenId</Code>", "The security token included in the request is invalid.")
}

// TestRotation rotates keys of VersityGW in processes that kill themselves at the
// begin and at the end of every step, and between an answer and what is made of it,
// and goes on in new ones.
func TestRotation(t *testing.T) {
	versity := newInstaller(t).goServer("versitygw", versityModule)
	need(t, versity)
	s := startVersity(t, kit{versity: versity}, aws.Credentials{AccessKeyID: "ASIACONFORMANCE00VGW", SecretAccessKey: newSecret(), SessionToken: newSecret(), Expires: time.Now().Add(time.Hour)})

	// The events of a rotation that nobody disturbs.
	j, first := rotationUser(t, s, "undisturbed", ownKeys...)
	whole, killed := j.rotate(t)
	if killed || len(whole) != 7*2+2 {
		t.Fatalf("a rotation has the events %v", whole)
	}
	s.unknown(t, first)

	var mu sync.Mutex
	lines := make([]string, len(whole))
	t.Run("killed", func(t *testing.T) {
		for n := 1; n <= len(whole); n++ {
			t.Run(strings.ReplaceAll(whole[n-1], " ", "-"), func(t *testing.T) {
				t.Parallel()
				user := fmt.Sprintf("killed-%d", n)
				j, first := rotationUser(t, s, user, ownKeys...)
				arn := "<Arn>arn:aws:iam::000000000000:user/" + user + "</Arn>"

				j.Kill = n
				before, killed := j.rotate(t)
				if !killed || len(before) != n || before[n-1] != whole[n-1] {
					t.Fatalf("killed %v after %v, want event %d of %v", killed, before, n, whole)
				}
				held := j.held(t)
				s.whose(t, held).want(t, 200, arn)
				between := s.keysOf(t, user)
				if len(between) > 2 {
					t.Errorf("%d keys after the kill", len(between))
				}
				oldWorks := s.whose(t, first.credentials()).status == 200

				j.Kill = 0
				after := []string{"done (all was done)"}
				if n < len(whole) { // after the last one nothing is under way, and another rotation would begin
					after, _ = j.rotate(t)
				}
				now := j.held(t)
				s.whose(t, now).want(t, 200, arn)
				s.unknown(t, first)
				if keys := s.keysOf(t, user); len(keys) != 1 || keys[0].KeyID != now.AccessKeyID || now.AccessKeyID == first.id || !keys[0].Active {
					t.Errorf("%s in custody, and the server has %+v", now.AccessKeyID, keys)
				}

				var steps []string
				for _, e := range after {
					if step, is := strings.CutPrefix(e, "done "); is {
						steps = append(steps, step)
					}
				}
				custodyHas := "old"
				if held.AccessKeyID != first.id {
					custodyHas = "new"
				}
				mu.Lock()
				defer mu.Unlock()
				lines[n-1] = fmt.Sprintf("| %2d | %-24s | %d | %s, works | %-8s | %-59s | refused: InvalidClientTokenId |",
					n, whole[n-1], len(between), custodyHas, map[bool]string{true: "accepted", false: "refused"}[oldWorks], strings.Join(steps, " "))
			})
		}
	})
	fmt.Printf("\nRotation on VersityGW %s, killed with SIGKILL at every event:\n\n| # | killed when | keys at the server | key in custody | old key then | steps of the process after | old key at the end |\n|---|---|---|---|---|---|---|\n%s\n\n",
		versity.version, strings.Join(lines, "\n"))
}

// TestRotationRefused is what the server itself refuses, and what is said of it.
func TestRotationRefused(t *testing.T) {
	versity := newInstaller(t).goServer("versitygw", versityModule)
	need(t, versity)
	s := startVersity(t, kit{versity: versity}, aws.Credentials{AccessKeyID: "ASIACONFORMANCE00VGW", SecretAccessKey: newSecret(), SessionToken: newSecret(), Expires: time.Now().Add(time.Hour)})
	rotate := func(t *testing.T, j rotationJob, o custody.RotateOptions) (custody.Rotation, error) {
		t.Helper()
		kept, err := j.keys()
		if err != nil {
			t.Fatal(err)
		}
		iam, err := j.iam()
		if err != nil {
			t.Fatal(err)
		}
		return kept.Rotate(t.Context(), rotatedKey, iam, o)
	}
	refused := func(t *testing.T, j rotationJob, words ...string) {
		t.Helper()
		_, err := rotate(t, j, custody.RotateOptions{})
		if err == nil {
			t.Fatal("it is not refused")
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("no %q in %v", w, err)
			}
		}
	}

	t.Run("two keys", func(t *testing.T) {
		j, first := rotationUser(t, s, "two", ownKeys...)
		second := s.iam(t, "CreateAccessKey", []string{"UserName", "two"}, "AccessKeyId")[0]
		third := url.Values{"Action": {"CreateAccessKey"}, "UserName": {"two"}}
		s.query(t, s.key.credentials(), "iam", third).want(t, 409, "<Code>LimitExceeded</Code>")
		refused(t, j, second+" (active, made "+time.Now().UTC().Format(time.DateOnly)+", never used) beside "+first.id,
			"aws iam delete-access-key --user-name two --access-key-id "+second+";")
		if keys := s.keysOf(t, "two"); len(keys) != 2 {
			t.Errorf("the server has %+v", keys)
		}
	})
	t.Run("not allowed", func(t *testing.T) {
		for i, missing := range []string{"iam:ListAccessKeys", "iam:CreateAccessKey", "iam:UpdateAccessKey", "iam:DeleteAccessKey"} {
			user := fmt.Sprintf("not-allowed-%d", i)
			j, _ := rotationUser(t, s, user, slices.DeleteFunc(slices.Clone(ownKeys), func(a string) bool { return a == missing })...)
			refused(t, j, "AccessDenied", "the key's user may not call "+missing+" on itself; give it that permission, or sign with --profile")
			s.whose(t, j.held(t)).want(t, 200)
			// Signed by the administrator it goes on, wherever it was.
			admin := broker.Material{AccessKeyID: s.key.id, SecretAccessKey: broker.NewSecret(s.key.secret)}
			if _, err := rotate(t, j, custody.RotateOptions{Sign: &admin}); err != nil {
				t.Errorf("%s: %v", missing, err)
			}
			s.whose(t, j.held(t)).want(t, 200)
			if keys := s.keysOf(t, user); len(keys) != 1 || keys[0].KeyID != j.held(t).AccessKeyID {
				t.Errorf("%s: the server has %+v", missing, keys)
			}
		}
	})
	t.Run("grace", func(t *testing.T) {
		j, first := rotationUser(t, s, "grace", ownKeys...)
		plan, err := rotate(t, j, custody.RotateOptions{DryRun: true})
		if keys := s.keysOf(t, "grace"); err != nil || len(plan.Steps) != 7 || len(keys) != 1 {
			t.Errorf("a dry run: %+v %v, and then %+v", plan, err, keys)
		}
		done, err := rotate(t, j, custody.RotateOptions{Grace: time.Hour})
		if err != nil || done.Old != first.id || !strings.Contains(done.Hint(), first.id) {
			t.Fatalf("%+v %v", done, err)
		}
		s.unknown(t, first) // inactive
		if keys := s.keysOf(t, "grace"); len(keys) != 2 {
			t.Errorf("the server has %+v", keys)
		}
		// What the hint says brings it back.
		s.iam(t, "UpdateAccessKey", []string{"UserName", "grace", "AccessKeyId", first.id, "Status", "Active"})
		s.whose(t, first.credentials()).want(t, 200)

		kept, err := j.keys()
		if err != nil {
			t.Fatal(err)
		}
		iam, err := j.iam()
		if err != nil {
			t.Fatal(err)
		}
		if id, err := kept.Tidy(t.Context(), rotatedKey, iam, time.Now()); id != "" || err != nil {
			t.Errorf("tidied before its time: %q %v", id, err)
		}
		due := time.Now().Add(time.Hour)
		if id, err := kept.Tidy(t.Context(), rotatedKey, iam, due); id != "" || !errors.Is(err, custody.ErrOldInUse) || !strings.Contains(err.Error(), first.id) {
			t.Errorf("tidied though it works: %q %v", id, err)
		}
		s.whose(t, first.credentials()).want(t, 200)
		s.iam(t, "UpdateAccessKey", []string{"UserName", "grace", "AccessKeyId", first.id, "Status", "Inactive"})
		if id, err := kept.Tidy(t.Context(), rotatedKey, iam, due); id != first.id || err != nil {
			t.Errorf("not tidied: %q %v", id, err)
		}
		s.unknown(t, first)
		s.whose(t, j.held(t)).want(t, 200)
	})
}
