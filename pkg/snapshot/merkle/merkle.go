package merkle

import (
	"context"
	"errors"

	"github.com/sealvol/sealvol/pkg/selfenc"
	"github.com/sealvol/sealvol/pkg/volume/logical"
)

// Errors of this package; compare with errors.Is.
var (
	// ErrInvalid is about nodes that do not form a map.
	ErrInvalid = errors.New("invalid map of a snapshot")
	// ErrOrder is about changes that are not sorted by key.
	ErrOrder = errors.New("changes of a map are not sorted")
	// ErrTooLarge is about a value that does not fit into a node.
	ErrTooLarge = errors.New("value is too large for a map")
)

// Nodes seals and stores nodes, and opens them.
type Nodes interface {
	// Put stores a node, a chunk of kind tree. It does not keep plain.
	Put(ctx context.Context, plain []byte) (selfenc.PackedRef, error)
	// Get returns a node, verified by its reference. The caller may keep the bytes.
	Get(ctx context.Context, r *selfenc.PackedRef) ([]byte, error)
}

// Root names a whole map. The zero value is the empty map.
type Root struct {
	Ref     selfenc.PackedRef
	Height  uint8    // 0: the root is a leaf
	Content [32]byte // hash of the content, whatever the places
}

// Empty reports whether the map has no item.
func (r *Root) Empty() bool { return *r == Root{} }

// Config says how maps are read and written.
type Config struct {
	Nodes Nodes
	// Cut is the key of the cutting hash. Maps of one tenant have the same.
	Cut [16]byte
	// Content appends the placeless form of a value to dst: what remains if references have no
	// places. It fails if the value is not a valid one of that key. Values with the same key and
	// the same placeless form are the same content.
	Content func(dst []byte, k logical.Key, value []byte) ([]byte, error)
	// CacheBytes is how much memory a Map spends on nodes that it has read. 0: 8 MiB.
	CacheBytes int
	// Parallel is how many nodes Scan, Walk, Diff and Update read ahead. 0: none.
	Parallel int

	rule rule
}

const defaultCacheBytes = 8 << 20

// Item is a key with its value.
type Item struct {
	Key   logical.Key
	Value []byte
}

// Change is one change of a map.
type Change struct {
	Key   logical.Key
	Value []byte // nil: the key is deleted
	// Inode: all keys of inode Key.Ino are deleted first. Such a change comes before all others of
	// its inode. Its Value may be nil, whatever the rest of the Key is.
	Inode bool
}

// Stats counts what Update did.
type Stats struct {
	Read    int   // nodes read
	Written int   // nodes stored
	Kept    int   // nodes built anew that were equal to old ones, and so not stored
	Bytes   int64 // of stored nodes
}

// InodeRange returns the first and the last possible key of an inode.
func InodeRange(ino uint64) (first, last logical.Key) {
	return logical.Key{Ino: ino}, logical.Key{Ino: ino, Type: 0xff, Sub: ^uint64(0)}
}

// LastKey is the last possible key.
var LastKey = logical.Key{Ino: ^uint64(0), Type: 0xff, Sub: ^uint64(0)}

// after returns the key that follows k. ok is false if k is the last one.
func after(k logical.Key) (next logical.Key, ok bool) {
	if k.Sub++; k.Sub != 0 {
		return k, true
	}
	if k.Type++; k.Type != 0 {
		return k, true
	}
	k.Ino++
	return k, k.Ino != 0
}
