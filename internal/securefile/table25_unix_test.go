//go:build unix

package securefile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What a row of the table is about.
const (
	private = "private"       // keys, state, tokens: Read
	config  = "configuration" // CheckWriters
	made    = "made"          // what we make ourselves, under umask 000
)

// tableUsers are for whom files are judged, and who else owns some.
type tableUsers struct {
	me, mine      int // a user and their group, which as root is theirs alone
	other, shared int // another user, and a group that is not theirs alone
}

// tableSite is a folder of a row.
type tableSite struct {
	t   *testing.T
	who tableUsers
	dir string

	mounts *[]string // "mount ro PATH" or "mount rw PATH": what is mounted over itself before anything is judged
}

func (s tableSite) owned(path string, mode os.FileMode, uid, gid int) string {
	s.t.Helper()
	if os.Geteuid() == 0 || gid != s.who.mine || uid != s.who.me {
		if err := os.Lchown(path, uid, gid); err != nil {
			s.t.Fatal(err)
		}
	}
	if mode&os.ModeSymlink == 0 {
		if err := os.Chmod(path, mode); err != nil { // after chown, which takes bits away
			s.t.Fatal(err)
		}
	}
	return path
}

func (s tableSite) file(path string, mode os.FileMode, uid, gid int) string {
	s.t.Helper()
	path = filepath.Join(s.dir, path)
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return s.owned(path, mode, uid, gid)
}

// folder is made 0700 first: what belongs in it is put there before in gets its mode.
func (s tableSite) folder(path string, mode os.FileMode, uid, gid int, fill func()) {
	s.t.Helper()
	path = filepath.Join(s.dir, path)
	if err := os.Mkdir(path, 0o700); err != nil {
		s.t.Fatal(err)
	}
	fill()
	s.owned(path, mode, uid, gid)
}

func (s tableSite) link(path, target string, uid, gid int) string {
	s.t.Helper()
	path = filepath.Join(s.dir, path)
	if err := os.Symlink(target, path); err != nil {
		s.t.Fatal(err)
	}
	return s.owned(path, os.ModeSymlink, uid, gid)
}

func (s tableSite) mount(how, path string) {
	*s.mounts = append(*s.mounts, "mount "+how+" "+filepath.Join(s.dir, path))
}

type tableRow struct {
	name string
	what string
	root bool   // others' files are needed, which only root can make
	want string // "" where it is accepted, else a part of the error
	make func(s tableSite) (path string)
}

// volume is made as the kubelet's atomic writer lays one out.
func (s tableSite) volume(mode os.FileMode, uid, gid int) (path string) {
	s.t.Helper()
	s.folder("m", mode, uid, gid, func() {
		s.folder("m/..2026_01_02", 0o755, uid, gid, func() { s.file("m/..2026_01_02/f", 0o644, uid, gid) })
		s.link("m/..data", "..2026_01_02", uid, gid)
		path = s.link("m/f", "..data/f", uid, gid)
	})
	return path
}

