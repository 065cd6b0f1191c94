package volume

import (
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sealvol/sealvol/pkg/volume/device"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// countingDevice is a sparse device in memory that counts. (device.Mem keeps
// each unflushed write besides: too much for millions.)
type countingDevice struct {
	size int64

	mu     sync.Mutex
	chunks map[int64]*[benchChunkBytes]byte
	n      ioCounts
}

type ioCounts struct {
	reads, writes, syncs int
	nodeReads            int // of the size of a tree page
	readBytes, written   int64
}

const benchChunkBytes = 64 << 10

func newCountingDevice(sizeBytes int64) *countingDevice {
	return &countingDevice{size: sizeBytes, chunks: map[int64]*[benchChunkBytes]byte{}}
}

// each calls fn for the pieces of [off, off+n).
func (d *countingDevice) each(off int64, n int, fn func(chunk int64, in, at, n int)) {
	for at := 0; at < n; {
		o := off + int64(at)
		in := int(o % benchChunkBytes)
		c := min(benchChunkBytes-in, n-at)
		fn(o/benchChunkBytes, in, at, c)
		at += c
	}
}

func (d *countingDevice) ReadAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off+int64(len(b)) > d.size {
		return 0, io.EOF
	}
	d.n.reads++
	d.n.readBytes += int64(len(b))
	if len(b) == layout.NodeBytes {
		d.n.nodeReads++
	}
	d.each(off, len(b), func(chunk int64, in, at, n int) {
		if c := d.chunks[chunk]; c != nil {
			copy(b[at:at+n], c[in:])
		} else {
			clear(b[at : at+n])
		}
	})
	return len(b), nil
}

func (d *countingDevice) WriteAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off+int64(len(b)) > d.size {
		return 0, io.ErrShortWrite
	}
	d.n.writes++
	d.n.written += int64(len(b))
	d.each(off, len(b), func(chunk int64, in, at, n int) {
		c := d.chunks[chunk]
		if c == nil {
			c = new([benchChunkBytes]byte)
			d.chunks[chunk] = c
		}
		copy(c[in:], b[at:at+n])
	})
	return len(b), nil
}

func (d *countingDevice) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.n.syncs++
	return nil
}

func (d *countingDevice) Discard(int64, int64) error { return nil }
func (d *countingDevice) Size() (int64, error)       { return d.size, nil }
func (d *countingDevice) Close() error               { return nil }

// since returns the counts from a moment on.
func (d *countingDevice) since(o ioCounts) ioCounts {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.n
	n.reads -= o.reads
	n.writes -= o.writes
	n.syncs -= o.syncs
	n.nodeReads -= o.nodeReads
	n.readBytes -= o.readBytes
	n.written -= o.written
	return n
}

// The largest device and file that the design names.
const (
	hugeDevice = int64(16) << 40
	hugeFile   = int64(100) << 30
)

func BenchmarkFormat16TiB(b *testing.B) {
	var n ioCounts
	for b.Loop() {
		dev := newCountingDevice(hugeDevice)
		mustFormat(b, dev)
		n = dev.since(ioCounts{})
	}
	b.ReportMetric(float64(n.written)/1024, "KiB-written/op")
	b.ReportMetric(float64(n.syncs), "syncs/op")
}

func BenchmarkOpen16TiB(b *testing.B) {
	dev := newCountingDevice(hugeDevice)
	mustFormat(b, dev)
	var heap int64
	var n ioCounts
	for b.Loop() {
		b.StopTimer()
		before := heapBytes()
		start := dev.since(ioCounts{})
		b.StartTimer()
		v := mustOpen(b, dev, Options{})
		b.StopTimer()
		n = dev.since(start)
		heap = heapBytes() - before
		mustClose(b, v)
		b.StartTimer()
	}
	b.ReportMetric(float64(heap)/1024, "heap-KiB")
	b.ReportMetric(float64(n.reads), "reads/op")
	b.ReportMetric(float64(n.readBytes)/1024, "KiB-read/op")
}

func heapBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func mustClose(b testing.TB, v *Volume) {
	b.Helper()
	if err := v.Close(); err != nil {
		b.Fatal(err)
	}
}

