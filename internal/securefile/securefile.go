// Package securefile keeps files that nobody else may read or replace: it
// writes them whole or not at all, and reads them only when the file and every
// folder above it are safe, in the way that OpenSSH judges its own files.
//
// Files are for the user who runs the process, mode 0600, in folders of mode
// 0700; one group more may read what [WriteShared] writes. On Windows the modes
// mean nothing and are not looked at: there the access list that a user's
// profile folder hands down decides.
package securefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	fileMode   fs.FileMode = 0o600
	sharedMode fs.FileMode = 0o640
	folderMode fs.FileMode = 0o700
)

// strayAge is how old a temporary file must be for [Write] to take it for the
// leftover of a process that was killed, and not for another's write under way.
const strayAge = time.Minute

// Write replaces the file at path with data: a reader sees the old content or
// the new, never a part, and so it is after a crash, a kill or a power cut.
// The file has mode 0600 whatever the umask is and whatever it had before; a
// symbolic link at path is replaced, not followed.
//
// After an error the old content is still there, untouched. The one exception
// is an error that names the folder: then the new content is in place, but the
// disk did not confirm that it will be after a power cut.
func Write(path string, data []byte) error { return write(path, data, nil) }

// WriteShared is [Write] with mode 0640 for the group with the number gid, whose members
// may read the file. It is for a reader of another user, as a container beside this
// one is. Who is in the group is for others to say, so that the folder must let them through too. The
// process must be in the group, see [CheckGroup].
func WriteShared(path string, data []byte, gid uint32) error { return write(path, data, &gid) }