// tableRows is the table of modes and owners, of files and of what is above them.
func tableRows(w tableUsers) []tableRow {
	file := func(mode os.FileMode, uid, gid int) func(tableSite) string {
		return func(s tableSite) string { return s.file("f", mode, uid, gid) }
	}
	under := func(mode os.FileMode, uid, gid int) func(tableSite) string {
		return func(s tableSite) (path string) {
			s.folder("d", mode, uid, gid, func() { path = s.file("d/f", 0o600, w.me, w.mine) })
			return path
		}
	}
	mount := func(mode os.FileMode, uid, gid int) func(tableSite) string {
		return func(s tableSite) string { return s.volume(mode, uid, gid) }
	}
	const sticky = os.ModeSticky
	return []tableRow{
		{"mine 0600", private, false, "", file(0o600, w.me, w.mine)},
		{"mine 0400", private, false, "", file(0o400, w.me, w.mine)},
		{"mine 0700", private, false, "", file(0o700, w.me, w.mine)},
		{"mine 0640, a group of my own", private, false, "has mode 0640: others may reach it; run: chmod 600 ", file(0o640, w.me, w.mine)},
		{"mine 0620", private, false, "has mode 0620", file(0o620, w.me, w.mine)},
		{"mine 0610", private, false, "has mode 0610", file(0o610, w.me, w.mine)},
		{"mine 0604", private, false, "has mode 0604", file(0o604, w.me, w.mine)},
		{"mine 0602", private, false, "has mode 0602", file(0o602, w.me, w.mine)},
		{"mine 0601", private, false, "has mode 0601", file(0o601, w.me, w.mine)},
		{"mine 0000", private, false, "permission denied", file(0, w.me, w.mine)},
		{"another's 0604", private, true, fmt.Sprintf("belongs to uid %d", w.other), file(0o604, w.other, w.shared)},
		{"another's 0600", private, true, "permission denied", file(0o600, w.other, w.shared)},
		{"root's 0644", private, true, "has mode 0644", file(0o644, 0, 0)},
		{"a pipe", private, false, "not a regular file", func(s tableSite) string {
			path := filepath.Join(s.dir, "f")
			if err := unix.Mkfifo(path, 0o600); err != nil {
				s.t.Fatal(err)
			}
			return s.owned(path, 0o600, w.me, w.mine)
		}},
		{"a folder", private, false, "not a regular file", func(s tableSite) string {
			s.folder("f", 0o700, w.me, w.mine, func() {})
			return filepath.Join(s.dir, "f")
		}},
		{"in mine 0755", private, false, "", under(0o755, w.me, w.mine)},
		{"in mine 0775, a group of my own", private, false, "", under(0o775, w.me, w.mine)},
		{"in mine 0775, another group", private, true, fmt.Sprintf("its group %d may replace what is in it", w.shared), under(0o775, w.me, w.shared)},
		{"in mine 0757", private, false, "everybody may replace what is in it", under(0o757, w.me, w.mine)},
		{"in mine 1777", private, false, "everybody may replace what is in it", under(sticky|0o777, w.me, w.mine)},
		{"in root's 1777", private, true, "", under(sticky|0o777, 0, 0)},
		{"in root's 0755", private, true, "", under(0o755, 0, 0)},
		{"in root's 3777, a volume in memory with an fsGroup", private, true, "", under(sticky|os.ModeSetgid|0o777, 0, w.shared)},
		{"in root's 2777, a volume on disk with an fsGroup", private, true, "everybody may replace what is in it", under(os.ModeSetgid|0o777, 0, w.shared)},
		{"in root's 0777", private, true, "everybody may replace what is in it", under(0o777, 0, 0)},
		{"in another's 0755", private, true, fmt.Sprintf("belongs to uid %d", w.other), under(0o755, w.other, w.shared)},
		{"two below mine 0777", private, false, "everybody may replace what is in it", func(s tableSite) (path string) {
			s.folder("d", 0o777, w.me, w.mine, func() {
				s.folder("d/e", 0o700, w.me, w.mine, func() { path = s.file("d/e/f", 0o600, w.me, w.mine) })
			})
			return path
		}},
		{"my link to mine 0600", private, false, "", func(s tableSite) string {
			s.file("t", 0o600, w.me, w.mine)
			return s.link("f", "t", w.me, w.mine)
		}},
		{"my link to mine 0644", private, false, "has mode 0644", func(s tableSite) string {
			s.file("t", 0o644, w.me, w.mine)
			return s.link("f", "t", w.me, w.mine)
		}},
		{"another's link to mine 0600", private, true, fmt.Sprintf("belongs to uid %d", w.other), func(s tableSite) string {
			s.file("t", 0o600, w.me, w.mine)
			return s.link("f", "t", w.other, w.shared)
		}},
		{"my link into mine 0777", private, false, "everybody may replace what is in it", func(s tableSite) string {
			s.folder("d", 0o777, w.me, w.mine, func() { s.file("d/f", 0o600, w.me, w.mine) })
			return s.link("f", "d/f", w.me, w.mine)
		}},

		{"mine 0644", config, false, "", file(0o644, w.me, w.mine)},
		{"mine 0664, a group of my own", config, false, "", file(0o664, w.me, w.mine)},
		{"mine 0664, another group", config, true, fmt.Sprintf("its group %d may change it", w.shared), file(0o664, w.me, w.shared)},
		{"mine 0646", config, false, "everybody may change it", file(0o646, w.me, w.mine)},
		{"root's 0644", config, true, "", file(0o644, 0, 0)},
		{"another's 0644", config, true, fmt.Sprintf("belongs to uid %d", w.other), file(0o644, w.other, w.shared)},
		{"in mine 0777", config, false, "everybody may replace what is in it", under(0o777, w.me, w.mine)},
		{"in root's 1777", config, true, "", under(sticky|0o777, 0, 0)},
		{"a mount of links, mine 0755", config, false, "", mount(0o755, w.me, w.mine)},
		{"a mount of links, root's 0755", config, true, "", mount(0o755, 0, 0)},
		{"a mount of links, root's 1777, as of secrets", config, true, "", mount(sticky|0o777, 0, 0)},
		{"a mount of links, root's 0777, as of a ConfigMap, that is not mounted read-only", config, true, "everybody may replace what is in it", mount(0o777, 0, 0)},
		{"a mount of links, root's 3777, in memory with an fsGroup", config, true, "", mount(sticky|os.ModeSetgid|0o777, 0, w.shared)},
		{"a mount of links, another's", config, true, fmt.Sprintf("belongs to uid %d", w.other), mount(0o755, w.other, w.shared)},
		{"my link into mine 0777", config, false, "everybody may replace what is in it", func(s tableSite) string {
			s.folder("d", 0o777, w.me, w.mine, func() { s.file("d/f", 0o644, w.me, w.mine) })
			return s.link("f", "d/f", w.me, w.mine)
		}},

		{"a file 0600 in folders 0700", made, false, "", func(s tableSite) string {
			s.folder("home", 0o755, w.me, w.mine, func() {})
			return filepath.Join(s.dir, "home", "a", "b", "f")
		}},
	}
}

