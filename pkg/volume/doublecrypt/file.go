package doublecrypt

import (
	"cmp"
	"errors"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// get returns an inode that is in use. v.mu is held.
func (v *Volume) get(ino vfs.Ino) (*node, error) {
	if v.closed {
		return nil, vfs.ErrClosed
	}
	n := v.nodes[ino]
	if n == nil {
		return nil, vfs.ErrStale
	}
	return n, nil
}

// file returns a file that can be read.
func (v *Volume) file(ino vfs.Ino) (*node, error) {
	n, err := v.get(ino)
	if err != nil {
		return nil, err
	}
	if n.dir {
		return nil, vfs.ErrIsDir
	}
	return n, n.damage
}

// loadedFile does so with its map. v.mu is held, but not throughout.
func (v *Volume) loadedFile(ino vfs.Ino) (*node, error) {
	for {
		n, err := v.file(ino)
		if err != nil || n.loaded {
			if err == nil {
				v.keep(n)
			}
			return n, err
		}
		if err := v.load(n); err != nil {
			return nil, err
		}
	}
}

// extentAt finds where chunk i lies on the device.
func (n *node) extentAt(i uint64) (extent, bool) {
	if i < uint64(len(n.extents)) && n.extents[i].index == i { // without holes before it
		return n.extents[i], true
	}
	at, ok := slices.BinarySearchFunc(n.extents, i, func(e extent, i uint64) int { return cmp.Compare(e.index, i) })
	if !ok {
		return extent{}, false
	}
	return n.extents[at], true
}

// inMemory returns the content of a chunk that is not, or not yet, on the device.
// What is missing at its end is zeros.
func (n *node) inMemory(i uint64) ([]byte, bool) {
	if d, ok := n.chunks[i]; ok {
		return d, true
	}
	d, ok := n.flushing[i]
	return d, ok
}

func (n *node) hasChunk(i uint64) bool {
	if _, ok := n.inMemory(i); ok {
		return true
	}
	_, ok := n.extentAt(i)
	return ok
}

// fetch is a part of a chunk to be read from the device.
type fetch struct {
	extent extent
	skip   int // within the chunk
	dst    []byte
}

// Read implements vfs.FS.
func (v *Volume) Read(ino vfs.Ino, off uint64, dst []byte) (int, error) {
	v.mu.Lock()
	n, err := v.loadedFile(ino)
	if err != nil || off >= n.size || len(dst) == 0 {
		v.mu.Unlock()
		return 0, err
	}
	dst = dst[:min(uint64(len(dst)), n.size-off)]
	var list []fetch
	for done := 0; done < len(dst); {
		i, skip := (off+uint64(done))/v.chunk, int((off+uint64(done))%v.chunk)
		part := dst[done:min(len(dst), done+int(v.chunk)-skip)]
		done += len(part)
		if data, ok := n.inMemory(i); ok {
			clear(part[copy(part, data[min(skip, len(data)):]):])
		} else if e, ok := n.extentAt(i); ok {
			list = append(list, fetch{e, skip, part})
		} else {
			clear(part)
		}
	}
	if len(list) == 0 {
		v.mu.Unlock()
		return len(dst), nil
	}
	if err := v.fetchUnlocked(list); err != nil {
		return 0, err
	}
	return len(dst), nil
}

// fetchUnlocked reads from the device what the volume refers to at this moment.
// v.mu is held before, and not after.
func (v *Volume) fetchUnlocked(list []fetch) error {
	epoch := v.pin()
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		v.unpin(epoch)
		v.mu.Unlock()
	}()
	return v.fetch(list)
}

// fetchBytes is how much is read at once, so that several cores have something to open.
const fetchBytes = 256 << 10

func (v *Volume) fetch(list []fetch) error {
	most := max(fetchBytes/v.blk.size, 1)
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for len(list) > 0 {
		n := 1
		for n < min(len(list), most) && list[n].extent.block == list[n-1].extent.block+1 {
			n++
		}
		run := list[:n]
		list = list[n:]
		if len(list) == 0 {
			if err := v.fetchRun(run); err != nil { // the last, or only, one needs no goroutine
				_ = g.Wait() // nobody writes to dst any more
				return err
			}
			break
		}
		g.Go(func() error { return v.fetchRun(run) })
	}
	return g.Wait()
}

