//go:build linux

// Package play runs the file systems of images as the containers of one pod, without a
// daemon: each in a mount and a process namespace of its own, all in one network
// namespace, with the users, groups, volumes and rights that a manifest gives them. It
// needs root. It is for tests, and keeps no prisoners.
package play

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Container is what runs, and what it sees of the machine.
type Container struct {
	Name     string
	Root     string   // of its image; nothing is written to it
	Args     []string // the program, found by PATH, and its arguments
	Env      []string
	UID, GID int // of no other groups
	Mounts   []Mount
}

// Mount is a volume of a container. A Source is a file or a folder of the machine; none is
// a tmpfs as the kernel makes it: root's, with mode 1777.
type Mount struct {
	Source   string
	Target   string
	ReadOnly bool
}

// Network is a network namespace, whose loopback interface is up.
type Network struct{ file *os.File }

// NewNetwork makes one, with the addresses on its loopback interface beside 127.0.0.1 and ::1.
func NewNetwork(addresses ...string) (n Network, err error) {
	onThread(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		commands := [][]string{{"ip", "link", "set", "lo", "up"}}
		for _, a := range addresses {
			commands = append(commands, []string{"ip", "addr", "add", a, "dev", "lo"})
		}
		for _, c := range commands {
			if out, e := exec.Command(c[0], c[1:]...).CombinedOutput(); e != nil {
				err = fmt.Errorf("%s: %w: %s", strings.Join(c, " "), e, out)
				return
			}
		}
		n.file, err = os.Open("/proc/thread-self/ns/net")
	})
	return n, err
}

// NetworkAt is the one whose file is at path, see [Network.Path].
func NetworkAt(path string) (Network, error) {
	f, err := os.Open(path)
	return Network{f}, err
}

// Path is of the file that stands for the network, for as long as this process runs.
func (n Network) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// Close lets go of it; it lives for as long as somebody is in it.
func (n Network) Close() error { return n.file.Close() }

// Do runs f on a thread that is in the network. f must not end its goroutine, as t.Fatal does.
func (n Network) Do(f func()) (err error) {
	onThread(func() {
		if err = unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err == nil {
			f()
		}
	})
	return err
}

// onThread runs f on a thread that is thrown away afterwards, with what f did to it.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		f()
	}()
	<-done
}

// stage is set in the process that becomes a container: its description, or that of a
// command in one.
const stage = "STSBROKER_PLAY_STAGE"

// Staged must come first in main and in TestMain: it becomes the container that this
// process was started for, and returns where there is none.
func Staged() {
	text := os.Getenv(stage)
	if text == "" {
		return
	}
	runtime.LockOSThread()
	var c Container
	err := json.Unmarshal([]byte(text), &c)
	if err == nil {
		err = c.become()
	}
	fmt.Fprintf(os.Stderr, "play: container %s: %v\n", c.Name, err)
	os.Exit(125)
}

// Running is a container that was started.
type Running struct {
	Container
	PID  int
	wait chan error
}

// Start starts the container in the network, and returns when its program runs, or failed to.
func (n Network) Start(c Container, stdin io.Reader, out, errs io.Writer) (*Running, error) {
	cmd, err := c.command(stdin, out, errs)
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	begun, begins, err := os.Pipe() // closed by the program's start
	if err != nil {
		return nil, err
	}
	defer begun.Close()
	cmd.ExtraFiles = []*os.File{begins}
	e := n.Do(func() { err = cmd.Start() })
	_ = begins.Close()
	if err := errors.Join(e, err); err != nil {
		return nil, err
	}
	_, _ = begun.Read(make([]byte, 1))
	r := &Running{c, cmd.Process.Pid, make(chan error, 1)}
	go func() { r.wait <- cmd.Wait() }()
	return r, nil
}

func (c Container) command(stdin io.Reader, out, errs io.Writer) (*exec.Cmd, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{stage + "=" + string(text)}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, out, errs
	return cmd, nil
}

// Wait returns when the container ended: an [exec.ExitError] where it did not end well.
func (r *Running) Wait() error {
	err := <-r.wait
	r.wait <- err
	return err
}

// Stop asks the container to end, as a runtime does, and waits for it.
func (r *Running) Stop() error {
	_ = unix.Kill(r.PID, unix.SIGTERM)
	return r.Wait()
}

// Exec runs a command in the container, as its user, as a probe of the kubelet's is run.
func (r *Running) Exec(out, errs io.Writer, args ...string) error {
	c := r.Container
	c.Args, c.Root, c.Mounts = args, "", nil
	c.Name = fmt.Sprint(r.PID)
	cmd, err := c.command(nil, out, errs)
	if err != nil {
		return err
	}
	onThread(func() {
		// A new process is in the process namespace that its parent's thread says.
		for kind, flag := range map[string]int{"pid": unix.CLONE_NEWPID, "net": unix.CLONE_NEWNET, "ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS} {
			f, e := os.Open(fmt.Sprintf("/proc/%d/ns/%s", r.PID, kind))
			if e == nil {
				e = unix.Setns(int(f.Fd()), flag)
				_ = f.Close()
			}
			if err = e; err != nil {
				return
			}
		}
		mnt, e := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", r.PID))
		if err = e; err != nil {
			return
		}
		defer mnt.Close()
		cmd.ExtraFiles = []*os.File{mnt}
		err = cmd.Start()
	})
	if err != nil {
		return err
	}
	return cmd.Wait()
}

