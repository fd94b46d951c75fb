package seal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"

	"filippo.io/age"
	"filippo.io/age/armor"
	"filippo.io/age/plugin"
)

// Kind is what the text of an identity file is.
type Kind uint8

// Kinds of text.
const (
	Unknown        Kind = iota
	Native              // [ParseIdentity] reads it
	Passphrase          // sealed by a passphrase: [OpenPassphrase]
	Plugin              // sealed by a plugin, as [WrapPlugin] does it: [OpenPlugin]
	PluginIdentity      // identities of plugins, and nothing that they sealed: for [WrapPlugin]
	Keyring             // [KeyringMarker]
)

var kindNames = [...]string{"unknown", "native", "passphrase", "plugin", "plugin identity", "keyring"}

// String returns the kind's name.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", k)
}

// Wrapped reports whether it takes a person to open it.
func (k Kind) Wrapped() bool { return k == Passphrase || k == Plugin || k == PluginIdentity }

// KeyringMarker is all that stands in an identity file whose identity is in the
// keyring of the operating system.
const KeyringMarker = "# stsbroker: the identity is in the OS keyring"

const (
	ageHead    = "age-encryption.org/v1\n"
	scryptHead = ageHead + "-> scrypt " // a file for a passphrase is for nobody else (age-encryption.org/v1, "scrypt recipient stanza")
	pluginHead = "AGE-PLUGIN-"

	mostWorkFactor = 20 // 2^20: four seconds, and a gigabyte
)

// KindOfIdentity says what the text of an identity file is, from what it begins with.
// It opens nothing.
func KindOfIdentity(text []byte) Kind {
	if len(text) > IdentityLimit {
		return Unknown
	}
	plugins, sealed := splitPlugin(text)
	switch {
	case len(plugins) > 0 && sealed != nil:
		return Plugin
	case len(plugins) > 0:
		return PluginIdentity
	case strings.TrimSpace(string(text)) == KeyringMarker:
		return Keyring
	case isScrypt(text):
		return Passphrase
	}
	if _, err := ParseIdentity(text); err == nil {
		return Native
	}
	return Unknown
}

// splitPlugin returns the lines of a text that are identities of plugins, and what they
// sealed, armored: nil for nothing. A text that has other lines too has neither.
func splitPlugin(text []byte) (ids []string, sealed []byte) {
	for rest := text; len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		switch l := strings.TrimRight(string(line), "\r"); {
		case l == "" || strings.HasPrefix(l, "#"):
		case strings.HasPrefix(l, pluginHead):
			ids = append(ids, l)
		case l == armor.Header && len(ids) > 0:
			return ids, rest
		default:
			return nil, nil
		}
		rest = after
	}
	return ids, nil
}

// unarmor returns an age file as it is in binary, whether it is armored or not.
func unarmor(text []byte) ([]byte, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(text), []byte(armor.Header)) {
		return text, nil
	}
	file, err := io.ReadAll(armor.NewReader(bytes.NewReader(text)))
	if err != nil { // it may quote the text
		return nil, errors.New("it is damaged: its armor was changed or cut short")
	}
	return file, nil
}

func armored(file []byte) ([]byte, error) {
	var out bytes.Buffer
	w := armor.NewWriter(&out)
	if _, err := w.Write(file); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func isScrypt(text []byte) bool {
	file, err := unarmor(text)
	return err == nil && bytes.HasPrefix(file, []byte(scryptHead))
}

// ErrPassphrase is the error of a passphrase that does not open the file.
var ErrPassphrase = errors.New("the passphrase is another one")

// Wrap seals the text of an identity file by a passphrase: an age file, armored, which
// age -d opens too. It takes about a second and 256 MB.
func Wrap(identityText, passphrase []byte) ([]byte, error) {
	return wrap(identityText, passphrase, workFactor)
}

func wrap(identityText, passphrase []byte, factor int) ([]byte, error) {
	if _, err := ParseIdentity(identityText); err != nil {
		return nil, err
	}
	to, err := age.NewScryptRecipient(string(passphrase))
	if err != nil { // an empty one
		return nil, err
	}
	to.SetWorkFactor(factor)
	file, err := encrypt(identityText, to)
	if err != nil {
		return nil, err
	}
	return armored(file)
}

// OpenPassphrase returns the text of the identity file that was sealed by a passphrase,
// by [Wrap] or by age -p, armored or not. The error is [ErrPassphrase] for a wrong
// passphrase. A file whose work factor is above 2^20, and which would take minutes or
// all memory to try, is refused at once.
func OpenPassphrase(wrapped, passphrase []byte) ([]byte, error) {
	file, err := passphraseFile(wrapped)
	if err != nil {
		return nil, err
	}
	id, err := age.NewScryptIdentity(string(passphrase))
	if err != nil {
		return nil, ErrPassphrase // an empty one seals nothing
	}
	id.SetMaxWorkFactor(mostWorkFactor)
	plain, err := decrypt(file, IdentityLimit, id)
	if errors.Is(err, errOther) {
		return nil, ErrPassphrase
	}
	return plain, err
}

// passphraseFile returns the file in binary if it is worth trying a passphrase on.
func passphraseFile(wrapped []byte) ([]byte, error) {
	if len(wrapped) > IdentityLimit {
		return nil, fmt.Errorf("it is longer than %d bytes, and no identity is", IdentityLimit)
	}
	file, err := unarmor(wrapped)
	if err != nil {
		return nil, err
	}
	rest, ok := bytes.CutPrefix(file, []byte(scryptHead))
	if !ok {
		return nil, errors.New("it is not sealed by a passphrase")
	}
	line, _, _ := strings.Cut(string(rest), "\n")
	_, factor, _ := strings.Cut(line, " ")
	switch n, err := strconv.Atoi(factor); {
	case errors.Is(err, strconv.ErrRange) || err == nil && n > mostWorkFactor:
		return nil, fmt.Errorf("its work factor is above 2^%d, and trying it could take all memory; seal it again, with age -p", mostWorkFactor)
	case err != nil || n < 1:
		return nil, errors.New("it is damaged: its head has no work factor")
	}
	return file, nil
}

// WrapPlugin seals the text of an identity file by age plugins: by all identities of
// plugins that pluginText has, a line each, as age-plugin-NAME programs print them. Any
// of them opens it. What is returned is the identities and the sealed text, armored.
//
// It runs age-plugin-NAME, from the PATH, with the environment of this process, and
// lets ui ask the person. age's client of plugins cannot be stopped: when ctx ends,
// its error is returned and ui is no longer called, while the plugin goes on until it
// is done or this process ends. So it is for a command that then exits.
func WrapPlugin(ctx context.Context, identityText []byte, pluginText string, ui *plugin.ClientUI) ([]byte, error) {
	if _, err := ParseIdentity(identityText); err != nil {
		return nil, err
	}
	lines, _ := splitPlugin([]byte(pluginText))
	ids, err := pluginIdentities(ctx, lines, ui)
	if err != nil {
		return nil, err
	}
	to := make([]age.Recipient, 0, len(ids))
	for _, id := range ids {
		to = append(to, id.Recipient())
	}
	file, err := patient(ctx, func() ([]byte, error) { return encrypt(identityText, to...) })
	if err != nil {
		return nil, pluginError(err)
	}
	if crowded(file) { // it would not be opened again
		return nil, fmt.Errorf("the plugins seal for more than %d recipients", mostRecipients)
	}
	text, err := armored(file)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "# An age identity that a plugin sealed, for stsbroker. To open it by hand, put each line that begins\n# with AGE-PLUGIN into a file ONE, what comes after them into a file TWO, and run: age -d -i ONE TWO\n%s\n%s", strings.Join(lines, "\n"), text), nil
}

