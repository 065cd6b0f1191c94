package diff

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// side is one of the two states.
type side struct {
	items.Lookup
	dirs map[uint64]string // cached paths of directories
}

func newSide(cache *tree.Cache, x *layout.Snapshot) *side {
	return &side{Lookup: items.Lookup{Tree: tree.New(tree.Config{ID: layout.TreeFS, Cache: cache}, x.Tree, x.Generation+1)}, dirs: map[uint64]string{}}
}

func (s *side) get(ino uint64) (*layout.Inode, error) {
	n, err := s.Inode(ino)
	if errors.Is(err, vfs.ErrStale) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &n, nil
}

// nameAt reads the item of a name.
func (s *side) nameAt(dir, sub uint64) (n layout.Name, ok bool, err error) {
	val, ok, err := s.Tree.Get(items.NameKey(dir, sub), nil)
	if err == nil && ok {
		n, err = layout.DecodeName(val)
	}
	return n, ok, err
}

// names reports whether the item of a name refers to an inode.
func (s *side) names(dir, sub, ino uint64) bool {
	n, ok, err := s.nameAt(dir, sub)
	return err == nil && ok && n.Ino == ino
}

// sameName reports whether the item of a name is the same on both sides.
func (s *side) sameName(o *side, dir, sub uint64) bool {
	x, ok, err := s.nameAt(dir, sub)
	y, ok2, err2 := o.nameAt(dir, sub)
	return err == nil && err2 == nil && ok && ok2 && x == y
}

// maxDirs bounds the cached paths of directories.
const maxDirs = 4096

// join is the path of a name in a directory.
func (s *side) join(dir uint64, name string) (string, error) {
	p, err := s.dirPath(dir)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(p, "/") + "/" + name, nil
}

// dirPath is the path of a directory.
func (s *side) dirPath(dir uint64) (string, error) {
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
			if in.Nlink == 0 { // removed, but still open
				name = fmt.Sprintf("#%d", at)
			} else {
				return "", fmt.Errorf("%w: directory %d has no name", layout.ErrCorrupt, at)
			}
		}
		if names = append(names, name); len(names) > 1<<16 {
			return "", fmt.Errorf("%w: directory %d is its own ancestor", layout.ErrCorrupt, dir)
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
