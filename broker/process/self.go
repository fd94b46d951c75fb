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
// config, runs our own executable, at self: a word that is a path leads there, or
// a bare word does through PATH where the shell, or a program that runs others
// (`env -i`, `timeout 5`, `sh -c`), would look for one.
//
// What hides in a script is caught when it runs, by [DepthVariable]; but `env -i`
// takes that away, which is why it is looked through.
func IsSelf(line, self string) bool {
	command := true // the next bare word is a program's
	for {
		rest := strings.TrimLeft(line, " \t")
		line = strings.TrimLeft(rest, separators)
		if line == "" {
			return false
		}
		command = command || len(line) < len(rest) // a new command begins
		var word string
		word, line = cutWord(line)
		name, _, assigned := strings.Cut(word, "=")
		switch {
		case strings.ContainsAny(word, " \t\n;&|()`"): // quoted: the line of sh -c, or a path with blanks
			if isProgram(word, self) || IsSelf(word, self) {
				return true
			}
		case (command || strings.ContainsAny(word, `/\`)) && isProgram(word, self):
			return true
		}
		if command && !isRunner(word) && !(assigned && isVariable(name)) && !runs(word) {
			command = false
		}
	}
}

// Asked is what a shell line wants from our own executable.
type Asked struct{ Profile, Config, Socket string } // "" for an option that is not there

// AskedOfSelf reads a shell line, as of credential_process, that asks our own
// executable, at self, for a profile. ok is false for a line that does anything but
// run
//
//	stsbroker [--config FILE] [--socket PATH] credential-process [--] PROFILE
func AskedOfSelf(line, self string) (asked Asked, ok bool) {
	var words []string
	for rest := strings.TrimLeft(line, " \t"); rest != ""; rest = strings.TrimLeft(rest, " \t") {
		var word string
		before := rest
		if word, rest = cutWord(rest); len(rest) == len(before) {
			return asked, false // something of the shell's
		}
		words = append(words, word)
	}
	if len(words) == 0 || !isProgram(words[0], self) {
		return asked, false
	}
	words = words[1:]
	for len(words) > 0 && strings.HasPrefix(words[0], "--") {
		name, value, whole := strings.Cut(words[0], "=")
		if words = words[1:]; !whole && len(words) > 0 {
			value, words = words[0], words[1:]
		}
		switch name {
		case "--config":
			asked.Config = value
		case "--socket":
			asked.Socket = value
		default:
			return asked, false
		}
	}
	if len(words) == 3 && words[1] == "--" {
		words = append(words[:1], words[2])
	} else if len(words) == 2 && strings.HasPrefix(words[1], "-") {
		return asked, false
	}
	if len(words) != 2 || words[0] != "credential-process" {
		return asked, false
	}
	asked.Profile = words[1]
	return asked, true
}

// runs reports whether a word after a runner leaves the next one a program's:
// its options, and the number that timeout and nice take.
func runs(word string) bool {
	return strings.HasPrefix(word, "-") || strings.Trim(word, "0123456789.smhd") == ""
}

// isRunner reports whether a program, or a word of the shell, runs what follows.
func isRunner(word string) bool {
	switch filepath.Base(word) {
	case "env", "exec", "command", "eval", "time", "timeout", "nice", "ionice", "nohup", "setsid", "stdbuf", "chronic", "sudo", "doas", "xargs", "busybox",
		"sh", "bash", "dash", "zsh", "ksh", "if", "then", "else", "while", "do", "!", "{":
		return true
	}
	return false
}

// argvIsSelf is [IsSelf] for words that no shell splits.
func argvIsSelf(argv []string, self string) bool {
	for i, word := range argv {
		named := i == 0 || isRunner(argv[0]) || strings.ContainsAny(word, `/\`)
		if named && isProgram(word, self) || isRunner(argv[0]) && IsSelf(word, self) {
			return true
		}
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
