package layout

import (
	"encoding/binary"

	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// OpType is the kind of a logged operation. The values are part of the format.
type OpType uint8

// Operations of the ring and the log.
const (
	OpCreate      OpType = 1 // inode, with or without a name
	OpLink        OpType = 2
	OpUnlink      OpType = 3 // of files and empty directories
	OpRename      OpType = 4
	OpSetAttr     OpType = 5
	OpWrite       OpType = 6 // data inline
	OpWriteRef    OpType = 7 // data in extents on the device
	OpFallocate   OpType = 8
	OpSetXattr    OpType = 9
	OpRemoveXattr OpType = 10
	OpCopyRange   OpType = 11 // shared whole blocks
	OpGrow        OpType = 12 // Len: blocks of the device
	OpSetFlags    OpType = 14 // Flags: the InodeUserFlags that the inode has from then on
)

// Op is one operation, with everything that replay needs: inode numbers and times are recorded, not
// generated again.
type Op struct {
	Seq    uint64 // counts from 1 over the life of the volume
	Unique uint64 // FUSE request id
	Type   OpType
	Time   vfs.Timespec

	Ino     uint64 // the inode; of the moved one in a rename
	Parent  uint64
	Name    string
	Parent2 uint64 // rename: new parent; copy: source
	Name2   string // rename: new name; symlink: target
	Ino2    uint64 // rename: the inode replaced or exchanged; whiteout made
	Mode    uint32
	UID     uint32
	GID     uint32
	Rdev    uint32
	Flags   uint32 // rename, fallocate, xattr flags; OpSetAttr: which fields; OpWrite: OpKill
	Off     uint64
	Len     uint64
	Off2    uint64 // copy: offset in the source
	Atime   vfs.Timespec
	Mtime   vfs.Timespec
	Data    []byte       // write: bytes; xattr: value; create: default ACL ‖ access ACL (see volume)
	Data2   []byte       // create: access ACL
	Extents []FileExtent // OpWriteRef: in order; they cover [Off, Off+Len) wholly
}

// Flags of OpSetAttr: which fields are set; of OpWrite and OpSetAttr: OpKill.
const (
	SetMode uint32 = 1 << iota
	SetUID
	SetGID
	SetSize
	SetAtime
	SetMtime
	OpKill // clear suid, sgid and security.capability
)

// FallocReserve is a flag of OpFallocate in addition to those of fallocate(2): the range is
// reserved. Operations of earlier versions, which reserved nothing, do not have it.
const FallocReserve uint32 = 1 << 16

const opHeader = 4 + 8 + 8 + 1 + 3 + 12

// OpBytesMax bounds a decoded operation: a 1 MiB write and its header.
const OpBytesMax = 2 << 20

type opCoder struct{ b []byte }

func (c *opCoder) u32(list ...uint32) {
	for _, v := range list {
		c.b = binary.LittleEndian.AppendUint32(c.b, v)
	}
}
func (c *opCoder) u64(list ...uint64) {
	for _, v := range list {
		c.b = binary.LittleEndian.AppendUint64(c.b, v)
	}
}
func (c *opCoder) time(t vfs.Timespec) {
	c.u64(uint64(t.Sec))
	c.u32(t.Nsec)
}
func (c *opCoder) bytes(v []byte) {
	c.u32(uint32(len(v)))
	c.b = append(c.b, v...)
}
func (c *opCoder) str(v string) {
	c.u32(uint32(len(v)))
	c.b = append(c.b, v...)
}

// AppendOp encodes o.
func AppendOp(b []byte, o *Op) []byte {
	c := opCoder{b}
	start := len(b)
	c.u32(0)
	c.u64(o.Seq)
	c.u64(o.Unique)
	c.b = append(c.b, uint8(o.Type), 0, 0, 0)
	c.time(o.Time)
	switch o.Type {
	case OpCreate:
		c.u64(o.Ino, o.Parent)
		c.u32(o.Mode, o.UID, o.GID, o.Rdev)
		c.str(o.Name)
		c.str(o.Name2)
		c.bytes(o.Data)
		c.bytes(o.Data2)
	case OpLink, OpUnlink:
		c.u64(o.Ino, o.Parent)
		c.str(o.Name)
	case OpRename:
		c.u64(o.Ino, o.Ino2, o.Parent, o.Parent2)
		c.u32(o.Flags, o.UID, o.GID)
		c.str(o.Name)
		c.str(o.Name2)
	case OpSetAttr:
		c.u64(o.Ino)
		c.u32(o.Flags, o.Mode, o.UID, o.GID)
		c.u64(o.Len)
		c.time(o.Atime)
		c.time(o.Mtime)
	case OpWrite:
		c.u64(o.Ino, o.Off)
		c.u32(o.Flags)
		c.bytes(o.Data)
	case OpWriteRef:
		c.u64(o.Ino, o.Off, o.Len)
		c.u32(o.Flags)
		c.u32(uint32(len(o.Extents)))
		for i := range o.Extents {
			c.b = o.Extents[i].Append(c.b)
		}
	case OpFallocate:
		c.u64(o.Ino)
		c.u32(o.Flags)
		c.u64(o.Off, o.Len)
	case OpSetXattr, OpRemoveXattr:
		c.u64(o.Ino)
		c.u32(o.Flags, o.Mode)
		c.str(o.Name)
		c.bytes(o.Data)
	case OpSetFlags:
		c.u64(o.Ino)
		c.u32(o.Flags)
	case OpGrow:
		c.u64(o.Len)
	case OpCopyRange:
		c.u64(o.Ino, o.Off, o.Parent2, o.Off2, o.Len)
	}
	binary.LittleEndian.PutUint32(c.b[start:], uint32(len(c.b)-start))
	return c.b
}

type opReader struct {
	b   []byte
	bad bool
}

func (r *opReader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad = true
		return make([]byte, min(max(n, 0), 16))
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}
func (r *opReader) u32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *opReader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }
func (r *opReader) time() vfs.Timespec {
	t := vfs.Timespec{Sec: int64(r.u64()), Nsec: r.u32()}
	if t.Nsec >= 1e9 {
		r.bad = true
	}
	return t
}
func (r *opReader) bytes() []byte {
	n := r.u32()
	if uint64(n) > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	return r.take(int(n))
}
func (r *opReader) str() string { return string(r.bytes()) }
func (r *opReader) extents() (list []FileExtent, err error) {
	count := r.u32()
	if count > uint32(len(r.b))/NodeRecordBytes {
		return nil, corrupt("operation: invalid number of extents %d", count)
	}
	for range count {
		rec, rest, err := DecodeRecord(r.b)
		if err != nil {
			return nil, err
		}
		if len(rest) < FileExtentBytes || rec.Kind != KindFileData {
			return nil, corrupt("operation: extent")
		}
		ref := binary.LittleEndian.Uint64(rest)
		if ref&extentOwed != 0 {
			return nil, corrupt("operation: extent")
		}
		list = append(list, FileExtent{Record: rec, RefBirth: ref})
		r.b = rest[FileExtentBytes:]
	}
	return list, nil
}