// become makes this process the container. It returns only if that fails.
func (c Container) become() error {
	if c.Root == "" { // of a container that there is
		if err := errors.Join(unix.Unshare(unix.CLONE_FS), unix.Setns(3, unix.CLONE_NEWNS), unix.Close(3), unix.Chdir("/")); err != nil {
			return err
		}
	} else {
		unix.CloseOnExec(3) // what Start waits for
		if err := c.mount(); err != nil {
			return err
		}
	}
	path, err := c.program()
	if err != nil {
		return err
	}
	// No rights but the user's, as with drop: [ALL] and allowPrivilegeEscalation: false.
	for last := 0; ; last++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(last), 0, 0, 0); errors.Is(err, unix.EINVAL) {
			break
		} else if err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, 0, 0, 0); errno != 0 { // this thread's, which is the one that goes on
		return errno
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESGID, uintptr(c.GID), uintptr(c.GID), uintptr(c.GID)); errno != 0 {
		return errno
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(c.UID), uintptr(c.UID), uintptr(c.UID)); errno != 0 {
		return errno
	}
	return syscall.Exec(path, c.Args, c.Env)
}

// mount makes the file system of the container and goes into it. The image is the lower layer of
// an overlay, so that the places of mounts can be made, as runtimes make them; then
// all of it is read-only.
func (c Container) mount() error {
	const work = "/tmp" // of this mount namespace: whatever is there is covered
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), nil); err != nil {
		return err
	}
	root, err := os.Open(c.Root)
	if err != nil {
		return err
	}
	sources := make([]*os.File, len(c.Mounts))
	for i, m := range c.Mounts { // before anything covers them
		if m.Source != "" {
			if sources[i], err = os.OpenFile(m.Source, unix.O_PATH, 0); err != nil {
				return err
			}
		}
	}
	devices := map[string]*os.File{}
	for _, d := range []string{"null", "zero", "random", "urandom"} {
		if devices[d], err = os.OpenFile("/dev/"+d, unix.O_PATH, 0); err != nil {
			return err
		}
	}
	if err := unix.Mount("tmpfs", work, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	at := work + "/root"
	if err := errors.Join(os.Mkdir(work+"/lower", 0o755), os.Mkdir(work+"/upper", 0o755), os.Mkdir(work+"/work", 0o755), os.Mkdir(at, 0o755)); err != nil {
		return err
	}
	if err := unix.Mount(self(root), work+"/lower", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Mount("overlay", at, "overlay", 0, "lowerdir="+work+"/lower,upperdir="+work+"/upper,workdir="+work+"/work"); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	if err := errors.Join(os.MkdirAll(at+"/proc", 0o755), os.MkdirAll(at+"/dev", 0o755)); err != nil {
		return err
	}
	for i, m := range c.Mounts {
		if err := m.mount(at, sources[i]); err != nil {
			return fmt.Errorf("mount at %s: %w", m.Target, err)
		}
	}
	if err := errors.Join(unix.Mount("proc", at+"/proc", "proc", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, ""), unix.Mount("tmpfs", at+"/dev", "tmpfs", 0, "mode=755")); err != nil {
		return err
	}
	for name, d := range devices {
		if err := errors.Join(os.WriteFile(at+"/dev/"+name, nil, 0o600), unix.Mount(self(d), at+"/dev/"+name, "", unix.MS_BIND, "")); err != nil {
			return err
		}
	}
	if err := unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if err := errors.Join(unix.Chdir(at), unix.PivotRoot(".", "."), unix.Unmount(".", unix.MNT_DETACH)); err != nil {
		return err
	}
	return unix.Chdir("/")
}

func self(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

func (m Mount) mount(root string, source *os.File) error {
	target := filepath.Join(root, m.Target)
	folder := true
	if source != nil {
		var st unix.Stat_t
		if err := unix.Fstat(int(source.Fd()), &st); err != nil {
			return err
		}
		folder = st.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	if folder {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
	} else if err := errors.Join(os.MkdirAll(filepath.Dir(target), 0o755), os.WriteFile(target, nil, 0o644)); err != nil {
		return err
	}
	if source == nil {
		return unix.Mount("tmpfs", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=1m")
	}
	if err := unix.Mount(self(source), target, "", unix.MS_BIND, ""); err != nil || !m.ReadOnly {
		return err
	}
	return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// program finds the program by PATH, in the container.
func (c Container) program() (string, error) {
	if len(c.Args) == 0 {
		return "", errors.New("no command")
	}
	if strings.Contains(c.Args[0], "/") {
		return c.Args[0], nil
	}
	for _, e := range c.Env {
		list, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for _, folder := range filepath.SplitList(list) {
			path := filepath.Join(folder, c.Args[0])
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("%s: not found", c.Args[0])
}
