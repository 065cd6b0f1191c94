package chunkstore

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Wrapper is a store that passes requests on to another one.
type Wrapper interface {
	// Unwrap returns the other store.
	Unwrap() Store
}

// IsEventual reports whether a listing of the store may lag behind what was stored. This is so for
// directories on network file systems. S3 shows at once what was stored; servers that do not cannot
// be recognised.
func IsEventual(s Store) (bool, error) {
	if d := dirOf(s); d != nil {
		return d.isRemote()
	}
	return false, nil
}

// IsLocal reports whether a store is a directory on a file system of this machine, which answers at
// once.
func IsLocal(s Store) bool {
	d := dirOf(s)
	if d == nil {
		return false
	}
	remote, err := d.isRemote()
	return err == nil && !remote
}

// dirOf returns the directory that a store passes requests on to, or nil.
func dirOf(s Store) *Dir {
	for {
		switch t := s.(type) {
		case *Dir:
			return t
		case Wrapper:
			s = t.Unwrap()
		default:
			return nil
		}
	}
}

// localTypes are the types of file systems (statfs(2)) that one kernel alone changes. All others,
// FUSE among them, may be on other machines as well.
var localTypes = map[int64]bool{
	unix.EXT4_SUPER_MAGIC: true, unix.XFS_SUPER_MAGIC: true, unix.BTRFS_SUPER_MAGIC: true, unix.TMPFS_MAGIC: true, unix.OVERLAYFS_SUPER_MAGIC: true,
	unix.F2FS_SUPER_MAGIC: true, unix.RAMFS_MAGIC: true, zfsMagic: true, bcachefsMagic: true, unix.MSDOS_SUPER_MAGIC: true, unix.EXFAT_SUPER_MAGIC: true,
}

const (
	zfsMagic      = 0x2fc12fc1
	bcachefsMagic = 0xca451a4e
)

func (d *Dir) isRemote() (bool, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return false, err
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return false, fmt.Errorf("type of the store's file system: %w", err)
	}
	return !localTypes[int64(st.Type)], nil //nolint:unconvert // its type depends on the architecture
}
