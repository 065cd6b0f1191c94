package fusefstest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

const nobody = 65534 // the user of asUser

// nextTick waits for the next tick of the clock that the kernel uses for file times.
func nextTick(t *testing.T) {
	t.Helper()
	var start, now unix.Timespec
	must(t, unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &start))
	for now = start; now == start; {
		must(t, unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now))
	}
}

// chownNothing tests chown(path, -1, -1). If the owner or root calls it, it clears suid and sgid
// and sets the change time. For other users it clears nothing. On ext4 they get EPERM. The server
// cannot return EPERM, because the kernel sends the same request before a write of such a user.
func chownNothing(t *testing.T, dir string) {
	f, d := dir+"/f", dir+"/d"
	must(t, os.WriteFile(f, []byte("program"), 0o777))
	must(t, os.Mkdir(d, 0o777))
	chown := func(path string) func() error { return func() error { return unix.Lchown(path, -1, -1) } }
	user := func(do func() error) func() error {
		return func() (err error) {
			asUser(t, func() { err = do() })
			return err
		}
	}
	keeps := func(do func(fd int) error) func() error {
		return func() error {
			fd, err := unix.Open(f, unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return do(fd)
		}
	}
	for _, c := range []struct {
		name         string
		path         string
		owner        int
		before, mode uint32
		ctime        bool // updated
		do           func() error
	}{
		{"root", f, 0, 0o6777, 0o777, true, chown(f)},
		{"root, without x", f, 0, 0o2644, 0o2644, true, chown(f)},
		{"root, a directory", d, 0, 0o6755, 0o6755, true, chown(d)},
		{"owner", f, nobody, 0o6777, 0o777, true, user(chown(f))},
		{"stranger", f, 0, 0o6777, 0o6777, false, user(chown(f))},
		{"stranger, nothing to clear", f, 0, 0o777, 0o777, true, user(chown(f))},
		{"stranger writes", f, 0, 0o6777, 0o777, true, user(keeps(func(fd int) error { _, err := unix.Pwrite(fd, []byte("x"), 0); return err }))},
		{"writes nothing", f, nobody, 0o6777, 0o6777, false, user(keeps(func(fd int) error { _, err := unix.Pwrite(fd, nil, 0); return err }))},
		{"root allocates", f, 0, 0o6777, 0o6777, true, keeps(func(fd int) error { return unix.Fallocate(fd, 0, 0, 10000) })},
		{"same size", f, nobody, 0o6777, 0o777, true, user(keeps(func(fd int) error { return unix.Ftruncate(fd, 10000) }))},
		{"same group", f, nobody, 0o6777, 0o777, true, user(func() error { return unix.Lchown(f, -1, nobody) })},
	} {
		must(t, unix.Chown(c.path, c.owner, c.owner))
		must(t, unix.Chmod(c.path, c.before))
		old := stat(t, c.path)
		nextTick(t)
		if err := c.do(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		st := stat(t, c.path)
		if st.Mode&0o7777 != c.mode {
			t.Errorf("%s: mode %o becomes %o, want %o", c.name, c.before, st.Mode&0o7777, c.mode)
		}
		// A kernel that caches writes maintains the change time itself, also for other users.
		if changed := st.Ctim != old.Ctim; changed != c.ctime && c.name != "stranger" {
			t.Errorf("%s: change time updated: %v, want %v", c.name, changed, c.ctime)
		}
	}
}
