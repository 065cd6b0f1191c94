package volume

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// DefragOptions configures Defrag. The zero value is for the whole volume.
type DefragOptions struct {
	Root           vfs.Ino // a file, or a directory with everything below it; 0: the root directory
	BytesPerSecond int64   // of rewritten data; 0: no limit
	// Progress is called now and then with the files and directories visited so far and their
	// total. The total is 0 (unknown) if Root is set.
	Progress func(done, total uint64)
}

// DefragReport is the result of Defrag.
type DefragReport struct {
	Files     uint64 // visited
	Rewritten uint64 // files with rewritten data
	Bytes     uint64 // rewritten
	Shared    uint64 // bytes skipped because something else refers to them
	// Of the visited files. An extent is at most 64 KiB under one nonce. A fragment is contiguous
	// on the device.
	ExtentsBefore, ExtentsAfter     uint64
	FragmentsBefore, FragmentsAfter uint64
	// Damaged lists files that were skipped because of damage, at most maxDamages.
	Damaged []DefragDamage
}

// DefragDamage is a file that could not be read.
type DefragDamage struct {
	Ino uint64
	Err error
}

// defragBlocks is the unit of rewriting: the size of writes to the device.
const defragBlocks = batchBlocks

// Defrag rewrites the data of fragmented files by ordinary writes, while they are in use. Their
// content and times do not change. It skips what snapshots or other files share. ctx stops it
// between two steps. Only one may run at a time: ErrBusy.
func (v *Volume) Defrag(ctx context.Context, opts DefragOptions) (*DefragReport, error) {
	if err := v.writable(); err != nil {
		return nil, err
	}
	ctx, end, err := v.background.begin(ctx, "defrag")
	if err != nil {
		return nil, err
	}
	defer end()
	d := &defrag{v: v, ctx: ctx, opts: opts, rep: &DefragReport{}, nameless: map[vfs.Ino]struct{}{}, pace: pacer{bytesPerSecond: opts.BytesPerSecond}}
	if opts.Root == 0 {
		d.opts.Root = vfs.RootIno
	}
	if d.opts.Root == vfs.RootIno {
		v.com.inos.mu.Lock()
		d.total = v.com.inos.inodes
		v.com.inos.mu.Unlock()
	}
	a, err := v.GetAttr(d.opts.Root)
	if err != nil {
		return nil, err
	}
	if err = d.visit(d.opts.Root, a.Mode); err == nil {
		err = d.settle()
	}
	return d.rep, txn.Wrap(err)
}

// defrag is the state of one Defrag.
type defrag struct {
	v     *Volume
	ctx   context.Context
	opts  DefragOptions
	rep   *DefragReport
	pace  pacer
	done  uint64
	total uint64
	wrote []uint64 // files that were rewritten, but not counted again yet

	nameless map[vfs.Ino]struct{} // visited directories that do not record their name
}

// maxDefragWrote is the number of files that are counted again after one commit.
const maxDefragWrote = 1024

func (d *defrag) visit(ino vfs.Ino, mode uint32) error {
	if err := context.Cause(d.ctx); err != nil {
		return err
	}
	d.step()
	switch mode & items.ModeType {
	case items.ModeReg:
		return d.file(uint64(ino))
	case items.ModeDir:
		return d.tree(ino)
	}
	return nil
}

// step counts an inode.
func (d *defrag) step() {
	d.done++
	if d.opts.Progress != nil {
		d.opts.Progress(min(d.done, max(d.total, 1)), d.total)
	}
}

// openDir is the state of a directory that is being visited.
type openDir struct {
	ino  vfs.Ino
	off  uint64
	dirs []vfs.Dirent // read, but not visited yet
}

// tree visits a directory and everything below it, a few names at a time. It keeps little for each
// directory on the path, and enters no directory twice.
func (d *defrag) tree(root vfs.Ino) error {
	for way := []openDir{{ino: root}}; len(way) > 0; {
		at := &way[len(way)-1]
		if len(at.dirs) > 0 {
			next := at.dirs[0]
			at.dirs = at.dirs[1:]
			okay, err := d.belongs(at.ino, next)
			if err != nil {
				return err
			}
			if okay {
				way = append(way, openDir{ino: next.Ino})
			}
			continue
		}
		more, err := d.names(at)
		if err != nil {
			return err
		}
		if !more {
			way = way[:len(way)-1]
		}
	}
	return nil
}

