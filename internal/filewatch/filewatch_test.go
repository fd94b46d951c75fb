package filewatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

// quick is the pace of tests that wait for what really happens.
var quick = pace{quiet: 5 * time.Millisecond, most: 200 * time.Millisecond, poll: time.Hour}

// watched runs a watcher of the paths, and gives what it reports.
func watched(t *testing.T, paths ...string) (stop func(), w *Watcher, reports chan []string) {
	t.Helper()
	reports = make(chan []string, 1000)
	w = New(func(p []string) { reports <- p }, func(err error) { t.Errorf("complaint: %v", err) })
	w.pace = quick
	w.Set(time.Time{}, paths...)
	return run(t, w), w, reports
}

// run runs the watcher until the end of the test, or until stop has been called.
func run(t *testing.T, w *Watcher) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// await waits until the path was reported.
func await(t *testing.T, reports chan []string, path, after string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case r := <-reports:
			if slices.Contains(r, path) {
				return
			}
		case <-deadline:
			t.Fatalf("%s: nothing is reported of %s", after, path)
		}
	}
}

// next is the next report.
func next(t *testing.T, reports chan []string) []string {
	t.Helper()
	select {
	case r := <-reports:
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("nothing is reported")
		return nil
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600))
}

// age makes files look as if nobody had touched them for an hour: of one that is just
// written, another change may leave no trace, and it is reported when in doubt.
func age(t *testing.T, folders ...string) {
	t.Helper()
	past := time.Now().Add(-time.Hour)
	for _, f := range folders {
		must(t, filepath.WalkDir(f, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			return os.Chtimes(path, past, past)
		}))
	}
}

// place is a folder without links on the way, as the temporary folder of macOS is one.
func place(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	return dir
}

