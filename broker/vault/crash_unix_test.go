//go:build unix

package vault

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/seal"
)

var kills = flag.Int("kills", 200, "how often TestKilled kills a process that saves")

// jobVariable makes this test binary do one thing instead of testing. The children's
// identity stands in a file beside the folder.
const jobVariable = "VAULT_TEST_JOB"

func TestMain(m *testing.M) {
	switch os.Getenv(jobVariable) {
	case "":
		os.Exit(m.Run())
	case "save":
		saveForEver(os.Args[1])
	case "full":
		fullDisk(os.Args[1])
	case "count":
		count(os.Args[1])
	}
	os.Exit(0)
}

func child(t *testing.T, job, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, dir)
	cmd.Env = append(os.Environ(), jobVariable+"="+job)
	return cmd
}

// forChildren makes a folder with an identity, and the vault in it.
func forChildren(t *testing.T) (dir string, v *Vault) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "state")
	text, err := seal.MakeIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+".identity", text, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, childVault(dir)
}

func childVault(dir string) *Vault {
	text, err := os.ReadFile(dir + ".identity")
	if err != nil {
		fail(err)
	}
	id, err := seal.ParseIdentity(text)
	if err != nil {
		fail(err)
	}
	v := New(dir)
	v.Open(id)
	return v
}

func fail(what ...any) {
	fmt.Fprintln(os.Stderr, what...)
	os.Exit(1)
}

// A blob of a generation is the number, and then enough of it to be many writes.
func blob(n int) []byte {
	number := fmt.Appendf(nil, "%d\n", n)
	return bytes.Repeat(number, 20_000/len(number))
}

// generation is which blob this is, an error for a part or a mix of them.
func generation(data []byte) (int, error) {
	number, _, _ := bytes.Cut(data, []byte("\n"))
	n, err := strconv.Atoi(string(number))
	if err == nil && !bytes.Equal(data, blob(n)) {
		err = fmt.Errorf("%d bytes are not generation %d", len(data), n)
	}
	return n, err
}

// saveForEver saves one generation after the other, and prints each once it is saved.
func saveForEver(dir string) {
	v := childVault(dir)
	for {
		var n int
		if err := v.Update(Keys, func(old []byte) ([]byte, error) {
			if old != nil {
				var err error
				if n, err = generation(old); err != nil {
					return nil, err
				}
			}
			n++
			return blob(n), nil
		}); err != nil {
			fail(err)
		}
		fmt.Println(n)
	}
}

// Whenever a process that saves is killed, the blob is that of the last save it told,
// or of the one after.
func TestKilled(t *testing.T) {
	dir, v := forChildren(t)
	newer, last := 0, 0
	for i := range *kills {
		cmd := child(t, "save", dir)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		told, lines := 0, bufio.NewScanner(out)
		for range 1 + i%3 {
			if lines.Scan() {
				told, err = strconv.Atoi(lines.Text())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(time.Duration(rand.Int64N(int64(2 * time.Millisecond)))) // a save takes about as long: each kill hits another moment of it
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
			if told, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(err)
			}
		}
		_ = cmd.Wait()
		if told == 0 {
			t.Fatalf("the child ended: %s", stderr.Bytes())
		}
		plain, err := v.Read(Keys)
		if err != nil {
			t.Fatalf("after kill %d: %v", i, err)
		}
		got, err := generation(plain)
		if err != nil || got != told && got != told+1 || got <= last {
			t.Fatalf("after kill %d: generation %d, %v, of those after %d, and %d was saved", i, got, err, last, told)
		}
		if last = got; got > told {
			newer++
		}
	}
	t.Logf("%d kills: %d times the save under way had come about", *kills, newer)
}

// TestFullDisk stands in for ENOSPC with a limit on the size of files, which fails the
// same call half way, as root too.
func TestFullDisk(t *testing.T) {
	dir, v := forChildren(t)
	if err := v.Write(Keys, blob(1)); err != nil {
		t.Fatal(err)
	}
	before := contents(t, filepath.Join(dir, Keys))
	out, err := child(t, "full", dir).CombinedOutput()
	if want := "cannot write " + filepath.Join(dir, Keys) + ": "; err != nil || !strings.HasPrefix(string(out), want) || !strings.HasSuffix(string(out), "file too large\n") {
		t.Errorf("%v: %s, want %s…", err, out, want)
	}
	if !bytes.Equal(before, contents(t, filepath.Join(dir, Keys))) {
		t.Error("the old blob changed")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 { // and the lock
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func fullDisk(dir string) {
	v := childVault(dir)
	signal.Ignore(syscall.SIGXFSZ)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 4096, Max: 4096}); err != nil {
		fail(err)
	}
	fmt.Println(v.Write(Keys, blob(2)))
}

func count(dir string) {
	for range 20 {
		if err := increment(childVault(dir)); err != nil {
			fail(err)
		}
	}
}

// Processes that change one blob lose none of each other's changes.
func TestProcesses(t *testing.T) {
	dir, v := forChildren(t)
	cmds := make([]*exec.Cmd, 4)
	for i := range cmds {
		cmds[i] = child(t, "count", dir)
		cmds[i].Stderr = os.Stderr
		if err := cmds[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	wantBlob(t, v, Keys, "80")
}

// 0600 whatever the umask is; what others may reach is refused, and stays.
func TestModes(t *testing.T) {
	dir, v := forChildren(t)
	mask := syscall.Umask(0)
	err := v.Write(Keys, []byte("plain"))
	syscall.Umask(mask)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: os.ModeDir | 0o700, filepath.Join(dir, Keys): 0o600, filepath.Join(dir, Keys+lockMark): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	path := filepath.Join(dir, Keys)
	if err := os.Chmod(path, 0o640); err != nil { //nolint:gosec // this is what is refused
		t.Fatal(err)
	}
	before := contents(t, path)
	_, err = v.Read(Keys)
	wantKind(t, err, broker.KindConfig, path+" has mode 0640: others may reach it; run: chmod 600 "+path)
	wantKind(t, v.Write(Keys, nil), broker.KindConfig, "chmod 600")
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 || !bytes.Equal(before, contents(t, path)) {
		t.Error("it was changed")
	}
}
