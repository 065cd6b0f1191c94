package verify

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/selfenc/chunkstore"
	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/snapshot/fetch"
	"github.com/sealvol/sealvol/pkg/snapshot/format"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
	"github.com/sealvol/sealvol/pkg/snapshot/pack"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/logical/whole"
	"github.com/sealvol/sealvol/pkg/volume/namehash"
)

// Level says how much is checked. Each includes those below.
type Level int

// Levels.
const (
	Present  Level = iota // every pack is there and has its length: no key is needed
	Metadata              // every node of the map, and of the maps of files, is read, and its facts make a whole volume
	Data                  // content is read
)

// Source is the snapshot. Present needs Store and Head only.
type Source struct {
	Store  chunkstore.Store
	Head   *format.Head
	List   *pack.List
	Map    *merkle.Map
	Sealer *selfenc.PackedSealer
	Fetch  *fetch.Fetcher
	Names  namehash.Hasher // of the volume
}

// Options of Run.
type Options struct {
	Level Level
	// Rounds and Round choose a sample of content: packs of one of so many parts. Rounds 0 or 1:
	// all of it.
	Rounds, Round int
	// Problem is called for each problem, one at a time.
	Problem func(Problem)
	// Progress is called now and then. Nil: nobody.
	Progress func(Report)
	// Parallel is how many requests run at once. 0: 16.
	Parallel int
}

// Problem is something that does not verify.
type Problem struct {
	Pack format.Name // zero: none
	Ino  uint64      // 0: the map itself
	Off  uint64      // of the content
	Err  error
}

func (p Problem) Error() string { return p.Err.Error() }

// Report counts what was checked.
type Report struct {
	Packs  uint64 // present
	Nodes  uint64 // of the map
	Inodes uint64
	Chunks uint64 // of content
	Bytes  uint64 // of content, as plaintext
	// Room is about the bytes that a volume needs for all this: content in whole blocks, without
	// holes, and the rest. Metadata counts it.
	Room     uint64
	Problems uint64
}

const defaultParallel = 16

type checker struct {
	src    Source
	o      Options
	mu     sync.Mutex
	chunks atomic.Uint64
	bytes  atomic.Uint64
	r      Report // guarded by mu while anything runs concurrently
	window []fetch.Chunk
	facts  facts
}

const (
	// blockBytes are those of a volume's blocks.
	blockBytes = 4096
	// factBytes is about what a volume adds to a fact, such as its key.
	factBytes = 64
)

// Run verifies. It returns an error only if it could not go on; problems are counted in the report.
func Run(ctx context.Context, src Source, o Options) (Report, error) {
	if o.Parallel == 0 {
		o.Parallel = defaultParallel
	}
	c := &checker{src: src, o: o, facts: facts{names: src.Names, whole: whole.New()}}
	err := c.present(ctx)
	if err == nil && o.Level >= Metadata {
		err = c.metadata(ctx)
	}
	if err == nil && o.Level >= Data {
		err = c.flush(ctx)
	}
	c.r.Chunks, c.r.Bytes = c.chunks.Load(), c.bytes.Load()
	if src.Map != nil {
		c.r.Nodes = uint64(src.Map.Reads())
	}
	return c.r, err
}

func (c *checker) problem(p Problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.Problems++
	if c.o.Problem != nil {
		c.o.Problem(p)
	}
}

// ends reports whether an error is about the caller or the store as a whole, not about one object.
func ends(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, chunkstore.ErrDenied)
}

// present looks for every pack of the list.
func (c *checker) present(ctx context.Context) error {
	list := c.src.List
	if list == nil {
		list = pack.NewList(c.src.Store, c.src.Head)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.o.Parallel)
	for i := range c.src.Head.Pages {
		packs, err := list.Page(ctx, i)
		if err != nil {
			if ends(ctx, err) {
				return errors.Join(err, g.Wait())
			}
			c.problem(Problem{Pack: c.src.Head.Pages[i].Name, Err: err})
			continue
		}
		for _, e := range packs {
			g.Go(func() error { return c.pack(ctx, &e) })
		}
	}
	return g.Wait()
}

