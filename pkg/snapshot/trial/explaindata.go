package trial

import (
	"context"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// data compares the content of a file.
func (c *comparison) data(ctx context.Context, o *selfenc.PackedObject) error {
	ino, size, chunk := c.ino, uint64(o.Bytes), uint64(o.ChunkBytes)
	end := uint64(0) // of what was compared
	err := c.t.sn.RestoreSource().Sealer.Refs(ctx, o, 0, func(i int64, r *selfenc.PackedRef) error {
		off := uint64(i) * chunk
		c.hole(ino, end, off)
		end = min(off+chunk, size)
		want, n := r.D, end-off
		c.group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return c.chunk(ino, off, n, &want)
		})
		return nil
	})
	if err == nil {
		c.hole(ino, end, size)
	}
	return err
}

// chunk compares one chunk, of n bytes, by its identity.
func (c *comparison) chunk(ino, off, n uint64, want *[32]byte) error {
	var room []byte
	select {
	case room = <-c.rooms:
	default:
	}
	if uint64(len(room)) < n {
		room = make([]byte, n)
	}
	defer func() { c.rooms <- room }()
	got, err := c.v.Read(vfs.Ino(ino), off, room[:n])
	if err != nil {
		c.differs(ino, off, "content at %d: %w", off, err)
		return nil
	}
	id, err := c.t.o.Tenant.ChunkID(crypto.ChunkData, room[:got])
	if err != nil {
		return err
	}
	if uint64(got) != n || id != *want {
		c.differs(ino, off, "its content at %d differs", off)
	}
	return nil
}
