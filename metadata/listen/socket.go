package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/stsbroker/stsbroker/internal/securefile"
)

// Unix listens on a Unix socket at path: with that mode from the first moment,
// whatever the umask is, with a cap on open connections and deadlines as
// [Opener.TCP] has them. mode is 0600 for a user's own, and 0666 where whoever serves it asks the
// kernel who calls ([Caller.Peer]).
//
// path.lock, beside it, is held from here until Close or the end of the process,
// so that of two processes with the same path one is refused; the file
// stays. A socket that nobody answers on, a dead process's, is replaced. A
// socket that somebody answers on, a file that is no socket, and a path too
// long for the system are errors, as is Windows, which does not tell who connects.
//
// Close removes the socket, unless another has taken its place. The folder must exist and
// is the caller's to judge: who may write there can put a socket of their own in our place.
//
// Where the path is that of an inherited socket, that one is used, as [Inherited.TakeUnix] has it.
func (o Opener) Unix(path string, mode fs.FileMode) (net.Listener, error) {
	if runtime.GOOS == "windows" {
		return nil, fmt.Errorf("socket %s: Windows does not tell who connects to one; use another door", path)
	}
	if l, ok, err := o.Inherited.unix(path, mode, o.share()); ok {
		return l, err
	}
	l, err := onPath(o.share(), path, mode)
	if err != nil {
		return nil, err
	}
	return l, nil
}

func onPath(conns int, path string, mode fs.FileMode) (*socketListener, error) {
	unlock, held, err := securefile.Lock(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if !held {
		return nil, fmt.Errorf("socket %s: another broker serves it, and holds %s.lock; stop that one, or name another path", path, path)
	}
	l, made, err := socket(path, mode)
	if err != nil {
		unlock()
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return &socketListener{listener: newListener(l, newShared(conns)), path: path, made: made, unlock: unlock}, nil
}

// socket makes the socket in a folder where nobody else can reach it, and moves
// it to path when it has its mode: bind(2) takes the mode from the
// umask, and the umask is the whole process's.
func socket(path string, mode fs.FileMode) (l *net.UnixListener, made fs.FileInfo, err error) {
	if err := vacant(path); err != nil {
		return nil, nil, err
	}
	parent := filepath.Dir(path)
	const most = len(syscall.RawSockaddrUnix{}.Path) - 1
	if over := max(len(path), len(filepath.Join(parent, ".4294967295", "s"))) - most; over > 0 { // the longest that MkdirTemp makes
		return nil, nil, fmt.Errorf("the path is %d bytes too long for a socket; name a shorter one", over)
	}
	folder, err := os.MkdirTemp(parent, ".*")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	hidden := filepath.Join(folder, "s")
	l, err = net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	l.SetUnlinkOnClose(false) // it would look for the hidden name
	err = os.Chmod(hidden, mode)
	if err == nil {
		made, err = os.Lstat(hidden)
	}
	if err == nil {
		err = os.Rename(hidden, path)
	}
	if err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	return l, made, nil
}

// vacant says why path cannot be taken, nil if it can: nothing is there, or a
// socket that nobody answers on.
func vacant(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&fs.ModeSocket == 0:
		return errors.New("a file that is no socket is in the way; move it, or name another path")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		_ = c.Close()
		return errors.New("another program answers there; stop it, or name another path")
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return nil
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // the path is said already
	}
	return fmt.Errorf("a socket is there, and whether anybody answers cannot be told (%w); remove it, or name another path", err)
}

// socketListener is a listener on a path.
type socketListener struct {
	*listener
	path   string
	made   fs.FileInfo
	unlock func()
	once   sync.Once
}

// Addr is where callers find it; the kernel goes on to know the name it was made under.
func (l *socketListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close stops accepting and removes the socket; connections go on. Calling it
// again does nothing.
func (l *socketListener) Close() (err error) {
	l.once.Do(func() {
		// Compared before, as the number of a closed one may be another's next.
		if info, e := os.Lstat(l.path); e == nil && os.SameFile(info, l.made) {
			err = os.Remove(l.path)
		}
		err = errors.Join(err, l.listener.Close())
		l.unlock()
	})
	return err
}
