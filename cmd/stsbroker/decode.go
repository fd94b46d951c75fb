package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/stsbroker/stsbroker/internal/control"
)

func decodeCommand(g *globals) *cobra.Command {
	var profile string
	var asJSON bool
	c := &cobra.Command{
		Use:   "decode MESSAGE",
		Short: "read the encoded message of a call that AWS denied",
		Long: `decode asks STS what an encoded authorization message says, and prints what was
denied, to whom and why, and then all of it as JSON. MESSAGE is the encoded part
alone or the whole error that holds it, or - to read it from standard input.

The profile needs permission for sts:DecodeAuthorizationMessage. Without
--profile it is the one in AWS_PROFILE, the only one there is, or default.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text := args[0]
			if text == "-" {
				b, err := io.ReadAll(io.LimitReader(os.Stdin, 1<<20))
				if err != nil {
					return fmt.Errorf("standard input: %w", err)
				}
				text = string(b)
			}
			message, err := encodedMessage(text)
			if err != nil {
				return err
			}
			return within(cmd.Context(), g, func(ctx context.Context, s control.Service) error {
				name, err := signingProfile(ctx, s, profile)
				if err == nil && name == "" {
					err = errors.New("no profile to sign the call with: name one with --profile; stsbroker status lists them")
				}
				if err != nil {
					return err
				}
				decoded, err := patiently(ctx, "STS to decode the message", func(ctx context.Context) (string, error) { return s.Decode(ctx, name, message) })
				if err != nil {
					return err
				}
				var out bytes.Buffer
				if asJSON {
					err = json.Indent(&out, []byte(decoded), "", "  ")
					out.WriteByte('\n')
				} else {
					err = showDenial(&out, decoded)
				}
				if err != nil {
					return fmt.Errorf("what STS decoded is not the JSON that is expected: %w", err)
				}
				_, err = os.Stdout.Write(out.Bytes())
				return err
			})
		},
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return fmt.Errorf("%w; a message that begins with - stands behind --, or comes on standard input", err)
	})
	c.Flags().StringVar(&profile, "profile", "", "the `profile` whose credentials sign the call")
	jsonFlag(c, &asJSON)
	completeProfileFlag(c, g)
	return c
}

// encodedInError is how services of AWS put the message, Base64 of some kind,
// into the text of an error.
var encodedInError = lazy(`(?i)encoded authorization failure message:\s*([\w+/=-]+)`)

// encodedMessage takes the message out of an error that holds one.
func encodedMessage(text string) (string, error) {
	text = strings.TrimSpace(text)
	if m := encodedInError().FindStringSubmatch(text); m != nil {
		text = m[1]
	}
	switch {
	case text == "":
		return "", errors.New("there is no encoded message: give it, or the whole error that ends in \"Encoded authorization failure message: …\"")
	case len(strings.Fields(text)) > 1:
		return "", errors.New("that is no encoded message, and no error that holds one after \"Encoded authorization failure message:\"; not every service of AWS sends one")
	case utf8.RuneCountInString(text) > control.MaxMessage:
		return "", fmt.Errorf("the encoded message has %d characters, and STS decodes %d at most", utf8.RuneCountInString(text), control.MaxMessage)
	}
	return text, nil
}

// signingProfile is whose credentials sign a call that is about no profile: what
// the flag says, else AWS_PROFILE where that is one of ours, else the only one
// there is, else default. It is "" where none of these is.
func signingProfile(ctx context.Context, s control.Service, flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	st, err := s.Status(ctx, "")
	if err != nil {
		return "", err
	}
	var names []string
	for _, p := range st.Profiles {
		if n := served(p); n != "" {
			names = append(names, n)
		}
	}
	if own := os.Getenv("AWS_PROFILE"); slices.Contains(names, own) {
		return own, nil
	}
	switch {
	case len(names) == 1:
		return names[0], nil
	case slices.Contains(names, "default"):
		return "default", nil
	}
	return "", nil
}

// denial is the part of a decoded message that is shown in words. The IAM user
// guide has its form in an example only, so nothing in it is relied on.
type denial struct {
	Allowed  bool `json:"allowed"`
	Explicit bool `json:"explicitDeny"`
	Matched  struct {
		Items []struct {
			ID        string `json:"statementId"`
			Effect    string `json:"effect"`
			Actions   values `json:"actions"`
			Resources values `json:"resources"`
		} `json:"items"`
	} `json:"matchedStatements"`
	Context struct {
		Principal struct {
			ID  string `json:"id"`
			ARN string `json:"arn"`
		} `json:"principal"`
		Action   string `json:"action"`
		Resource string `json:"resource"`
	} `json:"context"`
}

type values struct {
	Items []struct {
		Value string `json:"value"`
	} `json:"items"`
}

func (v values) String() string {
	var all []string
	for _, i := range v.Items {
		all = append(all, i.Value)
	}
	return strings.Join(all, ", ")
}

func showDenial(w *bytes.Buffer, text string) error {
	var d denial
	var whole bytes.Buffer
	if err := json.Indent(&whole, []byte(text), "", "  "); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		return err
	}
	verdict, why := "denied", "no statement allows it"
	switch {
	case d.Allowed:
		verdict, why = "allowed", "" // the denial has another reason, which the JSON may tell
	case d.Explicit:
		why = "a statement denies it explicitly"
	}
	rows := [][]string{{verdict, oneLine(d.Context.Action)}, {"on", oneLine(d.Context.Resource)}, {"to", oneLine(d.Context.Principal.ARN)}, {"because", why}}
	for _, m := range d.Matched.Items {
		what := m.Effect + " " + m.Actions.String()
		if on := m.Resources.String(); on != "" {
			what += " on " + on
		}
		if m.ID != "" {
			what += " (" + m.ID + ")"
		}
		rows = append(rows, []string{"matched", oneLine(what)})
	}
	table(w, slices.DeleteFunc(rows, func(r []string) bool { return r[1] == "" }))
	w.WriteByte('\n')
	for line := range strings.Lines(whole.String()) {
		w.WriteString(oneLine(strings.TrimSuffix(line, "\n")) + "\n")
	}
	return nil
}

// completeProfileFlag completes the value of --profile.
func completeProfileFlag(c *cobra.Command, g *globals) {
	if err := c.RegisterFlagCompletionFunc("profile", completeFlag(g, served)); err != nil {
		panic(err) // the command has the flag
	}
}
