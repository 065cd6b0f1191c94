package volume

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// ChangeKind is what happened to a path between two states of a volume.
type ChangeKind int

// Kinds of changes.
const (
	Created  ChangeKind = iota + 1 // the inode is new
	Removed                        // the inode has no name any more
	Renamed                        // from OldPath
	Linked                         // one more name of an inode that was there
	Unlinked                       // one name less of an inode that is still there
	Modified                       // content
	Changed                        // attributes only
)

func (k ChangeKind) String() string {
	return [...]string{"", "created", "removed", "renamed", "linked", "unlinked", "modified", "changed"}[k]
}

// ByteRange is bytes [Off, Off+Len) of a file.
type ByteRange struct{ Off, Len uint64 }

// Change is one of the differences that Diff finds. What is new is not reported
// as modified as well.
type Change struct {
	Kind    ChangeKind
	Ino     vfs.Ino
	Type    uint32 // S_IFMT bits
	Path    string // absolute; where it was, for what was removed or unlinked
	OldPath string // Renamed only
	// Ranges of content that may differ (Modified, with DiffOptions.Ranges), in
	// whole sectors but for the end of the file. A file with many has several
	// changes that follow one another.
	Ranges []ByteRange
}

// DiffOptions for Diff.
type DiffOptions struct {
	Ranges bool // tell which bytes of files were modified
}

// changeRanges is how many ranges one Change has.
const changeRanges = 512

// Diff tells what is different in snapshot to against snapshot from, or in the
// head if to is "". It calls fn for one change after another, in no order that
// means anything, until fn returns an error, which is returned. Closing the
// volume ends it, once fn has returned. Time and memory
// are bounded by what is different, not by what there is; only names of inodes
// that an earlier version of the format wrote need one pass over all names.
func (v *Volume) Diff(from, to string, opts DiffOptions, fn func(Change) error) error {
	ctx, leave, err := v.begin(context.Background(), fmt.Sprintf("diff %d", diffs.Add(1))) // any number
	if err != nil {
		return err
	}
	defer leave()
	d := &differ{v: v, ctx: ctx, opts: opts, fn: fn}
	a, end, err := v.hold(from)
	if err != nil {
		return err
	}
	defer end()
	var b layout.Snapshot
	if to == "" {
		b, end, err = v.holdHead()
	} else {
		b, end, err = v.hold(to)
	}
	if err != nil {
		return err
	}
	defer end()
	d.a, d.b = newDiffSide(v, &a), newDiffSide(v, &b)
	err = tree.Diff(v.cache, a.Tree, b.Tree, d.item)
	if err == nil {
		err = d.endInode()
	}
	if err == nil {
		err = d.search()
	}
	return txn.Wrap(err)
}

// diffs counts calls of Diff, to tell them apart.
var diffs atomic.Uint64

// hold keeps a snapshot from being deleted until end.
func (v *Volume) hold(name string) (x layout.Snapshot, end func(), err error) {
	t, err := v.find(name, func(t *snapshot) { t.holds++ })
	if err != nil {
		return x, nil, err
	}
	end = func() { v.unhold(t) }
	if x, err = v.readSnapshot(t); err != nil {
		end()
	}
	return x, end, err
}

// differ compares two states.
type differ struct {
	v    *Volume
	ctx  context.Context // ends when the volume is closed
	opts DiffOptions
	fn   func(Change) error
	a, b *diffSide
	in   diffInode
	lost []Change // of which the path is not known yet
}

// diffSide is one of the states.
type diffSide struct {
	items.Lookup
	dirs map[uint64]string // paths of some directories
}

func newDiffSide(v *Volume, x *layout.Snapshot) *diffSide {
	return &diffSide{Lookup: items.Lookup{Tree: tree.New(tree.Config{ID: layout.TreeFS, Cache: v.cache}, x.Tree, x.Generation+1)}, dirs: map[uint64]string{}}
}

// diffInode is the inode whose items are compared.
type diffInode struct {
	ino            uint64
	attrs, content bool
	names          bool
	ranges         rangeMerger
	out            []ByteRange
}