// judgeRow says what comes of a row, for the user of this process.
func judgeRow(what, path string) error {
	switch what {
	case private:
		data, err := Read(path, 100)
		if err == nil && string(data) != "x" {
			err = fmt.Errorf("it holds %q", data)
		}
		return err
	case config:
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		return CheckWriters(path, info)
	}
	before := syscall.Umask(0)
	defer syscall.Umask(before)
	dir := filepath.Dir(path)
	err := errors.Join(MakeFolder(dir), Write(path, []byte("x")))
	release, held, lockErr := Lock(path + ".lock")
	if err = errors.Join(err, lockErr); err != nil || !held {
		return fmt.Errorf("%w, held: %v", err, held)
	}
	release()
	for path, want := range map[string]os.FileMode{filepath.Dir(dir): os.ModeDir | 0o700, dir: os.ModeDir | 0o700, path: 0o600, path + ".lock": 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Mode() != want {
			return fmt.Errorf("%s has mode %v", path, info.Mode())
		}
	}
	return judgeRow(private, path)
}

const tableChild = "SECUREFILE_TABLE_CHILD"

// TestTableChild judges what it is told to on standard input, a line each, as the user
// that it was started as.
func TestTableChild(t *testing.T) {
	if os.Getenv(tableChild) == "" {
		t.Skip("not run: it is a child of TestTable25")
	}
	s := bufio.NewScanner(os.Stdin)
	var mounts [][2]string
	for s.Scan() {
		how, ok := strings.CutPrefix(s.Text(), "mount ")
		if !ok {
			break
		}
		how, path, _ := strings.Cut(how, " ")
		mounts = append(mounts, [2]string{how, path})
	}
	if err := becomeUser(mounts); err != nil {
		t.Fatal(err)
	}
	for ok := true; ok; ok = s.Scan() {
		what, path, _ := strings.Cut(s.Text(), " ")
		fmt.Printf("verdict %v\n", judgeRow(what, path))
	}
}