// names visits the next files of a directory, and collects its subdirectories.
func (d *defrag) names(at *openDir) (more bool, err error) {
	type file struct {
		ino  vfs.Ino
		mode uint32
	}
	var files []file
	err = d.v.ReadDir(at.ino, at.off, true, func(e vfs.Dirent, a *vfs.Attr) bool {
		at.off, more = e.Cookie, true
		switch {
		case a == nil || e.Name == "." || e.Name == "..":
		case a.Mode&items.ModeType == items.ModeDir:
			at.dirs = append(at.dirs, vfs.Dirent{Ino: e.Ino, Cookie: e.Cookie})
		default:
			files = append(files, file{e.Ino, a.Mode})
		}
		return len(files)+len(at.dirs) < 256
	})
	switch {
	case errors.Is(err, vfs.ErrStale):
		return false, nil // removed meanwhile
	case err != nil:
		return false, d.damaged(uint64(at.ino), err)
	}
	for _, f := range files {
		if err := d.visit(f.ino, f.mode); err != nil {
			return false, err
		}
	}
	return more, nil
}

// belongs reports whether a name is the one that the directory records as its own. A directory is
// entered only there, because forged names could lead back to an ancestor. Directories of an
// earlier version of the format do not record their name; these are remembered in nameless.
func (d *defrag) belongs(parent vfs.Ino, e vfs.Dirent) (bool, error) {
	d.step()
	if e.Ino == d.opts.Root {
		return false, nil // only the root directory is entered without a name
	}
	in, err := d.v.table.inode(e.Ino)
	if errors.Is(err, vfs.ErrStale) {
		return false, nil
	}
	if err != nil {
		return false, d.damaged(uint64(e.Ino), err)
	}
	defer d.v.table.put(in)
	in.mu.RLock()
	defer in.mu.RUnlock()
	if in.attr.Parent != uint64(parent) {
		return false, nil // it was moved meanwhile, or it is damaged, which fsck reports
	}
	if in.attr.NameSub != 0 {
		return in.attr.NameSub == e.Cookie, nil
	}
	_, twice := d.nameless[e.Ino]
	d.nameless[e.Ino] = struct{}{}
	return !twice, nil
}

// damaged records a file that cannot be read. Any other error ends the work.
func (d *defrag) damaged(ino uint64, err error) error {
	if !errors.Is(err, vfs.ErrCorrupt) && !errors.Is(err, layout.ErrCorrupt) {
		return err
	}
	if len(d.rep.Damaged) < maxDamages {
		d.rep.Damaged = append(d.rep.Damaged, DefragDamage{ino, err})
	}
	return nil
}

// fragments counts extents in file order.
type fragments struct {
	extents, fragments uint64
	end                uint64 // address after the previous one
}

func (f *fragments) add(p *items.Placed) {
	if f.extents++; p.Addr != f.end {
		f.fragments++
	}
	f.end = p.Addr + uint64(p.RunBytes())
}

// file rewrites the fragmented parts of a file.
func (d *defrag) file(ino uint64) error {
	in, err := d.v.table.inode(vfs.Ino(ino))
	if errors.Is(err, vfs.ErrStale) {
		return nil
	}
	if err != nil {
		return d.damaged(ino, err)
	}
	defer d.v.table.put(in)
	var before fragments
	wrote := uint64(0)
	err = d.v.eachWindow(ino, func(from uint64, es []items.Placed) error {
		for i := range es {
			before.add(&es[i])
		}
		if !scattered(es) {
			return context.Cause(d.ctx)
		}
		n, shared, err := d.v.rewrite(in, from)
		d.rep.Shared += shared
		wrote += n
		if err != nil {
			return err
		}
		return d.pace.wait(d.ctx, int(n))
	})
	d.rep.Files++
	d.rep.Bytes += wrote
	d.rep.ExtentsBefore += before.extents
	d.rep.FragmentsBefore += before.fragments
	if wrote == 0 {
		d.rep.ExtentsAfter += before.extents
		d.rep.FragmentsAfter += before.fragments
	} else {
		d.rep.Rewritten++
		if d.wrote = append(d.wrote, ino); len(d.wrote) == maxDefragWrote {
			if err := d.settle(); err != nil {
				return err
			}
		}
	}
	if err != nil {
		return d.damaged(ino, err)
	}
	return nil
}

// settle commits, and counts rewritten files again.
func (d *defrag) settle() error {
	if len(d.wrote) == 0 {
		return nil
	}
	if err := d.v.com.commitAll(); err != nil {
		return d.v.sync.syncErr(err)
	}
	for _, ino := range d.wrote {
		var now fragments
		err := d.v.eachWindow(ino, func(_ uint64, es []items.Placed) error {
			for i := range es {
				now.add(&es[i])
			}
			return nil
		})
		if err != nil {
			return err
		}
		d.rep.ExtentsAfter += now.extents
		d.rep.FragmentsAfter += now.fragments
	}
	d.wrote = d.wrote[:0]
	return nil
}