// TestChanges: whatever is done to a file, or to the way there, is noticed, and so is what
// is done to it afterwards.
func TestChanges(t *testing.T) {
	for _, c := range []struct {
		name string
		skip string // of systems that cannot do it, or do not tell
		make func(t *testing.T, dir string)
		do   func(t *testing.T, dir string)
	}{
		{name: "temporary file and rename", do: func(t *testing.T, dir string) {
			write(t, dir+"/a/.f.swp", "other")
			must(t, os.Rename(dir+"/a/.f.swp", dir+"/a/f"))
		}},
		{name: "truncate and write", do: func(t *testing.T, dir string) { write(t, dir+"/a/f", "secon") }},
		{name: "rename away and create", do: func(t *testing.T, dir string) {
			must(t, os.Rename(dir+"/a/f", dir+"/a/f~"))
			write(t, dir+"/a/f", "other")
			must(t, os.Remove(dir+"/a/f~"))
		}},
		{name: "append", do: func(t *testing.T, dir string) {
			f, err := os.OpenFile(dir+"/a/f", os.O_WRONLY|os.O_APPEND, 0)
			must(t, err)
			_, err = f.WriteString("more")
			must(t, err, f.Close())
		}},
		{name: "deletion", do: func(t *testing.T, dir string) { must(t, os.Remove(dir+"/a/f")) }},
		{name: "mode", skip: "windows", do: func(t *testing.T, dir string) { must(t, os.Chmod(dir+"/a/f", 0o640)) }},
		{name: "there at last", make: func(t *testing.T, dir string) { must(t, os.Remove(dir+"/a/f")) },
			do: func(t *testing.T, dir string) { write(t, dir+"/a/f", "first") }},
		{name: "there at last, and its folders", make: func(t *testing.T, dir string) { must(t, os.RemoveAll(dir+"/a")) },
			do: func(t *testing.T, dir string) { write(t, dir+"/a/f", "first") }},
		{name: "folder made again", do: func(t *testing.T, dir string) {
			must(t, os.RemoveAll(dir+"/a"))
			write(t, dir+"/a/f", "again")
		}},
		{name: "folder made again while somebody works in the old one", skip: "windows",
			make: func(t *testing.T, dir string) { // the system tells of its end only when nobody uses it any more
				f, err := os.Open(dir + "/a")
				must(t, err, os.Remove(dir+"/a/f"))
				t.Cleanup(func() { f.Close() })
			},
			do: func(t *testing.T, dir string) {
				must(t, os.Remove(dir+"/a"))
				write(t, dir+"/a/f", "again")
			}},
		{name: "folder renamed away and another put there", skip: "windows", do: func(t *testing.T, dir string) {
			write(t, dir+"/new/f", "other")
			must(t, os.Rename(dir+"/a", dir+"/old"), os.Rename(dir+"/new", dir+"/a"))
		}},
		{name: "folder further up renamed", skip: "windows darwin",
			make: func(t *testing.T, dir string) {
				must(t, os.RemoveAll(dir+"/a"), os.Symlink(dir+"/x/y/z", dir+"/a"))
				write(t, dir+"/x/y/z/f", "first")
				write(t, dir+"/new/y/z/f", "other")
			},
			do: func(t *testing.T, dir string) {
				must(t, os.Rename(dir+"/x", dir+"/old"), os.Rename(dir+"/new", dir+"/x"))
			}},
		{name: "link to another file", skip: "windows",
			make: func(t *testing.T, dir string) {
				write(t, dir+"/one", "same")
				write(t, dir+"/two", "same")
				must(t, os.Remove(dir+"/a/f"), os.Symlink("../one", dir+"/a/f"))
			},
			do: func(t *testing.T, dir string) {
				must(t, os.Symlink("../two", dir+"/a/f.new"), os.Rename(dir+"/a/f.new", dir+"/a/f"))
			}},
		{name: "file behind two links", skip: "windows",
			make: func(t *testing.T, dir string) {
				write(t, dir+"/far/real", "first")
				must(t, os.Symlink("far", dir+"/near"), os.Remove(dir+"/a/f"), os.Symlink(dir+"/near/real", dir+"/a/f"))
			},
			do: func(t *testing.T, dir string) { write(t, dir+"/far/real", "other text") }},
		{name: "link in the middle", skip: "windows",
			make: func(t *testing.T, dir string) {
				write(t, dir+"/far/f", "first")
				write(t, dir+"/farther/f", "first")
				must(t, os.RemoveAll(dir+"/a"), os.Symlink("far", dir+"/a"))
			},
			do: func(t *testing.T, dir string) {
				must(t, os.Remove(dir+"/a"), os.Symlink("farther", dir+"/a"))
			}},
		{name: "link that leads nowhere yet", skip: "windows",
			make: func(t *testing.T, dir string) {
				must(t, os.Remove(dir+"/a/f"), os.Symlink("../not/yet/f", dir+"/a/f"))
			},
			do: func(t *testing.T, dir string) { write(t, dir+"/not/yet/f", "first") }},
		{name: "links in a circle, cut", skip: "windows",
			make: func(t *testing.T, dir string) {
				must(t, os.Remove(dir+"/a/f"), os.Symlink("../g", dir+"/a/f"), os.Symlink("a/f", dir+"/g"))
			},
			do: func(t *testing.T, dir string) {
				must(t, os.Remove(dir+"/g"))
				write(t, dir+"/g", "first")
			}},
		{name: "file where a folder should be, made one",
			make: func(t *testing.T, dir string) {
				must(t, os.RemoveAll(dir+"/a"))
				write(t, dir+"/a", "not a folder")
			},
			do: func(t *testing.T, dir string) {
				must(t, os.Remove(dir+"/a"))
				write(t, dir+"/a/f", "first")
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.Contains(c.skip, runtime.GOOS) {
				t.Skip("not run: not on " + runtime.GOOS)
			}
			t.Parallel()
			dir := place(t)
			path := filepath.Join(dir, "a", "f")
			write(t, path, "first")
			if c.make != nil {
				c.make(t, dir)
			}
			age(t, dir)
			stop, w, reports := watched(t, path)
			before := stampOf(path)
			c.do(t, dir)
			if before.same(stampOf(path)) {
				t.Fatal("the test changed nothing that one can see")
			}
			await(t, reports, path, c.name)
			if _, err := os.Stat(path); err == nil {
				age(t, dir)
				await(t, reports, path, "another time")
			}
			write(t, path, "and once more")
			await(t, reports, path, "a write after it")
			age(t, dir)
			await(t, reports, path, "another time")
			must(t, os.Remove(path))
			await(t, reports, path, "deletion after it")
			if stop(); w.polls {
				t.Error("it looks from time to time, here where all is told")
			}
		})
	}
}