// TestTable25 is the table of modes and owners over real files. As root it is judged by
// an ordinary user, since nothing is closed to root.
func TestTable25(t *testing.T) {
	who, base := tableUsers{me: os.Geteuid(), mine: os.Getegid()}, t.TempDir()
	asRoot := os.Geteuid() == 0
	if asRoot {
		who = privateUser(t)
		var err error
		if base, err = os.MkdirTemp("", "securefile"); err != nil { // not t.TempDir(): the child must reach it
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(base) })
	}
	if err := os.Chmod(base, 0o755); err != nil { //nolint:gosec // for the child
		t.Fatal(err)
	}
	ownGroup := onlyMember(passwdFile, groupFile, uint32(who.me), uint32(who.mine)) //nolint:gosec // ids are small
	rows := tableRows(who)
	first := len(rows) // of those with mounts
	rows = append(rows, mountRows(who)...)
	noMounts := ""
	if asRoot {
		noMounts = whyNoMounts(t)
	}
	var mounts []string
	paths := make([]string, len(rows))
	notRun := make([]string, len(rows))
	for i, r := range rows {
		switch {
		case r.root && !asRoot:
			notRun[i] = "only root can make files of others"
		case strings.HasSuffix(r.name, "a group of my own") && r.want == "" && !ownGroup:
			notRun[i] = "this user has no group of its own"
		case i >= first && noMounts != "":
			notRun[i] = noMounts
		default:
			s := tableSite{t, who, filepath.Join(base, fmt.Sprint(i)), &mounts}
			if err := os.Mkdir(s.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			paths[i] = r.make(s)
			s.owned(s.dir, 0o755, who.me, who.mine)
		}
	}
	verdicts := judgeRows(t, rows, paths, mounts, who, base, asRoot)
	ran := 0
	for i, r := range rows {
		t.Run(r.what+", "+r.name, func(t *testing.T) {
			if notRun[i] != "" {
				t.Skip("not run: " + notRun[i])
			}
			ran++
			if got := verdicts[i]; r.want == "" && got != "<nil>" || r.want != "" && !strings.Contains(got, r.want) {
				t.Errorf("got %s, want %q", got, r.want)
			}
		})
	}
	t.Logf("%d rows, %d of them run", len(rows), ran)
	must := len(rows)
	if noMounts != "" {
		must = first
	}
	if first < 25 || asRoot && ran < must {
		t.Errorf("only %d of %d rows were run", ran, len(rows))
	}
}

func judgeRows(t *testing.T, rows []tableRow, paths, mounts []string, who tableUsers, base string, asRoot bool) []string {
	t.Helper()
	verdicts := make([]string, len(rows))
	if !asRoot {
		for i, r := range rows {
			if paths[i] != "" {
				verdicts[i] = fmt.Sprint(judgeRow(r.what, paths[i]))
			}
		}
		return verdicts
	}
	image, err := os.ReadFile(self(t))
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(base, "child")
	if err := os.WriteFile(binary, image, 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-test.run=^TestTableChild$")
	cmd.Dir = base
	cmd.Env = append(os.Environ(), tableChild+"=1")
	startAs(cmd, who, len(mounts) > 0)
	var in, stderr bytes.Buffer
	for _, m := range mounts {
		fmt.Fprintln(&in, m)
	}
	for i, r := range rows {
		fmt.Fprintln(&in, r.what, paths[i])
	}
	cmd.Stdin, cmd.Stderr = &in, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s%s", err, out, stderr.Bytes())
	}
	n := 0
	for line := range strings.Lines(string(out)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "verdict "); ok && n < len(rows) {
			verdicts[n] = v
			n++
		}
	}
	if n != len(rows) {
		t.Fatalf("%d verdicts on %d rows: %s", n, len(rows), out)
	}
	return verdicts
}

// privateUser finds a user of this system, not root, with a group of their own, as most
// distributions have many.
func privateUser(t *testing.T) tableUsers {
	t.Helper()
	for _, f := range table(passwdFile, 4) { // name:password:uid:gid:…
		var w tableUsers
		if _, err := fmt.Sscan(f[2]+" "+f[3], &w.me, &w.mine); err != nil || w.me == 0 || w.mine == 0 {
			continue
		}
		if onlyMember(passwdFile, groupFile, uint32(w.me), uint32(w.mine)) { //nolint:gosec // ids are small
			w.other, w.shared = 54322, 54323 // nobody's
			return w
		}
	}
	t.Skip("not run: no user of this system has a group of their own")
	return tableUsers{}
}
