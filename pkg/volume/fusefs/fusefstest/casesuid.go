package fusefstest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func setgidDirectory(t *testing.T, dir string) {
	d := dir + "/d"
	must(t, os.Mkdir(d, 0o777))
	must(t, unix.Chown(d, 0, 4242))
	must(t, unix.Chmod(d, 0o2777))
	must(t, os.WriteFile(d+"/f", nil, 0o644))
	must(t, os.Mkdir(d+"/sub", 0o755))
	if st := stat(t, d+"/f"); st.Gid != 4242 {
		t.Errorf("gid %d", st.Gid)
	}
	if st := stat(t, d+"/sub"); st.Gid != 4242 || st.Mode&unix.S_ISGID == 0 {
		t.Errorf("gid %d, mode %o", st.Gid, st.Mode)
	}
}

func suidByWrite(t *testing.T, dir string) {
	f := dir + "/f"
	must(t, os.WriteFile(f, []byte("program"), 0o777))
	reset := func(mode uint32) {
		must(t, unix.Chmod(f, mode))
		if st := stat(t, f); st.Mode&0o7777 != mode {
			t.Fatalf("mode %o", st.Mode)
		}
	}
	write := func() {
		fd, err := unix.Open(f, unix.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		if _, err := unix.Pwrite(fd, []byte("x"), 3); err != nil {
			t.Error(err)
		}
	}
	// statx without synchronising returns the attributes that the kernel has cached.
	believed := func() uint32 {
		var stx unix.Statx_t
		must(t, unix.Statx(unix.AT_FDCWD, f, unix.AT_STATX_DONT_SYNC, unix.STATX_MODE, &stx))
		return uint32(stx.Mode) & 0o7777
	}
	reset(0o6777)
	write() // root keeps them
	if st := stat(t, f); st.Mode&0o7777 != 0o6777 {
		t.Errorf("after root's write: %o", st.Mode)
	}
	asUser(t, write)
	must(t, unix.Access(f, unix.X_OK)) // a permission check fetches attributes again if they were invalidated
	if got := believed(); got != 0o777 {
		t.Errorf("the kernel believes %o after a user's write", got)
	}
	if st := stat(t, f); st.Mode&0o7777 != 0o777 {
		t.Errorf("after a user's write: %o", st.Mode)
	}
	reset(0o2767) // sgid without group execution is not a privilege
	asUser(t, write)
	if st := stat(t, f); st.Mode&unix.S_ISGID == 0 {
		t.Errorf("sgid without x: %o", st.Mode)
	}
}

func suidByOthers(t *testing.T, dir string) {
	f := dir + "/f"
	must(t, os.WriteFile(f, pattern(10000, 5), 0o777))
	capability := []byte{0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // VFS_CAP_REVISION_2, CAP_CHOWN
	for _, c := range []struct {
		name string
		do   func(fd int) error
	}{
		{"truncate", func(fd int) error { return unix.Ftruncate(fd, 9000) }},
		{"write", func(fd int) error { _, err := unix.Pwrite(fd, []byte("x"), 0); return err }},
		{"fallocate", func(fd int) error { return unix.Fallocate(fd, 0, 0, 20000) }},
		{"punch", func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
		}},
		{"copy_file_range", func(fd int) error {
			from, to := int64(0), int64(8192)
			_, err := unix.CopyFileRange(fd, &from, fd, &to, 100, 0)
			return err
		}},
	} {
		must(t, unix.Chmod(f, 0o4777))
		must(t, unix.Setxattr(f, "security.capability", capability, 0))
		asUser(t, func() {
			fd, err := unix.Open(f, unix.O_RDWR, 0)
			if err != nil {
				t.Errorf("%s: open: %v", c.name, err)
				return
			}
			defer unix.Close(fd)
			if err := c.do(fd); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		})
		if st := stat(t, f); st.Mode&0o7777 != 0o777 {
			t.Errorf("%s leaves mode %o", c.name, st.Mode)
		}
		_, err := unix.Getxattr(f, "security.capability", make([]byte, 100))
		wantErr(t, c.name+" leaves a capability", err, unix.ENODATA)
	}
	must(t, unix.Chmod(f, 0o6777))
	must(t, unix.Chown(f, 65534, 65534))
	if st := stat(t, f); st.Mode&0o7777 != 0o777 || st.Uid != 65534 {
		t.Errorf("after chown: %o", st.Mode)
	}
}