// eachWindow calls fn for the extents of a file, grouped by aligned windows of defragBlocks. An
// extent belongs to the window in which it begins. Holes are skipped.
func (v *Volume) eachWindow(ino uint64, fn func(from uint64, es []items.Placed) error) error {
	const last = layout.MaxFileBytes / layout.BlockBytes
	for next := uint64(0); next < last; {
		es, err := v.data.extents(ino, next, last, 1)
		if err != nil || len(es) == 0 {
			return err
		}
		from := max(next, es[0].Block) / defragBlocks * defragBlocks
		if es, err = v.data.extents(ino, from, from+defragBlocks, 0); err != nil {
			return err
		}
		if len(es) > 0 && es[0].Block < from && from > 0 {
			es = es[1:] // it begins in the previous window
		}
		if err := fn(from, es); err != nil {
			return err
		}
		next = from + defragBlocks
	}
	return nil
}

// scattered reports whether extents are more, or further apart, than they would be if written now.
func scattered(es []items.Placed) bool {
	var f fragments
	need, end := 0, ^uint64(0)
	for i := range es {
		f.add(&es[i])
		// One extent for each buffer, and one more after each hole.
		for s := es[i].Block; s < es[i].End(); s = (s/bufferPages + 1) * bufferPages {
			if s != end || s%bufferPages == 0 {
				need++
			}
			end = min(es[i].End(), (s/bufferPages+1)*bufferPages)
		}
		end = es[i].End()
	}
	return len(es) > need || f.fragments > 1
}

// rewrite makes defragBlocks of a file dirty, so that a flusher seals them again in one place. It
// is not an operation: a replay without it finds the old extents, which a root or the log still
// reaches, with the same content. It returns the bytes that will be written, and the bytes that are
// shared.
func (v *Volume) rewrite(in *inode, from uint64) (bytes, shared uint64, err error) {
	c := reservation{pages: defragBlocks, nodes: opNodes}
	if err := v.adm.reserve(c); err != nil {
		return 0, 0, err
	}
	defer v.adm.done(c)
	in.mu.Lock()
	defer in.mu.Unlock()
	if v.regular(in) != nil || in.cutting {
		return 0, 0, nil // removed or truncated meanwhile
	}
	to := min(from+defragBlocks, (in.attr.Size+pageBytes-1)/pageBytes)
	if from >= to {
		return 0, 0, nil
	}
	es, err := v.data.extents(in.ino, from, to, 0)
	if err != nil || !scattered(es) {
		return 0, 0, err
	}
	for i := range es {
		is, err := v.isShared(&es[i])
		if err != nil {
			return 0, 0, txn.Wrap(err)
		}
		if is {
			shared += (min(to, es[i].End()) - max(from, es[i].Block)) * pageBytes
		}
	}
	if shared > 0 {
		return 0, shared, nil
	}
	off := from * pageBytes
	buf := make([]byte, (to-from)*pageBytes)
	pin := v.space.Pin()
	plan, err := v.planRead(in, off, buf[:min(uint64(len(buf)), in.attr.Size-off)])
	if err == nil {
		err = plan.run(v.store)
	}
	v.space.Unpin(pin)
	if err != nil {
		return 0, 0, txn.Wrap(fmt.Errorf("inode %d at %d: %w", in.ino, off, err))
	}
	err = v.inGate(func() error {
		for i := range es {
			for s := max(from, es[i].Block); s < min(to, es[i].End()); s++ {
				v.fillDirty(in, s, (*page)(buf[(s-from)*pageBytes:]))
				bytes += pageBytes
			}
		}
		v.queueDirty(in, from/bufferPages, (to+bufferPages-1)/bufferPages)
		return nil
	})
	return bytes, 0, err
}

// isShared reports whether something other than the head may refer to an extent.
func (v *Volume) isShared(p *items.Placed) (bool, error) {
	if p.RefBirth <= v.snap.newest.Load() {
		return true, nil
	}
	n, err := v.shares.Most(layout.Run{Start: p.Addr / layout.BlockBytes, Count: uint32(p.Blocks())})
	return n > 0, err
}

// fillDirty sets the content of a block and makes it dirty, unless a newer page is in memory. The
// caller is in the gate and holds in.mu.
func (v *Volume) fillDirty(in *inode, block uint64, data *page) {
	in.bmu.Lock()
	defer in.bmu.Unlock()
	b, i := v.data.buffer(in, block/bufferPages), block%bufferPages
	before, newBuffer := b.tracked(), 0
	if b.pages[i] == nil {
		b.pages[i] = pagePool.Get().(*page)
		*b.pages[i] = *data
	}
	if b.dirty == 0 {
		newBuffer = 1
	}
	b.dirty |= 1 << i
	b.src = 0
	v.adm.dirtyPages(b.tracked()-before, newBuffer)
}

// queueDirty queues the dirty buffers in [from, to) together, so that one flusher takes them.
func (v *Volume) queueDirty(in *inode, from, to uint64) {
	var items []flushItem
	in.bmu.Lock()
	for idx := from; idx < to; idx++ {
		if b := in.buffers[idx]; b != nil && b.dirty != 0 && !b.full {
			b.queued, b.full = true, true
			items = append(items, flushItem{in, idx})
		}
	}
	in.bmu.Unlock()
	v.flush.pushFull(items)
}
