package volume

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// lookup reads single items, for what needs few of them.
type lookup struct{ t *tree.Tree }

func (l *lookup) inode(ino uint64) (layout.Inode, error) {
	v, ok, err := l.t.Get(layout.Key{Obj: ino, Type: layout.KeyInode}, nil)
	if err == nil && !ok {
		err = vfs.ErrStale
	}
	if err != nil {
		return layout.Inode{}, err
	}
	return layout.DecodeInode(v)
}

// place finds the name of a directory in its parent.
func (l *lookup) place(ino uint64) (dir uint64, name string, ok bool) {
	n, err := l.inode(ino)
	if err != nil || n.Mode&modeType != modeDir {
		return 0, "", false
	}
	err = l.t.Scan(nameKey(n.Parent, 0), nameKey(n.Parent, ^uint64(0)), func(_ layout.Key, v []byte) bool {
		x, err := layout.DecodeName(v)
		if err == nil && x.Ino == ino {
			name, ok = x.Name, true
		}
		return !ok
	})
	return n.Parent, name, ok && err == nil
}

// inodeRange is the inodes first to last; zero is none.
type inodeRange struct{ first, last uint64 }

// rangeOf is whose items may lie in the page that covers the keys [lo, hi).
func rangeOf(lo layout.Key, hi *layout.Key) inodeRange {
	r := inodeRange{max(lo.Obj, 1), ^uint64(0)}
	if hi == nil {
		return r
	}
	r.last = hi.Obj
	if hi.Type <= layout.KeyInode && hi.Obj > r.first {
		r.last-- // a page that ends before an inode's first item
	}
	return r
}

func (r inodeRange) String() string {
	switch r.last {
	case r.first:
		return fmt.Sprintf("what it held of inode %d is lost", r.first)
	case ^uint64(0):
		return fmt.Sprintf("what it held of inodes %d and above is lost", r.first)
	}
	return fmt.Sprintf("what it held of inodes %d to %d is lost", r.first, r.last)
}

// What a nameFinder looks for at most.
const (
	maxPaths      = 1000 // inodes
	maxRanges     = 64
	maxRangePaths = 16 // of one range
)

// nameFinder finds the paths of inodes: it is shown all names, and asks for those
// of the directories above.
type nameFinder struct {
	want   map[uint64]string // paths, once they are known
	ranges map[inodeRange][]uint64
	more   map[inodeRange]int // names beyond maxRangePaths
	at     map[uint64]namePlace
}

type namePlace struct {
	dir  uint64
	name string
}

func newNameFinder() *nameFinder {
	return &nameFinder{want: map[uint64]string{}, ranges: map[inodeRange][]uint64{}, more: map[inodeRange]int{}, at: map[uint64]namePlace{}}
}

// add asks for an inode; 0 is none.
func (f *nameFinder) add(ino uint64) {
	if ino != 0 && len(f.want) < maxPaths {
		f.want[ino] = ""
	}
}

// addRange asks for some inodes of a range.
func (f *nameFinder) addRange(r inodeRange) {
	if r != (inodeRange{}) && len(f.ranges) < maxRanges {
		f.ranges[r] = nil
	}
}

func (f *nameFinder) empty() bool { return len(f.want)+len(f.ranges) == 0 }

// see looks at an item of the filesystem's tree.
func (f *nameFinder) see(k layout.Key, v []byte) {
	if k.Type != layout.KeyName {
		return
	}
	n, err := layout.DecodeName(v)
	if err != nil {
		return
	}
	_, hit := f.want[n.Ino]
	for r, inos := range f.ranges {
		switch {
		case n.Ino < r.first || n.Ino > r.last || slices.Contains(inos, n.Ino):
		case len(inos) < maxRangePaths:
			f.ranges[r], hit = append(inos, n.Ino), true
		default:
			f.more[r]++
		}
	}
	if hit {
		f.at[n.Ino] = namePlace{k.Obj, n.Name}
	}
}

// resolve finds the directories above what was seen.
func (f *nameFinder) resolve(fs *lookup) {
	for r, inos := range f.ranges {
		if r.first == uint64(vfs.RootIno) {
			f.ranges[r] = append([]uint64{r.first}, inos...)
		}
		for _, ino := range f.ranges[r] {
			f.want[ino] = ""
		}
	}
	for ino := range f.want {
		f.want[ino] = f.climb(fs, ino)
	}
}

// climb is the path of an inode, "" if it is not known.
func (f *nameFinder) climb(fs *lookup, ino uint64) string {
	var parts []string
	for len(parts) < 256 && ino != uint64(vfs.RootIno) {
		pl, ok := f.at[ino]
		if !ok {
			if pl.dir, pl.name, ok = fs.place(ino); !ok {
				return ""
			}
			f.at[ino] = pl
		}
		parts = append(parts, pl.name)
		ino = pl.dir
	}
	if ino != uint64(vfs.RootIno) {
		return ""
	}
	slices.Reverse(parts)
	return "/" + strings.Join(parts, "/")
}

// path is the path of an inode that was asked for, "" if it is not known.
func (f *nameFinder) path(ino uint64) string { return f.want[ino] }

// paths are those of some inodes of a range, sorted, and how many more there are.
func (f *nameFinder) paths(r inodeRange) (paths []string, more int) {
	for _, ino := range f.ranges[r] {
		if p := f.want[ino]; p != "" {
			paths = append(paths, p)
		} else {
			more++
		}
	}
	slices.Sort(paths)
	return paths, more + f.more[r]
}

// listed is paths for people, "" if there are none.
func (f *nameFinder) listed(r inodeRange) string {
	paths, more := f.paths(r)
	if len(paths) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("; it touches")
	for i, p := range paths {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, " %q", p)
	}
	if more > 0 {
		fmt.Fprintf(&b, " and %d more", more)
	}
	return b.String()
}

func quotedPath(p string) string {
	if p == "" {
		return ""
	}
	return fmt.Sprintf(" %q", p)
}
