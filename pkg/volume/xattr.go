package volume

import (
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// storeXattr sets an attribute, or removes it if value is nil.
func (v *Volume) storeXattr(in *inode, name string, value []byte) error {
	return v.fs.Update(func(w *tree.Writer) error {
		f, err := v.names.hash.FindXattr(w.Scan, in.ino, name)
		if err != nil {
			return err
		}
		if f.Exists {
			pieces := 1 + (max(len(f.Value), 1)-1)/layout.XattrPieceBytes
			for i := range pieces {
				if _, err := w.Delete(items.XattrKey(in.ino, f.Sub+uint64(i))); err != nil {
					return err
				}
			}
		}
		if value != nil {
			if err := putXattr(w, in.ino, f.Sub, name, value); err != nil {
				return err
			}
			v.setXattrFlag(in, name, true)
			return nil
		}
		v.setXattrFlag(in, name, false)
		return nil
	})
}

// putXattr stores an attribute that does not exist, in pieces. sub is that of the first piece.
func putXattr(w *tree.Writer, ino, sub uint64, name string, value []byte) error {
	total := uint32(len(value))
	for i := 0; i == 0 || len(value) > 0; i++ {
		n := min(len(value), layout.XattrPieceBytes)
		x := layout.XattrPiece{Name: name, Total: total, Data: value[:n]}
		if err := w.Put(items.XattrKey(ino, sub+uint64(i)), x.Append(nil, i)); err != nil {
			return err
		}
		value = value[n:]
	}
	return nil
}

func (v *Volume) setXattrFlag(in *inode, name string, on bool) {
	bit := items.XattrFlags(name)
	if on {
		in.attr.Flags |= bit
	} else {
		in.attr.Flags &^= bit &^ layout.InodeXattrs
	}
	v.table.touch(in)
}

func (v *Volume) readXattr(ino uint64, name string) ([]byte, error) {
	f, err := v.names.hash.FindXattr(v.fs.Scan, ino, name)
	if err != nil {
		return nil, txn.Wrap(err)
	}
	if !f.Exists {
		return nil, vfs.ErrNoXattr
	}
	return f.Value, nil
}

// GetXattr implements vfs.FS.
func (v *Volume) GetXattr(ino vfs.Ino, name string) ([]byte, error) {
	in, err := v.table.inode(ino)
	if err != nil {
		return nil, err
	}
	defer v.table.put(in)
	in.mu.RLock()
	defer in.mu.RUnlock()
	if in.attr.Flags&layout.InodeXattrs == 0 {
		return nil, vfs.ErrNoXattr
	}
	return v.readXattr(in.ino, name)
}

// ListXattr implements vfs.FS.
func (v *Volume) ListXattr(ino vfs.Ino) ([]string, error) {
	in, err := v.table.inode(ino)
	if err != nil {
		return nil, err
	}
	defer v.table.put(in)
	in.mu.RLock()
	defer in.mu.RUnlock()
	if in.attr.Flags&layout.InodeXattrs == 0 {
		return nil, nil
	}
	return v.listXattr(in.ino)
}

func (v *Volume) listXattr(ino uint64) (names []string, err error) {
	var derr error
	err = v.fs.Scan(items.XattrKey(ino, 0), items.XattrKey(ino, ^uint64(0)), func(k layout.Key, val []byte) bool {
		if k.Sub&0xff != 0 {
			return true
		}
		x, err := layout.DecodeXattr(val, 0)
		if err != nil {
			derr = err
			return false
		}
		names = append(names, x.Name)
		return true
	})
	if err = errors.Join(err, derr); err != nil {
		return nil, txn.Wrap(fmt.Errorf("inode %d: %w", ino, err))
	}
	return names, nil
}

// SetXattr implements vfs.FS.
func (v *Volume) SetXattr(req *vfs.Req, ino vfs.Ino, name string, value []byte, flags uint32) error {
	switch {
	case name == "" || len(name) > vfs.MaxXattrName:
		return vfs.ErrInvalid
	case len(value) > vfs.MaxXattrBytes:
		return vfs.ErrXattrTooBig
	case flags&^(vfs.XattrCreate|vfs.XattrReplace) != 0:
		return vfs.ErrInvalid
	}
	return v.changeXattr(req, ino, len(value), func(in *inode) (*layout.Op, error) {
		_, err := v.readXattr(in.ino, name)
		exists := err == nil
		if err != nil && !errors.Is(err, vfs.ErrNoXattr) {
			return nil, err
		}
		switch {
		case exists && flags&vfs.XattrCreate != 0:
			return nil, vfs.ErrExist
		case !exists && flags&vfs.XattrReplace != 0:
			return nil, vfs.ErrNoXattr
		}
		op := &layout.Op{Type: layout.OpSetXattr, Name: name, Data: value}
		if name == posixacl.AccessName || name == posixacl.DefaultName {
			return op, v.checkACL(in, op)
		}
		if !exists {
			names, err := v.listXattr(in.ino)
			if err != nil {
				return nil, err
			}
			total := len(name) + 1
			for _, n := range names {
				total += len(n) + 1
			}
			if total > vfs.MaxXattrList {
				return nil, vfs.ErrNoSpace
			}
		}
		return op, nil
	})
}

// aclMode marks an OpSetXattr that also changes the mode: Mode has the permission bits. aclRemove:
// the mode expresses the whole ACL.
const (
	aclMode   = 1
	aclRemove = 2
)

// checkACL completes the operation that sets an ACL. The rules are those of posixacl.
func (v *Volume) checkACL(in *inode, op *layout.Op) error {
	if in.typ == items.ModeLink {
		return vfs.ErrNotSupported
	}
	if op.Name == posixacl.DefaultName && !in.isDir() {
		return vfs.ErrInvalid
	}
	acl, err := posixacl.Parse(op.Data)
	if err != nil {
		return err
	}
	op.Data = acl.Encode()
	if op.Name == posixacl.DefaultName {
		return nil
	}
	perm, equivalent := acl.Mode()
	op.Flags, op.Mode = aclMode, perm
	if equivalent {
		op.Flags |= aclRemove
		op.Data = nil
	}
	return nil
}

// RemoveXattr implements vfs.FS.
func (v *Volume) RemoveXattr(req *vfs.Req, ino vfs.Ino, name string) error {
	if len(name) > vfs.MaxXattrName {
		return vfs.ErrInvalid
	}
	return v.changeXattr(req, ino, 0, func(in *inode) (*layout.Op, error) {
		_, err := v.readXattr(in.ino, name)
		if errors.Is(err, vfs.ErrNoXattr) && (name == posixacl.AccessName || name == posixacl.DefaultName) {
			return nil, nil
		}
		return &layout.Op{Type: layout.OpRemoveXattr, Name: name}, err
	})
}

func (v *Volume) changeXattr(req *vfs.Req, ino vfs.Ino, size int, check func(in *inode) (*layout.Op, error)) error {
	c := reservation{ring: 1024 + size, nodes: opNodes + size/layout.NodeBytes*2}
	return v.operate(c, func(l *locks) error {
		in, err := l.inode(ino)
		if err != nil {
			return err
		}
		l.lock(in)
		if in.dead {
			return fmt.Errorf("inode %d: %w", ino, vfs.ErrStale)
		}
		if err := fixed(in); err != nil {
			return err
		}
		op, err := check(in)
		if err != nil || op == nil {
			return err
		}
		op.Unique, op.Ino, op.Time = req.Unique, in.ino, vfs.Now()
		return v.perform(op)
	})
}

func (v *Volume) applyXattr(in *inode, op *layout.Op) error {
	value := op.Data
	if op.Type == layout.OpRemoveXattr || op.Flags&aclRemove != 0 {
		value = nil
	} else if value == nil {
		value = []byte{}
	}
	if op.Flags&aclMode != 0 {
		in.attr.Mode = in.attr.Mode&^0o777 | op.Mode&0o777
	}
	in.attr.Ctime = op.Time
	v.table.touch(in)
	return v.storeXattr(in, op.Name, value)
}
