package diff

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/snapshot/merkle"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Source is one of the two snapshots.
type Source struct {
	Map    *merkle.Map
	Sealer *selfenc.PackedSealer
	Seed   [16]byte // of the volume's hash of names
}

// side is one of the two states.
type side struct {
	Source
	dirs map[uint64]string // cached paths of directories
}

func newSide(s Source) *side { return &side{Source: s, dirs: map[uint64]string{}} }

// inode reads an inode; nil: there is none.
func (s *side) inode(ctx context.Context, ino uint64) (*logical.Inode, error) {
	b, ok, err := s.Map.Get(ctx, logical.Key{Ino: ino, Type: logical.InodeType})
	if err != nil || !ok {
		return nil, err
	}
	n, err := fact.DecodeInode(b)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", ino, err)
	}
	return &n, nil
}

// nameAt reads a name; its Ino is 0 if there is none.
func (s *side) nameAt(ctx context.Context, dir, sub uint64) (n logical.Name, err error) {
	b, ok, err := s.Map.Get(ctx, logical.Key{Ino: dir, Type: logical.NameType, Sub: sub})
	if err != nil || !ok {
		return n, err
	}
	if n, err = fact.DecodeName(b); err != nil {
		err = fmt.Errorf("directory %d: %w", dir, err)
	}
	return n, err
}

const (
	// maxDirs bounds the cached paths of directories.
	maxDirs = 4096
	// maxDepth bounds how deep a directory is.
	maxDepth = 1 << 16
)

// join is the path of a name in a directory.
func (s *side) join(ctx context.Context, dir uint64, name string) (string, error) {
	p, err := s.dirPath(ctx, dir)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(p, "/") + "/" + name, nil
}

// dirPath is the path of a directory.
func (s *side) dirPath(ctx context.Context, dir uint64) (string, error) {
	var names []string
	at, base := dir, "/"
	for at != uint64(vfs.RootIno) {
		if p, ok := s.dirs[at]; ok {
			base = p
			break
		}
		n, err := s.inode(ctx, at)
		var name logical.Name
		if err == nil && n != nil {
			name, err = s.nameAt(ctx, n.Parent, n.NameSub)
		}
		if err != nil {
			return "", err
		}
		if n == nil || name.Ino != at {
			return "", fmt.Errorf("%w: directory %d has no name", logical.ErrInvalid, at)
		}
		if names = append(names, name.Name); len(names) > maxDepth {
			return "", fmt.Errorf("%w: directory %d is its own ancestor", logical.ErrInvalid, dir)
		}
		at = n.Parent
	}
	slices.Reverse(names)
	path := base
	if len(names) > 0 {
		path = strings.TrimSuffix(base, "/") + "/" + strings.Join(names, "/")
	}
	if len(s.dirs) >= maxDirs {
		clear(s.dirs)
	}
	s.dirs[dir] = path
	return path, nil
}
