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
// config, has a word anywhere that leads, through PATH and symbolic links, to our
// own executable at self. Any word: `env -i`, `timeout 5` and `sh -c` run what
// comes later, and the first of these even takes [DepthVariable] away.
//
// What hides in a script is caught when it runs, by [DepthVariable].
func IsSelf(line, self string) bool {
	for line != "" {
		var word string
		word, line = cutWord(line)
		if isProgram(word, self) || strings.ContainsAny(word, " \t\n;&|()") && IsSelf(word, self) {
			return true
		}
		line = strings.TrimLeft(line, separators)
	}
	return false
}

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

// program returns the name of what a line runs, for messages: what comes after
// assignments (they may hold a password), exec, command, env and its options.
func program(line string) string {
	for {
		word, rest := cutWord(line)
		name, _, assigned := strings.Cut(word, "=")
		switch {
		case assigned && isVariable(name):
		case word == "exec", word == "command", filepath.Base(word) == "env":
		case strings.HasPrefix(word, "-") && rest != "":
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

const separators = " \t\n;&|<>()`"

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
		case quote == 0 && strings.IndexByte(separators, c) >= 0:
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
