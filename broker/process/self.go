package process

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// IsSelf reports whether a shell line, such as credential_process of an AWS
// config, runs our own executable: its first word leads, through PATH and
// symbolic links, to the file at self. Assignments before it, exec, command
// and env are looked through.
//
// What hides deeper in a script is caught when it runs, by [DepthVariable].
func IsSelf(line, self string) bool { return isProgram(firstWord(line), self) }

// isProgram reports whether running word would run the file at self.
func isProgram(word, self string) bool {
	if word == "" || self == "" {
		return false
	}
	path, err := exec.LookPath(word)
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return false
	}
	a, errA := os.Stat(path)
	b, errB := os.Stat(self)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// firstWord returns the program that a shell line runs, "" if it cannot tell.
func firstWord(line string) string {
	for {
		word, rest := cutWord(line)
		name, _, assigned := strings.Cut(word, "=")
		switch {
		case assigned && isVariable(name):
		case word == "exec", word == "command", filepath.Base(word) == "env":
		default:
			return word
		}
		line = rest
	}
}

func isVariable(s string) bool {
	for i, r := range s {
		if r != '_' && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// cutWord cuts the first word off a line, by the shell's rules for quotes
// (POSIX, Shell Command Language, 2.2) on Unix, and by those for file names on
// Windows, where a backslash is no quote.
func cutWord(line string) (word, rest string) {
	line = strings.TrimLeft(line, " \t\n")
	windows := runtime.GOOS == "windows"
	var b strings.Builder
	var quote byte
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote == 0 && strings.IndexByte(" \t\n;&|<>()", c) >= 0:
			return b.String(), line[i:]
		case quote == 0 && (c == '"' || c == '\'' && !windows):
			quote = c
		case c == quote && quote != 0:
			quote = 0
		case c == '\\' && !windows && quote != '\'' && i+1 < len(line) && (quote == 0 || strings.IndexByte("$`\"\\\n", line[i+1]) >= 0):
			i++
			b.WriteByte(line[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}