func (d *differ) item(k layout.Key, a, b []byte) error {
	if d.ctx.Err() != nil {
		return context.Cause(d.ctx)
	}
	if k.Obj == 0 {
		return nil
	}
	if k.Obj != d.in.ino {
		if err := d.endInode(); err != nil {
			return err
		}
		d.in = diffInode{ino: k.Obj}
	}
	in := &d.in
	switch k.Type {
	case layout.KeyInode:
		in.attrs = true
	case layout.KeyInline:
		in.content = true
		if d.opts.Ranges {
			return d.addRange(ByteRange{0, uint64(max(len(a), len(b)))})
		}
	case layout.KeyXattr:
		in.attrs = true
	case layout.KeyName:
		in.names = true
		return d.name(k, a, b)
	case layout.KeyExtent:
		if n := len(a) - layout.FileExtentBytes; a != nil && b != nil && len(a) == len(b) && bytes.Equal(a[:n], b[:n]) {
			break // only whose it is changed
		}
		in.content = true
		if d.opts.Ranges {
			return d.extent(k.Sub, a, b)
		}
	}
	return nil
}

// name compares what a name's item says.
func (d *differ) name(k layout.Key, a, b []byte) error {
	var x, y layout.Name
	var err error
	if a != nil {
		if x, err = layout.DecodeName(a); err != nil {
			return err
		}
	}
	if b != nil {
		if y, err = layout.DecodeName(b); err != nil {
			return err
		}
	}
	if x == y {
		return nil
	}
	if x.Ino != 0 {
		if err := d.nameGone(k, x); err != nil {
			return err
		}
	}
	if y.Ino != 0 {
		return d.nameNew(k, y)
	}
	return nil
}

// isRename tells whether an inode moved: the name that it remembered is another
// one now, or none. Both sides of the move come to the same answer.
func (d *differ) isRename(a, b *layout.Inode, ino uint64) bool {
	if a == nil || b == nil || a.NameSub == 0 || b.NameSub == 0 {
		return false
	}
	return d.a.names(a.Parent, a.NameSub, ino) && d.b.names(b.Parent, b.NameSub, ino) &&
		!d.b.sameName(d.a, a.Parent, a.NameSub) && !d.a.sameName(d.b, b.Parent, b.NameSub)
}

func (d *differ) nameGone(k layout.Key, n layout.Name) error {
	a, b, err := d.inodes(n.Ino)
	if err != nil {
		return err
	}
	kind := Unlinked
	if b == nil || b.Nlink == 0 {
		kind = Removed
	} else if d.isRename(a, b, n.Ino) && a.Parent == k.Obj && a.NameSub == k.Sub {
		return nil // reported under the new name
	}
	path, err := d.a.join(k.Obj, n.Name)
	if err != nil {
		return err
	}
	return d.fn(Change{Kind: kind, Ino: vfs.Ino(n.Ino), Type: n.Type, Path: path})
}

func (d *differ) nameNew(k layout.Key, n layout.Name) error {
	a, b, err := d.inodes(n.Ino)
	if err != nil {
		return err
	}
	c := Change{Kind: Linked, Ino: vfs.Ino(n.Ino), Type: n.Type}
	switch {
	case a == nil || a.Nlink == 0:
		c.Kind = Created
	case d.isRename(a, b, n.Ino) && b.Parent == k.Obj && b.NameSub == k.Sub:
		c.Kind = Renamed
		old, _, err := d.a.nameAt(a.Parent, a.NameSub)
		if err == nil {
			c.OldPath, err = d.a.join(a.Parent, old.Name)
		}
		if err != nil {
			return err
		}
	}
	if c.Path, err = d.b.join(k.Obj, n.Name); err != nil {
		return err
	}
	return d.fn(c)
}

// inodes returns an inode on both sides, nil where it does not exist.
func (d *differ) inodes(ino uint64) (a, b *layout.Inode, err error) {
	if a, err = d.a.get(ino); err == nil {
		b, err = d.b.get(ino)
	}
	return a, b, err
}

