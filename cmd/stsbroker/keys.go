package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stsbroker/stsbroker/broker/awsconfig"
	"github.com/stsbroker/stsbroker/broker/custody"
	"github.com/stsbroker/stsbroker/internal/awsini"
	"github.com/stsbroker/stsbroker/internal/control"
)

// defaultGrace is how long an old key stays, inactive, before a rotation deletes it: a
// working day and the night after, in which somebody may notice that it was in use elsewhere.
const defaultGrace = 24 * time.Hour

func keysCommand(g *globals) *cobra.Command {
	c := &cobra.Command{
		Use:   "keys",
		Short: "keep long-term credentials in custody",
		Long: `keys looks after long-term credentials: where they rest, and whose they are. With a
running broker it does so; without one these commands work on the state folder
themselves.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(keysAddCommand(g), keysImportCommand(g), keysListCommand(g), keysShowCommand(g), keysRemoveCommand(g), keysRotateCommand(g))
	return c
}

// keyFlags are those of add and import.
type keyFlags struct {
	custody             string
	replace, unverified bool
	json                bool
}

func (f *keyFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.custody, "custody", "", "where it is to rest: sealed or keyring (default: what stsbroker.yaml says of the name, else sealed)")
	c.Flags().BoolVar(&f.replace, "replace", false, "take the place of the key that has the name")
	c.Flags().BoolVar(&f.unverified, "unverified", false, "do not ask STS whose key it is first")
	jsonFlag(c, &f.json)
	completeWords(c, "custody", custodySealed, custodyKeyring)
}

func (f *keyFlags) check() error {
	if f.custody != "" && f.custody != custodySealed && f.custody != custodyKeyring {
		return usage("--custody %s: it is sealed or keyring", oneLine(f.custody))
	}
	return nil
}

func keysAddCommand(g *globals) *cobra.Command {
	var f keyFlags
	c := &cobra.Command{
		Use:   "add NAME",
		Short: "put a long-term key in custody",
		Long: `add reads two lines from standard input, the access key id and the secret access
key, or the JSON that aws iam create-access-key prints. On a terminal it asks, and does
not show the secret. It is never an argument, which every user of the machine could read.

STS is asked whose key it is (GetCallerIdentity, which needs no permission), so that a
mistyped one is noticed now. Profiles name the key in stsbroker.yaml:

  profiles:
    base: { session: { key: NAME, mfa_serial: "arn:aws:iam::123456789012:mfa/me" } }`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if !custody.ValidName(args[0]) {
				return usage("%s is not a name for a key: it has letters, digits and . _ - @ +, 64 at most", oneLine(args[0]))
			}
			pair, err := readPair(cmd.Context()) // before the state is anybody's: a person takes his time
			if err != nil {
				return err
			}
			return withState(cmd.Context(), g, func(ctx context.Context, s control.Service) error {
				if err := opened(ctx, s, f.custody); err != nil {
					return err
				}
				return f.put(ctx, s, control.NewKey{Name: args[0], KeyID: pair.KeyID, Secret: pair.Secret.Reveal()})
			})
		},
	}
	f.add(c)
	return c
}

// opened makes sure that a key can be put away before anybody is asked for it.
func opened(ctx context.Context, s control.Service, where string) error {
	if where == custodyKeyring {
		return nil
	}
	c, err := s.Custody(ctx)
	if err != nil || c.State != "locked" || !isTerminal(os.Stdin) {
		return err
	}
	_, err = unlock(ctx, s, false)
	return err
}

// put hands the key over, and says whose it is.
func (f *keyFlags) put(ctx context.Context, s control.Service, k control.NewKey) error {
	k.Custody, k.Replace, k.Unverified = f.custody, f.replace, f.unverified
	info, err := patiently(ctx, "STS to say whose key it is", func(ctx context.Context) (control.KeyInfo, error) { return s.AddKey(ctx, k) })
	if err != nil {
		return err
	}
	if f.json {
		return printJSON(info)
	}
	whose := ""
	if info.Account != "" {
		whose = ", of " + strings.TrimSpace(info.User+" in account "+info.Account)
	}
	_, err = fmt.Println(oneLine(fmt.Sprintf("key %s (%s%s) rests in custody: %s", info.Name, info.KeyID, whose, info.Custody)))
	return err
}

// readPair reads a key: on a terminal by asking, else all of standard input.
func readPair(ctx context.Context) (custody.Pair, error) {
	const longest = 16 << 10
	var text []byte
	if isTerminal(os.Stdin) {
		fmt.Fprint(os.Stderr, "access key id: ")
		id, err := readLine(ctx, os.Stdin)
		if err != nil {
			return custody.Pair{}, err
		}
		secret, err := readSecret(ctx, "secret access key (not shown): ")
		if err != nil {
			return custody.Pair{}, err
		}
		text = append([]byte(id+"\n"), secret...)
	} else {
		var err error
		if text, err = io.ReadAll(io.LimitReader(os.Stdin, longest+1)); err != nil {
			return custody.Pair{}, err
		}
		if len(text) > longest {
			return custody.Pair{}, fmt.Errorf("standard input is longer than a key: it is two lines, or the JSON of aws iam create-access-key")
		}
	}
	return custody.ParsePair(text)
}

func keysImportCommand(g *globals) *cobra.Command {
	var f keyFlags
	var commentOut, keep bool
	var name string
	c := &cobra.Command{
		Use:   "import PROFILE",
		Short: "take the long-term key of an AWS profile into custody",
		Long: `import reads the keys that stand in a profile of the AWS files, asks STS whose they
are, and puts them in custody under the profile's name (or --name). The profile, and every role
that has it as its source_profile, goes on as before, over the key in custody.

Then it offers to take the keys out of the file (--comment-out does so without asking,
--keep does not). The file as it was is kept beside it, with mode 0600: delete that
when all works, since the keys are in it. Other programs that read the file find no keys in it then.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFirst(g, keyOf),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch err := f.check(); {
			case err != nil:
				return err
			case commentOut && keep:
				return usage("--comment-out and --keep exclude each other")
			}
			if name == "" {
				name = args[0]
			}
			if !custody.ValidName(name) {
				return usage("%s is not a name for a key (letters, digits and . _ - @ +, 64 at most): give it one with --name", oneLine(name))
			}
			return keysImport(cmd.Context(), g, args[0], name, &f, commentOut, keep)
		},
	}
	f.add(c)
	c.Flags().StringVar(&name, "name", "", "what to call the key (default: as the profile)")
	c.Flags().BoolVar(&commentOut, "comment-out", false, "take the keys out of the AWS files, without asking")
	c.Flags().BoolVar(&keep, "keep", false, "leave them there")
	return c
}

