package process

import (
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// DepthVariable is set on commands that the broker runs for itself, and only
// on those. A stsbroker that finds it set was started by such a command: if it
// asked the broker for credentials, each could wait for the other.
const DepthVariable = "STSBROKER_DEPTH"

// passed are the variables that a command gets, where they are set. Whatever
// else this process has stays here: keys, tokens, endpoints, AWS_PROFILE and
// all that could turn the command back to us or hand it our secrets.
var passed = strings.Fields(`
	PATH HOME USER LOGNAME SHELL PWD TZ LANG LANGUAGE TERM TMPDIR
	XDG_CONFIG_HOME XDG_DATA_HOME XDG_STATE_HOME XDG_CACHE_HOME XDG_RUNTIME_DIR
	DBUS_SESSION_BUS_ADDRESS DISPLAY WAYLAND_DISPLAY XAUTHORITY SSH_AUTH_SOCK GNUPGHOME
	AWS_CONFIG_FILE AWS_SHARED_CREDENTIALS_FILE AWS_REGION AWS_DEFAULT_REGION AWS_CA_BUNDLE
	HTTPS_PROXY HTTP_PROXY NO_PROXY ALL_PROXY https_proxy http_proxy no_proxy all_proxy SSL_CERT_FILE SSL_CERT_DIR
`)

// passedOnWindows are those without which programs do not start there.
var passedOnWindows = strings.Fields(`
	SYSTEMROOT SYSTEMDRIVE WINDIR COMSPEC PATHEXT USERPROFILE USERNAME USERDOMAIN HOMEDRIVE HOMEPATH
	APPDATA LOCALAPPDATA PROGRAMDATA PROGRAMFILES PROGRAMFILES(X86) PROGRAMW6432 COMMONPROGRAMFILES TEMP TMP
	OS NUMBER_OF_PROCESSORS PROCESSOR_ARCHITECTURE PSMODULEPATH
`)

// Environment returns what of a process's environment a command that it runs
// gets: the variables of a fixed list, those that begin with LC_, and
// [DepthVariable], one higher than it is. Among them are where to find
// programs, the home, the locale, the keyring's and agents' sockets, the
// proxies, and the AWS files; among those that are not are all keys and tokens.
func Environment(environ []string) []string {
	return environmentOn(runtime.GOOS, environ)
}

func environmentOn(goos string, environ []string) []string {
	var out []string
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		ok := slices.Contains(passed, name) || strings.HasPrefix(name, "LC_")
		if goos == "windows" { // where names have no case
			name = strings.ToUpper(name)
			ok = ok || slices.Contains(passed, name) || slices.Contains(passedOnWindows, name)
		}
		if ok {
			out = append(out, kv)
		}
	}
	return append(out, DepthVariable+"="+strconv.Itoa(depth(environ)+1))
}

// Nested reports whether the environment is that of a process which a stsbroker
// runs for itself, or of one below it. Such a process must not ask a broker.
func Nested(environ []string) bool { return depth(environ) > 0 }

// depth takes a value that is no number for 1: somebody has set it.
func depth(environ []string) int {
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, DepthVariable+"="); ok && v != "" {
			n, err := strconv.Atoi(v)
			if err != nil || n < 0 || n > 1000 {
				return 1
			}
			return n
		}
	}
	return 0
}