func (v *Volume) fetchRun(run []fetch) error {
	buf := v.blk.buffer(len(run))
	if err := v.blk.read(run[0].extent.block, buf); err != nil {
		return err
	}
	for i, f := range run {
		plain, err := openObject(buf[i*v.blk.size:(i+1)*v.blk.size], f.extent.block, v.key, kindChunk)
		if err != nil {
			return err
		}
		plain = plain[:min(len(plain), int(f.extent.bytes), int(v.chunk))]
		clear(f.dst[copy(f.dst, plain[min(f.skip, len(plain)):]):])
	}
	clear(buf)
	return nil
}

// base reads those of some chunks that lie on the device only, up to the end of
// the file. The caller holds the file's write lock, so they do not change; v.mu is not held.
func (v *Volume) base(ino vfs.Ino, indexes []uint64) (map[uint64][]byte, error) {
	v.mu.Lock()
	n, err := v.loadedFile(ino)
	if err != nil {
		v.mu.Unlock()
		return nil, err
	}
	var list []fetch
	base := map[uint64][]byte{}
	for _, i := range indexes {
		if _, ok := n.inMemory(i); ok || i*v.chunk >= n.size {
			continue
		}
		if e, ok := n.extentAt(i); ok {
			base[i] = make([]byte, v.chunkBytes(n, i), v.chunk)
			list = append(list, fetch{e, 0, base[i]})
		}
	}
	if len(list) == 0 {
		v.mu.Unlock()
		return nil, nil
	}
	return base, v.fetchUnlocked(list)
}

// errAgain says that a commit has taken content out of memory meanwhile.
var errAgain = errors.New("read it again")

// changeData makes a change of a file's data that builds on the present content of
// some chunks. The caller holds the file's write lock, so only commits come between.
func (v *Volume) changeData(n *node, needed []uint64, make func(base map[uint64][]byte) (plan, error)) error {
	for {
		base, err := v.base(n.ino, needed)
		if err != nil {
			return err
		}
		err = v.change(func() (plan, error) {
			switch {
			case v.nodes[n.ino] != n:
				return plan{}, vfs.ErrStale
			case n.damage != nil:
				return plan{}, n.damage
			case !n.loaded:
				return plan{load: n}, nil
			}
			for _, i := range needed {
				if _, ok := n.inMemory(i); ok || base[i] != nil {
					continue
				}
				if _, ok := n.extentAt(i); ok {
					return plan{}, errAgain
				}
			}
			return make(base)
		})
		if !errors.Is(err, errAgain) {
			return err
		}
	}
}

// edit is a change of a file's data under way.
type edit struct {
	v       *Volume
	n       *node
	base    map[uint64][]byte
	size    uint64 // afterwards
	from    uint64 // chunks from..to-1 get content
	to      uint64
	tail    bool // and so does the chunk with the present end, which is no longer the last one
	gapFrom uint64
	zero    bool // the gap before from is filled with zeros
	urgent  bool
}

// prepare says what growing to size, with content for chunks from..to-1, needs.
func (v *Volume) prepare(n *node, size, from, to uint64) *edit {
	e := &edit{v: v, n: n, size: size, from: from, to: to}
	if size > n.size {
		present := chunksOf(n.size, v.chunk)
		e.tail = n.size%v.chunk != 0 && (present-1 < from || present-1 >= to)
		e.gapFrom, e.zero = present, !v.opts.Sparse
	}
	return e
}

// fresh yields the chunks that the edit touches: all that become dirty.
func (e *edit) fresh(yield func(i uint64) bool) {
	if e.tail {
		if i := e.n.size / e.v.chunk; e.n.hasChunk(i) && !yield(i) {
			return
		}
	}
	if e.zero {
		for i := e.gapFrom; i < e.from; i++ {
			if !yield(i) {
				return
			}
		}
	}
	for i := e.from; i < e.to; i++ {
		if !yield(i) {
			return
		}
	}
}

// plan says what the edit takes, or that the map has no room.
func (e *edit) plan(apply func()) (plan, error) {
	v, n := e.v, e.n
	count, bytes := n.used, n.mapBytes
	p := plan{urgent: e.urgent}
	tooBig := &Error{Variant: DataTooLarge, Value: e.size, Max: uint64(v.plain), err: vfs.ErrFileTooBig}
	if v.chunk == 0 || e.zero && e.from > e.gapFrom && e.from-e.gapFrom > uint64(v.plain) {
		return plan{}, tooBig
	}
	e.fresh(func(i uint64) bool {
		if _, ok := n.chunks[i]; ok {
			return true
		}
		p.blocks++
		old, ok := n.extentAt(i)
		if ok {
			bytes -= old.encodedLen()
		} else if _, ok := n.flushing[i]; !ok {
			count++
		}
		bytes += v.worst(i)
		return varintLen(count)+bytes <= v.plain
	})
	if varintLen(count)+bytes > v.plain && !n.orphan && p.blocks > 0 {
		return plan{}, tooBig
	}
	more, err := v.growth(n, 0)
	if err != nil {
		return plan{}, err
	}
	p.blocks += more
	p.apply = func() {
		v.mark(n, true)
		if e.tail {
			if i := n.size / v.chunk; n.hasChunk(i) {
				e.buffer(i)
			}
		}
		if e.zero {
			for i := e.gapFrom; i < e.from; i++ {
				v.setChunk(n, i, nil)
			}
		}
		n.size, n.modified = e.size, v.seconds()
		apply()
	}
	return p, nil
}