func (c *checker) pack(ctx context.Context, e *format.PackEntry) error {
	info, err := c.src.Store.Stat(ctx, e.Name.Key())
	if err == nil && info.Bytes != int64(e.Bytes) {
		err = fmt.Errorf("%w: it has %d bytes instead of %d", pack.ErrDamaged, info.Bytes, e.Bytes)
	}
	if err != nil {
		if ends(ctx, err) {
			return err
		}
		c.problem(Problem{Pack: e.Name, Err: fmt.Errorf("pack %d (%s): %w", e.Number, e.Name, err)})
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.Packs++
	return nil
}

// metadata reads the map and, file by file, the maps of content. With Data it collects chunks.
func (c *checker) metadata(ctx context.Context) error {
	for x, err := range c.src.Map.Scan(ctx, logical.Key{}, merkle.LastKey) {
		if err != nil {
			if ends(ctx, err) {
				return err
			}
			c.problem(Problem{Err: err})
			return nil // what lies behind cannot be found
		}
		if err := c.fact(ctx, &x); err != nil {
			return err
		}
	}
	return c.finish(ctx)
}

func (c *checker) fact(ctx context.Context, x *merkle.Item) error {
	c.r.Room += 3 * (uint64(len(x.Value)) + factBytes) // pages of the tree are not full, and are replaced
	if x.Key.Type == logical.InodeType {
		if c.r.Inodes++; c.r.Inodes%4096 == 0 {
			c.report()
		}
	}
	if ino, err := c.facts.add(x); err != nil {
		c.problem(Problem{Ino: ino, Err: fmt.Errorf("inode %d: %w", ino, err)})
		return nil
	}
	if x.Key.Type != logical.DataType {
		return nil
	}
	o, err := fact.DecodeData(x.Value)
	if err == nil {
		err = c.src.Sealer.Refs(ctx, &o, 0, func(i int64, ref *selfenc.PackedRef) error {
			return c.chunk(ctx, fetch.Chunk{Ref: *ref, Ino: x.Key.Ino, Off: uint64(i) * uint64(o.ChunkBytes)})
		})
	}
	if err != nil {
		if ends(ctx, err) {
			return err
		}
		c.problem(Problem{Ino: x.Key.Ino, Err: fmt.Errorf("inode %d: %w", x.Key.Ino, err)})
	}
	return nil
}

// chunk checks that the list has the pack of a chunk, and collects it.
func (c *checker) chunk(ctx context.Context, x fetch.Chunk) error {
	blocks := (uint64(x.Ref.Length) + blockBytes - 1) / blockBytes * blockBytes
	c.r.Room += blocks + blocks/32 // with tags
	e, err := c.src.List.Find(ctx, x.Ref.Pack)
	if err == nil && (x.Ref.Slot >= e.Slots || uint64(x.Ref.Offset)+uint64(x.Ref.Stored) > uint64(e.Bytes)) {
		err = fmt.Errorf("pack %d (%s): %w: it has no slot %d", e.Number, e.Name, pack.ErrDamaged, x.Ref.Slot)
	}
	if err != nil {
		if ends(ctx, err) {
			return err
		}
		c.problem(Problem{Pack: e.Name, Ino: x.Ino, Off: x.Off, Err: fmt.Errorf("inode %d: content at %d: %w", x.Ino, x.Off, err)})
		return nil
	}
	if c.o.Level < Data || !c.sampled(&e) {
		return nil
	}
	if c.window = append(c.window, x); len(c.window) < fetch.WindowChunks {
		return nil
	}
	return c.flush(ctx)
}

// sampled reports whether a pack belongs to the round. Its name is a hash, and so is as random as
// anything.
func (c *checker) sampled(e *format.PackEntry) bool {
	return c.o.Rounds <= 1 || binary.LittleEndian.Uint64(e.Name.Sum[:])%uint64(c.o.Rounds) == uint64(c.o.Round)%uint64(c.o.Rounds)
}

// flush reads the collected chunks.
func (c *checker) flush(ctx context.Context) error {
	f := *c.src.Fetch
	f.Failed = func(x *fetch.Chunk, err error) error {
		if ends(ctx, err) {
			return err
		}
		c.problem(Problem{Ino: x.Ino, Off: x.Off, Err: err})
		return nil
	}
	err := f.Chunks(ctx, c.window, func(_ *fetch.Chunk, plain []byte) error {
		c.bytes.Add(uint64(len(plain)))
		if n := c.chunks.Add(1); n%1024 == 0 {
			c.report()
		}
		return nil
	})
	c.window = c.window[:0]
	return err
}

func (c *checker) report() {
	if c.o.Progress == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.r
	r.Chunks, r.Bytes = c.chunks.Load(), c.bytes.Load()
	c.o.Progress(r)
}
