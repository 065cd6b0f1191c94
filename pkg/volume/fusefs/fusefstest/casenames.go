package fusefstest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func renameFlags(t *testing.T, dir string) {
	rename := func(from, to string, flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, dir+"/"+from, unix.AT_FDCWD, dir+"/"+to, flags)
	}
	must(t, os.WriteFile(dir+"/a", []byte("a"), 0o644))
	must(t, os.WriteFile(dir+"/b", []byte("b"), 0o644))
	must(t, os.Mkdir(dir+"/d", 0o755))
	wantErr(t, "noreplace", rename("a", "b", unix.RENAME_NOREPLACE), unix.EEXIST)
	must(t, rename("a", "b", unix.RENAME_EXCHANGE))
	content(t, dir+"/a", []byte("b"))
	content(t, dir+"/b", []byte("a"))
	must(t, rename("a", "d", unix.RENAME_EXCHANGE))
	if st := stat(t, dir+"/a"); st.Mode&unix.S_IFMT != unix.S_IFDIR {
		t.Error("a is not a directory after the exchange")
	}
	content(t, dir+"/d", []byte("b"))
	wantErr(t, "exchange with nothing", rename("a", "none", unix.RENAME_EXCHANGE), unix.ENOENT)
	must(t, rename("b", "c", unix.RENAME_WHITEOUT))
	if st := stat(t, dir+"/b"); st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("no whiteout: mode %o, rdev %d", st.Mode, st.Rdev)
	}
	content(t, dir+"/c", []byte("a"))
	must(t, os.Mkdir(dir+"/a/sub", 0o755))
	wantErr(t, "into itself", rename("a", "a/sub/x", 0), unix.EINVAL)
	wantErr(t, "over above", rename("a/sub", "a", 0), unix.ENOTEMPTY)
	if st := stat(t, dir+"/a"); st.Nlink != 3 {
		t.Errorf("nlink of a: %d", st.Nlink)
	}
	must(t, rename("a/sub", "moved", unix.RENAME_NOREPLACE))
	if st := stat(t, dir+"/a"); st.Nlink != 2 {
		t.Errorf("nlink of a without sub: %d", st.Nlink)
	}
}

func tmpfileLink(t *testing.T, dir string) {
	fd := open(t, dir, unix.O_TMPFILE|unix.O_RDWR)
	_, err := unix.Write(fd, []byte("anonymous"))
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	if st.Nlink != 0 {
		t.Errorf("nlink %d without a name", st.Nlink)
	}
	must(t, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, dir+"/named", unix.AT_SYMLINK_FOLLOW))
	must(t, unix.Fstat(fd, &st))
	if named := stat(t, dir+"/named"); st.Nlink != 1 || named.Ino != st.Ino || named.Nlink != 1 {
		t.Errorf("nlink %d and %d, ino %d and %d", st.Nlink, named.Nlink, st.Ino, named.Ino)
	}
	content(t, dir+"/named", []byte("anonymous"))
}

func bigDirectory(t *testing.T, dir string) {
	const stays, comes = 20000, 500
	for i := range stays {
		must(t, unix.Mknod(fmt.Sprintf("%s/stays-%05d", dir, i), unix.S_IFREG|0o600, 0))
	}
	for round := range 3 {
		f, err := os.Open(dir)
		must(t, err)
		seen := make(map[string]int)
		changes := 0
		for {
			batch, err := f.Readdirnames(1000)
			for _, name := range batch {
				seen[name]++
			}
			if err != nil {
				break
			}
			// Between any two reads, names are created, removed and renamed.
			if changes < comes {
				name := fmt.Sprintf("%s/comes-%d-%03d", dir, round, changes)
				must(t, unix.Mknod(name, unix.S_IFREG|0o600, 0))
				if changes%2 == 0 {
					must(t, os.Rename(name, name+"x"))
				} else {
					must(t, os.Remove(name))
				}
				changes++
			}
		}
		f.Close()
		for i := range stays {
			if n := seen[fmt.Sprintf("stays-%05d", i)]; n != 1 {
				t.Fatalf("round %d: name %d seen %d times", round, i, n)
			}
		}
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		must(t, os.Remove(dir+"/"+e.Name()))
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("%d left, %v", len(entries), err)
	}
}