// scale is a volume that grows; what operations cost is measured at each size.
type scale struct {
	b    *testing.B
	dev  *countingDevice
	v    *Volume
	rng  *rand.Rand
	req  vfs.Req
	size int // names or extents
}

func newScale(b *testing.B) *scale {
	dev := newCountingDevice(hugeDevice)
	mustFormat(b, dev)
	return &scale{b: b, dev: dev, v: mustOpen(b, dev, Options{}), rng: rand.New(rand.NewPCG(1, 1))}
}

func (s *scale) reopen(memory int) {
	mustClose(s.b, s.v)
	s.v = mustOpen(s.b, s.dev, Options{Memory: memory, CommitInterval: -1})
}

func (s *scale) sync() {
	if err := s.v.Sync(vfs.RootIno); err != nil {
		s.b.Fatal(err)
	}
}

// report makes a line of what fn does n times; it runs once, however often
// the benchmark is called.
func (s *scale) report(name string, n int, fn func()) {
	before := s.dev.since(ioCounts{})
	start := time.Now()
	fn()
	took := time.Since(start)
	io := s.dev.since(before)
	per := func(x float64) float64 { return x / float64(n) }
	s.b.Run(fmt.Sprintf("%s/n=%d", name, s.size), func(b *testing.B) {
		for b.Loop() { // nothing: it is done
		}
		b.ReportMetric(per(float64(took.Nanoseconds())), "ns/op")
		b.ReportMetric(per(float64(io.nodeReads)), "nodes-read/op")
		b.ReportMetric(per(float64(io.written)/1024), "KiB-written/op")
	})
}

// sizes are the steps of growth.
func scaleSizes() []int {
	if testing.Short() {
		return []int{1e3, 1e4}
	}
	return []int{1e3, 1e4, 1e5, 1e6}
}

const (
	coldOps  = 2000 // with the smallest cache
	aloneOps = 20   // each with a commit of its own
)

// each step: grow, then measure cold reads and single changes.
func (s *scale) step(n int, grow func(i int), read, change func(i int)) {
	from := s.size
	s.size = n
	s.report("grow", n-from, func() {
		for i := from; i < n; i++ {
			grow(i)
		}
		s.sync()
	})
	s.reopen(minMemory)
	s.report("cold", coldOps, func() {
		for range coldOps {
			read(s.rng.IntN(n))
		}
	})
	s.report("alone", aloneOps, func() {
		for range aloneOps {
			change(s.rng.IntN(n))
			s.sync()
		}
	})
	s.reopen(0)
}

// BenchmarkNames is one directory that grows to a million names. grow: create,
// many to a commit. cold: look a random name up with a cache of 8 MiB. alone: remove
// and create one name, with a commit of its own.
func BenchmarkNames(b *testing.B) {
	s := newScale(b)
	name := func(i int) string { return fmt.Sprintf("some-name-%07d", i) }
	create := func(i int) {
		a, err := s.v.Mknod(&s.req, vfs.RootIno, name(i), 0o644, 0)
		if err != nil {
			b.Fatal(err)
		}
		s.v.Forget(a.Ino)
	}
	for _, n := range scaleSizes() {
		s.step(n, create, func(i int) {
			a, err := s.v.Lookup(vfs.RootIno, name(i))
			if err != nil {
				b.Fatal(err)
			}
			s.v.Forget(a.Ino)
		}, func(i int) {
			if err := s.v.Unlink(&s.req, vfs.RootIno, name(i)); err != nil {
				b.Fatal(err)
			}
			create(i)
		})
	}
	mustClose(b, s.v)
}

