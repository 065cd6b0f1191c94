package items

import (
	"encoding/binary"
	"fmt"

	"github.com/dchest/siphash"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Hasher computes hashes keyed by a secret of the volume, so that nobody without it can make names
// collide.
type Hasher struct{ seed0, seed1 uint64 }

// NewHasher splits the hash key of a volume.
func NewHasher(b [16]byte) Hasher {
	return Hasher{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}
}

// Sum is the hash of any bytes.
func (h Hasher) Sum(b []byte) uint64 { return siphash.Hash(h.seed0, h.seed1, b) }

// Xattr is the hash part of an attribute's key.
func (h Hasher) Xattr(name string) uint64 { return h.Sum([]byte(name)) & layout.XattrHashMask }

// Name is the hash part of a name's key.
func (h Hasher) Name(name string) uint64 {
	sum := h.Sum([]byte(name)) & layout.NameHashMask
	// Keys are readdir cookies. The cookie 0 and the last two are reserved.
	return min(max(sum, layout.NameCollisions), layout.NameHashMask-layout.NameCollisions)
}

// ScanFunc is Scan of a tree or of a writer.
type ScanFunc func(from, to layout.Key, fn func(k layout.Key, v []byte) bool) error

// FindName looks up a name. If it does not exist, the Name is zero, and the key is the first free
// one for its hash.
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
