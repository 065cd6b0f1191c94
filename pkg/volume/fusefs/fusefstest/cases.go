package fusefstest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cases are Sealvol's own: each gets an empty mount.
var cases = []struct {
	name string
	run  func(t *testing.T, dir string)
}{
	{"locks", locks},
	{"mmap", mmapWrite},
	{"mappedSeek", mappedSeek},
	{"mappedCopies", mappedCopies},
	{"mappedReads", mappedReads},
	{"mappedBeyondEnd", mappedBeyondEnd},
	{"direct", direct},
	{"append", appendConcurrently},
	{"truncateOnOpen", truncateOnOpen},
	{"renameFlags", renameFlags},
	{"tmpfile", tmpfileLink},
	{"bigDirectory", bigDirectory},
	{"names", names},
	{"pollHackName", pollHackName},
	{"xattrs", xattrs},
	{"xattrNames", xattrNames},
	{"fileHandles", fileHandles},
	{"acl", acls},
	{"setgidDirectory", setgidDirectory},
	{"suidWrite", suidByWrite},
	{"suidOther", suidByOthers},
	{"chownNothing", chownNothing},
	{"sparse", sparse},
	{"fallocate", fallocateModes},
	{"reserve", reserve},
	{"copyRange", copyRange},
	{"unlinkedOpen", unlinkedOpen},
	{"hardLinks", hardLinks},
	{"parallelFsync", parallelFsync},
	{"times", times},
	{"specialFiles", specialFiles},
	{"negativeEntries", negativeEntries},
	{"dirCache", dirCache},
	{"statfs", statfs},
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, what string, got error, want unix.Errno) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func open(t *testing.T, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		t.Fatalf("open %s: %v", filepath.Base(path), err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("lstat %s: %v", filepath.Base(path), err)
	}
	return st
}

func content(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%s: content differs: %d bytes, want %d", filepath.Base(path), len(got), len(want))
	}
}

func pattern(n, seed int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8 + seed)
	}
	return b
}

// asUser runs fn on a thread whose file system ids are those of nobody, without capabilities.
func asUser(t *testing.T, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		// The raw calls change this thread alone.
		for _, c := range []struct {
			name string
			trap uintptr
			id   uintptr
		}{{"setgroups", unix.SYS_SETGROUPS, 0}, {"setresgid", unix.SYS_SETRESGID, nobody}, {"setresuid", unix.SYS_SETRESUID, nobody}} {
			if _, _, e := unix.RawSyscall(c.trap, c.id, c.id, c.id); e != 0 {
				t.Errorf("%s: %v", c.name, e)
				return
			}
		}
		fn()
	}()
	<-done
}