// OpBytes is the length of the operation at the start of b. It may exceed b. It is 0 if b is too
// short to tell.
func OpBytes(b []byte) (int, error) {
	if len(b) < 4 {
		return 0, nil
	}
	n := binary.LittleEndian.Uint32(b)
	if n < opHeader || n > OpBytesMax {
		return 0, corrupt("operation: invalid length of %d bytes", n)
	}
	return int(n), nil
}

// DecodeOp decodes the operation at the start of b and returns the rest of b. Data aliases b.
func DecodeOp(b []byte) (*Op, []byte, error) {
	if len(b) < opHeader {
		return nil, nil, corrupt("operation: invalid length of %d bytes", len(b))
	}
	n, err := OpBytes(b)
	if err == nil && n > len(b) {
		err = corrupt("operation: length %d exceeds the %d bytes that are left", n, len(b))
	}
	if err != nil {
		return nil, nil, err
	}
	r := opReader{b: b[4:n]}
	o := &Op{Seq: r.u64(), Unique: r.u64()}
	t := r.take(4)
	o.Type = OpType(t[0])
	if t[1]|t[2]|t[3] != 0 {
		r.bad = true
	}
	o.Time = r.time()
	switch o.Type {
	case OpCreate:
		o.Ino, o.Parent = r.u64(), r.u64()
		o.Mode, o.UID, o.GID, o.Rdev = r.u32(), r.u32(), r.u32(), r.u32()
		o.Name, o.Name2, o.Data, o.Data2 = r.str(), r.str(), r.bytes(), r.bytes()
	case OpLink, OpUnlink:
		o.Ino, o.Parent, o.Name = r.u64(), r.u64(), r.str()
	case OpRename:
		o.Ino, o.Ino2, o.Parent, o.Parent2 = r.u64(), r.u64(), r.u64(), r.u64()
		o.Flags, o.UID, o.GID = r.u32(), r.u32(), r.u32()
		o.Name, o.Name2 = r.str(), r.str()
	case OpSetAttr:
		o.Ino, o.Flags, o.Mode, o.UID, o.GID, o.Len = r.u64(), r.u32(), r.u32(), r.u32(), r.u32(), r.u64()
		o.Atime, o.Mtime = r.time(), r.time()
	case OpWrite:
		o.Ino, o.Off, o.Flags, o.Data = r.u64(), r.u64(), r.u32(), r.bytes()
		o.Len = uint64(len(o.Data))
	case OpWriteRef:
		o.Ino, o.Off, o.Len, o.Flags = r.u64(), r.u64(), r.u64(), r.u32()
		if o.Extents, err = r.extents(); err != nil {
			return nil, nil, err
		}
	case OpFallocate:
		o.Ino, o.Flags, o.Off, o.Len = r.u64(), r.u32(), r.u64(), r.u64()
	case OpSetXattr, OpRemoveXattr:
		o.Ino, o.Flags, o.Mode, o.Name, o.Data = r.u64(), r.u32(), r.u32(), r.str(), r.bytes()
	case OpSetFlags:
		o.Ino, o.Flags = r.u64(), r.u32()
		r.bad = r.bad || o.Flags&^InodeUserFlags != 0
	case OpGrow:
		o.Len = r.u64()
	case OpCopyRange:
		o.Ino, o.Off, o.Parent2, o.Off2, o.Len = r.u64(), r.u64(), r.u64(), r.u64(), r.u64()
	default:
		return nil, nil, corrupt("unexpected operation type %d", o.Type)
	}
	if r.bad || len(r.b) != 0 {
		return nil, nil, corrupt("malformed operation of type %d", o.Type)
	}
	if err := o.validate(); err != nil {
		return nil, nil, err
	}
	return o, b[n:], nil
}

