package volume

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// fullRun works on a volume that is full most of the time: what fails for want of
// space has not happened, and everything else has.
type fullRun struct {
	t     *testing.T
	rng   *rand.Rand
	dev   *device.Mem
	v     *Volume
	files []*fullFile
	snaps []string
	made  int
	full  int // operations that found no space
	trace []string
}

// fullFile is a file as it should be; of a sparse one of 16 TiB only what was written.
type fullFile struct {
	name  string
	ino   vfs.Ino
	size  uint64
	pages map[uint64][]byte
	attrs map[string][]byte
}

// tolerate fails for anything but a want of space, and tells whether it was that.
func (r *fullRun) tolerate(what string, err error) bool {
	r.t.Helper()
	if err == nil {
		return false
	}
	if !errors.Is(err, vfs.ErrNoSpace) {
		r.fatal(what, err)
	}
	r.full++
	return true
}

func (r *fullRun) fatal(args ...any) {
	r.t.Helper()
	r.t.Fatal(append(args, "after", strings.Join(r.trace[max(0, len(r.trace)-30):], "; "))...)
}

func (r *fullRun) note(format string, args ...any) {
	r.trace = append(r.trace, fmt.Sprintf(format, args...))
}

func (f *fullFile) write(off uint64, b []byte) {
	for i := 0; i < len(b); {
		s, in := (off+uint64(i))/pageBytes, (off+uint64(i))%pageBytes
		p := f.pages[s]
		if p == nil {
			p = make([]byte, pageBytes)
			f.pages[s] = p
		}
		i += copy(p[in:], b[i:])
	}
	f.size = max(f.size, off+uint64(len(b)))
}

// clear makes [off, end) zero.
func (f *fullFile) clear(off, end uint64) {
	for s, p := range f.pages {
		from, to := max(off, s*pageBytes), min(end, (s+1)*pageBytes)
		if from >= to {
			continue
		}
		clear(p[from-s*pageBytes : to-s*pageBytes])
	}
}

func (r *fullRun) create() {
	r.made++
	name := fmt.Sprintf("%0*d", 1+r.rng.IntN(255), r.made)
	a, err := r.v.Mknod(crashReq, vfs.RootIno, name, 0o600, 0)
	if len(name) > 255 {
		r.fatal("name of", len(name))
	}
	if !r.tolerate("create", err) {
		r.files = append(r.files, &fullFile{name: name, ino: a.Ino, pages: map[uint64][]byte{}, attrs: map[string][]byte{}})
	}
}

// step makes one operation.
func (r *fullRun) step() {
	if len(r.files) < 3 {
		if r.create(); len(r.files) == 0 {
			return
		}
	}
	f := r.files[r.rng.IntN(len(r.files))]
	off := r.rng.Uint64N(f.size%(64<<20) + 1)
	if r.rng.IntN(2) == 0 {
		off -= off % pageBytes
	}
	switch k := r.rng.IntN(100); {
	case k < 8:
		r.create()
	case k < 48:
		r.write(f, off)
	case k < 54:
		r.truncate(f, off)
	case k < 60:
		n := 1 + r.rng.Uint64N(500_000)
		r.note("punch %d %d+%d", f.ino, off, n)
		if err := r.v.Fallocate(crashReq, f.ino, vfs.FallocPunchHole|vfs.FallocKeepSize, off, n); !r.tolerate("punch", err) {
			f.clear(off, min(off+n, f.size))
		}
	case k < 70:
		r.copy(f, r.files[r.rng.IntN(len(r.files))], off)
	case k < 78:
		r.unlink(r.rng.IntN(len(r.files)))
	case k < 84:
		r.setXattr(f)
	case k < 88 && len(r.snaps) < 4:
		r.made++
		name := fmt.Sprint("s", r.made)
		r.note("snapshot %s", name)
		if _, err := r.v.CreateSnapshot(name); !r.tolerate("snapshot", err) {
			r.snaps = append(r.snaps, name)
		}
	case k < 92 && len(r.snaps) > 0:
		r.deleteSnapshot(r.rng.IntN(len(r.snaps)))
	case k < 94:
		r.note("rotate")
		if r.v.RotationStatus().Phase == RotationNone {
			_, err := r.v.RotateDataKey(RotateOptions{Keys: []crypto.Credential{testKey(r.t).Credential}, BytesPerSecond: -1})
			r.tolerate("rotate", err)
		}
	case k < 97:
		if err := r.v.Sync(f.ino); err != nil {
			r.fatal("sync:", err)
		}
	default:
		if err := r.v.Sync(vfs.RootIno); err != nil {
			r.fatal("commit:", err)
		}
	}
}

