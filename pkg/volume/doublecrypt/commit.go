package doublecrypt

import (
	"cmp"
	"io"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// object is one block of a commit.
type object struct {
	block uint64
	kind  kind
	plain []byte
	bytes int // length of the plaintext; zeros follow plain
}

// batch is the state of a commit while the lock is not held.
type batch struct {
	objects []object
	nodes   []*node
	drops   []uint64
	state   rootState
}

// commit makes all changes durable that were made before the call: objects, barrier, root slot,
// barrier (I2). After a failure, the volume refuses changes, and keeps unwritten data in memory.
func (v *Volume) commit() error {
	v.commitMu.Lock()
	defer v.commitMu.Unlock()
	v.mu.Lock()
	if err := v.writable(); err != nil || len(v.dirty) == 0 {
		v.mu.Unlock()
		return err
	}
	b, err := v.freeze()
	if err != nil {
		v.fail(err)
	}
	v.mu.Unlock()
	if err == nil {
		err = v.store(b)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		v.fail(err)
		return err
	}
	v.finish(b)
	return nil
}

// freeze assigns blocks to all dirty objects, and encodes them. v.mu is held.
func (v *Volume) freeze() (*batch, error) {
	b := &batch{state: v.state}
	for n := range v.dirty {
		b.nodes = append(b.nodes, n)
	}
	slices.SortFunc(b.nodes, func(x, y *node) int { return cmp.Compare(x.ino, y.ino) })
	for _, n := range b.nodes {
		if err := v.freezeBody(b, n); err != nil {
			return nil, err
		}
	}
	for _, n := range b.nodes { // all inodes have their blocks now, which the pages contain
		if n.dir && !n.orphan {
			plain := v.page(n)
			if len(plain) > v.plain {
				return nil, &Error{Variant: Serialization, err: vfs.ErrNoSpace} // cannot happen: plan reserves the space
			}
			b.add(n.body, kindDirectory, plain, len(plain))
		}
		if !n.orphan {
			plain := n.record().encode()
			b.add(n.block, kindInode, plain, len(plain))
		}
	}
	s := superblock{generation: v.state.maxSeen + 1, root: v.root.block}
	block, err := v.allocate()
	if err != nil {
		return nil, err
	}
	b.add(block, kindSuperblock, s.encode(), len(s.encode()))
	if v.state.pointer.superblock != 0 {
		v.drops = append(v.drops, v.state.pointer.superblock)
	}
	b.state = rootState{rootPointer{s.generation, block, s.checksum()}, v.otherSlot(), s.generation}
	b.drops, v.drops = v.drops, nil
	for n := range v.dirty {
		v.recost(n, func() { n.dirty, n.bodyDirty = false, false })
		n.inFlight = true
	}
	clear(v.dirty)
	return b, nil
}

func (b *batch) add(block uint64, k kind, plain []byte, n int) {
	b.objects = append(b.objects, object{block, k, plain, n})
}

// otherSlot returns the slot that does not contain the newest durable root.
func (v *Volume) otherSlot() uint64 { return slotBlockA + slotBlockB - v.state.slot }

// allocate takes a block. Plans have reserved the space, so there is one.
func (v *Volume) allocate() (uint64, error) {
	id, ok := v.alloc.allocate()
	if !ok {
		return 0, &Error{Variant: NoFreeBlocks, err: vfs.ErrNoSpace}
	}
	return id, nil
}

// replace assigns a block to new content, and drops the old one.
func (v *Volume) replace(block *uint64) error {
	id, err := v.allocate()
	if err != nil {
		return err
	}
	v.drop(*block)
	*block = id
	return nil
}

// drop records that the next root does not refer to a block.
func (v *Volume) drop(block uint64) {
	if block != null {
		v.drops = append(v.drops, block)
	}
}

// freezeBody encodes a file's chunks and map, and assigns blocks to all other bodies.
func (v *Volume) freezeBody(b *batch, n *node) error {
	if !n.dir {
		if err := v.freezeChunks(b, n); err != nil {
			return err
		}
	}
	if n.orphan {
		return nil
	}
	if n.bodyDirty {
		if err := v.replace(&n.body); err != nil {
			return err
		}
		if !n.dir {
			plain := encodeExtents(n.extents)
			n.mapBytes = len(plain) - varintLen(uint64(len(n.extents)))
			b.add(n.body, kindExtents, plain, len(plain))
		}
	}
	old := n.block
	if err := v.replace(&n.block); err != nil {
		return err
	}
	if n.parent != nil {
		n.parent.bytes -= v.ref - varintLen(n.block) // mark assumed the maximum length
	}
	if v.opts.ancestorTimes && n.dir && old != null {
		n.modified = v.seconds()
	}
	return nil
}

// freezeChunks assigns blocks to dirty chunks, and merges them into the list of extents.
func (v *Volume) freezeChunks(b *batch, n *node) error {
	if len(n.chunks) == 0 {
		return nil
	}
	indexes := make([]uint64, 0, len(n.chunks))
	for i := range n.chunks {
		indexes = append(indexes, i)
	}
	slices.Sort(indexes)
	merged := make([]extent, 0, len(n.extents)+len(indexes))
	rest := n.extents
	for _, i := range indexes {
		at, ok := slices.BinarySearchFunc(rest, i, func(e extent, i uint64) int { return cmp.Compare(e.index, i) })
		merged = append(merged, rest[:at]...)
		rest = rest[at:]
		block := uint64(null)
		if ok {
			block = rest[0].block
			rest = rest[1:]
		}
		if err := v.replace(&block); err != nil {
			return err
		}
		bytes := v.chunkBytes(n, i)
		merged = append(merged, extent{i, block, uint32(bytes)})
		b.add(block, kindChunk, n.chunks[i], bytes)
	}
	v.recost(n, func() {
		n.extents = append(merged, rest...)
		n.flushing, n.chunks = n.chunks, nil
	})
	return nil
}

// chunkBytes returns the number of bytes of chunk i that belong to the file.
func (v *Volume) chunkBytes(n *node, i uint64) int { return int(min(v.chunk, n.size-i*v.chunk)) }

func (n *node) record() *inode {
	i := &inode{id: uint64(n.ino), dir: n.dir, size: n.size, page: null, extents: null, created: n.created, modified: n.modified}
	if n.dir {
		i.page = n.body
	} else {
		i.extents = n.body
	}
	return i
}

func (v *Volume) page(d *node) []byte {
	entries := make([]entry, len(d.order))
	for i, e := range d.order {
		entries[i] = entry{e.name, e.node.block, uint64(e.node.ino), e.node.dir}
	}
	return encodePage(entries)
}

// store writes a batch. Only commitMu is held.
func (v *Volume) store(b *batch) error {
	if err := v.writeObjects(b.objects); err != nil {
		return err
	}
	if err := v.blk.sync(); err != nil {
		return err
	}
	return v.writeSlot(b.state.slot, b.state.pointer)
}

// writeSlot writes a root pointer and makes it durable.
func (v *Volume) writeSlot(slot uint64, p rootPointer) error {
	buf, err := v.blk.plainBlock(p.encode(), v.opts.random)
	if err != nil {
		return err
	}
	if err := v.blk.write(slot, buf); err != nil {
		return err
	}
	return v.blk.sync()
}

// writeObjects seals objects and writes them, in runs of contiguous blocks.
func (v *Volume) writeObjects(objects []object) error {
	slices.SortFunc(objects, func(x, y object) int { return cmp.Compare(x.block, y.block) })
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	if !v.blk.whole() || v.opts.random != systemRandom {
		g.SetLimit(1) // neighbours share sectors; tests need a fixed order
	}
	most := max(ioBytes/v.blk.size, 1)
	for len(objects) > 0 {
		n := 1
		for n < min(len(objects), most) && objects[n].block == objects[n-1].block+1 {
			n++
		}
		run := objects[:n]
		objects = objects[n:]
		g.Go(func() error { return v.writeRun(run) })
	}
	return g.Wait()
}

func (v *Volume) writeRun(run []object) error {
	buf := v.blk.buffer(len(run))
	var nonce [crypto.DoublecryptNonceBytes]byte
	for i := range run {
		// 96 random bits each. The format has no other protection against reuse.
		if _, err := io.ReadFull(v.opts.random, nonce[:]); err != nil {
			return &Error{Variant: Encryption, err: err}
		}
		block := buf[i*v.blk.size : (i+1)*v.blk.size]
		end, err := sealObject(block, v.key, run[i].kind, nonce[:], run[i].plain, run[i].bytes)
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(v.opts.random, block[end:]); err != nil {
			return &Error{Variant: Encryption, err: err}
		}
	}
	return v.blk.write(run[0].block, buf)
}

// finish makes a durable root the current one. v.mu is held.
func (v *Volume) finish(b *batch) {
	v.state = b.state
	v.commits++
	// The slot of the older root is overwritten, so blocks that only it referred to are free.
	v.retire(v.quarantine)
	v.quarantine = b.drops
	for _, n := range b.nodes {
		for _, data := range n.flushing {
			v.dirtyBytes -= cap(data)
		}
		n.flushing, n.inFlight = nil, false
		v.keep(n)
	}
}

// releaseOlder writes the newest root into the other slot, too. Then blocks that only the older
// root referred to are free immediately. A full volume needs this.
func (v *Volume) releaseOlder() error {
	v.commitMu.Lock()
	defer v.commitMu.Unlock()
	v.mu.Lock()
	err := v.writable()
	state, slot := v.state, v.otherSlot()
	var drops []uint64
	if len(v.dirty) == 0 {
		drops, v.drops = v.drops, nil // the newest root does not refer to them
	}
	idle := len(v.quarantine)+len(drops) == 0
	v.mu.Unlock()
	if err != nil {
		return err
	}
	if !idle {
		err = v.writeSlot(slot, state.pointer)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		v.fail(err)
		return err
	}
	if !idle { // otherwise, the slot still has the older root or none, and the next commit uses it
		v.state.slot = slot // both slots contain it; the reference implementation uses B
	}
	v.retire(append(v.quarantine, drops...))
	v.quarantine = nil
	for len(v.retired) > 0 {
		v.unpinned.Wait()
	}
	return nil
}

// retire frees blocks when all readers that may be reading them have finished.
func (v *Volume) retire(list []uint64) {
	if len(list) > 0 {
		v.retired = append(v.retired, retired{v.epoch, list})
	}
	v.epoch++
	v.reclaim()
}

func (v *Volume) reclaim() {
	oldest := v.epoch
	for e := range v.pins {
		oldest = min(oldest, e)
	}
	for len(v.retired) > 0 && v.retired[0].epoch < oldest {
		for _, id := range v.retired[0].blocks {
			if id < v.total { // other blocks are beyond the size in the header
				v.alloc.release(id)
			}
		}
		v.retired = v.retired[1:]
	}
	if len(v.retired) == 0 {
		v.unpinned.Broadcast()
	}
}

// pin prevents blocks that are in use now from being overwritten, until unpin. v.mu is held for
// both.
func (v *Volume) pin() uint64 {
	v.pins[v.epoch]++
	return v.epoch
}

func (v *Volume) unpin(epoch uint64) {
	if v.pins[epoch]--; v.pins[epoch] == 0 {
		delete(v.pins, epoch)
		v.reclaim()
	}
}
