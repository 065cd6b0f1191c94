package volume

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/sealvol/sealvol/pkg/volume/internal/items"
	"github.com/sealvol/sealvol/pkg/volume/internal/layout"
	"github.com/sealvol/sealvol/pkg/volume/internal/posixacl"
	"github.com/sealvol/sealvol/pkg/volume/internal/tree"
	"github.com/sealvol/sealvol/pkg/volume/internal/txn"
	"github.com/sealvol/sealvol/pkg/volume/vfs"
)

// putName makes a name of in, which remembers where it is.
func (v *Volume) putName(w *tree.Writer, dir uint64, name string, in *inode) error {
	k, found, err := v.hash.FindName(w.Scan, dir, name)
	if err != nil {
		return err
	}
	if found.Ino != 0 {
		return fmt.Errorf("%w: the name exists in directory %d", layout.ErrCorrupt, dir)
	}
	in.attr.Parent, in.attr.NameSub = dir, k.Sub
	n := layout.Name{Ino: in.ino, Type: in.typ, Name: name}
	return w.Put(k, n.Append(nil))
}

// setName gives a name to another inode.
func (v *Volume) setName(w *tree.Writer, dir uint64, name string, in *inode) error {
	k, found, err := v.hash.FindName(w.Scan, dir, name)
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

func (v *Volume) deleteName(w *tree.Writer, dir uint64, name string) error {
	k, found, err := v.hash.FindName(w.Scan, dir, name)
	if err != nil {
		return err
	}
	if found.Ino == 0 {
		return fmt.Errorf("%w: the name does not exist in directory %d", layout.ErrCorrupt, dir)
	}
	_, err = w.Delete(k)
	return err
}

// checkName tells whether a name may be made.
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

// checkPlace tells whether a name may be made in a directory.
func (v *Volume) checkPlace(parent vfs.Ino, name string) error {
	p, err := v.dir(parent)
	if err != nil {
		return err
	}
	v.table.put(p)
	return checkName(name)
}

// lookup returns the inode number behind a name, 0 if there is none.
func (v *Volume) lookup(dir uint64, name string) (layout.Name, error) {
	_, n, err := v.hash.FindName(v.fs.Scan, dir, name)
	return n, txn.Wrap(err)
}

// Lookup implements vfs.FS.
func (v *Volume) Lookup(parent vfs.Ino, name string) (vfs.Attr, error) {
	if len(name) > vfs.MaxNameBytes {
		return vfs.Attr{}, vfs.ErrNameTooLong
	}
	p, err := v.dir(parent)
	if err != nil {
		return vfs.Attr{}, err
	}
	v.table.put(p)
	for {
		n, err := v.lookup(uint64(parent), name)
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
		// unlinked and freed in between: look again, unless the name is still there
		if again, e := v.lookup(uint64(parent), name); e != nil || again.Ino == n.Ino {
			return vfs.Attr{}, txn.Wrap(fmt.Errorf("%w: name of inode %d, which does not exist", layout.ErrCorrupt, n.Ino))
		}
	}
}

// lockInodes locks several inodes, nil and repeated ones allowed.
func lockInodes(ins ...*inode) (unlock func()) {
	ins = slices.DeleteFunc(slices.Clone(ins), func(in *inode) bool { return in == nil })
	slices.SortFunc(ins, func(a, b *inode) int { return cmp.Compare(a.ino, b.ino) })
	ins = slices.Compact(ins)
	for _, in := range ins {
		in.mu.Lock()
	}
	return func() {
		for _, in := range ins {
			in.mu.Unlock()
		}
	}
}

// liveDir tells whether names may be made in a directory; mu is held.
func liveDir(p *inode) error {
	if p.dead || p.attr.Nlink == 0 {
		return fmt.Errorf("directory %d: %w", p.ino, vfs.ErrNotExist)
	}
	return nil
}

func (v *Volume) newIno() uint64 {
	v.inoMu.Lock()
	defer v.inoMu.Unlock()
	ino := v.nextIno
	v.nextIno++
	return ino
}

// create makes an inode, with a name unless it is empty. The name was checked.
func (v *Volume) create(req *vfs.Req, parent vfs.Ino, name string, mode, rdev uint32, target string) (vfs.Attr, error) {
	c := cost{ring: 256 + len(name) + len(target) + 2*4096, quads: opQuads}
	if err := v.admit(c); err != nil {
		return vfs.Attr{}, err
	}
	defer v.adm.done(c)
	p, err := v.dir(parent)
	if err != nil {
		return vfs.Attr{}, err
	}
	defer v.table.put(p)
	v.ns.Lock()
	defer v.ns.Unlock()
	defer lockInodes(p)()
	if err := liveDir(p); err != nil {
		return vfs.Attr{}, err
	}
	if name != "" {
		n, err := v.lookup(p.ino, name)
		if err != nil {
			return vfs.Attr{}, err
		}
		if n.Ino != 0 {
			return vfs.Attr{}, vfs.ErrExist
		}
	}
	if err := mayAdd(p); err != nil {
		return vfs.Attr{}, err
	}
	if mode&items.ModeType == items.ModeDir && p.attr.Nlink >= vfs.MaxLinks {
		return vfs.Attr{}, vfs.ErrTooManyLinks
	}
	op := &layout.Op{Type: layout.OpCreate, Unique: req.Unique, Time: vfs.Now(), Parent: p.ino, Name: name, Name2: target,
		UID: req.UID, GID: req.GID, Rdev: rdev}
	if op.Mode, op.Data, op.Data2, err = v.inherit(p, req, mode); err != nil {
		return vfs.Attr{}, err
	}
	if p.attr.Mode&items.ModeSgid != 0 {
		op.GID = p.attr.GID
		if mode&items.ModeType == items.ModeDir {
			op.Mode |= items.ModeSgid
		}
	}
	op.Ino = v.newIno()
	if err := v.perform(op); err != nil {
		return vfs.Attr{}, err
	}
	return v.GetAttr(vfs.Ino(op.Ino))
}

// inherit applies umask or default ACL; it returns the default and the access
// ACL of the new inode.
func (v *Volume) inherit(p *inode, req *vfs.Req, mode uint32) (m uint32, deflt, access []byte, err error) {
	if mode&items.ModeType == items.ModeLink {
		return items.ModeLink | 0o777, nil, nil, nil
	}
	if p.attr.Flags&layout.InodeDefaultACL == 0 {
		return mode &^ (req.Umask & 0o777), nil, nil, nil
	}
	val, err := v.readXattr(p.ino, posixacl.DefaultName)
	if err != nil {
		return 0, nil, nil, err
	}
	acl, err := posixacl.Parse(val)
	if err != nil {
		return 0, nil, nil, txn.Wrap(fmt.Errorf("%w: default ACL of inode %d", layout.ErrCorrupt, p.ino))
	}
	m, a, d := posixacl.Inherit(acl, mode, mode&items.ModeType == items.ModeDir)
	if a != nil {
		access = a.Encode()
	}
	if d != nil {
		deflt = d.Encode()
	}
	return m, deflt, access, nil
}

// Mknod implements vfs.FS.
func (v *Volume) Mknod(req *vfs.Req, parent vfs.Ino, name string, mode, rdev uint32) (vfs.Attr, error) {
	switch mode & items.ModeType {
	case 0:
		mode |= items.ModeReg
	case items.ModeReg, 0o010000, 0o020000, 0o060000, 0o140000:
	default:
		return vfs.Attr{}, vfs.ErrInvalid
	}
	if mode&items.ModeType != 0o020000 && mode&items.ModeType != 0o060000 {
		rdev = 0
	}
	if err := v.checkPlace(parent, name); err != nil {
		return vfs.Attr{}, err
	}
	return v.create(req, parent, name, mode&0o177777, rdev, "")
}

// Mkdir implements vfs.FS.
func (v *Volume) Mkdir(req *vfs.Req, parent vfs.Ino, name string, mode uint32) (vfs.Attr, error) {
	if err := v.checkPlace(parent, name); err != nil {
		return vfs.Attr{}, err
	}
	return v.create(req, parent, name, items.ModeDir|mode&0o7777, 0, "")
}

// Symlink implements vfs.FS.
func (v *Volume) Symlink(req *vfs.Req, parent vfs.Ino, name, target string) (vfs.Attr, error) {
	if err := v.checkPlace(parent, name); err != nil {
		return vfs.Attr{}, err
	}
	switch {
	case target == "":
		return vfs.Attr{}, vfs.ErrNotExist
	case len(target) > vfs.MaxSymlinkBytes:
		return vfs.Attr{}, vfs.ErrNameTooLong
	}
	return v.create(req, parent, name, items.ModeLink|0o777, 0, target)
}

// Tmpfile implements vfs.FS.
func (v *Volume) Tmpfile(req *vfs.Req, parent vfs.Ino, mode uint32) (vfs.Attr, error) {
	return v.create(req, parent, "", items.ModeReg|mode&0o7777, 0, "")
}

// Readlink implements vfs.FS.
func (v *Volume) Readlink(ino vfs.Ino) (string, error) {
	in, err := v.inode(ino)
	if err != nil {
		return "", err
	}
	defer v.table.put(in)
	if in.typ != items.ModeLink {
		return "", fmt.Errorf("inode %d: %w", ino, vfs.ErrInvalid)
	}
	val, ok, err := v.fs.Get(items.InlineKey(uint64(ino)), nil)
	if err == nil && !ok {
		err = fmt.Errorf("%w: symlink without target", layout.ErrCorrupt)
	}
	if err != nil {
		return "", txn.Wrap(fmt.Errorf("inode %d: %w", ino, err))
	}
	return string(val), nil
}

// Link implements vfs.FS.
func (v *Volume) Link(req *vfs.Req, ino, newParent vfs.Ino, newName string) (vfs.Attr, error) {
	c := cost{ring: 256 + len(newName), quads: opQuads}
	if err := v.admit(c); err != nil {
		return vfs.Attr{}, err
	}
	defer v.adm.done(c)
	in, err := v.inode(ino)
	if err != nil {
		return vfs.Attr{}, err
	}
	defer v.table.put(in)
	p, err := v.dir(newParent)
	if err != nil {
		return vfs.Attr{}, err
	}
	defer v.table.put(p)
	if err := checkName(newName); err != nil {
		return vfs.Attr{}, err
	}
	err = func() error {
		v.ns.Lock()
		defer v.ns.Unlock()
		defer lockInodes(in, p)()
		if in.dead {
			return fmt.Errorf("inode %d: %w", ino, vfs.ErrStale)
		}
		if err := liveDir(p); err != nil {
			return err
		}
		n, err := v.lookup(p.ino, newName)
		switch {
		case err != nil:
			return err
		case n.Ino != 0:
			return vfs.ErrExist
		case in.isDir():
			return fmt.Errorf("inode %d: %w", ino, vfs.ErrNotPermitted)
		case in.attr.Nlink >= vfs.MaxLinks:
			return vfs.ErrTooManyLinks
		}
		if err := errors.Join(mayAdd(p), fixed(in)); err != nil {
			return err
		}
		return v.perform(&layout.Op{Type: layout.OpLink, Unique: req.Unique, Time: vfs.Now(), Ino: in.ino, Parent: p.ino, Name: newName})
	}()
	if err != nil {
		return vfs.Attr{}, err
	}
	return v.GetAttr(ino)
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
	c := cost{ring: 256 + len(name), quads: opQuads, urgent: true}
	if err := v.admit(c); err != nil {
		return err
	}
	defer v.adm.done(c)
	p, err := v.dir(parent)
	if err != nil {
		return err
	}
	defer v.table.put(p)
	v.ns.Lock()
	defer v.ns.Unlock()
	n, err := v.lookup(p.ino, name)
	if err != nil {
		return err
	}
	if n.Ino == 0 {
		return vfs.ErrNotExist
	}
	in, err := v.inode(vfs.Ino(n.Ino))
	if err != nil {
		return err
	}
	defer v.table.put(in)
	defer lockInodes(p, in)()
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
}

// Rename implements vfs.FS.
func (v *Volume) Rename(req *vfs.Req, parent vfs.Ino, name string, newParent vfs.Ino, newName string, flags uint32) error {
	const known = vfs.RenameNoreplace | vfs.RenameExchange | vfs.RenameWhiteout
	if flags&^known != 0 || flags&vfs.RenameExchange != 0 && flags != vfs.RenameExchange {
		return vfs.ErrInvalid
	}
	if len(name) > vfs.MaxNameBytes {
		return vfs.ErrNameTooLong
	}
	c := cost{ring: 512 + len(name) + len(newName), quads: 2 * opQuads}
	if err := v.admit(c); err != nil {
		return err
	}
	defer v.adm.done(c)
	p, err := v.dir(parent)
	if err != nil {
		return err
	}
	defer v.table.put(p)
	q, err := v.dir(newParent)
	if err != nil {
		return err
	}
	defer v.table.put(q)
	v.ns.Lock()
	defer v.ns.Unlock()
	src, err := v.lookup(p.ino, name)
	if err != nil {
		return err
	}
	if src.Ino == 0 {
		return vfs.ErrNotExist
	}
	if err := checkName(newName); err != nil {
		return err
	}
	dst, err := v.lookup(q.ino, newName)
	if err != nil {
		return err
	}
	moved, err := v.inode(vfs.Ino(src.Ino))
	if err != nil {
		return err
	}
	defer v.table.put(moved)
	var target *inode
	if dst.Ino != 0 {
		if target, err = v.inode(vfs.Ino(dst.Ino)); err != nil {
			return err
		}
		defer v.table.put(target)
	}
	exchange := flags&vfs.RenameExchange != 0
	if target == nil && exchange {
		return vfs.ErrNotExist
	}
	if target != nil && flags&vfs.RenameNoreplace != 0 {
		return vfs.ErrExist
	}
	// Only names change parents, and we hold ns: what this finds stays true.
	if moved.isDir() && p != q {
		if inside, err := v.isInside(q, moved.ino); err != nil || inside {
			return orInvalid(err)
		}
	}
	if target != nil && target.isDir() && p != q {
		switch inside, err := v.isInside(p, target.ino); {
		case err != nil:
			return err
		case inside && exchange:
			return vfs.ErrInvalid
		case inside:
			return vfs.ErrNotEmpty
		}
	}
	defer lockInodes(p, q, moved, target)()
	if err := liveDir(q); err != nil {
		return err
	}
	switch {
	case target == moved:
		return nil // two names of one file: nothing happens
	case target == nil || exchange:
	case moved.isDir() && !target.isDir():
		return vfs.ErrNotDir
	case !moved.isDir() && target.isDir():
		return vfs.ErrIsDir
	case target.isDir() && target.attr.Size != 0:
		return vfs.ErrNotEmpty
	}
	if err := mayRename(p, q, moved, target); err != nil {
		return err
	}
	if moved.isDir() && p != q && q.attr.Nlink >= vfs.MaxLinks {
		return vfs.ErrTooManyLinks
	}
	op := &layout.Op{Type: layout.OpRename, Unique: req.Unique, Time: vfs.Now(), Ino: moved.ino, Parent: p.ino, Name: name,
		Parent2: q.ino, Name2: newName, Flags: flags, UID: req.UID, GID: req.GID}
	if flags&vfs.RenameWhiteout != 0 {
		op.Ino2 = v.newIno()
	}
	return v.perform(op)
}

func orInvalid(err error) error {
	if err == nil {
		return vfs.ErrInvalid
	}
	return err
}

// isInside tells whether a directory is ino or lies below it. The caller holds ns.
func (v *Volume) isInside(d *inode, ino uint64) (bool, error) {
	at, parent := d.ino, d.attr.Parent
	for depth := 0; ; depth++ {
		if at == ino {
			return true, nil
		}
		if at == uint64(vfs.RootIno) {
			return false, nil
		}
		if parent == at || parent == 0 || depth > 1<<20 {
			return false, txn.Wrap(fmt.Errorf("%w: directory %d has no way to the root", layout.ErrCorrupt, d.ino))
		}
		p, err := v.inode(vfs.Ino(parent))
		if err != nil {
			return false, err
		}
		at, parent = p.ino, p.attr.Parent
		v.table.put(p)
	}
}

// Parent implements vfs.FS.
func (v *Volume) Parent(dir vfs.Ino) (vfs.Ino, error) {
	if dir == vfs.RootIno {
		return dir, nil
	}
	p, err := v.dir(dir)
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
	p, err := v.dir(dir)
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
		from = max(from, layout.NameCollisions) // where no name is; a cookie of 0 would begin anew
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
