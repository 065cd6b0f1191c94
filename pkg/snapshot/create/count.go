package create

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// counts are the numbers of a snapshot. The walk alone changes those of files.
type counts struct {
	files, dirs, logical int64 // of the new state, as differences to the base's
	visited              atomic.Uint64
	committing           atomic.Bool
	read, kept, dropped  atomic.Uint64 // bytes of content
	done                 atomic.Int64  // bytes of content that are stored, or need not be
}

// update counts what an update of content did.
func (c *counts) update(s *selfenc.UpdateStats, chunkBytes uint64, replaces bool) {
	c.read.Add(uint64(s.ReadBytes))
	c.kept.Add(uint64(s.KeptChunks+s.KnownChunks) * chunkBytes)
	if replaces {
		// What was stored replaces about as much: an estimate, which decides when to recount.
		c.dropped.Add(uint64(s.StoredBytes))
	}
}

func (c *counts) inode(n *logical.Inode, sign int64) {
	switch {
	case n == nil:
		return
	case n.IsDir():
		c.dirs += sign
		return
	case n.IsRegular():
		c.logical += sign * int64(n.Size)
	}
	c.files += sign
}

// progress calls Options.Progress twice a second until stop is called, which waits.
func (j *job) progress() (stop func()) {
	if j.o.Progress == nil {
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(500 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-end:
				return
			case <-t.C:
				j.o.Progress(j.now())
			}
		}
	}()
	return func() { close(end); <-ended }
}

// now says how far the job is.
func (j *job) now() Progress {
	p := Progress{Files: j.count.visited.Load(), Read: uint64(j.count.done.Load()), Kept: j.count.kept.Load(), Committing: j.count.committing.Load()}
	p.Stored = uint64(j.packs.Stored().Bytes)
	if j.from == nil { // of a part of a volume, nobody knows how much it is
		info := j.to.Info()
		p.FilesTotal, p.ReadTotal = info.Inodes, uint64(info.Bytes)
	}
	return p
}

// countInode counts an inode that is new or gone (n is nil), or whose attributes changed.
func (j *job) countInode(ctx context.Context, k logical.Key, n *logical.Inode) error {
	j.count.visited.Add(1)
	j.count.inode(n, 1)
	if j.from == nil {
		return nil // all of the new state is counted
	}
	v, ok, err := j.old.Get(ctx, k)
	if err != nil || !ok {
		return err
	}
	old, err := fact.DecodeInode(v)
	if err != nil {
		return fmt.Errorf("earlier snapshot: inode %d: %w", k.Ino, err)
	}
	if n == nil && old.IsRegular() {
		j.count.dropped.Add(old.Size)
	}
	j.count.inode(&old, -1)
	return nil
}
