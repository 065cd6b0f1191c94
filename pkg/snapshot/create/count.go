package create

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// counts are the numbers of a snapshot. The walk alone changes those of files.
type counts struct {
	files, dirs, logical int64 // of the new state, as differences to the base's
	visited              atomic.Uint64
	read, kept, dropped  atomic.Uint64 // bytes of content
}

func (c *counts) update(s *selfenc.UpdateStats) {
	c.read.Add(uint64(s.ReadBytes))
	c.kept.Add(uint64(s.KeptChunks))
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
	j.count.inode(&old, -1)
	return nil
}
