package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"

	"github.com/sealvol/sealvol/pkg/selfenc"
)

// Chunks keeps the chunks of one encoding in a store. The key of a chunk is ENCODING/XX/NAME, with
// the name in hexadecimal digits. XX are its first two digits, so that no directory grows too
// large.
type Chunks struct {
	store    Store
	encoding selfenc.Encoding
}

// NewChunks returns the chunks of an encoding in store.
func NewChunks(store Store, e selfenc.Encoding) *Chunks { return &Chunks{store, e} }

// maxStoredBytes is more than the stored form of any chunk.
const maxStoredBytes = 80 << 20

func (c *Chunks) key(name selfenc.Name) string {
	s := name.String()
	return path.Join(c.encoding.String(), s[:2], s)
}

// GetChunk implements selfenc.ChunkStore.
func (c *Chunks) GetChunk(ctx context.Context, name selfenc.Name, room []byte, limit int) ([]byte, error) {
	b, err := c.store.Get(ctx, c.key(name), room, limit)
	return b, chunkError(err)
}

// chunkError translates err to an error of selfenc.
func chunkError(err error) error {
	switch {
	case errors.Is(err, ErrNotFound):
		return fmt.Errorf("%w: %w", selfenc.ErrNoSuchChunk, err)
	case errors.Is(err, ErrTooLarge):
		return fmt.Errorf("%w: %w", selfenc.ErrChunkTooLarge, err)
	}
	return err
}

// PutChunk implements selfenc.ChunkStore. If the chunk exists with another length, it was damaged
// in the store, and is replaced.
func (c *Chunks) PutChunk(ctx context.Context, name selfenc.Name, data []byte) error {
	created, err := c.store.Put(ctx, c.key(name), data)
	if err != nil || created {
		return err
	}
	info, err := c.store.Stat(ctx, c.key(name))
	if err == nil && info.Bytes == int64(len(data)) {
		return nil
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	return c.store.Replace(ctx, c.key(name), data)
}

// HasChunk reports whether a chunk exists, and the length of its stored form.
func (c *Chunks) HasChunk(ctx context.Context, name selfenc.Name) (bytes int64, ok bool, err error) {
	info, err := c.store.Stat(ctx, c.key(name))
	if errors.Is(err, ErrNotFound) {
		return 0, false, nil
	}
	return info.Bytes, err == nil, err
}

// DeleteChunk removes a chunk. It is not an error if the chunk does not exist.
func (c *Chunks) DeleteChunk(ctx context.Context, name selfenc.Name) error {
	return c.store.Delete(ctx, c.key(name))
}

// ListChunks yields the names and stored lengths of all chunks, by name. For objects whose keys are
// not those of chunks, it yields errors and continues.
func (c *Chunks) ListChunks(ctx context.Context) iter.Seq2[ChunkInfo, error] {
	return func(yield func(ChunkInfo, error) bool) {
		for info, err := range c.store.List(ctx, c.encoding.String()+"/", "") {
			if err != nil {
				yield(ChunkInfo{}, err)
				return
			}
			name, err := selfenc.ParseName(path.Base(info.Key))
			if err == nil && c.key(name) != info.Key {
				err = errors.New("not at the place of this chunk")
			}
			if err != nil {
				err = objectError("list", info.Key, err)
			}
			if !yield(ChunkInfo{name, info}, err) {
				return
			}
		}
	}
}

// ChunkInfo contains the properties of a stored chunk.
type ChunkInfo struct {
	Name selfenc.Name
	Info
}

// CheckChunk reads a chunk and verifies its name. This needs no key.
func (c *Chunks) CheckChunk(ctx context.Context, name selfenc.Name) error {
	b, err := c.GetChunk(ctx, name, nil, maxStoredBytes)
	if err != nil {
		return err
	}
	if c.encoding.NameOf(b) != name {
		return objectError("check", c.key(name), selfenc.ErrCorrupt)
	}
	return nil
}
