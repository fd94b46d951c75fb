//go:build unix

package custody

import (
	"bufio"
	"bytes"
	"context"
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

	"github.com/stsbroker/stsbroker/broker/vault"
	"github.com/stsbroker/stsbroker/internal/seal"
)

var kills = flag.Int("kills", 200, "how often TestKeptKilled kills a process that changes keys")

// childVariable is the state folder of a child: this binary, that runs one of the tests
// below which do nothing else. Its identity stands in a file beside the folder.
const childVariable = "CUSTODY_TEST_CHILD"

func child(t *testing.T, job, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^"+job+"$", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), childVariable+"="+dir)
	return cmd
}

func childKept() (k *Kept, dir string) {
	dir = os.Getenv(childVariable)
	text, err := os.ReadFile(dir + ".identity")
	if err != nil {
		fail(err)
	}
	id, err := seal.ParseIdentity(text)
	if err != nil {
		fail(err)
	}
	v := vault.New(dir)
	v.Open(id)
	k, warning := OpenKept(dir, map[string]Chest{"sealed": SealedChest(v)})
	if warning != nil {
		fail(warning)
	}
	return k, dir
}

func fail(what ...any) {
	fmt.Fprintln(os.Stderr, what...)
	os.Exit(1)
}

func forChild(t *testing.T) *house {
	t.Helper()
	h := newHouse(t)
	text, err := seal.MakeIdentity()
	if err != nil {
		t.Fatal(err)
	}
	if h.id, err = seal.ParseIdentity(text); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.dir+".identity", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.again(true); err != nil {
		t.Fatal(err)
	}
	h.add(t, "a", "sealed", generationPair(0), AddOptions{})
	h.add(t, "b", "sealed", pairOf(idB, secretB), AddOptions{})
	return h
}

func generationPair(n int) Pair {
	return pairOf(fmt.Sprintf("AKIA%016d", n), fmt.Sprintf("secret-of-%d", n))
}

// generationOf is which pair this is; -1 when id and secret are of two.
func generationOf(p Pair) int {
	n, err := strconv.Atoi(strings.TrimPrefix(p.KeyID, "AKIA"))
	if err != nil || generationPair(n).Secret.Reveal() != p.Secret.Reveal() {
		return -1
	}
	return n
}

func TestChildSaves(t *testing.T) {
	if os.Getenv(childVariable) == "" {
		t.Skip("not run: it is a child of TestKeptKilled")
	}
	k, _ := childKept()
	for {
		var n int
		if err := k.Update(context.Background(), "a", func(r *Record) error {
			n = generationOf(r.Current) + 1
			r.Current = generationPair(n)
			return nil
		}); err != nil {
			fail(err)
		}
		fmt.Println(n)
	}
}

// Whenever a process that changes a key is killed, the key is that of the last change
// it told, or of the one after, whole; the other keys stay; and the index says the same
// once it was looked at.
func TestKeptKilled(t *testing.T) {
	h := forChild(t)
	newer, behind, last := 0, 0, 0
	for i := range *kills {
		cmd := child(t, "TestChildSaves", h.dir)
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
		<-time.After(time.Duration(rand.Int64N(int64(4 * time.Millisecond)))) // a change takes about as long: each kill hits another moment of it
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
		stale, _ := h.Info("a") // as it was left
		if err := h.again(true); err != nil {
			t.Fatalf("after kill %d: %v", i, err)
		}
		r, err := h.Get(t.Context(), "a")
		if err != nil {
			t.Fatalf("after kill %d: %v", i, err)
		}
		got := generationOf(r.Current)
		if got != told && got != told+1 || got <= last || r.Lineage != generationPair(0).KeyID {
			t.Fatalf("after kill %d: generation %d of those after %d, and %d was told", i, got, last, told)
		}
		if last = got; got > told {
			newer++
		}
		if stale.KeyID != r.Current.KeyID {
			behind++
		}
		if i, _ := h.Info("a"); i.KeyID != r.Current.KeyID || len(h.List()) != 2 {
			t.Fatalf("the index has %s, and the key is %s", i.KeyID, r.Current.KeyID)
		}
	}
	wantKey(t, Set{"b": h.Source("b")}, "b", idB, secretB)
	t.Logf("%d kills: %d times the change under way had come about, and %d times the index was behind", *kills, newer, behind)
}

func TestChildHasNoRoom(t *testing.T) {
	if os.Getenv(childVariable) == "" {
		t.Skip("not run: it is a child of TestKeptFullDisk")
	}
	k, _ := childKept()
	signal.Ignore(syscall.SIGXFSZ)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 512, Max: 512}); err != nil {
		fail(err)
	}
	err := k.Update(context.Background(), "a", func(r *Record) error { r.Current = generationPair(1); return nil })
	fmt.Fprintln(os.Stderr, "update:", err)
	os.Exit(0)
}

// TestKeptFullDisk stands in for a full disk with a limit on the size of files, which
// fails the same call half way, as root too: keys and index stay as they were.
func TestKeptFullDisk(t *testing.T) {
	h := forChild(t)
	blob := filepath.Join(h.dir, vault.Keys)
	before, index := bytesOf(t, blob), bytesOf(t, h.indexPath())
	out, err := child(t, "TestChildHasNoRoom", h.dir).CombinedOutput()
	if want := "update: cannot write " + blob + ": "; err != nil || !strings.HasPrefix(string(out), want) || !strings.HasSuffix(string(out), "file too large\n") {
		t.Errorf("%v: %s, want %s…", err, out, want)
	}
	if !bytes.Equal(before, bytesOf(t, blob)) || !bytes.Equal(index, bytesOf(t, h.indexPath())) {
		t.Error("something changed")
	}
	if entries, err := os.ReadDir(h.dir); err != nil || len(entries) != 4 { // keys and index, each with its lock
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
