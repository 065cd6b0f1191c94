package restore

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/snapshot/fetch"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// Target takes the facts of a volume: a volume.Loader.
type Target interface {
	// Inode, Inline, Xattr and Name are given facts in the order of their keys; after a restore that
	// died, some of them again.
	Inode(ino uint64, n *logical.Inode) error
	// Inline is given small content.
	Inline(ino uint64, b []byte) error
	// Xattr is given an extended attribute.
	Xattr(ino, sub uint64, x *logical.Xattr) error
	// Name is given a name.
	Name(dir, sub uint64, n *logical.Name) error
	// WriteAt writes content of a file, concurrently.
	WriteAt(ino uint64, p []byte, off uint64) error
	// Commit makes all so far durable, with the position.
	Commit(position []byte) error
	// Finish checks and ends the restore.
	Finish() error
}

// ErrPosition says that a restore cannot go on: it was begun from another snapshot.
var ErrPosition = errors.New("the restore was begun from another snapshot")

// Source is the snapshot.
type Source struct {
	Map    *merkle.Map
	Root   merkle.Root
	Sealer *selfenc.PackedSealer
	Fetch  *fetch.Fetcher
	Files  uint64 // with directories
	Bytes  uint64 // of content
}

// Progress tells how far a restore is.
type Progress struct {
	Inodes, InodesTotal uint64
	Bytes, BytesTotal   uint64
}

// Options of Run.
type Options struct {
	// Position is where an earlier run's last Commit was. Nil: the beginning.
	Position []byte
	Progress func(Progress)
	// CommitEvery is the time between commits. 0: 5 seconds.
	CommitEvery time.Duration
	// WindowChunks is how many chunks of content are sorted by their place before they are read, and
	// come from one position to the next. 0: fetch.WindowChunks.
	WindowChunks int
}

// position is where a restore is: all facts before key are there; with data, all content of files
// before key, and of that file all chunks before chunk.
type position struct {
	content [32]byte // of the snapshot
	data    bool
	key     logical.Key
	chunk   uint64
}

const positionBytes = 1 + 32 + 1 + 8 + 1 + 8 + 8

func (p *position) encode() []byte {
	b := append([]byte{1}, p.content[:]...)
	b = append(b, 0)
	if p.data {
		b[len(b)-1] = 1
	}
	b = binary.LittleEndian.AppendUint64(b, p.key.Ino)
	b = append(b, byte(p.key.Type))
	b = binary.LittleEndian.AppendUint64(b, p.key.Sub)
	return binary.LittleEndian.AppendUint64(b, p.chunk)
}

func decodePosition(b []byte, content [32]byte) (p position, err error) {
	p.content = content
	if b == nil {
		return p, nil
	}
	if len(b) != positionBytes || b[0] != 1 || b[33] > 1 {
		return p, fmt.Errorf("%w: invalid position", ErrPosition)
	}
	if [32]byte(b[1:33]) != content {
		return p, ErrPosition
	}
	p.data = b[33] == 1
	p.key = logical.Key{Ino: binary.LittleEndian.Uint64(b[34:]), Type: logical.Type(b[42]), Sub: binary.LittleEndian.Uint64(b[43:])}
	p.chunk = binary.LittleEndian.Uint64(b[51:])
	return p, nil
}

// run is one restore.
type run struct {
	src    Source
	to     Target
	o      Options
	at     position
	last   time.Time
	done   Progress
	window []fetch.Chunk
}

// Run restores a whole snapshot. After an error the target keeps what the last Commit made durable,
// and Run can go on there.
func Run(ctx context.Context, src Source, to Target, o Options) error {
	if o.CommitEvery == 0 {
		o.CommitEvery = 5 * time.Second
	}
	at, err := decodePosition(o.Position, src.Root.Content)
	if err != nil {
		return err
	}
	r := &run{src: src, to: to, o: o, at: at, last: time.Now()}
	r.done.InodesTotal, r.done.BytesTotal = src.Files, src.Bytes
	if !r.at.data {
		if err := r.facts(ctx); err != nil {
			return err
		}
		r.at = position{content: at.content, data: true}
		if err := r.commit(); err != nil {
			return err
		}
	}
	r.done.Inodes = src.Files
	if err := r.content(ctx); err != nil {
		return err
	}
	return to.Finish()
}

