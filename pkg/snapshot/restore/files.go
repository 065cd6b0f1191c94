package restore

import (
	"context"
	"fmt"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/snapshot/fetch"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
	"github.com/sealvol/sealvol/pkg/volume/vfs/copyout"
)

// Files reads the content of single files, many at once, in the order in which it lies in packs. It
// is a copyout.Fetcher.
type Files struct {
	ctx    context.Context //nolint:containedctx // Fetcher has none; it ends all reads
	src    Source
	window []fetch.Chunk
}

// NewFiles returns a Files whose reads end with ctx.
func NewFiles(ctx context.Context, src Source) *Files { return &Files{ctx: ctx, src: src} }

// Add implements copyout.Fetcher.
func (f *Files) Add(ino vfs.Ino, s copyout.Sink) error {
	small, ok, err := f.src.Map.Get(f.ctx, logical.Key{Ino: uint64(ino), Type: logical.InlineType})
	if err != nil {
		return err
	}
	if ok {
		return s.Write(ino, small, 0)
	}
	b, ok, err := f.src.Map.Get(f.ctx, logical.Key{Ino: uint64(ino), Type: logical.DataType})
	if err != nil || !ok {
		return err
	}
	o, err := fact.DecodeData(b)
	if err != nil {
		return fmt.Errorf("inode %d: %w", ino, err)
	}
	return f.src.Sealer.Refs(f.ctx, &o, 0, func(i int64, ref *selfenc.PackedRef) error {
		f.window = append(f.window, fetch.Chunk{Ref: *ref, Ino: uint64(ino), Off: uint64(i) * uint64(o.ChunkBytes)})
		if len(f.window) < fetch.WindowChunks {
			return nil
		}
		return f.Flush(s)
	})
}

// Flush implements copyout.Fetcher.
func (f *Files) Flush(s copyout.Sink) error {
	r := *f.src.Fetch
	r.Failed = func(c *fetch.Chunk, err error) error {
		if f.ctx.Err() != nil {
			return context.Cause(f.ctx)
		}
		s.Failed(vfs.Ino(c.Ino), err)
		return nil
	}
	err := r.Chunks(f.ctx, f.window, func(c *fetch.Chunk, plain []byte) error { return s.Write(vfs.Ino(c.Ino), plain, c.Off) })
	f.window = f.window[:0]
	return err
}