func locks(t *testing.T, dir string) {
	a, b := open(t, dir+"/f", unix.O_RDWR|unix.O_CREAT), open(t, dir+"/f", unix.O_RDWR)
	must(t, unix.Flock(a, unix.LOCK_EX|unix.LOCK_NB))
	wantErr(t, "second flock", unix.Flock(b, unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
	must(t, unix.Flock(a, unix.LOCK_UN))
	must(t, unix.Flock(b, unix.LOCK_SH|unix.LOCK_NB))
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	must(t, unix.FcntlFlock(uintptr(a), unix.F_OFD_SETLK, &lock))
	lock = unix.Flock_t{Type: unix.F_RDLCK}
	wantErr(t, "second OFD lock", unix.FcntlFlock(uintptr(b), unix.F_OFD_SETLK, &lock), unix.EAGAIN)
}

// mmapChildEnv holds the file that a child process maps and changes.
const mmapChildEnv = "SEALVOL_FUSEFSTEST_MMAP"

// A page fault must not wait for a server in its own process: the Go runtime does
// not know that the thread waits. So a child does it, which is this very program.
func init() {
	path := os.Getenv(mmapChildEnv)
	if path == "" {
		return
	}
	if err := mmapChild(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

const mmapBytes = 1<<20 + 123

func mmapChild(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	m, err := unix.Mmap(fd, 0, mmapBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(m, pattern(mmapBytes, 1))
	if err := unix.Msync(m, unix.MS_SYNC); err != nil {
		return err
	}
	if _, err = unix.Pwrite(fd, []byte("changed"), 5000); err != nil {
		return err
	}
	if string(m[5000:5007]) != "changed" {
		return errors.New("the mapping does not see a write")
	}
	// This reaches the server at munmap or close, without msync.
	copy(m[9000:], "unsynced")
	if err := unix.Munmap(m); err != nil {
		return err
	}
	return unix.Close(fd)
}

func mmapWrite(t *testing.T, dir string) {
	must(t, os.WriteFile(dir+"/f", nil, 0o644))
	must(t, os.Truncate(dir+"/f", mmapBytes))
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), mmapChildEnv+"="+dir+"/f")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := pattern(mmapBytes, 1)
	copy(want[5000:], "changed")
	copy(want[9000:], "unsynced")
	content(t, dir+"/f", want)
	// O_DIRECT reads what the server has, not the page cache.
	got := aligned(1 << 20)
	n, err := unix.Pread(open(t, dir+"/f", unix.O_RDONLY|unix.O_DIRECT), got, 0)
	must(t, err)
	if n != len(got) || !bytes.Equal(got, want[:n]) {
		t.Errorf("the server has other data than was mapped (%d bytes)", n)
	}
}

// aligned is a page-aligned buffer.
func aligned(n int) []byte {
	b := make([]byte, n+4096)
	return b[int(-uintptr(unsafe.Pointer(&b[0]))%4096):][:n]
}

func direct(t *testing.T, dir string) {
	fd := open(t, dir+"/f", unix.O_RDWR|unix.O_CREAT|unix.O_DIRECT)
	const size = 3 << 20
	buf := aligned(size)
	copy(buf, pattern(size, 2))
	for off := 0; off < size; off += 1 << 20 {
		n, err := unix.Pwrite(fd, buf[off:off+1<<20], int64(off))
		must(t, err)
		if n != 1<<20 {
			t.Fatalf("short write: %d", n)
		}
	}
	got := aligned(size)
	n, err := unix.Pread(fd, got, 0)
	must(t, err)
	if n != size || !bytes.Equal(got, buf) {
		t.Errorf("read %d bytes, other than written", n)
	}
	content(t, dir+"/f", buf)
}

func appendConcurrently(t *testing.T, dir string) {
	const writers, lines = 8, 200
	var wg sync.WaitGroup
	for w := range writers {
		fd := open(t, dir+"/log", unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND)
		wg.Go(func() {
			for i := range lines {
				line := fmt.Sprintf("writer %d line %04d %s\n", w, i, strings.Repeat("x", i%50))
				if n, err := unix.Write(fd, []byte(line)); err != nil || n != len(line) {
					t.Errorf("append: %d, %v", n, err)
				}
			}
		})
	}
	wg.Wait()
	b, err := os.ReadFile(dir + "/log")
	must(t, err)
	seen := make(map[string]bool)
	for line := range strings.Lines(string(b)) {
		var w, i int
		if _, err := fmt.Sscanf(line, "writer %d line %d", &w, &i); err != nil {
			t.Fatalf("torn line %q", line)
		}
		seen[fmt.Sprint(w, " ", i)] = true
	}
	if len(seen) != writers*lines {
		t.Errorf("%d of %d lines", len(seen), writers*lines)
	}
}

func truncateOnOpen(t *testing.T, dir string) {
	must(t, os.WriteFile(dir+"/f", pattern(100000, 3), 0o644))
	must(t, os.WriteFile(dir+"/f", []byte("short"), 0o644)) // O_TRUNC
	content(t, dir+"/f", []byte("short"))
	if st := stat(t, dir+"/f"); st.Size != 5 {
		t.Errorf("size %d", st.Size)
	}
	fd := open(t, dir+"/f", unix.O_RDONLY|unix.O_TRUNC)
	_ = fd
	content(t, dir+"/f", nil)
}

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
		t.Error("a is no directory after the exchange")
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
			// Something comes, goes, and is renamed between any two reads.
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

func xattrs(t *testing.T, dir string) {
	f := dir + "/f"
	must(t, os.WriteFile(f, nil, 0o644))
	value := pattern(65536, 4)
	must(t, unix.Setxattr(f, "user.big", value, 0))
	n, err := unix.Getxattr(f, "user.big", nil)
	if err != nil || n != len(value) {
		t.Fatalf("size: %d, %v", n, err)
	}
	_, err = unix.Getxattr(f, "user.big", make([]byte, 100))
	wantErr(t, "small buffer", err, unix.ERANGE)
	got := make([]byte, 65536)
	if n, err = unix.Getxattr(f, "user.big", got); err != nil || !bytes.Equal(got[:n], value) {
		t.Errorf("value: %d, %v", n, err)
	}
	must(t, unix.Setxattr(f, "user.empty", nil, unix.XATTR_CREATE))
	wantErr(t, "create again", unix.Setxattr(f, "user.empty", nil, unix.XATTR_CREATE), unix.EEXIST)
	wantErr(t, "replace none", unix.Setxattr(f, "user.none", nil, unix.XATTR_REPLACE), unix.ENODATA)
	if n, err := unix.Getxattr(f, "user.empty", got); n != 0 || err != nil {
		t.Errorf("empty: %d, %v", n, err)
	}
	_, err = unix.Listxattr(f, make([]byte, 5))
	wantErr(t, "small list buffer", err, unix.ERANGE)
	n, err = unix.Listxattr(f, got)
	must(t, err)
	if list := string(got[:n]); list != "user.big\x00user.empty\x00" && list != "user.empty\x00user.big\x00" {
		t.Errorf("list: %q", list)
	}
	must(t, unix.Removexattr(f, "user.big"))
	_, err = unix.Getxattr(f, "user.big", got)
	wantErr(t, "removed", err, unix.ENODATA)
	wantErr(t, "remove none", unix.Removexattr(f, "user.big"), unix.ENODATA)
}

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

const aclNobody = 0xffffffff

func acl(entries ...aclEntry) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// named is u::7, u:65534:named, g::5, m::mask, o::0.
func named(named, mask uint16) []byte {
	return acl(aclEntry{1, 7, aclNobody}, aclEntry{2, named, 65534}, aclEntry{4, 5, aclNobody},
		aclEntry{0x10, mask, aclNobody}, aclEntry{0x20, 0, aclNobody})
}

func acls(t *testing.T, dir string) {
	const access, deflt = "system.posix_acl_access", "system.posix_acl_default"
	get := func(path, name string) []byte {
		b := make([]byte, 1000)
		n, err := unix.Getxattr(path, name, b)
		if err == unix.ENODATA {
			return nil
		}
		must(t, err)
		return b[:n]
	}
	f := dir + "/f"
	must(t, os.WriteFile(f, []byte("secret"), 0o600))
	asUser(t, func() {
		_, err := unix.Open(f, unix.O_RDONLY, 0)
		wantErr(t, "before the ACL", err, unix.EACCES)
	})
	must(t, unix.Setxattr(f, access, named(4, 7), 0))
	if st := stat(t, f); st.Mode&0o777 != 0o770 {
		t.Errorf("mode %o after the ACL", st.Mode)
	}
	asUser(t, func() {
		fd, err := unix.Open(f, unix.O_RDONLY, 0)
		if err != nil {
			t.Errorf("with the ACL: %v", err)
			return
		}
		unix.Close(fd)
	})
	must(t, os.Chmod(f, 0o700)) // the mask goes to 0
	if got := get(f, access); !bytes.Equal(got, named(4, 0)) {
		t.Errorf("after chmod: %x", got)
	}
	asUser(t, func() {
		_, err := unix.Open(f, unix.O_RDONLY, 0)
		wantErr(t, "with the mask", err, unix.EACCES)
	})
	// What is no more than a mode is not kept.
	must(t, unix.Setxattr(f, access, acl(aclEntry{1, 6, aclNobody}, aclEntry{4, 4, aclNobody}, aclEntry{0x20, 0, aclNobody}), 0))
	if got := get(f, access); got != nil {
		t.Errorf("kept: %x", got)
	}
	if st := stat(t, f); st.Mode&0o777 != 0o640 {
		t.Errorf("mode %o", st.Mode)
	}
	wantErr(t, "invalid ACL", unix.Setxattr(f, access, acl(aclEntry{1, 6, aclNobody}), 0), unix.EINVAL)

	d := dir + "/d"
	must(t, os.Mkdir(d, 0o755))
	must(t, unix.Setxattr(d, deflt, named(7, 7), 0))
	old := unix.Umask(0o077) // does not apply beneath a default ACL
	err1 := os.WriteFile(d+"/f", nil, 0o664)
	err2 := os.Mkdir(d+"/sub", 0o777)
	unix.Umask(old)
	must(t, errors.Join(err1, err2))
	if st := stat(t, d+"/f"); st.Mode&0o777 != 0o660 {
		t.Errorf("inherited mode %o", st.Mode)
	}
	want := acl(aclEntry{1, 6, aclNobody}, aclEntry{2, 7, 65534}, aclEntry{4, 5, aclNobody}, aclEntry{0x10, 6, aclNobody}, aclEntry{0x20, 0, aclNobody})
	if got := get(d+"/f", access); !bytes.Equal(got, want) {
		t.Errorf("inherited %x", got)
	}
	if got := get(d+"/sub", deflt); !bytes.Equal(got, named(7, 7)) {
		t.Errorf("inherited default %x", got)
	}
	must(t, unix.Removexattr(d, deflt))
	must(t, unix.Mknod(d+"/plain", unix.S_IFREG|0o640, 0))
	if get(d+"/plain", access) != nil {
		t.Error("inherited from nothing")
	}
}

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
	// statx without synchronising shows what the kernel itself believes.
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
	must(t, unix.Access(f, unix.X_OK)) // checking permissions asks for attributes if they were invalidated
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

func sparse(t *testing.T, dir string) {
	fd := open(t, dir+"/f", unix.O_RDWR|unix.O_CREAT)
	const at = 10 << 20
	data := pattern(64<<10, 6)
	_, err := unix.Pwrite(fd, data, at)
	must(t, err)
	must(t, unix.Ftruncate(fd, 30<<20))
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	if st.Size != 30<<20 || st.Blocks*512 >= 10<<20 {
		t.Errorf("size %d, blocks %d", st.Size, st.Blocks)
	}
	off, err := unix.Seek(fd, 0, unix.SEEK_DATA)
	if err != nil || off > at || off < at-64<<10 {
		t.Errorf("data at %d, %v", off, err)
	}
	if off, err = unix.Seek(fd, at, unix.SEEK_HOLE); err != nil || off < at+int64(len(data)) || off > at+128<<10 {
		t.Errorf("hole at %d, %v", off, err)
	}
	_, err = unix.Seek(fd, 20<<20, unix.SEEK_DATA)
	wantErr(t, "data beyond", err, unix.ENXIO)
	_, err = unix.Seek(fd, 30<<20, unix.SEEK_HOLE)
	wantErr(t, "hole beyond the end", err, unix.ENXIO)
	want := make([]byte, 30<<20)
	copy(want[at:], data)
	content(t, dir+"/f", want)
	must(t, unix.Ftruncate(fd, at+100))
	must(t, unix.Ftruncate(fd, at+200)) // what was cut off must not come back
	clear(want[at+100:])
	content(t, dir+"/f", want[:at+200])
}

func fallocateModes(t *testing.T, dir string) {
	f := dir + "/f"
	want := pattern(100000, 7)
	must(t, os.WriteFile(f, want, 0o644))
	fd := open(t, f, unix.O_RDWR)
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 5000, 50000))
	clear(want[5000:55000])
	content(t, f, want)
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 60000, 1000))
	clear(want[60000:61000])
	content(t, f, want)
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 90000, 20000))
	want = append(want[:90000], make([]byte, 20000)...)
	content(t, f, want)
	must(t, unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 110000, 100000))
	content(t, f, want)
	must(t, unix.Fallocate(fd, 0, 100000, 50000))
	content(t, f, append(want, make([]byte, 40000)...))
	wantErr(t, "collapse", unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096), unix.EOPNOTSUPP)
	wantErr(t, "nothing", unix.Fallocate(fd, 0, 0, 0), unix.EINVAL)
}