// TestKubernetes: kubelet's way to change a mounted volume, two hundred times: a folder
// with a name of its own, a link ..data to it, and the file a link to ..data/token.
func TestKubernetes(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("not run: no links there")
	}
	t.Parallel()
	dir := place(t)
	swap := func(i int) {
		now := fmt.Sprintf("..2026_11_23_%04d", i)
		write(t, filepath.Join(dir, now, "token"), fmt.Sprintf("token %04d", i)) // of one length
		old, err := os.Readlink(filepath.Join(dir, "..data"))
		must(t, os.Symlink(now, filepath.Join(dir, "..data_tmp")), os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		if err == nil {
			must(t, os.RemoveAll(filepath.Join(dir, old)))
		}
	}
	swap(0)
	path := filepath.Join(dir, "token")
	must(t, os.Symlink("..data/token", path))
	read := make(chan string, 1000)
	w := New(func([]string) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		}
		read <- string(text)
	}, func(err error) { t.Error(err) })
	w.pace = quick
	system, err := fsnotify.NewWatcher()
	must(t, err)
	w.open = func() (*source, error) { return &source{system, system.Events, system.Errors}, nil }
	w.Set(time.Time{}, path)
	run(t, w)
	for i := 1; i <= 200; i++ {
		swap(i)
		for deadline := time.After(20 * time.Second); ; {
			select {
			case text := <-read:
				if text != fmt.Sprintf("token %04d", i) {
					continue
				}
			case <-deadline:
				t.Fatalf("nobody reads the token of swap %d", i)
			}
			break
		}
	}
	if list := system.WatchList(); len(list) > 20 {
		t.Errorf("these are watched: %v", list)
	}
}

// TestNothing: what changes nothing of a watched file is not reported.
func TestNothing(t *testing.T) {
	t.Parallel()
	dir := place(t)
	path, last := filepath.Join(dir, "a", "f"), filepath.Join(dir, "last")
	write(t, path, "first")
	age(t, dir)
	past := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(path, past, past))
	_, _, reports := watched(t, path, last)
	for i := range 50 {
		write(t, filepath.Join(dir, "a", "neighbour"), strings.Repeat("x", i))
	}
	_, err := os.ReadFile(path)
	must(t, err, os.Chmod(path, 0o640), os.Chmod(path, 0o600), os.Chtimes(path, time.Now(), past)) // of the time of reading
	must(t, os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b")), os.Rename(filepath.Join(dir, "b"), filepath.Join(dir, "a")))
	write(t, last, "all was done")
	r := next(t, reports)
	for slices.Equal(r, []string{path}) { // seen in the middle of it, and again at its end
		r = next(t, reports)
	}
	if !slices.Equal(r, []string{last}) && !slices.Equal(r, []string{path, last}) {
		t.Errorf("reported: %v", r)
	}
}

// TestSet: the set is replaced, from inside the callback too.
func TestSet(t *testing.T) {
	t.Parallel()
	dir := place(t)
	one, two, three := filepath.Join(dir, "1", "f"), filepath.Join(dir, "2", "f"), filepath.Join(dir, "3", "f")
	for _, p := range []string{one, two, three} {
		write(t, p, "first")
	}
	age(t, dir)
	reports := make(chan []string, 10)
	var w *Watcher
	w = New(func(p []string) {
		w.Set(time.Time{}, two)
		reports <- p
	}, func(err error) { t.Error(err) })
	w.pace = quick
	w.Set(time.Time{}, one, three)
	run(t, w)
	write(t, one, "other text")
	if r := next(t, reports); !slices.Equal(r, []string{one}) {
		t.Fatal(r)
	}
	write(t, three, "nobody's business any more")
	write(t, two, "other text")
	if r := next(t, reports); !slices.Equal(r, []string{two}) {
		t.Fatal(r)
	}
}

// TestSince: a file that changed after somebody began to read it, and before it was
// watched, is reported, once.
func TestSince(t *testing.T) {
	t.Parallel()
	dir := place(t)
	old, fresh, last := filepath.Join(dir, "old"), filepath.Join(dir, "new"), filepath.Join(dir, "last")
	past := time.Now().Add(-time.Minute)
	write(t, old, "first")
	must(t, os.Chtimes(old, past, past))
	began := time.Now()
	for time.Since(began) < 2*step { // the file's own time of change cannot be set back
		runtime.Gosched()
	}
	began = time.Now()
	write(t, fresh, "first")
	reports := make(chan []string, 10)
	w := New(func(p []string) { reports <- p }, func(err error) { t.Error(err) })
	w.pace = quick
	w.Set(began, old, fresh)
	run(t, w)
	if r := next(t, reports); !slices.Equal(r, []string{fresh}) {
		t.Fatal(r)
	}
	w.Set(began, old, fresh, last) // that is known by now
	write(t, last, "first")
	await(t, reports, last, "when it is there")
	select {
	case r := <-reports:
		t.Errorf("again: %v", r)
	default:
	}
}

// fake is an operating system that tells what the test wants.
type fake struct {
	calls  atomic.Int32
	refuse atomic.Value // an errno, of Add
	adding func(folder string)
	closed atomic.Bool
}