// write writes to a file, now and then close to the largest size that one can have.
func (r *fullRun) write(f *fullFile, off uint64) {
	if r.rng.IntN(30) == 0 {
		off += 16<<40 - 1<<20
	}
	n := 1 + r.rng.IntN([]int{3000, 40_000, maxWrite}[r.rng.IntN(3)])
	r.note("write %d %d+%d", f.ino, off, n)
	b := noise(r.rng, n)
	if _, err := r.v.Write(crashReq, f.ino, off, b, false); !r.tolerate("write", err) {
		f.write(off, b)
	}
}

func (r *fullRun) truncate(f *fullFile, size uint64) {
	r.note("truncate %d %d", f.ino, size)
	if _, err := r.v.SetAttr(crashReq, f.ino, &vfs.SetAttr{Size: &size}); !r.tolerate("truncate", err) {
		f.clear(size, 1<<62)
		f.size = size
	}
}

// setXattr gives a file an attribute, as long as all of their names can be listed.
func (r *fullRun) setXattr(f *fullFile) {
	name := "user." + strings.Repeat("x", 1+r.rng.IntN(vfs.MaxXattrName-5))
	val := noise(r.rng, r.rng.IntN(vfs.MaxXattrBytes+1))
	total := 0
	for n := range f.attrs {
		total += len(n) + 1
	}
	if total+len(name) >= 60_000 {
		return
	}
	r.note("xattr %d of %d", f.ino, len(val))
	if err := r.v.SetXattr(crashReq, f.ino, name, val, 0); !r.tolerate("xattr", err) {
		f.attrs[name] = val
	}
}

// deleteSnapshot must always be possible.
func (r *fullRun) deleteSnapshot(i int) {
	r.note("delete %s", r.snaps[i])
	if err := r.v.DeleteSnapshot(r.snaps[i]); err != nil {
		r.fatal("delete of a snapshot:", err)
	}
	r.snaps = slices.Delete(r.snaps, i, i+1)
}

// copy shares what it can; it may end anywhere for want of space.
func (r *fullRun) copy(f, g *fullFile, off uint64) {
	n := 1 + r.rng.Uint64N(2<<20)
	if f == g || off >= f.size {
		return
	}
	r.note("copy %d to %d, %d+%d", f.ino, g.ino, off, n)
	done, err := r.v.CopyRange(crashReq, f.ino, off, g.ino, off, n)
	if r.tolerate("copy", err) || done == 0 {
		return
	}
	b := make([]byte, done)
	f.read(off, b)
	g.write(off, b)
}

func (f *fullFile) read(off uint64, b []byte) {
	clear(b)
	for i := 0; i < len(b); {
		s, in := (off+uint64(i))/pageBytes, (off+uint64(i))%pageBytes
		n := min(len(b)-i, int(pageBytes-in))
		if p := f.pages[s]; p != nil {
			copy(b[i:i+n], p[in:])
		}
		i += n
	}
}

// fill takes all space but a little.
func (r *fullRun) fill() {
	r.made++
	a, err := r.v.Mknod(crashReq, vfs.RootIno, fmt.Sprint("fill", r.made), 0o600, 0)
	if r.tolerate("create", err) {
		return
	}
	f := &fullFile{name: fmt.Sprint("fill", r.made), ino: a.Ino, pages: map[uint64][]byte{}, attrs: map[string][]byte{}}
	r.files = append(r.files, f)
	b := noise(r.rng, maxWrite)
	for n := maxWrite; n >= 4096; {
		if _, err := r.v.Write(crashReq, f.ino, f.size, b[:n], false); r.tolerate("fill", err) {
			n /= 4
			continue
		}
		f.write(f.size, b[:n])
	}
	size := f.size - min(f.size, r.rng.Uint64N(4<<20))
	if _, err := r.v.SetAttr(crashReq, f.ino, &vfs.SetAttr{Size: &size}); !r.tolerate("truncate", err) {
		f.clear(size, 1<<62)
		f.size = size
	}
	r.note("filled with %d", f.size)
}