func copyRange(t *testing.T, dir string) {
	want := pattern(300000, 8)
	must(t, os.WriteFile(dir+"/a", want, 0o644))
	a, b := open(t, dir+"/a", unix.O_RDWR), open(t, dir+"/b", unix.O_RDWR|unix.O_CREAT)
	from, to := int64(1000), int64(50)
	n, err := unix.CopyFileRange(a, &from, b, &to, 200000, 0)
	if err != nil || n != 200000 {
		t.Fatalf("copied %d, %v", n, err)
	}
	content(t, dir+"/b", append(make([]byte, 50), want[1000:201000]...))
	from, to = 0, 100
	_, err = unix.CopyFileRange(a, &from, a, &to, 1000, 0)
	wantErr(t, "overlap", err, unix.EINVAL)
	from, to = 0, 200000
	if n, err := unix.CopyFileRange(a, &from, a, &to, 100000, 0); err != nil || n != 100000 {
		t.Fatalf("within: %d, %v", n, err)
	}
	copy(want[200000:], want[:100000])
	content(t, dir+"/a", want)
	from = 300000
	if n, err := unix.CopyFileRange(a, &from, b, nil, 1000, 0); n != 0 || err != nil {
		t.Errorf("at the end: %d, %v", n, err)
	}
}

func unlinkedOpen(t *testing.T, dir string) {
	fd := open(t, dir+"/f", unix.O_RDWR|unix.O_CREAT)
	must(t, os.Remove(dir+"/f"))
	data := pattern(500000, 9)
	_, err := unix.Pwrite(fd, data, 0)
	must(t, err)
	must(t, unix.Fsync(fd))
	got := make([]byte, len(data))
	n, err := unix.Pread(fd, got, 0)
	if err != nil || !bytes.Equal(got[:n], data) {
		t.Errorf("read %d, %v", n, err)
	}
	must(t, unix.Fchmod(fd, 0o600))
	must(t, unix.Ftruncate(fd, 10))
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	if st.Nlink != 0 || st.Size != 10 || st.Mode&0o777 != 0o600 {
		t.Errorf("nlink %d, size %d, mode %o", st.Nlink, st.Size, st.Mode)
	}
	// The same for a directory.
	must(t, os.Mkdir(dir+"/d", 0o755))
	d := open(t, dir+"/d", unix.O_RDONLY|unix.O_DIRECTORY)
	must(t, os.Remove(dir+"/d"))
	must(t, unix.Fstat(d, &st))
	wantErr(t, "create in a removed directory", unix.Mknodat(d, "x", unix.S_IFREG|0o644, 0), unix.ENOENT)
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
	must(t, os.Rename(dir+"/d/f", dir+"/e/g")) // one inode: nothing happens
	stat(t, dir+"/d/f")
	must(t, os.Remove(dir+"/d/f"))
	if st := stat(t, dir+"/e/g"); st.Nlink != 1 {
		t.Errorf("nlink %d", st.Nlink)
	}
	wantErr(t, "link to a directory", unix.Link(dir+"/d", dir+"/x"), unix.EPERM)
}

