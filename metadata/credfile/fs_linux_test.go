package credfile

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestOnDisk(t *testing.T) {
	// The folder's file system counts; proc is none that is told apart by name.
	if got, err := OnDisk("/proc/credentials"); err != nil || !got {
		t.Errorf("/proc: %v, %v", got, err)
	}
	// One that is missing will be made in the one above it.
	if got, err := OnDisk("/proc/no/such/credentials"); err != nil || !got {
		t.Errorf("a folder that is missing: %v, %v", got, err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		t.Skipf("not run: /dev/shm is no tmpfs here (%v)", err)
	}
	if got, err := OnDisk("/dev/shm/no/such/credentials"); err != nil || got {
		t.Errorf("a folder that is missing in /dev/shm: %v, %v", got, err)
	}
	if got, err := OnDisk("/dev/shm/credentials"); err != nil || got {
		t.Errorf("/dev/shm: %v, %v", got, err)
	}
}