// unlink must always be possible.
func (r *fullRun) unlink(i int) {
	f := r.files[i]
	r.note("unlink %d", f.ino)
	if err := r.v.Unlink(crashReq, vfs.RootIno, f.name); err != nil {
		// With snapshots a delete may take more than there is; without it gives.
		if !errors.Is(err, vfs.ErrNoSpace) || len(r.snaps) == 0 {
			r.fatal("unlink:", err)
		}
		r.full++
		return
	}
	r.v.Forget(f.ino)
	r.files = slices.Delete(r.files, i, i+1)
}

// verify compares everything.
func (r *fullRun) verify() {
	r.t.Helper()
	for _, f := range r.files {
		a, err := r.v.Lookup(vfs.RootIno, f.name)
		if err != nil || a.Size != f.size {
			r.fatal("lookup:", err, a.Size, f.size)
		}
		f.ino = a.Ino
		got, want := make([]byte, pageBytes), make([]byte, pageBytes)
		for s := range f.pages {
			n := int(min(pageBytes, max(f.size, s*pageBytes)-s*pageBytes))
			if n == 0 {
				continue
			}
			if k, err := r.v.Read(f.ino, s*pageBytes, got[:n]); err != nil || k != n {
				r.fatal("read", f.ino, s, k, n, err)
			}
			f.read(s*pageBytes, want[:n])
			if !bytes.Equal(got[:n], want[:n]) {
				r.fatal("inode", f.ino, "differs at block", s)
			}
		}
		for name, want := range f.attrs {
			if got, err := r.v.GetXattr(f.ino, name); err != nil || !bytes.Equal(got, want) {
				r.fatal("attribute of", len(name), len(got), len(want), err)
			}
		}
	}
}

func (r *fullRun) open() {
	r.v = mustOpen(r.t, r.dev, Options{CommitInterval: -1, Memory: minMemory})
	if r.rng.IntN(2) == 0 {
		tighten(r.v)
	}
	r.v.rot.rate.Store(-1)
}

// TestOddSizes fills small volumes of any size with files, copies, attributes and
// snapshots, again and again, through rotations, remounts and power cuts after a
// sync: what there is no room for leaves no trace, and in the end all space is back.
func TestOddSizes(t *testing.T) {
	t.Parallel()
	watch := time.AfterFunc(5*time.Minute, func() { panic("odd sizes: hangs") })
	defer watch.Stop()
	seed := *crashSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	rounds, steps := *crashCuts/1000, 800
	if testing.Short() {
		rounds, steps = 1, 100
	}
	for i := range uint64(rounds) {
		t.Run(fmt.Sprint("-crash.seed=", seed+i), func(t *testing.T) { oddSize(t, seed+i, steps) })
	}
}

func oddSize(t *testing.T, seed uint64, steps int) {
	rng := rand.New(rand.NewPCG(seed, 14))
	r := &fullRun{t: t, rng: rng, dev: device.NewMem(layout.MinDevice + rng.Int64N(30<<20))}
	mustFormat(t, r.dev)
	r.open()
	before := r.v.StatFS()
	for i := range steps {
		if i%100 == 0 {
			r.fill()
		}
		r.step()
		if i%100 != 99 {
			continue
		}
		r.verify()
		ok(t, r.v.Sync(vfs.RootIno))
		if rng.IntN(2) == 0 {
			mustClose(t, r.v)
		} else {
			r.v.background.reaper.wait()
			ok(t, r.v.Sync(vfs.RootIno))
			img := r.dev.Clone()
			r.v.fail(device.ErrCrashed)
			_ = r.v.Close()
			r.dev = img
		}
		checkClean(t, r.dev.Clone())
		r.open()
		r.verify()
	}
	for _, s := range r.snaps {
		ok(t, r.v.DeleteSnapshot(s))
	}
	r.snaps = nil
	ok(t, r.v.WaitFreed())
	for len(r.files) > 0 {
		r.unlink(0)
	}
	r.v.background.reaper.wait()
	if s := endOf(t, r.v); s.Phase != RotationNone {
		t.Fatalf("%+v", s)
	}
	for range 3 {
		ok(t, r.v.com.since(r.v.com.commits.Load()))
	}
	if after := r.v.StatFS(); after.BlocksFree+200 < before.BlocksFree {
		t.Errorf("%d blocks are free, %d at first", after.BlocksFree, before.BlocksFree)
	}
	size, err := r.dev.Size()
	ok(t, err)
	t.Logf("%d bytes, %d operations of %d found no space", size, r.full, steps)
	mustClose(t, r.v)
	checkClean(t, r.dev)
}
