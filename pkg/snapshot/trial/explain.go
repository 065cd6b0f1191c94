package trial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
	"github.com/sealvol/sealvol/pkg/snapshot/verify"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// restored is what is compared: a mounted volume.
type restored interface {
	vfs.Reader
	vfs.Flagger
}

// comparison finds what differs between a snapshot and a restored volume. It reads the volume as
// programs do, and compares fact by fact: attributes, flags, parents, names and look-ups, extended
// attributes, small content; large content by the identity of each chunk, so that nothing is
// downloaded again. One thing escapes it: the name that the inode of a file records for messages,
// which vfs does not show.
type comparison struct {
	t     *Trial
	m     *merkle.Map
	v     restored
	mu    sync.Mutex      // one call of Options.Problem at a time
	count uint64          // of inodes
	group *errgroup.Group // reads content
	rooms chan []byte

	ino    uint64
	inode  logical.Inode
	there  bool // ino exists in the volume, with this type
	body   bool // it has content, as a fact
	xattrs map[string]bool
	names  dirReader
}

// explain calls Options.Problem for everything that differs.
func (t *Trial) explain(ctx context.Context, v restored) error {
	n := runtime.GOMAXPROCS(0)
	c := &comparison{t: t, m: t.sn.RestoreSource().Map, v: v, rooms: make(chan []byte, n)}
	var inner context.Context
	c.group, inner = errgroup.WithContext(ctx)
	c.group.SetLimit(n)
	err := c.facts(inner)
	if e := c.group.Wait(); e != nil {
		err = e // the other one follows from it
	}
	if err != nil {
		return err
	}
	s := v.StatFS()
	if have := s.Inodes - s.InodesFree; have != c.count {
		c.differs(0, 0, "the volume has %d files and directories instead of %d", have, c.count)
	}
	return nil
}

// differs reports a difference.
func (c *comparison) differs(ino, off uint64, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	where := ""
	if ino != 0 {
		where = fmt.Sprintf("inode %d: ", ino)
	}
	c.t.o.Problem(verify.Problem{Ino: ino, Off: off, Err: fmt.Errorf("%s%w: %w", where, ErrDiffers, fmt.Errorf(format, args...))})
}

func (c *comparison) facts(ctx context.Context) error {
	for x, err := range c.m.Scan(ctx, logical.Key{}, merkle.LastKey) {
		if err == nil && x.Key.Ino != c.ino {
			c.next(x.Key.Ino)
		}
		if err == nil {
			err = c.fact(ctx, &x)
		}
		if err != nil {
			return err
		}
	}
	c.next(0)
	return nil
}

// next ends an inode, and begins another one.
func (c *comparison) next(ino uint64) {
	if c.there {
		c.end()
	}
	c.ino, c.there, c.body, c.xattrs, c.names = ino, false, false, nil, dirReader{}
}

func (c *comparison) fact(ctx context.Context, x *merkle.Item) error {
	if x.Key.Type == logical.InodeType {
		n, err := fact.DecodeInode(x.Value)
		if err != nil {
			return err
		}
		c.count++
		c.inode = n
		c.there = c.attributes()
		return nil
	}
	if !c.there {
		return nil // told
	}
	switch x.Key.Type {
	case logical.InlineType:
		c.body = true
		c.inline(x.Value)
	case logical.XattrType:
		a, err := fact.DecodeXattr(x.Value)
		if err != nil {
			return err
		}
		c.xattr(&a)
	case logical.NameType:
		n, err := fact.DecodeName(x.Value)
		if err != nil {
			return err
		}
		c.name(x.Key.Sub, &n)
	case logical.DataType:
		c.body = true
		o, err := fact.DecodeData(x.Value)
		if err != nil {
			return err
		}
		return c.data(ctx, &o)
	}
	return nil
}

// differ reports a difference of the current inode.
func (c *comparison) differ(format string, args ...any) { c.differs(c.ino, 0, format, args...) }

// attributes compares an inode alone. It returns false if there is nothing more to compare.
func (c *comparison) attributes() bool {
	ino, n := vfs.Ino(c.ino), &c.inode
	a, err := c.v.GetAttr(ino)
	if err != nil {
		c.differ("%w", err)
		return false
	}
	if a.Mode&logical.TypeMask != n.Mode&logical.TypeMask {
		c.differ("its mode is %#o instead of %#o", a.Mode, n.Mode)
		return false
	}
	if n.IsDir() {
		a.Size = n.Size // of a directory, it is another number: its names are compared
	}
	want := vfs.Attr{Ino: ino, Mode: n.Mode, Nlink: n.Nlink, UID: n.UID, GID: n.GID, Rdev: n.Rdev, Size: n.Size, Blocks: a.Blocks,
		Atime: n.Atime, Mtime: n.Mtime, Ctime: n.Ctime, Btime: n.Btime}
	if a != want {
		c.differ("its attributes are %s instead of %s", describe(&a), describe(&want))
	}
	if flags, err := c.v.Flags(ino); err != nil {
		c.differ("%w", err)
	} else if flags != n.Flags {
		c.differ("its flags are %#x instead of %#x", flags, n.Flags)
	}
	if n.IsDir() {
		if parent, err := c.v.Parent(ino); err != nil {
			c.differ("%w", err)
		} else if uint64(parent) != n.Parent {
			c.differ("its parent is directory %d instead of %d", parent, n.Parent)
		}
	}
	return true
}

