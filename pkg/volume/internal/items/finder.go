package items

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// InodeRange is a range of inodes from first to last. The zero value is empty.
type InodeRange struct{ first, last uint64 }

// RangeOf returns the inodes whose items may be in the page that covers the keys [lo, hi).
func RangeOf(lo layout.Key, hi *layout.Key) InodeRange {
	r := InodeRange{max(lo.Obj, 1), ^uint64(0)}
	if hi == nil {
		return r
	}
	r.last = hi.Obj
	if hi.Type <= layout.KeyInode && hi.Obj > r.first {
		r.last-- // the page ends before the first item of that inode
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

// Limits of a NameFinder.
const (
	maxPaths      = 1000 // inodes
	maxRanges     = 64
	maxRangePaths = 16 // of one range
)

// NameFinder finds the paths of inodes. It must be shown all names. Then it looks up the names of
// their directories.
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

// NewNameFinder returns a finder that looks for nothing yet.
func NewNameFinder() *NameFinder {
	return &NameFinder{want: map[uint64]string{}, ranges: map[InodeRange][]uint64{}, more: map[InodeRange]int{}, at: map[uint64]namePlace{}}
}

// Add adds an inode to find; 0 is ignored.
func (f *NameFinder) Add(ino uint64) {
	if ino != 0 && len(f.want) < maxPaths {
		f.want[ino] = ""
	}
}

// AddRange adds a range of which some inodes are to be found.
func (f *NameFinder) AddRange(r InodeRange) {
	if r != (InodeRange{}) && len(f.ranges) < maxRanges {
		f.ranges[r] = nil
	}
}

// Empty reports whether there is nothing to find.
func (f *NameFinder) Empty() bool { return len(f.want)+len(f.ranges) == 0 }

// See examines an item of tree 1.
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

// Resolve finds the paths of the directories of the names that See found.
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

// climb returns the path of an inode, "" if unknown.
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

// Path returns the path of an inode that was added, "" if unknown.
func (f *NameFinder) Path(ino uint64) string { return f.want[ino] }

// Paths returns the paths of some inodes of a range, sorted, and the number of others.
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

// Listed returns paths as text for users, "" if there are none.
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

// QuotedPath returns a path as text for users, after a space; "" if unknown.
func QuotedPath(p string) string {
	if p == "" {
		return ""
	}
	return fmt.Sprintf(" %q", p)
}
