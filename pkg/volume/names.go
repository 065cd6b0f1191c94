package volume

import (
	"errors"
	"fmt"
	"sync"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// namespace owns the names in directories, which are stored in Volume.fs. They change only under
// its lock, which precedes those of inodes (see the package comment).
type namespace struct {
	v *Volume

	mu   sync.Mutex   // see the package comment
	hash items.Hasher // of names
}

// put makes a name of in, and records its place in the inode.
func (ns *namespace) put(w *tree.Writer, dir uint64, name string, in *inode) error {
	k, found, err := ns.hash.FindName(w.Scan, dir, name)
	if err != nil {
		return err
	}
	if found.Ino != 0 {
		return fmt.Errorf("%w: the name already exists in directory %d", layout.ErrCorrupt, dir)
	}
	in.attr.Parent, in.attr.NameSub = dir, k.Sub
	n := layout.Name{Ino: in.ino, Type: in.typ, Name: name}
	return w.Put(k, n.Append(nil))
}

// set makes a name refer to another inode.
func (ns *namespace) set(w *tree.Writer, dir uint64, name string, in *inode) error {
	k, found, err := ns.hash.FindName(w.Scan, dir, name)
	if err != nil {
		return err
	}
	if found.Ino == 0 {
		return fmt.Errorf("%w: the name does not exist in directory %d", layout.ErrCorrupt, dir)
	}
	in.attr.Parent, in.attr.NameSub = dir, k.Sub
	n := layout.Name{Ino: in.ino, Type: in.typ, Name: name}
	return w.Put(k, n.Append(nil))
}

func (ns *namespace) delete(w *tree.Writer, dir uint64, name string) error {
	k, found, err := ns.hash.FindName(w.Scan, dir, name)
	if err != nil {
		return err
	}
	if found.Ino == 0 {
		return fmt.Errorf("%w: the name does not exist in directory %d", layout.ErrCorrupt, dir)
	}
	_, err = w.Delete(k)
	return err
}

// checkName checks whether a name is valid for a new entry.
func checkName(name string) error {
	switch {
	case len(name) > vfs.MaxNameBytes:
		return vfs.ErrNameTooLong
	case name == "" || name == "." || name == "..":
		return vfs.ErrInvalid
	}
	for i := range len(name) {
		if name[i] == '/' || name[i] == 0 {
			return vfs.ErrInvalid
		}
	}
	return nil
}

// checkPlace checks whether a name may be created in a directory.
func (ns *namespace) checkPlace(parent vfs.Ino, name string) error {
	v := ns.v
	p, err := v.table.dir(parent)
	if err != nil {
		return err
	}
	v.table.put(p)
	return checkName(name)
}

// lookup returns the inode number behind a name, 0 if there is none.
func (ns *namespace) lookup(dir uint64, name string) (layout.Name, error) {
	v := ns.v
	_, n, err := ns.hash.FindName(v.fs.Scan, dir, name)
	return n, txn.Wrap(err)
}

// Lookup implements vfs.FS.
func (v *Volume) Lookup(parent vfs.Ino, name string) (vfs.Attr, error) {
	if len(name) > vfs.MaxNameBytes {
		return vfs.Attr{}, vfs.ErrNameTooLong
	}
	p, err := v.table.dir(parent)
	if err != nil {
		return vfs.Attr{}, err
	}
	v.table.put(p)
	for {
		n, err := v.names.lookup(uint64(parent), name)
		if err != nil {
			return vfs.Attr{}, err
		}
		if n.Ino == 0 {
			return vfs.Attr{}, vfs.ErrNotExist
		}
		a, err := v.GetAttr(vfs.Ino(n.Ino))
		if err == nil || !isStale(err) {
			return a, err
		}
		// The inode was unlinked and freed in between: look again, unless the name still exists.
		if again, e := v.names.lookup(uint64(parent), name); e != nil || again.Ino == n.Ino {
			return vfs.Attr{}, txn.Wrap(fmt.Errorf("%w: a name refers to inode %d, which does not exist", layout.ErrCorrupt, n.Ino))
		}
	}
}

// liveDir checks whether names may be created in a directory. The caller holds mu.
func liveDir(p *inode) error {
	if p.dead || p.attr.Nlink == 0 {
		return fmt.Errorf("directory %d: %w", p.ino, vfs.ErrNotExist)
	}
	return nil
}

// Unlink implements vfs.FS.
func (v *Volume) Unlink(req *vfs.Req, parent vfs.Ino, name string) error {
	return v.unlink(req, parent, name, false)
}

// Rmdir implements vfs.FS.
func (v *Volume) Rmdir(req *vfs.Req, parent vfs.Ino, name string) error {
	return v.unlink(req, parent, name, true)
}

func (v *Volume) unlink(req *vfs.Req, parent vfs.Ino, name string, dir bool) error {
	if len(name) > vfs.MaxNameBytes {
		return vfs.ErrNameTooLong
	}
	return v.operate(reservation{ring: 256 + len(name), nodes: opNodes, urgent: true}, func(l *locks) error {
		p, err := l.dir(parent)
		if err != nil {
			return err
		}
		l.names()
		n, err := v.names.lookup(p.ino, name)
		if err != nil {
			return err
		}
		if n.Ino == 0 {
			return vfs.ErrNotExist
		}
		in, err := l.inode(vfs.Ino(n.Ino))
		if err != nil {
			return err
		}
		l.lock(p, in)
		if err := errors.Join(fixed(p), fixed(in)); err != nil {
			return err
		}
		switch {
		case dir && !in.isDir():
			return vfs.ErrNotDir
		case !dir && in.isDir():
			return vfs.ErrIsDir
		case dir && in.attr.Size != 0:
			return vfs.ErrNotEmpty
		}
		return v.perform(&layout.Op{Type: layout.OpUnlink, Unique: req.Unique, Time: vfs.Now(), Ino: in.ino, Parent: p.ino, Name: name})
	})
}

// Parent implements vfs.FS.
func (v *Volume) Parent(dir vfs.Ino) (vfs.Ino, error) {
	if dir == vfs.RootIno {
		return dir, nil
	}
	p, err := v.table.dir(dir)
	if err != nil {
		return 0, err
	}
	defer v.table.put(p)
	p.mu.RLock()
	defer p.mu.RUnlock()
	return vfs.Ino(p.attr.Parent), nil
}

// ReadDir implements vfs.FS.
func (v *Volume) ReadDir(dir vfs.Ino, cookie uint64, plus bool, fn func(d vfs.Dirent, attr *vfs.Attr) bool) error {
	p, err := v.table.dir(dir)
	if err != nil {
		return err
	}
	defer v.table.put(p)
	const batch = 128
	names := make([]vfs.Dirent, 0, batch)
	for cookie < layout.NameHashMask|0xff {
		names = names[:0]
		var derr error
		from := cookie
		if cookie != 0 {
			from++
		}
		from = max(from, layout.NameCollisions) // below the first possible name; a cookie of 0 would start again
		err := v.fs.Scan(items.NameKey(uint64(dir), from), items.NameKey(uint64(dir), 1<<63-1), func(k layout.Key, val []byte) bool {
			n, err := layout.DecodeName(val)
			if err != nil {
				derr = err
				return false
			}
			names = append(names, vfs.Dirent{Name: n.Name, Ino: vfs.Ino(n.Ino), Type: n.Type, Cookie: k.Sub})
			return len(names) < batch
		})
		if err == nil {
			err = derr
		}
		if err != nil {
			return txn.Wrap(fmt.Errorf("directory %d: %w", dir, err))
		}
		for _, d := range names {
			cookie = d.Cookie
			var attr *vfs.Attr
			if plus {
				a, err := v.peekAttr(d.Ino)
				if err != nil && isStale(err) {
					continue // removed meanwhile
				}
				if err != nil {
					return err
				}
				attr = &a
			}
			if !fn(d, attr) {
				return nil
			}
		}
		if len(names) < batch {
			return nil
		}
	}
	return nil
}