func (f *fake) Add(folder string) error {
	f.calls.Add(1)
	if f.adding != nil {
		f.adding(folder)
	}
	if e, _ := f.refuse.Load().(syscall.Errno); e != 0 {
		return e
	}
	return nil
}
func (f *fake) Remove(string) error { f.calls.Add(1); return nil }
func (f *fake) Close() error        { f.closed.Store(true); return nil }

// bubble is a watcher of one file on simulated time.
func bubble(t *testing.T, f *fake) (w *Watcher, s *source, path string, reports *[]time.Time, complaints *[]string) {
	path = filepath.Join(place(t), "f")
	write(t, path, "first")
	reports, complaints = new([]time.Time), new([]string)
	w = New(func([]string) { *reports = append(*reports, time.Now()) }, func(err error) { *complaints = append(*complaints, err.Error()) })
	s = &source{f, make(chan fsnotify.Event), make(chan error)}
	w.open = func() (*source, error) { return s, nil }
	w.Set(time.Time{}, path)
	return w, s, path, reports, complaints
}

// TestPace: a burst is one report, and an endless one is reported every two seconds.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, path, reports, _ := bubble(t, &fake{})
		run(t, w)
		synctest.Wait()
		began := time.Now()
		edit := func(n int, every time.Duration) {
			for i := range n {
				write(t, path, strings.Repeat("x", i+n))
				s.events <- fsnotify.Event{Name: path, Op: fsnotify.Write}
				time.Sleep(every)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		edit(7, 100*time.Millisecond)
		if len(*reports) != 1 || (*reports)[0].Sub(began) != 850*time.Millisecond {
			t.Fatalf("a burst from %v on: %v", began, *reports)
		}
		*reports, began = nil, time.Now()
		edit(100, 100*time.Millisecond) // 10 s
		if n := len(*reports); n != 5 || (*reports)[0].Sub(began) != 2*time.Second {
			t.Errorf("an endless one from %v on: %v", began, *reports)
		}
	})
}

// TestIdle: nothing is done while nothing happens, or what happens is nobody's business.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		w, s, path, reports, complaints := bubble(t, f)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.Run(ctx) }()
		synctest.Wait()
		calls := f.calls.Load()
		for range 100 {
			s.events <- fsnotify.Event{Name: path + "ellow", Op: fsnotify.Write}
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if n := f.calls.Load() - calls; calls == 0 || n != 0 || len(*reports)+len(*complaints) != 0 {
			t.Errorf("%d calls, then %d; %v, %v", calls, n, *reports, *complaints)
		}
		cancel()
		if err := <-ended; err != nil || !f.closed.Load() {
			t.Errorf("%v, closed: %v", err, f.closed.Load())
		}
	})
}

// TestOverflow: when too much happened to be told, it is looked.
func TestOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, path, reports, complaints := bubble(t, &fake{})
		run(t, w)
		synctest.Wait()
		write(t, path, "other text")
		s.errors <- fsnotify.ErrEventOverflow
		time.Sleep(time.Second)
		synctest.Wait()
		if len(*reports) != 1 || len(*complaints) != 0 {
			t.Errorf("%v, %v", *reports, *complaints)
		}
	})
}

// TestSteps: a change that leaves the file's time as it was, since file systems tell time
// in steps, is not lost.
func TestSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, path, reports, _ := bubble(t, &fake{})
		now := time.Now() // as the watcher sees it
		must(t, os.Chtimes(path, now, now))
		w.files = map[string]stamp{}
		w.Set(time.Time{}, path)
		run(t, w)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(*reports) != 0 {
			t.Fatal("before anything happened")
		}
		write(t, path, "tsrif")
		must(t, os.Chtimes(path, now, now))
		s.events <- fsnotify.Event{Name: path, Op: fsnotify.Write}
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(*reports) != 1 {
			t.Errorf("%v", *reports)
		}
	})
}