func write(path string, data []byte, group *uint32) error {
	folder, name := filepath.Split(path)
	if folder == "" {
		folder = "."
	}
	sweep(folder, name)
	temp, err := fillTemp(folder, name, data, group)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := os.Rename(temp, path); err != nil {
		_ = os.Remove(temp)
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return syncFolder(folder)
}

// Create is [Write] where nothing is at path yet. If something is, be it made this
// very moment, that stays, and the error is [fs.ErrExist]. It needs a file system
// that has hard links.
func Create(path string, data []byte) error {
	folder, name := filepath.Split(path)
	if folder == "" {
		folder = "."
	}
	sweep(folder, name)
	temp, err := fillTemp(folder, name, data, nil)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	err = os.Link(temp, path)
	_ = os.Remove(temp)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return syncFolder(folder)
}

func fillTemp(folder, name string, data []byte, group *uint32) (temp string, err error) {
	f, err := os.CreateTemp(folder, tempPattern(name))
	if err != nil {
		return "", err
	}
	if err := fill(f, data, group); err != nil {
		_ = os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

func fill(f *os.File, data []byte, group *uint32) error {
	_, err := f.Write(data)
	mode := fileMode
	if err == nil && group != nil { // before the mode: as it is made, the file may be of another group
		mode, err = sharedMode, giveTo(f, *group)
	}
	if err == nil {
		err = f.Chmod(mode) // the umask may have taken our own bits away
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func tempPattern(name string) string { return "." + name + ".*.tmp" }

// sweep removes what killed processes left of earlier writes of name.
func sweep(folder, name string) {
	prefix, suffix, _ := strings.Cut(tempPattern(name), "*")
	entries, _ := os.ReadDir(folder) // a folder that cannot be read shows at the write
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > strayAge {
			_ = os.Remove(filepath.Join(folder, e.Name()))
		}
	}
}

// Read returns the content of the file at path, at most limit bytes.
//
// It refuses anything but a regular file that belongs to this user or to root,
// that neither group nor others may touch, and that lies under folders that
// nobody else can change (see [CheckFolders]). The file is judged by the
// descriptor it is read from, so it cannot be swapped in between. A missing
// file gives an error that is [fs.ErrNotExist]. Paths are cleaned first: ".."
// takes away the element before it, be that a link or not.
func Read(path string, limit int64) ([]byte, error) {
	data, _, err := read(path, limit, judgeFile)
	return data, err
}

// ReadShared is [Read] for what [WriteShared] wrote: a group may be allowed to read the
// file, and is returned; nil means that none is. It is for the writer, who wants to
// know what is there.
func ReadShared(path string, limit int64) (data []byte, group *uint32, err error) {
	data, f, err := read(path, limit, judgeShared)
	if err == nil && f.owned && f.mode.Perm()&0o040 != 0 {
		group = &f.gid
	}
	return data, group, err
}

// ReadCredential is [Read] for a file in systemd's $CREDENTIALS_DIRECTORY. There it
// may be root's own with mode 0440: systemd lets the service's user read it by an
// access list, whose mask is what the mode then shows as the group's rights.
func ReadCredential(path string, limit int64) ([]byte, error) {
	data, _, err := read(path, limit, judgeCredential)
	return data, err
}

func read(path string, limit int64, judge func(string, facts, user) error) (data []byte, is facts, err error) {
	path, err = walk(path, judgeFolder)
	if err != nil {
		return nil, is, err
	}
	f, err := openToRead(path)
	if err != nil {
		return nil, is, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, is, err
	}
	is = factsOf(info)
	if err := judge(path, is, thisUser()); err != nil {
		return nil, is, err
	}
	data, err = io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, is, fmt.Errorf("cannot read %s: %w", path, err)
	}
	if int64(len(data)) > limit {
		return nil, is, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, is, nil
}

// MakeFolder makes the folder at path, and what is missing above it, with mode
// 0700 whatever the umask is. A folder that exists is left as it is and must
// be this user's or root's, closed to group and others. In both cases nobody
// else may be able to change the folders above it.
func MakeFolder(path string) error {
	if err := makeMissing(path); err != nil {
		return fmt.Errorf("cannot make the folder %s: %w", path, err)
	}
	path, err := walk(path, judgeFolder)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return judgePrivateFolder(path, factsOf(info), thisUser())
}

func makeMissing(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if parent == path {
		return fs.ErrNotExist
	}
	if err := makeMissing(parent); err != nil {
		return err
	}
	switch err := os.Mkdir(path, folderMode); {
	case errors.Is(err, fs.ErrExist): // somebody was faster; it is judged like any other
		return nil
	case err != nil:
		return err
	}
	if err := os.Chmod(path, folderMode); err != nil {
		return err
	}
	return syncFolder(parent)
}

// maxLinks is how many symbolic links a path may go through, as in Linux.
const maxLinks = 40

// CheckFolders reports whether somebody else could change what is in path, a
// folder: it and all folders above it must belong to this user or to root and
// be writable by no others. Accepted are root's sticky folders, such as /tmp,
// and folders writable by a group that has this user as its only member.
// Symbolic links are followed if they are this user's or root's.
func CheckFolders(path string) error {
	path, err := walk(path, judgeFolder)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return judgeFolder(path, factsOf(info), thisUser())
}

// CheckWriters reports whether somebody else could change the file at path, of
// which info was read through an open descriptor: the file itself, and every folder and
// symbolic link on the way to it. Others may read it.
//
// A folder of root's that everybody or a group may write to is accepted where it is on a
// file system that is mounted read-only here, as Kubernetes mounts a ConfigMap (its
// folder has mode 0777, or 2777 with an fsGroup). Through that mount nobody can
// write. Somebody may through another, where a volume that is read-only for us is not
// so for them; but what they make there is theirs, and all that counts here, links
// and folders and the file itself, must be this user's or root's. What is left to them is to
// move about what root put there.
func CheckWriters(path string, info fs.FileInfo) error {
	if err := judgeWriters(path, factsOf(info), thisUser()); err != nil {
		return err
	}
	_, err := walk(path, judgeReadOnly)
	return err
}

// walk follows path, judges every folder and link on the way to what it leads
// to, and returns that, free of links and not judged itself.
//
// It looks from the root down. What was found safe cannot be changed by others
// afterwards, so that there is no moment for a swap.
func walk(path string, judge func(string, facts, user) error) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	at, rest := splitRoot(path)
	for links := 0; ; {
		info, err := os.Lstat(at)
		if err != nil {
			return "", err
		}
		f := factsOf(info)
		if rest == "" && !f.link {
			return at, nil
		}
		if err := judge(at, f, thisUser()); err != nil {
			return "", err
		}
		if f.link {
			if links++; links > maxLinks {
				return "", fmt.Errorf("%s: too many symbolic links", path)
			}
			target, err := os.Readlink(at)
			if err != nil {
				return "", err
			}
			if !filepath.IsAbs(target) {
				// Everything left of the link was followed already, so a lexical join is right.
				target = filepath.Join(filepath.Dir(at), target)
			}
			at, rest = splitRoot(filepath.Join(target, rest))
			continue
		}
		var next string
		next, rest, _ = strings.Cut(rest, string(filepath.Separator))
		at = filepath.Join(at, next)
	}
}

// splitRoot splits a clean absolute path into its root and the rest.
func splitRoot(path string) (root, rest string) {
	root = filepath.VolumeName(path) + string(filepath.Separator)
	return root, strings.TrimPrefix(path, root)
}
