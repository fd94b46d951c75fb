package securefile

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mountRows are the rows of the table that need mounts: what is mounted read-only here may
// be read by the rules of configuration, if it is root's, and by no others.
func mountRows(w tableUsers) []tableRow {
	// A volume as a ConfigMap is: on disk, its folder open to all.
	volume := func(mode os.FileMode, uid, gid int, more ...func(tableSite)) func(tableSite) string {
		return func(s tableSite) string {
			path := s.volume(mode, uid, gid)
			s.mount("ro", "m")
			for _, m := range more {
				m(s)
			}
			return path
		}
	}
	chown := func(path string) func(tableSite) {
		return func(s tableSite) { s.owned(s.dir+path, os.ModeSymlink, w.other, w.shared) } // a link's mode is left alone, and so here
	}
	const setgid = os.ModeSetgid
	return []tableRow{
		{"mounted read-only, root's 0777, a ConfigMap", config, true, "", volume(0o777, 0, 0)},
		{"mounted read-only, root's 2777, a ConfigMap with an fsGroup", config, true, "", volume(setgid|0o777, 0, w.shared)},
		{"mounted read-only, root's 2775", config, true, "", volume(setgid|0o775, 0, w.shared)},
		{"mounted read-only, mine 0777", config, true, "everybody may replace what is in it", volume(0o777, w.me, w.mine)},
		{"mounted read-only, another's 0777", config, true, fmt.Sprintf("belongs to uid %d", w.other), volume(0o777, w.other, w.shared)},
		{"mounted read-only, and another's file put there", config, true, fmt.Sprintf("belongs to uid %d", w.other), volume(0o777, 0, 0, chown("/m/..2026_01_02/f"))},
		{"mounted read-only, and another's link put there", config, true, fmt.Sprintf("belongs to uid %d", w.other), volume(0o777, 0, 0, chown("/m/f"))},
		{"mounted read-only, and another's ..data put there", config, true, fmt.Sprintf("belongs to uid %d", w.other), volume(0o777, 0, 0, chown("/m/..data"))},
		{"mounted read-only, and another's folder put there", config, true, fmt.Sprintf("belongs to uid %d", w.other), volume(0o777, 0, 0, chown("/m/..2026_01_02"))},
		{"mounted read-only, a file that all may write to", config, true, "everybody may change it", volume(0o777, 0, 0, func(s tableSite) {
			s.owned(s.dir+"/m/..2026_01_02/f", 0o666, 0, 0)
		})},
		{"mounted read-only, and written to through a mount below", config, true, "everybody may replace what is in it", volume(0o777, 0, 0, func(s tableSite) {
			s.owned(s.dir+"/m/..2026_01_02", 0o777, 0, 0)
			s.mount("rw", "m/..2026_01_02")
		})},
		{"mounted read-only, in root's 0777 that is not", config, true, "everybody may replace what is in it", func(s tableSite) (path string) {
			s.folder("d", 0o777, 0, 0, func() {
				s.folder("d/m", 0o777, 0, 0, func() { path = s.file("d/m/f", 0o644, 0, 0) })
			})
			s.mount("ro", "d/m")
			return path
		}},
		{"mounted read-only, a link out of it to root's 0777", config, true, "everybody may replace what is in it", func(s tableSite) (path string) {
			s.folder("d", 0o777, 0, 0, func() { s.file("d/f", 0o644, 0, 0) })
			s.folder("m", 0o777, 0, 0, func() { path = s.link("m/f", "../d/f", 0, 0) })
			s.mount("ro", "m")
			return path
		}},
		{"mounted read-only, root's 0777, but no configuration", private, true, "everybody may replace what is in it", func(s tableSite) (path string) {
			s.folder("m", 0o777, 0, 0, func() { path = s.file("m/f", 0o600, w.me, w.mine) })
			s.mount("ro", "m")
			return path
		}},
	}
}

// whyNoMounts says why this process can mount nothing, "" if it can.
func whyNoMounts(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(self(t), "-test.run=^$")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		return fmt.Sprintf("no mount namespace can be made here: %v", err)
	}
	return ""
}

// startAs starts the child as the user, or as root with mounts of its own, for becomeUser.
func startAs(cmd *exec.Cmd, who tableUsers, mounts bool) {
	if !mounts {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(who.me), Gid: uint32(who.mine)}} //nolint:gosec // ids are small
		return
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d %d", tableChild, who.me, who.mine))
}

// becomeUser mounts what it is told to, and then is the user whom startAs said.
func becomeUser(mounts [][2]string) error {
	if len(mounts) == 0 {
		return nil
	}
	var uid, gid int
	if _, err := fmt.Sscan(os.Getenv(tableChild), &uid, &gid); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, m := range mounts {
		flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT)
		if m[0] == "ro" {
			flags |= unix.MS_RDONLY
		}
		if err := unix.Mount(m[1], m[1], "", unix.MS_BIND, ""); err != nil {
			return err
		}
		if err := unix.Mount("", m[1], "", flags, ""); err != nil {
			return err
		}
	}
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setgid(gid); err != nil {
		return err
	}
	return syscall.Setuid(uid)
}