func keysImport(ctx context.Context, g *globals, profile, name string, f *keyFlags, commentOut, keep bool) error {
	p, err := findPlace(g, false)
	if err != nil {
		return err
	}
	files, _ := withoutOurs(originals(awsconfig.DefaultFiles(p.getenv, p.home)))
	m, err := custody.Profile(files.Config, files.Credentials, profile)(ctx)
	if err != nil {
		return fmt.Errorf("profile %s: %w", profile, err)
	}
	err = withState(ctx, g, func(ctx context.Context, s control.Service) error {
		if err := opened(ctx, s, f.custody); err != nil {
			return err
		}
		return f.put(ctx, s, control.NewKey{Name: name, Profile: profile, KeyID: m.AccessKeyID, Secret: m.SecretAccessKey.Reveal()})
	})
	if err != nil || keep {
		return err
	}
	var standing []string
	for file, key := range map[string]custody.Source{files.Credentials: custody.File(files.Credentials, profile), files.Config: custody.Profile(files.Config, "", profile)} {
		if _, err := key(ctx); file != "" && err == nil {
			standing = append(standing, file)
		}
	}
	slices.Sort(standing)
	if len(standing) == 0 {
		return nil
	}
	if !commentOut {
		yes, err := confirm(ctx, "take the keys out of "+strings.Join(standing, " and ")+"? A copy as it was is kept beside it")
		if err != nil || !yes {
			remark("the keys still stand in %s too; stsbroker keys import %s --comment-out takes them out", strings.Join(standing, " and "), profile)
			return err
		}
	}
	kept := func(key, value string) bool {
		return key == awsini.KeyID && value == m.AccessKeyID || key == awsini.SecretKey && value == m.SecretAccessKey.Reveal()
	}
	for _, file := range standing {
		backup, err := awsconfig.CommentOut(file, profile, "in the custody of stsbroker ("+m.AccessKeyID+")", kept)
		if backup != "" {
			remark("%s as it was, keys and all, is %s; delete that when all works", file, backup)
		}
		if err != nil {
			return fmt.Errorf("the key is in custody; that keys still stand in the file too is not mended: %w", err)
		}
	}
	return nil
}

