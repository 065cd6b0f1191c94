package items

import "github.com/sealvol/sealvol/pkg/volume/internal/layout"

// InodeKey is the key of an inode.
func InodeKey(ino uint64) layout.Key { return layout.Key{Obj: ino, Type: layout.KeyInode} }

// InlineKey is the key of inline content: of a small file, or the target of a symlink.
func InlineKey(ino uint64) layout.Key { return layout.Key{Obj: ino, Type: layout.KeyInline} }

// ExtentKey is the key of an extent of a file, by its first block.
func ExtentKey(ino, block uint64) layout.Key {
	return layout.Key{Obj: ino, Type: layout.KeyExtent, Sub: block}
}

// NameKey is the key of a name in a directory. sub is the hash of the name, and its number among
// names with that hash.
func NameKey(dir, sub uint64) layout.Key {
	return layout.Key{Obj: dir, Type: layout.KeyName, Sub: sub}
}

// XattrKey is the key of a piece of an attribute.
func XattrKey(ino, sub uint64) layout.Key {
	return layout.Key{Obj: ino, Type: layout.KeyXattr, Sub: sub}
}

// ReservedKey is the key of a reserved range of a file, by its first block.
func ReservedKey(ino, block uint64) layout.Key {
	return layout.Key{Obj: ino, Type: layout.KeyReserved, Sub: block}
}

// OrphanKey is the key that lists an inode as to be freed or truncated.
func OrphanKey(ino uint64) layout.Key { return layout.Key{Type: layout.KeyOrphan, Sub: ino} }

// ReserverKey is the key that lists an inode as one with reserved ranges.
func ReserverKey(ino uint64) layout.Key { return layout.Key{Type: layout.KeyReserver, Sub: ino} }

// PositionKey is the key of a piece of the position of a restore.
func PositionKey(piece int) layout.Key {
	return layout.Key{Type: layout.KeyPosition, Sub: uint64(piece)}
}

// ShareKey is the key of a run of the reference-count tree, by its first block.
func ShareKey(block uint64) layout.Key { return layout.Key{Type: layout.KeyShare, Sub: block} }

// SnapshotKey is the key of a snapshot.
func SnapshotKey(id uint32) layout.Key { return layout.Key{Type: layout.KeySnapshot, Sub: uint64(id)} }

// AbandonedKey is the key of the head that a rollback left.
func AbandonedKey(point uint64) layout.Key {
	return layout.Key{Type: layout.KeyAbandoned, Sub: point}
}

// AnchorKey is the key of a confirmed anchor, by its generation.
func AnchorKey(gen uint64) layout.Key { return layout.Key{Type: layout.KeyAnchor, Sub: gen} }

// NextSlotKey is the key of the content of a key slot after a rotation of the data key.
func NextSlotKey(slot int) layout.Key { return layout.Key{Type: layout.KeyNextSlot, Sub: uint64(slot)} }
