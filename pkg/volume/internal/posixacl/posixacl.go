package posixacl

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// The extended attributes that hold ACLs.
const (
	AccessName  = "system.posix_acl_access"
	DefaultName = "system.posix_acl_default"
)

// Tag is the kind of an entry. The values are those of include/uapi/linux/posix_acl.h.
type Tag uint16

// The kinds of entry.
const (
	UserObj  Tag = 0x01 // the owner
	User     Tag = 0x02 // the user ID
	GroupObj Tag = 0x04 // the owning group
	Group    Tag = 0x08 // the group ID
	Mask     Tag = 0x10 // limits User, GroupObj and Group
	Other    Tag = 0x20 // everybody else
)

// NoID is the ID of entries without a user or group.
const NoID = 0xffffffff

const (
	version    = 2 // POSIX_ACL_XATTR_VERSION
	headerSize = 4
	entrySize  = 8
)

// Entry is one line of an ACL.
type Entry struct {
	Tag  Tag
	Perm uint16 // r, w, x as 4, 2, 1
	ID   uint32 // uid or gid for User and Group, else NoID
}

// ACL is a list of entries in canonical order.
type ACL []Entry

// Parse decodes and validates an attribute's value. Its errors wrap
// vfs.ErrInvalid.
func Parse(value []byte) (ACL, error) {
	a, err := Decode(value)
	if err != nil {
		return nil, err
	}
	if err := a.Validate(); err != nil {
		return nil, err
	}
	return a, nil
}

// Decode reads the wire format without validating the entries. Its errors wrap vfs.ErrInvalid.
func Decode(value []byte) (ACL, error) {
	if len(value) < headerSize || (len(value)-headerSize)%entrySize != 0 {
		return nil, fmt.Errorf("ACL: invalid length of %d bytes: %w", len(value), vfs.ErrInvalid)
	}
	if v := binary.LittleEndian.Uint32(value); v != version {
		return nil, fmt.Errorf("unknown ACL version %d: %w", v, vfs.ErrInvalid)
	}
	value = value[headerSize:]
	a := make(ACL, 0, len(value)/entrySize)
	for ; len(value) > 0; value = value[entrySize:] {
		a = append(a, Entry{
			Tag:  Tag(binary.LittleEndian.Uint16(value)),
			Perm: binary.LittleEndian.Uint16(value[2:]),
			ID:   binary.LittleEndian.Uint32(value[4:]),
		})
	}
	return a, nil
}

// Encode returns the wire format. IDs of entries without a user or group become NoID.
func (a ACL) Encode() []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, headerSize+entrySize*len(a)), version)
	for _, e := range a {
		if e.Tag != User && e.Tag != Group {
			e.ID = NoID
		}
		b = binary.LittleEndian.AppendUint16(b, uint16(e.Tag))
		b = binary.LittleEndian.AppendUint16(b, e.Perm)
		b = binary.LittleEndian.AppendUint32(b, e.ID)
	}
	return b
}

// Validate checks order, completeness and permissions, as the kernel's
// posix_acl_valid does. Its errors wrap vfs.ErrInvalid.
func (a ACL) Validate() error {
	var needMask, haveMask bool
	expect := UserObj // the next entry that must come; entries before it in order may
	for i, e := range a {
		if e.Perm&^7 != 0 {
			return fmt.Errorf("ACL entry %d has invalid permissions %#o: %w", i, e.Perm, vfs.ErrInvalid)
		}
		ok := false
		switch e.Tag {
		case UserObj:
			ok, expect = expect == UserObj, User
		case User:
			ok, needMask = expect == User && e.ID != NoID, true
		case GroupObj:
			ok, expect = expect == User, Group
		case Group:
			ok, needMask = expect == Group && e.ID != NoID, true
		case Mask:
			ok, haveMask, expect = expect == Group, true, Other
		case Other:
			ok, expect = expect == Other || expect == Group && !needMask, 0
		}
		if !ok {
			return fmt.Errorf("ACL entry %d is out of order: %w", i, vfs.ErrInvalid)
		}
	}
	if expect != 0 || needMask && !haveMask {
		return fmt.Errorf("ACL is incomplete: %w", vfs.ErrInvalid)
	}
	return nil
}

// Mode returns the nine permission bits that a valid access ACL stands for. equivalent reports
// whether they express the whole ACL (no named entry and no mask), so that it need not be stored.
func (a ACL) Mode() (perm uint32, equivalent bool) {
	class := a.groupClass()
	equivalent = true
	for _, e := range a {
		switch e.Tag {
		case UserObj:
			perm |= uint32(e.Perm) << 6
		case class:
			perm |= uint32(e.Perm) << 3
		case Other:
			perm |= uint32(e.Perm)
		}
		if e.Tag&(User|Group|Mask) != 0 {
			equivalent = false
		}
	}
	return perm, equivalent
}

func (a ACL) hasMask() bool {
	return slices.ContainsFunc(a, func(e Entry) bool { return e.Tag == Mask })
}

// groupClass is the entry for the group bits of the mode: the mask, or the owning group's entry if
// there is no mask.
func (a ACL) groupClass() Tag {
	if a.hasMask() {
		return Mask
	}
	return GroupObj
}

// Chmod returns the access ACL after chmod to mode.
func (a ACL) Chmod(mode uint32) ACL {
	class := a.groupClass()
	out := slices.Clone(a)
	for i := range out {
		switch e := &out[i]; e.Tag {
		case UserObj:
			e.Perm = uint16(mode>>6) & 7
		case class:
			e.Perm = uint16(mode>>3) & 7
		case Other:
			e.Perm = uint16(mode) & 7
		}
	}
	return out
}

// Inherit returns what a new inode inherits from a directory with default ACL def. mode is the
// caller's, without umask. It returns the inode's mode, the access ACL to store (nil if the mode
// expresses it) and, for a directory, the default ACL to store (otherwise nil). Bits of mode beyond
// the nine permissions do not change.
func Inherit(def ACL, mode uint32, dir bool) (newMode uint32, access, deflt ACL) {
	class := def.groupClass()
	access = slices.Clone(def)
	for i := range access {
		switch e := &access[i]; e.Tag {
		case UserObj:
			e.Perm &= uint16(mode>>6) & 7
		case class:
			e.Perm &= uint16(mode>>3) & 7
		case Other:
			e.Perm &= uint16(mode) & 7
		}
	}
	perm, equivalent := access.Mode()
	if equivalent {
		access = nil
	}
	if dir {
		deflt = slices.Clone(def)
	}
	return mode&^0o777 | perm, access, deflt
}