// worst is the longest that the extent of chunk i can be in a map.
func (v *Volume) worst(i uint64) int { return varintLen(i) + v.ref + varintLen(v.chunk) }

// buffer returns a chunk's content to be changed.
func (e *edit) buffer(i uint64) []byte {
	v, n := e.v, e.n
	data, ok := n.chunks[i]
	if !ok {
		if old, ok := n.flushing[i]; ok {
			data = append(make([]byte, 0, v.chunk), old...)
		} else {
			data = e.base[i]
		}
		v.setChunk(n, i, data)
	}
	return data
}

// setChunk makes data the content of a chunk.
func (v *Volume) setChunk(n *node, i uint64, data []byte) {
	if old, ok := n.chunks[i]; ok {
		v.dirtyBytes -= cap(old)
	} else {
		if old, ok := n.extentAt(i); ok {
			n.mapBytes -= old.encodedLen()
		}
		n.mapBytes += v.worst(i)
		if !n.hasChunk(i) {
			n.used++
		}
	}
	v.recost(n, func() {
		if n.chunks == nil {
			n.chunks = map[uint64][]byte{}
		}
		n.chunks[i] = data
	})
	v.dirtyBytes += cap(data)
}

// throttle waits for a commit while too much is dirty.
func (v *Volume) throttle() error {
	v.mu.Lock()
	full := v.dirtyBytes > v.opts.Memory/2
	v.mu.Unlock()
	if full {
		return v.commit()
	}
	return nil
}

// begin takes a file's write lock.
func (v *Volume) begin(ino vfs.Ino) (*node, error) {
	v.mu.Lock()
	n, err := v.file(ino)
	if err == nil {
		err = v.writable()
	}
	v.mu.Unlock()
	if err != nil {
		return nil, err
	}
	n.write.Lock()
	return n, nil
}

// alive tells that nobody has forgotten n meanwhile. v.mu is held.
func (v *Volume) alive(n *node) error {
	if v.nodes[n.ino] != n {
		return vfs.ErrStale
	}
	return nil
}

// Write implements vfs.FS. It keeps the data in memory until a commit; that there
// will be room for it is certain.
func (v *Volume) Write(_ *vfs.Req, ino vfs.Ino, off uint64, data []byte, _ bool) (int, error) {
	if err := v.throttle(); err != nil {
		return 0, err
	}
	n, err := v.begin(ino)
	if err != nil {
		return 0, err
	}
	defer n.write.Unlock()
	if len(data) == 0 {
		return 0, nil
	}
	end := off + uint64(len(data))
	if end < off || end > vfs.MaxFileBytes || v.chunk == 0 {
		return 0, &Error{Variant: DataTooLarge, Value: end, err: vfs.ErrFileTooBig}
	}
	if err := v.rewrite(n, off, end, func(at uint64, dst []byte) { copy(dst, data[at-off:]) }); err != nil {
		return 0, err
	}
	return len(data), nil
}

// rewrite changes off..end-1 of a file; put fills parts of it. The write lock is held.
func (v *Volume) rewrite(n *node, off, end uint64, put func(at uint64, dst []byte)) error {
	first, last := off/v.chunk, (end-1)/v.chunk
	return v.changeData(n, v.partial(n, off, end), func(base map[uint64][]byte) (plan, error) {
		e := v.prepare(n, max(n.size, end), first, last+1)
		e.base = base
		return e.plan(func() {
			for i := first; i <= last; i++ {
				from, to := max(off, i*v.chunk), min(end, (i+1)*v.chunk)
				buf := e.buffer(i)
				if need := int(to - i*v.chunk); len(buf) < need {
					if cap(buf) < need {
						// Whole at once where more is likely to come.
						buf = append(make([]byte, 0, v.roomFor(n, i, need)), buf...)
					}
					clear(buf[len(buf):need])
					buf = buf[:need]
				}
				v.setChunk(n, i, buf)
				put(from, buf[from-i*v.chunk:to-i*v.chunk])
			}
		})
	})
}

