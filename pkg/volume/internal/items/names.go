package items

import (
	"encoding/binary"
	"fmt"

	"github.com/dchest/siphash"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Hasher makes hashes that are keyed by a secret of the volume, so nobody outside can
// make names collide.
type Hasher struct{ seed0, seed1 uint64 }

// NewHasher splits the hash key of a volume.
func NewHasher(b [16]byte) Hasher {
	return Hasher{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}
}

// Sum is the hash of anything.
func (h Hasher) Sum(b []byte) uint64 { return siphash.Hash(h.seed0, h.seed1, b) }

// Xattr is the part of an attribute's key that its name's hash gives.
func (h Hasher) Xattr(name string) uint64 { return h.Sum([]byte(name)) & layout.XattrHashMask }

// Name is the part of a name's key that its hash gives.
func (h Hasher) Name(name string) uint64 {
	sum := h.Sum([]byte(name)) & layout.NameHashMask
	// Keys are readdir cookies, of which 0 and the two last are taken.
	return min(max(sum, layout.NameCollisions), layout.NameHashMask-layout.NameCollisions)
}

// ScanFunc is Scan of a tree or of a writer.
type ScanFunc func(from, to layout.Key, fn func(k layout.Key, v []byte) bool) error

// FindName looks a name up. Without it the Name is zero, and the key is where
// it would go: the first free place among those of equal hash.
func (h Hasher) FindName(scan ScanFunc, dir uint64, name string) (k layout.Key, found layout.Name, err error) {
	hash := h.Name(name)
	free := hash
	var derr error
	err = scan(NameKey(dir, hash), NameKey(dir, hash|(layout.NameCollisions-1)), func(at layout.Key, val []byte) bool {
		if at.Sub == free {
			free++
		}
		n, err := layout.DecodeName(val)
		if err != nil {
			derr = err
			return false
		}
		if n.Name == name {
			k, found = at, n
			return false
		}
		return true
	})
	if err == nil {
		err = derr
	}
	if err != nil {
		return k, found, fmt.Errorf("directory %d: %w", dir, err)
	}
	if found.Ino == 0 {
		if free >= hash+layout.NameCollisions {
			return k, found, fmt.Errorf("directory %d: %w", dir, vfs.ErrNoSpace)
		}
		k = NameKey(dir, free)
	}
	return k, found, nil
}
