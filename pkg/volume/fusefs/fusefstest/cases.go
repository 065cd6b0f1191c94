package fusefstest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// cases are Sealvol's own cases. Each gets an empty mount.
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

func statfs(t *testing.T, dir string) {
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	if st.Blocks == 0 || st.Bavail > st.Bfree || st.Bfree > st.Blocks || st.Namelen != 255 || st.Bsize == 0 {
		t.Errorf("%+v", st)
	}
}