func describe(a *vfs.Attr) string {
	t := func(t vfs.Timespec) string { return fmt.Sprintf("%d.%09d", t.Sec, t.Nsec) }
	return fmt.Sprintf("(mode %#o, links %d, owner %d:%d, device %#x, size %d, atime %s, mtime %s, ctime %s, btime %s)",
		a.Mode, a.Nlink, a.UID, a.GID, a.Rdev, a.Size, t(a.Atime), t(a.Mtime), t(a.Ctime), t(a.Btime))
}

func (c *comparison) inline(want []byte) {
	var got []byte
	var err error
	if c.inode.IsSymlink() {
		var target string
		target, err = c.v.Readlink(vfs.Ino(c.ino))
		got = []byte(target)
	} else {
		got = make([]byte, len(want))
		var n int
		n, err = c.v.Read(vfs.Ino(c.ino), 0, got)
		got = got[:n]
	}
	switch {
	case err != nil:
		c.differ("content: %w", err)
	case !bytes.Equal(got, want):
		c.differ("its content of %d bytes differs", len(want))
	}
}

func (c *comparison) xattr(want *logical.Xattr) {
	if c.xattrs == nil {
		c.xattrs = map[string]bool{}
	}
	c.xattrs[want.Name] = true
	got, err := c.v.GetXattr(vfs.Ino(c.ino), want.Name)
	switch {
	case err != nil:
		c.differ("attribute %q: %w", want.Name, err)
	case !bytes.Equal(got, want.Value):
		c.differ("the value of attribute %q differs", want.Name)
	}
}

// name compares the next name of a directory.
func (c *comparison) name(sub uint64, want *logical.Name) {
	for {
		got, ok, err := c.names.peek(c.v, vfs.Ino(c.ino))
		switch {
		case err != nil:
			c.differ("names: %w", err)
			c.there = false
			return
		case !ok || got.Cookie > sub:
			c.differ("the name %q is missing", want.Name)
			return
		case got.Cookie < sub:
			c.differ("it has the name %q, which the snapshot has not", got.Name)
			c.names.skip()
			continue
		}
		c.names.skip()
		if got.Name != want.Name || uint64(got.Ino) != want.Ino || got.Type != want.Type {
			c.differ("it has the name %q of inode %d with type %#o instead of %q of inode %d with type %#o", got.Name, got.Ino, got.Type, want.Name, want.Ino, want.Type)
			return
		}
		if a, err := c.v.Lookup(vfs.Ino(c.ino), want.Name); err != nil {
			c.differ("name %q: %w", want.Name, err)
		} else if uint64(a.Ino) != want.Ino || a.Mode&logical.TypeMask != want.Type {
			c.differ("the name %q leads to inode %d of mode %#o instead of inode %d with type %#o", want.Name, a.Ino, a.Mode, want.Ino, want.Type)
		}
		return
	}
}

// end looks for what the volume has and the snapshot has not.
func (c *comparison) end() {
	ino, n := vfs.Ino(c.ino), &c.inode
	list, err := c.v.ListXattr(ino)
	if err != nil {
		c.differ("attributes: %w", err)
	}
	for _, name := range list {
		if !c.xattrs[name] {
			c.differ("it has the attribute %q, which the snapshot has not", name)
		}
	}
	switch {
	case n.IsRegular() && n.Size > 0 && !c.body:
		c.hole(c.ino, 0, n.Size)
	case n.IsDir():
		for {
			d, ok, err := c.names.peek(c.v, ino)
			if err != nil {
				c.differ("names: %w", err)
			}
			if !ok {
				return
			}
			c.differ("it has the name %q, which the snapshot has not", d.Name)
			c.names.skip()
		}
	}
}

// dirReader reads the names of one directory, some at a time.
type dirReader struct {
	list   []vfs.Dirent
	cookie uint64
	end    bool
}

const dirBatch = 256

// peek returns the next name.
func (r *dirReader) peek(v vfs.Reader, dir vfs.Ino) (d vfs.Dirent, ok bool, err error) {
	if len(r.list) == 0 && !r.end {
		err = v.ReadDir(dir, r.cookie, false, func(d vfs.Dirent, _ *vfs.Attr) bool {
			r.list = append(r.list, d)
			return len(r.list) < dirBatch
		})
		r.end = err != nil || len(r.list) == 0
	}
	if err != nil || len(r.list) == 0 {
		return d, false, err
	}
	return r.list[0], true, nil
}

// skip goes behind the name that peek returned.
func (r *dirReader) skip() {
	r.cookie = r.list[0].Cookie
	r.list = r.list[1:]
}

// hole checks that a part of a file has no data.
func (c *comparison) hole(ino, from, to uint64) {
	if from >= to {
		return
	}
	at, err := c.v.SeekData(vfs.Ino(ino), from)
	switch {
	case errors.Is(err, vfs.ErrNoData):
	case err != nil:
		c.differs(ino, from, "content at %d: %w", from, err)
	case at < to:
		c.differs(ino, at, "it has data at %d, where the snapshot has a hole", at)
	}
}