// MaxNumber bounds everything that counts up over the life of a volume: generations, inode numbers,
// operations, frames.
const MaxNumber = 1 << 62

// Makes returns the inodes that an operation makes.
func (o *Op) Makes() []uint64 {
	switch {
	case o.Type == OpCreate:
		return []uint64{o.Ino}
	case o.Type == OpRename && o.Flags&vfs.RenameWhiteout != 0:
		return []uint64{o.Ino2}
	}
	return nil
}

// validate checks that a volume could have recorded the operation. The code that applies it relies
// on that.
func (o *Op) validate() error {
	names := true
	switch o.Type {
	case OpCreate:
		names = (o.Name == "" || ValidName(o.Name)) && knownType(o.Mode&0o170000) && o.Mode <= 0o177777
		if o.Mode&0o170000 == 0o120000 {
			names = names && len(o.Name2) > 0
		} else {
			names = names && o.Name2 == ""
		}
		names = names && len(o.Name2) <= vfs.MaxSymlinkBytes && len(o.Data) <= vfs.MaxXattrBytes && len(o.Data2) <= vfs.MaxXattrBytes
	case OpLink, OpUnlink:
		names = ValidName(o.Name)
	case OpRename:
		names = ValidName(o.Name) && ValidName(o.Name2)
	case OpSetAttr:
		names = o.Mode <= 0o7777
	case OpSetXattr, OpRemoveXattr:
		names = len(o.Name) >= 1 && len(o.Name) <= vfs.MaxXattrName && len(o.Data) <= vfs.MaxXattrBytes
	}
	switch {
	case !names:
		return corrupt("operation of type %d: invalid name, mode or attribute", o.Type)
	case o.Off > MaxFileBytes || o.Len > MaxFileBytes-o.Off || o.Off2 > MaxFileBytes || o.Len > MaxFileBytes-o.Off2:
		return corrupt("operation of type %d: invalid range", o.Type)
	case o.Type == OpFallocate && o.Len == 0:
		return corrupt("operation of type %d: empty range", o.Type)
	case o.Seq >= MaxNumber || o.Ino >= MaxNumber || o.Ino2 >= MaxNumber:
		return corrupt("operation %d of type %d, inode %d: number out of range", o.Seq, o.Type, o.Ino)
	}
	return nil
}