func names(t *testing.T, dir string) {
	longest := strings.Repeat("n", 255)
	must(t, os.WriteFile(dir+"/"+longest, nil, 0o644))
	wantErr(t, "256 bytes", unix.Mknod(dir+"/"+longest+"n", unix.S_IFREG, 0), unix.ENAMETOOLONG)
	wantErr(t, "stat of 256 bytes", unix.Lstat(dir+"/"+longest+"n", &unix.Stat_t{}), unix.ENAMETOOLONG)
	odd := "\x01\xff \n*\\" // not UTF-8
	must(t, os.Mkdir(dir+"/"+odd, 0o755))
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 2 || entries[0].Name() != odd || entries[1].Name() != longest {
		t.Errorf("%q", entries)
	}
	target := strings.Repeat("t", 4095)
	must(t, unix.Symlink(target, dir+"/link"))
	if got, err := os.Readlink(dir + "/link"); err != nil || got != target {
		t.Errorf("link of %d bytes: %v", len(got), err)
	}
}

func pollHackName(t *testing.T, dir string) {
	const name = "/.go-fuse-epoll-hack"
	must(t, os.WriteFile(dir+name, []byte("mine"), 0o644))
	content(t, dir+name, []byte("mine"))
	must(t, os.Rename(dir+name, dir+"/x"))
	wantErr(t, "after rename", unix.Lstat(dir+name, &unix.Stat_t{}), unix.ENOENT)
	must(t, os.Rename(dir+"/x", dir+name))
	must(t, os.Remove(dir+name))
}

func hardLinks(t *testing.T, dir string) {
	must(t, os.Mkdir(dir+"/d", 0o755))
	must(t, os.Mkdir(dir+"/e", 0o755))
	must(t, os.WriteFile(dir+"/d/f", []byte("linked"), 0o644))
	must(t, os.Link(dir+"/d/f", dir+"/e/g"))
	a, b := stat(t, dir+"/d/f"), stat(t, dir+"/e/g")
	if a.Ino != b.Ino || a.Nlink != 2 || b.Nlink != 2 {
		t.Errorf("ino %d and %d, nlink %d and %d", a.Ino, b.Ino, a.Nlink, b.Nlink)
	}
	must(t, os.WriteFile(dir+"/d/f", []byte("changed"), 0o644))
	content(t, dir+"/e/g", []byte("changed"))
	must(t, os.Rename(dir+"/d/f", dir+"/e/g")) // both names are the same inode, so nothing happens
	stat(t, dir+"/d/f")
	must(t, os.Remove(dir+"/d/f"))
	if st := stat(t, dir+"/e/g"); st.Nlink != 1 {
		t.Errorf("nlink %d", st.Nlink)
	}
	wantErr(t, "link to a directory", unix.Link(dir+"/d", dir+"/x"), unix.EPERM)
}

func specialFiles(t *testing.T, dir string) {
	dev := unix.Mkdev(300, 70000)
	for name, mode := range map[string]uint32{"fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK, "char": unix.S_IFCHR, "block": unix.S_IFBLK} {
		must(t, unix.Mknod(dir+"/"+name, mode|0o640, int(dev)))
		st := stat(t, dir+"/"+name)
		if st.Mode&(unix.S_IFMT|0o777) != mode|0o640 {
			t.Errorf("%s: mode %o", name, st.Mode)
		}
		if isDev := mode == unix.S_IFCHR || mode == unix.S_IFBLK; isDev && st.Rdev != dev {
			t.Errorf("%s: device %d, want %d", name, st.Rdev, dev)
		}
		var stx unix.Statx_t
		must(t, unix.Statx(unix.AT_FDCWD, dir+"/"+name, 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &stx))
		if unix.Mkdev(stx.Rdev_major, stx.Rdev_minor) != st.Rdev {
			t.Errorf("%s: statx device %d:%d", name, stx.Rdev_major, stx.Rdev_minor)
		}
	}
}

func negativeEntries(t *testing.T, dir string) {
	var st unix.Stat_t
	for range 2 {
		wantErr(t, "missing", unix.Lstat(dir+"/f", &st), unix.ENOENT)
	}
	must(t, unix.Mknod(dir+"/f", unix.S_IFREG|0o644, 0))
	must(t, unix.Lstat(dir+"/f", &st))
	must(t, os.Rename(dir+"/f", dir+"/g"))
	wantErr(t, "renamed away", unix.Lstat(dir+"/f", &st), unix.ENOENT)
	must(t, os.Link(dir+"/g", dir+"/f"))
	must(t, unix.Lstat(dir+"/f", &st))
}

func dirCache(t *testing.T, dir string) {
	for i := range 100 {
		must(t, os.WriteFile(fmt.Sprintf("%s/f%d", dir, i), nil, 0o644))
		for range 2 {
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != i+1 {
				t.Fatalf("%d entries, want %d, %v", len(entries), i+1, err)
			}
		}
	}
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	buf := make([]byte, 4096)
	n, err := unix.Getdents(int(f.Fd()), buf)
	must(t, err)
	all := string(buf[:n])
	if !strings.Contains(all, "\x04.\x00") || !strings.Contains(all, "\x04..\x00") {
		t.Error("no dots")
	}
}
