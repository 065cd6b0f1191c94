package items

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// InodeRange is the inodes first to last; zero is none.
type InodeRange struct{ first, last uint64 }

// RangeOf is whose items may lie in the page that covers the keys [lo, hi).
func RangeOf(lo layout.Key, hi *layout.Key) InodeRange {
	r := InodeRange{max(lo.Obj, 1), ^uint64(0)}
	if hi == nil {
		return r
	}
	r.last = hi.Obj
	if hi.Type <= layout.KeyInode && hi.Obj > r.first {
		r.last-- // a page that ends before an inode's first item
	}
	return r
}

func (r InodeRange) String() string {
	switch r.last {
	case r.first:
		return fmt.Sprintf("its items of inode %d are lost", r.first)
	case ^uint64(0):
		return fmt.Sprintf("its items of inodes %d and above are lost", r.first)
	}
	return fmt.Sprintf("its items of inodes %d to %d are lost", r.first, r.last)
}

// What a NameFinder looks for at most.
const (
	maxPaths      = 1000 // inodes
	maxRanges     = 64
	maxRangePaths = 16 // of one range
)

// NameFinder finds the paths of inodes: it is shown all names, and asks for those
// of the directories above.
type NameFinder struct {
	want   map[uint64]string // paths, once they are known
	ranges map[InodeRange][]uint64
	more   map[InodeRange]int // names beyond maxRangePaths
	at     map[uint64]namePlace
}

type namePlace struct {
	dir  uint64
	name string
}

// NewNameFinder returns one that looks for nothing yet.
func NewNameFinder() *NameFinder {
	return &NameFinder{want: map[uint64]string{}, ranges: map[InodeRange][]uint64{}, more: map[InodeRange]int{}, at: map[uint64]namePlace{}}
}

// Add asks for an inode; 0 is none.
func (f *NameFinder) Add(ino uint64) {
	if ino != 0 && len(f.want) < maxPaths {
		f.want[ino] = ""
	}
}

// AddRange asks for some inodes of a range.
func (f *NameFinder) AddRange(r InodeRange) {
	if r != (InodeRange{}) && len(f.ranges) < maxRanges {
		f.ranges[r] = nil
	}
}

// Empty tells whether nothing is looked for.
func (f *NameFinder) Empty() bool { return len(f.want)+len(f.ranges) == 0 }

// See looks at an item of the filesystem's tree.
func (f *NameFinder) See(k layout.Key, v []byte) {
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

// Resolve finds the directories above what was seen.
func (f *NameFinder) Resolve(fs *Lookup) {
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
func (f *NameFinder) climb(fs *Lookup, ino uint64) string {
	var parts []string
	for len(parts) < 256 && ino != uint64(vfs.RootIno) {
		pl, ok := f.at[ino]
		if !ok {
			if pl.dir, pl.name, ok = fs.Place(ino); !ok {
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

// Path is the path of an inode that was asked for, "" if it is not known.
func (f *NameFinder) Path(ino uint64) string { return f.want[ino] }

// Paths are those of some inodes of a range, sorted, and how many more there are.
func (f *NameFinder) Paths(r InodeRange) (paths []string, more int) {
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

// Listed is paths for people, "" if there are none.
func (f *NameFinder) Listed(r InodeRange) string {
	paths, more := f.Paths(r)
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

// QuotedPath is a path for people, behind a space; "" if it is not known.
func QuotedPath(p string) string {
	if p == "" {
		return ""
	}
	return fmt.Sprintf(" %q", p)
}
