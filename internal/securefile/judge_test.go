package securefile

import (
	"io/fs"
	"strings"
	"testing"
)

// TestJudge is the table of modes and owners, free of what a test may do on
// the machine it runs on; TestRead does the same on a real file system.
func TestJudge(t *testing.T) {
	const me, root, other = 1000, 0, 1001
	const file, folder, link = 0, fs.ModeDir, fs.ModeSymlink
	private := user{uid: me, onlyMember: func(gid uint32) bool { return gid == me }}
	type judge func(string, facts, user) error
	for _, c := range []struct {
		name  string
		judge judge
		mode  fs.FileMode
		uid   uint32
		gid   uint32
		want  string // part of the error, "" for none
	}{
		{"file 0600", judgeFile, file | 0o600, me, me, ""},
		{"file 0400", judgeFile, file | 0o400, me, me, ""},
		{"file 0700", judgeFile, file | 0o700, me, me, ""},
		{"file of root", judgeFile, file | 0o600, root, root, ""},
		{"file 0640", judgeFile, file | 0o640, me, me, "mode 0640: others may reach it; run: chmod 600 /p"},
		{"file 0620", judgeFile, file | 0o620, me, me, "chmod 600"},
		{"file 0610", judgeFile, file | 0o610, me, me, "chmod 600"},
		{"file 0604", judgeFile, file | 0o604, me, me, "chmod 600"},
		{"file 0602", judgeFile, file | 0o602, me, me, "chmod 600"},
		{"file of root 0644", judgeFile, file | 0o644, root, root, "chmod 600"},
		{"file of another", judgeFile, file | 0o600, other, me, "belongs to uid 1001, not to uid 1000 or root; if it should be yours, run: chown 1000 /p"},
		{"folder as file", judgeFile, folder | 0o700, me, me, "not a regular file"},
		{"device as file", judgeFile, fs.ModeDevice | 0o600, me, me, "not a regular file"},
		{"pipe as file", judgeFile, fs.ModeNamedPipe | 0o600, me, me, "not a regular file"},
		{"shared 0640", judgeShared, file | 0o640, me, 100, ""},
		{"shared 0600", judgeShared, file | 0o600, me, me, ""},
		{"shared 0660", judgeShared, file | 0o660, me, 100, "chmod 600 /p"},
		{"shared 0644", judgeShared, file | 0o644, me, 100, "chmod 600 /p"},
		{"shared 0650", judgeShared, file | 0o650, me, 100, "chmod 600 /p"},
		{"shared of another", judgeShared, file | 0o640, other, 100, "belongs to uid 1001"},
		{"folder as shared", judgeShared, folder | 0o640, me, me, "not a regular file"},
		{"credential 0400", judgeCredential, file | 0o400, me, me, ""},
		{"credential of root 0400", judgeCredential, file | 0o400, root, root, ""},
		{"credential of root 0440, the group's rights are an access list's", judgeCredential, file | 0o440, root, root, ""},
		{"credential 0440", judgeCredential, file | 0o440, me, root, "chmod 600"},
		{"credential of root 0440, of a group that is somebody", judgeCredential, file | 0o440, root, me, "chmod 600"},
		{"credential of root 0460", judgeCredential, file | 0o460, root, root, "chmod 600"},
		{"credential of root 0444", judgeCredential, file | 0o444, root, root, "chmod 600"},
		{"credential of another", judgeCredential, file | 0o400, other, me, "belongs to uid 1001"},
		{"folder as credential", judgeCredential, folder | 0o400, root, root, "not a regular file"},
		{"private folder", judgePrivateFolder, folder | 0o700, me, me, ""},
		{"private folder of root", judgePrivateFolder, folder | 0o700, root, me, ""},
		{"private folder 0755", judgePrivateFolder, folder | 0o755, me, me, "chmod 700 /p"},
		{"private folder 0710", judgePrivateFolder, folder | 0o710, me, me, "chmod 700"},
		{"private folder of another", judgePrivateFolder, folder | 0o700, other, me, "belongs to uid 1001"},
		{"file as private folder", judgePrivateFolder, file | 0o700, me, me, "not a folder"},
		{"parent 0755", judgeFolder, folder | 0o755, me, me, ""},
		{"parent of root 0755", judgeFolder, folder | 0o755, root, root, ""},
		{"parent of another", judgeFolder, folder | 0o755, other, me, "belongs to uid 1001"},
		{"parent 0775, private group", judgeFolder, folder | 0o775, me, me, ""},
		{"parent 0775, shared group", judgeFolder, folder | 0o775, me, 100, "its group 100 may replace what is in it; run: chmod g-w /p"},
		{"parent 0757", judgeFolder, folder | 0o757, me, me, "chmod go-w"},
		{"parent 1777 of root", judgeFolder, folder | fs.ModeSticky | 0o777, root, root, ""},
		{"parent 1777 of mine", judgeFolder, folder | fs.ModeSticky | 0o777, me, me, "chmod go-w"},
		{"parent 1777 of another", judgeFolder, folder | fs.ModeSticky | 0o777, other, me, "belongs to uid 1001"},
		{"file as parent", judgeFolder, file | 0o600, me, me, "not a folder"},
		{"my link", judgeFolder, link | 0o777, me, me, ""},
		{"another's link", judgeFolder, link | 0o777, other, me, "belongs to uid 1001"},
	} {
		f := facts{mode: c.mode, regular: c.mode.IsRegular(), link: c.mode&fs.ModeSymlink != 0, folder: c.mode.IsDir(), sticky: c.mode&fs.ModeSticky != 0, owned: true, uid: c.uid, gid: c.gid}
		err := c.judge("/p", f, private)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want …%s…", c.name, err, c.want)
		}
	}
}
