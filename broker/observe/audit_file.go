package observe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/stsbroker/stsbroker/internal/securefile"
)

// ready makes sure that the open file is the one that has the name: a rotation may have
// renamed it, or a person removed it. a.disk is held.
func (a *Audit) ready() error {
	if a.file != nil {
		if now, err := os.Lstat(a.path); err == nil && os.SameFile(now, a.info) {
			return nil
		}
	}
	return a.reopen()
}

// reopen replaces the open file by the one that has the name, and leaves it open after
// an error. a.disk is held.
func (a *Audit) reopen() error {
	f, info, torn, err := openAuditFile(a.path)
	if err != nil {
		return err
	}
	if a.file != nil {
		_ = a.file.Close() // every write of it has returned
	}
	a.file, a.info, a.torn = f, info, torn
	return nil
}

// openAuditFile also reports whether the file ends within a line.
func openAuditFile(path string) (f *os.File, info fs.FileInfo, torn bool, err error) {
	if err := securefile.CheckFolders(filepath.Dir(path)); err != nil {
		return nil, nil, false, err
	}
	f, err = os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|openNoLink, 0o600)
	if errors.Is(err, syscall.ELOOP) {
		return nil, nil, false, fmt.Errorf("%s is a symbolic link; name the file itself", path)
	}
	if err != nil {
		return nil, nil, false, err
	}
	if info, torn, err = judgeAuditFile(path, f); err != nil {
		_ = f.Close()
		return nil, nil, false, err
	}
	return f, info, torn, nil
}

func judgeAuditFile(path string, f *os.File) (info fs.FileInfo, torn bool, err error) {
	if info, err = f.Stat(); err != nil {
		return nil, false, err
	}
	if !info.Mode().IsRegular() {
		return nil, false, fmt.Errorf("%s is not a regular file", path)
	}
	if err := securefile.CheckWriters(path, info); err != nil {
		return nil, false, err
	}
	if info.Size() > 0 {
		var last [1]byte
		if _, err := f.ReadAt(last[:], info.Size()-1); err != nil {
			return nil, false, fmt.Errorf("cannot read the end of %s: %w", path, err)
		}
		torn = last[0] != '\n'
	}
	return info, torn, nil
}
