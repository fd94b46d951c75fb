package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"filippo.io/age/plugin"
	"github.com/spf13/cobra"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/broker/custody/keyring"
	"github.com/stsbroker/stsbroker/internal/control"
	"github.com/stsbroker/stsbroker/internal/seal"
)

// leastPassphrase is in characters. It is all that stands between a stolen disk and
// the keys.
const leastPassphrase = 10

func lockCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "lock",
		Short: "close custody: the broker forgets what opens sealed state",
		Long: `lock makes the running broker forget the identity that opens sealed state, and what
it read with it: long-term keys and refresh tokens. Until unlock, nothing can be
minted that a sealed key or a sign-in is needed for.

Session credentials that are held go on being served until they end, tokens go on
working, and the files of the state folder stay as they are. To end sessions too, log
out of them first: stsbroker logout PROFILE.

The identity itself stays where it is: one in a file or the OS keyring opens custody
again at the next unlock, or at the broker's next start, without asking anybody.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := connect(cmd.Context(), g)
			if err != nil {
				return err
			}
			c, err := s.Lock(cmd.Context())
			if err != nil {
				return err
			}
			return printCustody(c)
		},
	}
}

func unlockCommand(g *globals) *cobra.Command {
	var inKeyring bool
	c := &cobra.Command{
		Use:   "unlock",
		Short: "open custody, or make the identity that it needs",
		Long: `unlock gives the running broker the identity that opens sealed state: with the
passphrase, asked for on the terminal or read as one line of standard input; with an
age plugin, which may ask for a PIN or a touch; or out of the OS keyring, once that is
unlocked.

Where there is no identity yet, it makes one. It rests in the state folder, sealed
with a passphrase of yours, or in the OS keyring with --keyring, or sealed for the
age plugin whose identity STSBROKER_IDENTITY_FILE names. A forgotten passphrase cannot
be recovered: what is sealed is lost then, and keys are made anew.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			alone := false
			if _, err := connect(cmd.Context(), g); errors.As(err, new(errNoDaemon)) {
				alone = true
			}
			return withState(cmd.Context(), g, func(ctx context.Context, s control.Service) error {
				c, err := unlock(ctx, s, inKeyring)
				switch {
				case err != nil:
					return err
				case alone: // what was opened is closed again when this ends
					_, err = fmt.Println(oneLine("the identity opens what is sealed: " + c.From + " (" + c.Identity + "); no broker runs that would keep it open, so start one with stsbroker serve and unlock it, or be asked by each command"))
					return err
				}
				return printCustody(c)
			})
		},
	}
	c.Flags().BoolVar(&inKeyring, "keyring", false, "make the identity in the OS keyring, where there is none yet")
	return c
}

func printCustody(c control.Custody) error {
	line := "custody is " + c.State
	if c.Identity != "" && c.State == "open" {
		line += ": " + c.From + " (" + c.Identity + ")"
	}
	_, err := fmt.Println(oneLine(line))
	return err
}

// unlock opens custody in the way that it is closed, or makes the identity that it
// is to be closed with.
func unlock(ctx context.Context, s control.Service, inKeyring bool) (control.Custody, error) {
	c, err := s.Custody(ctx)
	if err != nil {
		return c, err
	}
	switch {
	case inKeyring && c.State != "none":
		return c, fmt.Errorf("there is an identity already (%s, %s), and it is the one that sealed what there is; leave --keyring out", c.From, c.Identity)
	case c.State == "open": // what an earlier unlock could not read may be left
		return s.Unlock(ctx, control.Unlocking{})
	case inKeyring:
		return newInKeyring(ctx, s)
	case c.How == "plugin":
		return unlockPlugin(ctx, s, c)
	case c.State == "none":
		return newWithPassphrase(ctx, s)
	case c.How == "passphrase":
		return unlockPassphrase(ctx, s, c)
	case c.How == "keyring":
		if err := keyring.New(os.Getenv).Unlock(ctx); err != nil { // it may ask the person; the broker never does
			return c, err
		}
	}
	return s.Unlock(ctx, control.Unlocking{})
}

func unlockPassphrase(ctx context.Context, s control.Service, c control.Custody) (control.Custody, error) {
	const mostTries = 3
	terminal := isTerminal(os.Stdin)
	for tries := 1; ; tries++ {
		phrase, err := readSecret(ctx, "passphrase of "+c.Identity+": ")
		if err != nil {
			return c, err
		}
		text, err := seal.OpenPassphrase(c.Wrapped, phrase)
		switch {
		case err == nil:
			return s.Unlock(ctx, control.Unlocking{Identity: string(text)})
		case !errors.Is(err, seal.ErrPassphrase):
			return c, fmt.Errorf("%s: %w", c.Identity, err)
		case !terminal || tries == mostTries:
			return c, errors.New("that is not the passphrase of " + c.Identity)
		}
		complain("that is not the passphrase of " + c.Identity + "; try again")
	}
}

