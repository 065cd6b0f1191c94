package view

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/snapshot/fact"
	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// ErrNoName says that an inode does not record which name it has.
var ErrNoName = errors.New("the inode does not record its name")

// maxDepth bounds how deep a directory is: a manipulated one may contain itself.
const maxDepth = 1 << 16

// Name returns where the name is that an inode records: the directory, the key of the name in it, and
// the name. Of several names, inodes record one; if that was removed, none: ErrNoName.
func (v *View) Name(ino vfs.Ino) (dir vfs.Ino, sub uint64, name string, err error) {
	n, err := v.inode(ino)
	if err != nil {
		return 0, 0, "", err
	}
	if n.Parent == 0 || n.NameSub == 0 {
		return 0, 0, "", fmt.Errorf("inode %d: %w", ino, ErrNoName)
	}
	b, err := v.get(logical.Key{Ino: n.Parent, Type: logical.NameType, Sub: n.NameSub})
	if err != nil {
		return 0, 0, "", err
	}
	var x logical.Name
	if b != nil {
		if x, err = fact.DecodeName(b); err != nil {
			return 0, 0, "", fail(fmt.Errorf("inode %d: %w", n.Parent, err))
		}
	}
	if b == nil || x.Ino != uint64(ino) {
		return 0, 0, "", fmt.Errorf("inode %d: %w", ino, ErrNoName)
	}
	return vfs.Ino(n.Parent), n.NameSub, x.Name, nil
}

// Path returns the absolute path of the name that an inode records. ErrNoName.
func (v *View) Path(ino vfs.Ino) (string, error) {
	path := ""
	for range maxDepth {
		if ino == vfs.RootIno {
			if path == "" {
				path = "/"
			}
			return path, nil
		}
		dir, _, name, err := v.Name(ino)
		if err != nil {
			return "", err
		}
		path, ino = "/"+name+path, dir
	}
	return "", fmt.Errorf("inode %d: %w: a directory contains itself", ino, vfs.ErrCorrupt)
}