// roomFor is the capacity to begin a chunk's buffer with: little for small files.
func (v *Volume) roomFor(n *node, i uint64, need int) int {
	if i == 0 && n.size < v.chunk/4 {
		return min(2*need, int(v.chunk))
	}
	return int(v.chunk)
}

// partial lists the chunks whose present content is needed to change off..end-1,
// or to grow to end. With the write lock held the size does not change.
func (v *Volume) partial(n *node, off, end uint64) []uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	var list []uint64
	add := func(i uint64) {
		from, to := i*v.chunk, min((i+1)*v.chunk, n.size)
		if from < to && (off > from || end < to) && !slices.Contains(list, i) {
			list = append(list, i)
		}
	}
	if off < end {
		add(off / v.chunk)
		add((end - 1) / v.chunk)
	}
	if end > n.size && n.size%v.chunk != 0 {
		if i := n.size / v.chunk; off >= end || i < off/v.chunk {
			list = append(list, i)
		}
	}
	return list
}

// truncate sets a file's size. The write lock is held.
func (v *Volume) truncate(n *node, size uint64) error {
	if size > vfs.MaxFileBytes || size > 0 && v.chunk == 0 {
		return &Error{Variant: DataTooLarge, Value: size, err: vfs.ErrFileTooBig}
	}
	v.mu.Lock()
	present := n.size
	v.mu.Unlock()
	grow, cut := size > present, size/max(v.chunk, 1) // the new last chunk, if it is cut
	var needed []uint64
	if grow {
		needed = v.partial(n, size, size)
	} else if size < present && size > 0 && size%v.chunk != 0 {
		needed = []uint64{cut}
	}
	return v.changeData(n, needed, func(base map[uint64][]byte) (plan, error) {
		if grow {
			count := chunksOf(size, v.chunk)
			e := v.prepare(n, size, count, count)
			e.base = base
			return e.plan(func() {})
		}
		e := &edit{v: v, n: n, base: base, size: size, urgent: true}
		if len(needed) > 0 && n.hasChunk(cut) {
			e.from, e.to = cut, cut+1
		}
		return e.plan(func() { v.cut(e) })
	})
}

// cut drops what lies beyond a file's new end. The last chunk that stays is
// sealed anew without it: else growing again would bring it back.
func (v *Volume) cut(e *edit) {
	n := e.n
	count := chunksOf(e.size, v.chunk)
	for i, data := range n.chunks {
		if i >= count {
			v.dirtyBytes -= cap(data)
			v.recost(n, func() { delete(n.chunks, i) })
		}
	}
	for i, data := range n.flushing {
		if i >= count {
			v.dirtyBytes -= cap(data)
			delete(n.flushing, i)
		}
	}
	at, _ := slices.BinarySearchFunc(n.extents, count, func(e extent, i uint64) int { return cmp.Compare(e.index, i) })
	for _, x := range n.extents[at:] {
		v.drop(x.block)
	}
	n.extents = slices.Clone(n.extents[:at])
	if e.from < e.to {
		data := e.buffer(e.from)
		v.setChunk(n, e.from, data[:min(len(data), int(e.size-e.from*v.chunk))])
	}
	n.recount(v)
}

// recount finds anew how many chunks there are, and how long the map is.
func (n *node) recount(v *Volume) {
	n.mapBytes, n.used = 0, 0
	for i := range n.extents {
		if _, ok := n.chunks[n.extents[i].index]; !ok {
			n.mapBytes += n.extents[i].encodedLen()
		}
		n.used++
	}
	for i := range n.chunks {
		n.mapBytes += v.worst(i)
		if _, ok := n.extentAt(i); !ok {
			n.used++
		}
	}
}

// Fallocate implements vfs.FS. What is allocated is zeros that are stored; holes
// are stored as zeros, too.
func (v *Volume) Fallocate(_ *vfs.Req, ino vfs.Ino, mode uint32, off, length uint64) error {
	end := off + length
	if length == 0 || end < off {
		return vfs.ErrInvalid
	}
	n, err := v.begin(ino)
	if err != nil {
		return err
	}
	defer n.write.Unlock()
	if end > vfs.MaxFileBytes {
		return vfs.ErrFileTooBig
	}
	v.mu.Lock()
	size := n.size
	v.mu.Unlock()
	switch mode {
	case 0:
		if end <= size && !v.opts.Sparse {
			return v.touch(n)
		}
		if v.opts.Sparse {
			return vfs.ErrNotSupported // nothing keeps blocks for a hole
		}
		return v.truncate(n, end)
	case vfs.FallocPunchHole | vfs.FallocKeepSize, vfs.FallocZeroRange | vfs.FallocKeepSize:
		end = min(end, size)
	case vfs.FallocZeroRange:
	default:
		return vfs.ErrNotSupported
	}
	if off >= end {
		return v.touch(n)
	}
	return v.zero(n, off, end)
}

