//go:build unix

package securefile

import (
	"bufio"
	"os"
	"strconv"
	"strings"
)

const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"
)

// onlyMember reports whether the user is the one member of the group: a
// user-private group, as most distributions give one to each user. A user or
// group that the two files do not have (a directory service has it) counts as
// not private, because its other members cannot be seen here.
func onlyMember(passwd, group string, uid, gid uint32) bool {
	name, member := "", false
	for _, f := range table(passwd, 4) { // name:password:uid:gid:…
		if f[2] == id(uid) && name == "" {
			name = f[0]
		}
		if f[3] == id(gid) {
			if f[2] != id(uid) {
				return false
			}
			member = true
		}
	}
	if name == "" {
		return false
	}
	known := false
	for _, f := range table(group, 4) { // name:password:gid:member,member,…
		if f[2] != id(gid) {
			continue
		}
		known = true
		for m := range strings.SplitSeq(f[3], ",") {
			if m != "" && m != name {
				return false
			}
			member = member || m == name
		}
	}
	return known && member
}

func id(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// table returns the lines of a colon-separated file that have at least n fields.
func table(path string, n int) (rows [][]string) {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Split(s.Text(), ":"); len(fields) >= n && !strings.HasPrefix(s.Text(), "#") {
			rows = append(rows, fields)
		}
	}
	return rows
}
