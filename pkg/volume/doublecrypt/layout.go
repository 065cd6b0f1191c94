package doublecrypt

import (
	"encoding/binary"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// Places and sizes of structures. Sizes are in bytes.
const (
	headerBlock = 0
	slotBlockA  = 1
	slotBlockB  = 2
	firstObject = 3 // first block of objects

	frameBytes    = 4 // length field before each payload
	formatVersion = 1
	objectVersion = 1
	chunkLess     = 200 // the size of a chunk is the block size minus this

	null = 1<<64 - 1 // a null reference
)

var magic = [8]byte{'D', 'B', 'L', 'C', 'R', 'Y', 'P', 'T'}

// kind is the kind of an object in its envelope: the position in the reference implementation's
// enum.
type kind uint32

const (
	kindSuperblock kind = iota
	_                   // a root pointer is never sealed
	kindInode
	kindDirectory
	kindExtents
	kindChunk
	kindCount
)

var kindNames = [kindCount]string{"superblock", "root pointer", "inode", "directory page", "extent map", "data"}

func (k kind) String() string {
	if k < kindCount {
		return kindNames[k]
	}
	return "object of unknown kind"
}

// payload returns the payload of a block's frame, or nil if the frame is invalid.
func payload(block []byte) []byte {
	if len(block) < frameBytes {
		return nil
	}
	n := uint64(binary.LittleEndian.Uint32(block))
	if n == 0 || n > uint64(len(block)-frameBytes) {
		return nil
	}
	return block[frameBytes : frameBytes+n]
}

// header is the content of block 0.
type header struct {
	blockSize   uint32
	totalBlocks uint64
}

func (h header) encode() []byte {
	b := append([]byte(nil), magic[:]...)
	b = appendVarint(b, formatVersion)
	b = appendVarint(b, uint64(h.blockSize))
	return appendVarint(b, h.totalBlocks)
}

func decodeHeader(b []byte) (header, error) {
	d := decoder{in: b}
	m, version := d.array(len(magic)), d.u32()
	h := header{d.u32(), d.u64()}
	if d.err != nil {
		return header{}, corrupt(Deserialization, "header", d.err)
	}
	if [8]byte(m) != magic || version != formatVersion {
		return header{}, &Error{Variant: InvalidSuperblock, err: vfs.ErrCorrupt}
	}
	return h, nil
}

// rootPointer is the content of a root slot, block 1 or 2.
type rootPointer struct {
	generation uint64
	superblock uint64
	checksum   [32]byte // of the superblock's encoding
}

func (p rootPointer) encode() []byte {
	b := appendVarint(nil, p.generation)
	b = appendVarint(b, p.superblock)
	return append(b, p.checksum[:]...)
}

func decodeRootPointer(b []byte) (p rootPointer, err error) {
	d := decoder{in: b}
	p.generation, p.superblock = d.u64(), d.u64()
	copy(p.checksum[:], d.array(len(p.checksum)))
	if d.err != nil {
		return rootPointer{}, corrupt(Deserialization, "root pointer", d.err)
	}
	return p, nil
}

type superblock struct {
	generation uint64
	root       uint64 // block of the root inode
}

func (s superblock) encode() []byte { return appendVarint(appendVarint(nil, s.generation), s.root) }

func (s superblock) checksum() [32]byte { return crypto.Blake3(s.encode()) }

func decodeSuperblock(b []byte) (superblock, error) {
	d := decoder{in: b}
	s := superblock{d.u64(), d.u64()}
	if d.err != nil {
		return superblock{}, corrupt(Deserialization, "superblock", d.err)
	}
	return s, nil
}

type inode struct {
	id       uint64
	dir      bool
	size     uint64
	page     uint64 // directory page; null for a file
	extents  uint64 // extent map; null for a directory
	created  uint64 // seconds since 1970
	modified uint64
}

func appendKind(b []byte, dir bool) []byte {
	if dir {
		return append(b, 1)
	}
	return append(b, 0)
}

func (i *inode) encode() []byte {
	b := appendKind(appendVarint(nil, i.id), i.dir)
	for _, v := range []uint64{i.size, i.page, i.extents, i.created, i.modified} {
		b = appendVarint(b, v)
	}
	return b
}

func decodeInode(b []byte) (i inode, err error) {
	d := decoder{in: b}
	i.id, i.dir = d.u64(), d.variant(2) == 1
	for _, v := range []*uint64{&i.size, &i.page, &i.extents, &i.created, &i.modified} {
		*v = d.u64()
	}
	if d.err != nil {
		return inode{}, corrupt(Deserialization, "inode", d.err)
	}
	return i, nil
}

// entry is one name of a directory page.
type entry struct {
	name  string
	block uint64 // of the inode
	id    uint64
	dir   bool
}

// encodedLen counts all but the block.
func (e *entry) encodedLen() int {
	return varintLen(uint64(len(e.name))) + len(e.name) + varintLen(e.id) + 1
}

func encodePage(entries []entry) []byte {
	b := appendVarint(nil, uint64(len(entries)))
	for i := range entries {
		e := &entries[i]
		b = appendString(b, e.name)
		b = appendVarint(b, e.block)
		b = appendVarint(b, e.id)
		b = appendKind(b, e.dir)
	}
	return b
}

func decodePage(b []byte) ([]entry, error) {
	d := decoder{in: b}
	entries := make([]entry, d.count(4))
	for i := range entries {
		e := &entries[i]
		e.name, e.block, e.id, e.dir = d.string(), d.u64(), d.u64(), d.variant(2) == 1
	}
	if d.err != nil {
		return nil, corrupt(Deserialization, "directory page", d.err)
	}
	return entries, nil
}

// extent is the place of one chunk of a file.
type extent struct {
	index uint64 // of the chunk
	block uint64
	bytes uint32 // of plaintext
}

func (e *extent) encodedLen() int {
	return varintLen(e.index) + varintLen(e.block) + varintLen(uint64(e.bytes))
}

func encodeExtents(list []extent) []byte {
	b := appendVarint(nil, uint64(len(list)))
	for i := range list {
		e := &list[i]
		b = appendVarint(b, e.index)
		b = appendVarint(b, e.block)
		b = appendVarint(b, uint64(e.bytes))
	}
	return b
}

func decodeExtents(b []byte) ([]extent, error) {
	d := decoder{in: b}
	list := make([]extent, d.count(3))
	for i := range list {
		list[i] = extent{d.u64(), d.u64(), d.u32()}
		if d.err == nil && i > 0 && list[i].index <= list[i-1].index {
			d.fail(errDisorder)
		}
	}
	if d.err != nil {
		return nil, corrupt(Deserialization, "extent map", d.err)
	}
	return list, nil
}

// envelope is the content of an object's frame.
type envelope struct {
	kind   kind
	nonce  []byte
	sealed []byte // ciphertext and tag
}

func decodeEnvelope(b []byte) (e envelope, err error) {
	d := decoder{in: b}
	e.kind = kind(d.variant(uint32(kindCount)))
	version := d.u32()
	e.nonce, e.sealed = d.array(crypto.DoublecryptNonceBytes), d.bytes()
	if d.err == nil && version != objectVersion {
		d.fail(fmt.Errorf("object version %d", version))
	}
	if d.err != nil {
		return envelope{}, corrupt(Deserialization, "object", d.err)
	}
	return e, nil
}

// maxPlain returns the maximum plaintext of an object in a block. The reference implementation
// ignores the frame here, and panics at the last four bytes.
func maxPlain(blockSize int) int {
	n := blockSize - frameBytes - 2 - crypto.DoublecryptNonceBytes - crypto.DoublecryptTagBytes
	return n - varintLen(uint64(max(n, 0)+crypto.DoublecryptTagBytes))
}

// sealObject writes the object's frame and envelope to block, and returns the end of them. The
// caller pads the rest of the block. plain is extended with zeros to n bytes.
func sealObject(block []byte, key *crypto.DoublecryptKey, k kind, nonce, plain []byte, n int) (end int, err error) {
	if n > maxPlain(len(block)) {
		return 0, &Error{Variant: DataTooLarge, Value: uint64(n), err: vfs.ErrNoSpace}
	}
	head := append(block[:frameBytes], byte(k), objectVersion)
	head = append(head, nonce...)
	head = appendVarint(head, uint64(n+crypto.DoublecryptTagBytes))
	text := head[len(head) : len(head)+n]
	clear(text[copy(text, plain):])
	sealed, err := key.Seal(head[len(head):], nonce, text)
	if err != nil {
		return 0, &Error{Variant: Encryption, err: err}
	}
	end = len(head) + len(sealed)
	binary.LittleEndian.PutUint32(block, uint32(end-frameBytes))
	return end, nil
}

// openObject returns the plaintext of the object in a block, which it overwrites.
func openObject(block []byte, id uint64, key *crypto.DoublecryptKey, want kind) ([]byte, error) {
	p := payload(block)
	if p == nil {
		return nil, &Error{Variant: ObjectNotFound, Value: id, err: vfs.ErrCorrupt}
	}
	e, err := decodeEnvelope(p)
	if err != nil {
		return nil, err
	}
	if e.kind != want {
		return nil, corrupt(Deserialization, want.String(), fmt.Errorf("block %d holds another kind of object: %v", id, e.kind))
	}
	plain, err := key.Open(e.sealed[:0], e.nonce, e.sealed)
	if err != nil {
		return nil, &Error{Variant: Decryption, Value: id, err: vfs.ErrCorrupt}
	}
	return plain, nil
}
