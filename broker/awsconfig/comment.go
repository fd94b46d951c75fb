package awsconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/stsbroker/stsbroker/internal/awsini"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// ErrNoKeys is within the error of [CommentOut] for a file that has no keys of the profile.
var ErrNoKeys = errors.New("has no long-term keys there")

// CommentOut takes the long-term keys of a profile out of a shared file, config or
// credentials, once they are in custody. Each line of aws_access_key_id and of
// aws_secret_access_key in the profile's section, and no other, becomes a comment
// "# KEY: NOTE" that holds nothing of the value; every other byte stays.
//
// kept says whether a value is the one in custody: where one is not, nothing is changed.
// nil takes every value for it.
//
// The old content is kept in backup, a file of mode 0600 beside path that the caller
// tells of: it holds the keys. The file is replaced whole, behind a symbolic link
// too, and is readable by its owner alone from then on.
//
// After an error without a backup nothing was changed. It refuses a file that others
// may change, that is somebody else's or has a second name (a hard link), that was
// changed meanwhile, and lines whose meaning for their neighbours it cannot keep.
func CommentOut(path, profile, note string, kept func(key, value string) bool) (backup string, err error) {
	if strings.ContainsFunc(note, unicode.IsControl) {
		return "", errors.New("the note is not one line of text")
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	old, info, err := readWhole(target)
	if err != nil {
		return "", err
	}
	if err := securefile.CheckWriters(path, info); err != nil {
		return "", err
	}
	if err := replaceable(target, info); err != nil {
		return "", err
	}
	data, err := commentOut(path, old, profile, note, kept)
	if err != nil {
		return "", err
	}
	backup, err = keep(path, old)
	if err != nil {
		_ = os.Remove(backup) // should it be there, and only not be safe from a power cut
		return "", err
	}
	replaced, err := replace(target, old, info, data)
	if !replaced {
		return "", errors.Join(err, os.Remove(backup))
	}
	return backup, err
}

// replace puts data in the place of a file that was read as old. It reports whether
// it did, which may be so beside an error: of the folder, or of the mode.
func replace(path string, old []byte, info fs.FileInfo, data []byte) (bool, error) {
	switch now, again, err := readWhole(path); {
	case err != nil:
		return false, err
	case !os.SameFile(info, again) || !bytes.Equal(now, old):
		return false, fmt.Errorf("%s was changed meanwhile: try again", path)
	}
	err := securefile.Write(path, data)
	if mode := info.Mode().Perm() & 0o600; err == nil && mode != 0o600 {
		err = os.Chmod(path, mode) // never looser than it was
	}
	now, _, readErr := readWhole(path)
	return err == nil || readErr != nil || !bytes.Equal(now, old), err
}

// readWhole reads a file as awsini.Read does, to the same limit.
func readWhole(path string) ([]byte, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, awsini.MaxSize+1))
	if err == nil && len(data) > awsini.MaxSize {
		err = fmt.Errorf("%s is larger than %d bytes", path, awsini.MaxSize)
	}
	return data, info, err
}

// keep writes the backup, under a name that nothing has.
func keep(path string, data []byte) (string, error) {
	name := path + ".stsbroker-backup-" + time.Now().UTC().Format("20060102T150405Z")
	const most = 100 // in one second
	for i := range most {
		backup := name
		if i > 0 {
			backup = fmt.Sprintf("%s-%d", name, i+1)
		}
		if err := securefile.Create(backup, data); !errors.Is(err, fs.ErrExist) {
			return backup, err
		}
	}
	return "", fmt.Errorf("%s and %d more are there already: remove old backups", name, most-1)
}

// commentOut is the work of CommentOut on a file's content.
func commentOut(path string, old []byte, profile, note string, kept func(key, value string) bool) ([]byte, error) {
	data := slices.Clone(old)
	// A key that comes twice shows its last line only: look again until none is left.
	const most = 100
	found := false
	for range most {
		var lines []awsini.Property
		for _, s := range sectionsOf(awsini.Parse(path, data), profile) {
			for _, p := range s.Properties {
				switch {
				case !isPair(p.Key):
				case kept != nil && !kept(p.Key, p.Value):
					return nil, fmt.Errorf("%s:%d: the %s of profile %s is another one than in custody; take out by hand what is not used, nothing was changed", path, p.Line, p.Key, awsini.Shown(profile))
				default:
					lines = append(lines, p)
				}
			}
		}
		if len(lines) == 0 {
			break
		}
		found = true
		for _, p := range lines {
			data = withLine(data, p.Line, "# "+p.Key+": "+note)
		}
	}
	if !found {
		return nil, fmt.Errorf("%s: profile %s %w", path, awsini.Shown(profile), ErrNoKeys)
	}
	return data, unchanged(path, profile, old, data)
}

func isPair(key string) bool { return key == awsini.KeyID || key == awsini.SecretKey }

// sectionsOf returns what a file says of a profile: in the config file under
// [profile NAME], in the credentials file under [NAME].
func sectionsOf(f *awsini.File, profile string) []*awsini.Section {
	var list []*awsini.Section
	for i := range f.Sections {
		if s := &f.Sections[i]; s.Name == profile && (s.Type == "" || s.Type == awsini.TypeProfile) {
			list = append(list, s)
		}
	}
	return list
}

// withLine puts text in the place of a line, counted from 1, and keeps its end.
func withLine(data []byte, line int, text string) []byte {
	from := 0
	for range line - 1 {
		from += bytes.IndexByte(data[from:], '\n') + 1
	}
	to := len(data)
	if i := bytes.IndexByte(data[from:], '\n'); i >= 0 {
		to = from + i
	}
	if to > from && data[to-1] == '\r' {
		to--
	}
	return slices.Replace(data, from, to, []byte(text)...)
}

// unchanged makes sure that the new content says all that the old one did, but for
// the keys of the profile: which lines a value or a nested key belongs to depends on
// those above.
func unchanged(path, profile string, old, data []byte) error {
	was, is := awsini.Parse(path, old), awsini.Parse(path, data)
	holders := 0
	for _, s := range sectionsOf(was, profile) {
		n := len(s.Properties)
		s.Properties = slices.DeleteFunc(s.Properties, func(p awsini.Property) bool { return isPair(p.Key) })
		if len(s.Properties) < n {
			holders++
		}
	}
	if holders > 1 { // SDKs read one of them, and which one depends on the file
		return fmt.Errorf("%s has keys under [%s] and [profile %[2]s]: remove those that are not used by hand", path, awsini.Shown(profile))
	}
	for i := range is.Sections {
		if len(is.Sections[i].Properties) == 0 {
			is.Sections[i].Properties = nil
		}
	}
	for i := range was.Sections {
		if len(was.Sections[i].Properties) == 0 {
			was.Sections[i].Properties = nil
		}
	}
	if !reflect.DeepEqual(was.Sections, is.Sections) {
		return fmt.Errorf("%s: the lines beside the keys of profile %s would come to mean something else without them: write each key = value on a line of its own, without blanks in front", path, awsini.Shown(profile))
	}
	return nil
}
