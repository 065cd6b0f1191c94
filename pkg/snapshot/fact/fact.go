package fact

import (
	"encoding/binary"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/logical"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// ErrInvalid is about values that are not facts of a volume.
var ErrInvalid = logical.ErrInvalid

// reader reads one value from front to end. After the first error, all that it returns is zero.
type reader struct {
	b   []byte
	bad bool
}

// uvarint reads a varint (LEB128) without needless bytes, at most max.
func (r *reader) uvarint(most uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if r.bad || n <= 0 || n > 1 && r.b[n-1] == 0 || v > most {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) u32() uint32 { return uint32(r.uvarint(1<<32 - 1)) }
func (r *reader) u64() uint64 { return r.uvarint(1<<64 - 1) }

// varint reads a signed integer in zigzag form.
func (r *reader) varint() int64 {
	v := r.u64()
	return int64(v>>1) ^ -int64(v&1)
}

func appendVarint(b []byte, v int64) []byte {
	return binary.AppendUvarint(b, uint64(v)<<1^uint64(v>>63))
}

// AppendInode appends the encoding of an inode:
//
//	mode ‖ nlink ‖ uid ‖ gid ‖ rdev ‖ flags ‖ size ‖ parent ‖ name's sub ‖ mtime ‖ ctime ‖ atime ‖ btime
//
// All are varints. A time is seconds ‖ nanoseconds, signed, of mtime since 1970, of the others since
// mtime.
func AppendInode(b []byte, n *logical.Inode) ([]byte, error) {
	if err := n.Validate(); err != nil {
		return b, err
	}
	for _, v := range []uint64{uint64(n.Mode), uint64(n.Nlink), uint64(n.UID), uint64(n.GID), uint64(n.Rdev), uint64(n.Flags), n.Size, n.Parent, n.NameSub} {
		b = binary.AppendUvarint(b, v)
	}
	var base vfs.Timespec
	for _, t := range []vfs.Timespec{n.Mtime, n.Ctime, n.Atime, n.Btime} {
		b = appendVarint(b, t.Sec-base.Sec)
		b = appendVarint(b, int64(t.Nsec)-int64(base.Nsec))
		base = n.Mtime
	}
	return b, nil
}

// DecodeInode decodes a value of type inode.
func DecodeInode(v []byte) (logical.Inode, error) {
	r := reader{b: v}
	n := logical.Inode{Mode: r.u32(), Nlink: r.u32(), UID: r.u32(), GID: r.u32(), Rdev: r.u32(), Flags: r.u32(), Size: r.u64(), Parent: r.u64(), NameSub: r.u64()}
	var base vfs.Timespec
	for _, t := range []*vfs.Timespec{&n.Mtime, &n.Ctime, &n.Atime, &n.Btime} {
		sec, nsec := r.varint(), r.varint()
		if nsec < -1e9 || nsec > 1e9 || int64(base.Nsec)+nsec < 0 {
			r.bad = true
		}
		// A difference of seconds may overflow, as it does when it is made.
		*t = vfs.Timespec{Sec: base.Sec + sec, Nsec: uint32(int64(base.Nsec) + nsec)}
		base = n.Mtime
	}
	if r.bad || len(r.b) != 0 {
		return logical.Inode{}, fmt.Errorf("%w: %d bytes that are not an inode", ErrInvalid, len(v))
	}
	if err := n.Validate(); err != nil {
		return logical.Inode{}, err
	}
	return n, nil
}

// CheckInline checks a value of type inline, which is the content itself: that of a small file, or
// the target of a symlink.
func CheckInline(v []byte) error {
	if len(v) == 0 || len(v) > vfs.MaxSymlinkBytes {
		return fmt.Errorf("%w: inline content of %d bytes", ErrInvalid, len(v))
	}
	return nil
}

// AppendXattr appends the encoding of an extended attribute:
//
//	length of the name u8 ‖ name ‖ value
func AppendXattr(b []byte, x *logical.Xattr) ([]byte, error) {
	if err := x.Validate(); err != nil {
		return b, err
	}
	return append(append(append(b, byte(len(x.Name))), x.Name...), x.Value...), nil
}

// DecodeXattr decodes a value of type xattr. The attribute's value is a part of v.
func DecodeXattr(v []byte) (logical.Xattr, error) {
	if len(v) == 0 || len(v) < 1+int(v[0]) {
		return logical.Xattr{}, fmt.Errorf("%w: %d bytes that are not an extended attribute", ErrInvalid, len(v))
	}
	n := 1 + int(v[0])
	x := logical.Xattr{Name: string(v[1:n]), Value: v[n:len(v):len(v)]}
	if err := x.Validate(); err != nil {
		return logical.Xattr{}, err
	}
	return x, nil
}

// AppendName appends the encoding of a name:
//
//	inode, a varint ‖ type u8, the S_IFMT bits >> 12 ‖ name
func AppendName(b []byte, n *logical.Name) ([]byte, error) {
	if err := n.Validate(); err != nil {
		return b, err
	}
	return append(append(binary.AppendUvarint(b, n.Ino), byte(n.Type>>12)), n.Name...), nil
}

// DecodeName decodes a value of type name.
func DecodeName(v []byte) (logical.Name, error) {
	r := reader{b: v}
	n := logical.Name{Ino: r.u64()}
	if r.bad || len(r.b) == 0 {
		return logical.Name{}, fmt.Errorf("%w: %d bytes that are not a name", ErrInvalid, len(v))
	}
	n.Type, n.Name = uint32(r.b[0])<<12, string(r.b[1:])
	if err := n.Validate(); err != nil {
		return logical.Name{}, err
	}
	return n, nil
}

// Content appends the placeless form of a value: the value itself, but for data. It fails if the
// value is not a valid one of the key. It is Config.Content of package merkle.
func Content(dst []byte, k logical.Key, v []byte) ([]byte, error) {
	err := k.Validate()
	if err == nil {
		switch k.Type {
		case logical.InodeType:
			_, err = DecodeInode(v)
		case logical.InlineType:
			err = CheckInline(v)
		case logical.XattrType:
			_, err = DecodeXattr(v)
		case logical.NameType:
			_, err = DecodeName(v)
		case logical.DataType:
			return appendDataContent(dst, v)
		}
	}
	if err != nil {
		return dst, err
	}
	return append(dst, v...), nil
}