func newWithPassphrase(ctx context.Context, s control.Service) (control.Custody, error) {
	none := control.Custody{}
	if isTerminal(os.Stdin) {
		remark("there is no identity yet, so a new one is made. Its passphrase cannot be recovered: write it down where you keep such things")
	}
	phrase, err := readSecret(ctx, "new passphrase: ")
	if err != nil {
		return none, err
	}
	if len([]rune(string(phrase))) < leastPassphrase {
		return none, fmt.Errorf("the passphrase has fewer than %d characters; a few words are better", leastPassphrase)
	}
	if isTerminal(os.Stdin) {
		again, err := readSecret(ctx, "the same again: ")
		if err != nil {
			return none, err
		}
		if !bytes.Equal(phrase, again) {
			return none, errors.New("the two are not the same; nothing was made")
		}
	}
	text, err := seal.MakeIdentity()
	if err != nil {
		return none, err
	}
	wrapped, err := seal.Wrap(text, phrase)
	if err != nil {
		return none, err
	}
	return s.Unlock(ctx, control.Unlocking{Identity: string(text), Wrapped: wrapped})
}

func newInKeyring(ctx context.Context, s control.Service) (control.Custody, error) {
	ring := keyring.New(os.Getenv)
	if err := ring.Unlock(ctx); err != nil {
		return control.Custody{}, err
	}
	text, err := ring.Identity(ctx)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return control.Custody{}, err
	}
	if err != nil { // one that a lost state folder left behind is as good as a new one
		if text, err = seal.MakeIdentity(); err != nil {
			return control.Custody{}, err
		}
		if err := ring.PutIdentity(ctx, text); err != nil {
			return control.Custody{}, err
		}
	}
	return s.Unlock(ctx, control.Unlocking{Identity: string(text), Wrapped: []byte(seal.KeyringMarker)})
}

// unlockPlugin runs the plugin's program on this terminal: the broker has none. age gives
// it our environment, out of which goes what is none of its business.
func unlockPlugin(ctx context.Context, s control.Service, c control.Custody) (control.Custody, error) {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); ours(name) {
			if err := os.Unsetenv(name); err != nil {
				return c, err
			}
		}
	}
	ui := pluginUI(ctx)
	if len(c.Wrapped) > 0 {
		// The plugin's own identity stays where it is, on a stick perhaps.
		text, err := seal.OpenPlugin(ctx, append([]byte(c.Plugin+"\n"), c.Wrapped...), ui)
		if err != nil {
			return c, fmt.Errorf("%s: %w", c.Identity, err)
		}
		return s.Unlock(ctx, control.Unlocking{Identity: string(text)})
	}
	text, err := seal.MakeIdentity()
	if err != nil {
		return c, err
	}
	wrapped, err := seal.WrapPlugin(ctx, text, c.Plugin, ui)
	if err != nil {
		return c, fmt.Errorf("%s: %w", c.Identity, err)
	}
	return s.Unlock(ctx, control.Unlocking{Identity: string(text), Wrapped: wrapped[max(0, bytes.Index(wrapped, []byte("-----BEGIN AGE"))):]})
}

// pluginUI speaks for a plugin, whose words are somebody else's.
func pluginUI(ctx context.Context) *plugin.ClientUI {
	return &plugin.ClientUI{
		DisplayMessage: func(name, message string) error {
			remark("age-plugin-%s: %s", name, message)
			return nil
		},
		RequestValue: func(name, prompt string, secret bool) (string, error) {
			if !secret {
				fmt.Fprintf(os.Stderr, "age-plugin-%s: %s ", oneLine(name), oneLine(prompt))
				return readLine(ctx, os.Stdin)
			}
			v, err := readSecret(ctx, fmt.Sprintf("age-plugin-%s: %s ", oneLine(name), oneLine(prompt)))
			return string(v), err
		},
		Confirm: func(name, prompt, yes, no string) (bool, error) {
			if no == "" {
				no = "no"
			}
			return confirm(ctx, fmt.Sprintf("age-plugin-%s: %s (yes: %s; no: %s)", name, prompt, yes, no))
		},
		WaitTimer: func(name string) { remark("waiting for age-plugin-%s", name) },
	}
}

// lockedOut knows the error of custody that is locked.
func lockedOut(err error) bool {
	e, ok := errors.AsType[*control.Error](err)
	return ok && e.Kind == broker.KindLocked.String()
}
