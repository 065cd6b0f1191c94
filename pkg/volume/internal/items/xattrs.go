package items

import (
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// CapabilityName is the attribute that holds the capabilities of a program.
const CapabilityName = "security.capability"

// FoundXattr is the place of an attribute, existing or not.
type FoundXattr struct {
	Sub    uint64 // of piece 0
	Exists bool
	Value  []byte
}

// FindXattr looks up an attribute with its value.
func (h Hasher) FindXattr(scan ScanFunc, ino uint64, name string) (f FoundXattr, err error) {
	hash := h.Xattr(name)
	f.Sub = hash
	var derr error
	mine := false
	total := 0
	err = scan(XattrKey(ino, hash), XattrKey(ino, hash|0xffff), func(k layout.Key, val []byte) bool {
		i := int(k.Sub & 0xff)
		x, err := layout.DecodeXattr(val, i)
		if err != nil {
			derr = err
			return false
		}
		if i == 0 {
			if f.Exists {
				return false
			}
			mine = x.Name == name
			if mine {
				f.Sub, f.Exists, total = k.Sub, true, int(x.Total)
			} else if k.Sub == f.Sub {
				f.Sub += 1 << 8 // used by another name with this hash
			}
		}
		if mine {
			f.Value = append(f.Value, x.Data...)
		}
		return true
	})
	switch {
	case err == nil && derr != nil:
		err = derr
	case err == nil && f.Exists && len(f.Value) != total:
		err = fmt.Errorf("%w: an attribute of %d bytes has only %d", layout.ErrCorrupt, total, len(f.Value))
	case err == nil && !f.Exists && f.Sub > hash|0xffff:
		err = vfs.ErrNoSpace
	}
	if err != nil {
		err = fmt.Errorf("inode %d: %w", ino, err)
	}
	return f, err
}

// XattrFlags are the inode flags that an attribute requires.
func XattrFlags(name string) uint32 {
	switch name {
	case posixacl.AccessName:
		return layout.InodeXattrs | layout.InodeAccessACL
	case posixacl.DefaultName:
		return layout.InodeXattrs | layout.InodeDefaultACL
	case CapabilityName:
		return layout.InodeXattrs | layout.InodeCapability
	}
	return layout.InodeXattrs
}