func parallelFsync(t *testing.T, dir string) {
	var wg sync.WaitGroup
	for i := range 48 { // more than handlers
		fd := open(t, fmt.Sprintf("%s/f%d", dir, i), unix.O_RDWR|unix.O_CREAT)
		wg.Go(func() {
			for j := range 20 {
				if _, err := unix.Pwrite(fd, pattern(5000, j), int64(j*5000)); err != nil {
					t.Error(err)
				}
				if err := unix.Fsync(fd); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	d := open(t, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	must(t, unix.Fsync(d))
}

func times(t *testing.T, dir string) {
	f := dir + "/f"
	must(t, os.WriteFile(f, []byte("x"), 0o644))
	for _, sec := range []int64{-2_000_000_000, 0, 1_700_000_000, 5_000_000_000} {
		ts := []unix.Timespec{{Sec: sec, Nsec: 123456789}, {Sec: sec + 1, Nsec: 987654321}}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, f, ts, 0))
		if st := stat(t, f); st.Atim != ts[0] || st.Mtim != ts[1] {
			t.Errorf("got %v %v, want %v", st.Atim, st.Mtim, ts)
		}
	}
	before := stat(t, f)
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, f, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}, 0))
	after := stat(t, f)
	if after.Atim != before.Atim || after.Mtim.Sec < 1_700_000_000 {
		t.Errorf("omit and now: %v %v", after.Atim, after.Mtim)
	}
	var stx unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, f, 0, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &stx))
	if stx.Mask&unix.STATX_BTIME == 0 || stx.Btime.Sec < 1_700_000_000 {
		t.Errorf("no time of creation: %+v", stx.Btime)
	}
	dirBefore := stat(t, dir)
	must(t, os.Rename(f, dir+"/g"))
	if st := stat(t, dir); st.Mtim == dirBefore.Mtim {
		t.Error("rename does not change the directory's mtime")
	}
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

func statfs(t *testing.T, dir string) {
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	if st.Blocks == 0 || st.Bavail > st.Bfree || st.Bfree > st.Blocks || st.Namelen != 255 || st.Bsize == 0 {
		t.Errorf("%+v", st)
	}
}
