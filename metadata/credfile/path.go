package credfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/stsbroker/stsbroker/internal/securefile"
)

// limit is more than a file of ours ever has, in bytes.
const limit = 64 << 20

var errNotOurs = errors.New("it was not written by stsbroker and is left as it is")

// content is what is in a file of ours.
type content struct {
	data    []byte
	private bool // its mode is that of a file for one user
}

// Check reports whether a file may be kept at path: nothing is there, or what a
// broker of this user left there, and nobody else can write to the folder. A
// symbolic link is refused and not followed. Nothing is changed.
func Check(path string) error {
	_, err := read(path)
	return err
}

// read returns the content of the file of ours at path; nil when nothing is
// there. It is an error when something else is.
func read(path string) (*content, error) {
	folder := filepath.Dir(path)
	if err := securefile.CheckFolders(folder); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("credentials file %s: its folder is missing (%w); make it, with mode 700", path, fs.ErrNotExist)
		}
		return nil, fmt.Errorf("credentials file: %w", err)
	}
	is, err := readHere(path)
	if err != nil {
		return nil, fmt.Errorf("credentials file %s: %w", path, err)
	}
	return is, nil
}

func readHere(path string) (*content, error) {
	found, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, bare(err)
	case found.Mode()&fs.ModeSymlink != 0:
		return nil, fmt.Errorf("it is a symbolic link, which is not followed: %w; name another path", errNotOurs)
	case !found.Mode().IsRegular():
		return nil, fmt.Errorf("it is not a regular file: %w; name another path", errNotOurs)
	}
	f, info, err := open(path)
	if err != nil {
		return nil, bare(err)
	}
	defer func() { _ = f.Close() }()
	if !os.SameFile(found, info) {
		return nil, errors.New("it was replaced while it was read")
	}
	head, err := begin(f)
	switch {
	case err != nil:
		return nil, bare(err)
	case head != header:
		return nil, fmt.Errorf("%w; name another path, or move it away", errNotOurs)
	}
	if err := securefile.CheckWriters(path, info); err != nil {
		return nil, err
	}
	rest, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, bare(err)
	}
	return &content{
		data:    append([]byte(head), rest...),
		private: runtime.GOOS == "windows" || info.Mode().Perm() == 0o600,
	}, nil
}

// open does not wait for a writer where somebody left a named pipe.
func open(path string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// begin reads as much as the header has.
func begin(f *os.File) (string, error) {
	head := make([]byte, len(header))
	n, err := io.ReadFull(f, head)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return string(head[:n]), err
}

// IsOurs reports whether the file at path, or the one that a symbolic link there
// leads to, is one that a broker wrote: such a file is never a source. Of no file
// more is read than the first line of ours has, and of what is not a regular file
// nothing.
func IsOurs(path string) bool {
	f, info, err := open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	if !info.Mode().IsRegular() {
		return false
	}
	head, err := begin(f)
	return err == nil && head == header
}

// Sweep removes what a broker that was killed left at path and, as far as that can
// be, beside it. What is not ours at path is left as it is, and an error: see [Check].
func Sweep(path string) error {
	is, err := read(path)
	if err != nil {
		return err
	}
	if is != nil {
		err = os.Remove(path)
	}
	folder, name := filepath.Split(path)
	entries, _ := os.ReadDir(filepath.Clean(folder)) // one that cannot be read shows at the first write
	for _, e := range entries {
		if e.Type().IsRegular() && unfinished(e.Name(), name) {
			sweepUnfinished(filepath.Join(folder, e.Name()))
		}
	}
	if err != nil {
		return fmt.Errorf("credentials file %s: what a broker that was killed left cannot be removed: %w; remove it", path, bare(err))
	}
	return nil
}

// unfinished reports whether an entry of the folder is named as [securefile.Write]
// names the file that it fills before it takes the place of name.
func unfinished(entry, name string) bool {
	random, ok := strings.CutPrefix(entry, "."+name+".")
	if !ok {
		return false
	}
	random, ok = strings.CutSuffix(random, ".tmp")
	return ok && random != "" && strings.Trim(random, "0123456789") == ""
}

// sweepUnfinished removes the file if it is one of ours, as far as it was filled.
// In a sticky folder others may make such names up.
func sweepUnfinished(path string) {
	f, _, err := open(path)
	if err != nil {
		return
	}
	head, err := begin(f)
	_ = f.Close()
	if err == nil && strings.HasPrefix(header, head) {
		_ = os.Remove(path)
	}
}
