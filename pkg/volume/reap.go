package volume

import (
	"context"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Forget implements vfs.FS. It marks the inode as freed; the reaper removes it.
func (v *Volume) Forget(ino vfs.Ino) {
	in := v.table.grab(uint64(ino))
	if in == nil {
		// It is not in memory, so the tree has its latest state.
		if n, err := v.table.readInode(uint64(ino)); err != nil || n.Nlink > 0 {
			return
		}
		var err error
		if in, err = v.table.inode(ino); err != nil {
			return
		}
	}
	in.mu.Lock()
	free := !in.dead && in.attr.Nlink == 0 && v.writable() == nil
	in.dead = in.dead || free // from here on, nobody can name or change it
	in.mu.Unlock()
	if !free {
		v.table.put(in)
		return
	}
	v.background.reaper.push(in)
}

// reaper removes freed inodes. It holds a reference to each.
type reaper struct {
	v *Volume

	mu    sync.Mutex
	cond  sync.Cond
	idle  sync.Cond // queue is empty and nothing is being removed
	queue []*inode
	busy  bool
	stop  bool
	done  chan struct{}
	young map[uint64]struct{} // orphaned by this mount; nil once the leftovers are removed
}

func (r *reaper) init() { r.cond.L, r.idle.L = &r.mu, &r.mu }

// wait waits until everything freed so far has been removed.
func (r *reaper) wait() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.busy || len(r.queue) > 0 {
		r.idle.Wait()
	}
}

func (r *reaper) push(in *inode) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = append(r.queue, in)
	r.cond.Signal()
}

// start starts the removal of inodes, beginning with those that had no names when the volume was
// opened.
func (r *reaper) start() {
	v := r.v
	r.done = make(chan struct{})
	r.busy = true // with the leftovers
	r.young = map[uint64]struct{}{}
	go func() {
		defer close(r.done)
		if err := r.reapLeftovers(); err != nil && v.opts.Log != nil && v.Failed() == nil {
			v.opts.Log.Warn("unlinked inodes could not be listed; the next mount frees them", "error", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for {
			r.reapQueued()
			r.busy = false
			if r.idle.Broadcast(); r.stop {
				return
			}
			r.cond.Wait()
		}
	}()
}

// reapQueued removes the inodes in the queue. The caller holds r.mu.
func (r *reaper) reapQueued() {
	v := r.v
	for len(r.queue) > 0 {
		in := r.queue[0]
		r.queue, r.busy = r.queue[1:], true
		r.mu.Unlock()
		if err := r.reapThawed(in); err != nil && v.opts.Log != nil && v.Failed() == nil {
			v.opts.Log.Warn("an unlinked inode could not be freed; the next mount frees it", "inode", in.ino, "error", err)
		}
		v.table.put(in)
		r.mu.Lock()
	}
}

// reapLeftovers removes orphans of earlier mounts as it finds them, because there may be more than
// fit into memory. Inodes that lost their last name in this mount may still be open, so it skips
// those.
func (r *reaper) reapLeftovers() error {
	v := r.v
	for last := uint64(0); ; {
		inos, err := r.orphans(last)
		if err != nil || len(inos) == 0 {
			r.mu.Lock()
			r.young = nil
			r.mu.Unlock()
			return err
		}
		last = inos[len(inos)-1]
		for _, ino := range inos {
			r.mu.Lock()
			_, young := r.young[ino]
			r.mu.Unlock()
			if !young {
				v.Forget(vfs.Ino(ino))
			}
		}
		r.mu.Lock()
		r.reapQueued()
		r.mu.Unlock()
	}
}

// orphaned records an inode that is losing its last name, before the tree says so, as long as
// orphans of earlier mounts are being removed.
func (r *reaper) orphaned(ino uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.young != nil {
		r.young[ino] = struct{}{}
	}
}

// end lets the reaper finish the queue: freed inodes are removed before it returns.
func (r *reaper) end() {
	r.mu.Lock()
	r.stop = true
	r.cond.Signal()
	r.mu.Unlock()
	<-r.done
}

// reapThawed is reap, but waits while the volume is frozen.
func (r *reaper) reapThawed(in *inode) error {
	v := r.v
	if err := v.frozen.enter(context.Background()); err != nil { // Close thaws
		return err
	}
	defer v.frozen.leave()
	return r.reap(in)
}

// reap removes a freed inode in steps.
func (r *reaper) reap(in *inode) error {
	v := r.v
	in.mu.Lock()
	defer in.mu.Unlock()
	for done := false; !done; {
		_, pages := v.data.dropStep()
		c := reservation{nodes: opNodes + pages, urgent: true, nested: true}
		if err := v.adm.reserve(c); err != nil {
			return err
		}
		err := v.inGate(func() (err error) {
			done, err = r.reapStep(in)
			return err
		})
		v.adm.done(c)
		if err != nil {
			return err
		}
	}
	v.table.forget(in)
	return nil
}

// reapStep removes a bounded part of an inode. The last step removes the inode item.
func (r *reaper) reapStep(in *inode) (done bool, err error) {
	v := r.v
	if err := v.data.cutBuffers(in, 0, 1<<62); err != nil {
		return false, err
	}
	err = v.fs.Update(func(w *tree.Writer) error {
		step, _ := v.data.dropStep()
		d, err := v.data.drop(w, in, 0, 1<<62, step)
		if err != nil {
			return err
		}
		v.data.countDropped(in, d)
		if d.done {
			d.done, err = v.ranges.unreserve(w, in, 0, 1<<62, step)
		}
		if err != nil || !d.done {
			return err
		}
		var keys []layout.Key
		from, to := layout.Key{Obj: in.ino, Type: layout.KeyInode}, layout.Key{Obj: in.ino, Type: layout.KeyXattr, Sub: ^uint64(0)}
		if err := w.Scan(from, to, func(k layout.Key, _ []byte) bool {
			keys = append(keys, k)
			return len(keys) < cutStep
		}); err != nil {
			return err
		}
		for _, k := range append(keys, items.OrphanKey(in.ino)) {
			if k.Type == layout.KeyOrphan && len(keys) == cutStep {
				return nil // another step follows
			}
			if _, err := w.Delete(k); err != nil {
				return err
			}
		}
		done, in.gone = true, true
		return nil
	})
	if err == nil && !done {
		v.table.touch(in)
	}
	if err == nil && done {
		v.com.inos.mu.Lock()
		v.com.inos.inodes -= min(v.com.inos.inodes, 1) // the root's count may be wrong
		v.com.inos.mu.Unlock()
	}
	return done, err
}

// orphans lists inodes without names, and those with an unfinished truncation.
func (r *reaper) orphans(after uint64) (inos []uint64, err error) {
	v := r.v
	if after == ^uint64(0) {
		return nil, nil
	}
	err = v.fs.Scan(items.OrphanKey(after+1), items.OrphanKey(^uint64(0)), func(k layout.Key, _ []byte) bool {
		inos = append(inos, k.Sub)
		return len(inos) < 1024
	})
	return inos, txn.Wrap(err)
}
