package namehash

import (
	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
)

// Hasher hashes names with the hash seed of one volume.
type Hasher struct{ h items.Hasher }

// New returns the hasher of a volume.
func New(seed [16]byte) Hasher { return Hasher{items.NewHasher(seed)} }

// NameSubs returns the subs that a name in a directory may have, from first to last. Names with the
// same hash have consecutive subs, with gaps where one was removed: look at each.
func (h Hasher) NameSubs(name string) (first, last uint64) {
	first = h.h.Name(name)
	return first, first | (layout.NameCollisions - 1)
}

// XattrSubs returns the subs that an extended attribute may have, from first to last.
func (h Hasher) XattrSubs(name string) (first, last uint64) {
	first = h.h.Xattr(name)
	return first, first | ^layout.XattrHashMask
}