func keysListCommand(g *globals) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "list",
		Short: "list the long-term keys and where they rest",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return within(cmd.Context(), g, func(ctx context.Context, s control.Service) error {
				keys, err := s.Keys(ctx)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(keys)
				}
				if len(keys) == 0 {
					remark("there is no long-term key; stsbroker keys add NAME puts one in custody, and keys import PROFILE takes one out of ~/.aws")
					return nil
				}
				var rows [][]string
				for _, k := range keys {
					whose := k.Account
					if k.User != "" {
						whose = k.User + " in " + k.Account
					}
					rows = append(rows, []string{oneLine(k.Name), k.Custody, oneLine(k.KeyID), oneLine(whose), oneLine(strings.Trim(k.Rotation+"; "+k.Problem, "; "))})
				}
				table(os.Stdout, rows)
				return nil
			})
		},
	}
	jsonFlag(c, &asJSON)
	return c
}

func keysShowCommand(g *globals) *cobra.Command {
	var profile string
	var asJSON bool
	c := &cobra.Command{
		Use:   "show NAME",
		Short: "show a key's id, where it rests, and the account it belongs to",
		Long: `show prints what may be known of a long-term key, never its secret. NAME is a key
in custody or of stsbroker.yaml, an AWS profile that holds one, or an access key id
(AKIA… or ASIA…) that turned up somewhere.

The account comes from STS. A key of yours asks for itself; for another id the
credentials of a profile do: the one in AWS_PROFILE, the only one there is, or
default, unless --profile names it. Where STS does not tell the account of a key
of yours, the rest is printed, and the reason on standard error.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeKeys(g),
		RunE: func(cmd *cobra.Command, args []string) error {
			return within(cmd.Context(), g, func(ctx context.Context, s control.Service) error {
				signs, err := signingProfile(ctx, s, profile)
				if err != nil {
					return err
				}
				k, err := patiently(ctx, "STS to say whose key it is", func(ctx context.Context) (control.KeyInfo, error) { return s.KeyInfo(ctx, args[0], signs) })
				if err != nil {
					return err
				}
				if k.Unknown != "" {
					complain("the account is not known: " + k.Unknown)
				}
				if asJSON {
					return printJSON(k)
				}
				added := ""
				if !k.Added.IsZero() {
					added = k.Added.Local().Format(time.DateTime)
				}
				rows := [][]string{
					{"name", oneLine(k.Name)}, {"key id", oneLine(k.KeyID)}, {"custody", k.Custody}, {"account", oneLine(k.Account)}, {"user", oneLine(k.User)},
					{"profile", oneLine(k.Profile)}, {"added", added}, {"rotation", oneLine(k.Rotation)}, {"problem", oneLine(k.Problem)},
				}
				table(os.Stdout, slices.DeleteFunc(rows, func(r []string) bool { return r[1] == "" }))
				return nil
			})
		},
	}
	c.Flags().StringVar(&profile, "profile", "", "the `profile` whose credentials ask for a key that is not yours")
	jsonFlag(c, &asJSON)
	completeProfileFlag(c, g)
	return c
}

func keysRemoveCommand(g *globals) *cobra.Command {
	var yes, force bool
	c := &cobra.Command{
		Use:   "remove NAME",
		Short: "take a key out of custody for good",
		Long: `remove deletes a key that stsbroker keeps. At AWS it goes on to exist: deactivate and
delete it there too, if nobody needs it. Sessions that were minted with it end in
their own time. While a rotation of it is not at its end it is refused, since IAM has
another key of it then; --force removes it all the same, and says which.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeKept(g),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withState(cmd.Context(), g, func(ctx context.Context, s control.Service) error {
				keys, err := s.Keys(ctx)
				if err != nil {
					return err
				}
				known := slices.ContainsFunc(keys, func(k control.KeyInfo) bool { return k.Name == args[0] && inOurCustody(k) })
				if !yes && known {
					sure, err := confirm(ctx, "key "+args[0]+" cannot be had again from stsbroker once it is removed. Remove it?")
					switch {
					case err != nil:
						return err
					case !sure && !isTerminal(os.Stdin):
						return errors.New("key " + args[0] + " was not removed: nobody is there to be asked; --yes says that you are sure")
					case !sure:
						return errors.New("key " + args[0] + " was not removed")
					}
				}
				leaves, err := s.RemoveKey(ctx, args[0], force)
				if err != nil {
					return err
				}
				if leaves != "" {
					remark("%s", leaves)
				}
				_, err = fmt.Println(oneLine("key " + args[0] + " is removed; at AWS it goes on to exist"))
				return err
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&force, "force", false, "also while a rotation is not at its end")
	return c
}

func keysRotateCommand(g *globals) *cobra.Command {
	var r control.RotateRequest
	var grace time.Duration
	var asJSON bool
	c := &cobra.Command{
		Use:   "rotate NAME",
		Short: "replace a key by a new one of the same IAM user",
		Long: `rotate makes a new access key with IAM, puts it in custody, makes sure that it works,
mints with it from then on, deactivates the old one, and deletes that after the grace
period: the running broker does, or the next rotate. Until then the old one can be
activated again with the AWS CLI. Sessions that were minted with it go on.

There is no moment at which a crash loses access: run the command again, and it goes on
where it was. It refuses where the user has two keys already, and says which is unused.

The key signs the calls of IAM itself, unless --profile names another one, such as a
session with MFA where the user's policy asks for that. It needs iam:CreateAccessKey,
ListAccessKeys, UpdateAccessKey, DeleteAccessKey and GetAccessKeyLastUsed on itself.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeKept(g),
		RunE: func(cmd *cobra.Command, args []string) error {
			if grace < 0 || grace > 90*24*time.Hour {
				return usage("--grace %s: it is 0 to 2160h", grace)
			}
			r.Name, r.Grace = args[0], grace.Seconds()
			return withState(cmd.Context(), g, func(ctx context.Context, s control.Service) error {
				out, err := patiently(ctx, "IAM and STS to replace key "+args[0], func(ctx context.Context) (control.Rotation, error) { return s.RotateKey(ctx, r) })
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(out)
				}
				return printRotation(out, r.DryRun)
			})
		},
	}
	c.Flags().StringVar(&r.Profile, "profile", "", "the `profile` whose credentials sign the calls of IAM")
	c.Flags().DurationVar(&grace, "grace", defaultGrace, "how long the old key stays, inactive, before it is deleted")
	c.Flags().BoolVar(&r.DryRun, "dry-run", false, "say what would be done, and change nothing")
	jsonFlag(c, &asJSON)
	completeProfileFlag(c, g)
	return c
}

// stepWords says what a step of a rotation does.
func stepWords(step string) string {
	switch step {
	case custody.StepClear:
		return "clear: delete the key that an earlier try made and could not keep"
	case custody.StepMark:
		return "mark: note that a key is about to be made"
	case custody.StepCreate:
		return "create: make a new access key with IAM"
	case custody.StepSeal:
		return "seal: put it in custody, as the next key"
	case custody.StepVerify:
		return "verify: see that it works, and is the same user's"
	case custody.StepSwitch:
		return "switch: mint with it from now on"
	case custody.StepDeactivate:
		return "deactivate: the old key works no more, and can be made to again"
	case custody.StepDelete:
		return "delete: the old key"
	case custody.StepUndo:
		return "undo: delete the new key, which does not work"
	}
	return step
}

func printRotation(r control.Rotation, dry bool) error {
	done := "done"
	if dry {
		done = "would do"
	}
	for _, step := range r.Steps {
		if _, err := fmt.Println(oneLine(done + ": " + stepWords(step))); err != nil {
			return err
		}
	}
	if dry {
		return nil
	}
	line := "key " + r.Name + " is " + r.KeyID
	switch {
	case r.OldKeyID != "" && !r.DeleteAfter.IsZero():
		line += "; the old one, " + r.OldKeyID + ", is inactive and will be deleted after " + r.DeleteAfter.Local().Format(time.DateTime)
	case r.OldKeyID != "":
		line += "; the old one was " + r.OldKeyID
	}
	if _, err := fmt.Println(oneLine(line)); err != nil {
		return err
	}
	if r.Hint != "" {
		remark("%s", r.Hint)
	}
	return nil
}