// BenchmarkExtents is a sparse file of 100 GiB that grows to a million random
// extents of 4 KiB. grow: write one, many to a commit. cold: read one with a cache of
// 8 MiB. alone: overwrite one, with a commit of its own.
func BenchmarkExtents(b *testing.B) {
	s := newScale(b)
	a, err := s.v.Mknod(&s.req, vfs.RootIno, "sparse", 0o644, 0)
	if err != nil {
		b.Fatal(err)
	}
	size := uint64(hugeFile)
	if _, err := s.v.SetAttr(&s.req, a.Ino, &vfs.SetAttr{Size: &size}); err != nil {
		b.Fatal(err)
	}
	buf := device.AlignedBytes(pageBytes)
	// An odd multiplier visits every block once: as good as random.
	at := func(i int) uint64 { return uint64(i) * 15485863 % uint64(hugeFile/pageBytes) * pageBytes }
	write := func(i int) {
		buf[0]++
		if _, err := s.v.Write(&s.req, a.Ino, at(i), buf, false); err != nil {
			b.Fatal(err)
		}
	}
	for _, n := range scaleSizes() {
		s.step(n, write, func(i int) {
			if _, err := s.v.Read(a.Ino, at(i), buf); err != nil {
				b.Fatal(err)
			}
		}, write)
	}
	mustClose(b, s.v)
}

// BenchmarkWriteSnapshots overwrites 4 KiB at random places of a file, without
// snapshots and with 1,000, between which parts of the file were written: what is
// dropped is of 1,000 ages. The two take turns, so that what else the machine does
// slows both; the ratio is that of the medians.
func BenchmarkWriteSnapshots(b *testing.B) {
	const writes, turns = 2000, 25
	var took [2][]time.Duration
	var written [2]int64
	for b.Loop() {
		runs := []*snapshotBench{newSnapshotBench(b, 256<<20, 0), newSnapshotBench(b, 256<<20, 1000)}
		for range turns {
			for i, r := range runs {
				d, n := r.turn(b, writes)
				took[i] = append(took[i], d)
				written[i] += n
			}
		}
		for _, r := range runs {
			ok(b, r.v.Close())
		}
	}
	median := func(d []time.Duration) float64 {
		slices.Sort(d)
		return float64(d[len(d)/2])
	}
	b.ReportMetric(median(took[1])/median(took[0]), "time-ratio")
	b.ReportMetric(float64(written[1])/float64(written[0]), "written-ratio")
	b.ReportMetric(median(took[0])/writes, "ns/write")
	b.ReportMetric(float64(written[0])/float64(b.N*turns*writes), "bytes/write")
}

type snapshotBench struct {
	v    *Volume
	dev  *countingDevice
	ino  vfs.Ino
	size uint64
	rng  *rand.Rand
	buf  []byte
}

// newSnapshotBench makes a volume with a file and snapshots.
func newSnapshotBench(b testing.TB, size uint64, snapshots int) *snapshotBench {
	r := &snapshotBench{size: size, dev: newCountingDevice(4 << 30), rng: rand.New(rand.NewPCG(1, 1)), buf: make([]byte, maxWrite)}
	mustFormat(b, r.dev)
	r.v = mustOpen(b, r.dev, Options{CommitInterval: -1})
	a, err := r.v.Mknod(crashReq, vfs.RootIno, "f", 0o644, 0)
	ok(b, err)
	r.ino = a.Ino
	for off := uint64(0); off < size; off += maxWrite {
		_, err := r.v.Write(crashReq, r.ino, off, r.buf, false)
		ok(b, err)
	}
	for i := range 1000 {
		for range 50 {
			r.write(b)
		}
		if i < snapshots {
			_, err := r.v.CreateSnapshot(fmt.Sprint("s", i))
			ok(b, err)
		}
	}
	ok(b, r.v.Sync(vfs.RootIno))
	return r
}

func (r *snapshotBench) write(b testing.TB) {
	_, err := r.v.Write(crashReq, r.ino, r.rng.Uint64N(r.size/4096)*4096, r.buf[:4096], false)
	ok(b, err)
}

// turn makes n writes and a commit; it returns the time and the bytes written.
func (r *snapshotBench) turn(b testing.TB, n int) (time.Duration, int64) {
	before := r.dev.since(ioCounts{})
	start := time.Now()
	for range n {
		r.write(b)
	}
	ok(b, r.v.Sync(vfs.RootIno))
	took := time.Since(start)
	return took, r.dev.since(before).written
}