func (r *run) commit() error {
	r.last = time.Now()
	return r.to.Commit(r.at.encode())
}

func (r *run) report() {
	if r.o.Progress != nil {
		r.o.Progress(r.done)
	}
}

// facts gives the target all facts but data.
func (r *run) facts(ctx context.Context) error {
	var fits fact.Fitting
	for x, err := range r.src.Map.Scan(ctx, r.at.key, merkle.LastKey) {
		if err != nil {
			return err
		}
		err := fits.Add(x.Key, x.Value)
		if err == nil {
			err = r.fact(&x)
		}
		if err != nil {
			return fmt.Errorf("inode %d: %w", x.Key.Ino, err)
		}
		if x.Key.Type == logical.InodeType {
			r.done.Inodes++
			if time.Since(r.last) >= r.o.CommitEvery { // at the beginning of an inode: all of it comes again
				r.at.key = x.Key
				if err := r.commit(); err != nil {
					return err
				}
				r.report()
			}
		}
	}
	return nil
}

func (r *run) fact(x *merkle.Item) error {
	k := x.Key
	switch k.Type {
	case logical.InodeType:
		n, err := fact.DecodeInode(x.Value)
		if err != nil {
			return err
		}
		return r.to.Inode(k.Ino, &n)
	case logical.InlineType:
		return r.to.Inline(k.Ino, x.Value)
	case logical.XattrType:
		v, err := fact.DecodeXattr(x.Value)
		if err != nil {
			return err
		}
		return r.to.Xattr(k.Ino, k.Sub, &v)
	case logical.NameType:
		v, err := fact.DecodeName(x.Value)
		if err != nil {
			return err
		}
		return r.to.Name(k.Ino, k.Sub, &v)
	case logical.DataType:
		return nil
	}
	return fmt.Errorf("%w: a fact of type %d", logical.ErrInvalid, k.Type)
}

// content gives the target the content of all larger files.
func (r *run) content(ctx context.Context) error {
	r.window = make([]fetch.Chunk, 0, cmp.Or(r.o.WindowChunks, fetch.WindowChunks))
	from := logical.Key{Ino: max(r.at.key.Ino, 1)}
	for x, err := range r.src.Map.Scan(ctx, from, merkle.LastKey) {
		if err != nil {
			return err
		}
		if x.Key.Type != logical.DataType {
			continue
		}
		o, err := fact.DecodeData(x.Value)
		if err != nil {
			return fmt.Errorf("inode %d: %w", x.Key.Ino, err)
		}
		first := int64(0)
		if x.Key == r.at.key {
			first = int64(r.at.chunk)
		}
		err = r.src.Sealer.Refs(ctx, &o, first, func(i int64, ref *selfenc.PackedRef) error {
			r.window = append(r.window, fetch.Chunk{Ref: *ref, Ino: x.Key.Ino, Off: uint64(i) * uint64(o.ChunkBytes)})
			if len(r.window) < cap(r.window) {
				return nil
			}
			return r.flush(ctx, position{r.at.content, true, x.Key, uint64(i) + 1})
		})
		if err != nil {
			return fmt.Errorf("inode %d: %w", x.Key.Ino, err)
		}
	}
	return r.flush(ctx, position{r.at.content, true, logical.Key{Ino: ^uint64(0)}, 0})
}

// flush restores the window, and makes durable that all before next is there.
func (r *run) flush(ctx context.Context, next position) error {
	progress := make(chan int, 64)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for n := range progress {
			if r.done.Bytes += uint64(n); time.Since(r.last) > 500*time.Millisecond {
				r.last = time.Now()
				r.report()
			}
		}
	}()
	err := r.src.Fetch.Chunks(ctx, r.window, func(c *fetch.Chunk, plain []byte) error {
		progress <- len(plain)
		return r.to.WriteAt(c.Ino, plain, c.Off)
	})
	close(progress)
	<-ended
	if err != nil {
		return err
	}
	r.window, r.at = r.window[:0], next
	return r.commit()
}
