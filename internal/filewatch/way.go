package filewatch

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// names are entries of one folder that matter: what stands there, or is missed there, or
// is a link, is needed, and true. The others are folders that the way goes through.
type names map[string]bool

func (n names) needed() bool {
	for _, needed := range n {
		if needed {
			return true
		}
	}
	return false
}

// mostLinks is what Linux follows in one path: path_resolution(7).
const mostLinks = 40

// wayTo adds to the folders those where a change may lead the path elsewhere: of the file
// itself, of each link on the way, and where the way ends early, that where its next part
// is missed. On Linux also those that it passes, since a folder is not told of a
// rename above it; elsewhere to watch a folder costs a descriptor for each file in it.
//
// Folders are without links, so that each has one name.
func wayTo(path string, folders map[string]names) map[string]names {
	path, err := filepath.Abs(path)
	if err != nil {
		return folders
	}
	root := filepath.VolumeName(path) + string(filepath.Separator)
	at, rest := root, parts(path[len(root):])
	add := func(name string, needed bool) {
		if folders[at] == nil {
			folders[at] = names{}
		}
		folders[at][name] = folders[at][name] || needed
	}
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			at = filepath.Dir(at)
			continue
		}
		here := filepath.Join(at, name)
		info, err := os.Lstat(here)
		switch {
		case err != nil:
			add(name, true)
			return folders
		case info.Mode()&fs.ModeSymlink != 0:
			add(name, true)
			target, err := os.Readlink(here)
			if links++; err != nil || links > mostLinks {
				return folders
			}
			if filepath.IsAbs(target) {
				at = filepath.VolumeName(target) + string(filepath.Separator)
				target = target[len(at):]
			}
			rest = append(parts(target), rest...)
			continue
		case len(rest) == 0 || !info.IsDir():
			add(name, true)
			return folders
		case runtime.GOOS == "linux" && !shared(at):
			add(name, false)
		}
		at = here
	}
	return folders
}

func parts(path string) (all []string) {
	for p := range strings.SplitSeq(filepath.ToSlash(path), "/") {
		if p != "" && p != "." {
			all = append(all, p)
		}
	}
	return all
}

// shared reports whether the folder is one where everybody works, as /tmp: there is always
// something going on, and nobody may rename what is another's.
func shared(folder string) bool {
	info, err := os.Lstat(folder)
	return err == nil && info.Mode()&fs.ModeSticky != 0
}