// zero writes zeros: whole chunks cost no memory.
func (v *Volume) zero(n *node, off, end uint64) error {
	return v.changeData(n, v.partial(n, off, end), func(base map[uint64][]byte) (plan, error) {
		if v.chunk == 0 || (end-1)/v.chunk-off/v.chunk > uint64(v.plain) {
			return plan{}, vfs.ErrFileTooBig
		}
		e := v.prepare(n, max(n.size, end), off/v.chunk, (end-1)/v.chunk+1)
		e.base = base
		return e.plan(func() {
			for i := e.from; i < e.to; i++ {
				from, to := max(off, i*v.chunk)-i*v.chunk, min(end, (i+1)*v.chunk)-i*v.chunk
				if from == 0 && to >= uint64(v.chunkBytes(n, i)) {
					v.setChunk(n, i, nil)
					continue
				}
				buf := e.buffer(i)
				clear(buf[min(from, uint64(len(buf))):min(to, uint64(len(buf)))])
			}
		})
	})
}

// touch sets the time of a change.
func (v *Volume) touch(n *node) error {
	return v.change(func() (plan, error) {
		if err := v.alive(n); err != nil {
			return plan{}, err
		}
		blocks, err := v.growth(n, 0)
		return plan{blocks: blocks, apply: func() {
			n.modified = v.seconds()
			v.mark(n, false)
		}}, err
	})
}

// copyBytes is how much CopyRange holds in memory.
const copyBytes = 1 << 20

// CopyRange implements vfs.FS.
func (v *Volume) CopyRange(req *vfs.Req, src vfs.Ino, srcOff uint64, dst vfs.Ino, dstOff, length uint64) (uint64, error) {
	if srcOff+length < srcOff || dstOff+length < dstOff {
		return 0, vfs.ErrInvalid
	}
	if src == dst && srcOff < dstOff+length && dstOff < srcOff+length && length > 0 {
		return 0, vfs.ErrInvalid
	}
	v.mu.Lock()
	_, err := v.file(src)
	if err == nil {
		_, err = v.file(dst)
	}
	v.mu.Unlock()
	if err != nil {
		return 0, err
	}
	buf := make([]byte, min(length, copyBytes))
	for done := uint64(0); ; {
		n, err := v.Read(src, srcOff+done, buf[:min(uint64(len(buf)), length-done)])
		if err == nil && n > 0 {
			n, err = v.Write(req, dst, dstOff+done, buf[:n], false)
		}
		if err != nil && done == 0 {
			return 0, err
		}
		if err != nil { // what was copied counts; the rest says why not
			n = 0
		}
		if done += uint64(n); n == 0 || done == length {
			return done, nil
		}
	}
}

// SeekData implements vfs.FS.
func (v *Volume) SeekData(ino vfs.Ino, off uint64) (uint64, error) { return v.seek(ino, off, true) }

// SeekHole implements vfs.FS.
func (v *Volume) SeekHole(ino vfs.Ino, off uint64) (uint64, error) { return v.seek(ino, off, false) }

func (v *Volume) seek(ino vfs.Ino, off uint64, data bool) (uint64, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, err := v.loadedFile(ino)
	if err != nil {
		return 0, err
	}
	if off >= n.size {
		return 0, vfs.ErrNoData
	}
	count := chunksOf(n.size, v.chunk)
	i := off / v.chunk
	if n.used == count && data { // without holes
		return off, nil
	}
	if n.used < count {
		i = n.nextChunk(i, count, data)
	} else {
		i = count
	}
	switch {
	case i < count:
		return max(off, i*v.chunk), nil
	case data:
		return 0, vfs.ErrNoData
	}
	return n.size, nil
}

// nextChunk finds the first chunk at or after i that exists, or that does not.
func (n *node) nextChunk(i, count uint64, exists bool) uint64 {
	if !exists {
		for i < count && n.hasChunk(i) {
			i++
		}
		return i
	}
	next := count
	at, _ := slices.BinarySearchFunc(n.extents, i, func(e extent, i uint64) int { return cmp.Compare(e.index, i) })
	if at < len(n.extents) {
		next = min(next, n.extents[at].index)
	}
	for _, m := range []map[uint64][]byte{n.chunks, n.flushing} {
		for j := range m {
			if j >= i {
				next = min(next, j)
			}
		}
	}
	return next
}