// TestLimits: where the system cannot tell, that is said once with what to do, and the
// files are looked at; when it can, that is over.
func TestLimits(t *testing.T) {
	for _, c := range []struct {
		name, want string
		open, add  syscall.Errno
	}{
		{"no instance", "max_user_instances", syscall.EMFILE, 0},
		{"no watch", "max_user_watches", 0, syscall.ENOSPC},
		{"no right to read the folder", "permission denied", 0, syscall.EACCES},
	} {
		t.Run(c.name, func(t *testing.T) {
			if runtime.GOOS == "windows" {
				t.Skip("not run: other errors there")
			}
			synctest.Test(t, func(t *testing.T) {
				f := &fake{}
				w, s, path, reports, complaints := bubble(t, f)
				var mended atomic.Bool
				w.open = func() (*source, error) {
					if c.open != 0 && !mended.Load() {
						return nil, fmt.Errorf("no inotify: %w", c.open)
					}
					return s, nil
				}
				f.refuse.Store(c.add)
				run(t, w)
				time.Sleep(time.Minute)
				write(t, path, "other text")
				began := time.Now()
				time.Sleep(time.Minute)
				synctest.Wait()
				if len(*reports) != 1 || (*reports)[0].Sub(began) > 11*time.Second {
					t.Errorf("reported %v, began %v", *reports, began)
				}
				if len(*complaints) != 1 || !strings.Contains((*complaints)[0], c.want) || !strings.Contains((*complaints)[0], "every 10s") {
					t.Errorf("complaints: %q", *complaints)
				}
				mended.Store(true)
				f.refuse.Store(syscall.Errno(0))
				time.Sleep(time.Minute)
				calls := f.calls.Load()
				time.Sleep(time.Hour)
				synctest.Wait()
				if f.calls.Load() != calls {
					t.Error("it goes on looking")
				}
				write(t, path, "and another")
				s.events <- fsnotify.Event{Name: path, Op: fsnotify.Write}
				time.Sleep(time.Second)
				synctest.Wait()
				if len(*reports) != 2 || len(*complaints) != 1 {
					t.Errorf("%v, %q", *reports, *complaints)
				}
			})
		})
	}
}

// TestMeanwhile: a link that is put elsewhere while its folder begins to be watched is
// followed: nobody told of that.
func TestMeanwhile(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("not run: no links there")
	}
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		w, _, path, _, _ := bubble(t, f)
		dir := filepath.Dir(path)
		write(t, dir+"/one/f", "first")
		write(t, dir+"/two/f", "other")
		must(t, os.Symlink("one", dir+"/link"))
		moved := false
		f.adding = func(folder string) {
			if folder == dir && !moved {
				moved = true
				must(t, os.Remove(dir+"/link"), os.Symlink("two", dir+"/link"))
			}
		}
		w.Set(time.Time{}, dir+"/link/f")
		<-w.poke // one look must do
		stop := run(t, w)
		synctest.Wait()
		_, one := w.folders[dir+"/one"]
		_, two := w.folders[dir+"/two"]
		if stop(); !moved || one || !two {
			t.Errorf("moved: %v; watched: one %v, two %v", moved, one, two)
		}
	})
}

// TestClosed: where the system stops telling, it is asked anew.
func TestClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s, path, reports, _ := bubble(t, &fake{})
		next := &source{&fake{}, make(chan fsnotify.Event), make(chan error)}
		first := true
		w.open = func() (*source, error) {
			if first {
				first = false
				return s, nil
			}
			return next, nil
		}
		run(t, w)
		synctest.Wait()
		close(s.events)
		synctest.Wait()
		write(t, path, "other text")
		next.events <- fsnotify.Event{Name: path, Op: fsnotify.Write}
		time.Sleep(time.Second)
		synctest.Wait()
		if len(*reports) != 1 {
			t.Errorf("%v", *reports)
		}
	})
}

// TestWay: which folders are watched.
func TestWay(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("not run: no links there")
	}
	t.Parallel()
	dir := place(t)
	write(t, dir+"/real/deep/f", "")
	must(t, os.Symlink("real", dir+"/link"), os.Mkdir(dir+"/shared", 0o700), os.Chmod(dir+"/shared", fs.ModeSticky|0o777))
	write(t, dir+"/shared/mine/f", "")
	for path, want := range map[string]map[string][]string{ // needed ones of each folder
		"/link/deep/f":           {dir: {"link"}, dir + "/real/deep": {"f"}},
		"/link/missing/f":        {dir: {"link"}, dir + "/real": {"missing"}},
		"/real/../link/deep/f/g": {dir: {"link"}, dir + "/real/deep": {"f"}},
		"/shared/mine/f":         {dir + "/shared/mine": {"f"}},
	} {
		got := map[string][]string{}
		for folder, in := range wayTo(dir+path, map[string]names{}) {
			for name, needed := range in {
				if needed {
					got[folder] = append(got[folder], name)
				}
			}
			if folder == dir+"/shared" || folder == os.TempDir() && strings.HasPrefix(dir, "/tmp") {
				t.Errorf("%s: %s is watched", path, folder)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %v", path, got)
		}
		for folder, in := range want {
			if !slices.Equal(got[folder], in) {
				t.Errorf("%s: %s: %v, want %v", path, folder, got[folder], in)
			}
		}
	}
}