// OpenPlugin returns the text of the identity file that [WrapPlugin] sealed. The
// plugins are run one after the other until one opens it. See [WrapPlugin] for how.
func OpenPlugin(ctx context.Context, wrapped []byte, ui *plugin.ClientUI) ([]byte, error) {
	if len(wrapped) > IdentityLimit {
		return nil, fmt.Errorf("it is longer than %d bytes, and no identity is", IdentityLimit)
	}
	lines, sealed := splitPlugin(wrapped)
	if sealed == nil {
		return nil, errors.New("it holds nothing that a plugin sealed")
	}
	file, err := unarmor(sealed)
	if err != nil {
		return nil, err
	}
	ids, err := pluginIdentities(ctx, lines, ui)
	if err != nil {
		return nil, err
	}
	var failed []error
	for _, id := range ids {
		plain, err := patient(ctx, func() ([]byte, error) { return decrypt(file, IdentityLimit, id) })
		if err == nil {
			return plain, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		failed = append(failed, pluginError(err))
	}
	if len(failed) == 1 {
		return nil, failed[0]
	}
	words := make([]string, 0, len(failed))
	for _, err := range failed {
		words = append(words, err.Error())
	}
	return nil, errors.New(strings.Join(words, "; "))
}

func pluginIdentities(ctx context.Context, lines []string, ui *plugin.ClientUI) ([]*plugin.Identity, error) {
	if len(lines) == 0 || len(lines) > mostRecipients {
		return nil, fmt.Errorf("it takes 1 to %d identities of plugins (AGE-PLUGIN-…), a line each and nothing else but comments", mostRecipients)
	}
	ids := make([]*plugin.Identity, 0, len(lines))
	for _, line := range lines {
		id, err := plugin.NewIdentity(line, during(ctx, ui))
		if err != nil { // it may quote the line
			return nil, errors.New("the identity of a plugin is damaged: it was mistyped or cut short")
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// during is ui until ctx ends; from then on the plugin is told that nobody answers.
func during(ctx context.Context, ui *plugin.ClientUI) *plugin.ClientUI {
	if ui == nil {
		return &plugin.ClientUI{}
	}
	u := *ui
	if ask := ui.DisplayMessage; ask != nil {
		u.DisplayMessage = func(name, message string) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return ask(name, message)
		}
	}
	if ask := ui.RequestValue; ask != nil {
		u.RequestValue = func(name, prompt string, secret bool) (string, error) {
			if err := ctx.Err(); err != nil {
				return "", err
			}
			return ask(name, prompt, secret)
		}
	}
	if ask := ui.Confirm; ask != nil {
		u.Confirm = func(name, prompt, yes, no string) (bool, error) {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			return ask(name, prompt, yes, no)
		}
	}
	if tell := ui.WaitTimer; tell != nil {
		u.WaitTimer = func(name string) {
			if ctx.Err() == nil {
				tell(name)
			}
		}
	}
	return &u
}

// patient waits for f until ctx ends.
func patient(ctx context.Context, f func() ([]byte, error)) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data, err := f()
		done <- result{data, err}
	}()
	select {
	case r := <-done:
		return r.data, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// pluginError says in one line what a plugin did not do; the words in it may be the
// plugin's own.
func pluginError(err error) error {
	if missing, ok := errors.AsType[*plugin.NotFoundError](err); ok {
		return fmt.Errorf("the program age-plugin-%s is missing: install it, or put its folder on the PATH", missing.Name)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if d, ok := errors.AsType[damaged](err); ok { // the plugin did not open it, and that is all that is known
		err = d.error
	}
	words := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, err.Error())
	if len(words) > 300 {
		words = strings.ToValidUTF8(words[:300], "") + "…"
	}
	return errors.New(words)
}