func (s *diffSide) get(ino uint64) (*layout.Inode, error) {
	n, err := s.Inode(ino)
	if isStale(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &n, nil
}

// nameAt reads a name's item.
func (s *diffSide) nameAt(dir, sub uint64) (n layout.Name, ok bool, err error) {
	val, ok, err := s.Tree.Get(items.NameKey(dir, sub), nil)
	if err == nil && ok {
		n, err = layout.DecodeName(val)
	}
	return n, ok, err
}

// names tells whether a name's item is that of an inode.
func (s *diffSide) names(dir, sub, ino uint64) bool {
	n, ok, err := s.nameAt(dir, sub)
	return err == nil && ok && n.Ino == ino
}

// sameName tells whether a name's item is the same here as on the other side.
func (s *diffSide) sameName(o *diffSide, dir, sub uint64) bool {
	x, ok, err := s.nameAt(dir, sub)
	y, ok2, err2 := o.nameAt(dir, sub)
	return err == nil && err2 == nil && ok && ok2 && x == y
}

// maxDirs bounds the paths of directories that are remembered.
const maxDirs = 4096

// join is the path of a name in a directory.
func (s *diffSide) join(dir uint64, name string) (string, error) {
	p, err := s.dirPath(dir)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(p, "/") + "/" + name, nil
}

// dirPath is the path of a directory.
func (s *diffSide) dirPath(dir uint64) (string, error) {
	var names []string
	at, base := dir, "/"
	for at != uint64(vfs.RootIno) {
		if p, ok := s.dirs[at]; ok {
			base = p
			break
		}
		in, err := s.Inode(at)
		if err != nil {
			return "", fmt.Errorf("inode %d: %w", at, err)
		}
		var name string
		if n, ok, err := s.nameAt(in.Parent, in.NameSub); err != nil {
			return "", err
		} else if ok && in.NameSub != 0 && n.Ino == at {
			name = n.Name
		} else if _, name, ok = s.Place(at); !ok {
			if in.Nlink == 0 { // removed, and open still
				name = fmt.Sprintf("#%d", at)
			} else {
				return "", fmt.Errorf("%w: directory %d has no name", layout.ErrCorrupt, at)
			}
		}
		if names = append(names, name); len(names) > 1<<16 {
			return "", fmt.Errorf("%w: directory %d lies below itself", layout.ErrCorrupt, dir)
		}
		at = in.Parent
	}
	slices.Reverse(names)
	path := strings.TrimSuffix(base, "/") + "/" + strings.Join(names, "/")
	if len(names) == 0 {
		path = base
	}
	if len(s.dirs) >= maxDirs {
		clear(s.dirs)
	}
	s.dirs[dir] = path
	return path, nil
}

// extent notes the sectors of differing extents.
func (d *differ) extent(sector uint64, a, b []byte) error {
	m := &d.in.ranges
	if err := m.until(sector, d.addRange); err != nil {
		return err
	}
	for i, val := range [2][]byte{a, b} {
		if val == nil {
			continue
		}
		e, err := layout.DecodeFileExtent(val)
		if err != nil {
			return err
		}
		m.cur[i] = items.Placed{Sector: sector, FileExtent: e}
		m.have[i] = true
	}
	return nil
}

// rangeMerger compares two rows of extents that do not overlap among
// themselves; at most one of each is under way.
type rangeMerger struct {
	cur  [2]items.Placed
	have [2]bool
	at   [2]uint64 // how far each is done
}

// until tells the ranges before a sector in which the extents differ.
func (m *rangeMerger) until(sector uint64, fn func(ByteRange) error) error {
	for m.have[0] || m.have[1] {
		from, to := ^uint64(0), sector
		var in [2]bool
		for i := range m.cur {
			if m.have[i] {
				from = min(from, max(m.at[i], m.cur[i].Sector))
			}
		}
		if from >= sector {
			return nil
		}
		for i := range m.cur {
			if !m.have[i] {
				continue
			}
			if start := max(m.at[i], m.cur[i].Sector); start > from {
				to = min(to, start)
			} else {
				in[i] = true
				to = min(to, m.cur[i].End())
			}
		}
		same := in[0] && in[1] && m.cur[0].Nonce == m.cur[1].Nonce &&
			m.cur[0].Addr-m.cur[0].Sector*layout.SectorBytes == m.cur[1].Addr-m.cur[1].Sector*layout.SectorBytes
		if !same {
			if err := fn(ByteRange{from * layout.SectorBytes, (to - from) * layout.SectorBytes}); err != nil {
				return err
			}
		}
		for i := range m.cur {
			if in[i] {
				m.at[i] = to
				m.have[i] = to < m.cur[i].End()
			}
		}
	}
	return nil
}

// addRange adds a range of the inode; when there are many, they are reported.
func (d *differ) addRange(r ByteRange) error {
	in := &d.in
	if r.Len == 0 {
		return nil
	}
	for n := len(in.out); n > 0 && in.out[n-1].Off+in.out[n-1].Len >= r.Off; n-- {
		last := in.out[n-1]
		r, in.out = ByteRange{min(r.Off, last.Off), max(last.Off+last.Len, r.Off+r.Len) - min(r.Off, last.Off)}, in.out[:n-1]
	}
	if len(in.out) == changeRanges {
		if err := d.tell(Modified); err != nil {
			return err
		}
		in.out = nil
	}
	in.out = append(in.out, r)
	return nil
}

// endInode reports what became of an inode that both sides have.
func (d *differ) endInode() error {
	in := &d.in
	if in.ino == 0 {
		return nil
	}
	if err := in.ranges.until(^uint64(0), d.addRange); err != nil {
		return err
	}
	a, b, err := d.inodes(in.ino)
	if err != nil || a == nil || b == nil || a.Nlink == 0 || b.Nlink == 0 {
		return err // created or removed: its names say so
	}
	dir := b.Mode&items.ModeType == items.ModeDir
	if !dir && a.Size != b.Size {
		in.content = true
		if d.opts.Ranges {
			if err := d.addRange(ByteRange{min(a.Size, b.Size), max(a.Size, b.Size) - min(a.Size, b.Size)}); err != nil {
				return err
			}
		}
	}
	if n := len(in.out); n > 0 { // the last sector goes beyond the end
		last := &in.out[n-1]
		last.Len = min(last.Len, max(a.Size, b.Size, last.Off)-last.Off)
	}
	switch {
	case in.content:
		return d.tell(Modified)
	case in.attrs && !onlyNames(a, b, in.names):
		return d.tell(Changed)
	}
	return nil
}

// onlyNames tells whether attributes differ only as they do when names change:
// those of the inode itself, or, with names, those in a directory.
func onlyNames(a, b *layout.Inode, names bool) bool {
	x, y := *a, *b
	x.Ctime, x.Parent, x.NameSub, x.Nlink = y.Ctime, y.Parent, y.NameSub, y.Nlink
	moved := a.Parent != b.Parent || a.NameSub != b.NameSub || a.Nlink != b.Nlink
	if names && a.Mode&items.ModeType == items.ModeDir {
		x.Mtime, x.Size = y.Mtime, y.Size
		moved = true
	}
	return moved && x == y
}

// tell reports a change of the inode under its name.
func (d *differ) tell(kind ChangeKind) error {
	_, b, err := d.inodes(d.in.ino)
	if err != nil || b == nil || b.Nlink == 0 {
		return err
	}
	c := Change{Kind: kind, Ino: vfs.Ino(d.in.ino), Type: b.Mode & items.ModeType, Ranges: d.in.out}
	if d.in.ino == uint64(vfs.RootIno) {
		c.Path = "/"
		return d.fn(c)
	}
	if b.Mode&items.ModeType == items.ModeDir {
		if c.Path, err = d.b.dirPath(d.in.ino); err != nil {
			return err
		}
		return d.fn(c)
	}
	n, ok, err := d.b.nameAt(b.Parent, b.NameSub)
	if err != nil {
		return err
	}
	if ok && n.Ino == d.in.ino {
		if c.Path, err = d.b.join(b.Parent, n.Name); err != nil {
			return err
		}
		return d.fn(c)
	}
	// The name that it remembers is gone, another one is left.
	if d.lost = append(d.lost, c); len(d.lost) >= changeRanges {
		return d.search()
	}
	return nil
}

// search finds the names of inodes that remember none, all in one pass.
func (d *differ) search() error {
	if len(d.lost) == 0 {
		return nil
	}
	type at struct {
		dir  uint64
		name string
	}
	places := map[uint64]at{}
	for _, c := range d.lost {
		places[uint64(c.Ino)] = at{}
	}
	var derr error
	left := len(places)
	err := d.b.Tree.Scan(layout.Key{Obj: 1}, layout.Key{Obj: ^uint64(0), Type: 0xff, Sub: ^uint64(0)}, func(k layout.Key, val []byte) bool {
		if k.Type != layout.KeyName {
			return true
		}
		var n layout.Name
		if n, derr = layout.DecodeName(val); derr != nil {
			return false
		}
		if p, ok := places[n.Ino]; ok && p.dir == 0 {
			places[n.Ino] = at{k.Obj, n.Name}
			left--
		}
		return left > 0
	})
	if err = cmp.Or(err, derr); err != nil {
		return err
	}
	paths := map[uint64]string{}
	for _, ino := range slices.Sorted(maps.Keys(places)) {
		p := places[ino]
		if p.dir == 0 {
			return fmt.Errorf("%w: inode %d has no name", layout.ErrCorrupt, ino)
		}
		if paths[ino], err = d.b.join(p.dir, p.name); err != nil {
			return err
		}
	}
	for _, c := range d.lost {
		c.Path = paths[uint64(c.Ino)]
		if err := d.fn(c); err != nil {
			return err
		}
	}
	d.lost = d.lost[:0]
	return nil
}
